//! A pod's further links, which plugins that delegate ask for. Its first link leads to everybody; what is sent from the
//! address of a further one leaves by that, which the node would else take for somebody who pretends.

use crate::Error;
use crate::netlink::{Link, Netlink, base_route, refused, route_address, unless};
use crate::node::out_link;
use crate::{Cidr, netlink};
use nix::errno::Errno;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::route::{RouteAttribute, RouteProtocol, RouteScope};
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use std::fs::File;
use std::net::IpAddr;

/// What the numbers of the tables begin at that further links have; behind it comes the link's number.
const TABLES: u32 = 107_000;

/// The metric of default routes of further links, for who asks for the link itself: behind that of the kernel's own.
const METRIC: u32 = 2_048;

fn table(link: &Link) -> u32 {
    TABLES + link.index
}

/// What has packets from an address look at a table.
fn rule(address: IpAddr, table: u32) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.header.src_len = Cidr::single(address).prefix();
    message.header.action = RuleAction::ToTable;
    message.attributes = vec![RuleAttribute::Source(address), RuleAttribute::Table(table)];
    message
}

impl Netlink {
    /// Whether packets of a family leave by another link already.
    pub(super) async fn leaves_elsewhere(&self, link: &Link, ipv4: bool) -> Result<bool, Error> {
        let routes = self.routes(ipv4).await?;
        let mut defaults = routes.iter().filter(|route| route.header.destination_prefix_length == 0);
        Ok(defaults.any(|route| out_link(route).is_some_and(|index| index != link.index)))
    }

    /// Has what is sent from an address leave by its own link.
    pub(super) async fn leave_by(&self, link: &Link, address: IpAddr, gateway: IpAddr) -> Result<(), Error> {
        let everything = Cidr::new(if gateway.is_ipv4() { [0; 4].into() } else { [0; 16].into() }, 0);
        let route = || {
            let to = everything.expect("a prefix of 0 fits");
            let mut route = base_route(to).output_interface(link.index).scope(RouteScope::Universe);
            route.get_mut().attributes.push(RouteAttribute::Gateway(route_address(gateway)));
            route.protocol(RouteProtocol::Boot).onlink()
        };
        for route in [route().table_id(table(link)), route().priority(METRIC + link.index)] {
            let added = self.0.route().add(route.build()).replace().execute().await;
            added.map_err(refused(format!("routing what {address} sends by way of {gateway}")))?;
        }
        let mut request = self.0.rule().add();
        *request.message_mut() = rule(address, table(link));
        let added = request.execute().await;
        unless(added, &[Errno::EEXIST]).map_err(refused(format!("a rule for what {address} sends")))
    }
}

/// Removes the rules of addresses whose link goes; routes go with it.
pub(super) async fn forget(pod: &File, ifname: &str, addresses: &[IpAddr]) -> Result<(), Error> {
    netlink::with(Some(pod), async |netlink| {
        let Some(link) = netlink.link(ifname).await? else { return Ok(()) };
        for address in addresses {
            let removed = netlink.0.rule().del(rule(*address, table(&link))).execute().await;
            unless(removed, &[Errno::ENOENT, Errno::EAFNOSUPPORT])
                .map_err(refused(format!("removing the rule of {address}")))?;
        }
        Ok(())
    })
    .await
}
