//! Connections that the server upgrades: to a WebSocket, or to SPDY where the server is too old for that.

use crate::error::{Error, NO_UPGRADE};
use crate::requests::persistently;
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
    let upgraded = upgraded(session, path, request).await;
    // A refusal is what was said, whatever its status.
    let (wire, _) = upgraded.map_err(|error| match error.code() {
        Some(_) => Error::plain(format!("{NO_UPGRADE}{}", error.message())),
        None => error,
    })?;
    Ok(wire)
}

async fn upgraded(
    session: &Session,
    path: &str,
    request: http::request::Builder,
) -> Result<(Wire, HeaderMap), Error> {
    let head = request.header(header::CONNECTION, "Upgrade").uri(path).body(());
    let (head, ()) = head.map_err(|error| Error::plain(error.to_string()))?.into_parts();
    let mut answer = persistently(async || send(session, &head).await).await?;
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
async fn send(session: &Session, head: &http::request::Parts) -> Result<Response<Incoming>, Error> {
    let server = session.target().server;
    let base = server.path().trim_end_matches('/');
    let request = Request::builder().method(&head.method).uri(format!("{base}{}", head.uri));
    let request = request.header(header::USER_AGENT, "kubectl/knarr").body(full_body(""));
    let mut request = request.map_err(|error| Error::plain(error.to_string()))?;
    request.headers_mut().extend(head.headers.clone());
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::globals::Global;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    /// Answers so many requests, each on a connection of its own, and gives what they were.
    async fn served(listener: TcpListener, answers: &[&str]) -> Vec<String> {
        let mut asked = Vec::new();
        for answer in answers {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = vec![0; 4096];
            let count = stream.read(&mut head).await.unwrap();
            asked.push(String::from_utf8_lossy(&head[..count]).lines().next().unwrap_or_default().to_owned());
            let length = if answer.starts_with("429") { "Retry-After: 0\r\n" } else { "" };
            let text = format!("HTTP/1.1 {answer}\r\n{length}Content-Length: 0\r\nConnection: close\r\n\r\n");
            stream.write_all(text.as_bytes()).await.unwrap();
        }
        asked
    }

    #[tokio::test]
    async fn a_busy_server_is_asked_again() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = format!("http://{}/under", listener.local_addr().unwrap());
        let kubeconfig = Some("/dev/null".into());
        let session =
            Session::open(&Global { server: Some(server), kubeconfig, ..Global::default() }).unwrap();
        let answers = ["429 Too Many Requests", "429 Too Many Requests", "404 Not Found"];
        let (refused, asked) =
            tokio::join!(spdy(&session, "/api/v1/x?tty=true", "p"), served(listener, &answers));
        assert_eq!(asked, ["POST /under/api/v1/x?tty=true HTTP/1.1"; 3]);
        let said = refused.err().unwrap().to_string();
        assert!(said.starts_with("error: unable to upgrade connection: "), "{said}");
    }
}
