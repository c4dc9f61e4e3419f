//! Values as Go prints them in messages: JSON, but structs in the order and with the names of their
//! fields.

use crate::schema::{Field, Type, TypeId, schema};
use serde_json::Value;
use std::fmt::Write;
use std::num::{IntErrorKind, ParseIntError};

/// A text in Go's quotes (`%q`).
pub fn go_quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            '\r' => quoted.push_str("\\r"),
            '\u{7}' => quoted.push_str("\\a"),
            '\u{8}' => quoted.push_str("\\b"),
            '\u{b}' => quoted.push_str("\\v"),
            '\u{c}' => quoted.push_str("\\f"),
            c if c.is_ascii_control() => drop(write!(quoted, "\\x{:02x}", u32::from(c))),
            c if c.is_control() => drop(write!(quoted, "\\u{:04x}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// A value in a message.
pub(super) fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => go_quoted(text),
        Value::Number(number) if number.is_f64() => go_float(number.as_f64().unwrap_or_default()),
        other => json(other),
    }
}

/// A text bare, everything else as JSON.
pub fn go_text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => json(other),
    }
}

/// A number as Go prints it (`%v`): the shortest digits, with an exponent from a million on.
pub fn go_float(number: f64) -> String {
    float(number, -4, 6)
}

/// The shortest digits, with an exponent outside of a range.
fn float(number: f64, least: i32, most: i32) -> String {
    let text = format!("{number:e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    match exponent.parse::<i32>() {
        Ok(power) if number != 0.0 && !(least..most).contains(&power) => {
            let sign = if power < 0 { '-' } else { '+' };
            format!("{digits}e{sign}{:02}", power.abs())
        }
        _ => format!("{number}"),
    }
}

/// A value as Go prints maps (`%+v`).
pub fn go_map(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => format!("[{}]", items.iter().map(go_map).collect::<Vec<_>>().join(" ")),
        Value::Object(fields) => {
            let parts = fields.iter().map(|(name, value)| format!("{name}:{}", go_map(value)));
            format!("map[{}]", parts.collect::<Vec<_>>().join(" "))
        }
        other => other.to_string(),
    }
}

/// A value as Go's own source would have it (`%#v`).
pub fn go_literal(value: &Value) -> String {
    match value {
        Value::Null => "interface {}(nil)".to_owned(),
        Value::Array(items) => {
            format!("[]interface {{}}{{{}}}", items.iter().map(go_literal).collect::<Vec<_>>().join(", "))
        }
        Value::Object(fields) => {
            let parts =
                fields.iter().map(|(name, value)| format!("{}:{}", go_quoted(name), go_literal(value)));
            format!("map[string]interface {{}}{{{}}}", parts.collect::<Vec<_>>().join(", "))
        }
        scalar => shown(scalar),
    }
}

/// The refusal of a text that is no number, by Go's `function` that reads such.
pub fn go_number_error(function: &str, text: &str, error: &ParseIntError) -> String {
    let why = match error.kind() {
        IntErrorKind::PosOverflow | IntErrorKind::NegOverflow => "value out of range",
        _ => "invalid syntax",
    };
    format!("strconv.{function}: parsing {}: {why}", go_quoted(text))
}

/// What Go calls a JSON value.
pub fn go_kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// Where a JSON text goes wrong, as this process' parser says it and as Go's does.
const PLACES: [(&str, &str); 9] = [
    ("trailing characters", "after top-level value"),
    ("key must be a string", "looking for beginning of object key string"),
    ("expected `:`", "after object key"),
    ("expected `,` or `}`", "after object key:value pair"),
    ("expected `,` or `]`", "after array element"),
    ("expected value", "looking for beginning of value"),
    ("invalid escape", "in string escape code"),
    ("control character", "in string literal"),
    ("invalid number", "in numeric literal"),
];

/// A text that is no JSON, in the words of Go's parser.
pub fn go_syntax(text: &[u8], error: &serde_json::Error) -> String {
    if error.is_eof() {
        return "unexpected end of JSON input".to_owned();
    }
    let said = error.to_string();
    let line = text.split(|byte| *byte == b'\n').nth(error.line().saturating_sub(1)).unwrap_or_default();
    let found = line.get(error.column().saturating_sub(1)).copied().map(char::from).unwrap_or_default();
    let place = match PLACES.iter().find(|(own, _)| said.starts_with(own)) {
        Some((_, place)) => place,
        None if said.starts_with("trailing comma") && found == '}' => PLACES[1].1,
        None if said.starts_with("trailing comma") => PLACES[5].1,
        None => return said,
    };
    let shown = match found {
        '\'' => "\\'".to_owned(),
        '"' => "\"".to_owned(),
        other => go_quoted(&other.to_string()).trim_matches('"').to_owned(),
    };
    format!("invalid character '{shown}' {place}")
}

