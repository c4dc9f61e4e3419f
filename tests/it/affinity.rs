//! What containers have to themselves on a real node: processors and memory, what becomes of the others, and who is
//! told of it.

use crate::support::cluster::{Cluster, SOON, restarts};
use crate::support::process::wait_for;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;

/// A pod that sleeps.
fn sleeper(name: &str, resources: &Value) -> String {
    let container = json!({
        "name": "main", "image": "knarr.test/busybox:1", "command": ["sleep", "infinity"],
        "resources": resources,
    });
    let spec = json!({"terminationGracePeriodSeconds": 0, "nodeName": "node-1", "containers": [container]});
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}).to_string()
}

/// Numbers as the kernel lists them.
fn numbers(text: &str) -> BTreeSet<u32> {
    let parts = text.trim().split(',').filter(|part| !part.is_empty());
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        first.parse().unwrap()..=last.parse::<u32>().unwrap()
    };
    parts.flat_map(range).collect()
}

/// What the kernel says that a pod's first process may use.
fn allowed(cluster: &Cluster, pod: &str, what: &str) -> BTreeSet<u32> {
    let script = format!("sed -n 's/^{what}_allowed_list:[[:space:]]*//p' /proc/1/status");
    numbers(&cluster.exec(pod, &script).ok())
}

fn cpus(cluster: &Cluster, pod: &str) -> BTreeSet<u32> {
    allowed(cluster, pod, "Cpus")
}

/// Waits until a pod has these processors.
#[track_caller]
fn has_cpus(cluster: &Cluster, pod: &str, wanted: &BTreeSet<u32>) {
    wait_for(&format!("{pod} to have {wanted:?}"), SOON, || (cpus(cluster, pod) == *wanted).then_some(()));
}

#[test]
fn processors_belong_to_one_container_alone() {
    let all = numbers(&fs::read_to_string("/sys/devices/system/cpu/online").unwrap());
    let mut cluster = Cluster::with_kubelet_args(&[
        "cpu-manager-policy=static",
        "reserved-cpus=0",
        "topology-manager-policy=restricted",
    ]);
    cluster.apply(&sleeper("shared", &json!({})));
    cluster.pod_ready("shared");
    assert_eq!(cpus(&cluster, "shared"), all);
    cluster.apply(&sleeper("own", &json!({"limits": {"cpu": "1", "memory": "32Mi"}})));
    cluster.pod_ready("own");
    let own = cpus(&cluster, "own");
    assert!(own.len() == 1 && !own.contains(&0), "{own:?}");
    let rest: BTreeSet<u32> = all.difference(&own).copied().collect();
    has_cpus(&cluster, "shared", &rest);
    cluster.apply(&sleeper("late", &json!({"limits": {"cpu": "50m"}, "requests": {"cpu": "0"}})));
    cluster.pod_ready("late");
    assert_eq!(cpus(&cluster, "late"), rest);
    nothing_else_limits_it(&cluster);
    one_too_many_is_rejected(&cluster, all.len());
    it_is_not_resized(&cluster);
    a_crash_forgets_nothing(&mut cluster, &own, &rest);
    cluster.kubectl("delete pod own --wait=true");
    for pod in ["shared", "late"] {
        has_cpus(&cluster, pod, &all);
    }
    other_settings_are_refused(&mut cluster);
}

/// Who has a processor to himself has no quota of its time.
fn nothing_else_limits_it(cluster: &Cluster) {
    let quota = |pod: &str| {
        let files = "/sys/fs/cgroup/cpu/cpu.cfs_quota_us /sys/fs/cgroup/cpu.max";
        let told = cluster.exec(pod, &format!("cat {files} 2>/dev/null; true")).ok();
        told.split_whitespace().next().unwrap_or_default().to_owned()
    };
    assert!(["-1", "max"].contains(&quota("own").as_str()), "{}", quota("own"));
    assert_eq!(quota("late"), "5000");
}

fn one_too_many_is_rejected(cluster: &Cluster, all: usize) {
    cluster.apply(&sleeper("many", &json!({"limits": {"cpu": (all - 1).to_string(), "memory": "32Mi"}})));
    assert_eq!(cluster.pod_ended("many"), "Failed");
    let status = cluster.json("pod many")["status"].clone();
    assert_eq!(status["reason"], "OutOfcpu", "{status:#}");
    cluster.kubectl("delete pod many --wait=true");
}

fn it_is_not_resized(cluster: &Cluster) {
    let less = json!({"requests": {"cpu": "500m"}, "limits": {"cpu": "500m"}});
    let patch = json!({"spec": {"containers": [{"name": "main", "resources": less}]}}).to_string();
    cluster.try_kubectl(&["patch", "pod", "own", "--subresource", "resize", "--patch", &patch]).ok();
    let condition = cluster.wait("pod own", |pod| {
        let all = pod["status"]["conditions"].as_array()?;
        all.iter().find(|one| one["type"] == "PodResizePending").cloned()
    });
    assert_eq!(condition["reason"], "Infeasible", "{condition:#}");
    let why = "Resize is infeasible for Guaranteed Pods alongside CPU Manager policy \"static\"";
    assert_eq!(condition["message"], why);
    assert!(cluster.event("own", "ResizeInfeasible").starts_with("Pod resize Infeasible: "));
}

fn a_crash_forgets_nothing(cluster: &mut Cluster, own: &BTreeSet<u32>, rest: &BTreeSet<u32>) {
    cluster.stop("KILL");
    cluster.start();
    assert_eq!(cpus(cluster, "own"), *own);
    has_cpus(cluster, "shared", rest);
    // What is made from now on knows of it.
    cluster.apply(&sleeper("new", &json!({})));
    cluster.pod_ready("new");
    assert_eq!(cpus(cluster, "new"), *rest);
    assert_eq!(restarts(&cluster.json("pod own")), 0);
    cluster.kubectl("delete pod new --wait=true");
}

fn other_settings_are_refused(cluster: &mut Cluster) {
    cluster.stop("TERM");
    let told = cluster.fails(&["--kubelet-arg", "cpu-manager-policy=none"]).stderr;
    assert!(
        told.contains("configured policy \"none\" differs from state checkpoint policy \"static\""),
        "{told}"
    );
    let told =
        cluster.fails(&["--kubelet-arg", "cpu-manager-policy-options=strict-cpu-reservation=true"]).stderr;
    assert!(told.contains("some of strictly reserved cpus: \"0\" are present in defaultCpuSet"), "{told}");
    let told = cluster.fails(&["--kubelet-arg", "cpu-manager-policy-options=align-by-socket=true"]).stderr;
    assert!(told.contains("CPU Manager Policy Alpha-level Options not enabled"), "{told}");
}
