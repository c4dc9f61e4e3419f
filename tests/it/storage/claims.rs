//! Claims, volumes and attachments on a control plane: the test plays provisioners, attachers and kubelets.

use super::{devices, get, made, patched};
use crate::support::cluster::{Cluster, SOON};
use crate::support::https::Https;
use crate::support::process::wait_for;
use serde_json::{Value, json};
use std::panic::AssertUnwindSafe;

const VOLUMES: &str = "/api/v1/persistentvolumes";
const CLAIMS: &str = "/api/v1/namespaces/default/persistentvolumeclaims";
const PODS: &str = "/api/v1/namespaces/default/pods";
const EVENTS: &str = "/api/v1/namespaces/default/events";
const CLASSES: &str = "/apis/storage.k8s.io/v1/storageclasses";
const ATTACHMENTS: &str = "/apis/storage.k8s.io/v1/volumeattachments";
const NODES: &str = "/api/v1/nodes";

type Case = (&'static str, fn(&Https));

const CASES: &[Case] = &[
    ("binding_and_retention", binding_and_retention),
    ("both_sides_may_choose", both_sides_may_choose),
    ("provided_volumes", provided_volumes),
    ("late_default_class", late_default_class),
    ("growing", growing),
    ("own_claims_of_pods", own_claims_of_pods),
    ("attaching", attaching),
    ("given_up_nodes", given_up_nodes),
    ("claims_from_templates", devices::claims_from_templates),
    ("claims_are_given_back", devices::claims_are_given_back),
    ("tainted_devices", devices::tainted_devices),
];

#[test]
fn on_a_control_plane() {
    let cluster = Cluster::control_plane();
    let https = Https::new(&cluster);
    let account = "/api/v1/namespaces/default/serviceaccounts/default";
    wait_for("the account of pods", SOON, || (get(&https, account).0 == 200).then_some(()));
    let fails = |work: fn(&Https)| std::panic::catch_unwind(AssertUnwindSafe(|| work(&https))).is_err();
    let failed: Vec<_> = CASES.iter().filter(|(_, work)| fails(*work)).map(|(name, _)| name).collect();
    assert!(failed.is_empty(), "these fail: {failed:?}");
}

fn claim(name: &str, class: &str, size: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name},
        "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": class,
            "resources": {"requests": {"storage": size}}}})
}

fn volume(name: &str, class: &str, size: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name},
        "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": class, "capacity": {"storage": size},
            "persistentVolumeReclaimPolicy": "Retain", "hostPath": {"path": "/tmp"}}})
}

fn driver_volume(name: &str, class: &str, claim: &Value, modes: &[&str]) -> Value {
    let mut volume = volume(name, class, "1Gi");
    volume["spec"]["hostPath"] = Value::Null;
    volume["spec"]["csi"] = json!({"driver": "disks.test", "volumeHandle": name});
    volume["spec"]["accessModes"] = json!(modes);
    volume["spec"]["claimRef"] = json!({"namespace": "default", "name": claim["metadata"]["name"]});
    volume
}

fn pod(name: &str, node: &str, claim: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"nodeName": node, "containers": [{"name": "c", "image": "i"}],
            "tolerations": [{"operator": "Exists"}],
            "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": claim}}]}})
}

/// A node as a kubelet that attaches nothing itself registers it.
fn node(https: &Https, name: &str) {
    let managed = json!({"volumes.kubernetes.io/controller-managed-attach-detach": "true"});
    made(
        https,
        NODES,
        &json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "annotations": managed}}),
    );
    let ready = json!({"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z", "lastHeartbeatTime": "2099-01-01T00:00:00Z"});
    patched(https, &format!("{NODES}/{name}/status"), &json!({"status": {"conditions": [ready]}}));
}

#[track_caller]
pub(super) fn until(https: &Https, path: &str, what: impl Fn(&Value) -> bool) -> Value {
    let mut last = Value::Null;
    let deadline = base::clock::instant() + SOON;
    wait_for(path, SOON * 2, || {
        last = get(https, path).1;
        let found = what(&last);
        assert!(found || base::clock::instant() < deadline, "{path} stays {last:#}");
        found.then(|| last.clone())
    })
}

#[track_caller]
fn phase(https: &Https, path: &str, phase: &str) -> Value {
    until(https, path, |object| object["status"]["phase"] == phase)
}

#[track_caller]
pub(super) fn gone(https: &Https, path: &str) {
    wait_for(path, SOON, || (get(https, path).0 == 404).then_some(()));
}

pub(super) fn deleted(https: &Https, path: &str) {
    let (code, answer) = https.call("DELETE", path);
    assert!(code == 200 || code == 202, "{answer}");
}

