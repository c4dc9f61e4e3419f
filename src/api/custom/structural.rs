//! A structural schema: what a definition says of its objects, in a form that is quick to walk.

use super::formats::Format;
use super::pattern::Pattern;
use serde_json::Value;

/// How deep a schema may nest. Objects are walked along it by recursion, and JSON that is read is no
/// deeper than twice as much.
pub const DEEPEST: usize = 64;
/// How many places a schema may have: the largest schemas in use have some ten thousand, and one place
/// takes up to 200 bytes for as long as the definition is served.
pub const MOST_PLACES: usize = 50_000;

/// Why a schema cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// It nests too deep.
    #[error("the schema nests deeper than {DEEPEST} levels")]
    TooDeep,
    /// It has too many places.
    #[error("the schema has more than {MOST_PLACES} places")]
    TooLarge,
    /// It uses what structural schemas do not have.
    #[error("OpenAPIV3Schema '{0}' is not supported")]
    Unsupported(&'static str),
    /// Its items are a list of schemas.
    #[error("OpenAPIV3Schema 'items' must be a schema, but is an array")]
    ItemsList,
    /// It says that unknown fields are not preserved.
    #[error("internal error: 'x-kubernetes-preserve-unknown-fields' must be true or undefined")]
    Undecided,
}

/// A schema, or a part of one. Parts below `allOf` and its like have value validations only.
#[derive(Debug, Default)]
pub struct Structural {
    pub(super) ty: Type,
    pub(super) nullable: bool,
    pub(super) int_or_string: bool,
    /// `format` of texts that are not bytes, whatever it is.
    pub(super) has_format: bool,
    /// `x-kubernetes-preserve-unknown-fields`.
    pub(super) preserves: bool,
    /// `x-kubernetes-embedded-resource`.
    pub(super) embedded: bool,
    /// `x-kubernetes-map-type: atomic`.
    pub(super) atomic: bool,
    /// Ordered by name.
    properties: Box<[(Box<str>, Self)]>,
    pub(super) additional: Additional,
    pub(super) items: Option<Box<Self>>,
    pub(super) list: List,
    pub(super) default: Option<Box<Value>>,
    /// Most places have none.
    pub(super) checks: Option<Box<Checks>>,
}

/// `type`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Type {
    #[default]
    Unsaid,
    Object,
    Array,
    String,
    Integer,
    Number,
    Boolean,
}

impl Type {
    fn of(name: &str) -> Self {
        match name {
            "object" => Self::Object,
            "array" => Self::Array,
            "string" => Self::String,
            "integer" => Self::Integer,
            "number" => Self::Number,
            "boolean" => Self::Boolean,
            _ => Self::Unsaid,
        }
    }
}

/// `additionalProperties`.
#[derive(Debug, Default)]
pub(super) enum Additional {
    #[default]
    Unsaid,
    Forbidden,
    Any,
    Like(Box<Structural>),
}

/// `x-kubernetes-list-type`.
#[derive(Debug, Default)]
pub(super) enum List {
    #[default]
    Atomic,
    Set,
    Map(Box<[Box<str>]>),
}

/// Value validations.
#[derive(Debug, Default)]
pub(super) struct Checks {
    pub(super) format: Option<Format>,
    pub(super) pattern: Option<Pattern>,
    pub(super) maximum: Option<Bound>,
    pub(super) minimum: Option<Bound>,
    pub(super) multiple_of: Option<f64>,
    pub(super) length: Range,
    pub(super) item_count: Range,
    pub(super) property_count: Range,
    pub(super) one_of_values: Box<[Value]>,
    pub(super) required: Box<[Box<str>]>,
    pub(super) all_of: Box<[Structural]>,
    pub(super) any_of: Box<[Structural]>,
    pub(super) one_of: Box<[Structural]>,
    pub(super) not: Option<Box<Structural>>,
}

/// A bound of numbers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bound {
    pub(super) at: f64,
    pub(super) exclusive: bool,
}

/// How few and how many.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Range {
    pub(super) least: Option<i64>,
    pub(super) most: Option<i64>,
}

/// Fields of JSON schemas that structural schemas do not have, and how messages name them.
const UNSUPPORTED: [(&str, &str); 7] = [
    ("id", "id"),
    ("$schema", "schema"),
    ("$ref", "$ref"),
    ("patternProperties", "patternProperties"),
    ("dependencies", "dependencies"),
    ("additionalItems", "additionalItems"),
    ("definitions", "definitions"),
];

impl Structural {
    /// Reads a schema as definitions have it.
    pub fn of(schema: &Value) -> Result<Self, Unreadable> {
        Reader { places: 0 }.read(schema, 0)
    }

    /// The schema of which everything is an object.
    pub fn anything() -> Self {
        Self { preserves: true, ..Default::default() }
    }

    /// The schema of a field that has a name.
    pub fn property(&self, name: &str) -> Option<&Self> {
        let place = self.properties.binary_search_by(|(own, _)| (**own).cmp(name)).ok()?;
        Some(&self.properties[place].1)
    }

    /// The fields that have names, ordered by them.
    pub fn properties(&self) -> impl ExactSizeIterator<Item = (&str, &Self)> {
        self.properties.iter().map(|(name, schema)| (&**name, schema))
    }

    /// The schema of a field, with a name of its own or without.
    pub fn field(&self, name: &str) -> Option<&Self> {
        self.property(name).or_else(|| self.extra())
    }

    /// The schema of fields that have no name of their own.
    pub(super) fn extra(&self) -> Option<&Self> {
        match &self.additional {
            Additional::Like(schema) => Some(schema),
            _ => None,
        }
    }

