//! Follows the caches, takes pods from the queue one by one, and has them bound side by side.

use crate::Config;
use crate::ask::{Key, Wanted};
use crate::binder::{Binder, Decision, Refused};
use crate::cluster::{Cluster, Placed};
use crate::config::Written;
use crate::cycle::{Cycle, Subject, Unfit, schedule};
use crate::devices::{Blocked, Devices, Obstacle};
use crate::events::{Event, OwnChange, PodFacts};
use crate::lookup::Lookup;
use crate::plugins::{Hint, PLUGINS, PluginSet};
use crate::preemption::{self, Verdict};
use crate::profile::Profile;
use crate::queue::Queue;
use crate::world::World;
use api::Object;
use api::core::{Namespace, Node};
use api::meta::Time;
use api::resource::{DeviceClass, ResourceClaim};
use api::slim::{ContainerStatus, Pod, PodResourceClaimStatus};
use base::clock::{self, Instant};
use base::{Phase, Restart, Shutdown, Supervisor};
use client::{Cache, Caches, Change, Client, Error};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Notify, Semaphore};

const DEVICES: &str = "DynamicResources";
/// How many pods are being bound at a time.
const BINDINGS: usize = 64;

/// All that decisions are made from, and who waits for one.
#[derive(Default)]
pub(crate) struct State {
    pub(crate) cluster: Cluster,
    pub(crate) queue: Queue,
    /// Where the search for a node starts: it moves on with every pod.
    turn: usize,
}

pub(crate) struct Scheduler {
    pub(crate) profiles: Vec<Profile>,
    state: Mutex<State>,
    pub(crate) wake: Notify,
    pub(crate) lookup: Lookup,
    nodes: Cache<Node>,
    namespaces: Cache<Namespace>,
}

pub(crate) fn start(config: Config, client: Client, caches: &Caches, supervisor: &Supervisor) {
    let mut state = State { queue: Queue::new(config.backoffs), ..State::default() };
    // A file with a profile that cannot be built is refused when it is read.
    let build = |written: &Written| {
        let built = written.build(&mut state.cluster.texts);
        built.inspect_err(|error| tracing::error!(error, "a profile is left out")).ok()
    };
    let profiles = config.profiles.iter().filter_map(build).collect();
    let scheduler = Arc::new(Scheduler {
        state: Mutex::new(state),
        profiles,
        wake: Notify::new(),
        lookup: Lookup::new(caches),
        nodes: caches.of(),
        namespaces: caches.of(),
    });
    follow(&scheduler);
    let binder = Arc::new(Binder::new(scheduler.clone(), client, supervisor));
    let supervised = supervisor.clone();
    supervisor.run("scheduler", Phase::Work, Restart::OnFailure, move |shutdown| {
        let (scheduler, binder, supervisor) = (scheduler.clone(), binder.clone(), supervised.clone());
        async move {
            run(scheduler, binder, supervisor, shutdown).await;
            Ok::<(), Error>(())
        }
    });
}

fn follow(scheduler: &Arc<Scheduler>) {
    let namespaces = scheduler.clone();
    scheduler.namespaces.on_change(move |change| {
        let labels = change.new.as_ref().map(|namespace| namespace.labels().clone());
        namespaces.state().cluster.put_namespace(change.object().name(), labels);
    });
    let nodes = scheduler.clone();
    scheduler.nodes.on_change(move |change| nodes.node_changed(change));
    let pods = scheduler.clone();
    scheduler.lookup.pods.on_change(move |change| pods.pod_changed(change));
    let storage = &scheduler.lookup.storage;
    follow_storage(scheduler, &storage.claims);
    follow_storage(scheduler, &storage.volumes);
    follow_storage(scheduler, &storage.classes);
    follow_storage(scheduler, &storage.nodes);
    follow_storage(scheduler, &storage.drivers);
    follow_storage(scheduler, &storage.capacities);
    follow_devices(scheduler);
}

fn follow_storage<T: Object>(scheduler: &Arc<Scheduler>, cache: &Cache<T>) {
    let scheduler = scheduler.clone();
    cache.on_change(move |_| scheduler.happened(&Event::Storage));
}

