//! The store as the rooms' parts see it: records of objects, and when groups of kinds last changed.

use super::index::{Index, index};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use store::{Snapshot, Store, Write, WriteError, Written};

/// The store of objects. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Records {
    store: Store<Index>,
    /// The revision of the last write to a role or binding, so that their compiled form is renewed
    /// exactly when needed.
    access_revision: Arc<AtomicU64>,
}

const ACCESS_GROUP: &str = ".rbac.authorization.k8s.io/";

impl Records {
    /// Opens the database.
    pub(crate) async fn open(
        config: store::Config,
        supervisor: &base::Supervisor,
    ) -> Result<Self, store::Error> {
        let store = Store::open(config, index, supervisor).await?;
        let access_revision = Arc::new(AtomicU64::new(store.revision()));
        Ok(Self { store, access_revision })
    }

    pub(crate) fn store(&self) -> &Store<Index> {
        &self.store
    }

    pub(crate) fn snapshot(&self) -> Snapshot<Index> {
        self.store.snapshot()
    }

    /// When a role or binding was last written.
    pub(crate) fn access_revision(&self) -> u64 {
        self.access_revision.load(Ordering::Acquire)
    }

    /// Makes one change.
    pub(crate) async fn write(&self, write: Write<Index>) -> Result<Written<Index>, WriteError<Index>> {
        let access = write.key.contains(ACCESS_GROUP);
        let written = self.store.write(write).await?;
        if access {
            self.access_revision.fetch_max(written.record.revision, Ordering::AcqRel);
        }
        Ok(written)
    }
}
