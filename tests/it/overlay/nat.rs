//! A machine behind a router that translates addresses, which is reached by the router's.

use super::rig::{Rig, SOON, config, node, reaches};
use crate::support::process::wait_for;
use overlay::{Backend, Config};
use serde_json::{Value, json};
use std::net::IpAddr;

/// Moves a machine's link from the wire to a router, which has an address on the wire. The router lets through what
/// the machine begins, and what is for a port that it passes on.
fn move_behind_router(rig: &Rig, port: &str) {
    let script = format!(
        "set -e; ip netns add router
        ip link set port-b nomaster; ip link set port-b netns router
        ip link add port-router type veth peer name outer netns router
        ip link set port-router master wire up
        ip -n router link set lo up; ip -n router link set outer up; ip -n router link set port-b up
        ip -n router addr add 192.0.2.50/24 dev outer; ip -n router addr add 192.168.77.1/24 dev port-b
        ip netns exec router sysctl -qw net.ipv4.ip_forward=1
        ip netns exec router nft 'table ip nat {{
            chain out {{ type nat hook postrouting priority 100; oifname outer masquerade; }}
            chain in {{ type nat hook prerouting priority -100; iifname outer udp dport {port} dnat to 192.168.77.2; }}
            chain through {{ type filter hook forward priority 0; policy drop;
                ct state established,related accept; ct status dnat accept; iifname port-b accept; }}
        }}'
        ip -n b addr flush dev eth0 scope global; ip -n b link set eth0 down; ip -n b link set eth0 up
        ip -n b addr add 192.168.77.2/24 dev eth0; ip -n b route replace default via 192.168.77.1"
    );
    rig.sandbox.sh(&script).ok();
}

/// The Node of the machine behind it.
fn behind(external: &str) -> Value {
    let mut node = node("b", 2, &["192.168.77.2"]);
    let addresses = node["status"]["addresses"].as_array_mut().unwrap();
    addresses.push(json!({"type": "ExternalIP", "address": external}));
    node
}

fn running(backend: Backend, port: &str) -> Rig {
    let own: Vec<IpAddr> = vec!["192.0.2.1".parse().unwrap()];
    let overhead = Config { node_ips: own, ..config("a", backend) }.overhead_bytes();
    let mut rig = Rig::new(1_500 - overhead);
    move_behind_router(&rig, port);
    rig.feed.put(behind("192.0.2.50"));
    for name in ["a", "b", "c"] {
        let key_file = rig.key_file(name);
        rig.start(Config { key_file, external_addresses: true, ..config(name, backend) });
    }
    rig
}

fn all_reach_all(rig: &Rig) {
    for (from, to) in [("b", "a"), ("a", "b"), ("c", "b"), ("b", "c"), ("a", "c")] {
        reaches(rig, from, to);
    }
}

#[test]
fn pods_reach_pods_behind_a_router() {
    let rig = running(Backend::Vxlan, "8472");
    all_reach_all(&rig);
    let ends = rig.on("a", "bridge fdb show dev knarr-vxlan");
    assert!(ends.contains("dst 192.0.2.50") && !ends.contains("192.168.77"), "{ends}");
    super::large_packets_arrive(&rig);
    // The router is given another address.
    rig.on("router", "ip addr del 192.0.2.50/24 dev outer; ip addr add 192.0.2.51/24 dev outer");
    rig.feed.put(behind("192.0.2.51"));
    wait_for("the router's other address", SOON, || {
        rig.on("a", "bridge fdb show dev knarr-vxlan").contains("dst 192.0.2.51").then_some(())
    });
    all_reach_all(&rig);
}

/// The router passes nothing on but answers: the machine behind it speaks first, and goes on to.
#[test]
#[ignore = "needs a kernel with WireGuard: scripts/wireguard-test runs it in one"]
fn pods_reach_pods_behind_a_router_over_wireguard() {
    let rig = running(Backend::Wireguard, "9");
    all_reach_all(&rig);
    super::large_packets_arrive(&rig);
}
