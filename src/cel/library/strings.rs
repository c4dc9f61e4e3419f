//! The string extension, version 2: positions count characters.

use super::{Row, int, list, template, text};
use crate::operators::bounded;
use crate::value::{Fault, Outcome, Value, fail};

pub(super) const ROWS: &[Row] = &[
    ("charAt", "string_char_at_int", "string.(int) -> string", Some(char_at)),
    ("indexOf", "string_index_of_string", "string.(string) -> int", Some(index_of)),
    ("indexOf", "string_index_of_string_int", "string.(string, int) -> int", Some(index_of)),
    ("lastIndexOf", "string_last_index_of_string", "string.(string) -> int", Some(last_index_of)),
    ("lastIndexOf", "string_last_index_of_string_int", "string.(string, int) -> int", Some(last_index_of)),
    ("lowerAscii", "string_lower_ascii", "string.() -> string", Some(lower)),
    ("upperAscii", "string_upper_ascii", "string.() -> string", Some(upper)),
    ("replace", "string_replace_string_string", "string.(string, string) -> string", Some(replace)),
    ("replace", "string_replace_string_string_int", "string.(string, string, int) -> string", Some(replace)),
    ("split", "string_split_string", "string.(string) -> list(string)", Some(split)),
    ("split", "string_split_string_int", "string.(string, int) -> list(string)", Some(split)),
    ("substring", "string_substring_int", "string.(int) -> string", Some(substring)),
    ("substring", "string_substring_int_int", "string.(int, int) -> string", Some(substring)),
    ("trim", "string_trim", "string.() -> string", Some(trim)),
    ("join", "list_join", "list(string).() -> string", Some(join)),
    ("join", "list_join_string", "list(string).(string) -> string", Some(join)),
    ("strings.quote", "strings_quote", "(string) -> string", Some(quote)),
    ("format", "string_format", "string.(list(dyn)) -> string", Some(format)),
];

fn out_of_range<T>(index: i64) -> Result<T, Fault> {
    fail(format!("index out of range: {index}"))
}

/// The byte at which a character begins; the end follows the last one.
fn byte_at(within: &str, index: i64) -> Result<usize, Fault> {
    let Ok(wanted) = usize::try_from(index) else { return out_of_range(index) };
    let ends = within.char_indices().map(|(at, _)| at).chain([within.len()]);
    ends.into_iter().nth(wanted).map_or_else(|| out_of_range(index), Ok)
}

fn characters(within: &str) -> i64 {
    i64::try_from(within.chars().count()).unwrap_or(i64::MAX)
}

fn char_at<'a>(of: &[Value<'a>]) -> Outcome<'a> {
    let within = text(of, 0)?;
    let at = byte_at(within, int(of, 1)?)?;
    Ok(Value::text(within[at..].chars().next().map(String::from).unwrap_or_default()))
}

fn index_of<'a>(of: &[Value<'a>]) -> Outcome<'a> {
    let (within, wanted) = (text(of, 0)?, text(of, 1)?);
    let from = if of.len() > 2 { int(of, 2)? } else { 0 };
    if wanted.is_empty() {
        return Ok(Value::Int(from));
    }
    if from >= characters(within) {
        return Ok(Value::Int(-1));
    }
    let start = byte_at(within, from)?;
    let found = within[start..].find(wanted).map(|at| characters(&within[..start + at]));
    Ok(Value::Int(found.unwrap_or(-1)))
}

fn last_index_of<'a>(of: &[Value<'a>]) -> Outcome<'a> {
    let (within, wanted) = (text(of, 0)?, text(of, 1)?);
    let length = characters(within);
    let from = if of.len() > 2 { int(of, 2)? } else { length };
    if wanted.is_empty() {
        return Ok(Value::Int(from));
    }
    if from < 0 {
        return out_of_range(from);
    }
    if of.len() > 2 && from >= length {
        return Ok(Value::Int(-1));
    }
    // A match may begin at the offset and reach beyond it.
    let end = byte_at(within, (from + characters(wanted)).min(length))?;
    Ok(Value::Int(within[..end].rfind(wanted).map_or(-1, |at| characters(&within[..at]))))
}

