//! Keeps the Endpoints object of each Service: the older form of EndpointSlices, which clients still
//! read.

use crate::backends::{self, is_headless, spec};
use crate::common::{self, Key, Room};
use crate::pods;
use crate::subsets;
use crate::trigger_times::{self, TriggerTimes};
use api::Object;
use api::core::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Service};
use api::meta::ObjectMeta;
use api::slim::Pod;
use client::{Cache, Client, Error, Next, Queue, Recorder};
use std::sync::Arc;

const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
const MANAGED_BY: (&str, &str) = ("endpoints.kubernetes.io/managed-by", "endpoint-controller");

/// The Endpoints a Service should have, made of those it has.
pub(crate) fn plan(service: &Service, pods: &[Arc<Pod>], found: Option<&Endpoints>) -> Endpoints {
    let not_ready_too = spec(service).publish_not_ready_addresses == Some(true);
    let counted = pods.iter().filter(|pod| not_ready_too || !pod.is_deleting());
    let each: Vec<_> = counted.flat_map(|pod| of_pod(service, pod, not_ready_too)).collect();
    let mut subsets = subsets::repack(&each);
    let truncated = subsets::truncate(&mut subsets);
    let mut labels = backends::labels(service);
    labels.insert(MANAGED_BY.0.to_owned(), MANAGED_BY.1.to_owned());
    let mut wanted = found.cloned().unwrap_or_else(|| Endpoints {
        metadata: ObjectMeta {
            name: service.metadata.name.clone(),
            namespace: service.metadata.namespace.clone(),
            ..ObjectMeta::default()
        },
        subsets: None,
    });
    let annotations = wanted.metadata.annotations.get_or_insert_default();
    if truncated {
        annotations.insert(OVER_CAPACITY.to_owned(), "truncated".to_owned());
    } else {
        annotations.remove(OVER_CAPACITY);
    }
    wanted.metadata.labels = Some(labels);
    wanted.subsets = Some(subsets).filter(|subsets| !subsets.is_empty());
    wanted
}

/// A subset for each port at which a pod can be reached; a headless Service may have none and still its pods.
fn of_pod(service: &Service, pod: &Pod, not_ready_too: bool) -> Vec<EndpointSubset> {
    let Some(address) = address(service, pod) else { return Vec::new() };
    let subset = |ports: Option<Vec<EndpointPort>>| {
        let (mut addresses, mut not_ready_addresses) = (None, None);
        let ready = not_ready_too || pods::is_ready(pod);
        *(if ready { &mut addresses } else { &mut not_ready_addresses }) = Some(vec![address.clone()]);
        EndpointSubset { addresses, not_ready_addresses, ports }
    };
    let ports = spec(service).ports.as_deref().unwrap_or_default();
    if ports.is_empty() && is_headless(service) {
        return vec![subset(None)];
    }
    let ports = ports.iter().filter_map(|port| {
        Some(EndpointPort {
            name: port.name.clone().filter(|name| !name.is_empty()),
            port: backends::target_port(pod, port)?,
            protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".to_owned())),
            app_protocol: port.app_protocol.clone(),
        })
    });
    ports.map(|port| subset(Some(vec![port]))).collect()
}

/// A pod's address in the Service's first family.
fn address(service: &Service, pod: &Pod) -> Option<EndpointAddress> {
    let ipv6 = spec(service).ip_families.iter().flatten().next().is_some_and(|family| family == "IPv6");
    let addresses = backends::addresses(pod);
    let of_family = addresses.into_iter().find(|address| address.contains(':') == ipv6)?;
    Some(EndpointAddress {
        ip: of_family.to_owned(),
        hostname: backends::hostname(service, pod),
        node_name: Some(pods::node_name(pod).to_owned()).filter(|name| !name.is_empty()),
        target_ref: Some(backends::target(pod)),
    })
}

#[derive(Clone)]
struct Keeper {
    client: Client,
    services: Cache<Service>,
    pods: Cache<Pod>,
    endpoints: Cache<Endpoints>,
    recorder: Recorder,
    triggers: TriggerTimes,
}

pub(crate) fn start(room: &Room) {
    let keeper = Keeper {
        client: room.client.clone(),
        services: room.caches.of(),
        pods: room.caches.of(),
        endpoints: room.caches.of(),
        recorder: room.recorder("endpoint-controller"),
        triggers: TriggerTimes::default(),
    };
    let queue = Queue::new("endpoints");
    backends::watch(&keeper.services, &keeper.pods, &queue);
    common::watch_self(&keeper.endpoints, &queue);
    let (gone, left) = (Queue::new("endpoints of gone services"), keeper.clone());
    let leaving = gone.clone();
    keeper.services.on_change(move |change| {
        if change.new.is_none() {
            leaving.add(Key::of(&**change.object()));
        }
    });
    room.work("endpoints controller", &queue, 4, move |key| keeper.clone().sync(key));
    // A Service takes along also Endpoints that a person made for it.
    room.work("endpoints of gone services", &gone, 1, move |key| left.clone().remove(key, |_| true));
}

impl Keeper {
    /// Deletes Endpoints without a Service, if they are such as `may` go.
    async fn remove(self, key: Key, may: fn(&Endpoints) -> bool) -> Result<Next, Error> {
        self.triggers.forget(&key);
        let found = self.endpoints.get(&key.namespace, &key.name).filter(|found| may(found));
        if let Some(found) = found.filter(|_| self.services.get(&key.namespace, &key.name).is_none()) {
            common::delete_seen(&self.client, &self.endpoints, &*found).await?;
        }
        Ok(Next::Done)
    }

    async fn sync(self, key: Key) -> Result<Next, Error> {
        self.services.synced().await;
        self.pods.synced().await;
        self.endpoints.synced().await;
        let Some(service) = self.services.get(&key.namespace, &key.name) else {
            return self.remove(key, is_ours).await;
        };
        if backends::selector(&service).is_none() {
            return Ok(Next::Done);
        }
        let found = self.endpoints.get(&key.namespace, &key.name);
        let pods = backends::of(&service, self.pods.snapshot().in_namespace(service.namespace()));
        let trigger = self.triggers.take(&service, &pods);
        let mut wanted = plan(&service, &pods, found.as_deref());
        if found.as_ref().is_some_and(|found| is_same(found, &wanted)) {
            return Ok(Next::Done);
        }
        trigger_times::note(&mut wanted.metadata.annotations, trigger);
        let about = format!("{}/{}", key.namespace, key.name);
        let (reason, what, written) = match found {
            None => {
                ("FailedToCreateEndpoint", "create endpoint for service", self.client.create(&wanted).await)
            }
            Some(_) => ("FailedToUpdateEndpoint", "update endpoint", self.client.update(&wanted).await),
        };
        match written {
            Err(error) if common::is_namespace_going(&error) => {}
            Err(error) => {
                self.recorder.warning(&wanted, reason, format!("Failed to {what} {about}: {error}"));
                return Err(error);
            }
            Ok(written) => self.endpoints.reached(written.revision()).await,
        }
        Ok(Next::Done)
    }
}

fn is_ours(found: &Endpoints) -> bool {
    found.labels().get(MANAGED_BY.0).is_some_and(|by| by == MANAGED_BY.1)
}

pub(crate) fn is_same(found: &Endpoints, wanted: &Endpoints) -> bool {
    let of = |endpoints: &Endpoints| subsets::repack(endpoints.subsets.as_deref().unwrap_or_default());
    of(found) == of(wanted)
        && found.labels() == wanted.labels()
        && found.annotations().get(OVER_CAPACITY) == wanted.annotations().get(OVER_CAPACITY)
}
