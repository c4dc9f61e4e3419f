//! The verbs: a pod gets a veth pair whose node end is a routed link of its own.

use super::further;
use super::message::{
    Attachment, Bandwidth, Call, Ends, Failure, Network, Requests, code, is_of, link_of, result,
};
use crate::netlink::{Link, Netlink};
use crate::node::LINK_PREFIX;
use crate::shaping::Rate;
use crate::{Cidr, DEVICE, Error, Pool, namespace, netlink, sysctl};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::fs::File;
use std::net::{IpAddr, Ipv6Addr};
use std::path::Path;

/// A pod's address and the gateway it reaches others by.
type Addressed = (IpAddr, IpAddr);

/// The node's address on every pod's link. A neighbour of IPv6 answers for addresses of the asked link alone,
/// where ARP answers for all of the machine's.
const V6_GATEWAY: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1));

fn gateway(block: Cidr) -> IpAddr {
    if block.is_ipv4() { block.gateway() } else { V6_GATEWAY }
}

fn pools(network: &Network) -> impl Iterator<Item = (Cidr, Pool)> {
    network.pod_cidrs.iter().map(|block| {
        let family = if block.is_ipv4() { "ip" } else { "ip6" };
        (*block, Pool::new(*block, &network.state_dir.join(family)))
    })
}

/// ADD: undone whole if a step fails, so that the runtime may try again.
pub(super) async fn add(call: &Call) -> Result<Value, Failure> {
    let network = call.usable_network()?;
    let added = attach(call, network).await;
    if added.is_err()
        && let Err(error) = detach(call, network).await
    {
        tracing::warn!(error = %error.to_json(""), "undoing a failed attachment");
    }
    Ok(result(call, &added?))
}

async fn attach(call: &Call, network: &Network) -> Result<Ends, Failure> {
    let (name, ifname) = (call.attachment.link(), call.attachment.ifname.as_str());
    let gone = || Failure::new(code::ENVIRONMENT, format!("{}: no such namespace", call.namespace.display()));
    let pod = namespace::open(&call.namespace)?.ok_or_else(gone)?;
    let requests = call.requests()?;
    let addresses = take(call, network, &requests)?;
    let here = namespace::current()?;
    // Left over from a call that was killed half way.
    netlink::with(None, async |netlink| netlink.remove_link(&name).await).await?;
    let inside = netlink::with(Some(&pod), async |netlink| {
        netlink.add_veth((ifname, &name), &here, network.mtu).await?;
        if let Some(mac) = requests.mac {
            netlink.set_mac(ifname, mac).await?;
        }
        netlink.set_up("lo").await?;
        netlink.known_link(ifname).await
    })
    .await?;
    if addresses.iter().any(|(address, _)| address.is_ipv6()) {
        speak_v6(&name)?;
        namespace::within(&pod, || speak_v6(ifname))?;
    }
    let host = netlink::with(None, |netlink| node_end(netlink, &name, &addresses, network)).await?;
    let is_additional = netlink::with(Some(&pod), |netlink| pod_end(netlink, &inside, &addresses)).await?;
    shape(&host, &requests.bandwidth).await?;
    Ok(Ends { host: (name, host.mac), pod: (ifname.to_owned(), inside.mac), addresses, is_additional })
}

/// The pod's addresses: those that it asks for, or the next ones.
fn take(call: &Call, network: &Network, requests: &Requests) -> Result<Vec<Addressed>, Failure> {
    let owner = call.attachment.owner();
    let outside = requests
        .addresses
        .iter()
        .find(|asked| !network.pod_cidrs.iter().any(|block| block.is_ipv4() == asked.is_ipv4()));
    if let Some(outside) = outside {
        return Err(Failure::new(code::NETWORK, format!("pods have no addresses like {outside} here")));
    }
    let mut addresses = Vec::new();
    for (block, pool) in pools(network) {
        let asked = requests.addresses.iter().find(|asked| asked.is_ipv4() == block.is_ipv4());
        let address = match asked {
            Some(asked) => pool.take_this(&owner, *asked)?,
            None => pool.take(&owner)?,
        };
        addresses.push((address, gateway(block)));
    }
    Ok(addresses)
}

