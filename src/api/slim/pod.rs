//! Pods without what only their nodes act upon.
#![expect(missing_docs, reason = "the fields are those of the API")]

use super::{Map, Meta};
use crate::core::{Affinity, Toleration, TopologySpreadConstraint};
use crate::meta::Time;
use crate::{Object, Quantity};
use k8s_openapi::Resource;
use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer};
use std::collections::BTreeMap;

/// The conditions of a pod that nobody decides by: they say how its node gets on.
const PROGRESS: [&str; 3] = ["PodReadyToStartContainers", "Initialized", "ContainersReady"];

/// A pod as it is scheduled, counted and selected. It has the names and shapes of the fields of
/// [`crate::core::Pod`], which takes ten times the memory.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Pod {
    pub metadata: Meta,
    pub spec: Option<PodSpec>,
    pub status: Option<PodStatus>,
}

impl Resource for Pod {
    const API_VERSION: &'static str = crate::core::Pod::API_VERSION;
    const GROUP: &'static str = crate::core::Pod::GROUP;
    const KIND: &'static str = crate::core::Pod::KIND;
    const VERSION: &'static str = crate::core::Pod::VERSION;
    const URL_PATH_SEGMENT: &'static str = crate::core::Pod::URL_PATH_SEGMENT;
    type Scope = <crate::core::Pod as Resource>::Scope;
}

impl Object for Pod {
    type Meta = Meta;

    fn from_json(bytes: &[u8]) -> serde_json::Result<Self> {
        serde_json::from_slice(bytes)
    }

    fn meta(&self) -> &Meta {
        &self.metadata
    }
}

/// What a pod asks of the cluster; what only its node acts upon is not there.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodSpec {
    pub node_name: Option<Box<str>>,
    pub scheduler_name: Option<Box<str>>,
    pub scheduling_gates: Option<Box<[PodSchedulingGate]>>,
    pub priority: Option<i32>,
    pub preemption_policy: Option<Box<str>>,
    pub containers: Box<[Container]>,
    pub init_containers: Option<Box<[Container]>>,
    /// Of the pod as a whole.
    pub resources: ResourceRequirements,
    #[serde(deserialize_with = "quantities")]
    pub overhead: Map,
    pub node_selector: Map,
    pub affinity: Option<Box<Affinity>>,
    pub tolerations: Option<Box<[Toleration]>>,
    pub topology_spread_constraints: Option<Box<[TopologySpreadConstraint]>>,
    pub host_network: Option<bool>,
    pub hostname: Option<Box<str>>,
    pub subdomain: Option<Box<str>>,
    /// Only those that are claims of storage.
    #[serde(deserialize_with = "claims")]
    pub volumes: Box<[Volume]>,
    pub resource_claims: Option<Box<[PodResourceClaim]>>,
}

/// A claim of devices: one that somebody made, or the pod's own from a template.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodResourceClaim {
    pub name: Box<str>,
    pub resource_claim_name: Option<Box<str>>,
    pub resource_claim_template_name: Option<Box<str>>,
}

/// A volume that is a claim of storage.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Volume {
    pub name: Box<str>,
    pub persistent_volume_claim: Option<PersistentVolumeClaimVolumeSource>,
    /// The claim is the pod's own, and named after both.
    pub ephemeral: Option<IgnoredAny>,
}

/// A claim that somebody made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PersistentVolumeClaimVolumeSource {
    pub claim_name: Box<str>,
}

/// Something that has to happen before the pod is scheduled.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct PodSchedulingGate {
    pub name: Box<str>,
}

/// What a container takes of its node and of the network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Container {
    pub name: Box<str>,
    pub image: Option<Box<str>>,
    pub ports: Option<Box<[ContainerPort]>>,
    pub resources: ResourceRequirements,
    pub restart_policy: Option<Box<str>>,
}

/// A port of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ContainerPort {
    pub name: Option<Box<str>>,
    pub container_port: i32,
    pub protocol: Option<Box<str>>,
    pub host_port: Option<i32>,
    #[serde(rename = "hostIP")]
    pub host_ip: Option<Box<str>>,
}

/// What is asked for; limits are the node's business.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ResourceRequirements {
    /// Quantities by the resource's name.
    #[serde(deserialize_with = "quantities")]
    pub requests: Map,
}

/// How a pod fares.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodStatus {
    pub phase: Option<Box<str>>,
    pub reason: Option<Box<str>>,
    pub nominated_node_name: Option<Box<str>>,
    pub start_time: Option<Time>,
    /// Only those that somebody but the node decides by.
    #[serde(deserialize_with = "conditions")]
    pub conditions: Option<Box<[PodCondition]>>,
    #[serde(rename = "podIP")]
    pub pod_ip: Option<Box<str>>,
    #[serde(rename = "podIPs")]
    pub pod_ips: Option<Box<[PodIP]>>,
    pub container_statuses: Option<Box<[ContainerStatus]>>,
    pub init_container_statuses: Option<Box<[ContainerStatus]>>,
    pub resource_claim_statuses: Option<Box<[PodResourceClaimStatus]>>,
    pub extended_resource_claim_status: Option<Box<PodExtendedResourceClaimStatus>>,
}

/// Which claim was made for the pod; none if it needs none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodResourceClaimStatus {
    pub name: Box<str>,
    pub resource_claim_name: Option<Box<str>>,
}

