//! Devices of plugins (`deviceplugin/v1beta1`): plugins register at a socket, say what they have, and are asked before
//! a container gets any. Start reading at [`Devices::allocate`].

mod server;
mod state;

use crate::pods::{Pods, spec};
use crate::protocols::runtime::v1 as cri;
use crate::protocols::v1beta1 as plugin;
use crate::{Config, Context, Error, amount, files};
use api::Object;
use api::core::{Container, Pod, PodStatus, ResourceHealth, ResourceStatus};
use base::{Shutdown, clock};
use plugin::device_plugin_client::DevicePluginClient;
use state::{Choice, Device, Given, State};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tonic::transport::{Channel, Endpoint};

pub(crate) use server::run;

/// How long a plugin may take for an answer; devices may have to be set up.
const ANSWER: Duration = Duration::from_secs(30);
const HEALTHY: &str = "Healthy";
/// How often resources without a plugin are looked at, while there are any.
const EXPIRY: Duration = Duration::from_secs(30);

/// A plugin that is there.
#[derive(Clone)]
struct Plugin {
    client: DevicePluginClient<Channel>,
    options: plugin::DevicePluginOptions,
    /// Ends its watch when another takes its place.
    number: u64,
}

/// The devices of this node.
pub(crate) struct Devices {
    folder: PathBuf,
    state: Mutex<State>,
    plugins: Mutex<HashMap<String, Plugin>>,
    changed: watch::Sender<u64>,
    registered: Notify,
}

/// What a container gets with its devices.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Gear {
    pub(crate) devices: Vec<cri::Device>,
    pub(crate) mounts: Vec<cri::Mount>,
    pub(crate) environment: Vec<(String, String)>,
    pub(crate) annotations: HashMap<String, String>,
    pub(crate) cdi: Vec<cri::CdiDevice>,
}

impl Devices {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            folder: config.kubelet_dir.join("device-plugins"),
            state: Mutex::default(),
            plugins: Mutex::default(),
            changed: watch::channel(0).0,
            registered: Notify::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn plugins(&self) -> MutexGuard<'_, HashMap<String, Plugin>> {
        self.plugins.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn file(&self) -> PathBuf {
        self.folder.join("kubelet_internal_checkpoint")
    }

    /// Takes over what an earlier life had given.
    fn restore(&self) {
        let kept = std::fs::read_to_string(self.file()).ok();
        if let Some(kept) = kept.and_then(|text| State::decode(&text, clock::instant())) {
            *self.state() = kept;
        }
    }

    fn keep(&self) -> Result<(), Error> {
        let text = self.state().encode();
        files::write(&self.file(), text.as_bytes(), 0o600)
    }

