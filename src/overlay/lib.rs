//! The way from one node's pods to another's: tunnels and routes that follow the Nodes.
//!
//! It owns what the plan of the room `net` calls a mesh, and nothing else of the machine's network. Nothing is
//! exchanged between nodes but what their Nodes say: a block of pods' addresses, the node's own addresses, a public
//! key. It must never route a block into nowhere: a node that cannot be reached gets no route, and a warning says
//! why. [`plan`] decides, [`run`] carries out. Start reading there.

mod keys;
mod plan;
mod run;

pub use run::start;

use net::mesh::{VXLAN, VXLAN_V6, WIREGUARD};
use net::{Cidr, Family};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::path::PathBuf;

/// What the overlay has to know about its node and cluster.
#[derive(Clone, Debug)]
pub struct Config {
    /// The name of this node.
    pub node_name: String,
    /// Its addresses, for as long as its Node names none.
    pub node_ips: Vec<IpAddr>,
    /// The blocks of all pods' addresses.
    pub cluster_cidrs: Vec<Cidr>,
    /// How packets get from node to node.
    pub backend: Backend,
    /// Nodes that share a link are sent packets as they are, also where others are sent them in a tunnel.
    pub direct_routing: bool,
    /// Nodes are reached by their external addresses where they share no link.
    pub external_addresses: bool,
    /// The port of VXLAN.
    pub vxlan_port: u16,
    /// The port of WireGuard.
    pub wireguard_port: u16,
    /// Where the node keeps its key for WireGuard.
    pub key_file: PathBuf,
}

/// How packets get from node to node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Backend {
    /// In packets of UDP.
    #[default]
    Vxlan,
    /// As they are, over the link that all nodes share.
    HostGw,
    /// In packets of UDP, encrypted; k3s has `wireguard-native` for it.
    #[serde(alias = "wireguard-native")]
    Wireguard,
    /// Not at all, or by somebody else.
    None,
}

/// What is put around a packet of a pod's.
const VXLAN_BYTES: u32 = 8 + 8 + 14;
const WIREGUARD_BYTES: u32 = 8 + 32;
/// The outer packet's own header.
const V4_BYTES: u32 = 20;
const V6_BYTES: u32 = 40;

impl Config {
    /// The family of the addresses that tunnels go between where a node has both.
    fn family(&self) -> Family {
        if self.node_ips.iter().any(IpAddr::is_ipv4) { Family::V4 } else { Family::V6 }
    }

    /// What a packet of a pod's has to be smaller by than what the node's link takes.
    pub fn overhead_bytes(&self) -> u32 {
        self.backend.overhead_bytes(self.family())
    }

    /// The link that packets to other nodes go through, if there is one.
    pub fn tunnel(&self) -> Option<&'static str> {
        match (self.backend, self.family()) {
            (Backend::Vxlan, Family::V4) => Some(VXLAN),
            (Backend::Vxlan, Family::V6) => Some(VXLAN_V6),
            (Backend::Wireguard, _) => Some(WIREGUARD),
            (Backend::HostGw | Backend::None, _) => None,
        }
    }
}

impl Backend {
    fn overhead_bytes(self, family: Family) -> u32 {
        let outer = if family == Family::V4 { V4_BYTES } else { V6_BYTES };
        match self {
            Self::Vxlan => outer + VXLAN_BYTES,
            Self::Wireguard => outer + WIREGUARD_BYTES,
            Self::HostGw | Self::None => 0,
        }
    }
}

/// Why other nodes' pods cannot be reached. The supervisor retries with a look at everything.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel or its tables.
    #[error(transparent)]
    Net(#[from] net::Error),
    /// The key could not be published.
    #[error("publishing the key of this node: {0}")]
    Client(#[from] client::Error),
    /// The file of the key cannot be used.
    #[error("the key of this node, {}: {source}", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_packets_are_smaller_by_what_is_put_around_them() {
        let both = |backend: Backend| Family::ALL.map(|family| backend.overhead_bytes(family));
        assert_eq!(both(Backend::Vxlan), [50, 70]);
        assert_eq!(both(Backend::Wireguard), [60, 80]);
        assert_eq!(both(Backend::HostGw), [0, 0]);
    }
}
