//! Giving a pod that is to be taken what it gets to itself: where all of it is best, container by container.

use super::cpus::Cpus;
use super::exclusive::Exclusive;
use super::hints::{Demand, Hint, Ways};
use super::memory::{self, Placement};
use super::{Inner, locked, unexpected};
use crate::Context;
use crate::amount::{Qos, Resources};
use crate::devices::Reusable;
use crate::pods::admission::Rejection;
use crate::pods::spec;
use crate::settings::KubeletConfiguration;
use crate::stats::counters::{self, Family};
use api::Object;
use api::core::{Container, Pod};

/// What is known where nobody was asked.
const NOWHERE: Hint = Hint { nodes: None, preferred: false };

/// What containers had that have ended by the time that the next ones run.
#[derive(Default)]
struct Reuse {
    devices: Reusable,
    cpus: Cpus,
    memory: memory::Reuse,
}

/// Gives a pod's containers what they want to themselves, and their devices; nothing where that fails, and why.
pub(crate) async fn admit(context: &Context, pod: &Pod) -> Result<(), Rejection> {
    let given = give(context, pod).await;
    if context.affinity.0.get().is_some() {
        count(&given, &counters::ALIGNED, &counters::ALIGNED_ERRORS);
    }
    if given.is_err() {
        context.devices.release(pod.uid());
        context.affinity.release(pod.uid());
    }
    given
}

/// Counts something that was asked for, and whether it failed.
fn count(given: &Result<(), Rejection>, all: &Family, failed: &Family) {
    all.count(&[]);
    if given.is_err() {
        failed.count(&[]);
    }
}

async fn give(context: &Context, pod: &Pod) -> Result<(), Rejection> {
    let inner = context.affinity.0.get();
    let mut reuse = Reuse::default();
    let whole = match inner {
        Some(inner) if inner.whole_pods => Some(inner.place(together(context, inner, pod))?),
        _ => None,
    };
    for container in spec::init_containers(pod).iter().chain(&spec::spec(pod).containers) {
        let hint = match (inner, whole) {
            (Some(inner), None) => inner.place(alone(context, inner, (pod, container), &reuse))?,
            (_, whole) => whole.unwrap_or(NOWHERE),
        };
        let devices = context.devices.give((pod, container), hint.nodes, &mut reuse.devices).await;
        devices.map_err(|why| unexpected(&why))?;
        if let Some(inner) = inner {
            inner.give((pod, container), hint, &mut reuse)?;
        }
    }
    let settled = context.devices.settle(pod.uid());
    let settled = settled.and_then(|()| inner.map_or(Ok(()), |inner| inner.settle(pod.uid())));
    settled.map_err(|why| unexpected(&format!("failed to write checkpoint file: {why}")))
}

/// Where all that a pod wants could be.
fn together(context: &Context, inner: &Inner, pod: &Pod) -> Vec<Ways> {
    if inner.merger.demand == Demand::None {
        return Vec::new();
    }
    let held = locked(&inner.held);
    let cpus = inner.exclusive.as_ref().and_then(|it| it.ways_together(&held.pool, pod));
    let memory = inner.placement.as_ref().map(|it| it.ways_together(&held.bank, pod));
    let devices = context.devices.ways_together(pod, inner.merger.all);
    devices.into_iter().chain(cpus).chain(memory.into_iter().flatten()).collect()
}

/// The same for one container.
fn alone(context: &Context, inner: &Inner, of: (&Pod, &Container), reuse: &Reuse) -> Vec<Ways> {
    if inner.merger.demand == Demand::None {
        return Vec::new();
    }
    let held = locked(&inner.held);
    let cpus = inner.exclusive.as_ref().and_then(|it| it.ways(&held.pool, of, &reuse.cpus));
    let memory = inner.placement.as_ref().map(|it| it.ways(&held.bank, of, &reuse.memory));
    let devices = context.devices.ways(of, inner.merger.all, &reuse.devices);
    devices.into_iter().chain(cpus).chain(memory.into_iter().flatten()).collect()
}

