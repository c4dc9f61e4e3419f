//! Volumes that pods claim: from the claim to what is mounted.

use super::Trouble;
use crate::Context;
use crate::provisions::Provision;
use api::Object;
use api::core::{Node, PersistentVolume, PersistentVolumeClaim, PersistentVolumeSpec, Pod, Volume};

/// Keeps a claim that is being deleted for as long as a pod uses it.
const PROTECTION: &str = "kubernetes.io/pvc-protection";

/// A claim and what it is bound to.
pub(crate) type Claims = (PersistentVolumeClaim, PersistentVolume);

impl Provision for Claims {}

/// A claim with its volume.
#[derive(Clone, Debug)]
pub(crate) struct Claimed {
    pub(crate) claim: PersistentVolumeClaim,
    pub(crate) volume: PersistentVolume,
    /// The pod only reads.
    pub(crate) read_only: bool,
}

impl Claimed {
    pub(crate) fn spec(&self) -> &PersistentVolumeSpec {
        static NONE: std::sync::LazyLock<PersistentVolumeSpec> = std::sync::LazyLock::new(Default::default);
        self.volume.spec.as_ref().unwrap_or(&NONE)
    }

    /// It is given as a device, not as files.
    pub(crate) fn is_block(&self) -> bool {
        self.spec().volume_mode.as_deref() == Some("Block")
    }
}

/// The claim that a pod's volume is of: named by it, or its own, which is named after both.
pub(crate) fn claim_name(pod: &Pod, volume: &Volume) -> Option<String> {
    let named = volume.persistent_volume_claim.as_ref().map(|claim| claim.claim_name.clone());
    named.or_else(|| volume.ephemeral.as_ref().map(|_| format!("{}-{}", pod.name(), volume.name)))
}

/// The persistent volume behind a pod's volume; none if the volume is of another type.
pub(super) async fn resolve(
    context: &Context,
    pod: &Pod,
    volume: &Volume,
) -> Result<Option<Claimed>, Trouble> {
    let Some(name) = claim_name(pod, volume) else { return Ok(None) };
    let namespace = pod.namespace();
    let wrapped =
        |why: String| Trouble::Unprocessed(format!("error processing PVC {namespace}/{name}: {why}"));
    let bound = bound(context, namespace, &name).await;
    let bound = context.or_kept(pod, (|kept| &mut kept.claims, &name), bound);
    let (claim, found) = bound.map_err(wrapped)?;
    if volume.ephemeral.is_some() && claim.controller().is_none_or(|owner| owner.uid != pod.uid()) {
        return Err(Trouble::Unprocessed(format!(
            "PVC {namespace}/{name} was not created for pod {namespace}/{} (pod is not owner)",
            pod.name()
        )));
    }
    let read_only = volume.persistent_volume_claim.as_ref().and_then(|claim| claim.read_only) == Some(true);
    Ok(Some(Claimed { claim, volume: found, read_only }))
}

async fn bound(context: &Context, namespace: &str, name: &str) -> Result<Claims, String> {
    let claim = bound_claim(context, namespace, name).await?;
    let volume = bound_volume(context, &claim).await?;
    Ok((claim, volume))
}

async fn bound_claim(
    context: &Context,
    namespace: &str,
    name: &str,
) -> Result<PersistentVolumeClaim, String> {
    let claim: PersistentVolumeClaim = context
        .client
        .get(namespace, name)
        .await
        .map_err(|error| format!("failed to fetch PVC from API server: {error}"))?;
    let is_kept = claim.metadata.finalizers.iter().flatten().any(|finalizer| finalizer == PROTECTION);
    let phase = claim.status.as_ref().and_then(|status| status.phase.as_deref());
    if claim.is_deleting() && !is_kept {
        return Err("PVC is being deleted".to_owned());
    }
    if phase != Some("Bound") {
        return Err("PVC is not bound".to_owned());
    }
    Ok(claim)
}

async fn bound_volume(context: &Context, claim: &PersistentVolumeClaim) -> Result<PersistentVolume, String> {
    let name = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).unwrap_or_default();
    if name.is_empty() {
        return Err("PVC has empty pvc.Spec.VolumeName".to_owned());
    }
    let volume: PersistentVolume = context
        .client
        .get("", name)
        .await
        .map_err(|error| format!("failed to fetch PV {name} from API server: {error}"))?;
    let Some(reference) = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref()) else {
        return Err(format!(
            "found PV object {name} but it has a nil pv.Spec.ClaimRef indicating it is not yet bound to the claim"
        ));
    };
    let uid = reference.uid.as_deref().unwrap_or_default();
    if uid != claim.uid() {
        return Err(format!(
            "found PV object {name} but its pv.Spec.ClaimRef.UID {uid} does not point to claim.UID {}",
            claim.uid()
        ));
    }
    Ok(volume)
}

/// Whether a volume can be had on a node.
pub(super) fn is_within_reach(claimed: &Claimed, node: Option<&Node>) -> bool {
    let affinity = claimed.spec().node_affinity.as_ref();
    let Some(required) = affinity.and_then(|affinity| affinity.required.as_ref()) else { return true };
    node.is_some_and(|node| api::terms::any(&required.node_selector_terms, node))
}
