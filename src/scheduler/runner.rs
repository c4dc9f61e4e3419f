//! Follows the caches, takes pods from the queue one by one, and binds them side by side.

use crate::Config;
use crate::cluster::Cluster;
use crate::filters::Happening;
use crate::plan::{self, Unfit};
use crate::preemption::{self, Preemption};
use crate::queue::Queue;
use crate::wanted::{Key, Wanted};
use api::Object;
use api::core::{Namespace, Node};
use api::slim::Pod;
use base::{Phase, Restart, Shutdown, Supervisor, clock};
use client::{Cache, Caches, Change, Client, Error, Patch, Recorder};
use serde_json::json;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Notify, Semaphore};

/// How many pods are being bound at a time.
const BINDINGS: usize = 64;

#[derive(Default)]
struct State {
    cluster: Cluster,
    queue: Queue,
    /// Where room is being made for which pod: its place there is kept from less important ones.
    nominated: HashMap<Key, String>,
    /// Where the search for a node starts: it moves on with every pod.
    turn: usize,
}

/// What becomes of a pod for now.
enum Decision {
    Bind(String),
    GiveUp(Unfit, Option<Preemption>),
}

struct Scheduler {
    config: Config,
    client: Client,
    recorder: Recorder,
    supervisor: Supervisor,
    state: Mutex<State>,
    wake: Notify,
    bindings: Arc<Semaphore>,
    pods: Cache<Pod>,
    nodes: Cache<Node>,
    namespaces: Cache<Namespace>,
}

pub(crate) fn start(config: Config, client: Client, caches: &Caches, supervisor: &Supervisor) {
    let scheduler = Arc::new(Scheduler {
        recorder: Recorder::new(client.clone(), supervisor, &config.scheduler_name, ""),
        config,
        client,
        supervisor: supervisor.clone(),
        state: Mutex::default(),
        wake: Notify::new(),
        bindings: Arc::new(Semaphore::new(BINDINGS)),
        pods: caches.of(),
        nodes: caches.of(),
        namespaces: caches.of(),
    });
    follow(&scheduler);
    supervisor.run("scheduler", Phase::Work, Restart::OnFailure, move |shutdown| {
        let scheduler = scheduler.clone();
        async move {
            scheduler.run(shutdown).await;
            Ok::<(), Error>(())
        }
    });
}

fn follow(scheduler: &Arc<Scheduler>) {
    let namespaces = scheduler.clone();
    scheduler.namespaces.on_change(move |change| {
        let labels = change.new.as_ref().map(|namespace| namespace.labels().clone());
        namespaces.state().cluster.put_namespace(change.object().name(), labels);
    });
    let nodes = scheduler.clone();
    scheduler.nodes.on_change(move |change| nodes.node_changed(change));
    let pods = scheduler.clone();
    scheduler.pods.on_change(move |change| pods.pod_changed(change));
}

/// The parts of a node that decide about pods; heartbeats change none of them.
fn matters_to_pods(old: &Node, new: &Node) -> bool {
    let allocatable = |node: &Node| node.status.as_ref().and_then(|status| status.allocatable.clone());
    old.labels() != new.labels() || old.spec != new.spec || allocatable(old) != allocatable(new)
}

fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref().filter(|name| !name.is_empty())
}

