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

/// The row of a definition's version; made if there is none. None once there are too many rows.
pub fn row(definition: &Definition, version: &Version) -> Option<&'static Kind> {
    let said = format!(
        "{:?}",
        (
            (&definition.group, &definition.names, definition.namespaced, &version.name),
            (version.has_status, version.scale.is_some(), &version.deprecation),
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
    let made: &'static Kind = Box::leak(Box::new(made(definition, version)));
    rows.insert(said, made);
    Some(made)
}

fn made(definition: &Definition, version: &Version) -> Kind {
    let names = &definition.names;
    let mut row = kind(leak(&definition.group), leak(&version.name), leak(&names.kind), leak(&names.plural))
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
    row.custom = true;
    let groups: Vec<&str> = definition.group.rsplit('.').collect();
    let name = format!("{}.{}.{}", groups.join("."), version.name, names.kind);
    row.types = [leak(&name), leak(&format!("{name}List"))];
    row.warning = version.deprecation.as_deref().map_or("", leak);
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
        let all: Vec<_> =
            definition.versions.iter().map(|version| row(&definition, version).unwrap()).collect();
        let again = row(&definition.clone(), &definition.versions[0]).unwrap();
        let [stored, other, _] = all[..] else { panic!() };
        assert!(std::ptr::eq(stored, again) && stored.custom && stored.stored_as().is_none());
        assert_eq!((stored.list_kind().as_str(), stored.singular().as_str()), ("Wheels", "wheel"));
        assert_eq!(stored.categories, ["all", "cars"]);
        assert_eq!(stored.selectable_fields, ["spec.size"]);
        assert!(stored.subresource("status").is_some() && other.subresource("status").is_none());
        assert_eq!(stored.storage_key("a", "b"), "wheels.example.com/a/b");
        assert_eq!(stored.columns.iter().map(|column| column.name).collect::<Vec<_>>(), ["Name", "Age"]);
    }
}
