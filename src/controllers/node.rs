//! Watches over nodes: gives them their pods' addresses, notices when one falls silent, taints it, and
//! lets its pods know.

use crate::common::{Room, now};
use crate::node_ranges::Ranges;
use crate::node_taints::{self as taints, condition, fallen_silent, is_ready, ready};
use crate::node_zones::{Seen, Shift, Zones};
use crate::pods;
use api::Object;
use api::coordination::Lease;
use api::core::Node;
use api::slim::Pod;
use base::clock;
use client::{Cache, Client, Error, Next, Patch, Queue, Recorder};
use serde_json::json;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long a node may be silent (kube-controller-manager's `--node-monitor-grace-period`), and one that has
/// said nothing yet (`--node-startup-grace-period`).
const GRACE: Duration = Duration::from_secs(50);
const STARTUP_GRACE: Duration = Duration::from_secs(60);
/// What waiting is longer, so that what is waited for has come.
const MARGIN: Duration = Duration::from_millis(10);
const LEASES: &str = "kube-node-lease";

/// The last sign of life, and when it was noticed here: clocks of nodes are not compared with ours.
struct Heard {
    sign: String,
    at: clock::Instant,
    /// Its pods may still say that they are ready.
    unmarked: bool,
}

#[derive(Clone)]
struct Nodes {
    client: Client,
    nodes: Cache<Node>,
    leases: Cache<Lease>,
    pods: Cache<Pod>,
    recorder: Recorder,
    heard: Arc<Mutex<HashMap<String, Heard>>>,
    zones: Arc<Mutex<Zones>>,
    ranges: Arc<Ranges>,
    queue: Queue<String>,
}

pub(crate) fn start(room: &Room, cluster_cidrs: &[String]) {
    let queue = Queue::new("node");
    let controller = Nodes {
        client: room.client.clone(),
        nodes: room.caches.of(),
        leases: room.caches.selected(LEASES, ""),
        pods: room.caches.of(),
        recorder: room.recorder("node-controller"),
        heard: Arc::default(),
        zones: Arc::default(),
        ranges: Arc::new(Ranges::new(cluster_cidrs)),
        queue: queue.clone(),
    };
    let (changed, own) = (queue.clone(), controller.clone());
    controller.nodes.on_change(move |change| {
        let node = change.object();
        match &change.new {
            Some(node) => own.ranges.note(parts_of(node)),
            None => own.gone(node),
        }
        changed.add(node.name().to_owned());
    });
    let renewed = queue.clone();
    controller.leases.on_change(move |change| renewed.add(change.object().name().to_owned()));
    room.work("node controller", &queue, 8, move |name| controller.clone().sync(name));
}

impl Nodes {
    fn heard(&self) -> MutexGuard<'_, HashMap<String, Heard>> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn zones(&self) -> MutexGuard<'_, Zones> {
        self.zones.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn gone(&self, node: &Node) {
        self.ranges.release(parts_of(node));
        let name = node.name();
        let message = format!("Node {name} event: Removing Node {name} from Controller");
        self.recorder.normal(node, "RemovingNode", message);
        self.heard().remove(name);
    }

    async fn sync(self, name: String) -> Result<Next, Error> {
        self.nodes.synced().await;
        self.leases.synced().await;
        self.pods.synced().await;
        let Some(node) = self.nodes.get("", &name) else {
            self.observe(&name, None);
            return Ok(Next::Done);
        };
        let mut node = self.give_range(node).await?;
        let grace = if ready(&node).is_none() { STARTUP_GRACE } else { GRACE };
        let silent_for = self.silence(&node);
        if silent_for >= grace
            && let Some(conditions) = fallen_silent(&node)
        {
            let was_ready = is_ready(&node);
            let mut changed = Node::clone(&node);
            changed.status.get_or_insert_default().conditions = Some(conditions);
            node = Arc::new(self.client.update_status(&changed).await?);
            self.nodes.reached(node.revision()).await;
            if was_ready {
                let message = format!("Node {name} status is now: NodeNotReady");
                self.recorder.normal(&*node, "NodeNotReady", message);
                self.heard().entry(name.clone()).and_modify(|heard| heard.unmarked = true);
            }
        }
        if ready(&node) == Some("Unknown") {
            self.mark_pods(&node).await?;
        }
        self.observe(&name, Some(Seen::of(&node)));
        let turn = self.taint(&node).await?;
        let silence = (silent_for < grace).then(|| grace - silent_for);
        Ok(turn.into_iter().chain(silence).min().map_or(Next::Done, |wait| Next::After(wait + MARGIN)))
    }

    /// Looks at all nodes again when what the others are in changes what becomes of each.
    fn observe(&self, name: &str, seen: Option<Seen>) {
        let (shift, names) = {
            let mut zones = self.zones();
            (zones.observe(name, seen, clock::instant()), zones.names())
        };
        if shift == Shift::Nothing {
            return;
        }
        if shift == Shift::BackUp {
            let now = clock::instant();
            self.heard().values_mut().for_each(|heard| heard.at = now);
        }
        names.into_iter().for_each(|name| self.queue.add(name));
    }

    /// Gives the node its taints and labels; says how long until its pods may be made to leave, if that waits.
    async fn taint(&self, node: &Node) -> Result<Option<Duration>, Error> {
        let (leaving, turn) = {
            let mut zones = self.zones();
            let leaving = taints::leaving(node).filter(|_| !zones.all_down());
            let waits = leaving.is_some() && !taints::is_leaving(node);
            let turn = if waits { zones.turn(node.name(), clock::instant()) } else { Some(Duration::ZERO) };
            (leaving.filter(|_| turn == Some(Duration::ZERO)), turn.filter(|turn| !turn.is_zero()))
        };
        let mut patch = json!({"metadata": {"resourceVersion": node.metadata.resource_version}});
        let (taints, labels) = (taints::taints(node, leaving), taints::labels(node));
        if taints.is_none() && labels.is_empty() {
            return Ok(turn);
        }
        patch["metadata"]["labels"] = json!(labels);
        if let Some(taints) = taints {
            patch["spec"] = json!({"taints": taints});
        }
        let node: Node = self.client.patch("", node.name(), &Patch::Merge(patch)).await?;
        self.nodes.reached(node.revision()).await;
        Ok(turn)
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
        let now = clock::instant();
        let mut heard = self.heard();
        let last = heard.entry(node.name().to_owned()).or_insert_with(|| {
            let name = node.name();
            let message = format!("Node {name} event: Registered Node {name} in Controller");
            self.recorder.normal(node, "RegisteredNode", message);
            Heard { sign: sign.clone(), at: now, unmarked: true }
        });
        if last.sign != sign {
            (last.sign, last.at) = (sign, now);
        }
        now - last.at
    }

    /// Pods on a node that nobody hears of are not ready either: Services must not send to them.
    async fn mark_pods(&self, node: &Node) -> Result<(), Error> {
        if !self.heard().get(node.name()).is_some_and(|heard| heard.unmarked) {
            return Ok(());
        }
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
        self.heard().entry(node.name().to_owned()).and_modify(|heard| heard.unmarked = false);
        Ok(())
    }
}

/// The ranges a node has.
fn parts_of(node: &Node) -> &[String] {
    node.spec.as_ref().and_then(|spec| spec.pod_cidrs.as_deref()).unwrap_or_default()
}
