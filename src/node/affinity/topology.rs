//! What of the machine is near to what: processors in cores, caches, NUMA nodes and sockets, and the memory of the
//! nodes. Pure, but for [`Topology::detect`].

use super::cpus::Cpus;
use super::nodes::{MOST, Nodes};
use crate::{amount, capacity};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Caches of this level and above are shared by several cores.
const SHARED_LEVEL: u32 = 3;

/// Where a processor is. Cores and caches are named by the first of their processors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cpu {
    pub(super) core: u32,
    pub(super) socket: u32,
    pub(super) node: u32,
    /// The last cache, where a node has several of them; the socket, otherwise.
    pub(super) cache: u32,
}

/// The memory of a NUMA node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Memory {
    pub(super) bytes: u64,
    /// Bytes of huge pages by the size of the pages.
    pub(super) huge_pages: BTreeMap<u64, u64>,
    /// How far every node is, in their order.
    pub(super) distances: Vec<u64>,
}

/// The machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Topology {
    pub(super) cpus: BTreeMap<u32, Cpu>,
    pub(super) nodes: BTreeMap<u32, Memory>,
}

impl Topology {
    /// Looks at the machine.
    pub(super) fn detect() -> Result<Self, String> {
        Sys(PathBuf::from("/sys/devices/system")).read()
    }

    /// All processors that are online.
    pub(super) fn all(&self) -> Cpus {
        self.cpus.keys().copied().collect()
    }

    /// Those of which this holds.
    pub(super) fn those(&self, holds: impl Fn(&Cpu) -> bool) -> Cpus {
        self.cpus.iter().filter(|(_, cpu)| holds(cpu)).map(|(id, _)| *id).collect()
    }

    /// How many different answers processors give.
    pub(super) fn count(&self, of: impl Fn(&Cpu) -> u32) -> usize {
        self.cpus.values().map(of).collect::<BTreeSet<u32>>().len()
    }

    /// How many processors a core has.
    pub(super) fn per_core(&self) -> usize {
        self.cpus.len() / self.count(|cpu| cpu.core).max(1)
    }

    /// The nodes with processors, in their order.
    pub(super) fn nodes_with_cpus(&self) -> Vec<u32> {
        self.cpus.values().map(|cpu| cpu.node).collect::<BTreeSet<u32>>().into_iter().collect()
    }

    /// The node of a processor.
    pub(super) fn node_of(&self, cpu: u32) -> Option<u32> {
        self.cpus.get(&cpu).map(|cpu| cpu.node)
    }

    /// The sockets of nodes.
    pub(super) fn sockets(&self, nodes: Nodes) -> BTreeSet<u32> {
        self.cpus.values().filter(|cpu| nodes.contains(cpu.node)).map(|cpu| cpu.socket).collect()
    }
}

/// The kernel's folder of processors and nodes.
struct Sys(PathBuf);

impl Sys {
    fn text(&self, path: &str) -> Option<String> {
        std::fs::read_to_string(self.0.join(path)).ok()
    }

    fn number(&self, path: &str) -> Option<u32> {
        self.text(path)?.trim().parse().ok()
    }

    fn cpus(&self, path: &str) -> Option<Cpus> {
        amount::cpus(&self.text(path)?)
    }

    fn read(&self) -> Result<Topology, String> {
        let online = self.cpus("cpu/online").filter(|cpus| !cpus.is_empty());
        let online = online.ok_or("could not detect number of cpus")?;
        let nodes = self.nodes();
        if let Some(node) = nodes.keys().find(|node| **node >= MOST) {
            return Err(format!("NUMA node {node} is beyond the {MOST} that can be told apart"));
        }
        let near: BTreeMap<u32, Cpus> = nodes
            .keys()
            .map(|node| (*node, self.cpus(&format!("node/node{node}/cpulist")).unwrap_or_default()))
            .collect();
        let whole = Cpus::new();
        let cpu = |id: u32| {
            let node =
                near.iter().find(|(_, cpus)| cpus.contains(&id)).map_or((0, &whole), |it| (*it.0, it.1));
            (id, self.cpu(id, &online, node))
        };
        Ok(Topology { cpus: online.iter().map(|id| cpu(*id)).collect(), nodes })
    }

    fn cpu(&self, id: u32, online: &Cpus, (node, near): (u32, &Cpus)) -> Cpu {
        let below = |name: &str| format!("cpu/cpu{id}/{name}");
        let first = |cpus: &Cpus| cpus.intersection(online).next().copied();
        let threads = self.cpus(&below("topology/thread_siblings_list")).unwrap_or_else(|| Cpus::from([id]));
        let package = self.cpus(&below("topology/core_siblings_list")).unwrap_or_else(|| online.clone());
        let caches = (0..).map(|index| below(&format!("cache/index{index}")));
        let caches = caches.take_while(|cache| self.0.join(cache).is_dir());
        let shared = caches
            .filter(|cache| self.number(&format!("{cache}/level")).is_some_and(|level| level >= SHARED_LEVEL))
            .filter_map(|cache| self.cpus(&format!("{cache}/shared_cpu_list")))
            .find(|cpus| cpus.len() > threads.len() && cpus.len() < near.len());
        Cpu {
            core: first(&threads).unwrap_or(id),
            // Virtual machines may not say which.
            socket: self.number(&below("topology/physical_package_id")).unwrap_or(0),
            node,
            cache: first(&shared.unwrap_or(package)).unwrap_or(id),
        }
    }

