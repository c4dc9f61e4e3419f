//! Semantic versions and ranges of them, as Helm reads them: parts may be missing, and a leading `v` is passed over.

use std::cmp::Ordering;
use std::fmt;
use std::rc::Rc;
use template::{Object, Value, sprint};

/// A version. Its order is that of semver.org; what stands behind a `+` does not count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Version {
    numbers: [u64; 3],
    before: String,
    build: String,
    original: String,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [major, minor, patch] = self.numbers;
        write!(f, "{major}.{minor}.{patch}")?;
        if !self.before.is_empty() {
            write!(f, "-{}", self.before)?;
        }
        if !self.build.is_empty() {
            write!(f, "+{}", self.build)?;
        }
        Ok(())
    }
}

impl Version {
    /// Reads a version; one or two of its numbers may be missing.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let plain = text.strip_prefix('v').unwrap_or(text);
        let (rest, build) = plain.split_once('+').unwrap_or((plain, ""));
        let (core, before) = rest.split_once('-').unwrap_or((rest, ""));
        let named = |part: &str| {
            part.split('.')
                .all(|word| !word.is_empty() && word.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'))
        };
        if (rest.contains('-') && !named(before)) || (plain.contains('+') && !named(build)) {
            return None;
        }
        let mut numbers = [0; 3];
        let parts: Vec<&str> = core.split('.').collect();
        if parts.len() > 3 {
            return None;
        }
        for (part, number) in parts.iter().zip(&mut numbers) {
            *number = part.bytes().all(|byte| byte.is_ascii_digit()).then(|| part.parse().ok())??;
        }
        Some(Self { numbers, before: before.to_owned(), build: build.to_owned(), original: text.to_owned() })
    }

    /// Whether something stands behind a `-`.
    pub(crate) fn is_prerelease(&self) -> bool {
        !self.before.is_empty()
    }

    /// What templates see of it.
    pub(crate) fn value(self) -> Value {
        Value::Object(Rc::new(self))
    }
}

impl Ord for Version {
    fn cmp(&self, other: &Self) -> Ordering {
        let of_words = || match (self.before.is_empty(), other.before.is_empty()) {
            (true, true) => Ordering::Equal,
            (true, false) => Ordering::Greater,
            (false, true) => Ordering::Less,
            (false, false) => compare_words(&self.before, &other.before),
        };
        self.numbers.cmp(&other.numbers).then_with(of_words)
    }
}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

fn compare_words(one: &str, two: &str) -> Ordering {
    let (mut one, mut two) = (one.split('.'), two.split('.'));
    loop {
        let order = match (one.next(), two.next()) {
            (None, None) => return Ordering::Equal,
            (None, Some(_)) => Ordering::Less,
            (Some(_), None) => Ordering::Greater,
            (Some(a), Some(b)) => match (a.parse::<u64>(), b.parse::<u64>()) {
                (Ok(a), Ok(b)) => a.cmp(&b),
                (Ok(_), Err(_)) => Ordering::Less,
                (Err(_), Ok(_)) => Ordering::Greater,
                (Err(_), Err(_)) => a.cmp(b),
            },
        };
        if order.is_ne() {
            return order;
        }
    }
}

impl Object for Version {
    fn type_name(&self) -> &'static str {
        "*semver.Version"
    }

    fn get(&self, name: &str, arguments: &[Value]) -> Option<Result<Value, String>> {
        let number = |index: usize| Value::Int64(i64::try_from(self.numbers[index]).unwrap_or(i64::MAX));
        Some(Ok(match name {
            "Major" => number(0),
            "Minor" => number(1),
            "Patch" => number(2),
            "Prerelease" => Value::text(&self.before),
            "Metadata" => Value::text(&self.build),
            "Original" => Value::text(&self.original),
            "String" => Value::text(self.to_string()),
            "Compare" => {
                let other = arguments.first().map(sprint).and_then(|text| Self::parse(&text));
                return Some(match other {
                    Some(other) => Ok(Value::Int(match self.cmp(&other) {
                        Ordering::Less => -1,
                        Ordering::Equal => 0,
                        Ordering::Greater => 1,
                    })),
                    None => Err("Compare takes a version".to_owned()),
                });
            }
            _ => return None,
        }))
    }

    fn plain(&self) -> Value {
        Value::text(self.to_string())
    }
}

/// One comparison of a range. `given` says how many numbers were named, 0 for any.
#[derive(Clone, Debug)]
struct Bound {
    operator: String,
    version: Version,
    given: usize,
}

/// A range of versions: `>=1.2 <2 || ~3.1`, `^1.2.3`, `1.x`, `1.2 - 1.4`.
#[derive(Clone, Debug)]
pub(crate) struct Range(Vec<Vec<Bound>>);

const OPERATORS: [&str; 11] = ["!=", ">=", "=>", "<=", "=<", "~>", "=", ">", "<", "~", "^"];

impl Range {
    /// Reads a range; an error names it.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let either = text.split("||").map(|part| {
            let bounds = hyphenated(part).unwrap_or_else(|| spread(part));
            bounds
                .iter()
                .map(|bound| parse_bound(bound))
                .collect::<Option<Vec<_>>>()
                .filter(|all| !all.is_empty())
        });
        let ranges = either.collect::<Option<Vec<_>>>();
        ranges.map(Self).ok_or_else(|| format!("improper constraint: {text:?}"))
    }

    /// Whether a version is in the range. One before a release is so only where the range names such a one.
    pub(crate) fn holds(&self, version: &Version) -> bool {
        self.0.iter().any(|bounds| {
            let names_early = bounds.iter().any(|bound| bound.version.is_prerelease());
            (!version.is_prerelease() || names_early) && bounds.iter().all(|bound| bound.holds(version))
        })
    }
}

