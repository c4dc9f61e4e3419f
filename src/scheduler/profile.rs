//! A profile: which plugins decide about the pods of one `schedulerName`, and how.

use crate::devices::Limits;
use crate::nodes::{NodeSelector, NodeTerm};
use crate::plugins::PLUGINS;
use crate::resources::Resource;
use api::core::TopologySpreadConstraint;
use std::time::Duration;

/// How well used a node should be (`scoringStrategy.type`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Strategy {
    LeastAllocated,
    MostAllocated,
    /// Points of (utilization, score), both of a hundred.
    RequestedToCapacityRatio(Vec<(i64, i64)>),
}

/// `NodeResourcesFitArgs`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FitArgs {
    pub(crate) ignored: Vec<String>,
    pub(crate) ignored_groups: Vec<String>,
    pub(crate) strategy: Strategy,
    /// With their weights.
    pub(crate) resources: Vec<(Resource, i64)>,
}

/// The arguments of all plugins.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Args {
    pub(crate) fit: FitArgs,
    /// `NodeResourcesBalancedAllocationArgs.resources`.
    pub(crate) balanced: Vec<Resource>,
    /// `NodeAffinityArgs.addedAffinity`.
    pub(crate) added_nodes: Option<NodeSelector>,
    pub(crate) added_preferred: Vec<(i64, NodeTerm)>,
    /// `InterPodAffinityArgs`.
    pub(crate) hard_pod_affinity_weight: i64,
    pub(crate) ignore_preferred_of_existing: bool,
    /// `PodTopologySpreadArgs`: Kubernetes' own constraints, unless a list is given.
    pub(crate) system_spread: bool,
    pub(crate) default_spread: Vec<TopologySpreadConstraint>,
    /// `DefaultPreemptionArgs`.
    pub(crate) min_candidate_nodes_percentage: usize,
    pub(crate) min_candidate_nodes_absolute: usize,
    /// `VolumeBindingArgs.bindTimeoutSeconds`: how long volumes may take.
    pub(crate) volumes_limit: Duration,
    /// `DynamicResourcesArgs`.
    pub(crate) devices: Limits,
}

impl Default for Args {
    fn default() -> Self {
        let by_default = |key: &str, max_skew| TopologySpreadConstraint {
            topology_key: key.to_owned(),
            max_skew,
            when_unsatisfiable: "ScheduleAnyway".to_owned(),
            ..TopologySpreadConstraint::default()
        };
        Self {
            fit: FitArgs {
                ignored: Vec::new(),
                ignored_groups: Vec::new(),
                strategy: Strategy::LeastAllocated,
                resources: vec![(Resource::Cpu, 1), (Resource::Memory, 1)],
            },
            balanced: vec![Resource::Cpu, Resource::Memory],
            added_nodes: None,
            added_preferred: Vec::new(),
            hard_pod_affinity_weight: 1,
            ignore_preferred_of_existing: false,
            system_spread: true,
            default_spread: vec![
                by_default("kubernetes.io/hostname", 3),
                by_default("topology.kubernetes.io/zone", 5),
            ],
            min_candidate_nodes_percentage: 10,
            min_candidate_nodes_absolute: 100,
            volumes_limit: Duration::from_secs(600),
            devices: Limits { binding: Duration::from_secs(600), search: Some(Duration::from_secs(10)) },
        }
    }
}

/// A profile.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Profile {
    pub(crate) scheduler_name: String,
    /// Plugins whose filters are asked, in order.
    pub(crate) filters: Vec<usize>,
    /// Plugins whose scores count, with their weights.
    pub(crate) scores: Vec<(usize, i64)>,
    /// Less important pods may have to leave (`DefaultPreemption`).
    pub(crate) preempts: bool,
    /// Devices that are in the way may be taken from claims that nobody uses (`DynamicResources`).
    pub(crate) frees_devices: bool,
    /// 0: as many as the number of nodes suggests.
    pub(crate) percentage_of_nodes_to_score: usize,
    pub(crate) args: Args,
}

impl Profile {
    pub(crate) fn has_filter(&self, name: &str) -> bool {
        self.filters.iter().any(|plugin| PLUGINS[*plugin].name == name)
    }
}

/// The place of a plugin in the table; the names are those of the table.
pub(crate) fn plugin(name: &str) -> usize {
    PLUGINS.iter().position(|plugin| plugin.name == name).unwrap_or_default()
}
