//! Regular expressions as Go writes them.
//!
//! Go's and Rust's engines are of one family and differ in a few spellings: Go's `\d`, `\s`, `\w` and
//! `\b` are of ASCII, `\Q…\E` is plain text, a brace that is no repetition is a brace, and brackets have
//! no operators.

use regex::{Regex, RegexBuilder};
use std::sync::OnceLock;

/// How large a compiled expression may be. Expressions in use take some kilobytes; counted repetitions
/// of large classes multiply.
const LARGEST_BYTES: usize = 4 << 20;

/// An expression, compiled when it is first needed: most definitions are served without ever being used.
#[derive(Debug)]
pub(super) struct Pattern {
    pub(super) text: Box<str>,
    compiled: OnceLock<Result<Regex, String>>,
}

impl Pattern {
    pub(super) fn new(text: &str) -> Self {
        Self { text: text.into(), compiled: OnceLock::new() }
    }

    /// Whether a text has a part that is like it; an error in Go's words.
    pub(super) fn matches(&self, text: &str) -> Result<bool, &str> {
        let compiled = self.compiled.get_or_init(|| compile(&self.text));
        compiled.as_ref().map(|regex| regex.is_match(text)).map_err(String::as_str)
    }
}

/// An expression of Go's; an error in its words.
pub fn compile(text: &str) -> Result<Regex, String> {
    let said = |why: String| format!("error parsing regexp: {why}");
    let ours = translate(text).map_err(said)?;
    let built = RegexBuilder::new(&ours).size_limit(LARGEST_BYTES).build();
    built.map_err(|_| said(problem(text, &ours)))
}

/// What is wrong with an expression, in Go's words where they are known.
fn problem(text: &str, ours: &str) -> String {
    use regex_syntax::ast::ErrorKind as Kind;
    let error = match regex_syntax::Parser::new().parse(ours) {
        Err(regex_syntax::Error::Parse(error)) => error,
        Err(regex_syntax::Error::Translate(error)) => {
            let span = error.span();
            let part = ours.get(span.start.offset..span.end.offset).unwrap_or_default();
            return format!("invalid character class range: `{part}`");
        }
        _ => return "expression too large".to_owned(),
    };
    let (from, to) = (error.span().start.offset, error.span().end.offset);
    let part = ours.get(from..to).unwrap_or_default();
    match error.kind() {
        Kind::ClassUnclosed => format!("missing closing ]: `{}`", ours.get(from..).unwrap_or_default()),
        Kind::ClassRangeInvalid => format!("invalid character class range: `{part}`"),
        Kind::GroupUnclosed => format!("missing closing ): `{text}`"),
        Kind::GroupUnopened => format!("unexpected ): `{text}`"),
        Kind::RepetitionMissing => {
            let operator = ours.get(from..).and_then(repetition).unwrap_or_default();
            format!("missing argument to repetition operator: `{operator}`")
        }
        Kind::RepetitionCountInvalid => format!("invalid repeat count: `{part}`"),
        Kind::EscapeUnrecognized => format!("invalid escape sequence: `{part}`"),
        Kind::EscapeUnexpectedEof => "trailing backslash at end of expression: ``".to_owned(),
        Kind::UnsupportedLookAround => format!("invalid or unsupported Perl syntax: `{part}`"),
        Kind::FlagUnrecognized | Kind::FlagUnexpectedEof => {
            let group = ours.get(..to).and_then(|before| before.rfind("(?")).unwrap_or(from);
            format!("invalid or unsupported Perl syntax: `{}`", ours.get(group..to).unwrap_or_default())
        }
        Kind::GroupNameUnexpectedEof => {
            let group = ours.rfind("(?").unwrap_or(from);
            format!("invalid named capture: `{}`", ours.get(group..).unwrap_or_default())
        }
        Kind::UnsupportedBackreference => format!("invalid escape sequence: `{part}`"),
        kind => kind.to_string(),
    }
}

/// The most that Go counts in a repetition.
const MOST_TIMES: u32 = 1_000;

/// The same expression in Rust's spelling; what only Go refuses is refused.
fn translate(text: &str) -> Result<String, String> {
    let mut out = String::with_capacity(text.len() + 16);
    let mut rest = text;
    let mut class = None;
    let mut repeated = None;
    while let Some(sign) = rest.chars().next() {
        if let Some(operator) = repetition(rest).filter(|_| class.is_none()) {
            let from: &str = repeated.get_or_insert(rest);
            rest = &rest[operator.len()..];
            out.push_str(operator);
            if from.len() > operator.len() + rest.len() {
                let nested = &from[..from.len() - rest.len()];
                return Err(format!("invalid nested repetition operator: `{nested}`"));
            }
            if !is_countable(operator) {
                return Err(format!("invalid repeat count: `{}`", operator.trim_end_matches('?')));
            }
            continue;
        }
        repeated = None;
        let after = &rest[sign.len_utf8()..];
        rest = match (sign, class) {
            ('\\', _) => escape(after, class.is_some(), &mut out),
            ('[', None) => {
                let start = if after.starts_with('^') { "[^" } else { "[" };
                out.push_str(start);
                class = Some(out.len());
                &rest[start.len()..]
            }
            // The first bracket in a class is one of its signs.
            (']', Some(start)) if out.len() > start => {
                out.push(']');
                class = None;
                after
            }
            (_, Some(_)) => in_class(rest, &mut out)?,
            ('{', None) => {
                out.push_str("\\{");
                after
            }
            _ => {
                out.push(sign);
                after
            }
        };
    }
    Ok(out)
}

