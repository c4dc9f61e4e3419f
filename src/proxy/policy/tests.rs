//! Policies against golden text, and what the sets and chains mean against a naive reading of them.

#[path = "admin_tests.rs"]
mod admin;

use super::admin::Verdict;
use super::render;
use super::rules::{Peer, Ports, Rule, Rules};
use super::run::Held;
use super::state::{Chain, Difference, Hook, Known, Rest, Set, State, port_name};
use crate::family::Family;
use crate::model::Protocol;
use api::core::Namespace;
use api::networking::NetworkPolicy;
use api::slim;
use net::nft::{Field, Transaction};
use proptest::prelude::*;
use serde_json::{Value as Json, json};
use std::net::IpAddr;
use std::sync::Arc;

fn policy(namespace: &str, name: &str, spec: Json) -> NetworkPolicy {
    serde_json::from_value(json!({"metadata": {"namespace": namespace, "name": name}, "spec": spec})).unwrap()
}

fn pod(namespace: &str, name: &str, number: u8, more: Json) -> slim::Pod {
    let mut pod = json!({"metadata": {"namespace": namespace, "name": name, "uid": name, "labels": {"pod": name}},
        "spec": {"nodeName": "here", "containers": [{"name": "c", "ports": [{"name": "web", "containerPort": 80}]}]},
        "status": {"phase": "Running", "podIPs": [{"ip": format!("10.42.0.{number}")}, {"ip": format!("fd42::{number:x}")}]}});
    for (key, value) in more.as_object().into_iter().flatten() {
        pod["spec"][key] = value.clone();
    }
    serde_json::from_value(pod).unwrap()
}

fn state(policies: &[NetworkPolicy], pods: &[slim::Pod]) -> State {
    with_rules(Rules::of(policies.iter()), pods)
}

fn with_rules(rules: Rules, pods: &[slim::Pod]) -> State {
    let mut state = State::default();
    let mut difference = Difference::new();
    state.set_rules(rules, &mut difference);
    for name in ["x", "y", "z"] {
        let object = json!({"metadata": {"name": name, "labels": {"ns": name}}});
        let namespace: Namespace = serde_json::from_value(object).unwrap();
        state.set_namespace(name, Some(Arc::new(namespace)), &mut difference);
    }
    for pod in pods {
        set(&mut state, pod, &mut difference);
    }
    state
}

fn name(pod: &slim::Pod) -> (String, String) {
    use api::Object;
    (pod.namespace().to_owned(), pod.name().to_owned())
}

fn set(state: &mut State, pod: &slim::Pod, difference: &mut Difference) {
    if let Some(known) = Known::of(pod, "here") {
        state.set_pod(&name(pod), known, difference);
    }
}

#[test]
fn the_table_comes_and_goes_with_the_policies() {
    let deny = policy("x", "deny", json!({"podSelector": {}}));
    let rules = |policies: &[NetworkPolicy]| Rules::of(policies.iter());
    // After a start without policies, and again after the last one went.
    let mut held = Held::default();
    held.is_loaded = true;
    for _ in 0..2 {
        held.set_rules(rules(std::slice::from_ref(&deny)), &mut Difference::new());
        assert!(!std::mem::replace(&mut held.is_loaded, true), "the table is there only now");
        held.set_rules(rules(&[policy("y", "deny", json!({"podSelector": {}}))]), &mut Difference::new());
        assert!(held.is_loaded, "another policy changes the table");
        held.set_rules(rules(&[]), &mut Difference::new());
        assert!(!std::mem::replace(&mut held.is_loaded, true), "the table has gone");
    }
}

fn golden(file: &str, text: &str) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(file);
    if std::env::var_os("KNARR_GOLDEN").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    assert_eq!(text, std::fs::read_to_string(path).unwrap());
}

