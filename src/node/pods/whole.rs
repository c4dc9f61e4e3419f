//! What a pod as a whole was given and has, as its status tells (KEP-5419). Pure.

use super::ledger::Given;
use super::resize::POD;
use super::spec;
use crate::amount::{self, List, Qos, Resources, demanded, demands};
use crate::checkpoint::Resources as Lagging;
use api::Quantity;
use api::core::{Pod, PodStatus, ResourceRequirements};
use api::demand::{Amounts, Side};
use api::quantity::Amount;
use std::borrow::Cow;

/// What cgroups count at least is not told: it says nothing of what was asked for.
const LEAST_REQUEST_M: i64 = 2;
const LEAST_LIMIT_M: i64 = 10;

/// The pod with the resources that it and its containers have by now.
pub(super) fn actual<'a>(pod: &'a Pod, lagging: &Lagging) -> Cow<'a, Pod> {
    if lagging.is_empty() {
        return Cow::Borrowed(pod);
    }
    let mut has = Given::of(pod);
    has.containers.extend(lagging.clone());
    if let Some(own) = lagging.get(POD) {
        has.pod = Some(own.clone());
    }
    Cow::Owned(has.put_on(pod.clone()))
}

/// Adds both to a pod's status: what it was given, and what it has.
pub(super) fn tell(pod: &Pod, lagging: &Lagging, status: &mut PodStatus) {
    let given = demanded(&demands(pod), Side::Requests);
    status.allocated_resources = Some(list(given)).filter(|list| !list.is_empty());
    let runs = status.phase.as_deref() == Some("Running");
    let pod = actual(pod, lagging);
    status.resources = Some(if runs { of_cgroup(&pod) } else { asked(&pod) });
}

fn list(amounts: Amounts) -> List {
    amounts.into_iter().map(|(name, amount)| (name, amount.into())).collect()
}

/// Of a pod that does not run: what it asks for, together with its containers.
fn asked(pod: &Pod) -> ResourceRequirements {
    let demands = demands(pod);
    let side = |side| Some(list(demanded(&demands, side))).filter(|list| !list.is_empty());
    ResourceRequirements {
        requests: side(Side::Requests),
        limits: side(Side::Limits),
        ..spec::spec(pod).resources.clone().unwrap_or_default()
    }
}

/// Of one that runs: what its cgroup was told, besides what the pod says as a whole. This is reckoned, for what is
/// read back from a cgroup is rounded.
fn of_cgroup(pod: &Pod) -> ResourceRequirements {
    let own = spec::spec(pod).resources.clone().unwrap_or_default();
    let best_effort = Qos::of(pod) == Qos::BestEffort;
    let told = if best_effort { Resources::default() } else { amount::of_pod(pod) };
    let (mut requests, mut limits) = (own.requests.unwrap_or_default(), own.limits.unwrap_or_default());
    let put = |list: &mut List, name: &str, amount: Amount| {
        list.insert(name.to_owned(), Quantity::from(amount));
    };
    if told.cpu_request_m > LEAST_REQUEST_M {
        put(&mut requests, "cpu", Amount::milli(told.cpu_request_m));
    }
    if told.cpu_limit_m > LEAST_LIMIT_M {
        put(&mut limits, "cpu", Amount::milli(told.cpu_limit_m));
    }
    if told.memory_limit > 0 {
        put(&mut limits, "memory", Amount::bytes(told.memory_limit));
    }
    // No cgroup is told of a request of memory.
    if !requests.contains_key("memory")
        && let Some(memory) = demanded(&demands(pod), Side::Requests).remove("memory")
    {
        put(&mut requests, "memory", memory);
    }
    let some = |list: List| Some(list).filter(|list| !list.is_empty());
    ResourceRequirements { requests: some(requests), limits: some(limits), claims: own.claims }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn told(phase: &str, spec: Value, lagging: &Lagging) -> (Value, Value) {
        let pod: Pod = serde_json::from_value(json!({"spec": spec})).unwrap();
        let mut status = PodStatus { phase: Some(phase.to_owned()), ..Default::default() };
        tell(&pod, lagging, &mut status);
        (json!(status.allocated_resources), json!(status.resources))
    }

    #[test]
    fn a_pod_that_does_not_run_has_what_it_asks_for() {
        let spec = json!({
            "overhead": {"cpu": "50m"},
            "containers": [
                {"name": "a", "resources": {"requests": {"cpu": "100m", "ephemeral-storage": "1Gi"}}},
                {"name": "b", "resources": {"requests": {"memory": "8Mi"}, "limits": {"cpu": "1"}}},
            ],
        });
        let requests = json!({"cpu": "150m", "memory": "8Mi", "ephemeral-storage": "1Gi"});
        let both = json!({"requests": requests, "limits": {"cpu": "1050m"}});
        assert_eq!(told("Pending", spec, &Lagging::new()), (requests, both));
        let nothing = json!({"containers": [{"name": "a"}]});
        assert_eq!(told("Pending", nothing.clone(), &Lagging::new()), (Value::Null, json!({})));
        assert_eq!(told("Running", nothing, &Lagging::new()), (Value::Null, json!({})));
    }

    #[test]
    fn one_that_runs_has_what_its_cgroup_was_told() {
        let sum = json!({"containers": [
            {"name": "a", "resources": {"requests": {"cpu": "100m", "memory": "8Mi"}, "limits": {"memory": "16Mi"}}},
            {"name": "b", "resources": {"limits": {"memory": "16Mi", "cpu": "1"}, "requests": {"cpu": "1"}}},
        ]});
        let (_, has) = told("Running", sum, &Lagging::new());
        let wanted = json!({"requests": {"cpu": "1100m", "memory": "8Mi"}, "limits": {"memory": "32Mi"}});
        assert_eq!(has, wanted, "a limit counts where all have one");
        let whole = json!({"containers": [{"name": "a", "resources": {"requests": {"cpu": "1"}}}],
            "resources": {"requests": {"cpu": "2m"}, "limits": {"cpu": "5m", "memory": "1Gi"}}});
        let (_, has) = told("Running", whole.clone(), &Lagging::new());
        assert_eq!(has, whole["resources"], "what is too little for a cgroup stays as it was written");
    }

    #[test]
    fn a_resize_shows_in_what_was_given_before_it_shows_in_what_there_is() {
        let spec = json!({"resources": {"requests": {"memory": "30Mi"}, "limits": {"memory": "30Mi"}},
            "containers": [{"name": "a"}]});
        let had = json!({"requests": {"memory": "35Mi"}, "limits": {"memory": "35Mi"}});
        let lagging = Lagging::from([(POD.to_owned(), serde_json::from_value(had.clone()).unwrap())]);
        assert_eq!(told("Running", spec, &lagging), (json!({"memory": "30Mi"}), had));
    }
}
