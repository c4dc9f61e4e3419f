//! Policies compiled: groups of peers, blocks and ports, each once however many policies name it;
//! pure.

use crate::family::Family;
use crate::model::Protocol;
use crate::policy::admin::Administered;
use api::IntOrString;
use api::Object;
use api::core::Namespace;
use api::meta::LabelSelector;
use api::networking::{IPBlock, NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort};
use api::selector::Labels;
use net::Cidr;
use std::collections::{BTreeMap, BTreeSet};

/// Where traffic goes, as its pod sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Direction {
    Ingress,
    Egress,
}

impl Direction {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }
}

/// A short name for a content that is the same wherever it occurs (FNV-1a of 64 bits, twice).
pub(crate) fn digest(text: &str) -> String {
    let hash = |seed: u64| {
        text.bytes().fold(seed, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
    };
    format!("{:016x}{:016x}", hash(0xcbf2_9ce4_8422_2325), hash(0x6c62_272e_07bb_0142))
}

/// Pods that a peer selects. They have a set of addresses in the kernel, shared by all who name them.
#[derive(Clone, Debug)]
pub(crate) struct Group {
    /// The policy's own namespace, where the peer names no namespaces.
    namespace: Option<String>,
    namespaces: Labels,
    pods: Labels,
}

impl Group {
    /// Pods of any namespace with these labels.
    pub(crate) fn anywhere(namespaces: Labels, pods: Labels) -> Self {
        Self { namespace: None, namespaces, pods }
    }

    /// Whether a pod with labels, in a namespace with labels, is one of them.
    pub(crate) fn selects<'a>(
        &self,
        (namespace, labels): (&str, Option<&Namespace>),
        label: impl Fn(&str) -> Option<&'a str>,
    ) -> bool {
        let namespace = match &self.namespace {
            Some(own) => own == namespace,
            None => labels.is_some_and(|object| self.namespaces.selects(object)),
        };
        namespace && self.pods.matches_with(label)
    }
}

/// Who is at the other end.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Peer {
    Anybody,
    /// A group by its name.
    Group(String),
    /// A block without its exceptions, by its name.
    Block(Family, String),
}

/// To which ports.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Ports {
    /// And by protocols without ports.
    All,
    /// All of a protocol's.
    Protocol(Protocol),
    /// From one to another each, both included, in order and apart from one another.
    Numbers(Protocol, Vec<(u16, u16)>),
    /// What the pod at that end calls so.
    Named(Protocol, String),
}

/// What is allowed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rule {
    pub(crate) peer: Peer,
    pub(crate) ports: Ports,
}

impl Rule {
    pub(crate) const EVERYTHING: Self = Self { peer: Peer::Anybody, ports: Ports::All };
}

/// One policy: whom it isolates, and what it allows them in which direction.
#[derive(Clone, Debug)]
pub(crate) struct Policy {
    pub(crate) pods: Labels,
    pub(crate) allowed: BTreeMap<Direction, BTreeSet<Rule>>,
}

/// All policies.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    pub(crate) groups: BTreeMap<String, Group>,
    pub(crate) blocks: BTreeMap<String, (Family, Vec<Cidr>)>,
    /// The names of ports that somebody uses.
    pub(crate) names: BTreeSet<(Protocol, String)>,
    /// By namespace.
    pub(crate) policies: BTreeMap<String, Vec<Policy>>,
    /// Policies that are asked before those, in their order.
    pub(crate) admin: Vec<Administered>,
    /// Policies that are asked where none of those is for a pod.
    pub(crate) baseline: Vec<Administered>,
}

