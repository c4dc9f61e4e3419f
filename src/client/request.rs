//! Requests and answers, typed.

use api::meta::{DeleteOptions, Status};
use api::{Object, Scope, Whole};
use base::{Body, full_body};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Method, Request, Response, StatusCode, header};
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_json::value::RawValue;
use std::sync::Arc;

/// The largest answer the client takes into memory: a LIST of tens of thousands of pods.
const ANSWER_BYTES: usize = 512 << 20;

/// Carries requests to an API server: within the process, or over mutual TLS.
pub trait Transport: Send + Sync {
    /// Sends one request; the answer's body may stream.
    fn call(&self, request: Request<Body>) -> BoxFuture<'static, Result<Response<Body>, Error>>;
}

/// Why a request gave no object.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server refused. Retry on conflict with a fresh object; otherwise report.
    #[error("{}", message_of(.0))]
    Api(Box<Status>),
    /// The server was not reached. Retry with backoff.
    #[error("the API server cannot be reached: {0}")]
    Transport(String),
    /// The answer is no such object. Report: a version mismatch or a defect.
    #[error("the API server's answer cannot be read: {0}")]
    Decode(String),
    /// What the work depends on is not there yet. Retry with backoff.
    #[error("{0}")]
    Unready(String),
}

fn message_of(status: &Status) -> &str {
    status.message.as_deref().unwrap_or("the API server gave no reason")
}

impl Error {
    /// The reason of a refusal, such as `NotFound`, or "".
    pub fn reason(&self) -> &str {
        match self {
            Self::Api(status) => status.reason.as_deref().unwrap_or_default(),
            _ => "",
        }
    }

    /// The HTTP status code of a refusal, or 0.
    pub fn code(&self) -> i32 {
        match self {
            Self::Api(status) => status.code.unwrap_or_default(),
            _ => 0,
        }
    }

    /// There is no such object.
    pub fn is_not_found(&self) -> bool {
        self.code() == 404
    }

    /// Somebody else wrote first.
    pub fn is_conflict(&self) -> bool {
        self.reason() == "Conflict"
    }

    /// An object of this name is there.
    pub fn is_already_exists(&self) -> bool {
        self.reason() == "AlreadyExists"
    }

    /// The revision asked for was compacted: list again.
    pub fn is_gone(&self) -> bool {
        self.code() == 410
    }
}

/// A change to an object without sending all of it.
#[derive(Clone, Debug)]
pub enum Patch {
    /// RFC 6902.
    Json(Value),
    /// RFC 7386.
    Merge(Value),
    /// Kubernetes' strategic merge.
    Strategic(Value),
}

impl Patch {
    fn parts(&self) -> (&'static str, &Value) {
        match self {
            Self::Json(value) => ("application/json-patch+json", value),
            Self::Merge(value) => ("application/merge-patch+json", value),
            Self::Strategic(value) => ("application/strategic-merge-patch+json", value),
        }
    }
}

/// What a list is narrowed by; empty texts narrow nothing.
#[derive(Clone, Debug, Default)]
pub struct ListSelector {
    /// `labelSelector`.
    pub labels: String,
    /// `fieldSelector`.
    pub fields: String,
}

/// The path of a kind's collection, in one namespace or (with "") in all.
pub fn path_of<T: Object>(namespace: &str) -> String {
    let root = if T::GROUP.is_empty() { "/api" } else { "/apis" };
    let place = if namespace.is_empty() || !<T::Scope as Scope>::NAMESPACED {
        String::new()
    } else {
        format!("namespaces/{namespace}/")
    };
    format!("{root}/{}/{place}{}", T::API_VERSION, T::URL_PATH_SEGMENT)
}

fn object_path<T: Object>(namespace: &str, name: &str) -> String {
    format!("{}/{name}", path_of::<T>(namespace))
}

/// A client of one API server. Cheap to clone.
#[derive(Clone)]
pub struct Client(Arc<dyn Transport>);

impl Client {
    /// A client over this transport.
    pub fn new(transport: Arc<dyn Transport>) -> Self {
        Self(transport)
    }

    /// Reads one object; `namespace` is "" for kinds outside namespaces.
    pub async fn get<T: Object>(&self, namespace: &str, name: &str) -> Result<T, Error> {
        self.typed(Method::GET, &object_path::<T>(namespace, name), None).await
    }

