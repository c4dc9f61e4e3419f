//! The devices there are: what drivers tell in ResourceSlices, put together by pools.

use super::ledger::{Amounts, amount, device_id};
use crate::intern::{Text, Texts};
use crate::nodes::{Facts, NodeSelector};
use api::Object;
use api::core;
use api::resource::{Device, ResourceSlice};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

/// From which nodes a device can be used.
#[derive(Clone, Debug)]
enum Reach {
    Everywhere,
    Node(Text),
    Selected(NodeSelector),
    /// Nothing is said, and so from none.
    Nowhere,
}

impl Reach {
    fn of(
        name: Option<&str>,
        all: Option<bool>,
        selector: Option<&core::NodeSelector>,
        texts: &mut Texts,
    ) -> Self {
        match (name.filter(|name| !name.is_empty()), all, selector) {
            (Some(name), ..) => Self::Node(texts.of(name)),
            (_, Some(true), _) => Self::Everywhere,
            (.., Some(selector)) => Self::Selected(NodeSelector::of(selector, texts)),
            _ => Self::Nowhere,
        }
    }

    fn reaches(&self, node: &Facts) -> bool {
        match self {
            Self::Everywhere => true,
            Self::Node(name) => *name == node.name,
            Self::Selected(selector) => selector.selects(node),
            Self::Nowhere => false,
        }
    }
}

/// A device of a pool.
#[derive(Debug)]
pub(super) struct Unit {
    pub(super) id: Arc<str>,
    pub(super) slice: Arc<ResourceSlice>,
    at: usize,
    reach: Reach,
}

impl Unit {
    pub(super) fn device(&self) -> &Device {
        &self.slice.spec.devices.as_deref().unwrap_or_default()[self.at]
    }

    /// What is said of its nodes, by the device or for all of its slice.
    pub(super) fn nodes(&self) -> (Option<&str>, Option<&core::NodeSelector>) {
        let (spec, device) = (&self.slice.spec, self.device());
        if spec.per_device_node_selection == Some(true) {
            (device.node_name.as_deref(), device.node_selector.as_ref())
        } else {
            (spec.node_name.as_deref(), spec.node_selector.as_ref())
        }
    }

    pub(super) fn is_shareable(&self) -> bool {
        self.device().allow_multiple_allocations == Some(true)
    }
}

/// Whether a pool's devices can be given away.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Health {
    Usable,
    /// Some of its slices are still to come.
    Incomplete,
    Invalid,
}

/// The devices that a driver manages together.
#[derive(Debug)]
pub(super) struct Pool {
    /// `driver/pool`.
    pub(super) name: String,
    pub(super) health: Health,
    pub(super) units: Vec<Unit>,
    /// What its devices share, by the set's name.
    pub(super) counters: HashMap<String, Amounts>,
    /// What its slices say of nodes.
    reaches: Vec<Reach>,
}

impl Pool {
    /// The devices that a node can use.
    pub(super) fn units_for(&self, node: &Facts) -> impl Iterator<Item = &Unit> {
        self.units.iter().filter(|unit| unit.reach.reaches(node))
    }

    fn binds(&self) -> bool {
        self.units.iter().any(|unit| unit.device().binding_conditions.is_some())
    }
}

/// All pools in the order in which they are searched.
#[derive(Debug, Default)]
pub(crate) struct Inventory {
    pools: Vec<Pool>,
    /// The pools with something that is meant for one node alone.
    by_node: HashMap<Text, Vec<usize>>,
    /// The others.
    elsewhere: Vec<usize>,
}

