//! A sample extension API server: one group with one resource, kept in memory, for those whom the front proxy
//! vouches for.

use base::{Body, Phase, Supervisor, full_body};
use bytes::Bytes;
use futures_util::StreamExt;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rcgen::{CertificateParams, KeyPair};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::broadcast;
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::UnboundedReceiverStream;

pub(crate) const GROUP: &str = "sample.knarr.test";
const ROOT: &str = "/apis/sample.knarr.test/v1";
/// The kind's OpenAPI name.
const FRUIT: &str = "test.knarr.sample.v1.Fruit";

/// What the server shows.
pub(crate) struct Shown {
    pub(crate) pem: String,
    key: Vec<u8>,
}

impl Shown {
    /// A certificate that it signed itself, for the name of its service.
    pub(crate) fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new([name.to_owned()]).unwrap().self_signed(&key).unwrap();
        Self { pem: certificate.pem(), key: key.serialize_der() }
    }

    /// Takes those alone whom the front proxy's authority signed.
    fn acceptor(&self, front_proxy_ca: &str) -> TlsAcceptor {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(front_proxy_ca.as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let clients = WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone()).build();
        let chain = vec![CertificateDer::from_pem_slice(self.pem.as_bytes()).unwrap()];
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(clients.unwrap())
            .with_single_cert(chain, PrivateKeyDer::try_from(self.key.clone()).unwrap())
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        TlsAcceptor::from(Arc::new(config))
    }
}

/// What the server knows.
pub(crate) struct Extension {
    fruits: Mutex<Vec<Value>>,
    events: broadcast::Sender<Value>,
    /// How often its documents were made, by path.
    pub(crate) asked: Mutex<Vec<String>>,
    /// What is answered to reads of paths of other groups.
    pub(crate) answers: Mutex<BTreeMap<String, Value>>,
    pub(crate) supervisor: Supervisor,
}

impl Extension {
    pub(crate) fn new() -> Arc<Self> {
        let (fruits, asked, answers) = (Mutex::default(), Mutex::default(), Mutex::default());
        let events = broadcast::channel(16).0;
        Arc::new(Self { fruits, events, asked, answers, supervisor: Supervisor::new() })
    }

    /// Serves every connection until `stop` is dropped.
    pub(crate) async fn serve(
        self: Arc<Self>,
        listener: TcpListener,
        (shown, front_proxy_ca): (Arc<Shown>, String),
        mut stop: tokio::sync::oneshot::Receiver<()>,
    ) {
        let acceptor = shown.acceptor(&front_proxy_ca);
        let connections = Supervisor::new();
        loop {
            let stream = tokio::select! {
                accepted = listener.accept() => accepted.unwrap().0,
                _ = &mut stop => break,
            };
            let (own, acceptor) = (self.clone(), acceptor.clone());
            connections.detached("connection", Phase::Front, own.connection(stream, acceptor));
        }
    }

    async fn connection(self: Arc<Self>, stream: TcpStream, acceptor: TlsAcceptor) {
        // Who is refused is told so by TLS.
        let Ok(stream) = acceptor.accept(stream).await else { return };
        let own = stream.get_ref().1.peer_certificates().unwrap()[0].to_vec();
        let name = b"system:auth-proxy";
        assert!(own.windows(name.len()).any(|part| part == name), "another one's certificate");
        let service = service_fn(move |request| {
            let this = self.clone();
            async move { Ok::<_, Infallible>(this.answer(request).await) }
        });
        let builder = auto::Builder::new(TokioExecutor::new());
        // How it ended is seen by who reads the answer.
        drop(builder.serve_connection_with_upgrades(TokioIo::new(stream), service).await);
    }

