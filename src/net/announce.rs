//! Addresses that this machine answers for on its links without having them: the kernel says so to who asks by
//! ARP or NDP, as long as there is an entry for the address on the link, and it is routed elsewhere. What arrives
//! for them is translated before it is routed; what is not goes to the portless device, where it ends.
//!
//! Both outlive this process: a restart is not noticed. Entries and routes carry knarr's number. So does the table
//! `knarr-announce`, by which the kernel itself hears that another machine has taken an address over.

use crate::netlink::{
    self, Link, Netlink, ROUTE_PROTOCOL, neighbour_address, refused, route_address, unless,
};
use crate::nft::{self, Table, Transaction};
use crate::node::{DEVICE, LINK_PREFIX};
use crate::{Cidr, Error, hearing, sysctl};
use futures_util::TryStreamExt;
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn6, SockaddrLike, sendto,
    setsockopt, socket, sockopt,
};
use rtnetlink::packet_route::AddressFamily as Family;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::neighbour::{NeighbourAttribute, NeighbourFlags, NeighbourMessage};
use rtnetlink::packet_route::route::{RouteAttribute, RouteProtocol};
use rtnetlink::sys::TokioSocket;
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV6};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

/// The groups of what is said of links, and of addresses of both families, as bits.
const LINKS: u32 = 1;
const ADDRESSES: u32 = 0x110;

/// For so long nothing is said when a link is up.
const SETTLED: Duration = Duration::from_millis(300);

/// Answers for an address on each link that has a network which the address is in, until it is withdrawn, and
/// tells everybody there. Gives the names of the links: none if there is none.
pub async fn announce(address: IpAddr) -> Result<Vec<String>, Error> {
    let links = netlink::with(None, async |netlink| {
        let links = netlink.links_around(address).await?;
        if !links.is_empty() {
            let device = netlink.known_link(DEVICE).await?;
            netlink.route_to_link(Cidr::single(address), &device, None).await?;
        }
        for link in &links {
            netlink.add_proxy(link, address).await?;
        }
        Ok(links)
    })
    .await?;
    for link in &links {
        settle(link, address)?;
    }
    tell(address, links.clone()).await?;
    Ok(links.into_iter().map(|link| link.name).collect())
}

/// The kernel answers for others at once, not after a moment that it throws dice for, and for IPv6 at all.
fn settle(link: &Link, address: IpAddr) -> Result<(), Error> {
    if address.is_ipv4() {
        return sysctl::set(&format!("ipv4/neigh/{}/proxy_delay", link.name), "0");
    }
    sysctl::set(&format!("ipv6/neigh/{}/proxy_delay", link.name), "0")?;
    sysctl::set(&format!("ipv6/conf/{}/proxy_ndp", link.name), "1")
}

/// Tells everybody on the links again: the first time may have been lost.
pub async fn remind(address: IpAddr) -> Result<(), Error> {
    let links = netlink::with(None, async |netlink| netlink.links_around(address).await).await?;
    tell(address, links).await
}

/// Has the kernel fall silent about those of these addresses that another machine tells everybody are its own, as one
/// does that takes over: also when nobody looks after this machine any more. Whatever was heard before is forgotten.
pub async fn yield_to_others(addresses: &BTreeSet<IpAddr>) -> Result<(), Error> {
    let links = netlink::with(None, async |netlink| netlink.links().await).await?;
    let own: BTreeSet<String> =
        links.into_iter().map(|link| link.mac).filter(|mac| mac.len() == 17).collect();
    for table in [arp_table(addresses, &own), ndp_table(addresses)] {
        let mut transaction = Transaction::default();
        if table.sets.iter().all(|set| set.elements.is_empty()) {
            transaction.remove_table(table.family, table.name);
        } else {
            transaction.replace_table(&table);
        }
        nft::apply(&transaction).await?;
    }
    Ok(())
}

const TABLE: &str = "knarr-announce";

