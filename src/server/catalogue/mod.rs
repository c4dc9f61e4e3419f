//! The kinds that are served: those of the table, and those that definitions of custom resources add
//! while the server runs.
//!
//! What definitions say is compiled when it is first asked for after one of them changed; a definition
//! that did not change is taken over, and its schemas are read when the first object needs them.

mod converter;
mod custom;
mod definitions;

pub(crate) use custom::Custom;

use crate::registry::{Followed, Records};
use api::kinds::{self, Kind};
use api::status::Refusal;
use arc_swap::ArcSwap;
use converter::Converters;
use definitions::Defined;
use serde_json::Value;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// Group, version and resource of a kind.
type Name = (&'static str, &'static str, &'static str);

/// The kinds that are served.
#[derive(Clone, Copy)]
pub(crate) struct Catalogue<'a> {
    pub(crate) records: &'a Records,
    pub(crate) compiled: &'a Compiled,
}

/// What definitions said when they were last asked.
#[derive(Default)]
pub(crate) struct Compiled {
    added: ArcSwap<Added>,
    /// Held by who compiles anew: it is done once, however many ask.
    making: Mutex<()>,
    converters: OnceLock<Arc<Converters>>,
}

/// What definitions add.
#[derive(Default)]
pub(crate) struct Added {
    /// The last change of a definition that is in here; `None` before anything was compiled.
    revision: Option<u64>,
    definitions: HashMap<String, Arc<Defined>>,
    customs: Vec<Custom>,
    by_resource: HashMap<Name, usize>,
}

/// A kind, with what a definition says of it.
#[derive(Clone, Copy)]
pub(crate) struct Subject<'a> {
    pub(crate) kind: &'static Kind,
    pub(crate) custom: Option<&'a Custom>,
}

impl Subject<'_> {
    /// A kind of the table.
    pub(crate) fn of(kind: &'static Kind) -> Self {
        Self { kind, custom: None }
    }

    /// Brings an object that others changed into the form of a custom kind's schema again.
    pub(crate) fn shape(self, object: &mut Value) -> Result<(), Refusal> {
        let found = self.custom.and_then(|custom| custom.shape(object).ill_typed);
        found.map_or(Ok(()), |why| Err(Refusal::internal(why)))
    }
}

impl Added {
    /// The custom kinds by group, resource and version, the preferred version first.
    pub(crate) fn customs(&self) -> &[Custom] {
        &self.customs
    }

    /// Tells this state from others.
    pub(crate) fn revision(&self) -> u64 {
        self.revision.unwrap_or_default()
    }

    fn new(revision: u64, definitions: HashMap<String, Arc<Defined>>, converters: &Arc<Converters>) -> Self {
        let all = definitions.values().flat_map(|defined| Custom::all(defined, converters));
        let mut customs: Vec<Custom> = all.collect();
        customs.sort_by_cached_key(Custom::order);
        let name = |custom: &Custom| (custom.kind.group, custom.kind.version, custom.kind.plural);
        let by_resource = customs.iter().enumerate().map(|(at, custom)| (name(custom), at)).collect();
        Self { revision: Some(revision), definitions, customs, by_resource }
    }
}

impl Catalogue<'_> {
    /// What definitions add, as of now.
    pub(crate) fn added(self) -> Arc<Added> {
        let Self { records, compiled: Compiled { added, making, converters } } = self;
        let changed = || records.changed(Followed::Definitions);
        let now = added.load_full();
        if now.revision == Some(changed()) {
            return now;
        }
        let _only = making.lock().unwrap_or_else(PoisonError::into_inner);
        let (now, revision) = (added.load_full(), changed());
        if now.revision == Some(revision) {
            return now;
        }
        let converters = converters.get_or_init(|| Arc::new(Converters::new(records.without_definitions())));
        let all = definitions::all(&records.snapshot(), &now.definitions);
        let fresh = Arc::new(Added::new(revision, all, converters));
        added.store(fresh.clone());
        fresh
    }

    /// The kind of a resource.
    pub(crate) fn by_resource(self, group: &str, version: &str, plural: &str) -> Option<&'static Kind> {
        kinds::by_resource(group, version, plural).or_else(|| {
            let added = self.added();
            let at = *added.by_resource.get(&(group, version, plural))?;
            Some(added.customs[at].kind)
        })
    }

    /// The versions of a custom kind that are served; none for kinds of the table.
    pub(crate) fn versions(self, kind: &Kind) -> Vec<&'static Kind> {
        self.custom(kind).ok().flatten().map_or_else(Vec::new, |custom| custom.versions())
    }

    /// What a definition says of a kind; `None` for kinds of the table, and 404 for custom ones that are
    /// no longer served.
    pub(crate) fn custom(self, kind: &Kind) -> Result<Option<Custom>, Refusal> {
        if !kind.custom {
            return Ok(None);
        }
        let added = self.added();
        let at = added.by_resource.get(&(kind.group, kind.version, kind.plural));
        at.map(|at| Some(added.customs[*at].clone())).ok_or_else(Refusal::no_such_resource)
    }
}
