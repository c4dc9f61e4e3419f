//! Amounts of resources as numbers, and what a pod asks for in total.

use crate::pods::spec;
use api::Quantity;
use api::core::{Container, Pod, ResourceRequirements};
use api::demand::{self, Amounts, Side};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// A quantity in thousandths, rounded up. The API server lets only well-formed ones in; anything else
/// counts 0.
pub(crate) fn milli(quantity: &Quantity) -> i64 {
    api::quantity::parse(&quantity.0).map_or(0, api::quantity::Amount::to_milli)
}

/// A quantity in whole units, rounded up.
pub(crate) fn whole(quantity: &Quantity) -> i64 {
    api::quantity::parse(&quantity.0).map_or(0, api::quantity::Amount::to_units)
}

/// A number of the kernel's as amounts are counted.
pub(crate) fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// As much of `all` as `some` is of `whole`.
pub(crate) fn part(all: i64, some: i64, whole: i64) -> i64 {
    i64::try_from(i128::from(all) * i128::from(some) / i128::from(whole.max(1))).unwrap_or(all)
}

/// Processors as the kernel lists them, `0-3,7`; none if that is no list.
pub(crate) fn cpus(text: &str) -> Option<BTreeSet<u32>> {
    let mut all = BTreeSet::new();
    for part in text.trim().split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (first.trim().parse::<u32>().ok()?, last.trim().parse::<u32>().ok()?);
        // The kernel knows of no more than 8192.
        if first > last || last > 8192 {
            return None;
        }
        all.extend(first..=last);
    }
    Some(all)
}

/// Amounts by the name of their resource.
pub(crate) type List = BTreeMap<String, Quantity>;

fn amount(list: Option<&List>, name: &str, measure: fn(&Quantity) -> i64) -> Option<i64> {
    list?.get(name).map(measure)
}

/// CPU in thousandths and memory in bytes, as requested and as limited; 0 for none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Resources {
    pub(crate) cpu_request_m: i64,
    pub(crate) cpu_limit_m: i64,
    pub(crate) memory_request: i64,
    pub(crate) memory_limit: i64,
}

impl Resources {
    /// From a container's or a pod's requirements. A request that is not given is the limit.
    pub(crate) fn of(resources: Option<&ResourceRequirements>) -> Self {
        let limits = resources.and_then(|resources| resources.limits.as_ref());
        let requests = resources.and_then(|resources| resources.requests.as_ref());
        let cpu_limit = amount(limits, "cpu", milli);
        let memory_limit = amount(limits, "memory", whole);
        Self {
            cpu_request_m: amount(requests, "cpu", milli).or(cpu_limit).unwrap_or(0),
            cpu_limit_m: cpu_limit.unwrap_or(0),
            memory_request: amount(requests, "memory", whole).or(memory_limit).unwrap_or(0),
            memory_limit: memory_limit.unwrap_or(0),
        }
    }

    fn both(self, other: Self, pick: fn(i64, i64) -> i64) -> Self {
        Self {
            cpu_request_m: pick(self.cpu_request_m, other.cpu_request_m),
            cpu_limit_m: pick(self.cpu_limit_m, other.cpu_limit_m),
            memory_request: pick(self.memory_request, other.memory_request),
            memory_limit: pick(self.memory_limit, other.memory_limit),
        }
    }
}

/// A pod's sum of something of its containers: its containers and sidecars together, or the greediest init
/// container beside the sidecars before it.
pub(crate) fn total(pod: &Pod, of: &dyn Fn(&Container) -> i64) -> i64 {
    let (mut sidecars, mut most) = (0, 0);
    for container in spec::init_containers(pod) {
        if spec::is_sidecar(container) {
            sidecars += of(container);
            most = most.max(sidecars);
        } else {
            most = most.max(sidecars + of(container));
        }
    }
    (spec::spec(pod).containers.iter().map(of).sum::<i64>() + sidecars).max(most)
}

