//! Who else's pages may read answers: the filter `CORS` of Gateway API, as the Fetch standard has it. Pure.

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method};

/// All of something.
const ANY: &str = "*";

/// `HTTPCORSFilter`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cors {
    pub(crate) origins: Vec<Origin>,
    pub(crate) credentials: bool,
    /// Names, or all.
    pub(crate) methods: Names,
    pub(crate) headers: Names,
    pub(crate) exposed: Names,
    pub(crate) max_age_s: u32,
}

/// Where a page is from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    Any,
    /// Everything before the host, the host's end if any may stand before it, and everything behind.
    Like {
        scheme: String,
        host: String,
        any_before: bool,
        port: String,
    },
}

/// Some names as one value, or all there are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Names {
    #[default]
    None,
    Any,
    These(HeaderValue),
}

impl Names {
    pub(crate) fn read(names: &[String]) -> Result<Self, String> {
        if names.is_empty() {
            return Ok(Self::None);
        }
        if names.iter().any(|name| name == ANY) {
            return Ok(Self::Any);
        }
        let wrong = names.iter().find(|name| name.parse::<HeaderName>().is_err());
        if let Some(wrong) = wrong {
            return Err(format!("{wrong:?} is no name of a header or method"));
        }
        HeaderValue::from_str(&names.join(", ")).map(Self::These).map_err(|_| "names are none".to_owned())
    }

    /// As an answer says them: all are told by name to who shows who he is, as the standard takes no star then.
    fn told(&self, credentials: bool, asked: Option<&HeaderValue>) -> Option<HeaderValue> {
        match self {
            Self::None => None,
            Self::Any if credentials => asked.cloned(),
            Self::Any => Some(HeaderValue::from_static(ANY)),
            Self::These(names) => Some(names.clone()),
        }
    }
}

/// The scheme, host and port (with its colon) of an origin.
fn split(text: &str) -> Option<(&str, &str, &str)> {
    let (scheme, rest) = text.split_once("://")?;
    let end_of_host = if rest.starts_with('[') { rest.find(']')? + 1 } else { 0 };
    let colon = rest.get(end_of_host..)?.find(':').map_or(rest.len(), |at| at + end_of_host);
    let (host, port) = rest.split_at(colon);
    let is_plain = !scheme.is_empty() && !host.is_empty() && !rest.contains('/');
    is_plain.then_some((scheme, host, port))
}

impl Origin {
    /// `*`, or `SCHEME://HOST(:PORT)` whose host is `*` or begins with `*.` for any before.
    pub(crate) fn read(text: &str) -> Result<Self, String> {
        if text == ANY {
            return Ok(Self::Any);
        }
        let (scheme, host, port) = split(text).ok_or_else(|| format!("{text:?} is no origin"))?;
        let (any_before, host) = match host.strip_prefix(ANY) {
            Some(end) if end.is_empty() || end.starts_with('.') => (true, end),
            Some(_) => return Err(format!("{text:?} is no origin")),
            None => (false, host),
        };
        let (scheme, host) = (scheme.to_ascii_lowercase(), host.to_ascii_lowercase());
        Ok(Self::Like { scheme, host, any_before, port: port.to_owned() })
    }

    fn is_of(&self, asked: &str) -> bool {
        let Self::Like { scheme, host, any_before, port } = self else { return true };
        let Some((own_scheme, own_host, own_port)) = split(asked) else { return false };
        let own_host = own_host.to_ascii_lowercase();
        let fits = if *any_before {
            own_host.len() > host.len() && own_host.ends_with(host)
        } else {
            own_host == *host
        };
        own_scheme.eq_ignore_ascii_case(scheme) && own_port == port && fits
    }
}

impl Cors {
    /// How an answer names the origin of a request; none where the filter is not about it.
    fn allowed(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        let asked = headers.get(ORIGIN)?;
        let text = asked.to_str().ok()?;
        let origin = self.origins.iter().find(|origin| origin.is_of(text))?;
        let all = *origin == Origin::Any && !self.credentials;
        Some(if all { HeaderValue::from_static(ANY) } else { asked.clone() })
    }

    /// What is answered to a browser that asks before it asks; none where a request is no such question. Of an origin
    /// that may not, nothing is said.
    pub(crate) fn preflight(&self, method: &Method, headers: &HeaderMap) -> Option<HeaderMap> {
        let asked = headers.get(ACCESS_CONTROL_REQUEST_METHOD)?;
        if *method != Method::OPTIONS || !headers.contains_key(ORIGIN) {
            return None;
        }
        let mut answer = HeaderMap::new();
        let Some(origin) = self.allowed(headers) else { return Some(answer) };
        let named = headers.get(ACCESS_CONTROL_REQUEST_HEADERS);
        answer.extend(
            self.methods
                .told(self.credentials, Some(asked))
                .map(|methods| (ACCESS_CONTROL_ALLOW_METHODS, methods)),
        );
        answer.extend(
            self.headers.told(self.credentials, named).map(|names| (ACCESS_CONTROL_ALLOW_HEADERS, names)),
        );
        answer.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from(self.max_age_s));
        self.tell(origin, &mut answer);
        Some(answer)
    }

    fn tell(&self, origin: HeaderValue, answer: &mut HeaderMap) {
        if origin != ANY {
            // Caches between may not give it to pages from elsewhere.
            answer.append(VARY, HeaderValue::from_static("Origin"));
        }
        answer.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        if self.credentials {
            answer.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
    }

    /// What is to be said beside the answer to a request; none where nothing is.
    pub(crate) fn told(&self, headers: &HeaderMap) -> Option<Told<'_>> {
        Some(Told { cors: self, origin: self.allowed(headers)? })
    }
}

