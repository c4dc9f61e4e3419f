//! Keeps the pods of a StatefulSet, each with a name and claims of its own.

use crate::common::share_of;
use crate::history::{self, Versioned};
use crate::stateful_claims::{Find, is_stale, misowned};
use crate::stateful_pods::{self as identity, REVISION, claims, ordinal, ordinals, replicas, spec};
use crate::{common, pods};
use api::Object;
use api::apps::{RollingUpdateStatefulSetStrategy, StatefulSet, StatefulSetStatus};
use api::core::{self, PersistentVolumeClaim, PodTemplateSpec};
use api::selector::Labels;
use api::slim::{ControllerRevision, Pod};
use jiff::Timestamp;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;

/// How many pods one look creates or mends at most where it does so at once; the rest follows at the next.
const BURST: usize = 500;

impl Versioned for StatefulSet {
    const HASH: &str = "controller.kubernetes.io/hash";

    fn template(&self) -> &PodTemplateSpec {
        &spec(self).template
    }

    fn selector(&self) -> Labels {
        Labels::of(Some(&spec(self).selector))
    }

    fn collisions(&self) -> i32 {
        self.status.as_ref().and_then(|status| status.collision_count).unwrap_or(0)
    }
}

/// A template and the name of its revision.
pub(crate) struct Version {
    pub(crate) name: String,
    pub(crate) template: PodTemplateSpec,
}

/// What is known when planning.
pub(crate) struct View<'a> {
    pub(crate) set: &'a StatefulSet,
    /// Which pods below the partition have.
    pub(crate) current: &'a Version,
    /// Which all pods will have.
    pub(crate) update: &'a Version,
    pub(crate) pods: &'a [Arc<Pod>],
    pub(crate) find: Find<'a>,
    pub(crate) now: Timestamp,
}

/// One thing to do about one pod.
#[derive(Debug, PartialEq)]
pub(crate) enum Action {
    /// Make the pod, and before it those claims of its ordinal that are not there.
    Create(Box<core::Pod>, i32),
    /// Make the claims that a pod lacks.
    Claims(Arc<Pod>, i32),
    /// Give a claim of a pod other owners.
    Own(String, Box<PersistentVolumeClaim>),
    /// Make a pod the one of its ordinal; without a patch only its claims were not.
    Update(Arc<Pod>, Option<Value>),
    Delete(Arc<Pod>),
}

/// The actions for one pod, of which each needs the one before.
pub(crate) type Step = Vec<Action>;

#[derive(Debug, PartialEq)]
pub(crate) struct Plan {
    /// One after the other; a failure ends the work. The steps of a phase need not wait for one another where
    /// the set is not `ordered`.
    pub(crate) phases: Vec<Vec<Step>>,
    pub(crate) ordered: bool,
    pub(crate) status: StatefulSetStatus,
    /// When a ready pod will count as available.
    pub(crate) look_again_s: Option<u64>,
}

pub(crate) fn is_ordered(set: &StatefulSet) -> bool {
    spec(set).pod_management_policy.as_deref() != Some("Parallel")
}

/// How pods are replaced by ones of the new template, if they are at all.
fn rolling(set: &StatefulSet) -> Option<Option<&RollingUpdateStatefulSetStrategy>> {
    let strategy = spec(set).update_strategy.as_ref()?;
    (strategy.type_.as_deref() == Some("RollingUpdate")).then_some(strategy.rolling_update.as_ref())
}

fn partition(set: &StatefulSet) -> Option<i32> {
    rolling(set)?.map(|rolling| rolling.partition.unwrap_or(0))
}

fn revision(pod: &Pod) -> &str {
    pod.labels().get(REVISION).unwrap_or_default()
}

fn is_running(pod: &Pod) -> bool {
    pods::phase(pod) == "Running" && pods::is_ready(pod)
}

pub(crate) fn plan(view: &View<'_>) -> Plan {
    let set = view.set;
    let mut plan = Plan {
        phases: Vec::new(),
        ordered: is_ordered(set),
        status: status(view),
        look_again_s: pods::seconds_to_availability(view.pods.iter(), view.min_ready_s(), view.now),
    };
    if !set.is_deleting() {
        act(view, &mut plan);
    }
    complete(set, &mut plan.status);
    plan
}

