//! The server's side of a WebSocket handshake, and raw bytes tunnelled through one.

use base::{Body, full_body};
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use std::io::{Error, Result};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

/// SPDY's bytes in binary messages, as kubectl forwards ports from 1.30 on (KEP-4006).
pub(super) const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";
/// One message of a tunnel.
const CHUNK_BYTES: usize = 32 << 10;

/// Whether a request wants to become a WebSocket.
pub(super) fn is_asked(headers: &HeaderMap) -> bool {
    headers.get(header::UPGRADE).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

/// The accepted subprotocol with the answer to send.
pub(super) struct Accepted {
    pub(super) protocol: &'static str,
    pub(super) response: Response<Body>,
}

/// Accepts the first of our subprotocols that is offered.
pub(super) fn accept(headers: &HeaderMap, ours: &[&'static str]) -> Option<Accepted> {
    let key = headers.get(header::SEC_WEBSOCKET_KEY)?;
    let offered =
        headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
    let offered: Vec<&str> = offered.flat_map(|list| list.split(',')).map(str::trim).collect();
    let protocol = *ours.iter().find(|protocol| offered.contains(protocol))?;
    let mut response = Response::new(full_body(Bytes::new()));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let answers = response.headers_mut();
    answers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    answers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    answers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
    answers.insert(
        header::SEC_WEBSOCKET_ACCEPT,
        HeaderValue::from_str(&derive_accept_key(key.as_bytes())).ok()?,
    );
    Some(Accepted { protocol, response })
}

/// The accepted connection as a WebSocket.
pub(super) async fn open<S: AsyncRead + AsyncWrite + Unpin>(stream: S) -> WebSocketStream<S> {
    WebSocketStream::from_raw_socket(stream, Role::Server, None).await
}

/// Copies bytes between the messages of a WebSocket and a plain connection until either ends.
pub(super) async fn tunnel<S, B>(caller: S, backend: B) -> Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let (mut sink, mut messages) = open(caller).await.split();
    let (mut from, mut to) = tokio::io::split(backend);
    let inward = async {
        while let Some(message) = messages.next().await {
            match message.map_err(Error::other)? {
                Message::Binary(bytes) => to.write_all(&bytes).await?,
                Message::Close(_) => break,
                _ => {}
            }
        }
        to.shutdown().await
    };
    let outward = async {
        let mut buffer = vec![0; CHUNK_BYTES];
        loop {
            match from.read(&mut buffer).await? {
                0 => break,
                n => sink
                    .send(Message::Binary(Bytes::copy_from_slice(&buffer[..n])))
                    .await
                    .map_err(Error::other)?,
            }
        }
        sink.close().await.map_err(Error::other)
    };
    tokio::select! {
        done = inward => done,
        done = outward => done,
    }
}
