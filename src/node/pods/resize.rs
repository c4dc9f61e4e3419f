//! KEP-1287: giving a pod's running containers other resources than they were started with.

use super::inbox::Pending;
use super::ledger::Given;
use super::observe::{Container as Record, Life, Observed};
use super::worker::{RETRY, Worker};
use super::{resources, spec};
use crate::Error;
use crate::amount::Resources;
use crate::checkpoint::{Checkpoint, Resources as Lagging};
use crate::protocols::runtime::v1 as cri;
use api::Object;
use api::core::{Container, Pod, ResourceRequirements};

/// Stands for the pod itself where containers are named.
pub(crate) const POD: &str = "";

/// What a resize of a container comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Nothing,
    InPlace,
    Restart,
}

/// How a container's resources become what it was given (`resizePolicy`).
pub(crate) fn change(container: &Container, has: &ResourceRequirements) -> Change {
    let (has, gets) = (Resources::of(Some(has)), Resources::of(container.resources.as_ref()));
    let restarts = |name: &str| {
        let policies = container.resize_policy.iter().flatten();
        policies.into_iter().any(|it| it.resource_name == name && it.restart_policy == "RestartContainer")
    };
    let cpu = (has.cpu_request_m, has.cpu_limit_m) != (gets.cpu_request_m, gets.cpu_limit_m);
    let memory = (has.memory_request, has.memory_limit) != (gets.memory_request, gets.memory_limit);
    match (cpu, memory) {
        (false, false) => Change::Nothing,
        _ if cpu && restarts("cpu") || memory && restarts("memory") => Change::Restart,
        _ => Change::InPlace,
    }
}

/// Whether a running container has to be started again for what it was given.
pub(crate) fn awaits_restart(
    pod: &Pod,
    observed: &Observed,
    (name, has): (&str, &ResourceRequirements),
) -> bool {
    let running = observed.latest(name).is_some_and(|record| record.life == Life::Running);
    let container = spec::container(pod, name).filter(|_| running);
    container.is_some_and(|(_, it)| change(&it, has) == Change::Restart)
}

/// What containers, and the pod under [`POD`], have now where they were given something else.
pub(crate) fn lagging(before: &Given, now: &Given) -> Lagging {
    let changed = before.containers.iter().filter(|(name, own)| now.containers.get(*name) != Some(own));
    let mut all: Lagging = changed.map(|(name, own)| (name.clone(), own.clone())).collect();
    if before.pod != now.pod {
        all.insert(POD.to_owned(), before.pod.clone().unwrap_or_default());
    }
    all
}

impl Worker {
    /// Notes what the pod was given, and who of it has something else yet.
    pub(super) fn take_given(&mut self, pod: &Pod) {
        for (name, had) in lagging(&Given::of(&self.pod), &Given::of(pod)) {
            self.lagging.entry(name).or_insert(had);
        }
    }

    /// Gives running containers what they lack or have too much of; the pod's own limits grow before and shrink
    /// after. What fails is told, and tried again.
    pub(super) async fn resize(&mut self) -> Result<(), Error> {
        match Box::pin(self.change_resources()).await {
            Ok(()) => {
                self.resize_error = None;
                let (pod, observed) = (&self.pod, &self.observed);
                self.lagging.retain(|name, has| awaits_restart(pod, observed, (name, has)));
                self.save_lagging()?;
                let message = Pending::message("completed", &self.pod, None);
                self.context.recorder.normal(&*self.pod, "ResizeCompleted", message);
            }
            Err(error) => {
                let text = error.to_string();
                if self.resize_error.as_ref() != Some(&text) {
                    let message = Pending::message("error", &self.pod, Some(&text));
                    self.context.recorder.warning(&*self.pod, "ResizeError", message);
                }
                self.resize_error = Some(text);
                self.retry_later(RETRY);
            }
        }
        Ok(())
    }

    async fn change_resources(&self) -> Result<(), Error> {
        let running: Vec<(&Record, Container)> = self
            .observed
            .containers
            .iter()
            .filter(|record| record.life == Life::Running)
            .filter(|record| self.lagging.get(&record.name).is_some_and(|has| self.is_in_place(record, has)))
            .filter_map(|record| Some((record, spec::container(&self.pod, &record.name)?.1)))
            .collect();
        self.check_memory(&running).await?;
        let rules = self.context.rules(&self.pod, None);
        self.context.cgroups.grow(&self.pod, &rules)?;
        for (record, container) in running {
            let own = self.context.rules(&self.pod, Some(&container));
            let resources = resources::of(&self.pod, &container, &own);
            let request = cri::UpdateContainerResourcesRequest {
                container_id: record.id.clone(),
                linux: Some(resources),
            };
            self.context.runtime.update_container_resources(request).await?;
        }
        self.context.cgroups.make_slices(&self.pod, &rules).await?;
        self.context.cgroups.make(&self.pod, &rules)
    }

    fn is_in_place(&self, record: &Record, has: &ResourceRequirements) -> bool {
        !awaits_restart(&self.pod, &self.observed, (&record.name, has))
    }

    /// A limit below what is in use would kill.
    async fn check_memory(&self, running: &[(&Record, Container)]) -> Result<(), Error> {
        for (record, container) in running {
            let limit = |of: Option<&ResourceRequirements>| Resources::of(of).memory_limit;
            let (had, gets) = (limit(self.lagging.get(&record.name)), limit(container.resources.as_ref()));
            if gets == 0 || had != 0 && gets >= had {
                continue;
            }
            let filter = cri::ContainerStatsFilter { id: record.id.clone() };
            let request = cri::ListContainerStatsRequest { filter: Some(filter) };
            let stats = self.context.runtime.list_container_stats(request).await?.stats;
            let used = stats.iter().filter_map(|stats| stats.memory.as_ref()?.usage_bytes.as_ref()).next();
            let used = used.map_or(0, |used| used.value);
            if used >= gets.unsigned_abs() {
                return Err(Error::Container(
                    "Error",
                    format!(
                        "cannot decrease memory limits: attempting to set container {:?} memory limit ({gets}) \
                         below current usage ({used})",
                        record.name
                    ),
                ));
            }
        }
        Ok(())
    }

    /// Remembers who has something else than it was given, over a restart.
    pub(super) fn save_lagging(&self) -> Result<(), Error> {
        Checkpoint::change(&self.context, self.pod.uid(), |kept| {
            kept.map(|kept| Checkpoint { actuated: self.lagging.clone(), ..kept })
        })
    }
}
