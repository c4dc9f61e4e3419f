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
            let there = identities(items, key);
            arrange(items, order, &there, key);
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
        (Some(Value::Array(old)), Value::Array(patch)) if merges => {
            let there = identities(old, merge_key);
            if merge_key.is_empty() {
                old.extend(patch.iter().filter(|item| !old.contains(item)).cloned().collect::<Vec<_>>());
            } else {
                keyed_list(old, patch, merge_key, def)?;
            }
            arrange(old, place.order.unwrap_or(patch), &there, merge_key);
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

/// What tells an item of a list from others: the value of the merge key or, without one, the item.
fn identity<'v>(item: &'v Value, key: &str) -> &'v Value {
    if key.is_empty() { item } else { &item[key] }
}

fn identities(items: &[Value], key: &str) -> Vec<Value> {
    items.iter().map(|item| identity(item, key).clone()).collect()
}

/// Puts items in the order asked for, which is that of the patch unless it says another. An item that is not named
/// keeps its place before those that were behind it; a new one so comes before all that are not named.
fn arrange(items: &mut Vec<Value>, order: &[Value], there: &[Value], key: &str) {
    let rank = |item: &Value| order.iter().position(|own| identity(own, key) == identity(item, key));
    let place = |item: &Value| there.iter().position(|own| own == identity(item, key));
    let (mut named, others): (Vec<Value>, Vec<Value>) =
        items.drain(..).partition(|item| rank(item).is_some());
    named.sort_by_key(rank);
    let (mut named, mut others) = (named.into_iter().peekable(), others.into_iter().peekable());
    while let (Some(other), Some(next)) = (others.peek(), named.peek()) {
        let keeps_place = place(other).zip(place(next)).is_some_and(|(own, next)| own < next);
        items.extend(if keeps_place { others.next() } else { named.next() });
    }
    items.extend(others.chain(named));
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
    fn containers_merge_by_name_and_new_ones_come_first() {
        let before = deployment(
            &json!([{"name": "a", "image": "a:1", "env": [{"name": "X", "value": "1"}]}, {"name": "b", "image": "b:1"}]),
        );
        let patch = deployment(
            &json!([{"name": "a", "image": "a:2", "env": [{"name": "Y", "value": "2"}]}, {"name": "c", "image": "c:1"}]),
        );
        let after = deployment(&json!([
            {"name": "a", "image": "a:2", "env": [{"name": "Y", "value": "2"}, {"name": "X", "value": "1"}]},
            {"name": "c", "image": "c:1"}, {"name": "b", "image": "b:1"}]));
        assert_eq!(patched(before, &patch), after);
    }

    #[test]
    fn what_is_not_named_keeps_its_place_before_what_was_behind_it() {
        let before = deployment(&json!([{"name": "a"}, {"name": "b"}, {"name": "c"}, {"name": "d"}]));
        let named = |names: &[&str]| names.iter().map(|name| json!({"name": name})).collect::<Vec<_>>();
        let after = |patch: &Value| {
            let after = patched(before.clone(), patch);
            let items = after["spec"]["template"]["spec"]["containers"].as_array().unwrap().clone();
            items.iter().map(|item| item["name"].as_str().unwrap().to_owned()).collect::<String>()
        };
        assert_eq!(after(&deployment(&json!(named(&["d", "b"])))), "acdb");
        assert_eq!(after(&deployment(&json!(named(&["b", "new"])))), "abnewcd");
        let order =
            json!({"$setElementOrder/containers": named(&["c", "new", "a"]), "containers": named(&["new"])});
        assert_eq!(after(&json!({"spec": {"template": {"spec": order}}})), "bcnewad");
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
        let after = json!({"metadata": {"labels": {"b": "2", "c": "3"}, "finalizers": ["z", "y"]}, "spec": {"replicas": 2}});
        assert_eq!(patched(before, &patch), after);
    }
}
