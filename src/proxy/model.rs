//! What the kernel's maps hold, as plain values.

use crate::family::Family;
use net::Cidr;
use std::net::IpAddr;
use std::sync::Arc;

/// A transport protocol that services can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    pub(crate) const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Sctp];

    /// From `spec.ports[].protocol`; TCP if it is not set.
    pub(crate) fn parse(name: Option<&str>) -> Option<Self> {
        match name {
            None | Some("TCP" | "") => Some(Self::Tcp),
            Some("UDP") => Some(Self::Udp),
            Some("SCTP") => Some(Self::Sctp),
            Some(_) => None,
        }
    }

    /// nft's name for it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }

    /// IANA's number for it.
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
}

/// Where a service is reached: at an address, or at a port of every address of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Front {
    Address(IpAddr, Protocol, u16),
    Port(Family, Protocol, u16),
}

impl Front {
    pub(crate) fn protocol(self) -> Protocol {
        match self {
            Self::Address(_, protocol, _) | Self::Port(_, protocol, _) => protocol,
        }
    }

    pub(crate) fn family(self) -> Family {
        match self {
            Self::Address(address, ..) => Family::of(address),
            Self::Port(family, ..) => family,
        }
    }
}

/// Where a connection is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Endpoint {
    pub(crate) address: IpAddr,
    pub(crate) port: u16,
}

/// Endpoints in their order, each once. Those of a service's fronts are mostly the same ones.
pub(crate) type Endpoints = Arc<[Endpoint]>;

/// The endpoints of one front at the most; those beyond, in the order of their addresses, get nothing.
pub(crate) const MOST_ENDPOINTS: u16 = 1 << 15;

/// What becomes of connections to a front.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// They are spread over these: at least one.
    Spread(Endpoints),
    /// The client is told that nobody is there.
    Reject,
    /// The client is not told, as another node may have an endpoint (traffic policy Local).
    Drop,
}

/// All that is to be known of a front.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Served {
    pub(crate) fate: Fate,
    /// Endpoints of what comes from pods and from this node itself, where `fate` is for others alone.
    pub(crate) inside: Endpoints,
    /// For how many seconds clients stay with their endpoint (`sessionAffinity: ClientIP`).
    pub(crate) sticky_s: Option<u32>,
    /// Whether endpoints see the node's address instead of the client's.
    pub(crate) masquerade: bool,
    /// Whether it is only at the addresses that were chosen for node ports.
    pub(crate) chosen: bool,
    /// Who may come (`loadBalancerSourceRanges`); everybody where it is empty.
    pub(crate) sources: Arc<[Cidr]>,
}

impl Served {
    pub(crate) fn with(fate: Fate) -> Self {
        Self {
            fate,
            inside: Endpoints::default(),
            sticky_s: None,
            masquerade: false,
            chosen: false,
            sources: Arc::default(),
        }
    }

    /// Every endpoint that somebody is sent to.
    pub(crate) fn endpoints(&self) -> impl Iterator<Item = Endpoint> {
        let outside = if let Fate::Spread(endpoints) = &self.fate { Some(endpoints) } else { None };
        outside.into_iter().flat_map(|all| all.iter()).chain(&*self.inside).copied()
    }
}

/// The chain that sends a connection on: one for each number of endpoints, not for each service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Spread {
    /// Whether the front is a [`Front::Port`], which decides the key of the endpoints' map.
    pub(crate) port: bool,
    /// Whether these are the endpoints of what comes from inside.
    pub(crate) inside: bool,
    pub(crate) protocol: Protocol,
    /// Among how many endpoints.
    pub(crate) endpoints: u16,
    pub(crate) sticky: bool,
    pub(crate) masquerade: bool,
    pub(crate) chosen: bool,
}

/// A chain that elements lead to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Chain {
    Spread(Spread),
    /// Remembers clients for so many seconds.
    Remember(u32),
}

/// An element's set or map, and its key there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Key {
    /// Leads a front to its chain.
    Service(Front),
    /// The same for what comes from pods and from this node itself.
    Inside(Front),
    /// The n-th endpoint of a front. Those of what comes from inside begin at [`MOST_ENDPOINTS`].
    Endpoint(Front, u16),
    /// A front without an endpoint it may use.
    Refused(Front),
    /// A front that remembers its clients.
    Sticky(Front),
    /// A front that not everybody may reach.
    Guarded(Front),
    /// Who may reach such a front.
    Source(Front, Cidr),
    /// A pod on this node that may be sent its own connections.
    Hairpin(IpAddr),
}

impl Key {
    /// The family of the table that it is in.
    pub(crate) fn family(self) -> Family {
        match self {
            Self::Service(front)
            | Self::Inside(front)
            | Self::Endpoint(front, _)
            | Self::Refused(front)
            | Self::Sticky(front)
            | Self::Guarded(front)
            | Self::Source(front, _) => front.family(),
            Self::Hairpin(address) => Family::of(address),
        }
    }
}

/// What a map holds under a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Value {
    Chain(Chain),
    Endpoint(Endpoint),
    /// Told, at the chosen addresses alone or at all.
    Reject {
        chosen: bool,
    },
    Drop {
        chosen: bool,
    },
    /// A set has no values.
    Present,
}

impl Value {
    pub(crate) fn chain(self) -> Option<Chain> {
        if let Self::Chain(chain) = self { Some(chain) } else { None }
    }
}

/// The elements of one front.
pub(crate) fn elements(front: Front, served: &Served) -> Vec<(Key, Value)> {
    let mut elements = Vec::new();
    let chosen = served.chosen;
    match &served.fate {
        Fate::Spread(endpoints) => {
            let spread = spread(front, served, (endpoints.len(), false));
            elements.push((Key::Service(front), Value::Chain(Chain::Spread(spread))));
            elements.extend(numbered(front, endpoints, 0));
        }
        Fate::Reject => elements.push((Key::Refused(front), Value::Reject { chosen })),
        Fate::Drop => elements.push((Key::Refused(front), Value::Drop { chosen })),
    }
    if !served.inside.is_empty() {
        let spread = spread(front, served, (served.inside.len(), true));
        elements.push((Key::Inside(front), Value::Chain(Chain::Spread(spread))));
        elements.extend(numbered(front, &served.inside, MOST_ENDPOINTS));
    }
    if let Some(timeout_s) = served.sticky_s.filter(|_| served.endpoints().next().is_some()) {
        elements.push((Key::Sticky(front), Value::Chain(Chain::Remember(timeout_s))));
    }
    if !served.sources.is_empty() {
        elements.push((Key::Guarded(front), Value::Present));
        elements.extend(served.sources.iter().map(|block| (Key::Source(front, *block), Value::Present)));
    }
    elements
}

fn spread(front: Front, served: &Served, (endpoints, inside): (usize, bool)) -> Spread {
    Spread {
        port: matches!(front, Front::Port(..)),
        inside,
        protocol: front.protocol(),
        endpoints: u16::try_from(endpoints).unwrap_or(u16::MAX).min(MOST_ENDPOINTS),
        sticky: served.sticky_s.is_some(),
        // What comes from the node itself is masqueraded by another rule, and pods need not be.
        masquerade: served.masquerade && !inside,
        chosen: served.chosen,
    }
}

fn numbered(front: Front, endpoints: &[Endpoint], from: u16) -> impl Iterator<Item = (Key, Value)> + '_ {
    let numbers = (0..MOST_ENDPOINTS).map(move |index| Key::Endpoint(front, from + index));
    numbers.zip(endpoints.iter().map(|endpoint| Value::Endpoint(*endpoint)))
}
