//! A rollout step by step, with a ReplicaSet controller that is a few lines of arithmetic.

use crate::deployment::{Action, View, plan, revision};
use crate::rollout::replicas;
use crate::template;
use api::Object;
use api::apps::{Deployment, ReplicaSet, ReplicaSetStatus};
use jiff::Timestamp;
use serde_json::{Value, json};
use std::fmt::Write;
use std::sync::Arc;

struct World {
    deployment: Deployment,
    sets: Vec<ReplicaSet>,
    now: i64,
    log: String,
}

fn world(replicas: i32, strategy: Value) -> World {
    let spec = json!({"replicas": replicas, "selector": {"matchLabels": {"app": "web"}}, "strategy": strategy,
        "progressDeadlineSeconds": 600,
        "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "v1"}]}}});
    let meta = json!({"name": "web", "namespace": "ns", "uid": "d", "generation": 1});
    let deployment = serde_json::from_value(json!({"metadata": meta, "spec": spec})).unwrap();
    World { deployment, sets: Vec::new(), now: 1_000_000, log: String::new() }
}

impl World {
    fn image(&mut self, image: &str) {
        let spec = self.deployment.spec.as_mut().unwrap();
        spec.template.spec.as_mut().unwrap().containers[0].image = Some(image.to_owned());
        *self.deployment.metadata.generation.as_mut().unwrap() += 1;
    }

    fn nickname(&self, name: &str) -> String {
        let set = self.sets.iter().find(|set| set.name() == name).unwrap();
        set.spec.clone().unwrap().template.unwrap().spec.unwrap().containers[0].image.clone().unwrap()
    }

    /// One look of the controller; all pods it asks for become available if `healthy`.
    fn step(&mut self, healthy: bool, old_pods: bool) {
        let sets: Vec<_> = self.sets.iter().cloned().map(Arc::new).collect();
        let now = Timestamp::from_second(self.now).unwrap();
        let plan = plan(&View { deployment: &self.deployment, sets: &sets, old_pods, now });
        for action in plan.actions {
            self.apply(action);
        }
        self.deployment.status = Some(plan.status);
        for set in &mut self.sets {
            let status = set.status.get_or_insert_default();
            let size = set.spec.as_ref().unwrap().replicas.unwrap_or(0);
            let available = if healthy { size } else { size.min(status.available_replicas.unwrap_or(0)) };
            *status = ReplicaSetStatus {
                replicas: size,
                available_replicas: Some(available),
                ready_replicas: Some(available),
                observed_generation: set.metadata.generation,
                ..Default::default()
            };
        }
        let sizes: Vec<_> =
            self.sets.iter().map(|set| format!("{}={}", self.nickname(set.name()), replicas(set))).collect();
        writeln!(self.log, "  {} | {}", sizes.join(" "), self.progress()).unwrap();
    }

    fn progress(&self) -> String {
        let conditions = self.deployment.status.iter().flat_map(|status| status.conditions.iter().flatten());
        let said =
            conditions.map(|it| format!("{}={} {}", it.type_, it.status, it.reason.as_deref().unwrap_or("")));
        said.collect::<Vec<_>>().join(", ")
    }

    fn apply(&mut self, action: Action) {
        let mut merge = |name: &str, edit: &dyn Fn(&mut ReplicaSet)| {
            edit(self.sets.iter_mut().find(|set| set.name() == name).unwrap());
        };
        let line = match action {
            Action::Create(mut set) => {
                set.metadata.uid = Some(set.name().to_owned());
                set.metadata.creation_timestamp =
                    Some(api::meta::Time(Timestamp::from_second(self.now).unwrap()));
                let line = format!("create with {}", replicas(&set));
                self.sets.push(*set);
                line
            }
            Action::Scale(set, size) => {
                let (wanted, max) = {
                    let fence = crate::rollout::fenceposts(&self.deployment).0;
                    (
                        crate::rollout::wanted(&self.deployment),
                        crate::rollout::wanted(&self.deployment) + fence,
                    )
                };
                merge(set.name(), &|set| {
                    set.spec.as_mut().unwrap().replicas = Some(size);
                    let annotations = set.metadata.annotations.get_or_insert_default();
                    annotations.insert(crate::rollout::DESIRED.to_owned(), wanted.to_string());
                    annotations.insert(crate::rollout::MAX.to_owned(), max.to_string());
                });
                format!("scale {} to {size}", self.nickname(set.name()))
            }
            Action::Patch(set, patch) => {
                merge(set.name(), &|set| {
                    for (key, value) in patch["metadata"]["annotations"].as_object().unwrap() {
                        let annotations = set.metadata.annotations.get_or_insert_default();
                        annotations.insert(key.clone(), value.as_str().unwrap().to_owned());
                    }
                });
                format!("annotate {}", self.nickname(set.name()))
            }
            Action::Delete(set) => {
                let name = self.nickname(set.name());
                self.sets.retain(|other| other.name() != set.name());
                format!("delete {name}")
            }
            Action::Revision(revision) => {
                let annotations = self.deployment.metadata.annotations.get_or_insert_default();
                annotations.insert(crate::deployment::REVISION.to_owned(), revision.to_string());
                format!("revision {revision}")
            }
        };
        writeln!(self.log, "{line}").unwrap();
    }

    fn settle(&mut self) -> String {
        for _ in 0..20 {
            let before = (self.sets.clone(), self.deployment.clone());
            self.now += 1;
            self.step(true, false);
            if before == (self.sets.clone(), self.deployment.clone()) {
                let end = self.log[..self.log.len() - 1].rfind('\n').map_or(0, |at| at + 1);
                self.log.truncate(end);
                break;
            }
        }
        std::mem::take(&mut self.log)
    }
}

#[test]
fn rolls_out_and_back() {
    let mut world = world(3, json!({"type": "RollingUpdate"}));
    let first = world.settle();
    assert!(first.starts_with("create with 3\nrevision 1\n"), "{first}");
    assert!(
        first.ends_with(
            "v1=3 | Available=True MinimumReplicasAvailable, Progressing=True NewReplicaSetAvailable\n"
        ),
        "{first}"
    );
    world.image("v2");
    let second = world.settle();
    let actions: Vec<_> = second.lines().filter(|line| !line.starts_with(' ')).collect();
    assert_eq!(
        actions,
        [
            "create with 1",
            "revision 2",
            "scale v1 to 2",
            "scale v2 to 2",
            "scale v1 to 1",
            "scale v2 to 3",
            "scale v1 to 0"
        ]
    );
    world.image("v1");
    let back = world.settle();
    let actions: Vec<_> = back.lines().filter(|line| !line.starts_with(' ')).collect();
    assert_eq!(actions[..3], ["annotate v1", "revision 3", "scale v1 to 1"]);
    let v1 = world.sets.iter().find(|set| template::is_same(set, &world.deployment)).unwrap();
    assert_eq!(
        (revision(v1), v1.annotations()["deployment.kubernetes.io/revision-history"].as_str()),
        (3, "1")
    );
}

#[test]
fn recreate_waits_for_the_old_pods() {
    let mut world = world(2, json!({"type": "Recreate"}));
    world.settle();
    world.image("v2");
    world.step(true, true);
    world.step(true, true);
    assert_eq!(
        world.log.lines().filter(|line| !line.starts_with(' ')).collect::<Vec<_>>(),
        ["scale v1 to 0"]
    );
    assert!(world.settle().contains("create with 2\n"));
}

#[test]
fn a_stuck_rollout_is_reported_after_its_deadline() {
    let mut world =
        world(2, json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}));
    world.settle();
    world.image("broken");
    for _ in 0..4 {
        world.now += 1;
        world.step(false, false);
    }
    assert!(world.progress().contains("Progressing=True"), "{}", world.progress());
    world.now += 601;
    world.step(false, false);
    assert_eq!(
        world.progress(),
        "Available=True MinimumReplicasAvailable, Progressing=False ProgressDeadlineExceeded"
    );
}

#[test]
fn a_paused_deployment_scales_but_does_not_roll() {
    let mut world = world(2, json!({"type": "RollingUpdate"}));
    world.settle();
    world.deployment.spec.as_mut().unwrap().paused = Some(true);
    world.deployment.spec.as_mut().unwrap().replicas = Some(5);
    world.image("v2");
    let log = world.settle();
    assert!(log.starts_with("scale v1 to 5\n"), "{log}");
    assert!(!log.contains("create") && log.contains("Progressing=Unknown DeploymentPaused"), "{log}");
}

#[test]
fn history_beyond_the_limit_is_deleted() {
    let mut world = world(1, json!({"type": "RollingUpdate"}));
    world.deployment.spec.as_mut().unwrap().revision_history_limit = Some(1);
    for image in ["v1", "v2", "v3"] {
        world.image(image);
        world.log.push_str(image);
        world.settle();
    }
    assert_eq!(world.sets.iter().map(|set| world.nickname(set.name())).collect::<Vec<_>>(), ["v2", "v3"]);
}
