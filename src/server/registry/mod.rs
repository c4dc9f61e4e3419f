//! The generic registry: create, read, update, patch, delete, list and watch, once for all kinds.
//!
//! Objects are bytes here. They are decoded to be changed, and by nobody to be read.

mod admission;
mod apply;
mod body;
mod commit;
mod create;
#[cfg(test)]
mod create_tests;
mod delete;
pub(crate) mod encode;
pub(crate) mod expiry;
mod form;
mod index;
mod ledger;
mod list;
mod meta;
mod on_nodes;
mod racing;
mod reading;
mod records;
pub(crate) mod render;
mod rewriting;
mod subresources;
mod update;
mod usage;
mod warnings;
mod watching;
#[cfg(test)]
mod wire_tests;

pub(crate) use admission::{Composer, Purpose, compile, environment, made_by, policy_warnings};
pub(crate) use apply::{Writer, note_maker, note_writer};
use body::decode_checked;
pub(crate) use body::{
    FieldValidation, Reading, Source, decode_configuration, decode_object, decode_options, decode_patch,
};
#[cfg(test)]
pub(crate) use create::shape;
pub(crate) use delete::DeleteOptions;
pub(crate) use form::Form;
pub(crate) use index::{Index, Record, Selection, index, place_of};
pub(crate) use list::{ListOptions, Page, asked_revision};
pub(crate) use meta::{place as place_object, set_condition, timestamp};
pub(crate) use records::{Followed, Records};
pub(crate) use render::Rendering;
pub(crate) use rewriting::write_again;
pub(crate) use subresources::Reply;
#[cfg(test)]
pub(crate) use update::reshape;
pub(crate) use update::{Change, Part};
pub(crate) use warnings::Warnings;
pub(crate) use watching::{Serving, WatchOptions};

use crate::auth::{Authorizer, ServiceAccountKeys, User};
use crate::catalogue::Catalogue;
use crate::strategies::Strategies;
use api::kinds::Kind;
use api::status::Refusal;
use base::Supervisor;
use bytes::Bytes;
use serde_json::Value;
use std::sync::Arc;
use store::{Durability, WriteError};

/// All objects, and what may be done with them.
pub(crate) struct Registry {
    records: Records,
    strategies: Arc<Strategies>,
    keys: Arc<ServiceAccountKeys>,
    authorizer: Arc<Authorizer>,
    ledger: ledger::Ledger,
    ports: Arc<tokio::sync::Mutex<()>>,
    dynamic: admission::Dynamic,
    supervisor: Supervisor,
}

/// Who writes, and how.
#[derive(Clone, Debug)]
pub(crate) struct Context {
    pub(crate) user: User,
    pub(crate) dry_run: bool,
    pub(crate) reading: Reading,
    pub(crate) writer: Writer,
    pub(crate) options: WriteOptions,
    /// What to warn of whatever becomes of the write.
    pub(crate) warnings: Warnings,
    /// It is this server's own part of a write that was admitted.
    pub(crate) admitted: bool,
}

impl Context {
    /// A user who states nothing.
    pub(crate) fn of(user: User, warnings: Warnings) -> Self {
        let reading = Reading { validation: FieldValidation::Warn, source: Source::default() };
        let (writer, options) = (Writer::default(), WriteOptions::default());
        Self { user, dry_run: false, reading, writer, options, warnings, admitted: false }
    }

    /// Reads an object of a form ([`decode_checked`]).
    pub(crate) fn read(&self, object: Value, form: Form<'_>) -> Result<Value, Refusal> {
        let (object, warnings) = decode_checked(object, form, &self.reading)?;
        self.warnings.extend(warnings);
        Ok(object)
    }
}

/// What the options of a write say, beside what changes how it is done.
#[derive(Clone, Debug, Default)]
pub(crate) struct WriteOptions {
    /// `fieldManager`.
    pub(crate) manager: String,
    /// `fieldValidation`.
    pub(crate) validation: String,
}

