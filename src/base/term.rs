//! Tasks that run for as long as this process has a part among others of its kind, and again when it has it again.

use crate::clock::{self, Instant};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, watch};

#[derive(Default)]
struct State {
    /// Until when the term lasts that is on.
    until: Option<Instant>,
    /// The number of the term that is on, or of the last one.
    number: u64,
    /// How many tasks are at work.
    busy: usize,
}

struct Inner {
    state: Mutex<State>,
    /// The number of the term that is on; none between two.
    told: watch::Sender<Option<u64>>,
    /// Tasks of terms up to this one are dropped where they wait.
    cut: watch::Sender<u64>,
    left: Notify,
}

/// When tasks run that were started by [`Supervisor::during`](crate::Supervisor::during) it. Cheap to clone; every
/// clone is the same.
#[derive(Clone)]
pub struct Term(Arc<Inner>);

impl std::fmt::Debug for Term {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Term").field(&*self.0.told.borrow()).finish()
    }
}

impl Default for Term {
    fn default() -> Self {
        Self::new()
    }
}

/// One task's part in one term; the task is at work until this is dropped.
#[derive(Debug)]
pub(crate) struct Part {
    term: Term,
    number: u64,
}

impl Term {
    /// None is on yet.
    pub fn new() -> Self {
        let (told, cut) = (watch::channel(None).0, watch::channel(0).0);
        Self(Arc::new(Inner { state: Mutex::default(), told, cut, left: Notify::new() }))
    }

    /// Has the tasks run, until [`Self::end`] is called; past `until` they are told to stop when they ask, also if
    /// whoever would call it was kept from it.
    pub fn begin(&self, until: Instant) {
        let number = {
            let mut state = self.state();
            state.until = Some(until);
            state.number += 1;
            state.number
        };
        self.0.told.send_replace(Some(number));
    }

    /// Has the term that is on last longer.
    pub fn prolong(&self, until: Instant) {
        if let Some(ends) = &mut self.state().until {
            *ends = until;
        }
    }

    /// Asks the tasks to stop, drops those that did not after `patience`, and waits for all of them. False if there
    /// are some at work still after `limit`, which have to hold a thread.
    #[must_use = "tasks may be at work still"]
    pub async fn end(&self, patience: Duration, limit: Duration) -> bool {
        let began = clock::instant();
        let number = {
            let mut state = self.state();
            state.until = None;
            state.number
        };
        self.0.told.send_replace(None);
        if tokio::time::timeout_at(began + patience, self.idle()).await.is_ok() {
            return true;
        }
        self.0.cut.send_replace(number);
        tokio::time::timeout_at(began + limit, self.idle()).await.is_ok()
    }

