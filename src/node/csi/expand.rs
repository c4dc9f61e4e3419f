//! Growing: where a volume has become larger than its claim says, the driver makes the file system or the
//! device on this node larger, also while it is in use, and the claim says so (KEP-1790).

use super::call::{Failure, in_turn};
use super::driver::Driver;
use super::request::Usage;
use super::stage::secrets;
use crate::protocols::csi::v1::{self as csi, node_service_capability::rpc::Type};
use crate::turns::Turn;
use crate::volumes::{Claimed, Trouble};
use crate::{Context, Error, amount};
use api::core::{CSIPersistentVolumeSource, PersistentVolumeClaim, Pod};
use api::{Object, Quantity};
use base::clock;
use client::Patch;
use serde_json::{Value, json};
use std::path::Path;

const PENDING: &str = "NodeResizePending";
const IN_PROGRESS: &str = "NodeResizeInProgress";
const INFEASIBLE: &str = "NodeResizeInfeasible";
/// Conditions that are about growing.
const RESIZING: [&str; 4] =
    ["FileSystemResizePending", "Resizing", "ControllerResizeError", "NodeResizeError"];

/// A volume that may have grown.
pub(super) struct Grown<'a> {
    pub(super) pod: &'a Pod,
    pub(super) claimed: &'a Claimed,
    pub(super) source: &'a CSIPersistentVolumeSource,
    pub(super) driver: &'a Driver,
    pub(super) usage: &'a Usage,
    pub(super) turn: &'a Turn,
}

/// What the claim says of its size.
fn stage(claim: &PersistentVolumeClaim) -> Option<&str> {
    let status = claim.status.as_ref()?;
    status.allocated_resource_statuses.as_ref()?.get("storage").map(String::as_str)
}

/// Whether this node is to make a volume larger, and the claim's status is to follow.
fn is_wanted(claim: &PersistentVolumeClaim, size: Option<&Quantity>) -> bool {
    let capacity = claim.status.as_ref().and_then(|status| status.capacity.as_ref());
    let has = capacity.and_then(|capacity| capacity.get("storage")).map_or(0, amount::whole);
    let pending = |kind: &str| {
        let conditions = claim.status.as_ref().and_then(|status| status.conditions.as_ref());
        conditions.into_iter().flatten().any(|own| own.type_ == kind && own.status == "True")
    };
    let is_asked = match stage(claim) {
        Some(PENDING | IN_PROGRESS) => true,
        Some(_) => false,
        // What resizers say that do not know the stages.
        None => pending("FileSystemResizePending"),
    };
    is_asked && size.is_some_and(|size| amount::whole(size) > has || stage(claim).is_some())
}

/// The conditions of a claim without those about growing, and with a new one.
fn conditions(claim: &PersistentVolumeClaim, new: Option<Value>, keep: bool) -> Vec<Value> {
    let old = claim.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    let is_kept = |kind: &str| {
        let replaced = new.as_ref().is_some_and(|new| new["type"] == kind);
        !replaced && (keep || !RESIZING.contains(&kind))
    };
    let kept = old.iter().filter(|own| is_kept(&own.type_)).map(|own| json!(own));
    kept.chain(new.clone()).collect()
}

/// The status of a claim that has grown. What becomes empty is left out.
fn finished(claim: &PersistentVolumeClaim, size: &Quantity) -> Value {
    let stages = claim.status.as_ref().and_then(|status| status.allocated_resource_statuses.as_ref());
    let others = stages.is_some_and(|stages| stages.keys().any(|resource| resource != "storage"));
    let conditions = Some(conditions(claim, None, false)).filter(|conditions| !conditions.is_empty());
    json!({"status": {
        "capacity": {"storage": size},
        "allocatedResourceStatuses": if others { json!({"storage": null}) } else { Value::Null },
        "conditions": conditions,
    }})
}

