//! Pods on several nodes, a server and agents, each a machine on a network of its own.

use crate::support::cluster::{IMAGE, SOON};
use crate::support::fleet::{Fleet, WIRE};
use crate::support::process::wait_for;
use crate::support::spots::{self, Heard, Spot};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::net::SocketAddr;

/// Two families on all machines, whose numbers on the wire are their addresses' last.
const FAMILIES: [&str; 4] =
    ["--cluster-cidr", "10.42.0.0/16,fd00:42::/56", "--service-cidr", "10.43.0.0/16,fd00:43::/112"];

const NODES: [(&str, u8); 3] = [("node-1", 2), ("node-2", 3), ("node-3", 4)];

/// A pod on each node, which says its name over HTTP, and services of all of them.
fn manifest() -> String {
    let pod = |node: &str| {
        format!(
            r#"apiVersion: v1
kind: Pod
metadata: {{name: web-{node}, labels: {{app: web}}}}
spec:
  nodeName: {node}
  terminationGracePeriodSeconds: 1
  containers:
  - name: web
    image: {IMAGE}
    command: [sh, -c]
    args:
    - |
      mkdir -p /www/cgi-bin
      hostname > /www/index.html
      head -c 3000000 /dev/zero > /www/large
      printf '#!/bin/sh\nprintf "Content-Type: text/plain\\r\\n\\r\\n"; hostname\n' > /www/cgi-bin/say
      chmod +x /www/cgi-bin/say
      exec httpd -f -p "[::]:80" -h /www
    readinessProbe: {{tcpSocket: {{port: 80}}, periodSeconds: 1}}
---
"#
        )
    };
    let service = |name: &str, family: &str, port: u16| {
        format!(
            r#"apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec:
  type: NodePort
  ipFamilies: [{family}]
  selector: {{app: web}}
  ports: [{{port: 80, nodePort: {port}}}]
---
"#
        )
    };
    let pods: String = NODES.iter().map(|(node, _)| pod(node)).collect();
    [pods, service("web", "IPv4", 30_080), service("web-v6", "IPv6", 30_086)].concat()
}

fn fleet(backend: &str) -> Fleet {
    let mut fleet = Fleet::new(&[&FAMILIES[..], &["--network-backend", backend]].concat());
    for (name, number) in &NODES[1..] {
        fleet.join(name, *number);
    }
    fleet.cluster.apply(&manifest());
    NODES.iter().for_each(|(node, _)| fleet.cluster.pod_ready(&format!("web-{node}")));
    for said in [fleet.cluster.screen(), fleet.screen("node-2"), fleet.screen("node-3")] {
        assert!(!said.contains("task=\"overlay\""), "it failed on its way up: {said}");
    }
    fleet
}

/// A pod's addresses, of IPv4 and of IPv6.
fn addresses(fleet: &Fleet, pod: &str) -> [String; 2] {
    let pod = fleet.cluster.json(&format!("pod {pod}"));
    let ips = pod["status"]["podIPs"].as_array().unwrap();
    [0, 1].map(|index| ips[index]["ip"].as_str().unwrap().to_owned())
}

fn in_url(address: &str) -> String {
    if address.contains(':') { format!("[{address}]") } else { address.to_owned() }
}

#[test]
fn pods_of_all_nodes_reach_one_another_over_vxlan() {
    let mut fleet = fleet("vxlan");
    every_pod_reaches_every_pod(&fleet);
    datagrams_arrive(&fleet);
    nodes_reach_pods(&fleet);
    node_ports_lead_everywhere(&fleet);
    packets_are_not_too_large(&fleet, 1_450);
    a_partition_ends(&fleet);
    an_agent_moves(&fleet);
    agents_come_and_go(&mut fleet);
}

#[test]
fn pods_of_all_nodes_reach_one_another_over_the_link_they_share() {
    let fleet = fleet("host-gw");
    every_pod_reaches_every_pod(&fleet);
    datagrams_arrive(&fleet);
    nodes_reach_pods(&fleet);
    node_ports_lead_everywhere(&fleet);
    packets_are_not_too_large(&fleet, 1_500);
}

