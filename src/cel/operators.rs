//! The operators of the language over any two values: equality, order, arithmetic, membership, conversion.

use crate::declaration::{Declaration, ListKind, Shape};
use crate::library::Opaque;
use crate::number;
use crate::time::{self, Moment};
use crate::types::Type;
use crate::value::{Fault, Key, List, Map, Outcome, Text, Value, fail, no_overload};
use std::cmp::Ordering;
use std::sync::Arc;

/// Lists and strings that grow beyond this end their expression: what they cost does not follow what they
/// take where lists are joined, or texts replaced.
const MAX_ELEMENTS: usize = 1 << 20;
const MAX_TEXT_BYTES: usize = 16 << 20;

/// An operator of two values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operator {
    Add,
    Subtract,
    Multiply,
    Divide,
    Modulo,
    Less,
    LessEquals,
    Greater,
    GreaterEquals,
    In,
}

impl Operator {
    /// By the name of its function.
    pub(crate) fn of(function: &str) -> Option<Self> {
        Some(match function {
            "_+_" => Self::Add,
            "_-_" => Self::Subtract,
            "_*_" => Self::Multiply,
            "_/_" => Self::Divide,
            "_%_" => Self::Modulo,
            "_<_" => Self::Less,
            "_<=_" => Self::LessEquals,
            "_>_" => Self::Greater,
            "_>=_" => Self::GreaterEquals,
            "@in" => Self::In,
            _ => return None,
        })
    }

    pub(crate) fn apply<'a>(self, left: Value<'a>, right: Value<'a>) -> Outcome<'a> {
        let ordered = |accept: fn(Ordering) -> bool| {
            compare(&left, &right).map(|order| Value::Bool(order.is_some_and(accept)))
        };
        match self {
            Self::Less => ordered(Ordering::is_lt),
            Self::LessEquals => ordered(Ordering::is_le),
            Self::Greater => ordered(Ordering::is_gt),
            Self::GreaterEquals => ordered(Ordering::is_ge),
            Self::In => contains(&left, &right).map(Value::Bool),
            Self::Add => add(left, right),
            _ => self.arithmetic(&left, &right),
        }
    }

    fn arithmetic<'a>(self, left: &Value<'a>, right: &Value<'a>) -> Outcome<'a> {
        match (left, right) {
            (Value::Int(one), Value::Int(other)) => self.ints(*one, *other).map(Value::Int),
            (Value::Uint(one), Value::Uint(other)) => self.uints(*one, *other).map(Value::Uint),
            (Value::Double(one), Value::Double(other)) => match self {
                Self::Subtract => Ok(Value::Double(one - other)),
                Self::Multiply => Ok(Value::Double(one * other)),
                Self::Divide => Ok(Value::Double(one / other)),
                _ => no_overload(),
            },
            (Value::Duration(one), Value::Duration(other)) if self == Self::Subtract => one
                .checked_sub(*other)
                .map_or_else(|| fail("duration overflow"), |nanos| Ok(Value::Duration(nanos))),
            (Value::Timestamp(one), Value::Duration(other)) if self == Self::Subtract => {
                one.plus(*other, -1).map(Value::Timestamp)
            }
            (Value::Timestamp(one), Value::Timestamp(other)) if self == Self::Subtract => {
                one.since(*other).map(Value::Duration)
            }
            _ => no_overload(),
        }
    }

    fn ints(self, one: i64, other: i64) -> Result<i64, Fault> {
        let result = match self {
            Self::Subtract => one.checked_sub(other),
            Self::Multiply => one.checked_mul(other),
            Self::Divide if other == 0 => return fail("division by zero"),
            Self::Divide => one.checked_div(other),
            Self::Modulo if other == 0 => return fail("modulus by zero"),
            _ => one.checked_rem(other),
        };
        result.map_or_else(|| fail("integer overflow"), Ok)
    }

    fn uints(self, one: u64, other: u64) -> Result<u64, Fault> {
        let result = match self {
            Self::Subtract => one.checked_sub(other),
            Self::Multiply => one.checked_mul(other),
            Self::Divide if other == 0 => return fail("division by zero"),
            Self::Divide => one.checked_div(other),
            Self::Modulo if other == 0 => return fail("modulus by zero"),
            _ => one.checked_rem(other),
        };
        result.map_or_else(|| fail("unsigned integer overflow"), Ok)
    }
}

