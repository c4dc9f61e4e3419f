//! Devices of plugins (`deviceplugin/v1beta1`): plugins register at a socket, say what they have, and are asked before
//! a container gets any. Start reading at [`Devices::give`].

mod server;
mod state;

use crate::affinity::{Nodes, Ways};
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

/// Devices that may be used again, by resource.
pub(crate) type Reusable = BTreeMap<String, BTreeSet<String>>;

/// Devices by resource, with the NUMA nodes that each is near.
pub(crate) type Placed = BTreeMap<String, BTreeMap<String, Vec<i64>>>;

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
    pub(crate) fn restore(&self) {
        let kept = std::fs::read_to_string(self.file()).ok();
        if let Some(kept) = kept.and_then(|text| State::decode(&text, clock::instant())) {
            *self.state() = kept;
        }
    }

    fn keep(&self) -> Result<(), Error> {
        // Held meanwhile: what is written last is what is so.
        let state = self.state();
        files::write(&self.file(), state.encode().as_bytes(), 0o600)
    }

    /// Writes down what a pod was given.
    pub(crate) fn settle(&self, uid: &str) -> Result<(), Error> {
        let has_some = self.state().given.iter().any(|given| given.pod == uid);
        if has_some { self.keep() } else { Ok(()) }
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

    /// Gives a container the devices that it asks for, near to nodes where that can be; `reuse` is what containers
    /// before it had that have ended by then. The error is why the pod is not taken.
    pub(crate) async fn give(
        &self,
        (pod, container): (&Pod, &Container),
        near: Option<Nodes>,
        reuse: &mut Reusable,
    ) -> Result<(), String> {
        let wanted = self.wants(container);
        if wanted.is_empty() {
            return Ok(());
        }
        self.state().forget_gone();
        let ends = spec::ends(pod, &container.name);
        for (resource, needed) in wanted {
            let none = BTreeSet::new();
            let before = reuse.get(&resource).unwrap_or(&none);
            let of = (pod.uid(), container.name.as_str());
            let chosen = self.state().choose(of, (&resource, needed), (before, near))?;
            let Some(choice) = chosen else { continue };
            let ids = self.pick(&resource, needed, choice).await?;
            let answer = self.ask(&resource, &ids).await?;
            self.state().give(of, &resource, &ids, answer);
            let rest = reuse.entry(resource).or_default();
            if ends {
                rest.extend(ids);
            } else {
                rest.retain(|id| !ids.contains(id));
            }
        }
        Ok(())
    }

    /// Where a container could get its devices, for each resource that has devices near to nodes.
    pub(crate) fn ways(
        &self,
        (pod, container): (&Pod, &Container),
        nodes: Nodes,
        reuse: &Reusable,
    ) -> Vec<Ways> {
        let mut state = self.state();
        state.forget_gone();
        let wanted = state.wants(container).into_iter();
        let none = BTreeSet::new();
        let of = |(resource, count): (String, usize)| {
            let had = state.held((pod.uid(), &container.name), &resource).map(|given| given.ids());
            state.ways((&resource, count), nodes, (had, reuse.get(&resource).unwrap_or(&none)))
        };
        wanted.filter_map(of).collect()
    }

    /// The same for all containers of a pod together.
    pub(crate) fn ways_together(&self, pod: &Pod, nodes: Nodes) -> Vec<Ways> {
        let mut state = self.state();
        state.forget_gone();
        let all = spec::init_containers(pod).iter().chain(&spec::spec(pod).containers);
        let resources: BTreeSet<String> =
            all.flat_map(|container| state.wants(container)).map(|(resource, _)| resource).collect();
        let of = |resource: String| {
            let wants = |container: &Container| {
                let own = state.wants(container).into_iter().find(|(name, _)| *name == resource);
                own.and_then(|(_, count)| i64::try_from(count).ok()).unwrap_or(0)
            };
            let count = usize::try_from(amount::total(pod, &wants)).unwrap_or(0);
            let own = state.given.iter().filter(|given| given.pod == pod.uid() && given.resource == resource);
            let had: BTreeSet<String> = own.flat_map(Given::ids).collect();
            let had = Some(had).filter(|had| !had.is_empty());
            state.ways((&resource, count), nodes, (had, &BTreeSet::new()))
        };
        resources.into_iter().filter_map(of).collect()
    }

    /// Lets others have what a pod had, which has ended; until they do, it is known how that is.
    pub(crate) fn let_go(&self, uid: &str) {
        self.state().let_go(uid);
    }

    /// Takes back what a pod had that was not taken.
    pub(crate) fn release(&self, uid: &str) {
        self.state().release(uid);
    }

    /// Which of the resources that plugins have a container asks for, and how many.
    fn wants(&self, container: &Container) -> Vec<(String, usize)> {
        self.state().wants(container)
    }

    fn plugin(&self, resource: &str) -> Result<Plugin, String> {
        self.plugins().get(resource).cloned().ok_or_else(|| format!("unknown Device Plugin {resource}"))
    }

    /// Picks devices, those first that are near to where they are wanted; the plugin may prefer some.
    async fn pick(&self, resource: &str, needed: usize, choice: Choice) -> Result<BTreeSet<String>, String> {
        let Choice { reused: mut picked, near, elsewhere, nowhere } = choice;
        let more = needed - picked.len();
        if more < near.len() {
            let preferred = self.preferred(resource, &near, &picked, needed).await?;
            fill(&mut picked, needed, [&preferred, &near]);
            return Ok(picked);
        }
        fill(&mut picked, needed, [&near]);
        let rest: BTreeSet<String> = elsewhere.union(&nowhere).cloned().collect();
        let preferred = self.preferred(resource, &rest, &picked, needed).await?;
        fill(&mut picked, needed, [&preferred, &elsewhere, &nowhere]);
        Ok(picked)
    }

    /// What the plugin prefers of these devices besides those that are picked already.
    async fn preferred(
        &self,
        resource: &str,
        free: &BTreeSet<String>,
        picked: &BTreeSet<String>,
        needed: usize,
    ) -> Result<BTreeSet<String>, String> {
        let mut plugin = self.plugin(resource)?;
        let has_choice = picked.len() < needed && free.len() > needed - picked.len();
        if !has_choice || !plugin.options.get_preferred_allocation_available {
            return Ok(BTreeSet::new());
        }
        let wanted = plugin::ContainerPreferredAllocationRequest {
            available_device_ids: free.union(picked).cloned().collect(),
            must_include_device_ids: picked.iter().cloned().collect(),
            allocation_size: i32::try_from(needed).unwrap_or(i32::MAX),
        };
        let request = plugin::PreferredAllocationRequest { container_requests: vec![wanted] };
        let answer = within(plugin.client.get_preferred_allocation(request)).await?;
        let all = answer.container_responses.into_iter().flat_map(|one| one.device_ids);
        // Of more than are needed the first are meant.
        Ok(all.filter(|id| free.contains(id)).take(needed - picked.len()).collect())
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
                    plugin::PreStartContainerRequest { devices_ids: one.devices.keys().cloned().collect() };
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

    /// The devices of a container by resource, with the nodes that each is near.
    pub(crate) fn of_container(&self, uid: &str, name: &str) -> Placed {
        let state = self.state();
        let own = state.given.iter().filter(|given| given.pod == uid && given.container == name);
        own.map(|given| (given.resource.clone(), given.devices.clone())).collect()
    }

    /// All devices that are healthy, likewise.
    pub(crate) fn healthy(&self) -> Placed {
        let state = self.state();
        state.resources.iter().map(|(name, resource)| (name.clone(), resource.placed())).collect()
    }

    /// The pods that have devices.
    pub(crate) fn users(&self) -> HashSet<String> {
        self.state().given.iter().map(|given| given.pod.clone()).collect()
    }
}

/// Adds devices, set by set, until there are enough.
fn fill<const N: usize>(picked: &mut BTreeSet<String>, needed: usize, from: [&BTreeSet<String>; N]) {
    for id in from.into_iter().flatten() {
        if picked.len() < needed {
            picked.insert(id.clone());
        }
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
    ResourceStatus { name: given.resource.clone(), resources: Some(given.devices.keys().map(one).collect()) }
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
