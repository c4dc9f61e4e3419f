//! Memory and huge pages of NUMA nodes that guaranteed pods get (`memoryManagerPolicy: Static`). A node gives either
//! to containers that are on it alone or to those that are on one group of nodes. Pure.

use super::exclusive::is_one;
use super::hints::{Hint, Ways, prefer};
use super::nodes::{Nodes, sets};
use super::topology::Topology;
use super::unexpected;
use crate::amount::{self, Qos};
use crate::capacity::Counts;
use crate::pods::admission::Rejection;
use crate::pods::spec;
use crate::settings::KubeletConfiguration;
use api::Object;
use api::core::{Container, Pod};
use api::quantity::Amount;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Sets of nodes are tried one by one: of more nodes than this there are too many.
const MOST_NODES: usize = 16;

/// Bytes by the name of a resource, `memory` or `hugepages-2Mi`.
pub(super) type Bytes = BTreeMap<String, u64>;

/// What a node has of a resource, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Table {
    pub(super) total: u64,
    pub(super) system_reserved: u64,
    pub(super) allocatable: u64,
    pub(super) reserved: u64,
    pub(super) free: u64,
}

/// A node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Node {
    pub(super) number_of_assignments: i64,
    pub(super) memory_map: BTreeMap<String, Table>,
    /// The group of nodes that it gives together with; itself, where there is none.
    pub(super) cells: Vec<u32>,
}

/// What a container has of a resource.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Block {
    #[serde(rename = "numaAffinity")]
    pub(crate) nodes: Vec<u32>,
    #[serde(rename = "type")]
    pub(crate) resource: String,
    pub(crate) size: u64,
}

impl Block {
    fn is_on(&self, nodes: Nodes) -> bool {
        self.nodes.iter().copied().collect::<Nodes>() == nodes
    }
}

/// Who has what of which nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Bank {
    pub(super) nodes: BTreeMap<u32, Node>,
    pub(super) given: BTreeMap<String, BTreeMap<String, Vec<Block>>>,
}

/// What init containers had that have ended, by where it is.
pub(super) type Reuse = BTreeMap<(Nodes, String), u64>;

/// How memory is given out.
#[derive(Clone, Debug)]
pub(super) struct Placement {
    /// What a machine begins with.
    empty: Bank,
}

/// What a container asks for; nothing where it gets nothing of its own.
fn wanted(pod: &Pod, container: &Container) -> Bytes {
    let requests = container.resources.as_ref().and_then(|resources| resources.requests.as_ref());
    if Qos::of(pod) != Qos::Guaranteed || is_one(pod) {
        return Bytes::new();
    }
    let own = |name: &str| name == "memory" || name.starts_with("hugepages-");
    let all = requests.into_iter().flatten().filter(|(name, _)| own(name));
    all.map(|(name, quantity)| (name.clone(), amount::whole(quantity).unsigned_abs())).collect()
}

/// What a pod's containers have at most at a time.
fn wanted_together(pod: &Pod) -> Bytes {
    let names = spec::spec(pod).containers.iter().flat_map(|container| wanted(pod, container).into_keys());
    let total = |name: String| {
        let of = |container: &Container| {
            let own = wanted(pod, container).get(&name).copied().unwrap_or(0);
            i64::try_from(own).unwrap_or(i64::MAX)
        };
        let sum = amount::total(pod, &of).unsigned_abs();
        (name, sum)
    };
    names.map(total).collect()
}

impl Bank {
    /// What one container has.
    pub(super) fn of(&self, pod: &str, container: &str) -> &[Block] {
        let own = self.given.get(pod).and_then(|own| own.get(container));
        own.map(Vec::as_slice).unwrap_or_default()
    }

    /// Takes back what a pod has; whether that was anything.
    pub(super) fn release(&mut self, pod: &str) -> bool {
        let released = self.given.remove(pod);
        let any = released.is_some();
        released.into_iter().flatten().flat_map(|(_, blocks)| blocks).for_each(|block| self.untake(&block));
        any
    }

    /// Takes back what init containers have that end before this container starts; whether that was anything.
    pub(super) fn release_before(&mut self, pod: &Pod, container: &str) -> bool {
        let before = spec::init_containers(pod).iter().take_while(|it| it.name != container);
        let ended: Vec<&Container> = before.filter(|it| !spec::is_sidecar(it)).collect();
        let Some(own) = self.given.get_mut(pod.uid()) else { return false };
        let blocks: Vec<Block> = ended.iter().filter_map(|it| own.remove(&it.name)).flatten().collect();
        blocks.iter().for_each(|block| self.untake(block));
        !blocks.is_empty()
    }

