//! Which pods of a DaemonSet make room for ones of a new template (`spec.updateStrategy`).

use crate::common::share_of;
use crate::daemon_pods::{Fit, spec};
use crate::daemonset::{Place, Places, View};
use api::Object;
use api::apps::{DaemonSet, RollingUpdateDaemonSet};
use api::slim::Pod;
use std::sync::Arc;

/// What the update does next.
#[derive(Debug, Default)]
pub(crate) struct Step<'a> {
    pub(crate) delete: Vec<Arc<Pod>>,
    /// Nodes that get a new pod beside the old one.
    pub(crate) surge: Vec<&'a String>,
}

fn rolling(set: &DaemonSet) -> Option<&RollingUpdateDaemonSet> {
    let strategy = spec(set).update_strategy.as_ref()?;
    strategy.rolling_update.as_ref().filter(|_| strategy.type_.as_deref() == Some("RollingUpdate"))
}

/// How many nodes of so many may have two pods.
pub(crate) fn surge_of(set: &DaemonSet, nodes: i32) -> usize {
    let surge = rolling(set).and_then(|rolling| rolling.max_surge.as_ref());
    surge.map_or(0, |surge| usize::try_from(share_of(surge, nodes, true)).unwrap_or(0))
}

/// How many nodes of so many may be without an available pod.
fn unavailable_of(set: &DaemonSet, nodes: i32) -> usize {
    let most = rolling(set).and_then(|rolling| rolling.max_unavailable.as_ref());
    most.map_or(0, |most| usize::try_from(share_of(most, nodes, true)).unwrap_or(0))
}

/// The pods of a node that are not on their way out, if there is at most one of each kind.
struct Pair {
    new: Option<Arc<Pod>>,
    old: Option<Arc<Pod>>,
}

fn pair(view: &View<'_>, place: &Place) -> Option<Pair> {
    let staying = place.pods.iter().filter(|pod| !pod.is_deleting()).cloned();
    let (new, old): (Vec<_>, Vec<_>) = staying.partition(|pod| view.is_current(pod));
    let is_pair = new.len() <= 1 && old.len() <= 1;
    is_pair.then(|| Pair { new: new.into_iter().next(), old: old.into_iter().next() })
}

pub(crate) fn step<'a>(view: &View<'_>, places: &'a Places) -> Step<'a> {
    let strategy = spec(view.set).update_strategy.as_ref().and_then(|strategy| strategy.type_.as_deref());
    if strategy != Some("RollingUpdate") {
        return Step::default();
    }
    let desired = places.values().filter(|place| place.fit == Fit::Runs).count();
    let nodes = crate::common::count(desired);
    match (surge_of(view.set, nodes), unavailable_of(view.set, nodes)) {
        (0, most) => Step { delete: replace(view, places, most.max(1)), ..Step::default() },
        (most, _) => surge(view, places, most, desired),
    }
}

/// Old pods that go first: all that are not available anyway, and as many others as may be missing.
fn replace(view: &View<'_>, places: &Places, most: usize) -> Vec<Arc<Pod>> {
    let (mut missing, mut broken, mut candidates) = (0, Vec::new(), Vec::new());
    for place in places.values().filter(|place| place.fit == Fit::Runs || !place.pods.is_empty()) {
        match pair(view, place) {
            Some(Pair { new: None, old: Some(old) }) if view.is_available(&old) => candidates.push(old),
            Some(Pair { new: None, old: Some(old) }) => {
                broken.push(old);
                missing += 1;
            }
            Some(Pair { new: Some(new), old: None }) if view.is_available(&new) => {}
            // Nothing is there, or is about to be sorted out.
            _ => missing += 1,
        }
    }
    candidates.truncate(most.saturating_sub(missing));
    broken.into_iter().chain(candidates).collect()
}

/// New pods beside old ones: everywhere where the old one is not available, and on as many other nodes as may
/// have two. Old ones go once the new one is available.
fn surge<'a>(view: &View<'_>, places: &'a Places, most: usize, desired: usize) -> Step<'a> {
    let (mut surging, mut available) = (0, 0);
    let (mut step, mut leaving, mut candidates) = (Step::default(), Vec::new(), Vec::new());
    for (node, place) in places.iter().filter(|(_, place)| !place.pods.is_empty()) {
        let Some(Pair { new, old }) = pair(view, place) else {
            surging += 1;
            continue;
        };
        let counts = old.as_ref().or(new.as_ref()).is_some_and(|pod| view.is_available(pod));
        available += usize::from(counts);
        match (new, old) {
            (_, None) => {}
            (None, Some(old)) if place.fit != Fit::Runs => match counts {
                true => leaving.push(old),
                false => step.delete.push(old),
            },
            (None, Some(_)) if counts => candidates.push(node),
            (None, Some(_)) => step.surge.push(node),
            (Some(new), Some(old)) if view.is_available(&new) => step.delete.push(old),
            (Some(_), Some(_)) => surging += 1,
        }
    }
    // Where no pod has to be any longer it goes only after others have become available elsewhere.
    step.delete.extend(leaving.into_iter().take(available.saturating_sub(desired)));
    step.surge.extend(candidates.into_iter().take(most.saturating_sub(surging)));
    step
}
