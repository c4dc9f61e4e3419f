//! Whether a pod's volumes can be had on a node.

use super::{Hint, Question, Reason, Refusal};
use crate::claims::{Claims, Lack};
use crate::cycle::Cycle;
use crate::events::Event;
use std::collections::HashSet;

const fn refusal(reasons: &'static [&'static str], resolvable: bool) -> Option<Refusal> {
    Some(Refusal { reason: Reason::Texts(reasons), resolvable })
}

pub(super) fn has_claims(cycle: &Cycle<'_>) -> bool {
    cycle.claims.is_some()
}

/// Storage changed, or a node did.
pub(super) fn storage_changed(hint: &Hint<'_>) -> bool {
    !hint.wanted.claims.is_empty() && matches!(hint.event, Event::Storage | Event::Node { new: Some(_), .. })
}

/// The same, or a pod left that had volumes.
pub(super) fn volume_freed(hint: &Hint<'_>) -> bool {
    let left = matches!(hint.event, Event::Pod { old: Some(_), new: None });
    (left && !hint.wanted.claims.is_empty()) || storage_changed(hint)
}

pub(super) fn restrictions(question: &Question<'_>) -> Option<Refusal> {
    let used = |claim| question.cluster.users_of_claim(claim) > 0;
    if question.cycle.claims?.exclusive.iter().any(used) {
        return refusal(
            &[
                "node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use by another pod",
            ],
            true,
        );
    }
    None
}

pub(super) fn limits(question: &Question<'_>) -> Option<Refusal> {
    let (claims, world) = (question.cycle.claims?, question.cycle.world);
    let node = &question.place.facts.name;
    let drivers: HashSet<&str> = claims.attached.iter().map(|(driver, _)| driver.as_str()).collect();
    let limited: Vec<_> =
        drivers.into_iter().filter_map(|driver| Some((driver, world.volume_limit(node, driver)?))).collect();
    if limited.is_empty() {
        return None;
    }
    let there = question.place.pods.iter().flat_map(|pod| question.cluster.pod(*pod).claims.iter());
    let there: HashSet<(String, String)> = there.filter_map(|claim| world.csi_volume(claim)).collect();
    let exceeded = limited.into_iter().any(|(driver, limit)| {
        let of_driver = |volumes: &mut dyn Iterator<Item = &(String, String)>| {
            volumes.filter(|(own, _)| own == driver).count()
        };
        let new = claims.attached.iter().filter(|volume| !there.contains(*volume)).collect::<HashSet<_>>();
        of_driver(&mut there.iter()) + of_driver(&mut new.into_iter()) > limit
    });
    if exceeded { refusal(&["node(s) exceed max volume count"], true) } else { None }
}

pub(super) fn binding(question: &Question<'_>) -> Option<Refusal> {
    let (claims, node): (&Claims, _) = (question.cycle.claims?, &question.place.facts);
    if claims.lost {
        return refusal(
            &["node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)"],
            false,
        );
    }
    match (claims.reaches(node), claims.choose(node).err()) {
        (true, None) => None,
        (false, None) => refusal(&[FAR], false),
        (true, Some(Lack::Volume)) => refusal(&[NONE], false),
        (false, Some(Lack::Volume)) => refusal(&[FAR, NONE], false),
        (true, Some(Lack::Room)) => refusal(&[FULL], false),
        (false, Some(Lack::Room)) => refusal(&[FAR, FULL], false),
    }
}

const FAR: &str = "node(s) didn't match PersistentVolume's node affinity";
const NONE: &str = "node(s) didn't find available persistent volumes to bind";
const FULL: &str = "node(s) did not have enough free storage";

pub(super) fn zone(question: &Question<'_>) -> Option<Refusal> {
    let (claims, node) = (question.cycle.claims?, &question.place.facts);
    // A node that tells no zone at all is in all of them.
    if claims.zones.iter().all(|(key, _)| node.label(key).is_none()) {
        return None;
    }
    let inside =
        claims.zones.iter().all(|(key, zones)| node.label(key).is_some_and(|zone| zones.contains(zone)));
    if inside { None } else { refusal(&["node(s) had no available volume zone"], false) }
}
