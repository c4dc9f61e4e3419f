//! One Ingress to rules.

use super::annotations::{self, Wishes};
use super::backends::{PortName, backend};
use super::{Issue, Named, Plan, Shown, Snapshot};
use crate::rules::{
    Action, Conditions, Filters, HeaderChanges, Host, Order, Path, PathChange, Redirect, Route, Rule, Share,
    Weighted,
};
use api::Object;
use api::networking::{HTTPIngressPath, Ingress, IngressBackend, IngressSpec};
use http::StatusCode;

/// The place of an Ingress, and of a rule in it, among others.
pub(super) fn order(ingress: &Ingress, place: usize) -> Order {
    let created = ingress.metadata.creation_timestamp.as_ref();
    Order {
        created_s: created.map_or(0, |time| time.0.as_second()),
        namespace: ingress.namespace().to_owned(),
        name: ingress.name().to_owned(),
        place,
    }
}

/// Adds what an Ingress says.
pub(super) fn plan(snapshot: &Snapshot<'_>, ingress: &Ingress, plan: &mut Plan) {
    let Some(spec) = &ingress.spec else { return };
    let (wishes, mistakes) = annotations::read(ingress);
    let named = Named { namespace: ingress.namespace().to_owned(), name: ingress.name().to_owned() };
    let mut planning = Planning { snapshot, ingress, named, wishes, place: 0, plan };
    mistakes.into_iter().for_each(|mistake| planning.tell("InvalidAnnotation", mistake));
    planning.rules(spec);
    planning.fallback(spec);
    planning.certificates(spec);
    let named = planning.named;
    plan.served.push(named);
}

struct Planning<'a, 'b> {
    snapshot: &'a Snapshot<'b>,
    ingress: &'a Ingress,
    named: Named,
    wishes: Wishes,
    place: usize,
    plan: &'a mut Plan,
}

impl Planning<'_, '_> {
    fn tell(&mut self, reason: &'static str, message: String) {
        self.plan.issues.push(Issue { ingress: self.named.clone(), reason, message });
    }

    fn rules(&mut self, spec: &IngressSpec) {
        for rule in spec.rules.iter().flatten() {
            let host = Host::parse(rule.host.as_deref().unwrap_or_default(), true);
            // A host without paths is one whose requests all go to the default backend.
            rule.http.iter().flat_map(|http| &http.paths).for_each(|path| self.path(&host, path));
        }
    }

    /// An `ImplementationSpecific` path is one of type Prefix.
    fn path(&mut self, host: &Host, path: &HTTPIngressPath) {
        let text = path.path.as_deref().filter(|text| !text.is_empty()).unwrap_or("/");
        let matched = match path.path_type.as_str() {
            "Exact" => Path::Exact(text.to_owned()),
            _ => Path::prefix(text),
        };
        let Some(share) = self.share(&path.backend) else { return };
        self.rule(host, matched, share, false);
    }

    /// For the hosts that the Ingress names before all others.
    fn fallback(&mut self, spec: &IngressSpec) {
        let Some(backend) = &spec.default_backend else { return };
        let Some(share) = self.share(backend) else { return };
        let rules = spec.rules.iter().flatten();
        let mut hosts: Vec<Host> = Vec::new();
        for rule in rules {
            let host = Host::parse(rule.host.as_deref().unwrap_or_default(), true);
            if !hosts.contains(&host) {
                hosts.push(host);
            }
        }
        if !hosts.contains(&Host::Any) {
            hosts.push(Host::Any);
        }
        for host in hosts {
            self.rule(&host, Path::prefix("/"), share.clone(), true);
        }
    }

    fn share(&mut self, to: &IngressBackend) -> Option<Share> {
        let Some(service) = &to.service else {
            let resource =
                to.resource.as_ref().map_or_else(String::new, |one| format!("{} {}", one.kind, one.name));
            self.tell(
                "UnsupportedBackend",
                format!("resource backends are not served: {resource} is ignored"),
            );
            return None;
        };
        let port = service.port.as_ref();
        let port = match port.and_then(|port| port.name.as_deref()).filter(|name| !name.is_empty()) {
            Some(name) => PortName::Name(name),
            None => PortName::Number(port.and_then(|port| port.number).unwrap_or_default()),
        };
        let names = (self.named.namespace.as_str(), service.name.as_str());
        match backend(&self.snapshot.services, names, port, self.wishes.balance) {
            Ok(key) => Some(Share::Backend(key)),
            Err(why) => {
                self.tell("BackendNotFound", why);
                Some(Share::Nobody(StatusCode::SERVICE_UNAVAILABLE))
            }
        }
    }

    fn rule(&mut self, host: &Host, path: Path, share: Share, fallback: bool) {
        let text = path.as_str();
        let name = format!("Ingress {}/{} {text}", self.named.namespace, self.named.name);
        let strip = self.wishes.strip_prefix && !fallback;
        let stripped = PathChange::Prefix { matched: text.len(), to: String::new() };
        let filters = Filters { path: strip.then_some(stripped), ..Filters::default() };
        let weighted = Weighted {
            weight: 1,
            to: share,
            request: HeaderChanges::default(),
            response: HeaderChanges::default(),
        };
        let forward = Route {
            name,
            limits: self.wishes.limits.clone(),
            filters,
            action: Action::Forward(vec![weighted]),
        };
        let ports = self.snapshot.ports;
        let rule = Rule {
            ports: vec![ports.http, ports.https],
            listener: None,
            host: host.clone(),
            path,
            conditions: Conditions::default(),
            fallback,
            order: order(self.ingress, self.place),
            route: forward,
        };
        self.place += 1;
        if self.wishes.https_redirect {
            let route =
                Route { action: to_https(ports.https), filters: Filters::default(), ..rule.route.clone() };
            self.plan.rules.push(Rule { ports: vec![ports.http], route, ..rule.clone() });
            self.plan.rules.push(Rule { ports: vec![ports.https], ..rule });
        } else {
            self.plan.rules.push(rule);
        }
    }

    /// `spec.tls`; an entry without hosts is for those of the rules.
    fn certificates(&mut self, spec: &IngressSpec) {
        for tls in spec.tls.iter().flatten() {
            // Without a secret the default certificate is shown.
            let Some(secret) = tls.secret_name.as_deref().filter(|name| !name.is_empty()) else { continue };
            let named = tls.hosts.iter().flatten().map(String::as_str);
            let mut hosts: Vec<Host> = named.map(|host| Host::parse(host, true)).collect();
            if hosts.is_empty() {
                let rules = spec.rules.iter().flatten();
                hosts.extend(rules.map(|rule| Host::parse(rule.host.as_deref().unwrap_or_default(), true)));
            }
            for host in hosts {
                self.plan.certificates.push(Shown {
                    port: self.snapshot.ports.https,
                    host,
                    secret: Named { namespace: self.named.namespace.clone(), name: secret.to_owned() },
                    ingress: Some(self.named.clone()),
                });
            }
        }
    }
}

fn to_https(port: u16) -> Action {
    Action::Redirect(Redirect {
        code: StatusCode::PERMANENT_REDIRECT,
        scheme: Some("https".to_owned()),
        hostname: None,
        port: Some(port),
        path: None,
    })
}
