//! Traits over all typed kinds, so that caches, queues and the client are written once: what can be read,
//! and what can be written as well.

use crate::meta::{ObjectMeta, OwnerReference, Time};
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

/// Texts by key, as labels and annotations are.
pub trait Texts {
    /// The value of a key.
    fn text(&self, key: &str) -> Option<&str>;
}

impl Texts for BTreeMap<String, String> {
    fn text(&self, key: &str) -> Option<&str> {
        self.get(key).map(String::as_str)
    }
}

/// The owner that controls an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Controller<'a> {
    /// Its `apiVersion`.
    pub api_version: &'a str,
    /// Its `kind`.
    pub kind: &'a str,
    /// Its name.
    pub name: &'a str,
    /// By which it is known.
    pub uid: &'a str,
}

/// What everybody reads of `metadata`.
pub trait Meta {
    /// What labels and annotations are.
    type Texts: Texts;

    /// `name`, or "" before one was given.
    fn name(&self) -> &str;

    /// `namespace`, or "" for kinds outside namespaces.
    fn namespace(&self) -> &str;

    /// `uid`, or "" before the server gave one.
    fn uid(&self) -> &str;

    /// `resourceVersion`.
    fn resource_version(&self) -> Option<&str>;

    /// `creationTimestamp`.
    fn created(&self) -> Option<&Time>;

    /// `deletionTimestamp`.
    fn deleted(&self) -> Option<&Time>;

    /// `labels`.
    fn labels(&self) -> &Self::Texts;

    /// `annotations`.
    fn annotations(&self) -> &Self::Texts;

    /// The owner that controls the object, if any (`ownerReferences[].controller`).
    fn controller(&self) -> Option<Controller<'_>>;
}

impl Meta for ObjectMeta {
    type Texts = BTreeMap<String, String>;

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

    fn labels(&self) -> &BTreeMap<String, String> {
        self.labels.as_ref().unwrap_or(&NONE)
    }

    fn annotations(&self) -> &BTreeMap<String, String> {
        self.annotations.as_ref().unwrap_or(&NONE)
    }

    fn controller(&self) -> Option<Controller<'_>> {
        let owner = self.owner_references.as_ref()?.iter().find(|owner| owner.controller == Some(true))?;
        let OwnerReference { api_version, kind, name, uid, .. } = owner;
        Some(Controller { api_version, kind, name, uid })
    }
}

static NONE: BTreeMap<String, String> = BTreeMap::new();

/// A typed Kubernetes object, to be read.
///
/// JSON is read and written by functions of this room and not by serde's traits: those would be compiled
/// anew in every room that uses a kind, which took minutes of a build.
pub trait Object: k8s_openapi::Resource<Scope: Scope> + Send + Sync + 'static {
    /// `metadata`, as much of it as there is.
    type Meta: Meta;

    /// Reads an object.
    fn from_json(bytes: &[u8]) -> serde_json::Result<Self>
    where
        Self: Sized;

    /// `metadata`.
    fn meta(&self) -> &Self::Meta;

    /// `metadata.name`, or "" before one was given.
    fn name(&self) -> &str {
        self.meta().name()
    }

    /// `metadata.namespace`, or "" for kinds outside namespaces.
    fn namespace(&self) -> &str {
        self.meta().namespace()
    }

    /// `metadata.uid`, or "" before the server gave one.
    fn uid(&self) -> &str {
        self.meta().uid()
    }

    /// `metadata.labels`.
    fn labels(&self) -> &<Self::Meta as Meta>::Texts {
        self.meta().labels()
    }

    /// `metadata.annotations`.
    fn annotations(&self) -> &<Self::Meta as Meta>::Texts {
        self.meta().annotations()
    }

    /// The owner that controls the object, if any (`metadata.ownerReferences[].controller`).
    fn controller(&self) -> Option<Controller<'_>> {
        self.meta().controller()
    }

    /// `metadata.resourceVersion` as the store's revision, 0 before it was stored.
    fn revision(&self) -> u64 {
        self.meta().resource_version().and_then(|version| version.parse().ok()).unwrap_or(0)
    }

    /// `metadata.deletionTimestamp` is set.
    fn is_deleting(&self) -> bool {
        self.meta().deleted().is_some()
    }
}

/// An object with all fields of its version, to be written. The API server never stores what went
/// through one: it may be of a later version.
pub trait Whole: Object<Meta = ObjectMeta> {
    /// Writes the object.
    fn to_json(&self) -> serde_json::Result<Vec<u8>>;

    /// The object as a value.
    fn to_value(&self) -> serde_json::Result<Value>;
}

