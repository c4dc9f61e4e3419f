//! Services of type LoadBalancer get addresses of their own, of configured ranges, and each address a node that
//! answers for it on its link; pure.

use crate::load_balancer::{Decision, Port, is_local, ports};
use api::Object;
use api::balancing::{announced, told};
use api::core::Service;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::sync::Arc;

/// Services with the same value of this annotation may have one address together, each with ports of its own.
const SHARE: &str = "knarr.io/lb-share";

/// Addresses from one to another, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct AddressRange {
    first: IpAddr,
    last: IpAddr,
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    }
}

fn next(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(address) => address.to_bits().checked_add(1).map(|bits| Ipv4Addr::from_bits(bits).into()),
        IpAddr::V6(address) => address.to_bits().checked_add(1).map(|bits| Ipv6Addr::from_bits(bits).into()),
    }
}

/// The ends of a block; of IPv4 without the network's own address and that of everybody in it.
fn ends(address: IpAddr, bits: u8) -> Option<(IpAddr, IpAddr)> {
    match address {
        IpAddr::V4(address) if bits <= 32 => {
            let host = u32::MAX.checked_shr(bits.into()).unwrap_or(0);
            let (first, last) = (address.to_bits() & !host, address.to_bits() | host);
            let spare = u32::from(bits < 31);
            Some((Ipv4Addr::from_bits(first + spare).into(), Ipv4Addr::from_bits(last - spare).into()))
        }
        IpAddr::V6(address) if bits <= 128 => {
            let host = u128::MAX.checked_shr(bits.into()).unwrap_or(0);
            let (first, last) = (address.to_bits() & !host, address.to_bits() | host);
            Some((Ipv6Addr::from_bits(first).into(), Ipv6Addr::from_bits(last).into()))
        }
        _ => None,
    }
}

impl FromStr for AddressRange {
    type Err = String;

    /// `FIRST-LAST`, a block, or one address.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no block and no FIRST-LAST of addresses");
        let address = |part: &str| part.trim().parse::<IpAddr>().map_err(|_| wrong());
        let (first, last) = if let Some((first, last)) = text.split_once('-') {
            (address(first)?, address(last)?)
        } else if let Some((base, bits)) = text.split_once('/') {
            ends(address(base)?, bits.parse().map_err(|_| wrong())?).ok_or_else(wrong)?
        } else {
            (address(text)?, address(text)?)
        };
        let right = first.is_ipv4() == last.is_ipv4() && number(first) <= number(last);
        right.then_some(Self { first, last }).ok_or_else(wrong)
    }
}

impl TryFrom<String> for AddressRange {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { first, last } = self;
        if first == last { write!(f, "{first}") } else { write!(f, "{first}-{last}") }
    }
}

impl AddressRange {
    /// Its first and its last address.
    pub fn ends(&self) -> [IpAddr; 2] {
        [self.first, self.last]
    }

    /// Whether an address is in it.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.first.is_ipv4() == address.is_ipv4()
            && (number(self.first)..=number(self.last)).contains(&number(address))
    }

    fn addresses(self) -> impl Iterator<Item = IpAddr> {
        let up_to = move |address: &IpAddr| next(*address).filter(|next| self.contains(*next));
        std::iter::successors(Some(self.first), up_to)
    }
}

/// A Service that has an address.
struct Holder<'a> {
    service: &'a Service,
    ports: BTreeSet<Port>,
}

fn share(service: &Service) -> Option<&str> {
    service.annotations().get(SHARE).map(String::as_str).filter(|key| !key.is_empty())
}

fn selector(service: &Service) -> Option<&BTreeMap<String, String>> {
    service.spec.as_ref()?.selector.as_ref()
}

impl Holder<'_> {
    /// Why another Service cannot have the address as well.
    fn refuses(&self, address: IpAddr, other: &Self) -> Option<String> {
        let own = format!("the Service {}/{}", self.service.namespace(), self.service.name());
        if share(self.service).is_none() || share(self.service) != share(other.service) {
            return Some(format!("{address} is the address of {own}"));
        }
        if let Some(port) = self.ports.intersection(&other.ports).next() {
            return Some(format!("{}/{} of {address} is a port of {own}", port.number, port.protocol));
        }
        // One node answers for the address, and has to have the endpoints of both.
        let local = is_local(self.service) || is_local(other.service);
        (local && selector(self.service) != selector(other.service)).then(|| {
            format!("{address} is the address of {own}, and with externalTrafficPolicy Local it is shared for the same pods alone")
        })
    }
}

/// Who has which address.
pub(crate) struct Pool<'a> {
    ranges: &'a [AddressRange],
    /// Addresses of nodes, which are not given even if they lie in a range.
    nodes: BTreeSet<IpAddr>,
    held: BTreeMap<IpAddr, Vec<Holder<'a>>>,
}

fn families(service: &Service) -> Vec<bool> {
    let given = service.spec.iter().flat_map(|spec| spec.ip_families.iter().flatten());
    let given: Vec<bool> = given.map(|family| family == "IPv4").collect();
    if given.is_empty() { vec![true] } else { given }
}

