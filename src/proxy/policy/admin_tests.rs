//! Policies of administrators: what all tiers together mean, against a naive reading of the API.

use super::{
    Place, SIDES, Side, all_pods, ends, is_port, namespaced, objects, passes, places, pod, selector, selects,
    thrown, with_rules,
};
use crate::model::Protocol;
use crate::policy::admin::{Given, Tier, Verdict};
use crate::policy::kinds::{AdminNetworkPolicy, ClusterNetworkPolicy};
use crate::policy::render;
use crate::policy::rules::{Direction, Rule, Rules};
use crate::policy::state::{Difference, Hook, Known, Rest, State};
use api::Object;
use api::core::Node;
use net::nft::Field;
use proptest::prelude::*;
use serde_json::{Value as Json, json};

/// A policy is its specification here, and its name says nothing.
fn rules(policies: &[Json], administrators: &[Json], nodes: &[Node]) -> Rules {
    let mut rules = Rules::of(objects(policies).iter());
    let all: Vec<ClusterNetworkPolicy> = administrators
        .iter()
        .map(|spec| serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).unwrap())
        .collect();
    let given = all.iter().map(|it| Given {
        tier: Tier::parse(&it.spec.tier).unwrap(),
        name: it.name(),
        spec: &it.spec,
    });
    rules.administer(given.collect(), &nodes.iter().collect::<Vec<_>>());
    rules
}

/// The API's documentation, read naively.
fn allowed(
    (policies, administrators): (&[Json], &[Json]),
    places: (&Place, &Place),
    port: (Protocol, u16),
) -> bool {
    SIDES.into_iter().all(|side| {
        let of_tier = |tier: &str| decided(administrators, tier, side, places, port);
        let rest = || namespaced(policies, side, places, port).or_else(|| of_tier("Baseline"));
        of_tier("Admin").or_else(rest).unwrap_or(true)
    })
}

/// What a tier decides; nothing if it passes.
fn decided(
    administrators: &[Json],
    tier: &str,
    side: Side,
    places: (&Place, &Place),
    port: (Protocol, u16),
) -> Option<bool> {
    let [_, rules, peers] = side;
    let (Place::Pod(namespace, name), peer) = ends(side, places) else { return None };
    let mut own: Vec<&Json> = administrators.iter().filter(|policy| policy["tier"] == tier).collect();
    own.sort_by_key(|policy| policy["priority"].as_i64());
    let own = own.into_iter().filter(|policy| is_meant(&policy["subject"], namespace, name));
    let matching = own.flat_map(|policy| policy[rules].as_array().unwrap()).find(|rule| {
        let ports =
            rule["protocols"].as_array().is_none_or(|all| all.iter().any(|one| is_told(one, places.1, port)));
        rule[peers].as_array().unwrap().iter().any(|one| is_other(one, peer)) && ports
    });
    match matching?["action"].as_str().unwrap() {
        "Accept" => Some(true),
        "Deny" => Some(false),
        _ => None,
    }
}

fn is_meant(selected: &Json, namespace: &str, name: &str) -> bool {
    if !selected["namespaces"].is_null() {
        return selects(&selected["namespaces"], "ns", namespace);
    }
    !selected["pods"].is_null()
        && selects(&selected["pods"]["namespaceSelector"], "ns", namespace)
        && selects(&selected["pods"]["podSelector"], "pod", name)
}

fn is_other(peer: &Json, place: &Place) -> bool {
    if let Some(networks) = peer["networks"].as_array() {
        let contains =
            |cidr: &Json| cidr.as_str().unwrap().parse::<net::Cidr>().unwrap().contains(place.address());
        return networks.iter().any(contains);
    }
    matches!(place, Place::Pod(namespace, name) if is_meant(peer, namespace, name))
}

fn is_told(told: &Json, to: &Place, (protocol, port): (Protocol, u16)) -> bool {
    if let Some(name) = told["destinationNamedPort"].as_str() {
        return is_port(&json!({"port": name, "protocol": "TCP"}), to, (protocol, port));
    }
    let own = &told[protocol.name()];
    let number = &own["destinationPort"]["number"];
    let bound = |end: &str| own["destinationPort"]["range"][end].as_u64();
    !own.is_null()
        && (*number == port
            || bound("start")
                .zip(bound("end"))
                .is_some_and(|(start, end)| (start..=end).contains(&port.into())))
}

fn selected() -> impl Strategy<Value = Json> {
    let namespaces = || selector("ns", ["x", "y", "z"]);
    prop_oneof![
        namespaces().prop_map(|namespaces| json!({"namespaces": namespaces})),
        (namespaces(), selector("pod", ["a", "b", "c"])).prop_map(
            |(namespaces, pods)| json!({"pods": {"namespaceSelector": namespaces, "podSelector": pods}})
        ),
    ]
}

