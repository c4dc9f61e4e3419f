//! Keeps the EndpointSlices of each Service that selects pods as they are planned.

use crate::backends;
use crate::common::{self, Key, Room, unless_gone};
use crate::node_taints::is_ready;
use crate::pods;
use crate::slices::{self, Changes, MANAGED_BY, MANAGER, Plan, SERVICE_NAME, ZONE};
use crate::topology_hints;
use crate::trigger_times::{self, TriggerTimes};
use api::Object;
use api::core::{Node, Service};
use api::discovery::EndpointSlice;
use api::slim::{self, Pod};
use client::{Cache, Change, Client, Error, Next, Queue, Recorder};
use jiff::Timestamp;
use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

#[derive(Clone)]
struct Keeper {
    writer: Writer,
    services: Cache<Service>,
    pods: Cache<Pod>,
    nodes: Cache<Node>,
    recorder: Recorder,
    triggers: TriggerTimes,
    /// The Services whose endpoints are divided among zones, by family.
    divided: Arc<Mutex<HashSet<(Key, String)>>>,
}

pub(crate) fn start(room: &Room) {
    let keeper = Keeper {
        writer: Writer { client: room.client.clone(), slices: room.caches.of() },
        services: room.caches.of(),
        pods: room.caches.of(),
        nodes: room.caches.of(),
        recorder: room.recorder("endpoint-slice-controller"),
        triggers: TriggerTimes::default(),
        divided: Arc::default(),
    };
    let queue = Queue::new("endpoint slices");
    backends::watch(&keeper.services, &keeper.pods, &queue);
    keeper.writer.watch(MANAGER, &queue);
    let (own, changed) = (keeper.clone(), queue.clone());
    keeper.nodes.on_change(move |change| own.node_changed(change, &changed));
    room.work("endpoint slice controller", &queue, 4, move |key| keeper.clone().sync(key));
}

impl Keeper {
    /// Pods of a new node become endpoints, those of a node that moved are elsewhere, and what zones share
    /// changes with their nodes.
    fn node_changed(&self, change: &Change<Node>, queue: &Queue<Key>) {
        let services = self.services.snapshot();
        if services.is_empty() {
            return;
        }
        let zone = |node: &Option<Arc<Node>>| node.as_ref().map(|node| node.labels().get(ZONE).cloned());
        let ready = |node: &Option<Arc<Node>>| node.as_ref().map(|node| is_ready(node));
        let moved = zone(&change.old) != zone(&change.new);
        if moved || ready(&change.old) != ready(&change.new) {
            let divided = services.iter().filter(|service| topology_hints::wanted(service));
            divided.for_each(|service| queue.add(Key::of(&**service)));
        }
        if moved && change.new.is_some() {
            let pods = self.pods.snapshot();
            let there = pods.iter().filter(|pod| pods::node_name(pod) == change.object().name());
            there.for_each(|pod| backends::selecting(&services, pod).for_each(|key| queue.add(key)));
        }
    }

    async fn sync(self, key: Key) -> Result<Next, Error> {
        self.services.synced().await;
        self.pods.synced().await;
        self.nodes.synced().await;
        let service = self.services.get(&key.namespace, &key.name);
        // What a Service leaves behind is garbage, and what has no selector is kept by others.
        let Some(service) = service.filter(|service| backends::selector(service).is_some()) else {
            self.triggers.forget(&key);
            self.divided().retain(|(divided, _)| *divided != key);
            return Ok(Next::Done);
        };
        let found = self.writer.found(&key, MANAGER).await?;
        let pods = backends::of(&service, self.pods.snapshot().in_namespace(service.namespace()));
        let nodes = self.nodes.snapshot();
        let shares = topology_hints::wanted(&service).then(|| topology_hints::shares(nodes.iter())).flatten();
        let node = |name: &str| nodes.get("", name).cloned();
        let plan = slices::plan(&service, &pods, (&node, shares.as_ref()), &found);
        self.tell(&service, &plan);
        let trigger = self.triggers.take(&service, &pods);
        let written = self.writer.carry_out(plan.changes, trigger).await;
        written.inspect_err(|error| {
            let about = format!("Service {}/{}: {error}", key.namespace, key.name);
            let message = format!("Error updating Endpoint Slices for {about}");
            self.recorder.warning(&*service, "FailedToUpdateEndpointSlices", message);
        })?;
        Ok(Next::Done)
    }

