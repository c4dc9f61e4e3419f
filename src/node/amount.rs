//! Amounts of resources as numbers, and what a pod asks for in total.

use crate::pods::spec;
use api::Quantity;
use api::core::{Container, Pod, ResourceRequirements};
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

type List = BTreeMap<String, Quantity>;

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

/// What a pod asks for: its containers and sidecars together, or the greediest init container beside
/// the sidecars before it. A limit counts only if every container has one.
pub(crate) fn of_pod(pod: &Pod) -> Resources {
    let of = |container: &Container| Resources::of(container.resources.as_ref());
    let (mut sidecars, mut most) = (Resources::default(), Resources::default());
    for container in spec::init_containers(pod) {
        if spec::is_sidecar(container) {
            sidecars = sidecars.both(of(container), |a, b| a + b);
            most = most.both(sidecars, i64::max);
        } else {
            most = most.both(sidecars.both(of(container), |a, b| a + b), i64::max);
        }
    }
    let main =
        spec::spec(pod).containers.iter().map(of).fold(sidecars, |sum, one| sum.both(one, |a, b| a + b));
    let mut total = main.both(most, i64::max);
    let limited = |limit: fn(&Resources) -> i64| spec::spec(pod).containers.iter().all(|c| limit(&of(c)) > 0);
    if !limited(|resources| resources.cpu_limit_m) {
        total.cpu_limit_m = 0;
    }
    if !limited(|resources| resources.memory_limit) {
        total.memory_limit = 0;
    }
    let own = Resources::of(spec::spec(pod).resources.as_ref());
    let or = |own: i64, total: i64| if own > 0 { own } else { total };
    own.both(total, or)
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
