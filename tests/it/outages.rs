//! knarr and containerd stop, die and are replaced under fifty pods, which must not notice.

use crate::support::binary;
use crate::support::cluster::{Cluster, SOON, name};
use crate::support::process::wait_for;
use crate::support::sandbox::Background;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;

const PODS: usize = 50;
const SELECTOR: &str = "app=many";

const MANIFEST: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: many}
spec:
  replicas: 50
  selector: {matchLabels: {app: many}}
  template:
    metadata: {labels: {app: many}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - name: main
        image: knarr.test/busybox:1
        command: [sleep, infinity]
        readinessProbe: {exec: {command: ["true"]}, periodSeconds: 30}
"#;

#[test]
fn pods_outlive_what_runs_them() {
    let mut cluster = Cluster::new();
    cluster.apply(MANIFEST);
    cluster.kubectl("rollout status deployment/many --timeout=85s");
    let before = statuses(&cluster);
    for signal in ["TERM", "KILL"] {
        let mut session = session(&cluster, &before, signal);
        cluster.stop(signal);
        is_cut(&mut session);
        cluster.start();
        unchanged(&cluster, &before);
    }
    upgrade(&mut cluster);
    unchanged(&cluster, &before);
    let mut session = session(&cluster, &before, "containerd");
    restart_containerd(&cluster);
    is_cut(&mut session);
    unchanged(&cluster, &before);
    works(&cluster, &before);
}

/// What is told of each pod, with every time of a change in it.
fn statuses(cluster: &Cluster) -> BTreeMap<String, Value> {
    let pods = cluster.pods_ready(SELECTOR, PODS);
    pods.iter().map(|pod| (name(pod), pod["status"].clone())).collect()
}

/// The same containers run, and nothing about them was told anew.
#[track_caller]
fn unchanged(cluster: &Cluster, before: &BTreeMap<String, Value>) {
    // A pod that is made now is worked on when all others have been looked at.
    cluster.apply(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: later}\nspec:\n  terminationGracePeriodSeconds: 0\n  \
         containers: [{name: main, image: \"knarr.test/busybox:1\", command: [sleep, infinity]}]",
    );
    cluster.pod_ready("later");
    cluster.kubectl("delete pod later");
    let after = statuses(cluster);
    for (name, status) in before {
        assert_eq!(after.get(name), Some(status), "{name} has changed");
    }
}

fn first(before: &BTreeMap<String, Value>) -> &str {
    before.keys().next().unwrap()
}

/// A command in a container that goes on until it is cut.
fn session(cluster: &Cluster, before: &BTreeMap<String, Value>, log: &str) -> Background {
    let log = format!("{log}.log");
    let session = cluster.kubectl_background(&log, &format!("exec {} -- tail -f /etc/passwd", first(before)));
    wait_for("the session", SOON, || said(cluster, &log).contains("root:").then_some(()));
    session
}

fn said(cluster: &Cluster, log: &str) -> String {
    fs::read_to_string(cluster.sandbox.folder.join(log)).unwrap()
}

/// The caller does not wait for what will never come. By which code it ends is its own affair: older ones take a
/// stream that ends without a status for a success.
fn is_cut(session: &mut Background) {
    session.wait(SOON);
}

/// Another executable takes over.
fn upgrade(cluster: &mut Cluster) {
    let newer = cluster.sandbox.folder.join("newer-knarr");
    fs::copy(binary(), &newer).unwrap();
    cluster.stop("TERM");
    cluster.start_as(&newer);
}

/// containerd dies: knarr starts it again, and it finds its shims.
fn restart_containerd(cluster: &Cluster) {
    let pid = || cluster.sandbox.sh("ps -C containerd -o pid=").stdout.trim().to_owned();
    let old = pid();
    cluster.sandbox.sh(&format!("kill -KILL {old}")).ok();
    wait_for("another containerd", SOON, || {
        let new = pid();
        (!new.is_empty() && new != old).then_some(())
    });
    cluster.wait("node node-1", |node| {
        let conditions = node["status"]["conditions"].as_array()?;
        conditions.iter().any(|one| one["type"] == "Ready" && one["status"] == "True").then_some(())
    });
}

/// Pods are still cared for: they can be entered, and replaced.
fn works(cluster: &Cluster, before: &BTreeMap<String, Value>) {
    let victim = first(before);
    assert_eq!(cluster.exec(victim, "echo inside").ok(), "inside\n");
    cluster.kubectl(&format!("delete pod {victim}"));
    let pods = cluster.pods_ready(SELECTOR, PODS);
    assert!(pods.iter().all(|pod| name(pod) != victim));
}
