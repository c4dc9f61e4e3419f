//! Pages as people read them.

use super::page::Page;
use super::{PAGES, QUIET, around, autoscaler, node, plain, pod, service, workloads};
use serde_json::{Value, json};

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

/// Kinds of Kubernetes 1.36 that its client shows in pages of their own.
const KNOWN: &str = "ConfigMap Endpoints LimitRange Namespace Node PersistentVolume PersistentVolumeClaim Pod \
    ReplicationController ResourceQuota Secret Service ServiceAccount DaemonSet Deployment ReplicaSet StatefulSet \
    HorizontalPodAutoscaler CronJob Job CertificateSigningRequest EndpointSlice IPAddress Ingress IngressClass \
    NetworkPolicy ServiceCIDR PodDisruptionBudget ClusterRole ClusterRoleBinding Role RoleBinding PriorityClass \
    CSINode StorageClass VolumeAttributesClass";

#[test]
fn every_kind_has_its_page() {
    let pages = PAGES.iter().map(|(kind, _)| *kind).chain(around::KINDS.iter().copied());
    let mut own: Vec<&str> = pages.clone().map(|kind| kind.split('.').next().unwrap()).collect();
    let mut known: Vec<&str> = KNOWN.split_whitespace().collect();
    own.sort_unstable();
    known.sort_unstable();
    assert_eq!(own, known);
    for kind in pages.chain(QUIET.iter().copied()) {
        let (kind, group) = kind.split_once('.').unwrap_or((kind, ""));
        let is_served = |version: &str| {
            let place = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
            api::kinds::by_kind(&place, kind).is_some()
        };
        assert!(is_served("v1"), "{kind} of {group:?} is no kind");
    }
}

#[test]
fn texts_are_shown_whole_and_in_order() {
    let object = json!({"metadata": {"name": "a", "namespace": "b"}, "data": {"z": "1\t2\r", "y": "\u{1b}[31m"}, "binaryData": {"x": "AAEC"}});
    let text = page(|page| plain::config_map(page, &object));
    assert!(
        text.ends_with(
            "\nData\n====\ny:\n----\n^[[31m\n\nz:\n----\n1  2\\r\n\n\nBinaryData\n====\nx: 3 bytes\n\n"
        ),
        "{text}"
    );
}

#[test]
fn an_account_has_its_token() {
    let object = json!({"metadata": {"name": "s", "namespace": "d"}, "type": "kubernetes.io/service-account-token", "data": {"token": "dG9rZW4=", "ca.crt": "eA=="}});
    let text = page(|page| plain::secret(page, &object));
    assert!(text.ends_with("ca.crt:  1 bytes\ntoken:   token\n"), "{text}");
}

#[test]
fn events_are_of_fields_and_in_order() {
    let event = |reason: &str, last: Value, field: &str| {
        json!({"type": "Normal", "reason": reason, "lastTimestamp": last, "message": " m ",
        "source": {"component": "c"}, "involvedObject": {"fieldPath": field}})
    };
    let events =
        [event("B", json!("2026-01-02T03:04:05Z"), "spec.containers{c}"), event("A", Value::Null, "")];
    let text = page(|page| page.events(&events));
    let lines: Vec<&str> = text.lines().skip(3).collect();
    assert_eq!(
        lines,
        ["  Normal  A       <unknown>  c     m", "  Normal  B       <unknown>  c     spec.containers{c}: m"]
    );
}

#[test]
fn a_node_without_rights_lease_or_amounts() {
    let slice = |pool: usize| json!({"spec": {"driver": "d", "pool": {"name": format!("p{pool:02}")}, "devices": [{}, {}]}});
    let slices = (0..12).chain([0]).map(slice).collect();
    let around = node::Around { pods: None, lease: Err("no".to_owned()), slices };
    let text = page(|page| node::write(page, &json!({"metadata": {"name": "n"}}), &around));
    let has = |line: &str| text.lines().any(|own| own.trim_end() == line);
    for line in [
        "Lease:              Failed to get lease: no",
        "  d       p00   2       4",
        "  d       p09   1       2",
        "  ...and 2 more pools",
        "Pods:                         not authorized",
    ] {
        assert!(has(line), "{line:?} is not in\n{text}");
    }
    assert!(!text.contains("Capacity") && !text.contains("p10"), "{text}");
}

#[test]
fn an_autoscaler_of_the_first_version() {
    let object = json!({"apiVersion": "autoscaling/v1", "metadata": {"name": "a", "namespace": "b"},
        "spec": {"scaleTargetRef": {"kind": "Deployment", "name": "web"}, "maxReplicas": 3, "targetCPUUtilizationPercentage": 70}});
    let text = page(|page| autoscaler::write(page, &object));
    assert!(
        text.contains("Target CPU utilization:   70%\nCurrent CPU utilization:  <unknown>%\nMin replicas:             <unset>\n"),
        "{text}"
    );
}

#[test]
fn a_load_balancer_says_how_it_forwards() {
    let object = json!({"metadata": {"name": "a", "namespace": "b"}, "spec": {"type": "LoadBalancer"},
        "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1", "ipMode": "VIP"}, {"hostname": "h"}]}}});
    let text = page(|page| service::write(page, &object, &[]));
    assert!(text.contains("LoadBalancer Ingress:  192.0.2.1 (VIP), h\n"), "{text}");
}

#[test]
fn pods_of_a_group_are_scheduled_as_one() {
    let template = json!({"metadata": {}, "spec": {"schedulingGroup": {"podGroupName": "g"}}});
    let text = page(|page| pod::template(page, &template));
    assert!(text.ends_with("  Tolerations:     <none>\n  SchedulingGroup:\n  PodGroupName:  g\n"), "{text}");
    assert!(text.contains("  Containers: <none>\n"), "{text}");
}

#[test]
fn a_pod_that_goes_and_is_looked_into() {
    let object = json!({
        "metadata": {"name": "p", "namespace": "d", "deletionTimestamp": "2026-01-02T03:04:05Z", "deletionGracePeriodSeconds": 30},
        "spec": {"containers": [{"name": "c", "image": "i"}], "ephemeralContainers": [{"name": "e", "image": "j"}],
            "readinessGates": [{"conditionType": "g"}], "volumes": [{"name": "v"}]},
        "status": {"phase": "Running", "ephemeralContainerStatuses": [{"name": "e", "state": {"waiting": {"reason": "R"}}}]},
    });
    let text = page(|page| pod::write(page, &object));
    for part in [
        "Status:                    Terminating (lasts ",
        "Termination Grace Period:  30s\n",
        "Ephemeral Containers:\n  e:\n    Container ID:   \n    Image:          j\n",
        "    State:          Waiting\n      Reason:       R\n",
        "Readiness Gates:\n  Type  Status\n  g     <none> \n",
        "Volumes:\n  v:\n  <unknown>\n",
        "QoS Class:",
    ] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
    assert!(text.contains("BestEffort"), "{text}");
}
