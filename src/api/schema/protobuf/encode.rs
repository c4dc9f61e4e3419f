//! Objects from JSON to protobuf: the fields in the order of their numbers, as Kubernetes' own encoder
//! writes them, so that equal objects are equal bytes. What is not of its field's type, and so was never
//! let in, is written as that type's zero value.

use super::wire::Message;
use super::{MAGIC, Result, type_of};
use crate::schema::{Either, Field, Type, TypeDef, schema};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

/// An object in its envelope (`runtime.Unknown`). Fails for kinds that the tables do not have.
pub fn encode(object: &Value) -> Result<Vec<u8>> {
    let stated = |name: &str| object[name].as_str().unwrap_or_default();
    let (api_version, kind) = (stated("apiVersion"), stated("kind"));
    let object = message(object, schema().get(type_of(api_version, kind)?)).into_bytes();
    let mut bytes = head(api_version, kind, object.len());
    bytes.extend_from_slice(&object);
    bytes.extend_from_slice(TAIL);
    Ok(bytes)
}

/// One object of a list of this kind, as [`encode_list`] takes it.
pub fn encode_item(object: &Value, api_version: &str, kind: &str) -> Result<Vec<u8>> {
    let mut item = Message::new();
    item.message(2, &message(object, schema().get(type_of(api_version, kind)?)));
    Ok(item.into_bytes())
}

/// A list in its envelope, in pieces: `kind` is the list's, `metadata` its `ListMeta`.
pub fn encode_list(
    api_version: &str,
    kind: &str,
    metadata: &Value,
    items: Vec<Vec<u8>>,
) -> Result<Vec<Vec<u8>>> {
    let def = schema().get(type_of("v1", "ListMeta")?);
    let mut meta = Message::new();
    meta.message(1, &message(metadata, def));
    let meta = meta.into_bytes();
    let length = meta.len() + items.iter().map(Vec::len).sum::<usize>();
    let mut first = head(api_version, kind, length);
    first.extend_from_slice(&meta);
    let pieces = std::iter::once(first).chain(items).chain([TAIL.to_vec()]);
    Ok(pieces.collect())
}

/// An event of a watch, which carries the object in its envelope and comes in none itself, behind its
/// length as every frame of such a stream.
pub fn encode_event(what: &str, object: &[u8]) -> Vec<u8> {
    let mut raw = Message::new();
    raw.bytes(1, object);
    let mut event = Message::new();
    event.bytes(1, what.as_bytes());
    event.message(2, &raw);
    let event = event.into_bytes();
    let length = u32::try_from(event.len()).unwrap_or(u32::MAX);
    [&length.to_be_bytes()[..], &event].concat()
}

/// The envelope's beginning, up to the object of this length.
fn head(api_version: &str, kind: &str, length: usize) -> Vec<u8> {
    let mut meta = Message::new();
    meta.bytes(1, api_version.as_bytes());
    meta.bytes(2, kind.as_bytes());
    let mut unknown = Message::new();
    unknown.message(1, &meta);
    unknown.announce(2, length);
    [MAGIC, &unknown.into_bytes()].concat()
}

/// The envelope's end: the content's encoding and type, which Kubernetes leaves empty.
const TAIL: &[u8] = &[0x1a, 0, 0x22, 0];

pub(super) fn message(value: &Value, def: &TypeDef) -> Message {
    let mut message = Message::new();
    let none = Map::new();
    let fields: Vec<&Field> = def.wire_order.iter().map(|index| &def.fields[*index]).collect();
    write_fields(&mut message, &fields, 0, value.as_object().unwrap_or(&none));
    message
}

/// Writes fields that share their first `depth` numbers, those of the messages that JSON inlines.
fn write_fields(message: &mut Message, fields: &[&Field], depth: usize, object: &Map<String, Value>) {
    for group in fields.chunk_by(|a, b| a.numbers[depth] == b.numbers[depth]) {
        let number = group[0].numbers[depth];
        if let [field] = group
            && field.numbers.len() == depth + 1
        {
            write_field(message, number, field, object.get(field.name));
        } else {
            let mut inlined = Message::new();
            write_fields(&mut inlined, group, depth + 1, object);
            message.message(number, &inlined);
        }
    }
}

