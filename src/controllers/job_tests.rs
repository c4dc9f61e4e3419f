//! Lives of Jobs: what is planned, carried out and counted, also if it is cut off at any step.

use crate::golden;
use crate::job::*;
use crate::pods;
use api::Object;
use api::batch::Job;
use api::slim::{IGNORED_FAILURES, INDEX_FAILURES, JOB_INDEX, Pod};
use jiff::Timestamp;
use serde_json::{Value, json};
use std::fmt::Write;
use std::sync::Arc;

/// More passes than any Job of the tests needs to come to rest.
const MANY: usize = 50;

/// A Job, its pods as the API has them, and the time in seconds.
struct World {
    job: Job,
    pods: Vec<Value>,
    made: usize,
    now_s: i64,
    log: String,
    backoff: Option<Backoff>,
    /// After how many actions of a look it is cut off, once.
    cut_after: Option<usize>,
    was_cut: bool,
}

impl World {
    fn new() -> Self {
        let (job, log) = (Job::default(), String::new());
        Self { job, pods: Vec::new(), made: 0, now_s: 0, log, backoff: None, cut_after: None, was_cut: false }
    }

    fn at(&self) -> Timestamp {
        Timestamp::from_second(1_000_000 + self.now_s).unwrap()
    }

    /// `new JSON | set JSON | at SECONDS | delete POD | POD PHASE [CODE | CONDITION]`.
    fn obey(&mut self, line: &str) {
        let (word, rest) = line.split_once(' ').unwrap();
        match word {
            "new" => {
                let whole = json!({"metadata": {"name": "j", "namespace": "ns", "uid": "j"},
                    "spec": {"template": {"spec": {"restartPolicy": "Never", "containers": []}}}});
                (self.job, self.pods, self.made, self.now_s) =
                    (serde_json::from_value(whole).unwrap(), Vec::new(), 0, 0);
                self.backoff = None;
                self.set(rest);
            }
            "set" => self.set(rest),
            "at" => self.now_s = rest.parse().unwrap(),
            "delete" => {
                let now = self.at().to_string();
                self.pod(rest)["metadata"]["deletionTimestamp"] = json!(now);
            }
            "gone" => self.pods.retain(|pod| pod["metadata"]["name"] != rest),
            name => self.end(name, rest),
        }
    }

    fn set(&mut self, changes: &str) {
        let mut job = serde_json::to_value(&self.job).unwrap();
        let changes: Value = serde_json::from_str(changes).unwrap();
        for (key, value) in changes.as_object().unwrap() {
            job["spec"][key] = value.clone();
        }
        self.job = serde_json::from_value(job).unwrap();
    }

    fn pod(&mut self, name: &str) -> &mut Value {
        self.pods.iter_mut().find(|pod| pod["metadata"]["name"] == name).unwrap()
    }

    /// A pod reaches a phase, with the exit code of its container or a condition.
    fn end(&mut self, name: &str, how: &str) {
        let words: Vec<_> = how.split(' ').collect();
        let now = self.at().to_string();
        let pod = self.pod(name);
        pod["status"]["phase"] = json!(words[0]);
        let code = words.get(1).and_then(|word| word.parse::<i32>().ok());
        if matches!(words[0], "Succeeded" | "Failed") {
            let code = code.unwrap_or_else(|| i32::from(words[0] == "Failed"));
            pod["status"]["containerStatuses"] =
                json!([{"name": "main", "state": {"terminated": {"exitCode": code, "finishedAt": now}}}]);
        } else if words[0] == "Running" {
            pod["status"]["containerStatuses"] = json!([{"name": "main", "restartCount": code.unwrap_or(0)}]);
        }
        if let Some(condition) = words.get(1).filter(|_| code.is_none()) {
            pod["status"]["conditions"] = json!([{"type": condition, "status": "True"}]);
        }
    }

    fn cut(&mut self) -> bool {
        match &mut self.cut_after {
            Some(0) => {
                // Who is started again has no memory.
                (self.cut_after, self.was_cut, self.backoff) = (None, true, None);
                true
            }
            Some(left) => {
                *left -= 1;
                false
            }
            None => false,
        }
    }

