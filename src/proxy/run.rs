//! Carries the plan out: waits for changes, applies differences, forgets dead connections.

use crate::model::{Difference, Endpoint, Front, Model, Protocol};
use crate::plan::{Snapshot, has_host_ports, plan};
use crate::{Config, Error, flows, render};
use api::core::{Pod, Service};
use api::discovery::EndpointSlice;
use base::{Phase, Restart, Shutdown, Supervisor, clock};
use client::{Cache, Caches};
use net::nft::{self, Table, Transaction};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, watch};

/// The longest pause between two syncs. Otherwise a pause is as long as the last sync took, so that a
/// storm of changes cannot take more than half a core.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Chains for so many endpoints are made ahead; a service with more costs one full load.
const USUAL_ENDPOINTS: u16 = 16;

/// Tells whether services work.
#[derive(Clone, Debug)]
pub struct Handle(watch::Receiver<bool>);

impl Handle {
    /// Completes when the kernel has the services for the first time.
    pub async fn ready(&self) {
        // The sender lives in the proxy's task; without it the process is ending.
        if self.0.clone().wait_for(|ready| *ready).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

#[derive(Clone)]
struct Proxy {
    config: Arc<Config>,
    services: Cache<Service>,
    slices: Cache<EndpointSlice>,
    pods: Cache<Pod>,
    wake: Arc<Notify>,
    ready: watch::Sender<bool>,
}

/// Keeps the kernel's services as the API has them. Needs `net::setup`.
pub fn start(config: Config, caches: &Caches, supervisor: &Supervisor) -> Handle {
    let of_this_node = format!("spec.nodeName={}", config.node_name);
    let proxy = Proxy {
        config: Arc::new(config),
        services: caches.of(),
        slices: caches.of(),
        pods: caches.selected("", &of_this_node),
        wake: Arc::default(),
        ready: watch::channel(false).0,
    };
    let wake = proxy.wake.clone();
    proxy.services.on_change(move |_| wake.notify_one());
    let wake = proxy.wake.clone();
    proxy.slices.on_change(move |_| wake.notify_one());
    let wake = proxy.wake.clone();
    proxy.pods.on_change(move |change| {
        if has_host_ports(change.object()) {
            wake.notify_one();
        }
    });
    let handle = Handle(proxy.ready.subscribe());
    supervisor.run("proxy", Phase::Work, Restart::OnFailure, move |shutdown| proxy.clone().run(shutdown));
    handle
}

impl Proxy {
    async fn run(self, shutdown: Shutdown) -> Result<(), Error> {
        tokio::select! {
            result = self.follow() => result,
            () = shutdown.requested() => Ok(()),
        }
    }

    /// Begins with the whole table: what an earlier run left in the kernel is not known.
    async fn follow(&self) -> Result<(), Error> {
        tokio::join!(self.services.synced(), self.slices.synced(), self.pods.synced());
        let mut held = Held::load(&self.config, self.plan()).await?;
        tracing::info!(elements = held.model.0.len(), "services are in the kernel");
        self.ready.send_replace(true);
        loop {
            self.wake.notified().await;
            let begin = clock::instant();
            held = held.changed_to(&self.config, self.plan()).await?;
            clock::sleep(begin.elapsed().min(LONGEST_PAUSE)).await;
        }
    }

    fn plan(&self) -> Model {
        let (services, slices, pods) =
            (self.services.snapshot(), self.slices.snapshot(), self.pods.snapshot());
        let snapshot = Snapshot {
            services: services.iter().map(Arc::as_ref).collect(),
            slices: slices.iter().map(Arc::as_ref).collect(),
            pods: pods.iter().map(Arc::as_ref).collect(),
        };
        plan(&self.config, &snapshot)
    }
}

/// What the kernel holds.
struct Held {
    table: Table,
    capacity: u16,
    model: Model,
}

impl Held {
    /// Puts the whole table in place, atomically: packets see the old one or the new one.
    async fn load(config: &Config, model: Model) -> Result<Self, Error> {
        let capacity = model.widest().max(USUAL_ENDPOINTS).checked_next_power_of_two().unwrap_or(u16::MAX);
        let table = render::table(config, capacity);
        nft::apply(&render::everything(&table, &model)).await?;
        forget(&table, &model, &model.diff(&Model::default())).await;
        Ok(Self { table, capacity, model })
    }

    async fn changed_to(self, config: &Config, model: Model) -> Result<Self, Error> {
        let difference = model.diff(&self.model);
        if difference.is_empty() {
            return Ok(self);
        }
        if model.widest() > self.capacity {
            return Self::load(config, model).await;
        }
        let mut transaction = Transaction::default();
        render::change(&self.table, &difference, &mut transaction);
        nft::apply(&transaction).await?;
        forget(&self.table, &model, &difference).await;
        Ok(Self { model, ..self })
    }
}

/// Makes clients of endpoints that are gone choose anew. Failing to is not worth a full resync: the
/// entries expire.
async fn forget(table: &Table, model: &Model, difference: &Difference) {
    if difference.touches(Protocol::Udp)
        && let Err(error) = flows::forget_stale(model).await
    {
        tracing::warn!(%error, "UDP flows may lead to endpoints that are gone until they expire");
    }
    if !difference.gone.is_empty()
        && !model.timeouts().is_empty()
        && let Err(error) = forget_clients(table, &difference.gone).await
    {
        tracing::warn!(%error, "clients stay with an endpoint that is gone until their affinity expires");
    }
}

async fn forget_clients(table: &Table, gone: &BTreeSet<(Front, Endpoint)>) -> Result<(), net::Error> {
    let listing = nft::list_set(table, &render::affinity()).await?;
    let mut transaction = Transaction::default();
    transaction.delete_elements(table, render::AFFINITY, clients_of(&listing, gone).into_iter());
    nft::apply(&transaction).await
}

/// The keys of clients that are remembered for an endpoint which their front no longer has.
fn clients_of(listing: &serde_json::Value, gone: &BTreeSet<(Front, Endpoint)>) -> Vec<String> {
    let objects = listing["nftables"].as_array().into_iter().flatten();
    let elements = objects.filter_map(|object| object["map"]["elem"].as_array()).flatten();
    let keys = elements.filter_map(|element| {
        let key = element[0]["elem"]["val"]["concat"].as_array()?;
        let to = element[1]["concat"].as_array()?;
        let address = to.first()?.as_str()?.parse().ok()?;
        let endpoint = Endpoint { address, port: u16::try_from(to.get(1)?.as_u64()?).ok()? };
        let front_address = key.get(1)?.as_str()?.parse().ok()?;
        let port = u16::try_from(key.get(3)?.as_u64()?).ok()?;
        let lost = gone.iter().any(|(front, lost)| {
            *lost == endpoint
                && match front {
                    Front::Address(address, _, number) => (*address, *number) == (front_address, port),
                    Front::Port(_, number) => *number == port,
                }
        });
        let words = key.iter().map(|word| word.as_str().map_or_else(|| word.to_string(), str::to_owned));
        lost.then(|| words.collect::<Vec<_>>().join(" . "))
    });
    keys.collect()
}
