//! Makes room for a pod by ending less important ones, where that is enough.

use crate::ask::Key;
use crate::cluster::{Cluster, Placed};
use crate::cycle::{Cycle, Reasons, Subject, Unfit, refuse};
use crate::plugins::{Reason, Refusal};
use crate::resources::Resource;
use crate::world::{Budget, World};
use api::meta::Time;
use std::cmp::Reverse;

/// What is added to why a pod fits nowhere.
const NEVER: &str = "preemption: not eligible due to preemptionPolicy=Never.";
const UNDER_WAY: &str = "preemption: not eligible due to a terminating pod on the nominated node.";

/// A node, and the pods that have to leave it, the most important first.
#[derive(Debug)]
pub(crate) struct Preemption {
    pub(crate) node: String,
    pub(crate) victims: Vec<Key>,
}

/// What becomes of a pod that fits nowhere.
#[derive(Debug)]
pub(crate) enum Verdict {
    Preempt(Preemption),
    /// Nobody leaves; a place that was kept for the pod is given up.
    Nothing(String),
    /// Nobody leaves, and a place that was kept for the pod still is.
    Wait(String),
}

/// What would have to happen on a node.
struct Candidate {
    place: usize,
    violations: usize,
    victims: Vec<(i32, Option<Time>, Key)>,
}

/// The node where the least important and fewest pods have to go. `offset` is where the search begins.
pub(crate) fn plan(
    cluster: &mut Cluster,
    subject: Subject<'_>,
    unfit: &Unfit,
    world: &dyn World,
    offset: usize,
) -> Verdict {
    if !subject.wanted.ask.preempts {
        return Verdict::Wait(NEVER.to_owned());
    }
    if is_under_way(cluster, subject, unfit, world) {
        return Verdict::Wait(UNDER_WAY.to_owned());
    }
    let (candidates, reasons) = candidates(cluster, subject, unfit, world, offset);
    let best = candidates.into_iter().min_by_key(|candidate| {
        let highest = candidate.victims.first().map(|(priority, ..)| *priority);
        let sum: i64 = candidate.victims.iter().map(|(it, ..)| i64::from(*it) - i64::from(i32::MIN)).sum();
        let most_important = candidate.victims.iter().filter(|(priority, ..)| Some(*priority) == highest);
        let earliest = most_important.filter_map(|(_, started, _)| started.as_ref().map(|time| time.0)).min();
        (candidate.violations, highest, sum, candidate.victims.len(), Reverse(earliest))
    });
    match best {
        Some(Candidate { place, victims, .. }) => Verdict::Preempt(Preemption {
            node: cluster.place(place).facts.name.to_string(),
            victims: victims.into_iter().map(|(_, _, key)| key).collect(),
        }),
        None => {
            let requests: Vec<(Resource, i64)> = Cycle::new(cluster, subject).requests;
            Verdict::Nothing(format!("preemption: {}", reasons.message(cluster.len(), &requests)))
        }
    }
}

/// Pods that had to make room on the node that was chosen are still leaving it.
fn is_under_way(cluster: &Cluster, subject: Subject<'_>, unfit: &Unfit, world: &dyn World) -> bool {
    let Some(place) = cluster.nomination(&subject.wanted.key) else { return false };
    // Where nothing helps any more another node is looked for.
    if !unfit.resolvable.contains(&place) {
        return false;
    }
    let mut pods = cluster.place(place).pods.iter().map(|pod| cluster.pod(*pod));
    pods.any(|pod| {
        pod.ask.priority < subject.wanted.ask.priority && pod.group.leaving && world.is_preempted(&pod.key)
    })
}

