//! One object, who it is and was, and what is remembered of it while it is being changed.

use crate::error::{Error, Result};
use crate::origin::Origin;
use api::kinds;
use serde_json::{Map, Value};
use std::collections::HashSet;
use std::fmt;
use std::sync::LazyLock;

/// Where objects of the cluster are: a namespace that nothing can have.
const NOWHERE: &str = "_non_namespaceable_";

/// Group, version and kind; of a selector what is empty is anything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Gvk {
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) kind: String,
}

impl Gvk {
    pub(crate) fn new(api_version: &str, kind: &str) -> Self {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        Self { group: group.to_owned(), version: version.to_owned(), kind: kind.to_owned() }
    }

    /// Whether a selector means this.
    pub(crate) fn is_selected(&self, selector: &Self) -> bool {
        let meant = |own: &str, wanted: &str| wanted.is_empty() || own == wanted;
        meant(&self.group, &selector.group)
            && meant(&self.version, &selector.version)
            && meant(&self.kind, &selector.kind)
    }

    /// Objects of this kind are certainly in no namespace.
    pub(crate) fn is_cluster_scoped(&self) -> bool {
        static CLUSTER: LazyLock<HashSet<(&str, &str)>> = LazyLock::new(|| {
            kinds::served().filter(|kind| !kind.namespaced).map(|kind| (kind.group, kind.kind)).collect()
        });
        CLUSTER.contains(&(self.group.as_str(), self.kind.as_str()))
    }

    pub(crate) fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }
}

fn or<'a>(text: &'a str, instead: &'a str) -> &'a str {
    if text.is_empty() { instead } else { text }
}

impl fmt::Display for Gvk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, version) = (or(&self.kind, "[noKind]"), or(&self.version, "[noVer]"));
        write!(f, "{kind}.{version}.{}", or(&self.group, "[noGrp]"))
    }
}

/// Who an object is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Id {
    pub(crate) gvk: Gvk,
    pub(crate) name: String,
    pub(crate) namespace: String,
}

impl Id {
    /// The namespace it is in: `default` where it says none, nowhere if it belongs to the cluster.
    pub(crate) fn effective_namespace(&self) -> &str {
        if self.gvk.is_cluster_scoped() { NOWHERE } else { or(&self.namespace, "default") }
    }

    /// The same object.
    pub(crate) fn is(&self, other: &Self) -> bool {
        self.name == other.name
            && self.gvk == other.gvk
            && self.effective_namespace() == other.effective_namespace()
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}.{}", self.gvk, or(&self.name, "[noName]"), or(&self.namespace, "[noNs]"))
    }
}

/// What a generated object does to one that is there already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Behavior {
    /// There must be none.
    #[default]
    Create,
    /// It takes the other's place.
    Replace,
    /// What both hold is put together.
    Merge,
    /// Nothing was said.
    Unspecified,
}

impl fmt::Display for Behavior {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Create => "create",
            Self::Replace => "replace",
            Self::Merge => "merge",
            Self::Unspecified => "unspecified",
        })
    }
}

/// An earlier name.
#[derive(Clone, Debug)]
pub(crate) struct Previous {
    namespace: String,
    name: String,
    kind: String,
}

/// An object with its history.
#[derive(Clone, Debug, Default)]
pub(crate) struct Resource {
    /// Null once it is deleted.
    pub(crate) object: Value,
    pub(crate) previous: Vec<Previous>,
    pub(crate) prefixes: Vec<String>,
    pub(crate) suffixes: Vec<String>,
    pub(crate) behavior: Option<Behavior>,
    /// Its name is to end with a hash of what it holds.
    pub(crate) hashed: bool,
    /// The variables that take their values from it.
    pub(crate) vars: Vec<String>,
    /// As a patch it may change names or kinds.
    pub(crate) renames: bool,
    pub(crate) changes_kind: bool,
    pub(crate) origin: Option<Origin>,
    pub(crate) transformations: Vec<Origin>,
}

impl Resource {
    pub(crate) fn new(object: Value) -> Self {
        Self { object, ..Self::default() }
    }

    pub(crate) fn text(&self, pointer: &str) -> &str {
        self.object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
    }

    pub(crate) fn kind(&self) -> &str {
        self.text("/kind")
    }

    pub(crate) fn name(&self) -> &str {
        self.text("/metadata/name")
    }

