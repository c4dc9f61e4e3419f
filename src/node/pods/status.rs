//! A pod's status from what the runtime has. Pure.

use super::conditions::{RESTARTING, conditions};
use super::inbox::Pending;
use super::mount_status::mounts;
use super::observe::{Container as Record, Life, Observed};
use super::plan::from_ns;
use super::policy::{self, Policy};
use super::probes::Results;
use super::reset;
use super::spec::{self, Kind};
use super::whole;
use crate::amount::Qos;
use crate::checkpoint::Resources;
use crate::volumes::Volumes;
use api::core::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
    ContainerStatus, ContainerUser, HostIP, LinuxContainerUser, Pod, PodIP, PodStatus,
};
use api::meta::Time;
use base::clock;
use jiff::Timestamp;
use std::collections::HashMap;
use std::net::IpAddr;

/// Why a container could not be started, by name: the waiting reason and message.
pub(crate) type Failures = HashMap<String, (String, String)>;

/// An end that was decided elsewhere, with `status.reason` and `status.message`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) reason: String,
    pub(crate) message: String,
    /// What the condition DisruptionTarget says, where the node's state is why.
    pub(crate) disruption: Option<String>,
    /// In place of the grace that the pod asks for.
    pub(crate) grace_s: Option<i64>,
    /// The pod was never taken: nothing is said of its containers.
    pub(crate) rejected: bool,
}

impl Verdict {
    pub(crate) fn new(reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
            message: message.into(),
            disruption: None,
            grace_s: None,
            rejected: false,
        }
    }

    /// The node does not take the pod.
    pub(crate) fn rejection(reason: String, why: &str) -> Self {
        Self { rejected: true, ..Self::new(reason, format!("Pod was rejected: {why}")) }
    }

    /// It is the node's doing (KEP-3329).
    pub(crate) fn disrupting(self, message: &str) -> Self {
        Self { disruption: Some(message.to_owned()), ..self }
    }
}

/// Everything a status is made from.
pub(crate) struct Input<'a> {
    pub(crate) pod: &'a Pod,
    pub(crate) observed: &'a Observed,
    pub(crate) probes: &'a Results,
    pub(crate) failures: &'a Failures,
    /// Its volumes, once they are ready.
    pub(crate) volumes: Option<&'a Volumes>,
    /// The pod failed as a whole, as by its deadline.
    pub(crate) verdict: Option<&'a Verdict>,
    /// What containers have that were given something else.
    pub(crate) lagging: &'a Resources,
    /// Why more or less is not given yet, and why what was given is not there yet.
    pub(crate) resize: (&'a Option<Pending>, Option<&'a str>),
    /// Which of the pod's generations is acted by.
    pub(crate) generation: Option<i64>,
    /// Nothing of it will be started again.
    pub(crate) ending: bool,
    pub(crate) host_ips: &'a [IpAddr],
    pub(crate) now: Timestamp,
}

/// A time as the API carries it, in whole seconds.
pub(crate) fn seconds(time: Timestamp) -> Time {
    Time(clock::whole_seconds(time))
}

fn time(ns: i64) -> Option<Time> {
    (ns > 0).then(|| seconds(from_ns(ns)))
}

