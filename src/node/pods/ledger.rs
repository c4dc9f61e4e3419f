//! What the pods of this node were given: the resources that they were admitted or resized with, which are
//! not always those that their specifications ask for by now (KEP-1287), and their host ports.

use super::spec;
use crate::amount;
use api::core::{Pod, ResourceRequirements};
use api::demand::{Amounts, Side};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Resources of a pod: of its containers by name, and its own.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Given {
    pub(crate) containers: BTreeMap<String, ResourceRequirements>,
    pub(crate) pod: Option<ResourceRequirements>,
}

impl Given {
    /// What a pod's specification asks for.
    pub(crate) fn of(pod: &Pod) -> Self {
        let all = spec::init_containers(pod).iter().chain(&spec::spec(pod).containers);
        let containers = all.map(|it| (it.name.clone(), it.resources.clone().unwrap_or_default()));
        Self { containers: containers.collect(), pod: spec::spec(pod).resources.clone() }
    }

    /// The pod with these resources in place of those it asks for.
    pub(crate) fn apply(&self, pod: &Arc<Pod>) -> Arc<Pod> {
        if *self == Self::of(pod) {
            return pod.clone();
        }
        Arc::new(self.put_on((**pod).clone()))
    }

    /// The same of a pod of one's own.
    pub(crate) fn put_on(&self, mut pod: Pod) -> Pod {
        if let Some(spec) = &mut pod.spec {
            spec.resources.clone_from(&self.pod);
            for container in spec.init_containers.iter_mut().flatten().chain(&mut spec.containers) {
                if let Some(own) = self.containers.get(&container.name) {
                    container.resources = Some(own.clone());
                }
            }
        }
        pod
    }
}

/// A port of the machine that a pod takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HostPort {
    protocol: String,
    ip: String,
    port: i32,
}

impl HostPort {
    fn all(pod: &Pod) -> Vec<Self> {
        let sidecars = spec::init_containers(pod).iter().filter(|it| spec::is_sidecar(it));
        let ports =
            spec::spec(pod).containers.iter().chain(sidecars).flat_map(|it| it.ports.iter().flatten());
        let taken = ports.filter(|port| port.host_port.is_some_and(|number| number > 0)).map(|port| Self {
            protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
            ip: port.host_ip.clone().filter(|ip| !ip.is_empty()).unwrap_or_else(|| "0.0.0.0".to_owned()),
            port: port.host_port.unwrap_or_default(),
        });
        taken.collect()
    }

    fn meets(&self, other: &Self) -> bool {
        let any = |ip: &str| ip == "0.0.0.0" || ip == "::";
        let same = self.ip == other.ip || any(&self.ip) || any(&other.ip);
        self.port == other.port && self.protocol == other.protocol && same
    }
}

/// What one pod holds.
#[derive(Clone, Debug)]
pub(crate) struct Holding {
    /// With the resources that it was given.
    pub(crate) pod: Arc<Pod>,
    pub(crate) requests: Amounts,
    pub(crate) ports: Vec<HostPort>,
}

impl Holding {
    /// What a pod would hold.
    pub(crate) fn of(pod: &Arc<Pod>) -> Self {
        let mut demands = amount::demands(pod);
        leave_to_claims(&mut demands, pod);
        let requests = amount::demanded(&demands, Side::Requests);
        Self { pod: pod.clone(), requests, ports: HostPort::all(pod) }
    }

    /// Whether it wants a port that the other has.
    pub(crate) fn meets(&self, other: &Self) -> bool {
        self.ports.iter().any(|port| other.ports.iter().any(|taken| port.meets(taken)))
    }
}

/// Leaves out what a claim for devices serves in place of the node (KEP-5004,
/// `status.extendedResourceClaimStatus`): the scheduler has counted it, and the node may not know it at all.
fn leave_to_claims(demands: &mut Value, pod: &Pod) {
    let standing = pod.status.as_ref().and_then(|status| status.extended_resource_claim_status.as_ref());
    for served in standing.into_iter().flat_map(|standing| &standing.request_mappings) {
        for list in ["containers", "initContainers"] {
            let all = demands[list].as_array_mut().into_iter().flatten();
            for container in all.filter(|it| it["name"] == served.container_name) {
                if let Some(Value::Object(requests)) = container.pointer_mut("/resources/requests") {
                    requests.remove(&served.resource_name);
                }
            }
        }
    }
}

/// All holdings, by the uid of their pod.
#[derive(Debug, Default)]
pub(crate) struct Ledger(HashMap<String, Holding>);

impl Ledger {
    pub(crate) fn get(&self, uid: &str) -> Option<&Holding> {
        self.0.get(uid)
    }

    pub(crate) fn enter(&mut self, uid: &str, holding: Holding) {
        self.0.insert(uid.to_owned(), holding);
    }

    /// Whether there was anything to give back.
    pub(crate) fn give_back(&mut self, uid: &str) -> bool {
        self.0.remove(uid).is_some()
    }

    /// What the others hold.
    pub(crate) fn without(&self, uid: &str) -> Vec<Holding> {
        self.0.iter().filter(|(of, _)| *of != uid).map(|(_, holding)| holding.clone()).collect()
    }

    /// The pod as far as it was given what it asks for.
    pub(crate) fn apply(&self, pod: &Arc<Pod>) -> Arc<Pod> {
        use api::Object;
        self.get(pod.uid()).map_or_else(|| pod.clone(), |holding| Given::of(&holding.pod).apply(pod))
    }
}
