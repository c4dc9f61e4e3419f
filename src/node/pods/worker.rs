//! One task per pod: looks, decides by the pure plan, acts, reports, and sleeps until something changes.

use super::observe::{Life, Observed, Observer};
use super::plan::{self, Action, View};
use super::probes::Probes;
use super::restarts::Restarts;
use super::start::Start;
use super::state::{Facts, State};
use super::status::{self, Failures, Verdict};
use super::{Pods, report, sandbox, spec, stop};
use crate::checkpoint::{Checkpoint, Resources};
use crate::protocols::runtime::v1 as cri;
use crate::volumes::{self, Volumes};
use crate::{Context, Error, files};
use api::Object;
use api::core::Pod;
use base::{Backoff, clock};
use client::Patch;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, oneshot, watch};

/// Until a container that could not be started is tried again.
const RETRY: SignedDuration = SignedDuration::from_secs(10);
/// Rounds of plan and action in one turn: a sandbox, then its containers, then a look that all is done.
const ROUNDS: usize = 4;
/// How often a container that the runtime said had ended is looked at until CRI says so too: for half a minute,
/// since nothing else would tell of the end.
const SETTLE_TRIES: u32 = 32;

/// What is wanted of a worker.
#[derive(Clone)]
pub(crate) struct Wanted {
    /// The pod with the resources that it was given.
    pub(crate) pod: Arc<Pod>,
    /// As it was told last.
    pub(crate) told: Arc<Pod>,
    pub(crate) exists: bool,
    /// Why it has not been given what it asks for by now.
    pub(crate) pending: Option<Pending>,
    /// It has to end, and this is why.
    pub(crate) verdict: Option<Verdict>,
}

/// A resize that waits (KEP-1287).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pending {
    pub(crate) message: String,
    pub(crate) generation: Option<i64>,
}

impl Pending {
    /// An event's message about a resize: what is asked for, as JSON.
    pub(crate) fn message(what: &str, pod: &Pod, error: Option<&str>) -> String {
        let list = |containers: &[api::core::Container]| -> Vec<Value> {
            let entry = |it: &api::core::Container| json!({"name": it.name, "resources": it.resources});
            containers.iter().map(entry).collect()
        };
        let mut summary = json!({"containers": list(&spec::spec(pod).containers)});
        let init = list(spec::init_containers(pod));
        if !init.is_empty() {
            summary["initContainers"] = init.into();
        }
        summary["generation"] = pod.metadata.generation.into();
        if let Some(error) = error {
            summary["error"] = error.into();
        }
        format!("Pod resize {what}: {summary}")
    }
}

impl Wanted {
    pub(crate) fn new(pod: Arc<Pod>, exists: bool) -> Self {
        Self { told: pod.clone(), pod, exists, pending: None, verdict: None }
    }

