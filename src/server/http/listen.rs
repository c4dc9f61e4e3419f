//! Accepts connections and serves HTTP/1.1 and HTTP/2 on them.

use crate::Server;
use crate::auth::{Identity, Shown};
use crate::http::answer;
use crate::http::coalesce::Coalesced;
use base::{Body, BodyError, Phase, Restart, Shutdown, Supervisor, clock};
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

/// How long a client may take over the TLS handshake.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// How long a client may take to send a request's head.
const HEADER_LIMIT: Duration = Duration::from_secs(30);
/// Connections at a time; hundreds of agents with a few each stay far below.
const CONNECTIONS: u32 = 10_000;
/// How long running requests have to end when the server stops; less than the drain waits.
const DRAIN_LIMIT: Duration = Duration::from_secs(8);
/// After how many seconds clients may come back to a server that stops.
const RETRY_AFTER_S: u64 = 5;
/// Paths that are answered to the last.
const WATCHED_PATHS: [&str; 4] = ["/readyz", "/livez", "/healthz", "/metrics"];
/// The largest head of a request: what Go's server allows.
const HEADER_BYTES: usize = 1 << 20;
/// Concurrent streams of one HTTP/2 connection: a controller's watches of every kind.
const STREAMS: u32 = 1_000;
/// HTTP/2 flow-control windows, large enough that a LIST is not held up by round trips.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;

/// Serves one listener under the supervisor.
pub(crate) fn serve(
    server: Server,
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    supervisor: &Supervisor,
) {
    let listener = Arc::new(listener);
    let acceptor = TlsAcceptor::from(tls);
    let connections = Arc::new(Semaphore::new(CONNECTIONS as usize));
    let own = supervisor.clone();
    supervisor.run("API listener", Phase::Front, Restart::Fatal, move |shutdown| {
        accept(
            server.clone(),
            listener.clone(),
            acceptor.clone(),
            (connections.clone(), own.clone()),
            shutdown,
        )
    });
}

async fn accept(
    server: Server,
    listener: Arc<TcpListener>,
    acceptor: TlsAcceptor,
    (connections, supervisor): (Arc<Semaphore>, Supervisor),
    shutdown: Shutdown,
) -> Result<(), std::io::Error> {
    loop {
        let permit = connections.clone().acquire_owned().await.map_err(std::io::Error::other)?;
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.requested() => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of file descriptors, most likely: wait for some to be closed.
                tracing::warn!(%error, "cannot accept a connection");
                clock::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (server, acceptor, shutdown) = (server.clone(), acceptor.clone(), shutdown.clone());
        // It ends with the front, but not before its requests do.
        supervisor.detached("API connection", Phase::Work, async move {
            if let Err(error) = connection(server, stream, acceptor, shutdown).await {
                tracing::debug!(%error, "connection ended");
            }
            drop(permit);
        });
    }
    let all = connections.acquire_many(CONNECTIONS);
    if tokio::time::timeout(DRAIN_LIMIT, all).await.is_err() {
        tracing::warn!("requests are cut off that did not end in time");
    }
    Ok(())
}

async fn connection(
    server: Server,
    stream: TcpStream,
    acceptor: TlsAcceptor,
    shutdown: Shutdown,
) -> Result<(), BodyError> {
    stream.set_nodelay(true)?;
    let peer = stream.peer_addr()?.ip().to_canonical();
    let stream = tokio::time::timeout(HANDSHAKE_LIMIT, acceptor.accept(stream)).await??;
    let certificates = stream
        .get_ref()
        .1
        .peer_certificates()
        .map(|chain| chain.iter().cloned().map(rustls::pki_types::CertificateDer::into_owned).collect());
    let shown = Arc::new(Shown::new(certificates.unwrap_or_default()));
    let identity = Identity::Certificates(shown, peer);
    let stopping = shutdown.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let (server, identity) = (server.clone(), identity.clone());
        let late = stopping.is_requested() && !WATCHED_PATHS.contains(&request.uri().path());
        async move {
            if late {
                return Ok(too_late());
            }
            let request =
                request.map(|body| body.map_err(|error| -> BodyError { Box::new(error) }).boxed_unsync());
            Ok::<Response<Body>, Infallible>(server.handle(identity, request).await)
        }
    });
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_LIMIT).max_buf_size(HEADER_BYTES);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .keep_alive_interval(Some(Duration::from_secs(30)));
    let mut serving =
        pin!(builder.serve_connection_with_upgrades(TokioIo::new(Coalesced::new(stream)), service));
    tokio::select! {
        ended = serving.as_mut() => return ended,
        () = shutdown.requested() => serving.as_mut().graceful_shutdown(),
    }
    serving.await
}

/// The answer to requests on open connections once the server stops.
fn too_late() -> Response<Body> {
    let text = "The apiserver is shutting down, please try again later.\n";
    let mut response = answer::text(StatusCode::TOO_MANY_REQUESTS, text);
    let headers = response.headers_mut();
    headers.insert(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER_S));
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}
