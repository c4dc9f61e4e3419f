//! What stands where a schema of custom resources could: a message that has either (`JSONSchemaPropsOrBool`,
//! `JSONSchemaPropsOrArray`, `JSONSchemaPropsOrStringArray`).

use super::wire::Message;
use super::{Entries, Error, Result, Wire, encode, message, utf8};
use crate::schema::{Either, TypeDef, schema};
use serde_json::Value;
use std::sync::LazyLock;

fn props() -> &'static TypeDef {
    static PROPS: LazyLock<&'static TypeDef> = LazyLock::new(|| {
        let id = schema().by_name("apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps");
        schema().get(id.expect("the published schemas have the type of schemas"))
    });
    &PROPS
}

impl Either {
    /// The fields of the schema and of what it may be instead.
    fn numbers(self) -> (u32, u32) {
        match self {
            Self::Flag => (2, 1),
            Self::Schemas | Self::Names => (1, 2),
        }
    }
}

pub(super) fn read(bytes: &[u8], either: Either, depth: usize) -> Result<Value> {
    let (of_schema, of_other) = either.numbers();
    let schema = |bytes: &[u8]| message(bytes, props(), depth).map(Value::Object);
    let (mut found, mut flag, mut list) = (Value::Null, false, Vec::new());
    for entry in Entries(bytes) {
        match (entry?, either) {
            ((number, Wire::Bytes(bytes)), _) if number == of_schema => found = schema(bytes)?,
            ((number, _), _) if number != of_other => {}
            ((_, Wire::Varint(number)), Either::Flag) => flag = number != 0,
            ((_, Wire::Bytes(bytes)), Either::Schemas) => list.push(schema(bytes)?),
            ((_, Wire::Bytes(bytes)), Either::Names) => list.push(utf8(bytes)?.into()),
            _ => return Err(Error::Malformed),
        }
    }
    Ok(match either {
        Either::Flag if found.is_null() => flag.into(),
        _ if list.is_empty() => found,
        _ => list.into(),
    })
}

pub(super) fn write(value: &Value, either: Either) -> Message {
    let (of_schema, of_other) = either.numbers();
    let mut written = Message::new();
    if either == Either::Flag {
        written.number(of_other, (*value != Value::Bool(false)).into());
    }
    match value {
        Value::Object(_) => written.message(of_schema, &encode::message(value, props())),
        Value::Array(items) => items.iter().for_each(|item| match item {
            Value::String(name) => written.bytes(of_other, name.as_bytes()),
            schema => written.message(of_other, &encode::message(schema, props())),
        }),
        _ => {}
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_definition_goes_over_the_wire_and_back() {
        let schema = json!({"type": "object", "properties": {
            "open": {"type": "object", "additionalProperties": true},
            "closed": {"type": "object", "additionalProperties": false},
            "typed": {"type": "object", "additionalProperties": {"type": "array", "items": {"type": "string"}}},
            "tuple": {"type": "array", "items": [{"type": "string"}, {"type": "integer"}]},
            "bound": {"dependencies": {"a": ["b", "c"], "d": {"type": "string"}}}}});
        let definition = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "spec": {"versions": [{"name": "v1", "schema": {"openAPIV3Schema": schema}}]}});
        let bytes = encode(&definition).unwrap();
        let read = super::super::decode(&bytes).unwrap();
        assert_eq!(read["spec"]["versions"][0]["schema"]["openAPIV3Schema"], schema);
    }

    #[test]
    fn the_messages_are_those_of_the_published_fields() {
        let bytes = |value: &Value, either| write(value, either).into_bytes();
        assert_eq!(bytes(&json!(true), Either::Flag), [0x08, 1]);
        assert_eq!(bytes(&json!(false), Either::Flag), [0x08, 0]);
        let text = json!({"type": "string"});
        let schema = encode::message(&text, props()).into_bytes();
        let length = u8::try_from(schema.len()).unwrap_or(0);
        // A length of more than a byte has a second one.
        let (low, high) = (length & 0x7f | 0x80, length >> 7);
        let head = |key: u8| if high > 0 { vec![key, low, high] } else { vec![key, length] };
        assert_eq!(bytes(&text, Either::Flag), [vec![0x08, 1], head(0x12), schema.clone()].concat());
        assert_eq!(bytes(&text, Either::Schemas), [head(0x0a), schema].concat());
        assert_eq!(bytes(&json!(["a"]), Either::Names), [0x12, 1, b'a']);
    }
}
