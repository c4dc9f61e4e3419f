//! Declarations made of OpenAPI schemas: what the checker knows of an object, how its JSON is read, and the
//! sizes that bound what a rule can cost.

use crate::escaping;
use crate::types::Type;
use serde_json::Value as Json;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The size of the largest request, in bytes, by which sizes without a limit are estimated.
const MAX_REQUEST_BYTES: u64 = 3 * 1024 * 1024;
/// Schemas nested deeper, or within themselves, are declared as `dyn`.
const MAX_DEPTH: usize = 64;
/// Sizes of values as JSON, in bytes, with their quotation marks.
const MAX_DURATION_BYTES: u64 = 32;
const MAX_DATETIME_BYTES: u64 = 32;
const MIN_DURATION_BYTES: u64 = 3;
const DATE_BYTES: u64 = 12;
const MIN_DATETIME_BYTES: u64 = 21;
const MIN_STRING_BYTES: u64 = 2;
const MIN_BOOL_BYTES: u64 = 4;
const MIN_NUMBER_BYTES: u64 = 1;

/// Where `$ref` of a schema leads: knarr's published schemas, or nowhere (`()`).
pub trait Definitions {
    /// The schema of that reference.
    fn definition(&self, reference: &str) -> Option<&Json>;
}

impl Definitions for () {
    fn definition(&self, _: &str) -> Option<&Json> {
        None
    }
}

/// What is known of a value: its type, how its JSON is read and how large it can be.
#[derive(Debug)]
pub struct Declaration {
    pub(crate) shape: Shape,
    pub(crate) nullable: bool,
    /// Elements of a list or map, characters of a string, bytes of bytes.
    pub(crate) max_elements: u64,
    pub(crate) min_bytes: u64,
}

/// How JSON of a declaration is read.
#[derive(Debug)]
pub(crate) enum Shape {
    Bool,
    Int,
    Double,
    String,
    Bytes,
    Duration,
    Date,
    Timestamp,
    IntOrString,
    List(Arc<Declaration>, ListKind),
    Map(Arc<Declaration>),
    Object(Object),
}

/// `x-kubernetes-list-type`: how lists are compared and added.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ListKind {
    Atomic,
    Set,
    Map(Vec<String>),
}

/// An object with its fields by their names in JSON.
#[derive(Debug)]
pub(crate) struct Object {
    pub(crate) name: Arc<str>,
    pub(crate) fields: BTreeMap<String, Arc<Declaration>>,
}

impl Declaration {
    /// The declaration of a schema, `None` where rules cannot see its values. Objects within are named after
    /// `name`, which no variable may have. The `root` of a resource always has its `apiVersion`, `kind` and the names in `metadata`.
    pub fn of(schema: &Json, name: &str, root: bool, definitions: &dyn Definitions) -> Option<Arc<Self>> {
        Builder { definitions }.declare(schema, name, root, 0).map(Arc::new)
    }

    /// The least bytes that a value takes as JSON.
    pub fn min_bytes(&self) -> u64 {
        self.min_bytes
    }

    /// Its type.
    pub fn type_of(&self) -> Type {
        match &self.shape {
            Shape::Bool => Type::Bool,
            Shape::Int => Type::Int,
            Shape::Double => Type::Double,
            Shape::String => Type::String,
            Shape::Bytes => Type::Bytes,
            Shape::Duration => Type::Duration,
            Shape::Date | Shape::Timestamp => Type::Timestamp,
            Shape::IntOrString => Type::Dyn,
            Shape::List(items, _) => Type::list(items.type_of()),
            Shape::Map(values) => Type::map(Type::String, values.type_of()),
            Shape::Object(object) => Type::Object(Arc::clone(&object.name)),
        }
    }

    pub(crate) fn is_object(&self) -> bool {
        matches!(self.shape, Shape::Object(_))
    }

