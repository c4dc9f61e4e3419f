//! YAML as Kubernetes writes it, byte for byte: keys sorted, lists not indented, texts quoted where another
//! reader could take them for something else (YAML 1.1), long lines folded at spaces.

use serde_json::{Map, Value};
use std::cmp::Ordering;
use std::fmt::Write;

/// Lines are folded at the first space behind this column.
const WIDTH: usize = 80;

/// One document, ending with a newline.
pub fn render(value: &Value) -> String {
    let mut out = Out(String::new());
    match value {
        Value::Object(fields) if !fields.is_empty() => out.map(fields, 0, false),
        Value::Array(items) if !items.is_empty() => out.list(items, 0),
        other => out.scalar(other, 0),
    }
    out.0
}

struct Out(String);

impl Out {
    fn indent(&mut self, depth: usize) {
        self.0.extend(std::iter::repeat_n(' ', depth));
    }

    /// Fields, each on a line; the first goes on where a `- ` stands already.
    fn map(&mut self, fields: &Map<String, Value>, depth: usize, mut inline: bool) {
        for (key, value) in ordered(fields.iter().collect()) {
            if !inline {
                self.indent(depth);
            }
            inline = false;
            self.text(key, None);
            self.0.push(':');
            match value {
                Value::Object(inner) if !inner.is_empty() => {
                    self.0.push('\n');
                    self.map(inner, depth + 2, false);
                }
                Value::Array(items) if !items.is_empty() => {
                    self.0.push('\n');
                    self.list(items, depth);
                }
                other => {
                    self.0.push(' ');
                    self.scalar(other, depth);
                }
            }
        }
    }

    fn list(&mut self, items: &[Value], depth: usize) {
        for (index, item) in items.iter().enumerate() {
            // A list in a list begins on the line of its own dash.
            if index > 0 || self.0.is_empty() || self.0.ends_with('\n') {
                self.indent(depth);
            }
            self.0.push_str("- ");
            match item {
                Value::Object(inner) if !inner.is_empty() => self.map(inner, depth + 2, true),
                Value::Array(inner) if !inner.is_empty() => self.list(inner, depth + 2),
                other => self.scalar(other, depth),
            }
        }
    }

    /// A value that fits behind its key; `depth` is its container's.
    fn scalar(&mut self, value: &Value, depth: usize) {
        match value {
            Value::Null => self.0.push_str("null"),
            Value::Object(_) => self.0.push_str("{}"),
            Value::Array(_) => self.0.push_str("[]"),
            Value::String(text) => self.text(text, Some(depth + 2)),
            Value::Number(number) if number.is_f64() => self.0.push_str(&fraction(number)),
            other => self.0.push_str(&other.to_string()),
        }
        if !self.0.ends_with('\n') || !matches!(value, Value::String(text) if text.contains('\n')) {
            self.0.push('\n');
        }
    }

    /// A text; with an indent it may take several lines, as keys may not.
    fn text(&mut self, text: &str, indent: Option<usize>) {
        let facts = Facts::of(text);
        match indent {
            Some(indent) if text.contains('\n') && facts.may_be_block => self.block(text, indent),
            _ if text.contains('\n') || facts.special || !facts.printable => self.double(text, indent),
            _ if means_something(text) => self.double(text, indent),
            _ if facts.indicators => self.single(text, indent),
            _ => self.folded(text, indent, |out, sign| out.push(sign)),
        }
    }

    fn block(&mut self, text: &str, indent: usize) {
        self.0.push('|');
        if text.starts_with([' ', '\n']) {
            self.0.push('2');
        }
        match text.strip_suffix('\n') {
            None => self.0.push('-'),
            Some(rest) if rest.ends_with('\n') || rest.is_empty() => self.0.push('+'),
            Some(_) => {}
        }
        self.0.push('\n');
        for line in text.strip_suffix('\n').unwrap_or(text).split('\n') {
            if !line.is_empty() {
                self.indent(indent);
                self.0.push_str(line);
            }
            self.0.push('\n');
        }
    }

    fn single(&mut self, text: &str, indent: Option<usize>) {
        self.0.push('\'');
        self.folded(text, indent, |out, sign| match sign {
            '\'' => out.push_str("''"),
            other => out.push(other),
        });
        self.0.push('\'');
    }

    fn double(&mut self, text: &str, indent: Option<usize>) {
        self.0.push('"');
        let last = text.chars().count().saturating_sub(1);
        let mut after_space = false;
        let signs: Vec<char> = text.chars().collect();
        for (at, sign) in signs.iter().enumerate() {
            let fold = *sign == ' ' && !after_space && at > 0 && at < last && self.column() > WIDTH;
            after_space = *sign == ' ';
            match indent {
                Some(indent) if fold => {
                    self.0.push('\n');
                    self.indent(indent);
                    if signs.get(at + 1) == Some(&' ') {
                        self.0.push('\\');
                    }
                }
                _ => escape(&mut self.0, *sign),
            }
        }
        self.0.push('"');
    }

