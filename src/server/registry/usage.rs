//! How much there is of each kind, and how many watch it: what a request will cost.

use super::index::{Record, kind_of_key};
use crate::flow::Load;
use api::kinds::{KINDS, Kind};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU32, AtomicUsize, Ordering};

/// Watches at a time: each holds some kilobytes, and a thousand nodes have some tens each.
const WATCHES: usize = 100_000;

#[derive(Default)]
struct Usage {
    objects: AtomicI64,
    bytes: AtomicI64,
    watches: AtomicU32,
}

/// The usage of every stored kind.
pub(crate) struct Usages {
    kinds: HashMap<(&'static str, &'static str), Usage>,
    watches: AtomicUsize,
}

/// A watch that is counted for as long as this lives.
pub(crate) struct Watching {
    usages: Arc<Usages>,
    /// `None` for watches of one object, which see few of their kind's events.
    kind: Option<&'static Kind>,
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.usages.watches.fetch_sub(1, Ordering::Relaxed);
        if let Some(usage) = self.kind.and_then(|kind| self.usages.of(kind)) {
            usage.watches.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Usages {
    pub(super) fn new<'a>(records: impl Iterator<Item = &'a Arc<Record>>) -> Self {
        let kinds = KINDS.iter().map(|kind| ((kind.storage_group, kind.plural), Usage::default()));
        let usages = Self { kinds: kinds.collect(), watches: AtomicUsize::new(0) };
        records.for_each(|record| usages.wrote(None, Some(record)));
        usages
    }

    fn of(&self, kind: &Kind) -> Option<&Usage> {
        self.kinds.get(&(kind.storage_group, kind.plural))
    }

    /// Follows a write.
    pub(super) fn wrote(&self, before: Option<&Record>, now: Option<&Record>) {
        let Some(record) = now.or(before) else { return };
        let Some(usage) = kind_of_key(&record.key).and_then(|kind| self.of(kind)) else { return };
        let count = |record: Option<&Record>| i64::from(record.is_some());
        let bytes = |record: Option<&Record>| {
            record.map_or(0, |record| i64::try_from(record.value.len()).unwrap_or(i64::MAX))
        };
        usage.objects.fetch_add(count(now) - count(before), Ordering::Relaxed);
        usage.bytes.fetch_add(bytes(now) - bytes(before), Ordering::Relaxed);
    }

    pub(crate) fn load(&self, kind: &Kind) -> Load {
        let Some(usage) = self.of(kind) else { return Load::default() };
        let number = |number: &AtomicI64| u64::try_from(number.load(Ordering::Relaxed)).unwrap_or(0);
        Load {
            objects: number(&usage.objects),
            bytes: number(&usage.bytes),
            watches: usage.watches.load(Ordering::Relaxed),
        }
    }

    /// Counts a watch, if there is room for one more.
    pub(super) fn watch(self: &Arc<Self>, kind: &'static Kind, of_one: bool) -> Option<Watching> {
        let room = |count: usize| (count < WATCHES).then_some(count + 1);
        self.watches.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room).ok()?;
        let kind = Some(kind).filter(|_| !of_one);
        if let Some(usage) = kind.and_then(|kind| self.of(kind)) {
            usage.watches.fetch_add(1, Ordering::Relaxed);
        }
        Some(Watching { usages: self.clone(), kind })
    }

    /// Kinds by resource, and how many objects of each there are.
    pub(crate) fn objects(&self) -> Vec<(String, u64)> {
        let mut all: Vec<(String, u64)> = KINDS
            .iter()
            .filter(|kind| kind.stored() && kind.group == kind.storage_group)
            .map(|kind| (kind.resource(), self.load(kind).objects))
            .collect();
        all.sort();
        all
    }
}
