//! Services to backends, EndpointSlices to addresses; pure.

use super::Services;
use crate::rules::{BackendKey, Balance, Protocol};
use api::core::{Service, ServicePort};
use api::slim::{EndpointConditions, EndpointSlice};
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

/// How an object names a Service's port.
#[derive(Clone, Copy, Debug)]
pub(crate) enum PortName<'a> {
    Name(&'a str),
    Number(i32),
}

/// The backend of a Service's port, or why there is none.
pub(crate) fn backend(
    services: &Services<'_>,
    (namespace, name): (&str, &str),
    port: PortName<'_>,
    balance: Balance,
) -> Result<BackendKey, String> {
    let service = services.get(namespace, name).ok_or_else(|| format!("service {name:?} not found"))?;
    let spec = service.spec.as_ref();
    if spec.and_then(|spec| spec.type_.as_deref()) == Some("ExternalName") {
        return Err(format!("service {name:?} is of type ExternalName: it has no endpoints"));
    }
    let port = find(service, port).ok_or_else(|| match port {
        PortName::Name(port) => format!("service {name:?} has no port {port:?}"),
        PortName::Number(port) => format!("service {name:?} has no port {port}"),
    })?;
    Ok(BackendKey {
        namespace: namespace.to_owned(),
        service: name.to_owned(),
        port: port.name.clone().unwrap_or_default(),
        protocol: Protocol::of(port.app_protocol.as_deref()),
        balance,
    })
}

fn find<'a>(service: &'a Service, wanted: PortName<'_>) -> Option<&'a ServicePort> {
    let tcp = |port: &&ServicePort| port.protocol.as_deref().unwrap_or("TCP") == "TCP";
    let mut ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten()).filter(tcp);
    ports.find(|port| match wanted {
        PortName::Name(name) => port.name.as_deref() == Some(name),
        PortName::Number(number) => port.port == number,
    })
}

/// Where a Service's port is answered, from its slices: who is ready, or where nobody is, who still answers
/// while it ends (KEP-1669). Of a Service with both families one is enough.
pub(crate) fn endpoints<'a>(
    slices: impl Iterator<Item = &'a EndpointSlice> + Clone,
    port: &str,
) -> Vec<SocketAddr> {
    let of = |family: &str, state: State| -> Vec<SocketAddr> {
        let own = slices.clone().filter(|slice| &*slice.address_type == family);
        let all: BTreeSet<SocketAddr> = own.flat_map(|slice| addresses(slice, port, state)).collect();
        all.into_iter().collect()
    };
    let choices = [
        ("IPv4", State::Ready),
        ("IPv6", State::Ready),
        ("IPv4", State::Draining),
        ("IPv6", State::Draining),
    ];
    let mut found = choices.into_iter().map(|(family, state)| of(family, state));
    found.find(|all| !all.is_empty()).unwrap_or_default()
}

fn addresses<'a>(
    slice: &'a EndpointSlice,
    port: &str,
    wanted: State,
) -> impl Iterator<Item = SocketAddr> + use<'a> {
    let mut same = slice.ports.iter().flatten().filter(|one| one.name.as_deref().unwrap_or_default() == port);
    let number = same.find_map(|port| u16::try_from(port.port?).ok());
    let fits = move |conditions: Option<EndpointConditions>| state(conditions) == Some(wanted);
    let endpoints = slice.endpoints.iter().flatten().filter(move |endpoint| fits(endpoint.conditions));
    endpoints.filter_map(move |endpoint| {
        let address: IpAddr = endpoint.addresses.first()?.parse().ok()?;
        Some(SocketAddr::new(address, number?))
    })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Ready,
    Draining,
}

/// Conditions that are not set count as good, as EndpointSlice's documentation says.
fn state(conditions: Option<EndpointConditions>) -> Option<State> {
    let Some(conditions) = conditions else { return Some(State::Ready) };
    let ready = conditions.ready.unwrap_or(true);
    let draining = conditions.serving.unwrap_or(ready) && conditions.terminating.unwrap_or(false);
    if ready { Some(State::Ready) } else { draining.then_some(State::Draining) }
}
