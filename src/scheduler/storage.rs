//! Claims and volumes, as the scheduler sees them in the shared caches.

use crate::ask::{Key, Wanted};
use crate::claims::{Candidate, Chosen, Claims, Delayed};
use crate::intern::Texts;
use crate::nodes::NodeSelector;
use api::Object;
use api::core::{
    NodeSelectorRequirement, NodeSelectorTerm, PersistentVolume, PersistentVolumeClaim, TopologySelectorTerm,
};
use api::selector::Labels;
use api::slim::Volume;
use api::storage::{CSIDriver, CSINode, CSIStorageCapacity, StorageClass};
use client::{Cache, Caches};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// The node that a volume is to be made on.
pub(crate) const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";
/// Labels that say where a volume is.
const ZONES: [&str; 4] = [
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
];

/// The caches of storage.
pub(crate) struct Storage {
    pub(crate) claims: Cache<PersistentVolumeClaim>,
    pub(crate) volumes: Cache<PersistentVolume>,
    pub(crate) classes: Cache<StorageClass>,
    pub(crate) nodes: Cache<CSINode>,
    pub(crate) drivers: Cache<CSIDriver>,
    pub(crate) capacities: Cache<CSIStorageCapacity>,
    /// Volumes that were given to pods which are being bound.
    reserved: Mutex<HashMap<String, Key>>,
}

/// Its volume is there and says so.
pub(crate) fn is_bound(claim: &PersistentVolumeClaim) -> bool {
    let named =
        claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).is_some_and(|it| !it.is_empty());
    named && annotation(claim, BIND_COMPLETED).is_some()
}

pub(crate) fn annotation<'a>(claim: &'a PersistentVolumeClaim, name: &str) -> Option<&'a str> {
    claim.metadata.annotations.as_ref()?.get(name).map(String::as_str)
}

impl Storage {
    pub(crate) fn new(caches: &Caches) -> Self {
        Self {
            claims: caches.of(),
            volumes: caches.of(),
            classes: caches.of(),
            nodes: caches.of(),
            drivers: caches.of(),
            capacities: caches.of(),
            reserved: Mutex::default(),
        }
    }

    pub(crate) async fn synced(&self) {
        self.claims.synced().await;
        self.volumes.synced().await;
        self.classes.synced().await;
        self.nodes.synced().await;
        self.drivers.synced().await;
        self.capacities.synced().await;
    }

    /// What a pod's claims ask for, or why it cannot have them anywhere.
    pub(crate) fn of(&self, wanted: &Wanted, texts: &mut Texts) -> Result<Claims, String> {
        let mut all = Claims::default();
        let mut unbound = false;
        for volume in &wanted.spec().volumes {
            let claim = self.claim(wanted, volume)?;
            all.attached.extend(self.attachable(&claim));
            let spec = claim.spec.clone().unwrap_or_default();
            if spec.access_modes.iter().flatten().any(|mode| mode == "ReadWriteOncePod") {
                all.exclusive.push(texts.of(&format!("{}/{}", claim.namespace(), claim.name())));
            }
            let class = spec.storage_class_name.as_deref().and_then(|name| self.classes.get("", name));
            let is_delayed =
                |class: &StorageClass| class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer");
            match class.filter(|class| is_delayed(class)) {
                _ if is_bound(&claim) => self.bound(&claim, &mut all, texts),
                Some(class) if spec.volume_name.as_deref().unwrap_or_default().is_empty() => {
                    all.delayed.push(self.delayed(wanted, &claim, &class, texts));
                }
                _ => unbound = true,
            }
        }
        all.delayed.sort_by_key(|delayed| self.requested(wanted, &delayed.claim));
        if unbound { Err("pod has unbound immediate PersistentVolumeClaims".to_owned()) } else { Ok(all) }
    }

