//! The model as nftables: the fixed part of the table, and elements as text.

use crate::Config;
use crate::model::{Difference, Front, Key, Model, Protocol, Spread, Value};
use net::nft::{Chain, Set, Table, Transaction};
use net::{Cidr, MASQUERADE_MARK};
use std::fmt::Write;

/// The key of a front at an address, and of one at a port of the node, as packets carry them.
const ADDRESS: &str = "ip daddr . meta l4proto . th dport";
const PORT: &str = "meta l4proto . th dport";
const ADDRESS_TYPE: &str = "ipv4_addr . inet_proto . inet_service";
const PORT_TYPE: &str = "inet_proto . inet_service";

/// An endpoint's address and port.
const ENDPOINT: &str = "ip daddr . th dport";

/// The key by which clients are remembered.
const CLIENT: &str = "ip saddr . ip daddr . meta l4proto . th dport";

/// So many clients are remembered at the most; a full map makes new clients choose anew.
const CLIENTS: u32 = 65_536;

/// The map that packets write to.
pub(crate) const AFFINITY: &str = "affinity";

/// The fixed part: base chains, empty maps, and chains for up to `capacity` endpoints.
///
/// Those chains stand in the table from its beginning, because nft 1.0.6 cannot add a rule about a map
/// that has a computed key (the dice) once the map is in the kernel.
pub(crate) fn table(config: &Config, capacity: u16) -> Table {
    let sets = [address_maps(), port_maps(), other_sets(config)].concat();
    let mut chains = base_chains();
    for (port, sticky, masquerade) in (0..8).map(|bits| (bits & 4 != 0, bits & 2 != 0, bits & 1 != 0)) {
        let spreads = (1..=capacity).map(|endpoints| Spread { port, endpoints, sticky, masquerade });
        chains.extend(spreads.map(spread_chain));
    }
    Table { family: "ip", name: "knarr-proxy", sets, chains }
}

fn set(kind: &'static str, name: &'static str, declaration: &str) -> Set {
    Set { kind, name, declaration: vec![declaration.to_owned()], elements: Vec::new() }
}

fn address_maps() -> Vec<Set> {
    vec![
        set("map", "address-services", &format!("type {ADDRESS_TYPE} : verdict")),
        set("map", "address-endpoints", &format!("typeof {ADDRESS} . numgen random mod 65536 : {ENDPOINT}")),
        set("map", "address-refused", &format!("type {ADDRESS_TYPE} : verdict")),
        set("map", "address-sticky", &format!("type {ADDRESS_TYPE} : verdict")),
    ]
}

fn port_maps() -> Vec<Set> {
    vec![
        set("map", "port-services", &format!("type {PORT_TYPE} : verdict")),
        set("map", "port-endpoints", &format!("typeof {PORT} . numgen random mod 65536 : {ENDPOINT}")),
        set("map", "port-refused", &format!("type {PORT_TYPE} : verdict")),
        set("map", "port-sticky", &format!("type {PORT_TYPE} : verdict")),
    ]
}

fn other_sets(config: &Config) -> Vec<Set> {
    let blocks = |name, blocks: &[Cidr]| Set {
        kind: "set",
        name,
        declaration: vec!["type ipv4_addr".into(), "flags interval".into(), "auto-merge".into()],
        elements: blocks.iter().filter(|block| block.is_ipv4()).map(Cidr::to_string).collect(),
    };
    let mut affinity = affinity();
    affinity.declaration.extend([format!("size {CLIENTS}"), "flags dynamic,timeout".to_owned()]);
    vec![
        blocks("pods", &config.cluster_cidrs),
        blocks("services", &config.service_cidrs),
        set("set", "hairpin", "type ipv4_addr . ipv4_addr"),
        affinity,
    ]
}

/// The map of remembered clients.
pub(crate) fn affinity() -> Set {
    set("map", AFFINITY, "type ipv4_addr . ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service")
}

fn mark() -> String {
    format!("meta mark set meta mark | {MASQUERADE_MARK:#x}")
}

/// Hooks of type nat see the first packet of a connection alone; the kernel remembers the rest.
fn base_chains() -> Vec<Chain> {
    let mark = mark();
    let translate = [
        format!("{ADDRESS} vmap @address-services"),
        format!("fib daddr type local {PORT} vmap @port-services"),
    ];
    let refused = [
        "ct status dnat return".to_owned(),
        format!("{ADDRESS} vmap @address-refused"),
        format!("fib daddr type local {PORT} vmap @port-refused"),
        // Nobody's service, or nobody's port of one: the client should know at once.
        "ip daddr @services fib daddr type != local goto refuse".to_owned(),
    ];
    // The port is spelled for each protocol, as only that tells nft where the packet has it.
    let protocols = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp].map(Protocol::name);
    let remember =
        ["ct original ip daddr . meta l4proto", "meta l4proto"].into_iter().zip(["address", "port"]);
    let remember = remember.flat_map(|(key, map)| {
        protocols.map(|name| format!("meta l4proto {name} {key} . ct original proto-dst vmap @{map}-sticky"))
    });
    let leaving = [
        format!("ct status dnat ct original ip daddr @services ip saddr != @pods {mark}"),
        format!("ip saddr . ip daddr @hairpin {mark}"),
        format!("ip saddr 127.0.0.0/8 oifname != \"lo\" {mark}"),
        "ct status dnat jump remember".to_owned(),
    ];
    let new = ["ct state new jump refused"];
    vec![
        // A reset waits for a client that is still within connect(); an ICMP error then is lost.
        Chain::plain("refuse", ["meta l4proto tcp reject with tcp reset", "reject"]),
        Chain::plain("refused", refused),
        Chain::plain("remember", remember),
        Chain::plain("translate", translate),
        Chain::base("prerouting", "type nat hook prerouting priority -100", ["jump translate"]),
        Chain::base("output", "type nat hook output priority -100", ["jump translate"]),
        // Before the node's own table, which acts on the mark.
        Chain::base("postrouting", "type nat hook postrouting priority 90", leaving),
        Chain::base("input", "type nat hook input priority 90", ["ct status dnat jump remember"]),
        Chain::base("filter-input", "type filter hook input priority 0", new),
        Chain::base("filter-forward", "type filter hook forward priority 0", new),
        Chain::base("filter-output", "type filter hook output priority 0", new),
    ]
}

