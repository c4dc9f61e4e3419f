//! Values. Objects stay the JSON they are: only what an expression touches is read, and nothing is copied.

use crate::declaration::{Declaration, Shape};
use crate::library::{Opaque, Version};
use crate::types::Type;
use api::quantity::Amount;
use serde_json::{Map as JsonObject, Value as Json};
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// Why an evaluation has no value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The expression failed on these values.
    #[error("{0}")]
    Failed(String),
    /// It would have cost more than it may.
    #[error("operation cancelled: actual cost limit exceeded")]
    Exceeded,
}

/// An error as it travels through an evaluation: small, as it is a part of every result.
pub(crate) type Fault = Box<Error>;
pub(crate) type Outcome<'a> = Result<Value<'a>, Fault>;

pub(crate) fn fail<T>(message: impl Into<String>) -> Result<T, Fault> {
    Err(Box::new(Error::Failed(message.into())))
}

pub(crate) fn no_overload<T>() -> Result<T, Fault> {
    fail("no such overload")
}

/// A value of CEL.
#[derive(Clone, Debug)]
pub enum Value<'a> {
    /// `null`.
    Null,
    /// `bool`.
    Bool(bool),
    /// `int`.
    Int(i64),
    /// `uint`.
    Uint(u64),
    /// `double`.
    Double(f64),
    /// `string`.
    String(Text<'a>),
    /// `bytes`.
    Bytes(Arc<[u8]>),
    /// A duration in nanoseconds.
    Duration(i64),
    /// A moment.
    Timestamp(crate::time::Moment),
    /// A list.
    List(List<'a>),
    /// A map or an object.
    Map(Map<'a>),
    /// An optional.
    Optional(Option<Arc<Value<'a>>>),
    /// A type.
    Type(Type),
    /// A value of a library: an address, a quantity, a check of the authorizer.
    Opaque(Arc<Opaque<'a>>),
    /// Fields that the caller computes when they are asked for.
    Fields(&'a dyn Fields),
}

/// An object whose fields the caller computes, such as `variables` of a policy.
pub trait Fields: fmt::Debug + Sync {
    /// The field's value, `None` where there is none.
    fn field(&self, name: &str) -> Option<Result<Value<'_>, Error>>;
}

/// A string, borrowed from the object or the program where it can be.
#[derive(Clone)]
pub enum Text<'a> {
    /// As it stands elsewhere.
    Borrowed(&'a str),
    /// Computed.
    Owned(Arc<str>),
}

impl Text<'_> {
    /// Its characters.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Borrowed(text) => text,
            Self::Owned(text) => text,
        }
    }
}

impl fmt::Debug for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

/// A list of JSON or of values.
#[derive(Clone, Debug)]
pub enum List<'a> {
    /// As it stands in an object, with what is declared of it.
    Json(&'a [Json], Option<&'a Declaration>),
    /// Computed.
    Owned(Arc<Vec<Value<'a>>>),
}

/// A map of JSON or of values.
#[derive(Clone, Debug)]
pub enum Map<'a> {
    /// As it stands in an object, with what is declared of it.
    Json(&'a JsonObject<String, Json>, Option<&'a Declaration>),
    /// Computed.
    Owned(Arc<BTreeMap<Key<'a>, Value<'a>>>),
    /// Computed; to read a key that is not there yields an empty map, as it does of a device's domains.
    Total(Arc<BTreeMap<Key<'a>, Value<'a>>>),
}

/// A key of a map. Numbers are equal whatever their type.
#[derive(Clone, Debug)]
pub enum Key<'a> {
    /// `bool`.
    Bool(bool),
    /// `int`.
    Int(i64),
    /// `uint`.
    Uint(u64),
    /// `string`.
    String(Text<'a>),
}

impl<'a> Key<'a> {
    /// The key that a value is, if it can be one. A double can where it is whole.
    pub(crate) fn of(value: &Value<'a>) -> Option<Self> {
        Some(match value {
            Value::Bool(value) => Self::Bool(*value),
            Value::Int(value) => Self::Int(*value),
            Value::Uint(value) => Self::Uint(*value),
            Value::Double(value) => crate::number::whole(*value)?,
            Value::String(text) => Self::String(text.clone()),
            _ => return None,
        })
    }

    pub(crate) fn value(&self) -> Value<'a> {
        match self {
            Self::Bool(value) => Value::Bool(*value),
            Self::Int(value) => Value::Int(*value),
            Self::Uint(value) => Value::Uint(*value),
            Self::String(text) => Value::String(text.clone()),
        }
    }

    fn rank(&self) -> u8 {
        match self {
            Self::Bool(_) => 0,
            Self::Int(_) | Self::Uint(_) => 1,
            Self::String(_) => 2,
        }
    }

    fn number(&self) -> i128 {
        match self {
            Self::Bool(value) => i128::from(*value),
            Self::Int(value) => i128::from(*value),
            Self::Uint(value) => i128::from(*value),
            Self::String(_) => 0,
        }
    }
}

