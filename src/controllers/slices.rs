//! Keeps the EndpointSlices of each Service, moving as few endpoints between slices as it can.

use crate::backends::{self, spec};
use crate::common::{self, Key, Room};
use crate::pods;
use api::core::{Node, Service};
use api::discovery::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use api::meta::ObjectMeta;
use api::slim::Pod;
use api::{Object, owner_reference};
use client::{Cache, Client, Error, Next, Queue};
use std::collections::BTreeMap;
use std::sync::Arc;

/// How many endpoints one slice holds (kube-controller-manager's `--max-endpoints-per-slice`).
const SLICE: usize = 100;
const SERVICE_NAME: &str = "kubernetes.io/service-name";
const MANAGED_BY: (&str, &str) =
    ("endpointslice.kubernetes.io/managed-by", "endpointslice-controller.k8s.io");

/// The zone of a pod's node.
type Zone<'a> = &'a dyn Fn(&Pod) -> Option<String>;

#[derive(Debug)]
enum Action {
    Create(EndpointSlice),
    Update(EndpointSlice),
    Delete(Arc<EndpointSlice>),
}

/// Endpoints that have their ports in common: slices hold one group each.
#[derive(Default)]
struct Group {
    ports: Vec<EndpointPort>,
    endpoints: BTreeMap<String, Endpoint>,
}

/// Compares the slices found with what the Service's pods make of them.
fn plan(service: &Service, pods: &[Arc<Pod>], zone: Zone<'_>, found: &[Arc<EndpointSlice>]) -> Vec<Action> {
    let families = spec(service).ip_families.clone().unwrap_or_else(|| vec!["IPv4".to_owned()]);
    let (of_family, foreign): (Vec<_>, Vec<_>) =
        found.iter().cloned().partition(|slice| families.contains(&slice.address_type));
    let mut actions: Vec<_> = foreign.into_iter().map(Action::Delete).collect();
    for family in &families {
        let groups = groups(service, pods, zone, family);
        let found: Vec<_> = of_family.iter().filter(|slice| &slice.address_type == family).cloned().collect();
        actions.extend(match groups.is_empty() {
            true => placeholder(service, family, found),
            false => place(service, family, groups, found),
        });
    }
    actions
}

fn groups(service: &Service, pods: &[Arc<Pod>], zone: Zone<'_>, family: &str) -> Vec<Group> {
    let mut groups: BTreeMap<String, Group> = BTreeMap::new();
    for pod in pods {
        let addresses =
            backends::addresses(pod).into_iter().filter(|ip| ip.contains(':') == (family == "IPv6"));
        let Some(address) = addresses.into_iter().next() else { continue };
        let ports = ports(service, pod);
        let group = groups.entry(format!("{ports:?}")).or_default();
        group.ports = ports;
        group.endpoints.insert(pod.uid().to_owned(), endpoint(service, pod, zone, address));
    }
    groups.into_values().collect()
}

fn ports(service: &Service, pod: &Pod) -> Vec<EndpointPort> {
    let ports = spec(service).ports.iter().flatten().filter_map(|port| {
        Some(EndpointPort {
            name: Some(port.name.clone().unwrap_or_default()),
            port: Some(backends::target_port(pod, port)?),
            protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".to_owned())),
            app_protocol: port.app_protocol.clone(),
        })
    });
    ports.collect()
}

fn endpoint(service: &Service, pod: &Pod, zone: Zone<'_>, address: &str) -> Endpoint {
    let serving = pods::is_ready(pod);
    let published = spec(service).publish_not_ready_addresses == Some(true);
    Endpoint {
        addresses: vec![address.to_owned()],
        conditions: Some(EndpointConditions {
            ready: Some(published || serving && !pod.is_deleting()),
            serving: Some(serving),
            terminating: Some(pod.is_deleting()),
        }),
        hostname: backends::hostname(service, pod),
        node_name: Some(pods::node_name(pod).to_owned()).filter(|name| !name.is_empty()),
        target_ref: Some(backends::target(pod)),
        zone: zone(pod),
        ..Endpoint::default()
    }
}

