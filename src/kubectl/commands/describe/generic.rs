//! Objects of any kind: every field, with its name in words.

use super::page::Page;
use super::words::shown;
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
                page.title(depth, &words(key));
                content(page, depth + 1, inner, &path);
            }
            Value::Array(items) => {
                page.title(depth, &words(key));
                for item in items {
                    match item {
                        Value::Object(inner) => content(page, depth + 1, inner, &path),
                        other => page.line(depth + 1, plain(other)),
                    }
                }
            }
            other => page.field(depth, &words(key), plain(other)),
        }
    }
}

/// A value as Go prints it.
fn plain(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::Array(items) => format!("[{}]", items.iter().map(plain).collect::<Vec<_>>().join(" ")),
        other => shown(other),
    }
}

/// `apiVersion` as `API Version`, `clusterIPs` as `Cluster I Ps`: camel case in words, known acronyms in capitals.
/// What has other signs than letters, such as `example.org/x`, stays.
fn words(field: &str) -> String {
    if field.contains(|sign: char| !sign.is_alphabetic() && sign != '-') {
        return field.to_owned();
    }
    let word = |word: String| match word.to_uppercase() {
        known if ["API", "URL", "UID", "GUID"].contains(&known.as_str()) => known,
        _ if word == word.to_lowercase() => {
            let mut signs = word.chars();
            signs.next().map_or_else(String::new, |first| first.to_uppercase().chain(signs).collect())
        }
        _ => word,
    };
    merged(split(field)).into_iter().map(word).collect::<Vec<_>>().join(" ")
}

/// Parts of one class of signs each; the last capital before small letters is of the word that they are.
fn split(field: &str) -> Vec<String> {
    let class = |sign: char| (sign.is_lowercase(), sign.is_uppercase());
    let mut parts: Vec<String> = Vec::new();
    let mut last = None;
    for sign in field.chars() {
        match parts.last_mut() {
            Some(part) if last == Some(class(sign)) => part.push(sign),
            _ => parts.push(sign.to_string()),
        }
        last = Some(class(sign));
    }
    for at in 1..parts.len() {
        let is = |at: usize, test: fn(char) -> bool| parts[at].chars().next().is_some_and(test);
        if is(at - 1, char::is_uppercase)
            && is(at, char::is_lowercase)
            && let Some(capital) = parts[at - 1].pop()
        {
            parts[at].insert(0, capital);
        }
    }
    parts.retain(|part| !part.is_empty());
    parts
}

/// Capitals stay with the word behind them.
fn merged(parts: Vec<String>) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    let mut is_open = false;
    for part in parts {
        let begins = part.starts_with(char::is_uppercase);
        match all.last_mut() {
            Some(last) if is_open && begins => {
                last.push_str(&part);
                is_open = false;
            }
            _ => {
                is_open = part.len() >= 2 && part.chars().all(char::is_uppercase);
                all.push(part);
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn field_names_in_words() {
        for (field, shown) in [
            ("apiVersion", "API Version"),
            ("uid", "UID"),
            ("creationTimestamp", "Creation Timestamp"),
            ("clusterIPs", "Cluster I Ps"),
            ("hostIP", "Host IP"),
            ("nonResourceURLs", "Non Resource URLs"),
            ("URLPath", "URLPath"),
            ("tls-name", "Tls - Name"),
            ("example.org/x", "example.org/x"),
            ("ipv4", "ipv4"),
        ] {
            assert_eq!(words(field), shown);
        }
    }
}
