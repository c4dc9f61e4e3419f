//! YAML as Kubernetes reads it: version 1.1 where Go's library still is (`yes` and `on` are flags, `017`
//! is octal), everything turned into JSON, and keys that a map has twice told by their lines;
//! and YAML as Kubernetes writes it.

mod mended;
mod modern;
mod write;

pub use write::render;

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span, StrInput, Tag};
use serde_json::{Map, Number, Value};
use std::borrow::Cow;
use std::collections::HashMap;

/// How deep values may be nested: what is deeper could not be read again as JSON.
const DEPTH: usize = 100;
/// How many values aliases may stand for together: a page of them can stand for more than memory holds.
const ALIASED: usize = 100_000;
/// How many repeated keys are told of.
const REPEATED: usize = 100;

/// One document of a stream.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Document {
    /// Its value; null if there is nothing in it.
    pub value: Value,
    /// `line 3: key "a" already set in map` for each key that was. The last one counts.
    pub repeated: Vec<String>,
}

/// Why a text is no YAML, or cannot be JSON, in the words of Go's library.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// It is no YAML.
    #[error("yaml: {}{why}", place(.line))]
    Malformed {
        /// Where, from 1; 0 where that is not told.
        line: usize,
        /// What is wrong.
        why: String,
    },
    /// It is not UTF-8.
    #[error("yaml: invalid UTF-8")]
    Encoding,
}

/// The first document of a text.
pub fn first(bytes: &[u8]) -> Result<Document, Error> {
    let text = std::str::from_utf8(bytes).map_err(|_| Error::Encoding)?;
    documents(text).next().unwrap_or_else(|| Ok(Document::default()))
}

/// The documents of a text; what follows one that is malformed is not read.
pub fn documents(text: &str) -> impl Iterator<Item = Result<Document, Error>> {
    read(text, scalar)
}

/// As [`documents`], but as Go's third library makes values of a tree, and kustomize so of files: `yes` and
/// `on` are texts, times are written out, and what is `!!binary` is decoded.
pub fn plain_documents(text: &str) -> impl Iterator<Item = Result<Document, Error>> {
    read(text, modern::scalar)
}

/// What a scalar is.
type Reading = fn(&str, ScalarStyle, &Tagged<'_>, Span) -> Result<Value, Error>;

fn read(text: &str, reading: Reading) -> impl Iterator<Item = Result<Document, Error>> {
    let (mut as_it_is, mut given) = (as_it_is(text, reading), 0);
    // What was mended is read to its end.
    let mut mended: Option<std::vec::IntoIter<_>> = None;
    std::iter::from_fn(move || {
        if let Some(rest) = &mut mended {
            return rest.next();
        }
        let document = as_it_is.next()?;
        if let Err(Error::Malformed { why, .. }) = &document
            && mended::is_about(why)
            && let Some(text) = mended::mended(text)
        {
            let rest: Vec<_> = self::as_it_is(&text, reading).skip(given).collect();
            return mended.insert(rest.into_iter()).next();
        }
        given += 1;
        Some(document)
    })
}

/// The documents of a text that is not mended.
fn as_it_is(text: &str, reading: Reading) -> impl Iterator<Item = Result<Document, Error>> {
    let mut parser = Some(Parser::new_from_str(text));
    std::iter::from_fn(move || {
        let mut loader = Loader::new(parser.take()?, reading);
        let document = loader.document();
        if matches!(document, Ok(Some(_))) {
            parser = Some(loader.parser);
        }
        document.transpose()
    })
}

type Tagged<'t> = Option<Cow<'t, Tag>>;

struct Loader<'t> {
    parser: Parser<'t, StrInput<'t>>,
    /// The values of anchors, and how many values each holds.
    anchors: HashMap<usize, (Value, usize)>,
    /// How many values were made so far, and how many of them by aliases.
    made: usize,
    aliased: usize,
    repeated: Vec<String>,
    reading: Reading,
}

impl<'t> Loader<'t> {
    fn new(parser: Parser<'t, StrInput<'t>>, reading: Reading) -> Self {
        Self { parser, anchors: HashMap::new(), made: 0, aliased: 0, repeated: Vec::new(), reading }
    }

