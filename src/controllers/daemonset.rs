//! Keeps a pod of a DaemonSet on each node that is the set's.

use crate::daemon_pods::{Demand, Fit, HASH, is_current, new, spec, target};
use crate::daemon_rollout::{self as rollout, surge_of};
use crate::history::{self, Versioned};
use crate::{common, pods};
use api::Object;
use api::apps::{DaemonSet, DaemonSetStatus};
use api::core::{self, Node};
use api::slim::{ControllerRevision, Pod};
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::sync::Arc;

/// How many pods one look creates or deletes at most; the rest follows at the next.
const BURST: usize = 250;

/// What is known when planning.
pub(crate) struct View<'a> {
    pub(crate) set: &'a DaemonSet,
    /// The hash of the current template.
    pub(crate) hash: &'a str,
    pub(crate) nodes: &'a [Arc<Node>],
    pub(crate) pods: &'a [Arc<Pod>],
    pub(crate) now: Timestamp,
}

/// A node of which pods are, or are to be, there.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) fit: Fit,
    /// Without those that have ended and are on their way out; the first counts where one has to.
    pub(crate) pods: Vec<Arc<Pod>>,
    /// The node is not there, or no longer.
    pub(crate) is_gone: bool,
}

pub(crate) type Places = BTreeMap<String, Place>;

#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub(crate) create: Vec<core::Pod>,
    pub(crate) delete: Vec<Arc<Pod>>,
    /// To be deleted as well, but not too often.
    pub(crate) failed: Vec<Arc<Pod>>,
    /// To be deleted, and told of.
    pub(crate) succeeded: Vec<Arc<Pod>>,
    pub(crate) status: DaemonSetStatus,
    /// When a ready pod will count as available.
    pub(crate) look_again_s: Option<u64>,
}

impl View<'_> {
    pub(crate) fn is_available(&self, pod: &Pod) -> bool {
        pods::is_available(pod, spec(self.set).min_ready_seconds.unwrap_or(0), self.now)
    }

    pub(crate) fn is_current(&self, pod: &Pod) -> bool {
        is_current(self.set, pod, self.hash)
    }

    fn places(&self) -> Places {
        let demand = Demand::of(self.set);
        let place = |node: &Arc<Node>| {
            let place = Place { fit: demand.of_node(node), pods: Vec::new(), is_gone: false };
            (node.name().to_owned(), place)
        };
        let mut places: Places = self.nodes.iter().map(place).collect();
        for pod in self.pods.iter().filter(|pod| !(pods::is_finished(pod) && pod.is_deleting())) {
            let Some(node) = target(pod) else { continue };
            let gone = || Place { fit: Fit::Leaves, pods: Vec::new(), is_gone: true };
            places.entry(node.to_owned()).or_insert_with(gone).pods.push(pod.clone());
        }
        for place in places.values_mut() {
            place.pods.sort_by_key(|pod| {
                let waits = pods::node_name(pod).is_empty();
                (waits, common::created(&pod.metadata), pod.name().to_owned())
            });
        }
        places
    }
}

pub(crate) fn plan(view: &View<'_>) -> Plan {
    let places = view.places();
    let min_ready_s = spec(view.set).min_ready_seconds.unwrap_or(0);
    let mut plan = Plan {
        status: status(view, &places),
        look_again_s: pods::seconds_to_availability(view.pods.iter(), min_ready_s, view.now),
        ..Plan::default()
    };
    let mut nodes = Vec::new();
    for (node, place) in &places {
        if manage(view, place, &mut plan) {
            nodes.push(node);
        }
    }
    // An update goes on once every node has what it needs.
    if nodes.is_empty() && plan.delete.is_empty() && plan.succeeded.is_empty() {
        let step = rollout::step(view, &places);
        (plan.delete, nodes) = (step.delete, step.surge);
        plan.failed.retain(|pod| plan.delete.iter().all(|other| other.uid() != pod.uid()));
    }
    plan.delete.truncate(BURST);
    plan.create = nodes.into_iter().take(BURST).map(|node| new(view.set, view.hash, node)).collect();
    plan
}

