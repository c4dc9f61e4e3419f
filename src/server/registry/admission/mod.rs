//! Admission: what is decided about a write beyond its own kind's rules.
//!
//! The chain is a table of steps in the order of Kubernetes' plugins, one file a plugin. All steps that
//! change an object run first, then the server and the kind's own rules complete and check it, then all
//! steps that only judge run. A step is a pure decision: it sees the object, its old form, who writes, and
//! one consistent state of the store.

mod certificates;
mod claim_resize;
mod classes;
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

pub(super) use quota::charge;
pub(super) use view::View;

use crate::auth::User;
use crate::rules::Findings;
use api::kinds::Kind;
use api::status::Refusal;
use api::validate::Error;
use serde_json::Value;
use std::cell::RefCell;

/// What a write does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    Create,
    Update,
    Delete,
}

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
    pub(super) view: &'a View<'a>,
    /// What to warn the writer of.
    pub(super) warnings: RefCell<Vec<String>>,
}

type Verdict = Result<(), Refusal>;

impl Request<'_> {
    /// 403 about the object in Kubernetes' words.
    fn forbidden(&self, object: &Value, why: impl AsRef<str>) -> Refusal {
        let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default();
        let names = [self.name, text("name"), text("generateName"), "Unknown"];
        let name = names.into_iter().find(|name| !name.is_empty()).unwrap_or_default();
        Refusal::forbidden(self.kind, name, why.as_ref())
    }

    fn warn(&self, warning: String) {
        self.warnings.borrow_mut().push(warning);
    }

    /// Takes over warnings; what is left are errors.
    pub(super) fn found(&self, findings: Findings) -> Vec<Error> {
        self.warnings.borrow_mut().extend(findings.warnings);
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

/// Lets all steps change the object.
pub(super) fn admit(request: &Request, object: &mut Value) -> Verdict {
    run(request, |step| (step.admit)(request, object))
}

/// Lets all steps judge the object.
pub(super) fn validate(request: &Request, object: &Value) -> Verdict {
    run(request, |step| (step.validate)(request, object))
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
