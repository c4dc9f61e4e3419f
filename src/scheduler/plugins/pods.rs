//! Affinity between pods: those that are wished near or far, by this pod and by those that are there.

use super::{Hint, Question, Reason, Refusal};
use crate::ask::Wanted;
use crate::cluster::Cluster;
use crate::cycle::Cycle;
use crate::events::{Event, PodFacts};
use crate::intern::Text;
use crate::nodes::Facts;
use crate::profile::Args;
use crate::wishes::PodTerm;

const fn refusal(reasons: &'static [&'static str], resolvable: bool) -> Option<Refusal> {
    Some(Refusal { reason: Reason::Texts(reasons), resolvable })
}

const NOT_NEAR: Option<Refusal> = refusal(&["node(s) didn't match pod affinity rules"], false);
const TOO_NEAR: Option<Refusal> = refusal(&["node(s) didn't match pod anti-affinity rules"], true);
const UNWELCOME: Option<Refusal> =
    refusal(&["node(s) didn't satisfy existing pods anti-affinity rules"], true);

pub(super) fn constrains(cycle: &Cycle<'_>) -> bool {
    let ask = &cycle.wanted.ask;
    !(ask.near.is_empty() && ask.far.is_empty() && cycle.refusing.is_empty())
}

pub(super) fn refuse(question: &Question<'_>) -> Option<Refusal> {
    let (cluster, cycle, node) = (question.cluster, question.cycle, &question.place.facts);
    let social = cluster.social(&cycle.wanted.ask);
    let mut near = true;
    for wish in &social.near {
        let counts = cluster.wishes.counts(wish.ix);
        let domain = node.label(&counts.key);
        if domain.is_none() {
            return NOT_NEAR;
        }
        near &= domain.is_some_and(|domain| counts.meant.get(domain) > 0);
    }
    if !near && !cycle.first_of_its_kind {
        return NOT_NEAR;
    }
    let crowded = social.far.iter().any(|wish| {
        let counts = cluster.wishes.counts(wish.ix);
        node.label(&counts.key).is_some_and(|domain| counts.meant.get(domain) > 0)
    });
    if crowded {
        return TOO_NEAR;
    }
    let refused = cycle.refusing.iter().any(|wish| {
        let counts = cluster.wishes.counts(*wish);
        node.label(&counts.key).is_some_and(|domain| counts.against.get(domain) > 0)
    });
    if refused { UNWELCOME } else { None }
}

pub(super) fn prefers(cycle: &Cycle<'_>) -> bool {
    !cycle.preferred.is_empty()
}

pub(super) fn score(question: &Question<'_>) -> i64 {
    let node = &question.place.facts;
    let weigh = |(weight, wish, what): &(i64, usize, Preference)| {
        let counts = question.cluster.wishes.counts(*wish);
        let Some(domain) = node.label(&counts.key) else { return 0 };
        weight
            * match what {
                Preference::Meant => counts.meant.get(domain),
                Preference::Needed => counts.needed.get(domain),
                Preference::Liked => counts.liked.get(domain),
            }
    };
    question.cycle.preferred.iter().map(weigh).sum()
}

/// Which count of a wish makes a node better.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Preference {
    /// Pods that this pod means.
    Meant,
    /// Pods that have to be near this one.
    Needed,
    /// Pods that would rather be near this one.
    Liked,
}

/// Which preferences count for a pod.
pub(crate) fn preferences(cluster: &Cluster, wanted: &Wanted, args: &Args) -> Vec<(i64, usize, Preference)> {
    let social = cluster.social(&wanted.ask);
    let own = social.preferred.iter().map(|(weight, wish)| (*weight, wish.ix, Preference::Meant));
    let mut all: Vec<_> = own.filter(|(_, wish, _)| !cluster.wishes.counts(*wish).meant.is_empty()).collect();
    if args.ignore_preferred_of_existing && social.preferred.is_empty() {
        return all;
    }
    for wish in cluster.wishes.about(&wanted.group) {
        let counts = cluster.wishes.counts(*wish);
        if args.hard_pod_affinity_weight > 0 && !counts.needed.is_empty() {
            all.push((args.hard_pod_affinity_weight, *wish, Preference::Needed));
        }
        if !counts.liked.is_empty() {
            all.push((1, *wish, Preference::Liked));
        }
    }
    all
}

pub(super) fn changed(hint: &Hint<'_>) -> bool {
    let ask = &hint.wanted.ask;
    let means = |terms: &[(PodTerm, Text)], pod: &PodFacts<'_>| {
        let namespaces = &hint.cluster.wishes.namespaces;
        !terms.is_empty() && terms.iter().all(|(term, _)| term.means(pod.group, namespaces))
    };
    match hint.event {
        Event::Own(change) => change.labels,
        Event::Pod { old: None, new: Some(new) } => means(&ask.near, new),
        Event::Pod { old: Some(old), new: Some(new) } => {
            (!means(&ask.near, old) && means(&ask.near, new))
                || (means(&ask.far, old) && !means(&ask.far, new))
        }
        Event::Pod { old: Some(old), new: None } => {
            let own = PodFacts { group: &hint.wanted.group, ask };
            means(&ask.far, old) || means(&old.ask.far, &own)
        }
        Event::Node { old, new: Some(new) } => moved(*old, new, &ask.near, &ask.far),
        _ => false,
    }
}

/// Whether the node's domains are others than before in a way that may help.
fn moved(old: Option<&Facts>, new: &Facts, near: &[(PodTerm, Text)], far: &[(PodTerm, Text)]) -> bool {
    let Some(old) = old else {
        return !far.is_empty() || near.iter().any(|(_, key)| new.label(key).is_some());
    };
    let other = |key: &Text| old.label(key) != new.label(key);
    near.iter().any(|(_, key)| new.label(key).is_some() && other(key))
        || far.iter().any(|(_, key)| old.label(key).is_some() && other(key))
}
