//! The addresses of load balancers that this node answers for on its links: the controller says in each
//! Service's annotation which node does, and this one's proxy keeps to it.

use crate::{Config, Error};
use api::Object;
use api::balancing::{self, ANNOUNCED_BY, told};
use api::core::Service;
use base::{Phase, Restart, Shutdown, Supervisor, clock};
use client::{Cache, Snapshot};
use net::announce::{Links, announced};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// After how long everybody is told once more of what is new: messages get lost, most of all where links have just
/// come up.
const REMIND: Duration = Duration::from_secs(2);

#[derive(Clone)]
struct Announcer {
    node_name: Arc<str>,
    services: Cache<Service>,
    wake: Arc<Notify>,
    /// What this node was to answer for no longer since that was last looked at, also if it is to again: another one
    /// may have said meanwhile that it is its own.
    lost: Arc<Mutex<BTreeSet<IpAddr>>>,
}

/// Keeps to what the controller says. Needs `net::setup`.
pub(crate) fn start(config: &Config, services: &Cache<Service>, supervisor: &Supervisor) {
    let wake = Arc::<Notify>::default();
    let announcer = Announcer {
        node_name: config.node_name.as_str().into(),
        services: services.clone(),
        wake: wake.clone(),
        lost: Arc::default(),
    };
    let (node, lost) = (announcer.node_name.clone(), announcer.lost.clone());
    services.on_change(move |change| {
        let own = |service: &Option<Arc<Service>>| {
            service.as_ref().map(|service| of_node(service, &node)).unwrap_or_default()
        };
        let (before, after) = (own(&change.old), own(&change.new));
        let gone = before.into_iter().filter(|address| !after.contains(address));
        lost.lock().unwrap_or_else(PoisonError::into_inner).extend(gone);
        let mut both = [&change.old, &change.new].into_iter().flatten();
        if both.any(|service| service.annotations().contains_key(ANNOUNCED_BY)) {
            wake.notify_one();
        }
    });
    supervisor.run("announcing addresses", Phase::Work, Restart::OnFailure, move |shutdown| {
        announcer.clone().run(shutdown)
    });
}

/// The addresses that a node is to answer for, of those that Services have.
fn wanted(services: &Snapshot<Service>, node: &str) -> BTreeSet<IpAddr> {
    services.iter().flat_map(|service| of_node(service, node)).collect()
}

fn of_node(service: &Service, node: &str) -> Vec<IpAddr> {
    let told = told(service);
    let own = balancing::announced(service).into_iter().filter(|(_, own)| own == node);
    own.map(|(address, _)| address).filter(|address| told.contains(address)).collect()
}

/// What is answered for.
struct Held {
    /// Also by an earlier run.
    there: BTreeSet<IpAddr>,
    /// By this one.
    announced: BTreeSet<IpAddr>,
    /// No link of this node's has their network.
    astray: BTreeSet<IpAddr>,
    /// Those that the kernel is to hear of that others took over, once it was told.
    heeded: Option<BTreeSet<IpAddr>>,
}

impl Announcer {
    async fn run(self, shutdown: Shutdown) -> Result<(), Error> {
        tokio::select! {
            result = self.follow() => result,
            () = shutdown.requested() => Ok(()),
        }
    }

    fn wanted(&self) -> BTreeSet<IpAddr> {
        wanted(&self.services.snapshot(), &self.node_name)
    }

    async fn follow(&self) -> Result<(), Error> {
        self.services.synced().await;
        let links = Links::listen()?;
        let there = announced().await?.into_iter().collect();
        let mut held = Held { there, announced: BTreeSet::new(), astray: BTreeSet::new(), heeded: None };
        let (mut new, mut due) = (BTreeSet::new(), None);
        loop {
            let lost = std::mem::take(&mut *self.lost.lock().unwrap_or_else(PoisonError::into_inner));
            held.announced.retain(|address| !lost.contains(address));
            let fresh = held.sync(&self.wanted()).await?;
            if !fresh.is_empty() {
                // What was heard before is over.
                held.heeded = None;
                new.extend(fresh);
                due = Some(clock::instant() + REMIND);
            }
            held.heed().await;
            tokio::select! {
                () = self.wake.notified() => {}
                () = clock::until(due) => {
                    due = None;
                    for address in std::mem::take(&mut new).intersection(&self.wanted()) {
                        net::announce::remind(*address).await?;
                    }
                }
                changed = links.changed() => {
                    changed?;
                    held.look().await?;
                }
            }
        }
    }
}

impl Held {
    /// What was answered for on a link that went is to be announced anew.
    async fn look(&mut self) -> Result<(), Error> {
        if !self.announced.is_empty() {
            let there: BTreeSet<IpAddr> = announced().await?.into_iter().collect();
            self.announced.retain(|address| there.contains(address));
        }
        Ok(())
    }

    /// Has the kernel yield to whoever takes over. Without that, which needs nftables of ARP, all else goes on.
    async fn heed(&mut self) {
        if self.heeded.as_ref() == Some(&self.announced) {
            return;
        }
        if let Err(error) = net::announce::yield_to_others(&self.announced).await {
            tracing::warn!(%error, "if this node's knarr stops, another node that takes its addresses over is not heard");
        }
        self.heeded = Some(self.announced.clone());
    }

    /// Gives what is newly answered for.
    async fn sync(&mut self, wanted: &BTreeSet<IpAddr>) -> Result<BTreeSet<IpAddr>, Error> {
        for address in self.there.difference(wanted) {
            net::announce::withdraw(*address).await?;
            tracing::info!(%address, "this node answers no longer for the address");
        }
        self.there.retain(|address| wanted.contains(address));
        self.announced.retain(|address| wanted.contains(address));
        self.astray.retain(|address| wanted.contains(address));
        let mut fresh = BTreeSet::new();
        for address in wanted.difference(&self.announced).copied().collect::<Vec<_>>() {
            let links = net::announce::announce(address).await?;
            if links.is_empty() {
                if self.astray.insert(address) {
                    tracing::warn!(%address, "no link of this node has a network that the address is in: nobody answers for it");
                }
                continue;
            }
            tracing::info!(%address, ?links, "this node answers for the address");
            self.astray.remove(&address);
            self.there.insert(address);
            self.announced.insert(address);
            fresh.insert(address);
        }
        Ok(fresh)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_what_is_told_and_this_nodes_is_announced() {
        let service: Service = serde_json::from_value(json!({"metadata": {"annotations": {
                ANNOUNCED_BY: "192.0.2.1=here,2001:db8::1=there,192.0.2.2=here,nonsense=here"}},
            "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}, {"ip": "2001:db8::1"}]}}}))
        .unwrap();
        let of = |node| of_node(&service, node).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!((of("here"), of("there")), (vec!["192.0.2.1".to_owned()], vec!["2001:db8::1".to_owned()]));
    }
}