/// One empty slice says that somebody has looked and there is nothing.
fn placeholder(service: &Service, family: &str, mut found: Vec<Arc<EndpointSlice>>) -> Vec<Action> {
    let labels = slice_labels(service);
    let is_placeholder = |slice: &Arc<EndpointSlice>| {
        slice.endpoints.as_deref().unwrap_or_default().is_empty()
            && same_ports(slice, &[])
            && slice.labels() == &labels
    };
    let kept = found.iter().position(is_placeholder).map(|at| found.remove(at));
    let created = kept.is_none().then(|| Action::Create(slice(service, family, &labels, &[], Vec::new())));
    created.into_iter().chain(found.into_iter().map(Action::Delete)).collect()
}

/// Leaves endpoints where they are, fills the slices that have room, and makes new ones last.
fn place(
    service: &Service,
    family: &str,
    groups: Vec<Group>,
    mut found: Vec<Arc<EndpointSlice>>,
) -> Vec<Action> {
    let mut actions = Vec::new();
    let labels = slice_labels(service);
    for mut group in groups {
        let same_ports = |slice: &mut Arc<EndpointSlice>| same_ports(slice, &group.ports);
        let mut slices: Vec<_> = found.extract_if(.., same_ports).map(|slice| (slice, Vec::new())).collect();
        for (slice, kept) in &mut slices {
            for endpoint in slice.endpoints.iter().flatten() {
                let uid = endpoint.target_ref.as_ref().and_then(|target| target.uid.as_deref());
                kept.extend(uid.and_then(|uid| group.endpoints.remove(uid)));
            }
        }
        let mut new = group.endpoints.into_values();
        // The fullest slices first: fewer objects change.
        slices.sort_by_key(|(_, kept)| std::cmp::Reverse(kept.len()));
        for (slice, mut kept) in slices {
            kept.extend(new.by_ref().take(SLICE.saturating_sub(kept.len())));
            actions.extend(refill(slice, kept, &labels));
        }
        for endpoints in new.collect::<Vec<_>>().chunks(SLICE) {
            actions.push(Action::Create(slice(service, family, &labels, &group.ports, endpoints.to_vec())));
        }
    }
    actions.extend(found.into_iter().map(Action::Delete));
    actions
}

fn refill(
    slice: Arc<EndpointSlice>,
    endpoints: Vec<Endpoint>,
    labels: &BTreeMap<String, String>,
) -> Option<Action> {
    if endpoints.is_empty() {
        return Some(Action::Delete(slice));
    }
    if slice.endpoints.as_ref() == Some(&endpoints) && slice.labels() == labels {
        return None;
    }
    let mut changed = EndpointSlice::clone(&slice);
    changed.endpoints = Some(endpoints);
    changed.metadata.labels = Some(labels.clone());
    Some(Action::Update(changed))
}

fn same_ports(slice: &EndpointSlice, ports: &[EndpointPort]) -> bool {
    slice.ports.as_deref().unwrap_or_default() == ports
}

fn slice_labels(service: &Service) -> BTreeMap<String, String> {
    let mut labels = backends::labels(service);
    labels.insert(SERVICE_NAME.to_owned(), service.name().to_owned());
    labels.insert(MANAGED_BY.0.to_owned(), MANAGED_BY.1.to_owned());
    labels
}

fn slice(
    service: &Service,
    family: &str,
    labels: &BTreeMap<String, String>,
    ports: &[EndpointPort],
    endpoints: Vec<Endpoint>,
) -> EndpointSlice {
    EndpointSlice {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", service.name())),
            namespace: service.metadata.namespace.clone(),
            labels: Some(labels.clone()),
            owner_references: Some(vec![owner_reference(service)]),
            ..ObjectMeta::default()
        },
        address_type: family.to_owned(),
        endpoints: Some(endpoints),
        ports: Some(ports.to_vec()).filter(|ports| !ports.is_empty()),
    }
}

