//! What a pod asks of its node, worked out once.

use crate::resources::{self, Resources};
use api::Object;
use api::core::{NodeSelectorTerm, Pod, PodAffinityTerm, PodSpec, Toleration, TopologySpreadConstraint};
use api::selector::Labels;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The namespace and name of a pod.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl Key {
    pub(crate) fn of(pod: &Pod) -> Self {
        Self { namespace: pod.namespace().to_owned(), name: pod.name().to_owned() }
    }
}

/// A port of the node itself that a pod takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HostPort {
    protocol: String,
    ip: String,
    port: i32,
}

impl HostPort {
    pub(crate) fn conflicts(&self, other: &Self) -> bool {
        let any = |ip: &str| ip == "0.0.0.0" || ip == "::";
        self.port == other.port
            && self.protocol == other.protocol
            && (self.ip == other.ip || any(&self.ip) || any(&other.ip))
    }
}

/// A term of affinity to, or against, other pods.
#[derive(Clone, Debug)]
pub(crate) struct PodTerm {
    pub(crate) topology_key: String,
    selector: Labels,
    namespaces: Vec<String>,
    namespace_selector: Option<Labels>,
}

impl PodTerm {
    fn new(term: &PodAffinityTerm, own_namespace: &str) -> Self {
        let mut namespaces = term.namespaces.clone().unwrap_or_default();
        if namespaces.is_empty() && term.namespace_selector.is_none() {
            namespaces.push(own_namespace.to_owned());
        }
        Self {
            topology_key: term.topology_key.clone(),
            selector: Labels::of(term.label_selector.as_ref()),
            namespaces,
            namespace_selector: term.namespace_selector.as_ref().map(|selector| Labels::of(Some(selector))),
        }
    }

    /// Whether it means this pod; `namespace` are the labels of the pod's namespace.
    pub(crate) fn means(&self, pod: &Pod, namespace: &BTreeMap<String, String>) -> bool {
        let by_selector =
            || self.namespace_selector.as_ref().is_some_and(|selector| selector.matches(namespace));
        (self.namespaces.iter().any(|name| name == pod.namespace()) || by_selector())
            && self.selector.matches(pod.labels())
    }
}

/// A constraint on how evenly pods are spread.
#[derive(Clone, Debug)]
pub(crate) struct Spread {
    pub(crate) topology_key: String,
    pub(crate) max_skew: i64,
    pub(crate) min_domains: i64,
    pub(crate) required: bool,
    /// Only nodes that the pod's node affinity allows count (`nodeAffinityPolicy`).
    pub(crate) honor_affinity: bool,
    /// Only nodes whose taints the pod tolerates count (`nodeTaintsPolicy`).
    pub(crate) honor_taints: bool,
    selector: Labels,
}

impl Spread {
    fn new(constraint: &TopologySpreadConstraint, pod: &Pod) -> Self {
        let mut selector = constraint.label_selector.clone();
        for key in constraint.match_label_keys.iter().flatten() {
            if let (Some(value), Some(selector)) = (pod.labels().get(key), &mut selector) {
                selector.match_labels.get_or_insert_default().insert(key.clone(), value.clone());
            }
        }
        Self {
            topology_key: constraint.topology_key.clone(),
            max_skew: i64::from(constraint.max_skew),
            min_domains: i64::from(constraint.min_domains.unwrap_or(1)),
            required: constraint.when_unsatisfiable == "DoNotSchedule",
            honor_affinity: constraint.node_affinity_policy.as_deref() != Some("Ignore"),
            honor_taints: constraint.node_taints_policy.as_deref() == Some("Honor"),
            selector: Labels::of(selector.as_ref()),
        }
    }

    pub(crate) fn means(&self, pod: &Pod, namespace: &str) -> bool {
        pod.namespace() == namespace && !pod.is_deleting() && self.selector.matches(pod.labels())
    }
}

