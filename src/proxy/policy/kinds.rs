//! The kinds of the network policy API (`policy.networking.k8s.io`), as much of them as is decided by. Their
//! definitions are installed by users.

use api::k8s::{ClusterResourceScope, Resource};
use api::meta::LabelSelector;
use api::{Object, slim};
use serde::Deserialize;

/// The group of all of them.
pub(crate) const GROUP: &str = "policy.networking.k8s.io";

/// A policy of a kind: they differ in their names alone.
macro_rules! kind {
    ($name:ident, $version:literal, $plural:literal) => {
        #[derive(Clone, Debug, Default, Deserialize)]
        #[serde(default)]
        pub(crate) struct $name {
            pub(crate) metadata: slim::Meta,
            pub(crate) spec: Spec,
        }

        impl Resource for $name {
            const API_VERSION: &'static str = concat!("policy.networking.k8s.io/", $version);
            const GROUP: &'static str = GROUP;
            const KIND: &'static str = stringify!($name);
            const VERSION: &'static str = $version;
            const URL_PATH_SEGMENT: &'static str = $plural;
            type Scope = ClusterResourceScope;
        }

        impl Object for $name {
            type Meta = slim::Meta;

            fn from_json(bytes: &[u8]) -> serde_json::Result<Self> {
                serde_json::from_slice(bytes)
            }

            fn meta(&self) -> &slim::Meta {
                &self.metadata
            }
        }
    };
}

kind!(AdminNetworkPolicy, "v1alpha1", "adminnetworkpolicies");
kind!(BaselineAdminNetworkPolicy, "v1alpha1", "baselineadminnetworkpolicies");
kind!(ClusterNetworkPolicy, "v1alpha2", "clusternetworkpolicies");

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Spec {
    /// Of a `ClusterNetworkPolicy`: `Admin` or `Baseline`.
    pub(crate) tier: String,
    pub(crate) priority: i32,
    pub(crate) subject: Selected,
    pub(crate) ingress: Vec<RuleSpec>,
    pub(crate) egress: Vec<RuleSpec>,
}

/// Pods that a policy is for, or that a rule is about.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Selected {
    pub(crate) namespaces: Option<LabelSelector>,
    pub(crate) pods: Option<NamespacedPod>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct NamespacedPod {
    pub(crate) namespace_selector: LabelSelector,
    pub(crate) pod_selector: LabelSelector,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct RuleSpec {
    pub(crate) action: String,
    pub(crate) from: Vec<PeerSpec>,
    pub(crate) to: Vec<PeerSpec>,
    /// In `v1alpha1`.
    pub(crate) ports: Option<Vec<PortSpec>>,
    /// In `v1alpha2`.
    pub(crate) protocols: Option<Vec<ProtocolSpec>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct PeerSpec {
    #[serde(flatten)]
    pub(crate) selected: Selected,
    pub(crate) nodes: Option<LabelSelector>,
    pub(crate) networks: Vec<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct PortSpec {
    pub(crate) port_number: Option<PortNumber>,
    pub(crate) port_range: Option<PortRange>,
    pub(crate) named_port: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct PortNumber {
    pub(crate) protocol: Option<String>,
    pub(crate) port: i32,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct PortRange {
    pub(crate) protocol: Option<String>,
    pub(crate) start: i32,
    pub(crate) end: i32,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ProtocolSpec {
    pub(crate) tcp: Option<Transport>,
    pub(crate) udp: Option<Transport>,
    pub(crate) sctp: Option<Transport>,
    pub(crate) destination_named_port: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Transport {
    pub(crate) destination_port: Option<DestinationPort>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct DestinationPort {
    pub(crate) number: Option<i32>,
    pub(crate) range: Option<PortRange>,
}