/// `1.2 - 1.4.5` as two comparisons.
fn hyphenated(text: &str) -> Option<Vec<String>> {
    let (low, high) = text.split_once(" - ")?;
    Some(vec![format!(">={}", low.trim()), format!("<={}", high.trim())])
}

/// Comparisons, cut at commas and blanks, with operators joined to their versions.
fn spread(text: &str) -> Vec<String> {
    let mut bounds: Vec<String> = Vec::new();
    for word in text.split([',', ' ', '\t', '\n']).filter(|word| !word.is_empty()) {
        match bounds.last_mut() {
            Some(last) if OPERATORS.contains(&last.as_str()) => last.push_str(word),
            _ => bounds.push(word.to_owned()),
        }
    }
    bounds
}

fn parse_bound(text: &str) -> Option<Bound> {
    let operator = OPERATORS.iter().find(|operator| text.starts_with(**operator)).copied().unwrap_or("");
    let version = text[operator.len()..].trim();
    let core_end = version.find(['-', '+']).unwrap_or(version.len());
    let named: Vec<&str> = version[..core_end].trim_start_matches('v').split('.').collect();
    let given = named.iter().take_while(|part| !matches!(**part, "x" | "X" | "*" | "")).count();
    let is_any = |part: &&str| matches!(*part, "x" | "X" | "*");
    if version.is_empty() || named.len() > 3 || !named[given..].iter().all(is_any) {
        return None;
    }
    let rest = if given == named.len() { &version[core_end..] } else { "" };
    let numbers = if given == 0 { "0".to_owned() } else { named[..given].join(".") };
    let version = Version::parse(&format!("{numbers}{rest}"))?;
    Some(Bound { operator: operator.to_owned(), version, given })
}

impl Bound {
    /// The first version that has another number at the place `index`.
    fn next(&self, index: usize) -> [u64; 3] {
        let mut numbers = [0; 3];
        numbers[..=index].copy_from_slice(&self.version.numbers[..=index]);
        numbers[index] = numbers[index].saturating_add(1);
        numbers
    }

    fn below(&self, version: &Version, index: usize) -> bool {
        *version >= self.version && version.numbers < self.next(index)
    }

    fn holds(&self, version: &Version) -> bool {
        let whole = self.given == 3;
        let within = || self.given == 0 || self.below(version, self.given - 1);
        match self.operator.as_str() {
            "" | "=" if whole => version.cmp(&self.version).is_eq(),
            "" | "=" => within(),
            "!=" if whole => version.cmp(&self.version).is_ne(),
            "!=" => !within(),
            ">" if whole || self.given == 0 => *version > self.version,
            ">" => version.numbers >= self.next(self.given - 1),
            "<" => *version < self.version,
            ">=" | "=>" => *version >= self.version,
            "<=" | "=<" if whole => *version <= self.version,
            "<=" | "=<" => self.given == 0 || version.numbers < self.next(self.given - 1),
            "~" | "~>" => self.given == 0 || self.below(version, usize::from(self.given > 1)),
            _ => {
                let first = self.version.numbers.iter().take(self.given).position(|number| *number > 0);
                self.given == 0 || self.below(version, first.unwrap_or(self.given - 1))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_in_order() {
        let sorted = [
            "1.0.0-alpha",
            "1.0.0-alpha.1",
            "1.0.0-alpha.beta",
            "1.0.0-beta.2",
            "1.0.0-beta.11",
            "1.0.0-rc.1",
            "1",
            "1.0.1",
            "v1.10",
            "2.0.0+b",
        ];
        let versions: Vec<Version> = sorted.iter().map(|text| Version::parse(text).unwrap()).collect();
        assert!(versions.is_sorted());
        for bad in ["", "a", "1.2.3.4", "1..2", "1.2.3-", "1.2.-3", "1.2.3+"] {
            assert!(Version::parse(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn ranges_hold_what_helms_hold() {
        let cases = [
            (">=1.22-0", "v1.36.0+knarr1", true),
            (">=1.22.0-0", "1.22.0-gke.1", true),
            ("<1.19-0", "1.36.0", false),
            (">= 1.2.3, < 2.0.0", "1.9.0", true),
            (">=1.2 <2 || 3.x", "3.7.1", true),
            ("^1.2.3", "1.9.9", true),
            ("^1.2.3", "2.0.0", false),
            ("^0.2.3", "0.2.9", true),
            ("^0.2.3", "0.3.0", false),
            ("^0.0.3", "0.0.4", false),
            ("^0", "0.9.0", true),
            ("~1.2.3", "1.2.9", true),
            ("~1.2.3", "1.3.0", false),
            ("~1", "1.9.0", true),
            ("1.2.x", "1.2.7", true),
            ("1.x", "2.0.0", false),
            ("*", "7.0.0", true),
            ("*", "7.0.0-rc1", false),
            ("*-0", "7.0.0", true),
            ("1.2 - 1.4", "1.4.9", true),
            ("!=1.2.3", "1.2.3", false),
            ("!=1.2.x", "1.2.4", false),
            ("=1.2", "1.2.9", true),
            (">1.2", "1.2.5", false),
            (">1.2", "1.3.0", true),
            ("<=1.2", "1.2.9", true),
            ("1.2.3", "1.2.3", true),
            (">0.0.0-0", "1.0.0-beta", true),
            ("x", "1.0.0", true),
            ("^1.x", "1.5.0", true),
        ];
        for (range, version, wanted) in cases {
            let holds = Range::parse(range).unwrap().holds(&Version::parse(version).unwrap());
            assert_eq!(holds, wanted, "{range} {version}");
        }
        for bad in ["", ">", "a", ">=1.2.b", "1.2.3.4", "||"] {
            assert!(Range::parse(bad).is_err(), "{bad}");
        }
    }
}
