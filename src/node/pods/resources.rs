//! What a container may use, as the runtime is told. Pure.

use super::admission::is_critical;
use super::spec;
use crate::amount::{self, Qos, Resources, huge_pages, of_container};
use crate::cgroups::{Rules, Swap, page_name, quota_us, shares};
use crate::protocols::runtime::v1 as cri;
use api::core::{Container, Pod};
use std::collections::HashMap;

/// The resources to ask for.
pub(crate) fn of(pod: &Pod, container: &Container, rules: &Rules) -> cri::LinuxContainerResources {
    let wanted = of_container(pod, container);
    let mut unified = HashMap::new();
    if rules.unified && rules.ends_whole {
        unified.insert("memory.oom.group".to_owned(), "1".to_owned());
    }
    if rules.unified && rules.swap != Swap::Unknown {
        unified.insert("memory.swap.max".to_owned(), swap_max(pod, container, rules).to_string());
    }
    let swap_limited = !rules.unified && rules.swap != Swap::Unknown;
    cri::LinuxContainerResources {
        oom_score_adj: oom_score(Qos::of(pod), wanted.memory_request, rules.memory),
        hugepage_limits: page_limits(pod, container, rules),
        unified,
        // Memory and swap together: as much as memory alone.
        memory_swap_limit_in_bytes: if swap_limited { wanted.memory_limit } else { 0 },
        ..linux(wanted, rules)
    }
}

/// Processors and memory as the kernel takes them.
fn linux(wanted: Resources, rules: &Rules) -> cri::LinuxContainerResources {
    cri::LinuxContainerResources {
        cpu_period: rules.period_us.unwrap_or(0),
        cpu_quota: rules.period_us.map_or(0, |period| quota_us(wanted.cpu_limit_m, period).max(0)),
        cpu_shares: shares(wanted.cpu_request_m),
        memory_limit_in_bytes: wanted.memory_limit,
        ..Default::default()
    }
}

/// What is said of a sandbox, for runtimes that make a machine for each pod: its containers' resources together, and
/// what its class adds.
pub(crate) fn of_sandbox(
    pod: &Pod,
    rules: &Rules,
) -> (cri::LinuxContainerResources, cri::LinuxContainerResources) {
    let overhead = match spec::spec(pod).overhead {
        Some(_) => linux(amount::overhead(pod), rules),
        None => cri::LinuxContainerResources::default(),
    };
    (linux(amount::of_containers(pod), rules), overhead)
}

fn page_limits(pod: &Pod, container: &Container, rules: &Rules) -> Vec<cri::HugepageLimit> {
    let own = container.resources.as_ref().and_then(|resources| resources.limits.as_ref());
    let whole = spec::spec(pod).resources.as_ref().and_then(|resources| resources.limits.as_ref());
    let mut limits = huge_pages(whole);
    limits.extend(huge_pages(own));
    let limit = |size: &i64| cri::HugepageLimit {
        page_size: page_name(*size),
        limit: limits.get(size).map_or(0, |bytes| bytes.unsigned_abs()),
    };
    rules.page_sizes.iter().map(limit).collect()
}

/// The swap that a container may use, in bytes (KEP-2400).
fn swap_max(pod: &Pod, container: &Container, rules: &Rules) -> i64 {
    let Swap::Limited(all) = rules.swap else { return 0 };
    let own = Resources::of(container.resources.as_ref());
    let critical = is_critical(pod);
    let some = own.memory_request > 0 && own.memory_request != own.memory_limit;
    if critical || Qos::of(pod) != Qos::Burstable || !some || own.memory_request > rules.memory {
        return 0;
    }
    amount::part(all, own.memory_request, rules.memory)
}

