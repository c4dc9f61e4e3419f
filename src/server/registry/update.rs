//! Changing objects: replacing and patching, whole or in one part.

use super::admission::{self, Operation, Request};
use super::apply::{self, Owned};
use super::commit::{Commit, Held};
use super::reading::is_stored_so;
use super::{Context, Form, Index, Outcome, Place, Record, Registry, is_overtaken, store_refusal};
use crate::catalogue::Subject;
use crate::conversion;
use crate::strategies::{Strategies, Strategy};
use api::kinds::Kind;
use api::patch;
use api::schema::schema;
use api::status::Refusal;
use api::validate::go_number_error;
use api::validate::{Error, Path};
use bytes::Bytes;
use serde_json::{Value, json};
use std::borrow::Cow;
use std::sync::{Arc, Mutex};
use store::{Change as StoreChange, Expect, Write, WriteError};

/// How often a change that does not name a resourceVersion is tried again when somebody else was
/// faster.
const ATTEMPTS: usize = 64;

/// What an object is changed to.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    /// All of it.
    Replace(Value),
    /// By RFC 6902.
    Json(Bytes),
    /// By RFC 7386.
    Merge(Value),
    /// By strategic merge.
    Strategic(Value),
    /// By applying a configuration.
    Apply(Value),
}

impl Change {
    /// The changed form of an object of a kind.
    pub(crate) fn apply(&self, old: &Value, kind: &Kind) -> Result<Value, Refusal> {
        let mut object = old.clone();
        let result = match self {
            Self::Replace(new) | Self::Apply(new) => return Ok(new.clone()),
            Self::Json(patch) => patch::json(&mut object, patch),
            Self::Merge(patch) => patch::merge(&mut object, patch),
            Self::Strategic(patch) => match schema().of(kind) {
                Some(ty) => patch::strategic(&mut object, patch, ty),
                None => patch::merge(&mut object, patch),
            },
        };
        match result {
            Ok(()) => Ok(object),
            Err(patch::Error::Malformed(why)) => Err(Refusal::bad_request(why)),
            // Why is not told.
            Err(patch::Error::Unfit(_)) => {
                let message = "the server rejected our request due to an error in our request";
                Err(Refusal { details: json!({}), ..Refusal::new(422, "Invalid", message) })
            }
            Err(error @ patch::Error::TooLarge(_)) => Err(Refusal::too_large(error.to_string())),
        }
    }

    /// The change with an object that was checked, where it comes with a whole one.
    fn checked(&self, form: Form, context: &Context) -> Result<Cow<'_, Self>, Refusal> {
        match self {
            Self::Replace(object) => Ok(Cow::Owned(Self::Replace(context.read(object.clone(), form)?))),
            _ => Ok(Cow::Borrowed(self)),
        }
    }

    /// The resourceVersion that the writer has seen, where the change names one. Zero is any.
    fn seen<'a>(&'a self, new: &'a Value, old: &Value) -> Result<Option<&'a str>, Refusal> {
        let stated = new["metadata"]["resourceVersion"].as_str().unwrap_or_default();
        if let Some(error) = stated.parse::<u64>().err().filter(|_| !stated.is_empty()) {
            return Err(Refusal::new(500, "", go_number_error("ParseUint", stated, &error)));
        }
        let stated = Some(stated).filter(|stated| !matches!(*stated, "" | "0"));
        // A patch that does not touch the version carries the old one along.
        let own = matches!(self, Self::Replace(_));
        Ok(stated.filter(|stated| own || old["metadata"]["resourceVersion"] != **stated))
    }
}

/// Which part of an object is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// All but the status.
    Main,
    /// The status, and little of the metadata.
    Status,
    /// What a subresource is for, such as `ephemeralcontainers`.
    Door(&'static str),
}