/// Scaling up comes before scaling down, and both before an update.
fn act(view: &View<'_>, plan: &mut Plan) {
    let (wanted, surplus) = view.parts();
    let mut steps = Vec::new();
    for ordinal in ordinals(view.set) {
        let (step, blocks) = keep(view, ordinal, wanted.get(&ordinal));
        steps.extend(Some(step).filter(|step| !step.is_empty()));
        if steps.len() == BURST || blocks && plan.ordered {
            return plan.phases.push(steps);
        }
    }
    plan.phases.push(steps);
    plan.phases.push(surplus.iter().map(|(ordinal, pod)| owned(view, pod, *ordinal)).collect());
    plan.phases.push(deleting(shrink(view, &wanted, &surplus)));
    if surplus.is_empty() || !plan.ordered {
        let old = outdated(view, &wanted);
        plan.status.current_replicas = plan.status.current_replicas.map(|now| now - common::count(old.len()));
        plan.phases.push(deleting(old));
    }
}

fn deleting(pods: Vec<Arc<Pod>>) -> Vec<Step> {
    pods.into_iter().map(|pod| vec![Action::Delete(pod)]).collect()
}

/// The pods that are asked for, by ordinal.
type Wanted = BTreeMap<i32, Arc<Pod>>;

impl View<'_> {
    fn min_ready_s(&self) -> i32 {
        spec(self.set).min_ready_seconds.unwrap_or(0)
    }

    fn is_available(&self, pod: &Pod) -> bool {
        pods::is_available(pod, self.min_ready_s(), self.now) && !pod.is_deleting()
    }

    /// The pods that are asked for, and the others, the highest first.
    fn parts(&self) -> (Wanted, Vec<(i32, Arc<Pod>)>) {
        let numbered = self.pods.iter().filter_map(|pod| Some((ordinal(self.set, pod)?, pod.clone())));
        let (wanted, mut surplus): (Vec<_>, Vec<_>) =
            numbered.partition(|(ordinal, _)| ordinals(self.set).contains(ordinal));
        surplus.sort_by_key(|(ordinal, _)| -ordinal);
        (wanted.into_iter().collect(), surplus)
    }

    /// The template that a new pod of an ordinal gets.
    fn version(&self, ordinal: i32) -> &Version {
        let kept = match (rolling(self.set), partition(self.set)) {
            (_, Some(partition)) => partition,
            (Some(None), _) => {
                self.set.status.as_ref().and_then(|status| status.current_replicas).unwrap_or(0)
            }
            _ => return self.update,
        };
        if ordinal < ordinals(self.set).start.saturating_add(kept) { self.current } else { self.update }
    }
}

/// What a wanted ordinal needs, and whether the next ones have to wait for it where there is an order.
fn keep(view: &View<'_>, ordinal: i32, pod: Option<&Arc<Pod>>) -> (Step, bool) {
    let set = view.set;
    let Some(pod) = pod else {
        if is_stale(set, ordinal, view.find) {
            return (Vec::new(), true);
        }
        let version = view.version(ordinal);
        let pod = identity::new(set, &version.template, &version.name, ordinal);
        return (vec![Action::Create(Box::new(pod), ordinal)], true);
    };
    if pods::is_finished(pod) {
        let step = if pod.is_deleting() { Vec::new() } else { vec![Action::Delete(pod.clone())] };
        return (step, true);
    }
    let mut step = Vec::new();
    if pods::phase(pod) == "Pending" {
        let lacks =
            |claim: PersistentVolumeClaim| (view.find)(claim.name()).is_none_or(|found| found.is_deleting());
        if claims(set, ordinal).any(lacks) {
            step.push(Action::Claims(pod.clone(), ordinal));
        }
        step.extend(owned(view, pod, ordinal));
    }
    if is_ordered(set) && !(is_running(pod) && view.is_available(pod)) {
        return (step, true);
    }
    let mut mended = if step.is_empty() { owned(view, pod, ordinal) } else { Vec::new() };
    let patch = identity::mended(set, pod, ordinal);
    if patch.is_some() || !mended.is_empty() {
        mended.push(Action::Update(pod.clone(), patch));
    }
    step.extend(mended);
    (step, false)
}

/// What gives a pod's claims the owners that the policy wants.
fn owned(view: &View<'_>, pod: &Pod, ordinal: i32) -> Step {
    let claims = misowned(view.set, pod, ordinal, view.find);
    claims.into_iter().map(|claim| Action::Own(pod.name().to_owned(), Box::new(claim))).collect()
}

