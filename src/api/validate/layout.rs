//! How Kubernetes' own types of pods print: their fields differ from those of the API in order, in
//! names, and in where some of them stand.
//!
//! `pods.txt` has a line a type: its name, then its fields. A field is `Name=path:kind`: the path in
//! JSON where it is not the name with a small letter (`^` is the struct around this one), and what
//! stands where nothing is: `"` an empty text, `0`, `f` false, `q` a quantity of nothing, a type an empty
//! struct, and `*` or no kind null. `+` is a struct whose own fields stand among the others.

use super::go::json;
use serde_json::Value;
use std::collections::HashMap;
use std::sync::LazyLock;

struct Field {
    name: &'static str,
    /// In the struct around this one.
    outside: bool,
    path: String,
    /// The zero value, for what is no struct.
    zero: &'static str,
    /// The type of a struct, or of a list's items.
    of: &'static str,
}

static LAYOUTS: LazyLock<HashMap<&'static str, Vec<Field>>> = LazyLock::new(|| {
    let lines = include_str!("pods.txt").lines();
    lines
        .filter_map(|line| line.split_once(' '))
        .map(|(name, rest)| (name, rest.split(' ').map(field).collect()))
        .collect()
});

fn field(text: &'static str) -> Field {
    if let Some(path) = text.strip_prefix('+') {
        return Field { name: "", outside: false, path: path.to_owned(), zero: "", of: "" };
    }
    let (head, kind) = text.split_once(':').unwrap_or((text, "*"));
    let (name, path) = head.split_once('=').unwrap_or((head, ""));
    let mut letters = name.chars();
    let small = letters.next().map(|first| first.to_ascii_lowercase()).into_iter().chain(letters).collect();
    let (zero, of) = match kind {
        "\"" => ("\"\"", ""),
        "0" => ("0", ""),
        "f" => ("false", ""),
        "q" => ("\"0\"", ""),
        kind => kind.strip_prefix('*').map_or(("", kind), |of| ("null", of)),
    };
    let outside = path.starts_with('^');
    let path = if path.is_empty() { small } else { path.trim_start_matches('^').to_owned() };
    Field { name, outside, path, zero, of }
}

/// A value of one of these types; `None` for other types.
pub(super) fn shown(value: &Value, name: &str) -> Option<String> {
    let fields = LAYOUTS.get(name.strip_prefix("api.core.v1.")?)?;
    Some(of_struct(value, &Value::Null, fields))
}

fn of_struct(value: &Value, around: &Value, fields: &[Field]) -> String {
    let mut parts = Vec::with_capacity(fields.len());
    for field in fields {
        let own = &(if field.outside { around } else { value })[field.path.as_str()];
        if field.name.is_empty() {
            let embedded = own.as_object().into_iter().flatten();
            parts.extend(embedded.map(|(name, value)| format!("\"{name}\":{}", json(value))));
        } else {
            parts.push(format!("\"{}\":{}", field.name, of_field(own, value, field)));
        }
    }
    format!("{{{}}}", parts.join(","))
}

fn of_field(own: &Value, around: &Value, field: &Field) -> String {
    match (own, LAYOUTS.get(field.of)) {
        (Value::Null, Some(fields)) if field.zero.is_empty() => of_struct(own, around, fields),
        (Value::Null, _) => field.zero.to_owned(),
        (Value::Array(items), Some(fields)) => {
            let items: Vec<String> = items.iter().map(|item| of_struct(item, around, fields)).collect();
            format!("[{}]", items.join(","))
        }
        (own, Some(fields)) => of_struct(own, around, fields),
        (own, None) => json(own),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn pods_print_as_their_own_types_do() {
        let context = json!({"securityContext": {"runAsUser": 1}, "hostNetwork": true, "containers": []});
        let text = shown(&context, "api.core.v1.PodSpec").unwrap();
        assert!(text.contains("\"Containers\":[],"), "{text}");
        assert!(text.contains("\"SecurityContext\":{\"HostNetwork\":true,\"HostPID\":false,"), "{text}");
        assert_eq!(shown(&json!({}), "api.core.v1.ExecAction").unwrap(), "{\"Command\":null}");
        assert_eq!(shown(&json!({}), "api.core.v1.Nothing"), None);
    }
}
