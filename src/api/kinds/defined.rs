//! Rows of custom resources: they come and go while the server runs, but a row is `&'static` like those
//! of the table.
//!
//! Rows are kept for the life of the process and found again by what they say, since definitions with
//! the same names come again: operators are upgraded and tests repeat themselves. A row takes some
//! hundred bytes, and how many there may be is bounded ([`MOST_ROWS`]).

use super::columns::{Column, Printed};
use super::row::{Kind, SCALE, STATUS, kind};
use crate::custom::{Definition, Version};
use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, PoisonError};

/// How many different rows a process serves in its life: at a kilobyte each, as much as one large list.
pub const MOST_ROWS: usize = 20_000;

static ROWS: LazyLock<Mutex<HashMap<String, &'static Kind>>> = LazyLock::new(Mutex::default);

/// The rows of the versions that a definition serves, in its order; the storage version's even where that
/// is not served is the form in which objects are stored. None once there are too many rows.
pub fn rows(definition: &Definition) -> Vec<&'static Kind> {
    let Some(storage) = definition.storage() else { return Vec::new() };
    let Some(hub) = row(definition, storage, None) else { return Vec::new() };
    let served = definition.versions.iter().filter(|version| version.served);
    let all =
        served.map(|version| if version.storage { Some(hub) } else { row(definition, version, Some(hub)) });
    all.collect::<Option<_>>().unwrap_or_default()
}

/// The row that says this of a version; made if there is none.
fn row(definition: &Definition, version: &Version, hub: Option<&'static Kind>) -> Option<&'static Kind> {
    let said = format!(
        "{:?}",
        (
            (&definition.group, &definition.names, definition.namespaced, &version.name),
            (version.has_status, version.scale.is_some(), hub.map(std::ptr::from_ref)),
            (version.columns.iter().map(Printed::said).collect::<Vec<_>>(), &version.selectable_fields),
        )
    );
    let mut rows = ROWS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = rows.get(&said) {
        return Some(known);
    }
    if rows.len() >= MOST_ROWS {
        return None;
    }
    let mut made = made(definition, version);
    made.hub = hub;
    let made: &'static Kind = Box::leak(Box::new(made));
    rows.insert(said, made);
    Some(made)
}

fn made(definition: &Definition, version: &Version) -> Kind {
    let names = &definition.names;
    let row = kind(leak(&definition.group), leak(&version.name), leak(&names.kind), leak(&names.plural))
        .singular_name(leak(&names.singular))
        .lists(leak(&names.list_kind))
        .short(leak_all(&names.short_names))
        .categories(leak_all(&names.categories))
        .fields(leak_all(&version.selectable_fields))
        .columns(Column::printed(&version.columns).leak())
        .versioned()
        .subresources(match (version.has_status, version.scale.is_some()) {
            (false, false) => &[],
            (true, false) => &[STATUS],
            (false, true) => &[SCALE],
            (true, true) => &[SCALE, STATUS],
        });
    if definition.namespaced { row.namespaced() } else { row }
}

fn leak(text: &str) -> &'static str {
    text.to_owned().leak()
}

fn leak_all(texts: &[String]) -> &'static [&'static str] {
    texts.iter().map(|text| leak(text)).collect::<Vec<_>>().leak()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn rows_of_definitions_are_made_once() {
        let definition = json!({"spec": {"group": "example.com", "scope": "Namespaced",
            "names": {"plural": "wheels", "singular": "wheel", "kind": "Wheel", "listKind": "Wheels",
                "shortNames": ["wh"], "categories": ["all", "cars"]},
            "versions": [
                {"name": "v1", "served": true, "storage": true, "subresources": {"status": {}},
                    "selectableFields": [{"jsonPath": ".spec.size"}]},
                {"name": "v1beta1", "served": true, "storage": false},
                {"name": "v1alpha1", "served": false, "storage": false}]}});
        let definition = Definition::of(&definition).unwrap();
        let all = rows(&definition);
        let again = rows(&definition.clone());
        assert_eq!(all.iter().map(|row| row.version).collect::<Vec<_>>(), ["v1", "v1beta1"]);
        assert!(all.iter().zip(&again).all(|(one, other)| std::ptr::eq(*one, *other)));
        let [stored, other] = all[..] else { panic!() };
        assert!(stored.stored_as().is_none() && std::ptr::eq(other.stored_as().unwrap(), stored));
        assert_eq!((stored.list_kind().as_str(), stored.singular().as_str()), ("Wheels", "wheel"));
        assert_eq!(stored.categories, ["all", "cars"]);
        assert_eq!(stored.selectable_fields, ["spec.size"]);
        assert!(stored.subresource("status").is_some() && other.subresource("status").is_none());
        assert_eq!(stored.storage_key("a", "b"), "wheels.example.com/a/b");
        assert_eq!(stored.columns.iter().map(|column| column.name).collect::<Vec<_>>(), ["Name", "Age"]);
    }
}
