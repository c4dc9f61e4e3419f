//! Field errors in Kubernetes' words, and the checks that many kinds share: names, labels, quantities.

use serde_json::Value;
use std::fmt;

/// A path into an object, such as `spec.containers[0].name`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Path(String);

impl Path {
    /// The root's field of this name.
    pub fn new(name: &str) -> Self {
        Self(name.to_owned())
    }

    /// A field below.
    #[must_use]
    pub fn child(&self, name: &str) -> Self {
        if self.0.is_empty() { Self::new(name) } else { Self(format!("{}.{name}", self.0)) }
    }

    /// An item of a list.
    #[must_use]
    pub fn index(&self, index: usize) -> Self {
        Self(format!("{}[{index}]", self.0))
    }

    /// An entry of a map.
    #[must_use]
    pub fn key(&self, key: &str) -> Self {
        Self(format!("{}[{key}]", self.0))
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What is wrong with a field.
#[derive(Clone, Debug, PartialEq)]
pub struct Error {
    path: Path,
    problem: Problem,
}

#[derive(Clone, Debug, PartialEq)]
enum Problem {
    Required(String),
    Invalid(Value, String),
    Duplicate(Value),
    NotSupported(Value, Vec<String>),
    Forbidden(String),
    TooLong(usize),
    NotFound(Value),
    TooMany(usize, usize),
}

impl Error {
    /// The field must be there.
    pub fn required(path: &Path, detail: &str) -> Self {
        Self { path: path.clone(), problem: Problem::Required(detail.to_owned()) }
    }

    /// The value is wrong.
    pub fn invalid(path: &Path, value: impl Into<Value>, detail: impl Into<String>) -> Self {
        Self { path: path.clone(), problem: Problem::Invalid(value.into(), detail.into()) }
    }

    /// The value is there twice.
    pub fn duplicate(path: &Path, value: impl Into<Value>) -> Self {
        Self { path: path.clone(), problem: Problem::Duplicate(value.into()) }
    }

    /// The value is none of those that exist.
    pub fn not_supported(path: &Path, value: impl Into<Value>, supported: &[&str]) -> Self {
        let supported = supported.iter().map(|one| (*one).to_owned()).collect();
        Self { path: path.clone(), problem: Problem::NotSupported(value.into(), supported) }
    }

    /// The field must not be set.
    pub fn forbidden(path: &Path, detail: impl Into<String>) -> Self {
        Self { path: path.clone(), problem: Problem::Forbidden(detail.into()) }
    }

    /// The text is longer than allowed.
    pub fn too_long(path: &Path, most: usize) -> Self {
        Self { path: path.clone(), problem: Problem::TooLong(most) }
    }

    /// It refers to something that is not there.
    pub fn not_found(path: &Path, value: impl Into<Value>) -> Self {
        Self { path: path.clone(), problem: Problem::NotFound(value.into()) }
    }

    /// There are more items than allowed.
    pub fn too_many(path: &Path, actual: usize, most: usize) -> Self {
        Self { path: path.clone(), problem: Problem::TooMany(actual, most) }
    }

    /// The field's path.
    pub fn field(&self) -> String {
        self.path.to_string()
    }

    /// `causes[].reason`.
    pub fn cause(&self) -> &'static str {
        match self.problem {
            Problem::Required(_) => "FieldValueRequired",
            Problem::Invalid(..) => "FieldValueInvalid",
            Problem::Duplicate(_) => "FieldValueDuplicate",
            Problem::NotSupported(..) => "FieldValueNotSupported",
            Problem::Forbidden(_) => "FieldValueForbidden",
            Problem::TooLong(_) => "FieldValueTooLong",
            Problem::NotFound(_) => "FieldValueNotFound",
            Problem::TooMany(..) => "FieldValueTooMany",
        }
    }

    /// The message without the path.
    pub fn body(&self) -> String {
        let with_detail =
            |head: String, detail: &str| if detail.is_empty() { head } else { format!("{head}: {detail}") };
        match &self.problem {
            Problem::Required(detail) => with_detail("Required value".to_owned(), detail),
            Problem::Invalid(value, detail) => {
                with_detail(format!("Invalid value: {}", shown(value)), detail)
            }
            Problem::Duplicate(value) => format!("Duplicate value: {}", shown(value)),
            Problem::NotSupported(value, supported) => {
                let quoted: Vec<String> = supported.iter().map(|one| format!("{one:?}")).collect();
                format!("Unsupported value: {}: supported values: {}", shown(value), quoted.join(", "))
            }
            Problem::Forbidden(detail) => with_detail("Forbidden".to_owned(), detail),
            Problem::TooLong(most) => format!("Too long: may not be more than {most} bytes"),
            Problem::NotFound(value) => format!("Not found: {}", shown(value)),
            Problem::TooMany(actual, most) => format!("Too many: {actual}: must have at most {most} items"),
        }
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        other => other.to_string(),
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.body())
    }
}

/// Several errors as one text, as Kubernetes joins them.
pub fn aggregate(errors: &[Error]) -> String {
    let mut texts: Vec<String> = Vec::new();
    for error in errors {
        let text = error.to_string();
        if !texts.contains(&text) {
            texts.push(text);
        }
    }
    match texts.as_slice() {
        [one] => one.clone(),
        all => format!("[{}]", all.join(", ")),
    }
}

const LABEL_RULE: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const SUBDOMAIN_RULE: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const RFC1035_RULE: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
const QUALIFIED_RULE: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const VALUE_RULE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";

