//! What is decided about writes beyond their kinds' own rules, as clients see it.

use crate::support::cluster::{Cluster, SOON};
use crate::support::https::{Https, JSON, MERGE};
use crate::support::process::wait_for;
use serde_json::{Value, json};

const PODS: &str = "/api/v1/namespaces/default/pods";

fn pod(name: &str, more: &Value) -> Value {
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"containers": [{"name": "c", "image": "x:1"}]}});
    ::api::patch::merge(&mut pod, more).unwrap();
    pod
}

fn message(answer: &(u16, Value)) -> (u16, &str) {
    (answer.0, answer.1["message"].as_str().unwrap_or_default())
}

#[test]
fn writes_are_admitted_as_kubernetes_admits_them() {
    let cluster = Cluster::control_plane();
    let https = Https::new(&cluster);
    wait_for("the account default", SOON, || {
        (https.call("GET", "/api/v1/namespaces/default/serviceaccounts/default").0 == 200).then_some(())
    });
    namespaces(&https);
    limits(&https);
    classes(&https);
    runtime(&https);
    priorities(&https);
    security(&https);
    kubelets(&https);
    protection(&https);
}

fn namespaces(https: &Https) {
    let missing = https.send("POST", "/api/v1/namespaces/none/configmaps", JSON, &super::map("a"));
    assert_eq!(message(&missing), (404, "namespaces \"none\" not found"));
    for name in ["default", "kube-system", "kube-public"] {
        let kept = https.call("DELETE", &format!("/api/v1/namespaces/{name}"));
        let wanted = format!("namespaces \"{name}\" is forbidden: this namespace may not be deleted");
        assert_eq!(message(&kept), (403, wanted.as_str()));
    }
}

fn limits(https: &Https) {
    let ranges = "/api/v1/namespaces/default/limitranges";
    let range = json!({"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "l"}, "spec": {"limits": [
        {"type": "Container", "default": {"cpu": "500m"}, "defaultRequest": {"cpu": "250m"}, "max": {"cpu": "1"}}]}});
    assert_eq!(https.send("POST", ranges, JSON, &range).0, 201);
    let (code, made) = https.send("POST", PODS, JSON, &pod("limited", &json!({})));
    assert_eq!(code, 201, "{made}");
    assert_eq!(
        made["spec"]["containers"][0]["resources"],
        json!({"limits": {"cpu": "500m"}, "requests": {"cpu": "250m"}})
    );
    assert_eq!(made["status"]["qosClass"], "Burstable");
    assert_eq!(
        made["metadata"]["annotations"]["kubernetes.io/limit-ranger"],
        "LimitRanger plugin set: cpu request for container c; cpu limit for container c"
    );
    let much = json!({"spec": {"containers": [{"name": "c", "image": "x:1", "resources": {"limits": {"cpu": "2"}}}]}});
    let refused = https.send("POST", PODS, JSON, &pod("much", &much));
    assert_eq!(
        message(&refused),
        (403, "pods \"much\" is forbidden: maximum cpu usage per Container is 1, but limit is 2")
    );
    assert_eq!(https.call("DELETE", &format!("{ranges}/l")).0, 200);
}

fn classes(https: &Https) {
    let classes = "/apis/storage.k8s.io/v1/storageclasses";
    let class = json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "provisioner": "example.com/p",
        "metadata": {"name": "fast", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}}});
    assert_eq!(https.send("POST", classes, JSON, &class).0, 201);
    let claim = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "c"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
    let claims = "/api/v1/namespaces/default/persistentvolumeclaims";
    let (code, made) = https.send("POST", claims, JSON, &claim);
    assert_eq!((code, &made["spec"]["storageClassName"]), (201, &json!("fast")));
    assert_eq!(made["metadata"]["finalizers"], json!(["kubernetes.io/pvc-protection"]));
    let bigger = json!({"spec": {"resources": {"requests": {"storage": "2Gi"}}}});
    let refused = https.send("PATCH", &format!("{claims}/c"), MERGE, &bigger);
    assert!(matches!(refused.0, 403 | 422), "{refused:?}");
    let classes = "/apis/networking.k8s.io/v1/ingressclasses";
    let class = json!({"apiVersion": "networking.k8s.io/v1", "kind": "IngressClass", "spec": {"controller": "example.com/i"},
        "metadata": {"name": "edge", "annotations": {"ingressclass.kubernetes.io/is-default-class": "true"}}});
    assert_eq!(https.send("POST", classes, JSON, &class).0, 201);
    let ingress = json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": "i"},
        "spec": {"defaultBackend": {"service": {"name": "s", "port": {"number": 80}}}}});
    let (_, made) =
        https.send("POST", "/apis/networking.k8s.io/v1/namespaces/default/ingresses", JSON, &ingress);
    assert_eq!(made["spec"]["ingressClassName"], "edge", "{made}");
}

