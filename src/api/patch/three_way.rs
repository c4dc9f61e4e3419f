//! What `apply` and Helm send: a patch that makes the live object as the file says, and removes what an earlier
//! file said and this one does not. Fields that others set stay.
//!
//! Built-in kinds get a strategic merge patch by the published merge keys, all others a JSON merge patch.

use crate::schema::{Field, Type, TypeDef, TypeId, schema};
use serde_json::{Map, Value, json};

const ORDER: &str = "$setElementOrder/";
const DELETE_PRIMITIVES: &str = "$deleteFromPrimitiveList/";

type Fields = Map<String, Value>;

/// Which differences a comparison keeps.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Keep {
    /// What is new or changed.
    Additions,
    /// What is gone.
    Deletions,
}

/// A strategic merge patch from what was applied last (`original`), what is wanted (`modified`) and
/// what is there (`current`).
pub fn strategic(original: &Value, modified: &Value, current: &Value, ty: TypeId) -> Value {
    let def = Some(schema().get(ty));
    let (Some(original), Some(modified), Some(current)) =
        (original.as_object(), modified.as_object(), current.as_object())
    else {
        return json!({});
    };
    let mut patch = maps(original, modified, Shape { def, retain: false }, Keep::Deletions);
    let additions = maps(current, modified, Shape { def, retain: false }, Keep::Additions);
    combine(&mut patch, additions, def);
    Value::Object(patch)
}

/// A JSON merge patch from the same three.
pub fn merge(original: &Value, modified: &Value, current: &Value) -> Value {
    let (Some(original), Some(modified), Some(current)) =
        (original.as_object(), modified.as_object(), current.as_object())
    else {
        return json!({});
    };
    let mut patch = plain(original, modified, Keep::Deletions);
    combine(&mut patch, plain(current, modified, Keep::Additions), None);
    Value::Object(patch)
}

fn plain(from: &Fields, to: &Fields, keep: Keep) -> Fields {
    let mut patch = Fields::new();
    for (key, wanted) in to {
        match (from.get(key), wanted) {
            (Some(Value::Object(old)), Value::Object(new)) => {
                let inner = plain(old, new, keep);
                if !inner.is_empty() {
                    patch.insert(key.clone(), Value::Object(inner));
                }
            }
            (old, _) if keep == Keep::Additions && old != Some(wanted) => {
                patch.insert(key.clone(), wanted.clone());
            }
            _ => {}
        }
    }
    if keep == Keep::Deletions {
        patch.extend(missing(from, to));
    }
    patch
}

fn missing(from: &Fields, to: &Fields) -> Vec<(String, Value)> {
    from.keys().filter(|key| !to.contains_key(*key)).map(|key| (key.clone(), Value::Null)).collect()
}

/// What is known of an object: its type, and whether a change names all its fields (`retainKeys`).
#[derive(Clone, Copy)]
struct Shape {
    def: Option<&'static TypeDef>,
    retain: bool,
}

fn inner(ty: &Type) -> Option<&'static TypeDef> {
    match ty {
        Type::Ref(id) => Some(schema().get(*id)),
        Type::List(item) | Type::Map(item) => inner(item),
        _ => None,
    }
}

fn maps(from: &Fields, to: &Fields, shape: Shape, keep: Keep) -> Fields {
    let mut patch = Fields::new();
    for (key, wanted) in to {
        let field = shape.def.and_then(|def| def.field(key));
        match (from.get(key), wanted) {
            (Some(Value::Object(old)), Value::Object(new)) => {
                let changed = maps(old, new, shape_of(field), keep);
                if !changed.is_empty() {
                    patch.insert(key.clone(), Value::Object(changed));
                }
            }
            (Some(Value::Array(old)), Value::Array(new)) if merges(field) => {
                lists(&mut patch, key, (old, new), field, keep);
            }
            (old, _) if keep == Keep::Additions && old != Some(wanted) => {
                patch.insert(key.clone(), wanted.clone());
            }
            _ => {}
        }
    }
    let gone = missing(from, to);
    let lost = !gone.is_empty();
    if keep == Keep::Deletions {
        patch.extend(gone);
    }
    if shape.retain && (lost || !patch.is_empty()) {
        patch.insert("$retainKeys".to_owned(), to.keys().cloned().collect());
    }
    patch
}

