//! The machine's part: the device that holds its own addresses, routes that keep pod and service
//! addresses inside, masquerading of what leaves, and the removal of all of it.

use crate::netlink::{self, Netlink, address_of};
use crate::nft::{self, Chain, Set, Table, TableName, Transaction};
use crate::{Cidr, Error, Family, ROUTE_PROTOCOL, firewalls, mesh, sysctl};
use rtnetlink::packet_route::route::{RouteAttribute, RouteMessage, RouteProtocol, RouteType};
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
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// The blocks that this node's pods get their addresses from; none where they get them from somebody else.
    pub pod_cidrs: Vec<Cidr>,
    /// The blocks of all nodes' pods.
    pub cluster_cidrs: Vec<Cidr>,
    /// The blocks of service addresses.
    pub service_cidrs: Vec<Cidr>,
    /// What fits into one packet; see [`link_mtu`].
    pub mtu: u32,
    /// Where somebody else attaches pods, by links of whatever names: those links that lead out of the machine.
    pub outer: Option<Vec<String>>,
}

impl Node {
    /// Whether its pods have addresses of a family.
    fn has(&self, family: Family) -> bool {
        let blocks = if self.pod_cidrs.is_empty() { &self.service_cidrs } else { &self.pod_cidrs };
        !family.among(blocks).is_empty()
    }

    /// Its tables.
    pub fn tables(&self) -> Vec<TableName> {
        let has = |family: &Family| self.has(*family);
        Family::ALL.into_iter().filter(has).map(|family| (family.name(), TABLE)).collect()
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

/// Lets pods' addresses leave as they would: others attach pods, and know where theirs are.
async fn release(cluster_cidrs: &[Cidr]) -> Result<(), Error> {
    netlink::with(None, async |netlink| {
        for ipv4 in [true, false] {
            for route in netlink.routes(ipv4).await? {
                let own = route.header.protocol == RouteProtocol::Other(ROUTE_PROTOCOL);
                let contains = route.header.kind == RouteType::Unreachable;
                let to = destination(&route).filter(|to| cluster_cidrs.contains(to));
                if own && contains && to.is_some() {
                    netlink.remove_route(route).await?;
                }
            }
        }
        Ok(())
    })
    .await
}

/// Makes the machine a node: contains the blocks, takes the gateway addresses, forwards, masquerades.
/// Done again it changes nothing.
pub async fn setup(node: &Node) -> Result<(), Error> {
    if node.pod_cidrs.is_empty() {
        contain(&[], &node.service_cidrs).await?;
        release(&node.cluster_cidrs).await?;
    } else {
        contain(&node.cluster_cidrs, &node.service_cidrs).await?;
    }
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
    if node.outer.is_some() {
        // Pods that others put onto one bridge pass the hooks by otherwise, where the kernel can do without.
        sysctl::try_set("bridge/bridge-nf-call-iptables", "1");
        sysctl::try_set("bridge/bridge-nf-call-ip6tables", "1");
    }
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
        let indexes = default_links(&netlink, true).await?;
        let links = netlink.links().await?;
        let first = indexes.first().and_then(|index| links.iter().find(|link| link.index == *index));
        Ok(first.map_or(USUAL_MTU, |link| link.mtu))
    })
    .await
}

/// The links of default routes.
async fn default_links(netlink: &Netlink, ipv4: bool) -> Result<Vec<u32>, Error> {
    let routes = netlink.routes(ipv4).await?;
    let default = routes.iter().filter(|route| route.header.destination_prefix_length == 0);
    Ok(default.filter_map(out_link).collect())
}

/// The names of the links that lead out of the machine: those that have one of its addresses, and those of default
/// routes.
pub async fn outer_links(addresses: &[IpAddr]) -> Result<Vec<String>, Error> {
    netlink::with(None, async |netlink| {
        let mut outer = Vec::new();
        let defaults = [default_links(&netlink, true).await?, default_links(&netlink, false).await?].concat();
        for link in netlink.links().await? {
            let own = netlink.addresses(Some(&link)).await?;
            let leads = defaults.contains(&link.index) || addresses.iter().any(|ip| own.contains(ip));
            // The loopback link may have the node's address, where a protocol of routes makes that known.
            if leads && link.name != "lo" && !link.name.starts_with(LINK_PREFIX) {
                outer.push(link.name);
            }
        }
        outer.sort();
        Ok(outer)
    })
    .await
}

/// The block that a route leads to; none of a default route.
pub(crate) fn destination(route: &RouteMessage) -> Option<Cidr> {
    let to = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(address) => address_of(address),
        _ => None,
    });
    Cidr::new(to?, route.header.destination_prefix_length)
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
    // cluster alone, or it would be an open resolver. The first packet of a connection decides.
    let own = foreign(node, family).map(|foreign| format!("{foreign} {ip} daddr @services drop"));
    let mut chains = vec![Chain::base("input", "type nat hook input priority 95", own)];
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

/// What is not the cluster's own; nothing where all may be. Links of pods that others attach have any names, and so
/// only what comes from outside is known by its link.
fn foreign(node: &Node, family: Family) -> Option<String> {
    match node.outer.as_deref() {
        None => Some(format!("iifname != \"lo\" iifname != \"{LINK_PREFIX}*\"")),
        Some([]) => None,
        Some(outer) => {
            let names: Vec<String> = outer.iter().map(|name| format!("\"{name}\"")).collect();
            Some(format!("iifname {{ {} }} {} saddr != @pods", names.join(", "), family.name()))
        }
    }
}

fn masquerading(node: &Node, family: Family) -> Vec<String> {
    let (ip, multicast, keep) = (family.name(), family.multicast(), !MASQUERADE_MARK);
    let marked = format!("meta mark & {MASQUERADE_MARK:#x} != 0 meta mark set meta mark & {keep:#x}");
    let gateway = family.among(&node.pod_cidrs).first().map(Cidr::gateway);
    let to_pods =
        gateway.map(|gateway| format!("oifname \"{LINK_PREFIX}*\" {marked} snat to {gateway} fully-random"));
    // Who gives pods addresses of IPv6 that are routed everywhere wants them seen; of IPv4 hardly anybody does.
    let hidden = family == Family::V4 || family.among(&node.cluster_cidrs).iter().any(Cidr::is_unique_local);
    // What others attach they hide, or not.
    let leaving = (hidden && gateway.is_some()).then(|| {
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
            outer: None,
        }
    }

    #[test]
    fn where_others_attach_pods_only_services_are_masqueraded() {
        let mut node = node(&[], &["10.42.0.0/16"], &["10.43.0.0/16"]);
        node.outer = Some(vec!["eth0".to_owned(), "eth1".to_owned()]);
        assert_eq!(tables(&node).text(), include_str!("testdata/node-others.nft"));
        assert_eq!(node.tables(), [("ip", TABLE)]);
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
