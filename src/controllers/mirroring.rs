//! Mirrors Endpoints that somebody else keeps, of Services without a selector, as EndpointSlices.

use crate::backends;
use crate::common::{Key, Room, watch_self};
use crate::slice_runner::Writer;
use crate::slices::{self, Changes, Identity, MANAGED_BY, SERVICE_NAME};
use crate::subsets::{self, ADDRESSES};
use api::Object;
use api::core::{EndpointAddress, Endpoints, Service};
use api::discovery::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use client::{Cache, Error, Next, Queue, Recorder};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

pub(crate) const MANAGER: &str = "endpointslicemirroring-controller.k8s.io";
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
/// These Endpoints are a lock of old, whose holder renews it all the time.
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
/// What is said of the Endpoints alone.
const ANNOTATIONS: [&str; 2] =
    ["endpoints.kubernetes.io/last-change-trigger-time", "kubectl.kubernetes.io/last-applied-configuration"];

/// What is to become of the slices, and what of the Endpoints cannot be mirrored.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub(crate) changes: Changes,
    pub(crate) invalid: usize,
    pub(crate) skipped: usize,
}

/// The endpoints of one slice: of a family, behind these ports.
type Wanted = BTreeMap<(&'static str, Vec<String>), (Vec<EndpointPort>, BTreeMap<Identity, Endpoint>)>;

pub(crate) fn is_mirrored(endpoints: &Endpoints) -> bool {
    endpoints.labels().get(SKIP).is_none_or(|skip| skip != "true")
        && !endpoints.annotations().contains_key(LEADER)
}

pub(crate) fn plan(endpoints: &Endpoints, mut found: Vec<Arc<EndpointSlice>>) -> Plan {
    let mut plan = Plan::default();
    let (mut labels, mut annotations) = (endpoints.labels().clone(), endpoints.annotations().clone());
    labels.insert(SERVICE_NAME.to_owned(), endpoints.name().to_owned());
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    annotations.retain(|key, _| !ANNOTATIONS.contains(&key.as_str()));
    for ((family, key), (ports, wanted)) in wanted(endpoints, &mut plan) {
        let of_slice = |slice: &mut Arc<EndpointSlice>| {
            slice.address_type == family
                && slices::port_key(slice.ports.as_deref().unwrap_or_default()) == key
        };
        let mut same: Vec<_> = found.extract_if(.., of_slice).collect();
        let mut slice = slices::fresh(endpoints, family, &labels, &ports);
        slice.metadata.annotations = Some(annotations.clone()).filter(|annotations| !annotations.is_empty());
        slice.endpoints = Some(wanted.into_values().take(ADDRESSES).collect());
        if let Some(found) = (!same.is_empty()).then(|| same.remove(0)) {
            if is_same(&found, &slice) {
                plan.changes.unchanged.push(found);
            } else {
                slice.metadata.name.clone_from(&found.metadata.name);
                slice.metadata.resource_version.clone_from(&found.metadata.resource_version);
                plan.changes.update.push(slice);
            }
        } else {
            plan.changes.create.push(slice);
        }
        plan.changes.delete.extend(same);
    }
    plan.changes.delete.extend(found);
    plan.changes.recycle(|_| true);
    if endpoints.is_deleting() {
        plan.changes.create.clear();
    }
    plan
}

fn wanted(endpoints: &Endpoints, plan: &mut Plan) -> Wanted {
    let mut wanted = Wanted::new();
    for subset in subsets::repack(endpoints.subsets.as_deref().unwrap_or_default()) {
        let ports = subset.ports.iter().flatten().map(|port| EndpointPort {
            name: Some(port.name.clone().unwrap_or_default()),
            port: Some(port.port),
            protocol: port.protocol.clone(),
            app_protocol: port.app_protocol.clone(),
        });
        let ports: Vec<_> = ports.collect();
        let ready = subset.addresses.iter().flatten().map(|address| (address, true));
        let all: Vec<_> = ready
            .chain(subset.not_ready_addresses.iter().flatten().map(|address| (address, false)))
            .collect();
        let valid: Vec<_> = all.iter().filter_map(|(address, ready)| endpoint(address, *ready)).collect();
        plan.invalid += all.len() - valid.len();
        plan.skipped += valid.len().saturating_sub(ADDRESSES);
        for (family, endpoint) in valid.into_iter().take(ADDRESSES) {
            let group = wanted.entry((family, slices::port_key(&ports))).or_default();
            group.0.clone_from(&ports);
            group.1.insert(slices::identity(&endpoint), endpoint);
        }
    }
    wanted
}

/// An address and its family, if it is one.
fn endpoint(address: &EndpointAddress, ready: bool) -> Option<(&'static str, Endpoint)> {
    let ip: IpAddr = address.ip.parse().ok()?;
    let endpoint = Endpoint {
        addresses: vec![ip.to_string()],
        conditions: Some(EndpointConditions { ready: Some(ready), ..EndpointConditions::default() }),
        hostname: address.hostname.clone().filter(|hostname| !hostname.is_empty()),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Endpoint::default()
    };
    Some((if ip.is_ipv4() { "IPv4" } else { "IPv6" }, endpoint))
}

/// By what is mirrored: endpoints that were found may stand in another order.
fn is_same(found: &EndpointSlice, wanted: &EndpointSlice) -> bool {
    let by_identity = |slice: &EndpointSlice| -> BTreeMap<Identity, Endpoint> {
        slice.endpoints.iter().flatten().map(|it| (slices::identity(it), it.clone())).collect()
    };
    found.labels() == wanted.labels()
        && found.annotations() == wanted.annotations()
        && found.metadata.owner_references == wanted.metadata.owner_references
        && by_identity(found) == by_identity(wanted)
}

#[derive(Clone)]
struct Mirror {
    writer: Writer,
    services: Cache<Service>,
    endpoints: Cache<Endpoints>,
    recorder: Recorder,
}

pub(crate) fn start(room: &Room) {
    let mirror = Mirror {
        writer: Writer { client: room.client.clone(), slices: room.caches.of() },
        services: room.caches.of(),
        endpoints: room.caches.of(),
        recorder: room.recorder("endpoint-slice-mirroring-controller"),
    };
    let queue = Queue::new("endpoint slice mirroring");
    let changed = queue.clone();
    mirror.services.on_change(move |change| {
        let selects =
            |service: &Option<Arc<Service>>| service.as_ref().map(|it| backends::selector(it).is_some());
        if selects(&change.old) != selects(&change.new) {
            changed.add(Key::of(&**change.object()));
        }
    });
    watch_self(&mirror.endpoints, &queue);
    mirror.writer.watch(MANAGER, &queue);
    room.work("endpoint slice mirroring", &queue, 4, move |key| mirror.clone().sync(key));
}

impl Mirror {
    async fn sync(self, key: Key) -> Result<Next, Error> {
        self.services.synced().await;
        self.endpoints.synced().await;
        let found = self.writer.found(&key, MANAGER).await?;
        let service = self.services.get(&key.namespace, &key.name);
        let endpoints =
            self.endpoints.get(&key.namespace, &key.name).filter(|endpoints| is_mirrored(endpoints));
        let selects = |service: &Service| {
            service
                .spec
                .as_ref()
                .and_then(|spec| spec.selector.as_ref())
                .is_some_and(|selector| !selector.is_empty())
        };
        let Some(endpoints) = endpoints.filter(|_| service.is_some_and(|service| !selects(&service))) else {
            self.writer.carry_out(Changes { delete: found, ..Changes::default() }, None).await?;
            return Ok(Next::Done);
        };
        let plan = plan(&endpoints, found);
        if plan.invalid > 0 {
            let message =
                format!("Skipped {} invalid IP addresses when mirroring to EndpointSlices", plan.invalid);
            self.recorder.warning(&*endpoints, "InvalidIPAddress", message);
        }
        if plan.skipped > 0 {
            let skipped = plan.skipped + plan.invalid;
            let message = format!(
                "A max of {ADDRESSES} addresses can be mirrored to EndpointSlices per Endpoints subset. {skipped} \
                 addresses were skipped"
            );
            self.recorder.warning(&*endpoints, "TooManyAddressesToMirror", message);
        }
        self.writer.carry_out(plan.changes, None).await?;
        Ok(Next::Done)
    }
}
