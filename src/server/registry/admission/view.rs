//! What admission reads: one consistent state of the store, and who may do what.

use super::super::{Index, Record, Records, read};
use super::Dynamic;
use crate::auth::{Attributes, Authorizer, User};
use api::kinds::{Kind, by_kind};
use serde_json::Value;
use std::sync::Arc;
use store::Snapshot;

/// See the module's comment.
pub(in crate::registry) struct View<'a> {
    snapshot: Snapshot<Index>,
    pub(super) records: &'a Records,
    pub(super) authorizer: &'a Authorizer,
    pub(super) dynamic: &'a Dynamic,
}

/// A row of the table of kinds.
pub(super) fn row(api_version: &str, kind: &str) -> &'static Kind {
    by_kind(api_version, kind).expect("the table of kinds has every built-in kind")
}

impl<'a> View<'a> {
    pub(in crate::registry) fn new(
        records: &'a Records,
        authorizer: &'a Authorizer,
        dynamic: &'a Dynamic,
    ) -> Self {
        Self { snapshot: records.snapshot(), records, authorizer, dynamic }
    }

    /// The record of an object.
    pub(super) fn record(&self, kind: &Kind, namespace: &str, name: &str) -> Option<&Record> {
        self.snapshot.get(&kind.storage_key(namespace, name)).map(|record| &**record)
    }

    /// An object.
    pub(super) fn get(&self, kind: &Kind, namespace: &str, name: &str) -> Option<Value> {
        self.record(kind, namespace, name).map(read)
    }

    /// The records of a kind, in one namespace or (with "") in all.
    pub(super) fn records_of(&self, kind: &Kind, namespace: &str) -> Vec<Arc<Record>> {
        let mut prefix = kind.storage_prefix();
        if !namespace.is_empty() {
            prefix.extend([namespace, "/"]);
        }
        self.snapshot.range(&prefix, None).cloned().collect()
    }

    /// All objects of a kind, in one namespace or (with "") in all.
    pub(super) fn list(&self, kind: &Kind, namespace: &str) -> Vec<Value> {
        self.records_of(kind, namespace).iter().map(|record| read(record)).collect()
    }

    /// Whether a user may do something.
    pub(super) fn allows(&self, user: &User, attributes: &Attributes<'_>) -> bool {
        self.authorizer.allows(user, attributes)
    }
}
