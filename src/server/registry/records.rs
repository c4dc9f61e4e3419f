//! The store as the rooms' parts see it: records of objects, and when groups of kinds last changed.

use super::index::{Index, index};
use super::usage::Usages;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use store::{Snapshot, Store, Write, WriteError, Written};

/// Groups of kinds of which a compiled form is kept, that is renewed exactly when needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Followed {
    Access,
    Flow,
}

/// What stands in their keys.
const FOLLOWED: [(Followed, &str); 2] =
    [(Followed::Access, ".rbac.authorization.k8s.io/"), (Followed::Flow, ".flowcontrol.apiserver.k8s.io/")];

/// The store of objects. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Records {
    store: Store<Index>,
    /// The revision of the last write to each followed group.
    changed: Arc<[AtomicU64; FOLLOWED.len()]>,
    usages: Arc<Usages>,
}

impl Records {
    /// Opens the database.
    pub(crate) async fn open(
        config: store::Config,
        supervisor: &base::Supervisor,
    ) -> Result<Self, store::Error> {
        let store = Store::open(config, index, supervisor).await?;
        let changed = Arc::new(FOLLOWED.map(|_| AtomicU64::new(store.revision())));
        let usages = Arc::new(Usages::new(store.snapshot().range("", None)));
        Ok(Self { store, changed, usages })
    }

    pub(crate) fn store(&self) -> &Store<Index> {
        &self.store
    }

    pub(crate) fn snapshot(&self) -> Snapshot<Index> {
        self.store.snapshot()
    }

    /// How much there is of each kind, and how many watch it.
    pub(crate) fn usages(&self) -> &Arc<Usages> {
        &self.usages
    }

    /// When a kind of the group was last written.
    pub(crate) fn changed(&self, group: Followed) -> u64 {
        self.changed[group as usize].load(Ordering::Acquire)
    }

    /// Makes one change.
    pub(crate) async fn write(&self, write: Write<Index>) -> Result<Written<Index>, WriteError<Index>> {
        let group = FOLLOWED.iter().find(|(_, part)| write.key.contains(part));
        let deletes = matches!(write.change, store::Change::Delete(..));
        let written = self.store.write(write).await?;
        let now = (!deletes).then_some(&*written.record);
        self.usages.wrote(written.previous.as_deref(), now);
        if let Some((group, _)) = group {
            self.changed[*group as usize].fetch_max(written.record.revision, Ordering::AcqRel);
        }
        Ok(written)
    }
}
