//! Connections that the server upgrades: to a WebSocket, or to SPDY where the server is too old for that.

use crate::error::Error;
use crate::session::{Session, refused};
use base::https::Connector;
use base::{Body, BodyError, Phase, full_body};
use http::{HeaderMap, HeaderName, Method, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use std::sync::Arc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

/// An upgraded connection.
pub(crate) type Wire = TokioIo<Upgraded>;
/// A WebSocket to the server.
pub(crate) type Socket = WebSocketStream<Wire>;

/// The most that is read of a refusal.
const REFUSAL_BYTES: usize = 1 << 20;
/// Names the subprotocols of streams over SPDY.
const PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");

/// Opens a WebSocket that speaks this subprotocol; none if the server has no such thing there, and then why.
pub(super) async fn websocket(session: &Session, path: &str, protocol: &str) -> Result<Socket, Error> {
    let key = generate_key();
    let request = Request::builder()
        .method(Method::GET)
        .header(header::UPGRADE, "websocket")
        .header(header::SEC_WEBSOCKET_VERSION, "13")
        .header(header::SEC_WEBSOCKET_KEY, &key)
        .header(header::SEC_WEBSOCKET_PROTOCOL, protocol);
    let (wire, headers) = upgraded(session, path, request).await?;
    let told = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if told(header::SEC_WEBSOCKET_ACCEPT) != derive_accept_key(key.as_bytes()) {
        return Err(Error::plain("the server's answer is to another WebSocket than was asked for"));
    }
    let spoken = told(header::SEC_WEBSOCKET_PROTOCOL);
    if spoken != protocol {
        return Err(Error::plain(format!(
            "unable to negotiate protocol: client supports {protocol:?}, server returned {spoken:?}"
        )));
    }
    Ok(WebSocketStream::from_raw_socket(wire, Role::Client, None).await)
}

/// Opens a connection that speaks SPDY.
pub(super) async fn spdy(session: &Session, path: &str, protocol: &str) -> Result<Wire, Error> {
    let request = Request::builder()
        .method(Method::POST)
        .header(header::UPGRADE, "SPDY/3.1")
        .header(header::CONTENT_LENGTH, "0")
        .header(PROTOCOL, protocol);
    Ok(upgraded(session, path, request).await?.0)
}

async fn upgraded(
    session: &Session,
    path: &str,
    request: http::request::Builder,
) -> Result<(Wire, HeaderMap), Error> {
    let mut answer = send(session, path, request.header(header::CONNECTION, "Upgrade")).await?;
    let code = answer.status();
    if code != StatusCode::SWITCHING_PROTOCOLS {
        let body = answer.into_body().map_err(|error| -> BodyError { Box::new(error) }).boxed_unsync();
        return Err(refused(code, &whole(body).await?).into());
    }
    let upgrade = hyper::upgrade::on(&mut answer).await;
    let wire = upgrade.map_err(|error| Error::plain(format!("error upgrading connection: {error}")))?;
    Ok((TokioIo::new(wire), answer.headers().clone()))
}

/// What a refusal says.
async fn whole(body: Body) -> Result<bytes::Bytes, Error> {
    let read = base::collect(body, REFUSAL_BYTES).await;
    read.map_err(|error| client::Error::Transport(error.to_string()).into())
}

/// Sends a request on a connection of its own: an upgraded one cannot be shared.
async fn send(
    session: &Session,
    path: &str,
    request: http::request::Builder,
) -> Result<Response<Incoming>, Error> {
    let server = session.target().server;
    let base = server.path().trim_end_matches('/');
    let request = request.uri(format!("{base}{path}")).header(header::USER_AGENT, "kubectl/knarr");
    let request = request.body(full_body("")).map_err(|error| Error::plain(error.to_string()))?;
    alone(session, request).await
}

/// Sends a request, whose URI is a path, as the session's user on a connection of its own.
pub(crate) async fn alone(
    session: &Session,
    mut request: Request<Body>,
) -> Result<Response<Incoming>, Error> {
    let target = session.identified().await?;
    let server = target.server.to_string();
    let unreached = |error: &dyn std::fmt::Display| {
        Error::from(client::Error::Transport(format!("{}: {error}", server.trim_end_matches('/'))))
    };
    let tls = target.tls.as_ref().map(|tls| {
        let mut tls = rustls::ClientConfig::clone(tls);
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        Arc::new(tls)
    });
    let host = target.server.host().unwrap_or_default().trim_matches(['[', ']']);
    let connector = Connector { tls, server_name: target.server_name.clone(), ..Connector::default() };
    let wire = target.wire().await?;
    let stream = connector.over(wire, host).await.map_err(|error| unreached(&error))?;
    let handshake = hyper::client::conn::http1::handshake(stream).await;
    let (mut sender, connection) = handshake.map_err(|error| unreached(&error))?;
    session.supervisor.detached("connection to be upgraded", Phase::Front, async move {
        // What is wrong with it is told to whoever reads the answer.
        drop(connection.with_upgrades().await);
    });
    let value = |text: &str| {
        http::HeaderValue::try_from(text).map_err(|_| Error::plain("a header cannot be sent as it is"))
    };
    let authority = target.server.authority().map(http::uri::Authority::as_str).unwrap_or_default();
    request.headers_mut().insert(header::HOST, value(authority)?);
    target.authorize(request.headers_mut())?;
    sender.send_request(request).await.map_err(|error| unreached(&error))
}
