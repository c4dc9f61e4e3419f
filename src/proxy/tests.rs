//! The plan against objects, its text against golden files, and its meaning against a naive reading of
//! Services.

#[path = "meaning_tests.rs"]
mod meaning;

use crate::family::Family;
use crate::model::{Endpoint, Fate, Front, Key, Protocol, Served, Value};
use crate::plan::{self, Planned};
use crate::state::{Difference, Owner, State};
use crate::{Config, Settings, Topology, render};
use api::core::{Pod, Service};
use api::slim::EndpointSlice;
use net::nft::Transaction;
use serde_json::{Value as Json, json};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Elements, as the kernel holds them.
type Elements = BTreeMap<Key, Value>;

impl State {
    fn elements(&self) -> Elements {
        let mut all = Elements::new();
        self.each(|key, value| assert!(all.insert(key, value).is_none(), "{key:?} twice"));
        all
    }
}

fn config() -> Config {
    let blocks = |texts: [&str; 2]| texts.map(|text| text.parse().unwrap()).into();
    Config {
        node_name: "here".into(),
        node_ips: vec![address("192.0.2.1")],
        cluster_cidrs: blocks(["10.42.0.0/16", "fd42::/56"]),
        service_cidrs: blocks(["10.43.0.0/16", "fd43::/112"]),
        answered_here: vec![address("10.43.0.10")],
        settings: Settings::default(),
    }
}

fn topology() -> Topology {
    Topology { node_name: "here".into(), zone: Some("a".into()) }
}

fn service(name: &str, spec: Json) -> Service {
    serde_json::from_value(json!({"metadata": {"namespace": "default", "name": name}, "spec": spec})).unwrap()
}

fn slice_of(service: &str, family: &str, port: Json, endpoints: Vec<Json>) -> EndpointSlice {
    let labels = json!({"kubernetes.io/service-name": service});
    serde_json::from_value(json!({"metadata": {"namespace": "default", "name": service, "labels": labels},
        "addressType": family, "ports": [port], "endpoints": endpoints}))
    .unwrap()
}

/// Endpoints as (last byte of the address, node, ready, serving, terminating).
fn slice(service: &str, port: Json, endpoints: &[(u8, &str, bool, bool, bool)]) -> EndpointSlice {
    let endpoints = endpoints.iter().map(|(byte, node, ready, serving, terminating)| {
        json!({"addresses": [format!("10.42.0.{byte}")], "nodeName": node,
            "conditions": {"ready": ready, "serving": serving, "terminating": terminating}})
    });
    slice_of(service, "IPv4", port, endpoints.collect())
}

fn ready(byte: u8, node: &str) -> (u8, &str, bool, bool, bool) {
    (byte, node, true, true, false)
}

fn planned(service: &Service, slices: &[EndpointSlice]) -> Planned {
    plan::service(&config(), &topology(), service, &slices.iter().collect::<Vec<_>>())
}

fn owner(name: &str) -> Owner {
    Owner::service("default", name)
}

