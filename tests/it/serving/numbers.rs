//! The node's numbers, and who may read them.

use crate::support::cluster::{Cluster, SOON};
use crate::support::process::wait_for;
use serde_json::Value;

const MANIFEST: &str = r#"
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data}
spec:
  accessModes: [ReadWriteOnce]
  resources: {requests: {storage: 64Mi}}
---
apiVersion: v1
kind: Pod
metadata: {name: busy}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: worker
    image: knarr.test/busybox:1
    command: [sh, -c, "dd if=/dev/zero of=/scratch/file bs=1M count=3; echo said; while true; do :; done"]
    resources: {limits: {cpu: 100m, memory: 64Mi}}
    readinessProbe: {exec: {command: ["true"]}, periodSeconds: 1}
    volumeMounts: [{name: scratch, mountPath: /scratch}, {name: data, mountPath: /data}]
  volumes:
  - {name: scratch, emptyDir: {}}
  - {name: data, persistentVolumeClaim: {claimName: data}}
---
apiVersion: v1
kind: Pod
metadata: {name: near}
spec:
  hostNetwork: true
  terminationGracePeriodSeconds: 0
  containers:
  - {name: c, image: "knarr.test/busybox:1", command: [sleep, "10000"]}
"#;

#[test]
fn nodes_tell_what_is_used() {
    let cluster = Cluster::new();
    cluster.apply(MANIFEST);
    cluster.pod_ready("busy");
    cluster.pod_ready("near");
    the_summary_tells_of_pods(&cluster);
    families_of_prometheus(&cluster);
    what_the_node_does(&cluster);
    who_may_read(&cluster);
}

fn raw(cluster: &Cluster, path: &str) -> String {
    cluster.kubectl(&format!("get --raw /api/v1/nodes/node-1/proxy/{path}"))
}

fn summary(cluster: &Cluster, query: &str) -> Value {
    serde_json::from_str(&raw(cluster, &format!("stats/summary{query}"))).unwrap()
}

fn of_pod(summary: &Value, name: &str) -> Value {
    let pods = summary["pods"].as_array().unwrap();
    pods.iter().find(|pod| pod["podRef"]["name"] == name).unwrap_or_else(|| panic!("{summary:#}")).clone()
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("no number: {value}"))
}

fn the_summary_tells_of_pods(cluster: &Cluster) {
    let busy = wait_for("a rate of processors", SOON, || {
        let pod = of_pod(&summary(cluster, ""), "busy");
        // A probe's process comes and goes.
        let settled = pod["process_stats"]["process_count"] == 2;
        pod["cpu"]["usageNanoCores"].as_u64().filter(|rate| *rate > 0 && settled).map(|_| pod)
    });
    let container = &busy["containers"][0];
    assert_eq!(container["name"], "worker");
    assert!(number(&container["cpu"]["usageCoreNanoSeconds"]) > 0, "{busy:#}");
    assert_eq!(
        number(&container["memory"]["availableBytes"]) + number(&container["memory"]["workingSetBytes"]),
        64 << 20
    );
    assert!(number(&container["memory"]["pageFaults"]) > 0, "{busy:#}");
    assert!(number(&container["logs"]["usedBytes"]) > 0, "{busy:#}");
    assert!(number(&container["rootfs"]["capacityBytes"]) > 0, "{busy:#}");
    assert!(number(&busy["network"]["rxBytes"]) > 0 && busy["network"]["name"] == "eth0", "{busy:#}");
    // The shell and the sandbox's own process.
    assert_eq!(number(&busy["process_stats"]["process_count"]), 2, "{busy:#}");
    let volume = |name: &str| {
        let all = busy["volume"].as_array().unwrap();
        all.iter().find(|volume| volume["name"] == name).unwrap_or_else(|| panic!("{busy:#}")).clone()
    };
    assert!((3 << 20..4 << 20).contains(&number(&volume("scratch")["usedBytes"])), "{busy:#}");
    assert_eq!(volume("data")["pvcRef"]["name"], "data");
    assert!(number(&busy["ephemeral-storage"]["usedBytes"]) > 3 << 20, "{busy:#}");
    assert!(of_pod(&summary(cluster, ""), "near")["network"].is_null());
    // The runtime itself measures its images every ten seconds.
    let node = &wait_for("sizes of images", SOON, || {
        let node = summary(cluster, "")["node"].clone();
        (number(&node["runtime"]["imageFs"]["usedBytes"]) > 0).then_some(node)
    });
    for part in ["cpu", "memory", "network", "fs", "swap"] {
        assert!(node[part]["time"].is_string(), "{part} in {node:#}");
    }
    assert!(number(&node["rlimit"]["curproc"]) < number(&node["rlimit"]["maxpid"]), "{node:#}");
    let parts: Vec<_> =
        node["systemContainers"].as_array().unwrap().iter().map(|part| &part["name"]).collect();
    assert_eq!(parts, ["kubelet", "runtime", "pods"]);
    let less = summary(cluster, "?only_cpu_and_memory=true");
    assert!(less["node"]["fs"].is_null() && less["node"]["network"].is_null(), "{less:#}");
    assert!(number(&of_pod(&less, "busy")["memory"]["workingSetBytes"]) > 0, "{less:#}");
}

/// The value of a sample whose line begins like this.
fn sample(text: &str, start: &str) -> f64 {
    let line =
        text.lines().find(|line| line.starts_with(start)).unwrap_or_else(|| panic!("no {start} in\n{text}"));
    line[line.rfind('}').map_or(start.len(), |at| at + 1)..]
        .split_whitespace()
        .next()
        .unwrap()
        .parse()
        .unwrap()
}

