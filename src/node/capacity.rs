//! What the node has, and what of it pods get. Pure, but for [`Facts::detect`].

use crate::amount::{self, List, cpus, signed, whole};
use crate::cgroups::{Limits, shares};
use crate::eviction::threshold::{Signal, thresholds};
use crate::machine::Meminfo;
use crate::settings::{KubeletConfiguration, Texts};
use crate::stats::Space;
use api::Quantity;
use api::quantity::Amount;
use std::collections::BTreeMap;
use std::path::Path;

/// What was looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) cpus: i64,
    pub(crate) memory: i64,
    pub(crate) swap: i64,
    /// Bytes of the file system with the pods' files.
    pub(crate) storage: i64,
    /// Processes that the kernel lets exist.
    pub(crate) pids: i64,
    /// How many huge pages there are of each size in bytes.
    pub(crate) huge_pages: BTreeMap<i64, i64>,
}

fn number(path: &Path) -> Option<i64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// Huge pages of a folder that the kernel has for the machine and for each node: their sizes in bytes, and how many
/// there are.
pub(crate) fn huge_pages(folder: &Path) -> BTreeMap<i64, i64> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let sizes = entries.filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let kib = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse::<i64>().ok()?;
        Some((kib * 1024, number(&entry.path().join("nr_hugepages")).unwrap_or(0)))
    });
    sizes.collect()
}

/// How many processes the kernel lets exist.
pub(crate) fn most_pids() -> Option<i64> {
    let files = ["/proc/sys/kernel/pid_max", "/proc/sys/kernel/threads-max"];
    files.iter().filter_map(|file| number(file.as_ref())).min()
}

impl Facts {
    /// Looks at the machine.
    pub(crate) fn detect(kubelet_dir: &Path) -> Self {
        let online = std::fs::read_to_string("/sys/devices/system/cpu/online").ok();
        let online = online.and_then(|text| cpus(&text)).map(|cpus| cpus.len()).filter(|cpus| *cpus > 0);
        let memory = Meminfo::read();
        let usable = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self {
            cpus: i64::try_from(online.unwrap_or_else(usable)).unwrap_or(1),
            memory: signed(memory.bytes("MemTotal")),
            swap: signed(memory.bytes("SwapTotal")),
            storage: Space::of_file_system(kubelet_dir).map_or(0, |space| signed(space.capacity)),
            pids: most_pids().unwrap_or(0),
            huge_pages: huge_pages("/sys/kernel/mm/hugepages".as_ref()),
        }
    }
}

/// What the node says of itself, and what its cgroups are limited to.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Capacity {
    pub(crate) capacity: List,
    pub(crate) allocatable: List,
    /// What all pods may use together.
    pub(crate) pods: Limits,
    /// What `kubeReserved` and `systemReserved` say, as limits of cgroups.
    pub(crate) kube: Limits,
    pub(crate) system: Limits,
    /// What pods do not get of each resource.
    pub(crate) reserved: Counts,
}

/// Amounts in the units that they are counted in: thousandths of processors, bytes, pieces.
pub(crate) type Counts = BTreeMap<String, i64>;

fn counts(list: &Texts) -> Counts {
    let count = |name: &str, amount: &String| {
        let amount = Quantity(amount.clone());
        if name == "cpu" { amount::milli(&amount) } else { whole(&amount) }
    };
    list.iter().map(|(name, amount)| (name.clone(), count(name, amount))).collect()
}

fn quantity(name: &str, count: i64) -> Quantity {
    let amount = match name {
        "cpu" => Amount::milli(count),
        "pods" | "pid" => Amount::units(count),
        _ => Amount::bytes(count),
    };
    Quantity(amount.to_string())
}

fn list(counts: &Counts) -> List {
    counts.iter().map(|(name, count)| (name.clone(), quantity(name, *count))).collect()
}

fn huge_name(size: i64) -> String {
    format!("hugepages-{}", Amount::bytes(size))
}

