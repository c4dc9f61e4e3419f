//! Rolls a Deployment's pods from one ReplicaSet to the next.

use crate::common::{self, Key, Room, now};
use crate::deployment_status::{self as status, Progress};
use crate::rollback::{self, Rollback};
use crate::rollout::{self, DESIRED, MAX, fenceposts, replicas, set_spec, spec, wanted};
use crate::{pods, template};
use api::Object;
use api::apps::{Deployment, DeploymentStatus, ReplicaSet};
use api::selector::Labels;
use api::slim::Pod;
use client::{Cache, Client, Error, Next, Patch, Queue, Recorder};
use jiff::Timestamp;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

pub(crate) const REVISION: &str = "deployment.kubernetes.io/revision";
const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
/// The longest list of earlier revisions that is kept; beyond it the oldest are forgotten.
const LONGEST_HISTORY: usize = 2000;
/// Asks for an earlier revision.
pub(crate) const ROLLBACK_TO: &str = "deprecated.deployment.rollback.to";
/// The Deployment's annotations that its ReplicaSets do not inherit.
pub(crate) const NOT_INHERITED: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    REVISION_HISTORY,
    DESIRED,
    MAX,
    ROLLBACK_TO,
];

/// One thing to do, in the order given.
#[derive(Debug, PartialEq)]
pub(crate) enum Action {
    /// Make the ReplicaSet of the current template.
    Create(Box<ReplicaSet>),
    /// Change its annotations or `minReadySeconds`.
    Patch(Arc<ReplicaSet>, Value),
    /// Give it so many pods.
    Scale(Arc<ReplicaSet>, i32),
    /// It is history beyond the limit.
    Delete(Arc<ReplicaSet>),
    /// Write the current revision into the Deployment.
    Revision(u64),
    RollBack(Box<Rollback>),
}

/// What is known when planning.
pub(crate) struct View<'a> {
    pub(crate) deployment: &'a Deployment,
    /// The ReplicaSets it owns, oldest first.
    pub(crate) sets: &'a [Arc<ReplicaSet>],
    /// Pods of other than the newest template still run.
    pub(crate) old_pods: bool,
    pub(crate) now: Timestamp,
}

#[derive(Debug, PartialEq)]
pub(crate) struct Plan {
    pub(crate) actions: Vec<Action>,
    pub(crate) status: DeploymentStatus,
    /// When the progress deadline has to be looked at.
    pub(crate) look_again_s: Option<u64>,
}

pub(crate) fn plan(view: &View<'_>) -> Plan {
    let deployment = view.deployment;
    let new = view.sets.iter().find(|set| template::is_same(set, deployment));
    let old: Vec<_> =
        view.sets.iter().filter(|set| new.is_none_or(|new| new.uid() != set.uid())).cloned().collect();
    let paused = spec(deployment).paused == Some(true);
    let back = rollback::plan(deployment, view.sets).filter(|_| !paused);
    let frozen =
        paused || deployment.is_deleting() || back.is_some() || rollout::is_scaling(deployment, view.sets);
    let mut actions = Vec::new();
    if !deployment.is_deleting() {
        actions.extend(new.into_iter().flat_map(|new| refresh(deployment, new, &old)));
        match (back, frozen) {
            (Some(back), _) => actions.push(Action::RollBack(Box::new(back))),
            (None, true) => actions.extend(resize(deployment, rollout::scale(deployment, new, &old))),
            (None, false) => actions.extend(roll(view, new, &old)),
        }
    }
    let created = actions.iter().find_map(|action| match action {
        Action::Create(set) => Some(set.name().to_owned()),
        _ => None,
    });
    let (status, look_again_s) = status::of(view, new, &Progress { paused, frozen, created });
    if !deployment.is_deleting() && (paused || status::is_complete(deployment, &status)) {
        actions.extend(surplus_history(deployment, &old));
    }
    Plan { actions, status, look_again_s }
}

