//! What is kept beside an object's bytes: what selectors ask for, so that a LIST or watch decodes
//! nothing.

use crate::catalogue::Custom;
use api::kinds::{KINDS, Kind};
use api::selector::{Fields, Labels};
use serde_json::Value;
use std::collections::HashMap;
use std::sync::LazyLock;

/// The field that says which node an object is on.
pub(crate) const NODE: &str = "spec.nodeName";

pub(crate) type Record = store::Record<Index>;

/// Labels, selectable fields and identity of one object.
#[derive(Debug)]
pub(crate) struct Index {
    pub(crate) uid: Box<str>,
    labels: Box<[(Box<str>, Box<str>)]>,
    /// Values in the order of the kind's `selectable_fields`.
    fields: Box<[Box<str>]>,
    /// Where in them the node is that the object is on.
    node: Option<u8>,
    kind: Option<&'static Kind>,
}

impl store::Beside for Index {
    fn topic(&self) -> &str {
        self.node.map_or("", |place| &self.fields[usize::from(place)])
    }
}

/// The kind that a store key belongs to.
pub(crate) fn kind_of_key(key: &str) -> Option<&'static Kind> {
    static PREFIXES: LazyLock<HashMap<String, &'static Kind>> = LazyLock::new(|| {
        // Of the groups that share a store, the one that gives it its name says what is stored.
        let owners = KINDS.iter().filter(|kind| kind.stored() && kind.group == kind.storage_group);
        owners.map(|kind| (kind.storage_prefix(), kind)).collect()
    });
    let end = key.find('/')? + 1;
    PREFIXES.get(&key[..end]).copied()
}

/// The indexer the store calls when it reads the database.
pub(crate) fn index(key: &str, bytes: &[u8]) -> Index {
    let object = serde_json::from_slice(bytes).unwrap_or_default();
    Index::of(kind_of_key(key), &object)
}

fn boxed(text: &str) -> Box<str> {
    text.into()
}

impl Index {
    /// The index of an object.
    pub(crate) fn of(kind: Option<&'static Kind>, object: &Value) -> Self {
        let meta = &object["metadata"];
        let labels = meta["labels"].as_object().into_iter().flatten();
        let labels =
            labels.map(|(key, value)| (boxed(key), boxed(value.as_str().unwrap_or_default()))).collect();
        let names = kind.map_or(&[][..], |kind| kind.selectable_fields);
        let fields = names.iter().map(|path| field_text(object, path)).collect();
        let node = names.iter().position(|name| *name == NODE).and_then(|place| place.try_into().ok());
        Self { uid: boxed(meta["uid"].as_str().unwrap_or_default()), labels, fields, node, kind }
    }

    /// A label's value.
    pub(crate) fn label(&self, key: &str) -> Option<&str> {
        self.labels.iter().find(|(own, _)| **own == *key).map(|(_, value)| &**value)
    }

    /// A selectable field's value, or ""; of custom kinds nothing is known here.
    pub(crate) fn field(&self, path: &str) -> &str {
        let names = self.kind.map_or(&[][..], |kind| kind.selectable_fields);
        names.iter().position(|name| *name == path).map_or("", |place| &self.fields[place])
    }
}

/// A field as a field selector sees it: flags and numbers as text, flags that are absent as false.
fn field_text(object: &Value, path: &str) -> Box<str> {
    let value = path.split('.').fold(object, |value, part| &value[part]);
    match value {
        // Who an event is from: the older field, or the newer one.
        Value::Object(_) | Value::Null if path == "source" => {
            let component = value["component"].as_str().filter(|name| !name.is_empty());
            boxed(component.or(object["reportingComponent"].as_str()).unwrap_or_default())
        }
        Value::String(text) => boxed(text),
        Value::Null if matches!(path, "spec.unschedulable" | "spec.hostNetwork") => boxed("false"),
        Value::Null if matches!(path, "status.replicas" | "status.successful") => boxed("0"),
        Value::Null => boxed(""),
        other => boxed(&other.to_string()),
    }
}

/// Namespace and name in a store key.
pub(crate) fn place_of(record: &Record) -> (&str, &str) {
    let (_, place) = record.key.split_once('/').unwrap_or(("", &record.key));
    place.rsplit_once('/').unwrap_or(("", place))
}

/// What a list or watch is narrowed by.
#[derive(Clone, Debug, Default)]
pub(crate) struct Selection {
    pub(crate) labels: Labels,
    pub(crate) fields: Fields,
}

impl Selection {
    /// Whether a record is selected.
    pub(crate) fn matches(&self, record: &Record) -> bool {
        if !self.labels.matches_with(|key| record.index.label(key)) {
            return false;
        }
        let (namespace, name) = place_of(record);
        let custom = if record.index.kind.is_none() { self.custom_fields(record) } else { Vec::new() };
        self.fields.is_everything()
            || self.fields.matches_with(|field| match field {
                "metadata.name" => name,
                "metadata.namespace" => namespace,
                field => match custom.iter().find(|(path, _)| *path == field) {
                    Some((_, text)) => text,
                    None => record.index.field(field),
                },
            })
    }

    /// The fields of a custom object that are selected by. Definitions come and go, so that none are kept.
    fn custom_fields(&self, record: &Record) -> Vec<(&str, String)> {
        let mut own = self.fields.fields().filter(|path| !path.starts_with("metadata.")).peekable();
        if own.peek().is_none() {
            return Vec::new();
        }
        let object = super::read(record);
        let text = |path: &str| match path.split('.').fold(&object, |value, part| &value[part]) {
            Value::Null => String::new(),
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        own.map(|path| (path, text(path))).collect()
    }

    /// Whether the form of an object decides that a version shows, and not what is kept of the stored one.
    pub(crate) fn needs_form(&self, custom: &Custom) -> bool {
        let by_fields = self.fields.fields().any(|path| !path.starts_with("metadata."));
        by_fields || (custom.relabels() && !self.labels.is_everything())
    }

    pub(crate) fn is_everything(&self) -> bool {
        self.labels.is_everything() && self.fields.is_everything()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn keys_tell_their_kind() {
        assert_eq!(kind_of_key("pods/a/b").unwrap().kind, "Pod");
        assert_eq!(kind_of_key("deployments.apps/a/b").unwrap().kind, "Deployment");
        assert_eq!(kind_of_key("events/a/b").unwrap().group, "");
    }

    #[test]
    fn fields_are_texts() {
        let pod = json!({"metadata": {"uid": "u", "labels": {"a": "b"}}, "spec": {"nodeName": "n"}, "status": {"phase": "Running"}});
        let index = Index::of(kind_of_key("pods/x/y"), &pod);
        assert_eq!(
            (index.field("spec.nodeName"), index.field("status.phase"), index.field("spec.hostNetwork")),
            ("n", "Running", "false")
        );
        assert_eq!((index.label("a"), index.label("c")), (Some("b"), None));
    }
}