/// Has a pod receive and send no faster than it may. What it receives waits where the node sends it; what it sends
/// waits on a link of its own (`ifb`), as only sending can be held back.
async fn shape(host: &Link, bandwidth: &Bandwidth) -> Result<(), Error> {
    let receiving = Rate::of(bandwidth.ingress_rate, bandwidth.ingress_burst);
    let sending = Rate::of(bandwidth.egress_rate, bandwidth.egress_burst);
    if receiving.is_none() && sending.is_none() {
        return Ok(());
    }
    netlink::with(None, async |netlink| {
        if let Some(rate) = receiving {
            netlink.limit(host, rate).await?;
        }
        if let Some(rate) = sending {
            let waiting = netlink.add_ifb(&waiting_room(&host.name), host.mtu).await?;
            netlink.limit(&waiting, rate).await?;
            netlink.redirect(host, &waiting).await?;
        }
        Ok(())
    })
    .await
}

/// The name of the link on which waits what a pod sends: that of the pod's, told apart by a letter that is no
/// digit of its hash.
fn waiting_room(link: &str) -> String {
    let hash = link.strip_prefix(LINK_PREFIX).unwrap_or(link);
    format!("{LINK_PREFIX}i{}", &hash[..hash.len() - 1])
}

/// Has one end of a pair speak IPv6: at once, and with addresses and routes from nobody but us.
fn speak_v6(link: &str) -> Result<(), Error> {
    [("disable_ipv6", "0"), ("accept_dad", "0"), ("accept_ra", "0")]
        .into_iter()
        .try_for_each(|(name, value)| sysctl::set(&format!("ipv6/conf/{link}/{name}"), value))
}

async fn node_end(
    netlink: Netlink,
    name: &str,
    addresses: &[Addressed],
    network: &Network,
) -> Result<Link, Error> {
    let link = netlink.known_link(name).await?;
    // Answers to connections from 127.0.0.1 to node ports come back on this link.
    sysctl::try_set(&format!("ipv4/conf/{name}/route_localnet"), "1");
    netlink.set_up(name).await?;
    for (address, gateway) in addresses {
        if gateway.is_ipv6() {
            netlink.add_address(&link, *gateway).await?;
        }
        let block = network.pod_cidrs.iter().find(|block| block.contains(*address));
        netlink.route_to_link(Cidr::single(*address), &link, block.map(Cidr::gateway)).await?;
    }
    Ok(link)
}

/// The pod's end; whether the pod has another link that leads to everybody.
async fn pod_end(netlink: Netlink, link: &Link, addresses: &[Addressed]) -> Result<bool, Error> {
    let mut is_additional = false;
    for (address, _) in addresses {
        netlink.add_address(link, *address).await?;
    }
    netlink.set_up(&link.name).await?;
    for (address, gateway) in addresses {
        if netlink.leaves_elsewhere(link, gateway.is_ipv4()).await? {
            is_additional = true;
            netlink.leave_by(link, *address, *gateway).await?;
            continue;
        }
        if gateway.is_ipv4() {
            netlink.route_to_link(Cidr::single(*gateway), link, None).await?;
        }
        netlink.default_route(*gateway, link).await?;
    }
    Ok(is_additional)
}

/// DEL: the same whether the pod, its namespace or its link are still there or not.
pub(super) async fn del(call: &Call) -> Result<(), Failure> {
    detach(call, call.network()).await
}

async fn detach(call: &Call, network: &Network) -> Result<(), Failure> {
    let (name, owner) = (call.attachment.link(), call.attachment.owner());
    if let Err(error) = forget_rules(call, network).await {
        // The pod's namespace is going, in which nobody sends any more.
        tracing::debug!(%error, "rules of a pod's further link stay");
    }
    // The link goes first: its address is not given to another pod while a route still leads here.
    netlink::with(None, async |netlink| {
        netlink.remove_link(&name).await?;
        netlink.remove_link(&waiting_room(&name)).await
    })
    .await?;
    for (_, pool) in pools(network) {
        pool.give_back(&owner)?;
    }
    Ok(())
}

