//! What a node's conditions make of its taints and its labels, and what becomes of its conditions when it falls
//! silent.

use crate::common::now;
use api::Object;
use api::core::{Node, NodeCondition, Taint};
use std::collections::BTreeMap;

pub(crate) const NOT_READY: &str = "node.kubernetes.io/not-ready";
pub(crate) const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
pub(crate) const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
/// Conditions that keep new pods away: type, the status that does, taint.
const KEEP_AWAY: [(&str, &str, &str); 6] = [
    ("Ready", "False", NOT_READY),
    ("Ready", "Unknown", UNREACHABLE),
    ("MemoryPressure", "True", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "True", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "True", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "True", "node.kubernetes.io/network-unavailable"),
];
/// Labels of old, and those that they repeat.
const OLD_LABELS: [(&str, &str); 2] =
    [("beta.kubernetes.io/os", "kubernetes.io/os"), ("beta.kubernetes.io/arch", "kubernetes.io/arch")];

pub(crate) fn condition<'a>(node: &'a Node, kind: &str) -> Option<&'a NodeCondition> {
    node.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == kind)
}

pub(crate) fn ready(node: &Node) -> Option<&str> {
    condition(node, "Ready").map(|ready| ready.status.as_str())
}

pub(crate) fn is_ready(node: &Node) -> bool {
    ready(node) == Some("True")
}

/// An administrator says that it will not come back with its pods (`node.kubernetes.io/out-of-service`).
pub(crate) fn is_out_of_service(node: &Node) -> bool {
    let mut taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    taints.any(|taint| taint.key == OUT_OF_SERVICE)
}

/// The taint that makes pods leave, by the state that the node is in.
pub(crate) fn leaving(node: &Node) -> Option<&'static str> {
    match ready(node)? {
        "False" => Some(NOT_READY),
        "Unknown" => Some(UNREACHABLE),
        _ => None,
    }
}

pub(crate) fn has_taint(node: &Node, key: &str, effect: &str) -> bool {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    taints.iter().any(|taint| taint.key == key && taint.effect == effect)
}

/// The node's pods are made to leave already, be it for another reason.
pub(crate) fn is_leaving(node: &Node) -> bool {
    [NOT_READY, UNREACHABLE].iter().any(|key| has_taint(node, key, "NoExecute"))
}

/// The conditions of a node nobody has heard of; `None` if they say so already.
pub(crate) fn fallen_silent(node: &Node) -> Option<Vec<NodeCondition>> {
    if ready(node) == Some("Unknown") {
        return None;
    }
    let mut conditions =
        node.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    for kind in ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"] {
        let known = conditions.iter_mut().find(|condition| condition.type_ == kind);
        let (reason, message) = match known {
            Some(_) => ("NodeStatusUnknown", "Kubelet stopped posting node status."),
            None => ("NodeStatusNeverUpdated", "Kubelet never posted node status."),
        };
        let heard =
            known.as_ref().map_or(&node.metadata.creation_timestamp, |known| &known.last_heartbeat_time);
        let unknown = NodeCondition {
            type_: kind.to_owned(),
            status: "Unknown".to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            last_transition_time: Some(now()),
            last_heartbeat_time: heard.clone(),
        };
        match known {
            Some(known) if known.status == "Unknown" => {}
            Some(known) => *known = unknown,
            None => conditions.push(unknown),
        }
    }
    Some(conditions)
}

/// The taints a node should have, if they are not the ones it has: those by its conditions, and `leaving` to
/// make its pods leave. A taint that stays keeps the time it was added: tolerations count from there.
pub(crate) fn taints(node: &Node, leaving: Option<&str>) -> Option<Vec<Taint>> {
    let current = node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
    let holds = |(kind, status, _): &&(&str, &str, &str)| {
        condition(node, kind).is_some_and(|it| it.status == *status)
    };
    let mut wanted: Vec<_> =
        KEEP_AWAY.iter().filter(holds).map(|(_, _, taint)| (*taint, "NoSchedule")).collect();
    if node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true) {
        wanted.push((UNSCHEDULABLE, "NoSchedule"));
    }
    wanted.extend(leaving.map(|key| (key, "NoExecute")));
    let ours = |taint: &Taint| match taint.effect.as_str() {
        "NoSchedule" => taint.key == UNSCHEDULABLE || KEEP_AWAY.iter().any(|(_, _, key)| *key == taint.key),
        "NoExecute" => [NOT_READY, UNREACHABLE].contains(&taint.key.as_str()),
        _ => false,
    };
    let kept = |taint: &&Taint| !ours(taint) || wanted.contains(&(taint.key.as_str(), taint.effect.as_str()));
    let mut taints: Vec<Taint> = current.iter().filter(kept).cloned().collect();
    for (key, effect) in wanted {
        if !taints.iter().any(|taint| taint.key == key && taint.effect == effect) {
            let (key, effect) = (key.to_owned(), effect.to_owned());
            taints.push(Taint { key, effect, value: None, time_added: Some(now()) });
        }
    }
    (taints != current).then_some(taints)
}

