//! The arithmetic of a rollout: how many pods each ReplicaSet of a Deployment should have next.

use crate::common::{created, share_of};
use api::Object;
use api::apps::{Deployment, DeploymentSpec, ReplicaSet, ReplicaSetSpec};
use std::cmp::Reverse;
use std::sync::{Arc, LazyLock};

pub(crate) const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
pub(crate) const MAX: &str = "deployment.kubernetes.io/max-replicas";

/// A ReplicaSet, and how many pods it should have.
pub(crate) type Size = (Arc<ReplicaSet>, i32);

pub(crate) fn set_spec(set: &ReplicaSet) -> &ReplicaSetSpec {
    static NONE: LazyLock<ReplicaSetSpec> = LazyLock::new(Default::default);
    set.spec.as_ref().unwrap_or(&NONE)
}

pub(crate) fn replicas(set: &ReplicaSet) -> i32 {
    set_spec(set).replicas.unwrap_or(1)
}

pub(crate) fn available(set: &ReplicaSet) -> i32 {
    set.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0)
}

pub(crate) fn wanted(deployment: &Deployment) -> i32 {
    spec(deployment).replicas.unwrap_or(1)
}

pub(crate) fn spec(deployment: &Deployment) -> &DeploymentSpec {
    static NONE: LazyLock<DeploymentSpec> = LazyLock::new(Default::default);
    deployment.spec.as_ref().unwrap_or(&NONE)
}

pub(crate) fn is_recreate(deployment: &Deployment) -> bool {
    let strategy = spec(deployment).strategy.as_ref();
    strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("Recreate")
}

/// How far a rollout may go above and below the wanted number: `maxSurge` rounded up,
/// `maxUnavailable` rounded down, and not both zero.
pub(crate) fn fenceposts(deployment: &Deployment) -> (i32, i32) {
    let total = wanted(deployment);
    if is_recreate(deployment) || total == 0 {
        return (0, 0);
    }
    let quarter = api::IntOrString::String("25%".to_owned());
    let rolling = spec(deployment).strategy.as_ref().and_then(|strategy| strategy.rolling_update.as_ref());
    let surge = rolling.and_then(|rolling| rolling.max_surge.as_ref()).unwrap_or(&quarter);
    let unavailable = rolling.and_then(|rolling| rolling.max_unavailable.as_ref()).unwrap_or(&quarter);
    match (share_of(surge, total, true), share_of(unavailable, total, false).min(total)) {
        (0, 0) => (0, 1),
        both => both,
    }
}

/// How many pods the new set should have, given all sets.
pub(crate) fn new_size(deployment: &Deployment, new: i32, all: i32) -> i32 {
    let wanted = wanted(deployment);
    if is_recreate(deployment) || new > wanted {
        return wanted;
    }
    let room = wanted + fenceposts(deployment).0 - all;
    new + room.clamp(0, wanted - new)
}

/// Which old sets give up how many pods, unhealthy ones first, so that no fewer than allowed are
/// available.
pub(crate) fn shrink_old(deployment: &Deployment, new: &ReplicaSet, old: &[Arc<ReplicaSet>]) -> Vec<Size> {
    let mut sizes: Vec<Size> = old.iter().map(|set| (set.clone(), replicas(set))).collect();
    sizes.sort_by_key(|(set, _)| (created(&set.metadata), set.name().to_owned()));
    let old_pods: i32 = sizes.iter().map(|(_, size)| size).sum();
    let least = wanted(deployment) - fenceposts(deployment).1;
    let unavailable_new = replicas(new) - available(new);
    let mut unhealthy = old_pods + replicas(new) - least - unavailable_new;
    if old_pods == 0 || unhealthy <= 0 {
        return Vec::new();
    }
    for (set, size) in &mut sizes {
        let less = unhealthy.min(*size - available(set)).max(0);
        *size -= less;
        unhealthy -= less;
    }
    let now_available: i32 = old.iter().map(|set| available(set)).sum::<i32>() + available(new);
    let mut spare = now_available - least;
    for (_, size) in &mut sizes {
        let less = spare.min(*size).max(0);
        *size -= less;
        spare -= less;
    }
    sizes.retain(|(set, size)| *size != replicas(set));
    sizes
}