impl Registry {
    /// Changes an object, or its status.
    pub(crate) async fn change(
        &self,
        place: Place<'_>,
        change: &Change,
        part: Part,
        context: &Context,
    ) -> Result<Outcome, Refusal> {
        let Place { kind, namespace, name } = place;
        let custom = self.custom(kind)?;
        let subject = Subject { kind, custom: custom.as_ref() };
        let form = Form::of(kind).with(subject.custom);
        let change = &*change.checked(form, context)?;
        for _ in 0..ATTEMPTS {
            let record = match (self.find(kind, namespace, name), change) {
                (Err(_), Change::Apply(config))
                    if part == Part::Main && context.writer.subresource.is_empty() =>
                {
                    match self.create_applied(place, config, context).await {
                        Err(taken) if taken.reason == "AlreadyExists" || is_overtaken(&taken) => continue,
                        other => return other,
                    }
                }
                (Err(_), Change::Replace(object)) if part == Part::Main && kind.made_by_update => {
                    match self.create_updated(place, object.clone(), context).await {
                        Err(taken) if taken.reason == "AlreadyExists" || is_overtaken(&taken) => continue,
                        other => return other,
                    }
                }
                (found, _) => found?,
            };
            let mut old = self.form_of(subject, &record).await?;
            let (new, mut owned) = self.proposed(subject, change, &mut old, context)?;
            let new = match change {
                Change::Replace(_) => new,
                _ => context.read(new, form)?,
            };
            let mut new = conversion::stored(kind, new);
            let seen = change.seen(&new, &old)?.map(str::to_owned);
            check_identity(place, (&new, &old), seen.as_deref())?;
            if kind.versioned && seen.is_none() && matches!(change, Change::Replace(_)) {
                return Err(unversioned(place));
            }
            let Prepared { managed, warnings, held } =
                self.prepare((place, subject), (&mut new, &old), (part, &mut owned), context).await?;
            let same = new == old && apply::is_same(&managed, &owned);
            if same && is_stored_so(subject, &record, &new).await? {
                let object = self.shown(kind, record.value.clone()).await?;
                return Ok(Outcome { object, created: false, warnings });
            }
            apply::put(&mut new, managed);
            if context.dry_run {
                let object = self.rehearsed(subject, new).await?;
                return Ok(Outcome { object, created: false, warnings });
            }
            drop(old);
            match self.put(place, &record, new, held).await {
                Ok(object) => {
                    let object = self.shown(kind, object).await?;
                    return Ok(Outcome { object, created: false, warnings });
                }
                Err(WriteError::Conflict(None)) => return Err(Refusal::not_found(kind, name)),
                Err(WriteError::Conflict(Some(_))) if seen.is_some() => {
                    return Err(Refusal::stale(kind, name));
                }
                Err(WriteError::Conflict(Some(_)) | WriteError::Overtaken) => {}
                Err(error) => return Err(store_refusal(&error)),
            }
        }
        Err(Refusal::stale(kind, name))
    }

    /// Writes the new form of a record; an object whose deletion only waited for this is removed.
    pub(super) async fn put(
        &self,
        place: Place<'_>,
        record: &Arc<Record>,
        new: Value,
        held: Held,
    ) -> Result<Bytes, WriteError<Index>> {
        let (kind, key) = (place.kind, place.key());
        let gone = super::delete::is_finished(kind, &new);
        let custom = self.custom(kind).map_err(unwritable)?;
        let subject = Subject { kind, custom: custom.as_ref() };
        let (template, index) = self.stored(subject, &key, &new).await.map_err(unwritable)?;
        let change =
            if gone { StoreChange::Delete(template, index) } else { StoreChange::Put(template, index) };
        let durability = super::durability(&key);
        let write = Write { key, expect: Expect::Revision(record.revision), change, durability };
        drop(new);
        let namespace = place.namespace.to_owned();
        self.committer().commit(Commit { kind, namespace, write, held }).await
    }

