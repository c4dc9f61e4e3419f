//! The endpoints of the Service `kubernetes`: where the API is served, by every server that lives.
//!
//! Of several servers each keeps a Lease that says where it is (`api::servers`), and the one that leads writes the
//! endpoints. Whose Lease is not renewed is left out, counted from when it was last seen to change and on the own clock.

use crate::Error;
use crate::objects::{ensure, failed};
use api::Object;
use api::coordination::Lease;
use api::servers::{is_identity, place};
use base::clock::{self, Instant};
use base::{Phase, Restart, Shutdown, Supervisor};
use client::{Cache, Client};
use http::Method;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, watch};

const NAMESPACE: &str = "kube-system";
/// After so long without a renewal a server is taken for dead: three were missed.
const LOST: Duration = Duration::from_secs(35);
/// After a write that failed.
const PAUSE: Duration = Duration::from_secs(5);

/// Where one server is reached.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Api {
    /// The first is of the family that is used where none is asked for.
    pub addresses: Vec<IpAddr>,
    /// The port there.
    pub port: u16,
}

/// Has the Service `kubernetes` lead to these servers.
pub async fn publish(client: &Client, servers: &[Api]) -> Result<(), Error> {
    let Some(port) = common_port(servers) else { return Ok(()) };
    let reached: Vec<&Api> = servers.iter().filter(|server| server.port == port).collect();
    let ports = json!([{"name": "https", "port": port, "protocol": "TCP"}]);
    let replaced = |fields: &'static [&'static str], existing: &Value, wanted: &Value| {
        let mut merged = existing.clone();
        fields.iter().for_each(|field| merged[*field] = wanted[*field].clone());
        (merged != *existing).then_some(merged)
    };
    // What is older than EndpointSlices knows the service's own family alone, that of the first address.
    let is_v4 = reached.iter().find_map(|server| server.addresses.first()).is_none_or(IpAddr::is_ipv4);
    let metadata = json!({"name": "kubernetes", "namespace": "default", "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}});
    let entries: Vec<Value> =
        of_family(&reached, is_v4).iter().map(|address| json!({"ip": address})).collect();
    let endpoints = json!({
        "apiVersion": "v1", "kind": "Endpoints", "metadata": metadata,
        "subsets": [{"addresses": entries, "ports": ports}],
    });
    let of_endpoints = |existing: &Value, wanted: &Value| replaced(&["subsets"], existing, wanted);
    ensure(client, "/api/v1/namespaces/default/endpoints", vec![endpoints], of_endpoints).await?;
    let path = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
    for (family, name, is_v4) in [("IPv4", "kubernetes", true), ("IPv6", "kubernetes-ipv6", false)] {
        let addresses = of_family(&reached, is_v4);
        if addresses.is_empty() {
            remove(client, &format!("{path}/{name}")).await?;
            continue;
        }
        let endpoints: Vec<Value> = addresses
            .iter()
            .map(|address| json!({"addresses": [address], "conditions": {"ready": true}}))
            .collect();
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": family,
            "metadata": {"name": name, "namespace": "default", "labels": {"kubernetes.io/service-name": "kubernetes"}},
            "endpoints": endpoints, "ports": ports,
        });
        let of_slices =
            |existing: &Value, wanted: &Value| replaced(&["endpoints", "ports"], existing, wanted);
        ensure(client, path, vec![slice], of_slices).await?;
    }
    Ok(())
}

fn of_family(servers: &[&Api], is_v4: bool) -> Vec<IpAddr> {
    let all = servers.iter().flat_map(|server| &server.addresses);
    all.filter(|address| address.is_ipv4() == is_v4).copied().collect()
}

/// The endpoints have one port for all: that of most servers.
fn common_port(servers: &[Api]) -> Option<u16> {
    let mut counts: BTreeMap<u16, usize> = BTreeMap::new();
    servers.iter().for_each(|server| *counts.entry(server.port).or_default() += 1);
    if counts.len() > 1 {
        tracing::warn!(ports = ?counts.keys(), "servers of one cluster have to serve at the same port: some are left out");
    }
    let most = counts.values().max().copied()?;
    counts.into_iter().find(|(_, count)| *count == most).map(|(port, _)| port)
}

async fn remove(client: &Client, path: &str) -> Result<(), Error> {
    match client.send(Method::DELETE, path, None).await {
        Err(error) if !error.is_not_found() => Err(failed(path, error)),
        _ => Ok(()),
    }
}

/// Keeps the endpoints of the only server, as its addresses change.
pub fn keep_own(client: &Client, (own, port): (watch::Receiver<Vec<IpAddr>>, u16), supervisor: &Supervisor) {
    let client = client.clone();
    supervisor.run("endpoints of the API", Phase::Work, Restart::OnFailure, move |shutdown| {
        let (client, mut own) = (client.clone(), own.clone());
        async move {
            loop {
                let addresses = own.borrow_and_update().clone();
                insist(&client, &[Api { addresses, port }], &shutdown).await;
                tokio::select! {
                    changed = own.changed() => if changed.is_err() {
                        return Ok::<(), Error>(());
                    },
                    () = shutdown.requested() => return Ok(()),
                }
            }
        }
    });
}