    /// Takes so much of a resource from nodes, in their order as far as each has it.
    fn take(&mut self, nodes: &[u32], resource: &str, mut size: u64) {
        for id in nodes {
            let Some(node) = self.nodes.get_mut(id) else { continue };
            node.number_of_assignments += 1;
            node.cells = nodes.to_vec();
            let Some(table) = node.memory_map.get_mut(resource) else { continue };
            let part = size.min(table.free);
            table.free -= part;
            table.reserved += part;
            size -= part;
        }
    }

    fn untake(&mut self, block: &Block) {
        let mut size = block.size;
        for id in &block.nodes {
            let Some(node) = self.nodes.get_mut(id) else { continue };
            node.number_of_assignments -= 1;
            if node.number_of_assignments == 0 {
                node.cells = vec![*id];
            }
            let Some(table) = node.memory_map.get_mut(&block.resource) else { continue };
            let part = size.min(table.reserved);
            table.free += part;
            table.reserved -= part;
            size -= part;
        }
    }

    /// The sum over nodes of something that they have of a resource.
    fn sum(&self, nodes: Nodes, resource: &str, of: fn(&Table) -> u64) -> u64 {
        let tables = nodes.iter().filter_map(|id| self.nodes.get(&id)?.memory_map.get(resource));
        tables.map(of).sum()
    }

    /// Whether nodes can give together: none of them gives alone or with others.
    fn are_free_for(&self, nodes: Nodes) -> bool {
        let mut all = nodes.iter().filter_map(|id| self.nodes.get(&id));
        let group = |node: &Node| node.cells.iter().copied().collect::<Nodes>();
        nodes.len() == 1
            || all.all(|node| node.number_of_assignments == 0 || node.cells.len() > 1 && group(node) == nodes)
    }
}

impl Placement {
    /// Sets aside what is reserved, which has to be what the node as a whole keeps from pods.
    pub(super) fn new(
        topology: &Topology,
        kubelet: &KubeletConfiguration,
        kept_back: &Counts,
    ) -> Result<Self, String> {
        if topology.nodes.len() > MOST_NODES {
            return Err(format!("[memorymanager] there are more than {MOST_NODES} NUMA nodes"));
        }
        let mut reserved: BTreeMap<(u32, &str), u64> = BTreeMap::new();
        let mut totals = Bytes::new();
        for reservation in &kubelet.reserved_memory {
            let node = u32::try_from(reservation.numa_node).ok().filter(|id| topology.nodes.contains_key(id));
            let node = node.ok_or_else(|| {
                let node = reservation.numa_node;
                format!("the reserved memory configuration references a NUMA node {node} that does not exist on this machine")
            })?;
            for (name, quantity) in &reservation.limits {
                let bytes = amount::whole(quantity).unsigned_abs();
                reserved.insert((node, name), bytes);
                *totals.entry(name.clone()).or_default() += bytes;
            }
        }
        let whole = kept_back.get("memory").copied().unwrap_or(0).unsigned_abs();
        totals.entry("memory".to_owned()).or_default();
        for (name, total) in &totals {
            let determined = if name == "memory" { whole } else { 0 };
            let shown = |bytes: u64| Amount::bytes(amount::signed(bytes)).to_string();
            if *total != determined {
                return Err(format!(
                    "the total amount {:?} of type {name:?} is not equal to the value {:?} determined by Node Allocatable feature",
                    shown(*total),
                    shown(determined)
                ));
            }
        }
        if whole == 0 {
            return Err("[memorymanager] you should specify the system reserved memory".to_owned());
        }
        let nodes = topology.nodes.iter().map(|(id, memory)| {
            let of = |name: &str| reserved.get(&(*id, name)).copied().unwrap_or(0);
            let table = |total: u64, reserved: u64, huge: u64| {
                let allocatable = total.saturating_sub(reserved).saturating_sub(huge);
                Table { total, system_reserved: reserved, allocatable, reserved: 0, free: allocatable }
            };
            let pages = memory.huge_pages.iter().map(|(size, bytes)| {
                let name = format!("hugepages-{}", Amount::bytes(amount::signed(*size)));
                let own = table(*bytes, of(&name), 0);
                (name, own)
            });
            let plain = table(memory.bytes, of("memory"), memory.huge_pages.values().sum());
            let memory_map = pages.chain([("memory".to_owned(), plain)]).collect();
            (*id, Node { number_of_assignments: 0, memory_map, cells: vec![*id] })
        });
        Ok(Self { empty: Bank { nodes: nodes.collect(), given: BTreeMap::new() } })
    }

