//! Durations and moments: how they are read, written, added and taken apart. The tables of time zones are
//! the machine's.

use crate::declaration::Shape;
use crate::value::{Fault, Outcome, Value, fail};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE;
use std::sync::Arc;

const NANOS: i128 = 1_000_000_000;
/// 0001-01-01T00:00:00Z and 9999-12-31T23:59:59Z in seconds of Unix.
const FIRST_SECOND: i64 = -62_135_596_800;
const LAST_SECOND: i64 = 253_402_300_799;

/// A moment of the years 1 to 9999, in seconds since 1970 and nanoseconds of the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment {
    pub(crate) seconds: i64,
    pub(crate) nanos: u32,
}

/// A moment in a time zone.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Civil {
    pub(crate) year: i64,
    pub(crate) month: i64,
    pub(crate) day: i64,
    pub(crate) hour: i64,
    pub(crate) minute: i64,
    pub(crate) second: i64,
    pub(crate) weekday: i64,
    pub(crate) day_of_year: i64,
}

impl Moment {
    /// Seconds since 1970.
    pub fn from_seconds(seconds: i64) -> Option<Self> {
        (FIRST_SECOND..=LAST_SECOND).contains(&seconds).then_some(Self { seconds, nanos: 0 })
    }

    fn from_total(total: i128) -> Result<Self, Fault> {
        let seconds = i64::try_from(total.div_euclid(NANOS)).ok().and_then(Self::from_seconds);
        let nanos = u32::try_from(total.rem_euclid(NANOS)).unwrap_or(0);
        match seconds {
            Some(moment) => Ok(Self { nanos, ..moment }),
            None => fail("timestamp overflow"),
        }
    }

    fn total(self) -> i128 {
        i128::from(self.seconds) * NANOS + i128::from(self.nanos)
    }

    pub(crate) fn plus(self, nanos: i64, sign: i128) -> Result<Self, Fault> {
        Self::from_total(self.total() + sign * i128::from(nanos))
    }

    /// The duration since another moment.
    pub(crate) fn since(self, other: Self) -> Result<i64, Fault> {
        i64::try_from(self.total() - other.total()).or_else(|_| fail("duration overflow"))
    }

    /// Reads RFC 3339.
    pub fn parse(text: &str) -> Option<Self> {
        let (date, clock) = text.split_once('T')?;
        let at = clock.find(['Z', '+', '-'])?;
        let (clock, zone) = clock.split_at(at);
        let local = Self::parse_local(date, clock)?;
        let offset = if zone == "Z" { 0 } else { parse_offset(zone)? };
        Self::from_seconds(local.seconds - offset).map(|moment| Self { nanos: local.nanos, ..moment })
    }

    fn parse_local(date: &str, clock: &str) -> Option<Self> {
        let days = parse_date(date)?;
        let (whole, fraction) = clock.split_once('.').unwrap_or((clock, "0"));
        let [hour, minute, second] = numbers(whole, ':')?;
        let digits = !fraction.is_empty() && fraction.bytes().all(|byte| byte.is_ascii_digit());
        let ranges = hour < 24 && minute < 60 && second < 60 && whole.len() == 8;
        if !digits || !ranges {
            return None;
        }
        let nanos = format!("{:0<9}", fraction)[..9].parse().ok()?;
        Some(Self { seconds: days * 86_400 + hour * 3600 + minute * 60 + second, nanos })
    }

    /// Its date and time in a zone: a name of the tables, an offset, or UTC.
    pub(crate) fn civil(self, zone: Option<&str>) -> Result<Civil, Fault> {
        let local = self.seconds + self.offset(zone.unwrap_or("UTC"))?;
        let days = local.div_euclid(86_400);
        let clock = local.rem_euclid(86_400);
        let (year, month, day) = civil_from_days(days);
        Ok(Civil {
            year,
            month,
            day,
            hour: clock / 3600,
            minute: clock / 60 % 60,
            second: clock % 60,
            weekday: (days + 4).rem_euclid(7),
            day_of_year: days - days_from_civil(year, 1, 1),
        })
    }

    fn offset(self, zone: &str) -> Result<i64, Fault> {
        if zone.is_empty() || zone == "UTC" {
            return Ok(0);
        }
        if zone.contains(':') {
            return parse_offset(zone).map_or_else(|| fail(format!("unknown time zone {zone}")), Ok);
        }
        let at = jiff::Timestamp::from_second(self.seconds).unwrap_or(jiff::Timestamp::MAX);
        match jiff::tz::TimeZone::get(zone) {
            Ok(found) => Ok(i64::from(found.to_offset(at).seconds())),
            Err(_) => fail(format!("unknown time zone {zone}")),
        }
    }

    /// RFC 3339 with as many digits of the second as there are.
    pub(crate) fn format(self) -> String {
        let Ok(civil) = self.civil(None) else { return String::new() };
        let fraction = fraction_of(self.nanos);
        format!(
            "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}{fraction}Z",
            civil.year, civil.month, civil.day, civil.hour, civil.minute, civil.second
        )
    }
}

fn fraction_of(nanos: u32) -> String {
    if nanos == 0 {
        return String::new();
    }
    format!(".{nanos:09}").trim_end_matches('0').to_owned()
}

fn parse_offset(text: &str) -> Option<i64> {
    let (sign, rest) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    let [hour, minute] = numbers(rest, ':')?;
    (hour < 24 && minute < 60).then_some(sign * (hour * 3600 + minute * 60))
}

