//! `string.format`: clauses of a template are filled with the items of a list.

use crate::number;
use crate::operators::convert;
use crate::types::Type;
use crate::value::{Fault, List, Value, fail};

/// Digits after the point where a clause names none.
const DIGITS: usize = 6;
/// More digits than this are no number but a way to use memory.
const MAX_DIGITS: usize = 1000;

/// The template with its clauses filled.
pub(super) fn filled(template: &str, items: &List<'_>) -> Result<String, Fault> {
    let mut written = String::with_capacity(template.len());
    let mut rest = template;
    let mut next = 0;
    while let Some(at) = rest.find('%') {
        written.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('%') {
            written.push('%');
            rest = after;
            continue;
        }
        if rest.is_empty() {
            return fail("unexpected end of string");
        }
        let Some(item) = items.get(next) else { return fail(format!("index {next} out of range")) };
        let (digits, after) = precision(rest)?;
        let Some(clause) = after.chars().next() else { return fail("unexpected end of string") };
        written.push_str(&fill(clause, digits, &item?)?);
        rest = &after[clause.len_utf8()..];
        next += 1;
    }
    written.push_str(rest);
    Ok(written)
}

fn precision(clause: &str) -> Result<(usize, &str), Fault> {
    let Some(rest) = clause.strip_prefix('.') else { return Ok((DIGITS, clause)) };
    let Some(end) = rest.find(|letter: char| !letter.is_ascii_digit()) else {
        return fail(
            "could not parse formatting clause: error while parsing precision: could not find end of precision specifier",
        );
    };
    match rest[..end].parse::<usize>() {
        Ok(digits) if digits <= MAX_DIGITS => Ok((digits, &rest[end..])),
        _ => fail(
            "could not parse formatting clause: error while parsing precision: error while converting precision to integer",
        ),
    }
}

fn fill(clause: char, digits: usize, item: &Value<'_>) -> Result<String, Fault> {
    let wrong = |name: &str, accepted: &str| {
        let was = item.type_of().name();
        fail(format!(
            "error during formatting: {name} clause can only be used on {accepted}, was given {was}"
        ))
    };
    match (clause, item) {
        ('s', _) => string(item),
        ('d', Value::Int(value)) => Ok(value.to_string()),
        ('d', Value::Uint(value)) => Ok(value.to_string()),
        ('d', _) => wrong("decimal", "integers"),
        ('f', _) => {
            double(item).map_or_else(|| wrong("fixed-point", "doubles"), |value| Ok(fixed(value, digits)))
        }
        ('e', _) => {
            double(item).map_or_else(|| wrong("scientific", "doubles"), |value| Ok(scientific(value, digits)))
        }
        ('b', Value::Bool(value)) => Ok(u8::from(*value).to_string()),
        ('b' | 'o' | 'x' | 'X', Value::Int(value)) => {
            let sign = if *value < 0 { "-" } else { "" };
            Ok(format!("{sign}{}", radix(clause, value.unsigned_abs())))
        }
        ('b' | 'o' | 'x' | 'X', Value::Uint(value)) => Ok(radix(clause, *value)),
        ('b', _) => wrong("binary", "integers and bools"),
        ('o', _) => wrong("octal", "integers"),
        ('x' | 'X', Value::String(text)) => Ok(hex(clause, text.as_str().as_bytes())),
        ('x' | 'X', Value::Bytes(bytes)) => Ok(hex(clause, bytes)),
        ('x' | 'X', _) => wrong("hex", "integers, byte buffers, and strings"),
        (other, _) => {
            fail(format!("could not parse formatting clause: unrecognized formatting clause \"{other}\""))
        }
    }
}

fn double(item: &Value<'_>) -> Option<f64> {
    match item {
        Value::Double(value) => Some(*value),
        Value::String(text) => match text.as_str() {
            "NaN" => Some(f64::NAN),
            "Infinity" => Some(f64::INFINITY),
            "-Infinity" => Some(f64::NEG_INFINITY),
            _ => None,
        },
        _ => None,
    }
}

