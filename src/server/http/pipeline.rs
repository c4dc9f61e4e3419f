//! Objects, collections and subresources: what the verbs do.

use super::answer;
use super::entry::header_text;
use super::limits::{Deadline, body_of};
use super::path::ResourcePath;
use super::query::Query;
use crate::Server;
use crate::auth::User;
use crate::catalogue::Custom;
use crate::flow::{Permit, READING_LIMIT};
use crate::registry::render::not_acceptable;
use crate::registry::{
    Change, Context, DeleteOptions, FieldValidation, Form, ListOptions, Outcome, Page, Part, Place, Reading,
    Record, Rendering, Reply, Serving, Source, Warnings, WatchOptions, WriteOptions, Writer, asked_revision,
    decode_configuration, decode_object, decode_options, decode_patch, note_writer, place_object, timestamp,
};
use crate::streams::Backends;
use api::kinds::{Kind, by_resource};
use api::schema::strict::Expected;
use api::status::Refusal;
use base::{Body, Shutdown};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use serde_json::{Value, json};
use std::net::IpAddr;

/// The media type of configurations that are applied.
const APPLY: &str = "application/apply-patch+yaml";
/// What is said where a custom object is patched otherwise.
const CUSTOM_PATCHES: &str = "the body of the request was in an unknown format - accepted media types include: application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml";
/// Methods by which objects are served.
const METHODS: [Method; 5] = [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE];

/// A request with its parts taken apart.
struct Asked {
    user: User,
    path: ResourcePath,
    query: Query,
    kind: &'static Kind,
    /// What a definition says of the kind.
    custom: Option<Custom>,
    rendering: Rendering,
    content_type: String,
    /// Who writes, by the name of its program.
    agent: String,
    /// The seats that the request holds until it is answered.
    permit: Option<Permit>,
    /// When streams have to end, for those that came in from outside.
    ends: Option<Shutdown>,
    /// What to warn of, whatever the answer is.
    warnings: Warnings,
}

/// An object that asks for something and is not kept.
struct Posted {
    object: Value,
    context: Context,
}

/// An answer that was made up for its request.
fn made(code: u16, value: &Value) -> Response<Body> {
    answer::json(StatusCode::from_u16(code).unwrap_or(StatusCode::OK), value)
}

/// What a request is given to be worked on.
pub(super) struct Admitted {
    pub(super) user: User,
    pub(super) permit: Option<Permit>,
    pub(super) deadline: Deadline,
    pub(super) ends: Option<Shutdown>,
    /// Whose connection it came over.
    pub(super) peer: Option<IpAddr>,
}

impl Server {
    /// Objects, collections and subresources.
    pub(super) async fn resource(
        &self,
        admitted: Admitted,
        path: ResourcePath,
        query: Query,
        request: Request<Body>,
    ) -> Result<Response<Body>, Refusal> {
        let Admitted { user, permit, deadline, ends, peer } = admitted;
        let catalogue = self.0.registry.catalogue();
        let kind = catalogue
            .by_resource(&path.group, &path.version, &path.resource)
            .ok_or_else(Refusal::no_such_resource)?;
        if path.resource != "namespaces"
            && kind.namespaced == path.namespace.is_empty()
            && !path.name.is_empty()
        {
            return Err(Refusal::no_such_resource());
        }
        let warnings = Warnings::default();
        let answered = if Backends::serve(&path) {
            let context = Context::of(user, warnings.clone());
            Box::pin(self.0.backends.forward(&self.0.registry, &path, peer, (request, &context))).await
        } else if METHODS.contains(request.method()) {
            let admitted = Admitted { user, permit, deadline, ends, peer };
            self.served(admitted, kind, (path, query), (request, warnings.clone())).await
        } else {
            return Err(Refusal::method_not_allowed());
        };
        warnings.extend(kind.deprecation());
        let warnings = warnings.take();
        if warnings.is_empty() {
            return answered;
        }
        let mut response = answered.unwrap_or_else(|refusal| answer::refused(&refusal));
        answer::warn_all(&mut response, &warnings);
        Ok(response)
    }

