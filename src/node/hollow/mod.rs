//! A container runtime that runs nothing: what load tests put below kubelets that are real otherwise.
//!
//! Pods start at once, with addresses of the node's blocks, and run until they are stopped. A container that
//! sleeps for some seconds, by its command or by an annotation of its pod, ends well after them.

mod grpc;
#[cfg(test)]
mod tests;

use crate::Error;
use crate::network::next_blocks;
use crate::pods::observe::names;
use crate::protocols::containerd::types::{Any, Envelope, TaskExit};
use crate::protocols::runtime::v1 as cri;
use api::core::Node;
use base::clock::{self, Instant};
use base::{Phase, Shutdown, Supervisor};
use client::Cache;
use cri::{ContainerState, NamespaceMode, PodSandboxState};
use net::Cidr;
use prost::Message;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;
use tonic::Status;

/// For how many seconds each container of a pod runs.
const SECONDS: &str = "knarr.io/hollow-seconds";
/// How long the node's blocks are waited for; without any it takes addresses of its own.
const PATIENCE: Duration = Duration::from_secs(5);
/// Events that a listener has not taken yet; one that is slower has to look at everything again.
const EVENTS: usize = 64;
/// How a process ends that does not handle the signal to stop.
const STOPPED: i32 = 128 + 15;

/// The runtime of one node.
pub(crate) struct Hollow {
    supervisor: Supervisor,
    /// Addresses for pods where the node's blocks have none.
    spare: Cidr,
    started: Instant,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    blocks: Vec<Cidr>,
    sandboxes: BTreeMap<String, cri::PodSandboxStatus>,
    containers: BTreeMap<String, Container>,
    /// How many sandboxes and containers were made.
    made: u64,
    listeners: Vec<mpsc::Sender<Envelope>>,
}

struct Container {
    sandbox: String,
    /// None where it runs until it is stopped.
    runs: Option<Duration>,
    status: cri::ContainerStatus,
}

/// An id as long as the ids of others.
fn id(of: &str, number: u64) -> String {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    format!("{:016x}{number:048x}", hasher.finish())
}

fn now_ns() -> i64 {
    i64::try_from(clock::now().as_nanosecond()).unwrap_or(i64::MAX)
}

fn unknown(what: &str, id: &str) -> Status {
    Status::not_found(format!("{what} {id:?} is not known"))
}

fn fits(labels: &HashMap<String, String>, selector: &HashMap<String, String>) -> bool {
    selector.iter().all(|(name, value)| labels.get(name) == Some(value))
}

/// How long a process runs whose words have `sleep` and a number in them.
fn sleeps(words: &[String]) -> Option<Duration> {
    let words: Vec<&str> = words.iter().flat_map(|word| word.split_whitespace()).collect();
    let pairs = words.windows(2).filter(|pair| pair[0].rsplit('/').next() == Some("sleep"));
    pairs.filter_map(|pair| pair[1].trim_end_matches(['s', ';']).parse().ok()).map(Duration::from_secs).next()
}

impl State {
    fn id(&mut self, of: &str) -> String {
        self.made += 1;
        id(of, self.made)
    }

    /// An address of each block that no pod has.
    fn addresses(&self, spare: Cidr) -> Vec<IpAddr> {
        let ready =
            self.sandboxes.values().filter(|sandbox| sandbox.state() == PodSandboxState::SandboxReady);
        let taken: HashSet<&str> = ready
            .filter_map(|sandbox| sandbox.network.as_ref())
            .flat_map(|network| {
                [&network.ip].into_iter().chain(network.additional_ips.iter().map(|more| &more.ip))
            })
            .map(String::as_str)
            .collect();
        // The first of a block names it, the second is the node's own.
        let free = |block: &Cidr| {
            let last = block.size().saturating_sub(1);
            (2..last).filter_map(|at| block.nth(at)).find(|address| !taken.contains(&*address.to_string()))
        };
        let own: Vec<IpAddr> = self.blocks.iter().filter_map(free).collect();
        if own.is_empty() { free(&spare).into_iter().collect() } else { own }
    }

    fn sandbox(&mut self, id: &str) -> Result<&mut cri::PodSandboxStatus, Status> {
        self.sandboxes.get_mut(id).ok_or_else(|| unknown("sandbox", id))
    }

    fn container(&mut self, id: &str) -> Result<&mut Container, Status> {
        self.containers.get_mut(id).ok_or_else(|| unknown("container", id))
    }

    /// A container is over, if it ran; whoever listens is told.
    fn end(&mut self, id: &str, exit_code: i32) {
        let Some(container) = self.containers.get_mut(id) else { return };
        if container.status.state() != ContainerState::ContainerRunning {
            return;
        }
        container.status.set_state(ContainerState::ContainerExited);
        container.status.finished_at = now_ns();
        container.status.exit_code = exit_code;
        container.status.reason = if exit_code == 0 { "Completed" } else { "Error" }.to_owned();
        let value = TaskExit { container_id: id.to_owned(), id: id.to_owned() }.encode_to_vec();
        let event = Envelope {
            namespace: "k8s.io".to_owned(),
            topic: "/tasks/exit".to_owned(),
            event: Some(Any { type_url: "containerd.events.TaskExit".to_owned(), value }),
        };
        self.listeners.retain(|listener| listener.try_send(event.clone()).is_ok());
    }

