//! Keeps as many pods of a ReplicaSet or a ReplicationController as it asks for.

use crate::common::{self, Key, Room, count, nonzero, now};
use crate::pod_control::PodControl;
use crate::pods;
use crate::replicated::Replicated;
use api::apps::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use api::core::ReplicationController;
use api::slim::{DELETION_COST, Pod};
use api::{Object, owner_reference};
use client::{Cache, Error, Next, Queue};
use jiff::Timestamp;
use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// How many pods one look creates or deletes at most; the rest follows at the next.
const BURST: usize = 500;

#[derive(Clone)]
struct Sets<T> {
    sets: Cache<T>,
    control: PodControl,
}

pub(crate) fn start(room: &Room) {
    serve::<ReplicaSet>(room, "replicaset");
    serve::<ReplicationController>(room, "replicationcontroller");
}

fn serve<T: Replicated>(room: &Room, name: &'static str) {
    let controller = Sets::<T> { sets: room.caches.of(), control: PodControl::new(room, T::CONTROLLER) };
    let queue = Queue::new(name);
    common::watch_self(&controller.sets, &queue);
    let sets = controller.sets.clone();
    common::watch_children(&controller.control.pods, &queue, T::KIND, move |pod: &Pod| {
        let sets = sets.snapshot();
        let matching = sets.in_namespace(pod.namespace()).filter(|set| set.selector().selects(pod));
        matching.map(|set| Key::of(&**set)).collect()
    });
    room.work(&format!("{name} controller"), &queue, 8, move |key| {
        let controller = controller.clone();
        async move { controller.sync(key).await }
    });
}

/// What to do about a ReplicaSet's pods.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Plan {
    pub(crate) create: usize,
    /// In the order in which they matter least.
    pub(crate) delete: Vec<Arc<Pod>>,
    pub(crate) status: ReplicaSetStatus,
    /// When a ready pod will count as available.
    pub(crate) look_again_s: Option<u64>,
}

/// Compares the pods a set owns with what it asks for. `related` are all pods of the set's owner.
pub(crate) fn plan<T: Replicated>(set: &T, owned: &[Arc<Pod>], related: &[Arc<Pod>], now: Timestamp) -> Plan {
    let active: Vec<_> = owned.iter().filter(|pod| pods::is_active(pod)).cloned().collect();
    let wanted = usize::try_from(set.wanted()).unwrap_or(0);
    let mut plan = Plan { status: status(set, owned, &active, now), ..Plan::default() };
    plan.look_again_s = pods::seconds_to_availability(active.iter(), set.min_ready_s(), now);
    if set.is_deleting() {
        return plan;
    }
    plan.create = wanted.saturating_sub(active.len()).min(BURST);
    let surplus = active.len().saturating_sub(wanted).min(BURST);
    if surplus > 0 {
        plan.delete = least_needed(active, related, now);
        plan.delete.truncate(surplus);
    }
    plan
}

fn status<T: Replicated>(
    set: &T,
    owned: &[Arc<Pod>],
    active: &[Arc<Pod>],
    now: Timestamp,
) -> ReplicaSetStatus {
    let template = set.template().and_then(|template| template.metadata.as_ref());
    let labels = template.and_then(|meta| meta.labels.clone()).unwrap_or_default();
    let fully = |pod: &&Arc<Pod>| labels.iter().all(|(key, value)| pod.labels().get(key) == Some(value));
    let min_ready_s = set.min_ready_s();
    let terminating = owned.iter().filter(|pod| pod.is_deleting() && !pods::is_finished(pod)).count();
    let ready = active.iter().filter(|pod| pods::is_ready(pod)).count();
    let available = active.iter().filter(|pod| pods::is_available(pod, min_ready_s, now)).count();
    ReplicaSetStatus {
        replicas: count(active.len()),
        fully_labeled_replicas: nonzero(active.iter().filter(fully).count()),
        ready_replicas: nonzero(ready),
        available_replicas: nonzero(available),
        terminating_replicas: Some(count(terminating)),
        observed_generation: set.meta().generation,
        conditions: set.status().and_then(|status| status.conditions),
    }
}

/// Orders pods by how little they are needed: unscheduled, pending, unready, cheap to delete, crowded
/// on their node, ready for a short time, restarted often, young.
fn least_needed(mut active: Vec<Arc<Pod>>, related: &[Arc<Pod>], now: Timestamp) -> Vec<Arc<Pod>> {
    let mut on_node: HashMap<&str, usize> = HashMap::new();
    for pod in related.iter().filter(|pod| pods::is_active(pod)) {
        *on_node.entry(pods::node_name(pod)).or_default() += 1;
    }
    active.sort_by_cached_key(|pod| {
        let cost: i32 = pod.annotations().get(DELETION_COST).and_then(|cost| cost.parse().ok()).unwrap_or(0);
        let crowd = on_node.get(pods::node_name(pod)).copied().unwrap_or(0);
        let ready_for = pods::ready_since(pod).map(|since| magnitude(since, now));
        let age = magnitude(common::created(&pod.metadata), now);
        (
            !pods::node_name(pod).is_empty(),
            pods::phase_rank(pod),
            pods::is_ready(pod),
            cost,
            Reverse(crowd),
            ready_for,
            (Reverse(pods::restarts(pod)), age, pod.uid().to_owned()),
        )
    });
    active
}

