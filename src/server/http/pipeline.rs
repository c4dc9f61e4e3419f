//! The pipeline that every request goes through, from outside and from within alike.

use super::answer;
use super::path::{ResourcePath, Target, target};
use super::query::Query;
use crate::Server;
use crate::auth::{Attributes, Identity, User};
use crate::registry::{
    Change, Context, DeleteOptions, FieldValidation, ListOptions, Outcome, Page, Part, Place, Reading,
    Record, Rendering, Reply, Source, WatchOptions, Writer, decode_configuration, decode_object,
    decode_patch, decode_plain,
};
use crate::streams::Kubelets;
use api::kinds::{Kind, by_resource};
use api::schema::strict::Expected;
use api::schema::{TypeId, schema};
use api::status::Refusal;
use base::{Body, CollectError, clock};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use serde_json::{Value, json};
use std::time::Duration;

/// The largest body (Kubernetes' limit).
const BODY_BYTES: usize = 3 << 20;
/// How long a request that does not stream may take.
const REQUEST_LIMIT: Duration = Duration::from_secs(60);
/// The media type of configurations that are applied.
const APPLY: &str = "application/apply-patch+yaml";
/// Paths that anyone may read.
const OPEN_PATHS: [&str; 4] = ["/healthz", "/livez", "/readyz", "/version"];

