//! The provisioner of the class `local-path`: a claim's volume is a folder on the node of its first pod.
//!
//! Names are those of the provisioner that k3s brings, so that manifests find their class. The folder is made
//! and removed by the node's kubelet, which is asked through the API server. A volume has the name of its
//! claim's uid: a restart half-way makes the same once more.

use crate::binder::reference;
use crate::common::{Key, Room, delete_this, unless_gone, watch_self};
use crate::node_taints::ready;
use crate::storage::{
    BOUND_BY_CONTROLLER, PROVISIONED_BY, PROVISIONER, SELECTED_NODE, claim_spec, class_of_claim, volume_name,
    volume_phase, volume_spec,
};
use api::Object;
use api::core::{Node, PersistentVolume, PersistentVolumeClaim};
use api::storage::StorageClass;
use base::{Phase, Restart};
use client::{Cache, Client, Error, Next, Queue, Recorder};
use http::Method;
use serde_json::{Value, json};
use std::time::Duration;

const CLASS: &str = "local-path";
const NAME: &str = "rancher.io/local-path";
/// On which node a volume lies.
const NODE: &str = "local.path.provisioner/selected-node";
const HOSTNAME: &str = "kubernetes.io/hostname";
/// Keeps a volume until its folder is removed.
const FINALIZER: &str = "external-provisioner.volume.kubernetes.io/finalizer";
/// A node that takes longer to make or remove a folder is asked again.
const ANSWER: Duration = Duration::from_secs(60);
/// Folders that are made or removed at one time.
const WORKERS: usize = 4;

#[derive(Clone)]
struct Provisioner {
    client: Client,
    claims: Cache<PersistentVolumeClaim>,
    volumes: Cache<PersistentVolume>,
    classes: Cache<StorageClass>,
    nodes: Cache<Node>,
    recorder: Recorder,
}

pub(crate) fn start(room: &Room) {
    let provisioner = Provisioner {
        client: room.client.clone(),
        claims: room.caches.of(),
        volumes: room.caches.of(),
        classes: room.caches.of(),
        nodes: room.caches.of(),
        recorder: room.recorder(NAME),
    };
    let client = room.client.clone();
    room.supervisor
        .run("class of local paths", Phase::Work, Restart::OnFailure, move |_| make_class(client.clone()));
    let (claims, volumes) = (Queue::new("local path claims"), Queue::new("local path volumes"));
    watch_self(&provisioner.claims, &claims);
    watch_self(&provisioner.volumes, &volumes);
    let (back, all) = (volumes.clone(), provisioner.volumes.clone());
    provisioner.nodes.on_change(move |change| {
        let node = change.object().name();
        let is_back = change.new.as_deref().and_then(ready) != change.old.as_deref().and_then(ready);
        if is_back || change.new.is_none() {
            let ends =
                |volume: &PersistentVolume| ending(volume) == Ending::Remove && node_of(volume) == node;
            all.snapshot()
                .iter()
                .filter(|volume| ends(volume))
                .for_each(|volume| back.add(Key::of(&**volume)));
        }
    });
    let own = provisioner.clone();
    room.work("local path provisioner", &claims, WORKERS, move |key| own.clone().claim(key));
    room.work("local path remover", &volumes, WORKERS, move |key| provisioner.clone().volume(key));
}

/// The class, for a cluster that has none of this name. What somebody changed of it stays.
async fn make_class(client: Client) -> Result<(), Error> {
    let class = json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass",
        "metadata": {"name": CLASS, "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
        "provisioner": NAME, "reclaimPolicy": "Delete", "volumeBindingMode": "WaitForFirstConsumer",
    });
    let path = client::path_of::<StorageClass>("");
    match client.send(Method::POST, &path, Some(&class)).await {
        Err(error) if !error.is_already_exists() => Err(error),
        _ => Ok(()),
    }
}

fn node_of(volume: &PersistentVolume) -> &str {
    annotation(volume, NODE)
}

fn annotation<'a>(object: &'a impl Object<Meta = api::meta::ObjectMeta>, key: &str) -> &'a str {
    object.annotations().get(key).map(String::as_str).unwrap_or_default()
}

/// The claim waits for this provisioner.
fn is_asked(claim: &PersistentVolumeClaim) -> bool {
    annotation(claim, PROVISIONER) == NAME && volume_name(claim).is_empty() && !claim.is_deleting()
}

/// Why a claim cannot be given a folder.
fn refusal(claim: &PersistentVolumeClaim) -> Option<&'static str> {
    let spec = claim_spec(claim);
    let single = |mode: &String| matches!(mode.as_str(), "ReadWriteOnce" | "ReadWriteOncePod");
    if !spec.access_modes.iter().flatten().all(single) {
        Some("NodePath only supports ReadWriteOnce and ReadWriteOncePod (1.22+) access modes")
    } else if spec.volume_mode.as_deref() == Some("Block") {
        Some("block volumes are not supported")
    } else if spec.selector.is_some() {
        Some("claim.Spec.Selector is not supported")
    } else if spec.data_source.is_some() || spec.data_source_ref.is_some() {
        Some("volumes cannot be made from a data source")
    } else if annotation(claim, SELECTED_NODE).is_empty() {
        Some("configuration error, no node was specified")
    } else {
        None
    }
}

