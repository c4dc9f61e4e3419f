//! What to do next for a pod that shall run. Pure: everything it needs is in [`View`].

use super::observe::{Container as Record, Life, Observed};
use super::policy;
use super::probes::Results;
use super::restarts::Restarts;
use super::spec::{self, Kind};
use super::{reset, resize};
use crate::checkpoint::Resources;
use api::core::{Container, ContainerStatus, Pod};
use jiff::Timestamp;

/// Why a container is stopped while its pod goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    Changed,
    Liveness,
    Startup,
    Unknown,
    /// It was given resources that it can only be started with.
    Resize,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Action {
    /// Stop what is left of earlier sandboxes, then make a new one.
    CreateSandbox { attempt: u32 },
    /// Create and start a container; `after` is when its predecessor ended.
    Start { kind: Kind, name: String, restarts: u32, after: Option<Timestamp> },
    /// Stop a container with this message as its event.
    Stop { kind: Kind, name: String, id: String, why: Why, message: String },
    /// A container waits in CrashLoopBackOff.
    BackOff { kind: Kind, name: String, message: String },
    /// Give running containers the resources that they lack or have too much of.
    Resize,
    /// Kill and remove these containers, in this order: all start over.
    Reset { ids: Vec<String> },
    /// Remove a dead container that nobody asks about any more.
    Forget { id: String },
    /// Stop and remove a sandbox that was replaced.
    ForgetSandbox { id: String },
}

/// Everything a decision is made from.
pub(crate) struct View<'a> {
    pub(crate) pod: &'a Pod,
    pub(crate) observed: &'a Observed,
    pub(crate) probes: &'a Results,
    pub(crate) restarts: &'a Restarts,
    /// What containers have that were given something else.
    pub(crate) lagging: &'a Resources,
    pub(crate) now: Timestamp,
}

impl View<'_> {
    fn needs_restart(&self, container: &Container) -> bool {
        resize::change(self.pod, container, self.lagging) == resize::Change::Restart
    }
}

/// The decision.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Plan {
    pub(crate) actions: Vec<Action>,
    /// When to decide again, if nothing happens before.
    pub(crate) wake: Option<Timestamp>,
    /// The pod has ended: nothing runs and nothing will be started.
    pub(crate) finished: bool,
}

/// Decides what to do next.
pub(crate) fn plan(view: &View) -> Plan {
    let mut plan = Plan::default();
    let Some(sandbox) = view.observed.sandbox() else {
        plan_sandbox(view, &mut plan);
        return plan;
    };
    if reset::is_due(view.pod, view.observed) {
        let ids = reset::order(view.pod, view.observed).into_iter().map(|record| record.id.clone());
        plan.actions.push(Action::Reset { ids: ids.collect() });
        return plan;
    }
    for container in spec::ephemeral_containers(view.pod) {
        if view.observed.latest(&container.name).is_none() {
            plan.start(view, Kind::Ephemeral, &container);
        }
    }
    match plan_init(view, &sandbox.id, &mut plan) {
        Init::Done => plan_main(view, &sandbox.id, &mut plan),
        Init::Failed => plan.finished = true,
        Init::Going => {}
    }
    plan_resize(view, &mut plan);
    plan_forgetting(view, &mut plan);
    plan
}

/// Changes what can be changed while it runs; what needs a restart is stopped with those that are unwell.
fn plan_resize(view: &View, plan: &mut Plan) {
    let in_place = |name: &String| !resize::awaits_restart(view.pod, view.observed, view.lagging, name);
    // What starts with more has to find room in the pod's cgroup.
    if !plan.finished && view.lagging.keys().any(in_place) {
        plan.actions.insert(0, Action::Resize);
    }
}

