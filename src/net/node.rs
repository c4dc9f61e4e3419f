//! The machine's part: the device that holds its own addresses, routes that keep pod and service
//! addresses inside, masquerading of what leaves, and the removal of all of it.

use crate::netlink::{self, Netlink};
use crate::nft::{self, Chain, Set, Table, TableName, Transaction};
use crate::{Cidr, Error, Family, ROUTE_PROTOCOL, firewalls, mesh, sysctl};
use rtnetlink::packet_route::route::{RouteAttribute, RouteMessage, RouteProtocol};
use std::net::IpAddr;

/// The portless device that holds the node's own addresses in the cluster.
pub const DEVICE: &str = "knarr0";

/// What the names of all of knarr's links begin with.
pub(crate) const LINK_PREFIX: &str = "knarr";

/// A packet with this mark gets the node's address as its source when it leaves (the bit that
/// Kubernetes' own proxy uses, so that the two never disagree about what it means).
pub const MASQUERADE_MARK: u32 = 0x4000;

/// What most links carry, where no default route tells better.
const USUAL_MTU: u32 = 1_500;

/// What a node's network is made from.
#[derive(Clone, Debug)]
pub struct Node {
    /// The blocks that this node's pods get their addresses from.
    pub pod_cidrs: Vec<Cidr>,
    /// The blocks of all nodes' pods.
    pub cluster_cidrs: Vec<Cidr>,
    /// The blocks of service addresses.
    pub service_cidrs: Vec<Cidr>,
    /// What fits into one packet; see [`link_mtu`].
    pub mtu: u32,
}

impl Node {
    /// Whether its pods have addresses of a family.
    fn has(&self, family: Family) -> bool {
        !family.among(&self.pod_cidrs).is_empty()
    }
}

/// Keeps pod and service addresses from leaving by the default route. Done before anything else.
///
/// Pod addresses are unreachable until a pod's route says otherwise. Service addresses are routed to
/// the portless device, where they end: an unreachable route would refuse what the machine itself
/// sends to a service before it can be translated, and without any route a machine without a default
/// route could not reach its services at all.
pub async fn contain(cluster_cidrs: &[Cidr], service_cidrs: &[Cidr]) -> Result<(), Error> {
    netlink::with(None, async |netlink| {
        let device = netlink.ensure_bridge(DEVICE, USUAL_MTU).await?;
        for block in cluster_cidrs {
            netlink.unreachable_route(*block).await?;
        }
        for block in service_cidrs {
            netlink.last_resort_route(*block, &device, None).await?;
        }
        Ok(())
    })
    .await
}

/// Makes the machine a node: contains the blocks, takes the gateway addresses, forwards, masquerades.
/// Done again it changes nothing.
pub async fn setup(node: &Node) -> Result<(), Error> {
    contain(&node.cluster_cidrs, &node.service_cidrs).await?;
    netlink::with(None, async |netlink| {
        let device = netlink.ensure_bridge(DEVICE, node.mtu).await?;
        for block in &node.pod_cidrs {
            netlink.add_address(&device, block.gateway()).await?;
        }
        for block in &node.service_cidrs {
            // What the machine itself sends to a service comes from its address among the pods.
            let source = node.pod_cidrs.iter().find(|pods| pods.is_ipv4() == block.is_ipv4());
            netlink.last_resort_route(*block, &device, source.map(Cidr::gateway)).await?;
        }
        Ok(())
    })
    .await?;
    sysctl::set("ipv4/ip_forward", "1")?;
    if node.has(Family::V6) {
        forward_v6().await?;
    }
    nft::apply(&tables(node)).await
}

/// Forwards IPv6. A machine that forwards no longer listens to routers unless it is told to: its own default
/// route would expire.
async fn forward_v6() -> Result<(), Error> {
    let links = netlink::with(None, async |netlink| netlink.links().await).await?;
    for link in links.iter().filter(|link| !link.name.starts_with(LINK_PREFIX)) {
        let accepts = format!("ipv6/conf/{}/accept_ra", link.name);
        if sysctl::get(&accepts).is_some_and(|value| value == "1") {
            sysctl::try_set(&accepts, "2");
        }
    }
    sysctl::set("ipv6/conf/all/forwarding", "1")
}

