//! What a node has, what its pods may use of it, and what becomes of those that use more.

use crate::support::cluster::{Cluster, SOON};
use crate::support::image;
use crate::support::process::wait_for;
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

const SHARED: &str = include_str!("../data/resources.yaml");

#[test]
fn a_node_shares_out_what_its_settings_leave() {
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

const EVICTED: &str = include_str!("../data/evicted.yaml");

/// What the machine has, as its kernel says.
fn memory_bytes() -> i64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<i64>().unwrap() * 1024
}

#[test]
fn pods_are_evicted_when_the_node_runs_short() {
    let mut cluster = Cluster::prepared(&[]);
    let drop_ins = cluster.sandbox.folder.join("kubelet.conf.d");
    fs::create_dir(&drop_ins).unwrap();
    // Pods have 600 MiB together, of which 500 are to stay free.
    let reserved = format!("kube-reserved=memory={}", memory_bytes() - (600 << 20));
    let folder = format!("config-dir={}", drop_ins.display());
    cluster.tell_kubelet(&[
        &reserved,
        &folder,
        "eviction-hard=memory.available<500Mi",
        "eviction-pressure-transition-period=30s",
        "volume-stats-agg-period=1s",
    ]);
    cluster.start();
    who_takes_too_much_disk_is_evicted(&cluster);
    who_takes_most_memory_is_evicted(&cluster);
    a_full_disk_costs_images_and_then_pods(&mut cluster, &drop_ins);
}

/// Waits for a pod that has failed; gives its status.
fn failed(cluster: &Cluster, pod: &str) -> Value {
    cluster.wait(&format!("pod {pod}"), |pod| {
        (pod["status"]["phase"] == "Failed").then(|| pod["status"].clone())
    })
}

/// Waits for the end of an evicted pod; gives its message.
fn eviction(cluster: &Cluster, pod: &str) -> String {
    let status = failed(cluster, pod);
    assert_eq!(status["reason"], "Evicted", "{status:#}");
    let message = status["message"].as_str().unwrap().to_owned();
    assert_eq!(cluster.event(pod, "Evicted").trim(), message.trim());
    message
}

fn condition(status: &Value, kind: &str) -> Value {
    let all = status["conditions"].as_array().into_iter().flatten();
    all.into_iter().find(|one| one["type"] == kind).cloned().unwrap_or_default()
}

/// Waits until the node's condition has this status; gives it.
fn node_condition(cluster: &Cluster, kind: &str, status: &str) -> Value {
    cluster.wait("node node-1", |node| {
        let found = condition(&node["status"], kind);
        (found["status"] == status).then_some(found)
    })
}

fn who_takes_too_much_disk_is_evicted(cluster: &Cluster) {
    cluster.apply(EVICTED);
    let message = eviction(cluster, "volume");
    assert_eq!(message, "Usage of EmptyDir volume \"v\" exceeds the limit \"4Mi\". ");
    let message = eviction(cluster, "files");
    assert_eq!(message, "Pod ephemeral local storage usage exceeds the total limit of containers 4Mi. ");
    let message = eviction(cluster, "one-of-two");
    assert_eq!(message, "Container greedy exceeded its local ephemeral storage limit \"4Mi\". ");
    cluster.pod_ready("modest");
}

const HOG: &str = r#"{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "hog"}, "spec": {
  "containers": [{"name": "main", "image": "knarr.test/busybox:1", "imagePullPolicy": "Never",
    "command": ["sh", "-c", "dd if=/dev/zero of=/memory/file bs=1M count=160; sleep 3600"],
    "resources": {"requests": {"memory": "8Mi"}},
    "volumeMounts": [{"name": "m", "mountPath": "/memory"}]}],
  "volumes": [{"name": "m", "emptyDir": {"medium": "Memory"}}]}}"#;

/// A pod that names its node: the scheduler would not send it there.
fn sent(name: &str) -> String {
    let container = json!({
        "name": "c", "image": "knarr.test/busybox:1", "imagePullPolicy": "Never", "command": ["sleep", "3600"],
    });
    let spec = json!({"nodeName": "node-1", "containers": [container]});
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}).to_string()
}

fn who_takes_most_memory_is_evicted(cluster: &Cluster) {
    cluster.apply(HOG);
    let pressure = node_condition(cluster, "MemoryPressure", "True");
    assert_eq!(pressure["reason"], "KubeletHasInsufficientMemory", "{pressure:#}");
    cluster.apply(&sent("refused"));
    let refused = failed(cluster, "refused");
    let told = "Pod was rejected: The node had condition: [MemoryPressure]. ";
    assert_eq!(refused["message"], told, "{refused:#}");
    let message = eviction(cluster, "hog");
    let begin = "The node was low on resource: memory. Threshold quantity: 500Mi, available: ";
    assert!(message.starts_with(begin), "{message}");
    assert!(message.contains(" request is 8Mi, has larger consumption of memory. "), "{message}");
    let disruption = condition(&cluster.json("pod hog")["status"], "DisruptionTarget");
    assert_eq!(disruption["reason"], "TerminationByKubelet", "{disruption:#}");
    let events = cluster.json("events --field-selector involvedObject.name=hog,reason=Evicted");
    let annotations = &events["items"][0]["metadata"]["annotations"];
    assert_eq!(annotations["offending_containers"], "main", "{events:#}");
    let relieved = node_condition(cluster, "MemoryPressure", "False");
    assert_eq!(relieved["reason"], "KubeletHasSufficientMemory");
    cluster.pod_ready("modest");
}

