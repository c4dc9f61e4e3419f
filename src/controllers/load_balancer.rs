//! Services of type LoadBalancer get the addresses of nodes, as k3s' ServiceLB gives them: the proxy of
//! every node answers there. Which nodes is said by labels of nodes and Services.

use api::core::{Node, Service};
use api::discovery::EndpointSlice;
use api::{Meta, Object};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

/// `spec.loadBalancerClass` of Services that are meant for this one; Services without a class are, too.
pub(crate) const CLASS: &str = "knarr.io/servicelb";

/// Once a node has one of these labels, only nodes where it is `true` are used. k3s' name and knarr's.
const ENABLED: [&str; 2] = ["knarr.io/enablelb", "svccontroller.k3s.cattle.io/enablelb"];

/// A Service with one of these labels is given addresses of nodes with the same value.
const POOL: [&str; 2] = ["knarr.io/lbpool", "svccontroller.k3s.cattle.io/lbpool"];

/// Nodes that no load balancer may use (a well-known label of Kubernetes').
const EXCLUDED: &str = "node.kubernetes.io/exclude-from-external-load-balancers";

/// `kubernetes.io/service-name`: the label that ties a slice to its Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// What is decided of one Service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Decision {
    /// In the order in which they are told.
    pub(crate) addresses: Vec<IpAddr>,
    /// Ports that another Service, or knarr itself, has at some address; those addresses are not given.
    pub(crate) conflicts: BTreeMap<Port, String>,
    /// Whether the Service is one of those that get addresses; the others lose what they have.
    pub(crate) balanced: bool,
}

/// A port of a Service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Port {
    pub(crate) protocol: String,
    pub(crate) number: i32,
}

/// What is there.
pub(crate) struct World<'a> {
    pub(crate) services: Vec<&'a Arc<Service>>,
    pub(crate) nodes: Vec<&'a Node>,
    pub(crate) slices: Vec<&'a EndpointSlice>,
    /// TCP ports of nodes that are knarr's own.
    pub(crate) reserved: &'a [u16],
}

fn label<'a>(labels: &'a BTreeMap<String, String>, names: &[&str; 2]) -> Option<&'a str> {
    names.iter().find_map(|name| labels.get(*name)).map(String::as_str)
}

fn is_balancer(service: &Service) -> bool {
    service.spec.as_ref().is_some_and(|spec| spec.type_.as_deref() == Some("LoadBalancer"))
}

/// Whether the Service is to be given addresses here.
pub(crate) fn is_ours(service: &Service) -> bool {
    let class = service.spec.as_ref().and_then(|spec| spec.load_balancer_class.as_deref());
    is_balancer(service) && class.is_none_or(|class| class == CLASS) && !service.is_deleting()
}

/// Whether another load balancer sees to the Service.
pub(crate) fn is_foreign(service: &Service) -> bool {
    is_balancer(service) && !is_ours(service)
}

/// Whether only nodes with endpoints may be told.
pub(crate) fn is_local(service: &Service) -> bool {
    service.spec.as_ref().is_some_and(|spec| spec.external_traffic_policy.as_deref() == Some("Local"))
}

/// The addresses that a Service's status tells.
pub(crate) fn told(service: &Service) -> Vec<IpAddr> {
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = status.and_then(|status| status.ingress.as_ref()).into_iter().flatten();
    ingress.filter_map(|one| one.ip.as_ref()?.parse().ok()).collect()
}

/// Whether a Service's status tells anything, also what is no address.
pub(crate) fn tells(service: &Service) -> bool {
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    status.and_then(|status| status.ingress.as_ref()).is_some_and(|ingress| !ingress.is_empty())
}

fn ports(service: &Service) -> BTreeSet<Port> {
    let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    let protocol = |name: &Option<String>| name.clone().unwrap_or_else(|| "TCP".to_owned());
    ports.map(|port| Port { protocol: protocol(&port.protocol), number: port.port }).collect()
}

/// What each Service gets. Of two that want a port of one address, the older one has it.
pub(crate) fn plan(world: &World<'_>) -> Vec<(Arc<Service>, Decision)> {
    let usable = usable(&world.nodes);
    let reserved = || world.reserved.iter().map(|port| i32::from(*port));
    let mut owners: HashMap<(IpAddr, Port), String> = HashMap::new();
    for address in usable.iter().flat_map(|node| addresses(node).all()) {
        for number in reserved() {
            owners.insert((address, Port { protocol: "TCP".to_owned(), number }), "knarr itself".to_owned());
        }
    }
    let mut services = world.services.clone();
    services.sort_by_key(|service| {
        (
            service.meta().created().map(|time| time.0),
            service.namespace().to_owned(),
            service.name().to_owned(),
        )
    });
    let mut decisions = Vec::new();
    for service in services.into_iter().filter(|service| !is_foreign(service)) {
        let mut decision = Decision { balanced: is_ours(service), ..Decision::default() };
        if decision.balanced {
            let wanted = wanted(service, &usable, &world.slices);
            take(service, wanted, &mut owners, &mut decision);
        }
        decisions.push((service.clone(), decision));
    }
    decisions
}

