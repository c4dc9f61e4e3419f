//! Services in the kernel: which address and port leads to which endpoints, as nftables maps.
//!
//! It owns the tables `ip knarr-proxy` and `ip6 knarr-proxy` and the connection tracking entries that
//! outlive their endpoint; it must never touch another table, and never list what it wrote to find out
//! what is there. A packet's cost does not depend on the number of services: there is no chain per
//! service, only one per number of endpoints. A change costs what changed: each service is planned by
//! itself ([`plan::service`]), [`state::State`] says what that changes, and elements go to the kernel
//! over netlink. Start reading there.

mod announce;
mod clients;
mod endpoints;
mod family;
mod few;
mod firewalls;
mod flows;
mod health;
mod inbox;
mod metrics;
mod model;
mod plan;
mod policy;
mod render;
mod run;
mod settings;
mod stale;
mod state;

pub use policy::{Policies, start_policies};
pub use run::start;
pub use settings::Settings;

use family::Family;
use net::Cidr;
use std::net::IpAddr;
use std::sync::Arc;

/// What the proxy has to know about its node and cluster.
#[derive(Clone, Debug)]
pub struct Config {
    /// The name of this node, to tell local endpoints.
    pub node_name: String,
    /// This node's addresses.
    pub node_ips: Vec<IpAddr>,
    /// The blocks of all pods' addresses.
    pub cluster_cidrs: Vec<Cidr>,
    /// The blocks of all services' addresses.
    pub service_cidrs: Vec<Cidr>,
    /// Service addresses that this process answers on itself, such as the cluster DNS': left alone.
    pub answered_here: Vec<IpAddr>,
    /// What kube-proxy's flags say.
    pub settings: Settings,
}

impl Config {
    /// The families that the cluster has.
    fn families(&self) -> impl Iterator<Item = Family> {
        Family::ALL.into_iter().filter(|family| {
            let mut blocks = self.cluster_cidrs.iter().chain(&self.service_cidrs);
            blocks.any(|block| Family::of(block.address()) == *family)
        })
    }

    /// The addresses at which node ports are; all of the node's if there are none.
    fn node_port_blocks(&self, family: Family) -> impl Iterator<Item = Cidr> {
        let own =
            self.node_ips.iter().filter(|_| self.settings.primary).map(|address| Cidr::single(*address));
        let blocks = self.settings.node_port_addresses.iter().copied().chain(own);
        let blocks: Vec<Cidr> = blocks.filter(|block| Family::of(block.address()) == family).collect();
        let all = blocks.iter().any(|block| block.prefix() == 0);
        blocks.into_iter().filter(move |_| !all)
    }
}

/// Where this node is, for endpoints that are meant for a place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Topology {
    pub(crate) node_name: Arc<str>,
    /// Its label `topology.kubernetes.io/zone`.
    pub(crate) zone: Option<String>,
}

/// Why the kernel does not have what it should. The supervisor retries with a full resync.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A transaction was refused; nothing of it was applied.
    #[error(transparent)]
    Net(#[from] net::Error),
    /// Somebody removed what is there for these objects.
    #[error("somebody removed the tables of {0}; they are made anew")]
    Removed(&'static str),
    /// An address cannot be listened on: another program has it, or it is not this machine's.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Where.
        address: std::net::SocketAddr,
        /// The system's reason.
        source: std::io::Error,
    },
}

#[cfg(test)]
mod tests;
