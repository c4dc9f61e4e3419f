//! Where a service is reached from whom.

use super::rig::{Rig, hears, hears_nothing};
use crate::support::spots::{Heard, NODE, Spot};
use serde_json::json;
use std::net::IpAddr;

/// An address and port of a family.
fn at(addresses: [&str; 2], family: usize, port: u16) -> String {
    base::https::host_port(addresses[family], port)
}

/// Whom the endpoint saw.
fn seen(heard: Heard) -> IpAddr {
    match heard {
        Heard::Answer(_, from) => from,
        other => panic!("{other:?}"),
    }
}

pub(super) fn cluster_addresses(rig: &Rig) {
    rig.service("web", 5, json!({}));
    rig.endpoints("web", &["one", "far"]);
    for family in 0..2 {
        let web = at(["10.43.0.5", "fd43::5"], family, 80);
        for from in [&rig.one, &rig.two, &rig.node] {
            hears(&format!("{} at {web}", from.name), &["far", "one"], || from.ask(&web));
        }
        hears("what comes from outside", &["far", "one"], || rig.outside.ask(&web));
        let dns = at(["10.43.0.5", "fd43::5"], family, 53);
        hears("UDP", &["far", "one"], || rig.two.ask_udp(&dns));
        assert_eq!(seen(rig.two.ask(&web)), rig.two.addresses[family], "a pod is seen as itself");
        let other = at(["10.43.0.5", "fd43::5"], family, 81);
        assert_eq!(rig.two.ask(&other), Heard::Refused, "no port of the service's");
        assert_eq!(rig.node.ask(&other), Heard::Refused);
    }
}

pub(super) fn hairpin(rig: &Rig) {
    rig.service("self", 6, json!({}));
    rig.endpoints("self", &["one"]);
    for family in 0..2 {
        let own = at(["10.43.0.6", "fd43::6"], family, 80);
        hears("a pod at its own service", &["one"], || rig.one.ask(&own));
        let dns = at(["10.43.0.6", "fd43::6"], family, 53);
        hears("the same by UDP", &["one"], || rig.one.ask_udp(&dns));
    }
}

pub(super) fn node_ports(rig: &Rig) {
    let ports = json!([{"name": "web", "port": 80, "nodePort": 30080}, {"name": "dns", "port": 53, "nodePort": 30053, "protocol": "UDP"}]);
    rig.service("ports", 7, json!({"type": "NodePort", "ports": ports}));
    rig.endpoints("ports", &["one", "far"]);
    for family in 0..2 {
        let web = at(NODE, family, 30080);
        for from in [&rig.one, &rig.two, &rig.node, &rig.outside] {
            hears(&format!("{} at {web}", from.name), &["far", "one"], || from.ask(&web));
        }
        hears("UDP", &["far", "one"], || rig.outside.ask_udp(&at(NODE, family, 30053)));
        assert_ne!(seen(rig.outside.ask(&web)), rig.outside.addresses[family], "the client is masqueraded");
    }
    rig.endpoints("ports", &["one", "two"]);
    hears("localhost", &["one", "two"], || rig.node.ask("127.0.0.1:30080"));
    rig.endpoints("ports", &["one", "far"]);
    assert_eq!(rig.node.ask("[::1]:30080"), Heard::Refused, "there is no way back to ::1");
    // Chosen addresses alone: no other of the node's.
    rig.stop();
    rig.start(&["nodeport-addresses=10.99.0.0/16", "nodeport-addresses=fd99::/64"]);
    hears("the chosen address", &["far", "one"], || rig.outside.ask(&at(NODE, 0, 30080)));
    hears("the chosen address", &["far", "one"], || rig.outside.ask(&at(NODE, 1, 30080)));
    for other in ["10.42.0.1:30080", "127.0.0.1:30080"] {
        assert_eq!(rig.node.ask(other), Heard::Refused, "{other}");
    }
    rig.stop();
    // The node's own addresses, wherever it goes.
    rig.start(&["nodeport-addresses=primary"]);
    let second = "10.99.0.77";
    rig.sandbox.run(&["ip", "address", "add", &format!("{second}/32"), "dev", "eth0"]).ok();
    hears("the node's address", &["far", "one"], || rig.outside.ask(&at(NODE, 0, 30080)));
    assert_eq!(rig.node.ask(&format!("{second}:30080")), Heard::Refused, "none of the node's");
    let node = |address: &str| {
        let addresses =
            json!([{"type": "InternalIP", "address": address}, {"type": "Hostname", "address": "here"}]);
        rig.feed.put(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "here"}, "status": {"addresses": addresses}}));
    };
    node(NODE[0]);
    node(second);
    hears("the new address", &["far", "one"], || rig.node.ask(&format!("{second}:30080")));
    hears("the old one", &["refused"], || rig.node.ask(&at(NODE, 0, 30080)));
    rig.stop();
    rig.start(&[]);
}

