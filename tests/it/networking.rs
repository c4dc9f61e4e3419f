//! What Kubernetes expects of a cluster's network, with real pods: who reaches whom, and Services that change what they
//! are.

mod changes;
mod endpoints;

use crate::support::cluster::{Cluster, IMAGE, SOON};
use crate::support::process::wait_for;
use crate::support::spots::{self, Heard, Spot};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

/// The sandbox's address, which is the node's.
const NODE: &str = "10.99.0.2";
const PODS: [&str; 3] = ["web-0", "web-1", "web-2"];

/// A node with three pods that say who they are, by HTTP at port 80, TCP at 8080 and 9090, and UDP at 8081; and a client.
struct Rig {
    cluster: Cluster,
    pods: Vec<Spot>,
    client: Spot,
    node: Spot,
}

impl Rig {
    fn new() -> Self {
        let cluster = Cluster::new();
        let serve = "echo $HOSTNAME > /www/name; exec httpd -f -p 80 -h /www";
        let pod = |name: &str, command: &str, label: &str| {
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": label}},
                "spec": {"terminationGracePeriodSeconds": 0, "containers": [
                    {"name": "main", "image": IMAGE, "command": ["sh", "-c", command]}]}})
        };
        let mut items: Vec<Value> = PODS.iter().map(|name| pod(name, serve, "web")).collect();
        items.push(pod("client", "exec sleep 100000", "client"));
        let rig_pods = json!({"apiVersion": "v1", "kind": "List", "items": items});
        cluster.apply(&rig_pods.to_string());
        PODS.iter().for_each(|name| cluster.pod_ready(name));
        cluster.pod_ready("client");
        let pods: Vec<Spot> = PODS.iter().map(|name| inside(&cluster, name)).collect();
        pods.iter().for_each(|pod| pod.serve(&[8080, 9090], &[8081]));
        let (client, node) = (inside(&cluster, "client"), spots::node(&cluster.sandbox));
        Self { cluster, pods, client, node }
    }

    fn apply(&self, object: &Value) {
        self.cluster.apply(&object.to_string());
    }

    /// Makes a Service for the pods of the rig; gives it as it was made.
    fn service(&self, name: &str, spec: &Value) -> Value {
        let mut all = json!({"selector": {"app": "web"}, "ports": [{"port": 80}]});
        for (key, value) in spec.as_object().unwrap() {
            all[key] = value.clone();
        }
        self.apply(&json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": all}));
        self.cluster.json(&format!("service {name}"))
    }

    fn patch(&self, name: &str, spec: &Value) -> Value {
        let patch = json!({"spec": spec}).to_string();
        self.cluster.try_kubectl(&["patch", "service", name, "--type=merge", "-p", &patch]).ok();
        self.cluster.json(&format!("service {name}"))
    }

    /// Who answers the client over HTTP; "" where nobody does.
    fn get(&self, authority: &str) -> String {
        let script = format!("curl -sf --max-time 2 http://{authority}/name");
        self.cluster.exec("client", &script).stdout.trim().to_owned()
    }

    /// Waits until somebody answers.
    #[track_caller]
    fn reached(&self, authority: &str) {
        let what = format!("an answer from {authority}");
        wait_for(&what, SOON, || PODS.contains(&self.get(authority).as_str()).then_some(()));
    }
}

/// Where a pod is, to work within its network.
fn inside(cluster: &Cluster, pod: &str) -> Spot {
    let link = cluster.exec(pod, "readlink /proc/self/ns/net").ok();
    let inode: u64 = link.trim().trim_start_matches("net:[").trim_end_matches(']').parse().unwrap();
    let ours = |path: &PathBuf| fs::metadata(path).is_ok_and(|found| found.ino() == inode);
    let all = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path().join("ns/net"));
    let path = all.into_iter().find(ours).unwrap_or_else(|| panic!("nobody is in the network of {pod}"));
    let ip = cluster.json(&format!("pod {pod}"))["status"]["podIP"].as_str().unwrap().to_owned();
    spots::inside(pod, &path, &[&ip])
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn cluster_ip(service: &Value) -> String {
    text(&service["spec"]["clusterIP"])
}

fn node_port(service: &Value) -> String {
    format!("{NODE}:{}", service["spec"]["ports"][0]["nodePort"])
}

#[test]
fn networks_are_as_kubernetes_expects() {
    let rig = Rig::new();
    endpoints::pods_reach_pods(&rig);
    endpoints::nodes_reach_pods(&rig);
    endpoints::slices_of_several_ports(&rig);
    endpoints::slices_of_several_addresses(&rig);
    endpoints::ports_of_the_node(&rig);
    endpoints::soon_there(&rig);
    endpoints::proxied_methods(&rig);
    changes::node_ports(&rig);
    changes::protocols(&rig);
    changes::to_and_from_external_names(&rig);
    changes::affinity(&rig);
    changes::affinity_is_switched(&rig);
    changes::name_servers_of_a_pod(&rig);
}
