//! What the controllers of storage ask of claims, volumes and classes.

use api::core::{PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimSpec, PersistentVolumeSpec};
use api::quantity::{self, Amount};
use api::selector::Labels;
use api::slim::Pod;
use api::storage::StorageClass;
use api::{Meta, Object};
use std::cmp::Reverse;
use std::sync::{Arc, LazyLock};

/// The claim has its volume, and both know it.
pub(crate) const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
/// The controller, not a person, chose the other side.
pub(crate) const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
/// Who made the volume.
pub(crate) const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
/// Who is asked to make a volume for the claim.
pub(crate) const PROVISIONER: &str = "volume.kubernetes.io/storage-provisioner";
pub(crate) const PROVISIONER_BETA: &str = "volume.beta.kubernetes.io/storage-provisioner";
/// The node on which the scheduler wants the claim's volume.
pub(crate) const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// A class, as it was named before there was a field.
const CLASS_BETA: &str = "volume.beta.kubernetes.io/storage-class";
const DEFAULT_CLASS: [&str; 2] =
    ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];

pub(crate) fn claim_spec(claim: &PersistentVolumeClaim) -> &PersistentVolumeClaimSpec {
    static NONE: LazyLock<PersistentVolumeClaimSpec> = LazyLock::new(Default::default);
    claim.spec.as_ref().unwrap_or(&NONE)
}

pub(crate) fn volume_spec(volume: &PersistentVolume) -> &PersistentVolumeSpec {
    static NONE: LazyLock<PersistentVolumeSpec> = LazyLock::new(Default::default);
    volume.spec.as_ref().unwrap_or(&NONE)
}

/// `spec.volumeName`, "" before the claim has one.
pub(crate) fn volume_name(claim: &PersistentVolumeClaim) -> &str {
    claim_spec(claim).volume_name.as_deref().unwrap_or_default()
}

pub(crate) fn claim_phase(claim: &PersistentVolumeClaim) -> &str {
    claim.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

pub(crate) fn volume_phase(volume: &PersistentVolume) -> &str {
    volume.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

/// The claim says nothing of a class, not even that it wants none.
pub(crate) fn has_no_class(claim: &PersistentVolumeClaim) -> bool {
    !claim.annotations().contains_key(CLASS_BETA) && claim_spec(claim).storage_class_name.is_none()
}

pub(crate) fn class_of_claim(claim: &PersistentVolumeClaim) -> &str {
    let named = claim.annotations().get(CLASS_BETA).or(claim_spec(claim).storage_class_name.as_ref());
    named.map(String::as_str).unwrap_or_default()
}

pub(crate) fn class_of_volume(volume: &PersistentVolume) -> &str {
    let named = volume.annotations().get(CLASS_BETA).or(volume_spec(volume).storage_class_name.as_ref());
    named.map(String::as_str).unwrap_or_default()
}

/// The class of who names none: the newest that is marked.
pub(crate) fn default_class<'a>(
    classes: impl Iterator<Item = &'a Arc<StorageClass>>,
) -> Option<&'a Arc<StorageClass>> {
    let is_default = |class: &&'a Arc<StorageClass>| {
        DEFAULT_CLASS.iter().any(|mark| class.annotations().get(*mark).is_some_and(|mark| mark == "true"))
    };
    classes.filter(is_default).min_by_key(|class| {
        let created = class.metadata.created().map(|time| time.0);
        (Reverse(created), class.name().to_owned())
    })
}

/// The class' volumes wait for a pod.
pub(crate) fn waits_for_consumer(class: &StorageClass) -> bool {
    class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer")
}

type Resources = std::collections::BTreeMap<String, api::Quantity>;

/// The amount of storage among these.
pub(crate) fn storage(resources: Option<&Resources>) -> Amount {
    let quantity = resources.and_then(|resources| resources.get("storage"));
    quantity.and_then(|quantity| quantity::parse(&quantity.0).ok()).unwrap_or(Amount::units(0))
}

