//! Addresses that one node at a time answers for, by ARP and NDP: two nodes and a client on one bridge.

use crate::support::cluster::IMAGE;
use crate::support::feed::Feed;
use crate::support::fleet::{Fleet, WIRE};
use crate::support::https::runtime;
use crate::support::process::{command, run, wait_for};
use crate::support::sandbox::Sandbox;
use crate::support::spots::{self, Spot};
use base::Supervisor;
use client::Caches;
use serde_json::json;
use std::time::Duration;
use tokio::runtime::Runtime;

const SOON: Duration = Duration::from_secs(20);
/// Who has an address at hand must not wait until it is forgotten.
const TAKEN_OVER: Duration = Duration::from_secs(3);
/// Until the cluster knows that a node is gone, and a while.
const NOTICED: Duration = Duration::from_secs(120);
const ADDRESSES: [&str; 2] = ["10.99.0.50", "fd99::50"];
const FRONTS: [&str; 2] = ["10.99.0.50:80", "[fd99::50]:80"];

struct Node {
    name: &'static str,
    sandbox: Sandbox,
    running: Option<(Runtime, Supervisor)>,
}

impl Node {
    /// A node with a pod that says whose it is; every node's has the same address.
    fn new(name: &'static str, number: u8) -> Self {
        let sandbox = Sandbox::new();
        let script = format!(
            "set -e; ip link set outside name {name}
            ip -4 addr flush dev eth0; ip addr add 10.99.0.{number}/24 dev eth0; ip addr add fd99::{number}/64 dev eth0 nodad
            ip route replace default via 10.99.0.1; sysctl -qw net.ipv6.conf.all.forwarding=1"
        );
        sandbox.sh(&script).ok();
        Self { name, sandbox, running: None }
    }

    fn start(&mut self, feed: &Feed) {
        let (runtime, supervisor) = (runtime(Some(self.sandbox.network())), Supervisor::new());
        let blocks = |texts: [&str; 2]| texts.map(|text| text.parse().unwrap()).to_vec();
        let node = net::Node {
            pod_cidrs: blocks(spots::PODS),
            cluster_cidrs: blocks(spots::CLUSTER),
            service_cidrs: blocks(spots::SERVICES),
            mtu: 1_500,
            outer: None,
        };
        let config = proxy::Config {
            node_name: self.name.to_owned(),
            node_ips: Vec::new(),
            cluster_cidrs: blocks(spots::CLUSTER),
            service_cidrs: blocks(spots::SERVICES),
            answered_here: Vec::new(),
            settings: proxy::Settings::default(),
        };
        let (client, own) = (feed.client(), supervisor.clone());
        let started = runtime.spawn(async move {
            net::setup(&node).await.unwrap();
            proxy::start(config, &Caches::new(client, own.clone()), &own).ready().await;
        });
        runtime.block_on(started).unwrap();
        self.running = Some((runtime, supervisor));
    }

    fn stop(&mut self) {
        let (runtime, supervisor) = self.running.take().unwrap();
        runtime.block_on(supervisor.drain());
    }

    /// Neither answers nor routes are left.
    fn is_silent(&self) -> bool {
        let there = self.answers_for();
        !ADDRESSES.iter().any(|address| there.contains(address))
    }

    /// What it answers for, and what it routes for that.
    fn answers_for(&self) -> String {
        self.sandbox.sh("ip neigh show proxy; ip -6 neigh show proxy; ip route; ip -6 route").ok()
    }
}

