//! Definitions of custom resources without their schemas.
#![expect(missing_docs, reason = "the fields are those of the API")]

use super::Meta;
use crate::Object;
use k8s_openapi::{ClusterResourceScope, Resource};
use serde::Deserialize;

/// A `CustomResourceDefinition`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct CustomResourceDefinition {
    pub metadata: Meta,
    pub spec: DefinitionSpec,
    pub status: DefinitionStatus,
}

impl Resource for CustomResourceDefinition {
    const API_VERSION: &'static str = "apiextensions.k8s.io/v1";
    const GROUP: &'static str = "apiextensions.k8s.io";
    const KIND: &'static str = "CustomResourceDefinition";
    const VERSION: &'static str = "v1";
    const URL_PATH_SEGMENT: &'static str = "customresourcedefinitions";
    type Scope = ClusterResourceScope;
}

impl Object for CustomResourceDefinition {
    type Meta = Meta;

    fn from_json(bytes: &[u8]) -> serde_json::Result<Self> {
        serde_json::from_slice(bytes)
    }

    fn meta(&self) -> &Meta {
        &self.metadata
    }
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct DefinitionSpec {
    pub group: Box<str>,
    pub names: DefinitionNames,
    pub scope: Box<str>,
    pub versions: Box<[DefinitionVersion]>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DefinitionNames {
    pub plural: Box<str>,
    pub singular: Box<str>,
    pub short_names: Box<[Box<str>]>,
    pub kind: Box<str>,
    pub list_kind: Box<str>,
    pub categories: Box<[Box<str>]>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct DefinitionVersion {
    pub name: Box<str>,
    pub served: bool,
    pub storage: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DefinitionStatus {
    /// Null before there are any.
    pub conditions: Option<Box<[DefinitionCondition]>>,
    pub accepted_names: DefinitionNames,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DefinitionCondition {
    #[serde(rename = "type")]
    pub type_: Box<str>,
    pub status: Box<str>,
    pub reason: Box<str>,
    pub message: Box<str>,
    pub last_transition_time: Option<Box<str>>,
}

impl CustomResourceDefinition {
    /// Whether a condition is True.
    pub fn is(&self, condition: &str) -> bool {
        self.conditions().iter().any(|one| *one.type_ == *condition && &*one.status == "True")
    }

    /// Its conditions.
    pub fn conditions(&self) -> &[DefinitionCondition] {
        self.status.conditions.as_deref().unwrap_or_default()
    }
}
