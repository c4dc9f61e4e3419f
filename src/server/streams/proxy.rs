//! The subresource `proxy` of pods, services and nodes: any request to whatever answers there.

use super::exchange::{Destination, Security, outgoing};
use super::rewrite::Rewriter;
use super::{Backends, kubelet_of};
use crate::egress::Whither;
use crate::http::answer::through;
use crate::http::path::ResourcePath;
use crate::registry::{Registry, decoded};
use crate::services::{self, Among};
use api::kinds::by_kind;
use api::status::Refusal;
use base::Body;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::{GzDecoder, GzEncoder};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use std::io::Write;
use std::net::IpAddr;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_URI: HeaderName = HeaderName::from_static("x-forwarded-uri");
/// Answers to browsers of other sites are this server's to give.
const CORS_HEADERS: [HeaderName; 4] = [
    header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
    header::ACCESS_CONTROL_ALLOW_HEADERS,
    header::ACCESS_CONTROL_ALLOW_METHODS,
    header::ACCESS_CONTROL_ALLOW_ORIGIN,
];

/// `NAME`, `NAME:PORT` or `SCHEME:NAME:PORT`.
struct Target<'a> {
    scheme: &'a str,
    name: &'a str,
    port: &'a str,
}

impl<'a> Target<'a> {
    fn parse(kind: &str, text: &'a str) -> Result<Self, Refusal> {
        let parts: Vec<&str> = text.split(':').collect();
        let (scheme, name, port) = match parts.as_slice() {
            [name] => ("", *name, ""),
            [name, port] => ("", *name, *port),
            [scheme, name, port] => (*scheme, *name, *port),
            _ => ("invalid", "", ""),
        };
        if name.is_empty() || !matches!(scheme, "" | "http" | "https") {
            return Err(Refusal::bad_request(format!("invalid {kind} request {text:?}")));
        }
        Ok(Self { scheme, name, port })
    }

    fn security(&self) -> Security {
        if self.scheme == "https" { Security::Unverified } else { Security::Plain }
    }

    fn to(&self, address: &str, port: u16, whither: Whither) -> Destination {
        Destination {
            security: self.security(),
            whither,
            address: address.to_owned(),
            port,
            path_and_query: String::new(),
        }
    }
}

/// What precedes the proxied path in a request's path, and that path, encoded as it came.
pub(super) fn split<'a>(path: &ResourcePath, whole: &'a str) -> (&'a str, &'a str) {
    // api, version, namespaces, its name, resource, name, proxy; or without a namespace.
    let count = if path.namespace.is_empty() { 5 } else { 7 };
    let mut ends =
        whole.match_indices('/').map(|(at, _)| at).skip(1).filter(|at| !whole[..*at].ends_with('/'));
    let end = ends.nth(count - 1).unwrap_or(whole.len());
    whole.split_at(end)
}

/// A path without its detours, as Go's `path.Join` leaves it; a slash at the end stays.
fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/').filter(|part| !part.is_empty() && *part != ".") {
        if part == ".." {
            parts.pop();
        } else {
            parts.push(part);
        }
    }
    let end = if path.ends_with('/') && !parts.is_empty() { "/" } else { "" };
    format!("/{}{end}", parts.join("/"))
}

