//! Field errors in Kubernetes' words, and the checks that many kinds share: names, labels, quantities.
//!
//! Rules walk an object with a cursor ([`At`]) that knows where it is; only an error that is reported
//! writes its path down.

mod at;
mod format;
mod go;
mod layout;
mod meta;

pub use at::{At, Sink, check};
pub use format::*;
pub use go::{
    go_escaped, go_float, go_kind, go_literal, go_map, go_number_error, go_quoted, go_syntax, go_text,
    go_type,
};
pub use meta::{
    condition, conditions, label_name, label_selector, labels, object_meta, object_meta_update, selects,
    template_meta,
};

use go::shown;
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
    Invalid(String, String),
    IllTyped(String, String),
    Wrong(String),
    Duplicate(String, String),
    NotSupported(String, Vec<String>),
    Forbidden(String),
    TooLong(usize, &'static str),
    NotFound(String, String),
    TooMany(usize, usize),
    TooFew(usize, usize),
}

impl Error {
    /// The field must be there.
    pub fn required(path: &Path, detail: &str) -> Self {
        Self { path: path.clone(), problem: Problem::Required(detail.to_owned()) }
    }

    /// The value is wrong.
    pub fn invalid(path: &Path, value: impl Into<Value>, detail: impl Into<String>) -> Self {
        Self { path: path.clone(), problem: Problem::Invalid(shown(&value.into()), detail.into()) }
    }

    /// The value is of a wrong type.
    pub fn ill_typed(path: &Path, value: impl Into<Value>, detail: impl Into<String>) -> Self {
        Self { path: path.clone(), problem: Problem::IllTyped(shown(&value.into()), detail.into()) }
    }

    /// The value is wrong, but not worth repeating.
    pub fn wrong(path: &Path, detail: impl Into<String>) -> Self {
        Self { path: path.clone(), problem: Problem::Wrong(detail.into()) }
    }

    /// The value is there twice.
    pub fn duplicate(path: &Path, value: impl Into<Value>) -> Self {
        Self { path: path.clone(), problem: Problem::Duplicate(shown(&value.into()), String::new()) }
    }

    /// The value is none of those that exist.
    pub fn not_supported(path: &Path, value: impl Into<Value>, supported: &[&str]) -> Self {
        let supported = supported.iter().map(|one| (*one).to_owned()).collect();
        Self { path: path.clone(), problem: Problem::NotSupported(shown(&value.into()), supported) }
    }

    /// The field must not be set.
    pub fn forbidden(path: &Path, detail: impl Into<String>) -> Self {
        Self { path: path.clone(), problem: Problem::Forbidden(detail.into()) }
    }

    /// The text is longer than so many bytes.
    pub fn too_long(path: &Path, most: usize) -> Self {
        Self { path: path.clone(), problem: Problem::TooLong(most, "byte") }
    }

    /// The text is longer than so many characters.
    pub fn too_many_characters(path: &Path, most: usize) -> Self {
        Self { path: path.clone(), problem: Problem::TooLong(most, "character") }
    }

    /// It refers to something that is not there.
    pub fn not_found(path: &Path, value: impl Into<Value>) -> Self {
        Self { path: path.clone(), problem: Problem::NotFound(shown(&value.into()), String::new()) }
    }

    /// There are fewer items than needed.
    pub fn too_few(path: &Path, actual: usize, least: usize) -> Self {
        Self { path: path.clone(), problem: Problem::TooFew(actual, least) }
    }

    /// Adds words to a duplicate or to something that is not found.
    #[must_use]
    pub fn because(mut self, detail: impl Into<String>) -> Self {
        if let Problem::Duplicate(_, why) | Problem::NotFound(_, why) = &mut self.problem {
            *why = detail.into();
        }
        self
    }

    /// There are more items than allowed.
    pub fn too_many(path: &Path, actual: usize, most: usize) -> Self {
        Self { path: path.clone(), problem: Problem::TooMany(actual, most) }
    }

    /// The same error elsewhere.
    #[must_use]
    pub fn at(self, path: Path) -> Self {
        Self { path, ..self }
    }

    /// The same error about a value of one of Kubernetes' own types (such as
    /// `api.core.v1.SecurityContext`), which is shown with all its fields.
    #[must_use]
    pub fn of_type(mut self, value: &Value, name: &str) -> Self {
        if let Problem::Invalid(shown, _) | Problem::Duplicate(shown, _) | Problem::NotSupported(shown, _) =
            &mut self.problem
        {
            *shown = go::internal(value, name);
        }
        self
    }

    /// The field's path.
    pub fn field(&self) -> String {
        self.path.to_string()
    }

    /// `causes[].reason`.
    pub fn cause(&self) -> &'static str {
        match self.problem {
            Problem::Required(_) => "FieldValueRequired",
            Problem::Invalid(..) | Problem::Wrong(_) => "FieldValueInvalid",
            Problem::IllTyped(..) => "FieldValueTypeInvalid",
            Problem::Duplicate(..) => "FieldValueDuplicate",
            Problem::NotSupported(..) => "FieldValueNotSupported",
            Problem::Forbidden(_) => "FieldValueForbidden",
            Problem::TooLong(..) => "FieldValueTooLong",
            Problem::NotFound(..) => "FieldValueNotFound",
            Problem::TooMany(..) => "FieldValueTooMany",
            Problem::TooFew(..) => "FieldValueTooFew",
        }
    }

    /// The message without the path.
    pub fn body(&self) -> String {
        let with_detail =
            |head: String, detail: &str| if detail.is_empty() { head } else { format!("{head}: {detail}") };
        match &self.problem {
            Problem::Required(detail) => with_detail("Required value".to_owned(), detail),
            Problem::Invalid(value, detail) | Problem::IllTyped(value, detail) => {
                with_detail(format!("Invalid value: {value}"), detail)
            }
            Problem::Wrong(detail) => with_detail("Invalid value".to_owned(), detail),
            Problem::Duplicate(value, detail) => with_detail(format!("Duplicate value: {value}"), detail),
            Problem::NotSupported(value, supported) => {
                let quoted: Vec<String> = supported.iter().map(|one| go_quoted(one)).collect();
                format!("Unsupported value: {value}: supported values: {}", quoted.join(", "))
            }
            Problem::Forbidden(detail) => with_detail("Forbidden".to_owned(), detail),
            Problem::TooLong(most, unit) => {
                format!("Too long: may not be more than {most} {unit}{}", plural(*most))
            }
            Problem::NotFound(value, detail) => with_detail(format!("Not found: {value}"), detail),
            Problem::TooMany(actual, most) => {
                format!("Too many: {actual}: must have at most {most} item{}", plural(*most))
            }
            Problem::TooFew(actual, least) => {
                format!("Too few: {actual}: must have at least {least} item{}", plural(*least))
            }
        }
    }
}

fn plural(count: usize) -> &'static str {
    if count == 1 { "" } else { "s" }
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
}
