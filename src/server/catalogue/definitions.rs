//! Definitions as the server keeps them.

use crate::registry::{Index, Record, read};
use crate::rules::Rules;
use api::apply::{ShapeId, Shapes};
use api::custom::{Definition, Names, Structural, row, schema_of};
use api::kinds::Kind;
use serde_json::Value;
use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use store::Snapshot;
use tokio::sync::watch;

/// Where definitions are stored.
const PREFIX: &str = "customresourcedefinitions.apiextensions.k8s.io/";

/// A definition whose objects are served.
pub(super) struct Defined {
    record: Arc<Record>,
    generation: i64,
    pub(super) definition: Definition,
    /// Objects that were written after this revision are as the definition wants them.
    pub(super) since: u64,
    /// No new objects are made: the definition is being deleted.
    pub(super) terminating: bool,
    /// As many as there are versions.
    pub(super) versions: Vec<Of>,
    /// All versions have the same schema: what is written through one of them suits the others.
    pub(super) uniform: bool,
    /// The place of the version in which objects are stored.
    pub(super) storage: usize,
    /// True once the definition is gone: what it said and says later share this.
    pub(super) gone: Arc<watch::Sender<bool>>,
}

/// What is kept of a version.
pub(super) struct Of {
    pub(super) row: &'static Kind,
    /// How the bytes of objects of this version begin.
    pub(super) head: String,
    types: OnceLock<Types>,
}

/// What a version's schema says.
pub(super) struct Types {
    pub(super) schema: Structural,
    pub(super) shapes: (Shapes, ShapeId),
    pub(super) rules: Option<Rules>,
}

/// The definitions that are served; those that did not change are taken from `known`, and those that are no
/// longer there are told to be gone.
pub(super) fn all(
    snapshot: &Snapshot<Index>,
    known: &HashMap<String, Arc<Defined>>,
) -> HashMap<String, Arc<Defined>> {
    let one = |record: &Arc<Record>| {
        let name = record.key[PREFIX.len()..].to_owned();
        let before =
            known.get(&name).filter(|before| before.record.create_revision == record.create_revision);
        if let Some(same) = before.filter(|before| before.record.revision == record.revision) {
            return Some((name, same.clone()));
        }
        Defined::of(record, before.map(Arc::as_ref)).map(|defined| (name, Arc::new(defined)))
    };
    let all: HashMap<_, _> = snapshot.range(PREFIX, None).filter_map(one).collect();
    for (name, before) in known {
        if all.get(name).is_none_or(|now| !Arc::ptr_eq(&now.gone, &before.gone)) {
            before.gone.send_replace(true);
        }
    }
    all
}

impl Defined {
    /// Reads a definition; `before` is what it said before. `None` if it is not served.
    fn of(record: &Arc<Record>, before: Option<&Self>) -> Option<Self> {
        let object = read(record);
        let is = |of: &str| {
            let mut conditions = object["status"]["conditions"].as_array().into_iter().flatten();
            conditions.any(|one| one["type"] == of && one["status"] == "True")
        };
        if !is("Established") {
            return None;
        }
        let mut definition = Definition::of(&object)?;
        definition.names = Names::of(&object["status"]["acceptedNames"]);
        let of = |version| {
            let row = row(&definition, version)?;
            let head = format!("{{\"apiVersion\":\"{}\",", row.api_version());
            Some(Of { row, head, types: OnceLock::new() })
        };
        let versions = definition.versions.iter().map(of).collect::<Option<Vec<_>>>();
        if versions.is_none() {
            tracing::warn!(definition = &*record.key, "there are too many kinds; this one is not served");
        }
        let generation = object["metadata"]["generation"].as_i64().unwrap_or_default();
        let same = before.filter(|before| before.generation == generation);
        let storage = definition.versions.iter().position(|version| version.storage)?;
        let since = same.map_or(record.revision, |before| before.since);
        let gone = before.map_or_else(Arc::default, |before| before.gone.clone());
        let versions = versions?;
        let terminating = is("Terminating");
        let mut schemas = definition.versions.iter().map(|version| schema_of(&object, &version.name));
        let first = schemas.next();
        let uniform = schemas.all(|schema| Some(schema) == first);
        let record = record.clone();
        Some(Self { record, generation, definition, since, terminating, versions, uniform, storage, gone })
    }

    pub(super) fn revision(&self) -> u64 {
        self.record.revision
    }

    /// The places of the versions that are served.
    pub(super) fn served(&self) -> impl Iterator<Item = usize> {
        let versions = self.definition.versions.iter().enumerate();
        versions.filter(|(_, version)| version.served).map(|(at, _)| at)
    }

    /// What the schema of a version says, which is read when it is first needed: of most of the hundreds
    /// of definitions that an operator brings there is never an object.
    pub(super) fn types(&self, at: usize) -> &Types {
        self.versions[at].types.get_or_init(|| {
            let object = read(&self.record);
            let version = &self.definition.versions[at];
            let whole = schema_of(&object, &version.name);
            let schema = whole.map(Structural::of).and_then(Result::ok).unwrap_or_else(Structural::anything);
            let shapes = schema.shapes();
            Types { schema, shapes, rules: whole.and_then(Rules::of) }
        })
    }

    /// The schema of a version as the definition has it.
    pub(super) fn schema(&self, at: usize) -> Option<Value> {
        schema_of(&read(&self.record), &self.definition.versions[at].name).cloned()
    }
}
