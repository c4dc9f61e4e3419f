//! What is special about a kind: its defaults, its rules, and what the server decides about its
//! objects. A kind without a row here follows the plain rules.

mod access;
mod admission;
mod allocation;
mod autoscaling;
mod batch;
mod certificates;
mod cluster;
mod config;
mod cron;
mod csi;
mod defaults;
mod devices;
mod endpoints;
mod extensions;
mod flow;
mod gang;
#[cfg(test)]
mod golden;
mod inventory;
mod networking;
mod pod_certificates;
mod pods;
mod policy;
mod services;
mod storage;
mod versions;
mod workloads;

pub use allocation::AddressPool;
pub(crate) use allocation::Allocation;

use crate::registry::{Part, Records};
use allocation::Allocator;
use api::kinds::Kind;
use api::status::Refusal;
use api::validate::{self, At, Error, Rule, any_text, dns_subdomain};
use serde_json::Value;
use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::sync::LazyLock;

/// The rules of a kind. Errors are told in the order: metadata, what is always true, what is true
/// of new objects or of changes.
pub(crate) struct Strategy {
    /// What is wrong with a name.
    pub(crate) name_rule: Rule,
    /// Fills in what writers may leave out.
    pub(crate) default: fn(&mut Value),
    /// Sets what the server decides at creation.
    pub(crate) prepare_create: fn(&mut Value),
    /// Sets what the server decides at a change: new, old.
    pub(crate) prepare_update: fn(&mut Value, &Value),
    /// Sets what the server decides at a change of the status: new, old.
    pub(crate) prepare_status: fn(&mut Value, &Value),
    /// Leaves of a change through a subresource only what that is for: its name, new, old.
    pub(crate) narrow: fn(&str, &mut Value, &Value),
    /// Finds what is wrong with a change through a subresource: its name, new, old.
    validate_door: fn(&str, &At, &Value),
    /// Finds what is wrong.
    validate: fn(&At),
    /// Finds what is wrong with a new object, besides.
    validate_new: fn(&At),
    /// Finds what is wrong with a change, besides: new, old.
    validate_update: fn(&At, &Value),
    /// The rules of changes come before the others, or are the only ones.
    changes: Changes,
    /// Finds what is wrong with a change of the status: new, old.
    validate_status: fn(&At, &Value),
    /// What `metadata.generation` counts.
    pub(crate) generation: Generation,
    /// Writers may set the status when they create an object.
    pub(crate) status_at_creation: bool,
    /// Writers of the status may change labels, annotations, finalizers and owners too.
    pub(crate) status_meta: bool,
    /// Seconds between the request to delete an object and its removal, given what was asked for.
    pub(crate) grace_s: fn(&Value, Option<i64>) -> i64,
    /// What happens to dependents when a deletion does not say.
    pub(crate) propagation: &'static str,
    /// Marks an object whose deletion is asked for.
    pub(crate) mark_deleted: fn(&mut Value),
    /// What to warn writers of who write such an object.
    pub(crate) warnings: fn(&Value) -> Vec<String>,
}

/// What `metadata.generation` counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Generation {
    /// There is none.
    None,
    /// It is 1 at first and counts changes of what is desired.
    Counted,
    /// It is 1 and stays so.
    Fixed,
    /// There is none before the first change.
    Changes,
}

impl Generation {
    /// Whether a new object has one.
    pub(crate) fn is_first(self) -> bool {
        matches!(self, Self::Counted | Self::Fixed)
    }

    /// Whether changes are counted.
    pub(crate) fn counts(self) -> bool {
        matches!(self, Self::Counted | Self::Changes)
    }
}

/// When the rules of changes apply.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Changes {
    Before,
    After,
    Only,
}

/// The plain rules.
const PLAIN: Strategy = Strategy {
    name_rule: dns_subdomain,
    default: |_| {},
    prepare_create: |_| {},
    prepare_update: |_, _| {},
    prepare_status: |_, _| {},
    narrow: |_, new, old| *new = old.clone(),
    validate_door: |_, _, _| {},
    validate: |_| {},
    validate_new: |_| {},
    validate_update: |_, _| {},
    changes: Changes::After,
    validate_status: |_, _| {},
    generation: Generation::None,
    status_at_creation: false,
    status_meta: false,
    grace_s: |_, _| 0,
    propagation: "Background",
    mark_deleted: |_| {},
    warnings: |_| Vec::new(),
};

