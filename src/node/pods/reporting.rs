//! Telling the API server what a pod does; what cannot be told is kept until it can.

use super::inbox::Pending;
use super::report;
use super::state::State;
use super::status;
use super::worker::Worker;
use crate::checkpoint::Checkpoint;
use crate::stats::counters;
use crate::{Error, dra};
use api::Object;
use api::core::{Pod, PodStatus};
use base::clock;
use client::Patch;
use std::sync::Arc;

/// What of a status a restart without an API server has to know.
pub(super) type Essence = (Option<i64>, Option<String>, Vec<i32>);

fn essence(pod: &Pod, status: &PodStatus) -> Essence {
    let lists = [&status.init_container_statuses, &status.container_statuses];
    let counts = lists.into_iter().flatten().flatten().map(|container| container.restart_count);
    (pod.metadata.generation, status.phase.clone(), counts.collect())
}

pub(super) fn with_status(pod: &Pod, status: PodStatus) -> Arc<Pod> {
    Arc::new(Pod { metadata: pod.metadata.clone(), spec: pod.spec.clone(), status: Some(status) })
}

/// Which of a pod's generations is acted by: one that asks for other resources than it was given is not before it is
/// decided whether it gets them.
fn acted_by(pod: &Pod, asks_for_other: bool, pending: Option<&Pending>) -> Option<i64> {
    let generation = pod.metadata.generation;
    let is_decided = !asks_for_other || pending.is_some_and(|pending| pending.generation == generation);
    if is_decided { generation } else { pod.status.as_ref().and_then(|status| status.observed_generation) }
}

impl Worker {
    fn status(&self) -> PodStatus {
        let results = self.probes.results();
        let pending = self.inbox.wanted.borrow().pending.clone();
        let mut status = status::render(&status::Input {
            pod: &self.pod,
            observed: &self.observed,
            probes: &results,
            failures: &self.failures,
            volumes: self.volumes.as_ref(),
            verdict: self.verdict.as_ref(),
            lagging: &self.lagging,
            resize: (&pending, self.resize_error.as_deref()),
            generation: acted_by(&self.pod, self.asks_for_other, pending.as_ref()),
            ending: self.state != State::Syncing,
            host_ips: &self.context.addresses(),
            now: clock::now(),
        });
        self.context.devices.add_health(self.pod.uid(), &mut status);
        dra::add_health(&self.context, &self.pod, &mut status);
        status
    }

    /// Patches the status if it changed.
    pub(super) async fn report(&mut self) -> Result<(), Error> {
        if !self.exists {
            return Ok(());
        }
        let status = self.status();
        self.remember(&status)?;
        if self.is_static() {
            return self.report_static(status).await;
        }
        let told = self.untold.as_ref().or(self.pod.status.as_ref());
        let Some(patch) = report::patch(self.pod.uid(), told, &status) else { return Ok(()) };
        if self.context.reach.is_away() {
            self.keep(status);
            return Ok(());
        }
        let asked = clock::instant();
        let (namespace, name) = (self.pod.namespace(), self.pod.name());
        match self.context.client.patch_status::<Pod>(namespace, name, &Patch::Strategic(patch)).await {
            Ok(pod) => {
                counters::POD_STATUS.observe_since(&[], asked);
                counters::pod_reported(&self.pod, &pod);
                counters::containers_ended(self.pod.status.as_ref(), &status);
                self.untold = None;
                let told = Arc::new(pod);
                self.adopt(&told, self.pods.given(&told));
            }
            // It was deleted, or replaced by another of its name: the cache will say so.
            Err(error) if error.is_not_found() || error.is_conflict() => {}
            Err(client::Error::Transport(_)) => self.keep(status),
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Goes on from a status that the API server does not know yet. Its return wakes the worker.
    fn keep(&mut self, status: PodStatus) {
        if self.untold.is_none() {
            self.untold = Some(self.pod.status.clone().unwrap_or_default());
        }
        counters::containers_ended(self.pod.status.as_ref(), &status);
        self.pod = with_status(&self.pod, status);
    }

    /// Takes over the pod as the API server has it, with what it was given, but for what the API server has not been
    /// told yet.
    pub(super) fn adopt(&mut self, told: &Arc<Pod>, pod: Arc<Pod>) {
        self.asks_for_other = !Arc::ptr_eq(told, &pod);
        if !Arc::ptr_eq(&self.pod, &pod) {
            self.take_given(&pod);
        }
        self.pod = match &mut self.untold {
            Some(untold) => {
                *untold = pod.status.clone().unwrap_or_default();
                with_status(&pod, self.pod.status.clone().unwrap_or_default())
            }
            None => pod,
        };
    }

    /// Remembers what a start without an API server has to know: what to run, what has ended, how often what was
    /// started again.
    fn remember(&mut self, status: &PodStatus) -> Result<(), Error> {
        let essence = essence(&self.pod, status);
        if self.remembered.as_ref() == Some(&essence) {
            return Ok(());
        }
        let told = self.inbox.wanted.borrow().told.clone();
        Checkpoint::change(&self.context, self.pod.uid(), |kept| {
            let pod = (*with_status(&told, status.clone())).clone();
            kept.map(|kept| Checkpoint { pod, ..kept })
        })?;
        self.remembered = Some(essence);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_asked_for_is_acted_by_once_it_is_decided() {
        let pod = json!({"metadata": {"generation": 5}, "status": {"observedGeneration": 4}});
        let pod: Pod = serde_json::from_value(pod).unwrap();
        let pending =
            |generation| Pending { reason: "Deferred", message: String::new(), generation: Some(generation) };
        let by = |asks, pending: Option<Pending>| acted_by(&pod, asks, pending.as_ref());
        assert_eq!([by(false, None), by(true, Some(pending(5)))], [Some(5), Some(5)]);
        assert_eq!([by(true, None), by(true, Some(pending(4)))], [Some(4), Some(4)]);
    }
}
