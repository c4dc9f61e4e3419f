//! Processors that containers have to themselves, and those that the others share (`cpuManagerPolicy: static`). Pure.

use super::cpus::{Cpus, list, without};
use super::hints::{Pieces, Ways};
use super::nodes::Nodes;
use super::options::CpuOptions;
use super::topology::Topology;
use super::{distribute, take, unexpected};
use crate::amount::{self, Qos};
use crate::pods::admission::Rejection;
use crate::pods::spec;
use api::Object;
use api::core::{Container, Pod};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Processors by pod and container.
pub(super) type Given = BTreeMap<String, BTreeMap<String, Cpus>>;

/// Who has which processors.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Pool {
    /// For all who have none to themselves.
    pub(super) shared: Cpus,
    pub(super) given: Given,
}

/// How they are given out.
#[derive(Clone, Debug)]
pub(super) struct Exclusive {
    topology: Arc<Topology>,
    options: CpuOptions,
    reserved: Cpus,
    /// All processors of the cores that have reserved ones.
    reserved_cores: Cpus,
}

/// Whether a pod has resources as a whole; its containers get nothing to themselves then.
pub(super) fn is_one(pod: &Pod) -> bool {
    let own = spec::spec(pod).resources.as_ref();
    own.is_some_and(|own| {
        let some = |list: &Option<amount::List>| list.as_ref().is_some_and(|list| !list.is_empty());
        some(&own.requests) || some(&own.limits)
    })
}

/// How many processors a container gets to itself.
fn wanted(pod: &Pod, container: &Container) -> usize {
    let milli = amount::Resources::of(container.resources.as_ref()).cpu_request_m;
    if Qos::of(pod) != Qos::Guaranteed || is_one(pod) || milli % 1000 != 0 {
        return 0;
    }
    usize::try_from(milli / 1000).unwrap_or(0)
}

/// How many of them a pod's containers have at most at a time.
fn wanted_together(pod: &Pod) -> usize {
    let of = |container: &Container| i64::try_from(wanted(pod, container)).unwrap_or(0);
    usize::try_from(amount::total(pod, &of)).unwrap_or(0)
}

fn misaligned(why: String) -> Rejection {
    Rejection { reason: "SMTAlignmentError".to_owned(), message: format!("SMT Alignment Error: {why}") }
}

impl Pool {
    /// What one container has to itself.
    pub(super) fn of(&self, pod: &str, container: &str) -> Option<&Cpus> {
        self.given.get(pod)?.get(container)
    }

    /// Takes back what the containers of a pod had; whether that was anything.
    pub(super) fn release(&mut self, pod: &str) -> bool {
        let released = self.given.remove(pod);
        let any = released.is_some();
        self.shared.extend(released.into_iter().flatten().flat_map(|(_, cpus)| cpus));
        any
    }

    /// Every processor that some container has to itself.
    pub(super) fn exclusive(&self) -> Cpus {
        self.given.values().flat_map(BTreeMap::values).flatten().copied().collect()
    }

    /// Every processor that is somebody's.
    fn known(&self) -> Cpus {
        self.exclusive().union(&self.shared).copied().collect()
    }
}

impl Exclusive {
    /// Reserves processors: those that are named, or so many of the first cores.
    pub(super) fn new(
        topology: Arc<Topology>,
        options: CpuOptions,
        named: Cpus,
        reserved_m: i64,
    ) -> Result<Self, String> {
        if reserved_m <= 0 {
            return Err("[cpumanager] the static policy requires systemreserved.cpu + kubereserved.cpu to be greater than zero".to_owned());
        }
        if options.by_socket && topology.count(|cpu| cpu.socket) > topology.nodes_with_cpus().len() {
            return Err("Align by socket is not compatible with hardware where number of sockets are more than number of NUMA".to_owned());
        }
        let mut it = Self { topology, options, reserved: Cpus::new(), reserved_cores: Cpus::new() };
        let count = usize::try_from((reserved_m + 999) / 1000).unwrap_or(0);
        it.reserved =
            if named.is_empty() { it.take(&it.topology.all(), count).unwrap_or_default() } else { named };
        if it.reserved.len() != count {
            return Err(format!(
                "[cpumanager] unable to reserve the required amount of CPUs (size of {} did not equal {count})",
                list(&it.reserved)
            ));
        }
        for cpu in &it.reserved {
            let Some(own) = it.topology.cpus.get(cpu) else {
                return Err(format!(
                    "[cpumanager] unable to build the reserved physical CPUs from the reserved set: unknown CPU ID: {cpu}"
                ));
            };
            it.reserved_cores.extend(it.topology.those(|other| other.core == own.core));
        }
        Ok(it)
    }

