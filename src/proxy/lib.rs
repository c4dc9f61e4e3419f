//! Services in the kernel: which address and port leads to which endpoints, as nftables maps.
//!
//! It owns the table `ip knarr-proxy` and the connection tracking entries that outlive their
//! endpoint; it must never touch another table, and never list what it wrote to find out what is
//! there. A packet's cost does not depend on the number of services: there is no chain per service,
//! only one per number of endpoints. Start reading at [`plan::plan`], then [`model::Model::diff`].

mod flows;
mod model;
mod plan;
mod render;
mod run;

pub use run::{Handle, start};

use net::Cidr;
use std::net::IpAddr;

/// What the proxy has to know about its node and cluster.
#[derive(Clone, Debug)]
pub struct Config {
    /// The name of this node, to tell local endpoints.
    pub node_name: String,
    /// The blocks of all pods' addresses.
    pub cluster_cidrs: Vec<Cidr>,
    /// The blocks of all services' addresses.
    pub service_cidrs: Vec<Cidr>,
    /// Service addresses that this process answers on itself, such as the cluster DNS': left alone.
    pub answered_here: Vec<IpAddr>,
}

/// Why the kernel does not have what it should. The supervisor retries with a full resync.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A transaction was refused; nothing of it was applied.
    #[error(transparent)]
    Net(#[from] net::Error),
}

#[cfg(test)]
mod tests;
