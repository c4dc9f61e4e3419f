//! Where the pods of a DaemonSet run, and what each of them is.

use crate::history::Versioned;
use crate::pods;
use api::apps::{DaemonSet, DaemonSetSpec};
use api::core::{
    self, Affinity, Node, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PodSpec,
    PodTemplateSpec, Toleration,
};
use api::selector::Labels;
use api::slim::Pod;
use api::{Object, owner_reference, taints, terms};
use std::sync::LazyLock;

/// The label by which pods and revisions are known to belong together.
pub(crate) const HASH: &str = "controller-revision-hash";
/// The label and annotation from a time before revisions.
const POD_GENERATION: &str = "pod-template-generation";
const GENERATION: &str = "deprecated.daemonset.template.generation";
const NODE_NAME: &str = "metadata.name";
/// What the pods of a DaemonSet live through on their node.
const TOLERATED: [(&str, &str); 6] = [
    ("not-ready", "NoExecute"),
    ("unreachable", "NoExecute"),
    ("disk-pressure", "NoSchedule"),
    ("memory-pressure", "NoSchedule"),
    ("pid-pressure", "NoSchedule"),
    ("unschedulable", "NoSchedule"),
];
/// And those besides that use the node's own network.
const TOLERATED_ON_HOST: (&str, &str) = ("network-unavailable", "NoSchedule");

impl Versioned for DaemonSet {
    const HASH: &str = HASH;

    fn template(&self) -> &PodTemplateSpec {
        &spec(self).template
    }

    fn selector(&self) -> Labels {
        Labels::of(Some(&spec(self).selector))
    }

    fn collisions(&self) -> i32 {
        self.status.as_ref().and_then(|status| status.collision_count).unwrap_or(0)
    }
}

pub(crate) fn spec(set: &DaemonSet) -> &DaemonSetSpec {
    static NONE: LazyLock<DaemonSetSpec> = LazyLock::new(Default::default);
    set.spec.as_ref().unwrap_or(&NONE)
}

/// Whether a node is one of the set's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fit {
    /// A pod has to run there.
    Runs,
    /// A pod that is there may stay.
    Stays,
    Leaves,
}

/// What a set asks of nodes.
pub(crate) struct Demand<'a> {
    spec: Option<&'a PodSpec>,
    tolerations: Vec<Toleration>,
}

impl<'a> Demand<'a> {
    pub(crate) fn of(set: &'a DaemonSet) -> Self {
        let spec = set.template().spec.as_ref();
        Self { spec, tolerations: spec.map(tolerations).unwrap_or_default() }
    }

    /// By name, labels and taints of the node; whether there is room is the scheduler's business.
    pub(crate) fn of_node(&self, node: &Node) -> Fit {
        let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
        let keeps_away = |effects: &[&str]| {
            let mut counted = taints.iter().filter(|taint| effects.contains(&&*taint.effect));
            counted.any(|taint| !taints::tolerated(&self.tolerations, taint))
        };
        if !self.selects(node) || keeps_away(&["NoExecute"]) {
            return Fit::Leaves;
        }
        if keeps_away(&["NoSchedule"]) { Fit::Stays } else { Fit::Runs }
    }

    fn selects(&self, node: &Node) -> bool {
        let Some(spec) = self.spec else { return true };
        let named = spec.node_name.as_deref().is_none_or(|name| name.is_empty() || name == node.name());
        let mut labels = spec.node_selector.iter().flatten();
        let affinity = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
        let required =
            affinity.and_then(|it| it.required_during_scheduling_ignored_during_execution.as_ref());
        named
            && labels.all(|(key, value)| node.labels().get(key) == Some(value))
            && required.is_none_or(|required| terms::any(&required.node_selector_terms, node))
    }
}

fn tolerations(spec: &PodSpec) -> Vec<Toleration> {
    let mut all = spec.tolerations.clone().unwrap_or_default();
    let on_host = Some(TOLERATED_ON_HOST).filter(|_| spec.host_network == Some(true));
    for (key, effect) in TOLERATED.into_iter().chain(on_host) {
        let wanted = Toleration {
            key: Some(format!("node.kubernetes.io/{key}")),
            operator: Some("Exists".to_owned()),
            effect: Some(effect.to_owned()),
            ..Toleration::default()
        };
        let same =
            |own: &&mut Toleration| Toleration { toleration_seconds: None, ..(*own).clone() } == wanted;
        match all.iter_mut().find(same) {
            Some(own) => *own = wanted,
            None => all.push(wanted),
        }
    }
    all
}

/// The set's pod for a node, which the scheduler will bind to it.
pub(crate) fn new(set: &DaemonSet, hash: &str, node: &str) -> core::Pod {
    let mut pod = pods::from_template(set.template(), set.namespace(), set.name(), owner_reference(set));
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(HASH.to_owned(), hash.to_owned());
    if let Some(generation) = generation(set) {
        labels.insert(POD_GENERATION.to_owned(), generation.to_owned());
    }
    let own = pod.spec.get_or_insert_default();
    own.tolerations = Some(tolerations(own));
    let affinity: &mut Affinity = own.affinity.get_or_insert_default();
    let affinity: &mut NodeAffinity = affinity.node_affinity.get_or_insert_default();
    let name = NodeSelectorRequirement {
        key: NODE_NAME.to_owned(),
        operator: "In".to_owned(),
        values: Some(vec![node.to_owned()]),
    };
    let term = NodeSelectorTerm { match_fields: Some(vec![name]), ..NodeSelectorTerm::default() };
    affinity.required_during_scheduling_ignored_during_execution =
        Some(NodeSelector { node_selector_terms: vec![term] });
    pod
}

fn generation(set: &DaemonSet) -> Option<&String> {
    set.annotations().get(GENERATION).filter(|text| text.parse::<i64>().is_ok())
}

/// The node that a pod of a DaemonSet is on, or is meant for.
pub(crate) fn target(pod: &Pod) -> Option<&str> {
    let spec = pod.spec.as_ref()?;
    if let Some(name) = spec.node_name.as_deref().filter(|name| !name.is_empty()) {
        return Some(name);
    }
    let affinity = spec.affinity.as_ref()?.node_affinity.as_ref()?;
    let required = affinity.required_during_scheduling_ignored_during_execution.as_ref()?;
    let mut fields = required.node_selector_terms.iter().flat_map(|term| term.match_fields.iter().flatten());
    let named = fields.find(|field| field.key == NODE_NAME && field.operator == "In")?;
    match named.values.as_deref()? {
        [name] => Some(name),
        _ => None,
    }
}

/// The pod is of the set's current template.
pub(crate) fn is_current(set: &DaemonSet, pod: &Pod, hash: &str) -> bool {
    let label = |key: &str| pod.labels().get(key);
    label(HASH) == Some(hash)
        || generation(set).is_some_and(|generation| label(POD_GENERATION) == Some(generation))
}
