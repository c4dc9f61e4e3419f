//! The serving side of gRPC: a message in, messages out, in its frames.

use crate::{Error, files};
use base::{Phase, Shutdown, Supervisor};
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::{Stream, StreamExt, stream};
use http::{HeaderMap, HeaderValue, Request, Response, header};
use http_body::Frame;
use http_body_util::{BodyExt, Limited, StreamBody};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use std::convert::Infallible;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use tokio::net::UnixListener;
use tonic::Status;
use tonic::body::Body;

/// The largest message that is read: all that is asked here is small.
const ASKED_BYTES: usize = 1 << 20;

/// Makes a socket anew and answers there, verb by verb, until asked to stop.
pub(crate) async fn serve(
    (supervisor, name): (&Supervisor, &'static str),
    socket: &Path,
    verbs: impl Fn(&str, &[u8]) -> Result<Response<Body>, Status> + Clone + Send + Sync + 'static,
    shutdown: Shutdown,
) -> Result<(), Error> {
    files::remove(socket)?;
    let listener = UnixListener::bind(socket).map_err(files::at(socket))?;
    std::fs::set_permissions(socket, Permissions::from_mode(0o600)).map_err(files::at(socket))?;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.requested() => return Ok(()),
        };
        let (stream, _) = accepted.map_err(files::at(socket))?;
        let verbs = verbs.clone();
        let service = service_fn(move |request| {
            let verbs = verbs.clone();
            async move { Ok::<_, Infallible>(answer(request, verbs).await) }
        });
        supervisor.detached(name, Phase::Work, async move {
            let server = http2::Builder::new(TokioExecutor::new());
            if let Err(error) = server.serve_connection(TokioIo::new(stream), service).await {
                tracing::debug!(%error, "a connection to a socket of the kubelet");
            }
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    verbs: impl Fn(&str, &[u8]) -> Result<Response<Body>, Status>,
) -> Response<Body> {
    let verb = request.uri().path().to_owned();
    let answered = match Limited::new(request.into_body(), ASKED_BYTES).collect().await {
        Ok(body) => verbs(&verb, &body.to_bytes()),
        Err(error) => Err(Status::invalid_argument(error.to_string())),
    };
    answered.unwrap_or_else(Status::into_http)
}

/// Before every message: whether it is compressed, and its length.
const HEAD: usize = 5;

/// Answers the one message of a request.
pub(crate) fn reply<Q: Message + Default, A: Message>(
    body: &[u8],
    verb: impl FnOnce(Q) -> Result<A, Status>,
) -> Result<Response<Body>, Status> {
    let asked = Q::decode(body.get(HEAD..).unwrap_or_default());
    let asked = asked.map_err(|error| Status::invalid_argument(error.to_string()))?;
    Ok(response(stream::iter([framed(&verb(asked)?)])))
}

/// A message in its frame.
pub(crate) fn framed(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut frame = BytesMut::with_capacity(HEAD + length);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    // A message fits what was made for its length.
    if let Err(error) = message.encode(&mut frame) {
        tracing::error!(%error, "an answer was not encoded");
    }
    frame.freeze()
}

/// Messages, and that all went well.
pub(crate) fn response(messages: impl Stream<Item = Bytes> + Send + 'static) -> Response<Body> {
    let well = HeaderMap::from_iter([(Status::GRPC_STATUS, HeaderValue::from_static("0"))]);
    let frames = messages.map(Frame::data).chain(stream::iter([Frame::trailers(well)]));
    let mut response = Response::new(Body::new(StreamBody::new(frames.map(Ok::<_, Infallible>))));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}