    fn claim(&self, wanted: &Wanted, volume: &Volume) -> Result<Arc<PersistentVolumeClaim>, String> {
        let name = crate::ask::claim_name(&wanted.pod, volume);
        let Some(claim) = self.claims.get(wanted.pod.namespace(), &name) else {
            return Err(match volume.ephemeral {
                None => format!("persistentvolumeclaim {name:?} not found"),
                Some(_) => {
                    format!(
                        "waiting for ephemeral volume controller to create the persistentvolumeclaim {name:?}"
                    )
                }
            });
        };
        let phase = claim.status.as_ref().and_then(|status| status.phase.as_deref());
        let volume_name =
            claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).unwrap_or_default();
        let owners = claim.metadata.owner_references.iter().flatten();
        let is_own =
            owners.into_iter().any(|owner| owner.controller == Some(true) && owner.uid == wanted.pod.uid());
        if phase == Some("Lost") {
            return Err(format!(
                "persistentvolumeclaim {name:?} bound to non-existent persistentvolume {volume_name:?}"
            ));
        }
        if claim.is_deleting() {
            return Err(format!("persistentvolumeclaim {name:?} is being deleted"));
        }
        if volume.ephemeral.is_some() && !is_own {
            let (namespace, pod) = wanted.key.parts();
            return Err(format!(
                "PVC {namespace}/{name} was not created for pod {namespace}/{pod} (pod is not owner)"
            ));
        }
        Ok(claim)
    }

    /// Where the volume of a claim is.
    fn bound(&self, claim: &PersistentVolumeClaim, all: &mut Claims, texts: &mut Texts) {
        let name = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).unwrap_or_default();
        let Some(volume) = self.volumes.get("", name) else {
            all.lost = true;
            return;
        };
        all.reachable.extend(affinity(&volume, texts));
        for key in ZONES {
            if let Some(zones) = volume.labels().get(key) {
                all.zones.push((texts.of(key), zones.split("__").map(|zone| texts.of(zone)).collect()));
            }
        }
    }

    fn delayed(
        &self,
        wanted: &Wanted,
        claim: &PersistentVolumeClaim,
        class: &StorageClass,
        texts: &mut Texts,
    ) -> Delayed {
        let reserved = self.reserved.lock().unwrap_or_else(PoisonError::into_inner);
        let free = |volume: &PersistentVolume| {
            reserved.get(volume.name()).is_none_or(|owner| *owner == wanted.key) && fits(volume, claim)
        };
        let snapshot = self.volumes.snapshot();
        let mut volumes: Vec<_> = snapshot.iter().filter(|volume| free(volume)).collect();
        volumes.sort_by_key(|volume| (!is_meant(volume, claim), capacity(volume)));
        let candidate = |volume: &&Arc<PersistentVolume>, texts: &mut Texts| Candidate {
            volume: volume.name().to_owned(),
            nodes: affinity(volume, texts),
        };
        let topologies = class.allowed_topologies.as_deref().unwrap_or_default();
        Delayed {
            claim: claim.name().to_owned(),
            selected: annotation(claim, SELECTED_NODE).map(|node| texts.of(node)),
            candidates: volumes.iter().map(|volume| candidate(volume, texts)).collect(),
            room: self.room(class, request(claim)),
            provision: (class.provisioner != NO_PROVISIONER).then(|| allowed(topologies, texts)),
        }
    }

    /// The nodes that have room for so much, were the class' driver to say which have.
    fn room(&self, class: &StorageClass, bytes_asked: i64) -> Option<Vec<Labels>> {
        let driver = self.drivers.get("", &class.provisioner)?;
        driver.spec.storage_capacity.filter(|tells| *tells)?;
        let snapshot = self.capacities.snapshot();
        let room = snapshot.iter().filter(|capacity| {
            let largest = capacity.maximum_volume_size.as_ref().or(capacity.capacity.as_ref());
            capacity.storage_class_name == class.name() && bytes(largest) >= bytes_asked
        });
        Some(room.map(|capacity| Labels::of(capacity.node_topology.as_ref())).collect())
    }

    fn requested(&self, wanted: &Wanted, claim: &str) -> i64 {
        self.claims.get(wanted.pod.namespace(), claim).map_or(0, |claim| request(&claim))
    }

    /// Keeps the volumes that a pod is to get from others.
    pub(crate) fn reserve(&self, pod: &Key, chosen: &[Chosen]) {
        let mut reserved = self.reserved.lock().unwrap_or_else(PoisonError::into_inner);
        reserved.extend(chosen.iter().filter_map(|one| match one {
            Chosen::Volume { volume, .. } => Some((volume.clone(), pod.clone())),
            Chosen::Provision { .. } => None,
        }));
    }

    /// They are the pod's by now, or never will be.
    pub(crate) fn release(&self, pod: &Key) {
        self.reserved.lock().unwrap_or_else(PoisonError::into_inner).retain(|_, owner| owner != pod);
    }

    /// Driver and handle of a claim's volume (`namespace/name`).
    pub(crate) fn csi_volume(&self, claim: &str) -> Option<(String, String)> {
        let (namespace, name) = claim.split_once('/')?;
        self.attachable(&*self.claims.get(namespace, name)?)
    }

    fn attachable(&self, claim: &PersistentVolumeClaim) -> Option<(String, String)> {
        let spec = claim.spec.as_ref()?;
        let volume = spec.volume_name.as_deref().and_then(|name| self.volumes.get("", name));
        let class = spec.storage_class_name.as_deref().and_then(|name| self.classes.get("", name));
        attachable(claim, volume.as_deref(), class.as_deref())
    }

    /// How many volumes of a driver a node takes.
    pub(crate) fn limit(&self, node: &str, driver: &str) -> Option<usize> {
        let node = self.nodes.get("", node)?;
        let driver = node.spec.drivers.iter().find(|own| own.name == driver)?;
        usize::try_from(driver.allocatable.as_ref()?.count?).ok()
    }
}

