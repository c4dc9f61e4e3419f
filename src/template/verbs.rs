//! `printf`, with the verbs and flags of Go's `fmt`.

use crate::quote::{quote, quote_char};
use crate::{Value, print, sprint};

/// The widest field and the most digits that are written.
const WIDEST: usize = 1_000;

#[derive(Default)]
struct Spec {
    minus: bool,
    plus: bool,
    sharp: bool,
    space: bool,
    zero: bool,
    width: Option<usize>,
    precision: Option<usize>,
}

struct Reader<'f> {
    rest: std::iter::Peekable<std::str::Chars<'f>>,
    args: &'f [Value],
    next: usize,
    reordered: bool,
}

/// The text of a pattern with its arguments; what does not fit is told in it (`%!d(string=a)`).
pub fn format(pattern: &str, args: &[Value]) -> String {
    let mut reader = Reader { rest: pattern.chars().peekable(), args, next: 0, reordered: false };
    let mut out = String::new();
    while let Some(c) = reader.rest.next() {
        if c == '%' { reader.verb(&mut out) } else { out.push(c) }
    }
    if !reader.reordered && reader.next < args.len() {
        let extra: Vec<String> = args[reader.next..].iter().map(described).collect();
        out.push_str(&format!("%!(EXTRA {})", extra.join(", ")));
    }
    out
}

fn described(value: &Value) -> String {
    match value {
        Value::Missing | Value::Nil => "<nil>".to_owned(),
        other => format!("{}={}", other.type_name(), sprint(other)),
    }
}

impl Reader<'_> {
    fn verb(&mut self, out: &mut String) {
        let mut spec = Spec::default();
        while let Some(c) = self.rest.peek() {
            match c {
                '-' => spec.minus = true,
                '+' => spec.plus = true,
                '#' => spec.sharp = true,
                ' ' => spec.space = true,
                '0' => spec.zero = true,
                _ => break,
            }
            self.rest.next();
        }
        let mut bad = self.index();
        spec.width = match self.number(&mut bad) {
            Some(width) if width < 0 => {
                spec.minus = true;
                usize::try_from(-width).ok()
            }
            width => width.and_then(|width| usize::try_from(width).ok()),
        };
        if self.rest.peek() == Some(&'.') {
            self.rest.next();
            bad |= self.index();
            spec.precision = Some(self.number(&mut bad).and_then(|n| usize::try_from(n).ok()).unwrap_or(0));
        }
        bad |= self.index();
        let Some(verb) = self.rest.next() else { return out.push_str("%!(NOVERB)") };
        match (verb, self.args.get(self.next)) {
            ('%', _) => out.push('%'),
            _ if bad => out.push_str(&format!("%!{verb}(BADINDEX)")),
            (_, None) => out.push_str(&format!("%!{verb}(MISSING)")),
            (_, Some(value)) => {
                self.next += 1;
                spec.write(out, verb, value);
            }
        }
    }

    /// `[3]`: which argument is next. True if there is none of that number.
    fn index(&mut self) -> bool {
        if self.rest.peek() != Some(&'[') {
            return false;
        }
        self.reordered = true;
        let inside: String = self.rest.by_ref().skip(1).take_while(|c| *c != ']').collect();
        match inside.parse::<usize>() {
            Ok(number) if number >= 1 && number <= self.args.len() => {
                self.next = number - 1;
                false
            }
            _ => true,
        }
    }

    fn number(&mut self, bad: &mut bool) -> Option<i64> {
        if self.rest.peek() == Some(&'*') {
            self.rest.next();
            let given = self.args.get(self.next);
            self.next += 1;
            return match given {
                Some(Value::Int(number) | Value::Int64(number)) => Some(*number),
                _ => {
                    *bad = true;
                    None
                }
            };
        }
        let mut number = None;
        while let Some(digit) = self.rest.peek().and_then(|c| c.to_digit(10)) {
            self.rest.next();
            number = Some(number.unwrap_or(0_i64).saturating_mul(10).saturating_add(i64::from(digit)));
        }
        number
    }
}

