//! Runs a Job's pods to completion and counts how they ended, each exactly once.
//!
//! A pod carries a finalizer until its end is in the Job's status: first its uid is written to
//! `status.uncountedTerminatedPods`, then the finalizer goes, then it moves into the counts. A crash
//! between any two of these steps neither loses nor doubles it.

use crate::common::{count, seconds_between};
use crate::indexes::{self, Indexes};
use crate::pods;
use api::Object;
use api::batch::{Job, JobCondition, JobSpec, JobStatus};
use api::meta::Time;
use api::slim::{JOB_INDEX, Pod};
use jiff::Timestamp;
use std::collections::HashSet;
use std::sync::{Arc, LazyLock};

pub(crate) const FINALIZER: &str = "batch.kubernetes.io/job-tracking";
/// The delay after a pod failed: doubles from here up to the limit.
const FIRST_BACKOFF_S: i64 = 10;
const LONGEST_BACKOFF_S: i64 = 600;
/// How many pods one look creates or deletes at most.
const BURST: usize = 500;
const DEFAULT_BACKOFF_LIMIT: i32 = 6;

/// What to do about a Job.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// One pod each, with its completion index where the Job is indexed.
    pub(crate) create: Vec<Option<i32>>,
    pub(crate) delete: Vec<Arc<Pod>>,
    /// Pods whose end is in the status once it is written: take their finalizer.
    pub(crate) untrack: Vec<Arc<Pod>>,
    pub(crate) status: JobStatus,
    /// Warning or not, reason, message.
    pub(crate) events: Vec<(bool, String, String)>,
    pub(crate) look_again_s: Option<i64>,
}

pub(crate) fn spec(job: &Job) -> &JobSpec {
    static NONE: LazyLock<JobSpec> = LazyLock::new(JobSpec::default);
    job.spec.as_ref().unwrap_or(&NONE)
}

pub(crate) fn is_indexed(job: &Job) -> bool {
    spec(job).completion_mode.as_deref() == Some("Indexed")
}

pub(crate) fn condition<'a>(status: &'a JobStatus, kind: &str) -> Option<&'a JobCondition> {
    status.conditions.iter().flatten().find(|condition| condition.type_ == kind && condition.status == "True")
}

/// When it ended for good.
pub(crate) fn finished_at(job: &Job) -> Option<Timestamp> {
    let status = job.status.as_ref()?;
    let condition = condition(status, "Complete").or_else(|| condition(status, "Failed"))?;
    condition.last_transition_time.as_ref().map(|time| time.0)
}

pub(crate) fn is_tracked(pod: &Pod) -> bool {
    pod.metadata.finalizers.iter().flatten().any(|finalizer| &**finalizer == FINALIZER)
}

fn index_of(pod: &Pod) -> Option<i32> {
    pod.annotations().get(JOB_INDEX)?.parse().ok()
}

/// The pods of a Job by what they count as, and the counts with them.
struct Tally {
    active: Vec<Arc<Pod>>,
    terminating: usize,
    succeeded: usize,
    failed: usize,
    completed: Indexes,
}

pub(crate) fn plan(job: &Job, owned: &[Arc<Pod>], now: Timestamp) -> Plan {
    let mut plan = Plan { status: job.status.clone().unwrap_or_default(), ..Plan::default() };
    track(job, owned, &mut plan);
    let tally = tally(job, owned, &plan.status);
    suspend_or_start(job, now, &mut plan);
    let ending = ending(job, &tally, owned, &mut plan, now);
    if ending || spec(job).suspend == Some(true) {
        plan.delete = tally.active.clone();
    } else if !job.is_deleting() {
        match_parallelism(job, &tally, owned, now, &mut plan);
    }
    let active = tally.active.len() + plan.create.len() - plan.delete.len();
    let ready = tally.active.iter().filter(|pod| pods::is_ready(pod)).count();
    plan.status.active = crate::common::nonzero(active);
    plan.status.ready = Some(count(ready));
    plan.status.terminating = Some(count(tally.terminating + plan.delete.len()));
    if ending && tally.active.is_empty() && tally.terminating == 0 && uncounted(&plan.status).is_empty() {
        finish(&mut plan, now);
    }
    plan
}