    /// What a machine begins with, whose containers have nothing to themselves yet.
    pub(super) fn empty(&self) -> Pool {
        let all = self.topology.all();
        let shared = if self.options.strict { without(&all, &self.reserved) } else { all };
        Pool { shared, given: Given::new() }
    }

    /// All processors that containers may get to themselves.
    pub(super) fn allocatable(&self) -> Cpus {
        without(&self.topology.all(), &self.reserved)
    }

    /// What is wrong with a pool that an earlier life has left.
    pub(super) fn check(&self, pool: &Pool) -> Result<(), String> {
        let shared = &pool.shared;
        if shared.is_empty() && !pool.given.is_empty() {
            return Err("default cpuset cannot be empty".to_owned());
        }
        let both: Cpus = self.reserved.intersection(shared).copied().collect();
        if self.options.strict && !both.is_empty() {
            return Err(format!(
                "some of strictly reserved cpus: {:?} are present in defaultCpuSet: {:?}",
                list(&both),
                list(shared)
            ));
        }
        if !self.options.strict && both != self.reserved {
            return Err(format!(
                "not all reserved cpus: {:?} are present in defaultCpuSet: {:?}",
                list(&self.reserved),
                list(shared)
            ));
        }
        for (pod, container, cpus) in
            pool.given.iter().flat_map(|(pod, all)| all.iter().map(move |(name, cpus)| (pod, name, cpus)))
        {
            if !cpus.is_disjoint(shared) {
                return Err(format!(
                    "pod: {pod}, container: {container} cpuset: {:?} overlaps with default cpuset {:?}",
                    list(cpus),
                    list(shared)
                ));
            }
        }
        let (known, all) = (pool.known(), self.topology.all());
        let there = if self.options.strict { without(&all, &self.reserved) } else { all };
        if known == there {
            return Ok(());
        }
        Err(format!(
            "current set of available CPUs {:?} doesn't match with CPUs in state {:?}",
            list(&there),
            list(&known)
        ))
    }

    /// What others may get to themselves yet.
    pub(super) fn free(&self, pool: &Pool) -> Cpus {
        without(&pool.shared, &self.reserved)
    }

    fn take(&self, free: &Cpus, count: usize) -> Result<Cpus, String> {
        let Self { topology, options, .. } = self;
        if options.across_nodes {
            let group = if options.whole_cores { topology.per_core() } else { 1 };
            return distribute::distributed(topology, free, (count, group.max(1)), options.spread);
        }
        take::packed(topology, free, count, options.spread)
    }

    /// Whether a container gets processors to itself.
    pub(super) fn concerns((pod, container): (&Pod, &Container)) -> bool {
        wanted(pod, container) > 0
    }

    /// Gives a container what it wants to itself; `reuse` is what containers before it had that have ended by then.
    pub(super) fn give(
        &self,
        pool: &mut Pool,
        (pod, container): (&Pod, &Container),
        near: Option<Nodes>,
        reuse: &mut Cpus,
    ) -> Result<(), Rejection> {
        let count = wanted(pod, container);
        if count == 0 {
            return Ok(());
        }
        self.check_cores(pool, count)?;
        let before = pool.of(pod.uid(), &container.name).cloned();
        let cpus = match before {
            Some(cpus) => cpus,
            None => self.choose(pool, count, near, reuse).map_err(|why| unexpected(&why))?,
        };
        pool.shared = without(&pool.shared, &cpus);
        if spec::ends(pod, &container.name) {
            reuse.extend(&cpus);
        } else {
            *reuse = without(reuse, &cpus);
        }
        pool.given.entry(pod.uid().to_owned()).or_default().insert(container.name.clone(), cpus);
        Ok(())
    }

    fn choose(&self, pool: &Pool, count: usize, near: Option<Nodes>, reuse: &Cpus) -> Result<Cpus, String> {
        let free: Cpus = self.free(pool).union(reuse).copied().collect();
        let mut cpus = Cpus::new();
        if let Some(nodes) = near {
            let near = self.near(nodes, &free);
            cpus = self.take(&near, count.min(near.len()))?;
        }
        let rest = self.take(&without(&free, &cpus), count - cpus.len())?;
        cpus.extend(rest);
        Ok(cpus)
    }

