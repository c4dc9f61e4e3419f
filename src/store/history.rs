//! The watch history: one ring of events, bounded in bytes, that all watchers read by position.
//!
//! There is no queue per watcher: a slow one costs nothing, and learns that it was compacted once the
//! ring has moved on. Only those are woken whom a change can concern: keys are sorted into topics by
//! what stands before their first slash, and within those each key is a topic, and what [`Beside::topic`]
//! names. A quiet topic's watchers sleep however much happens elsewhere, so what counts for them is what the
//! ring dropped of their own topic.

use crate::record::{Snapshot, State};
use crate::{Beside, Observer, Record, Shared, WatchError};
use arc_swap::ArcSwap;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use tokio::sync::watch;

/// How many events a watcher looks at under one lock.
const SCAN: usize = 512;
/// What an event costs besides its values.
const EVENT_BYTES: usize = 256;

/// One change, as the commit published it.
#[derive(Debug)]
pub struct Event<I> {
    /// The new state; of a deletion, the last one with the deletion's revision.
    pub record: Arc<Record<I>>,
    /// The state before.
    pub previous: Option<Arc<Record<I>>>,
    /// Whether the key is gone.
    pub deleted: bool,
}

/// What is asked for was too long ago.
pub(crate) struct Forgotten;

impl<I> Event<I> {
    /// The revision of the change.
    pub fn revision(&self) -> u64 {
        self.record.revision
    }

    fn bytes(&self) -> usize {
        let previous = self.previous.as_ref().map_or(0, |record| record.value.len());
        EVENT_BYTES + self.record.key.len() + self.record.value.len() + previous
    }
}

struct Ring<I> {
    /// Shared with the watchers: a thousand of them count one reference up each, not its parts'.
    events: VecDeque<Arc<Event<I>>>,
    bytes: usize,
    /// Events up to this revision are gone.
    floor: u64,
    topics: HashMap<Box<str>, Arc<Topic>>,
}

/// The keys that share what stands before their first slash, or a narrower topic of some of them; "" are all
/// keys.
struct Topic {
    /// Of a narrower one, which is there for as long as it is watched. A name that is another topic's too only
    /// wakes more watchers than it had to.
    narrower: Option<Box<str>>,
    /// Events of this topic up to this revision are gone.
    floor: AtomicU64,
    /// Wakes who watches; true once the store is closed.
    closed: watch::Sender<bool>,
}

fn topic_of(key: &str) -> &str {
    key.split_once('/').map_or("", |(topic, _)| topic)
}

/// The topics that an event is of.
fn topics_of<I: Beside>(event: &Event<I>) -> [&str; 5] {
    let before = event.previous.as_ref().map_or("", |previous| previous.index.topic());
    let key = &*event.record.key;
    ["", topic_of(key), key, event.record.index.topic(), before]
}

impl<I> Ring<I> {
    fn topic(&mut self, name: &str) -> Arc<Topic> {
        // Of a topic that nobody asked for it is not known what was dropped.
        self.topic_from(name, self.floor, None)
    }

    /// A topic within another, of which no more was dropped than of that.
    fn narrower(&mut self, name: &str, within: &str) -> Arc<Topic> {
        let floor = self.topic(within).floor.load(Ordering::Acquire);
        self.topic_from(name, floor, Some(name.into()))
    }

    fn topic_from(&mut self, name: &str, floor: u64, narrower: Option<Box<str>>) -> Arc<Topic> {
        if let Some(known) = self.topics.get(name) {
            return known.clone();
        }
        let topic = Topic { narrower, floor: AtomicU64::new(floor), closed: watch::Sender::new(false) };
        let topic = Arc::new(topic);
        self.topics.insert(name.into(), topic.clone());
        topic
    }
}

