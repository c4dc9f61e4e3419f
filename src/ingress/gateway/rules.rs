//! The rules of a route, whichever listener serves them.

use super::filters::{self, Changes};
use super::types::{
    Any, BackendRef, GRPCRoute, GrpcMethod, HTTPRoute, MethodMatch, Named, Reference, RouteMatch, RouteRule,
};
use super::{World, is_granted};
use crate::plan::Named as NamedObject;
use crate::plan::backends::{PortName, backend};
use crate::rules::{
    Action, BackendKey, Balance, Conditions, Filters, Limits, Order, Path, Pattern, Protocol, Route, Share,
    Text, Weighted,
};
use api::k8s::Resource;
use api::meta::ObjectMeta;
use http::{HeaderName, Method, StatusCode};
use std::time::Duration;

/// Matches of one rule are bounded by the definitions; rules and matches together by this.
const RULES: usize = 4_096;

/// What a route becomes.
#[derive(Default)]
pub(super) struct Made {
    pub(super) rules: Vec<(Path, Conditions, Route)>,
    /// The one of a route of streams.
    pub(super) streams: Option<Route>,
    /// The first reference that leads nowhere: a reason and a message.
    pub(super) unresolved: Option<(&'static str, String)>,
}

/// The place of an object among others.
pub(super) fn order(metadata: &ObjectMeta) -> Order {
    Order {
        created_s: metadata.creation_timestamp.as_ref().map_or(0, |time| time.0.as_second()),
        namespace: metadata.namespace.clone().unwrap_or_default(),
        name: metadata.name.clone().unwrap_or_default(),
        place: 0,
    }
}

/// All rules of a route; none where it asks for what is not served.
pub(super) fn rules_of(world: &World<'_>, route: Any<'_>) -> Result<Made, String> {
    let mut made = Made::default();
    if route.is_tls() {
        made.streams = Some(stream(world, route, &mut made.unresolved)?);
        return Ok(made);
    }
    for rule in &route.spec.rules {
        let all = [RouteMatch::default()];
        let matches = if rule.matches.is_empty() { &all[..] } else { &rule.matches };
        for one in matches {
            let (path, conditions) = if route.is_grpc() { grpc(one)? } else { http(one)? };
            let served = served(world, route, rule, &path, &mut made)?;
            made.rules.push((path, conditions, served));
            if made.rules.len() > RULES {
                return Err(format!("it has more than {RULES} matches"));
            }
        }
    }
    Ok(made)
}

/// Where a route's streams go. Rules of streams match everything, so that there is no second one.
fn stream(
    world: &World<'_>,
    route: Any<'_>,
    unresolved: &mut Option<(&'static str, String)>,
) -> Result<Route, String> {
    let [rule] = route.spec.rules.as_slice() else {
        return Err(format!("it has {} rules: streams are served by one", route.spec.rules.len()));
    };
    let mut resolving = Resolving { world, route, unresolved };
    let action = forward(&rule.backend_refs, &Path::prefix("/"), &mut resolving)?;
    let name = format!("{} {}/{}", route.kind, route.namespace(), route.name());
    Ok(Route { name, limits: Limits::default(), filters: Filters::default(), action })
}

fn served(
    world: &World<'_>,
    route: Any<'_>,
    rule: &RouteRule,
    path: &Path,
    made: &mut Made,
) -> Result<Route, String> {
    let mut resolving = Resolving { world, route, unresolved: &mut made.unresolved };
    let Changes { filters, redirect } = filters::read(&rule.filters, path, &mut resolving)?;
    let action = match redirect {
        Some(redirect) => Action::Redirect(redirect),
        None => forward(&rule.backend_refs, path, &mut resolving)?,
    };
    let name = format!("{} {}/{} {}", route.kind, route.namespace(), route.name(), path.as_str());
    Ok(Route { name, limits: limits(rule)?, filters, action })
}

fn forward(refs: &[BackendRef], path: &Path, resolving: &mut Resolving<'_, '_>) -> Result<Action, String> {
    let mut shares = Vec::new();
    for one in refs {
        let changes = filters::read(&one.filters, path, resolving)?;
        let only_headers = changes.redirect.is_none()
            && changes.filters.path.is_none()
            && changes.filters.hostname.is_none()
            && changes.filters.mirrors.is_empty()
            && changes.filters.cors.is_none();
        if !only_headers {
            return Err("filters of backends other than of headers are not served".to_owned());
        }
        let to = resolving.backend(&one.to);
        shares.push(Weighted {
            weight: one.weight.unwrap_or(1),
            to: to.map_or(Share::Nobody(StatusCode::INTERNAL_SERVER_ERROR), Share::Backend),
            request: changes.filters.request,
            response: changes.filters.response,
        });
    }
    Ok(if shares.is_empty() {
        Action::Answer(StatusCode::INTERNAL_SERVER_ERROR)
    } else {
        Action::Forward(shares)
    })
}

fn limits(rule: &RouteRule) -> Result<Limits, String> {
    let mut limits = Limits::default();
    let time = |text: &Option<String>| match text {
        None => Ok(None),
        Some(text) => {
            crate::duration::parse(text).map(Some).ok_or_else(|| format!("{text:?} is no duration"))
        }
    };
    // Nothing is no limit.
    limits.total = time(&rule.timeouts.request)?.filter(|time| !time.is_zero());
    if let Some(response) = time(&rule.timeouts.backend_request)? {
        limits.response = if response.is_zero() { Duration::from_secs(24 * 3600) } else { response };
    } else if let Some(total) = limits.total {
        limits.response = limits.response.max(total);
    }
    if let Some(retry) = &rule.retry {
        limits.retries = retry.attempts.unwrap_or(1).min(10);
        limits.retry_codes.clone_from(&retry.codes);
    }
    Ok(limits)
}

/// Finds backends, and remembers the first that it does not find.
pub(super) struct Resolving<'a, 'b> {
    world: &'a World<'b>,
    route: Any<'a>,
    unresolved: &'a mut Option<(&'static str, String)>,
}

impl Resolving<'_, '_> {
    pub(super) fn backend(&mut self, reference: &Reference) -> Option<BackendKey> {
        match self.find(reference) {
            Ok(key) => Some(key),
            Err(why) => {
                self.unresolved.get_or_insert(why);
                None
            }
        }
    }

