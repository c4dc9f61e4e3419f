//! What a node alone decides: whether it takes pods, its name, taints, labels and ports.

use super::{Hint, Question, Reason, Refusal};
use crate::ask::Wanted;
use crate::cycle::Cycle;
use crate::events::Event;
use crate::intern::PerText;
use crate::nodes::Facts;
use api::core::{Taint, Toleration};
use api::taints::tolerated;
use std::cell::RefCell;
use std::sync::LazyLock;

const fn refusal(reasons: &'static [&'static str], resolvable: bool) -> Option<Refusal> {
    Some(Refusal { reason: Reason::Texts(reasons), resolvable })
}

fn takes_pods(node: &Facts, tolerations: &[Toleration]) -> bool {
    static CORDONED: LazyLock<Taint> = LazyLock::new(|| Taint {
        key: "node.kubernetes.io/unschedulable".to_owned(),
        effect: "NoSchedule".to_owned(),
        ..Taint::default()
    });
    !node.unschedulable || tolerated(tolerations, &CORDONED)
}

pub(super) fn unschedulable(question: &Question<'_>) -> Option<Refusal> {
    let tolerations = &question.wanted().ask.tolerations;
    if takes_pods(&question.place.facts, &tolerations.0) {
        return None;
    }
    refusal(&["node(s) were unschedulable"], false)
}

/// Whether a node now is what it was not before.
fn became(event: &Event<'_>, holds: impl Fn(&Facts) -> bool) -> bool {
    match event {
        Event::Node { old, new: Some(new) } => holds(new) && old.is_none_or(|old| !holds(old)),
        _ => false,
    }
}

pub(super) fn schedulable_again(hint: &Hint<'_>) -> bool {
    let tolerations = &hint.wanted.ask.tolerations;
    matches!(hint.event, Event::Own(change) if change.tolerations)
        || became(hint.event, |node| takes_pods(node, &tolerations.0))
}

pub(super) fn is_named(cycle: &Cycle<'_>) -> bool {
    cycle.wanted.spec().node_name.as_deref().is_some_and(|name| !name.is_empty())
}

pub(super) fn name(question: &Question<'_>) -> Option<Refusal> {
    let other = question.wanted().spec().node_name.as_deref() != Some(&question.place.facts.name);
    if other { refusal(&["node(s) didn't match the requested node name"], false) } else { None }
}

pub(super) fn named(hint: &Hint<'_>) -> bool {
    became(hint.event, |node| hint.wanted.spec().node_name.as_deref() == Some(&node.name))
}

pub(super) fn taints(question: &Question<'_>) -> Option<Refusal> {
    let keeps_away = question.cycle.taints.of(&question.place.facts, question.wanted()).keeps_away;
    if keeps_away { refusal(&["node(s) had untolerated taint(s)"], false) } else { None }
}

pub(super) fn tolerated_now(hint: &Hint<'_>) -> bool {
    let tolerations = &hint.wanted.ask.tolerations.0;
    matches!(hint.event, Event::Own(change) if change.tolerations)
        || became(hint.event, |node| node.untolerated(tolerations).is_none())
}

pub(super) fn unwelcome_taints(question: &Question<'_>) -> i64 {
    question.cycle.taints.of(&question.place.facts, question.wanted()).unwelcome
}

/// What the taints of nodes are to one pod; most nodes have the same ones, which are looked at once.
#[derive(Debug, Default)]
pub(crate) struct Taints(RefCell<PerText<Verdict>>);

#[derive(Clone, Copy, Debug, Default)]
struct Verdict {
    keeps_away: bool,
    /// How many would rather not have the pod.
    unwelcome: i64,
}

impl Taints {
    fn of(&self, node: &Facts, wanted: &Wanted) -> Verdict {
        if node.taints.is_empty() {
            return Verdict::default();
        }
        let mut known = self.0.borrow_mut();
        if let Some(verdict) = known.get(&node.taint_set) {
            return *verdict;
        }
        let tolerations = &wanted.ask.tolerations.0;
        let preferring = node.taints.iter().filter(|taint| taint.effect == "PreferNoSchedule");
        let unwelcome = preferring.filter(|taint| !tolerated(tolerations, taint)).count();
        let unwelcome = i64::try_from(unwelcome).unwrap_or(i64::MAX);
        let verdict = Verdict { keeps_away: node.untolerated(tolerations).is_some(), unwelcome };
        known.insert(node.taint_set.clone(), verdict);
        verdict
    }
}

pub(super) fn selects_nodes(cycle: &Cycle<'_>) -> bool {
    !cycle.wanted.ask.nodes.is_everything() || cycle.profile.args.added_nodes.is_some()
}

pub(super) fn affinity(question: &Question<'_>) -> Option<Refusal> {
    let node = &question.place.facts;
    let added = &question.cycle.profile.args.added_nodes;
    if added.as_ref().is_some_and(|added| !added.selects(node)) {
        return refusal(&["node(s) didn't match scheduler-enforced node affinity"], false);
    }
    if question.wanted().ask.nodes.selects(node) {
        return None;
    }
    refusal(&["node(s) didn't match Pod's node affinity/selector"], false)
}

pub(super) fn selected_now(hint: &Hint<'_>) -> bool {
    let added = &hint.profile.args.added_nodes;
    let pinned = crate::ask::pinned(hint.wanted.spec());
    became(hint.event, |node| {
        added.as_ref().is_none_or(|added| added.selects(node))
            && hint.wanted.ask.nodes.selects(node)
            && pinned.is_none_or(|name| *name == *node.name)
    })
}

pub(super) fn prefers_nodes(cycle: &Cycle<'_>) -> bool {
    !cycle.wanted.ask.preferred_nodes.is_empty() || !cycle.profile.args.added_preferred.is_empty()
}

pub(super) fn preferred(question: &Question<'_>) -> i64 {
    let (node, args) = (&question.place.facts, &question.cycle.profile.args);
    let terms = question.wanted().ask.preferred_nodes.iter().chain(&args.added_preferred);
    terms.filter(|(_, term)| term.selects(node)).map(|(weight, _)| weight).sum()
}

pub(super) fn has_ports(cycle: &Cycle<'_>) -> bool {
    !cycle.wanted.ask.ports.is_empty()
}

pub(super) fn ports(question: &Question<'_>) -> Option<Refusal> {
    let mut own = question.wanted().ask.ports.iter();
    let taken = own.any(|port| question.place.ports.iter().any(|other| other.conflicts(port)));
    if taken { refusal(&["node(s) didn't have free ports for the requested pod ports"], true) } else { None }
}

pub(super) fn port_freed(hint: &Hint<'_>) -> bool {
    match hint.event {
        Event::Node { old, new } => old.is_none() && new.is_some(),
        Event::Pod { old: Some(gone), new: None } => {
            let mut own = hint.wanted.ask.ports.iter();
            own.any(|port| gone.ask.ports.iter().any(|other| other.conflicts(port)))
        }
        _ => false,
    }
}
