//! Carries decisions out: binds pods, says why one waits, asks others to leave.

use crate::ask::{Key, Wanted};
use crate::claims::Chosen;
use crate::devices::{self, Obstacle, Reserved};
use crate::preemption::Preemption;
use crate::runner::{Scheduler, node_of, profile_of};
use crate::storage::{SELECTED_NODE, annotation, is_bound};
use api::Object;
use api::core::{PersistentVolume, PersistentVolumeClaim};
use api::meta::{DeleteOptions, Preconditions, Time};
use api::slim::Pod;
use base::{Supervisor, clock};
use client::{Client, Error, Patch, Recorder};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::OwnedSemaphorePermit;

/// The longest note an event may have; a longer one is cut with an ellipsis.
const NOTE_BYTES: usize = 1_024;

/// What becomes of a pod for now.
#[derive(Debug)]
pub(crate) enum Decision {
    Bind {
        node: String,
        /// What its claims of storage get there.
        volumes: Vec<Chosen>,
        /// Its claims of devices, and what they get.
        devices: Vec<Reserved>,
    },
    Refuse(Refused),
    /// Deciding itself went wrong.
    Fail(String),
}

/// A pod that fits nowhere.
#[derive(Debug, Default)]
pub(crate) struct Refused {
    pub(crate) message: String,
    /// Who has to leave for it.
    pub(crate) preemption: Option<Preemption>,
    /// Less important pods that lose the place which was being made for them.
    pub(crate) displaced: Vec<Wanted>,
    /// A claim that is in the way.
    pub(crate) obstacle: Option<Obstacle>,
}

pub(crate) struct Binder {
    scheduler: Arc<Scheduler>,
    client: Client,
    /// One per profile: events are signed with its name.
    recorders: HashMap<String, Recorder>,
}

impl Binder {
    pub(crate) fn new(scheduler: Arc<Scheduler>, client: Client, supervisor: &Supervisor) -> Self {
        let names = scheduler.profiles.iter().map(|profile| profile.scheduler_name.clone());
        let recorder = |name: &str| Recorder::new(client.clone(), supervisor, name, "");
        let recorders = names.map(|name| (name.clone(), recorder(&name))).collect();
        Self { scheduler, client, recorders }
    }

    /// `permit` is one of those that bound how many are at work.
    pub(crate) async fn carry_out(&self, wanted: Wanted, decision: Decision, permit: OwnedSemaphorePermit) {
        match decision {
            Decision::Bind { node, volumes, devices } => {
                // Making a volume may take minutes, and so may binding a device.
                let _permit = (volumes.is_empty() && devices.is_empty()).then_some(permit);
                let prepared = self.prepare(&wanted, &node, (&volumes, &devices)).await;
                let bound = match prepared {
                    Ok(()) => self.bind(&wanted, &node).await,
                    Err(why) => {
                        self.failed(&wanted, &why).await;
                        false
                    }
                };
                if !bound {
                    let caches = &self.scheduler.lookup.devices;
                    devices::unreserve(&self.client, caches, &wanted.pod, &devices).await;
                }
            }
            Decision::Refuse(refused) => self.refuse(&wanted, refused).await,
            Decision::Fail(why) => self.failed(&wanted, &why).await,
        }
    }

    /// What has to be there before a pod is bound (`preBind`).
    async fn prepare(
        &self,
        wanted: &Wanted,
        node: &str,
        (volumes, devices): (&[Chosen], &[Reserved]),
    ) -> Result<(), String> {
        if !volumes.is_empty() {
            let bound = self.bind_volumes(wanted, node, volumes).await;
            self.scheduler.lookup.storage.release(&wanted.key);
            bound.map_err(|why| format!("binding volumes: {why}"))?;
        }
        if !devices.is_empty() {
            let told = |why| format!("running PreBind plugin \"DynamicResources\": {why}");
            self.bind_devices(wanted, node, devices).await.map_err(told)?;
        }
        Ok(())
    }

    /// Writes what claims get, and waits for devices that others have to bind first.
    async fn bind_devices(&self, wanted: &Wanted, node: &str, devices: &[Reserved]) -> Result<(), String> {
        let caches = &self.scheduler.lookup.devices;
        let claims = devices::reserve(&self.client, caches, &wanted.pod, devices).await?;
        if !devices::have_to_be_bound(&claims) {
            return Ok(());
        }
        if let Some(recorder) = self.recorder(wanted) {
            let message = format!("waiting for binding conditions for device on node {node}");
            recorder.normal(&*wanted.pod, "BindingConditionsPending", message);
        }
        let profile = profile_of(&self.scheduler.profiles, &wanted.pod).ok_or("its profile is gone")?;
        devices::bound(caches, &claims, profile.args.devices.binding).await
    }

    fn recorder(&self, wanted: &Wanted) -> Option<&Recorder> {
        self.recorders.get(wanted.spec().scheduler_name.as_deref().unwrap_or("default-scheduler"))
    }

