//! Asks objects what templates ask.

use super::{Fault, Filter, Part, Rules, Slice, Step, text};
use crate::validate::go_type;
use serde_json::Value;
use std::cmp::Ordering;

/// What each expression finds, one after the other.
pub(super) fn parts<'a>(
    parts: &'a [Part],
    here: &'a Value,
    rules: Rules,
    all: &mut Vec<Vec<&'a Value>>,
) -> Result<(), Fault> {
    for part in parts {
        match part {
            Part::One(path) => all.push(steps(path, vec![here], rules)?),
            Part::Range(path, body) => {
                for item in steps(path, vec![here], rules)? {
                    self::parts(body, item, rules, all)?;
                }
            }
        }
    }
    Ok(())
}

/// What is at the end of a path.
fn steps<'a>(path: &'a [Step], mut found: Vec<&'a Value>, rules: Rules) -> Result<Vec<&'a Value>, Fault> {
    for one in path {
        found = step(one, &found, rules)?;
        found.truncate(rules.most);
    }
    Ok(found)
}

fn fault<T>(why: String) -> Result<T, Fault> {
    Err(Fault(why))
}

fn step<'a>(step: &'a Step, found: &[&'a Value], rules: Rules) -> Result<Vec<&'a Value>, Fault> {
    let there = found.iter().copied().filter(|value| !value.is_null());
    match step {
        Step::Field(name) => {
            let next: Vec<&Value> = there.filter_map(|value| value.as_object()?.get(name)).collect();
            match next.is_empty() && !found.is_empty() && rules.strict {
                true => fault(format!("{name} is not found")),
                false => Ok(next),
            }
        }
        Step::Wildcard => Ok(there.flat_map(children).take(rules.most).collect()),
        Step::Descend => {
            let mut all = Vec::new();
            there.for_each(|value| descend(value, rules.most, &mut all));
            Ok(all)
        }
        Step::Slice(bounds) => {
            let mut all = Vec::new();
            for value in there {
                let Some(items) = value.as_array() else {
                    return fault(format!("{} is not array or slice", go_type(value)));
                };
                match within(*bounds, items)? {
                    Some(some) => all.extend(some),
                    None => return Ok(all),
                }
            }
            Ok(all)
        }
        Step::Union(paths) => {
            let mut all = Vec::new();
            for path in paths {
                all.extend(steps(path, found.to_vec(), rules)?);
                all.truncate(rules.most);
            }
            Ok(all)
        }
        Step::Filter(filter) => filtered(filter, found, rules),
        Step::Text(value) => Ok(vec![value]),
        Step::Constant(value) => Ok(found.iter().map(|_| value).collect()),
        Step::Word(word) if word == "range" => Ok(found.to_vec()),
        Step::Word(word) if word == "end" => fault("not in range, nothing to end".to_owned()),
        Step::Word(word) => fault(format!("unrecognized identifier {word}")),
    }
}

fn children(value: &Value) -> Vec<&Value> {
    match value {
        Value::Array(items) => items.iter().collect(),
        Value::Object(fields) => fields.values().collect(),
        _ => Vec::new(),
    }
}

/// A value that holds others or has signs, and all such below it.
fn descend<'a>(value: &'a Value, most: usize, all: &mut Vec<&'a Value>) {
    let below = children(value);
    let is_any = !below.is_empty() || value.as_str().is_some_and(|text| !text.is_empty());
    if is_any && all.len() < most {
        all.push(value);
        below.into_iter().for_each(|value| descend(value, most, all));
    }
}

/// The items of a slice; none where it is of no length, which ends the search.
fn within(bounds: Slice, items: &[Value]) -> Result<Option<impl Iterator<Item = &Value>>, Fault> {
    let length = i64::try_from(items.len()).unwrap_or(i64::MAX);
    let first = bounds.from.unwrap_or(0);
    let to = if bounds.single { Some(first.saturating_add(1)) } else { bounds.to };
    let from = if first < 0 { first.saturating_add(length) } else { first };
    let to = match to.unwrap_or(length) {
        to if to < 0 || (to == 0 && bounds.single) => to.saturating_add(length),
        to => to,
    };
    if from == to {
        return Ok(None);
    }
    let outside = |index: i64| format!("array index out of bounds: index {index}, length {length}");
    if !(0..length).contains(&from) {
        return fault(outside(from));
    }
    if !(0..=length).contains(&to) {
        return fault(outside(to - 1));
    }
    if from > to {
        return fault(format!("starting index {from} is greater than ending index {to}"));
    }
    let by = bounds.by.unwrap_or(1);
    let place = |index: i64| usize::try_from(index).unwrap_or(0);
    if by <= 0 {
        return fault("step must be > 0".to_owned());
    }
    Ok(Some(items[place(from)..place(to)].iter().step_by(place(by))))
}

fn filtered<'a>(filter: &'a Filter, found: &[&'a Value], rules: Rules) -> Result<Vec<&'a Value>, Fault> {
    let mut all = Vec::new();
    for value in found {
        let Some(items) = value.as_array() else {
            let shown = if value.is_null() { "<nil>".to_owned() } else { text(value) };
            return fault(format!("{shown} is not array or slice and cannot be filtered"));
        };
        for item in items {
            if holds(filter, item, rules)? {
                all.push(item);
            }
        }
    }
    Ok(all)
}

fn holds(filter: &Filter, item: &Value, rules: Rules) -> Result<bool, Fault> {
    let left = steps(&filter.left, vec![item], rules);
    let Some((operator, right)) = &filter.comparison else {
        return Ok(left.is_ok_and(|found| !found.is_empty()));
    };
    let (left, right) = match &left?[..] {
        [] => return Ok(false),
        [left] => (*left, steps(right, vec![item], rules)?),
        _ => return fault("can only compare one element at a time".to_owned()),
    };
    let order = match right[..] {
        [] => return Ok(false),
        [right] => order(left, right, operator),
        _ => return fault("can only compare one element at a time".to_owned()),
    };
    match operator.as_str() {
        "==" => order.map(Ordering::is_eq),
        "!=" => order.map(Ordering::is_ne),
        "<" => order.map(Ordering::is_lt),
        "<=" => order.map(Ordering::is_le),
        ">" => order.map(Ordering::is_gt),
        ">=" => order.map(Ordering::is_ge),
        other => fault(format!("unrecognized filter operator {other}")),
    }
}

/// Values of one type are compared, and no others.
fn order(left: &Value, right: &Value, operator: &str) -> Result<Ordering, Fault> {
    let incomparable = || fault("invalid type for comparison".to_owned());
    if [left, right].iter().any(|one| one.is_null() || one.is_array() || one.is_object()) {
        return incomparable();
    }
    if go_type(left) != go_type(right) {
        return fault("incompatible types for comparison".to_owned());
    }
    match (left, right) {
        (Value::Bool(left), Value::Bool(right)) if ["==", "!="].contains(&operator) => Ok(left.cmp(right)),
        (Value::Bool(_), _) => incomparable(),
        (Value::String(left), Value::String(right)) => Ok(left.cmp(right)),
        _ => match (left.as_i64(), right.as_i64()) {
            (Some(left), Some(right)) => Ok(left.cmp(&right)),
            _ => Ok(left.as_f64().partial_cmp(&right.as_f64()).unwrap_or(Ordering::Equal)),
        },
    }
}
