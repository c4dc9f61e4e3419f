//! How much there is of each kind, and how many watch it: what a request will cost.

use super::index::{NODE, Record, kind_of_key};
use crate::flow::Load;
use api::kinds::{KINDS, Kind};
use api::selector::Fields;
use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

/// Watches at a time: each holds some kilobytes, and a thousand nodes have some tens each.
const WATCHES: usize = 100_000;

#[derive(Default)]
struct Usage {
    objects: AtomicI64,
    bytes: AtomicI64,
    /// By the namespace and the name of what is watched, each "" for all.
    watches: Mutex<HashMap<Watched, u32>>,
}

/// Which of a kind's objects a watch sees.
type Watched = (Box<str>, Box<str>);

/// The usage of every stored kind.
pub(crate) struct Usages {
    kinds: HashMap<(&'static str, &'static str), Arc<Usage>>,
    /// Custom kinds that were written or watched, by their resource.
    others: RwLock<HashMap<String, Arc<Usage>>>,
    watches: AtomicUsize,
}

impl Usage {
    /// What there is; who watches is not counted.
    fn load(&self) -> Load {
        let number = |number: &AtomicI64| u64::try_from(number.load(Ordering::Relaxed)).unwrap_or(0);
        Load { objects: number(&self.objects), bytes: number(&self.bytes), watches: 0 }
    }

    fn watches(&self) -> MutexGuard<'_, HashMap<Watched, u32>> {
        self.watches.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A watch that is counted for as long as this lives.
pub(crate) struct Watching {
    usages: Arc<Usages>,
    /// `None` for watches that see few of their kind's events.
    of: Option<(&'static Kind, Watched)>,
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.usages.watches.fetch_sub(1, Ordering::Relaxed);
        let Some((kind, watched)) = &self.of else { return };
        let usage = self.usages.of(kind);
        let mut watches = usage.watches();
        if let Some(count) = watches.get_mut(watched) {
            *count -= 1;
            if *count == 0 {
                watches.remove(watched);
            }
        }
    }
}

impl Default for Usages {
    fn default() -> Self {
        let kinds = KINDS.iter().map(|kind| ((kind.storage_group, kind.plural), Arc::default()));
        Self { kinds: kinds.collect(), others: RwLock::default(), watches: AtomicUsize::new(0) }
    }
}

impl Usages {
    fn of(&self, kind: &Kind) -> Arc<Usage> {
        match self.kinds.get(&(kind.storage_group, kind.plural)) {
            Some(usage) => usage.clone(),
            None => self.other(&kind.resource()),
        }
    }

    fn other(&self, resource: &str) -> Arc<Usage> {
        if let Some(usage) = self.others.read().unwrap_or_else(PoisonError::into_inner).get(resource) {
            return usage.clone();
        }
        let mut others = self.others.write().unwrap_or_else(PoisonError::into_inner);
        others.entry(resource.to_owned()).or_default().clone()
    }

    /// Follows a write.
    pub(super) fn wrote(&self, before: Option<&Record>, now: Option<&Record>) {
        let Some(record) = now.or(before) else { return };
        let usage = match (kind_of_key(&record.key), record.key.split_once('/')) {
            (Some(kind), _) => self.of(kind),
            (None, Some((resource, _))) => self.other(resource),
            (None, None) => return,
        };
        let count = |record: Option<&Record>| i64::from(record.is_some());
        let bytes = |record: Option<&Record>| {
            record.map_or(0, |record| i64::try_from(record.value.len()).unwrap_or(i64::MAX))
        };
        usage.objects.fetch_add(count(now) - count(before), Ordering::Relaxed);
        usage.bytes.fetch_add(bytes(now) - bytes(before), Ordering::Relaxed);
    }

    pub(crate) fn load(&self, kind: &Kind) -> Load {
        self.of(kind).load()
    }

    /// The load of a write to an object of a namespace: who watches the kind, the namespace or the object.
    pub(crate) fn load_of_write(&self, kind: &Kind, namespace: &str, name: &str) -> Load {
        let usage = self.of(kind);
        let watches = usage.watches();
        let count =
            |namespace: &str, name: &str| watches.get(&(namespace.into(), name.into())).copied().unwrap_or(0);
        let of_namespace = if namespace.is_empty() { 0 } else { count(namespace, "") };
        let of_object = if name.is_empty() { 0 } else { count(namespace, name) };
        Load { watches: count("", "") + of_namespace + of_object, ..usage.load() }
    }

    /// Counts a watch, if there is room for one more. Those that see the objects of one node alone cost
    /// writers next to nothing.
    pub(super) fn watch(
        self: &Arc<Self>,
        kind: &'static Kind,
        namespace: &str,
        fields: &Fields,
    ) -> Option<Watching> {
        let room = |count: usize| (count < WATCHES).then_some(count + 1);
        self.watches.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room).ok()?;
        let of_node = fields.required(NODE).is_some_and(|node| !node.is_empty());
        let name = fields.required("metadata.name").unwrap_or_default();
        let of = (!of_node).then(|| (kind, (namespace.into(), name.into())));
        if let Some((kind, watched)) = &of {
            *self.of(kind).watches().entry(watched.clone()).or_default() += 1;
        }
        Some(Watching { usages: self.clone(), of })
    }

    /// Kinds by resource, and how many objects of each there are.
    pub(crate) fn objects(&self) -> Vec<(String, u64)> {
        let mut all: Vec<(String, u64)> = KINDS
            .iter()
            .filter(|kind| kind.stored() && kind.group == kind.storage_group)
            .map(|kind| (kind.resource(), self.load(kind).objects))
            .collect();
        let others = self.others.read().unwrap_or_else(PoisonError::into_inner);
        all.extend(others.iter().map(|(resource, usage)| (resource.clone(), usage.load().objects)));
        all.sort();
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::kinds::by_kind;

    #[test]
    fn writes_set_off_events_for_those_who_see_the_object() {
        let usages = Arc::new(Usages::default());
        let pods = by_kind("v1", "Pod").unwrap();
        let watch = |namespace: &str, fields: Fields| usages.watch(pods, namespace, &fields).unwrap();
        let everything = watch("", Fields::default());
        let _web = watch("web", Fields::default());
        let _one = watch("web", Fields::of("metadata.name", "a"));
        let _of_node = watch("", Fields::of("spec.nodeName", "n"));
        let watched = |namespace: &str, name: &str| usages.load_of_write(pods, namespace, name).watches;
        assert_eq!([watched("web", "a"), watched("web", ""), watched("other", "a")], [3, 2, 1]);
        drop(everything);
        assert_eq!([watched("web", "b"), watched("other", "a")], [1, 0]);
    }
}
