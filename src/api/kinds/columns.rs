//! What `kubectl get` prints of each kind: the columns Kubernetes' server sends as a `Table`.

use super::cells::{self as c, Of, human_duration};
use crate::jsonpath::{self, Template};
use jiff::Timestamp;
use serde_json::Value;
use std::sync::Arc;

/// One printed column.
#[derive(Debug)]
pub struct Column {
    /// The heading.
    pub name: &'static str,
    /// `string`, `integer` or `boolean`.
    pub kind: &'static str,
    /// 0 is always shown, 1 with `-o wide`.
    pub priority: i32,
    cell: Cell,
}

#[derive(Debug)]
enum Cell {
    Name,
    Age,
    /// The value at a path, or this text where there is none.
    At(&'static str, &'static str),
    /// How many items the list or map at a path has.
    Count(&'static str),
    Call(fn(&Of<'_>) -> Value),
    Printed(Printed),
}

/// A printed column of a custom resource (`additionalPrinterColumns`).
#[derive(Clone, Debug)]
pub struct Printed {
    /// The heading.
    pub name: String,
    /// `string`, `integer`, `number`, `boolean` or `date`.
    pub kind: String,
    /// A hint to clients.
    pub format: String,
    /// What people read of it.
    pub description: String,
    /// 0 is always shown, more with `-o wide`.
    pub priority: i32,
    /// Where the value stands, as given.
    pub path: String,
    /// `None` where the path cannot be read: then the column is empty.
    template: Option<Arc<Template>>,
}

/// The longest path that is read: brackets nest, and are read by recursion.
const LONGEST_PATH: usize = 1 << 10;
/// How many values a path may find on its way to the first, which alone is printed: unions and descents
/// multiply.
const MOST_VALUES: usize = 1_000;

impl Printed {
    /// Reads one of `additionalPrinterColumns`.
    pub fn of(column: &Value) -> Option<Self> {
        let text = |field: &str| column[field].as_str().unwrap_or_default().to_owned();
        let (path, description) = (column["jsonPath"].as_str()?, text("description"));
        let shown = || format!("Custom resource definition column (in JSONPath format): {path}");
        let template = (path.len() <= LONGEST_PATH).then(|| Template::parse(&format!("{{{path}}}")).ok());
        Some(Self {
            name: text("name"),
            kind: text("type"),
            format: text("format"),
            description: if description.is_empty() { shown() } else { description },
            priority: column["priority"].as_i64().and_then(|number| number.try_into().ok()).unwrap_or(0),
            path: path.to_owned(),
            template: template.flatten().map(Arc::new),
        })
    }

    /// What tells it from other columns.
    pub(super) fn said(&self) -> impl std::fmt::Debug {
        (&self.name, &self.kind, &self.format, &self.description, &self.path, self.priority)
    }

    /// The cell for an object: null for what is missing or of another type.
    pub fn cell(&self, object: &Value, now: Timestamp) -> Value {
        let found = self.template.as_ref().map(|template| template.first_values(object, MOST_VALUES));
        let Some(value) = found.as_deref().and_then(<[_]>::first) else { return Value::Null };
        match (self.kind.as_str(), *value) {
            ("string", Value::Null) => Value::from("<no value>"),
            ("string", value) => Value::from(jsonpath::text(value)),
            ("integer", Value::Number(number)) => number.as_i64().or(whole(number.as_f64())).into(),
            ("number", Value::Number(number)) => match whole(number.as_f64()) {
                Some(whole) if number.as_f64().is_some_and(|number| number.fract() == 0.0) => whole.into(),
                _ => Value::Number(number.clone()),
            },
            ("boolean", Value::Bool(flag)) => Value::Bool(*flag),
            ("date", Value::String(text)) if ["", "null"].contains(&text.as_str()) => {
                Value::from("<unknown>")
            }
            ("date", Value::String(text)) => match text.parse::<Timestamp>() {
                Ok(then) => human_duration(now.duration_since(then).as_secs()).into(),
                Err(_) => Value::from("<invalid>"),
            },
            _ => Value::Null,
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "Go converts numbers by leaving out what does not fit")]
fn whole(number: Option<f64>) -> Option<i64> {
    number.map(|number| number as i64)
}

impl Column {
    /// The columns of a custom resource: its name, and what its definition prints.
    pub(crate) fn printed(columns: &[Printed]) -> Vec<Self> {
        let leak = |text: &str| -> &'static str { text.to_owned().leak() };
        let own = columns.iter().map(|column| Self {
            name: leak(&column.name),
            kind: leak(&column.kind),
            priority: column.priority,
            cell: Cell::Printed(column.clone()),
        });
        std::iter::once(NAME).chain(own).collect()
    }

    /// What a custom resource's column prints.
    pub(crate) fn as_printed(&self) -> Option<&Printed> {
        match &self.cell {
            Cell::Printed(printed) => Some(printed),
            _ => None,
        }
    }

    /// What people read of the column; built-in kinds say nothing.
    pub fn description(&self) -> &str {
        self.as_printed().map_or("", |printed| &printed.description)
    }

    /// The cell of this column for an object.
    pub fn cell(&self, object: &Value, now: Timestamp) -> Value {
        let of = Of { object, now };
        match &self.cell {
            Cell::Name => of.value("metadata.name"),
            Cell::Age => of.since("metadata.creationTimestamp"),
            Cell::At(path, missing) => of.or(path, missing),
            Cell::Count(path) => Value::from(of.count(path)),
            Cell::Call(function) => function(&of),
            Cell::Printed(printed) => printed.cell(object, now),
        }
    }

    /// `format` of the column definition: marks the column that holds the name.
    pub fn format(&self) -> &str {
        match &self.cell {
            Cell::Name => "name",
            Cell::Printed(printed) => &printed.format,
            _ => "",
        }
    }

    const fn wide(mut self) -> Self {
        self.priority = 1;
        self
    }

    const fn of_type(mut self, kind: &'static str) -> Self {
        self.kind = kind;
        self
    }
}

const fn column(name: &'static str, cell: Cell) -> Column {
    Column { name, kind: "string", priority: 0, cell }
}

const fn at(name: &'static str, path: &'static str) -> Column {
    column(name, Cell::At(path, ""))
}

const fn or_none(name: &'static str, path: &'static str) -> Column {
    column(name, Cell::At(path, "<none>"))
}

const fn or_unset(name: &'static str, path: &'static str) -> Column {
    column(name, Cell::At(path, "<unset>"))
}

const fn number(name: &'static str, path: &'static str) -> Column {
    column(name, Cell::At(path, "0")).of_type("integer")
}

const fn flag(name: &'static str, path: &'static str) -> Column {
    column(name, Cell::At(path, "false")).of_type("boolean")
}

const fn count(name: &'static str, path: &'static str) -> Column {
    column(name, Cell::Count(path))
}

const fn call(name: &'static str, function: fn(&Of<'_>) -> Value) -> Column {
    column(name, Cell::Call(function))
}

const NAME: Column = column("Name", Cell::Name);
const AGE: Column = column("Age", Cell::Age);
const CONTAINERS: Column = call("Containers", c::template_container_names).wide();
const IMAGES: Column = call("Images", c::template_images).wide();
const SELECTOR: Column = call("Selector", c::selector).wide();

pub(super) static DEFAULT: &[Column] = &[NAME, AGE];
pub(super) static CREATED_AT: &[Column] = &[NAME, at("Created At", "metadata.creationTimestamp")];
pub(super) static COMPONENT_STATUS: &[Column] = &[
    NAME,
    call("Status", c::component_status),
    at("Message", "conditions.0.message"),
    at("Error", "conditions.0.error"),
];
pub(super) static CONFIG_MAP: &[Column] = &[NAME, call("Data", c::config_map_data), AGE];
pub(super) static ENDPOINTS: &[Column] = &[NAME, call("Endpoints", c::network::endpoints), AGE];
pub(super) static EVENT: &[Column] = &[
    call("Last Seen", c::event_last_seen),
    at("Type", "type"),
    at("Reason", "reason"),
    call("Object", c::event_object),
    at("Subobject", "involvedObject.fieldPath").wide(),
    call("Source", c::event_source).wide(),
    call("Message", c::event_message),
    call("First Seen", c::event_first_seen).wide(),
    call("Count", c::event_count).wide(),
    column("Name", Cell::Name).wide(),
];
pub(super) static EVENTS_V1: &[Column] = EVENT;
pub(super) static NAMESPACE: &[Column] = &[NAME, at("Status", "status.phase"), AGE];
pub(super) static NODE: &[Column] = &[
    NAME,
    call("Status", c::node_status),
    call("Roles", c::node_roles),
    AGE,
    at("Version", "status.nodeInfo.kubeletVersion"),
    call("Internal-IP", |of| c::node_address(of, "InternalIP")).wide(),
    call("External-IP", |of| c::node_address(of, "ExternalIP")).wide(),
    column("OS-Image", Cell::At("status.nodeInfo.osImage", "<unknown>")).wide(),
    call("Kernel-Version", c::node_kernel).wide(),
    column("Container-Runtime", Cell::At("status.nodeInfo.containerRuntimeVersion", "<unknown>")).wide(),
];
pub(super) static PERSISTENT_VOLUME_CLAIM: &[Column] = &[
    NAME,
    call("Status", c::claim_status),
    at("Volume", "spec.volumeName"),
    at("Capacity", "status.capacity.storage"),
    call("Access Modes", |of| c::access_modes(of, "status.accessModes")),
    at("StorageClass", "spec.storageClassName"),
    or_unset("VolumeAttributesClass", "spec.volumeAttributesClassName"),
    AGE,
    or_unset("VolumeMode", "spec.volumeMode").wide(),
];
pub(super) static PERSISTENT_VOLUME: &[Column] = &[
    NAME,
    at("Capacity", "spec.capacity.storage"),
    call("Access Modes", |of| c::access_modes(of, "spec.accessModes")),
    at("Reclaim Policy", "spec.persistentVolumeReclaimPolicy"),
    call("Status", c::claim_status),
    call("Claim", c::volume_claim),
    at("StorageClass", "spec.storageClassName"),
    or_unset("VolumeAttributesClass", "spec.volumeAttributesClassName"),
    at("Reason", "status.reason"),
    AGE,
    or_unset("VolumeMode", "spec.volumeMode").wide(),
];
pub(super) static POD: &[Column] = &[
    NAME,
    call("Ready", c::pod::ready),
    call("Status", c::pod::status),
    call("Restarts", c::pod::restarts),
    AGE,
    or_none("IP", "status.podIPs.0.ip").wide(),
    or_none("Node", "spec.nodeName").wide(),
    or_none("Nominated Node", "status.nominatedNodeName").wide(),
    call("Readiness Gates", c::pod::readiness_gates).wide(),
];
pub(super) static POD_TEMPLATE: &[Column] = &[
    NAME,
    call("Containers", |of| c::container_names(of, "template")),
    call("Images", |of| c::images(of, "template")),
    call("Pod Labels", |of| c::labels_at(of, "template.metadata.labels")),
];
pub(super) static REPLICA_SET: &[Column] = &[
    NAME,
    number("Desired", "spec.replicas"),
    number("Current", "status.replicas"),
    number("Ready", "status.readyReplicas"),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];
pub(super) static RESOURCE_QUOTA: &[Column] =
    &[NAME, call("Request", |of| c::quota(of, false)), call("Limit", |of| c::quota(of, true)), AGE];
pub(super) static SECRET: &[Column] = &[NAME, at("Type", "type"), count("Data", "data"), AGE];
pub(super) static SERVICE: &[Column] = &[
    NAME,
    at("Type", "spec.type"),
    or_none("Cluster-IP", "spec.clusterIP"),
    call("External-IP", c::network::service_external),
    call("Port(s)", c::network::service_ports),
    AGE,
    SELECTOR,
];
pub(super) static API_SERVICE: &[Column] =
    &[NAME, call("Service", c::api_service), call("Available", c::api_service_available), AGE];
pub(super) static CONTROLLER_REVISION: &[Column] =
    &[NAME, call("Controller", c::controller), at("Revision", "revision"), AGE];
pub(super) static DAEMON_SET: &[Column] = &[
    NAME,
    number("Desired", "status.desiredNumberScheduled"),
    number("Current", "status.currentNumberScheduled"),
    number("Ready", "status.numberReady"),
    number("Up-to-date", "status.updatedNumberScheduled"),
    number("Available", "status.numberAvailable"),
    call("Node Selector", |of| c::labels_at(of, "spec.template.spec.nodeSelector")),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];
pub(super) static DEPLOYMENT: &[Column] = &[
    NAME,
    call("Ready", c::ready_of_replicas),
    column("Up-to-date", Cell::At("status.updatedReplicas", "0")),
    column("Available", Cell::At("status.availableReplicas", "0")),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];
pub(super) static STATEFUL_SET: &[Column] =
    &[NAME, call("Ready", c::ready_of_replicas), AGE, CONTAINERS, IMAGES];
pub(super) static HORIZONTAL_POD_AUTOSCALER: &[Column] = &[
    NAME,
    call("Reference", c::scale_target),
    call("Targets", c::scale_metrics),
    or_unset("MinPods", "spec.minReplicas"),
    column("MaxPods", Cell::At("spec.maxReplicas", "0")),
    column("Replicas", Cell::At("status.currentReplicas", "0")),
    AGE,
];
pub(super) static CRON_JOB: &[Column] = &[
    NAME,
    at("Schedule", "spec.schedule"),
    or_none("Timezone", "spec.timeZone"),
    column("Suspend", Cell::Call(c::capital_flag_suspend)).of_type("boolean"),
    count("Active", "status.active").of_type("integer"),
    call("Last Schedule", |of| of.since_or("status.lastScheduleTime", "<none>")),
    AGE,
    call("Containers", |of| c::container_names(of, "spec.jobTemplate.spec.template")).wide(),
    call("Images", |of| c::images(of, "spec.jobTemplate.spec.template")).wide(),
    call("Selector", |of| c::label_selector(of, "spec.jobTemplate.spec.selector")).wide(),
];
pub(super) static JOB: &[Column] = &[
    NAME,
    call("Status", c::job_status),
    call("Completions", c::job_completions),
    call("Duration", c::job_duration),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];
pub(super) static CERTIFICATE_SIGNING_REQUEST: &[Column] = &[
    NAME,
    AGE,
    or_none("SignerName", "spec.signerName"),
    at("Requestor", "spec.username"),
    call("RequestedDuration", c::requested_duration),
    call("Condition", c::signing_condition),
];
pub(super) static CLUSTER_TRUST_BUNDLE: &[Column] = &[NAME, or_none("SignerName", "spec.signerName")];
pub(super) static POD_CERTIFICATE_REQUEST: &[Column] = &[
    NAME,
    at("PodName", "spec.podName"),
    at("ServiceAccountName", "spec.serviceAccountName"),
    at("NodeName", "spec.nodeName"),
    at("SignerName", "spec.signerName"),
    call("State", c::certificate_state),
    call("UnverifiedUserAnnotations", |of| c::labels_at(of, "spec.unverifiedUserAnnotations")),
];
pub(super) static INGRESS_CLASS: &[Column] =
    &[NAME, at("Controller", "spec.controller"), call("Parameters", c::network::class_parameters), AGE];
pub(super) static INGRESS: &[Column] = &[
    NAME,
    or_none("Class", "spec.ingressClassName"),
    call("Hosts", c::network::ingress_hosts),
    call("Address", c::network::ingress_address),
    call("Ports", c::network::ingress_ports),
    AGE,
];
pub(super) static IP_ADDRESS: &[Column] = &[NAME, call("ParentRef", c::network::address_parent)];
pub(super) static NETWORK_POLICY: &[Column] =
    &[NAME, call("Pod-Selector", |of| c::label_selector(of, "spec.podSelector")), AGE];
pub(super) static SERVICE_CIDR: &[Column] = &[NAME, call("CIDRs", |of| c::joined(of, "spec.cidrs")), AGE];
pub(super) static POD_DISRUPTION_BUDGET: &[Column] = &[
    NAME,
    column("Min Available", Cell::At("spec.minAvailable", "N/A")),
    column("Max Unavailable", Cell::At("spec.maxUnavailable", "N/A")),
    number("Allowed Disruptions", "status.disruptionsAllowed"),
    AGE,
];
pub(super) static ROLE_BINDING: &[Column] = &[
    NAME,
    call("Role", c::role),
    AGE,
    call("Users", |of| c::subjects(of, "User")).wide(),
    call("Groups", |of| c::subjects(of, "Group")).wide(),
    call("ServiceAccounts", |of| c::subjects(of, "ServiceAccount")).wide(),
];
pub(super) static CSI_DRIVER: &[Column] = &[
    NAME,
    column("AttachRequired", Cell::At("spec.attachRequired", "true")).of_type("boolean"),
    flag("PodInfoOnMount", "spec.podInfoOnMount"),
    flag("StorageCapacity", "spec.storageCapacity"),
    call("TokenRequests", c::token_requests),
    flag("RequiresRepublish", "spec.requiresRepublish"),
    call("Modes", |of| c::joined(of, "spec.volumeLifecycleModes")),
    AGE,
];
pub(super) static CSI_NODE: &[Column] = &[NAME, count("Drivers", "spec.drivers").of_type("integer"), AGE];
pub(super) static CSI_STORAGE_CAPACITY: &[Column] =
    &[NAME, at("StorageClassName", "storageClassName"), or_unset("Capacity", "capacity")];
pub(super) static STORAGE_CLASS: &[Column] = &[
    call("Name", c::storage_class_name),
    at("Provisioner", "provisioner"),
    column("ReclaimPolicy", Cell::At("reclaimPolicy", "Delete")),
    or_unset("VolumeBindingMode", "volumeBindingMode"),
    column("AllowVolumeExpansion", Cell::At("allowVolumeExpansion", "false")),
    AGE,
];
pub(super) static VOLUME_ATTACHMENT: &[Column] = &[
    NAME,
    at("Attacher", "spec.attacher"),
    at("PV", "spec.source.persistentVolumeName"),
    at("Node", "spec.nodeName"),
    flag("Attached", "status.attached"),
    AGE,
];
pub(super) static VOLUME_ATTRIBUTES_CLASS: &[Column] = &[NAME, at("DriverName", "driverName"), AGE];
pub(super) static MUTATING_ADMISSION_POLICY: &[Column] =
    &[NAME, count("Mutations", "spec.mutations").of_type("integer"), call("ParamKind", c::param_kind), AGE];
pub(super) static VALIDATING_ADMISSION_POLICY: &[Column] = &[
    NAME,
    count("Validations", "spec.validations").of_type("integer"),
    call("ParamKind", c::param_kind),
    AGE,
];
pub(super) static POLICY_BINDING: &[Column] =
    &[NAME, at("PolicyName", "spec.policyName"), call("ParamRef", c::param_ref), AGE];
pub(super) static WEBHOOKS: &[Column] = &[NAME, count("Webhooks", "webhooks").of_type("integer"), AGE];
pub(super) static PRIORITY_CLASS: &[Column] = &[
    NAME,
    number("Value", "value"),
    flag("Global-Default", "globalDefault"),
    AGE,
    at("PreemptionPolicy", "preemptionPolicy"),
];
pub(super) static POD_GROUP: &[Column] = &[
    NAME,
    call("Policy", c::group_policy),
    at("Workload", "spec.podGroupTemplateRef.workload.workloadName"),
    call("Status", c::group_status),
    AGE,
];
pub(super) static LEASE: &[Column] = &[NAME, at("Holder", "spec.holderIdentity"), AGE];
pub(super) static LEASE_CANDIDATE: &[Column] = &[
    NAME,
    at("LeaseName", "spec.leaseName"),
    at("BinaryVersion", "spec.binaryVersion"),
    at("EmulationVersion", "spec.emulationVersion"),
    AGE,
];
pub(super) static RUNTIME_CLASS: &[Column] = &[NAME, at("Handler", "handler"), AGE];
pub(super) static ENDPOINT_SLICE: &[Column] = &[
    NAME,
    at("AddressType", "addressType"),
    call("Ports", c::network::slice_ports),
    call("Endpoints", c::network::slice_endpoints),
    AGE,
];
pub(super) static RESOURCE_CLAIM: &[Column] = &[NAME, call("State", c::resource_claim_state), AGE];
pub(super) static RESOURCE_SLICE: &[Column] =
    &[NAME, at("Node", "spec.nodeName"), at("Driver", "spec.driver"), at("Pool", "spec.pool.name"), AGE];
pub(super) static DEVICE_TAINT_RULE: &[Column] = &[
    NAME,
    at("Key", "spec.taint.key"),
    at("Value", "spec.taint.value"),
    at("Effect", "spec.taint.effect"),
    call("TimeAdded", |of| of.since("spec.taint.timeAdded")),
    AGE,
];
pub(super) static FLOW_SCHEMA: &[Column] = &[
    NAME,
    at("PriorityLevel", "spec.priorityLevelConfiguration.name"),
    at("MatchingPrecedence", "spec.matchingPrecedence"),
    or_none("DistinguisherMethod", "spec.distinguisherMethod.type"),
    AGE,
    call("MissingPL", c::missing_priority_level),
];
pub(super) static PRIORITY_LEVEL_CONFIGURATION: &[Column] = &[
    NAME,
    at("Type", "spec.type"),
    or_none("NominalConcurrencyShares", "spec.limited.nominalConcurrencyShares"),
    or_none("Queues", "spec.limited.limitResponse.queuing.queues"),
    or_none("HandSize", "spec.limited.limitResponse.queuing.handSize"),
    or_none("QueueLengthLimit", "spec.limited.limitResponse.queuing.queueLengthLimit"),
    AGE,
];
pub(super) static STORAGE_VERSION_MIGRATION: &[Column] =
    &[NAME, at("Resource", "spec.resource.resource"), call("Status", c::migration_status)];