impl<I: Beside> Ring<I> {
    fn drop_oldest(&mut self) {
        let Some(event) = self.events.pop_front() else { return };
        self.bytes -= event.bytes();
        self.floor = event.revision();
        for name in topics_of(&event) {
            if let Some(topic) = self.topics.get(name) {
                topic.floor.store(self.floor, Ordering::Release);
            }
        }
    }
}

pub(crate) struct History<I> {
    ring: RwLock<Ring<I>>,
    max_bytes: usize,
    observer: Observer<I>,
}

impl<I> History<I> {
    pub(crate) fn new(max_bytes: usize, floor: u64, observer: Observer<I>) -> Self {
        let ring = Ring { events: VecDeque::new(), bytes: 0, floor, topics: HashMap::new() };
        Self { ring: RwLock::new(ring), max_bytes, observer }
    }

    fn read(&self) -> RwLockReadGuard<'_, Ring<I>> {
        self.ring.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Ring<I>> {
        self.ring.write().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub(crate) fn narrower_topics(&self) -> usize {
        self.read().topics.values().filter(|topic| topic.narrower.is_some()).count()
    }

    /// Ends all watches.
    pub(crate) fn close(&self) {
        self.read().topics.values().for_each(|topic| {
            topic.closed.send_replace(true);
        });
    }
}

impl<I: Beside> History<I> {
    /// Makes a new state current together with the events that led to it, in the order of their
    /// revisions: who holds the ring sees both or neither.
    pub(crate) fn publish(&self, current: &ArcSwap<State<I>>, state: State<I>, events: Vec<Arc<Event<I>>>) {
        let mut concerned: Vec<Arc<Topic>> = Vec::new();
        let mut ring = self.write();
        current.store(Arc::new(state));
        for event in events {
            (self.observer)(&event);
            for name in topics_of(&event) {
                let topic = ring.topics.get(name);
                concerned.extend(
                    topic.filter(|topic| !concerned.iter().any(|one| Arc::ptr_eq(one, topic))).cloned(),
                );
            }
            ring.bytes += event.bytes();
            ring.events.push_back(event);
        }
        while ring.bytes > self.max_bytes && !ring.events.is_empty() {
            ring.drop_oldest();
        }
        drop(ring);
        concerned.iter().for_each(|topic| {
            topic.closed.send_if_modified(|_| true);
        });
    }

    /// Makes a state current to which the way is not known: who watches has to list anew. `changes` are what
    /// differs, for the observer.
    pub(crate) fn renew(&self, current: &ArcSwap<State<I>>, state: State<I>, changes: &[Event<I>]) {
        let mut ring = self.write();
        changes.iter().for_each(|change| (self.observer)(change));
        (ring.floor, ring.bytes) = (state.revision, 0);
        ring.events.clear();
        current.store(Arc::new(state));
        for topic in ring.topics.values() {
            topic.floor.store(ring.floor, Ordering::Release);
            topic.closed.send_if_modified(|_| true);
        }
    }

    /// The event of a revision, if it is still known.
    pub(crate) fn at(&self, revision: u64) -> Option<Arc<Event<I>>> {
        let ring = self.read();
        let place = ring.events.partition_point(|event| event.revision() < revision);
        ring.events.get(place).filter(|event| event.revision() == revision).cloned()
    }

    /// The event after a revision by which a key's state of `before`, 0 for none, was superseded and which is the one
    /// sought: states without the key there may have been several of. `Err` where that is no longer known.
    pub(crate) fn superseding(
        &self,
        key: &str,
        (before, after): (u64, u64),
        sought: impl Fn(&Event<I>) -> bool,
    ) -> Result<Option<Arc<Event<I>>>, Forgotten> {
        let ring = self.read();
        let later = ring.events.iter().rev().take_while(|event| event.revision() > after);
        let mut of_key = later.filter(|event| &*event.record.key == key);
        let over = |event: &Event<I>| event.previous.as_ref().map_or(0, |previous| previous.revision);
        match of_key.find(|event| over(event) == before && sought(event)) {
            None if after < ring.floor => Err(Forgotten),
            found => Ok(found.cloned()),
        }
    }