    /// Brings the new form into the shape in which it is stored, and checks it. Both forms come without
    /// `managedFields`.
    async fn prepare(
        &self,
        (place, subject): (Place<'_>, Subject<'_>),
        (new, old): (&mut Value, &Value),
        (part, owned): (Part, &mut Owned),
        context: &Context,
    ) -> Result<Prepared, Refusal> {
        let Place { kind, name, .. } = place;
        let strategy = Strategies::of(kind);
        complete((new, old), kind, strategy, part);
        let managed = apply::tell(subject, (new, Some(old)), owned, &context.writer);
        let view = self.view();
        let warnings = match subject.custom {
            _ if part != Part::Main => Vec::new(),
            Some(custom) => custom.warnings(new, old),
            None => (strategy.warnings)(new),
        };
        let again = |new: &mut Value| {
            subject.shape(new)?;
            check_identity(place, (new, old), None)?;
            complete((new, old), kind, strategy, part);
            Ok(())
        };
        let request = Request {
            managed: [&managed, owned.stored().unwrap_or(&managed)],
            subresource: context.writer.subresource,
            old,
            complete: &again,
            warnings: Mutex::new(warnings),
            ..Request::new(place, Operation::Update, context, &view)
        };
        admission::admit(&request, new).await?;
        settle((new, old), strategy, part);
        let mut held = Held::default();
        if part == Part::Main {
            held.allocation = self.strategies.allocate(kind, new, Some(old))?;
        }
        count_generation((new, old), kind, strategy, part);
        let errors = match subject.custom {
            Some(custom) => request.found(custom.check_change(new, old, part)),
            None => strategy.check_change(kind, new, old, part),
        };
        if !errors.is_empty() {
            return Err(Refusal::invalid(kind, name, &errors));
        }
        admission::validate(&request, new).await?;
        held.charge = admission::charge(&request, new, &self.ledger)?;
        let warnings = request.into_warnings();
        if let Some(custom) = subject.custom {
            custom.settle(new);
        }
        Ok(Prepared { managed, warnings, held })
    }
}

/// What is known of a change that only has to be written.
struct Prepared {
    /// `managedFields` of the new form.
    managed: Value,
    warnings: Vec<String>,
    held: Held,
}

/// Brings the new form of an object into the shape in which it is stored.
#[cfg(test)]
pub(crate) fn reshape((new, old): (&mut Value, &Value), kind: &Kind, strategy: &Strategy, part: Part) {
    complete((new, old), kind, strategy, part);
    settle((new, old), strategy, part);
}

/// Brings the new form into the one that its writer owns: with what writers cannot change, and with all
/// that may be left out.
fn complete((new, old): (&mut Value, &Value), kind: &Kind, strategy: &Strategy, part: Part) {
    keep_owned(new, old);
    match part {
        Part::Status => only_status(new, old, strategy.status_meta),
        Part::Main if kind.subresource("status").is_some() => copy(new, old, "status"),
        Part::Door(door) => (strategy.narrow)(door, new, old),
        Part::Main => {}
    }
    (strategy.default)(new);
}

/// Sets what the server decides.
fn settle((new, old): (&mut Value, &Value), strategy: &Strategy, part: Part) {
    match part {
        Part::Status => (strategy.prepare_status)(new, old),
        Part::Main => (strategy.prepare_update)(new, old),
        Part::Door(_) => {}
    }
}

/// A change of what is desired is a new generation.
fn count_generation((new, old): (&mut Value, &Value), kind: &Kind, strategy: &Strategy, part: Part) {
    if strategy.generation.counts() && part != Part::Status && desire(new, kind) != desire(old, kind) {
        let generation = old["metadata"]["generation"].as_i64().unwrap_or(0) + 1;
        new["metadata"]["generation"] = Value::from(generation);
    }
}

/// An object that cannot be brought into the form in which it is stored.
fn unwritable(refusal: Refusal) -> WriteError<Index> {
    WriteError::Io(refusal.message)
}

/// The refusal of an update that does not say which version it changes.
fn unversioned(Place { kind, name, .. }: Place<'_>) -> Refusal {
    let path = Path::new("metadata").child("resourceVersion");
    let error = Error::invalid(&path, 0, "must be specified for an update");
    let mut refusal = Refusal::invalid(kind, name, std::slice::from_ref(&error));
    // This one names the resource instead of the kind.
    refusal.message = format!("{} {name:?} is invalid: {error}", kind.resource());
    refusal.details["kind"] = Value::from(kind.plural);
    refusal
}

