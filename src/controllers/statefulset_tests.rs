//! Lives of StatefulSets, and what their pods and claims look like.

use crate::golden::{self, Fault, Life, Log};
use crate::history::Versioned;
use crate::stateful_pods::{self as identity, REVISION, ordinal};
use crate::statefulset::{Action, Version, View, plan, surplus};
use crate::worlds::{self, Cached, Pods, Revisions};
use api::Object;
use api::apps::StatefulSet;
use api::core::{self, PersistentVolumeClaim};
use api::meta::Time;
use api::slim::{ControllerRevision, Pod};
use serde_json::{Value, json};
use std::sync::Arc;

/// What the controller's caches show.
#[derive(Clone, Default, PartialEq)]
struct Children {
    pods: Pods,
    claims: Vec<PersistentVolumeClaim>,
    revisions: Revisions,
}

#[derive(Clone, Default)]
struct World {
    set: StatefulSet,
    all: Children,
    cache: Cached<Children>,
    /// The garbage collector takes its time.
    litter: bool,
}

impl Life for World {
    /// `new|set SPEC`, `image NAME`, `delete SET`, `orphan POD IMAGE`, `own CLAIM OWNER`, `lose CLAIM`, `litter BOOL`, and
    /// what befalls pods.
    fn obey(&mut self, line: &str) {
        let words: Vec<_> = line.splitn(3, ' ').collect();
        match words[..] {
            ["new" | "set", ..] => {
                if words[0] == "new" {
                    let labels = json!({"app": "db"});
                    self.change(
                        &json!({"metadata": {"name": "db", "namespace": "ns", "uid": "set"}, "spec": {
                        "replicas": 3, "serviceName": "dbs", "selector": {"matchLabels": labels},
                        "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}},
                        "template": {"metadata": {"labels": labels}}}}),
                    );
                    self.change(&worlds::of_image("v1"));
                }
                self.change(&json!({"spec": serde_json::from_str::<Value>(&line[4..]).unwrap()}));
            }
            ["image", image] => self.change(&worlds::of_image(image)),
            ["delete", _] => self.set.metadata.deletion_timestamp = Some(Time(self.all.pods.now())),
            ["orphan", name, image] => {
                let ordinal = name.rsplit('-').next().unwrap().parse().unwrap();
                let template = self.set.spec.as_ref().unwrap().template.clone();
                let mut pod = identity::new(&self.set, &template, image, ordinal);
                pod.metadata.owner_references = None;
                self.all.pods.make(&pod, name);
            }
            ["own", claim, owner] => {
                let owner: Value = serde_json::from_str(owner).unwrap();
                golden::change(self.claim(claim), &json!({"metadata": {"ownerReferences": [owner]}}));
            }
            ["lose", claim] => self.all.claims.retain(|one| one.name() != claim),
            ["litter", word] => self.litter = word == "true",
            _ => assert!(self.all.pods.obey(line), "{line}"),
        }
        self.collect();
    }

    fn look(&mut self, log: &mut Log) -> bool {
        let before = (self.all.clone(), self.set.status.clone());
        let seen = self.cache.see(&self.all);
        let look_again_s = self.sync(&seen, log);
        self.all.pods.run();
        self.collect();
        let acted = before != (self.all.clone(), self.set.status.clone());
        log.waits(acted, look_again_s);
        acted
    }

    fn told(&self) -> String {
        let pods = self.all.pods.read();
        let mut lines: Vec<_> = pods
            .iter()
            .map(|pod| {
                let revision = pod.labels().get(REVISION).unwrap_or_default();
                let owner = if pod.controller().is_none() { " of nobody" } else { "" };
                format!("{} {revision} {}{owner}", pod.name(), worlds::state(pod))
            })
            .collect();
        lines.sort();
        lines.extend(self.all.claims.iter().map(|claim| {
            let owners = claim.metadata.owner_references.iter().flatten();
            let owners: Vec<_> = owners.map(|owner| owner.name.as_str()).collect();
            format!("{} of {owners:?}", claim.name())
        }));
        lines.push(self.all.revisions.told());
        let status = self.set.status.clone().unwrap_or_default();
        let number = |count: Option<i32>| count.unwrap_or(0);
        lines.push(format!(
            "{} replicas, {} ready, {} available, {} current of {}, {} updated of {}",
            status.replicas,
            number(status.ready_replicas),
            number(status.available_replicas),
            number(status.current_replicas),
            status.current_revision.unwrap_or_default(),
            number(status.updated_replicas),
            status.update_revision.unwrap_or_default()
        ));
        self.all.revisions.with_images(&lines.join("\n"))
    }