/// Gives the machine an address of the cluster's, for a server of this process. Needs [`contain`].
pub async fn add_local_address(address: IpAddr) -> Result<(), Error> {
    netlink::with(None, async |netlink| {
        let device = netlink.known_link(DEVICE).await?;
        netlink.add_address(&device, address).await
    })
    .await
}

/// All addresses that the machine has now.
pub async fn local_addresses() -> Result<Vec<IpAddr>, Error> {
    netlink::with(None, async |netlink| netlink.addresses(None).await).await
}

/// What fits into one packet on the link that has one of these addresses, or else on that of the default route.
pub async fn link_mtu(addresses: &[IpAddr]) -> Result<u32, Error> {
    match mesh::mtu_of(addresses).await? {
        Some(mtu) => Ok(mtu),
        None => default_mtu().await,
    }
}

/// What fits into one packet on the link of the default route.
async fn default_mtu() -> Result<u32, Error> {
    netlink::with(None, async |netlink| {
        let routes = netlink.routes(true).await?;
        let default = routes.iter().filter(|route| route.header.destination_prefix_length == 0);
        let Some(index) = default.filter_map(out_link).next() else { return Ok(USUAL_MTU) };
        let links = netlink.links().await?;
        Ok(links.iter().find(|link| link.index == index).map_or(USUAL_MTU, |link| link.mtu))
    })
    .await
}

pub(crate) fn out_link(route: &RouteMessage) -> Option<u32> {
    route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    })
}

