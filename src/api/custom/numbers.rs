//! Numbers as Kubernetes' validator compares and prints them.

use super::structural::{Bound, Structural, Type};
use crate::validate::go_float;
use serde_json::Value;

/// The largest number whose neighbours JSON can tell apart.
const EXACT: f64 = 9_007_199_254_740_991.0;
/// What may be missing for a number to count as whole.
const NEARLY: f64 = 1e-9;

/// What is wrong with a number.
pub(super) enum Problem {
    /// Told of the whole object, with the place behind it.
    OfWhole(String),
    /// Told of the value, in the form in which it was compared.
    Value(Value, String),
    /// The schema's own factor is of no use.
    Factor(Value),
}

/// A whole number, up to the noise of its arithmetic.
pub(super) fn is_whole(value: &Value) -> bool {
    value.as_f64().is_some_and(is_whole_number)
}

fn is_whole_number(number: f64) -> bool {
    let off = (number - number.trunc()).abs();
    number.abs() <= EXACT && (off == 0.0 || off / (number.abs() + number.trunc().abs()) < NEARLY)
}

#[expect(clippy::cast_possible_truncation, reason = "Go converts numbers by leaving out what does not fit")]
fn truncated(number: f64) -> i64 {
    number as i64
}

/// Writes numbers such as `1.0` as Go does, which has no fraction where there is none.
pub(super) fn settle(value: &mut Value) {
    match value {
        Value::Number(number) if number.is_f64() => {
            let whole = number.as_f64().filter(|number| number.fract() == 0.0 && number.abs() < EXACT);
            if let Some(whole) = whole.map(truncated) {
                *value = Value::from(whole);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(settle),
        Value::Object(fields) => fields.values_mut().for_each(settle),
        _ => {}
    }
}

/// A number as Go prints it by itself.
pub(super) fn shown(value: &Value) -> String {
    match value.as_i64() {
        Some(whole) => whole.to_string(),
        None => go_float(value.as_f64().unwrap_or_default()),
    }
}

/// The same value; a number is read as of the type of the one that it is compared with.
pub(super) fn is_same(value: &Value, other: &Value) -> bool {
    match (value, other) {
        (Value::Number(value), Value::Number(number)) => match (value.as_i64(), number.as_i64()) {
            (Some(value), Some(number)) => value == number,
            (None, Some(number)) => value.as_f64().map(truncated) == Some(number),
            (_, None) => value.as_f64() == number.as_f64(),
        },
        // A null is of no type that could be compared.
        (Value::Null, _) => false,
        _ => value == other,
    }
}

/// What is wrong with a number by its schema.
pub(super) fn problems(schema: &Structural, value: &Value) -> Vec<Problem> {
    let mut found = Vec::new();
    let checks = schema.checks.as_deref();
    let format = checks.and_then(|checks| checks.format.as_ref()).map_or("", |format| &*format.name);
    let ty = if schema.int_or_string { Type::Unsaid } else { schema.ty };
    let in_range = |number: &Value, prefix: &str| match out_of_range(number, ty, format) {
        true => Err(Problem::OfWhole(of_type(prefix, ty, format))),
        false => Ok(()),
    };
    found.extend(in_range(value, "Checked").err());
    let Some(checks) = checks else { return found };
    // Where the schema's own number is out of range, the fractions are compared.
    let mut compare = |number: f64, prefix: &str, problem: &dyn Fn(&Value) -> Option<Problem>| {
        let fraction = Value::from(value.as_f64());
        match in_range(&Value::from(number), prefix) {
            Ok(()) => found.extend(problem(value)),
            Err(wrong) => {
                found.push(wrong);
                found.extend(problem(&fraction));
            }
        }
    };
    if let Some(factor) = checks.multiple_of {
        compare(factor, "MultipleOf", &|value| not_multiple(value, factor));
    }
    if let Some(bound) = checks.maximum {
        compare(bound.at, "Maximum boundary", &|value| beyond(value, bound, "less"));
    }
    if let Some(bound) = checks.minimum {
        compare(bound.at, "Minimum boundary", &|value| beyond(value, bound, "greater"));
    }
    found
}

fn of_type(prefix: &str, ty: Type, format: &str) -> String {
    let name = if ty == Type::Integer { "integer" } else { "number" };
    match format {
        "" => format!("{prefix} value must be of type {name} (default format)"),
        format => format!("{prefix} value must be of type {name} with format {format}"),
    }
}

fn out_of_range(value: &Value, ty: Type, format: &str) -> bool {
    let Some(number) = value.as_f64() else { return false };
    let whole =
        value.as_i64().or((number.fract() == 0.0 && number.abs() < 9.2e18).then(|| truncated(number)));
    match (ty, format) {
        (Type::Integer, "int32") => whole.is_none_or(|whole| i32::try_from(whole).is_err()),
        (Type::Integer, _) => whole.is_none(),
        (_, "float") => number.abs() > f64::from(f32::MAX),
        _ => false,
    }
}

/// Beyond a bound: not `less` or not `greater` than it.
fn beyond(value: &Value, bound: Bound, wanted: &str) -> Option<Problem> {
    let (order, limit) = match value.as_i64() {
        Some(whole) => {
            let limit = truncated(bound.at);
            (whole.cmp(&limit), Value::from(limit))
        }
        None => (value.as_f64()?.partial_cmp(&bound.at)?, Value::from(bound.at)),
    };
    let fine = if wanted == "less" { order.is_lt() } else { order.is_gt() };
    let or_equal = if bound.exclusive { "" } else { " or equal to" };
    (!fine && (bound.exclusive || order.is_ne())).then(|| {
        Problem::Value(value.clone(), format!("should be {wanted} than{or_equal} {}", shown(&limit)))
    })
}

fn not_multiple(value: &Value, factor: f64) -> Option<Problem> {
    let (fits, factor) = match value.as_i64() {
        Some(whole) => {
            let factor = truncated(factor);
            (factor > 0 && whole % factor == 0, Value::from(factor))
        }
        None => {
            let number = value.as_f64()?;
            let times = if factor < 1.0 { 1.0 / factor * number } else { number / factor };
            (is_whole_number(times), Value::from(factor))
        }
    };
    if factor.as_f64().is_some_and(|factor| factor <= 0.0) {
        return Some(Problem::Factor(factor));
    }
    (!fits).then(|| Problem::Value(value.clone(), format!("should be a multiple of {}", shown(&factor))))
}
