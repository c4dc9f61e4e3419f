//! Carries out what `attach.rs` decides, and keeps what nodes are told in `status.volumesAttached`.

use crate::attach::{self, Action, Attached, Place};
use crate::common::{self, Key, Room, unless_gone, watch_self};
use crate::node_taints::{is_out_of_service, is_ready};
use crate::pods::{is_finished, node_name};
use crate::storage::{claim_names, volume_name, volume_spec};
use api::Object;
use api::core::{
    AttachedVolume, CSIPersistentVolumeSource, Node, NodeStatus, PersistentVolume, PersistentVolumeClaim,
};
use api::meta::{DeleteOptions, ObjectMeta};
use api::slim::Pod;
use api::storage::{CSIDriver, VolumeAttachment, VolumeAttachmentSource, VolumeAttachmentSpec};
use base::clock::{self, Instant};
use client::{Cache, Client, Error, Next, Patch, Queue, Recorder};
use serde_json::json;
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

/// The node leaves attaching to the cluster.
const MANAGED: &str = "volumes.kubernetes.io/controller-managed-attach-detach";
/// How much of what was told is remembered; told again is no harm.
const REMEMBERED: usize = 4_096;

#[derive(Clone)]
struct Attacher {
    client: Client,
    attachments: Cache<VolumeAttachment>,
    volumes: Cache<PersistentVolume>,
    claims: Cache<PersistentVolumeClaim>,
    drivers: Cache<CSIDriver>,
    nodes: Cache<Node>,
    pods: Cache<Pod>,
    recorder: Recorder,
    /// Since when an attachment, by name, is wanted by no pod.
    unwanted: Arc<Mutex<HashMap<String, Instant>>>,
    /// What was told of an attachment that failed or has to wait, by name: each once.
    told: Arc<Mutex<HashMap<String, String>>>,
}

pub(crate) fn start(room: &Room) {
    let attacher = Attacher {
        client: room.client.clone(),
        attachments: room.caches.of(),
        volumes: room.caches.of(),
        claims: room.caches.of(),
        drivers: room.caches.of(),
        nodes: room.caches.of(),
        pods: room.caches.of(),
        recorder: room.recorder("attachdetach-controller"),
        unwanted: Arc::default(),
        told: Arc::default(),
    };
    let queue = Queue::new("attachments");
    watch_self(&attacher.volumes, &queue);
    let wake = queue.clone();
    attacher.claims.on_change(move |change| add(&wake, volume_name(change.object())));
    let wake = queue.clone();
    attacher.attachments.on_change(move |change| add(&wake, volume_of(change.object())));
    let (wake, claims) = (queue.clone(), attacher.claims.clone());
    attacher.pods.on_change(move |change| {
        let state = |pod: &Arc<Pod>| (node_name(pod).to_owned(), is_finished(pod));
        let pod = change.object();
        if change.old.as_ref().map(state) == change.new.as_ref().map(state) {
            return;
        }
        for name in claim_names(pod) {
            claims.get(pod.namespace(), &name).iter().for_each(|claim| add(&wake, volume_name(claim)));
        }
    });
    let (wake, attachments) = (queue.clone(), attacher.attachments.clone());
    attacher.nodes.on_change(move |change| {
        if change.old.as_deref().map(of_interest) == change.new.as_deref().map(of_interest) {
            return;
        }
        let node = change.object().name();
        let there = attachments.snapshot();
        there.iter().filter(|own| own.spec.node_name == node).for_each(|own| add(&wake, volume_of(own)));
    });
    let unwanted = attacher.unwanted.clone();
    room.forget_afterwards("volumes that no pod wants", move || {
        unwanted.lock().unwrap_or_else(PoisonError::into_inner).clear();
    });
    // One at a time: a node is told of all its volumes together.
    room.work("attach detach controller", &queue, 1, move |key| attacher.clone().sync(key));
}

fn add(queue: &Queue<Key>, volume: &str) {
    if !volume.is_empty() {
        queue.add(Key::new("", volume));
    }
}

fn volume_of(attachment: &VolumeAttachment) -> &str {
    attachment.spec.source.persistent_volume_name.as_deref().unwrap_or_default()
}

fn status(node: &Node) -> &NodeStatus {
    static NONE: std::sync::LazyLock<NodeStatus> = std::sync::LazyLock::new(Default::default);
    node.status.as_ref().unwrap_or(&NONE)
}

/// What of a node decides about its volumes.
fn of_interest(node: &Node) -> (bool, bool, Option<&Vec<String>>, bool) {
    let managed = node.annotations().get(MANAGED).is_some_and(|managed| managed == "true");
    (is_ready(node), is_out_of_service(node), status(node).volumes_in_use.as_ref(), managed)
}