/// One step of the rollout.
fn roll(view: &View<'_>, new: Option<&Arc<ReplicaSet>>, old: &[Arc<ReplicaSet>]) -> Vec<Action> {
    let deployment = view.deployment;
    if rollout::is_recreate(deployment) {
        let stopping = old.iter().filter(|set| replicas(set) > 0).map(|set| (set.clone(), 0)).collect();
        let stopping: Vec<_> = resize(deployment, stopping).collect();
        let still_run = |set: &Arc<ReplicaSet>| set.status.as_ref().is_some_and(|status| status.replicas > 0);
        if !stopping.is_empty() || view.old_pods || old.iter().any(still_run) {
            return stopping;
        }
    }
    let total: i32 = view.sets.iter().map(|set| replicas(set)).sum();
    let Some(new) = new else {
        let (size, revision) = (rollout::new_size(deployment, 0, total), next_revision(old));
        let set = template::replica_set(deployment, size, new_annotations(deployment, revision));
        return vec![Action::Create(Box::new(set)), Action::Revision(revision)];
    };
    let size = rollout::new_size(deployment, replicas(new), total);
    if size != replicas(new) {
        resize(deployment, vec![(new.clone(), size)]).collect()
    } else if !rollout::is_recreate(deployment) {
        resize(deployment, rollout::shrink_old(deployment, new, old)).collect()
    } else {
        Vec::new()
    }
}

/// Turns sizes into actions where anything differs.
fn resize(deployment: &Deployment, sizes: Vec<rollout::Size>) -> impl Iterator<Item = Action> {
    let (wanted, max) = (wanted(deployment), wanted(deployment) + fenceposts(deployment).0);
    let differs = move |(set, size): &rollout::Size| {
        *size != replicas(set)
            || *size > 0
                && (rollout::annotation(set, DESIRED) != Some(wanted)
                    || rollout::annotation(set, MAX) != Some(max))
    };
    sizes.into_iter().filter(differs).map(|(set, size)| Action::Scale(set, size))
}

fn next_revision(old: &[Arc<ReplicaSet>]) -> u64 {
    old.iter().map(|set| revision(set)).max().unwrap_or(0) + 1
}

/// Brings an existing ReplicaSet of the current template up to date (revision, inherited annotations,
/// `minReadySeconds`), and the Deployment's revision with it.
fn refresh(deployment: &Deployment, new: &Arc<ReplicaSet>, old: &[Arc<ReplicaSet>]) -> Vec<Action> {
    let (before, now) = (revision(new), revision(new).max(next_revision(old)));
    let mut annotations = inherited(deployment);
    annotations.retain(|key, value| new.annotations().get(key) != Some(value));
    if before < now {
        annotations.insert(REVISION.to_owned(), now.to_string());
    }
    if before < now && before > 0 {
        annotations.insert(REVISION_HISTORY.to_owned(), history_with(new, before));
    }
    let mut actions = Vec::new();
    let min_ready_s = spec(deployment).min_ready_seconds.unwrap_or(0);
    if !annotations.is_empty() || set_spec(new).min_ready_seconds.unwrap_or(0) != min_ready_s {
        let patch =
            json!({"metadata": {"annotations": annotations}, "spec": {"minReadySeconds": min_ready_s}});
        actions.push(Action::Patch(new.clone(), patch));
    }
    if deployment.annotations().get(REVISION) != Some(&now.to_string()) {
        actions.push(Action::Revision(now));
    }
    actions
}

/// The revisions that a ReplicaSet was, and one more.
pub(crate) fn history_with(set: &ReplicaSet, revision: u64) -> String {
    let Some(history) = set.annotations().get(REVISION_HISTORY) else { return revision.to_string() };
    let mut history = format!("{history},{revision}");
    while history.len() > LONGEST_HISTORY
        && let Some((_, rest)) = history.split_once(',')
    {
        history = rest.to_owned();
    }
    history
}

fn inherited(deployment: &Deployment) -> BTreeMap<String, String> {
    let mut annotations = deployment.annotations().clone();
    annotations.retain(|key, _| !NOT_INHERITED.contains(&key.as_str()));
    annotations
}

fn new_annotations(deployment: &Deployment, revision: u64) -> BTreeMap<String, String> {
    let mut annotations = inherited(deployment);
    let max = wanted(deployment) + fenceposts(deployment).0;
    annotations.insert(REVISION.to_owned(), revision.to_string());
    annotations.insert(DESIRED.to_owned(), wanted(deployment).to_string());
    annotations.insert(MAX.to_owned(), max.to_string());
    annotations
}