fn rule(peers: &'static str) -> impl Strategy<Value = Json> {
    let networks = prop::sample::select(vec!["192.0.2.0/24", "0.0.0.0/0", "10.42.0.0/28", "2001:db8::/32"]);
    let networks = prop::collection::btree_set(networks, 1..3).prop_map(|all| json!({"networks": all}));
    let peer = if peers == "to" { prop_oneof![selected(), networks].boxed() } else { selected().boxed() };
    let port = prop::sample::select(vec![
        json!({"tcp": {"destinationPort": {"number": 80}}}),
        json!({"tcp": {"destinationPort": {"range": {"start": 80, "end": 81}}}}),
        json!({"udp": {"destinationPort": {"number": 80}}}),
        json!({"sctp": {"destinationPort": {"range": {"start": 1, "end": 65535}}}}),
        json!({"destinationNamedPort": "web"}),
    ]);
    let ports = prop::option::of(prop::collection::vec(port, 1..3));
    let action = prop::sample::select(vec!["Accept", "Deny", "Pass"]);
    (action, prop::collection::vec(peer, 1..3), ports).prop_map(move |(action, all, ports)| {
        let mut rule = json!({"action": action, peers: all});
        if let Some(ports) = ports {
            rule["protocols"] = json!(ports);
        }
        rule
    })
}

fn administrators() -> impl Strategy<Value = Vec<Json>> {
    let tier = prop::sample::select(vec!["Admin", "Baseline"]);
    let rules = |peers| prop::collection::vec(rule(peers), 0..3);
    let one = (tier, selected(), rules("from"), rules("to"), any::<u8>());
    prop::collection::vec(one, 0..5).prop_map(|all| {
        // Of two policies with one priority any may be the first.
        let numbered = all.into_iter().enumerate();
        numbered
            .map(|(at, (tier, subject, ingress, egress, priority))| {
                json!({"tier": tier, "priority": usize::from(priority) * 3 + at % 3 + at * 1_000, "subject": subject,
                    "ingress": ingress, "egress": egress})
            })
            .collect()
    })
}

fn check(state: &State, policies: &[Json], administrators: &[Json]) {
    for from in places() {
        for to in places() {
            for (protocol, port) in
                [(Protocol::Tcp, 80), (Protocol::Tcp, 81), (Protocol::Udp, 80), (Protocol::Sctp, 90)]
            {
                let packet = (from.address(), to.address(), protocol, port);
                assert_eq!(
                    passes(state, packet),
                    allowed((policies, administrators), (&from, &to), (protocol, port)),
                    "{packet:?} by {policies:#?} and {administrators:#?}"
                );
            }
        }
    }
}

proptest! {
    #[test]
    fn tiers_mean_what_their_policies_mean(policies in thrown(), all in administrators()) {
        check(&with_rules(rules(&policies, &all, &[]), &all_pods()), &policies, &all);
    }
}

fn spec(tier: &str, direction: &str, rules: Json) -> Json {
    json!({"tier": tier, "priority": 1, "subject": {"namespaces": {"matchLabels": {"ns": "x"}}}, direction: rules})
}

/// The rules of one pod's chain of a hook, with what becomes of the rest.
fn asked(state: &State, hook: Hook) -> Option<(Vec<(Rule, Verdict)>, Rest)> {
    let (_, facts) = state.facts().find(|(address, _)| address.to_string() == "10.42.0.1")?;
    facts.chains.get(&hook).map(|chain| (chain.rules.clone(), chain.rest.clone()))
}

#[test]
fn what_is_not_known_fails_closed() {
    let pods = [pod("x", "a", 1, Json::Null)];
    let with = |rule: Json| {
        let all = [spec("Admin", "egress", json!([rule]))];
        asked(&with_rules(rules(&[], &all, &[]), &pods), Hook::Egress).map(|(rules, _)| rules)
    };
    let everything = Some(vec![(Rule::EVERYTHING, Verdict::Drop)]);
    assert_eq!(with(json!({"action": "Deny", "to": [{"domainNames": ["example.org"]}]})), everything);
    assert_eq!(with(json!({"action": "Pass", "to": [{"namespaces": {}}, {"later": {}}]})), everything);
    assert_eq!(with(json!({"action": "Accept", "to": [{"domainNames": ["example.org"]}]})), None);
    let port = |port: Json| json!({"action": "Deny", "to": [{"namespaces": {}}], "protocols": [port]});
    assert_eq!(with(port(json!({"dccp": {}}))), everything);
    assert_eq!(with(port(json!({"tcp": {"destinationPort": {"number": 80}}}))).unwrap().len(), 1);
}