/// There is no sandbox: make one, unless all is done.
fn plan_sandbox(view: &View, plan: &mut Plan) {
    let started = spec::spec(view.pod).containers.iter().any(|c| view.observed.latest(&c.name).is_some());
    let over = |container: &Container| {
        let policy = policy::of(view.pod, Kind::Main, container);
        view.observed.latest(&container.name).is_some_and(|record| !policy.after(record.exit_code))
    };
    let containers = &spec::spec(view.pod).containers;
    let init_failed = spec::init_containers(view.pod).iter().any(|container| {
        let policy = policy::of(view.pod, Kind::Init, container);
        let record = view.observed.latest(&container.name);
        record.is_some_and(|record| record.exit_code != 0 && !policy.after(record.exit_code))
    });
    let never = spec::spec(view.pod).restart_policy.as_deref() == Some("Never");
    if init_failed
        || started && (containers.iter().all(over) || never && !view.observed.containers.is_empty())
    {
        plan.finished = true;
        return;
    }
    let attempt = view.observed.sandboxes.iter().map(|sandbox| sandbox.attempt + 1).max().unwrap_or(0);
    plan.actions.push(Action::CreateSandbox { attempt });
}

enum Init {
    Done,
    Going,
    Failed,
}

/// Init containers, one after the other; sidecars only until they have started.
fn plan_init(view: &View, sandbox: &str, plan: &mut Plan) -> Init {
    let in_sandbox = |record: &&Record| record.sandbox == sandbox;
    let main = &spec::spec(view.pod).containers;
    // What the init containers did holds for as long as the sandbox lives.
    let initialized = main.iter().any(|c| view.observed.all(&c.name).any(|record| record.sandbox == sandbox));
    for container in spec::init_containers(view.pod) {
        let record = view.observed.latest(&container.name).filter(in_sandbox);
        let sidecar = spec::is_sidecar(container);
        if initialized && !sidecar {
            continue;
        }
        match record.map(|record| (record.life, record)) {
            Some((Life::Running, record)) => {
                let stopped = plan.stop_if_unwell(view, Kind::Init, container, record);
                if !initialized && (stopped || !sidecar || !view.probes.started(container, record)) {
                    return Init::Going;
                }
            }
            Some((Life::Exited, record)) if !sidecar && record.exit_code == 0 => {}
            Some((Life::Exited, record))
                if !policy::of(view.pod, Kind::Init, container).after(record.exit_code) =>
            {
                return Init::Failed;
            }
            _ => {
                if sidecar && initialized && main_is_over(view) {
                    continue;
                }
                plan.start(view, Kind::Init, container);
                if !initialized {
                    return Init::Going;
                }
            }
        }
    }
    Init::Done
}

/// Whether every main container ended for good.
fn main_is_over(view: &View) -> bool {
    spec::spec(view.pod).containers.iter().all(|container| {
        let policy = policy::of(view.pod, Kind::Main, container);
        let record = view.observed.latest(&container.name);
        record.is_some_and(|record| record.life == Life::Exited && !policy.after(record.exit_code))
    })
}

fn plan_main(view: &View, sandbox: &str, plan: &mut Plan) {
    for container in &spec::spec(view.pod).containers {
        let record = view.observed.latest(&container.name);
        let policy = policy::of(view.pod, Kind::Main, container);
        match record {
            Some(record) if record.life == Life::Running && record.sandbox == sandbox => {
                plan.stop_if_unwell(view, Kind::Main, container, record);
            }
            Some(record) if record.life == Life::Exited && !policy.after(record.exit_code) => {}
            Some(record) if record.life == Life::Unknown => {
                plan.actions.push(Action::Stop {
                    kind: Kind::Main,
                    name: container.name.clone(),
                    id: record.id.clone(),
                    why: Why::Unknown,
                    message: "Container is in \"unknown\" state, try killing it before restart".to_owned(),
                });
            }
            _ => plan.start(view, Kind::Main, container),
        }
    }
    plan.finished = main_is_over(view);
}

/// Dead containers but the newest of each name, and sandboxes that hold none of what is kept.
fn plan_forgetting(view: &View, plan: &mut Plan) {
    let mut kept: Vec<&Record> = Vec::new();
    let mut dead: Vec<&str> = Vec::new();
    for record in &view.observed.containers {
        let newest_dead = record.life == Life::Exited && !dead.contains(&record.name.as_str());
        let newest = !kept.iter().any(|kept| kept.name == record.name);
        if record.life == Life::Exited {
            dead.push(&record.name);
        }
        if newest || newest_dead || record.life == Life::Running {
            kept.push(record);
        } else {
            plan.actions.push(Action::Forget { id: record.id.clone() });
        }
    }
    for sandbox in view.observed.sandboxes.iter().skip(1) {
        if !kept.iter().any(|record| record.sandbox == sandbox.id) {
            plan.actions.push(Action::ForgetSandbox { id: sandbox.id.clone() });
        }
    }
}

