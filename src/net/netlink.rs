//! Links, addresses and routes. A netlink socket belongs to the namespace that it was made in.

use crate::shaping::Rate;
use crate::{Cidr, Error, namespace};
use futures_util::{StreamExt, TryStreamExt};
use nix::errno::Errno;
use rtnetlink::packet_core::{
    DefaultNla, ErrorMessage, NLM_F_ACK, NLM_F_CREATE, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage,
    NetlinkPayload,
};
use rtnetlink::packet_route::address::{AddressAttribute, AddressHeaderFlags};
use rtnetlink::packet_route::link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkMessage};
use rtnetlink::packet_route::neighbour::NeighbourAddress;
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use rtnetlink::packet_route::tc::{TcAttribute, TcHandle, TcMessage, TcOption};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::{
    Handle, LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder, new_connection,
};
use std::fs::File;
use std::net::IpAddr;
use std::os::fd::AsRawFd;

/// The routing protocol number that marks knarr's routes ("k"); `ip route` shows it as `proto 107`.
pub const ROUTE_PROTOCOL: u8 = 107;

/// Packets of every protocol (`linux/if_ether.h`).
const ETH_P_ALL: u16 = 3;

/// The metric of containing routes: any more specific or deliberate route wins over them.
const LAST_RESORT_METRIC: u32 = 1 << 30;

/// A netlink socket while [`with`] runs.
#[derive(Clone)]
pub(crate) struct Netlink(pub(crate) Handle);

/// A link as far as knarr looks at it.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) mac: String,
    pub(crate) mtu: u32,
    /// Whether those on it ask for one another's link addresses, as on an Ethernet.
    pub(crate) is_shared: bool,
}

/// Runs `work` with a netlink socket of the given namespace, the caller's own if none.
pub(crate) async fn with<T, Fut>(
    namespace: Option<&File>,
    work: impl FnOnce(Netlink) -> Fut,
) -> Result<T, Error>
where
    Fut: Future<Output = Result<T, Error>>,
{
    let open = || new_connection().map_err(Error::io("opening a netlink socket"));
    let (connection, handle, _messages) = match namespace {
        None => open()?,
        Some(namespace) => {
            let runtime = tokio::runtime::Handle::current();
            namespace::within(namespace, move || {
                let _entered = runtime.enter();
                open()
            })?
        }
    };
    tokio::select! {
        result = work(Netlink(handle)) => result,
        () = connection => Err(Error::Netlink { what: "netlink".into(), reason: "the socket was closed".into() }),
    }
}

pub(crate) fn refused(what: impl Into<String>) -> impl FnOnce(rtnetlink::Error) -> Error {
    let what = what.into();
    move |error| {
        let reason = match &error {
            rtnetlink::Error::NetlinkError(message) => message.to_io().to_string(),
            other => other.to_string(),
        };
        Error::Netlink { what, reason }
    }
}

pub(crate) fn errno(error: &rtnetlink::Error) -> i32 {
    let rtnetlink::Error::NetlinkError(ErrorMessage { code: Some(code), .. }) = error else { return 0 };
    -code.get()
}

/// Turns the given refusals into success: what was asked for is so already.
pub(crate) fn unless(result: Result<(), rtnetlink::Error>, fine: &[Errno]) -> Result<(), rtnetlink::Error> {
    match result {
        Err(error) if fine.iter().any(|fine| *fine as i32 == errno(&error)) => Ok(()),
        other => other,
    }
}

impl Netlink {
    /// The link of that name.
    pub(crate) async fn link(&self, name: &str) -> Result<Option<Link>, Error> {
        let found = self.0.link().get().match_name(name).execute().try_next().await;
        match found {
            Ok(message) => Ok(message.as_ref().map(link_of)),
            Err(error) if errno(&error) == Errno::ENODEV as i32 => Ok(None),
            Err(error) => Err(refused(format!("looking for link {name}"))(error)),
        }
    }

    /// All links.
    pub(crate) async fn links(&self) -> Result<Vec<Link>, Error> {
        let all = self.0.link().get().execute().try_collect::<Vec<_>>().await;
        Ok(all.map_err(refused("listing links"))?.iter().map(link_of).collect())
    }

    /// A bridge without ports, up; made if it is not there.
    pub(crate) async fn ensure_bridge(&self, name: &str, mtu: u32) -> Result<Link, Error> {
        let message = LinkBridge::new(name).build();
        let made = self.0.link().add(message).execute().await;
        unless(made, &[Errno::EEXIST]).map_err(refused(format!("adding bridge {name}")))?;
        let settings = LinkUnspec::new_with_name(name).mtu(mtu).up().build();
        let set = self.0.link().set(settings).execute().await;
        set.map_err(refused(format!("setting up bridge {name}")))?;
        self.known_link(name).await
    }

