//! KYAML (KEP-5295): YAML that no indentation and no bare word can be misread in. Every text stands in quotes, every
//! map and list in brackets, and keys stand without quotes where nothing but a text can be meant.

use serde_json::Value;

/// One document, with the line that tells it from JSON.
pub(crate) fn render(value: &Value) -> String {
    let mut out = "---\n".to_owned();
    write(&mut out, value, 0);
    out.push('\n');
    out
}

fn write(out: &mut String, value: &Value, depth: usize) {
    match value {
        Value::Object(fields) if fields.is_empty() => out.push_str("{}"),
        Value::Array(items) if items.is_empty() => out.push_str("[]"),
        Value::Object(fields) => {
            out.push_str("{\n");
            for (key, value) in sorted(fields) {
                indent(out, depth + 1);
                if is_plain(key) {
                    out.push_str(key)
                } else {
                    quote(out, key)
                }
                out.push_str(": ");
                write(out, value, depth + 1);
                out.push_str(",\n");
            }
            indent(out, depth);
            out.push('}');
        }
        Value::Array(items) => list(out, items, depth),
        Value::String(text) if text.contains('\n') => fold(out, text, depth + 1),
        Value::String(text) => line(out, text, "\t"),
        other => out.push_str(&other.to_string()),
    }
}

fn sorted(fields: &serde_json::Map<String, Value>) -> Vec<(&String, &Value)> {
    let mut sorted: Vec<_> = fields.iter().collect();
    sorted.sort_by_key(|(key, _)| *key);
    sorted
}

/// Maps and lists of a list share their brackets' lines; anything else has a line of its own.
fn list(out: &mut String, items: &[Value], depth: usize) {
    out.push('[');
    if items.iter().all(|item| item.is_object() || item.is_array()) {
        for (at, item) in items.iter().enumerate() {
            out.push_str(if at > 0 { ", " } else { "" });
            write(out, item, depth);
        }
    } else {
        out.push('\n');
        for item in items {
            indent(out, depth + 1);
            write(out, item, depth + 1);
            out.push_str(",\n");
        }
        indent(out, depth);
    }
    out.push(']');
}

fn indent(out: &mut String, depth: usize) {
    (0..depth).for_each(|_| out.push_str("  "));
}

fn quote(out: &mut String, key: &str) {
    line(out, key, "\\t");
}

fn line(out: &mut String, text: &str, tab: &str) {
    out.push('"');
    text.chars().for_each(|sign| escape(out, sign, tab));
    out.push('"');
}

/// A text of several lines, each on one of its own. YAML drops the blanks that a line begins with; one that belongs to
/// the text is escaped, and where none is a blank keeps the column.
fn fold(out: &mut String, text: &str, depth: usize) {
    out.push_str("\"\\\n");
    for one in text.split_inclusive('\n') {
        indent(out, depth);
        let content = one.strip_suffix('\n').unwrap_or(one);
        out.push(if content.starts_with([' ', '\t']) { '\\' } else { ' ' });
        content.chars().for_each(|sign| escape(out, sign, "\t"));
        out.push_str(if content.len() < one.len() { "\\n\\\n" } else { "\\\n" });
    }
    indent(out, depth);
    out.push('"');
}

/// YAML's escapes (1.2, section 5.7) of what is no sign to be seen.
fn escape(out: &mut String, sign: char, tab: &str) {
    let short = match sign {
        '"' => "\\\"",
        '\\' => "\\\\",
        '\t' => tab,
        '\n' => "\\n",
        '\r' => "\\r",
        '\0' => "\\0",
        '\x07' => "\\a",
        '\x08' => "\\b",
        '\x0b' => "\\v",
        '\x0c' => "\\f",
        '\x1b' => "\\e",
        '\u{85}' => "\\N",
        '\u{a0}' => "\\_",
        '\u{2028}' => "\\L",
        '\u{2029}' => "\\P",
        _ => "",
    };
    let code = u32::from(sign);
    match code {
        _ if !short.is_empty() => out.push_str(short),
        _ if is_shown(sign) => out.push(sign),
        0..0x20 | 0x7f => out.push_str(&format!("\\x{code:02x}")),
        0..0x1_0000 => out.push_str(&format!("\\u{code:04x}")),
        _ => out.push_str(&format!("\\U{code:08x}")),
    }
}

/// Whether a sign can be seen. Marks are escaped at a text's beginning alone, so that a letter is put before it.
fn is_shown(sign: char) -> bool {
    match sign.is_ascii() {
        true => matches!(sign, ' '..='~'),
        false => format!("a{sign}").escape_debug().count() == 2,
    }
}