    /// Creates the object in its namespace.
    pub async fn create<T: Whole>(&self, object: &T) -> Result<T, Error> {
        self.typed(Method::POST, &path_of::<T>(object.namespace()), Some(written(object)?)).await
    }

    /// Replaces the object; refused with a conflict unless its resourceVersion is the latest.
    pub async fn update<T: Whole>(&self, object: &T) -> Result<T, Error> {
        let path = object_path::<T>(object.namespace(), object.name());
        self.typed(Method::PUT, &path, Some(written(object)?)).await
    }

    /// Replaces the object's status alone.
    pub async fn update_status<T: Whole>(&self, object: &T) -> Result<T, Error> {
        let path = format!("{}/status", object_path::<T>(object.namespace(), object.name()));
        self.typed(Method::PUT, &path, Some(written(object)?)).await
    }

    /// Patches the object.
    pub async fn patch<T: Object>(&self, namespace: &str, name: &str, patch: &Patch) -> Result<T, Error> {
        self.send_patch(&object_path::<T>(namespace, name), patch).await
    }

    /// Patches the object's status alone.
    pub async fn patch_status<T: Object>(
        &self,
        namespace: &str,
        name: &str,
        patch: &Patch,
    ) -> Result<T, Error> {
        self.send_patch(&format!("{}/status", object_path::<T>(namespace, name)), patch).await
    }

    /// Applies to an object, taking from other managers what they own of it.
    pub async fn apply<T: Object>(
        &self,
        namespace: &str,
        name: &str,
        manager: &str,
        value: &Value,
    ) -> Result<T, Error> {
        self.send_apply(&object_path::<T>(namespace, name), manager, value).await
    }

    /// Applies to an object's status, taking from other managers what they own of it.
    pub async fn apply_status<T: Object>(
        &self,
        namespace: &str,
        name: &str,
        manager: &str,
        value: &Value,
    ) -> Result<T, Error> {
        self.send_apply(&format!("{}/status", object_path::<T>(namespace, name)), manager, value).await
    }

    async fn send_apply<T: Object>(&self, path: &str, manager: &str, value: &Value) -> Result<T, Error> {
        T::from_json(&self.apply_at(path, manager, value).await?).map_err(unreadable)
    }

    /// Applies to whatever is at a path, taking from other managers what they own of it: for kinds known only at
    /// run time.
    pub async fn apply_at(&self, path: &str, manager: &str, value: &Value) -> Result<Bytes, Error> {
        let path = format!("{path}?fieldManager={manager}&force=true");
        self.whole_answer(request(Method::PATCH, &path, "application/apply-patch+yaml", encode(value)?)?)
            .await
    }

    async fn send_patch<T: Object>(&self, path: &str, patch: &Patch) -> Result<T, Error> {
        let (content_type, value) = patch.parts();
        let request = request(Method::PATCH, path, content_type, encode(value)?)?;
        T::from_json(&self.whole_answer(request).await?).map_err(unreadable)
    }

    /// Deletes one object.
    pub async fn delete<T: Object>(
        &self,
        namespace: &str,
        name: &str,
        options: &DeleteOptions,
    ) -> Result<(), Error> {
        let path = object_path::<T>(namespace, name);
        self.whole_answer(request(Method::DELETE, &path, JSON, encode(options)?)?).await.map(drop)
    }

    /// Lists a kind in one namespace or (with "") in all.
    pub async fn list<T: Object>(&self, namespace: &str, selector: &ListSelector) -> Result<Vec<T>, Error> {
        let path = format!("{}?{}", path_of::<T>(namespace), selector.query());
        let body = self.whole_answer(request(Method::GET, &path, JSON, Bytes::new())?).await?;
        let items = read_list(&body)?.0.into_iter().map(|item| T::from_json(item.get().as_bytes()));
        items.collect::<Result<_, _>>().map_err(unreadable)
    }

    /// Posts to a subresource such as `binding`, `eviction` or `token` and returns the answer's body.
    pub async fn post_subresource(&self, path: &str, body: &Value) -> Result<Bytes, Error> {
        self.whole_answer(request(Method::POST, path, JSON, encode(body)?)?).await
    }

