//! Upgrades, all methods and bodies that are streamed, through pods, services and nodes, over HTTPS to a
//! server of the test's own.

use super::backend::{self, BYE, Open};
use crate::support::cluster::{Cluster, SOON};
use crate::support::https::{Account, Https, JSON, MERGE, connect};
use crate::support::process::wait_for;
use base::{Body, Phase, Supervisor, full_body};
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::{Method, Request, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

/// An address of the sandbox that is not one of its loopback.
const ADDRESS: &str = "10.99.0.2";
const PORT: u16 = 8080;
const NAMESPACE: &str = "/api/v1/namespaces/default";
/// By whom the server behind is reached.
const PLACES: [&str; 3] = [
    "/api/v1/namespaces/default/pods/web:8080/proxy",
    "/api/v1/namespaces/default/services/web:main/proxy",
    "/api/v1/nodes/far:8080/proxy",
];
/// More than the buffers between both ends hold.
const MANY_BYTES: usize = 4 << 20;

#[test]
fn streams_are_proxied() {
    let cluster = Cluster::api_server();
    let https = Https::new(&cluster);
    make_objects(&https);
    let supervisor = Supervisor::new();
    let (open, own) = (Open::default(), supervisor.clone());
    let counted = open.clone();
    https.run(async move {
        let listener = TcpListener::bind((ADDRESS, PORT)).await.unwrap();
        own.clone().detached("backend", Phase::Front, backend::serve(listener, counted, own));
    });
    let caller = Arc::new(Caller { account: Account::read(&cluster.kubeconfig()), supervisor });
    for place in PLACES {
        let ask = caller.clone();
        https.run(async move {
            methods(&ask, place).await;
            both_ways(&ask, place).await;
            web_sockets(&ask, place).await;
            other_protocols(&ask, place).await;
            refused_upgrades(&ask, place).await;
            cut_off(&ask, place).await;
            leaves(&ask, place).await;
        });
        // Whoever hung up, nobody holds on to the other side.
        wait_for("the end of all connections", SOON, || (open.load(Ordering::Acquire) == 0).then_some(()));
    }
}

/// What leads to the server behind.
fn make_objects(https: &Https) {
    let made = |path: &str, object: serde_json::Value| {
        let (code, made) = https.send("POST", path, JSON, &object);
        assert_eq!(code, 201, "{made}");
    };
    let patched = |path: &str, change: serde_json::Value| {
        let (code, patched) = https.send("PATCH", path, MERGE, &change);
        assert_eq!(code, 200, "{patched}");
    };
    made(
        "/api/v1/nodes",
        json!({"metadata": {"name": "far"}, "status": {"addresses": [{"type": "InternalIP", "address": ADDRESS}]}}),
    );
    made(&format!("{NAMESPACE}/serviceaccounts"), json!({"metadata": {"name": "default"}}));
    made(
        &format!("{NAMESPACE}/pods"),
        json!({"metadata": {"name": "web"}, "spec": {"containers": [{"name": "c", "image": "i"}]}}),
    );
    let running = json!({"status": {"podIP": ADDRESS, "podIPs": [{"ip": ADDRESS}]}});
    patched(&format!("{NAMESPACE}/pods/web/status"), running);
    let ports = json!([{"name": "main", "port": 80, "targetPort": PORT}]);
    made(&format!("{NAMESPACE}/services"), json!({"metadata": {"name": "web"}, "spec": {"ports": ports}}));
    made(
        "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices",
        json!({"metadata": {"name": "web", "labels": {"kubernetes.io/service-name": "web"}}, "addressType": "IPv4",
            "ports": [{"name": "main", "port": PORT}],
            "endpoints": [{"addresses": [ADDRESS], "targetRef": {"kind": "Pod", "name": "web", "namespace": "default"}}]}),
    );
}

/// The administrator, with a connection for each request.
struct Caller {
    account: Account,
    supervisor: Supervisor,
}

impl Caller {
    async fn send(&self, request: Request<Body>) -> Response<Incoming> {
        let io = TokioIo::new(connect(&self.account).await);
        let (mut sender, connection) = http1::handshake(io).await.unwrap();
        self.supervisor.detached("request", Phase::Front, async move {
            // How it ended is seen by who reads the answer.
            drop(connection.with_upgrades().await);
        });
        sender.send_request(request).await.unwrap()
    }

    async fn upgrade(&self, path: String, protocol: &str, more: &[(&str, &str)]) -> Response<Incoming> {
        let mut request = Request::get(path)
            .header(header::HOST, "knarr")
            .header(header::CONNECTION, "Upgrade")
            .header(header::UPGRADE, protocol);
        for (name, value) in more {
            request = request.header(*name, *value);
        }
        self.send(request.body(full_body("")).unwrap()).await
    }
}

fn asked(response: &Response<Incoming>) -> &str {
    response.headers().get("x-asked").map_or("", |value| value.to_str().unwrap())
}

async fn text(response: Response<Incoming>) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

async fn methods(caller: &Caller, place: &str) {
    for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"] {
        let method: Method = method.parse().unwrap();
        let request = Request::builder().method(&method).uri(format!("{place}/a/b?c=d"));
        let response =
            caller.send(request.header(header::HOST, "knarr").body(full_body("sent")).unwrap()).await;
        assert_eq!(response.status(), 200);
        assert_eq!(asked(&response), format!("{method} /a/b?c=d"), "{place}");
        let wanted = if method == Method::HEAD { "" } else { "sent" };
        assert_eq!(text(response).await, wanted, "{method} {place}");
    }
}

