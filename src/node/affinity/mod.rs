//! What containers get to themselves and near to one another: processors, memory of NUMA nodes, and devices (the CPU,
//! memory and topology managers). Start reading at [`admit`], which is asked before a pod is taken.
//!
//! What is decided is written down before a container is made, in Kubernetes' files. Where no policy asks for any of
//! it nothing is read, kept or run.

mod admission;
mod cpu_file;
pub(crate) mod cpus;
mod distribute;
mod exclusive;
mod hints;
mod memory;
mod memory_file;
mod nodes;
mod options;
mod reconcile;
mod take;
mod topology;

pub(crate) use admission::{admit, forbids_resize};
pub(crate) use hints::{Pieces, Ways};
pub(crate) use memory::Block;
pub(crate) use nodes::Nodes;
pub(crate) use options::check;
pub(crate) use reconcile::run;

use crate::cgroups::Rules;
use crate::machine::Machine;
use crate::pods::admission::Rejection;
use crate::{Config, Error, amount, files};
use api::Object;
use api::core::Pod;
use cpus::Cpus;
use exclusive::{Exclusive, Pool};
use hints::{Demand, Merger};
use memory::{Bank, Placement};
use options::{CpuOptions, TopologyOptions};
use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use tokio::sync::watch;
use topology::Topology;

/// Why a pod is not taken although there seemed to be enough.
pub(crate) fn unexpected(why: &str) -> Rejection {
    Rejection {
        reason: "UnexpectedAdmissionError".to_owned(),
        message: format!("Allocate failed due to {why}, which is unexpected"),
    }
}

/// What a container is pinned to, as the runtime is told; "" for anything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pinned {
    pub(crate) cpus: String,
    pub(crate) mems: String,
}

/// Who has what to himself. Empty until it is started, and where no policy asks for it.
#[derive(Default)]
pub(crate) struct Affinity(OnceLock<Inner>);

/// What is held by now.
#[derive(Clone, Debug, Default, PartialEq)]
struct Held {
    pool: Pool,
    bank: Bank,
}

impl Held {
    /// Takes back what a pod has; whether that was anything.
    fn release(&mut self, uid: &str) -> bool {
        let cpus = self.pool.release(uid);
        self.bank.release(uid) || cpus
    }
}

struct Inner {
    merger: Merger,
    /// Pods are placed as a whole, not container by container.
    whole_pods: bool,
    exclusive: Option<Exclusive>,
    placement: Option<Placement>,
    held: Mutex<Held>,
    /// What the files say of it.
    written: Mutex<Held>,
    /// The kubelet's folder, with the files of state.
    folder: PathBuf,
    /// Told whenever containers have to be told of other processors.
    changed: watch::Sender<u64>,
    /// The processors that containers were told of last, by their ids.
    told: Mutex<HashMap<String, String>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Affinity {
    /// Takes over what an earlier life has given. What does not fit the machine or the settings is for a person.
    pub(crate) fn start(&self, config: &Config, machine: &Machine) -> Result<(), Error> {
        let kubelet = config.kubelet();
        let (cpus, memory) = (&kubelet.cpu_manager_policy, &kubelet.memory_manager_policy);
        // Where a file says that there was a policy, containers may be pinned.
        if cpus == "none" {
            let path = config.kubelet_dir.join(cpu_file::NAME);
            restored(&path, |text| cpu_file::decode("none", text), "CPU")?;
        }
        if memory == "None" {
            let path = config.kubelet_dir.join(memory_file::NAME);
            restored(&path, |text| memory_file::decode("None", text), "memory")?;
        }
        let demand = match kubelet.topology_manager_policy.as_str() {
            "best-effort" => Demand::BestEffort,
            "restricted" => Demand::Restricted,
            "single-numa-node" => Demand::SingleNode,
            _ => Demand::None,
        };
        if cpus == "none" && memory == "None" && demand == Demand::None {
            return Ok(());
        }
        let topology = Arc::new(Topology::detect().map_err(Error::Setup)?);
        let started = Inner::start(config, machine, demand, &topology)?;
        tracing::debug!(?topology, held = ?locked(&started.held), "containers may have something to themselves");
        // Started once.
        self.0.get_or_init(|| started);
        Ok(())
    }

    fn held(&self) -> Option<MutexGuard<'_, Held>> {
        self.0.get().map(|inner| locked(&inner.held))
    }

