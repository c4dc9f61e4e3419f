//! Objects within objects (`x-kubernetes-embedded-resource`), and the root itself: their `metadata` is
//! that of every kind.

use super::structural::Structural;
use crate::schema::strict::Place;
use crate::schema::{TypeId, check, schema};
use crate::validate::{At, Error, Path, object_meta, path_segment, rfc1035_label};
use serde_json::{Map, Value};
use std::sync::LazyLock;

/// What is done with metadata of a wrong type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// It is an error: people write.
    Refused,
    /// It is dropped: what is read from the store was valid once.
    Dropped,
}

/// The type of `metadata`.
pub(super) fn meta_type() -> TypeId {
    static ID: LazyLock<TypeId> = LazyLock::new(|| {
        let id = schema().by_name("apimachinery.pkg.apis.meta.v1.ObjectMeta");
        id.expect("the published schemas have ObjectMeta")
    });
    *ID
}

impl Structural {
    /// Brings the metadata of an object, and of the objects within it, into its form, and all numbers into
    /// theirs. Returns the paths of fields that metadata does not have, which are removed; or what is of a
    /// wrong type.
    pub fn coerce(&self, object: &mut Value, malformed: Malformed) -> Result<Vec<String>, Error> {
        let mut unknown = Vec::new();
        coerce(object, self, true, &Place::Root, &mut Coercion { malformed, unknown: &mut unknown })?;
        super::numbers::settle(object);
        unknown.sort();
        Ok(unknown)
    }

    /// Checks the objects within an object; the root's metadata is checked as that of every kind.
    pub fn validate_embedded(&self, at: &At) {
        embedded(at, self, false);
    }

    /// Likewise for a part of an object that may be an object itself.
    pub(super) fn validate_part(&self, at: &At) {
        embedded(at, self, self.embedded);
    }
}

impl Structural {
    /// Likewise for the schema of a whole object.
    pub(super) fn validate_object(&self, at: &At) {
        embedded(at, self, true);
    }
}

pub(super) struct Coercion<'a> {
    pub(super) malformed: Malformed,
    pub(super) unknown: &'a mut Vec<String>,
}

type Outcome = Result<(), Error>;

pub(super) fn coerce(
    value: &mut Value,
    schema: &Structural,
    embedded: bool,
    place: &Place,
    how: &mut Coercion<'_>,
) -> Outcome {
    match value {
        Value::Object(fields) => {
            if embedded {
                coerce_own(fields, place, how)?;
            }
            for (name, value) in fields {
                if let Some(inner) = schema.field(name) {
                    coerce(value, inner, inner.embedded, &Place::Field(place, name), how)?;
                }
            }
        }
        Value::Array(items) => {
            let Some(inner) = schema.items() else { return Ok(()) };
            for (index, item) in items.iter_mut().enumerate() {
                coerce(item, inner, inner.embedded, &Place::Item(place, index), how)?;
            }
        }
        _ => {}
    }
    Ok(())
}

/// `apiVersion`, `kind` and `metadata` of one object.
fn coerce_own(fields: &mut Map<String, Value>, place: &Place, how: &mut Coercion<'_>) -> Outcome {
    let error = |name: &str, value: &Value, why: String| {
        let path = Path::new(&Place::Field(place, name).to_string());
        Error::invalid(&path, value.clone(), why)
    };
    for name in ["apiVersion", "kind"] {
        match (fields.get(name), how.malformed) {
            (None | Some(Value::String(_)), _) => {}
            (Some(_), Malformed::Dropped) => drop(fields.remove(name)),
            (Some(value), Malformed::Refused) => {
                return Err(error(name, value, "must be a string".to_owned()));
            }
        }
    }
    let Some(meta) = fields.get_mut("metadata") else { return Ok(()) };
    let given = meta.clone();
    let mut findings = check(meta, meta_type());
    if let Some(why) = findings.ill_typed {
        if how.malformed == Malformed::Refused {
            return Err(error("metadata", &given, why));
        }
        let Value::Object(parts) = given else { return Ok(()) };
        let mut whole = Map::new();
        findings.unknown.clear();
        for (name, part) in parts {
            let mut one = Value::Object(Map::from_iter([(name, part)]));
            let found = check(&mut one, meta_type());
            if let (None, Value::Object(one)) = (found.ill_typed, one) {
                whole.extend(one);
                findings.unknown.extend(found.unknown);
            }
        }
        *meta = Value::Object(whole);
    }
    let here = Place::Field(place, "metadata");
    how.unknown.extend(findings.unknown.iter().map(|name| Place::Field(&here, name).to_string()));
    Ok(())
}

fn embedded(at: &At, schema: &Structural, is_object: bool) {
    if is_object && at.value().is_object() {
        object(at);
    }
    at.entries(|name, _| {
        if let Some(inner) = schema.property(name) {
            embedded(&at.field(name), inner, inner.embedded);
        } else if let Some(inner) = schema.extra() {
            embedded(&at.key(name), inner, inner.embedded);
        }
    });
    if let Some(inner) = schema.items() {
        at.each(|item| embedded(item, inner, inner.embedded));
    }
}

fn object(at: &At) {
    for field in ["apiVersion", "kind"] {
        let field = at.field(field);
        match field.value() {
            Value::Null => field.required(""),
            Value::String(text) if text.is_empty() => field.invalid("must not be empty"),
            Value::String(_) => {}
            _ => field.invalid("must be a string"),
        }
    }
    let version = at.field("apiVersion");
    if version.text().matches('/').count() > 1 {
        version.invalid(format!("unexpected GroupVersion string: {}", version.text()));
    }
    let kind = at.field("kind");
    let problems = rfc1035_label(&kind.text().to_ascii_lowercase());
    if !kind.text().is_empty() && !problems.is_empty() {
        kind.invalid(format!("may have mixed case, but should otherwise match: {}", problems.join(",")));
    }
    let meta = at.field("metadata");
    let mut copy = meta.value().clone();
    if let Some(why) = check(&mut copy, meta_type()).ill_typed.filter(|_| meta.present()) {
        return meta.invalid(why);
    }
    if meta.present() {
        // A name is not needed here.
        if meta.get("name").empty() {
            copy["name"] = Value::from("fakename");
        }
        let namespaced = !meta.get("namespace").empty();
        meta.on_copy(&copy, |meta| object_meta(meta, namespaced, path_segment));
    }
}