    fn end_all_of(&mut self, sandbox: &str) {
        let own = self.containers.iter().filter(|(_, container)| container.sandbox == sandbox);
        let own: Vec<String> = own.map(|(id, _)| id.clone()).collect();
        own.iter().for_each(|id| self.end(id, STOPPED));
    }
}

impl Hollow {
    pub(crate) fn new(spare: Cidr, supervisor: Supervisor) -> Arc<Self> {
        Arc::new(Self { supervisor, spare, started: clock::instant(), state: Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes addresses of the node's blocks as soon as it has some.
    pub(crate) async fn follow_blocks(
        self: Arc<Self>,
        name: String,
        nodes: Cache<Node>,
        shutdown: Shutdown,
    ) -> Result<(), Error> {
        loop {
            let known = self.lock().blocks.clone();
            tokio::select! {
                blocks = next_blocks(&name, &nodes, &known) => self.lock().blocks = blocks?,
                () = shutdown.requested() => return Ok(()),
            }
        }
    }

    fn version() -> cri::VersionResponse {
        cri::VersionResponse {
            version: "0.1.0".to_owned(),
            runtime_name: "hollow".to_owned(),
            runtime_version: env!("CARGO_PKG_VERSION").to_owned(),
            runtime_api_version: "v1".to_owned(),
        }
    }

    fn status(&self) -> cri::StatusResponse {
        let network = !self.lock().blocks.is_empty() || self.started.elapsed() > PATIENCE;
        let condition = |kind: &str, status: bool, reason: &str, message: &str| cri::RuntimeCondition {
            r#type: kind.to_owned(),
            status,
            reason: reason.to_owned(),
            message: message.to_owned(),
        };
        let conditions = vec![
            condition("RuntimeReady", true, "", ""),
            condition("NetworkReady", network, "NetworkPluginNotReady", "the node has no podCIDRs yet"),
        ];
        cri::StatusResponse { status: Some(cri::RuntimeStatus { conditions }), ..Default::default() }
    }

    fn run_pod_sandbox(
        &self,
        asked: cri::RunPodSandboxRequest,
    ) -> Result<cri::RunPodSandboxResponse, Status> {
        let config = asked.config.unwrap_or_default();
        let metadata = config.metadata.unwrap_or_default();
        let options = config.linux.and_then(|linux| linux.security_context?.namespace_options);
        let mut state = self.lock();
        let network = match &options {
            Some(options) if options.network() == NamespaceMode::Node => None,
            _ => {
                let mut ips = state.addresses(self.spare).into_iter().map(|address| address.to_string());
                let ip = ips.next().ok_or_else(|| Status::resource_exhausted("no address is free"))?;
                let additional_ips = ips.map(|ip| cri::PodIp { ip }).collect();
                Some(cri::PodSandboxNetworkStatus { ip, additional_ips })
            }
        };
        let id = state.id(&metadata.uid);
        let status = cri::PodSandboxStatus {
            id: id.clone(),
            metadata: Some(metadata),
            state: PodSandboxState::SandboxReady.into(),
            created_at: now_ns(),
            network,
            linux: Some(cri::LinuxPodSandboxStatus { namespaces: Some(cri::Namespace { options }) }),
            labels: config.labels,
            annotations: config.annotations,
        };
        state.sandboxes.insert(id.clone(), status);
        Ok(cri::RunPodSandboxResponse { pod_sandbox_id: id })
    }

    fn stop_pod_sandbox(&self, asked: &cri::StopPodSandboxRequest) -> Result<cri::Empty, Status> {
        let mut state = self.lock();
        state.sandbox(&asked.pod_sandbox_id)?.set_state(PodSandboxState::SandboxNotready);
        state.end_all_of(&asked.pod_sandbox_id);
        Ok(cri::Empty {})
    }

    fn remove_pod_sandbox(&self, asked: &cri::RemovePodSandboxRequest) -> Result<cri::Empty, Status> {
        let mut state = self.lock();
        state.end_all_of(&asked.pod_sandbox_id);
        state.containers.retain(|_, container| container.sandbox != asked.pod_sandbox_id);
        state.sandboxes.remove(&asked.pod_sandbox_id);
        Ok(cri::Empty {})
    }

    fn pod_sandbox_status(
        &self,
        asked: &cri::PodSandboxStatusRequest,
    ) -> Result<cri::PodSandboxStatusResponse, Status> {
        let status = Some(self.lock().sandbox(&asked.pod_sandbox_id)?.clone());
        Ok(cri::PodSandboxStatusResponse { status, info: HashMap::new() })
    }

    fn list_pod_sandbox(&self, asked: cri::ListPodSandboxRequest) -> cri::ListPodSandboxResponse {
        let selector = asked.filter.unwrap_or_default().label_selector;
        let state = self.lock();
        let fitting = state.sandboxes.values().filter(|sandbox| fits(&sandbox.labels, &selector));
        let items = fitting.map(|sandbox| cri::PodSandbox {
            id: sandbox.id.clone(),
            metadata: sandbox.metadata.clone(),
            state: sandbox.state,
            created_at: sandbox.created_at,
            labels: sandbox.labels.clone(),
            annotations: sandbox.annotations.clone(),
        });
        cri::ListPodSandboxResponse { items: items.collect() }
    }

    fn create_container(
        &self,
        asked: cri::CreateContainerRequest,
    ) -> Result<cri::CreateContainerResponse, Status> {
        let config = asked.config.unwrap_or_default();
        let mut state = self.lock();
        let annotated = state.sandbox(&asked.pod_sandbox_id)?.annotations.get(SECONDS);
        let annotated = annotated.and_then(|text| text.parse().ok()).map(Duration::from_secs);
        let runs = annotated.or_else(|| sleeps(&[config.command, config.args].concat()));
        let name = config.labels.get(names::CONTAINER).map_or("", String::as_str);
        let id = state.id(name);
        let security = config.linux.and_then(|linux| linux.security_context).unwrap_or_default();
        let number = |value: Option<cri::Int64Value>| value.map_or(0, |value| value.value);
        let (uid, gid) = (number(security.run_as_user), number(security.run_as_group));
        let user = cri::LinuxContainerUser { uid, gid, supplemental_groups: vec![gid] };
        let image = config.image.unwrap_or_default();
        let status = cri::ContainerStatus {
            id: id.clone(),
            metadata: config.metadata,
            state: ContainerState::ContainerCreated.into(),
            created_at: now_ns(),
            image_ref: image.image,
            image: Some(cri::ImageSpec { image: image.user_specified_image, ..Default::default() }),
            labels: config.labels,
            annotations: config.annotations,
            user: Some(cri::ContainerUser { linux: Some(user) }),
            ..Default::default()
        };
        state.containers.insert(id.clone(), Container { sandbox: asked.pod_sandbox_id, runs, status });
        Ok(cri::CreateContainerResponse { container_id: id })
    }

    fn start_container(self: &Arc<Self>, asked: cri::StartContainerRequest) -> Result<cri::Empty, Status> {
        let mut state = self.lock();
        let container = state.container(&asked.container_id)?;
        container.status.set_state(ContainerState::ContainerRunning);
        container.status.started_at = now_ns();
        if let Some(runs) = container.runs {
            let own = self.clone();
            self.supervisor.detached("hollow container", Phase::Work, async move {
                clock::sleep(runs).await;
                own.lock().end(&asked.container_id, 0);
            });
        }
        Ok(cri::Empty {})
    }

    fn stop_container(&self, asked: &cri::StopContainerRequest) -> Result<cri::Empty, Status> {
        let mut state = self.lock();
        state.container(&asked.container_id)?;
        state.end(&asked.container_id, STOPPED);
        Ok(cri::Empty {})
    }

    fn remove_container(&self, asked: &cri::RemoveContainerRequest) -> Result<cri::Empty, Status> {
        self.lock().containers.remove(&asked.container_id);
        Ok(cri::Empty {})
    }

    fn container_status(
        &self,
        asked: &cri::ContainerStatusRequest,
    ) -> Result<cri::ContainerStatusResponse, Status> {
        let status = Some(self.lock().container(&asked.container_id)?.status.clone());
        Ok(cri::ContainerStatusResponse { status })
    }

    fn list_containers(&self, asked: cri::ListContainersRequest) -> cri::ListContainersResponse {
        let selector = asked.filter.unwrap_or_default().label_selector;
        let state = self.lock();
        let fitting = state.containers.values().filter(|container| fits(&container.status.labels, &selector));
        let containers = fitting.map(|container| cri::Container {
            id: container.status.id.clone(),
            pod_sandbox_id: container.sandbox.clone(),
            metadata: container.status.metadata.clone(),
            image: container.status.image.clone(),
            image_ref: container.status.image_ref.clone(),
            state: container.status.state,
            created_at: container.status.created_at,
            labels: container.status.labels.clone(),
            annotations: container.status.annotations.clone(),
        });
        cri::ListContainersResponse { containers: containers.collect() }
    }

    /// Every image is there.
    fn image_status(asked: cri::ImageStatusRequest) -> cri::ImageStatusResponse {
        let name = asked.image.unwrap_or_default().image;
        let id = format!("sha256:{}", id(&name, 0));
        let image = cri::Image { id, repo_tags: vec![name], size: 1, ..Default::default() };
        cri::ImageStatusResponse { image: Some(image) }
    }

    fn pull_image(asked: cri::PullImageRequest) -> cri::PullImageResponse {
        cri::PullImageResponse { image_ref: asked.image.unwrap_or_default().image }
    }

    /// The ends of containers from now on.
    fn subscribe(&self) -> mpsc::Receiver<Envelope> {
        let (sender, receiver) = mpsc::channel(EVENTS);
        self.lock().listeners.push(sender);
        receiver
    }
}
