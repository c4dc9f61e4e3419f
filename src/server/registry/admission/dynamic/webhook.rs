//! One webhook: whom it wants to see, and what is asked of it.

use super::conditions::Conditions;
use super::expression::{Run, compile};
use super::matching::Criteria;
use super::review;
use super::sight::Sight;
use super::variables::Variables;
use crate::caller::Caller;
use crate::registry::admission::text;
use api::status::Refusal;
use cel::{Environment, Type};
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;

/// What a webhook is given where its configuration says nothing (the API's default).
const DEFAULT_TIMEOUT_S: u64 = 10;

/// A webhook of a configuration, compiled.
pub(super) struct Webhook {
    pub(super) name: String,
    pub(super) criteria: Criteria,
    /// It wants to be called again when others change what it saw.
    pub(super) reinvocable: bool,
    conditions: Conditions,
    /// A call that fails counts as allowed.
    ignores_failures: bool,
    /// Calls have no effect beside the request, or none in a dry run.
    harmless: bool,
    /// The version of reviews that it understands; "" for none.
    version: &'static str,
    timeout: Duration,
    caller: Result<Arc<Caller>, String>,
}

/// Why a webhook does not let a request pass.
pub(super) enum Failure {
    /// It refuses the request.
    Denied(Refusal),
    /// It could not be asked, or its answer is none: for its failure policy to decide.
    Call(String),
}

impl Webhook {
    pub(super) fn of(hook: &Value, caller: Result<Arc<Caller>, String>, environment: &Environment) -> Self {
        let versions = hook["admissionReviewVersions"].as_array().into_iter().flatten();
        let known = versions.filter_map(|version| ["v1", "v1beta1"].into_iter().find(|own| version == own));
        Self {
            name: text(hook, "name").to_owned(),
            criteria: Criteria::of_webhook(hook),
            reinvocable: text(hook, "reinvocationPolicy") == "IfNeeded",
            conditions: Conditions::of(&hook["matchConditions"], |source| {
                compile(environment, source, &[Type::Bool])
            }),
            ignores_failures: text(hook, "failurePolicy") == "Ignore",
            harmless: matches!(text(hook, "sideEffects"), "None" | "NoneOnDryRun"),
            version: known.into_iter().next().unwrap_or_default(),
            timeout: Duration::from_secs(hook["timeoutSeconds"].as_u64().unwrap_or(DEFAULT_TIMEOUT_S)),
            caller,
        }
    }

    /// Whether its conditions hold; conditions that fail refuse the request, or are no match.
    pub(super) fn wants(&self, sight: &Sight<'_>) -> Result<bool, Refusal> {
        if self.conditions.is_empty() {
            return Ok(true);
        }
        let variables = Variables::of(sight, &Value::Null);
        match self.conditions.hold(&Run::of(&variables.bindings())) {
            Ok(hold) => Ok(hold),
            Err(_) if self.ignores_failures => Ok(false),
            Err(why) => Err(Refusal::forbidden(sight.request.kind, sight.request.name, &why)),
        }
    }

    /// Asks it about a request; gives the patch that it wants made, which may be empty.
    pub(super) async fn ask(&self, sight: &Sight<'_>, mutates: bool) -> Result<Vec<u8>, Failure> {
        if sight.request.context.dry_run && !self.harmless {
            let why = format!("admission webhook {:?} does not support dry run", self.name);
            return Err(Failure::Denied(Refusal::bad_request(why)));
        }
        let verdict = self.call(sight, mutates).await;
        let verdict =
            verdict.map_err(|why| Failure::Call(format!("failed calling webhook {:?}: {why}", self.name)))?;
        sight.request.context.warnings.extend(verdict.warnings);
        if verdict.allowed {
            Ok(verdict.patch)
        } else {
            Err(Failure::Denied(review::denial(&self.name, &verdict.status)))
        }
    }

    async fn call(&self, sight: &Sight<'_>, mutates: bool) -> Result<review::Verdict, String> {
        if self.version.is_empty() {
            let why = "webhook does not accept known AdmissionReview versions (v1, v1beta1)";
            return Err(format!("could not create admission objects: {why}"));
        }
        let caller = self.caller.as_ref().map_err(|why| format!("could not get REST client: {why}"))?;
        let uid = base::random::uuid();
        let question = review::question(sight, &uid, self.version);
        let answer = caller.post(&question, self.timeout).await;
        let answer = answer.map_err(|why| format!("failed to call webhook: {why}"))?;
        review::verdict(&answer, &uid, (self.version, mutates))
    }

    /// Lets a call that failed pass where the policy says so.
    pub(super) fn overlook(&self, failure: Failure) -> Result<(), Refusal> {
        match failure {
            Failure::Call(why) if self.ignores_failures => {
                tracing::warn!(webhook = self.name, why, "failed calling webhook, failing open");
                Ok(())
            }
            other => Err(other.into()),
        }
    }
}