/// Whether less is asked for since it failed before: where it fails again, the claim is for the resizer to recover.
fn is_lowered(claim: &PersistentVolumeClaim, size: &Quantity) -> bool {
    let conditions = claim.status.as_ref().and_then(|status| status.conditions.as_ref());
    let has_failed = conditions.into_iter().flatten().any(|own| own.type_ == "NodeResizeError");
    let asked =
        claim.spec.as_ref().and_then(|spec| spec.resources.as_ref()?.requests.as_ref()?.get("storage"));
    has_failed && asked.is_some_and(|asked| amount::whole(asked) != amount::whole(size))
}

/// The status of a claim that the driver could not make larger, for now or ever.
fn failed(claim: &PersistentVolumeClaim, failure: &Failure, is_infeasible: bool) -> Value {
    let condition = json!({
        "type": "NodeResizeError", "status": "True",
        "message": format!("failed to expand pvc with {failure}"),
        "lastTransitionTime": crate::pods::status_seconds(clock::now()),
    });
    let mut status = json!({"conditions": conditions(claim, Some(condition), true)});
    if is_infeasible {
        status["allocatedResourceStatuses"] = json!({"storage": INFEASIBLE});
    }
    json!({"status": status})
}

async fn patch(
    context: &Context,
    claim: &PersistentVolumeClaim,
    patch: Value,
) -> Result<PersistentVolumeClaim, Error> {
    let patched = context.client.patch_status(claim.namespace(), claim.name(), &Patch::Merge(patch)).await;
    Ok(patched?)
}

/// Has the driver make a volume as large as the cluster says it is. What fails is told and tried again at the
/// next look; a pod that has the volume goes on.
pub(super) async fn grow(
    context: &Context,
    grown: &Grown<'_>,
    (published, staged): (&Path, Option<&Path>),
) -> Result<(), Trouble> {
    let known = &grown.claimed.claim;
    let size = grown.claimed.spec().capacity.as_ref().and_then(|capacity| capacity.get("storage"));
    let Some(size) = size.filter(|size| !grown.claimed.read_only && is_wanted(known, Some(size))) else {
        return Ok(());
    };
    let name = grown.claimed.volume.name();
    let told = |error: Error| {
        Trouble::Failed(
            "VolumeResizeFailed",
            format!("MountVolume.Setup failed while expanding volume for volume {name:?} : {error}"),
        )
    };
    // Another pod of this node may have had it made larger meanwhile.
    let fresh = context.client.get::<PersistentVolumeClaim>(known.namespace(), known.name()).await;
    let fresh = fresh.map_err(|error| told(error.into()))?;
    if fresh.uid() != known.uid() || !is_wanted(&fresh, Some(size)) {
        return Ok(());
    }
    let claim = &fresh;
    let expands = grown.driver.capabilities().await.map_err(|failure| told(failure.into()))?;
    if expands.has(Type::ExpandVolume) {
        let marked = json!({"status": {"allocatedResourceStatuses": {"storage": IN_PROGRESS}}});
        let marked = patch(context, claim, marked).await.map_err(told)?;
        if let Err(failure) = ask(context, grown, size, (published, staged)).await {
            if failure.is_final() {
                let is_infeasible = failure.is_infeasible() || is_lowered(&marked, size);
                patch(context, &marked, failed(&marked, &failure, is_infeasible)).await.map_err(told)?;
            }
            let event = format!("MountVolume.NodeExpandVolume failed with {failure}");
            context.recorder.warning(&marked, "FileSystemResizeFailed", event);
            return if failure.is_precondition() { Ok(()) } else { Err(told(failure.into())) };
        }
    }
    patch(context, claim, finished(claim, size)).await.map_err(told)?;
    let node = &context.config.node_name;
    let message = format!("MountVolume.NodeExpandVolume succeeded for volume {name:?} {node}");
    context.recorder.normal(grown.pod, "FileSystemResizeSuccessful", message.clone());
    context.recorder.normal(claim, "FileSystemResizeSuccessful", message);
    Ok(())
}

