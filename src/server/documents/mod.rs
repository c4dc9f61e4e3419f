//! The documents the server publishes about itself, all derived from the table of kinds: discovery,
//! OpenAPI, and the version.

mod cache;
mod discovery;
mod gnostic;
#[cfg(test)]
mod golden;
mod openapi;
mod swagger;
mod typing;

pub(crate) use swagger::Swagger;
pub(crate) use typing::declaration;

use crate::catalogue::{Added, Custom};
use crate::http::accept::{Clause, clauses};
use crate::http::query::Query;
use crate::http::{answer, compress};
use crate::registry::render::{self, PROTOBUF, YAML};
use api::status::Refusal;
use base::{Body, clock};
use bytes::Bytes;
use cache::{Cache, Encoding, Key, Published};
use http::uri::Authority;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

const JSON: &str = "application/json";
/// Encodings of OpenAPI documents as clients ask for them, and the media type that is answered. Older
/// clients ask by a name that is no media type: `@` cannot be in one.
const OPENAPI_V2: [(&str, Encoding, &str); 3] = [
    (JSON, Encoding::Json, JSON),
    (
        "application/com.github.proto-openapi.spec.v2@v1.0+protobuf",
        Encoding::Protobuf,
        "application/com.github.proto-openapi.spec.v2.v1.0+protobuf",
    ),
    (
        "application/com.github.proto-openapi.spec.v2.v1.0+protobuf",
        Encoding::Protobuf,
        "application/com.github.proto-openapi.spec.v2.v1.0+protobuf",
    ),
];
const OPENAPI_V3: [(&str, Encoding, &str); 3] = [
    (JSON, Encoding::Json, JSON),
    (
        "application/com.github.proto-openapi.spec.v3.v1.0+protobuf",
        Encoding::Protobuf,
        "application/com.github.proto-openapi.spec.v3.v1.0+protobuf",
    ),
    (
        "application/com.github.proto-openapi.spec.v3@v1.0+protobuf",
        Encoding::Protobuf,
        "application/com.github.proto-openapi.spec.v3.v1.0+protobuf",
    ),
];
/// How long a document whose address has its digest may be kept.
const FOREVER: jiff::SignedDuration = jiff::SignedDuration::from_hours(365 * 24);

/// What other API servers, whose groups are served through this one, add to its documents.
pub(crate) trait Others: Send + Sync {
    /// An APIGroupList with their groups.
    fn groups(&self, own: Value) -> Value {
        own
    }

    /// An APIGroup with their versions.
    fn group(&self, _name: &str, own: Option<Value>) -> Option<Value> {
        own
    }

    /// An APIGroupDiscoveryList with their groups.
    fn aggregated(&self, own: Value) -> Value {
        own
    }

    /// Their parts of OpenAPI v2, and what tells them from what they were.
    fn openapi_v2(&self) -> (u64, Vec<Arc<Swagger>>) {
        (0, Vec::new())
    }

    /// Where their documents of OpenAPI v3 are, by name.
    fn openapi_v3(&self) -> Vec<(String, String)> {
        Vec::new()
    }

    /// Where their discovery is.
    fn paths(&self) -> Vec<String> {
        Vec::new()
    }
}

/// Nobody else.
#[cfg(test)]
impl Others for () {}

/// Makes the documents.
pub(crate) struct Documents {
    version: String,
    others: Arc<dyn Others>,
    cache: Cache,
    /// Held by who makes one: what many ask for at once is made once.
    making: Mutex<()>,
    /// The digests of the documents of OpenAPI v3 by their names.
    tags: OnceLock<BTreeMap<String, String>>,
}

/// How a client wants a document.
struct Asked<'a> {
    accept: Vec<Clause<'a>>,
    /// The digests of what it has.
    has: &'a str,
    gzip: bool,
    /// The digest in the address.
    hash: &'a str,
    /// Where the client found the server.
    host: &'a str,
}

