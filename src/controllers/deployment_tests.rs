//! Lives of Deployments, with a ReplicaSet controller that is a few lines of arithmetic.

use crate::common::{Claim, claim};
use crate::deployment::{Action, REVISION, View, plan, revision};
use crate::deployment_status as status;
use crate::golden::{self, Fault, Life, Log};
use crate::rollout::{DESIRED, MAX, fenceposts, replicas, wanted};
use crate::template;
use crate::worlds::{self, Cached};
use api::Object;
use api::apps::{Deployment, DeploymentCondition, ReplicaSet, ReplicaSetStatus};
use api::meta::Time;
use api::selector::Labels;
use jiff::Timestamp;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::Arc;

#[derive(Clone, Default)]
struct World {
    deployment: Deployment,
    sets: Vec<ReplicaSet>,
    cache: Cached<Vec<ReplicaSet>>,
    is_stale: bool,
    now_s: i64,
    made: usize,
    /// How many pods of an image become available at most.
    most: HashMap<String, i32>,
    /// Pods that are to end take their time.
    lingering: bool,
    /// Why the server takes no new ReplicaSet.
    refusal: Option<String>,
}

impl Life for World {
    /// `new|set SPEC`, `image NAME`, `annotate KEY VALUE`, `at SECONDS`, `available IMAGE MOST`, `lingering BOOL`,
    /// `refused WHY`, `failed IMAGE WHY`, `orphan|foreign IMAGE SIZE`, `unlabel IMAGE`, `delete -`.
    fn obey(&mut self, line: &str) {
        let words: Vec<_> = line.splitn(3, ' ').collect();
        match words[..] {
            ["at", seconds] => self.now_s = seconds.parse().unwrap(),
            ["available", image, most] => drop(self.most.insert(image.to_owned(), most.parse().unwrap())),
            ["lingering", word] => self.lingering = word == "true",
            ["refused", ..] => self.refusal = line.split_once(' ').map(|(_, why)| why.to_owned()),
            ["failed", image, why] => {
                let condition = json!([{"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": why}]);
                let status = self.of(image).status.get_or_insert_default();
                status.conditions = serde_json::from_value(condition).unwrap();
            }
            ["orphan" | "foreign", image, size] => {
                self.put(image, size.parse().unwrap(), words[0] == "foreign")
            }
            ["unlabel", image] => self.of(image).metadata.labels = None,
            ["annotate", key, value] => self.change(&json!({"metadata": {"annotations": {key: value}}})),
            ["delete", _] => self.deployment.metadata.deletion_timestamp = Some(Time(self.at())),
            ["image", image] => self.change(&worlds::of_image(image)),
            _ => {
                let spec: Value = serde_json::from_str(&line[4..]).unwrap();
                if words[0] == "new" {
                    let labels = json!({"app": "web"});
                    self.change(
                        &json!({"metadata": {"name": "web", "namespace": "ns", "uid": "d"}, "spec": {
                        "replicas": 3, "selector": {"matchLabels": labels}, "progressDeadlineSeconds": 600,
                        "template": {"metadata": {"labels": labels}}}}),
                    );
                    self.obey("image v1");
                }
                self.change(&json!({"spec": spec}));
            }
        }
    }

    fn look(&mut self, log: &mut Log) -> bool {
        let before = (self.sets.clone(), self.deployment.clone());
        let seen = self.cache.see(&self.sets);
        self.is_stale = seen != self.sets;
        let sets: Vec<_> = seen.into_iter().filter(|set| self.claims(set, log)).map(Arc::new).collect();
        let view =
            View { deployment: &self.deployment, sets: &sets, old_pods: self.lingering, now: self.at() };
        let plan = plan(&view);
        let goes_on = plan.actions.into_iter().all(|action| self.act(action, log)) && !log.is_cut();
        if goes_on {
            self.deployment.status = Some(plan.status);
        }
        self.replicate();
        let acted = before != (self.sets.clone(), self.deployment.clone());
        log.waits(acted || !goes_on, plan.look_again_s);
        acted
    }

