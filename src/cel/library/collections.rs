//! Optionals, sets, regular expressions and what two-variable comprehensions are made of.

use super::standard::with_pattern;
use super::{Row, int, list};
use crate::operators::equal;
use crate::value::{Fault, Key, List, Map, Outcome, Value, fail, no_overload};
use std::collections::BTreeMap;
use std::sync::Arc;

pub(super) const ROWS: &[Row] = &[
    ("optional.of", "optional_of", "(V) -> optional(V)", Some(|of| Ok(Value::some(of[0].clone())))),
    ("optional.ofNonZeroValue", "optional_ofNonZeroValue", "(V) -> optional(V)", Some(non_zero)),
    ("optional.none", "optional_none", "() -> optional(V)", Some(|_| Ok(Value::Optional(None)))),
    ("optional.unwrap", "optional_unwrap", "(list(optional(V))) -> list(V)", Some(unwrap_all)),
    ("unwrapOpt", "optional_unwrapOpt", "list(optional(V)).() -> list(V)", Some(unwrap_all)),
    ("value", "optional_value", "optional(V).() -> V", Some(value)),
    ("hasValue", "optional_hasValue", "optional(V).() -> bool", Some(has_value)),
    ("or", "optional_or_optional", "optional(V).(optional(V)) -> optional(V)", None),
    ("orValue", "optional_orValue_value", "optional(V).(V) -> V", None),
    ("last", "list_last", "list(V).() -> optional(V)", Some(|of| end(of, true))),
    ("first", "list_first", "list(V).() -> optional(V)", Some(|of| end(of, false))),
    ("sets.contains", "list_sets_contains_list", "(list(T), list(T)) -> bool", Some(contains)),
    ("sets.equivalent", "list_sets_equivalent_list", "(list(T), list(T)) -> bool", Some(equivalent)),
    ("sets.intersects", "list_sets_intersects_list", "(list(T), list(T)) -> bool", Some(intersects)),
    ("find", "string_find_string", "string.(string) -> string", Some(find)),
    ("findAll", "string_find_all_string", "string.(string) -> list(string)", Some(find_all)),
    ("findAll", "string_find_all_string_int", "string.(string, int) -> list(string)", Some(find_all)),
    ("cel.@mapInsert", "@mapInsert_map_key_value", "(map(K, V), K, V) -> map(K, V)", Some(insert_entry)),
    ("cel.@mapInsert", "@mapInsert_map_map", "(map(K, V), map(K, V)) -> map(K, V)", Some(insert_entries)),
];

fn optional<'v, 'a>(of: &'v [Value<'a>]) -> Result<Option<&'v Value<'a>>, Fault> {
    match of.first() {
        Some(Value::Optional(inner)) => Ok(inner.as_deref()),
        _ => no_overload(),
    }
}

fn value<'a>(of: &[Value<'a>]) -> Outcome<'a> {
    optional(of)?.cloned().map_or_else(|| fail("optional.none() dereference"), Ok)
}

fn has_value<'a>(of: &[Value<'a>]) -> Outcome<'a> {
    Ok(Value::Bool(optional(of)?.is_some()))
}

fn non_zero<'a>(of: &[Value<'a>]) -> Outcome<'a> {
    let zero = match &of[0] {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::Int(value) | Value::Duration(value) => *value == 0,
        Value::Uint(value) => *value == 0,
        Value::Double(value) => *value == 0.0,
        Value::String(text) => text.as_str().is_empty(),
        Value::Bytes(bytes) => bytes.is_empty(),
        Value::List(list) => list.is_empty(),
        Value::Map(map) => map.is_empty(),
        Value::Optional(inner) => inner.is_none(),
        _ => false,
    };
    Ok(if zero { Value::Optional(None) } else { Value::some(of[0].clone()) })
}

fn unwrap_all<'a>(of: &[Value<'a>]) -> Outcome<'a> {
    let mut found = Vec::new();
    for item in list(of, 0)?.iter() {
        match item? {
            Value::Optional(inner) => found.extend(inner.map(Arc::unwrap_or_clone)),
            other => return fail(format!("value {other:?} is not optional")),
        }
    }
    Ok(Value::list(found))
}

fn end<'a>(of: &[Value<'a>], last: bool) -> Outcome<'a> {
    let list = list(of, 0)?;
    let found = list.get(if last { list.len().wrapping_sub(1) } else { 0 }).transpose()?;
    Ok(Value::Optional(found.map(Arc::new)))
}

fn holds(list: &List<'_>, wanted: &Value<'_>) -> Result<bool, Fault> {
    for item in list.iter() {
        if equal(&item?, wanted) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn holds_all(list: &List<'_>, wanted: &List<'_>) -> Result<bool, Fault> {
    for item in wanted.iter() {
        if !holds(list, &item?)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn contains<'a>(of: &[Value<'a>]) -> Outcome<'a> {
    holds_all(list(of, 0)?, list(of, 1)?).map(Value::Bool)
}

fn equivalent<'a>(of: &[Value<'a>]) -> Outcome<'a> {
    let (one, other) = (list(of, 0)?, list(of, 1)?);
    Ok(Value::Bool(holds_all(one, other)? && holds_all(other, one)?))
}

fn intersects<'a>(of: &[Value<'a>]) -> Outcome<'a> {
    let other = list(of, 1)?;
    for item in list(of, 0)?.iter() {
        if holds(other, &item?)? {
            return Ok(Value::Bool(true));
        }
    }
    Ok(Value::Bool(false))
}

fn find<'a>(of: &[Value<'a>]) -> Outcome<'a> {
    with_pattern(of, |pattern, within| {
        Ok(Value::text(pattern.find(within).map_or("", |found| found.as_str())))
    })
}

fn find_all<'a>(of: &[Value<'a>]) -> Outcome<'a> {
    let most = if of.len() > 2 { int(of, 2)? } else { -1 };
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    with_pattern(of, |pattern, within| {
        Ok(Value::list(
            pattern.find_iter(within).take(most).map(|found| Value::text(found.as_str())).collect(),
        ))
    })
}

/// The entries of a map, copied only if others hold it.
fn owned(map: Map<'_>) -> Result<BTreeMap<Key<'_>, Value<'_>>, Fault> {
    match map {
        Map::Owned(entries) | Map::Total(entries) => Ok(Arc::unwrap_or_clone(entries)),
        json @ Map::Json(..) => json.entries().map(|(key, value)| Ok((key, value?))).collect(),
    }
}

/// The map with an entry more; one that is there already is an error.
pub(crate) fn insert<'a>(into: Value<'a>, more: &[Value<'a>]) -> Outcome<'a> {
    let Value::Map(map) = into else { return no_overload() };
    let mut entries = owned(map)?;
    let mut put = |key: Key<'a>, value| match entries.contains_key(&key) {
        true => fail(format!("insert failed: key {} already exists", super::template::shown(&key.value()))),
        false => {
            entries.insert(key, value);
            Ok(())
        }
    };
    match more {
        [key, value] => match Key::of(key) {
            Some(key) => put(key, value.clone())?,
            None => return fail("unsupported key type"),
        },
        [Value::Map(other)] => other.entries().try_for_each(|(key, value)| put(key, value?))?,
        _ => return no_overload(),
    }
    Ok(Value::Map(Map::Owned(Arc::new(entries))))
}

fn insert_entry<'a>(of: &[Value<'a>]) -> Outcome<'a> {
    insert(of[0].clone(), &of[1..])
}

fn insert_entries<'a>(of: &[Value<'a>]) -> Outcome<'a> {
    insert(of[0].clone(), &of[1..])
}