/// The message of an event.
#[track_caller]
pub(super) fn event(https: &Https, about: &str, reason: &str) -> String {
    let path = format!("{EVENTS}?fieldSelector=involvedObject.name={about}");
    wait_for(&format!("{reason} of {about}"), SOON, || {
        let list = get(https, &path).1;
        let found = list["items"].as_array()?.iter().find(|event| event["reason"] == reason)?.clone();
        Some(found["message"].as_str()?.to_owned())
    })
}

fn binding_and_retention(https: &Https) {
    for (name, size) in [("big", "9Gi"), ("right", "3Gi"), ("small", "1Gi")] {
        made(https, VOLUMES, &volume(name, "manual", size));
        phase(https, &format!("{VOLUMES}/{name}"), "Available");
    }
    let own = made(https, CLAIMS, &claim("bound", "manual", "2Gi"));
    let (claim_path, volume_path) = (format!("{CLAIMS}/bound"), format!("{VOLUMES}/right"));
    let bound = phase(https, &claim_path, "Bound");
    assert_eq!(
        (&bound["spec"]["volumeName"], &bound["status"]["capacity"]["storage"]),
        (&json!("right"), &json!("3Gi"))
    );
    let annotations = &bound["metadata"]["annotations"];
    assert_eq!(annotations["pv.kubernetes.io/bind-completed"], "yes");
    assert_eq!(annotations["pv.kubernetes.io/bound-by-controller"], "yes");
    let taken = phase(https, &volume_path, "Bound");
    assert_eq!(taken["spec"]["claimRef"]["uid"], own["metadata"]["uid"]);
    // A volume is kept while it is bound, a claim while a pod uses it.
    made(https, PODS, &pod("holder", "nowhere", "bound"));
    deleted(https, &volume_path);
    deleted(https, &claim_path);
    assert!(!get(https, &claim_path).1["metadata"]["deletionTimestamp"].is_null());
    assert_eq!(
        phase(https, &volume_path, "Bound")["metadata"]["finalizers"][0],
        "kubernetes.io/pv-protection"
    );
    deleted(https, &format!("{PODS}/holder?gracePeriodSeconds=0"));
    gone(https, &claim_path);
    gone(https, &volume_path);
    made(https, CLAIMS, &claim("next", "manual", "4Gi"));
    phase(https, &format!("{CLAIMS}/next"), "Bound");
    deleted(https, &format!("{CLAIMS}/next"));
    phase(https, &format!("{VOLUMES}/big"), "Released");
}

fn both_sides_may_choose(https: &Https) {
    let mut meant = volume("meant", "choice", "1Gi");
    meant["spec"]["claimRef"] = json!({"namespace": "default", "name": "for-me"});
    made(https, VOLUMES, &meant);
    made(https, CLAIMS, &claim("not-for-me", "choice", "1Gi"));
    assert_eq!(
        event(https, "not-for-me", "ProvisioningFailed"),
        "storageclass.storage.k8s.io \"choice\" not found"
    );
    made(https, CLAIMS, &claim("for-me", "choice", "1Gi"));
    let bound = phase(https, &format!("{CLAIMS}/for-me"), "Bound");
    assert_eq!(bound["spec"]["volumeName"], "meant");
    assert_eq!(phase(https, &format!("{CLAIMS}/not-for-me"), "Pending")["spec"]["volumeName"], Value::Null);
    let mut greedy = claim("greedy", "choice", "1Gi");
    greedy["spec"]["volumeName"] = json!("meant");
    made(https, CLAIMS, &greedy);
    assert_eq!(
        event(https, "greedy", "FailedBinding"),
        "volume \"meant\" already bound to a different claim."
    );
    // A volume that fits comes after the claim.
    made(https, VOLUMES, &volume("late", "choice", "1Gi"));
    phase(https, &format!("{CLAIMS}/not-for-me"), "Bound");
    let (code, _) = https.call("DELETE", &format!("{VOLUMES}/late"));
    assert_eq!(code, 200);
    // Somebody takes the volume away by force.
    patched(https, &format!("{VOLUMES}/late"), &json!({"metadata": {"finalizers": null}}));
    phase(https, &format!("{CLAIMS}/not-for-me"), "Lost");
    assert_eq!(
        event(https, "not-for-me", "ClaimLost"),
        "Bound claim has lost its PersistentVolume. Data on the volume is lost!"
    );
}

fn class(name: &str, mode: &str) -> Value {
    json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": name},
        "provisioner": "disks.test", "volumeBindingMode": mode, "allowVolumeExpansion": true})
}