fn some_policies() -> [NetworkPolicy; 3] {
    let ingress = json!([{"from": [{"podSelector": {"matchLabels": {"pod": "b"}}},
            {"namespaceSelector": {"matchLabels": {"ns": "y"}}},
            {"ipBlock": {"cidr": "192.0.2.0/24", "except": ["192.0.2.128/25"]}}, {"ipBlock": {"cidr": "2001:db8::/32"}}],
        "ports": [{"port": 80}, {"port": 8000, "endPort": 8100}, {"port": "web"}, {"protocol": "UDP", "port": 53}, {"protocol": "SCTP"}]}]);
    [
        policy(
            "x",
            "allow",
            json!({"podSelector": {"matchLabels": {"pod": "a"}}, "policyTypes": ["Ingress"], "ingress": ingress}),
        ),
        policy("x", "deny", json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]})),
        policy("z", "all", json!({"podSelector": {}, "ingress": [{}]})),
    ]
}

#[test]
fn the_whole_table_is_this() {
    let pods = [
        pod("x", "a", 1, Json::Null),
        pod("x", "b", 2, Json::Null),
        pod("y", "a", 3, Json::Null),
        pod("y", "far", 4, json!({"nodeName": "there"})),
        pod("y", "host", 5, json!({"hostNetwork": true})),
        pod("z", "open", 6, Json::Null),
    ];
    golden("policies.nft", render::everything(&state(&some_policies(), &pods)).text());
    let mut none = Transaction::default();
    none.remove_table("inet", "knarr-policy");
    assert_eq!(render::everything(&state(&[], &pods)), none);
}

#[test]
fn a_pod_that_comes_changes_elements_alone() {
    let mut state = state(&some_policies(), &[pod("x", "b", 2, Json::Null)]);
    let before = render::Parts::of(&state);
    let mut difference = Difference::new();
    set(&mut state, &pod("x", "c", 7, Json::Null), &mut difference);
    assert!(render::Parts::of(&state).beyond(&before).is_empty());
    let mut transaction = Transaction::default();
    render::changes(&difference).write(&mut transaction);
    assert!(
        transaction.text().contains("add element inet knarr-policy ingress-4 { 10.42.0.7 : goto ingress-")
    );
    assert!(
        transaction.text().lines().all(|line| line.starts_with("add element ")),
        "{}",
        transaction.text()
    );
}

#[test]
fn an_address_is_the_latest_pods() {
    let mut state = state(&some_policies(), &[pod("y", "old", 9, Json::Null)]);
    let whole = |state: &State| render::everything(state).text().to_owned();
    assert!(!whole(&state).contains("10.42.0.9 : goto"));
    let new: api::core::Pod =
        serde_json::from_value(json!({"metadata": {"namespace": "x", "name": "new", "uid": "u"}})).unwrap();
    let addresses = ["10.42.0.9".parse().unwrap()].into();
    let known = Known { told: 1, ..Known::announced(&new, addresses) };
    state.set_pod(&("x".to_owned(), "new".to_owned()), known, &mut Difference::new());
    assert!(whole(&state).contains("10.42.0.9 : goto"), "the kubelet knows it before the API does");
    // The API has the pod, but not its addresses yet.
    let mut late = pod("x", "new", 9, Json::Null);
    late.metadata.uid = Some("u".into());
    late.status = Some(slim::PodStatus { phase: Some("Pending".into()), ..slim::PodStatus::default() });
    set(&mut state, &late, &mut Difference::new());
    assert!(whole(&state).contains("10.42.0.9 : goto"));
    state.remove_pod(&("x".to_owned(), "new".to_owned()), "another", &mut Difference::new());
    assert!(whole(&state).contains("10.42.0.9 : goto"));
    state.remove_pod(&("x".to_owned(), "new".to_owned()), "u", &mut Difference::new());
    assert!(!whole(&state).contains("10.42.0.9 : goto"));
}

/// A packet that begins a connection.
type Packet = (IpAddr, IpAddr, Protocol, u16);

