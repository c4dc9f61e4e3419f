//! The servers of the cluster that a node knows: as the endpoints of the Service `kubernetes` tell them, kept for a start
//! at which the one that it joined by is away.

use super::machine::Joined;
use crate::{Error, files};
use api::Object;
use api::slim::EndpointSlice;
use base::{Phase, Restart, Supervisor};
use client::servers::{Place, SERVERS, Servers};
use client::{Cache, Snapshot};
use http::Uri;
use rustls::ClientConfig;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const NAMESPACE: &str = "default";
const SERVICE: &str = "kubernetes";
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// What is kept.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Kept {
    /// By which server the node joined: who names another may mean another cluster.
    joined: String,
    servers: Vec<SocketAddr>,
}

fn file(folder: &Path) -> PathBuf {
    folder.join("servers.json")
}

/// The server that is named, and those that were told of by it.
pub(super) fn known(
    server: &Uri,
    node: &str,
    tls: &Arc<ClientConfig>,
    folder: &Path,
) -> Result<Servers, Error> {
    let host = server.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let first = Place { host, port: server.port_u16().unwrap_or(443), server_name: None };
    let servers = Servers::new(first, node, tls.clone());
    let kept = files::read(&file(folder))?.and_then(|text| serde_json::from_str::<Kept>(&text).ok());
    if let Some(kept) = kept.filter(|kept| kept.joined == server.to_string()) {
        servers.learn(&kept.servers);
    }
    Ok(servers)
}

/// Where the API is served, by the endpoints of its Service.
fn told(slices: &Snapshot<EndpointSlice>) -> Vec<SocketAddr> {
    let of_api = slices.in_namespace(NAMESPACE);
    let of_api = of_api.filter(|slice| slice.labels().get(SERVICE_NAME).is_some_and(|name| name == SERVICE));
    let addresses = of_api.flat_map(|slice| {
        let mut ports = slice.ports.iter().flatten().filter(|port| port.name.as_deref() == Some("https"));
        let port = ports.find_map(|port| u16::try_from(port.port?).ok());
        let ready = slice.endpoints.iter().flatten().filter(|endpoint| {
            endpoint.conditions.as_ref().is_none_or(|conditions| conditions.ready != Some(false))
        });
        let texts = ready.flat_map(|endpoint| endpoint.addresses.iter());
        texts.filter_map(move |text| Some(SocketAddr::new(text.parse().ok()?, port?)))
    });
    addresses.collect::<BTreeSet<_>>().into_iter().take(SERVERS).collect()
}

/// Follows what the cluster tells of its servers.
pub fn follow_servers(joined: &Arc<Joined>, slices: Cache<EndpointSlice>, supervisor: &Supervisor) {
    let joined = joined.clone();
    joined.servers.be_patient();
    supervisor.run("list of servers", Phase::Work, Restart::OnFailure, move |shutdown| {
        let (joined, slices) = (joined.clone(), slices.clone());
        async move {
            loop {
                let changed = slices.changed();
                let all = told(&slices.snapshot());
                if joined.servers.learn(&all) {
                    tracing::info!(servers = ?all, "the cluster's servers");
                    joined.keep_servers(all).map_err(|error| error.to_string())?;
                }
                tokio::select! {
                    () = changed => {}
                    () = shutdown.requested() => return Ok::<(), String>(()),
                }
            }
        }
    });
}

impl Joined {
    fn keep_servers(&self, servers: Vec<SocketAddr>) -> Result<(), Error> {
        let kept = Kept { joined: self.named.clone(), servers };
        files::write(&file(&self.folder), &json!(kept).to_string(), files::PRIVATE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use client::Cache;

    #[test]
    fn servers_are_the_endpoints_of_the_api() {
        let slice = |name: &str, service: &str, endpoints: serde_json::Value| {
            let slice = json!({
                "metadata": {"name": name, "namespace": NAMESPACE, "resourceVersion": "1", "labels": {SERVICE_NAME: service}},
                "addressType": "IPv4", "endpoints": endpoints, "ports": [{"name": "https", "port": 6443}],
            });
            EndpointSlice::from_json(slice.to_string().as_bytes()).unwrap()
        };
        let of_api = json!([
            {"addresses": ["192.0.2.2"], "conditions": {"ready": true}},
            {"addresses": ["192.0.2.3"], "conditions": {"ready": false}},
            {"addresses": ["192.0.2.1"]}]);
        let slices = [
            slice("kubernetes", SERVICE, of_api),
            slice("kubernetes-ipv6", SERVICE, json!([{"addresses": ["2001:db8::1"]}])),
            slice("web", "web", json!([{"addresses": ["10.42.0.7"]}])),
        ];
        let cache = Cache::of(slices);
        let all: Vec<String> = told(&cache.snapshot()).iter().map(ToString::to_string).collect();
        assert_eq!(all, ["192.0.2.1:6443", "192.0.2.2:6443", "[2001:db8::1]:6443"]);
    }
}
