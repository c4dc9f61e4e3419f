//! The formats of texts and numbers that Kubernetes checks; others are notes to people.

use super::structural::text;
use crate::url::Url;
use crate::validate::{lenient_cidr, lenient_ip};
use regex::Regex;
use serde_json::Value;
use std::net::Ipv6Addr;
use std::sync::LazyLock;

/// A format that is checked, with the name that the schema gives it.
#[derive(Clone, Debug)]
pub(super) struct Format {
    pub(super) name: Box<str>,
    /// Only texts have such rules; numbers are checked by their range.
    rule: Option<&'static Check>,
}

impl Format {
    /// The format of a schema, if values of its type are checked for it.
    pub(super) fn of(schema: &Value) -> Option<Self> {
        let name = text(schema, "format");
        let rule = match text(schema, "type") {
            _ if name.is_empty() => return None,
            _ if schema["x-kubernetes-int-or-string"] == true => Some(named(name)?),
            "" | "string" => Some(named(name)?),
            "integer" if matches!(name, "int32" | "int64") => None,
            "number" if matches!(name, "float" | "double") => None,
            _ => return None,
        };
        Some(Self { name: name.into(), rule })
    }

    pub(super) fn accepts(&self, text: &str) -> bool {
        match self.rule {
            None => true,
            Some(Check::Like(regex)) => regex.is_match(text),
            Some(Check::Passes(check)) => check(text),
        }
    }
}

#[derive(Debug)]
enum Check {
    Like(LazyLock<Regex>),
    Passes(fn(&str) -> bool),
}

fn named(name: &str) -> Option<&'static Check> {
    let plain = name.replace('-', "");
    FORMATS.iter().find(|(own, _)| *own == plain).map(|(_, check)| check)
}

fn regex(text: &str) -> Regex {
    Regex::new(text).expect("the expressions of this file are well formed")
}

macro_rules! like {
    ($text:expr) => {
        Check::Like(LazyLock::new(|| regex($text)))
    };
}

/// By their names without dashes (KEP-5304 has those of names).
static FORMATS: [(&str, Check); 26] = [
    ("bsonobjectid", like!("^[0-9a-fA-F]{24}$")),
    ("uri", Check::Passes(|text| Url::parse(text).is_ok())),
    ("email", Check::Passes(is_email)),
    ("hostname", Check::Passes(is_hostname)),
    ("ipv4", Check::Passes(|text| text.contains('.') && lenient_ip(text).is_some())),
    ("ipv6", Check::Passes(|text| text.parse::<Ipv6Addr>().is_ok())),
    ("cidr", Check::Passes(|text| lenient_cidr(text).is_some())),
    ("mac", Check::Passes(is_mac)),
    ("uuid", Check::Passes(|text| is_uuid(text, None))),
    ("uuid3", Check::Passes(|text| is_uuid(text, Some('3')))),
    ("uuid4", Check::Passes(|text| is_uuid(text, Some('4')))),
    ("uuid5", Check::Passes(|text| is_uuid(text, Some('5')))),
    ("isbn", Check::Passes(|text| is_isbn10(text) || is_isbn13(text))),
    ("isbn10", Check::Passes(is_isbn10)),
    ("isbn13", Check::Passes(is_isbn13)),
    ("creditcard", Check::Passes(is_credit_card)),
    ("ssn", like!("^[0-9]{3}[- ][0-9]{2}[- ][0-9]{4}$")),
    ("hexcolor", like!("^#?([0-9a-fA-F]{3}|[0-9a-fA-F]{6})$")),
    ("rgbcolor", Check::Passes(is_rgb)),
    ("byte", like!("^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=|[A-Za-z0-9+/]{4})$")),
    ("password", Check::Passes(|_| true)),
    ("date", Check::Passes(is_date)),
    ("duration", Check::Passes(is_duration)),
    ("datetime", Check::Passes(is_time)),
    ("k8sshortname", Check::Passes(|text| text.len() <= 63 && is_name(text))),
    ("k8slongname", Check::Passes(|text| text.len() <= 253 && text.split('.').all(is_name))),
];

