//! The language's own functions.

use crate::exec::Calling;
use crate::text::{escape_js, escape_query, html};
use crate::{Failure, Function, Value, format, sprint};
use std::cmp::Ordering;

type Answer = Result<Value, Failure>;

const fn fixed(count: usize, call: crate::Call) -> Function {
    Function { least: count, most: Some(count), call }
}

const fn from(least: usize, call: crate::Call) -> Function {
    Function { least, most: None, call }
}

pub(crate) const FUNCTIONS: &[(&str, Function)] = &[
    ("and", from(1, last)),
    ("or", from(1, last)),
    ("not", fixed(1, |_, args| Ok(Value::Bool(!args[0].truth())))),
    ("len", fixed(1, |_, args| len(&args[0]))),
    ("index", from(1, |_, args| index(args))),
    ("slice", from(1, |_, args| slice(args))),
    ("print", from(0, |calling, args| made(calling, print(args)))),
    ("println", from(0, |calling, args| made(calling, println(args)))),
    ("printf", from(1, printf)),
    ("html", from(0, |calling, args| made(calling, html(&print(args))))),
    ("js", from(0, |calling, args| made(calling, escape_js(&print(args))))),
    ("urlquery", from(0, |calling, args| made(calling, escape_query(&print(args))))),
    (
        "call",
        from(1, |_, args| {
            Err(format!("non-function {} of type {}", sprint(&args[0]), args[0].type_name()).into())
        }),
    ),
    ("eq", from(1, |_, args| equal(args).map(Value::Bool))),
    ("ne", fixed(2, |_, args| equal(args).map(|same| Value::Bool(!same)))),
    ("lt", fixed(2, |_, args| compare(args, Ordering::is_lt))),
    ("le", fixed(2, |_, args| compare(args, Ordering::is_le))),
    ("gt", fixed(2, |_, args| compare(args, Ordering::is_gt))),
    ("ge", fixed(2, |_, args| compare(args, Ordering::is_ge))),
];

/// `and` and `or` are decided where they are called.
fn last(_: &Calling<'_>, args: &[Value]) -> Answer {
    Ok(args.last().cloned().unwrap_or(Value::Nil))
}

fn made(calling: &Calling<'_>, text: String) -> Answer {
    calling.makes(text.len())?;
    Ok(Value::text(text))
}

fn printf(calling: &Calling<'_>, args: &[Value]) -> Answer {
    let Value::Text(pattern) = &args[0] else {
        return Err(wrong(0, "string", &args[0]));
    };
    made(calling, format(pattern, &args[1..]))
}

fn wrong(index: usize, expected: &str, given: &Value) -> Failure {
    let why = match given {
        Value::Missing => format!("invalid value; expected {expected}"),
        other => format!("wrong type for value; expected {expected}; got {}", other.type_name()),
    };
    Failure::Argument(index, why)
}

fn print(args: &[Value]) -> String {
    let mut out = String::new();
    for (index, arg) in args.iter().enumerate() {
        // Go's Sprint puts blanks between operands of which neither is a text.
        let is_text = |value: &Value| matches!(value, Value::Text(_) | Value::Bytes(_));
        if index > 0 && !is_text(arg) && !is_text(&args[index - 1]) {
            out.push(' ');
        }
        out.push_str(&sprint(arg));
    }
    out
}

fn println(args: &[Value]) -> String {
    let texts: Vec<String> = args.iter().map(sprint).collect();
    format!("{}\n", texts.join(" "))
}

fn len(value: &Value) -> Answer {
    let len = match value {
        Value::Text(text) => text.len(),
        Value::Bytes(bytes) => bytes.len(),
        Value::List(items) => items.len(),
        Value::Map(map) => map.len(),
        Value::Object(object) => return len(&object.plain()),
        Value::Missing | Value::Nil => return Err("len of nil pointer".into()),
        other => return Err(format!("len of type {}", other.type_name()).into()),
    };
    Ok(Value::Int(i64::try_from(len).unwrap_or(i64::MAX)))
}

fn position(value: &Value, length: usize, inclusive: bool) -> Result<usize, Failure> {
    let number = match value {
        Value::Int(number) | Value::Int64(number) => *number,
        Value::Missing | Value::Nil => return Err("cannot index slice/array with nil".into()),
        other => {
            return Err(format!("cannot index slice/array with type {}", other.type_name()).into());
        }
    };
    let limit = length + usize::from(inclusive);
    usize::try_from(number)
        .ok()
        .filter(|at| *at < limit)
        .ok_or_else(|| format!("index out of range: {number}").into())
}

