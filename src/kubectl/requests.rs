//! How requests are sent: within `--request-timeout`, again where the server asks for it, packed answers
//! unpacked, warnings and `-v` on standard error.

use crate::error::Error;
use crate::globals::Global;
use crate::output::colour;
use base::{Body, clock, full_body};
use client::Client;
use flate2::read::GzDecoder;
use http::{HeaderMap, Request, Response, StatusCode, header};
use std::collections::BTreeSet;
use std::io::Read;
use std::sync::Mutex;
use std::time::Duration;

/// The largest answer taken into memory.
const ANSWER_BYTES: usize = 512 << 20;
/// How often a request is sent again that a busy server refused with `Retry-After` (what Kubernetes' client does).
const RETRIES: u32 = 10;
/// How long a server may ask to wait at most, in seconds.
const LONGEST_WAIT_S: u64 = 60;
/// How much of bodies `-v=8` and `-v=9` show, in bytes.
const SHOWN_BYTES: usize = 1024;
const MORE_BYTES: usize = 10 << 10;

/// What flags say of all requests.
#[derive(Default)]
pub(crate) struct Manner {
    /// Of one request; none for as long as it takes.
    timeout: Option<Duration>,
    pub(crate) gzip: bool,
    verbosity: u8,
    warnings_as_errors: bool,
    warned: Mutex<BTreeSet<String>>,
    /// Stands before paths where requests are shown.
    server: String,
}

impl Manner {
    pub(crate) fn of(global: &Global, gzip: bool, server: &http::Uri) -> Result<Self, Error> {
        Ok(Self {
            timeout: global.request_timeout.as_deref().map(timeout).transpose()?.flatten(),
            gzip,
            verbosity: global.verbosity(),
            warnings_as_errors: global.warnings_as_errors,
            warned: Mutex::default(),
            server: server.to_string().trim_end_matches('/').to_owned(),
        })
    }

    /// Sends a request, which may have to be sent several times.
    pub(crate) async fn send(
        &self,
        client: &Client,
        head: &http::request::Parts,
        body: &[u8],
    ) -> Result<Response<Body>, client::Error> {
        persistently(async || {
            let mut request = Request::new(full_body(body.to_vec()));
            *request.method_mut() = head.method.clone();
            *request.uri_mut() = head.uri.clone();
            *request.headers_mut() = head.headers.clone();
            self.say_request(head, body);
            let began = clock::instant();
            let sending = client.raw(request);
            let sent = match self.timeout {
                Some(limit) => tokio::time::timeout(limit, sending).await.unwrap_or_else(|_| {
                    Err(client::Error::Transport(
                        "context deadline exceeded (Client.Timeout exceeded while awaiting headers)"
                            .to_owned(),
                    ))
                }),
                None => sending.await,
            };
            self.say_answer(head, sent.as_ref().ok(), began.elapsed());
            let answer = sent?;
            self.hear(answer.headers());
            Ok(answer)
        })
        .await
    }

    /// An answer's body as a whole, unpacked.
    pub(crate) async fn whole(&self, answer: Response<Body>) -> Result<bytes::Bytes, Error> {
        let packed = answer.headers().get(header::CONTENT_ENCODING).is_some_and(|value| value == "gzip");
        let collecting = base::collect(answer.into_body(), ANSWER_BYTES);
        let collected = match self.timeout {
            Some(limit) => tokio::time::timeout(limit, collecting).await.map_err(|_| {
                client::Error::Transport(
                    "context deadline exceeded (Client.Timeout or context cancellation while reading body)"
                        .to_owned(),
                )
            })?,
            None => collecting.await,
        };
        let bytes = collected.map_err(|error| client::Error::Transport(error.to_string()))?;
        let bytes = if packed { unpacked(&bytes)? } else { bytes };
        self.say_body("Response Body", &bytes);
        Ok(bytes)
    }

