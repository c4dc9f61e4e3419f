//! From one Service with its EndpointSlices, or one pod with host ports, to fronts; pure.

use crate::endpoints::Choice;
use crate::family::Family;
use crate::few::Few;
use crate::model::{Endpoint, Endpoints, Fate, Front, Protocol, Served};
use crate::{Config, Topology};
use api::Object;
use api::core::{Pod, Service, ServicePort, ServiceSpec};
use api::slim::EndpointSlice;
use net::Cidr;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

/// `kubernetes.io/service-name`: the label that ties a slice to its service.
pub(crate) const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// The label of a service that another proxy serves.
const OTHER_PROXY: &str = "service.kubernetes.io/service-proxy-name";

/// The label of what no proxy serves: endpoints that are for DNS alone.
pub(crate) const HEADLESS: &str = "service.kubernetes.io/headless";

/// `sessionAffinityConfig.clientIP.timeoutSeconds` where it is not set.
const AFFINITY_S: u32 = 10_800;

/// What one object wants of the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Planned {
    pub(crate) fronts: Few<Front, Served>,
    /// The pods of this node among its endpoints, in their order.
    pub(crate) here: Box<[IpAddr]>,
    /// For fronts of UDP to which flows may go on.
    pub(crate) serving: Few<Front, Endpoints>,
    /// `healthCheckNodePort`, and how many endpoints this node has.
    pub(crate) health: Option<(u16, u32)>,
    /// Ports without an endpoint here that need one, by `internalTrafficPolicy` and by `externalTrafficPolicy`.
    pub(crate) no_local: (u32, u32),
}

/// A plan while it is made.
#[derive(Default)]
struct Making {
    fronts: BTreeMap<Front, Served>,
    here: BTreeSet<IpAddr>,
    serving: BTreeMap<Front, Endpoints>,
    no_local: (u32, u32),
}

impl Making {
    fn done(self, health: Option<(u16, u32)>) -> Planned {
        Planned {
            fronts: self.fronts.into(),
            here: self.here.into_iter().collect(),
            serving: self.serving.into(),
            health,
            no_local: self.no_local,
        }
    }
}

/// What a service is in the kernel; nothing if no proxy serves it.
pub(crate) fn service(
    config: &Config,
    topology: &Topology,
    service: &Service,
    slices: &[&EndpointSlice],
) -> Planned {
    let Some(spec) = service.spec.as_ref().filter(|spec| is_served(config, service, spec)) else {
        return Planned::default();
    };
    let mut making = Making::default();
    let mut ready_here = BTreeMap::<Family, BTreeSet<IpAddr>>::new();
    let addresses = cluster_addresses(spec);
    let families = config.families().filter(|family| addresses.iter().any(|own| Family::of(*own) == *family));
    for (family, port) in
        families.flat_map(|family| spec.ports.iter().flatten().map(move |port| (family, port)))
    {
        let served = slices.iter().copied().filter(|slice| !slice.labels().contains_key(HEADLESS));
        let choice = Choice::of(topology, family, port, served);
        plan_port(config, (service, spec), (family, port), &choice, &mut making);
        making.here.extend(&choice.here);
        ready_here.entry(family).or_default().extend(&choice.ready_here);
    }
    let count = || ready_here.values().filter_map(|here| u32::try_from(here.len()).ok()).max().unwrap_or(0);
    making.done(health_check_port(spec).map(|port| (port, count())))
}

fn is_served(config: &Config, service: &Service, spec: &ServiceSpec) -> bool {
    let addresses = cluster_addresses(spec);
    spec.type_.as_deref() != Some("ExternalName")
        && !service.labels().contains_key(OTHER_PROXY)
        && !service.labels().contains_key(HEADLESS)
        && !addresses.is_empty()
        && !addresses.iter().any(|address| config.answered_here.contains(address))
}

/// Its cluster addresses; none for a headless service ("None").
fn cluster_addresses(spec: &ServiceSpec) -> BTreeSet<IpAddr> {
    let all = spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip);
    all.filter_map(|text| text.parse().ok()).collect()
}

