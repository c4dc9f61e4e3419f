//! Which address is in which set, and whose packets go through which chain; pure.

use crate::family::Family;
use crate::model::Protocol;
use crate::policy::rules::{Direction, Policy, Rule, Rules, digest};
use api::core::{Namespace, Pod};
use api::{Object, slim};
use net::nft::Field;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

/// A pod as far as policies look at it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) uid: String,
    pub(crate) namespace: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) addresses: BTreeSet<IpAddr>,
    pub(crate) ports: BTreeSet<(Protocol, String, u16)>,
    /// It is on this node.
    pub(crate) local: bool,
    /// When its kubelet told of it, before the API did: of two pods with one address the later has it.
    pub(crate) told: u64,
}

fn port(protocol: Option<&str>, name: Option<&str>, number: i32) -> Option<(Protocol, String, u16)> {
    Some((Protocol::parse(protocol)?, name?.to_owned(), u16::try_from(number).ok()?))
}

impl Known {
    /// Nothing of a pod that is over or in its node's network, which is no pod's to policies.
    pub(crate) fn of(pod: &slim::Pod, node: &str) -> Option<Self> {
        let (spec, status) = (pod.spec.as_ref()?, pod.status.as_ref()?);
        if matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) || spec.host_network == Some(true)
        {
            return None;
        }
        let all = status.pod_ips.iter().flatten().map(|ip| &*ip.ip).chain(status.pod_ip.as_deref());
        let containers = spec.init_containers.iter().flatten().chain(&spec.containers);
        let ports = containers.flat_map(|container| container.ports.iter().flatten());
        Some(Self {
            uid: pod.uid().to_owned(),
            namespace: pod.namespace().to_owned(),
            labels: pod
                .metadata
                .labels
                .iter()
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .collect(),
            addresses: all.filter_map(|text| text.parse().ok()).collect(),
            ports: ports
                .filter_map(|it| port(it.protocol.as_deref(), it.name.as_deref(), it.container_port))
                .collect(),
            local: spec.node_name.as_deref() == Some(node),
            told: 0,
        })
    }

    /// A pod of this node that has just got its addresses.
    pub(crate) fn announced(pod: &Pod, addresses: BTreeSet<IpAddr>) -> Self {
        let containers =
            pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten().chain(&spec.containers));
        let ports = containers.flat_map(|container| container.ports.iter().flatten());
        Self {
            uid: pod.uid().to_owned(),
            namespace: pod.namespace().to_owned(),
            labels: pod.labels().clone(),
            addresses,
            ports: ports
                .filter_map(|it| port(it.protocol.as_deref(), it.name.as_deref(), it.container_port))
                .collect(),
            local: true,
            told: 0,
        }
    }
}

/// A set of the table's.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Set {
    /// The chain of an isolated pod's traffic.
    Isolated(Direction, Family),
    /// Isolated pods, which may always reach themselves.
    Own(Family),
    /// The addresses of a group, by its name.
    Group(Arc<str>, Family),
    /// The ports that pods call so, by the name's digest.
    Named(Arc<str>, Family),
}

/// What is allowed to a pod in one direction. Pods to which the same is allowed share a chain.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Chain {
    pub(crate) name: String,
    pub(crate) rules: BTreeSet<Rule>,
}

/// What the table says of one address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) elements: BTreeSet<(Set, Vec<Field>)>,
    pub(crate) chains: BTreeMap<Direction, Arc<Chain>>,
}

/// A pod's key.
pub(crate) type Name = (String, String);

/// The digest of a port's name.
pub(crate) fn port_name(protocol: Protocol, name: &str) -> String {
    digest(&format!("{} {name}", protocol.name()))
}

/// What policies allow a pod in a direction; nothing is said where none isolates it or everything is
/// allowed.
fn chain(direction: Direction, policies: &[Policy], pod: &Known) -> Option<Arc<Chain>> {
    let mut selecting = policies
        .iter()
        .filter(|policy| policy.pods.matches(&pod.labels))
        .filter_map(|it| it.allowed.get(&direction));
    let first = selecting.next()?.clone();
    let rules: BTreeSet<Rule> = selecting.fold(first, |mut rules, more| {
        rules.extend(more.iter().cloned());
        rules
    });
    let name = format!("{}-{}", direction.name(), digest(&format!("{rules:?}")));
    (!rules.contains(&Rule::EVERYTHING)).then(|| Arc::new(Chain { name, rules }))
}

/// What the table says of an address of a pod's.
fn facts(rules: &Rules, pod: &Known, namespace: Option<&Namespace>, address: IpAddr) -> Facts {
    let family = Family::of(address);
    let mut facts = Facts::default();
    for (name, group) in &rules.groups {
        if group.selects((&pod.namespace, namespace), |key| pod.labels.get(key).map(String::as_str)) {
            facts.elements.insert((Set::Group(name.as_str().into(), family), vec![Field::Address(address)]));
        }
    }
    for (protocol, name, number) in &pod.ports {
        if rules.names.contains(&(*protocol, name.clone())) {
            let key = vec![Field::Address(address), Field::Protocol(protocol.number()), Field::Port(*number)];
            facts.elements.insert((Set::Named(port_name(*protocol, name).into(), family), key));
        }
    }
    let policies = rules.policies.get(&pod.namespace).filter(|_| pod.local);
    for (direction, policies) in Direction::ALL.into_iter().zip(std::iter::repeat(policies)) {
        let Some(chain) = policies.and_then(|policies| chain(direction, policies, pod)) else { continue };
        facts.elements.insert((Set::Own(family), vec![Field::Address(address), Field::Address(address)]));
        facts.chains.insert(direction, chain);
    }
    facts
}