pub(crate) fn revision(set: &ReplicaSet) -> u64 {
    set.annotations().get(REVISION).and_then(|revision| revision.parse().ok()).unwrap_or(0)
}

/// The oldest ReplicaSets beyond `revisionHistoryLimit` that have no pods.
fn surplus_history(deployment: &Deployment, old: &[Arc<ReplicaSet>]) -> Vec<Action> {
    let limit = spec(deployment).revision_history_limit.unwrap_or(10);
    let mut kept: Vec<_> = old.iter().filter(|set| !set.is_deleting()).collect();
    let surplus = kept.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
    kept.sort_by_key(|set| revision(set));
    let idle = |set: &&&Arc<ReplicaSet>| {
        let status = set.status.as_ref();
        replicas(set) == 0
            && status.is_some_and(|status| status.replicas == 0)
            && set.metadata.generation <= status.and_then(|status| status.observed_generation)
    };
    kept.iter().take(surplus).filter(idle).map(|set| Action::Delete(Arc::clone(set))).collect()
}

#[derive(Clone)]
struct Deployments {
    client: Client,
    deployments: Cache<Deployment>,
    sets: Cache<ReplicaSet>,
    pods: Cache<Pod>,
    recorder: Recorder,
}

pub(crate) fn start(room: &Room) {
    let controller = Deployments {
        client: room.client.clone(),
        deployments: room.caches.of(),
        sets: room.caches.of(),
        pods: room.caches.of(),
        recorder: room.recorder("deployment-controller"),
    };
    let queue = Queue::new("deployment");
    common::watch_self(&controller.deployments, &queue);
    let deployments = controller.deployments.clone();
    common::watch_children(&controller.sets, &queue, "Deployment", move |set: &ReplicaSet| {
        let deployments = deployments.snapshot();
        let candidates = deployments.in_namespace(set.namespace());
        common::adopters(candidates, |deployment| Some(&spec(deployment).selector), set)
    });
    let (recreated, sets) = (queue.clone(), controller.sets.clone());
    controller.pods.on_change(move |change| {
        let pod = change.object();
        let gone = change.new.as_ref().is_none_or(|pod| pods::is_finished(pod));
        let set = pod.controller().filter(|owner| gone && owner.kind == "ReplicaSet");
        let set = set.and_then(|owner| sets.get(pod.namespace(), owner.name));
        if let Some(owner) = set.as_ref().and_then(|set| set.controller()) {
            recreated.add(Key::new(pod.namespace(), owner.name));
        }
    });
    room.work("deployment controller", &queue, 8, move |key| controller.clone().sync(key));
}

impl Deployments {
    async fn sync(self, key: Key) -> Result<Next, Error> {
        self.sets.synced().await;
        self.pods.synced().await;
        let Some(deployment) = self.deployments.get(&key.namespace, &key.name) else { return Ok(Next::Done) };
        let sets = self.claim(&deployment).await?;
        let view = View {
            deployment: &deployment,
            old_pods: self.old_pods_run(&deployment, &sets),
            sets: &sets,
            now: now().0,
        };
        let plan = plan(&view);
        for action in plan.actions {
            self.carry_out(&deployment, action).await?;
        }
        self.write_status(&deployment, plan.status).await?;
        Ok(plan.look_again_s.map_or(Next::Done, |seconds| Next::After(Duration::from_secs(seconds))))
    }

    async fn claim(&self, deployment: &Deployment) -> Result<Vec<Arc<ReplicaSet>>, Error> {
        let selector = Labels::of(Some(&spec(deployment).selector));
        let matches = |set: &ReplicaSet| selector.selects(set);
        let mut owned = common::claim_all(&self.client, deployment, &self.sets, matches, |_| true).await?;
        owned.sort_by_key(|set| (common::created(&set.metadata), set.name().to_owned()));
        Ok(owned)
    }

    fn old_pods_run(&self, deployment: &Deployment, sets: &[Arc<ReplicaSet>]) -> bool {
        let old: Vec<&str> =
            sets.iter().filter(|set| !template::is_same(set, deployment)).map(|set| set.uid()).collect();
        let snapshot = self.pods.snapshot();
        snapshot.in_namespace(deployment.namespace()).any(|pod| {
            !pods::is_finished(pod) && pod.controller().is_some_and(|owner| old.contains(&owner.uid))
        })
    }

