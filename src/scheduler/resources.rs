//! Amounts of resources: what a pod asks for, what a node has.

use api::Quantity;
use api::core::{Container, PodSpec};
use std::collections::BTreeMap;

/// What a container without requests is counted as when nodes are compared, so that such pods spread
/// too (the scheduler's `DefaultMilliCPURequest` and `DefaultMemoryRequest`).
const UNSPECIFIED_MILLI_CPU: i64 = 100;
const UNSPECIFIED_MEMORY: i64 = 200 << 20;

/// Amounts by resource name; CPU in thousandths, everything else in units. What is absent is zero.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Resources(BTreeMap<String, i64>);

impl Resources {
    pub(crate) fn of(quantities: Option<&BTreeMap<String, Quantity>>) -> Self {
        let read = |(name, quantity): (&String, &Quantity)| {
            let amount = api::quantity::parse(&quantity.0).ok()?;
            Some((name.clone(), if name == "cpu" { amount.to_milli() } else { amount.to_units() }))
        };
        Self(quantities.into_iter().flatten().filter_map(read).collect())
    }

    pub(crate) fn get(&self, name: &str) -> i64 {
        self.0.get(name).copied().unwrap_or(0)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, i64)> {
        self.0.iter().map(|(name, amount)| (name.as_str(), *amount))
    }

    pub(crate) fn add(&mut self, other: &Self) {
        other.iter().for_each(|(name, amount)| *self.0.entry(name.to_owned()).or_default() += amount);
    }

    pub(crate) fn subtract(&mut self, other: &Self) {
        other.iter().for_each(|(name, amount)| *self.0.entry(name.to_owned()).or_default() -= amount);
    }

    fn at_least(&mut self, other: &Self) {
        for (name, amount) in other.iter() {
            let own = self.0.entry(name.to_owned()).or_default();
            *own = amount.max(*own);
        }
    }

    fn set(&mut self, name: &str, amount: i64) {
        self.0.insert(name.to_owned(), amount);
    }
}

/// What a pod takes of its node: its containers together, or its init containers where one of those
/// needs more at its time, sidecars beside both, and the runtime's overhead (KEP-753).
pub(crate) fn requests(spec: &PodSpec) -> Resources {
    total(spec, |container| Resources::of(container.resources.as_ref().and_then(|it| it.requests.as_ref())))
}

/// Like [`requests`], with a guess for containers that ask for nothing.
pub(crate) fn requests_or_default(spec: &PodSpec) -> Resources {
    total(spec, |container| {
        let mut own = Resources::of(container.resources.as_ref().and_then(|it| it.requests.as_ref()));
        for (name, unspecified) in [("cpu", UNSPECIFIED_MILLI_CPU), ("memory", UNSPECIFIED_MEMORY)] {
            if !own.0.contains_key(name) {
                own.set(name, unspecified);
            }
        }
        own
    })
}

fn total(spec: &PodSpec, of: impl Fn(&Container) -> Resources) -> Resources {
    let mut running = Resources::default();
    spec.containers.iter().for_each(|container| running.add(&of(container)));
    let mut sidecars = Resources::default();
    let mut starting = Resources::default();
    for container in spec.init_containers.iter().flatten() {
        let mut at_its_time = of(container);
        if container.restart_policy.as_deref() == Some("Always") {
            sidecars.add(&at_its_time);
            at_its_time = sidecars.clone();
        } else {
            at_its_time.add(&sidecars);
        }
        starting.at_least(&at_its_time);
    }
    running.add(&sidecars);
    running.at_least(&starting);
    // Requests of the pod as a whole stand above those of its containers (KEP-2837).
    let whole = Resources::of(spec.resources.as_ref().and_then(|resources| resources.requests.as_ref()));
    whole.iter().for_each(|(name, amount)| running.set(name, amount));
    running.add(&Resources::of(spec.overhead.as_ref()));
    running
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn init_containers_count_at_their_time_and_sidecars_always() {
        let container = |cpu: &str, policy: Option<&str>| json!({"name": "c", "restartPolicy": policy, "resources": {"requests": {"cpu": cpu}}});
        let spec = |init: serde_json::Value| -> PodSpec {
            serde_json::from_value(json!({"containers": [container("300m", None), container("200m", None)],
                "initContainers": init, "overhead": {"cpu": "10m"}}))
            .unwrap()
        };
        let cpu = |init| requests(&spec(init)).get("cpu");
        assert_eq!(cpu(json!([])), 510);
        assert_eq!(cpu(json!([container("1", None)])), 1010);
        assert_eq!(cpu(json!([container("100m", Some("Always")), container("1", None)])), 1110);
        assert_eq!(cpu(json!([container("1", None), container("600m", Some("Always"))])), 1110);
    }
}