fn provided_volumes(https: &Https) {
    made(https, CLASSES, &class("disks", "WaitForFirstConsumer"));
    made(https, CLAIMS, &claim("disk", "disks", "1Gi"));
    let path = format!("{CLAIMS}/disk");
    event(https, "disk", "WaitForFirstConsumer");
    let mut waiting = pod("waiting", "", "disk");
    waiting["spec"]["nodeName"] = Value::Null;
    waiting["spec"]["schedulerName"] = json!("nobody");
    made(https, PODS, &waiting);
    assert_eq!(event(https, "disk", "WaitForPodScheduled"), "waiting for pod waiting to be scheduled");
    let selected = json!({"metadata": {"annotations": {"volume.kubernetes.io/selected-node": "n"}}});
    patched(https, &path, &selected);
    let asked = until(https, &path, |claim| {
        claim["metadata"]["annotations"]["volume.kubernetes.io/storage-provisioner"] == "disks.test"
    });
    assert!(event(https, "disk", "ExternalProvisioning").starts_with("Waiting for a volume to be created"));
    let mut provided = driver_volume("provided", "disks", &asked, &["ReadWriteOnce"]);
    provided["metadata"]["annotations"] = json!({"pv.kubernetes.io/provisioned-by": "disks.test"});
    provided["spec"]["persistentVolumeReclaimPolicy"] = json!("Delete");
    provided["spec"]["claimRef"]["uid"] = asked["metadata"]["uid"].clone();
    made(https, VOLUMES, &provided);
    phase(https, &path, "Bound");
    deleted(https, &format!("{PODS}/waiting?gracePeriodSeconds=0"));
    deleted(https, &path);
    // Whoever provided it removes it.
    phase(https, &format!("{VOLUMES}/provided"), "Released");
    deleted(https, &format!("{VOLUMES}/provided"));
    gone(https, &format!("{VOLUMES}/provided"));
}

/// A claim from before there was a default class gets the one that comes.
fn late_default_class(https: &Https) {
    let mark = "storageclass.kubernetes.io/is-default-class";
    let marked = |value: &str| json!({"metadata": {"annotations": {mark: value}}});
    wait_for("the class local-path", SOON, || {
        (get(https, &format!("{CLASSES}/local-path")).0 == 200).then_some(())
    });
    patched(https, &format!("{CLASSES}/local-path"), &marked("false"));
    let mut plain = claim("plain", "", "1Gi");
    plain["spec"]["storageClassName"] = Value::Null;
    made(https, CLAIMS, &plain);
    assert_eq!(
        event(https, "plain", "FailedBinding"),
        "no persistent volumes available for this claim and no storage class is set"
    );
    patched(https, &format!("{CLASSES}/local-path"), &marked("true"));
    until(https, &format!("{CLAIMS}/plain"), |claim| claim["spec"]["storageClassName"] == "local-path");
    event(https, "plain", "WaitForFirstConsumer");
}

fn growing(https: &Https) {
    made(https, CLASSES, &class("growing", "Immediate"));
    made(https, CLAIMS, &claim("grows", "growing", "1Gi"));
    made(https, VOLUMES, &volume("grown", "growing", "1Gi"));
    phase(https, &format!("{CLAIMS}/grows"), "Bound");
    patched(
        https,
        &format!("{CLAIMS}/grows"),
        &json!({"spec": {"resources": {"requests": {"storage": "2Gi"}}}}),
    );
    assert_eq!(
        event(https, "grows", "ExternalExpanding"),
        "waiting for an external controller to expand this PVC"
    );
}

fn own_claims_of_pods(https: &Https) {
    made(https, CLAIMS, &claim("second-v", "", "1Gi"));
    let spec = json!({"accessModes": ["ReadWriteOnce"], "storageClassName": "", "resources": {"requests": {"storage": "1Gi"}}});
    let own = |name: &str| {
        let mut pod = pod(name, "nowhere", "");
        let template = json!({"metadata": {"annotations": {"a": "b"}}, "spec": spec});
        pod["spec"]["volumes"] = json!([{"name": "v", "ephemeral": {"volumeClaimTemplate": template}}]);
        made(https, PODS, &pod)
    };
    let first = own("first");
    let path = format!("{CLAIMS}/first-v");
    let claim = until(https, &path, |claim| claim["kind"] == "PersistentVolumeClaim");
    let owner = json!({"apiVersion": "v1", "kind": "Pod", "name": "first", "uid": first["metadata"]["uid"],
        "controller": true, "blockOwnerDeletion": true});
    assert_eq!(claim["metadata"]["ownerReferences"], json!([owner]));
    assert_eq!(claim["metadata"]["annotations"]["a"], "b");
    own("second");
    assert_eq!(
        event(https, "second", "FailedBinding"),
        "ephemeral volume v: PVC default/second-v was not created for pod default/second (pod is not owner)"
    );
    deleted(https, &format!("{PODS}/first?gracePeriodSeconds=0"));
    gone(https, &path);
    deleted(https, &format!("{PODS}/second?gracePeriodSeconds=0"));
}

