//! What decisions look up beside the picture of the cluster, seldom and by name.

use crate::ask::{Key, Wanted};
use crate::claims::{Chosen, Claims};
use crate::cluster::Cluster;
use crate::devices::{Blocked, Devices, Limits};
use crate::intern::Texts;
use crate::wishes::Group;
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
    /// The pod is leaving because the scheduler asked it to.
    fn is_preempted(&self, pod: &Key) -> bool;

    /// All disruption budgets.
    fn budgets(&self) -> Vec<Budget>;

    /// What the claims of a pod ask for, or why it cannot have them anywhere.
    fn claims(&self, wanted: &Wanted, texts: &mut Texts) -> Result<Claims, String>;

    /// What a pod asks for of devices, were there anything.
    fn devices(
        &self,
        wanted: &Wanted,
        limits: &Limits,
        cluster: &mut Cluster,
    ) -> Result<Option<Devices>, Blocked>;

    /// Keeps the volumes that a pod is to get from others.
    fn reserve(&self, pod: &Key, chosen: &[Chosen]);

    /// Driver and handle of a claim's CSI volume (`namespace/name`).
    fn csi_volume(&self, claim: &str) -> Option<(String, String)>;

    /// How many volumes of a CSI driver a node takes, were there a limit.
    fn volume_limit(&self, node: &str, driver: &str) -> Option<usize>;

    /// The selectors of the services and of the owner of a pod: with whom it is spread by default.
    fn siblings(&self, wanted: &Wanted) -> Vec<Labels>;
}
