//! Values: what a chart has by default, and what is laid over it.

use crate::chart::Chart;
use serde_json::{Map, Value};

type Fields = Map<String, Value>;

/// The key whose values every chart sees.
const GLOBAL: &str = "global";

/// Lays `over` over `fields`, map by map.
pub(crate) fn lay_over(fields: &mut Fields, over: Fields) {
    for (key, value) in over {
        match (fields.get_mut(&key), value) {
            (Some(Value::Object(inner)), Value::Object(over)) => lay_over(inner, over),
            (_, value) => drop(fields.insert(key, value)),
        }
    }
}

/// The values that a chart and those in it are rendered with: `given` over the defaults. Null takes a default away.
pub(crate) fn coalesce(chart: &Chart, given: &Fields) -> Result<Fields, String> {
    let mut values = given.clone();
    bring_together(chart, &mut values, false)?;
    Ok(values)
}

/// The same, where null stays, for what is to be brought together again.
pub(crate) fn merge(chart: &Chart, given: &Fields) -> Result<Fields, String> {
    let mut values = given.clone();
    bring_together(chart, &mut values, true)?;
    Ok(values)
}

fn bring_together(chart: &Chart, values: &mut Fields, keeps_null: bool) -> Result<(), String> {
    defaults(chart, values, keeps_null);
    for inner in &chart.dependencies {
        let own = values.entry(inner.name()).or_insert_with(|| Value::Object(Fields::new()));
        let Value::Object(own) = own else {
            return Err(format!("type mismatch on {}: values of a chart have to be a map", inner.name()));
        };
        let mut own = std::mem::take(own);
        globals(&mut own, values);
        bring_together(inner, &mut own, keeps_null)?;
        values.insert(inner.name().to_owned(), Value::Object(own));
    }
    Ok(())
}

/// Adds a chart's own defaults.
fn defaults(chart: &Chart, values: &mut Fields, keeps_null: bool) {
    for (key, default) in &chart.values {
        match (values.get_mut(key), default) {
            (Some(Value::Null), _) if !keeps_null => drop(values.remove(key)),
            (Some(Value::Object(given)), Value::Object(default)) => {
                let is_chart = chart.dependencies.iter().any(|inner| inner.name() == key);
                let keeps_null = keeps_null || is_chart;
                let mut default = default.clone();
                if !keeps_null {
                    without_null(&mut default);
                }
                tables(given, default, keeps_null);
            }
            (Some(_), _) => {}
            (None, Value::Null) if !keeps_null => {}
            (None, default) => {
                let mut default = default.clone();
                if let Value::Object(fields) = &mut default
                    && !keeps_null
                {
                    without_null(fields);
                }
                values.insert(key.clone(), default);
            }
        }
    }
}

fn without_null(fields: &mut Fields) {
    fields.retain(|_, value| !value.is_null());
    fields.values_mut().filter_map(Value::as_object_mut).for_each(without_null);
}

/// Adds what `from` has and `into` has not, map by map.
pub(crate) fn tables(into: &mut Fields, from: Fields, keeps_null: bool) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(Value::Null), value) if !keeps_null && !value.is_null() => drop(into.remove(&key)),
            (None, value) => drop(into.insert(key, value)),
            (Some(Value::Object(own)), Value::Object(from)) => tables(own, from, keeps_null),
            _ => {}
        }
    }
}

/// Hands the globals on to an inner chart's values.
fn globals(own: &mut Fields, outer: &Fields) {
    let empty = Fields::new();
    let source = match outer.get(GLOBAL) {
        None => &empty,
        Some(Value::Object(fields)) => fields,
        Some(_) => return,
    };
    let Value::Object(target) = own.entry(GLOBAL).or_insert_with(|| Value::Object(Fields::new())) else {
        return;
    };
    for (key, value) in source {
        match (target.get_mut(key), value) {
            (Some(Value::Object(there)), Value::Object(from)) => {
                let mut laid = from.clone();
                tables(&mut laid, std::mem::take(there), true);
                target.insert(key.clone(), Value::Object(laid));
            }
            (Some(there), Value::Object(_)) if !there.is_object() => {}
            (Some(Value::Object(_)), _) => {}
            _ => drop(target.insert(key.clone(), value.clone())),
        }
    }
}

/// The value at a path of keys with dots between.
pub(crate) fn at<'v>(fields: &'v Fields, path: &str) -> Option<&'v Value> {
    let mut keys = path.split('.');
    let first = fields.get(keys.next()?)?;
    keys.try_fold(first, |value, key| value.as_object()?.get(key))
}

/// The map at a path.
pub(crate) fn table<'v>(fields: &'v Fields, path: &str) -> Option<&'v Fields> {
    at(fields, path)?.as_object()
}