/// How much a claim asks for.
pub(crate) fn requested(claim: &PersistentVolumeClaim) -> Amount {
    storage(claim_spec(claim).resources.as_ref().and_then(|resources| resources.requests.as_ref()))
}

/// The volume refers to the claim, by name at least.
pub(crate) fn is_bound_to(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    volume_spec(volume).claim_ref.as_ref().is_some_and(|reference| {
        reference.name.as_deref() == Some(claim.name())
            && reference.namespace.as_deref() == Some(claim.namespace())
            && reference.uid.as_ref().is_none_or(|uid| uid.is_empty() || uid == claim.uid())
    })
}

/// The names of claims that a pod uses; the pod's own are named after it and the volume.
pub(crate) fn claim_names(pod: &Pod) -> impl Iterator<Item = String> {
    pod.spec.iter().flat_map(|spec| &spec.volumes).map(|volume| match &volume.persistent_volume_claim {
        Some(claim) => claim.claim_name.to_string(),
        None => format!("{}-{}", pod.name(), volume.name),
    })
}

fn modes(modes: &Option<Vec<String>>) -> &[String] {
    modes.as_deref().unwrap_or_default()
}

fn mode(mode: &Option<String>) -> &str {
    mode.as_deref().unwrap_or("Filesystem")
}

pub(crate) fn modes_differ(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> bool {
    mode(&claim_spec(claim).volume_mode) != mode(&volume_spec(volume).volume_mode)
}

fn attributes_differ(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> bool {
    let text = |class: &Option<String>| class.clone().unwrap_or_default();
    text(&claim_spec(claim).volume_attributes_class_name)
        != text(&volume_spec(volume).volume_attributes_class_name)
}

fn accesses_differ(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> bool {
    let has = modes(&volume_spec(volume).access_modes);
    !modes(&claim_spec(claim).access_modes).iter().all(|mode| has.contains(mode))
}

/// Why a volume that a claim names is not for it.
pub(crate) fn mismatch(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> Option<String> {
    let why = if volume.is_deleting() {
        return Some(format!("the volume is marked for deletion {:?}", volume.name()));
    } else if storage(volume_spec(volume).capacity.as_ref()) < requested(claim) {
        "requested PV is too small"
    } else if class_of_volume(volume) != class_of_claim(claim) {
        "storageClassName does not match"
    } else if attributes_differ(claim, volume) {
        "volumeAttributesClassName does not match"
    } else if modes_differ(claim, volume) {
        "incompatible volumeMode"
    } else if accesses_differ(claim, volume) {
        "incompatible accessMode"
    } else {
        return None;
    };
    Some(why.to_owned())
}

/// The volume for a claim that names none: one that refers to it, else of the free ones that fit that with the
/// fewest access modes, and of those the smallest. While the claim waits for a pod, which volume fits is the
/// scheduler's to say.
pub(crate) fn best_match<'a>(
    claim: &PersistentVolumeClaim,
    volumes: &[&'a Arc<PersistentVolume>],
    waits: bool,
) -> Option<&'a Arc<PersistentVolume>> {
    let fits = |volume: &PersistentVolume| {
        !volume.is_deleting()
            && storage(volume_spec(volume).capacity.as_ref()) >= requested(claim)
            && !modes_differ(claim, volume)
            && !attributes_differ(claim, volume)
            && !accesses_differ(claim, volume)
    };
    let named = volumes.iter().find(|volume| is_bound_to(volume, claim) && fits(volume));
    if waits || named.is_some() {
        return named.copied();
    }
    let selector = claim_spec(claim).selector.as_ref();
    let wanted = Labels::of(selector);
    let free = volumes.iter().copied().filter(|volume| {
        volume_spec(volume).claim_ref.is_none()
            && volume_phase(volume) == "Available"
            && class_of_volume(volume) == class_of_claim(claim)
            && (selector.is_none() || wanted.selects(volume.as_ref()))
            && fits(volume)
    });
    free.min_by_key(|volume| {
        let spec = volume_spec(volume);
        (modes(&spec.access_modes).len(), storage(spec.capacity.as_ref()))
    })
}
