//! Which Service gets which addresses.

use crate::load_balancer::{World, plan};
use crate::load_balancer_range::{AddressRange, annotation};
use api::core::{Node, Service};
use api::slim::EndpointSlice;
use api::slim::Pod;
use serde_json::{Value, json};
use std::sync::Arc;

fn node(name: &str, labels: Value, addresses: Value) -> Node {
    serde_json::from_value(json!({"metadata": {"name": name, "labels": labels},
        "status": {"addresses": addresses, "conditions": [{"type": "Ready", "status": "True"}]}}))
    .unwrap()
}

fn inside(address: &str) -> Value {
    json!([{"type": "InternalIP", "address": address}])
}

fn service(name: &str, second: u8, change: Value) -> Arc<Service> {
    let mut service = json!({"metadata": {"namespace": "default", "name": name,
            "creationTimestamp": format!("2026-01-01T00:00:{second:02}Z")},
        "spec": {"type": "LoadBalancer", "ports": [{"port": 80}], "ipFamilies": ["IPv4"]}});
    for (part, fields) in change.as_object().unwrap() {
        for (field, value) in fields.as_object().unwrap() {
            service[part][field] = value.clone();
        }
    }
    Arc::new(serde_json::from_value(service).unwrap())
}

/// Names, addresses, and conflicts of Services, in the order of their age.
fn decided(services: &[Arc<Service>], nodes: &[Node], slices: &[EndpointSlice]) -> Vec<String> {
    with_pods(services, nodes, slices, &[])
}

fn world<'a>(
    services: &'a [Arc<Service>],
    nodes: &'a [Node],
    slices: &'a [EndpointSlice],
    pods: &'a [Pod],
) -> World<'a> {
    World {
        services: services.iter().collect(),
        nodes: nodes.iter().collect(),
        slices: slices.iter().collect(),
        pods: pods.iter().collect(),
        ranges: &[],
        reserved: &[6443],
    }
}

fn with_pods(
    services: &[Arc<Service>],
    nodes: &[Node],
    slices: &[EndpointSlice],
    pods: &[Pod],
) -> Vec<String> {
    let world = world(services, nodes, slices, pods);
    let shown = plan(&world).into_iter().map(|(service, decision)| {
        let name = service.metadata.name.clone().unwrap();
        let addresses: Vec<String> = decision.addresses.iter().map(ToString::to_string).collect();
        let conflicts = decision.conflicts.iter().map(|(port, owner)| format!(" !{} {owner}", port.number));
        format!("{name} {}{}", addresses.join(","), conflicts.collect::<String>())
    });
    shown.collect()
}

#[test]
fn all_ready_nodes_are_told() {
    let mut silent = node("c", json!({}), inside("192.0.2.3"));
    silent.status.as_mut().unwrap().conditions.as_mut().unwrap()[0].status = "Unknown".to_owned();
    let excluded = json!({"node.kubernetes.io/exclude-from-external-load-balancers": ""});
    let nodes = [
        node("b", json!({}), inside("192.0.2.2")),
        node("a", json!({}), inside("192.0.2.1")),
        silent,
        node("d", excluded, inside("192.0.2.4")),
    ];
    assert_eq!(decided(&[service("web", 1, json!({}))], &nodes, &[]), ["web 192.0.2.1,192.0.2.2"]);
}

#[test]
fn addresses_of_the_outside_and_of_the_right_family_are_told() {
    let both = json!([{"type": "InternalIP", "address": "10.0.0.1"}, {"type": "InternalIP", "address": "fd00::1"},
        {"type": "ExternalIP", "address": "192.0.2.1"}]);
    let nodes = [node("a", json!({}), both), node("b", json!({}), inside("10.0.0.2"))];
    let six = json!({"spec": {"ipFamilies": ["IPv6"]}});
    let dual = json!({"spec": {"ipFamilies": ["IPv4", "IPv6"], "ports": [{"port": 81}]}});
    let services = [service("four", 1, json!({})), service("six", 2, six), service("dual", 3, dual)];
    assert_eq!(decided(&services, &nodes, &[]), ["four 192.0.2.1", "six fd00::1", "dual 192.0.2.1"]);
}

