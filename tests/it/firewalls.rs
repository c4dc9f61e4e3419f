//! knarr beside others who use nftables: it leaves what is theirs alone, and puts back what they take from it.

use crate::support::cluster::{Cluster, IMAGE, SOON};
use crate::support::process::wait_for;

fn manifest() -> String {
    let pod = |name: &str| {
        format!(
            r#"---
apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: {name}}}}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: web
    image: {IMAGE}
    command: [sh, -c, 'echo {name} > /www/index.html; exec httpd -f -p 80 -h /www']
    readinessProbe: {{tcpSocket: {{port: 80}}, periodSeconds: 1}}
"#
        )
    };
    let rest = r#"---
apiVersion: v1
kind: Service
metadata: {name: open}
spec:
  selector: {app: open}
  ports: [{port: 80}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: nobody}
spec:
  podSelector: {matchLabels: {app: shut}}
  policyTypes: [Ingress]
"#;
    format!("{}{}{rest}", pod("open"), pod("shut"))
}

/// A firewall of the machine's owner.
const OTHERS: &str = "table inet others {
    chain input {
        type filter hook input priority 10; policy accept;
        tcp dport 9999 drop
    }
}
";

const TABLES: [&str; 3] = ["table ip knarr-net", "table ip knarr-proxy", "table inet knarr-policy"];

fn nft(cluster: &Cluster, script: &str) -> String {
    cluster.sandbox.run(&["sh", "-c", &format!("nft -f - <<'E'\n{script}\nE\n")]).ok()
}

fn tables(cluster: &Cluster) -> String {
    cluster.sandbox.run(&["nft", "list", "tables"]).ok()
}

#[test]
fn what_a_firewall_takes_comes_back() {
    let cluster = Cluster::new();
    cluster.apply(&manifest());
    cluster.pod_ready("open");
    cluster.pod_ready("shut");
    let shut = cluster.json("pod shut")["status"]["podIP"].as_str().unwrap().to_owned();
    works(&cluster, &shut);
    nft(&cluster, OTHERS);
    works(&cluster, &shut);
    // What `systemctl restart nftables` does with the configuration that Debian gives it.
    nft(&cluster, &format!("flush ruleset\n{OTHERS}"));
    wait_for("tables that were put back", SOON, || {
        let there = tables(&cluster);
        TABLES.iter().all(|table| there.contains(table)).then_some(())
    });
    works(&cluster, &shut);
    assert!(tables(&cluster).contains("table inet others"), "{}", tables(&cluster));
    let said = cluster.screen();
    for what in ["the pods' network", "services", "network policies"] {
        assert!(said.contains(&format!("somebody removed the tables of {what}")), "{what}: {said}");
    }
    knarr_leaves_alone(&cluster);
}

/// The last policy takes its table along, which is nobody else's doing.
fn knarr_leaves_alone(cluster: &Cluster) {
    let told = |cluster: &Cluster| cluster.screen().matches("tables of network policies").count();
    let before = told(cluster);
    cluster.kubectl("delete networkpolicy nobody");
    wait_for("the table of policies to go", SOON, || {
        (!tables(cluster).contains("knarr-policy")).then_some(())
    });
    cluster.kubectl("expose pod shut --port 80 --name later");
    wait_for("an answer of another service", SOON, || {
        (fetch(cluster, "shut", "later") == "shut\n").then_some(())
    });
    assert_eq!(told(cluster), before);
}

/// Fetches a page from within a pod.
fn fetch(cluster: &Cluster, from: &str, host: &str) -> String {
    let script = format!("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 3 {host} 80 | tail -n 1");
    cluster.exec(from, &script).stdout
}

fn works(cluster: &Cluster, shut: &str) {
    wait_for("an answer of the service", SOON, || (fetch(cluster, "shut", "open") == "open\n").then_some(()));
    wait_for("a pod that nobody reaches", SOON, || fetch(cluster, "open", shut).is_empty().then_some(()));
}