fn follow_devices(scheduler: &Arc<Scheduler>) {
    let devices = &scheduler.lookup.devices;
    let own = scheduler.clone();
    devices.claims.on_change(move |change| {
        own.happened(&Event::Claim { old: change.old.as_deref(), new: change.new.as_deref() });
    });
    let own = scheduler.clone();
    devices.classes.on_change(move |change| own.device_class_changed(change));
    let own = scheduler.clone();
    devices.slices.on_change(move |change| {
        // What is gone helps nobody.
        if change.new.is_some() {
            own.happened(&Event::Devices);
        }
    });
}

async fn run(scheduler: Arc<Scheduler>, binder: Arc<Binder>, supervisor: Supervisor, shutdown: Shutdown) {
    scheduler.namespaces.synced().await;
    scheduler.nodes.synced().await;
    scheduler.lookup.synced().await;
    let bindings = Arc::new(Semaphore::new(BINDINGS));
    loop {
        let Ok(permit) = bindings.clone().acquire_owned().await else { return };
        if shutdown.is_requested() {
            return;
        }
        if let Some((wanted, decision)) = scheduler.decide() {
            let binder = binder.clone();
            let attempt = Attempt::of(&scheduler, &wanted, &decision);
            supervisor.detached("binding a pod", Phase::Work, async move {
                binder.carry_out(wanted, decision, permit).await;
                attempt.over();
            });
            continue;
        }
        drop(permit);
        let due = scheduler.state().queue.next_due();
        let timer = async {
            match due {
                Some(due) => tokio::time::sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = scheduler.wake.notified() => {}
            () = timer => {}
            () = shutdown.requested() => return,
        }
    }
}

/// A decision that is being carried out. When it is broken off, because another scheduler leads, what was taken for
/// the pod is free again, and it is tried again should this one ever lead again.
struct Attempt {
    scheduler: Arc<Scheduler>,
    wanted: Wanted,
    claims: Vec<Arc<ResourceClaim>>,
    is_over: bool,
}

impl Attempt {
    fn of(scheduler: &Arc<Scheduler>, wanted: &Wanted, decision: &Decision) -> Self {
        let claims = match decision {
            Decision::Bind { devices, .. } => devices.iter().map(|one| one.claim.clone()).collect(),
            Decision::Refuse(_) | Decision::Fail(_) => Vec::new(),
        };
        Self { scheduler: scheduler.clone(), wanted: wanted.clone(), claims, is_over: false }
    }

    fn over(mut self) {
        self.is_over = true;
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        let lookup = &self.scheduler.lookup;
        lookup.storage.release(&self.wanted.key);
        self.claims.iter().for_each(|claim| lookup.devices.settle(claim.uid()));
        self.scheduler.state().queue.preempted(&self.wanted.key, clock::instant());
        self.scheduler.binding_failed(&self.wanted);
    }
}

pub(crate) fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref().filter(|name| !name.is_empty())
}

fn is_finished(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

fn nominated_node(pod: &Pod) -> Option<&str> {
    pod.status.as_ref()?.nominated_node_name.as_deref().filter(|name| !name.is_empty())
}

/// Whether a pod on a node is to others what it was; what its node does with it changes nothing.
fn is_same_to_others(old: &Pod, new: &Pod) -> bool {
    fn sizes(pod: &Pod) -> impl Iterator<Item = (bool, &ContainerStatus)> {
        let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
        statuses.map(|status| (status.resources.is_some() || status.allocated_resources.is_some(), status))
    }
    let same_sizes = sizes(old).chain(sizes(new)).all(|(sized, _)| !sized)
        || sizes(old)
            .map(|(_, it)| (&it.resources, &it.allocated_resources))
            .eq(sizes(new).map(|(_, it)| (&it.resources, &it.allocated_resources)));
    old.uid() == new.uid()
        && old.is_deleting() == new.is_deleting()
        && old.labels() == new.labels()
        && old.spec == new.spec
        && started(old) == started(new)
        && same_sizes
}

fn started(pod: &Pod) -> Option<&Time> {
    pod.status.as_ref()?.start_time.as_ref()
}

fn own_change(old: &Wanted, new: &Wanted) -> OwnChange {
    let requests = old.ask.requests.iter();
    OwnChange {
        labels: old.group.labels != new.group.labels,
        tolerations: old.ask.tolerations != new.ask.tolerations,
        smaller: { requests }.any(|(resource, amount)| new.ask.requests.get(&resource) < amount),
        claims: made_claims(&old.pod) != made_claims(&new.pod),
    }
}

/// What becomes of claims that are in the way, in Kubernetes' words.
fn cleared(devices: Option<&Devices>, obstacle: Option<&Obstacle>) -> &'static str {
    match (devices, obstacle) {
        (None, _) => "no new claims to deallocate",
        (_, Some(Obstacle::Allocated(_))) => "deallocation of ResourceClaim completed",
        (_, Some(Obstacle::LeftOver(_))) => "deletion of ResourceClaim completed",
        (Some(_), None) => "still not schedulable",
    }
}