    /// What a machine begins with, whose containers have no memory of their own yet.
    pub(super) fn empty(&self) -> Bank {
        self.empty.clone()
    }

    /// What pods may have of each node.
    pub(super) fn allocatable(&self) -> Vec<Block> {
        let of_node = |(id, node): (&u32, &Node)| -> Vec<Block> {
            let some = node.memory_map.iter().filter(|(_, table)| table.allocatable > 0);
            let block = |(name, table): (&String, &Table)| Block {
                nodes: vec![*id],
                resource: name.clone(),
                size: table.allocatable,
            };
            some.map(block).collect()
        };
        self.empty.nodes.iter().flat_map(of_node).collect()
    }

    /// What is wrong with what an earlier life has left.
    pub(super) fn check(&self, bank: &Bank) -> Result<(), String> {
        let mut expected = self.empty();
        for (pod, own) in &bank.given {
            for (container, block) in own.iter().flat_map(|(name, all)| all.iter().map(move |it| (name, it)))
            {
                let wrong = |what: &str| {
                    format!(
                        "[memorymanager] (pod: {pod}, container: {container}) the memory assignment uses {what}"
                    )
                };
                for id in &block.nodes {
                    let node = expected.nodes.get(id).ok_or_else(|| wrong("the NUMA that does not exist"))?;
                    let known = node.memory_map.contains_key(&block.resource);
                    known.then_some(()).ok_or_else(|| wrong("memory resource that does not exist"))?;
                }
                expected.take(&block.nodes, &block.resource, block.size);
            }
        }
        let different = "[memorymanager] the expected machine state is different from the real one";
        if is_same(&expected, bank) { Ok(()) } else { Err(different.to_owned()) }
    }

    /// Whether a container gets memory of its own.
    pub(super) fn concerns((pod, container): (&Pod, &Container)) -> bool {
        !wanted(pod, container).is_empty()
    }

    /// Gives a container what it asks for; `reuse` is what init containers had that have ended by then.
    pub(super) fn give(
        &self,
        bank: &mut Bank,
        (pod, container): (&Pod, &Container),
        hint: Hint,
        reuse: &mut Reuse,
    ) -> Result<(), Rejection> {
        let wanted = wanted(pod, container);
        if wanted.is_empty() || !bank.of(pod.uid(), &container.name).is_empty() {
            return Ok(());
        }
        let nodes = choose(bank, &wanted, hint, reuse);
        let nodes = nodes.map_err(|why| unexpected(&format!("[memorymanager] {why}")))?;
        let ids: Vec<u32> = nodes.iter().collect();
        let mut blocks = Vec::new();
        for (resource, size) in &wanted {
            let again = reuse.get(&(nodes, resource.clone())).copied().unwrap_or(0);
            bank.take(&ids, resource, size.saturating_sub(again));
            blocks.push(Block { nodes: ids.clone(), resource: resource.clone(), size: *size });
        }
        for block in &blocks {
            let own = reuse.entry((nodes, block.resource.clone())).or_default();
            *own = if spec::ends(pod, &container.name) {
                (*own).max(block.size)
            } else {
                own.saturating_sub(block.size)
            };
        }
        let own = bank.given.entry(pod.uid().to_owned()).or_default();
        for block in &blocks {
            hand_on(pod, container, (block, nodes), own);
        }
        own.insert(container.name.clone(), blocks);
        Ok(())
    }

    /// Where a container could get what it asks for, by resource. None where it does not matter, or nowhere.
    pub(super) fn ways(&self, bank: &Bank, (pod, container): (&Pod, &Container), reuse: &Reuse) -> Vec<Ways> {
        let wanted = wanted(pod, container);
        let has = bank.of(pod.uid(), &container.name);
        if has.is_empty() {
            return by_resource(&wanted, &ways(bank, &wanted, reuse));
        }
        let same = |block: &Block| wanted.get(&block.resource) == Some(&block.size);
        if has.len() != wanted.len() || !has.iter().all(same) {
            return Vec::new();
        }
        let way = |block: &Block| {
            vec![Hint { nodes: Some(block.nodes.iter().copied().collect()), preferred: true }]
        };
        has.iter().map(way).collect()
    }

    /// The same for all containers of a pod together.
    pub(super) fn ways_together(&self, bank: &Bank, pod: &Pod) -> Vec<Ways> {
        let wanted = wanted_together(pod);
        if bank.given.contains_key(pod.uid()) {
            return Vec::new();
        }
        by_resource(&wanted, &ways(bank, &wanted, &Reuse::new()))
    }
}

