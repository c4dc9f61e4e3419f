//! Numbers: arithmetic that overflows with an error, comparison across types, and how they are written.

use crate::value::{Fault, Key, fail};
use std::cmp::Ordering;

/// 2^63 and 2^64 as doubles: the first values beyond the integers.
const TWO_TO_63: f64 = 9_223_372_036_854_775_808.0;
const TWO_TO_64: f64 = 18_446_744_073_709_551_616.0;

/// The integer key that a whole double is.
pub(crate) fn whole<'a>(value: f64) -> Option<Key<'a>> {
    if value.fract() != 0.0 {
        return None;
    }
    to_int(value).map(Key::Int).or_else(|_| to_uint(value).map(Key::Uint)).ok()
}

pub(crate) fn to_int(value: f64) -> Result<i64, Fault> {
    if value.is_nan() || value <= -TWO_TO_63 || value >= TWO_TO_63 {
        return fail("integer overflow");
    }
    #[expect(clippy::cast_possible_truncation, reason = "the range was looked at, the fraction is cut off")]
    Ok(value as i64)
}

pub(crate) fn to_uint(value: f64) -> Result<u64, Fault> {
    if !(0.0..TWO_TO_64).contains(&value) {
        return fail("unsigned integer overflow");
    }
    #[expect(clippy::cast_possible_truncation, reason = "the range was looked at, the fraction is cut off")]
    #[expect(clippy::cast_sign_loss, reason = "it is not negative")]
    Ok(value as u64)
}

pub(crate) fn compare_int_uint(one: i64, other: u64) -> Ordering {
    i128::from(one).cmp(&i128::from(other))
}

/// Compares with an integer as doubles do: what is beyond all integers stays beyond. `None` for NaN.
#[expect(clippy::cast_precision_loss, reason = "this is how the language compares")]
pub(crate) fn compare_int_double(one: i64, other: f64) -> Option<Ordering> {
    if other > TWO_TO_63 {
        return Some(Ordering::Less);
    }
    if other < -TWO_TO_63 {
        return Some(Ordering::Greater);
    }
    (one as f64).partial_cmp(&other)
}

/// As [`compare_int_double`].
#[expect(clippy::cast_precision_loss, reason = "this is how the language compares")]
pub(crate) fn compare_uint_double(one: u64, other: f64) -> Option<Ordering> {
    if other > TWO_TO_64 {
        return Some(Ordering::Less);
    }
    (one as f64).partial_cmp(&other)
}

/// A double with as few digits as tell it apart, with an exponent where it is far from one (Go's `%g`).
pub(crate) fn format_double(value: f64) -> String {
    if let Some(special) = special(value) {
        return special.into();
    }
    let scientific = format!("{value:e}");
    let Some((digits, exponent)) = scientific.split_once('e') else { return scientific };
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..6).contains(&exponent) {
        return format!("{value}");
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}

/// What has no digits.
pub(crate) fn special(value: f64) -> Option<&'static str> {
    if value.is_nan() {
        return Some("NaN");
    }
    value.is_infinite().then_some(if value > 0.0 { "+Inf" } else { "-Inf" })
}

/// Reads a double as Go does: out of range is an error, infinity by its name is not.
pub(crate) fn parse_double(text: &str) -> Option<f64> {
    let value: f64 = text.parse().ok()?;
    let named = text.trim_start_matches(['+', '-']).starts_with(['i', 'I']);
    (value.is_finite() || value.is_nan() || named).then_some(value)
}