    fn next(&mut self) -> Result<Option<(Event<'t>, Span)>, Error> {
        self.parser.next_event().transpose().map_err(|error| malformed(&error))
    }

    /// The next document; `None` after the last.
    fn document(&mut self) -> Result<Option<Document>, Error> {
        while let Some((event, span)) = self.next()? {
            match event {
                Event::StreamStart | Event::DocumentStart(_) | Event::Nothing => {}
                Event::StreamEnd => return Ok(None),
                Event::DocumentEnd => return Ok(Some(Document::default())),
                event => {
                    let value = self.value(event, span, 0)?;
                    self.next()?;
                    return Ok(Some(Document { value, repeated: std::mem::take(&mut self.repeated) }));
                }
            }
        }
        Ok(None)
    }

    fn value(&mut self, event: Event<'t>, span: Span, depth: usize) -> Result<Value, Error> {
        if depth > DEPTH {
            return Err(at(span, format!("exceeded max depth of {DEPTH}")));
        }
        let before = self.made;
        self.made += 1;
        let (anchor, value) = match event {
            Event::Scalar(text, style, anchor, tag) => (anchor, (self.reading)(&text, style, &tag, span)?),
            Event::SequenceStart(anchor, _) => (anchor, self.sequence(span, depth)?),
            Event::MappingStart(anchor, _) => (anchor, self.mapping(span, depth)?),
            Event::Alias(anchor) => return self.alias(anchor, span),
            _ => return Err(at(span, "did not find expected node content".to_owned())),
        };
        if anchor > 0 {
            self.anchors.insert(anchor, (value.clone(), self.made - before));
        }
        Ok(value)
    }

    fn alias(&mut self, anchor: usize, span: Span) -> Result<Value, Error> {
        let (value, size) =
            self.anchors.get(&anchor).ok_or_else(|| at(span, "anchor value contains itself".to_owned()))?;
        self.aliased += size;
        self.made += size;
        if self.aliased > ALIASED {
            return Err(at(span, "document contains excessive aliasing".to_owned()));
        }
        Ok(value.clone())
    }

    fn sequence(&mut self, start: Span, depth: usize) -> Result<Value, Error> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                Some((Event::SequenceEnd, _)) => return Ok(Value::Array(items)),
                Some((event, span)) => items.push(self.value(event, span, depth + 1)?),
                None => return Err(at(start, "did not find expected ',' or ']'".to_owned())),
            }
        }
    }

    fn mapping(&mut self, start: Span, depth: usize) -> Result<Value, Error> {
        let (mut entries, mut merged) = (Map::new(), Map::new());
        loop {
            let (event, span) = match self.next()? {
                Some((Event::MappingEnd, _)) => break,
                Some(key) => key,
                None => return Err(at(start, "did not find expected key".to_owned())),
            };
            let merges = matches!(&event, Event::Scalar(text, ScalarStyle::Plain, ..) if text == "<<");
            let key = self.value(event, span, depth + 1)?;
            let Some((event, value_span)) = self.next()? else {
                return Err(at(span, "did not find expected value".to_owned()));
            };
            let value = self.value(event, value_span, depth + 1)?;
            if merges {
                merge(&mut merged, value, value_span)?;
                continue;
            }
            let (key, shown) = name(key, span)?;
            if entries.insert(key, value).is_some() && self.repeated.len() < REPEATED {
                self.repeated.push(format!("line {}: key {shown} already set in map", span.start.line()));
            }
        }
        // What a map says itself counts more than what is merged into it.
        add_missing(&mut entries, merged);
        Ok(Value::Object(entries))
    }
}

fn place(line: &usize) -> String {
    if *line == 0 { String::new() } else { format!("line {line}: ") }
}

