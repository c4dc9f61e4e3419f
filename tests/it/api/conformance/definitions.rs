//! Behaviours of definitions: that they are found, watched, listed and told of, and that defaults come with
//! them.

use super::{get, items, made, patched, updated, version as revision};
use crate::support::cluster::SOON;
use crate::support::definition::{DEFINITIONS, anything, define, definition};
use crate::support::https::{Events, Https};
use crate::support::process::wait_for;
use serde_json::{Value, json};

const KITES: &str = "/apis/definitions.knarr.test/v1/namespaces/conformance/kites";

fn kites(schema: &Value) -> Value {
    definition("definitions.knarr.test", "kites", "Kite", schema)
}

fn kite(name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "definitions.knarr.test/v1", "kind": "Kite", "metadata": {"name": name}, "spec": spec})
}

/// A watch of a collection from now on.
fn watched(https: &Https, path: &str) -> Events {
    let since = revision(&get(https, path).1);
    https.ask("GET", &format!("{path}?watch=true&resourceVersion={since}")).watch().unwrap()
}

/// Waits for the next event of a type about an object.
#[track_caller]
fn told(events: &Events, kind: &str, name: &str) {
    loop {
        let event = events.next(SOON).unwrap().expect("the watch goes on");
        if event["type"] == kind && event["object"]["metadata"]["name"] == name {
            return;
        }
    }
}

/// A definition and its objects.
pub(super) fn definitions_are_watched(https: &Https) {
    let events = watched(https, DEFINITIONS);
    let defined = define(https, &kites(&anything()));
    let objects = watched(https, KITES);
    for name in ["one", "two"] {
        made(https, KITES, &kite(name, &json!({})));
        told(&objects, "ADDED", name);
        patched(https, &format!("{KITES}/{name}"), &json!({"metadata": {"labels": {"changed": "yes"}}}));
        told(&objects, "MODIFIED", name);
        assert_eq!(https.call("DELETE", &format!("{KITES}/{name}")).0, 200);
        told(&objects, "DELETED", name);
    }
    drop(defined);
    ["ADDED", "MODIFIED", "DELETED"]
        .iter()
        .for_each(|kind| told(&events, kind, "kites.definitions.knarr.test"));
}

pub(super) fn definition_status(https: &Https) {
    let defined = define(https, &kites(&anything()));
    let path = format!("{}/status", defined.path);
    let (code, told) = get(https, &path);
    let conditions = told["status"]["conditions"].as_array().unwrap();
    assert!(code == 200 && conditions.iter().any(|one| one["type"] == "Established"), "{told}");
    let told = |kind: &str| {
        json!({"type": kind, "status": "True", "reason": "E2E", "message": "from a test",
        "lastTransitionTime": "2026-01-01T00:00:00Z"})
    };
    updated(https, &path, |object| {
        object["status"]["conditions"].as_array_mut().unwrap().push(told("Updated"));
    });
    let mut all = get(https, &path).1["status"]["conditions"].clone();
    all.as_array_mut().unwrap().push(told("Patched"));
    patched(https, &path, &json!({"status": {"conditions": all}}));
    for place in [&path, &defined.path] {
        let (_, shown) = get(https, place);
        let conditions = shown["status"]["conditions"].as_array().unwrap();
        assert!(["Updated", "Patched"].iter().all(|kind| conditions.contains(&told(kind))), "{shown}");
    }
}

pub(super) fn definitions_by_label(https: &Https) {
    let labelled = format!("{DEFINITIONS}?labelSelector=listed%3Dyes");
    let other = define(https, &kites(&anything()));
    let name = |place: usize| format!("kind{place}s");
    for place in 0..10 {
        let mut one =
            definition("definitions.knarr.test", &name(place), &format!("Kind{place}"), &anything());
        one["metadata"]["labels"] = json!({"listed": "yes"});
        made(https, DEFINITIONS, &one);
    }
    let mut names: Vec<_> =
        items(https, &labelled).iter().map(|one| one["spec"]["names"]["plural"].clone()).collect();
    names.sort_by_key(Value::to_string);
    assert_eq!(names, (0..10).map(name).collect::<Vec<_>>());
    assert_eq!(https.call("DELETE", &labelled).0, 200);
    wait_for("the end of what is labelled", SOON, || items(https, &labelled).is_empty().then_some(()));
    assert_eq!(get(https, &other.path).0, 200);
}

/// What is defaulted by a first definition keeps the value once it was written.
pub(super) fn defaults_of_definitions(https: &Https) {
    let schema = |fields: Value| json!({"type": "object", "properties": {"spec": {"type": "object", "properties": fields}}});
    let plain = json!({"type": "string"});
    let with = |default: &str| json!({"type": "string", "default": default});
    let defined = define(https, &kites(&schema(json!({"a": plain, "b": plain}))));
    let spec = |name: &str| get(https, &format!("{KITES}/{name}")).1["spec"].clone();
    let redefine = |fields: Value| {
        updated(https, &defined.path, |definition| {
            definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"] = schema(fields.clone());
        });
    };
    let created = made(https, KITES, &kite("before", &json!({})));
    assert_eq!(created["spec"], json!({}));
    redefine(json!({"a": with("A"), "b": plain}));
    wait_for("a default", SOON, || (spec("before") == json!({"a": "A"})).then_some(()));
    let created = made(https, KITES, &kite("after", &json!({})));
    assert_eq!(created["spec"], json!({"a": "A"}));
    redefine(json!({"a": plain, "b": with("B")}));
    wait_for("the other default", SOON, || (spec("after") == json!({"a": "A", "b": "B"})).then_some(()));
    // It was never written with the first default.
    assert_eq!(spec("before"), json!({"b": "B"}));
}

pub(super) fn definitions_in_discovery(https: &Https) {
    let version = json!({"groupVersion": "apiextensions.k8s.io/v1", "version": "v1"});
    let has = |list: &Value, wanted: &dyn Fn(&Value) -> bool| list.as_array().unwrap().iter().any(wanted);
    let (_, groups) = get(https, "/apis");
    let is_group = |group: &Value| {
        group["name"] == "apiextensions.k8s.io" && has(&group["versions"], &|one| *one == version)
    };
    assert!(has(&groups["groups"], &is_group), "{groups}");
    let (_, group) = get(https, "/apis/apiextensions.k8s.io");
    assert!(is_group(&group), "{group}");
    let (_, list) = get(https, "/apis/apiextensions.k8s.io/v1");
    assert!(has(&list["resources"], &|one| one["name"] == "customresourcedefinitions"), "{list}");
}

/// By the header that clients send, and by the formats that it prefers.
pub(super) fn definitions_in_aggregated_discovery(https: &Https) {
    let _defined = define(https, &kites(&anything()));
    let kind = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let kinds = format!(
        "{kind},application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json"
    );
    for accepted in [kind, &kinds] {
        let list = wait_for("kites in discovery", SOON, || {
            let answer = https.ask("GET", "/apis").header("accept", accepted).send();
            assert!(
                answer.code == 200 && answer.header("content-type").contains("v=v2;as=APIGroupDiscoveryList")
            );
            let all = answer.value()["items"].as_array().unwrap().clone();
            all.into_iter().find(|group| group["metadata"]["name"] == "definitions.knarr.test")
        });
        let version = &list["versions"][0];
        assert_eq!(
            (&version["version"], &version["resources"][0]["resource"]),
            (&json!("v1"), &json!("kites"))
        );
        assert_eq!(version["resources"][0]["responseKind"]["kind"], "Kite", "{list}");
    }
}