fn runtime(https: &Https) {
    let class = json!({"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": "vm"}, "handler": "vm",
        "overhead": {"podFixed": {"cpu": "100m"}}, "scheduling": {"nodeSelector": {"vm": "yes"}}});
    assert_eq!(https.send("POST", "/apis/node.k8s.io/v1/runtimeclasses", JSON, &class).0, 201);
    let (code, made) =
        https.send("POST", PODS, JSON, &pod("vm", &json!({"spec": {"runtimeClassName": "vm"}})));
    assert_eq!(code, 201, "{made}");
    assert_eq!(
        (&made["spec"]["overhead"], &made["spec"]["nodeSelector"]),
        (&json!({"cpu": "100m"}), &json!({"vm": "yes"}))
    );
    let other = json!({"spec": {"runtimeClassName": "none"}});
    let refused = https.send("POST", PODS, JSON, &pod("other", &other));
    assert_eq!(
        message(&refused),
        (403, "pods \"other\" is forbidden: pod rejected: RuntimeClass \"none\" not found")
    );
}

fn priorities(https: &Https) {
    let classes = "/apis/scheduling.k8s.io/v1/priorityclasses";
    let class = |name: &str| {
        json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name},
            "value": 7, "globalDefault": true})
    };
    assert_eq!(https.send("POST", classes, JSON, &class("usual")).0, 201);
    let second = https.send("POST", classes, JSON, &class("second"));
    assert_eq!(
        message(&second),
        (
            403,
            "priorityclasses.scheduling.k8s.io \"second\" is forbidden: PriorityClass usual is already marked as default. Only one default can exist"
        )
    );
    let (_, made) = https.send("POST", PODS, JSON, &pod("usual", &json!({})));
    assert_eq!((&made["spec"]["priorityClassName"], &made["spec"]["priority"]), (&json!("usual"), &json!(7)));
    let stated = https.send("POST", PODS, JSON, &pod("stated", &json!({"spec": {"priority": 9}})));
    assert_eq!(
        message(&stated),
        (
            403,
            "pods \"stated\" is forbidden: the integer value of priority (9) must not be provided in pod spec; priority admission controller computed 7 from the given PriorityClass name"
        )
    );
}

fn security(https: &Https) {
    let wrong = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "wrong", "labels": {"pod-security.kubernetes.io/enforce": "none"}}});
    let refused = https.send("POST", "/api/v1/namespaces", JSON, &wrong);
    assert_eq!(
        message(&refused),
        (
            422,
            "Namespace \"wrong\" is invalid: metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: \"none\": must be one of privileged, baseline, restricted"
        )
    );
    let strict = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "strict", "labels": {"pod-security.kubernetes.io/enforce": "baseline"}}});
    assert_eq!(https.send("POST", "/api/v1/namespaces", JSON, &strict).0, 201);
    wait_for("the account of strict", SOON, || {
        (https.call("GET", "/api/v1/namespaces/strict/serviceaccounts/default").0 == 200).then_some(())
    });
    let host = json!({"spec": {"hostNetwork": true}});
    let refused = https.send("POST", "/api/v1/namespaces/strict/pods", JSON, &pod("host", &host));
    assert_eq!(
        message(&refused),
        (
            403,
            "pods \"host\" is forbidden: violates PodSecurity \"baseline:latest\": host namespaces (hostNetwork=true)"
        )
    );
    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": {
        "selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"hostNetwork": true, "containers": [{"name": "c", "image": "x:1"}]}}}});
    let path = "/apis/apps/v1/namespaces/strict/deployments?dryRun=All";
    let warned = https.ask("POST", path).object(JSON, &deployment).send();
    assert_eq!(warned.code, 201, "{warned:?}");
    let headers = warned.header("warning");
    let wanted = "would violate PodSecurity \\\"baseline:latest\\\": host namespaces (hostNetwork=true)";
    assert!(headers.contains(wanted), "{headers}");
}