/// Everything, also what the node does not tell of.
fn all(facts: &Facts, kubelet: &KubeletConfiguration, max_pods: u32) -> Counts {
    let most = i64::from(max_pods);
    let pods = match kubelet.pods_per_core {
        0 => most,
        per_core => most.min(per_core.saturating_mul(facts.cpus)),
    };
    let mut all: Counts = [
        ("cpu".to_owned(), facts.cpus * 1000),
        ("memory".to_owned(), facts.memory),
        ("pods".to_owned(), pods),
        ("pid".to_owned(), facts.pids),
    ]
    .into();
    if kubelet.local_storage_capacity_isolation {
        all.insert("ephemeral-storage".to_owned(), facts.storage);
    }
    all.extend(facts.huge_pages.iter().map(|(size, pages)| (huge_name(*size), size * pages)));
    all
}

/// What is kept from pods: by the two reservations. Processors that are named replace both amounts of them.
fn reservations(kubelet: &KubeletConfiguration) -> (Counts, Counts) {
    let (mut kube, mut system) = (counts(&kubelet.kube_reserved), counts(&kubelet.system_reserved));
    let named = cpus(&kubelet.reserved_system_cpus).filter(|named| !named.is_empty());
    if let Some(named) = named {
        kube.remove("cpu");
        system.insert("cpu".to_owned(), i64::try_from(named.len()).unwrap_or(0) * 1000);
    }
    (kube, system)
}

/// What hard eviction keeps free of each resource.
fn kept_free(kubelet: &KubeletConfiguration, all: &Counts) -> Result<Counts, String> {
    let mut kept = Counts::new();
    for threshold in thresholds(kubelet)?.iter().filter(|threshold| threshold.is_hard()) {
        let name = match threshold.signal {
            Signal::Memory => "memory",
            Signal::NodeFs => "ephemeral-storage",
            _ => continue,
        };
        kept.insert(name.to_owned(), threshold.least.of(all.get(name).copied().unwrap_or(0)));
    }
    Ok(kept)
}

fn limits(counts: &Counts, compressible_alone: bool) -> Limits {
    let shares = counts.get("cpu").map(|milli| shares(*milli));
    if compressible_alone {
        return Limits { shares, ..Default::default() };
    }
    let sizes = counts.iter().filter_map(|(name, bytes)| {
        let size = api::quantity::parse(name.strip_prefix("hugepages-")?).ok()?;
        Some((size.to_units(), *bytes))
    });
    Limits {
        shares,
        quota_us: None,
        memory: counts.get("memory").copied(),
        pids: counts.get("pid").copied(),
        huge_pages: sizes.collect(),
    }
}