/// Takes those addresses where all of the Service's ports are free.
fn take(
    service: &Service,
    wanted: BTreeSet<IpAddr>,
    owners: &mut HashMap<(IpAddr, Port), String>,
    decision: &mut Decision,
) {
    let ports = ports(service);
    for address in wanted {
        let taken = ports.iter().filter_map(|port| Some((port, owners.get(&(address, port.clone()))?)));
        let taken: Vec<(Port, String)> = taken.map(|(port, owner)| (port.clone(), owner.clone())).collect();
        if taken.is_empty() {
            let owner = format!("the Service {}/{}", service.namespace(), service.name());
            owners.extend(ports.iter().map(|port| ((address, port.clone()), owner.clone())));
            decision.addresses.push(address);
        }
        decision.conflicts.extend(taken);
    }
}

/// Nodes that may be used at all.
fn usable<'a>(nodes: &[&'a Node]) -> Vec<&'a Node> {
    let chosen = nodes.iter().any(|node| label(node.labels(), &ENABLED).is_some());
    let fits = |node: &&&Node| {
        let enabled = !chosen || label(node.labels(), &ENABLED) == Some("true");
        enabled
            && crate::node_taints::is_ready(node)
            && !node.is_deleting()
            && !node.labels().contains_key(EXCLUDED)
    };
    nodes.iter().filter(fits).copied().collect()
}

/// A node's addresses as its status tells them.
#[derive(Default)]
struct Addresses {
    outside: Vec<IpAddr>,
    inside: Vec<IpAddr>,
}

impl Addresses {
    fn all(self) -> impl Iterator<Item = IpAddr> {
        self.outside.into_iter().chain(self.inside)
    }
}

fn addresses(node: &Node) -> Addresses {
    let mut found = Addresses::default();
    for one in node.status.iter().flat_map(|status| status.addresses.iter().flatten()) {
        let Ok(address) = one.address.parse() else { continue };
        match one.type_.as_str() {
            "ExternalIP" => found.outside.push(address),
            "InternalIP" => found.inside.push(address),
            _ => {}
        }
    }
    found
}

/// The addresses of a Service's families that it would get if its ports were free everywhere: those of the
/// outside if a node has any.
fn wanted(service: &Service, usable: &[&Node], slices: &[&EndpointSlice]) -> BTreeSet<IpAddr> {
    let pool = label(service.labels(), &POOL);
    let with_endpoints = is_local(service).then(|| nodes_with_endpoints(service, slices));
    let families = service.spec.iter().flat_map(|spec| spec.ip_families.iter().flatten());
    let families: BTreeSet<&str> = families.map(String::as_str).collect();
    let of_family = |address: &IpAddr| {
        families.is_empty() || families.contains(if address.is_ipv4() { "IPv4" } else { "IPv6" })
    };
    let (mut outside, mut inside) = (BTreeSet::new(), BTreeSet::new());
    for node in usable {
        let in_pool = pool.is_none() || label(node.labels(), &POOL) == pool;
        let serves = with_endpoints.as_ref().is_none_or(|nodes| nodes.contains(node.name()));
        if in_pool && serves {
            let addresses = addresses(node);
            outside.extend(addresses.outside.into_iter().filter(of_family));
            inside.extend(addresses.inside.into_iter().filter(of_family));
        }
    }
    if outside.is_empty() { inside } else { outside }
}

fn nodes_with_endpoints<'a>(service: &Service, slices: &[&'a EndpointSlice]) -> BTreeSet<&'a str> {
    let own = slices.iter().filter(|slice| {
        slice.namespace() == service.namespace() && service_of(slice) == Some(service.name())
    });
    let endpoints = own.flat_map(|slice| slice.endpoints.iter().flatten());
    let ready = endpoints.filter(|endpoint| {
        endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true)
    });
    ready.filter_map(|endpoint| endpoint.node_name.as_deref()).collect()
}

/// The name of the Service that a slice is of.
pub(crate) fn service_of(slice: &EndpointSlice) -> Option<&str> {
    slice.labels().get(SERVICE_NAME).map(String::as_str)
}

/// What of a node decides: it changes far less often than the node.
pub(crate) fn facts(node: &Node) -> impl PartialEq + use<> {
    let addresses = addresses(node);
    let labels =
        [label(node.labels(), &ENABLED), label(node.labels(), &POOL)].map(|label| label.map(str::to_owned));
    let excluded = node.labels().contains_key(EXCLUDED);
    let ready = crate::node_taints::is_ready(node) && !node.is_deleting();
    (addresses.outside, addresses.inside, labels, excluded, ready)
}
