//! Strategic merge as kustomize does it, which is not as the server does: what a patch adds to a list comes
//! before what is there, and of directives only `$patch` means something. Unlike there, a label that a patch
//! with a target says is null goes, and does not become the text `null`.

use crate::error::{Error, Result};
use crate::resource::text_of;
use crate::schema::{Schemas, Shape};
use serde_json::{Map, Value};

const DIRECTIVE: &str = "$patch";

/// The object as the patch has it; nothing if the patch deletes it.
pub(crate) fn strategic(object: Value, patch: &Value, schemas: &Schemas) -> Result<Option<Value>> {
    let text =
        |field: &str| object.get(field).or(patch.get(field)).and_then(Value::as_str).unwrap_or_default();
    let shape = schemas.of(text("apiVersion"), text("kind"));
    merged(object, patch, shape)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Directive {
    Merge,
    Replace,
    Delete,
}

impl Directive {
    fn read(value: &Value) -> Result<Self> {
        match text_of(value).as_str() {
            "merge" => Ok(Self::Merge),
            "replace" => Ok(Self::Replace),
            "delete" => Ok(Self::Delete),
            other => Err(Error::new(format!("unknown patch strategy '{other}'"))),
        }
    }

    fn of_map(patch: &Map<String, Value>) -> Result<Self> {
        patch.get(DIRECTIVE).map_or(Ok(Self::Merge), Self::read)
    }

    /// Of a list: the first of its items that has one, if it has little else.
    fn of_list(patch: &[Value]) -> Result<Self> {
        match patch.iter().find(|item| item.get(DIRECTIVE).is_some()) {
            Some(Value::Object(item)) if item.len() == 1 => Self::of_map(item),
            _ => Ok(Self::Merge),
        }
    }
}

/// One value with its patch. Nothing comes out where the patch takes it away.
fn merged(value: Value, patch: &Value, shape: Shape<'_>) -> Result<Option<Value>> {
    match (value, patch) {
        (_, Value::Null) => Ok(None),
        (Value::Null, patch) => added(patch, shape),
        (Value::Object(fields), Value::Object(patch)) => match Directive::of_map(patch)? {
            Directive::Delete => Ok(None),
            Directive::Replace => added(&Value::Object(patch.clone()), shape),
            Directive::Merge => maps(fields, patch, shape).map(|fields| Some(Value::Object(fields))),
        },
        (Value::Array(items), Value::Array(patch)) => {
            let Some(keys) = shape.keys() else { return Ok(Some(Value::Array(patch.clone()))) };
            match Directive::of_list(patch)? {
                Directive::Delete => Ok(None),
                Directive::Replace => added(&Value::Array(patch.clone()), shape),
                Directive::Merge => lists(items, patch, &keys, shape).map(|items| Some(Value::Array(items))),
            }
        }
        (value @ (Value::Object(_) | Value::Array(_)), patch) => Err(misfit(&value, patch)),
        (value, Value::Object(_) | Value::Array(_)) => Err(misfit(&value, patch)),
        (_, patch) => Ok(Some(patch.clone())),
    }
}

fn misfit(value: &Value, patch: &Value) -> Error {
    let kind = |value: &Value| match value {
        Value::Object(_) => "MappingNode",
        Value::Array(_) => "SequenceNode",
        _ => "ScalarNode",
    };
    Error::new(format!(
        "wrong node kind: expected {} but got {}: node contents:\n{}",
        kind(value),
        kind(patch),
        api::yaml::render(patch).trim_end()
    ))
}

fn maps(
    mut fields: Map<String, Value>,
    patch: &Map<String, Value>,
    shape: Shape<'_>,
) -> Result<Map<String, Value>> {
    for (name, patch) in patch.iter().filter(|(name, _)| *name != DIRECTIVE) {
        let own = fields.remove(name).unwrap_or(Value::Null);
        if let Some(value) = merged(own, patch, shape.field(name))? {
            fields.insert(name.clone(), value);
        }
    }
    Ok(fields)
}

/// What a patch brings where nothing is: without directives, and without nulls but in lists that are replaced.
fn added(patch: &Value, shape: Shape<'_>) -> Result<Option<Value>> {
    match patch {
        Value::Null => Ok(None),
        Value::Object(patch) => {
            if Directive::of_map(patch)? == Directive::Delete {
                return Ok(None);
            }
            maps(Map::new(), patch, shape).map(|fields| Some(Value::Object(fields)))
        }
        Value::Array(patch) => {
            let Some(_) = shape.keys() else { return Ok(Some(Value::Array(patch.clone()))) };
            let items = patch.iter().map(|item| added(item, shape.items()));
            let items: Vec<Option<Value>> = items.collect::<Result<_>>()?;
            let is_left = |item: &Value| item.as_object().is_none_or(|fields| !fields.is_empty());
            Ok(Some(items.into_iter().flatten().filter(is_left).collect()))
        }
        other => Ok(Some(other.clone())),
    }
}

/// The values of an item's keys, empty where it has none.
fn key_of(item: &Value, keys: &[&str]) -> Vec<String> {
    keys.iter().map(|key| item.get(key).map(text_of).unwrap_or_default()).collect()
}

/// Two items may be the same: they have a key in common and none that differ.
fn is_alike(one: &[String], other: &[String]) -> bool {
    let pairs = || one.iter().zip(other);
    pairs().any(|(one, other)| one == other && !one.is_empty())
        && pairs().all(|(one, other)| one == other || one.is_empty() || other.is_empty())
}

fn lists(items: Vec<Value>, patch: &[Value], keys: &[&str], shape: Shape<'_>) -> Result<Vec<Value>> {
    if keys.is_empty() {
        let others = items.into_iter().filter(|item| !patch.contains(item));
        return Ok(patch.iter().cloned().chain(others).collect());
    }
    // Keys that no item has tell nothing apart.
    let is_used = |key: &&&str| items.iter().chain(patch).any(|item| !key_of(item, &[**key])[0].is_empty());
    let keys: Vec<&str> = keys.iter().filter(is_used).copied().collect();
    let mut own: Vec<Option<Value>> = items.into_iter().map(Some).collect();
    let mut before = Vec::new();
    for item in patch {
        let key = key_of(item, &keys);
        let like = |same: fn(&[String], &[String]) -> bool| {
            own.iter().position(|own| own.as_ref().is_some_and(|own| same(&key_of(own, &keys), &key)))
        };
        let place = like(|one, other| one == other).filter(|_| key.iter().any(|key| !key.is_empty()));
        let Some(place) = place else {
            // An item that may or may not be one that is there is passed over, and so is one without a key:
            // kustomize loses them.
            if like(is_alike).is_none() && key.iter().any(|key| !key.is_empty()) {
                before
                    .extend(added(item, shape.items())?.filter(|item| item.as_object() != Some(&Map::new())));
            }
            continue;
        };
        let old = own[place].take().unwrap_or_default();
        let directive = item.as_object().map_or(Ok(Directive::Merge), Directive::of_map)?;
        // An item that is to be replaced stays as it is: so it is in kustomize.
        let new = match directive {
            Directive::Replace => Some(old),
            _ => merged(old, item, shape.items())?,
        };
        // By one key, patched items come first; by several, they stay where they are.
        if keys.len() == 1 { before.extend(new) } else { own[place] = new }
    }
    Ok(before.into_iter().chain(own.into_iter().flatten()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn patched(kind: &str, object: Value, patch: Value) -> Option<Value> {
        let (mut object, patch) = (object, patch);
        object["kind"] = json!(kind);
        object["apiVersion"] = json!(if kind == "Pod" { "v1" } else { "example.com/v1" });
        let mut merged = strategic(object, &patch, &Schemas::default()).unwrap()?;
        for field in ["kind", "apiVersion"] {
            merged.as_object_mut().unwrap().remove(field);
        }
        Some(merged)
    }

    #[test]
    fn items_of_patches_come_first() {
        let pod = json!({"spec": {"containers": [{"name": "a", "image": "x"}, {"name": "b"}]}});
        let patch = json!({"spec": {"containers": [{"name": "c"}, {"name": "b", "image": "y"}]}});
        let wanted = json!([{"name": "c"}, {"name": "b", "image": "y"}, {"name": "a", "image": "x"}]);
        assert_eq!(patched("Pod", pod.clone(), patch.clone()).unwrap()["spec"]["containers"], wanted);
        // Of other kinds nothing is known: lists are replaced.
        assert_eq!(patched("Other", pod, patch.clone()).unwrap()["spec"], patch["spec"]);
    }

    #[test]
    fn directives_delete_and_replace() {
        let pod = json!({"spec": {"a": {"x": 1}, "b": 1, "containers": [{"name": "a"}, {"name": "b"}]}});
        let patch = json!({"spec": {"a": {"$patch": "replace", "y": null, "z": 2}, "b": null,
            "containers": [{"name": "a", "$patch": "delete"}]}});
        let wanted = json!({"spec": {"a": {"z": 2}, "containers": [{"name": "b"}]}});
        assert_eq!(patched("Pod", pod.clone(), patch), Some(wanted));
        assert_eq!(patched("Pod", pod.clone(), json!({"$patch": "delete"})), None);
        let patch = json!({"spec": {"containers": [{"name": "n"}, {"$patch": "replace"}]}});
        assert_eq!(patched("Pod", pod, patch).unwrap()["spec"]["containers"], json!([{"name": "n"}]));
    }
}