/// The whole status.
pub(crate) fn render(input: &Input) -> PodStatus {
    let pod = input.pod;
    let old = pod.status.clone().unwrap_or_default();
    let init =
        statuses(input, Kind::Init, spec::init_containers(pod), old.init_container_statuses.as_deref());
    let main = statuses(input, Kind::Main, &spec::spec(pod).containers, old.container_statuses.as_deref());
    let ephemeral = spec::ephemeral_containers(pod);
    let ephemeral = statuses(input, Kind::Ephemeral, &ephemeral, old.ephemeral_container_statuses.as_deref());
    let phase = final_phase(input, &old, &init, &main);
    let same = old.phase.as_deref() == Some(phase);
    let verdict = input.verdict.filter(|_| phase == "Failed");
    let host_ips: Vec<String> = input.host_ips.iter().map(IpAddr::to_string).collect();
    let pod_ips = pod_ips(input, &old, &host_ips);
    let mut status = PodStatus {
        phase: Some(phase.to_owned()),
        reason: verdict.map(|v| v.reason.clone()).or(old.reason.clone().filter(|_| same)),
        message: verdict.map(|v| v.message.clone()).or(old.message.clone().filter(|_| same)),
        conditions: Some(conditions(input, &old, phase, (&init, &main))),
        host_ip: host_ips.first().cloned(),
        host_ips: Some(host_ips.into_iter().map(|ip| HostIP { ip }).collect()),
        pod_ip: pod_ips.first().cloned(),
        pod_ips: (!pod_ips.is_empty()).then(|| pod_ips.into_iter().map(|ip| PodIP { ip }).collect()),
        start_time: old.start_time.clone().or_else(|| Some(seconds(input.now))),
        qos_class: Some(old.qos_class.clone().unwrap_or_else(|| Qos::of(pod).name().to_owned())),
        observed_generation: input.generation,
        init_container_statuses: some(init),
        container_statuses: some(main),
        ephemeral_container_statuses: some(ephemeral),
        ..old
    };
    // A pod that was not taken was given nothing.
    if input.verdict.is_none_or(|verdict| !verdict.rejected) {
        whole::tell(pod, input.lagging, &mut status);
    }
    status
}

fn some<T>(list: Vec<T>) -> Option<Vec<T>> {
    (!list.is_empty()).then_some(list)
}

/// The pod's addresses; a pod that ended keeps the last it had.
fn pod_ips(input: &Input, old: &PodStatus, host_ips: &[String]) -> Vec<String> {
    if spec::host_network(input.pod) {
        return host_ips.to_vec();
    }
    match input.observed.sandbox() {
        Some(sandbox) if !sandbox.ips.is_empty() => sandbox.ips.clone(),
        _ => old.pod_ips.iter().flatten().map(|ip| ip.ip.clone()).collect(),
    }
}

fn statuses(
    input: &Input,
    kind: Kind,
    containers: &[Container],
    old: Option<&[ContainerStatus]>,
) -> Vec<ContainerStatus> {
    if input.verdict.is_some_and(|verdict| verdict.rejected) {
        return Vec::new();
    }
    let find = |name: &str| old.unwrap_or_default().iter().find(|status| status.name == name);
    let mut statuses: Vec<ContainerStatus> =
        containers.iter().map(|container| status(input, kind, container, find(&container.name))).collect();
    if kind == Kind::Main {
        statuses.sort_by(|a, b| a.name.cmp(&b.name));
    }
    statuses
}

fn status(
    input: &Input,
    kind: Kind,
    container: &Container,
    old: Option<&ContainerStatus>,
) -> ContainerStatus {
    let mut records = input.observed.all(&container.name);
    let mut status = match records.next() {
        Some(record) => ContainerStatus {
            last_state: records.next().map(state).or_else(|| {
                let id = container_id(record);
                let before =
                    old.filter(|old| old.container_id.as_deref() != Some(&id) || old.last_state.is_some());
                before.and_then(|old| match &old.state {
                    Some(state) if state.terminated.is_some() && old.container_id.as_deref() != Some(&id) => {
                        Some(state.clone())
                    }
                    _ => old.last_state.clone(),
                })
            }),
            ..of_record(input, container, record)
        },
        None => unseen(input, container, old),
    };
    wait_if_failed(input, kind, container, &mut status);
    status.volume_mounts = mounts(container, old, input.volumes);
    if status.last_state.is_none() {
        status.last_state = Some(ContainerState::default());
    }
    status
}

fn container_id(record: &Record) -> String {
    format!("containerd://{}", record.id)
}

fn of_record(input: &Input, container: &Container, record: &Record) -> ContainerStatus {
    let running = record.life == Life::Running;
    let started = running && input.probes.started(container, record);
    let finished = record.life == Life::Exited && record.exit_code == 0;
    let ready = if spec::ends(input.pod, &container.name) {
        finished
    } else {
        started && input.probes.ready(container, record)
    };
    let user = record.user.as_ref().map(|(uid, gid, groups)| ContainerUser {
        linux: Some(LinuxContainerUser { uid: *uid, gid: *gid, supplemental_groups: some(groups.clone()) }),
    });
    ContainerStatus {
        name: container.name.clone(),
        container_id: Some(container_id(record)),
        image: record.image.clone(),
        image_id: record.image_id.clone(),
        restart_count: record.restarts.cast_signed(),
        ready,
        started: Some(started),
        state: Some(state(record)),
        resources: input.lagging.get(&container.name).cloned().or_else(|| container.resources.clone()),
        allocated_resources: container.resources.as_ref().and_then(|resources| resources.requests.clone()),
        user,
        stop_signal: record.stop_signal.clone().or_else(|| spec::stop_signal(container).map(str::to_owned)),
        ..Default::default()
    }
}

