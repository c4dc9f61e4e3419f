//! Volumes that have to be attached before they are used, and the agreement about them with the cluster's
//! attacher: this node says what it uses (`status.volumesInUse`) before it uses it and until it is unstaged,
//! and is told what is attached (`status.volumesAttached`).

use super::{info, lock, release_unused};
use crate::pods::Pods;
use crate::turns::Key;
use crate::volumes::Trouble;
use crate::{Context, Error};
use api::Object;
use api::core::Node;
use api::storage::VolumeAttachment;
use base::{Backoff, Phase, Shutdown, clock, hex};
use client::Patch;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Notify;

/// Who uses a volume.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Users {
    /// By uid; "" for what was found staged with no pod.
    pods: BTreeSet<String>,
    /// The cluster attaches it.
    attached: bool,
}

/// Which volumes are used by which pods of this node.
#[derive(Default)]
pub(crate) struct InUse {
    users: Mutex<BTreeMap<Key, Users>>,
    /// One report at a time.
    reporting: tokio::sync::Mutex<()>,
    changed: Notify,
    released: Notify,
}

/// The name by which nodes and the attacher know a volume.
fn unique_name((driver, handle): &Key) -> String {
    format!("kubernetes.io/csi/{driver}^{handle}")
}

/// The name of an attachment, as every attacher of Kubernetes computes it.
pub(super) fn attachment_name((driver, handle): &Key, node: &str) -> String {
    format!("csi-{}", hex::sha256(format!("{handle}{driver}{node}").as_bytes()))
}

impl InUse {
    /// Has those looked after who wait for a driver or for a volume.
    pub(super) fn wake(&self) {
        self.changed.notify_one();
    }

    /// The volumes of which the cluster is told.
    fn names(&self) -> Vec<String> {
        let users = lock(&self.users);
        users.iter().filter(|(_, users)| users.attached).map(|(key, _)| unique_name(key)).collect()
    }

    fn add(&self, key: Key, pod: &str, attached: bool) {
        let mut all = lock(&self.users);
        let users = all.entry(key).or_default();
        users.pods.insert(pod.to_owned());
        users.attached |= attached;
    }

    /// Whether a pod but this one uses a volume.
    pub(super) fn is_used_beside(&self, key: &Key, pod: &str) -> bool {
        !self.others(key, pod).is_empty()
    }

    /// The pods but this one that use a volume, or are about to.
    pub(super) fn others(&self, key: &Key, pod: &str) -> Vec<String> {
        let all = lock(&self.users);
        let pods = all.get(key).into_iter().flat_map(|users| &users.pods);
        pods.filter(|user| *user != pod && !user.is_empty()).cloned().collect()
    }

    /// The volumes that a pod uses, or is about to.
    pub(super) fn of(&self, pod: &str) -> BTreeSet<Key> {
        let users = lock(&self.users);
        users.iter().filter(|(_, users)| users.pods.contains(pod)).map(|(key, _)| key.clone()).collect()
    }

    /// Notes that a pod uses a volume no more; the cluster is told of it in time.
    pub(super) fn release(&self, key: &Key, pod: &str) {
        self.remove(key, pod);
        self.released.notify_one();
    }

    fn remove(&self, key: &Key, pod: &str) {
        let mut all = lock(&self.users);
        if let Some(users) = all.get_mut(key) {
            users.pods.remove(pod);
            users.pods.remove("");
            if users.pods.is_empty() {
                all.remove(key);
            }
        }
    }

    /// Notes what lies on this machine from an earlier life. What cannot be read is left for who takes its pod down.
    pub(crate) fn recover(&self, kubelet_dir: &Path) {
        let unread = |error: Error| {
            tracing::warn!(%error, "cannot tell what a volume on this machine is");
            Vec::new()
        };
        for entry in std::fs::read_dir(kubelet_dir.join("pods")).into_iter().flatten().flatten() {
            let uid = entry.file_name().to_string_lossy().into_owned();
            let found = super::take_down::found(kubelet_dir, &entry.path());
            let found = found.map(|found| found.into_iter().map(|(_, data)| data).collect());
            for data in found.unwrap_or_else(unread).into_iter().filter(|data| !data.ephemeral) {
                self.add((data.driver, data.handle), &uid, true);
            }
        }
        for data in super::take_down::staged(kubelet_dir).unwrap_or_else(unread) {
            self.add((data.driver, data.handle), "", true);
        }
    }
}

