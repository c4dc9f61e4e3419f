//! Field management: who owns which fields of an object (`managedFields`), told at every write, and
//! server-side apply.

use super::{Change, Context, Form, Outcome, Place, Registry, timestamp};
use crate::catalogue::Subject;
use crate::conversion::{shown, stored};
use api::apply::{Error, Managed, Set, Typed, Versions, Writing, of_kind, same_but_times};
use api::kinds::{Kind, by_kind};
use api::status::Refusal;
use serde_json::{Map, Value, json};
use std::sync::LazyLock;

/// What `kubectl apply` keeps on its side of what it applied.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// All annotations of an object together (Kubernetes' limit).
const ANNOTATION_BYTES: usize = 256 << 10;

/// Who writes, as `managedFields` name it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Writer {
    /// `fieldManager`, or what the user agent says.
    pub(crate) manager: String,
    /// "" for the object itself.
    pub(crate) subresource: &'static str,
    /// Conflicts are won.
    pub(crate) force: bool,
}

/// What is known of an object's owners while it is written.
pub(super) enum Owned {
    /// They are to be told from the change: what the writer says of them, and what is stored.
    ToTell { stated: Value, stored: Value },
    /// They are told already: what they are now, and what is stored.
    Told { managed: Value, stored: Value },
    /// They are told, and but for a time are those that are stored.
    Renewed,
}

impl Owned {
    /// `managedFields` as they are stored, unless they are those that are told now.
    pub(super) fn stored(&self) -> Option<&Value> {
        match self {
            Self::ToTell { stored, .. } | Self::Told { stored, .. } => Some(stored),
            Self::Renewed => None,
        }
    }
}

static NONE: Value = Value::Null;
static NOTHING: LazyLock<Value> = LazyLock::new(|| Value::Object(Map::new()));

/// Takes `managedFields` out of an object: they are no part of what is compared and checked.
pub(super) fn take(object: &mut Value) -> Value {
    let meta = object.get_mut("metadata").and_then(Value::as_object_mut);
    meta.and_then(|meta| meta.remove("managedFields")).unwrap_or_default()
}

/// Puts `managedFields` into an object.
pub(super) fn put(object: &mut Value, managed: Value) {
    if !managed.is_null() {
        object["metadata"]["managedFields"] = managed;
    }
}

/// Whether a form says no more than what is stored, but for the times of managers.
pub(super) fn is_same(managed: &Value, owned: &Owned) -> bool {
    owned.stored().is_none_or(|stored| same_but_times(managed, stored))
}

/// Fields that writes through a door of a kind never change, so that nobody owns them by such a write.
fn reset(kind: &Kind, subresource: &str) -> &'static Set {
    type Row = LazyLock<Set>;
    static EMPTY: Row = LazyLock::new(Set::default);
    static STATUS: Row = LazyLock::new(|| Set::of(&[&["status"]]));
    static SPEC: Row = LazyLock::new(|| Set::of(&[&["spec"]]));
    static SPEC_META: Row = LazyLock::new(|| Set::of(&[&["spec"], &["metadata"]]));
    static SPEC_LABELS: Row = LazyLock::new(|| Set::of(&[&["spec"], &["metadata", "labels"]]));
    static SPEC_STATUS: Row = LazyLock::new(|| Set::of(&[&["spec"], &["status"]]));
    static APPROVAL: Row = LazyLock::new(|| Set::of(&[&["spec"], &["status", "certificate"]]));
    static CERTIFICATE: Row = LazyLock::new(|| Set::of(&[&["spec"], &["status", "conditions"]]));
    static POD: Row = LazyLock::new(|| {
        Set::of(&[&["spec"], &["metadata", "deletionTimestamp"], &["metadata", "ownerReferences"]])
    });
    match (subresource, kind.kind) {
        ("status", _) if kind.custom => &SPEC_META,
        ("", "CertificateSigningRequest") => &SPEC_STATUS,
        ("status", "CertificateSigningRequest") => &CERTIFICATE,
        ("approval", _) => &APPROVAL,
        ("status", "Deployment") => &SPEC_LABELS,
        ("status", "Pod") => &POD,
        (
            "status",
            "DeviceTaintRule"
            | "FlowSchema"
            | "PodGroup"
            | "PriorityLevelConfiguration"
            | "ResourceClaim"
            | "ResourcePoolStatusRequest"
            | "ServiceCIDR"
            | "StorageVersion"
            | "StorageVersionMigration"
            | "ValidatingAdmissionPolicy"
            | "VolumeAttachment",
        ) => &SPEC_META,
        ("status", _) => &SPEC,
        ("" | "finalize", _) if kind.subresource("status").is_some() => &STATUS,
        _ => &EMPTY,
    }
}

/// The versions in which a kind is served.
struct Served<'a> {
    of: Subject<'a>,
    api_version: String,
    ty: Typed<'a>,
}

