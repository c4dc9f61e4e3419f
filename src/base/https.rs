//! HTTP clients whose connections are kept alive: over TLS, HTTP/2 where the server has it, or in the clear.

use crate::lines::{Ends, Line, Lines};
use crate::tunnel::Far;
use crate::{Body, BodyError};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::pki_types::ServerName;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

/// How long a connection may take to be made.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// How long a connection is kept that nobody uses.
const IDLE_LIMIT: Duration = Duration::from_secs(90);

/// How often a server that says nothing on HTTP/2 is asked whether it is there, and how long it may take.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_LIMIT: Duration = Duration::from_secs(15);

/// How many names are looked up at once: what nobody answers holds a thread for as long as the resolver waits,
/// also when nobody waits for it any longer.
const LOOKUPS: usize = 32;
/// How many connections to one server are kept that nobody uses (what Kubernetes keeps).
const IDLE_CONNECTIONS: usize = 25;

/// A client with its connections. Cheap to clone.
pub type Pool = Client<Connector, Body>;

/// Says to which host and port the next connection is made, where the URL's host is but a name.
pub type Resolve = dyn Fn() -> Result<(String, u16), String> + Send + Sync;

/// Gives the tunnel through which a host's port is reached, if it is by one.
pub type Through = dyn Fn(&str, u16) -> Option<Far> + Send + Sync;

/// Makes a connection to one of several servers that are as good as each other.
pub trait Dial: Send + Sync {
    /// The next connection.
    fn dial(&self) -> BoxFuture<'static, Result<Stream, BodyError>>;
}

/// How connections are made.
#[derive(Clone, Default)]
pub struct Connector {
    /// Verifies the server and, with a client certificate, identifies the client. `None` for `http://`.
    pub tls: Option<Arc<rustls::ClientConfig>>,
    /// The name the server's certificate must carry, where it is not the URL's host.
    pub server_name: Option<String>,
    /// Where the server is, where it is not at the URL's host and port.
    pub resolve: Option<Arc<Resolve>>,
    /// By which tunnel a host is reached.
    pub through: Option<Arc<Through>>,
    /// Makes connections instead, whatever the URL's host.
    pub dial: Option<Arc<dyn Dial>>,
    /// Where connections are found that are open.
    pub lines: Option<Lines>,
}

impl Connector {
    /// A client that connects so, when it is first used.
    pub fn pool(self) -> Pool {
        self.pinging(PING_INTERVAL, PING_LIMIT)
    }

    /// The same, where a server that says nothing is asked so often whether it is there, and has so long to answer.
    pub fn pinging(self, interval: Duration, limit: Duration) -> Pool {
        Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_LIMIT)
            .pool_max_idle_per_host(IDLE_CONNECTIONS)
            .http2_keep_alive_interval(interval)
            .http2_keep_alive_timeout(limit)
            .build(self)
    }

    /// Makes one connection that is of no pool.
    pub async fn dial(&self, host: &str, port: u16) -> Result<Stream, BodyError> {
        self.secured(host, (host, port)).await
    }

    async fn connect(&self, uri: Uri) -> Result<Stream, BodyError> {
        if let Some(dial) = &self.dial {
            return dial.dial().await;
        }
        let named = uri.host().ok_or("the server's URL has no host")?.trim_matches(['[', ']']);
        let default_port = if self.tls.is_some() { 443 } else { 80 };
        let (host, port) = match &self.resolve {
            Some(resolve) => resolve()?,
            None => (named.to_owned(), uri.port_u16().unwrap_or(default_port)),
        };
        self.secured(named, (&host, port)).await
    }

    /// A connection to a host that may show a certificate of another name.
    async fn secured(&self, named: &str, (host, port): (&str, u16)) -> Result<Stream, BodyError> {
        if let Some(far) = self.through.as_ref().and_then(|through| through(host, port)) {
            return self.over(far.connect(&host_port(host, port)).await?, named).await;
        }
        let failed = |error: io::Error| dial_error(&host_port(host, port), &error);
        let connecting = async { TcpStream::connect(&*addresses(host, port).await?).await };
        let connected = tokio::time::timeout(CONNECT_LIMIT, connecting).await;
        let tcp = connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map_err(failed)?;
        tcp.set_nodelay(true)?;
        let ends = Ends { local: tcp.local_addr()?, remote: tcp.peer_addr()? };
        let line = self.lines.as_ref().map(|lines| lines.add(ends));
        let stream = match &self.tls {
            None => Stream { io: Box::pin(TokioIo::new(tcp)), h2: false, line: None },
            Some(tls) => shaken(tls, self.server_name.as_deref().unwrap_or(named), tcp).await?,
        };
        Ok(Stream { line, ..stream })
    }

    /// The same over a connection that was made already, to a host that is named so.
    pub async fn over<T>(&self, wire: T, named: &str) -> Result<Stream, BodyError>
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        match &self.tls {
            Some(tls) => shaken(tls, self.server_name.as_deref().unwrap_or(named), wire).await,
            None => Ok(Stream { io: Box::pin(TokioIo::new(wire)), h2: false, line: None }),
        }
    }
}