/// What a pod asks for, with the overhead of its class. A limit counts only if every container has one.
pub(crate) fn of_pod(pod: &Pod) -> Resources {
    let all = || spec::init_containers(pod).iter().chain(&spec::spec(pod).containers);
    let each =
        |limit: fn(&Resources) -> i64| all().all(|it| limit(&Resources::of(it.resources.as_ref())) > 0);
    let whole = together(pod, each);
    let overhead = overhead(pod);
    let more = |limit: i64, overhead: i64| if limit > 0 { limit + overhead } else { 0 };
    Resources {
        cpu_request_m: whole.cpu_request_m + overhead.cpu_request_m,
        cpu_limit_m: more(whole.cpu_limit_m, overhead.cpu_limit_m),
        memory_request: whole.memory_request + overhead.memory_request,
        memory_limit: more(whole.memory_limit, overhead.memory_limit),
    }
}

/// What a pod's class adds, as much requested as limited (KEP-688).
pub(crate) fn overhead(pod: &Pod) -> Resources {
    let overhead = spec::spec(pod).overhead.as_ref();
    let cpu = amount(overhead, "cpu", milli).unwrap_or(0);
    let memory = amount(overhead, "memory", whole).unwrap_or(0);
    Resources { cpu_request_m: cpu, cpu_limit_m: cpu, memory_request: memory, memory_limit: memory }
}

/// What a runtime that makes a machine for a pod is told of its containers together: a limit counts also where not
/// every container has one.
pub(crate) fn of_containers(pod: &Pod) -> Resources {
    together(pod, |_| true)
}

/// What containers ask for, summed up, with the limits that count; what their pod says of itself takes its place.
fn together(pod: &Pod, counts: impl Fn(fn(&Resources) -> i64) -> bool) -> Resources {
    let sum = |of: fn(&Resources) -> i64| total(pod, &|it| of(&Resources::of(it.resources.as_ref())));
    let limit = |of: fn(&Resources) -> i64| if counts(of) { sum(of) } else { 0 };
    let sum = Resources {
        cpu_request_m: sum(|resources| resources.cpu_request_m),
        cpu_limit_m: limit(|resources| resources.cpu_limit_m),
        memory_request: sum(|resources| resources.memory_request),
        memory_limit: limit(|resources| resources.memory_limit),
    };
    Resources::of(spec::spec(pod).resources.as_ref()).both(sum, |own, sum| if own > 0 { own } else { sum })
}

/// How much of a resource a pod asks for, in whole units.
pub(crate) fn request(pod: &Pod, name: &str) -> i64 {
    if name == "memory" {
        return of_pod(pod).memory_request;
    }
    let of = |container: &Container| {
        let requests = container.resources.as_ref().and_then(|resources| resources.requests.as_ref());
        amount(requests, name, whole).unwrap_or(0)
    };
    total(pod, &of) + amount(spec::spec(pod).overhead.as_ref(), name, whole).unwrap_or(0)
}

/// What a pod's specification says of resources, as [`demand`] counts it: the rest of it is left out.
pub(crate) fn demands(pod: &Pod) -> Value {
    let each = |it: &Container| json!({"name": it.name, "restartPolicy": it.restart_policy, "resources": it.resources});
    let spec = spec::spec(pod);
    json!({
        "containers": spec.containers.iter().map(each).collect::<Vec<_>>(),
        "initContainers": spec::init_containers(pod).iter().map(each).collect::<Vec<_>>(),
        "resources": spec.resources,
        "overhead": spec.overhead,
    })
}

/// One side of those demands together, with the overhead of the pod's class.
pub(crate) fn demanded(demands: &Value, side: Side) -> Amounts {
    let mut all = demand::of_spec(demands, side);
    demand::add_overhead(&mut all, demands, side);
    all
}

/// The limits of a container: those of its pod as a whole where it has none of its own (KEP-2837).
pub(crate) fn of_container(pod: &Pod, container: &Container) -> Resources {
    within(spec::spec(pod).resources.as_ref(), container.resources.as_ref())
}