/// The type that Go's JSON has for a value (`%T`).
pub fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_i64() => "int64",
        Value::Number(_) => "float64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

/// The fields of a label selector in their order, and of a requirement in it, of which the first two
/// are always written.
const SELECTOR: [&str; 2] = ["matchLabels", "matchExpressions"];
const REQUIREMENT: [&str; 3] = ["key", "operator", "values"];

pub(super) fn json(value: &Value) -> String {
    match value {
        Value::Array(items) => list(items, json),
        Value::Object(fields)
            if !fields.is_empty() && fields.keys().all(|key| SELECTOR.contains(&key.as_str())) =>
        {
            in_order(value, &SELECTOR, 0, |name, value| match value {
                Value::Array(items) if name == SELECTOR[1] => {
                    list(items, |item| in_order(item, &REQUIREMENT, 2, |_, value| json(value)))
                }
                other => json(other),
            })
        }
        Value::Object(fields) => {
            let parts =
                fields.iter().map(|(name, value)| format!("{}:{}", Value::from(name.as_str()), json(value)));
            format!("{{{}}}", parts.collect::<Vec<_>>().join(","))
        }
        Value::Number(number) if number.is_f64() => float(number.as_f64().unwrap_or_default(), -6, 21),
        other => go_escaped(&other.to_string()),
    }
}

fn list(items: &[Value], item: impl Fn(&Value) -> String) -> String {
    format!("[{}]", items.iter().map(item).collect::<Vec<_>>().join(","))
}

fn in_order(value: &Value, names: &[&str], always: usize, shown: impl Fn(&str, &Value) -> String) -> String {
    let parts = names.iter().enumerate().filter_map(|(index, name)| match value.get(name) {
        Some(value) => Some(format!("\"{name}\":{}", shown(name, value))),
        None => (index < always).then(|| format!("\"{name}\":\"\"")),
    });
    format!("{{{}}}", parts.collect::<Vec<_>>().join(","))
}

/// Go's JSON has no bare `<`, `>` and `&`.
pub fn go_escaped(json: &str) -> String {
    json.replace('&', "\\u0026")
        .replace('<', "\\u003c")
        .replace('>', "\\u003e")
        .replace('\u{2028}', "\\u2028")
        .replace('\u{2029}', "\\u2029")
}

/// Words that Go writes in capitals.
const NAMES: [(&str, &str); 11] = [
    ("cel", "CEL"),
    ("apiGroup", "APIGroup"),
    ("apiGroups", "APIGroups"),
    ("apiVersion", "APIVersion"),
    ("seLinuxOptions", "SELinuxOptions"),
    ("cidrs", "CIDRs"),
    ("ip", "IP"),
    ("pkixPublicKey", "PKIXPublicKey"),
    ("uid", "UID"),
    ("gmsaCredentialSpecName", "GMSACredentialSpecName"),
    ("gmsaCredentialSpec", "GMSACredentialSpec"),
];

/// Fields that stand elsewhere in Go's struct than their numbers say: type, field, the field before it.
const MOVED: [(&str, &str, &str); 4] = [
    (CRD_VERSION, "deprecated", "storage"),
    (CRD_VERSION, "deprecationWarning", "deprecated"),
    ("api.core.v1.ServicePort", "appProtocol", "protocol"),
    ("api.certificates.v1beta1.PodCertificateRequestSpec", "unverifiedUserAnnotations", "stubPKCS10Request"),
];

const CRD_VERSION: &str = "apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinitionVersion";

fn go_name(name: &str) -> String {
    if let Some((_, go)) = NAMES.iter().find(|(json, _)| *json == name) {
        return (*go).to_owned();
    }
    let mut chars = name.chars();
    chars.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(chars).collect()
}

/// A value of a type as Kubernetes' own structs print it, with all fields.
pub(super) fn internal(value: &Value, name: &str) -> String {
    if let Some(text) = super::layout::shown(value, name) {
        return text;
    }
    match (schema().by_name(name), value) {
        (Some(id), Value::Array(items)) => list(items, |item| of_struct(item, id)),
        (Some(id), value) => of_struct(value, id),
        (None, value) => json(value),
    }
}