async fn forget_rules(call: &Call, network: &Network) -> Result<(), Error> {
    let owner = call.attachment.owner();
    let mut addresses = Vec::new();
    for (_, pool) in pools(network) {
        addresses.extend(pool.held_by(&owner)?);
    }
    let here = !call.namespace.as_os_str().is_empty() && !addresses.is_empty();
    match here.then(|| namespace::open(&call.namespace)).transpose()?.flatten() {
        Some(pod) => further::forget(&pod, &call.attachment.ifname, &addresses).await,
        None => Ok(()),
    }
}

/// CHECK: the addresses are the pod's, and its two ends are as ADD made them.
pub(super) async fn check(call: &Call) -> Result<(), Failure> {
    let network = call.usable_network()?;
    let broken = |what: String| Failure::new(code::BROKEN, what);
    let pod = namespace::open(&call.namespace)?.ok_or_else(|| broken("the namespace is gone".into()))?;
    let (name, ifname) = (call.attachment.link(), &call.attachment.ifname);
    netlink::with(None, async |netlink| netlink.known_link(&name).await).await?;
    let addresses = netlink::with(Some(&pod), async |netlink| {
        let link = netlink.known_link(ifname).await?;
        netlink.addresses(Some(&link)).await
    })
    .await?;
    for (_, pool) in pools(network) {
        let held = pool.held_by(&call.attachment.owner())?;
        let held = held.ok_or_else(|| broken(format!("{} has no address", call.attachment.owner())))?;
        if !addresses.contains(&held) {
            return Err(broken(format!("{ifname} lacks its address {held}")));
        }
        if let Some(previous) = call.previous_result()
            && !previous["ips"].to_string().contains(&format!("\"{held}/"))
        {
            return Err(broken(format!("the address is {held}, not that of prevResult")));
        }
    }
    Ok(())
}

/// GC: frees what belongs to no attachment that the runtime still knows.
pub(super) async fn collect(call: &Call) -> Result<(), Failure> {
    let valid: HashSet<String> = call.valid_attachments().iter().map(Attachment::owner).collect();
    let (mut gone, of) = (Vec::new(), &call.attachment.network);
    for (_, pool) in pools(call.usable_network()?) {
        gone.extend(pool.retain(|owner| !is_of(owner, of) || valid.contains(owner))?);
    }
    netlink::with(None, async |netlink| {
        for owner in &gone {
            let name = link_of(owner);
            netlink.remove_link(&name).await?;
            netlink.remove_link(&waiting_room(&name)).await?;
        }
        Ok(())
    })
    .await?;
    Ok(())
}

/// STATUS: whether ADD can work.
pub(super) async fn status(call: &Call) -> Result<(), Failure> {
    let unavailable = |what: String| Failure::new(code::NOT_AVAILABLE, what);
    let device = netlink::with(None, async |netlink| netlink.link(DEVICE).await).await?;
    device.ok_or_else(|| unavailable(format!("{DEVICE} is not there: knarr is not running")))?;
    for (block, pool) in pools(call.usable_network()?) {
        if !pool.has_room()? {
            return Err(unavailable(format!("all addresses of {block} are taken")));
        }
    }
    Ok(())
}

/// The `loopback` plugin's ADD.
pub(super) async fn loopback(call: &Call) -> Result<Value, Failure> {
    let missing = || Failure::new(code::ENVIRONMENT, "no such namespace");
    let pod: File = namespace::open(Path::new(&call.namespace))?.ok_or_else(missing)?;
    netlink::with(Some(&pod), async |netlink| netlink.set_up("lo").await).await?;
    let mut ip = json!({"interface": 0, "address": "127.0.0.1/8"});
    if call.version().starts_with("0.") {
        ip["version"] = json!("4");
    }
    let interface = json!({"name": "lo", "mac": "00:00:00:00:00:00", "sandbox": call.namespace});
    let own = json!({"cniVersion": call.version(), "interfaces": [interface], "ips": [ip], "dns": {}});
    Ok(call.previous_result().cloned().unwrap_or(own))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rooms_to_wait_in_have_names_of_their_own() {
        assert_eq!(waiting_room("knarr9e27a0abdb"), "knarri9e27a0abd");
    }
}