/// The same of a container with its `own` resources in a pod that has these as a whole.
pub(crate) fn within(whole: Option<&ResourceRequirements>, own: Option<&ResourceRequirements>) -> Resources {
    let (own, whole) = (Resources::of(own), Resources::of(whole));
    let or = |own: i64, whole: i64| if own > 0 { own } else { whole };
    Resources {
        cpu_limit_m: or(own.cpu_limit_m, whole.cpu_limit_m),
        memory_limit: or(own.memory_limit, whole.memory_limit),
        ..own
    }
}

/// Huge pages by their size in bytes.
pub(crate) fn huge_pages(list: Option<&List>) -> BTreeMap<i64, i64> {
    let named = list.into_iter().flatten().filter_map(|(name, amount)| {
        let size = api::quantity::parse(name.strip_prefix("hugepages-")?).ok()?;
        Some((size.to_units(), whole(amount)))
    });
    named.collect()
}

/// The huge pages that a pod may use.
pub(crate) fn huge_pages_of_pod(pod: &Pod) -> BTreeMap<i64, i64> {
    let of = |resources: Option<&ResourceRequirements>| {
        huge_pages(resources.and_then(|resources| resources.limits.as_ref().or(resources.requests.as_ref())))
    };
    let all = spec::init_containers(pod).iter().chain(&spec::spec(pod).containers);
    let sizes: BTreeSet<i64> =
        all.flat_map(|container| of(container.resources.as_ref()).into_keys()).collect();
    let size_of =
        |container: &Container, size: &i64| of(container.resources.as_ref()).get(size).copied().unwrap_or(0);
    let mut pages: BTreeMap<i64, i64> =
        sizes.iter().map(|size| (*size, total(pod, &|container| size_of(container, size)))).collect();
    pages.extend(of(spec::spec(pod).resources.as_ref()));
    pages
}

/// Quality of service, from requests and limits of CPU and memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Qos {
    Guaranteed,
    Burstable,
    BestEffort,
}

impl Qos {
    /// The class of a pod.
    pub(crate) fn of(pod: &Pod) -> Self {
        let main = spec::spec(pod).containers.iter().map(|c| c.resources.as_ref());
        let init = spec::init_containers(pod).iter().map(|c| c.resources.as_ref());
        let pod_level = spec::spec(pod).resources.as_ref();
        let all: Vec<Resources> = match pod_level {
            Some(resources) => vec![Resources::of(Some(resources))],
            None => main.chain(init).map(Resources::of).collect(),
        };
        let guaranteed = |r: &Resources| {
            r.cpu_limit_m > 0
                && r.memory_limit > 0
                && r.cpu_limit_m == r.cpu_request_m
                && r.memory_limit == r.memory_request
        };
        if all.iter().all(|resources| *resources == Resources::default()) {
            Self::BestEffort
        } else if all.iter().all(guaranteed) {
            Self::Guaranteed
        } else {
            Self::Burstable
        }
    }

    /// As `status.qosClass` names it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"spec": spec})).unwrap()
    }

    #[test]
    fn an_init_container_counts_beside_the_sidecars_before_it() {
        let requests = |cpu: &str| json!({"requests": {"cpu": cpu}});
        let pod = pod(json!({
            "initContainers": [
                {"name": "s", "restartPolicy": "Always", "resources": requests("100m")},
                {"name": "i", "resources": requests("1")},
            ],
            "containers": [{"name": "c", "resources": requests("500m")}],
        }));
        assert_eq!(of_pod(&pod).cpu_request_m, 1100);
        assert_eq!(Qos::of(&pod), Qos::Burstable);
    }

    #[test]
    fn the_class_follows_requests_and_limits() {
        let limits = json!({"limits": {"cpu": "1", "memory": "1Mi"}});
        let of = |resources: serde_json::Value| {
            Qos::of(&pod(json!({"containers": [{"name": "c", "resources": resources}]})))
        };
        assert_eq!(of(limits), Qos::Guaranteed);
        assert_eq!(of(json!({})), Qos::BestEffort);
        assert_eq!(of(json!({"limits": {"cpu": "1"}})), Qos::Burstable);
    }
}
