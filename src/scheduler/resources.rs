//! Amounts of resources: what a pod asks for, what a node has.

use crate::intern::{Text, Texts};
use api::slim::{Container, ContainerStatus, Map, Pod, PodSpec};
use std::collections::HashMap;

/// What a container without requests is counted as when nodes are compared, so that such pods spread
/// too (the scheduler's `DefaultMilliCPURequest` and `DefaultMemoryRequest`).
const UNSPECIFIED_MILLI_CPU: i64 = 100;
const UNSPECIFIED_MEMORY: i64 = 200 << 20;

/// A resource, for which an amount is found without comparing texts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Resource {
    Cpu,
    Memory,
    Storage,
    Other(Text),
}

impl Resource {
    pub(crate) fn of(name: &str, texts: &mut Texts) -> Self {
        match name {
            "cpu" => Self::Cpu,
            "memory" => Self::Memory,
            "ephemeral-storage" => Self::Storage,
            other => Self::Other(texts.of(other)),
        }
    }

    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Storage => "ephemeral-storage",
            Self::Other(name) => name,
        }
    }

    /// Anybody's resource: `example.com/gpu`, and neither `hugepages-2Mi` nor `kubernetes.io/…`.
    pub(crate) fn is_extended(&self) -> bool {
        let name = self.name();
        name.contains('/') && !name.contains("kubernetes.io/") && !name.starts_with("requests.")
    }
}

/// Amounts: CPU in thousandths, everything else in units. What is absent is zero.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Resources {
    cpu: i64,
    memory: i64,
    storage: i64,
    others: Vec<(Text, i64)>,
}

impl Resources {
    /// From quantities by their resource's name.
    pub(crate) fn of<'a>(quantities: impl Iterator<Item = (&'a str, &'a str)>, texts: &mut Texts) -> Self {
        let mut resources = Self::default();
        for (name, quantity) in quantities {
            if let Ok(amount) = api::quantity::parse(quantity) {
                let amount = if name == "cpu" { amount.to_milli() } else { amount.to_units() };
                *resources.amount(&Resource::of(name, texts)) = amount;
            }
        }
        resources
    }

    fn amount(&mut self, resource: &Resource) -> &mut i64 {
        let name = match resource {
            Resource::Cpu => return &mut self.cpu,
            Resource::Memory => return &mut self.memory,
            Resource::Storage => return &mut self.storage,
            Resource::Other(name) => name,
        };
        let at = self.others.iter().position(|(own, _)| own == name).unwrap_or_else(|| {
            self.others.push((name.clone(), 0));
            self.others.len() - 1
        });
        &mut self.others[at].1
    }

    pub(crate) fn get(&self, resource: &Resource) -> i64 {
        match resource {
            Resource::Cpu => self.cpu,
            Resource::Memory => self.memory,
            Resource::Storage => self.storage,
            Resource::Other(name) => {
                self.others.iter().find(|(own, _)| own == name).map_or(0, |(_, amount)| *amount)
            }
        }
    }

    /// All amounts but zeros.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Resource, i64)> {
        let own =
            [(Resource::Cpu, self.cpu), (Resource::Memory, self.memory), (Resource::Storage, self.storage)];
        let others = self.others.iter().map(|(name, amount)| (Resource::Other(name.clone()), *amount));
        own.into_iter().chain(others).filter(|(_, amount)| *amount != 0)
    }

    pub(crate) fn add(&mut self, other: &Self, sign: i64) {
        self.cpu += sign * other.cpu;
        self.memory += sign * other.memory;
        self.storage += sign * other.storage;
        for (name, amount) in &other.others {
            *self.amount(&Resource::Other(name.clone())) += sign * amount;
        }
    }

    fn at_least(&mut self, other: &Self) {
        for (resource, amount) in other.iter() {
            let own = self.amount(&resource);
            *own = amount.max(*own);
        }
    }

    /// The same amounts, in an order that depends on them alone.
    fn ordered(mut self) -> Self {
        self.others.retain(|(_, amount)| *amount != 0);
        self.others.sort();
        self.others.shrink_to_fit();
        self
    }
}

/// What a pod takes of its node, and the same for comparing nodes, with a guess of CPU and memory for
/// containers that do not say.
pub(crate) fn requests(pod: &Pod, texts: &mut Texts) -> (Resources, [i64; 2]) {
    let Some(spec) = &pod.spec else { return (Resources::default(), [0; 2]) };
    let running = Running::of(pod);
    let exact = total(spec, texts, |container, texts| running.requested(container, texts)).ordered();
    let guessed = total(spec, texts, |container, texts| {
        let mut own = running.requested(container, texts);
        let given = &container.resources.requests;
        if !given.contains_key("cpu") {
            own.cpu = own.cpu.max(UNSPECIFIED_MILLI_CPU);
        }
        if !given.contains_key("memory") {
            own.memory = own.memory.max(UNSPECIFIED_MEMORY);
        }
        own
    });
    (exact, [guessed.cpu, guessed.memory])
}

