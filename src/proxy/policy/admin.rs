//! Policies of administrators compiled: those of the tier before NetworkPolicies and those of the tier after
//! them, each in the order in which they are asked; pure.
//!
//! What a rule says that is not known here makes it fail closed, as the API's documentation has it: a rule that
//! allows is about nothing then, and any other denies everything.

use super::kinds::{PeerSpec, PortSpec, ProtocolSpec, RuleSpec, Selected, Spec, Transport};
use super::rules::{Direction, Group, Peer, Ports, Rule, Rules, apart};
use crate::family::Family;
use crate::model::Protocol;
use api::core::Node;
use api::meta::LabelSelector;
use api::selector::Labels;
use net::Cidr;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// What becomes of what a rule is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Verdict {
    Accept,
    Drop,
    /// The next tier has its say, and no other rule of this one.
    Pass,
}

impl Verdict {
    fn parse(action: &str) -> Option<Self> {
        match action {
            "Allow" | "Accept" => Some(Self::Accept),
            "Deny" => Some(Self::Drop),
            "Pass" => Some(Self::Pass),
            _ => None,
        }
    }
}

/// When a policy is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Tier {
    Admin,
    Baseline,
}

impl Tier {
    /// From `spec.tier` of a `ClusterNetworkPolicy`.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        match name {
            "Admin" => Some(Self::Admin),
            "Baseline" => Some(Self::Baseline),
            _ => None,
        }
    }
}

/// One policy, as it is found.
pub(crate) struct Given<'a> {
    pub(crate) tier: Tier,
    pub(crate) name: &'a str,
    pub(crate) spec: &'a Spec,
}

/// One policy: for whom, and what is asked in which order.
#[derive(Clone, Debug)]
pub(crate) struct Administered {
    pub(crate) subject: Group,
    pub(crate) rules: BTreeMap<Direction, Vec<(Rule, Verdict)>>,
}

impl Rules {
    /// Adds policies of administrators.
    pub(crate) fn administer(&mut self, mut given: Vec<Given<'_>>, nodes: &[&Node]) {
        // Of two with one priority the API lets any be the first; it should always be the same one.
        given.sort_by_key(|one| (one.tier, one.spec.priority, one.name.to_owned()));
        for Given { tier, spec, .. } in given {
            let Some(subject) = group(&spec.subject) else { continue };
            let ingress = spec.ingress.iter().flat_map(|rule| self.ruled(rule, &rule.from, nodes)).collect();
            let egress = spec.egress.iter().flat_map(|rule| self.ruled(rule, &rule.to, nodes)).collect();
            let rules = [(Direction::Ingress, ingress), (Direction::Egress, egress)].into();
            let own = Administered { subject, rules };
            match tier {
                Tier::Admin => self.admin.push(own),
                Tier::Baseline => self.baseline.push(own),
            }
        }
    }

