//! Objects from JSON to protobuf: the fields in the order of their numbers, as Kubernetes' own encoder
//! writes them, so that equal objects are equal bytes.

use super::wire::Message;
use super::{Error, MAGIC, Result, type_of};
use crate::schema::{Field, Type, TypeDef, schema};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

/// An object in its envelope (`runtime.Unknown`).
pub fn encode(object: &Value) -> Result<Vec<u8>> {
    let stated = |name: &str| object[name].as_str().unwrap_or_default();
    let (api_version, kind) = (stated("apiVersion"), stated("kind"));
    let def = schema().get(type_of(api_version, kind)?);
    Ok(envelope(api_version, kind, message(object, def)?))
}

/// An event of a watch, which carries the object in its envelope and comes in none itself.
pub fn encode_event(what: &str, object: &[u8]) -> Vec<u8> {
    let mut raw = Message::new();
    raw.bytes(1, object);
    let mut event = Message::new();
    event.bytes(1, what.as_bytes());
    event.message(2, &raw);
    event.into_bytes()
}

fn envelope(api_version: &str, kind: &str, object: Message) -> Vec<u8> {
    let mut meta = Message::new();
    meta.bytes(1, api_version.as_bytes());
    meta.bytes(2, kind.as_bytes());
    let mut unknown = Message::new();
    unknown.message(1, &meta);
    unknown.message(2, &object);
    // The content's encoding and type, which Kubernetes leaves empty.
    unknown.bytes(3, b"");
    unknown.bytes(4, b"");
    [MAGIC, &unknown.into_bytes()].concat()
}

fn message(value: &Value, def: &TypeDef) -> Result<Message> {
    let object = value.as_object().ok_or(Error::Malformed)?;
    let mut message = Message::new();
    let fields: Vec<&Field> = def.wire_order.iter().map(|index| &def.fields[*index]).collect();
    write_fields(&mut message, &fields, 0, object)?;
    Ok(message)
}

/// Writes fields that share their first `depth` numbers, those of the messages that JSON inlines.
fn write_fields(
    message: &mut Message,
    fields: &[&Field],
    depth: usize,
    object: &Map<String, Value>,
) -> Result<()> {
    for group in fields.chunk_by(|a, b| a.numbers[depth] == b.numbers[depth]) {
        let number = group[0].numbers[depth];
        if let [field] = group
            && field.numbers.len() == depth + 1
        {
            write_field(message, number, field, object.get(field.name))?;
        } else {
            let mut inlined = Message::new();
            write_fields(&mut inlined, group, depth + 1, object)?;
            message.message(number, &inlined);
        }
    }
    Ok(())
}

fn write_field(message: &mut Message, number: u32, field: &Field, value: Option<&Value>) -> Result<()> {
    match (value.filter(|value| !value.is_null()), &field.ty) {
        (None, ty) if field.zero_is_absent => write_zero(message, number, ty),
        (None, _) => Ok(()),
        (Some(Value::Array(items)), Type::List(item)) => {
            items.iter().try_for_each(|value| write(message, number, value, item))
        }
        (Some(Value::Object(entries)), Type::Map(item)) => entries.iter().try_for_each(|(key, value)| {
            let mut entry = Message::new();
            entry.bytes(1, key.as_bytes());
            match value {
                Value::Null => write_zero(&mut entry, 2, item)?,
                value => write(&mut entry, 2, value, item)?,
            }
            message.message(number, &entry);
            Ok(())
        }),
        (Some(value), ty) => write(message, number, value, ty),
    }
}

/// What stands for a value that is absent, but no pointer in Kubernetes' own types.
fn write_zero(message: &mut Message, number: u32, ty: &Type) -> Result<()> {
    let zero = match ty {
        Type::String => Value::from(""),
        Type::Int32 | Type::Int64 | Type::IntOrString => Value::from(0),
        Type::Double => Value::from(0.0),
        Type::Bool => Value::from(false),
        Type::Quantity => Value::from("0"),
        Type::Ref(_) => Value::Object(Map::new()),
        Type::Time | Type::MicroTime | Type::Any => {
            message.message(number, &Message::new());
            return Ok(());
        }
        Type::Bytes | Type::List(_) | Type::Map(_) => return Ok(()),
    };
    write(message, number, &zero, ty)
}

fn write(message: &mut Message, number: u32, value: &Value, ty: &Type) -> Result<()> {
    let text = || value.as_str().ok_or(Error::Malformed);
    match ty {
        Type::String => message.bytes(number, text()?.as_bytes()),
        Type::Bytes => message.bytes(number, &STANDARD.decode(text()?).map_err(|_| Error::Malformed)?),
        Type::Bool => message.number(number, value.as_bool().ok_or(Error::Malformed)?.into()),
        Type::Int32 | Type::Int64 => message.number(number, integer(value)?),
        Type::Double => message.double(number, value.as_f64().ok_or(Error::Malformed)?),
        Type::Time => message.message(number, &time(text()?, false)?),
        Type::MicroTime => message.message(number, &time(text()?, true)?),
        Type::Quantity => message.message(number, &quantity(value)),
        Type::IntOrString => message.message(number, &int_or_string(value)?),
        Type::Any => {
            let mut raw = Message::new();
            raw.bytes(1, value.to_string().as_bytes());
            message.message(number, &raw);
        }
        Type::Ref(id) => message.message(number, &self::message(value, schema().get(*id))?),
        // A list in a map is a message of repeated items, as `ExtraValue` is.
        Type::List(item) => {
            let mut list = Message::new();
            let items = value.as_array().ok_or(Error::Malformed)?;
            items.iter().try_for_each(|value| write(&mut list, 1, value, item))?;
            message.message(number, &list);
        }
        Type::Map(_) => return Err(Error::Malformed),
    }
    Ok(())
}

fn integer(value: &Value) -> Result<u64> {
    value.as_i64().map(i64::cast_unsigned).ok_or(Error::Malformed)
}

fn quantity(value: &Value) -> Message {
    let mut message = Message::new();
    match value {
        Value::String(text) => message.bytes(1, text.as_bytes()),
        other => message.bytes(1, other.to_string().as_bytes()),
    }
    message
}

fn int_or_string(value: &Value) -> Result<Message> {
    let mut message = Message::new();
    let (kind, number, text) = match value {
        Value::String(text) => (1, 0, text.as_str()),
        number => (0, integer(number)?, ""),
    };
    message.number(1, kind);
    message.number(2, number);
    message.bytes(3, text.as_bytes());
    Ok(message)
}

fn time(text: &str, micro: bool) -> Result<Message> {
    let time: jiff::Timestamp = text.parse().map_err(|_| Error::Malformed)?;
    let mut message = Message::new();
    message.number(1, time.as_second().cast_unsigned());
    let nanos = if micro { i64::from(time.subsec_nanosecond()) } else { 0 };
    message.number(2, nanos.cast_unsigned());
    Ok(message)
}
