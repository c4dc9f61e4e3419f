//! Checks of values that many kinds have.

use super::Errors;
use api::quantity;
use api::validate::{Error, Path};
use serde_json::Value;

/// A port number.
pub(super) fn port(value: &Value, path: &Path, errors: &mut Errors) {
    let number = value.as_i64().unwrap_or(0);
    if !(1..=65535).contains(&number) {
        errors.push(Error::invalid(path, value.clone(), "must be between 1 and 65535, inclusive"));
    }
}

/// A port by number or name.
pub(super) fn port_or_name(value: &Value, path: &Path, errors: &mut Errors) {
    match value {
        Value::String(name) => {
            errors.extend(
                port_name(name).into_iter().map(|problem| Error::invalid(path, name.as_str(), problem)),
            );
        }
        number => port(number, path, errors),
    }
}

/// What is wrong with the name of a port (an IANA service name).
pub(super) fn port_name(name: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if name.len() > 15 {
        problems.push("must be no more than 15 characters".to_owned());
    }
    if !name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') {
        problems.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned());
    }
    if !name.bytes().any(|b| b.is_ascii_lowercase()) {
        problems.push("must contain at least one letter (a-z)".to_owned());
    }
    if name.contains("--") {
        problems.push("must not contain consecutive hyphens".to_owned());
    }
    if name.starts_with('-') || name.ends_with('-') {
        problems.push("must not begin or end with a hyphen".to_owned());
    }
    problems
}

/// One of several words.
pub(super) fn one_of(value: &Value, path: &Path, supported: &[&str], errors: &mut Errors) {
    let word = value.as_str().unwrap_or_default();
    if !supported.contains(&word) {
        errors.push(Error::not_supported(path, word, supported));
    }
}

/// A number that must not be negative.
pub(super) fn not_negative(value: &Value, path: &Path, errors: &mut Errors) {
    if value.as_i64().is_some_and(|number| number < 0) {
        errors.push(Error::invalid(path, value.clone(), "must be greater than or equal to 0"));
    }
}

/// A number that has to be above zero.
pub(super) fn positive(value: &Value, path: &Path, errors: &mut Errors) {
    if value.as_i64().is_some_and(|number| number <= 0) {
        errors.push(Error::invalid(path, value.clone(), "must be greater than 0"));
    }
}

/// A map of resource names to quantities: well formed, and not negative.
pub(super) fn quantities(map: &Value, path: &Path, errors: &mut Errors) {
    for (name, value) in map.as_object().into_iter().flatten() {
        let path = path.key(name);
        let problems = api::validate::qualified_name(name);
        errors.extend(problems.into_iter().map(|problem| Error::invalid(&path, name.as_str(), problem)));
        match quantity::parse(value.as_str().unwrap_or_default()) {
            Err(error) => errors.push(Error::invalid(&path, value.clone(), error.to_string())),
            Ok(amount) if amount.is_negative() => {
                errors.push(Error::invalid(&path, value.clone(), "must be greater than or equal to 0"));
            }
            Ok(_) => {}
        }
    }
}

/// Puts quantities into their canonical form.
pub(super) fn canonical_quantities(map: &mut Value) {
    for (_, value) in map.as_object_mut().into_iter().flatten() {
        if let Some(text) = value.as_str().and_then(|text| quantity::canonical(text).ok()) {
            *value = Value::from(text);
        }
    }
}