fn folder(claim: (&str, &str), volume: &str) -> String {
    format!("{volume}_{}_{}", claim.0, claim.1)
}

/// A volume that is this folder of this node.
fn volume(claim: &PersistentVolumeClaim, class: &StorageClass, node: &Node, path: &str) -> Value {
    let spec = claim_spec(claim);
    let hostname = node.labels().get(HOSTNAME).map_or(node.name(), String::as_str);
    let on_node = json!({"key": HOSTNAME, "operator": "In", "values": [hostname]});
    let policy = class.reclaim_policy.as_deref().unwrap_or("Delete");
    let finalizers: &[&str] = if policy == "Delete" { &[FINALIZER] } else { &[] };
    json!({
        "apiVersion": "v1", "kind": "PersistentVolume",
        "metadata": {
            "name": format!("pvc-{}", claim.uid()), "finalizers": finalizers,
            "annotations": {PROVISIONED_BY: NAME, BOUND_BY_CONTROLLER: "yes", NODE: node.name()},
        },
        "spec": {
            "capacity": spec.resources.as_ref().and_then(|resources| resources.requests.as_ref()),
            "accessModes": spec.access_modes, "volumeMode": "Filesystem", "storageClassName": class.name(),
            "persistentVolumeReclaimPolicy": policy, "claimRef": reference(claim), "local": {"path": path},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [on_node]}]}},
        },
    })
}

/// What is to be done with a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// Nothing.
    Keep,
    /// Its folder stays when it goes.
    Leave,
    /// Its folder goes with it.
    Remove,
}

fn ending(volume: &PersistentVolume) -> Ending {
    let guarded = volume.metadata.finalizers.iter().flatten().any(|own| own == FINALIZER);
    let deletes = volume_spec(volume).persistent_volume_reclaim_policy.as_deref() == Some("Delete");
    if annotation(volume, PROVISIONED_BY) != NAME {
        return Ending::Keep;
    }
    match volume_phase(volume) {
        _ if !deletes && guarded => Ending::Leave,
        "Released" | "Failed" if deletes && (guarded || !volume.is_deleting()) => Ending::Remove,
        phase if deletes && guarded && volume.is_deleting() && phase != "Bound" => Ending::Remove,
        _ => Ending::Keep,
    }
}

impl Provisioner {
    async fn claim(self, key: Key) -> Result<Next, Error> {
        self.volumes.synced().await;
        self.classes.synced().await;
        self.nodes.synced().await;
        let claim = self.claims.get(&key.namespace, &key.name).filter(|claim| is_asked(claim));
        let Some(claim) = claim else { return Ok(Next::Done) };
        let name = format!("pvc-{}", claim.uid());
        let class = self.classes.get("", class_of_claim(&claim)).filter(|class| class.provisioner == NAME);
        let Some(class) = class.filter(|_| self.volumes.get("", &name).is_none()) else {
            return Ok(Next::Done);
        };
        if let Some(why) = refusal(&claim) {
            self.failed(&claim, why);
            return Ok(Next::Done);
        }
        let Some(node) = self.nodes.get("", annotation(&*claim, SELECTED_NODE)) else {
            return self.choose_again(&claim).await;
        };
        let about = format!(
            "External provisioner is provisioning volume for claim \"{}/{}\"",
            key.namespace, key.name
        );
        self.recorder.normal(&*claim, "Provisioning", about);
        match self.provide(&claim, &class, &node).await {
            Ok(()) => {
                let about = format!("Successfully provisioned volume {name}");
                self.recorder.normal(&*claim, "ProvisioningSucceeded", about);
                Ok(Next::Done)
            }
            Err(error) => {
                self.failed(&claim, &error.to_string());
                Err(error)
            }
        }
    }

    fn failed(&self, claim: &PersistentVolumeClaim, why: &str) {
        let class = class_of_claim(claim);
        let about = format!("failed to provision volume with StorageClass {class:?}: {why}");
        self.recorder.warning(claim, "ProvisioningFailed", about);
    }

    async fn provide(
        &self,
        claim: &PersistentVolumeClaim,
        class: &StorageClass,
        node: &Node,
    ) -> Result<(), Error> {
        let name = format!("pvc-{}", claim.uid());
        let folder = folder((claim.namespace(), claim.name()), &name);
        let path = self.ask(Method::PUT, node.name(), &folder).await?;
        let volume = volume(claim, class, node, &path);
        let path = client::path_of::<PersistentVolume>("");
        match self.client.send(Method::POST, &path, Some(&volume)).await {
            Err(error) if !error.is_already_exists() => Err(error),
            _ => Ok(()),
        }
    }