fn check_identity(
    Place { kind, namespace, name }: Place<'_>,
    (new, old): (&Value, &Value),
    seen: Option<&str>,
) -> Result<(), Refusal> {
    let meta = &new["metadata"];
    check_name(meta, name)?;
    if kind.namespaced && meta["namespace"].as_str().is_some_and(|stated| stated != namespace) {
        return Err(Refusal::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    let uid = meta["uid"].as_str().unwrap_or_default();
    if !uid.is_empty() && old["metadata"]["uid"] != uid {
        let own = old["metadata"]["uid"].as_str().unwrap_or_default();
        return Err(precondition_failed(Place { kind, namespace, name }, "UID", uid, own));
    }
    match seen {
        Some(seen) if old["metadata"]["resourceVersion"] != seen => Err(Refusal::stale(kind, name)),
        _ => Ok(()),
    }
}

/// The refusal of a write to an object that is not the one meant, in the words of Kubernetes' store.
pub(super) fn precondition_failed(place: Place<'_>, what: &str, wanted: &str, own: &str) -> Refusal {
    let Place { kind, namespace, name } = place;
    let why = format!(
        "StorageError: invalid object, Code: 4, Key: {}, ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: {what} in precondition: {wanted}, {what} in object meta: {own}",
        etcd_key(kind, namespace, name)
    );
    Refusal::conflict(kind, name, &why)
}

/// Compares an object's name with the path's.
pub(super) fn check_name(meta: &Value, name: &str) -> Result<(), Refusal> {
    match meta["name"].as_str().unwrap_or_default() {
        stated if stated == name => Ok(()),
        "" => Err(Refusal::bad_request(format!(
            "the name of the object ({name} based on URL) was undeterminable: name must be provided"
        ))),
        stated => Err(Refusal::bad_request(format!(
            "the name of the object ({stated}) does not match the name on the URL ({name})"
        ))),
    }
}

/// The key under which Kubernetes keeps an object, which one of its messages tells.
fn etcd_key(kind: &Kind, namespace: &str, name: &str) -> String {
    let folder = match (kind.group, kind.plural) {
        ("", "services") => "services/specs",
        ("", "endpoints") => "services/endpoints",
        ("", "nodes") => "minions",
        ("", "replicationcontrollers") => "controllers",
        ("networking.k8s.io", "ingresses") => "ingress",
        (group, plural) if kind.custom => &format!("{group}/{plural}"),
        (_, plural) => plural,
    };
    let place = if kind.namespaced { format!("{namespace}/") } else { String::new() };
    format!("/registry/{folder}/{place}{name}")
}

/// Metadata that writers cannot change.
fn keep_owned(new: &mut Value, old: &Value) {
    for field in
        ["uid", "creationTimestamp", "generation", "resourceVersion", "namespace", "generateName", "selfLink"]
    {
        match &old["metadata"][field] {
            Value::Null => drop(new["metadata"].as_object_mut().and_then(|meta| meta.remove(field))),
            value => new["metadata"][field] = value.clone(),
        }
    }
    // A deletion that is left out goes on; one that is changed is told to be immutable.
    for field in ["deletionTimestamp", "deletionGracePeriodSeconds"] {
        if new["metadata"][field].is_null() {
            copy(&mut new["metadata"], &old["metadata"], field);
        }
    }
}

fn copy(new: &mut Value, old: &Value, field: &str) {
    match &old[field] {
        Value::Null => drop(new.as_object_mut().and_then(|fields| fields.remove(field))),
        value => new[field] = value.clone(),
    }
}

/// The old object with the new status; labels, annotations and finalizers where the kind lets a
/// status writer change them.
fn only_status(new: &mut Value, old: &Value, labels: bool) {
    let mut result = old.clone();
    copy(&mut result, new, "status");
    if labels {
        for field in ["labels", "annotations", "finalizers", "ownerReferences"] {
            let (mut own, other) = (result["metadata"].take(), &new["metadata"]);
            copy(&mut own, other, field);
            result["metadata"] = own;
        }
    }
    *new = result;
}

/// What of an object is desire: everything but metadata and status; of custom kinds the status too, where
/// it is no door of its own.
fn desire<'o>(object: &'o Value, kind: &Kind) -> Vec<(&'o String, &'o Value)> {
    let with_status = kind.custom && kind.subresource("status").is_none();
    let fields = object.as_object().into_iter().flatten();
    let other = |name: &str| name == "metadata" || (name == "status" && !with_status);
    fields.filter(|(name, _)| !other(name)).collect()
}
