//! What a node decides by itself: whom it takes, what it gives, and which pods are its own.

use crate::support::cluster::{ADMINISTRATOR, API, Cluster, SOON, container_id, is_ready};
use crate::support::process::wait_for;
use serde_json::{Value, json};
use std::fs;

const PODS: &str = include_str!("../data/kubelet.yaml");

/// A pod that sleeps, with more in its specification, and more in its container's.
pub(crate) fn sleeper(name: &str, spec: &Value) -> String {
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"terminationGracePeriodSeconds": 0, "nodeName": "node-1", "containers": [
            {"name": "main", "image": "knarr.test/busybox:1", "command": ["sleep", "infinity"]}]},
    });
    for (field, value) in spec.as_object().unwrap() {
        match (field.as_str(), value.as_object()) {
            ("container", Some(more)) => {
                pod["spec"]["containers"][0].as_object_mut().unwrap().extend(more.clone());
            }
            _ => pod["spec"][field] = value.clone(),
        }
    }
    pod.to_string()
}

#[test]
fn nodes_decide_by_themselves() {
    let mut cluster = Cluster::new();
    cluster.apply(PODS);
    cluster.pod_ready("port-holder");
    pods_that_do_not_fit_are_rejected(&cluster);
    a_critical_pod_is_let_in_before_others(&cluster);
    pods_get_other_resources_while_they_run(&cluster);
    containers_are_started_again_by_rules(&cluster);
    a_container_is_stopped_with_its_own_signal(&cluster);
    pods_of_the_node_itself(&mut cluster);
}

fn pods_that_do_not_fit_are_rejected(cluster: &Cluster) {
    let port = json!({"container": {"ports": [{"containerPort": 80, "hostPort": 8765}]}});
    let cpu = json!({"container": {"resources": {"requests": {"cpu": "1k"}}}});
    let sysctl = json!({"securityContext": {"sysctls": [{"name": "kernel.msgmax", "value": "65536"}]}});
    for (name, spec, reason, message) in [
        (
            "no-port",
            port,
            "NodePorts",
            "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports",
        ),
        ("no-cpu", cpu, "OutOfcpu", "Node didn't have enough resource: cpu, requested: 1000000, used:"),
        (
            "no-match",
            json!({"nodeSelector": {"disk": "ssd"}}),
            "NodeAffinity",
            "Predicate NodeAffinity failed:",
        ),
        ("no-sysctl", sysctl, "SysctlForbidden", "forbidden sysctl: \"kernel.msgmax\" not allowlisted"),
    ] {
        cluster.apply(&sleeper(name, &spec));
        assert_eq!(cluster.pod_ended(name), "Failed");
        let pod = cluster.json(&format!("pod {name}"));
        assert_eq!(pod["status"]["reason"], reason, "{pod:#}");
        let told = pod["status"]["message"].as_str().unwrap();
        assert!(told.starts_with(&format!("Pod was rejected: {message}")), "{told}");
        assert!(cluster.event(name, reason).starts_with(message));
        assert!(cluster.kubectl(&format!("get pod {name}")).contains(reason));
        cluster.kubectl(&format!("delete pod {name} --wait=true"));
    }
}

/// Half of the node's processors, and a little more.
fn more_than_half(cluster: &Cluster) -> String {
    let node = cluster.json("node node-1");
    let cpu =
        node["status"]["allocatable"]["cpu"].as_str().unwrap().trim_end_matches('m').parse::<i64>().unwrap();
    let milli = if cpu < 1000 { cpu * 1000 } else { cpu };
    format!("{}m", milli / 2 + 50)
}

