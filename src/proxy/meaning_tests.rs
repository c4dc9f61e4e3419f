//! What the kernel does with a packet by its elements, and what the Services mean: the same, for random
//! services and endpoints.

use super::{Elements, address, applied, config, owner, planned, service, slice, state, topology};
use crate::family::Family;
use crate::model::{Chain, Endpoint, Front, Key, MOST_ENDPOINTS, Protocol, Value};
use crate::plan::Planned;
use crate::state::{Difference, State};
use api::core::Service;
use api::slim::EndpointSlice;
use serde_json::{Value as Json, json};
use std::collections::BTreeSet;
use std::net::IpAddr;

/// What becomes of a packet: where it may go and whether its source is kept.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    To(BTreeSet<Endpoint>, Source),
    Rejected,
    Dropped,
    /// No service's.
    Passed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Kept,
    Masqueraded,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum From {
    Pod,
    Node,
    Outside,
}

const FROM: [(From, &str); 4] = [
    (From::Pod, "10.42.0.77"),
    (From::Node, "192.0.2.1"),
    (From::Outside, "203.0.113.5"),
    (From::Outside, "198.51.100.9"),
];

/// The chains of the table, rule by rule, for a packet from outside of the service's own pods.
fn evaluate(kernel: &Elements, (from, source): (From, IpAddr), to: (IpAddr, u16)) -> Outcome {
    let at = Front::Address(to.0, Protocol::Tcp, to.1);
    let is_local = to.0 == address("192.0.2.1");
    let port = Front::Port(Family::V4, Protocol::Tcp, to.1);
    let sources = || {
        kernel.keys().filter_map(|key| {
            if let Key::Source(front, block) = key { (*front == at).then_some(block) } else { None }
        })
    };
    if kernel.contains_key(&Key::Guarded(at)) && !sources().any(|block| block.contains(source)) {
        return Outcome::Dropped;
    }
    let fronts: Vec<Front> = std::iter::once(at).chain(is_local.then_some(port)).collect();
    let inside = fronts.iter().map(|front| (*front, Key::Inside(*front))).filter(|_| from != From::Outside);
    let services = fronts.iter().map(|front| (*front, Key::Service(*front)));
    for (front, key) in inside.chain(services) {
        if let Some(Value::Chain(Chain::Spread(spread))) = kernel.get(&key) {
            assert_eq!((spread.port, spread.inside), (front == port, matches!(key, Key::Inside(_))));
            let first = if spread.inside { MOST_ENDPOINTS } else { 0 };
            let endpoints: BTreeSet<Endpoint> = (first..first + spread.endpoints)
                .map(|index| match kernel[&Key::Endpoint(front, index)] {
                    Value::Endpoint(endpoint) => endpoint,
                    other => panic!("{other:?} is no endpoint"),
                })
                .collect();
            assert_eq!(endpoints.len(), usize::from(spread.endpoints), "each has the same chance");
            let own = config().service_cidrs.iter().any(|block| block.contains(to.0));
            let masqueraded = spread.masquerade || own && from == From::Outside || !own && from == From::Node;
            return Outcome::To(endpoints, if masqueraded { Source::Masqueraded } else { Source::Kept });
        }
    }
    for front in fronts {
        match kernel.get(&Key::Refused(front)) {
            Some(Value::Reject { .. }) => return Outcome::Rejected,
            Some(Value::Drop { .. }) => return Outcome::Dropped,
            _ => {}
        }
    }
    let own = config().service_cidrs.iter().any(|block| block.contains(to.0));
    if own { Outcome::Rejected } else { Outcome::Passed }
}

/// A service as it is thrown by dice.
#[derive(Clone, Debug)]
struct Thrown {
    number: u8,
    internal_local: bool,
    external_local: bool,
    ranges: bool,
    hints: bool,
    /// Of each endpoint: last byte, whether it is here, its zone, and how it is.
    endpoints: Vec<(u8, bool, bool, u8)>,
}