/// More addresses than a node answers for.
const MOST: usize = 4_096;

fn sets(kind: &str, elements: Vec<String>) -> Vec<nft::Set> {
    let taken = vec![kind.to_owned(), format!("size {MOST}"), "flags dynamic".to_owned()];
    vec![
        nft::Set { kind: "set", name: "announced", declaration: vec![kind.to_owned()], elements },
        nft::Set { kind: "set", name: "taken", declaration: taken, elements: Vec::new() },
    ]
}

/// What this machine says itself may come back to it on some links.
fn arp_table(addresses: &BTreeSet<IpAddr>, own: &BTreeSet<String>) -> Table {
    let elements: Vec<String> = addresses.iter().filter(|ip| ip.is_ipv4()).map(IpAddr::to_string).collect();
    let own = own.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
    let others = if own.is_empty() { String::new() } else { format!("arp saddr ether != {{ {own} }} ") };
    let rules = [
        format!("arp saddr ip @announced {others}add @taken {{ arp saddr ip }}"),
        "arp operation request arp daddr ip @taken drop".to_owned(),
    ];
    let chain = nft::Chain::base("input", "type filter hook input priority 0", rules);
    Table { family: "arp", name: TABLE, sets: sets("type ipv4_addr", elements), chains: vec![chain] }
}

/// The address that a neighbour's message is about stands behind eight bytes.
fn ndp_table(addresses: &BTreeSet<IpAddr>) -> Table {
    let number = |address: &IpAddr| match address {
        IpAddr::V6(address) => Some(format!("{:#x}", address.to_bits())),
        IpAddr::V4(_) => None,
    };
    let elements: Vec<String> = addresses.iter().filter_map(number).collect();
    let rules = [
        "icmpv6 type nd-neighbor-advert fib saddr type != local @th,64,128 @announced add @taken { @th,64,128 }",
        "icmpv6 type nd-neighbor-solicit @th,64,128 @taken drop",
    ];
    let chain = nft::Chain::base("input", "type filter hook input priority -5", rules);
    Table { family: "ip6", name: TABLE, sets: sets("typeof @th,64,128", elements), chains: vec![chain] }
}

/// Hears of links and of their addresses: with a link that goes down goes what is answered for on it, and a network
/// that comes may be an address' own.
pub struct Links(TokioSocket);

impl Links {
    /// From now on.
    pub fn listen() -> Result<Self, Error> {
        hearing::hearing(NETLINK_ROUTE, LINKS | ADDRESSES).map(Self)
    }

    /// Completes when something changed, and is over.
    pub async fn changed(&self) -> Result<(), Error> {
        hearing::next(&self.0).await?;
        hearing::quiet(&self.0, SETTLED).await
    }
}

/// Answers no longer.
pub async fn withdraw(address: IpAddr) -> Result<(), Error> {
    netlink::with(None, async |netlink| {
        for (link, own) in netlink.proxies(address.is_ipv4()).await? {
            if own == address {
                netlink.remove_proxy(link, address).await?;
            }
        }
        netlink.remove_routes_to(Cidr::single(address)).await
    })
    .await
}

/// For which addresses this machine answers by knarr's doing.
pub async fn announced() -> Result<Vec<IpAddr>, Error> {
    netlink::with(None, async |netlink| {
        let mut all: Vec<IpAddr> = Vec::new();
        for ipv4 in [true, false] {
            all.extend(netlink.proxies(ipv4).await?.into_iter().map(|(_, address)| address));
        }
        all.sort_unstable();
        all.dedup();
        Ok(all)
    })
    .await
}

/// The network that an address of a link is in.
fn network(message: &AddressMessage) -> Option<Cidr> {
    let address = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Address(address) => Some(*address),
        _ => None,
    });
    Cidr::new(address?, message.header.prefix_len)
}

