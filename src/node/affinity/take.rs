//! Which processors are taken together: whole nodes, sockets, caches and cores as far as they are needed, then what is
//! left of those that are in use already (the CPU manager's `static` policy). Pure.

use super::cpus::Cpus;
use super::topology::{Cpu, Topology};
use std::collections::{BTreeMap, BTreeSet};

/// By what processors are grouped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    Node,
    Socket,
    Cache,
    Core,
}

impl Level {
    fn of(self, cpu: &Cpu) -> u32 {
        match self {
            Self::Node => cpu.node,
            Self::Socket => cpu.socket,
            Self::Cache => cpu.cache,
            Self::Core => cpu.core,
        }
    }
}

/// How single processors are taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Spread {
    /// Whole cores first, and what is left of cores before others are begun.
    #[default]
    Packed,
    /// As the kernel numbers them, which is a processor of each core before the second ones.
    AcrossCores,
    /// Packed, within one cache where that is possible.
    ByCache,
}

pub(super) fn too_few(wanted: usize, there: usize) -> String {
    format!("not enough cpus available to satisfy request: requested={wanted}, available={there}")
}

/// Takes `wanted` of the free processors, as few parts of the machine as possible.
pub(super) fn packed(
    topology: &Topology,
    free: &Cpus,
    wanted: usize,
    spread: Spread,
) -> Result<Cpus, String> {
    let mut taking = Taking::new(topology, free, wanted);
    if wanted > taking.free.len() {
        return Err(too_few(wanted, free.len()));
    }
    let [first, second] = taking.outer;
    taking.take_whole(&[first]);
    taking.take_whole(&[first, second]);
    if spread == Spread::ByCache {
        taking.take_caches();
    }
    if spread != Spread::AcrossCores {
        taking.take_whole(&[first, second, Level::Core]);
    }
    taking.take_single(spread);
    Ok(taking.taken)
}

/// A choice that is under way.
struct Taking<'a> {
    topology: &'a Topology,
    free: BTreeMap<u32, Cpu>,
    wanted: usize,
    taken: Cpus,
    /// Nodes and sockets, the larger ones first.
    outer: [Level; 2],
}

/// The order in which nodes are considered.
pub(super) fn nodes(topology: &Topology, free: &Cpus) -> Vec<u32> {
    let taking = Taking::new(topology, free, 0);
    taking.order(&taking.down_to(Level::Node))
}

impl<'a> Taking<'a> {
    fn new(topology: &'a Topology, free: &Cpus, wanted: usize) -> Self {
        let free = topology.cpus.iter().filter(|(id, _)| free.contains(id));
        let nodes_are_larger = topology.count(|cpu| cpu.socket) >= topology.count(|cpu| cpu.node);
        Self {
            topology,
            free: free.map(|(id, cpu)| (*id, *cpu)).collect(),
            wanted,
            taken: Cpus::new(),
            outer: if nodes_are_larger { [Level::Node, Level::Socket] } else { [Level::Socket, Level::Node] },
        }
    }

    fn lacks(&self) -> usize {
        self.wanted - self.taken.len()
    }

    fn take(&mut self, cpus: &Cpus) {
        self.free.retain(|id, _| !cpus.contains(id));
        self.taken.extend(cpus);
    }

    /// The levels from the largest to this one, which is one of the two large ones.
    fn down_to(&self, level: Level) -> Vec<Level> {
        let [first, second] = self.outer;
        if level == first { vec![first] } else { vec![first, second] }
    }

    fn free_in(&self, level: Level, group: u32) -> Cpus {
        self.free.iter().filter(|(_, cpu)| level.of(cpu) == group).map(|(id, _)| *id).collect()
    }

    /// The groups of the last of these levels that have free processors, group by group of those before it: always
    /// those with the fewest free processors first.
    fn order(&self, levels: &[Level]) -> Vec<u32> {
        let mut within: Vec<Option<(Level, u32)>> = vec![None];
        for level in levels {
            let below = within.iter().flat_map(|parent| self.groups(*parent, *level));
            within = below.map(|group| Some((*level, group))).collect();
        }
        within.into_iter().flatten().map(|(_, group)| group).collect()
    }

    fn groups(&self, parent: Option<(Level, u32)>, level: Level) -> Vec<u32> {
        let inside = |cpu: &&Cpu| parent.is_none_or(|(parent, group)| parent.of(cpu) == group);
        let groups: BTreeSet<u32> = self.free.values().filter(inside).map(|cpu| level.of(cpu)).collect();
        let mut groups: Vec<u32> = groups.into_iter().collect();
        groups.sort_by_key(|group| (self.free_in(level, *group).len(), *group));
        groups
    }

    /// Takes groups of the last level none of whose processors is in use, as long as all of them are needed.
    fn take_whole(&mut self, levels: &[Level]) {
        let Some(level) = levels.last() else { return };
        for group in self.order(levels) {
            let all = self.topology.those(|cpu| level.of(cpu) == group);
            if all.len() <= self.lacks() && all.iter().all(|cpu| self.free.contains_key(cpu)) {
                self.take(&all);
            }
        }
    }

