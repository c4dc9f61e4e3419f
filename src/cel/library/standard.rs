//! The language's own functions.

use super::{Implementation, Opaque, Row, int, opaque, text};
use crate::operators::{convert, negate};
use crate::time::{Civil, Moment};
use crate::types::Type;
use crate::value::{Fault, Outcome, Value, fail, no_overload};
use regex::Regex;

pub(crate) use api::custom::pattern::compile as compile_pattern;

pub(super) const ROWS: &[Row] = &[
    ("_?_:_", "conditional", "(bool, A, A) -> A", None),
    ("_&&_", "logical_and", "(bool, bool) -> bool", None),
    ("_||_", "logical_or", "(bool, bool) -> bool", None),
    ("!_", "logical_not", "(bool) -> bool", Some(not)),
    ("@not_strictly_false", "not_strictly_false", "(bool) -> bool", None),
    ("_==_", "equals", "(A, A) -> bool", None),
    ("_!=_", "not_equals", "(A, A) -> bool", None),
    ("_+_", "add_bytes", "(bytes, bytes) -> bytes", None),
    ("_+_", "add_double", "(double, double) -> double", None),
    ("_+_", "add_duration_duration", "(duration, duration) -> duration", None),
    ("_+_", "add_duration_timestamp", "(duration, timestamp) -> timestamp", None),
    ("_+_", "add_timestamp_duration", "(timestamp, duration) -> timestamp", None),
    ("_+_", "add_int64", "(int, int) -> int", None),
    ("_+_", "add_list", "(list(A), list(A)) -> list(A)", None),
    ("_+_", "add_string", "(string, string) -> string", None),
    ("_+_", "add_uint64", "(uint, uint) -> uint", None),
    ("_/_", "divide_double", "(double, double) -> double", None),
    ("_/_", "divide_int64", "(int, int) -> int", None),
    ("_/_", "divide_uint64", "(uint, uint) -> uint", None),
    ("_%_", "modulo_int64", "(int, int) -> int", None),
    ("_%_", "modulo_uint64", "(uint, uint) -> uint", None),
    ("_*_", "multiply_double", "(double, double) -> double", None),
    ("_*_", "multiply_int64", "(int, int) -> int", None),
    ("_*_", "multiply_uint64", "(uint, uint) -> uint", None),
    ("-_", "negate_double", "(double) -> double", Some(negative)),
    ("-_", "negate_int64", "(int) -> int", Some(negative)),
    ("_-_", "subtract_double", "(double, double) -> double", None),
    ("_-_", "subtract_duration_duration", "(duration, duration) -> duration", None),
    ("_-_", "subtract_int64", "(int, int) -> int", None),
    ("_-_", "subtract_timestamp_duration", "(timestamp, duration) -> timestamp", None),
    ("_-_", "subtract_timestamp_timestamp", "(timestamp, timestamp) -> duration", None),
    ("_-_", "subtract_uint64", "(uint, uint) -> uint", None),
    ("_[_]", "index_list", "(list(A), int) -> A", None),
    ("_[_]", "index_map", "(map(A, B), A) -> B", None),
    ("_[_]", "optional_list_index_int", "(optional(list(V)), int) -> optional(V)", None),
    ("_[_]", "optional_map_index_value", "(optional(map(K, V)), K) -> optional(V)", None),
    ("_[?_]", "list_optindex_optional_int", "(list(V), int) -> optional(V)", None),
    ("_[?_]", "optional_list_optindex_optional_int", "(optional(list(V)), int) -> optional(V)", None),
    ("_[?_]", "map_optindex_optional_value", "(map(K, V), K) -> optional(V)", None),
    ("_[?_]", "optional_map_optindex_optional_value", "(optional(map(K, V)), K) -> optional(V)", None),
    ("@in", "in_list", "(A, list(A)) -> bool", None),
    ("@in", "in_map", "(A, map(A, B)) -> bool", None),
    ("size", "size_bytes", "(bytes) -> int", Some(size)),
    ("size", "bytes_size", "bytes.() -> int", Some(size)),
    ("size", "size_list", "(list(A)) -> int", Some(size)),
    ("size", "list_size", "list(A).() -> int", Some(size)),
    ("size", "size_map", "(map(A, B)) -> int", Some(size)),
    ("size", "map_size", "map(A, B).() -> int", Some(size)),
    ("size", "size_string", "(string) -> int", Some(size)),
    ("size", "string_size", "string.() -> int", Some(size)),
    ("type", "type", "(A) -> type(A)", Some(|of| Ok(Value::Type(of[0].type_of())))),
    ("bool", "bool_to_bool", "(bool) -> bool", Some(to_bool)),
    ("bool", "string_to_bool", "(string) -> bool", Some(to_bool)),
    ("bytes", "bytes_to_bytes", "(bytes) -> bytes", Some(to_bytes)),
    ("bytes", "string_to_bytes", "(string) -> bytes", Some(to_bytes)),
    ("double", "double_to_double", "(double) -> double", Some(to_double)),
    ("double", "int64_to_double", "(int) -> double", Some(to_double)),
    ("double", "string_to_double", "(string) -> double", Some(to_double)),
    ("double", "uint64_to_double", "(uint) -> double", Some(to_double)),
    ("duration", "duration_to_duration", "(duration) -> duration", Some(to_duration)),
    ("duration", "int64_to_duration", "(int) -> duration", Some(to_duration)),
    ("duration", "string_to_duration", "(string) -> duration", Some(to_duration)),
    ("dyn", "to_dyn", "(A) -> dyn", Some(|of| Ok(of[0].clone()))),
    ("int", "int64_to_int64", "(int) -> int", Some(to_int)),
    ("int", "double_to_int64", "(double) -> int", Some(to_int)),
    ("int", "duration_to_int64", "(duration) -> int", Some(to_int)),
    ("int", "string_to_int64", "(string) -> int", Some(to_int)),
    ("int", "timestamp_to_int64", "(timestamp) -> int", Some(to_int)),
    ("int", "uint64_to_int64", "(uint) -> int", Some(to_int)),
    ("string", "string_to_string", "(string) -> string", Some(to_string)),
    ("string", "bool_to_string", "(bool) -> string", Some(to_string)),
    ("string", "bytes_to_string", "(bytes) -> string", Some(to_string)),
    ("string", "double_to_string", "(double) -> string", Some(to_string)),
    ("string", "duration_to_string", "(duration) -> string", Some(to_string)),
    ("string", "int64_to_string", "(int) -> string", Some(to_string)),
    ("string", "timestamp_to_string", "(timestamp) -> string", Some(to_string)),
    ("string", "uint64_to_string", "(uint) -> string", Some(to_string)),
    ("string", "ip_to_string", "(IP) -> string", Some(to_string)),
    ("string", "cidr_to_string", "(CIDR) -> string", Some(to_string)),
    ("timestamp", "timestamp_to_timestamp", "(timestamp) -> timestamp", Some(to_timestamp)),
    ("timestamp", "int64_to_timestamp", "(int) -> timestamp", Some(to_timestamp)),
    ("timestamp", "string_to_timestamp", "(string) -> timestamp", Some(to_timestamp)),
    ("uint", "uint64_to_uint64", "(uint) -> uint", Some(to_uint)),
    ("uint", "double_to_uint64", "(double) -> uint", Some(to_uint)),
    ("uint", "int64_to_uint64", "(int) -> uint", Some(to_uint)),
    ("uint", "string_to_uint64", "(string) -> uint", Some(to_uint)),
    ("contains", "contains_string", "string.(string) -> bool", Some(contains)),
    ("endsWith", "ends_with_string", "string.(string) -> bool", Some(ends_with)),
    ("startsWith", "starts_with_string", "string.(string) -> bool", Some(starts_with)),
    ("matches", "matches", "(string, string) -> bool", Some(matches)),
    ("matches", "matches_string", "string.(string) -> bool", Some(matches)),
    ("getFullYear", "timestamp_to_year", "timestamp.() -> int", Some(|of| civil(of, |at| at.year))),
    (
        "getFullYear",
        "timestamp_to_year_with_tz",
        "timestamp.(string) -> int",
        Some(|of| civil(of, |at| at.year)),
    ),
    ("getMonth", "timestamp_to_month", "timestamp.() -> int", Some(|of| civil(of, |at| at.month - 1))),
    (
        "getMonth",
        "timestamp_to_month_with_tz",
        "timestamp.(string) -> int",
        Some(|of| civil(of, |at| at.month - 1)),
    ),
    (
        "getDayOfYear",
        "timestamp_to_day_of_year",
        "timestamp.() -> int",
        Some(|of| civil(of, |at| at.day_of_year)),
    ),
    (
        "getDayOfYear",
        "timestamp_to_day_of_year_with_tz",
        "timestamp.(string) -> int",
        Some(|of| civil(of, |at| at.day_of_year)),
    ),
    (
        "getDayOfMonth",
        "timestamp_to_day_of_month",
        "timestamp.() -> int",
        Some(|of| civil(of, |at| at.day - 1)),
    ),
    (
        "getDayOfMonth",
        "timestamp_to_day_of_month_with_tz",
        "timestamp.(string) -> int",
        Some(|of| civil(of, |at| at.day - 1)),
    ),
    (
        "getDate",
        "timestamp_to_day_of_month_1_based",
        "timestamp.() -> int",
        Some(|of| civil(of, |at| at.day)),
    ),
    (
        "getDate",
        "timestamp_to_day_of_month_1_based_with_tz",
        "timestamp.(string) -> int",
        Some(|of| civil(of, |at| at.day)),
    ),
    (
        "getDayOfWeek",
        "timestamp_to_day_of_week",
        "timestamp.() -> int",
        Some(|of| civil(of, |at| at.weekday)),
    ),
    (
        "getDayOfWeek",
        "timestamp_to_day_of_week_with_tz",
        "timestamp.(string) -> int",
        Some(|of| civil(of, |at| at.weekday)),
    ),
    ("getHours", "timestamp_to_hours", "timestamp.() -> int", Some(|of| civil(of, |at| at.hour))),
    (
        "getHours",
        "timestamp_to_hours_with_tz",
        "timestamp.(string) -> int",
        Some(|of| civil(of, |at| at.hour)),
    ),
    ("getHours", "duration_to_hours", "duration.() -> int", Some(|of| elapsed(of, 3_600_000_000_000))),
    ("getMinutes", "timestamp_to_minutes", "timestamp.() -> int", Some(|of| civil(of, |at| at.minute))),
    (
        "getMinutes",
        "timestamp_to_minutes_with_tz",
        "timestamp.(string) -> int",
        Some(|of| civil(of, |at| at.minute)),
    ),
    ("getMinutes", "duration_to_minutes", "duration.() -> int", Some(|of| elapsed(of, 60_000_000_000))),
    ("getSeconds", "timestamp_to_seconds", "timestamp.() -> int", Some(|of| civil(of, |at| at.second))),
    (
        "getSeconds",
        "timestamp_to_seconds_tz",
        "timestamp.(string) -> int",
        Some(|of| civil(of, |at| at.second)),
    ),
    ("getSeconds", "duration_to_seconds", "duration.() -> int", Some(|of| elapsed(of, 1_000_000_000))),
    ("getMilliseconds", "timestamp_to_milliseconds", "timestamp.() -> int", Some(milliseconds)),
    ("getMilliseconds", "timestamp_to_milliseconds_with_tz", "timestamp.(string) -> int", Some(milliseconds)),
    ("getMilliseconds", "duration_to_milliseconds", "duration.() -> int", Some(|of| elapsed(of, 1_000_000))),
];

