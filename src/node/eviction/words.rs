//! What is said of pods that are evicted, and of those that are not taken. Pure.

use super::crossing::Observations;
use super::threshold::{Pressure, Signal, Threshold};
use super::usage::{ContainerUsage, Usage};
use crate::amount::signed;
use crate::pods::spec;
use api::Object;
use api::core::{Pod, ResourceRequirements};
use api::quantity::Amount;
use std::collections::{BTreeMap, BTreeSet};

/// `status.reason` and the event's reason.
pub(crate) const REASON: &str = "Evicted";

/// An amount of what a signal measures.
fn shown(signal: Signal, amount: i64) -> String {
    match signal.resource() {
        "memory" | "ephemeral-storage" => Amount::bytes(amount).to_string(),
        _ => Amount::units(amount).to_string(),
    }
}

/// What a container or pod asked for of a resource.
fn asked(resources: Option<&ResourceRequirements>, resource: &str) -> Option<(String, i64)> {
    let amount = resources?.requests.as_ref()?.get(resource)?;
    Some((api::quantity::canonical(&amount.0).unwrap_or_default(), crate::amount::whole(amount)))
}

fn used(container: &ContainerUsage, resource: &str) -> Option<i64> {
    match resource {
        "memory" => container.memory,
        "ephemeral-storage" => {
            Some(signed(container.rootfs?.bytes).saturating_add(signed(container.logs?.bytes)))
        }
        _ => None,
    }
}

/// The message and the annotations of the event about a pod that is evicted for a threshold.
pub(crate) fn evicted(
    pod: &Pod,
    usage: Option<&Usage>,
    threshold: &Threshold,
    observations: &Observations,
) -> (String, BTreeMap<String, String>) {
    let (signal, resource) = (threshold.signal, threshold.signal.resource());
    let mut message = format!("The node was low on resource: {resource}. ");
    if let Some(seen) = observations.get(&signal) {
        let (least, left) = (threshold.least.of(seen.capacity), seen.available);
        let (least, left) = (shown(signal, least), shown(signal, left));
        message.push_str(&format!("Threshold quantity: {least}, available: {left}. "));
    }
    let mut annotations = BTreeMap::new();
    let Some(usage) = usage else { return (message, annotations) };
    let mut annotate = |name: &str, value: String| drop(annotations.insert(name.to_owned(), value));
    let whole = asked(spec::spec(pod).resources.as_ref(), resource).filter(|_| resource == "memory");
    if let Some((request, _)) = whole {
        let (name, used) = (pod.name(), Amount::bytes(usage.memory).to_string());
        message.push_str(&larger("Pod", name, (&used, &request), resource));
        annotate("offending_pod", name.to_owned());
        annotate("offending_pod_usage", used);
    }
    let all = spec::spec(pod).containers.iter().chain(spec::init_containers(pod));
    let specified: BTreeMap<&str, _> = all.map(|it| (it.name.as_str(), it.resources.as_ref())).collect();
    let (mut names, mut amounts) = (Vec::new(), Vec::new());
    for container in &usage.containers {
        let Some(resources) = specified.get(container.name.as_str()) else { continue };
        let (request, most) = asked(*resources, resource).unwrap_or_else(|| ("0".to_owned(), 0));
        let Some(used) = used(container, resource).filter(|used| *used > most) else { continue };
        let used = Amount::bytes(used).to_string();
        message.push_str(&larger("Container", &container.name, (&used, &request), resource));
        names.push(container.name.clone());
        amounts.push(used);
    }
    annotate("offending_containers", names.join(","));
    annotate("offending_containers_usage", amounts.join(","));
    annotate("starved_resource", resource.to_owned());
    (message, annotations)
}

fn larger(what: &str, name: &str, (used, request): (&str, &str), resource: &str) -> String {
    format!("{what} {name} was using {used}, request is {request}, has larger consumption of {resource}. ")
}

