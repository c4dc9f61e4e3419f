//! Keeps what is answered as the API has it: the cluster's names, and the server blocks.

use crate::chain::Chain;
use crate::corefile::block::Place;
use crate::corefile::{Problem, Settings, Sources};
use crate::entry::Entry;
use crate::resolve::{Chains, Resolver};
use crate::zone::Zone;
use crate::{Config, Error};
use api::Object;
use api::core::{ConfigMap, Namespace, Node, Service};
use api::slim::EndpointSlice;
use base::{Shutdown, clock};
use client::{Cache, Caches, Change, Recorder};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, watch};

/// The longest pause between two snapshots; otherwise as long as the last one took to make.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// `kubernetes.io/service-name`: the label that ties a slice to its service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

const NAMESPACE: &str = "kube-system";
/// The ConfigMaps, named as k3s and kubeadm name them.
const MAIN: &str = "coredns";
const CUSTOM: &str = "coredns-custom";

/// The table of nodes' names, which the default Corefile has as k3s' has it.
const NODE_HOSTS: &str = "NodeHosts";

/// A service's namespace and name.
type Id = (Box<str>, Box<str>);

/// What changed since the last snapshot.
#[derive(Default)]
struct Dirty {
    services: HashSet<Id>,
    namespaces: HashSet<Box<str>>,
    settings: bool,
    /// The slices of each service, by name.
    slices: HashMap<Id, BTreeSet<Box<str>>>,
}

pub(crate) struct Names {
    services: Cache<Service>,
    slices: Cache<EndpointSlice>,
    namespaces: Cache<Namespace>,
    nodes: Cache<Node>,
    main: Cache<ConfigMap>,
    custom: Cache<ConfigMap>,
    dirty: Mutex<Dirty>,
    wake: Notify,
    recorder: Recorder,
    config: Config,
    resolver: Arc<Resolver>,
    /// What the server blocks in force, or refused, were read from.
    read: Mutex<Option<Sources>>,
    /// Counts the server blocks that came into force.
    pub(crate) changed: watch::Sender<u64>,
}

fn id(namespace: &str, name: &str) -> Id {
    (namespace.into(), name.into())
}

impl Names {
    pub(crate) fn new(
        config: &Config,
        caches: &Caches,
        recorder: Recorder,
        resolver: Arc<Resolver>,
    ) -> Arc<Self> {
        let of = |name: &str| caches.selected(NAMESPACE, &format!("metadata.name={name}"));
        let names = Arc::new(Self {
            services: caches.of(),
            slices: caches.of(),
            namespaces: caches.of(),
            nodes: caches.of(),
            main: of(MAIN),
            custom: of(CUSTOM),
            dirty: Mutex::default(),
            wake: Notify::new(),
            recorder,
            config: config.clone(),
            resolver,
            read: Mutex::default(),
            changed: watch::channel(0).0,
        });
        names.follow(&names.services, |dirty, change| {
            dirty.services.insert(id(change.object().namespace(), change.object().name()));
        });
        names.follow(&names.namespaces, |dirty, change| {
            dirty.namespaces.insert(change.object().name().into());
        });
        names.follow(&names.slices, slice_changed);
        names.follow(&names.main, |dirty, _| dirty.settings = true);
        names.follow(&names.custom, |dirty, _| dirty.settings = true);
        names.follow(&names.nodes, |dirty, change| {
            let addresses =
                |node: &Option<Arc<Node>>| node.as_ref().map(|node| node_hosts([&**node].into_iter()));
            dirty.settings |= addresses(&change.old) != addresses(&change.new);
        });
        names
    }

    fn follow<T: Object>(
        self: &Arc<Self>,
        cache: &Cache<T>,
        note: impl Fn(&mut Dirty, &Change<T>) + Send + Sync + 'static,
    ) {
        let names = self.clone();
        cache.on_change(move |change| {
            note(&mut names.dirty.lock().unwrap_or_else(PoisonError::into_inner), change);
            names.wake.notify_one();
        });
    }

    /// The first snapshot has everything that there is; before it, names would be denied that exist.
    pub(crate) async fn synced(&self) {
        tokio::join!(
            self.services.synced(),
            self.slices.synced(),
            self.namespaces.synced(),
            self.nodes.synced(),
            self.main.synced(),
            self.custom.synced()
        );
        self.renew();
        if self.resolver.chains.load().0.is_empty() {
            self.fall_back();
        }
    }

    pub(crate) async fn run(self: Arc<Self>, shutdown: Shutdown) -> Result<(), Error> {
        loop {
            tokio::select! {
                () = self.wake.notified() => {}
                () = shutdown.requested() => return Ok(()),
            }
            let begin = clock::instant();
            self.renew();
            clock::sleep(begin.elapsed().min(LONGEST_PAUSE)).await;
        }
    }

    /// Takes over what changed.
    fn renew(&self) {
        let (services, namespaces, settings) = {
            let mut dirty = self.dirty.lock().unwrap_or_else(PoisonError::into_inner);
            let services = std::mem::take(&mut dirty.services).into_iter();
            let of = |id: &Id| dirty.slices.get(id).map(|names| names.iter().cloned().collect());
            let services: Vec<(Id, Vec<Box<str>>)> = services
                .map(|id| {
                    let own = of(&id).unwrap_or_default();
                    (id, own)
                })
                .collect();
            let namespaces = std::mem::take(&mut dirty.namespaces);
            (services, namespaces, std::mem::take(&mut dirty.settings))
        };
        if !services.is_empty() || !namespaces.is_empty() {
            let mut zone = Zone::clone(&self.resolver.zone.load());
            namespaces
                .iter()
                .for_each(|name| zone.set_namespace(name, self.namespaces.get("", name).is_some()));
            self.set_services(&mut zone, &services);
            zone.advance();
            self.resolver.zone.store(Arc::new(zone));
        }
        if settings {
            self.renew_settings();
        }
    }

