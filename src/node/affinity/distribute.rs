//! Processors in equal parts from as few NUMA nodes as have them (KEP-2902, `distribute-cpus-across-numa`). Pure.

use super::cpus::Cpus;
use super::nodes::choices;
use super::take::{Spread, nodes, packed, too_few};
use super::topology::Topology;
use std::collections::BTreeMap;

/// How many processors nodes have left.
type Left = BTreeMap<u32, usize>;

/// What a container would get from nodes.
struct Plan {
    nodes: Vec<u32>,
    /// Of each of them.
    each: usize,
    /// Of which of them the rest comes.
    rest: Vec<u32>,
    /// How unequal nodes are after it.
    imbalance: f64,
}

/// What is asked: so many processors, so many of them always together.
#[derive(Clone, Copy)]
struct Wanted {
    count: usize,
    group: usize,
}

/// Takes `wanted` of the free processors, `group` of them together.
pub(super) fn distributed(
    topology: &Topology,
    free: &Cpus,
    (wanted, group): (usize, usize),
    spread: Spread,
) -> Result<Cpus, String> {
    if wanted % group != 0 || wanted == 0 {
        return packed(topology, free, wanted, spread);
    }
    let there: Cpus = topology.all().intersection(free).copied().collect();
    if there.len() < wanted {
        return Err(too_few(wanted, free.len()));
    }
    let in_node = |node: u32| there.iter().filter(|cpu| topology.node_of(**cpu) == Some(node)).count();
    let all = nodes(topology, &there);
    let left: Left = all.iter().map(|node| (*node, in_node(*node))).collect();
    let wanted = Wanted { count: wanted, group };
    let groups = wanted.count / group;
    let per_node = topology.cpus.len().div_ceil(group).div_ceil(topology.nodes_with_cpus().len().max(1));
    for count in groups.div_ceil(per_node)..=groups.min(all.len()) {
        let plans = choices(&all, count).into_iter().filter_map(|nodes| plan(&left, nodes, wanted));
        if let Some(best) = plans.reduce(better) {
            return carry_out(topology, there, &best, wanted, spread);
        }
    }
    packed(topology, free, wanted.count, spread)
}

/// The less unequal, or the first.
fn better(one: Plan, other: Plan) -> Plan {
    if other.imbalance < one.imbalance { other } else { one }
}

/// What these nodes would give; none where they have not enough in equal parts.
fn plan(left: &Left, nodes: Vec<u32>, wanted: Wanted) -> Option<Plan> {
    let Wanted { count, group } = wanted;
    let each = count / nodes.len() / group * group;
    let whole: usize = nodes.iter().map(|node| left[node] / group * group).sum();
    if whole < count || nodes.iter().any(|node| left[node] < each) {
        return None;
    }
    let mut after = left.clone();
    nodes.iter().for_each(|node| *after.entry(*node).or_default() -= each);
    let rest = count - each * nodes.len();
    if rest == 0 {
        return Some(Plan { nodes, each, rest: Vec::new(), imbalance: imbalance(&after) });
    }
    let able: Vec<u32> = nodes.iter().filter(|node| after[node] >= group).copied().collect();
    let subsets = (1..=able.len()).rev().flat_map(|count| choices(&able, count));
    let tried =
        subsets.filter_map(|subset| Some((imbalance(&without_rest(&after, &subset, rest, group)?), subset)));
    let best = tried.reduce(|one, other| if other.0 < one.0 { other } else { one })?;
    Some(Plan { nodes, each, rest: best.1, imbalance: best.0 })
}

/// What is left after these nodes gave the rest in turns.
fn without_rest(after: &Left, subset: &[u32], mut rest: usize, group: usize) -> Option<Left> {
    let mut after = after.clone();
    while rest > 0 {
        let before = rest;
        for node in subset {
            let own = after.entry(*node).or_default();
            if rest > 0 && *own >= group {
                *own -= group;
                rest -= group;
            }
        }
        if rest == before {
            return None;
        }
    }
    Some(after)
}

/// The standard deviation, in thousandths as Kubernetes rounds it.
fn imbalance(left: &Left) -> f64 {
    let rounded = |value: f64| (value * 1000.0).round() / 1000.0;
    let values = || left.values().map(|own| u32::try_from(*own).map_or(f64::MAX, f64::from));
    let count = values().map(|_| 1.0).sum::<f64>();
    let mean = rounded(values().sum::<f64>() / count);
    rounded((values().map(|own| (own - mean) * (own - mean)).sum::<f64>() / count).sqrt())
}

fn carry_out(
    topology: &Topology,
    mut free: Cpus,
    plan: &Plan,
    wanted: Wanted,
    spread: Spread,
) -> Result<Cpus, String> {
    let mut taken = Cpus::new();
    let mut take = |node: u32, count: usize| -> Result<usize, String> {
        let own: Cpus = free.iter().filter(|cpu| topology.node_of(**cpu) == Some(node)).copied().collect();
        if own.len() < count {
            return Ok(0);
        }
        let got = packed(topology, &own, count, spread)?;
        free.retain(|cpu| !got.contains(cpu));
        taken.extend(&got);
        Ok(got.len())
    };
    let mut lacks = wanted.count;
    for node in &plan.nodes {
        lacks -= take(*node, plan.each)?;
    }
    while lacks > 0 {
        let before = lacks;
        for node in &plan.rest {
            if lacks > 0 {
                lacks -= take(*node, wanted.group)?;
            }
        }
        if lacks == before {
            return Err(format!("accounting error, not enough CPUs allocated, remaining: {lacks}"));
        }
    }
    Ok(taken)
}

#[cfg(test)]
mod tests {
    use super::super::cpus::{list, without};
    use super::super::topology::made::LARGE;
    use super::*;

    fn taken(used: &str, wanted: usize, group: usize) -> String {
        let topology = LARGE.build();
        let free = without(&topology.all(), &crate::amount::cpus(used).unwrap());
        distributed(&topology, &free, (wanted, group), Spread::Packed)
            .map_or_else(|why| why, |cpus| list(&cpus))
    }

    #[test]
    fn nodes_give_equal_parts() {
        let cases = [
            // One node has it all.
            ("", 8, 1, "0-3,16-19"),
            // Two give five each, three four each, all of them six.
            ("", 10, 1, "0-2,4-6,16-17,20-21"),
            ("", 12, 2, "0-2,4-6,16-18,20-22"),
            ("", 24, 1, "0-11,16-27"),
            // A node that has little is left out.
            ("0-2,16-18", 10, 1, "4-6,8-10,20-21,24-25"),
            // What cannot be divided is packed.
            ("", 9, 2, "0-4,16-19"),
            ("0-30", 2, 1, "not enough cpus available to satisfy request: requested=2, available=1"),
        ];
        for (used, wanted, group, expected) in cases {
            assert_eq!(taken(used, wanted, group), expected, "{wanted} in {group}s beside {used:?}");
        }
    }

    #[test]
    fn the_rest_comes_from_where_most_is_left() {
        // 9 of 2 nodes: 4 each, and one from the node that has more.
        assert_eq!(taken("0,8-15,24-31", 9, 1), "1-2,4-6,17-18,20-21");
    }
}
