//! Keeps the Endpoints object of each Service: the older form of EndpointSlices, which clients still
//! read.

use crate::backends::{self, spec};
use crate::common::{self, Key, Room};
use crate::pods;
use api::Object;
use api::core::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Service};
use api::meta::ObjectMeta;
use api::slim::Pod;
use client::{Cache, Client, Error, Next, Queue};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The most addresses one object may hold; more are left out and said to be.
const ADDRESSES: usize = 1000;
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
const MANAGED_BY: (&str, &str) = ("endpoints.kubernetes.io/managed-by", "endpoint-controller");

/// The Endpoints a Service should have.
fn plan(service: &Service, pods: &[Arc<Pod>]) -> Endpoints {
    let not_ready_too = spec(service).publish_not_ready_addresses == Some(true);
    let counted: Vec<_> = pods.iter().filter(|pod| not_ready_too || !pod.is_deleting()).collect();
    let mut subsets: BTreeMap<Vec<(Option<String>, i32, String)>, EndpointSubset> = BTreeMap::new();
    for pod in counted.iter().take(ADDRESSES) {
        let ports = ports(service, pod);
        if ports.is_empty() && !spec(service).ports.as_deref().unwrap_or_default().is_empty() {
            continue;
        }
        let key =
            |port: &EndpointPort| (port.name.clone(), port.port, port.protocol.clone().unwrap_or_default());
        let subset = subsets.entry(ports.iter().map(key).collect()).or_default();
        subset.ports = Some(ports).filter(|ports| !ports.is_empty());
        let ready = not_ready_too || pods::is_ready(pod);
        let list = if ready { &mut subset.addresses } else { &mut subset.not_ready_addresses };
        list.get_or_insert_default().push(address(service, pod));
    }
    let mut labels = backends::labels(service);
    labels.insert(MANAGED_BY.0.to_owned(), MANAGED_BY.1.to_owned());
    let truncated = counted.len() > ADDRESSES;
    let annotation = truncated.then(|| BTreeMap::from([(OVER_CAPACITY.to_owned(), "truncated".to_owned())]));
    Endpoints {
        metadata: ObjectMeta {
            name: service.metadata.name.clone(),
            namespace: service.metadata.namespace.clone(),
            labels: Some(labels),
            annotations: annotation,
            ..ObjectMeta::default()
        },
        subsets: Some(subsets.into_values().collect()).filter(|subsets: &Vec<_>| !subsets.is_empty()),
    }
}

fn ports(service: &Service, pod: &Pod) -> Vec<EndpointPort> {
    let ports = spec(service).ports.iter().flatten().filter_map(|port| {
        Some(EndpointPort {
            name: port.name.clone().filter(|name| !name.is_empty()),
            port: backends::target_port(pod, port)?,
            protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".to_owned())),
            app_protocol: port.app_protocol.clone(),
        })
    });
    ports.collect()
}

fn address(service: &Service, pod: &Pod) -> EndpointAddress {
    let ipv6 = spec(service).ip_families.iter().flatten().next().is_some_and(|family| family == "IPv6");
    let addresses = backends::addresses(pod);
    let of_family = addresses.iter().find(|address| address.contains(':') == ipv6).or(addresses.first());
    EndpointAddress {
        ip: of_family.copied().unwrap_or_default().to_owned(),
        hostname: backends::hostname(service, pod),
        node_name: Some(pods::node_name(pod).to_owned()).filter(|name| !name.is_empty()),
        target_ref: Some(backends::target(pod)),
    }
}

#[derive(Clone)]
struct Keeper {
    client: Client,
    services: Cache<Service>,
    pods: Cache<Pod>,
    endpoints: Cache<Endpoints>,
}

pub(crate) fn start(room: &Room) {
    let keeper = Keeper {
        client: room.client.clone(),
        services: room.caches.of(),
        pods: room.caches.of(),
        endpoints: room.caches.of(),
    };
    let queue = Queue::new("endpoints");
    backends::watch(&keeper.services, &keeper.pods, &queue);
    common::watch_self(&keeper.endpoints, &queue);
    room.work("endpoints controller", &queue, 4, move |key| keeper.clone().sync(key));
}

impl Keeper {
    async fn sync(self, key: Key) -> Result<Next, Error> {
        self.services.synced().await;
        self.pods.synced().await;
        self.endpoints.synced().await;
        let found = self.endpoints.get(&key.namespace, &key.name);
        let Some(service) = self.services.get(&key.namespace, &key.name) else {
            // What a vanished Service leaves behind is removed, what a person made by hand is kept.
            if let Some(found) =
                found.filter(|found| found.labels().get(MANAGED_BY.0).is_some_and(|by| by == MANAGED_BY.1))
            {
                let gone =
                    self.client.delete::<Endpoints>(&key.namespace, &key.name, &Default::default()).await;
                common::unless_gone(gone)?;
                common::deletion_seen(&self.endpoints, &key, found.uid()).await;
            }
            return Ok(Next::Done);
        };
        if backends::selector(&service).is_none() {
            return Ok(Next::Done);
        }
        let mut wanted = plan(&service, &backends::of(&service, &self.pods.snapshot()));
        let written = match found {
            None => self.client.create(&wanted).await,
            Some(found) if is_same(&found, &wanted) => return Ok(Next::Done),
            Some(found) => {
                wanted.metadata.resource_version = found.metadata.resource_version.clone();
                self.client.update(&wanted).await
            }
        };
        match written {
            Err(error) if common::is_namespace_going(&error) => {}
            other => self.endpoints.reached(other?.revision()).await,
        }
        Ok(Next::Done)
    }
}

fn is_same(found: &Endpoints, wanted: &Endpoints) -> bool {
    found.subsets.as_deref().unwrap_or_default() == wanted.subsets.as_deref().unwrap_or_default()
        && found.labels() == wanted.labels()
        && found.annotations().get(OVER_CAPACITY) == wanted.annotations().get(OVER_CAPACITY)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slices::tests::{pod, service};

    #[test]
    fn ready_and_unready_pods_are_told_apart_and_leaving_ones_left_out() {
        let pods = [pod("a 10.42.0.2 ready"), pod("b 10.42.0.3 unready"), pod("c 10.42.0.4 leaving")];
        let show = |service: &Service| {
            let planned = plan(service, &pods);
            let ips = |list: &Option<Vec<EndpointAddress>>| -> Vec<String> {
                list.iter().flatten().map(|address| address.ip.clone()).collect()
            };
            let lines = planned.subsets.iter().flatten().map(|subset| {
                let ports: Vec<_> = subset.ports.iter().flatten().map(|port| port.port).collect();
                format!(
                    "{:?} ready {:?} not ready {:?}",
                    ports,
                    ips(&subset.addresses),
                    ips(&subset.not_ready_addresses)
                )
            });
            lines.collect::<Vec<_>>().join("\n")
        };
        assert_eq!(show(&service(false)), "[8080] ready [\"10.42.0.2\"] not ready [\"10.42.0.3\"]");
        assert_eq!(
            show(&service(true)),
            "[8080] ready [\"10.42.0.2\", \"10.42.0.3\", \"10.42.0.4\"] not ready []"
        );
    }
}