impl Inner {
    /// Where it is to be, if that is good enough.
    fn place(&self, resources: Vec<Ways>) -> Result<Hint, Rejection> {
        let (hint, taken) = self.merger.merge(&resources);
        if taken {
            return Ok(hint);
        }
        Err(Rejection {
            reason: "TopologyAffinityError".to_owned(),
            message: "Resources cannot be allocated with Topology locality".to_owned(),
        })
    }

    fn give(&self, of: (&Pod, &Container), hint: Hint, reuse: &mut Reuse) -> Result<(), Rejection> {
        let mut held = locked(&self.held);
        if let Some(exclusive) = &self.exclusive {
            let given = exclusive.give(&mut held.pool, of, hint.nodes, &mut reuse.cpus);
            if Exclusive::concerns(of) {
                count(&given, &counters::PINNED_CPUS, &counters::PINNED_CPUS_ERRORS);
            }
            given?;
        }
        if let Some(placement) = &self.placement {
            let given = placement.give(&mut held.bank, of, hint, &mut reuse.memory);
            if Placement::concerns(of) {
                count(&given, &counters::PINNED_MEMORY, &counters::PINNED_MEMORY_ERRORS);
            }
            given?;
        }
        Ok(())
    }
}

/// Why a pod that runs cannot have other resources than it was given, whatever else there is (KEP-1287).
pub(crate) fn forbids_resize(kubelet: &KubeletConfiguration, given: &Pod, told: &Pod) -> Option<String> {
    if Qos::of(told) != Qos::Guaranteed {
        return None;
    }
    let changes = |of: fn(&Resources) -> i64| {
        let all = spec::init_containers(told).iter().chain(&spec::spec(told).containers);
        let of = |container: &Container| of(&Resources::of(container.resources.as_ref()));
        all.into_iter()
            .any(|own| spec::container(given, &own.name).is_none_or(|(_, has)| of(own) != of(&has)))
    };
    let no = |who: &str, policy: &str| {
        format!("Resize is infeasible for Guaranteed Pods alongside {who} Manager policy {policy:?}")
    };
    let cpu = kubelet.cpu_manager_policy == "static" && changes(|own| own.cpu_request_m);
    let memory = kubelet.memory_manager_policy == "Static" && changes(|own| own.memory_request);
    match (cpu, memory) {
        (true, _) => Some(no("CPU", "static")),
        (_, true) => Some(no("Memory", "Static")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_exclusive_stays_as_it_was_given() {
        let pod = |cpu: &str, memory: &str, limited: bool| -> Pod {
            let amounts = json!({"cpu": cpu, "memory": memory});
            let mut resources = json!({"requests": amounts});
            if limited {
                resources["limits"] = amounts;
            }
            serde_json::from_value(json!({"spec": {"containers": [{"name": "c", "resources": resources}]}}))
                .unwrap()
        };
        let kubelet = |cpu: &str, memory: &str| KubeletConfiguration {
            cpu_manager_policy: cpu.to_owned(),
            memory_manager_policy: memory.to_owned(),
            ..KubeletConfiguration::default()
        };
        let told =
            |kubelet: &KubeletConfiguration, given: Pod, told: Pod| forbids_resize(kubelet, &given, &told);
        let both = kubelet("static", "Static");
        let cpu = told(&both, pod("1", "1Gi", true), pod("2", "1Gi", true)).unwrap();
        assert_eq!(cpu, "Resize is infeasible for Guaranteed Pods alongside CPU Manager policy \"static\"");
        let memory = told(&both, pod("1", "1Gi", true), pod("1", "2Gi", true)).unwrap();
        assert_eq!(
            memory,
            "Resize is infeasible for Guaranteed Pods alongside Memory Manager policy \"Static\""
        );
        assert_eq!(told(&both, pod("1", "1Gi", false), pod("2", "1Gi", false)), None);
        assert_eq!(told(&kubelet("none", "None"), pod("1", "1Gi", true), pod("2", "2Gi", true)), None);
        assert_eq!(told(&both, pod("1", "1Gi", true), pod("1", "1024Mi", true)), None);
    }
}