/// `+`.
pub(crate) fn add<'a>(left: Value<'a>, right: Value<'a>) -> Outcome<'a> {
    match (left, right) {
        (Value::Int(one), Value::Int(other)) => {
            one.checked_add(other).map_or_else(|| fail("integer overflow"), |sum| Ok(Value::Int(sum)))
        }
        (Value::Uint(one), Value::Uint(other)) => one
            .checked_add(other)
            .map_or_else(|| fail("unsigned integer overflow"), |sum| Ok(Value::Uint(sum))),
        (Value::Double(one), Value::Double(other)) => Ok(Value::Double(one + other)),
        (Value::String(one), Value::String(other)) => bounded([one.as_str(), other.as_str()].concat()),
        (Value::Bytes(one), Value::Bytes(other)) => {
            let joined = [&*one, &*other].concat();
            bounded_bytes(joined.len())?;
            Ok(Value::Bytes(joined.into()))
        }
        (Value::Duration(one), Value::Duration(other)) => {
            one.checked_add(other).map_or_else(|| fail("duration overflow"), |sum| Ok(Value::Duration(sum)))
        }
        (Value::Duration(nanos), Value::Timestamp(moment))
        | (Value::Timestamp(moment), Value::Duration(nanos)) => moment.plus(nanos, 1).map(Value::Timestamp),
        (Value::List(one), Value::List(other)) => add_lists(one, &other),
        _ => no_overload(),
    }
}

fn bounded_bytes(length: usize) -> Result<(), Fault> {
    if length > MAX_TEXT_BYTES {
        return fail(format!("string of {length} bytes is longer than {MAX_TEXT_BYTES}"));
    }
    Ok(())
}

/// A computed string, unless it grew beyond its bounds.
pub(crate) fn bounded<'a>(text: String) -> Outcome<'a> {
    bounded_bytes(text.len())?;
    Ok(Value::text(text))
}

/// Whether a list of so many elements may be made.
pub(crate) fn bounded_list(length: usize) -> Result<(), Fault> {
    if length > MAX_ELEMENTS {
        return fail(format!("list of {length} elements is longer than {MAX_ELEMENTS}"));
    }
    Ok(())
}

/// Sets keep their elements once, lists that are maps replace those of the same keys.
fn add_lists<'a>(left: List<'a>, right: &List<'a>) -> Outcome<'a> {
    bounded_list(left.len() + right.len())?;
    let kind = list_kind(&left);
    let keys = match kind {
        Some(ListKind::Map(keys)) => Some(keys.as_slice()),
        _ => None,
    };
    let mut items = match left {
        List::Owned(items) => Arc::unwrap_or_clone(items),
        json @ List::Json(..) => json.values()?,
    };
    for item in right.iter() {
        let item = item?;
        match (kind, keys) {
            (Some(ListKind::Set), _) if items.iter().any(|one| equal(one, &item)) => {}
            (_, Some(keys)) => match items.iter().position(|one| same_keys(one, &item, keys)) {
                Some(at) => items[at] = item,
                None => items.push(item),
            },
            _ => items.push(item),
        }
    }
    Ok(Value::list(items))
}

fn list_kind<'a>(list: &List<'a>) -> Option<&'a ListKind> {
    match list {
        List::Json(_, Some(Declaration { shape: Shape::List(_, kind), .. })) => Some(kind),
        _ => None,
    }
}

fn same_keys(one: &Value<'_>, other: &Value<'_>, keys: &[String]) -> bool {
    let (Value::Map(one), Value::Map(other)) = (one, other) else { return false };
    keys.iter().all(|key| match (one.property(key), other.property(key)) {
        (Some(Ok(one)), Some(Ok(other))) => equal(&one, &other),
        (None, None) => true,
        _ => false,
    })
}

/// `==`, which never fails: values of different types differ.
pub(crate) fn equal(left: &Value<'_>, right: &Value<'_>) -> bool {
    match (left, right) {
        (Value::Null, Value::Null) => true,
        (Value::Bool(one), Value::Bool(other)) => one == other,
        (Value::String(one), Value::String(other)) => one.as_str() == other.as_str(),
        (Value::Bytes(one), Value::Bytes(other)) => one == other,
        (Value::Duration(one), Value::Duration(other)) => one == other,
        (Value::Timestamp(one), Value::Timestamp(other)) => one == other,
        (Value::Type(one), Value::Type(other)) => one.name() == other.name(),
        (Value::List(one), Value::List(other)) => equal_lists(one, other),
        (Value::Map(one), Value::Map(other)) => equal_maps(one, other),
        (Value::Optional(one), Value::Optional(other)) => match (one, other) {
            (Some(one), Some(other)) => equal(one, other),
            (None, None) => true,
            _ => false,
        },
        (Value::Opaque(one), Value::Opaque(other)) => one.equals(other),
        _ => numbers(left, right).is_some_and(|order| order == Some(Ordering::Equal)),
    }
}

