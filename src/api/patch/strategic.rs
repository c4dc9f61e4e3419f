//! Strategic merge patch: lists of objects are merged by the published merge keys, and directives
//! (`$patch`, `$retainKeys`, `$setElementOrder/…`, `$deleteFromPrimitiveList/…`) say what a plain
//! merge cannot.

use super::Error;
use crate::schema::{Field, Type, TypeDef, TypeId, schema};
use serde_json::{Map, Value};

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const ELEMENT_ORDER: &str = "$setElementOrder/";
const PRIMITIVE_DELETE: &str = "$deleteFromPrimitiveList/";

/// Applies a strategic merge patch to an object of this type.
pub fn strategic(object: &mut Value, patch: &Value, ty: TypeId) -> Result<(), Error> {
    let (Value::Object(object), Value::Object(patch)) = (object, patch) else {
        return Err(Error::Malformed(super::no_object(patch)));
    };
    maps(object, patch, Some(schema().get(ty)))
}

/// What a value of this type holds, where that is another type of the table.
fn inner(ty: &Type) -> Option<&'static TypeDef> {
    match ty {
        Type::Ref(id) => Some(schema().get(*id)),
        Type::List(item) | Type::Map(item) => inner(item),
        _ => None,
    }
}

fn maps(
    object: &mut Map<String, Value>,
    patch: &Map<String, Value>,
    def: Option<&TypeDef>,
) -> Result<(), Error> {
    match patch.get(PATCH).and_then(Value::as_str) {
        Some("replace") => {
            *object = without_directives(patch);
            return Ok(());
        }
        Some("delete") => {
            object.clear();
            return Ok(());
        }
        Some("merge") | None => {}
        Some(other) => return Err(Error::Malformed(format!("Unknown patch type found: {other}"))),
    }
    if let Some(keep) = patch.get(RETAIN_KEYS) {
        let keep =
            keep.as_array().ok_or_else(|| Error::Malformed("$retainKeys has to be a list".to_owned()))?;
        object.retain(|key, _| keep.iter().any(|one| one.as_str() == Some(key)));
    }
    for (key, value) in patch {
        if let Some(field) = key.strip_prefix(PRIMITIVE_DELETE) {
            delete_primitives(object, field, value);
        } else if !key.starts_with('$') {
            let order = patch.get(&format!("{ELEMENT_ORDER}{key}")).and_then(Value::as_array);
            entry(object, key, value, Place { field: def.and_then(|def| def.field(key)), order })?;
        }
    }
    // An order alone rearranges a list that is not changed otherwise.
    for (key, order) in patch {
        let Some(list) = key.strip_prefix(ELEMENT_ORDER) else { continue };
        let key = def.and_then(|def| def.field(list)).map_or("", |field| field.patch_key);
        if let (Some(Value::Array(items)), Some(order), false) =
            (object.get_mut(list), order.as_array(), patch.contains_key(list))
        {
            arrange(items, order, key);
        }
    }
    Ok(())
}

/// What is known of a patched field: its row of the schema, and the order asked for its items.
struct Place<'a> {
    field: Option<&'a Field>,
    order: Option<&'a Vec<Value>>,
}

fn entry(object: &mut Map<String, Value>, key: &str, value: &Value, place: Place<'_>) -> Result<(), Error> {
    let def = place.field.and_then(|field| inner(&field.ty));
    let merges = place.field.is_some_and(|field| field.patch_strategy.contains("merge"));
    let merge_key = place.field.map_or("", |field| field.patch_key);
    match (object.get_mut(key), value) {
        (_, Value::Null) => drop(object.remove(key)),
        (Some(Value::Object(old)), Value::Object(patch)) => {
            let of_map = place.field.is_some_and(|field| matches!(field.ty, Type::Map(_)));
            maps(old, patch, if of_map { None } else { def })?;
        }
        (Some(Value::Array(old)), Value::Array(patch)) if merges && !merge_key.is_empty() => {
            keyed_list(old, patch, merge_key, def)?;
            if let Some(order) = place.order {
                arrange(old, order, merge_key);
            }
        }
        (Some(Value::Array(old)), Value::Array(patch)) if merges => {
            old.extend(patch.iter().filter(|item| !old.contains(item)).cloned().collect::<Vec<_>>());
            if let Some(order) = place.order {
                arrange(old, order, "");
            }
        }
        (None, Value::Array(patch)) if merges && !merge_key.is_empty() => {
            let mut items = Vec::new();
            keyed_list(&mut items, patch, merge_key, def)?;
            object.insert(key.to_owned(), Value::Array(items));
        }
        (None, Value::Object(patch)) => {
            let mut fresh = Map::new();
            maps(&mut fresh, patch, def)?;
            if patch.get(PATCH).and_then(Value::as_str) != Some("delete") {
                object.insert(key.to_owned(), Value::Object(fresh));
            }
        }
        (_, value) => drop(object.insert(key.to_owned(), clean(value))),
    }
    Ok(())
}

