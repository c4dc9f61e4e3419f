//! A registry of images in a sandbox's network, over plain HTTP. What it does depends on the first part of a
//! repository: `open`, `private` (basic authentication), `slow`, `corrupt` (a layer with other bytes), `foreign` (for
//! another architecture alone); others are not there.

use super::https::runtime;
use super::image::{Image, Parts, digest};
use base::{Body, Phase, Supervisor, full_body};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::json;
use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

/// Where it is, from within the sandbox.
pub(crate) const REGISTRY: &str = "10.99.0.2:5000";
/// Who may read what is private.
pub(crate) const USER: (&str, &str) = ("captain", "secret");

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// Long enough for two to want the same.
const SLOW: Duration = Duration::from_secs(3);

struct Shared {
    image: Parts,
    /// One that nobody has yet, so that its layer is fetched.
    corrupt: Parts,
    /// An index with an image for no machine of ours.
    foreign: Vec<u8>,
    seen: Mutex<Vec<String>>,
}

impl Shared {
    fn image_of(&self, class: &str) -> &Parts {
        if class == "corrupt" { &self.corrupt } else { &self.image }
    }
}

/// See the module's comment.
pub(crate) struct Registry {
    shared: Arc<Shared>,
    _supervisor: Supervisor,
    _runtime: Runtime,
}

impl Registry {
    pub(crate) fn start(network: PathBuf) -> Self {
        let (runtime, supervisor) = (runtime(Some(network)), Supervisor::new());
        let image = Image::new("", "from the registry\n").parts();
        let other = json!({"mediaType": MANIFEST, "digest": digest(&image.manifest), "size": image.manifest.len(),
            "platform": {"architecture": "s390x", "os": "linux"}});
        let foreign = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [other]});
        let foreign = foreign.to_string().into_bytes();
        let corrupt = Image::new("", "never seen\n").parts();
        let shared = Arc::new(Shared { image, corrupt, foreign, seen: Mutex::default() });
        let (tell, told) = mpsc::channel();
        let (own, connections) = (shared.clone(), supervisor.clone());
        runtime.spawn(async move {
            let listener = TcpListener::bind("0.0.0.0:5000").await.unwrap();
            tell.send(()).unwrap();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let own = own.clone();
                connections.detached("registry", Phase::Front, async move {
                    let service = service_fn(|request| answer(request, own.clone()));
                    drop(http1::Builder::new().serve_connection(TokioIo::new(stream), service).await);
                });
            }
        });
        told.recv().unwrap();
        Self { shared, _supervisor: supervisor, _runtime: runtime }
    }

    /// How often the manifest of a repository was fetched in full.
    pub(crate) fn manifests_of(&self, repository: &str) -> usize {
        let path = format!("/v2/{repository}/manifests/");
        self.shared.seen.lock().unwrap().iter().filter(|seen| seen.starts_with(&path)).count()
    }

    /// How often the layer of a repository was fetched in full.
    pub(crate) fn layers_of(&self, repository: &str) -> usize {
        let path = format!("/v2/{repository}/blobs/{}", digest(&self.shared.image.layer));
        self.shared.seen.lock().unwrap().iter().filter(|seen| **seen == path).count()
    }
}

fn plain(code: StatusCode) -> Response<Body> {
    let mut response = Response::new(full_body(""));
    *response.status_mut() = code;
    response
}

fn is_user(request: &Request<Incoming>) -> bool {
    let expected = format!("Basic {}", STANDARD.encode(format!("{}:{}", USER.0, USER.1)));
    request.headers().get(header::AUTHORIZATION).is_some_and(|value| value.as_bytes() == expected.as_bytes())
}

async fn answer(request: Request<Incoming>, shared: Arc<Shared>) -> Result<Response<Body>, Infallible> {
    let path = request.uri().path().to_owned();
    let parts: Vec<&str> = path.trim_start_matches("/v2/").split('/').collect();
    let [class, _, kind, reference] = parts.as_slice() else { return Ok(plain(StatusCode::OK)) };
    if *class == "private" && !is_user(&request) {
        let mut response = plain(StatusCode::UNAUTHORIZED);
        response.headers_mut().insert(header::WWW_AUTHENTICATE, "Basic realm=\"private\"".parse().unwrap());
        return Ok(response);
    }
    let known = ["open", "private", "slow", "corrupt", "foreign"].contains(class);
    let Some((mime, bytes)) = content(&shared, class, kind, reference).filter(|_| known) else {
        return Ok(plain(StatusCode::NOT_FOUND));
    };
    let is_layer = *reference == digest(&shared.image_of(class).layer);
    if request.method() == Method::GET {
        shared.seen.lock().unwrap().push(path.clone());
    }
    if *class == "slow" && is_layer {
        tokio::time::sleep(SLOW).await;
    }
    let bytes = if *class == "corrupt" && is_layer { vec![b'x'; bytes.len()] } else { bytes };
    let size = bytes.len();
    let mut response =
        Response::new(full_body(if request.method() == Method::HEAD { Vec::new() } else { bytes }));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, mime.parse().unwrap());
    headers.insert(header::CONTENT_LENGTH, size.into());
    Ok(response)
}

fn content(shared: &Shared, class: &str, kind: &str, reference: &str) -> Option<(&'static str, Vec<u8>)> {
    let image = shared.image_of(class);
    if kind == "manifests" {
        let own = digest(&image.manifest);
        return match class {
            "foreign" if reference != own => Some((INDEX, shared.foreign.clone())),
            _ => Some((MANIFEST, image.manifest.clone())),
        };
    }
    let blobs = [&image.layer, &image.config];
    let blob = blobs.into_iter().find(|blob| digest(blob) == reference)?;
    Some(("application/octet-stream", blob.clone()))
}