fn header_text<'a>(headers: &'a HeaderMap, name: &header::HeaderName) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// A request with its parts taken apart.
struct Asked {
    user: User,
    path: ResourcePath,
    query: Query,
    kind: &'static Kind,
    rendering: Rendering,
    content_type: String,
    /// Who writes, by the name of its program.
    agent: String,
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
        let accept = header_text(request.headers(), &header::ACCEPT);
        let in_protobuf = resource.is_some() && Rendering::parse(accept, "") == Some(Rendering::Protobuf);
        let mut response = match self.answer(&identity, target, query, request).await {
            Ok(response) => response,
            Err(refusal) => answer::refused(&refusal),
        };
        if in_protobuf {
            response = answer::in_protobuf(response).await;
        }
        if let Some(path) = resource {
            self.0.metrics.count(&path, response.status().as_u16(), started.elapsed());
        }
        response
    }

    async fn answer(
        &self,
        identity: &Identity,
        target: Target,
        query: Query,
        request: Request<Body>,
    ) -> Result<Response<Body>, Refusal> {
        let user = self.0.authenticator.authenticate(identity, request.headers())?;
        let user = self.0.authorizer.impersonated(user, request.headers())?;
        match target {
            Target::Other => self.other(&user, &request),
            Target::Resource(path) => {
                let attributes = Attributes::of(&path);
                if !self.0.authorizer.allows(&user, &attributes) {
                    return Err(attributes.refusal(&user));
                }
                self.resource(user, path, query, request).await
            }
        }
    }

    /// Health, version, documents.
    fn other(&self, user: &User, request: &Request<Body>) -> Result<Response<Body>, Refusal> {
        let path = request.uri().path().trim_end_matches('/');
        let verb = if request.method() == Method::HEAD {
            "get".to_owned()
        } else {
            request.method().as_str().to_ascii_lowercase()
        };
        let attributes = Attributes {
            verb: &verb,
            path: if path.is_empty() { "/" } else { path },
            ..Attributes::default()
        };
        if !OPEN_PATHS.contains(&path) && !self.0.authorizer.allows(user, &attributes) {
            return Err(attributes.refusal(user));
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return Err(Refusal::method_not_allowed());
        }
        let keys = self.0.registry.keys();
        match path {
            "/healthz" | "/livez" | "/readyz" => return Ok(answer::text(StatusCode::OK, "ok")),
            "/metrics" => {
                let revision = self.0.registry.records().store().revision();
                return Ok(answer::text(StatusCode::OK, self.0.metrics.render(revision)));
            }
            "/openid/v1/jwks" => return Ok(answer::json(StatusCode::OK, &keys.key_set())),
            "/.well-known/openid-configuration" => {
                let document = json!({"issuer": keys.issuer(), "jwks_uri": format!("{}/openid/v1/jwks", keys.issuer()),
                    "response_types_supported": ["id_token"], "subject_types_supported": ["public"], "id_token_signing_alg_values_supported": ["ES256"]});
                return Ok(answer::json(StatusCode::OK, &document));
            }
            _ => {}
        }
        let accept = header_text(request.headers(), &header::ACCEPT);
        let (body, content_type) =
            self.0.documents.get(path, accept).ok_or_else(Refusal::no_such_resource)?;
        let digest = ring::digest::digest(&ring::digest::SHA256, &body);
        let tag = digest.as_ref()[..16].iter().map(|byte| format!("{byte:02X}")).collect::<String>();
        let tag = format!("\"{tag}\"");
        let unchanged = header_text(request.headers(), &header::IF_NONE_MATCH) == tag;
        let mut response = if unchanged {
            answer::json_bytes(StatusCode::NOT_MODIFIED, Bytes::new())
        } else {
            answer::json_bytes(StatusCode::OK, body)
        };
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
        headers.insert(header::VARY, header::HeaderValue::from_static("Accept"));
        headers.extend(header::HeaderValue::try_from(tag).map(|tag| (header::ETAG, tag)));
        Ok(response)
    }

    async fn resource(
        &self,
        user: User,
        path: ResourcePath,
        query: Query,
        request: Request<Body>,
    ) -> Result<Response<Body>, Refusal> {
        let kind =
            by_resource(&path.group, &path.version, &path.resource).ok_or_else(Refusal::no_such_resource)?;
        if path.resource != "namespaces"
            && kind.namespaced == path.namespace.is_empty()
            && !path.name.is_empty()
        {
            return Err(Refusal::no_such_resource());
        }
        if Kubelets::serve(&path) {
            return self.0.kubelets.forward(&self.0.registry, &path, &query, request).await;
        }
        let subresource_exists = path.subresource.is_empty() || kind.subresource(&path.subresource).is_some();
        if !subresource_exists {
            return Err(Refusal::no_such_resource());
        }
        let accept = header_text(request.headers(), &header::ACCEPT);
        let rendering = Rendering::parse(accept, query.get("includeObject")).ok_or_else(|| {
            Refusal::new(
                406,
                "NotAcceptable",
                "only the following media types are accepted: application/json",
            )
        })?;
        let content_type = header_text(request.headers(), &header::CONTENT_TYPE).to_owned();
        let agent = super::options::agent(request.headers(), &user);
        let place = path.clone();
        let mut asked = Asked { user, path, query, kind, rendering, content_type, agent };
        // The namespace in the path of a namespace is its name.
        if !kind.namespaced {
            asked.path.namespace.clear();
        }
        if !place.subresource.is_empty() {
            let body = body_of(request).await?;
            return tokio::time::timeout(REQUEST_LIMIT, self.subresource(asked, &body))
                .await
                .unwrap_or_else(|_| Err(timed_out()));
        }
        if !kind.verbs.contains(&asked.path.verb) {
            return Err(Refusal::method_not_allowed());
        }
        match asked.path.verb {
            "watch" => self.watch(asked),
            _ => {
                let body = body_of(request).await?;
                tokio::time::timeout(REQUEST_LIMIT, self.verb(asked, &body))
                    .await
                    .unwrap_or_else(|_| Err(timed_out()))
            }
        }
    }

    fn watch(&self, asked: Asked) -> Result<Response<Body>, Refusal> {
        let options = WatchOptions::parse(asked.kind, &asked.query)?;
        let content_type = asked.rendering.stream_type();
        let body = self.0.registry.watch(asked.kind, &asked.path.namespace, options, asked.rendering)?;
        Ok(answer::typed(Response::new(body), content_type))
    }

    /// The verbs of objects and collections.
    async fn verb(&self, asked: Asked, body: &Bytes) -> Result<Response<Body>, Refusal> {
        let registry = &self.0.registry;
        let (kind, namespace, name) = (asked.kind, asked.path.namespace.as_str(), asked.path.name.as_str());
        match asked.path.verb {
            "get" => {
                let record = registry.find(kind, namespace, name)?;
                Ok(asked.object(StatusCode::OK, &record.value))
            }
            "list" if !kind.stored() => Ok(answer::json(
                StatusCode::OK,
                &json!({
                "kind": format!("{}List", kind.kind), "apiVersion": kind.api_version(), "metadata": {}, "items": []}),
            )),
            "list" => {
                let page = registry.list(kind, namespace, &ListOptions::parse(kind, &asked.query)?).await?;
                Ok(asked.page(&page))
            }
            "create" if !kind.stored() => self.review(&asked, body).await,
            "create" => {
                let (object, source) = decode_object(body, &asked.content_type, asked.form())?;
                let outcome = registry.create(kind, namespace, object, &asked.context(source)?).await?;
                Ok(asked.written(&outcome))
            }
            "update" | "patch" => {
                let (change, source) = asked.change(body)?;
                let outcome = registry
                    .change(Place { kind, namespace, name }, &change, Part::Main, &asked.context(source)?)
                    .await?;
                Ok(asked.written(&outcome))
            }
            "delete" => {
                let options = asked.delete_options(body)?;
                let answer = registry
                    .delete(Place { kind, namespace, name }, &options, &asked.context(Source::default())?)
                    .await?;
                Ok(answer::json_bytes(StatusCode::OK, answer))
            }
            _ => self.delete_all(&asked, body).await,
        }
    }

    async fn delete_all(&self, asked: &Asked, body: &Bytes) -> Result<Response<Body>, Refusal> {
        let registry = &self.0.registry;
        let options = asked.delete_options(body)?;
        let page = registry
            .list(asked.kind, &asked.path.namespace, &ListOptions::parse(asked.kind, &asked.query)?)
            .await?;
        let context = asked.context(Source::default())?;
        for record in &page.items {
            match registry.delete(asked.place_of(record), &options, &context).await {
                Err(refusal) if refusal.code != 404 => return Err(refusal),
                _ => {}
            }
        }
        Ok(asked.page(&page))
    }

    async fn subresource(&self, asked: Asked, body: &Bytes) -> Result<Response<Body>, Refusal> {
        let registry = &self.0.registry;
        let kind = asked.kind;
        let place = Place { kind, namespace: &asked.path.namespace, name: &asked.path.name };
        let subresource = kind.subresource(&asked.path.subresource).ok_or_else(Refusal::no_such_resource)?;
        if !subresource.verbs.contains(&asked.path.verb) {
            return Err(Refusal::method_not_allowed());
        }
        let posted = || decode_plain(body, &asked.content_type);
        let reply = match (subresource.name, asked.path.verb) {
            ("scale", "get") => Reply::Made(200, registry.scale(kind, place.namespace, place.name)?),
            (_, "get") => {
                let record = registry.find(kind, place.namespace, place.name)?;
                return Ok(asked.object(StatusCode::OK, &record.value));
            }
            ("binding", _) => registry.bind(place, &posted()?, &asked.context(Source::default())?).await?,
            ("eviction", _) => registry.evict(place, &posted()?, &asked.context(Source::default())?).await?,
            ("token", _) => registry.issue_token(place, posted()?)?,
            (door, _) => {
                let (change, source) = asked.change(body)?;
                let context = asked.context(source)?;
                match door {
                    "scale" => Reply::Made(200, registry.rescale(place, &change, &context).await?),
                    "status" => Reply::Stored(registry.change(place, &change, Part::Status, &context).await?),
                    door => Reply::Stored(registry.change_through(place, door, &change, &context).await?),
                }
            }
        };
        Ok(match reply {
            Reply::Stored(outcome) => asked.written(&outcome),
            Reply::Made(code, value) => {
                answer::json(StatusCode::from_u16(code).unwrap_or(StatusCode::OK), &value)
            }
        })
    }

    /// Kinds that are questions: an object is posted and comes back with the answer in its status.
    async fn review(&self, asked: &Asked, body: &Bytes) -> Result<Response<Body>, Refusal> {
        let value = decode_plain(body, &asked.content_type)?;
        if asked.kind.kind == "Binding" {
            let name = value["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            let pods = by_resource("", "v1", "pods").ok_or_else(Refusal::no_such_resource)?;
            let reply = self
                .0
                .registry
                .bind(
                    Place { kind: pods, namespace: &asked.path.namespace, name: &name },
                    &value,
                    &asked.context(Source::default())?,
                )
                .await?;
            let Reply::Made(_, status) = reply else {
                return Err(Refusal::internal("a binding is no stored object"));
            };
            return Ok(answer::json(StatusCode::CREATED, &status));
        }
        let reading = Reading { validation: FieldValidation::Ignore, source: Source::default() };
        let (mut object, _) = crate::registry::decode_checked(value, asked.kind, &reading)?;
        object["status"] = crate::auth::reviews::answer(
            &self.0.authenticator,
            &self.0.authorizer,
            &asked.user,
            asked.kind,
            &object,
        );
        Ok(answer::json(StatusCode::CREATED, &object))
    }
}