impl Spec {
    fn write(&self, out: &mut String, verb: char, value: &Value) {
        match verb {
            'T' => return self.pad(out, value.type_name(), false),
            'v' if self.sharp => return self.pad(out, &sharp(value), false),
            _ => {}
        }
        match value {
            Value::Missing | Value::Nil if verb == 'v' => self.pad(out, "<nil>", false),
            Value::Missing | Value::Nil => out.push_str(&format!("%!{verb}(<nil>)")),
            Value::Bool(truth) if matches!(verb, 't' | 'v') => self.pad(out, &truth.to_string(), false),
            Value::Int(number) | Value::Int64(number) => match self.integer(verb, *number) {
                Some(text) => self.pad_number(out, &text),
                None => bad(out, verb, value),
            },
            Value::Float(number) => match self.float(verb, *number) {
                Some(text) => self.pad_number(out, &text),
                None => bad(out, verb, value),
            },
            Value::Text(text) => match self.text(verb, text) {
                Some(text) => self.pad(out, &text, true),
                None => bad(out, verb, value),
            },
            Value::Bytes(bytes) => self.pad(out, &String::from_utf8_lossy(bytes), true),
            Value::List(items) => self.all(out, verb, items),
            Value::Map(map) => {
                out.push_str("map[");
                for (index, (key, value)) in map.entries().iter().enumerate() {
                    if index > 0 {
                        out.push(' ');
                    }
                    self.write(out, verb, &Value::Text(key.clone()));
                    out.push(':');
                    self.nested(out, verb, value);
                }
                out.push(']');
            }
            Value::Object(object) => self.write(out, verb, &object.plain()),
            Value::Bool(_) => bad(out, verb, value),
        }
    }

    fn all(&self, out: &mut String, verb: char, items: &[Value]) {
        out.push('[');
        for (index, item) in items.iter().enumerate() {
            if index > 0 {
                out.push(' ');
            }
            self.nested(out, verb, item);
        }
        out.push(']');
    }

    /// An item of another: what nests itself ends somewhere.
    fn nested(&self, out: &mut String, verb: char, value: &Value) {
        match value {
            Value::List(_) | Value::Map(_) if value.to_json().is_none() => out.push_str("..."),
            other => self.write(out, verb, other),
        }
    }

    fn pad(&self, out: &mut String, text: &str, cut: bool) {
        let cut_text: String;
        let text = match self.precision.filter(|_| cut) {
            Some(most) => {
                cut_text = text.chars().take(most).collect();
                &cut_text
            }
            None => text,
        };
        let missing = self.width.unwrap_or(0).min(WIDEST).saturating_sub(text.chars().count());
        let fill = if self.zero && !self.minus { '0' } else { ' ' };
        if !self.minus {
            out.extend(std::iter::repeat_n(fill, missing));
        }
        out.push_str(text);
        if self.minus {
            out.extend(std::iter::repeat_n(' ', missing));
        }
    }

    /// Zeros stand between sign and digits.
    fn pad_number(&self, out: &mut String, text: &str) {
        let missing = self.width.unwrap_or(0).min(WIDEST).saturating_sub(text.chars().count());
        if self.zero && !self.minus && missing > 0 && text.ends_with(|c: char| c.is_ascii_hexdigit()) {
            let sign = text.len() - text.trim_start_matches(['+', '-', ' ']).len();
            out.push_str(&text[..sign]);
            out.extend(std::iter::repeat_n('0', missing));
            return out.push_str(&text[sign..]);
        }
        Spec { zero: false, ..Spec { minus: self.minus, width: self.width, ..Spec::default() } }
            .pad(out, text, false);
    }

    fn signed(&self, negative: bool, digits: &str) -> String {
        let sign = match (negative, self.plus, self.space) {
            (true, ..) => "-",
            (false, true, _) => "+",
            (false, false, true) => " ",
            _ => "",
        };
        format!("{sign}{digits}")
    }

    fn integer(&self, verb: char, number: i64) -> Option<String> {
        let size = number.unsigned_abs();
        let (digits, prefix) = match verb {
            'd' | 'v' => (size.to_string(), ""),
            'b' => (format!("{size:b}"), "0b"),
            'o' => (format!("{size:o}"), "0"),
            'O' => return Some(self.signed(number < 0, &format!("0o{size:o}"))),
            'x' => (format!("{size:x}"), "0x"),
            'X' => (format!("{size:X}"), "0X"),
            'c' | 'q' | 'U' => {
                let c = u32::try_from(number).ok().and_then(char::from_u32).unwrap_or('\u{fffd}');
                return Some(match verb {
                    'c' => c.to_string(),
                    'q' => quote_char(c),
                    _ => format!("U+{number:04X}"),
                });
            }
            _ => return None,
        };
        let zeros = self.precision.unwrap_or(0).min(WIDEST).saturating_sub(digits.len());
        let prefix = if self.sharp { prefix } else { "" };
        Some(self.signed(number < 0, &format!("{prefix}{}{digits}", "0".repeat(zeros))))
    }