    /// Looks and acts until there is nothing to do.
    fn rest(&mut self) {
        for _ in 0..MANY {
            let owned: Vec<Arc<Pod>> =
                self.pods.iter().map(|pod| Arc::new(serde_json::from_value(pod.clone()).unwrap())).collect();
            let done = finished_at(&self.job).is_some();
            let plan = if done {
                Plan::default()
            } else {
                plan(&self.job, &owned, self.backoff.as_ref(), self.at())
            };
            if done || self.is_idle(&plan) {
                if let Some(seconds) = plan.look_again_s {
                    writeln!(self.log, "look again in {seconds} s").unwrap();
                }
                return;
            }
            self.act(plan);
        }
        panic!("no rest:\n{}", self.log);
    }

    fn is_idle(&self, plan: &Plan) -> bool {
        let acts = plan.create.len() + plan.delete.len() + plan.untrack.len();
        acts == 0 && self.job.status.as_ref() == Some(&plan.status)
    }

    /// Acts in the runner's order.
    fn act(&mut self, plan: Plan) {
        for pod in &plan.delete {
            if self.cut() {
                return;
            }
            writeln!(self.log, "{} {}", if plan.forget_deleted { "drop" } else { "end" }, pod.name())
                .unwrap();
            if plan.forget_deleted {
                self.untrack(pod.name());
            }
            // The node ends it at once.
            self.obey(&format!("delete {}", pod.name()));
            self.end(pod.name(), "Failed 143");
            self.collect();
        }
        for new in &plan.create {
            if self.cut() {
                return;
            }
            self.make(*new);
        }
        if self.cut() {
            return;
        }
        self.job.status = Some(plan.status);
        self.backoff = Some(plan.backoff);
        for (warning, reason, message) in plan.events {
            writeln!(self.log, "{} {reason}: {message}", if warning { "Warning" } else { "Normal" }).unwrap();
        }
        for pod in &plan.untrack {
            if self.cut() {
                return;
            }
            writeln!(self.log, "count {}", pod.name()).unwrap();
            self.untrack(pod.name());
            self.collect();
        }
    }

    fn make(&mut self, new: crate::job_index::NewPod) {
        let name = format!("p{}", self.made);
        self.made += 1;
        let mut annotations = json!({});
        let mut text = format!("create {name}");
        if let Some(index) = new.index {
            annotations[JOB_INDEX] = json!(index.to_string());
            write!(text, " of {index}").unwrap();
        }
        if let Some(failures) = new.failures {
            annotations[INDEX_FAILURES] = json!(failures.counted.to_string());
            annotations[IGNORED_FAILURES] = json!(failures.ignored.to_string());
            write!(text, " after {} and {} failures", failures.counted, failures.ignored).unwrap();
        }
        writeln!(self.log, "{text}").unwrap();
        let created = self.at().to_string();
        self.pods.push(
            json!({"metadata": {"name": name, "namespace": "ns", "uid": name, "annotations": annotations,
            "finalizers": [FINALIZER], "creationTimestamp": created}, "spec": {"containers": []},
            "status": {"phase": "Pending"}}),
        );
    }

    fn untrack(&mut self, name: &str) {
        self.pod(name)["metadata"]["finalizers"] = json!([]);
    }

    /// What is deleted goes with its last finalizer.
    fn collect(&mut self) {
        self.pods.retain(|pod| {
            let deleted = !pod["metadata"]["deletionTimestamp"].is_null();
            !deleted || pod["metadata"]["finalizers"] != json!([])
        });
    }

    fn told(&self) -> String {
        let Some(status) = &self.job.status else { return String::new() };
        let [succeeded, failed] = [status.succeeded, status.failed].map(|count| count.unwrap_or(0));
        let mut text = format!("active {} succeeded {succeeded} failed {failed}", status.active.unwrap_or(0));
        for (name, indexes) in [("completed", &status.completed_indexes), ("failed", &status.failed_indexes)]
        {
            if let Some(indexes) = indexes {
                write!(text, " {name} [{indexes}]").unwrap();
            }
        }
        let conditions = status.conditions.iter().flatten().filter(|condition| condition.status == "True");
        for condition in conditions {
            let [reason, message] =
                [&condition.reason, &condition.message].map(|it| it.as_deref().unwrap_or(""));
            write!(text, "\n{}: {reason}: {message}", condition.type_).unwrap();
        }
        text
    }

