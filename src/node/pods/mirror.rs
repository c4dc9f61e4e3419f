//! The copies in the API of the node's own pods: made, kept equal, removed.

use super::manifests::{HASH, MIRROR};
use super::reporting::with_status;
use super::worker::Worker;
use super::{Pods, report};
use crate::stats::counters;
use crate::{Context, Error};
use api::Object;
use api::core::{Node, Pod, PodStatus};
use api::meta::{DeleteOptions, ObjectMeta, OwnerReference, Preconditions};
use base::Phase;
use client::Patch;
use std::sync::Arc;

/// Namespace and name.
pub(super) type FullName = (String, String);

pub(super) fn full_name(pod: &Pod) -> FullName {
    (pod.namespace().to_owned(), pod.name().to_owned())
}

/// Whether a pod of the API is such a copy.
pub(super) fn is_mirror(pod: &Pod) -> bool {
    pod.annotations().contains_key(MIRROR)
}

/// Removes a pod from the API at once, unless it is another one by now.
pub(super) async fn delete_now(context: &Context, pod: &Pod) -> Result<(), Error> {
    let options = DeleteOptions {
        grace_period_seconds: Some(0),
        preconditions: Some(Preconditions { uid: pod.metadata.uid.clone(), resource_version: None }),
        ..Default::default()
    };
    match context.client.delete::<Pod>(pod.namespace(), pod.name(), &options).await {
        Err(error) if !error.is_not_found() && !error.is_conflict() => Err(error.into()),
        _ => Ok(()),
    }
}

/// What is created for a pod of the node.
fn copy(pod: &Pod, node: &Node) -> Pod {
    let mut annotations = pod.annotations().clone();
    annotations.insert(MIRROR.to_owned(), annotations.get(HASH).cloned().unwrap_or_default());
    let owner = OwnerReference { block_owner_deletion: None, ..api::owner_reference(node) };
    let metadata = ObjectMeta {
        name: pod.metadata.name.clone(),
        namespace: pod.metadata.namespace.clone(),
        labels: pod.metadata.labels.clone(),
        annotations: Some(annotations),
        owner_references: Some(vec![owner]),
        ..Default::default()
    };
    Pod { metadata, spec: pod.spec.clone(), status: None }
}

impl Pods {
    /// Makes these the node's own pods. One that changed is another: it starts when the former is gone.
    pub(super) fn set_static(&self, context: &Arc<Context>, wanted: Vec<Arc<Pod>>) {
        let wanted: std::collections::HashMap<FullName, Arc<Pod>> =
            wanted.into_iter().map(|pod| (full_name(&pod), pod)).collect();
        let before = self.lock().statics.replace(wanted.clone()).unwrap_or_default();
        for (name, old) in &before {
            if wanted.get(name).is_none_or(|pod| pod.uid() != old.uid()) {
                self.tell(context, old, false);
            }
        }
        for (name, pod) in wanted {
            let former =
                before.get(&name).filter(|old| old.uid() != pod.uid()).map(|old| old.uid().to_owned());
            let (pods, of) = (self.clone(), context.clone());
            match former {
                None => self.tell(context, &pod, true),
                Some(former) => drop(context.supervisor.detached("static pod", Phase::Work, async move {
                    pods.worker_gone(&former).await;
                    if pods.is_static_now(&pod) {
                        pods.tell(&of, &pod, true);
                    }
                })),
            }
        }
        self.settle_mirrors(context);
    }

    fn is_static_now(&self, pod: &Pod) -> bool {
        let registry = self.lock();
        let current = registry.statics.as_ref().and_then(|all| all.get(&full_name(pod)));
        current.is_some_and(|current| current.uid() == pod.uid())
    }

    /// Takes note of a copy, or that it is gone.
    pub(super) fn tell_mirror(&self, context: &Arc<Context>, mirror: &Arc<Pod>, exists: bool) {
        let name = full_name(mirror);
        let mut registry = self.lock();
        if exists {
            registry.mirrors.insert(name.clone(), mirror.clone());
        } else if registry.mirrors.get(&name).is_some_and(|known| known.uid() == mirror.uid()) {
            registry.mirrors.remove(&name);
        }
        let own = registry.statics.as_ref().and_then(|all| all.get(&name)).map(|pod| pod.uid().to_owned());
        let worker = own.and_then(|uid| registry.workers.get(&uid)).map(|member| member.inbox.clone());
        drop(registry);
        match worker {
            Some(inbox) => inbox.wake.notify_one(),
            None => self.settle_mirrors(context),
        }
    }

    /// Removes copies of pods that the node does not have, once it is known which it has.
    fn settle_mirrors(&self, context: &Arc<Context>) {
        let registry = self.lock();
        let known = |name: &FullName| registry.statics.as_ref().is_none_or(|all| all.contains_key(name));
        let orphans: Vec<Arc<Pod>> =
            registry.mirrors.iter().filter(|(name, _)| !known(name)).map(|(_, it)| it.clone()).collect();
        drop(registry);
        for mirror in orphans {
            let of = context.clone();
            context.supervisor.detached("mirror pod", Phase::Work, async move {
                if let Err(error) = delete_now(&of, &mirror).await {
                    tracing::warn!(pod = mirror.name(), %error, "cannot remove the copy of a static pod");
                }
            });
        }
    }

    pub(super) fn mirror(&self, pod: &Pod) -> Option<Arc<Pod>> {
        self.lock().mirrors.get(&full_name(pod)).cloned()
    }
}

impl Worker {
    pub(super) fn is_static(&self) -> bool {
        super::admission::is_static(&self.pod)
    }

    /// Keeps the status of a pod of the node, and shows it by its copy.
    pub(super) async fn report_static(&mut self, status: PodStatus) -> Result<(), Error> {
        counters::containers_ended(self.pod.status.as_ref(), &status);
        self.pod = with_status(&self.pod, status.clone());
        if self.context.reach.is_away() {
            return Ok(());
        }
        let mirror = self.ensure_mirror().await?;
        if let Some(patch) = report::patch(mirror.uid(), mirror.status.as_ref(), &status) {
            let patch = Patch::Strategic(patch);
            let patched = self.context.client.patch_status::<Pod>(mirror.namespace(), mirror.name(), &patch);
            match patched.await {
                Ok(mirror) => self.pods.tell_mirror(&self.context, &Arc::new(mirror), true),
                Err(error) if error.is_not_found() || error.is_conflict() => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// The copy; one that is going or of another content is replaced.
    async fn ensure_mirror(&self) -> Result<Arc<Pod>, Error> {
        if let Some(mirror) = self.pods.mirror(&self.pod) {
            let same = mirror.annotations().get(MIRROR) == self.pod.annotations().get(HASH);
            if same && !mirror.is_deleting() {
                return Ok(mirror);
            }
            delete_now(&self.context, &mirror).await?;
        }
        let node = self.context.client.get::<Node>("", &self.context.config.node_name).await?;
        let mirror = Arc::new(self.context.client.create(&copy(&self.pod, &node)).await?);
        self.pods.tell_mirror(&self.context, &mirror, true);
        Ok(mirror)
    }

    /// Removes the copy of a pod that the node has no more.
    pub(super) async fn drop_mirror(&self) -> Result<(), Error> {
        match self.pods.mirror(&self.pod) {
            Some(mirror) if mirror.annotations().get(MIRROR) == self.pod.annotations().get(HASH) => {
                delete_now(&self.context, &mirror).await
            }
            _ => Ok(()),
        }
    }
}
