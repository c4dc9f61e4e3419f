//! Whether a node has what a pod asks for, and how well it would be used.

use super::{BEST, Hint, Question, Reason, Refusal};
use crate::cycle::Cycle;
use crate::devices::{self, Provided};
use crate::events::Event;
use crate::nodes::Facts;
use crate::profile::{FitArgs, Strategy};
use crate::resources::{Resource, Resources};

pub(super) fn fit(question: &Question<'_>) -> Option<Refusal> {
    let place = question.place;
    fits(&place.facts, &place.requested, place.pods.len(), &question.cycle.requests)
}

/// What a node lacks for these requests, beside so many pods that take so much.
pub(crate) fn fits(
    node: &Facts,
    requested: &Resources,
    pods: usize,
    requests: &[Counted],
) -> Option<Refusal> {
    let (mut lacking, mut resolvable) = (0, true);
    if i64::try_from(pods).unwrap_or(i64::MAX) >= node.allowed_pods {
        lacking |= 1;
    }
    for (at, Counted { resource, amount, is_provided }) in requests.iter().enumerate() {
        let total = node.allocatable.get(resource);
        if *is_provided && total == 0 {
            continue;
        }
        if *amount > total - requested.get(resource) {
            lacking |= 2 << at;
            resolvable &= *amount <= total;
        }
    }
    (lacking != 0).then_some(Refusal { reason: Reason::Resources(lacking), resolvable })
}

/// What is lacking, in words.
pub(crate) fn lacking(reason: u64, requests: &[Counted]) -> impl Iterator<Item = String> {
    let pods = (reason & 1 != 0).then(|| "Too many pods".to_owned());
    let named = requests.iter().enumerate().filter(move |(at, _)| reason & (2 << at) != 0);
    pods.into_iter().chain(named.map(|(_, lacking)| format!("Insufficient {}", lacking.resource.name())))
}

/// A request that is looked at.
#[derive(Debug)]
pub(crate) struct Counted {
    resource: Resource,
    amount: i64,
    /// Devices stand for it where a node does not have it.
    is_provided: bool,
}

/// What of a pod's requests is looked at (`ignoredResources`, `ignoredResourceGroups`).
pub(crate) fn counted(requests: &Resources, provided: &Provided, args: &FitArgs) -> Vec<Counted> {
    let ignored = |resource: &Resource| {
        let name = resource.name();
        let group = name.split_once('/').map_or("", |(group, _)| group);
        resource.is_extended()
            && (args.ignored.iter().any(|own| own == name)
                || args.ignored_groups.iter().any(|own| own == group))
    };
    // More than fit into a reason no pod asks for: the API bounds a pod's size, not this.
    let requests = requests.iter().filter(|(resource, amount)| *amount > 0 && !ignored(resource)).take(62);
    let counted = |(resource, amount)| {
        let is_provided = provided.class(&resource).is_some();
        Counted { resource, amount, is_provided }
    };
    requests.map(counted).collect()
}

fn has_room(node: &Facts, requests: &Resources, is_provided: impl Fn(&Resource) -> bool) -> bool {
    node.allowed_pods > 0
        && requests.iter().all(|(resource, amount)| {
            let total = node.allocatable.get(&resource);
            amount <= total || (total == 0 && is_provided(&resource))
        })
}

pub(super) fn room_came(hint: &Hint<'_>) -> bool {
    let requests = &hint.wanted.ask.requests;
    let is_provided = |resource: &Resource| hint.cluster.provided.class(resource).is_some();
    match hint.event {
        Event::Node { old: None, new: Some(new) } => has_room(new, requests, is_provided),
        Event::Node { old: Some(old), new: Some(new) } => {
            let more = requests.iter().any(|(it, _)| {
                let total = new.allocatable.get(&it);
                total > old.allocatable.get(&it) || (total == 0 && is_provided(&it))
            });
            has_room(new, requests, is_provided) && (more || new.allowed_pods > old.allowed_pods)
        }
        Event::DeviceClass { old, new } => requests.iter().any(|(it, _)| {
            devices::provides(new, &it) && !old.is_some_and(|old| devices::provides(old, &it))
        }),
        Event::Pod { old: Some(_), new: None } => true,
        Event::Pod { old: Some(old), new: Some(new) } => {
            requests.iter().any(|(it, _)| new.ask.requests.get(&it) < old.ask.requests.get(&it))
        }
        Event::Own(change) => change.smaller,
        _ => false,
    }
}

