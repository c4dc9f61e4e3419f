//! Agents and their servers: which ones they go to, and what becomes of it when either gets another address.

use crate::support::cluster::{DISK, IMAGE, SOON, is_ready};
use crate::support::fleet::{Fleet, WIRE};
use crate::support::https::JSON;
use crate::support::process::wait_for;
use crate::support::servers::Servers;
use crate::support::{binary, image};
use base::clock;
use serde_json::Value;
use std::fs;
use std::time::Duration;

/// Two families on all machines, whose numbers on the wire are their addresses' last.
const FAMILIES: [&str; 4] =
    ["--cluster-cidr", "10.42.0.0/16,fd00:42::/56", "--service-cidr", "10.43.0.0/16,fd00:43::/112"];

/// Another address of the server, on the wire, as of something that stands before it.
const FORWARD: &str = "set -e
echo 1 > /proc/sys/net/ipv4/ip_forward
nft -f - <<RULES
table ip before {
  chain pre {
    type nat hook prerouting priority -100;
    ip daddr 10.99.0.1 tcp dport 6443 dnat to 10.99.0.2:6443
  }
  chain post {
    type nat hook postrouting priority 100;
    ip daddr 10.99.0.2 tcp dport 6443 masquerade
  }
  chain through {
    type filter hook forward priority 0;
  }
}
RULES
";
const FORWARDED: [&str; 2] = ["--join", "https://10.99.0.1:6443"];

fn pod(name: &str, node: &str) -> String {
    format!(
        r#"apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: {name}}}}}
spec:
  nodeName: {node}
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: {IMAGE}
    command: [sh, -c, 'echo "I am {name}"; hostname > /www/index.html; exec httpd -f -p "[::]:80" -h /www']
    readinessProbe: {{tcpSocket: {{port: 80}}, periodSeconds: 1}}
"#
    )
}

/// How long it takes until a node runs a pod that it was given now, and until its kubelet is reached.
#[track_caller]
fn runs(fleet: &Fleet, name: &str, node: &str) -> [Duration; 2] {
    let began = clock::instant();
    fleet.cluster.apply(&pod(name, node));
    fleet.cluster.pod_ready(name);
    let ran = began.elapsed();
    let said = format!("I am {name}\n");
    wait_for("logs", SOON, || (fleet.cluster.try_kubectl(&["logs", name]).stdout == said).then_some(()));
    [ran, began.elapsed()]
}

/// Which servers an agent keeps for its next start.
fn kept(fleet: &Fleet, name: &str) -> Vec<String> {
    let file = fleet.cluster.sandbox.folder.join(name).join("data/agent/tls/servers.json");
    let kept: Value = serde_json::from_str(&fs::read_to_string(file).unwrap_or_default()).unwrap_or_default();
    let servers = kept["servers"].as_array().into_iter().flatten();
    servers.filter_map(|server| Some(server.as_str()?.to_owned())).collect()
}

#[test]
fn an_agent_goes_where_a_server_answers() {
    let mut fleet = Fleet::new(&["--tls-san", "10.99.0.1"]);
    fleet.sh_on(WIRE, FORWARD).ok();
    fleet.machine("b", 3);
    let token = fleet.token_file();
    fleet.start("b", &[&FORWARDED[..], &["--token-file", &token]].concat());
    fleet.node_is_ready("b");
    wait_for("the list of servers", SOON, || (kept(&fleet, "b") == ["10.99.0.2:6443"]).then_some(()));
    runs(&fleet, "first", "b");
    // Nothing is refused: it is only never answered.
    fleet.sh_on(WIRE, "nft 'add rule ip before through ct status dnat drop'").ok();
    let [ran, reached] = runs(&fleet, "second", "b");
    eprintln!(
        "after its server fell silent an agent ran a pod after {ran:?}, and was reached after {reached:?}"
    );
    assert!(ran < Duration::from_secs(30) && reached < Duration::from_secs(45), "{ran:?} {reached:?}");
    fleet.stop("b", "TERM");
    fleet.start("b", &FORWARDED);
    assert!(!fleet.screen("b").contains("going on with what it told"), "{}", fleet.screen("b"));
    runs(&fleet, "third", "b");
}

/// What was on its way is made anew at once, from the new address.
#[test]
fn a_moved_agent_answers_at_once() {
    let mut fleet = Fleet::new(&[]);
    fleet.join("b", 3);
    runs(&fleet, "before", "b");
    let change = "ip addr del 10.99.0.3/24 dev eth0; ip addr add 10.99.0.33/24 dev eth0; \
                  ip route replace default via 10.99.0.1";
    fleet.sh_on("b", change).ok();
    let [ran, reached] = runs(&fleet, "after", "b");
    eprintln!("a moved agent ran a pod after {ran:?}, and was reached after {reached:?}");
    assert!(ran < Duration::from_secs(10) && reached < Duration::from_secs(15), "{ran:?} {reached:?}");
}

