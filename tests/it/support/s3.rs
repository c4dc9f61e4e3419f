//! S3-compatible storage in a sandbox's network, over plain HTTP, with one bucket in memory. It verifies signatures by
//! what Amazon publishes of them, and not by what knarr does.

use super::https::runtime;
use base::{Body, Phase, Supervisor, full_body, hex};
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use ring::hmac;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, mpsc};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

/// Where it is, from within the sandbox.
pub(crate) const STORAGE: &str = "10.99.0.2:9000";
pub(crate) const BUCKET: &str = "backups";
/// Who may do what they like.
pub(crate) const KEYS: (&str, &str) = ("captain", "a/secret+key=");
/// A list has so many on a page.
const PAGE: usize = 2;

#[derive(Default)]
struct Kept {
    objects: BTreeMap<String, Vec<u8>>,
    uploads: BTreeMap<String, BTreeMap<usize, Vec<u8>>>,
    /// How many uploads in parts were finished.
    finished: usize,
    /// Answers that are to fail, and what is kept to be damaged.
    fail: usize,
    deny: bool,
    damage: bool,
}

/// See the module's comment.
pub(crate) struct Storage {
    kept: Arc<Mutex<Kept>>,
    _supervisor: Supervisor,
    _runtime: Runtime,
}

impl Storage {
    pub(crate) fn start(network: PathBuf) -> Self {
        let (runtime, supervisor) = (runtime(Some(network)), Supervisor::new());
        let kept = Arc::<Mutex<Kept>>::default();
        let (tell, told) = mpsc::channel();
        let (own, connections) = (kept.clone(), supervisor.clone());
        runtime.spawn(async move {
            let listener = TcpListener::bind("0.0.0.0:9000").await.unwrap();
            tell.send(()).unwrap();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let own = own.clone();
                connections.detached("storage", Phase::Front, async move {
                    let service = service_fn(|request| answer(request, own.clone()));
                    drop(http1::Builder::new().serve_connection(TokioIo::new(stream), service).await);
                });
            }
        });
        told.recv().unwrap();
        Self { kept, _supervisor: supervisor, _runtime: runtime }
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.kept.lock().unwrap().objects.keys().cloned().collect()
    }

    /// How many files were put in parts, and how many such attempts lie there unfinished.
    pub(crate) fn in_parts(&self) -> (usize, usize) {
        let kept = self.kept.lock().unwrap();
        (kept.finished, kept.uploads.len())
    }

    /// Fails at the next requests.
    pub(crate) fn fail(&self, times: usize) {
        self.kept.lock().unwrap().fail = times;
    }

    /// Lets nobody do anything from now on, or no longer.
    pub(crate) fn deny(&self, deny: bool) {
        self.kept.lock().unwrap().deny = deny;
    }

    /// Keeps other bytes than it is sent from now on, or no longer.
    pub(crate) fn damage(&self, damage: bool) {
        self.kept.lock().unwrap().damage = damage;
    }
}

fn say(code: StatusCode, text: impl Into<String>) -> Response<Body> {
    let mut response = Response::new(full_body(text.into()));
    *response.status_mut() = code;
    response
}

fn refuse(code: StatusCode, name: &str) -> Response<Body> {
    say(
        code,
        format!("<?xml version=\"1.0\"?><Error><Code>{name}</Code><Message>no &amp; no</Message></Error>"),
    )
}

/// The signature that a request should have.
fn signature(request: &Request<Incoming>, (scope, names): (&str, &str)) -> Option<String> {
    let header = |name: &str| request.headers().get(name)?.to_str().ok();
    let mut query: Vec<&str> =
        request.uri().query().unwrap_or_default().split('&').filter(|one| !one.is_empty()).collect();
    query.sort_unstable();
    let lines: Option<String> =
        names.split(';').map(|name| Some(format!("{name}:{}\n", header(name)?))).collect();
    let canonical = format!(
        "{}\n{}\n{}\n{}\n{names}\n{}",
        request.method(),
        request.uri().path(),
        query.join("&"),
        lines?,
        header("x-amz-content-sha256")?
    );
    let text = format!(
        "AWS4-HMAC-SHA256\n{}\n{scope}\n{}",
        header("x-amz-date")?,
        hex::sha256(canonical.as_bytes())
    );
    let mut key = format!("AWS4{}", KEYS.1).into_bytes();
    for part in scope.split('/').chain([text.as_str()]) {
        key = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), part.as_bytes()).as_ref().to_vec();
    }
    Some(hex::of(&key))
}

fn is_signed(request: &Request<Incoming>) -> bool {
    let check = || {
        let text = request.headers().get("authorization")?.to_str().ok()?;
        let part = |name: &str| Some(text.split_once(name)?.1.split(',').next()?.to_owned());
        let (who, scope) = part("Credential=")
            .and_then(|all| all.split_once('/').map(|(a, b)| (a.to_owned(), b.to_owned())))?;
        let names = part("SignedHeaders=")?;
        let needed = ["host", "x-amz-content-sha256", "x-amz-date"];
        let all_signed = needed.iter().all(|name| names.split(';').any(|one| one == *name));
        let right = signature(request, (&scope, &names))? == part("Signature=")?;
        Some(who == KEYS.0 && scope.ends_with("/harbour-1/s3/aws4_request") && all_signed && right)
    };
    check().unwrap_or(false)
}

