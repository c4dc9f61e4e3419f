//! Claimed devices on a real node, with a driver of the test's own.

use crate::support::cluster::{Cluster, SOON};
use crate::support::grpc::{Answer, GrpcServer, Streams, UNIMPLEMENTED, Verbs, registration};
use crate::support::https::Https;
use crate::support::pod_resources::{GetRequest, GetResponse, ask};
use crate::support::process::wait_for;
use prost::Message;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use tokio::sync::watch;

#[derive(Clone, PartialEq, Message)]
struct Claim {
    #[prost(string, tag = "1")]
    namespace: String,
    #[prost(string, tag = "2")]
    uid: String,
    #[prost(string, tag = "3")]
    name: String,
}
#[derive(Clone, PartialEq, Message)]
struct Claims {
    #[prost(message, repeated, tag = "1")]
    claims: Vec<Claim>,
}
#[derive(Clone, PartialEq, Message)]
struct Device {
    #[prost(string, tag = "2")]
    pool: String,
    #[prost(string, tag = "3")]
    name: String,
    #[prost(string, repeated, tag = "4")]
    cdi: Vec<String>,
}
#[derive(Clone, PartialEq, Message)]
struct Prepared {
    #[prost(message, repeated, tag = "1")]
    devices: Vec<Device>,
    #[prost(string, tag = "2")]
    error: String,
}
#[derive(Clone, PartialEq, Message)]
struct AllPrepared {
    #[prost(map = "string, message", tag = "1")]
    claims: HashMap<String, Prepared>,
}
#[derive(Clone, PartialEq, Message)]
struct Unprepared {
    #[prost(string, tag = "1")]
    error: String,
}
#[derive(Clone, PartialEq, Message)]
struct AllUnprepared {
    #[prost(map = "string, message", tag = "1")]
    claims: HashMap<String, Unprepared>,
}

#[derive(Clone, PartialEq, Message)]
struct Identifier {
    #[prost(string, tag = "1")]
    pool: String,
    #[prost(string, tag = "2")]
    name: String,
}
#[derive(Clone, PartialEq, Message)]
struct Health {
    #[prost(message, optional, tag = "1")]
    device: Option<Identifier>,
    #[prost(int32, tag = "2")]
    health: i32,
    #[prost(int64, tag = "4")]
    life_s: i64,
    #[prost(string, tag = "5")]
    message: String,
}
#[derive(Clone, PartialEq, Message)]
struct AllHealth {
    #[prost(message, repeated, tag = "1")]
    devices: Vec<Health>,
}

/// Of the only device.
fn health(health: i32, message: &str) -> Vec<u8> {
    let device = Some(Identifier { pool: "node-1".to_owned(), name: "gpu-0".to_owned() });
    let one = Health { device, health, life_s: 600, message: message.to_owned() };
    AllHealth { devices: vec![one] }.encode_to_vec()
}

#[derive(Default)]
struct Said {
    prepared: usize,
    unprepared: usize,
    refuses: bool,
    health: watch::Sender<Vec<u8>>,
}

const SPECIFICATION: &str = r#"{"cdiVersion": "0.6.0", "kind": "gpus.test/gpu", "devices": [{"name": "zero",
    "containerEdits": {"env": ["GPU=zero"], "deviceNodes": [{"path": "/dev/gpu0", "hostPath": "/dev/zero"}]}}]}"#;

const MANIFEST: &str = r#"
apiVersion: resource.k8s.io/v1
kind: DeviceClass
metadata: {name: gpus}
spec: {selectors: [{cel: {expression: "device.driver == 'gpus.test'"}}]}
---
apiVersion: resource.k8s.io/v1
kind: ResourceSlice
metadata: {name: node-1-gpus}
spec:
  nodeName: node-1
  driver: gpus.test
  pool: {name: node-1, generation: 1, resourceSliceCount: 1}
  devices: [{name: gpu-0}]
---
apiVersion: resource.k8s.io/v1
kind: ResourceClaimTemplate
metadata: {name: gpu}
spec: {spec: {devices: {requests: [{name: one, exactly: {deviceClassName: gpus}}]}}}
---
apiVersion: v1
kind: Pod
metadata: {name: computes}
spec:
  terminationGracePeriodSeconds: 0
  resourceClaims: [{name: gpu, resourceClaimTemplateName: gpu}]
  containers:
  - name: c
    image: knarr.test/busybox:1
    command: [sleep, infinity]
    resources: {claims: [{name: gpu}]}
  - name: without
    image: knarr.test/busybox:1
    command: [sleep, infinity]
"#;

fn answer(said: &Mutex<Said>, verb: &str, message: &[u8]) -> Answer {
    let mut said = said.lock().unwrap();
    let asked = Claims::decode(message).unwrap().claims;
    assert!(verb.starts_with("/k8s.io.kubelet.pkg.apis.dra.v1.DRAPlugin/"), "{verb}");
    match verb.rsplit('/').next().unwrap() {
        "NodePrepareResources" => {
            said.prepared += 1;
            let error = if said.refuses { "too hot".to_owned() } else { String::new() };
            let device = || Device {
                pool: "node-1".to_owned(),
                name: "gpu-0".to_owned(),
                cdi: vec!["gpus.test/gpu=zero".to_owned()],
            };
            let one = |claim: Claim| (claim.uid, Prepared { devices: vec![device()], error: error.clone() });
            Ok(AllPrepared { claims: asked.into_iter().map(one).collect() }.encode_to_vec())
        }
        "NodeUnprepareResources" => {
            said.unprepared += 1;
            let one = |claim: Claim| (claim.uid, Unprepared::default());
            Ok(AllUnprepared { claims: asked.into_iter().map(one).collect() }.encode_to_vec())
        }
        other => Err((UNIMPLEMENTED, other.to_owned())),
    }
}