    /// Writes signs, and breaks the line at a lone space where it has become too long.
    fn folded(&mut self, text: &str, indent: Option<usize>, write: fn(&mut String, char)) {
        let mut signs = text.chars().peekable();
        let mut after_space = false;
        while let Some(sign) = signs.next() {
            let lone = sign == ' ' && !after_space && signs.peek().is_some_and(|next| *next != ' ');
            after_space = sign == ' ';
            match indent {
                Some(indent) if lone && self.column() > WIDTH => {
                    self.0.push('\n');
                    self.indent(indent);
                }
                _ => write(&mut self.0, sign),
            }
        }
    }

    fn column(&self) -> usize {
        self.0[self.0.rfind('\n').map_or(0, |at| at + 1)..].chars().count()
    }
}

/// Fields in the order of their keys. The standard library's sorting may panic for an order that can go in
/// circles, as Go's can (`a12`, `a1b`, `a3`): this one only merges.
fn ordered<'v>(mut fields: Vec<(&'v String, &'v Value)>) -> Vec<(&'v String, &'v Value)> {
    if fields.len() < 2 {
        return fields;
    }
    let mut ones = ordered(fields.split_off(fields.len() / 2)).into_iter().peekable();
    let mut others = ordered(fields).into_iter().peekable();
    std::iter::from_fn(|| match (others.peek(), ones.peek()) {
        (Some((other, _)), Some((one, _))) if keys(other, one) == Ordering::Greater => ones.next(),
        (Some(_), _) => others.next(),
        (None, _) => ones.next(),
    })
    .collect()
}

/// The order of keys: numbers in them by what they count, and all other signs before letters.
fn keys(one: &str, other: &str) -> Ordering {
    let common = one.bytes().zip(other.bytes()).take_while(|(one, other)| one == other).count();
    let at = (0..=common).rev().find(|at| one.is_char_boundary(*at) && other.is_char_boundary(*at));
    let (before, one) = one.split_at(at.unwrap_or_default());
    let other = &other[before.len()..];
    let (Some(first), Some(second)) = (one.chars().next(), other.chars().next()) else {
        return one.len().cmp(&other.len());
    };
    match (first.is_alphabetic(), second.is_alphabetic()) {
        (true, true) => return first.cmp(&second),
        (false, false) => {}
        (false, true) => return Ordering::Less,
        (true, false) => return Ordering::Greater,
    }
    let digits = |text: &str| text.len() - text.trim_start_matches(|sign: char| sign.is_ascii_digit()).len();
    let (length, others) = (digits(one), digits(other));
    // A number that began before goes on: zeros count then.
    let begun = before.trim_end_matches(|sign: char| sign.is_ascii_digit());
    let begun = before[begun.len()..].bytes().any(|digit| digit != b'0') && (first == '0' || second == '0');
    let value = |text: &str| {
        let start = i64::from(begun);
        text.bytes().fold(start, |sum, digit| sum.wrapping_mul(10).wrapping_add(i64::from(digit - b'0')))
    };
    let numbers = value(&one[..length]).cmp(&value(&other[..others]));
    numbers.then(length.cmp(&others)).then(first.cmp(&second))
}

/// A number with a fraction as Go's `%g` has it: with an exponent below -4 and from 6 on, of two digits or more.
fn fraction(number: &serde_json::Number) -> String {
    let value = number.as_f64().unwrap_or_default();
    let text = format!("{value:e}");
    let exponent =
        text.split_once('e').and_then(|(mantissa, exponent)| Some((mantissa, exponent.parse::<i32>().ok()?)));
    match exponent {
        Some((mantissa, exponent)) if !(-4..6).contains(&exponent) => {
            let sign = if exponent < 0 { '-' } else { '+' };
            format!("{mantissa}e{sign}{:02}", exponent.unsigned_abs())
        }
        _ => format!("{value}"),
    }
}