/// Takes finished pods into the status, and out of the uncounted ones whose finalizer is gone.
fn track(job: &Job, owned: &[Arc<Pod>], plan: &mut Plan) {
    let status = &mut plan.status;
    let mut lists = status.uncounted_terminated_pods.take().unwrap_or_default();
    let tracked: HashSet<&str> = owned.iter().filter(|pod| is_tracked(pod)).map(|pod| pod.uid()).collect();
    let settle = |list: &mut Option<Vec<String>>| {
        let list = list.get_or_insert_default();
        let before = list.len();
        list.retain(|uid| tracked.contains(uid.as_str()));
        count(before - list.len())
    };
    let (succeeded, failed) = (settle(&mut lists.succeeded), settle(&mut lists.failed));
    let add =
        |total: &mut Option<i32>, more: i32| *total = Some(total.unwrap_or(0) + more).filter(|sum| *sum > 0);
    if !is_indexed(job) {
        add(&mut status.succeeded, succeeded);
    }
    add(&mut status.failed, failed);
    for pod in owned.iter().filter(|pod| is_tracked(pod)) {
        let list = match pods::phase(pod) {
            "Succeeded" => lists.succeeded.get_or_insert_default(),
            _ if has_failed(job, pod) => lists.failed.get_or_insert_default(),
            _ => continue,
        };
        if !list.iter().any(|uid| uid == pod.uid()) {
            list.push(pod.uid().to_owned());
        }
        plan.untrack.push(pod.clone());
    }
    if is_indexed(job) {
        let completions = spec(job).completions.unwrap_or(0);
        let mut completed = indexes::parse(status.completed_indexes.as_deref().unwrap_or(""), completions);
        let succeeded = owned.iter().filter(|pod| pods::phase(pod) == "Succeeded");
        completed.extend(succeeded.filter_map(|pod| index_of(pod)).filter(|index| *index < completions));
        status.succeeded = crate::common::nonzero(completed.len());
        status.completed_indexes = Some(indexes::format(&completed)).filter(|text| !text.is_empty());
    }
    lists.succeeded = lists.succeeded.filter(|list| !list.is_empty());
    lists.failed = lists.failed.filter(|list| !list.is_empty());
    status.uncounted_terminated_pods = Some(lists);
}

/// A pod that is being deleted has failed too, unless only ends count (`podReplacementPolicy`).
fn has_failed(job: &Job, pod: &Pod) -> bool {
    let waits_for_the_end = spec(job).pod_replacement_policy.as_deref() == Some("Failed");
    pods::phase(pod) == "Failed"
        || (pod.is_deleting() && pods::phase(pod) != "Succeeded" && !waits_for_the_end)
}

fn uncounted(status: &JobStatus) -> Vec<&String> {
    let lists = status.uncounted_terminated_pods.as_ref();
    lists.into_iter().flat_map(|lists| lists.succeeded.iter().chain(&lists.failed).flatten()).collect()
}

fn tally(job: &Job, owned: &[Arc<Pod>], status: &JobStatus) -> Tally {
    let length = |list: Option<&Vec<String>>| list.map_or(0, Vec::len);
    let lists = status.uncounted_terminated_pods.clone().unwrap_or_default();
    let counted = |number: Option<i32>| usize::try_from(number.unwrap_or(0)).unwrap_or(0);
    let completions = spec(job).completions.unwrap_or(0);
    let not_yet = if is_indexed(job) { 0 } else { length(lists.succeeded.as_ref()) };
    Tally {
        active: owned.iter().filter(|pod| pods::is_active(pod)).cloned().collect(),
        terminating: owned.iter().filter(|pod| pod.is_deleting() && !pods::is_finished(pod)).count(),
        succeeded: counted(status.succeeded) + not_yet,
        failed: counted(status.failed) + length(lists.failed.as_ref()),
        completed: indexes::parse(status.completed_indexes.as_deref().unwrap_or(""), completions),
    }
}

fn suspend_or_start(job: &Job, now: Timestamp, plan: &mut Plan) {
    let suspended = condition(&plan.status, "Suspended").is_some();
    if spec(job).suspend == Some(true) {
        if !suspended {
            set(&mut plan.status, "Suspended", "True", ("JobSuspended", "Job suspended"), now);
            plan.events.push((false, "Suspended".to_owned(), "Job suspended".to_owned()));
        }
        plan.status.start_time = None;
        return;
    }
    if suspended {
        set(&mut plan.status, "Suspended", "False", ("JobResumed", "Job resumed"), now);
        plan.events.push((false, "Resumed".to_owned(), "Job resumed".to_owned()));
    }
    plan.status.start_time.get_or_insert(Time(now));
}