fn state(plans: impl IntoIterator<Item = (Owner, Planned)>) -> State {
    let mut state = State::default();
    for (owner, planned) in plans {
        state.replace(&owner, planned, &mut Difference::default());
    }
    state
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn at(text: &str, port: u16) -> Front {
    Front::Address(address(text), Protocol::Tcp, port)
}

fn node_port(port: u16) -> Front {
    Front::Port(Family::V4, Protocol::Tcp, port)
}

fn texts(endpoints: &[Endpoint]) -> Vec<String> {
    endpoints.iter().map(|endpoint| net_text(*endpoint)).collect()
}

fn net_text(endpoint: Endpoint) -> String {
    std::net::SocketAddr::new(endpoint.address, endpoint.port).to_string()
}

/// Where connections from elsewhere go.
fn reached(served: &Served) -> Vec<String> {
    match &served.fate {
        Fate::Spread(endpoints) => texts(endpoints),
        Fate::Reject => vec!["rejected".to_owned()],
        Fate::Drop => vec!["dropped".to_owned()],
    }
}

fn web() -> (Service, Vec<EndpointSlice>) {
    let spec = json!({"clusterIP": "10.43.0.5", "clusterIPs": ["10.43.0.5", "fd43::5"], "type": "LoadBalancer",
        "loadBalancerSourceRanges": ["192.0.2.0/24", " 2001:db8::/32", "192.0.2.0/25"], "sessionAffinity": "ClientIP",
        "ports": [{"name": "http", "port": 80, "nodePort": 30080, "targetPort": "web"}]});
    let mut service = service("web", spec);
    let balancer = json!({"loadBalancer": {"ingress": [{"ip": "198.51.100.7"}, {"ip": "2001:db8::7"}]}});
    service.status = Some(serde_json::from_value(balancer).unwrap());
    let port = json!({"name": "http", "port": 8080, "protocol": "TCP"});
    let v4 = slice("web", port.clone(), &[ready(2, "here"), ready(3, "there")]);
    let v6 = slice_of("web", "IPv6", port, vec![json!({"addresses": ["fd42::2"], "nodeName": "here"})]);
    (service, vec![v4, v6])
}

fn local() -> (Service, EndpointSlice) {
    let spec = json!({"clusterIP": "10.43.0.6", "type": "LoadBalancer", "internalTrafficPolicy": "Local",
        "externalTrafficPolicy": "Local", "externalIPs": ["192.0.2.9"], "healthCheckNodePort": 32000,
        "ports": [{"port": 53, "nodePort": 30053, "protocol": "UDP"}]});
    let port = json!({"name": "", "port": 5353, "protocol": "UDP"});
    (service("dns", spec), slice("dns", port, &[ready(2, "here"), ready(3, "there")]))
}

#[test]
fn the_whole_of_both_tables_is_this() {
    let ((web, web_slices), (dns, dns_slice)) = (web(), local());
    let state = state([
        (owner("web"), planned(&web, &web_slices)),
        (owner("dns"), planned(&dns, &[dns_slice])),
        (
            owner("none"),
            planned(&service("none", json!({"clusterIP": "10.43.0.9", "ports": [{"port": 1}]})), &[]),
        ),
    ]);
    let (transaction, _) = render::everything(&config(), &state);
    golden("everything.nft", transaction.text());
}

/// Written anew where the environment says so.
fn golden(name: &str, text: &str) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(name);
    if std::env::var_os("KNARR_GOLDEN").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    assert_eq!(text, std::fs::read_to_string(path).unwrap());
}

#[test]
fn a_change_is_only_what_changed() {
    let (dns, before) = local();
    let mut state = state([(owner("dns"), planned(&dns, &[before]))]);
    let port = json!({"name": "", "port": 5353, "protocol": "UDP"});
    let after = slice("dns", port, &[ready(2, "here"), ready(3, "there"), ready(4, "there")]);
    let mut difference = Difference::default();
    state.replace(&owner("dns"), planned(&dns, &[after]), &mut difference);
    let mut transaction = Transaction::default();
    render::add_chains(difference.chains().iter(), &mut transaction);
    render::changes(&difference).write(&mut transaction);
    golden("change.nft", transaction.text());
    assert!(
        difference.stale.flows.iter().all(|front| front.protocol() == Protocol::Udp)
            && difference.stale.flows.len() == 3
    );
}

#[test]
fn chosen_addresses_bind_node_ports_and_not_host_ports() {
    let mut config = config();
    config.settings = Settings::read(&["nodeport-addresses=192.0.2.0/24".to_owned()]).unwrap();
    let (web, slices) = web();
    let slices: Vec<&EndpointSlice> = slices.iter().collect();
    let web = plan::service(&config, &topology(), &web, &slices);
    let state = state([
        (owner("web"), web),
        (Owner::pod("default", "p"), plan::host_ports(&config, &pod("Running"))),
    ]);
    let (transaction, _) = render::everything(&config, &state);
    let chains: Vec<&str> =
        transaction.text().lines().filter(|line| line.contains("port-services {")).collect();
    assert!(
        chains.iter().any(|line| line.contains("tcp . 30080 : goto port-tcp-2-sticky-masquerade-chosen")),
        "{chains:?}"
    );
    assert!(chains.iter().any(|line| line.contains("tcp . 8080 : goto port-tcp-1")), "{chains:?}");
    assert!(transaction.text().contains("ip daddr != @node-ports return"));
    assert!(transaction.text().contains("add element ip knarr-proxy node-ports { 192.0.2.0/24 }"));
    assert!(
        !transaction.text().contains("add element ip6 knarr-proxy node-ports"),
        "all of the other family's"
    );
}

#[test]
fn ready_endpoints_are_used_else_those_that_drain() {
    let spec = json!({"clusterIP": "10.43.0.5", "ports": [{"port": 80}]});
    let service = service("web", spec);
    let port = json!({"name": "", "port": 8080});
    let (draining, dead) = ((4, "here", false, true, true), (5, "here", false, false, true));
    let of = |endpoints: &[_]| {
        reached(&planned(&service, &[slice("web", port.clone(), endpoints)]).fronts[&at("10.43.0.5", 80)])
    };
    assert_eq!(of(&[ready(2, "here"), draining, dead]), ["10.42.0.2:8080"]);
    assert_eq!(of(&[draining, dead]), ["10.42.0.4:8080"]);
    assert_eq!(of(&[dead, (6, "here", false, true, false)]), ["rejected"]);
}

