//! Devices of a plugin: told of, given, told as broken, and kept over a restart.

use crate::support::cluster::{Cluster, SOON};
use crate::support::device_plugin::DevicePlugin;
use crate::support::process::wait_for;
use serde_json::{Value, json};

const RESOURCE: &str = "vendor.example.com/gadget";

fn pod(name: &str, count: usize) -> String {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {
        "terminationGracePeriodSeconds": 0,
        "nodeName": "node-1",
        "containers": [{"name": "c", "image": "knarr.test/busybox:1", "command": ["sleep", "10000"],
            "resources": {"limits": {RESOURCE: count.to_string()}}}]}})
    .to_string()
}

#[test]
fn devices_are_given_to_pods() {
    let mut cluster = Cluster::new();
    let folder = cluster.sandbox.folder.join("kubelet/device-plugins");
    wait_for("the kubelet's socket", SOON, || folder.join("kubelet.sock").exists().then_some(()));
    let plugin = DevicePlugin::start(&folder, &["one", "two", "three"]);
    let refused = plugin.register(RESOURCE, "v1").unwrap_err();
    assert!(refused.starts_with("requested API version \"v1\" is not supported by kubelet"), "{refused}");
    plugin.register(RESOURCE, "v1beta1").unwrap();
    amounts(&cluster, ("3", "3"));
    cluster.apply(&pod("owner", 2));
    cluster.pod_ready("owner");
    what_a_container_gets(&cluster, &plugin);
    broken_devices_are_told_of(&cluster, &plugin);
    more_than_there_is(&cluster);
    over_a_restart(&mut cluster, &plugin);
}

/// Waits until the node has so many devices, and so many for pods.
fn amounts(cluster: &Cluster, (capacity, allocatable): (&str, &str)) {
    cluster.wait("node node-1", |node| {
        let is = |of: &str, amount: &str| node["status"][of][RESOURCE] == amount;
        (is("capacity", capacity) && is("allocatable", allocatable)).then_some(())
    });
}

fn what_a_container_gets(cluster: &Cluster, plugin: &DevicePlugin) {
    let said = cluster.exec("owner", "echo $VENDOR_IDS; test -c /dev/vendor0 && ls /vendor/passwd").ok();
    // Of `one`, `three` and `two` it prefers the last.
    assert_eq!(said, "three,two\n/vendor/passwd\n");
    let asked = ["GetPreferredAllocation one,three,two", "Allocate three,two", "PreStartContainer three,two"];
    assert_eq!(plugin.asked(), asked);
}

fn health(pod: &Value) -> Vec<(String, String)> {
    let all = pod["status"]["containerStatuses"][0]["allocatedResourcesStatus"][0]["resources"].as_array();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    all.into_iter().flatten().map(|one| (text(&one["resourceID"]), text(&one["health"]))).collect()
}

fn broken_devices_are_told_of(cluster: &Cluster, plugin: &DevicePlugin) {
    let is = |id: &str, health: &str| (id.to_owned(), health.to_owned());
    cluster.wait("pod owner", |pod| {
        (health(pod) == [is("three", "Healthy"), is("two", "Healthy")]).then_some(())
    });
    plugin.tell(&[("one", true), ("two", false), ("three", true)]);
    amounts(cluster, ("3", "2"));
    cluster.wait("pod owner", |pod| {
        (health(pod) == [is("three", "Healthy"), is("two", "Unhealthy")]).then_some(())
    });
}

/// The node counts two, of which one is taken: what it says is not what it can give.
fn more_than_there_is(cluster: &Cluster) {
    cluster.apply(&pod("greedy", 2));
    assert_eq!(cluster.pod_ended("greedy"), "Failed");
    let status = &cluster.json("pod greedy")["status"];
    assert!(
        ["UnexpectedAdmissionError", "OutOfvendor.example.com/gadget"]
            .contains(&status["reason"].as_str().unwrap()),
        "{status:#}"
    );
}

fn over_a_restart(cluster: &mut Cluster, plugin: &DevicePlugin) {
    cluster.stop("TERM");
    plugin.tell(&[("one", true), ("two", true), ("three", true)]);
    cluster.start();
    // The socket is a new one, at which plugins register again.
    amounts(cluster, ("0", "0"));
    plugin.register(RESOURCE, "v1beta1").unwrap();
    amounts(cluster, ("3", "3"));
    cluster.apply(&pod("next", 1));
    cluster.pod_ready("next");
    assert_eq!(cluster.exec("next", "echo $VENDOR_IDS").ok(), "one\n");
}