fn a_critical_pod_is_let_in_before_others(cluster: &Cluster) {
    let large = json!({"resources": {"requests": {"cpu": more_than_half(cluster)}}});
    cluster.apply(&sleeper("ordinary", &json!({"container": large})));
    cluster.pod_ready("ordinary");
    cluster.apply(&sleeper("second", &json!({"container": large})));
    assert_eq!(cluster.pod_ended("second"), "Failed");
    // Only the namespace of the system has critical pods.
    let critical =
        sleeper("critical", &json!({"container": large, "priorityClassName": "system-node-critical"}));
    cluster.kubectl_with(&critical, &["apply", "-n", "kube-system", "-f", "-"]).ok();
    cluster.wait("pod -n kube-system critical", |pod| is_ready(pod).then_some(()));
    assert_eq!(cluster.pod_ended("ordinary"), "Failed");
    let status = &cluster.json("pod ordinary")["status"];
    assert_eq!(
        (&status["reason"], &status["message"]),
        (&"Preempting".into(), &"Preempted in order to admit critical pod".into())
    );
    let conditions = status["conditions"].as_array().unwrap();
    let told = conditions.iter().find(|condition| condition["type"] == "DisruptionTarget").unwrap();
    assert_eq!(told["reason"], "TerminationByKubelet");
    cluster.kubectl("delete pod -n kube-system critical");
    cluster.kubectl("delete pod ordinary second");
}

fn resize(cluster: &Cluster, pod: &str, container: &str, resources: &Value) {
    let patch = json!({"spec": {"containers": [{"name": container, "resources": resources}]}});
    let url = format!("{API}/api/v1/namespaces/default/pods/{pod}/resize");
    let kind = "Content-Type: application/strategic-merge-patch+json";
    let words = ["-f", "-X", "PATCH", "-H", kind, "-d", &patch.to_string(), &url];
    cluster.curl(&[&ADMINISTRATOR, words.as_slice()].concat()).ok();
}

fn container<'a>(pod: &'a Value, name: &str) -> &'a Value {
    let all = pod["status"]["containerStatuses"].as_array().unwrap();
    all.iter().find(|status| status["name"] == name).unwrap()
}

/// The reason of a pod's condition; none where it is absent.
fn reason(pod: &Value, kind: &str) -> Option<String> {
    let conditions = pod["status"]["conditions"].as_array()?;
    let condition = conditions.iter().find(|condition| condition["type"] == kind)?;
    Some(condition["reason"].as_str().unwrap_or_default().to_owned())
}

/// A limit as the container's own cgroup has it.
fn memory_limit(cluster: &Cluster, container: &str) -> String {
    let read = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null";
    cluster
        .try_kubectl(&["exec", "resized", "-c", container, "--", "sh", "-c", read])
        .stdout
        .trim()
        .to_owned()
}

fn pods_get_other_resources_while_they_run(cluster: &Cluster) {
    cluster.pod_ready("resized");
    assert_eq!(memory_limit(cluster, "in-place"), (64_u32 << 20).to_string());
    let more =
        json!({"requests": {"cpu": "150m", "memory": "48Mi"}, "limits": {"cpu": "300m", "memory": "96Mi"}});
    resize(cluster, "resized", "in-place", &more);
    cluster.wait("pod resized", |pod| {
        let status = container(pod, "in-place");
        let done = status["resources"] == more && status["allocatedResources"] == more["requests"];
        (done && reason(pod, "PodResizeInProgress").is_none()).then(|| assert_eq!(status["restartCount"], 0))
    });
    assert_eq!(memory_limit(cluster, "in-place"), (96_u32 << 20).to_string());
    assert!(cluster.event("resized", "ResizeCompleted").starts_with("Pod resize completed: {"));
    resize(cluster, "resized", "restarted", &more);
    cluster.wait("pod resized", |pod| {
        let status = container(pod, "restarted");
        (status["resources"] == more && status["restartCount"] == 1 && is_ready(pod)).then_some(())
    });
    assert_eq!(memory_limit(cluster, "restarted"), (96_u32 << 20).to_string());
    assert_eq!(container(&cluster.json("pod resized"), "in-place")["restartCount"], 0);
    // What does not fit waits until it does.
    let half = more_than_half(cluster);
    cluster.apply(&sleeper("beside", &json!({"container": {"resources": {"requests": {"cpu": half}}}})));
    cluster.pod_ready("beside");
    resize(cluster, "resized", "in-place", &json!({"requests": {"cpu": half}, "limits": {"cpu": half}}));
    let waits = |pod: &Value| (reason(pod, "PodResizePending").as_deref() == Some("Deferred")).then_some(());
    cluster.wait("pod resized", waits);
    assert!(cluster.event("resized", "ResizeDeferred").contains("Node didn't have enough resource: cpu"));
    cluster.kubectl("delete pod beside");
    cluster.wait("pod resized", |pod| {
        let given = &container(pod, "in-place")["allocatedResources"]["cpu"];
        (*given == half && reason(pod, "PodResizePending").is_none()).then_some(())
    });
    cluster.kubectl("delete pod resized");
}