/// A claim that is bound to a volume of the driver.
fn with_driver(https: &Https, name: &str, modes: &[&str]) {
    let mut claim = claim(name, "attached", "1Gi");
    claim["spec"]["accessModes"] = json!(modes);
    let claim = made(https, CLAIMS, &claim);
    made(https, VOLUMES, &driver_volume(&format!("{name}-volume"), "attached", &claim, modes));
    phase(https, &format!("{CLAIMS}/{name}"), "Bound");
}

/// The attachment of a volume to a node.
#[track_caller]
fn attachment(https: &Https, volume: &str, node: &str) -> Value {
    wait_for(&format!("{volume} at {node}"), SOON, || {
        let list = get(https, ATTACHMENTS).1;
        let of = |own: &&Value| {
            own["spec"]["source"]["persistentVolumeName"] == volume && own["spec"]["nodeName"] == node
        };
        list["items"].as_array()?.iter().find(of).cloned()
    })
}

fn path_of(attachment: &Value) -> String {
    format!("{ATTACHMENTS}/{}", attachment["metadata"]["name"].as_str().unwrap())
}

fn attaching(https: &Https) {
    node(https, "a");
    node(https, "b");
    with_driver(https, "one", &["ReadWriteOnce"]);
    made(https, PODS, &pod("on-a", "a", "one"));
    let first = attachment(https, "one-volume", "a");
    // sha256 of the volume's handle, the driver and the node.
    assert_eq!(first["metadata"]["name"].as_str().unwrap().len(), "csi-".len() + 64);
    assert_eq!(first["spec"]["attacher"], "disks.test");
    let status = format!("{}/status", path_of(&first));
    patched(https, &status, &json!({"status": {"attached": false, "attachError": {"message": "no disk"}}}));
    assert_eq!(
        event(https, "on-a", "FailedAttachVolume"),
        "AttachVolume.Attach failed for volume \"one-volume\" : no disk"
    );
    patched(https, &status, &json!({"status": {"attached": true, "attachError": null}}));
    assert_eq!(
        event(https, "on-a", "SuccessfulAttachVolume"),
        "AttachVolume.Attach succeeded for volume \"one-volume\" "
    );
    let unique = "kubernetes.io/csi/disks.test^one-volume";
    let told = until(https, &format!("{NODES}/a"), |node| !node["status"]["volumesAttached"][0].is_null());
    assert_eq!(told["status"]["volumesAttached"], json!([{"name": unique, "devicePath": ""}]));
    patched(https, &format!("{NODES}/a/status"), &json!({"status": {"volumesInUse": [unique]}}));
    made(https, PODS, &pod("on-b", "b", "one"));
    assert_eq!(
        event(https, "on-b", "FailedAttachVolume"),
        "Multi-Attach error for volume \"one-volume\" Volume is already used by pod(s) on-a"
    );
    deleted(https, &format!("{PODS}/on-a?gracePeriodSeconds=0"));
    gone(https, &format!("{PODS}/on-a"));
    // The node still has it mounted.
    assert_eq!(get(https, &path_of(&first)).0, 200);
    patched(https, &format!("{NODES}/a/status"), &json!({"status": {"volumesInUse": null}}));
    attachment(https, "one-volume", "b");
    gone(https, &path_of(&first));
    until(https, &format!("{NODES}/a"), |node| node["status"]["volumesAttached"][0].is_null());
    with_driver(https, "many", &["ReadWriteMany"]);
    made(https, PODS, &pod("many-a", "a", "many"));
    made(https, PODS, &pod("many-b", "b", "many"));
    attachment(https, "many-volume", "a");
    attachment(https, "many-volume", "b");
}

/// What is mounted on a node of which somebody says that it is down is attached elsewhere.
fn given_up_nodes(https: &Https) {
    node(https, "down");
    node(https, "up");
    with_driver(https, "moved", &["ReadWriteOnce"]);
    made(https, PODS, &pod("old", "down", "moved"));
    let first = attachment(https, "moved-volume", "down");
    let unique = "kubernetes.io/csi/disks.test^moved-volume";
    patched(https, &format!("{NODES}/down/status"), &json!({"status": {"volumesInUse": [unique]}}));
    patched(https, &format!("{}/status", path_of(&first)), &json!({"status": {"attached": true}}));
    deleted(https, &format!("{PODS}/old?gracePeriodSeconds=0"));
    made(https, PODS, &pod("new", "up", "moved"));
    event(https, "new", "FailedAttachVolume");
    let taint =
        json!({"key": "node.kubernetes.io/out-of-service", "value": "nodeshutdown", "effect": "NoExecute"});
    patched(https, &format!("{NODES}/down"), &json!({"spec": {"taints": [taint]}}));
    gone(https, &path_of(&first));
    let second = attachment(https, "moved-volume", "up");
    // A node that is removed takes its attachments along.
    deleted(https, &format!("{NODES}/up"));
    gone(https, &path_of(&second));
}