impl Backends {
    /// Hands a request on to what the path names, and hands the answer back.
    pub(crate) async fn proxy(
        &self,
        registry: &Registry,
        path: &ResourcePath,
        peer: Option<IpAddr>,
        mut request: Request<Body>,
    ) -> Result<Response<Body>, Refusal> {
        let mut to = match path.resource.as_str() {
            "nodes" => node(registry, &path.name)?,
            "services" => service(registry, &path.namespace, &path.name)?,
            _ => pod(registry, &path.namespace, &path.name)?,
        };
        let whole = request.uri().path().to_owned();
        let (before, rest) = split(path, &whole);
        let query = request.uri().query().map(|query| format!("?{query}")).unwrap_or_default();
        let upgrade = request.headers().contains_key(header::UPGRADE);
        if rest.is_empty() && !upgrade && matches!(*request.method(), Method::GET | Method::HEAD) {
            return Ok(moved(&format!("{whole}/{query}")));
        }
        let rest = clean(rest);
        to.path_and_query = format!("{rest}{query}");
        let asked_host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
        let asked_host = asked_host.or(request.uri().host()).unwrap_or_default().to_owned();
        forward(request.headers_mut(), (upgrade, peer), &format!("{before}{rest}"));
        if !request.headers().contains_key(header::HOST) {
            request.headers_mut().extend(HeaderValue::try_from(to.host()).map(|host| (header::HOST, host)));
        }
        let answer = self
            .exchange
            .send(&to, request)
            .await
            .map_err(|why| Refusal::unavailable(format!("error trying to reach service: {why}")));
        let answer = answer?;
        if upgrade {
            upgraded(&answer).map_err(|why| Refusal::new(500, "", why))?;
        }
        Ok(handed_back(answer, before.to_owned(), [to.host(), asked_host]))
    }
}

/// Whether an answer to a request for an upgrade is one: the upgrade, or an error.
pub(crate) fn upgraded(answer: &Response<Body>) -> Result<(), String> {
    let code = answer.status();
    let fits = code == StatusCode::SWITCHING_PROTOCOLS || code.as_u16() >= 400;
    if fits { Ok(()) } else { Err(format!("invalid upgrade response: status code {}", code.as_u16())) }
}

/// An answer of a server behind, in which links within it lead through this server, to what is `before` its
/// paths here. It is known by the `hosts` that its clients may name.
pub(crate) fn handed_back(mut answer: Response<Body>, before: String, hosts: [String; 2]) -> Response<Body> {
    CORS_HEADERS.iter().for_each(|name| drop(answer.headers_mut().remove(name)));
    if answer.headers().contains_key(header::LOCATION) {
        relocate(answer.headers_mut(), &before, &hosts);
        return answer;
    }
    with_links(answer, move |link| relocated(link, &before, &hosts))
}

/// The answer to a path that lacks its last slash: relative links would lead elsewhere.
fn moved(to: &str) -> Response<Body> {
    let mut response = Response::new(base::full_body(""));
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    response.headers_mut().extend(HeaderValue::from_str(to).map(|to| (header::LOCATION, to)));
    response
}

/// Who asked for what, for those behind.
pub(crate) fn forward(headers: &mut HeaderMap, (upgrade, peer): (bool, Option<IpAddr>), uri: &str) {
    outgoing(headers, upgrade);
    if let Some(peer) = peer {
        let before = headers.get(&FORWARDED_FOR).and_then(|value| value.to_str().ok());
        let list = before.map_or(peer.to_string(), |before| format!("{before}, {peer}"));
        headers.extend(HeaderValue::from_str(&list).map(|list| (FORWARDED_FOR, list)));
    }
    if !upgrade {
        headers.extend(HeaderValue::from_str(uri).map(|uri| (FORWARDED_URI, uri)));
    }
}

/// Makes a redirect within the server behind lead through this one.
fn relocate(headers: &mut HeaderMap, before: &str, own_hosts: &[String; 2]) {
    let location = headers.get(header::LOCATION).and_then(|value| value.to_str().ok());
    if let Some(location) = location.and_then(|location| relocated(location, before, own_hosts))
        && let Ok(value) = HeaderValue::from_str(&location)
    {
        headers.insert(header::LOCATION, value);
    }
}

