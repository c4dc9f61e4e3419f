//! One task per pod: looks, decides by the pure plan, acts, reports, and sleeps until something changes.

use super::act::Acted;
use super::inbox::{Inbox, Wanted};
use super::mounting::{Mounting, Waiting};
use super::observe::{Observed, Observer};
use super::plan::{self, Action, View};
use super::probes::Probes;
use super::reporting::Essence;
use super::restarts::Restarts;
use super::state::{Facts, State};
use super::status::{Failures, Verdict};
use super::{Pods, spec};
use crate::checkpoint::{Checkpoint, Resources};
use crate::protocols::runtime::v1 as cri;
use crate::stats::counters;
use crate::volumes::Volumes;
use crate::{Context, Error};
use api::Object;
use api::core::{Pod, PodStatus};
use base::{Backoff, clock};
use jiff::{SignedDuration, Timestamp};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::oneshot;

/// Until what could not be done is tried again.
pub(super) const RETRY: SignedDuration = SignedDuration::from_secs(10);
/// Rounds of plan and action in one turn: a sandbox, then its containers, then a look that all is done.
const ROUNDS: usize = 4;
/// How often a container that the runtime said had ended is looked at until CRI says so too: for half a minute,
/// since nothing else would tell of the end.
const SETTLE_TRIES: u32 = 32;

/// Where it is answered why the node does not take a pod.
pub(super) type Admission = oneshot::Receiver<Option<Verdict>>;

/// What a turn ends with.
pub(super) enum Turn {
    /// Wait for a wake, at most until then.
    Wait(Option<Timestamp>),
    /// Go on at once.
    Again,
    Done,
}

/// The worker of one pod.
pub(crate) struct Worker {
    pub(super) context: Arc<Context>,
    pub(super) pods: Pods,
    pub(super) inbox: Arc<Inbox>,
    pub(super) pod: Arc<Pod>,
    pub(super) exists: bool,
    pub(super) state: State,
    pub(super) observer: Observer,
    pub(super) observed: Observed,
    pub(super) restarts: Restarts,
    pub(super) failures: Failures,
    pub(super) probes: Probes,
    pub(super) volumes: Option<Volumes>,
    /// Between attempts to make the volumes; what they lack wakes the worker when it appears.
    pub(super) mounting: Backoff,
    pub(super) waiting: Waiting,
    pub(super) verdict: Option<Verdict>,
    pub(super) finished: bool,
    pub(super) retry_at: Option<Timestamp>,
    /// Until it is answered whether the node takes the pod.
    admission: Option<Admission>,
    /// What running containers have that were given something else.
    pub(super) lagging: Resources,
    pub(super) resize_error: Option<String>,
    /// The status that the API server has, where it could not be told of a later one.
    pub(super) untold: Option<PodStatus>,
    /// The pod asks for other resources than it was given.
    pub(super) asks_for_other: bool,
    /// What of the status is in the pod's checkpoint.
    pub(super) remembered: Option<Essence>,
}

impl Worker {
    pub(crate) fn new(
        context: Arc<Context>,
        pods: Pods,
        inbox: Arc<Inbox>,
        admission: Option<Admission>,
    ) -> Self {
        let Wanted { pod, exists, .. } = inbox.wanted.borrow().clone();
        let probes = Probes::new(inbox.wake.clone());
        let longest = context.config.kubelet().crash_loop_back_off.max_container_restart_period.get();
        Self {
            context,
            pods,
            pod,
            exists,
            state: State::Syncing,
            observer: Observer::default(),
            observed: Observed::default(),
            restarts: Restarts::new(longest),
            failures: Failures::new(),
            probes,
            volumes: None,
            mounting: Backoff::new(Duration::from_millis(500), Duration::from_secs(122)),
            waiting: Waiting::default(),
            verdict: None,
            finished: false,
            retry_at: None,
            admission,
            lagging: Resources::new(),
            resize_error: None,
            untold: None,
            asks_for_other: false,
            remembered: None,
            inbox,
        }
    }

