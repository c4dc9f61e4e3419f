//! What decisions look up beside the picture of the cluster, seldom and by name.

use crate::ask::{Key, Wanted};
use crate::wishes::Group;
use api::meta::Time;
use api::selector::Labels;

/// A PodDisruptionBudget.
#[derive(Clone, Debug)]
pub(crate) struct Budget {
    pub(crate) namespace: String,
    pub(crate) selector: Labels,
    /// `status.disruptionsAllowed`.
    pub(crate) allowed: i32,
    /// Pods that count already (`status.disruptedPods`).
    pub(crate) disrupted: Vec<String>,
}

impl Budget {
    pub(crate) fn covers(&self, pod: &Key, group: &Group) -> bool {
        *self.namespace == *group.namespace
            && group.labels.iter().next().is_some()
            && !self.selector.is_everything()
            && self.selector.matches_with(|key| group.labels.get(key))
            && !self.disrupted.iter().any(|name| name == pod.parts().1)
    }
}

/// The rest of the cluster.
pub(crate) trait World {
    /// `status.startTime` of a pod.
    fn started(&self, pod: &Key) -> Option<Time>;

    /// The pod is leaving because the scheduler asked it to.
    fn is_preempted(&self, pod: &Key) -> bool;

    /// All disruption budgets.
    fn budgets(&self) -> Vec<Budget>;

    /// The selectors of the services and of the owner of a pod: with whom it is spread by default.
    fn siblings(&self, wanted: &Wanted) -> Vec<Labels>;
}
