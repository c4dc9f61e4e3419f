//! Plans the EndpointSlices of a Service, moving as few endpoints between slices as it can.

use crate::backends::{self, spec};
use crate::common::owned_by;
use crate::pods;
use crate::topology_hints::{self, Shares};
use api::core::{Node, Service};
use api::discovery::{
    Endpoint, EndpointConditions, EndpointHints, EndpointPort, EndpointSlice, ForNode, ForZone,
};
use api::meta::ObjectMeta;
use api::slim::Pod;
use api::{Object, owner_reference};
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

/// How many endpoints one slice holds (kube-controller-manager's `--max-endpoints-per-slice`).
const SLICE: usize = 100;
pub(crate) const SERVICE_NAME: &str = "kubernetes.io/service-name";
pub(crate) const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
pub(crate) const MANAGER: &str = "endpointslice-controller.k8s.io";
pub(crate) const ZONE: &str = "topology.kubernetes.io/zone";

/// The node of a name.
pub(crate) type NodeOf<'a> = &'a dyn Fn(&str) -> Option<Arc<Node>>;

/// What is to become of slices.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    pub(crate) create: Vec<EndpointSlice>,
    pub(crate) update: Vec<EndpointSlice>,
    pub(crate) delete: Vec<Arc<EndpointSlice>>,
    pub(crate) unchanged: Vec<Arc<EndpointSlice>>,
}

/// What is to become of a Service's slices, and by family whether the Service's endpoints could be divided
/// among zones, if it asks for that.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub(crate) changes: Changes,
    pub(crate) divided: Vec<(String, Result<(), String>)>,
}

/// What makes an endpoint the same one: its addresses and its pod's name.
pub(crate) type Identity = (Vec<String>, Option<String>);

/// Endpoints that have their ports in common: slices hold one group each.
#[derive(Default)]
struct Group {
    ports: Vec<EndpointPort>,
    endpoints: BTreeMap<Identity, Endpoint>,
}

