//! Listeners of Gateways: which are served, with which certificates, and for which routes.

use super::conditions::Conditions;
use super::types::{GROUP, Gateway, Listener, Reference};
use super::{Outcome, World, addresses, is_granted};
use crate::listen::Kind;
use crate::plan::{Named, Shown};
use crate::rules::{Host, Listening};
use api::Object;
use api::selector::Labels;
use serde_json::{Value, json};

/// What a listener speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Speech {
    Http,
    Https,
    /// TLS that its endpoints end.
    Passed,
    /// TLS that ends here, with anything within.
    Ended,
}

impl Speech {
    fn kind(self) -> Kind {
        if self == Self::Http { Kind::Http } else { Kind::Https }
    }

    fn is_http(self) -> bool {
        matches!(self, Self::Http | Self::Https)
    }

    /// The kinds of routes that are served.
    fn routes(self) -> &'static [&'static str] {
        if self.is_http() { &["HTTPRoute", "GRPCRoute"] } else { &["TLSRoute"] }
    }
}

/// A reason and a message.
type Why = (&'static str, String);

/// A listener of one of our Gateways.
pub(super) struct Bound<'a> {
    pub(super) gateway: &'a Gateway,
    pub(super) listener: &'a Listener,
    speech: Option<Speech>,
    /// Why it cannot be accepted.
    refused: Option<Why>,
    conflict: Option<Why>,
    unresolved: Option<Why>,
    /// Its Gateway has no address.
    is_nowhere: bool,
    /// Another program has its port.
    is_taken: bool,
    pub(super) kinds: Vec<&'static str>,
    pub(super) attached: usize,
}

impl Bound<'_> {
    /// Whether requests are answered on it, as soon as it has its port.
    pub(super) fn is_served(&self) -> bool {
        !self.is_nowhere
            && self.refused.is_none()
            && self.conflict.is_none()
            && self.unresolved.as_ref().is_none_or(|(reason, _)| *reason == "InvalidRouteKinds")
    }

    pub(super) fn host(&self) -> Host {
        Host::parse(self.listener.hostname.as_deref().unwrap_or_default(), false)
    }

    /// Whether TLS ends here of what is passed on.
    pub(super) fn ends_tls(&self) -> bool {
        self.speech == Some(Speech::Ended)
    }

    /// Whether they are answered now.
    pub(super) fn is_reached(&self) -> bool {
        self.is_served() && !self.is_taken
    }

    pub(super) fn status(&self, world: &World<'_>) -> Value {
        let old = self.gateway.status["listeners"].as_array().into_iter().flatten();
        let old = old.into_iter().find(|one| one["name"] == self.listener.name);
        let old = old.map_or(&Value::Null, |one| &one["conditions"]);
        let mut conditions = Conditions::own(old, &self.gateway.metadata, world.now);
        let mut say = |kind: &str, why: Option<&Why>, good: bool, well: &str| match why {
            None => conditions.set(kind, good, well, ""),
            Some((reason, message)) => conditions.set(kind, !good, reason, message),
        };
        let taken = ("PortUnavailable", format!("another program has port {}", self.listener.port));
        let refused = self.refused.as_ref().or(self.is_taken.then_some(&taken));
        say("Accepted", refused, true, "Accepted");
        say("Conflicted", self.conflict.as_ref(), false, "NoConflicts");
        say("ResolvedRefs", self.unresolved.as_ref(), true, "ResolvedRefs");
        let invalid = ("Invalid", "it is not served, see the other conditions".to_owned());
        say("Programmed", (!self.is_reached()).then_some(&invalid), true, "Programmed");
        let kinds: Vec<Value> = self.kinds.iter().map(|kind| json!({"group": GROUP, "kind": kind})).collect();
        json!({
            "name": self.listener.name, "attachedRoutes": self.attached, "supportedKinds": kinds,
            "conditions": conditions.finish(),
        })
    }

    /// Whether routes of a namespace may be attached.
    pub(super) fn admits(&self, world: &World<'_>, namespace: &str) -> bool {
        let allowed = &self.listener.allowed_routes.namespaces;
        match allowed.from.as_deref().unwrap_or("Same") {
            "All" => true,
            "Selector" => {
                let Some(found) = world.namespaces.get(namespace) else { return false };
                allowed.selector.is_some() && Labels::of(allowed.selector.as_ref()).selects(*found)
            }
            "Same" => self.gateway.namespace() == namespace,
            _ => false,
        }
    }
}

