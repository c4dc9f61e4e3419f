//! The plugins of the scheduling framework, one row each in [`PLUGINS`]: filters say whether a pod may run
//! on a node, scores on which of the nodes that will do it is best off, hints whether an event could help
//! a pod that a filter refused.

pub(crate) mod devices;
pub(crate) mod image;
pub(crate) mod node;
pub(crate) mod pods;
pub(crate) mod resources;
pub(crate) mod spread;
pub(crate) mod volumes;

use crate::ask::Wanted;
use crate::cluster::{Cluster, Place};
use crate::cycle::Cycle;
use crate::events::Event;
use crate::profile::Profile;

/// The best a node can be in one respect.
pub(crate) const BEST: i64 = 100;

/// Why a node is out, in Kubernetes' words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    Texts(&'static [&'static str]),
    /// Bit 0 is the number of pods; the others are the pod's requests in their order.
    Resources(u64),
}

/// That a node is out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) reason: Reason,
    /// Fewer pods on the node could help.
    pub(crate) resolvable: bool,
}

/// What a filter or score is asked: this pod, this node.
#[derive(Clone, Copy)]
pub(crate) struct Question<'a> {
    pub(crate) cluster: &'a Cluster,
    pub(crate) cycle: &'a Cycle<'a>,
    pub(crate) place: &'a Place,
}

impl<'a> Question<'a> {
    pub(crate) fn wanted(&self) -> &'a Wanted {
        self.cycle.wanted
    }
}

/// How raw values of all nodes become scores from 0 to [`BEST`].
#[derive(Clone, Copy, Debug)]
pub(crate) enum Scale {
    /// They are scores already.
    AsIs,
    /// In proportion to the highest.
    Highest,
    /// The same, and less is better.
    Lowest,
    /// From the lowest to the highest.
    Between,
    /// As the spreading of pods does it; a negative value is no node of its.
    Spread,
}

