//! Which endpoints of a service port are used: by readiness, traffic policy and topology; pure.

use crate::Topology;
use crate::family::{Family, kubernetes};
use crate::model::{Endpoint, Endpoints, Protocol};
use api::core::ServicePort;
use api::slim::{self, EndpointConditions, EndpointSlice};
use std::collections::BTreeSet;
use std::net::IpAddr;

/// One endpoint of a service port.
struct Candidate<'a> {
    to: Endpoint,
    local: bool,
    state: State,
    of: &'a slim::Endpoint,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Ready,
    /// Still answers while it terminates: used when nothing is ready (KEP-1669).
    Draining,
    /// Serves, but is neither: nobody new is sent there.
    Serving,
    Unusable,
}

/// Conditions that are not set count as good, as EndpointSlice's documentation says.
fn state(conditions: Option<EndpointConditions>) -> State {
    let Some(conditions) = conditions else { return State::Ready };
    let ready = conditions.ready.unwrap_or(true);
    let serving = conditions.serving.unwrap_or(ready);
    match (ready, serving, conditions.terminating.unwrap_or(false)) {
        (true, ..) => State::Ready,
        (false, true, true) => State::Draining,
        (false, true, false) => State::Serving,
        (false, false, _) => State::Unusable,
    }
}

/// The endpoints that a service port may use.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Choice {
    /// By traffic policy Cluster.
    pub(crate) cluster: Endpoints,
    /// By traffic policy Local.
    pub(crate) local: Endpoints,
    /// Those whose flows may go on.
    pub(crate) serving: Endpoints,
    /// The pods of this node among them, which may be sent their own connections.
    pub(crate) here: BTreeSet<IpAddr>,
    /// Those of this node that are ready.
    pub(crate) ready_here: BTreeSet<IpAddr>,
}

impl Choice {
    /// Whether there is anybody, here or elsewhere.
    pub(crate) fn is_empty(&self) -> bool {
        self.cluster.is_empty() && self.local.is_empty()
    }

    pub(crate) fn of<'a>(
        topology: &Topology,
        family: Family,
        port: &ServicePort,
        slices: impl Iterator<Item = &'a EndpointSlice>,
    ) -> Self {
        let candidates: Vec<Candidate<'_>> =
            slices.flat_map(|slice| candidates(topology, family, port, slice)).collect();
        let preferred = Preference::of(&candidates, topology);
        let of = |local: bool, state: State| {
            let fitting = candidates.iter().filter(|one| one.state == state && (one.local || !local));
            let fitting =
                fitting.filter(|one| local || state != State::Ready || preferred.allows(one, topology));
            ordered(fitting)
        };
        let or_draining = |local| {
            let ready = of(local, State::Ready);
            if ready.is_empty() { of(local, State::Draining) } else { ready }
        };
        let here = candidates.iter().filter(|one| one.local && one.state != State::Unusable);
        let serving = candidates.iter().filter(|one| one.state != State::Unusable);
        Self {
            cluster: or_draining(false),
            local: or_draining(true),
            serving: ordered(serving),
            ready_here: here
                .clone()
                .filter(|one| one.state == State::Ready)
                .map(|one| one.to.address)
                .collect(),
            here: here.map(|one| one.to.address).collect(),
        }
    }
}

/// Each once, in their order.
fn ordered<'a>(candidates: impl Iterator<Item = &'a Candidate<'a>>) -> Endpoints {
    let mut all: Vec<Endpoint> = candidates.map(|one| one.to).collect();
    all.sort_unstable();
    all.dedup();
    all.into()
}

fn candidates<'a>(
    topology: &Topology,
    family: Family,
    port: &ServicePort,
    slice: &'a EndpointSlice,
) -> Vec<Candidate<'a>> {
    let name = port.name.as_deref().unwrap_or_default();
    let protocol = Protocol::parse(port.protocol.as_deref());
    let mut ports = slice.ports.iter().flatten().filter(|port| {
        port.name.as_deref().unwrap_or_default() == name
            && Protocol::parse(port.protocol.as_deref()) == protocol
    });
    let number = ports.find_map(|port| u16::try_from(port.port?).ok()).filter(|number| *number > 0);
    let (Some(number), true) = (number, &*slice.address_type == kubernetes(family)) else {
        return Vec::new();
    };
    let endpoints = slice.endpoints.iter().flatten().filter_map(|endpoint| {
        let address: IpAddr = endpoint.addresses.first()?.parse().ok()?;
        (Family::of(address) == family).then(|| Candidate {
            to: Endpoint { address, port: number },
            local: endpoint.node_name.as_deref() == Some(&*topology.node_name),
            state: state(endpoint.conditions),
            of: endpoint,
        })
    });
    endpoints.collect()
}

/// How hints are heeded: only if every ready endpoint has one, and one of them is for us (KEP-2433,
/// KEP-3015).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Preference {
    Node,
    Zone,
    None,
}

fn is_for_node(endpoint: &slim::Endpoint, topology: &Topology) -> bool {
    nodes(endpoint).any(|node| node == &*topology.node_name)
}

fn is_for_zone(endpoint: &slim::Endpoint, topology: &Topology) -> bool {
    topology.zone.as_deref().is_some_and(|zone| zones(endpoint).any(|name| name == zone))
}

fn nodes(endpoint: &slim::Endpoint) -> impl Iterator<Item = &str> {
    let hints = endpoint.hints.as_ref().and_then(|hints| hints.for_nodes.as_ref());
    hints.into_iter().flatten().map(|node| &*node.name)
}

fn zones(endpoint: &slim::Endpoint) -> impl Iterator<Item = &str> {
    let hints = endpoint.hints.as_ref().and_then(|hints| hints.for_zones.as_ref());
    hints.into_iter().flatten().map(|zone| &*zone.name)
}

impl Preference {
    fn of(candidates: &[Candidate<'_>], topology: &Topology) -> Self {
        let ready = || candidates.iter().filter(|one| one.state == State::Ready).map(|one| one.of);
        if ready().next().is_none() {
            return Self::None;
        }
        let node = ready().all(|one| nodes(one).next().is_some());
        let zone = ready().all(|one| zones(one).next().is_some());
        if node && ready().any(|one| is_for_node(one, topology)) {
            Self::Node
        } else if zone && ready().any(|one| is_for_zone(one, topology)) {
            Self::Zone
        } else {
            Self::None
        }
    }

    fn allows(self, candidate: &Candidate<'_>, topology: &Topology) -> bool {
        match self {
            Self::None => true,
            Self::Node => is_for_node(candidate.of, topology),
            Self::Zone => is_for_zone(candidate.of, topology),
        }
    }
}
