//! The cells of a pod: what a person looks at first when something is wrong.

use super::{Of, at, human_duration, items, text};
use jiff::Timestamp;
use serde_json::Value;

/// What the columns Ready, Status and Restarts show.
struct Summary {
    ready: usize,
    total: usize,
    reason: String,
    restarts: i64,
    last_restart: Option<Timestamp>,
}

/// Restart counts and the latest time a container ended before it was started again.
#[derive(Default)]
struct Restarts {
    count: i64,
    last: Option<Timestamp>,
}

impl Restarts {
    fn add(&mut self, status: &Value) {
        self.count += at(status, "restartCount").as_i64().unwrap_or_default();
        let ended = text(status, "lastState.terminated.finishedAt").parse().ok();
        self.last = self.last.max(ended);
    }
}

pub(in super::super) fn ready(of: &Of<'_>) -> Value {
    let summary = summary(of);
    Value::from(format!("{}/{}", summary.ready, summary.total))
}

pub(in super::super) fn status(of: &Of<'_>) -> Value {
    Value::from(summary(of).reason)
}

pub(in super::super) fn restarts(of: &Of<'_>) -> Value {
    let summary = summary(of);
    match summary.last_restart {
        Some(last) if summary.restarts > 0 => {
            let ago = human_duration(of.now.duration_since(last).as_secs());
            Value::from(format!("{} ({ago} ago)", summary.restarts))
        }
        _ => Value::from(summary.restarts.to_string()),
    }
}

pub(in super::super) fn readiness_gates(of: &Of<'_>) -> Value {
    let gates = of.items("spec.readinessGates");
    if gates.is_empty() {
        return Value::from("<none>");
    }
    let passed = gates.iter().filter(|gate| of.condition(text(gate, "conditionType"))).count();
    Value::from(format!("{passed}/{}", gates.len()))
}

fn is_restartable(of: &Of<'_>, name: &str) -> bool {
    let container = of.items("spec.initContainers").iter().find(|container| text(container, "name") == name);
    container.is_some_and(|container| text(container, "restartPolicy") == "Always")
}

fn summary(of: &Of<'_>) -> Summary {
    let sidecars =
        of.items("spec.initContainers").iter().filter(|c| text(c, "restartPolicy") == "Always").count();
    let mut summary = Summary {
        ready: 0,
        total: of.items("spec.containers").len() + sidecars,
        reason: base_reason(of),
        restarts: 0,
        last_restart: None,
    };
    let sidecar_restarts = initialization(of, &mut summary);
    if let Some(restarts) = sidecar_restarts {
        running(of, &mut summary, restarts);
    }
    let terminal = matches!(of.text("status.phase"), "Succeeded" | "Failed");
    if !at(of.object, "metadata.deletionTimestamp").is_null() {
        if of.text("status.reason") == "NodeLost" {
            summary.reason = "Unknown".to_owned();
        } else if !terminal {
            summary.reason = "Terminating".to_owned();
        }
    }
    summary
}

fn base_reason(of: &Of<'_>) -> String {
    let gated = |condition: &&Value| {
        text(condition, "type") == "PodScheduled" && text(condition, "reason") == "SchedulingGated"
    };
    if of.items("status.conditions").iter().find(gated).is_some() {
        return "SchedulingGated".to_owned();
    }
    match of.text("status.reason") {
        "" => of.text("status.phase").to_owned(),
        reason => reason.to_owned(),
    }
}

/// Looks at the init containers; returns the sidecars' restarts where the pod got past them.
fn initialization(of: &Of<'_>, summary: &mut Summary) -> Option<Restarts> {
    let (mut all, mut sidecars) = (Restarts::default(), Restarts::default());
    let mut blocked = false;
    for (i, status) in of.items("status.initContainerStatuses").iter().enumerate() {
        all.add(status);
        let sidecar = is_restartable(of, text(status, "name"));
        if sidecar {
            sidecars.add(status);
        }
        let terminated = at(status, "state.terminated");
        let waiting = text(status, "state.waiting.reason");
        if at(terminated, "exitCode").as_i64() == Some(0) {
            continue;
        }
        if sidecar && at(status, "started").as_bool() == Some(true) {
            summary.ready += usize::from(at(status, "ready").as_bool() == Some(true));
            continue;
        }
        summary.reason = if !terminated.is_null() {
            format!("Init:{}", ended(terminated))
        } else if !waiting.is_empty() && waiting != "PodInitializing" {
            format!("Init:{waiting}")
        } else {
            format!("Init:{i}/{}", of.items("spec.initContainers").len())
        };
        blocked = true;
        break;
    }
    if blocked && !of.condition("Initialized") {
        summary.restarts = all.count;
        summary.last_restart = all.last;
        return None;
    }
    Some(sidecars)
}

fn ended(terminated: &Value) -> String {
    let signal = at(terminated, "signal").as_i64().unwrap_or_default();
    match text(terminated, "reason") {
        "" if signal != 0 => format!("Signal:{signal}"),
        "" => format!("ExitCode:{}", at(terminated, "exitCode")),
        reason => reason.to_owned(),
    }
}

fn running(of: &Of<'_>, summary: &mut Summary, mut restarts: Restarts) {
    let mut has_running = false;
    let mut error = None;
    for status in items(of.object, "status.containerStatuses").iter().rev() {
        restarts.add(status);
        let terminated = at(status, "state.terminated");
        match text(status, "state.waiting.reason") {
            "" if !terminated.is_null() => {
                summary.reason = ended(terminated);
                if at(terminated, "exitCode").as_i64() != Some(0) {
                    error = Some(summary.reason.clone());
                }
            }
            "" if at(status, "ready").as_bool() == Some(true) && !at(status, "state.running").is_null() => {
                has_running = true;
                summary.ready += 1;
            }
            "" => {}
            waiting => summary.reason = waiting.to_owned(),
        }
    }
    if summary.reason == "Completed" {
        if has_running && of.condition("Ready") {
            summary.reason = "Running".to_owned();
        } else if let Some(error) = error {
            summary.reason = error;
        } else if has_running {
            summary.reason = "NotReady".to_owned();
        }
    }
    summary.restarts = restarts.count;
    summary.last_restart = restarts.last;
}
