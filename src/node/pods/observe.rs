//! What the runtime has of one pod, read back from its labels and annotations: the whole memory of the
//! kubelet over a restart.

use super::plan::from_ns;
use super::{signals, spec};
use crate::Error;
use crate::cri::Runtime;
use crate::protocols::runtime::v1 as cri;
use api::core::Pod;
use api::meta::ObjectMeta;
use base::clock;
use futures_util::future::{join_all, try_join_all};
use jiff::SignedDuration;
use std::collections::HashMap;
use std::net::IpAddr;

/// Labels and annotations on sandboxes and containers, as Kubernetes names them.
pub(crate) mod names {
    pub(crate) const POD: &str = "io.kubernetes.pod.name";
    pub(crate) const NAMESPACE: &str = "io.kubernetes.pod.namespace";
    pub(crate) const UID: &str = "io.kubernetes.pod.uid";
    pub(crate) const CONTAINER: &str = "io.kubernetes.container.name";
    pub(crate) const HASH: &str = "io.kubernetes.container.hash";
    pub(crate) const RESTART_COUNT: &str = "io.kubernetes.container.restartCount";
    pub(crate) const TERMINATION_PATH: &str = "io.kubernetes.container.terminationMessagePath";
    pub(crate) const TERMINATION_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";
    pub(crate) const TERMINATION_FILE: &str = "knarr.io/termination-message-file";
    pub(crate) const GRACE: &str = "io.kubernetes.pod.terminationGracePeriod";
}

/// Where a container is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    Created,
    Running,
    Exited,
    Unknown,
}

/// One container, dead or alive. Times are nanoseconds since 1970, 0 for never.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Container {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) sandbox: String,
    pub(crate) life: Life,
    pub(crate) restarts: u32,
    pub(crate) hash: String,
    pub(crate) created_ns: i64,
    pub(crate) started_ns: i64,
    pub(crate) finished_ns: i64,
    pub(crate) exit_code: i32,
    pub(crate) reason: String,
    pub(crate) message: String,
    pub(crate) image: String,
    pub(crate) image_id: String,
    pub(crate) log_path: String,
    /// The signal it is stopped with, where the runtime tells.
    pub(crate) stop_signal: Option<String>,
    /// uid, gid and supplemental groups of the first process, where the runtime tells.
    pub(crate) user: Option<(i64, i64, Vec<i64>)>,
}

/// One sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sandbox {
    pub(crate) id: String,
    pub(crate) attempt: u32,
    pub(crate) ready: bool,
    pub(crate) ips: Vec<String>,
    /// Whether it is in the host's network.
    pub(crate) host_network: bool,
}

/// A pod as the runtime has it; the newest first.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Observed {
    pub(crate) sandboxes: Vec<Sandbox>,
    pub(crate) containers: Vec<Container>,
}

impl Observed {
    /// The sandbox in use.
    pub(crate) fn sandbox(&self) -> Option<&Sandbox> {
        self.sandboxes.first().filter(|sandbox| sandbox.ready)
    }

    /// The pod's addresses: its sandbox', or the machine's own for one in the host's network.
    pub(crate) fn addresses(&self, pod: &Pod, machine: &[IpAddr]) -> Vec<String> {
        if spec::host_network(pod) {
            return machine.iter().map(IpAddr::to_string).collect();
        }
        self.sandbox().map(|sandbox| sandbox.ips.clone()).unwrap_or_default()
    }

    /// The address at which the pod is asked; empty as long as it has none.
    pub(crate) fn address(&self, pod: &Pod, machine: &[IpAddr]) -> String {
        self.addresses(pod, machine).into_iter().next().unwrap_or_default()
    }

    /// The newest container of this name.
    pub(crate) fn latest(&self, name: &str) -> Option<&Container> {
        self.containers.iter().find(|container| container.name == name)
    }

    /// The containers of this name, newest first.
    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Container> {
        self.containers.iter().filter(move |container| container.name == name)
    }

    /// Whether anything of the pod may still run.
    pub(crate) fn is_stopped(&self) -> bool {
        self.sandboxes.iter().all(|sandbox| !sandbox.ready)
            && self
                .containers
                .iter()
                .all(|container| container.life == Life::Exited || container.life == Life::Created)
    }
}