impl Thrown {
    fn object(&self) -> Service {
        let policy = |local| if local { "Local" } else { "Cluster" };
        let mut spec = json!({"clusterIP": format!("10.43.0.{}", self.number), "type": "LoadBalancer",
            "externalIPs": ["192.0.2.200"], "ports": [{"port": 80, "nodePort": 30000 + u16::from(self.number)}],
            "internalTrafficPolicy": policy(self.internal_local), "externalTrafficPolicy": policy(self.external_local)});
        if self.ranges {
            spec["loadBalancerSourceRanges"] = json!(["203.0.113.0/24", "10.42.0.0/16"]);
        }
        let mut object = service(&format!("s{}", self.number), spec);
        let status = json!({"loadBalancer": {"ingress": [{"ip": format!("198.51.100.{}", self.number)}]}});
        object.status = Some(serde_json::from_value(status).unwrap());
        object
    }

    fn slices(&self) -> Vec<EndpointSlice> {
        let mut made = slice(&format!("s{}", self.number), json!({"port": 8080}), &[]);
        let endpoint = |(byte, here, near, state): &(u8, bool, bool, u8)| {
            let (ready, terminating) = (*state == 0, *state == 1);
            let mut json: Json = json!({"addresses": [format!("10.42.0.{byte}")], "nodeName": if *here { "here" } else { "there" },
                "conditions": {"ready": ready, "serving": *state <= 1, "terminating": terminating}});
            if self.hints {
                json["hints"] = json!({"forZones": [{"name": if *near { "a" } else { "b" }}]});
            }
            serde_json::from_value(json).unwrap()
        };
        made.endpoints = Some(self.endpoints.iter().map(endpoint).collect());
        vec![made]
    }

    fn planned(&self) -> Planned {
        planned(&self.object(), &self.slices())
    }

    fn some(&self, fits: impl Fn(&(u8, bool, bool, u8)) -> bool) -> BTreeSet<Endpoint> {
        let fitting = self.endpoints.iter().filter(|one| fits(one));
        fitting
            .map(|(byte, ..)| Endpoint { address: address(&format!("10.42.0.{byte}")), port: 8080 })
            .collect()
    }

    /// Kubernetes' documentation, read naively.
    fn endpoints(&self, local: bool) -> BTreeSet<Endpoint> {
        let ready = self.some(|(_, here, _, state)| *state == 0 && (*here || !local));
        let near = self.some(|(_, _, near, state)| *state == 0 && *near);
        if self.hints && !local && !near.is_empty() {
            return near;
        }
        if ready.is_empty() {
            self.some(|(_, here, _, state)| *state == 1 && (*here || !local))
        } else {
            ready
        }
    }

    fn outcome(&self, local: bool, source: Source) -> Outcome {
        let endpoints = self.endpoints(local);
        match (endpoints.is_empty(), self.endpoints(false).is_empty()) {
            (false, _) => Outcome::To(endpoints, source),
            (true, false) => Outcome::Dropped,
            (true, true) => Outcome::Rejected,
        }
    }

    fn external(&self, from: From) -> Outcome {
        match (from, self.external_local) {
            (From::Pod, true) => self.outcome(false, Source::Kept),
            (From::Outside, true) => self.outcome(true, Source::Kept),
            (From::Node, true) | (_, false) => self.outcome(false, Source::Masqueraded),
        }
    }
}

