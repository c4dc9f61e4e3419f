//! The model as nftables: the fixed part of a family's table, the chains that elements lead to, and
//! elements.

use crate::Config;
use crate::family::Family;
use crate::model::{self, Front, Key, MOST_ENDPOINTS, Protocol, Spread, Value};
use crate::state::{Difference, State};
use net::nft::{Chain, Changes, Element, Field, Filling, Set, Table, TableName, Transaction, Verb};
use net::{Cidr, MASQUERADE_MARK};
use std::collections::BTreeSet;
use std::time::Duration;

/// The tables' name.
const TABLE: &str = "knarr-proxy";

/// The key of a front at a port of the node, as packets carry it.
const PORT: &str = "meta l4proto . th dport";
const PORT_TYPE: &str = "inet_proto . inet_service";

/// What stands for the number of an endpoint in the declaration of a map: nft gives the type of a number
/// to nothing that can be declared, but to the packet's length. (It forgets `numgen` as soon as the map is
/// in the kernel, and then can add no rule that looks endpoints up.)
const NUMBER: &str = "meta length";

/// So many clients are remembered at the most; a full map makes new clients choose anew.
const CLIENTS: u32 = 65_536;

/// The map that packets write to.
pub(crate) const AFFINITY: &str = "affinity";

/// The table of a family.
pub(crate) fn name(family: Family) -> TableName {
    (family.name(), TABLE)
}

/// The key of a front at an address.
fn address_key(family: Family) -> String {
    format!("{} daddr . {PORT}", family.name())
}

/// The fixed part: base chains and empty maps.
pub(crate) fn table(config: &Config, family: Family) -> Table {
    let sets = [front_maps(family), endpoint_maps(family), other_sets(config, family)].concat();
    Table { family: family.name(), name: TABLE, sets, chains: base_chains(config, family) }
}

fn set(kind: &'static str, name: &'static str, declaration: &str) -> Set {
    Set { kind, name, declaration: vec![declaration.to_owned()], elements: Vec::new() }
}

const ADDRESS_MAPS: [&str; 4] = ["address-services", "address-inside", "address-refused", "address-sticky"];
const PORT_MAPS: [&str; 4] = ["port-services", "port-inside", "port-refused", "port-sticky"];

fn front_maps(family: Family) -> Vec<Set> {
    let address = format!("type {} . {PORT_TYPE} : verdict", family.address_type());
    let port = format!("type {PORT_TYPE} : verdict");
    let addresses = ADDRESS_MAPS.map(|name| set("map", name, &address));
    let ports = PORT_MAPS.map(|name| set("map", name, &port));
    addresses.into_iter().chain(ports).collect()
}

/// A map of endpoints for each protocol: the declared type names the protocol whose port it is, or nft
/// cannot read it back.
fn endpoint_maps(family: Family) -> Vec<Set> {
    let mut maps = Vec::new();
    for (protocol, name) in Protocol::ALL
        .into_iter()
        .flat_map(|protocol| [false, true].map(|port| (protocol, endpoints_map(port, protocol))))
    {
        let (ip, dport) = (family.name(), format!("{} dport", protocol.name()));
        let front = if name.starts_with("port") { dport.clone() } else { format!("{ip} daddr . {dport}") };
        maps.push(set("map", name, &format!("typeof {front} . {NUMBER} : {ip} daddr . {dport}")));
    }
    maps
}

fn endpoints_map(port: bool, protocol: Protocol) -> &'static str {
    match (port, protocol) {
        (false, Protocol::Tcp) => "address-endpoints-tcp",
        (false, Protocol::Udp) => "address-endpoints-udp",
        (false, Protocol::Sctp) => "address-endpoints-sctp",
        (true, Protocol::Tcp) => "port-endpoints-tcp",
        (true, Protocol::Udp) => "port-endpoints-udp",
        (true, Protocol::Sctp) => "port-endpoints-sctp",
    }
}