    /// The field that an identifier selects.
    pub(crate) fn field(&self, identifier: &str) -> Option<&Arc<Declaration>> {
        let Shape::Object(object) = &self.shape else { return None };
        if escaping::is_reserved(identifier) {
            return object.fields.get(identifier);
        }
        let property = escaping::unescape(identifier)?;
        (escaping::escape(&property).as_deref() == Some(identifier)).then(|| object.fields.get(&property))?
    }

    /// The declaration of all elements of a list or values of a map.
    pub(crate) fn element(&self) -> Option<&Arc<Declaration>> {
        match &self.shape {
            Shape::List(inner, _) | Shape::Map(inner) => Some(inner),
            _ => None,
        }
    }

    /// Hands on every object declared here, itself among them.
    pub(crate) fn each_object<'a>(self: &'a Arc<Self>, visit: &mut impl FnMut(&'a Arc<Self>)) {
        match &self.shape {
            Shape::List(inner, _) | Shape::Map(inner) => inner.each_object(visit),
            Shape::Object(object) => {
                visit(self);
                object.fields.values().for_each(|field| field.each_object(visit));
            }
            _ => {}
        }
    }

    fn scalar(shape: Shape, min_bytes: u64, max_elements: u64) -> Self {
        Self { shape, nullable: false, max_elements, min_bytes }
    }
}

struct Builder<'a> {
    definitions: &'a dyn Definitions,
}

impl Builder<'_> {
    fn declare(&self, schema: &Json, name: &str, root: bool, depth: usize) -> Option<Declaration> {
        if depth > MAX_DEPTH {
            return Some(Declaration::scalar(Shape::IntOrString, MIN_NUMBER_BYTES, MAX_REQUEST_BYTES - 2));
        }
        if let Some(target) = self.target(schema) {
            return self.declare(target, name, root, depth + 1);
        }
        let mut declared = if is_int_or_string(schema) {
            let longest = limit(schema, "maxLength").map_or(MAX_REQUEST_BYTES - 2, |most| most * 4);
            Declaration::scalar(Shape::IntOrString, MIN_NUMBER_BYTES, longest)
        } else {
            match schema["type"].as_str()? {
                "array" => self.list(schema, name, depth)?,
                "object" => self.object(schema, name, root, depth)?,
                "string" => string(schema),
                "boolean" => Declaration::scalar(Shape::Bool, MIN_BOOL_BYTES, 0),
                "number" => Declaration::scalar(Shape::Double, MIN_NUMBER_BYTES, 0),
                "integer" => Declaration::scalar(Shape::Int, MIN_NUMBER_BYTES, 0),
                _ => return None,
            }
        };
        declared.nullable = schema["nullable"].as_bool().unwrap_or(false);
        Some(declared)
    }

    fn target(&self, schema: &Json) -> Option<&Json> {
        let reference = schema["$ref"].as_str().or_else(|| match schema["allOf"].as_array()?.as_slice() {
            [one] => one["$ref"].as_str(),
            _ => None,
        })?;
        self.definitions.definition(reference)
    }

    fn list(&self, schema: &Json, name: &str, depth: usize) -> Option<Declaration> {
        let items = schema.get("items")?;
        let items = self.declare(items, &format!("{name}.@idx"), is_embedded(items), depth + 1)?;
        let most = limit(schema, "maxItems").unwrap_or((MAX_REQUEST_BYTES - 2) / (items.min_bytes + 1));
        let kind = match schema["x-kubernetes-list-type"].as_str() {
            Some("set") => ListKind::Set,
            Some("map") => ListKind::Map(texts(&schema["x-kubernetes-list-map-keys"])),
            _ => ListKind::Atomic,
        };
        Some(Declaration::scalar(Shape::List(Arc::new(items), kind), MIN_STRING_BYTES, most))
    }

    fn object(&self, schema: &Json, name: &str, root: bool, depth: usize) -> Option<Declaration> {
        if let values @ Json::Object(_) = &schema["additionalProperties"] {
            let values = self.declare(values, &format!("{name}.@elem"), is_embedded(values), depth + 1)?;
            let most = limit(schema, "maxProperties");
            let most = most.unwrap_or((MAX_REQUEST_BYTES - 2) / (values.min_bytes + 6));
            return Some(Declaration::scalar(Shape::Map(Arc::new(values)), MIN_STRING_BYTES, most));
        }
        let required = texts(&schema["required"]);
        let mut fields = BTreeMap::new();
        let mut min_bytes = MIN_STRING_BYTES;
        for (property, of) in schema["properties"].as_object().into_iter().flatten() {
            let Some(field) = self.declare(of, &format!("{name}.{property}"), is_embedded(of), depth + 1)
            else {
                continue;
            };
            if required.contains(property) && of.get("default").is_none() {
                min_bytes += property.len() as u64 + field.min_bytes + 4;
            }
            fields.insert(property.clone(), Arc::new(field));
        }
        if root {
            add_type_and_metadata(&mut fields, name);
        }
        let shape = Shape::Object(Object { name: Arc::from(name), fields });
        Some(Declaration::scalar(shape, min_bytes, 0))
    }
}

