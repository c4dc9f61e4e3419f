//! The pods that wait for a node: those to try now, those to try again after a while, and those that
//! wait for something to happen that could help.

use crate::ask::{Key, Wanted};
use crate::events::OwnChange;
use crate::plugins::PluginSet;
use base::clock::Instant;
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

/// A pod is tried again after this long, also if nothing that could help was noticed.
const LONGEST_WAIT: Duration = Duration::from_secs(300);
/// How exactly that is kept.
const FLUSH_INTERVAL: Duration = Duration::from_secs(30);

/// The most important first, then who came to the queue first.
type Rank = (Reverse<i32>, u64);

#[derive(Debug, PartialEq, Eq)]
enum State {
    /// To be tried now.
    Active,
    /// To be tried then, or earlier when there is nothing else to do and it was no error.
    Backoff { until: Instant, error: bool },
    /// Refused by these plugins: it waits for what may help.
    Unschedulable { plugins: PluginSet, ready: Instant, flush: Instant },
    /// Being bound.
    Binding,
    /// Pods are being asked to leave for it; something may have happened since that helps.
    Preempting { plugins: PluginSet, woken: bool },
}

#[derive(Debug)]
struct Waiting {
    wanted: Wanted,
    rank: Rank,
    failures: u32,
    state: State,
}

/// How long a pod waits after it was refused.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backoffs {
    pub(crate) first: Duration,
    pub(crate) longest: Duration,
}

impl Default for Backoffs {
    fn default() -> Self {
        Self { first: Duration::from_secs(1), longest: Duration::from_secs(10) }
    }
}

/// Holds no lock and no clock of its own: the runner does.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    backoffs: Backoffs,
    waiting: HashMap<Key, Waiting>,
    active: BTreeMap<Rank, Key>,
    backoff: BTreeMap<(Instant, u64), Key>,
    came: u64,
    /// Those that an event may help.
    parked: HashSet<Key>,
    /// When to look for pods that have waited too long.
    flush: Option<Instant>,
}

impl Queue {
    pub(crate) fn new(backoffs: Backoffs) -> Self {
        Self { backoffs, ..Self::default() }
    }

    /// What was known of a pod.
    pub(crate) fn get(&self, key: &Key) -> Option<&Wanted> {
        self.waiting.get(key).map(|waiting| &waiting.wanted)
    }

    /// A pod without a node is there, or has changed. `helps` says whether its change may help it after
    /// these plugins refused it.
    pub(crate) fn put(
        &mut self,
        wanted: Wanted,
        change: OwnChange,
        now: Instant,
        helps: impl Fn(&Wanted, PluginSet) -> bool,
    ) {
        let key = wanted.key.clone();
        if let Some(waiting) = self.waiting.get_mut(&key) {
            waiting.wanted = wanted;
            if let State::Unschedulable { plugins, .. } = waiting.state
                && change.is_any()
                && (plugins.is_empty() || helps(&waiting.wanted, plugins))
            {
                self.wake(&key, now);
            }
            return;
        }
        self.came += 1;
        let rank = (Reverse(wanted.ask.priority), self.came);
        self.active.insert(rank, key.clone());
        self.waiting.insert(key, Waiting { wanted, rank, failures: 0, state: State::Active });
    }

    /// A pod got its node, or is gone.
    pub(crate) fn remove(&mut self, key: &Key) -> Option<Wanted> {
        let waiting = self.waiting.remove(key)?;
        match waiting.state {
            State::Active => drop(self.active.remove(&waiting.rank)),
            State::Backoff { until, .. } => drop(self.backoff.remove(&(until, waiting.rank.1))),
            State::Unschedulable { .. } | State::Preempting { .. } => drop(self.parked.remove(key)),
            State::Binding => {}
        }
        // What a burst of pods took is given back when most of them have left.
        if self.waiting.len() < self.waiting.capacity() / 8 {
            self.waiting.shrink_to(2 * self.waiting.len());
        }
        Some(waiting.wanted)
    }

    /// The next pod to decide on.
    pub(crate) fn take(&mut self, now: Instant) -> Option<Wanted> {
        if self.flush.is_some_and(|flush| flush <= now) {
            self.flush(now);
        }
        while let Some(entry) = self.backoff.first_entry().filter(|entry| entry.key().0 <= now) {
            let key = entry.remove();
            self.activate(&key);
        }
        let key = match self.active.pop_first() {
            Some((_, key)) => key,
            None => self.idle()?,
        };
        let waiting = self.waiting.get_mut(&key)?;
        waiting.state = State::Binding;
        Some(waiting.wanted.clone())
    }

    /// Nothing is to be tried now: one that waits for its time may as well have its turn.
    fn idle(&mut self) -> Option<Key> {
        let is_error = |key: &Key| {
            self.waiting.get(key).is_some_and(|it| matches!(it.state, State::Backoff { error: true, .. }))
        };
        let at = *self.backoff.iter().find(|(_, key)| !is_error(key))?.0;
        self.backoff.remove(&at)
    }

