//! Nobody gives away rights they do not have. In Kubernetes this is part of the registry of roles.

use super::{Request, STEP as PLAIN, Step, Verdict};
use crate::auth::escalation;
use serde_json::Value;

pub(super) const STEP: Step = Step {
    name: "privilege escalation",
    targets: &[
        "roles.rbac.authorization.k8s.io",
        "rolebindings.rbac.authorization.k8s.io",
        "clusterroles.rbac.authorization.k8s.io",
        "clusterrolebindings.rbac.authorization.k8s.io",
    ],
    admit: |request, object| admit(request, object),
    ..PLAIN
};

fn admit(request: &Request, object: &Value) -> Verdict {
    let same = |field: &str| object[field] == request.old[field];
    if !request.creates() && ["rules", "subjects", "roleRef", "aggregationRule"].into_iter().all(same) {
        return Ok(());
    }
    escalation::check(request.view.authorizer, request.view.records, request.user, request.kind, object)
}