fn equal_lists(one: &List<'_>, other: &List<'_>) -> bool {
    if one.len() != other.len() {
        return false;
    }
    let same = |pair: (Outcome<'_>, Outcome<'_>)| matches!(pair, (Ok(a), Ok(b)) if equal(&a, &b));
    let any = |wanted: &dyn Fn(&Value<'_>, &Value<'_>) -> bool| {
        let Ok(ours) = one.values() else { return false };
        other.iter().all(|item| item.is_ok_and(|item| ours.iter().any(|one| wanted(one, &item))))
    };
    match list_kind(one) {
        Some(ListKind::Set) => any(&equal),
        Some(ListKind::Map(keys)) => any(&|a, b| same_keys(a, b, keys) && equal(a, b)),
        _ => one.iter().zip(other.iter()).all(same),
    }
}

fn equal_maps(one: &Map<'_>, other: &Map<'_>) -> bool {
    if one.len() != other.len() {
        return false;
    }
    if let (Map::Json(ours, Some(declared)), Map::Json(theirs, _)) = (one, other)
        && let Shape::Object(object) = &declared.shape
        && ours.iter().any(|(name, value)| {
            // What no schema describes is compared as it stands.
            !object.fields.contains_key(name) && theirs.get(name).is_some_and(|other| other != value)
        })
    {
        return false;
    }
    one.entries().all(|(key, ours)| match (ours, other.get(&key)) {
        (Ok(ours), Some(Ok(theirs))) => equal(&ours, &theirs),
        _ => false,
    })
}

/// The order of two numbers: `None` if they are none, `Some(None)` with NaN.
fn numbers(left: &Value<'_>, right: &Value<'_>) -> Option<Option<Ordering>> {
    Some(match (left, right) {
        (Value::Int(one), Value::Int(other)) => Some(one.cmp(other)),
        (Value::Uint(one), Value::Uint(other)) => Some(one.cmp(other)),
        (Value::Double(one), Value::Double(other)) => one.partial_cmp(other),
        (Value::Int(one), Value::Uint(other)) => Some(number::compare_int_uint(*one, *other)),
        (Value::Uint(one), Value::Int(other)) => Some(number::compare_int_uint(*other, *one).reverse()),
        (Value::Int(one), Value::Double(other)) => number::compare_int_double(*one, *other),
        (Value::Double(one), Value::Int(other)) => {
            number::compare_int_double(*other, *one).map(Ordering::reverse)
        }
        (Value::Uint(one), Value::Double(other)) => number::compare_uint_double(*one, *other),
        (Value::Double(one), Value::Uint(other)) => {
            number::compare_uint_double(*other, *one).map(Ordering::reverse)
        }
        _ => return None,
    })
}

/// The order of two values of a type that has one; NaN has none.
pub(crate) fn compare(left: &Value<'_>, right: &Value<'_>) -> Result<Option<Ordering>, Fault> {
    if let Some(order) = numbers(left, right) {
        return match order {
            None => fail("NaN values cannot be ordered"),
            order => Ok(order),
        };
    }
    Ok(Some(match (left, right) {
        (Value::Bool(one), Value::Bool(other)) => one.cmp(other),
        (Value::String(one), Value::String(other)) => one.as_str().cmp(other.as_str()),
        (Value::Bytes(one), Value::Bytes(other)) => one.cmp(other),
        (Value::Duration(one), Value::Duration(other)) => one.cmp(other),
        (Value::Timestamp(one), Value::Timestamp(other)) => one.cmp(other),
        _ => return no_overload(),
    }))
}

/// `in`.
fn contains(item: &Value<'_>, container: &Value<'_>) -> Result<bool, Fault> {
    match container {
        Value::List(list) => {
            for one in list.iter() {
                if equal(item, &one?) {
                    return Ok(true);
                }
            }
            Ok(false)
        }
        Value::Map(map) => match Key::of(item).and_then(|key| map.get(&key)) {
            Some(found) => found.map(|_| true),
            None => Ok(false),
        },
        _ => no_overload(),
    }
}

