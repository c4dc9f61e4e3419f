//! Volumes that tell of the pod, as volumes of their own and as parts of projected ones, looked at side by side.

use super::{Behaviour, Namespace, behaviours};
use crate::support::cluster::SOON;
use crate::support::process::wait_for;
use serde_json::{Value, json};

pub(super) const BEHAVIOURS: &[Behaviour] = behaviours![
    files_name_the_pod,
    files_of_pods_have_modes,
    files_of_pods_have_the_volumes_mode,
    labels_are_followed,
    annotations_are_followed,
    files_tell_resources,
    files_tell_of_the_node_without_limits,
];

/// A pod with both volumes, at /own and /projected.
fn spec(items: &Value, mode: Option<i32>, script: &str) -> Value {
    let mut own = json!({"items": items});
    let mut projected = json!({"sources": [{"downwardAPI": {"items": items}}]});
    if let Some(mode) = mode {
        own["defaultMode"] = json!(mode);
        projected["defaultMode"] = json!(mode);
    }
    json!({
        "volumes": [{"name": "own", "downwardAPI": own}, {"name": "projected", "projected": projected}],
        "containers": [{"command": ["sh", "-c", script],
            "volumeMounts": [{"name": "own", "mountPath": "/own"}, {"name": "projected", "mountPath": "/projected"}]}],
    })
}

fn field(path: &str, field: &str) -> Value {
    json!({"path": path, "fieldRef": {"fieldPath": field}})
}

fn resource(name: &str) -> Value {
    let divisor = if name.ends_with("cpu") { "1m" } else { "1" };
    let path = name.replace('.', "_");
    json!({"path": path, "resourceFieldRef": {"containerName": "c", "resource": name, "divisor": divisor}})
}

fn files_name_the_pod(namespace: &Namespace) {
    let items = json!([field("podname", "metadata.name")]);
    let said = namespace.output(
        &spec(&items, None, "cd /; for at in own projected; do ls $at; cat $at/podname; done").to_string(),
    );
    assert_eq!(said, "podname\npod-0podname\npod-0");
}

const MODES: &str = "for at in own projected; do stat -L -c '%a ' /$at/podname; cat /$at/podname; done";

fn files_of_pods_have_modes(namespace: &Namespace) {
    let mut item = field("podname", "metadata.name");
    item["mode"] = json!(0o400);
    assert_eq!(namespace.output(&spec(&json!([item]), None, MODES).to_string()), "400 \npod-0".repeat(2));
}

fn files_of_pods_have_the_volumes_mode(namespace: &Namespace) {
    let items = json!([field("podname", "metadata.name")]);
    assert_eq!(namespace.output(&spec(&items, Some(0o400), MODES).to_string()), "400 \npod-0".repeat(2));
}

/// The file changes in a running pod as its metadata does.
fn followed(namespace: &Namespace, list: &str) {
    let items = json!([field(list, &format!("metadata.{list}"))]);
    let mut metadata = json!({"name": "followed"});
    metadata[list] = json!({"key1": "value1", "key2": "value2"});
    namespace.pod_with(&metadata, &spec(&items, None, "sleep 10000").to_string());
    namespace.ready("followed");
    let becomes = |wanted: &str| {
        wait_for(wanted, SOON * 2, || {
            let said =
                ["own", "projected"].map(|at| namespace.exec("followed", "c", &format!("cat /{at}/{list}")));
            said.iter().all(|said| said == wanted).then_some(())
        });
    };
    becomes("key1=\"value1\"\nkey2=\"value2\"");
    let mut patch = json!({});
    patch["metadata"][list] = json!({"key2": null, "key3": "value3"});
    namespace.patched("pods/followed", &patch);
    becomes("key1=\"value1\"\nkey3=\"value3\"");
}

fn labels_are_followed(namespace: &Namespace) {
    followed(namespace, "labels");
}

fn annotations_are_followed(namespace: &Namespace) {
    followed(namespace, "annotations");
}

const RESOURCES: [&str; 4] = ["limits.cpu", "limits.memory", "requests.cpu", "requests.memory"];
const TELL: &str = "for at in own projected; do cd /$at; for of in *; do echo $of $(cat $of); done; done";

fn files_tell_resources(namespace: &Namespace) {
    let items = json!(RESOURCES.map(resource));
    let mut spec = spec(&items, None, TELL);
    spec["containers"][0]["resources"] = json!({"requests": {"cpu": "25m", "memory": "32Mi"},
        "limits": {"cpu": "1250m", "memory": "64Mi"}});
    let wanted = "limits_cpu 1250\nlimits_memory 67108864\nrequests_cpu 25\nrequests_memory 33554432\n";
    assert_eq!(namespace.output(&spec.to_string()), wanted.repeat(2));
}

fn files_tell_of_the_node_without_limits(namespace: &Namespace) {
    let node = namespace.https.call("GET", "/api/v1/nodes/node-1").1;
    let offered = |name: &str| node["status"]["allocatable"][name].as_str().unwrap().trim_end_matches("Ki");
    let number = |name: &str| offered(name).parse::<u64>().unwrap();
    let items = json!([resource("limits.cpu"), resource("limits.memory")]);
    let (cpu, memory) = (number("cpu") * 1000, number("memory") * 1024);
    let wanted = format!("limits_cpu {cpu}\nlimits_memory {memory}\n");
    assert_eq!(namespace.output(&spec(&items, None, TELL).to_string()), wanted.repeat(2));
}
