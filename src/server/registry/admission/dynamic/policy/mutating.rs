//! MutatingAdmissionPolicy: what expressions change about an object.

use super::{All, BUDGET, Body, Invocation};
use crate::registry::admission::Request;
use crate::registry::admission::dynamic::expression::{Composer, Expression, Purpose, Run, made_by};
use crate::registry::admission::dynamic::sight::Sight;
use crate::registry::admission::dynamic::{Rounds, items, text};
use api::apply::{self, Typed};
use api::kinds::by_kind;
use api::patch::{self, json as apply_patch};
use api::status::Refusal;
use serde_json::{Value, json};

/// `mutations`.
pub(super) struct Mutations {
    changes: Vec<Change>,
    /// It wants another look when others change what it saw.
    reinvocable: bool,
}

enum Change {
    /// An object of what is to be merged.
    Configuration(Expression),
    /// A list of steps.
    Patch(Expression),
}

/// A failure for the failure policy to decide; or a refusal.
enum Failure {
    Policy(String),
    Refused(Refusal),
}

impl From<&str> for Failure {
    fn from(why: &str) -> Self {
        Self::Policy(why.to_owned())
    }
}

impl From<String> for Failure {
    fn from(why: String) -> Self {
        Self::Policy(why)
    }
}

impl Body for Mutations {
    const PLURALS: [&str; 2] = ["mutatingadmissionpolicies", "mutatingadmissionpolicybindings"];

    fn of(spec: &Value, composer: &Composer) -> Self {
        let expression = |change: &Value, field: &str| {
            let (source, made) = (text(&change[field], "expression"), made_by(text(change, "patchType")));
            Expression::new(source, composer.compile(Purpose::Changes, source, &[made]))
        };
        let changes = items(spec, "mutations").iter().map(|change| match text(change, "patchType") {
            "JSONPatch" => Change::Patch(expression(change, "jsonPatch")),
            _ => Change::Configuration(expression(change, "applyConfiguration")),
        });
        Self { changes: changes.collect(), reinvocable: text(spec, "reinvocationPolicy") == "IfNeeded" }
    }
}

impl Change {
    fn expression(&self) -> &Expression {
        match self {
            Self::Configuration(expression) | Self::Patch(expression) => expression,
        }
    }

    /// What it makes of the object that is seen.
    fn made<'a>(&'a self, run: &Run<'a>, sight: &Sight<'_>) -> Result<Value, Failure> {
        let expression = self.expression();
        if let Err(why) = &expression.program {
            return Err(why.as_str().into());
        }
        let mut budget = BUDGET;
        let made = run.evaluate(expression, &mut budget)??;
        let made = made.to_json().map_err(|error| error.to_string())?;
        match self {
            Self::Configuration(_) => configured(sight, made),
            Self::Patch(_) => patched(sight, &made),
        }
    }
}

/// The object with a configuration merged into it.
fn configured(sight: &Sight<'_>, mut config: Value) -> Result<Value, Failure> {
    for field in ["apiVersion", "kind"] {
        config[field] = sight.object[field].clone();
    }
    let (version, kind) = (text(&sight.object, "apiVersion"), text(&sight.object, "kind"));
    let mutate = |ty: Option<Typed<'_>>| {
        let ty = ty.ok_or_else(|| {
            let why = format!(
                "Resource kind {version}, Kind={kind} not found. There can be a delay between when CustomResourceDefinitions are created and when they are available."
            );
            Failure::Refused(Refusal::unavailable(why))
        })?;
        apply::mutate(ty, &sight.object, &config)
            .map_err(|why| Failure::Policy(format!("error applying patch: {why}")))
    };
    match sight.custom() {
        Some(custom) => mutate(custom.typed_in(version)),
        // What is posted to a subresource may be of a kind of its own.
        None => mutate(by_kind(version, kind).and_then(apply::of_kind)),
    }
}

