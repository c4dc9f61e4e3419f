//! Where services lead: to the ready endpoints of their slices.

use crate::egress::Whither;
use crate::registry::{Records, decoded};
use api::kinds::{Kind, by_kind};
use base::random;
use serde_json::Value;

const SERVICE_LABEL: &str = "kubernetes.io/service-name";

/// Which endpoints are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Among {
    /// Those that are pods.
    Pods,
    /// Also those that somebody wrote down.
    All,
}

/// A port of a service that this server calls itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServicePort {
    namespace: String,
    name: String,
    pub(crate) port: u16,
}

impl ServicePort {
    /// A service's port; 443 where none is named.
    pub(crate) fn new(namespace: &str, name: &str, port: Option<i32>) -> Self {
        let port = port.and_then(|port| u16::try_from(port).ok()).unwrap_or(443);
        Self { namespace: namespace.to_owned(), name: name.to_owned(), port }
    }

    /// The name that certificates of its servers carry.
    pub(crate) fn server_name(&self) -> String {
        format!("{}.{}.svc", self.name, self.namespace)
    }

    /// Where the next connection is made to.
    pub(crate) fn resolve(&self, records: &Records) -> Result<(String, u16), String> {
        let Self { namespace, name, port } = self;
        let service = service(records, namespace, name);
        let service = service.ok_or_else(|| format!("service {name:?} not found"))?;
        if service["spec"]["type"] == "ExternalName" {
            return Ok((service["spec"]["externalName"].as_str().unwrap_or_default().to_owned(), *port));
        }
        let port_name = port_name(&service, i64::from(*port))
            .ok_or_else(|| format!("no service port {port} found for service {name:?}"))?;
        let found = endpoint(records, (namespace, name), port_name, Among::All);
        let found = found.ok_or_else(|| format!("no endpoints available for service {name:?}"))?;
        Ok((found.address, found.port))
    }

    /// What is behind an address that one of these connections is made to.
    pub(crate) fn whither(&self, records: &Records, address: &str) -> Whither {
        let own = slices(records, (&self.namespace, &self.name));
        let found = own.iter().flat_map(|slice| slice["endpoints"].as_array().into_iter().flatten());
        let mut found = found.filter(|endpoint| endpoint["addresses"][0] == address);
        found.next().map_or(Whither::Anywhere, whither_of)
    }
}

fn kind(api_version: &str, kind: &str) -> &'static Kind {
    by_kind(api_version, kind).expect("the table has every built-in kind")
}

/// A service.
pub(crate) fn service(records: &Records, namespace: &str, name: &str) -> Option<Value> {
    let key = kind("v1", "Service").storage_key(namespace, name);
    records.snapshot().get(&key).and_then(|record| decoded(record).ok())
}

/// The name of a service's port of that number.
pub(crate) fn port_name(service: &Value, number: i64) -> Option<&str> {
    let mut ports = service["spec"]["ports"].as_array().into_iter().flatten();
    let port = ports.find(|port| port["port"].as_i64() == Some(number))?;
    Some(port["name"].as_str().unwrap_or_default())
}

/// What a service leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) address: String,
    pub(crate) port: u16,
    pub(crate) whither: Whither,
}

fn whither_of(endpoint: &Value) -> Whither {
    match endpoint["nodeName"].as_str() {
        None => Whither::Anywhere,
        Some(node) if endpoint["targetRef"]["kind"] == "Pod" => Whither::Pod(node.to_owned()),
        Some(node) => Whither::Endpoint(node.to_owned()),
    }
}

/// The parts of a service's endpoints.
fn slices(records: &Records, (namespace, name): (&str, &str)) -> Vec<Value> {
    let prefix = format!("{}{namespace}/", kind("discovery.k8s.io/v1", "EndpointSlice").storage_prefix());
    let snapshot = records.snapshot();
    let own = snapshot.range(&prefix, None).filter(|record| record.index.label(SERVICE_LABEL) == Some(name));
    own.filter_map(|record| decoded(record).ok()).collect()
}

/// One of the ready endpoints behind a service's port of that name.
pub(crate) fn endpoint(
    records: &Records,
    (namespace, name): (&str, &str),
    port: &str,
    among: Among,
) -> Option<Endpoint> {
    let own = slices(records, (namespace, name));
    let mut ready: Vec<Endpoint> = own.iter().flat_map(|slice| endpoints(slice, port, among)).collect();
    let chosen = usize::from(u16::from_le_bytes(random::bytes())).checked_rem(ready.len())?;
    Some(ready.swap_remove(chosen))
}

fn endpoints(slice: &Value, port: &str, among: Among) -> Vec<Endpoint> {
    let mut ports = slice["ports"].as_array().into_iter().flatten();
    let port = ports.find(|one| one["name"].as_str().unwrap_or_default() == port);
    let Some(port) = port.and_then(|port| u16::try_from(port["port"].as_u64()?).ok()) else {
        return Vec::new();
    };
    let all = slice["endpoints"].as_array().into_iter().flatten();
    let ready = all.filter(|endpoint| {
        endpoint["conditions"]["ready"] != false
            && (among == Among::All || endpoint["targetRef"]["kind"] == "Pod")
    });
    let ready = ready.filter_map(|endpoint| {
        let address = endpoint["addresses"][0].as_str()?.to_owned();
        Some(Endpoint { address, port, whither: whither_of(endpoint) })
    });
    ready.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn ready_pods_answer_for_a_service() {
        let slice = json!({"ports": [{"name": "http", "port": 8080}, {"name": "other", "port": 1}], "endpoints": [
            {"addresses": ["10.0.0.1"], "conditions": {"ready": true}, "targetRef": {"kind": "Pod"}, "nodeName": "a"},
            {"addresses": ["10.0.0.2"], "conditions": {"ready": false}, "targetRef": {"kind": "Pod"}},
            {"addresses": ["10.0.0.3"], "conditions": {"ready": true}},
            {"addresses": ["10.0.0.4"], "nodeName": "b"}]});
        let one = |address: &str, port, whither| Endpoint { address: address.to_owned(), port, whither };
        let pod = one("10.0.0.1", 8080, Whither::Pod("a".to_owned()));
        assert_eq!(endpoints(&slice, "http", Among::Pods), [pod]);
        assert_eq!(endpoints(&slice, "", Among::Pods), []);
        let others =
            [one("10.0.0.3", 1, Whither::Anywhere), one("10.0.0.4", 1, Whither::Endpoint("b".to_owned()))];
        assert_eq!(endpoints(&slice, "other", Among::All)[1..], others);
    }
}
