//! Lists: sums and bounds of Kubernetes, and the language's list extension.

use super::standard::Templated;
use super::{Implementation, Row, int, list};
use crate::operators::{add, bounded_list, compare, equal};
use crate::value::{Fault, List, Outcome, Value, fail};
use std::cmp::Ordering;

pub(super) const ROWS: &[Row] = &[
    ("indexOf", "list_a_index_of_int", "list(A).(A) -> int", Some(|of| position(of, false))),
    ("lastIndexOf", "list_a_last_index_of_int", "list(A).(A) -> int", Some(|of| position(of, true))),
    ("slice", "list_slice", "list(T).(int, int) -> list(T)", Some(slice)),
    ("flatten", "list_flatten", "list(list(T)).() -> list(T)", Some(flatten)),
    ("flatten", "list_flatten_int", "list(dyn).(int) -> list(dyn)", Some(flatten)),
    ("lists.range", "lists_range", "(int) -> list(int)", Some(range)),
    ("reverse", "list_reverse", "list(T).() -> list(T)", Some(reverse)),
    ("distinct", "list_distinct", "list(T).() -> list(T)", Some(distinct)),
];

/// The overloads that exist once for each type with an order, or that can be added up.
pub(super) fn templated() -> Vec<Templated> {
    const COMPARABLE: [&str; 8] =
        ["int", "uint", "double", "bool", "duration", "timestamp", "string", "bytes"];
    const ZEROES: [(&str, Implementation); 4] = [
        ("int", |of| sum(of, Value::Int(0))),
        ("uint", |of| sum(of, Value::Uint(0))),
        ("double", |of| sum(of, Value::Double(0.0))),
        ("duration", |of| sum(of, Value::Duration(0))),
    ];
    let mut rows: Vec<Templated> = Vec::new();
    for of in COMPARABLE {
        let bound = format!("list({of}).() -> {of}");
        rows.push(("isSorted", "list_is_sorted_bool", format!("list({of}).() -> bool"), Some(is_sorted)));
        rows.push(("max", "list_max", bound.clone(), Some(|of| extreme(of, "max", Ordering::Less))));
        rows.push(("min", "list_min", bound, Some(|of| extreme(of, "min", Ordering::Greater))));
        rows.push(("sort", "list_sort", format!("list({of}).() -> list({of})"), Some(sort)));
        let by = format!("list(T).(list({of})) -> list(T)");
        rows.push(("@sortByAssociatedKeys", "list_sortByAssociatedKeys", by, Some(sort_by)));
    }
    for (of, add_up) in ZEROES {
        rows.push(("sum", "list_sum", format!("list({of}).() -> {of}"), Some(add_up)));
    }
    rows
}

fn is_sorted<'a>(of: &[Value<'a>]) -> Outcome<'a> {
    let values = list(of, 0)?.values()?;
    for pair in values.windows(2) {
        if compare(&pair[0], &pair[1])? == Some(Ordering::Greater) {
            return Ok(Value::Bool(false));
        }
    }
    Ok(Value::Bool(true))
}

fn sum<'a>(of: &[Value<'a>], zero: Value<'a>) -> Outcome<'a> {
    list(of, 0)?.iter().try_fold(zero, |total, item| add(total, item?))
}

/// The first of the items that no other one replaces: a later one does if the order to it is `worse`.
fn extreme<'a>(of: &[Value<'a>], name: &str, worse: Ordering) -> Outcome<'a> {
    let mut best: Option<Value<'a>> = None;
    for item in list(of, 0)?.iter() {
        let item = item?;
        let replaces = match &best {
            Some(best) => compare(best, &item)? == Some(worse),
            None => true,
        };
        if replaces {
            best = Some(item);
        }
    }
    best.map_or_else(|| fail(format!("{name} called on empty list")), Ok)
}