/// Over HTTP, of both families.
fn every_pod_reaches_every_pod(fleet: &Fleet) {
    for (from, _) in NODES {
        for (to, _) in NODES {
            for address in addresses(fleet, &format!("web-{to}")) {
                let name = format!("web-{to}\n");
                let url = in_url(&address);
                let http = format!("curl -sf --max-time 3 http://{url}/");
                let said = fleet.until("a page", SOON, &format!("web-{from}"), &http);
                assert_eq!(said, name, "{from} at {to}");
            }
        }
    }
    let [v4, v6] = addresses(fleet, "web-node-3").map(|address| in_url(&address));
    for url in [v4, v6] {
        let large = format!("curl -sf --max-time 20 http://{url}/large | wc -c");
        assert_eq!(fleet.cluster.exec("web-node-2", &large).ok().trim(), "3000000");
    }
}

fn on(fleet: &Fleet, node: &str, script: &str) -> String {
    let output =
        if node == NODES[0].0 { fleet.cluster.sandbox.sh(script) } else { fleet.sh_on(node, script) };
    output.stdout
}

/// The place of a pod, whose namespace is known by the address there.
fn spot(fleet: &Fleet, pod: &str) -> Spot {
    let sandbox = &fleet.cluster.sandbox;
    let [v4, v6] = addresses(fleet, pod);
    let find = format!(
        "for at in $(ls /run/netns); do ip -n $at -o addr show eth0 2>/dev/null | grep -q ' {v4}/' && echo $at; done; true"
    );
    let namespace = sandbox.sh(&find).ok();
    spots::at(sandbox, namespace.trim(), &[&v4, &v6]).other(pod, &[&v4, &v6])
}

/// Over UDP each pod and each node reaches each pod, and is seen by its own address.
fn datagrams_arrive(fleet: &Fleet) {
    let sandbox = &fleet.cluster.sandbox;
    let pods = NODES.map(|(node, _)| spot(fleet, &format!("web-{node}")));
    pods.iter().for_each(|pod| pod.serve(&[], &[8_081]));
    let of = |node: &(&str, u8)| {
        if node.0 == NODES[0].0 { spots::node(sandbox) } else { spots::at(sandbox, node.0, &["10.99.0.1"]) }
    };
    let nodes = NODES.each_ref().map(of);
    for to in &pods {
        for (index, address) in to.addresses.iter().enumerate() {
            let place = SocketAddr::new(*address, 8_081).to_string();
            for from in &pods {
                let wanted = Heard::Answer(to.name.clone(), from.addresses[index]);
                wait_for(&format!("an answer of {place}"), SOON, || {
                    (from.ask_udp(&place) == wanted).then_some(())
                });
            }
            for from in &nodes {
                wait_for(&format!("an answer of {place} for a node"), SOON, || {
                    (from.ask_udp(&place).by() == to.name).then_some(())
                });
            }
        }
    }
}

/// Each node, with a request that has a body.
fn nodes_reach_pods(fleet: &Fleet) {
    for (node, _) in NODES {
        for (to, _) in NODES {
            for address in addresses(fleet, &format!("web-{to}")) {
                let url = in_url(&address);
                let post = format!("curl -sf -g --max-time 3 -d sent http://{url}/cgi-bin/say");
                wait_for(&format!("{post} on {node}"), SOON, || {
                    (on(fleet, node, &post) == format!("web-{to}\n")).then_some(())
                });
            }
        }
    }
}

