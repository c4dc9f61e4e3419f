//! Carries the plan out: waits for changes, applies differences, forgets dead connections.

use crate::family::Family;
use crate::health::{Health, Ports, bind};
use crate::inbox::{Inbox, Work};
use crate::metrics::Metrics;
use crate::model::Chain;
use crate::plan::{self, Planned, has_host_ports};
use crate::stale::Again;
use crate::state::{Difference, Owner, State};
use crate::{Config, Error, Topology, announce, firewalls, render};
use api::Object;
use api::core::{Node, Pod, Service};
use api::slim::EndpointSlice;
use base::pages::{self, Answer};
use base::{Phase, Ready, Restart, Shutdown, Supervisor, clock};
use client::{Cache, Caches};
use net::nft::{self, TableName, Transaction};
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// The longest pause between two syncs. Otherwise a pause is as long as the last sync took, so that a
/// storm of changes cannot take more than half a core.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Chains stay when nothing leads to them any more, as their number of endpoints comes again. With more
/// than these, everything is loaded anew with what is used; beyond two thousand they cost more each.
const MOST_CHAINS: usize = 1_000;

#[derive(Clone)]
struct Proxy {
    config: Arc<Config>,
    services: Cache<Service>,
    slices: Cache<EndpointSlice>,
    pods: Cache<Pod>,
    node: Cache<Node>,
    inbox: Arc<Inbox>,
    health: Arc<Health>,
    metrics: Arc<Metrics>,
    supervisor: Supervisor,
    ready: watch::Sender<bool>,
}

/// Keeps the kernel's services as the API has them; ready when it has them for the first time. Needs `net::setup`.
pub fn start(config: Config, caches: &Caches, supervisor: &Supervisor) -> Ready {
    let of_this_node = format!("spec.nodeName={}", config.node_name);
    let this_node = format!("metadata.name={}", config.node_name);
    let node = caches.selected("", &this_node);
    let (inbox, metrics) = (Arc::<Inbox>::default(), Arc::<Metrics>::default());
    let proxy = Proxy {
        services: caches.of(),
        slices: caches.of(),
        pods: caches.selected("", &of_this_node),
        health: Arc::new(Health::new(&config, node.clone(), inbox.clone(), metrics.clone())),
        config: Arc::new(config),
        node,
        inbox,
        metrics,
        supervisor: supervisor.clone(),
        ready: watch::channel(false).0,
    };
    proxy.listen();
    announce::start(&proxy.config, &proxy.services, supervisor);
    firewalls::start(&proxy.config, supervisor);
    let ready = Ready::of(&proxy.ready);
    let settings = proxy.config.settings.clone();
    let health = proxy.health.clone();
    answer("proxy health", settings.healthz, supervisor, Arc::new(move |_, path| health.answer(path)));
    let health = proxy.health.clone();
    answer(
        "proxy metrics",
        settings.metrics,
        supervisor,
        Arc::new(move |_, path| health.answer_metrics(path)),
    );
    supervisor.run("proxy", Phase::Work, Restart::OnFailure, move |shutdown| proxy.clone().run(shutdown));
    ready
}

fn answer(name: &'static str, address: Option<SocketAddr>, supervisor: &Supervisor, answer: Answer) {
    let Some(address) = address else { return };
    let own = supervisor.clone();
    supervisor.run(name, Phase::Front, Restart::OnFailure, move |shutdown| {
        let (answer, own) = (answer.clone(), own.clone());
        async move {
            let listener = bind(address).await?;
            tokio::select! {
                () = pages::serve(listener, name, |_| true, answer, own) => {}
                () = shutdown.requested() => {}
            }
            Ok::<_, Error>(())
        }
    });
}

impl Proxy {
    /// Notes what changes.
    fn listen(&self) {
        let inbox = self.inbox.clone();
        self.services.on_change(move |change| {
            let service = change.object();
            inbox.service(Owner::service(service.namespace(), service.name()));
        });
        let inbox = self.inbox.clone();
        self.slices.on_change(move |change| inbox.slice(change));
        let inbox = self.inbox.clone();
        self.pods.on_change(move |change| {
            let pod = change.object();
            if has_host_ports(pod) {
                inbox.pod(Owner::pod(pod.namespace(), pod.name()));
            }
        });
        let inbox = self.inbox.clone();
        let zone = |node: &Option<Arc<Node>>| node.as_deref().and_then(zone);
        self.node.on_change(move |change| {
            if zone(&change.old) != zone(&change.new) {
                inbox.everything();
            }
            if let (Some(old), Some(new)) =
                (change.old.as_deref().map(addresses), change.new.as_deref().map(addresses))
                && old != new
                && !new.is_empty()
            {
                inbox.moved(new);
            }
        });
    }

    async fn run(self, shutdown: Shutdown) -> Result<(), Error> {
        tokio::select! {
            result = self.clone().follow_all() => result.inspect_err(|_| self.metrics.failed()),
            result = self.removed() => result,
            () = shutdown.requested() => Ok(()),
        }
    }

    /// Fails when somebody removes the tables.
    async fn removed(&self) -> Result<(), Error> {
        let tables: Vec<TableName> = self.config.families().map(render::name).collect();
        net::removed(&tables).await?;
        Err(Error::Removed("services"))
    }

    /// Follows what changes, from wherever the node is.
    async fn follow_all(mut self) -> Result<(), Error> {
        tokio::join!(self.services.synced(), self.slices.synced(), self.pods.synced(), self.node.synced());
        loop {
            if let Some(node_ips) = self.inbox.place() {
                tracing::info!(?node_ips, "the node moved");
                self.config = Arc::new(Config { node_ips, ..(*self.config).clone() });
            }
            self.follow().await?;
        }
    }