    fn told(&self) -> String {
        let sets = self.sets.iter().map(|set| {
            let history = set.annotations().get("deployment.kubernetes.io/revision-history");
            let history = history.map(|history| format!(" ({history})")).unwrap_or_default();
            let owner = set.controller().map_or(" of nobody".to_owned(), |owner| match owner.uid {
                "d" => String::new(),
                uid => format!(" of {uid}"),
            });
            format!("{}={} revision {}{history}{owner}", image(set), replicas(set), revision(set))
        });
        let mut lines: Vec<_> = sets.collect();
        let status = self.deployment.status.clone().unwrap_or_default();
        let number = |count: Option<i32>| count.unwrap_or(0);
        lines.push(format!(
            "revision {}: {} replicas, {} updated, {} available, {} unavailable",
            self.deployment.annotations().get(REVISION).map_or("", String::as_str),
            number(status.replicas),
            number(status.updated_replicas),
            number(status.available_replicas),
            number(status.unavailable_replicas),
        ));
        let mut conditions: Vec<_> =
            status.conditions.iter().flatten().map(|condition| self.condition(condition)).collect();
        conditions.sort();
        lines.extend(conditions);
        lines.join("\n")
    }

    fn made(&self) -> usize {
        self.made
    }

    fn lag(&mut self) {
        self.cache.lags = true;
    }
}

fn image(set: &ReplicaSet) -> &str {
    set.spec.as_ref().and_then(|spec| spec.template.as_ref()).map_or("none", worlds::image)
}

impl World {
    fn at(&self) -> Timestamp {
        worlds::at(self.now_s)
    }

    fn change(&mut self, patch: &Value) {
        golden::change(&mut self.deployment, patch);
        *self.deployment.metadata.generation.get_or_insert(0) += 1;
    }

    fn of(&mut self, of: &str) -> &mut ReplicaSet {
        self.sets.iter_mut().find(|set| image(set) == of).unwrap()
    }

    fn named(&mut self, name: &str) -> &mut ReplicaSet {
        self.sets.iter_mut().find(|set| set.name() == name).unwrap()
    }

    /// Somebody makes a ReplicaSet such as the Deployment's would be were it of this image.
    fn put(&mut self, image: &str, size: i32, foreign: bool) {
        let mut twin = World { deployment: self.deployment.clone(), ..World::default() };
        twin.obey(&format!("image {image}"));
        let mut set = template::replica_set(&twin.deployment, size, Default::default());
        let owner = set.metadata.owner_references.as_mut().unwrap();
        owner[0].uid = "another".to_owned();
        if !foreign {
            set.metadata.owner_references = None;
        }
        self.insert(set);
    }

    fn insert(&mut self, mut set: ReplicaSet) {
        set.metadata.uid = Some(set.name().to_owned());
        set.metadata.creation_timestamp = Some(Time(self.at()));
        self.sets.push(set);
    }

    /// Whether a set is the Deployment's, after taking or letting it go.
    fn claims(&mut self, seen: &ReplicaSet, log: &mut Log) -> bool {
        let selector = Labels::of(Some(&self.deployment.spec.as_ref().unwrap().selector));
        let owner = api::owner_reference(&self.deployment);
        match claim(&self.deployment, || selector.selects(seen), seen) {
            Claim::Adopt if log.does(format_args!("adopt {}", image(seen))) => {
                self.named(seen.name()).metadata.owner_references = Some(vec![owner]);
                true
            }
            Claim::Release if log.does(format_args!("release {}", image(seen))) => {
                self.named(seen.name()).metadata.owner_references = None;
                false
            }
            claim => claim == Claim::Owned,
        }
    }

    /// False where the look ends: it is cut off, or the server refuses.
    fn act(&mut self, action: Action, log: &mut Log) -> bool {
        match action {
            Action::Create(set) => self.create(*set, log),
            Action::Scale(set, size) => {
                let max = wanted(&self.deployment) + fenceposts(&self.deployment).0;
                let annotations =
                    json!({DESIRED: wanted(&self.deployment).to_string(), MAX: max.to_string()});
                let patch = json!({"metadata": {"annotations": annotations}, "spec": {"replicas": size}});
                log.does(format_args!("scale {} to {size}", image(&set))) && self.patch(&set, &patch)
            }
            Action::Patch(set, patch) => {
                let ready = &patch["spec"]["minReadySeconds"];
                let annotations = &patch["metadata"]["annotations"];
                log.does(format_args!("patch {} with {annotations}, ready for {ready} s", image(&set)))
                    && self.patch(&set, &patch)
            }
            Action::Delete(set) => {
                let goes_on = log.does(format_args!("delete {}", image(&set)));
                self.sets.retain(|other| !goes_on || other.name() != set.name());
                goes_on
            }
            Action::RollBack(back) => {
                let kind = if back.warning { "Warning" } else { "Normal" };
                let goes_on = log.does(format_args!("{kind} {}: {}", back.reason, back.message));
                if goes_on {
                    self.deployment = back.deployment;
                    self.change(&json!({}));
                }
                goes_on
            }
            Action::Revision(revision) => {
                let goes_on = log.does(format_args!("revision {revision}"));
                if goes_on {
                    golden::change(
                        &mut self.deployment,
                        &json!({"metadata": {"annotations": {REVISION: revision.to_string()}}}),
                    );
                }
                goes_on
            }
        }
    }

