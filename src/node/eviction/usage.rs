//! What a pod uses, as far as its eviction depends on it.

use crate::amount::signed;
use crate::stats::{ContainerUse, Part, PodUse};
use std::collections::BTreeMap;

/// One container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ContainerUsage {
    pub(crate) name: String,
    pub(crate) memory: Option<i64>,
    /// What it wrote into its own file system, and its logs.
    pub(crate) rootfs: Option<Part>,
    pub(crate) logs: Option<Part>,
}

/// One pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) memory: i64,
    pub(crate) processes: i64,
    pub(crate) containers: Vec<ContainerUsage>,
    /// Volumes, and whether they take of the node's own disk.
    pub(crate) volumes: BTreeMap<String, (Part, bool)>,
    /// All that it takes of the node's disk.
    pub(crate) ephemeral: Part,
}

impl From<&ContainerUse> for ContainerUsage {
    fn from(it: &ContainerUse) -> Self {
        Self {
            name: it.name.clone(),
            memory: it.group.as_ref().map(|group| signed(group.usage.memory.working_set)),
            rootfs: it.layer,
            logs: it.logs,
        }
    }
}

impl From<&PodUse> for Usage {
    fn from(it: &PodUse) -> Self {
        let group = it.group.as_ref().map(|group| &group.usage);
        let volumes = it.volumes.iter().map(|volume| {
            let part = Part { bytes: volume.space.used, inodes: volume.space.inodes_used };
            (volume.name.clone(), (part, volume.is_ephemeral))
        });
        Self {
            memory: group.map_or(0, |usage| signed(usage.memory.working_set)),
            processes: signed(it.processes()),
            containers: it.containers.iter().map(ContainerUsage::from).collect(),
            volumes: volumes.collect(),
            ephemeral: it.ephemeral,
        }
    }
}
