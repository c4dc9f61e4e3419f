//! The plan against objects, and its text against golden files.

use crate::Config;
use crate::model::{Difference, Endpoint, Front, Key, Model, Protocol, Spread, Value};
use crate::plan::{Snapshot, plan};
use crate::render;
use api::core::{Pod, Service};
use api::discovery::EndpointSlice;
use net::nft::Transaction;
use serde_json::{Value as Json, json};
use std::net::IpAddr;

fn config() -> Config {
    Config {
        node_name: "here".into(),
        cluster_cidrs: vec!["10.42.0.0/16".parse().unwrap()],
        service_cidrs: vec!["10.43.0.0/16".parse().unwrap()],
        answered_here: vec!["10.43.0.10".parse().unwrap()],
    }
}

fn service(name: &str, spec: Json) -> Service {
    serde_json::from_value(json!({"metadata": {"namespace": "default", "name": name}, "spec": spec})).unwrap()
}

/// Endpoints as (last byte of the address, node, ready, serving, terminating).
fn slice(service: &str, port: Json, endpoints: &[(u8, &str, bool, bool, bool)]) -> EndpointSlice {
    let endpoints: Vec<Json> = endpoints
        .iter()
        .map(|(byte, node, ready, serving, terminating)| {
            json!({"addresses": [format!("10.42.0.{byte}")], "nodeName": node,
                "conditions": {"ready": ready, "serving": serving, "terminating": terminating}})
        })
        .collect();
    let labels = json!({"kubernetes.io/service-name": service});
    serde_json::from_value(json!({"metadata": {"namespace": "default", "name": service, "labels": labels},
        "addressType": "IPv4", "ports": [port], "endpoints": endpoints}))
    .unwrap()
}

fn ready(byte: u8, node: &str) -> (u8, &str, bool, bool, bool) {
    (byte, node, true, true, false)
}

fn model(services: &[Service], slices: &[EndpointSlice], pods: &[Pod]) -> Model {
    let snapshot = Snapshot {
        services: services.iter().collect(),
        slices: slices.iter().collect(),
        pods: pods.iter().collect(),
    };
    plan(&config(), &snapshot)
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn at(text: &str, port: u16) -> Front {
    Front::Address(address(text), Protocol::Tcp, port)
}

/// Where a new connection to `front` goes when the dice show `roll`.
fn evaluate(model: &Model, front: Front, roll: u16) -> Result<Endpoint, &'static str> {
    match (model.0.get(&Key::Service(front)), model.0.get(&Key::Refused(front))) {
        (Some(Value::Spread(spread)), None) => {
            match model.0.get(&Key::Endpoint(front, roll % spread.endpoints)) {
                Some(Value::Endpoint(endpoint)) => Ok(*endpoint),
                other => panic!("a spread leads to {other:?}"),
            }
        }
        (None, Some(Value::Drop)) => Err("dropped"),
        (None, _) => Err("refused"),
        both => panic!("a front is served and refused: {both:?}"),
    }
}

fn reached(model: &Model, front: Front) -> Vec<String> {
    let mut all: Vec<String> = (0..8)
        .map(|roll| match evaluate(model, front, roll) {
            Ok(endpoint) => format!("{}:{}", endpoint.address, endpoint.port),
            Err(verdict) => verdict.to_owned(),
        })
        .collect();
    all.sort();
    all.dedup();
    all
}

fn web() -> (Service, EndpointSlice) {
    let spec = json!({"clusterIP": "10.43.0.5", "type": "NodePort",
        "ports": [{"name": "http", "port": 80, "nodePort": 30080, "targetPort": "web"}]});
    let slice = slice("web", json!({"name": "http", "port": 8080}), &[ready(2, "here"), ready(3, "there")]);
    (service("web", spec), slice)
}

#[test]
fn the_whole_table_is_this() {
    let (service, slice) = web();
    let transaction = render::everything(&render::table(&config(), 2), &model(&[service], &[slice], &[]));
    assert_eq!(transaction.text(), include_str!("testdata/everything.nft"));
}

#[test]
fn a_change_is_only_what_changed() {
    let (service, before) = web();
    let old = model(std::slice::from_ref(&service), &[before], &[]);
    let after = slice("web", json!({"name": "http", "port": 8080}), &[ready(3, "there")]);
    let difference = model(&[service], &[after], &[]).diff(&old);
    let mut transaction = Transaction::default();
    render::change(&render::table(&config(), 2), &difference, &mut transaction);
    assert_eq!(transaction.text(), include_str!("testdata/change.nft"));
    let gone: Vec<String> = difference.gone.iter().map(|(_, gone)| gone.address.to_string()).collect();
    assert_eq!(gone, ["10.42.0.2", "10.42.0.2"]);
    assert_eq!(old.diff(&old), Difference::default());
}

