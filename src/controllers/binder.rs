//! Which volume a claim gets, and what becomes of a volume whose claim went: the decisions.
//!
//! A binding is four writes, each complete in itself, so that a restart goes on where it ended: the volume
//! refers to the claim, the volume is `Bound`, the claim names the volume, the claim is `Bound`. A plan is the
//! next of them, or what to tell when there is none.

use crate::storage::{
    self, BIND_COMPLETED, BOUND_BY_CONTROLLER, PROVISIONED_BY, PROVISIONER, PROVISIONER_BETA, SELECTED_NODE,
    claim_phase, class_of_claim, is_bound_to, volume_name, volume_phase, volume_spec,
};
use api::Object;
use api::core::{
    ObjectReference, PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimStatus,
    PersistentVolumeStatus,
};
use api::quantity;
use api::storage::StorageClass;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A volume that is being resized has its former size here.
const PRE_RESIZE_CAPACITY: &str = "volume.alpha.kubernetes.io/pre-resize-capacity";
/// The volume is a CSI driver's since it was moved out of Kubernetes.
const MIGRATED_TO: &str = "pv.kubernetes.io/migrated-to";

/// One write.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Write {
    Claim(Box<PersistentVolumeClaim>),
    ClaimStatus(Box<PersistentVolumeClaim>),
    Volume(Box<PersistentVolume>),
    VolumeStatus(Box<PersistentVolume>),
}

/// Whom an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum About {
    Claim,
    Volume,
}

/// An event, told once its plan's write, if any, succeeded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) about: About,
    pub(crate) warning: bool,
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

/// What to do next.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Plan {
    pub(crate) write: Option<Write>,
    pub(crate) told: Vec<Told>,
}

impl Plan {
    fn write(write: Write) -> Self {
        Self { write: Some(write), told: Vec::new() }
    }

    fn and(mut self, about: About, warning: bool, reason: &'static str, message: String) -> Self {
        self.told.push(Told { about, warning, reason, message });
        self
    }

    fn warn(self, about: About, reason: &'static str, message: impl Into<String>) -> Self {
        self.and(about, true, reason, message.into())
    }

    fn tell(self, reason: &'static str, message: impl Into<String>) -> Self {
        self.and(About::Claim, false, reason, message.into())
    }
}

/// What a claim's plan is made from.
pub(crate) struct World<'a> {
    pub(crate) volumes: Vec<&'a Arc<PersistentVolume>>,
    pub(crate) classes: Vec<&'a Arc<StorageClass>>,
    /// The pods that use the claim and have no node yet.
    pub(crate) unscheduled: Vec<String>,
}

impl<'a> World<'a> {
    fn volume(&self, name: &str) -> Option<&'a Arc<PersistentVolume>> {
        self.volumes.iter().copied().find(|volume| volume.name() == name)
    }

    fn class(&self, claim: &PersistentVolumeClaim) -> Option<&'a Arc<StorageClass>> {
        let name = class_of_claim(claim);
        self.classes.iter().copied().find(|class| class.name() == name)
    }
}

fn has(object: &impl Object<Meta = api::meta::ObjectMeta>, annotation: &str) -> bool {
    object.annotations().contains_key(annotation)
}

fn annotate(annotations: &mut Option<BTreeMap<String, String>>, key: &str, value: &str) {
    annotations.get_or_insert_default().insert(key.to_owned(), value.to_owned());
}

/// What a claim needs next.
pub(crate) fn plan_claim(claim: &PersistentVolumeClaim, world: &World) -> Plan {
    if has(claim, BIND_COMPLETED) {
        return plan_bound(claim, world);
    }
    match (volume_name(claim), world.volume(volume_name(claim))) {
        ("", _) => plan_unbound(claim, world),
        (_, None) => pending(claim).unwrap_or_default(),
        (_, Some(volume)) => plan_named(claim, volume),
    }
}

