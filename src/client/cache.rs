//! A decoded copy of one kind, kept current by a watch, read without a lock.

use crate::watch::Named;
use api::Object;
use arc_swap::ArcSwap;
use imbl::OrdMap;
use std::any::Any;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// How long [`Cache::reached`] waits at the most: a watch that is being renewed takes less.
const REACHED_LIMIT: Duration = Duration::from_secs(10);
/// How long [`Cache::deletion_seen`] waits at the most.
const DELETION_SEEN_LIMIT: Duration = Duration::from_secs(10);

/// What happened to one object: `old` is absent when it is new, `new` when it is gone.
#[derive(Debug)]
pub struct Change<T> {
    /// The object before.
    pub old: Option<Arc<T>>,
    /// The object now.
    pub new: Option<Arc<T>>,
}

impl<T> Change<T> {
    /// The object now, or as it last was.
    ///
    /// # Panics
    /// Never for a change that came from a cache: those have at least one side.
    pub fn object(&self) -> &Arc<T> {
        self.new.as_ref().or(self.old.as_ref()).expect("a change has an object on one side")
    }
}

/// One object, an `Arc<T>` of its cache's kind. There are more than a hundred kinds: what need not know them does not, so
/// that it is compiled once.
#[derive(Clone)]
struct Held {
    object: Arc<dyn Any + Send + Sync>,
    revision: u64,
}

impl Held {
    fn of<T: Object>(object: T) -> Self {
        let revision = object.revision();
        Self { object: Arc::new(Arc::new(object)), revision }
    }

    fn typed<T: Object>(&self) -> &Arc<T> {
        self.object.downcast_ref().expect("a cache holds objects of its own kind alone")
    }
}

/// What happened to one object; at least one side is there.
struct Delta {
    old: Option<Held>,
    new: Option<Held>,
}

type Handler = Box<dyn Fn(&Delta) + Send + Sync>;

/// Objects by namespace and name.
type Objects = OrdMap<Box<str>, Held>;

/// Objects at one revision.
#[derive(Default)]
struct State {
    objects: Objects,
    revision: u64,
}

/// All objects of a kind at one revision. Cheap to clone.
pub struct Snapshot<T> {
    state: Arc<State>,
    kind: PhantomData<fn() -> T>,
}

impl<T> Clone for Snapshot<T> {
    fn clone(&self) -> Self {
        Self { state: self.state.clone(), kind: PhantomData }
    }
}

impl<T: Object> Snapshot<T> {
    /// One object.
    pub fn get(&self, namespace: &str, name: &str) -> Option<&Arc<T>> {
        self.state.objects.get(key(namespace, name).as_ref()).map(Held::typed)
    }

    /// All objects, ordered by namespace and name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<T>> {
        self.state.objects.values().map(Held::typed)
    }

    /// All objects of one namespace, ordered by name.
    pub fn in_namespace(&self, namespace: &str) -> impl Iterator<Item = &Arc<T>> {
        let start = format!("{namespace}/").into_boxed_str();
        let end = format!("{namespace}0").into_boxed_str();
        self.state.objects.range(start..end).map(|(_, held)| held.typed())
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.state.objects.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.state.objects.is_empty()
    }

    /// The revision up to which everything is in.
    pub fn revision(&self) -> u64 {
        self.state.revision
    }
}

struct Inner {
    state: ArcSwap<State>,
    handlers: Mutex<Vec<Handler>>,
    /// The revision of the state; 0 before the first list.
    seen: watch::Sender<u64>,
    /// Counts the changes.
    changes: watch::Sender<u64>,
}

