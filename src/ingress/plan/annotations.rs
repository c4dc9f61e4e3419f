//! knarr's own annotations of Ingresses, `ingress.knarr.io/…`.

use crate::rules::{Balance, Limits};
use api::Object;
use api::networking::Ingress;
use std::str::FromStr;
use std::time::Duration;

const PREFIX: &str = "ingress.knarr.io/";
/// The longest time that an annotation may ask for.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// What annotations say.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Wishes {
    pub(super) limits: Limits,
    pub(super) balance: Balance,
    pub(super) https_redirect: bool,
    pub(super) strip_prefix: bool,
}

/// Reads them; what is wrong is left as if it were not there, and told.
pub(super) fn read(ingress: &Ingress) -> (Wishes, Vec<String>) {
    let (mut wishes, mut mistakes) = (Wishes::default(), Vec::new());
    for (key, value) in ingress.annotations() {
        let Some(name) = key.strip_prefix(PREFIX) else { continue };
        if let Err(why) = wishes.take(name, value) {
            mistakes.push(format!("annotation {key}: {value:?} {why}; it is not followed"));
        }
    }
    (wishes, mistakes)
}

impl Wishes {
    fn take(&mut self, name: &str, value: &str) -> Result<(), &'static str> {
        match name {
            "body-limit" => self.limits.body_bytes = Some(bytes(value)?),
            "connect-timeout" => self.limits.connect = duration(value)?,
            "response-timeout" => self.limits.response = duration(value)?,
            "concurrency-limit" => self.limits.concurrency = Some(count(value)?),
            "rate-limit" => self.limits.rate_per_s = Some(count(value)?),
            "client-concurrency-limit" => self.limits.client_concurrency = Some(count(value)?),
            "client-rate-limit" => self.limits.client_rate_per_s = Some(count(value)?),
            "https-redirect" => self.https_redirect = flag(value)?,
            "strip-prefix" => self.strip_prefix = flag(value)?,
            "load-balance" => {
                self.balance = match value {
                    "round-robin" => Balance::RoundRobin,
                    "least-requests" => Balance::LeastRequests,
                    _ => return Err("is neither round-robin nor least-requests"),
                }
            }
            _ => return Err("is of no annotation that knarr knows"),
        }
        Ok(())
    }
}

fn flag(value: &str) -> Result<bool, &'static str> {
    bool::from_str(value).map_err(|_| "is neither true nor false")
}

fn count(value: &str) -> Result<u32, &'static str> {
    value.parse().ok().filter(|count| *count > 0).ok_or("is no whole number above 0")
}

/// A quantity such as `8Mi`.
fn bytes(value: &str) -> Result<u64, &'static str> {
    let amount = api::quantity::parse(value).ok();
    amount.and_then(|amount| u64::try_from(amount.to_units()).ok()).ok_or("is no size such as 8Mi")
}

/// Seconds, or a duration such as `1m30s`.
pub(crate) fn duration(value: &str) -> Result<Duration, &'static str> {
    let parsed = value.parse().map(Duration::from_secs).ok().or_else(|| crate::duration::parse(value));
    parsed.filter(|time| !time.is_zero() && *time <= LONGEST).ok_or("is no time such as 30s, up to a day")
}