fn is_name(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !text.is_empty() && text.bytes().all(inner) && !text.starts_with('-') && !text.ends_with('-')
}

/// An address as mail headers have it, with or without a name before it.
fn is_email(text: &str) -> bool {
    let text = text.trim_matches([' ', '\t']);
    let address = match text.strip_suffix('>').map(|rest| rest.rsplit_once('<')) {
        Some(None) => return false,
        Some(Some((name, address))) if is_phrase(name) => address,
        Some(_) => return false,
        None => text,
    };
    let Some((local, domain)) = address.rsplit_once('@') else { return false };
    let quoted = local.len() > 2 && local.starts_with('"') && local.ends_with('"');
    let literal = domain.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    (quoted || is_dotted(local)) && (is_dotted(domain) || literal.is_some_and(|ip| lenient_ip(ip).is_some()))
}

fn is_atom(text: &str) -> bool {
    let sign = |c: char| !c.is_ascii() || c.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~".contains(c);
    !text.is_empty() && text.chars().all(sign)
}

fn is_dotted(text: &str) -> bool {
    text.split('.').all(is_atom)
}

fn is_phrase(text: &str) -> bool {
    let text = text.trim();
    let quoted = text.len() > 1 && text.starts_with('"') && text.ends_with('"');
    quoted || text.split_whitespace().all(is_dotted)
}

/// RFC 1123, with letters and symbols of any script, as the format's library has it.
fn is_hostname(text: &str) -> bool {
    static OTHER: LazyLock<Regex> = LazyLock::new(|| regex(r"^[\p{S}\p{L}]$"));
    let sign = |c: char| c.is_ascii_alphanumeric() || OTHER.is_match(c.encode_utf8(&mut [0; 4]));
    let label = |text: &str| {
        !text.is_empty()
            && text.len() <= 63
            && text.chars().all(|c| c == '-' || sign(c))
            && !text.starts_with('-')
            && !text.ends_with('-')
    };
    let letters = |text: &str| text.chars().count() >= 2 && text.chars().all(char::is_alphabetic);
    let top = text.rsplit('.').next().unwrap_or_default();
    let one_label = label(text) && !text.get(2..).is_some_and(|rest| rest.contains('-'));
    text.len() <= 255
        && if text.contains('.') { text.split('.').all(label) && letters(top) } else { one_label }
}

/// Octets in hexadecimal, two or (behind dots) four digits at a time.
fn is_mac(text: &str) -> bool {
    let Some(between) = [':', '-', '.'].into_iter().find(|sign| text.contains(*sign)) else { return false };
    let digits = if between == '.' { 4 } else { 2 };
    let part = |part: &str| part.len() == digits && part.bytes().all(|byte| byte.is_ascii_hexdigit());
    [6, 8, 20].contains(&(text.split(between).count() * digits / 2)) && text.split(between).all(part)
}

fn is_uuid(text: &str, version: Option<char>) -> bool {
    static UUID: LazyLock<Regex> = LazyLock::new(|| {
        regex("(?i)^[0-9a-f]{8}-?[0-9a-f]{4}-?([0-9a-f])[0-9a-f]{3}-?([0-9a-f])[0-9a-f]{3}-?[0-9a-f]{12}$")
    });
    let Some(parts) = UUID.captures(text) else { return false };
    let variant = || parts[2].starts_with(['8', '9', 'a', 'b', 'A', 'B']);
    version.is_none_or(|version| parts[1].starts_with(version) && (version == '3' || variant()))
}

fn digits_of_book(text: &str) -> String {
    text.chars().filter(|c| !c.is_whitespace() && *c != '-').collect()
}

fn is_isbn10(text: &str) -> bool {
    let text = digits_of_book(text);
    let digit = |(place, byte): (u32, u8)| match byte {
        b'0'..=b'9' => Some(u32::from(byte - b'0')),
        b'X' if place == 10 => Some(10),
        _ => None,
    };
    let weighed = (1..).zip(text.bytes()).map(|(place, byte)| Some(place * digit((place, byte))?));
    text.len() == 10 && weighed.sum::<Option<u32>>().is_some_and(|sum| sum % 11 == 0)
}

