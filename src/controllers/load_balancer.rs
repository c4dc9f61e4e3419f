//! Services of type LoadBalancer get the addresses of nodes, as k3s' ServiceLB gives them: the proxy of
//! every node answers there. Which nodes is said by labels of nodes and Services. Where ranges are configured
//! they get addresses of their own ([`Pool`]).

use crate::load_balancer_range::{AddressRange, Pool, asked};
use crate::slices::SERVICE_NAME;
use api::core::{Node, Service};
use api::slim::EndpointSlice;
use api::{Meta, Object, slim};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

/// `spec.loadBalancerClass` of Services that are meant for this one; Services without a class are, too.
pub(crate) const CLASS: &str = "knarr.io/servicelb";

/// The same of Services that get addresses of `--lb-range`; where there is one, those without a class are, too.
pub(crate) const RANGE_CLASS: &str = "knarr.io/lb-range";

/// Once a node has one of these labels, only nodes where it is `true` are used. k3s' name and knarr's.
const ENABLED: [&str; 2] = ["knarr.io/enablelb", "svccontroller.k3s.cattle.io/enablelb"];

/// A Service with one of these labels is given addresses of nodes with the same value.
const POOL: [&str; 2] = ["knarr.io/lbpool", "svccontroller.k3s.cattle.io/lbpool"];

/// Nodes that no load balancer may use (a well-known label of Kubernetes').
const EXCLUDED: &str = "node.kubernetes.io/exclude-from-external-load-balancers";

/// What is decided of one Service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Decision {
    /// In the order in which they are told.
    pub(crate) addresses: Vec<IpAddr>,
    /// Ports that another Service, or knarr itself, has at some address; those addresses are not given.
    pub(crate) conflicts: BTreeMap<Port, String>,
    /// Why the Service does not get an address that it asks for.
    pub(crate) refused: Option<String>,
    /// Which node answers for which address, of those that no node has.
    pub(crate) announced: BTreeMap<IpAddr, String>,
    /// Whether its addresses are of ranges.
    pub(crate) ranged: bool,
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
    /// Those that have ports of their nodes.
    pub(crate) pods: Vec<&'a slim::Pod>,
    pub(crate) ranges: &'a [AddressRange],
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
    is_balancer(service)
        && class.is_none_or(|class| [CLASS, RANGE_CLASS].contains(&class))
        && !service.is_deleting()
}

/// Whether another load balancer sees to the Service.
pub(crate) fn is_foreign(service: &Service) -> bool {
    is_balancer(service) && !is_ours(service)
}

/// Whether only nodes with endpoints may be told.
pub(crate) fn is_local(service: &Service) -> bool {
    service.spec.as_ref().is_some_and(|spec| spec.external_traffic_policy.as_deref() == Some("Local"))
}

/// Whether a Service's status tells anything, also what is no address.
pub(crate) fn tells(service: &Service) -> bool {
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    status.and_then(|status| status.ingress.as_ref()).is_some_and(|ingress| !ingress.is_empty())
}

pub(crate) fn ports(service: &Service) -> BTreeSet<Port> {
    let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    let protocol = |name: &Option<String>| name.clone().unwrap_or_else(|| "TCP".to_owned());
    ports.map(|port| Port { protocol: protocol(&port.protocol), number: port.port }).collect()
}

/// Who has which port of which address.
type Owners = HashMap<(IpAddr, Port), String>;

/// Who wants ports of nodes.
enum Claim<'a> {
    Pod(&'a slim::Pod),
    Service(&'a Arc<Service>),
}

impl Claim<'_> {
    /// The older one is before. Times of creation are whole seconds: of the same one pods are before, since
    /// they have their ports as soon as they run.
    fn age(&self) -> (Option<jiff::Timestamp>, Rank, String, String) {
        fn of<T: Object>(object: &T, rank: Rank) -> (Option<jiff::Timestamp>, Rank, String, String) {
            let created = object.meta().created().map(|time| time.0);
            (created, rank, object.namespace().to_owned(), object.name().to_owned())
        }
        match self {
            Self::Pod(pod) => of(*pod, Rank::Pod),
            Self::Service(service) => of(&***service, Rank::Service),
        }
    }
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Pod,
    Service,
}