impl Netlink {
    /// Links with a network that an address is in, without knarr's own.
    async fn links_around(&self, address: IpAddr) -> Result<Vec<Link>, Error> {
        let addresses = self.0.address().get().execute().try_collect::<Vec<_>>().await;
        let addresses = addresses.map_err(refused("listing addresses"))?;
        let around = |link: &Link| {
            let mut own = addresses.iter().filter(|message| message.header.index == link.index);
            own.any(|message| network(message).is_some_and(|network| network.contains(address)))
        };
        let links = self.links().await?;
        Ok(links.into_iter().filter(|link| !link.name.starts_with(LINK_PREFIX) && around(link)).collect())
    }

    async fn add_proxy(&self, link: &Link, address: IpAddr) -> Result<(), Error> {
        let mut request = self.0.neighbours().add(link.index, address).flags(NeighbourFlags::Proxy);
        let protocol = NeighbourAttribute::Protocol(RouteProtocol::Other(ROUTE_PROTOCOL));
        request.message_mut().attributes.push(protocol);
        let added = request.replace().execute().await;
        unless(added, &[Errno::EEXIST]).map_err(refused(format!("answering for {address} on {}", link.name)))
    }

    /// For which addresses it is answered on which links by knarr's doing.
    pub(crate) async fn proxies(&self, ipv4: bool) -> Result<Vec<(u32, IpAddr)>, Error> {
        let family = if ipv4 { Family::Inet } else { Family::Inet6 };
        let request = self.0.neighbours().get().set_address_family(family).proxies();
        let all = request.execute().try_collect::<Vec<_>>().await.map_err(refused("listing answers"))?;
        Ok(all.iter().filter_map(proxied).collect())
    }

    pub(crate) async fn remove_proxy(&self, link: u32, address: IpAddr) -> Result<(), Error> {
        let mut request = self.0.neighbours().add(link, address).flags(NeighbourFlags::Proxy);
        let message = request.message_mut().clone();
        let removed = self.0.neighbours().del(message).execute().await;
        unless(removed, &[Errno::ENOENT, Errno::ENODEV])
            .map_err(refused(format!("answering no longer for {address}")))
    }

    /// Those of knarr's.
    async fn remove_routes_to(&self, to: Cidr) -> Result<(), Error> {
        let own = route_address(to.address());
        for route in self.routes(to.is_ipv4()).await? {
            if route.header.protocol == RouteProtocol::Other(ROUTE_PROTOCOL)
                && route.header.destination_prefix_length == to.prefix()
                && route.attributes.contains(&RouteAttribute::Destination(own.clone()))
            {
                self.remove_route(route).await?;
            }
        }
        Ok(())
    }
}

/// The link and address of an entry, if it is knarr's.
fn proxied(message: &NeighbourMessage) -> Option<(u32, IpAddr)> {
    let own = NeighbourAttribute::Protocol(RouteProtocol::Other(ROUTE_PROTOCOL));
    let address = message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(address) => neighbour_address(address),
        _ => None,
    });
    message.attributes.contains(&own).then_some((message.header.ifindex, address?))
}

/// Puts the address' new place into everybody's tables.
async fn tell(address: IpAddr, links: Vec<Link>) -> Result<(), Error> {
    let sent = tokio::task::spawn_blocking(move || {
        links.iter().try_for_each(|link| match address {
            IpAddr::V4(address) => gratuitous_arp(link, address),
            IpAddr::V6(address) => unsolicited_advertisement(link, address),
        })
    });
    let what = format!("telling of {address}");
    let joined = sent.await.map_err(|error| Error::io(&what)(std::io::Error::other(error)))?;
    joined.map_err(|errno| Error::io(&what)(errno.into()))
}

fn mac(link: &Link) -> [u8; 6] {
    let mut bytes = [0; 6];
    for (byte, part) in bytes.iter_mut().zip(link.mac.split(':')) {
        *byte = u8::from_str_radix(part, 16).unwrap_or(0);
    }
    bytes
}

