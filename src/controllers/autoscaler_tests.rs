//! Looks of HorizontalPodAutoscalers, told by text: what metrics ask for, and how far that goes.

use crate::autoscaler::{Bounds, Memory};
use crate::autoscaler_usage::{Proposal, Sample, Samples, Scene, Target, Tolerance};
use crate::{golden, worlds};
use api::k8s::api::autoscaling::v2::HorizontalPodAutoscalerSpec as Spec;
use api::slim::Pod;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

/// How long before a look pods were measured, and for how long.
const MEASURED_S: (i64, i64) = (10, 30);

/// An autoscaler, its target and the target's pods.
#[derive(Default)]
struct World {
    spec: Spec,
    memory: Memory,
    replicas: i32,
    pods: BTreeMap<String, Value>,
    usage: Vec<(String, i64)>,
    now_s: i64,
    told: String,
}

impl World {
    /// `new REPLICAS SPEC`, `pods COUNT`, `pod NAME CHANGES`, `use POD=MILLI…`, `after SECONDS`, `replicas COUNT`; and looks,
    /// each of which takes 15 seconds: `cpu|memory TARGET [CONTAINER]` and `pods-metric TARGET` with a target such as `50%`
    /// or `1000` thousandths, `value NOW TARGET`, `share NOW TARGET`, and `asks REPLICAS…` for whatever asks for so many.
    fn obey(&mut self, line: &str) {
        let words: Vec<_> = line.splitn(3, ' ').collect();
        let number = |text: &str| text.parse::<i64>().unwrap();
        match words[..] {
            ["new", replicas, spec] => {
                let mut whole = json!({"minReplicas": 1, "maxReplicas": 100, "scaleTargetRef": {"kind": "Deployment", "name": "web"}});
                api::patch::merge(&mut whole, &serde_json::from_str(spec).unwrap()).unwrap();
                let spec = serde_json::from_value(whole).unwrap();
                *self = Self { spec, replicas: replicas.parse().unwrap(), ..Self::default() };
                self.memory.begin(self.replicas, self.now());
                self.obey(&format!("pods {replicas}"));
            }
            ["pods", count] => {
                let names = ('a'..='z').take(count.parse().unwrap()).map(|name| name.to_string());
                self.pods = names.map(|name| (name, json!({}))).collect();
            }
            ["pod", name, changes] => {
                drop(self.pods.insert(name.to_owned(), serde_json::from_str(changes).unwrap()))
            }
            ["use", ..] => {
                let all = line.split(' ').skip(1).map(|one| one.split_once('=').unwrap());
                self.usage = all.map(|(pod, milli)| (pod.to_owned(), number(milli))).collect();
            }
            ["after", seconds] => self.now_s += number(seconds),
            ["replicas", count] => self.replicas = count.parse().unwrap(),
            ["asks", ..] => line.split(' ').skip(1).for_each(|asked| self.settle(asked.parse().unwrap())),
            ["value", now, target] => self.look(|scene, _| scene.by_value(number(now), number(target))),
            ["share", now, target] => self.look(|scene, _| Ok(scene.by_average(number(now), number(target)))),
            [resource, target, ref container @ ..] => {
                let target = match target.strip_suffix('%') {
                    Some(percent) => Target::Percent(percent.parse().unwrap(), container.first().copied()),
                    None => Target::Average(number(target)),
                };
                let resource = if resource == "pods-metric" { "" } else { resource };
                self.look(|scene, samples| scene.by_pods(resource, samples, target));
            }
            _ => panic!("{line}"),
        }
    }

    fn now(&self) -> Timestamp {
        worlds::at(self.now_s)
    }

    fn look(&mut self, measure: impl FnOnce(&Scene<'_>, Samples) -> Result<Proposal, String>) {
        let pods: Vec<_> = self.pods.iter().map(|(name, changes)| pod(name, changes)).collect();
        let (taken, window) =
            (worlds::at(self.now_s - MEASURED_S.0), SignedDuration::from_secs(MEASURED_S.1));
        let sample = |(pod, milli): &(String, i64)| (pod.clone(), Sample { milli: *milli, taken, window });
        let scene = Scene {
            wanted: self.replicas,
            there: self.replicas,
            pods: &pods,
            tolerance: Tolerance::of(self.spec.behavior.as_ref()),
            now: self.now(),
        };
        match measure(&scene, self.usage.iter().map(sample).collect()) {
            Ok(Proposal { replicas, utilization, milli }) => {
                let percent = utilization.map_or(String::new(), |percent| format!("{percent}%, "));
                write!(self.told, "{percent}{milli}m asks for {replicas}: ").unwrap();
                self.settle(replicas);
            }
            Err(why) => writeln!(self.told, "{why}").unwrap(),
        }
    }

    fn settle(&mut self, asked: i32) {
        self.now_s += 15;
        let (min, max) = (self.spec.min_replicas.unwrap(), self.spec.max_replicas);
        let (current, now) = (self.replicas, self.now());
        let bounds = Bounds { current, min, max, behavior: self.spec.behavior.as_ref(), now };
        let (replicas, [able, limited]) = self.memory.settle(&bounds, asked);
        if replicas != current {
            self.memory.scaled(current, replicas, now);
        }
        self.replicas = replicas;
        let limited = if limited.holds { format!(" limited: {}", limited.reason) } else { String::new() };
        writeln!(self.told, "{replicas} {}{limited}", able.reason).unwrap();
    }
}

/// A pod that started long ago and asks for 100m of CPU and a byte of memory, with changes: as of JSON, and `started`,
/// `ready` and `notReady` since so many seconds before the first look.
fn pod(name: &str, changes: &Value) -> Arc<Pod> {
    let time = |seconds_ago: i64| worlds::at(-seconds_ago).to_string();
    let requests = json!({"cpu": "100m", "memory": "1"});
    let mut pod = json!({"metadata": {"name": name, "namespace": "ns"},
        "spec": {"containers": [{"name": "main", "resources": {"requests": requests}}]},
        "status": {"phase": "Running", "startTime": time(9999), "conditions": [
            {"type": "Ready", "status": "True", "lastTransitionTime": time(9000)}]}});
    let mut changes = changes.clone();
    for (key, status) in [("notReady", "False"), ("ready", "True")] {
        if let Some(ago) = changes.as_object_mut().and_then(|all| all.remove(key)) {
            changes["status"]["conditions"] = json!([{"type": "Ready", "status": status,
                "lastTransitionTime": time(ago.as_i64().unwrap())}]);
        }
    }
    if let Some(ago) = changes.as_object_mut().and_then(|all| all.remove("started")) {
        changes["status"]["startTime"] = json!(time(ago.as_i64().unwrap()));
    }
    api::patch::merge(&mut pod, &changes).unwrap();
    Arc::new(serde_json::from_value(pod).unwrap())
}

#[test]
fn autoscalers_go_as_far_as_told() {
    let mut world = World::default();
    golden::check("autoscalers.txt", |input| {
        world.told.clear();
        input.lines().filter(|line| !line.starts_with('#')).for_each(|line| world.obey(line));
        world.told.clone()
    });
}