impl Rules {
    pub(crate) fn of<'a>(policies: impl Iterator<Item = &'a NetworkPolicy>) -> Self {
        let mut rules = Self::default();
        for policy in policies {
            rules.add(policy);
        }
        rules
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.policies.is_empty() && self.admin.is_empty() && self.baseline.is_empty()
    }

    fn add(&mut self, policy: &NetworkPolicy) {
        let Some(spec) = &policy.spec else { return };
        let types = spec.policy_types.as_deref().unwrap_or_default();
        // Where they are not said: ingress always, and egress if there is a rule of it.
        let has = |name: &str, otherwise: bool| {
            if types.is_empty() { otherwise } else { types.iter().any(|own| own == name) }
        };
        let mut allowed = BTreeMap::new();
        if has("Ingress", true) {
            let rules = spec.ingress.iter().flatten().map(|rule| (&rule.from, &rule.ports));
            allowed.insert(Direction::Ingress, self.allowed(policy.namespace(), rules));
        }
        if has("Egress", spec.egress.as_ref().is_some_and(|rules| !rules.is_empty())) {
            let rules = spec.egress.iter().flatten().map(|rule| (&rule.to, &rule.ports));
            allowed.insert(Direction::Egress, self.allowed(policy.namespace(), rules));
        }
        let everybody = LabelSelector::default();
        let pods = Labels::of(Some(spec.pod_selector.as_ref().unwrap_or(&everybody)));
        self.policies.entry(policy.namespace().to_owned()).or_default().push(Policy { pods, allowed });
    }

    fn allowed<'a>(
        &mut self,
        namespace: &str,
        rules: impl Iterator<Item = (&'a Option<Vec<NetworkPolicyPeer>>, &'a Option<Vec<NetworkPolicyPort>>)>,
    ) -> BTreeSet<Rule> {
        let mut allowed = BTreeSet::new();
        for (peers, ports) in rules {
            let peers = self.peers(namespace, peers.as_deref().unwrap_or_default());
            let ports = self.ports(ports.as_deref().unwrap_or_default());
            for peer in peers {
                allowed.extend(ports.iter().map(|ports| Rule { peer: peer.clone(), ports: ports.clone() }));
            }
        }
        allowed
    }

    /// No peers are everybody.
    fn peers(&mut self, namespace: &str, peers: &[NetworkPolicyPeer]) -> Vec<Peer> {
        if peers.is_empty() {
            return vec![Peer::Anybody];
        }
        peers.iter().filter_map(|peer| self.peer(namespace, peer)).collect()
    }

    fn peer(&mut self, namespace: &str, peer: &NetworkPolicyPeer) -> Option<Peer> {
        if let Some(block) = &peer.ip_block {
            return self.block(block);
        }
        let everybody = LabelSelector::default();
        let pods = Labels::of(Some(peer.pod_selector.as_ref().unwrap_or(&everybody)));
        let (own, namespaces) = match &peer.namespace_selector {
            Some(selector) => (None, Labels::of(Some(selector))),
            None => (Some(namespace.to_owned()), Labels::of(None)),
        };
        Some(self.share_group(Group { namespace: own, namespaces, pods }))
    }

    pub(crate) fn share_group(&mut self, group: Group) -> Peer {
        let Group { namespace, namespaces, pods } = &group;
        let name = digest(&format!("{namespace:?} {namespaces:?} {pods:?}"));
        self.groups.insert(name.clone(), group);
        Peer::Group(name)
    }

    pub(crate) fn share_block(&mut self, family: Family, blocks: Vec<Cidr>) -> Peer {
        let name = digest(&format!("{blocks:?}"));
        self.blocks.insert(name.clone(), (family, blocks));
        Peer::Block(family, name)
    }

    pub(crate) fn share_name(&mut self, protocol: Protocol, name: &str) -> Ports {
        self.names.insert((protocol, name.to_owned()));
        Ports::Named(protocol, name.to_owned())
    }

    fn block(&mut self, block: &IPBlock) -> Option<Peer> {
        let whole: Cidr = block.cidr.parse().ok()?;
        let except = block.except.iter().flatten().filter_map(|text| text.parse().ok());
        let blocks = except.fold(vec![whole], |blocks, except| {
            blocks.into_iter().flat_map(|block| without(block, except)).collect()
        });
        Some(self.share_block(Family::of(whole.address()), blocks))
    }

    /// No ports are all of them.
    fn ports(&mut self, ports: &[NetworkPolicyPort]) -> Vec<Ports> {
        if ports.is_empty() {
            return vec![Ports::All];
        }
        let mut all = Vec::new();
        let mut numbers: BTreeMap<Protocol, Vec<(u16, u16)>> = BTreeMap::new();
        for port in ports {
            let Some(protocol) = Protocol::parse(port.protocol.as_deref()) else { continue };
            match &port.port {
                None => all.push(Ports::Protocol(protocol)),
                Some(IntOrString::String(name)) => {
                    all.push(self.share_name(protocol, name));
                }
                Some(IntOrString::Int(first)) => {
                    let last = port.end_port.unwrap_or(*first);
                    if let (Ok(first), Ok(last)) = (u16::try_from(*first), u16::try_from(last)) {
                        numbers.entry(protocol).or_default().push((first, last.max(first)));
                    }
                }
            }
        }
        all.extend(numbers.into_iter().map(|(protocol, ranges)| Ports::Numbers(protocol, apart(ranges))));
        all
    }
}

/// A block without another: the halves of it that the other is not in.
fn without(block: Cidr, except: Cidr) -> Vec<Cidr> {
    if except.prefix() <= block.prefix() && except.contains(block.address()) {
        return Vec::new();
    }
    let mut left = Vec::new();
    let mut rest = block;
    while rest.contains(except.address()) && rest.prefix() < except.prefix() {
        let halves = [rest.address(), rest.last()].map(|address| Cidr::new(address, rest.prefix() + 1));
        let [Some(low), Some(high)] = halves else { break };
        let (with, other) = if low.contains(except.address()) { (low, high) } else { (high, low) };
        left.push(other);
        rest = with;
    }
    if rest != except {
        left.push(rest);
    }
    left
}

/// Ranges in order, those that touch as one.
pub(crate) fn apart(mut ranges: Vec<(u16, u16)>) -> Vec<(u16, u16)> {
    ranges.sort_unstable();
    let mut apart: Vec<(u16, u16)> = Vec::new();
    for (first, last) in ranges {
        match apart.last_mut() {
            Some(before) if u32::from(first) <= u32::from(before.1) + 1 => before.1 = before.1.max(last),
            _ => apart.push((first, last)),
        }
    }
    apart
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_cut_around_their_exceptions() {
        let cut = |block: &str, except: &str| {
            let blocks = without(block.parse().unwrap(), except.parse().unwrap());
            blocks.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(cut("10.0.0.0/8", "10.0.0.0/10"), ["10.128.0.0/9", "10.64.0.0/10"]);
        assert_eq!(cut("10.0.0.0/30", "10.0.0.1/32"), ["10.0.0.2/31", "10.0.0.0/32"]);
        assert_eq!(cut("10.0.0.0/8", "11.0.0.0/8"), ["10.0.0.0/8"]);
        assert!(cut("10.0.0.0/8", "10.0.0.0/8").is_empty() && cut("10.0.0.0/8", "0.0.0.0/0").is_empty());
        assert_eq!(cut("fd00::/126", "fd00::3/128"), ["fd00::/127", "fd00::2/128"]);
    }

    #[test]
    fn ranges_are_put_together() {
        assert_eq!(apart(vec![(5, 9), (1, 4), (20, 20), (9, 12)]), [(1, 12), (20, 20)]);
        assert_eq!(apart(vec![(65_535, 65_535), (1, 65_535)]), [(1, 65_535)]);
    }
}
