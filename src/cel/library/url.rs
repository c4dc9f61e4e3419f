//! URLs as requests name them: an absolute URL or an absolute path.

use super::{Opaque, Row, opaque, text};
use crate::value::{Fault, Key, Map, Outcome, Text, Value, fail, no_overload};
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

/// The parts of a URL; the path as it is escaped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    scheme: String,
    host: String,
    path: String,
    query: String,
    fragment: String,
}

impl Url {
    /// Reads an absolute URL or path; the error says what is wrong with it.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let wrong = |reason: &str| Err(format!("parse {text:?}: {reason}"));
        if text.bytes().any(|byte| byte < b' ' || byte == 0x7f) {
            return wrong("net/url: invalid control character in URL");
        }
        if text.is_empty() {
            return wrong("empty url");
        }
        let (scheme, rest) = match scheme_of(text) {
            Ok(parts) => parts,
            Err(reason) => return wrong(reason),
        };
        if !rest.starts_with('/') && scheme.is_empty() {
            return wrong("invalid URI for request");
        }
        let (rest, fragment) = rest.split_once('#').unwrap_or((rest, ""));
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = match rest.strip_prefix("//").filter(|_| !scheme.is_empty()) {
            Some(rest) => rest.split_at(rest.find('/').unwrap_or(rest.len())),
            // What is no hierarchy has neither host nor path.
            None => ("", if rest.starts_with('/') { rest } else { "" }),
        };
        let host = match authority.rsplit_once('@') {
            Some((_, host)) => host,
            None => authority,
        };
        if let Err(reason) = check_host(host) {
            return wrong(&reason);
        }
        if let Some(escape) = bad_escape(path) {
            return wrong(&format!("invalid URL escape {escape:?}"));
        }
        Ok(Self {
            scheme: scheme.to_ascii_lowercase(),
            host: unescape(host, false),
            path: escaped_path(path),
            query: query.to_owned(),
            fragment: fragment.to_owned(),
        })
    }

    fn host_and_port(&self) -> (&str, &str) {
        if let Some(rest) = self.host.strip_prefix('[')
            && let Some((host, after)) = rest.split_once(']')
        {
            return (host, after.strip_prefix(':').unwrap_or_default());
        }
        self.host.rsplit_once(':').unwrap_or((&self.host, ""))
    }
}

fn scheme_of(text: &str) -> Result<(&str, &str), &'static str> {
    for (at, letter) in text.char_indices() {
        match letter {
            'a'..='z' | 'A'..='Z' => {}
            '0'..='9' | '+' | '-' | '.' if at > 0 => {}
            ':' if at == 0 => return Err("missing protocol scheme"),
            ':' => return Ok((&text[..at], &text[at + 1..])),
            _ => break,
        }
    }
    let first = text.split('/').next().unwrap_or_default();
    if first.contains(':') { Err("first path segment in URL cannot contain colon") } else { Ok(("", text)) }
}

fn check_host(host: &str) -> Result<(), String> {
    let port = match host.strip_prefix('[') {
        Some(rest) => rest.split_once(']').ok_or("missing ']' in host")?.1,
        None => host.find(':').map_or("", |at| &host[at..]),
    };
    let digits =
        port.strip_prefix(':').map_or(port.is_empty(), |port| port.bytes().all(|b| b.is_ascii_digit()));
    if !digits {
        return Err(format!("invalid port {port:?} after host"));
    }
    match host
        .chars()
        .find(|letter| matches!(letter, ' ' | '<' | '>' | '"' | '\\' | '^' | '`' | '{' | '|' | '}'))
    {
        Some(letter) => Err(format!("invalid character {:?} in host name", letter.to_string())),
        None => bad_escape(host).map_or(Ok(()), |escape| Err(format!("invalid URL escape {escape:?}"))),
    }
}

/// A `%` that no two hexadecimal digits follow, with what follows it.
fn bad_escape(text: &str) -> Option<&str> {
    text.match_indices('%').map(|(at, _)| &text[at..]).find_map(|rest| {
        let hex = rest.as_bytes().get(1..3).is_some_and(|pair| pair.iter().all(u8::is_ascii_hexdigit));
        (!hex).then(|| &rest[..rest.char_indices().nth(3).map_or(rest.len(), |(at, _)| at)])
    })
}

fn escaped_path(path: &str) -> String {
    let mut escaped = String::with_capacity(path.len());
    for byte in path.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => escaped.push(char::from(byte)),
            _ if b"-_.~$&+,/:;=@%!'()*[]".contains(&byte) => escaped.push(char::from(byte)),
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

fn unescape(text: &str, plus_is_space: bool) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let pair = tail.get(..2).and_then(|pair| std::str::from_utf8(pair).ok());
        match (first, pair.and_then(|pair| u8::from_str_radix(pair, 16).ok())) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            (first, _) => {
                bytes.push(if plus_is_space && *first == b'+' { b' ' } else { *first });
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

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
    let query = &parsed(of)?.query;
    for pair in query.split('&').filter(|pair| !pair.is_empty() && !pair.contains(';')) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        if bad_escape(name).or_else(|| bad_escape(value)).is_none() {
            let key = Key::String(Text::Owned(Arc::from(unescape(name, true))));
            found.entry(key).or_default().push(Value::text(unescape(value, true)));
        }
    }
    let entries = found.into_iter().map(|(key, values)| (key, Value::list(values))).collect();
    Ok(Value::Map(Map::Owned(Arc::new(entries))))
}