/// Functions that a constant argument makes constant.
pub(crate) const CONVERSIONS: [&str; 10] =
    ["bool", "bytes", "double", "duration", "dyn", "int", "string", "timestamp", "type", "uint"];

/// A row whose signature is made from a template.
pub(super) type Templated = (&'static str, &'static str, String, Option<Implementation>);

/// The comparisons of every type with itself, and of the numbers with each other.
pub(super) fn comparisons() -> Vec<Templated> {
    const FUNCTIONS: [(&str, [&str; 2]); 4] = [
        ("_<_", ["less_string", "less_bytes"]),
        ("_<=_", ["less_equals_string", "less_equals_bytes"]),
        ("_>_", ["greater_string", "greater_bytes"]),
        ("_>=_", ["greater_equals_string", "greater_equals_bytes"]),
    ];
    let numbers = ["int", "uint", "double"];
    let mut rows = Vec::new();
    for (function, [string, bytes]) in FUNCTIONS {
        let mut row = |id, left: &str, right: &str| {
            rows.push((function, id, format!("({left}, {right}) -> bool"), None));
        };
        row(string, "string", "string");
        row(bytes, "bytes", "bytes");
        // What the others are called changes no cost.
        ["bool", "timestamp", "duration"].iter().for_each(|one| row("compare", one, one));
        numbers.iter().for_each(|left| numbers.iter().for_each(|right| row("compare_numbers", left, right)));
    }
    rows
}