fn made_claims(pod: &Pod) -> Option<&[PodResourceClaimStatus]> {
    pod.status.as_ref()?.resource_claim_statuses.as_deref()
}

impl State {
    /// Something happened: pods that it may help are tried again.
    fn happened(cluster: &Cluster, queue: &mut Queue, profiles: &[Profile], event: &Event<'_>) {
        queue.happened(clock::instant(), |wanted, plugins| helps(cluster, profiles, wanted, plugins, event));
    }
}

fn helps(
    cluster: &Cluster,
    profiles: &[Profile],
    wanted: &Wanted,
    plugins: PluginSet,
    event: &Event<'_>,
) -> bool {
    let Some(profile) = profile_of(profiles, &wanted.pod) else { return false };
    let hint = Hint { cluster, profile, wanted, event };
    plugins.iter().filter_map(|plugin| PLUGINS[plugin].filter.as_ref()).any(|filter| (filter.hint)(&hint))
}

pub(crate) fn profile_of<'a>(profiles: &'a [Profile], pod: &Pod) -> Option<&'a Profile> {
    let name = pod.spec.as_ref()?.scheduler_name.as_deref().unwrap_or("default-scheduler");
    profiles.iter().find(|profile| profile.scheduler_name == name)
}

impl Scheduler {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn node_changed(&self, change: &Change<Node>) {
        {
            let mut state = self.state();
            let State { cluster, queue, .. } = &mut *state;
            let old = match &change.new {
                Some(node) => cluster.put_node(node),
                None => cluster.remove_node(change.object().name()),
            };
            let new = change.new.as_ref().and_then(|node| cluster.node(node.name()));
            let new = new.map(|place| &cluster.place(place).facts);
            if old.as_ref() == new {
                return;
            }
            State::happened(cluster, queue, &self.profiles, &Event::Node { old: old.as_ref(), new });
        }
        self.wake.notify_one();
    }

    fn happened(&self, event: &Event<'_>) {
        {
            let mut state = self.state();
            let State { cluster, queue, .. } = &mut *state;
            State::happened(cluster, queue, &self.profiles, event);
        }
        self.wake.notify_one();
    }

    fn device_class_changed(&self, change: &Change<DeviceClass>) {
        self.state().cluster.put_device_class(change.object().name(), change.new.clone());
        if let Some(new) = &change.new {
            self.happened(&Event::DeviceClass { old: change.old.as_deref(), new });
        }
    }

    fn pod_changed(&self, change: &Change<Pod>) {
        let pod = change.object();
        let there = change.new.is_some() && !is_finished(pod);
        match node_of(pod).filter(|_| there) {
            Some(node) => {
                let old = change.old.as_ref().filter(|old| node_of(old) == Some(node));
                if old.is_none_or(|old| !is_same_to_others(old, pod)) {
                    self.pod_on_node(pod, node);
                }
            }
            None if there && self.is_ours(pod) => self.pod_waits(pod),
            None => self.pod_gone(&Key::of(pod)),
        }
        self.wake.notify_one();
    }

    fn pod_on_node(&self, pod: &Arc<Pod>, node: &str) {
        let mut state = self.state();
        let State { cluster, queue, .. } = &mut *state;
        let wanted = cluster.wanted(pod.clone());
        queue.remove(&wanted.key);
        cluster.forget_nomination(&wanted.key);
        let known = cluster.placed(&wanted.key).filter(|placed| placed.bound);
        let known = known.map(|placed| (placed.group.clone(), placed.ask.clone()));
        cluster.put_pod(node, &wanted, true);
        let old = known.as_ref().map(|(group, ask)| PodFacts { group, ask });
        let new = PodFacts { group: &wanted.group, ask: &wanted.ask };
        State::happened(cluster, queue, &self.profiles, &Event::Pod { old, new: Some(new) });
    }

