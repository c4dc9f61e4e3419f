//! The Node object: made once, its status kept true, its Lease renewed.

use crate::containerd;
use crate::eviction::Pressure;
use crate::machine;
use crate::pods::status_seconds;
use crate::protocols::runtime::v1 as cri;
use crate::settings::KubeletConfiguration;
use crate::{Config, Context, Error, shutdown};
use api::Quantity;
use api::coordination::{Lease, LeaseSpec};
use api::core::{
    ContainerImage, DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeFeatures,
    NodeRuntimeHandler, NodeRuntimeHandlerFeatures, NodeSpec, NodeStatus, NodeSystemInfo, Taint,
};
use api::meta::{MicroTime, ObjectMeta, OwnerReference};
use base::{Backoff, Shutdown, clock};
use client::Patch;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// The namespace of the nodes' leases.
const LEASES: &str = "kube-node-lease";
/// A lease is renewed four times while it holds.
const RENEWALS: u32 = 4;
/// Images are listed anew this often, whatever happens.
const LIST_IMAGES: SignedDuration = SignedDuration::from_mins(5);
/// What this kubelet can do that older ones cannot, for the scheduler to know (KEP-5328).
const DECLARED: [&str; 4] = [
    "ExtendWebSocketsToKubelet",
    "InPlacePodLevelResourcesVerticalScaling",
    "InPlacePodVerticalScalingInitContainers",
    "RestartAllContainersOnContainerExits",
];
/// Names of one image in the status.
const NAMES: usize = 5;

/// The labels that every node has.
fn own_labels(name: &str) -> BTreeMap<String, String> {
    let labels = [
        ("kubernetes.io/hostname", name),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", machine::architecture()),
        ("beta.kubernetes.io/os", "linux"),
        ("beta.kubernetes.io/arch", machine::architecture()),
        ("node.kubernetes.io/instance-type", "knarr"),
    ];
    labels.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
}

/// The labels that the node registers with.
pub(crate) fn labels(config: &Config) -> BTreeMap<String, String> {
    own_labels(&config.node_name).into_iter().chain(config.labels.clone()).collect()
}

/// The specification that the node registers with. A cloud's controllers name the machine and take the taint off.
fn spec(config: &Config) -> NodeSpec {
    let external = config.settings.external_cloud;
    let waiting = external.then(|| Taint {
        key: "node.cloudprovider.kubernetes.io/uninitialized".to_owned(),
        value: Some("true".to_owned()),
        effect: "NoSchedule".to_owned(),
        ..Default::default()
    });
    let taints: Vec<Taint> = config.taints.iter().cloned().chain(waiting).collect();
    let own = Some(config.kubelet().provider_id.clone()).filter(|id| !id.is_empty());
    let ours = || (!external).then(|| format!("knarr://{}", config.node_name));
    NodeSpec {
        taints: Some(taints).filter(|taints| !taints.is_empty()),
        provider_id: own.or_else(ours),
        ..Default::default()
    }
}

