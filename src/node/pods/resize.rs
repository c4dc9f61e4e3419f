//! KEP-1287: giving a pod's running containers other resources than they were started with.

use super::inbox::Pending;
use super::ledger::Given;
use super::observe::{Container as Record, Life, Observed};
use super::worker::{RETRY, Worker};
use super::{resources, spec, whole};
use crate::Error;
use crate::amount::{of_container, of_pod, within};
use crate::checkpoint::{Checkpoint, Resources as Lagging};
use crate::protocols::runtime::v1 as cri;
use api::Object;
use api::core::{Container, Pod};

/// Stands for the pod itself where containers are named.
pub(crate) const POD: &str = "";

/// What a resize of a container comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Nothing,
    InPlace,
    Restart,
}

/// How a container's resources become what it was given (`resizePolicy`), its pod's limits among them where it has
/// none of its own.
pub(crate) fn change(pod: &Pod, container: &Container, lagging: &Lagging) -> Change {
    let Some(own) = lagging.get(&container.name) else { return Change::Nothing };
    let all = lagging.get(POD).or(spec::spec(pod).resources.as_ref());
    let (has, gets) = (within(all, Some(own)), of_container(pod, container));
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
pub(crate) fn awaits_restart(pod: &Pod, observed: &Observed, lagging: &Lagging, name: &str) -> bool {
    let running = observed.latest(name).is_some_and(|record| record.life == Life::Running);
    let container = spec::container(pod, name).filter(|_| running);
    container.is_some_and(|(_, it)| change(pod, &it, lagging) == Change::Restart)
}

/// What containers, and the pod under [`POD`], have now where they were given something else. The limits of a pod are
/// also those of its containers without any.
pub(crate) fn lagging(before: &Given, now: &Given) -> Lagging {
    let limits = |given: &Given, own| within(given.pod.as_ref(), own);
    let changed = before.containers.iter().filter(|(name, own)| {
        let next = now.containers.get(*name);
        next != Some(own) || limits(before, Some(own)) != limits(now, next)
    });
    let mut all: Lagging = changed.map(|(name, own)| (name.clone(), own.clone())).collect();
    if before.pod != now.pod {
        all.insert(POD.to_owned(), before.pod.clone().unwrap_or_default());
    }
    all
}

/// Whether a limit, 0 for none, becomes a lower one.
fn shrinks((had, gets): (i64, i64)) -> bool {
    gets > 0 && (had == 0 || gets < had)
}

fn too_full(what: &str, limit: i64, used: u64) -> Result<(), Error> {
    if used < limit.unsigned_abs() {
        return Ok(());
    }
    let why = format!(
        "cannot decrease memory limits: attempting to set {what} memory limit ({limit}) below current usage ({used})"
    );
    Err(Error::Container("Error", why))
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
                let (pod, observed, lagging) = (&self.pod, &self.observed, self.lagging.clone());
                self.lagging.retain(|name, _| awaits_restart(pod, observed, &lagging, name));
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
            .filter(|record| self.lagging.contains_key(&record.name) && self.is_in_place(record))
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

    fn is_in_place(&self, record: &Record) -> bool {
        !awaits_restart(&self.pod, &self.observed, &self.lagging, &record.name)
    }

    /// A limit below what is in use would kill.
    async fn check_memory(&self, running: &[(&Record, Container)]) -> Result<(), Error> {
        let had = whole::actual(&self.pod, &self.lagging);
        let limit = |pod: &Pod, name: &str| {
            spec::container(pod, name).map_or(0, |(_, it)| of_container(pod, &it).memory_limit)
        };
        let of_pod = (of_pod(&had).memory_limit, of_pod(&self.pod).memory_limit);
        let each = running.iter().map(|(record, container)| {
            let limits = (limit(&had, &record.name), of_container(&self.pod, container).memory_limit);
            (format!("container {:?}", record.name), vec![record.id.as_str()], limits)
        });
        let alive = self.observed.containers.iter().filter(|record| record.life == Life::Running);
        let all = ("pod".to_owned(), alive.map(|record| record.id.as_str()).collect(), of_pod);
        for (what, ids, limits) in std::iter::once(all).chain(each).filter(|(_, _, limits)| shrinks(*limits))
        {
            let mut used = 0;
            for id in ids {
                used += self.memory_used(id).await?;
            }
            too_full(&what, limits.1, used)?;
        }
        Ok(())
    }

    async fn memory_used(&self, id: &str) -> Result<u64, Error> {
        let filter = cri::ContainerStatsFilter { id: id.to_owned() };
        let request = cri::ListContainerStatsRequest { filter: Some(filter) };
        let stats = self.context.runtime.list_container_stats(request).await?.stats;
        let mut used = stats.iter().filter_map(|stats| stats.memory.as_ref()?.usage_bytes.as_ref());
        Ok(used.next().map_or(0, |used| used.value))
    }

    /// Remembers who has something else than it was given, over a restart.
    pub(super) fn save_lagging(&self) -> Result<(), Error> {
        Checkpoint::change(&self.context, self.pod.uid(), |kept| {
            kept.map(|kept| Checkpoint { actuated: self.lagging.clone(), ..kept })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn limits_of_a_pod_reach_its_containers_without_any() {
        let pod = |memory: &str| -> Pod {
            let own = json!({"limits": {"cpu": "1", "memory": "8Mi"}});
            let restarts = json!([{"resourceName": "memory", "restartPolicy": "RestartContainer"}]);
            serde_json::from_value(json!({"spec": {
                "resources": {"limits": {"memory": memory}},
                "containers": [{"name": "free"}, {"name": "own", "resources": own},
                    {"name": "restarts", "resizePolicy": restarts}],
            }}))
            .unwrap()
        };
        let (before, now) = (pod("35Mi"), pod("30Mi"));
        let lagging = lagging(&Given::of(&before), &Given::of(&now));
        assert_eq!(lagging.keys().collect::<Vec<_>>(), [POD, "free", "restarts"]);
        let changes = spec::spec(&now).containers.iter().map(|it| change(&now, it, &lagging));
        assert_eq!(changes.collect::<Vec<_>>(), [Change::InPlace, Change::Nothing, Change::Restart]);
    }

    #[test]
    fn no_limit_falls_below_what_is_used() {
        assert_eq!([(0, 5), (9, 5), (5, 9), (9, 0)].map(shrinks), [true, true, false, false]);
        assert!(too_full("pod", 5, 4).is_ok());
        let said = too_full("container \"c\"", 5, 5).unwrap_err().to_string();
        assert!(said.ends_with("set container \"c\" memory limit (5) below current usage (5)"), "{said}");
    }
}