    /// Whether a term is on.
    pub fn is_on(&self) -> bool {
        self.state().until.is_some_and(|until| clock::instant() < until)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn idle(&self) {
        loop {
            let left = self.0.left.notified();
            if self.state().busy == 0 {
                return;
            }
            left.await;
        }
    }

    /// Completes when a term is on.
    pub(crate) async fn begun(&self) {
        // The sender lives in this very term, so that waiting cannot fail.
        if self.0.told.subscribe().wait_for(Option::is_some).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Takes part in the term that is on, if one is.
    pub(crate) fn enter(&self) -> Option<Part> {
        let mut state = self.state();
        state.until?;
        state.busy += 1;
        Some(Part { term: self.clone(), number: state.number })
    }
}

/// Tells a task when its term is over.
#[derive(Clone, Debug)]
pub(crate) struct Over {
    term: Term,
    number: u64,
}

impl Over {
    /// Completes when the term is over.
    pub(crate) async fn requested(&self) {
        let mut told = self.term.0.told.subscribe();
        if told.wait_for(|now| *now != Some(self.number)).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Whether it is over. A process that was held up finds its time to be past before anybody could tell it.
    pub(crate) fn is_requested(&self) -> bool {
        let state = self.term.state();
        state.number != self.number || state.until.is_none_or(|until| until <= clock::instant())
    }
}

impl Part {
    pub(crate) fn over(&self) -> Over {
        Over { term: self.term.clone(), number: self.number }
    }

    /// Completes when tasks of this term are not waited for any longer.
    pub(crate) async fn cut(&self) {
        let mut cut = self.term.0.cut.subscribe();
        if cut.wait_for(|cut| *cut >= self.number).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.term.state().busy -= 1;
        self.term.0.left.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Phase, Restart, Supervisor};
    use std::sync::atomic::{AtomicUsize, Ordering};

    const PATIENCE: Duration = Duration::from_millis(200);
    const LIMIT: Duration = Duration::from_secs(1);
    const LONG: Duration = Duration::from_secs(3600);

    fn later() -> Instant {
        clock::instant() + LONG
    }

    #[tokio::test(start_paused = true)]
    async fn tasks_run_while_their_term_lasts_and_again_in_the_next() {
        let (supervisor, term) = (Supervisor::new(), Term::new());
        let (runs, at_work) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (counted, working) = (runs.clone(), at_work.clone());
        supervisor.during(&term).run("task", Phase::Work, Restart::OnFailure, move |shutdown| {
            counted.fetch_add(1, Ordering::SeqCst);
            working.fetch_add(1, Ordering::SeqCst);
            let working = working.clone();
            async move {
                shutdown.requested().await;
                clock::sleep(PATIENCE / 2).await;
                working.fetch_sub(1, Ordering::SeqCst);
                Ok::<(), String>(())
            }
        });
        for run in 1..=3 {
            clock::sleep(LIMIT).await;
            assert_eq!((runs.load(Ordering::SeqCst), at_work.load(Ordering::SeqCst)), (run - 1, 0));
            term.begin(later());
            clock::sleep(LIMIT).await;
            assert_eq!((runs.load(Ordering::SeqCst), at_work.load(Ordering::SeqCst)), (run, 1));
            assert!(term.end(PATIENCE, LIMIT).await);
            assert_eq!(at_work.load(Ordering::SeqCst), 0);
        }
        term.begin(later());
        clock::sleep(LIMIT).await;
        assert_eq!(supervisor.drain().await, crate::Drained::Cleanly);
        assert_eq!(at_work.load(Ordering::SeqCst), 0);
    }

    /// Says that it was dropped.
    struct Dropped(Arc<AtomicUsize>);

    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_stop_is_dropped() {
        let (supervisor, term) = (Supervisor::new(), Term::new());
        let dropped = Arc::new(AtomicUsize::new(0));
        let own = dropped.clone();
        let during = supervisor.during(&term);
        during.run("deaf", Phase::Work, Restart::OnFailure, move |_| {
            let guard = Dropped(own.clone());
            async move {
                let _guard = guard;
                std::future::pending::<Result<(), String>>().await
            }
        });
        let guard = Dropped(dropped.clone());
        // No term is on: it is not begun.
        during.detached("too early", Phase::Work, async move { drop(guard) });
        clock::sleep(LIMIT).await;
        assert_eq!(dropped.load(Ordering::SeqCst), 1);
        term.begin(later());
        clock::sleep(LIMIT).await;
        let guard = Dropped(dropped.clone());
        during.detached("piece", Phase::Work, async move {
            let _guard = guard;
            std::future::pending::<()>().await;
        });
        assert!(term.end(PATIENCE, LIMIT).await);
        assert_eq!(dropped.load(Ordering::SeqCst), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_term_is_over_by_itself_for_who_asks() {
        let term = Term::new();
        term.begin(clock::instant() + LIMIT);
        let part = term.enter().unwrap();
        assert!(term.is_on() && !part.over().is_requested());
        clock::sleep(LIMIT * 2).await;
        assert!(!term.is_on() && part.over().is_requested());
        term.prolong(later());
        assert!(term.is_on());
        assert!(!term.end(PATIENCE, LIMIT).await, "somebody is at work");
        drop(part);
        assert!(term.end(PATIENCE, LIMIT).await);
    }
}
