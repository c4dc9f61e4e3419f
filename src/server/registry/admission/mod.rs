//! Admission: what is decided about a write beyond its own kind's rules.
//!
//! The chain is a table of steps in the order of Kubernetes' plugins, one file a plugin. All steps that
//! change an object run first, then the server and the kind's own rules complete and check it, then all
//! steps that only judge run. A step is a pure decision: it sees the object, its old form, who writes, and
//! one consistent state of the store. After the steps of either half comes what users configured (`dynamic`).

mod certificates;
mod claim_resize;
mod classes;
mod device_admin;
mod dynamic;
mod limits;
mod namespace_lifecycle;
mod node_restriction;
mod node_taint;
mod pod_resize;
mod pod_security;
mod priority;
mod protection;
mod quota;
mod rights;
mod runtime_class;
mod service_account;
mod tolerations;
mod topology_labels;
mod view;

pub(super) use dynamic::Dynamic;
pub(crate) use dynamic::{Composer, Purpose, compile, environment, made_by, policy_warnings};
pub(super) use quota::charge;
pub(super) use view::View;
use view::row;

use super::delete::DeleteOptions;
use super::{Context, Place};
use crate::auth::User;
use crate::rules::Findings;
use api::kinds::Kind;
use api::status::Refusal;
use api::validate::Error;
use dynamic::Rounds;
use serde_json::Value;
use std::sync::{Mutex, PoisonError};

/// What a write does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    Create,
    Update,
    Delete,
    /// Opens a stream, or goes through to what is behind.
    Connect,
}

impl Operation {
    /// As rules and reviews name it.
    fn name(self) -> &'static str {
        match self {
            Self::Create => "CREATE",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
            Self::Connect => "CONNECT",
        }
    }
}

/// Completes an object that a webhook has changed, as one that a client sent.
pub(super) type Completion<'a> = dyn Fn(&mut Value) -> Verdict + Sync + 'a;

/// A write as it is judged.
pub(super) struct Request<'a> {
    pub(super) kind: &'static Kind,
    /// "" for the object itself.
    pub(super) subresource: &'a str,
    pub(super) operation: Operation,
    pub(super) namespace: &'a str,
    /// The object's name, "" where one will be made up for it.
    pub(super) name: &'a str,
    /// The stored form; null at creation.
    pub(super) old: &'a Value,
    pub(super) user: &'a User,
    pub(super) context: &'a Context,
    pub(super) view: &'a View<'a>,
    /// `managedFields` of the object and of its stored form, which come without.
    pub(super) managed: [&'a Value; 2],
    /// What a deletion was asked for with.
    pub(super) deletion: Option<&'a DeleteOptions>,
    pub(super) complete: &'a Completion<'a>,
    /// What to warn the writer of.
    pub(super) warnings: Mutex<Vec<String>>,
}

type Verdict = Result<(), Refusal>;

impl<'a> Request<'a> {
    /// A write of an object itself, of which there is no other form before.
    pub(super) fn new(
        Place { kind, namespace, name }: Place<'a>,
        operation: Operation,
        context: &'a Context,
        view: &'a View<'a>,
    ) -> Self {
        Self {
            kind,
            subresource: "",
            operation,
            namespace,
            name,
            old: &Value::Null,
            user: &context.user,
            context,
            view,
            managed: [&Value::Null; 2],
            deletion: None,
            complete: &|_| Ok(()),
            warnings: Mutex::default(),
        }
    }

    /// What its steps warn of.
    pub(super) fn into_warnings(self) -> Vec<String> {
        self.warnings.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
    /// 403 about the object in Kubernetes' words.
    fn forbidden(&self, object: &Value, why: impl AsRef<str>) -> Refusal {
        let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default();
        let names = [self.name, text("name"), text("generateName"), "Unknown"];
        let name = names.into_iter().find(|name| !name.is_empty()).unwrap_or_default();
        Refusal::forbidden(self.kind, name, why.as_ref())
    }

    fn warn(&self, warning: String) {
        self.warnings.lock().unwrap_or_else(PoisonError::into_inner).push(warning);
    }

    /// Takes over warnings; what is left are errors.
    pub(super) fn found(&self, findings: Findings) -> Vec<Error> {
        self.warnings.lock().unwrap_or_else(PoisonError::into_inner).extend(findings.warnings);
        findings.errors
    }

    fn creates(&self) -> bool {
        self.operation == Operation::Create
    }
}

/// One step of the chain.
struct Step {
    /// Kubernetes' name of the plugin.
    name: &'static str,
    /// Resources as `pods`, `pods/resize` or `ingresses.networking.k8s.io`; `*` for all.
    targets: &'static [&'static str],
    operations: &'static [Operation],
    /// Changes the object, or refuses it.
    admit: fn(&Request, &mut Value) -> Verdict,
    /// Refuses the object as it would be stored.
    validate: fn(&Request, &Value) -> Verdict,
}