/// An error as Go's library tells it: without what was being read, without a place on the first line, and
/// what is missing one line before it was missed.
fn malformed(error: &ScanError) -> Error {
    let said = error.info();
    let why = said.strip_prefix("while ").and_then(|rest| rest.split_once(", ")).map_or(said, |(_, why)| why);
    let line = error.marker().line();
    let line = match why.starts_with("did not find expected") {
        true => line.saturating_sub(1),
        false if line == 1 => 0,
        false => line,
    };
    Error::Malformed { line, why: why.to_owned() }
}

fn at(span: Span, why: String) -> Error {
    Error::Malformed { line: span.start.line(), why }
}

fn add_missing(into: &mut Map<String, Value>, entries: Map<String, Value>) {
    for (key, value) in entries {
        into.entry(key).or_insert(value);
    }
}

/// Takes over what is merged (`<<`): a map, or a list of maps of which the first counts most.
fn merge(into: &mut Map<String, Value>, value: Value, span: Span) -> Result<(), Error> {
    match value {
        Value::Object(entries) => {
            add_missing(into, entries);
            Ok(())
        }
        Value::Array(maps) => maps.into_iter().try_for_each(|map| match map {
            Value::Object(_) => merge(into, map, span),
            _ => Err(at(span, "map merge requires map or sequence of maps as the value".to_owned())),
        }),
        _ => Err(at(span, "map merge requires map or sequence of maps as the value".to_owned())),
    }
}

/// A key as JSON has it, and as a message shows it.
fn name(key: Value, span: Span) -> Result<(String, String), Error> {
    match key {
        Value::String(text) => {
            let shown = crate::validate::go_quoted(&text);
            Ok((text, shown))
        }
        Value::Bool(_) | Value::Number(_) => Ok((key.to_string(), key.to_string())),
        Value::Null | Value::Array(_) | Value::Object(_) => Err(at(span, format!("invalid map key: {key}"))),
    }
}

fn scalar(text: &str, style: ScalarStyle, tag: &Tagged<'_>, span: Span) -> Result<Value, Error> {
    let core = tag.as_ref().filter(|tag| tag.is_yaml_core_schema()).map(|tag| tag.suffix.as_str());
    match core {
        None if style == ScalarStyle::Plain => plain(text).map_err(|why| at(span, why)),
        Some("int" | "bool" | "float" | "null") => plain(text).map_err(|why| at(span, why)),
        _ => Ok(Value::from(text)),
    }
}

/// What a scalar without quotes is.
fn plain(text: &str) -> Result<Value, String> {
    let bare = text.trim_start_matches(['+', '-']).to_ascii_lowercase();
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Ok(Value::Null),
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => Ok(true.into()),
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => {
            Ok(false.into())
        }
        _ if matches!(bare.as_str(), ".nan" | ".inf") => Err(format!("json: unsupported value: {text}")),
        _ => Ok(number(&text.replace('_', "")).map_or_else(|| Value::from(text), Value::Number)),
    }
}

/// A number as Go reads it: whole in any base, or a decimal fraction.
fn number(text: &str) -> Option<Number> {
    let (sign, digits) = match text.as_bytes() {
        [b'-', ..] => (-1, &text[1..]),
        [b'+', ..] => (1, &text[1..]),
        _ => (1, text),
    };
    if !digits.starts_with(|first: char| first.is_ascii_digit() || first == '.') {
        return None;
    }
    whole(digits, sign).or_else(|| fraction(text, digits))
}

fn whole(digits: &str, sign: i128) -> Option<Number> {
    let (radix, rest) = match digits.as_bytes() {
        [b'0', b'x' | b'X', ..] => (16, &digits[2..]),
        [b'0', b'o' | b'O', ..] => (8, &digits[2..]),
        [b'0', b'b' | b'B', ..] => (2, &digits[2..]),
        [b'0', _, ..] => (8, &digits[1..]),
        _ => (10, digits),
    };
    if !rest.starts_with(|first: char| first.is_digit(radix)) {
        return None;
    }
    Number::from_i128(sign * i128::from_str_radix(rest, radix).ok()?)
}

