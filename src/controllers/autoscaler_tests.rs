//! Looks of HorizontalPodAutoscalers, told by text: what metrics ask for, and how far that goes.

use crate::autoscaler::{Bounds, Memory};
use crate::autoscaler_plan::{Event, Reading, decide, measure, rescaled, unmeasured};
use crate::autoscaler_usage::{Proposal, Sample, Samples, Scene, Target, Tolerance};
use crate::{golden, worlds};
use api::k8s::api::autoscaling::v2::{
    HorizontalPodAutoscaler as Autoscaler, HorizontalPodAutoscalerStatus as Status,
};
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
    own: Autoscaler,
    memory: Memory,
    replicas: i32,
    pods: BTreeMap<String, Value>,
    usage: Vec<(String, i64)>,
    /// What the metrics read, in their order.
    reads: Vec<Value>,
    /// Why the target is not scaled.
    refusal: Option<String>,
    now_s: i64,
    told: String,
}

impl World {
    /// `new REPLICAS SPEC`, `pods COUNT`, `pod NAME CHANGES`, `use POD=MILLI…`, `after SECONDS`; and looks, each of which takes
    /// 15 seconds: `cpu|memory TARGET [CONTAINER]` and `pods-metric TARGET` with a target such as `50%` or `1000` thousandths,
    /// `value NOW TARGET`, `share NOW TARGET`, `asks REPLICAS…` for whatever asks for so many, and `look -` at the metrics of
    /// the spec, which read what `reads [READING…]` says (`{POD: MILLI…}`, MILLI, or why they do not). `refused WHY` of the
    /// target's scale.
    fn obey(&mut self, line: &str) {
        let words: Vec<_> = line.splitn(3, ' ').collect();
        let number = |text: &str| text.parse::<i64>().unwrap();
        match words[..] {
            ["new", replicas, spec] => {
                *self = Self { replicas: replicas.parse().unwrap(), ..Self::default() };
                let target = json!({"kind": "Deployment", "name": "web"});
                golden::change(
                    &mut self.own,
                    &json!({"metadata": {"name": "web", "namespace": "ns"},
                    "spec": {"minReplicas": 1, "maxReplicas": 100, "scaleTargetRef": target}}),
                );
                let spec: Value = serde_json::from_str(spec).unwrap();
                golden::change(&mut self.own, &json!({"spec": spec}));
                self.memory.begin(self.replicas, self.now());
                self.obey(&format!("pods {replicas}"));
            }
            ["pods", count] => {
                let names = ('a'..='z').take(count.parse().unwrap()).map(|name| name.to_string());
                self.pods = names.map(|name| (name, json!({}))).collect();
            }
            ["pod", name, changes] => {
                self.pods.insert(name.to_owned(), serde_json::from_str(changes).unwrap());
            }
            ["use", ..] => {
                let all = line.split(' ').skip(1).map(|one| one.split_once('=').unwrap());
                self.usage = all.map(|(pod, milli)| (pod.to_owned(), number(milli))).collect();
            }
            ["after", seconds] => self.now_s += number(seconds),
            ["reads", ..] => self.reads = serde_json::from_str(line.split_once(' ').unwrap().1).unwrap(),
            ["refused", ..] => self.refusal = line.split_once(' ').map(|(_, why)| why.to_owned()),
            ["look", _] => self.look(),
            ["asks", ..] => line.split(' ').skip(1).for_each(|asked| self.settle(asked.parse().unwrap())),
            ["value", now, target] => self.ask(|scene, _| scene.by_value(number(now), number(target))),
            ["share", now, target] => self.ask(|scene, _| Ok(scene.by_average(number(now), number(target)))),
            [resource, target, ref container @ ..] => {
                let target = match target.strip_suffix('%') {
                    Some(percent) => Target::Percent(percent.parse().unwrap(), container.first().copied()),
                    None => Target::Average(number(target)),
                };
                let resource = if resource == "pods-metric" { "" } else { resource };
                self.ask(|scene, samples| scene.by_pods(resource, samples, target));
            }
            _ => panic!("{line}"),
        }
    }

    fn now(&self) -> Timestamp {
        worlds::at(self.now_s)
    }

