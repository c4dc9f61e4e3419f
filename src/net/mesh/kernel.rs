//! What the kernel has of a mesh, and how it gets the rest.

use super::{Kind, Mac, Mesh, Out, Route, TUNNELS, Tunnel, Vxlan, WIREGUARD, difference};
use crate::netlink::{
    self, Link, Netlink, address_of, base_route, errno, neighbour_address, refused, route_address, unless,
};
use crate::node::out_link;
use crate::{Cidr, Error, ROUTE_PROTOCOL, sysctl, wireguard};
use futures_util::TryStreamExt;
use nix::errno::Errno;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::link::{
    InfoData, InfoKind, InfoVxlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use rtnetlink::packet_route::neighbour::{
    NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{
    RouteAttribute, RouteFlags, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use rtnetlink::{LinkMessageBuilder, LinkUnspec, LinkVxlan, LinkWireguard};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

/// The bit of a neighbour's state that says that nobody asks for it (`NUD_PERMANENT`).
const PERMANENT: u16 = 0x80;

/// What came of applying a mesh.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// The numbers of the tunnels' links.
    pub tunnels: Vec<u32>,
    /// How much had to be changed.
    pub changes: usize,
    /// What the kernel refused, while the rest was done.
    pub refused: Vec<String>,
}

/// Has the kernel have the mesh. What can be done is done; `before` is what was applied last, if that is known.
pub async fn apply(mesh: &Mesh, before: Option<&Mesh>) -> Result<Applied, Error> {
    netlink::with(None, async |netlink| {
        let mut work = Work { netlink, applied: Applied::default() };
        let links = work.tunnels(mesh, before).await?;
        work.routes(mesh, &links).await?;
        work.applied.tunnels = links.into_values().collect();
        Ok(work.applied)
    })
    .await
}

/// Which of these addresses lie on a link of the machine's own, and on which.
pub async fn direct_links(addresses: &BTreeSet<IpAddr>) -> Result<BTreeMap<IpAddr, u32>, Error> {
    netlink::with(None, async |netlink| {
        let shared: Vec<u32> =
            netlink.links().await?.iter().filter(|link| link.is_shared).map(|link| link.index).collect();
        let mut found = BTreeMap::new();
        for address in addresses {
            let link = netlink.way_to(*address).await?;
            found.extend(link.filter(|index| shared.contains(index)).map(|index| (*address, index)));
        }
        Ok(found)
    })
    .await
}

/// What fits into one packet on the link that has one of these addresses; none if no link has.
pub(crate) async fn mtu_of(addresses: &[IpAddr]) -> Result<Option<u32>, Error> {
    netlink::with(None, async |netlink| {
        for link in netlink.links().await? {
            let own = netlink.addresses(Some(&link)).await?;
            if addresses.iter().any(|address| own.contains(address)) {
                return Ok(Some(link.mtu));
            }
        }
        Ok(None)
    })
    .await
}

/// A mesh that is being applied.
struct Work {
    netlink: Netlink,
    applied: Applied,
}

/// A route as the kernel has it.
type Hop = (u32, Option<IpAddr>, Option<IpAddr>);

impl Work {
    /// Counts a change, or notes why there is none.
    fn note(&mut self, done: Result<(), Error>) {
        match done {
            Ok(()) => self.applied.changes += 1,
            Err(error) => self.applied.refused.push(error.to_string()),
        }
    }

    /// The tunnels with all that is on them; gives the numbers of their links.
    async fn tunnels(
        &mut self,
        mesh: &Mesh,
        before: Option<&Mesh>,
    ) -> Result<BTreeMap<&'static str, u32>, Error> {
        for name in TUNNELS {
            let wanted = mesh.tunnels.iter().any(|tunnel| tunnel.name == name);
            if !wanted && let Some(message) = self.netlink.message_of(name).await? {
                // What is of another kind is somebody else's, whatever its name.
                if kind_of(&message) == Some(kind_by_name(name)) {
                    let removed = self.netlink.remove_link(name).await;
                    self.note(removed);
                }
            }
        }
        let mut links = BTreeMap::new();
        for tunnel in &mesh.tunnels {
            let link = self.link(tunnel).await?;
            links.insert(tunnel.name, link.index);
            match &tunnel.kind {
                Kind::Vxlan(own) => self.ends(own, &link).await?,
                Kind::Wireguard(own) => {
                    let before = before.and_then(Mesh::wireguard);
                    self.applied.changes += wireguard::set(tunnel.name, own.clone(), before.cloned()).await?;
                }
            }
        }
        Ok(links)
    }

    /// A tunnel's link, up; put in place of one that is set otherwise.
    async fn link(&mut self, tunnel: &Tunnel) -> Result<Link, Error> {
        let name = tunnel.name;
        match self.netlink.message_of(name).await? {
            None => self.netlink.make_tunnel(tunnel).await?,
            Some(message) if kind_of(&message) != Some(kind_by_name(name)) => return Err(foreign(name)),
            Some(message) if is_as_wanted(tunnel, &message) => {
                settle(tunnel);
                return self.netlink.known_link(name).await;
            }
            Some(message) if is_changeable(tunnel, &message) => self.netlink.change_tunnel(tunnel).await?,
            Some(_) => {
                self.netlink.remove_link(name).await?;
                self.netlink.make_tunnel(tunnel).await?;
            }
        }
        settle(tunnel);
        self.netlink.set_up(name).await?;
        self.applied.changes += 1;
        self.netlink.known_link(name).await
    }

    /// The neighbours on a VXLAN and the machines that they are.
    async fn ends(&mut self, own: &Vxlan, link: &Link) -> Result<(), Error> {
        let (set, gone) = difference(&own.neighbours, &self.netlink.neighbours(link).await?);
        for message in gone.into_iter().map(|to| neighbour(link, to, None)) {
            let done = self.netlink.remove_neighbour(message).await;
            self.note(done);
        }
        for message in set.into_iter().map(|(to, mac)| neighbour(link, to, Some(mac))) {
            let done = self.netlink.set_neighbour(message).await;
            self.note(done);
        }
        let (set, gone) = difference(&own.ends, &self.netlink.ends(link).await?);
        for message in gone.into_iter().map(|mac| end(link, mac, None)) {
            let done = self.netlink.remove_neighbour(message).await;
            self.note(done);
        }
        for message in set.into_iter().map(|(mac, to)| end(link, mac, Some(to))) {
            let done = self.netlink.set_neighbour(message).await;
            self.note(done);
        }
        Ok(())
    }

    /// The routes: new ways first, then those go that nobody wants.
    async fn routes(&mut self, mesh: &Mesh, links: &BTreeMap<&'static str, u32>) -> Result<(), Error> {
        let mut wanted: BTreeMap<Cidr, Hop> = BTreeMap::new();
        for (block, Route { out, via, source }) in &mesh.routes {
            let index = match out {
                Out::Tunnel(name) => links.get(name).copied(),
                Out::Link(index) => Some(*index),
            };
            wanted.extend(index.map(|index| (*block, (index, *via, *source))));
        }
        let tunnels: Vec<u32> = links.values().copied().collect();
        let (mut found, mut messages) = (BTreeMap::new(), Vec::new());
        for ipv4 in [true, false] {
            for message in self.netlink.routes(ipv4).await? {
                if let Some((block, hop)) = hop_of(&message, &tunnels) {
                    found.insert(block, hop);
                    messages.push((block, hop, message));
                }
            }
        }
        for (block, hop) in difference(&wanted, &found).0 {
            let on_tunnel = tunnels.contains(&hop.0);
            let done = self.netlink.set_hop(block, hop, (found.contains_key(&block), on_tunnel)).await;
            self.note(done);
        }
        // What differs in nothing but the source was replaced: to remove it would remove what is there now.
        let step = |(index, via, _): &Hop| (*index, *via);
        messages.retain(|(block, hop, _)| wanted.get(block).map(step) != Some(step(hop)));
        for (_, _, message) in messages {
            let done = self.netlink.remove_route(message).await;
            self.note(done);
        }
        Ok(())
    }
}

/// Addresses and routes of IPv6 on a tunnel are ours alone.
fn settle(tunnel: &Tunnel) {
    let speaks = tunnel.v6.then_some(("disable_ipv6", "0"));
    for (setting, value) in speaks.into_iter().chain([("accept_ra", "0"), ("addr_gen_mode", "1")]) {
        sysctl::try_set(&format!("ipv6/conf/{}/{setting}", tunnel.name), value);
    }
}

/// A link of one of knarr's names is not knarr's.
pub(crate) fn foreign(name: &str) -> Error {
    let reason =
        format!("it is somebody else's: remove it (`ip link delete {name}`) or give it another name");
    Error::Netlink { what: format!("link {name}"), reason }
}

/// What a link of that name is.
pub(crate) fn kind_by_name(name: &str) -> InfoKind {
    if name == WIREGUARD { InfoKind::Wireguard } else { InfoKind::Vxlan }
}

fn infos(message: &LinkMessage) -> impl Iterator<Item = &LinkInfo> {
    let infos = message.attributes.iter().filter_map(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => Some(infos),
        _ => None,
    });
    infos.flatten()
}

