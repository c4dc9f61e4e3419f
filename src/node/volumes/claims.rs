//! Volumes that pods claim: from the claim to what is mounted.

use crate::pods::spec;
use crate::{Context, Error};
use api::Object;
use api::core::{PersistentVolume, PersistentVolumeClaim, Pod, Volume};

/// The claim that a pod's volume is of: named by it, or its own, which is named after both.
fn claim_name(pod: &Pod, volume: &Volume) -> Option<String> {
    let named = volume.persistent_volume_claim.as_ref().map(|claim| claim.claim_name.clone());
    named.or_else(|| volume.ephemeral.as_ref().map(|_| format!("{}-{}", pod.name(), volume.name)))
}

/// The persistent volume behind a pod's volume; none if the volume is of another type.
pub(super) async fn resolve(
    context: &Context,
    pod: &Pod,
    volume: &Volume,
) -> Result<Option<PersistentVolume>, Error> {
    let Some(name) = claim_name(pod, volume) else { return Ok(None) };
    let found = bound(context, pod, &name, volume.ephemeral.is_some()).await;
    found.map(Some).map_err(|why| {
        Error::Volume(format!(
            "Unable to attach or mount volumes: unmounted volumes=[{0}], unattached volumes=[], failed to process \
             volumes=[{0}]: error processing PVC {1}/{name}: {why}",
            volume.name,
            pod.namespace()
        ))
    })
}

async fn bound(context: &Context, pod: &Pod, name: &str, own: bool) -> Result<PersistentVolume, String> {
    let claim: PersistentVolumeClaim = context
        .client
        .get(pod.namespace(), name)
        .await
        .map_err(|error| format!("failed to fetch PVC from API server: {error}"))?;
    if own && claim.controller().is_none_or(|owner| owner.uid != pod.uid()) {
        return Err(format!(
            "PVC {}/{name} was not created for pod {}/{} (pod is not owner)",
            pod.namespace(),
            pod.namespace(),
            pod.name()
        ));
    }
    if claim.is_deleting() {
        return Err("PVC is being deleted".to_owned());
    }
    let phase = claim.status.as_ref().and_then(|status| status.phase.as_deref());
    let volume_name = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).unwrap_or_default();
    if phase != Some("Bound") || volume_name.is_empty() {
        return Err("PVC is not bound".to_owned());
    }
    let volume: PersistentVolume = context
        .client
        .get("", volume_name)
        .await
        .map_err(|error| format!("failed to fetch PV {volume_name} from API server: {error}"))?;
    let reference = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
    if reference.and_then(|reference| reference.uid.as_deref()) != Some(claim.uid()) {
        return Err(format!("PV {volume_name} is bound to another claim"));
    }
    Ok(volume)
}

/// The group that everything in the volume is given to, and whether to spare a volume whose top has it.
pub(super) fn group(pod: &Pod) -> Option<(i64, bool)> {
    let context = spec::spec(pod).security_context.as_ref()?;
    Some((context.fs_group?, context.fs_group_change_policy.as_deref() == Some("OnRootMismatch")))
}
