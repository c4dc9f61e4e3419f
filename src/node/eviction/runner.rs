//! Looks at what is left, every ten seconds as Kubernetes does: a handful of numbers of the kernel's. Pods are
//! measured only where one has a limit, or one has to go.

use super::crossing::{Crossings, Observation, Observations, is_relieved};
use super::rank::{Candidate, rank};
use super::threshold::{Signal, Threshold, thresholds};
use super::usage::Usage;
use super::{local, words};
use crate::amount::{Qos, signed};
use crate::capacity::most_pids;
use crate::machine::{Meminfo, processes};
use crate::pods::{Pods, Verdict, admission, spec};
use crate::stats::{self, Depth, Space};
use crate::{Context, Error, enforcement, garbage};
use api::Object;
use api::core::Pod;
use base::{Shutdown, clock};
use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Between looks, and where the kernel's notes about memory were asked for (`kernelMemcgNotification`).
const LOOK: Duration = Duration::from_secs(10);
const LOOK_OFTEN: Duration = Duration::from_secs(1);
/// How long the end of a pod is waited for before it is looked who else has to go.
const CLEANUP: Duration = Duration::from_secs(30);
/// A pod that has to go at once gets this long.
const AT_ONCE_S: i64 = 1;

/// Where images and containers' own files lie.
struct ImageFs {
    path: PathBuf,
    /// It is not the file system of the pods' files.
    dedicated: bool,
}

impl ImageFs {
    async fn find(context: &Context) -> Result<Self, Error> {
        let told = context.runtime.image_fs_info().await?.image_filesystems;
        let path = told.into_iter().next().and_then(|one| one.fs_id).map(|id| PathBuf::from(id.mountpoint));
        let path = path.unwrap_or_else(|| context.config.kubelet_dir.clone());
        // A folder that is still to be made will lie where the one above it does.
        let device =
            |path: &Path| path.ancestors().find_map(|path| Some(std::fs::metadata(path).ok()?.dev()));
        let dedicated = device(&path) != device(&context.config.kubelet_dir);
        Ok(Self { path, dedicated })
    }
}

fn disk(path: &Path, (space, inodes): (Signal, Signal), into: &mut Observations) {
    let Some(seen) = Space::of_file_system(path) else { return };
    let of = |available, capacity| Observation { available: signed(available), capacity: signed(capacity) };
    into.insert(space, of(seen.available, seen.capacity));
    // Some file systems make inodes as they are needed, and count none.
    if seen.inodes > 0 {
        into.insert(inodes, of(seen.inodes_free, seen.inodes));
    }
}

/// What is left now.
fn observe(context: &Context, images: &ImageFs) -> Observations {
    let mut seen = Observations::new();
    // What is free, and pages of files that nobody touched lately.
    let memory = Meminfo::read();
    let available = memory.bytes("MemFree") + memory.bytes("Inactive(file)");
    let capacity = signed(memory.bytes("MemTotal"));
    seen.insert(Signal::Memory, Observation { available: signed(available), capacity });
    let limit = context.machine.capacity.pods.memory;
    let used = stats::working_set(&context.cgroups, Qos::Guaranteed);
    if let (Some(capacity), Some(used)) = (limit, used) {
        let available = capacity - signed(used);
        seen.insert(Signal::AllocatableMemory, Observation { available, capacity });
    }
    disk(&context.config.kubelet_dir, (Signal::NodeFs, Signal::NodeFsInodes), &mut seen);
    disk(&images.path, (Signal::ImageFs, Signal::ImageFsInodes), &mut seen);
    if let Some((running, capacity)) = processes().zip(most_pids()) {
        seen.insert(Signal::Pids, Observation { available: capacity - running, capacity });
    }
    seen
}

struct Runner {
    context: Arc<Context>,
    pods: Pods,
    images: ImageFs,
    thresholds: Vec<Threshold>,
    crossings: Crossings,
}

/// Keeps the node from running short, until asked to stop.
pub(crate) async fn run(context: Arc<Context>, pods: Pods, shutdown: Shutdown) -> Result<(), Error> {
    let kubelet = context.config.kubelet();
    let thresholds = thresholds(kubelet).map_err(Error::Setup)?;
    let pause = if kubelet.kernel_memcg_notification { LOOK_OFTEN } else { LOOK };
    let images = ImageFs::find(&context).await?;
    let mut runner =
        Runner { context: context.clone(), pods, images, thresholds, crossings: Crossings::default() };
    loop {
        let evicted = Box::pin(runner.look()).await.unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot look at what the node has left");
            Vec::new()
        });
        tokio::select! {
            () = runner.gone(&evicted), if !evicted.is_empty() => {}
            () = clock::sleep(if evicted.is_empty() { pause } else { CLEANUP }) => {}
            () = shutdown.requested() => return Ok(()),
        }
    }
}

impl Runner {
    /// Completes when these pods hold nothing any more.
    async fn gone(&self, uids: &[String]) {
        for uid in uids {
            self.pods.cleaned_up(uid).await;
        }
    }

