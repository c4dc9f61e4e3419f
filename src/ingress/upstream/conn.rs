//! Connections to endpoints: made, used for one exchange, and kept.
//!
//! A connection of HTTP/1.1 is driven by the task of the request that uses it, not by one of its own: an exchange
//! wakes nobody else, and an idle connection costs nothing but its memory.

use super::body::{Answer, Patience, Progress, Sent};
use super::wire::{Unanswered, Wire};
use super::{Begun, Endpoint, Lease, Stream};
use crate::rules::Protocol;
use base::{Phase, Supervisor, clock};
use futures_util::FutureExt;
use http::{Request, Response};
use hyper::body::{Body as _, Incoming};
use hyper::client::conn::{http1, http2};
use hyper::upgrade::Upgraded;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::pki_types::ServerName;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::net::TcpStream;

/// The largest head of an answer.
const HEAD_BYTES: usize = 256 << 10;
/// How often a silent HTTP/2 connection is asked whether its other end is there, and how long that may take.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_LIMIT: Duration = Duration::from_secs(10);
/// HTTP/2 flow control, large enough that one stream fills a fast link.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;

/// How an exchange is done.
#[derive(Clone, Copy)]
pub(crate) struct Terms<'a> {
    /// How long a connection may take to be made.
    pub(crate) connect: Duration,
    /// How long an answer may be waited for, and may be silent.
    pub(crate) silence: Duration,
    /// Of the request's body: while that moves nobody waits.
    pub(crate) progress: Option<&'a Progress>,
    pub(crate) supervisor: &'a Supervisor,
}

/// Why there is no answer.
pub(crate) enum Failed {
    /// Nothing was sent: the request is given back, to be sent elsewhere.
    Unsent(Box<Request<Sent>>, String),
    /// It was sent, or some of it.
    Broken(hyper::Error),
    /// The answer did not begin in time.
    Late,
}

impl std::fmt::Display for Failed {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unsent(_, why) => out.write_str(why),
            Self::Broken(error) => error.fmt(out),
            Self::Late => out.write_str("no answer in time"),
        }
    }
}

/// A connection of HTTP/1.1.
pub(super) struct Conn {
    sender: http1::SendRequest<Sent>,
    connection: http1::Connection<TokioIo<Stream>, Sent>,
    /// The connection came to its end and must not be driven any further.
    ended: bool,
    pub(super) patience: Patience,
}

impl Conn {
    /// Moves bytes.
    pub(super) fn drive(&mut self, cx: &mut Context<'_>) {
        if !self.ended
            && let Poll::Ready(result) = self.connection.poll_unpin(cx)
        {
            self.ended = true;
            if let Err(error) = result {
                tracing::trace!(%error, "a connection to an endpoint ended");
            }
        }
    }

    /// Whether it can take a request.
    fn is_open(&mut self, cx: &mut Context<'_>) -> bool {
        // An answer that came as a whole has left it so already.
        if !self.ended && !self.sender.is_ready() {
            self.drive(cx);
        }
        !self.ended && self.sender.is_ready()
    }
}

/// Puts a connection aside whose answer was read to its end.
pub(super) fn keep(mut conn: Box<Conn>, endpoint: &Endpoint, cx: &mut Context<'_>) {
    conn.patience.stop();
    if conn.is_open(cx) {
        endpoint.conns.put(conn);
    }
}

/// Sends a request to an endpoint and waits for the head of its answer.
pub(crate) async fn exchange(
    endpoint: Arc<Endpoint>,
    mut request: Request<Sent>,
    terms: Terms<'_>,
) -> Result<Response<Answer>, Failed> {
    let lease = Lease::new(endpoint);
    if lease.0.protocol == Protocol::H2c {
        return Box::pin(exchange_shared(lease, request, terms)).await;
    }
    // Those that the other end has closed meanwhile give the request back.
    while let Some(mut conn) = lease.0.conns.take() {
        match send(&mut conn, request, terms).await {
            Ok(response) => return Ok(received(response, conn, lease, terms.silence)),
            Err(Failed::Unsent(unsent, _)) => request = *unsent,
            Err(failed) => return Err(failed),
        }
    }
    match Box::pin(connect(&lease.0, terms.connect)).await {
        Ok(mut conn) => {
            let response = send(&mut conn, request, terms).await?;
            Ok(received(response, conn, lease, terms.silence))
        }
        Err(error) => {
            lease.0.shun();
            Err(Failed::Unsent(Box::new(request), error.to_string()))
        }
    }
}