#[test]
fn what_pods_send_to_their_node_is_the_administrators_business_alone() {
    let pods = [pod("x", "a", 1, Json::Null)];
    let deny =
        json!({"namespace": "x", "spec": {"podSelector": {}, "policyTypes": ["Egress"], "egress": []}});
    let node = json!({"metadata": {"name": "n", "labels": {"zone": "a"}}, "status": {"addresses": [
        {"type": "InternalIP", "address": "192.0.2.1"}, {"type": "Hostname", "address": "n"}]}});
    let node: Node = serde_json::from_value(node).unwrap();
    let to_nodes = json!([{"action": "Deny", "to": [{"nodes": {"matchLabels": {"zone": "a"}}}]}]);
    let of = |policies: &[Json], all: &[Json]| {
        asked(&with_rules(rules(policies, all, std::slice::from_ref(&node)), &pods), Hook::Node)
    };
    assert_eq!(of(std::slice::from_ref(&deny), &[]), None);
    let (rules, rest) =
        of(std::slice::from_ref(&deny), &[spec("Admin", "egress", to_nodes.clone())]).unwrap();
    assert_eq!((rules.len(), rules[0].1, rest), (1, Verdict::Drop, Rest::Accept));
    let baseline = [spec("Baseline", "egress", to_nodes)];
    assert_eq!(of(&[deny], &baseline), None, "a policy of its namespace has decided");
    assert!(of(&[], &baseline).is_some());
}

/// The older API, whose words differ.
#[test]
fn admin_network_policies_are_read() {
    let policy = json!({"metadata": {"name": "old"}, "spec": {"priority": 5, "subject": {"pods": {"namespaceSelector": {}, "podSelector": {}}},
        "ingress": [{"action": "Allow", "from": [{"namespaces": {}}], "ports": [
            {"portNumber": {"port": 80}}, {"portRange": {"protocol": "UDP", "start": 5, "end": 9}}, {"namedPort": "web"}]}]}});
    let policy: AdminNetworkPolicy = serde_json::from_value(policy).unwrap();
    let mut rules = Rules::default();
    rules.administer(vec![Given { tier: Tier::Admin, name: "old", spec: &policy.spec }], &[]);
    let ruled = &rules.admin[0].rules[&Direction::Ingress];
    // Numbers of two protocols, and the name in each of three.
    assert_eq!((ruled.len(), ruled[0].1), (5, Verdict::Accept));
}

#[test]
fn cluster_dns_is_a_pod_to_them() {
    let peer = json!({"pods": {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}},
        "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}}}});
    let all = [spec(
        "Admin",
        "egress",
        json!([{"action": "Accept", "to": [peer]}, {"action": "Deny", "to": [{"networks": ["0.0.0.0/0"]}]}]),
    )];
    let mut state = with_rules(rules(&[], &all, &[]), &[pod("x", "a", 1, Json::Null)]);
    let dns = Known::dns(["10.43.0.10".parse().unwrap()].into_iter());
    let system = json!({"metadata": {"name": "kube-system", "labels": {"kubernetes.io/metadata.name": "kube-system"}}});
    let mut difference = Difference::new();
    state.set_namespace(
        "kube-system",
        Some(serde_json::from_value(system).map(std::sync::Arc::new).unwrap()),
        &mut difference,
    );
    state.set_pod(&("kube-system".to_owned(), "dns".to_owned()), dns, &mut difference);
    let (_, facts) = difference.values().next().unwrap();
    assert!(facts.elements.iter().any(|(_, key)| key == &[Field::Address("10.43.0.10".parse().unwrap())]));
    assert!(facts.chains.is_empty());
}

#[test]
fn tiers_are_chains_that_lead_on() {
    let all = [
        spec(
            "Admin",
            "ingress",
            json!([{"action": "Pass", "from": [{"namespaces": {"matchLabels": {"ns": "y"}}}]},
            {"action": "Deny", "from": [{"namespaces": {}}], "protocols": [{"tcp": {"destinationPort": {"number": 80}}}]}]),
        ),
        spec("Baseline", "ingress", json!([{"action": "Deny", "from": [{"namespaces": {}}]}])),
    ];
    let isolate = json!({"namespace": "x", "spec": {"podSelector": {"matchLabels": {"pod": "b"}}, "policyTypes": ["Ingress"], "ingress": []}});
    let pods = [pod("x", "a", 1, Json::Null), pod("x", "b", 2, Json::Null)];
    let state = with_rules(rules(&[isolate], &all, &[]), &pods);
    super::golden("tiers.nft", render::everything(&state).text());
}