/// Sorts out the pods of one node; gives whether it needs one.
fn manage(view: &View<'_>, place: &Place, plan: &mut Plan) -> bool {
    let staying = || place.pods.iter().filter(|pod| !pod.is_deleting()).cloned();
    if place.is_gone {
        // Nobody else deletes what was never bound.
        plan.delete.extend(staying().filter(|pod| pods::node_name(pod).is_empty()));
        return false;
    }
    if place.fit == Fit::Leaves {
        plan.delete.extend(staying());
        return false;
    }
    let mut running = Vec::new();
    for pod in staying() {
        match pods::phase(&pod) {
            "Failed" => plan.failed.push(pod),
            "Succeeded" => plan.succeeded.push(pod),
            _ => running.push(pod),
        }
    }
    let runs = place.fit == Fit::Runs;
    if surge_of(view.set, 1) == 0 {
        plan.delete.extend(running.drain(1.min(running.len())..));
        return runs && place.pods.is_empty();
    }
    let is_bare = running.is_empty();
    if running.len() > 1 {
        plan.delete.extend(crowd(view, running));
    }
    runs && is_bare
}

/// The pods that are too many on a node where an old and a new one may be: the old one stays until the new one
/// is available, unless it is not ready itself.
fn crowd(view: &View<'_>, running: Vec<Arc<Pod>>) -> Vec<Arc<Pod>> {
    let (mut new, mut old): (Vec<_>, Vec<_>) =
        running.into_iter().partition(|pod| pod.labels().get(HASH) == Some(view.hash));
    let mut surplus: Vec<_> = new.drain(1.min(new.len())..).chain(old.drain(1.min(old.len())..)).collect();
    if let (Some(new), Some(old)) = (new.first(), old.first())
        && (!pods::is_ready(old) || view.is_available(new))
    {
        surplus.push(old.clone());
    }
    surplus
}

fn status(view: &View<'_>, places: &Places) -> DaemonSetStatus {
    let of_nodes =
        |runs: bool| places.values().filter(move |place| !place.is_gone && (place.fit == Fit::Runs) == runs);
    let first = || of_nodes(true).filter_map(|place| place.pods.first());
    let is_available = |pod: &&Arc<Pod>| pods::is_ready(pod) && view.is_available(pod);
    let (desired, available) = (of_nodes(true).count(), first().filter(is_available).count());
    DaemonSetStatus {
        observed_generation: view.set.meta().generation,
        desired_number_scheduled: common::count(desired),
        current_number_scheduled: common::count(first().count()),
        number_misscheduled: common::count(of_nodes(false).filter(|place| !place.pods.is_empty()).count()),
        number_ready: common::count(first().filter(|pod| pods::is_ready(pod)).count()),
        updated_number_scheduled: common::nonzero(first().filter(|pod| view.is_current(pod)).count()),
        number_available: common::nonzero(available),
        number_unavailable: common::nonzero(desired - available),
        collision_count: Some(view.set.collisions()).filter(|count| *count > 0),
        conditions: view.set.status.as_ref().and_then(|status| status.conditions.clone()),
    }
}

/// By what pods are known as those of a revision: a revision that somebody made may lack the label.
pub(crate) fn hash(revision: &ControllerRevision) -> &str {
    revision.labels().get(HASH).unwrap_or_else(|| revision.name())
}

/// The revisions beyond `spec.revisionHistoryLimit` that are neither of the current template nor of pods; the latter
/// count all the same.
pub(crate) fn surplus<'a>(
    set: &DaemonSet,
    revisions: &'a [Arc<ControllerRevision>],
    pods: &[Arc<Pod>],
) -> Vec<&'a Arc<ControllerRevision>> {
    let old = || revisions.iter().filter(|one| !history::is_of(one, set.template()));
    let surplus = old().count().saturating_sub(history::kept(spec(set).revision_history_limit));
    history::unused(old(), surplus, |one| pods.iter().any(|pod| pod.labels().get(HASH) == Some(hash(one))))
}
