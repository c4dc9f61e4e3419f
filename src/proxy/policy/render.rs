//! Policies as nftables: one table for both families, with what allows as text and what is where as
//! elements.

use crate::family::Family;
use crate::policy::admin::Verdict;
use crate::policy::rules::{Direction, Peer, Ports, Rule, Rules};
use crate::policy::state::{Chain, Difference, Facts, Hook, Rest, Set, State, port_name};
use net::nft::{self, Changes, Element, Field, Table, TableName, Transaction, Value, Verb};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

pub(crate) const TABLE: TableName = ("inet", "knarr-policy");

/// So that what the proxy refuses is refused before it is looked at here.
const HOOKS: [(Hook, &str); 3] = [
    (Hook::Egress, "type filter hook forward priority 5"),
    (Hook::Ingress, "type filter hook forward priority 6"),
    (Hook::Node, "type filter hook input priority 5"),
];

fn suffix(family: Family) -> &'static str {
    match family {
        Family::V4 => "4",
        Family::V6 => "6",
    }
}

pub(crate) fn set_name(set: &Set) -> String {
    match set {
        Set::Isolated(hook, family) => format!("{}-{}", hook.name(), suffix(*family)),
        Set::Own(family) => format!("own-{}", suffix(*family)),
        Set::Group(name, family) => format!("group-{}-{name}", suffix(*family)),
        Set::Named(name, family) => format!("port-{}-{name}", suffix(*family)),
    }
}

fn block_name(family: Family, name: &str) -> String {
    format!("block-{}-{name}", suffix(family))
}

