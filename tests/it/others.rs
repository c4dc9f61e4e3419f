//! Network plugins of others: instead of knarr's own, and those that delegate to it.

use crate::support::cluster::{Cluster, IMAGE, SOON, is_ready};
use crate::support::process::wait_for;
use crate::support::require;
use serde_json::Value;

fn pod(name: &str, more: &str) -> String {
    format!(
        r#"apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: {name}}}}}
spec:
  terminationGracePeriodSeconds: 1
  {more}
  containers:
  - name: web
    image: {IMAGE}
    command: [sh, -c, 'echo {name} > /www/index.html; exec httpd -f -p 80 -h /www']
    readinessProbe: {{httpGet: {{path: /, port: 80}}, periodSeconds: 1}}
---
"#
    )
}

fn service(name: &str) -> String {
    format!(
        r#"apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec:
  type: NodePort
  selector: {{app: {name}}}
  ports: [{{port: 80, nodePort: 30080}}]
---
"#
    )
}

const SHUT: &str = "apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: shut}
spec:
  podSelector: {matchLabels: {app: shut}}
  policyTypes: [Ingress]
  ingress: [{from: [{podSelector: {matchLabels: {app: friend}}}]}]
";

/// Pods with addresses of its own, which leave by the node.
const PTP: &str = r#"{"cniVersion": "1.0.0", "name": "theirs", "plugins": [{"type": "ptp", "ipMasq": true,
    "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.88.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}],
        "dataDir": "/run/host-local"}}]}
"#;

fn configure(cluster: &Cluster, name: &str, text: &str) {
    let script = format!("mkdir -p /etc/cni/net.d && cat > /etc/cni/net.d/{name} <<'E'\n{text}\nE\n");
    cluster.sandbox.sh(&script).ok();
}

/// Why the node is not ready; nothing once it is.
fn trouble(cluster: &Cluster) -> Option<String> {
    let node = cluster.json("node node-1");
    let mut conditions = node["status"]["conditions"].as_array()?.iter();
    let ready = conditions.find(|condition| condition["type"] == "Ready")?;
    (ready["status"] != "True").then(|| ready["message"].as_str().unwrap_or_default().to_owned())
}

fn address(cluster: &Cluster, pod: &str) -> String {
    cluster.json(&format!("pod {pod}"))["status"]["podIP"].as_str().unwrap_or_default().to_owned()
}

#[track_caller]
fn fetches(cluster: &Cluster, from: &str, host: &str, wanted: &str) {
    let script = format!("curl -sf --max-time 2 http://{host}/");
    wait_for(&format!("{wanted} at {host} from {from}"), SOON, || {
        (cluster.exec(from, &script).stdout.trim() == wanted).then_some(())
    });
}