/// One sign of a class. Rust's classes nest and have operators; Go's do not.
fn in_class<'t>(rest: &'t str, out: &mut String) -> Result<&'t str, String> {
    const NAMES: [&str; 14] = [
        "alnum", "alpha", "ascii", "blank", "cntrl", "digit", "graph", "lower", "print", "punct", "space",
        "upper", "word", "xdigit",
    ];
    if let Some((name, _)) = rest.strip_prefix("[:").and_then(|after| after.split_once(":]")) {
        let (posix, after) = rest.split_at(name.len() + 4);
        if !NAMES.contains(&name.strip_prefix('^').unwrap_or(name)) {
            return Err(format!("invalid character class range: `{posix}`"));
        }
        out.push_str(posix);
        return Ok(after);
    }
    let sign = rest.chars().next().unwrap_or_default();
    if matches!(sign, '[' | ']' | '&' | '~') || (sign == '-' && out.ends_with('-')) {
        out.push('\\');
    }
    out.push(sign);
    Ok(&rest[sign.len_utf8()..])
}

/// What follows a backslash.
fn escape<'t>(after: &'t str, in_class: bool, out: &mut String) -> &'t str {
    let Some(sign) = after.chars().next() else {
        out.push('\\');
        return after;
    };
    let rest = &after[sign.len_utf8()..];
    let set = match sign {
        'd' => "0-9",
        's' => r"\t\n\f\r ",
        'w' => "0-9A-Za-z_",
        'D' => "^0-9",
        'S' => r"^\t\n\f\r ",
        'W' => "^0-9A-Za-z_",
        'b' if !in_class => {
            out.push_str(r"(?-u:\b)");
            return rest;
        }
        'Q' => {
            let (plain, rest) = rest.split_once("\\E").unwrap_or((rest, ""));
            out.push_str(&regex::escape(plain));
            return rest;
        }
        '<' | '>' => {
            out.push(sign);
            return rest;
        }
        // The braces belong to it.
        'p' | 'P' | 'x' if rest.starts_with('{') => {
            let (name, rest) = rest.split_at(rest.find('}').map_or(rest.len(), |end| end + 1));
            out.extend(["\\", &after[..1], name]);
            return rest;
        }
        _ => {
            out.extend(['\\', sign]);
            return rest;
        }
    };
    if in_class && !set.starts_with('^') {
        out.push_str(set)
    } else {
        out.extend(["[", set, "]"])
    }
    rest
}

/// The repetition that a text starts with.
fn repetition(text: &str) -> Option<&str> {
    let length = match text.as_bytes().first()? {
        b'*' | b'+' | b'?' => 1,
        b'{' => text.find('}').filter(|end| is_count(&text[1..*end]))? + 1,
        _ => return None,
    };
    let lazy = usize::from(text[length..].starts_with('?'));
    text.get(..length + lazy)
}

/// `2`, `2,` or `2,3`.
fn is_count(counts: &str) -> bool {
    let (least, most) = counts.split_once(',').unwrap_or((counts, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    !least.is_empty() && digits(least) && digits(most)
}

/// Its counts are not too large.
fn is_countable(operator: &str) -> bool {
    let counts = operator.split(|sign: char| !sign.is_ascii_digit()).filter(|count| !count.is_empty());
    counts.map(str::parse::<u32>).all(|count| count.is_ok_and(|count| count <= MOST_TIMES))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_mean_what_they_mean_in_go() {
        let cases = [
            (r"^\d+$", "12", "١٢"),
            (r"^[\w.]+$", "a_1.b", "é"),
            (r"^[[:alpha:]]+$", "ab", "a1"),
            (r"^a{,2}$", "a{,2}", "aa"),
            (r"^{x}$", "{x}", "x"),
            (r"^[]a]$", "]", "b"),
            (r"^[[a]$", "[", "b"),
            (r"^[+--]$", ",", "."),
            (r"^[a&&b]$", "&", "c"),
            (r"^\Qa.b\E$", "a.b", "axb"),
            (r"^\p{L}+$", "éa", "1"),
            (r"^[^\W_]$", "a", "_"),
            (r"^a\<b\-$", "a<b-", "ab-"),
            (r"\bfoo\b", "a foo", "afoo"),
        ];
        for (pattern, like, unlike) in cases {
            let pattern = Pattern::new(pattern);
            assert_eq!(pattern.matches(like), Ok(true), "{} {like}", pattern.text);
            assert_eq!(pattern.matches(unlike), Ok(false), "{} {unlike}", pattern.text);
        }
    }

    #[test]
    fn errors_are_told_as_go_tells_them() {
        let cases = [
            ("[abc", "missing closing ]: `[abc`"),
            ("+", "missing argument to repetition operator: `+`"),
            ("(a", "missing closing ): `(a`"),
            ("a)", "unexpected ): `a)`"),
            ("[z-a]", "invalid character class range: `z-a`"),
            ("(?!a)", "invalid or unsupported Perl syntax: `(?!`"),
            (r"\y", r"invalid escape sequence: `\y`"),
            ("a**", "invalid nested repetition operator: `**`"),
            ("x{2}{3}", "invalid nested repetition operator: `{2}{3}`"),
            ("a{2,1}", "invalid repeat count: `{2,1}`"),
            ("a{1001}", "invalid repeat count: `{1001}`"),
            ("[[:foo:]]", "invalid character class range: `[:foo:]`"),
            (r"\pX", r"invalid character class range: `\pX`"),
            ("(?P<a", "invalid named capture: `(?P<a`"),
            ("(?i", "invalid or unsupported Perl syntax: `(?i`"),
            ("a\\", "trailing backslash at end of expression: ``"),
        ];
        let told = cases.map(|(pattern, _)| compile(pattern).unwrap_err());
        assert_eq!(told, cases.map(|(_, wanted)| format!("error parsing regexp: {wanted}")));
        assert!(compile(r"(\p{L}{1000}){1000}").is_err());
    }
}