/// Whether the Job is on its way to its end; notes which (`SuccessCriteriaMet`, `FailureTarget`).
fn ending(job: &Job, tally: &Tally, owned: &[Arc<Pod>], plan: &mut Plan, now: Timestamp) -> bool {
    if condition(&plan.status, "SuccessCriteriaMet").or(condition(&plan.status, "FailureTarget")).is_some() {
        return true;
    }
    let limit = spec(job).backoff_limit.unwrap_or(DEFAULT_BACKOFF_LIMIT);
    let left_s = spec(job).active_deadline_seconds.and_then(|deadline_s| {
        let started = plan.status.start_time.as_ref()?.0;
        Some(deadline_s - seconds_between(started, now))
    });
    let failure = if count(tally.failed) > limit || restarted_too_often(job, owned, limit) {
        Some(("BackoffLimitExceeded", "Job has reached the specified backoff limit"))
    } else if left_s.is_some_and(|left_s| left_s <= 0) {
        Some(("DeadlineExceeded", "Job was active longer than specified deadline"))
    } else {
        None
    };
    if let Some(why) = failure {
        set(&mut plan.status, "FailureTarget", "True", why, now);
        return true;
    }
    plan.look_again_s = left_s;
    let enough = match spec(job).completions {
        Some(completions) => count(tally.succeeded) >= completions,
        // A work queue: one success says that it is empty, and the others are to finish.
        None => tally.succeeded > 0 && tally.active.is_empty(),
    };
    if enough && spec(job).suspend != Some(true) {
        let why = ("CompletionsReached", "Reached expected number of succeeded pods");
        set(&mut plan.status, "SuccessCriteriaMet", "True", why, now);
    }
    enough && spec(job).suspend != Some(true)
}

/// Containers that are restarted in place count against the limit too (`restartPolicy: OnFailure`).
fn restarted_too_often(job: &Job, owned: &[Arc<Pod>], limit: i32) -> bool {
    let policy = spec(job).template.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref());
    let restarts = |pod: &Arc<Pod>| -> i32 {
        let Some(status) = &pod.status else { return 0 };
        let all = status.init_container_statuses.iter().chain(&status.container_statuses).flatten();
        all.map(|container| container.restart_count).sum()
    };
    let total: i32 = owned.iter().filter(|pod| !pods::is_finished(pod)).map(restarts).sum();
    policy == Some("OnFailure") && total > 0 && total >= limit
}

fn match_parallelism(job: &Job, tally: &Tally, owned: &[Arc<Pod>], now: Timestamp, plan: &mut Plan) {
    let parallelism = usize::try_from(spec(job).parallelism.unwrap_or(1)).unwrap_or(0);
    let wanted = match spec(job).completions {
        Some(completions) => {
            parallelism.min(usize::try_from(completions).unwrap_or(0).saturating_sub(tally.succeeded))
        }
        None if tally.succeeded > 0 => tally.active.len().min(parallelism),
        None => parallelism,
    };
    let waits_for_the_end = spec(job).pod_replacement_policy.as_deref() == Some("Failed");
    let there = tally.active.len() + if waits_for_the_end { tally.terminating } else { 0 };
    if tally.active.len() > wanted {
        let mut active = tally.active.clone();
        active.sort_by_key(|pod| {
            (pods::is_ready(pod), std::cmp::Reverse(crate::common::created(&pod.metadata)))
        });
        active.truncate((tally.active.len() - wanted).min(BURST));
        plan.delete = active;
        return;
    }
    let missing = wanted.saturating_sub(there).min(BURST);
    let delay_s = if missing > 0 { backoff_s(owned, now) } else { 0 };
    if delay_s > 0 {
        plan.look_again_s = Some(plan.look_again_s.map_or(delay_s, |other| other.min(delay_s)));
    } else if is_indexed(job) {
        let running: HashSet<i32> = tally.active.iter().filter_map(|pod| index_of(pod)).collect();
        let open = |index: &i32| !running.contains(index) && !tally.completed.contains(index);
        plan.create = (0..spec(job).completions.unwrap_or(0)).filter(open).take(missing).map(Some).collect();
    } else {
        plan.create = vec![None; missing];
    }
}

