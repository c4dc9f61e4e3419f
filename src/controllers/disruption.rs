//! Says of each PodDisruptionBudget how many of its pods may be evicted now.

use crate::common::{Key, Room, count, seconds_between, share_of, unless_gone};
use crate::kinds::CustomKinds;
use crate::pods::is_ready;
use crate::rollout;
use api::Object;
use api::apps::{Deployment, ReplicaSet};
use api::k8s::api::autoscaling::v1::Scale;
use api::meta::{Condition, Time};
use api::policy::{PodDisruptionBudget as Budget, PodDisruptionBudgetStatus as Status};
use api::selector::Labels;
use api::slim::Pod;
use base::clock;
use client::{Cache, Client, Error, Next, Queue, Recorder};
use jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// How long an eviction may take from the budget before the pod that it was for counts again.
const EVICTION_LIMIT_S: i64 = 120;

#[derive(Clone)]
struct Disruptions {
    client: Client,
    budgets: Cache<Budget>,
    pods: Cache<Pod>,
    sets: Cache<ReplicaSet>,
    deployments: Cache<Deployment>,
    customs: CustomKinds,
    recorder: Recorder,
}

pub(crate) fn start(room: &Room) {
    let controller = Disruptions {
        client: room.client.clone(),
        budgets: room.caches.of(),
        pods: room.caches.of(),
        sets: room.caches.of(),
        deployments: room.caches.of(),
        customs: CustomKinds::new(room),
        recorder: room.recorder("controllermanager"),
    };
    let queue = Queue::new("disruption");
    let changed = queue.clone();
    controller.budgets.on_change(move |change| {
        // What the API server takes from the status is put right when the pod goes, or does not.
        changed.add(Key::of(&**change.object()));
    });
    let (moved, budgets) = (queue.clone(), controller.budgets.clone());
    controller.pods.on_change(move |change| {
        let all = budgets.snapshot();
        let namespace = change.object().namespace().to_owned();
        for budget in all.in_namespace(&namespace) {
            let selector = selector(budget);
            if [&change.old, &change.new].into_iter().flatten().any(|pod| selector.selects(&**pod)) {
                moved.add(Key::of(&**budget));
            }
        }
    });
    let (scaled, budgets) = (queue.clone(), controller.budgets.clone());
    controller.deployments.on_change(move |change| {
        let wanted = |of: &Option<Arc<Deployment>>| of.as_ref().map(|own| rollout::wanted(own));
        if wanted(&change.old) != wanted(&change.new) {
            let namespace = change.object().namespace().to_owned();
            budgets.snapshot().in_namespace(&namespace).for_each(|own| scaled.add(Key::of(&**own)));
        }
    });
    room.work("disruption controller", &queue, 2, move |key| controller.clone().sync(key));
}

fn selector(budget: &Budget) -> Labels {
    Labels::of(budget.spec.as_ref().and_then(|spec| spec.selector.as_ref()))
}

/// How many pods the controllers of some pods want together.
#[derive(Debug, PartialEq, Eq)]
enum Expected {
    /// That is not asked: as many as there are.
    These,
    /// So many; pods of nobody make the number wrong.
    Wanted { pods: i32, unmanaged: bool },
    /// It cannot be told.
    Unknown(String),
}

/// What is to be said of a budget.
#[derive(Debug, PartialEq)]
struct Plan {
    status: Status,
    /// Pods that should have gone and have not.
    stayed: Vec<String>,
    /// When the next of the pods that should go is late.
    look_again_s: Option<i64>,
}

/// Whether the number of pods that are wanted decides, and not that of those that there are.
fn asks_controllers(budget: &Budget) -> bool {
    let Some(spec) = &budget.spec else { return false };
    spec.max_unavailable.is_some() || matches!(spec.min_available, Some(api::IntOrString::String(_)))
}

