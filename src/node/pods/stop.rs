//! Stopping: one container with its preStop hook, or a whole pod in order.

use super::checks::Target;
use super::hooks;
use super::observe::{Container as Record, Life, Observed};
use super::plan::Why;
use super::signals;
use super::spec::{self, Kind};
use crate::containerd::tasks;
use crate::protocols::runtime::v1 as cri;
use crate::{Context, Error};
use api::core::{Container, Pod};
use base::{Backoff, clock};
use futures_util::future::join_all;
use std::time::Duration;

/// What a container gets for its stop signal even when its hook used up the grace.
const LEAST_GRACE: Duration = Duration::from_secs(2);

/// Stops one container: event, preStop hook, signal, and after the grace the kill.
pub(crate) async fn container(
    context: &Context,
    pod: &Pod,
    (kind, container): (Kind, &Container),
    record: &Record,
    (grace, message, ip): (Duration, String, &str),
) -> Result<(), Error> {
    context.tell_container(pod, (kind, &record.name), "Killing", message);
    let began = clock::instant();
    if let Some(hook) =
        container.lifecycle.as_ref().and_then(|hooks| hooks.pre_stop.as_ref()).filter(|_| !grace.is_zero())
    {
        let target = Target { runtime: &context.runtime, container, id: &record.id, ip };
        let ran = tokio::time::timeout(grace, hooks::run(hook, &target, grace)).await;
        if matches!(ran, Ok(Err(_))) {
            let warning = "PreStopHook failed".to_owned();
            context.warn_container(pod, (kind, &record.name), "FailedPreStopHook", warning);
        }
    }
    let left = grace.saturating_sub(began.elapsed());
    let left = if grace.is_zero() { grace } else { left.max(LEAST_GRACE.min(grace)) };
    let left =
        if record.stop_signal.is_none() { signal(context, container, record, left).await? } else { left };
    context.runtime.stop_container(&record.id, left).await
}

/// Sends a container's own signal where the runtime does not know that it is to (CRI before containerd 2.1), and
/// waits for its end as long as the grace lasts; gives what is left of that.
async fn signal(
    context: &Context,
    container: &Container,
    record: &Record,
    grace: Duration,
) -> Result<Duration, Error> {
    let number = spec::stop_signal(container).and_then(signals::number);
    let Some(number) = number.filter(|_| !grace.is_zero() && !context.runtime.is_hollow()) else {
        return Ok(grace);
    };
    let began = clock::instant();
    tasks::signal(&context.runtime, &record.id, number).await?;
    let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_millis(500));
    while began.elapsed() < grace && is_running(context, record).await? {
        clock::sleep(backoff.next_delay().min(grace.saturating_sub(began.elapsed()))).await;
    }
    // Whoever has not ended by now is killed.
    Ok(Duration::ZERO)
}

async fn is_running(context: &Context, record: &Record) -> Result<bool, Error> {
    let request = cri::ContainerStatusRequest { container_id: record.id.clone(), verbose: false };
    let status = context.runtime.container_status(request).await?.status.unwrap_or_default();
    Ok(status.state() == cri::ContainerState::ContainerRunning)
}

/// The grace for a container that failed a probe: the probe's own, or the pod's.
pub(crate) fn grace(pod: &Pod, container: &Container, why: Why) -> Duration {
    let probe = match why {
        Why::Liveness => container.liveness_probe.as_ref(),
        Why::Startup => container.startup_probe.as_ref(),
        Why::Changed | Why::Unknown | Why::Resize => None,
    };
    let own = probe.and_then(|probe| probe.termination_grace_period_seconds);
    Duration::from_secs(own.unwrap_or_else(|| spec::grace_s(pod)).unsigned_abs())
}

/// Stops everything of a pod: the main containers together, then the sidecars from the last to the
/// first, then the sandboxes. What remains of the grace is shared.
pub(crate) async fn everything(
    context: &Context,
    pod: &Pod,
    observed: &Observed,
    grace: Duration,
) -> Result<(), Error> {
    let began = clock::instant();
    let ip = observed.address(pod, &context.addresses());
    let ip = ip.as_str();
    let order: Vec<&str> =
        spec::init_containers(pod).iter().map(|container| container.name.as_str()).collect();
    let place = |record: &Record| order.iter().position(|name| *name == record.name);
    let alive =
        observed.containers.iter().filter(|record| matches!(record.life, Life::Running | Life::Unknown));
    let (mut init, main): (Vec<&Record>, Vec<&Record>) = alive.partition(|record| place(record).is_some());
    init.sort_by_key(|record| std::cmp::Reverse(place(record)));
    let stop = |record: &Record| {
        let (kind, wanted) = spec::container(pod, &record.name)
            .unwrap_or_else(|| (Kind::Main, Container { name: record.name.clone(), ..Default::default() }));
        let record = record.clone();
        let left = grace.saturating_sub(began.elapsed());
        async move {
            let message = format!("Stopping container {}", record.name);
            container(context, pod, (kind, &wanted), &record, (left, message, ip)).await
        }
    };
    let mut results = join_all(main.into_iter().map(stop)).await;
    for record in init {
        results.push(stop(record).await);
    }
    for sandbox in &observed.sandboxes {
        let request = cri::StopPodSandboxRequest { pod_sandbox_id: sandbox.id.clone() };
        results.push(context.runtime.stop_pod_sandbox(request).await.map(drop));
    }
    results.into_iter().collect()
}

/// Removes every container and sandbox of a pod from the runtime.
pub(crate) async fn remove(context: &Context, observed: &Observed) -> Result<(), Error> {
    for sandbox in &observed.sandboxes {
        let stop = cri::StopPodSandboxRequest { pod_sandbox_id: sandbox.id.clone() };
        absent(context.runtime.stop_pod_sandbox(stop).await)?;
        let remove = cri::RemovePodSandboxRequest { pod_sandbox_id: sandbox.id.clone() };
        absent(context.runtime.remove_pod_sandbox(remove).await)?;
    }
    for container in &observed.containers {
        let remove = cri::RemoveContainerRequest { container_id: container.id.clone() };
        absent(context.runtime.remove_container(remove).await)?;
    }
    Ok(())
}

fn absent(result: Result<cri::Empty, Error>) -> Result<(), Error> {
    match result {
        Err(error) if error.is_gone() => Ok(()),
        other => other.map(drop),
    }
}
