//! What a Plan says, where its nodes are, and what comes next for them; pure.

use super::job;
use super::window::Window;
use crate::common::now;
use api::batch::Job;
use api::core::Node;
use api::k8s::ClusterResourceScope;
use api::meta::{LabelSelector, ObjectMeta};
use api::selector::Labels;
use api::{Object, object_of_definition};
use base::hex;
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;

/// On a node: by which plan it is being upgraded, and to what.
pub(super) const BEGUN: &str = "upgrade.knarr.io/begun";
/// On a node: the plan that keeps pods away from it.
pub(super) const CORDONED: &str = "upgrade.knarr.io/cordoned-by";
const CONTROL_PLANE: &str = "node-role.kubernetes.io/control-plane";

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Plan {
    pub(super) metadata: ObjectMeta,
    pub(super) spec: Spec,
    pub(super) status: Value,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Spec {
    pub(super) version: String,
    pub(super) image: String,
    pub(super) command: Vec<String>,
    pub(super) args: Vec<String>,
    pub(super) node_selector: Option<LabelSelector>,
    pub(super) concurrency: Option<usize>,
    pub(super) paused: bool,
    pub(super) cordon: bool,
    pub(super) drain: Option<Drain>,
    pub(super) window: Option<Window>,
    pub(super) active_deadline_seconds: Option<i64>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Drain {
    pub(super) force: bool,
    pub(super) delete_empty_dir_data: bool,
    pub(super) disable_eviction: bool,
    pub(super) grace_period_seconds: Option<i64>,
    pub(super) pod_selector: Option<LabelSelector>,
}

object_of_definition!(Plan, "upgrade.knarr.io", "v1", "Plan", "plans", ClusterResourceScope);

/// Where a node is in a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Waiting,
    /// Begun, and its Job is not.
    Draining,
    Upgrading,
    /// Its Job is done, and the node does not say so yet.
    Finishing,
    Failed,
    Done,
}

impl Plan {
    /// What is run is known by this: a plan that says the same again does nothing again.
    pub(super) fn hash(&self) -> String {
        let Spec { version, image, command, args, .. } = &self.spec;
        hex::sha256(json!([version, image, command, args]).to_string().as_bytes())[..16].to_owned()
    }

    /// The label by which a node says what it has.
    pub(super) fn label(&self) -> String {
        format!("plan.upgrade.knarr.io/{}", self.name())
    }

    pub(super) fn mark(&self) -> String {
        format!("{}/{}", self.name(), self.hash())
    }

    pub(super) fn selects(&self, node: &Node) -> bool {
        let selector = self.spec.node_selector.as_ref();
        selector.is_none_or(|selector| Labels::of(Some(selector)).selects(node)) && !node.is_deleting()
    }

    pub(super) fn stage(&self, node: &Node, job: Option<&Job>) -> Stage {
        let has = node.labels().get(&self.label()).is_some_and(|hash| *hash == self.hash());
        let begun = node.annotations().get(BEGUN).is_some_and(|mark| *mark == self.mark());
        match job.map(job::ended) {
            _ if has && !begun => Stage::Done,
            Some(Some(true)) => Stage::Finishing,
            Some(Some(false)) => Stage::Failed,
            Some(None) => Stage::Upgrading,
            None if begun => Stage::Draining,
            None => Stage::Waiting,
        }
    }
}

/// Whether a node is marked by a plan of this name.
pub(super) fn is_of(mark: &str, plan: &str) -> bool {
    mark.split_once('/').is_some_and(|(name, _)| name == plan)
}

/// What of a node plans look at.
pub(super) fn facts(node: &Node) -> impl PartialEq + use<> {
    (node.labels().clone(), node.annotations().get(BEGUN).cloned(), node.is_deleting())
}

/// What comes next.
#[derive(Debug, Default)]
pub(super) struct Decision {
    pub(super) start: Vec<Arc<Node>>,
    pub(super) drain: Vec<Arc<Node>>,
    pub(super) finish: Vec<Arc<Node>>,
    pub(super) failed: Vec<String>,
    stages: Vec<(String, Stage)>,
}

/// Servers first: of agents none is begun before all servers are done.
pub(super) fn decide(plan: &Plan, nodes: &[(Arc<Node>, Option<Arc<Job>>)], may_begin: bool) -> Decision {
    let mut nodes: Vec<(bool, &Arc<Node>, Stage)> = nodes
        .iter()
        .map(|(node, job)| {
            let is_agent = node.labels().get(CONTROL_PLANE).is_none();
            (is_agent, node, plan.stage(node, job.as_deref()))
        })
        .collect();
    nodes.sort_by(|a, b| (a.0, a.1.name()).cmp(&(b.0, b.1.name())));
    let of = |wanted: Stage| {
        nodes.iter().filter(move |(_, _, stage)| *stage == wanted).map(|(_, node, _)| (*node).clone())
    };
    let busy = nodes.iter().filter(|(_, _, stage)| !matches!(stage, Stage::Waiting | Stage::Done)).count();
    let failed: Vec<String> = of(Stage::Failed).map(|node| node.name().to_owned()).collect();
    let room = plan.spec.concurrency.unwrap_or(1).saturating_sub(busy);
    let servers_left = nodes.iter().any(|(is_agent, _, stage)| !is_agent && *stage != Stage::Done);
    let may_begin = may_begin && !plan.spec.paused && failed.is_empty();
    let waiting =
        nodes.iter().filter(|(is_agent, _, stage)| *stage == Stage::Waiting && !(*is_agent && servers_left));
    let start = waiting.take(if may_begin { room } else { 0 }).map(|(_, node, _)| (*node).clone()).collect();
    Decision {
        start,
        drain: of(Stage::Draining).collect(),
        finish: of(Stage::Finishing).collect(),
        failed,
        stages: nodes.iter().map(|(_, node, stage)| (node.name().to_owned(), *stage)).collect(),
    }
}

impl Decision {
    pub(super) fn count(&self, wanted: Stage) -> usize {
        self.stages.iter().filter(|(_, stage)| *stage == wanted).count()
    }

    /// What the plan's status says of it; `held` is what holds it up.
    pub(super) fn status(&self, plan: &Plan, held: Option<String>) -> Value {
        let done = self.count(Stage::Done) + self.finish.len();
        let begun = |name: &String| self.start.iter().any(|node| node.name() == name);
        let applying = self.stages.iter().filter(|(name, stage)| match stage {
            Stage::Waiting => begun(name),
            Stage::Draining | Stage::Upgrading | Stage::Failed => true,
            Stage::Finishing | Stage::Done => false,
        });
        let applying: Vec<&String> = applying.map(|(name, _)| name).collect();
        let is_complete = done == self.stages.len();
        let (reason, message) = match (is_complete, self.failed.is_empty(), held) {
            (true, ..) => ("Complete", String::new()),
            (false, false, _) => ("JobFailed", format!("the upgrade of {} failed", self.failed.join(", "))),
            (false, true, Some(held)) => ("Held", held),
            _ if plan.spec.paused => ("Paused", String::new()),
            _ if applying.is_empty() => ("Waiting", "its window is closed".to_owned()),
            _ => ("Upgrading", String::new()),
        };
        let complete = if is_complete { "True" } else { "False" };
        json!({
            "nodes": self.stages.len(), "upgraded": done, "applying": applying, "hash": plan.hash(),
            "conditions": [{
                "type": "Complete", "status": complete, "reason": reason, "message": message,
                "lastTransitionTime": since(&plan.status, complete),
            }],
        })
    }
}

/// Since when the condition is so.
fn since(status: &Value, complete: &str) -> String {
    let before = &status["conditions"][0];
    let kept = before["lastTransitionTime"].as_str().filter(|_| before["status"] == complete);
    kept.map_or_else(|| now().0.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(more: Value) -> Plan {
        let mut spec = json!({"version": "v2", "image": "x", "concurrency": 1});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).unwrap()
    }

    type Seen = (Arc<Node>, Option<Arc<Job>>);

    fn node(plan: &Plan, name: &str, server: bool, stage: Stage) -> Seen {
        let mut metadata = json!({"name": name, "labels": {}, "annotations": {}});
        if server {
            metadata["labels"][CONTROL_PLANE] = "true".into();
        }
        if stage == Stage::Done {
            metadata["labels"][plan.label()] = plan.hash().into();
        } else if stage != Stage::Waiting {
            metadata["annotations"][BEGUN] = plan.mark().into();
        }
        let job = |kind: Option<&str>| {
            let conditions: Vec<Value> =
                kind.iter().map(|kind| json!({"type": kind, "status": "True"})).collect();
            Arc::new(
                serde_json::from_value(json!({"metadata": {}, "status": {"conditions": conditions}}))
                    .unwrap(),
            )
        };
        let job = match stage {
            Stage::Upgrading => Some(job(None)),
            Stage::Finishing => Some(job(Some("Complete"))),
            Stage::Failed => Some(job(Some("Failed"))),
            _ => None,
        };
        (Arc::new(serde_json::from_value(json!({"metadata": metadata})).unwrap()), job)
    }

    fn names(nodes: &[Arc<Node>]) -> Vec<&str> {
        nodes.iter().map(|node| node.name()).collect()
    }

    #[test]
    fn servers_come_first_and_so_many_at_a_time() {
        use Stage::{Done, Draining, Failed, Finishing, Upgrading, Waiting};
        let one = plan(json!({}));
        let two = plan(json!({"concurrency": 2}));
        let stages = |plan: &Plan, stages: [Stage; 4]| {
            let is = [("b", true), ("c", true), ("a", false), ("d", false)];
            let nodes: Vec<Seen> = is
                .iter()
                .zip(stages)
                .map(|((name, server), stage)| node(plan, name, *server, stage))
                .collect();
            decide(plan, &nodes, true)
        };
        assert_eq!(names(&stages(&one, [Waiting; 4]).start), ["b"]);
        assert_eq!(names(&stages(&two, [Waiting; 4]).start), ["b", "c"]);
        assert_eq!(
            names(&stages(&two, [Done, Waiting, Waiting, Waiting]).start),
            ["c"],
            "no agent before all servers"
        );
        assert_eq!(names(&stages(&two, [Done, Done, Waiting, Waiting]).start), ["a", "d"]);
        for busy in [Draining, Upgrading, Finishing] {
            assert!(stages(&one, [busy, Waiting, Waiting, Waiting]).start.is_empty(), "{busy:?}");
        }
        assert_eq!(names(&stages(&one, [Draining, Waiting, Waiting, Waiting]).drain), ["b"]);
        assert_eq!(names(&stages(&one, [Finishing, Waiting, Waiting, Waiting]).finish), ["b"]);
        let failed = stages(&two, [Failed, Waiting, Waiting, Waiting]);
        assert!(failed.start.is_empty() && failed.failed == ["b"], "a failure stops the rest");
        assert_eq!(failed.status(&two, None)["conditions"][0]["reason"], "JobFailed");
        let done = stages(&one, [Done; 4]).status(&one, None);
        assert_eq!((&done["upgraded"], &done["conditions"][0]["status"]), (&json!(4), &json!("True")));
        let paused = plan(json!({"paused": true}));
        assert!(stages(&paused, [Waiting; 4]).start.is_empty());
        let nodes = [node(&one, "a", true, Waiting)];
        assert!(decide(&one, &nodes, false).start.is_empty(), "its window is closed");
    }

    #[test]
    fn a_plan_is_known_by_what_it_runs() {
        let one = plan(json!({}));
        assert_eq!(one.hash(), plan(json!({"concurrency": 5, "drain": {}})).hash());
        assert_ne!(one.hash(), plan(json!({"version": "v3"})).hash());
        let (done, _) = node(&one, "a", false, Stage::Done);
        assert_eq!(plan(json!({"version": "v3"})).stage(&done, None), Stage::Waiting);
        let some = plan(json!({"nodeSelector": {"matchLabels": {"role": "edge"}}}));
        assert!(one.selects(&done) && !some.selects(&done));
    }
}