    fn samples<'a>(&self, of: impl Iterator<Item = (&'a String, i64)>) -> Samples {
        let (taken, window) =
            (worlds::at(self.now_s - MEASURED_S.0), SignedDuration::from_secs(MEASURED_S.1));
        of.map(|(pod, milli)| (pod.clone(), Sample { milli, taken, window })).collect()
    }

    fn scene<'a>(&self, pods: &'a [Arc<Pod>]) -> Scene<'a> {
        let tolerance = Tolerance::of(self.own.spec.behavior.as_ref());
        Scene { wanted: self.replicas, there: self.replicas, pods, tolerance, now: self.now() }
    }

    fn ask(&mut self, measure: impl FnOnce(&Scene<'_>, Samples) -> Result<Proposal, String>) {
        let samples = self.samples(self.usage.iter().map(|(pod, milli)| (pod, *milli)));
        match measure(&self.scene(&pods(&self.pods)), samples) {
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
        let (min, max) = (self.own.spec.min_replicas.unwrap(), self.own.spec.max_replicas);
        let (current, now) = (self.replicas, self.now());
        let bounds = Bounds { current, min, max, behavior: self.own.spec.behavior.as_ref(), now };
        let (replicas, [able, limited]) = self.memory.settle(&bounds, asked);
        if replicas != current {
            self.memory.scaled(current, replicas, now);
        }
        self.replicas = replicas;
        let limited = if limited.holds { format!(" limited: {}", limited.reason) } else { String::new() };
        writeln!(self.told, "{replicas} {}{limited}", able.reason).unwrap();
    }

    /// A look in the runner's order.
    fn look(&mut self) {
        self.now_s += 15;
        let (now, current) = (self.now(), self.replicas);
        let mut status = self.own.status.clone().unwrap_or_default();
        status.current_metrics = None;
        let change = unmeasured(&self.own, current, &mut status, now).or_else(|| self.measured(&mut status));
        if let Some(change) = change.filter(|(wanted, _)| *wanted != current) {
            let outcome = self.refusal.as_deref().map_or(Ok(()), Err);
            let event = rescaled(outcome, &change, now, &mut status);
            if outcome.is_ok() {
                self.memory.scaled(current, change.0, now);
                self.replicas = change.0;
            }
            self.event(event);
        }
        self.tell(&status);
        self.own.status = Some(status);
    }

    fn measured(&mut self, status: &mut Status) -> Option<(i32, String)> {
        let pods = pods(&self.pods);
        let metrics = self.own.spec.metrics.iter().flatten().zip(&self.reads);
        let measured = metrics.map(|(metric, read)| {
            let read = match read {
                Value::Object(all) => {
                    let all = all.iter().map(|(pod, milli)| (pod, milli.as_i64().unwrap()));
                    Ok(Reading::Pods(self.samples(all)))
                }
                Value::String(why) => Err(why.clone()),
                milli => Ok(Reading::Value(milli.as_i64().unwrap())),
            };
            measure(&self.scene(&pods), metric, read)
        });
        let (measured, now) = (measured.collect(), (self.replicas, self.now()));
        let (change, warnings) = decide(&self.own, measured, now, status, &mut self.memory);
        warnings.into_iter().for_each(|event| self.event(event));
        change.map_err(|why| self.event((true, "FailedComputeMetricsReplicas", why))).ok()
    }

    fn event(&mut self, (warning, reason, message): Event) {
        let kind = if warning { "Warning" } else { "Normal" };
        writeln!(self.told, "{kind} {reason}: {message}").unwrap();
    }

    fn tell(&mut self, status: &Status) {
        writeln!(self.told, "{} replicas", self.replicas).unwrap();
        for one in status.conditions.iter().flatten() {
            let said = |text: &Option<String>| text.clone().unwrap_or_default();
            let (reason, message) = (said(&one.reason), said(&one.message));
            writeln!(self.told, "{}={} {reason}: {message}", one.type_, one.status).unwrap();
        }
        for one in status.current_metrics.iter().flatten() {
            writeln!(self.told, "{}", json!(one)).unwrap();
        }
    }
}

fn pods(all: &BTreeMap<String, Value>) -> Vec<Arc<Pod>> {
    all.iter().map(|(name, changes)| pod(name, changes)).collect()
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