fn plan(budget: &Budget, pods: &[Arc<Pod>], expected: &Expected, now: Timestamp) -> Plan {
    let before = budget.status.clone().unwrap_or_default();
    let generation = budget.metadata.generation;
    let mut conditions = before.conditions.clone().unwrap_or_default();
    if let Expected::Unknown(why) = expected {
        // Nothing is allowed while it is not known what that would leave.
        let status = Status { disruptions_allowed: Some(0), observed_generation: generation, ..before };
        set(&mut conditions, ("False", "SyncFailed", why), generation, now);
        let status = Status { conditions: Some(conditions), ..status };
        return Plan { status, stayed: Vec::new(), look_again_s: None };
    }
    let (disrupted, stayed, look_again_s) = disrupted(&before, pods, now);
    let healthy =
        pods.iter().filter(|pod| !pod.is_deleting() && !disrupted.contains_key(pod.name()) && is_ready(pod));
    let healthy = count(healthy.count());
    let spec = budget.spec.clone().unwrap_or_default();
    let wanted = match expected {
        Expected::Wanted { pods, .. } => *pods,
        _ => count(pods.len()),
    };
    let desired = match (&spec.max_unavailable, &spec.min_available) {
        (Some(most), _) => (wanted - share_of(most, wanted, true)).max(0),
        (None, Some(least)) => share_of(least, wanted, true),
        (None, None) => 0,
    };
    let allowed = if wanted > 0 { (healthy - desired).max(0) } else { 0 };
    let said = if allowed > 0 { ("True", "SufficientPods", "") } else { ("False", "InsufficientPods", "") };
    set(&mut conditions, said, generation, now);
    let status = Status {
        conditions: Some(conditions),
        current_healthy: Some(healthy),
        desired_healthy: Some(desired),
        disrupted_pods: Some(disrupted).filter(|pods| !pods.is_empty()),
        disruptions_allowed: Some(allowed),
        expected_pods: Some(wanted),
        observed_generation: generation,
    };
    Plan { status, stayed, look_again_s }
}

type Disrupted = BTreeMap<String, Time>;

/// The pods whose eviction was allowed and that have not begun to go, those that should have, and when the
/// next of the former is one of the latter.
fn disrupted(before: &Status, pods: &[Arc<Pod>], now: Timestamp) -> (Disrupted, Vec<String>, Option<i64>) {
    let (mut going, mut stayed, mut next) = (BTreeMap::new(), Vec::new(), None);
    for (name, since) in before.disrupted_pods.iter().flatten() {
        let there = pods.iter().find(|pod| *pod.name() == **name);
        if there.is_none_or(|pod| pod.is_deleting()) {
            continue;
        }
        let left = EVICTION_LIMIT_S - seconds_between(since.0, now);
        if left > 0 {
            going.insert(name.clone(), since.clone());
            next = [next, Some(left)].into_iter().flatten().min();
        } else {
            stayed.push(name.clone());
        }
    }
    (going, stayed, next)
}

/// Sets `DisruptionAllowed`.
fn set(
    conditions: &mut Vec<Condition>,
    (status, reason, message): (&str, &str, &str),
    generation: Option<i64>,
    now: Timestamp,
) {
    const TYPE: &str = "DisruptionAllowed";
    let before = conditions.iter().find(|own| own.type_ == TYPE && own.status == status);
    let since = before.map_or(Time(now), |own| own.last_transition_time.clone());
    conditions.retain(|own| own.type_ != TYPE);
    conditions.push(Condition {
        last_transition_time: since,
        message: message.to_owned(),
        observed_generation: generation,
        reason: reason.to_owned(),
        status: status.to_owned(),
        type_: TYPE.to_owned(),
    });
}