fn state(record: &Record) -> ContainerState {
    match record.life {
        Life::Running => ContainerState {
            running: Some(ContainerStateRunning { started_at: time(record.started_ns) }),
            ..Default::default()
        },
        Life::Exited => ContainerState {
            terminated: Some(ContainerStateTerminated {
                exit_code: record.exit_code,
                reason: Some(exit_reason(record)),
                message: Some(record.message.clone()).filter(|message| !message.is_empty()),
                started_at: time(record.started_ns),
                finished_at: time(record.finished_ns),
                container_id: Some(container_id(record)),
                signal: None,
            }),
            ..Default::default()
        },
        Life::Created | Life::Unknown => waiting("ContainerCreating", ""),
    }
}

fn exit_reason(record: &Record) -> String {
    match (record.reason.as_str(), record.exit_code) {
        ("", 0) => "Completed".to_owned(),
        ("", _) => "Error".to_owned(),
        (reason, _) => reason.to_owned(),
    }
}

fn waiting(reason: &str, message: &str) -> ContainerState {
    let text = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    ContainerState {
        waiting: Some(ContainerStateWaiting { reason: text(reason), message: text(message) }),
        ..Default::default()
    }
}

/// A container that the runtime has no record of: not created yet, or forgotten after it ended.
fn unseen(input: &Input, container: &Container, old: Option<&ContainerStatus>) -> ContainerStatus {
    let has_init = !spec::init_containers(input.pod).is_empty();
    let default = waiting(if has_init { "PodInitializing" } else { "ContainerCreating" }, "");
    let mut status = ContainerStatus {
        name: container.name.clone(),
        image: container.image.clone().unwrap_or_default(),
        started: Some(false),
        state: Some(default),
        ..Default::default()
    };
    let Some(old) = old else { return status };
    let old_state = old.state.clone().unwrap_or_default();
    if starts_over(input) {
        return removed_to_start_over(status, old);
    }
    if old_state.terminated.is_some() {
        return ContainerStatus {
            ready: old.ready && old.started != Some(true),
            started: Some(false),
            ..old.clone()
        };
    }
    status.restart_count = old.restart_count;
    status.last_state = old.last_state.clone();
    if old_state.running.is_some() {
        let lost = ContainerState {
            terminated: Some(ContainerStateTerminated {
                exit_code: 137,
                reason: Some("ContainerStatusUnknown".to_owned()),
                message: Some("The container could not be located when the pod was terminated".to_owned()),
                ..Default::default()
            }),
            ..Default::default()
        };
        if input.ending {
            status.state = Some(lost);
            status.container_id.clone_from(&old.container_id);
        } else {
            status.last_state = Some(lost);
        }
    }
    status
}

/// Whether all containers are being removed to start over, or were and this has not been told yet.
fn starts_over(input: &Input) -> bool {
    let told = input.pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    let mut told = told.into_iter().flatten().filter(|condition| condition.status == "True");
    told.any(|condition| condition.type_ == RESTARTING) || reset::is_due(input.pod, input.observed)
}

/// A container that was removed so that all start over; its restart is counted once.
fn removed_to_start_over(status: ContainerStatus, old: &ContainerStatus) -> ContainerStatus {
    if old.state.as_ref().is_some_and(|state| state.waiting.is_some()) {
        return ContainerStatus { ready: false, started: Some(false), ..old.clone() };
    }
    let end = ContainerStateTerminated {
        exit_code: 137,
        reason: Some(reset::REASON.to_owned()),
        message: Some(reset::MESSAGE.to_owned()),
        ..Default::default()
    };
    ContainerStatus {
        restart_count: old.restart_count + 1,
        container_id: old.container_id.clone(),
        image_id: old.image_id.clone(),
        state: Some(waiting(reset::REASON, reset::MESSAGE)),
        last_state: Some(ContainerState { terminated: Some(end), ..Default::default() }),
        ..status
    }
}

