//! One connection of a client: TLS, and what is spoken within.

use crate::certificates::Tls;
use crate::forward::Connection;
use crate::plain::{Line, Next};
use crate::table::Spoken;
use crate::upstream::{Begun, Stream};
use crate::{trust, whole};
use base::{BodyError, Seldom};
use bytes::BytesMut;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::{HeaderValue, Request};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::server::Acceptor;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Context;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::server::TlsStream;

/// How long a client may take over the TLS handshake.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// How long a client may take to send a head, and may be silent between two requests.
const HEAD_LIMIT: Duration = Duration::from_secs(60);
/// The largest head of a request of HTTP/2.
const HEAD_BYTES: u32 = 64 << 10;
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
/// The largest first message of TLS; with keys that withstand quantum computers they have 2 KiB.
const HELLO_BYTES: usize = 16 << 10;
const HELLO_PIECE: usize = 2 << 10;
/// Alerts of TLS (RFC 8446, 6): a name that nobody has, and an endpoint that cannot be reached.
const UNRECOGNIZED_NAME: u8 = 112;
const INTERNAL_ERROR: u8 = 80;

/// Serves a connection until it is over. What happens at its beginning alone is boxed: there is room for the rest as
/// long as it lasts.
pub(crate) async fn converse(
    connection: Box<Connection>,
    stream: (TcpStream, Option<Arc<Tls>>),
    closed: watch::Receiver<bool>,
) -> Result<(), BodyError> {
    let mut plain = begin(connection, stream, closed).boxed().await?;
    while let Some(mut one) = plain {
        if let Next::End = one.line.serve(&one.connection, &mut one.closing, HEAD_LIMIT).await? {
            return Ok(());
        }
        plain = one.hand_over().boxed().await?;
    }
    Ok(())
}

/// A connection on which HTTP/1 is spoken.
struct Plain {
    connection: Arc<Connection>,
    line: Line,
    closing: Closing,
}

impl Plain {
    /// Has requests served that are not plain; gives nothing when it is over.
    async fn hand_over(self: Box<Self>) -> Result<Option<Box<Self>>, BodyError> {
        let Self { connection, line, mut closing } = *self;
        let served = whole::serve(connection.clone(), line.into_begun(), &mut closing, HEAD_LIMIT).await?;
        Ok(served.map(|(came, stream)| Box::new(Self { connection, line: Line::new(came, stream), closing })))
    }
}

async fn begin(
    mut connection: Box<Connection>,
    (mut stream, tls): (TcpStream, Option<Arc<Tls>>),
    closed: watch::Receiver<bool>,
) -> Result<Option<Box<Plain>>, BodyError> {
    stream.set_nodelay(true)?;
    if connection.from.is_trusted && connection.proxy.trust.proxy_protocol {
        let told = tokio::time::timeout(HANDSHAKE_LIMIT, trust::proxied(&mut stream)).await??;
        if let Some(client) = told.map(|client| client.to_canonical()) {
            connection.peer = client;
            connection.from.address = HeaderValue::try_from(client.to_string())?;
            connection.from.is_trusted = connection.proxy.trust.contains(client);
        }
    }
    match tls {
        Some(tls) => secure(connection, (stream, &tls), closed).boxed().await,
        None => {
            let is_http2 = tokio::time::timeout(HEAD_LIMIT, begins_http2(&stream)).await??;
            http(connection, (Stream::Plain(stream), is_http2), closed).await
        }
    }
}

/// Serves HTTP/2, and gives back what is HTTP/1.
async fn http(
    connection: Box<Connection>,
    (stream, is_http2): (Stream, bool),
    closed: watch::Receiver<bool>,
) -> Result<Option<Box<Plain>>, BodyError> {
    let connection = Arc::from(connection);
    if is_http2 {
        http2(connection, stream, closed).boxed().await?;
        return Ok(None);
    }
    let line = Line::new(BytesMut::new(), stream);
    Ok(Some(Box::new(Plain { connection, line, closing: Closing::new(closed) })))
}