/// The old labels that a node lacks.
pub(crate) fn labels(node: &Node) -> BTreeMap<&'static str, String> {
    let wanted =
        OLD_LABELS.iter().filter_map(|(old, label)| Some((*old, node.labels().get(*label)?.clone())));
    wanted.filter(|(old, value)| node.labels().get(*old) != Some(value)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn node(conditions: &[(&str, &str)], taints: &[(&str, &str)]) -> Node {
        let conditions: Vec<_> =
            conditions.iter().map(|(kind, status)| json!({"type": kind, "status": status})).collect();
        let taints: Vec<_> =
            taints.iter().map(|(key, effect)| json!({"key": key, "effect": effect})).collect();
        serde_json::from_value(json!({"metadata": {"name": "n1"}, "spec": {"taints": taints}, "status": {"conditions": conditions}})).unwrap()
    }

    /// `condition=status` and `taint:effect` of a node, `cordoned`, and `leave:taint` for whose sake pods have to go.
    fn shown(line: &str) -> String {
        const PREFIX: &str = "node.kubernetes.io/";
        let pairs = |by: char| line.split(' ').filter_map(|word| word.split_once(by)).collect::<Vec<_>>();
        let key = |name: &str| if name == "mine" { name.to_owned() } else { format!("{PREFIX}{name}") };
        let (leaving, taints): (Vec<_>, Vec<_>) =
            pairs(':').into_iter().partition(|(word, _)| *word == "leave");
        let taints: Vec<_> = taints.iter().map(|(name, effect)| (key(name), *effect)).collect();
        let taints: Vec<_> = taints.iter().map(|(name, effect)| (name.as_str(), *effect)).collect();
        let mut node = node(&pairs('='), &taints);
        node.spec.get_or_insert_default().unschedulable = Some(line.contains("cordoned"));
        let leaving = leaving.first().map(|(_, name)| key(name));
        let text = |taint: &Taint| format!("{}:{}", taint.key.trim_start_matches(PREFIX), taint.effect);
        let after = super::taints(&node, leaving.as_deref());
        after.map_or("as they are".to_owned(), |all| all.iter().map(text).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn taints_follow_the_conditions_and_leave_others_alone() {
        crate::golden::check("node_taints.txt", |input| {
            let lines = input.lines().filter(|line| !line.starts_with('#'));
            lines.map(|line| format!("{}\n", shown(line))).collect()
        });
    }

    #[test]
    fn a_silent_node_is_unknown_once() {
        let mut silent = node(&[("Ready", "True"), ("NetworkUnavailable", "False")], &[]);
        let conditions = fallen_silent(&silent).unwrap();
        let said: Vec<_> = conditions
            .iter()
            .map(|it| format!("{}={} {}", it.type_, it.status, it.reason.as_deref().unwrap_or_default()))
            .collect();
        assert_eq!(
            said,
            [
                "Ready=Unknown NodeStatusUnknown",
                "NetworkUnavailable=False ",
                "MemoryPressure=Unknown NodeStatusNeverUpdated",
                "DiskPressure=Unknown NodeStatusNeverUpdated",
                "PIDPressure=Unknown NodeStatusNeverUpdated"
            ]
        );
        silent.status.as_mut().unwrap().conditions = Some(conditions);
        assert!(fallen_silent(&silent).is_none());
    }

    #[test]
    fn old_labels_repeat_the_new_ones() {
        let mut node = node(&[], &[]);
        let has = [
            ("kubernetes.io/os", "linux"),
            ("beta.kubernetes.io/os", "minix"),
            ("beta.kubernetes.io/arch", "vax"),
        ];
        node.metadata.labels = Some(has.map(|(key, value)| (key.to_owned(), value.to_owned())).into());
        assert_eq!(
            labels(&node).into_iter().collect::<Vec<_>>(),
            [("beta.kubernetes.io/os", "linux".to_owned())]
        );
    }
}
