//! Proxies that connections are made through: `CONNECT` (RFC 9110, section 9.3.6) in the clear or over TLS, and
//! SOCKS 5 (RFC 1928, RFC 1929), which is told names and not addresses.

use base::https::{Connector, Dial, Stream, dial_error, host_port};
use base::{BodyError, tls};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::Uri;
use rustls::pki_types::ServerName;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

/// How long a connection through a proxy may take to be made.
const LIMIT: Duration = Duration::from_secs(20);
/// The longest head of an answer to `CONNECT`.
const HEAD_BYTES: usize = 16 << 10;

/// A connection's bytes, both ways.
pub trait Wire: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Wire for T {}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Http,
    Https,
    Socks,
}

/// A proxy.
pub struct Proxy {
    kind: Kind,
    host: String,
    port: u16,
    /// A name and a password.
    login: Option<(String, String)>,
}

impl Proxy {
    /// The proxy of a URL such as `http://10.0.0.1:3128`, `https://user:password@proxy` or `socks5://localhost`.
    pub fn parse(url: &str) -> Result<Self, String> {
        let uri: Uri = url.parse().map_err(|_| "this is no URL".to_owned())?;
        let (kind, default) = match uri.scheme_str() {
            Some("http") => (Kind::Http, 80),
            Some("https") => (Kind::Https, 443),
            Some("socks5" | "socks5h") => (Kind::Socks, 1080),
            other => {
                let scheme = other.unwrap_or_default();
                return Err(format!("unsupported scheme {scheme:?}, must be http, https, or socks5"));
            }
        };
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let login = uri.authority().and_then(|authority| authority.as_str().rsplit_once('@'));
        let login = login.map(|(login, _)| login.split_once(':').unwrap_or((login, "")));
        let login = login.map(|(name, password)| (decoded(name), decoded(password)));
        Ok(Self { kind, host, port: uri.port_u16().unwrap_or(default), login })
    }