#[test]
fn a_server_gets_another_address() {
    let mut fleet = Fleet::new(&FAMILIES);
    fleet.join("b", 3);
    runs(&fleet, "before", "b");
    runs(&fleet, "own", "node-1");
    wait_for("the list of servers", SOON, || (kept(&fleet, "b").len() == 2).then_some(()));
    let change = "ip addr del 10.99.0.2/24 dev eth0; ip addr add 10.99.0.22/24 dev eth0; \
                  ip route replace default via 10.99.0.1";
    fleet.cluster.sandbox.sh(change).ok();
    let began = clock::instant();
    shows_certificates(&fleet);
    endpoints(&fleet);
    let healed = began.elapsed();
    let [ran, reached] = runs(&fleet, "after", "b");
    eprintln!(
        "a moved server was itself after {healed:?}; an agent ran a pod {ran:?} later, and was reached after {reached:?}"
    );
    wait_for("the new list of servers", SOON, || {
        kept(&fleet, "b").contains(&"10.99.0.22:6443".to_owned()).then_some(())
    });
    // Pods of the two reach each other, and the API by its Service.
    for (from, to) in [("after", "own"), ("own", "before")] {
        let pod = fleet.cluster.json(&format!("pod {to}"));
        let ask = format!("curl -sf --max-time 2 http://{}/", pod["status"]["podIP"].as_str().unwrap());
        assert_eq!(fleet.until("a page", SOON, from, &ask), format!("{to}\n"));
        fleet.until("the API", SOON, from, "nc -w 3 10.43.0.1 443 </dev/null");
    }
    assert_eq!(fleet.cluster.screen().matches("Ready in").count(), 1, "it was not started again");
}

/// Of the new address, for the API and the kubelet.
fn shows_certificates(fleet: &Fleet) {
    for port in [6443, 10_250] {
        let ask = format!(
            "openssl s_client -connect 10.99.0.22:{port} -CAfile ca.pem -verify_ip 10.99.0.22 -verify_return_error </dev/null"
        );
        wait_for("a certificate of the new address", SOON, || {
            fleet.cluster.sandbox.sh(&ask).stdout.contains("Verify return code: 0").then_some(())
        });
    }
}

fn endpoints(fleet: &Fleet) {
    fleet.cluster.wait("node node-1", |node| {
        let addresses = node["status"]["addresses"].as_array()?;
        let internal = addresses.iter().filter(|one| one["type"] == "InternalIP");
        let internal: Vec<&str> = internal.filter_map(|one| one["address"].as_str()).collect();
        (internal == ["10.99.0.22", "2001:db8:99::2"]).then_some(())
    });
    fleet.cluster.wait("endpointslice kubernetes", |slice| {
        let endpoints = slice["endpoints"].as_array()?;
        (endpoints.len() == 1 && endpoints[0]["addresses"][0] == "10.99.0.22").then_some(())
    });
}

/// What an agent of this name in a sandbox is told.
fn agent_words(servers: &Servers, name: &str) -> Vec<String> {
    let folder = servers.sandbox.folder.join(name);
    let images = folder.join("data/agent/images");
    fs::create_dir_all(&images).unwrap();
    image::write(&images.join("busybox-1.tar"), IMAGE, "version 1\n");
    let at = |file: &str| folder.join(file).display().to_string();
    let pairs = [
        ("--config", at("config.yaml")),
        ("--data-dir", at("data")),
        ("--run-dir", at("run")),
        ("--kubelet-dir", at("kubelet")),
        ("--log-dir", at("log")),
        ("--node-name", name.to_owned()),
        ("--kubelet-arg", DISK.to_owned()),
        // Not the servers' own, for which a node gets no certificate.
        ("--node-ip", "10.99.0.50".to_owned()),
        ("--join", "https://10.99.0.2:6443".to_owned()),
        ("--token-file", servers.sandbox.folder.join("s0/data/server/token").display().to_string()),
    ];
    let pairs = pairs.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]);
    [binary().display().to_string(), "agent".to_owned()].into_iter().chain(pairs).collect()
}

/// Has the agent run a pod by way of one server, and reads its log by way of each of these; tells how long that took.
#[track_caller]
fn runs_by(servers: &Servers, name: &str, alive: &[usize]) -> [Duration; 2] {
    let pods = "/api/v1/namespaces/default/pods";
    let began = clock::instant();
    let pod: Value = serde_yaml::from_str(&pod(name, "b")).unwrap();
    wait_for("a pod that is taken", SOON, || {
        (servers.https(alive[0]).send("POST", pods, JSON, &pod).0 == 201).then_some(())
    });
    wait_for("a ready pod", SOON, || {
        is_ready(&servers.https(alive[0]).call("GET", &format!("{pods}/{name}")).1).then_some(())
    });
    let ran = began.elapsed();
    for at in alive {
        let mut last = Value::Null;
        let deadline = clock::instant() + SOON / 2;
        wait_for(&format!("logs by server {at}"), SOON, || {
            last = servers.https(*at).call("GET", &format!("{pods}/{name}/log")).1;
            assert!(clock::instant() < deadline, "server {at} answers {last}");
            (last == format!("I am {name}\n").as_str()).then_some(())
        });
    }
    [ran, began.elapsed()]
}

/// Three servers on three members of etcd, of which two die and one comes back.
#[test]
fn an_agent_has_a_tunnel_to_every_server_and_outlives_them() {
    let mut servers = Servers::new(3, &[]);
    servers.sandbox.sh("ip addr add 10.99.0.50/24 dev eth0").ok();
    let words = agent_words(&servers, "b");
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let log = servers.sandbox.folder.join("b.log");
    let _agent = servers.sandbox.background(&log, |_| {}, &words);
    let said = || fs::read_to_string(&log).unwrap_or_default();
    wait_for("an agent that says Ready", SOON, || said().contains("Ready in").then_some(()));
    runs_by(&servers, "first", &[0, 1, 2]);
    for (dead, alive) in [(0, &[1, 2][..]), (1, &[2][..])] {
        servers.stop(dead, "KILL");
        let took = runs_by(&servers, &format!("without-{dead}"), alive);
        eprintln!(
            "after server {dead} died an agent ran a pod, and was reached by all others, after {took:?}"
        );
        assert!(took[1] < Duration::from_secs(30), "{took:?}: {}", said());
    }
    servers.start(0);
    runs_by(&servers, "last", &[0, 2]);
}
