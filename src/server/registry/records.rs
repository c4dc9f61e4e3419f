//! The store as the rooms' parts see it: records of objects, and when groups of kinds last changed.

use super::index::{Index, index};
use super::on_nodes::OnNodes;
use super::render::in_protobuf;
use super::usage::Usages;
use crate::catalogue::{Catalogue, Compiled};
use crate::egress::Ways;
use api::status::Refusal;
use base::{Phase, Restart, Shutdown, Supervisor};
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use store::{Change, Event, Guard, Observer, Snapshot, Store, Unwritten, Write, WriteError, Written};

/// How long a read waits for a revision that is still to come.
const FRESH_LIMIT: Duration = Duration::from_secs(3);

/// The largest object (the limit of requests to etcd).
const OBJECT_BYTES: usize = 1_572_864;

/// Groups of kinds of which a compiled form is kept, that is renewed exactly when needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Followed {
    Access,
    Admission,
    Flow,
    Definitions,
    Registration,
}

const DEFINITIONS: &str = "customresourcedefinitions.apiextensions.k8s.io/";
/// What stands in their keys.
const FOLLOWED: [(Followed, &str); 5] = [
    (Followed::Access, ".rbac.authorization.k8s.io/"),
    (Followed::Admission, ".admissionregistration.k8s.io/"),
    (Followed::Flow, ".flowcontrol.apiserver.k8s.io/"),
    (Followed::Definitions, DEFINITIONS),
    (Followed::Registration, ".apiregistration.k8s.io/"),
];

type Changed = [AtomicU64; FOLLOWED.len()];

/// The store of objects. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Records {
    store: Store<Index>,
    /// The revision of the last write to each followed group.
    changed: Arc<Changed>,
    usages: Arc<Usages>,
    on_nodes: Arc<OnNodes>,
    compiled: Arc<Compiled>,
    /// Whether other servers write, too.
    shared: bool,
    ways: Ways,
}

impl Records {
    /// Opens the database.
    pub(crate) async fn open(config: store::Config, supervisor: &Supervisor) -> Result<Self, store::Error> {
        let counts = Counts::default();
        let store = Store::open(config, index, counts.observer(), supervisor).await?;
        Ok(Self::of(store, counts, false))
    }

    /// Joins the servers that share an etcd.
    pub(crate) async fn share(
        remote: &store::Remote,
        config: &store::Config,
        supervisor: &Supervisor,
    ) -> Result<Self, store::Error> {
        let counts = Counts::default();
        let store = Store::share(remote, config, (index, counts.observer()), supervisor).await?;
        let records = Self::of(store, counts, true);
        let following = records.clone();
        supervisor.run("definitions of custom kinds", Phase::Work, Restart::OnFailure, move |shutdown| {
            following.clone().follow_definitions(shutdown)
        });
        Ok(records)
    }

    fn of(store: Store<Index>, counts: Counts, shared: bool) -> Self {
        let Counts { changed, usages, on_nodes } = counts;
        changed.iter().for_each(|revision| revision.store(store.revision(), Ordering::Release));
        for record in store.snapshot().range("", None) {
            usages.wrote(None, Some(record));
            on_nodes.wrote(None, Some(record));
        }
        Self { store, changed, usages, on_nodes, compiled: Arc::default(), shared, ways: Ways::default() }
    }

    /// Ends the watches of custom kinds whose definitions other servers removed.
    async fn follow_definitions(self, shutdown: Shutdown) -> Result<(), store::WatchError> {
        let mut watch = self.store.watch(DEFINITIONS, self.store.revision())?;
        loop {
            let events = tokio::select! {
                events = watch.next() => events?,
                () = shutdown.requested() => return Ok(()),
            };
            if events.iter().any(|event| event.deleted) {
                self.catalogue().added();
            }
        }
    }

    /// Whether other servers write, too: what this one counts of its own writes is not all there is.
    pub(crate) fn is_shared(&self) -> bool {
        self.shared
    }

    /// The same objects, where what they name is reached so.
    pub(crate) fn reached_by(self, ways: Ways) -> Self {
        Self { ways, ..self }
    }

    /// How what objects name is reached.
    pub(crate) fn ways(&self) -> &Ways {
        &self.ways
    }

    /// Waits until the state here has all that any server acknowledged before.
    pub(crate) async fn catch_up(&self) -> Result<(), Refusal> {
        self.store.catch_up().await.map_err(Refusal::internal)
    }

    pub(crate) fn store(&self) -> &Store<Index> {
        &self.store
    }

    pub(crate) fn snapshot(&self) -> Snapshot<Index> {
        self.store.snapshot()
    }

