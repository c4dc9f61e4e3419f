//! Object metadata that the server owns.

use api::kinds::Kind;
use api::status::Refusal;
use base::clock;
use base::random::{bytes, uuid};
use serde_json::{Value, json};

/// Letters of generated suffixes: no vowels, and none that look like another.
const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
const SUFFIX: usize = 5;
/// The longest base that leaves room for the suffix in a label.
const LONGEST_BASE: usize = 63 - SUFFIX;

/// `metadata.generateName` with a random suffix.
pub(crate) fn generated_name(base: &str) -> String {
    let base = &base[..base.floor_char_boundary(base.len().min(LONGEST_BASE))];
    let suffix =
        bytes::<SUFFIX>().into_iter().map(|byte| char::from(LETTERS[usize::from(byte) % LETTERS.len()]));
    base.chars().chain(suffix).collect()
}

/// The present time as objects carry it: whole seconds (RFC 3339).
pub(crate) fn timestamp() -> String {
    clock::whole_seconds(clock::now()).to_string()
}

/// Makes sure that `metadata` is there and its namespace is the path's.
pub(crate) fn place(object: &mut Value, kind: &Kind, namespace: &str) -> Result<(), Refusal> {
    if !object["metadata"].is_object() {
        object["metadata"] = json!({});
    }
    let meta = &mut object["metadata"];
    if !kind.namespaced {
        // What is in no namespace may state one, as objects from bundles do: it means nothing.
        drop(meta.as_object_mut().and_then(|meta| meta.remove("namespace")));
        return Ok(());
    }
    match meta["namespace"].as_str().unwrap_or_default() {
        "" => meta["namespace"] = Value::from(namespace),
        stated if stated == namespace => {}
        _ => {
            return Err(Refusal::bad_request(
                "the namespace of the provided object does not match the namespace sent on the request",
            ));
        }
    }
    Ok(())
}

/// Takes out what only the server says about an object, as nobody says it of a new one.
pub(crate) fn strip(object: &mut Value) {
    let Some(meta) = object["metadata"].as_object_mut() else { return };
    for owned in [
        "resourceVersion",
        "selfLink",
        "managedFields",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
        "uid",
        "creationTimestamp",
    ] {
        meta.remove(owned);
    }
}

/// Gives a new object its name, if it has none, and what tells it from all others.
pub(crate) fn identify(object: &mut Value, generation: bool) {
    let Some(meta) = object["metadata"].as_object_mut() else { return };
    let base = meta.get("generateName").and_then(Value::as_str).unwrap_or_default();
    if meta.get("name").and_then(Value::as_str).unwrap_or_default().is_empty() && !base.is_empty() {
        meta.insert("name".to_owned(), Value::from(generated_name(base)));
    }
    meta.insert("uid".to_owned(), Value::from(uuid()));
    meta.insert("creationTimestamp".to_owned(), Value::from(timestamp()));
    if generation {
        meta.insert("generation".to_owned(), Value::from(1));
    }
}

/// Sets one condition of a status; it keeps its place and, if its status stays the same, its time.
pub(crate) fn set_condition(object: &mut Value, mut condition: Value) {
    condition["lastTransitionTime"] = Value::from(timestamp());
    let conditions = &mut object["status"]["conditions"];
    let Some(all) = conditions.as_array_mut() else {
        *conditions = json!([condition]);
        return;
    };
    match all.iter_mut().find(|own| own["type"] == condition["type"]) {
        Some(own) => {
            if own["status"] == condition["status"] {
                condition["lastTransitionTime"] = own["lastTransitionTime"].clone();
            }
            *own = condition;
        }
        None => all.push(condition),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_names_leave_room_for_their_suffix() {
        assert_eq!(generated_name(&"a".repeat(80)).len(), 63);
        let name = generated_name("web-");
        assert!(name.starts_with("web-") && name.len() == 9 && name != generated_name("web-"));
    }
}