impl Asked<'_> {
    fn has(&self, tag: &str) -> bool {
        self.has.split(',').map(str::trim).any(|own| own.trim_start_matches("W/").trim_matches('"') == tag)
    }
}

impl Documents {
    pub(crate) fn new(version: String, others: Arc<dyn Others>) -> Self {
        Self { version, others, cache: Cache::default(), making: Mutex::default(), tags: OnceLock::new() }
    }

    /// The document at a path; `added` is what definitions add to the tables.
    pub(crate) fn answer<B>(
        &self,
        path: &str,
        query: &Query,
        request: &Request<B>,
        added: &Added,
    ) -> Result<Response<Body>, Refusal> {
        let headers = request.headers();
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let asked = Asked {
            accept: clauses(text(header::ACCEPT)),
            has: text(header::IF_NONE_MATCH),
            gzip: compress::is_accepted(headers),
            hash: query.get("hash"),
            host: request.uri().authority().map_or(text(header::HOST), Authority::as_str),
        };
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        // Only documents that no table of routes leads to have heads of their own.
        let routed = !matches!(parts[..], [""] | ["apis"] | ["apis", _] | ["openapi", ..]);
        if routed && request.method() == Method::HEAD {
            return Err(Refusal::method_not_allowed());
        }
        match parts[..] {
            [""] => Ok(answer::pretty(&json!({"paths": self.paths(added)}))),
            ["version"] if !asked.accept.iter().any(|clause| clause.takes(JSON)) => {
                Err(render::unknown_media(JSON))
            }
            ["version"] => Ok(answer::pretty(&self.version())),
            ["openapi", "v2"] => self.openapi(added, &asked, "openapi/v2", &OPENAPI_V2),
            ["openapi", "v3"] => Ok(self.index(added)),
            ["openapi", "v3", ..] => self.openapi(added, &asked, path.trim_start_matches('/'), &OPENAPI_V3),
            ref parts => self.discovered(added, &asked, parts, routed),
        }
    }

    /// `/version`: Kubernetes' version, with knarr's behind a plus sign.
    fn version(&self) -> Value {
        let (major, minor) = self.numbers();
        let oldest =
            minor.parse::<u32>().map_or_else(|_| minor.to_owned(), |own| own.saturating_sub(1).to_string());
        json!({
            "major": major,
            "minor": minor,
            "emulationMajor": major,
            "emulationMinor": minor,
            "minCompatibilityMajor": major,
            "minCompatibilityMinor": oldest,
            "gitVersion": self.version,
            "gitCommit": "", "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z",
            "goVersion": "none", "compiler": "rustc",
            "platform": format!("linux/{}", architecture()),
        })
    }

    /// Major and minor version.
    fn numbers(&self) -> (&str, &str) {
        let mut parts = self.version.trim_start_matches('v').split('.');
        (parts.next().unwrap_or_default(), parts.next().unwrap_or_default())
    }

    /// Writes the OpenAPI document of a path.
    fn write(&self, added: &Added, path: &str, out: &mut dyn Write) -> io::Result<bool> {
        let (major, minor) = self.numbers();
        let version = format!("{major}.{minor}");
        match path.strip_prefix("openapi/v3/") {
            Some(name) => openapi::v3(out, added, name, &version),
            None => openapi::v2(out, added, &self.others.openapi_v2().1, &version).map(|()| true),
        }
    }

    /// The digests of all documents of OpenAPI v3 without definitions: each is written once to know it, and
    /// kept by nobody.
    fn tags(&self) -> &BTreeMap<String, String> {
        self.tags.get_or_init(|| {
            let none = Added::default();
            let tag =
                |name: &String| cache::tag(&|out| self.write(&none, &format!("openapi/v3/{name}"), out));
            let named = openapi::documents(&none).into_iter();
            named.filter_map(|name| Some((name.clone(), tag(&name).ok()??))).collect()
        })
    }

