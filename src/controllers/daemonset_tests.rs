//! Lives of DaemonSets, and what their pods look like.

use crate::daemon_pods::{self, Demand, HASH, target};
use crate::daemonset::{View, hash, plan, surplus};
use crate::golden::{self, Fault, Life, Log};
use crate::history::Versioned;
use crate::worlds::{self, Pods, Revisions};
use api::Object;
use api::apps::DaemonSet;
use api::core::{self, Node};
use api::slim::Pod;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

#[derive(Clone, Default)]
struct World {
    set: DaemonSet,
    nodes: Vec<Arc<Node>>,
    pods: Pods,
    revisions: Revisions,
    /// How many pods each node was given.
    given: BTreeMap<String, usize>,
}

impl Life for World {
    /// `new|set SPEC`, `image NAME`, `node NAME ROLE TAINT…` with a taint such as `key:NoSchedule`, `lose NODE`, `orphan
    /// POD NODE`, and what befalls pods, which are called after their nodes.
    fn obey(&mut self, line: &str) {
        let words: Vec<_> = line.split(' ').collect();
        match words[..] {
            ["new" | "set", ..] => {
                if words[0] == "new" {
                    let labels = json!({"app": "agent"});
                    self.change(&json!({"metadata": {"name": "agent", "namespace": "ns", "uid": "set"}, "spec": {
                        "selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}},
                        "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0}}}}));
                    self.change(&worlds::of_image("v1"));
                }
                self.change(&json!({"spec": serde_json::from_str::<Value>(&line[4..]).unwrap()}));
            }
            ["image", image] => self.change(&worlds::of_image(image)),
            ["node", name, role, ref taints @ ..] => {
                self.nodes.retain(|node| node.name() != name);
                self.nodes.push(node(name, role, taints));
            }
            ["lose", name] => self.nodes.retain(|node| node.name() != name),
            ["orphan", name, node] => {
                let mut pod = daemon_pods::new(&self.set, "other", node);
                pod.metadata.owner_references = None;
                self.make(&pod, name, node);
            }
            _ => assert!(self.pods.obey(line), "{line}"),
        }
    }

    fn look(&mut self, log: &mut Log) -> bool {
        let before = (self.pods.clone(), self.revisions.clone(), self.set.status.clone());
        let look_again_s = self.sync(log);
        self.pods.run();
        let acted = before != (self.pods.clone(), self.revisions.clone(), self.set.status.clone());
        log.waits(acted, look_again_s);
        acted
    }

    fn told(&self) -> String {
        let pods = self.pods.read();
        let mut lines: Vec<_> = pods
            .iter()
            .map(|pod| {
                let revision =
                    self.revisions.all().into_iter().find(|one| pod.labels().get(HASH) == Some(hash(one)));
                let image = revision.as_ref().map_or("none", |one| self.revisions.image(one));
                let owner = if pod.controller().is_none() { " of nobody" } else { "" };
                format!("{} {image} {}{owner}", pod.name(), worlds::state(pod))
            })
            .collect();
        lines.sort();
        lines.push(self.revisions.told());
        let status = self.set.status.clone().unwrap_or_default();
        let number = |count: Option<i32>| count.unwrap_or(0);
        lines.push(format!(
            "{} desired, {} current, {} misscheduled, {} ready, {} updated, {} available, {} unavailable",
            status.desired_number_scheduled,
            status.current_number_scheduled,
            status.number_misscheduled,
            status.number_ready,
            number(status.updated_number_scheduled),
            number(status.number_available),
            number(status.number_unavailable)
        ));
        lines.join("\n")
    }

    fn made(&self) -> usize {
        self.pods.made
    }
}

fn node(name: &str, role: &str, taints: &[&str]) -> Arc<Node> {
    let taint = |text: &&str| {
        let (key, effect) = text.split_once(':').unwrap();
        json!({"key": key, "effect": effect})
    };
    let taints: Vec<_> = taints.iter().map(taint).collect();
    let meta = json!({"name": name, "labels": {"role": role}});
    Arc::new(serde_json::from_value(json!({"metadata": meta, "spec": {"taints": taints}})).unwrap())
}

impl World {
    fn change(&mut self, patch: &Value) {
        golden::change(&mut self.set, patch);
        *self.set.metadata.generation.get_or_insert(0) += 1;
    }

    /// A pod, which is bound at once unless it is stuck.
    fn make(&mut self, pod: &core::Pod, name: &str, node: &str) {
        self.pods.make(pod, name);
        if !self.pods.is_stuck(name) {
            self.pods.patch(name, &json!({"spec": {"nodeName": node}}));
        }
    }

    /// One look in the runner's order.
    fn sync(&mut self, log: &mut Log) -> Option<u64> {
        let (revisions, seen) = (self.revisions.all(), self.revisions.clone());
        let current = self.revisions.current(&self.set, &seen, log)?;
        let (selector, all) = (self.set.selector(), self.pods.read());
        let claims =
            |pod: &Arc<Pod>| self.pods.claims(&self.set, pod, (|| selector.selects(&**pod), true), log);
        let pods: Vec<_> = all.into_iter().filter(claims).collect();
        let now = self.pods.now();
        let plan = plan(&View { set: &self.set, hash: hash(&current), nodes: &self.nodes, pods: &pods, now });
        for pod in plan.create {
            self.create(&pod, log)?;
        }
        let ended = [(plan.delete, ""), (plan.failed, ", it failed"), (plan.succeeded, ", it succeeded")];
        for (pod, why) in ended.iter().flat_map(|(pods, why)| pods.iter().map(move |pod| (pod, why))) {
            log.does(format_args!("delete {}{why}", pod.name())).then_some(())?;
            self.pods.delete(pod);
        }
        (!log.is_cut()).then_some(())?;
        self.set.status = Some(plan.status);
        for one in surplus(&self.set, &revisions, &pods) {
            log.does(format_args!("forget {}", seen.image(one))).then_some(())?;
            self.revisions.forget(one.name());
        }
        plan.look_again_s
    }

    fn create(&mut self, pod: &core::Pod, log: &mut Log) -> Option<()> {
        let read = Pod::from_json(&serde_json::to_vec(pod).unwrap()).unwrap();
        let node = target(&read).unwrap();
        log.does(format_args!("create one on {node}")).then_some(())?;
        let given = self.given.entry(node.to_owned()).or_default();
        *given += 1;
        let name = format!("{node}-{given}");
        self.make(pod, &name, node);
        Some(())
    }
}

#[test]
fn daemon_sets_live_as_told() {
    golden::check_lives::<World>("daemonsets.txt");
}

#[test]
fn a_cut_at_any_step_changes_nothing() {
    golden::faults_change_nothing::<World>("daemonsets.txt", Fault::Cut);
}

#[test]
fn a_pod_is_bound_to_its_node_and_lives_through_its_trouble() {
    let term = json!({"matchExpressions": [{"key": "role", "operator": "Exists"}]});
    let own = json!([{"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5}]);
    let mut world = World::default();
    world.obey("new {}");
    world.change(&json!({"metadata": {"annotations": {"deprecated.daemonset.template.generation": "2"}},
        "spec": {"template": {"spec": {"tolerations": own, "affinity": {"nodeAffinity":
            {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}}}}}}));
    let set = world.set;
    let pod = serde_json::to_value(daemon_pods::new(&set, "h", "a")).unwrap();
    assert_eq!(
        pod["metadata"]["labels"],
        json!({"app": "agent", "controller-revision-hash": "h", "pod-template-generation": "2"})
    );
    assert_eq!(pod["metadata"]["generateName"], "agent-");
    let required = &pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
    let field = json!({"key": "metadata.name", "operator": "In", "values": ["a"]});
    assert_eq!(*required, json!({"nodeSelectorTerms": [{"matchFields": [field]}]}));
    let tolerations = pod["spec"]["tolerations"].as_array().unwrap();
    let first = json!({"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute"});
    assert_eq!((tolerations.len(), &tolerations[0]), (6, &first));
    assert_eq!(Demand::of(&set).of_node(&node("a", "x", &[])), daemon_pods::Fit::Runs);
}
