//! Cluster DNS in process: names of services and pods from a swapped snapshot, everything else from
//! the machine's resolvers, with a bounded cache.
//!
//! It follows the Kubernetes DNS specification 1.1.0. It must never ask itself, never block a query
//! on the API, and never ask others about a name of the cluster. Start reading at [`zone::Zone`],
//! which is pure; `server` speaks the protocol, `forward` asks others.

mod forward;
mod server;
mod zone;

#[cfg(test)]
mod tests;

use api::core::{Namespace, Service};
use api::discovery::EndpointSlice;
use arc_swap::ArcSwap;
use base::{Phase, Restart, Shutdown, Supervisor, clock};
use client::{Cache, Caches};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, watch};
use zone::Zone;

/// The longest pause between two snapshots; otherwise as long as the last one took to make.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// What cluster DNS has to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to listen, such as `10.43.0.10:53`; the machine has this address already.
    pub listen: SocketAddr,
    /// The cluster's domain without a dot at its end, such as `cluster.local`.
    pub cluster_domain: String,
    /// The file that names the machine's resolvers, `/etc/resolv.conf`. Read again when it changes.
    pub resolv_conf: PathBuf,
    /// Blocks of pod and service addresses, as address and prefix: their reverse names are answered
    /// here alone.
    pub blocks: Vec<(IpAddr, u8)>,
}

/// Why DNS cannot be served. The supervisor retries.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address cannot be listened on: taken by another server, or not on this machine.
    #[error("DNS cannot listen on {address}: {source}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The cluster's domain is no name.
    #[error("{0:?} cannot be a cluster domain")]
    Domain(String),
}

/// Tells whether DNS answers.
#[derive(Clone, Debug)]
pub struct Handle(watch::Receiver<bool>);

impl Handle {
    /// Completes when DNS answers for the first time.
    pub async fn ready(&self) {
        // The sender lives in the server's task; without it the process is ending.
        if self.0.clone().wait_for(|ready| *ready).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Answers for the cluster on `config.listen`.
pub fn start(config: Config, caches: &Caches, supervisor: &Supervisor) -> Result<Handle, Error> {
    let names = Arc::new(Names {
        services: caches.of(),
        slices: caches.of(),
        namespaces: caches.of(),
        wake: Notify::new(),
        zone: Arc::new(ArcSwap::from_pointee(Zone::empty(&config.cluster_domain, config.listen.ip())?)),
    });
    let (listening, handle) = (watch::channel(false).0, names.clone());
    let waker = |names: &Arc<Names>| {
        let names = names.clone();
        move || names.wake.notify_one()
    };
    let wake = waker(&names);
    names.services.on_change(move |_| wake());
    let wake = waker(&names);
    names.slices.on_change(move |_| wake());
    let wake = waker(&names);
    names.namespaces.on_change(move |_| wake());
    let receiver = listening.subscribe();
    supervisor.run("dns names", Phase::Work, Restart::OnFailure, move |shutdown| names.clone().run(shutdown));
    let server = server::Server::new(&config, handle.zone.clone(), supervisor.clone());
    supervisor.run("dns", Phase::Front, Restart::OnFailure, move |shutdown| {
        let (server, names, listening) = (server.clone(), handle.clone(), listening.clone());
        async move {
            tokio::select! {
                () = names.synced() => {}
                () = shutdown.requested() => return Ok(()),
            }
            server.run(shutdown, &listening).await
        }
    });
    Ok(Handle(receiver))
}

/// Keeps the snapshot current.
struct Names {
    services: Cache<Service>,
    slices: Cache<EndpointSlice>,
    namespaces: Cache<Namespace>,
    wake: Notify,
    zone: Arc<ArcSwap<Zone>>,
}

impl Names {
    /// The first snapshot has everything that there is; before it, names would be denied that exist.
    async fn synced(&self) {
        tokio::join!(self.services.synced(), self.slices.synced(), self.namespaces.synced());
        self.swap();
    }

    async fn run(self: Arc<Self>, shutdown: Shutdown) -> Result<(), Error> {
        loop {
            tokio::select! {
                () = self.wake.notified() => {}
                () = shutdown.requested() => return Ok(()),
            }
            let begin = clock::instant();
            self.swap();
            clock::sleep(begin.elapsed().min(LONGEST_PAUSE)).await;
        }
    }

    fn swap(&self) {
        let (services, slices, namespaces) =
            (self.services.snapshot(), self.slices.snapshot(), self.namespaces.snapshot());
        let old = self.zone.load();
        let new = old.rebuilt(
            services.iter().map(Arc::as_ref),
            slices.iter().map(Arc::as_ref),
            namespaces.iter().map(Arc::as_ref),
        );
        self.zone.store(Arc::new(new));
    }
}
