//! Makes room for a pod by ending less important ones, where that is enough.

use crate::ask::{Ask, Key};
use crate::cluster::{Cluster, Placed};
use crate::cycle::{Cycle, Reasons, Subject, Unfit, refuse};
use crate::intern::Handle;
use crate::plugins::{Reason, Refusal, resources};
use crate::resources::Resources;
use crate::wishes::Group;
use crate::world::Budget;
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
    victims: Vec<Lower>,
}

/// The node where the least important and fewest pods have to go. `offset` is where the search begins.
pub(crate) fn plan(cluster: &mut Cluster, subject: Subject<'_>, unfit: &Unfit, offset: usize) -> Verdict {
    if !subject.wanted.ask.preempts {
        return Verdict::Wait(NEVER.to_owned());
    }
    if is_under_way(cluster, subject, unfit) {
        return Verdict::Wait(UNDER_WAY.to_owned());
    }
    let (candidates, reasons) = candidates(cluster, subject, unfit, offset);
    let best = candidates.into_iter().min_by_key(|candidate| {
        let priorities = candidate.victims.iter().map(|victim| victim.ask.priority);
        let highest = priorities.clone().next();
        let sum: i64 = priorities.map(|priority| i64::from(priority) - i64::from(i32::MIN)).sum();
        let most_important = candidate.victims.iter().filter(|victim| Some(victim.ask.priority) == highest);
        let earliest = most_important.map(|victim| victim.started).min();
        (candidate.violations, highest, sum, candidate.victims.len(), Reverse(earliest))
    });
    match best {
        Some(Candidate { place, victims, .. }) => Verdict::Preempt(Preemption {
            node: cluster.place(place).facts.name.to_string(),
            victims: victims.into_iter().map(|victim| victim.key).collect(),
        }),
        None => {
            let requests = Cycle::new(cluster, subject).requests;
            Verdict::Nothing(format!("preemption: {}", reasons.message(cluster.len(), &requests)))
        }
    }
}

/// Pods that had to make room on the node that was chosen are still leaving it.
fn is_under_way(cluster: &Cluster, subject: Subject<'_>, unfit: &Unfit) -> bool {
    let Some(place) = cluster.nomination(&subject.wanted.key) else { return false };
    // Where nothing helps any more another node is looked for.
    if !unfit.resolvable.contains(&place) {
        return false;
    }
    let mut pods = cluster.place(place).pods.iter().map(|pod| cluster.pod(*pod));
    pods.any(|pod| {
        pod.ask.priority < subject.wanted.ask.priority
            && pod.group.leaving
            && subject.world.is_preempted(&pod.key)
    })
}