/// All pods, and what follows from them.
#[derive(Default)]
pub(crate) struct State {
    pub(crate) rules: Rules,
    namespaces: HashMap<String, Arc<Namespace>>,
    pods: BTreeMap<Name, Known>,
    owners: HashMap<IpAddr, BTreeSet<(u64, Name)>>,
    facts: BTreeMap<IpAddr, Facts>,
}

/// What was and what is said of addresses.
pub(crate) type Difference = BTreeMap<IpAddr, (Facts, Facts)>;

impl State {
    pub(crate) fn facts(&self) -> impl Iterator<Item = (&IpAddr, &Facts)> {
        self.facts.iter()
    }

    /// The chains in use.
    pub(crate) fn chains(&self) -> BTreeMap<String, Arc<Chain>> {
        let chains = self.facts.values().flat_map(|facts| facts.chains.values());
        chains.map(|chain| (chain.name.clone(), chain.clone())).collect()
    }

    /// Puts other policies in place of those there were.
    pub(crate) fn set_rules(&mut self, rules: Rules, difference: &mut Difference) {
        self.rules = rules;
        let all: Vec<IpAddr> = self.owners.keys().copied().collect();
        self.renew(all, difference);
    }

    /// A namespace came, changed its labels or went.
    pub(crate) fn set_namespace(
        &mut self,
        name: &str,
        namespace: Option<Arc<Namespace>>,
        difference: &mut Difference,
    ) {
        match namespace {
            Some(namespace) => drop(self.namespaces.insert(name.to_owned(), namespace)),
            None => drop(self.namespaces.remove(name)),
        }
        let of_namespace =
            self.pods.range((name.to_owned(), String::new())..).take_while(|(key, _)| key.0 == name);
        let all: Vec<IpAddr> = of_namespace.flat_map(|(_, pod)| pod.addresses.iter().copied()).collect();
        self.renew(all, difference);
    }

    /// A pod came or changed.
    pub(crate) fn set_pod(&mut self, name: &Name, mut pod: Known, difference: &mut Difference) {
        let old = self.pods.remove(name).unwrap_or_default();
        if pod.told == 0 && old.told > 0 {
            // Its kubelet knew its addresses before the API, which may not have heard of them yet.
            pod.told = if pod.uid == old.uid || pod.addresses.is_empty() { old.told } else { 0 };
            if pod.addresses.is_empty() {
                pod.addresses.clone_from(&old.addresses);
            }
        }
        for address in &old.addresses {
            self.disown(*address, &(old.told, name.clone()));
        }
        for address in &pod.addresses {
            self.owners.entry(*address).or_default().insert((pod.told, name.clone()));
        }
        let all: Vec<IpAddr> = old.addresses.union(&pod.addresses).copied().collect();
        self.pods.insert(name.clone(), pod);
        self.renew(all, difference);
    }

    /// A pod went; another of its name may have come already.
    pub(crate) fn remove_pod(&mut self, name: &Name, uid: &str, difference: &mut Difference) {
        if self.pods.get(name).is_none_or(|pod| pod.uid != uid) {
            return;
        }
        let Some(old) = self.pods.remove(name) else { return };
        for address in &old.addresses {
            self.disown(*address, &(old.told, name.clone()));
        }
        self.renew(old.addresses.into_iter().collect(), difference);
    }

    pub(crate) fn has_pod(&self, name: &Name, uid: &str, addresses: &BTreeSet<IpAddr>) -> bool {
        self.pods
            .get(name)
            .is_some_and(|pod| pod.uid == uid && pod.local && pod.addresses.is_superset(addresses))
    }

    fn disown(&mut self, address: IpAddr, owner: &(u64, Name)) {
        if let Some(owners) = self.owners.get_mut(&address) {
            owners.remove(owner);
            if owners.is_empty() {
                self.owners.remove(&address);
            }
        }
    }

    fn renew(&mut self, addresses: Vec<IpAddr>, difference: &mut Difference) {
        for address in addresses {
            let owner = self.owners.get(&address).and_then(|owners| owners.last());
            let pod = owner.and_then(|(_, name)| self.pods.get(name));
            let new = pod.map_or_else(Facts::default, |pod| {
                facts(&self.rules, pod, self.namespaces.get(&pod.namespace).map(Arc::as_ref), address)
            });
            let old = if new == Facts::default() {
                self.facts.remove(&address)
            } else {
                self.facts.insert(address, new.clone())
            };
            let old = old.unwrap_or_default();
            if old != new {
                difference.entry(address).or_insert_with(|| (old, Facts::default())).1 = new;
            }
        }
    }
}
