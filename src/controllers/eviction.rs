//! Deletes pods from nodes whose `NoExecute` taints they do not tolerate, or no longer.

use crate::common::{self, Key, Room, now, seconds_between};
use crate::pods;
use api::Object;
use api::core::{Node, Taint, Toleration};
use api::slim::Pod;
use api::taints::covers;
use client::{Cache, Client, Error, Next, Queue, Recorder};
use jiff::Timestamp;
use std::time::Duration;

/// When a pod has to leave.
#[derive(Debug, PartialEq, Eq)]
enum Leave {
    Never,
    Now,
    In(u64),
}

/// By the taint that is tolerated for the shortest time (`tolerationSeconds`).
fn plan(tolerations: &[Toleration], taints: &[Taint], now: Timestamp) -> Leave {
    let mut soonest = Leave::Never;
    for taint in taints.iter().filter(|taint| taint.effect == "NoExecute") {
        let covering: Vec<_> = tolerations.iter().filter(|toleration| covers(toleration, taint)).collect();
        if covering.is_empty() {
            return Leave::Now;
        }
        let Some(limit_s) = covering.iter().filter_map(|toleration| toleration.toleration_seconds).min()
        else {
            continue;
        };
        let since = taint.time_added.as_ref().map_or(now, |time| time.0);
        let left_s = u64::try_from(limit_s - seconds_between(since, now)).unwrap_or(0);
        soonest = match soonest {
            Leave::In(other) => Leave::In(other.min(left_s)),
            _ => Leave::In(left_s),
        };
    }
    if soonest == Leave::In(0) { Leave::Now } else { soonest }
}

#[derive(Clone)]
struct Evictor {
    client: Client,
    nodes: Cache<Node>,
    pods: Cache<Pod>,
    recorder: Recorder,
}

pub(crate) fn start(room: &Room) {
    let evictor = Evictor {
        client: room.client.clone(),
        nodes: room.caches.of(),
        pods: room.caches.of(),
        recorder: room.recorder("taint-eviction-controller"),
    };
    let queue = Queue::new("taint eviction");
    let bound = queue.clone();
    evictor.pods.on_change(move |change| {
        let was_bound = change.old.as_ref().is_some_and(|pod| !pods::node_name(pod).is_empty());
        if let Some(pod) = change.new.as_ref().filter(|pod| !was_bound && !pods::node_name(pod).is_empty()) {
            bound.add(Key::of(&**pod));
        }
    });
    let (tainted, all_pods) = (queue.clone(), evictor.pods.clone());
    evictor.nodes.on_change(move |change| {
        let (Some(node), old) = (&change.new, &change.old) else { return };
        if old.as_ref().map(|old| taints(old)) == Some(taints(node)) || taints(node).is_empty() {
            return;
        }
        let snapshot = all_pods.snapshot();
        let there = snapshot.iter().filter(|pod| pods::node_name(pod) == node.name());
        there.for_each(|pod| tainted.add(Key::of(&**pod)));
    });
    room.work("taint eviction controller", &queue, 4, move |key| evictor.clone().sync(key));
}

fn taints(node: &Node) -> &[Taint] {
    node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default()
}

impl Evictor {
    async fn sync(self, key: Key) -> Result<Next, Error> {
        self.nodes.synced().await;
        let Some(pod) = self.pods.get(&key.namespace, &key.name).filter(|pod| pods::is_active(pod)) else {
            return Ok(Next::Done);
        };
        let Some(node) = self.nodes.get("", pods::node_name(&pod)) else { return Ok(Next::Done) };
        let tolerations = pod.spec.as_ref().and_then(|spec| spec.tolerations.as_deref()).unwrap_or_default();
        match plan(tolerations, taints(&node), now().0) {
            Leave::Never => return Ok(Next::Done),
            Leave::In(seconds) => return Ok(Next::After(Duration::from_secs(seconds))),
            Leave::Now => {}
        }
        let message = format!("Marking for deletion Pod {}/{}", key.namespace, key.name);
        self.recorder.normal(&*pod, "TaintManagerEviction", message);
        let reason = "Taint manager: deleting due to NoExecute taint";
        common::disrupt(&self.client, &pod, "DeletionByTaintManager", reason, None).await?;
        let deleted = self.client.delete::<Pod>(&key.namespace, &key.name, &Default::default()).await;
        common::unless_gone(deleted).map(|()| Next::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_shortest_toleration_counts() {
        let at = |seconds: i64| Timestamp::from_second(1_000 + seconds).unwrap();
        let taint = |key: &str| -> Taint {
            serde_json::from_value(json!({"key": key, "effect": "NoExecute", "timeAdded": at(0).to_string()}))
                .unwrap()
        };
        let tolerate = |key: &str, seconds: Option<i64>| -> Toleration {
            serde_json::from_value(json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds})).unwrap()
        };
        let tolerations = [tolerate("a", Some(300)), tolerate("b", Some(60)), tolerate("c", None)];
        assert_eq!(plan(&tolerations, &[taint("a"), taint("b")], at(10)), Leave::In(50));
        assert_eq!(plan(&tolerations, &[taint("c")], at(10)), Leave::Never);
        assert_eq!(plan(&tolerations, &[taint("d"), taint("c")], at(10)), Leave::Now);
        assert_eq!(plan(&tolerations, &[taint("b")], at(60)), Leave::Now);
    }
}
