//! What a node has, what its pods may use of it, and what becomes of those that use more.

use crate::support::cluster::Cluster;
use serde_json::{Value, json};

const SHARED: &str = include_str!("../data/resources.yaml");

#[test]
fn res_a_node_shares_out_what_its_settings_leave() {
    let mut cluster = Cluster::with_kubelet_args(&[
        "max-pods=17",
        "kube-reserved=cpu=100m,memory=64Mi,pid=100",
        "eviction-hard=memory.available<36Mi,nodefs.available<1Mi",
        "pod-max-pids=150",
        "cpu-cfs-quota-period=50ms",
        "node-labels=example.com/told=yes",
        "register-with-taints=example.com/soft=x:PreferNoSchedule",
    ]);
    cluster.apply(SHARED);
    what_the_node_says(&cluster);
    what_its_cgroups_say(&cluster);
    what_cannot_be_honoured_is_refused(&mut cluster);
}

fn what_the_node_says(cluster: &Cluster) {
    let node = cluster.json("node node-1");
    let (capacity, allocatable) = (&node["status"]["capacity"], &node["status"]["allocatable"]);
    assert_eq!((&capacity["pods"], &allocatable["pods"]), (&json!("17"), &json!("17")), "{node:#}");
    let quantity = |value: &Value| api::quantity::parse(value.as_str().unwrap()).unwrap();
    let less = |name: &str| quantity(&capacity[name]).minus(quantity(&allocatable[name]));
    assert_eq!(less("cpu").to_milli(), 100, "{node:#}");
    let huge =
        quantity(&capacity["hugepages-2Mi"]).to_units() + quantity(&capacity["hugepages-1Gi"]).to_units();
    assert_eq!(less("memory").to_units(), (100 << 20) + huge, "{node:#}");
    assert_eq!(less("ephemeral-storage").to_units(), 1 << 20, "{node:#}");
    assert_eq!(node["metadata"]["labels"]["example.com/told"], "yes");
    assert_eq!(node["spec"]["taints"][0]["key"], "example.com/soft");
    let message = cluster.event("node-1", "NodeAllocatableEnforced");
    assert_eq!(message, "Updated Node Allocatable limit across pods");
}

/// The first of these files that the machine has, for each version of cgroups.
fn cgroup(cluster: &Cluster, below: &str, files: &[&str]) -> String {
    let script = format!(
        "for file in {}; do for at in /sys/fs/cgroup /sys/fs/cgroup/*; do cat $at/{below}/$file 2>/dev/null && exit; done; done",
        files.join(" ")
    );
    cluster.sandbox.sh(&script).ok().trim().to_owned()
}

fn what_its_cgroups_say(cluster: &Cluster) {
    let node = cluster.json("node node-1");
    let memory = api::quantity::parse(node["status"]["capacity"]["memory"].as_str().unwrap()).unwrap();
    let all = cgroup(cluster, "kubepods", &["memory.limit_in_bytes", "memory.max"]);
    // The kernel counts in pages.
    assert_eq!(all.parse::<i64>().unwrap() / 4096, (memory.to_units() - (64 << 20)) / 4096);
    let pids = cgroup(cluster, "kubepods", &["pids.max"]);
    let most =
        cluster.sandbox.sh("sort -n /proc/sys/kernel/pid_max /proc/sys/kernel/threads-max | head -n 1").ok();
    assert_eq!(pids.parse::<i64>().unwrap(), most.trim().parse::<i64>().unwrap() - 100);
    cluster.pod_ready("shared");
    let uid = cluster.json("pod shared")["metadata"]["uid"].as_str().unwrap().to_owned();
    let pod = format!("kubepods/burstable/pod{uid}");
    assert_eq!(cgroup(cluster, &pod, &["memory.limit_in_bytes", "memory.max"]), (72 << 20).to_string());
    assert_eq!(cgroup(cluster, &pod, &["pids.max"]), "150");
    let quota = cgroup(cluster, &pod, &["cpu.cfs_quota_us", "cpu.max"]);
    assert_eq!(quota.split(' ').next(), Some("30000"), "half a processor and its overhead, of 50 ms");
    // The limit is felt: no more processes can be started.
    let forks = cluster.exec("shared", "for i in $(seq 200); do sleep 60 & done 2>&1; wait");
    assert!(forks.stdout.contains("can't fork") || forks.stderr.contains("can't fork"), "{forks:?}");
}

fn what_cannot_be_honoured_is_refused(cluster: &mut Cluster) {
    cluster.stop("TERM");
    let told = |argument: &str| cluster.fails(&["--kubelet-arg", argument]).stderr;
    let refused = told("read-only-port=10255");
    assert!(refused.contains("readOnlyPort cannot be honoured"), "{refused}");
    let unknown = told("max-pod=3");
    assert!(unknown.contains("unknown flag: --max-pod"), "{unknown}");
    let greedy = told("system-reserved=memory=900Ti");
    assert!(greedy.contains("invalid Node Allocatable configuration. Resource \"memory\""), "{greedy}");
}