    /// What tells a document of OpenAPI v3 that definitions are part of from what it was: which they are.
    /// Hundreds of documents need not be written to see that one of them changed. `None` for those that
    /// nothing can change.
    fn state(&self, added: &Added, name: &str) -> Option<String> {
        let place = name.strip_prefix("apis/")?.split_once('/')?;
        let here = |custom: &&Custom| place == (custom.kind.group, custom.kind.version);
        let revision = |custom: &Custom| (custom.kind.plural, custom.revision());
        let revisions: Vec<_> = added.customs().iter().filter(here).map(revision).collect();
        if revisions.is_empty() {
            return None;
        }
        let said = format!("{} {name} {revisions:?}", self.version);
        cache::tag(&|out| out.write_all(said.as_bytes()).map(|()| true)).ok()?
    }

    /// `/openapi/v3`: where each document is. It is served as a file that nobody knows the kind of, made now.
    fn index(&self, added: &Added) -> Response<Body> {
        let place = |name: String| {
            let tag = self.state(added, &name).or_else(|| self.tags().get(&name).cloned())?;
            let url = format!("/openapi/v3/{name}?hash={tag}");
            Some((name, json!({"serverRelativeURL": url})))
        };
        let mut paths: serde_json::Map<String, Value> =
            openapi::documents(added).into_iter().filter_map(place).collect();
        let others = self.others.openapi_v3().into_iter();
        paths.extend(others.map(|(name, place)| (name, json!({"serverRelativeURL": place}))));
        let mut response = answer::text(StatusCode::OK, json!({"paths": paths}).to_string());
        let now = http_date(clock::now(), "GMT");
        response.headers_mut().extend(now.map(|now| (header::LAST_MODIFIED, now)));
        response
    }

