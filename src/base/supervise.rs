//! Supervised tasks: each has a name, is restarted with backoff or ends the process by name, and is
//! stopped in the order of its [`Phase`].

use crate::term::{Over, Term};
use crate::{Backoff, Seldom, clock};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use std::collections::HashMap;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinHandle};

/// The order of a drain: what takes new work stops first, what others stand on stops last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Takes work from outside: listeners.
    Front,
    /// Works on it: controllers, the kubelet, the proxy.
    Work,
    /// Is stood on by the others: the API server, the store.
    Ground,
}

const PHASES: [Phase; 3] = [Phase::Front, Phase::Work, Phase::Ground];

/// How long one phase may take to stop before its tasks are aborted.
const PHASE_DEADLINE: Duration = Duration::from_secs(10);

/// What happens when a task returns or panics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restart {
    /// It is started again with backoff after an error or panic; a return of `Ok` ends it.
    OnFailure,
    /// The process cannot go on without it.
    Fatal,
}

/// Why the process has to stop.
#[derive(Clone, Debug)]
pub enum Exit {
    /// Asked to.
    Requested,
    /// A task marked [`Restart::Fatal`] ended: its name, and why.
    Task(String, String),
}

/// Tells a task that it should stop.
#[derive(Clone, Debug)]
pub struct Shutdown {
    phase: watch::Receiver<bool>,
    /// The term it was started in, if it was started in one.
    term: Option<Over>,
}

impl Shutdown {
    /// Completes when the task should stop.
    pub async fn requested(&self) {
        match &self.term {
            None => self.drained().await,
            Some(term) => tokio::select! {
                () = self.drained() => {}
                () = term.requested() => {}
            },
        }
    }

    async fn drained(&self) {
        let mut receiver = self.phase.clone();
        if receiver.wait_for(|stop| *stop).await.is_err() {
            tracing::debug!("the supervisor is gone: stopping");
        }
    }

    /// Whether the task should stop, without waiting.
    pub fn is_requested(&self) -> bool {
        *self.phase.borrow() || self.term.as_ref().is_some_and(Over::is_requested)
    }

    fn within(&self, term: Over) -> Self {
        Self { phase: self.phase.clone(), term: Some(term) }
    }

    /// A shutdown that is never requested, for tests and one-shot commands.
    pub fn never() -> Self {
        let (sender, receiver) = watch::channel(false);
        // Kept alive for the process: dropping the sender would read as a request to stop.
        std::mem::forget(sender);
        Self { phase: receiver, term: None }
    }
}

/// Whether every task ended by itself within its deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drained {
    /// All did.
    Cleanly,
    /// So many had to be aborted.
    Aborted(usize),
}

struct Task {
    name: String,
    phase: Phase,
    handle: JoinHandle<()>,
}

struct Inner {
    phases: Vec<watch::Sender<bool>>,
    tasks: Mutex<Vec<Task>>,
    exit: watch::Sender<Option<Exit>>,
    detached: Mutex<Detached>,
}

/// Tasks that nobody waits for, by number. They are kept here so that none of them has to listen for its phase's end: there
/// may be ten thousand, and what listens takes room.
#[derive(Default)]
struct Detached {
    number: u64,
    running: HashMap<u64, (Phase, AbortHandle)>,
}

/// One of them, until it is dropped.
struct Listed {
    /// Weak, since tasks end with the supervisor, also if nobody drains it.
    inner: Weak<Inner>,
    number: u64,
}

impl Drop for Listed {
    fn drop(&mut self) {
        let Some(inner) = self.inner.upgrade() else { return };
        let gone = inner.detached().running.remove(&self.number);
        // A task's last handle frees it: not with the lock held.
        drop(gone);
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        PHASES.into_iter().for_each(|phase| self.drop_detached(phase));
    }
}

impl Inner {
    fn detached(&self) -> MutexGuard<'_, Detached> {
        self.detached.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn drop_detached(&self, phase: Phase) {
        let gone: Vec<_> = self
            .detached()
            .running
            .extract_if(|_, (own, _)| *own == phase)
            .map(|(_, (_, handle))| handle)
            .collect();
        gone.iter().for_each(AbortHandle::abort);
    }
}

/// Owns the process' tasks. Cheap to clone; every clone is the same supervisor.
#[derive(Clone)]
pub struct Supervisor {
    inner: Arc<Inner>,
    /// When its tasks run, where that is not always.
    term: Option<Term>,
}

