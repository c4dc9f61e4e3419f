//! The functions of Kubernetes 1.36's environment: one row each, from which the checker, the evaluator and the
//! cost model take what they need.

pub(crate) mod authorizer;
mod collections;
mod formats;
mod lists;
mod net;
pub(crate) mod patch;
mod semver;
mod standard;
mod strings;
mod template;
mod url;

pub(crate) use collections::insert;
pub(crate) use semver::Version;
pub(crate) use standard::{CONVERSIONS, compile_pattern};
pub(crate) use template::shown;

use crate::types::{OPTIONAL, Type};
use crate::value::{Fault, List, Outcome, Value, no_overload};
use api::quantity::Amount;
use api::url::Url;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, LazyLock};

/// What calls an overload with arguments of its types.
pub(crate) type Implementation = for<'a> fn(&[Value<'a>]) -> Outcome<'a>;

/// A row of a table: function, overload, signature, implementation. Operators and macros have none here.
pub(crate) type Row = (&'static str, &'static str, &'static str, Option<Implementation>);

/// A function with all its overloads.
#[derive(Debug)]
pub(crate) struct Function {
    pub(crate) name: &'static str,
    pub(crate) overloads: Vec<Overload>,
}

/// One way to call a function.
#[derive(Debug)]
pub(crate) struct Overload {
    pub(crate) id: &'static str,
    /// Whether the first parameter stands before the dot.
    pub(crate) member: bool,
    pub(crate) parameters: Vec<Type>,
    pub(crate) result: Type,
    pub(crate) call: Option<Implementation>,
}

/// A value of a library.
#[derive(Clone, Debug)]
pub enum Opaque<'a> {
    /// `kubernetes.Quantity`.
    Quantity(Amount),
    /// `kubernetes.URL`.
    Url(Url),
    /// `net.IP`.
    Ip(IpAddr),
    /// `net.CIDR`.
    Cidr(net::Cidr),
    /// `kubernetes.Semver`.
    Semver(semver::Version),
    /// `kubernetes.NamedFormat`.
    Format(&'static formats::Format),
    /// The authorizer, a check or a decision of it.
    Authorizer(Box<authorizer::Step<'a>>),
    /// A pattern that stood in the expression, compiled, with its length in characters.
    Pattern(regex::Regex, u64),
    /// An object that the expression made: its type and the JSON of its fields.
    Object(patch::Made<'a>),
}

impl Opaque<'_> {
    pub(crate) fn type_of(&self) -> Type {
        match self {
            Self::Quantity(_) => Type::object("kubernetes.Quantity"),
            Self::Url(_) => Type::object("kubernetes.URL"),
            Self::Ip(_) => Type::Opaque("net.IP", Arc::new([])),
            Self::Cidr(_) => Type::Opaque("net.CIDR", Arc::new([])),
            Self::Semver(_) => Type::object("kubernetes.Semver"),
            Self::Format(_) => Type::object("kubernetes.NamedFormat"),
            Self::Authorizer(step) => step.type_of(),
            Self::Pattern(..) => Type::String,
            Self::Object(made) => Type::Object(Arc::clone(&made.name)),
        }
    }

    /// Addresses have a size for the cost of comparing them.
    pub(crate) fn size(&self) -> u64 {
        match self {
            Self::Ip(IpAddr::V4(_)) => 4,
            Self::Ip(IpAddr::V6(_)) => 16,
            Self::Cidr(cidr) => u64::from(cidr.length).div_ceil(8),
            Self::Pattern(_, length) => *length,
            _ => 1,
        }
    }

    pub(crate) fn equals(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Quantity(one), Self::Quantity(other)) => one == other,
            (Self::Url(one), Self::Url(other)) => one == other,
            (Self::Ip(one), Self::Ip(other)) => one == other,
            (Self::Cidr(one), Self::Cidr(other)) => one == other,
            (Self::Semver(one), Self::Semver(other)) => one == other,
            (Self::Format(one), Self::Format(other)) => one.name == other.name,
            (Self::Authorizer(one), Self::Authorizer(other)) => one == other,
            (Self::Object(one), Self::Object(other)) => one.equals(other),
            _ => false,
        }
    }
}

impl<'a> Value<'a> {
    pub(crate) fn opaque(opaque: Opaque<'a>) -> Self {
        Self::Opaque(Arc::new(opaque))
    }
}

static LIBRARY: LazyLock<HashMap<&'static str, Function>> = LazyLock::new(build);

/// The function of that name.
pub(crate) fn function(name: &str) -> Option<&'static Function> {
    LIBRARY.get(name)
}

/// The type that a name in an expression is the name of.
pub(crate) fn named_type(name: &str) -> Option<Type> {
    Some(match name {
        "null_type" => Type::Null,
        "type" => Type::Type(None),
        "list" => Type::list(Type::Dyn),
        "map" => Type::map(Type::Dyn, Type::Dyn),
        "google.protobuf.Duration" => Type::Duration,
        "google.protobuf.Timestamp" => Type::Timestamp,
        OPTIONAL => Type::optional(Type::Dyn),
        "net.IP" => Type::Opaque("net.IP", Arc::new([])),
        "net.CIDR" => Type::Opaque("net.CIDR", Arc::new([])),
        "bool" | "int" | "uint" | "double" | "string" | "bytes" => parse_type(name),
        _ if name.starts_with("kubernetes.") && OBJECTS.contains(&name) => Type::object(name),
        _ => return None,
    })
}

