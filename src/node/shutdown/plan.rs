//! In which order pods end when the machine is shut down, and how long each may take. Pure.

use crate::pods::spec;
use crate::settings::{GraceOfPriority, KubeletConfiguration};
use api::core::Pod;
use std::sync::Arc;

/// Pods of this priority and above are the cluster's own (`system-cluster-critical`).
const CRITICAL: i64 = 2_000_000_000;

/// The graces by priority, the lowest first; none where pods end with the machine.
pub(crate) fn graces(kubelet: &KubeletConfiguration) -> Vec<GraceOfPriority> {
    let mut graces = kubelet.shutdown_grace_period_by_pod_priority.clone();
    let all = kubelet.shutdown_grace_period.as_secs();
    let critical = kubelet.shutdown_grace_period_critical_pods.as_secs();
    if graces.is_empty() && all > 0 {
        let grace = |priority, shutdown_grace_period_seconds| GraceOfPriority {
            priority,
            shutdown_grace_period_seconds,
        };
        graces = vec![grace(0, all - critical), grace(CRITICAL, critical)];
    }
    graces.sort_by_key(|grace| grace.priority);
    graces
}

/// How long everything may take.
pub(crate) fn total_s(graces: &[GraceOfPriority]) -> i64 {
    graces.iter().map(|grace| grace.shutdown_grace_period_seconds).sum()
}

/// Pods that end together, and how long they may take.
#[derive(Clone, Debug)]
pub(crate) struct Group {
    pub(crate) grace_s: i64,
    pub(crate) pods: Vec<Arc<Pod>>,
}

/// Groups that have pods, in their order. A pod belongs to the highest priority that is not above its own; one that is
/// below all belongs to the lowest.
pub(crate) fn groups(graces: &[GraceOfPriority], pods: Vec<Arc<Pod>>) -> Vec<Group> {
    let mut groups: Vec<Group> = graces
        .iter()
        .map(|it| Group { grace_s: it.shutdown_grace_period_seconds, pods: Vec::new() })
        .collect();
    for pod in pods {
        let priority = i64::from(spec::spec(&pod).priority.unwrap_or(0));
        let at = graces.iter().rposition(|grace| grace.priority <= priority).unwrap_or(0);
        if let Some(group) = groups.get_mut(at) {
            group.pods.push(pod);
        }
    }
    groups.retain(|group| !group.pods.is_empty());
    groups
}

/// What a pod of a group gets: what it asks for, if that is less.
pub(crate) fn grace_s(group: &Group, pod: &Pod) -> i64 {
    let own = spec::spec(pod).termination_grace_period_seconds;
    own.map_or(group.grace_s, |own| own.min(group.grace_s))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::GoDuration;
    use api::Object;
    use serde_json::json;

    fn pod(name: &str, priority: i64, grace_s: i64) -> Arc<Pod> {
        let spec = json!({"priority": priority, "terminationGracePeriodSeconds": grace_s, "containers": []});
        Arc::new(serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec})).unwrap())
    }

    fn planned(kubelet: &KubeletConfiguration) -> Vec<(i64, Vec<(String, i64)>)> {
        let pods = vec![
            pod("critical", CRITICAL, 60),
            pod("plain", 0, 60),
            pod("hasty", 5, 1),
            pod("lowest", -7, 60),
            pod("high", 1000, 60),
        ];
        let groups = groups(&graces(kubelet), pods);
        let of = |group: &Group| {
            let pods = group.pods.iter().map(|pod| (pod.name().to_owned(), grace_s(group, pod)));
            (group.grace_s, pods.collect())
        };
        groups.iter().map(of).collect()
    }

    fn named(all: &[(&str, i64)]) -> Vec<(String, i64)> {
        all.iter().map(|(name, grace_s)| ((*name).to_owned(), *grace_s)).collect()
    }

    #[test]
    fn critical_pods_end_last_with_their_part_of_the_time() {
        let kubelet = KubeletConfiguration {
            shutdown_grace_period: GoDuration::secs(30),
            shutdown_grace_period_critical_pods: GoDuration::secs(10),
            ..Default::default()
        };
        let first = named(&[("plain", 20), ("hasty", 1), ("lowest", 20), ("high", 20)]);
        assert_eq!(planned(&kubelet), [(20, first), (10, named(&[("critical", 10)]))]);
        assert_eq!(total_s(&graces(&kubelet)), 30);
    }

    #[test]
    fn priorities_have_graces_of_their_own() {
        let grace = |priority, shutdown_grace_period_seconds| GraceOfPriority {
            priority,
            shutdown_grace_period_seconds,
        };
        let kubelet = KubeletConfiguration {
            shutdown_grace_period_by_pod_priority: vec![grace(1000, 5), grace(0, 15), grace(50_000, 2)],
            ..Default::default()
        };
        let first = named(&[("plain", 15), ("hasty", 1), ("lowest", 15)]);
        assert_eq!(
            planned(&kubelet),
            [(15, first), (5, named(&[("high", 5)])), (2, named(&[("critical", 2)]))]
        );
        assert!(graces(&KubeletConfiguration::default()).is_empty());
    }
}
