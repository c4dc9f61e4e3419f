//! Decides where one pod goes, or says in Kubernetes' words why it goes nowhere.

use crate::cluster::Cluster;
use crate::filters::{FILTERS, Filter, Happening, Question, Refusal};
use crate::scores;
use crate::topology::Counts;
use crate::wanted::Wanted;
use std::collections::BTreeMap;

/// In a large cluster not every node is looked at: this many that fit are enough to choose from.
const ENOUGH_NODES: usize = 100;

/// Why a pod fits on no node.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unfit {
    /// For the pod's condition and event.
    pub(crate) message: String,
    /// What happening could help.
    pub(crate) helped_by: Vec<Happening>,
    /// Nodes where fewer pods could help.
    pub(crate) resolvable: Vec<String>,
    /// How many nodes there are.
    pub(crate) nodes: usize,
}

/// The node's name, or why there is none. `start` turns from pod to pod, so that equally good nodes take
/// turns.
pub(crate) fn plan(wanted: &Wanted, cluster: &Cluster, start: usize) -> Result<String, Unfit> {
    let counts = Counts::new(wanted, cluster);
    let places: Vec<_> = cluster.places().collect();
    let enough = enough(places.len());
    let mut fitting: Vec<(&str, Question<'_>)> = Vec::new();
    let mut refusals = Vec::new();
    for at in 0..places.len() {
        let (name, place) = places[(start + at) % places.len()];
        let question = Question { wanted, counts: &counts, place };
        match refuse(&question) {
            Some((filter, refusal)) => refusals.push((name, filter, refusal)),
            None => fitting.push((name, question)),
        }
        if fitting.len() == enough {
            break;
        }
    }
    if fitting.is_empty() {
        return Err(unfit(&refusals, places.len()));
    }
    let (names, questions): (Vec<_>, Vec<_>) = fitting.into_iter().unzip();
    let totals = scores::totals(&questions);
    // The first of the best: the later ones have their turn when `start` has moved on.
    let best = totals.iter().enumerate().rev().max_by_key(|(_, total)| **total).map_or(0, |(at, _)| at);
    Ok(names[best].to_owned())
}

/// As Kubernetes does by default: half of the nodes or, the more there are, down to a twentieth.
fn enough(nodes: usize) -> usize {
    let percent = 50_usize.saturating_sub(nodes / 125).max(5);
    (nodes * percent / 100).max(ENOUGH_NODES)
}

pub(crate) fn refuse(question: &Question<'_>) -> Option<(&'static Filter, Refusal)> {
    FILTERS.iter().find_map(|filter| (filter.refuse)(question).map(|refusal| (filter, refusal)))
}

fn unfit(refusals: &[(&str, &'static Filter, Refusal)], nodes: usize) -> Unfit {
    if nodes == 0 {
        let message = "no nodes available to schedule pods".to_owned();
        return Unfit { message, helped_by: vec![Happening::Node], resolvable: Vec::new(), nodes };
    }
    let mut helped_by = vec![Happening::Node];
    let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
    let mut resolvable = Vec::new();
    for (name, filter, refusal) in refusals {
        tracing::trace!(node = name, filter = filter.name, "refused");
        refusal.reasons.iter().for_each(|reason| *reasons.entry(reason).or_default() += 1);
        helped_by.extend(filter.helped_by);
        if refusal.resolvable {
            resolvable.push((*name).to_owned());
        }
    }
    helped_by.dedup();
    Unfit { message: message(nodes, reasons.into_iter()), helped_by, resolvable, nodes }
}

/// `0/3 nodes are available: 1 Insufficient cpu, 2 node(s) were unschedulable.`
pub(crate) fn message<'a>(nodes: usize, reasons: impl Iterator<Item = (&'a str, usize)>) -> String {
    let mut texts: Vec<_> = reasons.map(|(reason, count)| format!("{count} {reason}")).collect();
    texts.sort();
    format!("0/{nodes} nodes are available: {}.", texts.join(", "))
}