    /// What a container is to be pinned to.
    pub(crate) fn pinned(&self, pod: &str, container: &str) -> Pinned {
        let Some(held) = self.held() else { return Pinned::default() };
        let cpus = held.pool.of(pod, container).unwrap_or(&held.pool.shared);
        let nodes = held.bank.of(pod, container).iter().flat_map(|block| &block.nodes);
        let nodes: BTreeSet<u32> = nodes.copied().collect();
        let nodes: Vec<String> = nodes.iter().map(u32::to_string).collect();
        Pinned { cpus: cpus::list(cpus), mems: nodes.join(",") }
    }

    /// What holds for a container, or for a pod as a whole: no quota of time where it has processors to itself.
    pub(crate) fn rules<'a>(&self, rules: &'a Rules, pod: &str, container: Option<&str>) -> Cow<'a, Rules> {
        let exclusive = self.held().is_some_and(|held| match container {
            Some(container) => held.pool.of(pod, container).is_some(),
            None => held.pool.given.contains_key(pod),
        });
        if exclusive { Cow::Owned(Rules { period_us: None, ..rules.clone() }) } else { Cow::Borrowed(rules) }
    }

    /// Notes what a container was made with; it is told of what changed meanwhile. Init containers before it have
    /// ended.
    pub(crate) fn made(&self, (pod, container): (&Pod, &str), id: &str, pinned: &Pinned) {
        let Some(inner) = self.0.get() else { return };
        if inner.exclusive.is_some() {
            locked(&inner.told).insert(id.to_owned(), pinned.cpus.clone());
            if self.pinned(pod.uid(), container).cpus != pinned.cpus {
                inner.changed.send_modify(|number| *number += 1);
            }
        }
        self.change(|held| held.bank.release_before(pod, container));
    }

    /// Takes back what a pod has that runs no more.
    pub(crate) fn release(&self, uid: &str) {
        self.change(|held| held.release(uid));
    }

    /// The pods that have something.
    pub(crate) fn holders(&self) -> HashSet<String> {
        let of = |held: &Held| held.pool.given.keys().chain(held.bank.given.keys()).cloned().collect();
        self.held().map(|held| of(&held)).unwrap_or_default()
    }

    /// Changes what is held, and writes that down where it says that something changed.
    fn change(&self, work: impl FnOnce(&mut Held) -> bool) {
        let Some(inner) = self.0.get() else { return };
        let mut held = locked(&inner.held);
        if work(&mut held) {
            if let Err(error) = inner.keep(&held) {
                tracing::error!(%error, "cannot write down who has which processors and memory");
            }
            inner.changed.send_modify(|number| *number += 1);
        }
    }

    /// The processors that a container has to itself.
    pub(crate) fn cpus(&self, pod: &str, container: &str) -> Cpus {
        self.held().and_then(|held| held.pool.of(pod, container).cloned()).unwrap_or_default()
    }

    /// How many processors are shared beyond the reserved ones, and how many somebody has to himself; none where nobody
    /// can have any.
    pub(crate) fn shares(&self) -> Option<(usize, usize)> {
        let exclusive = self.0.get()?.exclusive.as_ref()?;
        let held = self.held()?;
        Some((exclusive.free(&held.pool).len(), held.pool.exclusive().len()))
    }

    /// All processors that containers may get to themselves.
    pub(crate) fn allocatable_cpus(&self) -> Cpus {
        let exclusive = self.0.get().and_then(|inner| inner.exclusive.as_ref());
        exclusive.map(Exclusive::allocatable).unwrap_or_default()
    }

    /// The memory that a container has of NUMA nodes.
    pub(crate) fn memory(&self, pod: &str, container: &str) -> Vec<Block> {
        self.held().map(|held| held.bank.of(pod, container).to_vec()).unwrap_or_default()
    }

    /// The memory that containers may get of each NUMA node.
    pub(crate) fn allocatable_memory(&self) -> Vec<Block> {
        let placement = self.0.get().and_then(|inner| inner.placement.as_ref());
        placement.map(Placement::allocatable).unwrap_or_default()
    }
}

impl Inner {
    fn start(
        config: &Config,
        machine: &Machine,
        demand: Demand,
        topology: &Arc<Topology>,
    ) -> Result<Self, Error> {
        let kubelet = config.kubelet();
        let exclusive = match kubelet.cpu_manager_policy.as_str() {
            "static" => Some(exclusive(config, machine, topology).map_err(Error::Setup)?),
            _ => None,
        };
        let kept_back = &machine.capacity.reserved;
        let placement = match kubelet.memory_manager_policy.as_str() {
            "Static" => Some(Placement::new(topology, kubelet, kept_back).map_err(Error::Setup)?),
            _ => None,
        };
        let folder = config.kubelet_dir.clone();
        let pool = exclusive.as_ref().map(|exclusive| restored_pool(&folder, exclusive)).transpose()?;
        let bank = placement.as_ref().map(|placement| restored_bank(&folder, placement)).transpose()?;
        let held = Held { pool: pool.unwrap_or_default(), bank: bank.unwrap_or_default() };
        let inner = Self {
            merger: merger(config, demand, topology).map_err(Error::Setup)?,
            whole_pods: kubelet.topology_manager_scope == "pod",
            exclusive,
            placement,
            held: Mutex::new(held),
            written: Mutex::default(),
            folder,
            changed: watch::Sender::default(),
            told: Mutex::default(),
        };
        inner.keep(&locked(&inner.held))?;
        Ok(inner)
    }