/// Times are compared by their magnitude, so that among pods of a similar age chance decides.
fn magnitude(since: Timestamp, now: Timestamp) -> u32 {
    u64::try_from(common::seconds_between(since, now)).unwrap_or(0).checked_ilog2().map_or(0, |log| log + 1)
}

impl<T: Replicated> Sets<T> {
    async fn sync(self, key: Key) -> Result<Next, Error> {
        self.control.pods.synced().await;
        let Some(set) = self.sets.get(&key.namespace, &key.name) else { return Ok(Next::Done) };
        let owned = self.claim(&set).await?;
        let related = self.related(&set);
        let plan = plan(&*set, &owned, &related, common::now().0);
        let looked_at = plan.look_again_s;
        let outcome = match plan.create {
            0 => self.control.delete(&*set, &plan.delete).await,
            wanted => self.create(&set, wanted).await,
        };
        self.write_status(&set, plan.status, outcome.as_ref().err()).await?;
        outcome?;
        Ok(looked_at.map_or(Next::Done, |seconds| Next::After(Duration::from_secs(seconds))))
    }

    /// The pods this set owns, after taking what matches and letting go what no longer does.
    async fn claim(&self, set: &T) -> Result<Vec<Arc<Pod>>, Error> {
        let selector = set.selector();
        let matches = |pod: &Pod| selector.selects(pod);
        common::claim_all(&self.control.client, set, &self.control.pods, matches, pods::is_active).await
    }

    /// The pods of all sets of the same owner: they compete for places on nodes.
    fn related(&self, set: &T) -> Vec<Arc<Pod>> {
        let owner = set.controller().map(|owner| owner.uid);
        let sets = self.sets.snapshot();
        let of_owner = |uid: &str| {
            let same = |other: &&Arc<T>| other.controller().is_some_and(|it| it.uid == uid);
            sets.in_namespace(set.namespace()).filter(same).map(|other| other.uid().to_owned()).collect()
        };
        let uids: Vec<String> = owner.map_or_else(|| vec![set.uid().to_owned()], of_owner);
        let snapshot = self.control.pods.snapshot();
        let related = snapshot
            .in_namespace(set.namespace())
            .filter(|pod| pod.controller().is_some_and(|owner| uids.iter().any(|uid| uid == owner.uid)));
        related.cloned().collect()
    }

    async fn create(&self, set: &T, wanted: usize) -> Result<(), Error> {
        let template = set.template().cloned().unwrap_or_default();
        let pod = pods::from_template(&template, set.namespace(), set.name(), owner_reference(set));
        self.control.create(set, std::iter::repeat_n(pod, wanted)).await
    }

    async fn write_status(
        &self,
        set: &T,
        mut status: ReplicaSetStatus,
        failure: Option<&Error>,
    ) -> Result<(), Error> {
        status.conditions = with_failure(status.conditions, status.replicas < set.wanted(), failure);
        let changed = set.with_status(status);
        if set.status() == changed.status() {
            return Ok(());
        }
        match self.control.client.update_status(&changed).await {
            Err(error) if error.is_not_found() => Ok(()),
            other => {
                self.sets.reached(other?.revision()).await;
                Ok(())
            }
        }
    }
}

/// Sets or removes the `ReplicaFailure` condition.
pub(crate) fn with_failure(
    conditions: Option<Vec<ReplicaSetCondition>>,
    too_few: bool,
    failure: Option<&Error>,
) -> Option<Vec<ReplicaSetCondition>> {
    let mut conditions = conditions.unwrap_or_default();
    let old = conditions.iter().position(|condition| condition.type_ == "ReplicaFailure");
    match (failure, old) {
        (Some(error), None) => conditions.push(ReplicaSetCondition {
            type_: "ReplicaFailure".to_owned(),
            status: "True".to_owned(),
            reason: Some(if too_few { "FailedCreate" } else { "FailedDelete" }.to_owned()),
            message: Some(error.to_string()),
            last_transition_time: Some(now()),
        }),
        (None, Some(at)) => drop(conditions.remove(at)),
        (Some(_), Some(_)) | (None, None) => {}
    }
    Some(conditions).filter(|conditions| !conditions.is_empty())
}
