//! The three patches of the API: JSON patch, JSON merge patch and strategic merge patch.

mod strategic;
pub mod three_way;

pub use strategic::strategic;

use crate::validate::{go_kind, go_syntax};
use json_patch::PatchOperation;
use serde_json::Value;

/// The most operations one JSON patch may have (Kubernetes' limit).
const OPERATIONS: usize = 10_000;

/// A patch that cannot be applied.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is no patch. To be answered with 400.
    #[error("{0}")]
    Malformed(String),
    /// It does not fit the object. To be answered with 422.
    #[error("{0}")]
    Unfit(String),
    /// It has more operations than allowed. To be answered with 413.
    #[error("The allowed maximum operations in a JSON patch is {OPERATIONS}, got {0}")]
    TooLarge(usize),
}

/// What a step of a JSON patch may do.
const STEPS: [&str; 6] = ["add", "copy", "move", "remove", "replace", "test"];

#[derive(serde::Deserialize)]
struct Step<'a> {
    #[serde(borrow, default)]
    op: std::borrow::Cow<'a, str>,
}

/// Applies a JSON patch (RFC 6902). One that does not fit leaves the object somewhere between.
pub fn json(object: &mut Value, patch: &[u8]) -> Result<(), Error> {
    let malformed = |error: serde_json::Error| {
        let why = match serde_json::from_slice(patch) {
            Ok(other @ (Value::Object(_) | Value::String(_) | Value::Number(_) | Value::Bool(_))) => {
                format!(
                    "json: cannot unmarshal {} into Go value of type []handlers.jsonPatchOp",
                    go_kind(&other)
                )
            }
            _ => go_syntax(patch, &error),
        };
        Error::Malformed(format!("error decoding patch: {why}"))
    };
    let steps: Vec<Step> = serde_json::from_slice(patch).map_err(malformed)?;
    if let Some(step) = steps.iter().find(|step| !STEPS.contains(&step.op.as_ref())) {
        let kind = if step.op.is_empty() { "unknown" } else { step.op.as_ref() };
        return Err(Error::Unfit(format!("Unexpected kind: {kind}")));
    }
    let patch: json_patch::Patch = serde_json::from_slice(patch).map_err(malformed)?;
    if patch.0.len() > OPERATIONS {
        return Err(Error::TooLarge(patch.0.len()));
    }
    for step in &patch.0 {
        if !expects_nothing(object, step) {
            json_patch::patch(object, std::slice::from_ref(step))
                .map_err(|error| Error::Unfit(unfit(object, step, &error)))?;
        }
    }
    Ok(())
}

/// A test for null where nothing is: to Go's library these are the same, and clients build on it.
fn expects_nothing(object: &Value, step: &PatchOperation) -> bool {
    let PatchOperation::Test(test) = step else { return false };
    let path = test.path.as_str();
    let (parent, _) = path.rsplit_once('/').unwrap_or(("", path));
    test.value.is_null()
        && object.pointer(path).is_none()
        && object.pointer(parent).is_some_and(Value::is_object)
}

/// Why a step failed, in the words of Go's library.
fn unfit(object: &Value, step: &PatchOperation, error: &json_patch::PatchError) -> String {
    let path = error.path.as_str();
    let (parent, last) = path.rsplit_once('/').unwrap_or(("", path));
    let is_there = object.pointer(parent).is_some();
    match step {
        PatchOperation::Test(_) => format!("testing value {path} failed: test failed"),
        PatchOperation::Remove(_) if is_there => format!(
            "error in remove for path: '{path}': Unable to remove nonexistent key: {last}: missing value"
        ),
        PatchOperation::Remove(_) => {
            format!("remove operation does not apply: doc is missing path: {path:?}: missing value")
        }
        PatchOperation::Replace(_) => {
            let what = if is_there { "key" } else { "path" };
            format!("replace operation does not apply: doc is missing {what}: {path}: missing value")
        }
        PatchOperation::Add(_) if !is_there => {
            format!("add operation does not apply: doc is missing path: {path:?}: missing value")
        }
        _ => error.to_string(),
    }
}

/// What Go says of a patch that is no object.
fn no_object(patch: &Value) -> String {
    format!("json: cannot unmarshal {} into Go value of type map[string]interface {{}}", go_kind(patch))
}

/// Applies a JSON merge patch (RFC 7386). Of what takes the place of anything but an object, nulls go from
/// objects in lists too, as Kubernetes has it.
pub fn merge(object: &mut Value, patch: &Value) -> Result<(), Error> {
    if !patch.is_object() {
        return Err(Error::Malformed(format!("error decoding patch: {}", no_object(patch))));
    }
    merge_value(object, patch);
    Ok(())
}

fn merge_value(value: &mut Value, patch: &Value) {
    match (value, patch) {
        (Value::Object(fields), Value::Object(patch)) => {
            for (name, patch) in patch {
                match fields.get_mut(name) {
                    _ if patch.is_null() => drop(fields.remove(name)),
                    Some(value) => merge_value(value, patch),
                    None => drop(fields.insert(name.clone(), without_nulls(patch.clone()))),
                }
            }
        }
        (value @ Value::Object(_), patch) => *value = patch.clone(),
        (value, patch) => *value = without_nulls(patch.clone()),
    }
}

/// A value without the fields that are null; items of lists stay.
pub fn without_nulls(mut value: Value) -> Value {
    match &mut value {
        Value::Object(fields) => {
            fields.retain(|_, value| !value.is_null());
            fields.values_mut().for_each(|value| *value = without_nulls(value.take()));
        }
        Value::Array(items) => items.iter_mut().for_each(|item| *item = without_nulls(item.take())),
        _ => {}
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_a_merge_patch_brings_has_no_nulls() {
        let mut object = json!({"map": {"a": 1, "b": 2}, "list": [1], "text": "x", "was": {"a": 1}});
        let patch = json!({"map": {"a": null, "c": {"d": null}}, "list": [{"a": null, "b": [null]}],
            "text": {"a": null}, "was": [{"a": null}]});
        merge(&mut object, &patch).unwrap();
        let merged =
            json!({"map": {"b": 2, "c": {}}, "list": [{"b": [null]}], "text": {}, "was": [{"a": null}]});
        assert_eq!(object, merged);
        assert!(merge(&mut object, &json!([])).is_err());
    }

    #[test]
    fn a_test_for_null_holds_where_nothing_is() {
        let patched = |patch: Value| {
            let mut object = json!({"metadata": {"name": "a"}});
            json(&mut object, patch.to_string().as_bytes())
                .map(|()| object)
                .map_err(|error| error.to_string())
        };
        let finalizer = json!([{"op": "test", "path": "/metadata/finalizers", "value": null},
            {"op": "add", "path": "/metadata/finalizers", "value": ["b"]}]);
        assert_eq!(patched(finalizer), Ok(json!({"metadata": {"name": "a", "finalizers": ["b"]}})));
        for (path, value) in [
            ("/metadata/finalizers", json!("x")),
            ("/none/name", json!(null)),
            ("/metadata/name", json!(null)),
        ] {
            let patch = json!([{"op": "test", "path": path, "value": value}]);
            assert_eq!(patched(patch), Err(format!("testing value {path} failed: test failed")));
        }
    }
}
