//! What a plan says: which requests go where. Plain data, made by `plan`, compiled into a [`crate::table`].

use crate::cors::Cors;
use http::{HeaderName, HeaderValue, Method, StatusCode};
use regex::{Regex, RegexBuilder};
use std::sync::Arc;
use std::time::Duration;

/// How large a regular expression may become when it is compiled.
const PATTERN_BYTES: usize = 256 << 10;

/// How long an endpoint may take to accept a connection.
pub(crate) const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// How long an endpoint may take to begin its answer, and may be silent within it (what nginx waits).
pub(crate) const RESPONSE_LIMIT: Duration = Duration::from_secs(60);

/// Which hosts a rule is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Host {
    /// This one, in lower case.
    Exact(String),
    /// All below a domain; `*.example.com` has the suffix `example.com`.
    Below {
        suffix: String,
        /// One label more and no further, as Ingress has it; Gateway API takes any number.
        one_label: bool,
    },
    /// All.
    Any,
}

impl Host {
    /// The host of an Ingress or a Gateway; "" is all.
    pub(crate) fn parse(text: &str, one_label: bool) -> Self {
        let text = text.to_ascii_lowercase();
        match text.strip_prefix("*.") {
            Some(suffix) => Self::Below { suffix: suffix.to_owned(), one_label },
            None if text.is_empty() => Self::Any,
            None => Self::Exact(text),
        }
    }
}

/// Which paths a rule is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Path {
    /// This one.
    Exact(String),
    /// All whose first elements are these; without a slash at its end, so that the root is "".
    Prefix(String),
    /// All that an expression is for.
    Pattern(Pattern),
}

impl Path {
    /// As it was written, for people.
    pub(crate) fn as_str(&self) -> &str {
        match self {
            Self::Exact(text) | Self::Prefix(text) => text,
            Self::Pattern(pattern) => pattern.as_str(),
        }
    }

    /// All paths that begin with the elements of this one.
    pub(crate) fn prefix(text: &str) -> Self {
        Self::Prefix(text.trim_end_matches('/').to_owned())
    }
}

/// What else a request has to have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Conditions {
    pub(crate) method: Option<Method>,
    pub(crate) headers: Vec<(HeaderName, Text)>,
    /// Parameters of the query.
    pub(crate) query: Vec<(String, Text)>,
}

/// What a value has to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Text {
    Exact(String),
    Pattern(Pattern),
}

impl Text {
    pub(crate) fn is(&self, value: &[u8]) -> bool {
        match self {
            Self::Exact(text) => text.as_bytes() == value,
            Self::Pattern(pattern) => std::str::from_utf8(value).is_ok_and(|value| pattern.is_match(value)),
        }
    }
}

/// A regular expression for the whole of a text. It takes time that grows with the text alone (no look-around, no
/// back references).
#[derive(Clone, Debug)]
pub(crate) struct Pattern(Arc<(String, Regex)>);

impl Pattern {
    /// Compiles one, or says what is wrong with it.
    pub(crate) fn new(text: &str) -> Result<Self, String> {
        let whole = format!("^(?:{text})$");
        let built = RegexBuilder::new(&whole).size_limit(PATTERN_BYTES).dfa_size_limit(PATTERN_BYTES).build();
        // By itself, so that no parenthesis in it ends the group around it.
        let alone = RegexBuilder::new(text).size_limit(PATTERN_BYTES).build();
        match alone.and(built) {
            Ok(regex) => Ok(Self(Arc::new((text.to_owned(), regex)))),
            Err(_) => Err(format!("{text:?} is no regular expression of RE2's syntax, or too large a one")),
        }
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0.0
    }

    pub(crate) fn is_match(&self, text: &str) -> bool {
        self.0.1.is_match(text)
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for Pattern {}

/// Who comes first among rules that are equally specific: the older object, then by name, then by its place.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Order {
    /// Seconds since 1970.
    pub(crate) created_s: i64,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) place: usize,
}

/// One rule.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Rule {
    /// The ports it is served on.
    pub(crate) ports: Vec<u16>,
    /// The host of the Gateway's listener that it is attached to; rules of Ingresses have none.
    pub(crate) listener: Option<Host>,
    pub(crate) host: Host,
    pub(crate) path: Path,
    pub(crate) conditions: Conditions,
    /// Asked only where no other rule of any host fits (`spec.defaultBackend`).
    pub(crate) fallback: bool,
    pub(crate) order: Order,
    pub(crate) route: Route,
}

/// A listener of a Gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listening {
    pub(crate) port: u16,
    pub(crate) host: Host,
    /// Or passes streams on.
    pub(crate) speaks_http: bool,
}

/// Where connections of TLS lead that are passed on by the name that they ask for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct StreamRule {
    pub(crate) port: u16,
    /// The host of the listener that it is attached to.
    pub(crate) listener: Host,
    pub(crate) host: Host,
    /// Whether TLS ends here; else the endpoint ends it.
    pub(crate) ends_tls: bool,
    pub(crate) order: Order,
    pub(crate) route: Route,
}

