//! Where every request enters, from outside and from within alike: who is asking, is there room, may they.

use super::answer;
use super::edge::Edge;
use super::limits::Deadline;
use super::path::{Target, target};
use super::pipeline::Admitted;
use super::query::Query;
use crate::Server;
use crate::aggregation::Remote;
use crate::auth::{Attributes, Identity, User};
use crate::flow::{Does, Load, estimate};
use crate::streams::Backends;
use api::status::Refusal;
use base::{Body, clock};
use http::{HeaderMap, Method, Request, Response, header};

/// Subresources whose requests last as long as their clients want (`watch` does as well).
const LONG_RUNNING: [&str; 5] = ["attach", "exec", "proxy", "log", "portforward"];

pub(super) fn header_text<'a>(headers: &'a HeaderMap, name: &header::HeaderName) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// The verb of a request that is about no resource.
fn plain_verb(method: &Method) -> String {
    let name = if method == Method::HEAD { &Method::GET } else { method };
    name.as_str().to_ascii_lowercase()
}

fn lasts(target: &Target) -> bool {
    let Target::Resource(path) = target else { return false };
    path.verb == "watch" || LONG_RUNNING.contains(&path.subresource.as_str())
}

impl Server {
    /// Answers one request.
    pub(crate) async fn handle(&self, identity: Identity, request: Request<Body>) -> Response<Body> {
        let started = clock::instant();
        let query = Query::parse(request.uri().query().unwrap_or_default());
        let target = target(request.method(), request.uri().path(), &query);
        let resource = match &target {
            Target::Resource(path) => Some(path.clone()),
            Target::Other => None,
        };
        // What others answer through this server leaves as it came.
        let foreign = resource.as_ref().is_none_or(Backends::serve);
        let edge = Edge::of(&request, &query);
        let answered = self.identified(&identity, target, query, request).await;
        let response = answered.unwrap_or_else(|refusal| answer::refused(&refusal));
        let foreign = foreign || answer::is_relayed(&response);
        let mut response = match foreign && !answer::is_refusal(&response) {
            true => edge.relayed(response),
            false => edge.finish(response).await,
        };
        answer::uncached(&mut response);
        if let Some(path) = resource {
            self.0.metrics.count(&path, response.status().as_u16(), started.elapsed());
        }
        response
    }

    async fn identified(
        &self,
        identity: &Identity,
        target: Target,
        query: Query,
        request: Request<Body>,
    ) -> Result<Response<Body>, Refusal> {
        let deadline = if lasts(&target) { Deadline::standard() } else { Deadline::parse(&query)? };
        let user = self.0.authenticator.authenticate(identity, request.headers())?;
        let user = self.0.authorizer.impersonated(user, request.headers())?;
        let peer = match identity {
            Identity::Trusted(_) => None,
            Identity::Certificates(_, peer) => Some(*peer),
        };
        let ends = peer.map(|_| self.0.front.clone());
        let admitted = Admitted { user, permit: None, deadline, ends, peer };
        Ok(self.classified(admitted, target, query, request).await)
    }

    /// Waits for seats, unless the request would hold them for as long as its client wants.
    async fn classified(
        &self,
        mut admitted: Admitted,
        target: Target,
        query: Query,
        request: Request<Body>,
    ) -> Response<Body> {
        if lasts(&target) && !matches!(&target, Target::Resource(path) if path.verb == "watch") {
            let answer = self.authorized(admitted, target, query, request).await;
            return answer.unwrap_or_else(|refusal| answer::refused(&refusal));
        }
        let verb = plain_verb(request.method());
        let attributes = attributes(&target, &verb, request.uri().path());
        let classified = self.0.flow.classify(&admitted.user, &attributes);
        let (does, load) = self.cost(&target, &query);
        let work = estimate(does, load, classified.widest(does));
        let mut response = match classified.enter(work, admitted.deadline.waiting()).await {
            Err(refused) => *refused,
            Ok(permit) => {
                admitted.permit = Some(permit);
                let answer = self.authorized(admitted, target, query, request).await;
                answer.unwrap_or_else(|refusal| answer::refused(&refusal))
            }
        };
        classified.mark(&mut response);
        response
    }