/// A pod reaches the service by its name and its address, and at all nodes' ports, wherever the endpoints are.
fn node_ports_lead_everywhere(fleet: &Fleet) {
    let everybody: BTreeSet<String> = NODES.iter().map(|(node, _)| format!("web-{node}\n")).collect();
    let service = |name: &str| {
        let service = fleet.cluster.json(&format!("service {name}"));
        in_url(service["spec"]["clusterIP"].as_str().unwrap())
    };
    let mut places =
        vec!["web".to_owned(), "web.default.svc.cluster.local".to_owned(), service("web"), service("web-v6")];
    for (_, number) in NODES {
        places.push(format!("10.99.0.{number}:30080"));
        places.push(format!("[2001:db8:99::{number}]:30086"));
    }
    for place in &places {
        let mut heard = BTreeSet::new();
        wait_for(&format!("all endpoints at {place}"), SOON, || {
            let many =
                format!("for i in 1 2 3 4 5 6; do curl -sf -g --max-time 2 http://{place}/; done; true");
            let said = fleet.cluster.exec("web-node-2", &many).stdout;
            heard.extend(said.lines().map(|line| format!("{line}\n")));
            (heard == everybody).then_some(())
        });
    }
    // Somebody on the wire who is no node.
    for place in &places[4..] {
        let ask = format!("curl -sf -g --max-time 2 http://{place}/");
        wait_for(&format!("an answer at {place}"), SOON, || {
            everybody.contains(&fleet.sh_on(WIRE, &ask).stdout).then_some(())
        });
    }
}

fn packets_are_not_too_large(fleet: &Fleet, mtu: u32) {
    for (node, _) in NODES {
        let said = fleet.cluster.exec(&format!("web-{node}"), "cat /sys/class/net/eth0/mtu").ok();
        assert_eq!(said.trim(), mtu.to_string(), "{node}");
    }
}

/// While a node is cut off nothing arrives; afterwards everything does.
fn a_partition_ends(fleet: &Fleet) {
    let [address, _] = addresses(fleet, "web-node-3");
    let ask = format!("curl -sf --max-time 2 http://{address}/");
    fleet.sh_on(WIRE, "ip link set dev node-3 down").ok();
    assert_ne!(fleet.cluster.exec("web-node-2", &ask).code, 0);
    fleet.sh_on(WIRE, "ip link set dev node-3 up").ok();
    assert_eq!(fleet.until("a page", SOON, "web-node-2", &ask), "web-node-3\n");
    let back = format!("curl -sf --max-time 2 http://{}/", addresses(fleet, "web-node-2")[0]);
    assert_eq!(fleet.until("a page", SOON, "web-node-3", &back), "web-node-2\n");
}

/// A machine gets another address: its Node says so, and the others send there.
fn an_agent_moves(fleet: &Fleet) {
    let move_to = "ip addr del 10.99.0.4/24 dev eth0; ip addr add 10.99.0.44/24 dev eth0; \
                   ip route replace default via 10.99.0.1";
    fleet.sh_on("node-3", move_to).ok();
    let began = base::clock::instant();
    fleet.cluster.wait("node node-3", |node| {
        let mut addresses = node["status"]["addresses"].as_array()?.iter();
        addresses.any(|one| one["address"] == "10.99.0.44").then_some(())
    });
    for (from, to) in
        [("web-node-2", "web-node-3"), ("web-node-1", "web-node-3"), ("web-node-3", "web-node-2")]
    {
        for address in addresses(fleet, to) {
            let ask = format!("curl -sf -g --max-time 2 http://{}/", in_url(&address));
            assert_eq!(fleet.until("a page", SOON, from, &ask), format!("{to}\n"));
        }
    }
    eprintln!("a moved agent was followed after {:?}", began.elapsed());
}

/// A stopped agent's pods go on; a Node that is deleted takes its routes along.
fn agents_come_and_go(fleet: &mut Fleet) {
    let [address, _] = addresses(fleet, "web-node-3");
    let ask = format!("curl -sf --max-time 2 http://{address}/");
    assert_eq!(fleet.stop("node-3", "TERM"), 0);
    assert_eq!(fleet.cluster.exec("web-node-2", &ask).ok(), "web-node-3\n");
    let block = fleet.cluster.json("node node-3")["spec"]["podCIDRs"][0].clone();
    let routes = |node: &str| on(fleet, node, "ip route show proto 107");
    let named = |node: &str, block: &Value| routes(node).contains(block.as_str().unwrap());
    assert!(named("node-2", &block) && named("node-1", &block), "{}", routes("node-2"));
    fleet.cluster.kubectl("delete node node-3");
    wait_for("routes that are gone", SOON, || {
        (!named("node-2", &block) && !named("node-1", &block)).then_some(())
    });
    assert_ne!(block, json!(null));
}