    /// Writes down what is held, as far as the files say otherwise.
    fn keep(&self, held: &Held) -> Result<(), Error> {
        let mut written = locked(&self.written);
        if written.pool != held.pool {
            let text = cpu_file::encode("static", &held.pool);
            files::write_durably(&self.folder.join(cpu_file::NAME), text.as_bytes(), 0o600)?;
            written.pool = held.pool.clone();
        }
        if written.bank != held.bank {
            let text = memory_file::encode("Static", &held.bank);
            files::write_durably(&self.folder.join(memory_file::NAME), text.as_bytes(), 0o600)?;
            written.bank = held.bank.clone();
        }
        Ok(())
    }

    /// Writes down what a pod was given, before a container of it is made.
    fn settle(&self, uid: &str) -> Result<(), Error> {
        let held = locked(&self.held);
        self.keep(&held)?;
        if held.pool.given.contains_key(uid) {
            self.changed.send_modify(|number| *number += 1);
        }
        Ok(())
    }
}

fn exclusive(config: &Config, machine: &Machine, topology: &Arc<Topology>) -> Result<Exclusive, String> {
    let kubelet = config.kubelet();
    let named = amount::cpus(&kubelet.reserved_system_cpus).unwrap_or_default();
    let reserved_m = machine.capacity.reserved.get("cpu").copied().unwrap_or(0);
    Exclusive::new(topology.clone(), CpuOptions::of(kubelet)?, named, reserved_m)
}

/// What a file of state says; nothing where there is none.
fn restored<T: Default>(
    path: &Path,
    decode: impl Fn(&str) -> Result<T, String>,
    what: &str,
) -> Result<T, Error> {
    match std::fs::read_to_string(path) {
        Ok(text) => decode(&text).map_err(|why| {
            Error::Setup(format!(
                "could not restore state from checkpoint: {why}, please drain this node and delete the {what} \
                 manager checkpoint file \"{}\" before restarting Kubelet",
                path.display()
            ))
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(T::default()),
        Err(error) => Err(files::at(path)(error)),
    }
}

/// What a file says does not fit this machine or these settings.
fn unfit(path: &Path, why: &str, what: &str) -> Error {
    Error::Setup(format!(
        "start {what} manager error: {why}; invalid state, please drain node and remove policy state file {}",
        path.display()
    ))
}

fn restored_pool(folder: &Path, exclusive: &Exclusive) -> Result<Pool, Error> {
    let path = folder.join(cpu_file::NAME);
    let pool = restored(&path, |text| cpu_file::decode("static", text), "CPU")?;
    if pool == Pool::default() {
        return Ok(exclusive.empty());
    }
    exclusive.check(&pool).map_err(|why| unfit(&path, &why, "cpu"))?;
    Ok(pool)
}

fn restored_bank(folder: &Path, placement: &Placement) -> Result<Bank, Error> {
    let path = folder.join(memory_file::NAME);
    let bank = restored(&path, |text| memory_file::decode("Static", text), "memory")?;
    if bank == Bank::default() {
        return Ok(placement.empty());
    }
    placement.check(&bank).map_err(|why| unfit(&path, &why, "memory"))?;
    Ok(bank)
}

fn merger(config: &Config, demand: Demand, topology: &Topology) -> Result<Merger, String> {
    let options = TopologyOptions::read(&config.kubelet().topology_manager_policy_options)?;
    let nodes: Vec<u32> = topology.nodes.keys().copied().collect();
    let many = usize::try_from(options.most_nodes).is_ok_and(|most| nodes.len() > most);
    if demand != Demand::None && many {
        return Err(format!("unsupported on machines with more than {} NUMA Nodes", options.most_nodes));
    }
    let distances = topology.nodes.iter().map(|(node, memory)| (*node, memory.distances.clone()));
    let distances = options.closest.then(|| distances.collect());
    Ok(Merger { demand, all: nodes.into_iter().collect(), distances })
}