/// Resources have these whatever their schema says.
fn add_type_and_metadata(fields: &mut BTreeMap<String, Arc<Declaration>>, name: &str) {
    let text = || Arc::new(Declaration::scalar(Shape::String, MIN_STRING_BYTES, MAX_REQUEST_BYTES - 2));
    let is_text = |of: Option<&Arc<Declaration>>| of.is_some_and(|one| matches!(one.shape, Shape::String));
    let metadata = fields.get("metadata");
    let complete = is_text(fields.get("kind"))
        && is_text(fields.get("apiVersion"))
        && is_text(metadata.and_then(|one| one.field("name")))
        && is_text(metadata.and_then(|one| one.field("generateName")));
    if complete {
        return;
    }
    let names = ["name", "generateName"].map(|field| (field.to_owned(), text()));
    let object = Object { name: Arc::from(format!("{name}.metadata")), fields: BTreeMap::from(names) };
    fields.insert("kind".into(), text());
    fields.insert("apiVersion".into(), text());
    fields
        .insert("metadata".into(), Arc::new(Declaration::scalar(Shape::Object(object), MIN_STRING_BYTES, 0)));
}

fn string(schema: &Json) -> Declaration {
    let most = limit(schema, "maxLength");
    match schema["format"].as_str() {
        Some("byte") => {
            Declaration::scalar(Shape::Bytes, MIN_STRING_BYTES, most.unwrap_or(MAX_REQUEST_BYTES - 2))
        }
        Some("duration") => Declaration::scalar(Shape::Duration, MIN_DURATION_BYTES, MAX_DURATION_BYTES),
        Some("date") => Declaration::scalar(Shape::Date, DATE_BYTES, DATE_BYTES),
        Some("date-time") => Declaration::scalar(Shape::Timestamp, MIN_DATETIME_BYTES, MAX_DATETIME_BYTES),
        // A character of the limit can be four bytes.
        _ => Declaration::scalar(
            Shape::String,
            MIN_STRING_BYTES,
            most.map(|most| most.saturating_mul(4)).unwrap_or_else(|| longest_of(&schema["enum"])),
        ),
    }
}

fn longest_of(values: &Json) -> u64 {
    match values.as_array().filter(|values| !values.is_empty()) {
        Some(values) => {
            values.iter().filter_map(Json::as_str).map(|text| text.len() as u64).max().unwrap_or(0)
        }
        None => MAX_REQUEST_BYTES - 2,
    }
}

fn limit(schema: &Json, keyword: &str) -> Option<u64> {
    schema[keyword].as_i64().map(|most| u64::try_from(most).unwrap_or(0))
}

fn texts(values: &Json) -> Vec<String> {
    values.as_array().into_iter().flatten().filter_map(Json::as_str).map(str::to_owned).collect()
}

fn is_int_or_string(schema: &Json) -> bool {
    schema["x-kubernetes-int-or-string"] == true || schema["format"] == "int-or-string"
}

fn is_embedded(schema: &Json) -> bool {
    schema["x-kubernetes-embedded-resource"] == true
}
