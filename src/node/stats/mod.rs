//! What the node and its pods use: measured when somebody asks, from the kernel's own counts, and told as Kubernetes'
//! summary and in Prometheus' families. Nothing runs in between: the use of processors per second is taken from what
//! was counted when somebody asked before.

mod cadvisor;
mod cgroup;
pub(crate) mod counters;
mod disk;
mod kubelet;
mod machine;
mod measure;
mod network;
mod pressure;
mod process;
mod resource;
mod samples;
mod summary;
mod volumes;

pub(crate) use cadvisor::render as cadvisor;
pub(crate) use disk::{Part, Space};
pub(crate) use kubelet::{probes, render as kubelet};
pub(crate) use machine::booted_s;
pub(crate) use measure::{ContainerUse, Depth, Measured, PodUse, measure};
pub(crate) use resource::{failed as resource_failed, render as resource};
pub(crate) use summary::render as summary;

use crate::csi::Published;
use crate::volumes::Volumes;
use cgroup::{Kernel, Share};
use disk::Walks;
use samples::Samples;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// The volumes of a pod by their names: where they lie, and which of them drivers of storage published.
#[derive(Default)]
struct Mounted {
    paths: HashMap<String, PathBuf>,
    published: HashMap<String, Published>,
}

/// What is remembered from one question to the next.
pub(crate) struct Stats {
    samples: Samples,
    walks: Walks,
    /// Where the volumes of each pod lie, by its uid.
    volumes: Mutex<HashMap<String, Arc<Mounted>>>,
}

impl Stats {
    /// Folders are walked once in `period`.
    pub(crate) fn new(period: Duration) -> Self {
        Self { samples: Samples::default(), walks: Walks::new(period), volumes: Mutex::default() }
    }

    /// Takes note of where a pod's volumes lie.
    pub(crate) fn mounted(&self, uid: &str, volumes: &Volumes) {
        let mounted = Mounted { paths: volumes.paths(), published: volumes.published() };
        self.volumes.lock().unwrap_or_else(PoisonError::into_inner).insert(uid.to_owned(), Arc::new(mounted));
    }

    /// The volumes of a pod that drivers of storage published, by their names.
    pub(crate) fn published(&self, uid: &str) -> HashMap<String, Published> {
        self.volumes_of(uid).published.clone()
    }

    fn volumes_of(&self, uid: &str) -> Arc<Mounted> {
        self.volumes.lock().unwrap_or_else(PoisonError::into_inner).get(uid).cloned().unwrap_or_default()
    }

    /// Forgets a pod that is gone.
    pub(crate) fn forget(&self, uid: &str) {
        self.volumes.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
    }
}

/// What a cgroup of this node was given of the processors.
pub(crate) fn share(cgroups: &crate::cgroups::Cgroups) -> impl Fn(&str) -> Share {
    let kernel = Kernel::of(cgroups.hierarchy());
    move |path| kernel.share(path)
}

/// Memory that the pods of a class use now, less file pages that nobody touched lately; the class of the guaranteed has
/// all pods below it.
pub(crate) fn working_set(cgroups: &crate::cgroups::Cgroups, class: crate::amount::Qos) -> Option<u64> {
    let kernel = Kernel::of(cgroups.hierarchy());
    kernel.working_set(&cgroups.path_of_class(class))
}