    async fn authorized(
        &self,
        admitted: Admitted,
        target: Target,
        query: Query,
        request: Request<Body>,
    ) -> Result<Response<Body>, Refusal> {
        if asks_newest(&target, &query) {
            self.0.registry.records().catch_up().await?;
        }
        self.authorize(&admitted.user, &target, &request)?;
        if let Some(remote) = self.0.aggregation.find(request.uri().path()) {
            return Box::pin(self.elsewhere(admitted, &remote, &target, request)).await;
        }
        match target {
            Target::Other => Box::pin(self.other(&admitted.user, query, request)).await,
            Target::Resource(path) => self.resource(admitted, path, query, request).await,
        }
    }

    fn authorize(&self, user: &User, target: &Target, request: &Request<Body>) -> Result<(), Refusal> {
        let (verb, path) = (plain_verb(request.method()), request.uri().path());
        if matches!(target, Target::Other) && self.is_open(path) {
            return Ok(());
        }
        let attributes = attributes(target, &verb, path);
        if self.0.authorizer.allows(user, &attributes) { Ok(()) } else { Err(attributes.refusal(user)) }
    }

    /// What another API server answers.
    async fn elsewhere(
        &self,
        admitted: Admitted,
        remote: &Remote,
        target: &Target,
        request: Request<Body>,
    ) -> Result<Response<Body>, Refusal> {
        let Admitted { user, permit, deadline, peer, .. } = admitted;
        let handed_on = async { Ok(self.0.aggregation.proxy(remote, (&user, peer), request).await) };
        if lasts(target) {
            return handed_on.await;
        }
        Ok(answer::holding(deadline.keep(handed_on).await?, permit))
    }

    /// What a request does, and what is known of its kind.
    fn cost(&self, target: &Target, query: &Query) -> (Does, Load) {
        let nothing = (Does::Else, Load::default());
        let Target::Resource(path) = target else { return nothing };
        let catalogue = self.0.registry.catalogue();
        let Some(kind) = catalogue.by_resource(&path.group, &path.version, &path.resource) else {
            return nothing;
        };
        let usages = self.0.registry.records().usages();
        let load = || usages.load(kind);
        let limit = query.number("limit").ok().flatten().filter(|limit| *limit > 0).unwrap_or(u64::MAX);
        match path.verb {
            "list" => (Does::Lists { limit: if path.name.is_empty() { limit } else { 1 } }, load()),
            "watch" if starts_with_state(query) => (Does::Lists { limit }, load()),
            // A token is no change that anybody watches.
            "create" if path.subresource == "token" => nothing,
            "create" | "update" | "patch" | "delete" => {
                (Does::Writes, usages.load_of_write(kind, &path.namespace, &path.name))
            }
            _ => nothing,
        }
    }
}

/// Whether a request is about the newest state: reads that name no version, and writes.
fn asks_newest(target: &Target, query: &Query) -> bool {
    let Target::Resource(path) = target else { return false };
    let reads = matches!(path.verb, "get" | "list" | "watch");
    !reads || query.get("resourceVersion").is_empty() && query.get("continue").is_empty()
}

/// Whether a watch begins with all that is there.
fn starts_with_state(query: &Query) -> bool {
    query.flag("sendInitialEvents") || matches!(query.get("resourceVersion"), "" | "0")
}

fn attributes<'a>(target: &'a Target, verb: &'a str, path: &'a str) -> Attributes<'a> {
    match target {
        Target::Resource(path) => Attributes::of(path),
        Target::Other => of_path(verb, path),
    }
}

/// The attributes of a request that is about no resource.
fn of_path<'a>(verb: &'a str, path: &'a str) -> Attributes<'a> {
    let trimmed = path.trim_end_matches('/');
    Attributes { verb, path: if trimmed.is_empty() { "/" } else { trimmed }, ..Attributes::default() }
}
