//! Words: their case, their first letters, and random ones.

use super::{Answer, fixed, int, made, text};
use template::{Calling, Failure, Function, Value};

pub(super) const FUNCTIONS: &[(&str, Function)] = &[
    ("title", fixed(1, |c, a| made(c, title(&text(a, 0)?)))),
    ("untitle", fixed(1, |c, a| made(c, by_word(&text(a, 0)?, |first| first.to_lowercase().collect())))),
    ("swapcase", fixed(1, |c, a| made(c, text(a, 0)?.chars().map(swapped).collect::<String>()))),
    (
        "initials",
        fixed(1, |c, a| {
            made(c, text(a, 0)?.split_whitespace().filter_map(|w| w.chars().next()).collect::<String>())
        }),
    ),
    ("snakecase", fixed(1, |c, a| made(c, separated(&text(a, 0)?, '_')))),
    ("kebabcase", fixed(1, |c, a| made(c, separated(&text(a, 0)?, '-')))),
    ("camelcase", fixed(1, |c, a| made(c, pascal(&text(a, 0)?)))),
    ("wrap", fixed(2, |c, a| made(c, wrapped(&text(a, 1)?, int(a, 0)?, "\n", false)))),
    ("wrapWith", fixed(3, |c, a| made(c, wrapped(&text(a, 2)?, int(a, 0)?, &text(a, 1)?, true)))),
    ("shuffle", fixed(1, shuffle)),
    ("randAlphaNum", fixed(1, |c, a| random(c, int(a, 0)?, |byte| byte.is_ascii_alphanumeric()))),
    ("randAlpha", fixed(1, |c, a| random(c, int(a, 0)?, |byte| byte.is_ascii_alphabetic()))),
    ("randNumeric", fixed(1, |c, a| random(c, int(a, 0)?, |byte| byte.is_ascii_digit()))),
    ("randAscii", fixed(1, |c, a| random(c, int(a, 0)?, |byte| matches!(byte, b' '..=b'~')))),
    ("uuidv4", fixed(0, |_, _| Ok(Value::text(base::random::uuid())))),
];

/// Each word's first letter in upper case (Go's `strings.Title`).
fn title(text: &str) -> String {
    let mut before = ' ';
    let raised = text.chars().flat_map(|c| {
        let begins = !(before.is_alphanumeric() || matches!(before, '_' | '\''));
        before = c;
        if begins { c.to_uppercase().collect::<Vec<_>>() } else { vec![c] }
    });
    raised.collect()
}

fn by_word(text: &str, first: impl Fn(char) -> String) -> String {
    let mut out = String::with_capacity(text.len());
    let mut begins = true;
    for c in text.chars() {
        if begins {
            out.push_str(&first(c))
        } else {
            out.push(c)
        }
        begins = c.is_whitespace();
    }
    out
}

fn swapped(c: char) -> char {
    let other = |mut cases: Box<dyn Iterator<Item = char>>| cases.next().unwrap_or(c);
    match c {
        _ if c.is_uppercase() => other(Box::new(c.to_lowercase())),
        _ if c.is_lowercase() => other(Box::new(c.to_uppercase())),
        _ => c,
    }
}

/// `FooBarHTTP2Server` as `foo_bar_http_2_server`.
fn separated(text: &str, mark: char) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::new();
    for (index, c) in chars.iter().enumerate() {
        let before = index.checked_sub(1).map(|at| chars[at]);
        let after = chars.get(index + 1);
        if matches!(c, '_' | '-' | ' ') {
            out.push(mark);
            continue;
        }
        let starts = before.is_some_and(|before| {
            let turns_up = c.is_uppercase() && (before.is_lowercase() || before.is_numeric());
            let ends_capitals =
                c.is_uppercase() && before.is_uppercase() && after.is_some_and(|next| next.is_lowercase());
            let to_number = c.is_numeric() && before.is_alphabetic();
            let from_number = c.is_lowercase() && before.is_numeric();
            turns_up || ends_capitals || to_number || from_number
        });
        if starts && !out.ends_with(mark) {
            out.push(mark);
        }
        out.extend(c.to_lowercase());
    }
    out
}

fn pascal(text: &str) -> String {
    let mut out = String::new();
    let mut begins = true;
    for c in text.chars() {
        match c {
            '_' | '-' | ' ' => begins = true,
            _ if begins => {
                out.extend(c.to_uppercase());
                begins = false;
            }
            _ => out.push(c),
        }
    }
    out
}

/// Lines of up to so many characters; longer words are cut where that is asked for.
fn wrapped(text: &str, width: i64, newline: &str, cuts: bool) -> String {
    let width = usize::try_from(width).unwrap_or(1).max(1);
    let mut lines: Vec<String> = Vec::new();
    let mut line = String::new();
    for word in text.split(' ') {
        let size = |text: &str| text.chars().count();
        if !line.is_empty() && size(&line) + 1 + size(word) > width {
            lines.push(std::mem::take(&mut line));
        } else if !line.is_empty() {
            line.push(' ');
        }
        let mut rest = word.to_owned();
        while cuts && size(&rest) > width {
            let head: String = rest.chars().take(width).collect();
            rest = rest[head.len()..].to_owned();
            lines.push(head);
        }
        line.push_str(&rest);
    }
    lines.push(line);
    lines.join(newline)
}

/// A random number below `limit`.
fn below(limit: usize) -> usize {
    let number = u64::from_ne_bytes(base::random::bytes());
    usize::try_from(number % u64::try_from(limit.max(1)).unwrap_or(u64::MAX)).unwrap_or(0)
}

fn shuffle(calling: &Calling<'_>, args: &[Value]) -> Answer {
    let mut chars: Vec<char> = text(args, 0)?.chars().collect();
    for index in (1..chars.len()).rev() {
        chars.swap(index, below(index + 1));
    }
    made(calling, chars.into_iter().collect::<String>())
}

/// So many random characters, all that `fits` allows as likely as one another.
pub(super) fn random(calling: &Calling<'_>, count: i64, fits: fn(&u8) -> bool) -> Answer {
    let count =
        usize::try_from(count).map_err(|_| Failure::from("a negative number of random characters"))?;
    calling.makes(count)?;
    let mut text = String::with_capacity(count);
    while text.len() < count {
        let bytes: [u8; 64] = base::random::bytes();
        let fitting = bytes.iter().map(|byte| byte & 0x7f).filter(fits);
        text.extend(fitting.take(count - text.len()).map(char::from));
    }
    Ok(Value::text(text))
}
