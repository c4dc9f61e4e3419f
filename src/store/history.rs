//! The watch history: one ring of events, bounded in bytes, that all watchers read by position.
//!
//! There is no queue per watcher: a slow one costs nothing, and learns that it was compacted once the
//! ring has moved on.

use crate::record::{Snapshot, State};
use crate::{Record, Shared, WatchError};
use arc_swap::ArcSwap;
use std::collections::VecDeque;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
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

impl<I> Clone for Event<I> {
    fn clone(&self) -> Self {
        Self { record: self.record.clone(), previous: self.previous.clone(), deleted: self.deleted }
    }
}

struct Ring<I> {
    events: VecDeque<Event<I>>,
    bytes: usize,
    /// Events up to this revision are gone.
    floor: u64,
}

pub(crate) struct History<I> {
    ring: RwLock<Ring<I>>,
    max_bytes: usize,
}

impl<I> History<I> {
    pub(crate) fn new(max_bytes: usize, floor: u64) -> Self {
        Self { ring: RwLock::new(Ring { events: VecDeque::new(), bytes: 0, floor }), max_bytes }
    }

    fn read(&self) -> RwLockReadGuard<'_, Ring<I>> {
        self.ring.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a new state current together with the events that led to it, in the order of their
    /// revisions: who holds the ring sees both or neither.
    pub(crate) fn publish(&self, current: &ArcSwap<State<I>>, state: State<I>, events: Vec<Event<I>>) {
        let mut ring = self.ring.write().unwrap_or_else(PoisonError::into_inner);
        current.store(Arc::new(state));
        for event in events {
            ring.bytes += event.bytes();
            ring.events.push_back(event);
        }
        while ring.bytes > self.max_bytes
            && let Some(event) = ring.events.pop_front()
        {
            ring.bytes -= event.bytes();
            ring.floor = event.revision();
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
    published: watch::Receiver<u64>,
    prefix: Box<str>,
    position: u64,
}

impl<I: Send + Sync + 'static> Watch<I> {
    pub(crate) fn new(
        shared: Arc<Shared<I>>,
        published: watch::Receiver<u64>,
        prefix: &str,
        after: u64,
    ) -> Result<Self, WatchError> {
        let oldest = shared.history.read().floor;
        if after < oldest {
            return Err(WatchError::Compacted { oldest });
        }
        Ok(Self { shared, published, prefix: prefix.into(), position: after })
    }

    /// The next events in order, at least one and a bounded number. Cancelling it loses nothing.
    pub async fn next(&mut self) -> Result<Vec<Event<I>>, WatchError> {
        loop {
            self.published.borrow_and_update();
            let (events, end) = self.scan()?;
            if !events.is_empty() {
                return Ok(events);
            }
            if end {
                self.published.changed().await.map_err(|_| WatchError::Closed)?;
            }
        }
    }

    /// Everything up to this revision that concerns this watch has been returned by [`Self::next`]:
    /// what a bookmark says.
    pub fn revision(&self) -> u64 {
        self.position
    }

    /// Moves on by a bounded number of events; also says whether the end was reached.
    fn scan(&mut self) -> Result<(Vec<Event<I>>, bool), WatchError> {
        let ring = self.shared.history.read();
        if self.position < ring.floor {
            return Err(WatchError::Compacted { oldest: ring.floor });
        }
        let start = ring.events.partition_point(|event| event.revision() <= self.position);
        let mut events = Vec::new();
        let mut seen = 0;
        for event in ring.events.range(start..).take(SCAN) {
            seen += 1;
            self.position = event.revision();
            if event.record.key.starts_with(&*self.prefix) {
                events.push(event.clone());
            }
        }
        Ok((events, start + seen == ring.events.len()))
    }
}