    /// What this server answers itself.
    async fn served(
        &self,
        admitted: Admitted,
        kind: &'static Kind,
        (path, query): (ResourcePath, Query),
        (request, warnings): (Request<Body>, Warnings),
    ) -> Result<Response<Body>, Refusal> {
        let Admitted { user, permit, deadline, ends, .. } = admitted;
        let subresource_exists = path.subresource.is_empty() || kind.subresource(&path.subresource).is_some();
        if !subresource_exists {
            return Err(Refusal::no_such_resource());
        }
        let accept = header_text(request.headers(), &header::ACCEPT);
        let streams = path.verb == "watch";
        let parse = if streams { Rendering::parse_stream } else { Rendering::parse };
        let rendering = parse(accept, query.get("includeObject"), kind.custom)
            .ok_or_else(|| not_acceptable(accept, path.name.is_empty(), streams))?;
        let content_type = header_text(request.headers(), &header::CONTENT_TYPE).to_owned();
        let agent = super::options::agent(request.headers(), &user);
        let place = path.clone();
        let custom = self.0.registry.catalogue().custom(kind)?;
        let mut asked =
            Asked { user, path, query, kind, custom, rendering, content_type, agent, permit, ends, warnings };
        // The namespace in the path of a namespace is its name.
        if !kind.namespaced {
            asked.path.namespace.clear();
        }
        if !place.subresource.is_empty() {
            let work = async { self.subresource(asked, &body_of(request).await?).await };
            return deadline.keep(work).await;
        }
        if !kind.verbs.contains(&asked.path.verb) {
            return Err(Refusal::method_not_allowed());
        }
        match asked.path.verb {
            "watch" => Box::pin(self.watch(asked)).await,
            _ => deadline.keep(async { self.verb(asked, &body_of(request).await?).await }).await,
        }
    }

    async fn watch(&self, asked: Asked) -> Result<Response<Body>, Refusal> {
        let options = WatchOptions::parse(asked.kind, &asked.path.name, &asked.query)?;
        let content_type = asked.rendering.stream_type();
        let serving = Serving { rendering: asked.rendering, permit: asked.permit, stops: asked.ends };
        let registry = &self.0.registry;
        let body = registry.watch(asked.kind, &asked.path.namespace, options, serving).await?;
        Ok(answer::typed(Response::new(body), content_type))
    }

    /// The verbs of objects and collections.
    async fn verb(&self, asked: Asked, body: &Bytes) -> Result<Response<Body>, Refusal> {
        let registry = &self.0.registry;
        let (kind, namespace, name) = (asked.kind, asked.path.namespace.as_str(), asked.path.name.as_str());
        match asked.path.verb {
            "get" => {
                registry.fresh(asked_revision(asked.query.get("resourceVersion"))?).await?;
                let record = registry.get(kind, namespace, name).await?;
                Ok(asked.object(StatusCode::OK, &record.value))
            }
            "list" if !kind.stored() => Ok(answer::json(
                StatusCode::OK,
                &json!({
                "kind": kind.list_kind(), "apiVersion": kind.api_version(), "metadata": {}, "items": []}),
            )),
            "list" => {
                let page = registry.list(kind, namespace, &ListOptions::parse(kind, &asked.query)?).await?;
                let response = asked.page(&page);
                let lent = asked.permit.filter(|_| page.is_large()).map(|permit| permit.lend(READING_LIMIT));
                Ok(if lent.is_some() { answer::holding(response, lent) } else { response })
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
                let (options, context) = asked.deletion(body)?;
                let answer = registry.delete(Place { kind, namespace, name }, &options, &context).await?;
                Ok(answer::json_bytes(StatusCode::OK, answer))
            }
            _ => self.delete_all(&asked, body).await,
        }
    }

    async fn delete_all(&self, asked: &Asked, body: &Bytes) -> Result<Response<Body>, Refusal> {
        let registry = &self.0.registry;
        let (options, context) = asked.deletion(body)?;
        let page = registry
            .list(asked.kind, &asked.path.namespace, &ListOptions::parse(asked.kind, &asked.query)?)
            .await?;
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
        let reply = match (subresource.name, asked.path.verb) {
            ("scale", "get") => Reply::Made(200, registry.scale(kind, place.namespace, place.name).await?),
            (_, "get") => {
                let record = registry.get(kind, place.namespace, place.name).await?;
                return Ok(asked.object(StatusCode::OK, &record.value));
            }
            ("binding" | "eviction" | "token", _) => {
                let posted = asked.posted(Form::through(kind, subresource), body)?;
                return self.post(place, subresource.name, posted).await;
            }
            (door, _) => {
                let (change, source) = asked.change(body)?;
                let context = asked.context(source)?;
                match door {
                    "scale" => Reply::Made(200, registry.rescale(place, &change, &context).await?),
                    "status" => Reply::Stored(registry.change(place, &change, Part::Status, &context).await?),
                    door => Reply::Stored(registry.change(place, &change, Part::Door(door), &context).await?),
                }
            }
        };
        Ok(match reply {
            Reply::Stored(outcome) => asked.written(&outcome),
            Reply::Made(code, value) => made(code, &value),
        })
    }