    /// Prints what the server warns of, each once.
    fn hear(&self, headers: &HeaderMap) {
        for value in headers.get_all(header::WARNING) {
            let Some(text) = value.to_str().ok().and_then(warning) else { continue };
            let mut warned = self.warned.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            if warned.insert(text.clone()) {
                match colour::is_wanted(&std::io::stderr()) {
                    true => eprintln!("{} {text}", colour::warning("Warning:")),
                    false => eprintln!("Warning: {text}"),
                }
            }
        }
    }

    /// Fails if warnings were heard that are to be errors.
    pub(crate) fn end(&self) -> Result<(), Error> {
        let count = self.warned.lock().unwrap_or_else(std::sync::PoisonError::into_inner).len();
        match (self.warnings_as_errors, count) {
            (true, 1) => Err(Error::plain("1 warning received")),
            (true, 2..) => Err(Error::plain(format!("{count} warnings received"))),
            _ => Ok(()),
        }
    }

    fn say_request(&self, head: &http::request::Parts, body: &[u8]) {
        if self.verbosity < 7 {
            return;
        }
        say(&format!(
            "\"Request\" verb=\"{}\" url=\"{}{}\" headers=<\n{}\t>",
            head.method,
            self.server,
            head.uri,
            shown(&head.headers)
        ));
        if !body.is_empty() {
            self.say_body("Request Body", body);
        }
    }

    /// Where there is no answer the status is empty.
    fn say_answer(&self, head: &http::request::Parts, answer: Option<&Response<Body>>, took: Duration) {
        if self.verbosity < 6 {
            return;
        }
        let headers = match answer.filter(|_| self.verbosity >= 8) {
            Some(answer) => format!(" headers=<\n{}\t>", shown(answer.headers())),
            None => String::new(),
        };
        let status = answer.map(|answer| answer.status().to_string()).unwrap_or_default();
        let milliseconds = took.as_millis();
        // What was asked stands above, where requests are shown.
        let asked = match self.verbosity {
            ..7 => format!(" verb=\"{}\" url=\"{}{}\"", head.method, self.server, head.uri),
            _ => String::new(),
        };
        say(&format!("\"Response\"{asked} status=\"{status}\"{headers} milliseconds={milliseconds}"));
    }

    fn say_body(&self, what: &str, body: &[u8]) {
        if self.verbosity < 8 {
            return;
        }
        let text = String::from_utf8_lossy(body);
        // A token that the server made is a credential like those that are sent.
        if text.contains("\"kind\":\"TokenRequest\"") {
            return say(&format!("{what:?} body=\"<a token, not shown>\""));
        }
        let limit = match self.verbosity {
            8 => SHOWN_BYTES,
            9 => MORE_BYTES,
            _ => usize::MAX,
        };
        let end = text.floor_char_boundary(limit);
        let rest = text.len() - end;
        let more = if rest > 0 { format!(" [truncated {rest} chars]") } else { String::new() };
        say(&format!("{what:?} body=<\n\t{}{more}\n >", &text[..end]));
    }
}

/// Headers, one a line, without what proves who asks.
fn shown(headers: &HeaderMap) -> String {
    let secret = [header::AUTHORIZATION, header::PROXY_AUTHORIZATION, header::COOKIE, header::SET_COOKIE];
    let line = |(name, value): (&header::HeaderName, &header::HeaderValue)| match secret.contains(name) {
        true => format!("\t{name}: <masked>\n"),
        false => format!("\t{name}: {}\n", String::from_utf8_lossy(value.as_bytes())),
    };
    headers.iter().map(line).collect()
}

/// A line as Kubernetes' programs log it.
pub(crate) fn say(text: &str) {
    let now = clock::now();
    let time = now.strftime("%m%d %H:%M:%S%.6f");
    eprintln!("I{time} {:>7} requests] {text}", std::process::id());
}

