//! Probes: one task per container and probe, which sleeps between looks and wakes the pod's worker
//! when its finding changes.

use super::checks::{Check, Found, Target};
use super::observe::{Container as Record, Life};
use super::plan::from_ns;
use super::spec::{self, Kind};
use crate::Context;
use crate::stats::counters;
use api::Object;
use api::core::{Container, Pod, Probe};
use base::clock::{self, Instant};
use futures_util::future::AbortHandle;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, watch};

/// What the probes of one container found so far; none where nothing was found yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) startup: Option<bool>,
    pub(crate) readiness: Option<bool>,
    pub(crate) liveness: Option<bool>,
}

/// The findings of a pod's probes by the runtime's container id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Results(HashMap<String, Outcome>);

impl Results {
    fn of(&self, id: &str) -> Outcome {
        self.0.get(id).copied().unwrap_or_default()
    }

    /// Whether a container is past its startup probe, or has none and runs.
    pub(crate) fn started(&self, container: &Container, record: &Record) -> bool {
        record.life == Life::Running
            && (container.startup_probe.is_none() || self.of(&record.id).startup == Some(true))
    }

    /// Whether a started container is ready; one without a probe is.
    pub(crate) fn ready(&self, container: &Container, record: &Record) -> bool {
        container.readiness_probe.is_none() || self.of(&record.id).readiness == Some(true)
    }

    pub(crate) fn liveness_failed(&self, id: &str) -> bool {
        self.of(id).liveness == Some(false)
    }

    pub(crate) fn startup_failed(&self, id: &str) -> bool {
        self.of(id).startup == Some(false)
    }

    #[cfg(test)]
    pub(crate) fn with(id: &str, outcome: Outcome) -> Self {
        Self(HashMap::from([(id.to_owned(), outcome)]))
    }
}

/// The three questions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Question {
    Startup,
    Readiness,
    Liveness,
}

impl Question {
    const ALL: [Self; 3] = [Self::Startup, Self::Readiness, Self::Liveness];

    fn probe(self, container: &Container) -> Option<&Probe> {
        match self {
            Self::Startup => container.startup_probe.as_ref(),
            Self::Readiness => container.readiness_probe.as_ref(),
            Self::Liveness => container.liveness_probe.as_ref(),
        }
    }

    fn slot(self, outcome: &mut Outcome) -> &mut Option<bool> {
        match self {
            Self::Startup => &mut outcome.startup,
            Self::Readiness => &mut outcome.readiness,
            Self::Liveness => &mut outcome.liveness,
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Readiness => "Readiness",
            Self::Liveness => "Liveness",
        }
    }
}

/// The running probes of one pod.
pub(crate) struct Probes {
    results: Arc<Mutex<Results>>,
    wake: Arc<Notify>,
    tasks: HashMap<String, Vec<AbortHandle>>,
}

impl Drop for Probes {
    fn drop(&mut self) {
        self.tasks.values().flatten().for_each(AbortHandle::abort);
    }
}

/// One probe of one container.
struct Runner {
    context: Arc<Context>,
    pod: Arc<Pod>,
    kind: Kind,
    container: Container,
    record: Record,
    ip: String,
    question: Question,
    results: Arc<Mutex<Results>>,
    started: Arc<watch::Sender<bool>>,
    wake: Arc<Notify>,
}

impl Probes {
    /// No probes yet; `wake` is told when a finding changes.
    pub(crate) fn new(wake: Arc<Notify>) -> Self {
        Self { results: Arc::default(), wake, tasks: HashMap::new() }
    }

    /// The findings now.
    pub(crate) fn results(&self) -> Results {
        self.results.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Starts the probes of containers that run and stops those of containers that do not.
    pub(crate) fn follow(&mut self, context: &Arc<Context>, pod: &Arc<Pod>, records: &[Record], ip: &str) {
        let running = |id: &str| records.iter().any(|record| record.id == id && record.life == Life::Running);
        self.tasks.retain(|id, tasks| {
            let keep = running(id);
            if !keep {
                tasks.iter().for_each(AbortHandle::abort);
            }
            keep
        });
        self.results.lock().unwrap_or_else(PoisonError::into_inner).0.retain(|id, _| running(id));
        for record in records.iter().filter(|record| record.life == Life::Running) {
            if !self.tasks.contains_key(&record.id)
                && let Some((kind, container)) = spec::container(pod, &record.name)
                && (kind == Kind::Main || spec::is_sidecar(&container))
            {
                let tasks = self.start(context, pod, (kind, container), (record, ip));
                self.tasks.insert(record.id.clone(), tasks);
            }
        }
    }

    /// Stops asking about anything: the pod is going.
    pub(crate) fn stop(&mut self) {
        self.tasks.drain().flat_map(|(_, tasks)| tasks).for_each(|task| task.abort());
    }

    fn start(
        &self,
        context: &Arc<Context>,
        pod: &Arc<Pod>,
        (kind, container): (Kind, Container),
        (record, ip): (&Record, &str),
    ) -> Vec<AbortHandle> {
        let reported = reported(pod, record);
        self.results.lock().unwrap_or_else(PoisonError::into_inner).0.insert(record.id.clone(), reported);
        let begun = container.startup_probe.is_none() || reported.startup == Some(true);
        let started = Arc::new(watch::channel(begun).0);
        let asked = Question::ALL.into_iter().filter(|question| {
            question.probe(&container).is_some() && !(*question == Question::Startup && begun)
        });
        let runners = asked.map(|question| Runner {
            context: context.clone(),
            pod: pod.clone(),
            kind,
            container: container.clone(),
            record: record.clone(),
            ip: ip.to_owned(),
            question,
            results: self.results.clone(),
            started: started.clone(),
            wake: self.wake.clone(),
        });
        runners.map(|runner| context.probes.add(runner.run())).collect()
    }
}

/// What the API server was told of this very container before knarr was restarted.
fn reported(pod: &Pod, record: &Record) -> Outcome {
    let status = pod.status.as_ref();
    let main = status.and_then(|status| status.container_statuses.as_deref()).unwrap_or_default();
    let init = status.and_then(|status| status.init_container_statuses.as_deref()).unwrap_or_default();
    let id = format!("containerd://{}", record.id);
    let known = main.iter().chain(init).find(|status| status.container_id.as_deref() == Some(&id));
    known.map_or_else(Outcome::default, |status| Outcome {
        startup: status.started.filter(|started| *started),
        readiness: Some(status.ready).filter(|ready| *ready),
        liveness: None,
    })
}

fn seconds(value: Option<i32>, default: u32) -> Duration {
    let seconds =
        value.and_then(|value| u32::try_from(value).ok()).filter(|value| *value > 0).unwrap_or(default);
    Duration::from_secs(seconds.into())
}

/// Probes look together, at times that are so far apart: most of what a look costs is waking a processor for it.
const TURN: Duration = Duration::from_millis(100);
static FIRST_TURN: OnceLock<Instant> = OnceLock::new();

/// The first turn at or after `due`, counted from the `first`.
fn turn_after(first: Instant, due: Instant) -> Instant {
    let turns = due.saturating_duration_since(first).as_nanos().div_ceil(TURN.as_nanos());
    u32::try_from(turns).ok().and_then(|turns| first.checked_add(TURN * turns)).unwrap_or(due)
}

fn check(probe: &Probe) -> Option<Check<'_>> {
    let exec = probe.exec.as_ref().map(Check::Exec);
    let http = probe.http_get.as_ref().map(Check::Http);
    let tcp = probe.tcp_socket.as_ref().map(Check::Tcp);
    exec.or(http).or(tcp).or_else(|| probe.grpc.as_ref().map(Check::Grpc))
}