    /// A veth pair: `name` here, `peer` in the namespace `there`, neither up.
    pub(crate) async fn add_veth(
        &self,
        (name, peer): (&str, &str),
        there: &File,
        mtu: u32,
    ) -> Result<(), Error> {
        let other_end = LinkUnspec::new_with_name(peer).mtu(mtu).setns_by_fd(there.as_raw_fd()).build();
        let veth = LinkVeth::new(name, peer).set_info_data(InfoData::Veth(InfoVeth::Peer(other_end)));
        let made = self.0.link().add(veth.mtu(mtu).build()).execute().await;
        made.map_err(refused(format!("adding veth pair {name}, {peer}")))
    }

    /// A link on which packets of another one wait, up; in place of one of its name.
    pub(crate) async fn add_ifb(&self, name: &str, mtu: u32) -> Result<Link, Error> {
        self.remove_link(name).await?;
        let link = LinkMessageBuilder::<LinkUnspec>::new_with_info_kind(InfoKind::Ifb).name(name.to_owned());
        let made = self.0.link().add(link.mtu(mtu).up().build()).execute().await;
        made.map_err(refused(format!("adding link {name}")))?;
        self.known_link(name).await
    }

    /// Has a link send no faster than that.
    pub(crate) async fn limit(&self, link: &Link, rate: Rate) -> Result<(), Error> {
        let mut message = TcMessage::with_index(index(link)?);
        message.header.parent = TcHandle::ROOT;
        message.header.handle = TcHandle { major: 1, minor: 0 };
        let options =
            rate.options().into_iter().map(|(kind, value)| TcOption::Other(DefaultNla::new(kind, value)));
        message.attributes =
            vec![TcAttribute::Kind("tbf".to_owned()), TcAttribute::Options(options.collect())];
        let mut request = NetlinkMessage::from(RouteNetlinkMessage::NewQueueDiscipline(message));
        request.header.flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
        let what = || refused(format!("limiting what {} sends", link.name));
        let mut answers = self.0.clone().request(request).map_err(what())?;
        while let Some(answer) = answers.next().await {
            if let NetlinkPayload::Error(error) = answer.payload {
                return Err(what()(rtnetlink::Error::NetlinkError(error)));
            }
        }
        Ok(())
    }

    /// Has what arrives on one link pass through another one first.
    pub(crate) async fn redirect(&self, link: &Link, through: &Link) -> Result<(), Error> {
        let (from, what) = (index(link)?, || refused(format!("redirecting what {} receives", link.name)));
        self.0.qdisc().add(from).ingress().execute().await.map_err(what())?;
        let filter = self.0.traffic_filter(from).add().parent(0xffff_0000).protocol(ETH_P_ALL.to_be());
        filter.redirect(through.index).map_err(what())?.execute().await.map_err(what())
    }

    /// Gives a link that is down another address.
    pub(crate) async fn set_mac(&self, name: &str, mac: [u8; 6]) -> Result<(), Error> {
        let message = LinkUnspec::new_with_name(name).address(mac.into()).build();
        let set = self.0.link().set(message).execute().await;
        set.map_err(refused(format!("giving {name} its link address")))
    }

    /// Sets a link up.
    pub(crate) async fn set_up(&self, name: &str) -> Result<(), Error> {
        let message = LinkUnspec::new_with_name(name).up().build();
        self.0.link().set(message).execute().await.map_err(refused(format!("setting link {name} up")))
    }

    /// The link, which has to be there.
    pub(crate) async fn known_link(&self, name: &str) -> Result<Link, Error> {
        let missing = || Error::Netlink { what: format!("link {name}"), reason: "it does not exist".into() };
        self.link(name).await?.ok_or_else(missing)
    }

    /// Removes a link, and with a veth its other end; nothing if it is gone.
    pub(crate) async fn remove_link(&self, name: &str) -> Result<(), Error> {
        let Some(link) = self.link(name).await? else { return Ok(()) };
        let removed = self.0.link().del(link.index).execute().await;
        unless(removed, &[Errno::ENODEV]).map_err(refused(format!("removing link {name}")))
    }

    /// Gives a link an address, without a block around it; nothing if it has it.
    pub(crate) async fn add_address(&self, link: &Link, address: IpAddr) -> Result<(), Error> {
        let prefix = Cidr::single(address).prefix();
        let mut request = self.0.address().add(link.index, address, prefix);
        // Nobody else can have it: there is nothing to wait for (RFC 4862 asks the link first).
        request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
        let added = request.execute().await;
        let what = format!("giving {} the address {address}/{prefix}", link.name);
        unless(added, &[Errno::EEXIST]).map_err(refused(what))
    }

    /// All addresses of a link, or of all links.
    pub(crate) async fn addresses(&self, link: Option<&Link>) -> Result<Vec<IpAddr>, Error> {
        let mut request = self.0.address().get();
        if let Some(link) = link {
            request = request.set_link_index_filter(link.index);
        }
        let messages =
            request.execute().try_collect::<Vec<_>>().await.map_err(refused("listing addresses"))?;
        let attributes = messages.into_iter().flat_map(|message| message.attributes);
        // Point-to-point links name the far end in IFA_ADDRESS; the own address is IFA_LOCAL, which
        // IPv6 leaves out.
        let mut found: Vec<IpAddr> = attributes
            .filter_map(|attribute| match attribute {
                AddressAttribute::Local(address) => Some(address),
                AddressAttribute::Address(address @ IpAddr::V6(_)) => Some(address),
                _ => None,
            })
            .collect();
        found.sort();
        found.dedup();
        Ok(found)
    }

