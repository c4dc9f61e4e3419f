//! How evenly pods are spread over the domains of a topology (`spec.topologySpreadConstraints`).

use super::{Hint, Question, Reason, Refusal};
use crate::ask::Spread;
use crate::cycle::Cycle;
use crate::events::{Event, PodFacts};
use crate::intern::Text;
use crate::nodes::Facts;

/// A required constraint, worked out for a decision.
#[derive(Debug)]
pub(crate) struct Required {
    pub(crate) wish: usize,
    /// The pod itself is one of those that count.
    pub(crate) own: i64,
    pub(crate) max_skew: i64,
    pub(crate) min_domains: usize,
}

/// A constraint that is a preference.
#[derive(Debug)]
pub(crate) struct Preferred {
    pub(crate) wish: usize,
    pub(crate) max_skew: i64,
    /// The more domains there are, the more one pod matters.
    pub(crate) weight: f64,
}

pub(super) fn constrains(cycle: &Cycle<'_>) -> bool {
    !cycle.spread.is_empty()
}

pub(super) fn refuse(question: &Question<'_>) -> Option<Refusal> {
    let node = &question.place.facts;
    for constraint in &question.cycle.spread {
        let counts = question.cluster.wishes.counts(constraint.wish);
        let Some(domain) = node.label(&counts.key) else {
            const UNLABELLED: &[&str] =
                &["node(s) didn't match pod topology spread constraints (missing required label)"];
            return Some(Refusal { reason: Reason::Texts(UNLABELLED), resolvable: false });
        };
        let enough = counts.meant.len() >= constraint.min_domains;
        let least = if enough { counts.meant.least() } else { 0 };
        if counts.meant.get(domain) + constraint.own - least > constraint.max_skew {
            const SKEWED: &[&str] = &["node(s) didn't match pod topology spread constraints"];
            return Some(Refusal { reason: Reason::Texts(SKEWED), resolvable: true });
        }
    }
    None
}

pub(super) fn prefers(cycle: &Cycle<'_>) -> bool {
    !cycle.preferred_spread.is_empty()
}

pub(super) fn score(question: &Question<'_>) -> i64 {
    let (cycle, node) = (question.cycle, &question.place.facts);
    let mut sum = 0.0;
    for constraint in &cycle.preferred_spread {
        let counts = question.cluster.wishes.counts(constraint.wish);
        match node.label(&counts.key) {
            Some(domain) => {
                sum += counts.meant.get(domain) as f64 * constraint.weight + (constraint.max_skew - 1) as f64;
            }
            // Nodes outside of a topology that the pod names are no part of the comparison.
            None if cycle.whole_topologies => return -1,
            None => {}
        }
    }
    #[expect(clippy::cast_possible_truncation, reason = "a number of pods, weighed by less than ten")]
    let score = sum.round() as i64;
    score
}

/// The weight of a topology by the number of its domains among the nodes that will do.
pub(crate) fn weight(domains: usize) -> f64 {
    (domains as f64 + 2.0).ln()
}

pub(super) fn changed(hint: &Hint<'_>) -> bool {
    let required: Vec<&Spread> = hint.wanted.ask.spread.iter().filter(|spread| spread.required).collect();
    let namespaces = &hint.cluster.wishes.namespaces;
    let means = |spread: &Spread, pod: &PodFacts<'_>| {
        pod.ask.namespace == hint.wanted.ask.namespace
            && spread.who.iter().all(|term| term.means(pod.group, namespaces))
    };
    if hint.wanted.ask.spread.is_empty() {
        // Constraints by default, which no pod names: whatever they count may have changed.
        let mut defaults = hint.profile.args.default_spread.iter();
        let required = defaults.any(|constraint| constraint.when_unsatisfiable == "DoNotSchedule");
        return required && matches!(hint.event, Event::Node { .. } | Event::Pod { .. });
    }
    match hint.event {
        Event::Own(change) => {
            change.labels || (change.tolerations && required.iter().any(|it| it.honor_taints))
        }
        Event::Pod { old: Some(old), new: Some(new) } => {
            required.iter().any(|spread| means(spread, old) != means(spread, new))
        }
        Event::Pod { old, new } => {
            old.iter().chain(new).any(|pod| required.iter().any(|spread| means(spread, pod)))
        }
        Event::Node { old, new } => {
            let keys: Vec<&Text> = required.iter().map(|spread| &spread.key).collect();
            node_changed(*old, *new, &keys)
        }
        Event::Storage | Event::Claim { .. } | Event::Devices | Event::DeviceClass { .. } => false,
    }
}

fn node_changed(old: Option<&Facts>, new: Option<&Facts>, keys: &[&Text]) -> bool {
    let counts = |node: &Facts| keys.iter().all(|key| node.label(key).is_some());
    match (old, new) {
        (Some(old), Some(new)) => {
            let moved = keys.iter().any(|key| old.label(key) != new.label(key)) || old.taints != new.taints;
            counts(old) != counts(new) || (counts(new) && moved)
        }
        (one, other) => one.or(other).is_some_and(counts),
    }
}