    async fn bind(&self, wanted: &Wanted, node: &str) -> bool {
        let pod = &wanted.pod;
        let path = format!("{}/{}/binding", client::path_of::<Pod>(pod.namespace()), pod.name());
        let binding = json!({"apiVersion": "v1", "kind": "Binding",
            "metadata": {"namespace": pod.namespace(), "name": pod.name(), "uid": pod.uid()},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node}});
        let bound = self.client.post_subresource(&path, &binding).await;
        let is_bound = bound.is_ok();
        match bound {
            Ok(_) => {
                let message = format!("Successfully assigned {}/{} to {node}", pod.namespace(), pod.name());
                if let Some(recorder) = self.recorder(wanted) {
                    recorder.normal(&**pod, "Scheduled", message);
                }
            }
            Err(error) if error.is_not_found() => self.scheduler.binding_failed(wanted),
            Err(error) => self.failed(wanted, &format!("binding rejected: {error}")).await,
        }
        is_bound
    }

    async fn failed(&self, wanted: &Wanted, message: &str) {
        self.scheduler.binding_failed(wanted);
        self.report(wanted, "SchedulerError", message, None).await;
    }

    /// Gives claims their volumes, or has those made, and waits until they are there.
    async fn bind_volumes(&self, wanted: &Wanted, node: &str, volumes: &[Chosen]) -> Result<(), String> {
        let storage = &self.scheduler.lookup.storage;
        let namespace = wanted.pod.namespace();
        for one in volumes {
            let told = |error: Error| error.to_string();
            match one {
                Chosen::Volume { claim, volume } => {
                    let claim = storage.claims.get(namespace, claim).ok_or("a claim is gone")?;
                    let current = storage.volumes.get("", volume).ok_or("a volume is gone")?;
                    let reference = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": namespace,
                        "name": claim.name(), "uid": claim.uid(), "resourceVersion": claim.metadata.resource_version});
                    // With the version that was looked at: nobody else has it meanwhile.
                    let metadata = json!({"resourceVersion": current.metadata.resource_version,
                        "annotations": {"pv.kubernetes.io/bound-by-controller": "yes"}});
                    let patch = Patch::Merge(json!({"metadata": metadata, "spec": {"claimRef": reference}}));
                    let new =
                        self.client.patch::<PersistentVolume>("", volume, &patch).await.map_err(told)?;
                    storage.volumes.reached(new.revision()).await;
                }
                Chosen::Provision { claim } => {
                    let patch = Patch::Merge(json!({"metadata": {"annotations": {SELECTED_NODE: node}}}));
                    let new = self
                        .client
                        .patch::<PersistentVolumeClaim>(namespace, claim, &patch)
                        .await
                        .map_err(told)?;
                    storage.claims.reached(new.revision()).await;
                }
            }
        }
        let bound = self.volumes_bound(wanted, node, volumes);
        let profile = profile_of(&self.scheduler.profiles, &wanted.pod).ok_or("its profile is gone")?;
        tokio::time::timeout(profile.args.volumes_limit, bound)
            .await
            .unwrap_or_else(|_| Err("timed out waiting for the condition".to_owned()))
    }

    async fn volumes_bound(&self, wanted: &Wanted, node: &str, volumes: &[Chosen]) -> Result<(), String> {
        let cache = &self.scheduler.lookup.storage.claims;
        for one in volumes {
            let (Chosen::Volume { claim, .. } | Chosen::Provision { claim }) = one;
            loop {
                let changed = cache.changed();
                let current = cache.get(wanted.pod.namespace(), claim).ok_or("a claim is gone")?;
                if is_bound(&current) {
                    break;
                }
                let made_here = annotation(&current, SELECTED_NODE) == Some(node);
                if matches!(one, Chosen::Provision { .. }) && !made_here {
                    return Err(format!("provisioning failed for PVC {claim:?}"));
                }
                if self.current(&wanted.key).is_none() {
                    return Err("pod does not exist any more".to_owned());
                }
                changed.await;
            }
        }
        Ok(())
    }

    async fn refuse(&self, wanted: &Wanted, refused: Refused) {
        if let Some(obstacle) = &refused.obstacle
            && let Err(error) = devices::clear(&self.client, obstacle).await
        {
            tracing::warn!(%error, ?wanted.key, "devices stay with a claim that nobody uses");
        }
        let node = refused.preemption.as_ref().map(|preemption| preemption.node.as_str());
        let kept = {
            let state = self.scheduler.state();
            let place = state.cluster.nomination(&wanted.key);
            place.map(|place| state.cluster.place(place).facts.name.to_string())
        };
        self.report(wanted, "Unschedulable", &refused.message, node.or(kept.as_deref())).await;
        for other in &refused.displaced {
            self.clear_nomination(other).await;
        }
        if let Some(preemption) = refused.preemption {
            if let Err(error) = self.preempt(wanted, &preemption).await {
                tracing::warn!(%error, pod = ?wanted.key, "preemption failed");
            }
            self.scheduler.state().queue.preempted(&wanted.key, clock::instant());
        }
        // It may have become ready to be tried again meanwhile.
        self.scheduler.wake.notify_one();
    }

    fn current(&self, key: &Key) -> Option<Arc<Pod>> {
        let (namespace, name) = key.parts();
        self.scheduler.lookup.pods.get(namespace, name)
    }

    /// Says in an event and in the pod's condition why it has no node, and which one is kept for it; the
    /// status is written once.
    async fn report(&self, wanted: &Wanted, reason: &str, message: &str, nominated: Option<&str>) {
        let Some(pod) = self.current(&wanted.key).filter(|pod| pod.uid() == wanted.pod.uid()) else { return };
        if node_of(&pod).is_some() {
            return;
        }
        if let Some(recorder) = self.recorder(wanted) {
            recorder.warning(&*pod, "FailedScheduling", cut(message));
        }
        let status = pod.status.as_ref();
        let conditions = status.and_then(|status| status.conditions.as_deref()).unwrap_or_default();
        let known = conditions.iter().find(|condition| &*condition.type_ == "PodScheduled");
        let same = known.is_some_and(|known| {
            &*known.status == "False"
                && known.reason.as_deref() == Some(reason)
                && known.message.as_deref() == Some(message)
        });
        let told = status.and_then(|status| status.nominated_node_name.as_deref()).unwrap_or_default();
        if same && told == nominated.unwrap_or_default() {
            return;
        }
        let since = known.filter(|known| &*known.status == "False");
        let condition = json!({"type": "PodScheduled", "status": "False", "reason": reason, "message": message,
            "observedGeneration": pod.metadata.generation, "lastProbeTime": null,
            "lastTransitionTime": since.map_or_else(|| json!(now()), |known| json!(known.last_transition_time))});
        let mut status = json!({"conditions": [condition]});
        if told != nominated.unwrap_or_default() {
            status["nominatedNodeName"] = json!(nominated);
        }
        self.patch(&pod, status).await;
    }

    async fn clear_nomination(&self, wanted: &Wanted) {
        self.patch(&wanted.pod, json!({"nominatedNodeName": null})).await;
    }

    async fn patch(&self, pod: &Pod, status: Value) {
        let patch = Patch::Strategic(json!({"metadata": {"uid": pod.uid()}, "status": status}));
        if let Err(error) = self.client.patch_status::<Pod>(pod.namespace(), pod.name(), &patch).await {
            tracing::debug!(%error, pod = pod.name(), "could not say why a pod waits");
        }
    }

    async fn preempt(&self, wanted: &Wanted, preemption: &Preemption) -> Result<(), Error> {
        let scheduler_name = wanted.spec().scheduler_name.as_deref().unwrap_or("default-scheduler");
        for key in &preemption.victims {
            let Some(victim) = self.current(key).filter(|victim| !victim.is_deleting()) else { continue };
            let condition = json!({"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler",
                "message": format!("{scheduler_name}: preempting to accommodate a higher priority pod"),
                "observedGeneration": victim.metadata.generation, "lastProbeTime": null,
                "lastTransitionTime": now()});
            let status = json!({"conditions": [condition]});
            let patch = Patch::Strategic(json!({"metadata": {"uid": victim.uid()}, "status": status}));
            let (namespace, name) = key.parts();
            let noted = self.client.patch_status::<Pod>(namespace, name, &patch).await.map(drop);
            let deleted = match noted {
                Ok(()) => self.client.delete::<Pod>(namespace, name, &this(&victim)).await,
                refused => refused,
            };
            match deleted {
                // It left by itself; another one may have its name by now.
                Err(error) if error.is_not_found() || error.is_conflict() => continue,
                other => other?,
            }
            let message = format!("Preempted by pod {} on node {}", wanted.pod.uid(), preemption.node);
            if let Some(recorder) = self.recorder(wanted) {
                recorder.normal(&*victim, "Preempted", message);
            }
            self.scheduler.lookup.pods.deletion_seen(namespace, name, victim.uid()).await;
        }
        Ok(())
    }
}

/// For the deletion of this very pod, not of another that has its name by now.
fn this(pod: &Pod) -> DeleteOptions {
    let preconditions = Preconditions { uid: Some(pod.uid().to_owned()), ..Preconditions::default() };
    DeleteOptions { preconditions: Some(preconditions), ..DeleteOptions::default() }
}

fn cut(message: &str) -> String {
    const END: &str = " ...";
    if message.len() <= NOTE_BYTES {
        return message.to_owned();
    }
    format!("{}{END}", &message[..message.floor_char_boundary(NOTE_BYTES - END.len())])
}

/// The time as the API has it.
pub(crate) fn now() -> Time {
    Time(clock::whole_seconds(clock::now()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_victim_itself_is_deleted() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "a", "uid": "u"}})).unwrap();
        assert_eq!(serde_json::to_value(this(&pod)).unwrap()["preconditions"], json!({"uid": "u"}));
    }
}
