//! Kubernetes' protobuf encoding (`application/vnd.kubernetes.protobuf`), read and written by the field
//! tables: no generated code, one reader and one writer for every kind.

mod either;
mod encode;
pub mod wire;

pub use encode::{encode, encode_event, encode_item, encode_list};

use super::{Either, Field, Type, TypeDef, TypeId, schema};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

/// What every such body begins with.
pub const MAGIC: &[u8] = b"k8s\0";

/// Messages deeper than this are no objects of Kubernetes'.
const DEPTH: usize = 64;
/// Go's zero time: the first second of the year 1.
const ZERO_S: i64 = -62_135_596_800;

/// Bytes that are no object. To be answered with 400.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The bytes end in the middle, or are no protobuf.
    #[error("the body is not well-formed protobuf")]
    Malformed,
    /// Nobody knows the kind.
    #[error("no kind {kind:?} is registered for version {api_version:?}")]
    UnknownKind {
        /// As the body says.
        api_version: String,
        /// As the body says.
        kind: String,
    },
}

type Result<T> = std::result::Result<T, Error>;

/// Reads a body: the envelope (`runtime.Unknown`) and the object in it.
pub fn decode(body: &[u8]) -> Result<Value> {
    let envelope = body.strip_prefix(MAGIC).ok_or(Error::Malformed)?;
    let (mut api_version, mut kind, mut raw) = (String::new(), String::new(), &[][..]);
    for entry in Entries(envelope) {
        match entry? {
            (1, Wire::Bytes(meta)) => {
                for entry in Entries(meta) {
                    match entry? {
                        (1, Wire::Bytes(text)) => api_version = utf8(text)?,
                        (2, Wire::Bytes(text)) => kind = utf8(text)?,
                        _ => {}
                    }
                }
            }
            (2, Wire::Bytes(bytes)) => raw = bytes,
            _ => {}
        }
    }
    let mut object = message(raw, schema().get(type_of(&api_version, &kind)?), 0)?;
    object.insert("apiVersion".to_owned(), Value::from(api_version));
    object.insert("kind".to_owned(), Value::from(kind));
    Ok(Value::Object(object))
}

fn type_of(api_version: &str, kind: &str) -> Result<TypeId> {
    // Options belong to every group version; the table knows them by name.
    let options = || schema().by_name(&format!("apimachinery.pkg.apis.meta.v1.{kind}"));
    schema()
        .by_stated(api_version, kind)
        .or_else(options)
        .ok_or_else(|| Error::UnknownKind { api_version: api_version.to_owned(), kind: kind.to_owned() })
}

/// A value on the wire.
#[derive(Clone, Copy, Debug)]
enum Wire<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
    Fixed32(u32),
}

/// The fields of a message, in the order they were written.
struct Entries<'a>(&'a [u8]);

impl<'a> Iterator for Entries<'a> {
    type Item = Result<(u32, Wire<'a>)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let entry = entry(&mut self.0).ok_or(Error::Malformed);
        if entry.is_err() {
            self.0 = &[];
        }
        Some(entry)
    }
}

fn entry<'a>(bytes: &mut &'a [u8]) -> Option<(u32, Wire<'a>)> {
    let key = varint(bytes)?;
    let number = u32::try_from(key >> 3).ok()?;
    let wire = match key & 7 {
        0 => Wire::Varint(varint(bytes)?),
        1 => Wire::Fixed64(u64::from_le_bytes(take(bytes, 8)?.try_into().ok()?)),
        2 => {
            let length = usize::try_from(varint(bytes)?).ok()?;
            Wire::Bytes(take(bytes, length)?)
        }
        5 => Wire::Fixed32(u32::from_le_bytes(take(bytes, 4)?.try_into().ok()?)),
        _ => return None,
    };
    Some((number, wire))
}

fn take<'a>(bytes: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(taken)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = take(bytes, 1)?[0];
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn utf8(bytes: &[u8]) -> Result<String> {
    std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| Error::Malformed)
}

/// A message as the JSON object it stands for.
fn message(bytes: &[u8], def: &TypeDef, depth: usize) -> Result<Map<String, Value>> {
    let mut object = Map::new();
    fields(bytes, def, &mut Vec::new(), (&mut object, depth))?;
    Ok(object)
}

/// Reads fields into `object`; `path` are the numbers of the inlined messages that they stand in.
fn fields(
    bytes: &[u8],
    def: &TypeDef,
    path: &mut Vec<u32>,
    (object, depth): (&mut Map<String, Value>, usize),
) -> Result<()> {
    if depth > DEPTH {
        return Err(Error::Malformed);
    }
    for entry in Entries(bytes) {
        let (number, wire) = entry?;
        path.push(number);
        if let Some(field) = def.fields.iter().find(|field| field.numbers == *path) {
            put(object, field, wire, depth)?;
        } else if let Wire::Bytes(inner) = wire
            && def.fields.iter().any(|field| field.numbers.starts_with(path))
        {
            fields(inner, def, path, (&mut *object, depth + 1))?;
        }
        path.pop();
    }
    Ok(())
}

