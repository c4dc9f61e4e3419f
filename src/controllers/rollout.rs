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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn deployment(replicas: i32, surge: &str, unavailable: &str) -> Deployment {
        let value = |text: &str| text.parse::<i32>().map_or(json!(text), |number| json!(number));
        let rolling = json!({"maxSurge": value(surge), "maxUnavailable": value(unavailable)});
        serde_json::from_value(json!({"metadata": {"name": "web"}, "spec": {"replicas": replicas,
            "selector": {}, "template": {}, "strategy": {"type": "RollingUpdate", "rollingUpdate": rolling}}}))
        .unwrap()
    }

    /// `name size available max-annotation`, oldest first.
    fn sets(texts: &[&str]) -> Vec<Arc<ReplicaSet>> {
        let set = |(age, text): (usize, &&str)| {
            let [name, size, available, max] = text.split(' ').collect::<Vec<_>>()[..] else {
                panic!("{text}")
            };
            let (size, available): (i32, i32) = (size.parse().unwrap(), available.parse().unwrap());
            let created = jiff::Timestamp::from_second(age as i64).unwrap().to_string();
            Arc::new(
                serde_json::from_value(json!({"metadata": {"name": name, "creationTimestamp": created,
                "annotations": {MAX: max}}, "spec": {"replicas": size, "selector": {}},
                "status": {"replicas": size, "availableReplicas": available}}))
                .unwrap(),
            )
        };
        texts.iter().enumerate().map(set).collect()
    }

    fn show(sizes: Vec<Size>) -> String {
        sizes.iter().map(|(set, size)| format!("{}={size}", set.name())).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn fenceposts_are_never_both_zero() {
        assert_eq!(fenceposts(&deployment(10, "25%", "25%")), (3, 2));
        assert_eq!(fenceposts(&deployment(1, "0", "25%")), (0, 1));
        assert_eq!(fenceposts(&deployment(3, "100%", "0")), (3, 0));
    }

    #[test]
    fn the_new_set_grows_into_the_surge() {
        let three = deployment(10, "3", "2");
        let sizes: Vec<i32> = [(0, 10), (3, 13), (5, 12), (12, 12)]
            .iter()
            .map(|(new, all)| new_size(&three, *new, *all))
            .collect();
        assert_eq!(sizes, [3, 3, 6, 10]);
    }

    #[test]
    fn old_sets_shrink_as_far_as_availability_allows() {
        let ten = deployment(10, "3", "2");
        let shrunk = |texts: &[&str]| {
            let mut all = sets(texts);
            let new = all.pop().unwrap();
            show(shrink_old(&ten, &new, &all))
        };
        assert_eq!(shrunk(&["old 10 10 13", "new 3 0 13"]), "old=8");
        assert_eq!(shrunk(&["old 8 8 13", "new 5 0 13"]), "");
        assert_eq!(shrunk(&["old 8 8 13", "new 5 5 13"]), "old=3");
        assert_eq!(shrunk(&["broken 4 0 13", "old 4 4 13", "new 5 4 13"]), "broken=0");
    }

    #[test]
    fn scaling_a_rollout_gives_each_set_its_share() {
        let scaled = |replicas, texts: &[&str]| {
            let mut all = sets(texts);
            let new = all.pop();
            show(scale(&deployment(replicas, "3", "2"), new.as_ref(), &all))
        };
        assert_eq!(scaled(15, &["old 8 8 13", "new 5 0 13"]), "old=11 new=7");
        assert_eq!(scaled(5, &["old 8 8 13", "new 5 0 13"]), "old=5 new=3");
        assert_eq!(scaled(0, &["old 8 8 13", "new 5 0 13"]), "old=0 new=0");
        assert_eq!(scaled(7, &["old 0 0 13", "new 5 5 13"]), "new=7");
    }
}