    fn case(&mut self, input: &str) -> String {
        self.log.clear();
        input.lines().filter(|line| !line.starts_with('#')).for_each(|line| self.obey(line));
        self.rest();
        format!("{}{}\n", self.log, self.told())
    }
}

#[test]
fn jobs_live_as_told() {
    let mut world = World::new();
    golden::check("jobs.txt", |input| world.case(input));
}

/// Whenever the controller is cut off, within any look, the next look ends at the same.
#[test]
fn a_cut_at_any_step_changes_nothing() {
    let told = |lines: &[&str], cut: Option<(usize, usize)>| {
        let mut world = World::new();
        for (at, line) in lines.iter().enumerate() {
            world.cut_after = cut.filter(|(block, _)| *block == at).map(|(_, actions)| actions);
            world.case(line);
        }
        (world.told(), world.made, world.was_cut)
    };
    let lives: [&[&str]; 4] = [
        &[
            r#"new {"completions": 3, "parallelism": 2}"#,
            "p0 Succeeded",
            "p1 Failed 1",
            "at 20",
            "p2 Succeeded",
            "p3 Succeeded",
        ],
        &[
            r#"new {"completions": 3, "parallelism": 3, "completionMode": "Indexed", "backoffLimitPerIndex": 1}"#,
            "p0 Failed 1",
            "at 20",
            "p1 Succeeded",
            "p3 Failed 1",
            "p2 Succeeded",
        ],
        &[r#"new {"completions": 2, "parallelism": 2, "backoffLimit": 0}"#, "p0 Failed 1"],
        &[
            r#"new {"completions": 2, "parallelism": 2}"#,
            r#"set {"suspend": true}"#,
            r#"set {"suspend": false}"#,
        ],
    ];
    for life in lives {
        let (whole, made, _) = told(life, None);
        for block in 0..life.len() {
            let cuts = (0..).map(|actions| told(life, Some((block, actions))));
            for (then, made_then, was_cut) in cuts.take_while(|(_, _, was_cut)| *was_cut) {
                assert_eq!((then, made_then), (whole.clone(), made), "{life:?} cut in {block}; {was_cut}");
            }
        }
    }
}

/// An ignored failure is nowhere in the status; it delays the next pod once all the same, however often it is
/// looked at before its finalizer is seen to be gone.
#[test]
fn a_failure_delays_once() {
    let ignore = json!([{"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]}]);
    let mut world = World::new();
    world.obey(&format!(r#"new {{"podFailurePolicy": {{"rules": {ignore}}}}}"#));
    world.rest();
    world.obey("p0 Failed DisruptionTarget");
    let pods = [Arc::new(serde_json::from_value::<Pod>(world.pods[0].clone()).unwrap())];
    let first = plan(&world.job, &pods, world.backoff.as_ref(), world.at());
    let again = plan(&world.job, &pods, Some(&first.backoff), world.at());
    assert_eq!([first.look_again_s, again.look_again_s], [Some(10); 2]);
}

#[test]
fn ends_are_read_where_they_stand() {
    let pod = |value: Value| -> Pod { serde_json::from_value(value).unwrap() };
    let at = "2026-01-01T00:00:05Z";
    let meta = json!({"creationTimestamp": "2026-01-01T00:00:00Z"});
    let unready = json!([{"type": "Ready", "status": "False", "lastTransitionTime": at}]);
    let ready = pod(json!({"metadata": meta, "status": {"conditions": unready}}));
    let deleted = pod(json!({"metadata": {"deletionTimestamp": at}}));
    let ended_at: Timestamp = at.parse().unwrap();
    assert_eq!([ended(&ready), ended(&deleted)], [ended_at; 2]);
    assert_eq!(ended(&pod(json!({"metadata": meta}))).to_string(), "2026-01-01T00:00:00Z");
    assert!(!pods::is_finished(&ready));
}
