//! The OpenAPI documents as the protobuf messages that kubectl and client-go ask for
//! (`openapi.v2.Document` and `openapi.v3.Document` of google/gnostic-models), made from the JSON
//! documents by tables of the fields that occur in them.

use api::schema::protobuf::wire::Message;
use api::yaml;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, Visitor};
use serde_json::Value;
use std::fmt;
use std::io::{Read, Write};

/// How a JSON value is written into a field.
#[derive(Clone, Copy)]
enum Shape {
    Text,
    /// A list of texts.
    Texts,
    Flag,
    /// A message of its own.
    Message(&'static Spec),
    /// A list, each item a message.
    Messages(&'static Spec),
    /// An object, each entry a message of name (1) and value (2), in a message whose field is this.
    Entries(u32, &'static Spec),
    /// A text or list of texts, in a message whose field 1 repeats.
    Types,
    /// A message, in a message whose field 1 it is.
    Wrapped(&'static Spec),
    /// A list of values, each as YAML.
    Values,
    /// A scalar, in a message with a field for each type.
    Scalar,
}

/// How a JSON object is written as a message.
enum Spec {
    /// JSON names, field numbers, shapes; and the number of the extensions, which take every name that
    /// begins with `x-`.
    Fields(&'static [(&'static str, u32, Shape)], u32),
    /// A message whose field 1 is this, or whose field 2 is a reference to it.
    OrReference(&'static Spec),
    /// A message that nests others by what `in` says.
    ByPlace(&'static [(&'static str, &'static [u32], &'static Spec)]),
    /// Names, each with a list of texts.
    Requirement,
}

/// `openapi.v2.Document`.
pub(super) static V2: Document = Document(&Spec::Fields(
    &[
        ("swagger", 1, Shape::Text),
        ("info", 2, Shape::Message(&INFO_2)),
        ("paths", 8, Shape::Entries(2, &PATH_ITEM_2)),
        ("definitions", 9, Shape::Entries(1, &SCHEMA_2)),
        ("parameters", 10, Shape::Entries(1, &PARAMETER_2)),
        ("security", 12, Shape::Messages(&Spec::Requirement)),
        ("securityDefinitions", 13, Shape::Entries(1, &SECURITY_2)),
    ],
    16,
));

/// `openapi.v3.Document`.
pub(super) static V3: Document = Document(&Spec::Fields(
    &[
        ("openapi", 1, Shape::Text),
        ("info", 2, Shape::Message(&INFO_3)),
        ("paths", 4, Shape::Entries(1, &PATH_ITEM_3)),
        ("components", 5, Shape::Message(&COMPONENTS_3)),
    ],
    9,
));

static INFO_2: Spec = Spec::Fields(&[("title", 1, Shape::Text), ("version", 2, Shape::Text)], 7);
static INFO_3: Spec = Spec::Fields(&[("title", 1, Shape::Text), ("version", 6, Shape::Text)], 7);

static PATH_ITEM_2: Spec = Spec::Fields(
    &[
        ("get", 2, Shape::Message(&OPERATION_2)),
        ("put", 3, Shape::Message(&OPERATION_2)),
        ("post", 4, Shape::Message(&OPERATION_2)),
        ("delete", 5, Shape::Message(&OPERATION_2)),
        ("options", 6, Shape::Message(&OPERATION_2)),
        ("head", 7, Shape::Message(&OPERATION_2)),
        ("patch", 8, Shape::Message(&OPERATION_2)),
        ("parameters", 9, Shape::Messages(&PARAMETERS_ITEM_2)),
    ],
    10,
);

static PATH_ITEM_3: Spec = Spec::Fields(
    &[
        ("get", 4, Shape::Message(&OPERATION_3)),
        ("put", 5, Shape::Message(&OPERATION_3)),
        ("post", 6, Shape::Message(&OPERATION_3)),
        ("delete", 7, Shape::Message(&OPERATION_3)),
        ("options", 8, Shape::Message(&OPERATION_3)),
        ("head", 9, Shape::Message(&OPERATION_3)),
        ("patch", 10, Shape::Message(&OPERATION_3)),
        ("parameters", 13, Shape::Messages(&PARAMETER_3)),
    ],
    14,
);

static OPERATION_2: Spec = Spec::Fields(
    &[
        ("tags", 1, Shape::Texts),
        ("operationId", 5, Shape::Text),
        ("produces", 6, Shape::Texts),
        ("consumes", 7, Shape::Texts),
        ("parameters", 8, Shape::Messages(&PARAMETERS_ITEM_2)),
        ("responses", 9, Shape::Entries(1, &RESPONSE_2)),
        ("schemes", 10, Shape::Texts),
    ],
    13,
);

static OPERATION_3: Spec = Spec::Fields(
    &[
        ("tags", 1, Shape::Texts),
        ("operationId", 5, Shape::Text),
        ("parameters", 6, Shape::Messages(&PARAMETER_3)),
        ("requestBody", 7, Shape::Message(&BODY_3)),
        ("responses", 8, Shape::Entries(2, &RESPONSE_3)),
    ],
    13,
);

static RESPONSE_2: Spec = Spec::OrReference(&Spec::Fields(
    &[("description", 1, Shape::Text), ("schema", 2, Shape::Wrapped(&SCHEMA_2))],
    5,
));

static RESPONSE_3: Spec = Spec::OrReference(&Spec::Fields(
    &[("description", 1, Shape::Text), ("content", 3, Shape::Entries(1, &MEDIA_3))],
    5,
));

static BODY_3: Spec = Spec::OrReference(&Spec::Fields(
    &[("content", 2, Shape::Entries(1, &MEDIA_3)), ("required", 3, Shape::Flag)],
    4,
));

static MEDIA_3: Spec = Spec::Fields(&[("schema", 1, Shape::Message(&SCHEMA_3))], 5);

static PARAMETERS_ITEM_2: Spec = Spec::OrReference(&PARAMETER_2);

static PARAMETER_2: Spec =
    Spec::ByPlace(&[("body", &[1], &BODY_2), ("query", &[2, 3], &QUERY_2), ("path", &[2, 4], &PATH_2)]);

static BODY_2: Spec = Spec::Fields(
    &[
        ("name", 2, Shape::Text),
        ("in", 3, Shape::Text),
        ("required", 4, Shape::Flag),
        ("schema", 5, Shape::Message(&SCHEMA_2)),
    ],
    6,
);

static QUERY_2: Spec = Spec::Fields(
    &[
        ("in", 2, Shape::Text),
        ("name", 4, Shape::Text),
        ("type", 6, Shape::Text),
        ("uniqueItems", 20, Shape::Flag),
    ],
    23,
);

static PATH_2: Spec = Spec::Fields(
    &[
        ("required", 1, Shape::Flag),
        ("in", 2, Shape::Text),
        ("name", 4, Shape::Text),
        ("type", 5, Shape::Text),
        ("uniqueItems", 19, Shape::Flag),
    ],
    22,
);

static PARAMETER_3: Spec = Spec::OrReference(&Spec::Fields(
    &[
        ("name", 1, Shape::Text),
        ("in", 2, Shape::Text),
        ("required", 4, Shape::Flag),
        ("schema", 10, Shape::Message(&SCHEMA_3)),
    ],
    14,
));

static SCHEMA_2: Spec = Spec::Fields(
    &[
        ("$ref", 1, Shape::Text),
        ("format", 2, Shape::Text),
        ("description", 4, Shape::Text),
        ("required", 19, Shape::Texts),
        ("enum", 20, Shape::Values),
        ("additionalProperties", 21, Shape::Wrapped(&SCHEMA_2)),
        ("type", 22, Shape::Types),
        ("items", 23, Shape::Wrapped(&SCHEMA_2)),
        ("properties", 25, Shape::Entries(1, &SCHEMA_2)),
    ],
    31,
);

static SCHEMA_3: Spec = Spec::OrReference(&Spec::Fields(
    &[
        ("uniqueItems", 20, Shape::Flag),
        ("required", 23, Shape::Texts),
        ("enum", 24, Shape::Values),
        ("type", 25, Shape::Text),
        ("allOf", 26, Shape::Messages(&SCHEMA_3)),
        ("oneOf", 27, Shape::Messages(&SCHEMA_3)),
        ("items", 30, Shape::Wrapped(&SCHEMA_3)),
        ("properties", 31, Shape::Entries(1, &SCHEMA_3)),
        ("additionalProperties", 32, Shape::Wrapped(&SCHEMA_3)),
        ("default", 33, Shape::Scalar),
        ("description", 34, Shape::Text),
        ("format", 35, Shape::Text),
    ],
    36,
));

static COMPONENTS_3: Spec = Spec::Fields(
    &[("schemas", 1, Shape::Entries(1, &SCHEMA_3)), ("securitySchemes", 7, Shape::Entries(1, &SECURITY_3))],
    10,
);

static SECURITY_2: Spec = Spec::ByPlace(&[(
    "header",
    &[2],
    &Spec::Fields(
        &[
            ("type", 1, Shape::Text),
            ("name", 2, Shape::Text),
            ("in", 3, Shape::Text),
            ("description", 4, Shape::Text),
        ],
        5,
    ),
)]);

static SECURITY_3: Spec = Spec::OrReference(&Spec::Fields(
    &[
        ("type", 1, Shape::Text),
        ("description", 2, Shape::Text),
        ("name", 3, Shape::Text),
        ("in", 4, Shape::Text),
    ],
    9,
));

/// A document that can be encoded.
pub(super) struct Document(&'static Spec);

impl Document {
    /// Encodes a JSON document as it is read. No more than one path or type of it is in memory at a time:
    /// messages that hold many are written once for each, as a message may be that stands in another, and
    /// readers put them together.
    pub(super) fn encode(&self, json: impl Read, out: &mut dyn Write) -> serde_json::Result<()> {
        let mut reader = serde_json::Deserializer::from_reader(json);
        Streamed { part: Part::Fields(self.0), within: &[], out }.deserialize(&mut reader)
    }
}

/// What an object on the way to the many consists of.
#[derive(Clone, Copy)]
enum Part {
    Fields(&'static Spec),
    /// Entries, each in a field of this number.
    Entries(u32, &'static Spec),
}

/// An object that is encoded while it is read.
struct Streamed<'a> {
    part: Part,
    /// The numbers of the messages that it stands in, the outermost first.
    within: &'a [u32],
    out: &'a mut dyn Write,
}

impl Streamed<'_> {
    /// Writes a part of the message, in the messages that it stands in.
    fn put<E: serde::de::Error>(&mut self, part: Message) -> Result<(), E> {
        let whole = self.within.iter().rev().fold(part, wrapped);
        self.out.write_all(&whole.into_bytes()).map_err(E::custom)
    }
}

impl<'de> DeserializeSeed<'de> for Streamed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Streamed<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key::<String>()? {
            let fields = match self.part {
                Part::Fields(Spec::Fields(fields, _)) => *fields,
                Part::Fields(_) => &[],
                Part::Entries(number, spec) => {
                    let mut part = Message::new();
                    part.message(number, &entry(&name, &map.next_value()?, spec));
                    self.put(part)?;
                    continue;
                }
            };
            let Some((_, number, shape)) = fields.iter().find(|(own, _, _)| *own == name) else {
                map.next_value::<serde::de::IgnoredAny>()?;
                continue;
            };
            let within = [self.within, &[*number]].concat();
            let part = match shape {
                Shape::Message(spec @ Spec::Fields(..)) => Part::Fields(spec),
                Shape::Entries(field, spec) => Part::Entries(*field, spec),
                shape => {
                    let mut part = Message::new();
                    write(&mut part, *number, *shape, &map.next_value()?);
                    self.put(part)?;
                    continue;
                }
            };
            map.next_value_seed(Streamed { part, within: &within, out: &mut *self.out })?;
        }
        Ok(())
    }
}

