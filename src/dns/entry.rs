//! What the cluster's names say of one service; pure.

use crate::name::Name;
use api::core::Service;
use api::slim::EndpointSlice;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

/// A named port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Port {
    name: String,
    /// Lower case, as in `_tcp`.
    protocol: String,
    pub(crate) number: u16,
}

impl Port {
    /// Whether it is the one of this name and protocol; every port is what no wish asks for.
    pub(crate) fn is_wished(&self, wish: Option<(&[u8], &[u8])>) -> bool {
        wish.is_none_or(|(name, protocol)| wanted(Some(name), protocol)(self))
    }
}

/// Ports of a name, if one is given, and a protocol.
pub(crate) fn wanted<'a>(name: Option<&'a [u8]>, protocol: &'a [u8]) -> impl Fn(&Port) -> bool + 'a {
    move |port| {
        let named = name.is_none_or(|name| !name.is_empty() && port.name.as_bytes() == name);
        named && port.protocol.as_bytes() == protocol
    }
}

/// One endpoint of a headless service.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Host {
    pub(crate) label: Box<[u8]>,
    pub(crate) address: IpAddr,
    pub(crate) ports: Arc<[Port]>,
}

/// What a service's name leads to.
#[derive(Debug)]
pub(crate) enum Entry {
    Cluster {
        addresses: Vec<IpAddr>,
        ports: Arc<[Port]>,
    },
    /// Ordered by label.
    Headless(Vec<Host>),
    External(Box<Name>),
    /// An external name that is an address or no name: nothing can be said about it.
    Nowhere,
}

impl Entry {
    /// None for a service that is not complete.
    pub(crate) fn of(service: &Service, slices: &[&EndpointSlice]) -> Option<Self> {
        let spec = service.spec.as_ref()?;
        if spec.type_.as_deref() == Some("ExternalName") {
            let target = spec.external_name.as_deref()?;
            let name = Name::parse(target).filter(|name| !name.is_root());
            let address = target.parse::<IpAddr>().is_ok();
            return Some(
                name.filter(|_| !address).map_or(Self::Nowhere, |name| Self::External(Box::new(name))),
            );
        }
        let texts = || spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip);
        if texts().any(|text| text == "None") {
            let hosts: BTreeSet<Host> = slices.iter().flat_map(|slice| hosts(slice)).collect();
            return Some(Self::Headless(hosts.into_iter().collect()));
        }
        let addresses: BTreeSet<IpAddr> = texts().filter_map(|text| text.parse().ok()).collect();
        let ports = spec.ports.iter().flatten();
        let ports = ports
            .filter_map(|port| named_port(port.name.as_deref(), port.protocol.as_deref(), Some(port.port)));
        Some(Self::Cluster { addresses: addresses.into_iter().collect(), ports: ports.collect() })
    }

    pub(crate) fn has_port(&self, wanted: impl Fn(&Port) -> bool) -> bool {
        match self {
            Self::Cluster { ports, .. } => ports.iter().any(wanted),
            Self::Headless(hosts) => hosts.iter().any(|host| host.ports.iter().any(&wanted)),
            Self::External(_) | Self::Nowhere => false,
        }
    }

    /// What SRV records lead to: the label in front of the service's name, with its length and empty
    /// for the service itself, its addresses and ports.
    pub(crate) fn targets(&self) -> Vec<(Vec<u8>, Vec<IpAddr>, Vec<Port>)> {
        match self {
            Self::Cluster { addresses, ports } => vec![(Vec::new(), addresses.clone(), ports.to_vec())],
            // A host of two families has two slices, and one name.
            Self::Headless(hosts) => hosts
                .chunk_by(|one, next| one.label == next.label)
                .map(|same| {
                    let length = u8::try_from(same[0].label.len()).unwrap_or_default();
                    let label = [&[length], &*same[0].label].concat();
                    let addresses: BTreeSet<IpAddr> = same.iter().map(|host| host.address).collect();
                    let ports: BTreeSet<&Port> = same.iter().flat_map(|host| host.ports.iter()).collect();
                    (label, addresses.into_iter().collect(), ports.into_iter().cloned().collect())
                })
                .collect(),
            Self::External(_) | Self::Nowhere => Vec::new(),
        }
    }
}

fn named_port(name: Option<&str>, protocol: Option<&str>, number: Option<i32>) -> Option<Port> {
    let protocol = protocol.unwrap_or("TCP").to_ascii_lowercase();
    let name = name.unwrap_or_default().to_ascii_lowercase();
    Some(Port { name, protocol, number: u16::try_from(number?).ok()? })
}

/// The endpoints of a slice that are ready; a slice says so of all of them where its service has
/// `publishNotReadyAddresses`.
fn hosts(slice: &EndpointSlice) -> Vec<Host> {
    let ports = slice.ports.iter().flatten();
    let ports: Arc<[Port]> = ports
        .filter_map(|port| named_port(port.name.as_deref(), port.protocol.as_deref(), port.port))
        .collect();
    let ready = slice
        .endpoints
        .iter()
        .flatten()
        .filter(|endpoint| endpoint.conditions.and_then(|conditions| conditions.ready).unwrap_or(true));
    let hosts = ready.flat_map(|endpoint| {
        endpoint.addresses.iter().filter_map(|text| {
            let address: IpAddr = text.parse().ok()?;
            let dashed = || address.to_string().replace(['.', ':'], "-");
            let named = endpoint.hostname.as_deref().filter(|name| !name.is_empty() && name.len() < 64);
            let label = named.map_or_else(dashed, str::to_ascii_lowercase);
            Some(Host { label: label.into_bytes().into(), address, ports: ports.clone() })
        })
    });
    hosts.collect()
}