    fn is_going(&self) -> bool {
        !self.exists || self.pod.is_deleting() || self.verdict.is_some()
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

    /// Tells the worker what its pod is by now: as it was told, and with what it was given.
    pub(crate) fn tell(&self, told: Arc<Pod>, pod: Arc<Pod>, exists: bool) {
        self.wanted.send_modify(|wanted| {
            if Arc::ptr_eq(&told, &pod) {
                wanted.pending = None;
            }
            (wanted.told, wanted.pod, wanted.exists) = (told, pod, exists);
        });
        self.wake.notify_one();
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
    pub(super) verdict: Option<Verdict>,
    pub(super) finished: bool,
    pub(super) retry_at: Option<Timestamp>,
    /// Until it is answered whether the node takes the pod.
    admission: Option<Admission>,
    /// What running containers have that were given something else.
    pub(super) lagging: Resources,
    pub(super) resize_error: Option<String>,
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
            verdict: None,
            finished: false,
            retry_at: None,
            admission,
            lagging: Resources::new(),
            resize_error: None,
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
        if self.verdict.is_none() {
            self.verdict = wanted.verdict;
        }
        // A pod of the node itself never changes, and its status is nowhere else.
        if !self.is_static() && wanted.pod.revision() >= self.pod.revision() {
            self.adopt(wanted.pod);
        }
    }

    fn adopt(&mut self, pod: Arc<Pod>) {
        self.take_given(&pod);
        self.pod = pod;
    }

    pub(super) fn retry_later(&mut self) {
        let retry = clock::now() + RETRY;
        self.retry_at = Some(self.retry_at.map_or(retry, |at| at.min(retry)));
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
        if !self.update_volumes().await {
            return Ok(Turn::Wait(self.wake(None)));
        }
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
        let renew = self.volumes.as_ref().and_then(|volumes| volumes.renew);
        [planned, self.retry_at, renew, self.deadline()].into_iter().flatten().min()
    }

    /// Makes or refreshes the volumes; returns whether containers may start.
    async fn update_volumes(&mut self) -> bool {
        let due =
            self.volumes.as_ref().and_then(|volumes| volumes.renew).is_some_and(|at| at <= clock::now());
        if !self.inbox.stale.swap(false, Ordering::SeqCst) && !due && self.volumes.is_some() {
            return true;
        }
        self.pods.watch_sources(&self.context, &self.pod);
        match volumes::prepare(&self.context, &self.pod).await {
            Ok(volumes) => {
                self.volumes = Some(volumes);
                self.mounting.reset();
                true
            }
            Err(error) => {
                self.context.recorder.warning(&*self.pod, "FailedMount", error.to_string());
                self.inbox.stale.store(true, Ordering::SeqCst);
                let delay = SignedDuration::try_from(self.mounting.next_delay()).unwrap_or(RETRY);
                self.retry_at = Some(clock::now() + delay);
                self.volumes.is_some()
            }
        }
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
            Action::Resize => {
                self.resize().await?;
                return Ok(self.resize_error.is_none());
            }
            Action::Reset { ids } => self.start_over(ids).await?,
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

    /// Kills and removes containers for all to start over; their logs stay.
    async fn start_over(&self, ids: &[String]) -> Result<(), Error> {
        let ip = self.observed.sandbox().and_then(|sandbox| sandbox.ips.first()).map_or("", String::as_str);
        for record in ids.iter().filter_map(|id| self.observed.containers.iter().find(|it| it.id == *id)) {
            if record.life != Life::Exited
                && let Some((kind, container)) = spec::container(&self.pod, &record.name)
            {
                let how = (Duration::ZERO, "killing".to_owned(), ip);
                stop::container(&self.context, &self.pod, (kind, &container), record, how).await?;
            }
            let request = cri::RemoveContainerRequest { container_id: record.id.clone() };
            self.context.runtime.remove_container(request).await?;
        }
        Ok(())
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
            Ok(()) => {
                self.failures.remove(name);
                self.has_given(name);
            }
            Err(error) => {
                let reason =
                    if let Error::Container(reason, _) = &error { reason } else { "RunContainerError" };
                self.failures.insert(name.to_owned(), (reason.to_owned(), error.to_string()));
                let retry = clock::now() + self.retry_after(reason);
                self.retry_at = Some(self.retry_at.map_or(retry, |at| at.min(retry)));
            }
        }
    }

    /// A container was started with what it was given.
    fn has_given(&mut self, name: &str) {
        if self.lagging.remove(name).is_some()
            && let Err(error) = self.save_lagging()
        {
            tracing::warn!(pod = spec::described(&self.pod), %error, "cannot remember a resize");
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
            verdict: self.verdict.as_ref(),
            lagging: &self.lagging,
            resize: (&self.inbox.wanted.borrow().pending.clone(), self.resize_error.as_deref()),
            ending: self.state != State::Syncing,
            host_ips: &self.context.machine.addresses,
            now: clock::now(),
        };
        let status = status::render(&input);
        if self.is_static() {
            return self.report_static(status).await;
        }
        let Some(patch) = report::patch(&self.pod, &status) else { return Ok(()) };
        let patch = Patch::Strategic(patch);
        match self.context.client.patch_status::<Pod>(self.pod.namespace(), self.pod.name(), &patch).await {
            Ok(pod) => self.adopt(self.pods.given(pod)),
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
