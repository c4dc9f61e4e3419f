//! What the kernel's maps hold, as plain values, and the difference between two of them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// A transport protocol that services can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
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
}

/// Where a service is reached: at an address, or at a port of every address of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Front {
    Address(IpAddr, Protocol, u16),
    Port(Protocol, u16),
}

impl Front {
    pub(crate) fn protocol(self) -> Protocol {
        match self {
            Self::Address(_, protocol, _) | Self::Port(protocol, _) => protocol,
        }
    }
}

/// Where a connection is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Endpoint {
    pub(crate) address: IpAddr,
    pub(crate) port: u16,
}

/// The chain that sends a connection on: one for each number of endpoints, not for each service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Spread {
    /// Whether the front is a [`Front::Port`], which decides the key of the endpoints' map.
    pub(crate) port: bool,
    /// Among how many endpoints.
    pub(crate) endpoints: u16,
    /// Whether clients stay with an endpoint (`sessionAffinity: ClientIP`).
    pub(crate) sticky: bool,
    /// Whether endpoints see the node's address instead of the client's.
    pub(crate) masquerade: bool,
}

/// An element's set or map, and its key there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Key {
    /// Leads a front to its chain.
    Service(Front),
    /// The n-th endpoint of a front.
    Endpoint(Front, u16),
    /// A front without an endpoint it may use.
    Refused(Front),
    /// A front that remembers its clients.
    Sticky(Front),
    /// A pod on this node that may be sent its own connections.
    Hairpin(IpAddr),
}

/// What a map holds under a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Value {
    Spread(Spread),
    Endpoint(Endpoint),
    /// The client is told.
    Reject,
    /// The client is not told, as another node may have an endpoint (traffic policy Local).
    Drop,
    /// For so many seconds.
    Remember(u32),
    /// A set has no values.
    Present,
}

/// Everything that should be in the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Model(pub(crate) BTreeMap<Key, Value>);

/// What leads from one model to another.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Difference {
    pub(crate) add_timeouts: BTreeSet<u32>,
    pub(crate) remove_timeouts: BTreeSet<u32>,
    pub(crate) delete: Vec<Key>,
    pub(crate) add: Vec<(Key, Value)>,
    /// Endpoints that a front no longer has: connections that stick to them have to be forgotten.
    pub(crate) gone: BTreeSet<(Front, Endpoint)>,
}

impl Difference {
    /// Whether it changes where connections of a protocol lead.
    pub(crate) fn touches(&self, protocol: Protocol) -> bool {
        let keys = self.delete.iter().chain(self.add.iter().map(|(key, _)| key));
        let mut fronts = keys.filter_map(|key| match key {
            Key::Service(front) | Key::Endpoint(front, _) | Key::Refused(front) => Some(front),
            Key::Sticky(_) | Key::Hairpin(_) => None,
        });
        fronts.any(|front| front.protocol() == protocol)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.delete.is_empty() && self.add.is_empty()
    }
}

impl Model {
    /// Adds an element unless the key is taken: of two services that claim one front, the first in
    /// the order of their names has it.
    pub(crate) fn claim(&mut self, key: Key, value: Value) -> bool {
        match self.0.entry(key) {
            std::collections::btree_map::Entry::Occupied(_) => false,
            std::collections::btree_map::Entry::Vacant(entry) => {
                entry.insert(value);
                true
            }
        }
    }

    /// The largest number of endpoints that a front has.
    pub(crate) fn widest(&self) -> u16 {
        let values = self.0.values();
        let widths =
            values.filter_map(
                |value| if let Value::Spread(spread) = value { Some(spread.endpoints) } else { None },
            );
        widths.max().unwrap_or(0)
    }

    /// For how long clients are remembered, each duration once.
    pub(crate) fn timeouts(&self) -> BTreeSet<u32> {
        let values = self.0.values();
        values.filter_map(|value| if let Value::Remember(s) = value { Some(*s) } else { None }).collect()
    }

    pub(crate) fn has_endpoint(&self, front: Front, endpoint: Endpoint) -> bool {
        let all = self.0.range(Key::Endpoint(front, 0)..=Key::Endpoint(front, u16::MAX));
        all.into_iter().any(|(_, value)| *value == Value::Endpoint(endpoint))
    }

    /// What has to be done to a kernel that holds `old`.
    pub(crate) fn diff(&self, old: &Self) -> Difference {
        let mut difference = Difference::default();
        for (key, value) in &old.0 {
            if self.0.get(key) == Some(value) {
                continue;
            }
            difference.delete.push(*key);
            if let (Key::Endpoint(front, _), Value::Endpoint(endpoint)) = (key, value)
                && !self.has_endpoint(*front, *endpoint)
            {
                difference.gone.insert((*front, *endpoint));
            }
        }
        let changed = self.0.iter().filter(|(key, value)| old.0.get(key) != Some(value));
        difference.add = changed.map(|(key, value)| (*key, *value)).collect();
        if !difference.is_empty() {
            let (timeouts, old_timeouts) = (self.timeouts(), old.timeouts());
            difference.add_timeouts = timeouts.difference(&old_timeouts).copied().collect();
            difference.remove_timeouts = old_timeouts.difference(&timeouts).copied().collect();
        }
        difference
    }
}
