//! Claims of devices: the test plays the scheduler, which allocates, and the driver, which tells of devices.

use super::claims::{deleted, event, gone, until};
use super::{get, made, patched};
use crate::support::https::Https;
use serde_json::{Value, json};

const CLAIMS: &str = "/apis/resource.k8s.io/v1/namespaces/default/resourceclaims";
const TEMPLATES: &str = "/apis/resource.k8s.io/v1/namespaces/default/resourceclaimtemplates";
const SLICES: &str = "/apis/resource.k8s.io/v1/resourceslices";
const PODS: &str = "/api/v1/namespaces/default/pods";

fn request() -> Value {
    json!({"devices": {"requests": [{"name": "r", "exactly": {"deviceClassName": "gpu.test"}}]}})
}

fn pod(name: &str, claim: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"nodeName": "nowhere", "tolerations": [{"operator": "Exists"}], "resourceClaims": [claim],
            "containers": [{"name": "c", "image": "i", "resources": {"claims": [{"name": "gpu"}]}}]}})
}

fn shared_claim(https: &Https, name: &str) {
    let claim = json!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim",
        "metadata": {"name": name}, "spec": request()});
    made(https, CLAIMS, &claim);
}

/// What the scheduler does for a pod.
fn allocate(https: &Https, claim: &str, device: &str) {
    let guard = json!({"metadata": {"finalizers": ["resource.kubernetes.io/delete-protection"]}});
    patched(https, &format!("{CLAIMS}/{claim}"), &guard);
    let results = json!([{"request": "r", "driver": "gpu.test", "pool": "nowhere", "device": device}]);
    let status = json!({"status": {"allocation": {"devices": {"results": results}}}});
    patched(https, &format!("{CLAIMS}/{claim}/status"), &status);
}

fn reserved(https: &Https, claim: &str, pod: &Value) {
    until(https, &format!("{CLAIMS}/{claim}"), |claim| {
        claim["status"]["reservedFor"][0]["uid"] == pod["metadata"]["uid"]
    });
}

pub(super) fn claims_from_templates(https: &Https) {
    let own = made(https, PODS, &pod("trains", &json!({"name": "gpu", "resourceClaimTemplateName": "gpus"})));
    assert_eq!(
        event(https, "trains", "FailedResourceClaimCreation"),
        "PodResourceClaim gpu: resource claim template \"gpus\": resourceclaimtemplate.resource.k8s.io \"gpus\" not found"
    );
    let template = json!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaimTemplate",
        "metadata": {"name": "gpus"}, "spec": {"metadata": {"labels": {"of": "gpus"}}, "spec": request()}});
    made(https, TEMPLATES, &template);
    let path = format!("{PODS}/trains");
    let told = until(https, &path, |pod| !pod["status"]["resourceClaimStatuses"].is_null());
    let status = &told["status"]["resourceClaimStatuses"][0];
    let name = status["resourceClaimName"].as_str().unwrap();
    assert!(status["name"] == "gpu" && name.starts_with("trains-gpu-"), "{status}");
    let claim = get(https, &format!("{CLAIMS}/{name}")).1;
    let owner = json!([{"apiVersion": "v1", "kind": "Pod", "name": "trains", "uid": own["metadata"]["uid"], "controller": true}]);
    assert_eq!(claim["metadata"]["ownerReferences"], owner);
    assert_eq!(claim["metadata"]["annotations"]["resource.kubernetes.io/pod-claim-name"], "gpu");
    assert_eq!(
        (&claim["metadata"]["labels"]["of"], &claim["spec"]["devices"]["requests"][0]["name"]),
        (&json!("gpus"), &json!("r"))
    );
    allocate(https, name, "one");
    reserved(https, name, &own);
    // A pod that has ended needs its claim no more.
    patched(https, &format!("{path}/status"), &json!({"status": {"phase": "Succeeded"}}));
    gone(https, &format!("{CLAIMS}/{name}"));
    assert_eq!(get(https, &path).0, 200);
    deleted(https, &format!("{path}?gracePeriodSeconds=0"));
}

pub(super) fn claims_are_given_back(https: &Https) {
    shared_claim(https, "shared");
    let own = made(https, PODS, &pod("user", &json!({"name": "gpu", "resourceClaimName": "shared"})));
    allocate(https, "shared", "one");
    reserved(https, "shared", &own);
    deleted(https, &format!("{CLAIMS}/shared"));
    assert!(!get(https, &format!("{CLAIMS}/shared")).1["status"]["allocation"].is_null());
    deleted(https, &format!("{PODS}/user?gracePeriodSeconds=0"));
    gone(https, &format!("{CLAIMS}/shared"));
    shared_claim(https, "again");
    let own = made(https, PODS, &pod("next", &json!({"name": "gpu", "resourceClaimName": "again"})));
    allocate(https, "again", "one");
    reserved(https, "again", &own);
    deleted(https, &format!("{PODS}/next?gracePeriodSeconds=0"));
    let free = until(https, &format!("{CLAIMS}/again"), |claim| claim["metadata"]["finalizers"].is_null());
    assert!(free["status"]["allocation"].is_null() && free["status"]["reservedFor"].is_null(), "{free}");
}

pub(super) fn tainted_devices(https: &Https) {
    shared_claim(https, "broken");
    let own = made(https, PODS, &pod("computes", &json!({"name": "gpu", "resourceClaimName": "broken"})));
    allocate(https, "broken", "two");
    reserved(https, "broken", &own);
    let keep = json!({"metadata": {"finalizers": ["test.knarr/seen"]}});
    patched(https, &format!("{PODS}/computes"), &keep);
    let slice = json!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceSlice", "metadata": {"name": "gpus"},
        "spec": {"driver": "gpu.test", "nodeName": "nowhere",
            "pool": {"name": "nowhere", "generation": 1, "resourceSliceCount": 1},
            "devices": [{"name": "two", "taints": [{"key": "broken", "effect": "NoExecute"}]}]}});
    made(https, SLICES, &slice);
    let leaves =
        until(https, &format!("{PODS}/computes"), |pod| !pod["metadata"]["deletionTimestamp"].is_null());
    let conditions = leaves["status"]["conditions"].as_array().unwrap();
    let why = conditions.iter().find(|condition| condition["type"] == "DisruptionTarget").unwrap();
    assert_eq!(why["reason"], "DeletionByDeviceTaintManager");
    assert_eq!(event(https, "computes", "DeviceTaintManagerEviction"), "Marking for deletion");
    patched(https, &format!("{PODS}/computes"), &json!({"metadata": {"finalizers": null}}));
}
