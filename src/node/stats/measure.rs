//! One look at everything: the runtime says what there is, the kernel what it uses.

use super::cgroup::{Kernel, Usage};
use super::disk::{Part, Space};
use super::machine::Machine;
use super::network::{self, Interface};
use super::process::{self, Process};
use super::volumes::{self, VolumeUse};
use crate::amount::Qos;
use crate::pods::observe::names;
use crate::pods::{sandbox, spec};
use crate::protocols::runtime::v1 as cri;
use crate::{Context, Error, csi};
use api::Object;
use api::core::Pod;
use base::clock;
use jiff::Timestamp;
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

/// How much is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Depth {
    /// What autoscalers ask for: cheap.
    CpuAndMemory,
    /// Also networks, disks and volumes, as far as the machine knows.
    Disks,
    /// Also what drivers of storage say of volumes.
    Everything,
}

/// A cgroup with its use, and the part of it that is per second.
#[derive(Clone, Debug, Default)]
pub(crate) struct Group {
    /// Its path within the hierarchies.
    pub(crate) path: String,
    pub(crate) usage: Usage,
    pub(crate) nano_cores: Option<u64>,
}

/// A container or sandbox that runs.
#[derive(Clone, Debug, Default)]
pub(crate) struct ContainerUse {
    pub(crate) id: String,
    /// "" for the sandbox.
    pub(crate) name: String,
    pub(crate) image: String,
    pub(crate) created_ns: i64,
    pub(crate) group: Option<Group>,
    /// What it wrote into its own file system.
    pub(crate) layer: Option<Part>,
    pub(crate) logs: Option<Part>,
}

/// A pod of which something runs.
#[derive(Clone, Debug)]
pub(crate) struct PodUse {
    pub(crate) pod: Arc<Pod>,
    pub(crate) group: Option<Group>,
    pub(crate) sandbox: Option<ContainerUse>,
    pub(crate) containers: Vec<ContainerUse>,
    /// None for pods in the machine's network.
    pub(crate) interfaces: Option<Vec<Interface>>,
    pub(crate) volumes: Vec<VolumeUse>,
    /// What it takes of the node's disk.
    pub(crate) ephemeral: Part,
}

impl PodUse {
    /// Its containers' processes and its sandbox'.
    pub(crate) fn processes(&self) -> u64 {
        let all = self.containers.iter().chain(&self.sandbox);
        all.filter_map(|container| Some(container.group.as_ref()?.usage.processes)).sum()
    }
}

/// A part of the machine that is no pod.
#[derive(Clone, Debug)]
pub(crate) struct SystemUse {
    pub(crate) name: &'static str,
    pub(crate) process: Process,
    pub(crate) nano_cores: Option<u64>,
}

/// Everything at one time.
#[derive(Clone, Debug)]
pub(crate) struct Measured {
    pub(crate) at: Timestamp,
    pub(crate) node_name: String,
    pub(crate) machine: Machine,
    pub(crate) nano_cores: Option<u64>,
    /// All pods together, and the classes that have cgroups of their own.
    pub(crate) classes: Vec<Group>,
    pub(crate) system: Vec<SystemUse>,
    pub(crate) pods: Vec<PodUse>,
    /// The file system of pods' folders.
    pub(crate) node_fs: Space,
    /// That of images, and what images take of it; that of containers' own layers.
    pub(crate) image_fs: Option<Space>,
    pub(crate) container_fs: Option<Space>,
}

/// What the runtime says that there is.
#[derive(Default)]
struct Listed {
    containers: Vec<cri::Container>,
    sandboxes: Vec<cri::PodSandbox>,
    layers: HashMap<String, Part>,
    images: cri::ImageFsInfoResponse,
}

impl Listed {
    async fn ask(context: &Context, depth: Depth) -> Result<Self, Error> {
        let runtime = &context.runtime;
        let state = cri::ContainerStateValue { state: cri::ContainerState::ContainerRunning.into() };
        let filter = cri::ContainerFilter { state: Some(state), ..Default::default() };
        let running = cri::ListContainersRequest { filter: Some(filter) };
        let containers = runtime.list_containers(running).await?.containers;
        let sandboxes = runtime.list_pod_sandbox(cri::ListPodSandboxRequest::default()).await?.items;
        let ready = |one: &cri::PodSandbox| one.state() == cri::PodSandboxState::SandboxReady;
        let mut listed =
            Self { containers, sandboxes: sandboxes.into_iter().filter(ready).collect(), ..Self::default() };
        if depth != Depth::CpuAndMemory {
            let stats = runtime.list_container_stats(cri::ListContainerStatsRequest::default()).await?.stats;
            listed.layers = stats.into_iter().filter_map(layer).collect();
            listed.images = runtime.image_fs_info().await?;
        }
        Ok(listed)
    }
}

fn layer(stats: cri::ContainerStats) -> Option<(String, Part)> {
    let value = |value: Option<cri::UInt64Value>| value.map_or(0, |value| value.value);
    let layer = stats.writable_layer?;
    Some((stats.attributes?.id, Part { bytes: value(layer.used_bytes), inodes: value(layer.inodes_used) }))
}

/// Looks at the node and at these of its pods.
pub(crate) async fn measure(
    context: &Arc<Context>,
    pods: Vec<Arc<Pod>>,
    depth: Depth,
) -> Result<Measured, Error> {
    let listed = Listed::ask(context, depth).await?;
    if depth == Depth::Everything {
        csi::ask_drivers(context, &pods).await;
    }
    let look =
        Look { context: context.clone(), kernel: Kernel::of(context.cgroups.hierarchy()), listed, depth };
    // Files of the kernel are quick to read, folders of volumes may not be.
    let looking = tokio::task::spawn_blocking(move || look.at_all(pods));
    looking.await.map_err(|error| Error::Setup(format!("a measurement failed: {error}")))
}