fn keyed_list(
    items: &mut Vec<Value>,
    patch: &[Value],
    key: &str,
    def: Option<&TypeDef>,
) -> Result<(), Error> {
    if patch.iter().any(|change| change.get(PATCH).and_then(Value::as_str) == Some("replace")) {
        *items = patch.iter().filter(|change| change.get(PATCH).is_none()).map(clean).collect();
        return Ok(());
    }
    for change in patch {
        let Some(fields) = change.as_object() else {
            return Err(Error::Malformed(
                "an item of a list that merges by key has to be an object".to_owned(),
            ));
        };
        let Some(value) = fields.get(key) else {
            return Err(Error::Unfit(format!("map: {change} does not contain declared merge key: {key}")));
        };
        let place = items.iter().position(|item| item.get(key) == Some(value));
        if fields.get(PATCH).and_then(Value::as_str) == Some("delete") {
            items.retain(|item| item.get(key) != Some(value));
        } else if let Some(Value::Object(old)) = place.map(|place| &mut items[place]) {
            maps(old, fields, def)?;
        } else {
            let mut fresh = Map::new();
            maps(&mut fresh, fields, def)?;
            items.push(Value::Object(fresh));
        }
    }
    Ok(())
}

fn delete_primitives(object: &mut Map<String, Value>, field: &str, gone: &Value) {
    if let (Some(Value::Array(items)), Some(gone)) = (object.get_mut(field), gone.as_array()) {
        items.retain(|item| !gone.contains(item));
    }
}

/// Puts items in the order asked for; those that it does not name stay behind their neighbours.
fn arrange(items: &mut Vec<Value>, order: &[Value], key: &str) {
    let rank_of = |item: &Value| {
        let same =
            |wanted: &Value| if key.is_empty() { wanted == item } else { wanted.get(key) == item.get(key) };
        order.iter().position(same)
    };
    let mut last = 0;
    let ranked = items.drain(..).map(|item| {
        last = rank_of(&item).map_or(last, |rank| rank + 1);
        (last, item)
    });
    let mut ranked: Vec<(usize, Value)> = ranked.collect();
    ranked.sort_by_key(|(rank, _)| *rank);
    items.extend(ranked.into_iter().map(|(_, item)| item));
}

fn without_directives(patch: &Map<String, Value>) -> Map<String, Value> {
    patch
        .iter()
        .filter(|(key, _)| !key.starts_with('$'))
        .map(|(key, value)| (key.clone(), clean(value)))
        .collect()
}

/// A value as it is stored where there was none before: without directives and nulls.
fn clean(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let kept = without_directives(map).into_iter().filter(|(_, value)| !value.is_null());
            Value::Object(kept.collect())
        }
        Value::Array(items) => Value::Array(items.iter().map(clean).collect()),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::by_kind;
    use serde_json::json;

    fn patched(mut object: Value, patch: &Value) -> Value {
        let ty = schema().of(by_kind("apps/v1", "Deployment").unwrap()).unwrap();
        strategic(&mut object, patch, ty).unwrap();
        object
    }

    fn deployment(containers: &Value) -> Value {
        json!({"spec": {"template": {"spec": {"containers": containers}}}})
    }

    #[test]
    fn containers_merge_by_name_and_new_ones_are_added() {
        let before = deployment(
            &json!([{"name": "a", "image": "a:1", "env": [{"name": "X", "value": "1"}]}, {"name": "b", "image": "b:1"}]),
        );
        let patch = deployment(
            &json!([{"name": "a", "image": "a:2", "env": [{"name": "Y", "value": "2"}]}, {"name": "c", "image": "c:1"}]),
        );
        let after = deployment(&json!([
            {"name": "a", "image": "a:2", "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "2"}]},
            {"name": "b", "image": "b:1"}, {"name": "c", "image": "c:1"}]));
        assert_eq!(patched(before, &patch), after);
    }

    #[test]
    fn directives_delete_replace_and_order() {
        let before = deployment(&json!([{"name": "a"}, {"name": "b"}, {"name": "c"}]));
        let gone = deployment(&json!([{"name": "b", "$patch": "delete"}]));
        assert_eq!(patched(before.clone(), &gone), deployment(&json!([{"name": "a"}, {"name": "c"}])));
        let replaced = deployment(&json!([{"$patch": "replace"}, {"name": "z"}]));
        assert_eq!(patched(before.clone(), &replaced), deployment(&json!([{"name": "z"}])));
        let ordered = json!({"spec": {"template": {"spec": {"$setElementOrder/containers": [{"name": "c"}, {"name": "a"}, {"name": "b"}],
            "containers": [{"name": "a", "image": "x"}]}}}});
        assert_eq!(
            patched(before, &ordered),
            deployment(&json!([{"name": "c"}, {"name": "a", "image": "x"}, {"name": "b"}]))
        );
    }

    #[test]
    fn retained_keys_clear_the_other_strategy() {
        let before =
            json!({"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}});
        let patch = json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}});
        assert_eq!(patched(before, &patch), json!({"spec": {"strategy": {"type": "Recreate"}}}));
    }

    #[test]
    fn plain_maps_null_and_primitive_lists() {
        let before = json!({"metadata": {"labels": {"a": "1", "b": "2"}, "finalizers": ["x", "y"]}, "spec": {"replicas": 1}});
        let patch = json!({"metadata": {"labels": {"a": null, "c": "3"}, "finalizers": ["z"], "$deleteFromPrimitiveList/finalizers": ["x"]}, "spec": {"replicas": 2}});
        let after = json!({"metadata": {"labels": {"b": "2", "c": "3"}, "finalizers": ["y", "z"]}, "spec": {"replicas": 2}});
        assert_eq!(patched(before, &patch), after);
    }
}
