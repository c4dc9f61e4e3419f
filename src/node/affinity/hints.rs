//! Where containers could get what they ask for, said by resource, and what is made of that for all of them together
//! (the topology manager). Pure.

use super::nodes::{Nodes, sets};
use std::collections::{BTreeMap, BTreeSet};

/// One way to give a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Hint {
    /// The nodes that it comes from; none where any would do.
    pub(crate) nodes: Option<Nodes>,
    pub(crate) preferred: bool,
}

/// All ways to give a resource: none at all if it cannot be given.
pub(crate) type Ways = Vec<Hint>;

/// What is asked of the whole (`topologyManagerPolicy`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Demand {
    /// Nothing; nobody is asked for hints.
    #[default]
    None,
    BestEffort,
    Restricted,
    SingleNode,
}

/// How ways are compared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Merger {
    pub(super) demand: Demand,
    /// All nodes of the machine.
    pub(super) all: Nodes,
    /// How far nodes are from one another, where those that are near are preferred.
    pub(super) distances: Option<BTreeMap<u32, Vec<u64>>>,
}

/// Pieces of a resource, by the nodes that each is on or near: all, those that are free, and those that are to be used
/// again.
pub(crate) struct Pieces {
    pub(crate) all: Vec<Nodes>,
    pub(crate) free: Vec<Nodes>,
    pub(crate) reuse: Vec<Nodes>,
}

impl Pieces {
    /// The sets of nodes that have so many of them with all that is to be used again. Preferred are those of as few nodes
    /// as have so many at all, and `also` others, by that number.
    pub(crate) fn ways(&self, nodes: &[u32], count: usize, also: impl Fn(Nodes, u32) -> bool) -> Ways {
        let inside = |set: Nodes, of: &[Nodes]| of.iter().filter(|own| own.and(set).len() > 0).count();
        // Small sets come first.
        let fewest = sets(nodes).find(|set| inside(*set, &self.all) >= count).map(Nodes::len);
        let fewest = fewest.unwrap_or(u32::try_from(nodes.len()).unwrap_or(u32::MAX));
        let able = |set: &Nodes| {
            inside(*set, &self.reuse) == self.reuse.len()
                && self.reuse.len() + inside(*set, &self.free) >= count
        };
        prefer(sets(nodes).filter(able).collect(), fewest, |set| also(set, fewest))
    }
}

/// Hints whose nodes are so preferred: as few as some resource needs at least.
pub(super) fn prefer(nodes: Vec<Nodes>, fewest: u32, also: impl Fn(Nodes) -> bool) -> Ways {
    let hint = |nodes: Nodes| Hint { nodes: Some(nodes), preferred: nodes.len() == fewest || also(nodes) };
    nodes.into_iter().map(hint).collect()
}

impl Merger {
    /// The best way to give all resources, and whether it is good enough.
    pub(super) fn merge(&self, resources: &[Ways]) -> (Hint, bool) {
        let anyhow = Hint { nodes: None, preferred: false };
        let single = |hint: &Hint| hint.preferred && hint.nodes.is_none_or(|nodes| nodes.len() == 1);
        let possible = |ways: &Ways| -> Ways {
            let ways = if ways.is_empty() { vec![anyhow] } else { ways.clone() };
            ways.into_iter().filter(|hint| self.demand != Demand::SingleNode || single(hint)).collect()
        };
        let resources: Vec<Ways> = resources.iter().map(possible).collect();
        let least = resources.iter().filter_map(narrowest).max().unwrap_or(0);
        let merged = resources.iter().fold(BTreeSet::from([(self.all, true, None)]), join);
        let merged = merged.into_iter().filter(|(nodes, ..)| nodes.len() > 0);
        let best = merged.min_by_key(|(nodes, preferred, _)| self.rank(*nodes, *preferred, least));
        let (nodes, preferred) = best.map_or((self.all, false), |(nodes, preferred, _)| (nodes, preferred));
        match self.demand {
            Demand::None => (anyhow, true),
            Demand::BestEffort => (Hint { nodes: Some(nodes), preferred }, true),
            Demand::Restricted => (Hint { nodes: Some(nodes), preferred }, preferred),
            Demand::SingleNode => {
                let nodes = Some(nodes).filter(|nodes| *nodes != self.all);
                (Hint { nodes, preferred }, preferred)
            }
        }
    }

    /// The lower the better: what is preferred by all, and among the rest what has as many nodes as the resource that
    /// needs most, then fewer, then more.
    fn rank(&self, nodes: Nodes, preferred: bool, least: u32) -> (bool, u8, u32, (u32, u64, u64)) {
        let (count, number) = nodes.width();
        let distance = self.distances.as_ref().filter(|_| self.demand != Demand::SingleNode);
        let width = (count, distance.map_or(0, |distances| together(distances, nodes)), number);
        let (class, short) = match (preferred, count.cmp(&least)) {
            (true, _) | (_, std::cmp::Ordering::Equal) => (0, 0),
            (_, std::cmp::Ordering::Less) => (1, least - count),
            (_, std::cmp::Ordering::Greater) => (2, 0),
        };
        (!preferred, class, short, width)
    }
}

/// The fewest nodes that a resource can come from.
fn narrowest(ways: &Ways) -> Option<u32> {
    ways.iter().filter_map(|hint| hint.nodes).min_by_key(|nodes| nodes.width()).map(Nodes::len)
}

/// Nodes that are left, whether all prefer them, and what all of them named so far.
type Merged = BTreeSet<(Nodes, bool, Option<Nodes>)>;

