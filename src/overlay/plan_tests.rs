use super::*;
use net::wireguard::KEY_BYTES;

fn config(backend: Backend) -> Config {
    Config {
        node_name: "a".to_owned(),
        node_ips: Vec::new(),
        cluster_cidrs: blocks(&["10.42.0.0/16", "fd42::/56"]),
        backend,
        direct_routing: false,
        external_addresses: false,
        vxlan_port: 8_472,
        wireguard_port: 51_820,
        key_file: "/nonexistent".into(),
    }
}

fn blocks(texts: &[&str]) -> Vec<Cidr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn addresses(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// A node of both families, known by its number.
fn place(name: &str, number: u8) -> Place {
    Place {
        name: name.to_owned(),
        blocks: blocks(&[&format!("10.42.{number}.0/24"), &format!("fd42:0:0:{number:x}::/64")]),
        internal: addresses(&[&format!("192.0.2.{number}"), &format!("2001:db8::{number:x}")]),
        external: Vec::new(),
        key: Some(PublicKey([number; KEY_BYTES])),
    }
}

fn three() -> [Place; 3] {
    [place("a", 1), place("b", 2), place("c", 3)]
}

fn machine() -> Machine {
    Machine { mtu: 1_500, direct: BTreeMap::new(), key: Some(PrivateKey::new([9; KEY_BYTES])) }
}

fn on_one_link(places: &[Place]) -> Machine {
    let all = places.iter().flat_map(|place| &place.internal);
    Machine { direct: all.map(|address| (*address, 2)).collect(), ..machine() }
}

#[track_caller]
fn mesh(config: &Config, places: &[Place], machine: &Machine) -> String {
    let planned = plan(config, &places[0], places, machine);
    assert_eq!(planned.unreached, BTreeMap::new());
    planned.mesh.to_string()
}

/// A change of what is planned is read in the difference of the golden file.
#[track_caller]
fn golden(name: &str, text: &str, expected: &str) {
    assert_eq!(text, expected, "testdata/{name} says otherwise");
}

#[test]
fn vxlan_needs_nothing_but_nodes() {
    let text = mesh(&config(Backend::Vxlan), &three(), &machine());
    golden("vxlan.txt", &text, include_str!("testdata/vxlan.txt"));
}

#[test]
fn pods_of_one_family_go_over_addresses_of_the_other() {
    let mut places = three();
    for place in &mut places {
        place.internal.retain(IpAddr::is_ipv6);
    }
    let text = mesh(&config(Backend::Vxlan), &places, &machine());
    golden("vxlan-over-v6.txt", &text, include_str!("testdata/vxlan-over-v6.txt"));
    // One that has both, for one that has one.
    let places = [place("a", 1), places[1].clone(), place("c", 3)];
    let text = mesh(&config(Backend::Vxlan), &places, &machine());
    golden("vxlan-mixed.txt", &text, include_str!("testdata/vxlan-mixed.txt"));
}

#[test]
fn nodes_on_one_link_are_sent_packets_as_they_are() {
    let places = three();
    let text = mesh(&config(Backend::HostGw), &places, &on_one_link(&places));
    golden("host-gw.txt", &text, include_str!("testdata/host-gw.txt"));
    let direct = Config { direct_routing: true, ..config(Backend::Vxlan) };
    let text = mesh(&direct, &places, &on_one_link(&places[..2]));
    golden("vxlan-direct.txt", &text, include_str!("testdata/vxlan-direct.txt"));
}

#[test]
fn wireguard_has_a_peer_for_each_node() {
    let mut places = three();
    places[2].key = None;
    let text = mesh(&config(Backend::Wireguard), &places, &machine());
    golden("wireguard.txt", &text, include_str!("testdata/wireguard.txt"));
}

#[test]
fn nodes_elsewhere_are_reached_by_what_they_are_called_outside() {
    let mut places = three();
    for place in &mut places[1..] {
        let number = place.key.unwrap().0[0];
        place.external = addresses(&[&format!("198.51.100.{number}")]);
    }
    let inside = mesh(&config(Backend::Wireguard), &places, &machine());
    assert!(!inside.contains("198.51.100"), "{inside}");
    let config = Config { external_addresses: true, ..config(Backend::Wireguard) };
    let text = mesh(&config, &places, &on_one_link(&places[..2]));
    golden("wireguard-external.txt", &text, include_str!("testdata/wireguard-external.txt"));
}

#[test]
fn without_others_there_is_an_end_for_them_to_find() {
    let text = mesh(&config(Backend::Vxlan), &three()[..1], &machine());
    assert_eq!(
        text,
        "link knarr-vxlan mtu 1450 address 02:04:0a:2a:01:00 type vxlan id 1 local 192.0.2.1 dstport 8472\n"
    );
    assert_eq!(mesh(&config(Backend::HostGw), &three()[..1], &machine()), "");
    assert_eq!(mesh(&config(Backend::None), &three(), &machine()), "");
    let own = Place { blocks: Vec::new(), ..place("a", 1) };
    assert_eq!(plan(&config(Backend::Vxlan), &own, &three(), &machine()), Plan::default());
}

#[test]
fn who_moves_or_leaves_is_followed() {
    let config = config(Backend::Vxlan);
    let mut places = three();
    places[1].internal[0] = "192.0.2.77".parse().unwrap();
    let text = mesh(&config, &places, &machine());
    assert!(text.contains("fdb 02:04:0a:2a:02:00 dst 192.0.2.77") && !text.contains("192.0.2.2 "), "{text}");
    let text = mesh(&config, &[places[0].clone(), places[2].clone()], &machine());
    assert!(!text.contains("10.42.2.0") && text.contains("10.42.3.0"), "{text}");
    places[0].internal[0] = "192.0.2.99".parse().unwrap();
    assert!(mesh(&config, &places, &machine()).contains("local 192.0.2.99"));
}

#[test]
fn nobody_is_routed_into_nowhere() {
    let why = |config: &Config, place: Place, machine: &Machine| {
        let places = [super::tests::place("a", 1), place];
        let planned = plan(config, &places[0], &places, machine);
        assert!(planned.mesh.routes.is_empty(), "{}", planned.mesh);
        planned.unreached.into_values().next().unwrap()
    };
    let vxlan = config(Backend::Vxlan);
    let elsewhere = Place { blocks: blocks(&["10.99.0.0/24"]), ..place("b", 2) };
    assert!(why(&vxlan, elsewhere, &machine()).contains("not within those of the cluster"));
    let same = Place { blocks: blocks(&["10.42.1.128/25"]), ..place("b", 2) };
    assert!(why(&vxlan, same, &machine()).contains("overlaps 10.42.1.0/24"));
    let here = Place { internal: addresses(&["192.0.2.1"]), ..place("b", 2) };
    assert!(why(&vxlan, here, &machine()).contains("this node's own"));
    let nowhere = Place { internal: addresses(&["10.42.2.1"]), ..place("b", 2) };
    assert!(why(&vxlan, nowhere, &machine()).contains("no address of a family"));
    assert!(why(&config(Backend::HostGw), place("b", 2), &machine()).contains("--network-backend vxlan"));
    let known = Place { key: Some(PublicKey([3; KEY_BYTES])), ..place("b", 2) };
    let places = [place("a", 1), known, place("c", 3)];
    let planned = plan(&config(Backend::Wireguard), &places[0], &places, &machine());
    assert_eq!(planned.unreached["c"], "another node has the same key");
}

#[test]
fn links_are_looked_at_for_whom_it_matters() {
    let asked = |config: &Config| questions(config, "a", &three()).len();
    assert_eq!(asked(&config(Backend::Vxlan)), 0);
    assert_eq!(asked(&config(Backend::HostGw)), 4);
    assert_eq!(asked(&Config { direct_routing: true, ..config(Backend::Vxlan) }), 4);
    assert_eq!(asked(&Config { external_addresses: true, ..config(Backend::Wireguard) }), 4);
}

#[test]
fn a_node_says_where_it_is() {
    let text = r#"{"metadata": {"name": "b", "annotations":
            {"knarr.io/wireguard-public-key": "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc="}},
        "spec": {"podCIDRs": ["10.42.7.0/24", "nonsense"]},
        "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.7"},
            {"type": "Hostname", "address": "b"}, {"type": "ExternalIP", "address": "198.51.100.7"}]}}"#;
    let expected = Place {
        name: "b".to_owned(),
        blocks: blocks(&["10.42.7.0/24"]),
        internal: addresses(&["192.0.2.7"]),
        external: addresses(&["198.51.100.7"]),
        key: Some(PublicKey([7; KEY_BYTES])),
    };
    assert_eq!(Place::of(&Node::from_json(text.as_bytes()).unwrap()), expected);
}