    fn openapi(
        &self,
        added: &Added,
        asked: &Asked<'_>,
        path: &str,
        forms: &[(&str, Encoding, &'static str)],
    ) -> Result<Response<Body>, Refusal> {
        let acceptable = |clause: &Clause<'_>| forms.iter().find(|(media, _, _)| clause.takes(media));
        let Some(&(_, encoding, media)) = asked.accept.iter().find_map(acceptable) else {
            let mut response = answer::empty(StatusCode::NOT_ACCEPTABLE);
            response.headers_mut().append(header::VARY, ACCEPT);
            return Ok(response);
        };
        let state = match path.strip_prefix("openapi/v3/") {
            Some(name) => self.state(added, name).unwrap_or_default(),
            None => format!("{} {}", added.revision(), self.others.openapi_v2().0),
        };
        let key = Key { path: path.to_owned(), encoding, state };
        let published = self.published(added, key).map_err(Refusal::internal)?;
        let Some(published) = published else { return Ok(answer::empty(StatusCode::NOT_FOUND)) };
        if !asked.hash.is_empty() && asked.hash != published.tag {
            let mut response = answer::typed(moved(&format!("/{path}?hash={}", published.tag)), media);
            mark(response.headers_mut(), &published.tag);
            return Ok(response);
        }
        let mut response = if asked.has(&published.tag) {
            answer::empty(StatusCode::NOT_MODIFIED)
        } else {
            whole(asked, &published, media).map_err(Refusal::internal)?
        };
        let headers = response.headers_mut();
        if !asked.hash.is_empty() {
            headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("public, immutable"));
            headers.extend(http_date(clock::now() + FOREVER, "UTC").map(|date| (header::EXPIRES, date)));
        }
        mark(headers, &published.tag);
        Ok(response)
    }

    /// An OpenAPI document as it is kept, made if it is not.
    fn published(&self, added: &Added, key: Key) -> io::Result<Option<Arc<Published>>> {
        if let Some(kept) = self.cache.get(&key) {
            return Ok(Some(kept));
        }
        let _only = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        self.made(added, key)
    }

    fn made(&self, added: &Added, key: Key) -> io::Result<Option<Arc<Published>>> {
        if let Some(kept) = self.cache.get(&key) {
            return Ok(Some(kept));
        }
        let published = match key.encoding {
            Encoding::Json => {
                let mut made = cache::publish(&|out| self.write(added, &key.path, out))?;
                let told = key.path != "openapi/v2" && !key.state.is_empty();
                if let Some(made) = made.as_mut().filter(|_| told) {
                    made.tag.clone_from(&key.state);
                }
                made
            }
            Encoding::Protobuf => {
                let json = Key { encoding: Encoding::Json, ..key.clone() };
                let Some(json) = self.made(added, json)? else { return Ok(None) };
                let document = if key.path == "openapi/v2" { &gnostic::V2 } else { &gnostic::V3 };
                Some(cache::encoded(&json.tag, |out| document.encode(json.reader(), out))?)
            }
        };
        Ok(published.map(|published| self.cache.keep(key, published)))
    }

    /// `/`: what can be asked for.
    fn paths(&self, added: &Added) -> Vec<String> {
        let mut paths = discovery::paths(added);
        paths.extend(self.others.paths());
        paths.sort();
        paths.dedup();
        paths
    }

    /// Discovery in all its forms; `routed` tells how an `Accept` header is refused.
    fn discovered(
        &self,
        added: &Added,
        asked: &Asked<'_>,
        parts: &[&str],
        routed: bool,
    ) -> Result<Response<Body>, Refusal> {
        if let ["api" | "apis"] = parts
            && let Some(encoding) = asked.accept.iter().find_map(aggregated)
        {
            let core = parts == ["api"];
            let own = discovery::aggregated(added, core);
            let document = if core { own } else { self.others.aggregated(own) };
            let mut response = tagged(asked, &document, encoding)?;
            let content_type = format!("{encoding};g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList");
            let headers = response.headers_mut();
            if let Ok(content_type) = HeaderValue::try_from(content_type) {
                headers.insert(header::CONTENT_TYPE, content_type);
            }
            headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("public"));
            return Ok(response);
        }
        let document = match *parts {
            ["api"] => Some(discovery::core_versions(asked.host)),
            ["apis"] => Some(self.others.groups(discovery::groups(added))),
            ["api", "v1"] => discovery::resources(added, "", "v1"),
            ["apis", group] => self.others.group(group, discovery::group(added, group)),
            ["apis", group, version] => discovery::resources(added, group, version),
            _ => None,
        };
        let Some(document) = document else { return nothing(added, parts) };
        let known = asked.accept.iter().any(|clause| encoding(clause).is_some());
        let unrouted =
            || if known { render::unknown_form(false) } else { render::unknown_media(render::OBJECTS) };
        let refused = || if routed { unrouted() } else { render::unknown_form(false) };
        tagged(asked, &document, asked.accept.iter().find_map(plain).ok_or_else(refused)?)
    }
}

/// Where nothing is: groups that are served say so by a status, everything else by a text.
fn nothing(added: &Added, parts: &[&str]) -> Result<Response<Body>, Refusal> {
    let served = match *parts {
        ["api", ..] => true,
        ["apis", group, ..] => discovery::group(added, group).is_some(),
        _ => false,
    };
    if served { Err(Refusal::no_such_resource()) } else { Ok(answer::nothing()) }
}

