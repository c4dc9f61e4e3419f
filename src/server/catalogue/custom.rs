//! A version of a custom kind: how its objects are read, checked, and changed into those of another.

use super::converter::Converters;
use super::definitions::{Defined, Types};
use crate::registry::{Part, Record};
use crate::rules::Findings;
use crate::strategies::FINALIZERS;
use api::apply::Typed;
use api::custom::{
    Conversion, Definition, Form, Malformed, Published, Scale, Structural, Version, published, version_rank,
};
use api::kinds::Kind;
use api::schema;
use api::status::Refusal;
use api::validate::{self, Error, Path, dns_subdomain};
use futures_util::FutureExt;
use serde_json::Value;
use std::cmp::Reverse;
use std::sync::Arc;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::block_in_place;

/// Faults of objects that rules are not made for.
const BLOCKING: [&str; 5] = [
    "FieldValueNotSupported",
    "FieldValueRequired",
    "FieldValueTooLong",
    "FieldValueTooMany",
    "FieldValueTypeInvalid",
];
const NOT_CHECKED: &str = "some validation rules were not checked because the object was invalid; correct the existing errors to complete validation";

/// A version of a custom kind. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Custom {
    pub(crate) kind: &'static Kind,
    defined: Arc<Defined>,
    at: usize,
    converters: Arc<Converters>,
}

impl Custom {
    /// The versions that a definition serves.
    pub(super) fn all(defined: &Arc<Defined>, converters: &Arc<Converters>) -> impl Iterator<Item = Self> {
        let of = |at: usize| {
            let (defined, converters) = (defined.clone(), converters.clone());
            Self { kind: defined.versions[at].row, defined, at, converters }
        };
        defined.served().map(of)
    }