    fn activate(&mut self, key: &Key) {
        if let Some(waiting) = self.waiting.get_mut(key) {
            waiting.state = State::Active;
            self.active.insert(waiting.rank, key.clone());
        }
    }

    fn flush(&mut self, now: Instant) {
        let is_due = |key: &&Key| {
            let state = self.waiting.get(*key).map(|waiting| &waiting.state);
            matches!(state, Some(State::Unschedulable { flush, .. }) if *flush <= now)
        };
        let due: Vec<Key> = self.parked.iter().filter(is_due).cloned().collect();
        due.iter().for_each(|key| self.wake(key, now));
        self.flush = (!self.parked.is_empty()).then_some(now + FLUSH_INTERVAL);
    }

    /// Something may help a pod: it is tried again, but not too soon after the last time.
    fn wake(&mut self, key: &Key, now: Instant) {
        let Some(waiting) = self.waiting.get_mut(key) else { return };
        let State::Unschedulable { ready, .. } = waiting.state else { return };
        self.parked.remove(key);
        if ready <= now {
            self.activate(key);
        } else {
            waiting.state = State::Backoff { until: ready, error: false };
            self.backoff.insert((ready, waiting.rank.1), key.clone());
        }
    }

    /// It fits nowhere, until something happens.
    pub(crate) fn unschedulable(&mut self, key: &Key, plugins: PluginSet, now: Instant) {
        let Some(waiting) = self.waiting.get_mut(key) else { return };
        self.came += 1;
        waiting.rank = (Reverse(waiting.wanted.ask.priority), self.came);
        waiting.failures = waiting.failures.saturating_add(1);
        let ready = now + self.backoffs.after(waiting.failures);
        self.park(key, plugins, (now, ready));
    }

    /// It was not even tried: what it needs is not there yet.
    pub(crate) fn hold(&mut self, key: &Key, plugins: PluginSet, now: Instant) {
        self.park(key, plugins, (now, now));
    }

    /// Until something happens, and then not before `ready`.
    fn park(&mut self, key: &Key, plugins: PluginSet, (now, ready): (Instant, Instant)) {
        let Some(waiting) = self.waiting.get_mut(key) else { return };
        let flush = now + LONGEST_WAIT;
        waiting.state = State::Unschedulable { plugins, ready, flush };
        self.parked.insert(key.clone());
        self.flush.get_or_insert(flush);
    }

    /// Others are being asked to leave for a pod that fits nowhere.
    pub(crate) fn preempting(&mut self, key: &Key, plugins: PluginSet) {
        if let Some(waiting) = self.waiting.get_mut(key) {
            waiting.state = State::Preempting { plugins, woken: false };
            self.parked.insert(key.clone());
        }
    }

    /// They have been asked.
    pub(crate) fn preempted(&mut self, key: &Key, now: Instant) {
        let state = self.waiting.get(key).map(|waiting| &waiting.state);
        let Some(State::Preempting { plugins, woken }) = state else { return };
        let (plugins, woken) = (*plugins, *woken);
        self.unschedulable(key, plugins, now);
        if woken {
            self.wake(key, now);
        }
    }

    /// Something went wrong that has to do with no node: try again after a while.
    pub(crate) fn failed(&mut self, key: &Key, now: Instant) {
        let Some(waiting) = self.waiting.get_mut(key) else { return };
        if !matches!(waiting.state, State::Binding) {
            return;
        }
        self.came += 1;
        waiting.rank = (Reverse(waiting.wanted.ask.priority), self.came);
        waiting.failures = waiting.failures.saturating_add(1);
        let until = now + self.backoffs.after(waiting.failures);
        waiting.state = State::Backoff { until, error: true };
        self.backoff.insert((until, waiting.rank.1), key.clone());
    }

    /// Something happened: those it helps are tried again. Decisions and their results are one step, so
    /// that nothing can happen between them.
    pub(crate) fn happened(&mut self, now: Instant, helps: impl Fn(&Wanted, PluginSet) -> bool) {
        let mut woken = Vec::new();
        for key in &self.parked {
            let Some(waiting) = self.waiting.get_mut(key) else { continue };
            match &mut waiting.state {
                State::Unschedulable { plugins, .. }
                    if plugins.is_empty() || helps(&waiting.wanted, *plugins) =>
                {
                    woken.push(key.clone());
                }
                State::Preempting { plugins, woken } if !*woken => *woken = helps(&waiting.wanted, *plugins),
                _ => {}
            }
        }
        woken.iter().for_each(|key| self.wake(key, now));
    }

    /// When [`Self::take`] may have something by itself.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        let backoff = self.backoff.first_key_value().map(|((until, _), _)| *until);
        backoff.into_iter().chain(self.flush).min()
    }
}

impl Backoffs {
    fn after(&self, failures: u32) -> Duration {
        let doublings = failures.saturating_sub(1).min(31);
        self.first.saturating_mul(1 << doublings).min(self.longest)
    }
}