fn write_field(message: &mut Message, number: u32, field: &Field, value: Option<&Value>) {
    match (value.filter(|value| !value.is_null()), &field.ty) {
        (None, ty) if field.zero_is_absent => write_zero(message, number, ty),
        (None, _) => {}
        (Some(Value::Array(items)), Type::List(item)) => {
            items.iter().for_each(|value| write(message, number, value, item));
        }
        (Some(Value::Object(entries)), Type::Map(item)) => {
            for (key, value) in entries {
                let mut entry = Message::new();
                entry.bytes(1, key.as_bytes());
                match value {
                    Value::Null => write_zero(&mut entry, 2, item),
                    value => write_one(&mut entry, 2, value, (item, field.either)),
                }
                message.message(number, &entry);
            }
        }
        (Some(value), ty) => write_one(message, number, value, (ty, field.either)),
    }
}

fn write_one(message: &mut Message, number: u32, value: &Value, (ty, either): (&Type, Option<Either>)) {
    match either {
        None => write(message, number, value, ty),
        Some(either) => message.message(number, &super::either::write(value, either)),
    }
}

/// What stands for a value that is absent, but no pointer in Kubernetes' own types.
fn write_zero(message: &mut Message, number: u32, ty: &Type) {
    match ty {
        Type::Time | Type::MicroTime | Type::Any => message.message(number, &Message::new()),
        Type::Bytes | Type::List(_) | Type::Map(_) => {}
        Type::Quantity => write(message, number, &Value::from("0"), ty),
        ty => write(message, number, &Value::Null, ty),
    }
}

fn write(message: &mut Message, number: u32, value: &Value, ty: &Type) {
    let text = value.as_str().unwrap_or_default();
    match ty {
        Type::String => message.bytes(number, text.as_bytes()),
        Type::Bytes => message.bytes(number, &STANDARD.decode(text).unwrap_or_default()),
        Type::Bool => message.number(number, (value.as_bool() == Some(true)).into()),
        Type::Int32 | Type::Int64 => message.number(number, integer(value)),
        Type::Double => message.double(number, value.as_f64().unwrap_or_default()),
        Type::Time => message.message(number, &time(text, false)),
        Type::MicroTime => message.message(number, &time(text, true)),
        Type::Quantity => message.message(number, &quantity(value)),
        Type::IntOrString => message.message(number, &int_or_string(value)),
        Type::Any => {
            let mut raw = Message::new();
            raw.bytes(1, value.to_string().as_bytes());
            message.message(number, &raw);
        }
        Type::Ref(id) => message.message(number, &self::message(value, schema().get(*id))),
        // A list in a map is a message of repeated items, as `ExtraValue` is.
        Type::List(item) => {
            let mut list = Message::new();
            value.as_array().into_iter().flatten().for_each(|value| write(&mut list, 1, value, item));
            message.message(number, &list);
        }
        // No field of Kubernetes' is a list or map of maps.
        Type::Map(_) => {}
    }
}

fn integer(value: &Value) -> u64 {
    value.as_i64().unwrap_or_default().cast_unsigned()
}

fn quantity(value: &Value) -> Message {
    let mut message = Message::new();
    match value {
        Value::String(text) => message.bytes(1, text.as_bytes()),
        other => message.bytes(1, other.to_string().as_bytes()),
    }
    message
}

fn int_or_string(value: &Value) -> Message {
    let text = value.as_str();
    let mut message = Message::new();
    message.number(1, text.is_some().into());
    message.number(2, integer(value));
    message.bytes(3, text.unwrap_or_default().as_bytes());
    message
}

fn time(text: &str, micro: bool) -> Message {
    let mut message = Message::new();
    if let Ok(time) = text.parse::<jiff::Timestamp>() {
        message.number(1, time.as_second().cast_unsigned());
        let nanos = if micro { i64::from(time.subsec_nanosecond()) } else { 0 };
        message.number(2, nanos.cast_unsigned());
    }
    message
}
