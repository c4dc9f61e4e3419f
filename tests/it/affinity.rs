//! What containers have to themselves on a real node: processors and memory, what becomes of the others, and who is
//! told of it.

use crate::support::cluster::{Cluster, SOON, container_id, restarts};
use crate::support::device_plugin::DevicePlugin;
use crate::support::pod_resources::{
    Allocatable, Container, Empty, GetRequest, GetResponse, ListResponse, ask, near,
};
use crate::support::process::wait_for;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

/// A pod that sleeps; its deletion is waited for until the node has taken back what it had.
fn sleeper(name: &str, resources: &Value) -> String {
    let spec = json!({"terminationGracePeriodSeconds": 1, "container": {"resources": resources}});
    crate::kubelet::sleeper(name, &spec)
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
    let metrics = cluster.kubectl("get --raw /api/v1/nodes/node-1/proxy/metrics");
    for told in [
        "kubelet_cpu_manager_exclusive_cpu_allocation_count 1",
        "kubelet_cpu_manager_pinning_requests_total 1",
        "kubelet_topology_manager_admission_requests_total ",
    ] {
        assert!(metrics.lines().any(|line| line.starts_with(told)), "no {told}");
    }
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

const DEVICE: &str = "vendor.example.com/gadget";

fn kubelet(cluster: &Cluster) -> PathBuf {
    cluster.sandbox.folder.join("kubelet")
}

#[test]
fn memory_and_devices_are_on_the_same_nodes() {
    let mut cluster = Cluster::with_kubelet_args(&[
        "cpu-manager-policy=static",
        "reserved-cpus=0",
        "memory-manager-policy=Static",
        // What eviction keeps free counts too.
        "kube-reserved=memory=156Mi",
        "reserved-memory=0:memory=256Mi",
        "topology-manager-policy=single-numa-node",
        "topology-manager-scope=pod",
    ]);
    let folder = kubelet(&cluster).join("device-plugins");
    wait_for("the kubelet's socket", SOON, || folder.join("kubelet.sock").exists().then_some(()));
    let plugin = DevicePlugin::start(&folder, &[]);
    plugin.tell_near("gadget-1", 0);
    plugin.register(DEVICE, "v1beta1").unwrap();
    has_devices(&cluster);
    cluster.apply(&whole("whole"));
    cluster.pod_ready("whole");
    its_memory_is_of_one_node(&cluster);
    what_others_are_told(&cluster);
    let before = told(&cluster, "whole").unwrap();
    cluster.stop("KILL");
    cluster.start();
    assert_eq!(told(&cluster, "whole").unwrap(), before);
    plugin.register(DEVICE, "v1beta1").unwrap();
    has_devices(&cluster);
    cluster.kubectl("delete pod whole --wait=true");
    what_is_far_is_rejected(&cluster, &plugin);
    let kept = fs::read_to_string(kubelet(&cluster).join("memory_manager_state")).unwrap();
    let kept: Value = serde_json::from_str(&kept).unwrap();
    assert!(kept["entries"].is_null() && kept["machineState"]["0"]["numberOfAssignments"] == 0, "{kept:#}");
    cluster.stop("TERM");
    let told = cluster.fails(&["--kubelet-arg", "kube-reserved=memory=200Mi"]).stderr;
    let why = "the total amount \"256Mi\" of type \"memory\" is not equal to the value \"300Mi\"";
    assert!(told.contains(why), "{told}");
    let told = cluster.fails(&["--kubelet-arg", "memory-manager-policy=BestEffort"]).stderr;
    assert!(told.contains("policy \"BestEffort\" is not available for platform \"linux\""), "{told}");
}

fn has_devices(cluster: &Cluster) {
    cluster.wait("node node-1", |node| (node["status"]["allocatable"][DEVICE] == "1").then_some(()));
}

/// A pod that has a processor, memory and a device to itself.
fn whole(name: &str) -> String {
    sleeper(name, &json!({"limits": {"cpu": "1", "memory": "64Mi", DEVICE: "1"}}))
}

fn its_memory_is_of_one_node(cluster: &Cluster) {
    assert_eq!(allowed(cluster, "whole", "Mems"), BTreeSet::from([0]));
    // A machine with one node says that anyway: what the runtime was told says more.
    let id = container_id(&cluster.json("pod whole"));
    let info =
        format!("ctr --address run/containerd/containerd.sock --namespace k8s.io containers info {id}");
    let info: Value = serde_json::from_str(&cluster.sandbox.sh(&info).ok()).unwrap();
    assert_eq!(info["Spec"]["linux"]["resources"]["cpu"]["mems"], "0", "{info:#}");
}

/// What the node tells of a pod's container.
fn told(cluster: &Cluster, pod: &str) -> Result<Container, String> {
    let request = GetRequest { name: pod.to_owned(), namespace: "default".to_owned() };
    let answer: GetResponse = ask(&kubelet(cluster), "Get", request)?;
    Ok(answer.pod.unwrap().containers.remove(0))
}

fn what_others_are_told(cluster: &Cluster) {
    let mode = |path: &str| fs::metadata(kubelet(cluster).join(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("pod-resources"), mode("pod-resources/kubelet.sock")), (0o750, 0o600));
    let own = told(cluster, "whole").unwrap();
    let cpus: Vec<i64> = cpus(cluster, "whole").into_iter().map(i64::from).collect();
    assert_eq!((own.name.as_str(), own.cpus.clone()), ("main", cpus));
    let memory = &own.memory[0];
    assert_eq!((memory.kind.as_str(), memory.size, near(&memory.topology)), ("memory", 64 << 20, vec![0]));
    let device = &own.devices[0];
    assert_eq!((device.resource.as_str(), near(&device.topology)), (DEVICE, vec![0]));
    assert_eq!((device.ids.as_slice(), own.claims.len()), (&["gadget-1".to_owned()][..], 0));
    let list: ListResponse = ask(&kubelet(cluster), "List", Empty {}).unwrap();
    let shown: Vec<(&str, &Container)> =
        list.pods.iter().map(|pod| (pod.name.as_str(), &pod.containers[0])).collect();
    assert_eq!(shown, [("whole", &own)]);
    let all: Allocatable = ask(&kubelet(cluster), "GetAllocatableResources", Empty {}).unwrap();
    assert!(!all.cpus.contains(&0) && all.cpus.contains(&own.cpus[0]), "{all:?}");
    assert_eq!((all.devices.len(), near(&all.memory[0].topology)), (1, vec![0]));
    let missing = told(cluster, "nobody").unwrap_err();
    assert_eq!(missing, "pod nobody in namespace default not found");
}

fn what_is_far_is_rejected(cluster: &Cluster, plugin: &DevicePlugin) {
    // No machine of these tests has that many nodes.
    plugin.tell_near("gadget-2", 63);
    wait_for("the other device", SOON, || {
        let all: Allocatable = ask(&kubelet(cluster), "GetAllocatableResources", Empty {}).ok()?;
        (all.devices[0].ids == ["gadget-2"]).then_some(())
    });
    cluster.apply(&whole("far"));
    assert_eq!(cluster.pod_ended("far"), "Failed");
    let status = cluster.json("pod far")["status"].clone();
    assert_eq!(status["reason"], "TopologyAffinityError", "{status:#}");
    let message = "Pod was rejected: Resources cannot be allocated with Topology locality";
    assert!(status["message"].as_str().unwrap().starts_with(message), "{status:#}");
    assert!(told(cluster, "far").unwrap().cpus.is_empty());
}
