//! The leases by which API servers know of each other (KEP-1965): this server keeps its own, and those of servers
//! that are no more are deleted.

use crate::common::{Room, unless_gone};
use api::Object;
use api::coordination::{Lease, LeaseSpec};
use api::meta::{MicroTime, ObjectMeta};
use api::servers::{self, IDENTITY, is_identity};
use base::clock::{self, Instant};
use base::{Phase, Restart, random};
use client::{Cache, Client, Error, Next, Queue};
use jiff::{SignedDuration, Timestamp};
use ring::digest;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

const NAMESPACE: &str = "kube-system";
/// How long a lease lasts.
const LIFE_S: i32 = 3_600;
/// How often this server's is renewed. Kubernetes does it every 10 s; that often an idle server would not be idle.
const RENEWAL: Duration = Duration::from_secs(600);
/// The same where there may be others, who see by it whether this one is there still.
const RENEWAL_AMONG_OTHERS: Duration = Duration::from_secs(10);

/// Where an API server is, for others of the same cluster.
#[derive(Clone)]
pub struct Serving {
    /// The addresses by which it is reached, and as they change.
    pub addresses: watch::Receiver<Vec<IpAddr>>,
    /// The port there.
    pub port: u16,
}

/// For how long a Lease that says it has expired must not have changed: its server's clock may be the wrong one.
const UNCHANGED: Duration = Duration::from_secs(25);

#[derive(Clone)]
struct Collector {
    client: Client,
    leases: Cache<Lease>,
    /// When a Lease changed the last time.
    changed: Arc<Mutex<HashMap<String, Instant>>>,
}

/// How long an API server's lease is still good; one that does not say is none.
fn left(lease: &Lease, now: Timestamp) -> Duration {
    let spec = lease.spec.as_ref();
    let until = spec.and_then(|spec| {
        let lasts = SignedDuration::from_secs(spec.lease_duration_seconds?.into());
        spec.renew_time.as_ref()?.0.checked_add(lasts).ok()
    });
    until.and_then(|until| Duration::try_from(until.duration_since(now)).ok()).unwrap_or_default()
}

pub(crate) fn start(room: &Room, hostname: &str, serving: Option<Serving>) {
    let leases = room.caches.selected(NAMESPACE, "");
    let collector = Collector { client: room.client.clone(), leases, changed: Arc::default() };
    let queue = Queue::new("identity leases");
    let (changed, own) = (queue.clone(), collector.clone());
    collector.leases.on_change(move |change| {
        let name = change.object().name();
        if change.new.as_ref().is_some_and(|lease| is_identity(lease)) {
            own.changed().insert(name.to_owned(), clock::instant());
            changed.add(name.to_owned());
        } else {
            own.changed().remove(name);
        }
    });
    let leases = collector.leases.clone();
    room.work("identity lease collector", &queue, 1, move |name| collector.clone().sync(name));
    Identity::new(room.client.clone(), hostname, serving).start(room, &leases);
}

/// This server's own lease.
#[derive(Clone)]
struct Identity {
    client: Client,
    name: Arc<str>,
    /// Of this process.
    holder: Arc<str>,
    hostname: Arc<str>,
    /// `None` of the only one.
    serving: Option<Serving>,
}

/// Base 32 without padding (RFC 4648), in small letters.
fn base32(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let bit = |at: usize| bytes.get(at / 8).map_or(0, |byte| byte >> (7 - at % 8) & 1);
    let digit = |at: usize| DIGITS[(at..at + 5).fold(0, |value, at| value << 1 | usize::from(bit(at)))];
    (0..bytes.len() * 8).step_by(5).map(|at| char::from(digit(at))).collect()
}

impl Identity {
    fn new(client: Client, hostname: &str, serving: Option<Serving>) -> Self {
        let hash = digest::digest(&digest::SHA256, hostname.as_bytes());
        let name = format!("apiserver-{}", base32(&hash.as_ref()[..16]));
        let holder = format!("{name}_{:016x}", u64::from_ne_bytes(random::bytes()));
        Self { client, name: name.into(), holder: holder.into(), hostname: hostname.into(), serving }
    }

