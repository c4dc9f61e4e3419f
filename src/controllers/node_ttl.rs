//! Tells kubelets for how long they may keep Secrets and ConfigMaps: the longer, the more nodes there are.

use crate::common::Room;
use api::Object;
use api::core::Node;
use client::{Cache, Client, Error, Next, Patch, Queue};
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

const ANNOTATION: &str = "node.alpha.kubernetes.io/ttl";

/// Numbers of nodes for which a time is kept, and the time in seconds. They overlap, so that one node more or
/// less does not write to all others.
const STEPS: [(usize, usize, u32); 5] =
    [(0, 100, 0), (90, 500, 15), (450, 1000, 30), (900, 2000, 60), (1800, usize::MAX, 300)];

/// The step for this many nodes, from the one that held before.
fn step(mut at: usize, nodes: usize) -> usize {
    while nodes > STEPS[at].1 {
        at += 1;
    }
    while nodes < STEPS[at].0 {
        at -= 1;
    }
    at
}

#[derive(Clone)]
struct Annotator {
    client: Client,
    nodes: Cache<Node>,
    step: Arc<AtomicUsize>,
}

pub(crate) fn start(room: &Room) {
    let annotator = Annotator { client: room.client.clone(), nodes: room.caches.of(), step: Arc::default() };
    let queue = Queue::new("node ttl");
    let (changed, own) = (queue.clone(), annotator.clone());
    annotator.nodes.on_change(move |change| {
        let snapshot = own.nodes.snapshot();
        let before = own.step.load(Ordering::Relaxed);
        let now = step(before, snapshot.len());
        own.step.store(now, Ordering::Relaxed);
        if now != before {
            snapshot.iter().for_each(|node| changed.add(node.name().to_owned()));
        }
        if change.new.is_some() {
            changed.add(change.object().name().to_owned());
        }
    });
    room.work("node ttl controller", &queue, 2, move |name| annotator.clone().sync(name));
}

impl Annotator {
    async fn sync(self, name: String) -> Result<Next, Error> {
        let Some(node) = self.nodes.get("", &name) else { return Ok(Next::Done) };
        let wanted = STEPS[self.step.load(Ordering::Relaxed)].2.to_string();
        if node.annotations().get(ANNOTATION) != Some(&wanted) {
            let patch = Patch::Merge(json!({"metadata": {"annotations": {ANNOTATION: wanted}}}));
            self.client.patch::<Node>("", &name, &patch).await?;
        }
        Ok(Next::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_left_later_than_they_are_entered() {
        let mut at = 0;
        let times = [1, 100, 101, 95, 89, 600, 460, 5000, 1799].map(|nodes| {
            at = step(at, nodes);
            STEPS[at].2
        });
        assert_eq!(times, [0, 0, 15, 15, 0, 30, 30, 300, 60]);
    }
}
