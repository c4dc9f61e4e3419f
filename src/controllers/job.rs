//! Runs a Job's pods to completion and counts how they ended, each exactly once.
//!
//! A pod carries a finalizer until its end is in the Job's status: first its uid is written to
//! `status.uncountedTerminatedPods`, then the finalizer goes, then it moves into the counts. A crash
//! between any two of these steps neither loses nor doubles it. What an end means is said in
//! `job_policy.rs`, what is particular to indexed Jobs in `job_index.rs`.

use crate::common::{count, created, nonzero, seconds_between};
use crate::indexes::{self, Indexes};
use crate::job_index::{self, NewPod, index_of};
use crate::job_policy::{self, Verdict};
use crate::pods;
use api::Object;
use api::batch::{Job, JobCondition, JobSpec, JobStatus, UncountedTerminatedPods};
use api::meta::Time;
use api::slim::Pod;
use jiff::Timestamp;
use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, LazyLock};

pub(crate) const FINALIZER: &str = "batch.kubernetes.io/job-tracking";
/// The delay after a pod failed: doubles from here up to the limit.
const FIRST_BACKOFF_S: i64 = 10;
const LONGEST_BACKOFF_S: i64 = 600;
/// How many pods one look creates or deletes at most.
const BURST: usize = 500;
/// How many pods are counted in one look: their uids stand in the status meanwhile.
const MOST_UNCOUNTED: usize = 500;
const DEFAULT_BACKOFF_LIMIT: i32 = 6;

/// What to do about a Job.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub(crate) create: Vec<NewPod>,
    pub(crate) delete: Vec<Arc<Pod>>,
    /// Those to delete lose their finalizer first: that they are too many is no failure.
    pub(crate) forget_deleted: bool,
    /// Pods whose end is in the status once it is written: take their finalizer.
    pub(crate) untrack: Vec<Arc<Pod>>,
    pub(crate) status: JobStatus,
    /// Warning or not, reason, message.
    pub(crate) events: Vec<(bool, String, String)>,
    pub(crate) look_again_s: Option<i64>,
    pub(crate) backoff: Backoff,
}

/// How many pods have failed since one succeeded, and when the last did. It is kept between looks, for pods
/// may go with their failures.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Backoff {
    failures: usize,
    last: Option<Timestamp>,
    /// The uids of ended pods that are in it and may be seen again. The status does not tell: a failure that
    /// the policy ignores is never written there.
    seen: HashSet<String>,
}

impl Backoff {
    /// After more pods have ended.
    fn after(&self, succeeded: &[Timestamp], failed: &[Timestamp], seen: HashSet<String>) -> Self {
        let success = succeeded.iter().max();
        let since = failed.iter().filter(|at| success.is_none_or(|success| *at > success));
        let (failures, last) = if success.is_some() { (0, None) } else { (self.failures, self.last) };
        Self { failures: failures + since.clone().count(), last: since.max().copied().max(last), seen }
    }

    fn left_s(&self, now: Timestamp) -> i64 {
        self.last.map_or(0, |last| delay_s(self.failures, last, now))
    }
}

impl Plan {
    fn wait(&mut self, seconds: i64) {
        self.look_again_s = Some(self.look_again_s.map_or(seconds, |other| other.min(seconds)));
    }
}

pub(crate) fn spec(job: &Job) -> &JobSpec {
    static NONE: LazyLock<JobSpec> = LazyLock::new(JobSpec::default);
    job.spec.as_ref().unwrap_or(&NONE)
}

pub(crate) fn is_indexed(job: &Job) -> bool {
    spec(job).completion_mode.as_deref() == Some("Indexed")
}

