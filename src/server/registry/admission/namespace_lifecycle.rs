//! NamespaceLifecycle: nothing is made in a namespace that is not there or is going, and some stay.

use super::view::row;
use super::{ALL, Operation, Request, STEP as PLAIN, Step, Verdict};
use api::status::Refusal;
use serde_json::{Value, json};

pub(super) const STEP: Step = Step {
    name: "NamespaceLifecycle",
    operations: ALL,
    admit: |request, object| admit(request, object),
    ..PLAIN
};

const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

fn admit(request: &Request, object: &Value) -> Verdict {
    if (request.kind.group, request.kind.kind) == ("", "Namespace") {
        let kept = request.operation == Operation::Delete && IMMORTAL.contains(&request.name);
        let why = "this namespace may not be deleted";
        return if kept { Err(Refusal::forbidden(request.kind, request.name, why)) } else { Ok(()) };
    }
    // What may be done in a namespace can be asked before there is one.
    let asks = request.kind.kind == "LocalSubjectAccessReview";
    if request.namespace.is_empty() || request.operation == Operation::Delete || asks {
        return Ok(());
    }
    let namespaces = row("v1", "Namespace");
    let Some(record) = request.view.record(namespaces, "", request.namespace) else {
        return Err(Refusal::not_found(namespaces, request.namespace));
    };
    if !request.creates() || record.index.field("status.phase") != "Terminating" {
        return Ok(());
    }
    let namespace = request.namespace;
    let mut refusal = request.forbidden(
        object,
        format!("unable to create new content in namespace {namespace} because it is being terminated"),
    );
    refusal.details["causes"] = json!([{"reason": "NamespaceTerminating",
        "message": format!("namespace {namespace} is being terminated"), "field": "metadata.namespace"}]);
    Err(refusal)
}
