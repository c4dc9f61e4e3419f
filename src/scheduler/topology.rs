//! What has to be counted across nodes before one of them can be judged: spreading, and affinity
//! between pods.

use crate::cluster::{Cluster, Place};
use crate::wanted::{PodTerm, Spread, Wanted};
use api::Object;
use api::slim::Pod;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// Counts per value of a topology key.
pub(crate) type Domains = HashMap<String, i64>;

/// The counts for one pod's decision.
#[derive(Debug, Default)]
pub(crate) struct Counts<'a> {
    /// Per constraint of the pod: matching pods per domain; domains without any are there with zero.
    pub(crate) spread: Vec<Domains>,
    /// Per required term: domains with pods it means.
    pub(crate) affinity: Vec<Domains>,
    /// No pod anywhere is meant by the affinity terms, and the pod itself is: it may be the first.
    pub(crate) first_of_its_kind: bool,
    pub(crate) anti_affinity: Vec<Domains>,
    /// Topology keys and values where pods are that will not have this one.
    pub(crate) refused: HashSet<(String, String)>,
    /// Preference per topology key and value, the pod's own and that of the pods there.
    pub(crate) preferred: HashMap<(String, String), i64>,
    /// Pods of the same controller per node: what default spreading looks at.
    pub(crate) siblings: Option<&'a HashMap<Arc<str>, i64>>,
}

impl<'a> Counts<'a> {
    pub(crate) fn new(wanted: &Wanted, cluster: &'a Cluster) -> Self {
        let mut counts = Self {
            spread: vec![Domains::new(); wanted.spread.len()],
            affinity: vec![Domains::new(); wanted.affinity.len()],
            anti_affinity: vec![Domains::new(); wanted.anti_affinity.len()],
            ..Self::default()
        };
        if wanted.is_social() || !wanted.spread.is_empty() {
            for (_, place) in cluster.places() {
                counts.count_spread(wanted, place);
                counts.count_terms(wanted, place, cluster);
            }
        }
        for (other, place) in cluster.social() {
            counts.count_existing(wanted, other, place, cluster);
        }
        let owner = wanted.pod.controller();
        counts.siblings = owner.and_then(|owner| cluster.siblings(owner.uid));
        let labels = cluster.namespace(wanted.pod.namespace());
        counts.first_of_its_kind = counts.affinity.iter().all(HashMap::is_empty)
            && wanted.affinity.iter().all(|term| term.means(&wanted.pod, labels));
        counts
    }

    fn count_spread(&mut self, wanted: &Wanted, place: &Place) {
        for (constraint, domains) in wanted.spread.iter().zip(&mut self.spread) {
            let Some(domain) = place.domain(&constraint.topology_key) else { continue };
            if is_eligible(constraint, wanted, place) {
                let count = place
                    .pods
                    .values()
                    .filter(|it| constraint.means(&it.pod, wanted.pod.namespace()))
                    .count();
                *domains.entry(domain.to_owned()).or_default() += i64::try_from(count).unwrap_or(i64::MAX);
            }
        }
    }

    fn count_terms(&mut self, wanted: &Wanted, place: &Place, cluster: &Cluster) {
        for other in place.pods.values() {
            let labels = cluster.namespace(other.pod.namespace());
            for (terms, counts) in
                [(&wanted.affinity, &mut self.affinity), (&wanted.anti_affinity, &mut self.anti_affinity)]
            {
                for (term, domains) in terms.iter().zip(counts) {
                    if let Some(domain) =
                        place.domain(&term.topology_key).filter(|_| term.means(&other.pod, labels))
                    {
                        *domains.entry(domain.to_owned()).or_default() += 1;
                    }
                }
            }
            for (weight, term) in &wanted.preferred_pods {
                self.prefer(*weight, term, &other.pod, (place, cluster));
            }
        }
    }

    /// What a pod that is already there thinks of the new one.
    fn count_existing(&mut self, wanted: &Wanted, other: &Wanted, place: &Place, cluster: &Cluster) {
        let own = cluster.namespace(wanted.pod.namespace());
        for term in other.anti_affinity.iter().filter(|term| term.means(&wanted.pod, own)) {
            if let Some(domain) = place.domain(&term.topology_key) {
                self.refused.insert((term.topology_key.clone(), domain.to_owned()));
            }
        }
        for (weight, term) in &other.preferred_pods {
            self.prefer(*weight, term, &wanted.pod, (place, cluster));
        }
        // A pod that must be near this one rather has it near (`hardPodAffinityWeight` is 1).
        for term in &other.affinity {
            self.prefer(1, term, &wanted.pod, (place, cluster));
        }
    }

    fn prefer(&mut self, weight: i32, term: &PodTerm, pod: &Pod, (place, cluster): (&Place, &Cluster)) {
        let domain = place.domain(&term.topology_key);
        if let Some(domain) = domain.filter(|_| term.means(pod, cluster.namespace(pod.namespace()))) {
            let key = (term.topology_key.clone(), domain.to_owned());
            *self.preferred.entry(key).or_default() += i64::from(weight);
        }
    }
}

/// Whether a node counts for a constraint.
fn is_eligible(constraint: &Spread, wanted: &Wanted, place: &Place) -> bool {
    (!constraint.honor_affinity || crate::filters::node_affinity_allows(wanted, place))
        && (!constraint.honor_taints || crate::filters::untolerated(wanted, place).is_none())
}