    fn set_services(&self, zone: &mut Zone, changed: &[(Id, Vec<Box<str>>)]) {
        let (services, all) = (self.services.snapshot(), self.slices.snapshot());
        for ((namespace, name), slices) in changed {
            let slices = slices.iter().filter_map(|slice| all.get(namespace, slice));
            let own: Vec<&EndpointSlice> = slices.map(Arc::as_ref).collect();
            let entry = services.get(namespace, name).and_then(|service| Entry::of(service, &own));
            zone.set_service(namespace, name, entry);
        }
    }

    fn sources(&self) -> Sources {
        let data = |map: Option<Arc<ConfigMap>>| map.and_then(|map| map.data.clone()).unwrap_or_default();
        let mut main: BTreeMap<String, String> = data(self.main.get(NAMESPACE, MAIN));
        let nodes = self.nodes.snapshot();
        main.entry(NODE_HOSTS.to_owned()).or_insert_with(|| node_hosts(nodes.iter().map(Arc::as_ref)));
        Sources { main, custom: data(self.custom.get(NAMESPACE, CUSTOM)) }
    }

    /// Puts the Corefile into force, or refuses it and says so; what is in force stays then.
    fn renew_settings(&self) {
        let sources = self.sources();
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if read.as_ref() == Some(&sources) {
            return;
        }
        let metrics = &self.resolver.surroundings.metrics;
        match self.settings(&sources) {
            Ok(settings) => {
                self.put_into_force(settings);
                metrics.reloads.fetch_add(1, Ordering::Relaxed);
                tracing::info!("the Corefile is in force");
            }
            Err(problem) => {
                metrics.failed_reloads.fetch_add(1, Ordering::Relaxed);
                self.complain(&problem);
            }
        }
        *read = Some(sources);
    }

    fn settings(&self, sources: &Sources) -> Result<Settings, Problem> {
        let domain = *self.resolver.zone.load().domain();
        Settings::read(&Place { sources, domain: &domain, listen: &self.config.listen })
    }

    /// Blocks that are the same as before keep their caches and what is known of their upstreams.
    fn put_into_force(&self, settings: Settings) {
        let old = self.resolver.chains.load_full();
        let chains = settings.0.into_iter().map(|block| {
            let same = old.0.iter().find(|chain| chain.block == block).cloned();
            let before = old.0.iter().find(|chain| chain.block.zones == block.zones);
            same.unwrap_or_else(|| Chain::new(block, before.map(Arc::as_ref), &self.resolver.surroundings))
        });
        self.resolver.chains.store(Arc::new(Chains(chains.collect())));
        self.changed.send_modify(|count| *count += 1);
    }

    fn complain(&self, problem: &Problem) {
        tracing::warn!(%problem, "the Corefile is refused; what was in force before stays so");
        let custom = self.custom.get(NAMESPACE, CUSTOM);
        let own = custom.filter(|map| map.data.iter().flatten().any(|(key, _)| *key == problem.file));
        if let Some(map) = own.or_else(|| self.main.get(NAMESPACE, MAIN)) {
            let message = format!("{problem}. What was in force before stays so.");
            self.recorder.warning(&*map, "CorefileRefused", message);
        }
    }

    /// The default, where the first Corefile is refused.
    fn fall_back(&self) {
        let sources = self.sources();
        let main = sources.main.into_iter().filter(|(key, _)| key == NODE_HOSTS).collect();
        match self.settings(&Sources { main, custom: BTreeMap::new() }) {
            Ok(settings) => self.put_into_force(settings),
            Err(problem) => tracing::error!(%problem, "the default Corefile is refused"),
        }
    }
}

/// A slice that changed its service concerns both.
fn slice_changed(dirty: &mut Dirty, change: &Change<EndpointSlice>) {
    let of = |slice: &EndpointSlice| Some(id(slice.namespace(), slice.labels().get(SERVICE_NAME)?));
    if let Some((service, slice)) = change.old.as_ref().and_then(|old| Some((of(old)?, old))) {
        if let Some(names) = dirty.slices.get_mut(&service) {
            names.remove(slice.name());
            if names.is_empty() {
                dirty.slices.remove(&service);
            }
        }
        dirty.services.insert(service);
    }
    if let Some((service, slice)) = change.new.as_ref().and_then(|new| Some((of(new)?, new))) {
        dirty.slices.entry(service.clone()).or_default().insert(slice.name().into());
        dirty.services.insert(service);
    }
}

/// Nodes' addresses and names, as a table of hosts.
fn node_hosts<'a>(nodes: impl Iterator<Item = &'a Node>) -> String {
    let mut text = String::new();
    for node in nodes {
        let status = node.status.iter().flat_map(|status| status.addresses.iter().flatten());
        for address in status.filter(|address| address.type_ == "InternalIP") {
            text.push_str(&format!("{} {}\n", address.address, node.name()));
        }
    }
    text
}