    fn divided(&self) -> std::sync::MutexGuard<'_, HashSet<(Key, String)>> {
        self.divided.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says when endpoints begin and cease to be divided among zones.
    fn tell(&self, service: &Service, plan: &Plan) {
        const DISABLED: &str = "TopologyAwareHintsDisabled";
        let mut divided = self.divided();
        let message = |text: &str, family: &str| format!("{text}, addressType: {family}");
        for (family, outcome) in &plan.divided {
            let of_family = (Key::of(service), family.clone());
            match outcome {
                Ok(()) if divided.insert(of_family.clone()) => {
                    let message = message("Topology Aware Hints has been enabled", family);
                    self.recorder.normal(service, "TopologyAwareHintsEnabled", message);
                }
                Ok(()) => {}
                Err(why) => {
                    divided.remove(&of_family);
                    self.recorder.warning(service, DISABLED, message(why, family));
                }
            }
        }
        if plan.divided.is_empty() {
            for (_, family) in divided.extract_if(|(key, _)| *key == Key::of(service)) {
                let message = message("Topology Aware Hints has been disabled", &family);
                self.recorder.warning(service, DISABLED, message);
            }
        }
    }
}

/// Reads and writes slices, for those who keep them.
#[derive(Clone)]
pub(crate) struct Writer {
    pub(crate) client: Client,
    /// Which slices there are; what only their keepers decide by is asked for when they are looked at.
    pub(crate) slices: Cache<slim::EndpointSlice>,
}

impl Writer {
    /// Looks at a Service whenever one of the slices that `manager` keeps for it changes.
    pub(crate) fn watch(&self, manager: &'static str, queue: &Queue<Key>) {
        let queue = queue.clone();
        self.slices.on_change(move |change| {
            for slice in [&change.old, &change.new].into_iter().flatten() {
                if is_kept_by(slice, manager)
                    && let Some(service) = slice.labels().get(SERVICE_NAME)
                {
                    queue.add(Key::new(slice.namespace(), service));
                }
            }
        });
    }

    /// The slices that `manager` keeps for a Service.
    pub(crate) async fn found(&self, key: &Key, manager: &str) -> Result<Vec<Arc<EndpointSlice>>, Error> {
        self.slices.synced().await;
        let of_service = |slice: &&Arc<slim::EndpointSlice>| {
            is_kept_by(slice, manager)
                && slice.labels().get(SERVICE_NAME) == Some(&*key.name)
                && !slice.is_deleting()
        };
        let snapshot = self.slices.snapshot();
        let mut found = Vec::new();
        for slice in snapshot.in_namespace(&key.namespace).filter(of_service) {
            match self.client.get::<EndpointSlice>(&key.namespace, slice.name()).await {
                Ok(slice) if !slice.is_deleting() => found.push(Arc::new(slice)),
                gone => unless_gone(gone.map(drop))?,
            }
        }
        Ok(found)
    }

    pub(crate) async fn carry_out(&self, changes: Changes, trigger: Option<Timestamp>) -> Result<(), Error> {
        let note = |mut slice: EndpointSlice| {
            trigger_times::note(&mut slice.metadata.annotations, trigger);
            slice
        };
        let mut seen = 0;
        for slice in changes.create {
            match self.client.create(&note(slice)).await {
                Err(error) if common::is_namespace_going(&error) => return Ok(()),
                other => seen = other?.revision(),
            }
        }
        for slice in changes.update {
            seen = self.client.update(&note(slice)).await?.revision();
        }
        for slice in changes.delete {
            let (namespace, name) = (slice.namespace(), slice.name());
            unless_gone(self.client.delete::<EndpointSlice>(namespace, name, &Default::default()).await)?;
            self.slices.deletion_seen(namespace, name, slice.uid()).await;
        }
        self.slices.reached(seen).await;
        Ok(())
    }
}

fn is_kept_by(slice: &slim::EndpointSlice, manager: &str) -> bool {
    slice.labels().get(MANAGED_BY) == Some(manager)
}