    async fn carry_out(&self, deployment: &Deployment, action: Action) -> Result<(), Error> {
        match action {
            Action::Create(set) => return self.create(deployment, &set).await,
            Action::Patch(set, patch) => self.patch(&set, patch).await?,
            Action::Scale(set, size) => {
                let (wanted, max) = (wanted(deployment), wanted(deployment) + fenceposts(deployment).0);
                let annotations = json!({DESIRED: wanted.to_string(), MAX: max.to_string()});
                let patch = json!({"metadata": {"annotations": annotations}, "spec": {"replicas": size}});
                self.patch(&set, patch).await?;
                self.scaled(deployment, set.name(), replicas(&set), size);
            }
            Action::Delete(set) => {
                common::delete_seen(&self.client, &self.sets, &*set).await?;
            }
            Action::Revision(revision) => {
                let patch =
                    Patch::Merge(json!({"metadata": {"annotations": {REVISION: revision.to_string()}}}));
                let place = (deployment.namespace(), deployment.name());
                let patched = self.client.patch::<Deployment>(place.0, place.1, &patch).await?;
                self.deployments.reached(patched.revision()).await;
            }
            Action::RollBack(back) => {
                let written = self.client.update(&back.deployment).await?;
                self.deployments.reached(written.revision()).await;
                match back.warning {
                    true => self.recorder.warning(deployment, back.reason, back.message),
                    false => self.recorder.normal(deployment, back.reason, back.message),
                }
            }
        }
        Ok(())
    }

    /// Creates the new ReplicaSet; where a foreign one has its name, another name is tried next time.
    async fn create(&self, deployment: &Deployment, set: &ReplicaSet) -> Result<(), Error> {
        match self.client.create(set).await {
            Ok(created) => {
                self.scaled(deployment, created.name(), 0, replicas(&created));
                self.sets.reached(created.revision()).await;
                Ok(())
            }
            Err(error) if error.is_already_exists() => {
                let found: ReplicaSet = self.client.get(set.namespace(), set.name()).await?;
                let own = found.controller().is_some_and(|owner| owner.uid == deployment.uid());
                if own && template::is_same(&found, deployment) {
                    self.sets.reached(found.revision()).await;
                    return Ok(());
                }
                let mut status = deployment.status.clone().unwrap_or_default();
                *status.collision_count.get_or_insert(0) += 1;
                self.write_status(deployment, status).await?;
                Err(error)
            }
            Err(error) if common::is_namespace_going(&error) => Err(error),
            Err(error) => {
                let message = status::refusal(set.name(), &error);
                self.recorder.warning(deployment, status::REFUSED, message.clone());
                self.write_status(deployment, status::refused(deployment, &message, now().0)).await?;
                Err(error)
            }
        }
    }

    fn scaled(&self, deployment: &Deployment, set: &str, from: i32, to: i32) {
        let direction = if to > from { "up" } else { "down" };
        if to != from {
            let message = format!("Scaled {direction} replica set {set} from {from} to {to}");
            self.recorder.normal(deployment, "ScalingReplicaSet", message);
        }
    }

    /// Patches a ReplicaSet unless it has changed since it was looked at.
    async fn patch(&self, set: &ReplicaSet, mut patch: Value) -> Result<(), Error> {
        let fresh = self.sets.get(set.namespace(), set.name());
        patch["metadata"]["resourceVersion"] =
            json!(fresh.as_deref().unwrap_or(set).metadata.resource_version);
        let patched: ReplicaSet =
            self.client.patch(set.namespace(), set.name(), &Patch::Merge(patch)).await?;
        self.sets.reached(patched.revision()).await;
        Ok(())
    }

    async fn write_status(&self, deployment: &Deployment, status: DeploymentStatus) -> Result<(), Error> {
        if deployment.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let fresh = self.deployments.get(deployment.namespace(), deployment.name());
        let mut changed = fresh.as_deref().unwrap_or(deployment).clone();
        changed.status = Some(status);
        match self.client.update_status(&changed).await {
            Err(error) if error.is_not_found() => {}
            other => self.deployments.reached(other?.revision()).await,
        }
        Ok(())
    }
}