    /// Those of nodes, or of the nodes' sockets where that is near enough.
    fn near(&self, nodes: Nodes, free: &Cpus) -> Cpus {
        let sockets = self.topology.sockets(nodes);
        let all = self.topology.those(|cpu| {
            if self.options.by_socket { sockets.contains(&cpu.socket) } else { nodes.contains(cpu.node) }
        });
        all.intersection(free).copied().collect()
    }

    /// With `full-pcpus-only`, cores are given whole or not at all.
    fn check_cores(&self, pool: &Pool, count: usize) -> Result<(), Rejection> {
        let per_core = self.topology.per_core().max(1);
        if !self.options.whole_cores {
            return Ok(());
        }
        if !count.is_multiple_of(per_core) {
            return Err(misaligned(format!(
                "requested {count} cpus not multiple cpus per core = {per_core}"
            )));
        }
        let free = without(&pool.shared, &self.reserved_cores).len();
        if count > free {
            return Err(misaligned(format!(
                "not enough free physical CPUs: available physical CPUs = {free}, requested CPUs = {count}, CPUs per core = {per_core}"
            )));
        }
        Ok(())
    }

    /// Where a container could get its processors; none where it wants none to itself.
    pub(super) fn ways(
        &self,
        pool: &Pool,
        (pod, container): (&Pod, &Container),
        reuse: &Cpus,
    ) -> Option<Ways> {
        let count = wanted(pod, container);
        if count == 0 {
            return None;
        }
        Some(match pool.of(pod.uid(), &container.name) {
            Some(cpus) if cpus.len() != count => Ways::new(),
            Some(cpus) => self.ways_of(cpus, &Cpus::new(), count),
            None => self.ways_of(&self.free(pool), reuse, count),
        })
    }

    /// The same for all containers of a pod together.
    pub(super) fn ways_together(&self, pool: &Pool, pod: &Pod) -> Option<Ways> {
        let count = wanted_together(pod);
        if count == 0 {
            return None;
        }
        let mut has = Cpus::new();
        for container in spec::init_containers(pod).iter().chain(&spec::spec(pod).containers) {
            let Some(cpus) = pool.of(pod.uid(), &container.name) else { continue };
            if cpus.len() != wanted(pod, container) {
                return Some(Ways::new());
            }
            has.extend(cpus);
        }
        Some(if has.len() == count {
            self.ways_of(&has, &Cpus::new(), count)
        } else {
            self.ways_of(&self.free(pool), &has, count)
        })
    }

    fn ways_of(&self, free: &Cpus, reuse: &Cpus, count: usize) -> Ways {
        let on = |cpu: &u32| self.topology.node_of(*cpu).into_iter().collect::<Nodes>();
        let pieces = Pieces {
            all: self.topology.cpus.keys().map(on).collect(),
            free: free.iter().map(on).collect(),
            reuse: reuse.iter().map(on).collect(),
        };
        pieces.ways(&self.topology.nodes_with_cpus(), count, |set, fewest| {
            self.options.by_socket && self.is_in_fewest_sockets(set, fewest)
        })
    }

    /// Whether nodes are in no more sockets than so many nodes have to be.
    fn is_in_fewest_sockets(&self, nodes: Nodes, fewest: u32) -> bool {
        let sockets = self.topology.count(|cpu| cpu.socket);
        let per_socket = self.topology.nodes_with_cpus().len() / sockets.max(1);
        let fewest = usize::try_from(fewest).unwrap_or(usize::MAX);
        per_socket > 0 && self.topology.sockets(nodes).len() == fewest.div_ceil(per_socket)
    }
}

#[cfg(test)]
mod tests {
    use super::super::topology::made::{LARGE, Made};
    use super::*;
    use serde_json::{Value, json};

    fn exclusive(options: CpuOptions, reserved: &str, milli: i64) -> Result<Exclusive, String> {
        let named = amount::cpus(reserved).unwrap();
        Exclusive::new(Arc::new(LARGE.build()), options, named, milli)
    }

    fn container(name: &str, cpu: &str) -> Value {
        json!({"name": name, "resources": {"limits": {"cpu": cpu, "memory": "1Gi"}, "requests": {"cpu": cpu, "memory": "1Gi"}}})
    }

    fn pod(uid: &str, init: Value, main: Value) -> Pod {
        let spec = json!({"initContainers": init, "containers": main});
        serde_json::from_value(json!({"metadata": {"uid": uid}, "spec": spec})).unwrap()
    }