fn entry(name: &str, value: &Value, spec: &Spec) -> Message {
    let mut entry = Message::new();
    entry.bytes(1, name.as_bytes());
    entry.message(2, &message(value, spec));
    entry
}

fn message(value: &Value, spec: &Spec) -> Message {
    let mut message = Message::new();
    match spec {
        Spec::Fields(fields, extension) => {
            for (name, number, shape) in *fields {
                if let Some(value) = value.get(*name) {
                    write(&mut message, *number, *shape, value);
                }
            }
            let extensions =
                value.as_object().into_iter().flatten().filter(|(name, _)| name.starts_with("x-"));
            extensions.for_each(|(name, value)| message.message(*extension, &named(name, value)));
        }
        Spec::OrReference(own) => match value.get("$ref") {
            Some(reference) => {
                let mut inner = Message::new();
                inner.bytes(1, text(reference));
                message.message(2, &inner);
            }
            None => message.message(1, &self::message(value, own)),
        },
        Spec::ByPlace(ways) => {
            let place = value["in"].as_str().unwrap_or_default();
            if let Some((_, way, own)) = ways.iter().find(|(own, _, _)| *own == place) {
                return way.iter().rev().fold(self::message(value, own), wrapped);
            }
        }
        Spec::Requirement => {
            for (name, values) in value.as_object().into_iter().flatten() {
                let mut requirement = Message::new();
                requirement.bytes(1, name.as_bytes());
                requirement.message(2, &texts(values));
                message.message(1, &requirement);
            }
        }
    }
    message
}