/// What a pod asks for.
#[derive(Debug)]
pub(crate) struct Wanted {
    pub(crate) pod: Arc<Pod>,
    pub(crate) priority: i32,
    pub(crate) requests: Resources,
    /// For comparing nodes, not for what fits.
    pub(crate) guessed: Resources,
    pub(crate) ports: Vec<HostPort>,
    pub(crate) node_selector: Labels,
    /// `None`: any node will do.
    pub(crate) node_terms: Option<Vec<NodeSelectorTerm>>,
    pub(crate) preferred_nodes: Vec<(i32, NodeSelectorTerm)>,
    pub(crate) affinity: Vec<PodTerm>,
    pub(crate) anti_affinity: Vec<PodTerm>,
    /// With their weights, negative where it is rather not.
    pub(crate) preferred_pods: Vec<(i32, PodTerm)>,
    pub(crate) spread: Vec<Spread>,
}

impl Wanted {
    pub(crate) fn new(pod: Arc<Pod>) -> Self {
        let spec = pod.spec.clone().unwrap_or_default();
        let affinity = spec.affinity.clone().unwrap_or_default();
        let nodes = affinity.node_affinity.unwrap_or_default();
        let required_nodes = nodes.required_during_scheduling_ignored_during_execution;
        let preferred_nodes = nodes.preferred_during_scheduling_ignored_during_execution.unwrap_or_default();
        let near = affinity.pod_affinity.unwrap_or_default();
        let far = affinity.pod_anti_affinity.unwrap_or_default();
        let term = |term: &PodAffinityTerm| PodTerm::new(term, pod.namespace());
        let near_rather = near.preferred_during_scheduling_ignored_during_execution.unwrap_or_default();
        let far_rather = far.preferred_during_scheduling_ignored_during_execution.unwrap_or_default();
        let preferred_pods = near_rather.iter().map(|it| (it.weight, term(&it.pod_affinity_term)));
        let preferred_pods =
            preferred_pods.chain(far_rather.iter().map(|it| (-it.weight, term(&it.pod_affinity_term))));
        let required = |terms: &Option<Vec<PodAffinityTerm>>| terms.iter().flatten().map(term).collect();
        Self {
            priority: spec.priority.unwrap_or(0),
            requests: resources::requests(&spec),
            guessed: resources::requests_or_default(&spec),
            ports: host_ports(&spec),
            node_selector: Labels::of_map(&spec.node_selector.clone().unwrap_or_default()),
            node_terms: required_nodes.map(|selector| selector.node_selector_terms),
            preferred_nodes: preferred_nodes.into_iter().map(|it| (it.weight, it.preference)).collect(),
            affinity: required(&near.required_during_scheduling_ignored_during_execution),
            anti_affinity: required(&far.required_during_scheduling_ignored_during_execution),
            preferred_pods: preferred_pods.collect(),
            spread: spec
                .topology_spread_constraints
                .iter()
                .flatten()
                .map(|it| Spread::new(it, &pod))
                .collect(),
            pod,
        }
    }

    /// It has its node for good.
    pub(crate) fn is_bound(&self) -> bool {
        self.pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).is_some_and(|node| !node.is_empty())
    }

    /// Its being somewhere matters to pods that come later.
    pub(crate) fn is_social(&self) -> bool {
        !(self.affinity.is_empty() && self.anti_affinity.is_empty() && self.preferred_pods.is_empty())
    }

    pub(crate) fn tolerations(&self) -> &[Toleration] {
        self.pod.spec.as_ref().and_then(|spec| spec.tolerations.as_deref()).unwrap_or_default()
    }
}

fn host_ports(spec: &PodSpec) -> Vec<HostPort> {
    let sidecars =
        spec.init_containers.iter().flatten().filter(|it| it.restart_policy.as_deref() == Some("Always"));
    let ports = spec.containers.iter().chain(sidecars).flat_map(|container| container.ports.iter().flatten());
    let on_host = ports.filter_map(|port| {
        let number = port.host_port.filter(|number| *number > 0)?;
        Some(HostPort {
            protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
            ip: port.host_ip.clone().filter(|ip| !ip.is_empty()).unwrap_or_else(|| "0.0.0.0".to_owned()),
            port: number,
        })
    });
    on_host.collect()
}