/// Whether a key needs no quotes: no reader of YAML takes it for anything but a text.
fn is_plain(key: &str) -> bool {
    let last = key.chars().count().saturating_sub(1);
    let is_allowed = |(at, sign): (usize, char)| {
        sign.is_alphanumeric() || sign == '_' || at > 0 && at < last && matches!(sign, '-' | '.' | '/')
    };
    !key.is_empty() && key.chars().enumerate().all(is_allowed) && !is_ambiguous(key)
}

/// Whether some reader takes a word for nothing, a truth, a number or a day: YAML 1.1 knows many.
fn is_ambiguous(word: &str) -> bool {
    let lower = word.to_lowercase();
    let known =
        ["null", "true", "t", "y", "yes", "on", "false", "f", "n", "no", "off", "inf", "infinity", "nan"];
    known.contains(&&*lower) || is_number(&lower.replace('_', "")) || is_day(word)
}

fn is_number(word: &str) -> bool {
    let all = |digits: &str, radix| !digits.is_empty() && digits.chars().all(|sign| sign.is_digit(radix));
    if let Some(digits) = word.strip_prefix("0x") {
        let (mantissa, power) = digits.split_once('p').unwrap_or((digits, "0"));
        let mantissa = if digits.contains('p') { mantissa.replacen('.', "", 1) } else { mantissa.to_owned() };
        return all(&mantissa, 16) && all(power.trim_start_matches('-'), 10);
    }
    let of = |prefix: &str, radix| word.strip_prefix(prefix).is_some_and(|digits| all(digits, radix));
    of("0b", 2) || of("0o", 8) || word.parse::<f64>().is_ok()
}

/// `2026-1-2`.
fn is_day(word: &str) -> bool {
    let parts: Vec<Option<i8>> = word.split('-').skip(1).map(|part| part.parse().ok()).collect();
    let year =
        word.split('-').next().filter(|year| year.len() == 4).and_then(|year| year.parse::<i16>().ok());
    match (year, &parts[..]) {
        (Some(year), [Some(month), Some(day)]) => jiff::civil::Date::new(year, *month, *day).is_ok(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn brackets_say_what_belongs_together() {
        let object = json!({"kind": "Pod", "a": {}, "b": [], "c": null, "d": [1, "x"], "e": [{"e": true}, {"g": 1.5}], "h": [[1], {}]});
        let text = "---\n{\n  a: {},\n  b: [],\n  c: null,\n  d: [\n    1,\n    \"x\",\n  ],\n  e: [{\n    e: true,\n  }, {\n    g: 1.5,\n  }],\n  h: [[\n    1,\n  ], {}],\n  kind: \"Pod\",\n}\n";
        assert_eq!(render(&object), text);
        let read = api::yaml::first(text.as_bytes()).unwrap();
        assert_eq!(read.value, object);
    }

    #[test]
    fn texts_of_several_lines_stay_so() {
        let object = json!({"data": {"k": "a\n  b\n\n\"c\"\td", "l": "x\n", "m": "\n"}});
        let text = "---\n{\n  data: {\n    k: \"\\\n       a\\n\\\n      \\  b\\n\\\n       \\n\\\n       \\\"c\\\"\td\\\n      \",\n    l: \"\\\n       x\\n\\\n      \",\n    m: \"\\\n       \\n\\\n      \",\n  },\n}\n";
        assert_eq!(render(&object), text);
        assert_eq!(api::yaml::first(text.as_bytes()).unwrap().value, object);
    }

    #[test]
    fn keys_are_quoted_where_they_may_be_misread() {
        let plain =
            ["a", "app.kubernetes.io/name", "a_b", "v1", "1.2.3", "0x", "0xg", "1a", "2026-13-1", "é", "ok"];
        for key in plain {
            assert!(is_plain(key), "{key}");
        }
        let quoted = [
            "", "no", "Y", "t", "NULL", "1", "1_000", "08", "0x1f", "0x1.8p-1", "0b1", "1e5", "inf",
            "2026-1-2", "-a", "a-", ".a", "a b", "a:b", "a\nb", "f:x",
        ];
        for key in quoted {
            assert!(!is_plain(key), "{key}");
        }
    }

    #[test]
    fn what_cannot_be_seen_is_escaped() {
        let text = render(&json!("\0\u{1}\u{7f}\u{a0}\u{200b}é\u{e0001}a\u{301}\\"));
        assert_eq!(text, "---\n\"\\0\\x01\\x7f\\_\\u200bé\\U000e0001a\u{301}\\\\\"\n");
    }
}
