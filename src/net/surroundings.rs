//! What stands in the way on this machine, looked at before anything is changed: once, with a hint, and not at the
//! first packet that gets lost.

use crate::mesh::{self, TUNNELS, WIREGUARD};
use crate::netlink::{self, Netlink, errno};
use crate::node::{LINK_PREFIX, destination, out_link};
use crate::{Cidr, DEVICE, Error, Family, ROUTE_PROTOCOL, wireguard};
use nix::errno::Errno;
use rtnetlink::packet_route::link::InfoKind;
use rtnetlink::packet_route::route::{RouteHeader, RouteMessage, RouteProtocol};
use rtnetlink::{LinkMessageBuilder, LinkUnspec};
use std::collections::BTreeMap;
use std::time::Duration;

/// A block of addresses that is to be knarr's alone.
#[derive(Clone, Debug)]
pub struct Claim {
    /// What it is called by whoever chose it, such as the name of a flag.
    pub name: String,
    /// The block.
    pub block: Cidr,
}

/// The link that is asked for and never made.
const PROBE: &str = "knarr-probe";

/// How long `nft` may take to look at a few lines.
const LIMIT: Duration = Duration::from_secs(20);

/// Fails with what stands in the way of these blocks, or of a tunnel of a name of [`TUNNELS`].
pub async fn check(claims: &[Claim], tunnel: Option<&str>) -> Result<(), Error> {
    nftables(claims).await?;
    if tunnel == Some(WIREGUARD) {
        wireguard::available().await?;
    }
    netlink::with(None, async |netlink| {
        let vxlan = tunnel.filter(|name| *name != WIREGUARD).map(|_| (InfoKind::Vxlan, "vxlan"));
        for (kind, module) in
            [(InfoKind::Bridge, "bridge"), (InfoKind::Veth, "veth")].into_iter().chain(vxlan)
        {
            if !netlink.knows(kind).await? {
                return Err(Error::Module { what: "pods' links".to_owned(), module });
            }
        }
        names(&netlink, tunnel).await?;
        let links: BTreeMap<u32, String> =
            netlink.links().await?.into_iter().map(|link| (link.index, link.name)).collect();
        addresses(&netlink, claims).await?;
        for ipv4 in [true, false] {
            for route in netlink.routes(ipv4).await? {
                let link = out_link(&route).and_then(|index| links.get(&index));
                if let Some(why) = in_the_way(&route, link.map(String::as_str), claims) {
                    return Err(Error::InTheWay(why));
                }
            }
        }
        Ok(())
    })
    .await
}

/// A table with what knarr's tables are made of, which the kernel looks at and does not keep.
fn sample(family: Family) -> String {
    let (ip, kind) = (family.name(), family.address_type());
    let loopback = if family == Family::V4 { "127.0.0.1" } else { "::1" };
    format!(
        "table {ip} {PROBE} {{\n\tset blocks {{\n\t\ttype {kind}\n\t\tflags interval\n\t}}\n\
         \tmap ends {{\n\t\ttype {kind} : {kind}\n\t}}\n\
         \tchain in {{\n\t\ttype nat hook prerouting priority -100\n\
         \t\tct state new {ip} daddr @blocks fib daddr type local dnat to {ip} daddr map @ends\n\t}}\n\
         \tchain out {{\n\t\ttype nat hook postrouting priority 100\n\
         \t\t{ip} daddr {loopback} meta mark set numgen random mod 2 masquerade fully-random\n\t}}\n}}\n"
    )
}

async fn nftables(claims: &[Claim]) -> Result<(), Error> {
    let mut families: Vec<Family> = claims.iter().map(|claim| Family::of(claim.block.address())).collect();
    families.dedup();
    let text: String = families.into_iter().map(sample).collect();
    let mut command = base::process::command("nft");
    command.args(["--check", "-f", "-"]);
    match base::process::check(command, text.as_bytes(), LIMIT).await {
        Ok(_) => Ok(()),
        Err(base::process::Error::Start { source, .. }) => {
            Err(Error::InTheWay(format!("the program nft cannot be started ({source}): install nftables")))
        }
        // One that crashes says nothing, and nothing about the kernel.
        Err(base::process::Error::Failed { stderr, .. }) if !stderr.is_empty() => {
            let first = stderr.lines().next().unwrap_or_default();
            Err(Error::Module { what: format!("nftables ({first})"), module: "nf_tables" })
        }
        Err(other) => Err(other.into()),
    }
}