    fn start(self, room: &Room, leases: &Cache<Lease>) {
        let queue = Queue::new("identity lease");
        queue.add(());
        let (lost, name) = (queue.clone(), self.name.clone());
        leases.on_change(move |change| {
            if change.new.is_none() && change.object().name() == &*name {
                lost.add(());
            }
        });
        let Some(serving) = self.serving.clone() else {
            return room.work("identity lease", &queue, 1, move |()| self.clone().renew());
        };
        room.supervisor.run("identity lease", Phase::Work, Restart::OnFailure, move |shutdown| {
            let (own, queue, serving) = (self.clone(), queue.clone(), serving.clone());
            async move {
                let told = shutdown.clone();
                let work = queue.work(shutdown, 1, |()| own.clone().renew());
                tokio::select! {
                    () = work => {}
                    () = moved(&serving, &queue) => {}
                }
                if told.is_requested() {
                    // The others need not wait until they miss it.
                    unless_gone(own.client.delete::<Lease>(NAMESPACE, &own.name, &Default::default()).await)?;
                }
                Ok::<(), Error>(())
            }
        });
    }

    async fn renew(self) -> Result<Next, Error> {
        let known = match self.client.get::<Lease>(NAMESPACE, &self.name).await {
            Err(error) if error.is_not_found() => None,
            other => Some(other?),
        };
        let lease = self.lease(known.clone().unwrap_or_default(), clock::now());
        match known {
            Some(_) => self.client.update(&lease).await?,
            None => self.client.create(&lease).await?,
        };
        Ok(Next::After(if self.serving.is_some() { RENEWAL_AMONG_OTHERS } else { RENEWAL }))
    }

    fn lease(&self, known: Lease, now: Timestamp) -> Lease {
        let labels = [IDENTITY, ("kubernetes.io/hostname", &*self.hostname)];
        let mut labels: BTreeMap<_, _> =
            labels.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        labels.extend(known.metadata.labels.unwrap_or_default());
        let mut annotations = known.metadata.annotations.unwrap_or_default();
        if let Some(serving) = &self.serving {
            let said = servers::annotations(&serving.addresses.borrow(), serving.port);
            annotations.extend(said.map(|(name, value)| (name.to_owned(), value)));
        }
        let (name, namespace) = (Some(self.name.to_string()), Some(NAMESPACE.to_owned()));
        let spec = LeaseSpec {
            holder_identity: Some(self.holder.to_string()),
            lease_duration_seconds: Some(LIFE_S),
            renew_time: Some(MicroTime(now)),
            ..known.spec.unwrap_or_default()
        };
        let annotations = Some(annotations).filter(|annotations| !annotations.is_empty());
        let metadata = ObjectMeta { name, namespace, labels: Some(labels), annotations, ..known.metadata };
        Lease { metadata, spec: Some(spec) }
    }
}

/// Renews whenever this server is reached by other addresses.
async fn moved(serving: &Serving, queue: &Queue<()>) {
    let mut addresses = serving.addresses.clone();
    while addresses.changed().await.is_ok() {
        queue.add(());
    }
    // Nobody says any more that they change.
    std::future::pending().await
}

impl Collector {
    fn changed(&self) -> MutexGuard<'_, HashMap<String, Instant>> {
        self.changed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long a Lease has to be left alone still.
    fn left(&self, lease: &Lease) -> Duration {
        let until = self.changed().get(lease.name()).map(|at| *at + UNCHANGED);
        let unchanged = until.map_or(UNCHANGED, |until| until.saturating_duration_since(clock::instant()));
        left(lease, clock::now()).max(unchanged)
    }

    async fn sync(self, name: String) -> Result<Next, Error> {
        let Some(lease) = self.leases.get(NAMESPACE, &name).filter(|lease| is_identity(lease)) else {
            return Ok(Next::Done);
        };
        let left = self.left(&lease);
        if !left.is_zero() {
            return Ok(Next::After(left));
        }
        unless_gone(self.client.delete::<Lease>(NAMESPACE, &name, &Default::default()).await)?;
        Ok(Next::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn servers_are_named_by_their_hosts() {
        assert_eq!((base32(b"foobar"), base32(b"f")), ("mzxw6ytboi".to_owned(), "my".to_owned()));
    }

    #[test]
    fn leases_last_until_they_are_not_renewed() {
        let now: Timestamp = "2026-01-01T01:00:00Z".parse().unwrap();
        let left = |renewed: Option<&str>, lasts: Option<i32>| {
            let spec = json!({"renewTime": renewed, "leaseDurationSeconds": lasts});
            left(&serde_json::from_value(json!({"spec": spec})).unwrap(), now).as_secs()
        };
        assert_eq!(left(Some("2026-01-01T00:30:00.000000Z"), Some(3600)), 1800);
        assert_eq!(left(Some("2026-01-01T00:00:00.000000Z"), Some(3600)), 0);
        assert_eq!([left(None, Some(3600)), left(Some("2026-01-01T00:59:00.000000Z"), None)], [0, 0]);
    }
}
