//! EndpointSlices without what only those decide by who write them.
#![expect(missing_docs, reason = "the fields are those of the API")]

use super::Meta;
use crate::Object;
use k8s_openapi::Resource;
use serde::Deserialize;

/// A part of a Service's endpoints.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EndpointSlice {
    pub metadata: Meta,
    pub address_type: Box<str>,
    /// Null means none.
    pub ports: Option<Box<[EndpointPort]>>,
    pub endpoints: Option<Box<[Endpoint]>>,
}

/// A port of all endpoints of a slice.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct EndpointPort {
    pub name: Option<Box<str>>,
    pub protocol: Option<Box<str>>,
    pub port: Option<i32>,
}

/// One endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Endpoint {
    pub addresses: Box<[Box<str>]>,
    pub conditions: Option<EndpointConditions>,
    pub hostname: Option<Box<str>>,
    pub node_name: Option<Box<str>>,
    pub hints: Option<Box<EndpointHints>>,
}

/// How an endpoint fares; what is not said counts as good.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct EndpointConditions {
    pub ready: Option<bool>,
    pub serving: Option<bool>,
    pub terminating: Option<bool>,
}

/// For whom an endpoint is meant.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EndpointHints {
    pub for_nodes: Option<Box<[Place]>>,
    pub for_zones: Option<Box<[Place]>>,
}

/// A node or a zone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Place {
    pub name: Box<str>,
}

impl Resource for EndpointSlice {
    const API_VERSION: &'static str = crate::discovery::EndpointSlice::API_VERSION;
    const GROUP: &'static str = crate::discovery::EndpointSlice::GROUP;
    const KIND: &'static str = crate::discovery::EndpointSlice::KIND;
    const VERSION: &'static str = crate::discovery::EndpointSlice::VERSION;
    const URL_PATH_SEGMENT: &'static str = crate::discovery::EndpointSlice::URL_PATH_SEGMENT;
    type Scope = <crate::discovery::EndpointSlice as Resource>::Scope;
}

impl Object for EndpointSlice {
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
    fn a_slice_keeps_its_endpoints() {
        let text = r#"{"metadata": {"name": "a", "annotations": {"x": "y",
            "endpoints.kubernetes.io/last-change-trigger-time": "2026-01-01T00:00:00Z"}},
            "addressType": "IPv4", "ports": [{"name": "", "port": 80, "protocol": "TCP"}],
            "endpoints": [{"addresses": ["10.0.0.1"], "conditions": {"ready": true, "serving": null}, "nodeName": "n",
                "zone": "z", "targetRef": {"kind": "Pod", "name": "p"}, "hints": {"forZones": [{"name": "z"}]}}]}"#;
        let slice = EndpointSlice::from_json(text.as_bytes()).unwrap();
        assert_eq!(slice.annotations().iter().count(), 1);
        let endpoint = &slice.endpoints.as_deref().unwrap()[0];
        assert_eq!((&*endpoint.addresses[0], endpoint.node_name.as_deref()), ("10.0.0.1", Some("n")));
        assert_eq!(endpoint.conditions.unwrap().ready, Some(true));
        assert_eq!(&*endpoint.hints.as_ref().unwrap().for_zones.as_ref().unwrap()[0].name, "z");
        assert_eq!(slice.ports.unwrap()[0].port, Some(80));
        let none = r#"{"addressType": "FQDN", "ports": null, "endpoints": null}"#;
        assert_eq!(EndpointSlice::from_json(none.as_bytes()).unwrap().endpoints, None);
    }
}