/// A connection over TLS, by the name that its client asks for.
async fn secure(
    mut connection: Box<Connection>,
    (mut stream, tls): (TcpStream, &Tls),
    closed: watch::Receiver<bool>,
) -> Result<Option<Box<Plain>>, BodyError> {
    let (mut first, mut spoken) = (Vec::new(), Spoken::Http);
    if connection.proxy.table.load().speaks_more(connection.port) {
        let name = tokio::time::timeout(HANDSHAKE_LIMIT, hello(&mut stream, &mut first)).await??;
        spoken = connection.proxy.table.load().spoken(connection.port, name.as_deref());
        connection.name = name;
    }
    match spoken {
        Spoken::Http => {
            let shaken = shake(&tls.http, Begun::new(first, stream)).await?;
            let session = shaken.get_ref().1;
            let is_http2 = session.alpn_protocol() == Some(b"h2");
            connection.name = session.server_name().map(str::to_owned);
            http(connection, (Stream::Tls(Box::new(shaken.into())), is_http2), closed).await
        }
        Spoken::Ended(live) => {
            let shaken = shake(&tls.any, Begun::new(first, stream)).await?;
            let reached = connection.reach(&live).await?;
            connection.join(&live, (shaken, &[]), reached).await?;
            Ok(None)
        }
        Spoken::Passed(live) => match connection.reach(&live).await {
            Ok(reached) => {
                connection.join(&live, (stream, &first), reached).await?;
                Ok(None)
            }
            Err(error) => refuse(stream, INTERNAL_ERROR, error).await,
        },
        Spoken::Nothing => refuse(stream, UNRECOGNIZED_NAME, io::Error::other("nobody has this name")).await,
    }
}

async fn shake(tls: &tokio_rustls::TlsAcceptor, stream: Begun) -> io::Result<TlsStream<Begun>> {
    Box::pin(tokio::time::timeout(HANDSHAKE_LIMIT, tls.accept(stream))).await?
}

/// Reads a client's first message; gives the name that it asks for.
async fn hello(stream: &mut TcpStream, first: &mut Vec<u8>) -> io::Result<Option<String>> {
    let mut acceptor = Acceptor::default();
    let mut piece = [0; HELLO_PIECE];
    while first.len() < HELLO_BYTES {
        let length = stream.read(&mut piece).await?;
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        first.extend_from_slice(&piece[..length]);
        let mut left = &piece[..length];
        while !left.is_empty() {
            acceptor.read_tls(&mut left)?;
            match acceptor.accept() {
                Ok(Some(accepted)) => return Ok(accepted.client_hello().server_name().map(str::to_owned)),
                Ok(None) => {}
                Err((error, mut alert)) => {
                    let mut bytes = Vec::new();
                    alert.write_all(&mut bytes)?;
                    stream.write_all(&bytes).await?;
                    return Err(io::Error::other(error));
                }
            }
        }
    }
    Err(io::Error::other("the first message of TLS is too large"))
}

/// Ends a connection that cannot be passed on with the reason that TLS has for it.
async fn refuse(mut stream: TcpStream, alert: u8, why: io::Error) -> Result<Option<Box<Plain>>, BodyError> {
    // A record of alerts, of TLS 1.2 as they all say, with one that is fatal.
    stream.write_all(&[21, 3, 3, 0, 2, 2, alert]).await?;
    stream.shutdown().await?;
    Err(why.into())
}

/// Whether a client begins as those of HTTP/2 do that need not be told that it is spoken (RFC 9113, 3.4).
async fn begins_http2(stream: &TcpStream) -> io::Result<bool> {
    let mut start = [0; HTTP2_START.len()];
    let length = stream.peek(&mut start).await?;
    Ok(start[..length] == *HTTP2_START)
}

/// Whether a connection's port is closed: there is to be no further request then.
pub(crate) struct Closing {
    closed: Seldom<BoxFuture<'static, ()>>,
    is_closed: bool,
}

impl Closing {
    fn new(closed: watch::Receiver<bool>) -> Self {
        Self { closed: Seldom::new(is_closed(closed).boxed()), is_closed: false }
    }

    /// Gives it, and wakes the task when it changes.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> bool {
        self.is_closed = self.is_closed || Pin::new(&mut self.closed).poll(cx).is_ready();
        self.is_closed
    }
}

async fn http2(
    connection: Arc<Connection>,
    stream: Stream,
    closed: watch::Receiver<bool>,
) -> hyper::Result<()> {
    let service = service_fn(move |request: Request<Incoming>| connection.clone().serve(request.map(Some)));
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_send_buf_size(SEND_BUFFER_BYTES)
        .max_header_list_size(HEAD_BYTES)
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

#[cfg(test)]
#[path = "converse_tests.rs"]
mod tests;
