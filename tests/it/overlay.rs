//! Pods of one node reach those of another: real tunnels and routes between namespaces, without an API server.

mod nat;
mod rig;

use crate::support::process::wait_for;
use crate::support::spots::{Heard, Spot};
use overlay::{Backend, Config};
use rig::{Rig, SOON, addresses_of, at, config, hears, node, reaches};
use serde_json::json;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};

fn all_reach_all(rig: &Rig) {
    for (from, to) in [("a", "b"), ("b", "a"), ("a", "c"), ("c", "b")] {
        reaches(rig, from, to);
    }
}

#[test]
fn pods_reach_pods_over_vxlan() {
    let mut rig = Rig::running(Backend::Vxlan);
    all_reach_all(&rig);
    large_packets_arrive(&rig);
    services_lead_across(&rig);
    what_is_taken_comes_back(&rig);
    a_machine_moves(&rig);
    a_machine_leaves(&rig);
    a_start_mends(&mut rig);
}

#[test]
fn pods_reach_pods_over_a_shared_link() {
    let mut rig = Rig::running(Backend::HostGw);
    all_reach_all(&rig);
    assert!(!rig.on("a", "ip link").contains("knarr-vxlan"));
    large_packets_arrive(&rig);
    services_lead_across(&rig);
    what_a_link_takes_along_comes_back(&rig);
    a_machine_moves(&rig);
    // One that is not on the link gets no route, not half of one.
    rig.feed.put(node("c", 3, &["198.51.100.3"]));
    no_route(&rig, "a", "10.42.3.0/24");
    rig.feed.put(node("c", 3, &addresses_of(3).each_ref().map(String::as_str)));
    reaches(&rig, "a", "c");
    rig.stop("a");
    rig.start(config("a", Backend::Vxlan));
    assert!(rig.on("a", "ip link").contains("knarr-vxlan"), "another backend takes over");
    rig.stop("a");
    rig.start(config("a", Backend::None));
    let left = rig.on("a", "ip link; ip route show proto 107");
    assert!(!left.contains("knarr-vxlan") && !left.contains("via"), "none leaves no way: {left}");
}

#[test]
fn machines_on_one_link_need_no_tunnel() {
    let mut rig = Rig::new(1_450);
    for name in ["a", "b", "c"] {
        rig.start(Config { direct_routing: true, ..config(name, Backend::Vxlan) });
    }
    assert!(rig.on("a", "ip route show 10.42.2.0/24").contains("via 192.0.2.2 dev eth0"));
    all_reach_all(&rig);
    // One that is elsewhere is sent to through the tunnel, all the same.
    rig.on("b", "ip addr add 198.51.100.2/32 dev eth0");
    rig.feed.put(node("b", 2, &["198.51.100.2"]));
    wait_for("a route into the tunnel", SOON, || {
        rig.on("a", "ip route show 10.42.2.0/24").contains("dev knarr-vxlan").then_some(())
    });
}

#[test]
fn pods_reach_pods_over_machines_of_ipv6() {
    let mut rig = Rig::new(1_430);
    for (name, number) in [("a", 1), ("b", 2), ("c", 3)] {
        rig.feed.put(node(name, number, &[&addresses_of(number)[1]]));
        rig.start(config(name, Backend::Vxlan));
    }
    assert!(rig.on("a", "ip link").contains("knarr-vxlan6"));
    all_reach_all(&rig);
    large_packets_arrive(&rig);
}

