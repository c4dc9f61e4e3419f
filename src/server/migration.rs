//! Brings a whole state to a place where there is none: from a server's own database to an etcd or back, or from a
//! snapshot. No server runs meanwhile.

use crate::registry::{Index, Records, decoded, encode, index};
use crate::{Error, Remote, Sealing, Storage, Vault};
use base::{Supervisor, clock};
use futures_util::{StreamExt, TryStreamExt, stream};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use store::{Change, Durability, Expect, Snapshot, Write};

/// How many objects are written at the same time.
const WRITES: usize = 64;
/// The Leases that running servers renew (KEP-1965).
const IDENTITIES: &str = "leases.coordination.k8s.io/kube-system/";
const IDENTITY_LABEL: &str = "apiserver.kubernetes.io/identity";
/// A server that has not renewed its Lease for so long does not run.
const STOPPED_AFTER: Duration = Duration::from_secs(60);

/// The whole state at one revision.
pub struct State(Snapshot<Index>);

impl State {
    pub(crate) fn of(snapshot: Snapshot<Index>) -> Self {
        Self(snapshot)
    }

    /// Its revision.
    pub fn revision(&self) -> u64 {
        self.0.revision()
    }

    /// How many objects it has.
    pub fn count(&self) -> usize {
        self.0.count("")
    }

    /// Keys, and objects in JSON.
    pub fn objects(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.0.range("", None).map(|record| (&*record.key, &*record.value))
    }
}

/// What was brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Brought {
    /// How many objects.
    pub objects: usize,
    /// The revision from which on the cluster goes on.
    pub revision: u64,
}

/// The state of a place whose servers are stopped.
pub async fn state_of(
    from: &Storage,
    sealing: &Arc<Sealing>,
    supervisor: &Supervisor,
) -> Result<State, Error> {
    let source = open(from, sealing, supervisor).await?;
    if matches!(from, Storage::Etcd(_)) {
        refuse_running(&source)?;
    }
    Ok(State(source.snapshot()))
}

/// Writes objects, keys with JSON, to a place that has none yet. Its revisions go on behind one, so that clients who
/// were there before understand what comes.
pub async fn bring(
    (to, sealing): (&Storage, &Arc<Sealing>),
    behind: u64,
    objects: impl Iterator<Item = Result<(String, Vec<u8>), String>>,
    supervisor: &Supervisor,
) -> Result<Brought, Error> {
    prepare(to, behind).await?;
    let target = open(to, sealing, supervisor).await?;
    let writes = stream::iter(objects).map(|object| write(&target, object)).buffer_unordered(WRITES);
    let objects = writes.try_fold(0, |count, ()| std::future::ready(Ok(count + 1))).await?;
    target.catch_up().await.map_err(|refusal| Error::Migration(refusal.message))?;
    let arrived = State(target.snapshot());
    if arrived.count() != objects {
        return Err(Error::Migration(format!(
            "{objects} objects were brought, and {} are there",
            arrived.count()
        )));
    }
    Ok(Brought { objects, revision: arrived.revision() })
}

async fn open(storage: &Storage, sealing: &Arc<Sealing>, supervisor: &Supervisor) -> Result<Records, Error> {
    let config = |path| store::Config { sealer: sealing.clone(), ..store::Config::new(path) };
    Ok(match storage {
        Storage::File(path) => Records::open(config(path.clone()), supervisor).await?,
        Storage::Etcd(remote) => Records::share(remote, &config(PathBuf::new()), supervisor).await?,
    })
}

/// Has a place that nothing is in yet count on from a revision.
async fn prepare(to: &Storage, behind: u64) -> Result<(), Error> {
    match to {
        Storage::File(path) if path.exists() => Err(occupied(to)),
        Storage::File(path) => Ok(store::begin_behind(&store::Config::new(path), behind)?),
        Storage::Etcd(remote) => {
            let vault = Vault::new(remote)?;
            if vault.is_empty().await? && vault.begin_behind(behind).await? {
                Ok(())
            } else {
                Err(occupied(to))
            }
        }
    }
}

fn occupied(to: &Storage) -> Error {
    Error::Migration(match to {
        Storage::File(path) => format!(
            "{} is there already: move it away first, or what it has would be mixed with what is brought",
            path.display()
        ),
        Storage::Etcd(Remote { prefix, .. }) => format!(
            "etcd has keys that start with {prefix} already: name another --datastore-prefix, or remove what an unfinished attempt left there (etcdctl del --prefix {prefix})"
        ),
    })
}

/// What a running server writes meanwhile would be lost.
fn refuse_running(source: &Records) -> Result<(), Error> {
    let snapshot = source.snapshot();
    for record in snapshot.range(IDENTITIES, None) {
        let lease = decoded(record).unwrap_or_default();
        if lease["metadata"]["labels"].get(IDENTITY_LABEL).is_none() {
            continue;
        }
        let holder = lease["spec"]["holderIdentity"].as_str().unwrap_or_default();
        let renewed =
            lease["spec"]["renewTime"].as_str().and_then(|time| time.parse::<jiff::Timestamp>().ok());
        let runs = renewed.is_some_and(|renewed| clock::between(renewed, clock::now()) < STOPPED_AFTER);
        if runs && !holder.is_empty() {
            return Err(Error::Migration(format!(
                "the server {holder} wrote to the datastore less than a minute ago: stop all servers first"
            )));
        }
    }
    Ok(())
}

async fn write(target: &Records, object: Result<(String, Vec<u8>), String>) -> Result<(), Error> {
    let (key, value) = object.map_err(Error::Migration)?;
    let unread = |why: &dyn std::fmt::Display| Error::Migration(format!("{key}: {why}"));
    let object = serde_json::from_slice(&value).map_err(|error| unread(&error))?;
    let change = Change::Put(encode::template(&object), index(&key, &value));
    let write = Write { key: key.clone(), expect: Expect::Absent, change, durability: Durability::Durable };
    target.write(write).await.map(drop).map_err(|error| unread(&error))
}
