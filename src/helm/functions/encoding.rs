//! Texts of other formats: base64, JSON, YAML, checksums.

use super::{Answer, fixed, made, text};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value as Json;
use template::{Calling, Failure, Function, Value};

pub(super) const FUNCTIONS: &[(&str, Function)] = &[
    ("b64enc", fixed(1, |c, a| made(c, STANDARD.encode(bytes(a)?)))),
    ("b64dec", fixed(1, |_, a| Ok(b64dec(&text(a, 0)?)))),
    ("b32enc", fixed(1, |c, a| made(c, b32enc(&bytes(a)?)))),
    ("b32dec", fixed(1, |_, a| Ok(b32dec(&text(a, 0)?)))),
    ("sha1sum", fixed(1, |c, a| made(c, sum(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, a)?))),
    ("sha256sum", fixed(1, |c, a| made(c, sum(&ring::digest::SHA256, a)?))),
    ("sha512sum", fixed(1, |c, a| made(c, sum(&ring::digest::SHA512, a)?))),
    ("adler32sum", fixed(1, |c, a| made(c, adler32(&bytes(a)?).to_string()))),
    ("randBytes", fixed(1, rand_bytes)),
    ("toJson", fixed(1, |c, a| made(c, json(&a[0]).map(|json| go_json(&json)).unwrap_or_default()))),
    ("mustToJson", fixed(1, |c, a| made(c, go_json(&json(&a[0])?)))),
    ("toRawJson", fixed(1, |c, a| made(c, json(&a[0])?.to_string()))),
    ("mustToRawJson", fixed(1, |c, a| made(c, json(&a[0])?.to_string()))),
    ("toPrettyJson", fixed(1, |c, a| made(c, pretty(&a[0])?))),
    ("mustToPrettyJson", fixed(1, |c, a| made(c, pretty(&a[0])?))),
    ("fromJson", fixed(1, |_, a| Ok(from_json(&text(a, 0)?, Shape::Map)))),
    ("fromJsonArray", fixed(1, |_, a| Ok(from_json(&text(a, 0)?, Shape::List)))),
    ("mustFromJson", fixed(1, must_from_json)),
    ("toYaml", fixed(1, |c, a| made(c, json(&a[0]).map(|json| yaml(&json)).unwrap_or_default()))),
    ("mustToYaml", fixed(1, |c, a| made(c, yaml(&json(&a[0])?)))),
    (
        "toYamlPretty",
        fixed(1, |c, a| made(c, json(&a[0]).map(|json| indented(&yaml(&json))).unwrap_or_default())),
    ),
    ("fromYaml", fixed(1, |_, a| Ok(from_yaml(&text(a, 0)?, Shape::Map)))),
    ("fromYamlArray", fixed(1, |_, a| Ok(from_yaml(&text(a, 0)?, Shape::List)))),
];

/// What a text is read as where nothing else is accepted.
#[derive(Clone, Copy)]
enum Shape {
    Map,
    List,
}

/// The argument as bytes.
fn bytes(args: &[Value]) -> Result<Vec<u8>, Failure> {
    match &args[0] {
        Value::Bytes(bytes) => Ok(bytes.to_vec()),
        _ => Ok(text(args, 0)?.as_bytes().to_vec()),
    }
}

fn b64dec(text: &str) -> Value {
    let plain: String = text.chars().filter(|c| !matches!(c, '\n' | '\r')).collect();
    match STANDARD.decode(&plain) {
        Ok(bytes) => Value::bytes(&bytes),
        Err(error) => Value::text(match error {
            base64::DecodeError::InvalidByte(at, _) => format!("illegal base64 data at input byte {at}"),
            _ => format!("illegal base64 data at input byte {}", plain.len() / 4 * 4),
        }),
    }
}

const BASE32: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

fn b32enc(bytes: &[u8]) -> String {
    let mut out = String::new();
    for block in bytes.chunks(5) {
        let mut whole = [0; 8];
        whole[3..3 + block.len()].copy_from_slice(block);
        let bits = u64::from_be_bytes(whole);
        let letters = (block.len() * 8).div_ceil(5);
        for place in 0..8 {
            let index = usize::try_from((bits >> (35 - place * 5)) & 31).unwrap_or(0);
            out.push(if place < letters { char::from(BASE32[index]) } else { '=' });
        }
    }
    out
}

fn b32dec(text: &str) -> Value {
    let (mut bits, mut count, mut out) = (0_u32, 0, Vec::new());
    for (at, byte) in text.trim_end_matches('=').bytes().enumerate() {
        let Some(value) = BASE32.iter().position(|letter| *letter == byte) else {
            return Value::text(format!("illegal base32 data at input byte {at}"));
        };
        bits = ((bits << 5) | u32::try_from(value).unwrap_or(0)) & 0xfff;
        count += 5;
        if count >= 8 {
            count -= 8;
            out.push(u8::try_from((bits >> count) & 0xff).unwrap_or(0));
        }
    }
    Value::bytes(&out)
}