fn radix(clause: char, value: u64) -> String {
    match clause {
        'b' => format!("{value:b}"),
        'o' => format!("{value:o}"),
        'x' => format!("{value:x}"),
        _ => format!("{value:X}"),
    }
}

fn hex(clause: char, bytes: &[u8]) -> String {
    let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    if clause == 'X' { digits.to_uppercase() } else { digits }
}

fn no_number(value: f64) -> Option<&'static str> {
    match number::special(value)? {
        "+Inf" => Some("∞"),
        "-Inf" => Some("-∞"),
        other => Some(other),
    }
}

/// With a comma between thousands.
fn fixed(value: f64, digits: usize) -> String {
    if let Some(special) = no_number(value) {
        return special.into();
    }
    let written = format!("{:.digits$}", value.abs());
    let (whole, fraction) = written.split_once('.').unwrap_or((&written, ""));
    let mut grouped = String::from(if value.is_sign_negative() { "-" } else { "" });
    for (at, digit) in whole.char_indices() {
        if at > 0 && (whole.len() - at) % 3 == 0 {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    if digits > 0 {
        grouped.push('.');
        grouped.push_str(fraction);
    }
    grouped
}

/// With the power of ten spelled out.
fn scientific(value: f64, digits: usize) -> String {
    if let Some(special) = no_number(value) {
        return special.into();
    }
    let written = format!("{value:.digits$e}");
    let (mantissa, exponent) = written.split_once('e').unwrap_or((&written, "0"));
    let sign = if exponent.starts_with('-') { "⁻" } else { "" };
    let raised: String =
        format!("{:0>2}", exponent.trim_start_matches('-')).chars().map(superscript).collect();
    format!("{mantissa}\u{202f}×\u{202f}10{sign}{raised}")
}

fn superscript(digit: char) -> char {
    "⁰¹²³⁴⁵⁶⁷⁸⁹".chars().nth(digit.to_digit(10).unwrap_or(0) as usize).unwrap_or(digit)
}

fn string(item: &Value<'_>) -> Result<String, Fault> {
    match item {
        Value::Null => Ok("null".into()),
        Value::List(_) | Value::Map(_) => nested(item),
        Value::Type(of) => Ok(of.name()),
        Value::Opaque(_) | Value::Optional(_) | Value::Fields(_) => fail(format!(
            "error during formatting: string clause can only be used on strings, bools, bytes, ints, doubles, maps, \
             lists, types, durations, and timestamps, was given {}",
            item.type_of().name()
        )),
        _ => match convert(item, &Type::String)? {
            Value::String(text) => Ok(text.as_str().to_owned()),
            _ => Ok(String::new()),
        },
    }
}

/// As it would be written in an expression.
fn nested(item: &Value<'_>) -> Result<String, Fault> {
    Ok(match item {
        Value::String(text) => format!("{:?}", text.as_str()),
        Value::Bytes(_) => format!("b{:?}", string(item)?),
        Value::Double(value) if number::special(*value).is_some() => format!("{:?}", string(item)?),
        Value::Double(value) => format!("{value:.DIGITS$}"),
        Value::Timestamp(_) => format!("timestamp({:?})", string(item)?),
        Value::Duration(_) => format!("duration({:?})", string(item)?),
        Value::List(list) => {
            let items: Vec<String> = list.iter().map(|item| nested(&item?)).collect::<Result<_, _>>()?;
            format!("[{}]", items.join(", "))
        }
        Value::Map(map) => {
            let pair = |(key, value): (crate::value::Key<'_>, Result<Value<'_>, Fault>)| {
                Ok::<_, Fault>(format!("{}:{}", nested(&key.value())?, nested(&value?)?))
            };
            let mut entries: Vec<String> = map.entries().map(pair).collect::<Result<_, _>>()?;
            entries.sort();
            format!("{{{}}}", entries.join(", "))
        }
        other => string(other)?,
    })
}

/// A value as messages show it.
pub(crate) fn shown(value: &Value<'_>) -> String {
    string(value).unwrap_or_else(|_| value.type_of().name())
}