/// Chain by chain, as the kernel goes.
fn passes(state: &State, (from, to, protocol, port): Packet) -> bool {
    let facts = |address: IpAddr| state.facts().find(|(own, _)| **own == address).map(|(_, facts)| facts);
    let has = |address: IpAddr, set: Set, key: Vec<Field>| {
        facts(address).is_some_and(|facts| facts.elements.contains(&(set, key)))
    };
    let family = Family::of(from);
    let own = from == to && has(from, Set::Own(family), vec![Field::Address(from), Field::Address(to)]);
    let matches = |rule: &Rule, peer: IpAddr| {
        let peer = match &rule.peer {
            Peer::Anybody => true,
            Peer::Group(name) => {
                has(peer, Set::Group(name.as_str().into(), family), vec![Field::Address(peer)])
            }
            Peer::Block(_, name) => state.rules.blocks[name].1.iter().any(|block| block.contains(peer)),
        };
        let ports = match &rule.ports {
            Ports::All => true,
            Ports::Protocol(own) => *own == protocol,
            Ports::Numbers(own, ranges) => {
                *own == protocol && ranges.iter().any(|(first, last)| (*first..=*last).contains(&port))
            }
            Ports::Named(own, name) => {
                let key = vec![Field::Address(to), Field::Protocol(protocol.number()), Field::Port(port)];
                has(to, Set::Named(port_name(*own, name).into(), family), key)
            }
        };
        peer && ports
    };
    let sides = [(Hook::Egress, from, to), (Hook::Ingress, to, from)];
    sides.into_iter().all(|(hook, pod, peer)| {
        let chain = facts(pod).and_then(|facts| facts.chains.get(&hook));
        chain.is_none_or(|chain| accepts(chain, own, &|rule| matches(rule, peer)))
    })
}

fn accepts(chain: &Chain, own: bool, matches: &dyn Fn(&Rule) -> bool) -> bool {
    let rest = || match &chain.rest {
        Rest::Accept => true,
        Rest::Drop => false,
        Rest::Next(next) => accepts(next, own, matches),
    };
    if chain.rest == Rest::Drop && own {
        return true;
    }
    match chain.rules.iter().find(|(rule, _)| matches(rule)) {
        Some((_, Verdict::Accept)) => true,
        Some((_, Verdict::Drop)) => false,
        Some((_, Verdict::Pass)) | None => rest(),
    }
}

/// Where a pod's port has its name.
const WEB: [(&str, u16); 3] = [("a", 80), ("b", 81), ("c", 80)];

/// Kubernetes' documentation, read naively.
fn allowed(policies: &[Json], places: (&Place, &Place), port: (Protocol, u16)) -> bool {
    SIDES.into_iter().all(|side| namespaced(policies, side, places, port).unwrap_or(true))
}

/// A direction's name among types, and the fields of its rules and of their peers.
type Side = [&'static str; 3];

const SIDES: [Side; 2] = [["Egress", "egress", "to"], ["Ingress", "ingress", "from"]];

/// Whose policies are asked, and who is at the other end.
fn ends<'a>(side: Side, (from, to): (&'a Place, &'a Place)) -> (&'a Place, &'a Place) {
    if side[0] == "Egress" { (from, to) } else { (to, from) }
}

