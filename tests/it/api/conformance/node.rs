//! Behaviours of what nodes and pods are described by: nodes themselves, their leases, ConfigMaps, Secrets, templates
//! of pods, classes of runtimes, and devices.

use super::storage::{deleted, discovered, gone, life, object};
use super::{MAPS, get, items, made, patched, updated, version};
use crate::support::cluster::SOON;
use crate::support::https::{Https, JSON};
use crate::support::process::wait_for;
use serde_json::{Value, json};

const SECRETS: &str = "/api/v1/namespaces/conformance/secrets";
const TEMPLATES: &str = "/api/v1/namespaces/conformance/podtemplates";
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/conformance/leases";
const CLASSES: &str = "/apis/node.k8s.io/v1/runtimeclasses";
const DEVICES: &str = "/apis/resource.k8s.io/v1";

/// Neither kind has a value without a name.
fn empty_keys(https: &Https, path: &str, kind: &str) {
    let object = json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": "empty-key"}, "data": {"": "dmFsdWU="}});
    let (code, answer) = https.send("POST", path, JSON, &object);
    assert_eq!((code, &answer["reason"]), (422, &json!("Invalid")), "{answer}");
    let message = answer["message"].as_str().unwrap();
    assert!(message.contains("a valid config key must consist of alphanumeric characters"), "{message}");
}

pub(super) fn empty_keys_of_maps(https: &Https) {
    empty_keys(https, MAPS, "ConfigMap");
}

pub(super) fn empty_keys_of_secrets(https: &Https) {
    empty_keys(https, SECRETS, "Secret");
}

/// Made, patched, found in all namespaces by its label, and deleted by it.
fn found_and_deleted(https: &Https, plural: &str, kind: &str) {
    let path = format!("/api/v1/namespaces/conformance/{plural}");
    let all = format!("/api/v1/{plural}?labelSelector=static%3D{plural}");
    let labels = json!({"static": plural});
    let own = made(
        https,
        &path,
        &json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": "found", "labels": labels}, "data": {"key": "dmFsdWU="}}),
    );
    assert_eq!(items(https, &all).len(), 1);
    let patch = json!({"metadata": {"labels": {"patched": "yes"}}, "data": {"key": "dmFsdWUx"}});
    patched(https, &format!("{path}/found"), &patch);
    let read = get(https, &format!("{path}/found")).1;
    assert_eq!(
        (&read["metadata"]["labels"]["patched"], &read["data"]["key"]),
        (&json!("yes"), &json!("dmFsdWUx"))
    );
    assert!(version(&read).parse::<u64>().unwrap() > version(&own).parse::<u64>().unwrap());
    let listed = items(https, &all);
    assert_eq!((listed.len(), &listed[0]["data"]["key"]), (1, &json!("dmFsdWUx")));
    deleted(https, &format!("{path}?labelSelector=static%3D{plural}"));
    assert!(items(https, &all).is_empty());
}

pub(super) fn maps_live(https: &Https) {
    life(https, MAPS, ("v1", "ConfigMap"), &json!({"data": {"key": "value"}}));
    found_and_deleted(https, "configmaps", "ConfigMap");
}

pub(super) fn secrets_are_patched(https: &Https) {
    found_and_deleted(https, "secrets", "Secret");
}

pub(super) fn maps_are_updated(https: &Https) {
    made(https, MAPS, &object("v1", "ConfigMap", "updated", &json!({"data": {"a": "1"}})));
    let path = format!("{MAPS}/updated");
    updated(https, &path, |map| map["data"] = json!({"b": "2"}));
    assert_eq!(get(https, &path).1["data"], json!({"b": "2"}));
}

/// Data can be changed until the object says that it cannot; then only what is beside it.
fn immutable(https: &Https, path: &str, kind: &str) {
    made(https, path, &object("v1", kind, "immutable", &json!({"data": {"data-1": "dmFsdWU="}})));
    let path = format!("{path}/immutable");
    updated(https, &path, |object| object["data"]["data-4"] = json!("dmFsdWU="));
    updated(https, &path, |object| object["immutable"] = json!(true));
    let refused = |change: &dyn Fn(&mut Value), field: &str| {
        let mut object = get(https, &path).1;
        assert_eq!(object["immutable"], true);
        change(&mut object);
        let (code, answer) = https.send("PUT", &path, JSON, &object);
        assert_eq!((code, &answer["reason"]), (422, &json!("Invalid")), "{answer}");
        let message = format!("{field}: Forbidden: field is immutable when `immutable` is set");
        assert!(answer["message"].as_str().unwrap().ends_with(&message), "{answer}");
    };
    refused(&|object| object["data"]["data-5"] = json!("dmFsdWU="), "data");
    refused(&|object| object["immutable"] = json!(false), "immutable");
    let labelled = updated(https, &path, |object| object["metadata"]["labels"] = json!({"label1": "value1"}));
    assert_eq!(labelled["metadata"]["labels"]["label1"], "value1");
    deleted(https, &path);
    gone(https, &path);
}