/// What all services together mean for a packet.
fn meaning(services: &[Thrown], (from, source): (From, IpAddr), to: (IpAddr, u16)) -> Outcome {
    let IpAddr::V4(v4) = to.0 else { panic!("{to:?}") };
    let octets = v4.octets();
    let named = |number: u8| services.iter().find(|one| one.number == number);
    match octets {
        [10, 43, 0, number] => match named(number).filter(|_| to.1 == 80) {
            Some(one) => one.outcome(
                one.internal_local,
                if from == From::Outside { Source::Masqueraded } else { Source::Kept },
            ),
            None => Outcome::Rejected,
        },
        [198, 51, 100, number] if to.1 == 80 => named(number).map_or(Outcome::Passed, |one| {
            let may = !one.ranges
                || ["203.0.113.0/24", "10.42.0.0/16"]
                    .iter()
                    .any(|range| range.parse::<net::Cidr>().unwrap().contains(source));
            if may { one.external(from) } else { Outcome::Dropped }
        }),
        // Several want it: the first by name has it.
        [192, 0, 2, 200] if to.1 == 80 => services
            .iter()
            .min_by_key(|one| format!("s{}", one.number))
            .map_or(Outcome::Passed, |one| one.external(from)),
        [192, 0, 2, 1] if to.1 > 30_000 => {
            named(u8::try_from(to.1 - 30_000).unwrap()).map_or(Outcome::Passed, |one| one.external(from))
        }
        _ => Outcome::Passed,
    }
}

/// Of every front that there can be.
fn check(kernel: &Elements, services: &[Thrown]) {
    let mut places =
        vec![(address("192.0.2.200"), 80), (address("10.43.0.1"), 81), (address("192.0.2.1"), 22)];
    for number in 1..6_u8 {
        places.push((address(&format!("10.43.0.{number}")), 80));
        places.push((address(&format!("198.51.100.{number}")), 80));
        places.push((address("192.0.2.1"), 30_000 + u16::from(number)));
    }
    for (from, source) in FROM {
        for to in &places {
            let packet = (from, address(source));
            assert_eq!(
                evaluate(kernel, packet, *to),
                meaning(services, packet, *to),
                "from {packet:?} to {to:?}, {services:?}"
            );
        }
    }
}

use proptest::prelude::*;

fn thrown() -> impl Strategy<Value = Vec<Thrown>> {
    let endpoints = prop::collection::btree_map(2_u8..9, (any::<bool>(), any::<bool>(), 0_u8..4), 0..6);
    let one = (any::<[bool; 4]>(), endpoints).prop_map(
        |([internal_local, external_local, ranges, hints], endpoints)| Thrown {
            number: 0,
            internal_local,
            external_local,
            ranges,
            hints,
            endpoints: endpoints
                .into_iter()
                .map(|(byte, (here, near, state))| (byte, here, near, state))
                .collect(),
        },
    );
    prop::collection::btree_map(1_u8..6, one, 0..5)
        .prop_map(|all| all.into_iter().map(|(number, one)| Thrown { number, ..one }).collect())
}

proptest! {
    #[test]
    fn rules_mean_what_services_mean(services in thrown()) {
        let state = state(services.iter().map(|one| (owner(&format!("s{}", one.number)), one.planned())));
        check(&state.elements(), &services);
    }

    /// Whatever leads from one state to another, in one difference or in several, ends in the same.
    #[test]
    fn differences_lead_from_any_state_to_any_other(before in thrown(), after in thrown(), together: bool) {
        let mut state = state(before.iter().map(|one| (owner(&format!("s{}", one.number)), one.planned())));
        let mut kernel = state.elements();
        let mut difference = Difference::default();
        for number in 1..6_u8 {
            let wanted = after.iter().find(|one| one.number == number).map(Thrown::planned).unwrap_or_default();
            state.replace(&owner(&format!("s{number}")), wanted, &mut difference);
            if !together {
                kernel = applied(kernel, &std::mem::take(&mut difference));
            }
        }
        kernel = applied(kernel, &difference);
        prop_assert_eq!(&kernel, &state.elements());
        check(&kernel, &after);
        fronts_are_not_both(&state);
    }
}

/// No front is served and refused at once to the same client.
fn fronts_are_not_both(state: &State) {
    let elements = state.elements();
    for key in elements.keys() {
        if let Key::Service(front) = key {
            assert!(!elements.contains_key(&Key::Refused(*front)), "{front:?}");
        }
    }
    assert_eq!(topology().zone.as_deref(), Some("a"));
}
