//! What a pod asks of its node, worked out once.

use crate::resources::{self, Resources};
use api::Object;
use api::core::{
    NodeAffinity, NodeSelectorTerm, PodAffinityTerm, PreferredSchedulingTerm, Toleration,
    TopologySpreadConstraint, WeightedPodAffinityTerm,
};
use api::selector::Labels;
use api::slim::{Pod, PodSpec};
use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

/// The namespace and name of a pod; every clone is the same text.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Key(Arc<str>);

impl Key {
    pub(crate) fn of(pod: &Pod) -> Self {
        Self(format!("{}/{}", pod.namespace(), pod.name()).into())
    }
}

/// A port of the node itself that a pod takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HostPort {
    protocol: Box<str>,
    ip: Box<str>,
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
            && self.selector.selects(pod)
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
                selector.match_labels.get_or_insert_default().insert(key.clone(), value.to_owned());
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
        pod.namespace() == namespace && !pod.is_deleting() && self.selector.selects(pod)
    }
}

/// What a pod asks for.
#[derive(Debug)]
pub(crate) struct Wanted {
    pub(crate) key: Key,
    pub(crate) pod: Arc<Pod>,
    pub(crate) priority: i32,
    pub(crate) requests: Resources,
    /// For comparing nodes, not for what fits.
    pub(crate) guessed: [i64; 2],
    pub(crate) ports: Box<[HostPort]>,
    pub(crate) affinity: Box<[PodTerm]>,
    pub(crate) anti_affinity: Box<[PodTerm]>,
    /// With their weights, negative where it is rather not.
    pub(crate) preferred_pods: Box<[(i32, PodTerm)]>,
    pub(crate) spread: Box<[Spread]>,
}

fn spec(pod: &Pod) -> &PodSpec {
    static NONE: LazyLock<PodSpec> = LazyLock::new(PodSpec::default);
    pod.spec.as_ref().unwrap_or(&NONE)
}

impl Wanted {
    pub(crate) fn new(pod: Arc<Pod>) -> Self {
        let spec = spec(&pod);
        let affinity = spec.affinity.as_deref();
        let near = affinity.and_then(|affinity| affinity.pod_affinity.as_ref());
        let far = affinity.and_then(|affinity| affinity.pod_anti_affinity.as_ref());
        let term = |term: &PodAffinityTerm| PodTerm::new(term, pod.namespace());
        let required = |terms: Option<&Vec<PodAffinityTerm>>| terms.into_iter().flatten().map(term).collect();
        let weighed = |terms: Option<&Vec<WeightedPodAffinityTerm>>, sign: i32| -> Vec<_> {
            let terms = terms.into_iter().flatten();
            terms.map(|it| (sign * it.weight, term(&it.pod_affinity_term))).collect()
        };
        let mut preferred =
            weighed(near.and_then(|it| it.preferred_during_scheduling_ignored_during_execution.as_ref()), 1);
        preferred.extend(weighed(
            far.and_then(|it| it.preferred_during_scheduling_ignored_during_execution.as_ref()),
            -1,
        ));
        let spread = spec.topology_spread_constraints.iter().flatten();
        Self {
            key: Key::of(&pod),
            priority: spec.priority.unwrap_or(0),
            requests: resources::requests(spec),
            guessed: resources::guess(spec),
            ports: host_ports(spec),
            affinity: required(
                near.and_then(|it| it.required_during_scheduling_ignored_during_execution.as_ref()),
            ),
            anti_affinity: required(
                far.and_then(|it| it.required_during_scheduling_ignored_during_execution.as_ref()),
            ),
            preferred_pods: preferred.into(),
            spread: spread.map(|it| Spread::new(it, &pod)).collect(),
            pod,
        }
    }

    /// It has its node for good.
    pub(crate) fn is_bound(&self) -> bool {
        spec(&self.pod).node_name.as_deref().is_some_and(|node| !node.is_empty())
    }

    /// Its being somewhere matters to pods that come later.
    pub(crate) fn is_social(&self) -> bool {
        !(self.affinity.is_empty() && self.anti_affinity.is_empty() && self.preferred_pods.is_empty())
    }

    pub(crate) fn tolerations(&self) -> &[Toleration] {
        spec(&self.pod).tolerations.as_deref().unwrap_or_default()
    }

    /// Whether a node's labels are those of `spec.nodeSelector`.
    pub(crate) fn selects(&self, labels: &BTreeMap<String, String>) -> bool {
        let mut wanted = spec(&self.pod).node_selector.iter();
        wanted.all(|(key, value)| labels.get(key).is_some_and(|own| own == value))
    }

    fn node_affinity(&self) -> Option<&NodeAffinity> {
        spec(&self.pod).affinity.as_deref()?.node_affinity.as_ref()
    }

    /// `None`: any node will do.
    pub(crate) fn node_terms(&self) -> Option<&[NodeSelectorTerm]> {
        let required = self.node_affinity()?.required_during_scheduling_ignored_during_execution.as_ref()?;
        Some(&required.node_selector_terms)
    }

    pub(crate) fn preferred_nodes(&self) -> &[PreferredSchedulingTerm] {
        let nodes = self.node_affinity();
        let preferred =
            nodes.and_then(|it| it.preferred_during_scheduling_ignored_during_execution.as_deref());
        preferred.unwrap_or_default()
    }
}

fn host_ports(spec: &PodSpec) -> Box<[HostPort]> {
    let sidecars =
        spec.init_containers.iter().flatten().filter(|it| it.restart_policy.as_deref() == Some("Always"));
    let ports = spec.containers.iter().chain(sidecars).flat_map(|container| container.ports.iter().flatten());
    let on_host = ports.filter_map(|port| {
        let number = port.host_port.filter(|number| *number > 0)?;
        Some(HostPort {
            protocol: port.protocol.clone().unwrap_or_else(|| "TCP".into()),
            ip: port.host_ip.clone().filter(|ip| !ip.is_empty()).unwrap_or_else(|| "0.0.0.0".into()),
            port: number,
        })
    });
    on_host.collect()
}
