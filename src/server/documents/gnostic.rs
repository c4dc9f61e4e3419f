//! `/openapi/v2` as the protobuf message that kubectl and client-go ask for
//! (`openapi.v2.Document` of google/gnostic-models), made from the JSON document by a table of the
//! fields that occur in it.

use api::schema::protobuf::wire::Message;
use serde_json::{Map, Value};

/// How a JSON value is written into a field.
#[derive(Clone, Copy)]
enum Shape {
    Text,
    Flag,
    /// A message of its own.
    Message(&'static Spec),
    /// A list, each item a message.
    Messages(&'static Spec),
    /// An object, each entry a message of name (1) and value (2), in a message whose field is this.
    Entries(u32, &'static Spec),
    /// A list of texts.
    Texts,
    /// A text or list of texts, in a message whose field 1 repeats.
    Types,
    /// A message, in a message whose field 1 it is.
    Wrapped(&'static Spec),
    /// A parameter: of the body, or of the query.
    Parameters,
}

/// A message: JSON names, field numbers, shapes; and the number of `vendor_extension`, which takes
/// every name that begins with `x-`.
struct Spec {
    fields: &'static [(&'static str, u32, Shape)],
    extension: Option<u32>,
}

static DOCUMENT: Spec = Spec {
    fields: &[
        ("swagger", 1, Shape::Text),
        ("info", 2, Shape::Message(&INFO)),
        ("paths", 8, Shape::Entries(2, &PATH_ITEM)),
        ("definitions", 9, Shape::Entries(1, &SCHEMA)),
    ],
    extension: Some(16),
};

static INFO: Spec =
    Spec { fields: &[("title", 1, Shape::Text), ("version", 2, Shape::Text)], extension: None };

static PATH_ITEM: Spec = Spec {
    fields: &[
        ("get", 2, Shape::Message(&OPERATION)),
        ("put", 3, Shape::Message(&OPERATION)),
        ("post", 4, Shape::Message(&OPERATION)),
        ("delete", 5, Shape::Message(&OPERATION)),
        ("patch", 8, Shape::Message(&OPERATION)),
    ],
    extension: Some(10),
};

static OPERATION: Spec = Spec {
    fields: &[
        ("description", 3, Shape::Text),
        ("operationId", 5, Shape::Text),
        ("parameters", 8, Shape::Parameters),
        ("responses", 9, Shape::Entries(1, &RESPONSE_VALUE)),
    ],
    extension: Some(13),
};

/// A response stands in a message of its own, beside which a reference could stand.
static RESPONSE_VALUE: Spec = Spec { fields: &[("", 1, Shape::Message(&RESPONSE))], extension: None };

static RESPONSE: Spec = Spec {
    fields: &[("description", 1, Shape::Text), ("schema", 2, Shape::Wrapped(&SCHEMA))],
    extension: None,
};

static BODY_PARAMETER: Spec = Spec {
    fields: &[
        ("name", 2, Shape::Text),
        ("in", 3, Shape::Text),
        ("required", 4, Shape::Flag),
        ("schema", 5, Shape::Message(&SCHEMA)),
    ],
    extension: None,
};

static QUERY_PARAMETER: Spec = Spec {
    fields: &[("in", 2, Shape::Text), ("name", 4, Shape::Text), ("type", 6, Shape::Text)],
    extension: None,
};

static SCHEMA: Spec = Spec {
    fields: &[
        ("$ref", 1, Shape::Text),
        ("format", 2, Shape::Text),
        ("description", 4, Shape::Text),
        ("required", 19, Shape::Texts),
        ("additionalProperties", 21, Shape::Wrapped(&SCHEMA)),
        ("type", 22, Shape::Types),
        ("items", 23, Shape::Wrapped(&SCHEMA)),
        ("allOf", 24, Shape::Messages(&SCHEMA)),
        ("properties", 25, Shape::Entries(1, &SCHEMA)),
    ],
    extension: Some(31),
};

/// The document as its protobuf message.
pub(super) fn encode(document: &Value) -> Vec<u8> {
    message(document, &DOCUMENT).into_bytes()
}

fn message(value: &Value, spec: &Spec) -> Message {
    let mut message = Message::new();
    // A message that only wraps: its one field is the value itself.
    if let [("", number, shape)] = spec.fields {
        write(&mut message, *number, *shape, value);
        return message;
    }
    let empty = Map::new();
    let object = value.as_object().unwrap_or(&empty);
    for (name, number, shape) in spec.fields {
        if let Some(value) = object.get(*name) {
            write(&mut message, *number, *shape, value);
        }
    }
    let extensions = object.iter().filter(|(name, _)| name.starts_with("x-"));
    if let Some(number) = spec.extension {
        extensions.for_each(|(name, value)| message.message(number, &extension(name, value)));
    }
    message
}

fn write(message: &mut Message, number: u32, shape: Shape, value: &Value) {
    match shape {
        Shape::Text => message.bytes(number, text(value)),
        Shape::Flag => message.number(number, u64::from(value.as_bool() == Some(true))),
        Shape::Texts => items(value).iter().for_each(|item| message.bytes(number, text(item))),
        Shape::Types => {
            let mut types = Message::new();
            match value {
                Value::Array(several) => several.iter().for_each(|one| types.bytes(1, text(one))),
                one => types.bytes(1, text(one)),
            }
            message.message(number, &types);
        }
        Shape::Message(spec) => message.message(number, &self::message(value, spec)),
        Shape::Messages(spec) => {
            items(value).iter().for_each(|item| message.message(number, &self::message(item, spec)));
        }
        Shape::Wrapped(spec) => message.message(number, &wrapped(self::message(value, spec), &1)),
        Shape::Entries(field, spec) => {
            let mut entries = Message::new();
            for (name, value) in value.as_object().into_iter().flatten() {
                let mut entry = Message::new();
                entry.bytes(1, name.as_bytes());
                entry.message(2, &self::message(value, spec));
                entries.message(field, &entry);
            }
            message.message(number, &entries);
        }
        Shape::Parameters => {
            for item in items(value) {
                let (way, spec): (&[u32], _) = if item["in"] == "body" {
                    (&[1, 1], &BODY_PARAMETER)
                } else {
                    (&[1, 2, 3], &QUERY_PARAMETER)
                };
                let parameter = way.iter().rev().fold(self::message(item, spec), wrapped);
                message.message(number, &parameter);
            }
        }
    }
}

fn wrapped(inner: Message, number: &u32) -> Message {
    let mut outer = Message::new();
    outer.message(*number, &inner);
    outer
}

fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> &[u8] {
    value.as_str().unwrap_or_default().as_bytes()
}

/// A name and its value, which is carried as YAML; JSON is YAML.
fn extension(name: &str, value: &Value) -> Message {
    let mut any = Message::new();
    any.bytes(2, value.to_string().as_bytes());
    let mut named = Message::new();
    named.bytes(1, name.as_bytes());
    named.message(2, &any);
    named
}
