//! The functions that charts use: those of the Sprig library and Helm's own.
//!
//! Left out are those that ask the network or the environment (`getHostByName` gives "", `env` is not there).

mod certificates;
mod dates;
mod dicts;
mod encoding;
mod lists;
mod numbers;
mod passwords;
mod patterns;
mod rendering;
mod rsa;
mod strings;
mod toml;
mod words;

pub(crate) use dates::go_duration;
pub(crate) use encoding::yaml;
pub(crate) use rendering::{Host, Query};
pub(crate) use strings::{base as base_name, clean};

use std::rc::Rc;
use template::{Calling, Failure, Function, Library, Map, Value, sprint};

pub(crate) type Answer = Result<Value, Failure>;

/// The longest list that a function makes.
const ITEMS: i64 = 1_000_000;

const fn fixed(count: usize, call: template::Call) -> Function {
    Function { least: count, most: Some(count), call }
}

const fn from(least: usize, call: template::Call) -> Function {
    Function { least, most: None, call }
}

/// All functions of charts.
pub(crate) fn library() -> Library {
    let mut library = Library::default();
    let groups = [
        strings::FUNCTIONS,
        words::FUNCTIONS,
        numbers::FUNCTIONS,
        lists::FUNCTIONS,
        dicts::FUNCTIONS,
        encoding::FUNCTIONS,
        toml::FUNCTIONS,
        passwords::FUNCTIONS,
        dates::FUNCTIONS,
        patterns::FUNCTIONS,
        certificates::FUNCTIONS,
        rendering::FUNCTIONS,
    ];
    groups.iter().for_each(|group| library.add(group));
    library
}

fn wrong(index: usize, expected: &str, given: &Value) -> Failure {
    let why = match given {
        Value::Missing => format!("invalid value; expected {expected}"),
        other => format!("wrong type for value; expected {expected}; got {}", other.type_name()),
    };
    Failure::Argument(index, why)
}

/// An argument that has to be a text.
fn text(args: &[Value], index: usize) -> Result<Rc<str>, Failure> {
    match &args[index] {
        Value::Text(text) => Ok(text.clone()),
        Value::Bytes(bytes) => Ok(String::from_utf8_lossy(bytes).into()),
        other => Err(wrong(index, "string", other)),
    }
}

/// An argument that has to be an `int`.
fn int(args: &[Value], index: usize) -> Result<i64, Failure> {
    match &args[index] {
        Value::Int(number) => Ok(*number),
        other => Err(wrong(index, "int", other)),
    }
}

/// An argument that has to be a truth.
fn truth(args: &[Value], index: usize) -> Result<bool, Failure> {
    match &args[index] {
        Value::Bool(truth) => Ok(*truth),
        other => Err(wrong(index, "bool", other)),
    }
}

/// An argument that has to be a map.
fn map(args: &[Value], index: usize) -> Result<Map, Failure> {
    match &args[index] {
        Value::Map(map) => Ok(map.clone()),
        // Where nothing is given, Go's functions get a map without keys.
        Value::Missing => Ok(Map::default()),
        Value::Object(object) => match object.plain() {
            Value::Map(map) => Ok(map),
            _ => Err(wrong(index, "map[string]interface {}", &args[index])),
        },
        other => Err(wrong(index, "map[string]interface {}", other)),
    }
}

/// A text that a function made.
fn made(calling: &Calling<'_>, text: impl AsRef<str>) -> Answer {
    calling.makes(text.as_ref().len())?;
    Ok(Value::text(text))
}

/// A list that a function made.
fn listed(calling: &Calling<'_>, items: Vec<Value>) -> Answer {
    calling.makes(items.len() * size_of::<Value>())?;
    Ok(Value::list(items))
}

/// Anything as text (Sprig's `strval`).
fn strval(value: &Value) -> Rc<str> {
    match value {
        Value::Text(text) => text.clone(),
        other => sprint(other).into(),
    }
}

/// The items of a list argument as texts (Sprig's `strslice`).
fn strings_of(value: &Value) -> Vec<Rc<str>> {
    match value {
        Value::List(items) => items.iter().filter(|item| !item.is_nil()).map(strval).collect(),
        nil if nil.is_nil() => Vec::new(),
        other => vec![strval(other)],
    }
}
