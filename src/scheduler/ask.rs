//! What a pod asks of its node, worked out once and shared by all pods that ask for the same.

use crate::intern::{Handle, Text, Texts};
use crate::nodes::{NodeSelector, NodeTerm, Tolerations};
use crate::resources::{self, Resources};
use crate::wishes::{Group, PodTerm};
use api::Object;
use api::core::{NodeAffinity, PodAffinityTerm, TopologySpreadConstraint, WeightedPodAffinityTerm};
use api::slim::{Pod, PodSpec, Volume};
use std::sync::{Arc, LazyLock};

/// The namespace and name of a pod; every clone is the same text.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Key(Arc<str>);

impl Key {
    pub(crate) fn of(pod: &Pod) -> Self {
        Self(format!("{}/{}", pod.namespace(), pod.name()).into())
    }

    /// Namespace and name.
    pub(crate) fn parts(&self) -> (&str, &str) {
        self.0.split_once('/').unwrap_or(("", &self.0))
    }
}

/// A port of the node itself that a pod takes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct HostPort {
    protocol: Box<str>,
    ip: Box<str>,
    port: i32,
}

impl HostPort {
    pub(crate) fn conflicts(&self, other: &Self) -> bool {
        let any = |ip: &str| ip == "0.0.0.0";
        self.port == other.port
            && self.protocol == other.protocol
            && (self.ip == other.ip || any(&self.ip) || any(&other.ip))
    }
}

/// A constraint on how evenly pods are spread, without what it counts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Spread {
    pub(crate) key: Text,
    pub(crate) max_skew: i64,
    pub(crate) min_domains: usize,
    pub(crate) required: bool,
    /// Only nodes that the pod's node affinity allows count (`nodeAffinityPolicy`).
    pub(crate) honor_affinity: bool,
    /// Only nodes whose taints the pod tolerates count (`nodeTaintsPolicy`).
    pub(crate) honor_taints: bool,
    pub(crate) who: Arc<[PodTerm]>,
}

/// What a pod asks for, whatever it is called.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Ask {
    pub(crate) namespace: Text,
    pub(crate) priority: i32,
    /// It makes others leave for its sake (`preemptionPolicy`).
    pub(crate) preempts: bool,
    pub(crate) requests: Resources,
    /// CPU and memory for comparing nodes, not for what fits.
    pub(crate) guessed: [i64; 2],
    pub(crate) ports: Box<[HostPort]>,
    pub(crate) nodes: NodeSelector,
    /// With their weights.
    pub(crate) preferred_nodes: Box<[(i64, NodeTerm)]>,
    pub(crate) tolerations: Tolerations,
    /// Required affinity: what each term means, and the topology.
    pub(crate) near: Box<[(PodTerm, Text)]>,
    pub(crate) far: Box<[(PodTerm, Text)]>,
    /// With their weights, negative where it is rather not.
    pub(crate) preferred_pods: Box<[(i64, PodTerm, Text)]>,
    pub(crate) spread: Box<[Spread]>,
    pub(crate) images: Box<[Text]>,
}

fn spec(pod: &Pod) -> &PodSpec {
    static NONE: LazyLock<PodSpec> = LazyLock::new(PodSpec::default);
    pod.spec.as_ref().unwrap_or(&NONE)
}

impl Ask {
    pub(crate) fn of(pod: &Pod, texts: &mut Texts) -> Self {
        let spec = spec(pod);
        let pinned = pinned(spec).is_some();
        let affinity = spec.affinity.as_deref();
        let near = affinity.and_then(|affinity| affinity.pod_affinity.as_ref());
        let far = affinity.and_then(|affinity| affinity.pod_anti_affinity.as_ref());
        let nodes = affinity.and_then(|affinity| affinity.node_affinity.as_ref());
        let own = texts.of(pod.namespace());
        let (requests, guessed) = resources::requests(pod, texts);
        let mut preferred = Vec::new();
        weighed(
            near.and_then(|it| it.preferred_during_scheduling_ignored_during_execution.as_ref()),
            1,
            &own,
            texts,
            &mut preferred,
        );
        weighed(
            far.and_then(|it| it.preferred_during_scheduling_ignored_during_execution.as_ref()),
            -1,
            &own,
            texts,
            &mut preferred,
        );
        let near = near.and_then(|it| it.required_during_scheduling_ignored_during_execution.as_ref());
        let far = far.and_then(|it| it.required_during_scheduling_ignored_during_execution.as_ref());
        Self {
            priority: spec.priority.unwrap_or(0),
            preempts: spec.preemption_policy.as_deref() != Some("Never"),
            requests,
            guessed,
            ports: host_ports(spec),
            nodes: node_selector(spec, nodes.filter(|_| !pinned), texts),
            preferred_nodes: preferred_nodes(nodes, texts),
            tolerations: Tolerations(spec.tolerations.clone().unwrap_or_default()),
            near: required(near, &own, texts),
            far: required(far, &own, texts),
            preferred_pods: preferred.into(),
            spread: spec
                .topology_spread_constraints
                .iter()
                .flatten()
                .map(|it| Spread::of(it, pod, texts))
                .collect(),
            images: images(spec, texts),
            namespace: own,
        }
    }
}