/// How long to wait before the next pod: longer with every failure since the last success.
fn backoff_s(owned: &[Arc<Pod>], now: Timestamp) -> i64 {
    let last_success = owned.iter().filter(|pod| pods::phase(pod) == "Succeeded").map(|pod| ended(pod)).max();
    let failures = owned.iter().filter(|pod| pods::phase(pod) == "Failed").map(|pod| ended(pod));
    let recent: Vec<_> = failures.filter(|at| last_success.is_none_or(|success| *at > success)).collect();
    let Some(last) = recent.iter().max() else { return 0 };
    let doublings = u32::try_from(recent.len() - 1).unwrap_or(u32::MAX).min(16);
    let delay_s = (FIRST_BACKOFF_S << doublings).min(LONGEST_BACKOFF_S);
    (delay_s - seconds_between(*last, now)).max(0)
}

fn ended(pod: &Pod) -> Timestamp {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    let finished = statuses.into_iter().flatten().filter_map(|container| {
        container.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref().map(|time| time.0)
    });
    finished.max().unwrap_or_else(|| crate::common::created(&pod.metadata))
}

/// Everything has ended and is counted: say so for good.
fn finish(plan: &mut Plan, now: Timestamp) {
    let status = &mut plan.status;
    if let Some(failure) = condition(status, "FailureTarget").cloned() {
        let (reason, message) = (failure.reason.unwrap_or_default(), failure.message.unwrap_or_default());
        set(status, "Failed", "True", (&reason, &message), now);
        plan.events.push((true, reason, message));
    } else {
        let why = ("CompletionsReached", "Reached expected number of succeeded pods");
        set(status, "Complete", "True", why, now);
        status.completion_time = Some(Time(now));
        plan.events.push((false, "Completed".to_owned(), "Job completed".to_owned()));
    }
}

