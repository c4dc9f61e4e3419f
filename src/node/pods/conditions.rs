//! A pod's conditions. Pure.

use super::inbox::Pending;
use super::policy;
use super::reset;
use super::spec;
use super::status::{Input, seconds};
use api::core::{ContainerState, ContainerStatus, Pod, PodCondition, PodStatus};

/// KEP-5532's condition.
pub(super) const RESTARTING: &str = "AllContainersRestarting";

/// A condition's status, reason and message.
type Finding = (bool, &'static str, String);

/// All of them, those of others included.
pub(super) fn conditions(
    input: &Input,
    old: &PodStatus,
    phase: &str,
    (init, main): (&[ContainerStatus], &[ContainerStatus]),
) -> Vec<PodCondition> {
    let containers = containers_ready(input.pod, phase, init, main);
    let ready = ready(input.pod, old, &containers);
    let sandbox =
        (input.observed.sandbox().is_some_and(|s| !s.ips.is_empty() || s.host_network), "", String::new());
    let found = [
        ("PodReadyToStartContainers", sandbox),
        ("Initialized", initialized((input.pod, old), phase, init, main)),
        ("Ready", ready),
        ("ContainersReady", containers),
        ("PodScheduled", (true, "", String::new())),
    ];
    let disruption = input.verdict.and_then(|verdict| verdict.disruption.clone());
    let disruption = disruption.map(|text| ("DisruptionTarget", (true, "TerminationByKubelet", text)));
    let over = policy::may_restart_all(input.pod).then(|| (RESTARTING, restarting(input, phase)));
    let found: Vec<(&str, Finding)> = found.into_iter().chain(over).chain(disruption).collect();
    let mut all: Vec<PodCondition> = old.conditions.clone().unwrap_or_default();
    all.retain(|condition| found.iter().all(|(name, _)| condition.type_ != *name));
    all.retain(|condition| !RESIZE.contains(&condition.type_.as_str()));
    all.extend(found.into_iter().map(|(name, finding)| condition(input, old, name, finding)));
    all.extend(resizing(input, old));
    all
}

/// KEP-1287's conditions, which are there only while there is something to say.
pub(crate) const RESIZE: [&str; 2] = ["PodResizePending", "PodResizeInProgress"];

fn resizing(input: &Input, old: &PodStatus) -> Vec<PodCondition> {
    let (pending, error) = input.resize;
    let [waits, goes_on] = RESIZE;
    let mut found = Vec::new();
    if let Some(Pending { reason, message, generation }) = pending {
        let condition = condition(input, old, waits, (true, *reason, message.clone()));
        found.push(PodCondition { observed_generation: *generation, ..condition });
    }
    if !input.lagging.is_empty() && !input.ending {
        let reason = if error.is_some() { "Error" } else { "" };
        let finding = (true, reason, error.unwrap_or_default().to_owned());
        found.push(condition(input, old, goes_on, finding));
    }
    found
}

fn restarting(input: &Input, phase: &str) -> Finding {
    match phase {
        "Failed" => (false, "PodFailed", String::new()),
        "Succeeded" => (false, "PodCompleted", String::new()),
        _ if reset::is_due(input.pod, input.observed) => {
            (true, "RestartAllContainersStarted", "container exited with restart policy rule".to_owned())
        }
        _ => (false, "", String::new()),
    }
}

fn condition(input: &Input, old: &PodStatus, name: &str, (status, reason, message): Finding) -> PodCondition {
    let status = if status { "True" } else { "False" };
    let before = old.conditions.iter().flatten().find(|condition| condition.type_ == name);
    let since = before
        .filter(|before| before.status == status)
        .and_then(|before| before.last_transition_time.clone());
    PodCondition {
        type_: name.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()).filter(|reason| !reason.is_empty()),
        message: Some(message).filter(|message| !message.is_empty()),
        last_transition_time: Some(since.unwrap_or_else(|| seconds(input.now))),
        last_probe_time: None,
        observed_generation: input.generation,
    }
}

/// Names as Go prints a list: `[a b]`.
fn listed(what: &str, names: &[&str]) -> Option<String> {
    (!names.is_empty()).then(|| format!("containers with {what} status: [{}]", names.join(" ")))
}

fn containers_ready(pod: &Pod, phase: &str, init: &[ContainerStatus], main: &[ContainerStatus]) -> Finding {
    match phase {
        "Succeeded" => return (false, "PodCompleted", String::new()),
        "Failed" => return (false, "PodFailed", String::new()),
        _ => {}
    }
    let sidecars = spec::init_containers(pod).iter().filter(|container| spec::is_sidecar(container));
    let wanted = sidecars.chain(&spec::spec(pod).containers);
    let ready = |name: &str| init.iter().chain(main).any(|status| status.name == name && status.ready);
    let unready: Vec<&str> = wanted.map(|c| c.name.as_str()).filter(|name| !ready(name)).collect();
    match listed("unready", &unready) {
        Some(message) => (false, "ContainersNotReady", message),
        None => (true, "", String::new()),
    }
}

fn ready(pod: &Pod, old: &PodStatus, containers: &Finding) -> Finding {
    if !containers.0 {
        return containers.clone();
    }
    let gates = spec::spec(pod).readiness_gates.as_deref().unwrap_or_default();
    let missing = gates.iter().filter_map(|gate| {
        let gate = gate.condition_type.as_str();
        match old.conditions.iter().flatten().find(|condition| condition.type_ == gate) {
            None => Some(format!("corresponding condition of pod readiness gate {gate:?} does not exist.")),
            Some(condition) if condition.status != "True" => Some(format!(
                "the status of pod readiness gate {gate:?} is not \"True\", but {}",
                condition.status
            )),
            Some(_) => None,
        }
    });
    let missing: Vec<String> = missing.collect();
    if missing.is_empty() {
        (true, "", String::new())
    } else {
        (false, "ReadinessGatesNotReady", missing.join(", "))
    }
}

fn initialized(
    (pod, old): (&Pod, &PodStatus),
    phase: &str,
    init: &[ContainerStatus],
    main: &[ContainerStatus],
) -> Finding {
    if phase == "Succeeded" {
        return (true, "PodCompleted", String::new());
    }
    let started = |status: &ContainerStatus| {
        let ran = |state: &Option<ContainerState>| {
            state.as_ref().is_some_and(|state| state.running.is_some() || state.terminated.is_some())
        };
        ran(&status.state) || ran(&status.last_state)
    };
    if main.iter().any(started) {
        return (true, "", String::new());
    }
    let incomplete = spec::init_containers(pod).iter().filter(|container| {
        let status = init.iter().find(|status| status.name == container.name);
        let done = |status: &ContainerStatus| {
            if spec::is_sidecar(container) { status.started == Some(true) } else { status.ready }
        };
        !status.is_some_and(done)
    });
    let incomplete: Vec<&str> = incomplete.map(|container| container.name.as_str()).collect();
    // What was once initialized stays so, also while its containers start over.
    let was = |condition: &PodCondition| condition.type_ == "Initialized" && condition.status == "True";
    match listed("incomplete", &incomplete) {
        Some(message) if !old.conditions.iter().flatten().any(was) => {
            (false, "ContainersNotInitialized", message)
        }
        _ => (true, "", String::new()),
    }
}
