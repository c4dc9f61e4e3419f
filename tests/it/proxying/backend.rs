//! The server behind: gives back what it gets, in whichever way it is asked.

use base::{Body, BodyError, Phase, Supervisor, full_body};
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

/// Whoever says this is hung up on.
pub(super) const BYE: &str = "bye";

/// How many connections are open.
pub(super) type Open = Arc<AtomicUsize>;

/// Serves every connection until the test ends.
pub(super) async fn serve(listener: TcpListener, open: Open, supervisor: Supervisor) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let (open, own) = (open.clone(), supervisor.clone());
        open.fetch_add(1, Ordering::AcqRel);
        supervisor.detached("connection", Phase::Front, async move {
            let service = service_fn(|request| answer(request, own.clone(), open.clone()));
            let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            // Who tests hanging up does not care how that is told.
            drop(connection.with_upgrades().await);
            open.fetch_sub(1, Ordering::AcqRel);
        });
    }
}

async fn answer(
    mut request: Request<Incoming>,
    supervisor: Supervisor,
    open: Open,
) -> Result<Response<Body>, Infallible> {
    let upgrade = request.headers().get(header::UPGRADE).cloned();
    Ok(match (request.uri().path(), upgrade) {
        ("/refused", Some(_)) => coded(StatusCode::FORBIDDEN, "not here"),
        ("/ignored", Some(_)) => coded(StatusCode::OK, "upgrade?"),
        (_, Some(protocol)) => {
            let upgraded = hyper::upgrade::on(&mut request);
            let web = protocol == "websocket";
            open.fetch_add(1, Ordering::AcqRel);
            supervisor.detached("upgraded", Phase::Front, async move {
                if web {
                    messages(upgraded).await
                } else {
                    bytes(upgraded).await
                }
                open.fetch_sub(1, Ordering::AcqRel);
            });
            switching(&request, protocol)
        }
        ("/cut", None) => Response::new(cut(request.into_body())),
        ("/endless", None) => Response::new(endless()),
        _ => echo(request),
    })
}

fn coded(code: StatusCode, text: &'static str) -> Response<Body> {
    let mut response = Response::new(full_body(text));
    *response.status_mut() = code;
    response
}

fn switching(request: &Request<Incoming>, protocol: HeaderValue) -> Response<Body> {
    let mut response = coded(StatusCode::SWITCHING_PROTOCOLS, "");
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, protocol);
    if let Some(key) = request.headers().get(header::SEC_WEBSOCKET_KEY) {
        let accept = derive_accept_key(key.as_bytes()).parse().unwrap();
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    }
    let asked = request.uri().to_string().parse().unwrap();
    headers.insert("x-asked", asked);
    response
}

/// Says how it was asked, and gives the body back piece by piece as it comes.
fn echo(request: Request<Incoming>) -> Response<Body> {
    let asked = format!("{} {}", request.method(), request.uri()).parse().unwrap();
    let body = request.into_body().map_err(|error| -> BodyError { Box::new(error) });
    let mut response = Response::new(body.boxed_unsync());
    response.headers_mut().insert("x-asked", asked);
    response
}

/// A body that breaks off once the client has sent something.
fn cut(mut asked: Incoming) -> Body {
    let piece = futures_util::stream::once(async { Ok(Frame::data(Bytes::from_static(b"part"))) });
    let end = futures_util::stream::once(async move {
        asked.frame().await;
        Err(BodyError::from("the server dies"))
    });
    StreamBody::new(piece.chain(end)).boxed_unsync()
}

/// A body that goes on for as long as somebody reads it.
fn endless() -> Body {
    let piece = || Ok(Frame::data(Bytes::from_static(&[b'x'; 1024])));
    StreamBody::new(futures_util::stream::repeat_with(piece)).boxed_unsync()
}

/// A WebSocket that repeats each message.
async fn messages(upgraded: OnUpgrade) {
    let io = TokioIo::new(upgraded.await.unwrap());
    let mut socket = WebSocketStream::from_raw_socket(io, Role::Server, None).await;
    while let Some(Ok(message)) = socket.next().await {
        if message.is_text() && message.to_text().unwrap() == BYE {
            socket.close(None).await.unwrap();
        } else if message.is_text() || message.is_binary() {
            socket.send(message).await.unwrap();
        }
    }
}

/// A stream of another protocol that repeats every byte.
async fn bytes(upgraded: OnUpgrade) {
    let mut io: TokioIo<Upgraded> = TokioIo::new(upgraded.await.unwrap());
    let mut buffer = vec![0; 16 << 10];
    loop {
        match io.read(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(count) if &buffer[..count] == BYE.as_bytes() => break,
            Ok(count) => io.write_all(&buffer[..count]).await.unwrap(),
        }
    }
    // Somebody who has gone does not hear the end.
    drop(io.shutdown().await);
}
