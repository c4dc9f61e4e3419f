//! The public conformance vectors of CEL, as far as they need no protobuf messages and no containers.
//!
//! `testdata/conformance.jsonl` is made of the simple tests of google/cel-spec (commit 508bd98, Apache-2.0): a
//! line a test, with its section, name, expression, variables, bindings and the value that is wanted.

use super::{Environment, PER_CALL_LIMIT, Type, Value};
use crate::value::{Key, Map};
use serde_json::Value as Json;

/// Where Kubernetes' environment, by its own settings, answers otherwise than the vectors: beginnings of their
/// names, with the reason.
const DIFFERENCES: &[(&str, &str)] = &[
    ("optionals/optionals/map_null_entry_no_such_key", "a field of what has none is absent, not an error"),
    ("optionals/optionals/map_present_key_invalid_field", "a field of what has none is absent, not an error"),
    ("string_ext/format/scientific notation", "version 2 of strings writes powers of ten out"),
    (
        "string_ext/format/default precision for",
        "version 2 of strings writes doubles alone, with the signs of a language",
    ),
    ("string_ext/format/positive infinity", "version 2 of strings writes signs of a language"),
    ("string_ext/format/negative infinity", "version 2 of strings writes signs of a language"),
    ("string_ext/format/NaN support for decimal", "version 2 of strings writes integers alone as decimals"),
    ("string_ext/format/dyntype", "version 2 of strings writes signs of a language"),
    ("string_ext/value_errors/indexof_out_of_range", "version 2 of strings finds nothing beyond the end"),
    ("string_ext/value_errors/lastindexof_out_of_range", "version 2 of strings finds nothing beyond the end"),
    ("string_ext/reverse", "version 2 of strings has no reverse"),
];

/// Whether an error is the settings' and no fault: Kubernetes checks every expression, takes lists and maps of
/// one type only, and has no quoted field names.
fn is_setting(case: &Json, got: &str) -> bool {
    let refused = got.starts_with("error: ERROR");
    refused
        && (case["u"] == true || got.contains("expected type '") || got.contains("unsupported syntax: '`'"))
}

#[test]
fn the_vectors_that_apply_are_answered_as_they_say() {
    let mut wrong = Vec::new();
    let mut right = 0;
    for line in include_str!("testdata/conformance.jsonl").lines() {
        let case: Json = serde_json::from_str(line).unwrap();
        let name = format!("{}/{}", case["s"].as_str().unwrap(), case["n"].as_str().unwrap());
        let wanted = case["w"].as_str().unwrap();
        let got = answer(&case);
        let differs =
            is_setting(&case, &got) || DIFFERENCES.iter().any(|(prefix, _)| name.starts_with(prefix));
        match (got == wanted || wanted == "error" && got.starts_with("error"), differs) {
            (true, _) => right += 1,
            (false, true) => {}
            (false, false) => wrong.push(format!("{name}: {} gives {got}, not {wanted}", case["e"])),
        }
    }
    assert!(wrong.is_empty(), "{} wrong, {right} right:\n{}", wrong.len(), wrong.join("\n"));
    assert!(right >= 1300, "only {right} vectors were answered");
}

fn answer(case: &Json) -> String {
    let mut environment = Environment::new();
    let mut bindings = Vec::new();
    let nothing = Vec::new();
    let declared = case["v"].as_array().unwrap_or(&nothing);
    for variable in declared {
        let name = variable[0].as_str().unwrap();
        let of = crate::library::parse_type(variable[1].as_str().unwrap());
        if let Some(bound) = case["b"].get(name) {
            bindings.push(bind(bound, &of));
        }
        environment = environment.variable(name, of);
    }
    for (name, bound) in case["b"].as_object().into_iter().flatten() {
        if !declared.iter().any(|variable| variable[0] == **name) {
            environment = environment.variable(name, Type::Dyn);
            bindings.push(Value::json(bound));
        }
    }
    match environment.compile(case["e"].as_str().unwrap()) {
        Err(issues) => format!("error: {}", crate::Issue::report(&issues)),
        Ok(program) => match program.evaluate(&bindings, PER_CALL_LIMIT).0 {
            Ok(value) => describe(&value),
            Err(error) => format!("error: {error}"),
        },
    }
}

fn bind<'a>(json: &'a Json, of: &Type) -> Value<'a> {
    match (of, json) {
        (Type::Uint, Json::Number(number)) => Value::Uint(number.as_u64().unwrap()),
        (Type::Double, Json::Number(number)) => Value::Double(number.as_f64().unwrap()),
        _ => Value::json(json),
    }
}

/// A value as the vectors write it.
fn describe(value: &Value<'_>) -> String {
    match value {
        Value::Null => "null".into(),
        Value::Bool(value) => value.to_string(),
        Value::Int(value) => value.to_string(),
        Value::Uint(value) => format!("{value}u"),
        Value::Double(value) => format!("d{}", python(*value)),
        Value::String(text) => python_string(text.as_str()),
        Value::Bytes(bytes) => {
            format!("b{}", bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
        }
        Value::List(list) => {
            let items: Vec<String> = list.iter().map(|item| describe(&item.unwrap())).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Map(map) => described_map(map),
        Value::Type(of) => format!("type({})", of.name()),
        other => format!("{other:?}"),
    }
}

fn described_map(map: &Map<'_>) -> String {
    let pair = |key: &Key<'_>| {
        let value = map.get(key).unwrap().unwrap();
        format!("{}: {}", describe(&key.value()), describe(&value))
    };
    let mut entries: Vec<String> = map.keys().iter().map(pair).collect();
    entries.sort();
    format!("{{{}}}", entries.join(", "))
}

/// A double as Python writes it.
fn python(value: f64) -> String {
    if value.is_nan() {
        return "NaN".into();
    }
    if value.is_infinite() {
        return value.to_string();
    }
    let scientific = format!("{value:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap();
    let exponent: i32 = exponent.parse().unwrap();
    if (-4..16).contains(&exponent) {
        return format!("{value:?}");
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}

/// A string as Python's JSON writes it.
fn python_string(text: &str) -> String {
    let mut written = String::new();
    for letter in serde_json::to_string(text).unwrap().chars() {
        if letter.is_ascii() && letter != '\u{7f}' {
            written.push(letter);
        } else {
            let mut units = [0; 2];
            letter
                .encode_utf16(&mut units)
                .iter()
                .for_each(|unit| written.push_str(&format!("\\u{unit:04x}")));
        }
    }
    written
}