/// A set's kind and declaration.
type Declaration = (&'static str, Vec<String>);

/// What a set of addresses looks like whose content is known: its name, and its elements.
pub(crate) fn declared(rules: &Rules) -> BTreeMap<String, (Declaration, Vec<String>)> {
    let mut sets = BTreeMap::new();
    for family in Family::ALL {
        let address = family.address_type();
        for name in rules.groups.keys() {
            let set = set_name(&Set::Group(name.as_str().into(), family));
            sets.insert(set, (("set", vec![format!("type {address}")]), Vec::new()));
        }
        for (protocol, name) in &rules.names {
            let set = set_name(&Set::Named(port_name(*protocol, name).into(), family));
            let declaration = format!("type {address} . inet_proto . inet_service");
            sets.insert(set, (("set", vec![declaration]), Vec::new()));
        }
    }
    for (name, (family, blocks)) in &rules.blocks {
        let lines =
            vec![format!("type {}", family.address_type()), "flags interval".into(), "auto-merge".into()];
        let elements = blocks.iter().map(ToString::to_string).collect();
        sets.insert(block_name(*family, name), (("set", lines), elements));
    }
    sets
}

/// The fixed part. Replies pass, and what the node itself sends to its pods does not come by here.
fn table() -> Table {
    let mut sets = Vec::new();
    let mut chains = Vec::new();
    let fixed = |kind, name, declaration: String| nft::Set {
        kind,
        name,
        declaration: vec![declaration],
        elements: Vec::new(),
    };
    for (family, own, names) in [
        (Family::V4, "own-4", ["egress-4", "ingress-4", "node-4"]),
        (Family::V6, "own-6", ["egress-6", "ingress-6", "node-6"]),
    ] {
        let address = family.address_type();
        sets.push(fixed("set", own, format!("type {address} . {address}")));
        sets.extend(names.map(|name| fixed("map", name, format!("type {address} : verdict"))));
    }
    for (hook, place) in HOOKS {
        let side = if hook.direction() == Direction::Egress { "saddr" } else { "daddr" };
        let mut rules = vec!["ct state established,related accept".to_owned()];
        if hook == Hook::Node {
            // Without them a pod has no neighbour, whom it may send to.
            rules.push("icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept".to_owned());
        }
        for family in Family::ALL {
            rules.push(format!("{} {side} vmap @{}-{}", family.name(), hook.name(), suffix(family)));
        }
        chains.push(nft::Chain::base(hook.name(), place, rules));
    }
    Table { family: TABLE.0, name: TABLE.1, sets, chains }
}

/// A pod that policies of its namespace isolate reaches itself by way of a service all the same.
fn own() -> [String; 2] {
    Family::ALL.map(|family| {
        let ip = family.name();
        format!("{ip} saddr . {ip} daddr @own-{} accept", suffix(family))
    })
}

fn ranges(ranges: &[(u16, u16)]) -> String {
    let one = |(first, last): &(u16, u16)| {
        if first == last { first.to_string() } else { format!("{first}-{last}") }
    };
    ranges.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// One line, or one for each family where addresses are looked up.
fn lines(direction: Direction, rule: &Rule, verdict: &str) -> Vec<String> {
    let side = if direction == Direction::Egress { "daddr" } else { "saddr" };
    let families: &[Family] = match (&rule.peer, &rule.ports) {
        (Peer::Block(family, _), _) => std::slice::from_ref(family),
        (Peer::Anybody, Ports::All | Ports::Protocol(_) | Ports::Numbers(..)) => &Family::ALL[..1],
        _ => &Family::ALL,
    };
    let line = |family: &Family| {
        let ip = family.name();
        let peer = match &rule.peer {
            Peer::Anybody => None,
            Peer::Group(name) => Some(set_name(&Set::Group(name.as_str().into(), *family))),
            Peer::Block(_, name) => Some(block_name(*family, name)),
        };
        let peer = peer.map(|set| format!("{ip} {side} @{set}"));
        let ports = match &rule.ports {
            Ports::All => None,
            Ports::Protocol(protocol) => Some(format!("meta l4proto {}", protocol.name())),
            Ports::Numbers(protocol, all) => Some(format!("{} dport {{ {} }}", protocol.name(), ranges(all))),
            Ports::Named(protocol, name) => {
                let set = set_name(&Set::Named(port_name(*protocol, name).into(), *family));
                Some(format!("{ip} daddr . meta l4proto . th dport @{set}"))
            }
        };
        [peer, ports, Some(verdict.to_owned())].into_iter().flatten().collect::<Vec<_>>().join(" ")
    };
    families.iter().map(line).collect()
}

fn chain(direction: Direction, chain: &Chain) -> nft::Chain {
    let rest = match &chain.rest {
        Rest::Accept => "accept".to_owned(),
        Rest::Drop => "drop".to_owned(),
        Rest::Next(next) => format!("goto {}", next.name),
    };
    let own = own().into_iter().filter(|_| chain.rest == Rest::Drop);
    let rules = chain.rules.iter().flat_map(|(rule, verdict)| {
        let verdict = match verdict {
            Verdict::Accept => "accept",
            Verdict::Drop => "drop",
            Verdict::Pass => &rest,
        };
        lines(direction, rule, verdict)
    });
    nft::Chain::plain(&chain.name, own.chain(rules).chain([rest.clone()]))
}

/// The elements that say something of an address.
fn elements(address: IpAddr, facts: &Facts) -> BTreeMap<(String, Vec<Field>), Option<String>> {
    let mut all: BTreeMap<(String, Vec<Field>), Option<String>> =
        facts.elements.iter().map(|(set, key)| ((set_name(set), key.clone()), None)).collect();
    for (hook, chain) in &facts.chains {
        let set = set_name(&Set::Isolated(*hook, Family::of(address)));
        all.insert((set, vec![Field::Address(address)]), Some(chain.name.clone()));
    }
    all
}

/// What changes of elements.
pub(crate) fn changes(difference: &Difference) -> Changes {
    let mut changes = Changes::default();
    let both =
        difference.iter().map(|(address, (old, new))| (elements(*address, old), elements(*address, new)));
    let both: Vec<_> = both.collect();
    for (old, new) in &both {
        for ((set, key), _) in old.iter().filter(|(key, value)| new.get(*key) != Some(value)) {
            changes.push(TABLE, set.clone(), Verb::Delete, Element::of(key.clone()));
        }
    }
    for (old, new) in &both {
        for ((set, key), value) in new.iter().filter(|(key, value)| old.get(*key) != Some(value)) {
            let element = match value {
                Some(chain) => Element::to(key.clone(), Value::Goto(chain.clone())),
                None => Element::of(key.clone()),
            };
            changes.push(TABLE, set.clone(), Verb::Add, element);
        }
    }
    changes
}

/// What of the table has a name of its content: sets of peers and ports, and chains.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Parts {
    pub(crate) sets: BTreeSet<String>,
    pub(crate) chains: BTreeMap<String, Arc<Chain>>,
}

impl Parts {
    pub(crate) fn of(state: &State) -> Self {
        Self { sets: declared(&state.rules).into_keys().collect(), chains: state.chains() }
    }

    /// Those that the other has not.
    pub(crate) fn beyond(&self, other: &Self) -> Self {
        let chains = self.chains.iter().filter(|(name, _)| !other.chains.contains_key(*name));
        Self {
            sets: self.sets.difference(&other.sets).cloned().collect(),
            chains: chains.map(|(name, chain)| (name.clone(), chain.clone())).collect(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.sets.is_empty() && self.chains.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.sets.len() + self.chains.len()
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.sets.extend(other.sets);
        self.chains.extend(other.chains);
    }

    /// Makes them.
    pub(crate) fn write(&self, rules: &Rules, transaction: &mut Transaction) {
        for (name, ((kind, declaration), elements)) in declared(rules) {
            if self.sets.contains(&name) {
                transaction.add_set(TABLE, (kind, &name), &declaration, &elements);
            }
        }
        for own in self.in_order() {
            let egress = own.name.starts_with(Direction::Egress.name());
            let direction = if egress { Direction::Egress } else { Direction::Ingress };
            transaction.add_chain(TABLE, &chain(direction, own));
        }
    }

    /// Those first that others lead to.
    fn in_order(&self) -> impl DoubleEndedIterator<Item = &Chain> {
        let leads = |chain: &&Arc<Chain>| matches!(chain.rest, Rest::Next(_));
        let (later, first): (Vec<_>, Vec<_>) = self.chains.values().partition(leads);
        first.into_iter().chain(later).map(Arc::as_ref)
    }

    /// Removes them; nothing leads to them any more.
    pub(crate) fn remove(&self, transaction: &mut Transaction) {
        self.in_order().rev().for_each(|chain| transaction.remove_chain(TABLE, &chain.name));
        self.sets.iter().for_each(|set| transaction.remove_set(TABLE, set));
    }
}

/// The whole table in place of the one there was.
pub(crate) fn everything(state: &State) -> Transaction {
    let mut transaction = Transaction::default();
    if state.rules.is_empty() {
        transaction.remove_table(TABLE.0, TABLE.1);
        return transaction;
    }
    transaction.replace_table(&table());
    Parts::of(state).write(&state.rules, &mut transaction);
    let all = state.facts().map(|(address, facts)| (*address, (Facts::default(), facts.clone()))).collect();
    changes(&all).write(&mut transaction);
    transaction
}