impl Inner {
    async fn seen(&self, revision: u64) {
        let mut seen = self.seen.subscribe();
        // The sender lives in this very cache, so that waiting cannot fail.
        if seen.wait_for(|now| *now >= revision).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    async fn reached(&self, kind: &str, revision: u64) {
        if tokio::time::timeout(REACHED_LIMIT, self.seen(revision)).await.is_err() {
            tracing::warn!(kind, revision, "the watch lags behind a write; going on without it");
        }
    }

    fn apply(&self, key: Box<str>, new: Held) {
        self.swap(new.revision, &mut |objects| {
            let old = objects.insert(key.clone(), new.clone());
            vec![Delta { old, new: Some(new.clone()) }]
        });
    }

    fn remove(&self, gone: &Named) {
        self.swap(gone.revision, &mut |objects| {
            let old = objects.remove(key(&gone.namespace, &gone.name).as_ref());
            old.into_iter().map(|old| Delta { old: Some(old), new: None }).collect()
        });
    }

    fn replace(&self, items: &mut dyn Iterator<Item = (Box<str>, Held)>, revision: u64) {
        self.swap(revision, &mut |objects| {
            let before = std::mem::take(objects);
            let mut changes = Vec::new();
            for (key, item) in &mut *items {
                let old = before.get(&key).cloned();
                match old.as_ref().filter(|old| old.revision == item.revision) {
                    Some(same) => _ = objects.insert(key, same.clone()),
                    None => {
                        objects.insert(key, item.clone());
                        changes.push(Delta { old, new: Some(item) });
                    }
                }
            }
            let gone = before.iter().filter(|(key, _)| !objects.contains_key(*key));
            changes.extend(gone.map(|(_, old)| Delta { old: Some(old.clone()), new: None }));
            changes
        });
    }

    fn progress(&self, revision: u64) {
        self.swap(revision, &mut |_| Vec::new());
    }

    fn swap(&self, revision: u64, edit: &mut dyn FnMut(&mut Objects) -> Vec<Delta>) {
        let handlers = self.handlers.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.state.load_full();
        let mut objects = now.objects.clone();
        let changes = edit(&mut objects);
        self.state.store(Arc::new(State { objects, revision: revision.max(now.revision) }));
        for change in &changes {
            handlers.iter().for_each(|handler| handler(change));
        }
        if !changes.is_empty() {
            self.changes.send_modify(|count| *count += 1);
        }
        self.seen.send_modify(|seen| *seen = revision.max(*seen));
    }
}

/// A decoded copy of one kind. Cheap to clone; every clone is the same cache.
pub struct Cache<T>(Arc<Inner>, PhantomData<fn() -> T>);

impl<T> Clone for Cache<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone(), PhantomData)
    }
}

fn key(namespace: &str, name: &str) -> Box<str> {
    format!("{namespace}/{name}").into_boxed_str()
}

impl<T: Object> Cache<T> {
    pub(crate) fn empty() -> Self {
        let inner = Inner {
            state: ArcSwap::default(),
            handlers: Mutex::default(),
            seen: watch::channel(0).0,
            changes: watch::channel(0).0,
        };
        Self(Arc::new(inner), PhantomData)
    }

    /// A cache of these objects, which nothing keeps current.
    pub fn of(objects: impl IntoIterator<Item = T>) -> Self {
        let cache = Self::empty();
        cache.replace(objects, 1);
        cache
    }

