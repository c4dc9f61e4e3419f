//! Which address is in which set, and whose packets go through which chain; pure.

use crate::family::Family;
use crate::model::Protocol;
use crate::policy::admin::{Administered, Verdict};
use crate::policy::rules::{Direction, Group, Policy, Rule, Rules, digest};
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
            addresses: Self::addresses_of(pod),
            ports: ports
                .filter_map(|it| port(it.protocol.as_deref(), it.name.as_deref(), it.container_port))
                .collect(),
            local: spec.node_name.as_deref() == Some(node),
            told: 0,
        })
    }

    /// The addresses that the API has of a pod.
    pub(crate) fn addresses_of(pod: &slim::Pod) -> BTreeSet<IpAddr> {
        let all = pod.status.iter().flat_map(|status| {
            status.pod_ips.iter().flatten().map(|ip| &*ip.ip).chain(status.pod_ip.as_deref())
        });
        all.filter_map(|text| text.parse().ok()).collect()
    }

    /// Cluster DNS, which every node answers itself. To policies it is a pod, as it is in other clusters.
    pub(crate) fn dns(addresses: impl Iterator<Item = IpAddr>) -> Self {
        let ports = [(Protocol::Udp, "dns"), (Protocol::Tcp, "dns-tcp")];
        Self {
            namespace: "kube-system".to_owned(),
            labels: [("k8s-app".to_owned(), "kube-dns".to_owned())].into(),
            addresses: addresses.collect(),
            ports: ports.map(|(protocol, name)| (protocol, name.to_owned(), 53)).into(),
            ..Self::default()
        }
    }

    fn is_in(&self, group: &Group, namespace: Option<&Namespace>) -> bool {
        group.selects((&self.namespace, namespace), |key| self.labels.get(key).map(String::as_str))
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

/// Where packets are asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Hook {
    /// What is forwarded, by who sends it.
    Egress,
    /// What is forwarded, by who gets it.
    Ingress,
    /// What pods send to this node itself, which policies of namespaces always allow.
    Node,
}

impl Hook {
    pub(crate) const ALL: [Self; 3] = [Self::Egress, Self::Ingress, Self::Node];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Egress => "egress",
            Self::Ingress => "ingress",
            Self::Node => "node",
        }
    }

    pub(crate) fn direction(self) -> Direction {
        match self {
            Self::Egress | Self::Node => Direction::Egress,
            Self::Ingress => Direction::Ingress,
        }
    }
}

/// A set of the table's.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Set {
    /// The chain of a pod's traffic that not everything is allowed of.
    Isolated(Hook, Family),
    /// Isolated pods, which may always reach themselves as far as policies of namespaces go.
    Own(Family),
    /// The addresses of a group, by its name.
    Group(Arc<str>, Family),
    /// The ports that pods call so, by the name's digest.
    Named(Arc<str>, Family),
}

/// What becomes of what no rule of a chain is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Rest {
    Accept,
    /// Of a pod that policies of its namespace isolate.
    Drop,
    /// The next tier's chain has its say.
    Next(Arc<Chain>),
}

/// What is asked of a pod's traffic in one direction, in this order. Pods of which the same is asked share a chain.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Chain {
    pub(crate) name: String,
    pub(crate) rules: Vec<(Rule, Verdict)>,
    pub(crate) rest: Rest,
}

impl Chain {
    fn new(direction: Direction, rules: Vec<(Rule, Verdict)>, rest: Rest) -> Arc<Self> {
        let after = match &rest {
            Rest::Accept => "accept",
            Rest::Drop => "drop",
            Rest::Next(next) => &next.name,
        };
        let name = format!("{}-{}", direction.name(), digest(&format!("{rules:?} {after}")));
        Arc::new(Self { name, rules, rest })
    }

    /// Those that it leads to, and itself.
    fn with_next(self: &Arc<Self>) -> impl Iterator<Item = Arc<Self>> {
        let next = |chain: &Arc<Self>| match &chain.rest {
            Rest::Next(next) => Some(next.clone()),
            Rest::Accept | Rest::Drop => None,
        };
        std::iter::successors(Some(self.clone()), next)
    }
}