    async fn answer(&self, mut request: Request<Incoming>) -> Response<Body> {
        let path = request.uri().path().to_owned();
        self.asked.lock().unwrap().push(path.clone());
        if let Some(document) = document(&path, request.headers()) {
            return document;
        }
        if let Some(answer) = self.answers.lock().unwrap().get(&path) {
            return coded(StatusCode::OK, answer);
        }
        let Some(rest) = path.strip_prefix(&format!("{ROOT}/namespaces/default/fruits")) else {
            return coded(StatusCode::NOT_FOUND, &json!({"kind": "Status", "code": 404}));
        };
        let query = request.uri().query().unwrap_or_default();
        match (request.method(), rest) {
            (&Method::GET, "") if query.contains("watch=") => self.watch(),
            (&Method::GET, "") => {
                let items = self.fruits.lock().unwrap().clone();
                coded(StatusCode::OK, &list(&items))
            }
            (&Method::POST, "") => self.create(request).await,
            (_, _) if request.headers().contains_key(header::UPGRADE) => {
                let protocol = request.headers()[header::UPGRADE].clone();
                let upgraded = hyper::upgrade::on(&mut request);
                self.supervisor.detached("upgraded", Phase::Front, async move {
                    repeat(TokioIo::new(upgraded.await.unwrap())).await;
                });
                let mut response = coded(StatusCode::SWITCHING_PROTOCOLS, &Value::Null);
                let headers = response.headers_mut();
                headers.insert(header::CONNECTION, "Upgrade".parse().unwrap());
                headers.insert(header::UPGRADE, protocol);
                response
            }
            (_, name) => {
                let fruits = self.fruits.lock().unwrap();
                let found = fruits.iter().find(|fruit| fruit["metadata"]["name"] == name[1..]);
                found.map_or_else(
                    || {
                        coded(
                            StatusCode::NOT_FOUND,
                            &json!({"kind": "Status", "code": 404, "message": "no such fruit"}),
                        )
                    },
                    |fruit| coded(StatusCode::OK, fruit),
                )
            }
        }
    }

    /// Keeps a fruit, and who sent it as the front proxy says.
    async fn create(&self, request: Request<Incoming>) -> Response<Body> {
        let values = |name: &str| -> Vec<String> {
            let all = request.headers().get_all(name).iter();
            all.map(|value| value.to_str().unwrap().to_owned()).collect()
        };
        let seen = json!({"user": values("x-remote-user"), "groups": values("x-remote-group"),
            "extra": values("x-remote-extra-authentication.kubernetes.io%2fcredential-id"), "uid": values("x-remote-uid"),
            "authorization": values("authorization"), "impersonate": values("impersonate-user"),
            "forwarded": values("x-forwarded-uri")});
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let mut fruit: Value = serde_json::from_slice(&body).unwrap();
        fruit["seen"] = seen;
        self.fruits.lock().unwrap().push(fruit.clone());
        // Nobody may be watching.
        drop(self.events.send(json!({"type": "ADDED", "object": fruit})));
        coded(StatusCode::CREATED, &fruit)
    }

    /// What is there, then what comes.
    fn watch(&self) -> Response<Body> {
        let (tell, told) = tokio::sync::mpsc::unbounded_channel();
        let mut events = self.events.subscribe();
        for fruit in self.fruits.lock().unwrap().iter() {
            tell.send(json!({"type": "ADDED", "object": fruit})).unwrap();
        }
        self.supervisor.detached("watch", Phase::Front, async move {
            while let Ok(event) = events.recv().await {
                if tell.send(event).is_err() {
                    break;
                }
            }
        });
        let lines = UnboundedReceiverStream::new(told)
            .map(|event| Ok(Frame::data(Bytes::from(format!("{event}\n")))));
        let mut response = Response::new(StreamBody::new(lines).boxed_unsync());
        response.headers_mut().insert(header::CONTENT_TYPE, "application/json".parse().unwrap());
        response
    }
}

fn coded(code: StatusCode, value: &Value) -> Response<Body> {
    let mut response = Response::new(full_body(value.to_string()));
    *response.status_mut() = code;
    response.headers_mut().insert(header::CONTENT_TYPE, "application/json".parse().unwrap());
    response
}

