//! Plans of upgrades: the nodes that a Plan selects get a new executable, few at a time, each drained first.
//!
//! What happens on a node is a Job's pod, which sees the machine's files and processes, of the image that the Plan
//! names (`knarr upgrade-node` in knarr's own). Servers come before agents, which may not be newer than they are. A node
//! whose Job fails stops the rest: nothing goes on until the Plan says something else or the Job is deleted.

mod definition;
mod drain;
mod job;
mod plan;
mod window;

use crate::common::{Key, Room, now, watch_self};
use api::Object;
use api::batch::Job;
use api::core::Node;
use api::k8s::Resource;
use base::{Phase, Restart};
use client::{Cache, Client, Error, Next, Patch, Queue, Recorder};
use plan::{CORDONED, Decision, Plan, Stage};
use serde_json::{Value, json};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

const MANAGER: &str = "knarr-upgrades";
/// How often is looked whether pods have left a node.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// How often is looked whether a window is open.
const WINDOW: Duration = Duration::from_secs(60);

#[derive(Clone)]
struct Upgrader {
    client: Client,
    plans: Cache<Plan>,
    nodes: Cache<Node>,
    jobs: Cache<Job>,
    recorder: Recorder,
}

/// Makes the definition of Plans, and carries them out.
pub(crate) fn start(room: &Room) {
    let (own, begun) = (room.clone(), Arc::new(OnceLock::new()));
    room.supervisor.run("definition of upgrade plans", Phase::Work, Restart::OnFailure, move |_| {
        let (room, begun) = (own.clone(), begun.clone());
        async move {
            definition::make(&room.client).await?;
            begun.get_or_init(|| follow(&room));
            Ok::<(), Error>(())
        }
    });
}

fn follow(room: &Room) {
    let upgrader = Upgrader {
        client: room.client.clone(),
        plans: room.caches.of(),
        nodes: room.caches.of(),
        jobs: room.caches.of(),
        recorder: room.recorder("upgrade-controller"),
    };
    let queue = Queue::new("upgrade plans");
    watch_self(&upgrader.plans, &queue);
    let (changed, plans) = (queue.clone(), upgrader.plans.clone());
    upgrader.nodes.on_change(move |change| {
        let facts = |node: &Option<Arc<Node>>| node.as_deref().map(plan::facts);
        if facts(&change.old) != facts(&change.new) {
            plans.snapshot().iter().for_each(|plan| changed.add(Key::of(&**plan)));
        }
    });
    let changed = queue.clone();
    upgrader.jobs.on_change(move |change| {
        if let Some(plan) = change.object().labels().get(job::PLAN) {
            changed.add(Key::new("", plan));
        }
    });
    room.work("upgrade plans", &queue, 1, move |key| upgrader.clone().sync(key));
}

impl Upgrader {
    async fn sync(self, key: Key) -> Result<Next, Error> {
        tokio::join!(self.nodes.synced(), self.jobs.synced());
        let nodes = self.nodes.snapshot();
        let Some(plan) = self.plans.get("", &key.name) else {
            for node in nodes.iter() {
                self.let_go(&key.name, node).await?;
            }
            return Ok(Next::Done);
        };
        let jobs = self.jobs.snapshot();
        let of = |node: &Node| jobs.iter().find(|one| job::is_of(one, &plan, node.name())).cloned();
        let seen: Vec<(Arc<Node>, Option<Arc<Job>>)> =
            nodes.iter().filter(|node| plan.selects(node)).map(|node| (node.clone(), of(node))).collect();
        let open = window::is_open(plan.spec.window.as_ref(), now().0);
        let (is_open, why) = match open {
            Ok(is_open) => (is_open, None),
            Err(why) => (false, Some(why)),
        };
        let decision = plan::decide(&plan, &seen, is_open);
        for node in &decision.finish {
            self.finish(&plan, node).await?;
        }
        let mut held = Vec::new();
        for node in decision.drain.iter().chain(&decision.start) {
            held.extend(self.go_on(&plan, node).await?.map(|why| format!("{}: {why}", node.name())));
        }
        self.tell(&plan, &decision, why.or_else(|| (!held.is_empty()).then(|| held.join("; ")))).await?;
        let drains = !decision.drain.is_empty() || !decision.start.is_empty();
        let waits = plan.spec.window.is_some() && decision.count(Stage::Waiting) > 0;
        Ok(match (drains, waits) {
            (true, _) => Next::After(LOOK_AGAIN),
            (false, true) => Next::After(WINDOW),
            _ => Next::Done,
        })
    }