/// The pods with a network of their own that the runtime has, by what their sandboxes say: of each the name, uid and
/// labels, and the addresses.
pub(crate) async fn there(runtime: &Runtime) -> Result<Vec<(Pod, Vec<IpAddr>)>, Error> {
    let listed = runtime.list_pod_sandbox(cri::ListPodSandboxRequest::default()).await?.items;
    let ready = listed.iter().filter(|listed| listed.state() == cri::PodSandboxState::SandboxReady);
    let observer = Observer::default();
    let looks = ready.map(async |listed| match observer.sandbox(runtime, listed, true).await {
        Err(error) if error.is_gone() => Ok(None),
        other => other.map(|sandbox| Some((listed, sandbox))),
    });
    let found = try_join_all(looks).await?.into_iter().flatten();
    let own = found.filter(|(_, sandbox)| !sandbox.host_network && !sandbox.ips.is_empty());
    let addressed = own.map(|(listed, sandbox)| {
        (bare(listed), sandbox.ips.iter().filter_map(|ip| ip.parse().ok()).collect())
    });
    Ok(addressed.collect())
}

/// A pod as far as its sandbox knows it.
fn bare(listed: &cri::PodSandbox) -> Pod {
    let own = listed.metadata.clone().unwrap_or_default();
    let labels = listed.labels.clone().into_iter().filter(|(key, _)| !key.starts_with("io.kubernetes.pod."));
    let metadata = ObjectMeta {
        namespace: Some(own.namespace),
        name: Some(own.name),
        uid: Some(own.uid),
        labels: Some(labels.collect()),
        ..ObjectMeta::default()
    };
    Pod { metadata, ..Pod::default() }
}

/// Reads a pod's state, asking in detail only about what may have changed.
#[derive(Default)]
pub(crate) struct Observer {
    exited: HashMap<String, Container>,
}

impl Observer {
    /// Asks the runtime about the pod with this uid.
    pub(crate) async fn observe(&mut self, runtime: &Runtime, uid: &str) -> Result<Observed, Error> {
        let label_selector = HashMap::from([(names::UID.to_owned(), uid.to_owned())]);
        let filter = cri::PodSandboxFilter { label_selector: label_selector.clone(), ..Default::default() };
        let sandboxes = runtime.list_pod_sandbox(cri::ListPodSandboxRequest { filter: Some(filter) });
        let filter = cri::ContainerFilter { label_selector, ..Default::default() };
        let containers = runtime.list_containers(cri::ListContainersRequest { filter: Some(filter) });
        let (sandboxes, containers) = tokio::try_join!(sandboxes, containers)?;
        let (mut sandboxes, containers) = (sandboxes.items, containers.containers);
        sandboxes.sort_by_key(|sandbox| std::cmp::Reverse(sandbox.created_at));
        let looks = sandboxes.iter().enumerate().map(|(i, listed)| self.sandbox(runtime, listed, i == 0));
        let details = containers.iter().map(|listed| self.container(runtime, listed));
        let (sandboxes, details) = tokio::join!(try_join_all(looks), join_all(details));
        let (sandboxes, mut containers) = (sandboxes?, Vec::new());
        for container in details {
            match container {
                Err(error) if error.is_gone() => {}
                other => containers.push(other?),
            }
        }
        containers.sort_by_key(|container| std::cmp::Reverse(container.created_ns));
        self.exited = containers
            .iter()
            .filter(|container| container.life == Life::Exited && !may_be_explained(container))
            .map(|container| (container.id.clone(), container.clone()))
            .collect();
        Ok(Observed { sandboxes, containers })
    }