fn timed_out() -> Refusal {
    Refusal::new(504, "Timeout", "request did not complete within the allotted timeout")
}

async fn body_of(request: Request<Body>) -> Result<Bytes, Refusal> {
    let body = tokio::time::timeout(REQUEST_LIMIT, base::collect(request.into_body(), BODY_BYTES)).await;
    match body.map_err(|_| timed_out())? {
        Ok(body) => Ok(body),
        Err(CollectError::TooLarge(most)) => {
            Err(Refusal::too_large(format!("Request entity too large: limit is {most}")))
        }
        Err(CollectError::Broken(error)) => {
            Err(Refusal::bad_request(format!("the request's body cannot be read: {error}")))
        }
    }
}

impl Asked {
    /// Where one object of the collection is.
    fn place_of<'a>(&self, record: &'a Record) -> Place<'a> {
        let (namespace, name) = crate::registry::place_of(record);
        Place { kind: self.kind, namespace, name }
    }

    /// Who writes how; `source` is what its body was found to be.
    fn context(&self, source: Source) -> Result<Context, Refusal> {
        let dry_run = match self.query.get("dryRun") {
            "" => false,
            "All" => true,
            other => {
                let message = format!("dryRun: Unsupported value: {other:?}: supported values: \"All\"");
                return Err(Refusal::new(422, "Invalid", message));
            }
        };
        let validation = FieldValidation::parse(self.query.get("fieldValidation"))?;
        let applies = self.media_type() == APPLY && self.path.verb == "patch";
        super::options::check(&self.query, self.path.verb, applies)?;
        let manager = match self.query.get("fieldManager") {
            "" => self.agent.clone(),
            manager => manager.to_owned(),
        };
        let subresource = self.kind.subresource(&self.path.subresource).map_or("", |own| own.name);
        let writer = Writer { manager, subresource, force: self.query.flag("force") };
        let reading = Reading { validation, source };
        Ok(Context { user: self.user.clone(), dry_run, reading, writer })
    }

    fn media_type(&self) -> &str {
        self.content_type.split(';').next().unwrap_or_default().trim()
    }

    /// The type of what is sent: the object's own, or that of its scale.
    fn form(&self) -> Option<TypeId> {
        match self.path.subresource.as_str() {
            "scale" => schema().by_name("api.autoscaling.v1.Scale"),
            _ => schema().of(self.kind),
        }
    }

    /// What is to become of an object, and from what that was read.
    fn change(&self, body: &Bytes) -> Result<(Change, Source), Refusal> {
        if self.path.verb == "update" {
            return decode_object(body, &self.content_type, self.form())
                .map(|(object, source)| (Change::Replace(object), source));
        }
        match self.media_type() {
            APPLY => decode_configuration(body).map(|(config, source)| (Change::Apply(config), source)),
            "application/json-patch+json" => decode_patch(body, Expected::Patch).map(|(_, notes)| {
                let notes = notes.iter().map(|note| format!("json patch {note}")).collect();
                (Change::Json(body.clone()), Source::Patched(notes))
            }),
            "application/merge-patch+json" => decode_patch(body, Expected::Any)
                .map(|(patch, notes)| (Change::Merge(patch), Source::Patched(notes))),
            "application/strategic-merge-patch+json" => decode_patch(body, Expected::Any)
                .map(|(patch, notes)| (Change::Strategic(patch.clone()), Source::Strategic(patch, notes))),
            other => Err(Refusal::unsupported_media_type(format!(
                "the body of the request was in an unknown format - accepted media types include: application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json, {APPLY}; got {other:?}"
            ))),
        }
    }

    fn delete_options(&self, body: &Bytes) -> Result<DeleteOptions, Refusal> {
        let options = if body.is_empty() { Value::Null } else { decode_plain(body, &self.content_type)? };
        DeleteOptions::parse(&options, &self.query)
    }

    fn object(&self, code: StatusCode, bytes: &Bytes) -> Response<Body> {
        let response = answer::json_bytes(code, self.rendering.object(self.kind, bytes));
        answer::typed(response, self.rendering.content_type())
    }

    fn page(&self, page: &Page) -> Response<Body> {
        answer::typed(answer::pieces(self.rendering.page(self.kind, page)), self.rendering.content_type())
    }

    fn written(&self, outcome: &Outcome) -> Response<Body> {
        let code = if outcome.created { StatusCode::CREATED } else { StatusCode::OK };
        let mut response = self.object(code, &outcome.object);
        outcome.warnings.iter().for_each(|warning| answer::warn(&mut response, warning));
        response
    }
}