/// The days since 1970 of `YYYY-MM-DD`.
pub(crate) fn parse_date(text: &str) -> Option<i64> {
    let [year, month, day] = numbers(text, '-')?;
    let days = days_from_civil(year, month, day);
    (text.len() == 10 && civil_from_days(days) == (year, month, day)).then_some(days)
}

fn numbers<const N: usize>(text: &str, separator: char) -> Option<[i64; N]> {
    let digits = |part: &str| !part.is_empty() && part.len() <= 4 && part.bytes().all(|b| b.is_ascii_digit());
    let parts: Vec<i64> =
        text.split(separator).map(|part| digits(part).then(|| part.parse().ok())?).collect::<Option<_>>()?;
    parts.try_into().ok()
}

/// Days since 1970-01-01 of the Gregorian calendar, counted in eras of 400 years that begin in March.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let of_era = shifted.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_index = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_index + 2) / 5 + 1;
    let month = if month_index < 10 { month_index + 3 } else { month_index - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// Units of durations in nanoseconds.
const UNITS: [(&str, i128); 8] = [
    ("ns", 1),
    ("us", 1000),
    ("µs", 1000),
    ("μs", 1000),
    ("ms", 1_000_000),
    ("s", NANOS),
    ("m", 60 * NANOS),
    ("h", 3600 * NANOS),
];
/// Units that schemas of `format: duration` know besides, by their beginnings.
const LONG_UNITS: [(&str, i128); 5] = [
    ("w", 7 * 86_400 * NANOS),
    ("d", 86_400 * NANOS),
    ("hour", 3600 * NANOS),
    ("min", 60 * NANOS),
    ("sec", NANOS),
];

/// Reads a duration such as `1h30m` or `-1.5s`, in nanoseconds.
pub(crate) fn parse_duration(text: &str) -> Option<i64> {
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0);
    }
    let mut total = 0i128;
    let mut some = false;
    while !rest.is_empty() {
        let number = rest.find(|c: char| !c.is_ascii_digit() && c != '.').filter(|at| *at > 0)?;
        let (amount, after) = rest.split_at(number);
        let end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let unit = UNITS.iter().find(|(name, _)| *name == &after[..end])?.1;
        total = total.checked_add(amount_in(amount, unit)?)?;
        rest = &after[end..];
        some = true;
    }
    some.then(|| i64::try_from(sign * total).ok())?
}

fn amount_in(amount: &str, unit: i128) -> Option<i128> {
    let (whole, fraction) = amount.split_once('.').unwrap_or((amount, ""));
    if whole.len() + fraction.len() == 0 || whole.len() > 20 || fraction.contains('.') {
        return None;
    }
    let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    // Beyond a nanosecond of an hour digits count for nothing.
    let digits = &fraction[..fraction.len().min(15)];
    let part: i128 = if digits.is_empty() { 0 } else { digits.parse().ok()? };
    let scale = 10i128.pow(u32::try_from(digits.len()).ok()?);
    whole.checked_mul(unit)?.checked_add(part * unit / scale)
}

/// A duration as schemas write it: as above, or a sum of amounts of days, weeks and spelled-out units.
fn parse_long_duration(text: &str) -> Option<i64> {
    let mut total = 0i128;
    let mut rest = text.trim();
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit()).filter(|at| *at > 0)?;
        let amount: i128 = rest[..end].parse().ok()?;
        let after = rest[end..].trim_start();
        let word_end = after.find(|c: char| !c.is_alphabetic()).unwrap_or(after.len());
        let word = after[..word_end].to_lowercase();
        let short = UNITS.iter().find(|(name, _)| *name == word);
        let unit = short.or_else(|| LONG_UNITS.iter().find(|(name, _)| word.starts_with(name)))?.1;
        total = total.checked_add(amount.checked_mul(unit)?)?;
        rest = after[word_end..].trim_start();
    }
    i64::try_from(total).ok()
}

/// Seconds with as many digits as there are.
pub(crate) fn format_duration(nanos: i64) -> String {
    let sign = if nanos < 0 { "-" } else { "" };
    let nanos = nanos.unsigned_abs();
    let fraction = fraction_of(u32::try_from(nanos % 1_000_000_000).unwrap_or(0));
    format!("{sign}{}{fraction}s", nanos / 1_000_000_000)
}

/// Reads a string of a schema with a format.
pub(crate) fn formatted<'a>(shape: &Shape, text: &str) -> Outcome<'a> {
    let read = match shape {
        Shape::Duration => parse_duration(text).or_else(|| parse_long_duration(text)).map(Value::Duration),
        Shape::Date => {
            parse_date(text).and_then(|days| Moment::from_seconds(days * 86_400)).map(Value::Timestamp)
        }
        Shape::Timestamp => parse_date_time(text).map(Value::Timestamp),
        Shape::Bytes => URL_SAFE.decode(text).ok().map(|bytes| Value::Bytes(Arc::from(bytes))),
        _ => None,
    };
    let name = match shape {
        Shape::Duration => "duration",
        Shape::Date => "date formatted string",
        Shape::Timestamp => "date-time formatted string",
        Shape::Bytes => "byte formatted string",
        _ => return fail("invalid data, got string"),
    };
    read.map_or_else(|| fail(format!("Invalid {name} {text}")), Ok)
}

/// RFC 3339, or without a zone for UTC.
pub(crate) fn parse_date_time(text: &str) -> Option<Moment> {
    Moment::parse(text).or_else(|| {
        let (date, clock) = text.split_once('T')?;
        let local = Moment::parse_local(date, clock)?;
        Moment::from_seconds(local.seconds).map(|moment| Moment { nanos: local.nanos, ..moment })
    })
}
