//! What a user does with a fresh cluster, from the first `apply` to the last `delete`.

use crate::support::cluster::{Cluster, IMAGE_2, SOON, container_id, name, restarts};
use crate::support::process::{run, wait_for};
use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

const APPLICATION: &str = include_str!("../data/application.yaml");
const WEB: &str = "app=web";

/// Container ids and restart counts by pod.
fn containers(cluster: &Cluster) -> BTreeMap<String, (String, i64)> {
    cluster.pods(WEB).iter().map(|pod| (name(pod), (container_id(pod), restarts(pod)))).collect()
}

#[test]
fn an_application_lives_its_whole_life() {
    let mut cluster = Cluster::new();
    assert!(cluster.screen().contains("kubeconfig"), "{}", cluster.screen());
    apply(&cluster);
    look(&cluster);
    enter(&cluster);
    reach(&cluster);
    scale(&cluster);
    kill_a_process(&cluster);
    delete_a_pod(&cluster);
    roll(&cluster);
    restart(&mut cluster, "TERM");
    restart(&mut cluster, "KILL");
    end(&mut cluster);
}

fn apply(cluster: &Cluster) {
    let said = cluster.apply(APPLICATION);
    for object in ["configmap/page", "secret/word", "service/web", "deployment.apps/web", "pod/client"] {
        assert!(said.contains(&format!("{object} created")), "{said}");
    }
    assert!(cluster.apply(APPLICATION).contains("deployment.apps/web unchanged"));
    cluster.kubectl("rollout status deployment/web --timeout=60s");
    cluster.pods_ready(WEB, 2);
    cluster.pod_ready("client");
}

fn look(cluster: &Cluster) {
    let all = cluster.kubectl("get all");
    for part in ["pod/web-", "service/web", "deployment.apps/web", "replicaset.apps/web-", "2/2", "1/1"] {
        assert!(all.contains(part), "{part} is missing: {all}");
    }
    let nodes = cluster.kubectl("get nodes");
    assert!(nodes.contains(" Ready ") && nodes.contains(" control-plane "), "{nodes}");
    use_is_told(cluster);
    let described = cluster.kubectl("describe deployment web");
    assert!(described.contains("ScalingReplicaSet") && described.contains("RollingUpdate"), "{described}");
    let pod = name(&cluster.pods(WEB)[0]);
    let described = cluster.kubectl(&format!("describe pod {pod}"));
    for part in ["Successfully assigned", "Container started", "SECRET_WORD", "Ready", "page"] {
        assert!(described.contains(part), "{part} is missing: {described}");
    }
    let mut follower = cluster.kubectl_background("logs", &format!("logs -f {pod}"));
    let logs = || fs::read_to_string(cluster.sandbox.folder.join("logs")).unwrap();
    wait_for("first line of the log", SOON, || logs().contains("serving").then_some(()));
    cluster.exec(&pod, "echo said later > /proc/1/fd/1").ok();
    wait_for("new line of the log", SOON, || logs().contains("said later").then_some(()));
    follower.stop("INT");
}

/// `kubectl top` works with nothing added.
fn use_is_told(cluster: &Cluster) {
    let nodes = cluster.kubectl("top node");
    assert!(nodes.contains("CPU(cores)") && nodes.contains("node-1"), "{nodes}");
    let pods = cluster.kubectl("top pod --containers");
    let used = |line: &&str| line.starts_with("web-") && line.contains("Mi");
    assert_eq!(pods.lines().filter(used).count(), 2, "{pods}");
    let table = cluster.kubectl("get pods.metrics.k8s.io");
    assert!(table.starts_with("NAME") && table.contains("WINDOW"), "{table}");
    let missing =
        cluster.try_kubectl(&["get", "--raw", "/apis/metrics.k8s.io/v1beta1/namespaces/default/pods/nobody"]);
    assert!(
        missing.stderr.contains("pods.metrics.k8s.io \"default/nobody\" not found"),
        "{}",
        missing.stderr
    );
}

fn enter(cluster: &Cluster) {
    let pod = name(&cluster.pods(WEB)[0]);
    assert_eq!(cluster.exec(&pod, "echo $SECRET_WORD").ok(), "mellon\n");
    assert_eq!(cluster.kubectl(&format!("exec {pod} -- cat /etc/page/greeting")), "hello");
    let echoed = cluster.kubectl_with("over stdin\n", &["exec", "-i", &pod, "--", "cat"]).ok();
    assert_eq!(echoed, "over stdin\n");
    let failed = cluster.exec(&pod, "echo out; echo err >&2; exit 7");
    assert_eq!((failed.code, failed.stdout.as_str()), (7, "out\n"));
    assert!(failed.stderr.contains("err\n"), "{}", failed.stderr);
    // `script` gives kubectl a terminal to be interactive on.
    let typed = format!("kubectl exec -it {pod} -- sh -c 'tty; stty size; read line; echo got $line'");
    let mut command = cluster.sandbox.command(SOON, &["script", "-qec", &typed, "/dev/null"]);
    command.env("KUBECONFIG", cluster.sandbox.folder.join("kubeconfig"));
    let screen = run(command, "typed\n").ok();
    assert!(screen.contains("/dev/pts/") && screen.contains("got typed"), "{screen}");
}

