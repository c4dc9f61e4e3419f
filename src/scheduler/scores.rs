//! The scores: on which of the nodes that will do is the pod best off? One row each in [`SCORES`].

use crate::filters::Question;
use crate::resources::COMPARED;
use api::taints::tolerated;
use api::terms;

/// The best a node can be in one respect.
const BEST: i64 = 100;
/// What spreading by default aims at: evenly over nodes, more loosely over zones.
const ZONE: &str = "topology.kubernetes.io/zone";

/// How raw values of all nodes become scores from 0 to 100.
#[derive(Clone, Copy)]
enum Scale {
    /// They are scores already.
    AsIs,
    /// In proportion to the highest.
    Highest,
    /// The same, and less is better.
    Lowest,
    /// From the lowest to the highest.
    Between,
}

/// A row of the table.
struct Score {
    weight: i64,
    raw: fn(&Question<'_>) -> i64,
    scale: Scale,
}

/// With Kubernetes' default weights.
static SCORES: [Score; 6] = [
    Score { weight: 3, raw: unwelcome_taints, scale: Scale::Lowest },
    Score { weight: 2, raw: preferred_nodes, scale: Scale::Highest },
    Score { weight: 2, raw: crowding, scale: Scale::Lowest },
    Score { weight: 2, raw: preferred_pods, scale: Scale::Between },
    Score { weight: 1, raw: least_allocated, scale: Scale::AsIs },
    Score { weight: 1, raw: balanced, scale: Scale::AsIs },
];

/// The total of each node, in their order.
pub(crate) fn totals(questions: &[Question<'_>]) -> Vec<i64> {
    let mut totals = vec![0; questions.len()];
    for score in &SCORES {
        let mut values: Vec<i64> = questions.iter().map(score.raw).collect();
        normalize(&mut values, score.scale);
        totals.iter_mut().zip(values).for_each(|(total, value)| *total += score.weight * value);
    }
    totals
}

fn normalize(values: &mut [i64], scale: Scale) {
    let highest = values.iter().max().copied().unwrap_or(0);
    let lowest = values.iter().min().copied().unwrap_or(0);
    for value in values {
        *value = match scale {
            Scale::AsIs => *value,
            Scale::Highest if highest == 0 => 0,
            Scale::Highest => BEST * *value / highest,
            Scale::Lowest if highest == 0 => BEST,
            Scale::Lowest => BEST - BEST * *value / highest,
            Scale::Between if highest == lowest => 0,
            Scale::Between => BEST * (*value - lowest) / (highest - lowest),
        };
    }
}

fn unwelcome_taints(question: &Question<'_>) -> i64 {
    let taints = question.place.taints().iter().filter(|taint| taint.effect == "PreferNoSchedule");
    let unwelcome = taints.filter(|taint| !tolerated(question.wanted.tolerations(), taint));
    i64::try_from(unwelcome.count()).unwrap_or(i64::MAX)
}

fn preferred_nodes(question: &Question<'_>) -> i64 {
    let Some(node) = &question.place.node else { return 0 };
    let preferred =
        question.wanted.preferred_nodes().iter().filter(|it| terms::matches(&it.preference, node));
    preferred.map(|it| i64::from(it.weight)).sum()
}

/// How many pods this one is to be spread from are near: by its own constraints that are not required,
/// or else those of the same controller, in the same zone and above all on the same node.
fn crowding(question: &Question<'_>) -> i64 {
    let (wanted, counts, place) = (question.wanted, question.counts, question.place);
    if wanted.spread.is_empty() {
        let name = place.node.as_ref().and_then(|node| node.metadata.name.as_deref()).unwrap_or_default();
        return counts.siblings.and_then(|nodes| nodes.get(name)).copied().unwrap_or(0);
    }
    let wishes = wanted.spread.iter().zip(&counts.spread).filter(|(constraint, _)| !constraint.required);
    let near = wishes.map(|(constraint, domains)| {
        // A node outside the topology is as bad as the fullest domain.
        let fullest = || domains.values().max().copied().unwrap_or(0) + 1;
        let here = place.domain(&constraint.topology_key).and_then(|domain| domains.get(domain));
        let weight = if constraint.topology_key == ZONE { 1 } else { 2 };
        weight * here.copied().unwrap_or_else(fullest)
    });
    near.sum()
}

fn preferred_pods(question: &Question<'_>) -> i64 {
    let here = |((key, value), _): &(&(String, String), &i64)| question.place.domain(key) == Some(value);
    question.counts.preferred.iter().filter(here).map(|(_, weight)| *weight).sum()
}

/// Per cent of CPU and memory that would be taken, each at most 100.
fn taken(question: &Question<'_>) -> [i64; 2] {
    [0, 1].map(|one| {
        let total = question.place.allocatable.get(COMPARED[one]).max(1);
        let taken = question.place.guessed[one] + question.wanted.guessed[one];
        (BEST * taken / total).clamp(0, BEST)
    })
}

fn least_allocated(question: &Question<'_>) -> i64 {
    let [cpu, memory] = taken(question);
    (BEST - cpu + BEST - memory) / 2
}

/// CPU and memory should be used up together.
fn balanced(question: &Question<'_>) -> i64 {
    let [cpu, memory] = taken(question);
    BEST - (cpu - memory).abs() / 2
}
