//! Evicting a pod unless a disruption budget forbids it now (policy/v1 Eviction).

use super::super::commit::Held;
use super::super::delete::{DeleteOptions, check_preconditions};
use super::super::{Change, Context, Part, Place, Registry, Writer, decoded, set_condition, store_refusal};
use super::success;
use crate::http::query::Query;
use api::kinds::{Kind, by_kind};
use api::selector::Labels;
use api::status::Refusal;
use serde_json::{Value, json};
use store::WriteError;

/// How often what somebody else wrote to at the same time is tried again (Kubernetes' number).
const ATTEMPTS: usize = 20;
/// How many evictions a budget's controller may be behind.
const MOST_DISRUPTED: usize = 2000;
const REFUSED: &str = "Cannot evict pod as it would violate the pod's disruption budget.";
const SEVERAL: &str =
    "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";

impl Registry {
    /// Deletes a pod unless a disruption budget forbids it now.
    pub(crate) async fn evict(
        &self,
        place: Place<'_>,
        eviction: &Value,
        context: &Context,
    ) -> Result<(u16, Value), Refusal> {
        if eviction["metadata"]["name"].as_str().unwrap_or_default() != place.name {
            return Err(Refusal::bad_request("name in URL does not match name in Eviction object"));
        }
        let options = DeleteOptions::parse(&eviction["deleteOptions"], &Query::default())?;
        self.admit_posted(place, "eviction", &mut eviction.clone(), context).await?;
        // What becomes of a budget and of the pod is this server's doing.
        let writer = Writer { manager: "kube-apiserver".to_owned(), subresource: "status", force: false };
        let dry_run = context.dry_run || options.dry_run;
        let context = Context { dry_run, writer, admitted: true, ..context.clone() };
        let Some(pod) = self.end_unguarded(place, &options, &context).await? else {
            return Ok((201, success()));
        };
        let budgets = by_kind("policy/v1", "PodDisruptionBudget").ok_or_else(Refusal::no_such_resource)?;
        let guarding = self.budgets_of(budgets, place.namespace, &pod);
        let mut own = options.clone();
        let mut budget_name = "";
        match guarding.as_slice() {
            [] => {}
            [budget] => {
                budget_name = budget["metadata"]["name"].as_str().unwrap_or_default();
                if !is_ready(&pod) && is_harmless(budget) {
                    // It must not have become ready meanwhile.
                    own.pin(&pod);
                } else {
                    self.spend(
                        Place { kind: budgets, namespace: place.namespace, name: budget_name },
                        place.name,
                        &context,
                    )
                    .await?;
                }
            }
            _ => {
                let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": SEVERAL, "code": 500});
                return Ok((201, status));
            }
        }
        match self.disrupt(place, &own, &context).await {
            Err(refusal) if refusal.reason == "Conflict" && own.is_pinned() && !options.is_pinned() => {
                Err(too_many(budget_name))
            }
            other => other.map(|()| (201, success())),
        }
    }

    /// Ends a pod that no budget guards, as it does not run; gives back one that may be guarded.
    async fn end_unguarded(
        &self,
        place: Place<'_>,
        options: &DeleteOptions,
        context: &Context,
    ) -> Result<Option<Value>, Refusal> {
        let mut last = Refusal::stale(place.kind, place.name);
        for _ in 0..ATTEMPTS {
            let pod = decoded(&*self.find(place.kind, place.namespace, place.name)?)?;
            let phase = pod["status"]["phase"].as_str().unwrap_or_default();
            let ended =
                matches!(phase, "Succeeded" | "Failed") || !pod["metadata"]["deletionTimestamp"].is_null();
            if !ended && phase != "Pending" {
                return Ok(Some(pod));
            }
            let mut own = options.clone();
            if !ended && !options.is_pinned() {
                own.pin(&pod);
            }
            match self.disrupt(place, &own, context).await {
                Err(refusal) if refusal.reason == "Conflict" && !options.is_pinned() => last = refusal,
                other => return other.map(|()| None),
            }
        }
        Err(last)
    }