impl Ord for Key<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::String(one), Self::String(other)) => one.as_str().cmp(other.as_str()),
            _ => (self.rank(), self.number()).cmp(&(other.rank(), other.number())),
        }
    }
}

impl PartialOrd for Key<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Key<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Key<'_> {}

impl<'a> Value<'a> {
    /// An untyped value: whole numbers are `int`, objects are maps.
    pub fn json(json: &'a Json) -> Self {
        match json {
            Json::Null => Self::Null,
            Json::Bool(value) => Self::Bool(*value),
            Json::Number(number) => match (number.as_i64(), number.as_u64()) {
                (Some(whole), _) => Self::Int(whole),
                (None, Some(large)) => Self::Uint(large),
                (None, None) => Self::Double(number.as_f64().unwrap_or(f64::NAN)),
            },
            Json::String(text) => Self::String(Text::Borrowed(text)),
            Json::Array(items) => Self::List(List::Json(items, None)),
            Json::Object(fields) => Self::Map(Map::Json(fields, None)),
        }
    }

    /// A value read as its schema says.
    pub fn declared(json: &'a Json, declaration: &'a Declaration) -> Result<Self, Error> {
        typed(json, Some(declaration)).map_err(|fault| *fault)
    }

    /// A string.
    pub fn text(text: impl Into<Arc<str>>) -> Self {
        Self::String(Text::Owned(text.into()))
    }

    /// A map with texts as keys.
    pub fn map(entries: impl IntoIterator<Item = (Arc<str>, Value<'a>)>) -> Self {
        Self::Map(Map::Owned(keyed(entries)))
    }

    /// The same, where reading a key that is not there yields an empty map.
    pub fn total_map(entries: impl IntoIterator<Item = (Arc<str>, Value<'a>)>) -> Self {
        Self::Map(Map::Total(keyed(entries)))
    }

    /// A `kubernetes.Quantity`.
    pub fn quantity(amount: Amount) -> Self {
        Self::opaque(Opaque::Quantity(amount))
    }

    /// A `kubernetes.Semver`, or what is wrong with its text.
    pub fn semver(text: &str) -> Result<Self, String> {
        Ok(Self::opaque(Opaque::Semver(Version::parse(text)?)))
    }

    /// A list.
    pub fn list(items: Vec<Value<'a>>) -> Self {
        Self::List(List::Owned(Arc::new(items)))
    }

    pub(crate) fn some(value: Value<'a>) -> Self {
        Self::Optional(Some(Arc::new(value)))
    }

    /// The same value without owning it.
    pub(crate) fn borrowed(&'a self) -> Value<'a> {
        match self {
            Self::String(text) => Self::String(Text::Borrowed(text.as_str())),
            other => other.clone(),
        }
    }

    /// Its text, if it is a string.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text.as_str()),
            _ => None,
        }
    }

    /// Its type while running. Objects of JSON are maps.
    pub fn type_of(&self) -> Type {
        match self {
            Self::Null => Type::Null,
            Self::Bool(_) => Type::Bool,
            Self::Int(_) => Type::Int,
            Self::Uint(_) => Type::Uint,
            Self::Double(_) => Type::Double,
            Self::String(_) => Type::String,
            Self::Bytes(_) => Type::Bytes,
            Self::Duration(_) => Type::Duration,
            Self::Timestamp(_) => Type::Timestamp,
            Self::List(_) => Type::list(Type::Dyn),
            Self::Map(_) | Self::Fields(_) => Type::map(Type::Dyn, Type::Dyn),
            Self::Optional(_) => Type::optional(Type::Dyn),
            Self::Type(_) => Type::Type(None),
            Self::Opaque(opaque) => opaque.type_of(),
        }
    }

    /// Whether it is of the kind that a signature asks for. Elements are not looked at.
    pub(crate) fn is_a(&self, wanted: &Type) -> bool {
        match (wanted, self) {
            (Type::Dyn | Type::Param(_) | Type::Variable(_), _)
            | (Type::Null, Self::Null)
            | (Type::Bool, Self::Bool(_))
            | (Type::Int, Self::Int(_))
            | (Type::Uint, Self::Uint(_))
            | (Type::Double, Self::Double(_))
            | (Type::String, Self::String(_))
            | (Type::Bytes, Self::Bytes(_))
            | (Type::Duration, Self::Duration(_))
            | (Type::Timestamp, Self::Timestamp(_))
            | (Type::Map(_), Self::Map(_))
            | (Type::Type(_), Self::Type(_)) => true,
            (Type::List(inner), Self::List(list)) => {
                matches!(**inner, Type::Dyn | Type::Param(_)) || first_is_a(list, inner)
            }
            (Type::Opaque(name, _), Self::Optional(_)) => *name == crate::types::OPTIONAL,
            (wanted, Self::Opaque(opaque)) => opaque.type_of() == *wanted,
            _ => false,
        }
    }

    /// The number of characters, bytes or elements; 1 of what has no size.
    pub(crate) fn size(&self) -> u64 {
        match self {
            Self::String(text) => text.as_str().chars().count() as u64,
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::List(list) => list.len() as u64,
            Self::Map(map) => map.len() as u64,
            Self::Opaque(opaque) => opaque.size(),
            _ => 1,
        }
    }
}

fn keyed<'a>(entries: impl IntoIterator<Item = (Arc<str>, Value<'a>)>) -> Arc<BTreeMap<Key<'a>, Value<'a>>> {
    Arc::new(entries.into_iter().map(|(key, value)| (Key::String(Text::Owned(key)), value)).collect())
}

