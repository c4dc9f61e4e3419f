//! Amounts of resources: what a pod asks for, what a node has.

use api::slim::{Container, PodSpec};

/// What a container without requests is counted as when nodes are compared, so that such pods spread
/// too (the scheduler's `DefaultMilliCPURequest` and `DefaultMemoryRequest`).
const UNSPECIFIED_MILLI_CPU: i64 = 100;
const UNSPECIFIED_MEMORY: i64 = 200 << 20;

/// What nodes are compared by.
pub(crate) const COMPARED: [&str; 2] = ["cpu", "memory"];

/// Amounts by resource name, few and in the order of their names; CPU in thousandths, everything else in
/// units. What is absent is zero.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Resources(Vec<(Box<str>, i64)>);

impl Resources {
    /// From quantities by their resource's name.
    pub(crate) fn of<'a>(quantities: impl Iterator<Item = (&'a str, &'a str)>) -> Self {
        let mut resources = Self::default();
        for (name, quantity) in quantities {
            if let Ok(amount) = api::quantity::parse(quantity) {
                let amount = if name == "cpu" { amount.to_milli() } else { amount.to_units() };
                *resources.amount(name) = amount;
            }
        }
        resources
    }

    fn at(&self, name: &str) -> Result<usize, usize> {
        self.0.binary_search_by(|(own, _)| (**own).cmp(name))
    }

    fn amount(&mut self, name: &str) -> &mut i64 {
        let at = self.at(name).unwrap_or_else(|at| {
            self.0.insert(at, (name.into(), 0));
            at
        });
        &mut self.0[at].1
    }

    pub(crate) fn get(&self, name: &str) -> i64 {
        self.at(name).map_or(0, |at| self.0[at].1)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, i64)> {
        self.0.iter().map(|(name, amount)| (&**name, *amount))
    }

    pub(crate) fn add(&mut self, other: &Self) {
        other.iter().for_each(|(name, amount)| *self.amount(name) += amount);
    }

    pub(crate) fn subtract(&mut self, other: &Self) {
        other.iter().for_each(|(name, amount)| *self.amount(name) -= amount);
    }

    fn at_least(&mut self, other: &Self) {
        for (name, amount) in other.iter() {
            let own = self.amount(name);
            *own = amount.max(*own);
        }
    }
}

fn requested(container: &Container) -> Resources {
    Resources::of(container.resources.requests.iter())
}

/// What a pod takes of its node: its containers together, or its init containers where one of those
/// needs more at its time, sidecars beside both, and the runtime's overhead (KEP-753).
pub(crate) fn requests(spec: &PodSpec) -> Resources {
    let mut requests = total(spec, requested);
    requests.0.shrink_to_fit();
    requests
}

/// Like [`requests`] for what is [`COMPARED`], with a guess for containers that ask for nothing.
pub(crate) fn guess(spec: &PodSpec) -> [i64; 2] {
    let guessed = total(spec, |container| {
        let mut own = requested(container);
        for (name, unspecified) in COMPARED.into_iter().zip([UNSPECIFIED_MILLI_CPU, UNSPECIFIED_MEMORY]) {
            if own.at(name).is_err() {
                *own.amount(name) = unspecified;
            }
        }
        own
    });
    COMPARED.map(|name| guessed.get(name))
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
    let whole = Resources::of(spec.resources.requests.iter());
    whole.iter().for_each(|(name, amount)| *running.amount(name) = amount);
    running.add(&Resources::of(spec.overhead.iter()));
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