/// The name by which nodes know a volume.
fn unique_name(csi: &CSIPersistentVolumeSource) -> String {
    format!("kubernetes.io/csi/{}^{}", csi.driver, csi.volume_handle)
}

/// The name of an attachment, as every attacher of Kubernetes computes it.
fn attachment_name(csi: &CSIPersistentVolumeSource, node: &str) -> String {
    let text = format!("{}{}{node}", csi.volume_handle, csi.driver);
    format!("csi-{}", base::hex::sha256(text.as_bytes()))
}

/// Several nodes may have the volume at one time.
fn is_shared(volume: &PersistentVolume) -> bool {
    let mut modes = volume_spec(volume).access_modes.iter().flatten();
    modes.any(|mode| matches!(mode.as_str(), "ReadWriteMany" | "ReadOnlyMany"))
}

impl Attacher {
    async fn sync(self, key: Key) -> Result<Next, Error> {
        self.attachments.synced().await;
        self.claims.synced().await;
        self.drivers.synced().await;
        self.nodes.synced().await;
        self.pods.synced().await;
        let Some(volume) = self.volumes.get("", &key.name) else { return Ok(Next::Done) };
        let Some(csi) = volume_spec(&volume).csi.as_ref() else { return Ok(Next::Done) };
        let pods = if self.is_attachable(&csi.driver) { self.users(&volume) } else { Vec::new() };
        let wanted: BTreeSet<String> = pods.iter().map(|pod| node_name(pod).to_owned()).collect();
        let attached = self.attached(&volume, csi, &wanted);
        let mut next = Next::Done;
        for action in attach::plan(&wanted, &attached, is_shared(&volume), clock::instant()) {
            match action {
                Action::Attach(node) => self.attach(&volume, csi, &node).await?,
                Action::Detach(node) => self.detach(csi, &node).await?,
                Action::Occupied(node) => self.tell_occupied(&volume, csi, &node, &pods),
                Action::LookAgain(after) => next = Next::After(after),
            }
        }
        for node in &wanted {
            self.tell_attached(&volume, csi, node, &pods).await?;
        }
        Ok(next)
    }

    /// The driver wants its volumes attached: it does unless it says otherwise.
    fn is_attachable(&self, driver: &str) -> bool {
        self.drivers.get("", driver).is_none_or(|driver| driver.spec.attach_required != Some(false))
    }

    /// The pods on managed nodes that use a volume.
    fn users(&self, volume: &PersistentVolume) -> Vec<Arc<Pod>> {
        let Some(reference) = &volume_spec(volume).claim_ref else { return Vec::new() };
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let (namespace, name) = (text(&reference.namespace), text(&reference.name));
        let claim = self.claims.get(&namespace, &name);
        if claim
            .is_none_or(|claim| volume_name(&claim) != volume.name() || claim.uid() != text(&reference.uid))
        {
            return Vec::new();
        }
        let is_managed =
            |pod: &Pod| self.nodes.get("", node_name(pod)).is_some_and(|node| of_interest(&node).3);
        let pods = self.pods.snapshot();
        let using = pods.in_namespace(&namespace).filter(|pod| {
            !is_finished(pod) && claim_names(pod).any(|claim| claim == name) && is_managed(pod)
        });
        using.cloned().collect()
    }

    /// Where the volume is attached, and since when nobody wants it there.
    fn attached(
        &self,
        volume: &PersistentVolume,
        csi: &CSIPersistentVolumeSource,
        wanted: &BTreeSet<String>,
    ) -> Vec<Attached> {
        let snapshot = self.attachments.snapshot();
        // Those of other names are not this controller's.
        let own = snapshot.iter().filter(|own| {
            volume_of(own) == volume.name() && own.name() == attachment_name(csi, &own.spec.node_name)
        });
        let mut unwanted = self.unwanted.lock().unwrap_or_else(PoisonError::into_inner);
        let attached = own.map(|own| {
            let node = own.spec.node_name.clone();
            let unwanted_since = if wanted.contains(&node) {
                unwanted.remove(own.name());
                None
            } else {
                Some(*unwanted.entry(own.name().to_owned()).or_insert_with(clock::instant))
            };
            Attached { deleting: own.is_deleting(), place: self.place(&node, csi), node, unwanted_since }
        });
        attached.collect()
    }

    fn place(&self, node: &str, csi: &CSIPersistentVolumeSource) -> Place {
        let Some(node) = self.nodes.get("", node) else { return Place::default() };
        let mounted = status(&node).volumes_in_use.iter().flatten().any(|own| *own == unique_name(csi));
        Place {
            exists: true,
            ready: is_ready(&node),
            in_use: mounted,
            out_of_service: is_out_of_service(&node),
        }
    }