/// A bridge that both nodes are at, and the client with it.
fn lan(nodes: [&Node; 2]) -> Spot {
    let first = &nodes[0].sandbox;
    first
        .sh("set -e; ip netns add lan; run='ip -n lan'; $run link set lo up; $run link add lan0 type bridge
            $run addr add 10.99.0.1/24 dev lan0; $run addr add fd99::1/64 dev lan0 nodad; $run link set lan0 up")
        .ok();
    for node in nodes {
        let (there, lan) = (node.sandbox.network(), first.namespace("lan"));
        let mut moved = command("nsenter");
        moved.arg(format!("--net={}", there.display()));
        moved.args(["ip", "link", "set", node.name, "netns"]).arg(&lan);
        run(moved, "").ok();
        first.sh(&format!("ip -n lan link set {0} master lan0 up", node.name)).ok();
        node.sandbox.sh("ip link set eth0 up; ip route replace default via 10.99.0.1").ok();
    }
    spots::at(first, "lan", &["10.99.0.1", "fd99::1"])
}

/// The service, with who answers for it.
fn put(feed: &Feed, node: Option<&str>) {
    let annotations = match node {
        Some(node) => {
            json!({"knarr.io/announced-by": ADDRESSES.map(|address| format!("{address}={node}")).join(",")})
        }
        None => json!({}),
    };
    feed.put(json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"namespace": "default", "name": "web", "annotations": annotations},
        "spec": {"type": "LoadBalancer", "clusterIP": "10.43.0.5", "clusterIPs": ["10.43.0.5", "fd43::5"], "ports": [{"port": 80}]},
        "status": {"loadBalancer": {"ingress": ADDRESSES.map(|address| json!({"ip": address}))}}}));
    for (endpoint, family) in [("10.42.0.2", "IPv4"), ("fd42::2", "IPv6")] {
        feed.put(json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"namespace": "default", "name": format!("web-{family}"), "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": family, "ports": [{"port": 80}],
            "endpoints": [{"addresses": [endpoint], "conditions": {"ready": true}}]}));
    }
}

#[track_caller]
fn answered(nodes: [&Node; 2], client: &Spot, by: &str, within: Duration) {
    for front in FRONTS {
        let deadline = base::clock::instant() + within;
        while client.ask(front).by() != by {
            let neighbours = nodes[0].sandbox.sh("ip -n lan neigh; ip -n lan -6 neigh").ok();
            let proxies = nodes.map(Node::answers_for);
            assert!(
                base::clock::instant() < deadline,
                "{front} is not {by}'s: the client knows {neighbours}; the nodes have {proxies:#?}"
            );
        }
    }
}

#[test]
fn one_node_answers_for_an_address() {
    let feed = Feed::default();
    for name in ["one", "two"] {
        feed.put(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}));
    }
    let (mut one, mut two) = (Node::new("one", 2), Node::new("two", 3));
    let client = lan([&one, &two]);
    put(&feed, None);
    one.start(&feed);
    two.start(&feed);
    for (node, name) in [(&one, "pod-one"), (&two, "pod-two")] {
        spots::pod(&node.sandbox, name, 2).serve(&[80], &[]);
    }
    assert_eq!(client.ask(FRONTS[0]).by(), "nothing", "nobody was told to");
    put(&feed, Some("one"));
    answered([&one, &two], &client, "pod-one", SOON);
    // The client has the address at hand when another node takes it over.
    put(&feed, Some("two"));
    answered([&one, &two], &client, "pod-two", TAKEN_OVER);
    // A node whose link is down is taken over from, and does not answer when it is back.
    two.sandbox.sh("ip link set eth0 down").ok();
    put(&feed, Some("one"));
    answered([&one, &two], &client, "pod-one", TAKEN_OVER);
    two.sandbox.sh("ip link set eth0 up; ip addr replace fd99::3/64 dev eth0 nodad; ip route replace default via 10.99.0.1").ok();
    one.sandbox.sh("ip -n lan neigh flush all").ok();
    answered([&one, &two], &client, "pod-one", SOON);
    // With a link that goes down the kernel forgets what it answers for there, until the link is back.
    one.sandbox.sh("ip link set eth0 down").ok();
    one.sandbox.sh("ip link set eth0 up; ip addr replace fd99::2/64 dev eth0 nodad; ip route replace default via 10.99.0.1").ok();
    answered([&one, &two], &client, "pod-one", SOON);
    // It is answered for while nobody looks after it, and no longer once somebody does who knows better.
    one.stop();
    one.sandbox.sh("ip -n lan neigh flush all").ok();
    answered([&one, &two], &client, "pod-one", SOON);
    // What nobody looks after falls silent when another node takes over, however often it is asked.
    put(&feed, Some("two"));
    answered([&one, &two], &client, "pod-two", TAKEN_OVER);
    for _ in 0..20 {
        one.sandbox.sh("ip -n lan neigh flush all").ok();
        for front in FRONTS {
            assert_eq!(client.ask(front).by(), "pod-two", "{}", one.sandbox.sh("nft list ruleset").stdout);
        }
    }
    one.start(&feed);
    answered([&one, &two], &client, "pod-two", SOON);
    put(&feed, None);
    for node in [&one, &two] {
        wait_for("nothing to be answered for", SOON, || node.is_silent().then_some(()));
    }
    one.sandbox.sh("ip -n lan neigh flush all").ok();
    assert_eq!(client.ask(FRONTS[0]).by(), "nothing");
    // Who removes a node takes along what it answers for.
    put(&feed, Some("one"));
    answered([&one, &two], &client, "pod-one", SOON);
    one.stop();
    // On a thread of the node's namespace, which the calling one is not in.
    let runtime = runtime(Some(one.sandbox.network()));
    let removed = runtime.block_on(runtime.spawn(net::teardown())).unwrap();
    assert!(removed.is_ok(), "{removed:?}");
    assert!(one.is_silent(), "{}", one.answers_for());
    let tables = one.sandbox.sh("nft list tables").ok();
    assert!(!tables.contains("knarr"), "{tables}");
    two.stop();
}

