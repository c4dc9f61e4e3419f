//! Watches over nodes: gives them their pods' addresses, notices when one falls silent, taints it, and
//! lets its pods know.

use crate::common::{Room, now};
use crate::node_ranges::Ranges;
use crate::pods;
use api::Object;
use api::coordination::Lease;
use api::core::{Node, NodeCondition, Taint};
use api::slim::Pod;
use base::clock;
use client::{Cache, Client, Error, Next, Patch, Queue, Recorder};
use serde_json::json;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How long a node may be silent (kube-controller-manager's `--node-monitor-grace-period`).
const GRACE: Duration = Duration::from_secs(40);
const LEASES: &str = "kube-node-lease";
const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
/// Conditions that keep new pods away: type, the status that does, taint.
const PRESSURES: [(&str, &str, &str); 4] = [
    ("MemoryPressure", "True", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "True", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "True", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "True", "node.kubernetes.io/network-unavailable"),
];

/// The last sign of life, and when it was noticed here: clocks of nodes are not compared with ours.
struct Heard {
    sign: String,
    at: clock::Instant,
}

#[derive(Clone)]
struct Nodes {
    client: Client,
    nodes: Cache<Node>,
    leases: Cache<Lease>,
    pods: Cache<Pod>,
    recorder: Recorder,
    heard: Arc<Mutex<HashMap<String, Heard>>>,
    ranges: Arc<Ranges>,
}

pub(crate) fn start(room: &Room, cluster_cidrs: &[String]) {
    let controller = Nodes {
        client: room.client.clone(),
        nodes: room.caches.of(),
        leases: room.caches.selected(LEASES, ""),
        pods: room.caches.of(),
        recorder: room.recorder("node-controller"),
        heard: Arc::default(),
        ranges: Arc::new(Ranges::new(cluster_cidrs)),
    };
    let queue = Queue::new("node");
    let changed = queue.clone();
    let ranges = controller.ranges.clone();
    controller.nodes.on_change(move |change| {
        match &change.new {
            Some(node) => ranges.note(parts_of(node)),
            None => ranges.release(parts_of(change.object())),
        }
        changed.add(change.object().name().to_owned());
    });
    let renewed = queue.clone();
    controller.leases.on_change(move |change| renewed.add(change.object().name().to_owned()));
    room.work("node controller", &queue, 8, move |name| controller.clone().sync(name));
}

impl Nodes {
    async fn sync(self, name: String) -> Result<Next, Error> {
        self.nodes.synced().await;
        self.leases.synced().await;
        self.pods.synced().await;
        let Some(node) = self.nodes.get("", &name) else {
            self.heard.lock().unwrap_or_else(PoisonError::into_inner).remove(&name);
            return Ok(Next::Done);
        };
        let mut node = self.give_range(node).await?;
        let silent_for = self.silence(&node);
        let silent = silent_for >= GRACE;
        if silent && let Some(conditions) = fallen_silent(&node) {
            let mut changed = Node::clone(&node);
            changed.status.get_or_insert_default().conditions = Some(conditions);
            node = Arc::new(self.client.update_status(&changed).await?);
            self.nodes.reached(node.revision()).await;
            self.recorder.normal(&*node, "NodeNotReady", format!("Node {name} status is now: NodeNotReady"));
        }
        if ready(&node) != Some("True") {
            self.mark_pods(&node).await?;
        }
        if let Some(taints) = taints(&node) {
            let patch = json!({"metadata": {"resourceVersion": node.metadata.resource_version}, "spec": {"taints": taints}});
            let node: Node = self.client.patch("", &name, &Patch::Merge(patch)).await?;
            self.nodes.reached(node.revision()).await;
        }
        Ok(if silent { Next::Done } else { Next::After(GRACE - silent_for + Duration::from_millis(10)) })
    }

    async fn give_range(&self, node: Arc<Node>) -> Result<Arc<Node>, Error> {
        if node.spec.as_ref().is_some_and(|spec| spec.pod_cidr.is_some()) || node.is_deleting() {
            return Ok(node);
        }
        let Some(parts) = self.ranges.take() else {
            self.recorder.warning(
                &*node,
                "CIDRNotAvailable",
                format!("Node {} status is now: CIDRNotAvailable", node.name()),
            );
            return Ok(node);
        };
        let patch = Patch::Strategic(json!({"spec": {"podCIDR": parts.first(), "podCIDRs": parts}}));
        let patched = self.client.patch("", node.name(), &patch).await;
        let node: Node = patched.inspect_err(|_| self.ranges.release(&parts))?;
        self.nodes.reached(node.revision()).await;
        Ok(Arc::new(node))
    }

    /// For how long there has been no sign of life: neither a renewed lease nor a reported status.
    fn silence(&self, node: &Node) -> Duration {
        let lease = self.leases.get(LEASES, node.name());
        let renewed = lease.and_then(|lease| lease.spec.as_ref()?.renew_time.clone());
        let reported = condition(node, "Ready").and_then(|ready| ready.last_heartbeat_time.clone());
        let sign = format!("{renewed:?} {reported:?}");
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let now = clock::instant();
        let last = heard.entry(node.name().to_owned()).or_insert_with(|| {
            let name = node.name();
            let message = format!("Node {name} event: Registered Node {name} in Controller");
            self.recorder.normal(node, "RegisteredNode", message);
            Heard { sign: sign.clone(), at: now }
        });
        if last.sign != sign {
            *last = Heard { sign, at: now };
        }
        now - last.at
    }

    /// Pods on a node that is not ready are not ready either: Services must not send to them.
    async fn mark_pods(&self, node: &Node) -> Result<(), Error> {
        let snapshot = self.pods.snapshot();
        for pod in snapshot.iter().filter(|pod| pods::node_name(pod) == node.name() && pods::is_ready(pod)) {
            let condition = json!({"type": "Ready", "status": "False", "lastTransitionTime": now()});
            let patch = Patch::Strategic(json!({"status": {"conditions": [condition]}}));
            match self.client.patch_status::<Pod>(pod.namespace(), pod.name(), &patch).await {
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
                Ok(_) => self.recorder.warning(&**pod, "NodeNotReady", "Node is not ready".to_owned()),
            }
        }
        Ok(())
    }
}

/// The ranges a node has.
fn parts_of(node: &Node) -> &[String] {
    node.spec.as_ref().and_then(|spec| spec.pod_cidrs.as_deref()).unwrap_or_default()
}

fn condition<'a>(node: &'a Node, kind: &str) -> Option<&'a NodeCondition> {
    node.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == kind)
}