pub(super) fn maps_are_immutable(https: &Https) {
    immutable(https, MAPS, "ConfigMap");
}

pub(super) fn secrets_are_immutable(https: &Https) {
    immutable(https, SECRETS, "Secret");
}

pub(super) fn leases_live(https: &Https) {
    let lease = |name: &str, holder: &str| {
        json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name}, "spec": {
            "holderIdentity": holder, "leaseDurationSeconds": 30, "leaseTransitions": 0,
            "acquireTime": "2026-01-02T03:04:05.678901Z", "renewTime": "2026-01-02T03:04:09.000000Z"}})
    };
    let path = format!("{LEASES}/lease");
    let read = || get(https, &path).1["spec"].clone();
    let first = lease("lease", "holder");
    made(https, LEASES, &first);
    assert_eq!(read(), first["spec"]);
    let mut second = lease("lease", "another holder")["spec"].clone();
    second["leaseTransitions"] = json!(1);
    updated(https, &path, |lease| lease["spec"] = second.clone());
    assert_eq!(read(), second);
    let third = json!({"leaseDurationSeconds": 50, "renewTime": "2026-01-02T03:05:00.000001Z"});
    patched(https, &path, &json!({"spec": third}));
    for (field, value) in third.as_object().unwrap() {
        second[field] = value.clone();
    }
    assert_eq!(read(), second);
    let mut other = lease("labelled", "holder");
    other["metadata"]["labels"] = json!({"of": "labelled"});
    made(https, LEASES, &other);
    let names =
        || -> Vec<String> { items(https, LEASES).iter().map(crate::support::cluster::name).collect() };
    assert_eq!(names(), ["labelled", "lease"]);
    deleted(https, &format!("{LEASES}?labelSelector=of%3Dlabelled"));
    assert_eq!(names(), ["lease"]);
    deleted(https, &path);
    let (code, answer) = get(https, &path);
    assert_eq!((code, &answer["reason"]), (404, &json!("NotFound")));
}

fn template() -> Value {
    json!({"template": {"metadata": {"labels": {"app": "template"}},
        "spec": {"containers": [{"name": "c", "image": "example.com/nginx:1"}]}}})
}

pub(super) fn templates_live(https: &Https) {
    life(https, TEMPLATES, ("v1", "PodTemplate"), &template());
    let all = "/api/v1/podtemplates?labelSelector=of%3DPodTemplate-life";
    made(https, TEMPLATES, &object("v1", "PodTemplate", "patched", &template()));
    let image =
        json!({"template": {"spec": {"containers": [{"name": "c", "image": "example.com/nginx:2"}]}}});
    patched(https, &format!("{TEMPLATES}/patched"), &image);
    let listed = items(https, all);
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0]["template"]["spec"]["containers"][0]["image"], "example.com/nginx:2");
    deleted(https, &format!("{TEMPLATES}/patched"));
    assert!(items(https, all).is_empty());
}

pub(super) fn templates_are_deleted_together(https: &Https) {
    for name in ["one", "two", "three"] {
        let mut own = object("v1", "PodTemplate", name, &template());
        own["metadata"]["labels"] = json!({"of": "together"});
        made(https, TEMPLATES, &own);
    }
    let all = format!("{TEMPLATES}?labelSelector=of%3Dtogether");
    assert_eq!(items(https, &all).len(), 3);
    deleted(https, &all);
    wait_for("the end of all", SOON, || items(https, &all).is_empty().then_some(()));
}

pub(super) fn templates_are_replaced(https: &Https) {
    made(https, TEMPLATES, &object("v1", "PodTemplate", "replaced", &template()));
    let path = format!("{TEMPLATES}/replaced");
    updated(https, &path, |object| object["metadata"]["annotations"] = json!({"updated": "true"}));
    assert_eq!(get(https, &path).1["metadata"]["annotations"]["updated"], "true");
    deleted(https, &path);
}

