//! Accepts connections and serves HTTP/1.1 and HTTP/2 on them.

use crate::Server;
use crate::auth::Identity;
use crate::http::coalesce::Coalesced;
use base::{Body, BodyError, Phase, Restart, Shutdown, Supervisor, clock};
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use std::convert::Infallible;
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
const CONNECTIONS: usize = 10_000;
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
    let connections = Arc::new(Semaphore::new(CONNECTIONS));
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
            () = shutdown.requested() => return Ok(()),
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
        let (server, acceptor) = (server.clone(), acceptor.clone());
        supervisor.detached("API connection", Phase::Front, async move {
            if let Err(error) = connection(server, stream, acceptor).await {
                tracing::debug!(%error, "connection ended");
            }
            drop(permit);
        });
    }
}

async fn connection(server: Server, stream: TcpStream, acceptor: TlsAcceptor) -> Result<(), BodyError> {
    stream.set_nodelay(true)?;
    let stream = tokio::time::timeout(HANDSHAKE_LIMIT, acceptor.accept(stream)).await??;
    let certificates = stream
        .get_ref()
        .1
        .peer_certificates()
        .map(|chain| chain.iter().cloned().map(rustls::pki_types::CertificateDer::into_owned).collect());
    let identity = Identity::Certificates(Arc::new(certificates.unwrap_or_default()));
    let service = service_fn(move |request: Request<Incoming>| {
        let (server, identity) = (server.clone(), identity.clone());
        async move {
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
    builder.serve_connection_with_upgrades(TokioIo::new(Coalesced::new(stream)), service).await
}