    /// Looks, decides and acts; gives whom it evicted.
    async fn look(&mut self) -> Result<Vec<String>, Error> {
        let seen = observe(&self.context, &self.images);
        let transition = self.context.config.kubelet().eviction_pressure_transition_period.get();
        let decision = self.crossings.step(&self.thresholds, &seen, transition, clock::now());
        self.context.pressures.send_if_modified(|known| {
            let changed = *known != decision.pressures;
            known.clone_from(&decision.pressures);
            changed
        });
        let beyond = self.evict_beyond_limits().await?;
        match decision.due.first() {
            Some(threshold) if beyond.is_empty() => self.relieve(threshold, &seen).await,
            _ => Ok(beyond),
        }
    }

    /// Pods that run and have not been told to end.
    fn active(&self) -> Vec<Arc<Pod>> {
        self.pods.active().into_iter().filter(|pod| !spec::has_ended(pod)).collect()
    }

    async fn measure(&self, pods: Vec<Arc<Pod>>) -> Result<HashMap<String, Usage>, Error> {
        let measured = stats::measure(&self.context, pods, Depth::Disks).await?;
        Ok(measured.pods.iter().map(|pod| (pod.pod.uid().to_owned(), Usage::from(pod))).collect())
    }

    async fn evict_beyond_limits(&self) -> Result<Vec<String>, Error> {
        if !self.context.config.kubelet().local_storage_capacity_isolation {
            return Ok(Vec::new());
        }
        let limited: Vec<Arc<Pod>> = self.active().into_iter().filter(|pod| local::is_limited(pod)).collect();
        if limited.is_empty() {
            return Ok(Vec::new());
        }
        let usages = self.measure(limited.clone()).await?;
        let mut evicted = Vec::new();
        for pod in limited {
            let usage = usages.get(pod.uid());
            let Some(why) = usage.and_then(|usage| local::excess(&pod, usage, self.images.dedicated)) else {
                continue;
            };
            let verdict = Verdict { grace_s: Some(AT_ONCE_S), ..Verdict::new(words::REASON, why) };
            evicted.extend(self.evict(&pod, verdict, Default::default()));
        }
        Ok(evicted)
    }

    /// Gives a verdict to a pod, unless the cluster depends on it.
    fn evict(
        &self,
        pod: &Pod,
        verdict: Verdict,
        annotations: std::collections::BTreeMap<String, String>,
    ) -> Option<String> {
        if admission::is_critical(pod) {
            tracing::warn!(
                pod = spec::described(pod),
                why = verdict.message,
                "a critical pod is not evicted"
            );
            return None;
        }
        self.context.recorder.annotated_warning(pod, annotations, words::REASON, verdict.message.clone());
        tracing::info!(pod = spec::described(pod), why = verdict.message, "evicting");
        self.pods.evict(pod.uid(), verdict).then(|| pod.uid().to_owned())
    }

    /// Makes room: first by what nobody uses, then by one pod.
    async fn relieve(&self, threshold: &Threshold, seen: &Observations) -> Result<Vec<String>, Error> {
        let node = enforcement::reference(&self.context.config.node_name);
        let message = format!("Attempting to reclaim {}", threshold.signal.resource());
        self.context.recorder.warning(&node, "EvictionThresholdMet", message);
        if self.reclaim(threshold.signal).await? {
            return Ok(Vec::new());
        }
        let active = self.active();
        let usages = self.measure(active.clone()).await?;
        let with_usage = |pod: Arc<Pod>| Candidate { usage: usages.get(pod.uid()).cloned(), pod };
        let mut candidates: Vec<Candidate> = active.into_iter().map(with_usage).collect();
        rank(threshold.signal, self.images.dedicated, &mut candidates);
        let evicted = candidates.iter().find_map(|candidate| {
            let pod = &candidate.pod;
            let (message, annotations) = words::evicted(pod, candidate.usage.as_ref(), threshold, seen);
            let grace_s = Some(self.grace_s(pod, threshold));
            let verdict =
                Verdict { grace_s, ..Verdict::new(words::REASON, message.clone()).disrupting(&message) };
            self.evict(pod, verdict, annotations)
        });
        if evicted.is_none() {
            tracing::warn!(signal = threshold.signal.name(), "no pod can be evicted");
        }
        Ok(evicted.into_iter().collect())
    }

    fn grace_s(&self, pod: &Pod, threshold: &Threshold) -> i64 {
        if threshold.is_hard() {
            return AT_ONCE_S;
        }
        let most = self.context.config.kubelet().eviction_max_pod_grace_period;
        spec::spec(pod).termination_grace_period_seconds.map_or(most, |own| own.min(most))
    }

    /// Removes images that nobody uses, if that helps; whether nothing is crossed any more.
    async fn reclaim(&self, signal: Signal) -> Result<bool, Error> {
        let helps = match signal {
            Signal::ImageFs | Signal::ImageFsInodes => true,
            Signal::NodeFs | Signal::NodeFsInodes => !self.images.dedicated,
            _ => false,
        };
        if !helps {
            return Ok(false);
        }
        garbage::remove_unused(&self.context, &self.pods).await?;
        Ok(is_relieved(&self.thresholds, &observe(&self.context, &self.images)))
    }
}
