//! Which Service gets which addresses.

use crate::load_balancer::{World, plan};
use api::core::{Node, Service};
use api::discovery::EndpointSlice;
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
    let world = World {
        services: services.iter().collect(),
        nodes: nodes.iter().collect(),
        slices: slices.iter().collect(),
        reserved: &[6443],
    };
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