fn not<'a>(of: &[Value<'a>]) -> Outcome<'a> {
    match of {
        [Value::Bool(value)] => Ok(Value::Bool(!value)),
        _ => no_overload(),
    }
}

fn negative<'a>(of: &[Value<'a>]) -> Outcome<'a> {
    negate(&of[0])
}

fn size<'a>(of: &[Value<'a>]) -> Outcome<'a> {
    Ok(Value::Int(i64::try_from(of[0].size()).unwrap_or(i64::MAX)))
}

fn to_bool<'a>(of: &[Value<'a>]) -> Outcome<'a> {
    convert(&of[0], &Type::Bool)
}

fn to_bytes<'a>(of: &[Value<'a>]) -> Outcome<'a> {
    convert(&of[0], &Type::Bytes)
}

fn to_double<'a>(of: &[Value<'a>]) -> Outcome<'a> {
    convert(&of[0], &Type::Double)
}

fn to_duration<'a>(of: &[Value<'a>]) -> Outcome<'a> {
    convert(&of[0], &Type::Duration)
}

fn to_int<'a>(of: &[Value<'a>]) -> Outcome<'a> {
    convert(&of[0], &Type::Int)
}

fn to_string<'a>(of: &[Value<'a>]) -> Outcome<'a> {
    convert(&of[0], &Type::String)
}