/// The encoding in which a clause asks for aggregated discovery.
fn aggregated(clause: &Clause<'_>) -> Option<&'static str> {
    let wanted = clause.wanted() == Some(("APIGroupDiscoveryList", "apidiscovery.k8s.io", "v2"));
    encoding(clause).filter(|_| wanted)
}

/// The encoding in which a clause asks for a document as it is.
fn plain(clause: &Clause<'_>) -> Option<&'static str> {
    encoding(clause).filter(|_| clause.wanted().is_none())
}

fn encoding(clause: &Clause<'_>) -> Option<&'static str> {
    [JSON, YAML, PROTOBUF].into_iter().find(|media| clause.takes(media))
}

/// A small document in an encoding, or that the client has it.
fn tagged(asked: &Asked<'_>, document: &Value, encoding: &'static str) -> Result<Response<Body>, Refusal> {
    let json = Bytes::from(document.to_string());
    let tag = cache::tag(&|out| out.write_all(&json).map(|()| true)).map_err(Refusal::internal)?;
    let tag = tag.unwrap_or_default();
    let mut response = if asked.has(&tag) {
        answer::empty(StatusCode::NOT_MODIFIED)
    } else {
        let body = match encoding {
            PROTOBUF => render::in_protobuf(&json).ok_or_else(|| Refusal::internal("no such message"))?,
            YAML => render::in_yaml(&json),
            _ => json,
        };
        answer::typed(answer::json_bytes(StatusCode::OK, body), encoding)
    };
    mark(response.headers_mut(), &tag);
    Ok(response)
}

/// A document that is kept, compressed if the client takes that.
fn whole(asked: &Asked<'_>, published: &Published, media: &'static str) -> io::Result<Response<Body>> {
    if asked.gzip {
        let mut response = answer::typed(answer::json_bytes(StatusCode::OK, published.gzip.clone()), media);
        compress::mark(response.headers_mut());
        return Ok(response);
    }
    let mut document = Vec::new();
    published.reader().read_to_end(&mut document)?;
    Ok(answer::typed(answer::json_bytes(StatusCode::OK, document.into()), media))
}

/// A time as headers tell it. Kubernetes names its zone in two ways.
fn http_date(time: jiff::Timestamp, zone: &str) -> Option<HeaderValue> {
    HeaderValue::try_from(format!("{} {zone}", time.strftime("%a, %d %b %Y %H:%M:%S"))).ok()
}

const ACCEPT: HeaderValue = HeaderValue::from_static("Accept");

fn mark(headers: &mut HeaderMap, tag: &str) {
    headers.append(header::VARY, ACCEPT);
    headers.extend(HeaderValue::try_from(format!("\"{tag}\"")).map(|tag| (header::ETAG, tag)));
}

fn moved(to: &str) -> Response<Body> {
    let mut response = answer::empty(StatusCode::MOVED_PERMANENTLY);
    response.headers_mut().extend(HeaderValue::try_from(to).map(|to| (header::LOCATION, to)));
    response
}

/// The machine's architecture in Go's words, as nodes and images name it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::schema::protobuf;
    use http_body_util::BodyExt;

    async fn get(
        documents: &Documents,
        uri: &str,
        headers: &[(header::HeaderName, &str)],
    ) -> (StatusCode, HeaderMap, Bytes) {
        let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
        let mut request = Request::new(());
        let headers = headers.iter().map(|(name, value)| (name.clone(), value.parse().unwrap()));
        request.headers_mut().extend(headers);
        let (head, body) =
            documents.answer(path, &Query::parse(query), &request, &Added::default()).unwrap().into_parts();
        (head.status, head.headers, body.collect().await.unwrap().to_bytes())
    }

    const AGGREGATED: &str = "application/vnd.kubernetes.protobuf;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";

    #[tokio::test]
    async fn discovery_comes_in_every_encoding_and_only_once() {
        let documents = Documents::new("v1.36.0".into(), Arc::new(()));
        let (code, headers, body) = get(&documents, "/apis", &[(header::ACCEPT, AGGREGATED)]).await;
        assert_eq!(code, StatusCode::OK);
        assert_eq!(
            headers[header::CONTENT_TYPE],
            "application/vnd.kubernetes.protobuf;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
        );
        assert_eq!(
            protobuf::decode(&body).unwrap()["items"],
            discovery::aggregated(&Added::default(), false)["items"]
        );
        let has = headers[header::ETAG].to_str().unwrap();
        let again = [(header::ACCEPT, AGGREGATED), (header::IF_NONE_MATCH, has)];
        let (code, headers, body) = get(&documents, "/apis", &again).await;
        assert_eq!(
            (code, &headers[header::VARY], body.len()),
            (StatusCode::NOT_MODIFIED, &"Accept".parse().unwrap(), 0)
        );
        // The beta form is gone: what is left is the old one.
        let beta = "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList, */*";
        let (_, headers, body) = get(&documents, "/api", &[(header::ACCEPT, beta)]).await;
        assert_eq!(headers[header::CONTENT_TYPE], "application/json");
        assert!(body.starts_with(b"{\"kind\":\"APIVersions\""), "{body:?}");
        let (_, _, yaml) = get(&documents, "/apis/apps/v1", &[(header::ACCEPT, "application/yaml")]).await;
        assert!(yaml.starts_with(b"apiVersion: v1\ngroupVersion: apps/v1\n"), "{yaml:?}");
        let (_, _, wire) = get(&documents, "/api/v1", &[(header::ACCEPT, PROTOBUF)]).await;
        assert_eq!(protobuf::decode(&wire).unwrap()["kind"], "APIResourceList");
        let mut html = Request::new(());
        html.headers_mut().insert(header::ACCEPT, "text/html".parse().unwrap());
        let refused =
            |path| documents.answer(path, &Query::parse(""), &html, &Added::default()).unwrap_err().message;
        let media = "application/json, application/yaml, application/vnd.kubernetes.protobuf";
        assert_eq!(refused("/apis"), format!("only the following media types are accepted: {media}"));
        assert_eq!(refused("/api/v1"), format!("406: Not Acceptable\n\nAvailable representations: {media}"));
        assert_eq!(
            documents.answer("/api/v2", &Query::default(), &html, &Added::default()).unwrap_err().code,
            404
        );
        let (code, _, body) = get(&documents, "/nope", &[]).await;
        assert_eq!((code, &body[..]), (StatusCode::NOT_FOUND, &b"404 page not found\n"[..]));
    }

    #[tokio::test]
    async fn a_document_with_its_digest_in_the_address_may_be_kept_forever() {
        let documents = Documents::new("v1.36.0".into(), Arc::new(()));
        let (_, _, index) = get(&documents, "/openapi/v3", &[]).await;
        let index: Value = serde_json::from_slice(&index).unwrap();
        let address = index["paths"]["apis/apps/v1"]["serverRelativeURL"].as_str().unwrap();
        let gzip = [(header::ACCEPT_ENCODING, "gzip"), (header::ACCEPT, OPENAPI_V3[2].0)];
        let (code, headers, body) = get(&documents, address, &gzip).await;
        assert_eq!((code, &headers[header::CONTENT_ENCODING]), (StatusCode::OK, &"gzip".parse().unwrap()));
        assert_eq!(headers[header::CONTENT_TYPE], OPENAPI_V3[2].2);
        assert_eq!(headers[header::CACHE_CONTROL], "public, immutable");
        assert_eq!(format!("\"{}\"", address.rsplit('=').next().unwrap()), headers[header::ETAG]);
        let mut message = Vec::new();
        flate2::read::GzDecoder::new(&body[..]).read_to_end(&mut message).unwrap();
        assert!(message.starts_with(b"\x0a\x053.0.0") || message.windows(5).any(|own| own == b"3.0.0"));
        let (code, headers, _) = get(&documents, "/openapi/v3/apis/apps/v1?hash=OLD", &[]).await;
        assert_eq!(
            (code, headers[header::LOCATION].to_str().unwrap()),
            (StatusCode::MOVED_PERMANENTLY, address)
        );
        let (code, _, _) = get(&documents, "/openapi/v2", &[(header::ACCEPT, "text/html")]).await;
        assert_eq!(code, StatusCode::NOT_ACCEPTABLE);
    }
}
