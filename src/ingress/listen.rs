//! Ports: opened when somebody wants them, tried again while others have them, drained when they go.

use crate::certificates::{Certificates, server_config};
use crate::forward::{Connection, From, Proxy};
use crate::heads::{HeadTimer, Heads};
use crate::numbers::NUMBERS;
use crate::upstream::Stream;
use arc_swap::ArcSwap;
use base::{BodyError, Phase, Restart, Seldom, Shutdown, Supervisor, clock};
use http::HeaderValue;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use nix::sys::socket::{setsockopt, sockopt};
use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;

/// How long a client may take over the TLS handshake.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// How long a client may take to send a head, and may be silent between two requests.
const HEAD_LIMIT: Duration = Duration::from_secs(60);
/// The largest head of a request, and how many headers it may have.
const HEAD_BYTES: usize = 64 << 10;
const HEADERS: usize = 100;
/// Connections of a port at a time; more wait to be accepted.
const CONNECTIONS: u32 = 8_192;
/// Connections that wait to be accepted.
const BACKLOG: u32 = 4_096;
/// No request of HTTP/1 begins so.
const HTTP2_START: &[u8; 3] = b"PRI";
/// Requests at a time on one connection of HTTP/2.
const STREAMS: u32 = 250;
/// HTTP/2 flow control: what one client may make knarr hold for a slow endpoint.
const STREAM_WINDOW_BYTES: u32 = 256 << 10;
const CONNECTION_WINDOW_BYTES: u32 = 1 << 20;
/// What is held of an answer for a slow client, for each stream.
const SEND_BUFFER_BYTES: usize = 64 << 10;
const PING_INTERVAL: Duration = Duration::from_secs(60);
/// How long running requests have to end when a port is closed; less than the drain waits.
const DRAIN_LIMIT: Duration = Duration::from_secs(8);
/// How long a client may take nothing of an answer that waits for it.
const TAKE_LIMIT_MS: u32 = 60_000;
/// How often a port is tried that another program has.
const TAKEN_PAUSE: Duration = Duration::from_secs(10);

/// What is spoken on a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Http,
    Https,
}

/// The ports that are open or tried.
pub(crate) struct Listeners {
    proxy: Arc<Proxy>,
    certificates: Arc<ArcSwap<Certificates>>,
    supervisor: Supervisor,
    running: HashMap<u16, (Kind, watch::Sender<bool>)>,
    /// How many ports are listened on.
    open: Arc<watch::Sender<usize>>,
}

impl Listeners {
    pub(crate) fn new(
        proxy: Arc<Proxy>,
        certificates: Arc<ArcSwap<Certificates>>,
        supervisor: Supervisor,
        open: watch::Sender<usize>,
    ) -> Self {
        Self { proxy, certificates, supervisor, running: HashMap::new(), open: Arc::new(open) }
    }

    /// Opens and closes ports until these are the ones.
    pub(crate) fn set(&mut self, wanted: &HashMap<u16, Kind>) -> Result<(), rustls::Error> {
        self.running.retain(|port, (kind, stop)| {
            let kept = wanted.get(port) == Some(kind);
            if !kept {
                stop.send_replace(true);
            }
            kept
        });
        for (port, kind) in wanted {
            if !self.running.contains_key(port) {
                let stop = self.open(*port, *kind)?;
                self.running.insert(*port, (*kind, stop));
            }
        }
        Ok(())
    }

    fn open(&self, port: u16, kind: Kind) -> Result<watch::Sender<bool>, rustls::Error> {
        let tls = match kind {
            Kind::Http => None,
            Kind::Https => Some(TlsAcceptor::from(server_config(port, self.certificates.clone())?)),
        };
        let (stop, stopped) = watch::channel(false);
        let front = Front { port, tls, proxy: self.proxy.clone(), stopped, open: self.open.clone() };
        let name = format!("ingress port {port}");
        self.supervisor
            .run(&name, Phase::Front, Restart::OnFailure, move |shutdown| front.clone().run(shutdown));
        Ok(stop)
    }
}