#[test]
fn labels_choose_nodes_and_pools() {
    let nodes = [
        node(
            "a",
            json!({"svccontroller.k3s.cattle.io/enablelb": "true", "knarr.io/lbpool": "east"}),
            inside("192.0.2.1"),
        ),
        node("b", json!({"knarr.io/enablelb": "true"}), inside("192.0.2.2")),
        node("c", json!({"knarr.io/enablelb": "false"}), inside("192.0.2.3")),
        node("d", json!({}), inside("192.0.2.4")),
    ];
    let pool = json!({"metadata": {"labels": {"svccontroller.k3s.cattle.io/lbpool": "east"}}, "spec": {"ports": [{"port": 81}]}});
    let services = [service("web", 1, json!({})), service("east", 2, pool)];
    assert_eq!(decided(&services, &nodes, &[]), ["web 192.0.2.1,192.0.2.2", "east 192.0.2.1"]);
}

#[test]
fn a_local_service_is_told_where_it_has_endpoints() {
    let nodes = [node("a", json!({}), inside("192.0.2.1")), node("b", json!({}), inside("192.0.2.2"))];
    let slice: EndpointSlice = serde_json::from_value(json!({"addressType": "IPv4",
        "metadata": {"namespace": "default", "name": "x", "labels": {"kubernetes.io/service-name": "web"}},
        "endpoints": [{"addresses": ["10.42.0.2"], "nodeName": "b"},
            {"addresses": ["10.42.1.2"], "nodeName": "a", "conditions": {"ready": false}}]}))
    .unwrap();
    let local = json!({"spec": {"externalTrafficPolicy": "Local"}});
    assert_eq!(decided(&[service("web", 1, local)], &nodes, &[slice]), ["web 192.0.2.2"]);
}

#[test]
fn a_port_is_the_older_ones() {
    let nodes = [node("a", json!({}), inside("192.0.2.1"))];
    let more = json!({"spec": {"ports": [{"port": 443}, {"port": 80}]}});
    let api = json!({"spec": {"ports": [{"port": 6443}]}});
    let udp = json!({"spec": {"ports": [{"port": 80, "protocol": "UDP"}]}});
    let services = [
        service("young", 9, more),
        service("old", 1, json!({})),
        service("api", 2, api),
        service("datagrams", 3, udp),
        service("free", 10, json!({"spec": {"ports": [{"port": 443}]}})),
    ];
    assert_eq!(
        decided(&services, &nodes, &[]),
        [
            "old 192.0.2.1",
            "api  !6443 knarr itself",
            "datagrams 192.0.2.1",
            "young  !80 the Service default/old",
            "free 192.0.2.1",
        ]
    );
}

#[test]
fn what_is_not_ours_is_left_alone_and_what_is_none_any_more_loses_its_addresses() {
    let nodes = [node("a", json!({}), inside("192.0.2.1"))];
    let foreign = json!({"spec": {"loadBalancerClass": "example.com/other"}});
    let own = json!({"spec": {"loadBalancerClass": "knarr.io/servicelb"}});
    let services = [
        service("foreign", 1, foreign),
        service("own", 2, own),
        service("plain", 3, json!({"spec": {"type": "ClusterIP"}})),
    ];
    assert_eq!(decided(&services, &nodes, &[]), ["own 192.0.2.1", "plain "]);
}

fn pod(name: &str, second: u8, node: &str, port: Value) -> Pod {
    serde_json::from_value(json!({"metadata": {"namespace": "default", "name": name,
            "creationTimestamp": format!("2026-01-01T00:00:{second:02}Z")},
        "spec": {"nodeName": node, "containers": [{"name": "c", "ports": [port]}]}}))
    .unwrap()
}