    async fn sandbox(
        &self,
        runtime: &Runtime,
        listed: &cri::PodSandbox,
        newest: bool,
    ) -> Result<Sandbox, Error> {
        let attempt = listed.metadata.as_ref().map_or(0, |metadata| metadata.attempt);
        let ready = listed.state() == cri::PodSandboxState::SandboxReady;
        let mut sandbox =
            Sandbox { id: listed.id.clone(), attempt, ready, ips: Vec::new(), host_network: false };
        if !newest || !ready {
            return Ok(sandbox);
        }
        let request = cri::PodSandboxStatusRequest { pod_sandbox_id: listed.id.clone(), verbose: false };
        let status = runtime.pod_sandbox_status(request).await?.status.unwrap_or_default();
        let options = status.linux.and_then(|linux| linux.namespaces?.options);
        sandbox.host_network = options.is_some_and(|options| options.network() == cri::NamespaceMode::Node);
        if let Some(network) = status.network {
            let more = network.additional_ips.into_iter().map(|ip| ip.ip);
            sandbox.ips = std::iter::once(network.ip).chain(more).filter(|ip| !ip.is_empty()).collect();
        }
        Ok(sandbox)
    }

    async fn container(&self, runtime: &Runtime, listed: &cri::Container) -> Result<Container, Error> {
        if let Some(known) = self.exited.get(&listed.id) {
            return Ok(known.clone());
        }
        let request = cri::ContainerStatusRequest { container_id: listed.id.clone(), verbose: false };
        let status = runtime.container_status(request).await?.status.unwrap_or_default();
        Ok(from_status(status, listed.pod_sandbox_id.clone()))
    }
}

/// A kill's reason may come after it: that the memory ran out is an event of its own.
const EXPLAINED: SignedDuration = SignedDuration::from_secs(10);

/// Whether the runtime may still tell why a container was killed.
fn may_be_explained(container: &Container) -> bool {
    let age = clock::now().duration_since(from_ns(container.finished_ns));
    container.exit_code == KILLED && container.reason != "OOMKilled" && age < EXPLAINED
}

/// The code of what SIGKILL ended.
const KILLED: i32 = 128 + 9;

fn from_status(status: cri::ContainerStatus, sandbox: String) -> Container {
    let life = match status.state() {
        cri::ContainerState::ContainerCreated => Life::Created,
        cri::ContainerState::ContainerRunning => Life::Running,
        cri::ContainerState::ContainerExited => Life::Exited,
        cri::ContainerState::ContainerUnknown => Life::Unknown,
    };
    let annotation = |name: &str| status.annotations.get(name).cloned().unwrap_or_default();
    let user = status.user.as_ref().and_then(|user| user.linux.clone());
    let message = if life == Life::Exited { termination_message(&status) } else { String::new() };
    Container {
        name: status.labels.get(names::CONTAINER).cloned().unwrap_or_default(),
        restarts: annotation(names::RESTART_COUNT).parse().unwrap_or(0),
        hash: annotation(names::HASH),
        id: status.id,
        sandbox,
        life,
        created_ns: status.created_at,
        started_ns: status.started_at,
        finished_ns: status.finished_at,
        exit_code: status.exit_code,
        reason: status.reason,
        message,
        image: status.image.map(|image| image.image).unwrap_or_default(),
        image_id: status.image_ref,
        log_path: status.log_path,
        stop_signal: signals::from_cri(status.stop_signal),
        user: user.map(|user| (user.uid, user.gid, user.supplemental_groups)),
    }
}

/// A termination message has at most this many bytes.
const MESSAGE_BYTES: u64 = 4096;
/// The end of the log that stands in for a missing message.
const FALLBACK_BYTES: u64 = 2048;
const FALLBACK_LINES: usize = 80;

/// What the container left in its termination message file, or the end of its log where its policy
/// says so and it failed. The runtime's own message otherwise.
fn termination_message(status: &cri::ContainerStatus) -> String {
    let annotation = |name: &str| status.annotations.get(name).map_or("", String::as_str);
    let left = read_start(annotation(names::TERMINATION_FILE), MESSAGE_BYTES);
    if !left.is_empty() {
        return left;
    }
    let fallback = annotation(names::TERMINATION_POLICY) == "FallbackToLogsOnError";
    let failed = status.exit_code != 0 || status.reason == "ContainerCannotRun";
    if fallback && failed && !status.log_path.is_empty() {
        return crate::logs::last_lines(status.log_path.as_ref(), FALLBACK_LINES, FALLBACK_BYTES);
    }
    status.message.clone()
}

fn read_start(path: &str, limit: u64) -> String {
    use std::io::Read;
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path);
    if file.and_then(|file| file.take(limit).read_to_end(&mut bytes)).is_err() {
        bytes.clear();
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