fn is_suspended(job: &Job) -> bool {
    spec(job).suspend == Some(true)
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

/// Only a pod that has ended is replaced, not one that is about to (`podReplacementPolicy`).
fn waits_for_the_end(job: &Job) -> bool {
    spec(job).pod_replacement_policy.as_deref() == Some("Failed") || spec(job).pod_failure_policy.is_some()
}

/// A pod that is being deleted has failed too, unless only ends count.
pub(crate) fn has_failed(job: &Job, pod: &Pod) -> bool {
    let phase = pods::phase(pod);
    phase == "Failed" || (pod.is_deleting() && phase != "Succeeded" && !waits_for_the_end(job))
}

/// The pods of a Job by what they count as, and the counts with them.
pub(crate) struct Look<'a> {
    pub(crate) job: &'a Job,
    pub(crate) owned: &'a [Arc<Pod>],
    pub(crate) now: Timestamp,
    active: Vec<Arc<Pod>>,
    terminating: usize,
    succeeded: usize,
    failed: usize,
    /// The indexes of active pods, and of leaving ones that are not replaced before they are gone.
    pub(crate) running: HashSet<i32>,
    pub(crate) leaving: HashSet<i32>,
    pub(crate) completed: Indexes,
    pub(crate) failed_indexes: Option<Indexes>,
    /// Failed pods that stay until the next pod of their index is there.
    pub(crate) replaced: HashMap<i32, Arc<Pod>>,
}

/// `known` is what the last look gave, if there was one.
pub(crate) fn plan(job: &Job, owned: &[Arc<Pod>], known: Option<&Backoff>, now: Timestamp) -> Plan {
    let mut plan = Plan { status: job.status.clone().unwrap_or_default(), ..Plan::default() };
    settle(&mut plan.status, owned);
    if !is_suspended(job) {
        plan.status.start_time.get_or_insert(Time(now));
    }
    let look = Look::new(job, owned, &plan.status, now);
    plan.backoff = look.backoff(known);
    let mut ending = look.ending(&mut plan);
    if ending {
        plan.delete.clone_from(&look.active);
    } else {
        if !job.is_deleting() {
            look.manage(&mut plan);
        }
        ending = look.complete(&mut plan);
        if !ending && !job.is_deleting() {
            look.note_suspension(&mut plan);
        }
    }
    let all_counted = look.track(&mut plan, ending);
    look.count_running(&mut plan);
    if ending && all_counted && look.active.is_empty() && look.terminating == 0 {
        finish(job, &mut plan, now);
    }
    plan
}

/// Moves pods whose finalizer is gone from the uncounted ones into the counts.
fn settle(status: &mut JobStatus, owned: &[Arc<Pod>]) {
    let mut lists = status.uncounted_terminated_pods.take().unwrap_or_default();
    let tracked: HashSet<&str> = owned.iter().filter(|pod| is_tracked(pod)).map(|pod| pod.uid()).collect();
    let settle = |list: &mut Option<Vec<String>>, total: &mut Option<i32>| {
        let Some(uids) = list else { return };
        let before = uids.len();
        uids.retain(|uid| tracked.contains(uid.as_str()));
        *total = Some(total.unwrap_or(0) + count(before - uids.len())).filter(|sum| *sum > 0);
        list.take_if(|uids| uids.is_empty());
    };
    settle(&mut lists.succeeded, &mut status.succeeded);
    settle(&mut lists.failed, &mut status.failed);
    status.uncounted_terminated_pods = Some(lists);
}

/// The uids of pods that have succeeded and of those that have failed, written and not counted yet.
fn uncounted(lists: Option<&UncountedTerminatedPods>) -> [HashSet<&str>; 2] {
    let [succeeded, failed] = lists.map_or([None, None], |it| [it.succeeded.as_ref(), it.failed.as_ref()]);
    [succeeded, failed].map(|list| list.into_iter().flatten().map(String::as_str).collect())
}

