//! Who of several leads, by a Lease (`coordination.k8s.io/v1`), as Kubernetes' components decide it among themselves.
//!
//! Two things keep two from leading at once. A Lease is written with the revision that was looked at, so that of two
//! who take it one is refused. And how long a Lease is good is counted by everybody on a clock of its own: by who holds
//! it from before it asked for it, by the others from when they saw it change, which is later. What a Lease says of times
//! is for people.
//!
//! A change is seen by a watch and not looked for, so that whoever waits follows at once when a Lease is given back.

use crate::cache::Cache;
use crate::events::Recorder;
use crate::request::{Client, Error};
use api::Object;
use api::coordination::{Lease, LeaseSpec};
use api::meta::{MicroTime, ObjectMeta};
use base::clock::{self, Instant};
use base::{Shutdown, Supervisor, Term, random};
use std::time::Duration;

#[cfg(test)]
mod tests;

/// Where the Leases of a cluster's components are.
pub const NAMESPACE: &str = "kube-system";

/// How long a Lease is good. Who died is followed this long after its last renewal, which was a second before at most
/// times: in less than five seconds, and not sooner, as a store whose leader died needs a second or two as well.
const LEASE_S: i32 = 4;
/// How often it is renewed.
const RENEWAL: Duration = Duration::from_secs(1);
/// For how long it may fail to be renewed until its holder stops.
const DEADLINE: Duration = Duration::from_millis(2_500);
/// How long tasks may take to stop by themselves, and how long until the last of them is dropped: all before
/// another may begin.
const PATIENCE: Duration = Duration::from_millis(300);
const LIMIT: Duration = Duration::from_secs(1);
const _: () = assert!(DEADLINE.as_millis() + LIMIT.as_millis() < LEASE_S as u128 * 1_000);
/// How much longer than a Lease some wait, so that not all ask for it at once.
const JITTER: Duration = Duration::from_millis(300);
/// After what was refused or failed.
const PAUSE: Duration = Duration::from_millis(200);
/// How long one answer may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);
/// The longest that others' Leases are believed to be good: a mistake in one must not last for ever.
const LONGEST: Duration = Duration::from_secs(300);

/// Tasks hold a thread and do not stop: another one may lead any moment, so that the process has to end.
#[derive(Debug, thiserror::Error)]
#[error("its tasks do not stop, and another server may do their work by now")]
pub struct Stuck;

/// One who may lead.
pub struct Candidate {
    /// The Lease's name.
    pub name: &'static str,
    /// Writes the Lease.
    pub client: Client,
    /// Leases of [`NAMESPACE`], at least this one.
    pub leases: Cache<Lease>,
    /// When the tasks run that only who leads may run.
    pub term: Term,
    identity: String,
    recorder: Recorder,
}

/// A Lease that is held.
struct Held {
    lease: Lease,
    /// When it was asked for the last time that it was given.
    since: Instant,
}

/// What has become of a renewal.
enum Renewal {
    Done(Box<Held>),
    /// Somebody else has it.
    Lost,
}

/// When the last change of a Lease was seen, and until when somebody else has it.
#[derive(Default)]
struct Seen {
    /// Its uid and revision.
    version: Option<(String, u64)>,
    until: Option<Instant>,
}

fn holder(lease: &Lease) -> &str {
    lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref()).unwrap_or_default()
}

impl Seen {
    /// From when on the Lease may be taken.
    fn look(&mut self, lease: Option<&Lease>, identity: &str, now: Instant) -> Instant {
        // Whoever held one that was deleted may not have heard of it yet.
        let Some(lease) = lease else { return self.until.unwrap_or(now) };
        let version = Some((lease.uid().to_owned(), lease.revision()));
        if self.version == version
            && let Some(until) = self.until
        {
            return until;
        }
        let said = lease.spec.as_ref().and_then(|spec| spec.lease_duration_seconds).unwrap_or(LEASE_S);
        let good = Duration::from_secs(u64::try_from(said).unwrap_or_default()).min(LONGEST);
        let until =
            if ["", identity].contains(&holder(lease)) { now } else { now + good + random::within(JITTER) };
        (self.version, self.until) = (version, Some(until));
        until
    }
}

/// The Lease as its taker writes it; `None` of one that is not there.
fn taken(lease: Option<&Lease>, name: &str, identity: &str) -> Lease {
    let now = Some(MicroTime(clock::now()));
    let known = lease.and_then(|lease| lease.spec.clone()).unwrap_or_default();
    let is_own = lease.is_some_and(|lease| holder(lease) == identity);
    let transitions = match lease {
        None => 0,
        Some(_) => known.lease_transitions.unwrap_or_default().saturating_add(i32::from(!is_own)),
    };
    let metadata = lease.map_or_else(
        || ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(NAMESPACE.to_owned()),
            ..ObjectMeta::default()
        },
        |lease| lease.metadata.clone(),
    );
    let spec = LeaseSpec {
        holder_identity: Some(identity.to_owned()),
        lease_duration_seconds: Some(LEASE_S),
        acquire_time: if is_own { known.acquire_time.clone() } else { now.clone() },
        renew_time: now,
        lease_transitions: Some(transitions),
        ..known
    };
    Lease { metadata, spec: Some(spec) }
}

/// The Lease as it is given back, which Kubernetes' components understand as well.
fn released(lease: &Lease) -> Lease {
    let now = Some(MicroTime(clock::now()));
    let known = lease.spec.clone().unwrap_or_default();
    let spec = LeaseSpec {
        holder_identity: Some(String::new()),
        lease_duration_seconds: Some(1),
        acquire_time: now.clone(),
        renew_time: now,
        ..known
    };
    Lease { metadata: lease.metadata.clone(), spec: Some(spec) }
}

