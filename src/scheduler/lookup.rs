//! The rest of the cluster, from the shared caches.

use crate::ask::{Key, Wanted};
use crate::claims::{Chosen, Claims};
use crate::cluster::Cluster;
use crate::devices::{Blocked, DeviceCaches, Devices, Limits};
use crate::intern::Texts;
use crate::storage::Storage;
use crate::world::{Budget, World};
use api::Object;
use api::apps::{ReplicaSet, StatefulSet};
use api::core::{ReplicationController, Service};
use api::policy::PodDisruptionBudget;
use api::selector::Labels;
use api::slim::Pod;
use client::{Cache, Caches};

/// Caches that are read when a decision needs them.
pub(crate) struct Lookup {
    pub(crate) pods: Cache<Pod>,
    services: Cache<Service>,
    replica_sets: Cache<ReplicaSet>,
    stateful_sets: Cache<StatefulSet>,
    replication_controllers: Cache<ReplicationController>,
    budgets: Cache<PodDisruptionBudget>,
    pub(crate) storage: Storage,
    pub(crate) devices: DeviceCaches,
}

impl Lookup {
    pub(crate) fn new(caches: &Caches) -> Self {
        Self {
            pods: caches.of(),
            services: caches.of(),
            replica_sets: caches.of(),
            stateful_sets: caches.of(),
            replication_controllers: caches.of(),
            budgets: caches.of(),
            storage: Storage::new(caches),
            devices: DeviceCaches::new(caches),
        }
    }

    pub(crate) async fn synced(&self) {
        self.pods.synced().await;
        self.services.synced().await;
        self.replica_sets.synced().await;
        self.stateful_sets.synced().await;
        self.replication_controllers.synced().await;
        self.budgets.synced().await;
        self.storage.synced().await;
        self.devices.synced().await;
    }

    /// The selector of whoever made the pod.
    fn owner(&self, pod: &Pod) -> Option<Labels> {
        let owner = pod.controller()?;
        let namespace = pod.namespace();
        match (owner.api_version, owner.kind) {
            ("apps/v1", "ReplicaSet") => {
                let set = self.replica_sets.get(namespace, owner.name)?;
                Some(Labels::of(set.spec.as_ref().map(|spec| &spec.selector)))
            }
            ("apps/v1", "StatefulSet") => {
                let set = self.stateful_sets.get(namespace, owner.name)?;
                Some(Labels::of(set.spec.as_ref().map(|spec| &spec.selector)))
            }
            ("v1", "ReplicationController") => {
                let controller = self.replication_controllers.get(namespace, owner.name)?;
                controller.spec.as_ref()?.selector.as_ref().map(Labels::of_map)
            }
            _ => None,
        }
    }
}

impl World for Lookup {
    fn is_preempted(&self, pod: &Key) -> bool {
        let (namespace, name) = pod.parts();
        let pod = self.pods.get(namespace, name);
        let conditions = pod.as_ref().and_then(|pod| pod.status.as_ref()?.conditions.as_deref());
        conditions.unwrap_or_default().iter().any(|condition| {
            &*condition.type_ == "DisruptionTarget"
                && &*condition.status == "True"
                && condition.reason.as_deref() == Some("PreemptionByScheduler")
        })
    }

    fn budgets(&self) -> Vec<Budget> {
        let snapshot = self.budgets.snapshot();
        let budgets = snapshot.iter().map(|budget| {
            let status = budget.status.as_ref();
            let disrupted = status.and_then(|status| status.disrupted_pods.as_ref());
            Budget {
                namespace: budget.namespace().to_owned(),
                selector: Labels::of(budget.spec.as_ref().and_then(|spec| spec.selector.as_ref())),
                allowed: status.and_then(|status| status.disruptions_allowed).unwrap_or(0),
                disrupted: disrupted.into_iter().flatten().map(|(name, _)| name.clone()).collect(),
            }
        });
        budgets.collect()
    }

    fn claims(&self, wanted: &Wanted, texts: &mut Texts) -> Result<Claims, String> {
        self.storage.of(wanted, texts)
    }

    fn devices(
        &self,
        wanted: &Wanted,
        limits: &Limits,
        cluster: &mut Cluster,
    ) -> Result<Option<Devices>, Blocked> {
        self.devices.of(wanted, limits, cluster)
    }

    fn reserve(&self, pod: &Key, chosen: &[Chosen]) {
        self.storage.reserve(pod, chosen);
    }

    fn csi_volume(&self, claim: &str) -> Option<(String, String)> {
        self.storage.csi_volume(claim)
    }

    fn volume_limit(&self, node: &str, driver: &str) -> Option<usize> {
        self.storage.limit(node, driver)
    }

    fn siblings(&self, wanted: &Wanted) -> Vec<Labels> {
        let services = self.services.snapshot();
        let selectors = services.in_namespace(&wanted.ask.namespace);
        let selectors = selectors.filter_map(|service| service.spec.as_ref()?.selector.as_ref());
        let of_services = selectors.filter(|selector| !selector.is_empty()).map(Labels::of_map);
        let of_services = of_services.filter(|selector| selector.selects(&*wanted.pod));
        of_services.chain(self.owner(&wanted.pod)).collect()
    }
}
