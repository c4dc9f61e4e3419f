//! The machine's network: links, addresses and routes over netlink, nftables as rendered text
//! (elements that change also over netlink), address pools, and the CNI verbs by which containerd
//! attaches pods. No Kubernetes word in it.
//!
//! Everything it adds to the machine carries the name `knarr` (links, tables) or the routing protocol
//! number [`ROUTE_PROTOCOL`], so that [`teardown`] finds all of it. It must never touch what others
//! made, and never leave a pod or service address to the machine's default route.
//!
//! Each pod has a veth pair of its own and a host route; there is no bridge between pods, because a
//! bridged answer passes the host by and with it the connection tracking that translated the request.
//! The device `knarr0` has no ports: it holds the node's own addresses. Start reading at [`setup`].

pub mod announce;
mod cidr;
pub mod cni;
pub mod conntrack;
mod elements;
mod family;
pub mod firewalls;
mod hearing;
pub mod mesh;
mod namespace;
mod netfilter;
mod netlink;
pub mod nft;
mod node;
mod pool;
mod removals;
mod resize;
mod shaping;
mod surroundings;
mod sysctl;
pub mod wireguard;

pub(crate) use pool::Pool;

pub use cidr::Cidr;
pub use family::Family;
pub use netlink::ROUTE_PROTOCOL;
pub use node::{
    DEVICE, MASQUERADE_MARK, Node, add_local_address, contain, link_mtu, local_addresses, outer_links, setup,
    teardown,
};
pub use pool::PoolError;
pub use removals::removed;
pub use resize::resize;
pub use surroundings::{Claim, check};

/// Why the network could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused a netlink request. Retry when the state it names has changed.
    #[error("{what}: {reason}")]
    Netlink {
        /// What was asked for.
        what: String,
        /// The kernel's answer.
        reason: String,
    },
    /// A file of the kernel's or of the state directory. Report; a retry helps when the disk was full.
    #[error("{what}: {source}")]
    Io {
        /// The file and what was done with it.
        what: String,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The kernel lacks what this needs. Report; a retry helps when the module was loaded.
    #[error("{what}: this kernel has no {module}: load it with `modprobe {module}`")]
    Module {
        /// What was asked for.
        what: String,
        /// The module.
        module: &'static str,
    },
    /// Something of somebody else's is where knarr's has to be. Report; a retry helps when it was removed.
    #[error("{0}")]
    InTheWay(String),
    /// The `nft` program is missing or refused a transaction, of which then nothing was applied.
    #[error("nftables: {0}")]
    Nft(#[from] base::process::Error),
    /// The address pool; see there.
    #[error(transparent)]
    Pool(#[from] PoolError),
}

impl Error {
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}