fn health_check_port(spec: &ServiceSpec) -> Option<u16> {
    let needed = spec.type_.as_deref() == Some("LoadBalancer") && external_local(spec);
    spec.health_check_node_port
        .filter(|_| needed)
        .and_then(|port| u16::try_from(port).ok())
        .filter(|port| *port > 0)
}

fn external_local(spec: &ServiceSpec) -> bool {
    spec.external_traffic_policy.as_deref() == Some("Local")
}

/// The addresses a load balancer delivers packets for unchanged (`ipMode: VIP`).
fn balanced_addresses(service: &Service) -> impl Iterator<Item = IpAddr> {
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = status.and_then(|status| status.ingress.as_ref()).into_iter().flatten();
    let delivered = ingress.filter(|ingress| ingress.ip_mode.as_deref() != Some("Proxy"));
    delivered.filter_map(|ingress| ingress.ip.as_ref()?.parse().ok())
}

fn plan_port(
    config: &Config,
    (service, spec): (&Service, &ServiceSpec),
    (family, port): (Family, &ServicePort),
    choice: &Choice,
    making: &mut Making,
) {
    let numbers = (Protocol::parse(port.protocol.as_deref()), u16::try_from(port.port));
    let (Some(protocol), Ok(number @ 1..)) = numbers else { return };
    let at = |address| Front::Address(address, protocol, number);
    let own = |address: &IpAddr| Family::of(*address) == family;
    let mut fronts = BTreeMap::new();
    let inside = internal(spec, choice);
    fronts
        .extend(cluster_addresses(spec).into_iter().filter(own).map(|address| (at(address), inside.clone())));
    let own_fronts = fronts.len();
    let outside = external(spec, choice);
    let externals = spec.external_ips.iter().flatten().filter_map(|text| text.parse().ok());
    let balanced: BTreeSet<IpAddr> = balanced_addresses(service).filter(own).collect();
    let sources = sources(config, spec, &balanced);
    for address in externals.filter(own).chain(balanced.iter().copied()) {
        let sources = if balanced.contains(&address) { sources.clone() } else { Arc::default() };
        fronts.entry(at(address)).or_insert(Served { sources, ..outside.clone() });
    }
    if let Some(node_port @ 1..) = port.node_port.and_then(|port| u16::try_from(port).ok()) {
        let chosen = config.node_port_blocks(family).next().is_some();
        fronts.insert(Front::Port(family, protocol, node_port), Served { chosen, ..outside.clone() });
    }
    making.no_local.0 += u32::from(inside.fate == Fate::Drop && own_fronts > 0);
    making.no_local.1 += u32::from(outside.fate == Fate::Drop && fronts.len() > own_fronts);
    if protocol == Protocol::Udp {
        making.serving.extend(fronts.keys().map(|front| (*front, choice.serving.clone())));
    }
    making.fronts.append(&mut fronts);
}

/// At the service's own addresses: `internalTrafficPolicy`.
fn internal(spec: &ServiceSpec, choice: &Choice) -> Served {
    let local = spec.internal_traffic_policy.as_deref() == Some("Local");
    let sticky_s = sticky_s(spec);
    Served { sticky_s, ..Served::with(fate(if local { &choice.local } else { &choice.cluster }, choice)) }
}

/// At addresses and ports for the world outside: `externalTrafficPolicy`. With `Local`, what comes from
/// pods and from this node itself is spread over all endpoints all the same, as if it had gone out to a
/// load balancer and come back.
fn external(spec: &ServiceSpec, choice: &Choice) -> Served {
    let local = external_local(spec);
    let fate = fate(if local { &choice.local } else { &choice.cluster }, choice);
    let short_cut = local && choice.local != choice.cluster;
    let inside = if short_cut { choice.cluster.clone() } else { Endpoints::default() };
    // An endpoint on another node must answer by way of this one, which has the translation.
    Served { inside, masquerade: !local, sticky_s: sticky_s(spec), ..Served::with(fate) }
}

fn fate(endpoints: &Endpoints, choice: &Choice) -> Fate {
    match (endpoints.is_empty(), choice.is_empty()) {
        (false, _) => Fate::Spread(endpoints.clone()),
        (true, false) => Fate::Drop,
        (true, true) => Fate::Reject,
    }
}

