//! Creating objects.

use super::apply::{self, Owned};
use super::{Context, Index, Outcome, Registry, decode_checked, encode, meta, store_refusal};
use crate::conversion;
use crate::strategies::Strategy;
use api::kinds::Kind;
use api::schema::{canonical, schema};
use api::status::Refusal;
use serde_json::Value;
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
        let (mut object, warnings) = decode_checked(body, kind, &context.reading)?;
        let mut owned = Owned::ToTell { stated: apply::take(&mut object), stored: Value::Null };
        let object = conversion::stored(kind, object);
        if !object["metadata"]["resourceVersion"].as_str().unwrap_or_default().is_empty() {
            return Err(Refusal::new(500, "", "resourceVersion should not be set on objects to be created"));
        }
        let given = object["metadata"]["name"].as_str().unwrap_or_default();
        let attempts = if given.is_empty() { NAME_ATTEMPTS } else { 1 };
        let mut refusal = Refusal::internal("no name was tried");
        for _ in 0..attempts {
            match self.create_once(kind, namespace, (object.clone(), &mut owned), context).await {
                Err(taken) if taken.reason == "AlreadyExists" => refusal = taken,
                Err(other) => return Err(other),
                Ok(mut outcome) => {
                    outcome.warnings.splice(0..0, warnings);
                    return Ok(outcome);
                }
            }
        }
        Err(refusal)
    }

    pub(super) async fn create_once(
        &self,
        kind: &'static Kind,
        namespace: &str,
        (mut object, owned): (Value, &mut Owned),
        context: &Context,
    ) -> Result<Outcome, Refusal> {
        let strategy = self.strategies.of(kind);
        meta::place(&mut object, kind, namespace)?;
        complete(&mut object, kind, strategy);
        let managed = apply::tell(kind, (&object, None), owned, &context.writer);
        (strategy.prepare_create)(&mut object);
        let warnings = self.admit_create(kind, namespace, &mut object, context)?;
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let allocation = self.strategies.allocate(kind, &mut object, None)?;
        let errors = strategy.check_new(kind, &object);
        if !errors.is_empty() {
            return Err(Refusal::invalid(kind, &name, &errors));
        }
        apply::put(&mut object, managed);
        let key = kind.storage_key(namespace, &name);
        if context.dry_run {
            let taken = self.records.snapshot().get(&key).is_some();
            let answer = Outcome { object: object.to_string().into(), created: true, warnings };
            return if taken { Err(Refusal::already_exists(kind, &name)) } else { Ok(answer) };
        }
        let change =
            Change::Put(encode::template(&object), Index::of(super::index::kind_of_key(&key), &object));
        let durability = super::durability(&key);
        match self.records.write(Write { key, expect: Expect::Absent, change, durability }).await {
            Ok(written) => {
                allocation.keep();
                Ok(Outcome { object: written.record.value.clone(), created: true, warnings })
            }
            Err(WriteError::Conflict(_)) => Err(Refusal::already_exists(kind, &name)),
            Err(error) => Err(store_refusal(&error)),
        }
    }
}

/// Brings a new object into the form in which it is stored.
#[cfg(test)]
pub(crate) fn shape(object: &mut Value, kind: &Kind, strategy: &Strategy) {
    complete(object, kind, strategy);
    (strategy.prepare_create)(object);
}

/// Brings a new object into the form that its writer owns: with all that may be left out.
fn complete(object: &mut Value, kind: &Kind, strategy: &Strategy) {
    meta::stamp(object, strategy.generation);
    if kind.subresource("status").is_some() && !strategy.status_at_creation {
        object.as_object_mut().and_then(|fields| fields.remove("status"));
        if let Some(ty) = schema().of(kind.stored_as().unwrap_or(kind)) {
            canonical(object, ty);
        }
    }
    (strategy.default)(object);
}