    /// The kinds that are served.
    pub(crate) fn catalogue(&self) -> Catalogue<'_> {
        Catalogue { records: self, compiled: &self.compiled }
    }

    /// The same objects, for what definitions themselves need: it must not hold them.
    pub(crate) fn without_definitions(&self) -> Self {
        Self { compiled: Arc::default(), ..self.clone() }
    }

    /// How much there is of each kind, and how many watch it.
    pub(crate) fn usages(&self) -> &Arc<Usages> {
        &self.usages
    }

    /// Which objects are on which node.
    pub(crate) fn on_nodes(&self) -> &OnNodes {
        &self.on_nodes
    }

    /// A state at least as new as a revision, or the newest after some waiting.
    pub(crate) async fn reach(&self, revision: u64) -> Snapshot<Index> {
        let snapshot = self.snapshot();
        if snapshot.revision() >= revision {
            return snapshot;
        }
        if tokio::time::timeout(FRESH_LIMIT, self.store.reach(revision)).await.is_err() {
            tracing::debug!(revision, "a revision that was asked for has not come about");
        }
        self.snapshot()
    }

    /// When a kind of the group was last written.
    pub(crate) fn changed(&self, group: Followed) -> u64 {
        self.changed[group as usize].load(Ordering::Acquire)
    }

    /// Makes one change.
    pub(crate) async fn write(&self, write: Write<Index>) -> Result<Written<Index>, WriteError<Index>> {
        if too_large(&write.change) {
            return Err(WriteError::TooLarge);
        }
        let ends = matches!(write.change, Change::Delete(..)) && write.key.contains(DEFINITIONS);
        let written = self.store.write(write).await?;
        if ends {
            // Who watches its objects waits for this.
            self.catalogue().added();
        }
        Ok(written)
    }
}

impl Records {
    /// Makes one change if nobody made one under the names of a guard since ([`Store::write_guarded`]).
    pub(crate) async fn write_guarded(
        &self,
        write: Write<Index>,
        guard: &Guard,
    ) -> Result<Written<Index>, Unwritten<Index>> {
        if too_large(&write.change) {
            return Err(Unwritten::Refused(WriteError::TooLarge));
        }
        self.store.write_guarded(write, guard).await
    }
}

/// What is counted as it is written.
#[derive(Default)]
struct Counts {
    changed: Arc<Changed>,
    usages: Arc<Usages>,
    on_nodes: Arc<OnNodes>,
}

impl Counts {
    /// Counts what is written, and notes where.
    fn observer(&self) -> Observer<Index> {
        let (changed, usages, on_nodes) = (self.changed.clone(), self.usages.clone(), self.on_nodes.clone());
        Box::new(move |event: &Event<Index>| {
            let now = (!event.deleted).then_some(&*event.record);
            usages.wrote(event.previous.as_deref(), now);
            on_nodes.wrote(event.previous.as_deref(), now);
            if let Some((group, _)) = FOLLOWED.iter().find(|(_, part)| event.record.key.contains(part)) {
                changed[*group as usize].store(event.revision(), Ordering::Release);
            }
        })
    }
}

/// Whether an object is larger than what Kubernetes' store takes. That keeps protobuf, which is smaller.
fn too_large(change: &Change<Index>) -> bool {
    let Change::Put(template, _) = change else { return false };
    if template.bytes.len() <= OBJECT_BYTES {
        return false;
    }
    let bytes = Bytes::copy_from_slice(&template.bytes);
    in_protobuf(&bytes).is_none_or(|encoded| encoded.len() > OBJECT_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::encode;
    use futures_util::FutureExt;
    use serde_json::json;
    use store::{Durability, Expect};

    /// A write whose caller has gone counts as any other, and before anybody hears of it.
    #[tokio::test]
    async fn what_is_written_is_counted_for_whoever_hears_of_it() {
        let folder = std::env::temp_dir().join(format!("knarr-records-{}", std::process::id()));
        std::fs::remove_dir_all(&folder).ok();
        let supervisor = Supervisor::new();
        let records = Records::open(store::Config::new(folder.join("state.db")), &supervisor).await.unwrap();
        let mut watch = records.store().watch("", records.store().revision()).unwrap();
        let object = json!({"metadata": {"name": "a", "uid": "u"}});
        let write = Write {
            key: "customresourcedefinitions.apiextensions.k8s.io/a".to_owned(),
            expect: Expect::Absent,
            change: Change::Put(encode::template(&object), Index::of(None, &object)),
            durability: Durability::Volatile,
        };
        // The caller has gone, unless the writer was faster.
        drop(records.write(write).now_or_never());
        let revision = watch.next().await.unwrap()[0].revision();
        assert_eq!(records.changed(Followed::Definitions), revision);
        supervisor.drain().await;
        std::fs::remove_dir_all(&folder).ok();
    }
}