#[test]
fn ports_of_pods_are_taken_where_they_are_older() {
    let nodes = [node("a", json!({}), inside("192.0.2.1")), node("b", json!({}), inside("192.0.2.2"))];
    let port = json!({"containerPort": 80, "hostPort": 80, "protocol": "TCP"});
    let elsewhere = json!({"containerPort": 80, "hostPort": 80, "hostIP": "192.0.2.9"});
    let pods =
        [pod("old", 1, "a", port.clone()), pod("young", 9, "b", port), pod("other", 1, "b", elsewhere)];
    let services = [service("web", 5, json!({}))];
    assert_eq!(with_pods(&services, &nodes, &[], &pods), ["web 192.0.2.2 !80 the Pod default/old"]);
    // Times of creation are told in seconds: of the same one the pod, which has the port whatever is decided here.
    let services = [service("web", 1, json!({}))];
    assert_eq!(with_pods(&services, &nodes, &[], &pods), ["web 192.0.2.2 !80 the Pod default/old"]);
}

#[test]
fn a_nodes_address_may_be_asked_for() {
    let nodes = [node("a", json!({}), inside("192.0.2.1")), node("b", json!({}), inside("192.0.2.2"))];
    let asking = |name: &str, address: &str| service(name, 1, json!({"spec": {"loadBalancerIP": address}}));
    let services = [asking("b", "192.0.2.2"), asking("c", "192.0.2.3")];
    assert_eq!(decided(&services, &nodes, &[]), ["b 192.0.2.2", "c "]);
    let world = world(&services, &nodes, &[], &[]);
    let refused: Vec<_> = plan(&world).into_iter().map(|(_, decision)| decision.refused).collect();
    assert_eq!(refused[0], None);
    assert!(refused[1].as_ref().unwrap().contains("192.0.2.3"));
}

fn ranges(texts: &[&str]) -> Vec<AddressRange> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// Names, addresses with who answers for them, and refusals of Services, in the order of their age.
fn ranged(services: &[Arc<Service>], nodes: &[Node], slices: &[EndpointSlice]) -> Vec<String> {
    let ranges = ranges(&["198.51.100.1-198.51.100.3", "2001:db8::/126"]);
    let world = World { ranges: &ranges, ..world(services, nodes, slices, &[]) };
    let shown = plan(&world).into_iter().map(|(service, decision)| {
        let addresses = decision.addresses.iter().map(|address| {
            let node = decision.announced.get(address).map_or("nobody", String::as_str);
            format!("{address}={node}")
        });
        let addresses: Vec<String> = addresses.collect();
        let refused = decision.refused.map(|why| format!(" !{why}")).unwrap_or_default();
        format!("{} {}{refused}", service.metadata.name.clone().unwrap(), addresses.join(","))
    });
    shown.collect()
}

fn told(mut service: Arc<Service>, address: &str, node: &str) -> Arc<Service> {
    let changed = Arc::make_mut(&mut service);
    changed.status =
        Some(serde_json::from_value(json!({"loadBalancer": {"ingress": [{"ip": address}]}})).unwrap());
    let by = annotation(&[(address.parse().unwrap(), node.to_owned())].into()).unwrap();
    changed.metadata.annotations = Some([("knarr.io/announced-by".to_owned(), by)].into());
    service
}

#[test]
fn ranges_are_read() {
    let ends = |text: &str| text.parse::<AddressRange>().map(|range| format!("{range:?}"));
    assert_eq!(ends("192.0.2.0/30"), ends("192.0.2.1-192.0.2.2"));
    assert_eq!(ends("192.0.2.7"), ends("192.0.2.7/32"));
    assert_eq!(ends("2001:db8::/127"), ends("2001:db8:: - 2001:db8::1"));
    for wrong in ["192.0.2.9-192.0.2.1", "192.0.2.1-2001:db8::1", "192.0.2.0/33", "here", "192.0.2.1-"] {
        assert!(ends(wrong).unwrap_err().contains(wrong));
    }
}

#[test]
fn addresses_of_ranges_stay_until_there_are_none() {
    let nodes = [node("a", json!({}), inside("192.0.2.1"))];
    let services = [
        service("first", 1, json!({})),
        told(service("holder", 2, json!({})), "198.51.100.1", "a"),
        service("second", 3, json!({})),
        service("third", 4, json!({})),
        service("dual", 5, json!({"spec": {"ipFamilies": ["IPv6", "IPv4"]}})),
        service("node", 6, json!({"spec": {"loadBalancerIP": "192.0.2.1"}})),
        service(
            "nodes",
            7,
            json!({"spec": {"loadBalancerClass": "knarr.io/servicelb", "ports": [{"port": 81}]}}),
        ),
    ];
    assert_eq!(
        ranged(&services, &nodes, &[]),
        [
            "first 198.51.100.2=a",
            "holder 198.51.100.1=a",
            "second 198.51.100.3=a",
            "third  !No address of --lb-range is free",
            "dual 2001:db8::=a !No address of --lb-range is free",
            "node 192.0.2.1=nobody",
            "nodes 192.0.2.1=nobody",
        ]
    );
}