#[test]
fn without_a_network_of_its_own_a_node_waits_for_that_of_others() {
    require(&[("/usr/lib/cni/ptp", "containernetworking-plugins")]);
    let mut cluster = Cluster::prepared(&[]);
    cluster.tell(&["--network-backend", "none", "--cluster-cidr", "10.88.0.0/16"]);
    cluster.start();
    let why = wait_for("a node that is not ready", SOON, || trouble(&cluster));
    let wanted = "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady \
                  message:Network plugin returns error: cni plugin not initialized";
    assert_eq!(why, wanted);
    assert!(cluster.screen().contains("the node is not ready before there is a configuration"));
    // What brings the plugin may be a pod: it is of the node's own network, and starts.
    let tolerant = "hostNetwork: true\n  tolerations: [{operator: Exists}]";
    cluster.apply(&pod("installer", tolerant).replace("80", "8099"));
    cluster.pod_ready("installer");
    configure(&cluster, "50-half.conflist", "{\"cniVersion\": ");
    configure(&cluster, "87-theirs.conflist", PTP);
    wait_for("a node that is ready", SOON, || trouble(&cluster).is_none().then_some(()));
    assert!(cluster.screen().contains("50-half.conflist") && cluster.screen().contains("87-theirs.conflist"));
    cluster.apply(&[pod("web", ""), pod("friend", ""), pod("shut", ""), service("web")].concat());
    works(&cluster);
    let links = cluster.sandbox.run(&["ip", "-o", "link"]).ok();
    let pods = links.lines().filter(|line| line.contains("knarr") && !line.contains("knarr0"));
    assert_eq!(pods.count(), 0, "{links}");
    // Neither a start nor a configuration that goes and comes needs anything else.
    assert_eq!(cluster.stop("TERM"), 0);
    cluster.start();
    works(&cluster);
    cluster.sandbox.sh("rm /etc/cni/net.d/*").ok();
    wait_for("a node without a network", SOON, || trouble(&cluster));
    configure(&cluster, "87-theirs.conflist", PTP);
    wait_for("a node that is ready again", SOON, || trouble(&cluster).is_none().then_some(()));
    cluster.kubectl("delete pod web friend shut installer");
    let left = || cluster.sandbox.sh("ls /run/host-local/theirs | grep -c ^10.88 || true").ok();
    wait_for("addresses that were given back", SOON, || (left().trim() == "0").then_some(()));
    outsiders_are_not_answered(&cluster);
}

/// Services, DNS, probes and policies hold for pods that another plugin attached.
fn works(cluster: &Cluster) {
    for name in ["web", "friend", "shut"] {
        cluster.pod_ready(name);
        assert!(address(cluster, name).starts_with("10.88.0."), "{}", address(cluster, name));
    }
    fetches(cluster, "friend", &address(cluster, "web"), "web");
    fetches(cluster, "friend", "web", "web");
    fetches(cluster, "web", "web.default.svc.cluster.local", "web");
    cluster.answers("http://10.99.0.2:30080/", "web\n");
    let cluster_ip = cluster.json("service web")["spec"]["clusterIP"].as_str().unwrap().to_owned();
    cluster.answers(&format!("http://{cluster_ip}/"), "web\n");
    cluster.apply(SHUT);
    let shut = address(cluster, "shut");
    wait_for("a pod that is shut", SOON, || {
        (cluster.exec("web", &format!("curl -s --max-time 2 http://{shut}/")).code != 0).then_some(())
    });
    fetches(cluster, "friend", &shut, "shut");
    cluster.kubectl("delete networkpolicy shut");
}

/// A machine on the link asks the node's DNS, which is for the cluster.
fn outsiders_are_not_answered(cluster: &Cluster) {
    let rules = cluster.sandbox.run(&["nft", "list", "chain", "ip", "knarr-net", "input"]).ok();
    assert!(rules.contains("iifname \"eth0\" ip saddr != @pods ip daddr @services drop"), "{rules}");
}

/// Attaches pods by knarr's own network, and those called `double` to two more: knarr's plugin under another name, and a
/// bridge. As Multus does, it is found by its name, finds others by `CNI_PATH` and says what the first network said.
const META: &str = r#"#!/bin/sh
set -e
cat > /dev/null
network() { printf '{"cniVersion": "1.0.0", "name": "%s", "type": "%s"%s}' "$1" "$2" "$3"; }
first() { network knarr knarr-cni | CNI_IFNAME=eth0 "$CNI_PATH/knarr-cni"; }
second() {
    network second knarr-cni ', "mtu": 1300, "runtimeConfig": {"ips": ["10.42.0.210"], "mac": "02:00:00:00:00:d2"}' |
        CNI_IFNAME=net1 "$CNI_PATH/knarr-cni"
}
third() {
    network third bridge ', "bridge": "theirs0",
        "ipam": {"type": "host-local", "subnet": "10.77.0.0/24", "dataDir": "/run/host-local"}' |
        CNI_IFNAME=net2 "$CNI_PATH/bridge"
}
echo "$CNI_COMMAND $CNI_ARGS" >> /run/meta.log
case "$CNI_COMMAND $CNI_ARGS" in
    VERSION*) echo '{"cniVersion": "1.0.0", "supportedVersions": ["1.0.0"]}' ;;
    ADD*K8S_POD_NAME=double*) first; second > /dev/null; third > /dev/null ;;
    DEL*K8S_POD_NAME=double*) third; second; first ;;
    *) first ;;
