//! A connection to one server as one user, and the requests that commands make of it.

use crate::connection::plugin::{Policy, is_over};
use crate::connection::{self, Connection, Login};
use crate::discovery::{Discovery, Resource};
use crate::discovery_cache::Cache;
use crate::error::Error;
use crate::globals::Global;
use crate::record;
use crate::requests::Manner;
use base::{Body, Supervisor};
use client::Client;
use client::https::{Https, Target};
use http::{Method, Request, Response, StatusCode, header};
use rustls::pki_types::CertificateDer;
use serde_json::Value;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use tokio::sync::OnceCell;

pub(crate) const JSON: &str = "application/json";
pub(crate) const MERGE_PATCH: &str = "application/merge-patch+json";
pub(crate) const STRATEGIC_PATCH: &str = "application/strategic-merge-patch+json";

/// What every command is given.
pub(crate) struct Session {
    link: RwLock<Link>,
    /// Whether the plugin that gives credentials was run.
    signed_in: tokio::sync::Mutex<bool>,
    login: Option<Login>,
    policy: Policy,
    /// What `--record` annotates.
    cause: Option<String>,
    certificate: Option<CertificateDer<'static>>,
    manner: Manner,
    /// The namespace of objects that name none.
    pub(crate) namespace: String,
    /// `--namespace` was given.
    pub(crate) namespace_given: bool,
    /// What the server had a while ago, and what it has now.
    known: OnceLock<Option<Discovery>>,
    asked: OnceCell<Discovery>,
    cache: Option<Cache>,
    /// Owns what runs beside the command, such as a connection's other direction.
    pub(crate) supervisor: Supervisor,
}

/// A target and the client to it.
#[derive(Clone)]
struct Link {
    target: Target,
    client: Client,
    /// When its credentials end.
    until: Option<jiff::Timestamp>,
}

impl Link {
    fn new(target: Target, until: Option<jiff::Timestamp>) -> Self {
        Self { client: Client::new(Arc::new(Https::new(target.clone()))), target, until }
    }
}

impl Session {
    pub(crate) fn open(global: &Global) -> Result<Self, Error> {
        let Connection { target, login, namespace, gzip, authority, certificate } =
            connection::resolve(global)?;
        let cache = Cache::of(&target.server.to_string(), &authority, global.cache_dir.as_deref());
        let manner = Manner::of(global, gzip, &target.server)?;
        let namespace = global.namespace.clone().filter(|name| !name.is_empty()).or(namespace);
        Ok(Self {
            link: RwLock::new(Link::new(target, None)),
            signed_in: tokio::sync::Mutex::new(false),
            login,
            policy: global.policy.clone(),
            cause: global.cause.clone(),
            certificate,
            manner,
            namespace: namespace.unwrap_or_else(|| "default".to_owned()),
            namespace_given: global.namespace.is_some(),
            known: OnceLock::new(),
            asked: OnceCell::new(),
            cache,
            supervisor: Supervisor::new(),
        })
    }

    /// How the server is reached, with the credentials of now.
    pub(crate) fn target(&self) -> Target {
        self.link().target
    }

    /// The same, for who has no session: of a user whose credentials no plugin gives.
    pub(crate) fn plain_target(self) -> Result<Target, Error> {
        match self.login {
            Some(_) => {
                Err(Error::plain("the kubeconfig's user has a credential plugin, which kubectl alone runs"))
            }
            None => Ok(self.target()),
        }
    }