    /// The versions in which the same objects are served, the best one first.
    pub(super) fn versions(&self) -> Vec<&'static Kind> {
        let mut all: Vec<_> = self.defined.served().map(|at| self.defined.versions[at].row).collect();
        all.sort_by_key(|row| Reverse(version_rank(row.version)));
        all
    }

    /// Its place among others: discovery lists by group, and the best version of a group first.
    pub(super) fn order(&self) -> impl Ord + use<> {
        (self.kind.group, Reverse(version_rank(self.kind.version)), self.kind.plural)
    }

    /// Tells what it is now from what it was.
    pub(crate) fn revision(&self) -> u64 {
        self.defined.revision()
    }

    /// True once the definition is gone.
    pub(crate) fn gone(&self) -> watch::Receiver<bool> {
        self.defined.gone.subscribe()
    }

    fn definition(&self) -> &Definition {
        &self.defined.definition
    }

    fn version(&self) -> &Version {
        &self.defined.definition.versions[self.at]
    }

    pub(crate) fn scale(&self) -> Option<&Scale> {
        self.version().scale.as_ref()
    }

    /// Nothing new may be made.
    pub(crate) fn is_terminating(&self) -> bool {
        self.defined.terminating
    }

    /// Objects are stored in this version.
    pub(crate) fn is_stored(&self) -> bool {
        self.at == self.defined.storage
    }

    /// Another version of an object may have other labels.
    pub(crate) fn relabels(&self) -> bool {
        matches!(self.definition().conversion, Conversion::Webhook { .. })
    }

    fn types(&self) -> &Types {
        self.defined.types(self.at)
    }

    fn schema(&self) -> &Structural {
        &self.types().schema
    }

    /// The type as server-side apply sees it.
    pub(crate) fn typed(&self) -> Typed<'_> {
        let (shapes, root) = &self.types().shapes;
        shapes.at(*root)
    }

    /// The type of another version of the same objects.
    pub(crate) fn typed_in(&self, api_version: &str) -> Option<Typed<'_>> {
        let at = self.defined.versions.iter().position(|of| of.row.api_version() == api_version)?;
        let (shapes, root) = &self.defined.types(at).shapes;
        Some(shapes.at(*root))
    }

    /// What OpenAPI says of it.
    pub(crate) fn published(&self, form: Form) -> Published {
        published(self.kind, self.definition(), self.version(), self.defined.schema(self.at).as_ref(), form)
    }

    /// Brings an object that somebody writes into the form of its schema.
    pub(crate) fn shape(&self, object: &mut Value) -> schema::Findings {
        self.drop_nulls(object);
        self.shape_applied(object)
    }

    /// Brings an object that a configuration was applied to into the form of its schema: there, nulls are
    /// meant.
    pub(crate) fn shape_applied(&self, object: &mut Value) -> schema::Findings {
        self.fit(object, Malformed::Refused)
    }

    fn prunes(&self) -> bool {
        !self.definition().preserve_unknown_fields
    }

    fn drop_nulls(&self, object: &mut Value) {
        if self.prunes() {
            self.schema().drop_nulls(object);
        }
    }

    /// Leaves of an object what its schema knows, and fills in the defaults.
    fn fit(&self, object: &mut Value, malformed: Malformed) -> schema::Findings {
        let schema = self.schema();
        let mut unknown = if self.prunes() { schema.prune(object) } else { Vec::new() };
        match schema.coerce(object, malformed) {
            Err(error) => return schema::Findings { unknown, ill_typed: Some(error.to_string()) },
            Ok(more) => unknown.extend(more),
        }
        schema.default(object);
        schema::Findings { unknown, ill_typed: None }
    }

    /// Brings an object that was checked into the form in which it is read back: with the default of a status
    /// that its writer could not set, without nulls that nothing was said against.
    pub(crate) fn settle(&self, object: &mut Value) {
        self.drop_nulls(object);
        self.schema().default(object);
    }

    /// Whether stored bytes are an object of this version as it is shown.
    pub(crate) fn is_shown(&self, record: &Record) -> bool {
        self.defined.uniform
            && record.revision > self.defined.since
            && record.value.starts_with(self.defined.versions[self.at].head.as_bytes())
    }

    /// Stored objects in this version, by the schema as it is now.
    pub(crate) async fn read(&self, stored: Vec<Value>) -> Result<Vec<Value>, Refusal> {
        let mut objects = self.converted(stored, self.kind).await?;
        let fit = |object: &mut Value| {
            self.drop_nulls(object);
            self.fit(object, Malformed::Dropped).ill_typed
        };
        let ill_typed = objects.iter_mut().find_map(fit);
        ill_typed.map_or(Ok(objects), |why| Err(Refusal::internal(why)))
    }

    /// A stored object in this version.
    pub(crate) async fn read_one(&self, stored: Value) -> Result<Value, Refusal> {
        Ok(self.read(vec![stored]).await?.pop().unwrap_or_default())
    }

    /// An object of this version as it is stored.
    pub(crate) async fn stored(&self, object: Value) -> Result<Value, Refusal> {
        self.in_form(object, self.defined.versions[self.defined.storage].row).await
    }

    /// An object of any version in another one.
    pub(crate) async fn in_form(&self, object: Value, form: &'static Kind) -> Result<Value, Refusal> {
        Ok(self.converted(vec![object], form).await?.pop().unwrap_or_default())
    }

    /// An object of any version in another one, at once: what compares versions does not wait. A webhook
    /// that is asked holds up the thread alone that asks, which is left to others meanwhile.
    pub(crate) fn in_version(&self, object: Value, api_version: &str) -> Option<Value> {
        let to = self.defined.versions.iter().find(|of| of.row.api_version() == api_version)?;
        let converting = self.converted(vec![object], to.row);
        let converted = match self.definition().conversion {
            Conversion::None => converting.now_or_never()?,
            Conversion::Webhook { .. } => block_in_place(|| Handle::current().block_on(converting)),
        };
        converted.ok()?.pop()
    }

    async fn converted(&self, objects: Vec<Value>, to: &'static Kind) -> Result<Vec<Value>, Refusal> {
        // Kubernetes gives no reason here.
        self.converters.convert(&self.defined, objects, to).await.map_err(|why| Refusal::new(500, "", why))
    }

    /// What is wrong with a new object.
    pub(crate) fn check_new(&self, object: &Value) -> Findings {
        let mut errors = self.check_type(object);
        if !errors.is_empty() {
            return Findings { errors, ..Findings::default() };
        }
        errors = validate::check(object, |at| {
            validate::object_meta(&at.get("metadata"), self.kind.namespaced, dns_subdomain);
        });
        errors.extend(self.schema().validate(object, None));
        errors.extend(self.check_scale(object, true));
        errors.extend(validate::check(object, |at| self.schema().validate_embedded(at)));
        errors.extend(self.schema().list_types(object));
        self.with_rules(errors, object, None)
    }

    /// What is wrong with a change of an object, or of its status.
    pub(crate) fn check_change(&self, new: &Value, old: &Value, part: Part) -> Findings {
        let mut errors = self.check_type(new);
        if !errors.is_empty() {
            return Findings { errors, ..Findings::default() };
        }
        let (schema, whole) = (self.schema(), part != Part::Status);
        errors = validate::check(new, |at| {
            validate::object_meta_update(&at.get("metadata"), &old["metadata"]);
        });
        if whole {
            errors.extend(schema.validate(new, Some(old)));
        } else if let (Some(status), Some(of)) = (new.get("status"), schema.property("status")) {
            errors.extend(of.validate_at(&Path::new("status"), status, old.get("status")));
        }
        errors.extend(self.check_scale(new, whole));
        if whole {
            errors.extend(validate::check(new, |at| schema.validate_embedded(at)));
        }
        if schema.list_types(old).is_empty() {
            errors.extend(schema.list_types(new));
        }
        self.with_rules(errors, new, Some(old))
    }

    /// What the rules of the schema find besides, if what was found before lets them look.
    fn with_rules(&self, mut errors: Vec<Error>, new: &Value, old: Option<&Value>) -> Findings {
        let Some(rules) = &self.types().rules else { return Findings { errors, ..Findings::default() } };
        if errors.iter().any(|error| BLOCKING.contains(&error.cause())) {
            errors.push(Error::invalid(&Path::new("<nil>"), Value::Null, NOT_CHECKED));
            return Findings { errors, ..Findings::default() };
        }
        let found = rules.evaluate(new, old);
        errors.extend(found.errors);
        Findings { errors, ..found }
    }

    /// What to warn a writer of: finalizers that it adds and that could be anybody's.
    pub(crate) fn warnings(&self, new: &Value, old: &Value) -> Vec<String> {
        let of = |object: &Value| object["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
        let before = of(old);
        let mut added: Vec<Value> = of(new).into_iter().filter(|own| !before.contains(own)).collect();
        added.sort_by(|one, other| one.as_str().cmp(&other.as_str()));
        added.dedup();
        let lone = added.iter().filter_map(Value::as_str);
        let lone = lone.filter(|name| !name.contains('/') && !FINALIZERS.contains(name));
        lone.map(|name| {
            let path = if name.contains('.') { " including a path (/)" } else { "" };
            format!("metadata.finalizers: {name:?}: prefer a domain-qualified finalizer name{path} to avoid accidental conflicts with other finalizer writers")
        }).collect()
    }

    fn check_type(&self, object: &Value) -> Vec<Error> {
        let own = [("kind", self.kind.kind.to_owned()), ("apiVersion", self.kind.api_version())];
        let wrong = own.into_iter().filter(|(field, own)| object[*field] != own.as_str());
        wrong
            .map(|(field, own)| {
                Error::invalid(&Path::new(field), object[field].clone(), format!("must be {own}"))
            })
            .collect()
    }

    fn check_scale(&self, object: &Value, with_spec: bool) -> Vec<Error> {
        self.scale()
            .map_or_else(Vec::new, |scale| validate::check(object, |at| scale.validate(at, with_spec)))
    }
}
