//! Which of several pods is meant, as kubectl decides it.

use serde_json::Value;
use std::cmp::Ordering;

/// The pods whose logs tell most come first: on a node, running, ready for long, restarted often, old.
pub(crate) fn for_logs(a: &Value, b: &Value) -> Ordering {
    let phase = |pod: &Value| match phase(pod) {
        "Pending" => 2,
        "Unknown" => 1,
        _ => 0,
    };
    assigned(a)
        .cmp(&assigned(b))
        .reverse()
        .then_with(|| phase(a).cmp(&phase(b)))
        .then_with(|| ready(a).is_some().cmp(&ready(b).is_some()).reverse())
        .then_with(|| both(ready(a), ready(b), earlier))
        .then_with(|| restarts(b).cmp(&restarts(a)))
        .then_with(|| earlier(created(a), created(b)))
}

/// The pods that are most alive come first: those that a controller would take away last.
pub(crate) fn for_attaching(a: &Value, b: &Value) -> Ordering {
    active(b, a)
}

/// Those that a controller takes away first come first.
fn active(a: &Value, b: &Value) -> Ordering {
    let phase = |pod: &Value| match phase(pod) {
        "Running" => 2,
        "Unknown" => 1,
        _ => 0,
    };
    let deleted = |pod: &'_ Value| pod["metadata"]["deletionTimestamp"].as_str().map(str::to_owned);
    assigned(a)
        .cmp(&assigned(b))
        .then_with(|| phase(a).cmp(&phase(b)))
        .then_with(|| ready(a).is_some().cmp(&ready(b).is_some()))
        .then_with(|| deleted(a).is_some().cmp(&deleted(b).is_some()).reverse())
        .then_with(|| deleted(a).cmp(&deleted(b)))
        .then_with(|| both(ready(a), ready(b), |a, b| earlier(b, a)))
        .then_with(|| restarts(b).cmp(&restarts(a)))
        .then_with(|| earlier(created(b), created(a)))
}

fn assigned(pod: &Value) -> bool {
    pod["spec"]["nodeName"].as_str().is_some_and(|node| !node.is_empty())
}

fn phase(pod: &Value) -> &str {
    pod["status"]["phase"].as_str().unwrap_or_default()
}

/// Since when a pod is ready; "" where that was not written down.
fn ready(pod: &Value) -> Option<&str> {
    let mut conditions = pod["status"]["conditions"].as_array()?.iter();
    let ready = conditions.find(|one| one["type"] == "Ready" && one["status"] == "True")?;
    Some(ready["lastTransitionTime"].as_str().unwrap_or_default())
}

fn created(pod: &Value) -> &str {
    pod["metadata"]["creationTimestamp"].as_str().unwrap_or_default()
}

/// The earlier time first; one that is not known is the latest.
fn earlier(a: &str, b: &str) -> Ordering {
    (a.is_empty(), a).cmp(&(b.is_empty(), b))
}

fn both(a: Option<&str>, b: Option<&str>, compare: fn(&str, &str) -> Ordering) -> Ordering {
    match (a, b) {
        (Some(a), Some(b)) => compare(a, b),
        _ => Ordering::Equal,
    }
}

/// How often the container that began most often did so.
fn restarts(pod: &Value) -> i64 {
    let all = pod["status"]["containerStatuses"].as_array().into_iter().flatten();
    all.filter_map(|status| status["restartCount"].as_i64()).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(name: &str, node: &str, phase: &str, ready: Option<&str>, created: &str) -> Value {
        let conditions = match ready {
            Some(since) => json!([{"type": "Ready", "status": "True", "lastTransitionTime": since}]),
            None => json!([]),
        };
        json!({"metadata": {"name": name, "creationTimestamp": created}, "spec": {"nodeName": node},
            "status": {"phase": phase, "conditions": conditions}})
    }

    fn sorted(order: fn(&Value, &Value) -> Ordering) -> String {
        let mut pods = [
            pod("waiting", "", "Pending", None, "2026-01-01T00:00:00Z"),
            pod("young", "n", "Running", Some("2026-01-03T00:00:00Z"), "2026-01-03T00:00:00Z"),
            pod("old", "n", "Running", Some("2026-01-02T00:00:00Z"), "2026-01-02T00:00:00Z"),
            pod("unready", "n", "Running", None, "2026-01-01T00:00:00Z"),
        ];
        pods.sort_by(order);
        pods.iter().map(|pod| pod["metadata"]["name"].as_str().unwrap()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn the_pod_that_is_most_of_use_comes_first() {
        assert_eq!(sorted(for_logs), "old young unready waiting");
        assert_eq!(sorted(for_attaching), "old young unready waiting");
    }
}
