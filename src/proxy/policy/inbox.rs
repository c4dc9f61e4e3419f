//! What the caches and the kubelet tell, until it is taken.

use crate::policy::state::{Known, Name};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use tokio::sync::{Notify, oneshot};

/// A pod whose addresses are known, and who waits for the table to have them.
pub(super) struct Announced {
    pub(super) name: Name,
    pub(super) pod: Known,
    pub(super) done: oneshot::Sender<()>,
}

/// What there is to be done.
#[derive(Default)]
pub(super) struct Work {
    pub(super) policies: bool,
    pub(super) namespaces: BTreeSet<String>,
    /// Pods that changed; of those that went, the uid.
    pub(super) pods: BTreeMap<Name, Option<String>>,
    pub(super) announced: Vec<Announced>,
}

#[derive(Default)]
pub(super) struct Inbox {
    work: Mutex<Work>,
    wake: Notify,
}

impl Inbox {
    pub(super) fn note(&self, add: impl FnOnce(&mut Work)) {
        add(&mut self.work.lock().unwrap_or_else(PoisonError::into_inner));
        self.wake.notify_one();
    }

    pub(super) fn take(&self) -> Work {
        std::mem::take(&mut self.work.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) async fn woken(&self) {
        self.wake.notified().await;
    }
}
