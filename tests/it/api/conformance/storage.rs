//! Behaviours of the objects of storage: every verb on them, in the order of their lives, and what may be said
//! in their status.

use super::{PODS, get, items, made, patched, updated, version};
use crate::support::cluster::SOON;
use crate::support::https::Https;
use crate::support::process::wait_for;
use serde_json::{Value, json};

const GROUP: &str = "/apis/storage.k8s.io/v1";
const VOLUMES: &str = "/api/v1/persistentvolumes";
const CLAIMS: &str = "/api/v1/namespaces/conformance/persistentvolumeclaims";
const ATTACHMENTS: &str = "/apis/storage.k8s.io/v1/volumeattachments";

/// An object of this name; `rest` is what its kind asks for.
pub(super) fn object(version: &str, kind: &str, name: &str, rest: &Value) -> Value {
    let mut object = rest.clone();
    object["apiVersion"] = json!(version);
    object["kind"] = json!(kind);
    object["metadata"] = json!({"name": name, "labels": {"of": format!("{kind}-life")}});
    object
}

#[track_caller]
pub(super) fn gone(https: &Https, path: &str) {
    wait_for(path, SOON, || (get(https, path).0 == 404).then_some(()));
}

#[track_caller]
pub(super) fn deleted(https: &Https, path: &str) {
    let answer = https.ask("DELETE", path).send();
    assert_eq!(answer.code, 200, "{}", answer.value());
}

/// Three objects of a kind: made, read, changed, listed, watched, and deleted alone and together.
pub(super) fn life(https: &Https, collection: &str, (version_, kind): (&str, &str), rest: &Value) {
    let all = format!("{collection}?labelSelector=of%3D{kind}-life");
    let since = version(&get(https, &all).1);
    let path = |number: u8| format!("{collection}/life-{number}");
    let make = |number: u8| made(https, collection, &object(version_, kind, &format!("life-{number}"), rest));
    let own = make(1);
    let read = get(https, &path(1)).1;
    assert_eq!(
        (&read["metadata"]["name"], &read["metadata"]["uid"]),
        (&json!("life-1"), &own["metadata"]["uid"])
    );
    patched(https, &path(1), &json!({"metadata": {"labels": {"patched": "yes"}}}));
    assert_eq!(items(https, &format!("{collection}?labelSelector=patched%3Dyes,of%3D{kind}-life")).len(), 1);
    make(2);
    assert_eq!(items(https, &all).len(), 2);
    deleted(https, &path(1));
    gone(https, &path(1));
    make(1);
    assert_ne!(get(https, &path(1)).1["metadata"]["uid"], own["metadata"]["uid"]);
    make(3);
    for number in [1, 2, 3] {
        updated(https, &path(number), |object| object["metadata"]["labels"]["updated"] = json!("yes"));
    }
    assert_eq!(items(https, &format!("{collection}?labelSelector=updated%3Dyes,of%3D{kind}-life")).len(), 3);
    deleted(https, &all);
    wait_for("the end of all", SOON, || items(https, &all).is_empty().then_some(()));
    let events = https.ask("GET", &format!("{all}&watch=true&resourceVersion={since}")).watch().unwrap();
    let seen = |kind: &str| while events.next(SOON).unwrap().expect("the watch goes on")["type"] != kind {};
    ["ADDED", "MODIFIED", "DELETED"].into_iter().for_each(seen);
}

fn of_storage(https: &Https, plural: &str, kind: &str, rest: &Value) {
    life(https, &format!("{GROUP}/{plural}"), ("storage.k8s.io/v1", kind), rest);
}

pub(super) fn drivers_live(https: &Https) {
    of_storage(
        https,
        "csidrivers",
        "CSIDriver",
        &json!({"spec": {"attachRequired": false, "podInfoOnMount": true}}),
    );
}

pub(super) fn driver_nodes_live(https: &Https) {
    of_storage(https, "csinodes", "CSINode", &json!({"spec": {"drivers": []}}));
}

pub(super) fn classes_live(https: &Https) {
    of_storage(https, "storageclasses", "StorageClass", &json!({"provisioner": "disks.test"}));
}

pub(super) fn attribute_classes_live(https: &Https) {
    let rest = json!({"driverName": "disks.test", "parameters": {"iops": "100"}});
    of_storage(https, "volumeattributesclasses", "VolumeAttributesClass", &rest);
}

fn attachment() -> Value {
    json!({"spec": {"attacher": "disks.test", "nodeName": "nowhere", "source": {"persistentVolumeName": "none"}}})
}

pub(super) fn attachments_live(https: &Https) {
    of_storage(https, "volumeattachments", "VolumeAttachment", &attachment());
}

/// A resource is found from the list of groups on.
pub(super) fn discovered(https: &Https, group: &str, version: &str, plural: &str) {
    let has = |list: &Value, name: &str| list.as_array().unwrap().iter().any(|one| one["name"] == name);
    assert!(has(&get(https, "/apis").1["groups"], group));
    let versions = get(https, &format!("/apis/{group}")).1;
    assert!(
        versions["versions"].as_array().unwrap().iter().any(|one| one["version"] == version),
        "{versions}"
    );
    assert!(has(&get(https, &format!("/apis/{group}/{version}")).1["resources"], plural));
}