/// The answer with its links rewritten, if it is HTML in an encoding that is understood.
fn with_links(
    answer: Response<Body>,
    link: impl Fn(&str) -> Option<String> + Send + 'static,
) -> Response<Body> {
    let text = |name| answer.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if text(header::CONTENT_TYPE).split(';').next().map(str::trim) != Some("text/html") {
        return answer;
    }
    match text(header::CONTENT_ENCODING) {
        "" => {
            let mut rewriter = Some(Rewriter::new(Vec::new(), link));
            through(answer, move |part| match (part, &mut rewriter) {
                (Some(part), Some(open)) => {
                    open.write_all(&part)?;
                    Ok(std::mem::take(open.get_mut()).into())
                }
                _ => rewriter.take().map_or(Ok(Vec::new()), Rewriter::finish).map(Bytes::from),
            })
        }
        "gzip" => {
            let encoder = GzEncoder::new(Vec::new(), Compression::fast());
            let mut decoder = Some(GzDecoder::new(Rewriter::new(encoder, link)));
            through(answer, move |part| match (part, &mut decoder) {
                (Some(part), Some(open)) => {
                    open.write_all(&part)?;
                    Ok(std::mem::take(open.get_mut().get_mut().get_mut()).into())
                }
                _ => {
                    let ended = decoder.take().map(|decoder| decoder.finish()?.finish()?.finish());
                    ended.unwrap_or_else(|| Ok(Vec::new())).map(Bytes::from)
                }
            })
        }
        _ => answer,
    }
}

fn relocated(location: &str, before: &str, [backend, asked]: &[String; 2]) -> Option<String> {
    let (origin, path) = match location.split_once("://") {
        Some((_, rest)) => {
            let start = rest.find('/')?;
            let (host, path) = rest.split_at(start);
            if host != backend && host != asked {
                return None;
            }
            let origin = &location[..location.len() - path.len()];
            (if host == asked { origin } else { "" }, path)
        }
        None if location.starts_with('/') && !location.starts_with("//") => ("", location),
        None => return None,
    };
    let prefix = if path.starts_with(before) { "" } else { before };
    Some(format!("{origin}{prefix}{path}"))
}

fn number(port: &str) -> Result<u16, Refusal> {
    port.parse().map_err(|_| {
        Refusal::unavailable(format!(
            "error trying to reach service: dial tcp: lookup tcp/{port}: unknown port"
        ))
    })
}

/// Refuses addresses by which this machine itself or its link would be reached.
fn reachable(address: &str) -> Result<(), Refusal> {
    let global = address.parse::<IpAddr>().is_ok_and(|address| match address {
        IpAddr::V4(v4) => {
            !(v4.is_loopback()
                || v4.is_link_local()
                || v4.is_multicast()
                || v4.is_broadcast()
                || v4.is_unspecified())
        }
        IpAddr::V6(v6) => {
            !(v6.is_loopback() || v6.is_unicast_link_local() || v6.is_multicast() || v6.is_unspecified())
        }
    });
    if global { Ok(()) } else { Err(Refusal::bad_request("address not allowed")) }
}

fn pod(registry: &Registry, namespace: &str, id: &str) -> Result<Destination, Refusal> {
    let target = Target::parse("pod", id)?;
    let pods = by_kind("v1", "Pod").ok_or_else(Refusal::no_such_resource)?;
    let pod = decoded(&*registry.find(pods, namespace, target.name)?)?;
    let address = pod["status"]["podIP"].as_str().unwrap_or_default();
    reachable(address)?;
    let containers = pod["spec"]["containers"].as_array().into_iter().flatten();
    let mut ports = containers.filter_map(|container| container["ports"][0]["containerPort"].as_u64());
    let port = match target.port {
        "" => ports.next().and_then(|port| u16::try_from(port).ok()).unwrap_or(default_port(&target)),
        port => number(port)?,
    };
    let node = pod["spec"]["nodeName"].as_str().unwrap_or_default();
    Ok(target.to(address, port, Whither::Pod(node.to_owned())))
}

fn default_port(target: &Target<'_>) -> u16 {
    if target.scheme == "https" { 443 } else { 80 }
}