#[test]
#[ignore = "needs a kernel with WireGuard: scripts/wireguard-test runs it in one"]
fn pods_reach_pods_over_wireguard() {
    let mut rig = Rig::running(Backend::Wireguard);
    all_reach_all(&rig);
    large_packets_arrive(&rig);
    services_lead_across(&rig);
    a_machine_moves(&rig);
    let key = |name: &str| {
        rig.feed.get(&format!("/api/v1/nodes/{name}")).unwrap()["metadata"]["annotations"].clone()
    };
    let before = key("b");
    std::fs::remove_file(rig.key_file("b")).unwrap();
    // Whatever changes on its links has it look at everything.
    rig.on("b", "ip addr add 203.0.113.1/32 dev eth0");
    wait_for("another key", SOON, || (key("b") != before).then_some(()));
    let began = base::clock::instant();
    reaches(&rig, "a", "b");
    reaches(&rig, "b", "c");
    eprintln!("a new key was followed after {:?}", began.elapsed());
    rig.stop("a");
    reaches(&rig, "b", "a");
    let key_file = rig.key_file("a");
    rig.start(Config { key_file, ..config("a", Backend::Wireguard) });
    reaches(&rig, "a", "b");
}

#[test]
fn misfortunes_of_the_link_pass() {
    let rig = Rig::running(Backend::Vxlan);
    reaches(&rig, "a", "b");
    rig.sandbox.sh("ip link set port-b down").ok();
    assert_eq!(rig.pod("a").ask(&at(&rig.pod("b").addresses, 8_080)[0]), Heard::Nothing);
    rig.sandbox.sh("ip link set port-b up").ok();
    reaches(&rig, "a", "b");
    rig.sandbox
        .sh("nft 'table bridge loss { chain forward { type filter hook forward priority 0; \
             numgen random mod 100 < 10 drop; }; }'")
        .ok();
    transfers(rig.pod("a"), rig.pod("b"), 200_000);
    rig.sandbox.sh("nft delete table bridge loss").ok();
    reaches(&rig, "b", "a");
}

#[test]
fn what_was_there_before_is_there_after() {
    let mut rig = Rig::new(1_450);
    rig.on("a", "ip route add 10.99.0.0/16 via 192.0.2.2; ip addr add 203.0.113.1/32 dev eth0");
    // A machine that forwards goes on to. What stands for a pod is of knarr's name, and goes as well.
    rig.on("a", "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1");
    let inventory = "ip -o link | grep -v knarr | cut -d' ' -f2; ip addr | grep inet | grep -v fe80; \
                     for table in main local; do ip route show table $table; ip -6 route show table $table; done \
                     | grep -v -e knarr -e fe80: -e ^ff00 -e '^multicast' | sort; nft list ruleset";
    let (before, other) = (rig.on("a", inventory), rig.on("a", "ip route show 10.99.0.0/16"));
    assert!(!other.is_empty());
    for backend in [Backend::Vxlan, Backend::HostGw] {
        for name in ["a", "b"] {
            rig.start(config(name, backend));
        }
        assert_ne!(rig.on("a", inventory), before);
        for name in ["a", "b"] {
            rig.tear_down(name);
        }
        assert_eq!(rig.on("a", inventory), before);
    }
}

/// A pod sends more than fits into a packet, and what fits into one just so.
fn large_packets_arrive(rig: &Rig) {
    transfers(rig.pod("a"), rig.pod("b"), 4_000_000);
    for (from, to) in rig.pod("a").addresses.clone().into_iter().zip(rig.pod("b").addresses.clone()) {
        let header = if to.is_ipv4() { 28 } else { 48 };
        let there = rig.pod("b").within(move || UdpSocket::bind((to, 0)).unwrap()).join().unwrap();
        let here = rig.pod("a").within(move || UdpSocket::bind((from, 0)).unwrap()).join().unwrap();
        there.set_read_timeout(Some(SOON)).unwrap();
        // As large as a packet may be, and in pieces.
        for size in [usize::try_from(rig.pod_mtu).unwrap() - header, 6_000] {
            here.send_to(&vec![7; size], there.local_addr().unwrap()).unwrap();
            let mut buffer = vec![0; 10_000];
            assert_eq!(there.recv(&mut buffer).unwrap(), size, "to {to}");
        }
    }
}