fn other_sets(config: &Config, family: Family) -> Vec<Set> {
    let address = family.address_type();
    let blocks = |name, blocks: &mut dyn Iterator<Item = Cidr>| Set {
        kind: "set",
        name,
        declaration: vec![format!("type {address}"), "flags interval".into(), "auto-merge".into()],
        elements: blocks
            .filter(|block| Family::of(block.address()) == family)
            .map(|block| block.to_string())
            .collect(),
    };
    let mut sources = set("set", "sources", &format!("type {address} . {PORT_TYPE} . {address}"));
    sources.declaration.push("flags interval".to_owned());
    let client = format!("type {address} . {address} . {PORT_TYPE} : {address} . inet_service");
    let mut affinity = set("map", AFFINITY, &client);
    affinity.declaration.extend([format!("size {CLIENTS}"), "flags dynamic,timeout".to_owned()]);
    vec![
        blocks("pods", &mut config.cluster_cidrs.iter().copied()),
        blocks("services", &mut config.service_cidrs.iter().copied()),
        blocks("node-ports", &mut config.node_port_blocks(family)),
        set("set", "hairpin", &format!("type {address} . {address}")),
        set("set", "guarded", &format!("type {address} . {PORT_TYPE}")),
        sources,
        affinity,
    ]
}

fn mark() -> String {
    format!("meta mark set meta mark | {MASQUERADE_MARK:#x}")
}

/// What is sent to this node itself. Services are not reached at `::1`: there is no way back from there.
fn to_node(family: Family) -> &'static str {
    match family {
        Family::V4 => "fib daddr type local",
        Family::V6 => "ip6 daddr != ::1 fib daddr type local",
    }
}

/// Looks a front up in two maps.
fn lookups(family: Family, address: &str, port: &str) -> Vec<String> {
    let key = address_key(family);
    vec![format!("{key} vmap @{address}"), format!("{} {PORT} vmap @{port}", to_node(family))]
}

/// All of them are of type nat, which see the first packet of a connection alone: what follows passes no rule. A
/// first packet that is dropped or refused leaves no connection behind, so the next try is a first one again.
fn base_chains(config: &Config, family: Family) -> Vec<Chain> {
    let (ip, key, mark) = (family.name(), address_key(family), mark());
    let mut refused = lookups(family, "address-refused", "port-refused");
    // Nobody's service, or nobody's port of one: the client should know at once.
    refused.push(format!("{ip} daddr @services fib daddr type != local goto refuse"));
    let guard = format!("{key} @guarded {key} . {ip} saddr != @sources drop");
    let mut leaving = vec![
        "ct status dnat jump remember".to_owned(),
        // What stays on this machine has a source that is right: one translation less for each packet.
        "oifname \"lo\" accept".to_owned(),
        format!("ct status dnat ct original {ip} daddr @services {ip} saddr != @pods {mark}"),
        // The node may have chosen an address of a load balancer as its own.
        format!("ct status dnat ct original {ip} daddr != @services fib saddr type local {mark}"),
        format!("ct status dnat {ip} saddr . {ip} daddr @hairpin {mark}"),
    ];
    if config.settings.masquerade_all {
        leaving.push(format!("ct status dnat ct original {ip} daddr @services {mark}"));
    }
    if family == Family::V4 {
        leaving.push(format!("ip saddr 127.0.0.0/8 {mark}"));
    }
    let served =
        |inside: String| [guard.clone(), inside, "jump translate".to_owned(), "jump refused".to_owned()];
    vec![
        // A reset waits for a client that is still within connect(); an ICMP error then is lost.
        Chain::plain("refuse", ["meta l4proto tcp reject with tcp reset", "reject"]),
        Chain::plain("refuse-chosen", [format!("{ip} daddr @node-ports goto refuse")]),
        Chain::plain("drop-chosen", [format!("{ip} daddr @node-ports drop")]),
        Chain::plain("refused", refused),
        Chain::plain("remember", remembering(family)),
        Chain::plain("inside", lookups(family, "address-inside", "port-inside")),
        Chain::plain("translate", lookups(family, "address-services", "port-services")),
        Chain::base(
            "prerouting",
            "type nat hook prerouting priority -100",
            served(format!("{ip} saddr @pods jump inside")),
        ),
        Chain::base("output", "type nat hook output priority -100", served("jump inside".to_owned())),
        // Before the node's own table, which acts on the mark.
        Chain::base("postrouting", "type nat hook postrouting priority 90", leaving),
        Chain::base("input", "type nat hook input priority 90", ["ct status dnat jump remember"]),
    ]
}