/// One port.
#[derive(Clone)]
struct Front {
    port: u16,
    tls: Option<TlsAcceptor>,
    proxy: Arc<Proxy>,
    stopped: watch::Receiver<bool>,
    open: Arc<watch::Sender<usize>>,
}

impl Front {
    async fn run(self, shutdown: Shutdown) -> Result<(), io::Error> {
        let stop = self.stopped.clone();
        let ended = || async {
            let mut stop = stop.clone();
            tokio::select! {
                // A sender that is gone means the same.
                _ = stop.wait_for(|stop| *stop) => {}
                () = shutdown.requested() => {}
            }
        };
        let listener = tokio::select! {
            listener = self.listener() => listener,
            () = ended() => return Ok(()),
        };
        self.open.send_modify(|open| *open += 1);
        let connections = Arc::new(Semaphore::new(CONNECTIONS as usize));
        let (closing, closed) = watch::channel(false);
        tokio::select! {
            result = self.accept(&listener, &connections, &closed) => result?,
            () = ended() => {}
        }
        self.open.send_modify(|open| *open -= 1);
        drop(listener);
        closing.send_replace(true);
        if tokio::time::timeout(DRAIN_LIMIT, connections.acquire_many(CONNECTIONS)).await.is_err() {
            tracing::warn!(port = self.port, "requests are cut off that did not end in time");
        }
        Ok(())
    }

    /// Waits until the port is free, and says so once.
    async fn listener(&self) -> TcpListener {
        let mut told = false;
        loop {
            match listen(self.port) {
                Ok(listener) => {
                    tracing::info!(port = self.port, tls = self.tls.is_some(), "ingress listens");
                    return listener;
                }
                Err(error) if !told => {
                    told = true;
                    tracing::warn!(
                        port = self.port,
                        %error,
                        "ingress cannot listen, and goes on trying: stop what has the port, or choose others with \
                         --ingress-http-port and --ingress-https-port, or --disable ingress"
                    );
                }
                Err(_) => {}
            }
            clock::sleep(TAKEN_PAUSE).await;
        }
    }

    async fn accept(
        &self,
        listener: &TcpListener,
        connections: &Arc<Semaphore>,
        closed: &watch::Receiver<bool>,
    ) -> io::Result<()> {
        let port = HeaderValue::from(self.port);
        loop {
            let permit = connections.clone().acquire_owned().await.map_err(io::Error::other)?;
            let (stream, peer) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of file descriptors, most likely: wait for some to be closed.
                    tracing::warn!(%error, "cannot accept a connection");
                    clock::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let peer = peer.ip().to_canonical();
            let Ok(address) = HeaderValue::try_from(peer.to_string()) else { continue };
            let from = From { address, secure: self.tls.is_some(), port: port.clone() };
            let connection = Connection { proxy: self.proxy.clone(), peer, port: self.port, from };
            let (tls, closed) = (self.tls.clone(), closed.clone());
            // It ends with the front, but not before its requests do.
            self.proxy.supervisor.detached("ingress connection", Phase::Work, async move {
                let _open = NUMBERS.connection();
                if let Err(error) = converse(connection, (stream, tls), closed).await {
                    tracing::debug!(%peer, %error, "a connection ended");
                }
                drop(permit);
            });
        }
    }
}

async fn converse(
    connection: Connection,
    (stream, tls): (TcpStream, Option<TlsAcceptor>),
    closed: watch::Receiver<bool>,
) -> Result<(), BodyError> {
    stream.set_nodelay(true)?;
    let (stream, is_http2) = match tls {
        Some(tls) => {
            let shaken = Box::pin(tokio::time::timeout(HANDSHAKE_LIMIT, tls.accept(stream))).await??;
            let is_http2 = shaken.get_ref().1.alpn_protocol() == Some(b"h2");
            (Stream::Tls(Box::new(shaken.into())), is_http2)
        }
        None => {
            let is_http2 = Box::pin(tokio::time::timeout(HEAD_LIMIT, begins_http2(&stream))).await??;
            (Stream::Plain(stream), is_http2)
        }
    };
    let connection = Arc::new(connection);
    match is_http2 {
        true => Box::pin(http2(connection, stream, closed)).await?,
        false => Box::pin(http1(connection, stream, closed)).await?,
    }
    Ok(())
}

