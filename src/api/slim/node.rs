//! Nodes as other nodes look at them: where they are, and which pods are there.
#![expect(missing_docs, reason = "the fields are those of the API")]

use super::Meta;
use crate::Object;
use k8s_openapi::Resource;
use serde::Deserialize;

/// A node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Node {
    pub metadata: Meta,
    pub spec: Option<NodeSpec>,
    pub status: Option<NodeStatus>,
}

/// Its specification.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct NodeSpec {
    #[serde(rename = "podCIDRs")]
    pub pod_cidrs: Option<Box<[Box<str>]>>,
}

/// Its status.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct NodeStatus {
    pub addresses: Option<Box<[NodeAddress]>>,
}

/// One of its addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct NodeAddress {
    #[serde(rename = "type")]
    pub type_: Box<str>,
    pub address: Box<str>,
}

impl Resource for Node {
    const API_VERSION: &'static str = crate::core::Node::API_VERSION;
    const GROUP: &'static str = crate::core::Node::GROUP;
    const KIND: &'static str = crate::core::Node::KIND;
    const VERSION: &'static str = crate::core::Node::VERSION;
    const URL_PATH_SEGMENT: &'static str = crate::core::Node::URL_PATH_SEGMENT;
    type Scope = <crate::core::Node as Resource>::Scope;
}

impl Object for Node {
    type Meta = Meta;

    fn from_json(bytes: &[u8]) -> serde_json::Result<Self> {
        serde_json::from_slice(bytes)
    }

    fn meta(&self) -> &Meta {
        &self.metadata
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_keeps_its_places() {
        let text = r#"{"metadata": {"name": "a", "annotations": {"x": "y", "knarr.io/wireguard-public-key": "k"}},
            "spec": {"podCIDR": "10.42.0.0/24", "podCIDRs": ["10.42.0.0/24"]},
            "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}], "images": []}}"#;
        let node = Node::from_json(text.as_bytes()).unwrap();
        assert_eq!(node.annotations().iter().collect::<Vec<_>>(), [("knarr.io/wireguard-public-key", "k")]);
        assert_eq!(&*node.spec.unwrap().pod_cidrs.unwrap()[0], "10.42.0.0/24");
        assert_eq!(&*node.status.unwrap().addresses.unwrap()[0].address, "192.0.2.1");
    }
}