#[derive(Clone)]
struct Keeper {
    client: Client,
    services: Cache<Service>,
    pods: Cache<Pod>,
    nodes: Cache<Node>,
    slices: Cache<EndpointSlice>,
}

pub(crate) fn start(room: &Room) {
    let keeper = Keeper {
        client: room.client.clone(),
        services: room.caches.of(),
        pods: room.caches.of(),
        nodes: room.caches.of(),
        slices: room.caches.of(),
    };
    let queue = Queue::new("endpoint slices");
    backends::watch(&keeper.services, &keeper.pods, &queue);
    let changed = queue.clone();
    keeper.slices.on_change(move |change| {
        let slice = change.object();
        if let Some(service) = slice.labels().get(SERVICE_NAME).filter(|_| is_ours(slice)) {
            changed.add(Key::new(slice.namespace(), service));
        }
    });
    room.work("endpoint slice controller", &queue, 4, move |key| keeper.clone().sync(key));
}

fn is_ours(slice: &EndpointSlice) -> bool {
    slice.labels().get(MANAGED_BY.0).is_some_and(|by| by == MANAGED_BY.1)
}

impl Keeper {
    async fn sync(self, key: Key) -> Result<Next, Error> {
        self.services.synced().await;
        self.pods.synced().await;
        self.nodes.synced().await;
        self.slices.synced().await;
        let snapshot = self.slices.snapshot();
        let of_service = |slice: &&Arc<EndpointSlice>| {
            is_ours(slice) && slice.labels().get(SERVICE_NAME) == Some(&key.name) && !slice.is_deleting()
        };
        let found: Vec<_> = snapshot.in_namespace(&key.namespace).filter(of_service).cloned().collect();
        let service = self.services.get(&key.namespace, &key.name);
        let actions = match service.filter(|service| backends::selector(service).is_some()) {
            Some(service) if service.is_deleting() => return Ok(Next::Done),
            Some(service) => {
                let pods = backends::of(&service, &self.pods.snapshot());
                let nodes = self.nodes.snapshot();
                plan(&service, &pods, &|pod| backends::zone(pod, &nodes), &found)
            }
            None => found.into_iter().map(Action::Delete).collect(),
        };
        for action in actions {
            self.carry_out(action).await?;
        }
        Ok(Next::Done)
    }