/// Who dies first when the node runs out of memory, by Kubernetes' formula.
fn oom_score(qos: Qos, request: i64, node_memory: i64) -> i64 {
    match qos {
        Qos::Guaranteed => -997,
        Qos::BestEffort => 1000,
        Qos::Burstable => (1000 - amount::part(1000, request, node_memory)).clamp(3, 999),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn asked(
        mut spec: serde_json::Value,
        resources: serde_json::Value,
        rules: &Rules,
    ) -> cri::LinuxContainerResources {
        spec["containers"] = json!([{"name": "c", "resources": resources}]);
        let pod: Pod = serde_json::from_value(json!({"spec": spec})).unwrap();
        of(&pod, &spec::spec(&pod).containers[0], rules)
    }

    fn rules() -> Rules {
        Rules { period_us: Some(50_000), memory: 1 << 30, page_sizes: vec![2 << 20], ..Default::default() }
    }

    #[test]
    fn limits_follow_the_nodes_rules() {
        let resources = json!({
            "limits": {"cpu": "500m", "memory": "64Mi", "hugepages-2Mi": "4Mi"},
            "requests": {"cpu": "250m", "memory": "32Mi", "hugepages-2Mi": "4Mi"},
        });
        let found = asked(json!({}), resources.clone(), &rules());
        assert_eq!((found.cpu_shares, found.cpu_quota, found.cpu_period), (256, 25_000, 50_000));
        assert_eq!((found.memory_limit_in_bytes, found.oom_score_adj), (64 << 20, 969));
        let pages = &found.hugepage_limits[0];
        assert_eq!((pages.page_size.as_str(), pages.limit), ("2MB", 4 << 20));
        let free = asked(json!({}), resources, &Rules { period_us: None, ..rules() });
        assert_eq!((free.cpu_quota, free.cpu_period), (0, 0));
    }

    #[test]
    fn sandboxes_are_told_of_all_containers_and_of_the_overhead() {
        let container = |limits| json!({"name": "c", "resources": {"limits": limits}});
        let spec = json!({
            "containers": [container(json!({"cpu": "1", "memory": "1Gi"})), container(json!({"cpu": "500m"}))],
            "overhead": {"cpu": "250m", "memory": "120Mi"},
        });
        let pod: Pod = serde_json::from_value(json!({"spec": spec})).unwrap();
        let (all, more) = of_sandbox(&pod, &rules());
        assert_eq!((all.cpu_shares, all.cpu_quota, all.memory_limit_in_bytes), (1536, 75_000, 1 << 30));
        assert_eq!((more.cpu_shares, more.cpu_quota, more.memory_limit_in_bytes), (256, 12_500, 120 << 20));
        let (_, more) = of_sandbox(&Pod::default(), &rules());
        assert_eq!(more, cri::LinuxContainerResources::default());
    }

    #[test]
    fn a_container_without_limits_has_those_of_its_pod() {
        let whole = json!({"resources": {"limits": {"cpu": "1", "memory": "2Gi", "hugepages-2Mi": "2Mi"}}});
        let found = asked(whole, json!({}), &rules());
        assert_eq!((found.cpu_quota, found.memory_limit_in_bytes), (50_000, 2 << 30));
        assert_eq!((found.cpu_shares, found.hugepage_limits[0].limit), (2, 2 << 20));
    }

    #[test]
    fn swap_is_for_burstable_containers_in_proportion() {
        let limited = Rules { unified: true, swap: Swap::Limited(512 << 20), ..rules() };
        let swap = |spec, resources, rules: &Rules| {
            asked(spec, resources, rules).unified.get("memory.swap.max").cloned()
        };
        let burstable = json!({"requests": {"memory": "256Mi"}});
        let quarter = Some((128_i64 << 20).to_string());
        assert_eq!(swap(json!({}), burstable.clone(), &limited), quarter);
        let none = Some("0".to_owned());
        assert_eq!(swap(json!({"priority": 2_000_000_000}), burstable.clone(), &limited), none);
        let whole = json!({"requests": {"memory": "1Mi"}, "limits": {"memory": "1Mi"}});
        assert_eq!(swap(json!({}), whole.clone(), &limited), none);
        assert_eq!(swap(json!({}), json!({}), &limited), none);
        assert_eq!(swap(json!({}), burstable.clone(), &Rules { swap: Swap::None, ..limited.clone() }), none);
        assert_eq!(swap(json!({}), burstable, &Rules { swap: Swap::Unknown, ..limited }), None);
        // Version 1 counts both together.
        let v1 = asked(json!({}), whole, &Rules { swap: Swap::None, ..rules() });
        assert_eq!(v1.memory_swap_limit_in_bytes, 1 << 20);
    }
}