/// Volumes of this node's pods are attached by the cluster, which a node that has no machine does not need.
fn own_annotations(context: &Context) -> BTreeMap<String, String> {
    let managed = ("volumes.kubernetes.io/controller-managed-attach-detach", "true");
    let own = context.machine.is_there().then_some(managed);
    own.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// Makes the object. An existing one only gets the labels that every node has: labels and taints of
/// the configuration are for the first registration, after which they are the administrator's.
async fn register(context: &Context, status: NodeStatus) -> Result<Node, Error> {
    let config = &context.config;
    let own = own_labels(&config.node_name);
    let labels = labels(config);
    let wanted = Node {
        metadata: ObjectMeta {
            name: Some(config.node_name.clone()),
            labels: Some(labels),
            annotations: Some(own_annotations(context)),
            ..Default::default()
        },
        spec: Some(spec(config)),
        status: Some(status),
    };
    // Without leave to register, somebody else makes the object: until then this is tried again.
    if config.kubelet().register_node {
        match context.client.create(&wanted).await {
            Err(error) if error.is_already_exists() => {}
            other => return Ok(other?),
        }
    }
    let patch = Patch::Merge(json!({"metadata": {"labels": own, "annotations": own_annotations(context)}}));
    let node = context.client.patch::<Node>("", &config.node_name, &patch).await?;
    tell_reboot(context, &node);
    Ok(node)
}

/// An event where the machine started anew since the node was reported last.
fn tell_reboot(context: &Context, node: &Node) {
    let before = node.status.as_ref().and_then(|status| status.node_info.as_ref()).map(|info| &info.boot_id);
    let now = &context.machine.info.boot_id;
    if before.is_some_and(|before| !before.is_empty() && before != now) {
        let message = format!("Node {} has been rebooted, boot id: {now}", context.config.node_name);
        context.recorder.warning(node, "Rebooted", message);
    }
}

/// What is asked of the runtime, not of the machine.
struct Runtime {
    version: String,
    images: Vec<ContainerImage>,
    /// Which change of images was listed, and when.
    listed: Option<(u64, Timestamp)>,
    handlers: Vec<NodeRuntimeHandler>,
    features: Option<NodeFeatures>,
}

impl Runtime {
    /// Why the node is not ready; none if it is.
    async fn trouble(&mut self, context: &Context) -> Option<String> {
        let status = match context.runtime.status(cri::StatusRequest { verbose: false }).await {
            Ok(answer) => {
                self.handlers = answer.runtime_handlers.into_iter().map(handler).collect();
                self.features = answer.features.map(|own| NodeFeatures {
                    supplemental_groups_policy: Some(own.supplemental_groups_policy),
                });
                answer.status.unwrap_or_default()
            }
            Err(error) => return Some(format!("container runtime is down: {error}")),
        };
        if *context.shutting_down.borrow() {
            return Some(shutdown::TROUBLE.to_owned());
        }
        let bad: Vec<String> = ["RuntimeReady", "NetworkReady"]
            .into_iter()
            .filter_map(|name| {
                let found = status.conditions.iter().find(|condition| condition.r#type == name);
                let what =
                    if name == "RuntimeReady" { "container runtime" } else { "container runtime network" };
                match found {
                    Some(condition) if condition.status => None,
                    Some(c) => Some(format!(
                        "{what} not ready: {name}=false reason:{} message:{}",
                        c.reason, c.message
                    )),
                    None => Some(format!("{what} not ready: {name} is not known")),
                }
            })
            .collect();
        (!bad.is_empty()).then(|| bad.join(", "))
    }

    /// Lists images anew where some came or went, and now and then, since others may pull some too.
    async fn list_images(&mut self, context: &Context) {
        let (now, changes) = (clock::now(), context.garbage.changes());
        let fresh = |(of, at): &(u64, Timestamp)| *of == changes && now.duration_since(*at) < LIST_IMAGES;
        if self.listed.as_ref().is_some_and(fresh) {
            return;
        }
        let Ok(answer) = context.runtime.list_images(cri::ListImagesRequest {}).await else { return };
        self.listed = Some((changes, now));
        self.images = images(answer.images, context.config.kubelet().node_status_max_images);
    }
}

/// What the runtime can do for pods of a RuntimeClass.
fn handler(own: cri::RuntimeHandler) -> NodeRuntimeHandler {
    let features = own.features.map(|features| NodeRuntimeHandlerFeatures {
        recursive_read_only_mounts: Some(features.recursive_read_only_mounts),
        user_namespaces: Some(features.user_namespaces),
    });
    NodeRuntimeHandler { name: Some(own.name), features }
}

/// The largest images, as the status has them; all for -1.
fn images(mut images: Vec<cri::Image>, most: i64) -> Vec<ContainerImage> {
    images.sort_by_key(|image| std::cmp::Reverse(image.size));
    images.truncate(usize::try_from(most).unwrap_or(usize::MAX));
    let shown = images.into_iter().map(|image| {
        let mut names = [image.repo_digests, image.repo_tags].concat();
        names.truncate(NAMES);
        ContainerImage { names: Some(names), size_bytes: i64::try_from(image.size).ok() }
    });
    shown.collect()
}

fn condition(
    old: &[NodeCondition],
    kind: &str,
    (status, reason, message): (bool, &str, &str),
) -> NodeCondition {
    let status = if status { "True" } else { "False" };
    let before = old.iter().find(|condition| condition.type_ == kind && condition.status == status);
    let now = status_seconds(clock::now());
    NodeCondition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_heartbeat_time: Some(now.clone()),
        last_transition_time: before.and_then(|before| before.last_transition_time.clone()).or(Some(now)),
    }
}

fn conditions(
    old: &[NodeCondition],
    pressures: &BTreeSet<Pressure>,
    trouble: Option<&str>,
) -> Vec<NodeCondition> {
    let memory = if pressures.contains(&Pressure::Memory) {
        (true, "KubeletHasInsufficientMemory", "kubelet has insufficient memory available")
    } else {
        (false, "KubeletHasSufficientMemory", "kubelet has sufficient memory available")
    };
    let disk = if pressures.contains(&Pressure::Disk) {
        (true, "KubeletHasDiskPressure", "kubelet has disk pressure")
    } else {
        (false, "KubeletHasNoDiskPressure", "kubelet has no disk pressure")
    };
    let pids = if pressures.contains(&Pressure::Pid) {
        (true, "KubeletHasInsufficientPID", "kubelet has insufficient PID available")
    } else {
        (false, "KubeletHasSufficientPID", "kubelet has sufficient PID available")
    };
    let ready = match trouble {
        Some(trouble) => (false, "KubeletNotReady", trouble),
        None => (true, "KubeletReady", "kubelet is posting ready status"),
    };
    let all = [("MemoryPressure", memory), ("DiskPressure", disk), ("PIDPressure", pids), ("Ready", ready)];
    all.map(|(kind, finding)| condition(old, kind, finding)).into()
}

fn status(context: &Context, old: &[NodeCondition], runtime: &Runtime, trouble: Option<&str>) -> NodeStatus {
    let own = &context.machine.capacity;
    let address = |kind: &str, address: String| NodeAddress { type_: kind.to_owned(), address };
    let addresses = context.addresses();
    let internal = addresses.iter().map(|ip| address("InternalIP", ip.to_string()));
    let external = context.config.external_ips.iter().map(|ip| address("ExternalIP", ip.to_string()));
    let hostname = address("Hostname", context.config.node_name.clone());
    let addresses = internal.chain(external).chain([hostname]).collect();
    NodeStatus {
        addresses: Some(addresses),
        allocatable: Some(with_devices(&own.allocatable, context, |(_, healthy)| healthy)),
        capacity: Some(with_devices(&own.capacity, context, |(all, _)| all)),
        conditions: Some(conditions(old, &context.pressures.borrow(), trouble)),
        daemon_endpoints: Some(NodeDaemonEndpoints {
            kubelet_endpoint: Some(DaemonEndpoint { port: context.config.bind.port().into() }),
        }),
        images: Some(runtime.images.clone()),
        runtime_handlers: Some(runtime.handlers.clone()).filter(|handlers| !handlers.is_empty()),
        features: runtime.features.clone(),
        declared_features: Some(DECLARED.map(str::to_owned).into()),
        node_info: Some(NodeSystemInfo {
            container_runtime_version: runtime.version.clone(),
            ..context.machine.info.clone()
        }),
        ..Default::default()
    }
}

/// Amounts with those of the devices of plugins.
fn with_devices(
    own: &BTreeMap<String, Quantity>,
    context: &Context,
    count: impl Fn((usize, usize)) -> usize,
) -> BTreeMap<String, Quantity> {
    let devices = context.devices.amounts().into_iter();
    let devices = devices.map(|(name, amounts)| (name, Quantity(count(amounts).to_string())));
    own.clone().into_iter().chain(devices).collect()
}

/// A status without its times, to see whether it changed.
fn essence(status: &NodeStatus) -> Value {
    let mut status = status.clone();
    for condition in status.conditions.iter_mut().flatten() {
        condition.last_heartbeat_time = None;
    }
    serde_json::to_value(status).unwrap_or_default()
}

/// The conditions of a node that was not heard of for a while, as somebody else has said of it since; none where nobody
/// did. The node itself always knows.
fn doubted(node: &Node) -> Option<Vec<NodeCondition>> {
    let conditions = node.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().any(|condition| condition.status == "Unknown").then(|| conditions.clone())
}

/// Registers the node, then keeps its lease and status until asked to stop. `ready` follows the Ready
/// condition as it is written.
pub(crate) async fn run(
    context: Arc<Context>,
    ready: watch::Sender<bool>,
    shutdown: Shutdown,
) -> Result<(), Error> {
    let version = containerd::answering(&context.runtime).await?;
    let version = format!("{}://{}", version.runtime_name, version.runtime_version);
    let mut runtime =
        Runtime { version, images: Vec::new(), listed: None, handlers: Vec::new(), features: None };
    runtime.list_images(&context).await;
    let trouble = runtime.trouble(&context).await;
    let node = register(&context, status(&context, &[], &runtime, trouble.as_deref())).await?;
    context.recorder.normal(&node, "Starting", "Starting kubelet.".to_owned());
    let mut reporter =
        Reporter { context: context.clone(), node, runtime, written: None, devices: BTreeSet::new() };
    // While it is not ready, it is looked at often: users wait for this.
    let rhythm = Rhythm::of(context.config.kubelet());
    let mut haste = Backoff::new(Duration::from_millis(50), rhythm.look);
    let mut devices = context.devices.changes();
    let mut renewed: Option<clock::Instant> = None;
    let mut pressures = context.pressures.subscribe();
    let mut going_down = context.shutting_down.subscribe();
    let mut addresses = context.changes_of_addresses();
    loop {
        if renewed.is_none_or(|at| at.elapsed() >= rhythm.renew) {
            Box::pin(renew_lease(&context, &reporter.node, rhythm.lease_s)).await?;
            renewed = Some(clock::instant());
        }
        // Boxed as a worker's turn is: the node only waits for most of the time.
        let is_ready = Box::pin(reporter.report()).await?;
        if ready.send_replace(is_ready) != is_ready {
            tracing::info!(node = context.config.node_name, ready = is_ready, "node");
            haste.reset();
        }
        let pause = if is_ready { rhythm.pause() } else { haste.next_delay() };
        tokio::select! {
            () = clock::sleep(pause) => {}
            // The sender lives as long as the context.
            Ok(()) = pressures.changed() => {}
            _ = devices.changed() => {}
            Ok(()) = going_down.changed() => {}
            Ok(()) = addresses.changed() => {}
            () = shutdown.requested() => return Ok(()),
        }
    }
}

/// How often the node says that it is there, and how it is.
struct Rhythm {
    lease_s: i32,
    renew: Duration,
    look: Duration,
}

impl Rhythm {
    fn of(kubelet: &KubeletConfiguration) -> Self {
        let lease_s = i32::try_from(kubelet.node_lease_duration_seconds).unwrap_or(i32::MAX);
        let renew = Duration::from_secs(u64::from(lease_s.unsigned_abs())) / RENEWALS;
        Self { lease_s, renew, look: kubelet.node_status_update_frequency.get() }
    }

    fn pause(&self) -> Duration {
        self.renew.min(self.look)
    }
}

struct Reporter {
    context: Arc<Context>,
    node: Node,
    runtime: Runtime,
    /// What was written last, and when.
    written: Option<(Value, Timestamp)>,
    /// Resources of plugins that were written.
    devices: BTreeSet<String>,
}

impl Reporter {
    /// Writes the status if it changed or is old; returns whether the node is ready.
    async fn report(&mut self) -> Result<bool, Error> {
        self.runtime.list_images(&self.context).await;
        let trouble = self.runtime.trouble(&self.context).await;
        let doubted =
            self.context.node.get("", &self.context.config.node_name).and_then(|node| doubted(&node));
        let is_doubted = doubted.is_some();
        let written = || self.node.status.as_ref().and_then(|status| status.conditions.clone());
        let old = doubted.or_else(written).unwrap_or_default();
        let status = status(&self.context, &old, &self.runtime, trouble.as_deref());
        let (essence, now) = (essence(&status), clock::now());
        let report = self.context.config.kubelet().node_status_report_frequency.get();
        let report = SignedDuration::try_from(report).unwrap_or(SignedDuration::MAX);
        let fresh =
            |(written, at): &(Value, Timestamp)| *written == essence && now.duration_since(*at) < report;
        if is_doubted || !self.written.as_ref().is_some_and(fresh) {
            let mut patch = json!({"status": status});
            self.let_go(&mut patch["status"]);
            // Their merge key is the type, of which there may be two: of each family one.
            if let Some(addresses) = patch["status"]["addresses"].as_array_mut() {
                addresses.push(json!({"$patch": "replace"}));
            }
            let patch = Patch::Strategic(patch);
            self.node = self.context.client.patch_status("", &self.context.config.node_name, &patch).await?;
            self.tell_changes(&old, &status);
            self.written = Some((essence, now));
        }
        Ok(trouble.is_none())
    }

    /// Takes resources off the node whose plugins are gone for good; others' stay.
    fn let_go(&mut self, status: &mut Value) {
        let now: BTreeSet<String> = self.context.devices.amounts().into_keys().collect();
        for name in self.devices.difference(&now) {
            status["capacity"][name] = Value::Null;
            status["allocatable"][name] = Value::Null;
        }
        self.devices = now;
    }

    /// Events for conditions that changed, as Kubernetes words them.
    fn tell_changes(&self, old: &[NodeCondition], status: &NodeStatus) {
        for condition in status.conditions.iter().flatten() {
            let before = old.iter().find(|before| before.type_ == condition.type_);
            if before.is_some_and(|before| before.status == condition.status) {
                continue;
            }
            let reason = match (condition.type_.as_str(), condition.status.as_str()) {
                ("Ready", "True") => "NodeReady".to_owned(),
                ("Ready", _) => "NodeNotReady".to_owned(),
                _ => condition.reason.clone().unwrap_or_default().replacen("Kubelet", "Node", 1),
            };
            let message = format!("Node {} status is now: {reason}", self.context.config.node_name);
            self.context.recorder.normal(&self.node, &reason, message);
        }
    }
}

/// Renews the node's lease, or makes it.
async fn renew_lease(context: &Context, node: &Node, lease_s: i32) -> Result<(), Error> {
    let name = &context.config.node_name;
    let now = MicroTime(clock::now());
    let patch = Patch::Merge(json!({"spec": {
        "holderIdentity": name, "leaseDurationSeconds": lease_s, "renewTime": now,
    }}));
    match context.client.patch::<Lease>(LEASES, name, &patch).await {
        Err(error) if error.is_not_found() => {}
        other => return Ok(other.map(drop)?),
    }
    let owner = OwnerReference { controller: None, block_owner_deletion: None, ..api::owner_reference(node) };
    let lease = Lease {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            namespace: Some(LEASES.to_owned()),
            owner_references: Some(vec![owner]),
            ..Default::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(name.clone()),
            lease_duration_seconds: Some(lease_s),
            renew_time: Some(now),
            ..Default::default()
        }),
    };
    match context.client.create(&lease).await {
        // The namespace may not be there yet, or somebody else was faster: the next renewal will tell.
        Err(error) if error.is_not_found() || error.is_already_exists() => Ok(()),
        other => Ok(other.map(drop)?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_not_heard_of_says_how_it_is_at_once() {
        let of = |status: &str| {
            let conditions =
                json!([{"type": "MemoryPressure", "status": "False"}, {"type": "Ready", "status": status}]);
            let node = json!({"metadata": {"name": "a"}, "status": {"conditions": conditions}});
            doubted(&serde_json::from_value(node).unwrap()).map(|conditions| conditions.len())
        };
        assert_eq!([of("Unknown"), of("False"), of("True")], [Some(2), None, None]);
    }
}