fn set(status: &mut JobStatus, kind: &str, value: &str, (reason, message): (&str, &str), now: Timestamp) {
    let conditions = status.conditions.get_or_insert_default();
    conditions.retain(|condition| condition.type_ != kind);
    conditions.push(JobCondition {
        type_: kind.to_owned(),
        status: value.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_probe_time: Some(Time(now)),
        last_transition_time: Some(Time(now)),
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + seconds).unwrap()
    }

    fn job(spec: Value) -> Job {
        let mut whole = json!({"template": {"spec": {"restartPolicy": "Never", "containers": []}}});
        spec.as_object().unwrap().iter().for_each(|(key, value)| whole[key] = value.clone());
        serde_json::from_value(
            json!({"metadata": {"name": "j", "namespace": "ns", "uid": "j"}, "spec": whole}),
        )
        .unwrap()
    }

    /// `name phase tracked|counted [index]`; ended at second 0.
    fn pods(texts: &[&str]) -> Vec<Arc<Pod>> {
        let pod = |text: &&str| {
            let words: Vec<_> = text.split(' ').collect();
            let finalizers = if words[2] == "tracked" { vec![FINALIZER] } else { vec![] };
            let annotations = words.get(3).map(|index| json!({JOB_INDEX: index}));
            let ended = json!([{"name": "c", "ready": false, "restartCount": 0, "image": "", "imageID": "",
                "state": {"terminated": {"exitCode": 1, "finishedAt": at(0).to_string()}}}]);
            Arc::new(
                serde_json::from_value(json!({"metadata": {"name": words[0], "uid": words[0],
                "finalizers": finalizers, "annotations": annotations},
                "spec": {"containers": []}, "status": {"phase": words[1], "containerStatuses": ended}}))
                .unwrap(),
            )
        };
        texts.iter().map(pod).collect()
    }

    /// One look, whose status the job then has.
    fn step(job: &mut Job, texts: &[&str], seconds: i64) -> String {
        let plan = plan(job, &pods(texts), at(seconds));
        let names =
            |pods: &[Arc<Pod>]| pods.iter().map(|pod| pod.name().to_owned()).collect::<Vec<_>>().join(",");
        let status = &plan.status;
        let said: Vec<_> = status
            .conditions
            .iter()
            .flatten()
            .filter(|it| it.status == "True")
            .map(|it| it.type_.as_str())
            .collect();
        let again = plan.look_again_s.map_or(String::new(), |seconds| format!(" again in {seconds} s"));
        let text = format!(
            "create {:?} delete {} untrack {} | active {} succeeded {} failed {} uncounted {} {said:?}{again}",
            plan.create.iter().map(|index| index.unwrap_or(-1)).collect::<Vec<_>>(),
            names(&plan.delete),
            names(&plan.untrack),
            status.active.unwrap_or(0),
            status.succeeded.unwrap_or(0),
            status.failed.unwrap_or(0),
            uncounted(status).len(),
        );
        job.status = Some(plan.status);
        text
    }

    #[test]
    fn a_job_runs_to_completion_and_counts_each_pod_once() {
        let mut job = job(json!({"completions": 2, "parallelism": 2}));
        assert_eq!(
            step(&mut job, &[], 0),
            "create [-1, -1] delete  untrack  | active 2 succeeded 0 failed 0 uncounted 0 []"
        );
        assert_eq!(
            step(&mut job, &["a Succeeded tracked", "b Running tracked"], 1),
            "create [] delete  untrack a | active 1 succeeded 0 failed 0 uncounted 1 []"
        );
        assert_eq!(
            step(&mut job, &["a Succeeded counted", "b Succeeded tracked"], 2),
            "create [] delete  untrack b | active 0 succeeded 1 failed 0 uncounted 1 [\"SuccessCriteriaMet\"]"
        );
        // The pod was deleted before its finalizer was seen to be gone: it counts all the same.
        assert_eq!(
            step(&mut job, &["a Succeeded counted"], 3),
            "create [] delete  untrack  | active 0 succeeded 2 failed 0 uncounted 0 [\"SuccessCriteriaMet\", \"Complete\"]"
        );
        assert_eq!(finished_at(&job), Some(at(3)));
    }

    #[test]
    fn failures_back_off_and_end_the_job_at_the_limit() {
        let mut job = job(json!({"completions": 1, "parallelism": 1, "backoffLimit": 1}));
        step(&mut job, &[], 0);
        assert_eq!(
            step(&mut job, &["a Failed tracked"], 1),
            "create [] delete  untrack a | active 0 succeeded 0 failed 0 uncounted 1 [] again in 9 s"
        );
        assert_eq!(
            step(&mut job, &["a Failed counted"], 10),
            "create [-1] delete  untrack  | active 1 succeeded 0 failed 1 uncounted 0 []"
        );
        assert_eq!(
            step(&mut job, &["a Failed counted", "b Failed tracked"], 11),
            "create [] delete  untrack b | active 0 succeeded 0 failed 1 uncounted 1 [\"FailureTarget\"]"
        );
        assert!(
            step(&mut job, &["a Failed counted", "b Failed counted"], 12)
                .ends_with("failed 2 uncounted 0 [\"FailureTarget\", \"Failed\"]")
        );
    }

    #[test]
    fn a_deadline_ends_what_runs() {
        let mut job = job(json!({"completions": 1, "activeDeadlineSeconds": 5}));
        assert!(step(&mut job, &[], 0).ends_with("again in 5 s"));
        assert_eq!(
            step(&mut job, &["a Running tracked"], 5),
            "create [] delete a untrack  | active 0 succeeded 0 failed 0 uncounted 0 [\"FailureTarget\"]"
        );
    }

    #[test]
    fn suspension_stops_pods_and_the_clock() {
        let mut job = job(json!({"completions": 1, "suspend": true}));
        assert_eq!(
            step(&mut job, &["a Running tracked"], 0),
            "create [] delete a untrack  | active 0 succeeded 0 failed 0 uncounted 0 [\"Suspended\"]"
        );
        assert_eq!(job.status.as_ref().unwrap().start_time, None);
        job.spec.as_mut().unwrap().suspend = Some(false);
        assert!(step(&mut job, &[], 9).starts_with("create [-1]"));
        assert_eq!(job.status.unwrap().start_time, Some(Time(at(9))));
    }

    #[test]
    fn indexes_are_completed_each_on_its_own() {
        let mut job = job(json!({"completions": 4, "parallelism": 3, "completionMode": "Indexed"}));
        assert!(step(&mut job, &[], 0).starts_with("create [0, 1, 2]"));
        let running = ["a Running tracked 0", "b Succeeded tracked 1", "c Running tracked 2"];
        assert!(step(&mut job, &running, 1).starts_with("create [3]"));
        assert_eq!(job.status.unwrap().completed_indexes.as_deref(), Some("1"));
    }
}