/// Whether a client begins as those of HTTP/2 do that need not be told that it is spoken (RFC 9113, 3.4).
async fn begins_http2(stream: &TcpStream) -> io::Result<bool> {
    let mut start = [0; HTTP2_START.len()];
    let length = stream.peek(&mut start).await?;
    Ok(start[..length] == *HTTP2_START)
}

async fn http1(
    connection: Arc<Connection>,
    stream: Stream,
    closed: watch::Receiver<bool>,
) -> hyper::Result<()> {
    let heads = Heads::new(HEAD_LIMIT);
    let service = service_fn(move |request| connection.clone().serve(request));
    let mut builder = http1::Builder::new();
    builder
        .timer(HeadTimer(heads.clone()))
        .header_read_timeout(HEAD_LIMIT)
        .max_buf_size(HEAD_BYTES)
        .max_headers(HEADERS);
    let mut serving = pin!(builder.serve_connection(TokioIo::new(stream), service).with_upgrades());
    let mut closing = Seldom::new(is_closed(closed));
    let mut is_closing = false;
    loop {
        let mut overdue = Seldom::new(heads.overdue());
        let ended = poll_fn(|cx| {
            if let Poll::Ready(ended) = serving.as_mut().poll(cx) {
                return Poll::Ready(Some(ended));
            }
            if !is_closing && Pin::new(&mut closing).poll(cx).is_ready() {
                is_closing = true;
                return Poll::Ready(None);
            }
            Pin::new(&mut overdue).poll(cx).map(|()| None)
        });
        match ended.await {
            Some(ended) => return ended,
            None if is_closing => serving.as_mut().graceful_shutdown(),
            // It is polled again, and sees that no head came.
            None => {}
        }
    }
}

async fn http2(
    connection: Arc<Connection>,
    stream: Stream,
    closed: watch::Receiver<bool>,
) -> hyper::Result<()> {
    let service = service_fn(move |request| connection.clone().serve(request));
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_send_buf_size(SEND_BUFFER_BYTES)
        .max_header_list_size(u32::try_from(HEAD_BYTES).unwrap_or(u32::MAX))
        .keep_alive_interval(Some(PING_INTERVAL));
    let mut serving = pin!(builder.serve_connection(TokioIo::new(stream), service));
    tokio::select! {
        ended = serving.as_mut() => return ended,
        () = is_closed(closed) => serving.as_mut().graceful_shutdown(),
    }
    serving.await
}

/// Completes when a port is closed; a sender that is gone means the same.
async fn is_closed(mut closed: watch::Receiver<bool>) {
    if closed.wait_for(|closed| *closed).await.is_err() {
        tracing::trace!("a port is gone");
    }
}

/// A client that takes nothing of what it asked for, or has gone without a word, is given up. Accepted connections
/// have this from the listener.
fn impatient(socket: &TcpSocket) -> io::Result<()> {
    setsockopt(socket, sockopt::TcpUserTimeout, &TAKE_LIMIT_MS)?;
    setsockopt(socket, sockopt::KeepAlive, &true)?;
    Ok(())
}

/// All addresses of the machine, of both families where it has both.
fn listen(port: u16) -> io::Result<TcpListener> {
    let on = |socket: TcpSocket, address: IpAddr| {
        socket.set_reuseaddr(true)?;
        impatient(&socket)?;
        socket.bind(SocketAddr::new(address, port))?;
        socket.listen(BACKLOG)
    };
    let both = TcpSocket::new_v6().and_then(|socket| {
        setsockopt(&socket, sockopt::Ipv6V6Only, &false)?;
        on(socket, Ipv6Addr::UNSPECIFIED.into())
    });
    match both {
        Err(error) if error.kind() != io::ErrorKind::AddrInUse => {
            on(TcpSocket::new_v4()?, Ipv4Addr::UNSPECIFIED.into())
        }
        other => other,
    }
}