    /// The state at an earlier revision, by taking back what happened since; `None` if the history
    /// does not reach so far.
    pub(crate) fn undo(&self, current: &ArcSwap<State<I>>, revision: u64) -> Option<Snapshot<I>> {
        let ring = self.read();
        if revision < ring.floor {
            return None;
        }
        let mut map = current.load().map.clone();
        for event in ring.events.iter().rev().take_while(|event| event.revision() > revision) {
            match &event.previous {
                Some(previous) => map.insert(previous.key.clone(), previous.clone()),
                None => map.remove(&event.record.key),
            };
        }
        Some(Snapshot(Arc::new(State { revision, map })))
    }
}

/// A position in the history, and the keys to report. Dropping it ends it.
pub struct Watch<I> {
    shared: Arc<Shared<I>>,
    topic: Arc<Topic>,
    closed: watch::Receiver<bool>,
    prefix: Box<str>,
    position: u64,
    /// What was found and is still to be returned.
    found: Vec<Arc<Event<I>>>,
}

impl<I: Beside> Watch<I> {
    /// `narrower` is a topic within that of the prefix, or "".
    pub(crate) fn new(
        shared: Arc<Shared<I>>,
        (prefix, narrower): (&str, &str),
        after: u64,
    ) -> Result<Self, WatchError> {
        let mut ring = shared.history.write();
        let topic = match narrower {
            "" => ring.topic(topic_of(prefix)),
            name => ring.narrower(name, topic_of(prefix)),
        };
        drop(ring);
        let closed = topic.closed.subscribe();
        let watch = Self { shared, topic, closed, prefix: prefix.into(), position: after, found: Vec::new() };
        watch.check()?;
        Ok(watch)
    }

    /// The next events in order, at least one and a bounded number. Cancelling it loses nothing.
    pub async fn next(&mut self) -> Result<Vec<Arc<Event<I>>>, WatchError> {
        loop {
            if *self.closed.borrow_and_update() {
                return Err(WatchError::Closed);
            }
            self.progress()?;
            if !self.found.is_empty() {
                return Ok(std::mem::take(&mut self.found));
            }
            self.closed.changed().await.map_err(|_| WatchError::Closed)?;
        }
    }

    /// Looks at what has happened, and says up to which revision everything that concerns this watch has
    /// been returned by [`Self::next`]: what a bookmark says.
    pub fn progress(&mut self) -> Result<u64, WatchError> {
        while self.found.is_empty() && !self.scan()? {}
        Ok(self.found.first().map_or(self.position, |event| event.revision() - 1))
    }

    fn check(&self) -> Result<(), WatchError> {
        let oldest = self.topic.floor.load(Ordering::Acquire);
        if self.position < oldest { Err(WatchError::Compacted { oldest }) } else { Ok(()) }
    }

    /// Moves on by a bounded number of events; says whether the end was reached.
    fn scan(&mut self) -> Result<bool, WatchError> {
        let ring = self.shared.history.read();
        self.check()?;
        let start = ring.events.partition_point(|event| event.revision() <= self.position);
        let mut seen = 0;
        for event in ring.events.range(start..).take(SCAN) {
            seen += 1;
            self.position = event.revision();
            let is_of_topic =
                || self.topic.narrower.as_deref().is_none_or(|name| topics_of(event).contains(&name));
            if event.record.key.starts_with(&*self.prefix) && is_of_topic() {
                self.found.push(event.clone());
            }
        }
        Ok(start + seen == ring.events.len())
    }
}

impl<I> Drop for Watch<I> {
    /// Forgets a topic that nobody else watches: names come and go.
    fn drop(&mut self) {
        let Some(name) = &self.topic.narrower else { return };
        let mut ring = self.shared.history.write();
        // The ring's and this one's.
        if Arc::strong_count(&self.topic) == 2 {
            ring.topics.remove(name);
        }
    }
}
