//! Routes: to which listeners they are attached, and what they are told of it.

use super::conditions::Conditions;
use super::listeners::Bound;
use super::rules::{Made, order, rules_of};
use super::types::{Any, GROUP, Reference};
use super::{CONTROLLER, Outcome, World};
use crate::rules::{Host, Rule, StreamRule};
use api::Object;
use serde::Deserialize;
use serde_json::{Value, json};

/// Why a route is not served by a parent.
type Why = (&'static str, String);

/// Attaches all routes.
pub(super) fn attach(world: &World<'_>, bound: &mut [Bound<'_>], outcome: &mut Outcome) {
    for route in &world.routes {
        if let Some(status) = attach_one(world, *route, bound, outcome) {
            outcome.write_route(*route, status);
        }
    }
    // Of two for the same host the first counts.
    outcome.streams.sort_by(|one, other| one.order.cmp(&other.order));
}

/// Attaches a route; its status where it has a parent that is ours, or had.
fn attach_one(
    world: &World<'_>,
    route: Any<'_>,
    bound: &mut [Bound<'_>],
    outcome: &mut Outcome,
) -> Option<Value> {
    let made = rules_of(world, route);
    let mut parents: Vec<Value> = Vec::new();
    for written in &route.spec.parent_refs {
        let Ok(reference) = Reference::deserialize(written) else { continue };
        let Some(own) = parent(route, &reference, bound) else { continue };
        let attached = listeners(world, route, &reference, (own, bound));
        let refused = match (&attached, &made) {
            (Err(why), _) => Some(why.clone()),
            (Ok(_), Err(why)) => Some(("UnsupportedValue", why.clone())),
            (Ok(hosts), Ok(made)) => {
                serve(route, made, hosts, (bound, outcome));
                None
            }
        };
        parents.push(parent_status(world, route, written, (refused, made.as_ref().ok())));
    }
    let before = route.status["parents"].as_array().cloned().unwrap_or_default();
    let others: Vec<Value> =
        before.iter().filter(|one| one["controllerName"] != CONTROLLER).cloned().collect();
    if parents.is_empty() && others.len() == before.len() {
        return None;
    }
    let all = [others, parents].concat();
    Some(json!({"parents": all}))
}

/// The place of the first listener of the Gateway that a route names, if that is ours.
fn parent(route: Any<'_>, reference: &Reference, bound: &[Bound<'_>]) -> Option<usize> {
    let of_kind = reference.group.as_deref().unwrap_or(GROUP) == GROUP
        && reference.kind.as_deref().unwrap_or("Gateway") == "Gateway";
    let namespace = reference.namespace.as_deref().unwrap_or(route.namespace());
    let named =
        |one: &Bound<'_>| one.gateway.namespace() == namespace && one.gateway.name() == reference.name;
    bound.iter().position(|one| of_kind && named(one))
}

/// Listeners by their places, each with the hosts that both sides have.
type Attached = Vec<(usize, Vec<Host>)>;

