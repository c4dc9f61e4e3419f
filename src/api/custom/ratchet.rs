//! What a value was before: parts of an object that did not change may go on breaking rules that came
//! after them (KEP-4008).

use super::lists::key_of;
use super::structural::{List, Structural};
use serde_json::Value;
use std::collections::HashMap;

/// A value and what it was, with the schema of both.
#[derive(Clone, Copy)]
pub(super) struct Before<'a> {
    schema: &'a Structural,
    new: &'a Value,
    old: &'a Value,
}

/// The old items of a list, by their keys.
pub(super) struct Items<'a> {
    schema: Option<&'a Structural>,
    keys: &'a [Box<str>],
    old: HashMap<String, &'a Value>,
}

impl<'a> Before<'a> {
    pub(super) fn new(schema: &'a Structural, new: &'a Value, old: &'a Value) -> Self {
        Self { schema, new, old }
    }

    /// A field that both have and that has a schema.
    pub(super) fn field(&self, name: &str) -> Option<Self> {
        Some(Self { schema: self.schema.field(name)?, new: self.new.get(name)?, old: self.old.get(name)? })
    }

    pub(super) fn items(&self) -> Items<'a> {
        let keys: &[Box<str>] = match &self.schema.list {
            List::Map(keys) => keys,
            _ => &[],
        };
        let mut old = HashMap::new();
        for item in self.old.as_array().into_iter().flatten().filter(|_| !keys.is_empty()) {
            old.entry(key_of(item, keys).to_string()).or_insert(item);
        }
        Items { schema: self.schema.items(), keys, old }
    }

    /// Both are the same. Items of lists are compared by their keys, in any order; what has no schema
    /// cannot be compared.
    pub(super) fn is_unchanged(&self) -> bool {
        match (self.new, self.old) {
            (Value::Array(new), Value::Array(old)) if new.len() == old.len() => {
                let items = self.items();
                if items.keys.is_empty() { new == old } else { new.iter().all(|item| items.unchanged(item)) }
            }
            (Value::Object(new), Value::Object(old)) if new.len() == old.len() => {
                new.keys().all(|name| self.field(name).is_some_and(|field| field.is_unchanged()))
            }
            (Value::Array(_) | Value::Object(_), _) => false,
            (new, old) => new == old,
        }
    }
}

impl<'a> Items<'a> {
    /// What the item with the keys of this one was.
    pub(super) fn item<'n>(&self, new: &'n Value) -> Option<Before<'n>>
    where
        'a: 'n,
    {
        let old: &'n Value = self.old.get(&key_of(new, self.keys).to_string())?;
        Some(Before { schema: self.schema?, new, old })
    }

    fn unchanged(&self, new: &Value) -> bool {
        self.item(new).is_some_and(|item| item.is_unchanged())
    }
}
