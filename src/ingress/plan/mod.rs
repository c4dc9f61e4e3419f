//! From the objects to rules, certificates and what their authors have to be told; pure.

mod annotations;
pub(crate) mod backends;
mod classes;
mod ingress;

#[cfg(test)]
pub(crate) mod tests;

use crate::rules::{Host, Listening, Rule, StreamRule};
use api::core::Service;
use api::networking::{Ingress, IngressClass};
use std::collections::HashMap;

/// Ports that Ingresses are served on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ports {
    pub(crate) http: u16,
    pub(crate) https: u16,
}

/// What the plan is made from.
pub(crate) struct Snapshot<'a> {
    pub(crate) ports: Ports,
    pub(crate) ingresses: Vec<&'a Ingress>,
    pub(crate) classes: Vec<&'a IngressClass>,
    pub(crate) services: Services<'a>,
}

/// Services by namespace and name.
#[derive(Default)]
pub(crate) struct Services<'a>(HashMap<(&'a str, &'a str), &'a Service>);

impl<'a> Services<'a> {
    pub(crate) fn new(all: impl Iterator<Item = &'a Service>) -> Self {
        use api::Object as _;
        Self(all.map(|service| ((service.namespace(), service.name()), service)).collect())
    }

    pub(crate) fn get(&self, namespace: &str, name: &str) -> Option<&'a Service> {
        self.0.get(&(namespace, name)).copied()
    }
}

/// An object by namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Named {
    pub(crate) namespace: String,
    pub(crate) name: String,
}

/// A certificate that is shown on a port to who asks for a host.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Shown {
    pub(crate) port: u16,
    pub(crate) host: Host,
    pub(crate) secret: Named,
    /// The Ingress that wants it, to be told where it cannot be read.
    pub(crate) ingress: Option<Named>,
}

/// Something that the author of an Ingress has to know.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Issue {
    pub(crate) ingress: Named,
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

/// What follows from the objects.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Plan {
    pub(crate) rules: Vec<Rule>,
    /// Of two for one host the first counts.
    pub(crate) streams: Vec<StreamRule>,
    pub(crate) listeners: Vec<Listening>,
    /// Of two for one host the first counts.
    pub(crate) certificates: Vec<Shown>,
    pub(crate) issues: Vec<Issue>,
    /// The Ingresses that are served.
    pub(crate) served: Vec<Named>,
}

/// The whole plan for Ingresses.
pub(crate) fn plan(snapshot: &Snapshot<'_>) -> Plan {
    let mut plan = Plan::default();
    let mut own: Vec<&Ingress> = snapshot.ingresses.clone();
    own.retain(|ingress| classes::is_ours(ingress, &snapshot.classes));
    own.sort_by_cached_key(|ingress| ingress::order(ingress, 0));
    for one in own {
        ingress::plan(snapshot, one, &mut plan);
    }
    plan
}
