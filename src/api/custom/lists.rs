//! Lists whose items are told apart (`x-kubernetes-list-type`).

use super::structural::{List, Structural};
use crate::validate::{At, Error, check};
use serde_json::{Map, Value};
use std::collections::HashMap;

impl Structural {
    /// What is there twice in lists whose items have to differ.
    pub fn list_types(&self, object: &Value) -> Vec<Error> {
        check(object, |at| walk(at, self))
    }
}

fn walk(at: &At, schema: &Structural) {
    match at.value() {
        Value::Object(_) => at.entries(|name, _| {
            if let Some(inner) = schema.extra() {
                walk(&at.key(name), inner);
            }
            if let Some(inner) = schema.property(name) {
                walk(&at.field(name), inner);
            }
        }),
        Value::Array(items) => {
            match &schema.list {
                List::Atomic => {}
                List::Set => repeated(items.iter().collect(), |index| at.index(index).duplicate()),
                List::Map(keys) => keyed(at, items, keys),
            }
            if let Some(inner) = schema.items() {
                at.each(|item| walk(item, inner));
            }
        }
        _ => {}
    }
}

fn keyed(at: &At, items: &[Value], keys: &[Box<str>]) {
    if let Some(wrong) = items.iter().position(|item| !item.is_object() && !item.is_null()) {
        return at.index(wrong).invalid("must be an object for an array of list-type map");
    }
    let keys: Vec<Value> = items.iter().map(|item| key_of(item, keys)).collect();
    repeated(keys.iter().collect(), |index| {
        at.index(index).report(|path| Error::duplicate(path, keys[index].clone()));
    });
}

/// The fields of an item that tell it from others, as far as it has them.
pub(super) fn key_of(item: &Value, keys: &[Box<str>]) -> Value {
    let own = keys.iter().filter_map(|key| Some(((**key).to_owned(), item.get(&**key)?.clone())));
    Value::Object(own.collect::<Map<_, _>>())
}

/// Tells the places of values that were there before, the first repetition of each.
fn repeated(values: Vec<&Value>, mut tell: impl FnMut(usize)) {
    let mut seen: HashMap<String, usize> = HashMap::with_capacity(values.len());
    for (index, value) in values.into_iter().enumerate() {
        let times = seen.entry(value.to_string()).or_default();
        *times += 1;
        if *times == 2 {
            tell(index);
        }
    }
}