/// An announcement as RFC 5227 has it: a request for the address by who has it.
fn arp(mac: [u8; 6], address: Ipv4Addr) -> Vec<u8> {
    let head = [0, 1, 8, 0, 6, 4, 0, 1];
    [&head[..], &mac, &address.octets(), &[0; 6], &address.octets()].concat()
}

fn gratuitous_arp(link: &Link, address: Ipv4Addr) -> Result<(), Errno> {
    const ETH_P_ARP: u16 = 0x0806;
    let flags = SockFlag::SOCK_CLOEXEC;
    let socket: OwnedFd = socket(AddressFamily::Packet, SockType::Datagram, flags, None::<SockProtocol>)?;
    let to = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET.cast_unsigned().try_into().map_err(|_| Errno::EINVAL)?,
        sll_protocol: ETH_P_ARP.to_be(),
        sll_ifindex: link.index.cast_signed(),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 6,
        sll_addr: [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0],
    };
    let size = u32::try_from(size_of_val(&to)).ok();
    // SAFETY: the pointer is to a whole `sockaddr_ll`, whose family says so and whose length is given.
    #[expect(unsafe_code, reason = "nix has no other way to make an address of a link")]
    let to = unsafe { LinkAddr::from_raw((&raw const to).cast(), size) };
    let to = to.ok_or(Errno::EINVAL)?;
    sendto(socket.as_raw_fd(), &arp(mac(link), address), &to, MsgFlags::empty()).map(drop)
}

/// RFC 4861, 7.2.6: to all nodes, overriding what they know. The kernel fills in the checksum.
fn advertisement(mac: [u8; 6], address: Ipv6Addr) -> Vec<u8> {
    const ADVERTISEMENT: u8 = 136;
    const ROUTER_AND_OVERRIDE: u8 = 0xa0;
    let head = [ADVERTISEMENT, 0, 0, 0, ROUTER_AND_OVERRIDE, 0, 0, 0];
    [&head[..], &address.octets(), &[2, 1], &mac].concat()
}

fn unsolicited_advertisement(link: &Link, address: Ipv6Addr) -> Result<(), Errno> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let socket: OwnedFd = socket(AddressFamily::Inet6, SockType::Raw, flags, SockProtocol::IcmpV6)?;
    // Who gets one that has come over a router must not believe it.
    setsockopt(&socket, sockopt::Ipv6MulticastHops, &255)?;
    let to = SocketAddrV6::new(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1), 0, 0, link.index);
    let bytes = advertisement(mac(link), address);
    sendto(socket.as_raw_fd(), &bytes, &SockaddrIn6::from(to), MsgFlags::empty()).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_takes_an_address_over_is_heard_by_the_kernel() {
        let addresses = ["192.0.2.7", "2001:db8::7"].map(|text| text.parse().unwrap()).into();
        let own = ["02:00:00:00:00:01".to_owned()].into();
        let mut transaction = Transaction::default();
        transaction.replace_table(&arp_table(&addresses, &own));
        transaction.replace_table(&ndp_table(&addresses));
        assert_eq!(transaction.text(), include_str!("testdata/announce.nft"));
    }

    #[test]
    fn announcements_are_as_the_standards_have_them() {
        let mac = [2, 0, 0, 0, 0, 1];
        let bytes = arp(mac, Ipv4Addr::new(192, 0, 2, 7));
        assert_eq!(bytes[..8], [0, 1, 8, 0, 6, 4, 0, 1]);
        assert_eq!(bytes[8..], [2, 0, 0, 0, 0, 1, 192, 0, 2, 7, 0, 0, 0, 0, 0, 0, 192, 0, 2, 7]);
        let bytes = advertisement(mac, "2001:db8::7".parse().unwrap());
        assert_eq!(
            (bytes.len(), bytes[0], bytes[4], &bytes[24..]),
            (32, 136, 0xa0, &[2, 1, 2, 0, 0, 0, 0, 1][..])
        );
    }
}