fn index(args: &[Value]) -> Answer {
    let mut item = args[0].clone();
    for key in &args[1..] {
        if let Value::Object(object) = &item {
            item = object.plain();
        }
        item = match &item {
            Value::List(items) => items[position(key, items.len(), false)?].clone(),
            Value::Text(text) => Value::Int(i64::from(text.as_bytes()[position(key, text.len(), false)?])),
            Value::Bytes(bytes) => Value::Int(i64::from(bytes[position(key, bytes.len(), false)?])),
            Value::Map(map) => match key {
                Value::Text(key) => map.get(key).unwrap_or(Value::Nil),
                Value::Missing | Value::Nil => return Err("value is nil; should be of type string".into()),
                other => {
                    return Err(format!("value has type {}; should be string", other.type_name()).into());
                }
            },
            Value::Missing | Value::Nil => return Err("index of untyped nil".into()),
            other => return Err(format!("can't index item of type {}", other.type_name()).into()),
        };
    }
    Ok(item)
}

fn slice(args: &[Value]) -> Answer {
    let (item, bounds) = (&args[0], &args[1..]);
    if bounds.len() > 3 {
        return Err(format!("too many slice indexes: {}", bounds.len()).into());
    }
    let length = match item {
        Value::List(items) => items.len(),
        Value::Text(_) if bounds.len() == 3 => return Err("cannot 3-index slice a string".into()),
        Value::Text(text) => text.len(),
        Value::Missing | Value::Nil => return Err("slice of untyped nil".into()),
        other => return Err(format!("can't slice item of type {}", other.type_name()).into()),
    };
    let mut at = [0, length, length];
    for (bound, place) in bounds.iter().zip(&mut at) {
        *place = position(bound, length, true)?;
    }
    if at[0] > at[1] {
        return Err(format!("invalid slice index: {} > {}", at[0], at[1]).into());
    }
    if at[1] > at[2] {
        return Err(format!("invalid slice index: {} > {}", at[1], at[2]).into());
    }
    Ok(match item {
        Value::List(items) => Value::list(items[at[0]..at[1]].iter().cloned()),
        Value::Text(text) => Value::bytes(&text.as_bytes()[at[0]..at[1]]),
        other => other.clone(),
    })
}

const INCOMPATIBLE: &str = "incompatible types for comparison";

fn equal(args: &[Value]) -> Result<bool, Failure> {
    let Some((first, rest)) = args.split_first().filter(|(_, rest)| !rest.is_empty()) else {
        return Err("missing argument for comparison".into());
    };
    for other in rest {
        let same = match (first, other) {
            (Value::Int(a) | Value::Int64(a), Value::Int(b) | Value::Int64(b)) => a == b,
            (Value::Float(a), Value::Float(b)) => a == b,
            (Value::Bool(a), Value::Bool(b)) => a == b,
            (Value::Text(a), Value::Text(b)) => a == b,
            (Value::Bytes(a), Value::Bytes(b)) => a == b,
            (a, b) if a.is_nil() || b.is_nil() => a.is_nil() && b.is_nil(),
            (a, b) if compound(a) && compound(b) => {
                let shown = |value: &Value| format!("{}: {}", value.type_name(), sprint(value));
                return Err(format!("non-comparable types {}, {}", shown(a), shown(b)).into());
            }
            // Of other types: not the same.
            _ => false,
        };
        if same {
            return Ok(true);
        }
    }
    Ok(false)
}

fn compound(value: &Value) -> bool {
    matches!(value, Value::List(_) | Value::Map(_) | Value::Object(_))
}

fn compare(args: &[Value], wanted: fn(Ordering) -> bool) -> Answer {
    let order = match (&args[0], &args[1]) {
        (Value::Int(a) | Value::Int64(a), Value::Int(b) | Value::Int64(b)) => Some(a.cmp(b)),
        (Value::Float(a), Value::Float(b)) => a.partial_cmp(b),
        (Value::Text(a), Value::Text(b)) => Some(a.cmp(b)),
        (a, b) => {
            let basic = |value: &Value| !value.is_nil() && !compound(value);
            let same = basic(a) && a.type_name() == b.type_name();
            let why =
                if same || !basic(a) || !basic(b) { "invalid type for comparison" } else { INCOMPATIBLE };
            return Err(why.into());
        }
    };
    Ok(Value::Bool(order.is_some_and(wanted)))
}