impl Disruptions {
    async fn sync(self, key: Key) -> Result<Next, Error> {
        self.pods.synced().await;
        self.sets.synced().await;
        self.deployments.synced().await;
        self.customs.definitions.synced().await;
        let Some(budget) = self.budgets.get(&key.namespace, &key.name) else { return Ok(Next::Done) };
        let (snapshot, selector) = (self.pods.snapshot(), selector(&budget));
        let pods: Vec<_> =
            snapshot.in_namespace(&key.namespace).filter(|pod| selector.selects(&***pod)).cloned().collect();
        if pods.is_empty() {
            self.recorder.normal(&*budget, "NoPods", "No matching pods found".to_owned());
        }
        let expected = self.expected(&budget, &pods).await?;
        match &expected {
            Expected::Unknown(why) => {
                let message = format!("Failed to calculate the number of expected pods: {why}");
                self.recorder.warning(&*budget, "CalculateExpectedPodCountFailed", message);
            }
            Expected::Wanted { unmanaged: true, .. } => {
                let message = format!(
                    "Pods selected by this PodDisruptionBudget (selector: {selector}) were found to be unmanaged. As a result, the status of the PDB cannot be calculated correctly, which may result in undefined behavior. To account for these pods please set \".spec.minAvailable\" field of the PDB to an integer value."
                );
                self.recorder.warning(&*budget, "UnmanagedPods", message);
            }
            _ => {}
        }
        let Plan { status, stayed, look_again_s } =
            plan(&budget, &pods, &expected, clock::whole_seconds(clock::now()));
        for pod in pods.iter().filter(|pod| stayed.iter().any(|name| *name == *pod.name())) {
            let (namespace, name) = (&key.namespace, &key.name);
            let message = format!("Pod was expected by PDB {namespace}/{name} to be deleted but it wasn't");
            self.recorder.warning(&**pod, "NotDeleted", message);
        }
        if budget.status.as_ref() != Some(&status) {
            let written = Budget { status: Some(status), ..Budget::clone(&budget) };
            // Evictions write it too: one that comes between is counted first.
            unless_gone(self.client.update_status(&written).await.map(drop))?;
        }
        let seconds = look_again_s.and_then(|seconds| u64::try_from(seconds).ok());
        Ok(seconds.map_or(Next::Done, |seconds| Next::After(Duration::from_secs(seconds))))
    }

    async fn expected(&self, budget: &Budget, pods: &[Arc<Pod>]) -> Result<Expected, Error> {
        if !asks_controllers(budget) {
            return Ok(Expected::These);
        }
        let (mut seen, mut sum, mut unmanaged) = (BTreeSet::new(), 0_i32, false);
        for pod in pods {
            let Some(owner) = pod.controller() else {
                unmanaged = true;
                continue;
            };
            if !seen.insert(owner.uid.to_owned()) {
                continue;
            }
            match self.wanted_by(pod, &mut seen).await? {
                Some(wanted) => sum = sum.saturating_add(wanted),
                None => {
                    return Ok(Expected::Unknown(format!("found no controllers for pod {:?}", pod.name())));
                }
            }
        }
        Ok(Expected::Wanted { pods: sum, unmanaged })
    }

