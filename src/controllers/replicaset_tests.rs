//! Lives of ReplicaSets, which those of ReplicationControllers are alike.

use crate::golden::{self, Fault, Life, Log};
use crate::pods;
use crate::replicaset::{plan, with_failure};
use crate::replicated::Replicated;
use crate::worlds::{self, Pods};
use api::apps::ReplicaSet;
use api::core::ReplicationController;
use api::slim::Pod;
use api::{Object, owner_reference};
use client::Error;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::sync::Arc;

#[derive(Clone, Default)]
struct World<T> {
    set: T,
    pods: Pods,
    /// Pods of other sets of the same owner.
    neighbours: Pods,
    /// Why the server takes no pod.
    refusal: Option<String>,
}

impl<T: Replicated + Default + PartialEq + Serialize + DeserializeOwned> Life for World<T> {
    /// `new|set SPEC`, `delete -`, `orphan POD`, `neighbour POD NODE`, `refused WHY` until `taken -`, `bind POD=NODE…`, and
    /// what befalls pods.
    fn obey(&mut self, line: &str) {
        let words: Vec<_> = line.splitn(3, ' ').collect();
        match words[..] {
            ["new" | "set", ..] => {
                if words[0] == "new" {
                    let labels = json!({"app": "web"});
                    let selector =
                        if T::KIND == "ReplicaSet" { json!({"matchLabels": labels}) } else { labels.clone() };
                    self.change(&json!({"metadata": {"name": "web", "namespace": "ns", "uid": "set", "generation": 1},
                        "spec": {"selector": selector, "template": {"metadata": {"labels": {"app": "web", "tier": "a"}}}}}));
                }
                self.change(&json!({"spec": serde_json::from_str::<Value>(&line[4..]).unwrap()}));
            }
            ["delete", _] => self.change(&json!({"metadata": {"deletionTimestamp": worlds::at(0)}})),
            ["orphan", name] => {
                let mut pod = self.pod();
                pod.metadata.owner_references = None;
                self.pods.make(&pod, name);
            }
            ["neighbour", name, node] => {
                let pod = json!({"metadata": {"name": name}, "spec": {"nodeName": node}, "status": {"phase": "Running"}});
                self.neighbours.put(pod);
            }
            ["refused", ..] => self.refusal = line.split_once(' ').map(|(_, why)| why.to_owned()),
            ["taken", _] => self.refusal = None,
            ["bind", ..] => line.split(' ').skip(1).for_each(|one| {
                let (pod, node) = one.split_once('=').unwrap();
                assert!(self.pods.patch(pod, &json!({"spec": {"nodeName": node}})), "{line}");
            }),
            _ => assert!(self.pods.obey(line), "{line}"),
        }
    }

    fn look(&mut self, log: &mut Log) -> bool {
        let before = (self.pods.clone(), self.set.clone());
        let look_again_s = self.sync(log);
        self.pods.run();
        let acted = before != (self.pods.clone(), self.set.clone());
        log.waits(acted, look_again_s);
        acted
    }

    fn told(&self) -> String {
        let pods = self.pods.read();
        let mut lines: Vec<_> = pods
            .iter()
            .map(|pod| {
                let owner = if pod.controller().is_none() { " of nobody" } else { "" };
                format!("{} {}{owner}", pod.name(), worlds::state(pod))
            })
            .collect();
        let status = self.set.status().unwrap_or_default();
        let number = |count: Option<i32>| count.unwrap_or(0);
        lines.push(format!(
            "{} replicas, {} labelled, {} ready, {} available",
            status.replicas,
            number(status.fully_labeled_replicas),
            number(status.ready_replicas),
            number(status.available_replicas)
        ));
        lines.extend(status.conditions.iter().flatten().map(|condition| {
            let said = |text: &Option<String>| text.clone().unwrap_or_default();
            format!(
                "{}={} {}: {}",
                condition.type_,
                condition.status,
                said(&condition.reason),
                said(&condition.message)
            )
        }));
        lines.join("\n")
    }

    fn made(&self) -> usize {
        self.pods.made
    }
}

impl<T: Replicated + Default + PartialEq + Serialize + DeserializeOwned> World<T> {
    fn change(&mut self, patch: &Value) {
        golden::change(&mut self.set, patch);
    }

    fn pod(&self) -> api::core::Pod {
        let template = self.set.template().cloned().unwrap_or_default();
        pods::from_template(&template, "ns", "web", owner_reference(&self.set))
    }

    /// One look in the runner's order; none where it is cut off.
    fn sync(&mut self, log: &mut Log) -> Option<u64> {
        let (selector, all) = (self.set.selector(), self.pods.read());
        let claims = |pod: &Arc<Pod>| {
            self.pods.claims(&self.set, pod, (|| selector.selects(&**pod), pods::is_active(pod)), log)
        };
        let owned: Vec<_> = all.into_iter().filter(claims).collect();
        let related: Vec<_> = owned.iter().cloned().chain(self.neighbours.read()).collect();
        let mut plan = plan(&self.set, &owned, &related, self.pods.now());
        let mut failure = None;
        for _ in 0..plan.create {
            if let Some(why) = &self.refusal {
                failure = Some(Error::Unready(why.clone()));
                break;
            }
            let name = format!("p{}", self.pods.made + 1);
            log.does(format_args!("create {name}")).then_some(())?;
            self.pods.make(&self.pod(), &name);
        }
        for pod in &plan.delete {
            log.does(format_args!("delete {}", pod.name())).then_some(())?;
            self.pods.delete(pod);
        }
        (!log.is_cut()).then_some(())?;
        let too_few = plan.status.replicas < self.set.wanted();
        plan.status.conditions = with_failure(plan.status.conditions, too_few, failure.as_ref());
        self.set = self.set.with_status(plan.status);
        plan.look_again_s
    }
}

#[test]
fn replica_sets_live_as_told() {
    golden::check_lives::<World<ReplicaSet>>("replicasets.txt");
}

#[test]
fn replication_controllers_live_alike() {
    golden::check_lives::<World<ReplicationController>>("replicasets.txt");
}

#[test]
fn a_cut_at_any_step_changes_nothing() {
    golden::faults_change_nothing::<World<ReplicaSet>>("replicasets.txt", Fault::Cut);
}

#[test]
fn those_on_their_way_out_are_told_of_replica_sets() {
    let mut world = World::<ReplicaSet>::default();
    let lines = [r#"new {"replicas": 0}"#, "lingering true", "orphan p", "end p"];
    lines.iter().for_each(|line| world.obey(line));
    let owner = json!({"metadata": {"ownerReferences": [owner_reference(&world.set)]}});
    world.pods.patch("p", &owner);
    world.sync(&mut Log::default());
    assert_eq!(world.set.status.unwrap().terminating_replicas, Some(1));
}