/// What a link is; none if it is one of the machine's.
pub(crate) fn kind_of(message: &LinkMessage) -> Option<InfoKind> {
    infos(message).find_map(|info| match info {
        LinkInfo::Kind(kind) => Some(kind.clone()),
        _ => None,
    })
}

/// How a VXLAN is set.
fn vxlan_of(message: &LinkMessage) -> &[InfoVxlan] {
    let found = infos(message).find_map(|info| match info {
        LinkInfo::Data(InfoData::Vxlan(settings)) => Some(settings.as_slice()),
        _ => None,
    });
    found.unwrap_or_default()
}

/// Whether it can become what is wanted without being made anew.
fn is_changeable(tunnel: &Tunnel, message: &LinkMessage) -> bool {
    let Kind::Vxlan(own) = &tunnel.kind else { return true };
    let settings = vxlan_of(message);
    let local = |setting: &InfoVxlan| match setting {
        InfoVxlan::Local(_) => own.local.is_ipv4(),
        InfoVxlan::Local6(_) => own.local.is_ipv6(),
        _ => false,
    };
    settings.contains(&InfoVxlan::Id(own.id))
        && settings.contains(&InfoVxlan::Port(own.port))
        && settings.contains(&InfoVxlan::Learning(false))
        && settings.iter().any(local)
}

