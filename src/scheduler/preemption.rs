//! Makes room for a pod by ending less important ones, where that is enough.

use crate::cluster::{Cluster, Place};
use crate::filters::Question;
use crate::plan::{Unfit, message, refuse};
use crate::topology::Counts;
use crate::wanted::Wanted;
use api::Object;
use api::slim::Pod;
use std::sync::Arc;

/// On how many nodes room is looked for: the search costs more than a decision.
const CANDIDATES: usize = 100;

/// A node, and the pods that have to leave it.
#[derive(Debug)]
pub(crate) struct Preemption {
    pub(crate) node: String,
    pub(crate) victims: Vec<Arc<Pod>>,
}

/// Pods that were asked to make room on this node are still leaving it.
pub(crate) fn is_making_room(wanted: &Wanted, place: &Place) -> bool {
    place.pods.values().any(|other| other.priority < wanted.priority && other.pod.is_deleting())
}

/// The node where the least important and fewest pods have to go; otherwise what to add to the message.
pub(crate) fn plan(wanted: &Wanted, cluster: &Cluster, unfit: &Unfit) -> Result<Preemption, String> {
    let policy = wanted.pod.spec.as_ref().and_then(|spec| spec.preemption_policy.as_deref());
    if policy == Some("Never") {
        return Err("preemption: not eligible due to preemptionPolicy=Never.".to_owned());
    }
    let counts = Counts::new(wanted, cluster);
    let candidates = unfit.resolvable.iter().take(CANDIDATES).filter_map(|node| {
        let victims = victims(wanted, (cluster, &counts), cluster.place(node)?)?;
        Some((node, victims))
    });
    let cost = |victims: &[Arc<Wanted>]| {
        let highest = victims.iter().map(|victim| victim.priority).max();
        let sum: i64 = victims.iter().map(|victim| i64::from(victim.priority) - i64::from(i32::MIN)).sum();
        (highest, sum, victims.len())
    };
    match candidates.min_by_key(|(_, victims)| cost(victims)) {
        Some((node, victims)) => Ok(Preemption {
            node: node.clone(),
            victims: victims.into_iter().map(|victim| victim.pod.clone()).collect(),
        }),
        None => {
            let (near, far) = (unfit.resolvable.len(), unfit.nodes - unfit.resolvable.len());
            let reasons = [
                ("No preemption victims found for incoming pod", near),
                ("Preemption is not helpful for scheduling", far),
            ];
            let given = reasons.into_iter().filter(|(_, count)| *count > 0);
            Err(format!("preemption: {}", message(unfit.nodes, given)))
        }
    }
}

/// Takes all less important pods away and, if that helps, puts back as many as possible, the most
/// important first.
fn victims(wanted: &Wanted, world: (&Cluster, &Counts<'_>), place: &Place) -> Option<Vec<Arc<Wanted>>> {
    let mut without = place.clone();
    // What is only reserved for a pod, or being bound, is not a victim yet.
    let is_lower = |other: &&Arc<Wanted>| other.priority < wanted.priority && other.is_bound();
    let mut lower: Vec<_> = place.pods.values().filter(is_lower).cloned().collect();
    if lower.is_empty() {
        return None;
    }
    for other in &lower {
        without.remove(&other.key);
    }
    if !fits(wanted, world, &without) {
        return None;
    }
    lower.sort_by_key(|other| std::cmp::Reverse(other.priority));
    let mut victims = Vec::new();
    for other in lower {
        without.add(other.clone());
        if !fits(wanted, world, &without) {
            without.remove(&other.key);
            victims.push(other);
        }
    }
    Some(victims)
}

fn fits(wanted: &Wanted, world: (&Cluster, &Counts<'_>), place: &Place) -> bool {
    let (cluster, counts) = world;
    let alone = wanted.spread.is_empty() && wanted.affinity.is_empty() && wanted.anti_affinity.is_empty();
    if alone && counts.refused.is_empty() {
        return refuse(&Question { wanted, counts, place }).is_none();
    }
    let otherwise = cluster.with_place(place);
    let counts = Counts::new(wanted, &otherwise);
    refuse(&Question { wanted, counts: &counts, place }).is_none()
}
