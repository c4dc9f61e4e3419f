//! Requests handed on to the servers behind APIServices.

use super::remote::{Reach, There};
use super::{Aggregation, Remote, Way, aggregator};
use crate::auth::User;
use crate::http::answer;
use crate::streams::{forward, handed_back, outgoing, strip, upgraded};
use crate::trust;
use base::https::host_port;
use base::{Body, BodyError, full_body};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Version, header};
use http_body_util::BodyExt;
use std::net::IpAddr;
use std::time::Duration;

/// How long discovery may take: all clients ask for it, and wait.
pub(super) const DISCOVERY_LIMIT: Duration = Duration::from_secs(5);
const REMOTE_USER: HeaderName = HeaderName::from_static("x-remote-user");
const REMOTE_UID: HeaderName = HeaderName::from_static("x-remote-uid");
const REMOTE_GROUP: HeaderName = HeaderName::from_static("x-remote-group");
const REMOTE_EXTRA: &str = "x-remote-extra-";
/// What header names may have besides letters and digits (RFC 9110), the sign of escapes aside.
const TOKEN_SIGNS: &[u8] = b"!#$&'*+-.^_`|~";

impl Aggregation {
    /// Hands a request on as this user's, and hands back what came of it.
    pub(crate) async fn proxy(
        &self,
        remote: &Remote,
        (user, peer): (&User, Option<IpAddr>),
        request: Request<Body>,
    ) -> Response<Body> {
        let there = match &remote.reach {
            Reach::Here(here) => return here(request).await,
            Reach::There(there) => there,
        };
        let unavailable = |why: &str| answer::error(StatusCode::SERVICE_UNAVAILABLE, why);
        if !there.available {
            return unavailable("service unavailable");
        }
        let way = match &there.way {
            Ok(way) => way,
            Err(why) => return answer::error(StatusCode::INTERNAL_SERVER_ERROR, why),
        };
        let endpoint = match there.service.resolve(&self.records) {
            Ok(endpoint) => endpoint,
            Err(why) => {
                tracing::debug!(service = ?there.service, why, "no endpoint to hand a request on to");
                return unavailable("service unavailable");
            }
        };
        let answered = self.send(way, (user, peer), endpoint, request).await;
        answer::relayed(answered.unwrap_or_else(|why| unavailable(&why)))
    }

    async fn send(
        &self,
        way: &Way,
        (user, peer): (&User, Option<IpAddr>),
        (address, port): (String, u16),
        mut request: Request<Body>,
    ) -> Result<Response<Body>, String> {
        let endpoint = host_port(&address, port);
        let asked_host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
        let hosts = [endpoint.clone(), asked_host.unwrap_or_default().to_owned()];
        let upgrade = request.headers().contains_key(header::UPGRADE);
        let whole = request.uri().path_and_query().map_or_else(String::new, ToString::to_string);
        let path = request.uri().path().to_owned();
        forward(request.headers_mut(), (upgrade, peer), &path);
        outgoing(request.headers_mut(), upgrade);
        vouch(request.headers_mut(), user)?;
        request.headers_mut().insert(header::HOST, text(&endpoint)?);
        if upgrade {
            let wire = way.upgradable.dial(&address, port).await;
            let wire = wire.map_err(|error| trust::go_error(&*error))?;
            let answered = self.exchange.over(wire, &whole, request).await?;
            return upgraded(&answered).map(|()| handed_back(answered, String::new(), hosts));
        }
        let is_discovery = path.split('/').filter(|part| !part.is_empty()).count() == 3;
        let sending = pooled(way, &endpoint, &whole, request);
        let answered = match is_discovery {
            true => tokio::time::timeout(DISCOVERY_LIMIT, sending).await,
            false => Ok(sending.await),
        };
        let answered = answered.unwrap_or_else(|_| Err("context deadline exceeded".to_owned()));
        let answered = answered.map_err(|why| format!("error trying to reach service: {why}"))?;
        Ok(handed_back(answered, String::new(), hosts))
    }

    /// Asks for a document of the server behind, for this server itself.
    pub(super) async fn fetch(
        &self,
        there: &There,
        endpoint: &str,
        path: &str,
        mut headers: HeaderMap,
    ) -> Result<Response<Body>, String> {
        vouch(&mut headers, &aggregator())?;
        let mut request = Request::new(full_body(""));
        *request.headers_mut() = headers;
        let way = there.way.as_ref().map_err(Clone::clone)?;
        let asked = tokio::time::timeout(DISCOVERY_LIMIT, pooled(way, endpoint, path, request)).await;
        let slow = "context deadline exceeded (Client.Timeout exceeded while awaiting headers)";
        asked.unwrap_or_else(|_| Err(slow.to_owned()))
    }