/// What each Service gets. Of two that want a port of one address, the older one has it; pods have theirs of
/// their nodes.
pub(crate) fn plan(world: &World<'_>) -> Vec<(Arc<Service>, Decision)> {
    let usable = usable(&world.nodes);
    let mut owners = reserved(world, &usable);
    let ours = world.services.iter().filter(|service| !is_foreign(service));
    let mut claims: Vec<Claim<'_>> = ours.map(|service| Claim::Service(service)).collect();
    claims.extend(world.pods.iter().map(|pod| Claim::Pod(pod)));
    claims.sort_by_cached_key(Claim::age);
    let mut ranged = ranged(world, &usable, &claims);
    let mut decisions = Vec::new();
    for claim in &claims {
        match claim {
            Claim::Pod(pod) => claim_host_ports(pod, &world.nodes, &mut owners),
            Claim::Service(service) => {
                let key = (service.namespace().to_owned(), service.name().to_owned());
                let decision = ranged.remove(&key).unwrap_or_else(|| {
                    let mut decision = Decision { balanced: is_ours(service), ..Decision::default() };
                    if decision.balanced {
                        let wanted = wanted(service, &usable, &world.slices);
                        take(service, chosen(service, wanted, &mut decision), &mut owners, &mut decision);
                    }
                    decision
                });
                decisions.push(((*service).clone(), decision));
            }
        }
    }
    decisions
}

/// What knarr itself listens on.
fn reserved(world: &World<'_>, usable: &[&Node]) -> Owners {
    let mut owners = Owners::new();
    for address in usable.iter().flat_map(|node| addresses(node).all()) {
        for number in world.reserved {
            let port = Port { protocol: "TCP".to_owned(), number: i32::from(*number) };
            owners.insert((address, port), "knarr itself".to_owned());
        }
    }
    owners
}

/// What Services get that are given addresses of ranges.
fn ranged(world: &World<'_>, usable: &[&Node], claims: &[Claim<'_>]) -> BTreeMap<(String, String), Decision> {
    let nodes: BTreeSet<IpAddr> = world.nodes.iter().flat_map(|node| addresses(node).all()).collect();
    let services = claims.iter().filter_map(|claim| match claim {
        Claim::Service(service) => Some(*service).filter(|service| is_ranged(service, world.ranges, &nodes)),
        Claim::Pod(_) => None,
    });
    let services: Vec<&Arc<Service>> = services.collect();
    let mut pool = Pool::new(world.ranges, nodes);
    let mut given = pool.give(&services);
    let may = |service: &Service| {
        serving(service, usable, &world.slices).map(|node| node.name().to_owned()).collect()
    };
    let announcers = pool.announcers(may);
    for decision in given.values_mut() {
        decision.ranged = true;
        let own = decision.addresses.iter().filter_map(|own| Some((*own, announcers.get(own)?.clone())));
        decision.announced = own.collect();
    }
    given
}

/// Whether a Service is given addresses of ranges rather than of nodes.
fn is_ranged(service: &Service, ranges: &[AddressRange], nodes: &BTreeSet<IpAddr>) -> bool {
    let class = service.spec.as_ref().and_then(|spec| spec.load_balancer_class.as_deref());
    let of_node = || asked(service).is_some_and(|asked| asked.is_ok_and(|own| nodes.contains(&own)));
    is_ours(service)
        && match class {
            Some(class) => class == RANGE_CLASS,
            None => !ranges.is_empty() && !of_node(),
        }
}

/// The ports that a pod has of its node, under all addresses of it or one.
fn claim_host_ports(pod: &slim::Pod, nodes: &[&Node], owners: &mut Owners) {
    let Some(spec) = &pod.spec else { return };
    let node = nodes.iter().find(|node| spec.node_name.as_deref() == Some(node.name()));
    let own: Vec<IpAddr> = node.into_iter().flat_map(|node| addresses(node).all()).collect();
    for port in host_ports(pod) {
        let Some(number) = port.host_port else { continue };
        let one = port.host_ip.as_deref().and_then(|text| text.parse::<IpAddr>().ok());
        let one = one.filter(|address| !address.is_unspecified());
        let protocol = port.protocol.as_deref().unwrap_or("TCP").to_owned();
        for address in own.iter().filter(|own| one.is_none_or(|one| one == **own)) {
            let claimed = owners.entry((*address, Port { protocol: protocol.clone(), number }));
            claimed.or_insert_with(|| format!("the Pod {}/{}", pod.namespace(), pod.name()));
        }
    }
}