/// An answer with its connection, which is kept at once if all of it has come.
fn received(
    response: Response<Incoming>,
    conn: Box<Conn>,
    lease: Lease,
    silence: Duration,
) -> Response<Answer> {
    let mut cx = Context::from_waker(Waker::noop());
    let (head, mut body) = response.into_parts();
    let mut first = None;
    if !body.is_end_stream()
        && let Poll::Ready(piece) = Pin::new(&mut body).poll_frame(&mut cx)
    {
        first = piece;
    }
    let whole = match first {
        None if body.is_end_stream() => Answer::empty(),
        Some(Ok(frame)) if body.is_end_stream() && frame.is_data() => {
            frame.into_data().map_or_else(|_| Answer::empty(), Answer::whole)
        }
        first => {
            return Response::from_parts(head, Answer::driven((first, body), conn, lease, silence));
        }
    };
    keep(conn, &lease.0, &mut cx);
    Response::from_parts(head, whole)
}

/// Sends a request that is a head alone, as bytes, and waits for the head of its answer.
pub(crate) async fn ask(
    endpoint: Arc<Endpoint>,
    (request, is_head): (&[u8], bool),
    terms: Terms<'_>,
) -> Result<Response<Answer>, Unanswered> {
    let lease = Lease::new(endpoint);
    while let Some(mut wire) = lease.0.wires.take() {
        match wire.ask(request, is_head, terms.silence).await {
            Err(Unanswered::Gone) => {}
            Err(why) => return Err(why),
            Ok(head) => return Ok(Answer::read(head, wire, lease, terms.silence)),
        }
    }
    let stream = Box::pin(dial(&lease.0, terms.connect)).await.map_err(|error| {
        lease.0.shun();
        Unanswered::Broken(error)
    })?;
    let mut wire = Box::new(Wire::new(stream));
    let head = wire.ask(request, is_head, terms.silence).await?;
    Ok(Answer::read(head, wire, lease, terms.silence))
}

async fn send(
    conn: &mut Conn,
    request: Request<Sent>,
    terms: Terms<'_>,
) -> Result<Response<Incoming>, Failed> {
    let mut pieces = terms.progress.map(Progress::pieces);
    let mut sending = pin!(conn.sender.try_send_request(request));
    poll_fn(|cx| {
        // The request lies ready: driving first spares a turn.
        if !conn.ended && conn.connection.poll_unpin(cx).is_ready() {
            conn.ended = true;
        }
        if let Poll::Ready(sent) = sending.as_mut().poll(cx) {
            conn.patience.stop();
            return Poll::Ready(sent.map_err(|mut error| match error.take_message() {
                Some(request) => Failed::Unsent(Box::new(request), error.into_error().to_string()),
                None => Failed::Broken(error.into_error()),
            }));
        }
        while conn.patience.ends(terms.silence, cx) {
            conn.patience.stop();
            let before = std::mem::replace(&mut pieces, terms.progress.map(Progress::pieces));
            if before == pieces {
                return Poll::Ready(Err(Failed::Late));
            }
        }
        Poll::Pending
    })
    .await
}

async fn connect(endpoint: &Endpoint, limit: Duration) -> io::Result<Box<Conn>> {
    let stream = dial(endpoint, limit).await?;
    let mut builder = http1::Builder::new();
    builder.max_buf_size(HEAD_BYTES);
    let made = builder.handshake(TokioIo::new(stream)).await;
    let (sender, connection) = made.map_err(io::Error::other)?;
    let patience = Patience::default();
    Ok(Box::new(Conn { sender, connection, ended: false, patience }))
}