    /// What has changed since it was seen is not patched.
    fn patch(&mut self, seen: &ReplicaSet, patch: &Value) -> bool {
        if !self.is_stale {
            golden::change(self.named(seen.name()), patch);
        }
        !self.is_stale
    }

    fn create(&mut self, set: ReplicaSet, log: &mut Log) -> bool {
        let found = self.sets.iter().find(|other| other.name() == set.name());
        if let Some(found) = found {
            let own = found.controller().is_some_and(|owner| owner.uid == "d");
            if own && template::is_same(found, &self.deployment) {
                return true;
            }
            log.say("the name is taken");
            *self.deployment.status.get_or_insert_default().collision_count.get_or_insert(0) += 1;
            return false;
        }
        if let Some(why) = &self.refusal {
            let message = status::refusal(set.name(), why);
            self.deployment.status = Some(status::refused(&self.deployment, &message, self.at()));
            return false;
        }
        if !log.does(format_args!("create {} with {}", image(&set), replicas(&set))) {
            return false;
        }
        self.made += 1;
        self.insert(set);
        true
    }

    /// What the ReplicaSets' controller does: their pods are there at once.
    fn replicate(&mut self) {
        let (most, lingering) = (&self.most, self.lingering);
        for set in &mut self.sets {
            let size = replicas(set);
            let available = size.min(most.get(image(set)).copied().unwrap_or(size));
            let status = set.status.get_or_insert_default();
            *status = ReplicaSetStatus {
                replicas: if lingering { size.max(status.replicas) } else { size },
                available_replicas: Some(available),
                ready_replicas: Some(available),
                conditions: status.conditions.take(),
                ..ReplicaSetStatus::default()
            };
        }
    }

    /// A condition, with the images of ReplicaSets for their names.
    fn condition(&self, condition: &DeploymentCondition) -> String {
        let said = |text: &Option<String>| text.clone().unwrap_or_default();
        let mut message = said(&condition.message);
        for set in &self.sets {
            message = message.replace(set.name(), image(set));
        }
        let refused = template::replica_set(&self.deployment, 0, Default::default());
        let message = message.replace(refused.name(), image(&refused));
        format!("{}={} {}: {message}", condition.type_, condition.status, said(&condition.reason))
    }
}

#[test]
fn deployments_live_as_told() {
    golden::check_lives::<World>("deployments.txt");
}

#[test]
fn a_cut_at_any_step_changes_nothing() {
    golden::faults_change_nothing::<World>("deployments.txt", Fault::Cut);
}

#[test]
fn a_cache_that_lags_changes_nothing() {
    golden::faults_change_nothing::<World>("deployments.txt", Fault::Lag);
}

#[test]
fn names_are_cut_to_the_longest_there_may_be() {
    let mut world = World::default();
    world.obey("new {}");
    world.deployment.metadata.name = Some("x".repeat(253));
    assert_eq!(template::replica_set(&world.deployment, 0, Default::default()).name().len(), 253);
}

#[test]
fn earlier_revisions_are_forgotten_where_they_are_too_many() {
    let mut set = ReplicaSet::default();
    let history = vec!["1234"; 400].join(",");
    golden::change(
        &mut set,
        &json!({"metadata": {"annotations": {"deployment.kubernetes.io/revision-history": history}}}),
    );
    let longer = crate::deployment::history_with(&set, 99_999);
    assert_eq!((longer.len(), &longer[1990..]), (2000, "1234,99999"));
}