fn is_label(text: &str) -> bool {
    let bytes = text.as_bytes();
    let inner = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-';
    !bytes.is_empty() && bytes.iter().all(inner) && bytes[0] != b'-' && bytes[bytes.len() - 1] != b'-'
}

fn is_name_part(text: &str) -> bool {
    let bytes = text.as_bytes();
    let inner = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let ends = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    bytes.iter().all(inner) && ends(bytes.first()) && ends(bytes.last())
}

fn limited(text: &str, most: usize) -> Option<String> {
    (text.len() > most).then(|| format!("must be no more than {most} characters"))
}

fn problems(long: Option<String>, fits: bool, rule: &str) -> Vec<String> {
    long.into_iter().chain((!fits).then(|| rule.to_owned())).collect()
}

/// What is wrong with an RFC 1123 label (names of containers, ports, namespaces).
pub fn dns_label(text: &str) -> Vec<String> {
    problems(limited(text, 63), is_label(text), LABEL_RULE)
}

/// What is wrong with an RFC 1123 subdomain (names of most objects).
pub fn dns_subdomain(text: &str) -> Vec<String> {
    problems(limited(text, 253), text.split('.').all(is_label), SUBDOMAIN_RULE)
}

/// What is wrong with an RFC 1035 label (names of services).
pub fn rfc1035_label(text: &str) -> Vec<String> {
    let starts = text.as_bytes().first().is_some_and(u8::is_ascii_lowercase);
    problems(limited(text, 63), starts && is_label(text), RFC1035_RULE)
}

/// What is wrong with a path segment name (names of RBAC objects).
pub fn path_segment(text: &str) -> Vec<String> {
    match text {
        "." | ".." => vec![format!("may not be '{text}'")],
        _ => ['/', '%']
            .iter()
            .filter(|c| text.contains(**c))
            .map(|c| format!("may not contain '{c}'"))
            .collect(),
    }
}

/// What is wrong with a qualified name (`prefix/name`: label keys, annotation keys, resource names).
pub fn qualified_name(text: &str) -> Vec<String> {
    let (prefix, name) = match text.split_once('/') {
        Some((_, rest)) if rest.contains('/') => {
            return vec!["a qualified name must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]') with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')".to_owned()];
        }
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, text),
    };
    let mut found = Vec::new();
    match prefix {
        Some("") => found.push("prefix part must be non-empty".to_owned()),
        Some(prefix) => {
            found.extend(dns_subdomain(prefix).into_iter().map(|problem| format!("prefix part {problem}")))
        }
        None => {}
    }
    if name.is_empty() {
        found.push("name part must be non-empty".to_owned());
    } else if let Some(long) = limited(name, 63) {
        found.push(format!("name part {long}"));
    }
    if !is_name_part(name) {
        found.push(QUALIFIED_RULE.to_owned());
    }
    found
}

/// What is wrong with a label's value.
pub fn label_value(text: &str) -> Vec<String> {
    problems(limited(text, 63), text.is_empty() || is_name_part(text), VALUE_RULE)
}

/// The most bytes all annotations of an object may have together.
const ANNOTATION_BYTES: usize = 256 << 10;

/// Checks a map of labels.
pub fn labels(labels: &Value, path: &Path, errors: &mut Vec<Error>) {
    for (key, value) in labels.as_object().into_iter().flatten() {
        errors.extend(
            qualified_name(key).into_iter().map(|problem| Error::invalid(path, key.as_str(), problem)),
        );
        let value = value.as_str().unwrap_or_default();
        errors.extend(label_value(value).into_iter().map(|problem| Error::invalid(path, value, problem)));
    }
}

/// Checks a map of annotations.
pub fn annotations(annotations: &Value, path: &Path, errors: &mut Vec<Error>) {
    let mut size = 0;
    for (key, value) in annotations.as_object().into_iter().flatten() {
        let problems = qualified_name(&key.to_ascii_lowercase());
        errors.extend(problems.into_iter().map(|problem| Error::invalid(path, key.as_str(), problem)));
        size += key.len() + value.as_str().map_or(0, str::len);
    }
    if size > ANNOTATION_BYTES {
        errors.push(Error::too_long(path, ANNOTATION_BYTES));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_read_as_kubernetes_writes_them() {
        let path = Path::new("spec").child("containers").index(0).child("name");
        assert_eq!(Error::required(&path, "").to_string(), "spec.containers[0].name: Required value");
        let supported = Error::not_supported(
            &Path::new("spec").child("restartPolicy"),
            "Sometimes",
            &["Always", "Never"],
        );
        assert_eq!(
            supported.to_string(),
            r#"spec.restartPolicy: Unsupported value: "Sometimes": supported values: "Always", "Never""#
        );
        let both = [Error::required(&path, "x"), Error::forbidden(&path, "")];
        assert_eq!(
            aggregate(&both),
            "[spec.containers[0].name: Required value: x, spec.containers[0].name: Forbidden]"
        );
    }

    #[test]
    fn names_are_checked_by_their_rules() {
        assert!(dns_subdomain("a.b-c.d1").is_empty());
        for bad in ["", "A", "a_b", "-a", "a-", "a..b", ".a"] {
            assert_eq!(dns_subdomain(bad), [SUBDOMAIN_RULE], "{bad:?}");
        }
        assert_eq!(dns_label(&"a".repeat(64)), ["must be no more than 63 characters"]);
        assert!(rfc1035_label("1a") == [RFC1035_RULE]);
        assert!(qualified_name("example.com/My_Name").is_empty());
        assert_eq!(qualified_name("/x"), ["prefix part must be non-empty"]);
        assert!(!label_value("a b").is_empty());
    }
}