/// The one node that a pod is meant for and that is no part of what it asks: all pods of a daemon ask for
/// the same.
pub(crate) fn pinned(spec: &PodSpec) -> Option<&str> {
    let nodes = spec.affinity.as_deref()?.node_affinity.as_ref()?;
    let required = nodes.required_during_scheduling_ignored_during_execution.as_ref()?;
    let [term] = required.node_selector_terms.as_slice() else { return None };
    let [field] = term.match_fields.as_deref()? else { return None };
    let [name] = field.values.as_deref()? else { return None };
    let alone = term.match_expressions.as_ref().is_none_or(Vec::is_empty)
        && spec.topology_spread_constraints.as_ref().is_none_or(|all| all.is_empty());
    (alone && field.key == "metadata.name" && field.operator == "In").then_some(name)
}

type Terms = Box<[(PodTerm, Text)]>;

fn required(terms: Option<&Vec<PodAffinityTerm>>, own: &Text, texts: &mut Texts) -> Terms {
    let terms = terms.into_iter().flatten();
    terms.map(|term| (PodTerm::of(term, own, texts), texts.of(&term.topology_key))).collect()
}

fn weighed(
    terms: Option<&Vec<WeightedPodAffinityTerm>>,
    sign: i64,
    own: &Text,
    texts: &mut Texts,
    into: &mut Vec<(i64, PodTerm, Text)>,
) {
    into.extend(terms.into_iter().flatten().map(|weighted| {
        let term = &weighted.pod_affinity_term;
        (sign * i64::from(weighted.weight), PodTerm::of(term, own, texts), texts.of(&term.topology_key))
    }));
}

fn node_selector(spec: &PodSpec, affinity: Option<&NodeAffinity>, texts: &mut Texts) -> NodeSelector {
    let labels = spec.node_selector.iter().map(|(key, value)| (texts.of(key), texts.of(value))).collect();
    let required = affinity.and_then(|it| it.required_during_scheduling_ignored_during_execution.as_ref());
    let terms = required.and_then(|selector| NodeSelector::of(selector, texts).terms);
    NodeSelector { labels, terms }
}

fn preferred_nodes(affinity: Option<&NodeAffinity>, texts: &mut Texts) -> Box<[(i64, NodeTerm)]> {
    let preferred = affinity.and_then(|it| it.preferred_during_scheduling_ignored_during_execution.as_ref());
    let preferred = preferred.into_iter().flatten();
    preferred.map(|it| (i64::from(it.weight), NodeTerm::of(&it.preference, texts))).collect()
}

fn images(spec: &PodSpec, texts: &mut Texts) -> Box<[Text]> {
    let containers = spec.init_containers.iter().flatten().chain(&spec.containers);
    containers
        .map(|container| texts.of(&normal_image(container.image.as_deref().unwrap_or_default())))
        .collect()
}

/// As nodes tell images: with a tag.
fn normal_image(image: &str) -> String {
    let tagged = image.rfind(':') > image.rfind('/');
    if tagged { image.to_owned() } else { format!("{image}:latest") }
}

impl Spread {
    pub(crate) fn of(constraint: &TopologySpreadConstraint, pod: &Pod, texts: &mut Texts) -> Self {
        let mut selector = constraint.label_selector.clone();
        for key in constraint.match_label_keys.iter().flatten() {
            if let (Some(value), Some(selector)) = (pod.labels().get(key), &mut selector) {
                selector.match_labels.get_or_insert_default().insert(key.clone(), value.to_owned());
            }
        }
        Self {
            key: texts.of(&constraint.topology_key),
            max_skew: i64::from(constraint.max_skew),
            min_domains: constraint.min_domains.and_then(|least| usize::try_from(least).ok()).unwrap_or(1),
            required: constraint.when_unsatisfiable == "DoNotSchedule",
            honor_affinity: constraint.node_affinity_policy.as_deref() != Some("Ignore"),
            honor_taints: constraint.node_taints_policy.as_deref() == Some("Honor"),
            who: [PodTerm::within(texts.of(pod.namespace()), api::selector::Labels::of(selector.as_ref()))]
                .into(),
        }
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

/// The claim of a volume that is one: the one it names, or the one that is made for the pod.
pub(crate) fn claim_name(pod: &Pod, volume: &Volume) -> String {
    match &volume.persistent_volume_claim {
        Some(claim) => claim.claim_name.to_string(),
        None => format!("{}-{}", pod.name(), volume.name),
    }
}

/// A pod, what it asks for, and who it is to others.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) key: Key,
    pub(crate) pod: Arc<Pod>,
    pub(crate) ask: Handle<Ask>,
    pub(crate) group: Handle<Group>,
    /// The claims of storage that it mounts, as `namespace/name`.
    pub(crate) claims: Box<[Text]>,
}

impl Wanted {
    pub(crate) fn spec(&self) -> &PodSpec {
        spec(&self.pod)
    }

    /// `status.startTime` in seconds; the end of time before there is one.
    pub(crate) fn started(&self) -> i64 {
        let started = self.pod.status.as_ref().and_then(|status| status.start_time.as_ref());
        started.map_or(i64::MAX, |time| time.0.as_second())
    }

    /// The only nodes it can run on, were it to name them.
    pub(crate) fn named_nodes(&self, texts: &mut Texts) -> Option<Vec<Text>> {
        match pinned(self.spec()) {
            Some(name) => Some(vec![texts.of(name)]),
            None => self.ask.nodes.named(),
        }
    }
}