fn is_as_wanted(tunnel: &Tunnel, message: &LinkMessage) -> bool {
    let has = |wanted: &LinkAttribute| message.attributes.contains(wanted);
    let set = match &tunnel.kind {
        Kind::Wireguard(_) => true,
        Kind::Vxlan(own) => {
            vxlan_of(message).contains(&local(own.local)) && has(&LinkAttribute::Address(own.mac.0.to_vec()))
        }
    };
    let up = message.header.flags.contains(LinkFlags::Up);
    set && up && has(&LinkAttribute::Mtu(tunnel.mtu)) && is_changeable(tunnel, message)
}

fn local(address: IpAddr) -> InfoVxlan {
    match address {
        IpAddr::V4(v4) => InfoVxlan::Local(v4),
        IpAddr::V6(v6) => InfoVxlan::Local6(v6),
    }
}

/// A next hop's entry, or what names it.
fn neighbour(link: &Link, to: IpAddr, mac: Option<Mac>) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.header.ifindex = link.index;
    message.header.state = NeighbourState::Permanent;
    message.attributes.push(NeighbourAttribute::Destination(to.into()));
    message.attributes.extend(mac.map(|mac| NeighbourAttribute::LinkLayerAddress(mac.0.to_vec())));
    message
}

/// An entry of a VXLAN's table of machines, or what names it.
fn end(link: &Link, mac: Mac, to: Option<IpAddr>) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    message.header.ifindex = link.index;
    message.header.state = NeighbourState::Permanent;
    message.header.flags = NeighbourFlags::Own;
    message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()));
    message.attributes.extend(to.map(|to| NeighbourAttribute::Destination(to.into())));
    message
}

/// The address and the link address of an entry.
fn entry(message: &NeighbourMessage) -> (Option<IpAddr>, Option<Mac>) {
    let (mut to, mut mac) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(address) => to = neighbour_address(address),
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = Mac::read(bytes),
            _ => {}
        }
    }
    (to, mac)
}