    /// Waits until it is decided whether the node takes the pod; one that it does not take ends at once.
    async fn be_admitted(&mut self) {
        let Some(admission) = self.admission.take() else { return };
        match admission.await {
            Ok(verdict) => self.verdict = verdict,
            Err(_) => tracing::debug!(pod = spec::described(&self.pod), "nobody admits pods any more"),
        }
        self.pod = self.inbox.wanted.borrow().pod.clone();
        if let Some(kept) = Checkpoint::read(&self.context.config, self.pod.uid()) {
            self.lagging = kept.actuated;
            if self.is_static() {
                self.pod = Arc::new(Pod { status: kept.pod.status, ..(*self.pod).clone() });
            }
        }
    }

    /// Works until the pod is gone from this machine.
    pub(crate) async fn run(mut self) {
        let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(60));
        self.be_admitted().await;
        loop {
            // Boxed, since a turn's state is fifty times a worker's, which waits for most of its life.
            let begun = clock::instant();
            let turned = Box::pin(self.turn()).await;
            counters::POD_WORKER.observe_since(&["sync"], begun);
            let until = match turned {
                Ok(Turn::Done) => break,
                Ok(Turn::Again) => continue,
                Ok(Turn::Wait(until)) => {
                    backoff.reset();
                    until
                }
                Err(error) => {
                    tracing::warn!(pod = spec::described(&self.pod), %error, "will try again");
                    self.inbox.dirty.store(true, Ordering::SeqCst);
                    SignedDuration::try_from(backoff.next_delay()).ok().map(|delay| clock::now() + delay)
                }
            };
            let left = until.map(|at| clock::between(clock::now(), at));
            tokio::select! {
                () = self.inbox.wake.notified() => {}
                () = async {
                    match left {
                        Some(left) => clock::sleep(left).await,
                        None => std::future::pending().await,
                    }
                } => {}
            }
        }
        self.pods.forget(self.pod.uid(), &self.inbox);
        self.context.forget(&self.pod);
    }

    async fn turn(&mut self) -> Result<Turn, Error> {
        self.read_wanted();
        if self.inbox.dirty.swap(false, Ordering::SeqCst) {
            self.look().await?;
        }
        self.judge();
        let next = self.state.step(self.facts());
        if next != self.state {
            tracing::debug!(pod = spec::described(&self.pod), state = ?next, "pod");
            self.state = next;
        }
        match self.state.clone() {
            State::Syncing => self.sync().await,
            State::Terminating { grace_s, since } => self.terminate(grace_s, since).await,
            State::Terminated => self.clean_up().await,
            State::Finished => self.finish().await,
        }
    }

    /// Takes over what the API server says, unless our own last write is newer.
    fn read_wanted(&mut self) {
        let wanted = self.inbox.wanted.borrow().clone();
        self.exists = wanted.exists;
        if self.verdict.is_none() {
            self.verdict = wanted.verdict;
        }
        // A pod of the node itself never changes, and its status is nowhere else.
        let newer = wanted.pod.revision() > self.pod.revision();
        let same = wanted.pod.revision() == self.pod.revision() && self.untold.is_none();
        if !self.is_static() && (newer || same) {
            self.adopt(&wanted.told, wanted.pod);
        }
    }

    /// Makes the next turn come at the latest after `delay`.
    pub(super) fn retry_later(&mut self, delay: SignedDuration) {
        let retry = clock::now() + delay;
        self.retry_at = Some(self.retry_at.map_or(retry, |at| at.min(retry)));
    }

    pub(super) async fn look(&mut self) -> Result<(), Error> {
        let asked = clock::instant();
        self.observed = self.observer.observe(&self.context.runtime, self.pod.uid()).await?;
        counters::POD_RELIST.observe_since(&[], asked);
        self.pods.own(&self.context, self.pod.uid(), &self.observed);
        Ok(())
    }

    /// Looks until CRI has noticed an end that the runtime's event stream told of: the two are not in step.
    pub(crate) async fn settle(context: &Context, id: &str) {
        let mut backoff = Backoff::new(Duration::from_millis(5), Duration::from_secs(1));
        for _ in 0..SETTLE_TRIES {
            let request = cri::ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
            let status =
                context.runtime.container_status(request).await.ok().and_then(|answer| answer.status);
            // One that ends at once may not be shown as started yet.
            let has_ended = |state| {
                !matches!(
                    state,
                    cri::ContainerState::ContainerCreated | cri::ContainerState::ContainerRunning
                )
            };
            if status.is_none_or(|status| has_ended(status.state())) {
                return;
            }
            clock::sleep(backoff.next_delay()).await;
        }
    }

    fn facts(&self) -> Facts {
        Facts {
            exists: self.exists,
            deleting: self.pod.is_deleting(),
            ended: self.finished || self.verdict.is_some() || spec::has_ended(&self.pod),
            stopped: self.observed.is_stopped(),
            grace_s: self.verdict.as_ref().and_then(|it| it.grace_s).unwrap_or(spec::grace_s(&self.pod)),
            now: clock::now(),
        }
    }

    /// Gives up on a pod that is past its deadline.
    fn judge(&mut self) {
        if self.verdict.is_none() && self.deadline().is_some_and(|deadline| deadline <= clock::now()) {
            let message = "Pod was active on the node longer than the specified deadline".to_owned();
            self.context.recorder.normal(&*self.pod, "DeadlineExceeded", message.clone());
            self.verdict = Some(Verdict::new("DeadlineExceeded", message));
        }
    }

    fn deadline(&self) -> Option<Timestamp> {
        let limit = spec::spec(&self.pod).active_deadline_seconds?;
        let start = self.pod.status.as_ref()?.start_time.as_ref()?;
        Some(start.0 + SignedDuration::from_secs(limit))
    }

    /// Does what a running pod needs next.
    async fn sync(&mut self) -> Result<Turn, Error> {
        self.retry_at = None;
        // What was ready before a restart of knarr is known before it is reported.
        self.follow_probes();
        self.report().await?;
        match self.update_volumes().await {
            Mounting::Done => {}
            Mounting::Waits => return Ok(Turn::Wait(self.wake([None, None]))),
            Mounting::Interrupted => return Ok(Turn::Again),
        }
        // When volumes are to be made again is no reason for containers to wait.
        let refresh = self.retry_at.take();
        for _ in 0..ROUNDS {
            self.follow_probes();
            let results = self.probes.results();
            let plan = plan::plan(&View {
                pod: &self.pod,
                observed: &self.observed,
                probes: &results,
                restarts: &self.restarts,
                lagging: &self.lagging,
                now: clock::now(),
            });
            self.finished = plan.finished;
            if self.finished {
                return Ok(Turn::Again);
            }
            self.failures.retain(|name, _| is_planned(&plan.actions, name));
            let acted = self.act_unless_going(&plan.actions).await?;
            match acted {
                Acted::Interrupted => return Ok(Turn::Again),
                Acted::Nothing => {
                    self.report().await?;
                    return Ok(Turn::Wait(self.wake([plan.wake, refresh])));
                }
                Acted::Something => {
                    self.look().await?;
                    self.report().await?;
                    if self.retry_at.is_some() {
                        return Ok(Turn::Wait(self.wake([plan.wake, refresh])));
                    }
                }
            }
        }
        Ok(Turn::Again)
    }

    /// Starts and stops probes as containers come and go.
    pub(super) fn follow_probes(&mut self) {
        let ip = self.observed.address(&self.pod, &self.context.addresses());
        self.probes.follow(&self.context, &self.pod, &self.observed.containers, &ip);
    }

    /// The earliest time at which there is something to do without being woken.
    fn wake(&self, planned: [Option<Timestamp>; 2]) -> Option<Timestamp> {
        let renew = self.volumes.as_ref().and_then(Volumes::renew);
        planned.into_iter().chain([self.retry_at, renew, self.deadline()]).flatten().min()
    }
}

/// Whether a container of this name is still waiting to be started.
fn is_planned(actions: &[Action], of: &str) -> bool {
    actions.iter().any(|action| match action {
        Action::Start { name, .. } | Action::BackOff { name, .. } => name == of,
        _ => false,
    })
}