    /// Cordons a node, drains it, and then begins its Job. Gives what holds it up.
    async fn go_on(&self, plan: &Plan, node: &Node) -> Result<Option<String>, Error> {
        let begins = plan.stage(node, None) == Stage::Waiting;
        if begins {
            let cordons = plan.spec.drain.is_some() || plan.spec.cordon;
            let already = node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true);
            let mut patch = json!({"metadata": {"annotations": {plan::BEGUN: plan.mark()}}});
            // Who cordoned it before us wants it so afterwards.
            if cordons && !already {
                patch["metadata"]["annotations"][CORDONED] = plan.name().into();
                patch["spec"] = json!({"unschedulable": true});
            }
            let patched: Node = self.client.patch("", node.name(), &Patch::Merge(patch)).await?;
            self.nodes.reached(patched.revision()).await;
            let message = format!("Upgrading node {} to {}", node.name(), plan.spec.version);
            self.recorder.normal(plan, "UpgradeBegun", message);
        }
        if let Some(settings) = &plan.spec.drain {
            match drain::drain(&self.client, node.name(), settings).await? {
                drain::Left::Nothing => {}
                drain::Left::Pods(count) => return Ok(Some(format!("{count} pods are leaving"))),
                drain::Left::Held(why) => {
                    self.recorder.warning(plan, "DrainHeld", format!("{}: {why}", node.name()));
                    return Ok(Some(why));
                }
            }
        }
        let made = self.client.create(&job::of(plan, node.name())).await;
        match made {
            Err(error) if !error.is_already_exists() => Err(error),
            Ok(made) => {
                self.jobs.reached(made.revision()).await;
                Ok(None)
            }
            Err(_) => Ok(None),
        }
    }

    /// Says on a node that it has what the plan wants, and lets pods come again.
    async fn finish(&self, plan: &Plan, node: &Node) -> Result<(), Error> {
        let mut patch = json!({"metadata": {
            "labels": {plan.label(): plan.hash()}, "annotations": {plan::BEGUN: null, CORDONED: null},
        }});
        if node.annotations().get(CORDONED).is_some_and(|by| by == plan.name()) {
            patch["spec"] = json!({"unschedulable": null});
        }
        let patched: Node = self.client.patch("", node.name(), &Patch::Merge(patch)).await?;
        self.nodes.reached(patched.revision()).await;
        let message = format!("Node {} is upgraded to {}", node.name(), plan.spec.version);
        self.recorder.normal(plan, "Upgraded", message);
        Ok(())
    }

    /// Lets pods come again to a node whose plan is gone in the middle.
    async fn let_go(&self, plan: &str, node: &Node) -> Result<(), Error> {
        let begun = node.annotations().get(plan::BEGUN).is_some_and(|mark| plan::is_of(mark, plan));
        let cordoned = node.annotations().get(CORDONED).is_some_and(|by| by == plan);
        if !begun && !cordoned {
            return Ok(());
        }
        let mut patch = json!({"metadata": {"annotations": {plan::BEGUN: null, CORDONED: null}}});
        if cordoned {
            patch["spec"] = json!({"unschedulable": null});
        }
        self.client.patch::<Node>("", node.name(), &Patch::Merge(patch)).await.map(drop)
    }

    async fn tell(&self, plan: &Plan, decision: &Decision, held: Option<String>) -> Result<(), Error> {
        let status = decision.status(plan, held);
        if plan.status == status {
            return Ok(());
        }
        if !decision.failed.is_empty() {
            let message = format!("The upgrade of {} failed; no other is begun", decision.failed.join(", "));
            self.recorder.warning(plan, "UpgradeFailed", message);
        }
        let value: Value = json!({
            "apiVersion": Plan::API_VERSION, "kind": "Plan", "metadata": {"name": plan.name()}, "status": status,
        });
        match self.client.apply_status::<Plan>("", plan.name(), MANAGER, &value).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }
}