    pub(crate) fn namespace(&self) -> &str {
        self.text("/metadata/namespace")
    }

    pub(crate) fn gvk(&self) -> Gvk {
        Gvk::new(self.text("/apiVersion"), self.kind())
    }

    /// Who it is now.
    pub(crate) fn id(&self) -> Id {
        Id { gvk: self.gvk(), name: self.name().to_owned(), namespace: self.namespace().to_owned() }
    }

    /// Who it was, first things first.
    pub(crate) fn previous_ids(&self) -> impl Iterator<Item = Id> {
        self.previous.iter().map(|one| Id {
            gvk: Gvk { kind: one.kind.clone(), ..self.gvk() },
            name: one.name.clone(),
            namespace: one.namespace.clone(),
        })
    }

    /// Who it was when it was read.
    pub(crate) fn original_id(&self) -> Id {
        self.previous_ids().next().unwrap_or_else(|| self.id())
    }

    /// Whether it is or was one of whom this holds.
    pub(crate) fn any_id(&self, holds: impl Fn(&Id) -> bool) -> bool {
        self.previous_ids().any(|id| holds(&id)) || holds(&self.id())
    }

    /// Remembers who it is, before that changes.
    pub(crate) fn remember(&mut self) {
        let id = self.id();
        let namespace = id.effective_namespace().to_owned();
        self.previous.push(Previous { namespace, name: id.name, kind: id.gvk.kind });
    }

    /// Whether something of the build is noted on it, which kustomize keeps among the annotations.
    pub(crate) fn is_noted(&self) -> bool {
        let names = [&self.prefixes, &self.suffixes].iter().any(|names| !names.is_empty());
        names || !self.previous.is_empty() || self.behavior.is_some() || self.origin.is_some()
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.object.is_null() || self.object.as_object().is_some_and(Map::is_empty)
    }

    /// The object's fields.
    ///
    /// # Errors
    /// It has been deleted.
    pub(crate) fn fields(&mut self) -> Result<&mut Map<String, Value>> {
        self.object.as_object_mut().ok_or_else(|| Error::new("the object has been deleted"))
    }

    /// A map of its metadata, made if it is not there.
    pub(crate) fn metadata(&mut self, field: &str) -> Result<&mut Map<String, Value>> {
        map_of(map_of(self.fields()?, "metadata")?, field)
    }

    /// Texts of its metadata: labels or annotations.
    pub(crate) fn texts(&self, field: &str) -> impl Iterator<Item = (&str, String)> {
        let map = self.object.pointer(&format!("/metadata/{field}")).and_then(Value::as_object);
        map.into_iter().flatten().map(|(key, value)| (key.as_str(), text_of(value)))
    }

    /// Sets a text of its metadata; an empty one is taken away.
    pub(crate) fn set_metadata(&mut self, field: &str, text: &str) -> Result<()> {
        let metadata = map_of(self.fields()?, "metadata")?;
        if text.is_empty() {
            metadata.remove(field);
        } else {
            metadata.insert(field.to_owned(), Value::from(text));
        }
        Ok(())
    }
}

/// A map below another, made if it is not there.
pub(crate) fn map_of<'m>(map: &'m mut Map<String, Value>, field: &str) -> Result<&'m mut Map<String, Value>> {
    let inner = map.entry(field).or_insert(Value::Null);
    if inner.is_null() {
        *inner = Value::Object(Map::new());
    }
    inner.as_object_mut().ok_or_else(|| Error::new(format!("{field} is no map")))
}

/// How many values one object may have, and how deep: copies within it could double it again and again.
const VALUES: usize = 200_000;
const DEPTH: usize = 200;

/// Refuses an object that has grown too large.
pub(crate) fn check_size(object: &Value) -> Result<()> {
    let mut left = vec![(object, 0)];
    let mut seen = 0;
    while let Some((value, depth)) = left.pop() {
        seen += 1;
        if seen + left.len() > VALUES || depth > DEPTH {
            return Err(Error::new(format!(
                "an object has grown beyond {VALUES} values or a depth of {DEPTH} by what was copied into it"
            )));
        }
        match value {
            Value::Object(fields) => left.extend(fields.values().map(|value| (value, depth + 1))),
            Value::Array(items) => left.extend(items.iter().map(|value| (value, depth + 1))),
            _ => {}
        }
    }
    Ok(())
}

/// A scalar as it would be written.
pub(crate) fn text_of(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}