    /// The nodes; one with all memory where the kernel knows of none.
    fn nodes(&self) -> BTreeMap<u32, Memory> {
        let found: BTreeMap<u32, Memory> = self
            .cpus("node/online")
            .unwrap_or_default()
            .into_iter()
            .map(|node| (node, self.memory(&format!("node/node{node}"))))
            .collect();
        if !found.is_empty() {
            return found;
        }
        let bytes = crate::machine::Meminfo::read().bytes("MemTotal");
        let huge_pages = pages(Path::new("/sys/kernel/mm/hugepages"));
        [(0, Memory { bytes, huge_pages, distances: vec![10] })].into()
    }

    fn memory(&self, node: &str) -> Memory {
        let told = self.text(&format!("{node}/meminfo")).unwrap_or_default();
        let total = told.lines().find_map(|line| line.split_once("MemTotal:"));
        let kib = total.and_then(|(_, rest)| rest.split_whitespace().next()?.parse::<u64>().ok());
        let distances = self.text(&format!("{node}/distance")).unwrap_or_default();
        Memory {
            bytes: kib.unwrap_or(0) * 1024,
            huge_pages: pages(&self.0.join(node).join("hugepages")),
            distances: distances.split_whitespace().filter_map(|word| word.parse().ok()).collect(),
        }
    }
}

/// Bytes of huge pages by their size.
fn pages(folder: &Path) -> BTreeMap<u64, u64> {
    let all = capacity::huge_pages(folder).into_iter();
    all.map(|(size, count)| (size.unsigned_abs(), (size * count).unsigned_abs())).collect()
}

#[cfg(test)]
pub(super) mod made {
    use super::*;

    /// A machine as the kernel numbers its processors: the first ones of all cores, then the second ones.
    #[derive(Clone, Copy)]
    pub(crate) struct Made {
        pub(crate) sockets: u32,
        pub(crate) nodes_per_socket: u32,
        pub(crate) cores_per_node: u32,
        pub(crate) threads: u32,
        /// None for one cache in a socket.
        pub(crate) cores_per_cache: Option<u32>,
        pub(crate) gib_per_node: u64,
    }

    /// Two sockets with two nodes each, whose four cores have two processors each: 32 in all.
    pub(crate) const LARGE: Made = Made {
        sockets: 2,
        nodes_per_socket: 2,
        cores_per_node: 4,
        threads: 2,
        cores_per_cache: None,
        gib_per_node: 8,
    };

    impl Made {
        pub(crate) fn build(self) -> Topology {
            let nodes = self.sockets * self.nodes_per_socket;
            let cores = nodes * self.cores_per_node;
            let cpu = |id: u32| {
                let core = id % cores;
                let node = core / self.cores_per_node;
                let socket = node / self.nodes_per_socket;
                let cache = self.cores_per_cache.unwrap_or(self.nodes_per_socket * self.cores_per_node);
                (id, Cpu { core, socket, node, cache: core / cache * cache })
            };
            let distance =
                |a: u32, b: u32| match (a == b, a / self.nodes_per_socket == b / self.nodes_per_socket) {
                    (true, _) => 10,
                    (_, true) => 12,
                    _ => 21,
                };
            let memory = |node: u32| Memory {
                bytes: self.gib_per_node << 30,
                huge_pages: BTreeMap::new(),
                distances: (0..nodes).map(|other| distance(node, other)).collect(),
            };
            Topology {
                cpus: (0..cores * self.threads).map(cpu).collect(),
                nodes: (0..nodes).map(|node| (node, memory(node))).collect(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files;

    #[test]
    fn a_machine_is_read_from_the_kernels_files() {
        let root = std::env::temp_dir().join(format!("knarr-topology-{}", std::process::id()));
        let write = |path: &str, text: &str| {
            let path = root.join(path);
            files::make_folder(path.parent().unwrap(), 0o755).unwrap();
            std::fs::write(path, text).unwrap();
        };
        // Two nodes of four cores, two of which share a cache, with two processors each; the last one is offline.
        write("cpu/online", "0-14\n");
        for cpu in 0..16_u32 {
            let (core, pair) = (cpu % 8, cpu % 8 / 2 * 2);
            let topology = format!("cpu/cpu{cpu}/topology");
            write(&format!("{topology}/thread_siblings_list"), &format!("{core},{}\n", core + 8));
            write(&format!("{topology}/core_siblings_list"), "0-15\n");
            write(&format!("{topology}/physical_package_id"), if cpu == 0 { "-1\n" } else { "0\n" });
            let cache = format!("cpu/cpu{cpu}/cache/index0");
            write(&format!("{cache}/level"), "3\n");
            let shared = format!("{pair}-{},{}-{}\n", pair + 1, pair + 8, pair + 9);
            write(&format!("{cache}/shared_cpu_list"), &shared);
        }
        write("node/online", "0-1\n");
        write("node/node0/cpulist", "0-3,8-11\n");
        write("node/node1/cpulist", "4-7,12-15\n");
        write("node/node1/meminfo", "Node 1 MemTotal:       1024 kB\nNode 1 MemFree:  1 kB\n");
        write("node/node1/distance", "20 10\n");
        write("node/node1/hugepages/hugepages-2048kB/nr_hugepages", "3\n");
        let found = Sys(root.clone()).read().unwrap();
        assert_eq!(found.all(), (0..15).collect());
        assert_eq!(found.cpus[&13], Cpu { core: 5, socket: 0, node: 1, cache: 4 });
        assert_eq!((found.cpus[&7].core, found.node_of(9), found.per_core()), (7, Some(0), 1));
        let memory =
            Memory { bytes: 1 << 20, huge_pages: [(2 << 20, 6 << 20)].into(), distances: vec![20, 10] };
        assert_eq!(found.nodes[&1], memory);
        files::remove_folder(&root).unwrap();
    }

    #[test]
    fn this_machine_has_processors_and_memory() {
        let here = Topology::detect().unwrap();
        assert!(!here.cpus.is_empty() && here.nodes.values().any(|node| node.bytes > 0), "{here:?}");
    }
}