fn transfers(from: &Spot, to: &Spot, bytes: usize) {
    for address in to.addresses.clone() {
        let listener = to.within(move || TcpListener::bind((address, 0)).unwrap()).join().unwrap();
        let place = listener.local_addr().unwrap();
        let reading = std::thread::spawn(move || {
            let mut all = Vec::new();
            listener.accept().unwrap().0.read_to_end(&mut all).unwrap();
            all.len()
        });
        let mut stream =
            from.within(move || TcpStream::connect_timeout(&place, SOON).unwrap()).join().unwrap();
        stream.set_write_timeout(Some(SOON * 3)).unwrap();
        stream.write_all(&vec![1; bytes]).unwrap();
        drop(stream);
        assert_eq!(reading.join().unwrap(), bytes, "to {place}");
    }
}

/// A service's endpoint is on another machine: pods, machines and clients outside reach it.
fn services_lead_across(rig: &Rig) {
    for (index, family) in ["IPv4", "IPv6"].iter().enumerate() {
        let name = format!("across-{}", family.to_lowercase());
        let cluster_ip = ["10.43.0.77", "fd43::77"][index];
        let node_port = 30_077 + u16::try_from(index).unwrap();
        rig.feed.put(json!({"apiVersion": "v1", "kind": "Service",
            "metadata": {"namespace": "default", "name": name},
            "spec": {"type": "NodePort", "clusterIP": cluster_ip, "clusterIPs": [cluster_ip], "ipFamilies": [family],
                "ports": [{"name": "web", "port": 80, "nodePort": node_port}]}}));
        let target = rig.pod("b");
        rig.feed.put(json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"namespace": "default", "name": name, "labels": {"kubernetes.io/service-name": name}},
            "addressType": family, "ports": [{"name": "web", "port": 8080}],
            "endpoints": [{"addresses": [target.addresses[index]], "nodeName": "b", "conditions": {"ready": true}}]}));
        let service = at(&[cluster_ip.parse().unwrap()], 80).remove(0);
        let own = Heard::Answer(target.name.clone(), rig.pod("a").addresses[index]);
        hears("a pod at a service", &own, || rig.pod("a").ask(&service));
        // The endpoint itself, by way of the service and back to it.
        let deadline = base::clock::instant() + SOON;
        while rig.pod("b").ask(&service).by() != target.name {
            assert!(base::clock::instant() < deadline, "an endpoint at its own service");
        }
        for (asking, machine) in [(&rig.client, "a"), (&rig.client, "b"), (&rig.machine("c").spot, "a")] {
            let port = at(&rig.machine(machine).spot.addresses[index..=index], node_port).remove(0);
            let deadline = base::clock::instant() + SOON;
            while asking.ask(&port).by() != target.name {
                assert!(base::clock::instant() < deadline, "{} at {port}", asking.name);
            }
        }
        let service_of_machine = || rig.machine("a").spot.ask(&service);
        let deadline = base::clock::instant() + SOON;
        while service_of_machine().by() != target.name {
            assert!(base::clock::instant() < deadline, "a machine at a service");
        }
    }
}

fn what_is_taken_comes_back(rig: &Rig) {
    let asks = || rig.pod("a").ask(&at(&rig.pod("b").addresses, 8_080)[0]).by() == "pod-b";
    let state = || {
        let said = "ip link show knarr-vxlan | cut -d: -f2-; ip route show proto 107; ip -6 route show proto 107;
                    ip neigh show nud permanent dev knarr-vxlan | sort; bridge fdb show dev knarr-vxlan | sort";
        rig.sandbox.run(&["ip", "netns", "exec", "a", "sh", "-c", said]).stdout
    };
    let before = state();
    for taken in [
        "ip route del 10.42.2.0/24",
        "ip neigh del 10.42.2.1 dev knarr-vxlan",
        "bridge fdb del 02:04:0a:2a:02:00 dev knarr-vxlan",
        "ip link set knarr-vxlan address 02:00:00:00:00:01",
        "ip link set knarr-vxlan down",
        "ip link del knarr-vxlan",
    ] {
        rig.on("a", taken);
        // Another machine may forward meanwhile: an answer alone shows little.
        wait_for(&format!("everything after `{taken}`"), SOON, || (state() == before).then_some(()));
        wait_for("an answer", SOON, || asks().then_some(()));
    }
    assert!(asks());
    reaches(rig, "b", "a");
}

