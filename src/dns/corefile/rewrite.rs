//! `rewrite name`: one name is asked for in the place of another.

use super::{Line, Problem};
use crate::name::Name;
use regex::{Regex, RegexBuilder};

/// The longest compiled pattern.
const PATTERN_BYTES: usize = 64 * 1024;

/// How names are told that are rewritten.
#[derive(Clone, Debug)]
enum Matcher {
    Exact(Box<Name>),
    Prefix(String),
    Suffix(String),
    Substring(String),
    Regex(Regex),
}

/// One rule. Names are matched as text in lower case with a dot at their end.
#[derive(Clone, Debug)]
pub(crate) struct Rewrite {
    matcher: Matcher,
    replacement: String,
    /// Whether the next rules are applied, too.
    pub(crate) goes_on: bool,
    /// What the rule was read from, by which rules are compared.
    words: Vec<String>,
}

impl PartialEq for Rewrite {
    fn eq(&self, other: &Self) -> bool {
        self.words == other.words
    }
}

impl Rewrite {
    /// `rewrite [continue|stop] name [exact|prefix|suffix|substring|regex] FROM TO [answer auto]`. Names in
    /// answers are always those that were asked for.
    pub(super) fn read(line: &Line) -> Result<Self, Problem> {
        line.plain()?;
        let words = line.arguments();
        let (goes_on, words) = match words.as_slice() {
            ["continue", rest @ ..] => (true, rest),
            ["stop", rest @ ..] => (false, rest),
            rest => (false, rest),
        };
        let ["name", words @ ..] = words else { return Err(line.unsupported()) };
        let words = words.strip_suffix(&["answer", "auto"]).unwrap_or(words);
        let (how, from, to) = match words {
            [from, to] => ("exact", *from, *to),
            [how, from, to] => (*how, *from, *to),
            _ => return Err(line.unsupported()),
        };
        let name = |text: &str| Name::parse(text).ok_or_else(|| line.problem(format!("{text:?} is no name")));
        let matcher = match how {
            "exact" => Matcher::Exact(Box::new(name(from)?)),
            "prefix" => Matcher::Prefix(from.to_ascii_lowercase()),
            "suffix" => Matcher::Suffix(dotted(from)),
            "substring" => Matcher::Substring(from.to_ascii_lowercase()),
            "regex" => {
                let compiled = RegexBuilder::new(from).size_limit(PATTERN_BYTES).build();
                Matcher::Regex(compiled.map_err(|error| line.problem(format!("{from:?}: {error}")))?)
            }
            _ => return Err(line.unsupported()),
        };
        let replacement = match how {
            "exact" => name(to)?.to_string(),
            "suffix" => dotted(to),
            _ => to.to_ascii_lowercase(),
        };
        Ok(Self { matcher, replacement, goes_on, words: line.words.clone() })
    }

    /// The name to ask for instead. None where the rule does not apply, or what it makes is no name.
    pub(crate) fn apply(&self, name: &Name) -> Option<Name> {
        if let Matcher::Exact(from) = &self.matcher {
            return (**from == *name).then(|| Name::parse(&self.replacement)).flatten();
        }
        let text = name.to_string();
        let to = &self.replacement;
        let rewritten = match &self.matcher {
            Matcher::Exact(_) => None,
            Matcher::Prefix(from) => text.strip_prefix(from.as_str()).map(|rest| format!("{to}{rest}")),
            Matcher::Suffix(from) => text.strip_suffix(from.as_str()).map(|rest| format!("{rest}{to}")),
            Matcher::Substring(from) => text.contains(from.as_str()).then(|| text.replace(from.as_str(), to)),
            Matcher::Regex(pattern) => pattern.captures(&text).map(|captures| {
                // The whole name becomes the replacement, with `{1}` for the first group.
                (0..captures.len()).fold(to.clone(), |made, group| {
                    let found = captures.get(group).map_or("", |found| found.as_str());
                    made.replace(&format!("{{{group}}}"), found)
                })
            }),
        };
        rewritten.and_then(|text| Name::parse(&text))
    }
}

/// In lower case, with a dot at its end.
fn dotted(text: &str) -> String {
    format!("{}.", text.trim_end_matches('.').to_ascii_lowercase())
}