impl<'a> Look<'a> {
    fn new(job: &'a Job, owned: &'a [Arc<Pod>], status: &JobStatus, now: Timestamp) -> Self {
        let counted = |number: Option<i32>| usize::try_from(number.unwrap_or(0)).unwrap_or(0);
        let is_leaving = |pod: &&Arc<Pod>| pod.is_deleting() && !pods::is_finished(pod);
        let active: Vec<_> = owned.iter().filter(|pod| pods::is_active(pod)).cloned().collect();
        let leaving = owned.iter().filter(is_leaving).filter(|_| waits_for_the_end(job));
        let completed = job_index::completed(job, status, owned);
        let [succeeded, failed] = &uncounted(status.uncounted_terminated_pods.as_ref());
        // Pods that have ended since the last look.
        let fresh = |uids: &HashSet<&str>, ended: &dyn Fn(&Pod) -> bool| {
            let new = owned.iter().filter(|pod| is_tracked(pod) && !uids.contains(pod.uid()));
            let own = new.filter(|pod| !is_indexed(job) || index_of(job, pod).is_some());
            uids.len() + own.filter(|pod| ended(pod)).count()
        };
        let counts = |pod: &Pod| has_failed(job, pod) && job_policy::verdict(job, pod) != Verdict::Ignore;
        let mut look = Self {
            job,
            owned,
            now,
            terminating: owned.iter().filter(is_leaving).count(),
            succeeded: match is_indexed(job) {
                true => completed.len(),
                false => counted(status.succeeded) + fresh(succeeded, &|pod| pods::phase(pod) == "Succeeded"),
            },
            failed: counted(status.failed) + fresh(failed, &counts),
            running: active.iter().filter_map(|pod| index_of(job, pod)).collect(),
            leaving: leaving.filter_map(|pod| index_of(job, pod)).collect(),
            failed_indexes: job_index::failed(job, status, owned),
            replaced: HashMap::new(),
            active,
            completed,
        };
        look.replaced = job_index::to_be_replaced(&look);
        look
    }

    /// Whether the Job is on its way to its end; notes which (`SuccessCriteriaMet`, `FailureTarget`).
    fn ending(&self, plan: &mut Plan) -> bool {
        let known =
            condition(&plan.status, "SuccessCriteriaMet").or(condition(&plan.status, "FailureTarget"));
        if known.is_some() {
            return true;
        }
        if let Some((reason, message)) = self.failure(plan) {
            set(&mut plan.status, "FailureTarget", "True", (reason, &message), self.now);
        } else if let Some(message) = job_policy::is_success(self.job, &self.completed) {
            set(&mut plan.status, "SuccessCriteriaMet", "True", ("SuccessPolicy", &message), self.now);
        } else {
            return false;
        }
        true
    }

    fn failure(&self, plan: &mut Plan) -> Option<(&'static str, String)> {
        let say = |reason, message: &str| Some((reason, message.to_owned()));
        let failed = self.owned.iter().filter(|pod| has_failed(self.job, pod));
        let fatal = failed.into_iter().find_map(|pod| match job_policy::verdict(self.job, pod) {
            Verdict::FailJob(message) => Some(message),
            _ => None,
        });
        if let Some(message) = fatal {
            return Some(("PodFailurePolicy", message));
        }
        let limit = spec(self.job).backoff_limit.unwrap_or(DEFAULT_BACKOFF_LIMIT);
        if count(self.failed) > limit || self.restarted_too_often(limit) {
            return say("BackoffLimitExceeded", "Job has reached the specified backoff limit");
        }
        if let Some(left_s) = self.seconds_to_deadline(&plan.status) {
            if left_s <= 0 {
                return say("DeadlineExceeded", "Job was active longer than specified deadline");
            }
            plan.wait(left_s);
        }
        let broken = self.failed_indexes.as_ref().filter(|broken| !broken.is_empty())?.len();
        if spec(self.job).max_failed_indexes.is_some_and(|most| count(broken) > most) {
            let message = "Job has exceeded the specified maximal number of failed indexes";
            return say("MaxFailedIndexesExceeded", message);
        }
        let all = count(broken + self.completed.len()) >= spec(self.job).completions.unwrap_or(0);
        if all { say("FailedIndexes", "Job has failed indexes") } else { None }
    }

