//! Claims of devices: the test plays the driver, which tells of its devices, and the node.

use super::*;

const CLAIMS: &str = "/apis/resource.k8s.io/v1/namespaces/scheduling/resourceclaims";
const TEMPLATES: &str = "/apis/resource.k8s.io/v1/namespaces/scheduling/resourceclaimtemplates";
const SLICES: &str = "/apis/resource.k8s.io/v1/resourceslices";
const QUOTAS: &str = "/api/v1/namespaces/scheduling/resourcequotas";
const DEVICE_CLASSES: &str = "/apis/resource.k8s.io/v1/deviceclasses";

fn resource(kind: &str, name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "resource.k8s.io/v1", "kind": kind, "metadata": {"name": name}, "spec": spec})
}

/// A node with devices, and a class of the same name that means them.
fn node_with(https: &Https, name: &str, devices: &Value) {
    node(https, name, 10, json!({}));
    slice(https, name, devices);
    let expression = format!("device.attributes['test'].?node.orValue('') == '{name}'");
    let class = json!({"selectors": [{"cel": {"expression": expression}}]});
    made(https, DEVICE_CLASSES, &resource("DeviceClass", name, &class));
}

fn slice(https: &Https, node: &str, devices: &Value) {
    let mut devices = devices.clone();
    for device in devices.as_array_mut().unwrap() {
        device["attributes"] = json!({"test/node": {"string": node}});
    }
    let pool = json!({"name": node, "generation": 1, "resourceSliceCount": 1});
    let spec = json!({"driver": "gpu.test", "nodeName": node, "pool": pool, "devices": devices});
    made(https, SLICES, &resource("ResourceSlice", node, &spec));
}

fn gone(https: &Https, name: &str) {
    clean(https, name);
    deleted(https, &format!("{SLICES}/{name}"), "Background");
    deleted(https, &format!("{DEVICE_CLASSES}/{name}"), "Background");
}

fn request(class: &str) -> Value {
    json!({"devices": {"requests": [{"name": "r", "exactly": {"deviceClassName": class}}]}})
}

fn with_claim(name: &str, claim: &Value) -> Value {
    let mut claim = claim.clone();
    claim["name"] = json!("gpu");
    pod(name, 1, json!({"resourceClaims": [claim]}))
}

/// The claim that was made for a pod.
fn claim_of(https: &Https, pod: &str) -> Value {
    let pod = get(https, &path(pod)).1;
    let name = pod["status"]["resourceClaimStatuses"][0]["resourceClaimName"].as_str().unwrap();
    get(https, &format!("{CLAIMS}/{name}")).1
}

fn device_of(claim: &Value) -> String {
    claim["status"]["allocation"]["devices"]["results"][0]["device"].as_str().unwrap_or_default().to_owned()
}

pub(super) fn devices_are_given_to_pods(https: &Https) {
    node_with(https, "gpus", &json!([{"name": "one"}, {"name": "two"}]));
    let template = resource("ResourceClaimTemplate", "gpus", &json!({"spec": request("gpus")}));
    made(https, TEMPLATES, &template);
    let of_template = json!({"resourceClaimTemplateName": "gpus"});
    for name in ["first", "second"] {
        let pod = made(https, PODS, &with_claim(name, &of_template));
        assert_eq!(bound(https, name), "gpus");
        let claim = claim_of(https, name);
        let consumers = claim["status"]["reservedFor"].clone();
        let uid = &pod["metadata"]["uid"];
        assert_eq!(consumers, json!([{"resource": "pods", "name": name, "uid": uid}]));
        assert_eq!(claim["metadata"]["finalizers"], json!(["resource.kubernetes.io/delete-protection"]));
        let allocation = &claim["status"]["allocation"];
        let field = &allocation["nodeSelector"]["nodeSelectorTerms"][0]["matchFields"][0];
        assert_eq!((&field["key"], &field["values"]), (&json!("metadata.name"), &json!(["gpus"])));
        let result = &allocation["devices"]["results"][0];
        assert_eq!((&result["driver"], &result["request"]), (&json!("gpu.test"), &json!("r")));
        assert!(allocation["allocationTimestamp"].is_string(), "{allocation}");
    }
    let devices = ["first", "second"].map(|name| device_of(&claim_of(https, name)));
    assert!(devices[0] != devices[1], "{devices:?}");
    made(https, PODS, &with_claim("third", &of_template));
    assert_eq!(
        refused(https, "third"),
        "0/1 nodes are available: 1 cannot allocate all claims. still not schedulable, preemption: 0/1 nodes are \
         available: 1 Preemption is not helpful for scheduling."
    );
    // A device that is given back wakes it.
    end(https, &path("first"));
    assert_eq!(bound(https, "third"), "gpus");
    assert_eq!(device_of(&claim_of(https, "third")), devices[0]);
    gone(https, "gpus");
}