/// What a route says, if it is one of a mesh.
fn hop_of(message: &RouteMessage, tunnels: &[u32]) -> Option<(Cidr, Hop)> {
    let header = &message.header;
    let own = header.protocol == RouteProtocol::Other(ROUTE_PROTOCOL) && header.kind == RouteType::Unicast;
    let (mut to, mut index, mut via, mut source) = (None, None, None, None);
    for attribute in message.attributes.iter().filter(|_| own) {
        match attribute {
            RouteAttribute::Destination(address) => to = address_of(address),
            RouteAttribute::Oif(link) => index = Some(*link),
            RouteAttribute::Gateway(address) => via = address_of(address),
            RouteAttribute::PrefSource(address) => source = address_of(address),
            _ => {}
        }
    }
    let (block, index) = (Cidr::new(to?, header.destination_prefix_length)?, index?);
    (via.is_some() || tunnels.contains(&index)).then_some((block, (index, via, source)))
}

impl Netlink {
    /// All that is said of a link.
    pub(crate) async fn message_of(&self, name: &str) -> Result<Option<LinkMessage>, Error> {
        match self.0.link().get().match_name(name.to_owned()).execute().try_next().await {
            Ok(message) => Ok(message),
            Err(error) if errno(&error) == Errno::ENODEV as i32 => Ok(None),
            Err(error) => Err(refused(format!("looking for link {name}"))(error)),
        }
    }

    /// Makes a tunnel's link.
    async fn make_tunnel(&self, tunnel: &Tunnel) -> Result<(), Error> {
        let message = match &tunnel.kind {
            Kind::Wireguard(_) => LinkWireguard::new(tunnel.name).mtu(tunnel.mtu).build(),
            Kind::Vxlan(own) => {
                let link = LinkVxlan::new(tunnel.name, own.id).append_info_data(local(own.local));
                // Packets within have checksums of their own; IPv6 asks for one outside as well.
                let link = link.port(own.port).learning(false).udp_csum(own.local.is_ipv6());
                link.mtu(tunnel.mtu).address(own.mac.0.to_vec()).build()
            }
        };
        self.0.link().add(message).execute().await.map_err(no_such_kind(tunnel.name))
    }

    /// Sets the link of a tunnel that is there. The kernel does not take all of it at once.
    async fn change_tunnel(&self, tunnel: &Tunnel) -> Result<(), Error> {
        let mut link = LinkUnspec::new_with_name(tunnel.name).mtu(tunnel.mtu);
        if let Kind::Vxlan(own) = &tunnel.kind {
            link = link.address(own.mac.0.to_vec());
            let kind = LinkMessageBuilder::<LinkVxlan>::new(tunnel.name).append_info_data(local(own.local));
            let changed = self.0.link().change(kind.build()).execute().await;
            changed.map_err(refused(format!("changing link {}", tunnel.name)))?;
        }
        let changed = self.0.link().change(link.build()).execute().await;
        changed.map_err(refused(format!("changing link {}", tunnel.name)))
    }