/// Sends a request until it is answered by something else than a refusal for now, up to [`RETRIES`] times more.
pub(crate) async fn persistently<B, E>(
    mut send: impl AsyncFnMut() -> Result<Response<B>, E>,
) -> Result<Response<B>, E> {
    let mut left = RETRIES;
    loop {
        let answer = send().await?;
        match wait(answer.status(), answer.headers()) {
            Some(wait) if left > 0 => clock::sleep(wait).await,
            _ => return Ok(answer),
        }
        left -= 1;
    }
}

/// How long to wait before a request is sent again, if the server says so of an answer that is a refusal.
fn wait(code: StatusCode, headers: &HeaderMap) -> Option<Duration> {
    let retried = code == StatusCode::TOO_MANY_REQUESTS || code.is_server_error();
    let seconds: u64 = headers.get(header::RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    retried.then(|| Duration::from_secs(seconds.min(LONGEST_WAIT_S)))
}

/// The text of a `Warning` header: `299 - "text"` (RFC 7234, section 5.5).
fn warning(value: &str) -> Option<String> {
    let quoted = value.strip_prefix("299 ")?.split_once(' ')?.1.trim().strip_prefix('"')?;
    let mut text = String::new();
    let mut signs = quoted.chars();
    loop {
        match signs.next()? {
            '"' => return Some(text),
            '\\' => text.push(signs.next()?),
            sign => text.push(sign),
        }
    }
}

fn unpacked(bytes: &[u8]) -> Result<bytes::Bytes, Error> {
    let mut text = Vec::new();
    let limit = u64::try_from(ANSWER_BYTES).unwrap_or(u64::MAX);
    let read = GzDecoder::new(bytes).take(limit).read_to_end(&mut text);
    read.map_err(|error| Error::plain(format!("the server's answer cannot be unpacked: {error}")))?;
    Ok(text.into())
}

/// `--request-timeout`: seconds, or a number with its unit; 0 for none.
fn timeout(text: &str) -> Result<Option<Duration>, Error> {
    let bad = || {
        Error::plain(
            "Invalid timeout value. Timeout must be a single integer in seconds, or an integer followed by a corresponding time unit (e.g. 0s | 2m | 3h)",
        )
    };
    let limit = match text.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => crate::wait_gone::duration(text).map_err(|_| bad())?,
    };
    Ok((!limit.is_zero()).then_some(limit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_are_unquoted() {
        assert_eq!(warning(r#"299 - "a \"b\" c" "date""#).as_deref(), Some("a \"b\" c"));
        assert_eq!(warning("199 - \"a\""), None);
        assert_eq!(warning("299 - \"a"), None);
    }

    #[test]
    fn timeouts_are_seconds_or_have_units() {
        let read = |text: &str| timeout(text).map_err(|error| error.to_string());
        assert_eq!(read("0"), Ok(None));
        assert_eq!(read("30"), Ok(Some(Duration::from_secs(30))));
        assert_eq!(read("2m"), Ok(Some(Duration::from_secs(120))));
        assert!(read("soon").unwrap_err().starts_with("error: Invalid timeout value."));
    }

    #[test]
    fn credentials_are_not_shown() {
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, "Bearer secret".parse().unwrap());
        headers.insert(header::ACCEPT, "a".parse().unwrap());
        assert_eq!(shown(&headers), "\tauthorization: <masked>\n\taccept: a\n");
    }

    #[test]
    fn a_busy_server_says_when() {
        let answer = |code: u16, after: &str| {
            let headers = HeaderMap::from_iter([(header::RETRY_AFTER, after.parse().unwrap())]);
            wait(StatusCode::from_u16(code).unwrap(), &headers)
        };
        assert_eq!(answer(429, "2"), Some(Duration::from_secs(2)));
        assert_eq!(answer(503, "9999"), Some(Duration::from_secs(60)));
        assert_eq!(answer(409, "2"), None);
        assert_eq!(answer(429, "soon"), None);
    }
}