/// The rules of custom kinds, besides those of their definitions.
const CUSTOM: Strategy = Strategy { generation: Generation::Counted, ..PLAIN };

/// Finalizers of Kubernetes itself, which need no domain.
pub(crate) const FINALIZERS: [&str; 3] = ["kubernetes", "orphan", "foregroundDeletion"];

impl Strategy {
    /// What is wrong with a new object.
    pub(crate) fn check_new(&self, kind: &Kind, object: &Value) -> Vec<Error> {
        validate::check(object, |at| {
            let meta = at.get("metadata");
            validate::object_meta(&meta, kind.namespaced, self.name_rule);
            finalizers(kind, &meta);
            (self.validate)(at);
            (self.validate_new)(at);
        })
    }

    /// What is wrong with a change of an object, or of one part.
    pub(crate) fn check_change(&self, kind: &Kind, new: &Value, old: &Value, part: Part) -> Vec<Error> {
        validate::check(new, |at| {
            let meta = at.get("metadata");
            validate::object_meta(&meta, kind.namespaced, any_text);
            validate::object_meta_update(&meta, &old["metadata"]);
            finalizers(kind, &meta);
            if let Part::Door(door) = part {
                return (self.validate_door)(door, at, old);
            }
            if part == Part::Status {
                return (self.validate_status)(at, old);
            }
            if self.changes != Changes::After {
                (self.validate_update)(at, old);
            }
            if self.changes != Changes::Only {
                (self.validate)(at);
            }
            if self.changes == Changes::After {
                (self.validate_update)(at, old);
            }
        })
    }
}

/// The groups of the API's own machinery take any finalizer.
fn finalizers(kind: &Kind, meta: &At) {
    if matches!(kind.group, "apiextensions.k8s.io" | "apiregistration.k8s.io") {
        return;
    }
    meta.get("finalizers").each(|finalizer| {
        let name = finalizer.text();
        if !name.contains('/') && !FINALIZERS.contains(&name) {
            finalizer.invalid("name is neither a standard finalizer name nor is it fully qualified");
        }
    });
}

