//! HTTPS to an API server as one user, over HTTP/2 in this process and from within a sandbox's network.

use super::cluster::Cluster;
use api::schema::{check, protobuf, schema};
use base::{Body, full_body};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf, Bytes, BytesMut};
use client::Transport;
use client::https::{Https as Connections, Target};
use http::{HeaderMap, Request, Uri, header};
use http_body_util::BodyExt;
use nix::sched::{CloneFlags, setns};
use prost::Message;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use std::future::Future;
use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};
use tokio::task::AbortHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

pub(crate) const JSON: &str = "application/json";
pub(crate) const YAML: &str = "application/yaml";
pub(crate) const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
pub(crate) const MERGE: &str = "application/merge-patch+json";
pub(crate) const JSON_PATCH: &str = "application/json-patch+json";
pub(crate) const STRATEGIC: &str = "application/strategic-merge-patch+json";
pub(crate) const APPLY: &str = "application/apply-patch+yaml";

/// Longer than the client waits for an answer to begin.
const LIMIT: Duration = Duration::from_secs(90);
/// The largest answer.
const ANSWER_BYTES: usize = 64 << 20;

/// What a kubeconfig says, certificates and key as PEM.
pub(crate) struct Account {
    server: String,
    pub(crate) authorities: Vec<u8>,
    pub(crate) certificate: Vec<u8>,
    pub(crate) key: Vec<u8>,
}

impl Account {
    pub(crate) fn read(kubeconfig: &str) -> Self {
        let config: Value = serde_yaml::from_str(kubeconfig).unwrap();
        let (cluster, user) = (&config["clusters"][0]["cluster"], &config["users"][0]["user"]);
        let pem = |value: &Value| STANDARD.decode(value.as_str().unwrap_or_default()).unwrap();
        Self {
            server: cluster["server"].as_str().unwrap().to_owned(),
            authorities: pem(&cluster["certificate-authority-data"]),
            certificate: pem(&user["client-certificate-data"]),
            key: pem(&user["client-key-data"]),
        }
    }
}

/// A client of one server. What waits, waits on the test's own thread.
pub(crate) struct Https {
    runtime: Runtime,
    connections: Connections,
}

impl Https {
    /// The administrator of a cluster.
    pub(crate) fn new(cluster: &Cluster) -> Self {
        Self::of_kubeconfig(&cluster.kubeconfig(), Some(cluster.sandbox.network()))
    }

    /// Whom a kubeconfig names; `network` is the namespace to connect from, where it is another one.
    pub(crate) fn of_kubeconfig(text: &str, network: Option<PathBuf>) -> Self {
        let account = Account::read(text);
        let server = account.server.parse().unwrap();
        let tls = Some(Arc::new(tls(&account, b"h2")));
        let target = Target { tls, ..Target::new(server) };
        Self { runtime: runtime(network), connections: Connections::new(target) }
    }

    /// The status and the body of a request.
    #[track_caller]
    pub(crate) fn call(&self, method: &str, path: &str) -> (u16, Value) {
        self.ask(method, path).parts()
    }

    /// The same of a request with a body.
    #[track_caller]
    pub(crate) fn send(&self, method: &str, path: &str, kind: &str, body: &Value) -> (u16, Value) {
        self.ask(method, path).object(kind, body).parts()
    }

    /// Begins a request.
    pub(crate) fn ask(&self, method: &str, path: &str) -> Ask<'_> {
        let request = Request::builder().method(method).uri(path).header(header::ACCEPT, JSON);
        Ask { https: self, request, body: Bytes::new() }
    }

    /// Does work on the runtime's threads, whose sockets are in the sandbox.
    #[track_caller]
    pub(crate) fn run<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> T {
        let (tell, told) = mpsc::channel();
        self.runtime.spawn(async move { drop(tell.send(work.await)) });
        told.recv_timeout(LIMIT).expect("an answer in time")
    }
}

