//! The server's side of a WebSocket handshake (RFC 6455).

use crate::{Body, full_body};
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

/// Whether a request wants to become a WebSocket.
pub fn is_asked(headers: &HeaderMap) -> bool {
    headers.get(header::UPGRADE).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

/// The accepted subprotocol with the answer to send.
pub struct Accepted {
    /// One of those that the caller was asked to choose from.
    pub protocol: &'static str,
    /// It switches protocols; the rest of the connection is for [`open`].
    pub response: Response<Body>,
}

/// Accepts the first of our subprotocols that is offered; "" among ours stands for a client that offers none.
pub fn accept(headers: &HeaderMap, ours: &[&'static str]) -> Option<Accepted> {
    let key = headers.get(header::SEC_WEBSOCKET_KEY)?;
    let offered =
        headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
    let offered: Vec<&str> =
        offered.flat_map(|list| list.split(',')).map(str::trim).filter(|name| !name.is_empty()).collect();
    let fits = |protocol: &str| offered.contains(&protocol) || protocol.is_empty() && offered.is_empty();
    let protocol = *ours.iter().find(|protocol| fits(protocol))?;
    let mut response = Response::new(full_body(""));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let answers = response.headers_mut();
    answers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    answers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    if !protocol.is_empty() {
        answers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
    }
    let accepted = HeaderValue::from_str(&derive_accept_key(key.as_bytes())).ok()?;
    answers.insert(header::SEC_WEBSOCKET_ACCEPT, accepted);
    Some(Accepted { protocol, response })
}

/// The accepted connection as a WebSocket.
pub async fn open<S: AsyncRead + AsyncWrite + Unpin>(stream: S) -> WebSocketStream<S> {
    WebSocketStream::from_raw_socket(stream, Role::Server, None).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_ours_that_is_offered_is_spoken() {
        let mut headers = HeaderMap::new();
        headers.insert(header::SEC_WEBSOCKET_KEY, HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ=="));
        let chosen = |headers: &HeaderMap, ours: &[&'static str]| {
            let accepted = accept(headers, ours)?;
            let named = accepted.response.headers().get(header::SEC_WEBSOCKET_PROTOCOL);
            assert_eq!(named.map_or("", |name| name.to_str().unwrap()), accepted.protocol);
            Some(accepted.protocol)
        };
        assert_eq!(chosen(&headers, &["b", "a"]), None);
        assert_eq!(chosen(&headers, &["b", ""]), Some(""));
        headers.append(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static("c, a"));
        headers.append(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static("b"));
        assert_eq!(chosen(&headers, &["b", "a"]), Some("b"));
        assert_eq!(chosen(&headers, &["x", ""]), None);
    }
}
