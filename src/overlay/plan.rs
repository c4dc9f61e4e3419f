//! From Nodes to a mesh: who is reached how. Pure.

use crate::{Backend, Config, keys};
use api::Object;
use api::slim::{Node, WIREGUARD_KEY};
use net::mesh::{Kind, Mac, Mesh, Out, Route, Tunnel, VXLAN, VXLAN_V6, Vxlan, WIREGUARD};
use net::wireguard::{Peer, PrivateKey, PublicKey, Wireguard};
use net::{Cidr, Family};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

/// The number of the one network (VNI), as flannel has it.
const NETWORK: u32 = 1;

/// As many nodes as Kubernetes is meant for; more get no route, and a warning.
const MOST_NODES: usize = 5_000;

/// After so long a silence, what translates addresses between nodes may forget them (WireGuard's own advice).
const KEEPALIVE_S: u16 = 25;

/// What a Node says of where it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) name: String,
    pub(crate) blocks: Vec<Cidr>,
    pub(crate) internal: Vec<IpAddr>,
    pub(crate) external: Vec<IpAddr>,
    key: Option<PublicKey>,
}

impl Place {
    /// What cannot be read is left out.
    pub(crate) fn of(node: &Node) -> Self {
        let blocks = node.spec.iter().flat_map(|spec| spec.pod_cidrs.iter().flatten());
        let addresses = |kind: &'static str| {
            let all = node.status.iter().flat_map(|status| status.addresses.iter().flatten());
            all.filter(move |address| &*address.type_ == kind)
                .filter_map(|address| address.address.parse().ok())
        };
        Self {
            name: node.name().to_owned(),
            blocks: blocks.filter_map(|block| block.parse().ok()).collect(),
            internal: addresses("InternalIP").collect(),
            external: addresses("ExternalIP").collect(),
            key: node.annotations().get(WIREGUARD_KEY).and_then(keys::read_public),
        }
    }

    fn block(&self, family: Family) -> Option<&Cidr> {
        self.blocks.iter().find(|block| Family::of(block.address()) == family)
    }
}

/// What the node knows of its machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Machine {
    /// What its link takes.
    pub(crate) mtu: u32,
    /// Addresses of others that are on one of its links, and on which.
    pub(crate) direct: BTreeMap<IpAddr, u32>,
    /// Its key.
    pub(crate) key: Option<PrivateKey>,
}

/// What is to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) mesh: Mesh,
    /// Nodes without a route, and why.
    pub(crate) unreached: BTreeMap<String, String>,
}

/// The addresses about which it matters whether they are on one of the machine's links.
pub(crate) fn questions(config: &Config, own: &str, places: &[Place]) -> BTreeSet<IpAddr> {
    let matters = match config.backend {
        Backend::HostGw => true,
        Backend::Vxlan => config.direct_routing || config.external_addresses,
        Backend::Wireguard => config.external_addresses,
        Backend::None => false,
    };
    let others = places.iter().filter(|place| matters && place.name != own);
    others.take(MOST_NODES).flat_map(|place| place.internal.iter().copied()).collect()
}

/// See the module's comment. `own` is this node, which may be among the places.
pub(crate) fn plan(config: &Config, own: &Place, places: &[Place], machine: &Machine) -> Plan {
    let mut planner = Planner { config, own, machine, tunnels: BTreeMap::new(), plan: Plan::default() };
    if config.backend != Backend::None && !own.blocks.is_empty() {
        planner.begin();
        let others = places.iter().filter(|place| place.name != own.name && !place.blocks.is_empty());
        for (number, place) in others.enumerate() {
            let added = if number < MOST_NODES {
                planner.add(place)
            } else {
                Err(format!("more than {MOST_NODES} nodes"))
            };
            planner.plan.unreached.extend(added.err().map(|why| (place.name.clone(), why)));
        }
    }
    let Planner { tunnels, mut plan, .. } = planner;
    plan.mesh.tunnels = tunnels.into_values().collect();
    plan
}

