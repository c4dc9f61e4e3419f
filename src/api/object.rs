//! One trait over all typed kinds, so that caches, queues and the client are written once.

use crate::meta::{ObjectMeta, OwnerReference};
use serde_json::Value;
use std::collections::BTreeMap;

/// Whether a kind's objects live in namespaces.
pub trait Scope {
    /// True for kinds whose objects live in namespaces.
    const NAMESPACED: bool;
}

impl Scope for k8s_openapi::NamespaceResourceScope {
    const NAMESPACED: bool = true;
}

impl Scope for k8s_openapi::ClusterResourceScope {
    const NAMESPACED: bool = false;
}

/// A typed Kubernetes object. Typed structs know the fields of one version: the API server never
/// stores what went through one.
///
/// JSON is read and written by functions of this room and not by serde's traits: those would be compiled
/// anew in every room that uses a kind, which took minutes of a build.
pub trait Object:
    k8s_openapi::Resource<Scope: Scope> + k8s_openapi::Metadata<Ty = ObjectMeta> + Clone + Send + Sync + 'static
{
    /// Reads an object.
    fn from_json(bytes: &[u8]) -> serde_json::Result<Self>;

    /// Writes the object.
    fn to_json(&self) -> serde_json::Result<Vec<u8>>;

    /// The object as a value.
    fn to_value(&self) -> serde_json::Result<Value>;

    /// `metadata.name`, or "" before one was given.
    fn name(&self) -> &str {
        self.metadata().name.as_deref().unwrap_or_default()
    }

    /// `metadata.namespace`, or "" for kinds outside namespaces.
    fn namespace(&self) -> &str {
        self.metadata().namespace.as_deref().unwrap_or_default()
    }

    /// `metadata.uid`, or "" before the server gave one.
    fn uid(&self) -> &str {
        self.metadata().uid.as_deref().unwrap_or_default()
    }

    /// `metadata.labels`.
    fn labels(&self) -> &BTreeMap<String, String> {
        static NONE: BTreeMap<String, String> = BTreeMap::new();
        self.metadata().labels.as_ref().unwrap_or(&NONE)
    }

    /// `metadata.annotations`.
    fn annotations(&self) -> &BTreeMap<String, String> {
        static NONE: BTreeMap<String, String> = BTreeMap::new();
        self.metadata().annotations.as_ref().unwrap_or(&NONE)
    }

    /// `metadata.resourceVersion` as the store's revision, 0 before it was stored.
    fn revision(&self) -> u64 {
        self.metadata().resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or(0)
    }

    /// `metadata.deletionTimestamp` is set.
    fn is_deleting(&self) -> bool {
        self.metadata().deletion_timestamp.is_some()
    }
}

/// The kinds that are worked with as typed objects.
macro_rules! objects {
    ($($kind:ty),* $(,)?) => {$(
        impl Object for $kind {
            fn from_json(bytes: &[u8]) -> serde_json::Result<Self> {
                serde_json::from_slice(bytes)
            }

            fn to_json(&self) -> serde_json::Result<Vec<u8>> {
                serde_json::to_vec(self)
            }

            fn to_value(&self) -> serde_json::Result<Value> {
                serde_json::to_value(self)
            }
        }
    )*};
}

objects!(
    crate::core::ConfigMap,
    crate::core::Endpoints,
    crate::core::Event,
    crate::core::Namespace,
    crate::core::Node,
    crate::core::Pod,
    crate::core::Secret,
    crate::core::Service,
    crate::core::ServiceAccount,
    crate::apps::Deployment,
    crate::apps::ReplicaSet,
    crate::batch::Job,
    crate::coordination::Lease,
    crate::discovery::EndpointSlice,
    k8s_openapi::api::node::v1::RuntimeClass,
);

/// The owner that controls this object, if any (`ownerReferences[].controller`).
pub fn controller_of(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references.as_ref()?.iter().find(|owner| owner.controller == Some(true))
}

/// The reference by which an object says that `owner` controls it and waits for its deletion.
pub fn owner_reference<T: Object>(owner: &T) -> OwnerReference {
    OwnerReference {
        api_version: T::API_VERSION.to_owned(),
        kind: T::KIND.to_owned(),
        name: owner.name().to_owned(),
        uid: owner.uid().to_owned(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}