/// A container that should run and cannot is waiting, whatever it was before.
fn wait_if_failed(input: &Input, kind: Kind, container: &Container, status: &mut ContainerStatus) {
    let Some((reason, message)) = input.failures.get(&container.name).filter(|_| !input.ending) else {
        return;
    };
    let state = status.state.clone().unwrap_or_default();
    let policy = policy::of(input.pod, kind, container);
    if state.running.is_some() || state.terminated.as_ref().is_some_and(|end| !policy.after(end.exit_code)) {
        return;
    }
    if state.terminated.is_some() {
        status.last_state = Some(state);
    }
    status.state = Some(waiting(reason, message));
    status.ready = false;
    status.started = Some(false);
}

fn final_phase(
    input: &Input,
    old: &PodStatus,
    init: &[ContainerStatus],
    main: &[ContainerStatus],
) -> &'static str {
    match old.phase.as_deref() {
        Some("Succeeded") => return "Succeeded",
        Some("Failed") => return "Failed",
        _ => {}
    }
    if let Some(verdict) = input.verdict {
        // Who waits for the end of a pod, to make another in its place, waits for that of its containers.
        let runs = |it: &Record| matches!(it.life, Life::Running | Life::Unknown);
        let over = verdict.rejected || !input.observed.containers.iter().any(runs);
        let before = if old.phase.as_deref() == Some("Running") { "Running" } else { "Pending" };
        return if over { "Failed" } else { before };
    }
    phase(input, init, main)
}

/// Where one container stands, as far as the pod's phase asks.
enum Stand {
    Waiting,
    Running,
    /// It ended, with this code, and is started again or not.
    Ended(i32, bool),
}

fn stand(status: Option<&ContainerStatus>, policy: Policy) -> Stand {
    let ended = |end: &ContainerStateTerminated| {
        let removed = end.reason.as_deref() == Some(reset::REASON);
        Stand::Ended(end.exit_code, removed || policy.after(end.exit_code))
    };
    let state = status.and_then(|status| status.state.as_ref());
    let last =
        status.and_then(|status| status.last_state.as_ref()).and_then(|state| state.terminated.as_ref());
    match state {
        Some(state) if state.running.is_some() => Stand::Running,
        Some(ContainerState { terminated: Some(end), .. }) => ended(end),
        _ => last.map_or(Stand::Waiting, ended),
    }
}

fn phase(input: &Input, init: &[ContainerStatus], main: &[ContainerStatus]) -> &'static str {
    let pod = input.pod;
    let find = |list: &'_ [ContainerStatus], name: &str| list.iter().position(|status| status.name == name);
    let containers = &spec::spec(pod).containers;
    let initialized = containers.iter().any(|c| input.observed.latest(&c.name).is_some());
    let mut pending = false;
    let mut running = 0;
    for container in spec::init_containers(pod) {
        let status = find(init, &container.name).map(|at| &init[at]);
        let policy = policy::of(pod, Kind::Init, container);
        match (stand(status, policy), spec::is_sidecar(container)) {
            (Stand::Running, true) => {
                running += 1;
                pending |= !initialized && status.is_none_or(|status| status.started != Some(true));
            }
            (Stand::Waiting, _) | (Stand::Running, false) => pending |= !initialized,
            (Stand::Ended(code, false), false) if code != 0 => return "Failed",
            (Stand::Ended(..), _) => {}
        }
    }
    let (mut stopped, mut succeeded, mut final_stops, mut waits) = (0, 0, 0, 0);
    for container in containers {
        let policy = policy::of(pod, Kind::Main, container);
        match stand(find(main, &container.name).map(|at| &main[at]), policy) {
            Stand::Running => running += 1,
            Stand::Waiting => waits += 1,
            Stand::Ended(code, again) => {
                stopped += 1;
                succeeded += usize::from(code == 0);
                final_stops += usize::from(!again);
            }
        }
    }
    match () {
        () if pending || waits > 0 => "Pending",
        () if running > 0 => "Running",
        () if stopped == 0 => "Pending",
        () if !input.ending && final_stops != stopped => "Running",
        () if stopped == succeeded => "Succeeded",
        () => "Failed",
    }
}