/// Links of knarr's names have to be of knarr's kinds.
async fn names(netlink: &Netlink, tunnel: Option<&str>) -> Result<(), Error> {
    let wanted = TUNNELS.into_iter().filter(|_| tunnel.is_some());
    for (name, kind) in
        wanted.map(|name| (name, mesh::kind_by_name(name))).chain([(DEVICE, InfoKind::Bridge)])
    {
        let found = netlink.message_of(name).await?;
        if found.is_some_and(|message| mesh::kind_of(&message) != Some(kind)) {
            return Err(mesh::foreign(name));
        }
    }
    Ok(())
}

/// Addresses of the machine's that are in a block.
async fn addresses(netlink: &Netlink, claims: &[Claim]) -> Result<(), Error> {
    for link in netlink.links().await? {
        if link.name.starts_with(LINK_PREFIX) {
            continue;
        }
        for address in netlink.addresses(Some(&link)).await? {
            if let Some(Claim { name, block }) = claims.iter().find(|claim| claim.block.contains(address)) {
                let link = link.name;
                return Err(Error::InTheWay(format!(
                    "the link {link} has the address {address}, which is in {name} {block}: take it away \
                     (`ip address delete {address} dev {link}`) or name another block",
                )));
            }
        }
    }
    Ok(())
}

/// What is wrong with a route that is not knarr's: it takes a whole block, or a part of one.
fn in_the_way(route: &RouteMessage, link: Option<&str>, claims: &[Claim]) -> Option<String> {
    let own = route.header.protocol == RouteProtocol::Other(ROUTE_PROTOCOL)
        || link.is_some_and(|link| link.starts_with(LINK_PREFIX));
    if own || route.header.table != RouteHeader::RT_TABLE_MAIN {
        return None;
    }
    let to = destination(route)?;
    let takes = |claim: &&Claim| claim.block.prefix() <= to.prefix() && claim.block.contains(to.address());
    let Claim { name, block } = claims.iter().find(takes)?;
    let by = link.map(|link| format!(" by the link {link}")).unwrap_or_default();
    Some(format!(
        "there is a route to {to}{by}, which is in {name} {block}: remove it (`ip route delete {to}`) or name \
         another block"
    ))
}

impl Netlink {
    /// Whether the kernel has links of a kind. It looks for the kind before it looks at the address, which no link
    /// can have.
    async fn knows(&self, kind: InfoKind) -> Result<bool, Error> {
        let link = LinkMessageBuilder::<LinkUnspec>::new_with_info_kind(kind).name(PROBE);
        match self.0.link().add(link.address(vec![0xff; 6]).build()).execute().await {
            Ok(()) => self.remove_link(PROBE).await.map(|()| true),
            Err(error) => Ok(errno(&error) != Errno::EOPNOTSUPP as i32),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(to: &str, protocol: RouteProtocol) -> RouteMessage {
        let to: Cidr = to.parse().unwrap();
        let mut route = netlink::base_route(to).protocol(protocol).build();
        route.header.table = RouteHeader::RT_TABLE_MAIN;
        route
    }

    #[test]
    fn only_routes_within_a_block_are_in_the_way() {
        let claims = [("--cluster-cidr", "10.42.0.0/16"), ("--service-cidr", "fd43::/112")]
            .map(|(name, block)| Claim { name: name.to_owned(), block: block.parse().unwrap() });
        let why = |to: &str, link| in_the_way(&route(to, RouteProtocol::Static), link, &claims);
        assert_eq!(
            why("10.42.7.0/24", Some("eth1")).unwrap(),
            "there is a route to 10.42.7.0/24 by the link eth1, which is in --cluster-cidr 10.42.0.0/16: remove it \
             (`ip route delete 10.42.7.0/24`) or name another block"
        );
        assert!(why("10.42.0.0/16", None).is_some() && why("fd43::7/128", Some("eth1")).is_some());
        for fine in ["10.0.0.0/8", "0.0.0.0/0", "10.43.0.0/16", "fd43::/64"] {
            assert_eq!(why(fine, Some("eth1")), None, "{fine}");
        }
        assert_eq!(why("fd43::7/128", Some("knarr0")), None);
        let own = route("10.42.7.0/24", RouteProtocol::Other(ROUTE_PROTOCOL));
        assert_eq!(in_the_way(&own, Some("eth0"), &claims), None);
    }
}