#[test]
fn terminating_endpoints_serve_only_when_nothing_is_ready() {
    let (service, _) = web();
    let port = json!({"name": "http", "port": 8080});
    let draining = (4, "here", false, true, true);
    let dead = (5, "here", false, false, true);
    let both = slice("web", port.clone(), &[ready(2, "here"), draining, dead]);
    let services = [service];
    assert_eq!(reached(&model(&services, &[both], &[]), at("10.43.0.5", 80)), ["10.42.0.2:8080"]);
    let last = slice("web", port.clone(), &[draining, dead]);
    assert_eq!(reached(&model(&services, &[last], &[]), at("10.43.0.5", 80)), ["10.42.0.4:8080"]);
    let none = slice("web", port, &[dead, (6, "here", false, true, false)]);
    assert_eq!(reached(&model(&services, &[none], &[]), at("10.43.0.5", 80)), ["refused"]);
}

#[test]
fn local_policies_keep_to_this_node() {
    let spec = json!({"clusterIP": "10.43.0.6", "type": "LoadBalancer", "internalTrafficPolicy": "Local",
        "externalTrafficPolicy": "Local", "externalIPs": ["192.0.2.9"], "ports": [{"port": 80, "nodePort": 30081}]});
    let services = [service("db", spec)];
    let port = json!({"name": "", "port": 5432});
    let two = model(&services, &[slice("db", port.clone(), &[ready(2, "here"), ready(3, "there")])], &[]);
    for front in [at("10.43.0.6", 80), at("192.0.2.9", 80), Front::Port(Protocol::Tcp, 30081)] {
        assert_eq!(reached(&two, front), ["10.42.0.2:5432"]);
    }
    let spread = Spread { port: true, endpoints: 1, sticky: false, masquerade: false };
    let node_port = Key::Service(Front::Port(Protocol::Tcp, 30081));
    assert_eq!(two.0.get(&node_port), Some(&Value::Spread(spread)), "the client's address is kept");
    let elsewhere = model(&services, &[slice("db", port, &[ready(3, "there")])], &[]);
    assert_eq!(reached(&elsewhere, at("10.43.0.6", 80)), ["dropped"]);
}

#[test]
fn headless_external_and_own_services_are_left_alone() {
    let port = json!([{"port": 53}]);
    let mut elsewhere = service("elsewhere", json!({"clusterIP": "10.43.0.11", "ports": port}));
    let label = ("service.kubernetes.io/service-proxy-name".to_owned(), "other".to_owned());
    elsewhere.metadata.labels = Some([label].into());
    let services = [
        elsewhere,
        service("headless", json!({"clusterIP": "None", "ports": port})),
        service("outside", json!({"type": "ExternalName", "externalName": "example.org"})),
        service("dns", json!({"clusterIP": "10.43.0.10", "ports": port})),
    ];
    assert_eq!(model(&services, &[], &[]), Model::default());
}

#[test]
fn slices_that_are_marked_headless_are_not_served() {
    let (service, mut slice) = web();
    let label = ("service.kubernetes.io/headless".to_owned(), String::new());
    slice.metadata.labels.get_or_insert_default().extend([label]);
    assert_eq!(reached(&model(&[service], &[slice], &[]), at("10.43.0.5", 80)), ["refused"]);
}

