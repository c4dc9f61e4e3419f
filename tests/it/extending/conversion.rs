//! Versions that a webhook converts into each other.

use super::created;
use crate::support::definition::{DEFINITIONS, defined, definition};
use crate::support::https::{APPLY, Https, JSON, JSON_PATCH, MERGE};
use crate::support::process::wait_for;
use crate::support::webhook::{Act, Shows, WebhookServer, configure, hook, patching, rule};
use http::StatusCode;
use serde_json::{Value, json};
use std::time::Duration;

const OLD: &str = "/apis/ports.example.com/v1/namespaces/default/gates";
const NEW: &str = "/apis/ports.example.com/v2/namespaces/default/gates";
const SOON: Duration = crate::support::cluster::SOON;

/// In `v1` an address is one text, in `v2` it is two fields.
fn converted(object: &Value, version: &str) -> Value {
    let mut new = object.clone();
    new["apiVersion"] = json!(version);
    new["metadata"]["generation"] = json!(99);
    let spec = &object["spec"];
    new["spec"] = if version.ends_with("v2") {
        let (host, port) = spec["address"].as_str().unwrap_or(":0").split_once(':').unwrap();
        json!({"host": host, "port": port.parse::<u32>().unwrap()})
    } else {
        json!({"address": format!("{}:{}", spec["host"].as_str().unwrap_or_default(), spec["port"])})
    };
    new
}

pub(super) fn decide(path: &str, asked: &Value) -> Act {
    if path == "/admit" {
        return patching(&json!([{"op": "replace", "path": "/spec/port", "value": 443}]));
    }
    let version = asked["desiredAPIVersion"].as_str().unwrap();
    let objects = || asked["objects"].as_array().unwrap().iter();
    let success = |objects: Vec<Value>| {
        Act::Review(json!({"result": {"status": "Success"}, "convertedObjects": objects}))
    };
    match path {
        "/convert" => success(objects().map(|object| converted(object, version)).collect()),
        "/fewer" => success(Vec::new()),
        "/renamed" => success(
            objects()
                .map(|object| {
                    let mut new = converted(object, version);
                    new["metadata"]["name"] = json!("other");
                    new
                })
                .collect(),
        ),
        "/failed" => Act::Review(json!({"result": {"status": "Failed", "message": "not today"}})),
        _ => Act::Raw(StatusCode::OK, "rubbish".to_owned()),
    }
}

/// Gates of a group in both versions.
pub(super) fn gates(group: &str, client: Value) -> Value {
    let object = |properties: Value| json!({"type": "object", "properties": {"spec": {"type": "object", "properties": properties}}});
    let mut gates = definition(group, "gates", "Gate", &object(json!({"address": {"type": "string"}})));
    gates["spec"]["versions"].as_array_mut().unwrap().push(
        json!({"name": "v2", "served": true, "storage": false,
        "schema": {"openAPIV3Schema": object(json!({"host": {"type": "string"}, "port": {"type": "integer"},
            "open": {"type": "boolean", "default": true}}))}}),
    );
    gates["spec"]["conversion"] = json!({"strategy": "Webhook", "webhook": {"clientConfig": client, "conversionReviewVersions": ["v1", "v1beta1"]}});
    gates
}

pub(super) fn all(https: &Https) {
    let server = WebhookServer::start(https, &["127.0.0.1"], Shows::Issued, decide);
    defined(https, &gates("ports.example.com", server.by_url("/convert")));
    let made = created(
        https,
        NEW,
        &json!({"apiVersion": "ports.example.com/v2", "kind": "Gate", "metadata": {"name": "a"},
        "spec": {"host": "h", "port": 7}}),
    );
    assert_eq!(
        (&made["spec"], &made["metadata"]["generation"]),
        (&json!({"host": "h", "port": 7, "open": true}), &json!(1))
    );
    let (_, old) = https.call("GET", &format!("{OLD}/a"));
    assert_eq!(
        (&old["apiVersion"], &old["spec"]),
        (&json!("ports.example.com/v1"), &json!({"address": "h:7"}))
    );
    created(
        https,
        OLD,
        &json!({"apiVersion": "ports.example.com/v1", "kind": "Gate", "metadata": {"name": "b"}, "spec": {"address": "i:8"}}),
    );
    server.seen();
    let (_, list) = https.call("GET", NEW);
    let hosts: Vec<_> =
        list["items"].as_array().unwrap().iter().map(|gate| gate["spec"]["host"].clone()).collect();
    assert_eq!(hosts, ["h", "i"]);
    assert_eq!(server.seen().len(), 1, "one call converts a whole list");
    let (code, patched) = https.send("PATCH", &format!("{NEW}/b"), MERGE, &json!({"spec": {"port": 9}}));
    assert_eq!((code, &patched["spec"]["port"]), (200, &json!(9)));
    assert_eq!(https.call("GET", &format!("{OLD}/b")).1["spec"]["address"], "i:9");
    applied(https);
    watched(https);
    admitted(https, &server);
    mixed(https);
    failing(https, &server);
}

