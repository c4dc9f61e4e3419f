//! Texts in quotes, as Go writes and reads them.

/// The text as Go writes it in a program (`%q`).
pub fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    text.chars().for_each(|c| push(&mut out, c, '"'));
    out.push('"');
    out
}

/// A character as Go writes it in a program.
pub(crate) fn quote_char(c: char) -> String {
    let mut out = String::from("'");
    push(&mut out, c, '\'');
    out.push('\'');
    out
}

fn push(out: &mut String, c: char, mark: char) {
    match c {
        '\\' => out.push_str("\\\\"),
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\t' => out.push_str("\\t"),
        '\u{7}' => out.push_str("\\a"),
        '\u{8}' => out.push_str("\\b"),
        '\u{b}' => out.push_str("\\v"),
        '\u{c}' => out.push_str("\\f"),
        _ if c == mark => {
            out.push('\\');
            out.push(c);
        }
        _ if c.is_control() || matches!(c, '\u{feff}' | '\u{a0}' | '\u{2028}' | '\u{2029}' | '\u{ad}') => {
            let escaped = match u32::from(c) {
                code @ 0..=0x7f => format!("\\x{code:02x}"),
                code @ 0x80..=0xffff => format!("\\u{code:04x}"),
                code => format!("\\U{code:08x}"),
            };
            out.push_str(&escaped);
        }
        _ => out.push(c),
    }
}

/// What a quoted text of a program says; none if it is not written as Go's are.
pub(crate) fn unquote(quoted: &str) -> Option<String> {
    let mark = quoted.chars().next()?;
    let inner = quoted.strip_prefix(mark)?.strip_suffix(mark)?;
    if mark == '`' {
        return Some(inner.replace('\r', ""));
    }
    let mut out = Vec::with_capacity(inner.len());
    let mut rest = inner;
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        if c != '\\' {
            out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            continue;
        }
        let escape = rest.chars().next()?;
        rest = &rest[escape.len_utf8()..];
        let simple = match escape {
            'a' => 7,
            'b' => 8,
            'f' => 12,
            'n' => b'\n',
            'r' => b'\r',
            't' => b'\t',
            'v' => 11,
            '\\' => b'\\',
            '\'' | '"' if escape == mark => u8::try_from(escape).ok()?,
            'x' | 'u' | 'U' | '0'..='7' => {
                rest = numbered(&mut out, escape, rest)?;
                continue;
            }
            _ => return None,
        };
        out.push(simple);
    }
    String::from_utf8(out).ok()
}

/// An escape by number; what is left of the text.
fn numbered<'t>(out: &mut Vec<u8>, escape: char, rest: &'t str) -> Option<&'t str> {
    let (digits, radix, after) = match escape {
        'x' => (rest.get(..2)?.to_owned(), 16, &rest[2..]),
        'u' => (rest.get(..4)?.to_owned(), 16, &rest[4..]),
        'U' => (rest.get(..8)?.to_owned(), 16, &rest[8..]),
        first => (format!("{first}{}", rest.get(..2)?), 8, &rest[2..]),
    };
    let code = u32::from_str_radix(&digits, radix).ok()?;
    match escape {
        'u' | 'U' => out.extend_from_slice(char::from_u32(code)?.encode_utf8(&mut [0; 4]).as_bytes()),
        _ => out.push(u8::try_from(code).ok()?),
    }
    Some(after)
}