    /// What the containers of a pod get, by their names.
    fn give(it: &Exclusive, pool: &mut Pool, pod: &Pod, near: &[u32]) -> Result<Vec<String>, Rejection> {
        let near = Some(near).filter(|near| !near.is_empty()).map(|near| near.iter().copied().collect());
        let mut reuse = Cpus::new();
        let all = spec::init_containers(pod).iter().chain(&spec::spec(pod).containers);
        all.clone().try_for_each(|container| it.give(pool, (pod, container), near, &mut reuse))?;
        Ok(all.map(|own| pool.of(pod.uid(), &own.name).map_or_else(|| "-".to_owned(), list)).collect())
    }

    #[test]
    fn processors_are_reserved_by_number_or_by_name() {
        let plain = CpuOptions::default();
        let of = |reserved: &str, milli: i64| exclusive(plain, reserved, milli).map(|it| list(&it.reserved));
        assert_eq!(of("", 1500).as_deref(), Ok("0,16"));
        assert_eq!(of("3-4", 2000).as_deref(), Ok("3-4"));
        assert!(of("", 0).unwrap_err().contains("to be greater than zero"));
        assert!(of("40", 1000).unwrap_err().ends_with("unknown CPU ID: 40"));
        assert!(of("", 64_000).unwrap_err().contains("unable to reserve the required amount of CPUs"));
        let large = Made { sockets: 4, nodes_per_socket: 1, ..LARGE }.build();
        let by_socket = CpuOptions { by_socket: true, ..plain };
        assert!(Exclusive::new(Arc::new(large), by_socket, Cpus::new(), 1000).is_ok());
    }

    #[test]
    fn whole_processors_of_guaranteed_pods_are_their_own() {
        let it = exclusive(CpuOptions::default(), "", 1000).unwrap();
        let mut pool = it.empty();
        let whole = pod("whole", json!([]), json!([container("a", "2"), container("b", "1500m")]));
        assert_eq!(give(&it, &mut pool, &whole, &[]).unwrap(), ["1,17", "-"]);
        assert_eq!(list(&pool.shared), "0,2-16,18-31");
        let burstable = json!([{"name": "c", "resources": {"requests": {"cpu": "2"}}}]);
        assert_eq!(give(&it, &mut pool, &pod("burstable", json!([]), burstable), &[]).unwrap(), ["-"]);
        let mut as_one = pod("one", json!([]), json!([container("a", "2")]));
        as_one.spec.as_mut().unwrap().resources = serde_json::from_value(
            json!({"limits": {"cpu": "2", "memory": "1Gi"}, "requests": {"cpu": "2", "memory": "1Gi"}}),
        )
        .unwrap();
        assert_eq!(give(&it, &mut pool, &as_one, &[]).unwrap(), ["-"]);
        let greedy = pod("greedy", json!([]), json!([container("a", "30")]));
        let told = give(&it, &mut pool, &greedy, &[]).unwrap_err();
        assert_eq!(told.reason, "UnexpectedAdmissionError");
        assert_eq!(
            told.message,
            "Allocate failed due to not enough cpus available to satisfy request: requested=30, available=29, which is unexpected"
        );
        assert!(pool.release("whole") && !pool.release("whole"));
        assert_eq!(pool, it.empty());
    }

    #[test]
    fn what_init_containers_had_is_used_again_and_sidecars_keep_theirs() {
        let it = exclusive(CpuOptions::default(), "", 1000).unwrap();
        let mut sidecar = container("sidecar", "1");
        sidecar["restartPolicy"] = json!("Always");
        let it_has = pod("p", json!([container("init", "4"), sidecar]), json!([container("main", "3")]));
        let mut pool = it.empty();
        assert_eq!(give(&it, &mut pool, &it_has, &[]).unwrap(), ["1-2,17-18", "16", "1-2,17"]);
        assert_eq!(list(&pool.shared), "0,3-15,19-31");
    }

    #[test]
    fn processors_come_from_the_nodes_that_were_agreed_on() {
        let it = exclusive(CpuOptions::default(), "", 1000).unwrap();
        let two = |uid: &str, cpu: &str| pod(uid, json!([]), json!([container("a", cpu)]));
        let mut pool = it.empty();
        assert_eq!(give(&it, &mut pool, &two("p", "2"), &[2]).unwrap(), ["8,24"]);
        // What the node lacks comes from elsewhere.
        assert_eq!(give(&it, &mut pool, &two("q", "8"), &[2]).unwrap(), ["9-12,25-28"]);
        let by_socket = exclusive(CpuOptions { by_socket: true, ..Default::default() }, "", 1000).unwrap();
        let mut pool = by_socket.empty();
        assert_eq!(give(&by_socket, &mut pool, &two("q", "10"), &[2]).unwrap(), ["8-12,24-28"]);
    }

