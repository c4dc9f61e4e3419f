//! Whose fields are whose (`metadata.managedFields`): how fields of client-side applies come to belong to a
//! server-side one.

use crate::writing::LAST_APPLIED;
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

/// A JSON patch that hands fields over.
#[derive(Debug)]
pub(super) struct Upgrade(pub(super) Value);

fn is(entry: &Value, manager: &str, operation: &str) -> bool {
    entry["manager"] == manager
        && entry["operation"] == operation
        && entry["subresource"].as_str().is_none_or(str::is_empty)
}

/// The managers that have the annotation of what was applied, by this operation.
pub(super) fn owners(object: &Value, operation: &str) -> BTreeSet<String> {
    let entries = object["metadata"]["managedFields"].as_array().into_iter().flatten();
    let key = format!("f:{LAST_APPLIED}");
    entries
        .filter(|entry| {
            entry["operation"] == operation
                && !entry["fieldsV1"]["f:metadata"]["f:annotations"][&key].is_null()
        })
        .filter_map(|entry| entry["manager"].as_str().map(str::to_owned))
        .collect()
}

/// Hands over what managers named `former` have by updates; none if there is nothing.
pub(super) fn upgrade(object: &Value, former: &BTreeSet<String>, manager: &str) -> Option<Upgrade> {
    let entries = object["metadata"]["managedFields"].as_array()?;
    let mut upgraded = entries.clone();
    former.iter().for_each(|former| one(&mut upgraded, former, manager));
    if upgraded == *entries {
        return None;
    }
    Some(Upgrade(json!([
        {"op": "replace", "path": "/metadata/managedFields", "value": upgraded},
        {"op": "replace", "path": "/metadata/resourceVersion", "value": object["metadata"]["resourceVersion"]},
    ])))
}

fn one(entries: &mut Vec<Value>, former: &str, manager: &str) {
    let known = entries.iter().position(|entry| is(entry, manager, "Apply"));
    // The latest stands first: it becomes the applier's, if there is none.
    let Some(place) = known.or_else(|| entries.iter().position(|entry| is(entry, former, "Update"))) else {
        return;
    };
    entries[place]["manager"] = json!(manager);
    entries[place]["operation"] = json!("Apply");
    let version = entries[place]["apiVersion"].clone();
    let others = entries.iter().find(|entry| is(entry, former, "Update") && entry["apiVersion"] == version);
    let others = others.map(|entry| entry["fieldsV1"].clone()).unwrap_or_default();
    let fields = &mut entries[place]["fieldsV1"];
    unite(fields, &others);
    without_annotation(fields);
    entries.retain(|entry| !is(entry, former, "Update"));
}

/// Adds fields to fields.
fn unite(fields: &mut Value, others: &Value) {
    let Some(others) = others.as_object() else { return };
    if !fields.is_object() {
        *fields = json!({});
    }
    let Some(fields) = fields.as_object_mut() else { return };
    for (key, value) in others {
        unite(fields.entry(key.clone()).or_insert_with(|| json!({})), value);
    }
}

/// The annotation of what was applied is no field of an applier; what only held it goes with it.
fn without_annotation(fields: &mut Value) {
    let empty = |value: &Value| value.as_object().is_some_and(Map::is_empty);
    let Some(metadata) = fields.get_mut("f:metadata") else { return };
    let Some(annotations) = metadata.get_mut("f:annotations").and_then(Value::as_object_mut) else { return };
    if annotations.remove(&format!("f:{LAST_APPLIED}")).is_none() {
        return;
    }
    if annotations.is_empty() {
        metadata.as_object_mut().map(|metadata| metadata.remove("f:annotations"));
    }
    if empty(&fields["f:metadata"]) {
        fields.as_object_mut().map(|fields| fields.remove("f:metadata"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(manager: &str, operation: &str, fields: Value) -> Value {
        json!({"manager": manager, "operation": operation, "apiVersion": "v1", "fieldsV1": fields})
    }

    fn annotated(more: &str) -> Value {
        json!({"f:metadata": {"f:annotations": {format!("f:{LAST_APPLIED}"): {}}}, "f:data": {more: {}}})
    }

    #[test]
    fn a_clients_fields_become_the_servers() {
        let object = json!({"metadata": {"resourceVersion": "7", "managedFields": [
            entry("kubectl", "Apply", json!({"f:data": {"f:a": {}}})),
            entry("kubectl-client-side-apply", "Update", annotated("f:b")),
            entry("other", "Update", json!({"f:data": {"f:c": {}}})),
        ]}});
        let names = owners(&object, "Update");
        assert_eq!(names.iter().collect::<Vec<_>>(), ["kubectl-client-side-apply"]);
        assert!(owners(&object, "Apply").is_empty());
        let Upgrade(patch) = upgrade(&object, &names, "kubectl").unwrap();
        assert_eq!(
            patch[0]["value"],
            json!([
                entry("kubectl", "Apply", json!({"f:data": {"f:a": {}, "f:b": {}}})),
                entry("other", "Update", json!({"f:data": {"f:c": {}}})),
            ])
        );
        assert_eq!(patch[1]["value"], "7");
        assert!(upgrade(&object, &BTreeSet::new(), "kubectl").is_none());
    }

    #[test]
    fn without_an_applier_the_client_becomes_one() {
        let object = json!({"metadata": {"managedFields": [entry("c", "Update", annotated("f:b"))]}});
        let Upgrade(patch) = upgrade(&object, &owners(&object, "Update"), "kubectl").unwrap();
        assert_eq!(patch[0]["value"], json!([entry("kubectl", "Apply", json!({"f:data": {"f:b": {}}}))]));
    }
}
