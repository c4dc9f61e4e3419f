//! Values: JSON's, Go's two kinds of whole numbers, bytes that are no text, and objects of who uses templates.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;

/// How deep values are walked: functions can make maps that hold themselves.
pub(crate) const DEPTH: usize = 200;

/// What templates work with. Cheap to clone: maps are shared, and functions may change them.
#[derive(Clone)]
pub enum Value {
    /// Not there at all: a key that is missing where that is no null.
    Missing,
    /// Null, Go's `nil`.
    Nil,
    /// A truth.
    Bool(bool),
    /// Go's `int`: what templates themselves name and count.
    Int(i64),
    /// Go's `int64`: what functions calculate.
    Int64(i64),
    /// Go's `float64`: every number of JSON and YAML.
    Float(f64),
    /// A text.
    Text(Rc<str>),
    /// Bytes that are no UTF-8, where Go has a text all the same.
    Bytes(Rc<[u8]>),
    /// A list.
    List(List),
    /// A map of texts to values.
    Map(Map),
    /// Something with fields and methods of its own.
    Object(Rc<dyn Object>),
}

/// A list, which nobody changes.
pub type List = Rc<Vec<Value>>;

/// Fields and methods of a value that is more than data.
pub trait Object {
    /// Go's name of the type.
    fn type_name(&self) -> &'static str;

    /// A field, or a method with its arguments; none where there is none of the name.
    fn get(&self, name: &str, arguments: &[Value]) -> Option<Result<Value, String>>;

    /// What it is as data: printed, walked through, compared.
    fn plain(&self) -> Value;
}

/// A map that is shared by all that hold it.
#[derive(Clone, Default)]
pub struct Map(Rc<RefCell<BTreeMap<Rc<str>, Value>>>);

impl Map {
    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<Value> {
        self.0.borrow().get(key).cloned()
    }

    /// Whether there is the key.
    pub fn has(&self, key: &str) -> bool {
        self.0.borrow().contains_key(key)
    }

    /// Sets a key, for all that hold the map.
    pub fn set(&self, key: &str, value: Value) {
        self.0.borrow_mut().insert(key.into(), value);
    }

    /// Takes a key away, for all that hold the map.
    pub fn unset(&self, key: &str) -> Option<Value> {
        self.0.borrow_mut().remove(key)
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.0.borrow().len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Keys and values by key, as they are now.
    pub fn entries(&self) -> Vec<(Rc<str>, Value)> {
        self.0.borrow().iter().map(|(key, value)| (key.clone(), value.clone())).collect()
    }

    /// Both are one and the same map.
    pub fn is(&self, other: &Self) -> bool {
        Rc::ptr_eq(&self.0, &other.0)
    }

    /// Empties it, so that what holds itself is given back.
    pub(crate) fn clear(&self) {
        let entries = std::mem::take(&mut *self.0.borrow_mut());
        drop(entries);
    }
}

impl<K: AsRef<str>> FromIterator<(K, Value)> for Map {
    fn from_iter<I: IntoIterator<Item = (K, Value)>>(items: I) -> Self {
        let entries = items.into_iter().map(|(key, value)| (Rc::from(key.as_ref()), value));
        Self(Rc::new(RefCell::new(entries.collect())))
    }
}

impl Value {
    /// A text.
    pub fn text(text: impl AsRef<str>) -> Self {
        Self::Text(text.as_ref().into())
    }

    /// A list.
    pub fn list(items: impl IntoIterator<Item = Self>) -> Self {
        Self::List(Rc::new(items.into_iter().collect()))
    }

    /// A map.
    pub fn map<K: AsRef<str>>(items: impl IntoIterator<Item = (K, Self)>) -> Self {
        Self::Map(items.into_iter().collect())
    }

    /// A text, or bytes where it is none.
    pub fn bytes(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::text(text),
            Err(_) => Self::Bytes(bytes.into()),
        }
    }

    /// Go's idea of what is true: whatever is not zero, empty or nil.
    pub fn truth(&self) -> bool {
        match self {
            Self::Missing | Self::Nil => false,
            Self::Bool(truth) => *truth,
            Self::Int(number) | Self::Int64(number) => *number != 0,
            Self::Float(number) => *number != 0.0,
            Self::Text(text) => !text.is_empty(),
            Self::Bytes(bytes) => !bytes.is_empty(),
            Self::List(items) => !items.is_empty(),
            Self::Map(map) => !map.is_empty(),
            Self::Object(object) => object.plain().truth(),
        }
    }

