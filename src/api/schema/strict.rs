//! Reads JSON and notes what a strict reader refuses: fields that are given twice, and fields that the
//! type does not have, in the order in which they stand in the text.

use super::{Type, TypeId, schema};
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use std::cell::RefCell;
use std::fmt;

/// How much is noted of one body (Kubernetes' limit).
const NOTED: usize = 100;

/// What is known of the value that is read.
#[derive(Clone, Copy, Debug)]
pub enum Expected {
    /// Nothing: any field may be there once.
    Any,
    /// An object of this type; fields that it does not have are left out.
    Object(TypeId),
    /// The list of operations of a JSON patch.
    Patch,
}

/// Reads a text as a value. The second part are notes such as `duplicate field "spec.replicas"`.
pub fn read(text: &[u8], expected: Expected) -> serde_json::Result<(Value, Vec<String>)> {
    let notes = RefCell::default();
    let scope = match expected {
        Expected::Any => Scope::Any,
        Expected::Object(id) => Scope::of(id),
        Expected::Patch => Scope::Patch,
    };
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let value = Reader { scope, place: &Place::Root, notes: &notes }.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok((value, notes.into_inner()))
}

#[derive(Clone, Copy)]
enum Scope {
    Any,
    Typed(&'static Type),
    Object(TypeId),
    Patch,
    Operation,
}

/// The fields of one operation of a JSON patch (RFC 6902).
const OPERATION: [&str; 4] = ["op", "path", "from", "value"];

impl Scope {
    /// Types without published fields, such as a JSON schema, take any object.
    fn of(id: TypeId) -> Self {
        let def = schema().get(id);
        if def.fields.is_empty() && def.gvk.is_none() { Self::Any } else { Self::Object(id) }
    }

    fn typed(ty: &'static Type) -> Self {
        match ty {
            Type::Ref(id) => Self::of(*id),
            ty => Self::Typed(ty),
        }
    }

    fn item(self) -> Self {
        match self {
            Self::Typed(Type::List(item)) => Self::typed(item),
            Self::Patch => Self::Operation,
            _ => Self::Any,
        }
    }

    /// What is known of a field; `None` if there is no such field.
    fn field(self, name: &str) -> Option<Self> {
        match self {
            Self::Object(id) => schema().get(id).field(name).map(|field| Self::typed(&field.ty)),
            Self::Operation => OPERATION.contains(&name).then_some(Self::Any),
            Self::Typed(Type::Map(item)) => Some(Self::typed(item)),
            _ => Some(Self::Any),
        }
    }
}

/// Where a value stands; written out only for what is noted.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Place<'a> {
    /// The whole.
    Root,
    /// A field of what stands elsewhere.
    Field(&'a Place<'a>, &'a str),
    /// An item likewise.
    Item(&'a Place<'a>, usize),
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => Ok(()),
            Self::Field(Self::Root, name) => f.write_str(name),
            Self::Field(owner, name) => write!(f, "{owner}.{name}"),
            Self::Item(list, index) => write!(f, "{list}[{index}]"),
        }
    }
}

#[derive(Clone, Copy)]
struct Reader<'a> {
    scope: Scope,
    place: &'a Place<'a>,
    notes: &'a RefCell<Vec<String>>,
}

impl Reader<'_> {
    fn note(&self, what: &str, name: &str) {
        let note = format!("{what} field \"{}\"", Place::Field(self.place, name));
        let mut notes = self.notes.borrow_mut();
        if notes.len() < NOTED && !notes.contains(&note) {
            notes.push(note);
        }
    }
}

impl<'de> DeserializeSeed<'de> for Reader<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Reader<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any valid JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        loop {
            let place = Place::Item(self.place, items.len());
            let reader = Reader { scope: self.scope.item(), place: &place, ..self };
            match access.next_element_seed(reader)? {
                Some(item) => items.push(item),
                None => return Ok(Value::Array(items)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut fields = Map::new();
        while let Some(name) = access.next_key::<String>()? {
            let Some(scope) = self.scope.field(&name) else {
                self.note("unknown", &name);
                access.next_value::<IgnoredAny>()?;
                continue;
            };
            if fields.contains_key(&name) {
                self.note("duplicate", &name);
            }
            let place = Place::Field(self.place, &name);
            let value = access.next_value_seed(Reader { scope, place: &place, ..self })?;
            fields.insert(name, value);
        }
        Ok(Value::Object(fields))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::by_kind;
    use serde_json::json;

    #[test]
    fn notes_follow_the_text() {
        let ty = schema().of(by_kind("apps/v1", "Deployment").unwrap()).unwrap();
        let text = br#"{"metadata": {"name": "a", "name": "b", "unknownMeta": {"x": 1, "x": 2},
            "labels": {"l": "1", "l": "2"}},
            "spec": {"twice": 1, "twice": 2, "paused": true, "paused": false,
            "template": {"spec": {"containers": [{"nested": 1, "image": "x", "image": "y"}]}}}}"#;
        let (value, notes) = read(text, Expected::Object(ty)).unwrap();
        assert_eq!(
            notes,
            [
                "duplicate field \"metadata.name\"",
                "unknown field \"metadata.unknownMeta\"",
                "duplicate field \"metadata.labels.l\"",
                "unknown field \"spec.twice\"",
                "duplicate field \"spec.paused\"",
                "unknown field \"spec.template.spec.containers[0].nested\"",
                "duplicate field \"spec.template.spec.containers[0].image\"",
            ]
        );
        assert_eq!(value["metadata"], json!({"name": "b", "labels": {"l": "2"}}));
    }

    #[test]
    fn patches_are_read_strictly_too() {
        let text = br#"[{"op": "add", "path": "/a", "foo": 1}, {"op": "add", "path": "/b", "path": "/c"}]"#;
        let (_, notes) = read(text, Expected::Patch).unwrap();
        assert_eq!(notes, ["unknown field \"[0].foo\"", "duplicate field \"[1].path\""]);
        let (value, notes) = read(br#"{"a": {"b": 1, "b": null}}"#, Expected::Any).unwrap();
        assert_eq!((value, notes), (json!({"a": {"b": null}}), vec!["duplicate field \"a.b\"".to_owned()]));
        assert!(read(b"{} x", Expected::Any).is_err());
        assert!(read("[".repeat(10_000).as_bytes(), Expected::Any).is_err());
    }

    #[test]
    fn fractions_keep_their_last_digit() {
        let text = "51.248178375505404";
        assert_eq!(read(text.as_bytes(), Expected::Any).unwrap().0.to_string(), text);
    }
}