    fn float(&self, verb: char, number: f64) -> Option<String> {
        let size = number.abs();
        let precision = self.precision.map(|digits| digits.min(WIDEST));
        let text = match verb {
            'f' | 'F' => format!("{size:.*}", precision.unwrap_or(6)),
            'e' | 'E' => exponent(&format!("{size:.*e}", precision.unwrap_or(6))),
            'g' | 'G' | 'v' => precision.map_or_else(|| print::float(size), |digits| general(size, digits)),
            _ => return None,
        };
        let text = if verb.is_ascii_uppercase() { text.to_uppercase() } else { text };
        Some(self.signed(number.is_sign_negative(), &text))
    }

    fn text(&self, verb: char, text: &str) -> Option<String> {
        let cut: String = match self.precision {
            Some(most) => text.chars().take(most).collect(),
            None => text.to_owned(),
        };
        let hex = |upper: bool| -> String {
            let digit = |byte: u8| if upper { format!("{byte:02X}") } else { format!("{byte:02x}") };
            let digits: Vec<String> = cut.bytes().map(digit).collect();
            digits.join(if self.space { " " } else { "" })
        };
        match verb {
            's' | 'v' => Some(cut),
            'q' if self.sharp
                && !cut.contains(['`', '\u{feff}'])
                && !cut.chars().any(|c| c.is_control() && c != '\t') =>
            {
                Some(format!("`{cut}`"))
            }
            'q' => Some(quote(&cut)),
            'x' => Some(hex(false)),
            'X' => Some(hex(true)),
            _ => None,
        }
    }
}

fn bad(out: &mut String, verb: char, value: &Value) {
    out.push_str(&format!("%!{verb}({}={})", value.type_name(), sprint(value)));
}

/// Rust's exponents have neither sign nor leading zero.
fn exponent(text: &str) -> String {
    let Some((mantissa, exponent)) = text.split_once('e') else { return text.to_owned() };
    let exponent: i32 = exponent.parse().unwrap_or(0);
    format!("{mantissa}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
}

/// So many digits that count, without zeros behind.
fn general(number: f64, digits: usize) -> String {
    let digits = digits.max(1);
    let scientific = format!("{number:.*e}", digits - 1);
    let Some((mantissa, power)) = scientific.split_once('e') else { return scientific };
    let power: i32 = power.parse().unwrap_or(0);
    let trimmed = |text: &str| match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text.to_owned(),
    };
    match usize::try_from(power) {
        Ok(places) if places < digits => trimmed(&format!("{number:.*}", digits - 1 - places)),
        Err(_) if power >= -4 => {
            let places = digits - 1 + usize::try_from(-power).unwrap_or(0);
            trimmed(&format!("{number:.places$}"))
        }
        _ => exponent(&format!("{}e{power}", trimmed(mantissa))),
    }
}

/// As it would stand in a program (`%#v`).
fn sharp(value: &Value) -> String {
    match value {
        Value::Missing | Value::Nil => "<nil>".to_owned(),
        Value::Text(text) => quote(text),
        Value::List(items) => {
            let items: Vec<String> = items.iter().map(sharp_inside).collect();
            format!("[]interface {{}}{{{}}}", items.join(", "))
        }
        Value::Map(map) => {
            let entries = map.entries();
            let pairs: Vec<String> = entries
                .iter()
                .map(|(key, value)| format!("{}:{}", quote(key), sharp_inside(value)))
                .collect();
            format!("map[string]interface {{}}{{{}}}", pairs.join(", "))
        }
        other => sprint(other),
    }
}

fn sharp_inside(value: &Value) -> String {
    match value {
        Value::Missing | Value::Nil => "interface {}(nil)".to_owned(),
        Value::List(_) | Value::Map(_) if value.to_json().is_none() => "...".to_owned(),
        other => sharp(other),
    }
}
