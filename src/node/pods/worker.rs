//! One task per pod: looks, decides by the pure plan, acts, reports, and sleeps until something changes.

use super::mounting::{Mounting, Waiting};
use super::observe::{Observed, Observer};
use super::plan::{self, Action, View};
use super::probes::Probes;
use super::restarts::Restarts;
use super::start::Start;
use super::state::{Facts, State};
use super::status::{self, Failures, Verdict};
use super::{Pods, report, sandbox, spec, stop};
use crate::protocols::runtime::v1 as cri;
use crate::volumes::Volumes;
use crate::{Context, Error, files};
use api::Object;
use api::core::Pod;
use base::{Backoff, clock};
use client::Patch;
use jiff::{SignedDuration, Timestamp};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, watch};

/// Until a container that could not be started is tried again.
const RETRY: SignedDuration = SignedDuration::from_secs(10);
/// Rounds of plan and action in one turn: a sandbox, then its containers, then a look that all is done.
const ROUNDS: usize = 4;
/// How often a container that the runtime said had ended is looked at until CRI says so too: for half a minute,
/// since nothing else would tell of the end.
const SETTLE_TRIES: u32 = 32;

/// The pod as the API server last told it.
#[derive(Clone)]
pub(crate) struct Wanted {
    pub(crate) pod: Arc<Pod>,
    pub(crate) exists: bool,
}

impl Wanted {
    pub(super) fn is_going(&self) -> bool {
        !self.exists || self.pod.is_deleting()
    }
}

/// How others reach a worker.
pub(crate) struct Inbox {
    pub(crate) wanted: watch::Sender<Wanted>,
    pub(crate) wake: Arc<Notify>,
    /// The runtime's state changed.
    pub(crate) dirty: AtomicBool,
    /// Something the volumes are made from changed.
    pub(crate) stale: AtomicBool,
}

impl Inbox {
    pub(crate) fn new(wanted: Wanted) -> Self {
        Self {
            wanted: watch::channel(wanted).0,
            wake: Arc::default(),
            dirty: AtomicBool::new(true),
            stale: AtomicBool::new(true),
        }
    }

    /// Tells the worker that the runtime's state changed.
    pub(crate) fn runtime_changed(&self) {
        self.dirty.store(true, Ordering::SeqCst);
        self.wake.notify_one();
    }

    /// Tells the worker that its volumes may be out of date.
    pub(crate) fn volumes_changed(&self) {
        self.stale.store(true, Ordering::SeqCst);
        self.wake.notify_one();
    }
}

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
}

impl Worker {
    pub(crate) fn new(context: Arc<Context>, pods: Pods, inbox: Arc<Inbox>) -> Self {
        let Wanted { pod, exists } = inbox.wanted.borrow().clone();
        let probes = Probes::new(inbox.wake.clone());
        Self {
            context,
            pods,
            pod,
            exists,
            state: State::Syncing,
            observer: Observer::default(),
            observed: Observed::default(),
            restarts: Restarts::default(),
            failures: Failures::new(),
            probes,
            volumes: None,
            mounting: Backoff::new(Duration::from_millis(500), Duration::from_secs(122)),
            waiting: Waiting::default(),
            verdict: None,
            finished: false,
            retry_at: None,
            inbox,
        }
    }

