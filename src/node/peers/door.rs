//! The runtime's side: it asks here on the loopback interface, and other nodes answer. Where none of them has what is
//! asked for it is told so, and goes on to the registry; where one breaks off in the middle so does this, and the
//! runtime asks again for the rest, which another node or the registry gives.

use super::asked::{Asked, What};
use super::candidates::{self, Peer};
use crate::Error;
use crate::containerd::loopback::{self, Place, plain};
use crate::containerd::registries::Shared;
use crate::stats::counters;
use api::core::Node;
use base::clock::{self, Instant};
use base::https::{self, Pool};
use base::{Body, BodyError, Phase, Shutdown, Supervisor, full_body, random};
use bytes::Bytes;
use client::Cache;
use futures_util::stream::{self, FuturesUnordered, StreamExt};
use http::header::{ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderName, RANGE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

/// How many nodes are asked at once.
const AT_ONCE: usize = 8;
/// How long a node may take to say whether it has something, and to begin to give it.
const ANSWER_LIMIT: Duration = Duration::from_secs(3);
/// How long a node that gives something may give nothing of it.
const STALL_LIMIT: Duration = Duration::from_secs(30);
/// How long a node is not asked again that could not be reached.
const SILENCE: Duration = Duration::from_secs(10);
/// The runtime's connections; it loads three layers of an image at a time.
const CONNECTIONS: usize = 128;

/// What is handed on of a node's answer.
const RELAYED: [HeaderName; 5] =
    [ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, super::serve::DIGEST];

/// Where the runtime asks for what other nodes may have.
pub(crate) struct Door {
    pub(crate) place: Place,
    pub(crate) shared: Shared,
    listener: TcpListener,
}

impl Door {
    /// Takes its address; the file remembers it.
    pub(super) async fn bind(shared: Shared, file: &Path) -> Result<Self, Error> {
        let (place, mut listeners) = loopback::bind(1, file, "images of other nodes").await?;
        let listener = listeners.pop().ok_or_else(|| Error::Setup("nothing listens".to_owned()))?;
        Ok(Self { place, shared, listener })
    }

    /// Answers until asked to stop.
    pub(super) async fn run(
        &self,
        others: Arc<Others>,
        supervisor: &Supervisor,
        shutdown: Shutdown,
    ) -> Result<(), Error> {
        let slots = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = shutdown.requested() => return Ok(()),
            };
            let (stream, _) =
                accepted.map_err(|error| Error::Setup(format!("images of other nodes: {error}")))?;
            let Ok(slot) = slots.clone().try_acquire_owned() else { continue };
            let (others, place) = (others.clone(), self.place.clone());
            supervisor.detached("images of other nodes", Phase::Ground, async move {
                let answer = |request| {
                    let (others, place) = (others.clone(), place.clone());
                    async move { others.answer(&place, &request).await }
                };
                loopback::serve(stream, answer).await;
                drop(slot);
            });
        }
    }
}

/// The other nodes of the cluster.
pub(super) struct Others {
    nodes: Cache<Node>,
    own: String,
    shared: Arc<Shared>,
    scheme: &'static str,
    pool: Pool,
    /// Until when nodes are not asked that could not be reached.
    silent: Mutex<HashMap<String, Instant>>,
}

fn nothing() -> Response<Body> {
    plain(StatusCode::NOT_FOUND, "no other node has it")
}

