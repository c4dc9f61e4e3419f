//! Objects of any kind: every field, with its name in words.

use super::page::{Page, shown};
use serde_json::{Map, Value};

/// Shown at the top, or not worth showing.
const SKIPPED: [&str; 5] = [
    ".metadata.managedFields",
    ".metadata.name",
    ".metadata.namespace",
    ".metadata.labels",
    ".metadata.annotations",
];

pub(super) fn write(page: &mut Page, object: &Value) {
    page.head(object);
    if let Some(fields) = object.as_object() {
        content(page, 0, fields, "");
    }
}

fn content(page: &mut Page, depth: usize, fields: &Map<String, Value>, path: &str) {
    for (key, value) in fields {
        let path = format!("{path}.{key}");
        if SKIPPED.contains(&path.as_str()) {
            continue;
        }
        match value {
            Value::Object(inner) => {
                page.line(depth, &format!("{}:", words(key)));
                content(page, depth + 1, inner, &path);
            }
            Value::Array(items) => {
                page.line(depth, &format!("{}:", words(key)));
                for item in items {
                    match item {
                        Value::Object(inner) => content(page, depth + 1, inner, &path),
                        other => page.line(depth + 1, &shown(other)),
                    }
                }
            }
            other => page.field(depth, &words(key), shown(other)),
        }
    }
}

/// `apiVersion` as `API Version`, `clusterIPs` as `Cluster I Ps`: camel case in words, with known acronyms
/// in capitals. What looks like no field name, such as `example.org/x`, stays.
fn words(field: &str) -> String {
    if field.contains(|sign: char| !sign.is_ascii_alphanumeric()) {
        return field.to_owned();
    }
    let mut words: Vec<String> = Vec::new();
    for sign in field.chars() {
        match words.last_mut() {
            Some(word) if !sign.is_ascii_uppercase() => word.push(sign),
            Some(word) if word.chars().all(|known| known.is_ascii_uppercase()) && word.len() > 1 => {
                word.push(sign)
            }
            _ => words.push(sign.to_string()),
        }
    }
    let title = |word: &String| match word.to_lowercase().as_str() {
        known @ ("api" | "url" | "uid" | "osb" | "guid") => known.to_uppercase(),
        lower => lower[..1].to_uppercase() + &lower[1..],
    };
    words.iter().map(title).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn field_names_in_words() {
        assert_eq!(
            ["apiVersion", "uid", "creationTimestamp", "example.org/x"].map(words),
            ["API Version", "UID", "Creation Timestamp", "example.org/x"]
        );
    }
}