fn list(items: &[Value]) -> Value {
    json!({"apiVersion": "sample.knarr.test/v1", "kind": "FruitList", "metadata": {"resourceVersion": "1"}, "items": items})
}

/// The documents that every API server has.
fn document(path: &str, headers: &HeaderMap) -> Option<Response<Body>> {
    let accept = headers.get(header::ACCEPT).map_or("", |value| value.to_str().unwrap());
    let version = json!({"groupVersion": "sample.knarr.test/v1", "version": "v1"});
    let group = json!({"kind": "APIGroup", "apiVersion": "v1", "name": GROUP, "versions": [version], "preferredVersion": version});
    let verbs = json!(["create", "get", "list", "watch"]);
    if path == "/apis" && accept.contains("as=APIGroupDiscoveryList") {
        if headers.get(header::IF_NONE_MATCH).is_some_and(|tag| tag == "\"one\"") {
            return Some(coded(StatusCode::NOT_MODIFIED, &Value::Null));
        }
        let fruits = json!({"resource": "fruits", "singularResource": "fruit", "scope": "Namespaced", "shortNames": ["fr"],
            "verbs": verbs, "responseKind": {"group": GROUP, "version": "v1", "kind": "Fruit"}});
        let list = json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {},
            "items": [{"metadata": {"name": GROUP}, "versions": [{"version": "v1", "resources": [fruits]}]}]});
        let mut response = coded(StatusCode::OK, &list);
        let kind = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
        response.headers_mut().insert(header::CONTENT_TYPE, kind.parse().unwrap());
        response.headers_mut().insert(header::ETAG, "\"one\"".parse().unwrap());
        return Some(response);
    }
    let fruit = json!({"name": "fruits", "singularName": "fruit", "namespaced": true, "kind": "Fruit",
        "shortNames": ["fr"], "verbs": verbs});
    let listed = format!("{ROOT}/namespaces/{{namespace}}/fruits");
    let gvk = json!([{"group": GROUP, "version": "v1", "kind": "Fruit"}]);
    let schema = json!({"type": "object", "description": "A fruit.", "properties": {"color": {"type": "string",
        "description": "What it looks like."}}, "x-kubernetes-group-version-kind": gvk});
    Some(coded(
        StatusCode::OK,
        &match path {
            "/apis" => json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": [group]}),
            "/apis/sample.knarr.test" => group,
            ROOT => {
                json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "sample.knarr.test/v1", "resources": [fruit]})
            }
            "/openapi/v2" => json!({"swagger": "2.0", "info": {"title": "sample", "version": "1"},
                "paths": {ROOT: {"get": {"responses": {"200": {"schema": {"$ref": format!("#/definitions/{FRUIT}")}}}}}}, "definitions": {FRUIT: schema}}),
            "/openapi/v3" => json!({"paths": {"apis/sample.knarr.test/v1":
                {"serverRelativeURL": "/openapi/v3/apis/sample.knarr.test/v1?hash=ONE"}}}),
            "/openapi/v3/apis/sample.knarr.test/v1" => {
                json!({"openapi": "3.0.0", "info": {"title": "sample", "version": "1"},
                "paths": {listed: {"get": {"x-kubernetes-action": "list", "x-kubernetes-group-version-kind": gvk[0], "responses": {}}}}, "components": {"schemas": {FRUIT: schema}}})
            }
            _ => return None,
        },
    ))
}

/// Repeats every byte until the other side ends.
async fn repeat(mut io: TokioIo<hyper::upgrade::Upgraded>) {
    let mut buffer = vec![0; 1024];
    while let Ok(count @ 1..) = io.read(&mut buffer).await {
        io.write_all(&buffer[..count]).await.unwrap();
    }
    // Somebody who has gone does not hear the end.
    drop(io.shutdown().await);
}