impl Others {
    pub(super) fn new(
        (nodes, own): (Cache<Node>, String),
        shared: Arc<Shared>,
        (scheme, pool): (&'static str, Pool),
    ) -> Self {
        Self { nodes, own, shared, scheme, pool, silent: Mutex::default() }
    }

    async fn answer<B>(&self, place: &Place, request: &Request<B>) -> Response<Body> {
        let query = request.uri().query().unwrap_or_default();
        let is_read = [Method::GET, Method::HEAD].contains(request.method());
        let Some(below) = place.below(request.uri().path()).filter(|_| is_read) else {
            return plain(StatusCode::NOT_FOUND, "there is nothing here");
        };
        let Some(asked) = Asked::parse(below, query).filter(|asked| self.is_shared(asked)) else {
            return nothing();
        };
        let found = self.find(&asked, request.method(), request.headers().get(RANGE)).await;
        let (by, answer) = match found {
            Some((name, answer)) => {
                tracing::debug!(node = name, repository = asked.repository, what = ?asked.what, "from another node");
                ("node", relayed(answer, request.method()))
            }
            None => ("nobody", nothing()),
        };
        counters::SHARED_IMAGES.count(&[by]);
        answer
    }

    /// Whether nodes may answer: what `latest` is today is the registry's to say, where there is one to ask.
    fn is_shared(&self, asked: &Asked) -> bool {
        let is_latest = matches!(&asked.what, What::Tag(tag) if tag == "latest");
        self.shared.has(&asked.registry) && (!is_latest || self.shared.is_alone(&asked.registry))
    }

    /// The answer of a node that has it.
    async fn find(
        &self,
        asked: &Asked,
        method: &Method,
        range: Option<&HeaderValue>,
    ) -> Option<(String, Response<Incoming>)> {
        let path = &asked.path();
        for group in self.peers(&asked.repository).chunks(AT_ONCE) {
            let looks = group
                .iter()
                .map(|peer| async move { (peer, self.ask(peer, Method::HEAD, path, None).await) });
            let mut looks: FuturesUnordered<_> = looks.collect();
            while let Some((peer, found)) = looks.next().await {
                let Some(found) = found else { continue };
                if *method == Method::HEAD {
                    return Some((peer.name.clone(), found));
                }
                if let Some(given) = self.ask(peer, Method::GET, path, range).await {
                    return Some((peer.name.clone(), given));
                }
            }
        }
        None
    }

    /// The nodes to ask, as far as they can be reached.
    fn peers(&self, repository: &str) -> Vec<Peer> {
        let now = clock::instant();
        let mut silent = self.silent.lock().unwrap_or_else(PoisonError::into_inner);
        silent.retain(|_, until| now < *until);
        let turn = usize::from(u16::from_be_bytes(random::bytes::<2>()));
        let nodes = self.nodes.snapshot();
        let known = nodes
            .iter()
            .filter(|node| !silent.contains_key(node.metadata.name.as_deref().unwrap_or_default()));
        candidates::order(known, (&self.own, repository), turn)
    }

    /// Asks one node; nothing where it has not got it.
    async fn ask(
        &self,
        peer: &Peer,
        method: Method,
        path: &str,
        range: Option<&HeaderValue>,
    ) -> Option<Response<Incoming>> {
        let mut request =
            Request::builder().method(method).uri(format!("{}://{}{path}", self.scheme, peer.at));
        if let Some(range) = range {
            request = request.header(RANGE, range);
        }
        let request = request.body(full_body("")).ok()?;
        let why = match tokio::time::timeout(ANSWER_LIMIT, self.pool.request(request)).await {
            Ok(Ok(answer)) => return Some(answer).filter(|answer| answer.status().is_success()),
            Ok(Err(error)) => https::chain(&error),
            Err(_) => "it does not answer".to_owned(),
        };
        tracing::debug!(node = peer.name, why, "cannot be asked for images");
        let until = clock::instant() + SILENCE;
        self.silent.lock().unwrap_or_else(PoisonError::into_inner).insert(peer.name.clone(), until);
        None
    }
}

/// A node's answer as the runtime gets it.
fn relayed(answer: Response<Incoming>, method: &Method) -> Response<Body> {
    let (mut head, body) = answer.into_parts();
    let body = if *method == Method::HEAD { full_body("") } else { flowing(body) };
    let mut response = Response::new(body);
    *response.status_mut() = head.status;
    for name in RELAYED {
        if let Some(value) = head.headers.remove(&name) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

/// A body that ends with an error when nothing comes of it any more.
fn flowing(body: Incoming) -> Body {
    let pieces = stream::unfold(Some(body), |body| async {
        let mut body = body?;
        let piece: Result<Frame<Bytes>, BodyError> =
            match tokio::time::timeout(STALL_LIMIT, body.frame()).await {
                Ok(None) => return None,
                Ok(Some(Ok(piece))) => return Some((Ok(piece), Some(body))),
                Ok(Some(Err(error))) => Err(error.into()),
                Err(_) => Err("the node that gives it went silent".into()),
            };
        Some((piece, None))
    });
    StreamBody::new(pieces).boxed_unsync()
}

#[cfg(test)]
#[path = "door_tests.rs"]
mod tests;