    async fn carry_out(&self, action: Action) -> Result<(), Error> {
        let written = match action {
            Action::Create(slice) => self.client.create(&slice).await,
            Action::Update(slice) => self.client.update(&slice).await,
            Action::Delete(slice) => {
                let (namespace, name) = (slice.namespace(), slice.name());
                common::unless_gone(
                    self.client.delete::<EndpointSlice>(namespace, name, &Default::default()).await,
                )?;
                common::deletion_seen(&self.slices, &Key::of(&*slice), slice.uid()).await;
                return Ok(());
            }
        };
        match written {
            Err(error) if common::is_namespace_going(&error) => {}
            other => self.slices.reached(other?.revision()).await,
        }
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use serde_json::json;

    pub(crate) fn service(publish_not_ready: bool) -> Service {
        serde_json::from_value(json!({"metadata": {"name": "web", "namespace": "ns", "uid": "svc", "labels": {"l": "1"}},
            "spec": {"selector": {"app": "web"}, "publishNotReadyAddresses": publish_not_ready, "clusterIP": "None",
                "ports": [{"name": "http", "port": 80, "targetPort": "web"}]}}))
        .unwrap()
    }

    /// `name address ready|unready|leaving`, its port named `web` at 8080 (9090 for names in capitals).
    pub(crate) fn pod(text: &str) -> Arc<Pod> {
        let [name, address, state] = text.split(' ').collect::<Vec<_>>()[..] else { panic!("{text}") };
        let port = if name.chars().all(char::is_uppercase) { 9090 } else { 8080 };
        let deleting = (state == "leaving").then_some("2026-01-01T00:00:00Z");
        let ready = if state == "unready" { "False" } else { "True" };
        Arc::new(serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "ns", "uid": name, "labels": {"app": "web"}, "deletionTimestamp": deleting},
            "spec": {"nodeName": "n1", "containers": [{"name": "c", "ports": [{"name": "web", "containerPort": port}]}]},
            "status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}],
                "conditions": [{"type": "Ready", "status": ready}]}
        })).unwrap())
    }

    fn show(actions: &[Action]) -> String {
        let line = |action: &Action| {
            let (verb, slice) = match action {
                Action::Create(slice) => ("create", slice),
                Action::Update(slice) => ("update", slice),
                Action::Delete(slice) => ("delete", &**slice),
            };
            let ports: Vec<_> = slice.ports.iter().flatten().filter_map(|port| port.port).collect();
            let endpoints = slice.endpoints.iter().flatten().map(|endpoint| {
                let state = endpoint.conditions.clone().unwrap_or_default();
                let flag =
                    |flag: Option<bool>, text: &'static str| if flag == Some(true) { text } else { "" };
                format!(
                    " {}{}{}{}",
                    endpoint.addresses[0],
                    flag(state.ready, "+r"),
                    flag(state.serving, "+s"),
                    flag(state.terminating, "+t")
                )
            });
            format!("{verb} {ports:?}{}", endpoints.collect::<String>())
        };
        actions.iter().map(line).collect::<Vec<_>>().join("\n")
    }

    fn planned(pods: &[Arc<Pod>], found: &[Arc<EndpointSlice>]) -> Vec<Action> {
        plan(&service(false), pods, &|_| None, found)
    }

    /// The slices as they are after the actions.
    fn after(actions: Vec<Action>) -> Vec<Arc<EndpointSlice>> {
        let kept = actions.into_iter().filter_map(|action| match action {
            Action::Create(slice) | Action::Update(slice) => Some(Arc::new(slice)),
            Action::Delete(_) => None,
        });
        kept.collect()
    }

    #[test]
    fn conditions_follow_the_pods_and_ports_divide_the_slices() {
        let pods = [
            pod("a 10.42.0.2 ready"),
            pod("b 10.42.0.3 unready"),
            pod("c 10.42.0.4 leaving"),
            pod("D 10.42.0.5 ready"),
        ];
        let created = planned(&pods, &[]);
        assert_eq!(
            show(&created),
            "create [8080] 10.42.0.2+r+s 10.42.0.3 10.42.0.4+s+t\ncreate [9090] 10.42.0.5+r+s"
        );
        let slices = after(created);
        assert_eq!(slices[0].labels()[backends::HEADLESS], "");
        assert_eq!(show(&planned(&pods, &slices)), "");
        assert_eq!(
            show(&planned(&pods[..2], &slices)),
            "update [8080] 10.42.0.2+r+s 10.42.0.3\ndelete [9090] 10.42.0.5+r+s"
        );
    }

    #[test]
    fn a_service_without_pods_keeps_one_empty_slice() {
        let empty = planned(&[], &[]);
        assert_eq!(show(&empty), "create []");
        let slices = after(empty);
        assert_eq!(show(&planned(&[], &slices)), "");
        let with_pod = [pod("a 10.42.0.2 ready")];
        assert_eq!(show(&planned(&with_pod, &slices)), "create [8080] 10.42.0.2+r+s\ndelete []");
    }

    #[test]
    fn full_slices_overflow_into_new_ones() {
        let pods: Vec<_> = (0..150).map(|n| pod(&format!("p{n} 10.42.0.{n} ready"))).collect();
        let slices = after(planned(&pods[..120], &[]));
        assert_eq!(
            slices.iter().map(|slice| slice.endpoints.iter().flatten().count()).collect::<Vec<_>>(),
            [100, 20]
        );
        let more = after(planned(&pods, &slices));
        assert_eq!(
            more.iter().map(|slice| slice.endpoints.iter().flatten().count()).collect::<Vec<_>>(),
            [50]
        );
    }
}
