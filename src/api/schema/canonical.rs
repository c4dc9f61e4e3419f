//! The form in which a typed server writes an object: structs that cannot be absent are there, and
//! zero values that cannot be told from absent ones are not.

use super::{Field, Type, TypeId, schema};
use serde_json::{Map, Value};

/// Brings a value of a type into its canonical form.
pub fn canonical(value: &mut Value, ty: TypeId) {
    let def = schema().get(ty);
    let Value::Object(map) = value else { return };
    for field in &def.fields {
        match map.get_mut(field.name) {
            Some(value) => {
                nested(value, &field.ty);
                if !field.required && is_absent(value, field) {
                    map.remove(field.name);
                }
            }
            None => {
                if let Some(inner) = always_there(field) {
                    let mut fresh = Value::Object(Map::new());
                    canonical(&mut fresh, inner);
                    map.insert(field.name.to_owned(), fresh);
                } else if let Some(zero) = zero(field) {
                    map.insert(field.name.to_owned(), zero);
                }
            }
        }
    }
}

/// What a field of a type holds that nobody has written; `None` if it is then not there.
pub fn blank(ty: TypeId, name: &str) -> Option<Value> {
    let inner = always_there(schema().get(ty).fields.iter().find(|field| field.name == name)?)?;
    let mut fresh = Value::Object(Map::new());
    canonical(&mut fresh, inner);
    Some(fresh)
}

/// The value of a scalar that is always written.
fn zero(field: &Field) -> Option<Value> {
    match field.ty {
        _ if !field.has_zero() => None,
        Type::Int32 | Type::Int64 => Some(Value::from(0)),
        Type::Bool => Some(Value::from(false)),
        Type::String => Some(Value::from("")),
        Type::List(_) => Some(Value::Null),
        _ => None,
    }
}

fn nested(value: &mut Value, ty: &Type) {
    match (ty, value) {
        (Type::Ref(id), value) => canonical(value, *id),
        (Type::List(item), Value::Array(items)) => items.iter_mut().for_each(|value| nested(value, item)),
        (Type::Map(item), Value::Object(entries)) => {
            entries.values_mut().for_each(|value| nested(value, item))
        }
        _ => {}
    }
}

/// A zero value that would not be written.
fn is_absent(value: &Value, field: &Field) -> bool {
    match (&field.ty, value) {
        (Type::List(_), Value::Array(items)) => items.is_empty(),
        (Type::Map(_), Value::Object(entries)) => entries.is_empty(),
        (Type::String, Value::String(text)) => field.zero_is_absent && text.is_empty(),
        (Type::Bool, Value::Bool(false)) => field.zero_is_absent,
        (Type::Int32 | Type::Int64, value) => field.zero_is_absent && *value == 0,
        _ => false,
    }
}

/// The type of a struct that is part of its owner.
fn always_there(field: &Field) -> Option<TypeId> {
    let Type::Ref(id) = field.ty else { return None };
    let known = !schema().get(id).fields.is_empty() && !field.numbers.is_empty();
    (field.has_zero() && known).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::by_kind;
    use serde_json::json;

    #[test]
    fn structs_appear_and_zeros_vanish() {
        let ty = schema().of(by_kind("apps/v1", "Deployment").unwrap()).unwrap();
        let mut deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a", "labels": {}},
            "spec": {"paused": false, "replicas": 0, "template": {"spec": {"hostNetwork": false, "containers": []}}}});
        canonical(&mut deployment, ty);
        assert_eq!(
            deployment,
            json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a"}, "status": {},
                "spec": {"replicas": 0, "strategy": {}, "template": {"metadata": {}, "spec": {"containers": []}}}})
        );
    }
}
