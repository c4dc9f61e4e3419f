//! Objects that expressions of mutating policies make: `JSONPatch{…}` and `Object{…}`.

use super::{Row, text};
use crate::operators::equal;
use crate::time::format_duration;
use crate::types::Type;
use crate::value::{Error, Fault, List, Map, Value, fail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map as JsonObject, Value as Json};
use std::collections::BTreeMap;
use std::sync::Arc;

pub(super) const ROWS: &[Row] = &[(
    "jsonpatch.escapeKey",
    "string_jsonpatch_escapeKey_string",
    "(string) -> string",
    Some(|of| Ok(Value::text(text(of, 0)?.replace('~', "~0").replace('/', "~1")))),
)];

/// An object made by an expression.
#[derive(Clone, Debug)]
pub struct Made<'a> {
    pub(crate) name: Arc<str>,
    pub(crate) fields: BTreeMap<Arc<str>, Value<'a>>,
}

impl Made<'_> {
    pub(super) fn equals(&self, other: &Self) -> bool {
        self.name == other.name
            && self.fields.len() == other.fields.len()
            && self
                .fields
                .iter()
                .zip(&other.fields)
                .all(|(one, other)| one.0 == other.0 && equal(one.1, other.1))
    }
}

/// Whether objects of that name can be made.
pub(crate) fn is_made(name: &str) -> bool {
    name == "JSONPatch" || name == "Object" || name.starts_with("Object.")
}

/// The type of a field of such an object.
pub(crate) fn field_type(name: &str, field: &str) -> Option<Type> {
    match (name, field) {
        ("JSONPatch", "op" | "path" | "from") => Some(Type::String),
        ("JSONPatch", "value") => Some(Type::Dyn),
        ("JSONPatch", _) => None,
        _ => Some(Type::Dyn),
    }
}

/// Checks what only running shows: fields of `Object` that are objects are of the type of their path.
pub(crate) fn check_field(name: &str, field: &str, value: &Value<'_>) -> Result<(), Fault> {
    match value {
        Value::Opaque(opaque) => match &**opaque {
            super::Opaque::Object(made) if name != "JSONPatch" && *made.name != format!("{name}.{field}") => {
                fail(format!(
                    "unexpected type name {:?}, expected \"{name}.{field}\", which matches field name path from root Object type",
                    &*made.name
                ))
            }
            _ => Ok(()),
        },
        _ => Ok(()),
    }
}

impl Value<'_> {
    /// The value as JSON, such as a patch needs it.
    pub fn to_json(&self) -> Result<Json, Error> {
        json(self).map_err(|fault| *fault)
    }
}

fn json(value: &Value<'_>) -> Result<Json, Fault> {
    Ok(match value {
        Value::Null | Value::Optional(None) => Json::Null,
        Value::Bool(value) => Json::from(*value),
        Value::Int(value) => Json::from(*value),
        Value::Uint(value) => Json::from(*value),
        Value::Double(value) => Json::from(*value),
        Value::String(text) => Json::from(text.as_str()),
        Value::Bytes(bytes) => Json::from(STANDARD.encode(bytes)),
        Value::Duration(nanos) => Json::from(format_duration(*nanos)),
        Value::Timestamp(moment) => Json::from(moment.format()),
        Value::Optional(Some(inner)) => return json(inner),
        Value::List(List::Json(items, _)) => Json::Array(items.to_vec()),
        Value::List(list) => Json::Array(list.iter().map(|item| json(&item?)).collect::<Result<_, _>>()?),
        Value::Map(Map::Json(fields, _)) => Json::Object((*fields).clone()),
        Value::Map(map) => {
            let entry = |(key, value): (crate::value::Key<'_>, Result<Value<'_>, Fault>)| {
                Ok::<_, Fault>((super::template::shown(&key.value()), json(&value?)?))
            };
            Json::Object(map.entries().map(entry).collect::<Result<JsonObject<_, _>, _>>()?)
        }
        Value::Opaque(opaque) => match &**opaque {
            super::Opaque::Object(made) => Json::Object(
                made.fields
                    .iter()
                    .map(|(name, value)| Ok::<_, Fault>((unescaped(name), json(value)?)))
                    .collect::<Result<_, _>>()?,
            ),
            other => return fail(format!("cannot convert {} to JSON", other.type_of())),
        },
        other => return fail(format!("cannot convert {} to JSON", other.type_of())),
    })
}

fn unescaped(identifier: &str) -> String {
    crate::escaping::unescape(identifier).unwrap_or_else(|| identifier.to_owned())
}