fn start(cluster: &Cluster, https: &Https, said: &Arc<Mutex<Said>>) -> GrpcServer {
    let socket = cluster.sandbox.folder.join("kubelet/plugins_registry/gpus.test.sock");
    let (said, health) = (said.clone(), said.lock().unwrap().health.clone());
    let streams: Streams = Arc::new(move |verb| {
        (verb == "/v1alpha1.DRAResourceHealth/NodeWatchResources").then(|| health.subscribe())
    });
    // One socket serves both, as drivers of devices do.
    let verbs: Verbs = Arc::new(move |verb, message| {
        if verb.ends_with("/GetInfo") {
            let (kind, name) = ("DRAPlugin".to_owned(), "gpus.test".to_owned());
            let versions = vec!["v1.DRAPlugin".to_owned(), "v1beta1.DRAPlugin".to_owned()];
            return Ok(
                registration::PluginInfo { kind, name, endpoint: String::new(), versions }.encode_to_vec()
            );
        }
        if verb.ends_with("/NotifyRegistrationStatus") {
            let told = registration::Status::decode(message).unwrap();
            assert!(told.registered, "{}", told.error);
            return Ok(Vec::new());
        }
        answer(&said, verb, message)
    });
    GrpcServer::streaming(https, &socket, (verbs, streams))
}

fn its_health_is_told(cluster: &Cluster, said: &Mutex<Said>) {
    let tell = |state: i32, message: &str| said.lock().unwrap().health.send_replace(health(state, message));
    let shown = |expected: &Value| {
        cluster.wait("pod computes", |pod| {
            let all = pod["status"]["containerStatuses"].as_array()?;
            let of = |name: &str| all.iter().find(|one| one["name"] == name).cloned().unwrap_or_default();
            assert_eq!(of("without")["allocatedResourcesStatus"], Value::Null);
            let resources = json!([{"name": "claim:gpu", "resources": [expected]}]);
            (of("c")["allocatedResourcesStatus"] == resources).then_some(())
        });
    };
    tell(1, "");
    shown(&json!({"resourceID": "gpus.test/gpu=zero", "health": "Healthy"}));
    tell(2, "too hot");
    shown(&json!({"resourceID": "gpus.test/gpu=zero", "health": "Unhealthy", "message": "too hot"}));
}

/// Who asks for the pod's resources sees what it claims.
fn monitors_are_told(cluster: &Cluster) {
    let request = GetRequest { name: "computes".to_owned(), namespace: "default".to_owned() };
    let told: GetResponse = ask(&cluster.sandbox.folder.join("kubelet"), "Get", request).unwrap();
    let containers = told.pod.unwrap().containers;
    let of = |name: &str| &containers.iter().find(|container| container.name == name).unwrap().claims;
    let claim = &of("c")[0];
    assert_eq!(claim.namespace, "default");
    let all = &claim.resources;
    let shown = all.iter().map(|it| (it.driver.as_str(), it.pool.as_str(), it.device.as_str()));
    assert_eq!(shown.collect::<Vec<_>>(), [("gpus.test", "node-1", "gpu-0")]);
    assert!(of("without").is_empty(), "{containers:?}");
}

#[test]
fn devices_of_a_driver() {
    let mut cluster = Cluster::new();
    let https = Https::new(&cluster);
    let said: Arc<Mutex<Said>> = Arc::default();
    said.lock().unwrap().health.send_replace(health(1, ""));
    cluster
        .sandbox
        .sh(&format!("mkdir -p /var/run/cdi; echo '{SPECIFICATION}' > /var/run/cdi/gpus.json"))
        .ok();
    cluster.apply(MANIFEST);
    assert_eq!(
        cluster.event("computes", "FailedPrepareDynamicResources"),
        "Failed to prepare dynamic resources: prepare dynamic resources: DRA driver gpus.test is not registered"
    );
    said.lock().unwrap().refuses = true;
    let driver = start(&cluster, &https, &said);
    wait_for("word of the refusal", SOON, || {
        let events = cluster.events("computes");
        events.iter().any(|(_, message)| message.ends_with(": too hot")).then_some(())
    });
    said.lock().unwrap().refuses = false;
    cluster.pod_ready("computes");
    let said_in = |container: &str, script: &str| {
        cluster.try_kubectl(&["exec", "computes", "-c", container, "--", "sh", "-c", script]).ok()
    };
    assert_eq!(said_in("c", "echo $GPU; test -c /dev/gpu0 && echo there"), "zero\nthere\n");
    assert_eq!(said_in("without", "echo $GPU; test -e /dev/gpu0 || echo none"), "\nnone\n");
    monitors_are_told(&cluster);
    its_health_is_told(&cluster, &said);
    let prepared = said.lock().unwrap().prepared;
    cluster.stop("TERM");
    cluster.start();
    cluster.pod_ready("computes");
    assert_eq!(said.lock().unwrap().prepared, prepared, "what is in use is not prepared again");
    cluster.kubectl("delete pod computes --timeout=80s");
    wait_for("the end of the claim", SOON, || (said.lock().unwrap().unprepared == 1).then_some(()));
    drop(driver);
    wait_for("the end of the slices", SOON * 2, || {
        cluster.json("resourceslice node-1-gpus").is_null().then_some(())
    });
}
