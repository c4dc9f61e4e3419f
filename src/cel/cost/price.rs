//! The price of a call while running.

use super::{CHARACTER, CHECK, LIST, PATTERN, REQUIREMENT, REQUIREMENTS};
use crate::library::Opaque;
use crate::value::Value;

/// How a call is counted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Price {
    Flat(u64),
    /// Going through the argument of that number so often.
    Through(usize, f64),
    /// Going through the result so often.
    ThroughResult(f64),
    /// A pattern over a text.
    Pattern,
    /// One text in another.
    Search,
    /// The smaller of two sizes.
    Smaller,
    /// Both texts.
    Both,
    /// The size of the second argument.
    Elements,
    /// Going through all that a list holds.
    Traversal,
    Selector,
    /// Addresses in networks; those of a string are read first.
    ContainsIp {
        read: bool,
    },
    ContainsCidr {
        read: bool,
    },
    Format,
    /// A list that is made, by its size.
    Listed,
    Flattened,
    /// Every element of one list with every one of the other, so often.
    Paired(f64),
    /// Every element of the argument of that number with every other.
    SelfCompared(usize),
}

impl Price {
    /// Of a function's overload; of none where it is only known while running.
    pub(crate) fn of(function: &str, overload: &str) -> Self {
        match function {
            "check" => Self::Flat(CHECK),
            "fieldSelector" | "labelSelector" => Self::Selector,
            "isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf" => Self::Traversal,
            "url"
            | "lowerAscii"
            | "upperAscii"
            | "substring"
            | "trim"
            | "jsonpatch.escapeKey"
            | "cidr"
            | "isIP"
            | "isCIDR"
            | "quantity"
            | "isQuantity"
            | "semver"
            | "isSemver" => Self::Through(0, 1.0),
            "ip" if overload != "cidr_ip" => Self::Through(0, 1.0),
            "replace" | "split" | "ip.isCanonical" => Self::Through(0, 2.0),
            "join" => Self::ThroughResult(2.0),
            "find" | "findAll" => Self::Pattern,
            "containsIP" => Self::ContainsIp { read: overload == "cidr_contains_ip_string" },
            "containsCIDR" => Self::ContainsCidr { read: overload == "cidr_contains_cidr_string" },
            "validate" => Self::Format,
            _ => Self::of_overload(overload),
        }
    }

    fn of_overload(overload: &str) -> Self {
        match overload {
            "starts_with_string" | "ends_with_string" | "string_to_bytes" | "bytes_to_string"
            | "strings_quote" | "string_format" => Self::Through(0, 1.0),
            "in_list" => Self::Elements,
            "less_string"
            | "less_bytes"
            | "less_equals_string"
            | "less_equals_bytes"
            | "greater_string"
            | "greater_bytes"
            | "greater_equals_string"
            | "greater_equals_bytes"
            | "equals"
            | "not_equals" => Self::Smaller,
            "add_string" | "add_bytes" => Self::Both,
            "matches_string" => Self::Pattern,
            "contains_string" => Self::Search,
            "list_slice" | "lists_range" | "list_reverse" => Self::Listed,
            "list_flatten" | "list_flatten_int" => Self::Flattened,
            "list_sets_contains_list" | "list_sets_intersects_list" => Self::Paired(1.0),
            "list_sets_equivalent_list" => Self::Paired(2.0),
            "list_distinct" | "list_sort" => Self::SelfCompared(0),
            "list_sortByAssociatedKeys" => Self::SelfCompared(1),
            _ => Self::Flat(1),
        }
    }