#[test]
fn local_policies_keep_to_this_node_but_for_what_comes_from_inside() {
    let (dns, both) = local();
    let served = planned(&dns, &[both]);
    let udp = |text, port| Front::Address(address(text), Protocol::Udp, port);
    let own = &served.fronts[&udp("10.43.0.6", 53)];
    assert_eq!((reached(own), own.inside.len()), (vec!["10.42.0.2:5353".to_owned()], 0));
    let outside = &served.fronts[&udp("192.0.2.9", 53)];
    assert_eq!(reached(outside), ["10.42.0.2:5353"]);
    assert_eq!(texts(&outside.inside), ["10.42.0.2:5353", "10.42.0.3:5353"]);
    assert!(!outside.masquerade, "the client's address is kept");
    assert_eq!(served.health, Some((32000, 1)));
    let port = json!({"port": 5353, "protocol": "UDP"});
    let elsewhere = planned(&dns, &[slice("dns", port, &[ready(3, "there")])]);
    for front in [udp("10.43.0.6", 53), udp("192.0.2.9", 53), Front::Port(Family::V4, Protocol::Udp, 30053)] {
        assert_eq!(reached(&elsewhere.fronts[&front]), ["dropped"]);
    }
    assert_eq!((elsewhere.health, elsewhere.no_local), (Some((32000, 0)), (1, 1)));
}

#[test]
fn headless_external_and_own_services_are_left_alone() {
    let port = json!([{"port": 53}]);
    let labelled = |label: &str| {
        let mut service = service("elsewhere", json!({"clusterIP": "10.43.0.11", "ports": port}));
        service.metadata.labels = Some([(label.to_owned(), "other".to_owned())].into());
        service
    };
    for left in [
        labelled("service.kubernetes.io/service-proxy-name"),
        labelled("service.kubernetes.io/headless"),
        service("headless", json!({"clusterIP": "None", "ports": port})),
        service("outside", json!({"type": "ExternalName", "externalName": "example.org"})),
        service("dns", json!({"clusterIP": "10.43.0.10", "ports": port})),
    ] {
        assert_eq!(planned(&left, &[]), Planned::default());
    }
}

#[test]
fn slices_of_other_ports_protocols_and_those_marked_headless_are_not_served() {
    let service = service("web", json!({"clusterIP": "10.43.0.5", "ports": [{"name": "http", "port": 80}]}));
    let of = |slice| reached(&planned(&service, &[slice]).fronts[&at("10.43.0.5", 80)]);
    let endpoints = [ready(2, "here")];
    assert_eq!(of(slice("web", json!({"name": "http", "port": 8080}), &endpoints)), ["10.42.0.2:8080"]);
    assert_eq!(of(slice("web", json!({"name": "other", "port": 8080}), &endpoints)), ["rejected"]);
    assert_eq!(
        of(slice("web", json!({"name": "http", "port": 8080, "protocol": "UDP"}), &endpoints)),
        ["rejected"]
    );
    let mut headless = slice("web", json!({"name": "http", "port": 8080}), &endpoints);
    headless.metadata.labels = BTreeMap::from([("service.kubernetes.io/headless".into(), "".into())]).into();
    assert_eq!(of(headless), ["rejected"]);
}

#[test]
fn a_named_port_may_be_another_in_each_slice() {
    let service = service("web", json!({"clusterIP": "10.43.0.5", "ports": [{"name": "http", "port": 80}]}));
    let slices = [(8080, 2), (9090, 3)]
        .map(|(number, byte)| slice("web", json!({"name": "http", "port": number}), &[ready(byte, "here")]));
    let fronts = planned(&service, &slices).fronts;
    assert_eq!(reached(&fronts[&at("10.43.0.5", 80)]), ["10.42.0.2:8080", "10.42.0.3:9090"]);
}

/// Endpoints of the zones a (of node "here" and another) and b, with hints as the controller writes them.
#[test]
fn hints_are_heeded_if_all_have_them_and_one_is_for_us() {
    let service = service("web", json!({"clusterIP": "10.43.0.5", "ports": [{"port": 80}]}));
    let endpoint = |byte: u8, hints: Json| json!({"addresses": [format!("10.42.0.{byte}")], "hints": hints});
    let of = |endpoints: Vec<Json>| {
        reached(
            &planned(&service, &[slice_of("web", "IPv4", json!({"port": 80}), endpoints)]).fronts
                [&at("10.43.0.5", 80)],
        )
    };
    let zone = |name: &str| json!({"forZones": [{"name": name}]});
    let both = |node: &str, zone: &str| json!({"forNodes": [{"name": node}], "forZones": [{"name": zone}]});
    assert_eq!(of(vec![endpoint(2, zone("a")), endpoint(3, zone("b"))]), ["10.42.0.2:80"]);
    assert_eq!(of(vec![endpoint(2, zone("a")), endpoint(3, Json::Null)]).len(), 2, "one has no hint");
    assert_eq!(of(vec![endpoint(2, zone("b")), endpoint(3, zone("c"))]).len(), 2, "none is for us");
    assert_eq!(of(vec![endpoint(2, both("here", "a")), endpoint(3, both("there", "a"))]), ["10.42.0.2:80"]);
    let elsewhere = of(vec![endpoint(2, both("there", "a")), endpoint(3, both("there", "b"))]);
    assert_eq!(elsewhere, ["10.42.0.2:80"], "no node's, but the zone's");
}