fn position<'a>(of: &[Value<'a>], last: bool) -> Outcome<'a> {
    let items = list(of, 0)?;
    let is_wanted = |index: &usize| matches!(items.get(*index), Some(Ok(item)) if equal(&item, &of[1]));
    let mut indexes = 0..items.len();
    let found = if last { indexes.rfind(is_wanted) } else { indexes.find(is_wanted) };
    Ok(Value::Int(found.and_then(|index| i64::try_from(index).ok()).unwrap_or(-1)))
}

fn slice<'a>(of: &[Value<'a>]) -> Outcome<'a> {
    let (items, start, end) = (list(of, 0)?, int(of, 1)?, int(of, 2)?);
    let (Ok(from), Ok(to)) = (usize::try_from(start), usize::try_from(end)) else {
        return fail(format!("cannot slice({start}, {end}), negative indexes not supported"));
    };
    if from > to {
        return fail(format!(
            "cannot slice({start}, {end}), start index must be less than or equal to end index"
        ));
    }
    if items.len() < to {
        return fail(format!("cannot slice({start}, {end}), list is length {}", items.len()));
    }
    items.iter().skip(from).take(to - from).collect::<Result<_, _>>().map(Value::list)
}

fn flatten<'a>(of: &[Value<'a>]) -> Outcome<'a> {
    let depth = if of.len() > 1 { int(of, 1)? } else { 1 };
    if depth < 0 {
        return fail("level must be non-negative");
    }
    let mut flat = Vec::new();
    flatten_into(&mut flat, list(of, 0)?, depth)?;
    Ok(Value::list(flat))
}

fn flatten_into<'a>(flat: &mut Vec<Value<'a>>, items: &List<'a>, depth: i64) -> Result<(), Fault> {
    for item in items.iter() {
        match item? {
            Value::List(inner) if depth > 0 => flatten_into(flat, &inner, depth - 1)?,
            other => {
                bounded_list(flat.len() + 1)?;
                flat.push(other);
            }
        }
    }
    Ok(())
}

fn range<'a>(of: &[Value<'a>]) -> Outcome<'a> {
    let end = int(of, 0)?;
    bounded_list(usize::try_from(end).unwrap_or(0))?;
    Ok(Value::list((0..end).map(Value::Int).collect()))
}

fn reverse<'a>(of: &[Value<'a>]) -> Outcome<'a> {
    list(of, 0)?.iter().rev().collect::<Result<_, _>>().map(Value::list)
}

fn distinct<'a>(of: &[Value<'a>]) -> Outcome<'a> {
    let mut unique: Vec<Value<'a>> = Vec::new();
    for item in list(of, 0)?.iter() {
        let item = item?;
        if !unique.iter().any(|one| equal(one, &item)) {
            unique.push(item);
        }
    }
    Ok(Value::list(unique))
}

fn sort<'a>(of: &[Value<'a>]) -> Outcome<'a> {
    sorted(list(of, 0)?, list(of, 0)?)
}

fn sort_by<'a>(of: &[Value<'a>]) -> Outcome<'a> {
    sorted(list(of, 0)?, list(of, 1)?)
}

fn sorted<'a>(items: &List<'a>, keys: &List<'a>) -> Outcome<'a> {
    if items.len() != keys.len() {
        return fail(format!(
            "@sortByAssociatedKeys() expected a list of the same size as the associated keys list, but got {} and {} \
             elements respectively",
            items.len(),
            keys.len()
        ));
    }
    let keys = keys.values()?;
    if keys.windows(2).any(|pair| pair[0].type_of() != pair[1].type_of()) {
        return fail("list elements must have the same type");
    }
    let mut pairs: Vec<(Value<'a>, Value<'a>)> = keys.into_iter().zip(items.values()?).collect();
    let mut fault = None;
    pairs.sort_by(|(one, _), (other, _)| match compare(one, other) {
        Ok(order) => order.unwrap_or(Ordering::Equal),
        Err(found) => {
            fault.get_or_insert(found);
            Ordering::Equal
        }
    });
    match fault {
        Some(fault) => Err(fault),
        None => Ok(Value::list(pairs.into_iter().map(|(_, item)| item).collect())),
    }
}
