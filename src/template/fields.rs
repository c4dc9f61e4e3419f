//! What `.name` is of a value.

use crate::exec::MissingKey;
use crate::{Value, quote};

/// A field, a method's answer, or a key's value. `chained` says that the value is itself a field's.
pub(crate) fn get(
    (value, chained): (&Value, bool),
    name: &str,
    args: &[Value],
    missing: MissingKey,
) -> Result<Value, String> {
    let kind = if chained { "interface {}" } else { value.type_name() };
    match value {
        Value::Missing if missing == MissingKey::Error => {
            Err(format!("nil data; no entry for key {}", quote(name)))
        }
        Value::Missing => Ok(Value::Missing),
        Value::Nil => Err(format!("nil pointer evaluating {kind}.{name}")),
        Value::Map(map) => match map.get(name) {
            _ if !args.is_empty() => Err(format!("{name} is not a method but has arguments")),
            Some(value) => Ok(value),
            None => match missing {
                MissingKey::Invalid => Ok(Value::Missing),
                MissingKey::Zero => Ok(Value::Nil),
                MissingKey::Error => Err(format!("map has no entry for key {}", quote(name))),
            },
        },
        Value::Object(object) => object
            .get(name, args)
            .unwrap_or_else(|| Err(format!("can't evaluate field {name} in type {}", object.type_name()))),
        _ => Err(format!("can't evaluate field {name} in type {kind}")),
    }
}
