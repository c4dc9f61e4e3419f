//! Lives of claims and volumes, write by write.

use crate::binder::{About, Plan, World as Known, Write, plan_claim, plan_volume};
use crate::golden::{self, Fault, Life, Log};
use crate::storage::{volume_name, volume_spec};
use api::Object;
use api::core::{PersistentVolume, PersistentVolumeClaim};
use api::storage::StorageClass;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

#[derive(Clone, Default)]
struct World {
    claims: BTreeMap<String, PersistentVolumeClaim>,
    volumes: BTreeMap<String, Arc<PersistentVolume>>,
    classes: Vec<Arc<StorageClass>>,
    /// Pods that have no node yet, and their claims.
    unscheduled: Vec<(String, String)>,
    made: usize,
}

impl Life for World {
    /// `new -`, `claim|volume|class NAME CHANGES` makes or changes one, `lose claim|volume NAME`, `pod NAME CLAIM`. Claims
    /// want 5Gi, volumes have 10Gi.
    fn obey(&mut self, line: &str) {
        let words: Vec<_> = line.splitn(3, ' ').collect();
        let json = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        match words[..] {
            ["new", "-"] => {}
            ["claim", name, changes] => {
                let claim = self.claims.entry(name.to_owned()).or_insert_with(|| {
                    self.made += 1;
                    claim(name, &format!("{name}#{}", self.made))
                });
                golden::change(claim, &json(changes));
            }
            ["volume", name, changes] => {
                let volume = self.volumes.entry(name.to_owned()).or_insert_with(|| volume(name));
                golden::change(Arc::make_mut(volume), &json(changes));
            }
            ["class", name, changes] => {
                let mut class = json!({"metadata": {"name": name}, "provisioner": "disks.test"});
                golden::change(&mut class, &json(changes));
                self.classes.push(Arc::new(serde_json::from_value(class).unwrap()));
            }
            ["lose", "claim", name] => drop(self.claims.remove(name)),
            ["lose", "volume", name] => drop(self.volumes.remove(name)),
            ["pod", name, claim] => self.unscheduled.push((name.to_owned(), claim.to_owned())),
            _ => panic!("{line}"),
        }
    }

    fn look(&mut self, log: &mut Log) -> bool {
        let before = (self.claims.clone(), self.volumes.clone());
        self.sync(log);
        before != (self.claims.clone(), self.volumes.clone())
    }

    fn told(&self) -> String {
        let claims = self.claims.values().map(told_claim);
        claims.chain(self.volumes.values().map(|volume| told_volume(volume))).collect::<Vec<_>>().join("\n")
    }

    fn made(&self) -> usize {
        self.made
    }
}

/// A claim as the API server stores it.
fn claim(name: &str, uid: &str) -> PersistentVolumeClaim {
    let spec = json!({"accessModes": ["ReadWriteOnce"], "volumeMode": "Filesystem", "storageClassName": "",
        "resources": {"requests": {"storage": "5Gi"}}});
    let meta = json!({"name": name, "namespace": "ns", "uid": uid});
    serde_json::from_value(json!({"metadata": meta, "spec": spec, "status": {"phase": "Pending"}})).unwrap()
}

fn volume(name: &str) -> Arc<PersistentVolume> {
    let spec = json!({"capacity": {"storage": "10Gi"}, "accessModes": ["ReadWriteOnce"], "volumeMode": "Filesystem",
        "persistentVolumeReclaimPolicy": "Retain"});
    let volume = json!({"metadata": {"name": name}, "spec": spec, "status": {"phase": "Pending"}});
    Arc::new(serde_json::from_value(volume).unwrap())
}

/// The last words of annotations' names.
fn marks<T: Object<Meta = api::meta::ObjectMeta>>(object: &T) -> String {
    object.annotations().keys().map(|key| format!(" {}", key.rsplit('/').next().unwrap())).collect()
}

fn told_claim(claim: &PersistentVolumeClaim) -> String {
    let value = serde_json::to_value(claim).unwrap();
    let text = |at: &str| {
        value.pointer(at).and_then(Value::as_str).map(|text| format!(" {text}")).unwrap_or_default()
    };
    let class = value
        .pointer("/spec/storageClassName")
        .map_or("no class".to_owned(), |class| format!("class {class}"));
    let [volume, phase, size] = ["/spec/volumeName", "/status/phase", "/status/capacity/storage"].map(text);
    format!("claim {}{phase}{volume}{size}, {class}{}", claim.name(), marks(claim))
}

fn told_volume(volume: &PersistentVolume) -> String {
    let status = volume.status.clone().unwrap_or_default();
    let reference = volume_spec(volume).claim_ref.clone().map(|claim| {
        let uid = claim.uid.map(|uid| format!(" as {uid}")).unwrap_or_default();
        format!(" for {}{uid}", claim.name.unwrap_or_default())
    });
    let phase = status.phase.unwrap_or_default();
    format!("volume {} {phase}{}{}", volume.name(), reference.unwrap_or_default(), marks(volume))
}

impl World {
    fn claim_of(&self, volume: &PersistentVolume) -> Option<&PersistentVolumeClaim> {
        let reference = volume_spec(volume).claim_ref.as_ref()?;
        let claim = self.claims.get(reference.name.as_deref()?)?;
        (Some(claim.uid()) == reference.uid.as_deref()).then_some(claim)
    }

    /// Looks at each claim and each volume once; none where the binder is cut off.
    fn sync(&mut self, log: &mut Log) -> Option<()> {
        for claim in self.claims.values().cloned().collect::<Vec<_>>() {
            let unscheduled = self.unscheduled.iter().filter(|(_, used)| used == claim.name());
            let known = Known {
                volumes: self.volumes.values().collect(),
                classes: self.classes.iter().collect(),
                unscheduled: unscheduled.map(|(pod, _)| pod.clone()).collect(),
            };
            let plan = plan_claim(&claim, &known);
            self.carry_out(plan, log)?;
        }
        for volume in self.volumes.values().cloned().collect::<Vec<_>>() {
            let plan = plan_volume(&volume, self.claim_of(&volume));
            self.carry_out(plan, log)?;
        }
        Some(())
    }

    fn carry_out(&mut self, plan: Plan, log: &mut Log) -> Option<()> {
        match plan.write {
            None => {}
            Some(Write::Claim(new) | Write::ClaimStatus(new)) => {
                log.does(told_claim(&new)).then_some(())?;
                self.claims.insert(new.name().to_owned(), *new);
            }
            Some(Write::Volume(new) | Write::VolumeStatus(new)) => {
                log.does(told_volume(&new)).then_some(())?;
                self.volumes.insert(new.name().to_owned(), Arc::from(new));
            }
        }
        for told in plan.told {
            let about = if told.about == About::Claim { "claim" } else { "volume" };
            let kind = if told.warning { "Warning" } else { "Normal" };
            log.repeat(&format!("{kind} {} of the {about}: {}", told.reason, told.message));
        }
        Some(())
    }
}

#[test]
fn claims_and_volumes_live_as_told() {
    golden::check_lives::<World>("volume_binding.txt");
}

#[test]
fn a_cut_at_any_step_changes_nothing() {
    golden::faults_change_nothing::<World>("volume_binding.txt", Fault::Cut);
}

#[test]
fn a_volume_refers_to_the_whole_claim() {
    let claim = claim("data", "c1");
    assert_eq!(volume_name(&claim), "");
    let reference = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "name": "data", "namespace": "ns", "uid": "c1"});
    assert_eq!(json!(crate::binder::reference(&claim)), reference);
}
