//! How a machine becomes a node of a cluster: it verifies the cluster's authority by its token, shows the token, and
//! is given a ticket, by which it asks for a certificate of its own through the certificates API, like every kubelet.
//! From then on it is that node by that certificate, and needs no token.
//!
//! [`Desk`] is the server's side, [`join`] the machine's.

mod authorities;
mod certificates;
mod desk;
mod machine;
mod reach;
mod servers;
mod skew;
mod tunnel;

pub use authorities::{TRUST_BUNDLES, follow_authorities};
pub use certificates::keep;
pub use desk::{Desk, Tell, Ticket, forget_deleted};
pub use machine::{Joined, Seeking, join};
pub use reach::{kubelet_alone, reachable};
pub use servers::follow_servers;
pub use tunnel::keep_tunnels;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Where machines apply.
pub const PATH: &str = "/v1-knarr/join";
/// Where machines apply that are nodes, and can prove it by their password alone: their certificate has expired.
pub const AGAIN_PATH: &str = "/v1-knarr/join-again";
/// Where nodes read the cluster's settings again.
pub const SETTINGS_PATH: &str = "/v1-knarr/settings";
/// Where machines read the authority, before they can verify anybody: what they read they compare with their token.
pub const AUTHORITIES_PATH: &str = "/cacerts";

/// What a machine says of itself.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Application {
    node: String,
    /// By which the machine is known again: nobody else may become a node of its name.
    password: String,
    version: String,
}

/// What it is told of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Cluster {
    /// The settings that all nodes have in common, by their names.
    pub settings: Map<String, Value>,
    /// The authority of those who speak to kubelets, as PEM.
    pub client_authority: String,
    /// The authorities of servers, as PEM; nothing by servers of before 0.2.
    pub server_authority: String,
    /// The server's version.
    pub version: String,
}

/// What a machine that may join is given.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Admission {
    ticket: String,
    cluster: Cluster,
}