    /// Sends a request with a JSON body (or none) and returns the answer's body: for work on kinds
    /// known only at run time.
    pub async fn send(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Bytes, Error> {
        let body = body.map(encode).transpose()?.unwrap_or_default();
        self.whole_answer(request(method, path, JSON, body)?).await
    }

    /// Reads whatever JSON a path answers with: for kinds and documents known only at run time.
    pub async fn read<T: DeserializeOwned>(&self, path: &str) -> Result<T, Error> {
        serde_json::from_slice(&self.send(Method::GET, path, None).await?).map_err(unreadable)
    }

    /// Sends any request; a refusal comes back as an answer. For streams and proxies.
    pub async fn raw(&self, request: Request<Body>) -> Result<Response<Body>, Error> {
        self.0.call(request).await
    }

    async fn typed<T: Object>(&self, method: Method, path: &str, body: Option<Bytes>) -> Result<T, Error> {
        let answer = self.whole_answer(request(method, path, JSON, body.unwrap_or_default())?).await?;
        T::from_json(&answer).map_err(unreadable)
    }

    pub(crate) async fn whole_answer(&self, request: Request<Body>) -> Result<Bytes, Error> {
        let response = accepted(self.0.call(request).await?).await?;
        collect(response.into_body()).await
    }
}

impl ListSelector {
    pub(crate) fn query(&self) -> String {
        let parts = [("labelSelector", &self.labels), ("fieldSelector", &self.fields)];
        let given = parts.iter().filter(|(_, value)| !value.is_empty());
        given.map(|(name, value)| format!("{name}={}", escape(value))).collect::<Vec<_>>().join("&")
    }
}

const JSON: &str = "application/json";

/// Percent-encodes a query value.
pub fn escape(text: &str) -> String {
    text.bytes().fold(String::with_capacity(text.len()), |mut out, byte| {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'/' => {
                out.push(char::from(byte))
            }
            _ => out.push_str(&format!("%{byte:02X}")),
        }
        out
    })
}

#[derive(serde::Deserialize)]
struct List<'a> {
    #[serde(default)]
    metadata: api::meta::ListMeta,
    #[serde(borrow)]
    items: Vec<&'a RawValue>,
}

/// The items of a list, and its revision.
pub(crate) fn read_list(bytes: &[u8]) -> Result<(Vec<&RawValue>, Option<u64>), Error> {
    let list: List<'_> = serde_json::from_slice(bytes).map_err(unreadable)?;
    Ok((list.items, list.metadata.resource_version.and_then(|version| version.parse().ok())))
}

pub(crate) fn request(
    method: Method,
    path: &str,
    content_type: &str,
    body: Bytes,
) -> Result<Request<Body>, Error> {
    Request::builder()
        .method(method)
        .uri(path)
        .header(header::CONTENT_TYPE, content_type)
        .header(header::ACCEPT, JSON)
        .body(full_body(body))
        .map_err(|error| Error::Transport(error.to_string()))
}

fn encode<T: serde::Serialize>(value: &T) -> Result<Bytes, Error> {
    serde_json::to_vec(value).map(Bytes::from).map_err(unreadable)
}

fn written<T: Whole>(object: &T) -> Result<Bytes, Error> {
    object.to_json().map(Bytes::from).map_err(unreadable)
}

pub(crate) fn unreadable(error: serde_json::Error) -> Error {
    Error::Decode(error.to_string())
}

/// Turns a refusal into an error with the server's status.
pub(crate) async fn accepted(response: Response<Body>) -> Result<Response<Body>, Error> {
    let code = response.status();
    if code.is_success() || code == StatusCode::SWITCHING_PROTOCOLS {
        return Ok(response);
    }
    let body = collect(response.into_body()).await?;
    let status = serde_json::from_slice(&body).unwrap_or_else(|_| Status {
        code: Some(i32::from(code.as_u16())),
        message: Some(String::from_utf8_lossy(&body).trim().to_owned()),
        ..Status::default()
    });
    Err(Error::Api(Box::new(status)))
}

async fn collect(body: Body) -> Result<Bytes, Error> {
    base::collect(body, ANSWER_BYTES).await.map_err(|error| Error::Transport(error.to_string()))
}