    /// Says in the pod's status why it ends, and deletes it.
    async fn disrupt(
        &self,
        place: Place<'_>,
        options: &DeleteOptions,
        context: &Context,
    ) -> Result<(), Refusal> {
        let mut options = options.clone();
        for _ in 0..ATTEMPTS {
            if context.dry_run {
                break;
            }
            let record = self.find(place.kind, place.namespace, place.name)?;
            let mut pod = decoded(&record)?;
            check_preconditions(place.kind, place.name, &pod, &options)?;
            let why = json!({"type": "DisruptionTarget", "status": "True",
                "reason": "EvictionByEvictionAPI", "message": "Eviction API: evicting"});
            set_condition(&mut pod, why);
            match self.put(place, &record, pod, Held::default()).await {
                Ok(written) => {
                    let written: Value = serde_json::from_slice(&written).map_err(Refusal::internal)?;
                    if options.is_pinned() {
                        options.pin(&written);
                    }
                    break;
                }
                Err(WriteError::Conflict(_)) => {}
                Err(error) => return Err(store_refusal(&error)),
            }
        }
        self.delete(place, &options, context).await.map(drop)
    }

    fn budgets_of(&self, budgets: &Kind, namespace: &str, pod: &Value) -> Vec<Value> {
        let labels = serde_json::from_value(pod["metadata"]["labels"].clone()).unwrap_or_default();
        let snapshot = self.records.snapshot();
        let prefix = format!("{}{namespace}/", budgets.storage_prefix());
        let all = snapshot.range(&prefix, None).filter_map(|record| decoded(record).ok());
        all.filter(|budget| {
            let selector = serde_json::from_value(budget["spec"]["selector"].clone()).ok();
            Labels::of(selector.as_ref()).matches(&labels)
        })
        .collect()
    }

    /// Takes one allowed disruption from a budget, or refuses.
    async fn spend(&self, place: Place<'_>, pod: &str, context: &Context) -> Result<(), Refusal> {
        let mut last = too_many(place.name);
        for _ in 0..ATTEMPTS {
            let budget = decoded(&*self.find(place.kind, place.namespace, place.name)?)?;
            let allowed = allowed(&budget)?;
            let mut status =
                json!({"disruptionsAllowed": allowed - 1, "disruptedPods": {pod: super::super::timestamp()}});
            if allowed == 1 {
                status["conditions"] = exhausted(&budget["status"]);
            }
            let version = &budget["metadata"]["resourceVersion"];
            let patch = json!({"metadata": {"resourceVersion": version}, "status": status});
            match self.change(place, &Change::Merge(patch), Part::Status, context).await {
                Err(refusal) if refusal.reason == "Conflict" => last = refusal,
                other => return other.map(drop),
            }
        }
        Err(last)
    }
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    conditions.into_iter().any(|one| one["type"] == "Ready" && one["status"] == "True")
}

/// Whether a pod that is not ready may go without being counted (KEP-3017).
fn is_harmless(budget: &Value) -> bool {
    let status = |field: &str| budget["status"][field].as_i64().unwrap_or(0);
    let (current, desired) = (status("currentHealthy"), status("desiredHealthy"));
    budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow" || (current >= desired && desired > 0)
}

fn too_many(budget: &str) -> Refusal {
    let message = format!("The disruption budget {budget} is still being processed by the server.");
    let mut refusal = Refusal::new(429, "TooManyRequests", REFUSED);
    refusal.details =
        json!({"causes": [{"reason": "DisruptionBudget", "message": message}], "retryAfterSeconds": 10});
    refusal
}

fn forbidden(name: &str, why: &str) -> Refusal {
    let message = format!("poddisruptionbudget.policy {name:?} is forbidden: {why}");
    let mut refusal = Refusal::new(403, "Forbidden", message);
    refusal.details = json!({"name": name, "group": "policy", "kind": "poddisruptionbudget"});
    refusal
}