fn shape_of(field: Option<&Field>) -> Shape {
    let Some(field) = field else { return Shape { def: None, retain: false } };
    // A map's values have no type of their own here, as its keys are no fields.
    let def = if matches!(field.ty, Type::Map(_)) { None } else { inner(&field.ty) };
    Shape { def, retain: field.patch_strategy.contains("retainKeys") }
}

fn merges(field: Option<&Field>) -> bool {
    field.is_some_and(|field| field.patch_strategy.contains("merge"))
}

fn lists(patch: &mut Fields, key: &str, (from, to): (&[Value], &[Value]), field: Option<&Field>, keep: Keep) {
    let merge_key = field.map_or("", |field| field.patch_key);
    if from.is_empty() {
        if keep == Keep::Additions && !to.is_empty() {
            patch.insert(key.to_owned(), json!(to));
        }
    } else if merge_key.is_empty() {
        primitives(patch, key, (from, to), keep);
    } else {
        keyed(patch, key, (from, to), (merge_key, shape_of(field)), keep);
    }
}

fn primitives(patch: &mut Fields, key: &str, (from, to): (&[Value], &[Value]), keep: Keep) {
    let without = |all: &[Value], known: &[Value]| -> Vec<Value> {
        all.iter().filter(|item| !known.contains(item)).cloned().collect()
    };
    let (added, gone) = (without(to, from), without(from, to));
    let mut ordered = false;
    if keep == Keep::Additions {
        ordered = from != to;
        if !added.is_empty() {
            patch.insert(key.to_owned(), json!(added));
        }
    } else if !gone.is_empty() {
        ordered = true;
        patch.insert(format!("{DELETE_PRIMITIVES}{key}"), json!(gone));
    }
    if ordered && !to.is_empty() {
        patch.insert(format!("{ORDER}{key}"), json!(to));
    }
}

fn keyed(
    patch: &mut Fields,
    key: &str,
    (from, to): (&[Value], &[Value]),
    (merge_key, shape): (&str, Shape),
    keep: Keep,
) {
    let find =
        |items: &'_ [Value], item: &Value| items.iter().position(|other| other[merge_key] == item[merge_key]);
    let mut changes: Vec<Value> = Vec::new();
    for item in to {
        let Some(new) = item.as_object() else { continue };
        match find(from, item).and_then(|place| from[place].as_object()) {
            Some(old) => {
                let mut changed = maps(old, new, shape, keep);
                if !changed.is_empty() {
                    changed.insert(merge_key.to_owned(), item[merge_key].clone());
                    changes.push(Value::Object(changed));
                }
            }
            None if keep == Keep::Additions => changes.push(item.clone()),
            None => {}
        }
    }
    if keep == Keep::Deletions {
        let gone = from.iter().filter(|item| find(to, item).is_none());
        changes.extend(gone.map(|item| json!({merge_key: item[merge_key], "$patch": "delete"})));
    }
    let same_order =
        from.len() == to.len() && from.iter().zip(to).all(|(old, new)| old[merge_key] == new[merge_key]);
    if !changes.is_empty() || (keep == Keep::Additions && !same_order) {
        let order: Vec<Value> = to.iter().map(|item| json!({merge_key: item[merge_key]})).collect();
        patch.insert(format!("{ORDER}{key}"), json!(order));
    }
    if !changes.is_empty() {
        patch.insert(key.to_owned(), json!(changes));
    }
}

