//! Regular expressions, and versions.

use super::{Answer, fixed, int, listed, made, text};
use crate::semver::{Range, Version};
use regex::{NoExpand, Regex, RegexBuilder};
use template::{Calling, Failure, Function, Value};

/// The largest compiled expression.
const COMPILED_BYTES: usize = 1 << 20;

pub(super) const FUNCTIONS: &[(&str, Function)] = &[
    (
        "regexMatch",
        fixed(2, |_, a| {
            Ok(Value::Bool(compiled(a).is_ok_and(|regex| text(a, 1).is_ok_and(|t| regex.is_match(&t)))))
        }),
    ),
    ("mustRegexMatch", fixed(2, |_, a| Ok(Value::Bool(compiled(a)?.is_match(&text(a, 1)?))))),
    ("regexFind", fixed(2, find)),
    ("mustRegexFind", fixed(2, find)),
    ("regexFindAll", fixed(3, find_all)),
    ("mustRegexFindAll", fixed(3, find_all)),
    ("regexReplaceAll", fixed(3, replace)),
    ("mustRegexReplaceAll", fixed(3, replace)),
    ("regexReplaceAllLiteral", fixed(3, replace_literal)),
    ("mustRegexReplaceAllLiteral", fixed(3, replace_literal)),
    ("regexSplit", fixed(3, split)),
    ("mustRegexSplit", fixed(3, split)),
    ("regexQuoteMeta", fixed(1, |c, a| made(c, quote_meta(&text(a, 0)?)))),
    ("semver", fixed(1, semver)),
    ("semverCompare", fixed(2, semver_compare)),
];

fn compiled(args: &[Value]) -> Result<Regex, Failure> {
    let pattern = text(args, 0)?;
    let built = RegexBuilder::new(&pattern).size_limit(COMPILED_BYTES).build();
    built.map_err(|error| format!("error parsing regexp: {error}").into())
}

fn find(calling: &Calling<'_>, args: &[Value]) -> Answer {
    let (regex, text) = (compiled(args)?, text(args, 1)?);
    made(calling, regex.find(&text).map_or("", |found| found.as_str()))
}

fn most(args: &[Value], index: usize) -> Result<usize, Failure> {
    Ok(usize::try_from(int(args, index)?).unwrap_or(usize::MAX))
}

fn find_all(calling: &Calling<'_>, args: &[Value]) -> Answer {
    let (regex, text, most) = (compiled(args)?, text(args, 1)?, most(args, 2)?);
    listed(calling, regex.find_iter(&text).take(most).map(|found| Value::text(found.as_str())).collect())
}

fn replace(calling: &Calling<'_>, args: &[Value]) -> Answer {
    let (regex, text, with) = (compiled(args)?, text(args, 1)?, text(args, 2)?);
    calling.makes(regex.find_iter(&text).count().saturating_mul(with.len()))?;
    made(calling, regex.replace_all(&text, &*with))
}

fn replace_literal(calling: &Calling<'_>, args: &[Value]) -> Answer {
    let (regex, text, with) = (compiled(args)?, text(args, 1)?, text(args, 2)?);
    calling.makes(regex.find_iter(&text).count().saturating_mul(with.len()))?;
    made(calling, regex.replace_all(&text, NoExpand(&with)))
}

fn split(calling: &Calling<'_>, args: &[Value]) -> Answer {
    let (regex, text, most) = (compiled(args)?, text(args, 1)?, most(args, 2)?);
    listed(calling, regex.splitn(&text, most).map(Value::text).collect())
}

fn quote_meta(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        if "\\.+*?()|[]{}^$".contains(c) {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

fn semver(_: &Calling<'_>, args: &[Value]) -> Answer {
    let version = Version::parse(&text(args, 0)?).ok_or("Invalid Semantic Version")?;
    Ok(version.value())
}

fn semver_compare(_: &Calling<'_>, args: &[Value]) -> Answer {
    let range = Range::parse(&text(args, 0)?).map_err(Failure::Said)?;
    let version = Version::parse(&text(args, 1)?).ok_or("Invalid Semantic Version")?;
    Ok(Value::Bool(range.holds(&version)))
}