    /// The neighbours on a link that somebody set.
    async fn neighbours(&self, link: &Link) -> Result<BTreeMap<IpAddr, Mac>, Error> {
        let mut found = BTreeMap::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            for message in self.entries(link, family).await? {
                if let (Some(to), Some(mac)) = entry(&message) {
                    found.insert(to, mac);
                }
            }
        }
        Ok(found)
    }

    /// The table of machines of a VXLAN.
    async fn ends(&self, link: &Link) -> Result<BTreeMap<Mac, IpAddr>, Error> {
        let entries = self.entries(link, AddressFamily::Bridge).await?;
        let entries = entries.iter().map(entry);
        Ok(entries.filter_map(|(to, mac)| Some((mac?, to?))).collect())
    }

    async fn entries(&self, link: &Link, family: AddressFamily) -> Result<Vec<NeighbourMessage>, Error> {
        let mut request = self.0.neighbours().get().set_address_family(family);
        request.message_mut().header.ifindex = link.index;
        let all = request.execute().try_collect::<Vec<_>>().await;
        let mut all = all.map_err(refused(format!("listing the neighbours on {}", link.name)))?;
        // A tunnel that learns nothing has in its table what somebody put there.
        let by_hand = |message: &NeighbourMessage| {
            family == AddressFamily::Bridge || u16::from(message.header.state) & PERMANENT != 0
        };
        all.retain(|message| message.header.ifindex == link.index && by_hand(message));
        Ok(all)
    }

    async fn set_neighbour(&self, message: NeighbourMessage) -> Result<(), Error> {
        let what = format!("adding a neighbour {:?}", entry(&message));
        let mut request = self.0.neighbours().add(0, IpAddr::V4(Ipv4Addr::UNSPECIFIED)).replace();
        *request.message_mut() = message;
        request.execute().await.map_err(refused(what))
    }

    async fn remove_neighbour(&self, message: NeighbourMessage) -> Result<(), Error> {
        let what = format!("removing a neighbour {:?}", entry(&message));
        let removed = self.0.neighbours().del(message).execute().await;
        unless(removed, &[Errno::ENOENT]).map_err(refused(what))
    }

    /// A route by a next hop, in place of the one of knarr's that is there; never of somebody else's.
    async fn set_hop(
        &self,
        to: Cidr,
        (index, via, source): Hop,
        (is_there, on_tunnel): (bool, bool),
    ) -> Result<(), Error> {
        let mut route = base_route(to).output_interface(index);
        let attributes = &mut route.get_mut().attributes;
        attributes.extend(via.map(|via| RouteAttribute::Gateway(route_address(via))));
        attributes.extend(source.map(|source| RouteAttribute::PrefSource(route_address(source))));
        // The next hop of a tunnel has no address that the machine would know to be there.
        let route = if via.is_some() && on_tunnel { route.onlink() } else { route };
        let route = if via.is_none() { route.scope(RouteScope::Link) } else { route };
        let request = self.0.route().add(route.build());
        let request = if is_there { request.replace() } else { request };
        request.execute().await.map_err(|error| {
            if errno(&error) == Errno::EEXIST as i32 {
                let reason = "there is a route to it that is not knarr's".to_owned();
                return Error::Netlink { what: format!("routing {to}"), reason };
            }
            refused(format!("routing {to}"))(error)
        })
    }

    /// The link on which an address is reached without anybody between; none where there is no such link.
    async fn way_to(&self, address: IpAddr) -> Result<Option<u32>, Error> {
        let mut message = base_route(Cidr::single(address)).build();
        message.header.flags = RouteFlags::FibMatch;
        let found = self.0.route().get(message).execute().try_next().await;
        let nowhere = [Errno::ENETUNREACH, Errno::EHOSTUNREACH, Errno::EACCES, Errno::EINVAL];
        let route = match found {
            Ok(route) => route,
            Err(error) if nowhere.iter().any(|none| *none as i32 == errno(&error)) => None,
            Err(error) => return Err(refused(format!("looking for the way to {address}"))(error)),
        };
        let direct = |route: &RouteMessage| {
            let by_another = |attribute: &RouteAttribute| {
                matches!(attribute, RouteAttribute::Gateway(_) | RouteAttribute::Via(_))
            };
            // A default route to a link without gateway leads to somebody who knows more.
            route.header.kind == RouteType::Unicast
                && route.header.destination_prefix_length > 0
                && !route.attributes.iter().any(by_another)
        };
        Ok(route.filter(direct).as_ref().and_then(out_link))
    }
}

/// Why a link of that name could not be made.
fn no_such_kind(name: &'static str) -> impl FnOnce(rtnetlink::Error) -> Error {
    move |error| {
        let module = if name == WIREGUARD { "wireguard" } else { "vxlan" };
        let unknown = [Errno::EOPNOTSUPP, Errno::ENOENT, Errno::EAFNOSUPPORT];
        if unknown.iter().any(|unknown| *unknown as i32 == errno(&error)) {
            return Error::Module { what: format!("link {name}"), module };
        }
        if errno(&error) == Errno::EEXIST as i32 {
            let reason =
                "another link has the same number and port (`ip -d link show type vxlan`): remove it";
            return Error::Netlink { what: format!("link {name}"), reason: reason.to_owned() };
        }
        refused(format!("adding link {name}"))(error)
    }
}
