//! The kinds whose objects there are: those of the table, and those that definitions add while the
//! controllers run.

use crate::common::Room;
use api::custom::{Conversion, Definition, Names, Version, row};
use api::kinds::{self, Kind};
use api::slim::CustomResourceDefinition;
use client::Cache;
use std::sync::Arc;

/// The kinds that definitions add.
#[derive(Clone)]
pub(crate) struct CustomKinds {
    pub(crate) definitions: Cache<CustomResourceDefinition>,
}

impl CustomKinds {
    pub(crate) fn new(room: &Room) -> Self {
        Self { definitions: room.caches.of() }
    }

    /// One kind for each place where objects are stored.
    pub(crate) fn all(&self) -> Vec<&'static Kind> {
        self.definitions.snapshot().iter().filter_map(|definition| kind_of(definition)).collect()
    }

    /// The kind of a group in the version that is served first, of the table or of a definition.
    pub(crate) fn by_group(&self, group: &str, kind: &str) -> Option<&'static Kind> {
        let own = kinds::KINDS.iter().find(|own| (own.group, own.kind) == (group, kind));
        own.or_else(|| kind_of(self.definition(group, kind)?.as_ref()))
    }

    fn definition(&self, group: &str, kind: &str) -> Option<Arc<CustomResourceDefinition>> {
        let of = |one: &CustomResourceDefinition| {
            *one.spec.group == *group && *one.status.accepted_names.kind == *kind
        };
        self.definitions.snapshot().iter().find(|one| of(one) && one.is("Established")).cloned()
    }

    /// The kind of an `apiVersion` and `kind`, of the table or of a definition.
    pub(crate) fn by_kind(&self, api_version: &str, kind: &str) -> Option<&'static Kind> {
        kinds::by_kind(api_version, kind).or_else(|| {
            let (group, version) = api_version.split_once('/')?;
            row_of(self.definition(group, kind)?.as_ref(), version)
        })
    }
}

/// The kind of a definition's objects in a version that is served, the stored one if it is; `None` if there
/// is none.
pub(crate) fn kind_of(definition: &CustomResourceDefinition) -> Option<&'static Kind> {
    let served = || definition.spec.versions.iter().filter(|version| version.served);
    let version = served().find(|version| version.storage).or_else(|| served().next())?;
    if definition.is("Established") { row_of(definition, &version.name) } else { None }
}

/// The row of a version, of which only what paths are made of is known here.
fn row_of(definition: &CustomResourceDefinition, version: &str) -> Option<&'static Kind> {
    let own = definition.spec.versions.iter().find(|own| *own.name == *version && own.served)?;
    let names = &definition.status.accepted_names;
    let version = Version {
        name: own.name.to_string(),
        served: own.served,
        storage: own.storage,
        deprecation: None,
        columns: Vec::new(),
        has_status: false,
        scale: None,
        selectable_fields: Vec::new(),
    };
    let definition = Definition {
        group: definition.spec.group.to_string(),
        names: Names {
            plural: names.plural.to_string(),
            singular: names.singular.to_string(),
            kind: names.kind.to_string(),
            list_kind: names.list_kind.to_string(),
            ..Names::default()
        },
        namespaced: &*definition.spec.scope == "Namespaced",
        preserve_unknown_fields: false,
        versions: Vec::new(),
        conversion: Conversion::None,
    };
    row(&definition, &version)
}
