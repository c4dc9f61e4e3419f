//! The pods that wait for a node: those to try now, those to try again after a while, and those that
//! wait for something to happen that could help.

use crate::filters::Happening;
use crate::wanted::{Key, Wanted};
use base::{Backoff, clock};
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const LONGEST_BACKOFF: Duration = Duration::from_secs(10);
/// A pod is tried again after this long, also if nothing that could help was noticed.
const LONGEST_WAIT: Duration = Duration::from_secs(300);

/// The most important first, then who came first.
type Rank = (Reverse<i32>, u64);

#[derive(Debug)]
enum State {
    Active,
    /// Try again then, whatever happens.
    Backoff(clock::Instant),
    /// Fits nowhere: it waits for one of these.
    Unschedulable {
        helped_by: Vec<Happening>,
        until: clock::Instant,
    },
    /// Being decided on or bound; happenings since then may help.
    InFlight(Vec<Happening>),
}

#[derive(Debug)]
struct Waiting {
    wanted: Arc<Wanted>,
    rank: Rank,
    backoff: Backoff,
    state: State,
}

/// Holds no lock and no clock of its own: the runner does.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    waiting: HashMap<Key, Waiting>,
    active: BTreeMap<Rank, Key>,
    came: u64,
    /// No pod is due earlier by itself.
    due: Option<clock::Instant>,
}

impl Queue {
    /// A pod without a node is there, or has changed; a change that may matter is tried at once.
    pub(crate) fn put(&mut self, wanted: Arc<Wanted>, may_matter: bool) {
        let key = wanted.key.clone();
        if let Some(waiting) = self.waiting.get_mut(&key) {
            waiting.wanted = wanted;
            if may_matter && matches!(waiting.state, State::Unschedulable { .. } | State::Backoff(_)) {
                waiting.state = State::Active;
                self.active.insert(waiting.rank, key);
            }
            return;
        }
        self.came += 1;
        let rank = (Reverse(wanted.priority), self.came);
        let backoff = Backoff::new(FIRST_BACKOFF, LONGEST_BACKOFF);
        self.active.insert(rank, key.clone());
        self.waiting.insert(key, Waiting { wanted, rank, backoff, state: State::Active });
    }

    /// A pod got its node, or is gone.
    pub(crate) fn remove(&mut self, key: &Key) {
        if let Some(waiting) = self.waiting.remove(key) {
            self.active.remove(&waiting.rank);
        }
        // What a burst of pods took is given back when most of them have left.
        if self.waiting.len() < self.waiting.capacity() / 8 {
            self.waiting.shrink_to(2 * self.waiting.len());
        }
    }

    /// The next pod to decide on.
    pub(crate) fn take(&mut self, now: clock::Instant) -> Option<Arc<Wanted>> {
        if self.due.is_some_and(|due| due <= now) {
            self.activate_due(now);
        }
        let (_, key) = self.active.pop_first()?;
        let waiting = self.waiting.get_mut(&key)?;
        waiting.state = State::InFlight(Vec::new());
        Some(waiting.wanted.clone())
    }

    fn activate_due(&mut self, now: clock::Instant) {
        self.due = None;
        for (key, waiting) in &mut self.waiting {
            let (State::Backoff(until) | State::Unschedulable { until, .. }) = waiting.state else {
                continue;
            };
            if until <= now {
                waiting.state = State::Active;
                self.active.insert(waiting.rank, key.clone());
            } else {
                self.due = Some(self.due.map_or(until, |due| due.min(until)));
            }
        }
    }

    /// It fits nowhere, until something happens.
    pub(crate) fn unschedulable(&mut self, key: &Key, helped_by: Vec<Happening>, now: clock::Instant) {
        let Some(waiting) = self.waiting.get_mut(key) else { return };
        let State::InFlight(happened) = &waiting.state else { return };
        let helped = happened.iter().any(|one| helped_by.contains(one));
        let until = now + if helped { waiting.backoff.next_delay() } else { LONGEST_WAIT };
        waiting.state =
            if helped { State::Backoff(until) } else { State::Unschedulable { helped_by, until } };
        self.due = Some(self.due.map_or(until, |due| due.min(until)));
    }

    /// Something went wrong that has to do with no node: try again after a while.
    pub(crate) fn failed(&mut self, key: &Key, now: clock::Instant) {
        let Some(waiting) = self.waiting.get_mut(key) else { return };
        if matches!(waiting.state, State::InFlight(_)) {
            let until = now + waiting.backoff.next_delay();
            waiting.state = State::Backoff(until);
            self.due = Some(self.due.map_or(until, |due| due.min(until)));
        }
    }

    /// Something happened: those it may help are tried again soon.
    pub(crate) fn happened(&mut self, what: Happening, now: clock::Instant) {
        for waiting in self.waiting.values_mut() {
            match &mut waiting.state {
                State::Unschedulable { helped_by, .. } if helped_by.contains(&what) => {
                    let until = now + waiting.backoff.next_delay();
                    waiting.state = State::Backoff(until);
                    self.due = Some(self.due.map_or(until, |due| due.min(until)));
                }
                State::InFlight(happened) if !happened.contains(&what) => happened.push(what),
                _ => {}
            }
        }
    }

    /// When [`Self::take`] may have something by itself.
    pub(crate) fn next_due(&self) -> Option<clock::Instant> {
        self.due
    }
}