impl Default for Supervisor {
    fn default() -> Self {
        Self::new()
    }
}

impl Supervisor {
    /// A supervisor with no tasks.
    pub fn new() -> Self {
        let phases = PHASES.iter().map(|_| watch::channel(false).0).collect();
        let inner = Inner {
            phases,
            tasks: Mutex::default(),
            exit: watch::channel(None).0,
            detached: Mutex::default(),
        };
        Self { inner: Arc::new(inner), term: None }
    }

    /// The same supervisor, whose tasks started by this one run during terms alone, in each of them anew.
    pub fn during(&self, term: &Term) -> Self {
        Self { inner: self.inner.clone(), term: Some(term.clone()) }
    }

    /// The signal that tasks of this phase watch.
    pub fn shutdown(&self, phase: Phase) -> Shutdown {
        Shutdown { phase: self.inner.phases[phase as usize].subscribe(), term: None }
    }

    /// Runs `task` under `name` until it returns `Ok` or its phase is drained. `task` is called anew
    /// for each restart and should return soon after its [`Shutdown`] is requested.
    pub fn run<F, Fut, E>(&self, name: &str, phase: Phase, restart: Restart, mut task: F)
    where
        F: FnMut(Shutdown) -> Fut + Send + 'static,
        Fut: Future<Output = Result<(), E>> + Send + 'static,
        E: std::fmt::Display + 'static,
    {
        // Boxed, so that a thousand tasks are one type to compile.
        let task = Box::new(move |shutdown| {
            task(shutdown).map(|ended| ended.map_err(|error| error.to_string())).boxed()
        });
        self.run_boxed(name, phase, restart, task);
    }

    fn run_boxed(&self, name: &str, phase: Phase, restart: Restart, task: Work) {
        let shutdown = self.shutdown(phase);
        let mut supervised =
            Supervised { name: name.to_owned(), restart, exit: self.inner.exit.clone(), task };
        let handle = match self.term.clone() {
            None => spawn(async move { supervised.run(shutdown).await }),
            Some(term) => spawn(async move { supervised.run_in_terms(&term, shutdown).await }),
        };
        let mut tasks = self.inner.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.retain(|task| !task.handle.is_finished());
        tasks.push(Task { name: name.to_owned(), phase, handle });
    }