    /// Asks one endpoint whether it is there, for the path of its discovery.
    pub(super) async fn probe(&self, there: &There, path: &str) -> Result<(), String> {
        let (address, port) = there.service.resolve(&self.records)?;
        let endpoint = host_port(&address, port);
        let url = format!("https://{endpoint}{path}");
        let missing = |why: String| format!("failing or missing response from {url}: {why}");
        let answered = self.fetch(there, &endpoint, path, HeaderMap::new()).await;
        let code = answered.map_err(|why| missing(format!("Get {url:?}: {why}")))?.status();
        let well = code.is_success();
        if well { Ok(()) } else { Err(missing(format!("bad status from {url}: {}", code.as_u16()))) }
    }
}

/// Sends a request over a connection of the pool.
async fn pooled(
    way: &Way,
    endpoint: &str,
    path: &str,
    request: Request<Body>,
) -> Result<Response<Body>, String> {
    let (mut parts, body) = request.into_parts();
    parts.version = Version::HTTP_11;
    parts.uri = format!("https://{endpoint}{path}")
        .parse()
        .map_err(|error: http::uri::InvalidUri| error.to_string())?;
    parts.extensions.clear();
    let answered = way.pool.request(Request::from_parts(parts, body)).await;
    let mut answered = answered.map_err(|error| trust::go_error(&error))?;
    strip(answered.headers_mut());
    Ok(answered.map(|body| body.map_err(|error| -> BodyError { Box::new(error) }).boxed_unsync()))
}

fn text(value: &str) -> Result<HeaderValue, String> {
    HeaderValue::from_str(value)
        .or_else(|_| HeaderValue::from_bytes(value.as_bytes()))
        .map_err(|_| format!("net/http: invalid header field value {value:?}"))
}

/// Says who the user is, and takes away what a client says of itself.
fn vouch(headers: &mut HeaderMap, user: &User) -> Result<(), String> {
    let claimed: Vec<HeaderName> =
        headers.keys().filter(|name| name.as_str().starts_with(REMOTE_EXTRA)).cloned().collect();
    claimed.iter().chain(&[REMOTE_UID, REMOTE_GROUP]).for_each(|name| drop(headers.remove(name)));
    headers.insert(REMOTE_USER, text(&user.name)?);
    if !user.uid.is_empty() {
        headers.insert(REMOTE_UID, text(&user.uid)?);
    }
    for group in &user.groups {
        headers.append(REMOTE_GROUP, text(group)?);
    }
    for (key, values) in &user.extra {
        let name = format!("{REMOTE_EXTRA}{}", escaped(key));
        let name: HeaderName = name.parse().map_err(|_| format!("invalid header field name {name:?}"))?;
        for value in values {
            headers.append(&name, text(value)?);
        }
    }
    Ok(())
}

/// A text as a part of a header's name.
fn escaped(key: &str) -> String {
    let mut out = String::with_capacity(key.len());
    for byte in key.bytes() {
        match byte {
            byte if byte.is_ascii_alphanumeric() || TOKEN_SIGNS.contains(&byte) => out.push(char::from(byte)),
            byte => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_cannot_say_who_it_is() {
        let mut headers = HeaderMap::new();
        for name in ["x-remote-user", "x-remote-uid", "x-remote-group", "x-remote-extra-a", "accept"] {
            headers.insert(name, HeaderValue::from_static("own"));
        }
        let user = User {
            name: "jörg".to_owned(),
            uid: String::new(),
            groups: vec!["a".to_owned(), "b".to_owned()],
            extra: vec![("example.com/scope".to_owned(), vec!["x".to_owned(), "y".to_owned()])],
        };
        vouch(&mut headers, &user).unwrap();
        let values =
            |name: &str| -> Vec<&[u8]> { headers.get_all(name).iter().map(HeaderValue::as_bytes).collect() };
        assert_eq!(values("x-remote-user"), ["jörg".as_bytes()]);
        assert!(values("x-remote-uid").is_empty() && values("x-remote-extra-a").is_empty());
        assert_eq!(values("x-remote-group"), [b"a", b"b"]);
        assert_eq!(values("x-remote-extra-example.com%2fscope"), [b"x", b"y"]);
        assert_eq!(values("accept"), [b"own"]);
        let evil = User { name: "a\nb".to_owned(), ..User::default() };
        assert!(vouch(&mut HeaderMap::new(), &evil).unwrap_err().contains("invalid header field value"));
    }
}
