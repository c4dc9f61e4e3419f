//! Hosts, paths and redirects; pure.

use crate::rules::{PathChange, Redirect};
use http::uri::PathAndQuery;
use http::{HeaderValue, Uri};
use std::borrow::Cow;

/// The longest name of a host.
const HOST_BYTES: usize = 255;

/// The name in a `Host`, without port and final dot, in lower case.
pub(super) fn host_name(authority: &str) -> Option<Cow<'_, str>> {
    let name = match authority.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?.0,
        None => authority.split_once(':').map_or(authority, |(name, _)| name),
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    let fits = !name.is_empty() && name.len() <= HOST_BYTES;
    let lower = || match name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        true => Cow::Owned(name.to_ascii_lowercase()),
        false => Cow::Borrowed(name),
    };
    fits.then(lower)
}

/// The path and query of a request with its path changed.
pub(super) fn changed_path(uri: &Uri, change: &PathChange) -> Option<PathAndQuery> {
    let path = match change {
        PathChange::Full(path) => Cow::Borrowed(path.as_str()),
        PathChange::Prefix { matched, to } => {
            let rest = uri.path().get(*matched..).unwrap_or_default();
            let joined = format!("{}/{}", to.trim_end_matches('/'), rest.trim_start_matches('/'));
            // What is replaced whole gets no slash that it had not.
            let whole = rest.is_empty() && !to.is_empty() && to != "/";
            Cow::Owned(if whole { to.clone() } else { joined })
        }
    };
    let path = if path.starts_with('/') { path } else { Cow::Owned(format!("/{path}")) };
    match uri.query() {
        Some(query) => PathAndQuery::try_from(format!("{path}?{query}")).ok(),
        None => PathAndQuery::try_from(path.as_ref()).ok(),
    }
}

/// Where a redirect leads to, for a request that came so.
pub(super) fn location(
    redirect: &Redirect,
    uri: &Uri,
    (host, port, secure): (&str, u16, bool),
) -> Option<HeaderValue> {
    let came_by = if secure { "https" } else { "http" };
    let scheme = redirect.scheme.as_deref().unwrap_or(came_by);
    let well_known = if scheme == "https" { 443 } else { 80 };
    // Another scheme has another port, unless one is named.
    let port = redirect.port.unwrap_or(if redirect.scheme.is_some() { well_known } else { port });
    let host = redirect.hostname.as_deref().unwrap_or(host);
    let host = if host.contains(':') { Cow::Owned(format!("[{host}]")) } else { Cow::Borrowed(host) };
    let changed = redirect.path.as_ref().map(|change| changed_path(uri, change));
    let path = match &changed {
        Some(path) => path.as_ref()?.as_str(),
        None => uri.path_and_query().map_or("/", PathAndQuery::as_str),
    };
    let text = match port == well_known {
        true => format!("{scheme}://{host}{path}"),
        false => format!("{scheme}://{host}:{port}{path}"),
    };
    HeaderValue::try_from(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::StatusCode;

    #[test]
    fn names_of_hosts() {
        let name = |text| host_name(text).map(Cow::into_owned);
        assert_eq!(name("Example.COM.:8080").as_deref(), Some("example.com"));
        assert_eq!(name("[2001:DB8::1]:80").as_deref(), Some("2001:db8::1"));
        assert_eq!(name("a").as_deref(), Some("a"));
        for wrong in ["", ":80", "[::1"] {
            assert_eq!(name(wrong), None, "{wrong}");
        }
        assert_eq!(name(&"a".repeat(256)), None);
    }

    #[test]
    fn prefixes_are_replaced_by_elements() {
        let changed = |uri: &str, matched: &str, to: &str| {
            let change = PathChange::Prefix { matched: matched.len(), to: to.to_owned() };
            changed_path(&uri.parse().unwrap(), &change).unwrap().to_string()
        };
        // The table of Gateway API's `ReplacePrefixMatch`.
        assert_eq!(changed("/foo/bar", "/foo", "/xyz"), "/xyz/bar");
        assert_eq!(changed("/foo/bar", "/foo", "/xyz/"), "/xyz/bar");
        assert_eq!(changed("/foo", "/foo", "/xyz"), "/xyz");
        assert_eq!(changed("/foo/", "/foo", "/xyz"), "/xyz/");
        assert_eq!(changed("/foo/bar", "/foo", ""), "/bar");
        assert_eq!(changed("/foo", "/foo", ""), "/");
        assert_eq!(changed("/foo/?a=b", "/foo", "/"), "/?a=b");
        assert_eq!(changed("/a/b?c", "", "/x"), "/x/a/b?c");
    }

    #[test]
    fn redirects_keep_what_is_not_said() {
        let uri: Uri = "/a?b=c".parse().unwrap();
        let none = Redirect { code: StatusCode::FOUND, scheme: None, hostname: None, port: None, path: None };
        let to =
            |redirect: &Redirect, came| location(redirect, &uri, came).unwrap().to_str().unwrap().to_owned();
        assert_eq!(to(&none, ("h", 8080, false)), "http://h:8080/a?b=c");
        assert_eq!(to(&none, ("::1", 443, true)), "https://[::1]/a?b=c");
        let https = Redirect { scheme: Some("https".to_owned()), ..none.clone() };
        assert_eq!(to(&https, ("h", 80, false)), "https://h/a?b=c");
        let port = Redirect { port: Some(8443), ..https };
        assert_eq!(to(&port, ("h", 80, false)), "https://h:8443/a?b=c");
        let path = Some(PathChange::Full("/x".to_owned()));
        let elsewhere = Redirect { hostname: Some("o".to_owned()), path, ..none };
        assert_eq!(to(&elsewhere, ("h", 80, false)), "http://o/x?b=c");
    }
}
