//! Which of the API server's connections go through tunnels that nodes have made to it. The names and what they mean are
//! k3s' (`--egress-selector-mode`).

use serde::{Deserialize, Serialize};

/// See the module. Each lets through what those before it do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Egress {
    /// None.
    Disabled,
    /// Those to kubelets.
    #[default]
    Agent,
    /// Those to pods.
    Pod,
    /// Those to all that Services lead to on nodes.
    Cluster,
}