    async fn attach(
        &self,
        volume: &PersistentVolume,
        csi: &CSIPersistentVolumeSource,
        node: &str,
    ) -> Result<(), Error> {
        let attachment = VolumeAttachment {
            metadata: ObjectMeta { name: Some(attachment_name(csi, node)), ..ObjectMeta::default() },
            spec: VolumeAttachmentSpec {
                attacher: csi.driver.clone(),
                node_name: node.to_owned(),
                source: VolumeAttachmentSource {
                    persistent_volume_name: Some(volume.name().to_owned()),
                    ..VolumeAttachmentSource::default()
                },
            },
            status: None,
        };
        match self.client.create(&attachment).await {
            Err(error) if error.is_already_exists() => {}
            other => self.attachments.reached(other?.revision()).await,
        }
        Ok(())
    }

    /// The node is told first that the volume is no longer there for new pods.
    async fn detach(&self, csi: &CSIPersistentVolumeSource, node: &str) -> Result<(), Error> {
        let name = attachment_name(csi, node);
        self.publish(csi, node, false).await?;
        let deleted = self.client.delete::<VolumeAttachment>("", &name, &DeleteOptions::default()).await;
        unless_gone(deleted)?;
        if let Some(own) = self.attachments.get("", &name) {
            common::deletion_seen(&self.attachments, &Key::new("", &name), own.uid()).await;
        }
        self.unwanted.lock().unwrap_or_else(PoisonError::into_inner).remove(&name);
        self.told.lock().unwrap_or_else(PoisonError::into_inner).remove(&name);
        Ok(())
    }

    /// Has `status.volumesAttached` of a node say whether it has a volume. True if it did not.
    async fn publish(
        &self,
        csi: &CSIPersistentVolumeSource,
        node: &str,
        attached: bool,
    ) -> Result<bool, Error> {
        let Some(found) = self.nodes.get("", node) else { return Ok(false) };
        let name = unique_name(csi);
        let mut list: Vec<AttachedVolume> = status(&found).volumes_attached.clone().unwrap_or_default();
        let before = list.len();
        list.retain(|own| own.name != name);
        if (list.len() < before) == attached {
            return Ok(false);
        }
        if attached {
            list.push(AttachedVolume { name, device_path: String::new() });
        }
        let patch = Patch::Merge(json!({"status": {"volumesAttached": list}}));
        match self.client.patch_status::<Node>("", node, &patch).await {
            Err(error) if error.is_not_found() => return Ok(false),
            other => self.nodes.reached(other?.revision()).await,
        }
        Ok(true)
    }

    /// Tells a node and its pods what the attacher says.
    async fn tell_attached(
        &self,
        volume: &PersistentVolume,
        csi: &CSIPersistentVolumeSource,
        node: &str,
        pods: &[Arc<Pod>],
    ) -> Result<(), Error> {
        let name = attachment_name(csi, node);
        let Some(own) = self.attachments.get("", &name).filter(|own| !own.is_deleting()) else {
            return Ok(());
        };
        let Some(status) = &own.status else { return Ok(()) };
        let here = || pods.iter().filter(|pod| node_name(pod) == node);
        if status.attached {
            if self.publish(csi, node, true).await? {
                let about = format!("AttachVolume.Attach succeeded for volume {:?} ", volume.name());
                here().for_each(|pod| {
                    self.recorder.normal(&**pod, "SuccessfulAttachVolume", about.clone());
                });
            }
        } else if let Some(error) = &status.attach_error {
            let why = error.message.as_deref().unwrap_or_default();
            let about = format!("AttachVolume.Attach failed for volume {:?} : {why}", volume.name());
            if self.is_news(&name, &about) {
                here().for_each(|pod| {
                    self.recorder.warning(&**pod, "FailedAttachVolume", about.clone());
                });
            }
        }
        Ok(())
    }

    fn tell_occupied(
        &self,
        volume: &PersistentVolume,
        csi: &CSIPersistentVolumeSource,
        node: &str,
        pods: &[Arc<Pod>],
    ) {
        let (here, others): (Vec<_>, Vec<_>) = pods.iter().partition(|pod| node_name(pod) == node);
        let others: Vec<(String, String)> =
            others.iter().map(|pod| (pod.namespace().to_owned(), pod.name().to_owned())).collect();
        for pod in here {
            let about = attach::occupied(volume.name(), pod.namespace(), &others);
            if self.is_news(&format!("{} {}", attachment_name(csi, node), pod.uid()), &about) {
                self.recorder.warning(&**pod, "FailedAttachVolume", about);
            }
        }
    }

    fn is_news(&self, about: &str, message: &str) -> bool {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.len() > REMEMBERED {
            told.clear();
        }
        told.insert(about.to_owned(), message.to_owned()).is_none_or(|before| before != message)
    }
}
