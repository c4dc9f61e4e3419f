//! The door with nodes that are but listeners, in the clear.

use super::*;
use crate::files;
use base::https::Connector;
use serde_json::json;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const BLOB: &str = "0123456789";

/// What a node answers to a request's head.
type Says = fn(&str) -> String;

/// A node that answers so.
struct Far {
    at: SocketAddr,
    asked: Arc<AtomicUsize>,
    serving: tokio::task::AbortHandle,
}

async fn far(supervisor: &Supervisor, says: Says) -> Far {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (at, asked) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
    let count = asked.clone();
    let serving = supervisor.detached("a node", Phase::Front, async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = vec![0; 4096];
            let read = stream.read(&mut head).await.unwrap();
            count.fetch_add(1, Ordering::Relaxed);
            let answer = says(&String::from_utf8_lossy(&head[..read]));
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    Far { at, asked, serving }
}

fn node(name: &str, far: &Far) -> Node {
    let node = json!({
        "metadata": {"name": name},
        "status": {
            "addresses": [{"type": "InternalIP", "address": far.at.ip()}],
            "conditions": [{"type": "Ready", "status": "True"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": far.at.port()}},
        },
    });
    serde_json::from_value(node).unwrap()
}

fn has_not(_: &str) -> String {
    "HTTP/1.1 404 Not Found\r\nconnection: close\r\ncontent-length: 0\r\n\r\n".to_owned()
}

fn head(status: &str, length: usize) -> String {
    format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {length}\r\n")
}

/// Has it, and is gone before all of it was given.
fn breaks(request: &str) -> String {
    assert!(request.contains("/v2/app/blobs/sha256:"), "{request}");
    let head = head("200 OK", BLOB.len());
    let body = if request.starts_with("GET ") { &BLOB[..4] } else { "" };
    format!("{head}x-own: secret\r\n\r\n{body}")
}

/// Has what is left from there on.
fn goes_on(request: &str) -> String {
    if request.starts_with("HEAD ") {
        return head("200 OK", BLOB.len()) + "\r\n";
    }
    assert!(request.to_ascii_lowercase().contains("range: bytes=4-"), "{request}");
    format!("{}content-range: bytes 4-9/10\r\n\r\n{}", head("206 Partial Content", 6), &BLOB[4..])
}

struct Asking {
    place: Place,
    others: Others,
}

impl Asking {
    async fn of(nodes: Cache<Node>, registries: &str) -> Self {
        let file = std::env::temp_dir().join(format!("knarr-door-{}", random::uuid()));
        std::fs::write(&file, registries).unwrap();
        let shared = crate::containerd::registries::read(&file).unwrap().shared(true);
        files::remove(&file).unwrap();
        let door = Door::bind(shared, &file).await.unwrap();
        files::remove(&file).unwrap();
        let pool = ("http", Connector::default().pool());
        let others = Others::new((nodes, "own".to_owned()), Arc::new(door.shared.clone()), pool);
        Self { place: door.place.clone(), others }
    }

    async fn ask(&self, below: &str, range: Option<&str>) -> Response<Body> {
        let mut request = Request::get(self.place.path(below));
        if let Some(range) = range {
            request = request.header(RANGE, range);
        }
        self.others.answer(&self.place, &request.body(()).unwrap()).await
    }
}

fn blob() -> String {
    format!("app/blobs/sha256:{}?ns=a.io", "0".repeat(64))
}

#[tokio::test]
async fn what_breaks_off_is_gone_on_with_elsewhere() {
    let supervisor = Supervisor::new();
    let first = far(&supervisor, breaks).await;
    let asking = Asking::of(Cache::of([node("a", &first)]), "mirrors: {a.io: }").await;
    let mut answer = asking.ask(&blob(), None).await;
    assert_eq!(
        (answer.status(), &answer.headers()[CONTENT_LENGTH]),
        (StatusCode::OK, &HeaderValue::from(10))
    );
    assert!(!answer.headers().contains_key("x-own"), "more is handed on than is known");
    let begun = answer.body_mut().frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(begun, BLOB[..4]);
    answer.body_mut().frame().await.unwrap().unwrap_err();
    first.serving.abort();
    let second = far(&supervisor, goes_on).await;
    let both = Cache::of([node("a", &first), node("b", &second)]);
    let asking = Asking::of(both, "mirrors: {a.io: }").await;
    let answer = asking.ask(&blob(), Some("bytes=4-")).await;
    assert_eq!(answer.status(), StatusCode::PARTIAL_CONTENT);
    assert_eq!(answer.headers()[CONTENT_RANGE], "bytes 4-9/10");
    assert_eq!(base::collect(answer.into_body(), 10).await.unwrap(), BLOB[4..]);
    // Who could not be reached is left alone for a while.
    assert_eq!(asking.others.peers("a.io/app").len(), 1);
}

#[tokio::test]
async fn the_registry_is_asked_for_what_no_node_has() {
    let supervisor = Supervisor::new();
    let other = far(&supervisor, has_not).await;
    let nodes = Cache::of([node("a", &other), node("own", &other)]);
    let asking = Asking::of(nodes, "mirrors: {a.io: , b.io: {endpoint: [m.io]}}").await;
    for (below, asks) in [
        (blob().as_str(), 1),
        ("app/manifests/1?ns=a.io", 1),
        ("app/manifests/latest?ns=a.io", 1),
        // A mirror knows better what is the latest, and of others nobody said that nodes share them.
        ("app/manifests/latest?ns=b.io", 0),
        ("app/manifests/1?ns=c.io", 0),
        ("app/tags/list?ns=a.io", 0),
    ] {
        let before = other.asked.load(Ordering::Relaxed);
        assert_eq!(asking.ask(below, None).await.status(), StatusCode::NOT_FOUND);
        assert_eq!(other.asked.load(Ordering::Relaxed) - before, asks, "{below}");
    }
    let before = other.asked.load(Ordering::Relaxed);
    let put = Request::put(asking.place.path("app/manifests/1?ns=a.io")).body(()).unwrap();
    let stranger = Request::get("/v2/app/manifests/1?ns=a.io").body(()).unwrap();
    for request in [put, stranger] {
        let answer = asking.others.answer(&asking.place, &request).await;
        assert_eq!(answer.status(), StatusCode::NOT_FOUND);
    }
    assert_eq!(other.asked.load(Ordering::Relaxed), before);
}
