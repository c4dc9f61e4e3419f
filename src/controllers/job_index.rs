//! The indexes of Jobs whose pods each do their own part (`completionMode: Indexed`), and their own limits
//! of failures (`backoffLimitPerIndex`, KEP-3850).
//!
//! How often an index has failed stands on its next pod. The failed pod therefore keeps its finalizer until
//! the next one is there, so that a restart in between does not forget it.

use crate::indexes::{self, Indexes};
use crate::job::{Look, condition, ended, has_failed, is_indexed, is_tracked, spec};
use crate::job_policy::{Verdict, verdict};
use crate::pods;
use api::Object;
use api::batch::{Job, JobStatus};
use api::slim::{IGNORED_FAILURES, INDEX_FAILURES, JOB_INDEX, Pod};
use jiff::Timestamp;
use std::collections::HashMap;
use std::sync::Arc;

/// How often an index has failed: what counts towards its limit, and what does not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Failures {
    pub(crate) counted: i32,
    pub(crate) ignored: i32,
}

impl Failures {
    /// What a pod says of those before it.
    pub(crate) fn before(pod: &Pod) -> Self {
        let number = |key: &str| pod.annotations().get(key).and_then(|text| text.parse::<i32>().ok());
        let number = |key: &str| number(key).filter(|number| *number >= 0).unwrap_or(0);
        Self { counted: number(INDEX_FAILURES), ignored: number(IGNORED_FAILURES) }
    }

    /// With the failure of the pod itself.
    fn with(job: &Job, pod: &Pod) -> Self {
        let mut failures = Self::before(pod);
        match verdict(job, pod) {
            Verdict::Ignore => failures.ignored += 1,
            _ => failures.counted += 1,
        }
        failures
    }

    fn total(self) -> i32 {
        self.counted + self.ignored
    }
}

/// A pod to be made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct NewPod {
    pub(crate) index: Option<i32>,
    /// Of the index so far, where each has its own limit.
    pub(crate) failures: Option<Failures>,
}

/// The pod's index, if it is one of the Job's.
pub(crate) fn index_of(job: &Job, pod: &Pod) -> Option<i32> {
    let index: i32 = pod.annotations().get(JOB_INDEX)?.parse().ok()?;
    (0..spec(job).completions.unwrap_or(0)).contains(&index).then_some(index)
}

pub(crate) fn has_limit_per_index(job: &Job) -> bool {
    is_indexed(job) && spec(job).backoff_limit_per_index.is_some()
}

/// The indexes in the status, and those of pods that are not counted yet.
fn with_new(job: &Job, known: Option<&str>, owned: &[Arc<Pod>], is_new: impl Fn(&Pod) -> bool) -> Indexes {
    let mut all = indexes::parse(known.unwrap_or(""), spec(job).completions.unwrap_or(0));
    let new = owned.iter().filter(|pod| is_tracked(pod) && is_new(pod));
    all.extend(new.filter_map(|pod| index_of(job, pod)));
    all
}

/// The indexes that have succeeded.
pub(crate) fn completed(job: &Job, status: &JobStatus, owned: &[Arc<Pod>]) -> Indexes {
    if !is_indexed(job) {
        return Indexes::new();
    }
    with_new(job, status.completed_indexes.as_deref(), owned, |pod| pods::phase(pod) == "Succeeded")
}

/// The indexes that have failed for good, where each has its own limit; none of them because the Job is ending.
pub(crate) fn failed(job: &Job, status: &JobStatus, owned: &[Arc<Pod>]) -> Option<Indexes> {
    let limit = spec(job).backoff_limit_per_index.filter(|_| is_indexed(job))?;
    let is_over = |pod: &Pod| {
        has_failed(job, pod)
            && match verdict(job, pod) {
                Verdict::FailIndex => true,
                Verdict::Ignore => false,
                Verdict::Count | Verdict::FailJob(_) => Failures::before(pod).counted >= limit,
            }
    };
    let is_ending = condition(status, "FailureTarget").is_some();
    Some(with_new(job, status.failed_indexes.as_deref(), owned, |pod| !is_ending && is_over(pod)))
}

/// Of each index that has failed and is to be tried again, the pod that failed last.
pub(crate) fn to_be_replaced(look: &Look<'_>) -> HashMap<i32, Arc<Pod>> {
    let mut last: HashMap<i32, Arc<Pod>> = HashMap::new();
    let Some(failed) = &look.failed_indexes else { return last };
    let over = |index: &i32| {
        look.completed.contains(index) || failed.contains(index) || look.running.contains(index)
    };
    for pod in look.owned.iter().filter(|pod| is_tracked(pod) && has_failed(look.job, pod)) {
        let Some(index) = index_of(look.job, pod).filter(|index| !over(index)) else { continue };
        let rank = |pod: &Pod| (Failures::before(pod).total(), ended(pod));
        if last.get(&index).is_none_or(|other| rank(other) <= rank(pod)) {
            last.insert(index, pod.clone());
        }
    }
    last
}

/// The pods to make for the first indexes that have none, or how many seconds to wait.
pub(crate) fn open(look: &Look<'_>, missing: usize) -> Result<Vec<NewPod>, i64> {
    let taken = |index: &i32| {
        look.running.contains(index)
            || look.completed.contains(index)
            || look.failed_indexes.as_ref().is_some_and(|failed| failed.contains(index))
            || look.leaving.contains(index)
    };
    let completions = spec(look.job).completions.unwrap_or(0);
    let open: Vec<i32> = (0..completions).filter(|index| !taken(index)).take(missing).collect();
    let wait_s = |index: &i32| look.replaced.get(index).map_or(0, |pod| backoff_s(pod, look.now));
    let due = open.iter().filter(|index| wait_s(index) == 0).map(|index| new_pod(look, *index));
    let due: Vec<_> = due.collect();
    match open.iter().map(wait_s).min() {
        Some(wait_s) if due.is_empty() => Err(wait_s),
        _ => Ok(due),
    }
}

fn new_pod(look: &Look<'_>, index: i32) -> NewPod {
    let before = || look.replaced.get(&index).map(|pod| Failures::with(look.job, pod)).unwrap_or_default();
    NewPod { index: Some(index), failures: has_limit_per_index(look.job).then(before) }
}

/// How long an index waits after its last pod failed.
fn backoff_s(last: &Pod, now: Timestamp) -> i64 {
    let failures = usize::try_from(Failures::before(last).total()).unwrap_or(0) + 1;
    crate::job::delay_s(failures, ended(last), now)
}
