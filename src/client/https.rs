//! The transport of agents and of kubectl: HTTPS with verified certificates, over HTTP/2 where the
//! server has it, or HTTP/1.1 for connections that are to be upgraded.

use crate::proxies::{self, Proxy, Wire};
use crate::request::{Error, Transport};
use crate::servers::Servers;
use base::https::{Connector, Pool, chain};
use base::{Body, BodyError};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::{HeaderMap, Request, Response, Uri, header, uri};
use http_body_util::BodyExt;
use std::sync::Arc;
use std::time::Duration;

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
    /// What every request carries besides, such as whom the client acts for.
    pub headers: HeaderMap,
    /// What connections are made through.
    pub proxy: Option<Arc<Proxy>>,
}

impl Target {
    /// A server that is asked as nobody, in the clear and directly.
    pub fn new(server: Uri) -> Self {
        let headers = HeaderMap::new();
        Self { server, tls: None, server_name: None, token: None, headers, proxy: None }
    }

    /// Says in a request who asks.
    pub fn authorize(&self, headers: &mut HeaderMap) -> Result<(), Error> {
        headers.extend(self.headers.clone());
        if let Some(token) = &self.token {
            let value = header::HeaderValue::try_from(format!("Bearer {token}"));
            let mut value = value
                .map_err(|_| Error::Transport("the token has characters no header may have".to_owned()))?;
            value.set_sensitive(true);
            headers.insert(header::AUTHORIZATION, value);
        }
        Ok(())
    }

    /// A connection to the server for one purpose, such as a stream that is to be upgraded: through the proxy, if
    /// there is one, and not yet secured.
    pub async fn wire(&self) -> Result<Box<dyn Wire>, Error> {
        let (host, port) = self.place();
        let connected = match &self.proxy {
            Some(proxy) => proxy.connect(host, port).await,
            None => proxies::tcp(host, port).await,
        };
        connected.map_err(|error| Error::Transport(error.to_string()))
    }

    fn place(&self) -> (&str, u16) {
        let default = if self.server.scheme_str() == Some("http") { 80 } else { 443 };
        let host = self.server.host().unwrap_or_default().trim_matches(['[', ']']);
        (host, self.server.port_u16().unwrap_or(default))
    }
}

/// How often one of several servers that says nothing is asked whether it is there, and how long it may take: there is
/// another one to go to.
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING_LIMIT: Duration = Duration::from_secs(5);

/// HTTPS to one server, or to whichever of several answers; connections are kept alive.
#[derive(Clone)]
pub struct Https {
    target: Arc<Target>,
    client: Pool,
    servers: Option<Servers>,
}

impl Https {
    /// A transport to this server; connects when first used.
    pub fn new(target: Target) -> Self {
        let (tls, server_name) = (target.tls.clone(), target.server_name.clone());
        let mut connector = Connector { tls, server_name, ..Connector::default() };
        if let Some(proxy) = &target.proxy {
            let (host, port) = target.place();
            connector.dial = Some(Arc::new(proxy.to(connector.clone(), host, port)));
        }
        let client = connector.pool();
        Self { target: Arc::new(target), client, servers: None }
    }

    /// A transport to whichever of these servers answers; `target` names none of them.
    pub fn to_any(servers: &Servers, target: Target) -> Self {
        let connector = Connector { dial: Some(Arc::new(servers.clone())), ..Connector::default() };
        let client = connector.pinging(PING_INTERVAL, PING_LIMIT);
        Self { target: Arc::new(target), client, servers: Some(servers.clone()) }
    }

    fn prepare(&self, mut request: Request<Body>) -> Result<Request<Body>, Error> {
        let unusable = |error: &dyn std::fmt::Display| Error::Transport(error.to_string());
        let path = request.uri().path_and_query().map_or("/", uri::PathAndQuery::as_str);
        let base = self.target.server.to_string();
        let uri: Uri = format!("{}{path}", base.trim_end_matches('/'))
            .parse()
            .map_err(|e: uri::InvalidUri| unusable(&e))?;
        *request.uri_mut() = uri;
        self.target.authorize(request.headers_mut())?;
        Ok(request)
    }
}

impl Transport for Https {
    fn call(&self, request: Request<Body>) -> BoxFuture<'static, Result<Response<Body>, Error>> {
        let (client, servers) = (self.client.clone(), self.servers.clone());
        let prepared = self.prepare(request);
        async move {
            let answer = tokio::time::timeout(ANSWER_LIMIT, client.request(prepared?)).await;
            let answer = answer.map_err(|_| {
                servers.iter().for_each(Servers::give_up);
                Error::Transport(format!("no answer within {ANSWER_LIMIT:?}"))
            })?;
            let answer = answer.map_err(|error| Error::Transport(chain(&error)))?;
            Ok(answer.map(|body| body.map_err(|error| -> BodyError { Box::new(error) }).boxed_unsync()))
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_answer_that_never_begins_is_not_waited_for() {
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = format!("http://{}", silent.local_addr().unwrap()).parse().unwrap();
        let https = Https::new(Target::new(server));
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