/// What an answer says besides.
pub(crate) struct Told<'a> {
    cors: &'a Cors,
    origin: HeaderValue,
}

impl Told<'_> {
    /// Puts it into an answer, instead of what a backend says.
    pub(crate) fn put(self, answer: &mut HeaderMap) {
        if let Some(exposed) = self.cors.exposed.told(false, None) {
            answer.insert(ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
        }
        answer.remove(ACCESS_CONTROL_ALLOW_CREDENTIALS);
        self.cors.tell(self.origin, answer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cors(origins: &[&str], credentials: bool, names: &[&str]) -> Cors {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let names = Names::read(&names).unwrap();
        Cors {
            origins: origins.iter().map(|text| Origin::read(text).unwrap()).collect(),
            credentials,
            methods: names.clone(),
            headers: names.clone(),
            exposed: names,
            max_age_s: 5,
        }
    }

    fn asking(pairs: &[(HeaderName, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), HeaderValue::from_str(value).unwrap())).collect()
    }

    fn text(headers: &HeaderMap) -> String {
        let mut lines: Vec<String> =
            headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        lines.sort();
        lines.join("\n")
    }

    #[test]
    fn origins_are_told_apart() {
        let fits = |pattern: &str, asked: &str| Origin::read(pattern).unwrap().is_of(asked);
        assert!(
            fits("https://a.example", "https://A.example") && !fits("https://a.example", "http://a.example")
        );
        assert!(
            fits("https://*.example", "https://x.y.example") && !fits("https://*.example", "https://example")
        );
        assert!(!fits("https://*.example", "https://evilexample"));
        assert!(fits("http://*", "http://anybody") && !fits("http://*", "http://anybody:8080"));
        assert!(fits("http://a:8080", "http://a:8080") && !fits("http://a:8080", "http://a"));
        assert!(fits("http://[::1]:80", "http://[::1]:80") && fits("*", "null"));
        for wrong in ["a.example", "https://", "https://a/b", "https://*x.example", "://a"] {
            assert!(Origin::read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn questions_before_a_request_are_answered() {
        let ask = [
            (ORIGIN, "https://a.example"),
            (ACCESS_CONTROL_REQUEST_METHOD, "PUT"),
            (ACCESS_CONTROL_REQUEST_HEADERS, "x-one"),
        ];
        let asked = asking(&ask);
        let some = cors(&["https://a.example"], false, &["GET", "PUT"]);
        assert_eq!(
            text(&some.preflight(&Method::OPTIONS, &asked).unwrap()),
            "access-control-allow-headers: GET, PUT\naccess-control-allow-methods: GET, PUT\n\
             access-control-allow-origin: https://a.example\naccess-control-max-age: 5\nvary: Origin"
        );
        let all = cors(&["*"], false, &["*"]);
        assert_eq!(
            text(&all.preflight(&Method::OPTIONS, &asked).unwrap()),
            "access-control-allow-headers: *\naccess-control-allow-methods: *\n\
             access-control-allow-origin: *\naccess-control-max-age: 5"
        );
        let known = cors(&["*"], true, &["*"]);
        assert_eq!(
            text(&known.preflight(&Method::OPTIONS, &asked).unwrap()),
            "access-control-allow-credentials: true\naccess-control-allow-headers: x-one\n\
             access-control-allow-methods: PUT\naccess-control-allow-origin: https://a.example\n\
             access-control-max-age: 5\nvary: Origin"
        );
        assert_eq!(
            text(&cors(&["https://b.example"], true, &[]).preflight(&Method::OPTIONS, &asked).unwrap()),
            ""
        );
        assert!(all.preflight(&Method::GET, &asked).is_none());
        assert!(all.preflight(&Method::OPTIONS, &asking(&ask[..1])).is_none(), "it is a request of its own");
    }

    #[test]
    fn answers_say_who_may_read_them() {
        let asked = asking(&[(ORIGIN, "https://a.example")]);
        let mut answer = asking(&[(ACCESS_CONTROL_ALLOW_ORIGIN, "https://z.example"), (VARY, "Accept")]);
        cors(&["https://*.example"], true, &["x-one"]).told(&asked).unwrap().put(&mut answer);
        assert_eq!(
            text(&answer),
            "access-control-allow-credentials: true\naccess-control-allow-origin: https://a.example\n\
             access-control-expose-headers: x-one\nvary: Accept\nvary: Origin"
        );
        assert!(cors(&["https://b.example"], true, &[]).told(&asked).is_none());
        assert!(cors(&["*"], true, &[]).told(&HeaderMap::new()).is_none(), "it is of no page");
    }
}
