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

/// Another server, which says where it is, as knarr's do.
const OTHER: &str = "
apiVersion: coordination.k8s.io/v1
kind: Lease
metadata:
  name: apiserver-other
  namespace: kube-system
  labels: {apiserver.kubernetes.io/identity: kube-apiserver}
  annotations: {knarr.io/api-addresses: '10.99.0.77,2001:db8:99::77', knarr.io/api-port: '6443'}
spec: {holderIdentity: other, leaseDurationSeconds: 3600, renewTime: '2099-01-01T00:00:00.000000Z'}
";

/// Where the API is served, by what the cluster says.
fn endpoints(cluster: &Cluster) -> Vec<String> {
    let slice = cluster.json("endpointslice kubernetes");
    let all = slice["endpoints"].as_array().into_iter().flatten();
    all.filter_map(|one| Some(one["addresses"][0].as_str()?.to_owned())).collect()
}

#[test]
fn every_server_that_lives_is_an_endpoint() {
    let mut cluster = Cluster::prepared(&["--disable-agent"]);
    cluster.tell(&["--leader-elect"]);
    cluster.start();
    let are = |cluster: &Cluster, addresses: &[&str]| {
        let began = base::clock::instant();
        wait_for("endpoints", SOON, || (endpoints(cluster) == addresses).then_some(()));
        began.elapsed()
    };
    let (own, both) = (["10.99.0.2"], ["10.99.0.2", "10.99.0.77"]);
    are(&cluster, &own);
    for _ in 0..2 {
        cluster.apply(OTHER);
        let mut sorted = Vec::new();
        wait_for("both", SOON, || {
            sorted = endpoints(&cluster);
            sorted.sort();
            (sorted == both).then_some(())
        });
        let v6 = cluster.json("endpointslice kubernetes-ipv6");
        assert_eq!(v6["endpoints"][0]["addresses"][0], "2001:db8:99::77");
        cluster.kubectl("delete lease -n kube-system apiserver-other");
        assert!(are(&cluster, &own) < Duration::from_secs(5), "it took its Lease back");
        assert!(cluster.json("endpointslice kubernetes-ipv6").is_null());
    }
    cluster.apply(OTHER);
    wait_for("both", SOON, || (endpoints(&cluster).len() == 2).then_some(()));
    let lost = are(&cluster, &own);
    eprintln!("a dead server was an endpoint for {lost:?} more");
    assert!(lost > Duration::from_secs(25), "{lost:?}");
    let uid = |cluster: &Cluster| {
        let leases = cluster.json("lease -n kube-system -l kubernetes.io/hostname");
        assert_eq!(leases["items"].as_array().unwrap().len(), 1);
        leases["items"][0]["metadata"]["uid"].as_str().unwrap().to_owned()
    };
    let before = uid(&cluster);
    assert_eq!(cluster.stop("TERM"), 0);
    cluster.start();
    wait_for("a Lease of its own", SOON, || {
        let there = cluster.json("lease -n kube-system -l kubernetes.io/hostname");
        (there["items"].as_array()?.len() == 1).then_some(())
    });
    assert_ne!(uid(&cluster), before, "it took its Lease back as it stopped");
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