/// Overloads on lists are told apart by their first element, as far as they have one.
fn first_is_a(list: &List<'_>, inner: &Type) -> bool {
    match list.get(0) {
        Some(Ok(first)) => first.is_a(inner),
        _ => true,
    }
}

/// Reads JSON as it is declared, one level of it.
pub(crate) fn typed<'a>(json: &'a Json, declaration: Option<&'a Declaration>) -> Outcome<'a> {
    let Some(declared) = declaration else { return Ok(Value::json(json)) };
    if json.is_null() {
        if declared.nullable {
            return Ok(Value::Null);
        }
        return fail("invalid data, got null for schema with nullable=false");
    }
    match (&declared.shape, json) {
        (Shape::Object(_) | Shape::Map(_), Json::Object(fields)) => {
            Ok(Value::Map(Map::Json(fields, Some(declared))))
        }
        (Shape::List(..), Json::Array(items)) => Ok(Value::List(List::Json(items, Some(declared)))),
        (Shape::String | Shape::IntOrString, Json::String(text)) => Ok(Value::String(Text::Borrowed(text))),
        (Shape::Bool, Json::Bool(value)) => Ok(Value::Bool(*value)),
        (Shape::Double, Json::Number(number)) => Ok(Value::Double(number.as_f64().unwrap_or(f64::NAN))),
        (Shape::Int | Shape::IntOrString, Json::Number(number)) => match number.as_i64() {
            Some(whole) => Ok(Value::Int(whole)),
            None => fail("invalid data, expected int, got float64"),
        },
        (shape, Json::String(text)) => crate::time::formatted(shape, text),
        (shape, other) => fail(mismatch(shape, other)),
    }
}

fn mismatch(shape: &Shape, found: &Json) -> String {
    let found = match found {
        Json::Bool(_) => "bool",
        Json::Number(number) if number.is_f64() => "float64",
        Json::Number(_) => "int64",
        Json::String(_) => "string",
        Json::Array(_) => "[]interface {}",
        _ => "map[string]interface {}",
    };
    match shape {
        Shape::Object(_) | Shape::Map(_) => {
            "invalid data, expected a map for the provided schema with type=object".into()
        }
        Shape::List(..) => "invalid data, expected an array for the provided schema with type=array".into(),
        Shape::IntOrString => {
            "invalid data, expected XIntOrString value to be either a string or integer".into()
        }
        Shape::Double => format!("invalid data, expected float, got {found}"),
        Shape::Int => format!("invalid data, expected int, got {found}"),
        Shape::Bool => format!("invalid data, expected bool, got {found}"),
        _ => format!("invalid data, expected string, got {found}"),
    }
}