    /// What this call costs.
    pub(crate) fn amount(self, arguments: &[Value<'_>], result: Option<&Value<'_>>) -> u64 {
        let size = |at: usize| arguments.get(at).map_or(1, Value::size);
        let result_size = || result.map_or(1, Value::size);
        match self {
            Self::Flat(units) => units,
            Self::Through(at, times) => times_size(size(at), times * CHARACTER),
            Self::ThroughResult(times) => times_size(result_size(), times * CHARACTER),
            Self::Pattern => times_size(size(0) + 1, CHARACTER).saturating_mul(times_size(size(1), PATTERN)),
            Self::Search => times_size(size(0), CHARACTER).saturating_mul(times_size(size(1), CHARACTER)),
            Self::Smaller => times_size(inner_size(arguments, 0).min(inner_size(arguments, 1)), CHARACTER),
            Self::Both => times_size(size(0) + size(1), CHARACTER),
            Self::Elements => size(1),
            Self::Traversal => arguments.first().map_or(0, traversal),
            Self::Selector => selector(size(1)),
            Self::ContainsIp { read } => {
                times_size(size(0) * 2, CHARACTER) + if read { times_size(size(1), CHARACTER) } else { 0 }
            }
            Self::ContainsCidr { read } => {
                let masked = times_size(size(0), CHARACTER) + 1;
                times_size(size(0) * 2, CHARACTER)
                    + masked
                    + if read { times_size(size(1), CHARACTER) } else { 0 }
            }
            Self::Format => format(arguments.first(), size(1)),
            Self::Listed => made(result_size(), 1.0),
            Self::Flattened => {
                let depth = match arguments.get(1) {
                    Some(Value::Int(depth)) => as_double(u64::try_from(*depth).unwrap_or(0)),
                    _ => 1.0,
                };
                made(size(0), depth)
            }
            Self::Paired(times) => made(size(0).saturating_mul(size(1)), times) - LIST,
            Self::SelfCompared(at) => self_compared(arguments.get(at)),
        }
    }
}

fn format(format: Option<&Value<'_>>, length: u64) -> u64 {
    let Some(Value::Opaque(opaque)) = format else { return 1 };
    let Opaque::Format(format) = &**opaque else { return 1 };
    times_size(length + 1, CHARACTER) * times_size(format.pattern_length, PATTERN)
}

#[expect(clippy::cast_precision_loss, reason = "CEL counts in doubles")]
pub(super) fn as_double(size: u64) -> f64 {
    size as f64
}

/// So much a unit, rounded up, within 64 bits.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the cast saturates")]
pub(super) fn times_size(size: u64, each: f64) -> u64 {
    (as_double(size) * each).ceil() as u64
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the cast saturates")]
fn made(size: u64, each: f64) -> u64 {
    ((as_double(size) * each) as u64).saturating_add(1 + LIST)
}

fn selector(length: u64) -> u64 {
    let requirements = times_size(times_size(length, REQUIREMENTS), REQUIREMENT);
    LIST + times_size(length, CHARACTER) + requirements
}

/// What is compared of optionals is what they hold.
fn inner_size(arguments: &[Value<'_>], at: usize) -> u64 {
    match arguments.get(at) {
        Some(Value::Optional(Some(inner))) => inner_size(std::slice::from_ref(inner), 0),
        Some(other) => other.size(),
        None => 1,
    }
}

fn self_compared(list: Option<&Value<'_>>) -> u64 {
    let Some(Value::List(list)) = list else { return made(0, 2.0) };
    let size = list.len() as u64;
    let long = matches!(list.get(0), Some(Ok(Value::String(_) | Value::Bytes(_))));
    made(size.saturating_mul(size), if long { 2.0 + CHARACTER } else { 2.0 })
}

/// Going through everything a value holds.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the cast saturates")]
fn traversal(value: &Value<'_>) -> u64 {
    let through = |bytes: usize| (as_double(bytes as u64) * CHARACTER) as u64;
    match value {
        Value::String(text) => through(text.as_str().len()),
        Value::Bytes(bytes) => through(bytes.len()),
        Value::List(list) => list.iter().map(|item| item.map_or(1, |item| traversal(&item))).sum(),
        Value::Map(map) => map
            .entries()
            .map(|(key, value)| traversal(&key.value()) + value.map_or(1, |value| traversal(&value)))
            .sum(),
        _ => 1,
    }
}

/// The price of `==` and `!=`. Values of libraries compare at once, but only when they are equal.
pub(crate) fn equality(left: &Value<'_>, right: &Value<'_>, negated: bool) -> u64 {
    match left {
        Value::Opaque(_) if !negated => 1,
        _ => times_size(
            inner_size(std::slice::from_ref(left), 0).min(inner_size(std::slice::from_ref(right), 0)),
            CHARACTER,
        ),
    }
}