/// The kinds that are worked with as typed objects. They come without `managedFields`: nobody here decides
/// by them, they take more memory than all the rest, and the server keeps them when they are left out.
///
/// Kinds of which a cluster may have very many give back the room that lists were read into.
macro_rules! objects {
    ($($kind:ty $(=> $tighten:path)?),* $(,)?) => {$(
        impl Object for $kind {
            type Meta = ObjectMeta;

            fn from_json(bytes: &[u8]) -> serde_json::Result<Self> {
                let mut object: Self = serde_json::from_slice(bytes).or_else(|error| {
                    let filled = crate::zero::filled(bytes).ok_or(error)?;
                    serde_json::from_slice(&filled)
                })?;
                object.metadata.managed_fields = None;
                $($tighten(&mut object);)?
                Ok(object)
            }

            fn meta(&self) -> &ObjectMeta {
                &self.metadata
            }
        }

        impl Whole for $kind {
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
    crate::core::PersistentVolume,
    crate::core::PersistentVolumeClaim,
    crate::core::Pod,
    crate::core::ReplicationController,
    crate::core::ResourceQuota,
    crate::core::Secret,
    crate::core::Service => tighten_service,
    crate::core::ServiceAccount,
    crate::apps::ControllerRevision,
    crate::apps::DaemonSet,
    crate::apps::Deployment,
    crate::apps::ReplicaSet,
    crate::apps::StatefulSet,
    crate::batch::CronJob,
    crate::batch::Job,
    crate::policy::PodDisruptionBudget,
    k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler,
    crate::coordination::Lease,
    crate::discovery::EndpointSlice => tighten_slice,
    crate::networking::NetworkPolicy,
    crate::networking::IPAddress,
    crate::networking::Ingress,
    crate::networking::IngressClass,
    crate::networking::ServiceCIDR,
    crate::rbac::ClusterRole,
    crate::certificates::CertificateSigningRequest,
    k8s_openapi::api::certificates::v1beta1::ClusterTrustBundle,
    k8s_openapi::api::certificates::v1beta1::PodCertificateRequest,
    crate::resource::DeviceClass,
    crate::resource::ResourceClaim,
    crate::resource::ResourceClaimTemplate,
    crate::resource::ResourceSlice,
    crate::storage::CSIDriver,
    crate::storage::CSINode,
    crate::storage::CSIStorageCapacity,
    crate::storage::StorageClass,
    crate::storage::VolumeAttachment,
    crate::storage::VolumeAttributesClass,
    crate::flowcontrol::FlowSchema,
    crate::flowcontrol::PriorityLevelConfiguration,
    crate::registration::APIService,
    crate::migration::StorageVersionMigration,
    crate::admission::ValidatingAdmissionPolicy,
    k8s_openapi::api::node::v1::RuntimeClass,
);

/// Lists are read into room for more: of five endpoints three are empty.
fn tighten_slice(slice: &mut crate::discovery::EndpointSlice) {
    slice.endpoints.iter_mut().for_each(Vec::shrink_to_fit);
    slice.endpoints.iter_mut().flatten().for_each(|endpoint| endpoint.addresses.shrink_to_fit());
    slice.ports.iter_mut().for_each(Vec::shrink_to_fit);
}

/// See [`tighten_slice`].
fn tighten_service(service: &mut crate::core::Service) {
    let Some(spec) = &mut service.spec else { return };
    spec.ports.iter_mut().for_each(Vec::shrink_to_fit);
    [&mut spec.cluster_ips, &mut spec.ip_families].into_iter().flatten().for_each(Vec::shrink_to_fit);
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

/// Makes a type with `metadata: ObjectMeta` an [`Object`] of a kind that definitions bring. Which manager wrote which
/// field is forgotten.
#[macro_export]
macro_rules! object_of_definition {
    ($type:ty, $group:literal, $version:literal, $kind:expr, $plural:literal, $scope:ty) => {
        impl $crate::k8s::Resource for $type {
            const API_VERSION: &'static str = concat!($group, "/", $version);
            const GROUP: &'static str = $group;
            const KIND: &'static str = $kind;
            const VERSION: &'static str = $version;
            const URL_PATH_SEGMENT: &'static str = $plural;
            type Scope = $scope;
        }

        impl $crate::Object for $type {
            type Meta = $crate::meta::ObjectMeta;

            fn from_json(bytes: &[u8]) -> serde_json::Result<Self> {
                let mut object: Self = serde_json::from_slice(bytes)?;
                object.metadata.managed_fields = None;
                Ok(object)
            }

            fn meta(&self) -> &$crate::meta::ObjectMeta {
                &self.metadata
            }
        }
    };
}