impl<'a> List<'a> {
    /// The number of elements.
    pub fn len(&self) -> usize {
        match self {
            Self::Json(items, _) => items.len(),
            Self::Owned(items) => items.len(),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn get(&self, index: usize) -> Option<Outcome<'a>> {
        match self {
            Self::Json(items, declared) => {
                Some(typed(items.get(index)?, declared.and_then(Declaration::element).map(|one| &**one)))
            }
            Self::Owned(items) => items.get(index).cloned().map(Ok),
        }
    }

    /// Its elements.
    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = Outcome<'a>> + '_ {
        (0..self.len()).map(|index| self.get(index).unwrap_or_else(no_overload))
    }

    pub(crate) fn values(&self) -> Result<Vec<Value<'a>>, Fault> {
        self.iter().collect()
    }
}

impl<'a> Map<'a> {
    /// The number of entries.
    pub fn len(&self) -> usize {
        match self {
            Self::Json(fields, _) => fields.len(),
            Self::Owned(entries) | Self::Total(entries) => entries.len(),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The entry of a key, `None` where there is none.
    pub(crate) fn get(&self, key: &Key<'_>) -> Option<Outcome<'a>> {
        match self {
            Self::Json(fields, declared) => {
                let Key::String(name) = key else {
                    return declared.is_some().then(no_overload);
                };
                match declared.map(|one| &one.shape) {
                    Some(Shape::Object(_)) => {
                        let property = crate::escaping::unescape(name.as_str())?;
                        self.property(&property)
                    }
                    _ => self.property_of(fields, name.as_str()),
                }
            }
            Self::Owned(entries) | Self::Total(entries) => entries.get(key).cloned().map(Ok),
        }
    }

    /// What is read where a key is not there.
    pub(crate) fn absent(&self) -> Option<Outcome<'a>> {
        matches!(self, Self::Total(_)).then(|| Ok(Value::Map(Self::Owned(Arc::default()))))
    }

    /// The field of a property by its name in JSON.
    pub(crate) fn property(&self, name: &str) -> Option<Outcome<'a>> {
        match self {
            Self::Json(fields, _) => self.property_of(fields, name),
            Self::Owned(entries) | Self::Total(entries) => {
                entries.get(&Key::String(Text::Owned(Arc::from(name)))).cloned().map(Ok)
            }
        }
    }

    fn property_of(&self, fields: &'a JsonObject<String, Json>, name: &str) -> Option<Outcome<'a>> {
        let Self::Json(_, declared) = self else { return None };
        let found = fields.get(name)?;
        match declared.map(|one| &one.shape) {
            None => Some(Ok(Value::json(found))),
            Some(Shape::Map(values)) => Some(typed(found, Some(values))),
            // A field that is null is a field that is not there.
            Some(Shape::Object(object)) if !found.is_null() => {
                object.fields.get(name).map(|field| typed(found, Some(field)))
            }
            Some(_) => None,
        }
    }

    /// Keys as an expression sees them, sorted.
    pub(crate) fn keys(&self) -> Vec<Key<'a>> {
        match self {
            Self::Json(fields, declared) => {
                let object = declared.and_then(|one| match &one.shape {
                    Shape::Object(object) => Some(object),
                    _ => None,
                });
                let seen = fields.keys().filter(|name| object.is_none_or(|of| of.fields.contains_key(*name)));
                seen.map(|name| {
                    let escaped = object.and_then(|_| crate::escaping::escape(name));
                    let changed = escaped.filter(|escaped| escaped != name);
                    Key::String(changed.map_or(Text::Borrowed(name), |other| Text::Owned(Arc::from(other))))
                })
                .collect()
            }
            Self::Owned(entries) | Self::Total(entries) => entries.keys().cloned().collect(),
        }
    }

    /// Keys with their values.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (Key<'a>, Outcome<'a>)> + '_ {
        self.keys().into_iter().filter_map(|key| {
            let value = self.get(&key)?;
            Some((key, value))
        })
    }
}
