//! Classes of runtimes, and nodes that pods have to leave.

use super::{Behaviour, Namespace, behaviours};
use crate::support::cluster::{SOON, is_ready, name};
use crate::support::https::{Events, JSON};
use crate::support::process::wait_for;
use serde_json::{Value, json};

pub(super) const BEHAVIOURS: &[Behaviour] = behaviours![
    unknown_runtime_classes,
    deleted_runtime_classes,
    runtime_classes_without_overhead,
    runtime_classes_with_overhead,
];

/// What needs the node for itself.
pub(super) const ALONE: &[Behaviour] = behaviours![evictions_are_called_off, evictions_take_their_time];

/// Makes a class whose name is the namespace's, as it is an object of the whole cluster.
fn class(namespace: &Namespace, handler: &str, overhead: Option<Value>) {
    let mut class = json!({"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass",
        "metadata": {"name": namespace.name}, "handler": handler});
    if let Some(overhead) = overhead {
        class["overhead"] = json!({"podFixed": overhead});
    }
    namespace.made(&class);
}

fn forget_class(namespace: &Namespace) {
    let path = format!("/apis/node.k8s.io/v1/runtimeclasses/{}", namespace.name);
    assert_eq!(namespace.https.call("DELETE", &path).0, 200);
    wait_for("end of the class", SOON, || (namespace.https.call("GET", &path).0 == 404).then_some(()));
}

fn of_class(namespace: &Namespace) -> Value {
    let spec = format!("runtimeClassName: {}\ncontainers: [{{}}]", namespace.name);
    super::namespace::pod(&json!({"name": "classy"}), &spec)
}

/// The pod is refused, since there is no such class.
fn refused(namespace: &Namespace) -> Option<()> {
    let (code, answer) = namespace.try_made(&of_class(namespace));
    if code == 201 {
        namespace.deleted("pods/classy?gracePeriodSeconds=0");
        return None;
    }
    let wanted = format!("pod rejected: RuntimeClass \"{}\" not found", namespace.name);
    assert!(code == 403 && answer["message"].as_str().unwrap().contains(&wanted), "{answer}");
    Some(())
}

fn unknown_runtime_classes(namespace: &Namespace) {
    assert!(refused(namespace).is_some());
}

fn deleted_runtime_classes(namespace: &Namespace) {
    class(namespace, "runc", None);
    forget_class(namespace);
    wait_for("the refusal", SOON, || refused(namespace));
}

/// Makes a pod of the class and waits until it has a node.
fn scheduled(namespace: &Namespace) -> Value {
    namespace.made(&of_class(namespace));
    let pod = namespace.wait_pod("classy", |pod| {
        let conditions = pod["status"]["conditions"].as_array()?;
        let there = conditions.iter().any(|one| one["type"] == "PodScheduled" && one["status"] == "True");
        (there && pod["spec"]["nodeName"].is_string()).then(|| pod.clone())
    });
    assert_eq!(namespace.items("pods").len(), 1);
    pod
}

fn runtime_classes_without_overhead(namespace: &Namespace) {
    class(namespace, "runc", None);
    assert_eq!(scheduled(namespace)["spec"]["overhead"], Value::Null);
    namespace.ready("classy");
    forget_class(namespace);
}

fn runtime_classes_with_overhead(namespace: &Namespace) {
    let overhead = json!({"cpu": "10m", "memory": "1Mi"});
    class(namespace, "runc", Some(overhead.clone()));
    assert_eq!(scheduled(namespace)["spec"]["overhead"], overhead);
    namespace.ready("classy");
    forget_class(namespace);
}

const NODE: &str = "/api/v1/nodes/node-1";
const KEY: &str = "example.com/evict";
const OTHER: &str = "example.com/evict-others";

/// Changes the node's taints, which others may change at the same time.
fn taint(namespace: &Namespace, key: &str, there: bool) {
    let answer = wait_for("an update", SOON, || {
        let mut node = namespace.https.call("GET", NODE).1;
        let mut taints = node["spec"]["taints"].as_array().cloned().unwrap_or_default();
        taints.retain(|taint| taint["key"] != key);
        if there {
            taints.push(json!({"key": key, "value": "true", "effect": "NoExecute"}));
        }
        node["spec"]["taints"] = json!(taints);
        Some(namespace.https.send("PUT", NODE, JSON, &node)).filter(|(code, _)| *code != 409)
    });
    assert_eq!(answer.0, 200, "{}", answer.1);
    let taints = answer.1["spec"]["taints"].as_array().cloned().unwrap_or_default();
    assert_eq!(taints.iter().any(|taint| taint["key"] == key), there);
}

/// A running pod that bears one taint for so long, and the other for ever.
fn bearing(namespace: &Namespace, name: &str, (key, for_s): (&str, u32)) {
    let other = if key == KEY { OTHER } else { KEY };
    namespace.running(
        name,
        &format!(
            "
            tolerations:
            - {{key: {key}, operator: Exists, effect: NoExecute, tolerationSeconds: {for_s}}}
            - {{key: {other}, operator: Exists, effect: NoExecute}}
            containers: [{{}}]"
        ),
    );
}

fn watch(namespace: &Namespace) -> Events {
    let since = namespace.get("pods").1["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    let path = namespace.path(&format!("pods?watch=true&resourceVersion={since}"));
    namespace.https.ask("GET", &path).watch().unwrap()
}

/// The name of the next pod that is gone.
fn evicted(events: &Events) -> String {
    loop {
        let event = events.next(SOON * 2).unwrap().unwrap();
        if event["type"] == "DELETED" {
            return name(&event["object"]);
        }
    }
}

/// Both go; the one that bears less goes first, and none before its time.
fn evictions_take_their_time(namespace: &Namespace) {
    bearing(namespace, "short", (KEY, 3));
    bearing(namespace, "long", (KEY, 9));
    let events = watch(namespace);
    let began = base::clock::instant();
    taint(namespace, KEY, true);
    assert_eq!((evicted(&events), began.elapsed().as_secs() >= 3), ("short".to_owned(), true));
    assert_eq!((evicted(&events), began.elapsed().as_secs() >= 9), ("long".to_owned(), true));
    taint(namespace, KEY, false);
}

/// That its time is over is seen by another pod, which bears another taint for longer.
fn evictions_are_called_off(namespace: &Namespace) {
    bearing(namespace, "spared", (KEY, 5));
    bearing(namespace, "other", (OTHER, 8));
    let events = watch(namespace);
    taint(namespace, KEY, true);
    taint(namespace, KEY, false);
    taint(namespace, OTHER, true);
    assert_eq!(evicted(&events), "other");
    taint(namespace, OTHER, false);
    let pod = namespace.get("pods/spared").1;
    assert!(is_ready(&pod) && pod["metadata"]["deletionTimestamp"].is_null(), "{pod}");
}
