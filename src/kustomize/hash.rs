//! The hash that ends the names of generated objects.

use crate::resource::Resource;
use api::validate::go_escaped;
use ring::digest::{SHA256, digest};
use serde_json::{Map, Value, json};
use std::fmt::Write;

/// How many signs of it names end with.
const SIGNS: usize = 10;

/// Ten signs that change with what the object holds.
pub(crate) fn of(resource: &Resource) -> String {
    let field = |name: &str| resource.object.get(name).cloned().unwrap_or_else(|| json!(""));
    // The name takes no part, although there is a place for it: kustomize looks for it where it is not.
    let mut held = match resource.kind() {
        "ConfigMap" => json!({"kind": "ConfigMap", "name": "", "data": field("data")}),
        "Secret" => json!({"kind": "Secret", "name": "", "type": field("type"), "data": field("data")}),
        _ => resource.object.clone(),
    };
    let more = match resource.kind() {
        "ConfigMap" => Some("binaryData"),
        "Secret" => Some("stringData"),
        _ => None,
    };
    if let (Some(name), Some(fields)) = (more, held.as_object_mut()) {
        add(fields, &resource.object, name);
    }
    suffix(&held)
}

/// Ten signs that end a name of such content, as all of Kubernetes' tools make them.
pub fn suffix(content: &Value) -> String {
    let text = go_escaped(&content.to_string());
    let mut hex = String::new();
    for byte in digest(&SHA256, text.as_bytes()).as_ref() {
        // Writing to a text does not fail.
        write!(hex, "{byte:02x}").unwrap_or_default();
    }
    // No vowels and few digits, so that no words come of it.
    hex.chars()
        .take(SIGNS)
        .map(|sign| match sign {
            '0' => 'g',
            '1' => 'h',
            '3' => 'k',
            'a' => 'm',
            'e' => 't',
            other => other,
        })
        .collect()
}

fn add(fields: &mut Map<String, Value>, object: &Value, name: &str) {
    if let Some(value) = object.get(name).filter(|value| value.is_object()) {
        fields.insert(name.to_owned(), value.clone());
    }
}