    /// One object.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<T>> {
        self.0.state.load().objects.get(key(namespace, name).as_ref()).map(|held| held.typed::<T>().clone())
    }

    /// Everything, as of now.
    pub fn snapshot(&self) -> Snapshot<T> {
        Snapshot { state: self.0.state.load_full(), kind: PhantomData }
    }

    /// Completes once the first list is in.
    pub async fn synced(&self) {
        self.0.seen(1).await;
    }

    /// Completes once this cache has seen everything of its kind up to this resourceVersion. Called
    /// after a write, so that a controller never acts on a cache older than its own writes. Gives up
    /// waiting after ten seconds, when the watch must be broken.
    pub async fn reached(&self, revision: u64) {
        self.0.reached(T::KIND, revision).await;
    }

    /// Calls `handler` for every object already there and then for every change, in order, from the
    /// reflector: it must not block.
    pub fn on_change(&self, handler: impl Fn(&Change<T>) + Send + Sync + 'static) {
        let mut handlers = self.0.handlers.lock().unwrap_or_else(PoisonError::into_inner);
        for object in self.snapshot().iter() {
            handler(&Change { old: None, new: Some(object.clone()) });
        }
        handlers.push(Box::new(move |delta| {
            let typed = |held: &Option<Held>| held.as_ref().map(|held| held.typed::<T>().clone());
            handler(&Change { old: typed(&delta.old), new: typed(&delta.new) });
        }));
    }

    /// Wakes after any change later than this call; several changes may wake once.
    pub fn changed(&self) -> impl Future<Output = ()> + Send + use<T> {
        let mut changes = self.0.changes.subscribe();
        async move {
            if changes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Completes once this cache shows that an object is gone or going: what is waited for after it was
    /// deleted, so that it is not counted again.
    pub async fn deletion_seen(&self, namespace: &str, name: &str, uid: &str) {
        let seen = async {
            loop {
                let changed = self.changed();
                let there = self.get(namespace, name);
                if there.is_none_or(|object| object.uid() != uid || object.is_deleting()) {
                    return;
                }
                changed.await;
            }
        };
        if tokio::time::timeout(DELETION_SEEN_LIMIT, seen).await.is_err() {
            tracing::warn!(
                kind = T::KIND,
                namespace,
                name,
                "the watch lags behind a deletion; going on without it"
            );
        }
    }

    /// Takes one object from the watch.
    pub(crate) fn apply(&self, object: T) {
        self.0.apply(key(object.namespace(), object.name()), Held::of(object));
    }

    /// Takes one deletion from the watch.
    pub(crate) fn remove(&self, gone: &Named) {
        self.0.remove(gone);
    }

    /// Takes a whole list, one object after the other as they are read; what is no longer in it is gone.
    pub(crate) fn replace(&self, items: impl IntoIterator<Item = T>, revision: u64) {
        let held = |object: T| (key(object.namespace(), object.name()), Held::of(object));
        self.0.replace(&mut items.into_iter().map(held), revision);
    }

    /// Notes that everything up to `revision` was seen.
    pub(crate) fn progress(&self, revision: u64) {
        self.0.progress(revision);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::core::ConfigMap;

    fn object(name: &str, revision: u64) -> ConfigMap {
        let mut object = ConfigMap::default();
        object.metadata.namespace = Some("ns".into());
        object.metadata.name = Some(name.into());
        object.metadata.resource_version = Some(revision.to_string());
        object
    }

    fn recorded(cache: &Cache<ConfigMap>) -> Arc<Mutex<Vec<String>>> {
        let log = Arc::new(Mutex::new(Vec::new()));
        let writer = log.clone();
        cache.on_change(move |change| {
            let side =
                |object: &Option<Arc<ConfigMap>>| object.as_ref().map_or(0, |object| object.revision());
            let line = format!("{} {}->{}", change.object().name(), side(&change.old), side(&change.new));
            writer.lock().unwrap().push(line);
        });
        log
    }

    #[test]
    fn a_late_handler_hears_of_what_is_there() {
        let cache = Cache::empty();
        cache.apply(object("a", 3));
        let log = recorded(&cache);
        cache.apply(object("a", 4));
        cache.remove(&Named { namespace: "ns".to_owned(), name: "a".to_owned(), revision: 5 });
        assert_eq!(*log.lock().unwrap(), ["a 0->3", "a 3->4", "a 4->0"]);
        assert_eq!(cache.snapshot().revision(), 5);
    }

    #[test]
    fn a_new_list_tells_only_differences() {
        let cache = Cache::empty();
        cache.replace(vec![object("a", 1), object("b", 2)], 2);
        let log = recorded(&cache);
        log.lock().unwrap().clear();
        cache.replace(vec![object("b", 2), object("c", 7)], 9);
        assert_eq!(*log.lock().unwrap(), ["c 0->7", "a 1->0"]);
        let names: Vec<String> = cache.snapshot().in_namespace("ns").map(|o| o.name().to_owned()).collect();
        assert_eq!(names, ["b", "c"]);
    }

    #[tokio::test]
    async fn reached_waits_for_the_write_to_come_back() {
        let cache = Cache::<ConfigMap>::empty();
        let waiting = cache.reached(4);
        tokio::pin!(waiting);
        assert!(futures_util::poll!(&mut waiting).is_pending());
        cache.apply(object("a", 4));
        waiting.await;
    }
}