fn is_finished(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

impl Scheduler {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn node_changed(&self, change: &Change<Node>) {
        let mut state = self.state();
        let Some(node) = &change.new else {
            return state.cluster.remove_node(change.object().name());
        };
        let matters = change.old.as_ref().is_none_or(|old| matters_to_pods(old, node));
        state.cluster.put_node(node.clone());
        if matters {
            state.queue.happened(Happening::Node, clock::instant());
            drop(state);
            self.wake.notify_one();
        }
    }

    fn pod_changed(&self, change: &Change<Pod>) {
        let pod = change.object();
        let key = Key::of(pod);
        let mut state = self.state();
        let there = change.new.is_some() && !is_finished(pod);
        match node_of(pod).filter(|_| there) {
            Some(node) => {
                state.queue.remove(&key);
                state.nominated.remove(&key);
                let known = state.cluster.pod(&key);
                let same =
                    known.is_some_and(|known| known.spec == pod.spec && known.labels() == pod.labels());
                let left = pod.is_deleting() && change.old.as_ref().is_some_and(|old| !old.is_deleting());
                // Whatever changed: the pod as it was would be kept in memory beside the cache's.
                state.cluster.put_pod(node, Arc::new(Wanted::new(pod.clone())));
                if !same || left {
                    state.queue.happened(Happening::PodCame, clock::instant());
                }
            }
            None if there && self.is_ours(pod) => {
                let matters = change
                    .old
                    .as_ref()
                    .is_none_or(|old| old.spec != pod.spec || old.labels() != pod.labels());
                state.queue.put(Arc::new(Wanted::new(pod.clone())), matters);
            }
            None => {
                state.queue.remove(&key);
                state.nominated.remove(&key);
                if state.cluster.remove_pod(&key) {
                    state.queue.happened(Happening::PodGone, clock::instant());
                }
            }
        }
        drop(state);
        self.wake.notify_one();
    }

    /// It is waiting for this scheduler, and for nobody else (`spec.schedulingGates`).
    fn is_ours(&self, pod: &Pod) -> bool {
        let Some(spec) = &pod.spec else { return false };
        spec.scheduler_name.as_deref().unwrap_or("default-scheduler") == self.config.scheduler_name
            && spec.scheduling_gates.as_ref().is_none_or(|gates| gates.is_empty())
            && !pod.is_deleting()
    }

    async fn run(self: Arc<Self>, shutdown: Shutdown) {
        self.namespaces.synced().await;
        self.nodes.synced().await;
        self.pods.synced().await;
        loop {
            let (next, due) = {
                let mut state = self.state();
                (state.queue.take(clock::instant()), state.queue.next_due())
            };
            if let Some(wanted) = next {
                self.schedule(wanted).await;
                if shutdown.is_requested() {
                    return;
                }
                continue;
            }
            let timer = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.wake.notified() => {}
                () = timer => {}
                () = shutdown.requested() => return,
            }
        }
    }

    async fn schedule(self: &Arc<Self>, wanted: Arc<Wanted>) {
        let Ok(permit) = self.bindings.clone().acquire_owned().await else { return };
        let decision = self.decide(&wanted);
        let scheduler = self.clone();
        self.supervisor.detached("binding a pod", Phase::Work, async move {
            match decision {
                Decision::Bind(node) => scheduler.bind(wanted, node).await,
                Decision::GiveUp(unfit, preemption) => scheduler.give_up(&wanted, unfit, preemption).await,
            }
            drop(permit);
        });
    }

    /// Chooses a node and takes its room at once: the next decision must not give it away again.
    fn decide(&self, wanted: &Arc<Wanted>) -> Decision {
        let mut state = self.state();
        let key = &wanted.key;
        state.turn = state.turn.wrapping_add(1);
        let nominated = state.nominated.remove(key);
        if nominated.is_some() {
            state.cluster.remove_pod(key);
        }
        let mut unfit = match plan::plan(wanted, &state.cluster, state.turn) {
            Ok(node) => {
                state.cluster.put_pod(&node, wanted.clone());
                return Decision::Bind(node);
            }
            Err(unfit) => unfit,
        };
        let preemption = make_room(wanted, &state.cluster, nominated.as_deref(), &unfit);
        let reserved = match &preemption {
            Ok(preemption) => Some(preemption.node.clone()),
            Err(why_not) => {
                unfit.message = format!("{} {why_not}", unfit.message).trim_end().to_owned();
                // Still leaving: the place stays reserved.
                nominated.filter(|node| still_leaving(wanted, &state.cluster, node))
            }
        };
        if let Some(node) = reserved {
            state.cluster.put_pod(&node, wanted.clone());
            state.nominated.insert(key.clone(), node);
        }
        let helped_by = std::mem::take(&mut unfit.helped_by);
        state.queue.unschedulable(key, helped_by, clock::instant());
        Decision::GiveUp(unfit, preemption.ok())
    }

    async fn bind(&self, wanted: Arc<Wanted>, node: String) {
        let pod = &wanted.pod;
        let path = format!("{}/{}/binding", client::path_of::<Pod>(pod.namespace()), pod.name());
        let binding = json!({"apiVersion": "v1", "kind": "Binding",
            "metadata": {"namespace": pod.namespace(), "name": pod.name(), "uid": pod.uid()},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node}});
        match self.client.post_subresource(&path, &binding).await {
            Ok(_) => {
                let message = format!("Successfully assigned {}/{} to {node}", pod.namespace(), pod.name());
                self.recorder.normal(&**pod, "Scheduled", message);
            }
            Err(error) => {
                {
                    let mut state = self.state();
                    // Bound after all, or gone: the cache has said so, or will.
                    let current = self.pods.get(pod.namespace(), pod.name());
                    if current.is_none_or(|pod| node_of(&pod).is_none()) {
                        state.cluster.remove_pod(&wanted.key);
                    }
                    state.queue.failed(&wanted.key, clock::instant());
                }
                self.wake.notify_one();
                if !error.is_not_found() {
                    let message = format!("binding rejected: {error}");
                    self.report(pod, "SchedulerError", &message).await;
                }
            }
        }
    }

    async fn give_up(&self, wanted: &Wanted, unfit: Unfit, preemption: Option<Preemption>) {
        if let Some(preemption) = preemption
            && let Err(error) = self.preempt(wanted, preemption).await
        {
            tracing::warn!(%error, pod = ?wanted.key, "preemption failed");
        }
        self.report(&wanted.pod, "Unschedulable", &unfit.message).await;
        // It may have become ready to be tried again meanwhile.
        self.wake.notify_one();
    }

    /// Says in an event and in the pod's condition why it has no node; the condition once.
    async fn report(&self, pod: &Pod, reason: &str, message: &str) {
        self.recorder.warning(pod, "FailedScheduling", message.to_owned());
        let current = self.pods.get(pod.namespace(), pod.name());
        let conditions = current.as_ref().and_then(|pod| pod.status.as_ref()?.conditions.as_deref());
        let known =
            conditions.unwrap_or_default().iter().find(|condition| &*condition.type_ == "PodScheduled");
        if known.is_some_and(|known| &*known.status == "False" && known.message.as_deref() == Some(message)) {
            return;
        }
        let condition = json!({"type": "PodScheduled", "status": "False", "reason": reason, "message": message,
            "lastTransitionTime": known.filter(|known| &*known.status == "False").map_or_else(now, |known| json!(known.last_transition_time))});
        let patch = Patch::Strategic(json!({"status": {"conditions": [condition]}}));
        if let Err(error) = self.client.patch_status::<Pod>(pod.namespace(), pod.name(), &patch).await {
            tracing::debug!(%error, "could not say why a pod waits");
        }
    }

    async fn preempt(&self, wanted: &Wanted, preemption: Preemption) -> Result<(), Error> {
        let pod = &wanted.pod;
        let nominate = Patch::Merge(json!({"status": {"nominatedNodeName": preemption.node}}));
        self.client.patch_status::<Pod>(pod.namespace(), pod.name(), &nominate).await?;
        for victim in preemption.victims.iter().filter(|victim| !victim.is_deleting()) {
            let condition = json!({"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler",
                "message": format!("{}: preempting to accommodate a higher priority pod", self.config.scheduler_name),
                "lastTransitionTime": now()});
            let patch = Patch::Strategic(json!({"status": {"conditions": [condition]}}));
            let place = (victim.namespace(), victim.name());
            let noted = self.client.patch_status::<Pod>(place.0, place.1, &patch).await.map(drop);
            let deleted = self.client.delete::<Pod>(place.0, place.1, &Default::default()).await;
            match noted.and(deleted) {
                // It left by itself.
                Err(error) if error.is_not_found() => continue,
                other => other?,
            }
            let message = format!("Preempted by pod {} on node {}", pod.uid(), preemption.node);
            self.recorder.normal(&**victim, "Preempted", message);
        }
        Ok(())
    }
}

fn still_leaving(wanted: &Wanted, cluster: &Cluster, node: &str) -> bool {
    cluster.place(node).is_some_and(|place| preemption::is_making_room(wanted, place))
}

/// Where less important pods can make room, or what to add to the message.
fn make_room(
    wanted: &Wanted,
    cluster: &Cluster,
    nominated: Option<&str>,
    unfit: &Unfit,
) -> Result<Preemption, String> {
    if unfit.nodes == 0 {
        return Err(String::new());
    }
    if nominated.is_some_and(|node| still_leaving(wanted, cluster, node)) {
        return Err("preemption: not eligible due to a terminating pod on the nominated node.".to_owned());
    }
    preemption::plan(wanted, cluster, unfit)
}

/// The time in whole seconds, as the API has it.
fn now() -> serde_json::Value {
    let now = clock::now();
    json!(api::meta::Time(jiff::Timestamp::from_second(now.as_second()).unwrap_or(now)))
}
