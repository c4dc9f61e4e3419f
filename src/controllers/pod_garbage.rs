//! Removes pods that no kubelet will ever finish: those of nodes that are gone, and those that were
//! deleted before they had a node.

use crate::common::{self, Key, Room};
use crate::pods;
use api::Object;
use api::core::Node;
use api::meta::DeleteOptions;
use api::slim::Pod;
use client::{Cache, Client, Error, Next, Queue};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// A node that vanished may be back soon: its pods are given this long.
const QUARANTINE: Duration = Duration::from_secs(40);

#[derive(Clone)]
struct Collector {
    client: Client,
    nodes: Cache<Node>,
    pods: Cache<Pod>,
    /// When a pod was first seen without its node.
    missing: Arc<Mutex<HashMap<Key, base::clock::Instant>>>,
}

pub(crate) fn start(room: &Room) {
    let collector = Collector {
        client: room.client.clone(),
        nodes: room.caches.of(),
        pods: room.caches.of(),
        missing: Arc::default(),
    };
    let queue = Queue::new("pod garbage");
    let (seen, nodes) = (queue.clone(), collector.nodes.clone());
    collector.pods.on_change(move |change| {
        let Some(pod) = &change.new else { return };
        let node = pods::node_name(pod);
        let lost = if node.is_empty() { pod.is_deleting() } else { nodes.get("", node).is_none() };
        if lost {
            seen.add(Key::of(&**pod));
        }
    });
    let (vanished, all_pods) = (queue.clone(), collector.pods.clone());
    collector.nodes.on_change(move |change| {
        if change.new.is_none() {
            let snapshot = all_pods.snapshot();
            let there = snapshot.iter().filter(|pod| pods::node_name(pod) == change.object().name());
            there.for_each(|pod| vanished.add(Key::of(&**pod)));
        }
    });
    room.work("pod garbage collector", &queue, 2, move |key| collector.clone().sync(key));
}

impl Collector {
    async fn sync(self, key: Key) -> Result<Next, Error> {
        self.nodes.synced().await;
        let pod = self.pods.get(&key.namespace, &key.name);
        let lost = pod.filter(|pod| {
            let node = pods::node_name(pod);
            if node.is_empty() { pod.is_deleting() } else { self.nodes.get("", node).is_none() }
        });
        let Some(pod) = lost else {
            self.missing.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
            return Ok(Next::Done);
        };
        if !pods::node_name(&pod).is_empty() {
            let since = {
                let mut missing = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
                *missing.entry(key.clone()).or_insert_with(base::clock::instant)
            };
            if since.elapsed() < QUARANTINE {
                return Ok(Next::After(QUARANTINE - since.elapsed()));
            }
            let reason = "PodGC: node no longer exists";
            let phase = (!pods::is_finished(&pod)).then_some("Failed");
            common::disrupt(&self.client, &pod, "DeletionByPodGC", reason, phase).await?;
        }
        let at_once = DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::default() };
        common::unless_gone(self.client.delete::<Pod>(&key.namespace, &key.name, &at_once).await)?;
        self.missing.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
        Ok(Next::Done)
    }
}