/// What policies of namespaces say; nothing if none is for the pod.
fn namespaced(
    policies: &[Json],
    side: Side,
    (from, to): (&Place, &Place),
    (protocol, port): (Protocol, u16),
) -> Option<bool> {
    let [kind, rules, peers] = side;
    let (pod, peer) = ends(side, (from, to));
    let Place::Pod(namespace, name) = pod else { return None };
    let selecting: Vec<&Json> = policies
        .iter()
        .filter(|policy| {
            policy["namespace"] == *namespace
                && selects(&policy["spec"]["podSelector"], "pod", name)
                && policy["spec"]["policyTypes"].as_array().unwrap().contains(&json!(kind))
        })
        .collect();
    let allows = |policy: &&Json| {
        policy["spec"][rules].as_array().unwrap().iter().any(|rule| {
            let who = rule[peers]
                .as_array()
                .filter(|all| !all.is_empty())
                .is_none_or(|all| all.iter().any(|one| is_peer(one, &policy["namespace"], peer)));
            let ports = rule["ports"]
                .as_array()
                .filter(|all| !all.is_empty())
                .is_none_or(|all| all.iter().any(|one| is_port(one, to, (protocol, port))));
            who && ports
        })
    };
    let is_self = from.address() == to.address();
    (!selecting.is_empty()).then(|| is_self || selecting.iter().any(allows))
}

fn selects(selector: &Json, key: &str, value: &str) -> bool {
    let wanted = &selector["matchLabels"][key];
    wanted.is_null() || wanted == value
}

fn is_peer(peer: &Json, own: &Json, place: &Place) -> bool {
    if let Some(cidr) = peer["ipBlock"]["cidr"].as_str() {
        let contains = |cidr: &str| cidr.parse::<net::Cidr>().unwrap().contains(place.address());
        return contains(cidr)
            && !peer["ipBlock"]["except"]
                .as_array()
                .unwrap()
                .iter()
                .any(|one| contains(one.as_str().unwrap()));
    }
    let Place::Pod(namespace, name) = place else { return false };
    let in_namespace = if peer["namespaceSelector"].is_null() {
        own == namespace
    } else {
        selects(&peer["namespaceSelector"], "ns", namespace)
    };
    in_namespace && selects(&peer["podSelector"], "pod", name)
}

fn is_port(one: &Json, to: &Place, (protocol, port): (Protocol, u16)) -> bool {
    let same = Protocol::parse(one["protocol"].as_str()) == Some(protocol);
    same && match &one["port"] {
        Json::Null => true,
        Json::String(_) => {
            matches!(to, Place::Pod(_, name) if WEB.contains(&(name, port)) && protocol == Protocol::Tcp)
        }
        number => {
            let first = number.as_u64().unwrap();
            (first..=one["endPort"].as_u64().unwrap_or(first)).contains(&u64::from(port))
        }
    }
}

#[derive(Clone, Debug)]
enum Place {
    Pod(&'static str, &'static str),
    Outside(&'static str),
}

impl Place {
    fn number(&self) -> u8 {
        let Self::Pod(namespace, name) = self else { return 0 };
        (namespace.as_bytes()[0] - b'x') * 10 + name.as_bytes()[0] - b'a' + 1
    }

    fn address(&self) -> IpAddr {
        match self {
            Self::Pod(..) => format!("10.42.0.{}", self.number()).parse().unwrap(),
            Self::Outside(text) => text.parse().unwrap(),
        }
    }
}

fn places() -> Vec<Place> {
    let pods = ["x", "y", "z"]
        .into_iter()
        .flat_map(|namespace| ["a", "b", "c"].map(|name| Place::Pod(namespace, name)));
    pods.chain([Place::Outside("192.0.2.5"), Place::Outside("192.0.2.200")]).collect()
}

fn all_pods() -> Vec<slim::Pod> {
    let of = |place: &Place| {
        let Place::Pod(namespace, name) = place else { return None };
        let number = WEB.iter().find(|(own, _)| own == name).unwrap().1;
        let containers = json!([{"name": "c", "ports": [{"name": "web", "containerPort": number}]}]);
        Some(pod(namespace, name, place.number(), json!({"containers": containers})))
    };
    places().iter().filter_map(of).collect()
}

fn check(state: &State, policies: &[Json]) {
    for from in places() {
        for to in places() {
            for (protocol, port) in
                [(Protocol::Tcp, 80), (Protocol::Tcp, 81), (Protocol::Udp, 80), (Protocol::Sctp, 90)]
            {
                let packet = (from.address(), to.address(), protocol, port);
                assert_eq!(
                    passes(state, packet),
                    allowed(policies, (&from, &to), (protocol, port)),
                    "{packet:?} by {policies:#?}"
                );
            }
        }
    }
}

fn selector(key: &'static str, values: [&'static str; 3]) -> impl Strategy<Value = Json> {
    prop::option::of(prop::sample::select(values.to_vec())).prop_map(move |value| match value {
        Some(value) => json!({"matchLabels": {key: value}}),
        None => json!({}),
    })
}

