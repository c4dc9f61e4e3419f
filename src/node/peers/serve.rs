//! The other nodes' side: the half of the distribution specification that reads, at the kubelet's HTTPS, of what this
//! node's runtime has whole. Nodes of the cluster alone are answered: images may be private, and whoever may use one
//! is decided where pods are started.

use super::asked::{Asked, What, range};
use crate::Error;
use crate::containerd::content;
use crate::containerd::registries::Shared;
use crate::cri::Runtime;
use api::core::Node;
use base::{Body, BodyError, Phase, Supervisor, full_body};
use bytes::Bytes;
use client::Cache;
use futures_util::stream;
use http::header::{ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderName, RANGE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// The digest of what an answer holds, as registries say it.
pub(super) const DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
/// The label of what a runtime pulled, with the registry after it.
const SOURCE: &str = "containerd.io/distribution.source.";
/// How much is given at one time, in requests: the disk and the link are the pods'.
const AT_ONCE: usize = 16;
/// How long a node may take nothing of what it asked for.
const STALL_LIMIT: Duration = Duration::from_secs(60);

/// What answers other nodes.
pub(crate) struct Sharing {
    runtime: Runtime,
    shared: Arc<Shared>,
    nodes: Cache<Node>,
    supervisor: Supervisor,
    slots: Arc<Semaphore>,
}

/// Something that the runtime has.
struct Found {
    digest: String,
    media_type: String,
    size: u64,
}

fn refused(status: StatusCode, code: &str, message: &str) -> Response<Body> {
    let errors = json!({"errors": [{"code": code, "message": message}]});
    let mut response = Response::new(full_body(errors.to_string()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn unknown() -> Response<Body> {
    refused(StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN", "this node does not have it")
}

/// The type of a manifest that nothing but its bytes tells.
fn media_type(manifest: &[u8]) -> String {
    let manifest: Value = serde_json::from_slice(manifest).unwrap_or_default();
    let kind = if manifest["manifests"].is_array() { "index" } else { "manifest" };
    let usual = || format!("application/vnd.oci.image.{kind}.v1+json");
    manifest["mediaType"].as_str().map_or_else(usual, str::to_owned)
}

/// Whether something is of a registry that is shared: what was imported is of none.
fn may_be_shared<'a>(labels: impl Iterator<Item = &'a String>, shared: &Shared) -> bool {
    let mut sources = labels.filter_map(|label| label.strip_prefix(SOURCE)).peekable();
    sources.peek().is_none() || sources.any(|registry| shared.has(registry))
}

impl Sharing {
    pub(super) fn new(
        runtime: Runtime,
        shared: Arc<Shared>,
        nodes: Cache<Node>,
        supervisor: Supervisor,
    ) -> Self {
        Self { runtime, shared, nodes, supervisor, slots: Arc::new(Semaphore::new(AT_ONCE)) }
    }

    /// Whether a path is one of those that are answered here.
    pub(crate) fn is_path(path: &str) -> bool {
        path == "/v2" || path.starts_with("/v2/")
    }

    /// Answers a request of the user who showed a certificate: of nobody, if none was shown.
    pub(crate) async fn answer<B>(
        &self,
        caller: Option<(&str, &[String])>,
        request: &Request<B>,
    ) -> Response<Body> {
        let Some((user, groups)) = caller else {
            return refused(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", "show the certificate of a node");
        };
        if !self.is_node(user, groups) {
            let message =
                format!("{user:?} is no node of this cluster: nodes alone read each other's images");
            return refused(StatusCode::FORBIDDEN, "DENIED", &message);
        }
        if ![Method::GET, Method::HEAD].contains(request.method()) {
            return refused(StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED", "images are only read here");
        }
        let rest = request.uri().path().strip_prefix("/v2/").unwrap_or_default();
        if rest.is_empty() {
            return Response::new(full_body("{}"));
        }
        let asked = Asked::parse(rest, request.uri().query().unwrap_or_default());
        let Some(asked) = asked.filter(|asked| self.shared.has(&asked.registry)) else { return unknown() };
        let wanted = request.headers().get(RANGE).and_then(|range| range.to_str().ok());
        match self.give(&asked, request.method(), wanted).await {
            Ok(answer) => answer,
            Err(error) if error.is_gone() => unknown(),
            Err(error) => {
                tracing::warn!(%error, user, repository = asked.repository, "cannot give an image to a node");
                refused(StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE", "the runtime cannot be asked")
            }
        }
    }

    /// Whether somebody is a node that the cluster has.
    fn is_node(&self, user: &str, groups: &[String]) -> bool {
        let node = user.strip_prefix("system:node:").filter(|_| groups.iter().any(|it| it == "system:nodes"));
        node.is_some_and(|name| self.nodes.get("", name).is_some())
    }

    async fn find(&self, asked: &Asked) -> Result<Option<Found>, Error> {
        let (digest, is_manifest) = match &asked.what {
            What::Tag(tag) => {
                let target = content::named(&self.runtime, &asked.image(tag)).await?;
                let size = u64::try_from(target.size).unwrap_or(0);
                // A name alone is not enough.
                content::info(&self.runtime, &target.digest).await?;
                return Ok(Some(Found { digest: target.digest, media_type: target.media_type, size }));
            }
            What::Manifest(digest) => (digest, true),
            What::Blob(digest) => (digest, false),
        };
        let info = content::info(&self.runtime, digest).await?;
        if !may_be_shared(info.labels.keys(), &self.shared) {
            return Ok(None);
        }
        let media_type = if is_manifest {
            media_type(&content::read(&self.runtime, digest).await?)
        } else {
            "application/octet-stream".to_owned()
        };
        let size = u64::try_from(info.size).unwrap_or(0);
        Ok(Some(Found { digest: digest.clone(), media_type, size }))
    }

    async fn give(
        &self,
        asked: &Asked,
        method: &Method,
        wanted: Option<&str>,
    ) -> Result<Response<Body>, Error> {
        let Some(found) = self.find(asked).await? else { return Ok(unknown()) };
        let mut response = Response::new(full_body(""));
        let headers = response.headers_mut();
        let text =
            |value: &str| HeaderValue::try_from(value).unwrap_or_else(|_| HeaderValue::from_static(""));
        headers.insert(CONTENT_TYPE, text(&found.media_type));
        headers.insert(DIGEST, text(&found.digest));
        headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        if *method == Method::HEAD {
            headers.insert(CONTENT_LENGTH, found.size.into());
            return Ok(response);
        }
        let (from, length) = match range(wanted, found.size) {
            Ok(None) => (0, found.size),
            Ok(Some((from, length))) => {
                let part = format!("bytes {from}-{}/{}", from + length - 1, found.size);
                headers.insert(CONTENT_RANGE, text(&part));
                *response.status_mut() = StatusCode::PARTIAL_CONTENT;
                (from, length)
            }
            Err(()) => {
                let message = format!("it has {} bytes", found.size);
                return Ok(refused(StatusCode::RANGE_NOT_SATISFIABLE, "RANGE_INVALID", &message));
            }
        };
        let Ok(slot) = self.slots.clone().try_acquire_owned() else {
            let message = "this node gives as much as it may already";
            return Ok(refused(StatusCode::SERVICE_UNAVAILABLE, "TOOMANYREQUESTS", message));
        };
        response.headers_mut().insert(CONTENT_LENGTH, length.into());
        *response.body_mut() = self.pour(&found.digest, (from, length), slot).await?;
        Ok(response)
    }

    /// The bytes of something, as fast as they are taken.
    async fn pour(
        &self,
        digest: &str,
        (from, length): (u64, u64),
        slot: OwnedSemaphorePermit,
    ) -> Result<Body, Error> {
        if length == 0 {
            return Ok(full_body(""));
        }
        let mut pieces = content::stream(&self.runtime, digest, (from, length)).await?;
        let (sender, receiver) = mpsc::channel::<Result<Frame<Bytes>, BodyError>>(1);
        let digest = digest.to_owned();
        self.supervisor.detached("an image for another node", Phase::Front, async move {
            let _slot = slot;
            loop {
                let (piece, is_last) = match pieces.message().await {
                    Ok(None) => return,
                    Ok(Some(piece)) => (Ok(Frame::data(Bytes::from(piece.data))), false),
                    Err(status) => (Err(status.into()), true),
                };
                if tokio::time::timeout(STALL_LIMIT, sender.send(piece)).await.is_err() {
                    tracing::debug!(digest, "a node takes nothing any more of what it asked for");
                    return;
                }
                if is_last || sender.is_closed() {
                    return;
                }
            }
        });
        let taken =
            stream::unfold(receiver, |mut receiver| async { Some((receiver.recv().await?, receiver)) });
        Ok(StreamBody::new(taken).boxed_unsync())
    }
}

#[cfg(test)]
#[path = "serve_tests.rs"]
mod tests;