    fn link(&self) -> Link {
        self.link.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Runs the plugin that gives credentials, if there is one: before the first request, and again when what it gave
    /// is over or `refused`.
    async fn signed_in(&self, refused: bool) -> Result<Link, Error> {
        let Some(login) = &self.login else { return Ok(self.link()) };
        let mut signed_in = self.signed_in.lock().await;
        let link = self.link();
        if *signed_in && !refused && !is_over(link.until) {
            return Ok(link);
        }
        let given = login.plugin.run(&self.policy).await?;
        let until = given.until;
        let link = Link::new(login.target(&link.target, given)?, until);
        *self.link.write().unwrap_or_else(PoisonError::into_inner) = link.clone();
        *signed_in = true;
        Ok(link)
    }

    /// Whether a plugin gives credentials.
    pub(crate) fn has_plugin(&self) -> bool {
        self.login.is_some()
    }

    /// When what a plugin gave is over, as far as it said.
    pub(crate) fn signed_in_until(&self) -> Option<jiff::Timestamp> {
        self.link().until
    }

    /// Has the plugin give others: the server did not take those.
    pub(crate) async fn sign_in_again(&self) -> Result<(), Error> {
        self.signed_in(true).await.map(|_| ())
    }

    /// What is left to say when the command did what it was to do.
    pub(crate) fn end(&self) -> Result<(), Error> {
        self.manner.end()
    }

    /// What the server has, or had some minutes ago. What is looked for by name is better asked of
    /// [`resource`](Self::resource) and [`resource_of`](Self::resource_of), which know what came since.
    pub(crate) async fn discovery(&self) -> Result<&Discovery, Error> {
        if let Some(asked) = self.asked.get() {
            return Ok(asked);
        }
        let load = || self.cache.as_ref().and_then(Cache::load).map(Discovery);
        match self.known.get_or_init(load) {
            Some(known) => Ok(known),
            None => self.current().await,
        }
    }

    /// What the server has, asked once.
    pub(crate) async fn current(&self) -> Result<&Discovery, Error> {
        let ask = async || {
            let found = Discovery::fetch(self).await?;
            // A folder that cannot be written to costs the next command a request and nothing else.
            self.cache.iter().for_each(|cache| cache.store(&found.0).unwrap_or_default());
            Ok(found)
        };
        self.asked.get_or_try_init(ask).await
    }

    /// The resource that a person named.
    pub(crate) async fn resource(&self, word: &str) -> Result<&Resource, Error> {
        match self.discovery().await?.find(word) {
            Ok(found) => Ok(found),
            Err(_) => self.current().await?.find(word),
        }
    }

    /// The resource of an object's apiVersion and kind.
    pub(crate) async fn resource_of(
        &self,
        api_version: &str,
        kind: &str,
    ) -> Result<Option<&Resource>, Error> {
        match self.discovery().await?.of_kind(api_version, kind) {
            Some(found) => Ok(Some(found)),
            None => Ok(self.current().await?.of_kind(api_version, kind)),
        }
    }

    /// Reads an object or list.
    pub(crate) async fn get(&self, path: &str) -> Result<Value, Error> {
        self.send(Call { method: Method::GET, path, content_type: JSON, accept: JSON }, None).await
    }

    /// Reads a list in parts of so many items, 0 for one part.
    pub(crate) async fn list(&self, path: &str, part: u64) -> Result<Value, Error> {
        let limit = if part == 0 { String::new() } else { part.to_string() };
        let first = with_query(path, &[("limit", &limit)]);
        let mut whole = self.get(&first).await?;
        loop {
            let rest = whole["metadata"]["continue"].as_str().unwrap_or_default().to_owned();
            if rest.is_empty() {
                return Ok(whole);
            }
            let mut next = self.get(&with_query(&first, &[("continue", &rest)])).await?;
            whole["metadata"]["continue"] = next["metadata"]["continue"].take();
            if let (Some(items), Some(more)) = (whole["items"].as_array_mut(), next["items"].as_array_mut()) {
                items.append(more);
            }
        }
    }

    /// Posts, puts or deletes with a JSON body.
    pub(crate) async fn write(&self, method: Method, path: &str, body: &Value) -> Result<Value, Error> {
        let recorded = self.recorded(body, body["metadata"].is_object());
        let body = recorded.as_ref().unwrap_or(body);
        self.send(Call { method, path, content_type: JSON, accept: JSON }, Some(body)).await
    }

    /// Annotates an object with the cause of what was done to it by other means than its fields.
    pub(crate) async fn record(&self, path: &str) -> Result<(), Error> {
        if self.cause.is_some() {
            self.patch(path, MERGE_PATCH, &Value::Object(serde_json::Map::new())).await?;
        }
        Ok(())
    }

    /// An object with the annotation of `--record`, if there is one: where what is applied remembers it as well.
    pub(crate) fn caused(&self, object: &Value) -> Value {
        self.recorded(object, object["metadata"].is_object()).unwrap_or_else(|| object.clone())
    }

    /// A body with the annotation of `--record`, if there is one and the body is of an object.
    fn recorded(&self, body: &Value, is_object: bool) -> Option<Value> {
        let cause = self.cause.as_ref().filter(|_| is_object)?;
        let mut body = body.clone();
        body["metadata"]["annotations"][record::CAUSE] = Value::String(cause.clone());
        Some(body)
    }

    /// Patches.
    pub(crate) async fn patch(&self, path: &str, content_type: &str, body: &Value) -> Result<Value, Error> {
        let recorded = self.recorded(body, body.is_object());
        let body = recorded.as_ref().unwrap_or(body);
        self.send(Call { method: Method::PATCH, path, content_type, accept: JSON }, Some(body)).await
    }

    /// Sends bytes as they are, and gives the answer as it is.
    pub(crate) async fn verbatim(
        &self,
        (method, content_type): (Method, &str),
        path: &str,
        body: Vec<u8>,
    ) -> Result<bytes::Bytes, Error> {
        let call = Call { method, path, content_type, accept: JSON };
        self.manner.whole(self.answer(call, &body, false).await?).await
    }

    pub(crate) async fn send(&self, call: Call<'_>, body: Option<&Value>) -> Result<Value, Error> {
        let bytes = self.bytes(call, body).await?;
        serde_json::from_slice(&bytes)
            .map_err(|error| Error::plain(format!("the server's answer is no object: {error}")))
    }

    /// An answer's bytes.
    pub(crate) async fn bytes(&self, call: Call<'_>, body: Option<&Value>) -> Result<bytes::Bytes, Error> {
        let body = body.map(Value::to_string).unwrap_or_default();
        let answer = self.answer(call, body.as_bytes(), self.manner.gzip).await?;
        self.manner.whole(answer).await
    }

    /// Begins a streaming answer, such as a watch or a log.
    pub(crate) async fn stream(&self, path: &str, accept: &str) -> Result<Body, Error> {
        let call = Call { method: Method::GET, path, content_type: JSON, accept };
        Ok(self.answer(call, &[], false).await?.into_body())
    }

    async fn answer(&self, call: Call<'_>, body: &[u8], gzip: bool) -> Result<Response<Body>, Error> {
        let mut request = Request::builder()
            .method(call.method)
            .uri(call.path)
            .header(header::ACCEPT, call.accept)
            .header(header::USER_AGENT, "kubectl/knarr");
        if !body.is_empty() {
            request = request.header(header::CONTENT_TYPE, call.content_type);
        }
        if gzip {
            request = request.header(header::ACCEPT_ENCODING, "gzip");
        }
        let (head, ()) = request.body(()).map_err(|error| Error::plain(error.to_string()))?.into_parts();
        let link = self.signed_in(false).await?;
        let mut answer =
            self.manner.send(&link.client, &head, body).await.map_err(|error| self.named(error))?;
        if answer.status() == StatusCode::UNAUTHORIZED && self.login.is_some() {
            let link = self.signed_in(true).await?;
            answer = self.manner.send(&link.client, &head, body).await.map_err(|error| self.named(error))?;
        }
        self.accepted(answer).await
    }

    /// Sends any request; a refusal comes back as an answer.
    pub(crate) async fn raw(&self, request: Request<Body>) -> Result<Response<Body>, Error> {
        let link = self.signed_in(false).await?;
        link.client.raw(request).await.map_err(|error| self.named(error))
    }

    /// How the server is reached, once a plugin that there may be has given credentials.
    pub(crate) async fn identified(&self) -> Result<Target, Error> {
        Ok(self.signed_in(false).await?.target)
    }

    async fn accepted(&self, response: Response<Body>) -> Result<Response<Body>, Error> {
        let code = response.status();
        if code.is_success() {
            return Ok(response);
        }
        let refusal = refused(code, &self.manner.whole(response).await?);
        // What was known of the server led to a path that it has not.
        if refusal.is_not_found() && refusal.to_string() == "the server could not find the requested resource"
        {
            self.cache.iter().for_each(Cache::forget);
        }
        let refused = Error::from(refusal);
        match self
            .certificate
            .as_ref()
            .filter(|_| code == StatusCode::UNAUTHORIZED)
            .and_then(connection::is_over)
        {
            // What scripts look for is a line of its own.
            Some(over) => Err(Error::Bare(format!("{refused}\n{over}"))),
            None => Err(refused),
        }
    }

    /// Puts the server's address into what could not be reached.
    fn named(&self, error: client::Error) -> Error {
        match error {
            client::Error::Transport(reason) => {
                let server = self.target().server.to_string();
                let reason = format!("{}: {reason}", server.trim_end_matches('/'));
                Error::Server(client::Error::Transport(reason), None)
            }
            other => other.into(),
        }
    }
}

/// One request's head.
pub(crate) struct Call<'a> {
    pub(crate) method: Method,
    pub(crate) path: &'a str,
    pub(crate) content_type: &'a str,
    pub(crate) accept: &'a str,
}

