//! The endpoints of the Service `kubernetes`: where the API is served, by every server that lives.
//!
//! Of several servers each keeps a Lease that says where it is (`api::servers`), and the one that leads writes the
//! endpoints. Whose Lease is not renewed is left out, counted from when it was last seen to change and on the own clock.

use crate::Error;
use crate::objects::{ensure, failed};
use api::Object;
use api::coordination::Lease;
use api::servers::{is_identity, place};
use api::slim::EndpointSlice;
use base::clock::{self, Instant};
use base::{Phase, Restart, Shutdown, Supervisor};
use client::{Cache, Client};
use http::Method;
use serde_json::{Value, json};
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, watch};

const NAMESPACE: &str = "kube-system";
/// After so long without a renewal a server is taken for dead: three were missed.
const LOST: Duration = Duration::from_secs(35);
/// How long changes are waited for that come together: of a slice that is written here as well.
const SETTLED: Duration = Duration::from_millis(200);
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

const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";

/// Has the Service `kubernetes` lead to these servers.
pub async fn publish(client: &Client, servers: &[Api]) -> Result<(), Error> {
    if servers.is_empty() {
        return Ok(());
    }
    let replaced = |fields: &'static [&'static str], existing: &Value, wanted: &Value| {
        let mut merged = existing.clone();
        fields.iter().for_each(|field| merged[*field] = wanted[*field].clone());
        (merged != *existing).then_some(merged)
    };
    let of_endpoints = |existing: &Value, wanted: &Value| replaced(&["subsets"], existing, wanted);
    let path = "/api/v1/namespaces/default/endpoints";
    ensure(client, path, vec![endpoints(servers)], of_endpoints).await?;
    let wanted = slices(servers);
    let of_slices = |existing: &Value, wanted: &Value| replaced(&["endpoints", "ports"], existing, wanted);
    ensure(client, SLICES, wanted.clone(), of_slices).await?;
    remove_others(client, &wanted).await
}

fn of_family(servers: &[&Api], is_v4: bool) -> Vec<IpAddr> {
    let all = servers.iter().flat_map(|server| &server.addresses);
    all.filter(|address| address.is_ipv4() == is_v4).copied().collect()
}

/// The servers by their ports, which are the same nearly always: that of most of them first.
fn by_port(servers: &[Api]) -> Vec<(u16, Vec<&Api>)> {
    let mut all: BTreeMap<u16, Vec<&Api>> = BTreeMap::new();
    servers.iter().for_each(|server| all.entry(server.port).or_default().push(server));
    let mut all: Vec<(u16, Vec<&Api>)> = all.into_iter().collect();
    all.sort_by_key(|(_, servers)| Reverse(servers.len()));
    all
}

fn ports(port: u16) -> Value {
    json!([{"name": "https", "port": port, "protocol": "TCP"}])
}