/// Lays the additions over the deletions; items of keyed lists are brought together.
fn combine(patch: &mut Fields, over: Fields, def: Option<&'static TypeDef>) {
    for (key, value) in over {
        let field = def.and_then(|def| def.field(&key));
        match (patch.get_mut(&key), value) {
            (Some(Value::Object(old)), Value::Object(new)) => combine(old, new, shape_of(field).def),
            (Some(Value::Array(old)), Value::Array(new)) if merges(field) => {
                let merge_key = field.map_or("", |field| field.patch_key);
                for item in new {
                    let same =
                        |other: &&mut Value| !merge_key.is_empty() && other[merge_key] == item[merge_key];
                    match (old.iter_mut().find(same), item) {
                        (Some(Value::Object(old)), Value::Object(new)) => {
                            combine(old, new, shape_of(field).def)
                        }
                        (_, item) => old.push(item),
                    }
                }
            }
            (_, value) => drop(patch.insert(key, value)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deployment() -> TypeId {
        schema().of(crate::kinds::by_kind("apps/v1", "Deployment").unwrap()).unwrap()
    }

    fn pods(containers: &Value) -> Value {
        json!({"spec": {"template": {"spec": {"containers": containers}}}})
    }

    fn applied(original: &Value, modified: &Value, current: &Value) -> Value {
        let patch = strategic(original, modified, current, deployment());
        let mut after = current.clone();
        crate::patch::strategic(&mut after, &patch, deployment()).unwrap();
        after
    }

    #[test]
    fn nothing_to_do_is_an_empty_patch() {
        let said = pods(&json!([{"name": "a", "image": "x:1"}]));
        let mut live = pods(&json!([{"name": "a", "image": "x:1", "imagePullPolicy": "Always"}]));
        live["spec"]["replicas"] = json!(3);
        assert_eq!(strategic(&said, &said, &live, deployment()), json!({}));
    }

    #[test]
    fn what_others_set_stays_and_what_was_said_before_goes() {
        let original = json!({"metadata": {"labels": {"old": "1", "app": "x"}}, "spec": {"paused": true}});
        let modified = json!({"metadata": {"labels": {"app": "y"}}, "spec": {"replicas": 2}});
        let current = json!({"metadata": {"labels": {"old": "1", "app": "x", "theirs": "1"}}, "spec": {"paused": true, "revisionHistoryLimit": 10}});
        assert_eq!(
            applied(&original, &modified, &current),
            json!({"metadata": {"labels": {"app": "y", "theirs": "1"}}, "spec": {"replicas": 2, "revisionHistoryLimit": 10}})
        );
    }

    #[test]
    fn containers_come_go_and_change_by_name() {
        let original = pods(&json!([{"name": "a", "image": "a:1"}, {"name": "b", "image": "b:1"}]));
        let modified = pods(&json!([{"name": "c", "image": "c:1"}, {"name": "a", "image": "a:2"}]));
        let current = pods(&json!([
            {"name": "a", "image": "a:1", "imagePullPolicy": "Always"}, {"name": "b", "image": "b:1"}, {"name": "sidecar", "image": "s"}]));
        let patch = strategic(&original, &modified, &current, deployment());
        assert_eq!(
            patch,
            json!({"spec": {"template": {"spec": {
                "$setElementOrder/containers": [{"name": "c"}, {"name": "a"}],
                "containers": [{"name": "b", "$patch": "delete"}, {"name": "c", "image": "c:1"}, {"name": "a", "image": "a:2"}]}}}})
        );
        let after = applied(&original, &modified, &current);
        let names: Vec<&str> = after["spec"]["template"]["spec"]["containers"]
            .as_array()
            .unwrap()
            .iter()
            .map(|container| container["name"].as_str().unwrap())
            .collect();
        assert!(names.contains(&"sidecar") && names.contains(&"c") && !names.contains(&"b"));
    }

    #[test]
    fn another_strategy_clears_the_first() {
        let original = json!({"spec": {"strategy": {"type": "RollingUpdate"}}});
        let modified = json!({"spec": {"strategy": {"type": "Recreate"}}});
        let current =
            json!({"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%"}}}});
        assert_eq!(applied(&original, &modified, &current), modified);
    }

    #[test]
    fn custom_resources_are_merged_plainly() {
        let original = json!({"spec": {"a": 1, "list": [1]}});
        let modified = json!({"spec": {"list": [2]}});
        let current = json!({"spec": {"a": 1, "list": [1], "b": 2}});
        assert_eq!(merge(&original, &modified, &current), json!({"spec": {"a": null, "list": [2]}}));
    }
}
