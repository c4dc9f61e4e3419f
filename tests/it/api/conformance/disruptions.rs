//! Behaviours of disruption budgets: their objects, what they say, and whom they keep from going.

use super::{DEPLOYMENTS, PODS, get, items, made, patched, updated};
use crate::support::cluster::SOON;
use crate::support::https::{Https, JSON};
use crate::support::process::wait_for;
use serde_json::{Value, json};

const BUDGETS: &str = "/apis/policy/v1/namespaces/conformance/poddisruptionbudgets";
const ALL: &str = "/apis/policy/v1/poddisruptionbudgets";

/// A budget for the pods of one app.
fn budget(name: &str, app: &str, spec: Value) -> Value {
    let mut budget = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
        "metadata": {"name": name, "labels": {"app": app}}, "spec": spec});
    budget["spec"]["selector"] = json!({"matchLabels": {"app": app}});
    budget
}

fn pod(https: &Https, name: &str, app: &str) {
    made(
        https,
        PODS,
        &json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": app}},
            "spec": {"containers": [{"name": "c", "image": "i"}]}}),
    );
    runs(https, name);
}

/// Says in place of a node that a pod is ready.
fn runs(https: &Https, name: &str) {
    let ready = json!({"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"});
    let status = json!({"status": {"phase": "Running", "conditions": [ready]}});
    patched(https, &format!("{PODS}/{name}/status"), &status);
}

/// Waits until a budget has counted, as expected, desired and healthy pods and those that may go.
#[track_caller]
fn counts(https: &Https, name: &str, wanted: [i64; 4]) -> Value {
    let fields = ["expectedPods", "desiredHealthy", "currentHealthy", "disruptionsAllowed"];
    let mut last = Value::Null;
    wait_for(&format!("{wanted:?} of {name}"), SOON, || {
        last = get(https, &format!("{BUDGETS}/{name}")).1;
        let observed = last["status"]["observedGeneration"] == last["metadata"]["generation"];
        (observed && fields.map(|field| last["status"][field].as_i64().unwrap_or(-1)) == wanted).then_some(())
    });
    last
}

fn evict(https: &Https, name: &str) -> (u16, Value) {
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}});
    https.send("POST", &format!("{PODS}/{name}/eviction"), JSON, &eviction)
}

pub(super) fn budgets_live(https: &Https) {
    let own = made(https, BUDGETS, &budget("life", "nobody", json!({"minAvailable": "1%"})));
    let path = format!("{BUDGETS}/life");
    assert_eq!(get(https, &path).1["metadata"]["uid"], own["metadata"]["uid"]);
    let changed = updated(https, &path, |budget| budget["spec"]["minAvailable"] = json!("2%"));
    assert_eq!(
        (&changed["spec"]["minAvailable"], &changed["metadata"]["generation"]),
        (&json!("2%"), &json!(2))
    );
    let changed = patched(https, &path, &json!({"spec": {"minAvailable": "3%"}}));
    assert_eq!(changed["spec"]["minAvailable"], "3%");
    counts(https, "life", [0, 0, 0, 0]);
    assert_eq!(https.ask("DELETE", &path).send().code, 200);
    assert_eq!(get(https, &path).0, 404);
}

pub(super) fn budgets_are_listed_everywhere(https: &Https) {
    for name in ["one", "two", "three"] {
        made(https, BUDGETS, &budget(name, "listed", json!({"minAvailable": 1})));
    }
    let elsewhere = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
    made(https, elsewhere, &budget("four", "listed", json!({"minAvailable": 1})));
    let listed = "?labelSelector=app%3Dlisted";
    assert_eq!(items(https, &format!("{ALL}{listed}")).len(), 4);
    assert_eq!(items(https, &format!("{BUDGETS}{listed}")).len(), 3);
    assert_eq!(https.ask("DELETE", &format!("{BUDGETS}{listed}")).send().code, 200);
    assert_eq!(items(https, &format!("{BUDGETS}{listed}")).len(), 0);
    assert_eq!(https.ask("DELETE", &format!("{elsewhere}{listed}")).send().code, 200);
    assert_eq!(items(https, &format!("{ALL}{listed}")).len(), 0);
}

