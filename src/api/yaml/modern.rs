//! Scalars as Go's third YAML library reads them: version 1.2, but for the octal numbers of 1.1 and times.

use super::{Error, Tagged, at, plain};
use saphyr_parser::{ScalarStyle, Span};
use serde_json::Value;

pub(super) fn scalar(text: &str, style: ScalarStyle, tag: &Tagged<'_>, span: Span) -> Result<Value, Error> {
    let core = tag.as_ref().filter(|tag| tag.is_yaml_core_schema()).map(|tag| tag.suffix.as_str());
    let bare = match core {
        None => style == ScalarStyle::Plain,
        Some("int" | "bool" | "float" | "null" | "timestamp") => true,
        Some("binary") => return binary(text).map_err(|why| at(span, why)),
        Some(_) => false,
    };
    if !bare || is_old_word(text) {
        return Ok(Value::from(text));
    }
    if let Some(time) = time(text) {
        return Ok(Value::from(time));
    }
    plain(text).map_err(|why| at(span, why))
}

/// A truth value of version 1.1 alone.
fn is_old_word(text: &str) -> bool {
    const WORDS: [&str; 6] = ["y", "n", "yes", "no", "on", "off"];
    text.len() <= 3 && WORDS.contains(&text.to_ascii_lowercase().as_str())
}

fn binary(text: &str) -> Result<Value, String> {
    use base64::Engine;
    let text: String = text.split_whitespace().collect();
    let bytes = base64::engine::general_purpose::STANDARD.decode(text).map_err(|error| error.to_string())?;
    String::from_utf8(bytes).map(Value::from).map_err(|_| "!!binary holds no text".to_owned())
}

/// A time as RFC 3339 has it, of `2006-1-2` and of `2006-1-2T15:4:5.9Z` and its like.
fn time(text: &str) -> Option<String> {
    let (date, rest) = match text.find(['T', 't', ' ']) {
        Some(place) => (&text[..place], Some(&text[place + 1..])),
        None => (text, None),
    };
    let [year, month, day] = numbers(date, '-')?;
    if date.find('-') != Some(4) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let date = format!("{year:04}-{month:02}-{day:02}");
    let Some(rest) = rest else { return Some(format!("{date}T00:00:00Z")) };
    let zone = rest.find(['Z', '+', '-']).unwrap_or(rest.len());
    let (of_day, zone) = rest.split_at(zone);
    let separated = text.as_bytes()[text.len() - rest.len() - 1] == b' ';
    let zone = match zone {
        "" if separated => "Z",
        "Z" | "+00:00" | "-00:00" if !separated => "Z",
        zone if !separated && is_offset(zone) => zone,
        _ => return None,
    };
    let (seconds, fraction) = of_day.split_once('.').unwrap_or((of_day, ""));
    let [hour, minute, second] = numbers(seconds, ':')?;
    if hour > 23 || minute > 59 || second > 59 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let fraction = fraction.get(..9).unwrap_or(fraction).trim_end_matches('0');
    let dot = if fraction.is_empty() { "" } else { "." };
    Some(format!("{date}T{hour:02}:{minute:02}:{second:02}{dot}{fraction}{zone}"))
}

fn is_offset(zone: &str) -> bool {
    let bytes = zone.as_bytes();
    bytes.len() == 6 && bytes[3] == b':' && [1, 2, 4, 5].iter().all(|place| bytes[*place].is_ascii_digit())
}

fn numbers(text: &str, separator: char) -> Option<[u16; 3]> {
    let mut parts = text.split(separator).map(|part| {
        let digits = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        if digits { part.parse::<u16>().ok() } else { None }
    });
    let all = [parts.next()??, parts.next()??, parts.next()??];
    parts.next().is_none().then_some(all)
}

#[cfg(test)]
mod tests {
    use super::super::plain_documents;
    use serde_json::json;

    #[test]
    fn words_and_times_are_what_the_third_library_makes_of_them() {
        for (text, wanted) in [
            ("yes", json!("yes")),
            ("Off", json!("Off")),
            ("True", json!(true)),
            ("0644", json!(420)),
            ("!!binary aGk=", json!("hi")),
            ("2020-01-02", json!("2020-01-02T00:00:00Z")),
            ("2020-1-2 3:4:5", json!("2020-01-02T03:04:05Z")),
            ("2020-01-02t03:04:05.50-05:00", json!("2020-01-02T03:04:05.5-05:00")),
            ("\"2020-01-02\"", json!("2020-01-02")),
            ("2020-13-02", json!("2020-13-02")),
            ("12:30:45", json!("12:30:45")),
            ("~", json!(null)),
        ] {
            let read = plain_documents(text).next().unwrap().unwrap();
            assert_eq!(read.value, wanted, "{text}");
        }
    }
}