fn is_isbn13(text: &str) -> bool {
    let text = digits_of_book(text);
    let weights = [1, 3].into_iter().cycle();
    let weighed = weights.zip(text.chars()).map(|(weight, c)| Some(weight * c.to_digit(10)?));
    text.len() == 13 && weighed.sum::<Option<u32>>().is_some_and(|sum| sum % 10 == 0)
}

fn is_credit_card(text: &str) -> bool {
    static ISSUED: LazyLock<Regex> = LazyLock::new(|| {
        regex(
            "^(4[0-9]{12}([0-9]{3})?|5[1-5][0-9]{14}|6(011|5[0-9]{2})[0-9]{12}|3[47][0-9]{13}|3(0[0-5]|[68][0-9])[0-9]{11}|(2131|1800|35[0-9]{3})[0-9]{11})$",
        )
    });
    let digits: String = text.chars().filter(char::is_ascii_digit).collect();
    // Every second digit from the right counts double, by the sum of its own digits (Luhn).
    let sum = digits.bytes().rev().map(|byte| u32::from(byte - b'0')).enumerate();
    let sum: u32 =
        sum.map(|(place, digit)| if place % 2 == 1 { digit * 2 / 10 + digit * 2 % 10 } else { digit }).sum();
    ISSUED.is_match(&digits) && sum.is_multiple_of(10)
}

fn is_rgb(text: &str) -> bool {
    let Some(parts) = text.strip_prefix("rgb(").and_then(|rest| rest.strip_suffix(')')) else { return false };
    let part = |part: &str| {
        let part = part.trim_matches([' ', '\t', '\n', '\r', '\x0c']);
        part.parse::<u8>().is_ok_and(|number| number.to_string() == part)
    };
    parts.split(',').count() == 3 && parts.split(',').all(part)
}

fn is_date(text: &str) -> bool {
    text.len() == 10 && text.parse::<jiff::civil::Date>().is_ok()
}

/// A date and a time of day with its zone (RFC 3339, section 5.6).
fn is_time(text: &str) -> bool {
    static TIME: LazyLock<Regex> =
        LazyLock::new(|| regex("^([0-9]{2}):([0-9]{2}):([0-9]{2})(.[0-9]+)?(z|[+-][0-9]{2}:[0-9]{2})$"));
    let lower = text.to_lowercase();
    let mut parts = lower.split('t');
    let (Some(date), Some(time)) = (parts.next(), parts.next()) else { return false };
    let in_day = |parts: regex::Captures<'_>| &parts[1] <= "23" && &parts[2] <= "59" && &parts[3] <= "59";
    is_date(date) && TIME.captures(time).is_some_and(in_day)
}