fn to_timestamp<'a>(of: &[Value<'a>]) -> Outcome<'a> {
    convert(&of[0], &Type::Timestamp)
}

fn to_uint<'a>(of: &[Value<'a>]) -> Outcome<'a> {
    convert(&of[0], &Type::Uint)
}

fn contains<'a>(of: &[Value<'a>]) -> Outcome<'a> {
    Ok(Value::Bool(text(of, 0)?.contains(text(of, 1)?)))
}

fn ends_with<'a>(of: &[Value<'a>]) -> Outcome<'a> {
    Ok(Value::Bool(text(of, 0)?.ends_with(text(of, 1)?)))
}

fn starts_with<'a>(of: &[Value<'a>]) -> Outcome<'a> {
    Ok(Value::Bool(text(of, 0)?.starts_with(text(of, 1)?)))
}

fn matches<'a>(of: &[Value<'a>]) -> Outcome<'a> {
    with_pattern(of, |pattern, within| Ok(Value::Bool(pattern.is_match(within))))
}

/// Uses the pattern that is the second argument on the text that is the first.
pub(super) fn with_pattern<'a>(
    of: &[Value<'a>],
    using: impl FnOnce(&Regex, &str) -> Outcome<'a>,
) -> Outcome<'a> {
    let within = text(of, 0)?;
    if let Ok(Opaque::Pattern(pattern, _)) = opaque(of, 1) {
        return using(pattern, within);
    }
    match compile_pattern(text(of, 1)?) {
        Ok(pattern) => using(&pattern, within),
        Err(message) => fail(message),
    }
}

fn moment(of: &[Value<'_>]) -> Result<Moment, Fault> {
    match of.first() {
        Some(Value::Timestamp(moment)) => Ok(*moment),
        _ => no_overload(),
    }
}

fn civil<'a>(of: &[Value<'a>], part: fn(&Civil) -> i64) -> Outcome<'a> {
    let zone = if of.len() > 1 { Some(text(of, 1)?) } else { None };
    moment(of)?.civil(zone).map(|at| Value::Int(part(&at)))
}

fn milliseconds<'a>(of: &[Value<'a>]) -> Outcome<'a> {
    let moment = moment(of)?;
    civil(of, |_| 0)?;
    Ok(Value::Int(i64::from(moment.nanos / 1_000_000)))
}

fn elapsed<'a>(of: &[Value<'a>], unit: i64) -> Outcome<'a> {
    match of {
        [Value::Duration(nanos)] => Ok(Value::Int(nanos / unit)),
        _ => int(of, 0).map(Value::Int),
    }
}
