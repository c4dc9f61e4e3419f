//! URLs of Kubernetes' environment.

use super::{Opaque, Row, opaque, text};
use crate::value::{Fault, Key, Map, Outcome, Text, Value, fail, no_overload};
use api::url::Url;
use std::collections::BTreeMap;
use std::sync::Arc;

pub(super) const ROWS: &[Row] = &[
    ("url", "string_to_url", "(string) -> URL", Some(url)),
    (
        "isURL",
        "is_url_string",
        "(string) -> bool",
        Some(|of| Ok(Value::Bool(Url::parse(text(of, 0)?).is_ok()))),
    ),
    ("getScheme", "url_get_scheme", "URL.() -> string", Some(|of| part(of, |url| url.scheme.clone()))),
    ("getHost", "url_get_host", "URL.() -> string", Some(|of| part(of, |url| url.host.clone()))),
    (
        "getHostname",
        "url_get_hostname",
        "URL.() -> string",
        Some(|of| part(of, |url| url.host_and_port().0.into())),
    ),
    ("getPort", "url_get_port", "URL.() -> string", Some(|of| part(of, |url| url.host_and_port().1.into()))),
    (
        "getEscapedPath",
        "url_get_escaped_path",
        "URL.() -> string",
        Some(|of| part(of, |url| url.path.clone())),
    ),
    ("getQuery", "url_get_query", "URL.() -> map(string, list(string))", Some(query)),
];

fn url<'a>(of: &[Value<'a>]) -> Outcome<'a> {
    match Url::parse(text(of, 0)?) {
        Ok(url) => Ok(Value::opaque(Opaque::Url(url))),
        Err(reason) => fail(format!("URL parse error during conversion from string: {reason}")),
    }
}

fn parsed<'v>(of: &'v [Value<'_>]) -> Result<&'v Url, Fault> {
    match opaque(of, 0)? {
        Opaque::Url(url) => Ok(url),
        _ => no_overload(),
    }
}

fn part<'a>(of: &[Value<'a>], part: fn(&Url) -> String) -> Outcome<'a> {
    Ok(Value::text(part(parsed(of)?)))
}

fn query<'a>(of: &[Value<'a>]) -> Outcome<'a> {
    let mut found: BTreeMap<Key<'a>, Vec<Value<'a>>> = BTreeMap::new();
    for (name, value) in parsed(of)?.query() {
        let key = Key::String(Text::Owned(Arc::from(name)));
        found.entry(key).or_default().push(Value::text(value));
    }
    let entries = found.into_iter().map(|(key, values)| (key, Value::list(values))).collect();
    Ok(Value::Map(Map::Owned(Arc::new(entries))))
}
