//! ResourceQuota: the last word, as it charges what everybody else has let pass.

use super::super::ledger::{Change, Charge, Ledger};
use super::{Operation, Request};
use api::quota::is_terminating;
use api::status::Refusal;
use serde_json::Value;

/// Reserves what a write needs; refuses where there is not so much left.
pub(in crate::registry) fn charge(
    request: &Request,
    object: &Value,
    ledger: &Ledger,
) -> Result<Charge, Refusal> {
    if !is_charged(request, object) {
        return Ok(Charge::default());
    }
    let change = Change { kind: request.kind, old: request.old, new: object };
    let charged = ledger.charge(request.view.records, request.namespace, change);
    charged.map_err(|exceeded| request.forbidden(object, exceeded.to_string()))
}

/// Whether a write can need more than before. Pods change what they need by `resize` alone, and what
/// limits them by getting a deadline.
fn is_charged(request: &Request, object: &Value) -> bool {
    let kind = request.kind;
    let update = request.operation == Operation::Update;
    match (kind.group, kind.plural, request.subresource) {
        ("", "pods", "") => !update || is_terminating(object) != is_terminating(request.old),
        ("", "pods", "resize") => update,
        ("", "services" | "persistentvolumeclaims", "") | ("resource.k8s.io", "resourceclaims", "") => true,
        (_, _, subresource) => subresource.is_empty() && !update,
    }
}
