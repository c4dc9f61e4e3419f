//! Carries out what `daemonset.rs` plans.

use crate::common::{self, Key, Room};
use crate::daemon_pods::{Demand, HASH, spec};
use crate::daemonset::{Plan, View, hash, plan, surplus};
use crate::history::{History, Versioned, is_of};
use crate::pod_control::PodControl;
use api::Object;
use api::apps::{DaemonSet, DaemonSetStatus};
use api::core::Node;
use api::meta::LabelSelector;
use api::slim::{ControllerRevision, Pod};
use base::{Backoff, clock};
use client::{Cache, Change, Error, Next, Patch, Queue};
use serde_json::json;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How many sets are worked on at once.
const WORKERS: usize = 2;
/// How often failed pods of a node are replaced: a node that refuses them would otherwise keep the cluster busy.
const FIRST_DELAY: Duration = Duration::from_secs(1);
const LONGEST_DELAY: Duration = Duration::from_secs(15 * 60);

#[derive(Clone)]
struct DaemonSets {
    sets: Cache<DaemonSet>,
    nodes: Cache<Node>,
    history: History,
    control: PodControl,
    failures: Arc<Mutex<Failures>>,
}

pub(crate) fn start(room: &Room) {
    let controller = DaemonSets {
        sets: room.caches.of(),
        nodes: room.caches.of(),
        history: History::new(room),
        control: PodControl::new(room, "daemonset-controller"),
        failures: Arc::default(),
    };
    let queue = Queue::new("daemonset");
    common::watch_self(&controller.sets, &queue);
    let sets = controller.sets.clone();
    let pods = &controller.control.pods;
    common::watch_children(pods, &queue, "DaemonSet", move |pod: &Pod| adopters(&sets, pod));
    let sets = controller.sets.clone();
    controller.history.watch_orphans(&queue, move |revision| adopters(&sets, revision));
    let (concerned, sets) = (queue.clone(), controller.sets.clone());
    controller.nodes.on_change(move |change| {
        if is_news(change) {
            let sets = sets.snapshot();
            let matters = |set: &&Arc<DaemonSet>| {
                let demand = Demand::of(set);
                let fit = |node: &Option<Arc<Node>>| node.as_ref().map(|node| demand.of_node(node));
                fit(&change.old) != fit(&change.new)
            };
            sets.iter().filter(matters).for_each(|set| concerned.add(Key::of(&**set)));
        }
    });
    room.work("daemonset controller", &queue, WORKERS, move |key| controller.clone().sync(key));
}

fn adopters(sets: &Cache<DaemonSet>, child: &impl Object) -> Vec<Key> {
    let sets = sets.snapshot();
    common::adopters(sets.in_namespace(child.namespace()), |set| Some(&spec(set).selector), child)
}

/// Nodes tell of themselves all the time; where pods run depends on their labels and taints.
fn is_news(change: &Change<Node>) -> bool {
    let (Some(old), Some(new)) = (&change.old, &change.new) else { return true };
    let taints = |node: &Node| node.spec.as_ref().and_then(|spec| spec.taints.clone());
    old.labels() != new.labels() || taints(old) != taints(new)
}

impl DaemonSets {
    async fn sync(self, key: Key) -> Result<Next, Error> {
        self.control.pods.synced().await;
        self.nodes.synced().await;
        self.history.revisions.synced().await;
        let found = self.sets.get(&key.namespace, &key.name);
        let Some(set) = found.filter(|set| !set.is_deleting()) else {
            self.failures().forget(&key);
            return Ok(Next::Done);
        };
        if spec(&set).selector == LabelSelector::default() {
            let message = "This daemon set is selecting all pods. A non-empty selector is required.";
            self.control.recorder.warning(&*set, "SelectingAll", message.to_owned());
            return Ok(Next::Done);
        }
        let revisions = self.history.of(&*set).await?;
        let (current, collisions) = self.history.current(&*set, &revisions).await?;
        let pods = self.claim(&set).await?;
        self.merge(&set, &revisions, &current, &pods).await?;
        let nodes: Vec<_> = self.nodes.snapshot().iter().cloned().collect();
        let now = common::now().0;
        let mut plan = plan(&View { set: &set, hash: hash(&current), nodes: &nodes, pods: &pods, now });
        plan.status.collision_count = Some(collisions).filter(|count| *count > 0);
        let (status, soonest_s) = (plan.status.clone(), plan.look_again_s);
        let outcome = self.carry_out(&key, &set, plan).await;
        self.write_status(&set, status).await?;
        let held = outcome?;
        self.history.delete(surplus(&set, &revisions, &pods)).await?;
        let next = soonest_s.map(Duration::from_secs).into_iter().chain(held).min();
        Ok(next.map_or(Next::Done, Next::After))
    }