    /// Runs a short-lived piece of work, such as one connection; a panic in it is logged by name.
    /// It is dropped when its phase is drained, or the term is over that it was started in.
    pub fn detached<Fut>(&self, name: &'static str, phase: Phase, work: Fut) -> AbortHandle
    where
        Fut: Future<Output = ()> + Send + 'static,
    {
        // Boxed, since a task would hold room for it twice: as it is given, and as it is polled.
        self.detached_boxed(name, phase, work.boxed())
    }

    fn detached_boxed(&self, name: &'static str, phase: Phase, work: BoxFuture<'static, ()>) -> AbortHandle {
        let work = AssertUnwindSafe(work).catch_unwind().map(move |result| {
            if let Err(panic) = result {
                tracing::error!(task = name, panic = panic_text(&*panic), "task panicked");
            }
        });
        match self.term.as_ref().map(Term::enter) {
            None => self.detach(phase, work),
            // Between terms nothing is begun.
            Some(None) => spawn(async {}).abort_handle(),
            Some(Some(part)) => {
                let over = part.over();
                let stop = Seldom::new(async move { over.requested().await });
                self.detach(phase, async move {
                    let _part = part;
                    tokio::select! {
                        biased;
                        () = work => {}
                        () = stop => {}
                    }
                })
            }
        }
    }

    fn detach(&self, phase: Phase, work: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        let mut detached = self.inner.detached();
        if *self.inner.phases[phase as usize].borrow() {
            return spawn(async {}).abort_handle();
        }
        detached.number += 1;
        let number = detached.number;
        let listed = Listed { inner: Arc::downgrade(&self.inner), number };
        let handle = spawn(async move {
            let _listed = listed;
            work.await;
        });
        detached.running.insert(number, (phase, handle.abort_handle()));
        handle.abort_handle()
    }

    /// Asks the process to stop.
    pub fn stop(&self) {
        self.inner.exit.send_if_modified(|exit| {
            let first = exit.is_none();
            exit.get_or_insert(Exit::Requested);
            first
        });
    }

    /// Completes when the process has to stop, and says why.
    pub async fn ended(&self) -> Exit {
        let mut receiver = self.inner.exit.subscribe();
        match receiver.wait_for(Option::is_some).await {
            Ok(exit) => exit.clone().unwrap_or(Exit::Requested),
            Err(_) => Exit::Requested,
        }
    }

    /// Stops all tasks, phase by phase, and aborts those that overstay a phase's deadline.
    pub async fn drain(&self) -> Drained {
        let mut aborted = 0;
        for phase in PHASES {
            self.inner.phases[phase as usize].send_replace(true);
            self.inner.drop_detached(phase);
            aborted += self.drain_phase(phase).await;
        }
        if aborted == 0 { Drained::Cleanly } else { Drained::Aborted(aborted) }
    }

    async fn drain_phase(&self, phase: Phase) -> usize {
        let deadline = clock::instant() + PHASE_DEADLINE;
        let tasks: Vec<Task> = {
            let mut all = self.inner.tasks.lock().unwrap_or_else(PoisonError::into_inner);
            all.extract_if(.., |task| task.phase == phase).collect()
        };
        let mut aborted = 0;
        for mut task in tasks {
            if tokio::time::timeout_at(deadline, &mut task.handle).await.is_err() {
                tracing::warn!(task = task.name, "did not stop in time; aborting it");
                task.handle.abort();
                aborted += 1;
            }
        }
        aborted
    }
}

#[expect(clippy::disallowed_methods, reason = "the supervisor is where tasks may be spawned")]
fn spawn(work: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
    tokio::spawn(work)
}

/// How long the same failure is not told of again: a log wears the disk, and hides what else is in it.
const SILENCE: Duration = Duration::from_secs(300);

/// The last failure of a task that was told of.
#[derive(Default)]
struct Said(Option<(String, clock::Instant)>);

impl Said {
    fn is_news(&mut self, why: &str, now: clock::Instant) -> bool {
        let known =
            self.0.as_ref().is_some_and(|(said, at)| said == why && now.duration_since(*at) < SILENCE);
        if !known {
            self.0 = Some((why.to_owned(), now));
        }
        !known
    }
}

/// A task's work, begun anew for each restart; the error says why it failed.
type Work = Box<dyn FnMut(Shutdown) -> BoxFuture<'static, Result<(), String>> + Send>;

struct Supervised {
    name: String,
    restart: Restart,
    exit: watch::Sender<Option<Exit>>,
    task: Work,
}

impl Supervised {
    /// Runs in each term, until its phase is drained.
    async fn run_in_terms(&mut self, term: &Term, shutdown: Shutdown) {
        loop {
            tokio::select! {
                () = term.begun() => {}
                () = shutdown.requested() => return,
            }
            let Some(part) = term.enter() else { continue };
            let over = part.over();
            tokio::select! {
                biased;
                () = part.cut() => {}
                () = self.run(shutdown.within(over.clone())) => {}
            }
            drop(part);
            tokio::select! {
                () = over.requested() => {}
                () = shutdown.requested() => return,
            }
        }
    }

    async fn run(&mut self, shutdown: Shutdown) {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(30));
        let mut said = Said::default();
        loop {
            let started = clock::instant();
            let why = match AssertUnwindSafe((self.task)(shutdown.clone())).catch_unwind().await {
                Ok(Ok(())) if self.restart == Restart::OnFailure || shutdown.is_requested() => return,
                Ok(Ok(())) => "it returned".to_owned(),
                Ok(Err(why)) => why,
                Err(panic) => panic_text(&*panic),
            };
            if shutdown.is_requested() {
                return;
            }
            if self.restart == Restart::Fatal {
                return self.end_process(why);
            }
            if started.elapsed() > Duration::from_secs(60) {
                backoff.reset();
            }
            let delay = backoff.next_delay();
            if said.is_news(&why, clock::instant()) {
                tracing::warn!(task = self.name, error = why, ?delay, "task failed; starting it again");
            } else {
                tracing::debug!(task = self.name, error = why, ?delay, "task failed; starting it again");
            }
            tokio::select! {
                () = clock::sleep(delay) => {}
                () = shutdown.requested() => return,
            }
        }
    }

    fn end_process(&self, why: String) {
        tracing::error!(task = self.name, error = why, "ended; the process cannot go on without it");
        self.exit.send_if_modified(|exit| {
            let first = exit.is_none();
            exit.get_or_insert(Exit::Task(self.name.clone(), why));
            first
        });
    }
}