    fn seconds_to_deadline(&self, status: &JobStatus) -> Option<i64> {
        let deadline_s = spec(self.job).active_deadline_seconds.filter(|_| !is_suspended(self.job))?;
        Some(deadline_s - seconds_between(status.start_time.as_ref()?.0, self.now))
    }

    /// Containers that are restarted in place count against the limit too (`restartPolicy: OnFailure`).
    fn restarted_too_often(&self, limit: i32) -> bool {
        let policy = spec(self.job).template.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref());
        let restarts = |pod: &Arc<Pod>| -> i32 {
            let Some(status) = &pod.status else { return 0 };
            let all = status.init_container_statuses.iter().chain(&status.container_statuses).flatten();
            all.map(|container| container.restart_count).sum()
        };
        let total: i32 = self.owned.iter().filter(|pod| !pods::is_finished(pod)).map(restarts).sum();
        policy == Some("OnFailure") && total > 0 && total >= limit
    }

    /// Makes or ends pods, so that as many are active as the Job wants now.
    fn manage(&self, plan: &mut Plan) {
        let wanted = self.wanted();
        plan.delete = self.superfluous(self.active.len().saturating_sub(wanted));
        if !plan.delete.is_empty() {
            plan.delete.truncate(BURST);
            plan.forget_deleted = true;
            return;
        }
        let leaving = if waits_for_the_end(self.job) { self.terminating } else { 0 };
        let missing = wanted.saturating_sub(self.active.len() + leaving).min(BURST);
        let own_limits = job_index::has_limit_per_index(self.job);
        let delay_s = if missing == 0 || own_limits { 0 } else { plan.backoff.left_s(self.now) };
        if delay_s > 0 {
            plan.wait(delay_s);
        } else if is_indexed(self.job) && missing > 0 {
            match job_index::open(self, missing) {
                Ok(open) => plan.create = open,
                Err(delay_s) => plan.wait(delay_s),
            }
        } else {
            plan.create = vec![NewPod::default(); missing];
        }
    }

    fn wanted(&self) -> usize {
        let parallelism = usize::try_from(spec(self.job).parallelism.unwrap_or(1)).unwrap_or(0);
        match spec(self.job).completions {
            _ if is_suspended(self.job) => 0,
            Some(completions) => {
                let left = usize::try_from(completions).unwrap_or(0).saturating_sub(self.succeeded);
                parallelism.min(left)
            }
            // A work queue: one success says that it is empty, and the others are to finish.
            None if self.succeeded > 0 => self.active.len(),
            None => parallelism,
        }
    }

    /// The active pods to end: those that share an index or have none, and the least useful.
    fn superfluous(&self, surplus: usize) -> Vec<Arc<Pod>> {
        let mut active = self.active.clone();
        active.sort_by_cached_key(|pod| {
            let ready_since = Reverse(pods::ready_since(pod));
            let (restarts, age) = (Reverse(pods::restarts(pod)), Reverse(created(&pod.metadata)));
            let place = !pods::node_name(pod).is_empty();
            (place, pods::phase_rank(pod), pods::is_ready(pod), ready_since, restarts, age)
        });
        if !is_indexed(self.job) {
            active.truncate(surplus);
            return active;
        }
        // The most useful pod of an index stays.
        let mut kept = HashSet::new();
        let keeps = |pod: &Arc<Pod>| index_of(self.job, pod).is_some_and(|index| kept.insert(index));
        let stays: Vec<bool> = active.iter().rev().map(keeps).collect();
        let (mut gone, rest): (Vec<_>, Vec<_>) =
            active.into_iter().zip(stays.into_iter().rev()).partition(|(_, stays)| !stays);
        let more = surplus.saturating_sub(gone.len());
        gone.extend(rest.into_iter().take(more));
        gone.into_iter().map(|(pod, _)| pod).collect()
    }

    /// Without what was known, all pods that are there are new: the controller was started again.
    fn backoff(&self, known: Option<&Backoff>) -> Backoff {
        let is_new = |pod: &Pod| known.is_none_or(|known| is_tracked(pod) && !known.seen.contains(pod.uid()));
        let ends = |is: &dyn Fn(&Pod) -> bool| -> Vec<Timestamp> {
            self.owned.iter().filter(|pod| is_new(pod) && is(pod)).map(|pod| ended(pod)).collect()
        };
        let succeeded = |pod: &Pod| pods::phase(pod) == "Succeeded";
        let failed = |pod: &Pod| has_failed(self.job, pod);
        let seen = self.owned.iter().filter(|pod| is_tracked(pod) && (succeeded(pod) || failed(pod)));
        let seen = seen.map(|pod| pod.uid().to_owned()).collect();
        known.unwrap_or(&Backoff::default()).after(&ends(&succeeded), &ends(&failed), seen)
    }

    /// Whether enough pods have succeeded and none is left to wait for.
    fn complete(&self, plan: &mut Plan) -> bool {
        let enough = match spec(self.job).completions {
            Some(completions) => count(self.succeeded) >= completions,
            None => self.succeeded > 0,
        };
        let active = self.active.len() + plan.create.len() - plan.delete.len();
        let complete = enough && active == 0;
        if complete {
            set(&mut plan.status, "SuccessCriteriaMet", "True", COMPLETIONS_REACHED, self.now);
        }
        complete
    }

    fn note_suspension(&self, plan: &mut Plan) {
        let known = condition(&plan.status, "Suspended").is_some();
        let (value, event, why) = match (is_suspended(self.job), known) {
            (true, false) => ("True", "Suspended", ("JobSuspended", "Job suspended")),
            (false, true) => ("False", "Resumed", ("JobResumed", "Job resumed")),
            _ => return,
        };
        // The time that a Job may take runs while it is not suspended.
        plan.status.start_time = (value == "False").then_some(Time(self.now));
        set(&mut plan.status, "Suspended", value, why, self.now);
        plan.events.push((false, event.to_owned(), why.1.to_owned()));
    }

    /// Takes ended pods into the status; whether that are all that have ended.
    fn track(&self, plan: &mut Plan, ending: bool) -> bool {
        let failing = condition(&plan.status, "FailureTarget").is_some();
        let succeeding = condition(&plan.status, "SuccessCriteriaMet").is_some();
        // Nothing failed where others were enough.
        let has_failed = |pod: &Pod| has_failed(self.job, pod) && !(succeeding && pod.is_deleting());
        let mut tracked =
            self.owned.iter().filter(|pod| is_tracked(pod) && self.may_go(pod, ending)).peekable();
        let before = plan.status.uncounted_terminated_pods.take().unwrap_or_default();
        let [succeeded, failed] = uncounted(Some(&before));
        let mut lists = before.clone();
        while let Some(pod) = tracked.next_if(|_| plan.untrack.len() < MOST_UNCOUNTED) {
            plan.untrack.push(pod.clone());
            let failed = failed.contains(pod.uid());
            if pods::phase(pod) == "Succeeded" && !failed {
                if !is_indexed(self.job) && !succeeded.contains(pod.uid()) {
                    lists.succeeded.get_or_insert_default().push(pod.uid().to_owned());
                }
            } else if (has_failed(pod) || failing) && !failed && self.counts(pod) {
                lists.failed.get_or_insert_default().push(pod.uid().to_owned());
            }
        }
        if is_indexed(self.job) {
            let text = |all: &Indexes| indexes::format(all);
            plan.status.succeeded = nonzero(self.completed.len());
            plan.status.completed_indexes = Some(text(&self.completed)).filter(|text| !text.is_empty());
            plan.status.failed_indexes = self.failed_indexes.as_ref().map(text);
        }
        let all = tracked.peek().is_none() && lists.succeeded.is_none() && lists.failed.is_none();
        plan.status.uncounted_terminated_pods = Some(lists);
        all
    }

    fn may_go(&self, pod: &Pod, ending: bool) -> bool {
        let stays = |index| self.replaced.get(&index).is_some_and(|last| last.uid() == pod.uid());
        let failed = || has_failed(self.job, pod) && !index_of(self.job, pod).is_some_and(stays);
        self.job.is_deleting() || ending || pods::phase(pod) == "Succeeded" || failed()
    }

    /// A failure counts unless it is of no index or the policy ignores it.
    fn counts(&self, pod: &Pod) -> bool {
        (!is_indexed(self.job) || index_of(self.job, pod).is_some())
            && job_policy::verdict(self.job, pod) != Verdict::Ignore
    }

    fn count_running(&self, plan: &mut Plan) {
        // Those to delete are active ones.
        let ready = |pods: &[Arc<Pod>]| pods.iter().filter(|pod| pods::is_ready(pod)).count();
        let ready = ready(&self.active) - ready(&plan.delete);
        plan.status.active = nonzero(self.active.len() + plan.create.len() - plan.delete.len());
        plan.status.ready = Some(count(ready));
        plan.status.terminating = Some(count(self.terminating + plan.delete.len()));
    }
}