    /// Whether somebody asks for nodes.
    pub(crate) fn names_nodes(given: &[Given<'_>]) -> bool {
        let rules = given.iter().flat_map(|one| &one.spec.egress);
        rules.flat_map(|rule| &rule.to).any(|peer| peer.nodes.is_some())
    }

    fn ruled(&mut self, rule: &RuleSpec, peers: &[PeerSpec], nodes: &[&Node]) -> Vec<(Rule, Verdict)> {
        let peers: Option<Vec<Vec<Peer>>> = peers.iter().map(|peer| self.chosen(peer, nodes)).collect();
        match (Verdict::parse(&rule.action), peers, self.told_ports(rule)) {
            (Some(verdict), Some(peers), Some(ports)) => {
                let each = peers.into_iter().flatten();
                let rules = each.flat_map(|peer| {
                    ports.iter().map(move |ports| Rule { peer: peer.clone(), ports: ports.clone() })
                });
                rules.map(|rule| (rule, verdict)).collect()
            }
            (Some(Verdict::Accept), ..) => Vec::new(),
            _ => vec![(Rule::EVERYTHING, Verdict::Drop)],
        }
    }

    /// Who is meant; nothing if that is not known here.
    fn chosen(&mut self, peer: &PeerSpec, nodes: &[&Node]) -> Option<Vec<Peer>> {
        if let Some(group) = group(&peer.selected) {
            return Some(vec![self.share_group(group)]);
        }
        if let Some(selector) = &peer.nodes {
            let selector = Labels::of(Some(selector));
            let own = nodes.iter().filter(|node| selector.selects(**node));
            let blocks = own.flat_map(|node| addresses(node)).map(Cidr::single).collect();
            return Some(self.share_blocks(blocks));
        }
        let blocks: Result<Vec<Cidr>, _> = peer.networks.iter().map(|text| text.parse()).collect();
        let blocks = blocks.ok().filter(|blocks| !blocks.is_empty())?;
        Some(self.share_blocks(blocks))
    }

    fn share_blocks(&mut self, blocks: Vec<Cidr>) -> Vec<Peer> {
        let of = |family| {
            let mut own: Vec<Cidr> =
                blocks.iter().filter(|block| Family::of(block.address()) == family).copied().collect();
            own.sort_unstable();
            own.dedup();
            (family, own)
        };
        let families = Family::ALL.map(of).into_iter().filter(|(_, blocks)| !blocks.is_empty());
        families.map(|(family, blocks)| self.share_block(family, blocks)).collect()
    }

    /// To which ports; nothing if that is not known here.
    fn told_ports(&mut self, rule: &RuleSpec) -> Option<Vec<Ports>> {
        let mut told = Told::default();
        match (&rule.ports, &rule.protocols) {
            (None, None) => return Some(vec![Ports::All]),
            (ports, protocols) => {
                ports.iter().flatten().try_for_each(|port| told.port(port))?;
                protocols.iter().flatten().try_for_each(|protocol| told.protocol(protocol))?;
            }
        }
        let names = told.names.iter().flat_map(|name| Protocol::ALL.map(|protocol| (protocol, name.clone())));
        let named: Vec<Ports> = names.map(|(protocol, name)| self.share_name(protocol, &name)).collect();
        let numbers = told.numbers.into_iter();
        let numbers = numbers.map(|(protocol, ranges)| Ports::Numbers(protocol, apart(ranges)));
        Some(numbers.chain(told.whole).chain(named).collect())
    }
}

fn group(selected: &Selected) -> Option<Group> {
    let everybody = LabelSelector::default();
    let (namespaces, pods) = match (&selected.namespaces, &selected.pods) {
        (Some(namespaces), _) => (namespaces, &everybody),
        (None, Some(pods)) => (&pods.namespace_selector, &pods.pod_selector),
        (None, None) => return None,
    };
    Some(Group::anywhere(Labels::of(Some(namespaces)), Labels::of(Some(pods))))
}

/// The addresses that a node's status tells.
pub(crate) fn addresses(node: &Node) -> impl Iterator<Item = IpAddr> {
    let all = node.status.iter().flat_map(|status| status.addresses.iter().flatten());
    all.filter_map(|one| one.address.parse().ok())
}

/// Ports as a rule tells them.
#[derive(Default)]
struct Told {
    numbers: BTreeMap<Protocol, Vec<(u16, u16)>>,
    whole: Vec<Ports>,
    names: Vec<String>,
}

impl Told {
    fn range(&mut self, protocol: Protocol, first: i32, last: i32) -> Option<()> {
        let (first, last) = (u16::try_from(first).ok()?, u16::try_from(last).ok()?);
        self.numbers.entry(protocol).or_default().push((first, last.max(first)));
        Some(())
    }

    fn port(&mut self, port: &PortSpec) -> Option<()> {
        if let Some(own) = &port.port_number {
            return self.range(Protocol::parse(own.protocol.as_deref())?, own.port, own.port);
        }
        if let Some(own) = &port.port_range {
            return self.range(Protocol::parse(own.protocol.as_deref())?, own.start, own.end);
        }
        self.names.push(port.named_port.clone()?);
        Some(())
    }

    fn protocol(&mut self, told: &ProtocolSpec) -> Option<()> {
        let transports =
            [(Protocol::Tcp, &told.tcp), (Protocol::Udp, &told.udp), (Protocol::Sctp, &told.sctp)];
        if let Some((protocol, transport)) =
            transports.into_iter().find_map(|(protocol, own)| Some((protocol, own.as_ref()?)))
        {
            return self.transport(protocol, transport);
        }
        self.names.push(told.destination_named_port.clone()?);
        Some(())
    }

    fn transport(&mut self, protocol: Protocol, transport: &Transport) -> Option<()> {
        let Some(port) = &transport.destination_port else {
            self.whole.push(Ports::Protocol(protocol));
            return Some(());
        };
        match (port.number, &port.range) {
            (Some(number), _) => self.range(protocol, number, number),
            (None, Some(range)) => self.range(protocol, range.start, range.end),
            (None, None) => None,
        }
    }
}
