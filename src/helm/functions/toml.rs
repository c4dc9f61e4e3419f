//! TOML, read and written. Empty values (`null`) are left out, since TOML has none.

use super::{Answer, fixed, made, text};
use serde_json::{Map as Fields, Value as Json};
use template::{Calling, Failure, Function, Value};
use toml::Value as Toml;

pub(super) const FUNCTIONS: &[(&str, Function)] = &[
    ("toToml", fixed(1, |c, a| made(c, written(&a[0]).unwrap_or_else(|why| why)))),
    ("mustToToml", fixed(1, |c, a| made(c, written(&a[0]).map_err(Failure::from)?))),
    ("fromToml", fixed(1, from_toml)),
];

/// How deep values stand in one another.
const DEPTH: usize = 100;

fn written(value: &Value) -> Result<String, String> {
    let json = value.to_json().ok_or("the value holds itself or is nothing that can be written")?;
    match toml(&json, DEPTH)? {
        Some(Toml::Table(table)) => toml::to_string(&table).map_err(|error| error.to_string()),
        _ => Err("toml: top-level values must be Go maps or structs".to_owned()),
    }
}

fn toml(json: &Json, depth: usize) -> Result<Option<Toml>, String> {
    let depth = depth.checked_sub(1).ok_or("values stand in more than 100 others")?;
    Ok(Some(match json {
        Json::Null => return Ok(None),
        Json::Bool(truth) => Toml::Boolean(*truth),
        Json::String(text) => Toml::String(text.clone()),
        Json::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(whole), _) => Toml::Integer(whole),
            (None, Some(float)) => Toml::Float(float),
            (None, None) => return Err(format!("{number} is too large for TOML")),
        },
        Json::Array(items) => {
            let items: Result<Vec<_>, _> = items.iter().map(|item| toml(item, depth)).collect();
            Toml::Array(items?.into_iter().flatten().collect())
        }
        Json::Object(fields) => {
            let mut table = toml::Table::new();
            for (name, field) in fields {
                table.extend(toml(field, depth)?.map(|field| (name.clone(), field)));
            }
            Toml::Table(table)
        }
    }))
}

/// A map; where the text is no TOML, one with the reason as `Error`.
fn from_toml(_: &Calling<'_>, args: &[Value]) -> Answer {
    let read: Result<toml::Table, _> = toml::from_str(&text(args, 0)?);
    let json = match read {
        Ok(table) => json(Toml::Table(table)),
        Err(error) => Json::from_iter([("Error", error.to_string())]),
    };
    Ok(Value::from_json(&json))
}

fn json(toml: Toml) -> Json {
    match toml {
        Toml::String(text) => text.into(),
        Toml::Integer(whole) => whole.into(),
        Toml::Float(float) => float.into(),
        Toml::Boolean(truth) => truth.into(),
        Toml::Datetime(moment) => moment.to_string().into(),
        Toml::Array(items) => items.into_iter().map(json).collect(),
        Toml::Table(table) => {
            Json::Object(table.into_iter().map(|(name, value)| (name, json(value))).collect::<Fields<_, _>>())
        }
    }
}