/// What the node says that containers have: more than they ask for while they are being made smaller
/// (KEP-1287).
struct Running<'a> {
    statuses: HashMap<&'a str, &'a ContainerStatus>,
    infeasible: bool,
}

impl<'a> Running<'a> {
    fn of(pod: &'a Pod) -> Self {
        let status = pod.status.as_ref();
        let of = |list: Option<&'a [ContainerStatus]>| list.unwrap_or_default().iter();
        let all = status.into_iter().flat_map(|status| {
            of(status.container_statuses.as_deref()).chain(of(status.init_container_statuses.as_deref()))
        });
        let told = all.filter(|own| own.resources.is_some() || own.allocated_resources.is_some());
        let conditions = status.and_then(|status| status.conditions.as_deref()).unwrap_or_default();
        let infeasible = conditions.iter().any(|condition| {
            &*condition.type_ == "PodResizePending" && condition.reason.as_deref() == Some("Infeasible")
        });
        Self { statuses: told.map(|own| (&*own.name, own)).collect(), infeasible }
    }

    /// The most of what is asked for, allotted and there; what cannot be had is not counted.
    fn requested(&self, container: &Container, texts: &mut Texts) -> Resources {
        let mut of = |map: &Map| Resources::of(map.iter(), texts);
        let asked = of(&container.resources.requests);
        let Some(status) = self.statuses.get(&*container.name) else { return asked };
        let mut most = if self.infeasible { Resources::default() } else { asked };
        if let Some(there) = &status.resources {
            most.at_least(&of(&there.requests));
        }
        if let Some(allotted) = &status.allocated_resources {
            most.at_least(&of(allotted));
        }
        most
    }
}

/// Containers together, or init containers where one of those needs more at its time, sidecars beside
/// both (KEP-753), and the runtime's overhead.
fn total(spec: &PodSpec, texts: &mut Texts, of: impl Fn(&Container, &mut Texts) -> Resources) -> Resources {
    let mut running = Resources::default();
    for container in &spec.containers {
        running.add(&of(container, texts), 1);
    }
    let mut sidecars = Resources::default();
    let mut starting = Resources::default();
    for container in spec.init_containers.iter().flatten() {
        let mut at_its_time = of(container, texts);
        if container.restart_policy.as_deref() == Some("Always") {
            sidecars.add(&at_its_time, 1);
            at_its_time = sidecars.clone();
        } else {
            at_its_time.add(&sidecars, 1);
        }
        starting.at_least(&at_its_time);
    }
    running.add(&sidecars, 1);
    running.at_least(&starting);
    // Requests of the pod as a whole stand above those of its containers (KEP-2837).
    for (resource, amount) in Resources::of(spec.resources.requests.iter(), texts).iter() {
        *running.amount(&resource) = amount;
    }
    running.add(&Resources::of(spec.overhead.iter(), texts), 1);
    running
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn cpu(spec: &Value, status: &Value) -> i64 {
        let pod: Pod = serde_json::from_value(json!({"spec": spec, "status": status})).unwrap();
        requests(&pod, &mut Texts::default()).0.cpu
    }

    fn container(cpu: &str, policy: Option<&str>) -> Value {
        json!({"name": "c", "restartPolicy": policy, "resources": {"requests": {"cpu": cpu}}})
    }

    #[test]
    fn init_containers_count_at_their_time_and_sidecars_always() {
        let with = |init: Value| {
            let containers = json!([container("300m", None), container("200m", None)]);
            cpu(
                &json!({"containers": containers, "initContainers": init, "overhead": {"cpu": "10m"}}),
                &json!({}),
            )
        };
        assert_eq!(with(json!([])), 510);
        assert_eq!(with(json!([container("1", None)])), 1010);
        assert_eq!(with(json!([container("100m", Some("Always")), container("1", None)])), 1110);
        assert_eq!(with(json!([container("1", None), container("600m", Some("Always"))])), 1110);
    }

    #[test]
    fn a_pod_that_is_being_resized_takes_the_most_of_what_it_asks_and_has() {
        let spec = json!({"containers": [container("300m", None)]});
        let status = |allotted: &str, there: &str, reason: &str| {
            json!({"conditions": [{"type": "PodResizePending", "status": "True", "reason": reason}],
                "containerStatuses": [{"name": "c", "allocatedResources": {"cpu": allotted},
                    "resources": {"requests": {"cpu": there}}}]})
        };
        assert_eq!(cpu(&spec, &status("100m", "200m", "Deferred")), 300);
        assert_eq!(cpu(&spec, &status("400m", "500m", "Deferred")), 500);
        assert_eq!(cpu(&spec, &status("100m", "200m", "Infeasible")), 200);
    }

    #[test]
    fn pods_are_compared_by_a_guess_where_they_do_not_say() {
        let spec = json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}]});
        let pod: Pod = serde_json::from_value(json!({"spec": spec})).unwrap();
        let (exact, guessed) = requests(&pod, &mut Texts::default());
        assert_eq!((exact.cpu, exact.memory), (1000, 0));
        assert_eq!(guessed, [1000, UNSPECIFIED_MEMORY]);
    }
}