fn write(message: &mut Message, number: u32, shape: Shape, value: &Value) {
    match shape {
        Shape::Text => message.bytes(number, text(value)),
        Shape::Flag => message.number(number, u64::from(value.as_bool() == Some(true))),
        Shape::Texts => items(value).iter().for_each(|item| message.bytes(number, text(item))),
        Shape::Types => message.message(number, &texts(value)),
        Shape::Message(spec) => message.message(number, &self::message(value, spec)),
        Shape::Messages(spec) => {
            items(value).iter().for_each(|item| message.message(number, &self::message(item, spec)));
        }
        Shape::Wrapped(spec) => message.message(number, &wrapped(self::message(value, spec), &1)),
        Shape::Entries(field, spec) => {
            let mut entries = Message::new();
            for (name, value) in value.as_object().into_iter().flatten() {
                entries.message(field, &entry(name, value, spec));
            }
            message.message(number, &entries);
        }
        Shape::Values => items(value).iter().for_each(|item| message.message(number, &any(item))),
        Shape::Scalar => message.message(number, &scalar(value)),
    }
}

fn wrapped(inner: Message, number: &u32) -> Message {
    let mut outer = Message::new();
    outer.message(*number, &inner);
    outer
}

/// One text or several, in a field that repeats.
fn texts(value: &Value) -> Message {
    let mut message = Message::new();
    match value {
        Value::Array(several) => several.iter().for_each(|one| message.bytes(1, text(one))),
        one => message.bytes(1, text(one)),
    }
    message
}

fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> &[u8] {
    value.as_str().unwrap_or_default().as_bytes()
}

/// A default: the message has no field for objects, which are left out of it.
fn scalar(value: &Value) -> Message {
    let mut message = Message::new();
    match value {
        Value::Number(number) => message.double(1, number.as_f64().unwrap_or_default()),
        Value::Bool(flag) => message.number(2, u64::from(*flag)),
        Value::String(text) => message.bytes(3, text.as_bytes()),
        _ => {}
    }
    message
}

/// Any value, which is carried as YAML.
fn any(value: &Value) -> Message {
    let mut any = Message::new();
    any.bytes(2, yaml::render(value).as_bytes());
    any
}

fn named(name: &str, value: &Value) -> Message {
    let mut named = Message::new();
    named.bytes(1, name.as_bytes());
    named.message(2, &any(value));
    named
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// A message of one field, in messages of one field each.
    fn nested(numbers: &[u32], inner: Message) -> Vec<u8> {
        numbers.iter().rev().fold(inner, wrapped).into_bytes()
    }

    #[test]
    fn documents_are_written_part_by_part() {
        let flag = json!({"in": "query", "name": "n", "type": "boolean", "uniqueItems": true});
        let document = json!({"swagger": "2.0", "parameters": {"p": flag}, "x-none": 1}).to_string();
        let mut written = Vec::new();
        V2.encode(document.as_bytes(), &mut written).unwrap();
        let mut parameter = Message::new();
        [(2, "query"), (4, "n"), (6, "boolean")]
            .iter()
            .for_each(|(number, text)| parameter.bytes(*number, text.as_bytes()));
        parameter.number(20, 1);
        let mut entry = Message::new();
        entry.bytes(1, b"p");
        entry.message(2, &wrapped(wrapped(parameter, &3), &2));
        let mut swagger = Message::new();
        swagger.bytes(1, b"2.0");
        assert_eq!(written, [nested(&[10, 1], entry), swagger.into_bytes()].concat());
    }

    #[test]
    fn types_of_v3_stand_in_the_components() {
        let schema = json!({"default": {}, "enum": ["a"], "description": "d", "allOf": [{"$ref": "#/x"}], "x-kubernetes-list-type": "set"});
        let document = json!({"components": {"schemas": {"T": schema}}}).to_string();
        let mut written = Vec::new();
        V3.encode(document.as_bytes(), &mut written).unwrap();
        let text = |number, text: &str| {
            let mut message = Message::new();
            message.bytes(number, text.as_bytes());
            message
        };
        let mut own = Message::new();
        own.message(24, &text(2, "a\n"));
        own.message(26, &wrapped(text(1, "#/x"), &2));
        own.message(33, &Message::new());
        own.bytes(34, b"d");
        let mut extension = text(1, "x-kubernetes-list-type");
        extension.message(2, &text(2, "set\n"));
        own.message(36, &extension);
        let mut entry = text(1, "T");
        entry.message(2, &wrapped(own, &1));
        assert_eq!(written, nested(&[5, 1, 1], entry));
    }
}