/// TLS over a connection.
async fn shaken<T>(tls: &Arc<rustls::ClientConfig>, name: &str, wire: T) -> Result<Stream, BodyError>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let name = ServerName::try_from(name.to_owned())?;
    let shaken = tokio_rustls::TlsConnector::from(tls.clone()).connect(name, wire);
    let shaken = tokio::time::timeout(CONNECT_LIMIT, shaken).await;
    let stream = shaken.map_err(|_| "net/http: TLS handshake timeout")??;
    let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    Ok(Stream { io: Box::pin(TokioIo::new(stream)), h2, line: None })
}

/// The addresses of a host, which may be one itself.
async fn addresses(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    static TURNS: Semaphore = Semaphore::const_new(LOOKUPS);
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(vec![(address, port).into()]);
    }
    let turn = TURNS.acquire().await.map_err(io::Error::other)?;
    let host = host.to_owned();
    let looking = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        (host.as_str(), port).to_socket_addrs().map(Iterator::collect)
    });
    looking.await.map_err(io::Error::other)?
}

/// `HOST:PORT`, as a URL has it.
pub fn host_port(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// Why `HOST:PORT` could not be connected to, as Go says it.
pub fn dial_error(address: &str, error: &io::Error) -> String {
    let why = match error.kind() {
        io::ErrorKind::ConnectionRefused => "connect: connection refused",
        io::ErrorKind::HostUnreachable => "connect: no route to host",
        io::ErrorKind::NetworkUnreachable => "connect: network is unreachable",
        io::ErrorKind::TimedOut => "i/o timeout",
        // Nothing but its text tells what looking a name up failed with.
        _ if error.to_string().starts_with("failed to lookup address") => {
            let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
            return format!("dial tcp: lookup {host}: no such host");
        }
        _ => return format!("dial tcp {address}: {error}"),
    };
    format!("dial tcp {address}: {why}")
}

/// An error with its causes, as hyper's outermost text says little.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

impl tower_service::Service<Uri> for Connector {
    type Response = Stream;
    type Error = BodyError;
    type Future = BoxFuture<'static, Result<Stream, BodyError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let this = self.clone();
        async move { this.connect(uri).await }.boxed()
    }
}

trait Io: Read + Write + Send {}
impl<T: Read + Write + Send> Io for T {}

/// A connection.
pub struct Stream {
    io: Pin<Box<dyn Io>>,
    h2: bool,
    line: Option<Line>,
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        let connected = Connected::new();
        if self.h2 { connected.negotiated_h2() } else { connected }
    }
}

impl Read for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<std::io::Result<()>> {
        if let Some(Poll::Ready(error)) = self.line.as_ref().map(|line| line.poll(cx)) {
            return Poll::Ready(Err(error));
        }
        self.io.as_mut().poll_read(cx, buf)
    }
}

impl Write for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        self.io.as_mut().poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        self.io.as_mut().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        self.io.as_mut().poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn who_waits_on_a_line_that_is_cut_hears_of_it() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (lines, port) = (Lines::default(), listener.local_addr().unwrap().port());
        let connector = Connector { lines: Some(lines.clone()), ..Connector::default() };
        let (made, accepted) = tokio::join!(connector.dial("127.0.0.1", port), listener.accept());
        let (mut made, mut accepted) = (TokioIo::new(made.unwrap()), accepted.unwrap().0);
        accepted.write_all(b"a").await.unwrap();
        assert_eq!((made.read_u8().await.unwrap(), lines.cut_stale()), (b'a', 0));
        let cut = async {
            tokio::task::yield_now().await;
            lines.cut(|ends| ends.remote.port() == port)
        };
        let (read, cut) = tokio::join!(made.read_u8(), cut);
        assert_eq!((read.unwrap_err().kind(), cut), (io::ErrorKind::ConnectionAborted, 1));
        drop(made);
        assert_eq!(lines.cut(|_| true), 0);
    }
}