fn reach(cluster: &Cluster) {
    let service = cluster.json("service web");
    let address = service["spec"]["clusterIP"].as_str().unwrap().to_owned();
    let port = service["spec"]["ports"][0]["nodePort"].as_i64().unwrap();
    cluster.answers(&format!("http://{address}/"), "version 1\n");
    cluster.answers(&format!("http://10.99.0.2:{port}/"), "version 1\n");
    for host in ["web", "web.default", "web.default.svc.cluster.local"] {
        let url = format!("http://{host}/");
        let fetched = cluster.exec("client", &format!("curl -sS --max-time 5 {url}")).ok();
        assert_eq!(fetched, "version 1\n", "{url}");
    }
    let found = cluster.kubectl("exec client -- nslookup web.default.svc.cluster.local");
    assert!(found.contains(&address), "{found}");
    let _forward = cluster.kubectl_background("forward", "port-forward service/web 8888:80");
    cluster.answers("http://127.0.0.1:8888/", "version 1\n");
}

fn scale(cluster: &Cluster) {
    cluster.kubectl("scale deployment web --replicas=4");
    cluster.pods_ready(WEB, 4);
    cluster.kubectl("scale deployment web --replicas=2");
    cluster.pods_ready(WEB, 2);
}

fn kill_a_process(cluster: &Cluster) {
    let pod = name(&cluster.pods(WEB)[0]);
    // The kernel takes no signal for process 1 from within its namespace: kill it from the node.
    let id = container_id(&cluster.pods(WEB)[0]);
    let task = format!("cat run/containerd/io.containerd.runtime.v2.task/k8s.io/{id}/init.pid");
    let pid = cluster.sandbox.sh(&task).ok();
    cluster.sandbox.run(&["kill", "-KILL", pid.trim()]).ok();
    cluster.wait(&format!("pod {pod}"), |pod| (restarts(pod) == 1).then_some(()));
    cluster.pod_ready(&pod);
    let now = cluster.json(&format!("pod {pod}"));
    let last = &now["status"]["containerStatuses"][0]["lastState"]["terminated"];
    assert_eq!((last["exitCode"].as_i64(), restarts(&now)), (Some(137), 1), "{last}");
}

fn delete_a_pod(cluster: &Cluster) {
    let pod = name(&cluster.pods(WEB)[0]);
    cluster.kubectl(&format!("delete pod {pod}"));
    let left = cluster.pods_ready(WEB, 2);
    assert!(left.iter().all(|own| name(own) != pod));
}

/// A new version and back, under a client for whom no request may fail.
fn roll(cluster: &Cluster) {
    let address = cluster.json("service web")["spec"]["clusterIP"].as_str().unwrap().to_owned();
    let script = format!(
        "while [ ! -e stop ]; do curl -s --max-time 5 http://{address}/ >> seen || echo failed $? >> failed; done"
    );
    let log = cluster.sandbox.folder.join("client.log");
    let mut client = cluster.sandbox.background(&log, |_| {}, &["sh", "-c", &script]);
    let seen = || fs::read_to_string(cluster.sandbox.folder.join("seen")).unwrap_or_default();
    wait_for("first answers", SOON, || seen().contains("version 1").then_some(()));
    cluster.kubectl(&format!("set image deployment/web web={IMAGE_2}"));
    cluster.kubectl("rollout status deployment/web --timeout=90s");
    wait_for("answers of version 2", SOON, || seen().ends_with("version 2\n").then_some(()));
    assert_eq!(cluster.kubectl("rollout history deployment/web").matches("<none>").count(), 2);
    cluster.kubectl("rollout undo deployment/web");
    cluster.kubectl("rollout status deployment/web --timeout=90s");
    cluster.pods_ready(WEB, 2);
    fs::write(cluster.sandbox.folder.join("stop"), "").unwrap();
    client.wait(Duration::from_secs(10));
    assert!(seen().ends_with("version 1\n"));
    let failed = fs::read_to_string(cluster.sandbox.folder.join("failed")).unwrap_or_default();
    assert_eq!(failed, "", "of {} requests", seen().lines().count());
}

/// Pods do not notice that knarr is stopped, or dies, and comes back.
fn restart(cluster: &mut Cluster, signal: &str) {
    let before = containers(cluster);
    let address = cluster.json("service web")["spec"]["clusterIP"].as_str().unwrap().to_owned();
    let code = cluster.stop(signal);
    if signal == "TERM" {
        assert_eq!(code, 0, "{}", cluster.screen());
    }
    cluster.answers(&format!("http://{address}/"), "version 1\n");
    cluster.start();
    cluster.pods_ready(WEB, 2);
    assert_eq!(containers(cluster), before);
    // What is asked for after the restart still happens.
    cluster.kubectl("scale deployment web --replicas=3");
    cluster.pods_ready(WEB, 3);
    cluster.kubectl("scale deployment web --replicas=2");
    cluster.pods_ready(WEB, 2);
    cluster.answers(&format!("http://{address}/"), "version 1\n");
}

fn end(cluster: &mut Cluster) {
    let address = cluster.json("service web")["spec"]["clusterIP"].as_str().unwrap().to_owned();
    cluster.kubectl_with(APPLICATION, &["delete", "-f", "-", "--timeout=60s"]).ok();
    wait_for("end of all pods", SOON, || {
        cluster.json("pods -A")["items"].as_array()?.is_empty().then_some(())
    });
    wait_for("end of the service", SOON, || {
        cluster.fetch(&format!("http://{address}/")).is_none().then_some(())
    });
    let processes = cluster.sandbox.sh("ps -eo pid,ppid,stat,args").ok();
    assert!(!processes.contains("containerd-shim"), "{processes}");
    assert_eq!(cluster.stop("INT"), 0);
    assert!(cluster.screen().contains("Stopping; pods keep running."));
}