pub(super) fn budgets_count_pods(https: &Https) {
    made(https, BUDGETS, &budget("counted", "counted", json!({"minAvailable": 1})));
    counts(https, "counted", [0, 1, 0, 0]);
    for name in ["counted-a", "counted-b"] {
        pod(https, name, "counted");
    }
    let told = counts(https, "counted", [2, 1, 2, 1]);
    let condition = &told["status"]["conditions"][0];
    assert_eq!(
        (&condition["type"], &condition["status"], &condition["reason"]),
        (&json!("DisruptionAllowed"), &json!("True"), &json!("SufficientPods"))
    );
    // Of pods that a Deployment keeps as many are wanted as it says.
    let template = json!({"metadata": {"labels": {"app": "kept"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let spec = json!({"replicas": 4, "selector": {"matchLabels": {"app": "kept"}}, "template": template});
    made(
        https,
        DEPLOYMENTS,
        &json!({"apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "kept"}, "spec": spec}),
    );
    made(https, BUDGETS, &budget("kept", "kept", json!({"maxUnavailable": "50%"})));
    let kept = wait_for("the pods of a Deployment", SOON, || {
        let all = items(https, &format!("{PODS}?labelSelector=app%3Dkept"));
        (all.len() == 4).then_some(all)
    });
    counts(https, "kept", [4, 2, 0, 0]);
    for pod in &kept[..3] {
        runs(https, pod["metadata"]["name"].as_str().unwrap());
    }
    counts(https, "kept", [4, 2, 3, 1]);
    patched(https, &format!("{DEPLOYMENTS}/kept"), &json!({"spec": {"replicas": 8}}));
    counts(https, "kept", [8, 4, 3, 0]);
    assert_eq!(https.ask("DELETE", &format!("{DEPLOYMENTS}/kept")).send().code, 200);
}

pub(super) fn budget_status_changes(https: &Https) {
    pod(https, "told", "told");
    made(https, BUDGETS, &budget("told", "told", json!({"minAvailable": 1})));
    counts(https, "told", [1, 1, 1, 0]);
    let (path, now) = (format!("{BUDGETS}/told/status"), "2096-01-01T00:00:00Z");
    let changed = updated(https, &path, |budget| budget["status"]["disruptedPods"] = json!({"told": now}));
    assert_eq!(changed["status"]["disruptedPods"]["told"], now, "{changed}");
    // A pod that is to go is not counted as healthy.
    counts(https, "told", [1, 1, 0, 0]);
    let changed = patched(https, &path, &json!({"status": {"disruptedPods": null}}));
    assert_eq!(changed["status"]["disruptedPods"], Value::Null, "{changed}");
    counts(https, "told", [1, 1, 1, 0]);
}

pub(super) fn evictions_wait_for_budgets(https: &Https) {
    for name in ["held-a", "held-b", "held-c"] {
        pod(https, name, "held");
    }
    made(https, BUDGETS, &budget("held", "held", json!({"minAvailable": 3})));
    counts(https, "held", [3, 3, 3, 0]);
    let (code, refused) = evict(https, "held-a");
    assert_eq!((code, &refused["reason"]), (429, &json!("TooManyRequests")), "{refused}");
    assert_eq!(
        refused["details"]["causes"][0]["message"],
        "The disruption budget held needs 3 healthy pods and has 3 currently"
    );
    updated(https, &format!("{BUDGETS}/held"), |budget| budget["spec"]["minAvailable"] = json!(2));
    counts(https, "held", [3, 2, 3, 1]);
    let (code, done) = evict(https, "held-a");
    assert_eq!(code, 201, "{done}");
    assert_eq!(evict(https, "held-b").0, 429, "one was allowed to go");
    counts(https, "held", [2, 2, 2, 0]);
    pod(https, "held-d", "held");
    counts(https, "held", [3, 2, 3, 1]);
    assert_eq!(evict(https, "held-b").0, 201);
}