/// A score.
pub(crate) struct Score {
    /// Whether nodes can differ for this pod.
    pub(crate) applies: fn(&Cycle<'_>) -> bool,
    pub(crate) raw: fn(&Question<'_>) -> i64,
    pub(crate) scale: Scale,
}

/// A filter.
pub(crate) struct Filter {
    /// It looks at what the node's pods are, not only at what they take.
    pub(crate) looks_at_pods: bool,
    /// Whether any node can be out for this pod.
    pub(crate) applies: fn(&Cycle<'_>) -> bool,
    pub(crate) refuse: fn(&Question<'_>) -> Option<Refusal>,
    /// Whether an event may help a pod that was refused.
    pub(crate) hint: fn(&Hint<'_>) -> bool,
}

/// What a hint is asked: may this event help this pod?
pub(crate) struct Hint<'a> {
    pub(crate) cluster: &'a Cluster,
    pub(crate) profile: &'a Profile,
    pub(crate) wanted: &'a Wanted,
    pub(crate) event: &'a Event<'a>,
}

/// A row of the table.
pub(crate) struct Plugin {
    pub(crate) name: &'static str,
    /// Kubernetes' default weight of the score.
    pub(crate) weight: i64,
    /// What else than filtering and scoring it does, as configurations call it.
    pub(crate) points: &'static [&'static str],
    pub(crate) filter: Option<Filter>,
    pub(crate) score: Option<Score>,
}

/// Plugins by their places in the table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PluginSet(u32);

impl PluginSet {
    pub(crate) fn insert(&mut self, plugin: usize) {
        self.0 |= 1 << plugin;
    }

    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(crate) fn contains(self, plugin: usize) -> bool {
        self.0 & (1 << plugin) != 0
    }

    pub(crate) fn iter(self) -> impl Iterator<Item = usize> {
        (0..PLUGINS.len()).filter(move |plugin| self.contains(*plugin))
    }
}

const fn filter(refuse: fn(&Question<'_>) -> Option<Refusal>, hint: fn(&Hint<'_>) -> bool) -> Option<Filter> {
    Some(Filter { looks_at_pods: false, applies: |_| true, refuse, hint })
}

const fn score(raw: fn(&Question<'_>) -> i64, scale: Scale) -> Option<Score> {
    Some(Score { applies: |_| true, raw, scale })
}

/// A plugin that is no row of filters and scores: what it does stands elsewhere.
const fn other(name: &'static str, points: &'static [&'static str]) -> Plugin {
    Plugin { name, weight: 0, points, filter: None, score: None }
}

/// In Kubernetes' default order, in which filters are asked: the first refusal counts.
#[rustfmt::skip]
pub(crate) static PLUGINS: &[Plugin] = &[
    other("SchedulingGates", &["preEnqueue"]),
    other("PrioritySort", &["queueSort"]),
    Plugin {
        name: "NodeUnschedulable", weight: 0, points: &[],
        filter: filter(node::unschedulable, node::schedulable_again), score: None,
    },
    Plugin {
        name: "NodeName", weight: 0, points: &[],
        filter: Some(Filter { looks_at_pods: false, applies: node::is_named, refuse: node::name, hint: node::named }), score: None,
    },
    Plugin {
        name: "TaintToleration", weight: 3, points: &["preScore"],
        filter: filter(node::taints, node::tolerated_now),
        score: score(node::unwelcome_taints, Scale::Lowest),
    },
    Plugin {
        name: "NodeAffinity", weight: 2, points: &["preFilter", "preScore"],
        filter: Some(Filter { looks_at_pods: false, applies: node::selects_nodes, refuse: node::affinity, hint: node::selected_now }),
        score: Some(Score { applies: node::prefers_nodes, raw: node::preferred, scale: Scale::Highest }),
    },
    Plugin {
        name: "NodePorts", weight: 0, points: &["preFilter"],
        filter: Some(Filter { looks_at_pods: true, applies: node::has_ports, refuse: node::ports, hint: node::port_freed }), score: None,
    },
    Plugin {
        name: "NodeResourcesFit", weight: 1, points: &["preFilter", "preScore"],
        filter: filter(resources::fit, resources::room_came), score: score(resources::allocation, Scale::AsIs),
    },
    Plugin {
        name: "VolumeRestrictions", weight: 0, points: &["preFilter"],
        filter: Some(Filter { looks_at_pods: true, applies: volumes::has_claims, refuse: volumes::restrictions, hint: volumes::volume_freed }), score: None,
    },
    Plugin {
        name: "NodeVolumeLimits", weight: 0, points: &["preFilter"],
        filter: Some(Filter { looks_at_pods: true, applies: volumes::has_claims, refuse: volumes::limits, hint: volumes::volume_freed }), score: None,
    },
    Plugin {
        name: "VolumeBinding", weight: 0, points: &["preFilter", "reserve", "preBind"],
        filter: Some(Filter { looks_at_pods: false, applies: volumes::has_claims, refuse: volumes::binding, hint: volumes::storage_changed }), score: None,
    },
    Plugin {
        name: "VolumeZone", weight: 0, points: &["preFilter"],
        filter: Some(Filter { looks_at_pods: false, applies: volumes::has_claims, refuse: volumes::zone, hint: volumes::storage_changed }), score: None,
    },
    Plugin {
        name: "PodTopologySpread", weight: 2, points: &["preFilter", "preScore"],
        filter: Some(Filter { looks_at_pods: true, applies: spread::constrains, refuse: spread::refuse, hint: spread::changed }),
        score: Some(Score { applies: spread::prefers, raw: spread::score, scale: Scale::Spread }),
    },
    Plugin {
        name: "InterPodAffinity", weight: 2, points: &["preFilter", "preScore"],
        filter: Some(Filter { looks_at_pods: true, applies: pods::constrains, refuse: pods::refuse, hint: pods::changed }),
        score: Some(Score { applies: pods::prefers, raw: pods::score, scale: Scale::Between }),
    },
    Plugin {
        name: "DynamicResources", weight: 2, points: &["preEnqueue", "preFilter", "postFilter", "reserve", "preBind"],
        filter: Some(Filter { looks_at_pods: false, applies: devices::has_claims, refuse: devices::refuse, hint: devices::changed }),
        score: Some(Score { applies: devices::has_choice, raw: devices::alternatives, scale: Scale::Highest }),
    },
    other("DefaultPreemption", &["postFilter"]),
    Plugin {
        name: "NodeResourcesBalancedAllocation", weight: 1, points: &["preScore"], filter: None,
        score: Some(Score { applies: resources::asks_anything, raw: resources::balanced, scale: Scale::AsIs }),
    },
    Plugin {
        name: "ImageLocality", weight: 1, points: &[], filter: None,
        score: Some(Score { applies: image::known, raw: image::score, scale: Scale::AsIs }),
    },
    other("DefaultBinder", &["bind"]),
];