fn fraction(text: &str, digits: &str) -> Option<Number> {
    let mantissa = digits.split(['e', 'E']).next().unwrap_or_default();
    let has_digits = mantissa.bytes().any(|byte| byte.is_ascii_digit());
    let only_digits = mantissa.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let value: f64 = if has_digits && only_digits { text.parse().ok()? } else { return None };
    // Go's JSON writes a fraction of nothing as a whole number.
    #[expect(clippy::cast_possible_truncation, reason = "within what a float holds exactly")]
    let exact = (value.fract() == 0.0 && value.abs() < 9e15).then_some(value as i64);
    exact.map(Number::from).or_else(|| Number::from_f64(value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn value(text: &str) -> Value {
        first(text.as_bytes()).unwrap().value
    }

    #[test]
    fn scalars_are_what_go_makes_of_them() {
        for (text, wanted) in [
            ("yes", json!(true)),
            ("'yes'", json!("yes")),
            ("Off", json!(false)),
            ("~", json!(null)),
            ("!!str 5", json!("5")),
            ("017", json!(15)),
            ("0o17", json!(15)),
            ("0x1F", json!(31)),
            ("0b101", json!(5)),
            ("1_000", json!(1000)),
            ("-12", json!(-12)),
            ("1e3", json!(1000)),
            ("1.50", json!(1.5)),
            (".5", json!(0.5)),
            ("1.2.3", json!("1.2.3")),
            ("100m", json!("100m")),
            ("089", json!(89)),
            ("0.0.0.0/0", json!("0.0.0.0/0")),
            ("2026-11-25", json!("2026-11-25")),
            ("18446744073709551615", json!(18_446_744_073_709_551_615_u64)),
            ("-", json!([null])),
            ("nope", json!("nope")),
        ] {
            assert_eq!(value(text), wanted, "{text}");
        }
        assert!(first(b"a: .nan").is_err());
    }

    #[test]
    fn maps_are_merged_and_their_keys_texts() {
        assert_eq!(
            value("x: &x {k: v, o: 1}\nz:\n  <<: *x\n  o: 2\n1: a\non: b\n"),
            json!({"x": {"k": "v", "o": 1}, "z": {"k": "v", "o": 2}, "1": "a", "true": "b"})
        );
        assert!(first(b"? [a]\n: b\n").is_err());
    }

    #[test]
    fn repeated_keys_are_told_by_their_lines() {
        let document = first(b"a: 1\nb:\n  c: 1\n  c: 2\na: 3\n").unwrap();
        assert_eq!(document.value, json!({"a": 3, "b": {"c": 2}}));
        assert_eq!(
            document.repeated,
            ["line 4: key \"c\" already set in map", "line 5: key \"a\" already set in map"]
        );
    }

    #[test]
    fn streams_hold_several_documents() {
        let all: Vec<Value> =
            documents("a: 1\n---\n# nothing\n---\nb\n...\n").map(|one| one.unwrap().value).collect();
        assert_eq!(all, [json!({"a": 1}), json!(null), json!("b")]);
        let broken: Vec<_> = documents("a: 1\n---\na: b: c\n---\nb\n").collect();
        assert_eq!(broken.len(), 2);
        assert_eq!(
            broken[1].as_ref().unwrap_err().to_string(),
            "yaml: line 3: mapping values are not allowed in this context"
        );
    }

    #[test]
    fn errors_are_told_as_go_does() {
        let told = |text: &str| first(text.as_bytes()).unwrap_err().to_string();
        assert_eq!(told("a: ["), "yaml: line 1: did not find expected node content");
        assert_eq!(told("a: b: c"), "yaml: mapping values are not allowed in this context");
        assert_eq!(told("a: 1\n  b: 2"), "yaml: line 2: mapping values are not allowed in this context");
    }

    #[test]
    fn what_would_grow_without_end_is_refused() {
        let mut bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n".to_owned();
        for level in 1..9 {
            let aliases = vec![format!("*a{}", level - 1); 10].join(",");
            bomb.push_str(&format!("a{level}: &a{level} [{aliases}]\n"));
        }
        assert!(first(bomb.as_bytes()).unwrap_err().to_string().contains("excessive aliasing"));
        assert!(first("[".repeat(10_000).as_bytes()).is_err());
    }
}