/// An answer, or that there was none in time.
async fn answered<T>(asking: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    let answer = tokio::time::timeout(ANSWER_LIMIT, asking).await;
    answer.unwrap_or_else(|_| Err(Error::Transport(format!("no answer within {ANSWER_LIMIT:?}"))))
}

impl Candidate {
    /// Of a host; `leases` has to have those of [`NAMESPACE`].
    pub fn new(
        name: &'static str,
        hostname: &str,
        (client, leases): (Client, Cache<Lease>),
        term: &Term,
        supervisor: &Supervisor,
    ) -> Self {
        let identity = format!("{hostname}_{}", random::uuid());
        let recorder = Recorder::new(client.clone(), supervisor, name, "");
        Self { name, client, leases, term: term.clone(), identity, recorder }
    }

    /// Leads whenever it can, until shutdown; then gives the Lease back, once nothing runs by it any more.
    pub async fn run(&self, shutdown: &Shutdown) -> Result<(), Stuck> {
        loop {
            let held = tokio::select! {
                held = self.acquire() => held,
                () = shutdown.requested() => return Ok(()),
            };
            tracing::info!(lease = self.name, identity = self.identity, "leads");
            self.tell(&held.lease, "became leader");
            let lease = self.hold(held, shutdown).await;
            if !self.term.end(PATIENCE, LIMIT).await {
                return Err(Stuck);
            }
            self.tell(&lease, "stopped leading");
            if shutdown.is_requested() {
                self.release(lease).await;
                return Ok(());
            }
            tracing::warn!(lease = self.name, "leads no longer");
        }
    }

    fn tell(&self, lease: &Lease, what: &str) {
        self.recorder.normal(lease, "LeaderElection", format!("{} {what}", self.identity));
    }

    /// Waits until the Lease can be had, and takes it.
    async fn acquire(&self) -> Held {
        self.leases.synced().await;
        let (mut seen, mut refused) = (Seen::default(), None);
        loop {
            let changed = self.leases.changed();
            let (lease, now) = (self.leases.get(NAMESPACE, self.name), clock::instant());
            let due = seen.look(lease.as_deref(), &self.identity, now).max(refused.unwrap_or(now));
            if due <= now {
                match self.take(lease.as_deref()).await {
                    Ok(held) => return held,
                    Err(error) => tracing::debug!(lease = self.name, %error, "could not be taken"),
                }
                refused = Some(clock::instant() + PAUSE + random::within(PAUSE));
                continue;
            }
            tokio::select! {
                () = changed => {}
                () = clock::until(Some(due)) => {}
            }
        }
    }

    /// Asks for the Lease as it was seen; refused if it has changed since.
    async fn take(&self, lease: Option<&Lease>) -> Result<Held, Error> {
        let (since, wanted) = (clock::instant(), taken(lease, self.name, &self.identity));
        let lease = match lease {
            Some(_) => answered(self.client.update(&wanted)).await?,
            None => answered(self.client.create(&wanted)).await?,
        };
        Ok(Held { lease, since })
    }

    /// Has the tasks run for as long as the Lease is renewed.
    async fn hold(&self, mut held: Held, shutdown: &Shutdown) -> Lease {
        self.term.begin(held.since + DEADLINE);
        loop {
            tokio::select! {
                () = clock::until(Some(held.since + RENEWAL)) => {}
                () = self.somebody_elses() => return held.lease,
                () = shutdown.requested() => return held.lease,
            }
            let renewed = tokio::select! {
                renewed = tokio::time::timeout_at(held.since + DEADLINE, self.renew(&held.lease)) => renewed,
                () = self.somebody_elses() => return held.lease,
                () = shutdown.requested() => return held.lease,
            };
            match renewed {
                Ok(Renewal::Done(renewed)) => {
                    held = *renewed;
                    self.term.prolong(held.since + DEADLINE);
                }
                Ok(Renewal::Lost) => return held.lease,
                Err(_) => {
                    tracing::warn!(lease = self.name, "could not be renewed in time");
                    return held.lease;
                }
            }
        }
    }

    /// Completes when the Lease is seen to be another's.
    async fn somebody_elses(&self) {
        loop {
            let changed = self.leases.changed();
            let lease = self.leases.get(NAMESPACE, self.name);
            if lease.is_some_and(|lease| !["", &self.identity].contains(&holder(&lease))) {
                return;
            }
            changed.await;
        }
    }

    /// Renews the Lease, however often that has to be tried.
    async fn renew(&self, lease: &Lease) -> Renewal {
        let mut known = Some(lease.clone());
        loop {
            let error = match self.take(known.as_ref()).await {
                Ok(held) => return Renewal::Done(Box::new(held)),
                Err(error) => error,
            };
            tracing::debug!(lease = self.name, %error, "could not be renewed");
            match answered(self.client.get::<Lease>(NAMESPACE, self.name)).await {
                // An answer was lost, or somebody has changed something else of it.
                Ok(current) if holder(&current) == self.identity => known = Some(current),
                Ok(_) => return Renewal::Lost,
                Err(error) if error.is_not_found() => known = None,
                Err(_) => {}
            }
            clock::sleep(PAUSE).await;
        }
    }

    /// Has the others begin at once.
    async fn release(&self, mut lease: Lease) {
        for _ in 0..2 {
            let error = match answered(self.client.update(&released(&lease))).await {
                Ok(_) => return,
                Err(error) => error,
            };
            tracing::debug!(lease = self.name, %error, "could not be given back");
            match answered(self.client.get::<Lease>(NAMESPACE, self.name)).await {
                Ok(current) if holder(&current) == self.identity => lease = current,
                _ => return,
            }
        }
    }
}