    /// Told whenever resources or the health of devices changed.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    fn tell(&self) {
        self.changed.send_modify(|number| *number += 1);
    }

    /// How many devices each resource has, and how many of them pods may have.
    pub(crate) fn amounts(&self) -> BTreeMap<String, (usize, usize)> {
        self.state().amounts()
    }

    /// Gives a pod the devices that its containers ask for. `active` are the pods that keep theirs. The error is why
    /// the pod is not taken.
    pub(crate) async fn allocate(&self, pod: &Pod, active: &HashSet<String>) -> Result<(), String> {
        if !spec::containers(pod).iter().any(|(_, container)| !self.wants(container).is_empty()) {
            return Ok(());
        }
        self.state().given.retain(|given| given.pod == pod.uid() || active.contains(&given.pod));
        let mut reusable: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for container in spec::init_containers(pod) {
            let got = self.for_container(pod, container, &reusable).await?;
            for (resource, ids) in got.into_iter().filter(|_| !spec::is_sidecar(container)) {
                reusable.entry(resource).or_default().extend(ids);
            }
        }
        for container in &spec::spec(pod).containers {
            for (resource, ids) in self.for_container(pod, container, &reusable).await? {
                let rest = reusable.entry(resource).or_default();
                rest.retain(|id| !ids.contains(id));
            }
        }
        self.keep().map_err(|error| format!("failed to write checkpoint file: {error}"))
    }

    /// Which of the resources that plugins have a container asks for, and how many.
    fn wants(&self, container: &Container) -> Vec<(String, usize)> {
        let limits = container.resources.as_ref().and_then(|resources| resources.limits.as_ref());
        let state = self.state();
        let known = limits.into_iter().flatten().filter(|(name, _)| state.resources.contains_key(*name));
        let number = |quantity| usize::try_from(amount::whole(quantity)).unwrap_or(0);
        known
            .map(|(name, quantity)| (name.clone(), number(quantity)))
            .filter(|(_, count)| *count > 0)
            .collect()
    }

    async fn for_container(
        &self,
        pod: &Pod,
        container: &Container,
        reusable: &BTreeMap<String, BTreeSet<String>>,
    ) -> Result<Vec<(String, BTreeSet<String>)>, String> {
        let mut got = Vec::new();
        for (resource, needed) in self.wants(container) {
            let none = BTreeSet::new();
            let before = reusable.get(&resource).unwrap_or(&none);
            let of = (pod.uid(), container.name.as_str());
            let Some(choice) = self.state().choose(of, (&resource, needed), before)? else { continue };
            let ids = self.pick(&resource, needed, choice).await?;
            let answer = self.ask(&resource, &ids).await?;
            let (pod, container) = (pod.uid().to_owned(), container.name.clone());
            self.state().given.push(Given {
                pod,
                container,
                resource: resource.clone(),
                ids: ids.clone(),
                answer,
            });
            got.push((resource, ids));
        }
        Ok(got)
    }

    fn plugin(&self, resource: &str) -> Result<Plugin, String> {
        self.plugins().get(resource).cloned().ok_or_else(|| format!("unknown Device Plugin {resource}"))
    }

    /// Picks devices; the plugin may prefer some.
    async fn pick(&self, resource: &str, needed: usize, choice: Choice) -> Result<BTreeSet<String>, String> {
        let Choice { mut reused, free } = choice;
        let mut plugin = self.plugin(resource)?;
        if reused.len() < needed
            && free.len() > needed - reused.len()
            && plugin.options.get_preferred_allocation_available
        {
            let all = free.union(&reused).cloned().collect();
            let wanted = plugin::ContainerPreferredAllocationRequest {
                available_device_ids: all,
                must_include_device_ids: reused.iter().cloned().collect(),
                allocation_size: i32::try_from(needed).unwrap_or(i32::MAX),
            };
            let request = plugin::PreferredAllocationRequest { container_requests: vec![wanted] };
            let answer = within(plugin.client.get_preferred_allocation(request)).await?;
            let preferred = answer.container_responses.into_iter().flat_map(|one| one.device_ids);
            let left = needed - reused.len();
            reused.extend(preferred.filter(|id| free.contains(id)).take(left));
        }
        let rest: Vec<String> = free.difference(&reused).take(needed - reused.len()).cloned().collect();
        reused.extend(rest);
        Ok(reused)
    }

    async fn ask(
        &self,
        resource: &str,
        ids: &BTreeSet<String>,
    ) -> Result<plugin::ContainerAllocateResponse, String> {
        let mut plugin = self.plugin(resource)?;
        let wanted = plugin::ContainerAllocateRequest { devices_ids: ids.iter().cloned().collect() };
        let request = plugin::AllocateRequest { container_requests: vec![wanted] };
        let answer = within(plugin.client.allocate(request)).await?;
        let first = answer.container_responses.into_iter().next();
        first.ok_or_else(|| "no containers return in allocation response".to_owned())
    }

    /// What a container gets for its devices; plugins that want to are told that it starts.
    pub(crate) async fn gear(&self, pod: &Pod, container: &Container) -> Result<Gear, String> {
        let own = |given: &&Given| given.pod == pod.uid() && given.container == container.name;
        let given: Vec<Given> = self.state().given.iter().filter(own).cloned().collect();
        for one in &given {
            let Ok(mut plugin) = self.plugin(&one.resource) else { continue };
            if plugin.options.pre_start_required {
                let request =
                    plugin::PreStartContainerRequest { devices_ids: one.ids.iter().cloned().collect() };
                within(plugin.client.pre_start_container(request)).await?;
            }
        }
        Ok(given.into_iter().fold(Gear::default(), |gear, one| gear.with(one.answer)))
    }

    /// Says in a pod's status how the devices of its containers are.
    pub(crate) fn add_health(&self, uid: &str, status: &mut PodStatus) {
        let state = self.state();
        for container in status.container_statuses.iter_mut().flatten() {
            let own =
                state.given.iter().filter(|given| given.pod == uid && given.container == container.name);
            let all: Vec<ResourceStatus> = own.map(|given| health(&state, given)).collect();
            if !all.is_empty() {
                container.allocated_resources_status.get_or_insert_default().extend(all);
            }
        }
    }

    /// The pods that have devices.
    pub(crate) fn users(&self) -> HashSet<String> {
        self.state().given.iter().map(|given| given.pod.clone()).collect()
    }
}

fn health(state: &State, given: &Given) -> ResourceStatus {
    let resource = state.resources.get(&given.resource);
    let is_healthy = |id: &String| {
        // One that is no longer told of is not known to be broken.
        resource.and_then(|resource| resource.devices.get(id)).is_none_or(|device| device.is_healthy)
    };
    let one = |id: &String| ResourceHealth {
        resource_id: id.clone(),
        health: Some(if is_healthy(id) { HEALTHY } else { "Unhealthy" }.to_owned()),
        ..ResourceHealth::default()
    };
    ResourceStatus { name: given.resource.clone(), resources: Some(given.ids.iter().map(one).collect()) }
}