/// What is left of the delay after so many failures, the last of them then.
pub(crate) fn delay_s(failures: usize, last: Timestamp, now: Timestamp) -> i64 {
    let doublings = u32::try_from(failures.saturating_sub(1)).unwrap_or(u32::MAX).min(16);
    let delay_s = (FIRST_BACKOFF_S << doublings).min(LONGEST_BACKOFF_S);
    (delay_s - seconds_between(last, now)).max(0)
}

/// When a pod ended: its last container, or since when it is not ready, or when it was deleted.
pub(crate) fn ended(pod: &Pod) -> Timestamp {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_deref());
    let finished = |container: &api::slim::ContainerStatus| {
        container.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref().map(|time| time.0)
    };
    let all: Option<Vec<_>> = statuses.unwrap_or_default().iter().map(finished).collect();
    let unready = || pods::condition(pod, "Ready").filter(|ready| &*ready.status == "False");
    all.and_then(|times| times.into_iter().max())
        .or_else(|| unready()?.last_transition_time.as_ref().map(|time| time.0))
        .or_else(|| pod.metadata.deletion_timestamp.as_ref().map(|time| time.0))
        .unwrap_or_else(|| created(&pod.metadata))
}

const COMPLETIONS_REACHED: (&str, &str) = ("CompletionsReached", "Reached expected number of succeeded pods");

/// Everything has ended and is counted: say so for good.
fn finish(job: &Job, plan: &mut Plan, now: Timestamp) {
    let status = &mut plan.status;
    let why = |condition: JobCondition| {
        (condition.reason.unwrap_or_default(), condition.message.unwrap_or_default())
    };
    if let Some((reason, message)) = condition(status, "FailureTarget").cloned().map(why) {
        set(status, "Failed", "True", (&reason, &message), now);
        plan.events.push((true, reason, message));
        return;
    }
    let (reason, message) = condition(status, "SuccessCriteriaMet").cloned().map(why).unwrap_or_default();
    set(status, "Complete", "True", (&reason, &message), now);
    status.completion_time = Some(Time(now));
    if spec(job).completions.is_some_and(|wanted| status.succeeded.unwrap_or(0) > wanted) {
        let message = "Too many succeeded pods running after completion count reached";
        plan.events.push((true, "TooManySucceededPods".to_owned(), message.to_owned()));
    }
    plan.events.push((false, "Completed".to_owned(), "Job completed".to_owned()));
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