pub(super) fn pods_share_a_claim(https: &Https) {
    node_with(https, "shares", &json!([{"name": "one"}]));
    // A pod without its claim waits, and nothing is told of it.
    let of_claim = json!({"resourceClaimName": "shared"});
    made(https, PODS, &with_claim("early", &of_claim));
    made(https, CLAIMS, &resource("ResourceClaim", "shared", &request("shares")));
    assert_eq!(bound(https, "early"), "shares");
    made(https, PODS, &with_claim("late", &of_claim));
    assert_eq!(bound(https, "late"), "shares");
    let claim = get(https, &format!("{CLAIMS}/shared")).1;
    assert_eq!(claim["status"]["reservedFor"].as_array().map(Vec::len), Some(2), "{claim}");
    let failures = "/api/v1/namespaces/scheduling/events?fieldSelector=reason%3DFailedScheduling,involvedObject.name%3Dearly";
    assert_eq!(items(https, failures).len(), 0);
    gone(https, "shares");
    deleted(https, &format!("{CLAIMS}/shared"), "Background");
}

pub(super) fn who_looks_after_devices_says_so(https: &Https) {
    node_with(https, "watched", &json!([{"name": "one"}]));
    made(https, CLAIMS, &resource("ResourceClaim", "user", &request("watched")));
    made(https, PODS, &with_claim("user", &json!({"resourceClaimName": "user"})));
    assert_eq!(bound(https, "user"), "watched");
    let mut spec = request("watched");
    spec["devices"]["requests"][0]["exactly"]["adminAccess"] = json!(true);
    let claim = resource("ResourceClaim", "admin", &spec);
    let template = resource("ResourceClaimTemplate", "admin", &json!({"spec": spec}));
    for (path, object) in [(CLAIMS, &claim), (TEMPLATES, &template)] {
        let (code, answer) = https.send("POST", path, JSON, object);
        assert_eq!(code, 422, "{answer}");
        let cause = &answer["details"]["causes"][0];
        assert_eq!(cause["field"], "spec.devices.requests[0].adminAccess");
        assert_eq!(
            cause["message"],
            "Forbidden: admin access to devices requires the `resource.kubernetes.io/admin-access: true` label on the \
             containing namespace"
        );
    }
    let namespace = "/api/v1/namespaces/scheduling";
    let label =
        |value: Value| json!({"metadata": {"labels": {"resource.kubernetes.io/admin-access": value}}});
    patched(https, namespace, &label(json!("true")));
    made(https, CLAIMS, &claim);
    made(https, PODS, &with_claim("admin", &json!({"resourceClaimName": "admin"})));
    assert_eq!(bound(https, "admin"), "watched");
    let result = &get(https, &format!("{CLAIMS}/admin")).1["status"]["allocation"]["devices"]["results"][0];
    assert_eq!((&result["device"], &result["adminAccess"]), (&json!("one"), &json!(true)));
    patched(https, namespace, &label(Value::Null));
    gone(https, "watched");
    for claim in ["user", "admin"] {
        deleted(https, &format!("{CLAIMS}/{claim}"), "Background");
    }
}

pub(super) fn idle_devices_move(https: &Https) {
    node_with(https, "idle", &json!([{"name": "one"}]));
    made(https, CLAIMS, &resource("ResourceClaim", "elsewhere", &request("idle")));
    // Somebody allocated it where no node is.
    let field = json!({"key": "metadata.name", "operator": "In", "values": ["gone"]});
    let result = json!({"request": "r", "driver": "gpu.test", "pool": "gone", "device": "one"});
    let allocation = json!({"devices": {"results": [result]}, "nodeSelector": {"nodeSelectorTerms": [{"matchFields": [field]}]}});
    let path = format!("{CLAIMS}/elsewhere");
    patched(https, &format!("{path}/status"), &json!({"status": {"allocation": allocation}}));
    made(https, PODS, &with_claim("moves", &json!({"resourceClaimName": "elsewhere"})));
    assert_eq!(bound(https, "moves"), "idle");
    assert_eq!(
        event(https, "moves", "FailedScheduling"),
        "0/1 nodes are available: 1 resourceclaim not available on the node. deallocation of ResourceClaim completed, \
         preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."
    );
    assert_eq!(get(https, &path).1["status"]["allocation"]["devices"]["results"][0]["pool"], "idle");
    gone(https, "idle");
    deleted(https, &path, "Background");
}