impl Gear {
    /// Adds what a plugin said.
    fn with(mut self, answer: plugin::ContainerAllocateResponse) -> Self {
        let device = |device: plugin::DeviceSpec| cri::Device {
            container_path: device.container_path,
            host_path: device.host_path,
            permissions: device.permissions,
        };
        let mount = |mount: plugin::Mount| cri::Mount {
            container_path: mount.container_path,
            host_path: mount.host_path,
            readonly: mount.read_only,
            ..cri::Mount::default()
        };
        self.devices.extend(answer.devices.into_iter().map(device));
        self.mounts.extend(answer.mounts.into_iter().map(mount));
        self.environment.extend(answer.envs);
        self.annotations.extend(answer.annotations);
        self.cdi.extend(answer.cdi_devices.into_iter().map(|device| cri::CdiDevice { name: device.name }));
        self
    }
}

/// An answer of a plugin in time.
async fn within<T>(
    answer: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
) -> Result<T, String> {
    match tokio::time::timeout(ANSWER, answer).await {
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        Ok(Err(status)) => Err(format!("rpc error: code = {:?} desc = {}", status.code(), status.message())),
        Err(_) => Err(format!("no answer within {} s", ANSWER.as_secs())),
    }
}

/// Why a registration is refused, in Kubernetes' words.
fn check(request: &plugin::RegisterRequest) -> Result<(), String> {
    if request.version != "v1beta1" {
        return Err(format!(
            "requested API version {:?} is not supported by kubelet. Supported version is [\"v1beta1\"]",
            request.version
        ));
    }
    let name = &request.resource_name;
    let is_extended = name
        .split_once('/')
        .is_some_and(|(domain, _)| !domain.ends_with("kubernetes.io") && !name.starts_with("requests."));
    if !is_extended || !api::validate::qualified_name(name).is_empty() {
        return Err(format!("the ResourceName {name:?} is invalid"));
    }
    Ok(())
}

/// Takes a plugin, and follows what it says until it goes.
pub(super) fn register(context: &Arc<Context>, request: plugin::RegisterRequest) -> Result<(), String> {
    check(&request)?;
    let devices = &context.devices;
    let socket = devices.folder.join(&request.endpoint);
    let client = client(&socket).map_err(|error| format!("failed to dial device plugin: {error}"))?;
    let number = u64::from_le_bytes(base::random::bytes());
    let options = request.options.unwrap_or_default();
    let resource = request.resource_name;
    devices.plugins().insert(resource.clone(), Plugin { client: client.clone(), options, number });
    let of = context.clone();
    context.supervisor.detached("device plugin", base::Phase::Work, async move {
        let ended = follow(&of.devices, &resource, client).await;
        tracing::info!(resource, reason = ended.err(), "a device plugin has gone");
        let is_newest = of.devices.plugins().get(&resource).is_some_and(|plugin| plugin.number == number);
        if is_newest {
            of.devices.plugins().remove(&resource);
            of.devices.state().lost(&resource, clock::instant());
            of.devices.tell();
            of.devices.registered.notify_one();
        }
    });
    Ok(())
}

fn client(socket: &Path) -> Result<DevicePluginClient<Channel>, tonic::transport::Error> {
    let endpoint = Endpoint::try_from(format!("unix://{}", socket.display()))?;
    Ok(DevicePluginClient::new(endpoint.connect_lazy()))
}

async fn follow(
    devices: &Devices,
    resource: &str,
    mut client: DevicePluginClient<Channel>,
) -> Result<(), String> {
    let said = |status: tonic::Status| status.message().to_owned();
    let mut told = client.list_and_watch(plugin::Empty {}).await.map_err(said)?.into_inner();
    while let Some(list) = told.message().await.map_err(said)? {
        let device = |device: plugin::Device| {
            let nodes = device.topology.into_iter().flat_map(|topology| topology.nodes).map(|node| node.id);
            (device.id, Device { is_healthy: device.health == HEALTHY, nodes: nodes.collect() })
        };
        devices.state().told(resource, list.devices.into_iter().map(device).collect());
        devices.keep().map_err(|error| error.to_string())?;
        devices.tell();
    }
    Ok(())
}

/// Has pods with devices say how those are, whenever that changes.
pub(crate) async fn run_health(context: Arc<Context>, pods: Pods, shutdown: Shutdown) -> Result<(), Error> {
    let mut changes = context.devices.changes();
    loop {
        tokio::select! {
            _ = changes.changed() => pods.wake(&context.devices.users()),
            () = shutdown.requested() => return Ok(()),
        }
    }
}

/// Forgets resources whose plugins stay away, until asked to stop.
pub(crate) async fn run_expiry(context: Arc<Context>, shutdown: Shutdown) -> Result<(), Error> {
    let devices = &context.devices;
    loop {
        let waits = devices.state().resources.values().any(|resource| resource.gone.is_some());
        tokio::select! {
            () = clock::sleep(EXPIRY), if waits => {}
            () = devices.registered.notified() => continue,
            () = shutdown.requested() => return Ok(()),
        }
        let before = devices.amounts().len();
        devices.state().expire(clock::instant());
        if devices.amounts().len() != before {
            devices.keep()?;
            devices.tell();
        }
    }
}