/// With real machines: the cluster notices that one is gone, and another one answers.
#[test]
fn a_node_that_is_gone_is_taken_over_from() {
    let mut fleet = Fleet::new(&["--lb-range", "10.99.0.40"]);
    fleet.join("b", 3);
    let cluster = &fleet.cluster;
    cluster.apply(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: web, labels: {{app: web}}}}\nspec:\n  nodeName: node-1\n  containers:\n  - name: web\n    image: {IMAGE}\n    \
         command: [httpd, -f, -p, '8080', -h, /www]\n---\n\
         apiVersion: v1\nkind: Service\nmetadata: {{name: web}}\nspec:\n  type: LoadBalancer\n  selector: {{app: web}}\n  ports: [{{port: 80, targetPort: 8080}}]\n"
    ));
    cluster.pod_ready("web");
    let answered_by = |node: &str| {
        let wanted = format!("10.99.0.40={node}");
        cluster.wait("service web", |service| {
            (service["metadata"]["annotations"]["knarr.io/announced-by"] == wanted.as_str()).then_some(())
        });
    };
    // Machines have link addresses of their own, by which the client knows them.
    let answers = |address: &str| {
        let script = format!(
            "curl -s --max-time 2 http://10.99.0.40/ && [ \"$(ip neigh show 10.99.0.40 | cut -d' ' -f5)\" = \"$(ip neigh show {address} | cut -d' ' -f5)\" ]"
        );
        fleet.sh_on(WIRE, &script)
    };
    let reached = |address: &str| {
        fleet.sh_on(WIRE, &format!("curl -sk --max-time 2 https://{address}:10250/healthz"));
        wait_for(&format!("an answer by {address}"), SOON, || {
            let output = answers(address);
            (output.code == 0 && output.stdout == "version 1\n").then_some(())
        });
    };
    cluster.kubectl("label node b knarr.io/enablelb=true");
    answered_by("b");
    reached("10.99.0.3");
    cluster.kubectl("label node node-1 knarr.io/enablelb=true");
    // It stays where it is, until that machine is cut off.
    fleet.sh_on("b", "ip link set eth0 down").ok();
    let cluster = &fleet.cluster;
    wait_for("another node", NOTICED, || {
        let service = cluster.json("service web");
        (service["metadata"]["annotations"]["knarr.io/announced-by"] == "10.99.0.40=node-1").then_some(())
    });
    wait_for("an answer by the server's node", SOON, || {
        let output = fleet.sh_on(WIRE, "curl -s --max-time 2 http://10.99.0.40/");
        (output.stdout == "version 1\n").then_some(())
    });
}