fn escape(out: &mut String, sign: char) {
    match sign {
        '"' => out.push_str("\\\""),
        '\\' => out.push_str("\\\\"),
        '\n' => out.push_str("\\n"),
        '\t' => out.push_str("\\t"),
        '\r' => out.push_str("\\r"),
        '\u{0}' => out.push_str("\\0"),
        '\u{7}' => out.push_str("\\a"),
        '\u{8}' => out.push_str("\\b"),
        '\u{b}' => out.push_str("\\v"),
        '\u{c}' => out.push_str("\\f"),
        '\u{1b}' => out.push_str("\\e"),
        sign if printable(sign) => out.push(sign),
        sign => {
            let code = u32::from(sign);
            let written = match code {
                0..=0xff => write!(out, "\\x{code:02X}"),
                0x100..=0xffff => write!(out, "\\u{code:04X}"),
                _ => write!(out, "\\U{code:08X}"),
            };
            // Writing to a text does not fail.
            written.unwrap_or_default();
        }
    }
}

fn printable(sign: char) -> bool {
    matches!(sign, '\n' | ' '..='~' | '\u{a0}'..='\u{d7ff}' | '\u{e000}'..='\u{fefe}' | '\u{ff00}'..='\u{fffd}')
}

/// What decides how a text may be written.
struct Facts {
    printable: bool,
    /// Spaces before line breaks: only double quotes keep them.
    special: bool,
    /// It has signs that would end or change a plain text.
    indicators: bool,
    may_be_block: bool,
}

impl Facts {
    fn of(text: &str) -> Self {
        let all = text.chars().all(printable);
        let special = text.contains(" \n");
        let edges = text.starts_with([' ', '\n']) || text.ends_with([' ', '\n']);
        let opening = text
            .starts_with(['#', ',', '[', ']', '{', '}', '&', '*', '!', '|', '>', '\'', '"', '%', '@', '`'])
            || ["- ", "? ", ": ", "---", "..."].iter().any(|start| text.starts_with(start))
            || matches!(text, "-" | "?" | ":");
        let within =
            text.contains(": ") || text.contains(":\n") || text.ends_with(':') || text.contains(" #");
        Self {
            printable: all,
            special,
            indicators: edges || opening || within,
            may_be_block: all && !special && !text.ends_with(' '),
        }
    }
}

/// A plain text that YAML 1.1 readers take for a number, a truth value, a time, or nothing.
fn means_something(text: &str) -> bool {
    const WORDS: [&str; 11] = ["", "~", "null", "true", "false", "yes", "no", "on", "off", "y", "n"];
    let lower = text.to_ascii_lowercase();
    let cased = text == lower || text == text.to_ascii_uppercase() || is_title(text);
    let bare = text.strip_prefix(['+', '-']).unwrap_or(text);
    let special_float = matches!(bare, ".inf" | ".Inf" | ".INF") || matches!(text, ".nan" | ".NaN" | ".NAN");
    (cased && WORDS.contains(&lower.as_str()))
        || special_float
        || is_number(text)
        || is_time(text)
        || is_base_60(text)
}

fn is_title(text: &str) -> bool {
    let mut signs = text.chars();
    signs.next().is_some_and(|first| first.is_ascii_uppercase())
        && signs.all(|sign| !sign.is_ascii_uppercase())
}

fn is_number(text: &str) -> bool {
    if !text.starts_with(|sign: char| sign.is_ascii_digit() || matches!(sign, '+' | '-' | '.')) {
        return false;
    }
    let plain = text.replace('_', "");
    let bare = plain.strip_prefix(['+', '-']).unwrap_or(&plain);
    for (prefix, radix) in [("0x", 16), ("0X", 16), ("0b", 2), ("0B", 2), ("0o", 8), ("0O", 8)] {
        if let Some(digits) = bare.strip_prefix(prefix) {
            return u64::from_str_radix(digits, radix).is_ok() && !digits.starts_with('+');
        }
    }
    let (mantissa, exponent) = match bare.find(['e', 'E']) {
        Some(at) => (&bare[..at], Some(&bare[at + 1..])),
        None => (bare, None),
    };
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let whole = match mantissa.split_once('.') {
        None => digits(mantissa),
        Some(("", fraction)) => digits(fraction),
        Some((whole, fraction)) => digits(whole) && (fraction.is_empty() || digits(fraction)),
    };
    whole && exponent.is_none_or(|exponent| digits(exponent.strip_prefix(['+', '-']).unwrap_or(exponent)))
}

/// `2006-1-2`, with or without a time of the day behind `T`, `t` or a space.
fn is_time(text: &str) -> bool {
    let (date, time) = match text.find(['T', 't', ' ']) {
        Some(at) => (&text[..at], Some(&text[at + 1..])),
        None => (text, None),
    };
    let numbers = |text: &str, separator: char, most: [usize; 3]| {
        let parts: Vec<&str> = text.split(separator).collect();
        parts.len() == 3
            && parts.iter().zip(most).all(|(part, most)| {
                !part.is_empty() && part.len() <= most && part.bytes().all(|byte| byte.is_ascii_digit())
            })
    };
    if date.find('-') != Some(4) || !numbers(date, '-', [4, 2, 2]) {
        return false;
    }
    let Some(time) = time else { return true };
    let zone = time.find(['Z', '+', '-']).unwrap_or(time.len());
    let of_day = time[..zone].trim_end();
    let (seconds, fraction) = of_day.split_once('.').unwrap_or((of_day, "0"));
    let zoned = time[zone..].is_empty() == text.contains(' ') || !time[zone..].is_empty();
    numbers(seconds, ':', [2, 2, 2]) && fraction.bytes().all(|byte| byte.is_ascii_digit()) && zoned
}