/// What the table says of one address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) elements: BTreeSet<(Set, Vec<Field>)>,
    pub(crate) chains: BTreeMap<Hook, Arc<Chain>>,
}

/// A pod's key.
pub(crate) type Name = (String, String);

/// The digest of a port's name.
pub(crate) fn port_name(protocol: Protocol, name: &str) -> String {
    digest(&format!("{} {name}", protocol.name()))
}

/// What policies of its namespace say of a pod in a direction.
enum Namespaced {
    /// None is for it.
    Open,
    /// Everything is allowed.
    Allowed,
    Isolated(Arc<Chain>),
}

fn namespaced(direction: Direction, policies: &[Policy], pod: &Known) -> Namespaced {
    let mut selecting = policies
        .iter()
        .filter(|policy| policy.pods.matches(&pod.labels))
        .filter_map(|it| it.allowed.get(&direction));
    let Some(first) = selecting.next().cloned() else { return Namespaced::Open };
    let rules: BTreeSet<Rule> = selecting.fold(first, |mut rules, more| {
        rules.extend(more.iter().cloned());
        rules
    });
    if rules.contains(&Rule::EVERYTHING) {
        return Namespaced::Allowed;
    }
    let rules = rules.into_iter().map(|rule| (rule, Verdict::Accept)).collect();
    Namespaced::Isolated(Chain::new(direction, rules, Rest::Drop))
}

/// What policies of administrators ask of a pod.
fn administered(
    policies: &[Administered],
    direction: Direction,
    pod: &Known,
    namespace: Option<&Namespace>,
) -> Vec<(Rule, Verdict)> {
    let selecting = policies.iter().filter(|policy| pod.is_in(&policy.subject, namespace));
    selecting.filter_map(|policy| policy.rules.get(&direction)).flatten().cloned().collect()
}

/// What is asked of a pod's traffic at a hook, tier by tier; nothing where everything is allowed.
fn chain(rules: &Rules, hook: Hook, pod: &Known, namespace: Option<&Namespace>) -> Option<Arc<Chain>> {
    let direction = hook.direction();
    let policies = rules.policies.get(&pod.namespace).map(Vec::as_slice).unwrap_or_default();
    let of_tier = |tier: &[Administered]| administered(tier, direction, pod, namespace);
    let next = match namespaced(direction, policies, pod) {
        Namespaced::Allowed => None,
        Namespaced::Isolated(chain) => Some(chain).filter(|_| hook != Hook::Node),
        Namespaced::Open => {
            let baseline = of_tier(&rules.baseline);
            (!baseline.is_empty()).then(|| Chain::new(direction, baseline, Rest::Accept))
        }
    };
    let admin = of_tier(&rules.admin);
    if admin.is_empty() {
        return next;
    }
    Some(Chain::new(direction, admin, next.map_or(Rest::Accept, Rest::Next)))
}

/// What the table says of an address of a pod's.
fn facts(rules: &Rules, pod: &Known, namespace: Option<&Namespace>, address: IpAddr) -> Facts {
    let family = Family::of(address);
    let mut facts = Facts::default();
    for (name, group) in &rules.groups {
        if pod.is_in(group, namespace) {
            facts.elements.insert((Set::Group(name.as_str().into(), family), vec![Field::Address(address)]));
        }
    }
    for (protocol, name, number) in &pod.ports {
        if rules.names.contains(&(*protocol, name.clone())) {
            let key = vec![Field::Address(address), Field::Protocol(protocol.number()), Field::Port(*number)];
            facts.elements.insert((Set::Named(port_name(*protocol, name).into(), family), key));
        }
    }
    for hook in Hook::ALL.into_iter().filter(|_| pod.local) {
        let Some(chain) = chain(rules, hook, pod, namespace) else { continue };
        if chain.with_next().any(|chain| chain.rest == Rest::Drop) {
            let own = [Field::Address(address), Field::Address(address)];
            facts.elements.insert((Set::Own(family), own.into()));
        }
        facts.chains.insert(hook, chain);
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
        chains.flat_map(Chain::with_next).map(|chain| (chain.name.clone(), chain)).collect()
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

    pub(crate) fn has_owner(&self, address: IpAddr) -> bool {
        self.owners.contains_key(&address)
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