/// Types of the libraries that have neither parameters nor fields.
const OBJECTS: [&str; 9] = [
    "kubernetes.Quantity",
    "kubernetes.URL",
    "kubernetes.Semver",
    "kubernetes.NamedFormat",
    "kubernetes.authorization.Authorizer",
    "kubernetes.authorization.PathCheck",
    "kubernetes.authorization.GroupCheck",
    "kubernetes.authorization.ResourceCheck",
    "kubernetes.authorization.Decision",
];

fn build() -> HashMap<&'static str, Function> {
    let mut library: HashMap<&'static str, Function> = HashMap::new();
    let templated = standard::comparisons().into_iter().chain(lists::templated());
    let templated = templated.map(|(name, id, signature, call)| (name, overload(id, &signature, call)));
    let tables = [
        standard::ROWS,
        collections::ROWS,
        strings::ROWS,
        lists::ROWS,
        net::ROWS,
        url::ROWS,
        semver::ROWS,
        formats::ROWS,
        authorizer::ROWS,
        patch::ROWS,
    ];
    let rows = tables
        .into_iter()
        .flatten()
        .map(|(name, id, signature, call)| (*name, overload(id, signature, *call)));
    for (name, overload) in rows.chain(templated) {
        let function = library.entry(name).or_insert_with(|| Function { name, overloads: Vec::new() });
        function.overloads.push(overload);
    }
    library
}

/// Reads a signature: `string.(int) -> string` is called on a string, `(string) -> bool` is not.
fn overload(id: &'static str, signature: &str, call: Option<Implementation>) -> Overload {
    let (parameters, result) = signature.rsplit_once(" -> ").unwrap_or((signature, "dyn"));
    let (target, arguments) = match parameters.find(".(") {
        Some(at) => (Some(&parameters[..at]), &parameters[at + 1..]),
        None => (None, parameters),
    };
    let arguments = arguments.trim_start_matches('(').strip_suffix(')').unwrap_or(arguments);
    let parameters = target.into_iter().chain(split(arguments)).map(parse_type).collect();
    Overload { id, member: target.is_some(), parameters, result: parse_type(result), call }
}

/// The parts between commas that are in no parentheses.
fn split(list: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut depth, mut start) = (0, 0);
    for (at, letter) in list.char_indices() {
        match letter {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(list[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(list[start..].trim());
    parts.retain(|part| !part.is_empty());
    parts
}

pub(crate) fn parse_type(text: &str) -> Type {
    if let Some((name, inner)) = text.split_once('(') {
        let inner: Vec<Type> =
            split(inner.strip_suffix(')').unwrap_or(inner)).into_iter().map(parse_type).collect();
        return match (name, inner.as_slice()) {
            ("list", [element]) => Type::list(element.clone()),
            ("map", [key, value]) => Type::map(key.clone(), value.clone()),
            ("optional", [inner]) => Type::optional(inner.clone()),
            ("type", [inner]) => Type::Type(Some(Arc::new(inner.clone()))),
            _ => Type::Error,
        };
    }
    match text {
        "bool" => Type::Bool,
        "int" => Type::Int,
        "uint" => Type::Uint,
        "double" => Type::Double,
        "string" => Type::String,
        "bytes" => Type::Bytes,
        "duration" => Type::Duration,
        "timestamp" => Type::Timestamp,
        "dyn" => Type::Dyn,
        "IP" => Type::Opaque("net.IP", Arc::new([])),
        "CIDR" => Type::Opaque("net.CIDR", Arc::new([])),
        "Authorizer" | "PathCheck" | "GroupCheck" | "ResourceCheck" | "Decision" => {
            Type::object(&format!("kubernetes.authorization.{text}"))
        }
        _ => match text.as_bytes() {
            [letter] => Type::Param(char::from(*letter)),
            _ => Type::object(&format!("kubernetes.{text}")),
        },
    }
}

/// The text of an argument.
fn text<'v>(arguments: &'v [Value<'_>], at: usize) -> Result<&'v str, Fault> {
    arguments.get(at).and_then(Value::as_str).map_or_else(no_overload, Ok)
}

/// The whole number of an argument.
fn int(arguments: &[Value<'_>], at: usize) -> Result<i64, Fault> {
    match arguments.get(at) {
        Some(Value::Int(value)) => Ok(*value),
        _ => no_overload(),
    }
}

/// The list of an argument.
fn list<'v, 'a>(arguments: &'v [Value<'a>], at: usize) -> Result<&'v List<'a>, Fault> {
    match arguments.get(at) {
        Some(Value::List(list)) => Ok(list),
        _ => no_overload(),
    }
}

/// The library's value of an argument.
fn opaque<'v, 'a>(arguments: &'v [Value<'a>], at: usize) -> Result<&'v Opaque<'a>, Fault> {
    match arguments.get(at) {
        Some(Value::Opaque(opaque)) => Ok(opaque),
        _ => no_overload(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_are_read_as_they_are_written() {
        let read = overload("id", "list(map(K, V)).(optional(A), int) -> type(list(A))", None);
        let shown: Vec<String> = read.parameters.iter().map(Type::to_string).collect();
        assert_eq!(shown, ["list(map(K, V))", "optional_type(A)", "int"]);
        assert_eq!(read.result.to_string(), "type(list(A))");
        assert!(read.member);
        assert!(overload("id", "() -> bool", None).parameters.is_empty());
    }

    #[test]
    fn no_row_has_a_type_that_is_none() {
        let known = |one: &Type| !one.to_string().contains("!error!");
        for function in LIBRARY.values() {
            for overload in &function.overloads {
                assert!(overload.parameters.iter().chain([&overload.result]).all(known), "{}", overload.id);
            }
        }
    }
}
