//! Quantities and semantic versions: both are compared.

use super::{Opaque, Row, int, opaque, text};
use crate::value::{Fault, Outcome, Value, fail, no_overload};
use api::quantity::{self, Amount};
use std::cmp::Ordering;

pub(super) const ROWS: &[Row] = &[
    ("quantity", "string_to_quantity", "(string) -> Quantity", Some(quantity)),
    ("isQuantity", "is_quantity_string", "(string) -> bool", Some(is_quantity)),
    ("sign", "quantity_sign", "Quantity.() -> int", Some(sign)),
    ("isGreaterThan", "quantity_is_greater_than", "Quantity.(Quantity) -> bool", Some(is_greater)),
    ("isLessThan", "quantity_is_less_than", "Quantity.(Quantity) -> bool", Some(is_less)),
    ("compareTo", "quantity_compare_to", "Quantity.(Quantity) -> int", Some(compare_to)),
    ("asApproximateFloat", "quantity_get_float", "Quantity.() -> double", Some(as_float)),
    ("asInteger", "quantity_get_int", "Quantity.() -> int", Some(as_integer)),
    ("isInteger", "quantity_is_integer", "Quantity.() -> bool", Some(is_integer)),
    ("add", "quantity_add", "Quantity.(Quantity) -> Quantity", Some(|of| sum(of, Amount::plus))),
    ("add", "quantity_add_int", "Quantity.(int) -> Quantity", Some(|of| sum(of, Amount::plus))),
    ("sub", "quantity_sub", "Quantity.(Quantity) -> Quantity", Some(|of| sum(of, Amount::minus))),
    ("sub", "quantity_sub_int", "Quantity.(int) -> Quantity", Some(|of| sum(of, Amount::minus))),
    ("semver", "string_to_semver", "(string) -> Semver", Some(semver)),
    ("semver", "string_bool_to_semver", "(string, bool) -> Semver", Some(semver)),
    ("isSemver", "is_semver_string", "(string) -> bool", Some(is_semver)),
    ("isSemver", "is_semver_string_bool", "(string, bool) -> bool", Some(is_semver)),
    ("isGreaterThan", "semver_is_greater_than", "Semver.(Semver) -> bool", Some(is_greater)),
    ("isLessThan", "semver_is_less_than", "Semver.(Semver) -> bool", Some(is_less)),
    ("compareTo", "semver_compare_to", "Semver.(Semver) -> int", Some(compare_to)),
    ("major", "semver_major", "Semver.() -> int", Some(|of| number(of, 0))),
    ("minor", "semver_minor", "Semver.() -> int", Some(|of| number(of, 1))),
    ("patch", "semver_patch", "Semver.() -> int", Some(|of| number(of, 2))),
];

/// Versions are compared by number, then by what they precede.
#[derive(Clone, Debug)]
pub struct Version {
    numbers: [u64; 3],
    pre: Vec<Identifier>,
}

impl PartialEq for Version {
    fn eq(&self, other: &Self) -> bool {
        self.order(other) == Ordering::Equal
    }
}

/// A part of what a version precedes. Numbers come before words.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Identifier {
    Number(u64),
    Word(String),
}

impl Version {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("Version string empty".into());
        }
        let mut parts = text.splitn(3, '.');
        let (Some(major), Some(minor), Some(rest)) = (parts.next(), parts.next(), parts.next()) else {
            return Err("No Major.Minor.Patch elements found".into());
        };
        let (rest, build) = rest.split_once('+').unwrap_or((rest, ""));
        let has_build = text.contains('+');
        let (patch, pre) = match rest.split_once('-') {
            Some((patch, pre)) => (patch, Some(pre)),
            None => (rest, None),
        };
        if has_build {
            build.split('.').try_for_each(|part| word(part, "Build meta data"))?;
        }
        let numbers = [number_of(major, "major")?, number_of(minor, "minor")?, number_of(patch, "patch")?];
        let pre = pre.into_iter().flat_map(|pre| pre.split('.')).map(identifier).collect::<Result<_, _>>()?;
        Ok(Self { numbers, pre })
    }

    /// Also reads `v1`, `1.2` and `01.2.3`.
    fn parse_tolerant(text: &str) -> Result<Self, String> {
        let text = text.strip_prefix('v').unwrap_or(text);
        let mut parts: Vec<String> = text.splitn(3, '.').map(without_leading_zeros).collect();
        if parts.len() < 3 && parts.last().is_some_and(|last| last.contains(['+', '-'])) {
            return Err("short version cannot contain PreRelease/Build meta data".into());
        }
        parts.resize(3, "0".into());
        Self::parse(&parts.join("."))
    }

    fn order(&self, other: &Self) -> Ordering {
        let pre = || match (self.pre.is_empty(), other.pre.is_empty()) {
            (true, false) => Ordering::Greater,
            (false, true) => Ordering::Less,
            _ => self.pre.cmp(&other.pre),
        };
        self.numbers.cmp(&other.numbers).then_with(pre)
    }
}

fn without_leading_zeros(part: &str) -> String {
    if part.len() <= 1 {
        return part.to_owned();
    }
    let trimmed = part.trim_start_matches('0');
    if trimmed.starts_with(|first: char| first.is_ascii_digit()) {
        trimmed.into()
    } else {
        format!("0{trimmed}")
    }
}