fn images(cluster: &Cluster) -> String {
    cluster.json("node node-1")["status"]["images"].to_string()
}

fn a_full_disk_costs_images_and_then_pods(cluster: &mut Cluster, drop_ins: &Path) {
    // An image that did not come with the node, and that nobody uses.
    image::write(&cluster.sandbox.folder.join("unused.tar"), "knarr.test/unused:1", "nobody reads this\n");
    let import = "ctr --address run/containerd/containerd.sock --namespace k8s.io images import unused.tar";
    cluster.sandbox.sh(import).ok();
    cluster.stop("TERM");
    let settings = json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "imageMinimumGCAge": "1ms",
        "evictionSoft": {"nodefs.available": "99.99%"},
        "evictionSoftGracePeriod": {"nodefs.available": "20s"},
        "evictionMaxPodGracePeriod": 3,
    });
    fs::write(drop_ins.join("disk.conf"), settings.to_string()).unwrap();
    cluster.start();
    wait_for("the image to be shown", SOON, || images(cluster).contains("knarr.test/unused").then_some(()));
    node_condition(cluster, "DiskPressure", "True");
    let message = eviction(cluster, "modest");
    let begin = "The node was low on resource: ephemeral-storage. Threshold quantity: ";
    assert!(message.starts_with(begin), "{message}");
    let message = cluster.event("node-1", "EvictionThresholdMet");
    assert!(message.starts_with("Attempting to reclaim "), "{message}");
    wait_for("the image to go, and those that came with the node to stay", SOON, || {
        let left = images(cluster);
        (!left.contains("knarr.test/unused") && left.contains("knarr.test/busybox")).then_some(())
    });
}

/// A logind: busctl tells its limit and what is written into a file, systemd-inhibit holds nothing up.
fn fake_logind(folder: &Path) {
    fs::create_dir(folder).unwrap();
    let script = |name: &str, text: String| {
        let path = folder.join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    };
    let news = folder.join("news").display().to_string();
    let busctl = format!(
        "#!/bin/sh\ncase \"$*\" in\n*get-property*) echo 't 60000000' ;;\n*) exec tail -n +1 -f {news} ;;\nesac\n"
    );
    script("busctl", busctl);
    let lock = folder.join("lock").display().to_string();
    let inhibit = format!("#!/bin/sh\necho \"$*\" > {lock}\nexec sleep infinity\n");
    script("systemd-inhibit", inhibit);
    fs::write(news, "").unwrap();
}

#[test]
fn pods_end_in_order_when_the_machine_is_shut_down() {
    let mut cluster = Cluster::prepared(&[]);
    let logind = cluster.sandbox.folder.join("logind");
    fake_logind(&logind);
    let settings = json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "shutdownGracePeriod": "40s",
        "shutdownGracePeriodCriticalPods": "20s",
    });
    let file = cluster.sandbox.folder.join("kubelet.json");
    fs::write(&file, settings.to_string()).unwrap();
    cluster.tell_kubelet(&[&format!("config={}", file.display())]);
    cluster.find_first(&logind);
    cluster.start();
    cluster.apply(include_str!("../data/shutdown.yaml"));
    cluster.kubectl("wait pod/plain --for=condition=Ready --timeout=80s");
    cluster.kubectl("wait pod/critical --for=condition=Ready --timeout=80s -n kube-system");
    let lock = fs::read_to_string(logind.join("lock")).unwrap();
    assert!(lock.starts_with("--what=shutdown --who=kubelet --mode=delay"), "{lock}");
    says(&logind, true);
    let ready = node_condition(&cluster, "Ready", "False");
    assert_eq!(
        (&ready["reason"], &ready["message"]),
        (&json!("KubeletNotReady"), &json!("node is shutting down"))
    );
    assert_eq!(cluster.event("node-1", "NodeShutdown"), "Shutdown manager detected shutdown event");
    let (plain, critical) = (
        ended_with_the_machine(&cluster, "plain"),
        ended_with_the_machine(&cluster, "critical -n kube-system"),
    );
    // The plain one takes three seconds to end, and the critical one is not told before.
    assert!(plain <= critical, "{plain} {critical}");
    cluster.apply(&sent("late"));
    assert_eq!(failed(&cluster, "late")["reason"], "NodeShutdown");
    says(&logind, false);
    node_condition(&cluster, "Ready", "True");
}

/// Has the fake logind say that a shutdown begins, or was called off.
fn says(logind: &Path, begins: bool) {
    let payload = json!({"type": "b", "data": [begins]});
    let signal = json!({"type": "signal", "member": "PrepareForShutdown", "payload": payload});
    let mut news = fs::File::options().append(true).open(logind.join("news")).unwrap();
    std::io::Write::write_all(&mut news, format!("{signal}\n").as_bytes()).unwrap();
}

/// When a pod's container ended, of a pod that was ended with the machine.
fn ended_with_the_machine(cluster: &Cluster, pod: &str) -> String {
    let status = failed(cluster, pod);
    let message = "Pod was terminated in response to imminent node shutdown.";
    assert_eq!(
        (&status["reason"], &status["message"]),
        (&json!("Terminated"), &json!(message)),
        "{status:#}"
    );
    assert_eq!(condition(&status, "DisruptionTarget")["message"], message, "{status:#}");
    let ended = &status["containerStatuses"][0]["state"]["terminated"]["finishedAt"];
    ended.as_str().unwrap_or_default().to_owned()
}