pub(super) fn local_policy(rig: &Rig) {
    let ports = json!([{"name": "web", "port": 80, "nodePort": 30081}]);
    rig.service("local", 8, json!({"type": "NodePort", "externalTrafficPolicy": "Local", "ports": ports, "externalIPs": ["198.51.100.1", "2001:db8:7::1"]}));
    rig.endpoints("local", &["one", "far"]);
    let fronts = |family| [at(NODE, family, 30081), at(["198.51.100.1", "2001:db8:7::1"], family, 80)];
    for family in 0..2 {
        for front in fronts(family) {
            hears("from outside", &["one"], || rig.outside.ask(&front));
            assert_eq!(
                seen(rig.outside.ask(&front)),
                rig.outside.addresses[family],
                "the client's address is kept"
            );
            hears("a pod goes anywhere", &["far", "one"], || rig.two.ask(&front));
            hears("and so does the node", &["far", "one"], || rig.node.ask(&front));
        }
    }
    rig.endpoints("local", &["far"]);
    for family in 0..2 {
        for front in fronts(family) {
            hears("a pod still does", &["far"], || rig.two.ask(&front));
            hears_nothing("nobody here", || rig.outside.ask(&front));
        }
    }
    rig.service("inner", 9, json!({"internalTrafficPolicy": "Local"}));
    rig.endpoints("inner", &["one", "far"]);
    for family in 0..2 {
        let inner = at(["10.43.0.9", "fd43::9"], family, 80);
        hears("the pod here", &["one"], || rig.two.ask(&inner));
    }
    rig.endpoints("inner", &["far"]);
    for family in 0..2 {
        let inner = at(["10.43.0.9", "fd43::9"], family, 80);
        hears("no pod here", &["nothing"], || once_slow(&rig.two, &inner));
    }
}

/// Asks once for all the times that are counted.
fn once_slow(spot: &Spot, to: &str) -> Heard {
    thread_local! { static ASKED: std::cell::Cell<u32> = const { std::cell::Cell::new(0) } }
    let count = ASKED.get();
    ASKED.set(count + 1);
    if count.is_multiple_of(24) { spot.ask(to) } else { Heard::Nothing }
}

pub(super) fn balancers(rig: &Rig) {
    let status = json!({"loadBalancer": {"ingress": [{"ip": "198.51.100.2"}, {"ip": "2001:db8:7::2"}, {"ip": "198.51.100.3", "ipMode": "Proxy"}]}});
    let ranges = json!(["10.99.0.0/16", "fd99::1/128", "10.42.0.8/32", "fd42::8/128"]);
    let ports = json!([{"name": "web", "port": 80, "nodePort": 30082}]);
    rig.service(
        "balanced",
        10,
        json!({"type": "LoadBalancer", "ports": ports, "loadBalancerSourceRanges": ranges, "status": status}),
    );
    rig.endpoints("balanced", &["one"]);
    for family in 0..2 {
        let front = at(["198.51.100.2", "2001:db8:7::2"], family, 80);
        hears("one who may", &["one"], || rig.outside.ask(&front));
        hears("a pod that may", &["one"], || rig.two.ask(&front));
        hears_nothing("a pod that may not", || rig.one.ask(&front));
        // They bind no other front of the service.
        hears("the node's port", &["one"], || rig.one.ask(&at(NODE, family, 30082)));
        hears("the service's address", &["one"], || rig.one.ask(&at(["10.43.0.10", "fd43::a"], family, 80)));
    }
    assert_ne!(rig.two.ask("198.51.100.3:80").by(), "one", "a balancer that proxies itself gets its packets");
}

pub(super) fn nobody_there(rig: &Rig) {
    let ports = json!([{"name": "web", "port": 80, "nodePort": 30083}, {"name": "dns", "port": 53, "nodePort": 30054, "protocol": "UDP"}]);
    rig.service(
        "nobody",
        11,
        json!({"type": "NodePort", "ports": ports, "externalIPs": ["198.51.100.4", "2001:db8:7::4"]}),
    );
    for family in 0..2 {
        for (to, udp) in [
            (at(["10.43.0.11", "fd43::b"], family, 80), at(["10.43.0.11", "fd43::b"], family, 53)),
            (at(NODE, family, 30083), at(NODE, family, 30054)),
        ] {
            for from in [&rig.one, &rig.node] {
                hears(&format!("{} at {to}", from.name), &["refused"], || from.ask(&to));
                // Once: the kernel limits how many it tells.
                assert_eq!(from.ask_udp(&udp), Heard::Refused, "{} at {udp}", from.name);
            }
            hears("outside", &["refused"], || rig.outside.ask(&to));
        }
        hears("an external address", &["refused"], || {
            rig.outside.ask(&at(["198.51.100.4", "2001:db8:7::4"], family, 80))
        });
    }
    hears("localhost", &["refused"], || rig.node.ask("127.0.0.1:30083"));
}