/// `-x`.
pub(crate) fn negate<'a>(value: &Value<'a>) -> Outcome<'a> {
    match value {
        Value::Int(value) => {
            value.checked_neg().map_or_else(|| fail("integer overflow"), |value| Ok(Value::Int(value)))
        }
        Value::Double(value) => Ok(Value::Double(-value)),
        _ => no_overload(),
    }
}

/// A conversion by the name of its type.
pub(crate) fn convert<'a>(value: &Value<'a>, to: &Type) -> Outcome<'a> {
    let converted = match (to, value) {
        (Type::Dyn, _) => Some(value.clone()),
        (Type::Type(_), _) => Some(Value::Type(value.type_of())),
        (Type::Int, _) => int(value)?.map(Value::Int),
        (Type::Uint, _) => uint(value)?.map(Value::Uint),
        (Type::Double, _) => double(value).map(Value::Double),
        (Type::String, _) => string(value)?.map(Value::String),
        (Type::Bool, Value::Bool(_))
        | (Type::Bytes, Value::Bytes(_))
        | (Type::Duration, Value::Duration(_))
        | (Type::Timestamp, Value::Timestamp(_)) => Some(value.clone()),
        (Type::Bool, Value::String(text)) => boolean(text.as_str()).map(Value::Bool),
        (Type::Bytes, Value::String(text)) => Some(Value::Bytes(Arc::from(text.as_str().as_bytes()))),
        (Type::Duration, Value::String(text)) => time::parse_duration(text.as_str()).map(Value::Duration),
        (Type::Duration, Value::Int(nanos)) => Some(Value::Duration(*nanos)),
        (Type::Timestamp, Value::String(text)) => Moment::parse(text.as_str()).map(Value::Timestamp),
        (Type::Timestamp, Value::Int(seconds)) => match Moment::from_seconds(*seconds) {
            Some(moment) => Some(Value::Timestamp(moment)),
            None => return fail("timestamp overflow"),
        },
        _ => None,
    };
    let from = || value.type_of().name();
    converted.map_or_else(|| fail(format!("type conversion error from '{}' to '{}'", from(), to.name())), Ok)
}

fn int(value: &Value<'_>) -> Result<Option<i64>, Fault> {
    Ok(match value {
        Value::Int(value) | Value::Duration(value) => Some(*value),
        Value::Uint(value) => Some(i64::try_from(*value).or_else(|_| fail("integer overflow"))?),
        Value::Double(value) => Some(number::to_int(*value)?),
        Value::Timestamp(moment) => Some(moment.seconds),
        Value::String(text) => text.as_str().parse().ok(),
        _ => None,
    })
}

fn uint(value: &Value<'_>) -> Result<Option<u64>, Fault> {
    Ok(match value {
        Value::Uint(value) => Some(*value),
        Value::Int(value) => Some(u64::try_from(*value).or_else(|_| fail("unsigned integer overflow"))?),
        Value::Double(value) => Some(number::to_uint(*value)?),
        Value::String(text) if !text.as_str().starts_with('+') => text.as_str().parse().ok(),
        _ => None,
    })
}

#[expect(clippy::cast_precision_loss, reason = "conversion to double rounds")]
fn double(value: &Value<'_>) -> Option<f64> {
    match value {
        Value::Double(value) => Some(*value),
        Value::Int(value) => Some(*value as f64),
        Value::Uint(value) => Some(*value as f64),
        Value::String(text) => number::parse_double(text.as_str()),
        _ => None,
    }
}

fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

fn string<'a>(value: &Value<'a>) -> Result<Option<Text<'a>>, Fault> {
    let text = match value {
        Value::String(text) => return Ok(Some(text.clone())),
        Value::Bool(value) => value.to_string(),
        Value::Int(value) => value.to_string(),
        Value::Uint(value) => value.to_string(),
        Value::Double(value) => number::format_double(*value),
        Value::Duration(nanos) => time::format_duration(*nanos),
        Value::Timestamp(moment) => moment.format(),
        Value::Bytes(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => text.to_owned(),
            Err(_) => return fail("invalid UTF-8 in bytes, cannot convert to string"),
        },
        Value::Opaque(opaque) => match &**opaque {
            Opaque::Ip(address) => address.to_string(),
            Opaque::Cidr(cidr) => cidr.to_string(),
            _ => return Ok(None),
        },
        _ => return Ok(None),
    };
    Ok(Some(Text::Owned(text.into())))
}
