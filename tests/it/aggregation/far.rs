//! An aggregated API whose pod is on an agent behind a router: the server, which has no way there, reaches it through
//! the agent's tunnel.

use super::extension::{Extension, GROUP, Shown};
use super::{FRUITS, NAME, PORT, SERVICES};
use crate::egress::{apart, set_mode};
use crate::support::cluster::{IMAGE, SOON};
use crate::support::fleet::Fleet;
use crate::support::https::{Https, JSON, runtime};
use crate::support::process::wait_for;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

/// Finds the network of the pod that has an address.
const FIND: &str =
    "for name in $(ls /run/netns); do ip -n $name -4 -o addr | grep -q \" $1/\" && echo $name; done";

/// A pod on the agent that holds its network open, and a Service that leads there.
fn place(fleet: &Fleet) -> PathBuf {
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "sample", "labels": {"app": "sample"}},
        "spec": {"nodeName": "node-2", "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "main", "image": IMAGE, "command": ["sleep", "9999"]}]}});
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "sample"},
        "spec": {"selector": {"app": "sample"}, "ports": [{"port": 443, "targetPort": PORT}]}});
    fleet.cluster.apply(&json!({"apiVersion": "v1", "kind": "List", "items": [pod, service]}).to_string());
    fleet.cluster.pod_ready("sample");
    let pod = fleet.cluster.json("pod sample");
    let address = pod["status"]["podIP"].as_str().unwrap();
    let found = fleet.cluster.sandbox.run(&["sh", "-c", FIND, "sh", address]).stdout;
    fleet.cluster.sandbox.namespace(found.trim())
}

/// Serves the sample API in a pod's network, for as long as what is returned is held.
fn serve(network: PathBuf, shown: &Arc<Shown>, authority: String) -> (Runtime, oneshot::Sender<()>) {
    let (runtime, extension, shown) = (runtime(Some(network)), Extension::new(), shown.clone());
    let (stop, stopped) = oneshot::channel();
    let (tell, told) = mpsc::channel();
    runtime.spawn(async move {
        let listener = TcpListener::bind(("0.0.0.0", PORT)).await.unwrap();
        tell.send(()).unwrap();
        extension.serve(listener, (shown, authority), stopped).await;
    });
    told.recv().unwrap();
    (runtime, stop)
}

/// What is said of the API once it is (not) to be had.
fn becomes(https: &Https, status: &str) -> String {
    wait_for(&format!("Available {status}"), SOON, || {
        let (_, service) = https.call("GET", &format!("{SERVICES}/{NAME}"));
        let condition = &service["status"]["conditions"][0];
        (condition["status"] == status).then(|| condition["message"].as_str().unwrap().to_owned())
    })
}

#[test]
fn an_aggregated_api_may_be_on_an_agent() {
    let mut fleet = apart("pod");
    let https = Https::new(&fleet.cluster);
    let network = place(&fleet);
    let published = fleet.cluster.json("configmap -n kube-system extension-apiserver-authentication");
    let authority = published["data"]["requestheader-client-ca-file"].as_str().unwrap().to_owned();
    let shown = Arc::new(Shown::new("sample.default.svc"));
    let serving = serve(network, &shown, authority);
    let registration = json!({"metadata": {"name": NAME}, "spec": {"group": GROUP, "version": "v1",
        "caBundle": STANDARD.encode(&shown.pem), "groupPriorityMinimum": 2000, "versionPriority": 10,
        "service": {"namespace": "default", "name": "sample"}}});
    assert_eq!(https.send("POST", SERVICES, JSON, &registration).0, 201);
    assert_eq!(becomes(&https, "True"), "all checks passed");
    // Written and read through all of it, and a watch that goes on.
    let events = https.ask("GET", &format!("{FRUITS}?watch=true")).watch().unwrap();
    let fruit = json!({"apiVersion": "sample.knarr.test/v1", "kind": "Fruit", "metadata": {"name": "fig"}});
    let (code, made) = https.send("POST", FRUITS, JSON, &fruit);
    assert_eq!(code, 201, "{made}");
    assert_eq!(events.next(SOON).unwrap().unwrap()["object"]["metadata"]["name"], "fig");
    let (code, list) = https.call("GET", FRUITS);
    assert_eq!((code, &list["items"][0]["metadata"]["name"]), (200, &json!("fig")));
    // Without the way through the tunnel it is not there, and is said to be so.
    assert_eq!(fleet.cluster.stop("TERM"), 0);
    set_mode(&fleet, "agent");
    fleet.cluster.start();
    let why = becomes(&https, "False");
    assert!(why.contains("no route to host"), "{why}");
    let (code, answer): (u16, Value) = https.call("GET", FRUITS);
    assert_eq!(code, 503, "{answer}");
    drop(serving);
}