fn by_resource(wanted: &Bytes, ways: &Ways) -> Vec<Ways> {
    if ways.is_empty() { Vec::new() } else { wanted.keys().map(|_| ways.clone()).collect() }
}

/// Whether two banks say the same of nodes; within a group it does not matter which node has what.
fn is_same(one: &Bank, other: &Bank) -> bool {
    let fixed = |table: &Table| (table.total, table.system_reserved, table.allocatable);
    one.nodes.keys().eq(other.nodes.keys())
        && one.nodes.values().zip(other.nodes.values()).all(|(a, b)| {
            let cells: Nodes = a.cells.iter().copied().collect();
            let moved = |bank: &Bank, name: &str| {
                (bank.sum(cells, name, |it| it.free), bank.sum(cells, name, |it| it.reserved))
            };
            a.number_of_assignments == b.number_of_assignments
                && cells == b.cells.iter().copied().collect()
                && a.memory_map.keys().eq(b.memory_map.keys())
                && a.memory_map.iter().all(|(name, table)| {
                    fixed(table) == fixed(&b.memory_map[name]) && moved(one, name) == moved(other, name)
                })
        })
}

/// The nodes that a container gets its memory from: those that were agreed on, with more where they have too little.
fn choose(bank: &Bank, wanted: &Bytes, hint: Hint, reuse: &Reuse) -> Result<Nodes, String> {
    let all = ways(bank, wanted, reuse);
    let nodes = match hint.nodes {
        Some(nodes) => nodes,
        None => {
            let best = best(all.iter()).ok_or(
                "failed to get the default NUMA affinity, no NUMA nodes with enough memory is available",
            )?;
            if hint.preferred && !best.preferred {
                return Err("failed to find the default preferred hint".to_owned());
            }
            best.nodes.unwrap_or_default()
        }
    };
    let enough = |(name, size): (&String, &u64)| bank.sum(nodes, name, |table| table.free) >= *size;
    if wanted.iter().all(enough) {
        let violates = !bank.are_free_for(nodes);
        return if violates {
            Err("preferred hint violates NUMA node allocation".to_owned())
        } else {
            Ok(nodes)
        };
    }
    let wider = all.iter().filter(|way| way.nodes.is_some_and(|more| more.and(nodes) == nodes));
    let wider = best(wider).ok_or("failed to find NUMA nodes to extend the current topology hint")?;
    if hint.preferred && !wider.preferred {
        return Err("failed to find the extended preferred hint".to_owned());
    }
    Ok(wider.nodes.unwrap_or_default())
}

/// The preferred and narrowest way.
fn best<'a>(ways: impl Iterator<Item = &'a Hint>) -> Option<Hint> {
    ways.min_by_key(|way| (!way.preferred, way.nodes.unwrap_or_default().width())).copied()
}

/// The sets of nodes that have enough of everything.
fn ways(bank: &Bank, wanted: &Bytes, reuse: &Reuse) -> Ways {
    let ids: Vec<u32> = bank.nodes.keys().copied().collect();
    let mut fewest = u32::try_from(ids.len()).unwrap_or(u32::MAX);
    let mut able = Vec::new();
    for set in sets(&ids) {
        let has = |of: fn(&Table) -> u64, more: &dyn Fn(&str) -> u64| {
            wanted.iter().all(|(name, size)| bank.sum(set, name, of) + more(name) >= *size)
        };
        if !has(|table| table.allocatable, &|_| 0) {
            continue;
        }
        fewest = fewest.min(set.len());
        let grouped = |id: u32| bank.nodes.get(&id).is_some_and(|node| node.cells.len() > 1);
        let alone_in_group = set.len() == 1 && set.iter().any(grouped);
        let again = |name: &str| reuse.get(&(set, name.to_owned())).copied().unwrap_or(0);
        if !alone_in_group && bank.are_free_for(set) && has(|table| table.free, &again) {
            able.push(set);
        }
    }
    prefer(able, fewest, |_| false)
}

/// Notes on init containers that a later container has what they had: all blocks of a pod add up to what it holds.
fn hand_on(
    pod: &Pod,
    container: &Container,
    (block, nodes): (&Block, Nodes),
    own: &mut BTreeMap<String, Vec<Block>>,
) {
    let mut size = block.size;
    let before = spec::init_containers(pod).iter().take_while(|it| it.name != container.name);
    for init in before.filter(|it| !spec::is_sidecar(it)) {
        let blocks = own.get_mut(&init.name).into_iter().flatten();
        for had in blocks.filter(|had| had.resource == block.resource && had.is_on(nodes)) {
            let part = size.min(had.size);
            had.size -= part;
            size -= part;
        }
    }
}

#[cfg(test)]
mod tests;