/// The share of a resource that would be taken, and was before: (with, without, of).
fn share(question: &Question<'_>, resource: &Resource, guess: bool) -> Option<(i64, i64, i64)> {
    let (place, ask) = (question.place, &question.wanted().ask);
    let total = place.facts.allocatable.get(resource);
    let (own, taken) = match resource {
        Resource::Cpu if guess => (ask.guessed[0], place.guessed[0]),
        Resource::Memory if guess => (ask.guessed[1], place.guessed[1]),
        other => (ask.requests.get(other), place.requested.get(other)),
    };
    let unasked = own == 0 && matches!(resource, Resource::Other(_));
    (total != 0 && !unasked).then_some((taken + own, taken, total))
}

pub(super) fn allocation(question: &Question<'_>) -> i64 {
    let args = &question.cycle.profile.args.fit;
    let (mut sum, mut weights) = (0, 0);
    for (resource, weight) in &args.resources {
        let Some((taken, _, total)) = share(question, resource, true) else { continue };
        let score = match &args.strategy {
            Strategy::LeastAllocated if taken > total => 0,
            Strategy::LeastAllocated => (total - taken) * BEST / total,
            Strategy::MostAllocated => taken.min(total) * BEST / total,
            Strategy::RequestedToCapacityRatio(shape) => {
                let score = on_shape(shape, if taken > total { BEST } else { taken * BEST / total });
                // What scores nothing does not count at all.
                if score <= 0 {
                    continue;
                }
                score
            }
        };
        sum += score * weight;
        weights += weight;
    }
    match &args.strategy {
        _ if weights == 0 => 0,
        Strategy::RequestedToCapacityRatio(_) => (2 * sum + weights) / (2 * weights),
        _ => sum / weights,
    }
}

/// The value at a utilization, on the line through the points around it.
fn on_shape(shape: &[(i64, i64)], utilization: i64) -> i64 {
    let Some(after) = shape.iter().position(|(at, _)| utilization <= *at) else {
        return shape.last().map_or(0, |(_, score)| *score);
    };
    let (to, high) = shape[after];
    match after.checked_sub(1).map(|before| shape[before]) {
        None => high,
        Some((from, low)) => low + (high - low) * (utilization - from) / (to - from),
    }
}

pub(super) fn asks_anything(cycle: &Cycle<'_>) -> bool {
    let resources = &cycle.profile.args.balanced;
    resources.iter().any(|resource| cycle.wanted.ask.requests.get(resource) != 0)
}

/// Resources should be used up together: how much better the balance becomes.
pub(super) fn balanced(question: &Question<'_>) -> i64 {
    let (mut with, mut without) = (Balance::default(), Balance::default());
    for resource in &question.cycle.profile.args.balanced {
        if let Some((after, before, total)) = share(question, resource, false) {
            with.add(after, total);
            without.add(before, total);
        }
    }
    BEST / 2 + (BEST / 2 + with.score() - without.score()) / 2
}

/// Sums for a standard deviation.
#[derive(Default)]
struct Balance {
    count: u32,
    sum: f64,
    squares: f64,
    last: f64,
}

impl Balance {
    fn add(&mut self, taken: i64, total: i64) {
        let share = (taken as f64 / total as f64).min(1.0);
        self.count += 1;
        self.sum += share;
        self.squares += share * share;
        self.last = share;
    }

    fn score(&self) -> i64 {
        if self.count < 2 {
            return BEST;
        }
        let count = f64::from(self.count);
        let mean = self.sum / count;
        // Of two it is how far either is from their mean.
        let deviation = if self.count == 2 {
            (self.last - mean).abs()
        } else {
            (self.squares / count - mean * mean).max(0.0).sqrt()
        };
        // From 50 to 100: it fits.
        #[expect(
            clippy::cast_possible_truncation,
            reason = "a share of a hundred, cut off as Kubernetes does"
        )]
        let score = ((1.0 - deviation) * BEST as f64 + 1e-9) as i64;
        score
    }
}
