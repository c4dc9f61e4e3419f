//! From Services, EndpointSlices and pods to the model; pure.

use crate::Config;
use crate::model::{Endpoint, Front, Key, Model, Protocol, Spread, Value};
use api::Object;
use api::core::{Pod, Service, ServicePort, ServiceSpec};
use api::discovery::{EndpointConditions, EndpointSlice};
use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

/// `kubernetes.io/service-name`: the label that ties a slice to its service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// The label of a service that another proxy serves.
const OTHER_PROXY: &str = "service.kubernetes.io/service-proxy-name";

/// The label of slices that no proxy serves: their endpoints are for DNS alone.
const HEADLESS: &str = "service.kubernetes.io/headless";

/// `sessionAffinityConfig.clientIP.timeoutSeconds` where it is not set.
const AFFINITY_S: u32 = 10_800;

/// What the plan is made from. Services in the order of namespace and name.
#[derive(Default)]
pub(crate) struct Snapshot<'a> {
    pub(crate) services: Vec<&'a Service>,
    pub(crate) slices: Vec<&'a EndpointSlice>,
    /// The pods of this node.
    pub(crate) pods: Vec<&'a Pod>,
}

type Slices<'a> = HashMap<(&'a str, &'a str), Vec<&'a EndpointSlice>>;

/// The whole model.
pub(crate) fn plan(config: &Config, snapshot: &Snapshot<'_>) -> Model {
    let mut slices = Slices::new();
    let served =
        |slice: &EndpointSlice| slice.address_type == "IPv4" && !slice.labels().contains_key(HEADLESS);
    for slice in snapshot.slices.iter().filter(|slice| served(slice)) {
        if let Some(service) = slice.labels().get(SERVICE_NAME) {
            slices.entry((slice.namespace(), service)).or_default().push(slice);
        }
    }
    let mut model = Model::default();
    for service in &snapshot.services {
        let none = Vec::new();
        let own = slices.get(&(service.namespace(), service.name())).unwrap_or(&none);
        plan_service(config, service, own, &mut model);
    }
    for pod in &snapshot.pods {
        plan_host_ports(pod, &mut model);
    }
    model
}

fn plan_service(config: &Config, service: &Service, slices: &[&EndpointSlice], model: &mut Model) {
    let Some(spec) = &service.spec else { return };
    let addresses = cluster_addresses(spec);
    if spec.type_.as_deref() == Some("ExternalName")
        || service.labels().contains_key(OTHER_PROXY)
        || addresses.is_empty()
        || addresses.iter().any(|address| config.answered_here.contains(address))
    {
        return;
    }
    let outside = outside_addresses(service, spec);
    for port in spec.ports.iter().flatten() {
        let (Some(protocol), Ok(number)) =
            (Protocol::parse(port.protocol.as_deref()), u16::try_from(port.port))
        else {
            continue;
        };
        let choice = Choice::of(config, port, slices, model);
        let inside =
            Policy { local: spec.internal_traffic_policy.as_deref() == Some("Local"), outside: false };
        for address in &addresses {
            plan_front(Front::Address(*address, protocol, number), spec, &choice, inside, model);
        }
        let policy =
            Policy { local: spec.external_traffic_policy.as_deref() == Some("Local"), outside: true };
        for address in &outside {
            plan_front(Front::Address(*address, protocol, number), spec, &choice, policy, model);
        }
        if let Some(node_port) =
            port.node_port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0)
        {
            plan_front(Front::Port(protocol, node_port), spec, &choice, policy, model);
        }
    }
}

fn parse_v4(text: &str) -> Option<IpAddr> {
    text.parse().ok().filter(IpAddr::is_ipv4)
}

/// Its cluster addresses; none for a headless service ("None").
fn cluster_addresses(spec: &ServiceSpec) -> Vec<IpAddr> {
    let all = spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip);
    all.filter_map(|text| parse_v4(text)).collect::<BTreeSet<_>>().into_iter().collect()
}

/// `externalIPs`, and the addresses a load balancer delivers packets for unchanged (`ipMode: VIP`).
fn outside_addresses(service: &Service, spec: &ServiceSpec) -> BTreeSet<IpAddr> {
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = status.and_then(|status| status.ingress.as_ref()).into_iter().flatten();
    let delivered = ingress.filter(|ingress| ingress.ip_mode.as_deref() != Some("Proxy"));
    let balanced = delivered.filter_map(|ingress| ingress.ip.as_ref());
    spec.external_ips.iter().flatten().chain(balanced).filter_map(|text| parse_v4(text)).collect()
}

/// The endpoints that a service port may use.
#[derive(Default)]
struct Choice {
    all: BTreeSet<Endpoint>,
    local: BTreeSet<Endpoint>,
}

