//! `knarr bench hollow`: nodes that a control plane cannot tell from others.

use crate::support::binary;
use crate::support::cluster::{API, Cluster, SOON, is_ready, name};
use crate::support::process::{Output, wait_for};
use crate::support::sandbox::Background;
use serde_json::Value;

const DEPLOYMENT: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 20
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      nodeSelector: {knarr.io/hollow: "true"}
      containers:
      - name: web
        image: example.com/web:1
        readinessProbe: {httpGet: {port: 80}}
        volumeMounts: [{name: data, mountPath: /data, subPath: part}]
      volumes: [{name: data, emptyDir: {}}]
"#;

const JOB: &str = r#"
apiVersion: batch/v1
kind: Job
metadata: {name: short}
spec:
  completions: 3
  parallelism: 3
  template:
    spec:
      restartPolicy: Never
      containers: [{name: main, image: example.com/job:1, command: [sleep, "1"]}]
"#;

fn words<'a>(binary: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&[binary, "bench", "hollow"], more].concat()
}

/// Five nodes, once they are Ready.
fn started(cluster: &Cluster, log: &str, more: &[&str]) -> Background {
    let binary = binary().display().to_string();
    let own = ["--nodes", "5", "--kubeconfig", "kubeconfig"];
    let log = cluster.sandbox.folder.join(log);
    let mut nodes = cluster.sandbox.background(&log, |_| {}, &words(&binary, &[&own, more].concat()));
    wait_for("hollow nodes", SOON, || {
        let said = std::fs::read_to_string(&log).unwrap();
        assert!(nodes.ended().is_none(), "{said}");
        said.contains("5 hollow nodes are Ready").then_some(())
    });
    nodes
}

fn said(cluster: &Cluster, log: &str, what: &str) {
    let log = cluster.sandbox.folder.join(log);
    wait_for(what, SOON, || std::fs::read_to_string(&log).unwrap().contains(what).then_some(()));
}

fn fails(cluster: &Cluster, more: &[&str]) -> Output {
    let binary = binary().display().to_string();
    cluster.sandbox.run(&words(&binary, more))
}

fn available(cluster: &Cluster) {
    cluster.wait("deployment web", |web| (web["status"]["availableReplicas"] == 20).then_some(()));
}

fn ready_nodes(cluster: &Cluster) -> Vec<Value> {
    cluster.wait("nodes", |nodes| {
        let nodes = nodes["items"].as_array()?.clone();
        (nodes.len() == 5 && nodes.iter().all(is_ready)).then_some(nodes)
    })
}

#[test]
fn hollow_nodes_carry_load() {
    let mut cluster = Cluster::control_plane();
    let mut nodes = started(&cluster, "first.log", &[]);
    cluster.apply(DEPLOYMENT);
    available(&cluster);
    for pod in cluster.pods("app=web") {
        let node = cluster.json(&format!("node {}", pod["spec"]["nodeName"].as_str().unwrap()));
        let block: net::Cidr = node["spec"]["podCIDR"].as_str().unwrap().parse().unwrap();
        assert!(block.contains(pod["status"]["podIP"].as_str().unwrap().parse().unwrap()), "{pod:#}");
    }
    cluster.kubectl("drain hollow-node-0000 --delete-emptydir-data --timeout=60s");
    let on_first = "--field-selector=spec.nodeName=hollow-node-0000";
    assert_eq!(cluster.kubectl(&format!("get pods -o name {on_first}")), "");
    available(&cluster);
    cluster.apply(JOB);
    cluster.wait("job short", |job| (job["status"]["succeeded"] == 3).then_some(()));
    assert_eq!(cluster.stop("TERM"), 0);
    said(&cluster, "first.log", "The nodes go on when it is back.");
    cluster.start();
    said(&cluster, "first.log", "The API server is back.");
    cluster.kubectl("scale deployment web --replicas=0");
    cluster.wait("pods -l app=web", |pods| pods["items"].as_array()?.is_empty().then_some(()));
    assert_eq!(nodes.stop("TERM"), 0);
    assert_eq!(cluster.json("nodes")["items"], Value::Array(Vec::new()));
    go_on(&cluster);
    mistakes(&cluster);
}

