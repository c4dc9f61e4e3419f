//! What a Deployment reports: counts, and the conditions by which `kubectl rollout status` judges.

use crate::common::{nonzero, seconds_between};
use crate::deployment::View;
use crate::rollout::{available, fenceposts, replicas, spec, wanted};
use api::Object;
use api::apps::{Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet};
use api::meta::Time;
use jiff::Timestamp;
use std::fmt::Display;
use std::sync::Arc;

const AVAILABLE: &str = "Available";
const PROGRESSING: &str = "Progressing";
const REPLICA_FAILURE: &str = "ReplicaFailure";
const COMPLETE: &str = "NewReplicaSetAvailable";
const TIMED_OUT: &str = "ProgressDeadlineExceeded";
const PAUSED: &str = "DeploymentPaused";
pub(crate) const REFUSED: &str = "ReplicaSetCreateError";

/// What this look at the Deployment did, as far as the conditions tell it.
#[derive(Debug)]
pub(crate) struct Progress {
    pub(crate) paused: bool,
    /// It only scaled or looked: progress is not judged.
    pub(crate) frozen: bool,
    /// The name of a ReplicaSet that is being created.
    pub(crate) created: Option<String>,
}

/// A rollout is over when all pods are of the new template and available.
pub(crate) fn is_complete(deployment: &Deployment, status: &DeploymentStatus) -> bool {
    let all = wanted(deployment);
    let is_all = |count: Option<i32>| count.unwrap_or(0) == all;
    is_all(status.updated_replicas)
        && is_all(status.replicas)
        && is_all(status.available_replicas)
        && status.observed_generation >= deployment.metadata.generation
}

/// The status, and in how many seconds the progress deadline passes.
pub(crate) fn of(
    view: &View<'_>,
    new: Option<&Arc<ReplicaSet>>,
    progress: &Progress,
) -> (DeploymentStatus, Option<u64>) {
    let deployment = view.deployment;
    let before = deployment.status.clone().unwrap_or_default();
    let mut status = counts(view, new, &before);
    let mut conditions = Conditions(before.conditions.clone().unwrap_or_default(), view.now);
    let enough = status.available_replicas.unwrap_or(0) >= wanted(deployment) - fenceposts(deployment).1;
    if enough {
        conditions.set(AVAILABLE, "True", "MinimumReplicasAvailable", "Deployment has minimum availability.");
    } else {
        let message = "Deployment does not have minimum availability.";
        conditions.set(AVAILABLE, "False", "MinimumReplicasUnavailable", message);
    }
    judge_pause(deployment, progress, &mut conditions);
    if !progress.frozen {
        judge_progress(deployment, new, progress, (&before, &status), &mut conditions);
    }
    report_failure(view.sets, new, &mut conditions);
    let look_again_s = deadline(deployment).filter(|_| !progress.frozen && !is_complete(deployment, &status));
    let look_again_s = look_again_s.and_then(|deadline_s| conditions.left_s(deadline_s));
    status.conditions = Some(conditions.0);
    (status, look_again_s)
}

/// What is said where the server does not take a new ReplicaSet.
pub(crate) fn refusal(set: &str, error: &impl Display) -> String {
    format!("Failed to create new replica set \"{set}\": {error}")
}

/// The status then.
pub(crate) fn refused(deployment: &Deployment, message: &str, now: Timestamp) -> DeploymentStatus {
    let mut status = deployment.status.clone().unwrap_or_default();
    let mut conditions = Conditions(status.conditions.take().unwrap_or_default(), now);
    if deadline(deployment).is_some() {
        conditions.set(PROGRESSING, "False", REFUSED, message);
    }
    status.conditions = Some(conditions.0).filter(|conditions| !conditions.is_empty());
    status
}

fn counts(view: &View<'_>, new: Option<&Arc<ReplicaSet>>, before: &DeploymentStatus) -> DeploymentStatus {
    let sum = |field: fn(&api::apps::ReplicaSetStatus) -> i32| -> i32 {
        view.sets.iter().filter_map(|set| set.status.as_ref()).map(field).sum()
    };
    let total = sum(|status| status.replicas);
    let available: i32 = view.sets.iter().map(|set| available(set)).sum();
    let some = |count: i32| nonzero(usize::try_from(count).unwrap_or(0));
    let updated = new.and_then(|new| new.status.as_ref()).map_or(0, |status| status.replicas);
    DeploymentStatus {
        observed_generation: view.deployment.metadata.generation,
        replicas: some(total),
        updated_replicas: some(updated),
        ready_replicas: some(sum(|status| status.ready_replicas.unwrap_or(0))),
        available_replicas: some(available),
        unavailable_replicas: some(view.sets.iter().map(|set| replicas(set)).sum::<i32>() - available),
        terminating_replicas: Some(sum(|status| status.terminating_replicas.unwrap_or(0))),
        collision_count: before.collision_count,
        conditions: None,
    }
}

/// `progressDeadlineSeconds`, unless there is none.
fn deadline(deployment: &Deployment) -> Option<i64> {
    let deadline_s = spec(deployment).progress_deadline_seconds?;
    (deadline_s != i32::MAX).then(|| i64::from(deadline_s))
}