fn sum(algorithm: &'static ring::digest::Algorithm, args: &[Value]) -> Result<String, Failure> {
    Ok(base::hex::of(ring::digest::digest(algorithm, &bytes(args)?).as_ref()))
}

fn adler32(bytes: &[u8]) -> u32 {
    let (low, high) = bytes.iter().fold((1_u32, 0_u32), |(low, high), byte| {
        let low = (low + u32::from(*byte)) % 65_521;
        (low, (high + low) % 65_521)
    });
    (high << 16) | low
}

fn rand_bytes(calling: &Calling<'_>, args: &[Value]) -> Answer {
    let count =
        usize::try_from(super::int(args, 0)?).map_err(|_| Failure::from("a negative number of bytes"))?;
    calling.makes(count.saturating_mul(2))?;
    let mut bytes = Vec::with_capacity(count + 32);
    while bytes.len() < count {
        bytes.extend(base::random::bytes::<32>());
    }
    Ok(Value::text(STANDARD.encode(&bytes[..count])))
}

/// A value as JSON.
pub(crate) fn json(value: &Value) -> Result<Json, Failure> {
    value.to_json().ok_or_else(|| "a value is nested too deep, or holds itself".into())
}

/// JSON as Go writes it, fit to stand in HTML.
fn go_json(json: &Json) -> String {
    let text = json.to_string();
    if !text.contains(['<', '>', '&', '\u{2028}', '\u{2029}']) {
        return text;
    }
    // These stand in texts alone.
    text.replace('<', "\\u003c")
        .replace('>', "\\u003e")
        .replace('&', "\\u0026")
        .replace('\u{2028}', "\\u2028")
        .replace('\u{2029}', "\\u2029")
}

fn pretty(value: &Value) -> Result<String, Failure> {
    let json = json(value)?;
    let text = serde_json::to_string_pretty(&json).unwrap_or_default();
    Ok(text.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026"))
}

fn shaped(value: Result<Json, String>, shape: Shape) -> Value {
    match (shape, value) {
        (Shape::Map, Ok(Json::Null)) => Value::map([("", Value::Nil); 0]),
        (Shape::List, Ok(Json::Null)) => Value::list([]),
        (Shape::Map, Ok(json @ Json::Object(_))) | (Shape::List, Ok(json @ Json::Array(_))) => {
            Value::from_json(&json)
        }
        (Shape::Map, other) => {
            Value::map([("Error", Value::text(mismatch(other, "map[string]interface {}")))])
        }
        (Shape::List, other) => Value::list([Value::text(mismatch(other, "[]interface {}"))]),
    }
}

fn mismatch(read: Result<Json, String>, wanted: &str) -> String {
    let kind = match read {
        Err(why) => return why,
        Ok(Json::Array(_)) => "array",
        Ok(Json::Object(_)) => "object",
        Ok(Json::String(_)) => "string",
        Ok(Json::Bool(_)) => "bool",
        Ok(_) => "number",
    };
    format!("json: cannot unmarshal {kind} into Go value of type {wanted}")
}

fn from_json(text: &str, shape: Shape) -> Value {
    shaped(serde_json::from_str(text).map_err(|error| error.to_string()), shape)
}

fn must_from_json(_: &Calling<'_>, args: &[Value]) -> Answer {
    let read = serde_json::from_str(&text(args, 0)?);
    read.map(|json| Value::from_json(&json)).map_err(|error| error.to_string().into())
}

/// YAML without the newline at its end.
pub(crate) fn yaml(json: &Json) -> String {
    let text = api::yaml::render(json);
    text.strip_suffix('\n').map_or(text.clone(), str::to_owned)
}

/// Lists stand two blanks deeper.
fn indented(yaml: &str) -> String {
    let mut out = Vec::new();
    // How deep the lists begin that the line is in.
    let mut lists: Vec<usize> = Vec::new();
    let mut owner: Option<usize> = None;
    for line in yaml.lines() {
        let depth = line.len() - line.trim_start().len();
        let is_item = line[depth..].starts_with("- ") || &line[depth..] == "-";
        while lists.last().is_some_and(|own| depth < *own || (depth == *own && !is_item)) {
            lists.pop();
        }
        if is_item && owner == Some(depth) && lists.last() != Some(&depth) {
            lists.push(depth);
        }
        out.push(format!("{}{line}", "  ".repeat(lists.len())));
        let key = if is_item { depth + 2 } else { depth };
        owner = line.ends_with(':').then_some(key);
    }
    out.join("\n")
}

fn from_yaml(text: &str, shape: Shape) -> Value {
    let read = api::yaml::first(text.as_bytes());
    shaped(
        read.map(|document| document.value)
            .map_err(|error| format!("error converting YAML to JSON: {error}")),
        shape,
    )
}