    /// The proxy that the environment (`HTTPS_PROXY`, `HTTP_PROXY`, `NO_PROXY`, also in small letters) names for a
    /// server, if any. What is on this machine is always reached directly, as Go does it.
    pub fn of_environment(
        server: &Uri,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<Self>, String> {
        let read = |name: &str| {
            let value = variable(name).or_else(|| variable(&name.to_ascii_lowercase()));
            value.filter(|value| !value.is_empty())
        };
        let secure = server.scheme_str() != Some("http");
        let Some(url) = read(if secure { "HTTPS_PROXY" } else { "HTTP_PROXY" }) else { return Ok(None) };
        let host = server.host().unwrap_or_default().trim_matches(['[', ']']);
        let port = server.port_u16().unwrap_or(if secure { 443 } else { 80 });
        if is_here(host) || read("NO_PROXY").is_some_and(|list| is_excepted(&list, host, port)) {
            return Ok(None);
        }
        let url = if url.contains("://") { url } else { format!("http://{url}") };
        Self::parse(&url).map(Some).map_err(|why| format!("invalid proxy of the environment: {why}"))
    }

    /// The same connector through the proxy, for one URL's host.
    pub fn before(self: &Arc<Self>, connector: Connector, uri: &Uri) -> Connector {
        let default = if connector.tls.is_some() { 443 } else { 80 };
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
        let through = self.to(connector.clone(), host, uri.port_u16().unwrap_or(default));
        Connector { dial: Some(Arc::new(through)), ..connector }
    }

    /// Makes connections to a host through it.
    pub(crate) fn to(self: &Arc<Self>, connector: Connector, host: &str, port: u16) -> Through {
        Through { proxy: self.clone(), connector, host: host.to_owned(), port }
    }

    /// A connection to a host.
    pub async fn connect(&self, host: &str, port: u16) -> Result<Box<dyn Wire>, BodyError> {
        let connecting = async {
            let wire = tcp(&self.host, self.port).await.map_err(|error| match self.kind {
                Kind::Socks => format!("socks connect tcp {}: {error}", host_port(&self.host, self.port)),
                Kind::Http | Kind::Https => format!("proxyconnect tcp: {error}"),
            })?;
            match self.kind {
                Kind::Http => self.asked(wire, host, port).await,
                Kind::Https => self.asked(self.secured(wire).await?, host, port).await,
                Kind::Socks => self.greeted(wire, host, port).await,
            }
        };
        tokio::time::timeout(LIMIT, connecting).await.map_err(|_| "the proxy did not answer in time")?
    }

    async fn secured(&self, wire: Box<dyn Wire>) -> Result<Box<dyn Wire>, BodyError> {
        let config = tls::client(Some(&tls::system_authorities()), None)?;
        let name = ServerName::try_from(self.host.clone())?;
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        Ok(Box::new(
            connector.connect(name, wire).await.map_err(|error| format!("proxyconnect tcp: {error}"))?,
        ))
    }

    /// `CONNECT`.
    async fn asked(
        &self,
        mut wire: Box<dyn Wire>,
        host: &str,
        port: u16,
    ) -> Result<Box<dyn Wire>, BodyError> {
        let place = host_port(host, port);
        let mut head = format!("CONNECT {place} HTTP/1.1\r\nHost: {place}\r\n");
        if let Some((name, password)) = &self.login {
            let login = STANDARD.encode(format!("{name}:{password}"));
            head.push_str(&format!("Proxy-Authorization: Basic {login}\r\n"));
        }
        wire.write_all(format!("{head}\r\n").as_bytes()).await?;
        let mut answer = Vec::new();
        // The server speaks after the client has, so that nothing of its own is read here.
        while !answer.ends_with(b"\r\n\r\n") {
            if answer.len() > HEAD_BYTES {
                return Err("the proxy's answer has too long a head".into());
            }
            answer.push(wire.read_u8().await?);
        }
        let first = String::from_utf8_lossy(&answer);
        let status =
            first.lines().next().unwrap_or_default().split_once(' ').map_or("", |(_, status)| status);
        match status.split_once(' ') {
            _ if status.starts_with("200") => Ok(wire),
            Some((_, reason)) if !reason.is_empty() => Err(reason.into()),
            _ => Err(format!("the proxy answered {status:?}").into()),
        }
    }

    /// SOCKS 5.
    async fn greeted(
        &self,
        mut wire: Box<dyn Wire>,
        host: &str,
        port: u16,
    ) -> Result<Box<dyn Wire>, BodyError> {
        const NO_LOGIN: u8 = 0;
        const LOGIN: u8 = 2;
        let methods: &[u8] = if self.login.is_some() { &[5, 2, NO_LOGIN, LOGIN] } else { &[5, 1, NO_LOGIN] };
        wire.write_all(methods).await?;
        let mut chosen = [0; 2];
        wire.read_exact(&mut chosen).await?;
        match (chosen, &self.login) {
            ([5, NO_LOGIN], _) => {}
            ([5, LOGIN], Some((name, password))) => {
                wire.write_all(&[&[1], &*short(name)?, &*short(password)?].concat()).await?;
                wire.read_exact(&mut chosen).await?;
                if chosen[1] != 0 {
                    return Err("socks connect: username/password authentication failed".into());
                }
            }
            _ => return Err("socks connect: no acceptable authentication methods".into()),
        }
        let place = match host.parse() {
            Ok(IpAddr::V4(address)) => [&[1], &address.octets()[..]].concat(),
            Ok(IpAddr::V6(address)) => [&[4], &address.octets()[..]].concat(),
            Err(_) => [&[3], &*short(host)?].concat(),
        };
        wire.write_all(&[&[5, 1, 0], &*place, &port.to_be_bytes()].concat()).await?;
        let mut answer = [0; 4];
        wire.read_exact(&mut answer).await?;
        if answer[1] != 0 {
            return Err(format!("socks connect: {}", refusal(answer[1])).into());
        }
        let bound = match answer[3] {
            1 => 4,
            4 => 16,
            _ => usize::from(wire.read_u8().await?),
        };
        wire.read_exact(&mut vec![0; bound + 2]).await?;
        Ok(wire)
    }
}

/// A connection without a proxy.
pub(crate) async fn tcp(host: &str, port: u16) -> Result<Box<dyn Wire>, BodyError> {
    let connected = tokio::time::timeout(LIMIT, TcpStream::connect((host, port))).await;
    let connected = connected.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()));
    let tcp = connected.map_err(|error| dial_error(&host_port(host, port), &error))?;
    tcp.set_nodelay(true)?;
    Ok(Box::new(tcp))
}