/// Publishes until that worked.
async fn insist(client: &Client, servers: &[Api], shutdown: &Shutdown) {
    while let Err(error) = publish(client, servers).await {
        tracing::warn!(%error, "the endpoints of the API are published again in a moment");
        tokio::select! {
            () = clock::sleep(PAUSE) => {}
            () = shutdown.requested() => return,
        }
    }
}

/// The servers that there are, and when each was last heard of.
#[derive(Clone, Default)]
struct Living(Arc<Mutex<HashMap<String, Instant>>>);

impl Living {
    fn heard(&self) -> MutexGuard<'_, HashMap<String, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those that live, and when that has to be looked at again.
    fn look<'a>(
        &self,
        leases: impl Iterator<Item = &'a Arc<Lease>>,
        now: Instant,
    ) -> (Vec<Api>, Option<Instant>) {
        let heard = self.heard();
        let ends = |lease: &Lease| heard.get(lease.name()).map(|at| *at + LOST).filter(|ends| *ends > now);
        let living = leases.filter(|lease| is_identity(lease));
        let living = living.filter_map(|lease| Some((place(lease)?, ends(lease)?)));
        let (servers, ends): (Vec<Api>, Vec<Instant>) =
            living.map(|((addresses, port), ends)| (Api { addresses, port }, ends)).unzip();
        (servers, ends.into_iter().min())
    }
}

/// Keeps the endpoints of all servers, by the Leases of `kube-system`, in terms of the one that leads: `during` runs
/// tasks then alone.
pub fn keep_all(client: &Client, leases: Cache<Lease>, during: &Supervisor) {
    let (client, living, wake) = (client.clone(), Living::default(), Arc::new(Notify::new()));
    let (known, changed) = (living.clone(), wake.clone());
    // Also while another leads, who may be the next to die.
    leases.on_change(move |change| {
        let lease = change.object();
        if !is_identity(lease) {
            return;
        }
        match &change.new {
            Some(_) => drop(known.heard().insert(lease.name().to_owned(), clock::instant())),
            None => drop(known.heard().remove(lease.name())),
        }
        let said = |lease: &Option<Arc<Lease>>| lease.as_ref().and_then(|lease| place(lease));
        if said(&change.old) != said(&change.new) {
            changed.notify_one();
        }
    });
    during.run("endpoints of the API", Phase::Work, Restart::OnFailure, move |shutdown| {
        let (client, living) = (client.clone(), living.clone());
        let (wake, leases) = (wake.clone(), leases.clone());
        async move {
            leases.synced().await;
            let mut published = Vec::new();
            loop {
                let (servers, due) = living.look(leases.snapshot().in_namespace(NAMESPACE), clock::instant());
                if servers != published && !servers.is_empty() {
                    tracing::info!(?servers, "the cluster's servers");
                    insist(&client, &servers, &shutdown).await;
                    published = servers;
                }
                tokio::select! {
                    () = wake.notified() => {}
                    () = clock::until(due) => {}
                    () = shutdown.requested() => return Ok::<(), Error>(()),
                }
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::servers::{ADDRESSES, IDENTITY, PORT};

    fn lease(name: &str, addresses: &str) -> Arc<Lease> {
        let lease = json!({"metadata": {"name": name, "namespace": NAMESPACE, "labels": {IDENTITY.0: IDENTITY.1},
            "annotations": {ADDRESSES: addresses, PORT: "6443"}}});
        Arc::new(serde_json::from_value(lease).unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_not_heard_of_is_left_out() {
        let (living, now) = (Living::default(), clock::instant());
        let (a, b) = (lease("apiserver-a", "192.0.2.1,2001:db8::1"), lease("apiserver-b", "192.0.2.2"));
        let stranger = Arc::new(Lease::default());
        let all = [a.clone(), b, stranger];
        assert_eq!(living.look(all.iter(), now), (Vec::new(), None));
        living.heard().extend([("apiserver-a".to_owned(), now), ("apiserver-b".to_owned(), now - LOST / 2)]);
        let (servers, due) = living.look(all.iter(), now);
        assert_eq!((servers.len(), due), (2, Some(now + LOST / 2)));
        let (servers, due) = living.look(all.iter(), now + LOST / 2);
        let own = Api { addresses: place(&a).unwrap().0, port: 6443 };
        assert_eq!((servers, due), (vec![own], Some(now + LOST)));
    }

    #[test]
    fn most_servers_decide_the_port() {
        let at = |ports: &[u16]| {
            let servers = ports.iter().map(|port| Api { addresses: Vec::new(), port: *port });
            common_port(&servers.collect::<Vec<_>>())
        };
        assert_eq!(at(&[]), None);
        assert_eq!(
            [at(&[6443]), at(&[7000, 6443, 7000]), at(&[7000, 6443])],
            [Some(6443), Some(7000), Some(6443)]
        );
    }
}