fn number_of(text: &str, name: &str) -> Result<u64, String> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(format!("Invalid character(s) found in {name} number {text:?}"));
    }
    if text.len() > 1 && text.starts_with('0') {
        let name = format!("{}{}", name[..1].to_uppercase(), &name[1..]);
        return Err(format!("{name} number must not contain leading zeroes {text:?}"));
    }
    text.parse().map_err(|_| format!("strconv.ParseUint: parsing {text:?}: value out of range"))
}

fn word(text: &str, what: &str) -> Result<(), String> {
    if text.is_empty() {
        return Err(format!("{what} is empty"));
    }
    if text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
        return Ok(());
    }
    Err(format!("Invalid character(s) found in {what} {text:?}"))
}

fn identifier(text: &str) -> Result<Identifier, String> {
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        if text.len() > 1 && text.starts_with('0') {
            return Err(format!("Numeric PreRelease version must not contain leading zeroes {text:?}"));
        }
        return text.parse().map(Identifier::Number).map_err(|_| format!("value out of range {text:?}"));
    }
    word(text, "Prerelease").map(|()| Identifier::Word(text.to_owned()))
}

fn read_version(of: &[Value<'_>]) -> Result<Version, Fault> {
    let written = text(of, 0)?;
    let read = match of.get(1) {
        Some(Value::Bool(true)) => Version::parse_tolerant(written),
        None | Some(Value::Bool(false)) => Version::parse(written),
        _ => return no_overload(),
    };
    read.or_else(fail)
}

fn semver<'a>(of: &[Value<'a>]) -> Outcome<'a> {
    read_version(of).map(|version| Value::opaque(Opaque::Semver(version)))
}

fn is_semver<'a>(of: &[Value<'a>]) -> Outcome<'a> {
    text(of, 0)?;
    Ok(Value::Bool(read_version(of).is_ok()))
}

fn number<'a>(of: &[Value<'a>], part: usize) -> Outcome<'a> {
    match opaque(of, 0)? {
        Opaque::Semver(version) => Ok(Value::Int(i64::try_from(version.numbers[part]).unwrap_or(i64::MAX))),
        _ => no_overload(),
    }
}

fn order(of: &[Value<'_>]) -> Result<Ordering, Fault> {
    match (opaque(of, 0)?, opaque(of, 1)?) {
        (Opaque::Semver(one), Opaque::Semver(other)) => Ok(one.order(other)),
        (Opaque::Quantity(one), Opaque::Quantity(other)) => Ok(one.cmp(other)),
        _ => no_overload(),
    }
}

fn is_greater<'a>(of: &[Value<'a>]) -> Outcome<'a> {
    Ok(Value::Bool(order(of)?.is_gt()))
}

fn is_less<'a>(of: &[Value<'a>]) -> Outcome<'a> {
    Ok(Value::Bool(order(of)?.is_lt()))
}

fn compare_to<'a>(of: &[Value<'a>]) -> Outcome<'a> {
    Ok(Value::Int(order(of)? as i64))
}

fn amount(of: &[Value<'_>], at: usize) -> Result<Amount, Fault> {
    match &of[at] {
        Value::Int(_) => Ok(Amount::units(int(of, at)?)),
        _ => match opaque(of, at)? {
            Opaque::Quantity(amount) => Ok(*amount),
            _ => no_overload(),
        },
    }
}

fn quantity<'a>(of: &[Value<'a>]) -> Outcome<'a> {
    match quantity::parse(text(of, 0)?) {
        Ok(amount) => Ok(Value::opaque(Opaque::Quantity(amount))),
        Err(error) => fail(error.to_string()),
    }
}

fn is_quantity<'a>(of: &[Value<'a>]) -> Outcome<'a> {
    Ok(Value::Bool(quantity::parse(text(of, 0)?).is_ok()))
}

fn sum<'a>(of: &[Value<'a>], operation: fn(Amount, Amount) -> Amount) -> Outcome<'a> {
    Ok(Value::opaque(Opaque::Quantity(operation(amount(of, 0)?, amount(of, 1)?))))
}

fn sign<'a>(of: &[Value<'a>]) -> Outcome<'a> {
    Ok(Value::Int(amount(of, 0)?.cmp(&Amount::units(0)) as i64))
}

/// The whole number that it is, if it is one that an `int` holds.
fn whole(amount: Amount) -> Option<i64> {
    let units = amount.to_units();
    (amount == Amount::units(units)).then_some(units)
}

fn is_integer<'a>(of: &[Value<'a>]) -> Outcome<'a> {
    Ok(Value::Bool(whole(amount(of, 0)?).is_some()))
}

fn as_integer<'a>(of: &[Value<'a>]) -> Outcome<'a> {
    whole(amount(of, 0)?)
        .map_or_else(|| fail("cannot convert value to integer"), |units| Ok(Value::Int(units)))
}

fn as_float<'a>(of: &[Value<'a>]) -> Outcome<'a> {
    Ok(Value::Double(amount(of, 0)?.to_float()))
}