fn of_struct(value: &Value, id: TypeId) -> String {
    let def = schema().get(id);
    let mut fields: Vec<&Field> = def.fields.iter().filter(|field| !field.numbers.is_empty()).collect();
    fields.sort_by_key(|field| field.numbers.clone());
    for (_, moved, after) in MOVED.iter().filter(|(of, ..)| *of == def.name) {
        let place = |fields: &[&Field], name: &str| fields.iter().position(|field| field.name == name);
        if let Some(from) = place(&fields, moved) {
            let field = fields.remove(from);
            let to = place(&fields, after).map_or(fields.len(), |index| index + 1);
            fields.insert(to, field);
        }
    }
    let mut parts = Vec::with_capacity(fields.len());
    for field in fields {
        match &value[field.name] {
            // Metadata is embedded: its fields stand among the others, with the names that JSON has.
            Value::Object(meta) if field.name == "metadata" => {
                let own = meta.iter().map(|(name, value)| format!("\"{name}\":{}", json(value)));
                parts.extend(own);
            }
            Value::Null if field.name == "metadata" => {}
            value => parts.push(format!("\"{}\":{}", go_name(field.name), of_field(value, field))),
        }
    }
    format!("{{{}}}", parts.join(","))
}

fn of_field(value: &Value, field: &Field) -> String {
    let plain = field.required || field.zero_is_absent;
    match (&field.ty, value) {
        (Type::Ref(id), Value::Null) if plain => of_struct(&Value::Object(serde_json::Map::new()), *id),
        (Type::String, Value::Null) if plain => "\"\"".to_owned(),
        (Type::Int32 | Type::Int64, Value::Null) if plain => "0".to_owned(),
        (Type::IntOrString, Value::Null) => "0".to_owned(),
        (Type::Bool, Value::Null) if plain => "false".to_owned(),
        (ty, value) => of_type(value, ty),
    }
}

fn of_type(value: &Value, ty: &Type) -> String {
    match (ty, value) {
        (Type::Ref(id), Value::Object(_)) if schema().get(*id).name.starts_with("api.") => {
            of_struct(value, *id)
        }
        (Type::List(item), Value::Array(items)) => {
            format!("[{}]", items.iter().map(|value| of_type(value, item)).collect::<Vec<_>>().join(","))
        }
        (_, value) => json(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn texts_that_are_no_json_are_refused_as_go_does() {
        let of = |text: &str| go_syntax(text.as_bytes(), &serde_json::from_str::<Value>(text).unwrap_err());
        assert_eq!(of("{\"a\": "), "unexpected end of JSON input");
        assert_eq!(of("{\"a\":\"x"), "unexpected end of JSON input");
        assert_eq!(of("{} x"), "invalid character 'x' after top-level value");
        assert_eq!(of("{\n{a:1}"), "invalid character '{' looking for beginning of object key string");
        assert_eq!(of("{\"a\":1,}"), "invalid character '}' looking for beginning of object key string");
        assert_eq!(of("[1,]"), "invalid character ']' looking for beginning of value");
        assert_eq!(of("{\"a\" 1}"), "invalid character '1' after object key");
        assert_eq!(of("{\"a\":1 \"b\"}"), "invalid character '\"' after object key:value pair");
        assert_eq!(of("[1 2]"), "invalid character '2' after array element");
        assert_eq!(of("{\"a\":\"\\x\"}"), "invalid character 'x' in string escape code");
        assert_eq!(of("{\"a\":\"\x01\"}"), "invalid character '\\x01' in string literal");
        assert_eq!(of("{'a':1}"), "invalid character '\\'' looking for beginning of object key string");
    }

    #[test]
    fn structs_are_printed_as_go_prints_them() {
        let selector =
            json!({"matchLabels": {"a": "b"}, "matchExpressions": [{"key": "a", "values": ["<"]}]});
        assert_eq!(
            shown(&selector),
            r#"{"matchLabels":{"a":"b"},"matchExpressions":[{"key":"a","operator":"","values":["\u003c"]}]}"#
        );
        assert_eq!(
            internal(&json!({"type": "X"}), "api.apps.v1.DeploymentStrategy"),
            r#"{"Type":"X","RollingUpdate":null}"#
        );
    }
}