impl WriteOptions {
    /// The options as an object, of no kind yet.
    fn to_value(&self) -> Value {
        let said = [("fieldManager", &self.manager), ("fieldValidation", &self.validation)];
        let said = said.into_iter().filter(|(_, text)| !text.is_empty());
        said.map(|(field, text)| (field.to_owned(), Value::from(text.as_str()))).collect()
    }
}

/// Where an object is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'a> {
    pub(crate) kind: &'static Kind,
    /// "" for kinds outside namespaces.
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
}

impl Place<'_> {
    fn key(&self) -> String {
        self.kind.storage_key(self.namespace, self.name)
    }
}

/// The outcome of a write: the object's bytes, and what to warn its writer of.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) object: Bytes,
    pub(crate) created: bool,
    pub(crate) warnings: Vec<String>,
}

impl Registry {
    pub(crate) fn new(
        records: Records,
        strategies: Strategies,
        keys: Arc<ServiceAccountKeys>,
        authorizer: Arc<Authorizer>,
        supervisor: Supervisor,
    ) -> Self {
        let (strategies, ledger) = (Arc::new(strategies), ledger::Ledger::default());
        let dynamic = admission::Dynamic::new(records.clone());
        Self { records, strategies, keys, authorizer, ledger, ports: Arc::default(), dynamic, supervisor }
    }

    /// What admission reads, as of now.
    fn view(&self) -> admission::View<'_> {
        admission::View::new(&self.records, &self.authorizer, &self.dynamic)
    }

    fn committer(&self) -> commit::Committer {
        commit::Committer {
            records: self.records.clone(),
            strategies: self.strategies.clone(),
            ledger: self.ledger.clone(),
            ports: self.ports.clone(),
            supervisor: self.supervisor.clone(),
        }
    }

    pub(crate) fn records(&self) -> &Records {
        &self.records
    }

    /// The kinds that are served.
    pub(crate) fn catalogue(&self) -> Catalogue<'_> {
        self.records.catalogue()
    }

    pub(crate) fn keys(&self) -> &ServiceAccountKeys {
        &self.keys
    }

    /// The record of an object, or 404.
    pub(crate) fn find(&self, kind: &Kind, namespace: &str, name: &str) -> Result<Arc<Record>, Refusal> {
        let snapshot = self.records.snapshot();
        let record = snapshot.get(&kind.storage_key(namespace, name)).cloned();
        record.ok_or_else(|| Refusal::not_found(kind, name))
    }
}

/// Decodes stored bytes.
pub(crate) fn decoded(record: &Record) -> Result<Value, Refusal> {
    serde_json::from_slice(&record.value)
        .map_err(|error| Refusal::internal(format!("stored object {}: {error}", record.key)))
}

/// A stored object, where nobody can be told that it is damaged: null then, which fits no rule.
pub(crate) fn read(record: &Record) -> Value {
    decoded(record).unwrap_or_default()
}

/// How durable a write has to be: heartbeats are worthless after a crash and must not wear the disk.
fn durability(key: &str) -> Durability {
    if key.starts_with("leases.coordination.k8s.io/kube-node-lease/") {
        Durability::Volatile
    } else {
        Durability::Durable
    }
}

/// Whether a write is to be decided again, as another server has taken what it was to have.
fn is_overtaken(refusal: &Refusal) -> bool {
    refusal.code == 409 && refusal.message == WriteError::<Index>::Overtaken.to_string()
}

/// A store's refusal that is no conflict.
fn store_refusal(error: &WriteError<Index>) -> Refusal {
    match error {
        WriteError::Full => Refusal::new(507, "InsufficientStorage", error.to_string()),
        // In the words of the store that clients know.
        WriteError::TooLarge => Refusal::new(500, "", error.to_string()),
        WriteError::Closed => Refusal::unavailable("the server is shutting down"),
        WriteError::Overtaken => Refusal::new(409, "Conflict", error.to_string()),
        WriteError::Io(_) | WriteError::Conflict(_) => Refusal::internal(error),
    }
}