    /// Takes whole caches as long as they are needed, and then what fits into one.
    fn take_caches(&mut self) {
        let levels = [self.down_to(Level::Node), vec![Level::Cache]].concat();
        let usual = self.topology.cpus.len() / self.topology.count(|cpu| cpu.cache).max(1);
        for cache in self.order(&levels) {
            if self.lacks() >= usual {
                self.take_whole(&levels);
            }
            if self.lacks() > 0 {
                self.take_part_of(cache);
            }
        }
    }

    /// Takes what is needed from one cache, if it has it in as few cores as that takes.
    fn take_part_of(&mut self, cache: u32) {
        let (per_core, lacks) = (self.topology.per_core().max(1), self.lacks());
        let cores: BTreeSet<u32> =
            self.free.values().filter(|cpu| cpu.cache == cache).map(|cpu| cpu.core).collect();
        let cores: BTreeSet<u32> = cores.into_iter().take(lacks.div_ceil(per_core)).collect();
        let of_cores = self.free.iter().filter(|(_, cpu)| cores.contains(&cpu.core));
        let mut cpus: Cpus = of_cores.map(|(id, _)| *id).collect();
        if per_core > 1 && lacks % 2 == 1 && cpus.len() > lacks {
            cpus.pop_last();
        }
        if cpus.len() == lacks {
            self.take(&cpus);
        }
    }

    /// Takes processor by processor.
    fn take_single(&mut self, spread: Spread) {
        let [first, second] = self.outer;
        let levels = match spread {
            Spread::AcrossCores => self.down_to(Level::Socket),
            Spread::Packed | Spread::ByCache => vec![first, second, Level::Core],
        };
        let level = if spread == Spread::AcrossCores { Level::Socket } else { Level::Core };
        let groups = self.order(&levels).into_iter();
        let next: Cpus = groups.flat_map(|group| self.free_in(level, group)).take(self.lacks()).collect();
        self.take(&next);
    }
}

#[cfg(test)]
mod tests {
    use super::super::cpus::{list, without};
    use super::super::topology::made::{LARGE, Made};
    use super::*;

    /// What is taken of a machine on which some processors are in use.
    fn taken(machine: Made, used: &str, wanted: usize, spread: Spread) -> String {
        let topology = machine.build();
        let free = without(&topology.all(), &crate::amount::cpus(used).unwrap());
        packed(&topology, &free, wanted, spread).map_or_else(|why| why, |cpus| list(&cpus))
    }

    #[test]
    fn whole_parts_of_the_machine_are_taken_first() {
        // Cores 0-3 are node 0, 4-7 node 1, both of socket 0; their second processors are 16 higher.
        let cases = [
            ("", 1, "0"),
            ("", 2, "0,16"),
            ("", 3, "0-1,16"),
            ("", 8, "0-3,16-19"),
            ("", 10, "0-4,16-20"),
            ("", 16, "0-7,16-23"),
            ("", 32, "0-31"),
            // What is left of a core comes before another is begun.
            ("0", 1, "16"),
            ("0", 2, "1,17"),
            ("0", 3, "1,16-17"),
            // Node 1 is whole, and so is socket 1.
            ("0", 8, "4-7,20-23"),
            ("0", 16, "8-15,24-31"),
            ("0", 17, "8-16,24-31"),
            ("0-30", 2, "not enough cpus available to satisfy request: requested=2, available=1"),
            ("0-31", 0, ""),
        ];
        for (used, wanted, expected) in cases {
            assert_eq!(taken(LARGE, used, wanted, Spread::Packed), expected, "{wanted} beside {used:?}");
        }
    }

    #[test]
    fn sockets_may_be_parts_of_a_node() {
        let machine = Made { sockets: 2, nodes_per_socket: 1, ..LARGE };
        assert_eq!(taken(machine, "", 8, Spread::Packed), "0-3,8-11");
        assert_eq!(taken(machine, "0,8", 6, Spread::Packed), "1-3,9-11");
        assert_eq!(taken(machine, "0,8", 7, Spread::Packed), "1-4,9-11");
    }

    #[test]
    fn processors_are_spread_across_cores() {
        assert_eq!(taken(LARGE, "", 3, Spread::AcrossCores), "0-2");
        assert_eq!(taken(LARGE, "0", 3, Spread::AcrossCores), "1-3");
        assert_eq!(taken(LARGE, "", 9, Spread::AcrossCores), "0-4,16-19");
    }

    #[test]
    fn caches_are_not_shared_without_need() {
        let machine = Made { cores_per_cache: Some(2), ..LARGE };
        // Core 0 is in use: packed takes its neighbour's, by cache the next two cores.
        assert_eq!(taken(machine, "0,16", 4, Spread::Packed), "1-2,17-18");
        assert_eq!(taken(machine, "0,16", 4, Spread::ByCache), "2-3,18-19");
        assert_eq!(taken(machine, "0,16", 2, Spread::ByCache), "1,17");
        assert_eq!(taken(machine, "0,16", 3, Spread::ByCache), "2-3,18");
        assert_eq!(taken(machine, "0,16", 6, Spread::ByCache), "1-3,17-19");
        // No cache has what is needed.
        assert_eq!(taken(machine, "0,2,4,6,8,10,12,14", 4, Spread::ByCache), "1,3,17,19");
    }
}
