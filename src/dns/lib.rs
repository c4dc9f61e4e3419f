//! Cluster DNS in process: names of services and pods from a swapped snapshot, everything else from
//! the machine's resolvers or whom a Corefile names, with a bounded cache.
//!
//! It follows the Kubernetes DNS specification 1.1.0. It must never ask itself, never block a query
//! on the API, and never ask others about a name of the cluster unless the Corefile says so. Start
//! reading at [`chain::Chain::step`], which is what happens to a name; `zone` and `corefile` are pure,
//! `wire` knows messages as bytes, `server` and `tcp` speak the protocol, `upstream` asks others.

mod cache;
mod chain;
mod corefile;
mod entry;
mod loops;
mod machine;
mod metrics;
mod name;
mod names;
mod pages;
mod resolve;
mod secure;
mod server;
mod tcp;
mod upstream;
mod wire;
mod zone;

#[cfg(test)]
mod tests;

use arc_swap::ArcSwap;
use base::{Phase, Ready, Restart, Supervisor};
use client::{Caches, Client, Recorder};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::watch;
use zone::Zone;

pub use corefile::default_corefile;

/// What cluster DNS has to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to listen, such as `10.43.0.10:53`; the machine has these addresses already.
    pub listen: Vec<SocketAddr>,
    /// The cluster's domain without a dot at its end, such as `cluster.local`.
    pub cluster_domain: String,
    /// The file that names the machine's resolvers, `/etc/resolv.conf`. Read again when it changes.
    pub resolv_conf: PathBuf,
    /// Blocks of pod and service addresses, as address and prefix: their reverse names are answered
    /// here alone, and metrics are told to nobody else.
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

/// Answers for the cluster on `config.listen`; ready when it answers for the first time. `client` writes events about the ConfigMaps.
pub fn start(
    config: Config,
    client: Client,
    caches: &Caches,
    supervisor: &Supervisor,
) -> Result<Ready, Error> {
    let own: Vec<IpAddr> = config.listen.iter().map(SocketAddr::ip).collect();
    let surroundings = upstream::Surroundings {
        machine: Arc::new(machine::Machine::new(config.resolv_conf.clone(), own.clone())),
        loops: Arc::default(),
        metrics: Arc::default(),
        supervisor: supervisor.clone(),
    };
    let resolver = Arc::new(resolve::Resolver {
        zone: ArcSwap::from_pointee(Zone::empty(&config.cluster_domain, &own)?),
        chains: ArcSwap::from_pointee(resolve::Chains(Vec::new())),
        blocks: config.blocks.clone(),
        surroundings,
    });
    let recorder = Recorder::new(client, supervisor, "dns", "");
    let names = names::Names::new(&config, caches, recorder, resolver.clone());
    let pages = pages::Pages {
        listen: own,
        resolver: resolver.clone(),
        changed: names.changed.subscribe(),
        supervisor: supervisor.clone(),
    };
    let (listening, follower) = (watch::channel(false).0, names.clone());
    let ready = Ready::of(&listening);
    supervisor
        .run("dns names", Phase::Work, Restart::OnFailure, move |shutdown| follower.clone().run(shutdown));
    supervisor
        .run("dns pages", Phase::Front, Restart::OnFailure, move |shutdown| pages.clone().run(shutdown));
    let server = server::Server::new(config.listen, resolver, supervisor.clone());
    supervisor.run("dns", Phase::Front, Restart::OnFailure, move |shutdown| {
        let (server, names, listening) = (server.clone(), names.clone(), listening.clone());
        async move {
            tokio::select! {
                () = names.synced() => {}
                () = shutdown.requested() => return Ok(()),
            }
            server.run(shutdown, &listening).await
        }
    });
    Ok(ready)
}