    fn made(&self) -> usize {
        self.all.pods.made
    }

    fn lag(&mut self) {
        self.cache.lags = true;
    }
}

impl World {
    fn change(&mut self, patch: &Value) {
        golden::change(&mut self.set, patch);
        *self.set.metadata.generation.get_or_insert(0) += 1;
    }

    fn claim(&mut self, name: &str) -> &mut PersistentVolumeClaim {
        self.all.claims.iter_mut().find(|claim| claim.name() == name).unwrap()
    }

    /// The garbage collector takes the claims of pods that are gone.
    fn collect(&mut self) {
        if self.litter {
            return;
        }
        let pods = &self.all.pods;
        let lost = |claim: &PersistentVolumeClaim| {
            let mut owners = claim.metadata.owner_references.iter().flatten();
            owners.any(|owner| owner.kind == "Pod" && !pods.has_uid(&owner.uid))
        };
        self.all.claims.retain(|claim| !lost(claim));
    }

    /// One look in the runner's order.
    fn sync(&mut self, seen: &Children, log: &mut Log) -> Option<u64> {
        let selector = self.set.selector();
        let claims = |pod: &Arc<Pod>| {
            let matches = || selector.selects(&**pod) && ordinal(&self.set, pod).is_some();
            self.all.pods.claims(&self.set, pod, (matches, true), log)
        };
        let pods: Vec<_> = seen.pods.read().into_iter().filter(claims).collect();
        let revisions = seen.revisions.all();
        let status = self.set.status.clone().unwrap_or_default();
        let update = match self.set.is_deleting() {
            true => {
                revisions.iter().find(|one| Some(one.name()) == status.update_revision.as_deref())?.clone()
            }
            false => self.all.revisions.current(&self.set, &seen.revisions, log)?,
        };
        let current = revisions.iter().find(|one| Some(one.name()) == status.current_revision.as_deref());
        let version = |revision: &ControllerRevision| Version {
            name: revision.name().to_owned(),
            template: revision.template().unwrap(),
        };
        let (current, update) = (version(current.unwrap_or(&update)), version(&update));
        let find = |name: &str| seen.claims.iter().find(|claim| claim.name() == name).cloned().map(Arc::new);
        let view = View {
            set: &self.set,
            current: &current,
            update: &update,
            pods: &pods,
            find: &find,
            now: self.all.pods.now(),
        };
        let plan = plan(&view);
        let goes_on = plan.phases.into_iter().flatten().flatten().all(|action| self.act(action, seen, log));
        if log.is_cut() {
            return None;
        }
        self.set.status = Some(plan.status);
        if goes_on {
            for one in surplus(&self.set, &revisions, [&current.name, &update.name], &pods) {
                if !log.does(format_args!("forget {}", seen.revisions.image(one))) {
                    return None;
                }
                self.all.revisions.forget(one.name());
            }
        }
        plan.look_again_s
    }

    /// False where the look ends.
    fn act(&mut self, action: Action, seen: &Children, log: &mut Log) -> bool {
        match action {
            Action::Create(pod, ordinal) => self.make_claims(ordinal, seen, log) && self.create(&pod, log),
            Action::Claims(_, ordinal) => self.make_claims(ordinal, seen, log),
            Action::Own(_, claim) => {
                let owners = claim.metadata.owner_references.as_deref().unwrap_or_default();
                let names: Vec<_> = owners.iter().map(|owner| owner.name.as_str()).collect();
                let goes_on = log.does(format_args!("{} of {names:?}", claim.name()));
                if goes_on {
                    self.all.claims.retain(|one| one.name() != claim.name());
                    self.all.claims.push(*claim);
                }
                goes_on
            }
            Action::Update(pod, None) => log.does(format_args!("{} is in order", pod.name())),
            Action::Update(pod, Some(patch)) => {
                log.does(format_args!("mend {}", pod.name())) && self.all.pods.patch(pod.name(), &patch)
            }
            Action::Delete(pod) => {
                let goes_on = log.does(format_args!("delete {}", pod.name()));
                if goes_on {
                    self.all.pods.delete(&pod);
                }
                goes_on
            }
        }
    }