#[test]
fn addresses_are_shared_by_those_who_say_so() {
    let nodes = [node("a", json!({}), inside("192.0.2.1"))];
    let shared = |name: &str, second, key: &str, port: u16| {
        service(
            name,
            second,
            json!({"metadata": {"annotations": {"knarr.io/lb-share": key}}, "spec": {"ports": [{"port": port}]}}),
        )
    };
    let asking = |name: &str, second, more: Value| {
        let mut spec = json!({"loadBalancerIP": "198.51.100.1", "ports": [{"port": 83}]});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        service(name, second, json!({"metadata": {"annotations": {"knarr.io/lb-share": "k"}}, "spec": spec}))
    };
    let services = [
        shared("one", 1, "k", 80),
        shared("two", 2, "k", 81),
        shared("same", 3, "k", 80),
        shared("other", 4, "l", 82),
        asking("local", 5, json!({"externalTrafficPolicy": "Local", "selector": {"a": "b"}})),
        asking("asking", 6, json!({})),
        service("alone", 7, json!({"spec": {"loadBalancerIP": "198.51.100.1"}})),
    ];
    let local = "!198.51.100.1 is the address of the Service default/one, and with externalTrafficPolicy Local it is shared for the same pods alone";
    assert_eq!(
        ranged(&services, &nodes, &[]),
        [
            "one 198.51.100.1=a".to_owned(),
            "two 198.51.100.1=a".to_owned(),
            "same 198.51.100.2=a".to_owned(),
            "other 198.51.100.3=a".to_owned(),
            format!("local  {local}"),
            "asking 198.51.100.1=a".to_owned(),
            "alone  !198.51.100.1 is the address of the Service default/one".to_owned(),
        ]
    );
}

#[test]
fn one_node_answers_and_another_when_it_is_gone() {
    let ready = |name: &str| node(name, json!({}), inside(&format!("192.0.2.{}", name.len())));
    let mut gone = ready("a");
    gone.status.as_mut().unwrap().conditions.as_mut().unwrap()[0].status = "Unknown".to_owned();
    let held = [told(service("web", 1, json!({})), "198.51.100.1", "bb")];
    assert_eq!(ranged(&held, &[ready("a"), ready("bb"), ready("ccc")], &[]), ["web 198.51.100.1=bb"]);
    let fresh = [service("web", 1, json!({})), service("more", 2, json!({})), service("third", 3, json!({}))];
    let all = ranged(&fresh, &[ready("a"), ready("bb"), ready("ccc")], &[]);
    assert!(
        all.iter().any(|one| one.ends_with("=a")) || all.iter().any(|one| one.ends_with("=ccc")),
        "{all:?}"
    );
    let held = [told(service("web", 1, json!({})), "198.51.100.1", "a")];
    assert_eq!(ranged(&held, &[gone, ready("bb")], &[]), ["web 198.51.100.1=bb"]);
    // Where endpoints are asked for, it is a node that has some.
    let slice: EndpointSlice = serde_json::from_value(json!({"addressType": "IPv4",
        "metadata": {"namespace": "default", "name": "x", "labels": {"kubernetes.io/service-name": "web"}},
        "endpoints": [{"addresses": ["10.42.0.2"], "nodeName": "ccc"}]}))
    .unwrap();
    let local =
        [told(service("web", 1, json!({"spec": {"externalTrafficPolicy": "Local"}})), "198.51.100.1", "a")];
    assert_eq!(ranged(&local, &[ready("a"), ready("ccc")], &[slice]), ["web 198.51.100.1=ccc"]);
    assert_eq!(ranged(&local, &[ready("a"), ready("ccc")], &[]), ["web 198.51.100.1=nobody"]);
}
