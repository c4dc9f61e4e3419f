//! Named formats: the rules that Kubernetes' own validation names.

use super::{Opaque, Row, opaque, text};
use crate::time::parse_date;
use crate::value::{Outcome, Value, no_overload};
use api::url::Url;
use api::validate::{
    dns_label, dns_subdomain, dns_subdomain_prefix, label_value, masked, qualified_name, rfc1035_label,
};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

pub(super) const ROWS: &[Row] = &[
    ("format.named", "format-named", "(string) -> optional(NamedFormat)", Some(named)),
    ("validate", "format-validate", "NamedFormat.(string) -> optional(list(string))", Some(validate)),
    ("format.dns1123Label", "format.dns1123Label", "() -> NamedFormat", Some(|_| one(0))),
    ("format.dns1123Subdomain", "format.dns1123Subdomain", "() -> NamedFormat", Some(|_| one(1))),
    ("format.dns1035Label", "format.dns1035Label", "() -> NamedFormat", Some(|_| one(2))),
    ("format.qualifiedName", "format.qualifiedName", "() -> NamedFormat", Some(|_| one(3))),
    ("format.dns1123LabelPrefix", "format.dns1123LabelPrefix", "() -> NamedFormat", Some(|_| one(4))),
    ("format.dns1123SubdomainPrefix", "format.dns1123SubdomainPrefix", "() -> NamedFormat", Some(|_| one(5))),
    ("format.dns1035LabelPrefix", "format.dns1035LabelPrefix", "() -> NamedFormat", Some(|_| one(6))),
    ("format.labelValue", "format.labelValue", "() -> NamedFormat", Some(|_| one(7))),
    ("format.uri", "format.uri", "() -> NamedFormat", Some(|_| one(8))),
    ("format.uuid", "format.uuid", "() -> NamedFormat", Some(|_| one(9))),
    ("format.byte", "format.byte", "() -> NamedFormat", Some(|_| one(10))),
    ("format.date", "format.date", "() -> NamedFormat", Some(|_| one(11))),
    ("format.datetime", "format.datetime", "() -> NamedFormat", Some(|_| one(12))),
];

/// A format: its name, its rule, and the length of the pattern that its cost is counted by.
#[derive(Debug)]
pub struct Format {
    pub(super) name: &'static str,
    pub(crate) pattern_length: u64,
    check: fn(&str) -> Vec<String>,
}

static FORMATS: [Format; 13] = [
    Format { name: "dns1123Label", pattern_length: 30, check: dns_label },
    Format { name: "dns1123Subdomain", pattern_length: 60, check: dns_subdomain },
    Format { name: "dns1035Label", pattern_length: 30, check: rfc1035_label },
    Format { name: "qualifiedName", pattern_length: 60, check: qualified_name },
    Format { name: "dns1123LabelPrefix", pattern_length: 30, check: |text| dns_label(&masked(text)) },
    Format { name: "dns1123SubdomainPrefix", pattern_length: 60, check: dns_subdomain_prefix },
    Format { name: "dns1035LabelPrefix", pattern_length: 30, check: |text| rfc1035_label(&masked(text)) },
    Format { name: "labelValue", pattern_length: 40, check: label_value },
    Format { name: "uri", pattern_length: 2083, check: |text| Url::parse(text).err().into_iter().collect() },
    Format {
        name: "uuid",
        pattern_length: 36,
        check: |text| unless(is_uuid(text), "does not match the UUID format"),
    },
    Format { name: "byte", pattern_length: 84, check: |text| unless(is_base64(text), "invalid base64") },
    Format {
        name: "date",
        pattern_length: 81,
        check: |text| unless(parse_date(text).is_some(), "invalid date"),
    },
    Format {
        name: "datetime",
        pattern_length: 81,
        check: |text| unless(is_datetime(text), "invalid datetime"),
    },
];

fn unless(fits: bool, problem: &str) -> Vec<String> {
    if fits { Vec::new() } else { vec![problem.to_owned()] }
}

fn is_uuid(text: &str) -> bool {
    let digits = text.bytes().filter(u8::is_ascii_hexdigit).count();
    let dashes = text.len() == 36 && [8, 13, 18, 23].iter().all(|at| text.as_bytes()[*at] == b'-');
    digits == 32 && (dashes || text.len() == 32)
}

fn is_base64(text: &str) -> bool {
    STANDARD.decode(text).is_ok()
}

fn is_datetime(text: &str) -> bool {
    crate::time::parse_date_time(text).is_some()
}

fn one<'a>(index: usize) -> Outcome<'a> {
    FORMATS.get(index).map_or_else(no_overload, |format| Ok(Value::opaque(Opaque::Format(format))))
}

fn named<'a>(of: &[Value<'a>]) -> Outcome<'a> {
    let name = text(of, 0)?;
    match FORMATS.iter().position(|format| format.name == name) {
        Some(index) => one(index).map(Value::some),
        None => Ok(Value::Optional(None)),
    }
}

fn validate<'a>(of: &[Value<'a>]) -> Outcome<'a> {
    let Opaque::Format(format) = opaque(of, 0)? else { return no_overload() };
    let problems = (format.check)(text(of, 1)?);
    if problems.is_empty() {
        return Ok(Value::Optional(None));
    }
    Ok(Value::some(Value::list(problems.into_iter().map(Value::text).collect())))
}