    /// Works until the pod is gone from this machine.
    pub(crate) async fn run(mut self) {
        let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(60));
        loop {
            // Boxed, since a turn's state is fifty times a worker's, which waits for most of its life.
            let until = match Box::pin(self.turn()).await {
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
            let left =
                until.map(|at| Duration::try_from(at.duration_since(clock::now())).unwrap_or_default());
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
        self.context.forget(self.pod.uid());
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
        if wanted.pod.revision() >= self.pod.revision() {
            self.pod = wanted.pod;
        }
    }

    pub(super) async fn look(&mut self) -> Result<(), Error> {
        self.observed = self.observer.observe(&self.context.runtime, self.pod.uid()).await?;
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
        let reported = self.pod.status.as_ref().and_then(|status| status.phase.as_deref());
        Facts {
            exists: self.exists,
            deleting: self.pod.is_deleting(),
            ended: self.finished
                || self.verdict.is_some()
                || matches!(reported, Some("Succeeded" | "Failed")),
            stopped: self.observed.is_stopped(),
            grace_s: spec::grace_s(&self.pod),
            now: clock::now(),
        }
    }

    /// Gives up on a pod that is past its deadline.
    fn judge(&mut self) {
        if self.verdict.is_none() && self.deadline().is_some_and(|deadline| deadline <= clock::now()) {
            let message = "Pod was active on the node longer than the specified deadline".to_owned();
            self.context.recorder.normal(&*self.pod, "DeadlineExceeded", message.clone());
            self.verdict = Some(Verdict { reason: "DeadlineExceeded".to_owned(), message });
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
            Mounting::Waits => return Ok(Turn::Wait(self.wake(None))),
            Mounting::Interrupted => return Ok(Turn::Again),
        }
        for _ in 0..ROUNDS {
            self.follow_probes();
            let results = self.probes.results();
            let plan = plan::plan(&View {
                pod: &self.pod,
                observed: &self.observed,
                probes: &results,
                restarts: &self.restarts,
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
                    return Ok(Turn::Wait(self.wake(plan.wake)));
                }
                Acted::Something => {
                    self.look().await?;
                    self.report().await?;
                    if self.retry_at.is_some() {
                        return Ok(Turn::Wait(self.wake(plan.wake)));
                    }
                }
            }
        }
        Ok(Turn::Again)
    }

    /// Starts and stops probes as containers come and go.
    fn follow_probes(&mut self) {
        let ip = self.observed.sandbox().and_then(|sandbox| sandbox.ips.first().cloned()).unwrap_or_default();
        let ip = if spec::host_network(&self.pod) { self.host_ip() } else { ip };
        self.probes.follow(&self.context, &self.pod, &self.observed.containers, &ip);
    }

    fn host_ip(&self) -> String {
        self.context.machine.addresses.first().map(ToString::to_string).unwrap_or_default()
    }

    /// The earliest time at which there is something to do without being woken.
    fn wake(&self, planned: Option<Timestamp>) -> Option<Timestamp> {
        let renew = self.volumes.as_ref().and_then(Volumes::renew);
        [planned, self.retry_at, renew, self.deadline()].into_iter().flatten().min()
    }

    /// Carries out a plan, until the pod is to go.
    async fn act_unless_going(&mut self, actions: &[Action]) -> Result<Acted, Error> {
        let mut wanted = self.inbox.wanted.subscribe();
        let acted = tokio::select! {
            biased;
            _ = wanted.wait_for(Wanted::is_going) => None,
            acted = self.act(actions) => Some(acted),
        };
        match acted {
            Some(acted) => acted,
            None => {
                self.inbox.dirty.store(true, Ordering::SeqCst);
                Ok(Acted::Interrupted)
            }
        }
    }

    async fn act(&mut self, actions: &[Action]) -> Result<Acted, Error> {
        let mut acted = Acted::Nothing;
        for (i, action) in actions.iter().enumerate() {
            if !self.one(action).await? {
                continue;
            }
            acted = Acted::Something;
            // The next may have to pull an image: what has started is not kept secret until then.
            if matches!(action, Action::Start { .. }) && i + 1 < actions.len() {
                self.look().await?;
                self.follow_probes();
                self.report().await?;
            }
        }
        Ok(acted)
    }

    /// Carries out one action; returns whether the runtime's state changed.
    async fn one(&mut self, action: &Action) -> Result<bool, Error> {
        match action {
            Action::CreateSandbox { attempt } => self.create_sandbox(*attempt).await?,
            Action::Start { kind, name, restarts, after } => self.start(*kind, name, *restarts, *after).await,
            Action::Stop { kind, name, id, why, message } => {
                let Some((_, container)) = spec::container(&self.pod, name) else { return Ok(false) };
                let Some(record) = self.observed.containers.iter().find(|record| record.id == *id).cloned()
                else {
                    return Ok(false);
                };
                let grace = stop::grace(&self.pod, &container, *why);
                let ip = self
                    .observed
                    .sandbox()
                    .and_then(|sandbox| sandbox.ips.first())
                    .map_or("", String::as_str);
                let how = (grace, message.clone(), ip);
                stop::container(&self.context, &self.pod, (*kind, &container), &record, how).await?;
            }
            Action::BackOff { kind, name, message } => {
                let failure = ("CrashLoopBackOff".to_owned(), message.clone());
                if self.failures.insert(name.clone(), failure.clone()) != Some(failure) {
                    let text = format!(
                        "Back-off restarting failed container {name} in pod {}",
                        spec::described(&self.pod)
                    );
                    self.context.warn_container(&self.pod, (*kind, name), "BackOff", text);
                }
                return Ok(false);
            }
            Action::Forget { id } => {
                self.forget_log(id)?;
                let request = cri::RemoveContainerRequest { container_id: id.clone() };
                self.context.runtime.remove_container(request).await?;
            }
            Action::ForgetSandbox { id } => {
                let sandboxes =
                    self.observed.sandboxes.iter().filter(|sandbox| sandbox.id == *id).cloned().collect();
                stop::remove(&self.context, &Observed { sandboxes, containers: Vec::new() }).await?;
            }
        }
        Ok(true)
    }

    async fn create_sandbox(&mut self, attempt: u32) -> Result<(), Error> {
        if !self.observed.is_stopped() {
            let message = "Pod sandbox changed, it will be killed and re-created.".to_owned();
            self.context.recorder.normal(&*self.pod, "SandboxChanged", message);
        }
        let grace = Duration::from_secs(spec::grace_s(&self.pod).unsigned_abs());
        if !self.observed.sandboxes.is_empty() {
            stop::everything(&self.context, &self.pod, &self.observed, grace).await?;
        }
        self.prepare_devices().await?;
        self.context.cgroups.make(&self.pod)?;
        let parent = self.context.cgroups.parent(&self.pod);
        let config = sandbox::config(&self.pod, &self.context.config, attempt, parent);
        self.context.machine.change(|| files::make_folder(config.log_directory.as_ref(), 0o755))?;
        let ran = match self.runtime_handler().await {
            Ok(runtime_handler) => {
                let request = cri::RunPodSandboxRequest { config: Some(config), runtime_handler };
                self.context.runtime.run_pod_sandbox(request).await
            }
            Err(error) => Err(error),
        };
        if let Err(error) = ran {
            let message = format!("Failed to create pod sandbox: {error}");
            self.context.recorder.warning(&*self.pod, "FailedCreatePodSandBox", message);
            return Err(error);
        }
        Ok(())
    }

    /// The runtime's name of the pod's RuntimeClass; "" for its default.
    async fn runtime_handler(&self) -> Result<String, Error> {
        if spec::spec(&self.pod).host_users == Some(false) {
            let text = "hostUsers: false needs user namespaces, which this node does not offer";
            return Err(Error::Container("CreatePodSandboxError", text.to_owned()));
        }
        let Some(name) = &spec::spec(&self.pod).runtime_class_name else { return Ok(String::new()) };
        let class = self.context.client.get::<api::k8s::api::node::v1::RuntimeClass>("", name).await?;
        Ok(class.handler)
    }

    async fn start(&mut self, kind: spec::Kind, name: &str, restarts: u32, after: Option<Timestamp>) {
        let Some((_, container)) = spec::container(&self.pod, name) else { return };
        if let Some(after) = after {
            self.restarts.started(&plan::key(&container), after, clock::now());
        }
        let none = Volumes::default();
        let start = Start {
            context: &self.context,
            pod: &self.pod,
            kind,
            container: &container,
            restarts,
            observed: &self.observed,
            volumes: self.volumes.as_ref().unwrap_or(&none),
        };
        match start.run().await {
            Ok(()) => drop(self.failures.remove(name)),
            Err(error) => {
                let reason =
                    if let Error::Container(reason, _) = &error { reason } else { "RunContainerError" };
                self.failures.insert(name.to_owned(), (reason.to_owned(), error.to_string()));
                let retry = clock::now() + self.retry_after(reason);
                self.retry_at = Some(self.retry_at.map_or(retry, |at| at.min(retry)));
            }
        }
    }

    /// A failed pull is soon looked at again, to say that it is waited for, and then when it is due.
    fn retry_after(&self, reason: &str) -> SignedDuration {
        match reason {
            "ErrImagePull" => SignedDuration::from_secs(1),
            "ImagePullBackOff" => {
                let due = self.context.images.due(self.pod.uid());
                let left = due.map(|due| due.saturating_duration_since(clock::instant()));
                left.and_then(|left| SignedDuration::try_from(left).ok()).unwrap_or(RETRY)
            }
            _ => RETRY,
        }
    }

    /// Patches the status if it changed.
    pub(super) async fn report(&mut self) -> Result<(), Error> {
        if !self.exists {
            return Ok(());
        }
        let results = self.probes.results();
        let input = status::Input {
            pod: &self.pod,
            observed: &self.observed,
            probes: &results,
            failures: &self.failures,
            volumes: self.volumes.as_ref(),
            verdict: self.verdict.as_ref(),
            ending: self.state != State::Syncing,
            host_ips: &self.context.machine.addresses,
            now: clock::now(),
        };
        let Some(patch) = report::patch(&self.pod, &status::render(&input)) else { return Ok(()) };
        let patch = Patch::Strategic(patch);
        match self.context.client.patch_status::<Pod>(self.pod.namespace(), self.pod.name(), &patch).await {
            Ok(pod) => self.pod = Arc::new(pod),
            // It was deleted, or replaced by another of its name: the cache will say so.
            Err(error) if error.is_not_found() || error.is_conflict() => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }
}

/// Whether carrying out actions changed anything.
enum Acted {
    Nothing,
    Something,
    Interrupted,
}

/// Whether a container of this name is still waiting to be started.
fn is_planned(actions: &[Action], of: &str) -> bool {
    actions.iter().any(|action| match action {
        Action::Start { name, .. } | Action::BackOff { name, .. } => name == of,
        _ => false,
    })
}