    fn failures(&self) -> std::sync::MutexGuard<'_, Failures> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn claim(&self, set: &DaemonSet) -> Result<Vec<Arc<Pod>>, Error> {
        let selector = set.selector();
        let matches = |pod: &Pod| selector.selects(pod);
        common::claim_all(&self.control.client, set, &self.control.pods, matches, |_| true).await
    }

    /// Of several revisions of one template one stays, and the pods of the others become its own.
    async fn merge(
        &self,
        set: &DaemonSet,
        revisions: &[Arc<ControllerRevision>],
        current: &ControllerRevision,
        pods: &[Arc<Pod>],
    ) -> Result<(), Error> {
        let same = |one: &&Arc<ControllerRevision>| one.uid() != current.uid() && is_of(one, set.template());
        let twins: Vec<_> = revisions.iter().filter(same).collect();
        let of_twin = |pod: &&Arc<Pod>| {
            twins.iter().any(|twin| pod.labels().get(HASH) == Some(hash(twin)) && hash(twin) != hash(current))
        };
        for pod in pods.iter().filter(of_twin) {
            let patch = json!({"metadata": {"uid": pod.uid(), "labels": {HASH: hash(current)}}});
            let patched: Pod =
                self.control.client.patch(pod.namespace(), pod.name(), &Patch::Merge(patch)).await?;
            self.control.pods.reached(patched.revision()).await;
        }
        self.history.delete(twins).await
    }

    /// Gives when a failed pod may be replaced that may not be yet.
    async fn carry_out(&self, key: &Key, set: &DaemonSet, mut plan: Plan) -> Result<Option<Duration>, Error> {
        let mut held: Option<Duration> = None;
        for pod in plan.failed {
            let node = crate::daemon_pods::target(&pod).unwrap_or_default();
            let generation = set.metadata.generation.unwrap_or(0);
            if let Some(left) = self.failures().hold(key, node, generation, clock::instant()) {
                held = Some(held.map_or(left, |other| other.min(left)));
                continue;
            }
            let place = format!("{}/{} on node {node}", pod.namespace(), pod.name());
            let message = format!("Found failed daemon pod {place}, will try to kill it");
            self.control.recorder.warning(set, "FailedDaemonPod", message);
            plan.delete.push(pod);
        }
        for pod in plan.succeeded {
            let node = crate::daemon_pods::target(&pod).unwrap_or_default();
            let place = format!("{}/{} on node {node}", pod.namespace(), pod.name());
            let message = format!("Found succeeded daemon pod {place}, will try to delete it");
            self.control.recorder.normal(set, "SucceededDaemonPod", message);
            plan.delete.push(pod);
        }
        self.control.create(set, plan.create.into_iter()).await?;
        self.control.delete(set, &plan.delete).await?;
        Ok(held)
    }

    async fn write_status(&self, set: &DaemonSet, status: DaemonSetStatus) -> Result<(), Error> {
        if set.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let changed = DaemonSet { status: Some(status), ..set.clone() };
        match self.control.client.update_status(&changed).await {
            Err(error) if error.is_not_found() => {}
            other => self.sets.reached(other?.revision()).await,
        }
        Ok(())
    }
}

/// How often a set's pods failed, by node; a new generation of the set starts anew.
#[derive(Default)]
struct Failures(HashMap<Key, HashMap<String, Failure>>);

struct Failure {
    generation: i64,
    backoff: Backoff,
    until: clock::Instant,
    since: clock::Instant,
}

impl Failures {
    /// For how long a failed pod has to stay; otherwise it is counted as replaced now.
    fn hold(&mut self, set: &Key, node: &str, generation: i64, now: clock::Instant) -> Option<Duration> {
        let nodes = self.0.entry(set.clone()).or_default();
        nodes.retain(|_, one| one.generation == generation && now < one.since + 2 * LONGEST_DELAY);
        let failure = nodes.entry(node.to_owned()).or_insert_with(|| {
            let backoff = Backoff::new(FIRST_DELAY, LONGEST_DELAY);
            Failure { generation, backoff, until: now, since: now }
        });
        if now < failure.until {
            return Some(failure.until - now);
        }
        (failure.since, failure.until) = (now, now + failure.backoff.next_delay());
        None
    }

    fn forget(&mut self, set: &Key) {
        self.0.remove(set);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failed_pods_are_replaced_less_and_less_often() {
        let (set, start) = (Key::new("ns", "agent"), clock::instant());
        let mut failures = Failures::default();
        let mut hold = |node: &str, generation: i64, second: u64| {
            failures
                .hold(&set, node, generation, start + Duration::from_secs(second))
                .map(|left| left.as_secs())
        };
        let first: Vec<_> = [0, 0, 1, 2, 3].map(|second| hold("a", 1, second)).into();
        assert_eq!(first, [None, Some(1), None, Some(1), None]);
        assert_eq!((hold("b", 1, 3), hold("a", 1, 4)), (None, Some(3)));
        assert_eq!(hold("a", 2, 4), None, "a new generation starts anew");
    }
}