fn node(registry: &Registry, id: &str) -> Result<Destination, Refusal> {
    let target = Target::parse("node", id)?;
    let (address, kubelet) = kubelet_of(registry, target.name)?;
    reachable(&address)?;
    if target.port.is_empty() || target.port == kubelet.to_string() {
        return Ok(Destination {
            security: Security::Kubelet,
            ..target.to(&address, kubelet, Whither::Kubelet(target.name.to_owned()))
        });
    }
    Ok(target.to(&address, number(target.port)?, Whither::Anywhere))
}

/// One of a service's ready endpoints that are pods.
fn service(registry: &Registry, namespace: &str, id: &str) -> Result<Destination, Refusal> {
    let target = Target::parse("service", id)?;
    let kind = by_kind("v1", "Service").ok_or_else(Refusal::no_such_resource)?;
    let service = decoded(&*registry.find(kind, namespace, target.name)?)?;
    // The port that is meant: by its number, or by its name as it is.
    let port = match target.port.parse::<i64>() {
        Err(_) => target.port,
        Ok(number) => services::port_name(&service, number).ok_or_else(|| {
            let why = format!("no service port {number} found for service {:?}", target.name);
            Refusal::unavailable(why)
        })?,
    };
    let found = services::endpoint(registry.records(), (namespace, target.name), port, Among::Pods);
    let found =
        found.ok_or_else(|| Refusal::unavailable(format!("no endpoints available for service {id:?}")))?;
    Ok(target.to(&found.address, found.port, found.whither))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_schemes_and_ports() {
        let parsed =
            |text| Target::parse("pod", text).map(|target| (target.scheme, target.name, target.port));
        assert_eq!(parsed("a").unwrap(), ("", "a", ""));
        assert_eq!(parsed("a:80").unwrap(), ("", "a", "80"));
        assert_eq!(parsed("https:a:").unwrap(), ("https", "a", ""));
        assert_eq!(parsed("ftp:a:1").unwrap_err().message, "invalid pod request \"ftp:a:1\"");
        assert_eq!(parsed(":1").unwrap_err().code, 400);
    }

    #[test]
    fn paths_are_split_as_they_came() {
        let pod = ResourcePath { namespace: "web".into(), ..ResourcePath::default() };
        let path = "/api/v1/namespaces/web/pods/a:80/proxy";
        assert_eq!(split(&pod, path), (path, ""));
        assert_eq!(split(&pod, &format!("{path}/x%2Fy/")), (path, "/x%2Fy/"));
        let node = ResourcePath::default();
        assert_eq!(split(&node, "/api/v1/nodes/a/proxy/metrics"), ("/api/v1/nodes/a/proxy", "/metrics"));
        assert_eq!(clean("/a/../../b//c/"), "/b/c/");
        assert_eq!((clean(""), clean("/")), ("/".to_owned(), "/".to_owned()));
    }

    #[test]
    fn redirects_lead_through_the_proxy() {
        let before = "/api/v1/namespaces/web/pods/a/proxy";
        let hosts = ["10.0.0.1:80".to_owned(), "api:6443".to_owned()];
        let of = |location| relocated(location, before, &hosts);
        assert_eq!(of("/login"), Some(format!("{before}/login")));
        assert_eq!(of("http://10.0.0.1:80/login?a=b"), Some(format!("{before}/login?a=b")));
        assert_eq!(of("https://api:6443/login"), Some(format!("https://api:6443{before}/login")));
        assert_eq!(of("https://elsewhere/login"), None);
        assert_eq!(of("login"), None);
        assert_eq!(of("//elsewhere/login"), None);
        assert_eq!(of(&format!("{before}/x")), Some(format!("{before}/x")));
    }

    #[test]
    fn this_machine_is_not_reached_through_a_pods_address() {
        for wrong in ["127.0.0.1", "169.254.169.254", "::1", "fe80::1", "", "name"] {
            assert_eq!(reachable(wrong).unwrap_err().message, "address not allowed", "{wrong}");
        }
        assert!(reachable("10.42.0.5").is_ok());
    }
}