fn what_a_link_takes_along_comes_back(rig: &Rig) {
    for taken in [
        "ip link set eth0 down; ip link set eth0 up; ip addr replace 2001:db8::1/64 dev eth0 nodad",
        "ip route del 10.42.2.0/24; ip route del fd42:0:0:2::/64",
    ] {
        rig.on("a", taken);
        reaches(rig, "a", "b");
        reaches(rig, "c", "a");
    }
}

/// Its Node says so, and the others follow; its own end does as well.
fn a_machine_moves(rig: &Rig) {
    rig.on("b", "ip addr del 192.0.2.2/24 dev eth0; ip addr add 192.0.2.22/24 dev eth0");
    rig.feed.put(node("b", 2, &["192.0.2.22", "2001:db8::2"]));
    let began = base::clock::instant();
    reaches(rig, "a", "b");
    reaches(rig, "b", "c");
    eprintln!("followed after {:?}", began.elapsed());
    rig.on("b", "ip addr del 192.0.2.22/24 dev eth0; ip addr add 192.0.2.2/24 dev eth0");
    rig.feed.put(node("b", 2, &addresses_of(2).each_ref().map(String::as_str)));
    reaches(rig, "a", "b");
    reaches(rig, "b", "a");
}

fn no_route(rig: &Rig, on: &str, block: &str) {
    wait_for("the end of a route", SOON, || {
        rig.on(on, &format!("ip route show {block}")).trim().is_empty().then_some(())
    });
}

fn a_machine_leaves(rig: &Rig) {
    rig.feed.delete(&node("c", 3, &[]));
    no_route(rig, "a", "10.42.3.0/24");
    let left = || rig.on("a", "ip -6 route; ip neigh show dev knarr-vxlan; bridge fdb show dev knarr-vxlan");
    assert!(!left().contains("192.0.2.3") && !left().contains("fd42:0:0:3"), "{}", left());
    rig.feed.put(node("c", 3, &addresses_of(3).each_ref().map(String::as_str)));
    reaches(rig, "a", "c");
}

/// What changed while nothing ran, and what another run left, is as it should be after a start.
fn a_start_mends(rig: &mut Rig) {
    rig.stop("a");
    reaches(rig, "a", "b");
    rig.on(
        "a",
        "ip route add 10.42.77.0/24 via 10.42.77.1 dev knarr-vxlan onlink proto 107
        ip neigh add 10.42.77.1 lladdr 02:04:0a:2a:4d:00 dev knarr-vxlan nud permanent
        bridge fdb add 02:04:0a:2a:4d:00 dev knarr-vxlan dst 192.0.2.77 self permanent
        ip route del 10.42.2.0/24; bridge fdb del 02:04:0a:2a:03:00 dev knarr-vxlan",
    );
    rig.start(config("a", Backend::Vxlan));
    let all = rig.on("a", "ip route; ip neigh; bridge fdb show dev knarr-vxlan");
    assert!(!all.contains("10.42.77") && !all.contains("192.0.2.77"), "{all}");
    reaches(rig, "a", "b");
    reaches(rig, "c", "a");
    // A link of another number and port is not what others send to.
    rig.stop("a");
    rig.on(
        "a",
        "ip link del knarr-vxlan; ip link add knarr-vxlan type vxlan id 7 dstport 4789 local 192.0.2.1",
    );
    rig.start(config("a", Backend::Vxlan));
    reaches(rig, "a", "b");
    reaches(rig, "b", "a");
}