pub(crate) fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "panic".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[tokio::test(start_paused = true)]
    async fn a_failing_task_is_started_again() {
        let supervisor = Supervisor::new();
        let runs = Arc::new(AtomicUsize::new(0));
        let (done, finished) = tokio::sync::oneshot::channel();
        let mut done = Some(done);
        let counter = runs.clone();
        supervisor.run("flaky", Phase::Work, Restart::OnFailure, move |_| {
            let run = counter.fetch_add(1, Ordering::SeqCst);
            let done = if run == 2 { done.take() } else { None };
            async move {
                match (run, done) {
                    (0, _) => Err("first".to_owned()),
                    (1, _) => panic!("second"),
                    (_, Some(done)) => done.send(()).map_err(|()| "nobody waits".to_owned()),
                    _ => Ok(()),
                }
            }
        });
        finished.await.unwrap();
        assert_eq!(runs.load(Ordering::SeqCst), 3);
    }

    #[test]
    fn the_same_failure_is_told_of_once_in_a_while() {
        let (mut said, now) = (Said::default(), clock::instant());
        assert!(said.is_news("refused", now) && !said.is_news("refused", now + SILENCE / 2));
        assert!(said.is_news("timed out", now + SILENCE / 2) && said.is_news("refused", now + SILENCE / 2));
        assert!(said.is_news("refused", now + SILENCE * 2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_fatal_task_ends_the_process_by_name() {
        let supervisor = Supervisor::new();
        supervisor.run("store", Phase::Ground, Restart::Fatal, |_| async { Err("disk is gone") });
        assert!(
            matches!(supervisor.ended().await, Exit::Task(name, why) if name == "store" && why == "disk is gone")
        );
    }

    #[tokio::test(start_paused = true)]
    async fn detached_work_is_dropped_with_its_phase() {
        let supervisor = Supervisor::new();
        let ends = Arc::new(AtomicUsize::new(0));
        let detach = |phase| {
            let (end, (begun, begins)) = (Counted(ends.clone()), tokio::sync::oneshot::channel());
            let handle = supervisor.detached("connection", phase, async move {
                let _end = end;
                begun.send(()).unwrap();
                std::future::pending::<()>().await;
            });
            (handle, begins)
        };
        let ((aborted, first), (_, second)) = (detach(Phase::Work), detach(Phase::Work));
        supervisor.detached("short", Phase::Ground, async { panic!("told by name") });
        first.await.unwrap();
        second.await.unwrap();
        tokio::task::yield_now().await;
        assert_eq!(supervisor.inner.detached().running.len(), 2);
        aborted.abort();
        assert_eq!(supervisor.drain().await, Drained::Cleanly);
        tokio::task::yield_now().await;
        assert_eq!((ends.load(Ordering::SeqCst), supervisor.inner.detached().running.len()), (2, 0));
        let (_, late) = detach(Phase::Work);
        assert!(late.await.is_err(), "nothing is begun any more");
    }

    #[tokio::test(start_paused = true)]
    async fn detached_work_is_dropped_with_its_supervisor() {
        let (supervisor, ends) = (Supervisor::new(), Arc::new(AtomicUsize::new(0)));
        let (end, (begun, begins)) = (Counted(ends.clone()), tokio::sync::oneshot::channel());
        supervisor.clone().detached("connection", Phase::Work, async move {
            let _end = end;
            begun.send(()).unwrap();
            std::future::pending::<()>().await;
        });
        begins.await.unwrap();
        assert_eq!(ends.load(Ordering::SeqCst), 0);
        drop(supervisor);
        tokio::task::yield_now().await;
        assert_eq!(ends.load(Ordering::SeqCst), 1);
    }

    struct Counted(Arc<AtomicUsize>);

    impl Drop for Counted {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn draining_stops_front_before_ground() {
        let supervisor = Supervisor::new();
        let order = Arc::new(Mutex::new(Vec::new()));
        for phase in [Phase::Ground, Phase::Front, Phase::Work] {
            let order = order.clone();
            supervisor.run("task", phase, Restart::Fatal, move |shutdown| {
                let order = order.clone();
                async move {
                    shutdown.requested().await;
                    order.lock().unwrap().push(phase);
                    Ok::<(), String>(())
                }
            });
        }
        assert_eq!(supervisor.drain().await, Drained::Cleanly);
        assert_eq!(*order.lock().unwrap(), PHASES);
    }
}
