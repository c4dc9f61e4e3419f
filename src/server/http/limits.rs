//! How large a request may be, and how long it may take.

use super::query::Query;
use api::status::Refusal;
use base::{Body, CollectError};
use bytes::Bytes;
use http::Request;
use serde_json::json;
use std::time::Duration;

/// The largest body (Kubernetes' limit).
const BODY_BYTES: usize = 3 << 20;
/// How long a request that does not stream may take, and the most that `timeout` may ask for.
const REQUEST_LIMIT: Duration = Duration::from_secs(60);
/// The part of it that may pass while the request waits for seats.
const WAITING_PART: u32 = 4;

/// When a request has to be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Deadline(Duration);

impl Deadline {
    pub(super) fn standard() -> Self {
        Self(REQUEST_LIMIT)
    }

    /// By the parameter `timeout`, a duration as Go writes it; 0 is none.
    pub(super) fn parse(query: &Query) -> Result<Self, Refusal> {
        let text = query.get("timeout");
        if text.is_empty() {
            return Ok(Self::standard());
        }
        let asked = duration(text).map_err(|why| {
            Refusal::bad_request(format!("invalid timeout specified in the request URL - time: {why}"))
        })?;
        let shorter = asked.filter(|asked| !asked.is_zero() && *asked < REQUEST_LIMIT);
        Ok(Self(shorter.unwrap_or(REQUEST_LIMIT)))
    }

    /// How long the request may wait for seats.
    pub(super) fn waiting(self) -> Duration {
        self.0 / WAITING_PART
    }

    /// Does the work, if it is done in time. Its state is put beside the request's, which is copied whole
    /// whenever it is handed on.
    pub(super) fn keep<T>(
        self,
        work: impl Future<Output = Result<T, Refusal>>,
    ) -> impl Future<Output = Result<T, Refusal>> {
        let work = Box::pin(work);
        async move { tokio::time::timeout(self.0, work).await.unwrap_or_else(|_| Err(timed_out())) }
    }
}

fn timed_out() -> Refusal {
    let message = "Timeout: request did not complete within the allotted timeout";
    let mut refusal = Refusal::new(504, "Timeout", message);
    refusal.details = json!({});
    refusal
}

/// Takes a request's body into memory.
pub(super) async fn body_of(request: Request<Body>) -> Result<Bytes, Refusal> {
    base::collect(request.into_body(), BODY_BYTES).await.map_err(|error| match error {
        CollectError::TooLarge(most) => {
            let mut refusal = Refusal::too_large(format!("Request entity too large: limit is {most}"));
            refusal.details = json!({});
            refusal
        }
        CollectError::Broken(error) => {
            Refusal::bad_request(format!("the request's body cannot be read: {error}"))
        }
    })
}

const UNITS: [(&str, f64); 8] = [
    ("ns", 1e-9),
    ("us", 1e-6),
    ("µs", 1e-6),
    ("μs", 1e-6),
    ("ms", 1e-3),
    ("s", 1.0),
    ("m", 60.0),
    ("h", 3600.0),
];

/// Reads a duration such as `1m30s` in Go's words; `None` for one before zero.
fn duration(text: &str) -> Result<Option<Duration>, String> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Ok(Some(Duration::ZERO));
    }
    let invalid = || format!("invalid duration {text:?}");
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let (number, after) = split(rest, |letter| letter.is_ascii_digit() || letter == '.');
        let (unit, after) = split(after, |letter| !letter.is_ascii_digit() && letter != '.');
        let number: f64 = number.parse().map_err(|_| invalid())?;
        if unit.is_empty() {
            return Err(format!("missing unit in duration {text:?}"));
        }
        let scale = UNITS.iter().find(|(name, _)| *name == unit);
        let (_, scale) = scale.ok_or_else(|| format!("unknown unit {unit:?} in duration {text:?}"))?;
        seconds += number * scale;
        rest = after;
    }
    let duration = Duration::try_from_secs_f64(seconds).map_err(|_| invalid())?;
    Ok((!negative).then_some(duration))
}

/// The letters at the start of a text that are wanted, and the rest.
fn split(text: &str, wanted: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(|letter| !wanted(letter)).unwrap_or(text.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Deadline, String> {
        Deadline::parse(&Query::parse(&format!("timeout={text}"))).map_err(|refusal| refusal.message)
    }

    #[test]
    fn timeouts_are_durations_up_to_the_servers_own() {
        assert_eq!(parsed("5s"), Ok(Deadline(Duration::from_secs(5))));
        assert_eq!(parsed("1.5s"), Ok(Deadline(Duration::from_millis(1500))));
        assert_eq!(parsed("10m"), Ok(Deadline::standard()));
        assert_eq!(parsed("0"), Ok(Deadline::standard()));
        assert_eq!(parsed("0s"), Ok(Deadline::standard()));
        assert_eq!(parsed("-3s"), Ok(Deadline::standard()));
        let wrong = |why: &str| Err(format!("invalid timeout specified in the request URL - time: {why}"));
        assert_eq!(parsed("5"), wrong("missing unit in duration \"5\""));
        assert_eq!(parsed("5x"), wrong("unknown unit \"x\" in duration \"5x\""));
        assert_eq!(parsed("soon"), wrong("invalid duration \"soon\""));
    }

    #[tokio::test(start_paused = true)]
    async fn what_takes_too_long_is_refused() {
        let slow = Deadline(Duration::from_secs(1)).keep(async {
            base::clock::sleep(Duration::from_secs(2)).await;
            Ok(())
        });
        let refusal = slow.await.unwrap_err();
        assert_eq!((refusal.code, &*refusal.reason), (504, "Timeout"));
        assert_eq!(refusal.message, "Timeout: request did not complete within the allotted timeout");
    }
}