/// A new connection to an endpoint, secured where it speaks TLS.
pub(crate) async fn dial(endpoint: &Endpoint, limit: Duration) -> io::Result<Stream> {
    let dialing = async {
        let tcp = TcpStream::connect(endpoint.address).await?;
        tcp.set_nodelay(true)?;
        if endpoint.protocol != Protocol::Https {
            return Ok(Stream::Plain(tcp));
        }
        // Whom pods show is of their own making: they are reached by their addresses, which the API vouches for.
        let connector = tokio_rustls::TlsConnector::from(base::tls::unverified());
        let name = ServerName::IpAddress(endpoint.address.ip().into());
        let shaken = connector.connect(name, Begun::new(Vec::new(), tcp)).await?;
        Ok(Stream::Tls(Box::new(shaken.into())))
    };
    let timed = tokio::time::timeout(limit, dialing).await;
    timed.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

async fn exchange_shared(
    lease: Lease,
    request: Request<Sent>,
    terms: Terms<'_>,
) -> Result<Response<Answer>, Failed> {
    let mut sender = match shared(&lease.0, terms.connect, terms.supervisor).await {
        Ok(sender) => sender,
        Err(error) => {
            lease.0.shun();
            return Err(Failed::Unsent(Box::new(request), error.to_string()));
        }
    };
    let late = async {
        match terms.progress {
            None => clock::sleep(terms.silence).await,
            Some(progress) => progress.stalls(terms.silence).await,
        }
    };
    let sent = tokio::select! {
        sent = sender.try_send_request(request) => sent,
        () = late => return Err(Failed::Late),
    };
    let response = sent.map_err(|mut error| match error.take_message() {
        Some(request) => Failed::Unsent(Box::new(request), error.into_error().to_string()),
        None => Failed::Broken(error.into_error()),
    })?;
    Ok(response.map(|body| Answer::of_endpoint(body, lease, terms.silence)))
}

/// The connection that requests share.
async fn shared(
    endpoint: &Endpoint,
    limit: Duration,
    supervisor: &Supervisor,
) -> io::Result<http2::SendRequest<Sent>> {
    let mut shared = endpoint.shared.lock().await;
    if let Some(sender) = shared.as_ref().filter(|sender| !sender.is_closed()) {
        return Ok(sender.clone());
    }
    let stream = dial(endpoint, limit).await?;
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_LIMIT)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
    let made = builder.handshake(TokioIo::new(stream)).await;
    let (sender, connection) = made.map_err(io::Error::other)?;
    supervisor.detached("connection to an endpoint", Phase::Work, async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection to an endpoint ended");
        }
    });
    *shared = Some(sender.clone());
    Ok(sender)
}

/// Sends a request that asks for another protocol, on a connection of its own. With the answer comes what is to
/// be had of the connection, if the endpoint agrees.
pub(crate) async fn upgrade(
    endpoint: Arc<Endpoint>,
    request: Request<Sent>,
    terms: Terms<'_>,
) -> Result<(Response<Answer>, Option<(Upgraded, Lease)>), Failed> {
    let lease = Lease::new(endpoint);
    let stream = match dial(&lease.0, terms.connect).await {
        Ok(stream) => stream,
        Err(error) => {
            lease.0.shun();
            return Err(Failed::Unsent(Box::new(request), error.to_string()));
        }
    };
    let broken = Failed::Broken;
    let mut builder = http1::Builder::new();
    let made = builder.max_buf_size(HEAD_BYTES).handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = made.map_err(broken)?;
    terms.supervisor.detached("connection to an endpoint", Phase::Work, async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "a connection to an endpoint ended");
        }
    });
    let mut response = sender.send_request(request).await.map_err(broken)?;
    if response.status() != http::StatusCode::SWITCHING_PROTOCOLS {
        return Ok((response.map(|body| Answer::of_endpoint(body, lease, terms.silence)), None));
    }
    let upgraded = hyper::upgrade::on(&mut response).await.map_err(broken)?;
    Ok((response.map(|_| Answer::empty()), Some((upgraded, lease))))
}
