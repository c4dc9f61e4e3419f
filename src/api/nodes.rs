//! What is said of nodes between the rooms that write and read it.

use crate::Object;
use crate::core::Node;

/// The label of servers' nodes, by which `kubectl get nodes` shows their role. A kubelet may not say this of itself.
pub const CONTROL_PLANE: &str = "node-role.kubernetes.io/control-plane";

/// Whether the node is a server's.
pub fn is_server(node: &Node) -> bool {
    node.labels().contains_key(CONTROL_PLANE)
}
