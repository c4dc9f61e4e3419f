//! URLs as requests name them: an absolute URL or an absolute path, told from others and taken apart as Go's
//! `net/url` does.

use crate::validate::go_quoted;
use std::net::IpAddr;

/// The parts of a URL; the path as it is escaped, the host as it is not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Url {
    /// In small letters; "" where there is none.
    pub scheme: String,
    /// The host with its port, brackets and all.
    pub host: String,
    /// "" of what is no hierarchy.
    pub path: String,
    query: String,
}

impl Url {
    /// Reads an absolute URL or path; the error says what is wrong with it. A request has no fragment: `#`
    /// is a character like others.
    pub fn parse(text: &str) -> Result<Self, String> {
        Self::read(text).map_err(|reason| format!("parse {}: {reason}", go_quoted(text)))
    }

    fn read(text: &str) -> Result<Self, String> {
        if text.bytes().any(|byte| byte.is_ascii_control()) {
            return Err("net/url: invalid control character in URL".to_owned());
        }
        if text.is_empty() {
            return Err("empty url".to_owned());
        }
        if text == "*" {
            return Ok(Self { path: "*".to_owned(), ..Self::default() });
        }
        let (scheme, rest) = scheme_of(text)?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let url = Self { scheme: scheme.to_ascii_lowercase(), query: query.to_owned(), ..Self::default() };
        if !rest.starts_with('/') {
            // What is no hierarchy has neither host nor path.
            return if scheme.is_empty() { Err("invalid URI for request".to_owned()) } else { Ok(url) };
        }
        let (authority, path) = match rest.strip_prefix("//").filter(|_| !scheme.is_empty()) {
            Some(rest) => rest.split_at(rest.find('/').unwrap_or(rest.len())),
            None => ("", rest),
        };
        let host = host_of(&url.scheme, authority)?;
        escapes(path)?;
        Ok(Self { host, path: escaped_path(path), ..url })
    }

    /// The host without brackets, and the port.
    pub fn host_and_port(&self) -> (&str, &str) {
        if let Some(rest) = self.host.strip_prefix('[')
            && let Some((host, after)) = rest.split_once(']')
        {
            return (host, after.strip_prefix(':').unwrap_or_default());
        }
        self.host.rsplit_once(':').unwrap_or((&self.host, ""))
    }

    /// Names and values of the query, without escapes.
    pub fn query(&self) -> impl Iterator<Item = (String, String)> {
        let pairs = self.query.split('&').filter(|pair| !pair.is_empty() && !pair.contains(';'));
        let pairs = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        let well_formed = pairs.filter(|(name, value)| escapes(name).and(escapes(value)).is_ok());
        well_formed.map(|(name, value)| (unescape(name, true), unescape(value, true)))
    }
}

fn scheme_of(text: &str) -> Result<(&str, &str), String> {
    for (at, letter) in text.char_indices() {
        match letter {
            'a'..='z' | 'A'..='Z' => {}
            '0'..='9' | '+' | '-' | '.' if at > 0 => {}
            ':' if at == 0 => return Err("missing protocol scheme".to_owned()),
            ':' => return Ok((&text[..at], &text[at + 1..])),
            _ => break,
        }
    }
    Ok(("", text))
}

/// The host of an authority, with its port.
fn host_of(scheme: &str, authority: &str) -> Result<String, String> {
    let (user, host) = authority.rsplit_once('@').unwrap_or(("", authority));
    let host = match host.rfind('[') {
        Some(0) => address(host)?,
        Some(_) => return Err("invalid IP-literal".to_owned()),
        None => {
            // Lists of hosts that drivers of databases take have more than one colon.
            let strict = matches!(scheme, "http" | "https");
            let colon = if strict { host.find(':') } else { host.rfind(':') };
            check_port(colon.map_or("", |at| &host[at..]))?;
            unescaped_host(host)?
        }
    };
    if !user.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._:~!$&'()*+,;=%@".contains(&byte)) {
        return Err("net/url: invalid userinfo".to_owned());
    }
    escapes(user)?;
    Ok(host)
}

/// An IPv6 address in brackets, with its port.
fn address(host: &str) -> Result<String, String> {
    let (host, port) = host[1..].rsplit_once(']').ok_or("missing ']' in host")?;
    check_port(port)?;
    let (address, zone) = host.find("%25").map_or((host, ""), |at| host.split_at(at));
    escapes(zone)?;
    let (address, zone) = (unescaped_host(address)?, unescape(zone, false));
    match address.parse() {
        Ok(IpAddr::V6(_)) if zone != "%" => Ok(format!("[{address}{zone}]{port}")),
        Ok(IpAddr::V4(_)) if zone.is_empty() => Err("invalid IP-literal".to_owned()),
        _ => {
            let address = go_quoted(&format!("{address}{zone}"));
            Err(format!("invalid host: ParseAddr({address}): unable to parse IP"))
        }
    }
}

fn check_port(port: &str) -> Result<(), String> {
    let digits = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit());
    match port.strip_prefix(':').map_or(port.is_empty(), digits) {
        true => Ok(()),
        false => Err(format!("invalid port {} after host", go_quoted(port))),
    }
}

/// A host without escapes, which may stand for nothing but what is not ASCII.
fn unescaped_host(host: &str) -> Result<String, String> {
    escapes(host)?;
    for (at, letter) in host.char_indices().filter(|(_, letter)| letter.is_ascii()) {
        let escape = host[at..].get(..3).filter(|_| letter == '%');
        match (letter, escape) {
            (_, Some(escape)) if escape != "%25" && escape.as_bytes()[1] < b'8' => {
                return Err(bad_escape(escape));
            }
            (letter, None) if !letter.is_ascii_alphanumeric() && !HOST.contains(letter) => {
                return Err(format!("invalid character {} in host name", go_quoted(&letter.to_string())));
            }
            _ => {}
        }
    }
    Ok(unescape(host, false))
}

/// What a host may have besides letters and digits.
const HOST: &str = "-_.~!$&'()*+,;=:[]<>\"";

/// Two hexadecimal digits follow each `%`.
fn escapes(text: &str) -> Result<(), String> {
    let mut escapes = text.match_indices('%').map(|(at, _)| &text[at..]);
    let wrong = escapes
        .find(|rest| !rest.as_bytes().get(1..3).is_some_and(|pair| pair.iter().all(u8::is_ascii_hexdigit)));
    wrong.map_or(Ok(()), |rest| Err(bad_escape(rest)))
}

fn bad_escape(rest: &str) -> String {
    let end = rest.char_indices().nth(3).map_or(rest.len(), |(at, _)| at);
    format!("invalid URL escape {}", go_quoted(&rest[..end]))
}

/// A path as it came if it is escaped, and escaped anew otherwise.
fn escaped_path(path: &str) -> String {
    let all = |more: &[u8]| path.bytes().all(|byte| byte.is_ascii_alphanumeric() || more.contains(&byte));
    if all(b"-_.~$&+,/:;=@%!'()*[]") {
        return path.to_owned();
    }
    let mut escaped = String::with_capacity(path.len());
    for byte in unescape(path, false).bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~$&+,/:;=@".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
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
