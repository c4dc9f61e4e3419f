//! Creating objects.

use super::admission::{self, Operation, Request};
use super::apply::{self, Owned};
use super::commit::{Commit, Held};
use super::{Context, Form, Outcome, Place, Record, Registry, decoded, is_overtaken, meta, store_refusal};
use crate::auth::Attributes;
use crate::catalogue::{Custom, Subject};
use crate::conversion;
use crate::strategies::{Strategies, Strategy};
use api::kinds::Kind;
use api::schema::{blank, schema};
use api::status::Refusal;
use serde_json::Value;
use std::sync::Mutex;
use store::{Change, Expect, Write, WriteError};

/// How often a generated name that is taken is drawn again (Kubernetes' number).
const NAME_ATTEMPTS: usize = 8;

impl Registry {
    /// Creates an object in a namespace ("" for kinds outside them).
    pub(crate) async fn create(
        &self,
        kind: &'static Kind,
        namespace: &str,
        body: Value,
        context: &Context,
    ) -> Result<Outcome, Refusal> {
        let custom = self.custom(kind)?;
        if custom.as_ref().is_some_and(Custom::is_terminating) {
            return Err(terminating());
        }
        let form = Form::of(kind).with(custom.as_ref());
        let mut object = context.read(body, form)?;
        let mut owned = Owned::ToTell { stated: apply::take(&mut object), stored: Value::Null };
        let mut object = conversion::stored(kind, object);
        let named = !object["metadata"]["name"].as_str().unwrap_or_default().is_empty();
        let attempts = if named && !self.records.is_shared() { 1 } else { NAME_ATTEMPTS };
        for left in (0..attempts).rev() {
            // Only what is drawn again needs the object a second time: a name, or what another server took.
            let draft = if left == 0 { std::mem::take(&mut object) } else { object.clone() };
            match self.create_once(kind, namespace, (draft, &mut owned), context).await {
                Err(taken) if taken.reason == "AlreadyExists" && !named && left > 0 => {}
                Err(refusal) if is_overtaken(&refusal) && left > 0 => {}
                other => return other,
            }
        }
        Err(Refusal::internal("no name was tried"))
    }