fn families_of_prometheus(cluster: &Cluster) {
    let resource = raw(cluster, "metrics/resource");
    let labels = "{container=\"worker\",namespace=\"default\",pod=\"busy\"}";
    assert!(sample(&resource, &format!("container_cpu_usage_seconds_total{labels}")) > 0.0);
    assert!(sample(&resource, &format!("container_start_time_seconds{labels}")) > 1e9);
    assert!(sample(&resource, "pod_memory_working_set_bytes{namespace=\"default\",pod=\"busy\"}") > 0.0);
    assert_eq!(sample(&resource, "resource_scrape_error"), 0.0);
    let cadvisor = raw(cluster, "metrics/cadvisor");
    let id = crate::support::cluster::container_id(&cluster.json("pod busy"));
    let line = cadvisor
        .lines()
        .find(|line| line.starts_with("container_memory_working_set_bytes{container=\"worker\""))
        .unwrap_or_else(|| panic!("{cadvisor}"));
    for label in [format!("name=\"{id}\""), "image=\"knarr.test/busybox:1\"".to_owned(), format!("/{id}\"")] {
        assert!(line.contains(&label), "{label} in {line}");
    }
    let throttled = "container_cpu_cfs_throttled_periods_total{container=\"worker\"";
    assert!(sample(&cadvisor, throttled) > 0.0, "a tenth of a processor is not enough for a loop");
    assert!(sample(&cadvisor, "container_network_receive_bytes_total{container=\"\"") > 0.0);
    assert!(
        sample(&cadvisor, "container_spec_memory_limit_bytes{container=\"worker\"") == f64::from(64 << 20)
    );
    assert!(sample(&cadvisor, "machine_cpu_cores{") >= 1.0);
}

fn what_the_node_does(cluster: &Cluster) {
    let kubelet = raw(cluster, "metrics");
    assert!(sample(&kubelet, "kubelet_running_pods") >= 2.0);
    assert!(sample(&kubelet, "kubelet_running_containers{container_state=\"running\"}") >= 2.0);
    assert!(sample(&kubelet, "kubelet_runtime_operations_total{operation_type=\"run_podsandbox\"}") >= 2.0);
    assert!(sample(&kubelet, "kubelet_pod_start_duration_seconds_count") >= 2.0);
    let claim = "{namespace=\"default\",persistentvolumeclaim=\"data\"}";
    assert!(sample(&kubelet, &format!("kubelet_volume_stats_capacity_bytes{claim}")) > 0.0);
    assert_eq!(sample(&kubelet, "kubelet_node_name{node=\"node-1\"}"), 1.0);
    assert!(sample(&kubelet, "process_resident_memory_bytes") > 0.0);
    let probes = raw(cluster, "metrics/probes");
    let probe = "prober_probe_total{container=\"worker\",namespace=\"default\",pod=\"busy\"";
    assert!(sample(&probes, probe) > 0.0);
    assert_eq!(raw(cluster, "healthz"), "ok");
    assert!(raw(cluster, "healthz?verbose").ends_with("healthz check passed\n"));
    let running: Value = serde_json::from_str(&raw(cluster, "runningpods/")).unwrap();
    let names: Vec<_> =
        running["items"].as_array().unwrap().iter().map(|pod| &pod["metadata"]["name"]).collect();
    assert!(names.contains(&&Value::from("busy")), "{running:#}");
    assert!(raw(cluster, "logs/").contains("<pre>\n"));
    let refused = cluster.try_kubectl(&[
        "create",
        "--raw",
        "/api/v1/nodes/node-1/proxy/checkpoint/default/busy/no",
        "-f",
        "/dev/null",
    ]);
    assert!(refused.err().contains("container no does not exist"));
}

/// A service account as Prometheus has it: `nodes/metrics`, and nothing else.
fn who_may_read(cluster: &Cluster) {
    cluster.kubectl("create serviceaccount reader");
    let token = cluster.kubectl("create token reader");
    let ask = |path: &str, header: &str| {
        let url = format!("https://10.99.0.2:10250{path}");
        let answer = cluster.curl(&[&url, "-H", header, "-w", "\n%{http_code}"]).ok();
        let (body, code) = answer.rsplit_once('\n').unwrap();
        (code.to_owned(), body.to_owned())
    };
    let bearer = format!("Authorization: Bearer {}", token.trim());
    assert_eq!(ask("/metrics", "X-None: at-all"), ("401".to_owned(), "Unauthorized".to_owned()));
    assert_eq!(ask("/metrics", "Authorization: Bearer no").0, "401");
    let user = "system:serviceaccount:default:reader";
    let denied = format!("Forbidden (user={user}, verb=get, resource=nodes, subresource(s)=[pods proxy])\n");
    assert_eq!(ask("/pods", &bearer), ("403".to_owned(), denied));
    cluster.kubectl("create clusterrole scraper --verb=get --resource=nodes/metrics");
    cluster.kubectl(&format!("create clusterrolebinding scraper --clusterrole=scraper --user={user}"));
    wait_for("permission", SOON, || (ask("/metrics/cadvisor", &bearer).0 == "200").then_some(()));
    let refused = ask("/stats/summary", &bearer);
    assert!(refused.1.ends_with("subresource(s)=[stats])\n"), "{refused:?}");
    assert_eq!(ask("/exec/default/busy/worker?command=true", &bearer).0, "403");
    cluster.kubectl("create serviceaccount lister");
    cluster.kubectl("create clusterrole lister --verb=get --resource=nodes/pods");
    cluster.kubectl("create clusterrolebinding lister --clusterrole=lister --serviceaccount=default:lister");
    let bearer = format!("Authorization: Bearer {}", cluster.kubectl("create token lister").trim());
    let (code, pods) = ask("/pods", &bearer);
    assert!(code == "200" && pods.contains("PodList"), "{code} {pods}");
}