pub(super) fn runtime_classes_live(https: &Https) {
    discovered(https, "node.k8s.io", "v1", "runtimeclasses");
    life(https, CLASSES, ("node.k8s.io/v1", "RuntimeClass"), &json!({"handler": "opaque"}));
    let own = object("node.k8s.io/v1", "RuntimeClass", "once", &json!({"handler": "opaque"}));
    made(https, CLASSES, &own);
    let (code, answer) = https.send("POST", CLASSES, JSON, &own);
    assert_eq!((code, &answer["reason"]), (409, &json!("AlreadyExists")));
    deleted(https, &format!("{CLASSES}/once"));
}

pub(super) fn nodes_live(https: &Https) {
    let ready = json!({"type": "Ready", "status": "True", "reason": "Test", "message": "said by a test"});
    let node = json!({"spec": {"unschedulable": true}, "status": {"conditions": [ready]}});
    life(https, "/api/v1/nodes", ("v1", "Node"), &node);
}

/// Every verb on a kind of devices, and its specification by an update and a patch.
fn of_devices(https: &Https, collection: &str, kind: &str, (first, second): (&Value, &Value)) {
    life(https, collection, ("resource.k8s.io/v1", kind), &json!({"spec": first}));
    made(https, collection, &object("resource.k8s.io/v1", kind, "changing", &json!({"spec": first})));
    let path = format!("{collection}/changing");
    let read = || get(https, &path).1["spec"].clone();
    let told = updated(https, &path, |object| object["spec"] = second.clone());
    assert_eq!(read(), told["spec"]);
    assert_ne!(told["spec"], *first);
    deleted(https, &path);
    gone(https, &path);
}

pub(super) fn device_classes_live(https: &Https) {
    let spec = |expression: &str| json!({"selectors": [{"cel": {"expression": expression}}]});
    let collection = format!("{DEVICES}/deviceclasses");
    of_devices(https, &collection, "DeviceClass", (&spec("false"), &spec("1 == 0")));
    made(
        https,
        &collection,
        &object("resource.k8s.io/v1", "DeviceClass", "patched", &json!({"spec": spec("false")})),
    );
    let told = patched(https, &format!("{collection}/patched"), &json!({"spec": spec("1 == 0")}));
    assert_eq!(told["spec"], spec("1 == 0"));
    deleted(https, &format!("{collection}/patched"));
}

fn request(name: &str) -> Value {
    json!({"devices": {"requests": [{"name": name, "exactly": {"deviceClassName": "none"}}]}})
}

/// What a claim asks for cannot be changed, but it can be told what was found for it.
pub(super) fn device_claims_live(https: &Https) {
    let collection = format!("{DEVICES}/namespaces/conformance/resourceclaims");
    life(https, &collection, ("resource.k8s.io/v1", "ResourceClaim"), &json!({"spec": request("one")}));
    let own = json!({"spec": request("one")});
    made(https, &collection, &object("resource.k8s.io/v1", "ResourceClaim", "changing", &own));
    let path = format!("{collection}/changing");
    let mut other = get(https, &path).1;
    other["spec"] = request("two");
    assert_eq!(https.send("PUT", &path, JSON, &other).0, 422);
    let result = json!({"request": "one", "driver": "devices.test", "pool": "pool", "device": "device"});
    let told = patched(
        https,
        &format!("{path}/status"),
        &json!({"status": {"allocation": {"devices": {"results": [result]}}}}),
    );
    assert_eq!(told["status"]["allocation"]["devices"]["results"][0]["device"], "device", "{told}");
    deleted(https, &path);
}

pub(super) fn device_templates_live(https: &Https) {
    let collection = format!("{DEVICES}/namespaces/conformance/resourceclaimtemplates");
    let own = json!({"spec": {"spec": request("one")}});
    life(https, &collection, ("resource.k8s.io/v1", "ResourceClaimTemplate"), &own);
}

pub(super) fn device_slices_live(https: &Https) {
    let spec = |device: &str| {
        json!({"driver": "devices.test", "nodeName": "nowhere",
            "pool": {"name": "pool", "resourceSliceCount": 1, "generation": 1}, "devices": [{"name": device}]})
    };
    let collection = format!("{DEVICES}/resourceslices");
    of_devices(https, &collection, "ResourceSlice", (&spec("one"), &spec("two")));
}