fn lower<'a>(of: &[Value<'a>]) -> Outcome<'a> {
    Ok(Value::text(text(of, 0)?.to_ascii_lowercase()))
}

fn upper<'a>(of: &[Value<'a>]) -> Outcome<'a> {
    Ok(Value::text(text(of, 0)?.to_ascii_uppercase()))
}

fn trim<'a>(of: &[Value<'a>]) -> Outcome<'a> {
    Ok(Value::text(text(of, 0)?.trim()))
}

fn replace<'a>(of: &[Value<'a>]) -> Outcome<'a> {
    let (within, old, new) = (text(of, 0)?, text(of, 1)?, text(of, 2)?);
    let most = if of.len() > 3 { usize::try_from(int(of, 3)?).ok() } else { None };
    let count = within.matches(old).count().min(most.unwrap_or(usize::MAX));
    // Before making it: the new text can be long and often there.
    if count.saturating_mul(new.len()) > within.len() + MAX_GROWTH_BYTES {
        return fail(format!("replacement of {count} matches is too long"));
    }
    bounded(most.map_or_else(|| within.replace(old, new), |most| within.replacen(old, new, most)))
}

/// What a replacement may add to a string.
const MAX_GROWTH_BYTES: usize = 16 << 20;

fn split<'a>(of: &[Value<'a>]) -> Outcome<'a> {
    let (within, separator) = (text(of, 0)?, text(of, 1)?);
    let most = if of.len() > 2 { int(of, 2)? } else { -1 };
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    if most == 0 {
        return Ok(Value::list(Vec::new()));
    }
    let parts: Vec<&str> = if separator.is_empty() {
        split_characters(within, most)
    } else {
        within.splitn(most, separator).collect()
    };
    Ok(Value::list(parts.into_iter().map(Value::text).collect()))
}

/// Every character a part; the last part holds what is left.
fn split_characters(within: &str, most: usize) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = within;
    while let Some(next) = rest.chars().next() {
        let end = if parts.len() + 1 == most { rest.len() } else { next.len_utf8() };
        parts.push(&rest[..end]);
        rest = &rest[end..];
    }
    parts
}

fn substring<'a>(of: &[Value<'a>]) -> Outcome<'a> {
    let (within, start) = (text(of, 0)?, int(of, 1)?);
    if of.len() < 3 {
        return Ok(Value::text(&within[byte_at(within, start)?..]));
    }
    let end = int(of, 2)?;
    if start > end {
        return fail(format!("invalid substring range. start: {start}, end: {end}"));
    }
    Ok(Value::text(&within[byte_at(within, start)?..byte_at(within, end)?]))
}

fn join<'a>(of: &[Value<'a>]) -> Outcome<'a> {
    let separator = if of.len() > 1 { text(of, 1)? } else { "" };
    let mut joined = String::new();
    for (index, item) in list(of, 0)?.iter().enumerate() {
        let item = item?;
        let Some(part) = item.as_str() else {
            return fail(format!("join: invalid input: {}", template::shown(&item)));
        };
        if index > 0 {
            joined.push_str(separator);
        }
        joined.push_str(part);
    }
    bounded(joined)
}

fn quote<'a>(of: &[Value<'a>]) -> Outcome<'a> {
    let mut quoted = String::from('"');
    for letter in text(of, 0)?.chars() {
        match letter {
            '\u{7}' => quoted.push_str("\\a"),
            '\u{8}' => quoted.push_str("\\b"),
            '\u{c}' => quoted.push_str("\\f"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '\u{b}' => quoted.push_str("\\v"),
            '\\' => quoted.push_str("\\\\"),
            '"' => quoted.push_str("\\\""),
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    Ok(Value::text(quoted))
}

fn format<'a>(of: &[Value<'a>]) -> Outcome<'a> {
    bounded(template::filled(text(of, 0)?, list(of, 1)?)?)
}