    /// Does what an object asks for that is posted and not kept.
    async fn post(&self, place: Place<'_>, door: &str, posted: Posted) -> Result<Response<Body>, Refusal> {
        let registry = &self.0.registry;
        let Posted { object, context } = posted;
        let (code, value) = match door {
            "binding" => registry.bind(place, &object, &context).await?,
            "eviction" => registry.evict(place, &object, &context).await?,
            _ => registry.issue_token(place, object, &context).await?,
        };
        Ok(made(code, &value))
    }

    /// Kinds that are questions: an object is posted and comes back with the answer in its status.
    async fn review(&self, asked: &Asked, body: &Bytes) -> Result<Response<Body>, Refusal> {
        // What is only told and never kept has no metadata to show alone.
        if !matches!(asked.rendering, Rendering::Object | Rendering::Protobuf) {
            return Err(not_acceptable("application/json", false, false));
        }
        let mut posted = asked.posted(asked.form(), body)?;
        if asked.kind.kind == "Binding" {
            let name = posted.object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            let pods = by_resource("", "v1", "pods").ok_or_else(Refusal::no_such_resource)?;
            let place = Place { kind: pods, namespace: &asked.path.namespace, name: &name };
            return self.post(place, "binding", posted).await;
        }
        let place = Place { kind: asked.kind, namespace: &asked.path.namespace, name: "" };
        let registry = &self.0.registry;
        asked.warnings.extend(registry.admit_posted(place, "", &mut posted.object, &posted.context).await?);
        let object = &mut posted.object;
        match asked.kind.kind {
            // The answer is one of its own.
            "SelfSubjectRulesReview" => {}
            "SelfSubjectReview" => object["metadata"]["creationTimestamp"] = json!(timestamp()),
            _ => note_writer(asked.kind, object, &posted.context.writer),
        }
        object["status"] = crate::auth::reviews::answer(
            &self.0.authenticator,
            &self.0.authorizer,
            &asked.user,
            asked.kind,
            object,
        );
        if asked.kind.kind == "SelfSubjectRulesReview" {
            (object["metadata"], object["spec"]) = (json!({}), json!({}));
        }
        Ok(answer::json(StatusCode::CREATED, object))
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
        let dry_run = self.query.get("dryRun") == "All";
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
        let [manager, validation] =
            ["fieldManager", "fieldValidation"].map(|name| self.query.get(name).to_owned());
        let (user, warnings) = (self.user.clone(), self.warnings.clone());
        let options = WriteOptions { manager, validation };
        Ok(Context { dry_run, reading, writer, options, ..Context::of(user, warnings) })
    }

    fn media_type(&self) -> &str {
        self.content_type.split(';').next().unwrap_or_default().trim()
    }

    /// What is sent: an object of the kind, or of what its subresource takes.
    fn form(&self) -> Form<'_> {
        let subresource = self.kind.subresource(&self.path.subresource);
        match subresource {
            Some(subresource) if !self.kind.custom || !subresource.kind.is_empty() => {
                Form::through(self.kind, subresource)
            }
            _ => Form::of(self.kind).with(self.custom.as_ref()),
        }
    }

    /// Reads an object that is not to be kept.
    fn posted(&self, form: Form<'_>, body: &Bytes) -> Result<Posted, Refusal> {
        let (object, source) = decode_object(body, &self.content_type, form)?;
        let context = self.context(source)?;
        let mut object = context.read(object, form)?;
        place_object(&mut object, self.kind, &self.path.namespace)?;
        Ok(Posted { object, context })
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
            "application/strategic-merge-patch+json" if !self.kind.custom => {
                decode_patch(body, Expected::Any)
                    .map(|(patch, notes)| (Change::Strategic(patch.clone()), Source::Strategic(patch, notes)))
            }
            _ if self.kind.custom => Err(Refusal::unsupported_media_type(CUSTOM_PATCHES)),
            _ => Err(Refusal {
                details: json!({}),
                ..Refusal::unsupported_media_type("415: Unsupported Media Type")
            }),
        }
    }

    /// How something is to be deleted, and by whom.
    fn deletion(&self, body: &Bytes) -> Result<(DeleteOptions, Context), Refusal> {
        let options = if body.is_empty() { Value::Null } else { decode_options(body, &self.content_type)? };
        let options = DeleteOptions::parse(&options, &self.query)?;
        let context = self.context(Source::default())?;
        let dry_run = context.dry_run || options.dry_run;
        Ok((options, Context { dry_run, ..context }))
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
        self.warnings.extend(outcome.warnings.iter().cloned());
        self.object(code, &outcome.object)
    }
}