async fn answer(request: Request<Incoming>, kept: Arc<Mutex<Kept>>) -> Result<Response<Body>, Infallible> {
    if !is_signed(&request) {
        return Ok(refuse(StatusCode::FORBIDDEN, "SignatureDoesNotMatch"));
    }
    let (head, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    if head.headers["x-amz-content-sha256"] != hex::sha256(&body).as_str() {
        return Ok(refuse(StatusCode::BAD_REQUEST, "XAmzContentSHA256Mismatch"));
    }
    let mut kept = kept.lock().unwrap();
    if kept.fail > 0 {
        kept.fail -= 1;
        return Ok(refuse(StatusCode::SERVICE_UNAVAILABLE, "SlowDown"));
    }
    if kept.deny {
        return Ok(refuse(StatusCode::FORBIDDEN, "AccessDenied"));
    }
    let path = head.uri.path().strip_prefix('/').unwrap_or_default();
    let (bucket, key) = path.split_once('/').unwrap_or((path, ""));
    if bucket != BUCKET {
        return Ok(refuse(StatusCode::NOT_FOUND, "NoSuchBucket"));
    }
    let query: BTreeMap<String, String> =
        base::query::pairs(head.uri.query().unwrap_or_default()).into_iter().collect();
    Ok(kept.answer(&head.method, &base::query::unescape(key), (&query, &body)))
}

impl Kept {
    fn keep(&mut self, key: &str, mut bytes: Vec<u8>) {
        if self.damage {
            bytes.reverse();
        }
        self.objects.insert(key.to_owned(), bytes);
    }

    fn answer(
        &mut self,
        method: &Method,
        key: &str,
        (query, body): (&BTreeMap<String, String>, &[u8]),
    ) -> Response<Body> {
        let upload = query.get("uploadId");
        match (method.as_str(), upload) {
            ("GET", _) if key.is_empty() => self.list(query),
            ("GET", _) => match self.objects.get(key) {
                Some(bytes) => Response::new(full_body(bytes.clone())),
                None => refuse(StatusCode::NOT_FOUND, "NoSuchKey"),
            },
            ("PUT", Some(upload)) => {
                let number = query["partNumber"].parse().unwrap();
                self.uploads.get_mut(upload).unwrap().insert(number, body.to_vec());
                let mut response = say(StatusCode::OK, "");
                response.headers_mut().insert("etag", format!("\"{}\"", hex::sha256(body)).parse().unwrap());
                response
            }
            ("PUT", None) => {
                self.keep(key, body.to_vec());
                say(StatusCode::OK, "")
            }
            ("POST", None) => {
                let name = format!("{key}&{}", self.finished);
                self.uploads.insert(name.clone(), BTreeMap::new());
                let name = name.replace('&', "&amp;");
                say(StatusCode::OK, format!("<R><UploadId>{name}</UploadId></R>"))
            }
            ("POST", Some(upload)) => {
                let parts = self.uploads.remove(upload).unwrap();
                let text = String::from_utf8(body.to_vec()).unwrap();
                let whole = parts.iter().all(|(number, part)| {
                    text.contains(&format!(
                        "<PartNumber>{number}</PartNumber><ETag>\"{}\"</ETag>",
                        hex::sha256(part)
                    ))
                });
                assert!(whole, "{text}");
                self.keep(key, parts.into_values().collect::<Vec<_>>().concat());
                self.finished += 1;
                say(StatusCode::OK, "<R></R>")
            }
            ("DELETE", Some(upload)) => {
                self.uploads.remove(upload);
                say(StatusCode::NO_CONTENT, "")
            }
            ("DELETE", None) => {
                self.objects.remove(key);
                say(StatusCode::NO_CONTENT, "")
            }
            _ => refuse(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed"),
        }
    }

    fn list(&self, query: &BTreeMap<String, String>) -> Response<Body> {
        let after = query.get("continuation-token").map_or("", String::as_str);
        let fitting = |key: &&String| key.starts_with(&query["prefix"]) && key.as_str() > after;
        let all: Vec<&String> = self.objects.keys().filter(fitting).collect();
        let page = &all[..all.len().min(PAGE)];
        let items: String = page
            .iter()
            .map(|key| {
                format!(
                    "<Contents><Key>{key}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified><Size>{}</Size></Contents>",
                    self.objects[*key].len()
                )
            })
            .collect();
        let more = all.len() > PAGE;
        let next = page
            .last()
            .filter(|_| more)
            .map(|key| format!("<NextContinuationToken>{key}</NextContinuationToken>"));
        say(
            StatusCode::OK,
            format!("<L><IsTruncated>{more}</IsTruncated>{}{items}</L>", next.unwrap_or_default()),
        )
    }
}
