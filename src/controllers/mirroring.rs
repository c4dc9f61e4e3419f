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

const MANAGER: &str = "endpointslicemirroring-controller.k8s.io";
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
/// These Endpoints are a lock of old, whose holder renews it all the time.
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
/// What is said of the Endpoints alone.
const ANNOTATIONS: [&str; 2] =
    ["endpoints.kubernetes.io/last-change-trigger-time", "kubectl.kubernetes.io/last-applied-configuration"];

/// What is to become of the slices, and what of the Endpoints cannot be mirrored.
#[derive(Debug, Default)]
struct Plan {
    changes: Changes,
    invalid: usize,
    skipped: usize,
}

/// The endpoints of one slice: of a family, behind these ports.
type Wanted = BTreeMap<(&'static str, Vec<String>), (Vec<EndpointPort>, BTreeMap<Identity, Endpoint>)>;

fn is_mirrored(endpoints: &Endpoints) -> bool {
    endpoints.labels().get(SKIP).is_none_or(|skip| skip != "true")
        && !endpoints.annotations().contains_key(LEADER)
}

fn plan(endpoints: &Endpoints, mut found: Vec<Arc<EndpointSlice>>) -> Plan {
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
        let found = self.writer.found(&key, MANAGER).await;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slices::tests::{after, show};
    use serde_json::{Value, json};

    fn endpoints(labels: Value, subsets: Value) -> Endpoints {
        let metadata = json!({"name": "db", "namespace": "ns", "uid": "e", "labels": labels, "annotations": {
            "note": "n", "kubectl.kubernetes.io/last-applied-configuration": "{}"}});
        serde_json::from_value(json!({"metadata": metadata, "subsets": subsets})).unwrap()
    }

    fn subset(ready: &[&str], unready: &[&str], port: i32) -> Value {
        let of = |ips: &[&str]| ips.iter().map(|ip| json!({"ip": ip})).collect::<Vec<_>>();
        json!({"addresses": of(ready), "notReadyAddresses": of(unready), "ports": [{"port": port, "protocol": "TCP"}]})
    }

    #[test]
    fn each_subset_has_a_slice_of_each_family() {
        let both =
            json!([subset(&["10.0.0.1", "fd00::1"], &["10.0.0.2"], 80), subset(&["10.0.0.3", "x"], &[], 90)]);
        let first = plan(&endpoints(json!({"l": "1"}), both.clone()), Vec::new());
        assert_eq!(
            show(&first.changes),
            "create [80] 10.0.0.1+r 10.0.0.2\ncreate [90] 10.0.0.3+r\ncreate [80] fd00::1+r"
        );
        assert_eq!((first.invalid, first.skipped), (1, 0));
        let meta = &first.changes.create[0].metadata;
        let texts = |map: &Option<BTreeMap<String, String>>| {
            map.iter().flatten().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(
            texts(&meta.labels),
            "endpointslice.kubernetes.io/managed-by=endpointslicemirroring-controller.k8s.io \
             kubernetes.io/service-name=db l=1"
        );
        assert_eq!(texts(&meta.annotations), "note=n");
        let found = after(first.changes);
        assert_eq!(show(&plan(&endpoints(json!({"l": "1"}), both), found.clone()).changes), "");
        let fewer = endpoints(json!({"l": "2"}), json!([subset(&["10.0.0.1"], &[], 70)]));
        assert_eq!(
            show(&plan(&fewer, found.clone()).changes),
            "update [70] 10.0.0.1+r\ndelete [90] 10.0.0.3+r\ndelete [80] fd00::1+r"
        );
        assert_eq!(plan(&endpoints(json!({}), json!([])), found).changes.delete.len(), 3);
    }

    #[test]
    fn locks_and_what_asks_for_it_are_not_mirrored() {
        let mut one = endpoints(json!({"endpointslice.kubernetes.io/skip-mirror": "false"}), json!([]));
        assert!(is_mirrored(&one));
        one.metadata.annotations.get_or_insert_default().insert(LEADER.to_owned(), "{}".to_owned());
        assert!(!is_mirrored(&one));
        assert!(!is_mirrored(&endpoints(
            json!({"endpointslice.kubernetes.io/skip-mirror": "true"}),
            json!([])
        )));
    }

    #[test]
    fn no_slice_has_more_than_the_most_addresses() {
        let ips: Vec<String> = (0..1001).map(|n| format!("10.0.{}.{}", n / 250, n % 250)).collect();
        let ips: Vec<&str> = ips.iter().map(String::as_str).collect();
        let plan = plan(&endpoints(json!({}), json!([subset(&ips, &[], 80)])), Vec::new());
        assert_eq!((plan.changes.create[0].endpoints.as_ref().unwrap().len(), plan.skipped), (1000, 1));
    }
}