/// Threads that are in a network namespace.
pub(crate) fn runtime(network: Option<PathBuf>) -> Runtime {
    let enter = move || {
        if let Some(path) = &network {
            setns(std::fs::File::open(path).unwrap(), CloneFlags::CLONE_NEWNET).unwrap();
        }
    };
    Builder::new_multi_thread().worker_threads(2).on_thread_start(enter).enable_all().build().unwrap()
}

/// A connection for HTTP/1.1, made by whoever is in the sandbox.
pub(crate) async fn connect(account: &Account) -> TlsStream<TcpStream> {
    let server: Uri = account.server.parse().unwrap();
    let (host, port) = (server.host().unwrap().to_owned(), server.port_u16().unwrap());
    let tcp = TcpStream::connect((host.as_str(), port)).await.unwrap();
    let connector = TlsConnector::from(Arc::new(tls(account, b"http/1.1")));
    connector.connect(ServerName::try_from(host).unwrap(), tcp).await.unwrap()
}

fn tls(account: &Account, protocol: &[u8]) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&account.authorities) {
        roots.add(certificate.unwrap()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let chain = CertificateDer::pem_slice_iter(&account.certificate).map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_slice(&account.key).unwrap();
    let mut config = builder.with_client_auth_cert(chain, key).unwrap();
    config.alpn_protocols = vec![protocol.to_vec()];
    config
}

/// A request that is being made up.
pub(crate) struct Ask<'a> {
    https: &'a Https,
    request: http::request::Builder,
    body: Bytes,
}

impl Ask<'_> {
    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        if name == "accept" {
            self.request.headers_mut().unwrap().remove(header::ACCEPT);
        }
        self.request = self.request.header(name, value);
        self
    }

    pub(crate) fn body(self, kind: &str, body: impl Into<Bytes>) -> Self {
        let body = body.into();
        Ask { body, ..self.header("content-type", kind) }
    }

    /// An object as this media type.
    pub(crate) fn object(self, kind: &str, object: &Value) -> Self {
        let body = match kind {
            PROTOBUF => protobuf::encode(object).unwrap(),
            YAML => serde_yaml::to_string(object).unwrap().into_bytes(),
            _ => object.to_string().into_bytes(),
        };
        self.body(kind, body)
    }

    /// Asks as a user whom nothing was granted.
    pub(crate) fn by(self, name: &str) -> Self {
        self.header("impersonate-user", name)
    }

    /// The answer, which has to come.
    #[track_caller]
    pub(crate) fn send(self) -> Answer {
        self.try_send().unwrap_or_else(|error| panic!("no answer: {error}"))
    }

    /// The answer's status and body.
    #[track_caller]
    pub(crate) fn parts(self) -> (u16, Value) {
        let answer = self.send();
        (answer.code, answer.value())
    }

    /// The answer, or why there is none.
    pub(crate) fn try_send(self) -> Result<Answer, String> {
        let call = self.https.connections.call(self.request.body(full_body(self.body)).unwrap());
        self.https.run(async move {
            let (head, body) = call.await.map_err(|error| error.to_string())?.into_parts();
            let body = base::collect(body, ANSWER_BYTES).await.map_err(|error| error.to_string())?;
            Ok(Answer { code: head.status.as_u16(), headers: head.headers, body })
        })
    }

    /// The events of a watch as they come, or the refusal.
    #[track_caller]
    pub(crate) fn watch(self) -> Result<Events, Box<Answer>> {
        self.try_watch().unwrap_or_else(|error| panic!("no answer: {error}"))
    }

    /// The same, or why there is no answer.
    pub(crate) fn try_watch(self) -> Result<Result<Events, Box<Answer>>, String> {
        let call = self.https.connections.call(self.request.body(full_body(self.body)).unwrap());
        let opened = self.https.run(async move {
            let (head, body) = call.await.map_err(|error| error.to_string())?.into_parts();
            if head.status.is_success() {
                return Ok(Ok((head.headers, body)));
            }
            let body = base::collect(body, ANSWER_BYTES).await.map_err(|error| error.to_string())?;
            Ok::<_, String>(Err(Box::new(Answer { code: head.status.as_u16(), headers: head.headers, body })))
        });
        Ok(opened?.map(|(headers, body)| {
            let (tell, events) = mpsc::channel();
            let binary = header_of(&headers, "content-type").starts_with(PROTOBUF);
            let task = self.https.runtime.spawn(read(body, binary, tell)).abort_handle();
            Events { events, task }
        }))
    }
}