/// A request whose body is sent piece by piece.
fn streaming(path: String) -> (mpsc::UnboundedSender<Bytes>, Request<Body>) {
    let (sender, pieces) = mpsc::unbounded_channel();
    let pieces = UnboundedReceiverStream::new(pieces).map(|piece| Ok(Frame::data(piece)));
    let request = Request::post(path).header(header::HOST, "knarr");
    (sender, request.body(StreamBody::new(pieces).boxed_unsync()).unwrap())
}

/// A piece comes back before the next one is sent.
async fn both_ways(caller: &Caller, place: &str) {
    let (sender, request) = streaming(format!("{place}/"));
    let send = |piece: Bytes| sender.send(piece).unwrap();
    send(Bytes::from_static(b"first"));
    let mut body = caller.send(request).await.into_body();
    for (piece, next) in [("first", "second"), ("second", "third")] {
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), piece);
        send(next.into());
    }
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "third");
    send(vec![b'x'; MANY_BYTES].into());
    drop(sender);
    assert_eq!(body.collect().await.unwrap().to_bytes().len(), MANY_BYTES);
}

async fn web_socket(caller: &Caller, place: &str) -> WebSocketStream<TokioIo<Upgraded>> {
    let key = "dGhlIHNhbXBsZSBub25jZQ==";
    let more = [("sec-websocket-key", key), ("sec-websocket-version", "13")];
    let mut response = caller.upgrade(format!("{place}/chat?room=1"), "websocket", &more).await;
    assert_eq!((response.status(), asked(&response)), (StatusCode::SWITCHING_PROTOCOLS, "/chat?room=1"));
    let headers = response.headers();
    assert_eq!(headers[header::UPGRADE], "websocket");
    assert_eq!(headers[header::SEC_WEBSOCKET_ACCEPT], derive_accept_key(key.as_bytes()));
    let upgraded = hyper::upgrade::on(&mut response).await.unwrap();
    WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Client, None).await
}

async fn web_sockets(caller: &Caller, place: &str) {
    let mut socket = web_socket(caller, place).await;
    for message in [Message::text("one"), Message::binary(vec![7; 100_000]), Message::text("two")] {
        socket.send(message.clone()).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), message);
    }
    socket.close(None).await.unwrap();
    while let Some(Ok(message)) = socket.next().await {
        assert!(message.is_close(), "{message}");
    }
    let mut socket = web_socket(caller, place).await;
    socket.send(Message::text(BYE)).await.unwrap();
    assert!(socket.next().await.unwrap().unwrap().is_close(), "the server behind hangs up");
    assert!(socket.next().await.is_none_or(|ended| ended.is_err()));
}

async fn other_protocols(caller: &Caller, place: &str) {
    let spdy = async || {
        let mut response = caller.upgrade(format!("{place}/stream"), "SPDY/3.1", &[]).await;
        assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
        assert_eq!(response.headers()[header::UPGRADE], "SPDY/3.1");
        TokioIo::new(hyper::upgrade::on(&mut response).await.unwrap())
    };
    let (mut from, mut to) = tokio::io::split(spdy().await);
    // Both directions at once, more than is held in between; then the client ends, and what is on its way
    // still arrives.
    let writing = async move {
        to.write_all(&vec![b'x'; MANY_BYTES]).await.unwrap();
        to.shutdown().await.unwrap();
    };
    let mut read = Vec::new();
    let (_, count) = tokio::join!(writing, from.read_to_end(&mut read));
    assert_eq!(count.unwrap(), MANY_BYTES);
    let mut stream = spdy().await;
    stream.write_all(BYE.as_bytes()).await.unwrap();
    assert_eq!(stream.read_to_end(&mut read).await.unwrap(), 0, "the server behind hangs up");
    drop(spdy().await);
}

async fn refused_upgrades(caller: &Caller, place: &str) {
    let refused = caller.upgrade(format!("{place}/refused"), "websocket", &[]).await;
    assert_eq!((refused.status(), text(refused).await.as_str()), (StatusCode::FORBIDDEN, "not here"));
    let ignored = caller.upgrade(format!("{place}/ignored"), "websocket", &[]).await;
    assert_eq!(ignored.status(), StatusCode::INTERNAL_SERVER_ERROR);
    assert!(text(ignored).await.contains("invalid upgrade response: status code 200"));
}

/// An answer that breaks off does not look like a whole one.
async fn cut_off(caller: &Caller, place: &str) {
    let (sender, request) = streaming(format!("{place}/cut"));
    let mut body = caller.send(request).await.into_body();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "part");
    sender.send(Bytes::from_static(b"die")).unwrap();
    assert!(body.collect().await.is_err(), "{place}");
}

/// A client that leaves in the middle of an answer.
async fn leaves(caller: &Caller, place: &str) {
    let request = Request::get(format!("{place}/endless")).header(header::HOST, "knarr");
    let mut body = caller.send(request.body(full_body("")).unwrap()).await.into_body();
    assert!(body.frame().await.unwrap().is_ok());
}