impl Inventory {
    pub(crate) fn of<'a>(slices: impl Iterator<Item = &'a Arc<ResourceSlice>>, texts: &mut Texts) -> Self {
        let mut by_pool: BTreeMap<(&str, &str), Vec<&Arc<ResourceSlice>>> = BTreeMap::new();
        for slice in slices {
            by_pool.entry((&slice.spec.driver, &slice.spec.pool.name)).or_default().push(slice);
        }
        let mut pools: Vec<Pool> = by_pool.into_iter().map(|(of, slices)| pool(of, slices, texts)).collect();
        // Devices that take time to be bound are a last resort.
        pools.sort_by_key(Pool::binds);
        let mut inventory = Self::default();
        for (ix, pool) in pools.iter().enumerate() {
            let mut nodes = HashSet::new();
            let mut is_elsewhere = !pool.counters.is_empty();
            for reach in &pool.reaches {
                match reach {
                    Reach::Node(name) => drop(nodes.insert(name.clone())),
                    Reach::Nowhere => {}
                    Reach::Everywhere | Reach::Selected(_) => is_elsewhere = true,
                }
            }
            if is_elsewhere {
                inventory.elsewhere.push(ix);
            } else {
                nodes.into_iter().for_each(|name| inventory.by_node.entry(name).or_default().push(ix));
            }
        }
        inventory.pools = pools;
        inventory
    }

    /// The pools with something for a node.
    pub(super) fn pools_for(&self, node: &Facts) -> Vec<&Pool> {
        let own = self.by_node.get(&node.name).into_iter().flatten();
        let mut all: Vec<usize> = own.chain(&self.elsewhere).copied().collect();
        all.sort_unstable();
        let is_for_node =
            |pool: &&Pool| !pool.counters.is_empty() || pool.reaches.iter().any(|reach| reach.reaches(node));
        all.into_iter().map(|ix| &self.pools[ix]).filter(is_for_node).collect()
    }
}

/// The slices of one pool: those of the newest generation count.
fn pool((driver, name): (&str, &str), slices: Vec<&Arc<ResourceSlice>>, texts: &mut Texts) -> Pool {
    let newest = slices.iter().map(|slice| slice.spec.pool.generation).max();
    let mut slices: Vec<_> =
        slices.into_iter().filter(|slice| Some(slice.spec.pool.generation) == newest).collect();
    slices.sort_by(|a, b| a.name().cmp(b.name()));
    let expected = slices.first().map_or(0, |slice| slice.spec.pool.resource_slice_count);
    let mut pool = Pool {
        name: format!("{driver}/{name}"),
        health: Health::Usable,
        units: slices.iter().flat_map(|slice| units(slice, texts)).collect(),
        counters: HashMap::new(),
        reaches: Vec::new(),
    };
    pool.reaches = slices.iter().flat_map(|slice| reaches(slice, texts)).collect();
    let sets = slices.iter().flat_map(|slice| slice.spec.shared_counters.iter().flatten());
    let mut is_twice = false;
    for set in sets {
        let amounts = set.counters.iter().map(|(name, counter)| (name.clone(), amount(&counter.value)));
        is_twice |= pool.counters.insert(set.name.clone(), amounts.collect()).is_some();
    }
    if i64::try_from(slices.len()) != Ok(expected) {
        pool.health = Health::Incomplete;
    } else if is_twice || !is_valid(&pool) {
        pool.health = Health::Invalid;
    }
    pool
}

fn reaches(slice: &ResourceSlice, texts: &mut Texts) -> Vec<Reach> {
    let spec = &slice.spec;
    if spec.per_device_node_selection == Some(true) {
        let devices = spec.devices.iter().flatten();
        return devices.map(|device| of_device(device, texts)).collect();
    }
    vec![Reach::of(spec.node_name.as_deref(), spec.all_nodes, spec.node_selector.as_ref(), texts)]
}

fn of_device(device: &Device, texts: &mut Texts) -> Reach {
    Reach::of(device.node_name.as_deref(), device.all_nodes, device.node_selector.as_ref(), texts)
}

fn units(slice: &Arc<ResourceSlice>, texts: &mut Texts) -> Vec<Unit> {
    let spec = &slice.spec;
    let mut reaches = reaches(slice, texts).into_iter();
    let shared = (spec.per_device_node_selection != Some(true)).then(|| reaches.next()).flatten();
    let devices = spec.devices.iter().flatten().enumerate();
    let units = devices.map(|(at, device)| Unit {
        id: device_id(&spec.driver, &spec.pool.name, &device.name),
        slice: slice.clone(),
        at,
        reach: shared.clone().or_else(|| reaches.next()).unwrap_or(Reach::Nowhere),
    });
    units.collect()
}

/// No two devices have one name, and all counters that they take from are there.
fn is_valid(pool: &Pool) -> bool {
    let mut names = HashSet::new();
    pool.units.iter().all(|unit| {
        let consumed = unit.device().consumes_counters.iter().flatten();
        names.insert(&unit.id)
            && consumed.into_iter().all(|consumed| {
                let set = pool.counters.get(&consumed.counter_set);
                set.is_some_and(|set| consumed.counters.keys().all(|name| set.contains_key(name)))
            })
    })
}
