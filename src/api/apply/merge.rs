//! Merging a configuration into an object, and taking fields out of one.

use super::compare::step_of;
use super::fields::{self, Set};
use super::shape::{Atom, Fields, Items, Typed};
use serde_json::{Map, Value};
use std::collections::{HashMap, HashSet, VecDeque};

/// An object with what a configuration says. Nothing is removed; a list that the configuration changes
/// takes its order.
pub(super) fn merge(ty: Typed<'_>, live: &Value, config: &Value) -> Value {
    merged(ty, Some(live), Some(config)).unwrap_or_default()
}

fn merged(ty: Typed<'_>, live: Option<&Value>, config: Option<&Value>) -> Option<Value> {
    let Some(config) = config else { return live.cloned() };
    let Some(live) = live else { return Some(config.clone()) };
    let whole = || Some(config.clone());
    match ty.atom(Some(config)) {
        Atom::Scalar(_) | Atom::List(None, _) | Atom::List(_, Items::Atomic) => whole(),
        Atom::List(Some(item), items) => {
            let none = |side: &Value| side.as_array().is_none_or(Vec::is_empty);
            if none(live) && none(config) { whole() } else { lists(item, items, live, config) }
        }
        Atom::Map(fields) => {
            let none = |side: &Value| side.as_object().is_none_or(Map::is_empty);
            let replaced = fields.is_atomic() || (none(live) && none(config));
            if replaced { whole() } else { maps(fields, live, config) }
        }
    }
}

fn maps(fields: Fields<'_>, live: &Value, config: &Value) -> Option<Value> {
    let mut out = live.as_object().cloned().unwrap_or_default();
    for (name, value) in config.as_object().into_iter().flatten() {
        let own = match fields.field(name) {
            Some(ty) => merged(ty, out.get(name), Some(value)),
            None => Some(value.clone()),
        };
        match own {
            Some(own) => drop(out.insert(name.clone(), own)),
            None => drop(out.remove(name)),
        }
    }
    (!out.is_empty()).then_some(Value::Object(out))
}

/// Items in the order of the configuration, with those that only the object has between the neighbours
/// they had.
fn lists(ty: Typed<'_>, items: &Items, live: &Value, config: &Value) -> Option<Value> {
    let indexed = |side| -> Vec<(String, &Value)> {
        let values = Value::as_array(side).map(Vec::as_slice).unwrap_or_default();
        values.iter().filter_map(|value| Some((step_of(items, value).ok()?, value))).collect()
    };
    let (live, config) = (indexed(live), indexed(config));
    let wanted: HashMap<&str, &Value> = config.iter().map(|(step, value)| (step.as_str(), *value)).collect();
    let mut own: HashMap<&str, Option<&Value>> = HashMap::new();
    for (step, value) in &live {
        // Items that are there twice are replaced, not merged.
        own.entry(step).and_modify(|first| *first = None).or_insert(Some(value));
    }
    let mut shared: VecDeque<&str> =
        config.iter().map(|(step, _)| step.as_str()).filter(|step| own.contains_key(step)).collect();
    let mut out = Vec::with_capacity(live.len().max(config.len()));
    let mut taken: HashSet<&str> = HashSet::new();
    let take = |step: &str| {
        let before = own.get(step).map(|value| value.unwrap_or(&Value::Null));
        merged(ty, before, wanted.get(step).copied())
    };
    let (mut left, mut right) = (live.iter().peekable(), config.iter().peekable());
    while left.peek().is_some() || right.peek().is_some() {
        if let (Some((step, _)), Some((next, _))) = (left.peek(), right.peek()) {
            if step == next {
                taken.insert(step);
                out.extend(take(step));
                left.next();
                right.next();
                shared.pop_front();
                continue;
            }
            // A shared item whose turn has not come yet in the configuration's order.
            if wanted.contains_key(step.as_str())
                && shared.front().is_some_and(|first| *first != step.as_str())
            {
                left.next();
                continue;
            }
        }
        if let Some((step, value)) = left.peek() {
            if !wanted.contains_key(step.as_str()) {
                out.push((*value).clone());
                left.next();
                continue;
            }
            if taken.contains(step.as_str()) {
                left.next();
            }
        }
        if let Some((step, _)) = right.next() {
            taken.insert(step);
            out.extend(take(step));
            if shared.front() == Some(&step.as_str()) {
                shared.pop_front();
            }
        }
    }
    (!out.is_empty()).then_some(Value::Array(out))
}

/// An object without these fields. What loses all it had stays, without content.
pub(super) fn without(ty: Typed<'_>, object: &Value, gone: &Set) -> Value {
    rest(ty, object, gone).unwrap_or_default()
}

fn rest(ty: Typed<'_>, value: &Value, gone: &Set) -> Option<Value> {
    match (ty.atom(Some(value)), value) {
        (Atom::List(Some(item), items), Value::Array(values)) if !matches!(items, Items::Atomic) => {
            let mut touched = false;
            let kept = values.iter().filter_map(|value| {
                let Ok(step) = step_of(items, value) else { return Some(value.clone()) };
                kept(Some(item), value, gone, (&step, &mut touched))
            });
            let kept: Vec<Value> = kept.collect();
            (!kept.is_empty() || touched).then_some(Value::Array(kept))
        }
        (Atom::Map(fields), Value::Object(map)) if !fields.is_atomic() => {
            let mut touched = false;
            let kept: Map<String, Value> = map
                .iter()
                .filter_map(|(name, value)| {
                    let step = fields::field(name);
                    let own = kept(fields.field(name), value, gone, (&step, &mut touched))?;
                    Some((name.clone(), own))
                })
                .collect();
            (!kept.is_empty() || touched).then_some(Value::Object(kept))
        }
        (Atom::Scalar(_), value) => Some(value.clone()),
        _ => None,
    }
}

/// What is left of a value at a step; `None` if it is gone.
fn kept(
    ty: Option<Typed<'_>>,
    value: &Value,
    gone: &Set,
    (step, touched): (&str, &mut bool),
) -> Option<Value> {
    let Some(mark) = gone.get(step) else { return Some(value.clone()) };
    if mark.member {
        return None;
    }
    *touched = true;
    let left = ty.and_then(|ty| rest(ty, value, &mark.below));
    Some(left.unwrap_or_else(|| match value {
        Value::Object(_) => Value::Object(Map::new()),
        Value::Array(_) => Value::Array(Vec::new()),
        _ => Value::Null,
    }))
}