impl Served<'_> {
    /// The kind in a version, if that is another form of the same objects.
    fn other(&self, api_version: &str) -> Option<&'static Kind> {
        let other = by_kind(api_version, self.of.kind.kind)?;
        (other.storage_prefix() == self.of.kind.storage_prefix()).then_some(other)
    }
}

impl Versions for Served<'_> {
    fn typed(&self, api_version: &str) -> Option<Typed<'_>> {
        match self.of.custom {
            _ if api_version == self.api_version => Some(self.ty),
            Some(custom) => custom.typed_in(api_version),
            None => of_kind(self.other(api_version)?),
        }
    }

    fn convert(&self, object: &Value, api_version: &str) -> Option<Value> {
        if let Some(custom) = self.of.custom {
            return custom.in_version(object.clone(), api_version);
        }
        let from = self.other(object["apiVersion"].as_str()?)?;
        Some(shown(self.other(api_version)?, stored(from, object.clone())))
    }
}

/// Runs `tell` with what is to be known of a write; `None` for kinds without a type.
fn writing<T>(of: Subject<'_>, writer: &Writer, tell: impl FnOnce(&Writing<'_>) -> T) -> Option<T> {
    let now = timestamp();
    let kind = of.kind;
    let ty = of.custom.map_or_else(|| of_kind(kind), |custom| Some(custom.typed()))?;
    let served = Served { of, api_version: kind.api_version(), ty };
    let (versions, api_version): (&dyn Versions, &str) = (&served, &served.api_version);
    let Writer { manager, subresource, .. } = writer;
    let reset = reset(kind, subresource);
    Some(tell(&Writing { versions, api_version, manager, subresource, reset, now: &now }))
}

/// `managedFields` of an object that is written otherwise than by applying; `old` is its form before,
/// if there was one. Both come without `managedFields`, in any version.
pub(super) fn tell(
    of: Subject<'_>,
    (new, old): (&Value, Option<&Value>),
    owned: &mut Owned,
    writer: &Writer,
) -> Value {
    let (stated, stored) = match owned {
        Owned::Told { managed, .. } => return managed.clone(),
        Owned::ToTell { stated, stored } => (&*stated, stored),
        Owned::Renewed => return Value::Null,
    };
    // Through a subresource nobody says who owns what.
    let stated = if writer.subresource.is_empty() { stated } else { &NONE };
    let silent = stated.is_null() || stated == stored;
    if silent && old == Some(new) {
        return stored.clone();
    }
    if let Some(old) = old.filter(|_| silent)
        && writing(of, writer, |writing| writing.renew(old, new, stored)) == Some(true)
    {
        let managed = std::mem::take(stored);
        *owned = Owned::Renewed;
        return managed;
    }
    let managed = if Managed::is_reset(stated) {
        Managed::default()
    } else {
        let stated = Managed::stated(stated).ok().filter(|said| !silent && !said.0.is_empty());
        stated.unwrap_or_else(|| Managed::stored(stored))
    };
    // An object whose managers were forgotten is followed again from the first time it is applied to.
    if managed.0.is_empty() && old.is_some() {
        return Value::Null;
    }
    let old = old.unwrap_or(&NOTHING);
    writing(of, writer, |writing| writing.update(old, new, managed)).map_or(Value::Null, Managed::write)
}

/// Notes in a new object that this server made it.
pub(crate) fn note_maker(kind: &'static Kind, object: &mut Value) {
    note_writer(kind, object, &Writer { manager: "kube-apiserver".to_owned(), ..Writer::default() });
}

/// Notes in a new object who made it.
pub(crate) fn note_writer(kind: &'static Kind, object: &mut Value, writer: &Writer) {
    let mut owned = Owned::ToTell { stated: Value::Null, stored: Value::Null };
    let managed = tell(Subject::of(kind), (object, None), &mut owned, writer);
    put(object, managed);
}

/// Applies a configuration to a stored object, which comes without `managedFields`, or to `None`. Returns
/// the object's new form in the version of the configuration, and its `managedFields`.
pub(super) fn apply(
    of: Subject<'_>,
    config: &Value,
    (live, stored): (Option<&Value>, &Value),
    writer: &Writer,
) -> Result<(Value, Value), Refusal> {
    let kind = of.kind;
    check_config(kind, config)?;
    let form = live.filter(|_| kind.stored_as().is_some()).map(|live| shown(kind, live.clone()));
    let live = form.as_ref().or(live).unwrap_or(&NOTHING);
    let by_kubectl = writer.manager == "kubectl";
    let last = live["metadata"]["annotations"][LAST_APPLIED].as_str().filter(|_| by_kubectl && !writer.force);
    let last: Option<Value> = last.and_then(|text| serde_json::from_str(text).ok());
    let applied = writing(of, writer, |writing| {
        let managed = Managed::stored(stored);
        match &last {
            Some(last) => writing.apply_over(live, config, managed, last),
            None => writing.apply(live, config, managed, writer.force),
        }
    });
    let applied = applied.ok_or_else(|| Refusal::internal(format!("{} has no type", kind.kind)))?;
    let mut applied = applied.map_err(|error| refusal(error, config))?;
    if by_kubectl {
        keep_last_applied(&mut applied.object, config);
    }
    Ok((applied.object, applied.managed.write()))
}