/// Why a pod is not taken by a node that runs short; none if it is. Critical pods always are, and memory is for those
/// that said how much they need.
pub(crate) fn refusal(pod: &Pod, pressures: &BTreeSet<Pressure>) -> Option<String> {
    if pressures.is_empty() || crate::pods::admission::is_critical(pod) {
        return None;
    }
    if pressures.iter().eq([&Pressure::Memory]) {
        let taint = api::core::Taint {
            key: "node.kubernetes.io/memory-pressure".to_owned(),
            effect: "NoSchedule".to_owned(),
            ..Default::default()
        };
        let tolerations = spec::spec(pod).tolerations.as_deref().unwrap_or_default();
        let tolerates = api::taints::tolerated(tolerations, &taint);
        if crate::amount::Qos::of(pod) != crate::amount::Qos::BestEffort || tolerates {
            return None;
        }
    }
    let names: Vec<&str> = pressures.iter().map(|pressure| pressure.condition()).collect();
    Some(format!("The node had condition: [{}]. ", names.join(" ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eviction::crossing::Observation;
    use crate::eviction::threshold;
    use crate::stats::Part;
    use serde_json::json;
    use std::time::Duration;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).unwrap()
    }

    fn low(signal: Signal, least: threshold::Amount, available: i64) -> (Threshold, Observations) {
        let observation = Observation { available, capacity: 10 << 30 };
        let threshold = Threshold { signal, least, grace: Duration::ZERO, reclaim: None };
        (threshold, [(signal, observation)].into())
    }

    #[test]
    fn containers_that_use_more_than_they_asked_for_are_named() {
        let requests = json!({"requests": {"memory": "32Mi", "ephemeral-storage": "1Gi"}});
        let pod = pod(json!({"containers": [{"name": "a", "resources": requests}, {"name": "b"}]}));
        let part = |bytes| Some(Part { bytes, inodes: 1 });
        let of = |name: &str, memory| ContainerUsage {
            name: name.to_owned(),
            memory: Some(memory),
            rootfs: part(2 << 20),
            logs: part(1 << 20),
        };
        let usage = Usage { containers: vec![of("a", 64 << 20), of("b", 1 << 20)], ..Default::default() };
        let (threshold, seen) = low(Signal::Memory, threshold::Amount::Units(100 << 20), 99 << 20);
        let (message, annotations) = evicted(&pod, Some(&usage), &threshold, &seen);
        assert_eq!(
            message,
            "The node was low on resource: memory. Threshold quantity: 100Mi, available: 99Mi. \
             Container a was using 64Mi, request is 32Mi, has larger consumption of memory. \
             Container b was using 1Mi, request is 0, has larger consumption of memory. "
        );
        let wanted = json!({
            "offending_containers": "a,b", "offending_containers_usage": "64Mi,1Mi", "starved_resource": "memory",
        });
        assert_eq!(json!(annotations), wanted);
        let (threshold, seen) = low(Signal::NodeFs, threshold::Amount::Share(0.1), 1);
        let (message, _) = evicted(&pod, Some(&usage), &threshold, &seen);
        assert_eq!(
            message,
            "The node was low on resource: ephemeral-storage. Threshold quantity: 1Gi, available: 1. \
             Container b was using 3Mi, request is 0, has larger consumption of ephemeral-storage. "
        );
    }

    #[test]
    fn a_pod_that_asked_as_a_whole_is_named_as_a_whole() {
        let pod = pod(json!({"resources": {"requests": {"memory": "1Mi"}}, "containers": [{"name": "a"}]}));
        let usage = Usage { memory: 3 << 20, ..Default::default() };
        let (threshold, seen) = low(Signal::Memory, threshold::Amount::Units(1), 0);
        let (message, annotations) = evicted(&pod, Some(&usage), &threshold, &seen);
        assert!(
            message.ends_with("Pod p was using 3Mi, request is 1Mi, has larger consumption of memory. "),
            "{message}"
        );
        assert_eq!(annotations["offending_pod_usage"], "3Mi");
    }

    #[test]
    fn pods_are_refused_by_what_the_node_suffers_from() {
        let refused = |pod: &Pod, all: &[Pressure]| refusal(pod, &all.iter().copied().collect());
        let plain = pod(json!({"containers": [{"name": "c"}]}));
        let asks = pod(json!({"containers": [{"name": "c", "resources": {"requests": {"memory": "1Mi"}}}]}));
        let tolerates = pod(json!({
            "containers": [{"name": "c"}],
            "tolerations": [{"key": "node.kubernetes.io/memory-pressure", "operator": "Exists"}],
        }));
        let critical = pod(json!({"priority": 2_000_000_000, "containers": [{"name": "c"}]}));
        let memory = Some("The node had condition: [MemoryPressure]. ".to_owned());
        assert_eq!(refused(&plain, &[]), None);
        assert_eq!(refused(&plain, &[Pressure::Memory]), memory);
        assert_eq!(refused(&asks, &[Pressure::Memory]), None);
        assert_eq!(refused(&tolerates, &[Pressure::Memory]), None);
        let both = Some("The node had condition: [MemoryPressure DiskPressure]. ".to_owned());
        assert_eq!(refused(&asks, &[Pressure::Memory, Pressure::Disk]), both);
        assert_eq!(refused(&critical, &[Pressure::Disk, Pressure::Pid]), None);
    }
}
