//! Who runs controllers and scheduler where several servers may: whoever holds the Leases.

use crate::support::cluster::{Cluster, SOON};
use crate::support::process::wait_for;
use serde_json::{Value, json};
use std::time::Duration;

const LEASES: [&str; 2] = ["kube-controller-manager", "kube-scheduler"];

/// A node that nobody runs, and pods that stay on it all the same.
const MANIFEST: &str = "
apiVersion: v1
kind: Node
metadata: {name: nobody}
status: {allocatable: {pods: 9}, capacity: {pods: 9}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 1
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      tolerations: [{operator: Exists}]
      containers: [{name: main, image: any}]
";

fn lease(cluster: &Cluster, name: &str) -> Value {
    cluster.json(&format!("lease -n kube-system {name}"))["spec"].clone()
}

/// Waits until this server holds a Lease that was held by others so often; gives its holder.
fn held(cluster: &Cluster, name: &str, transitions: i64) -> String {
    wait_for(&format!("a holder of {name}"), SOON, || {
        let spec = lease(cluster, name);
        let holder = spec["holderIdentity"].as_str()?.to_owned();
        (holder.len() > 37 && spec["leaseTransitions"] == transitions).then_some(holder)
    })
}

/// How many pods there are, and how many of them have a node.
fn pods(cluster: &Cluster) -> (usize, usize) {
    let pods = cluster.pods("app=web");
    (pods.len(), pods.iter().filter(|pod| pod["spec"]["nodeName"] == "nobody").count())
}

fn has_pods(cluster: &Cluster, count: usize) {
    wait_for(&format!("{count} pods"), SOON, || (pods(cluster) == (count, count)).then_some(()));
}

#[test]
fn controllers_and_scheduler_run_where_their_leases_are_held() {
    let mut cluster = Cluster::prepared(&["--disable-agent"]);
    cluster.tell(&["--leader-elect"]);
    cluster.start();
    let holders = LEASES.map(|name| held(&cluster, name, 0));
    assert_ne!(holders[0], holders[1]);
    assert_eq!(lease(&cluster, LEASES[0])["leaseDurationSeconds"], json!(4));
    cluster.apply(MANIFEST);
    let room = r#"{"status":{"capacity":{"pods":"9"},"allocatable":{"pods":"9"}}}"#;
    cluster
        .try_kubectl(&["patch", "node", "nobody", "--subresource=status", "--type=merge", "-p", room])
        .ok();
    has_pods(&cluster, 1);
    somebody_else(&cluster);
    // Given back at an orderly stop, and good for four seconds after any other.
    for (transitions, signal, longest) in [(2, "TERM", 3), (3, "KILL", 5)] {
        let code = cluster.stop(signal);
        assert!(signal == "KILL" || code == 0, "{code}");
        let stopped = base::clock::instant();
        cluster.start();
        let started = stopped.elapsed();
        LEASES.iter().for_each(|name| drop(held(&cluster, name, transitions)));
        let took = stopped.elapsed();
        eprintln!("after {signal}: serves after {started:?}, leads after {took:?}");
        assert!(took < started + Duration::from_secs(longest), "{started:?} {took:?}");
        cluster.kubectl(&format!("scale deployment web --replicas={}", transitions + 1));
        has_pods(&cluster, usize::try_from(transitions).unwrap() + 1);
    }
    let events = cluster.json("events -n kube-system --field-selector reason=LeaderElection");
    assert!(events["items"].as_array().unwrap().len() >= LEASES.len());
}

/// While another holds the Leases nothing is done here; afterwards what was left is.
fn somebody_else(cluster: &Cluster) {
    let spec = r#"{"spec":{"holderIdentity":"else","leaseDurationSeconds":9}}"#;
    for name in LEASES {
        cluster.try_kubectl(&["patch", "lease", "-n", "kube-system", name, "--type=merge", "-p", spec]).ok();
    }
    // What it was at when it heard of it may be done still.
    cluster.sandbox.run(&["sleep", "1"]).ok();
    cluster.kubectl("scale deployment web --replicas=2");
    cluster.sandbox.run(&["sleep", "3"]).ok();
    assert_eq!(pods(cluster), (1, 1));
    assert_eq!(lease(cluster, LEASES[0])["holderIdentity"], json!("else"));
    LEASES.iter().for_each(|name| drop(held(cluster, name, 1)));
    has_pods(cluster, 2);
}