/// A step that decides nothing yet.
const STEP: Step =
    Step { name: "", targets: &["*"], operations: WRITES, admit: |_, _| Ok(()), validate: |_, _| Ok(()) };

const CREATE: &[Operation] = &[Operation::Create];
const UPDATE: &[Operation] = &[Operation::Update];
const WRITES: &[Operation] = &[Operation::Create, Operation::Update];
const ALL: &[Operation] = &[Operation::Create, Operation::Update, Operation::Delete];

/// The chain. ResourceQuota ([`charge`]) comes after all of it, as it charges what everybody else has let
/// pass, and as what it takes has to be given back should the write fail.
static CHAIN: &[&Step] = &[
    &namespace_lifecycle::STEP,
    &limits::STEP,
    &service_account::STEP,
    &node_restriction::STEP,
    &node_taint::STEP,
    &pod_security::STEP,
    &priority::STEP,
    &tolerations::STEP,
    &classes::STORAGE,
    &protection::STEP,
    &claim_resize::STEP,
    &device_admin::STEP,
    &runtime_class::STEP,
    &certificates::APPROVAL,
    &certificates::SIGNING,
    &certificates::ATTESTING,
    &certificates::SUBJECT,
    &classes::INGRESS,
    &topology_labels::STEP,
    &pod_resize::STEP,
    &rights::STEP,
    &certificates::REQUESTER,
];

impl Step {
    fn concerns(&self, request: &Request) -> bool {
        self.operations.contains(&request.operation)
            && self.targets.iter().any(|target| is_target(target, request.kind, request.subresource))
    }
}

fn is_target(target: &str, kind: &Kind, subresource: &str) -> bool {
    if target == "*" {
        return true;
    }
    let (resource, door) = target.split_once('/').unwrap_or((target, ""));
    let (plural, group) = resource.split_once('.').unwrap_or((resource, ""));
    door == subresource && plural == kind.plural && group == kind.group
}

/// Lets all steps change the object, and then the webhooks. If one of them did, both have another look.
pub(super) async fn admit(request: &Request<'_>, object: &mut Value) -> Verdict {
    run(request, |step| (step.admit)(request, object))?;
    let Some(configured) = request.view.dynamic.concerning(request) else { return Ok(()) };
    let mut rounds = Rounds::default();
    Box::pin(configured.mutate(request, object, &mut rounds)).await?;
    if rounds.changed {
        run(request, |step| (step.admit)(request, object))?;
        rounds.begin_second(object);
        Box::pin(configured.mutate(request, object, &mut rounds)).await?;
    }
    Ok(())
}

/// Lets all steps judge the object, and then the webhooks.
pub(super) async fn validate(request: &Request<'_>, object: &Value) -> Verdict {
    run(request, |step| (step.validate)(request, object))?;
    match request.view.dynamic.concerning(request) {
        Some(configured) => Box::pin(configured.validate(request, object)).await,
        None => Ok(()),
    }
}

fn run(request: &Request, mut decide: impl FnMut(&Step) -> Verdict) -> Verdict {
    for step in CHAIN.iter().filter(|step| step.concerns(request)) {
        decide(step).inspect_err(|refusal| {
            tracing::debug!(step = step.name, refusal = %refusal.message, "admission refused a write");
        })?;
    }
    Ok(())
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_default()
}

fn items<'a>(value: &'a Value, field: &str) -> &'a [Value] {
    value[field].as_array().map_or(&[], Vec::as_slice)
}

fn items_mut<'a>(value: &'a mut Value, field: &str) -> impl Iterator<Item = &'a mut Value> {
    value.get_mut(field).and_then(Value::as_array_mut).into_iter().flatten()
}

/// Appends to a list that may not be there.
fn push(object: &mut Value, field: &str, item: Value) {
    match object[field].as_array_mut() {
        Some(list) => list.push(item),
        None => object[field] = Value::Array(vec![item]),
    }
}