/// The pods that go because fewer are asked for: in an order one at a time, and only while all others are
/// available.
fn shrink(view: &View<'_>, wanted: &Wanted, surplus: &[(i32, Arc<Pod>)]) -> Vec<Arc<Pod>> {
    let mut going = surplus.iter().map(|(_, pod)| pod);
    if !is_ordered(view.set) {
        return going.filter(|pod| !pod.is_deleting()).cloned().collect();
    }
    let mut all = wanted.values().chain(surplus.iter().rev().map(|(_, pod)| pod));
    let first_unavailable = all.find(|pod| !view.is_available(pod)).map(|pod| pod.uid());
    let may_go = |pod: &&Arc<Pod>| {
        let runs = is_running(pod) && view.is_available(pod);
        runs || !pod.is_deleting() && Some(pod.uid()) == first_unavailable
    };
    going.next().filter(may_go).into_iter().cloned().collect()
}

/// The pods that go because they are of another template, the highest first.
fn outdated(view: &View<'_>, wanted: &Wanted) -> Vec<Arc<Pod>> {
    let Some(rolling) = rolling(view.set) else { return Vec::new() };
    let mut targets = ordinals(view.set);
    targets.start = targets.start.saturating_add(partition(view.set).unwrap_or(0)).min(targets.end);
    let is_old = |pod: &&Arc<Pod>| revision(pod) != view.update.name && !pod.is_deleting();
    let is_available = |pod: &&Arc<Pod>| view.is_available(pod);
    let Some(most) = rolling.and_then(|rolling| rolling.max_unavailable.as_ref()) else {
        // One at a time, and none below one that is not available.
        let mut targets = targets.rev().map(|ordinal| wanted.get(&ordinal));
        let next = targets.find(|pod| pod.is_none_or(|pod| is_old(&pod) || !is_available(&pod)));
        return next.flatten().filter(is_old).into_iter().cloned().collect();
    };
    let most = usize::try_from(share_of(most, replicas(view.set), false).max(1)).unwrap_or(1);
    let all = usize::try_from(replicas(view.set)).unwrap_or(0);
    let missing = all - wanted.values().filter(is_available).count().min(all);
    let targets = wanted.range(targets).rev().map(|(_, pod)| pod);
    targets.filter(is_old).take(most.saturating_sub(missing)).cloned().collect()
}

fn status(view: &View<'_>) -> StatefulSetStatus {
    let number = |of: &dyn Fn(&Pod) -> bool| {
        let pods = view.pods.iter().filter(|pod| ordinal(view.set, pod).is_some());
        Some(common::count(pods.filter(|pod| of(pod)).count()))
    };
    let at = |version: &Version, pod: &Pod| revision(pod) == version.name && !pod.is_deleting();
    StatefulSetStatus {
        observed_generation: view.set.meta().generation,
        replicas: number(&|_| true).unwrap_or(0),
        ready_replicas: number(&is_running),
        available_replicas: number(&|pod| {
            is_running(pod) && pods::is_available(pod, view.min_ready_s(), view.now)
        }),
        current_replicas: number(&|pod| at(view.current, pod)),
        updated_replicas: number(&|pod| at(view.update, pod)),
        current_revision: Some(view.current.name.clone()),
        update_revision: Some(view.update.name.clone()),
        collision_count: Some(view.set.collisions()),
        conditions: view.set.status.as_ref().and_then(|status| status.conditions.clone()),
    }
}

/// The revisions beyond `spec.revisionHistoryLimit` that are neither live nor those of pods.
pub(crate) fn surplus<'a>(
    set: &StatefulSet,
    revisions: &'a [Arc<ControllerRevision>],
    live: [&str; 2],
    pods: &[Arc<Pod>],
) -> Vec<&'a Arc<ControllerRevision>> {
    let is_used = |one: &ControllerRevision| {
        live.contains(&one.name()) || pods.iter().any(|pod| revision(pod) == one.name())
    };
    let idle = revisions.iter().filter(|one| !is_used(one)).count();
    let kept = history::kept(spec(set).revision_history_limit);
    history::unused(revisions.iter(), idle.saturating_sub(kept), is_used)
}

/// An update ends when all pods are of the new template and ready.
fn complete(set: &StatefulSet, status: &mut StatefulSetStatus) {
    let all = Some(replicas(set));
    if rolling(set).is_some()
        && status.updated_replicas == all
        && status.ready_replicas == all
        && Some(status.replicas) == all
    {
        status.current_replicas = status.updated_replicas;
        status.current_revision.clone_from(&status.update_revision);
    }
}