fn sticky_s(spec: &ServiceSpec) -> Option<u32> {
    let config = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
    let given = config.and_then(|config| u32::try_from(config.timeout_seconds?).ok());
    (spec.session_affinity.as_deref() == Some("ClientIP")).then_some(given.unwrap_or(AFFINITY_S).max(1))
}

/// `loadBalancerSourceRanges` of one family. A node that is within them also is when it comes from the
/// balancer's address, which some balancers put on a link of the node.
fn sources(config: &Config, spec: &ServiceSpec, balanced: &BTreeSet<IpAddr>) -> Arc<[Cidr]> {
    let Some(v4) = balanced.first().map(IpAddr::is_ipv4) else { return Arc::default() };
    let ranges = spec.load_balancer_source_ranges.iter().flatten();
    let ranges = ranges.filter_map(|text| text.trim().parse::<Cidr>().ok());
    let mut ranges: BTreeSet<Cidr> = ranges.filter(|range| range.is_ipv4() == v4).collect();
    if ranges.iter().any(|range| range.prefix() == 0) {
        return Arc::default();
    }
    if config.node_ips.iter().any(|ip| ranges.iter().any(|range| range.contains(*ip))) {
        ranges.extend(balanced.iter().map(|address| Cidr::single(*address)));
    }
    disjoint(ranges)
}

/// Without blocks that lie in another: a set of intervals refuses those that overlap.
fn disjoint(blocks: BTreeSet<Cidr>) -> Arc<[Cidr]> {
    let within = |block: &Cidr| {
        blocks.iter().any(|other| {
            other != block && other.prefix() <= block.prefix() && other.contains(block.address())
        })
    };
    blocks.iter().filter(|block| !within(block)).copied().collect()
}

/// `containers[].ports[].hostPort` of a pod on this node that has an address of its own.
pub(crate) fn host_ports(config: &Config, pod: &Pod) -> Planned {
    let mut making = Making::default();
    for address in
        host_port_addresses(pod).filter(|address| config.families().any(|one| one == Family::of(*address)))
    {
        let family = Family::of(address);
        for port in ports(pod) {
            let numbers = (port.host_port.map(u16::try_from), u16::try_from(port.container_port));
            let (Some(Ok(host_port @ 1..)), Ok(container_port)) = numbers else { continue };
            let Some(protocol) = Protocol::parse(port.protocol.as_deref()) else { continue };
            let front = match port.host_ip.as_deref() {
                None | Some("" | "0.0.0.0" | "::") => Front::Port(family, protocol, host_port),
                Some(text) => match text.parse() {
                    Ok(host) if Family::of(host) == family => Front::Address(host, protocol, host_port),
                    _ => continue,
                },
            };
            let endpoint = Endpoints::from([Endpoint { address, port: container_port }]);
            making.here.insert(address);
            if protocol == Protocol::Udp {
                making.serving.insert(front, endpoint.clone());
            }
            making.fronts.entry(front).or_insert(Served::with(Fate::Spread(endpoint)));
        }
    }
    making.done(None)
}

fn ports(pod: &Pod) -> impl Iterator<Item = &api::core::ContainerPort> {
    let containers =
        pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten().chain(&spec.containers));
    containers.flat_map(|container| container.ports.iter().flatten())
}

fn host_port_addresses(pod: &Pod) -> impl Iterator<Item = IpAddr> {
    let status = pod.status.as_ref().filter(|status| {
        let over = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
        !over && pod.spec.as_ref().is_none_or(|spec| spec.host_network != Some(true))
    });
    let all = status.into_iter().flat_map(|status| {
        let all = status.pod_ips.iter().flatten().map(|ip| &ip.ip);
        all.chain(&status.pod_ip)
    });
    all.filter_map(|text| text.parse().ok()).collect::<BTreeSet<_>>().into_iter()
}

/// Whether the proxy has anything to do with a pod.
pub(crate) fn has_host_ports(pod: &Pod) -> bool {
    ports(pod).any(|port| port.host_port.is_some())
}
