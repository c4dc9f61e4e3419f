//! Numbers as Go reads and writes them.

use crate::Value;

/// A constant: `12`, `0x1F`, `0b11`, `0o17`, `017`, `1_000`, `1.5`, `1e3`, `'a'`.
pub(crate) fn constant(text: &str) -> Option<Value> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'+' => (false, &text[1..]),
        b'-' => (true, &text[1..]),
        _ => (false, text),
    };
    if let Some(number) = whole(digits, negative) {
        return Some(Value::Int(number));
    }
    let plain = digits.replace('_', "");
    let is_float = plain.bytes().all(|byte| byte.is_ascii_digit() || b".eE+-".contains(&byte))
        && plain.bytes().any(|byte| byte.is_ascii_digit());
    let number: f64 = is_float.then(|| plain.parse().ok())??;
    let number = if negative { -number } else { number };
    number.is_finite().then_some(Value::Float(number))
}

fn whole(digits: &str, negative: bool) -> Option<i64> {
    let lower = digits.to_ascii_lowercase();
    let (radix, rest) = match lower.get(..2) {
        Some("0x") => (16, &lower[2..]),
        Some("0b") => (2, &lower[2..]),
        Some("0o") => (8, &lower[2..]),
        Some(start) if start.starts_with('0') => (8, &lower[1..]),
        _ => (10, &lower[..]),
    };
    let plain = rest.replace('_', "");
    if plain.is_empty() || plain.starts_with(['+', '-']) {
        return None;
    }
    let signed = if negative { format!("-{plain}") } else { plain };
    i64::from_str_radix(&signed, radix).ok()
}

/// The whole number that this is, if it is one.
#[expect(clippy::cast_possible_truncation, reason = "the range is checked")]
pub(crate) fn exact(number: f64) -> Option<i64> {
    (number.fract() == 0.0 && number.abs() < 9.2e18).then_some(number as i64)
}

/// A float64 as JSON: whole ones without a point.
pub(crate) fn json(number: f64) -> serde_json::Value {
    match exact(number) {
        Some(whole) => whole.into(),
        None => serde_json::Number::from_f64(number).map_or(serde_json::Value::Null, Into::into),
    }
}
