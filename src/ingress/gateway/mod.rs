//! Gateway API: from its objects to rules, certificates, ports and statuses; pure.
//!
//! A listener is checked first, then routes are attached to listeners, then everybody is told how that went. What a
//! route may not be served with is refused whole, so that nothing is served otherwise than was written.

mod addresses;
mod conditions;
mod filters;
mod listeners;
mod routes;
mod rules;
pub(crate) mod types;

#[cfg(test)]
mod tests;

use crate::listen::Kind;
use crate::plan::{Named, Ports, Services, Shown};
use crate::rules::{Listening, Rule, StreamRule};
use addresses::Refused;
use api::Object;
use api::core::Namespace;
use conditions::Conditions;
use listeners::Bound;
use serde_json::{Value, json};
use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use types::{Any, GROUP, Gateway, GatewayClass, ReferenceGrant};

/// Whose GatewayClasses are served here (`spec.controllerName`).
pub(crate) const CONTROLLER: &str = "knarr.io/gateway";

/// What is planned from.
pub(crate) struct World<'a> {
    pub(crate) classes: Vec<&'a GatewayClass>,
    pub(crate) gateways: Vec<&'a Gateway>,
    pub(crate) routes: Vec<Any<'a>>,
    pub(crate) grants: Vec<&'a ReferenceGrant>,
    pub(crate) namespaces: HashMap<&'a str, &'a Namespace>,
    pub(crate) services: &'a Services<'a>,
    /// What Ingresses are served on.
    pub(crate) ports: Ports,
    /// Ports that another program has.
    pub(crate) taken: &'a BTreeSet<u16>,
    /// Whether a Secret holds a certificate that can be shown.
    pub(crate) certificate: &'a dyn Fn(&Named) -> Result<(), String>,
    /// Where the nodes are reached.
    pub(crate) addresses: &'a BTreeSet<IpAddr>,
    /// As conditions have times.
    pub(crate) now: &'a str,
}

/// A status that differs from the one that is written.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Write {
    /// The kind's plural name, and its version.
    pub(crate) plural: &'static str,
    pub(crate) version: &'static str,
    pub(crate) named: Named,
    pub(crate) status: Value,
}

/// What follows.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) rules: Vec<Rule>,
    pub(crate) streams: Vec<StreamRule>,
    pub(crate) listeners: Vec<Listening>,
    pub(crate) certificates: Vec<Shown>,
    pub(crate) ports: HashMap<u16, Kind>,
    pub(crate) writes: Vec<Write>,
}

impl Outcome {
    fn write<T: Object>(&mut self, object: &T, old: &Value, status: Value) {
        // Fields of others stay: the patch is merged.
        let same = status.as_object().is_some_and(|new| new.iter().all(|(key, value)| old[key] == *value));
        if !same {
            let named = Named { namespace: object.namespace().to_owned(), name: object.name().to_owned() };
            self.writes.push(Write { plural: T::URL_PATH_SEGMENT, version: T::VERSION, named, status });
        }
    }

    fn write_route(&mut self, route: Any<'_>, status: Value) {
        if route.status["parents"] != status["parents"] {
            let named = Named { namespace: route.namespace().to_owned(), name: route.name().to_owned() };
            self.writes.push(Write { plural: route.plural, version: route.version, named, status });
        }
    }
}

/// The whole plan.
pub(crate) fn plan(world: &World<'_>) -> Outcome {
    let mut outcome = Outcome::default();
    for class in world.classes.iter().filter(|class| is_ours(class)) {
        accept(world, class, &mut outcome);
    }
    let own = |gateway: &&&Gateway| {
        let class = world.classes.iter().find(|class| class.name() == gateway.spec.gateway_class_name);
        class.is_some_and(|class| is_ours(class)) && !gateway.is_deleting()
    };
    let mut gateways: Vec<&Gateway> = world.gateways.iter().filter(own).copied().collect();
    gateways.sort_by_key(|gateway| rules::order(&gateway.metadata));
    let mut bound: Vec<Bound<'_>> = listeners::bind(world, &gateways, &mut outcome);
    routes::attach(world, &mut bound, &mut outcome);
    for gateway in gateways {
        let own: Vec<&Bound<'_>> = bound.iter().filter(|one| std::ptr::eq(one.gateway, gateway)).collect();
        let status = gateway_status(world, gateway, &own);
        outcome.write(gateway, &gateway.status, status);
    }
    outcome
}

fn is_ours(class: &GatewayClass) -> bool {
    class.spec.controller_name == CONTROLLER
}

fn accept(world: &World<'_>, class: &GatewayClass, outcome: &mut Outcome) {
    let mut conditions = Conditions::new(&class.status["conditions"], &class.metadata, world.now);
    conditions.set("Accepted", true, "Accepted", "knarr serves Gateways of this class");
    outcome.write(class, &class.status, json!({"conditions": conditions.finish()}));
}

fn gateway_status(world: &World<'_>, gateway: &Gateway, own: &[&Bound<'_>]) -> Value {
    let mut conditions = Conditions::new(&gateway.status["conditions"], &gateway.metadata, world.now);
    let (given, refused) = match addresses::of(world, gateway) {
        Ok(given) => (given, None),
        Err(why) => (BTreeSet::new(), Some(why)),
    };
    let wrong = own.iter().filter(|listener| !listener.is_reached()).count();
    match (wrong, &refused) {
        (_, Some(Refused::Unsupported(message))) => {
            conditions.set("Accepted", false, "UnsupportedAddress", message);
        }
        (0, _) => conditions.set("Accepted", true, "Accepted", "all listeners are valid"),
        _ => {
            let message = format!("{wrong} of {} listeners are not served", own.len());
            conditions.set("Accepted", wrong < own.len(), "ListenersNotValid", &message);
        }
    }
    match refused {
        Some(Refused::Unsupported(message)) => conditions.set("Programmed", false, "Invalid", &message),
        Some(Refused::Unusable(message)) => conditions.set("Programmed", false, "AddressNotUsable", &message),
        None if world.addresses.is_empty() => {
            conditions.set("Programmed", false, "AddressNotAssigned", "no node is ready");
        }
        None if wrong == own.len() => {
            conditions.set("Programmed", false, "Invalid", "no listener is served");
        }
        None => conditions.set("Programmed", true, "Programmed", "requests are served"),
    }
    let addresses: Vec<Value> =
        given.iter().map(|address| json!({"type": "IPAddress", "value": address})).collect();
    let listeners: Vec<Value> = own.iter().map(|listener| listener.status(world)).collect();
    json!({"addresses": addresses, "conditions": conditions.finish(), "listeners": listeners})
}

/// Whether a ReferenceGrant lets an object of a kind and namespace refer to another one.
fn is_granted(
    world: &World<'_>,
    (from_kind, from_namespace): (&str, &str),
    to_kind: &str,
    to: &Named,
) -> bool {
    from_namespace == to.namespace
        || world.grants.iter().filter(|grant| grant.namespace() == to.namespace).any(|grant| {
            grant
                .spec
                .from
                .iter()
                .any(|from| from.group == GROUP && from.kind == from_kind && from.namespace == from_namespace)
                && grant.spec.to.iter().any(|one| {
                    one.group.is_empty()
                        && one.kind == to_kind
                        && one.name.as_ref().is_none_or(|name| name.is_empty() || *name == to.name)
                })
        })
}