#[test]
fn clients_are_remembered_where_the_service_says_so() {
    let spec = json!({"clusterIP": "10.43.0.7", "sessionAffinity": "ClientIP",
        "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 45}}, "ports": [{"port": 80}]});
    let sticky = model(&[service("s", spec)], &[slice("s", json!({"port": 80}), &[ready(2, "here")])], &[]);
    assert_eq!(sticky.0.get(&Key::Sticky(at("10.43.0.7", 80))), Some(&Value::Remember(45)));
    let spread = Spread { port: false, endpoints: 1, sticky: true, masquerade: false };
    assert_eq!(sticky.0.get(&Key::Service(at("10.43.0.7", 80))), Some(&Value::Spread(spread)));
}

#[test]
fn host_ports_lead_to_the_pod_and_yield_to_services() {
    let pod = |phase: &str| -> Pod {
        serde_json::from_value(
            json!({"metadata": {"name": "p"}, "status": {"phase": phase, "podIP": "10.42.0.9"},
            "spec": {"containers": [{"name": "c", "ports": [
                {"containerPort": 80, "hostPort": 8080}, {"containerPort": 81, "hostPort": 30080},
                {"containerPort": 53, "hostPort": 53, "protocol": "UDP", "hostIP": "192.0.2.1"}]}]}}),
        )
        .unwrap()
    };
    let (service, slice) = web();
    let model_of = |phase| model(std::slice::from_ref(&service), std::slice::from_ref(&slice), &[pod(phase)]);
    let running = model_of("Running");
    assert_eq!(reached(&running, Front::Port(Protocol::Tcp, 8080)), ["10.42.0.9:80"]);
    assert_eq!(reached(&running, Front::Port(Protocol::Tcp, 30080)), ["10.42.0.2:8080", "10.42.0.3:8080"]);
    let dns = Front::Address(address("192.0.2.1"), Protocol::Udp, 53);
    assert_eq!(reached(&running, dns), ["10.42.0.9:53"]);
    assert_eq!(reached(&model_of("Succeeded"), Front::Port(Protocol::Tcp, 8080)), ["refused"]);
}

#[test]
fn of_two_claims_to_one_front_the_first_wins_whole() {
    let spec = |ip: &str| json!({"clusterIP": ip, "externalIPs": ["192.0.2.9"], "ports": [{"port": 80}]});
    let services = [service("a", spec("10.43.0.1")), service("b", spec("10.43.0.2"))];
    let b = slice("b", json!({"port": 80}), &[ready(2, "here"), ready(3, "here")]);
    let model_b = model(&services, std::slice::from_ref(&b), &[]);
    assert_eq!(reached(&model_b, at("192.0.2.9", 80)), ["refused"]);
    let a = slice("a", json!({"port": 80}), &[ready(7, "here")]);
    let both = model(&services, &[a, b], &[]);
    assert_eq!(reached(&both, at("192.0.2.9", 80)), ["10.42.0.7:80"]);
}

proptest::proptest! {
    /// Deleting and adding what the difference says turns any model into any other, and no front is
    /// ever both served and refused, nor leads to nothing.
    #[test]
    fn differences_lead_from_any_state_to_any_other(
        before in proptest::collection::vec((1_u8..6, 2_u8..8, 0_u8..4), 0..12),
        after in proptest::collection::vec((1_u8..6, 2_u8..8, 0_u8..4), 0..12),
    ) {
        let (old, new) = (arbitrary(&before), arbitrary(&after));
        let difference = new.diff(&old);
        let mut kernel = old.clone();
        for key in &difference.delete {
            proptest::prop_assert!(kernel.0.remove(key).is_some(), "deletes what is not there");
        }
        for (key, value) in &difference.add {
            proptest::prop_assert!(kernel.0.insert(*key, *value).is_none(), "adds what is there");
        }
        proptest::prop_assert_eq!(&kernel, &new);
        for byte in 1..6 {
            for roll in 0..16 {
                let answer = evaluate(&new, at(&format!("10.43.0.{byte}"), 80), roll);
                proptest::prop_assert_eq!(answer, evaluate(&kernel, at(&format!("10.43.0.{byte}"), 80), roll));
            }
        }
        for (front, gone) in &difference.gone {
            let still = (0..16).any(|roll| evaluate(&new, *front, roll) == Ok(*gone));
            proptest::prop_assert!(!still, "forgets an endpoint that is still there");
        }
    }
}

/// Services and their endpoints from (service, endpoint, state).
fn arbitrary(endpoints: &[(u8, u8, u8)]) -> Model {
    let names: std::collections::BTreeSet<u8> = endpoints.iter().map(|(service, ..)| *service).collect();
    let spec = |byte: u8| {
        json!({"clusterIP": format!("10.43.0.{byte}"), "ports": [{"port": 80}],
        "externalIPs": ["192.0.2.9"], "internalTrafficPolicy": if byte.is_multiple_of(2) { "Local" } else { "Cluster" }})
    };
    let services: Vec<Service> = names.iter().map(|byte| service(&format!("s{byte}"), spec(*byte))).collect();
    let slices: Vec<EndpointSlice> = endpoints
        .iter()
        .map(|(of, byte, state)| {
            let node = if byte.is_multiple_of(3) { "here" } else { "there" };
            let endpoint = (*byte, node, *state == 0, *state <= 1, *state == 1);
            slice(&format!("s{of}"), json!({"port": 80}), &[endpoint])
        })
        .collect();
    model(&services, &slices, &[])
}
