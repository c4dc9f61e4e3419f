//! A deduplicating work queue: a key that is added many times is worked on once, never twice at the
//! same time, and after a failure with growing delays.

use base::{Backoff, Shutdown, clock};
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

const FIRST_DELAY: Duration = Duration::from_millis(5);
const LONGEST_DELAY: Duration = Duration::from_secs(1000);

/// What to do with a key that was worked on without an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Nothing until it is added again.
    Done,
    /// Work on it again after this time, also if nothing happens.
    After(Duration),
}

struct State<K> {
    ready: VecDeque<K>,
    /// What is in `ready`.
    waiting: HashSet<K>,
    working: HashSet<K>,
    /// Added while being worked on: ready again afterwards.
    dirty: HashSet<K>,
    /// When a key becomes ready by itself; the number keeps equal instants apart.
    timers: BTreeMap<(clock::Instant, u64), K>,
    timer_of: HashMap<K, (clock::Instant, u64)>,
    timer_number: u64,
    failures: HashMap<K, Backoff>,
}

struct Inner<K> {
    name: String,
    state: Mutex<State<K>>,
    wake: Notify,
}

/// A work queue of keys. Cheap to clone; every clone is the same queue.
pub struct Queue<K>(Arc<Inner<K>>);

impl<K> Clone for Queue<K> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K: Hash + Eq + Clone + Send + std::fmt::Debug> Queue<K> {
    /// An empty queue; the name is for logs.
    pub fn new(name: &str) -> Self {
        let state = State {
            ready: VecDeque::new(),
            waiting: HashSet::new(),
            working: HashSet::new(),
            dirty: HashSet::new(),
            timers: BTreeMap::new(),
            timer_of: HashMap::new(),
            timer_number: 0,
            failures: HashMap::new(),
        };
        Self(Arc::new(Inner { name: name.to_owned(), state: Mutex::new(state), wake: Notify::new() }))
    }

    /// Asks for work on this key soon.
    pub fn add(&self, key: K) {
        self.state().add(key);
        self.0.wake.notify_one();
    }

    /// Asks for work on this key after a time; of several times for a key the earliest counts.
    pub fn add_after(&self, key: K, delay: Duration) {
        self.state().add_at(key, clock::instant() + delay);
        self.0.wake.notify_one();
    }

    /// Works on keys, up to `workers` at a time, until shutdown. An error is logged and its key is
    /// tried again with a delay that doubles from 5 ms to 1,000 s.
    pub async fn work<F, Fut, E>(&self, shutdown: Shutdown, workers: usize, work: F)
    where
        F: Fn(K) -> Fut + Sync,
        Fut: Future<Output = Result<Next, E>> + Send,
        E: std::fmt::Display,
    {
        // Boxed, so that this is compiled once a type of key rather than once a controller.
        let work = |key| work(key).map(|outcome| outcome.map_err(|error| error.to_string())).boxed();
        self.work_boxed(shutdown, workers, &work).await;
    }

    async fn work_boxed<'a>(
        &self,
        shutdown: Shutdown,
        workers: usize,
        work: &(dyn Fn(K) -> BoxFuture<'a, Result<Next, String>> + Sync),
    ) {
        let _back = Back(self);
        let mut running = FuturesUnordered::new();
        loop {
            // Whoever was held up may find that it must not begin anything any more.
            while running.len() < workers && !shutdown.is_requested() {
                let Some(key) = self.state().take(clock::instant()) else { break };
                let outcome = work(key.clone());
                running.push(async move { (key, outcome.await) });
            }
            let timer = self.state().next_timer();
            tokio::select! {
                Some((key, outcome)) = running.next() => self.finish(key, outcome),
                () = self.0.wake.notified() => {}
                () = until(timer), if running.len() < workers => {}
                () = shutdown.requested() => return,
            }
        }
    }

    fn finish(&self, key: K, outcome: Result<Next, String>) {
        let mut state = self.state();
        state.working.remove(&key);
        match outcome {
            Ok(next) => {
                state.failures.remove(&key);
                if let Next::After(delay) = next {
                    state.add_at(key.clone(), clock::instant() + delay);
                }
            }
            Err(why) => {
                let backoff = state.failures.entry(key.clone());
                let delay = backoff.or_insert_with(|| Backoff::new(FIRST_DELAY, LONGEST_DELAY)).next_delay();
                tracing::debug!(queue = self.0.name, ?key, error = why, ?delay, "work failed; trying again");
                state.add_at(key.clone(), clock::instant() + delay);
            }
        }
        if state.dirty.remove(&key) {
            state.add(key);
        }
    }

    fn state(&self) -> MutexGuard<'_, State<K>> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Puts back what was worked on when work ends in the middle: the next time it is begun again.
struct Back<'a, K: Hash + Eq + Clone + Send + std::fmt::Debug>(&'a Queue<K>);

