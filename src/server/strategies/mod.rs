//! What is special about a kind: its defaults, its rules, and what the server decides about its
//! objects. A kind without a row here follows the plain rules.

mod access;
mod allocation;
mod defaults;
mod names;
mod pods;
mod podspec;
mod probes;
mod services;
mod simple;
mod volumes;
mod workloads;

pub use allocation::AddressPool;
pub(crate) use allocation::Allocation;

use crate::registry::Records;
use allocation::Allocator;
use api::kinds::Kind;
use api::status::Refusal;
use api::validate::{Error, dns_subdomain};
use serde_json::Value;
use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::sync::LazyLock;

type Errors = Vec<Error>;

/// The rules of a kind.
pub(crate) struct Strategy {
    /// What is wrong with a name.
    pub(crate) name_rule: fn(&str) -> Vec<String>,
    /// Fills in what writers may leave out.
    pub(crate) default: fn(&mut Value),
    /// Sets what the server decides at creation.
    pub(crate) prepare_create: fn(&mut Value),
    /// Sets what the server decides at a change: new, old.
    pub(crate) prepare_update: fn(&mut Value, &Value),
    /// Finds what is wrong.
    pub(crate) validate: fn(&Value, &mut Errors),
    /// Finds what is wrong with a change: new, old.
    pub(crate) validate_update: fn(&Value, &Value, &mut Errors),
    /// `metadata.generation` counts changes of what is desired.
    pub(crate) generation: bool,
    /// Writers may set the status when they create an object.
    pub(crate) status_at_creation: bool,
    /// Writers of the status may change labels and annotations too.
    pub(crate) status_labels: bool,
    /// Seconds between the request to delete an object and its removal, given what was asked for.
    pub(crate) grace_s: fn(&Value, Option<i64>) -> i64,
    /// What happens to dependents when a deletion does not say.
    pub(crate) propagation: &'static str,
}

/// The plain rules.
const PLAIN: Strategy = Strategy {
    name_rule: dns_subdomain,
    default: |_| {},
    prepare_create: |_| {},
    prepare_update: |_, _| {},
    validate: |_, _| {},
    validate_update: |_, _, _| {},
    generation: false,
    status_at_creation: false,
    status_labels: false,
    grace_s: |_, _| 0,
    propagation: "Background",
};

/// The rows: group, kind, rules.
static STRATEGIES: &[(&str, &str, Strategy)] = &[
    ("", "Pod", pods::POD),
    ("", "Service", services::SERVICE),
    ("", "Namespace", simple::NAMESPACE),
    ("", "Node", simple::NODE),
    ("", "ConfigMap", simple::CONFIG_MAP),
    ("", "Secret", simple::SECRET),
    ("", "Event", simple::EVENT),
    ("events.k8s.io", "Event", simple::EVENT),
    ("", "ReplicationController", workloads::REPLICATION_CONTROLLER),
    ("", "PersistentVolumeClaim", simple::CLAIM),
    ("", "PersistentVolume", simple::VOLUME),
    ("", "ServiceAccount", simple::SERVICE_ACCOUNT),
    ("apps", "Deployment", workloads::DEPLOYMENT),
    ("apps", "ReplicaSet", workloads::REPLICA_SET),
    ("apps", "StatefulSet", workloads::STATEFUL_SET),
    ("apps", "DaemonSet", workloads::DAEMON_SET),
    ("batch", "Job", workloads::JOB),
    ("batch", "CronJob", workloads::CRON_JOB),
    ("discovery.k8s.io", "EndpointSlice", simple::ENDPOINT_SLICE),
    ("networking.k8s.io", "Ingress", Strategy { generation: true, ..PLAIN }),
    (
        "networking.k8s.io",
        "NetworkPolicy",
        Strategy { generation: true, default: simple::default_network_policy, ..PLAIN },
    ),
    ("networking.k8s.io", "IPAddress", Strategy { name_rule: |_| Vec::new(), ..PLAIN }),
    ("policy", "PodDisruptionBudget", Strategy { generation: true, ..PLAIN }),
    ("rbac.authorization.k8s.io", "Role", access::ROLE),
    ("rbac.authorization.k8s.io", "ClusterRole", access::ROLE),
    ("rbac.authorization.k8s.io", "RoleBinding", access::BINDING),
    ("rbac.authorization.k8s.io", "ClusterRoleBinding", access::BINDING),
    ("scheduling.k8s.io", "PriorityClass", simple::PRIORITY_CLASS),
    ("storage.k8s.io", "StorageClass", simple::STORAGE_CLASS),
    ("apiextensions.k8s.io", "CustomResourceDefinition", Strategy { generation: true, ..PLAIN }),
    (
        "admissionregistration.k8s.io",
        "ValidatingWebhookConfiguration",
        Strategy { generation: true, ..PLAIN },
    ),
    ("admissionregistration.k8s.io", "MutatingWebhookConfiguration", Strategy { generation: true, ..PLAIN }),
    ("flowcontrol.apiserver.k8s.io", "FlowSchema", Strategy { generation: true, ..PLAIN }),
    ("flowcontrol.apiserver.k8s.io", "PriorityLevelConfiguration", Strategy { generation: true, ..PLAIN }),
];

/// The rules of all kinds, and what is allocated from limited pools.
pub(crate) struct Strategies {
    allocator: Allocator,
}

impl Strategies {
    pub(crate) fn new(records: &Records, addresses: AddressPool, node_ports: RangeInclusive<u16>) -> Self {
        Self { allocator: Allocator::new(records, addresses, node_ports) }
    }

    /// The rules of a kind.
    #[expect(clippy::unused_self, reason = "custom resources will bring rules that are not static")]
    pub(crate) fn of(&self, kind: &Kind) -> &'static Strategy {
        Self::static_of(kind)
    }

    pub(crate) fn static_of(kind: &Kind) -> &'static Strategy {
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

    /// Gives back what an object had, as it is gone.
    pub(crate) fn released(&self, kind: &Kind, object: &Value) {
        if (kind.group, kind.kind) == ("", "Service") {
            self.allocator.release(object);
        }
    }
}

/// Sets a field that is absent.
fn default(object: &mut Value, field: &str, value: impl Into<Value>) {
    if object.is_object() && object[field].is_null() {
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