/// The server's status, or one made of an answer that is none, in the words of Kubernetes' client.
pub(crate) fn refused(code: StatusCode, body: &[u8]) -> client::Error {
    let status =
        serde_json::from_slice::<api::meta::Status>(body).ok().filter(|status| status.code.is_some());
    client::Error::Api(Box::new(status.unwrap_or_else(|| {
        let said = String::from_utf8_lossy(body).trim().to_owned();
        let (reason, message) = generic(code, &said);
        api::meta::Status {
            code: Some(i32::from(code.as_u16())),
            reason: Some(reason.to_owned()),
            message: Some(message),
            ..Default::default()
        }
    })))
}

fn generic(code: StatusCode, said: &str) -> (&'static str, String) {
    let (reason, message) = match code.as_u16() {
        400 => ("BadRequest", "the server rejected our request for an unknown reason"),
        401 => ("Unauthorized", "the server has asked for the client to provide credentials"),
        403 if !said.is_empty() => ("Forbidden", said),
        403 => ("Forbidden", "the server does not allow access to the requested resource"),
        404 => ("NotFound", "the server could not find the requested resource"),
        405 => ("MethodNotAllowed", "the server does not allow this method on the requested resource"),
        409 => ("Conflict", "the server reported a conflict"),
        422 => ("Invalid", "the server rejected our request due to an error in our request"),
        429 => (
            "TooManyRequests",
            "the server has received too many requests and has asked us to try again later",
        ),
        503 => ("ServiceUnavailable", "the server is currently unable to handle the request"),
        504 => (
            "Timeout",
            "the server was unable to return a response in the time allotted, but may still be processing the request",
        ),
        500.. => {
            let message =
                format!("an error on the server ({said:?}) has prevented the request from succeeding");
            return ("InternalError", message);
        }
        _ => ("Unknown", said),
    };
    (reason, message.to_owned())
}

/// Percent-encodes a query value.
pub(crate) fn escape(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

/// Adds a query parameter to a path.
pub(crate) fn with_query(path: &str, parameters: &[(&str, &str)]) -> String {
    let given = parameters.iter().filter(|(_, value)| !value.is_empty());
    let query: Vec<String> = given.map(|(name, value)| format!("{name}={}", escape(value))).collect();
    match (query.is_empty(), path.contains('?')) {
        (true, _) => path.to_owned(),
        (false, true) => format!("{path}&{}", query.join("&")),
        (false, false) => format!("{path}?{}", query.join("&")),
    }
}