/// Some active set was sized for another number than is wanted now: `kubectl scale` came in.
pub(crate) fn is_scaling(deployment: &Deployment, sets: &[Arc<ReplicaSet>]) -> bool {
    let differs =
        |set: &Arc<ReplicaSet>| annotation(set, DESIRED).is_some_and(|desired| desired != wanted(deployment));
    sets.iter().filter(|set| replicas(set) > 0).any(differs)
}

pub(crate) fn annotation(set: &ReplicaSet, name: &str) -> Option<i32> {
    set.annotations().get(name)?.parse().ok()
}

/// The sizes after scaling alone: one active set takes it all; in the middle of a rollout each set
/// takes its share, and rounding is left to the largest.
pub(crate) fn scale(
    deployment: &Deployment,
    new: Option<&Arc<ReplicaSet>>,
    old: &[Arc<ReplicaSet>],
) -> Vec<Size> {
    let wanted = wanted(deployment);
    if let Some(set) = only_active(new, old) {
        return vec![(set, wanted)];
    }
    if new.is_some_and(|new| is_saturated(deployment, new)) {
        return active(old.iter()).map(|set| (set.clone(), 0)).collect();
    }
    if is_recreate(deployment) {
        return Vec::new();
    }
    let mut sets: Vec<_> = active(old.iter().chain(new)).cloned().collect();
    let total: i32 = sets.iter().map(|set| replicas(set)).sum();
    let allowed = if wanted > 0 { wanted + fenceposts(deployment).0 } else { 0 };
    let to_add = allowed - total;
    // Where sizes are equal, growth goes to newer sets and shrinking takes from older ones.
    sets.sort_by_key(|set| created(&set.metadata));
    if to_add > 0 {
        sets.reverse();
    }
    sets.sort_by_key(|set| Reverse(replicas(set)));
    let mut added = 0;
    let mut sizes: Vec<Size> = Vec::new();
    for set in sets {
        let share = proportion(deployment, &set, to_add, added);
        added += share;
        let size = replicas(&set) + share;
        sizes.push((set, size));
    }
    if let Some((_, largest)) = sizes.first_mut() {
        *largest = (*largest + to_add - added).max(0);
    }
    sizes
}

fn active<'a>(sets: impl Iterator<Item = &'a Arc<ReplicaSet>>) -> impl Iterator<Item = &'a Arc<ReplicaSet>> {
    sets.filter(|set| replicas(set) > 0)
}

/// The one active set, or the newest if none is active.
fn only_active(new: Option<&Arc<ReplicaSet>>, old: &[Arc<ReplicaSet>]) -> Option<Arc<ReplicaSet>> {
    let mut all = active(old.iter().chain(new));
    match (all.next(), all.next()) {
        (Some(one), None) => Some(one.clone()),
        (None, _) => new.or_else(|| old.iter().max_by_key(|set| created(&set.metadata))).cloned(),
        (Some(_), Some(_)) => None,
    }
}

/// The new set carries the whole load.
fn is_saturated(deployment: &Deployment, new: &ReplicaSet) -> bool {
    let wanted = wanted(deployment);
    replicas(new) == wanted && annotation(new, DESIRED) == Some(wanted) && available(new) == wanted
}

/// A set's share of what is to be added (or, if negative, removed).
fn proportion(deployment: &Deployment, set: &ReplicaSet, to_add: i32, added: i32) -> i32 {
    let (size, left) = (replicas(set), to_add - added);
    if size == 0 || left == 0 {
        return 0;
    }
    let share = if wanted(deployment) == 0 {
        -size
    } else {
        let reported = deployment.status.as_ref().and_then(|status| status.replicas).unwrap_or(0);
        let before = annotation(set, MAX).filter(|max| *max > 0).unwrap_or(reported).max(1);
        let after = wanted(deployment) + fenceposts(deployment).0;
        let exact = f64::from(size) * f64::from(after) / f64::from(before);
        #[expect(clippy::cast_possible_truncation, reason = "a number of pods; casts of floats saturate")]
        let rounded = exact.round() as i32;
        rounded - size
    };
    if to_add > 0 { share.min(left) } else { share.max(left) }
}