fn listeners(
    world: &World<'_>,
    route: Any<'_>,
    reference: &Reference,
    (first, bound): (usize, &[Bound<'_>]),
) -> Result<Attached, Why> {
    let gateway = bound[first].gateway;
    let named = |one: &Bound<'_>| {
        reference.section_name.as_ref().is_none_or(|name| *name == one.listener.name)
            && reference.port.is_none_or(|port| port == i32::from(one.listener.port))
    };
    let own = bound.iter().enumerate().filter(|(_, one)| std::ptr::eq(one.gateway, gateway) && named(one));
    let own: Vec<(usize, &Bound<'_>)> = own.collect();
    if own.is_empty() {
        return Err(("NoMatchingParent", "the Gateway has no such listener".to_owned()));
    }
    let allowed = |one: &&(usize, &Bound<'_>)| {
        one.1.kinds.contains(&route.kind) && one.1.admits(world, route.namespace())
    };
    let allowed: Vec<_> = own.iter().filter(allowed).collect();
    if allowed.is_empty() {
        let message = "no listener admits routes of this kind and namespace";
        return Err(("NotAllowedByListeners", message.to_owned()));
    }
    let with_hosts = allowed.iter().map(|(at, one)| (*at, hosts(one.listener.hostname.as_deref(), route)));
    let found: Attached = with_hosts.filter(|(_, hosts)| !hosts.is_empty()).collect();
    if found.is_empty() {
        let message = "no hostname of the route is one of a listener's";
        return Err(("NoMatchingListenerHostname", message.to_owned()));
    }
    Ok(found)
}

/// The hosts that a listener and a route both name.
fn hosts(listener: Option<&str>, route: Any<'_>) -> Vec<Host> {
    let listener = listener.unwrap_or_default().to_ascii_lowercase();
    if route.spec.hostnames.is_empty() {
        return vec![Host::parse(&listener, false)];
    }
    let own = route.spec.hostnames.iter().map(|host| host.to_ascii_lowercase());
    own.filter_map(|host| both(&listener, &host)).map(|host| Host::parse(&host, false)).collect()
}

/// The narrower one of two hostnames, if one is within the other. "" is all.
pub(super) fn both(one: &str, other: &str) -> Option<String> {
    let within = |narrow: &str, wide: &str| {
        wide.is_empty()
            || narrow == wide
            || wide.strip_prefix('*').is_some_and(|suffix| {
                let rest = narrow.strip_suffix(suffix);
                rest.is_some_and(|rest| !rest.is_empty())
            })
    };
    if within(other, one) { Some(other.to_owned()) } else { within(one, other).then(|| one.to_owned()) }
}

fn serve(
    route: Any<'_>,
    made: &Made,
    attached: &Attached,
    (bound, outcome): (&mut [Bound<'_>], &mut Outcome),
) {
    for (at, hosts) in attached {
        let one = &mut bound[*at];
        one.attached += 1;
        if !one.is_served() {
            continue;
        }
        let listener = one.host();
        for host in hosts {
            if route.is_tls() {
                outcome.streams.extend(made.streams.iter().map(|to| StreamRule {
                    port: one.listener.port,
                    listener: listener.clone(),
                    host: host.clone(),
                    ends_tls: one.ends_tls(),
                    order: order(route.metadata),
                    route: to.clone(),
                }));
            }
            let rules = made.rules.iter().enumerate().map(|(place, (path, conditions, to))| Rule {
                ports: vec![one.listener.port],
                listener: Some(listener.clone()),
                host: host.clone(),
                path: path.clone(),
                conditions: conditions.clone(),
                fallback: false,
                order: crate::rules::Order { place, ..order(route.metadata) },
                route: to.clone(),
            });
            outcome.rules.extend(rules);
        }
    }
}

fn parent_status(
    world: &World<'_>,
    route: Any<'_>,
    written: &Value,
    (refused, made): (Option<Why>, Option<&Made>),
) -> Value {
    let before = route.status["parents"].as_array().into_iter().flatten();
    let own = |one: &&Value| one["controllerName"] == CONTROLLER && one["parentRef"] == *written;
    let before = before.into_iter().find(own).map_or(&Value::Null, |one| &one["conditions"]);
    let mut conditions = Conditions::own(before, route.metadata, world.now);
    match refused {
        None => conditions.set("Accepted", true, "Accepted", ""),
        Some((reason, message)) => conditions.set("Accepted", false, reason, &message),
    }
    match made.and_then(|made| made.unresolved.as_ref()) {
        None => conditions.set("ResolvedRefs", true, "ResolvedRefs", ""),
        Some((reason, message)) => conditions.set("ResolvedRefs", false, reason, message),
    }
    json!({"parentRef": written, "controllerName": CONTROLLER, "conditions": conditions.finish()})
}