fn header_of(headers: &HeaderMap, name: &str) -> String {
    let values = headers.get_all(name).iter().map(|value| value.to_str().unwrap());
    values.collect::<Vec<_>>().join(", ")
}

/// An answer that came whole.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) code: u16,
    headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    /// A header, or "".
    pub(crate) fn header(&self, name: &str) -> String {
        header_of(&self.headers, name)
    }

    /// The body by its content type; text that is none of an object is a text.
    pub(crate) fn value(&self) -> Value {
        let text = || Value::from(String::from_utf8_lossy(&self.body).into_owned());
        match self.header("content-type").split(';').next() {
            Some(PROTOBUF) => decoded(&self.body).unwrap_or_else(text),
            Some(YAML) => serde_yaml::from_slice(&self.body).unwrap_or_else(|_| text()),
            _ => serde_json::from_slice(&self.body).unwrap_or_else(|_| text()),
        }
    }
}

/// An object in protobuf, as it is in JSON: with what is not absent where it is empty.
fn decoded(body: &[u8]) -> Option<Value> {
    let mut object = protobuf::decode(body).ok()?;
    let text = |field: &str| object[field].as_str().unwrap_or_default();
    if let Some(ty) = schema().by_stated(text("apiVersion"), text("kind")) {
        check(&mut object, ty);
    }
    Some(object)
}

/// The events of a watch.
pub(crate) struct Events {
    events: mpsc::Receiver<Value>,
    task: AbortHandle,
}

impl Events {
    /// The next event; `None` at the watch's end.
    pub(crate) fn next(&self, limit: Duration) -> Result<Option<Value>, String> {
        match self.events.recv_timeout(limit) {
            Ok(event) => Ok(Some(event)),
            Err(mpsc::RecvTimeoutError::Disconnected) => Ok(None),
            Err(mpsc::RecvTimeoutError::Timeout) => Err(format!("no event within {limit:?}")),
        }
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Takes the events from a body as they come.
async fn read(mut body: Body, binary: bool, tell: mpsc::Sender<Value>) {
    let mut held = BytesMut::new();
    while let Some(Ok(frame)) = body.frame().await {
        held.extend_from_slice(frame.data_ref().unwrap_or(&Bytes::new()));
        while let Some(event) = if binary { binary_event(&mut held) } else { line(&mut held) } {
            if tell.send(event).is_err() {
                return;
            }
        }
    }
}

fn line(held: &mut BytesMut) -> Option<Value> {
    let end = held.iter().position(|byte| *byte == b'\n')?;
    Some(serde_json::from_slice(&held.split_to(end + 1)).unwrap())
}

/// An event of a watch in protobuf: its length, then a message with the object in an envelope.
fn binary_event(held: &mut BytesMut) -> Option<Value> {
    let length = usize::try_from(u32::from_be_bytes(held.get(..4)?.try_into().unwrap())).unwrap();
    if held.len() < 4 + length {
        return None;
    }
    held.advance(4);
    let event = WatchEvent::decode(held.split_to(length)).unwrap();
    let object = decoded(&event.object.unwrap_or_default().raw).unwrap();
    Some(json!({"type": event.what, "object": object}))
}

#[derive(prost::Message)]
struct WatchEvent {
    #[prost(string, tag = "1")]
    what: String,
    #[prost(message, tag = "2")]
    object: Option<RawExtension>,
}

#[derive(prost::Message)]
struct RawExtension {
    #[prost(bytes = "vec", tag = "1")]
    raw: Vec<u8>,
}