/// Removes everything of knarr's: tables, links with their addresses, routes. Goes on after an error
/// and returns all of them.
pub async fn teardown() -> Result<(), Vec<Error>> {
    let mut errors = Vec::new();
    errors.extend(remove_tables().await.err());
    errors.extend(firewalls::withdraw().await.err());
    match netlink::with(None, async |netlink| Ok(remove_links_and_routes(&netlink).await)).await {
        Ok(more) => errors.extend(more),
        Err(error) => errors.push(error),
    }
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

async fn remove_links_and_routes(netlink: &Netlink) -> Vec<Error> {
    let mut errors = Vec::new();
    for link in collected(netlink.links().await, &mut errors) {
        if link.name.starts_with(LINK_PREFIX) {
            errors.extend(netlink.remove_link(&link.name).await.err());
        }
    }
    for ipv4 in [true, false] {
        for (link, address) in collected(netlink.proxies(ipv4).await, &mut errors) {
            errors.extend(netlink.remove_proxy(link, address).await.err());
        }
        for route in collected(netlink.routes(ipv4).await, &mut errors) {
            if route.header.protocol == RouteProtocol::Other(ROUTE_PROTOCOL) {
                errors.extend(netlink.remove_route(route).await.err());
            }
        }
    }
    errors
}

fn collected<T>(found: Result<Vec<T>, Error>, errors: &mut Vec<Error>) -> Vec<T> {
    found.unwrap_or_else(|error| {
        errors.push(error);
        Vec::new()
    })
}

async fn remove_tables() -> Result<(), Error> {
    let mut transaction = Transaction::default();
    for (family, name) in nft::own_tables().await? {
        transaction.remove_table(family, &name);
    }
    nft::apply(&transaction).await
}

/// The tables of a node whose pods have addresses of these blocks.
pub fn tables_of(pod_cidrs: &[Cidr]) -> Vec<TableName> {
    let has = |family: &Family| !family.among(pod_cidrs).is_empty();
    Family::ALL.into_iter().filter(has).map(|family| (family.name(), TABLE)).collect()
}

/// The tables of the families that the node has; one that it no longer has goes.
fn tables(node: &Node) -> Transaction {
    let mut transaction = Transaction::default();
    for family in Family::ALL {
        if node.has(family) {
            transaction.replace_table(&table(node, family));
        } else {
            transaction.remove_table(family.name(), TABLE);
        }
    }
    transaction
}

const TABLE: &str = "knarr-net";

/// Masquerading. What the proxy marked leaves with the node's address: towards this node's pods that
/// is the gateway's, by name, as their links have no address the kernel could choose.
fn table(node: &Node, family: Family) -> Table {
    let (pods, services) = (family.among(&node.cluster_cidrs), family.among(&node.service_cidrs));
    let inside = [pods.clone(), services.clone()].concat();
    let foreign = format!("iifname != \"lo\" iifname != \"{LINK_PREFIX}*\"");
    let ip = family.name();
    let blocks = |name, elements: &[Cidr]| Set {
        kind: "set",
        name,
        declaration: vec![
            format!("type {}", family.address_type()),
            "flags interval".into(),
            "auto-merge".into(),
        ],
        elements: elements.iter().map(Cidr::to_string).collect(),
    };
    // A service address that still is one here is a server of this process, such as DNS: for the
    // cluster alone, or it would be an open resolver.
    let own = [format!("{foreign} {ip} daddr @services drop")];
    let mut chains = vec![Chain::base("input", "type filter hook input priority 0", own)];
    if family == Family::V4 {
        // Pods' links accept 127.0.0.0/8 so that node ports work on localhost; strangers may not use that.
        let guard = "iifname != \"lo\" ip daddr 127.0.0.0/8 drop";
        chains.push(Chain::base("localhost", "type filter hook prerouting priority -300", [guard]));
    }
    let hook = "type nat hook postrouting priority 100";
    chains.push(Chain::base("postrouting", hook, masquerading(node, family)));
    let sets = vec![blocks("pods", &pods), blocks("services", &services), blocks("cluster", &inside)];
    Table { family: ip, name: TABLE, sets, chains }
}

fn masquerading(node: &Node, family: Family) -> Vec<String> {
    let (ip, multicast, keep) = (family.name(), family.multicast(), !MASQUERADE_MARK);
    let marked = format!("meta mark & {MASQUERADE_MARK:#x} != 0 meta mark set meta mark & {keep:#x}");
    let gateway = family.among(&node.pod_cidrs).first().map(Cidr::gateway);
    let to_pods =
        gateway.map(|gateway| format!("oifname \"{LINK_PREFIX}*\" {marked} snat to {gateway} fully-random"));
    // Who gives pods addresses of IPv6 that are routed everywhere wants them seen; of IPv4 hardly anybody does.
    let hidden = family == Family::V4 || family.among(&node.cluster_cidrs).iter().any(Cidr::is_unique_local);
    let leaving = hidden.then(|| {
        format!(
            "oifname != \"{LINK_PREFIX}*\" {ip} saddr @pods {ip} daddr != @cluster {ip} daddr != {multicast} \
             masquerade fully-random"
        )
    });
    to_pods.into_iter().chain([format!("{marked} masquerade fully-random")]).chain(leaving).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(pods: &[&str], cluster: &[&str], services: &[&str]) -> Node {
        let blocks = |texts: &[&str]| texts.iter().map(|text| text.parse::<Cidr>().unwrap()).collect();
        Node {
            pod_cidrs: blocks(pods),
            cluster_cidrs: blocks(cluster),
            service_cidrs: blocks(services),
            mtu: 1_500,
        }
    }

    #[test]
    fn the_table_masquerades_what_leaves_and_what_is_marked() {
        let node = node(&["10.42.7.0/24"], &["10.42.0.0/16"], &["10.43.0.0/16"]);
        assert_eq!(tables(&node).text(), include_str!("testdata/node.nft"));
    }

    #[test]
    fn each_family_has_its_table() {
        let node = node(
            &["10.42.7.0/24", "fd00:42:0:7::/64"],
            &["10.42.0.0/16", "fd00:42::/56"],
            &["10.43.0.0/16", "fd00:43::/112"],
        );
        assert_eq!(tables(&node).text(), include_str!("testdata/node-dual.nft"));
    }

    #[test]
    fn global_addresses_keep_their_names() {
        let node = node(&["2001:db8:42:7::/64"], &["2001:db8:42::/56"], &["fd00:43::/112"]);
        assert!(!tables(&node).text().contains("@pods"));
    }
}