/// The claim had a volume.
fn plan_bound(claim: &PersistentVolumeClaim, world: &World) -> Plan {
    if volume_name(claim).is_empty() {
        let why = "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!";
        return lost(claim, "ClaimLost", why);
    }
    let Some(volume) = world.volume(volume_name(claim)) else {
        let why = "Bound claim has lost its PersistentVolume. Data on the volume is lost!";
        return lost(claim, "ClaimLost", why);
    };
    match &volume_spec(volume).claim_ref {
        Some(other) if other.uid.as_deref() != Some(claim.uid()) => {
            let why = "Two claims are bound to the same volume, this one is bound incorrectly";
            lost(claim, "ClaimMisbound", why)
        }
        _ => bind(claim, volume),
    }
}

fn lost(claim: &PersistentVolumeClaim, reason: &'static str, why: &str) -> Plan {
    if claim_phase(claim) == "Lost" {
        return Plan::default();
    }
    let write = claim_status(claim, "Lost", None).map(Write::ClaimStatus);
    Plan { write, ..Plan::default() }.warn(About::Claim, reason, why)
}

/// The claim names the volume that it wants.
fn plan_named(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> Plan {
    let refused = |reason, why: String| {
        pending(claim).unwrap_or_else(|| Plan::default().warn(About::Claim, reason, why))
    };
    if is_bound_to(volume, claim) {
        return bind(claim, volume);
    }
    if volume_spec(volume).claim_ref.is_some() {
        let why = format!("volume {:?} already bound to a different claim.", volume.name());
        return refused("FailedBinding", why);
    }
    match storage::mismatch(claim, volume) {
        Some(why) => {
            refused("VolumeMismatch", format!("Cannot bind to requested volume {:?}: {why}", volume.name()))
        }
        None => bind(claim, volume),
    }
}

/// The claim takes any volume that fits.
fn plan_unbound(claim: &PersistentVolumeClaim, world: &World) -> Plan {
    let class = world.class(claim);
    let waits = class.is_some_and(|class| storage::waits_for_consumer(class));
    if let Some(volume) = storage::best_match(claim, &world.volumes, waits) {
        return bind(claim, volume);
    }
    if storage::has_no_class(claim)
        && let Some(class) = storage::default_class(world.classes.iter().copied())
    {
        let mut classed = claim.clone();
        classed.spec.get_or_insert_default().storage_class_name = Some(class.name().to_owned());
        return Plan::write(Write::Claim(Box::new(classed)));
    }
    if waits && !has(claim, SELECTED_NODE) {
        return pending(claim).unwrap_or_else(|| waiting(&world.unscheduled));
    }
    match (class, class_of_claim(claim)) {
        (_, "") => pending(claim).unwrap_or_else(|| {
            let why = "no persistent volumes available for this claim and no storage class is set";
            Plan::default().tell("FailedBinding", why)
        }),
        (None, name) => {
            let why = format!("storageclass.storage.k8s.io {name:?} not found");
            Plan::default().warn(About::Claim, "ProvisioningFailed", why)
        }
        (Some(class), _) => provision(claim, &class.provisioner),
    }
}

fn waiting(pods: &[String]) -> Plan {
    let plan = Plan::default();
    match pods {
        [] => plan.tell(
            "WaitForFirstConsumer",
            "waiting for first consumer to be created before binding".to_owned(),
        ),
        [pod] => plan.tell("WaitForPodScheduled", format!("waiting for pod {pod} to be scheduled")),
        pods => {
            plan.tell("WaitForPodScheduled", format!("waiting for pods {} to be scheduled", pods.join(",")))
        }
    }
}

/// Asks the provisioner, which waits for the annotation.
fn provision(claim: &PersistentVolumeClaim, provisioner: &str) -> Plan {
    if provisioner.starts_with("kubernetes.io/") {
        let why = format!("no volume plugin matched name: {provisioner}");
        return Plan::default().warn(About::Claim, "ProvisioningFailed", why);
    }
    if claim.annotations().get(PROVISIONER).is_some_and(|asked| asked == provisioner) {
        let why = format!(
            "Waiting for a volume to be created either by the external provisioner '{provisioner}' or manually \
             by the system administrator. If volume creation is delayed, please verify that the provisioner is \
             running and correctly registered."
        );
        return Plan::default().tell("ExternalProvisioning", why);
    }
    let mut asked = claim.clone();
    annotate(&mut asked.metadata.annotations, PROVISIONER_BETA, provisioner);
    annotate(&mut asked.metadata.annotations, PROVISIONER, provisioner);
    Plan::write(Write::Claim(Box::new(asked)))
}

/// The next step towards a binding.
fn bind(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> Plan {
    let write = referring(volume, claim)
        .map(Write::Volume)
        .or_else(|| volume_status(volume, "Bound", "").map(Write::VolumeStatus))
        .or_else(|| naming(claim, volume).map(Write::Claim))
        .or_else(|| claim_status(claim, "Bound", Some(volume)).map(Write::ClaimStatus));
    Plan { write, ..Plan::default() }
}

/// The volume as it refers to the claim, unless it does.
fn referring(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Option<Box<PersistentVolume>> {
    let named = is_bound_to(volume, claim);
    let mut bound = volume.clone();
    if !named
        || volume_spec(volume).claim_ref.as_ref().and_then(|own| own.uid.as_deref()) != Some(claim.uid())
    {
        bound.spec.get_or_insert_default().claim_ref = Some(reference(claim));
    }
    if !named {
        annotate(&mut bound.metadata.annotations, BOUND_BY_CONTROLLER, "yes");
    }
    (bound != *volume).then(|| Box::new(bound))
}

pub(crate) fn reference(claim: &PersistentVolumeClaim) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("PersistentVolumeClaim".to_owned()),
        name: Some(claim.name().to_owned()),
        namespace: Some(claim.namespace().to_owned()),
        uid: Some(claim.uid().to_owned()),
        resource_version: claim.metadata.resource_version.clone(),
        field_path: None,
    }
}

/// The claim as it names the volume, unless it does.
fn naming(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> Option<Box<PersistentVolumeClaim>> {
    let mut bound = claim.clone();
    if volume_name(claim) != volume.name() {
        bound.spec.get_or_insert_default().volume_name = Some(volume.name().to_owned());
        annotate(&mut bound.metadata.annotations, BOUND_BY_CONTROLLER, "yes");
    }
    if !has(claim, BIND_COMPLETED) {
        annotate(&mut bound.metadata.annotations, BIND_COMPLETED, "yes");
    }
    (bound != *claim).then(|| Box::new(bound))
}

fn pending(claim: &PersistentVolumeClaim) -> Option<Plan> {
    claim_status(claim, "Pending", None).map(|claim| Plan::write(Write::ClaimStatus(claim)))
}

/// The claim in a phase, with what it has of a volume, unless it is like that.
fn claim_status(
    claim: &PersistentVolumeClaim,
    phase: &str,
    volume: Option<&PersistentVolume>,
) -> Option<Box<PersistentVolumeClaim>> {
    let before = claim_phase(claim);
    let mut status = claim.status.clone().unwrap_or_default();
    status.phase = Some(phase.to_owned());
    match volume {
        None => {
            status.access_modes = None;
            status.capacity = None;
            status.current_volume_attributes_class_name = None;
        }
        Some(volume) => {
            let spec = volume_spec(volume);
            status.access_modes.clone_from(&spec.access_modes);
            // A later size is told by who resizes.
            if before != phase {
                status.capacity = capacity(&status, volume);
            }
            if before == "Pending" {
                status.current_volume_attributes_class_name.clone_from(&spec.volume_attributes_class_name);
            }
        }
    }
    let dirty = claim.status.as_ref() != Some(&status);
    dirty.then(|| Box::new(PersistentVolumeClaim { status: Some(status), ..claim.clone() }))
}

type Capacity = Option<BTreeMap<String, api::Quantity>>;

fn capacity(status: &PersistentVolumeClaimStatus, volume: &PersistentVolume) -> Capacity {
    let whole = &volume_spec(volume).capacity;
    let Some(before) = volume.annotations().get(PRE_RESIZE_CAPACITY) else { return whole.clone() };
    let size = match quantity::parse(before) {
        Ok(_) => api::Quantity(before.clone()),
        Err(_) => whole.as_ref()?.get("storage")?.clone(),
    };
    let mut capacity = status.capacity.clone().unwrap_or_default();
    capacity.insert("storage".to_owned(), size);
    Some(capacity)
}

/// The volume in a phase, unless it is.
fn volume_status(volume: &PersistentVolume, phase: &str, message: &str) -> Option<Box<PersistentVolume>> {
    if volume_phase(volume) == phase {
        return None;
    }
    let status = PersistentVolumeStatus {
        phase: Some(phase.to_owned()),
        message: Some(message.to_owned()).filter(|message| !message.is_empty()),
        ..volume.status.clone().unwrap_or_default()
    };
    Some(Box::new(PersistentVolume { status: Some(status), ..volume.clone() }))
}

fn phase(volume: &PersistentVolume, phase: &str) -> Plan {
    Plan { write: volume_status(volume, phase, "").map(Write::VolumeStatus), ..Plan::default() }
}

/// What a volume needs next; `claim` is the one that it refers to by uid, if that is still there.
pub(crate) fn plan_volume(volume: &PersistentVolume, claim: Option<&PersistentVolumeClaim>) -> Plan {
    let reference = volume_spec(volume).claim_ref.as_ref();
    if reference.and_then(|reference| reference.uid.as_ref()).is_none_or(String::is_empty) {
        return phase(volume, "Available");
    }
    let Some(claim) = claim else { return release(volume) };
    match volume_name(claim) {
        "" if storage::modes_differ(claim, volume) => {
            let because = "due to incompatible volumeMode.";
            let of_volume = format!(
                "Cannot bind PersistentVolume to requested PersistentVolumeClaim {:?} {because}",
                claim.name()
            );
            let of_claim = format!(
                "Cannot bind PersistentVolume {:?} to requested PersistentVolumeClaim {because}",
                volume.name()
            );
            Plan::default().warn(About::Volume, "VolumeMismatch", of_volume).warn(
                About::Claim,
                "VolumeMismatch",
                of_claim,
            )
        }
        // The claim is looked at whenever its volume changes.
        "" => Plan::default(),
        name if name == volume.name() => phase(volume, "Bound"),
        _ if has(volume, PROVISIONED_BY) && policy(volume) == "Delete" => release(volume),
        _ => unbind(volume),
    }
}

fn policy(volume: &PersistentVolume) -> &str {
    volume_spec(volume).persistent_volume_reclaim_policy.as_deref().unwrap_or("Retain")
}

/// The claim has another volume: this one is free again, or waits for the claim that a person meant.
fn unbind(volume: &PersistentVolume) -> Plan {
    let mut free = volume.clone();
    let spec = free.spec.get_or_insert_default();
    if has(volume, BOUND_BY_CONTROLLER) {
        spec.claim_ref = None;
        let annotations = free.metadata.annotations.as_mut();
        annotations.and_then(|annotations| annotations.remove(BOUND_BY_CONTROLLER));
    } else if let Some(reference) = &mut spec.claim_ref {
        reference.uid = None;
    }
    Plan::write(Write::Volume(Box::new(free)))
}

/// The claim is gone. What was provided is removed by who provided it.
fn release(volume: &PersistentVolume) -> Plan {
    if !matches!(volume_phase(volume), "Released" | "Failed") {
        return phase(volume, "Released");
    }
    let failed = |reason, why: &str| match volume_status(volume, "Failed", why) {
        Some(write) => Plan::write(Write::VolumeStatus(write)).warn(About::Volume, reason, why),
        None => Plan::default(),
    };
    match policy(volume) {
        _ if has(volume, MIGRATED_TO) => Plan::default(),
        "Recycle" => failed("VolumeFailedRecycle", "No recycler plugin found for the volume!"),
        "Delete" => match volume.annotations().get(PROVISIONED_BY).map_or("", String::as_str) {
            "" => {
                let name = volume.name();
                let why = "no deletable volume plugin matched";
                let why = format!("error getting deleter volume plugin for volume {name:?}: {why}");
                failed("VolumeFailedDelete", &why)
            }
            within if within.starts_with("kubernetes.io/") => {
                failed("VolumeFailedDelete", &format!("no volume plugin matched name: {within}"))
            }
            _ => Plan::default(),
        },
        _ => Plan::default(),
    }
}