fn put(object: &mut Map<String, Value>, field: &Field, wire: Wire<'_>, depth: usize) -> Result<()> {
    match &field.ty {
        Type::List(item) => {
            let list = object.entry(field.name).or_insert_with(|| json!([]));
            let Value::Array(items) = list else { return Err(Error::Malformed) };
            items.push(value(wire, item, depth)?);
        }
        Type::Map(item) => {
            let (key, value) = pair(wire, (item, field.either), depth)?;
            let map = object.entry(field.name).or_insert_with(|| json!({}));
            map[key] = value;
        }
        ty => {
            let value = one(wire, (ty, field.either), depth)?;
            let absent = value.is_null() || (field.zero_is_absent && is_zero(&value));
            if !absent {
                object.insert(field.name.to_owned(), value);
            }
        }
    }
    Ok(())
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::Bool(flag) => !flag,
        Value::String(text) => text.is_empty(),
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

/// An entry of a map: a message of key and value.
fn pair(wire: Wire<'_>, item: (&Type, Option<Either>), depth: usize) -> Result<(String, Value)> {
    let Wire::Bytes(bytes) = wire else { return Err(Error::Malformed) };
    let mut key = String::new();
    let mut found = match item.0 {
        Type::String => json!(""),
        _ => Value::Null,
    };
    for entry in Entries(bytes) {
        match entry? {
            (1, Wire::Bytes(text)) => key = utf8(text)?,
            (2, wire) => found = one(wire, item, depth)?,
            _ => {}
        }
    }
    Ok((key, found))
}

/// A value of a type, or what stands where a schema could.
fn one(wire: Wire<'_>, (ty, either): (&Type, Option<Either>), depth: usize) -> Result<Value> {
    match (either, wire) {
        (None, _) => value(wire, ty, depth),
        (Some(either), Wire::Bytes(bytes)) => either::read(bytes, either, depth + 1),
        _ => Err(Error::Malformed),
    }
}

fn value(wire: Wire<'_>, ty: &Type, depth: usize) -> Result<Value> {
    match (ty, wire) {
        (Type::String, Wire::Bytes(bytes)) => utf8(bytes).map(Value::from),
        (Type::Bytes, Wire::Bytes(bytes)) => Ok(Value::from(STANDARD.encode(bytes))),
        (Type::Bool, Wire::Varint(number)) => Ok(Value::from(number != 0)),
        (Type::Int32 | Type::Int64, Wire::Varint(number)) => Ok(Value::from(number.cast_signed())),
        (Type::Double, Wire::Fixed64(bits)) => Ok(Value::from(f64::from_bits(bits))),
        (Type::Double, Wire::Fixed32(bits)) => Ok(Value::from(f32::from_bits(bits))),
        (Type::Time, Wire::Bytes(bytes)) => time(bytes, false),
        (Type::MicroTime, Wire::Bytes(bytes)) => time(bytes, true),
        (Type::Quantity, Wire::Bytes(bytes)) => first_text(bytes),
        (Type::IntOrString, Wire::Bytes(bytes)) => int_or_string(bytes),
        (Type::Any, Wire::Bytes(bytes)) => raw_json(bytes),
        (Type::Ref(id), Wire::Bytes(bytes)) => {
            message(bytes, schema().get(*id), depth + 1).map(Value::Object)
        }
        // A list in a map is a message of repeated items, as `ExtraValue` is.
        (Type::List(item), Wire::Bytes(bytes)) => Entries(bytes)
            .map(|entry| value(entry?.1, item, depth + 1))
            .collect::<Result<Vec<_>>>()
            .map(Value::Array),
        _ => Err(Error::Malformed),
    }
}

/// The text in a message's first field.
fn first_text(bytes: &[u8]) -> Result<Value> {
    for entry in Entries(bytes) {
        if let (1, Wire::Bytes(text)) = entry? {
            return utf8(text).map(Value::from);
        }
    }
    Ok(Value::from("0"))
}

/// JSON that was carried along as it is (`RawExtension`, `FieldsV1`).
fn raw_json(bytes: &[u8]) -> Result<Value> {
    for entry in Entries(bytes) {
        if let (1, Wire::Bytes(text)) = entry? {
            return serde_json::from_slice(text).map_err(|_| Error::Malformed);
        }
    }
    Ok(Value::Null)
}

fn int_or_string(bytes: &[u8]) -> Result<Value> {
    let (mut is_text, mut number, mut text) = (false, 0, String::new());
    for entry in Entries(bytes) {
        match entry? {
            (1, Wire::Varint(kind)) => is_text = kind == 1,
            (2, Wire::Varint(value)) => number = value.cast_signed(),
            (3, Wire::Bytes(value)) => text = utf8(value)?,
            _ => {}
        }
    }
    Ok(if is_text { Value::from(text) } else { Value::from(number) })
}

/// Seconds and nanoseconds since 1970; none of both is no time at all.
fn time(bytes: &[u8], micro: bool) -> Result<Value> {
    let (mut seconds, mut nanos) = (0, 0);
    for entry in Entries(bytes) {
        match entry? {
            (1, Wire::Varint(value)) => seconds = value.cast_signed(),
            (2, Wire::Varint(value)) => nanos = i32::try_from(value).map_err(|_| Error::Malformed)?,
            _ => {}
        }
    }
    if bytes.is_empty() || (seconds == ZERO_S && (nanos == 0 || !micro)) {
        return Ok(Value::Null);
    }
    let time = jiff::Timestamp::new(seconds, if micro { nanos } else { 0 }).map_err(|_| Error::Malformed)?;
    Ok(Value::from(if micro { format!("{time:.6}") } else { time.to_string() }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::KINDS;
    use std::path::Path;

    /// Fields of the samples that the field tables do not describe (as in Kubernetes' own document).
    fn comparable(mut object: Value) -> Value {
        if let Some(meta) = object["metadata"].as_object_mut() {
            meta.remove("managedFields");
        }
        object
    }

    #[test]
    fn every_kind_of_the_wire_samples_is_read() {
        let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/spec/wire-1.36"));
        if !folder.exists() {
            // Only the project's own checkout has the samples beside it.
            return;
        }
        let mut different = Vec::new();
        for kind in KINDS {
            let group = if kind.group.is_empty() { "core" } else { kind.group };
            let base = folder.join(format!("{group}.{}.{}", kind.version, kind.kind));
            let (Ok(wire), Ok(text)) = (
                std::fs::read(format!("{}.pb", base.display())),
                std::fs::read(format!("{}.json", base.display())),
            ) else {
                continue;
            };
            let mut wanted: Value = serde_json::from_slice(&text).unwrap();
            let own_json = wanted.clone();
            crate::schema::check(&mut wanted, schema().of(kind).unwrap());
            match encode(&own_json) {
                Ok(own) if own == wire => {}
                Ok(own) => different.push(format!(
                    "{}: written otherwise: {}",
                    kind.kind,
                    first_other_byte(&own, &wire)
                )),
                Err(error) => different.push(format!("{}: not written: {error}", kind.kind)),
            }
            match decode(&wire) {
                Ok(own) if comparable(own.clone()) == comparable(wanted.clone()) => {}
                Ok(own) => different.push(format!(
                    "{}: {}",
                    kind.kind,
                    first_difference(&comparable(own), &comparable(wanted), "")
                )),
                Err(error) => different.push(format!("{}: {error}", kind.kind)),
            }
        }
        assert_eq!(different, Vec::<String>::new());
    }

    fn first_other_byte(own: &[u8], wire: &[u8]) -> String {
        let at = own.iter().zip(wire).position(|(a, b)| a != b).unwrap_or(own.len().min(wire.len()));
        let near =
            |bytes: &[u8]| bytes[at.saturating_sub(24)..bytes.len().min(at + 24)].escape_ascii().to_string();
        format!("at {at} of {}: {} is not {}", wire.len(), near(own), near(wire))
    }

    fn first_difference(own: &Value, wanted: &Value, path: &str) -> String {
        match (own, wanted) {
            (Value::Object(a), Value::Object(b)) => {
                let keys = a.keys().chain(b.keys());
                for key in keys {
                    let (x, y) = (a.get(key).unwrap_or(&Value::Null), b.get(key).unwrap_or(&Value::Null));
                    if x != y {
                        return first_difference(x, y, &format!("{path}.{key}"));
                    }
                }
                String::new()
            }
            (Value::Array(a), Value::Array(b)) if a.len() == b.len() => a
                .iter()
                .zip(b)
                .position(|(x, y)| x != y)
                .map_or_else(String::new, |i| first_difference(&a[i], &b[i], &format!("{path}[{i}]"))),
            _ => format!("{path}: {own} is not {wanted}"),
        }
    }

    #[test]
    fn verbs_are_a_message_of_their_own() {
        let list = json!({"apiVersion": "v1", "kind": "APIResourceList", "groupVersion": "v1", "resources": [
            {"name": "pods", "singularName": "pod", "namespaced": true, "kind": "Pod", "verbs": ["get", "list"]}]});
        let bytes = encode(&list).unwrap();
        let verbs = b"\x22\x0b\x0a\x03get\x0a\x04list";
        assert!(bytes.windows(verbs.len()).any(|window| window == verbs));
        assert_eq!(decode(&bytes).unwrap(), list);
    }

    #[test]
    fn rubbish_is_refused() {
        for bytes in [
            &b""[..],
            b"k8s\0\x0a",
            b"k8s\0\x0a\x05\x0a\x02v1",
            b"{}",
            b"k8s\0\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        ] {
            assert!(decode(bytes).is_err());
        }
    }
}