fn peer() -> impl Strategy<Value = Json> {
    let pods = || selector("pod", ["a", "b", "c"]);
    let block = prop::sample::select(vec!["192.0.2.0/24", "0.0.0.0/0", "10.42.0.0/28", "2001:db8::/32"])
        .prop_map(|cidr| {
            let except =
                if cidr == "2001:db8::/32" { json!([]) } else { json!(["192.0.2.128/25", "10.42.0.2/32"]) };
            json!({"ipBlock": {"cidr": cidr, "except": except}})
        });
    prop_oneof![
        pods().prop_map(|pods| json!({"podSelector": pods})),
        selector("ns", ["x", "y", "z"]).prop_map(|all| json!({"namespaceSelector": all})),
        (selector("ns", ["x", "y", "z"]), pods())
            .prop_map(|(all, pods)| json!({"namespaceSelector": all, "podSelector": pods})),
        block,
    ]
}

fn ports() -> impl Strategy<Value = Json> {
    let port = prop::sample::select(vec![
        json!({"port": 80}),
        json!({"protocol": "TCP"}),
        json!({"port": "web"}),
        json!({"port": 70, "endPort": 80}),
        json!({"port": 81, "protocol": "UDP"}),
        json!({"port": 1, "endPort": 65535, "protocol": "SCTP"}),
        json!({"protocol": "UDP"}),
    ]);
    prop::collection::vec(port, 0..3).prop_map(Json::Array)
}

fn thrown() -> impl Strategy<Value = Vec<Json>> {
    let rules = |peers: &'static str| {
        let rule = (prop::collection::vec(peer(), 0..3), ports())
            .prop_map(move |(all, ports)| json!({peers: all, "ports": ports}));
        prop::collection::vec(rule, 0..3).prop_map(Json::Array)
    };
    let types =
        prop::sample::select(vec![json!(["Ingress"]), json!(["Egress"]), json!(["Ingress", "Egress"])]);
    let namespace = prop::sample::select(vec!["x", "y", "z"]);
    let one = (namespace, selector("pod", ["a", "b", "c"]), types, rules("from"), rules("to")).prop_map(
        |(namespace, pods, types, ingress, egress)| {
            json!({"namespace": namespace, "spec": {"podSelector": pods, "policyTypes": types, "ingress": ingress, "egress": egress}})
        },
    );
    prop::collection::vec(one, 0..5)
}

fn objects(policies: &[Json]) -> Vec<NetworkPolicy> {
    policies.iter().map(|one| policy(one["namespace"].as_str().unwrap(), "p", one["spec"].clone())).collect()
}

proptest! {
    #[test]
    fn sets_and_chains_mean_what_policies_mean(policies in thrown()) {
        check(&state(&objects(&policies), &all_pods()), &policies);
    }

    /// Policies that are put in place of others, pods that come one by one: the same as all at once.
    #[test]
    fn changes_end_in_the_same(before in thrown(), after in thrown()) {
        let pods = all_pods();
        let (first, rest) = pods.split_at(4);
        let mut changed = state(&objects(&before), first);
        changed.set_rules(Rules::of(objects(&after).iter()), &mut Difference::new());
        for pod in rest {
            set(&mut changed, pod, &mut Difference::new());
        }
        let whole = state(&objects(&after), &pods);
        prop_assert_eq!(render::everything(&changed), render::everything(&whole));
        check(&changed, &after);
    }
}