    fn pod_waits(&self, pod: &Arc<Pod>) {
        let mut state = self.state();
        let State { cluster, queue, .. } = &mut *state;
        let wanted = cluster.wanted(pod.clone());
        let change = queue.get(&wanted.key).map(|old| own_change(old, &wanted)).unwrap_or_default();
        let told = nominated_node(pod);
        let untold =
            told.is_none() && queue.get(&wanted.key).is_some_and(|old| nominated_node(&old.pod).is_some());
        if let Some(node) = told.filter(|_| cluster.nomination(&wanted.key).is_none()) {
            cluster.nominate(node, &wanted);
        }
        let left = (untold && cluster.forget_nomination(&wanted.key).is_some()).then(|| wanted.clone());
        let event = Event::Own(change);
        queue.put(wanted, change, clock::instant(), |wanted, plugins| {
            helps(cluster, &self.profiles, wanted, plugins, &event)
        });
        // Room that was kept for it is for others.
        if let Some(wanted) = left {
            let gone = PodFacts { group: &wanted.group, ask: &wanted.ask };
            State::happened(cluster, queue, &self.profiles, &Event::Pod { old: Some(gone), new: None });
        }
    }

    fn pod_gone(&self, key: &Key) {
        let mut state = self.state();
        let State { cluster, queue, .. } = &mut *state;
        let waited = queue.remove(key);
        let nominated = cluster.forget_nomination(key).is_some();
        let gone = match (cluster.remove_pod(key), waited) {
            (Some(Placed { group, ask, .. }), _) => Some((group, ask)),
            // Room was being made for it, which others may take now.
            (None, Some(wanted)) if nominated => Some((wanted.group, wanted.ask)),
            _ => None,
        };
        if let Some((group, ask)) = &gone {
            let event = Event::Pod { old: Some(PodFacts { group, ask }), new: None };
            State::happened(cluster, queue, &self.profiles, &event);
        }
    }

    /// It is waiting for this scheduler, and for nobody else (`spec.schedulingGates`).
    fn is_ours(&self, pod: &Pod) -> bool {
        let Some(spec) = &pod.spec else { return false };
        profile_of(&self.profiles, pod).is_some()
            && spec.scheduling_gates.as_ref().is_none_or(|gates| gates.is_empty())
            && !pod.is_deleting()
    }

    /// A node could not be had after all: the pod's room is free again, for others at once.
    pub(crate) fn binding_failed(&self, wanted: &Wanted) {
        {
            let mut state = self.state();
            let State { cluster, queue, .. } = &mut *state;
            let now = clock::instant();
            queue.failed(&wanted.key, now);
            // Bound after all: the cache has said so.
            if cluster.placed(&wanted.key).is_some_and(|placed| !placed.bound) {
                cluster.remove_pod(&wanted.key);
                let gone = PodFacts { group: &wanted.group, ask: &wanted.ask };
                State::happened(cluster, queue, &self.profiles, &Event::Pod { old: Some(gone), new: None });
            }
        }
        self.wake.notify_one();
    }

    /// Takes the next pod and decides. It takes the room at once: the next decision must not give it away
    /// again.
    pub(crate) fn decide(&self) -> Option<(Wanted, Decision)> {
        let mut state = self.state();
        let decision = state.decide(&self.profiles, &self.lookup, clock::instant())?;
        Some(decision)
    }
}

impl State {
    /// The next pod, and what becomes of it.
    pub(crate) fn decide(
        &mut self,
        profiles: &[Profile],
        world: &dyn World,
        now: Instant,
    ) -> Option<(Wanted, Decision)> {
        loop {
            let wanted = self.queue.take(now)?;
            let profile = profile_of(profiles, &wanted.pod)?;
            let has_devices = profile.has_filter(DEVICES);
            let devices =
                has_devices.then(|| world.devices(&wanted, &profile.args.devices, &mut self.cluster));
            let devices = match devices.transpose() {
                Err(Blocked::Waiting) => {
                    let mut plugins = PluginSet::default();
                    plugins.insert(crate::profile::plugin(DEVICES));
                    self.queue.hold(&wanted.key, plugins, now);
                    continue;
                }
                Err(Blocked::Unfit(why)) => Err(why),
                Ok(devices) => Ok(devices.flatten()),
            };
            let devices = devices.as_ref().map(Option::as_ref).map_err(Clone::clone);
            let decision = self.decide_with((profile, &wanted), devices, world, now);
            return Some((wanted, decision));
        }
    }