/// The object with the steps of a patch done; where a test among them fails it stays as it is.
fn patched(sight: &Sight<'_>, steps: &Value) -> Result<Value, Failure> {
    let mut object = sight.object.clone();
    match apply_patch(&mut object, steps.to_string().as_bytes()) {
        Ok(()) => Ok(object),
        Err(patch::Error::Unfit(why)) if why.contains("testing value") && why.contains("failed") => {
            Ok(sight.object.clone())
        }
        Err(why) => Err(Failure::Policy(format!("JSON Patch: {why}"))),
    }
}

impl All {
    /// Lets policies change an object, one after the other.
    pub(in super::super) async fn mutate(
        &self,
        request: &Request<'_>,
        object: &mut Value,
        rounds: &mut Rounds,
    ) -> Result<(), Refusal> {
        if object.is_null() {
            return Ok(());
        }
        let mut failures = Vec::new();
        for invocation in self.mutating.invocations(request, object) {
            let key = key(&invocation);
            if rounds.is_second && !rounds.policies.again.contains(&key) {
                continue;
            }
            let Some(changed) = change(&invocation, request, object, &mut failures).await? else { continue };
            if changed {
                rounds.changed = true;
                rounds.policies.call_again();
            }
            if invocation.policy.body.reinvocable {
                rounds.policies.called.insert(key);
            }
        }
        rounds.policies.end(object);
        refused(request, object, &failures)
    }
}

/// By what an invocation is known in the second round.
fn key(invocation: &Invocation<'_, Mutations>) -> String {
    let meta = invocation.param.as_ref().map_or(&Value::Null, |param| &param["metadata"]);
    let binding = invocation.binding.map_or("", |binding| &binding.name);
    format!("{}/{binding}/{}/{}", invocation.policy.name, text(meta, "namespace"), text(meta, "name"))
}

/// Lets one policy change the object; says whether it did, `None` where its conditions do not hold.
async fn change(
    invocation: &Invocation<'_, Mutations>,
    request: &Request<'_>,
    object: &mut Value,
    failures: &mut Vec<String>,
) -> Result<Option<bool>, Refusal> {
    let Invocation { policy, binding, form, .. } = invocation;
    let mut failed = |why: String| {
        if !policy.ignores_failures {
            failures.push(match binding {
                Some(binding) => {
                    format!("policy '{}' with binding '{}' denied request: {why}", policy.name, binding.name)
                }
                None => format!("policy {:?} denied request: {why}", policy.name),
            });
        }
    };
    let param = match invocation.param(request).await {
        Ok(param) => param,
        Err(why) => {
            failed(why);
            return Ok(None);
        }
    };
    let mut changed = false;
    for place in 0..policy.body.changes.len() {
        let sight = Sight::of(request, form, object).await?;
        // Conditions are about the object before all changes.
        let meant = place > 0 || {
            match policy.with_run(&sight, &param, |policy, run| policy.conditions.hold(run)) {
                Ok(meant) => meant,
                Err(why) => {
                    failed(why);
                    false
                }
            }
        };
        if !meant {
            return Ok(None);
        }
        let made =
            policy.with_run(&sight, &param, |policy, run| policy.body.changes[place].made(run, &sight));
        match made {
            Ok(made) => changed |= sight.adopt(object, made).await?,
            Err(Failure::Policy(why)) => failed(why),
            Err(Failure::Refused(refusal)) => return Err(refusal),
        }
    }
    Ok(Some(changed))
}

/// The refusal of what could not be changed as policies say.
fn refused(request: &Request<'_>, object: &Value, failures: &[String]) -> Result<(), Refusal> {
    let Some(first) = failures.first() else { return Ok(()) };
    let mut refusal = request.forbidden(object, "admission request denied by policy");
    refusal.message.clone_from(first);
    refusal.reason = "Invalid".into();
    let causes = failures.iter().map(|message| json!({"message": message}));
    refusal.details["causes"] = causes.collect();
    Err(refusal)
}