    /// How many pods the controller of a pod wants; 0 if somebody above it has been asked.
    async fn wanted_by(&self, pod: &Pod, seen: &mut BTreeSet<String>) -> Result<Option<i32>, Error> {
        let Some(owner) = pod.controller() else { return Ok(None) };
        let namespace = pod.namespace();
        if owner.kind == "ReplicaSet"
            && let Some(set) = self.sets.get(namespace, owner.name).filter(|set| set.uid() == owner.uid)
        {
            let above = set.controller().filter(|above| above.kind == "Deployment");
            let Some(above) = above else { return Ok(Some(rollout::replicas(&set))) };
            if !seen.insert(above.uid.to_owned()) {
                return Ok(Some(0));
            }
            let deployment = self.deployments.get(namespace, above.name);
            return Ok(deployment.map(|deployment| rollout::wanted(&deployment)));
        }
        let Some(kind) = self.customs.by_kind(owner.api_version, owner.kind) else { return Ok(None) };
        let path = format!("{}/{}/scale", kind.path(namespace), owner.name);
        match self.client.read::<Scale>(&path).await {
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
            Ok(scale) => {
                let owned = scale.metadata.uid.as_deref() == Some(owner.uid);
                Ok(owned.then(|| scale.spec.and_then(|spec| spec.replicas).unwrap_or(0)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn time(second: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + second).unwrap()
    }

    fn pods(of: &[(&str, &str)]) -> Vec<Arc<Pod>> {
        let one = |(name, ready): &(&str, &str)| {
            let mut meta = json!({"name": name, "namespace": "ns"});
            if *ready == "deleting" {
                meta["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
            }
            let ready = if *ready == "starting" { "False" } else { "True" };
            let status = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": ready}]});
            Arc::new(serde_json::from_value(json!({"metadata": meta, "status": status})).unwrap())
        };
        of.iter().map(one).collect()
    }

    fn budget(spec: &Value, status: &Value) -> Budget {
        let meta = json!({"name": "web", "namespace": "ns", "generation": 3});
        serde_json::from_value(json!({"metadata": meta, "spec": spec, "status": status})).unwrap()
    }

    /// The first line is a budget's spec and, were controllers asked, how many pods they want (`of 4`); then come pods.
    fn counted(input: &str) -> String {
        let mut lines = input.lines().filter(|line| !line.starts_with('#'));
        let (spec, wanted) = lines.next().unwrap().split_once(" of ").unwrap();
        let expected = match wanted.parse() {
            Ok(pods) => Expected::Wanted { pods, unmanaged: false },
            Err(_) => Expected::These,
        };
        let spec = api::yaml::first(spec.as_bytes()).unwrap().value;
        let there: Vec<_> = lines.filter_map(|line| line.split_once(' ')).collect();
        let status = plan(&budget(&spec, &json!({})), &pods(&there), &expected, time(0)).status;
        let number = |of: Option<i32>| of.unwrap();
        format!(
            "{} of {} healthy, {} wanted: {} may go\n",
            number(status.current_healthy),
            number(status.expected_pods),
            number(status.desired_healthy),
            number(status.disruptions_allowed)
        )
    }

    #[test]
    fn what_may_go_is_what_is_healthy_beyond_what_is_wanted() {
        crate::golden::check("disruptions.txt", counted);
    }

    #[test]
    fn a_pod_whose_eviction_is_allowed_counts_as_gone_for_two_minutes() {
        let three = pods(&[("a", "ready"), ("b", "ready"), ("c", "deleting")]);
        let status = json!({"disruptedPods": {"a": time(-30).to_string(), "b": time(-121).to_string(),
            "c": time(-1).to_string(), "gone": time(-1).to_string()}});
        let plan = plan(&budget(&json!({"minAvailable": 1}), &status), &three, &Expected::These, time(0));
        assert_eq!(plan.status.disrupted_pods.unwrap().into_keys().collect::<Vec<_>>(), ["a"]);
        assert_eq!((plan.stayed, plan.look_again_s), (vec!["b".to_owned()], Some(90)));
        assert_eq!((plan.status.current_healthy, plan.status.disruptions_allowed), (Some(1), Some(0)));
    }

    #[test]
    fn nothing_may_go_while_it_is_not_known_what_is_wanted() {
        let one = pods(&[("a", "ready")]);
        let old =
            json!({"disruptionsAllowed": 3, "expectedPods": 4, "currentHealthy": 4, "desiredHealthy": 1});
        let why = "found no controllers for pod \"a\"".to_owned();
        let budget = budget(&json!({"maxUnavailable": 0}), &old);
        let status = plan(&budget, &one, &Expected::Unknown(why), time(5)).status;
        assert_eq!((status.disruptions_allowed, status.expected_pods), (Some(0), Some(4)));
        let condition = &status.conditions.as_ref().unwrap()[0];
        assert_eq!((&*condition.status, &*condition.reason), ("False", "SyncFailed"));
        assert_eq!(condition.message, "found no controllers for pod \"a\"");
        let later = Budget { status: Some(status), ..budget };
        let plan = plan(&later, &one, &Expected::Wanted { pods: 1, unmanaged: false }, time(9));
        let condition = &plan.status.conditions.as_ref().unwrap()[0];
        assert_eq!(
            (&*condition.reason, &condition.last_transition_time),
            ("InsufficientPods", &Time(time(5)))
        );
        assert_eq!(condition.observed_generation, Some(3));
    }
}
