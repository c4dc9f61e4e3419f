//! Lives of Jobs: what is planned, carried out and counted, also if it is cut off at any step.

use crate::golden::{self, Fault, Life, Log};
use crate::job::*;
use crate::pods;
use api::Object;
use api::batch::Job;
use api::slim::{IGNORED_FAILURES, INDEX_FAILURES, JOB_INDEX, Pod};
use jiff::Timestamp;
use serde_json::{Value, json};
use std::fmt::Write;
use std::sync::Arc;

/// A Job, its pods as the API has them, and the time in seconds.
#[derive(Clone, Default)]
struct World {
    job: Job,
    pods: Vec<Value>,
    made: usize,
    now_s: i64,
    backoff: Option<Backoff>,
}

impl Life for World {
    /// `new JSON | set JSON | at SECONDS | delete POD | POD PHASE [CODE | CONDITION]`.
    fn obey(&mut self, line: &str) {
        let (word, rest) = line.split_once(' ').unwrap();
        match word {
            "new" => {
                let whole = json!({"metadata": {"name": "j", "namespace": "ns", "uid": "j"},
                    "spec": {"template": {"spec": {"restartPolicy": "Never", "containers": []}}}});
                self.job = serde_json::from_value(whole).unwrap();
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

    fn look(&mut self, log: &mut Log) -> bool {
        if finished_at(&self.job).is_some() {
            return false;
        }
        let owned = self.owned();
        let plan = plan(&self.job, &owned, self.backoff.as_ref(), self.at());
        let acts = plan.create.len() + plan.delete.len() + plan.untrack.len();
        if acts == 0 && self.job.status.as_ref() == Some(&plan.status) {
            log.waits(false, plan.look_again_s);
            return false;
        }
        self.act(plan, log);
        true
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

    fn made(&self) -> usize {
        self.made
    }
}

impl World {
    fn at(&self) -> Timestamp {
        Timestamp::from_second(1_000_000 + self.now_s).unwrap()
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

    fn owned(&self) -> Vec<Arc<Pod>> {
        let read = |pod: &Value| Arc::new(serde_json::from_value(pod.clone()).unwrap());
        self.pods.iter().map(read).collect()
    }

    /// Acts in the runner's order.
    fn act(&mut self, plan: Plan, log: &mut Log) {
        let told_first = plan.create.is_empty();
        if told_first && log.is_cut() {
            return;
        }
        if told_first {
            self.job.status = Some(plan.status.clone());
        }
        for pod in &plan.delete {
            if !log.does(format_args!("{} {}", if plan.forget_deleted { "drop" } else { "end" }, pod.name()))
            {
                return;
            }
            if plan.forget_deleted {
                self.untrack(pod.name());
            }
            // The node ends it at once.
            self.obey(&format!("delete {}", pod.name()));
            self.end(pod.name(), "Failed 143");
            self.collect();
        }
        for new in &plan.create {
            if !self.make(*new, log) {
                return;
            }
        }
        if log.is_cut() {
            return;
        }
        // Once more is as good as once.
        self.job.status = Some(plan.status);
        self.backoff = Some(plan.backoff);
        for (warning, reason, message) in plan.events {
            log.say(format_args!("{} {reason}: {message}", if warning { "Warning" } else { "Normal" }));
        }
        for pod in &plan.untrack {
            if !log.does(format_args!("count {}", pod.name())) {
                return;
            }
            self.untrack(pod.name());
            self.collect();
        }
    }

    fn make(&mut self, new: crate::job_index::NewPod, log: &mut Log) -> bool {
        let name = format!("p{}", self.made);
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
        if !log.does(text) {
            return false;
        }
        self.made += 1;
        let created = self.at().to_string();
        self.pods.push(
            json!({"metadata": {"name": name, "namespace": "ns", "uid": name, "annotations": annotations,
            "finalizers": [FINALIZER], "creationTimestamp": created}, "spec": {"containers": []},
            "status": {"phase": "Pending"}}),
        );
        true
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
}

#[test]
fn jobs_live_as_told() {
    golden::check_lives::<World>("jobs.txt");
}

/// What is lost with the controller is only how long to wait, as in Kubernetes; here it is kept.
#[test]
fn a_cut_at_any_step_changes_nothing() {
    golden::faults_change_nothing::<World>("jobs.txt", Fault::Cut);
}

/// An ignored failure is nowhere in the status; it delays the next pod once all the same, however often it is
/// looked at before its finalizer is seen to be gone.
#[test]
fn a_failure_delays_once() {
    let ignore = json!([{"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]}]);
    let mut world = World::default();
    world.obey(&format!(r#"new {{"podFailurePolicy": {{"rules": {ignore}}}}}"#));
    world.look(&mut Log::default());
    world.obey("p0 Failed DisruptionTarget");
    let pods = world.owned();
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
