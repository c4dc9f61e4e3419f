//! Stored objects of custom kinds, as they are shown and as they are stored. Those of the table's kinds
//! pass through as they are.

use super::index::kind_of_key;
use super::{Index, Record, Registry, Selection, apply, decoded, encode};
use crate::catalogue::{Catalogue, Custom, Subject};
use api::kinds::Kind;
use api::status::Refusal;
use bytes::Bytes;
use serde_json::Value;
use std::sync::Arc;
use store::Template;

impl Registry {
    /// What a definition says of a kind.
    pub(super) fn custom(&self, kind: &Kind) -> Result<Option<Custom>, Refusal> {
        self.catalogue().custom(kind)
    }

    /// The record of an object as it is shown, or 404.
    pub(crate) async fn get(&self, kind: &Kind, namespace: &str, name: &str) -> Result<Arc<Record>, Refusal> {
        let record = self.find(kind, namespace, name)?;
        shown(self.custom(kind)?.as_ref(), record).await
    }

    /// A stored object in the version of a kind.
    pub(super) async fn form_of(&self, subject: Subject<'_>, record: &Record) -> Result<Value, Refusal> {
        let object = decoded(record)?;
        match subject.custom {
            None => Ok(object),
            Some(custom) => custom.read_one(object).await,
        }
    }

    /// What is to be stored of an object under a key.
    pub(super) async fn stored(
        &self,
        subject: Subject<'_>,
        key: &str,
        object: &Value,
    ) -> Result<(Template, Index), Refusal> {
        let index = Index::of(kind_of_key(key), object);
        let other = subject.custom.filter(|custom| !custom.is_stored());
        let template = match other {
            Some(custom) => encode::template(&custom.stored(object.clone()).await?),
            None => encode::template(object),
        };
        Ok((template, index))
    }

    /// An object that a dry run would write, as it would be shown afterwards.
    pub(super) async fn rehearsed(&self, subject: Subject<'_>, mut object: Value) -> Result<Bytes, Refusal> {
        if let Some(custom) = subject.custom.filter(|custom| !custom.is_stored()) {
            object = custom.read_one(custom.stored(object).await?).await?;
        }
        Ok(object.to_string().into())
    }

    /// Bytes that were just written, as they are shown.
    pub(super) async fn shown(&self, kind: &Kind, bytes: Bytes) -> Result<Bytes, Refusal> {
        match self.custom(kind)?.filter(|custom| !custom.is_stored()) {
            None => Ok(bytes),
            Some(custom) => {
                let object = serde_json::from_slice(&bytes).map_err(Refusal::internal)?;
                Ok(custom.read_one(object).await?.to_string().into())
            }
        }
    }
}

/// A record as a version shows it.
pub(super) async fn shown(custom: Option<&Custom>, record: Arc<Record>) -> Result<Arc<Record>, Refusal> {
    let Some(custom) = custom.filter(|custom| !custom.is_shown(&record)) else { return Ok(record) };
    let object = custom.read_one(decoded(&record)?).await?;
    Ok(rewritten(&record, &object))
}

/// A record as a version shows it, if it is selected.
pub(super) async fn selected(
    custom: Option<&Custom>,
    selection: &Selection,
    record: &Arc<Record>,
) -> Result<Option<Arc<Record>>, Refusal> {
    if custom.is_some_and(|custom| selection.needs_form(custom)) {
        let shown = shown(custom, record.clone()).await?;
        return Ok(selection.matches(&shown).then_some(shown));
    }
    if selection.matches(record) { shown(custom, record.clone()).await.map(Some) } else { Ok(None) }
}

/// Whether the form that a record has in a version is the one that it would be stored in. A definition may
/// say other defaults by now, or store another version: then a write of what is shown changes the record.
/// The form comes without `managedFields`.
pub(super) async fn is_stored_so(
    subject: Subject<'_>,
    record: &Record,
    form: &Value,
) -> Result<bool, Refusal> {
    let Some(custom) = subject.custom else { return Ok(true) };
    if custom.is_stored() && custom.is_shown(record) {
        return Ok(true);
    }
    let mut stored = decoded(record)?;
    apply::take(&mut stored);
    Ok(custom.stored(form.clone()).await? == stored)
}

/// The same record with another form of its object.
fn rewritten(record: &Record, object: &Value) -> Arc<Record> {
    Arc::new(Record {
        key: record.key.clone(),
        value: object.to_string().into(),
        revision: record.revision,
        create_revision: record.create_revision,
        at: 0,
        index: Index::of(None, object),
    })
}

/// Records as a kind shows them; all that need it are converted at once.
pub(super) async fn all_shown(
    catalogue: Catalogue<'_>,
    kind: &Kind,
    mut records: Vec<Arc<Record>>,
) -> Result<Vec<Arc<Record>>, Refusal> {
    let Some(custom) = catalogue.custom(kind)? else { return Ok(records) };
    let others: Vec<usize> = (0..records.len()).filter(|at| !custom.is_shown(&records[*at])).collect();
    // Else the schema would be read for nothing.
    if others.is_empty() {
        return Ok(records);
    }
    let stored = others.iter().map(|at| decoded(&records[*at])).collect::<Result<_, _>>()?;
    for (at, object) in others.into_iter().zip(custom.read(stored).await?) {
        records[at] = rewritten(&records[at], &object);
    }
    Ok(records)
}