/// Who wrote one version owns what becomes of it in another.
fn applied(https: &Https) {
    let old = json!({"apiVersion": "ports.example.com/v1", "kind": "Gate", "metadata": {"name": "c"},
        "spec": {"address": "i:8"}});
    created(https, OLD, &old);
    let new = json!({"apiVersion": "ports.example.com/v2", "kind": "Gate", "metadata": {"name": "c"},
        "spec": {"host": "j"}});
    let (code, conflict) = https.send("PATCH", &format!("{NEW}/c?fieldManager=other"), APPLY, &new);
    assert_eq!(code, 409, "{conflict}");
    let message = conflict["message"].as_str().unwrap();
    assert!(message.contains("using ports.example.com/v1") && message.contains(".spec.address"), "{message}");
}

fn watched(https: &Https) {
    let (_, list) = https.call("GET", NEW);
    let version = list["metadata"]["resourceVersion"].as_str().unwrap();
    let events = https.ask("GET", &format!("{NEW}?watch=1&resourceVersion={version}")).watch().ok().unwrap();
    let (code, _) = https.send("PATCH", &format!("{OLD}/a"), MERGE, &json!({"spec": {"address": "k:1"}}));
    assert_eq!(code, 200);
    let event = events.next(SOON).unwrap().unwrap();
    assert_eq!((&event["type"], &event["object"]["spec"]["host"]), (&json!("MODIFIED"), &json!("k")));
}

/// Admission sees the version that it asks for, and what it changes there counts.
fn admitted(https: &Https, server: &WebhookServer) {
    let newer = rule(&["CREATE"], "ports.example.com", "v2", "gates");
    let hook = hook("gates", server.by_url("/admit"), newer, &json!({}));
    let _configured = configure(https, "MutatingWebhookConfiguration", "gates", &[hook]);
    let gate = json!({"apiVersion": "ports.example.com/v1", "kind": "Gate", "metadata": {"name": "d"},
        "spec": {"address": "l:80"}});
    assert_eq!(created(https, OLD, &gate)["spec"]["address"], "l:443");
}

/// Objects that are stored in different versions are listed in one.
fn mixed(https: &Https) {
    let path = format!("{DEFINITIONS}/gates.ports.example.com");
    let swap = json!([{"op": "replace", "path": "/spec/versions/0/storage", "value": false},
        {"op": "replace", "path": "/spec/versions/1/storage", "value": true}]);
    let (code, stored) = https.send("PATCH", &path, JSON_PATCH, &swap);
    assert_eq!((code, &stored["status"]["storedVersions"]), (200, &json!(["v1", "v2"])), "{stored}");
    let gate = json!({"apiVersion": "ports.example.com/v2", "kind": "Gate", "metadata": {"name": "e"},
        "spec": {"host": "m", "port": 1}});
    created(https, NEW, &gate);
    for (place, version) in [(NEW, "ports.example.com/v2"), (OLD, "ports.example.com/v1")] {
        let (_, list) = https.call("GET", place);
        let items = list["items"].as_array().unwrap();
        let names: Vec<_> = items.iter().map(|gate| gate["metadata"]["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["a", "b", "c", "d", "e"]);
        assert!(items.iter().all(|gate| gate["apiVersion"] == version), "{list}");
    }
    let back = json!([{"op": "replace", "path": "/spec/versions/1/storage", "value": false},
        {"op": "replace", "path": "/spec/versions/0/storage", "value": true}]);
    assert_eq!(https.send("PATCH", &path, JSON_PATCH, &back).0, 200);
}

/// A webhook that fails hurts its own kind alone.
fn failing(https: &Https, server: &WebhookServer) {
    let path = format!("{DEFINITIONS}/gates.ports.example.com");
    let dry = format!("{NEW}?dryRun=All");
    let gate = json!({"apiVersion": "ports.example.com/v2", "kind": "Gate", "metadata": {"name": "f"},
        "spec": {"host": "m"}});
    for (place, said) in [
        ("/failed", "conversion webhook for ports.example.com/v1, Kind=Gate failed: not today"),
        ("/fewer", "conversion webhook for ports.example.com/v1, Kind=Gate returned 0 objects, expected 1"),
        ("/renamed", "returned invalid converted object at index 0: must have the same name: a != other"),
        ("/garbage", "conversion webhook for ports.example.com/v1, Kind=Gate failed: "),
    ] {
        let client = json!({"spec": {"conversion": {"webhook": {"clientConfig": server.by_url(place)}}}});
        assert_eq!(https.send("PATCH", &path, MERGE, &client).0, 200);
        let (code, refused) = wait_for("what is said of a webhook that fails", SOON, || {
            Some(https.call("GET", &format!("{NEW}/a"))).filter(|(code, _)| *code != 200)
        });
        let message = refused["message"].as_str().unwrap();
        assert!(code == 500 && message.contains(said) && !message.starts_with("Internal"), "{refused}");
        assert_eq!(https.call("GET", &format!("{OLD}/a")).0, 200, "what is stored so needs no webhook");
        assert_eq!(
            https.send("POST", &dry, JSON, &gate).0,
            500,
            "a dry run goes as far as to what is stored"
        );
    }
    assert_eq!(https.send("DELETE", &path, JSON, &Value::Null).0, 200);
}
