//! gRPC on a socket of the file system: asked as a client of the kubelet asks it, and served as drivers of the node
//! serve it, where a verb's message goes in, and its answer or a status comes out.

use super::https::Https;
use base::{Phase, Supervisor};
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::net::UnixListener;
use tokio::sync::watch;
use tonic::client::Grpc;
use tonic::transport::Endpoint;
use tonic_prost::ProstCodec;

/// Asks a verb at a socket; the error is the server's.
pub(crate) async fn ask<Q, A>(socket: &Path, verb: &str, request: Q) -> Result<A, String>
where
    Q: Message + Send + Sync + 'static,
    A: Message + Default + Send + Sync + 'static,
{
    let endpoint = Endpoint::try_from(format!("unix://{}", socket.display())).unwrap();
    let mut grpc = Grpc::new(endpoint.connect().await.map_err(|error| error.to_string())?);
    grpc.ready().await.map_err(|error| error.to_string())?;
    let codec = ProstCodec::<Q, A>::default();
    let answer = grpc.unary(tonic::Request::new(request), verb.parse().unwrap(), codec).await;
    answer.map(tonic::Response::into_inner).map_err(|status| status.message().to_owned())
}

/// A message, or gRPC's code and a text.
pub(crate) type Answer = Result<Vec<u8>, (u32, String)>;
/// Answers a verb, which is given with its service: `/csi.v1.Node/NodeGetInfo`.
pub(crate) type Verbs = Arc<dyn Fn(&str, &[u8]) -> Answer + Send + Sync>;

/// The messages of a verb that goes on answering; none for a verb that answers once.
pub(crate) type Streams = Arc<dyn Fn(&str) -> Option<watch::Receiver<Vec<u8>>> + Send + Sync>;

/// gRPC's codes.
pub(crate) const UNIMPLEMENTED: u32 = 12;
pub(crate) const INTERNAL: u32 = 13;

/// Before every message: whether it is compressed, and its length.
const HEAD: usize = 5;

/// A server until it is dropped; then its socket is gone too.
pub(crate) struct GrpcServer {
    socket: PathBuf,
    https: tokio::runtime::Handle,
    supervisor: Supervisor,
}

impl GrpcServer {
    pub(crate) fn start(https: &Https, socket: &Path, verbs: Verbs) -> Self {
        Self::streaming(https, socket, (verbs, Arc::new(|_| None)))
    }

    pub(crate) fn streaming(https: &Https, socket: &Path, verbs: (Verbs, Streams)) -> Self {
        let supervisor = Supervisor::new();
        let (own, at) = (supervisor.clone(), socket.to_owned());
        let handle = https.run(async move {
            let listener = UnixListener::bind(&at).unwrap();
            own.detached("gRPC", Phase::Front, accept(listener, verbs, own.clone()));
            tokio::runtime::Handle::current()
        });
        Self { socket: socket.to_owned(), https: handle, supervisor }
    }
}

impl Drop for GrpcServer {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.socket) {
            eprintln!("{}: {error}", self.socket.display());
        }
        self.https.block_on(self.supervisor.drain());
    }
}

async fn accept(listener: UnixListener, verbs: (Verbs, Streams), supervisor: Supervisor) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let verbs = verbs.clone();
        supervisor.detached("gRPC connection", Phase::Front, async move {
            let service = service_fn(|request| answer(request, verbs.clone()));
            let server = http2::Builder::new(TokioExecutor::new());
            // Whoever asks hangs up as he likes.
            drop(server.serve_connection(TokioIo::new(stream), service).await);
        });
    }
}

type Frames = StreamBody<BoxStream<'static, Result<Frame<Bytes>, Infallible>>>;

fn framed(message: &[u8]) -> Result<Frame<Bytes>, Infallible> {
    let mut frame = BytesMut::new();
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).unwrap());
    frame.put_slice(message);
    Ok(Frame::data(frame.freeze()))
}

/// Every message that there is, for as long as somebody sends them.
fn following(messages: watch::Receiver<Vec<u8>>) -> BoxStream<'static, Result<Frame<Bytes>, Infallible>> {
    let next = |(mut messages, first): (watch::Receiver<Vec<u8>>, bool)| async move {
        if !first {
            messages.changed().await.ok()?;
        }
        let frame = framed(&messages.borrow_and_update());
        Some((frame, (messages, false)))
    };
    futures_util::stream::unfold((messages, true), next).boxed()
}

async fn answer(
    request: Request<Incoming>,
    (verbs, streams): (Verbs, Streams),
) -> Result<Response<Frames>, Infallible> {
    let verb = request.uri().path().to_owned();
    let response = Response::builder().header("content-type", "application/grpc");
    if let Some(messages) = streams(&verb) {
        return Ok(response.body(StreamBody::new(following(messages))).unwrap());
    }
    let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let message = body.get(HEAD..).unwrap_or_default().to_vec();
    // Verbs run programs.
    let answered = tokio::task::spawn_blocking(move || verbs(&verb, &message)).await.unwrap();
    let mut trailers = HeaderMap::new();
    let mut frames = Vec::new();
    let code = match answered {
        Ok(message) => {
            frames.push(framed(&message));
            0
        }
        Err((code, text)) => {
            trailers.insert("grpc-message", HeaderValue::from_str(&text).unwrap());
            code
        }
    };
    trailers.insert("grpc-status", HeaderValue::from(code));
    frames.push(Ok(Frame::trailers(trailers)));
    Ok(response.body(StreamBody::new(futures_util::stream::iter(frames).boxed())).unwrap())
}

/// How plugins introduce themselves.
pub(crate) mod registration {
    #[derive(Clone, PartialEq, prost::Message)]
    pub(crate) struct PluginInfo {
        #[prost(string, tag = "1")]
        pub(crate) kind: String,
        #[prost(string, tag = "2")]
        pub(crate) name: String,
        #[prost(string, tag = "3")]
        pub(crate) endpoint: String,
        #[prost(string, repeated, tag = "4")]
        pub(crate) versions: Vec<String>,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    pub(crate) struct Status {
        #[prost(bool, tag = "1")]
        pub(crate) registered: bool,
        #[prost(string, tag = "2")]
        pub(crate) error: String,
    }
}
