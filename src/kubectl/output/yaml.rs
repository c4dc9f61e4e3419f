//! YAML as kubectl prints it: keys sorted, lists not indented.

use serde_json::Value;

/// One document, ending with a newline.
pub(crate) fn render(value: &Value) -> String {
    serde_yaml::to_string(value).unwrap_or_else(|error| format!("# {error}\n"))
}