fn judge_pause(deployment: &Deployment, progress: &Progress, conditions: &mut Conditions) {
    let reason = conditions.get(PROGRESSING).and_then(|condition| condition.reason.clone());
    let noted = reason.as_deref() == Some(PAUSED);
    if deadline(deployment).is_none() || reason.as_deref() == Some(TIMED_OUT) {
        return;
    }
    if progress.paused && !noted {
        conditions.set(PROGRESSING, "Unknown", PAUSED, "Deployment is paused");
    } else if !progress.paused && noted {
        conditions.set(PROGRESSING, "Unknown", "DeploymentResumed", "Deployment is resumed");
    }
}

fn judge_progress(
    deployment: &Deployment,
    new: Option<&Arc<ReplicaSet>>,
    progress: &Progress,
    (before, status): (&DeploymentStatus, &DeploymentStatus),
    conditions: &mut Conditions,
) {
    let Some(deadline_s) = deadline(deployment) else {
        return conditions.remove(PROGRESSING);
    };
    if let Some(name) = &progress.created {
        let message = format!("Created new replica set \"{name}\"");
        return conditions.set(PROGRESSING, "True", "NewReplicaSetCreated", &message);
    }
    let name = match new {
        Some(set) => format!("ReplicaSet \"{}\"", set.name()),
        None => format!("Deployment \"{}\"", deployment.name()),
    };
    let current = conditions.get(PROGRESSING).cloned();
    let reason = current.as_ref().and_then(|condition| condition.reason.as_deref());
    if let (None, Some(set)) = (&current, new) {
        let message = format!("Found new replica set \"{}\"", set.name());
        conditions.set(PROGRESSING, "True", "FoundNewReplicaSet", &message);
    }
    let done = format!("{name} has successfully progressed.");
    // What was said of an earlier ReplicaSet does not count for this one.
    let is_done = current.as_ref().is_some_and(|current| current.message.as_ref() == Some(&done));
    if status.replicas == status.updated_replicas && is_done {
        return;
    }
    if is_complete(deployment, status) {
        conditions.refresh(PROGRESSING, COMPLETE, &done);
    } else if has_progressed(before, status) {
        conditions.refresh(PROGRESSING, "ReplicaSetUpdated", &format!("{name} is progressing."));
    } else if reason.is_some_and(|reason| reason != COMPLETE) && conditions.left_s(deadline_s) == Some(0) {
        conditions.set(PROGRESSING, "False", TIMED_OUT, &format!("{name} has timed out progressing."));
    }
}

fn has_progressed(before: &DeploymentStatus, after: &DeploymentStatus) -> bool {
    let number = |field: Option<i32>| field.unwrap_or(0);
    let old = |status: &DeploymentStatus| number(status.replicas) - number(status.updated_replicas);
    number(after.updated_replicas) > number(before.updated_replicas)
        || old(after) < old(before)
        || number(after.ready_replicas) > number(before.ready_replicas)
        || number(after.available_replicas) > number(before.available_replicas)
}

/// A ReplicaSet's failure to create pods is the Deployment's too; the new one's comes first.
fn report_failure(sets: &[Arc<ReplicaSet>], new: Option<&Arc<ReplicaSet>>, conditions: &mut Conditions) {
    let failures = new.into_iter().chain(sets).filter_map(|set| {
        let conditions = set.status.as_ref()?.conditions.as_ref()?;
        conditions.iter().find(|condition| condition.type_ == REPLICA_FAILURE)
    });
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    match failures.into_iter().next() {
        Some(failure) => {
            let (reason, message) = (text(&failure.reason), text(&failure.message));
            conditions.set(REPLICA_FAILURE, &failure.status, &reason, &message);
        }
        None => conditions.remove(REPLICA_FAILURE),
    }
}

/// The conditions, and the time now.
struct Conditions(Vec<DeploymentCondition>, Timestamp);

impl Conditions {
    fn get(&self, kind: &str) -> Option<&DeploymentCondition> {
        self.0.iter().find(|condition| condition.type_ == kind)
    }

    fn remove(&mut self, kind: &str) {
        self.0.retain(|condition| condition.type_ != kind);
    }

    /// Sets a condition unless status and reason are so already; its transition time is of the status.
    fn set(&mut self, kind: &str, status: &str, reason: &str, message: &str) {
        let current = self.get(kind);
        if current.is_some_and(|it| it.status == status && it.reason.as_deref() == Some(reason)) {
            return;
        }
        let now = Time(self.1);
        let same = current.filter(|current| current.status == status);
        let since = same.and_then(|same| same.last_transition_time.clone()).unwrap_or_else(|| now.clone());
        self.remove(kind);
        self.0.push(DeploymentCondition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            last_transition_time: Some(since),
            last_update_time: Some(now),
        });
    }

    /// Like [`Self::set`] to true, and the deadline starts anew even if nothing else changed.
    fn refresh(&mut self, kind: &str, reason: &str, message: &str) {
        let now = Time(self.1);
        self.set(kind, "True", reason, message);
        if let Some(condition) = self.0.iter_mut().find(|condition| condition.type_ == kind) {
            condition.last_update_time = Some(now);
            condition.message = Some(message.to_owned());
        }
    }

    /// Seconds until the progress deadline; `None` when nothing is in progress.
    fn left_s(&self, deadline_s: i64) -> Option<u64> {
        let condition = self.get(PROGRESSING)?;
        if matches!(condition.reason.as_deref(), Some(COMPLETE | TIMED_OUT)) {
            return None;
        }
        let since = condition.last_update_time.as_ref()?.0;
        u64::try_from((deadline_s - seconds_between(since, self.1)).max(0)).ok()
    }
}