/// The port is spelled for each protocol, as only that tells nft where the packet has it.
fn remembering(family: Family) -> Vec<String> {
    let address = format!("ct original {} daddr . meta l4proto", family.name());
    let keys = [(address.as_str(), "address"), ("meta l4proto", "port")];
    let rules = keys.into_iter().flat_map(|(key, map)| {
        Protocol::ALL.map(|protocol| {
            format!("meta l4proto {} {key} . ct original proto-dst vmap @{map}-sticky", protocol.name())
        })
    });
    rules.collect()
}

fn chain_name(chain: model::Chain) -> String {
    let spread = match chain {
        model::Chain::Remember(timeout_s) => return format!("remember-{timeout_s}"),
        model::Chain::Spread(spread) => spread,
    };
    let mut name = format!(
        "{}-{}-{}",
        if spread.port { "port" } else { "address" },
        spread.protocol.name(),
        spread.endpoints
    );
    for (is, word) in [
        (spread.inside, "-inside"),
        (spread.sticky, "-sticky"),
        (spread.masquerade, "-masquerade"),
        (spread.chosen, "-chosen"),
    ] {
        if is {
            name.push_str(word);
        }
    }
    name
}

fn chain(family: Family, chain: model::Chain) -> Chain {
    let rules = match chain {
        model::Chain::Spread(spread) => spread_rules(family, spread),
        model::Chain::Remember(timeout_s) if family == Family::V4 => remember_rules(timeout_s),
        // Filled by [`remember_v6`].
        model::Chain::Remember(_) => Vec::new(),
    };
    Chain::plain(&chain_name(chain), rules)
}

fn spread_rules(family: Family, spread: Spread) -> Vec<String> {
    let ip = family.name();
    let mut rules = Vec::new();
    if spread.chosen {
        rules.push(format!("{ip} daddr != @node-ports return"));
    }
    if spread.masquerade {
        rules.push(mark());
    }
    if spread.sticky {
        rules.push(format!("dnat {ip} to {ip} saddr . {} map @{AFFINITY}", address_key(family)));
    }
    let dport = format!("{} dport", spread.protocol.name());
    let front = if spread.port { dport } else { format!("{ip} daddr . {dport}") };
    let offset = if spread.inside { format!(" offset {MOST_ENDPOINTS}") } else { String::new() };
    let map = endpoints_map(spread.port, spread.protocol);
    rules.push(format!("dnat {ip} to {front} . numgen random mod {}{offset} map @{map}", spread.endpoints));
    rules
}

/// Runs after the translation, so that the packet's destination is the endpoint that was chosen.
fn remember_rules(timeout_s: u32) -> Vec<String> {
    let rules = Protocol::ALL.map(|protocol| {
        format!(
            "meta l4proto {} update @{AFFINITY} {{ ct original ip saddr . ct original ip daddr . \
             meta l4proto . ct original proto-dst timeout {timeout_s}s : ip daddr . th dport }}",
            protocol.name()
        )
    });
    rules.into()
}

/// Puts the same rule for IPv6, which has too much in it for nft, into the chain that is there for it.
pub(crate) async fn remember_v6(timeout_s: u32) -> Result<(), net::Error> {
    let chain = chain_name(model::Chain::Remember(timeout_s));
    net::nft::remember_v6(TABLE, chain, AFFINITY, Duration::from_secs(timeout_s.into())).await
}