    /// Begins with the whole table: what an earlier run left in the kernel is not known. Returns when the node
    /// moved.
    async fn follow(&self) -> Result<(), Error> {
        let mut ports = Ports::new(self.health.clone(), self.supervisor.clone());
        let mut held = Held::default();
        self.sync(&mut held, Work { everything: true, ..self.inbox.take() }, &mut ports).await?;
        tracing::info!(objects = held.state.owners().count(), "services are in the kernel");
        self.ready.send_replace(true);
        loop {
            tokio::select! {
                () = self.inbox.woken() => {}
                () = held.again.due() => {
                    held.again.take().forget(&held.state, &held.channel, &self.metrics).await;
                    continue;
                }
            }
            let begin = clock::instant();
            let waited = self.inbox.since().map_or(Duration::ZERO, |since| since.elapsed());
            let work = self.inbox.take();
            if work.moved {
                return Ok(());
            }
            self.metrics.taken(work.pending, waited);
            self.sync(&mut held, work, &mut ports).await?;
            clock::sleep(begin.elapsed().min(LONGEST_PAUSE)).await;
        }
    }

    async fn sync(&self, held: &mut Held, work: Work, ports: &mut Ports) -> Result<(), Error> {
        let begin = clock::instant();
        let Work { triggered, .. } = work;
        let difference = self.plan(held, work.changed, work.everything);
        let full = held.apply(&self.config, &difference).await?;
        self.metrics.synced(full, begin.elapsed(), held.state.no_local());
        if *self.ready.borrow() {
            self.metrics.programmed(&triggered);
        }
        self.inbox.done();
        self.health.updated();
        ports.sync(&self.config, &held.state).await;
        let mut stale = difference.stale;
        stale.forget(&held.state, &held.channel, &self.metrics).await;
        held.again.add(stale);
        Ok(())
    }

    fn topology(&self) -> Topology {
        let node = self.node.get("", &self.config.node_name);
        Topology { node_name: self.config.node_name.as_str().into(), zone: node.as_deref().and_then(zone) }
    }

    /// Plans what changed, or everything there is and was.
    fn plan(&self, held: &mut Held, mut changed: BTreeSet<Owner>, everything: bool) -> Difference {
        let topology = self.topology();
        if everything {
            let services = self.services.snapshot();
            changed
                .extend(services.iter().map(|service| Owner::service(service.namespace(), service.name())));
            let pods = self.pods.snapshot();
            let with_ports = pods.iter().filter(|pod| has_host_ports(pod));
            changed.extend(with_ports.map(|pod| Owner::pod(pod.namespace(), pod.name())));
            changed.extend(held.state.owners().cloned());
        }
        let mut difference = if held.chains.is_none() { Difference::of_all() } else { Difference::default() };
        for owner in changed {
            let planned = self.plan_one(&topology, &owner);
            held.state.replace(&owner, planned, &mut difference);
        }
        difference
    }

    fn plan_one(&self, topology: &Topology, owner: &Owner) -> Planned {
        let (Owner::Service(key) | Owner::Pod(key)) = owner;
        let (namespace, name) = key.split_once('/').unwrap_or_default();
        match owner {
            Owner::Service(key) => self.services.get(namespace, name).map(|service| {
                let slices = self.inbox.slices(key);
                let slices: Vec<&EndpointSlice> = slices.iter().map(Arc::as_ref).collect();
                plan::service(&self.config, topology, &service, &slices)
            }),
            Owner::Pod(_) => self.pods.get(namespace, name).map(|pod| plan::host_ports(&self.config, &pod)),
        }
        .unwrap_or_default()
    }
}

/// The addresses by which a node is reached from within its network.
fn addresses(node: &Node) -> Vec<IpAddr> {
    let all = node.status.iter().flat_map(|status| status.addresses.iter().flatten());
    all.filter(|one| one.type_ == "InternalIP").filter_map(|one| one.address.parse().ok()).collect()
}

/// Its label `topology.kubernetes.io/zone`.
fn zone(node: &Node) -> Option<String> {
    node.labels().get("topology.kubernetes.io/zone").filter(|zone| !zone.is_empty()).cloned()
}

/// What the kernel holds.
#[derive(Default)]
struct Held {
    state: State,
    chains: Option<BTreeSet<(Family, Chain)>>,
    channel: nft::Channel,
    again: Again,
}

impl Held {
    /// Gives whether everything was loaded, which is done atomically: packets see the old table or the
    /// new one.
    async fn apply(&mut self, config: &Config, difference: &Difference) -> Result<bool, Error> {
        let wanted = difference.chains();
        let missing: BTreeSet<(Family, Chain)> = match &self.chains {
            Some(held) => wanted.difference(held).copied().collect(),
            None => BTreeSet::new(),
        };
        let Some(held) = self.chains.as_mut().filter(|held| held.len() + missing.len() <= MOST_CHAINS) else {
            let (transaction, chains) = render::everything(config, &self.state);
            nft::apply(&transaction).await?;
            remember(chains.iter()).await?;
            self.chains = Some(chains);
            return Ok(true);
        };
        let changes = render::changes(difference);
        if missing.is_empty() {
            changes.apply(&self.channel).await?;
            return Ok(false);
        }
        let mut transaction = Transaction::default();
        render::add_chains(missing.iter(), &mut transaction);
        changes.write(&mut transaction);
        nft::apply(&transaction).await?;
        remember(missing.iter()).await?;
        held.extend(missing);
        Ok(false)
    }
}

/// Fills the chains that nft cannot write.
async fn remember(chains: impl Iterator<Item = &(Family, Chain)>) -> Result<(), Error> {
    for (family, chain) in chains {
        if let (Family::V6, Chain::Remember(timeout_s)) = (family, chain) {
            render::remember_v6(*timeout_s).await?;
        }
    }
    Ok(())
}
