//! Removes pods that no kubelet will ever finish: those of nodes that are gone or out of service, and those that
//! were deleted before they had a node; and the oldest of those that have ended, when they are too many.

use crate::common::{self, Key, Room, created};
use crate::node_taints::{is_out_of_service, is_ready};
use crate::pods;
use api::Object;
use api::core::Node;
use api::meta::DeleteOptions;
use api::slim::Pod;
use client::{Cache, Client, Error, Next, Queue};
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// A node that vanished may be back soon: its pods are given this long.
const QUARANTINE: Duration = Duration::from_secs(40);
/// So many pods may have ended (kube-controller-manager's `--terminated-pod-gc-threshold`).
const ENDED: usize = 12_500;
/// Those that end together are counted together.
const TOGETHER: Duration = Duration::from_secs(20);

/// Why a pod has to be removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lost {
    /// It was deleted before it had a node.
    Unscheduled,
    /// Its node is gone.
    Orphaned,
    /// It is being deleted, and a person says that its node is out of service.
    OutOfService,
}

fn lost(pod: &Pod, node: impl FnOnce(&str) -> Option<Arc<Node>>) -> Option<Lost> {
    match pods::node_name(pod) {
        "" => pod.is_deleting().then_some(Lost::Unscheduled),
        name => match node(name) {
            None => Some(Lost::Orphaned),
            Some(node) => (pod.is_deleting() && is_lost(&node)).then_some(Lost::OutOfService),
        },
    }
}

fn is_lost(node: &Node) -> bool {
    !is_ready(node) && is_out_of_service(node)
}

/// Those of the pods that have ended which are too many: evicted ones first, then the oldest.
fn too_many(mut ended: Vec<Arc<Pod>>, most: usize) -> Vec<Arc<Pod>> {
    let excess = ended.len().saturating_sub(most);
    let evicted =
        |pod: &Pod| pod.status.as_ref().and_then(|status| status.reason.as_deref()) == Some("Evicted");
    ended.sort_by_key(|pod| (!evicted(pod), created(&pod.metadata), pod.name().to_owned()));
    ended.truncate(excess);
    ended
}

/// What is looked at.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Work {
    Pod(Key),
    Ended,
}

#[derive(Clone)]
struct Collector {
    client: Client,
    nodes: Cache<Node>,
    pods: Cache<Pod>,
    /// How many pods have ended.
    ended: Arc<AtomicUsize>,
    /// When a pod was first seen without its node.
    missing: Arc<Mutex<HashMap<Key, base::clock::Instant>>>,
}

pub(crate) fn start(room: &Room) {
    let collector = Collector {
        client: room.client.clone(),
        nodes: room.caches.of(),
        pods: room.caches.of(),
        ended: Arc::default(),
        missing: Arc::default(),
    };
    let queue = Queue::new("pod garbage");
    let (seen, own) = (queue.clone(), collector.clone());
    collector.pods.on_change(move |change| {
        own.count(change.old.as_deref(), change.new.as_deref(), &seen);
        if change.new.as_ref().is_some_and(|pod| lost(pod, |name| own.nodes.get("", name)).is_some()) {
            seen.add(Work::Pod(Key::of(&**change.object())));
        }
    });
    let (left, all_pods) = (queue.clone(), collector.pods.clone());
    collector.nodes.on_change(move |change| {
        let matters = change.new.as_ref().is_none_or(|node| is_lost(node));
        if matters {
            let snapshot = all_pods.snapshot();
            let there = snapshot.iter().filter(|pod| pods::node_name(pod) == change.object().name());
            there.for_each(|pod| left.add(Work::Pod(Key::of(&**pod))));
        }
    });
    let missing = collector.missing.clone();
    room.forget_afterwards("pods without a node", move || {
        missing.lock().unwrap_or_else(PoisonError::into_inner).clear();
    });
    room.work("pod garbage collector", &queue, 2, move |work| collector.clone().sync(work));
}

impl Collector {
    fn count(&self, old: Option<&Pod>, new: Option<&Pod>, queue: &Queue<Work>) {
        match (old.is_some_and(pods::is_finished), new.is_some_and(pods::is_finished)) {
            (false, true) if self.ended.fetch_add(1, Ordering::Relaxed) >= ENDED => {
                queue.add_after(Work::Ended, TOGETHER);
            }
            (true, false) => drop(self.ended.fetch_sub(1, Ordering::Relaxed)),
            _ => {}
        }
    }