/// `group/version, Kind=kind` as Kubernetes' messages have it.
pub(super) fn stated_kind(config: &Value) -> String {
    let version = config["apiVersion"].as_str().unwrap_or_default();
    let slash = if version.contains('/') { "" } else { "/" };
    format!("{slash}{version}, Kind={}", config["kind"].as_str().unwrap_or_default())
}

fn check_config(kind: &Kind, config: &Value) -> Result<(), Refusal> {
    if config["apiVersion"] != kind.api_version() || config["kind"] != kind.kind {
        return Err(Refusal::bad_request(format!("invalid object type: {}", stated_kind(config))));
    }
    if !config["metadata"]["managedFields"].is_null() {
        return Err(Refusal::bad_request("metadata.managedFields must be nil"));
    }
    Ok(())
}

fn refusal(error: Error, config: &Value) -> Refusal {
    match error {
        Error::Conflicts(conflicts) => {
            let mut refusal = Refusal::new(409, "Conflict", Error::Conflicts(conflicts.clone()).to_string());
            let causes = conflicts.into_iter().map(|conflict| {
                json!({"reason": "FieldManagerConflict", "field": conflict.field,
                    "message": format!("conflict with {}", conflict.manager)})
            });
            refusal.details = json!({"causes": causes.collect::<Vec<_>>()});
            refusal
        }
        Error::IllTyped(why) => {
            let text = |field: &str| config["metadata"][field].as_str().unwrap_or_default().to_owned();
            let message = format!(
                "failed to create typed patch object ({}/{}; {}): {why}",
                text("namespace"),
                text("name"),
                stated_kind(config)
            );
            Refusal::new(500, "", message)
        }
    }
}

/// Keeps what `kubectl` would have written on its side in step, where it once did.
fn keep_last_applied(object: &mut Value, config: &Value) {
    let Some(annotations) = object["metadata"]["annotations"].as_object_mut() else { return };
    if annotations.get(LAST_APPLIED).and_then(Value::as_str).unwrap_or_default().is_empty() {
        return;
    }
    let mut config = config.clone();
    if let Some(own) = config["metadata"]["annotations"].as_object_mut() {
        own.remove(LAST_APPLIED);
    }
    // As Go writes JSON for web pages; these letters are found in texts alone.
    let mut text = config.to_string();
    for (letter, escaped) in [
        ('<', "\\u003c"),
        ('>', "\\u003e"),
        ('&', "\\u0026"),
        ('\u{2028}', "\\u2028"),
        ('\u{2029}', "\\u2029"),
    ] {
        if text.contains(letter) {
            text = text.replace(letter, escaped);
        }
    }
    text.push('\n');
    annotations.insert(LAST_APPLIED.to_owned(), Value::from(text));
    let bytes: usize =
        annotations.iter().map(|(name, value)| name.len() + value.as_str().unwrap_or_default().len()).sum();
    if bytes > ANNOTATION_BYTES {
        annotations.remove(LAST_APPLIED);
    }
}

impl Registry {
    /// The form that a change asks for, and what is known of its owners. Both forms are left without
    /// `managedFields`.
    pub(super) fn proposed(
        &self,
        of: Subject<'_>,
        change: &Change,
        old: &mut Value,
        context: &Context,
    ) -> Result<(Value, Owned), Refusal> {
        let kind = of.kind;
        match change {
            Change::Apply(config) => {
                let stored = take(old);
                let (new, managed) = apply(of, config, (Some(old), &stored), &context.writer)?;
                Ok((new, Owned::Told { managed, stored }))
            }
            _ => {
                let form = kind.stored_as().map(|_| shown(kind, old.clone()));
                let mut new = change.apply(form.as_ref().unwrap_or(old), kind)?;
                let stated = take(&mut new);
                Ok((new, Owned::ToTell { stated, stored: take(old) }))
            }
        }
    }

    /// Creates the object that is applied to and not there.
    pub(super) async fn create_applied(
        &self,
        place: Place<'_>,
        config: &Value,
        context: &Context,
    ) -> Result<Outcome, Refusal> {
        let Place { kind, name, .. } = place;
        let custom = self.custom(kind)?;
        let of = Subject { kind, custom: custom.as_ref() };
        let (object, managed) = apply(of, config, (None, &NONE), &context.writer)?;
        let uid = object["metadata"]["uid"].as_str().unwrap_or_default();
        if !uid.is_empty() {
            let why = format!(
                "uid mismatch: the provided object specified uid {uid}, and no existing object was found"
            );
            return Err(Refusal::conflict(kind, name, &why));
        }
        let form = Form::of(kind).with(of.custom);
        let object = context.read(object, form)?;
        super::update::check_name(&object["metadata"], name)?;
        let object = stored(kind, object);
        let mut owned = Owned::Told { managed, stored: Value::Null };
        self.create_instead(place, (object, &mut owned), context).await
    }
}