async fn ask(
    context: &Context,
    grown: &Grown<'_>,
    size: &Quantity,
    (published, staged): (&Path, Option<&Path>),
) -> Result<(), Failure> {
    let reference = grown.source.node_expand_secret_ref.as_ref();
    let secrets = secrets(context, reference).await;
    let secrets =
        secrets.map_err(|error| Failure::before(format!("fetching NodeExpandSecretRef failed: {error}")))?;
    let request = csi::NodeExpandVolumeRequest {
        volume_id: grown.source.volume_handle.clone(),
        volume_path: published.display().to_string(),
        capacity_range: Some(csi::CapacityRange { required_bytes: amount::whole(size), limit_bytes: 0 }),
        staging_target_path: staged.map(|path| path.display().to_string()).unwrap_or_default(),
        volume_capability: Some(grown.usage.capability(grown.driver.capabilities().await?)),
        secrets,
    };
    let mut client = grown.driver.client();
    let answer = Box::pin(async move { client.node_expand_volume(request).await });
    in_turn(context, grown.turn, answer).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(status: Value) -> PersistentVolumeClaim {
        serde_json::from_value(json!({"metadata": {"name": "c"}, "status": status})).unwrap()
    }

    fn condition(kind: &str) -> Value {
        json!({"type": kind, "status": "True"})
    }

    #[test]
    fn a_claim_is_made_larger_when_it_is_the_nodes_turn() {
        let two = Quantity("2Gi".to_owned());
        let of = |status: Value| is_wanted(&claim(status), Some(&two));
        let one = json!({"storage": "1Gi"});
        let staged = |stage: &str| json!({"capacity": one, "allocatedResourceStatuses": {"storage": stage}});
        assert!(of(staged(PENDING)) && of(staged(IN_PROGRESS)));
        assert!(
            !of(staged(INFEASIBLE))
                && !of(staged("ControllerResizeInProgress"))
                && !of(json!({"capacity": one}))
        );
        assert!(of(json!({"capacity": one, "conditions": [condition("FileSystemResizePending")]})));
        let has =
            json!({"capacity": {"storage": "2Gi"}, "conditions": [condition("FileSystemResizePending")]});
        assert!(!of(has));
    }

    #[test]
    fn what_fails_again_after_less_was_asked_for_is_for_the_resizer() {
        let [two, three] = ["2Gi", "3Gi"].map(|size| Quantity(size.to_owned()));
        let lowered = |condition_type: &str, asked: &Quantity| {
            let mut claim = claim(json!({"conditions": [condition(condition_type)]}));
            let spec = json!({"resources": {"requests": {"storage": asked}}});
            claim.spec = Some(serde_json::from_value(spec).unwrap());
            is_lowered(&claim, &three)
        };
        assert!(lowered("NodeResizeError", &two));
        assert!(!lowered("NodeResizeError", &three) && !lowered("Resizing", &two));
    }

    #[test]
    fn the_claim_says_what_became_of_it() {
        let claim = claim(json!({"capacity": {"storage": "1Gi"},
            "allocatedResourceStatuses": {"storage": IN_PROGRESS},
            "conditions": [condition("FileSystemResizePending"), condition("ModifyingVolume")]}));
        let done = finished(&claim, &Quantity("2Gi".to_owned()));
        assert_eq!(done["status"]["capacity"]["storage"], "2Gi");
        assert_eq!(done["status"]["conditions"].as_array().unwrap().len(), 1);
        assert_eq!(done["status"]["conditions"][0]["type"], "ModifyingVolume");
        let never = Failure::of(tonic::Code::OutOfRange, "too large");
        let told = failed(&claim, &never, true);
        assert_eq!(told["status"]["allocatedResourceStatuses"]["storage"], INFEASIBLE);
        assert_eq!(told["status"]["conditions"][2]["message"], "failed to expand pvc with too large");
    }
}