/// Nodes that were kept are those of the next start.
fn go_on(cluster: &Cluster) {
    let mut nodes = started(cluster, "second.log", &["--keep-nodes", "--node-taint", "load=test:NoSchedule"]);
    let before = ready_nodes(cluster);
    assert_eq!(before[0]["spec"]["taints"][0]["key"], "load");
    assert_eq!(nodes.stop("INT"), 0);
    cluster.kubectl("scale deployment web --replicas=20");
    cluster.kubectl("taint nodes --all load-");
    let mut nodes = started(cluster, "third.log", &[]);
    let after = ready_nodes(cluster);
    let uids = |nodes: &[Value]| nodes.iter().map(|node| node["metadata"]["uid"].clone()).collect::<Vec<_>>();
    assert_eq!(uids(&before), uids(&after));
    available(cluster);
    assert_eq!(nodes.stop("TERM"), 0);
}

fn mistakes(cluster: &Cluster) {
    let none = fails(cluster, &["--nodes", "0"]);
    assert_eq!((none.code, none.stderr.contains("0 is not in 1..=10000")), (2, true), "{}", none.stderr);
    let missing = fails(cluster, &["--nodes", "1", "--kubeconfig", "nowhere"]);
    assert_eq!(missing.code, 1);
    assert!(missing.stderr.contains("knarr: stat nowhere: no such file or directory"), "{}", missing.stderr);
    cluster.apply("apiVersion: v1\nkind: Node\nmetadata: {name: real-0000}");
    let real = fails(cluster, &["--nodes", "1", "--kubeconfig", "kubeconfig", "--name-prefix", "real"]);
    assert_eq!(real.code, 1);
    assert!(real.stderr.contains("node real-0000 is there and is not hollow"), "{}", real.stderr);
    assert_eq!(name(&cluster.json("node real-0000")), "real-0000");
    cluster.kubectl("create serviceaccount nobody");
    let token = cluster.kubectl("create token nobody");
    let kubeconfig = serde_json::json!({"apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": API, "certificate-authority": "ca.pem"}}],
        "users": [{"name": "u", "user": {"token": token.trim()}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}]});
    std::fs::write(cluster.sandbox.folder.join("nobody"), kubeconfig.to_string()).unwrap();
    let nobody = fails(cluster, &["--nodes", "1", "--kubeconfig", "nobody"]);
    assert_eq!(nobody.code, 1);
    assert!(nobody.stderr.contains("cannot impersonate resource \"users\""), "{}", nobody.stderr);
}

/// Each joins by itself, with certificates and a tunnel of its own, and comes back when the server does.
#[test]
fn hollow_agents_join_and_come_back() {
    const AGENTS: usize = 20;
    let mut cluster = Cluster::control_plane();
    let binary = binary().display().to_string();
    let count = AGENTS.to_string();
    let own = ["--nodes", &count, "--kubeconfig", "kubeconfig", "--agents", "agents", "--join", API];
    let own = [&own[..], &["--token-file", "data/server/token"]].concat();
    let log = cluster.sandbox.folder.join("agents.log");
    let mut agents = cluster.sandbox.background(&log, |_| {}, &words(&binary, &own));
    said(&cluster, "agents.log", &format!("{AGENTS} hollow nodes are Ready"));
    let issued = |cluster: &Cluster| {
        let requests = cluster.kubectl("get csr --no-headers");
        requests.lines().filter(|line| line.ends_with("Approved,Issued")).count()
    };
    // What they show to the server and what they would show to who asks them.
    wait_for("certificates of all", SOON, || (issued(&cluster) == 2 * AGENTS).then_some(()));
    let established = |cluster: &Cluster| {
        let lines = cluster.sandbox.sh("ss -Htn state established '( sport = :6443 )' | wc -l").ok();
        lines.trim().parse::<usize>().unwrap()
    };
    wait_for("a connection and a tunnel of each", SOON, || {
        (established(&cluster) >= 2 * AGENTS).then_some(())
    });
    let renewed = |cluster: &Cluster| {
        let leases = cluster.json("leases -n kube-node-lease");
        let times = leases["items"].as_array().unwrap().iter();
        times.map(|lease| lease["spec"]["renewTime"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let before = renewed(&cluster);
    assert_eq!(before.len(), AGENTS);
    cluster.stop("KILL");
    cluster.start();
    wait_for("all of them back", SOON, || {
        let after = renewed(&cluster);
        before.iter().all(|time| !after.contains(time)).then_some(())
    });
    wait_for("their tunnels", SOON, || (established(&cluster) >= 2 * AGENTS).then_some(()));
    assert_eq!(agents.stop("TERM"), 0);
}