/// Combines each way with each of those before. Ways that come to the same are one from there on, so that there are
/// never many.
fn join(before: Merged, ways: &Ways) -> Merged {
    let one = |(nodes, preferred, named): (Nodes, bool, Option<Nodes>), hint: &Hint| {
        let own = hint.nodes.unwrap_or(nodes);
        let agree = hint.nodes.is_none() || named.is_none_or(|named| hint.nodes == Some(named));
        let preferred = preferred && hint.preferred && agree;
        // What was named matters only as long as all agree.
        (nodes.and(own), preferred, named.or(hint.nodes).filter(|_| preferred))
    };
    before.iter().flat_map(|merged| ways.iter().map(move |hint| one(*merged, hint))).collect()
}

/// How far nodes are from one another, summed up.
fn together(distances: &BTreeMap<u32, Vec<u64>>, nodes: Nodes) -> u64 {
    let between = |a: u32, b: u32| distances.get(&a)?.get(usize::try_from(b).ok()?).copied();
    nodes.iter().flat_map(|a| nodes.iter().filter_map(move |b| between(a, b))).sum()
}

#[cfg(test)]
mod tests {
    use super::super::topology::made::LARGE;
    use super::*;

    fn of(nodes: &[u32]) -> Nodes {
        nodes.iter().copied().collect()
    }

    fn hint(nodes: &[u32], preferred: bool) -> Hint {
        Hint { nodes: Some(of(nodes)), preferred }
    }

    fn merged(demand: Demand, resources: &[Ways]) -> (Option<Vec<u32>>, bool, bool) {
        let merger = Merger { demand, all: of(&[0, 1]), distances: None };
        let (hint, taken) = merger.merge(resources);
        (hint.nodes.map(|nodes| nodes.iter().collect()), hint.preferred, taken)
    }

    #[test]
    fn what_all_prefer_wins() {
        let both = vec![hint(&[0], true), hint(&[1], true), hint(&[0, 1], false)];
        let second = vec![hint(&[1], true), hint(&[0, 1], false)];
        for demand in [Demand::BestEffort, Demand::Restricted, Demand::SingleNode] {
            assert_eq!(merged(demand, &[both.clone(), second.clone()]), (Some(vec![1]), true, true));
            assert_eq!(merged(demand, std::slice::from_ref(&both)), (Some(vec![0]), true, true));
            // Who does not care changes nothing.
            let anywhere = vec![Hint { nodes: None, preferred: true }];
            assert_eq!(merged(demand, &[both.clone(), anywhere]), (Some(vec![0]), true, true));
        }
        assert_eq!(merged(Demand::None, &[both]), (None, false, true));
    }

    #[test]
    fn who_cannot_agree_is_taken_or_not_as_the_policy_says() {
        let first = vec![hint(&[0], true), hint(&[0, 1], false)];
        let second = vec![hint(&[1], true), hint(&[0, 1], false)];
        let apart = [first.clone(), second];
        assert_eq!(merged(Demand::BestEffort, &apart), (Some(vec![0]), false, true));
        assert_eq!(merged(Demand::Restricted, &apart), (Some(vec![0]), false, false));
        assert_eq!(merged(Demand::SingleNode, &apart), (None, false, false));
        // A resource that is nowhere.
        assert_eq!(merged(Demand::BestEffort, &[first.clone(), Vec::new()]), (Some(vec![0]), false, true));
        assert_eq!(merged(Demand::Restricted, &[first.clone(), Vec::new()]), (Some(vec![0]), false, false));
        assert_eq!(merged(Demand::SingleNode, &[first, Vec::new()]), (None, false, false));
    }

    #[test]
    fn what_needs_two_nodes_is_restricted_to_them_and_refused_by_one() {
        let wide = vec![vec![hint(&[0, 1], true)], vec![hint(&[0, 1], true)]];
        assert_eq!(merged(Demand::Restricted, &wide), (Some(vec![0, 1]), true, true));
        assert_eq!(merged(Demand::SingleNode, &wide), (None, false, false));
        // Next to it a resource that one node has: as many nodes as the first one needs.
        let mixed = vec![vec![hint(&[0, 1], true)], vec![hint(&[0], true), hint(&[0, 1], false)]];
        assert_eq!(merged(Demand::BestEffort, &mixed), (Some(vec![0, 1]), false, true));
        assert_eq!(merged(Demand::Restricted, &mixed), (Some(vec![0, 1]), false, false));
    }

    #[test]
    fn nodes_that_are_near_one_another_are_preferred_where_that_is_asked_for() {
        let topology = LARGE.build();
        let distances = topology.nodes.iter().map(|(node, memory)| (*node, memory.distances.clone()));
        let ways = vec![hint(&[1, 2], true), hint(&[2, 3], true), hint(&[0, 3], true)];
        let merger = |distances| Merger { demand: Demand::BestEffort, all: of(&[0, 1, 2, 3]), distances };
        let near = merger(Some(distances.collect())).merge(std::slice::from_ref(&ways)).0;
        assert_eq!(near.nodes, Some(of(&[2, 3])));
        assert_eq!(merger(None).merge(&[ways]).0.nodes, Some(of(&[1, 2])));
    }

    #[test]
    fn many_ways_of_many_resources_are_merged_at_once() {
        let nodes: Vec<u32> = (0..8).collect();
        let ways: Ways = super::super::nodes::sets(&nodes)
            .map(|nodes| Hint { nodes: Some(nodes), preferred: nodes.len() == 1 })
            .collect();
        let merger = Merger { demand: Demand::Restricted, all: of(&nodes), distances: None };
        assert_eq!(merger.merge(&vec![ways; 6]), (hint(&[0], true), true));
    }
}