/// The rows: group, kind, rules.
static STRATEGIES: &[(&str, &str, Strategy)] = &[
    ("", "Pod", pods::POD),
    ("", "PodTemplate", pods::POD_TEMPLATE),
    ("", "Service", services::SERVICE),
    ("", "Endpoints", endpoints::ENDPOINTS),
    ("", "Namespace", cluster::NAMESPACE),
    ("", "Node", cluster::NODE),
    ("", "ConfigMap", config::CONFIG_MAP),
    ("", "Secret", config::SECRET),
    ("", "ServiceAccount", config::SERVICE_ACCOUNT),
    ("", "Event", endpoints::EVENT),
    ("events.k8s.io", "Event", endpoints::EVENT),
    ("", "ReplicationController", workloads::REPLICATION_CONTROLLER),
    ("", "PersistentVolumeClaim", storage::CLAIM),
    ("", "PersistentVolume", storage::VOLUME),
    ("", "ResourceQuota", policy::RESOURCE_QUOTA),
    ("", "LimitRange", policy::LIMIT_RANGE),
    ("apps", "Deployment", workloads::DEPLOYMENT),
    ("apps", "ReplicaSet", workloads::REPLICA_SET),
    ("apps", "StatefulSet", workloads::STATEFUL_SET),
    ("apps", "DaemonSet", workloads::DAEMON_SET),
    ("apps", "ControllerRevision", workloads::CONTROLLER_REVISION),
    ("batch", "Job", batch::JOB),
    ("batch", "CronJob", cron::JOB),
    ("autoscaling", "HorizontalPodAutoscaler", autoscaling::AUTOSCALER),
    ("discovery.k8s.io", "EndpointSlice", endpoints::ENDPOINT_SLICE),
    ("networking.k8s.io", "Ingress", networking::INGRESS),
    ("networking.k8s.io", "IngressClass", networking::INGRESS_CLASS),
    ("networking.k8s.io", "NetworkPolicy", networking::NETWORK_POLICY),
    ("networking.k8s.io", "IPAddress", networking::IP_ADDRESS),
    ("networking.k8s.io", "ServiceCIDR", networking::SERVICE_CIDR),
    ("policy", "PodDisruptionBudget", policy::DISRUPTION_BUDGET),
    ("rbac.authorization.k8s.io", "Role", access::ROLE),
    ("rbac.authorization.k8s.io", "ClusterRole", access::ROLE),
    ("rbac.authorization.k8s.io", "RoleBinding", access::BINDING),
    ("rbac.authorization.k8s.io", "ClusterRoleBinding", access::BINDING),
    ("scheduling.k8s.io", "PriorityClass", policy::PRIORITY_CLASS),
    ("node.k8s.io", "RuntimeClass", cluster::RUNTIME_CLASS),
    ("coordination.k8s.io", "Lease", cluster::LEASE),
    ("coordination.k8s.io", "LeaseCandidate", cluster::LEASE_CANDIDATE),
    ("storage.k8s.io", "StorageClass", storage::STORAGE_CLASS),
    ("storage.k8s.io", "CSIDriver", csi::DRIVER),
    ("storage.k8s.io", "CSINode", csi::NODE),
    ("storage.k8s.io", "CSIStorageCapacity", csi::CAPACITY),
    ("storage.k8s.io", "VolumeAttachment", csi::ATTACHMENT),
    ("storage.k8s.io", "VolumeAttributesClass", storage::VOLUME_ATTRIBUTES_CLASS),
    ("certificates.k8s.io", "CertificateSigningRequest", certificates::REQUEST),
    ("certificates.k8s.io", "PodCertificateRequest", pod_certificates::REQUEST),
    ("certificates.k8s.io", "ClusterTrustBundle", certificates::TRUST_BUNDLE),
    ("apiextensions.k8s.io", "CustomResourceDefinition", extensions::DEFINITION),
    ("apiregistration.k8s.io", "APIService", extensions::API_SERVICE),
    ("admissionregistration.k8s.io", "ValidatingWebhookConfiguration", admission::WEBHOOKS),
    ("admissionregistration.k8s.io", "MutatingWebhookConfiguration", admission::WEBHOOKS),
    ("admissionregistration.k8s.io", "ValidatingAdmissionPolicy", admission::VALIDATING_POLICY),
    ("admissionregistration.k8s.io", "ValidatingAdmissionPolicyBinding", admission::VALIDATING_BINDING),
    ("admissionregistration.k8s.io", "MutatingAdmissionPolicy", admission::MUTATING_POLICY),
    ("admissionregistration.k8s.io", "MutatingAdmissionPolicyBinding", admission::MUTATING_BINDING),
    ("flowcontrol.apiserver.k8s.io", "FlowSchema", flow::SCHEMA),
    ("flowcontrol.apiserver.k8s.io", "PriorityLevelConfiguration", flow::LEVEL),
    ("resource.k8s.io", "DeviceClass", devices::CLASS),
    ("resource.k8s.io", "ResourceClaim", devices::CLAIM),
    ("resource.k8s.io", "ResourceClaimTemplate", devices::CLAIM_TEMPLATE),
    ("resource.k8s.io", "ResourceSlice", inventory::SLICE),
    ("resource.k8s.io", "DeviceTaintRule", devices::TAINT_RULE),
    ("scheduling.k8s.io", "PodGroup", gang::POD_GROUP),
    ("scheduling.k8s.io", "Workload", gang::WORKLOAD),
    ("internal.apiserver.k8s.io", "StorageVersion", versions::STORAGE_VERSION),
    ("storagemigration.k8s.io", "StorageVersionMigration", versions::MIGRATION),
];

/// The rules of all kinds, and what is allocated from limited pools.
pub(crate) struct Strategies {
    allocator: Allocator,
}