pub(super) fn devices_are_bound_first(https: &Https) {
    node_with(
        https,
        "binding",
        &json!([{"name": "fabric", "bindingConditions": ["attached"], "bindingFailureConditions": ["failed"]}]),
    );
    made(https, CLAIMS, &resource("ResourceClaim", "fabric", &request("binding")));
    made(https, PODS, &with_claim("attaches", &json!({"resourceClaimName": "fabric"})));
    assert_eq!(
        event(https, "attaches", "BindingConditionsPending"),
        "waiting for binding conditions for device on node binding"
    );
    assert!(get(https, &path("attaches")).1["spec"]["nodeName"].is_null());
    let condition = json!({"type": "attached", "status": "True", "reason": "Attached", "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z"});
    let device =
        json!({"driver": "gpu.test", "pool": "binding", "device": "fabric", "conditions": [condition]});
    patched(https, &format!("{CLAIMS}/fabric/status"), &json!({"status": {"devices": [device]}}));
    assert_eq!(bound(https, "attaches"), "binding");
    gone(https, "binding");
    deleted(https, &format!("{CLAIMS}/fabric"), "Background");
}

pub(super) fn wrong_selectors_are_told(https: &Https) {
    node_with(https, "selects", &json!([{"name": "one"}]));
    let mut spec = request("selects");
    let selector = json!([{"cel": {"expression": "device.attributes['test'].none == 1"}}]);
    spec["devices"]["requests"][0]["exactly"]["selectors"] = selector;
    made(https, CLAIMS, &resource("ResourceClaim", "wrong", &spec));
    // What no device could make right is not let in.
    spec["devices"]["requests"][0]["exactly"]["selectors"][0]["cel"]["expression"] = json!("device.size");
    let (code, answer) = https.send("POST", CLAIMS, JSON, &resource("ResourceClaim", "refused", &spec));
    let cause = answer["details"]["causes"][0].clone();
    assert_eq!(
        (code, &cause["field"]),
        (422, &json!("spec.devices.requests[0].exactly.selectors[0].cel.expression"))
    );
    let told = cause["message"].as_str().unwrap();
    let begins =
        "Invalid value: \"device.size\": compilation failed: ERROR: <input>:1:7: undefined field 'size'";
    assert!(told.starts_with(begins), "{told}");
    made(https, PODS, &with_claim("wrong", &json!({"resourceClaimName": "wrong"})));
    assert_eq!(
        event(https, "wrong", "FailedScheduling"),
        "running \"DynamicResources\" filter plugin: claim scheduling/wrong: selector #0: CEL runtime error: no such key: none"
    );
    gone(https, "selects");
    deleted(https, &format!("{CLAIMS}/wrong"), "Background");
}

const GPU: &str = "example.com/gpu";

fn with_gpus(name: &str, count: u32) -> Value {
    let mut pod = pod(name, 1, json!({}));
    let resources = &mut pod["spec"]["containers"][0]["resources"];
    for side in ["requests", "limits"] {
        resources[side][GPU] = json!(count.to_string());
    }
    pod
}

/// The claim that stands for a pod's resources.
fn standing_for(https: &Https, pod: &str) -> (Value, Value) {
    let status = get(https, &path(pod)).1["status"]["extendedResourceClaimStatus"].clone();
    let name = status["resourceClaimName"].as_str().unwrap_or_default();
    let claim = get(https, &format!("{CLAIMS}/{name}")).1;
    (status, claim)
}

