//! Servers behind: each says who it is and how it was asked.

use base::{Body, Phase, Supervisor, full_body};
use futures_util::{SinkExt, StreamExt};
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use serde_json::{Map, Value, json};
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

/// How long the path `/slow` takes.
pub(super) const SLOW: Duration = Duration::from_secs(3);

/// A server, and what it counts.
#[derive(Clone)]
pub(super) struct Backend {
    pub(super) name: &'static str,
    pub(super) requests: Arc<AtomicUsize>,
    pub(super) connections: Arc<AtomicUsize>,
    supervisor: Supervisor,
}

impl Backend {
    pub(super) fn new(name: &'static str) -> Self {
        Self { name, requests: Arc::default(), connections: Arc::default(), supervisor: Supervisor::new() }
    }

    /// Serves HTTP/1.1 and HTTP/2 in the clear for as long as it is held by somebody.
    pub(super) fn start(&self, listener: TcpListener) {
        self.supervisor.detached("backend", Phase::Front, self.clone().serve(listener));
    }

    async fn serve(self, listener: TcpListener) {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            self.connections.fetch_add(1, Ordering::AcqRel);
            let own = self.clone();
            self.supervisor.detached("connection", Phase::Front, async move {
                let service = service_fn(|request| own.clone().answer(request));
                let builder = Builder::new(TokioExecutor::new());
                let served = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).await;
                // Who tests hanging up does not care how that is told.
                drop(served);
                own.connections.fetch_sub(1, Ordering::AcqRel);
            });
        }
    }

    async fn answer(self, mut request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
        self.requests.fetch_add(1, Ordering::AcqRel);
        if request.headers().contains_key(header::UPGRADE) {
            return Ok(self.web_socket(&mut request));
        }
        match request.uri().path() {
            "/slow" => base::clock::sleep(SLOW).await,
            "/broken" => return Ok(coded(StatusCode::INTERNAL_SERVER_ERROR)),
            _ => {}
        }
        let (head, body) = request.into_parts();
        let bytes = body.collect().await.map(|body| body.to_bytes().len()).unwrap_or_default();
        let headers: Map<String, Value> = head
            .headers
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_str().unwrap().into()))
            .collect();
        let said = json!({"name": self.name, "method": head.method.as_str(), "uri": head.uri.to_string(),
            "version": format!("{:?}", head.version), "headers": headers, "bytes": bytes});
        let mut response = Response::new(full_body(said.to_string()));
        response.headers_mut().insert("connection", HeaderValue::from_static("x-private"));
        response.headers_mut().insert("x-private", HeaderValue::from_static("1"));
        if head.version == http::Version::HTTP_2 {
            response.headers_mut().remove("connection");
        }
        Ok(response)
    }

    /// Repeats each message with its name.
    fn web_socket(&self, request: &mut Request<Incoming>) -> Response<Body> {
        let upgrade = hyper::upgrade::on(&mut *request);
        let name = self.name;
        self.supervisor.detached("web socket", Phase::Front, async move {
            let io = TokioIo::new(upgrade.await.unwrap());
            let mut socket = WebSocketStream::from_raw_socket(io, Role::Server, None).await;
            while let Some(Ok(message)) = socket.next().await {
                if message.is_text() {
                    let text = format!("{name}: {}", message.to_text().unwrap());
                    socket.send(text.into()).await.unwrap();
                }
            }
        });
        let mut response = coded(StatusCode::SWITCHING_PROTOCOLS);
        let headers = response.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        let key = &request.headers()[header::SEC_WEBSOCKET_KEY];
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, derive_accept_key(key.as_bytes()).parse().unwrap());
        response
    }
}

fn coded(code: StatusCode) -> Response<Body> {
    let mut response = Response::new(full_body(""));
    *response.status_mut() = code;
    response
}