    fn create(&mut self, pod: &core::Pod, log: &mut Log) -> bool {
        let name = pod.metadata.name.clone().unwrap();
        let revision = &pod.metadata.labels.as_ref().unwrap()[REVISION];
        let revision = self.all.revisions.with_images(revision);
        let goes_on = !self.all.pods.has(&name) && log.does(format_args!("create {name} of {revision}"));
        if goes_on {
            self.all.pods.make(pod, &name);
        }
        goes_on
    }

    fn make_claims(&mut self, ordinal: i32, seen: &Children, log: &mut Log) -> bool {
        let claims: Vec<_> = identity::claims(&self.set, ordinal).collect();
        claims.into_iter().all(|claim| {
            let is_there =
                [seen, &self.all].iter().any(|all| all.claims.iter().any(|one| one.name() == claim.name()));
            let goes_on = is_there || log.does(format_args!("create {}", claim.name()));
            self.all.claims.extend(Some(claim).filter(|_| !is_there && goes_on));
            goes_on
        })
    }
}

#[test]
fn stateful_sets_live_as_told() {
    golden::check_lives::<World>("statefulsets.txt");
}

#[test]
fn a_cut_at_any_step_changes_nothing() {
    golden::faults_change_nothing::<World>("statefulsets.txt", Fault::Cut);
}

#[test]
fn a_cache_that_lags_changes_nothing() {
    golden::faults_change_nothing::<World>("statefulsets.txt", Fault::Lag);
}

fn set(spec: &str) -> StatefulSet {
    let mut world = World::default();
    world.obey(&format!("new {spec}"));
    world.set
}

#[test]
fn pods_have_names_volumes_and_claims_of_their_own() {
    let claim = r#"{"metadata": {"name": "data", "labels": {"tier": "gold"}}, "spec": {}}"#;
    let volumes = r#"[{"name": "data", "emptyDir": {}}, {"name": "tmp", "emptyDir": {}}]"#;
    let template = format!(r#"{{"spec": {{"volumes": {volumes}}}}}"#);
    let set = set(&format!(r#"{{"volumeClaimTemplates": [{claim}], "template": {template}}}"#));
    let template = &set.spec.as_ref().unwrap().template;
    let pod = identity::new(&set, template, "db-1", 4);
    let labels = serde_json::to_value(&pod.metadata.labels).unwrap();
    assert_eq!(
        labels,
        json!({"app": "db", "apps.kubernetes.io/pod-index": "4", "controller-revision-hash": "db-1",
            "statefulset.kubernetes.io/pod-name": "db-4"})
    );
    let spec = serde_json::to_value(&pod.spec).unwrap();
    assert_eq!(
        (&pod.metadata.name, &pod.metadata.generate_name, &spec["hostname"], &spec["subdomain"]),
        (&Some("db-4".to_owned()), &None, &json!("db-4"), &json!("dbs"))
    );
    let volumes = json!([{"name": "data", "persistentVolumeClaim": {"claimName": "data-db-4"}},
        {"name": "tmp", "emptyDir": {}}]);
    assert_eq!(spec["volumes"], volumes);
    let claim = identity::claims(&set, 4).next().unwrap();
    assert_eq!(
        serde_json::to_value(&claim.metadata).unwrap(),
        json!({"name": "data-db-4", "namespace": "ns", "labels": {"app": "db", "tier": "gold"}})
    );
}

#[test]
fn only_canonical_names_are_of_the_set() {
    let set = set("{}");
    let ordinal = |name: &str| {
        let pod = serde_json::from_value::<Pod>(json!({"metadata": {"name": name}})).unwrap();
        identity::ordinal(&set, &pod)
    };
    assert_eq!(
        ["db-0", "db-12", "db-00", "db-", "db--1", "other-0", "db-x"].map(ordinal),
        [Some(0), Some(12), None, None, None, None, None]
    );
}