fn csi(volume: &PersistentVolume) -> Option<(String, String)> {
    let csi = volume.spec.as_ref()?.csi.as_ref()?;
    Some((csi.driver.clone(), csi.volume_handle.clone()))
}

/// What a node attaches for a claim, also before its volume is there: then its class says who makes that.
fn attachable(
    claim: &PersistentVolumeClaim,
    volume: Option<&PersistentVolume>,
    class: Option<&StorageClass>,
) -> Option<(String, String)> {
    match volume {
        Some(volume) => csi(volume),
        // No volume has such a handle.
        None => Some((class?.provisioner.clone(), format!("\0{}/{}", claim.namespace(), claim.name()))),
    }
}

fn affinity(volume: &PersistentVolume, texts: &mut Texts) -> Option<NodeSelector> {
    let required = volume.spec.as_ref()?.node_affinity.as_ref()?.required.as_ref()?;
    Some(NodeSelector::of(required, texts))
}

/// The nodes of a class' topologies.
fn allowed(topologies: &[TopologySelectorTerm], texts: &mut Texts) -> NodeSelector {
    if topologies.is_empty() {
        return NodeSelector::default();
    }
    let terms = topologies.iter().map(|term| {
        let labels = term.match_label_expressions.iter().flatten().map(|it| NodeSelectorRequirement {
            key: it.key.clone(),
            operator: "In".to_owned(),
            values: Some(it.values.clone()),
        });
        NodeSelectorTerm { match_expressions: Some(labels.collect()), match_fields: None }
    });
    NodeSelector::of(&api::core::NodeSelector { node_selector_terms: terms.collect() }, texts)
}

fn bytes(quantity: Option<&api::Quantity>) -> i64 {
    quantity.and_then(|own| api::quantity::parse(&own.0).ok()).map_or(0, api::quantity::Amount::to_units)
}

fn capacity(volume: &PersistentVolume) -> i64 {
    let capacity = volume.spec.as_ref().and_then(|spec| spec.capacity.as_ref());
    bytes(capacity.and_then(|capacity| capacity.get("storage")))
}

fn request(claim: &PersistentVolumeClaim) -> i64 {
    let resources = claim.spec.as_ref().and_then(|spec| spec.resources.as_ref());
    bytes(resources.and_then(|resources| resources.requests.as_ref()?.get("storage")))
}

/// The volume names this claim as the one it is for.
fn is_meant(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let reference = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
    reference.is_some_and(|reference| {
        reference.namespace.as_deref() == Some(claim.namespace())
            && reference.name.as_deref() == Some(claim.name())
            && reference.uid.as_deref().is_none_or(|uid| uid.is_empty() || uid == claim.uid())
    })
}

/// Whether a volume is free, and what a claim asks for.
fn fits(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let (Some(own), Some(asked)) = (&volume.spec, &claim.spec) else { return false };
    let mode = |mode: &Option<String>| mode.clone().unwrap_or_else(|| "Filesystem".to_owned());
    let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref());
    let modes = own.access_modes.as_deref().unwrap_or_default();
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    !volume.is_deleting()
        && capacity(volume) >= request(claim)
        && (is_meant(volume, claim) || (own.claim_ref.is_none() && phase == Some("Available")))
        && mode(&own.volume_mode) == mode(&asked.volume_mode)
        && text(&own.storage_class_name) == text(&asked.storage_class_name)
        && text(&own.volume_attributes_class_name) == text(&asked.volume_attributes_class_name)
        && asked.access_modes.iter().flatten().all(|mode| modes.contains(mode))
        && asked.selector.as_ref().is_none_or(|selector| Labels::of(Some(selector)).matches(volume.labels()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn volumes_yet_to_be_made_are_attached_too() {
        let claim = serde_json::from_value(json!({"metadata": {"namespace": "ns", "name": "data"}})).unwrap();
        let class = json!({"metadata": {"name": "fast"}, "provisioner": "csi.test"});
        let class: StorageClass = serde_json::from_value(class).unwrap();
        let volume = |spec| -> PersistentVolume {
            serde_json::from_value(json!({"metadata": {}, "spec": spec})).unwrap()
        };
        let there = volume(json!({"csi": {"driver": "csi.test", "volumeHandle": "h"}}));
        let of = |volume: Option<&PersistentVolume>, class| attachable(&claim, volume, class);
        let pair = |handle: &str| Some(("csi.test".to_owned(), handle.to_owned()));
        assert_eq!(of(Some(&there), Some(&class)), pair("h"));
        assert_eq!(of(None, Some(&class)), pair("\0ns/data"));
        assert_eq!(of(Some(&volume(json!({"hostPath": {"path": "/"}}))), Some(&class)), None);
        assert_eq!(of(None, None), None);
    }
}
