//! What a proxy does to headers (RFC 9110, 7.6), and what a route does.

use crate::rules::HeaderChanges;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Uri, Version};
use std::net::IpAddr;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
pub(super) const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
/// As HTTP is told to programs behind proxies by CGI: whoever sends it means no good ("httpoxy").
const PROXY: HeaderName = HeaderName::from_static("proxy");

/// Headers that are seldom there, so that one look at all names is cheaper than to ask for each.
mod rare {
    pub(super) const CONNECTION: u8 = 1;
    /// Of one connection alone.
    pub(super) const OF_CONNECTION: u8 = 2;
    pub(super) const TE: u8 = 4;
    /// Not for servers behind a proxy.
    pub(super) const OF_PROXY: u8 = 8;

    pub(super) fn of(headers: &http::HeaderMap) -> u8 {
        headers.keys().fold(0, |all, name| {
            all | match name.as_str() {
                "connection" => CONNECTION,
                "keep-alive" | "proxy-connection" | "transfer-encoding" | "upgrade" => OF_CONNECTION,
                "te" => TE,
                "proxy-authorization" | "expect" | "forwarded" | "proxy" => OF_PROXY,
                _ => 0,
            }
        })
    }
}

/// Takes away what concerns one connection alone.
pub(super) fn strip(headers: &mut HeaderMap) {
    let rare = rare::of(headers);
    strip_rare(headers, rare);
}

fn strip_rare(headers: &mut HeaderMap, rare: u8) {
    if rare & rare::CONNECTION != 0
        && let Some(connection) = headers.remove(header::CONNECTION)
    {
        // Nearly always close, keep-alive or nothing.
        let named = connection.to_str().unwrap_or_default().split(',').map(str::trim);
        for name in named.filter(|name| !name.is_empty()) {
            if !name.eq_ignore_ascii_case("close") && !is_for_the_end(name) {
                headers.remove(name);
            }
        }
    }
    if rare & rare::OF_CONNECTION != 0 {
        for name in [KEEP_ALIVE, PROXY_CONNECTION, header::TRANSFER_ENCODING, header::UPGRADE] {
            headers.remove(name);
        }
    }
}

/// Headers that nobody may have taken away by naming them in `Connection`.
fn is_for_the_end(name: &str) -> bool {
    ["host", "content-length", "content-type", "authorization", "cookie"]
        .iter()
        .any(|one| name.eq_ignore_ascii_case(one))
        || name.get(..12).is_some_and(|start| start.eq_ignore_ascii_case("x-forwarded-"))
}

/// What a request's connection is.
pub(crate) struct From {
    /// The client's address, as a header has it.
    pub(crate) address: HeaderValue,
    pub(crate) secure: bool,
    /// Where it was accepted.
    pub(crate) port: HeaderValue,
    /// Whether it is a proxy whose word counts.
    pub(crate) is_trusted: bool,
}

/// Takes away what a client may not say, and says who asked for what. What clients themselves say of this is
/// not believed: anybody could.
pub(super) fn forwarded(headers: &mut HeaderMap, from: &From, (host, client): (&HeaderValue, IpAddr)) {
    let rare = rare::of(headers);
    let trailers = rare & rare::TE != 0
        && headers.get(header::TE).is_some_and(|te| te.as_bytes().eq_ignore_ascii_case(b"trailers"));
    strip_rare(headers, rare);
    if rare & rare::OF_PROXY != 0 {
        for name in [header::PROXY_AUTHORIZATION, header::EXPECT, header::FORWARDED, PROXY] {
            headers.remove(name);
        }
    }
    if rare & rare::TE != 0 && !trailers {
        headers.remove(header::TE);
    }
    let scheme = HeaderValue::from_static(if from.secure { "https" } else { "http" });
    if from.is_trusted {
        return passed_on(
            headers,
            from,
            (client, [(FORWARDED_PROTO, scheme), (FORWARDED_HOST, host.clone())]),
        );
    }
    headers.insert(FORWARDED_FOR, from.address.clone());
    headers.insert(REAL_IP, from.address.clone());
    headers.insert(FORWARDED_PROTO, scheme);
    headers.insert(FORWARDED_PORT, from.port.clone());
    headers.insert(FORWARDED_HOST, host.clone());
}

/// What a trusted proxy says stays, with the proxy itself at the end of the chain.
fn passed_on(
    headers: &mut HeaderMap,
    from: &From,
    (client, unless_said): (IpAddr, [(HeaderName, HeaderValue); 2]),
) {
    let mut chain: Vec<&[u8]> = headers.get_all(FORWARDED_FOR).iter().map(HeaderValue::as_bytes).collect();
    chain.push(from.address.as_bytes());
    // All of them were values of headers.
    if let Ok(chain) = HeaderValue::from_bytes(&chain.join(&b", "[..])) {
        headers.insert(FORWARDED_FOR, chain);
    }
    if let Ok(client) = HeaderValue::try_from(client.to_string()) {
        headers.insert(REAL_IP, client);
    }
    if !headers.contains_key(FORWARDED_PROTO) {
        headers.entry(FORWARDED_PORT).or_insert_with(|| from.port.clone());
    }
    for (name, value) in unless_said {
        headers.entry(name).or_insert(value);
    }
}

/// What a route says.
pub(super) fn change(headers: &mut HeaderMap, changes: &HeaderChanges) {
    for (name, value) in &changes.set {
        headers.insert(name, value.clone());
    }
    for (name, value) in &changes.add {
        headers.append(name, value.clone());
    }
    for name in &changes.remove {
        headers.remove(name);
    }
}

/// Makes a request one of HTTP/1.1 for a server.
pub(super) fn for_http1(head: &mut Parts, host: HeaderValue, path: Option<PathAndQuery>) {
    head.version = Version::HTTP_11;
    head.headers.insert(header::HOST, host);
    if head.headers.get_all(header::COOKIE).iter().nth(1).is_some() {
        join_cookies(&mut head.headers);
    }
    if let Some(path) = path.or_else(|| head.uri.authority().and(head.uri.path_and_query().cloned())) {
        head.uri = Uri::from(path);
    }
}

/// HTTP/2 may send cookies one by one (RFC 9113, 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let all: Vec<&[u8]> = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if let Ok(joined) = HeaderValue::from_bytes(&all.join(&b"; "[..])) {
        headers.insert(header::COOKIE, joined);
    }
}

/// Makes a request one of HTTP/2 without TLS.
pub(super) fn for_http2(head: &mut Parts, host: &HeaderValue, path: Option<PathAndQuery>) -> Option<()> {
    head.version = Version::HTTP_2;
    head.headers.remove(header::HOST);
    let mut uri = std::mem::take(&mut head.uri).into_parts();
    uri.scheme = Some(Scheme::HTTP);
    uri.authority = Some(Authority::try_from(host.as_bytes()).ok()?);
    uri.path_and_query = path.or(uri.path_and_query).or_else(|| Some(PathAndQuery::from_static("/")));
    head.uri = Uri::from_parts(uri).ok()?;
    Some(())
}