impl Choice {
    fn of(config: &Config, port: &ServicePort, slices: &[&EndpointSlice], model: &mut Model) -> Self {
        let (mut ready, mut draining) = (Self::default(), Self::default());
        for slice in slices {
            let name = port.name.as_deref().unwrap_or_default();
            let ports = slice.ports.iter().flatten();
            let mut same = ports.filter(|port| port.name.as_deref().unwrap_or_default() == name);
            let number = same.find_map(|port| u16::try_from(port.port?).ok());
            let Some(number) = number else { continue };
            for endpoint in slice.endpoints.iter().flatten() {
                let into = match state(endpoint.conditions.as_ref()) {
                    State::Ready => &mut ready,
                    State::Draining => &mut draining,
                    State::Unusable => continue,
                };
                let Some(address) = endpoint.addresses.first().and_then(|text| parse_v4(text)) else {
                    continue;
                };
                into.all.insert(Endpoint { address, port: number });
                if endpoint.node_name.as_deref() == Some(&config.node_name) {
                    into.local.insert(Endpoint { address, port: number });
                    model.claim(Key::Hairpin(address), Value::Present);
                }
            }
        }
        Self {
            all: if ready.all.is_empty() { draining.all } else { ready.all },
            local: if ready.local.is_empty() { draining.local } else { ready.local },
        }
    }
}

enum State {
    Ready,
    /// Still answers while it terminates: used when nothing is ready (KEP-1669).
    Draining,
    Unusable,
}

/// Conditions that are not set count as good, as EndpointSlice's documentation says.
fn state(conditions: Option<&EndpointConditions>) -> State {
    let Some(conditions) = conditions else { return State::Ready };
    let ready = conditions.ready.unwrap_or(true);
    if ready {
        State::Ready
    } else if conditions.serving.unwrap_or(ready) && conditions.terminating.unwrap_or(false) {
        State::Draining
    } else {
        State::Unusable
    }
}

/// The traffic policy of a front: `internalTrafficPolicy` or `externalTrafficPolicy`.
#[derive(Clone, Copy)]
struct Policy {
    local: bool,
    outside: bool,
}

fn plan_front(front: Front, spec: &ServiceSpec, choice: &Choice, policy: Policy, model: &mut Model) {
    let endpoints = if policy.local { &choice.local } else { &choice.all };
    if endpoints.is_empty() {
        let elsewhere = policy.local && !choice.all.is_empty();
        if !model.0.contains_key(&Key::Service(front)) {
            model.claim(Key::Refused(front), if elsewhere { Value::Drop } else { Value::Reject });
        }
        return;
    }
    let sticky = (spec.session_affinity.as_deref() == Some("ClientIP")).then(|| affinity_s(spec));
    // An endpoint on another node must answer by way of this one, which has the translation.
    let masquerade = policy.outside && !policy.local;
    claim_front(front, endpoints.iter().copied(), (sticky, masquerade), model);
}

fn affinity_s(spec: &ServiceSpec) -> u32 {
    let config = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
    config.and_then(|config| u32::try_from(config.timeout_seconds?).ok()).unwrap_or(AFFINITY_S)
}

fn claim_front(
    front: Front,
    endpoints: impl ExactSizeIterator<Item = Endpoint>,
    (sticky, masquerade): (Option<u32>, bool),
    model: &mut Model,
) {
    let count = u16::try_from(endpoints.len()).unwrap_or(u16::MAX);
    let port = matches!(front, Front::Port(..));
    let spread = Spread { port, endpoints: count, sticky: sticky.is_some(), masquerade };
    if model.0.contains_key(&Key::Refused(front)) || !model.claim(Key::Service(front), Value::Spread(spread))
    {
        return;
    }
    for (index, endpoint) in (0..count).zip(endpoints) {
        model.claim(Key::Endpoint(front, index), Value::Endpoint(endpoint));
    }
    if let Some(timeout_s) = sticky {
        model.claim(Key::Sticky(front), Value::Remember(timeout_s));
    }
}

/// `containers[].ports[].hostPort` of a pod on this node that has an address of its own.
fn plan_host_ports(pod: &Pod, model: &mut Model) {
    let Some(address) = host_port_address(pod) else { return };
    let containers =
        pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten().chain(&spec.containers));
    for port in containers.flat_map(|container| container.ports.iter().flatten()) {
        let numbers = (port.host_port.map(u16::try_from), u16::try_from(port.container_port));
        let (Some(Ok(host_port @ 1..)), Ok(container_port)) = numbers else { continue };
        let Some(protocol) = Protocol::parse(port.protocol.as_deref()) else { continue };
        let front = match port.host_ip.as_deref() {
            None | Some("" | "0.0.0.0" | "::") => Front::Port(protocol, host_port),
            Some(text) => match parse_v4(text) {
                Some(host) => Front::Address(host, protocol, host_port),
                None => continue,
            },
        };
        model.claim(Key::Hairpin(address), Value::Present);
        let endpoint = Endpoint { address, port: container_port };
        claim_front(front, std::iter::once(endpoint), (None, false), model);
    }
}

fn host_port_address(pod: &Pod) -> Option<IpAddr> {
    let status = pod.status.as_ref()?;
    let over = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
    let host_network = pod.spec.as_ref().is_some_and(|spec| spec.host_network == Some(true));
    if over || host_network { None } else { parse_v4(status.pod_ip.as_deref()?) }
}

/// Whether the proxy has anything to do with a pod.
pub(crate) fn has_host_ports(pod: &Pod) -> bool {
    let containers =
        pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten().chain(&spec.containers));
    containers.flat_map(|container| container.ports.iter().flatten()).any(|port| port.host_port.is_some())
}