/// The claim that stands for devices which the pod asks for as resources.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodExtendedResourceClaimStatus {
    pub resource_claim_name: Box<str>,
}

/// One of a pod's addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct PodIP {
    pub ip: Box<str>,
}

/// A statement about a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodCondition {
    #[serde(rename = "type")]
    pub type_: Box<str>,
    pub status: Box<str>,
    pub reason: Option<Box<str>>,
    pub message: Option<Box<str>>,
    pub last_transition_time: Option<Time>,
}

/// How often a container was started again, and when it ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ContainerStatus {
    pub name: Box<str>,
    pub restart_count: i32,
    pub state: Option<ContainerState>,
    /// What it has; absent where the node does not say.
    pub resources: Option<Box<ResourceRequirements>>,
    /// What the node has set aside for it.
    #[serde(deserialize_with = "some_quantities")]
    pub allocated_resources: Option<Box<Map>>,
}

/// Whether a container has ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ContainerState {
    pub terminated: Option<ContainerStateTerminated>,
}

/// How a container ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ContainerStateTerminated {
    pub exit_code: i32,
    pub finished_at: Option<Time>,
}

/// Quantities may be written as numbers.
fn quantities<'de, D: Deserializer<'de>>(from: D) -> Result<Map, D::Error> {
    let read = Option::<BTreeMap<Box<str>, Quantity>>::deserialize(from)?.unwrap_or_default();
    let texts = read.into_iter().map(|(name, quantity)| (name, quantity.0.into_boxed_str()));
    Ok(texts.collect::<BTreeMap<_, _>>().into())
}

fn some_quantities<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Box<Map>>, D::Error> {
    Ok(Some(quantities(from)?).filter(|map| map.iter().next().is_some()).map(Box::new))
}

fn claims<'de, D: Deserializer<'de>>(from: D) -> Result<Box<[Volume]>, D::Error> {
    let read = Option::<Vec<Volume>>::deserialize(from)?.unwrap_or_default();
    let is_claim = |volume: &Volume| volume.persistent_volume_claim.is_some() || volume.ephemeral.is_some();
    Ok(read.into_iter().filter(is_claim).collect())
}

fn conditions<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Box<[PodCondition]>>, D::Error> {
    let read = Option::<Vec<PodCondition>>::deserialize(from)?;
    let decided_by = |condition: &PodCondition| !PROGRESS.contains(&&*condition.type_);
    Ok(read.map(|all| all.into_iter().filter(decided_by).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slim::DELETION_COST;
    use serde_json::json;

    #[test]
    fn keeps_what_is_scheduled_and_counted() {
        let whole = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": "web", "namespace": "ns", "uid": "u", "resourceVersion": "7",
                "labels": {"b": "2", "app": "web"},
                "annotations": {DELETION_COST: "5", "description": "not decided by"},
                "ownerReferences": [
                    {"apiVersion": "v1", "kind": "ConfigMap", "name": "c", "uid": "c"},
                    {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "set", "controller": true}
                ],
                "managedFields": [{"manager": "kubectl"}]
            },
            "spec": {
                "nodeName": "a",
                "containers": [{
                    "name": "main", "image": "i", "command": ["c"], "env": [{"name": "A", "value": "b"}],
                    "ports": [{"containerPort": 80, "hostPort": 8080}],
                    "resources": {"requests": {"memory": "1Gi", "cpu": 1}, "limits": {"cpu": "2"}}
                }]
            },
            "status": {
                "phase": "Running", "podIP": "10.0.0.2", "podIPs": [{"ip": "10.0.0.2"}],
                "conditions": [{"type": "Initialized", "status": "True"}, {"type": "Ready", "status": "True"}],
                "containerStatuses": [{"name": "main", "restartCount": 2,
                    "state": {"terminated": {"exitCode": 0, "finishedAt": "2026-01-01T00:00:00Z"}}}]
            }
        });
        let pod = Pod::from_json(whole.to_string().as_bytes()).unwrap();
        assert_eq!((pod.namespace(), pod.name(), pod.uid(), pod.revision()), ("ns", "web", "u", 7));
        assert_eq!(pod.labels().iter().collect::<Vec<_>>(), [("app", "web"), ("b", "2")]);
        assert_eq!(pod.annotations().iter().collect::<Vec<_>>(), [(DELETION_COST, "5")]);
        let owner = pod.controller().unwrap();
        assert_eq!((owner.api_version, owner.kind), ("apps/v1", "ReplicaSet"));
        assert_eq!((owner.name, owner.uid), ("web", "set"));
        let (spec, status) = (pod.spec.unwrap(), pod.status.unwrap());
        let container = &spec.containers[0];
        let port = ContainerPort { container_port: 80, host_port: Some(8080), ..ContainerPort::default() };
        assert_eq!(container.ports.as_deref(), Some(&[port][..]));
        let requests = &container.resources.requests;
        assert_eq!((requests.get("cpu"), requests.get("memory")), (Some("1"), Some("1Gi")));
        assert_eq!(status.conditions.unwrap().iter().map(|it| &*it.type_).collect::<Vec<_>>(), ["Ready"]);
        let ended = &status.container_statuses.unwrap()[0];
        assert_eq!(ended.restart_count, 2);
        assert!(ended.state.as_ref().unwrap().terminated.as_ref().unwrap().finished_at.is_some());
    }
}
