//! The transport of agents and of kubectl: HTTPS with verified certificates, over HTTP/2 where the
//! server has it, or HTTP/1.1 for connections that are to be upgraded.

use crate::request::{Error, Transport};
use base::{Body, BodyError};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::{Request, Response, Uri, header, uri};
use http_body_util::BodyExt;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::TcpStream;

/// How long a connection may take to be made.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// How long an answer may take to begin: longer than a server takes over a request. The HTTP library is known
/// to forget requests while an HTTP/2 connection is shut down (seanmonstar/reqwest#1323), and nobody may wait
/// for ever.
const ANSWER_LIMIT: Duration = Duration::from_secs(75);

/// How the server is reached and how the client proves who it is.
#[derive(Clone)]
pub struct Target {
    /// Such as `https://127.0.0.1:6443`.
    pub server: Uri,
    /// Verifies the server and, with a client certificate, identifies the client. `None` for `http://`.
    pub tls: Option<Arc<rustls::ClientConfig>>,
    /// The name the server's certificate must carry, where it is not the URL's host.
    pub server_name: Option<String>,
    /// A bearer token.
    pub token: Option<String>,
}

type Legacy = hyper_util::client::legacy::Client<Connector, Body>;

/// HTTPS to one server, connections kept alive.
#[derive(Clone)]
pub struct Https {
    target: Arc<Target>,
    client: Legacy,
}

impl Https {
    /// A transport to this server; connects when first used.
    pub fn new(target: Target) -> Self {
        let connector = Connector { tls: target.tls.clone(), server_name: target.server_name.clone() };
        let client = hyper_util::client::legacy::Builder::new(TokioExecutor::new())
            .pool_idle_timeout(Duration::from_secs(90))
            .build(connector);
        Self { target: Arc::new(target), client }
    }

    fn prepare(&self, mut request: Request<Body>) -> Result<Request<Body>, Error> {
        let unusable = |error: &dyn std::fmt::Display| Error::Transport(error.to_string());
        let path = request.uri().path_and_query().map_or("/", uri::PathAndQuery::as_str);
        let base = self.target.server.to_string();
        let uri: Uri = format!("{}{path}", base.trim_end_matches('/'))
            .parse()
            .map_err(|e: uri::InvalidUri| unusable(&e))?;
        *request.uri_mut() = uri;
        if let Some(token) = &self.target.token {
            let value = header::HeaderValue::try_from(format!("Bearer {token}"));
            let mut value = value
                .map_err(|_| Error::Transport("the token has characters no header may have".to_owned()))?;
            value.set_sensitive(true);
            request.headers_mut().insert(header::AUTHORIZATION, value);
        }
        Ok(request)
    }
}

impl Transport for Https {
    fn call(&self, request: Request<Body>) -> BoxFuture<'static, Result<Response<Body>, Error>> {
        let client = self.client.clone();
        let prepared = self.prepare(request);
        async move {
            let answer = tokio::time::timeout(ANSWER_LIMIT, client.request(prepared?)).await;
            let answer =
                answer.map_err(|_| Error::Transport(format!("no answer within {ANSWER_LIMIT:?}")))?;
            let answer = answer.map_err(|error| Error::Transport(chain(&error)))?;
            Ok(answer.map(|body| body.map_err(|error| -> BodyError { Box::new(error) }).boxed_unsync()))
        }
        .boxed()
    }
}

/// An error with its causes, as hyper's outermost text says little.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

#[derive(Clone)]
struct Connector {
    tls: Option<Arc<rustls::ClientConfig>>,
    server_name: Option<String>,
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
        async move {
            match tokio::time::timeout(CONNECT_LIMIT, this.connect(uri)).await {
                Ok(connected) => connected,
                Err(_) => Err("no connection within 10 s".into()),
            }
        }
        .boxed()
    }
}

impl Connector {
    async fn connect(&self, uri: Uri) -> Result<Stream, BodyError> {
        let host = uri.host().ok_or("the server's URL has no host")?.trim_matches(['[', ']']);
        let default_port = if self.tls.is_some() { 443 } else { 80 };
        let tcp = TcpStream::connect((host, uri.port_u16().unwrap_or(default_port))).await?;
        tcp.set_nodelay(true)?;
        let Some(tls) = &self.tls else {
            return Ok(Stream { io: Box::pin(TokioIo::new(tcp)), h2: false });
        };
        let name = ServerName::try_from(self.server_name.as_deref().unwrap_or(host).to_owned())?;
        let stream = tokio_rustls::TlsConnector::from(tls.clone()).connect(name, tcp).await?;
        let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        Ok(Stream { io: Box::pin(TokioIo::new(stream)), h2 })
    }
}

trait Io: Read + Write + Send {}
impl<T: Read + Write + Send> Io for T {}

struct Stream {
    io: Pin<Box<dyn Io>>,
    h2: bool,
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

    #[tokio::test]
    async fn an_answer_that_never_begins_is_not_waited_for() {
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = format!("http://{}", silent.local_addr().unwrap()).parse().unwrap();
        let https = Https::new(Target { server, tls: None, server_name: None, token: None });
        let accepts = async {
            let connection = silent.accept().await.unwrap();
            // What is left to wait for passes at once.
            tokio::time::pause();
            connection
        };
        let request = Request::get("/version").body(base::full_body("")).unwrap();
        let (_connection, answer) = tokio::join!(accepts, https.call(request));
        let error = answer.err().unwrap().to_string();
        assert!(error.contains("no answer within 75s"), "{error}");
    }
}