pub(super) fn devices_stand_for_resources(https: &Https) {
    node_with(https, "computes", &json!([{"name": "one"}, {"name": "two"}]));
    let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "gpus"},
        "spec": {"hard": {"requests.example.com/gpu": "3"}}});
    made(https, QUOTAS, &quota);
    let early = made(https, PODS, &with_gpus("early", 1));
    assert!(refused(https, "early").starts_with("0/1 nodes are available: 1 Insufficient example.com/gpu. "));
    // A class that provides what it asks for wakes it.
    patched(https, &format!("{DEVICE_CLASSES}/computes"), &json!({"spec": {"extendedResourceName": GPU}}));
    assert_eq!(bound(https, "early"), "computes");
    let (status, claim) = standing_for(https, "early");
    let used = json!([{"containerName": "c", "resourceName": GPU, "requestName": "container-0-request-0"}]);
    assert_eq!(status["requestMappings"], used);
    let (name, metadata) = (claim["metadata"]["name"].as_str().unwrap(), &claim["metadata"]);
    assert!(name.starts_with("early-extended-resources-"), "{name}");
    assert_eq!(metadata["annotations"], json!({"resource.kubernetes.io/extended-resource-claim": "true"}));
    assert_eq!(metadata["finalizers"], json!(["resource.kubernetes.io/delete-protection"]));
    let uid = &early["metadata"]["uid"];
    let owner = json!([{"apiVersion": "v1", "kind": "Pod", "name": "early", "uid": uid, "controller": true}]);
    assert_eq!(metadata["ownerReferences"], owner);
    let exactly = json!({"deviceClassName": "computes", "allocationMode": "ExactCount", "count": 1});
    let requests = json!([{"name": "container-0-request-0", "exactly": exactly}]);
    assert_eq!(claim["spec"]["devices"]["requests"], requests);
    assert_eq!(claim["status"]["reservedFor"], json!([{"resource": "pods", "name": "early", "uid": uid}]));
    assert_eq!(device_of(&claim), "one");
    // The pod and its claim count once, and a claim of somebody else's as well.
    let used =
        || get(https, &format!("{QUOTAS}/gpus")).1["status"]["used"]["requests.example.com/gpu"].clone();
    wait_for("what is used", SOON, || (used() == "1").then_some(()));
    let mut spec = request("computes");
    spec["devices"]["requests"][0]["exactly"]["count"] = json!(3);
    let (code, answer) = https.send("POST", CLAIMS, JSON, &resource("ResourceClaim", "greedy", &spec));
    let told = answer["message"].as_str().unwrap();
    let why = "exceeded quota: gpus, requested: requests.example.com/gpu=3, used: requests.example.com/gpu=1, \
               limited: requests.example.com/gpu=3";
    assert!(code == 403 && told.ends_with(why), "{told}");
    made(https, PODS, &with_gpus("late", 2));
    assert_eq!(
        refused(https, "late"),
        "0/1 nodes are available: 1 cannot allocate all claims. still not schedulable, preemption: 0/1 nodes are \
         available: 1 Preemption is not helpful for scheduling."
    );
    // A pod that has ended needs its claim no more, and others get the devices.
    patched(https, &format!("{}/status", path("early")), &json!({"status": {"phase": "Succeeded"}}));
    assert_eq!(bound(https, "late"), "computes");
    let results = standing_for(https, "late").1["status"]["allocation"]["devices"]["results"].clone();
    assert_eq!(results.as_array().map(Vec::len), Some(2), "{results}");
    wait_for("no claim of a pod that ended", SOON, || {
        (get(https, &format!("{CLAIMS}/{name}")).0 == 404).then_some(())
    });
    wait_for("what is left", SOON, || (used() == "2").then_some(()));
    deleted(https, &format!("{QUOTAS}/gpus"), "Background");
    // A node that has the resource itself needs no devices.
    let has = json!({"cpu": "4", "memory": "8Gi", "pods": "20", UNITS: "10", GPU: "1"});
    node(
        https,
        "plain",
        10,
        json!({"status": {"capacity": has, "allocatable": has,
        "conditions": [{"type": "Ready", "status": "True", "lastHeartbeatTime": null, "lastTransitionTime": null}]}}),
    );
    made(https, PODS, &with_gpus("plain", 1));
    assert_eq!(bound(https, "plain"), "plain");
    assert!(standing_for(https, "plain").0.is_null());
    clean(https, "plain");
    gone(https, "computes");
}

pub(super) fn what_a_failure_left_is_cleared(https: &Https) {
    node_with(https, "retries", &json!([{"name": "one"}]));
    patched(https, &format!("{DEVICE_CLASSES}/retries"), &json!({"spec": {"extendedResourceName": GPU}}));
    let mut gated = with_gpus("again", 1);
    gated["spec"]["schedulingGates"] = json!([{"name": "knarr.test/wait"}]);
    let gated = made(https, PODS, &gated);
    // What a scheduler made that ended before it bound the pod.
    let mut claim = resource("ResourceClaim", "left", &request("retries"));
    claim["metadata"]["annotations"] = json!({"resource.kubernetes.io/extended-resource-claim": "true"});
    let uid = &gated["metadata"]["uid"];
    claim["metadata"]["ownerReferences"] =
        json!([{"apiVersion": "v1", "kind": "Pod", "name": "again", "uid": uid, "controller": true}]);
    claim["metadata"]["finalizers"] = json!(["resource.kubernetes.io/delete-protection"]);
    made(https, CLAIMS, &claim);
    patched(https, &path("again"), &json!({"spec": {"schedulingGates": []}}));
    assert_eq!(bound(https, "again"), "retries");
    assert_eq!(
        event(https, "again", "FailedScheduling"),
        "0/1 nodes are available: 1 cannot schedule extended resource claim. deletion of ResourceClaim completed, \
         preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."
    );
    assert_eq!(get(https, &format!("{CLAIMS}/left")).0, 404);
    assert_eq!(device_of(&standing_for(https, "again").1), "one");
    gone(https, "retries");
}