pub(super) fn capacities_live(https: &Https) {
    discovered(https, "storage.k8s.io", "v1", "csistoragecapacities");
    let collection = format!("{GROUP}/namespaces/conformance/csistoragecapacities");
    life(
        https,
        &collection,
        ("storage.k8s.io/v1", "CSIStorageCapacity"),
        &json!({"storageClassName": "none"}),
    );
}

pub(super) fn attachment_status(https: &Https) {
    made(https, ATTACHMENTS, &object("storage.k8s.io/v1", "VolumeAttachment", "told", &attachment()));
    let (path, status) = (format!("{ATTACHMENTS}/told"), format!("{ATTACHMENTS}/told/status"));
    patched(https, &path, &json!({"metadata": {"labels": {"patched": "yes"}}}));
    assert_eq!(get(https, &path).1["metadata"]["labels"]["patched"], "yes");
    assert_eq!(get(https, &status).1["status"]["attached"], false);
    assert_eq!(patched(https, &status, &json!({"status": {"attached": true}}))["status"]["attached"], true);
    let told = updated(https, &status, |attachment| attachment["status"]["attached"] = json!(false));
    assert_eq!(told["status"]["attached"], false);
    deleted(https, &path);
    gone(https, &path);
}

fn volume() -> Value {
    json!({"spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": "life",
        "persistentVolumeReclaimPolicy": "Retain", "csi": {"driver": "disks.test", "volumeHandle": "life"}}})
}

fn claim() -> Value {
    json!({"spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "life-of-claims",
        "resources": {"requests": {"storage": "1Gi"}}}})
}

pub(super) fn volumes_live(https: &Https) {
    life(https, VOLUMES, ("v1", "PersistentVolume"), &volume());
    life(https, CLAIMS, ("v1", "PersistentVolumeClaim"), &claim());
}

pub(super) fn volume_status(https: &Https) {
    made(https, VOLUMES, &object("v1", "PersistentVolume", "told", &volume()));
    made(https, CLAIMS, &object("v1", "PersistentVolumeClaim", "told", &claim()));
    assert_eq!(items(https, &format!("{VOLUMES}?labelSelector=of%3DPersistentVolume-life")).len(), 1);
    assert!(items(https, CLAIMS).iter().any(|claim| claim["metadata"]["name"] == "told"));
    let (of_claim, of_volume) = (format!("{CLAIMS}/told/status"), format!("{VOLUMES}/told/status"));
    wait_for("phases", SOON, || {
        let phase = |path: &str| get(https, path).1["status"]["phase"].clone();
        (phase(&of_claim) == "Pending" && phase(&of_volume) == "Available").then_some(())
    });
    let condition =
        |reason: &str| json!([{"type": "StatusTold", "status": "True", "reason": reason, "message": "m"}]);
    let told = patched(https, &of_claim, &json!({"status": {"conditions": condition("Patched")}}));
    assert_eq!(told["status"]["conditions"][0]["reason"], "Patched", "{told}");
    let told = patched(https, &of_volume, &json!({"status": {"reason": "Patched", "message": "told"}}));
    assert_eq!((&told["status"]["reason"], &told["status"]["message"]), (&json!("Patched"), &json!("told")));
    let told = updated(https, &of_claim, |claim| claim["status"]["conditions"] = condition("Updated"));
    assert_eq!(told["status"]["conditions"][0]["reason"], "Updated", "{told}");
    let told = updated(https, &of_volume, |volume| {
        volume["status"]["reason"] = json!("Updated");
        volume["status"]["message"] = json!("told again");
    });
    assert_eq!(
        (&told["status"]["reason"], &told["status"]["message"]),
        (&json!("Updated"), &json!("told again"))
    );
    deleted(https, &format!("{CLAIMS}/told"));
    deleted(https, &format!("{VOLUMES}/told"));
}

pub(super) fn inline_drivers(https: &Https) {
    let pod = |name: &str| {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"of": "inline"}},
            "spec": {"containers": [{"name": "c", "image": "i", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}],
                "volumes": [{"name": "v", "csi": {"driver": "disks.test", "volumeAttributes": {"a": "b"}}}]}})
    };
    made(https, PODS, &pod("inline"));
    let path = format!("{PODS}/inline");
    let source = json!({"driver": "disks.test", "volumeAttributes": {"a": "b"}});
    let read = |pod: &Value| pod["spec"]["volumes"][0]["csi"].clone();
    assert_eq!(read(&get(https, &path).1), source);
    let list = items(https, &format!("{PODS}?labelSelector=of%3Dinline"));
    assert_eq!(list.iter().map(read).collect::<Vec<_>>(), [source]);
    let changed = patched(https, &path, &json!({"metadata": {"labels": {"patched": "yes"}}}));
    assert_eq!(changed["metadata"]["labels"]["patched"], "yes");
    deleted(https, &format!("{path}?gracePeriodSeconds=0"));
    gone(https, &path);
}