fn containers_are_started_again_by_rules(cluster: &Cluster) {
    assert_eq!(cluster.pod_ended("by-rule"), "Failed");
    let pod = cluster.json("pod by-rule");
    let status = &pod["status"]["containerStatuses"][0];
    assert_eq!((&status["restartCount"], &status["state"]["terminated"]["exitCode"]), (&1.into(), &7.into()));
    cluster.pod_ready("all-over");
    let pod = cluster.json("pod all-over");
    for status in pod["status"]["containerStatuses"].as_array().unwrap() {
        assert_eq!(status["restartCount"], 1, "{pod:#}");
    }
    assert_eq!(reason(&pod, "AllContainersRestarting").as_deref(), Some(""), "{pod:#}");
    let log = cluster.try_kubectl(&["exec", "all-over", "-c", "beside", "--", "cat", "/state/log"]);
    assert_eq!(log.ok(), "init\ninit\n");
}

fn a_container_is_stopped_with_its_own_signal(cluster: &Cluster) {
    let script =
        "trap 'echo usr1; exit 0' USR1; trap 'echo term; exit 1' TERM; while true; do sleep 0.1; done";
    let container = json!({"command": ["sh", "-c", script], "lifecycle": {"stopSignal": "SIGUSR1"}});
    let spec = json!({"os": {"name": "linux"}, "terminationGracePeriodSeconds": 20, "container": container});
    cluster.apply(&sleeper("signalled", &spec));
    cluster.pod_ready("signalled");
    let status = &cluster.json("pod signalled")["status"]["containerStatuses"][0];
    assert_eq!(status["stopSignal"], "SIGUSR1");
    let log = cluster.kubectl_background("signalled.log", "logs -f signalled");
    cluster.kubectl("delete pod signalled");
    let said = fs::read_to_string(cluster.sandbox.folder.join("signalled.log")).unwrap();
    drop(log);
    assert_eq!(said, "usr1\n");
}

const MANIFEST: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: own, labels: {page: "1"}}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: main, image: "knarr.test/busybox:1", command: [httpd, -f, -h, /www, -p, "8099"]}]
  hostNetwork: true
"#;

fn pods_of_the_node_itself(cluster: &mut Cluster) {
    let file = cluster.sandbox.folder.join("data/agent/pod-manifests/own.yaml");
    fs::write(&file, MANIFEST).unwrap();
    fs::write(file.with_file_name("wrong.yaml"), "kind: Pod\nmetadata: {").unwrap();
    cluster.pod_ready("own-node-1");
    cluster.answers("http://127.0.0.1:8099/", "version 1\n");
    let pod = cluster.json("pod own-node-1");
    let owner = &pod["metadata"]["ownerReferences"][0];
    assert_eq!((&owner["kind"], &owner["name"]), (&"Node".into(), &"node-1".into()));
    let (uid, container) = (pod["metadata"]["uid"].clone(), container_id(&pod));
    // Its copy may be deleted, and comes back; the pod itself is not touched.
    cluster.kubectl("delete pod own-node-1 --wait=false");
    cluster.wait("pod own-node-1", |pod| (is_ready(pod) && pod["metadata"]["uid"] != uid).then_some(()));
    assert_eq!(container_id(&cluster.json("pod own-node-1")), container);
    cluster.stop("KILL");
    cluster.start();
    cluster.wait("pod own-node-1", |pod| is_ready(pod).then_some(()));
    assert_eq!(container_id(&cluster.json("pod own-node-1")), container);
    // Another content is another pod.
    fs::write(&file, MANIFEST.replace("busybox:1", "busybox:2").replace("\"1\"", "\"2\"")).unwrap();
    cluster.answers("http://127.0.0.1:8099/", "version 2\n");
    cluster.wait("pod own-node-1", |pod| {
        (is_ready(pod) && pod["metadata"]["labels"]["page"] == "2").then_some(())
    });
    fs::remove_file(&file).unwrap();
    wait_for("the copy to go", SOON, || cluster.json("pod own-node-1").is_null().then_some(()));
    wait_for("the pod to end", SOON, || cluster.fetch("http://127.0.0.1:8099/").is_none().then_some(()));
}
