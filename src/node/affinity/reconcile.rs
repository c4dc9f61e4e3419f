//! Tells running containers of the processors that are theirs by now: what one pod gets to itself all others lose.

use super::{Affinity, locked};
use crate::pods::observe::names;
use crate::protocols::runtime::v1 as cri;
use crate::{Context, Error};
use base::{Shutdown, clock};
use std::collections::HashSet;
use std::sync::Arc;

/// Follows changes until asked to stop. What could not be told is told after `cpuManagerReconcilePeriod`.
pub(crate) async fn run(context: Arc<Context>, shutdown: Shutdown) -> Result<(), Error> {
    let Some(inner) = context.affinity.0.get().filter(|inner| inner.exclusive.is_some()) else {
        return Ok(());
    };
    let period = context.config.kubelet().cpu_manager_reconcile_period.get();
    let mut changes = inner.changed.subscribe();
    changes.mark_changed();
    let mut failed = false;
    loop {
        tokio::select! {
            _ = changes.changed() => {}
            () = clock::sleep(period), if failed => {}
            () = shutdown.requested() => return Ok(()),
        }
        let told = tell(&context).await;
        failed = told.is_err();
        if let Err(error) = told {
            tracing::warn!(%error, "cannot tell containers of their processors; will try again");
        }
    }
}

/// Tells all containers of pods that have other processors than they should.
async fn tell(context: &Context) -> Result<(), Error> {
    let all = context.runtime.list_containers(cri::ListContainersRequest::default()).await?.containers;
    let alive = [cri::ContainerState::ContainerCreated, cri::ContainerState::ContainerRunning];
    let alive: Vec<&cri::Container> = all.iter().filter(|it| alive.contains(&it.state())).collect();
    context.affinity.forget_containers(&alive);
    let mut failure = Ok(());
    for container in alive {
        let label = |name: &str| container.labels.get(name).map(String::as_str).unwrap_or_default();
        let (uid, name) = (label(names::UID), label(names::CONTAINER));
        if !uid.is_empty()
            && let Err(error) = tell_one(context, &container.id, (uid, name)).await
            && !error.is_gone()
        {
            failure = Err(error);
        }
    }
    failure
}

async fn tell_one(context: &Context, id: &str, (uid, name): (&str, &str)) -> Result<(), Error> {
    let cpus = context.affinity.pinned(uid, name).cpus;
    if cpus.is_empty() || context.affinity.was_told(id, &cpus) {
        return Ok(());
    }
    let linux = cri::LinuxContainerResources { cpuset_cpus: cpus.clone(), ..Default::default() };
    let request = cri::UpdateContainerResourcesRequest { container_id: id.to_owned(), linux: Some(linux) };
    context.runtime.update_container_resources(request).await?;
    context.affinity.has_told(id, cpus);
    Ok(())
}

impl Affinity {
    fn was_told(&self, id: &str, cpus: &str) -> bool {
        self.0.get().is_some_and(|inner| locked(&inner.told).get(id).is_some_and(|told| told == cpus))
    }

    fn has_told(&self, id: &str, cpus: String) {
        if let Some(inner) = self.0.get() {
            locked(&inner.told).insert(id.to_owned(), cpus);
        }
    }

    /// Forgets what containers were told that are no more.
    fn forget_containers(&self, alive: &[&cri::Container]) {
        if let Some(inner) = self.0.get() {
            let alive: HashSet<&str> = alive.iter().map(|container| container.id.as_str()).collect();
            locked(&inner.told).retain(|id, _| alive.contains(id.as_str()));
        }
    }
}