fn candidates(
    cluster: &mut Cluster,
    subject: Subject<'_>,
    unfit: &Unfit,
    offset: usize,
) -> (Vec<Candidate>, Reasons) {
    let (args, potential) = (&subject.profile.args, &unfit.resolvable);
    let wanted =
        (potential.len() * args.min_candidate_nodes_percentage / 100).max(args.min_candidate_nodes_absolute);
    let (mut found, mut reasons) = (Vec::new(), Reasons::default());
    let budgets = subject.world.budgets();
    let cycle = Cycle::new(cluster, subject);
    for at in 0..potential.len() {
        let place = potential[(offset + at) % potential.len()];
        match candidate(cluster, (subject, &cycle), place, &budgets) {
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

/// A less important pod on a node.
struct Lower {
    key: Key,
    ask: Handle<Ask>,
    group: Handle<Group>,
    started: i64,
}

/// What is tried: a node without some of its pods.
enum Trial {
    /// Nothing but amounts counts: they are added up.
    Amounts { requested: Resources, pods: usize },
    /// The pods are taken out of the cluster's counts, and put back.
    Pods(Vec<Option<Placed>>),
}

impl Trial {
    fn new(cluster: &Cluster, cycle: &Cycle<'_>, place: usize, lower: usize) -> Self {
        if cycle.amounts_decide(cluster, place) {
            let place = cluster.place(place);
            return Self::Amounts { requested: place.requested.clone(), pods: place.pods.len() };
        }
        Self::Pods((0..lower).map(|_| None).collect())
    }

    fn take(&mut self, cluster: &mut Cluster, at: usize, pod: &Lower) {
        match self {
            Self::Amounts { requested, pods } => {
                requested.add(&pod.ask.requests, -1);
                *pods -= 1;
            }
            Self::Pods(away) => away[at] = cluster.remove_pod(&pod.key),
        }
    }

    fn put(&mut self, cluster: &mut Cluster, at: usize, pod: &Lower) {
        match self {
            Self::Amounts { requested, pods } => {
                requested.add(&pod.ask.requests, 1);
                *pods += 1;
            }
            Self::Pods(away) => {
                if let Some(placed) = away[at].take() {
                    cluster.add(placed);
                }
            }
        }
    }

    fn refusal(
        &self,
        cluster: &mut Cluster,
        (subject, cycle): (Subject<'_>, &Cycle<'_>),
        place: usize,
    ) -> Option<Refusal> {
        match self {
            Self::Amounts { requested, pods } => {
                resources::fits(&cluster.place(place).facts, requested, *pods, &cycle.requests)
            }
            Self::Pods(_) => {
                let cycle = Cycle::new(cluster, subject);
                refuse(cluster, subject, &cycle, place).map(|(_, refusal)| refusal)
            }
        }
    }

    /// All pods are where they were.
    fn end(self, cluster: &mut Cluster) {
        if let Self::Pods(away) = self {
            for placed in away.into_iter().flatten() {
                cluster.add(placed);
            }
        }
    }
}

/// Takes all less important pods away and, if that helps, puts back as many as possible: first those
/// whose budget would be broken, and of each sort the most important.
fn candidate(
    cluster: &mut Cluster,
    (subject, cycle): (Subject<'_>, &Cycle<'_>),
    place: usize,
    budgets: &[Budget],
) -> Result<Candidate, Reason> {
    let lower = lower(cluster, subject, place);
    if lower.is_empty() {
        return Err(Reason::Texts(&["No preemption victims found for incoming pod"]));
    }
    let mut trial = Trial::new(cluster, cycle, place, lower.len());
    for (at, pod) in lower.iter().enumerate() {
        trial.take(cluster, at, pod);
    }
    let mut out = vec![false; lower.len()];
    let mut violations = 0;
    let outcome = trial.refusal(cluster, (subject, cycle), place);
    if outcome.is_none() {
        let breaking = breaking(&lower, budgets);
        for sort in [true, false] {
            for (at, pod) in lower.iter().enumerate().filter(|(at, _)| breaking[*at] == sort) {
                trial.put(cluster, at, pod);
                if trial.refusal(cluster, (subject, cycle), place).is_some() {
                    trial.take(cluster, at, pod);
                    out[at] = true;
                    violations += usize::from(sort);
                }
            }
        }
    }
    trial.end(cluster);
    match outcome {
        Some(refusal) => Err(refusal.reason),
        None => {
            let victims = lower.into_iter().zip(out).filter_map(|(pod, out)| out.then_some(pod)).collect();
            Ok(Candidate { place, violations, victims })
        }
    }
}

/// The less important pods of a node, the most important first and of equals who started first.
fn lower(cluster: &Cluster, subject: Subject<'_>, place: usize) -> Vec<Lower> {
    let pods = cluster.place(place).pods.iter().map(|pod| cluster.pod(*pod));
    // What is being bound is not a victim yet.
    let lower = pods.filter(|pod| pod.ask.priority < subject.wanted.ask.priority && pod.bound);
    let mut lower: Vec<Lower> = lower
        .map(|pod| Lower {
            key: pod.key.clone(),
            ask: pod.ask.clone(),
            group: pod.group.clone(),
            started: pod.started,
        })
        .collect();
    lower.sort_by_key(|pod| (Reverse(pod.ask.priority), pod.started));
    lower
}

/// Whether the end of each pod would break a PodDisruptionBudget, after those before it.
fn breaking(pods: &[Lower], budgets: &[Budget]) -> Vec<bool> {
    let mut left: Vec<i32> = budgets.iter().map(|budget| budget.allowed).collect();
    let breaks = |pod: &Lower| {
        let mut broken = false;
        for (budget, left) in budgets.iter().zip(&mut left) {
            if budget.covers(&pod.key, &pod.group) {
                *left -= 1;
                broken |= *left < 0;
            }
        }
        broken
    };
    pods.iter().map(breaks).collect()
}