/// Tells the cluster what is in use here, unless it knows.
async fn report(context: &Context) -> Result<(), Error> {
    let _turn = context.csi.in_use.reporting.lock().await;
    context.node.synced().await;
    let names = context.csi.in_use.names();
    let node = context.node.get("", &context.config.node_name);
    let known = node.and_then(|node| node.status.as_ref()?.volumes_in_use.clone()).unwrap_or_default();
    if known == names {
        return Ok(());
    }
    let patch = Patch::Merge(info::in_use_patch(&names));
    let node = context.client.patch_status::<Node>("", &context.config.node_name, &patch).await?;
    context.node.reached(node.revision()).await;
    Ok(())
}

/// Notes that a pod uses a volume, and tells the cluster if it is one that is attached.
pub(super) async fn claim(context: &Context, key: &Key, pod: &str, attached: bool) -> Result<(), Error> {
    context.csi.in_use.add(key.clone(), pod, attached);
    if attached { report(context).await } else { Ok(()) }
}

/// What the attacher tells the driver on this node of a volume.
pub(super) async fn metadata(context: &Context, key: &Key) -> Result<HashMap<String, String>, Trouble> {
    let node = context.node.get("", &context.config.node_name);
    let attached = node.as_ref().and_then(|node| node.status.as_ref()?.volumes_attached.as_ref());
    let name = unique_name(key);
    if !attached.is_some_and(|attached| attached.iter().any(|volume| volume.name == name)) {
        return Err(Trouble::Unattached);
    }
    let name = attachment_name(key, &context.config.node_name);
    let attachment: VolumeAttachment = match context.client.get("", &name).await {
        Ok(attachment) => attachment,
        Err(error) if error.is_not_found() => return Err(Trouble::Unattached),
        Err(error) => return Err(Trouble::at("MountVolume.WaitForAttach", &key.1, &error.into())),
    };
    // One that is being deleted is about to be detached, whatever the node's status says yet.
    let is_kept = !attachment.is_deleting();
    match attachment.status.filter(|status| status.attached && is_kept) {
        Some(status) => Ok(status.attachment_metadata.unwrap_or_default().into_iter().collect()),
        None => Err(Trouble::Unattached),
    }
}

/// Wakes pods that wait for volumes when drivers come and volumes are attached, unstages what was left staged with no
/// pod, and keeps what the cluster is told of what is in use here.
pub(crate) async fn run(context: Arc<Context>, pods: Pods, shutdown: Shutdown) -> Result<(), Error> {
    let attached = |context: &Context| {
        let node = context.node.get("", &context.config.node_name);
        node.and_then(|node| node.status.as_ref()?.volumes_attached.clone()).unwrap_or_default()
    };
    let mut known = attached(&context);
    let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
    let mut retry: Option<clock::Instant> = None;
    loop {
        let node = context.node.changed();
        tokio::select! {
            () = node => {}
            () = context.csi.in_use.released.notified() => {}
            () = clock::until(retry) => {}
            () = context.csi.in_use.changed.notified() => {
                pods.wake_waiting();
                let of = context.clone();
                // A driver that hangs keeps nobody from being woken.
                context.supervisor.detached("volumes that no pod uses", Phase::Work, async move {
                    release_unused(&of).await;
                });
            }
            () = shutdown.requested() => return Ok(()),
        }
        let now = attached(&context);
        if now != known {
            known = now;
            pods.wake_waiting();
        }
        if retry.is_some_and(|at| at > clock::instant()) {
            continue;
        }
        let told = tokio::select! {
            told = report(&context) => told,
            () = shutdown.requested() => return Ok(()),
        };
        retry = match told {
            Ok(()) => {
                backoff.reset();
                None
            }
            Err(error) => {
                tracing::debug!(%error, "cannot say which volumes are in use; will try again");
                Some(clock::instant() + backoff.next_delay())
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_is_in_use_until_its_last_pod_lets_go() {
        let (in_use, key) = (InUse::default(), ("d".to_owned(), "h".to_owned()));
        in_use.add(key.clone(), "a", true);
        in_use.add(key.clone(), "b", true);
        in_use.add(("d".to_owned(), "free".to_owned()), "a", false);
        assert_eq!(in_use.names(), ["kubernetes.io/csi/d^h"]);
        assert!(in_use.is_used_beside(&key, "a"));
        assert_eq!(in_use.of("b"), BTreeSet::from([key.clone()]));
        in_use.remove(&key, "b");
        assert!(!in_use.is_used_beside(&key, "a"));
        in_use.remove(&key, "a");
        assert_eq!(in_use.names(), [""; 0]);
    }

    #[test]
    fn attachments_are_named_as_everywhere() {
        let name = attachment_name(&("driver".to_owned(), "handle".to_owned()), "node");
        assert_eq!(name, format!("csi-{}", hex::sha256(b"handledrivernode")));
    }
}