/// Checks all listeners, the oldest Gateway's first: who comes later conflicts.
pub(super) fn bind<'a>(world: &World<'_>, gateways: &[&'a Gateway], outcome: &mut Outcome) -> Vec<Bound<'a>> {
    let mut all: Vec<Bound<'a>> = Vec::new();
    outcome.ports.insert(world.ports.http, Kind::Http);
    outcome.ports.insert(world.ports.https, Kind::Https);
    for gateway in gateways {
        for listener in &gateway.spec.listeners {
            let one = bind_one(world, (gateway, listener), &all, outcome);
            if let Some(speech) = one.speech.filter(|_| one.is_served()) {
                outcome.ports.insert(listener.port, speech.kind());
                let speaks_http = speech.is_http();
                outcome.listeners.push(Listening { port: listener.port, host: one.host(), speaks_http });
            }
            all.push(one);
        }
    }
    all
}

fn bind_one<'a>(
    world: &World<'_>,
    (gateway, listener): (&'a Gateway, &'a Listener),
    before: &[Bound<'a>],
    outcome: &mut Outcome,
) -> Bound<'a> {
    let (speech, refused) = match speech_of(listener) {
        Ok(speech) => (Some(speech), None),
        Err(why) => (None, Some(why)),
    };
    let (kinds, wrong_kinds) = kinds_of(listener, speech);
    let mut one = Bound {
        gateway,
        listener,
        speech,
        refused,
        conflict: speech.and_then(|speech| conflict(speech, listener, before, outcome)),
        unresolved: wrong_kinds,
        is_nowhere: addresses::of(world, gateway).is_err(),
        is_taken: world.taken.contains(&listener.port),
        kinds,
        attached: 0,
    };
    let ends_tls = matches!(speech, Some(Speech::Https | Speech::Ended));
    if ends_tls && one.conflict.is_none() {
        let broken = certificates(world, gateway, listener, outcome);
        one.unresolved = broken.or(one.unresolved);
    }
    one
}

fn speech_of(listener: &Listener) -> Result<Speech, Why> {
    let mode = listener.tls.as_ref().and_then(|tls| tls.mode.as_deref()).unwrap_or("Terminate");
    match (listener.protocol.as_str(), mode) {
        ("HTTP", _) => Ok(Speech::Http),
        ("HTTPS", "Terminate") => Ok(Speech::Https),
        ("TLS", "Passthrough") => Ok(Speech::Passed),
        ("TLS", "Terminate") => Ok(Speech::Ended),
        (protocol, mode) => {
            Err(("UnsupportedProtocol", format!("{protocol} is not served, or not with TLS mode {mode}")))
        }
    }
}

fn kinds_of(listener: &Listener, speech: Option<Speech>) -> (Vec<&'static str>, Option<Why>) {
    let routes = speech.unwrap_or(Speech::Http).routes();
    let asked = &listener.allowed_routes.kinds;
    if asked.is_empty() {
        return (routes.to_vec(), None);
    }
    let (mut known, mut wrong) = (Vec::new(), None);
    for one in asked {
        let of_group = one.group.as_deref().unwrap_or(GROUP) == GROUP;
        match routes.iter().find(|kind| of_group && **kind == one.kind) {
            Some(kind) if !known.contains(kind) => known.push(*kind),
            Some(_) => {}
            None => {
                wrong = Some(("InvalidRouteKinds", format!("routes of kind {:?} are not served", one.kind)))
            }
        }
    }
    (known, wrong)
}

fn conflict(speech: Speech, listener: &Listener, before: &[Bound<'_>], outcome: &Outcome) -> Option<Why> {
    let port = listener.port;
    if outcome.ports.get(&port).is_some_and(|other| *other != speech.kind()) {
        return Some(("ProtocolConflict", format!("port {port} is served with another protocol")));
    }
    let host = |one: &Listener| one.hostname.as_deref().unwrap_or_default().to_ascii_lowercase();
    let same = |one: &&Bound<'_>| {
        one.listener.port == port && one.is_served() && host(one.listener) == host(listener)
    };
    let other = before.iter().find(same)?;
    let (namespace, name) = (other.gateway.namespace(), other.gateway.name());
    let same = other.speech == Some(speech);
    let reason = if same { "HostnameConflict" } else { "ProtocolConflict" };
    Some((reason, format!("Gateway {namespace}/{name} listens on port {port} for the same hosts")))
}

/// Takes a listener's certificates, or says which one cannot be shown.
fn certificates(
    world: &World<'_>,
    gateway: &Gateway,
    listener: &Listener,
    outcome: &mut Outcome,
) -> Option<Why> {
    let refs = listener.tls.as_ref().map_or(&[][..], |tls| tls.certificate_refs.as_slice());
    if refs.is_empty() {
        return Some(("InvalidCertificateRef", "it names no certificate".to_owned()));
    }
    let mut broken = None;
    for reference in refs {
        match certificate(world, gateway, reference) {
            Ok(secret) => outcome.certificates.push(Shown {
                port: listener.port,
                host: Host::parse(listener.hostname.as_deref().unwrap_or_default(), false),
                secret,
                ingress: None,
            }),
            Err(why) => broken = Some(why),
        }
    }
    broken
}

fn certificate(world: &World<'_>, gateway: &Gateway, reference: &Reference) -> Result<Named, Why> {
    let group = reference.group.as_deref().unwrap_or_default();
    let kind = reference.kind.as_deref().unwrap_or("Secret");
    if !group.is_empty() || kind != "Secret" {
        return Err(("InvalidCertificateRef", format!("{kind} {:?} is no Secret", reference.name)));
    }
    let namespace = reference.namespace.clone().unwrap_or_else(|| gateway.namespace().to_owned());
    let named = Named { namespace, name: reference.name.clone() };
    if !is_granted(world, (Gateway::kind(), gateway.namespace()), "Secret", &named) {
        let message = format!("no ReferenceGrant of namespace {:?} lets it be used", named.namespace);
        return Err(("RefNotPermitted", message));
    }
    (world.certificate)(&named).map_err(|why| ("InvalidCertificateRef", why))?;
    Ok(named)
}

impl Gateway {
    fn kind() -> &'static str {
        <Self as api::k8s::Resource>::KIND
    }
}