/// What a kubelet may not do, which it is impersonated for.
fn kubelets(https: &Https) {
    let send = |method: &str, path: &str, kind: &str, body: &Value| {
        let ask = https.ask(method, path).by("system:node:a").header("impersonate-group", "system:nodes");
        ask.object(kind, body).parts()
    };
    let node = |name: &str, labels: &Value| json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}});
    let refused = send("POST", "/api/v1/nodes", JSON, &node("b", &json!({})));
    assert_eq!(
        message(&refused),
        (403, "nodes \"b\" is forbidden: node \"a\" is not allowed to modify node \"b\"")
    );
    let label = json!({"node-role.kubernetes.io/control-plane": "true"});
    let refused = send("POST", "/api/v1/nodes", JSON, &node("a", &label));
    assert_eq!(
        message(&refused),
        (
            403,
            "nodes \"a\" is forbidden: node \"a\" is not allowed to set the following labels: node-role.kubernetes.io/control-plane"
        )
    );
    let (code, made) =
        send("POST", "/api/v1/nodes", JSON, &node("a", &json!({"topology.kubernetes.io/zone": "z"})));
    assert_eq!(code, 201, "{made}");
    let taints = made["spec"]["taints"].as_array().unwrap();
    assert!(
        taints.contains(&json!({"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"})),
        "{made}"
    );
    let taint = json!([{"key": "own", "effect": "NoSchedule"}]);
    let refused = send("PATCH", "/api/v1/nodes/a", MERGE, &json!({"spec": {"taints": taint}}));
    assert_eq!(
        message(&refused),
        (403, "nodes \"a\" is forbidden: node \"a\" is not allowed to modify taints")
    );
    let refused = send("POST", PODS, JSON, &pod("own", &json!({"spec": {"nodeName": "a"}})));
    assert_eq!(
        message(&refused),
        (
            403,
            "pods \"own\" is forbidden: pod does not have \"kubernetes.io/config.mirror\" annotation, node \"a\" can only create mirror pods"
        )
    );
    let (_, bound) = https.send("POST", PODS, JSON, &pod("zoned", &json!({"spec": {"nodeName": "a"}})));
    assert_eq!(bound["metadata"]["labels"]["topology.kubernetes.io/zone"], "z", "{bound}");
    let relabelled = json!({"metadata": {"labels": {"a": "b"}}});
    let refused = send("PATCH", &format!("{PODS}/zoned/status"), MERGE, &relabelled);
    assert_eq!(
        message(&refused),
        (403, "pods \"zoned\" is forbidden: node \"a\" cannot update labels through pod status")
    );
}

/// A claim that is deleted goes when no pod on a node uses it.
fn protection(https: &Https) {
    let claim = "/api/v1/namespaces/default/persistentvolumeclaims/c";
    let using = json!({"spec": {"nodeName": "a", "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]}});
    assert_eq!(https.send("POST", PODS, JSON, &pod("using", &using)).0, 201);
    assert_eq!(https.call("DELETE", claim).0, 200);
    let (code, held) = https.call("GET", claim);
    assert_eq!((code, held["metadata"]["deletionTimestamp"].is_null()), (200, false));
    assert_eq!(https.call("DELETE", &format!("{PODS}/using?gracePeriodSeconds=0")).0, 200);
    wait_for("the claim's end", SOON, || (https.call("GET", claim).0 == 404).then_some(()));
}