    /// Decides with the claims of devices that a pod has, unless no node can help those.
    fn decide_with(
        &mut self,
        (profile, wanted): (&Profile, &Wanted),
        devices: Result<Option<&Devices>, String>,
        world: &dyn World,
        now: Instant,
    ) -> Decision {
        let defaults = if wanted.ask.spread.is_empty() && !profile.args.default_spread.is_empty() {
            self.cluster.default_spread(&profile.args, wanted, world.siblings(wanted))
        } else {
            Vec::new()
        };
        let binds_volumes = !wanted.claims.is_empty() && profile.has_filter("VolumeBinding");
        let claims = binds_volumes.then(|| world.claims(wanted, &mut self.cluster.texts)).transpose();
        let subject = Subject { profile, wanted, defaults: &defaults, claims: None, devices: None, world };
        let nodes = self.cluster.len();
        match (claims, devices) {
            (Err(why), _) => self.refused(subject, Unfit::at_once(nodes, why, "VolumeBinding"), now),
            (_, Err(why)) => self.refused(subject, Unfit::at_once(nodes, why, DEVICES), now),
            (Ok(claims), Ok(devices)) => {
                self.decide_on(Subject { claims: claims.as_ref(), devices, ..subject }, now)
            }
        }
    }

    fn decide_on(&mut self, subject: Subject<'_>, now: Instant) -> Decision {
        let wanted = subject.wanted;
        let decided = schedule(&mut self.cluster, subject, &mut self.turn);
        if let Some(why) = subject.devices.and_then(Devices::broken) {
            return Decision::Fail(why);
        }
        match decided {
            Ok(place) => {
                let facts = &self.cluster.place(place).facts;
                let node = facts.name.to_string();
                let volumes = subject.claims.and_then(|claims| claims.choose(facts).ok()).unwrap_or_default();
                let devices = subject.devices.map(|devices| devices.reserve(facts, &wanted.pod));
                subject.world.reserve(&wanted.key, &volumes);
                self.cluster.forget_nomination(&wanted.key);
                self.cluster.put_pod(&node, wanted, false);
                Decision::Bind { node, volumes, devices: devices.unwrap_or_default() }
            }
            Err(unfit) => self.refused(subject, unfit, now),
        }
    }

    fn refused(&mut self, subject: Subject<'_>, unfit: Unfit, now: Instant) -> Decision {
        let (wanted, profile) = (subject.wanted, subject.profile);
        let message = unfit.message(&Cycle::new(&self.cluster, subject).requests);
        let mut refused = Refused { message, ..Refused::default() };
        let mut told = Vec::new();
        if unfit.has_nodes() && profile.frees_devices && unfit.never_reached(DEVICES) {
            // Kubernetes looks for what its plugin would have kept, and nobody is asked to leave.
            told.push("not found".to_owned());
        } else if unfit.has_nodes() {
            if profile.frees_devices {
                refused.obstacle = subject.devices.and_then(|devices| devices.obstacle(&wanted.pod));
                told.push(cleared(subject.devices, refused.obstacle.as_ref()).to_owned());
            }
            let verdict = if profile.preempts {
                preemption::plan(&mut self.cluster, subject, &unfit, self.turn)
            } else {
                Verdict::Nothing(String::new())
            };
            match verdict {
                Verdict::Preempt(preemption) => {
                    refused.displaced = self.displaced(&preemption.node, wanted);
                    self.cluster.nominate(&preemption.node, wanted);
                    self.queue.preempting(&wanted.key, unfit.plugins);
                    refused.preemption = Some(preemption);
                    return Decision::Refuse(refused);
                }
                Verdict::Nothing(why) => {
                    self.cluster.forget_nomination(&wanted.key);
                    told.push(why);
                }
                Verdict::Wait(why) => told.push(why),
            }
        }
        told.retain(|why| !why.is_empty());
        refused.message = format!("{} {}", refused.message, told.join(", ")).trim_end().to_owned();
        self.queue.unschedulable(&wanted.key, unfit.plugins, now);
        Decision::Refuse(refused)
    }

    /// Less important pods for which room was being made on the same node.
    fn displaced(&mut self, node: &str, wanted: &Wanted) -> Vec<Wanted> {
        let Some(place) = self.cluster.node(node) else { return Vec::new() };
        let nominated = self.cluster.place(place).nominated.iter();
        let lower: Vec<Wanted> =
            nominated.filter(|other| other.ask.priority < wanted.ask.priority).cloned().collect();
        for other in &lower {
            self.cluster.forget_nomination(&other.key);
        }
        lower
    }
}
