//! Metadata without what nobody decides by.
#![expect(missing_docs, reason = "the fields are those of the API")]

use super::Map;
use crate::meta::Time;
use crate::object::{self, Controller};
use serde::{Deserialize, Deserializer};
use std::collections::BTreeMap;

/// What a pod's end costs, to choose the one to delete.
pub const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";
/// Which part of an indexed Job a pod is.
pub const JOB_INDEX: &str = "batch.kubernetes.io/job-completion-index";
/// How often a part of an indexed Job has failed before a pod of it, and what of that does not count.
pub const INDEX_FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
/// See [`INDEX_FAILURES`].
pub const IGNORED_FAILURES: &str = "batch.kubernetes.io/job-index-ignored-failure-count";
/// Who approved a definition in a group of the project.
pub const API_APPROVED: &str = "api-approved.kubernetes.io";
/// The key, in base64, by which a node's packets are known to other nodes.
pub const WIREGUARD_KEY: &str = "knarr.io/wireguard-public-key";
/// When a slice's controller saw what made it change its slice.
pub const LAST_CHANGE_TRIGGER: &str = "endpoints.kubernetes.io/last-change-trigger-time";
/// The annotations that somebody decides by.
const ANNOTATIONS: [&str; 7] = [
    DELETION_COST,
    JOB_INDEX,
    INDEX_FAILURES,
    IGNORED_FAILURES,
    API_APPROVED,
    WIREGUARD_KEY,
    LAST_CHANGE_TRIGGER,
];

/// The metadata of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Meta {
    pub name: Option<Box<str>>,
    pub namespace: Option<Box<str>>,
    pub uid: Option<Box<str>>,
    pub resource_version: Option<Box<str>>,
    pub generation: Option<i64>,
    pub creation_timestamp: Option<Time>,
    pub deletion_timestamp: Option<Time>,
    pub labels: Map,
    /// Only those that somebody decides by.
    #[serde(deserialize_with = "annotations")]
    pub annotations: Map,
    pub owner_references: Option<Box<[OwnerReference]>>,
    pub finalizers: Option<Box<[Box<str>]>>,
}

/// An owner, known by its uid.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OwnerReference {
    pub api_version: Box<str>,
    pub kind: Box<str>,
    pub name: Box<str>,
    pub uid: Box<str>,
    pub controller: Option<bool>,
}

impl object::Meta for Meta {
    type Texts = Map;

    fn name(&self) -> &str {
        self.name.as_deref().unwrap_or_default()
    }

    fn namespace(&self) -> &str {
        self.namespace.as_deref().unwrap_or_default()
    }

    fn uid(&self) -> &str {
        self.uid.as_deref().unwrap_or_default()
    }

    fn resource_version(&self) -> Option<&str> {
        self.resource_version.as_deref()
    }

    fn created(&self) -> Option<&Time> {
        self.creation_timestamp.as_ref()
    }

    fn deleted(&self) -> Option<&Time> {
        self.deletion_timestamp.as_ref()
    }

    fn labels(&self) -> &Map {
        &self.labels
    }

    fn annotations(&self) -> &Map {
        &self.annotations
    }

    fn controller(&self) -> Option<Controller<'_>> {
        let owner = self.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))?;
        let OwnerReference { api_version, kind, name, uid, .. } = owner;
        Some(Controller { api_version, kind, name, uid })
    }
}

fn annotations<'de, D: Deserializer<'de>>(from: D) -> Result<Map, D::Error> {
    let mut all = Option::<BTreeMap<Box<str>, Box<str>>>::deserialize(from)?.unwrap_or_default();
    all.retain(|key, _| ANNOTATIONS.contains(&&**key));
    Ok(all.into())
}