struct Look {
    context: Arc<Context>,
    kernel: Kernel,
    listed: Listed,
    depth: Depth,
}

impl Look {
    fn at_all(&self, pods: Vec<Arc<Pod>>) -> Measured {
        let machine = Machine::measure();
        let stats = &self.context.stats;
        stats.samples.trim();
        let nano_cores = stats.samples.nano_cores("/", machine.cpu_ns);
        let classes = [Qos::Guaranteed, Qos::Burstable, Qos::BestEffort];
        let classes = classes.map(|class| self.group(self.context.cgroups.path_of_class(class)));
        let config = &self.context.config;
        let space = |usages: &[cri::FilesystemUsage]| usages.first().and_then(image_space);
        let images = space(&self.listed.images.image_filesystems);
        Measured {
            at: clock::now(),
            node_name: config.node_name.clone(),
            nano_cores,
            machine,
            classes: classes.into_iter().flatten().collect(),
            system: self.system(),
            pods: pods.into_iter().filter_map(|pod| self.pod(pod)).collect(),
            node_fs: Space::of_file_system(&config.kubelet_dir).unwrap_or_default(),
            container_fs: space(&self.listed.images.container_filesystems).or(images),
            image_fs: images,
        }
    }

    fn group(&self, path: String) -> Option<Group> {
        let usage = self.kernel.usage(&path)?;
        let nano_cores = self.context.stats.samples.nano_cores(&path, usage.cpu.usage_ns);
        Some(Group { path, usage, nano_cores })
    }

    /// knarr itself, and its containerd.
    fn system(&self) -> Vec<SystemUse> {
        let pid_file = self.context.config.run_dir.join("containerd/containerd.pid");
        let parts = [("kubelet", Some("self".to_owned())), ("runtime", process::pid_in(&pid_file))];
        let found = parts.into_iter().filter_map(|(name, pid)| {
            let process = Process::of(&pid?)?;
            let nano_cores = self.context.stats.samples.nano_cores(name, process.cpu_ns);
            Some(SystemUse { name, process, nano_cores })
        });
        found.collect()
    }

    fn pod(&self, pod: Arc<Pod>) -> Option<PodUse> {
        let is_mine =
            |labels: &HashMap<String, String>| labels.get(names::UID).is_some_and(|uid| uid == pod.uid());
        let deep = self.depth != Depth::CpuAndMemory;
        let sandbox = self.listed.sandboxes.iter().find(|sandbox| is_mine(&sandbox.labels));
        let sandbox = sandbox.map(|sandbox| ContainerUse {
            group: deep
                .then(|| self.group(self.context.cgroups.path_of_container(&pod, &sandbox.id)))
                .flatten(),
            id: sandbox.id.clone(),
            image: crate::containerd::pause::IMAGE.to_owned(),
            created_ns: sandbox.created_at,
            ..ContainerUse::default()
        });
        let own = self.listed.containers.iter().filter(|container| is_mine(&container.labels));
        let containers: Vec<_> = own.map(|container| self.container(&pod, container)).collect();
        if sandbox.is_none() && containers.is_empty() {
            return None;
        }
        let interfaces = sandbox.as_ref().and_then(|sandbox| self.interfaces(&pod, sandbox));
        let volumes = if deep { volumes::measure(&self.context, &pod) } else { Vec::new() };
        let mut ephemeral = volumes::ephemeral(&volumes);
        containers.iter().flat_map(|one| [one.layer, one.logs]).flatten().for_each(|part| ephemeral += part);
        let group = self.group(self.context.cgroups.path_of_pod(&pod));
        Some(PodUse { group, sandbox, containers, interfaces, volumes, ephemeral, pod })
    }

    fn container(&self, pod: &Pod, container: &cri::Container) -> ContainerUse {
        let name = container.labels.get(names::CONTAINER).cloned().unwrap_or_default();
        let root = &self.context.config.log_dir;
        let logs = sandbox::log_folder(root, pod.namespace(), pod.name(), pod.uid()).join(&name);
        let deep = self.depth != Depth::CpuAndMemory;
        ContainerUse {
            group: self.group(self.context.cgroups.path_of_container(pod, &container.id)),
            layer: self.listed.layers.get(&container.id).copied(),
            logs: deep.then(|| self.context.stats.walks.part(&logs)),
            image: image_of(pod, &name),
            created_ns: container.created_at,
            id: container.id.clone(),
            name,
        }
    }

    /// What a pod's first process sees of its network.
    fn interfaces(&self, pod: &Pod, sandbox: &ContainerUse) -> Option<Vec<Interface>> {
        if self.depth == Depth::CpuAndMemory || spec::host_network(pod) {
            return None;
        }
        let pid = sandbox.group.as_ref()?.usage.first_process?;
        Some(network::of_process(&pid.to_string()))
    }
}

/// The image as the pod names it, in full: the runtime was told its id.
fn image_of(pod: &Pod, container: &str) -> String {
    let image = spec::container(pod, container).and_then(|(_, container)| container.image);
    image.map(|image| crate::images::full_reference(&image)).unwrap_or_default()
}

fn image_space(usage: &cri::FilesystemUsage) -> Option<Space> {
    let path = Path::new(&usage.fs_id.as_ref()?.mountpoint);
    let value = |value: &Option<cri::UInt64Value>| value.as_ref().map_or(0, |value| value.value);
    let part = Part { bytes: value(&usage.used_bytes), inodes: value(&usage.inodes_used) };
    Space::of_file_system(path).map(|space| space.with_use(part))
}