/// `12:30` is a number of base 60 to old readers.
fn is_base_60(text: &str) -> bool {
    let bare = text.strip_prefix(['+', '-']).unwrap_or(text);
    let mut parts = bare.split(':');
    let digits =
        |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'_');
    let first = parts.next().is_some_and(|part| digits(part) && !part.starts_with('_'));
    let rest: Vec<&str> = parts.collect();
    first
        && !rest.is_empty()
        && rest.iter().enumerate().all(|(index, part)| {
            let part = if index + 1 == rest.len() { part.split('.').next().unwrap_or(part) } else { part };
            part.len() <= 2 && digits(part) && part.parse::<u8>().is_ok_and(|number| number < 60)
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn texts_are_quoted_where_they_have_to_be() {
        let quoted = [
            "",
            "1",
            "1.5",
            "0x1f",
            "1e3",
            "08",
            "true",
            "No",
            "null",
            "~",
            "2026-01-02T03:04:05Z",
            "2026-01-02",
            "12:30",
            "a\tb",
            ".5",
            "+1",
        ];
        for text in quoted {
            assert!(render(&json!({ "k": text })).starts_with("k: \""), "{text:?}");
        }
        for text in ["a: b", "- a", "#a", "*", "a #b", "'a'", "a:", " a", "[a", "@x", "%d"] {
            assert!(render(&json!({ "k": text })).starts_with("k: '"), "{text:?}");
        }
        for text in [
            "a",
            "a:b",
            "a#b",
            "1.2.3.4",
            "v1",
            "-a",
            "sha256:12ab",
            "10Gi",
            "250m",
            "tRue",
            "http://x/y?z",
            "a, b",
        ] {
            assert_eq!(render(&json!({ "k": text })), format!("k: {text}\n"));
        }
    }

    #[test]
    fn structures_and_blocks() {
        let value = json!({"a": [], "b": {}, "c": [{"x": 1, "y": [1, "2"]}, [3, [4]]], "d": {"e": "l\nm\n", "f": "l\nm", "g": "\nl\n\n"}, "h": null});
        let wanted = "a: []\nb: {}\nc:\n- x: 1\n  \"y\":\n  - 1\n  - \"2\"\n- - 3\n  - - 4\nd:\n  e: |\n    l\n    m\n  f: |-\n    l\n    m\n  g: |2+\n\n    l\n\nh: null\n";
        assert_eq!(render(&value), wanted);
    }

    #[test]
    fn fractions_have_exponents_where_go_gives_them() {
        let value = json!({"a": 1.5, "b": 123_456_789.123, "c": 1e-7, "d": 0.0001, "e": 1e21, "f": 999_999.5, "g": 1.5e300});
        let wanted =
            "a: 1.5\nb: 1.23456789123e+08\nc: 1e-07\nd: 0.0001\ne: 1e+21\nf: 999999.5\ng: 1.5e+300\n";
        assert_eq!(render(&value), wanted);
    }

    #[test]
    fn keys_are_ordered_by_numbers_and_signs_before_letters() {
        let keys = ["a-b", "a.b", "a1", "a9", "a10", "a010", "aB", "ab", "Z"];
        let value: Value = keys.iter().map(|key| ((*key).to_owned(), json!(1))).collect::<Map<_, _>>().into();
        let text = render(&value);
        let written: Vec<&str> = text.lines().filter_map(|line| line.split(':').next()).collect();
        // An order that goes in circles is one nevertheless.
        let circle: Value =
            (0..500).map(|at| (format!("a{}b{at}", at * 7 % 31), json!(1))).collect::<Map<_, _>>().into();
        assert_eq!(render(&circle).lines().count(), 500);
        assert_eq!(written, ["Z", "a-b", "a.b", "a1", "a9", "a10", "a010", "aB", "ab"]);
    }

    #[test]
    fn long_lines_are_folded() {
        let long = "word ".repeat(30);
        let text = render(&json!({"k": {"m": long.trim_end()}}));
        assert_eq!(text.lines().count(), 3, "{text}");
        assert!(text.lines().nth(2).is_some_and(|line| line.starts_with("    word")));
    }
}
