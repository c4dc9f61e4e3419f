//! Deletes pods from nodes whose `NoExecute` taints they do not tolerate, or no longer.

use crate::common::{self, Key, Room, now};
use crate::pods;
use api::Object;
use api::core::{Node, Taint, Toleration};
use api::slim::Pod;
use api::taints::covers;
use client::{Cache, Change, Client, Error, Next, Queue, Recorder};
use jiff::{SignedDuration, Timestamp};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// When a pod has to leave, if ever: by the taint that is tolerated for the shortest time (`tolerationSeconds`),
/// counted from when it was added, or `noticed` if that is not said. A taint that is not tolerated is at once.
fn plan(tolerations: &[Toleration], taints: &[&Taint], noticed: Timestamp) -> Option<Timestamp> {
    let leaves = taints.iter().filter_map(|taint| {
        // Of several tolerations the first counts.
        let toleration = tolerations.iter().find(|toleration| covers(toleration, taint));
        let Some(toleration) = toleration else { return Some(Timestamp::MIN) };
        let limit_s = toleration.toleration_seconds?;
        let since = taint.time_added.as_ref().map_or(noticed, |time| time.0);
        if limit_s <= 0 {
            Some(Timestamp::MIN)
        } else {
            since.checked_add(SignedDuration::from_secs(limit_s)).ok()
        }
    });
    leaves.min()
}

/// The taints that make pods leave.
fn taints(node: &Node) -> Vec<&Taint> {
    let all = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    all.iter().filter(|taint| taint.effect == "NoExecute").collect()
}

/// The pods that are to leave later, and when that was noticed.
type Leaving = HashMap<Key, (Timestamp, Arc<Pod>)>;

#[derive(Clone)]
struct Evictor {
    client: Client,
    nodes: Cache<Node>,
    pods: Cache<Pod>,
    recorder: Recorder,
    leaving: Arc<Mutex<Leaving>>,
}

pub(crate) fn start(room: &Room) {
    let evictor = Evictor {
        client: room.client.clone(),
        nodes: room.caches.of(),
        pods: room.caches.of(),
        recorder: room.recorder("taint-eviction-controller"),
        leaving: Arc::default(),
    };
    let queue = Queue::new("taint eviction");
    let (changed, own) = (queue.clone(), evictor.clone());
    evictor.pods.on_change(move |change| {
        if own.concerns(change) {
            changed.add(Key::of(&**change.object()));
        }
    });
    let (tainted, all_pods) = (queue.clone(), evictor.pods.clone());
    evictor.nodes.on_change(move |change| {
        let Some(node) = &change.new else { return };
        if change.old.as_ref().map_or_else(Vec::new, |old| taints(old)) == taints(node) {
            return;
        }
        let snapshot = all_pods.snapshot();
        let there = snapshot.iter().filter(|pod| pods::node_name(pod) == node.name());
        there.for_each(|pod| tainted.add(Key::of(&**pod)));
    });
    room.work("taint eviction controller", &queue, 4, move |key| evictor.clone().sync(key));
}

fn tolerations(pod: &Pod) -> &[Toleration] {
    pod.spec.as_ref().and_then(|spec| spec.tolerations.as_deref()).unwrap_or_default()
}

impl Evictor {
    fn leaving(&self) -> MutexGuard<'_, Leaving> {
        self.leaving.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A pod came to a node, tolerates something else, or need not leave any more as it is gone.
    fn concerns(&self, change: &Change<Pod>) -> bool {
        let Some(pod) = &change.new else { return self.leaving().contains_key(&Key::of(&**change.object())) };
        let same = |old: &Arc<Pod>| {
            pods::node_name(old) == pods::node_name(pod) && tolerations(old) == tolerations(pod)
        };
        !pods::node_name(pod).is_empty() && !change.old.as_ref().is_some_and(same)
    }

    async fn sync(self, key: Key) -> Result<Next, Error> {
        self.nodes.synced().await;
        let pod = self.pods.get(&key.namespace, &key.name).filter(|pod| pods::is_active(pod));
        let node = pod.as_ref().and_then(|pod| self.nodes.get("", pods::node_name(pod)));
        let (Some(pod), Some(node)) = (pod, node) else {
            self.stays(&key);
            return Ok(Next::Done);
        };
        let now = now().0;
        let noticed = self.leaving().get(&key).map_or(now, |(noticed, _)| *noticed);
        let Some(leaves) = plan(tolerations(&pod), &taints(&node), noticed) else {
            self.stays(&key);
            return Ok(Next::Done);
        };
        if leaves > now {
            self.leaving().insert(key, (noticed, pod));
            return Ok(Next::After(base::clock::between(now, leaves)));
        }
        self.leaving().remove(&key);
        let message = format!("Marking for deletion Pod {}/{}", key.namespace, key.name);
        self.recorder.normal(&*pod, "TaintManagerEviction", message);
        let why = ("DeletionByTaintManager", "Taint manager: deleting due to NoExecute taint");
        common::disrupt(&self.client, &pod, Some(why), None).await?;
        let deleted = self.client.delete::<Pod>(&key.namespace, &key.name, &Default::default()).await;
        common::unless_gone(deleted).map(|()| Next::Done)
    }

    fn stays(&self, key: &Key) {
        if let Some((_, pod)) = self.leaving().remove(key) {
            let message = format!("Cancelling deletion of Pod {}/{}", key.namespace, key.name);
            self.recorder.normal(&*pod, "TaintManagerEviction", message);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worlds::at;
    use serde_json::json;

    /// `tolerates KEY [SECONDS]` (`*` for every key), `taint KEY [SINCE]`; it is noticed after ten seconds.
    fn told(input: &str) -> String {
        let (mut tolerations, mut taints): (Vec<Toleration>, Vec<Taint>) = Default::default();
        for line in input.lines().filter(|line| !line.starts_with('#')) {
            let words: Vec<_> = line.split(' ').collect();
            let seconds = words.get(2).map(|seconds| seconds.parse::<i64>().unwrap());
            let key = Some(words[1]).filter(|key| *key != "*");
            let told = match words[0] {
                "tolerates" => json!({"key": key, "operator": "Exists", "effect": "NoExecute",
                    "tolerationSeconds": seconds}),
                _ => json!({"key": key, "effect": "NoExecute",
                    "timeAdded": seconds.map(|seconds| at(seconds).to_string())}),
            };
            match words[0] {
                "tolerates" => tolerations.push(serde_json::from_value(told).unwrap()),
                _ => taints.push(serde_json::from_value(told).unwrap()),
            }
        }
        let leaves = plan(&tolerations, &taints.iter().collect::<Vec<_>>(), at(10));
        match leaves {
            None => "stays\n".to_owned(),
            Some(leaves) if leaves == Timestamp::MIN => "leaves at once\n".to_owned(),
            Some(leaves) => format!("leaves at {}\n", leaves.as_second() - at(0).as_second()),
        }
    }

    #[test]
    fn the_shortest_toleration_counts() {
        crate::golden::check("evictions.txt", told);
    }
}
