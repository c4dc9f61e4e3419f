//! Pods and services with addresses of both families, in a cluster that had one at first.

use crate::support::cluster::{Cluster, IMAGE, SOON};
use crate::support::process::wait_for;
use serde_json::{Value, json};

const BLOCKS: [&str; 4] =
    ["--cluster-cidr", "10.42.0.0/16,fd00:42::/56", "--service-cidr", "10.43.0.0/16,fd00:43::/112"];

fn manifest() -> String {
    format!(
        r#"apiVersion: v1
kind: Pod
metadata: {{name: web, labels: {{app: web}}}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: web
    image: {IMAGE}
    command: [sh, -c, 'echo "$IPS" > /www/index.html; exec httpd -f -p "[::]:80" -h /www']
    env: [{{name: IPS, valueFrom: {{fieldRef: {{fieldPath: status.podIPs}}}}}}]
    readinessProbe: {{tcpSocket: {{port: 80}}, periodSeconds: 1}}
---
apiVersion: v1
kind: Pod
metadata: {{name: client}}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{{name: client, image: {IMAGE}, command: [sleep, "1000"]}}]
---
apiVersion: v1
kind: Service
metadata: {{name: web}}
spec:
  selector: {{app: web}}
  ports: [{{port: 80}}]
"#
    )
}

fn texts(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().map(|text| text.as_str().unwrap_or_default().to_owned()).collect()
}

#[test]
fn a_cluster_gets_a_second_family() {
    let mut cluster = Cluster::prepared(&[]);
    cluster.start();
    let before = cluster.json("service kubernetes");
    cluster.stop("TERM");
    for line in
        ["ip -6 addr add 2001:db8:99::2/64 dev eth0 nodad", "ip -6 route add default via 2001:db8:99::1"]
    {
        cluster.sandbox.run(&line.split(' ').collect::<Vec<_>>()).ok();
    }
    cluster.tell(&BLOCKS);
    cluster.start();
    assert_eq!(cluster.json("service kubernetes")["spec"], before["spec"], "what is there stays");
    assert_eq!(
        texts(&cluster.json("servicecidr kubernetes")["spec"]["cidrs"]),
        ["10.43.0.0/16", "fd00:43::/112"]
    );
    let dns = cluster.json("service kube-dns -n kube-system");
    assert_eq!(texts(&dns["spec"]["clusterIPs"]), ["10.43.0.10", "fd00:43::a"]);
    services_of_both(&cluster);
}

/// A node keeps the blocks it was given, as in Kubernetes: what is new here are services.
fn services_of_both(cluster: &Cluster) {
    let both = r#"{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "both"},
        "spec": {"ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv6", "IPv4"], "ports": [{"port": 80}]}}"#;
    cluster.apply(both);
    let made = cluster.json("service both");
    let addresses = texts(&made["spec"]["clusterIPs"]);
    assert!(addresses[0].starts_with("fd00:43::") && addresses[1].starts_with("10.43."), "{addresses:?}");
    let outside =
        both.replace("both", "outside").replace("\"ports\"", "\"clusterIP\": \"fd00:44::1\", \"ports\"");
    let said = cluster.kubectl_with(&outside, &["apply", "-f", "-"]);
    assert!(said.stderr.contains("the provided network does not match the current range"), "{said:?}");
}

#[test]
fn pods_have_addresses_of_both_families() {
    let mut cluster = Cluster::prepared(&[]);
    for line in
        ["ip -6 addr add 2001:db8:99::2/64 dev eth0 nodad", "ip -6 route add default via 2001:db8:99::1"]
    {
        cluster.sandbox.run(&line.split(' ').collect::<Vec<_>>()).ok();
    }
    cluster.tell(&BLOCKS);
    cluster.start();
    let node = cluster.json("node node-1");
    assert_eq!(texts(&node["spec"]["podCIDRs"]), ["10.42.0.0/24", "fd00:42::/64"]);
    let internal =
        node["status"]["addresses"].as_array().unwrap().iter().filter(|one| one["type"] == "InternalIP");
    assert_eq!(internal.map(|one| &one["address"]).collect::<Vec<_>>(), ["10.99.0.2", "2001:db8:99::2"]);
    cluster.apply(&manifest());
    cluster.pod_ready("web");
    cluster.pod_ready("client");
    let pod = cluster.json("pod web");
    let ips: Vec<&str> =
        pod["status"]["podIPs"].as_array().unwrap().iter().map(|ip| ip["ip"].as_str().unwrap()).collect();
    assert_eq!(pod["status"]["podIP"], json!(ips[0]));
    let [v4, v6] = ips[..] else { panic!("{ips:?}") };
    let page = format!("{v4},{v6}\n");
    for host in [v4.to_owned(), format!("[{v6}]")] {
        let fetched = cluster.sandbox.run(&["curl", "-sS", "--max-time", "5", &format!("http://{host}/")]);
        assert_eq!(fetched.ok(), page, "from the node");
    }
    let fetch = format!("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 5 {v6} 80");
    assert!(cluster.exec("client", &fetch).ok().ends_with(&page), "from another pod");
    widened(&cluster, &page);
}

/// A service of one family gets the second, serves by both, and gives it back.
fn widened(cluster: &Cluster, page: &str) {
    let v4 = texts(&cluster.json("service web")["spec"]["clusterIPs"]);
    assert_eq!(v4.len(), 1);
    cluster.kubectl(r#"patch service web -p {"spec":{"ipFamilyPolicy":"PreferDualStack"}}"#);
    let both = texts(&cluster.json("service web")["spec"]["clusterIPs"]);
    assert!(both[0] == v4[0] && both[1].starts_with("fd00:43::"), "{both:?}");
    for host in [both[0].clone(), format!("[{}]", both[1])] {
        let url = format!("http://{host}/");
        wait_for("an answer of the service", SOON, || {
            let fetched = cluster.sandbox.run(&["curl", "-sS", "--max-time", "5", &url]);
            (fetched.stdout == page).then_some(())
        });
    }
    cluster.kubectl(&format!("get ipaddress {}", both[1]));
    cluster.kubectl(r#"patch service web -p {"spec":{"ipFamilyPolicy":"SingleStack"}}"#);
    assert_eq!(texts(&cluster.json("service web")["spec"]["clusterIPs"]), v4);
    assert!(!cluster.try_kubectl(&["get", "ipaddress", &both[1]]).stderr.is_empty(), "it was given back");
}
