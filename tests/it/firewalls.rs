//! knarr beside others who use nftables: it leaves what is theirs alone, and puts back what they take from it.

mod real;

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

/// What Docker's daemon puts there by iptables-nft, where nothing was forwarded before it came.
const DOCKER: &str = "table ip nat {
    chain DOCKER {
        iifname docker0 return
    }
    chain PREROUTING {
        type nat hook prerouting priority -100; policy accept;
        fib daddr type local jump DOCKER
    }
    chain POSTROUTING {
        type nat hook postrouting priority 100; policy accept;
        ip saddr 172.17.0.0/16 oifname != docker0 masquerade
    }
}
table ip filter {
    chain DOCKER {
    }
    chain DOCKER-ISOLATION-STAGE-1 {
        return
    }
    chain DOCKER-USER {
        return
    }
    chain FORWARD {
        type filter hook forward priority 0; policy drop;
        jump DOCKER-USER
        jump DOCKER-ISOLATION-STAGE-1
        oifname docker0 ct state established,related accept
        oifname docker0 jump DOCKER
        iifname docker0 oifname != docker0 accept
    }
}
";

/// What `ufw enable` puts there, without its logging.
const UFW: &str = "table ip filter {
    chain ufw-user-input {
    }
    chain ufw-user-forward {
    }
    chain ufw-before-input {
        iifname lo accept
        ct state established,related accept
        jump ufw-user-input
    }
    chain ufw-before-forward {
        ct state established,related accept
        icmp type echo-request accept
        jump ufw-user-forward
    }
    chain INPUT {
        type filter hook input priority 0; policy drop;
        jump ufw-before-input
    }
    chain FORWARD {
        type filter hook forward priority 0; policy drop;
        jump ufw-before-forward
    }
}
";

/// What the commands that ufw is to be told put there.
const UFW_TOLD: &str = "add rule ip filter ufw-user-input ip saddr 10.42.0.0/16 accept
add rule ip filter ufw-user-forward ip saddr 10.42.0.0/16 accept
add rule ip filter ufw-user-forward ip daddr 10.42.0.0/16 accept
";

/// What firewalld puts there, as far as its zone `public` decides.
const FIREWALLD: &str = "table inet firewalld {
    chain filter_INPUT_ZONES {
    }
    chain filter_FORWARD_ZONES {
    }
    chain filter_INPUT {
        type filter hook input priority 10; policy accept;
        ct state established,related accept
        ct status dnat accept
        iifname lo accept
        jump filter_INPUT_ZONES
        reject with icmpx type admin-prohibited
    }
    chain filter_FORWARD {
        type filter hook forward priority 10; policy accept;
        ct state established,related accept
        ct status dnat accept
        iifname lo accept
        jump filter_FORWARD_ZONES
        reject with icmpx type admin-prohibited
    }
}
";

/// Its zone `trusted` with pods as a source.
const FIREWALLD_TOLD: &str = "add rule inet firewalld filter_INPUT_ZONES ip saddr 10.42.0.0/16 accept
add rule inet firewalld filter_FORWARD_ZONES ip saddr 10.42.0.0/16 accept
";

fn fails(cluster: &Cluster) {
    wait_for("no answer any more", SOON, || fetch(cluster, "shut", "open").is_empty().then_some(()));
}

fn answers(cluster: &Cluster) {
    wait_for("an answer", SOON, || (fetch(cluster, "shut", "open") == "open\n").then_some(()));
}

#[test]
fn pods_pass_where_others_drop() {
    let cluster = Cluster::new();
    cluster.apply(&manifest());
    cluster.pod_ready("open");
    cluster.pod_ready("shut");
    answers(&cluster);
    // Docker's own way for others is taken, also when it comes later and when it is taken away.
    nft(&cluster, DOCKER);
    let through = || {
        let rules = cluster.sandbox.run(&["nft", "list", "chain", "ip", "filter", "DOCKER-USER"]).ok();
        (rules.matches("comment \"knarr\"").count() == 2).then_some(rules)
    };
    wait_for("pods let through", SOON, through);
    answers(&cluster);
    nft(&cluster, "flush chain ip filter DOCKER-USER");
    let rules = wait_for("pods let through again", SOON, through);
    assert!(rules.contains("ip saddr 10.42.0.0/16 accept") && rules.contains("ip daddr 10.42.0.0/16 accept"));
    answers(&cluster);
    nft(&cluster, "delete table ip filter\ndelete table ip nat");
    // Of others it is told what they have to be told.
    for (firewall, hint, told) in [
        (UFW, "ufw allow from 10.42.0.0/16", UFW_TOLD),
        (FIREWALLD, "--zone=trusted --add-source=10.42.0.0/16", FIREWALLD_TOLD),
    ] {
        nft(&cluster, firewall);
        fails(&cluster);
        wait_for(hint, SOON, || cluster.screen().contains(hint).then_some(()));
        nft(&cluster, told);
        answers(&cluster);
        let table = if firewall == UFW { "ip filter" } else { "inet firewalld" };
        nft(&cluster, &format!("delete table {table}"));
        answers(&cluster);
    }
}