/// How many disruptions a budget allows now, if any.
fn allowed(budget: &Value) -> Result<i64, Refusal> {
    let (meta, status) = (&budget["metadata"], &budget["status"]);
    let name = meta["name"].as_str().unwrap_or_default();
    let number = |value: &Value| value.as_i64().unwrap_or(0);
    if number(&status["observedGeneration"]) < number(&meta["generation"]) {
        return Err(too_many(name));
    }
    let allowed = number(&status["disruptionsAllowed"]);
    if allowed < 0 {
        return Err(forbidden(name, "pdb disruptions allowed is negative"));
    }
    if status["disruptedPods"].as_object().is_some_and(|pods| pods.len() > MOST_DISRUPTED) {
        return Err(forbidden(
            name,
            "DisruptedPods map too big - too many evictions not confirmed by PDB controller",
        ));
    }
    if allowed > 0 {
        return Ok(allowed);
    }
    let mut refusal = Refusal::new(429, "TooManyRequests", REFUSED);
    refusal.details =
        json!({"causes": [{"reason": "DisruptionBudget", "message": exhaustion(name, status)}]});
    Err(refusal)
}

/// Why a budget allows nothing, in Kubernetes' words.
fn exhaustion(name: &str, status: &Value) -> String {
    let conditions = status["conditions"].as_array().into_iter().flatten();
    let told = conditions.into_iter().find(|one| one["type"] == "DisruptionAllowed");
    let text = |field: &str| told.and_then(|one| one[field].as_str()).unwrap_or_default();
    let told = text("status") == "False" && !text("message").is_empty();
    let number = |field: &str| status[field].as_i64().unwrap_or(0);
    let (current, desired) = (number("currentHealthy"), number("desiredHealthy"));
    if told && text("reason") == "SyncFailed" {
        let why = text("message");
        return format!(
            "The disruption budget {name} does not allow evicting pods currently because it failed sync: {why}"
        );
    }
    if current <= desired {
        return format!(
            "The disruption budget {name} needs {desired} healthy pods and has {current} currently"
        );
    }
    let head = format!("The disruption budget {name} does not allow evicting pods currently");
    if told { format!("{head} ({}): {}", text("reason"), text("message")) } else { head }
}

/// The conditions of a budget of which the last disruption is taken.
fn exhausted(status: &Value) -> Value {
    let mut conditions = status["conditions"].as_array().cloned().unwrap_or_default();
    let before = conditions.iter().position(|one| one["type"] == "DisruptionAllowed");
    let mut own = json!({"type": "DisruptionAllowed", "status": "False", "reason": "InsufficientPods", "message": "",
        "lastTransitionTime": super::super::timestamp()});
    if !status["observedGeneration"].is_null() {
        own["observedGeneration"] = status["observedGeneration"].clone();
    }
    match before {
        Some(at) => {
            if conditions[at]["status"] == "False" {
                own["lastTransitionTime"] = conditions[at]["lastTransitionTime"].clone();
            }
            conditions[at] = own;
        }
        None => conditions.push(own),
    }
    Value::Array(conditions)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budgets_say_why_they_allow_nothing() {
        let budget = |status: &Value| json!({"metadata": {"name": "b", "generation": 1}, "status": status});
        let told = |status: &Value| {
            let refusal = allowed(&budget(status)).unwrap_err();
            (
                refusal.code,
                refusal.details["causes"][0]["message"].as_str().unwrap_or(&refusal.message).to_owned(),
            )
        };
        assert_eq!(allowed(&budget(&json!({"observedGeneration": 1, "disruptionsAllowed": 2}))), Ok(2));
        assert_eq!(
            told(&json!({})),
            (429, "The disruption budget b is still being processed by the server.".to_owned())
        );
        assert_eq!(
            told(&json!({"observedGeneration": 1, "desiredHealthy": 2, "currentHealthy": 1})),
            (429, "The disruption budget b needs 2 healthy pods and has 1 currently".to_owned())
        );
        assert_eq!(
            told(&json!({"observedGeneration": 1, "disruptionsAllowed": -1})),
            (
                403,
                "poddisruptionbudget.policy \"b\" is forbidden: pdb disruptions allowed is negative"
                    .to_owned()
            )
        );
    }

    #[test]
    fn pods_that_are_not_ready_go_where_that_harms_nobody() {
        let budget = |policy: &str, current: i64| json!({"spec": {"unhealthyPodEvictionPolicy": policy}, "status": {"desiredHealthy": 2, "currentHealthy": current}});
        assert!(is_harmless(&budget("AlwaysAllow", 0)));
        assert!(is_harmless(&budget("IfHealthyBudget", 2)));
        assert!(!is_harmless(&budget("IfHealthyBudget", 1)));
    }
}