esac
"#;

#[test]
fn a_plugin_that_comes_first_delegates_to_knarrs() {
    require(&[("/usr/lib/cni/bridge", "containernetworking-plugins")]);
    let cluster = Cluster::new();
    // A way back that is not the one there is believed by nobody.
    cluster.sandbox.sh("sysctl -qw net.ipv4.conf.all.rp_filter=1 net.ipv4.conf.default.rp_filter=1").ok();
    cluster.apply(&pod("before", ""));
    cluster.pod_ready("before");
    let plugin = format!(
        "mkdir -p /opt/cni/bin; cat > /opt/cni/bin/meta <<'END'\n{META}END\nchmod +x /opt/cni/bin/meta"
    );
    cluster.sandbox.sh(&plugin).ok();
    configure(&cluster, "00-meta.conf", r#"{"cniVersion": "1.0.0", "name": "meta", "type": "meta"}"#);
    let said = "whose name comes before knarr's own 10-knarr.conflist";
    wait_for("a sentence of it", SOON, || cluster.screen().contains(said).then_some(()));
    cluster.apply(&[pod("single", ""), pod("double", "")].concat());
    cluster.pod_ready("single");
    cluster.pod_ready("double");
    assert!(cluster.sandbox.sh("cat /run/meta.log").ok().contains("ADD"), "it was asked");
    three_links_are_there(&cluster);
    // Each address is reached and answers by its own link.
    for at in [address(&cluster, "double"), "10.42.0.210".to_owned()] {
        fetches(&cluster, "single", &at, "double");
        fetches(&cluster, "before", &at, "double");
        cluster.answers(&format!("http://{at}/"), "double\n");
    }
    fetches(&cluster, "double", &address(&cluster, "single"), "single");
    let by_second =
        format!("curl -sf --max-time 5 --interface 10.42.0.210 http://{}/", address(&cluster, "single"));
    assert_eq!(cluster.exec("double", &by_second).ok(), "single\n");
    cluster.kubectl("delete pod double single");
    let taken = cluster.sandbox.folder.join("run/cni/ip/addresses.json");
    let taken = || serde_json::from_str::<Value>(&std::fs::read_to_string(&taken).unwrap()).unwrap();
    wait_for("addresses that were given back", SOON, || {
        (taken()["taken"].as_object().unwrap().len() == 1).then_some(())
    });
    cluster.sandbox.sh("rm /etc/cni/net.d/00-meta.conf").ok();
    wait_for("a sentence of its end", SOON, || {
        cluster.screen().contains("pods are attached by knarr's own plugin again").then_some(())
    });
    cluster.apply(&pod("after", ""));
    cluster.pod_ready("after");
    fetches(&cluster, "after", &address(&cluster, "before"), "before");
    assert!(is_ready(&cluster.json("node node-1")));
}

fn three_links_are_there(cluster: &Cluster) {
    let links = cluster
        .exec("double", "ip -o addr; cat /sys/class/net/net1/mtu /sys/class/net/net1/address; ip route");
    let links = links.ok();
    for wanted in [
        &format!("inet {}/32", address(cluster, "double")),
        "inet 10.42.0.210/32",
        "inet 10.77.0.",
        "02:00:00:00:00:d2",
        "1300",
        "default via 10.42.0.1 dev eth0",
        "default via 10.42.0.1 dev net1  metric",
    ] {
        assert!(links.contains(wanted), "{wanted} in {links}");
    }
    assert_ne!(address(cluster, "double"), "10.42.0.210");
}