fn front_fields(front: Front, with_protocol: bool) -> Vec<Field> {
    let mut fields = Vec::with_capacity(4);
    let (protocol, port) = match front {
        Front::Address(address, protocol, port) => {
            fields.push(Field::Address(address));
            (protocol, port)
        }
        Front::Port(_, protocol, port) => (protocol, port),
    };
    if with_protocol {
        fields.push(Field::Protocol(protocol.number()));
    }
    fields.push(Field::Port(port));
    fields
}

/// The set an element is in, and its key there.
fn place(key: Key) -> (&'static str, Vec<Field>) {
    let of = |front: Front, map: usize| {
        let names = if matches!(front, Front::Port(..)) { PORT_MAPS } else { ADDRESS_MAPS };
        (names[map], front_fields(front, true))
    };
    match key {
        Key::Service(front) => of(front, 0),
        Key::Inside(front) => of(front, 1),
        Key::Refused(front) => of(front, 2),
        Key::Sticky(front) => of(front, 3),
        Key::Endpoint(front, index) => {
            let mut fields = front_fields(front, false);
            fields.push(Field::Number(index.into()));
            (endpoints_map(matches!(front, Front::Port(..)), front.protocol()), fields)
        }
        Key::Guarded(front) => ("guarded", front_fields(front, true)),
        Key::Source(front, block) => {
            let mut fields = front_fields(front, true);
            fields.push(Field::Block(block));
            ("sources", fields)
        }
        Key::Hairpin(address) => ("hairpin", vec![Field::Address(address), Field::Address(address)]),
    }
}

fn value(value: Value) -> Option<net::nft::Value> {
    let goto = |name: &str| Some(net::nft::Value::Goto(name.to_owned()));
    match value {
        Value::Chain(chain) => Some(net::nft::Value::Goto(chain_name(chain))),
        Value::Endpoint(endpoint) => {
            Some(net::nft::Value::Fields(vec![Field::Address(endpoint.address), Field::Port(endpoint.port)]))
        }
        Value::Reject { chosen: false } => goto("refuse"),
        Value::Reject { chosen: true } => goto("refuse-chosen"),
        Value::Drop { chosen: false } => Some(net::nft::Value::Drop),
        Value::Drop { chosen: true } => goto("drop-chosen"),
        Value::Present => None,
    }
}

fn element(key: Key, held: Value) -> (TableName, &'static str, Element) {
    let (set, fields) = place(key);
    let element = match value(held) {
        Some(value) => Element::to(fields, value),
        None => Element::of(fields),
    };
    (name(key.family()), set, element)
}

/// The whole of all tables, in place of whatever was there, with their chains.
pub(crate) fn everything(config: &Config, state: &State) -> (Transaction, BTreeSet<(Family, model::Chain)>) {
    let (mut chains, mut filling) = (BTreeSet::new(), Filling::default());
    state.each(|key, value| {
        chains.extend(value.chain().map(|chain| (key.family(), chain)));
        let (table, set, element) = element(key, value);
        filling.push(table, set, &element);
    });
    let mut transaction = Transaction::default();
    for family in Family::ALL {
        if !config.families().any(|served| served == family) {
            transaction.remove_table(family.name(), TABLE);
            continue;
        }
        let mut table = table(config, family);
        let own = chains.iter().filter(|(of, _)| *of == family);
        table.chains.extend(own.map(|(family, one)| chain(*family, *one)));
        transaction.replace_table(&table);
    }
    filling.write(&mut transaction);
    (transaction, chains)
}

/// What changed, but for chains.
pub(crate) fn changes(difference: &Difference) -> Changes {
    let mut changes = Changes::default();
    for key in difference.deleted() {
        let (set, fields) = place(key);
        changes.push(name(key.family()), set, Verb::Delete, Element::of(fields));
    }
    for (key, value) in difference.added() {
        let (table, set, element) = element(key, value);
        changes.push(table, set, Verb::Add, element);
    }
    changes
}

/// Chains that are not there yet.
pub(crate) fn add_chains<'a>(
    chains: impl Iterator<Item = &'a (Family, model::Chain)>,
    transaction: &mut Transaction,
) {
    for (family, one) in chains {
        transaction.add_chain(name(*family), &chain(*family, *one));
    }
}