fn ready(node: &Node) -> Option<&str> {
    condition(node, "Ready").map(|ready| ready.status.as_str())
}

/// The conditions of a node nobody has heard of; `None` if they say so already.
fn fallen_silent(node: &Node) -> Option<Vec<NodeCondition>> {
    if ready(node) == Some("Unknown") {
        return None;
    }
    let mut conditions =
        node.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    for kind in ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"] {
        let known = conditions.iter_mut().find(|condition| condition.type_ == kind);
        let reported = known.is_some();
        let unknown = NodeCondition {
            type_: kind.to_owned(),
            status: "Unknown".to_owned(),
            reason: Some(if reported { "NodeStatusUnknown" } else { "NodeStatusNeverUpdated" }.to_owned()),
            message: Some(
                if reported {
                    "Kubelet stopped posting node status."
                } else {
                    "Kubelet never posted node status."
                }
                .to_owned(),
            ),
            last_transition_time: Some(now()),
            last_heartbeat_time: known.as_ref().and_then(|known| known.last_heartbeat_time.clone()),
        };
        match known {
            Some(known) if known.status == "Unknown" => {}
            Some(known) => *known = unknown,
            None => conditions.push(unknown),
        }
    }
    Some(conditions)
}

/// The taints a node should have, if they are not the ones it has. A taint that stays keeps the time
/// it was added: tolerations count from there.
fn taints(node: &Node) -> Option<Vec<Taint>> {
    let current = node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
    let mut wanted: Vec<(&str, &str)> = match ready(node) {
        Some("False") => vec![(NOT_READY, "NoSchedule"), (NOT_READY, "NoExecute")],
        Some("Unknown") | None => vec![(UNREACHABLE, "NoSchedule"), (UNREACHABLE, "NoExecute")],
        Some(_) => Vec::new(),
    };
    // A node that has never reported is not ready yet, rather than out of reach.
    if ready(node).is_none() {
        wanted = vec![(NOT_READY, "NoSchedule")];
    }
    let pressed =
        |(kind, bad, _): &&(&str, &str, &str)| condition(node, kind).is_some_and(|it| it.status == *bad);
    wanted.extend(PRESSURES.iter().filter(pressed).map(|(_, _, taint)| (*taint, "NoSchedule")));
    if node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true) {
        wanted.push((UNSCHEDULABLE, "NoSchedule"));
    }
    let ours = |key: &str| {
        [NOT_READY, UNREACHABLE, UNSCHEDULABLE].contains(&key)
            || PRESSURES.iter().any(|(_, _, taint)| *taint == key)
    };
    let kept =
        |taint: &&Taint| !ours(&taint.key) || wanted.contains(&(taint.key.as_str(), taint.effect.as_str()));
    let mut taints: Vec<Taint> = current.iter().filter(kept).cloned().collect();
    for (key, effect) in wanted {
        if !taints.iter().any(|taint| taint.key == key && taint.effect == effect) {
            let time_added = (effect == "NoExecute").then(now);
            taints.push(Taint { key: key.to_owned(), effect: effect.to_owned(), value: None, time_added });
        }
    }
    (taints != current).then_some(taints)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(ready: Option<&str>, extra: &[(&str, &str)], taints: &[(&str, &str)]) -> Node {
        let conditions: Vec<_> =
            ready.map(|status| ("Ready", status)).into_iter().chain(extra.iter().copied()).collect();
        let conditions: Vec<_> =
            conditions.iter().map(|(kind, status)| json!({"type": kind, "status": status})).collect();
        let taints: Vec<_> =
            taints.iter().map(|(key, effect)| json!({"key": key, "effect": effect})).collect();
        serde_json::from_value(json!({"metadata": {"name": "n1"}, "spec": {"taints": taints}, "status": {"conditions": conditions}})).unwrap()
    }

    fn show(node: &Node) -> String {
        let taints = taints(node);
        let line = |taints: Vec<Taint>| {
            taints
                .iter()
                .map(|taint| {
                    format!("{}:{}", taint.key.trim_start_matches("node.kubernetes.io/"), taint.effect)
                })
                .collect::<Vec<_>>()
                .join(" ")
        };
        taints.map_or("as they are".to_owned(), line)
    }

    #[test]
    fn taints_follow_the_conditions_and_leave_others_alone() {
        assert_eq!(show(&node(Some("True"), &[], &[("mine", "NoSchedule")])), "as they are");
        assert_eq!(show(&node(None, &[], &[])), "not-ready:NoSchedule");
        assert_eq!(
            show(&node(
                Some("Unknown"),
                &[("DiskPressure", "True")],
                &[("mine", "NoSchedule"), (NOT_READY, "NoExecute")]
            )),
            "mine:NoSchedule unreachable:NoSchedule unreachable:NoExecute disk-pressure:NoSchedule"
        );
        assert_eq!(
            show(&node(Some("True"), &[], &[(UNREACHABLE, "NoExecute"), ("mine", "NoExecute")])),
            "mine:NoExecute"
        );
    }

    #[test]
    fn a_silent_node_is_unknown_once() {
        let mut silent = node(Some("True"), &[("NetworkUnavailable", "False")], &[]);
        let conditions = fallen_silent(&silent).unwrap();
        let said: Vec<_> = conditions.iter().map(|it| format!("{}={}", it.type_, it.status)).collect();
        assert_eq!(
            said,
            [
                "Ready=Unknown",
                "NetworkUnavailable=False",
                "MemoryPressure=Unknown",
                "DiskPressure=Unknown",
                "PIDPressure=Unknown"
            ]
        );
        silent.status.as_mut().unwrap().conditions = Some(conditions);
        assert!(fallen_silent(&silent).is_none());
    }
}
