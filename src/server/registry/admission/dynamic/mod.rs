//! Admission that users configure: webhooks, compiled from the stored configurations whenever one of them
//! changes.
//!
//! A request that nothing is configured for costs one look at a counter. What is called is called outside of
//! every lock; a webhook that hangs or answers nonsense concerns the requests that it matches alone.

mod conditions;
mod expression;
mod matching;
mod policy;
mod review;
mod sight;
mod variables;
mod webhook;

pub(crate) use expression::{Composer, Purpose, compile, made_by};
pub(crate) use policy::typing::warnings as policy_warnings;
pub(crate) use variables::environment;

use super::{Request, View, items, row, text};
use crate::caller::Caller;
use crate::registry::{Followed, Record, Records, decoded};
use api::status::Refusal;
use arc_swap::{ArcSwap, Guard};
use futures_util::future::join_all;
use matching::Target;
use serde_json::Value;
use sight::{Sight, subject};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use webhook::{Failure, Webhook};

/// Configurations of admission are never admitted by others, lest one locks its own removal out.
const EXEMPT: &str = "admissionregistration.k8s.io";

/// The configured admission as it is now.
pub(in crate::registry) struct Dynamic {
    records: Records,
    compiled: ArcSwap<Compiled>,
}

/// How webhooks are reached, by `clientConfig`: connections outlive changes of configurations.
type Callers = HashMap<String, Result<Arc<Caller>, String>>;

/// All webhooks, in the order in which they are called.
#[derive(Default)]
pub(super) struct Compiled {
    /// The last change that is in it; `None` before anything was compiled.
    revision: Option<u64>,
    mutating: Vec<Webhook>,
    validating: Vec<Webhook>,
    callers: Callers,
    policies: policy::All,
}

impl Dynamic {
    pub(in crate::registry) fn new(records: Records) -> Self {
        Self { records, compiled: ArcSwap::default() }
    }

    fn current(&self) -> Guard<Arc<Compiled>> {
        let compiled = self.compiled.load();
        // Read first: what changes meanwhile makes it stale at once, and not never.
        let revision = self.records.changed(Followed::Admission);
        if compiled.revision == Some(revision) {
            return compiled;
        }
        let fresh = Compiled { revision: Some(revision), ..Compiled::of(&self.records, &compiled) };
        self.compiled.store(Arc::new(fresh));
        self.compiled.load()
    }

    /// Whether anything is configured.
    pub(in crate::registry) fn is_configured(&self) -> bool {
        !self.current().is_empty()
    }

    /// What may have a say in a request; `None` where nothing can.
    pub(super) fn concerning(&self, request: &Request<'_>) -> Option<Arc<Compiled>> {
        let exempt = request.context.admitted || request.kind.group == EXEMPT;
        let compiled = (!exempt).then(|| self.current()).filter(|compiled| !compiled.is_empty());
        compiled.map(Guard::into_inner)
    }
}

impl Compiled {
    fn is_empty(&self) -> bool {
        self.mutating.is_empty() && self.validating.is_empty() && self.policies.is_empty()
    }

    fn of(records: &Records, before: &Self) -> Self {
        let (snapshot, environment, mut callers) = (records.snapshot(), environment(true), Callers::new());
        let mut read = |plural: &str| -> Vec<Webhook> {
            let prefix = format!("{plural}.{EXEMPT}/");
            let stored = snapshot.range(&prefix, None).filter_map(|record| decoded(record).ok());
            let hooks: Vec<Value> = stored.flat_map(|one| items(&one, "webhooks").to_vec()).collect();
            let compiled = hooks.iter().map(|hook| {
                let config = &hook["clientConfig"];
                let key = config.to_string();
                let known = callers.get(&key).or_else(|| before.callers.get(&key)).cloned();
                let caller = known.unwrap_or_else(|| Caller::of(config, records).map(Arc::new));
                callers.insert(key, caller.clone());
                Webhook::of(hook, caller, &environment)
            });
            compiled.collect()
        };
        let mutating = read("mutatingwebhookconfigurations");
        let validating = read("validatingwebhookconfigurations");
        Self {
            revision: None,
            mutating,
            validating,
            callers,
            policies: policy::All::of(records, &before.policies),
        }
    }
}

/// What happened in one request's rounds of what changes objects.
#[derive(Default)]
pub(super) struct Rounds {
    /// The object was changed, so that another round is needed.
    pub(super) changed: bool,
    is_second: bool,
    /// Webhooks by their places.
    webhooks: Calls<usize>,
    /// Policies by their names, with those of their bindings and parameters.
    policies: Calls<String>,
}

