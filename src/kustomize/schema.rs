//! How values are merged, as far as a schema tells: Kubernetes' own, or one that a kustomization brings.

use crate::error::{Error, Result};
use api::schema::{Field, Merge, Type, TypeId, schema};
use serde_json::Value;
use std::rc::Rc;

/// Schemas for custom kinds (`openapi`), beside the built-in ones.
#[derive(Clone, Debug, Default)]
pub(crate) struct Schemas(Option<Rc<Value>>);

impl Schemas {
    /// Reads an OpenAPI document, of which `definitions` are used.
    pub(crate) fn read(bytes: &[u8]) -> Result<Self> {
        let document = api::yaml::first(bytes).map_err(|error| Error::new(error.to_string()))?;
        if !document.value["definitions"].is_object() {
            return Err(Error::new("the schema of openapi.path has no definitions"));
        }
        Ok(Self(Some(Rc::new(document.value))))
    }

    /// The shape of objects of a kind.
    pub(crate) fn of<'s>(&'s self, api_version: &str, kind: &str) -> Shape<'s> {
        if let Some(document) = &self.0 {
            let definitions = document["definitions"].as_object().into_iter().flatten();
            for (_, definition) in definitions {
                let kinds = definition["x-kubernetes-group-version-kind"].as_array();
                if kinds.into_iter().flatten().any(|one| is_kind(one, api_version, kind)) {
                    return Shape::Custom { node: definition, document };
                }
            }
        }
        known(api_version, kind).map_or(Shape::Unknown, |id| Shape::Known { ty: Inner::Ref(id), field: None })
    }
}

fn is_kind(one: &Value, api_version: &str, kind: &str) -> bool {
    let text = |field: &str| one[field].as_str().unwrap_or_default();
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    (text("group"), text("version"), text("kind")) == (group, version, kind)
}

/// A kind of Kubernetes; of versions that are served no more, by the one that is.
fn known(api_version: &str, kind: &str) -> Option<TypeId> {
    let table = schema();
    table.by_stated(api_version, kind).or_else(|| {
        let (group, _) = api_version.split_once('/')?;
        let row = api::kinds::served().find(|row| row.group == group && row.kind == kind)?;
        table.of(row)
    })
}

/// The type of a value.
#[derive(Clone, Copy)]
pub(crate) enum Inner<'s> {
    Ref(TypeId),
    Type(&'s Type),
}

/// What is known of a value.
#[derive(Clone, Copy)]
pub(crate) enum Shape<'s> {
    /// Nothing.
    Unknown,
    /// A type of Kubernetes, and the field it stands in.
    Known { ty: Inner<'s>, field: Option<&'s Field> },
    /// A schema, and the document it refers to.
    Custom { node: &'s Value, document: &'s Value },
}

impl<'s> Shape<'s> {
    /// That of a field.
    pub(crate) fn field(self, name: &str) -> Self {
        match self {
            Self::Unknown => Self::Unknown,
            Self::Known { ty, .. } => match ty {
                Inner::Ref(id) => Self::of_type(id, name),
                Inner::Type(Type::Ref(id)) => Self::of_type(*id, name),
                Inner::Type(Type::Map(value)) => Self::Known { ty: Inner::Type(value), field: None },
                Inner::Type(_) => Self::Unknown,
            },
            Self::Custom { node, document } => {
                let property = &node["properties"][name];
                let inner = if property.is_object() { property } else { &node["additionalProperties"] };
                Self::custom(inner, document)
            }
        }
    }

    fn of_type(id: TypeId, name: &str) -> Self {
        let field = schema().get(id).field(name);
        field.map_or(Self::Unknown, |field| Self::Known { ty: Inner::Type(&field.ty), field: Some(field) })
    }

    /// That of a list's items.
    pub(crate) fn items(self) -> Self {
        match self {
            Self::Known { ty: Inner::Type(Type::List(item)), .. } => {
                Self::Known { ty: Inner::Type(item), field: None }
            }
            Self::Custom { node, document } => Self::custom(&node["items"], document),
            _ => Self::Unknown,
        }
    }

    /// The keys by which items of a list are merged, none for scalars; nothing if the list is replaced.
    pub(crate) fn keys(self) -> Option<Vec<&'s str>> {
        match self {
            Self::Known { field: Some(field), .. } => {
                let merges = field.patch_strategy.split(',').any(|one| one == "merge");
                merges.then(|| match &field.merge {
                    Merge::Keyed(keys) => keys.clone(),
                    _ => Some(field.patch_key).filter(|key| !key.is_empty()).into_iter().collect(),
                })
            }
            Self::Custom { node, .. } => {
                let strategy = node["x-kubernetes-patch-strategy"].as_str().unwrap_or_default();
                let merges = strategy.split(',').any(|one| one == "merge");
                merges.then(|| match node["x-kubernetes-list-map-keys"].as_array() {
                    Some(keys) => keys.iter().filter_map(Value::as_str).collect(),
                    None => node["x-kubernetes-patch-merge-key"].as_str().into_iter().collect(),
                })
            }
            _ => None,
        }
    }

    /// A schema, or what it refers to; what is said beside a reference does not count, as in kustomize.
    fn custom(node: &'s Value, document: &'s Value) -> Self {
        /// How many references are followed in a row.
        const REFERENCES: usize = 32;
        let mut node = node;
        for _ in 0..REFERENCES {
            let Some(reference) = node["$ref"].as_str() else { break };
            let name = reference.trim_start_matches("#/definitions/");
            node = &document["definitions"][name];
            if node.is_null() {
                // A type of Kubernetes' own, by its published name.
                let id = schema().by_name(name.trim_start_matches("io.k8s."));
                return id.map_or(Self::Unknown, |id| Self::Known { ty: Inner::Ref(id), field: None });
            }
        }
        if node.is_object() { Self::Custom { node, document } } else { Self::Unknown }
    }
}