    /// The schema of a list's items.
    pub fn items(&self) -> Option<&Self> {
        self.items.as_deref()
    }

    /// The names of the types that a value may have; any, if there are none.
    pub(super) fn types(&self) -> &'static [&'static str] {
        if self.int_or_string {
            return &["integer", "string"];
        }
        match self.ty {
            Type::Unsaid => &[],
            Type::Object => &["object"],
            Type::Array => &["array"],
            Type::String => &["string"],
            Type::Integer => &["integer"],
            Type::Number => &["number"],
            Type::Boolean => &["boolean"],
        }
    }
}

struct Reader {
    places: usize,
}

impl Reader {
    fn read(&mut self, schema: &Value, depth: usize) -> Result<Structural, Unreadable> {
        self.places += 1;
        if depth > DEEPEST {
            return Err(Unreadable::TooDeep);
        }
        if self.places > MOST_PLACES {
            return Err(Unreadable::TooLarge);
        }
        if let Some((_, name)) = UNSUPPORTED.into_iter().find(|(field, _)| is_set(&schema[*field])) {
            return Err(Unreadable::Unsupported(name));
        }
        let yes = |field: &str| schema[field] == true;
        if schema["x-kubernetes-preserve-unknown-fields"] == false {
            return Err(Unreadable::Undecided);
        }
        let properties = schema["properties"].as_object().into_iter().flatten();
        let mut properties = properties
            .map(|(name, schema)| Ok((name.as_str().into(), self.read(schema, depth + 1)?)))
            .collect::<Result<Box<[(Box<str>, _)]>, _>>()?;
        properties.sort_by(|one, other| one.0.cmp(&other.0));
        Ok(Structural {
            ty: Type::of(text(schema, "type")),
            nullable: yes("nullable"),
            int_or_string: yes("x-kubernetes-int-or-string"),
            has_format: !matches!(text(schema, "format"), "" | "byte"),
            preserves: yes("x-kubernetes-preserve-unknown-fields"),
            embedded: yes("x-kubernetes-embedded-resource"),
            atomic: text(schema, "x-kubernetes-map-type") == "atomic",
            properties,
            additional: match &schema["additionalProperties"] {
                Value::Null => Additional::Unsaid,
                Value::Bool(false) => Additional::Forbidden,
                Value::Bool(true) => Additional::Any,
                schema => Additional::Like(Box::new(self.read(schema, depth + 1)?)),
            },
            items: match &schema["items"] {
                Value::Array(_) => return Err(Unreadable::ItemsList),
                items => self.optional(items, depth)?,
            },
            list: match text(schema, "x-kubernetes-list-type") {
                "set" => List::Set,
                "map" => List::Map(texts(&schema["x-kubernetes-list-map-keys"])),
                _ => List::Atomic,
            },
            default: Some(&schema["default"]).filter(|value| !value.is_null()).cloned().map(Box::new),
            checks: self.checks(schema, depth)?,
        })
    }

    fn optional(&mut self, schema: &Value, depth: usize) -> Result<Option<Box<Structural>>, Unreadable> {
        if schema.is_null() { Ok(None) } else { Ok(Some(Box::new(self.read(schema, depth + 1)?))) }
    }

    fn each(&mut self, schemas: &Value, depth: usize) -> Result<Box<[Structural]>, Unreadable> {
        list(schemas).iter().map(|schema| self.read(schema, depth + 1)).collect()
    }

    fn checks(&mut self, schema: &Value, depth: usize) -> Result<Option<Box<Checks>>, Unreadable> {
        const FIELDS: [&str; 20] = [
            "format",
            "pattern",
            "maximum",
            "minimum",
            "multipleOf",
            "maxLength",
            "minLength",
            "maxItems",
            "minItems",
            "maxProperties",
            "minProperties",
            "enum",
            "required",
            "allOf",
            "anyOf",
            "oneOf",
            "not",
            "exclusiveMaximum",
            "exclusiveMinimum",
            "uniqueItems",
        ];
        if FIELDS.iter().all(|field| schema[*field].is_null()) {
            return Ok(None);
        }
        let bound = |at: &str, exclusive: &str| {
            schema[at].as_f64().map(|at| Bound { at, exclusive: schema[exclusive] == true })
        };
        let range =
            |least: &str, most: &str| Range { least: schema[least].as_i64(), most: schema[most].as_i64() };
        Ok(Some(Box::new(Checks {
            format: Format::of(schema),
            pattern: Some(text(schema, "pattern")).filter(|text| !text.is_empty()).map(Pattern::new),
            maximum: bound("maximum", "exclusiveMaximum"),
            minimum: bound("minimum", "exclusiveMinimum"),
            multiple_of: schema["multipleOf"].as_f64(),
            length: range("minLength", "maxLength"),
            item_count: range("minItems", "maxItems"),
            property_count: range("minProperties", "maxProperties"),
            one_of_values: list(&schema["enum"]).into(),
            required: texts(&schema["required"]),
            all_of: self.each(&schema["allOf"], depth)?,
            any_of: self.each(&schema["anyOf"], depth)?,
            one_of: self.each(&schema["oneOf"], depth)?,
            not: self.optional(&schema["not"], depth)?,
        })))
    }
}

/// A field is there and not empty.
fn is_set(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::String(text) => !text.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
        _ => true,
    }
}

pub(super) fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_default()
}

pub(super) fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn texts(value: &Value) -> Box<[Box<str>]> {
    list(value).iter().filter_map(Value::as_str).map(Into::into).collect()
}