/// Decides it. Fails where more is reserved than there is.
pub(crate) fn plan(facts: &Facts, kubelet: &KubeletConfiguration, max_pods: u32) -> Result<Capacity, String> {
    let all = all(facts, kubelet, max_pods);
    let (kube, system) = reservations(kubelet);
    let kept = kept_free(kubelet, &all)?;
    let of = |counts: &Counts, name: &str| counts.get(name).copied().unwrap_or(0);
    let (mut allocatable, mut usable) = (all.clone(), all.clone());
    let (mut wrong, mut kept_back) = (Vec::new(), Counts::new());
    for (name, there) in &all {
        let reserved = of(&kube, name) + of(&system, name);
        let taken = reserved + of(&kept, name);
        if taken > *there {
            let (taken, there) = (quantity(name, taken).0, quantity(name, *there).0);
            wrong.push(format!("Resource {name:?} has a reservation of {taken} but capacity of {there}. Expected capacity >= reservation."));
        }
        kept_back.insert(name.clone(), taken);
        allocatable.insert(name.clone(), there - taken);
        usable.insert(name.clone(), there - reserved);
    }
    if !wrong.is_empty() {
        return Err(format!("invalid Node Allocatable configuration. {}", wrong.join(" ")));
    }
    // Huge pages are set aside of the memory that there is.
    let huge: i64 = facts.huge_pages.iter().map(|(size, pages)| size * pages).sum();
    allocatable.entry("memory".to_owned()).and_modify(|memory| *memory = (*memory - huge).max(0));
    let compressible = |what: &str| kubelet.enforces(&format!("{what}-compressible"));
    let shown = |counts: &Counts| {
        let mut list = list(counts);
        list.remove("pid");
        list
    };
    Ok(Capacity {
        pods: limits(if kubelet.enforces("pods") { &usable } else { &all }, false),
        kube: limits(&kube, compressible("kube-reserved")),
        system: limits(&system, compressible("system-reserved")),
        capacity: shown(&all),
        allocatable: shown(&allocatable),
        reserved: kept_back,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn facts() -> Facts {
        Facts {
            cpus: 4,
            memory: 8 << 30,
            swap: 0,
            storage: 100_000_000_000,
            pids: 32_768,
            huge_pages: [(2 << 20, 512), (1 << 30, 0)].into(),
        }
    }

    fn told(arguments: &[&str]) -> KubeletConfiguration {
        let arguments: Vec<String> = arguments.iter().map(|text| (*text).to_owned()).collect();
        (*crate::Settings::read(&arguments).unwrap().kubelet).clone()
    }

    #[test]
    fn what_is_reserved_and_kept_free_is_not_for_pods() {
        let kubelet = told(&[
            "kube-reserved=cpu=250m,memory=1Gi,pid=1000",
            "system-reserved=cpu=250m,memory=512Mi,ephemeral-storage=1Gi",
            "eviction-hard=memory.available<100Mi,nodefs.available<10%",
            "pods-per-core=10",
        ]);
        let plan = plan(&facts(), &kubelet, 110).unwrap();
        let wanted = json!({
            "cpu": "4", "memory": "8Gi", "ephemeral-storage": "100G", "pods": "40",
            "hugepages-2Mi": "1Gi", "hugepages-1Gi": "0",
        });
        let mut shown = json!(plan.capacity);
        // Bytes that are no multiple of a power of two are shown as they are.
        assert_eq!(shown["ephemeral-storage"].take(), json!("97656250Ki"));
        shown["ephemeral-storage"] = json!("100G");
        assert_eq!(shown, wanted);
        let allocatable = json!({
            "cpu": "3500m", "memory": "5532Mi", "ephemeral-storage": "86842049Ki", "pods": "40",
            "hugepages-2Mi": "1Gi", "hugepages-1Gi": "0",
        });
        assert_eq!(json!(plan.allocatable), allocatable);
        assert_eq!(
            (plan.pods.memory, plan.pods.pids, plan.pods.shares),
            (Some(13 << 29), Some(31_768), Some(3584))
        );
        assert_eq!(plan.pods.huge_pages, [(2 << 20, 1 << 30), (1 << 30, 0)].into());
    }

    #[test]
    fn named_processors_replace_amounts_of_them() {
        let kubelet = told(&["kube-reserved=cpu=2", "reserved-cpus=0,2-3"]);
        assert_eq!(json!(plan(&facts(), &kubelet, 5).unwrap().allocatable["cpu"]), json!("1"));
    }

    #[test]
    fn no_more_can_be_reserved_than_there_is() {
        let error = plan(&facts(), &told(&["system-reserved=cpu=5"]), 5).unwrap_err();
        let told = "invalid Node Allocatable configuration. Resource \"cpu\" has a reservation of 5 but capacity of 4. Expected capacity >= reservation.";
        assert_eq!(error, told);
    }

    #[test]
    fn compressible_reservations_limit_no_memory() {
        let kubelet = told(&[
            "system-reserved=cpu=1,memory=1Gi",
            "system-reserved-cgroup=/system.slice",
            "enforce-node-allocatable=pods,system-reserved-compressible",
        ]);
        let plan = plan(&facts(), &kubelet, 5).unwrap();
        assert_eq!(plan.system, Limits { shares: Some(1024), ..Default::default() });
    }
}