impl Plan {
    fn wake_at(&mut self, at: Timestamp) {
        self.wake = Some(self.wake.map_or(at, |wake| wake.min(at)));
    }

    /// Starts a container, or says for how long it must wait.
    fn start(&mut self, view: &View, kind: Kind, container: &Container) {
        let name = container.name.clone();
        let record = view.observed.latest(&name);
        let ended = view.observed.all(&name).find(|record| record.life == Life::Exited);
        let finished = ended.map(|record| from_ns(record.finished_ns));
        let wait = finished.and_then(|finished| view.restarts.wait(&key(container), finished, view.now));
        if let Some((delay, until)) = wait {
            let message = format!(
                "back-off {} restarting failed container={name} pod={}",
                go_duration(delay.as_secs()),
                spec::described(view.pod)
            );
            self.wake_at(until);
            self.actions.push(Action::BackOff { kind, name, message });
            return;
        }
        let restarts = record.map_or_else(|| lost_restarts(view.pod, &name), |record| record.restarts + 1);
        self.actions.push(Action::Start { kind, name, restarts, after: finished });
    }

    /// Stops a running container that has changed or failed a probe, and starts it again where its
    /// policy says so. The restart is decided when the stop is seen.
    fn stop_if_unwell(&mut self, view: &View, kind: Kind, container: &Container, record: &Record) -> bool {
        let name = &container.name;
        let (why, what) = if record.hash != spec::hash(container) {
            (Why::Changed, "definition changed")
        } else if view.probes.liveness_failed(&record.id) {
            (Why::Liveness, "failed liveness probe")
        } else if view.probes.startup_failed(&record.id) {
            (Why::Startup, "failed startup probe")
        } else if view.needs_restart(container) {
            (Why::Resize, "resize requires restart")
        } else {
            return false;
        };
        let again = why == Why::Changed || !policy::of(view.pod, kind, container).is_never();
        let suffix = if again && why != Why::Resize { ", will be restarted" } else { "" };
        self.actions.push(Action::Stop {
            kind,
            name: name.clone(),
            id: record.id.clone(),
            why,
            message: format!("Container {name} {what}{suffix}"),
        });
        true
    }
}

/// The restart count of a container whose records the runtime lost, as after a restart of the machine
/// with a fresh store: one more than was reported.
fn lost_restarts(pod: &Pod, name: &str) -> u32 {
    let status = pod.status.as_ref();
    let main = status.and_then(|status| status.container_statuses.as_deref()).unwrap_or_default();
    let init = status.and_then(|status| status.init_container_statuses.as_deref()).unwrap_or_default();
    let reported = main.iter().chain(init).find(|status| status.name == name);
    let ran = |status: &ContainerStatus| status.container_id.as_deref().is_some_and(|id| !id.is_empty());
    // The count of what was removed to start over has been raised when that was told.
    let counted = |status: &ContainerStatus| {
        let waiting = status.state.as_ref().and_then(|state| state.waiting.as_ref());
        waiting.is_some_and(|waiting| waiting.reason.as_deref() == Some(reset::REASON))
    };
    reported.map_or(0, |status| {
        status.restart_count.max(0).cast_unsigned() + u32::from(ran(status) && !counted(status))
    })
}

/// The key of a container's restarts: a changed container starts anew.
pub(crate) fn key(container: &Container) -> String {
    format!("{}/{}", container.name, spec::hash(container))
}

/// A time of the runtime's.
pub(crate) fn from_ns(ns: i64) -> Timestamp {
    Timestamp::from_nanosecond(i128::from(ns)).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// Seconds as Go prints a duration: `10s`, `1m20s`, `5m0s`.
pub(crate) fn go_duration(seconds: u64) -> String {
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, s) => format!("{s}s"),
        (0, m, s) => format!("{m}m{s}s"),
        (h, m, s) => format!("{h}h{m}m{s}s"),
    }
}