struct Planner<'a> {
    config: &'a Config,
    own: &'a Place,
    machine: &'a Machine,
    tunnels: BTreeMap<&'static str, Tunnel>,
    plan: Plan,
}

impl Planner<'_> {
    /// What there is also without other nodes: the ends at which they find this one.
    fn begin(&mut self) {
        let first = [Family::V4, Family::V6].into_iter().find(|family| self.local(*family).is_some());
        let Some(family) = first else { return };
        match self.config.backend {
            Backend::Vxlan => drop(self.vxlan(family)),
            Backend::Wireguard => drop(self.wireguard(family)),
            Backend::HostGw | Backend::None => {}
        }
    }

    /// This node's own address of a family.
    fn local(&self, family: Family) -> Option<IpAddr> {
        self.own.internal.iter().copied().find(|address| Family::of(*address) == family)
    }

    /// Adds what leads to another node, or says why there is nothing.
    fn add(&mut self, place: &Place) -> Result<(), String> {
        let blocks = self.blocks(place)?;
        match self.config.backend {
            Backend::None => Ok(()),
            Backend::HostGw => blocks.iter().try_for_each(|block| {
                let hop = self.direct_hop(place, block).ok_or(
                    "it has no address on a link that this node has an address on, which host-gw needs: \
                     use --network-backend vxlan",
                )?;
                self.route(*block, hop);
                Ok(())
            }),
            Backend::Vxlan => self.add_vxlan(place, &blocks),
            Backend::Wireguard => self.add_wireguard(place, blocks),
        }
    }

    /// The blocks of another node that can be routed to.
    fn blocks(&self, place: &Place) -> Result<Vec<Cidr>, String> {
        let mine = |block: &&Cidr| self.own.block(Family::of(block.address())).is_some();
        let blocks: Vec<Cidr> = place.blocks.iter().filter(mine).copied().collect();
        for block in &blocks {
            let inside =
                |cluster: &Cidr| cluster.prefix() <= block.prefix() && cluster.contains(block.address());
            if !self.config.cluster_cidrs.iter().any(inside) {
                return Err(format!("its block {block} is not within those of the cluster"));
            }
            let taken = self.own.blocks.iter().chain(self.plan.mesh.routes.keys());
            if let Some(other) = taken.into_iter().find(|other| other.overlaps(block)) {
                return Err(format!("its block {block} overlaps {other}, which is another node's"));
            }
        }
        Ok(blocks)
    }

    /// The address of another node on a link that both have, for a block of one family.
    fn direct_hop(&self, place: &Place, block: &Cidr) -> Option<(Out, Option<IpAddr>)> {
        let mut own = place.internal.iter().filter(|address| address.is_ipv4() == block.is_ipv4());
        own.find_map(|address| Some((Out::Link(*self.machine.direct.get(address)?), Some(*address))))
    }

    fn route(&mut self, block: Cidr, (out, via): (Out, Option<IpAddr>)) {
        let source = self.own.block(Family::of(block.address())).map(Cidr::gateway);
        self.plan.mesh.routes.insert(block, Route { out, via, source });
    }

    /// Where tunnels to another node end. Both choose the same family, so that packets come back as they went.
    fn end(&self, place: &Place) -> Result<IpAddr, String> {
        let of = |addresses: &[IpAddr], family: Family| {
            let inside =
                |address: &IpAddr| self.config.cluster_cidrs.iter().any(|block| block.contains(*address));
            addresses.iter().copied().find(|address| Family::of(*address) == family && !inside(address))
        };
        for family in [Family::V4, Family::V6] {
            let Some(internal) = of(&place.internal, family) else { continue };
            if self.local(family).is_none() {
                continue;
            }
            if self.own.internal.contains(&internal) {
                return Err(format!("its address {internal} is this node's own"));
            }
            let outside = self.config.external_addresses && !self.machine.direct.contains_key(&internal);
            return Ok(of(&place.external, family).filter(|_| outside).unwrap_or(internal));
        }
        Err("it has no address of a family that this node has an address of".to_owned())
    }

    fn add_vxlan(&mut self, place: &Place, blocks: &[Cidr]) -> Result<(), String> {
        let hop = |block: &Cidr| self.direct_hop(place, block).filter(|_| self.config.direct_routing);
        let direct: Vec<_> = blocks.iter().map(|block| (*block, hop(block))).collect();
        if direct.iter().all(|(_, hop)| hop.is_some()) {
            direct
                .into_iter()
                .for_each(|(block, hop)| hop.into_iter().for_each(|hop| self.route(block, hop)));
            return Ok(());
        }
        let to = self.end(place)?;
        // The name of its end comes from the block that all of it agree on: the first of IPv4, or else of IPv6.
        let mac = mac(place);
        let name = {
            let (name, own) = self.vxlan(Family::of(to)).ok_or("this node has no address to send from")?;
            for (block, _) in direct.iter().filter(|(_, hop)| hop.is_none()) {
                own.neighbours.insert(block.gateway(), mac);
            }
            own.ends.insert(mac, to);
            name
        };
        for (block, hop) in direct {
            let hop = hop.unwrap_or((Out::Tunnel(name), Some(block.gateway())));
            self.route(block, hop);
        }
        Ok(())
    }

    /// This node's end of VXLAN between addresses of a family.
    fn vxlan(&mut self, family: Family) -> Option<(&'static str, &mut Vxlan)> {
        let name = if family == Family::V4 { VXLAN } else { VXLAN_V6 };
        let own = Vxlan {
            id: NETWORK,
            port: self.config.vxlan_port,
            local: self.local(family)?,
            mac: mac(self.own),
            neighbours: BTreeMap::new(),
            ends: BTreeMap::new(),
        };
        let tunnel = self.tunnel(name, family, Kind::Vxlan(own));
        match &mut self.tunnels.entry(name).or_insert(tunnel).kind {
            Kind::Vxlan(own) => Some((name, own)),
            Kind::Wireguard(_) => None,
        }
    }

    fn tunnel(&self, name: &'static str, family: Family, kind: Kind) -> Tunnel {
        let mtu = self.machine.mtu.saturating_sub(self.config.backend.overhead_bytes(family));
        Tunnel { name, mtu, v6: self.own.block(Family::V6).is_some(), kind }
    }

    fn add_wireguard(&mut self, place: &Place, blocks: Vec<Cidr>) -> Result<(), String> {
        // It is about to publish one.
        let Some(key) = place.key else { return Ok(()) };
        let to = self.end(place)?;
        let endpoint = Some(SocketAddr::new(to, self.config.wireguard_port));
        let keepalive_s = self.config.external_addresses.then_some(KEEPALIVE_S);
        let peer = Peer { endpoint, keepalive_s, blocks: blocks.iter().copied().collect() };
        let own = self.wireguard(Family::of(to)).ok_or("this node has no key")?;
        if own.peers.contains_key(&key) {
            return Err("another node has the same key".to_owned());
        }
        own.peers.insert(key, peer);
        blocks.into_iter().for_each(|block| self.route(block, (Out::Tunnel(WIREGUARD), None)));
        Ok(())
    }

    /// This node's end of WireGuard, which is one for both families; what fits is decided by the larger header.
    fn wireguard(&mut self, family: Family) -> Option<&mut Wireguard> {
        let key = self.machine.key.clone()?;
        let own = Wireguard { port: self.config.wireguard_port, key, peers: BTreeMap::new() };
        let tunnel = self.tunnel(WIREGUARD, family, Kind::Wireguard(own));
        let mtu = tunnel.mtu;
        let tunnel = self.tunnels.entry(WIREGUARD).or_insert(tunnel);
        tunnel.mtu = tunnel.mtu.min(mtu);
        match &mut tunnel.kind {
            Kind::Wireguard(own) => Some(own),
            Kind::Vxlan(_) => None,
        }
    }
}

/// The link address of a node's end of VXLAN.
fn mac(place: &Place) -> Mac {
    let block = place.block(Family::V4).or(place.block(Family::V6));
    block.map_or(Mac::default(), Mac::of)
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