/// What is done with a request.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Route {
    /// What logs call it, such as `Ingress default/web /api`.
    pub(crate) name: String,
    pub(crate) limits: Limits,
    pub(crate) filters: Filters,
    pub(crate) action: Action,
}

/// What a route bounds.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Limits {
    /// The largest body of a request; bodies are passed on in pieces and never held.
    pub(crate) body_bytes: Option<u64>,
    pub(crate) connect: Duration,
    /// Until an answer begins, and between its pieces.
    pub(crate) response: Duration,
    /// Until an answer begins, retries included.
    pub(crate) total: Option<Duration>,
    /// Requests at the same time.
    pub(crate) concurrency: Option<u32>,
    /// Requests in a second.
    pub(crate) rate_per_s: Option<u32>,
    /// The same for each client.
    pub(crate) client_concurrency: Option<u32>,
    pub(crate) client_rate_per_s: Option<u32>,
    /// How often a request is tried where nothing was sent or nothing was answered.
    pub(crate) retries: u32,
    /// Answers with these codes are tried again as well, if the request may be repeated.
    pub(crate) retry_codes: Vec<u16>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_bytes: None,
            connect: CONNECT_LIMIT,
            response: RESPONSE_LIMIT,
            total: None,
            concurrency: None,
            rate_per_s: None,
            client_concurrency: None,
            client_rate_per_s: None,
            retries: 2,
            retry_codes: Vec::new(),
        }
    }
}

/// What a route changes on the way.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Filters {
    pub(crate) request: HeaderChanges,
    pub(crate) response: HeaderChanges,
    pub(crate) hostname: Option<HeaderValue>,
    pub(crate) path: Option<PathChange>,
    /// Who gets a copy of each request; what it answers is dropped.
    pub(crate) mirrors: Vec<Mirror>,
    /// Who else's pages may read answers.
    pub(crate) cors: Option<Box<Cors>>,
}

/// A copy of requests.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Mirror {
    pub(crate) backend: BackendKey,
    /// Of so many requests…
    pub(crate) of: u32,
    /// …so many are copied.
    pub(crate) share: u32,
}

/// Headers that are set, added and removed, in this order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct HeaderChanges {
    pub(crate) set: Vec<(HeaderName, HeaderValue)>,
    pub(crate) add: Vec<(HeaderName, HeaderValue)>,
    pub(crate) remove: Vec<HeaderName>,
}

impl HeaderChanges {
    pub(crate) fn is_empty(&self) -> bool {
        self.set.is_empty() && self.add.is_empty() && self.remove.is_empty()
    }
}

/// How a path is changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PathChange {
    /// It becomes this one.
    Full(String),
    /// What matched, of so many bytes, becomes this.
    Prefix { matched: usize, to: String },
}

/// Where a request goes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Action {
    /// To one of these, by weight.
    Forward(Vec<Weighted>),
    Redirect(Redirect),
    /// Nowhere.
    Answer(StatusCode),
}

/// A share of the requests.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Weighted {
    pub(crate) weight: u32,
    pub(crate) to: Share,
    pub(crate) request: HeaderChanges,
    pub(crate) response: HeaderChanges,
}

/// Whom a share goes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Share {
    Backend(BackendKey),
    /// A reference that leads nowhere is answered with this code.
    Nobody(StatusCode),
}

/// `HTTPRequestRedirectFilter`; what is not said stays as it was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Redirect {
    pub(crate) code: StatusCode,
    pub(crate) scheme: Option<String>,
    pub(crate) hostname: Option<String>,
    pub(crate) port: Option<u16>,
    pub(crate) path: Option<PathChange>,
}

/// What backends speak (`appProtocol` of a Service's port, KEP-3726).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Protocol {
    /// HTTP/1.1.
    Http,
    /// HTTP/2 without TLS.
    H2c,
    /// HTTP/1.1 over TLS.
    Https,
    /// Whatever the client speaks.
    Any,
}

impl Protocol {
    pub(crate) fn of(app_protocol: Option<&str>) -> Self {
        match app_protocol {
            Some("kubernetes.io/h2c" | "h2c") => Self::H2c,
            Some("kubernetes.io/wss" | "https" | "HTTPS") => Self::Https,
            _ => Self::Http,
        }
    }
}

/// Whom a backend's requests go to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Balance {
    /// One after the other.
    #[default]
    RoundRobin,
    /// Of two taken by turns, the one with fewer requests under way.
    LeastRequests,
}

/// A port of a Service, and how it is spoken to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct BackendKey {
    pub(crate) namespace: String,
    pub(crate) service: String,
    /// The port's name, which is its name in EndpointSlices.
    pub(crate) port: String,
    pub(crate) protocol: Protocol,
    pub(crate) balance: Balance,
}