/// What is older than EndpointSlices, and knows the service's own family alone, that of the first address.
fn endpoints(servers: &[Api]) -> Value {
    let is_v4 = servers.iter().find_map(|server| server.addresses.first()).is_none_or(IpAddr::is_ipv4);
    let metadata = json!({"name": "kubernetes", "namespace": "default", "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}});
    let subsets: Vec<Value> = by_port(servers)
        .into_iter()
        .filter_map(|(port, servers)| {
            let addresses = of_family(&servers, is_v4);
            let entries: Vec<Value> = addresses.iter().map(|address| json!({"ip": address})).collect();
            (!entries.is_empty()).then(|| json!({"addresses": entries, "ports": ports(port)}))
        })
        .collect();
    json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": metadata, "subsets": subsets})
}

/// One for each family and port.
fn slices(servers: &[Api]) -> Vec<Value> {
    let mut all = Vec::new();
    for (index, (port, servers)) in by_port(servers).into_iter().enumerate() {
        for (family, name, is_v4) in [("IPv4", "kubernetes", true), ("IPv6", "kubernetes-ipv6", false)] {
            let addresses = of_family(&servers, is_v4);
            if addresses.is_empty() {
                continue;
            }
            let name = if index == 0 { name.to_owned() } else { format!("{name}-{port}") };
            let endpoints: Vec<Value> = addresses
                .iter()
                .map(|address| json!({"addresses": [address], "conditions": {"ready": true}}))
                .collect();
            all.push(json!({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": family,
                "metadata": {"name": name, "namespace": "default", "labels": {"kubernetes.io/service-name": "kubernetes"}},
                "endpoints": endpoints, "ports": ports(port),
            }));
        }
    }
    all
}

/// Removes slices that were written for servers that are no more.
async fn remove_others(client: &Client, wanted: &[Value]) -> Result<(), Error> {
    let list = format!("{SLICES}?labelSelector=kubernetes.io%2Fservice-name%3Dkubernetes");
    let list: Value = client.read(&list).await.map_err(|source| failed(SLICES, source))?;
    for slice in list["items"].as_array().into_iter().flatten() {
        let name = slice["metadata"]["name"].as_str().unwrap_or_default();
        if !is_own(name) || wanted.iter().any(|wanted| wanted["metadata"]["name"] == name) {
            continue;
        }
        let path = format!("{SLICES}/{name}");
        match client.send(Method::DELETE, &path, None).await {
            Err(error) if !error.is_not_found() => return Err(failed(&path, error)),
            _ => {}
        }
    }
    Ok(())
}

/// Whether a slice is called as they are called here.
fn is_own(name: &str) -> bool {
    let Some(rest) = name.strip_prefix("kubernetes") else { return false };
    let rest = rest.strip_prefix("-ipv6").unwrap_or(rest);
    rest.is_empty() || rest.strip_prefix('-').is_some_and(|port| port.parse::<u16>().is_ok())
}

/// Wakes when somebody, who may be this very process, has changed what is published.
fn heed(slices: &Cache<EndpointSlice>, wake: &Arc<Notify>) {
    let wake = wake.clone();
    slices.on_change(move |change| {
        let slice = change.object();
        if slice.namespace() == "default" && is_own(slice.name()) {
            wake.notify_one();
        }
    });
}

/// Keeps the endpoints of the only server, as its addresses change and whatever others make of them.
pub fn keep_own(
    client: &Client,
    (own, port): (watch::Receiver<Vec<IpAddr>>, u16),
    slices: &Cache<EndpointSlice>,
    supervisor: &Supervisor,
) {
    let (client, wake) = (client.clone(), Arc::new(Notify::new()));
    heed(slices, &wake);
    supervisor.run("endpoints of the API", Phase::Work, Restart::OnFailure, move |shutdown| {
        let (client, mut own, wake) = (client.clone(), own.clone(), wake.clone());
        async move {
            let mut are_followed = true;
            loop {
                let addresses = own.borrow_and_update().clone();
                insist(&client, &[Api { addresses, port }], &shutdown).await;
                tokio::select! {
                    changed = own.changed(), if are_followed => are_followed = changed.is_ok(),
                    () = wake.notified() => clock::sleep(SETTLED).await,
                    () = shutdown.requested() => return Ok::<(), Error>(()),
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
pub fn keep_all(
    client: &Client,
    (leases, slices): (Cache<Lease>, &Cache<EndpointSlice>),
    during: &Supervisor,
) {
    let (client, living, wake) = (client.clone(), Living::default(), Arc::new(Notify::new()));
    let (known, changed) = (living.clone(), wake.clone());
    heed(slices, &wake);
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
                if servers != published {
                    tracing::info!(?servers, "the cluster's servers");
                }
                insist(&client, &servers, &shutdown).await;
                published = servers;
                tokio::select! {
                    () = wake.notified() => clock::sleep(SETTLED).await,
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
    fn there_is_a_slice_for_each_family_and_port() {
        let at = |addresses: &[&str], port: u16| Api {
            addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
            port,
        };
        let servers = [
            at(&["192.0.2.3"], 6444),
            at(&["192.0.2.1", "2001:db8::1"], 6443),
            at(&["192.0.2.2", "2001:db8::2"], 6443),
        ];
        let slices = slices(&servers);
        let told = |slice: &Value| {
            let endpoints = slice["endpoints"].as_array().unwrap().len();
            (
                slice["metadata"]["name"].as_str().unwrap().to_owned(),
                endpoints,
                slice["ports"][0]["port"].clone(),
            )
        };
        let all: Vec<_> = slices.iter().map(told).collect();
        let named = |name: &str, count: usize, port: u16| (name.to_owned(), count, json!(port));
        let wanted = [
            named("kubernetes", 2, 6443),
            named("kubernetes-ipv6", 2, 6443),
            named("kubernetes-6444", 1, 6444),
        ];
        assert_eq!(all, wanted);
        let subsets = endpoints(&servers)["subsets"].clone();
        assert_eq!(
            (subsets[0]["addresses"].as_array().unwrap().len(), &subsets[1]["ports"][0]["port"]),
            (2, &json!(6444))
        );
        assert!(all.iter().all(|(name, ..)| is_own(name)));
        assert!(!is_own("kubernetes-mine") && !is_own("web") && is_own("kubernetes-ipv6-6444"));
    }
}