/// Compares the slices found with what the Service's pods make of them. `shares` are those of the zones, if the
/// nodes say enough of them.
pub(crate) fn plan(
    service: &Service,
    pods: &[Arc<Pod>],
    (node, shares): (NodeOf<'_>, Option<&Shares>),
    found: &[Arc<EndpointSlice>],
) -> Plan {
    let families = families(service);
    let (of_family, foreign) =
        found.iter().cloned().partition(|slice| families.contains(&slice.address_type));
    let mut plan = Plan::default();
    plan.changes.delete = foreign;
    let of_family: Vec<Arc<EndpointSlice>> = of_family;
    for family in families {
        let found = of_family.iter().filter(|slice| slice.address_type == family).cloned().collect();
        let mut changes = reconcile(service, groups(service, pods, node, &family), found, &family);
        if topology_hints::wanted(service) {
            plan.divided.push((family, topology_hints::divide(&mut changes, shares)));
        }
        changes.recycle(|slice| owned_by(slice, service));
        plan.changes.add(changes);
    }
    // What deletes a Service deletes its slices: new ones would be left behind.
    if service.is_deleting() {
        plan.changes.create.clear();
    }
    plan
}

/// The families of a Service that no server has given any are those it may have.
fn families(service: &Service) -> Vec<String> {
    let given = spec(service).ip_families.clone().unwrap_or_default();
    let of_address = |address: &str| if address.contains(':') { "IPv6" } else { "IPv4" };
    match spec(service).cluster_ip.as_deref() {
        _ if !given.is_empty() => given,
        None | Some("" | "None") => vec!["IPv4".to_owned(), "IPv6".to_owned()],
        Some(address) => vec![of_address(address).to_owned()],
    }
}

fn groups(service: &Service, pods: &[Arc<Pod>], node: NodeOf<'_>, family: &str) -> Vec<Group> {
    let mut groups: BTreeMap<Vec<String>, Group> = BTreeMap::new();
    for pod in pods {
        let ports = ports(service, pod);
        let group = groups.entry(port_key(&ports)).or_default();
        group.ports = ports;
        let node = node(pods::node_name(pod));
        // A pod whose node is gone is about to be; whoever publishes all pods knows what to expect.
        if node.is_none() && spec(service).publish_not_ready_addresses != Some(true) {
            continue;
        }
        let endpoint = endpoint(service, pod, node.as_deref(), family);
        if !endpoint.addresses.is_empty() {
            group.endpoints.insert(identity(&endpoint), endpoint);
        }
    }
    groups.into_values().collect()
}

/// The same for ports in another order.
pub(crate) fn port_key(ports: &[EndpointPort]) -> Vec<String> {
    let mut key: Vec<String> = ports.iter().map(|port| format!("{port:?}")).collect();
    key.sort();
    key
}

pub(crate) fn identity(endpoint: &Endpoint) -> Identity {
    let pod = endpoint.target_ref.as_ref().and_then(|target| target.name.clone());
    (endpoint.addresses.clone(), pod)
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

fn endpoint(service: &Service, pod: &Pod, node: Option<&Node>, family: &str) -> Endpoint {
    let serving = pods::is_ready(pod);
    let published = spec(service).publish_not_ready_addresses == Some(true);
    let ready = published || serving && !pod.is_deleting();
    let addresses = backends::addresses(pod);
    let addresses = addresses.into_iter().filter(|ip| ip.contains(':') == (family == "IPv6"));
    let node_name = Some(pods::node_name(pod).to_owned()).filter(|name| !name.is_empty());
    let zone = node.and_then(|node| node.labels().get(ZONE).cloned()).filter(|zone| !zone.is_empty());
    Endpoint {
        addresses: addresses.map(str::to_owned).collect(),
        conditions: Some(EndpointConditions {
            ready: Some(ready),
            serving: Some(serving),
            terminating: Some(pod.is_deleting()),
        }),
        hints: ready.then(|| close_hints(service, zone.as_ref(), node_name.as_ref())).flatten(),
        hostname: backends::hostname(service, pod),
        node_name,
        target_ref: Some(backends::target(pod)),
        zone,
        ..Endpoint::default()
    }
}

/// For whom an endpoint is by `spec.trafficDistribution`: its own zone, and its own node.
fn close_hints(service: &Service, zone: Option<&String>, node: Option<&String>) -> Option<EndpointHints> {
    let wanted = spec(service).traffic_distribution.as_deref();
    let of_node = match wanted.filter(|_| !topology_hints::wanted(service))? {
        "PreferClose" | "PreferSameZone" => false,
        "PreferSameNode" => true,
        _ => return None,
    };
    let for_zones = zone.map(|zone| vec![ForZone { name: zone.clone() }]);
    let for_nodes = node.filter(|_| of_node).map(|node| vec![ForNode { name: node.clone() }]);
    (for_zones.is_some() || for_nodes.is_some()).then_some(EndpointHints { for_nodes, for_zones })
}

/// The changes to the slices of one family.
fn reconcile(service: &Service, groups: Vec<Group>, found: Vec<Arc<EndpointSlice>>, family: &str) -> Changes {
    let (mut owned, foreign): (Vec<_>, Vec<_>) =
        found.into_iter().partition(|slice| owned_by(&**slice, service));
    let labels = labels(service);
    let fresh = |ports: &[EndpointPort]| fresh(service, family, &labels, ports);
    let divided = topology_hints::wanted(service);
    let mut changes = Changes { delete: foreign, ..Changes::default() };
    for group in groups {
        let key = port_key(&group.ports);
        let same_ports =
            |slice: &mut Arc<EndpointSlice>| port_key(slice.ports.as_deref().unwrap_or_default()) == key;
        let found = owned.extract_if(.., same_ports).collect();
        changes.pack(group.endpoints, found, &fresh(&group.ports), divided);
    }
    // One empty slice says that somebody has looked and there is nothing.
    if changes.create.is_empty() && changes.update.is_empty() && changes.unchanged.is_empty() {
        let is_placeholder = |slice: &mut Arc<EndpointSlice>| {
            let empty = slice.endpoints.iter().flatten().next().is_none();
            empty && slice.ports.iter().flatten().next().is_none() && slice.labels() == &labels
        };
        match owned.extract_if(.., is_placeholder).next() {
            Some(placeholder) => changes.unchanged.push(placeholder),
            None => changes.create.push(fresh(&[])),
        }
    }
    changes.delete.extend(owned);
    changes
}

impl Changes {
    fn add(&mut self, more: Self) {
        self.create.extend(more.create);
        self.update.extend(more.update);
        self.delete.extend(more.delete);
        self.unchanged.extend(more.unchanged);
    }

    /// Leaves endpoints where they are, fills up the slices that change anyway, and then one that does not, if
    /// the rest fits there; the rest goes into slices made after `fresh`. Hints that are `divided` later are no
    /// change here.
    fn pack(
        &mut self,
        mut wanted: BTreeMap<Identity, Endpoint>,
        found: Vec<Arc<EndpointSlice>>,
        fresh: &EndpointSlice,
        divided: bool,
    ) {
        let (mut changed, mut unchanged) = (Vec::new(), Vec::new());
        for slice in found {
            let before = slice.endpoints.as_deref().unwrap_or_default();
            let kept: Vec<_> = before.iter().filter_map(|it| wanted.remove(&identity(it))).collect();
            let same = kept.len() == before.len()
                && kept.iter().zip(before).all(|(kept, before)| is_same(kept, before, divided));
            match (same, slice.labels() == fresh.labels()) {
                (true, true) => unchanged.push(slice),
                (false, _) if kept.is_empty() => self.delete.push(slice),
                _ => changed.push(refilled(&slice, fresh, kept)),
            }
        }
        let mut rest = wanted.into_values();
        changed.sort_by_key(|slice| Reverse(endpoints(slice)));
        changed.iter_mut().for_each(|slice| fill(slice, &mut rest));
        while rest.len() > 0 {
            let room = |slice: &EndpointSlice| SLICE.checked_sub(endpoints(slice) + rest.len());
            let fitting = unchanged.iter().enumerate().filter_map(|(at, slice)| Some((room(slice)?, at)));
            let mut slice = match fitting.min() {
                Some((_, at)) => EndpointSlice::clone(&unchanged.swap_remove(at)),
                None => fresh.clone(),
            };
            fill(&mut slice, &mut rest);
            if slice.name().is_empty() { &mut self.create } else { &mut changed }.push(slice);
        }
        self.update.extend(changed);
        self.unchanged.extend(unchanged);
    }

    /// Makes updates of what would be deleted and created: objects that stay are cheaper for who watches.
    pub(crate) fn recycle(&mut self, may: impl Fn(&EndpointSlice) -> bool) {
        let mut kept = Vec::new();
        for old in std::mem::take(&mut self.delete) {
            let fits = |new: &EndpointSlice| new.address_type == old.address_type && may(&old);
            match self.create.pop_if(|new| fits(new)) {
                Some(mut new) => {
                    new.metadata.name.clone_from(&old.metadata.name);
                    new.metadata.resource_version.clone_from(&old.metadata.resource_version);
                    self.update.push(new);
                }
                None => kept.push(old),
            }
        }
        self.delete = kept;
    }
}

fn endpoints(slice: &EndpointSlice) -> usize {
    slice.endpoints.as_ref().map_or(0, Vec::len)
}

fn fill(slice: &mut EndpointSlice, rest: &mut impl Iterator<Item = Endpoint>) {
    let room = SLICE.saturating_sub(endpoints(slice));
    slice.endpoints.get_or_insert_default().extend(rest.take(room));
}

fn is_same(wanted: &Endpoint, found: &Endpoint, divided: bool) -> bool {
    if divided && wanted.hints != found.hints {
        return *wanted == Endpoint { hints: wanted.hints.clone(), ..found.clone() };
    }
    wanted == found
}

fn refilled(slice: &EndpointSlice, fresh: &EndpointSlice, kept: Vec<Endpoint>) -> EndpointSlice {
    let mut changed = slice.clone();
    changed.endpoints = Some(kept);
    changed.metadata.labels.clone_from(&fresh.metadata.labels);
    changed
}

fn labels(service: &Service) -> BTreeMap<String, String> {
    let mut labels = backends::labels(service);
    labels.insert(SERVICE_NAME.to_owned(), service.name().to_owned());
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    labels
}

/// A new slice of an owner, without endpoints.
pub(crate) fn fresh<T: Object>(
    owner: &T,
    family: &str,
    labels: &BTreeMap<String, String>,
    ports: &[EndpointPort],
) -> EndpointSlice {
    EndpointSlice {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", owner.name())),
            namespace: Some(owner.namespace().to_owned()),
            labels: Some(labels.clone()),
            owner_references: Some(vec![owner_reference(owner)]),
            ..ObjectMeta::default()
        },
        address_type: family.to_owned(),
        endpoints: Some(Vec::new()),
        ports: Some(ports.to_vec()).filter(|ports| !ports.is_empty()),
    }
}