impl Strategies {
    pub(crate) fn new(
        records: &Records,
        addresses: Vec<AddressPool>,
        node_ports: RangeInclusive<u16>,
    ) -> Self {
        Self { allocator: Allocator::new(records, addresses, node_ports) }
    }

    /// The rules of a kind. What a definition says of a custom kind comes on top of the plain ones.
    pub(crate) fn of(kind: &Kind) -> &'static Strategy {
        if kind.custom {
            return &CUSTOM;
        }
        static INDEX: LazyLock<HashMap<(&str, &str), &'static Strategy>> = LazyLock::new(|| {
            STRATEGIES.iter().map(|(group, kind, strategy)| ((*group, *kind), strategy)).collect()
        });
        INDEX.get(&(kind.group, kind.kind)).copied().unwrap_or(&PLAIN)
    }

    /// Takes what an object needs from limited pools; it is given back unless the write succeeds.
    pub(crate) fn allocate(
        &self,
        kind: &Kind,
        object: &mut Value,
        old: Option<&Value>,
    ) -> Result<Allocation, Refusal> {
        match (kind.group, kind.kind) {
            ("", "Service") => self.allocator.allocate(kind, object, old),
            _ => Ok(Allocation::default()),
        }
    }

    /// Whether objects of a kind take something from limited pools.
    pub(crate) fn allocates(kind: &Kind) -> bool {
        (kind.group, kind.kind) == ("", "Service")
    }

    /// Gives back what an object had that is gone, of a kind that is given something.
    pub(crate) async fn released(&self, object: &Value) {
        self.allocator.release(object).await;
    }

    /// Repairs what a crash may have left of allocations.
    pub(crate) async fn repair(&self) {
        self.allocator.repair().await;
    }
}

/// Sets a field that is absent.
fn default(object: &mut Value, field: &str, value: impl Into<Value>) {
    if object.is_object() && object[field].is_null() {
        object[field] = value.into();
    }
}

/// Sets a field below that is absent or zero, as Kubernetes cannot tell these apart.
fn default_zero(object: &mut Value, field: &str, value: impl Into<Value>) {
    if object.is_object() && (object[field].is_null() || object[field] == 0 || object[field] == "") {
        object[field] = value.into();
    }
}

/// The text of a field, or "".
fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object[field].as_str().unwrap_or_default()
}

/// The items of a list field.
fn items<'a>(object: &'a Value, field: &str) -> &'a [Value] {
    object[field].as_array().map_or(&[], Vec::as_slice)
}

/// The items of a list field, to be changed.
fn items_mut<'a>(object: &'a mut Value, field: &str) -> impl Iterator<Item = &'a mut Value> {
    object.get_mut(field).and_then(Value::as_array_mut).into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::kinds::KINDS;

    /// Kinds of which a writer of the status changes nothing else.
    const STATUS_ALONE: [&str; 14] = [
        "APIService",
        "CustomResourceDefinition",
        "DeviceTaintRule",
        "FlowSchema",
        "PodCertificateRequest",
        "PodGroup",
        "PriorityLevelConfiguration",
        "ResourceClaim",
        "ResourcePoolStatusRequest",
        "ServiceCIDR",
        "StorageVersion",
        "StorageVersionMigration",
        "ValidatingAdmissionPolicy",
        "VolumeAttachment",
    ];

    #[test]
    fn metadata_changes_with_the_status_but_of_some_kinds() {
        for kind in KINDS.iter().filter(|kind| kind.subresource("status").is_some()) {
            let alone = STATUS_ALONE.contains(&kind.kind);
            assert_eq!(Strategies::of(kind).status_meta, !alone, "{}", kind.kind);
        }
    }

    #[test]
    fn the_status_of_a_pod_does_not_change_its_owners() {
        let kind = api::kinds::by_kind("v1", "Pod").unwrap();
        let pod = |label: &str, owner: &str| {
            let owners = serde_json::json!([{"uid": owner}]);
            serde_json::json!({"metadata": {"labels": {"a": label}, "ownerReferences": owners}})
        };
        let mut new = pod("new", "other");
        crate::registry::reshape((&mut new, &pod("old", "own")), kind, Strategies::of(kind), Part::Status);
        assert_eq!(new, pod("new", "own"));
    }
}