/// Who was called.
struct Calls<K> {
    /// Those who want to see what others change later.
    called: HashSet<K>,
    /// Those who have reason to be called again.
    again: HashSet<K>,
    /// What the last of them left.
    last: Value,
}

impl<K> Default for Calls<K> {
    fn default() -> Self {
        Self { called: HashSet::new(), again: HashSet::new(), last: Value::Null }
    }
}

impl<K: Eq + std::hash::Hash> Calls<K> {
    fn call_again(&mut self) {
        self.again.extend(self.called.drain());
    }

    fn end(&mut self, object: &Value) {
        if !self.called.is_empty() {
            self.last = object.clone();
        }
    }

    fn begin_second(&mut self, object: &Value) {
        // What others changed meanwhile is reason enough.
        if !self.called.is_empty() && *object != self.last {
            self.call_again();
        }
    }
}

impl Rounds {
    /// Before the second round, in which those are called alone that have reason to.
    pub(super) fn begin_second(&mut self, object: &Value) {
        self.is_second = true;
        self.webhooks.begin_second(object);
        self.policies.begin_second(object);
    }
}

/// One request's place, for the selectors.
struct Home<'a>(Option<&'a Record>);

impl<'a> Home<'a> {
    fn of(view: &'a View<'_>, namespace: &str) -> Self {
        Self(view.record(row("v1", "Namespace"), "", namespace))
    }
}

impl Compiled {
    /// Asks policies, then calls the mutating webhooks, one after the other.
    pub(super) async fn mutate(
        &self,
        request: &Request<'_>,
        object: &mut Value,
        rounds: &mut Rounds,
    ) -> Result<(), Refusal> {
        self.policies.mutate(request, object, rounds).await?;
        for (place, hook) in self.mutating.iter().enumerate() {
            let Some(sight) = select(hook, request, object).await? else { continue };
            if rounds.is_second && !rounds.webhooks.again.contains(&place) {
                continue;
            }
            let changed = match hook.ask(&sight, true).await {
                Ok(patch) if patch.is_empty() => Ok(false),
                Ok(patch) => sight.patch(object, &hook.name, &patch).await,
                Err(failure) => Err(failure),
            };
            let changed = changed.or_else(|failure| hook.overlook(failure).map(|()| false))?;
            if changed {
                rounds.changed = true;
                rounds.webhooks.call_again();
            }
            if hook.reinvocable {
                rounds.webhooks.called.insert(place);
            }
        }
        rounds.webhooks.end(object);
        Ok(())
    }

    /// Asks policies, then calls the validating webhooks side by side; the first refusal in their order is told.
    pub(super) async fn validate(&self, request: &Request<'_>, object: &Value) -> Result<(), Refusal> {
        self.policies.validate(request, object).await?;
        let mut sights = Vec::new();
        for hook in &self.validating {
            sights.extend(select(hook, request, object).await?.map(|sight| (hook, sight)));
        }
        let calls = sights.iter().map(|(hook, sight)| async move {
            hook.ask(sight, false).await.map(drop).or_else(|failure| hook.overlook(failure))
        });
        join_all(calls).await.into_iter().collect()
    }
}

/// Does work with a request as rules and selectors see it.
fn with_target<T>(request: &Request<'_>, object: &Value, work: impl FnOnce(&Target<'_>) -> T) -> T {
    let (new, old) = (subject(request, object), subject(request, request.old));
    let home = Home::of(request.view, request.home());
    work(&Target {
        kind: request.kind,
        subresource: request.subresource,
        operation: request.operation,
        name: request.name,
        namespace: request.home(),
        object: &new,
        old: &old,
        home: &|key| home.0.and_then(|record| record.index.label(key)),
        versions: &request.view.records.catalogue().versions(request.kind),
    })
}

/// The request as a webhook wants to see it, if it is meant at all.
async fn select<'a>(
    hook: &Webhook,
    request: &'a Request<'a>,
    object: &Value,
) -> Result<Option<Sight<'a>>, Refusal> {
    let form = with_target(request, object, |target| hook.criteria.form(target));
    let Some(form) = form else { return Ok(None) };
    let sight = Sight::of(request, form, object).await?;
    Ok(hook.wants(&sight)?.then_some(sight))
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::Denied(refusal)
    }
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Denied(refusal) => refusal,
            Failure::Call(why) => Self::internal(why),
        }
    }
}