impl Runner {
    async fn run(self) {
        let Some(probe) = self.question.probe(&self.container).cloned() else { return };
        let Some(check) = check(&probe) else { return };
        if self.question != Question::Startup {
            let mut started = self.started.subscribe();
            if started.wait_for(|started| *started).await.is_err() {
                return;
            }
        }
        let delay =
            Duration::from_secs(probe.initial_delay_seconds.unwrap_or(0).max(0).unsigned_abs().into());
        let age = clock::between(from_ns(self.record.started_ns), clock::now());
        clock::sleep(delay.saturating_sub(age)).await;
        let (period, limit) = (seconds(probe.period_seconds, 10), seconds(probe.timeout_seconds, 1));
        let target = Target {
            runtime: &self.context.runtime,
            container: &self.container,
            id: &self.record.id,
            ip: &self.ip,
        };
        let mut row = (true, 0);
        let mut due = clock::instant();
        loop {
            let asked = clock::instant();
            let found = check.run(&target, limit).await;
            self.count(&found, asked);
            let good = self.tell(found);
            row = if row.0 == good { (good, row.1 + 1) } else { (good, 1) };
            let threshold = if good {
                probe.success_threshold.unwrap_or(1)
            } else {
                probe.failure_threshold.unwrap_or(3)
            };
            if row.1 >= threshold && self.conclude(good) {
                return;
            }
            // One that takes longer than a period is asked again at once, and what was missed is not made up for.
            due = turn_after(*FIRST_TURN.get_or_init(clock::instant), (due + period).max(clock::instant()));
            clock::sleep(due.saturating_duration_since(clock::instant())).await;
        }
    }

    /// Records the finding; returns whether there is nothing more to ask.
    fn conclude(&self, good: bool) -> bool {
        let mut results = self.results.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = self.question.slot(results.0.entry(self.record.id.clone()).or_default());
        if slot.replace(good) != Some(good) {
            self.wake.notify_one();
        }
        match (self.question, good) {
            (Question::Startup, true) => {
                self.started.send_replace(true);
                true
            }
            // The container will be stopped; asking it again would only repeat the event.
            (Question::Startup | Question::Liveness, false) => true,
            _ => false,
        }
    }

    fn count(&self, found: &Found, asked: base::clock::Instant) {
        let pod = &self.pod;
        let (kind, container) = (self.question.title(), self.container.name.as_str());
        let result = if matches!(found, Found::Failure(_)) { "failed" } else { "successful" };
        counters::PROBES.count(&[kind, result, container, pod.name(), pod.namespace(), pod.uid()]);
        if result == "successful" {
            counters::PROBE_DURATION.observe_since(&[kind, container, pod.name(), pod.namespace()], asked);
        }
    }

    fn tell(&self, found: Found) -> bool {
        let title = self.question.title();
        let (reason, message) = match &found {
            Found::Success => return true,
            Found::Warning(text) => ("ProbeWarning", format!("{title} probe warning: {text}")),
            Found::Failure(text) => ("Unhealthy", format!("{title} probe failed: {text}")),
        };
        self.context.warn_container(&self.pod, (self.kind, &self.container.name), reason, message);
        matches!(found, Found::Warning(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn turns_are_the_same_for_all() {
        let first = clock::instant();
        let after = |ms: u64| turn_after(first, first + Duration::from_millis(ms)) - first;
        assert_eq!([0, 1, 100, 101].map(|ms| after(ms).as_millis()), [0, 100, 100, 200]);
        // A period keeps its length.
        assert_eq!(after(1100).as_millis(), 1100);
        // What was due before anybody had a turn.
        assert_eq!(turn_after(first + TURN, first), first + TURN);
    }
}