/// `spec.loadBalancerIP`, also one that cannot be read.
pub(crate) fn asked(service: &Service) -> Option<Result<IpAddr, &str>> {
    let text = service.spec.as_ref()?.load_balancer_ip.as_deref().filter(|text| !text.is_empty())?;
    Some(text.parse().map_err(|_| text))
}

impl<'a> Pool<'a> {
    pub(crate) fn new(ranges: &'a [AddressRange], nodes: BTreeSet<IpAddr>) -> Self {
        Self { ranges, nodes, held: BTreeMap::new() }
    }

    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        self.ranges.iter().any(|range| range.contains(address)) && !self.nodes.contains(&address)
    }

    /// Gives Services their addresses: those first that have one already, so that nobody loses one to another.
    pub(crate) fn give(&mut self, services: &[&'a Arc<Service>]) -> BTreeMap<(String, String), Decision> {
        let has = |service: &Service| told(service).iter().any(|address| self.contains(*address));
        let (holding, others): (Vec<&Arc<Service>>, _) =
            services.iter().copied().partition(|service| has(service));
        let all = holding.into_iter().chain::<Vec<_>>(others);
        all.map(|service| {
            let key = (service.namespace().to_owned(), service.name().to_owned());
            (key, self.decide(service))
        })
        .collect()
    }

    fn decide(&mut self, service: &'a Service) -> Decision {
        let mut decision = Decision { balanced: true, ..Decision::default() };
        let asked = match asked(service).transpose() {
            Ok(asked) => asked,
            Err(text) => {
                decision.refused = Some(format!("spec.loadBalancerIP {text:?} is no address"));
                return decision;
            }
        };
        for v4 in families(service) {
            let holder = Holder { service, ports: ports(service) };
            let own = asked.filter(|address| address.is_ipv4() == v4);
            match own.map_or_else(|| self.find(&holder, v4), |own| self.want(&holder, own)) {
                Ok(Some(address)) => {
                    self.held.entry(address).or_default().push(holder);
                    decision.addresses.push(address);
                }
                Ok(None) => {}
                Err(why) => decision.refused = Some(why),
            }
        }
        if decision.addresses.is_empty() && decision.refused.is_none() {
            decision.refused = Some("--lb-range has no address of its families".to_owned());
        }
        decision
    }

    fn refusal(&self, address: IpAddr, holder: &Holder<'_>) -> Option<String> {
        self.held.get(&address).into_iter().flatten().find_map(|held| held.refuses(address, holder))
    }

    fn want(&self, holder: &Holder<'_>, address: IpAddr) -> Result<Option<IpAddr>, String> {
        if !self.contains(address) {
            return Err(format!("spec.loadBalancerIP {address} is in no range of --lb-range"));
        }
        self.refusal(address, holder).map_or(Ok(Some(address)), Err)
    }

    /// What the Service has, what others share with it, or the first that nobody has; nothing where there is no
    /// range of the family.
    fn find(&self, holder: &Holder<'_>, v4: bool) -> Result<Option<IpAddr>, String> {
        let own = told(holder.service).into_iter().filter(|own| own.is_ipv4() == v4 && self.contains(*own));
        let shared = self.held.keys().copied().filter(|address| address.is_ipv4() == v4);
        let shared = shared.filter(|_| share(holder.service).is_some());
        let mut known = own.chain(shared);
        if let Some(address) = known.find(|address| self.refusal(*address, holder).is_none()) {
            return Ok(Some(address));
        }
        let ranges = || self.ranges.iter().filter(|range| range.first.is_ipv4() == v4);
        let mut free = ranges().flat_map(|range| range.addresses());
        let free = free.find(|address| !self.held.contains_key(address) && !self.nodes.contains(address));
        match free {
            None if ranges().next().is_some() => Err("No address of --lb-range is free".to_owned()),
            free => Ok(free),
        }
    }

    /// Which node answers for which address: the one that does already, as long as it may, or another that is
    /// always the same one, so that addresses are spread over nodes.
    pub(crate) fn announcers(
        &self,
        nodes_of: impl Fn(&Service) -> BTreeSet<String>,
    ) -> BTreeMap<IpAddr, String> {
        let announcer = |(address, holders): (&IpAddr, &Vec<Holder<'_>>)| {
            let mut may = holders.iter().map(|holder| nodes_of(holder.service));
            let first = may.next()?;
            let may = may.fold(first, |all, own| all.intersection(&own).cloned().collect());
            let now = holders.iter().find_map(|holder| announced(holder.service).remove(address));
            let now = now.filter(|node| may.contains(node));
            let node =
                now.or_else(|| may.into_iter().max_by_key(|node| weight(&format!("{address} {node}"))))?;
            Some((*address, node))
        };
        self.held.iter().filter_map(announcer).collect()
    }
}

/// FNV-1a, so that an address' node does not change with a version.
fn weight(text: &str) -> u64 {
    text.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// The text of [`api::balancing::ANNOUNCED_BY`], which nodes' proxies read.
pub(crate) fn annotation(announced: &BTreeMap<IpAddr, String>) -> Option<String> {
    let pairs: Vec<String> = announced.iter().map(|(address, node)| format!("{address}={node}")).collect();
    (!pairs.is_empty()).then(|| pairs.join(","))
}
