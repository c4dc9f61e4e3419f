//! Durations as Go reads and prints them: `1m30s`, `100ms`, `-1.5h`.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::time::Duration;

const NS_PER_S: i64 = 1_000_000_000;

/// The units, the longest first within a first letter, in nanoseconds.
const UNITS: [(&str, i64); 8] = [
    ("ns", 1),
    ("us", 1000),
    ("µs", 1000),
    ("μs", 1000),
    ("ms", 1_000_000),
    ("s", NS_PER_S),
    ("m", 60 * NS_PER_S),
    ("h", 3600 * NS_PER_S),
];

/// A `metav1.Duration`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct GoDuration {
    ns: i64,
}

impl GoDuration {
    pub(crate) const fn secs(seconds: i64) -> Self {
        Self { ns: seconds * NS_PER_S }
    }

    pub(crate) const fn millis(milli: i64) -> Self {
        Self { ns: milli * 1_000_000 }
    }

    /// As a time to wait; what is negative is none.
    pub(crate) fn get(self) -> Duration {
        Duration::from_nanos(u64::try_from(self.ns).unwrap_or(0))
    }

    pub(crate) fn is_zero(self) -> bool {
        self.ns == 0
    }

    pub(crate) fn is_negative(self) -> bool {
        self.ns < 0
    }

    pub(crate) fn as_secs(self) -> i64 {
        self.ns / NS_PER_S
    }

    /// Reads what Go's `ParseDuration` does.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (sign, mut rest) = match text.strip_prefix('-') {
            Some(rest) => (-1, rest),
            None => (1, text.strip_prefix('+').unwrap_or(text)),
        };
        if rest == "0" {
            return Some(Self::default());
        }
        if rest.is_empty() {
            return None;
        }
        let mut ns: i64 = 0;
        while !rest.is_empty() {
            let end = rest.find(|letter: char| !letter.is_ascii_digit() && letter != '.')?;
            let (number, after) = rest.split_at(end);
            let unit = after.find(|letter: char| letter.is_ascii_digit() || letter == '.');
            let (unit, after) = after.split_at(unit.unwrap_or(after.len()));
            let (_, each) = UNITS.iter().find(|(name, _)| *name == unit)?;
            ns = ns.checked_add(nanos(number, *each)?)?;
            rest = after;
        }
        Some(Self { ns: sign * ns })
    }
}

/// So many units of `each` nanoseconds: `1`, `1.5`, `.5`.
fn nanos(number: &str, each: i64) -> Option<i64> {
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && part.is_empty() {
        return None;
    }
    let whole = if whole.is_empty() { 0 } else { whole.parse::<i64>().ok()?.checked_mul(each)? };
    let (mut fraction, mut step) = (0, each);
    for digit in part.bytes() {
        let digit = i64::from(digit.checked_sub(b'0').filter(|digit| *digit < 10)?);
        // What is finer than a nanosecond is let go of, as in Go.
        fraction += step * digit / 10;
        step /= 10;
    }
    whole.checked_add(fraction)
}

/// `1.5` of 1,500,000 with a unit of a million.
fn decimal(ns: i64, unit: i64) -> String {
    let (whole, mut part) = (ns / unit, ns % unit);
    if part == 0 {
        return whole.to_string();
    }
    let mut text = format!("{whole}.");
    let mut step = unit / 10;
    while part > 0 {
        text.push_str(&(part / step).to_string());
        part %= step;
        step /= 10;
    }
    text
}

impl fmt::Display for GoDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.ns < 0 { "-" } else { "" };
        let ns = self.ns.saturating_abs();
        match ns {
            0 => return write!(f, "0s"),
            ns if ns < 1000 => return write!(f, "{sign}{ns}ns"),
            ns if ns < 1_000_000 => return write!(f, "{sign}{}µs", decimal(ns, 1000)),
            ns if ns < NS_PER_S => return write!(f, "{sign}{}ms", decimal(ns, 1_000_000)),
            _ => {}
        }
        let seconds = decimal(ns % (60 * NS_PER_S), NS_PER_S);
        match (ns / (3600 * NS_PER_S), ns / (60 * NS_PER_S) % 60) {
            (0, 0) => write!(f, "{sign}{seconds}s"),
            (0, minutes) => write!(f, "{sign}{minutes}m{seconds}s"),
            (hours, minutes) => write!(f, "{sign}{hours}h{minutes}m{seconds}s"),
        }
    }
}

impl Serialize for GoDuration {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for GoDuration {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        Self::parse(&text).ok_or_else(|| D::Error::custom(format!("time: invalid duration {text:?}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_printed_as_go_does() {
        let again = |text: &str| GoDuration::parse(text).map(|duration| duration.to_string());
        let cases = [
            ("10s", "10s"),
            ("90s", "1m30s"),
            ("1h", "1h0m0s"),
            ("1.5h", "1h30m0s"),
            ("100ms", "100ms"),
            ("1500us", "1.5ms"),
            ("2.5s", "2.5s"),
            ("1m0.25s", "1m0.25s"),
            ("-5s", "-5s"),
            ("0", "0s"),
            ("0s", "0s"),
            ("7ns", "7ns"),
        ];
        for (text, printed) in cases {
            assert_eq!(again(text).as_deref(), Some(printed), "{text}");
        }
        for wrong in ["", "5", "s", "1x", "1s2", ".s", "- 1s", "1..2s", "99999999999h"] {
            assert_eq!(again(wrong), None, "{wrong}");
        }
    }
}
