//! Charts over HTTPS and plain HTTP: a repository (`/private`, with basic authentication, and `/open`) and a registry
//! (`team/web`, with bearer tokens). It keeps who was asked for what, and what was shown.

use super::https::Https;
use super::registry::USER;
use super::webhook::{Shows, identity};
use base::{Body, Phase, Supervisor, full_body};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::json;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CHART: &str = "application/vnd.cncf.helm.chart.content.v1.tar+gzip";
const TOKEN: &str = "a-token-for-a-while";

/// A request: the host that was meant, the path, and the kind of credentials ("" for none).
pub(crate) type Asked = (String, String, String);

struct Shared {
    archive: Vec<u8>,
    seen: Mutex<Vec<Asked>>,
    /// Its port with TLS.
    port: u16,
}

/// See the module's comment.
pub(crate) struct ChartServer {
    pub(crate) port: u16,
    pub(crate) plain_port: u16,
    /// The authority that vouches for it, in PEM.
    pub(crate) authority: String,
    shared: Arc<Shared>,
    _supervisor: Supervisor,
}

impl ChartServer {
    /// Serves one archive, as 127.0.0.1 and localhost, in the network that `https` is in.
    pub(crate) fn start(https: &Https, archive: Vec<u8>) -> Self {
        let (bundle, tls) = identity(&["127.0.0.1", "localhost"], Shows::Issued);
        let authority = String::from_utf8(STANDARD.decode(bundle).unwrap()).unwrap();
        let supervisor = Supervisor::new();
        let own = supervisor.clone();
        let (shared, port, plain_port) = https.run(async move {
            let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
            let plain = TcpListener::bind("0.0.0.0:0").await.unwrap();
            let (port, plain_port) =
                (listener.local_addr().unwrap().port(), plain.local_addr().unwrap().port());
            let shared = Arc::new(Shared { archive, seen: Mutex::default(), port });
            let (secure, clear) = ((own.clone(), shared.clone()), (own.clone(), shared.clone()));
            own.detached("charts", Phase::Front, async move {
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    let (tls, shared) = (tls.clone(), secure.1.clone());
                    secure.0.detached("chart", Phase::Front, async move {
                        // A client that does not trust the server hangs up.
                        let Ok(stream) = tls.accept(stream).await else { return };
                        serve(stream, "https", shared).await;
                    });
                }
            });
            own.detached("charts in the clear", Phase::Front, async move {
                loop {
                    let (stream, _) = plain.accept().await.unwrap();
                    clear.0.detached("chart", Phase::Front, serve(stream, "http", clear.1.clone()));
                }
            });
            (shared, port, plain_port)
        });
        Self { port, plain_port, authority, shared, _supervisor: supervisor }
    }

    /// What was asked since this was last called.
    pub(crate) fn seen(&self) -> Vec<Asked> {
        std::mem::take(&mut *self.shared.seen.lock().unwrap())
    }
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin>(stream: S, scheme: &'static str, shared: Arc<Shared>) {
    let service = service_fn(move |request| {
        let response = answer(&request, scheme, &shared);
        async { Ok::<_, Infallible>(response) }
    });
    drop(http1::Builder::new().serve_connection(TokioIo::new(stream), service).await);
}

fn say(code: StatusCode, bytes: impl Into<Vec<u8>>) -> Response<Body> {
    let mut response = Response::new(full_body(bytes.into()));
    *response.status_mut() = code;
    response
}

fn with(mut response: Response<Body>, name: header::HeaderName, value: &str) -> Response<Body> {
    response.headers_mut().insert(name, value.parse().unwrap());
    response
}

fn answer(request: &Request<Incoming>, scheme: &str, shared: &Shared) -> Response<Body> {
    let text = |name: header::HeaderName| {
        request.headers().get(name).map_or(String::new(), |value| value.to_str().unwrap().to_owned())
    };
    let (host, shown, path) = (text(header::HOST), text(header::AUTHORIZATION), request.uri().path());
    let kind = shown.split(' ').next().unwrap_or_default().to_owned();
    shared.seen.lock().unwrap().push((host.clone(), path.to_owned(), kind));
    let is_user = shown == format!("Basic {}", STANDARD.encode(format!("{}:{}", USER.0, USER.1)));
    let refused = say(StatusCode::UNAUTHORIZED, "");
    match path {
        "/private/index.yaml" if !is_user => {
            with(refused, header::WWW_AUTHENTICATE, "Basic realm=\"charts\"")
        }
        "/private/index.yaml" | "/open/index.yaml" => say(StatusCode::OK, index(shared)),
        "/token" if is_user && asked_for(request) == ["charts", "repository:team/web:pull"] => {
            say(StatusCode::OK, json!({"token": TOKEN}).to_string())
        }
        "/token" => refused,
        _ if path.starts_with("/v2/") && shown != format!("Bearer {TOKEN}") => {
            let asked = format!(
                "Bearer realm=\"{scheme}://{host}/token\",service=\"charts\",scope=\"repository:team/web:pull\""
            );
            with(refused, header::WWW_AUTHENTICATE, &asked)
        }
        _ if path.ends_with(".tgz") => say(StatusCode::OK, shared.archive.clone()),
        _ => registry(path, request.uri().query(), &shared.archive),
    }
}

/// The values of a query.
fn asked_for(request: &Request<Incoming>) -> Vec<String> {
    let pairs = base::query::pairs(request.uri().query().unwrap_or_default());
    pairs.into_iter().map(|(_, value)| value).collect()
}

/// Versions of one archive that lie here, at another host, and in a registry of another host.
fn index(shared: &Shared) -> String {
    let (port, digest) = (shared.port, base::hex::sha256(&shared.archive));
    let entry = |name: &str, url: &str| {
        format!("  {name}:\n  - {{version: 1.0.0, urls: ['{url}'], digest: '{digest}'}}\n")
    };
    let far = entry("far", &format!("https://localhost:{port}/far/web.tgz"));
    let lent = entry("lent", &format!("oci://localhost:{port}/team/web:1.0.0"));
    format!("apiVersion: v1\nentries:\n{}{far}{lent}", entry("web", "web-1.0.0.tgz"))
}

/// Tags in two pages, a manifest, and the archive in it.
fn registry(path: &str, query: Option<&str>, archive: &[u8]) -> Response<Body> {
    let digest = format!("sha256:{}", base::hex::sha256(archive));
    match (path, query) {
        ("/v2/team/web/tags/list", None) => {
            let page = say(StatusCode::OK, json!({"tags": ["0.9.0", "latest"]}).to_string());
            with(page, header::LINK, "</v2/team/web/tags/list?last=latest>; rel=\"next\"")
        }
        ("/v2/team/web/tags/list", Some(_)) => {
            say(StatusCode::OK, json!({"tags": ["1.0.0", "2.0.0"]}).to_string())
        }
        ("/v2/team/web/manifests/1.0.0", _) => {
            let layer = json!({"mediaType": CHART, "digest": digest, "size": archive.len()});
            let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "layers": [layer]});
            with(say(StatusCode::OK, manifest.to_string()), header::CONTENT_TYPE, MANIFEST)
        }
        _ if path == format!("/v2/team/web/blobs/{digest}") => say(StatusCode::OK, archive),
        _ => say(StatusCode::NOT_FOUND, ""),
    }
}