/// Its ports that are also its node's, while it is not over.
pub(crate) fn host_ports(pod: &slim::Pod) -> impl Iterator<Item = &slim::ContainerPort> {
    let over = pod
        .status
        .as_ref()
        .is_some_and(|status| matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")));
    let spec = pod.spec.as_ref().filter(|spec| !over && spec.node_name.is_some());
    let containers =
        spec.into_iter().flat_map(|spec| spec.init_containers.iter().flatten().chain(&spec.containers));
    let ports = containers.flat_map(|container| container.ports.iter().flatten());
    ports.filter(|port| port.host_port.is_some_and(|number| number > 0))
}

/// Of the addresses that it could get the one that a Service asks for, or all.
fn chosen(service: &Service, wanted: BTreeSet<IpAddr>, decision: &mut Decision) -> BTreeSet<IpAddr> {
    match asked(service) {
        None => wanted,
        Some(Ok(address)) if wanted.contains(&address) => BTreeSet::from([address]),
        Some(asked) => {
            let text = asked.map_or_else(str::to_owned, |address| address.to_string());
            let why = format!("spec.loadBalancerIP {text} is no address of a node that can be given");
            decision.refused = Some(why);
            BTreeSet::new()
        }
    }
}

/// Takes those addresses where all of the Service's ports are free.
fn take(service: &Service, wanted: BTreeSet<IpAddr>, owners: &mut Owners, decision: &mut Decision) {
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
    let families = service.spec.iter().flat_map(|spec| spec.ip_families.iter().flatten());
    let families: BTreeSet<&str> = families.map(String::as_str).collect();
    let of_family = |address: &IpAddr| {
        families.is_empty() || families.contains(if address.is_ipv4() { "IPv4" } else { "IPv6" })
    };
    let (mut outside, mut inside) = (BTreeSet::new(), BTreeSet::new());
    for node in serving(service, usable, slices) {
        let addresses = addresses(node);
        outside.extend(addresses.outside.into_iter().filter(of_family));
        inside.extend(addresses.inside.into_iter().filter(of_family));
    }
    if outside.is_empty() { inside } else { outside }
}

/// The nodes that may stand for a Service: of its pool, and with endpoints where it asks for that.
fn serving<'a>(
    service: &Service,
    usable: &[&'a Node],
    slices: &[&EndpointSlice],
) -> impl Iterator<Item = &'a Node> {
    let pool = label(service.labels(), &POOL);
    let with_endpoints = is_local(service).then(|| nodes_with_endpoints(service, slices));
    let fits = |node: &&&Node| {
        let in_pool = pool.is_none() || label(node.labels(), &POOL) == pool;
        in_pool && with_endpoints.as_ref().is_none_or(|nodes| nodes.contains(node.name()))
    };
    usable.iter().filter(fits).copied().collect::<Vec<_>>().into_iter()
}

fn nodes_with_endpoints<'a>(service: &Service, slices: &[&'a EndpointSlice]) -> BTreeSet<&'a str> {
    let own = slices.iter().filter(|slice| {
        slice.namespace() == service.namespace() && service_of(slice) == Some(service.name())
    });
    let endpoints = own.flat_map(|slice| slice.endpoints.iter().flatten());
    let ready = endpoints
        .filter(|endpoint| endpoint.conditions.and_then(|conditions| conditions.ready).unwrap_or(true));
    ready.filter_map(|endpoint| endpoint.node_name.as_deref()).collect()
}

/// The name of the Service that a slice is of.
pub(crate) fn service_of(slice: &EndpointSlice) -> Option<&str> {
    slice.labels().get(SERVICE_NAME)
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