fn spread_name(spread: Spread) -> String {
    let front = if spread.port { "port" } else { "address" };
    let sticky = if spread.sticky { "-sticky" } else { "" };
    let masquerade = if spread.masquerade { "-masquerade" } else { "" };
    format!("{front}-{}{sticky}{masquerade}", spread.endpoints)
}

fn spread_chain(spread: Spread) -> Chain {
    let (key, map) = if spread.port { (PORT, "port") } else { (ADDRESS, "address") };
    let mut rules = Vec::new();
    if spread.masquerade {
        rules.push(mark());
    }
    if spread.sticky {
        rules.push(format!("dnat ip to {CLIENT} map @{AFFINITY}"));
    }
    rules.push(format!("dnat ip to {key} . numgen random mod {} map @{map}-endpoints", spread.endpoints));
    Chain::plain(&spread_name(spread), rules)
}

fn remember_name(timeout_s: u32) -> String {
    format!("remember-{timeout_s}")
}

/// Runs after the translation, so that the packet's destination is the endpoint that was chosen.
fn remember_chain(timeout_s: u32) -> Chain {
    let rules = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp].map(Protocol::name).map(|name| {
        format!(
            "meta l4proto {name} update @{AFFINITY} {{ ct original ip saddr . ct original ip daddr . \
             meta l4proto . ct original proto-dst timeout {timeout_s}s : ip daddr . th dport }}"
        )
    });
    Chain::plain(&remember_name(timeout_s), rules)
}

fn front_text(front: Front) -> String {
    match front {
        Front::Address(address, protocol, port) => format!("{address} . {} . {port}", protocol.name()),
        Front::Port(protocol, port) => format!("{} . {port}", protocol.name()),
    }
}

/// The set an element is in, and its key there.
fn place(key: Key) -> (&'static str, String) {
    let of = |front, address, port| {
        (if matches!(front, Front::Port(..)) { port } else { address }, front_text(front))
    };
    match key {
        Key::Service(front) => of(front, "address-services", "port-services"),
        Key::Endpoint(front, index) => {
            let (map, mut text) = of(front, "address-endpoints", "port-endpoints");
            write!(text, " . {index}").expect("writing to a string cannot fail");
            (map, text)
        }
        Key::Refused(front) => of(front, "address-refused", "port-refused"),
        Key::Sticky(front) => of(front, "address-sticky", "port-sticky"),
        Key::Hairpin(address) => ("hairpin", format!("{address} . {address}")),
    }
}

fn value_text(value: Value) -> Option<String> {
    match value {
        Value::Spread(spread) => Some(format!("goto {}", spread_name(spread))),
        Value::Endpoint(endpoint) => Some(format!("{} . {}", endpoint.address, endpoint.port)),
        Value::Reject => Some("goto refuse".to_owned()),
        Value::Drop => Some("drop".to_owned()),
        Value::Remember(timeout_s) => Some(format!("goto {}", remember_name(timeout_s))),
        Value::Present => None,
    }
}

fn element(key: Key, value: Value) -> (&'static str, String) {
    let (set, key) = place(key);
    let text = value_text(value).map_or(key.clone(), |value| format!("{key} : {value}"));
    (set, text)
}

/// All sets' names in the order of [`Key`], by runs of one set.
fn by_set(elements: impl Iterator<Item = (&'static str, String)>) -> Vec<(&'static str, Vec<String>)> {
    let mut runs: Vec<(&'static str, Vec<String>)> = Vec::new();
    for (set, text) in elements {
        match runs.iter_mut().find(|(name, _)| *name == set) {
            Some((_, texts)) => texts.push(text),
            None => runs.push((set, vec![text])),
        }
    }
    runs
}

/// The whole table, in place of whatever was there.
pub(crate) fn everything(table: &Table, model: &Model) -> Transaction {
    let mut transaction = Transaction::default();
    transaction.replace_table(table);
    change(table, &model.diff(&Model::default()), &mut transaction);
    transaction
}

/// What changed.
pub(crate) fn change(table: &Table, difference: &Difference, transaction: &mut Transaction) {
    for timeout_s in &difference.add_timeouts {
        transaction.add_chain(table, &remember_chain(*timeout_s));
    }
    for (set, texts) in by_set(difference.delete.iter().map(|key| place(*key))) {
        transaction.delete_elements(table, set, texts.into_iter());
    }
    for (set, texts) in by_set(difference.add.iter().map(|(key, value)| element(*key, *value))) {
        transaction.add_elements(table, set, texts.into_iter());
    }
    for timeout_s in &difference.remove_timeouts {
        transaction.remove_chain(table, &remember_name(*timeout_s));
    }
}
