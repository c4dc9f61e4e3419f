//! What leads from this machine to others: links that carry packets in packets (tunnels), and routes.
//!
//! A [`Mesh`] says what there is to be. [`apply`] looks at what the kernel has and changes the
//! difference, so that what a crash left or somebody took is mended by doing it again. It owns the links
//! of [`TUNNELS`], everything on them, and those routes with knarr's number that have a gateway or lead
//! into a tunnel.

mod kernel;
mod watch;

pub use kernel::{Applied, apply, direct_links};
pub(crate) use kernel::{foreign, kind_by_name, kind_of, mtu_of};
pub use watch::Watch;

use crate::Cidr;
use crate::wireguard::Wireguard;
use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The names of the links that may be tunnels of knarr's.
pub const TUNNELS: [&str; 3] = [VXLAN, VXLAN_V6, WIREGUARD];
/// VXLAN between addresses of IPv4.
pub const VXLAN: &str = "knarr-vxlan";
/// VXLAN between addresses of IPv6.
pub const VXLAN_V6: &str = "knarr-vxlan6";
/// WireGuard.
pub const WIREGUARD: &str = "knarr-wg";

/// A link's own address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// The address of the machine that has a block: whoever knows the block knows it. It is one of those that are
    /// given locally, and different for blocks that do not overlap and, of IPv6, are of one length.
    pub fn of(block: &Cidr) -> Self {
        let (mark, number) = match block.address() {
            IpAddr::V4(address) => (0x04, address.octets()),
            IpAddr::V6(address) => {
                let end = 128 - u32::from(block.prefix());
                let bits = address.to_bits().checked_shr(end).unwrap_or(0) & u128::from(u32::MAX);
                (0x06, last_four(bits))
            }
        };
        let [a, b, c, d] = number;
        Self([0x02, mark, a, b, c, d])
    }

    /// From what the kernel says.
    fn read(bytes: &[u8]) -> Option<Self> {
        Some(Self(bytes.try_into().ok()?))
    }
}

/// The last four bytes of a number.
fn last_four(bits: u128) -> [u8; 4] {
    let bytes = bits.to_be_bytes();
    [bytes[12], bytes[13], bytes[14], bytes[15]]
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// See the module's comment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mesh {
    /// Tunnels; those of knarr's that are not among them go.
    pub tunnels: Vec<Tunnel>,
    /// How other machines' blocks are reached.
    pub routes: BTreeMap<Cidr, Route>,
}

/// A link that carries packets in packets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// One of [`TUNNELS`].
    pub name: &'static str,
    /// What fits into it.
    pub mtu: u32,
    /// Whether it carries packets of IPv6.
    pub v6: bool,
    /// How it carries them.
    pub kind: Kind,
}

/// How packets are carried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// In UDP, as they are (RFC 7348).
    Vxlan(Vxlan),
    /// In UDP, encrypted.
    Wireguard(Wireguard),
}

/// The ends of a VXLAN. Nothing is learned from packets: who is where is said here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vxlan {
    /// The network's number (VNI).
    pub id: u32,
    /// The port of all machines.
    pub port: u16,
    /// This machine's address.
    pub local: IpAddr,
    /// This end's own link address.
    pub mac: Mac,
    /// The link addresses of the next hops of routes.
    pub neighbours: BTreeMap<IpAddr, Mac>,
    /// The machines that have those.
    pub ends: BTreeMap<Mac, IpAddr>,
}

/// The first step to a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The link.
    pub out: Out,
    /// The next hop on it; none where the link itself knows.
    pub via: Option<IpAddr>,
    /// The address that the machine itself sends from.
    pub source: Option<IpAddr>,
}

/// A link by what is known of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Out {
    /// A tunnel's name.
    Tunnel(&'static str),
    /// The number of a link of the machine's.
    Link(u32),
}

impl Mesh {
    /// Its end of WireGuard.
    fn wireguard(&self) -> Option<&Wireguard> {
        self.tunnels.iter().find_map(|tunnel| match &tunnel.kind {
            Kind::Wireguard(own) => Some(own),
            Kind::Vxlan(_) => None,
        })
    }
}

/// What has to be set, and what has to go, for `found` to become `wanted`.
fn difference<K: Ord + Clone, V: PartialEq + Clone>(
    wanted: &BTreeMap<K, V>,
    found: &BTreeMap<K, V>,
) -> (Vec<(K, V)>, Vec<K>) {
    let set = wanted.iter().filter(|(key, value)| found.get(key) != Some(value));
    let gone = found.keys().filter(|key| !wanted.contains_key(key));
    (set.map(|(key, value)| (key.clone(), value.clone())).collect(), gone.cloned().collect())
}

/// An address from its bytes.
pub(crate) fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).into()),
        16 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into()),
        _ => None,
    }
}

impl fmt::Display for Mesh {
    /// A line for each thing, as `ip` and `bridge` would say it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for tunnel in &self.tunnels {
            tunnel.fmt(f)?;
        }
        for (block, route) in &self.routes {
            write!(f, "route {block}")?;
            route.via.iter().try_for_each(|via| write!(f, " via {via}"))?;
            match route.out {
                Out::Tunnel(name) => write!(f, " dev {name}")?,
                Out::Link(index) => write!(f, " dev if{index}")?,
            }
            route.source.iter().try_for_each(|source| write!(f, " src {source}"))?;
            writeln!(f)?;
        }
        Ok(())
    }
}

impl fmt::Display for Tunnel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, mtu, kind, .. } = self;
        match kind {
            Kind::Vxlan(own) => {
                let Vxlan { id, port, local, mac, .. } = own;
                writeln!(
                    f,
                    "link {name} mtu {mtu} address {mac} type vxlan id {id} local {local} dstport {port}"
                )?;
                own.neighbours
                    .iter()
                    .try_for_each(|(to, mac)| writeln!(f, "neigh {to} lladdr {mac} dev {name}"))?;
                own.ends.iter().try_for_each(|(mac, to)| writeln!(f, "fdb {mac} dst {to} dev {name}"))
            }
            Kind::Wireguard(own) => {
                writeln!(f, "link {name} mtu {mtu} type wireguard listen-port {}", own.port)?;
                own.peers.iter().try_for_each(|(key, peer)| writeln!(f, "peer {key} {peer} dev {name}"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_addresses_follow_from_blocks() {
        let mac = |block: &str| Mac::of(&block.parse().unwrap()).to_string();
        assert_eq!(mac("10.42.7.0/24"), "02:04:0a:2a:07:00");
        assert_eq!(mac("fd00:42:0:7::/64"), "02:06:00:00:00:07");
        assert_eq!(mac("fd00:42:0:107::/64"), "02:06:00:00:01:07");
        assert_eq!(mac("::/0"), "02:06:00:00:00:00");
    }

    #[test]
    fn only_what_differs_is_done() {
        let wanted = BTreeMap::from([(1, "a"), (2, "b"), (3, "c")]);
        let found = BTreeMap::from([(1, "a"), (2, "other"), (4, "d")]);
        assert_eq!(difference(&wanted, &found), (vec![(2, "b"), (3, "c")], vec![4]));
    }
}