/// As Go parses durations, or with whole numbers of words such as `3 days`.
fn is_duration(text: &str) -> bool {
    static GO: LazyLock<Regex> =
        LazyLock::new(|| regex("^[+-]?(0|(([0-9]+(\\.[0-9]*)?|\\.[0-9]+)(ns|us|µs|μs|ms|s|m|h))+)$"));
    static WORDS: LazyLock<Regex> = LazyLock::new(|| regex("([0-9]+)\\s*([A-Za-zµ]+)"));
    const UNITS: [&str; 10] = ["ns", "us", "µs", "ms", "s", "m", "h", "hr", "d", "w"];
    const BEGINNINGS: [&str; 9] = ["nano", "micro", "milli", "sec", "min", "hour", "day", "week", "wk"];
    let unit = |word: &str| UNITS.contains(&word) || BEGINNINGS.iter().any(|start| word.starts_with(start));
    let mut words = WORDS.captures_iter(text);
    GO.is_match(text) || words.any(|parts| parts[1].parse::<i64>().is_ok() && unit(&parts[2].to_lowercase()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_tell_good_from_bad() {
        let cases: &[(&str, &[&str], &[&str])] = &[
            ("bsonobjectid", &["5d6f4a9b3e1f2a0007c1d2e3"], &["5d6f", "zd6f4a9b3e1f2a0007c1d2e3"]),
            (
                "uri",
                &["http://a.b:80/c?d=%zz", "/path", "mailto:x", "https://[::1]/"],
                &[
                    "",
                    "path",
                    "http://a b/",
                    "http://a:b/",
                    "http://a/%zz",
                    ":x",
                    "http://a%41/",
                    "http://a:1:2/",
                    "http://[1.2.3.4]/",
                ],
            ),
            (
                "email",
                &["a.b@c.d", "Ann <a@b>", "\"x y\"@z", "a@[1.2.3.4]"],
                &["a", "a@", "@b", "a..b@c", "Ann <a"],
            ),
            (
                "hostname",
                &["a", "a-b", "www.example.com", "1.example.com", "😀.com"],
                &["", "-a", "a_b.com", "a.1", "a..b"],
            ),
            ("ipv4", &["1.2.3.4", "01.2.3.4", "::ffff:1.2.3.4"], &["1.2.3", "::1"]),
            ("ipv6", &["::1", "fe80::1"], &["1.2.3.4", "fe80::1%eth0"]),
            ("cidr", &["10.0.0.0/8", "10.1.0.0/8", "::/0"], &["10.0.0.0", "10.0.0.0/33"]),
            (
                "mac",
                &["01:23:45:67:89:ab", "01-23-45-67-89-AB", "0123.4567.89ab"],
                &["01:23:45", "01:23:45-67:89:ab"],
            ),
            (
                "uuid",
                &["a8098c1a-f86e-11da-bd1a-00112444be1e", "A8098C1AF86E11DABD1A00112444BE1E"],
                &["a8098c1a", ""],
            ),
            ("uuid3", &["bcd02e22-68f0-3046-a512-327cca9def8f"], &["bcd02e22-68f0-4046-a512-327cca9def8f"]),
            ("uuid4", &["025b0d74-00a2-4048-bf57-227c5111bb34"], &["025b0d74-00a2-4048-cf57-227c5111bb34"]),
            ("uuid5", &["886313e1-3b8a-5372-9b90-0c9aee199e5d"], &["886313e1-3b8a-4372-9b90-0c9aee199e5d"]),
            ("isbn", &["0321751043", "978-0321751041"], &["0321751044", "978-0321751042"]),
            ("isbn10", &["097522980X"], &["0975229801"]),
            ("isbn13", &["978 0321751041"], &["0321751043"]),
            ("creditcard", &["4111-1111-1111-1111"], &["4111111111111112", "1234"]),
            ("ssn", &["111-11-1111", "111 11 1111"], &["111111111", "111-11-111"]),
            ("hexcolor", &["#FFFFFF", "abc"], &["#FFFF", "#GGG"]),
            ("rgbcolor", &["rgb(1, 2,255)"], &["rgb(1,2,256)", "rgb(01,2,3)", "rgb(1,2)"]),
            ("byte", &["ZWxpenphYmV0aA==", "YWJj"], &["", "YWJ", "a-b_"]),
            ("password", &["", "x"], &[]),
            ("date", &["2024-02-29"], &["2023-02-29", "2024-2-1", "x"]),
            ("duration", &["1h30m", "-1.5s", "0", "3 days", "2 weeks"], &["", "1", "3 things"]),
            (
                "date-time",
                &["2014-12-15T19:30:20.000Z", "2014-12-15t19:30:20+01:00"],
                &["2014-12-15", "2014-12-15T24:00:00Z", "2014-12-15T19:30:20"],
            ),
            ("k8s-short-name", &["a", "a-1"], &["A", "-a", "a.b", ""]),
            ("k8s-long-name", &["a.b-c.d"], &["a..b", "A.b", ""]),
        ];
        for (name, good, bad) in cases {
            let format = Format::of(&serde_json::json!({"type": "string", "format": name})).unwrap();
            good.iter().for_each(|text| assert!(format.accepts(text), "{name}: {text}"));
            bad.iter().for_each(|text| assert!(!format.accepts(text), "{name}: {text}"));
        }
        for other in [("string", "color"), ("boolean", "date"), ("integer", "date"), ("number", "int32")] {
            assert!(Format::of(&serde_json::json!({"type": other.0, "format": other.1})).is_none());
        }
    }
}
