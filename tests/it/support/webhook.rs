//! A webhook server with TLS, as people write them: it keeps what it was asked, and answers by the path.

use super::https::{Https, JSON};
use base::{Body, Phase, Supervisor, full_body};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use serde_json::{Value, json};
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// What a webhook answers, as the response of its review or else as it is.
pub(crate) enum Act {
    Review(Value),
    /// The response of a review, after a while.
    Late(Value),
    Raw(StatusCode, String),
    Hang,
}

/// How long a late answer takes: longer than the shortest timeout of a webhook.
const LATE: Duration = Duration::from_secs(2);

/// Decides by the path and the request of a review.
pub(crate) type Decide = fn(&str, &Value) -> Act;

/// What it shows that it is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shows {
    /// A certificate of an authority.
    Issued,
    /// A certificate that has expired.
    Expired,
    /// A certificate that is its own authority's.
    OwnAuthority,
}

/// See the module's comment.
pub(crate) struct WebhookServer {
    pub(crate) port: u16,
    /// `caBundle`.
    pub(crate) bundle: String,
    seen: Arc<Mutex<Vec<(String, Value)>>>,
    connections: Arc<Mutex<usize>>,
    /// Its connections end with it.
    _supervisor: Supervisor,
}

impl WebhookServer {
    /// Serves on every address of the network that `https` is in, under these names.
    pub(crate) fn start(https: &Https, names: &[&str], shows: Shows, decide: Decide) -> Self {
        let (bundle, tls) = identity(names, shows);
        let (seen, connections, supervisor) = (Arc::default(), Arc::default(), Supervisor::new());
        let server = (Arc::clone(&seen), Arc::clone(&connections), supervisor.clone());
        let port = https.run(async move {
            let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
            let port = listener.local_addr().unwrap().port();
            let own = server.2.clone();
            own.detached("webhooks", Phase::Front, serve(listener, tls, decide, server));
            port
        });
        Self { port, bundle, seen, connections, _supervisor: supervisor }
    }

    /// The requests of reviews that came since this was last asked, each with its path and query.
    pub(crate) fn seen(&self) -> Vec<(String, Value)> {
        std::mem::take(&mut *self.seen.lock().unwrap())
    }

    /// How many connections were made.
    pub(crate) fn connections(&self) -> usize {
        *self.connections.lock().unwrap()
    }

    /// A `clientConfig` by URL.
    pub(crate) fn by_url(&self, path: &str) -> Value {
        json!({"url": format!("https://127.0.0.1:{}{path}", self.port), "caBundle": self.bundle})
    }
}

type Shared = (Arc<Mutex<Vec<(String, Value)>>>, Arc<Mutex<usize>>, Supervisor);

/// The bundle to trust, and what the server shows.
pub(crate) fn identity(names: &[&str], shows: Shows) -> (String, TlsAcceptor) {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut authority = CertificateParams::new(names.clone()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority_key = KeyPair::generate().unwrap();
    let root = authority.self_signed(&authority_key).unwrap();
    let bundle = STANDARD.encode(root.pem());
    let mut leaf = CertificateParams::new(names).unwrap();
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    if shows == Shows::Expired {
        leaf.not_after = rcgen::date_time_ymd(2020, 1, 1);
    }
    let key = KeyPair::generate().unwrap();
    let issued = leaf.signed_by(&key, &Issuer::new(authority, &authority_key)).unwrap();
    let (certificate, key) =
        if shows == Shows::OwnAuthority { (root, &authority_key) } else { (issued, &key) };
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_no_client_auth().with_single_cert(vec![certificate.der().clone()], key);
    (bundle, TlsAcceptor::from(Arc::new(config.unwrap())))
}

async fn serve(listener: TcpListener, tls: TlsAcceptor, decide: Decide, shared: Shared) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        *shared.1.lock().unwrap() += 1;
        let (tls, own, supervisor) = (tls.clone(), shared.0.clone(), shared.2.clone());
        supervisor.detached("webhook", Phase::Front, async move {
            // A client that does not trust the server hangs up.
            let Ok(stream) = tls.accept(stream).await else { return };
            let service = service_fn(|request| answer(request, decide, own.clone()));
            drop(http1::Builder::new().serve_connection(TokioIo::new(stream), service).await);
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    decide: Decide,
    seen: Arc<Mutex<Vec<(String, Value)>>>,
) -> Result<Response<Body>, Infallible> {
    let place = request.uri().to_string();
    let path = request.uri().path().to_owned();
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let review: Value = serde_json::from_slice(&body).unwrap();
    let asked = &review["request"];
    seen.lock().unwrap().push((place, asked.clone()));
    let (code, text) = match decide(&path, asked) {
        Act::Review(response) => (StatusCode::OK, reviewed(&review, response)),
        Act::Late(response) => {
            tokio::time::sleep(LATE).await;
            (StatusCode::OK, reviewed(&review, response))
        }
        Act::Raw(code, text) => (code, text),
        Act::Hang => std::future::pending().await,
    };
    let mut response = Response::new(full_body(text));
    *response.status_mut() = code;
    Ok(response)
}

/// The answer to a review, with its uid if the response has none.
fn reviewed(review: &Value, mut response: Value) -> String {
    if response["uid"].is_null() {
        response["uid"] = review["request"]["uid"].clone();
    }
    json!({"apiVersion": review["apiVersion"], "kind": review["kind"], "response": response}).to_string()
}

/// The response that lets a JSON patch change the object.
pub(crate) fn patching(patch: &Value) -> Act {
    let patch = STANDARD.encode(patch.to_string());
    Act::Review(json!({"allowed": true, "patch": patch, "patchType": "JSONPatch"}))
}

/// `RuleWithOperations` about one resource.
pub(crate) fn rule(operations: &[&str], group: &str, version: &str, resource: &str) -> Value {
    json!({"operations": operations, "apiGroups": [group], "apiVersions": [version], "resources": [resource]})
}

/// A webhook without effects; `more` is merged into it.
pub(crate) fn hook(name: &str, config: Value, rule: Value, more: &Value) -> Value {
    let mut hook = json!({"name": format!("{name}.knarr.test"), "clientConfig": config, "rules": [rule],
        "sideEffects": "None", "admissionReviewVersions": ["v1"]});
    ::api::patch::merge(&mut hook, more).unwrap();
    hook
}

/// A configuration of webhooks, for as long as it is held.
pub(crate) struct Configured<'a> {
    https: &'a Https,
    pub(crate) path: String,
}

/// Configures webhooks of a kind.
#[track_caller]
pub(crate) fn configure<'a>(https: &'a Https, kind: &str, name: &str, hooks: &[Value]) -> Configured<'a> {
    let path = format!("/apis/admissionregistration.k8s.io/v1/{}s", kind.to_lowercase());
    let configuration = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": kind,
        "metadata": {"name": name}, "webhooks": hooks});
    let (code, made) = https.send("POST", &path, JSON, &configuration);
    assert_eq!(code, 201, "{made}");
    Configured { https, path: format!("{path}/{name}") }
}

impl Drop for Configured<'_> {
    fn drop(&mut self) {
        // A test that fails must not fail the next one; some have removed it themselves.
        if let Err(error) = self.https.ask("DELETE", &self.path).try_send() {
            eprintln!("{} stays: {error}", self.path);
        }
    }
}