    #[test]
    fn cores_may_have_to_be_whole() {
        let it = exclusive(CpuOptions { whole_cores: true, ..Default::default() }, "0", 1000).unwrap();
        let mut pool = it.empty();
        let told = |cpu: &str, pool: &mut Pool| {
            let refused =
                give(&it, pool, &pod("p", json!([]), json!([container("a", cpu)])), &[]).unwrap_err();
            assert_eq!(refused.reason, "SMTAlignmentError");
            refused.message
        };
        let odd = told("3", &mut pool);
        assert_eq!(odd, "SMT Alignment Error: requested 3 cpus not multiple cpus per core = 2");
        let many = told("32", &mut pool);
        assert_eq!(
            many,
            "SMT Alignment Error: not enough free physical CPUs: available physical CPUs = 30, requested CPUs = 32, CPUs per core = 2"
        );
        let fits = pod("p", json!([]), json!([container("a", "30")]));
        assert_eq!(give(&it, &mut pool, &fits, &[]).unwrap(), ["1-15,17-31"]);
    }

    #[test]
    fn ways_say_which_nodes_have_enough() {
        let it = exclusive(CpuOptions::default(), "", 1000).unwrap();
        let pool = it.empty();
        let ways = |it: &Exclusive, cpu: &str| {
            let pod = pod("p", json!([]), json!([container("a", cpu)]));
            let own = &spec::spec(&pod).containers[0];
            let ways = it.ways(&pool, (&pod, own), &Cpus::new()).unwrap();
            let shown = |preferred: bool| {
                let those = ways.iter().filter(move |hint| hint.preferred == preferred);
                those.map(|hint| hint.nodes.unwrap().iter().collect()).collect::<Vec<Vec<u32>>>()
            };
            assert_eq!(it.ways_together(&pool, &pod).unwrap(), ways);
            (shown(true), shown(false).len())
        };
        // Node 0 has a reserved processor.
        assert_eq!(ways(&it, "8"), (vec![vec![1], vec![2], vec![3]], 11));
        assert_eq!(ways(&it, "16").0, [vec![1, 2], vec![1, 3], vec![2, 3]]);
        assert_eq!(ways(&it, "32"), (vec![], 0));
        let by_socket = exclusive(CpuOptions { by_socket: true, ..Default::default() }, "", 1000).unwrap();
        assert_eq!(ways(&by_socket, "8").0, [vec![1], vec![2], vec![3], vec![0, 1], vec![2, 3]]);
        let shared = json!([{"name": "a", "resources": {"requests": {"cpu": "1"}}}]);
        let shared = pod("s", json!([]), shared);
        assert_eq!(it.ways(&pool, (&shared, &spec::spec(&shared).containers[0]), &Cpus::new()), None);
    }

    #[test]
    fn a_pool_of_another_machine_or_setting_is_refused() {
        let it = exclusive(CpuOptions::default(), "", 1000).unwrap();
        let pool = |shared: &str, given: &str| {
            let own = [("c".to_owned(), amount::cpus(given).unwrap())].into();
            Pool { shared: amount::cpus(shared).unwrap(), given: [("p".to_owned(), own)].into() }
        };
        assert_eq!(it.check(&pool("0,3-31", "1-2")), Ok(()));
        let why = |pool: &Pool| it.check(pool).unwrap_err();
        assert_eq!(why(&pool("", "1")), "default cpuset cannot be empty");
        assert!(why(&pool("3-31", "0-2")).starts_with("not all reserved cpus: \"0\" are present"));
        assert!(why(&pool("0,2-31", "1-2")).contains("overlaps with default cpuset"));
        assert_eq!(
            why(&pool("0,3-30", "1-2")),
            "current set of available CPUs \"0-31\" doesn't match with CPUs in state \"0-30\""
        );
        let strict = exclusive(CpuOptions { strict: true, ..Default::default() }, "", 1000).unwrap();
        assert_eq!(list(&strict.empty().shared), "1-31");
        assert_eq!(strict.check(&pool("3-31", "1-2")), Ok(()));
        assert!(
            strict.check(&pool("0,3-31", "1-2")).unwrap_err().starts_with("some of strictly reserved cpus")
        );
    }
}