    fn find(&self, reference: &Reference) -> Result<BackendKey, (&'static str, String)> {
        let kind = reference.kind.as_deref().unwrap_or("Service");
        if !reference.group.as_deref().unwrap_or_default().is_empty() || kind != "Service" {
            return Err(("InvalidKind", format!("{kind} {:?} is no Service", reference.name)));
        }
        let namespace = reference.namespace.as_deref().unwrap_or(self.route.namespace()).to_owned();
        let named = NamedObject { namespace, name: reference.name.clone() };
        if !is_granted(self.world, (self.route.kind, self.route.namespace()), kind, &named) {
            let message = format!("no ReferenceGrant of namespace {:?} lets it be used", named.namespace);
            return Err(("RefNotPermitted", message));
        }
        let Some(port) = reference.port else {
            return Err(("BackendNotFound", format!("service {:?} is named without a port", named.name)));
        };
        let names = (named.namespace.as_str(), named.name.as_str());
        let key = backend(self.world.services, names, PortName::Number(port), Balance::RoundRobin);
        let key = key.map_err(|why| ("BackendNotFound", why))?;
        // gRPC is HTTP/2, and a stream whatever it is, whatever the Service says or does not.
        let protocol = match (self.route.is_grpc(), self.route.is_tls()) {
            (true, _) => Protocol::H2c,
            (_, true) => Protocol::Any,
            _ => key.protocol,
        };
        Ok(BackendKey { protocol, ..key })
    }
}

fn http(one: &RouteMatch) -> Result<(Path, Conditions), String> {
    let path = one.path.as_ref();
    let text = path.and_then(|path| path.value.as_deref()).unwrap_or("/");
    let path = match path.and_then(|path| path.kind.as_deref()).unwrap_or("PathPrefix") {
        "Exact" => Path::Exact(text.to_owned()),
        "PathPrefix" => Path::prefix(text),
        "RegularExpression" => Path::Pattern(Pattern::new(text)?),
        other => return Err(format!("paths of type {other} are not served by {}", HTTPRoute::KIND)),
    };
    let method = match &one.method {
        None => None,
        Some(MethodMatch::Http(method)) => {
            Some(method.parse::<Method>().map_err(|_| format!("{method:?} is no method"))?)
        }
        Some(MethodMatch::Grpc(_)) => return Err("a method of gRPC is none of HTTP".to_owned()),
    };
    let mut query: Vec<(String, Text)> = Vec::new();
    for parameter in &one.query_params {
        // Of equal names the first counts.
        if !query.iter().any(|(name, _)| *name == parameter.name) {
            query.push((parameter.name.clone(), wanted(parameter)?));
        }
    }
    Ok((path, Conditions { method, headers: headers(one)?, query }))
}

fn grpc(one: &RouteMatch) -> Result<(Path, Conditions), String> {
    let method = match &one.method {
        None => GrpcMethod::default(),
        Some(MethodMatch::Grpc(method)) => method.clone(),
        Some(MethodMatch::Http(_)) => return Err("a method of HTTP is none of gRPC".to_owned()),
    };
    let path = match method.kind.as_deref().unwrap_or("Exact") {
        "Exact" => exact_method(&method)?,
        "RegularExpression" => {
            let part = |text: &Option<String>| {
                text.as_ref().map_or("[^/]+".to_owned(), |text| format!("(?:{text})"))
            };
            Path::Pattern(Pattern::new(&format!("/{}/{}", part(&method.service), part(&method.method)))?)
        }
        other => return Err(format!("methods of type {other} are not served by {}", GRPCRoute::KIND)),
    };
    Ok((path, Conditions { headers: headers(one)?, ..Conditions::default() }))
}

fn exact_method(method: &GrpcMethod) -> Result<Path, String> {
    Ok(match (&method.service, &method.method) {
        (Some(service), Some(method)) => Path::Exact(format!("/{service}/{method}")),
        (Some(service), None) => Path::prefix(&format!("/{service}")),
        (None, None) => Path::prefix("/"),
        (None, Some(method)) => Path::Pattern(Pattern::new(&format!("/[^/]+/{}", regex::escape(method)))?),
    })
}

fn headers(one: &RouteMatch) -> Result<Vec<(HeaderName, Text)>, String> {
    let mut all: Vec<(HeaderName, Text)> = Vec::new();
    for header in &one.headers {
        let name: HeaderName = header.name.parse().map_err(|_| format!("{:?} is no header", header.name))?;
        if !all.iter().any(|(known, _)| *known == name) {
            all.push((name, wanted(header)?));
        }
    }
    Ok(all)
}

/// What a header or parameter has to be.
fn wanted(named: &Named) -> Result<Text, String> {
    match named.kind.as_deref().unwrap_or("Exact") {
        "Exact" => Ok(Text::Exact(named.value.clone())),
        "RegularExpression" => Pattern::new(&named.value).map(Text::Pattern),
        other => Err(format!("values of type {other} are not served")),
    }
}