    /// Asks a node's kubelet to make or remove a folder; returns where it is.
    async fn ask(&self, method: Method, node: &str, folder: &str) -> Result<String, Error> {
        let path = format!("/api/v1/nodes/{node}/proxy/storage/{folder}");
        let answer = tokio::time::timeout(ANSWER, self.client.send(method, &path, None)).await;
        let answer = answer.map_err(|_| Error::Transport(format!("node {node} does not answer")))??;
        let answer: Value =
            serde_json::from_slice(&answer).map_err(|error| Error::Decode(error.to_string()))?;
        let path = answer["path"].as_str();
        path.map(str::to_owned).ok_or_else(|| Error::Decode(format!("node {node} told no path")))
    }

    /// The node is gone: the scheduler is to choose another one.
    async fn choose_again(&self, claim: &PersistentVolumeClaim) -> Result<Next, Error> {
        let mut free = claim.clone();
        free.metadata.annotations.as_mut().and_then(|all| all.remove(SELECTED_NODE));
        unless_gone(self.client.update(&free).await.map(drop)).map(|()| Next::Done)
    }

    async fn volume(self, key: Key) -> Result<Next, Error> {
        self.nodes.synced().await;
        let Some(volume) = self.volumes.get("", &key.name) else { return Ok(Next::Done) };
        match ending(&volume) {
            Ending::Keep => Ok(Next::Done),
            Ending::Leave => self.let_go(&volume).await,
            Ending::Remove => {
                if let Err(error) = self.remove(&volume).await {
                    self.recorder.warning(&*volume, "VolumeFailedDelete", error.to_string());
                    return Err(error);
                }
                if volume.is_deleting() {
                    return self.let_go(&volume).await;
                }
                delete_this(&self.client, &*volume).await.map(|()| Next::Done)
            }
        }
    }

    /// Removes a volume's folder, unless its node has gone with it.
    async fn remove(&self, volume: &PersistentVolume) -> Result<(), Error> {
        let node = node_of(volume);
        let Some(reference) = volume_spec(volume).claim_ref.as_ref() else { return Ok(()) };
        if self.nodes.get("", node).is_none() {
            return Ok(());
        }
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let folder = folder((&text(&reference.namespace), &text(&reference.name)), volume.name());
        self.ask(Method::DELETE, node, &folder).await.map(drop)
    }

    async fn let_go(&self, volume: &PersistentVolume) -> Result<Next, Error> {
        let mut free = volume.clone();
        free.metadata.finalizers.iter_mut().for_each(|all| all.retain(|own| own != FINALIZER));
        unless_gone(self.client.update(&free).await.map(drop)).map(|()| Next::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_end_as_their_policy_says() {
        let of = |policy: &str, phase: &str, rest: &str| {
            let mut volume = json!({"metadata": {"name": "v", "annotations": {PROVISIONED_BY: NAME}},
                "spec": {"persistentVolumeReclaimPolicy": policy}, "status": {"phase": phase}});
            if rest.contains("guarded") {
                volume["metadata"]["finalizers"] = json!([FINALIZER]);
            }
            if rest.contains("deleted") {
                volume["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
            }
            ending(&serde_json::from_value(volume).unwrap())
        };
        let cases = [
            ("Delete", "Bound", "guarded", Ending::Keep),
            ("Delete", "Bound", "guarded deleted", Ending::Keep),
            ("Delete", "Released", "guarded", Ending::Remove),
            ("Delete", "Failed", "", Ending::Remove),
            ("Delete", "Released", "guarded deleted", Ending::Remove),
            ("Delete", "Released", "deleted", Ending::Keep),
            ("Delete", "Available", "guarded deleted", Ending::Remove),
            ("Retain", "Released", "", Ending::Keep),
            ("Retain", "Bound", "guarded", Ending::Leave),
        ];
        for (policy, phase, rest, expected) in cases {
            assert_eq!(of(policy, phase, rest), expected, "{policy} {phase} {rest}");
        }
    }

    #[test]
    fn what_is_no_folder_is_refused() {
        let of = |spec: Value, node: &str| {
            let claim =
                json!({"metadata": {"name": "c", "annotations": {SELECTED_NODE: node}}, "spec": spec});
            refusal(&serde_json::from_value(claim).unwrap())
        };
        let once = json!({"accessModes": ["ReadWriteOnce"]});
        assert_eq!(of(once.clone(), "n"), None);
        assert_eq!(of(once, ""), Some("configuration error, no node was specified"));
        assert!(
            of(json!({"accessModes": ["ReadWriteMany"]}), "n").unwrap().starts_with("NodePath only supports")
        );
        assert!(of(json!({"accessModes": ["ReadWriteOnce"], "volumeMode": "Block"}), "n").is_some());
    }
}