fn candidates(
    cluster: &mut Cluster,
    subject: Subject<'_>,
    unfit: &Unfit,
    world: &dyn World,
    offset: usize,
) -> (Vec<Candidate>, Reasons) {
    let (args, potential) = (&subject.profile.args, &unfit.resolvable);
    let wanted =
        (potential.len() * args.min_candidate_nodes_percentage / 100).max(args.min_candidate_nodes_absolute);
    let (mut found, mut reasons) = (Vec::new(), Reasons::default());
    let budgets = world.budgets();
    for at in 0..potential.len() {
        let place = potential[(offset + at) % potential.len()];
        match candidate(cluster, subject, place, (world, &budgets)) {
            Ok(candidate) => found.push(candidate),
            Err(reason) => reasons.add(reason),
        }
        // One that breaks no budget has to be among them, were there one.
        if found.len() >= wanted && found.iter().any(|candidate| candidate.violations == 0) {
            break;
        }
    }
    let far = cluster.len() - potential.len();
    reasons.absent("Preemption is not helpful for scheduling".to_owned(), far);
    (found, reasons)
}

/// Takes all less important pods away and, if that helps, puts back as many as possible: first those
/// whose budget would be broken, and of each sort the most important.
fn candidate(
    cluster: &mut Cluster,
    subject: Subject<'_>,
    place: usize,
    (world, budgets): (&dyn World, &[Budget]),
) -> Result<Candidate, Reason> {
    let pods = cluster.place(place).pods.iter().map(|pod| cluster.pod(*pod));
    // What is being bound is not a victim yet.
    let lower = pods.filter(|pod| pod.ask.priority < subject.wanted.ask.priority && pod.bound);
    let mut lower: Vec<_> =
        lower.map(|pod| (pod.ask.priority, world.started(&pod.key), pod.key.clone())).collect();
    if lower.is_empty() {
        return Err(Reason::Texts(&["No preemption victims found for incoming pod"]));
    }
    lower.sort_by_key(|(priority, started, _)| (Reverse(*priority), started.as_ref().map(|time| time.0)));
    let mut away: Vec<Option<Placed>> = lower.iter().map(|(_, _, key)| cluster.remove_pod(key)).collect();
    let mut out = vec![false; lower.len()];
    let mut violations = 0;
    let outcome = refused(cluster, subject, place);
    if outcome.is_none() {
        let breaking = breaking(&away, budgets);
        let order =
            (0..lower.len()).filter(|at| breaking[*at]).chain((0..lower.len()).filter(|at| !breaking[*at]));
        for at in order.collect::<Vec<_>>() {
            if let Some(placed) = away[at].take() {
                cluster.add(placed);
            }
            if refused(cluster, subject, place).is_some() {
                away[at] = cluster.remove_pod(&lower[at].2);
                out[at] = true;
                violations += usize::from(breaking[at]);
            }
        }
    }
    for placed in away.into_iter().flatten() {
        cluster.add(placed);
    }
    match outcome {
        Some(refusal) => Err(refusal.reason),
        None => {
            let victims = lower.into_iter().zip(out).filter_map(|(pod, out)| out.then_some(pod));
            Ok(Candidate { place, violations, victims: victims.collect() })
        }
    }
}

fn refused(cluster: &mut Cluster, subject: Subject<'_>, place: usize) -> Option<Refusal> {
    let cycle = Cycle::new(cluster, subject);
    refuse(cluster, subject, &cycle, place).map(|(_, refusal)| refusal)
}

/// Whether the end of each pod would break a PodDisruptionBudget, after those before it.
fn breaking(pods: &[Option<Placed>], budgets: &[Budget]) -> Vec<bool> {
    let mut left: Vec<i32> = budgets.iter().map(|budget| budget.allowed).collect();
    let breaks = |pod: &Option<Placed>| {
        let mut broken = false;
        for (budget, left) in budgets.iter().zip(&mut left) {
            if pod.as_ref().is_some_and(|pod| budget.covers(&pod.key, &pod.group)) {
                *left -= 1;
                broken |= *left < 0;
            }
        }
        broken
    };
    pods.iter().map(breaks).collect()
}