    /// Null, or not there.
    pub fn is_nil(&self) -> bool {
        matches!(self, Self::Missing | Self::Nil)
    }

    /// Go's name of the value's type.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Missing | Self::Nil => "interface {}",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Int64(_) => "int64",
            Self::Float(_) => "float64",
            Self::Text(_) | Self::Bytes(_) => "string",
            Self::List(_) => "[]interface {}",
            Self::Map(_) => "map[string]interface {}",
            Self::Object(object) => object.type_name(),
        }
    }

    /// Reads JSON: every number is a float64, as Go's library does.
    pub fn from_json(json: &serde_json::Value) -> Self {
        match json {
            serde_json::Value::Null => Self::Nil,
            serde_json::Value::Bool(truth) => Self::Bool(*truth),
            serde_json::Value::Number(number) => Self::Float(number.as_f64().unwrap_or_default()),
            serde_json::Value::String(text) => Self::text(text),
            serde_json::Value::Array(items) => Self::list(items.iter().map(Self::from_json)),
            serde_json::Value::Object(fields) => {
                Self::map(fields.iter().map(|(key, value)| (key, Self::from_json(value))))
            }
        }
    }

    /// The value as JSON, where a float64 that is whole is written without a point; none if it is nested too deep.
    pub fn to_json(&self) -> Option<serde_json::Value> {
        self.json(0)
    }

    fn json(&self, depth: usize) -> Option<serde_json::Value> {
        if depth > DEPTH {
            return None;
        }
        Some(match self {
            Self::Missing | Self::Nil => serde_json::Value::Null,
            Self::Bool(truth) => (*truth).into(),
            Self::Int(number) | Self::Int64(number) => (*number).into(),
            Self::Float(number) => crate::number::json(*number),
            Self::Text(text) => (&**text).into(),
            Self::Bytes(bytes) => String::from_utf8_lossy(bytes).into(),
            Self::List(items) => {
                items.iter().map(|item| item.json(depth + 1)).collect::<Option<Vec<_>>>()?.into()
            }
            Self::Map(map) => {
                let entries = map.entries();
                let pairs =
                    entries.iter().map(|(key, value)| Some((key.to_string(), value.json(depth + 1)?)));
                serde_json::Value::Object(pairs.collect::<Option<_>>()?)
            }
            Self::Object(object) => return object.plain().json(depth + 1),
        })
    }

    /// A copy that shares no map with this one; what is nested too deep is left out.
    pub fn deep_copy(&self) -> Self {
        self.copied(0)
    }

    fn copied(&self, depth: usize) -> Self {
        match self {
            _ if depth > DEPTH => Self::Nil,
            Self::List(items) => Self::list(items.iter().map(|item| item.copied(depth + 1))),
            Self::Map(map) => {
                Self::map(map.entries().into_iter().map(|(key, value)| (key, value.copied(depth + 1))))
            }
            other => other.clone(),
        }
    }

    /// Whether both are the same all through (Go's `reflect.DeepEqual`): numbers of other types are not.
    pub fn same(&self, other: &Self) -> bool {
        self.same_at(other, 0)
    }

    fn same_at(&self, other: &Self, depth: usize) -> bool {
        match (self, other) {
            _ if depth > DEPTH => false,
            (Self::Missing | Self::Nil, Self::Missing | Self::Nil) => true,
            (Self::Bool(one), Self::Bool(two)) => one == two,
            (Self::Int(one), Self::Int(two)) | (Self::Int64(one), Self::Int64(two)) => one == two,
            (Self::Float(one), Self::Float(two)) => one == two,
            (Self::Text(one), Self::Text(two)) => one == two,
            (Self::Bytes(one), Self::Bytes(two)) => one == two,
            (Self::List(one), Self::List(two)) => {
                one.len() == two.len() && one.iter().zip(two.iter()).all(|(a, b)| a.same_at(b, depth + 1))
            }
            (Self::Map(one), Self::Map(two)) => {
                let (one, two) = (one.entries(), two.entries());
                one.len() == two.len()
                    && one.iter().zip(&two).all(|(a, b)| a.0 == b.0 && a.1.same_at(&b.1, depth + 1))
            }
            (Self::Object(one), Self::Object(two)) => {
                Rc::ptr_eq(one, two) || one.plain().same_at(&two.plain(), depth + 1)
            }
            _ => false,
        }
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&crate::sprint(self))
    }
}