    /// Creates the object that a write of another verb did not find; its writer has to be allowed that too.
    pub(super) async fn create_instead(
        &self,
        Place { kind, namespace, name }: Place<'_>,
        (mut object, owned): (Value, &mut Owned),
        context: &Context,
    ) -> Result<Outcome, Refusal> {
        // Such a writer may name the version of an object that is gone by now.
        if let Some(meta) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            meta.remove("resourceVersion");
        }
        let attributes = Attributes {
            verb: "create",
            group: kind.group,
            resource: kind.plural,
            namespace,
            name,
            ..Attributes::default()
        };
        if !self.authorizer.allows(&context.user, &attributes) {
            return Err(attributes.refusal(&context.user));
        }
        self.create_once(kind, namespace, (object, owned), context).await
    }

    /// Creates the object that an update did not find, of a kind that is made so as well.
    pub(super) async fn create_updated(
        &self,
        place: Place<'_>,
        mut object: Value,
        context: &Context,
    ) -> Result<Outcome, Refusal> {
        super::update::check_name(&object["metadata"], place.name)?;
        let mut owned = Owned::ToTell { stated: apply::take(&mut object), stored: Value::Null };
        let object = conversion::stored(place.kind, object);
        self.create_instead(place, (object, &mut owned), context).await
    }

    pub(super) async fn create_once(
        &self,
        kind: &'static Kind,
        namespace: &str,
        (object, owned): (Value, &mut Owned),
        context: &Context,
    ) -> Result<Outcome, Refusal> {
        let custom = self.custom(kind)?;
        let subject = Subject { kind, custom: custom.as_ref() };
        let versioned = has_version(&object);
        let Draft { object, warnings, held } =
            self.draft(subject, namespace, (object, owned), context).await?;
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let key = kind.storage_key(namespace, &name);
        if context.dry_run {
            if let Some(record) = self.records.snapshot().get(&key) {
                return Err(taken(kind, &name, record));
            }
            let object = self.rehearsed(subject, object).await?;
            return Ok(Outcome { object, created: true, warnings });
        }
        // In Kubernetes it is the store that says this, so that all who admit and check come first.
        if versioned {
            return Err(Refusal::new(500, "", "resourceVersion should not be set on objects to be created"));
        }
        let (template, index) = self.stored(subject, &key, &object).await?;
        drop(object);
        let change = Change::Put(template, index);
        let durability = super::durability(&key);
        let write = Write { key, expect: Expect::Absent, change, durability };
        let commit = Commit { kind, namespace: namespace.to_owned(), write, held };
        match self.committer().commit(commit).await {
            Ok(object) => {
                let object = self.shown(kind, object).await?;
                Ok(Outcome { object, created: true, warnings })
            }
            Err(WriteError::Conflict(Some(record))) => Err(taken(kind, &name, &record)),
            Err(WriteError::Conflict(None)) => Err(Refusal::already_exists(kind, &name)),
            Err(error) => Err(store_refusal(&error)),
        }
    }

    /// The object as it would be stored, admitted and checked, with what it takes.
    async fn draft(
        &self,
        subject: Subject<'_>,
        namespace: &str,
        (mut object, owned): (Value, &mut Owned),
        context: &Context,
    ) -> Result<Draft, Refusal> {
        let kind = subject.kind;
        let strategy = Strategies::of(kind);
        meta::place(&mut object, kind, namespace)?;
        complete(&mut object, kind, strategy);
        let managed = apply::tell(subject, (&object, None), owned, &context.writer);
        let given = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let view = self.view();
        let again = |object: &mut Value| {
            subject.shape(object)?;
            meta::place(object, kind, namespace)?;
            complete(object, kind, strategy);
            Ok(())
        };
        let request = Request {
            managed: [&managed, &Value::Null],
            complete: &again,
            warnings: Mutex::new(match subject.custom {
                Some(custom) => custom.warnings(&object, &Value::Null),
                None => (strategy.warnings)(&object),
            }),
            ..Request::new(Place { kind, namespace, name: &given }, Operation::Create, context, &view)
        };
        admission::admit(&request, &mut object).await?;
        meta::identify(&mut object, strategy.generation.is_first());
        (strategy.prepare_create)(&mut object);
        let allocation = self.strategies.allocate(kind, &mut object, None)?;
        let errors = match subject.custom {
            Some(custom) => request.found(custom.check_new(&object)),
            None => strategy.check_new(kind, &object),
        };
        if !errors.is_empty() {
            let name = object["metadata"]["name"].as_str().unwrap_or_default();
            return Err(Refusal::invalid(kind, name, &errors));
        }
        admission::validate(&request, &object).await?;
        let charge = admission::charge(&request, &object, &self.ledger)?;
        let warnings = request.into_warnings();
        if let Some(custom) = subject.custom {
            custom.settle(&mut object);
        }
        apply::put(&mut object, managed);
        Ok(Draft { object, warnings, held: Held { allocation, charge } })
    }
}

/// The refusal of a new object whose definition is being deleted.
fn terminating() -> Refusal {
    Refusal {
        message: "create not allowed while custom resource definition is terminating".to_owned(),
        ..Refusal::method_not_allowed()
    }
}

/// Whether a new object names a version; zero and what is no number name none.
fn has_version(object: &Value) -> bool {
    let stated = object["metadata"]["resourceVersion"].as_str().unwrap_or_default();
    stated.parse::<u64>().is_ok_and(|version| version > 0)
}

/// The refusal of a name that an object has, which may be on its way out.
fn taken(kind: &Kind, name: &str, record: &Record) -> Refusal {
    let mut refusal = Refusal::already_exists(kind, name);
    if decoded(record).is_ok_and(|object| !object["metadata"]["deletionTimestamp"].is_null()) {
        refusal.message = format!("object is being deleted: {}", refusal.message);
    }
    refusal
}

/// A new object that only has to be written.
struct Draft {
    object: Value,
    warnings: Vec<String>,
    held: Held,
}

/// Brings a new object into the form in which it is stored.
#[cfg(test)]
pub(crate) fn shape(object: &mut Value, kind: &Kind, strategy: &Strategy) {
    complete(object, kind, strategy);
    meta::identify(object, strategy.generation.is_first());
    (strategy.prepare_create)(object);
}

/// Brings a new object into the form that its writer owns: with all that may be left out.
fn complete(object: &mut Value, kind: &Kind, strategy: &Strategy) {
    meta::strip(object);
    if kind.subresource("status").is_some() && !strategy.status_at_creation {
        let ty = schema().of(kind.stored_as().unwrap_or(kind));
        match (ty.and_then(|ty| blank(ty, "status")), object.as_object_mut()) {
            (Some(blank), Some(fields)) => drop(fields.insert("status".to_owned(), blank)),
            (None, Some(fields)) => drop(fields.remove("status")),
            (_, None) => {}
        }
    }
    (strategy.default)(object);
}
