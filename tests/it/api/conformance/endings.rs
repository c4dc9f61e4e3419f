//! Behaviours of what ends: the garbage collector with many dependents, and namespaces with what is in
//! them.

use super::{CONTROLLERS, PODS, count, deleted, get, items, made, patched, template};
use crate::support::cluster::SOON;
use crate::support::https::{Https, JSON_PATCH};
use crate::support::process::wait_for;
use serde_json::{Value, json};

/// As many pods as the behaviours ask for at least.
const MANY: usize = 10;

fn controller(https: &Https, app: &str) -> Value {
    let object = json!({"apiVersion": "v1", "kind": "ReplicationController", "metadata": {"name": app},
        "spec": {"replicas": MANY, "selector": {"app": app}, "template": template(app)}});
    made(https, CONTROLLERS, &object)
}

#[track_caller]
fn gone(https: &Https, path: &str) {
    wait_for(&format!("the end of {path}"), SOON, || (get(https, path).0 == 404).then_some(()));
}

pub(super) fn controllers_wait_for_pods(https: &Https) {
    controller(https, "rc-waits");
    count(https, PODS, "rc-waits", MANY);
    deleted(https, &format!("{CONTROLLERS}/rc-waits"), "Foreground");
    gone(https, &format!("{CONTROLLERS}/rc-waits"));
    assert_eq!(items(https, &format!("{PODS}?labelSelector=app%3Drc-waits")), Vec::<Value>::new());
}

pub(super) fn pods_of_two_owners_stay(https: &Https) {
    controller(https, "rc-first");
    let pods = count(https, PODS, "rc-first", MANY);
    let other = controller(https, "rc-second");
    let reference = json!({"apiVersion": "v1", "kind": "ReplicationController", "name": "rc-second",
        "uid": other["metadata"]["uid"]});
    let (kept, _) = pods.split_at(MANY / 2);
    let path = |pod: &Value| format!("{PODS}/{}", pod["metadata"]["name"].as_str().unwrap());
    for pod in kept {
        let patch = json!([{"op": "add", "path": "/metadata/ownerReferences/-", "value": reference}]);
        assert_eq!(https.ask("PATCH", &path(pod)).body(JSON_PATCH, patch.to_string()).send().code, 200);
    }
    deleted(https, &format!("{CONTROLLERS}/rc-first"), "Foreground");
    gone(https, &format!("{CONTROLLERS}/rc-first"));
    let left = count(https, PODS, "rc-first", MANY / 2);
    for pod in kept {
        let own = left.iter().find(|one| one["metadata"]["uid"] == pod["metadata"]["uid"]).expect("it stays");
        assert_eq!(own["metadata"]["deletionTimestamp"], Value::Null);
    }
    deleted(https, &format!("{CONTROLLERS}/rc-second"), "Background");
    count(https, PODS, "rc-first", 0);
}

pub(super) fn many_orphans_of_controllers(https: &Https) {
    controller(https, "rc-orphans");
    count(https, PODS, "rc-orphans", MANY);
    deleted(https, &format!("{CONTROLLERS}/rc-orphans"), "Orphan");
    gone(https, &format!("{CONTROLLERS}/rc-orphans"));
    let pods = count(https, PODS, "rc-orphans", MANY);
    assert!(pods.iter().all(|pod| pod["metadata"]["ownerReferences"].is_null()), "{pods:?}");
}

fn namespace(https: &Https, name: &str) -> String {
    let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
    made(https, "/api/v1/namespaces", &object);
    let path = format!("/api/v1/namespaces/{name}");
    wait_for("the account of pods", SOON, || {
        (get(https, &format!("{path}/serviceaccounts/default")).0 == 200).then_some(())
    });
    path
}

/// Makes an object in a namespace, deletes the namespace, and looks whether a new one has it.
fn taken_along(https: &Https, name: &str, plural: &str, object: &Value) {
    let path = namespace(https, name);
    made(https, &format!("{path}/{plural}"), object);
    deleted(https, &path, "Background");
    gone(https, &path);
    namespace(https, name);
    assert_eq!(items(https, &format!("{path}/{plural}")), Vec::<Value>::new());
}

fn pod() -> Value {
    let mut pod = template("going");
    pod["apiVersion"] = json!("v1");
    pod["kind"] = json!("Pod");
    pod["metadata"]["name"] = json!("going");
    pod
}

pub(super) fn namespaces_take_pods_along(https: &Https) {
    taken_along(https, "with-pods", "pods", &pod());
}

pub(super) fn namespaces_take_services_along(https: &Https) {
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "going"},
        "spec": {"ports": [{"port": 80}]}});
    taken_along(https, "with-services", "services", &service);
}

pub(super) fn namespaces_delete_pods_first(https: &Https) {
    let path = namespace(https, "pods-first");
    let mut held = pod();
    held["metadata"]["finalizers"] = json!(["e2e.example.com/finalizer"]);
    made(https, &format!("{path}/pods"), &held);
    made(https, &format!("{path}/configmaps"), &super::map("stays", "none"));
    deleted(https, &path, "Background");
    wait_for("a namespace that tells what it waits for", SOON, || {
        let (_, namespace) = get(https, &path);
        let conditions = namespace["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let told = conditions.iter().any(|one| one["type"] == "NamespaceDeletionContentFailure");
        (namespace["status"]["phase"] == "Terminating" && told).then_some(())
    });
    assert_ne!(get(https, &format!("{path}/pods/going")).1["metadata"]["deletionTimestamp"], Value::Null);
    let (code, map) = get(https, &format!("{path}/configmaps/stays"));
    assert_eq!((code, &map["metadata"]["deletionTimestamp"]), (200, &Value::Null));
    patched(https, &format!("{path}/pods/going"), &json!({"metadata": {"finalizers": null}}));
    gone(https, &path);
}
