//! The filters: may this pod run on this node at all? One row each in [`FILTERS`].

use crate::cluster::Place;
use crate::topology::Counts;
use crate::wanted::Wanted;
use api::Object;
use api::core::Taint;
use api::taints::tolerated;
use api::terms;

/// Why a node is out, in Kubernetes' words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) reasons: Vec<String>,
    /// Fewer pods on the node could help.
    pub(crate) resolvable: bool,
}

/// What happens in the cluster that may help a waiting pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Happening {
    /// A node came or changed.
    Node,
    /// A pod left its node.
    PodGone,
    /// A pod came to a node, or its labels changed.
    PodCame,
}

/// What a filter sees.
pub(crate) struct Question<'a> {
    pub(crate) wanted: &'a Wanted,
    pub(crate) counts: &'a Counts<'a>,
    pub(crate) place: &'a Place,
}

/// A row of the table.
pub(crate) struct Filter {
    pub(crate) name: &'static str,
    pub(crate) refuse: fn(&Question<'_>) -> Option<Refusal>,
    /// What makes it worth trying again after this filter refused.
    pub(crate) helped_by: &'static [Happening],
}

use Happening::{Node, PodCame, PodGone};

/// In the order in which they are asked: the first refusal counts.
pub(crate) static FILTERS: [Filter; 8] = [
    Filter { name: "NodeUnschedulable", refuse: unschedulable, helped_by: &[Node] },
    Filter { name: "NodeName", refuse: node_name, helped_by: &[Node] },
    Filter { name: "TaintToleration", refuse: taints, helped_by: &[Node] },
    Filter { name: "NodeAffinity", refuse: node_affinity, helped_by: &[Node] },
    Filter { name: "NodePorts", refuse: ports, helped_by: &[Node, PodGone] },
    Filter { name: "NodeResourcesFit", refuse: fit, helped_by: &[Node, PodGone] },
    Filter { name: "PodTopologySpread", refuse: spread, helped_by: &[Node, PodGone, PodCame] },
    Filter { name: "InterPodAffinity", refuse: pod_affinity, helped_by: &[Node, PodGone, PodCame] },
];

fn refusal(resolvable: bool, reason: &str) -> Option<Refusal> {
    Some(Refusal { reasons: vec![reason.to_owned()], resolvable })
}

fn unschedulable(question: &Question<'_>) -> Option<Refusal> {
    let node = question.place.node.as_ref()?;
    let cordoned = node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true);
    let taint = Taint {
        key: "node.kubernetes.io/unschedulable".to_owned(),
        effect: "NoSchedule".to_owned(),
        ..Taint::default()
    };
    if cordoned && !tolerated(question.wanted.tolerations(), &taint) {
        return refusal(false, "node(s) were unschedulable");
    }
    None
}

fn node_name(question: &Question<'_>) -> Option<Refusal> {
    let wanted = question.wanted.pod.spec.as_ref()?.node_name.as_deref().filter(|name| !name.is_empty())?;
    let other = question.place.node.as_ref().is_none_or(|node| node.name() != wanted);
    if other { refusal(false, "node(s) didn't match the requested node name") } else { None }
}

/// The first taint that keeps the pod away.
pub(crate) fn untolerated<'a>(wanted: &Wanted, place: &'a Place) -> Option<&'a Taint> {
    let mut taints = place.taints().iter().filter(|taint| taint.effect != "PreferNoSchedule");
    taints.find(|taint| !tolerated(wanted.tolerations(), taint))
}

fn taints(question: &Question<'_>) -> Option<Refusal> {
    untolerated(question.wanted, question.place)?;
    refusal(false, "node(s) had untolerated taint(s)")
}

pub(crate) fn node_affinity_allows(wanted: &Wanted, place: &Place) -> bool {
    let Some(node) = &place.node else { return false };
    wanted.selects(node.labels()) && wanted.node_terms().is_none_or(|required| terms::any(required, node))
}

fn node_affinity(question: &Question<'_>) -> Option<Refusal> {
    if node_affinity_allows(question.wanted, question.place) {
        return None;
    }
    refusal(false, "node(s) didn't match Pod's node affinity/selector")
}

fn ports(question: &Question<'_>) -> Option<Refusal> {
    let taken = question.place.pods.values().flat_map(|other| &other.ports);
    let conflict = |port| question.wanted.ports.iter().any(|own| own.conflicts(port));
    let refused = !question.wanted.ports.is_empty() && taken.into_iter().any(conflict);
    if refused { refusal(true, "node(s) didn't have free ports for the requested pod ports") } else { None }
}

fn fit(question: &Question<'_>) -> Option<Refusal> {
    let place = question.place;
    let mut reasons = Vec::new();
    let mut resolvable = true;
    let pods = i64::try_from(place.pods.len()).unwrap_or(i64::MAX);
    if pods + 1 > place.allocatable.get("pods") {
        reasons.push("Too many pods".to_owned());
    }
    for (name, amount) in question.wanted.requests.iter().filter(|(_, amount)| *amount > 0) {
        let total = place.allocatable.get(name);
        if amount > total - place.requested.get(name) {
            reasons.push(format!("Insufficient {name}"));
            resolvable &= amount <= total;
        }
    }
    (!reasons.is_empty()).then_some(Refusal { reasons, resolvable })
}

fn spread(question: &Question<'_>) -> Option<Refusal> {
    let (wanted, place) = (question.wanted, question.place);
    for (constraint, domains) in
        wanted.spread.iter().zip(&question.counts.spread).filter(|(it, _)| it.required)
    {
        let Some(domain) = place.domain(&constraint.topology_key) else {
            return refusal(
                false,
                "node(s) didn't match pod topology spread constraints (missing required label)",
            );
        };
        let enough = i64::try_from(domains.len()).unwrap_or(i64::MAX) >= constraint.min_domains;
        let least = if enough { domains.values().min().copied().unwrap_or(0) } else { 0 };
        let own = i64::from(constraint.means(&wanted.pod, wanted.pod.namespace()));
        let here = domains.get(domain).copied().unwrap_or(0);
        if here + own - least > constraint.max_skew {
            return refusal(true, "node(s) didn't match pod topology spread constraints");
        }
    }
    None
}

fn pod_affinity(question: &Question<'_>) -> Option<Refusal> {
    let (wanted, counts, place) = (question.wanted, question.counts, question.place);
    let has = |domains: &crate::topology::Domains, key: &str| {
        place.domain(key).is_some_and(|domain| domains.get(domain).is_some_and(|count| *count > 0))
    };
    let labelled = wanted.affinity.iter().all(|term| place.domain(&term.topology_key).is_some());
    let near =
        wanted.affinity.iter().zip(&counts.affinity).all(|(term, domains)| has(domains, &term.topology_key));
    if !(labelled && (near || counts.first_of_its_kind)) {
        return refusal(false, "node(s) didn't match pod affinity rules");
    }
    if wanted
        .anti_affinity
        .iter()
        .zip(&counts.anti_affinity)
        .any(|(term, domains)| has(domains, &term.topology_key))
    {
        return refusal(true, "node(s) didn't match pod anti-affinity rules");
    }
    let refused = |(key, value): &(String, String)| place.domain(key) == Some(value);
    if counts.refused.iter().any(refused) {
        return refusal(true, "node(s) didn't satisfy existing pods anti-affinity rules");
    }
    None
}
