//! PersistentVolumeClaimResize: a claim grows where its class says that it can.

use super::view::row;
use super::{Request, STEP as PLAIN, Step, UPDATE, Verdict};
use api::quantity::{self, Amount};
use serde_json::Value;

pub(super) const STEP: Step = Step {
    name: "PersistentVolumeClaimResize",
    targets: &["persistentvolumeclaims"],
    operations: UPDATE,
    validate,
    ..PLAIN
};

fn size(claim: &Value) -> Amount {
    let text = claim["spec"]["resources"]["requests"]["storage"].as_str().unwrap_or_default();
    quantity::parse(text).unwrap_or(Amount::units(0))
}

fn class(claim: &Value) -> &str {
    let legacy = claim["metadata"]["annotations"]["volume.beta.kubernetes.io/storage-class"].as_str();
    legacy.or(claim["spec"]["storageClassName"].as_str()).unwrap_or_default()
}

fn validate(request: &Request, claim: &Value) -> Verdict {
    let old = request.old;
    if size(claim) <= size(old) {
        return Ok(());
    }
    if old["status"]["phase"] != "Bound" {
        return Err(request.forbidden(claim, "Only bound persistent volume claims can be expanded"));
    }
    let name = class(claim);
    let grows = !name.is_empty()
        && name == class(old)
        && request
            .view
            .get(row("storage.k8s.io/v1", "StorageClass"), "", name)
            .is_some_and(|class| class["allowVolumeExpansion"] == true);
    if grows {
        return Ok(());
    }
    Err(request.forbidden(claim, "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize"))
}