    /// A route to a block through a link, with the source address of what the machine itself sends.
    pub(crate) async fn route_to_link(
        &self,
        to: Cidr,
        link: &Link,
        source: Option<IpAddr>,
    ) -> Result<(), Error> {
        let mut message = base_route(to).output_interface(link.index).scope(RouteScope::Link).build();
        message.attributes.extend(source.map(|source| RouteAttribute::PrefSource(route_address(source))));
        self.replace_route(message, format!("routing {to} to {}", link.name)).await
    }

    /// A route to a block through a link that yields to any other.
    pub(crate) async fn last_resort_route(
        &self,
        to: Cidr,
        link: &Link,
        source: Option<IpAddr>,
    ) -> Result<(), Error> {
        let route = base_route(to).output_interface(link.index).scope(RouteScope::Link);
        let mut message = route.priority(LAST_RESORT_METRIC).build();
        message.attributes.extend(source.map(|source| RouteAttribute::PrefSource(route_address(source))));
        self.replace_route(message, format!("routing {to} to {}", link.name)).await
    }

    /// Refuses what no more specific route takes.
    pub(crate) async fn unreachable_route(&self, to: Cidr) -> Result<(), Error> {
        let message = base_route(to).kind(RouteType::Unreachable).priority(LAST_RESORT_METRIC).build();
        self.replace_route(message, format!("making {to} unreachable")).await
    }

    /// The default route of a pod, through a gateway that is reached by the link alone.
    pub(crate) async fn default_route(&self, gateway: IpAddr, link: &Link) -> Result<(), Error> {
        let everything = Cidr::new(if gateway.is_ipv4() { [0; 4].into() } else { [0; 16].into() }, 0);
        let mut route = base_route(everything.expect("a prefix of 0 fits")).output_interface(link.index);
        route.get_mut().attributes.push(RouteAttribute::Gateway(route_address(gateway)));
        let route = route.scope(RouteScope::Universe).protocol(RouteProtocol::Boot).onlink();
        self.replace_route(route.build(), format!("routing by way of {gateway}")).await
    }

    async fn replace_route(&self, message: RouteMessage, what: String) -> Result<(), Error> {
        self.0.route().add(message).replace().execute().await.map_err(refused(what))
    }

    /// All routes of one family.
    pub(crate) async fn routes(&self, ipv4: bool) -> Result<Vec<RouteMessage>, Error> {
        let mut filter = RouteMessage::default();
        filter.header.address_family = if ipv4 { AddressFamily::Inet } else { AddressFamily::Inet6 };
        self.0.route().get(filter).execute().try_collect().await.map_err(refused("listing routes"))
    }

    /// Removes a route as listed; nothing if it is gone.
    pub(crate) async fn remove_route(&self, route: RouteMessage) -> Result<(), Error> {
        let removed = self.0.route().del(route).execute().await;
        unless(removed, &[Errno::ESRCH]).map_err(refused("removing a route"))
    }
}

/// A link's number as traffic control has it.
fn index(link: &Link) -> Result<i32, Error> {
    let wrong =
        |_| Error::Netlink { what: format!("link {}", link.name), reason: "its number is too large".into() };
    i32::try_from(link.index).map_err(wrong)
}

pub(crate) fn base_route(to: Cidr) -> RouteMessageBuilder<IpAddr> {
    let route = RouteMessageBuilder::<IpAddr>::new().protocol(RouteProtocol::Other(ROUTE_PROTOCOL));
    route.destination_prefix(to.address(), to.prefix()).expect("a Cidr's prefix fits its address")
}

pub(crate) fn route_address(address: IpAddr) -> RouteAddress {
    match address {
        IpAddr::V4(v4) => RouteAddress::Inet(v4),
        IpAddr::V6(v6) => RouteAddress::Inet6(v6),
    }
}

/// An address that a route says; none if it is of no family of addresses.
pub(crate) fn address_of(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        RouteAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        _ => None,
    }
}

/// The address that a neighbour, or an entry of a bridge's table, is about.
pub(crate) fn neighbour_address(address: &NeighbourAddress) -> Option<IpAddr> {
    match address {
        NeighbourAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        NeighbourAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        // Of a bridge's table the family is not told.
        NeighbourAddress::Other(bytes) => crate::mesh::address(bytes),
        _ => None,
    }
}

fn link_of(message: &LinkMessage) -> Link {
    let is_shared = !message.header.flags.intersects(LinkFlags::Noarp | LinkFlags::Loopback);
    let mut link =
        Link { index: message.header.index, name: String::new(), mac: String::new(), mtu: 0, is_shared };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::Address(mac) => {
                let bytes: Vec<String> = mac.iter().map(|byte| format!("{byte:02x}")).collect();
                link.mac = bytes.join(":");
            }
            _ => {}
        }
    }
    link
}