/// Connections to one host through a proxy.
pub(crate) struct Through {
    proxy: Arc<Proxy>,
    connector: Connector,
    host: String,
    port: u16,
}

impl Dial for Through {
    fn dial(&self) -> BoxFuture<'static, Result<Stream, BodyError>> {
        let (proxy, connector, host) = (self.proxy.clone(), self.connector.clone(), self.host.clone());
        let port = self.port;
        async move { connector.over(proxy.connect(&host, port).await?, &host).await }.boxed()
    }
}

/// A text with its length before it.
fn short(text: &str) -> Result<Vec<u8>, BodyError> {
    let length = u8::try_from(text.len()).map_err(|_| "longer than SOCKS 5 can carry")?;
    Ok([&[length], text.as_bytes()].concat())
}

/// RFC 1928, section 6.
fn refusal(code: u8) -> &'static str {
    match code {
        1 => "general SOCKS server failure",
        2 => "connection not allowed by ruleset",
        3 => "network unreachable",
        4 => "host unreachable",
        5 => "connection refused",
        6 => "TTL expired",
        7 => "command not supported",
        8 => "address type not supported",
        _ => "unknown code",
    }
}

fn is_here(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// `NO_PROXY`: `*`, hosts with all below them (`.example.org` for those below alone), addresses and ranges, each
/// but ranges with a port if it is only for that.
fn is_excepted(list: &str, host: &str, port: u16) -> bool {
    let host = host.to_ascii_lowercase();
    let address: Option<IpAddr> = host.parse().ok();
    list.split(',').map(|entry| entry.trim().to_ascii_lowercase()).filter(|entry| !entry.is_empty()).any(
        |entry| {
            if entry == "*" {
                return true;
            }
            if let Some((network, length)) = entry.split_once('/') {
                let (network, length) = (network.parse::<IpAddr>().ok(), length.parse::<u32>().ok());
                return match (network, length, address) {
                    (Some(network), Some(length), Some(address)) => is_within(network, length, address),
                    _ => false,
                };
            }
            let (name, own) = match entry.rsplit_once(':') {
                Some((name, own)) if !name.contains(':') || name.ends_with(']') => (name, own.parse().ok()),
                _ => (entry.as_str(), None),
            };
            let name = name.trim_matches(['[', ']']);
            if own.is_some_and(|own: u16| own != port) {
                return false;
            }
            let name = name.strip_prefix('*').unwrap_or(name);
            match name.strip_prefix('.') {
                Some(_) => host.ends_with(name),
                None => host == name || host.strip_suffix(name).is_some_and(|rest| rest.ends_with('.')),
            }
        },
    )
}

fn is_within(network: IpAddr, length: u32, address: IpAddr) -> bool {
    let same = |left: u128, right: u128, bits: u32| {
        length <= bits && (length == 0 || (left ^ right) >> (bits - length) == 0)
    };
    match (network, address) {
        (IpAddr::V4(network), IpAddr::V4(address)) => {
            same(network.to_bits().into(), address.to_bits().into(), 32)
        }
        (IpAddr::V6(network), IpAddr::V6(address)) => same(network.to_bits(), address.to_bits(), 128),
        _ => false,
    }
}

/// Percent-decoded.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let code = tail.get(..2).and_then(|code| std::str::from_utf8(code).ok());
        match code.and_then(|code| u8::from_str_radix(code, 16).ok()) {
            Some(byte) if *first == b'%' => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    #[test]
    fn exceptions() {
        let excepted = |list: &str, host: &str| is_excepted(list, host, 443);
        for (list, host) in [
            ("*", "a"),
            ("example.org", "a.example.org"),
            ("x, .example.org", "a.EXAMPLE.org"),
            ("10.0.0.0/8", "10.1.2.3"),
            ("fd00::/8", "fd00::1"),
            ("10.1.2.3", "10.1.2.3"),
            ("example.org:443", "example.org"),
        ] {
            assert!(excepted(list, host), "{list} {host}");
        }
        for (list, host) in [
            ("example.org", "anexample.org"),
            (".example.org", "example.org"),
            ("10.0.0.0/8", "11.1.2.3"),
            ("example.org:80", "example.org"),
            ("", "a"),
        ] {
            assert!(!excepted(list, host), "{list} {host}");
        }
    }

    #[test]
    fn the_environment_names_a_proxy() {
        let named = |server: &str| {
            let variable = |name: &str| (name == "https_proxy").then(|| "u:p%40@proxy:3128".to_owned());
            Proxy::of_environment(&server.parse().unwrap(), variable).unwrap()
        };
        let proxy = named("https://example.org").unwrap();
        assert_eq!((proxy.kind, &*proxy.host, proxy.port), (Kind::Http, "proxy", 3128));
        assert_eq!(proxy.login, Some(("u".to_owned(), "p@".to_owned())));
        for direct in ["http://example.org", "https://localhost:1", "https://127.0.0.1:6443", "https://[::1]"]
        {
            assert!(named(direct).is_none(), "{direct}");
        }
        assert!(Proxy::parse("ftp://a").err().unwrap().contains("must be http, https, or socks5"));
    }

    /// A proxy that reads `heard`, says `says` for each piece of it, and then sends back what it gets.
    async fn proxy(
        kind: Kind,
        login: Option<(String, String)>,
        talk: &'static [(&str, &[u8])],
    ) -> (Proxy, impl Future<Output = ()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let serve = async move {
            let (mut wire, _) = listener.accept().await.unwrap();
            for (heard, says) in talk {
                let mut read = vec![0; heard.len()];
                wire.read_exact(&mut read).await.unwrap();
                assert_eq!(String::from_utf8_lossy(&read), **heard);
                wire.write_all(says).await.unwrap();
            }
            let byte = wire.read_u8().await.unwrap();
            wire.write_u8(byte).await.unwrap();
        };
        (Proxy { kind, host: "127.0.0.1".to_owned(), port, login }, serve)
    }

    #[tokio::test]
    async fn both_kinds_of_proxies_lead_to_the_server() {
        let login = || Some(("u".to_owned(), "p".to_owned()));
        let connect: &[(&str, &[u8])] = &[(
            "CONNECT example.org:6443 HTTP/1.1\r\nHost: example.org:6443\r\nProxy-Authorization: Basic dTpw\r\n\r\n",
            b"HTTP/1.1 200 Connection established\r\nVia: x\r\n\r\n",
        )];
        let socks: &[(&str, &[u8])] = &[
            ("\u{5}\u{2}\0\u{2}", &[5, 2]),
            ("\u{1}\u{1}u\u{1}p", &[1, 0]),
            ("\u{5}\u{1}\0\u{3}\u{b}example.org\u{19}+", &[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]),
        ];
        for (kind, talk) in [(Kind::Http, connect), (Kind::Socks, socks)] {
            let (proxy, serve) = proxy(kind, login(), talk).await;
            let speak = async {
                let mut wire = proxy.connect("example.org", 6443).await.unwrap();
                wire.write_u8(7).await.unwrap();
                assert_eq!(wire.read_u8().await.unwrap(), 7);
            };
            tokio::join!(serve, speak);
        }
    }
}