impl<K: Hash + Eq + Clone + Send + std::fmt::Debug> Drop for Back<'_, K> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.dirty.clear();
        let working: Vec<K> = state.working.drain().collect();
        working.into_iter().for_each(|key| state.add(key));
    }
}

async fn until(timer: Option<clock::Instant>) {
    match timer {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

impl<K: Hash + Eq + Clone> State<K> {
    fn add(&mut self, key: K) {
        if self.working.contains(&key) {
            self.dirty.insert(key);
        } else if self.waiting.insert(key.clone()) {
            self.ready.push_back(key);
        }
    }

    fn add_at(&mut self, key: K, when: clock::Instant) {
        if let Some(timer) = self.timer_of.get(&key) {
            if timer.0 <= when {
                return;
            }
            self.timers.remove(timer);
        }
        self.timer_number += 1;
        self.timers.insert((when, self.timer_number), key.clone());
        self.timer_of.insert(key, (when, self.timer_number));
    }

    fn next_timer(&self) -> Option<clock::Instant> {
        self.timers.keys().next().map(|timer| timer.0)
    }

    fn take(&mut self, now: clock::Instant) -> Option<K> {
        while let Some(entry) = self.timers.first_entry().filter(|entry| entry.key().0 <= now) {
            let key = entry.remove();
            self.timer_of.remove(&key);
            self.add(key);
        }
        let key = self.ready.pop_front()?;
        self.waiting.remove(&key);
        self.working.insert(key.clone());
        Some(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[tokio::test(start_paused = true)]
    async fn a_key_is_worked_on_once_and_again_when_dirty() {
        let queue = Queue::new("test");
        let runs = AtomicUsize::new(0);
        queue.add("a");
        queue.add("a");
        let work = queue.work(Shutdown::never(), 4, |key| {
            let run = runs.fetch_add(1, Ordering::SeqCst);
            let queue = queue.clone();
            async move {
                if run == 0 {
                    queue.add(key);
                    queue.add(key);
                }
                Ok::<_, String>(Next::Done)
            }
        });
        assert!(tokio::time::timeout(Duration::from_secs(1), work).await.is_err());
        assert_eq!(runs.load(Ordering::SeqCst), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_not_ended_is_begun_again() {
        let (queue, supervisor) = (Queue::new("test"), base::Supervisor::new());
        queue.add("a");
        let hangs = |_| std::future::pending::<Result<Next, String>>();
        let work = queue.work(Shutdown::never(), 1, hangs);
        assert!(tokio::time::timeout(Duration::from_secs(1), work).await.is_err());
        let term = base::Term::new();
        let (worked, during) = (queue.clone(), supervisor.during(&term));
        let runs = Arc::new(AtomicUsize::new(0));
        let counted = runs.clone();
        during.run("work", base::Phase::Work, base::Restart::OnFailure, move |shutdown| {
            let (queue, counted) = (worked.clone(), counted.clone());
            async move {
                let work = |_| {
                    counted.fetch_add(1, Ordering::SeqCst);
                    async { Ok::<_, String>(Next::Done) }
                };
                queue.work(shutdown, 1, work).await;
                Ok::<(), String>(())
            }
        });
        for runs_by_then in 1..3 {
            term.begin(clock::instant() + Duration::from_secs(60));
            clock::sleep(Duration::from_secs(1)).await;
            assert_eq!(runs.load(Ordering::SeqCst), runs_by_then);
            assert!(term.end(Duration::ZERO, Duration::from_secs(1)).await);
            queue.add("a");
            clock::sleep(Duration::from_secs(1)).await;
            assert_eq!(runs.load(Ordering::SeqCst), runs_by_then, "between terms");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn failures_back_off_and_timers_fire() {
        let queue = Queue::new("test");
        let start = clock::instant();
        let times = Mutex::new(Vec::new());
        queue.add(1);
        queue.add_after(2, Duration::from_millis(100));
        let work = queue.work(Shutdown::never(), 1, |key| {
            times.lock().unwrap().push((key, start.elapsed().as_millis()));
            async move { if key == 1 { Err("no") } else { Ok(Next::Done) } }
        });
        assert!(tokio::time::timeout(Duration::from_millis(110), work).await.is_err());
        let times = times.into_inner().unwrap();
        let of = |key| times.iter().filter(|(k, _)| *k == key).map(|(_, ms)| *ms).collect::<Vec<_>>();
        assert_eq!(of(2).len(), 1);
        let gaps: Vec<u128> = of(1).windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert_eq!(of(1).len(), 5);
        assert!(gaps.windows(2).all(|pair| pair[1] > pair[0]), "{gaps:?}");
    }
}
