//! Brings an object into the form that its schema describes: fields that the schema does not have are
//! removed, nulls where none may be vanish, and what is not said takes its default value.

use super::structural::{Additional, Structural};
use crate::schema::strict::Place;
use serde_json::{Map, Value};

/// Fields that every object has, whatever its schema says.
pub(super) const META: [&str; 3] = ["apiVersion", "kind", "metadata"];

impl Structural {
    /// Removes what the schema does not have from an object. Returns the paths of what was unknown.
    pub fn prune(&self, object: &mut Value) -> Vec<String> {
        let mut unknown = Vec::new();
        prune(object, Some(self), true, &Place::Root, &mut unknown);
        unknown.sort();
        unknown
    }

    /// Removes nulls of fields that may not be null and have no default.
    pub fn drop_nulls(&self, object: &mut Value) {
        drop_nulls(object, Some(self));
    }

    /// Removes what the schema does not have from a part of an object; says whether anything went.
    pub(super) fn prunes(&self, value: &mut Value) -> bool {
        let before = value.clone();
        prune(value, Some(self), self.embedded, &Place::Root, &mut Vec::new());
        *value != before
    }

    /// Gives the fields that an object does not have their default values.
    pub fn default(&self, object: &mut Value) {
        match object {
            Value::Object(fields) => self.default_fields(fields),
            Value::Array(items) => {
                if let Some(schema) = &self.items {
                    items.iter_mut().for_each(|item| schema.default_value(item));
                }
            }
            _ => {}
        }
    }

    fn default_fields(&self, fields: &mut Map<String, Value>) {
        for (name, schema) in self.properties() {
            let Some(default) = &schema.default else { continue };
            if fields.get(name).is_none_or(|value| value.is_null() && !schema.nullable) {
                fields.insert(name.to_owned(), (**default).clone());
            }
        }
        for (name, value) in fields {
            match (self.property(name), self.extra()) {
                (Some(schema), _) => schema.default(value),
                (None, Some(schema)) => schema.default_value(value),
                (None, None) => {}
            }
        }
    }

    /// A null that may not be one becomes the default, here also where that is null.
    fn default_value(&self, value: &mut Value) {
        if let (Value::Null, false, Some(default)) = (&*value, self.nullable, &self.default) {
            *value = (**default).clone();
        }
        self.default(value);
    }
}

/// What is pruned, where it stands, and the paths of what was unknown.
fn prune(
    value: &mut Value,
    schema: Option<&Structural>,
    embedded: bool,
    place: &Place,
    unknown: &mut Vec<String>,
) {
    if let Some(schema) = schema.filter(|schema| schema.preserves) {
        return keep(value, schema, embedded, place, unknown);
    }
    match value {
        Value::Object(fields) => fields.retain(|name, value| {
            let is_meta = META.contains(&name.as_str());
            let here = Place::Field(place, name);
            if embedded && is_meta {
                return true;
            }
            if let Some(inner) = known(schema, name) {
                prune(value, inner, is_embedded(inner), &here, unknown);
                return true;
            }
            if !is_meta || !matches!(place, Place::Root) {
                unknown.push(here.to_string());
            }
            false
        }),
        Value::Array(items) => {
            let inner = schema.and_then(Structural::items);
            for (index, item) in items.iter_mut().enumerate() {
                prune(item, inner, is_embedded(inner), &Place::Item(place, index), unknown);
            }
        }
        _ => {}
    }
}

/// Below what keeps unknown fields, only fields that the schema names are pruned again.
fn keep(value: &mut Value, schema: &Structural, embedded: bool, place: &Place, unknown: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in
                fields.iter_mut().filter(|(name, _)| !embedded || !META.contains(&name.as_str()))
            {
                if let Some(inner) = known(Some(schema), name) {
                    prune(value, inner, is_embedded(inner), &Place::Field(place, name), unknown);
                }
            }
        }
        Value::Array(items) => {
            let Some(inner) = schema.items() else { return };
            for (index, item) in items.iter_mut().enumerate() {
                keep(item, inner, inner.embedded, &Place::Item(place, index), unknown);
            }
        }
        _ => {}
    }
}

/// What is known of a field: its schema if it has one; `None` if there is no such field.
fn known<'s>(schema: Option<&'s Structural>, name: &str) -> Option<Option<&'s Structural>> {
    let schema = schema?;
    match (schema.field(name), &schema.additional) {
        (None, Additional::Unsaid) => None,
        (inner, _) => Some(inner),
    }
}

fn is_embedded(schema: Option<&Structural>) -> bool {
    schema.is_some_and(|schema| schema.embedded)
}

fn drop_nulls(value: &mut Value, schema: Option<&Structural>) {
    match value {
        Value::Object(fields) => fields.retain(|name, value| {
            let schema = schema.and_then(|schema| schema.field(name));
            let gone = schema.is_some_and(|schema| !schema.nullable && schema.default.is_none());
            if value.is_null() && gone {
                return false;
            }
            drop_nulls(value, schema);
            true
        }),
        Value::Array(items) => {
            let schema = schema.and_then(Structural::items);
            items.iter_mut().for_each(|item| drop_nulls(item, schema));
        }
        _ => {}
    }
}