    async fn sync(self, work: Work) -> Result<Next, Error> {
        self.nodes.synced().await;
        match work {
            Work::Pod(key) => self.look(key).await,
            Work::Ended => {
                let snapshot = self.pods.snapshot();
                let ended = snapshot.iter().filter(|pod| pods::is_finished(pod)).cloned();
                for pod in too_many(ended.collect(), ENDED) {
                    self.remove(&pod, None).await?;
                }
                Ok(Next::Done)
            }
        }
    }

    async fn look(&self, key: Key) -> Result<Next, Error> {
        let missing = || self.missing.lock().unwrap_or_else(PoisonError::into_inner);
        let pod = self.pods.get(&key.namespace, &key.name);
        let lost = pod.as_ref().and_then(|pod| lost(pod, |name| self.nodes.get("", name)));
        let (Some(pod), Some(lost)) = (pod, lost) else {
            missing().remove(&key);
            return Ok(Next::Done);
        };
        let mut why = None;
        if lost == Lost::Orphaned {
            let since = *missing().entry(key.clone()).or_insert_with(base::clock::instant);
            if since.elapsed() < QUARANTINE {
                return Ok(Next::After(QUARANTINE - since.elapsed()));
            }
            // The cache may lag behind a node that is back.
            match self.client.get::<Node>("", pods::node_name(&pod)).await {
                Ok(_) => return Ok(Next::Done),
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
            why = Some(("DeletionByPodGC", "PodGC: node no longer exists"));
        }
        self.remove(&pod, why).await?;
        missing().remove(&key);
        Ok(Next::Done)
    }

    async fn remove(&self, pod: &Pod, why: Option<(&str, &str)>) -> Result<(), Error> {
        if !pods::is_finished(pod) {
            common::disrupt(&self.client, pod, why, Some("Failed")).await?;
        }
        let at_once = DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::default() };
        common::unless_gone(self.client.delete::<Pod>(pod.namespace(), pod.name(), &at_once).await)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node_taints::OUT_OF_SERVICE;
    use serde_json::json;

    #[test]
    fn pods_are_lost_with_their_nodes() {
        let pod = |node: &str, deleting: bool| -> Pod {
            let deleted = deleting.then_some("2026-01-01T00:00:00Z");
            serde_json::from_value(
                json!({"metadata": {"name": "p", "deletionTimestamp": deleted}, "spec": {"nodeName": node}}),
            )
            .unwrap()
        };
        let node = |name: &str| -> Option<Arc<Node>> {
            let status = if name.starts_with("ready") { "True" } else { "Unknown" };
            let taints = if name.ends_with("out") {
                json!([{"key": OUT_OF_SERVICE, "effect": "NoExecute"}])
            } else {
                json!([])
            };
            let node = json!({"spec": {"taints": taints}, "status": {"conditions": [{"type": "Ready", "status": status}]}});
            (name != "gone").then(|| Arc::new(serde_json::from_value(node).unwrap()))
        };
        for (name, deleting, expected) in [
            ("", true, Some(Lost::Unscheduled)),
            ("", false, None),
            ("gone", false, Some(Lost::Orphaned)),
            ("down", true, None),
            ("down out", true, Some(Lost::OutOfService)),
            ("down out", false, None),
            ("ready out", true, None),
        ] {
            assert_eq!(lost(&pod(name, deleting), node), expected, "{name:?} {deleting}");
        }
    }

    #[test]
    fn evicted_pods_and_the_oldest_go_first() {
        let pod = |name: &str, minute: u32, reason: &str| {
            let created = format!("2026-01-01T00:{minute:02}:00Z");
            let pod = json!({"metadata": {"name": name, "creationTimestamp": created}, "status": {"reason": reason}});
            Arc::new(serde_json::from_value::<Pod>(pod).unwrap())
        };
        let ended = vec![pod("b", 1, ""), pod("a", 1, ""), pod("late", 9, ""), pod("evicted", 9, "Evicted")];
        let names = |most: usize| {
            too_many(ended.clone(), most)
                .iter()
                .map(|pod| pod.name().to_owned())
                .collect::<Vec<_>>()
                .join(" ")
        };
        assert_eq!([names(1), names(3), names(9)], ["evicted a b", "evicted", ""]);
    }
}
