//! Pages as people read them.

use super::page::Page;
use super::{plain, pod, service, workloads};
use serde_json::json;

fn page(write: impl FnOnce(&mut Page)) -> String {
    let mut page = Page::default();
    write(&mut page);
    page.render()
}

#[test]
fn a_pod() {
    let object = json!({
        "metadata": {"name": "web-1", "namespace": "default", "labels": {"app": "web", "tier": "x"},
            "ownerReferences": [{"kind": "ReplicaSet", "name": "web", "controller": true}]},
        "spec": {"nodeName": "n1", "serviceAccountName": "default", "priority": 0,
            "containers": [{"name": "c", "image": "i:1", "command": ["sh", "-c"], "ports": [{"containerPort": 80, "protocol": "TCP", "name": "http"}],
                "env": [{"name": "A", "value": "1"}, {"name": "S", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
                    {"name": "N", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.name"}}}],
                "resources": {"requests": {"cpu": "100m"}},
                "readinessProbe": {"httpGet": {"path": "/x", "port": 80, "scheme": "HTTP"}, "periodSeconds": 5},
                "volumeMounts": [{"name": "v", "mountPath": "/v", "readOnly": true}]}],
            "volumes": [{"name": "v", "configMap": {"name": "cm"}}],
            "tolerations": [{"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}]},
        "status": {"phase": "Running", "hostIP": "192.0.2.1", "podIP": "10.42.0.5", "podIPs": [{"ip": "10.42.0.5"}], "qosClass": "Burstable",
            "startTime": "2026-01-02T03:04:05Z", "conditions": [{"type": "Ready", "status": "True"}],
            "containerStatuses": [{"name": "c", "ready": true, "restartCount": 1, "containerID": "containerd://1", "imageID": "i@sha256:1",
                "state": {"running": {"startedAt": "2026-01-02T03:04:06Z"}},
                "lastState": {"terminated": {"reason": "Error", "exitCode": 3, "startedAt": "2026-01-02T03:04:05Z", "finishedAt": "2026-01-02T03:04:06Z"}}}]},
    });
    assert_eq!(page(|page| pod::write(page, &object)), include_str!("../testdata/describe-pod.txt"));
}

#[test]
fn a_secret_keeps_its_secret() {
    let object = json!({"metadata": {"name": "s", "namespace": "default"}, "type": "Opaque", "data": {"password": "aHVudGVyMg=="}});
    let text = page(|page| plain::secret(page, &object));
    assert_eq!(
        text,
        "Name:         s\nNamespace:    default\nLabels:       <none>\nAnnotations:  <none>\n\nType:  Opaque\n\nData\n====\npassword:  7 bytes\n"
    );
}

#[test]
fn a_service_and_its_endpoints() {
    let object = json!({"metadata": {"name": "web", "namespace": "default"}, "spec": {"type": "NodePort", "clusterIP": "10.43.0.5", "clusterIPs": ["10.43.0.5"],
        "selector": {"app": "web"}, "sessionAffinity": "None", "ports": [{"name": "http", "port": 80, "targetPort": 8080, "nodePort": 30080, "protocol": "TCP"}]}});
    let slice = json!({"ports": [{"name": "http", "port": 8080}], "endpoints": [
        {"addresses": ["10.42.0.5"], "conditions": {"ready": true}}, {"addresses": ["10.42.0.6"], "conditions": {"ready": false}}]});
    let text = page(|page| service::write(page, &object, &[slice]));
    assert!(text.contains("Port:              http  80/TCP\n"), "{text}");
    assert!(text.contains("Endpoints:         10.42.0.5:8080\n"), "{text}");
}

#[test]
fn a_deployment_and_its_sets() {
    let template = json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let mut hashed = template.clone();
    hashed["metadata"]["labels"]["pod-template-hash"] = json!("1");
    let set = |name: &str, template: &serde_json::Value| json!({"metadata": {"name": name}, "spec": {"replicas": 2, "template": template}, "status": {"replicas": 2}});
    let object = json!({"metadata": {"name": "web", "namespace": "default"}, "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "web"}},
        "strategy": {"type": "Recreate"}, "template": template}, "status": {"replicas": 2}});
    let text =
        page(|page| workloads::deployment(page, &object, &[set("web-1", &hashed), set("web-0", &json!({}))]));
    assert!(
        text.contains(
            "OldReplicaSets:    web-0 (2/2 replicas created)\nNewReplicaSet:     web-1 (2/2 replicas created)\n"
        ),
        "{text}"
    );
    assert!(text.contains("Selector:           app=web\n"), "{text}");
}