#[test]
fn source_ranges_guard_the_balancers_address_alone() {
    let (web, slices) = web();
    let served = planned(&web, &slices);
    let ranges = |front| served.fronts[&front].sources.iter().map(ToString::to_string).collect::<Vec<_>>();
    // The node is within them, and so may be the balancer's address on it.
    assert_eq!(ranges(at("198.51.100.7", 80)), ["192.0.2.0/24", "198.51.100.7/32"]);
    assert_eq!(ranges(at("2001:db8::7", 80)), ["2001:db8::/32"]);
    assert!(ranges(at("10.43.0.5", 80)).is_empty() && ranges(node_port(30080)).is_empty());
}

#[test]
fn addresses_that_a_balancer_proxies_itself_are_not_ours() {
    let (mut web, slices) = web();
    let balancer = json!({"loadBalancer": {"ingress": [{"ip": "198.51.100.7", "ipMode": "Proxy"}, {"ip": "198.51.100.8", "ipMode": "VIP"}]}});
    web.status = Some(serde_json::from_value(balancer).unwrap());
    let fronts = planned(&web, &slices).fronts;
    assert!(!fronts.contains_key(&at("198.51.100.7", 80)) && fronts.contains_key(&at("198.51.100.8", 80)));
}

fn pod(phase: &str) -> Pod {
    serde_json::from_value(json!({"metadata": {"name": "p"},
        "status": {"phase": phase, "podIP": "10.42.0.9", "podIPs": [{"ip": "10.42.0.9"}, {"ip": "fd42::9"}]},
        "spec": {"containers": [{"name": "c", "ports": [
            {"containerPort": 80, "hostPort": 8080}, {"containerPort": 81, "hostPort": 30080},
            {"containerPort": 53, "hostPort": 53, "protocol": "UDP", "hostIP": "192.0.2.1"}]}]}}))
    .unwrap()
}

#[test]
fn host_ports_lead_to_the_pod_and_yield_to_services() {
    let (web, slices) = web();
    let fronts = plan::host_ports(&config(), &pod("Running")).fronts;
    assert_eq!(reached(&fronts[&node_port(8080)]), ["10.42.0.9:80"]);
    assert_eq!(reached(&fronts[&Front::Port(Family::V6, Protocol::Tcp, 8080)]), ["[fd42::9]:80"]);
    assert_eq!(reached(&fronts[&Front::Address(address("192.0.2.1"), Protocol::Udp, 53)]), ["10.42.0.9:53"]);
    assert!(plan::host_ports(&config(), &pod("Succeeded")).fronts.keys().next().is_none());
    let pod = (Owner::pod("a", "p"), plan::host_ports(&config(), &pod("Running")));
    let both = state([pod, (owner("web"), planned(&web, &slices))]).elements();
    let endpoint = Value::Endpoint(Endpoint { address: address("10.42.0.2"), port: 8080 });
    assert_eq!(both[&Key::Endpoint(node_port(30080), 0)], endpoint);
}

#[test]
fn endpoints_are_bounded() {
    let (v4, count) = (json!({"port": 80}), 70_000_u32);
    let address = |number: u32| std::net::Ipv4Addr::from_bits(0x0a2a_0000 + number);
    let endpoints = (0..count).map(|number| json!({"addresses": [address(number)]})).collect();
    let web = service("web", json!({"clusterIP": "10.43.0.5", "ports": [{"port": 80}]}));
    let elements =
        state([(owner("web"), planned(&web, &[slice_of("web", "IPv4", v4, endpoints)]))]).elements();
    assert_eq!(elements.len(), 1 + usize::from(crate::model::MOST_ENDPOINTS));
}

/// Applies a difference as the kernel does.
fn applied(mut kernel: Elements, difference: &Difference) -> Elements {
    for key in difference.deleted() {
        assert!(kernel.remove(&key).is_some(), "deletes {key:?}, which is not there");
    }
    for (key, value) in difference.added() {
        assert!(kernel.insert(key, value).is_none(), "adds {key:?}, which is there");
    }
    kernel
}
