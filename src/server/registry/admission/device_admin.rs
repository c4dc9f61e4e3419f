//! Who looks after devices that others have does so from namespaces that say so (KEP-5018). Kubernetes has it among
//! its rules of claims; here it is a step, as it looks at the namespace.

use super::view::row;
use super::{Request, STEP as PLAIN, Step, Verdict};
use api::status::Refusal;
use api::validate::{Error, Path};
use serde_json::Value;

const LABEL: &str = "resource.kubernetes.io/admin-access";

pub(super) const STEP: Step = Step {
    name: "DRAAdminAccess",
    targets: &[
        "resourceclaims.resource.k8s.io",
        "resourceclaimtemplates.resource.k8s.io",
        "resourceclaims.resource.k8s.io/status",
    ],
    validate,
    ..PLAIN
};

/// Where an object first asks for such access, or was given it.
fn access(request: &Request, object: &Value) -> Option<Path> {
    let first = |list: &Value, asks: fn(&Value) -> bool| list.as_array()?.iter().position(asks);
    if request.subresource == "status" {
        let at = first(&object["status"]["allocation"]["devices"]["results"], |result| {
            result["adminAccess"] == true
        })?;
        return Some(path(&["status", "allocation", "devices", "results"], at));
    }
    let spec = if request.kind.kind == "ResourceClaim" { &object["spec"] } else { &object["spec"]["spec"] };
    let at = first(&spec["devices"]["requests"], |one| one["exactly"]["adminAccess"] == true)?;
    Some(path(&["spec", "devices", "requests"], at))
}

fn path(names: &[&str], at: usize) -> Path {
    let (first, rest) = names.split_first().unwrap_or((&"", &[]));
    let list = rest.iter().fold(Path::new(first), |path, name| path.child(name));
    list.index(at).child("adminAccess")
}

fn validate(request: &Request, object: &Value) -> Verdict {
    let Some(path) = access(request, object).filter(|_| access(request, request.old).is_none()) else {
        return Ok(());
    };
    let namespace = request.view.record(row("v1", "Namespace"), "", request.namespace);
    if namespace.and_then(|record| record.index.label(LABEL)) == Some("true") {
        return Ok(());
    }
    let why =
        format!("admin access to devices requires the `{LABEL}: true` label on the containing namespace");
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    Err(Refusal::invalid(request.kind, name, &[Error::forbidden(&path, why)]))
}
