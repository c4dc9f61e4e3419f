//! Images that nobody uses: removed when the disk is full, and when they were not used for long.

mod plan;

use crate::containerd::pause;
use crate::images::full_reference;
use crate::pods::{Pods, spec};
use crate::protocols::runtime::v1 as cri;
use crate::settings::KubeletConfiguration;
use crate::stats::Space;
use crate::{Context, Error, enforcement};
use base::{Shutdown, clock};
use plan::{Known, Plan, Rules, needed};
use std::collections::HashSet;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Between looks at the disk, as Kubernetes has it.
const PERIOD: Duration = Duration::from_secs(300);

/// What is remembered of images.
#[derive(Debug, Default)]
pub(crate) struct Garbage {
    known: Mutex<Known>,
    /// Names of images that came with the node: it may have nowhere to get them from again.
    kept: Mutex<HashSet<String>>,
    /// How often images came or went.
    changes: AtomicU64,
}

impl Garbage {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Images came or went.
    pub(crate) fn changed(&self) {
        self.changes.fetch_add(1, Ordering::SeqCst);
    }

    /// A number that is another once images came or went.
    pub(crate) fn changes(&self) -> u64 {
        self.changes.load(Ordering::SeqCst)
    }

    /// Keeps images of these names, which came with the node.
    pub(crate) fn keep(&self, names: impl IntoIterator<Item = String>) {
        self.changed();
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).extend(names);
    }

    /// What came with the node, and what every pod begins with, though no container of a pod has it.
    fn is_kept(&self, image: &cri::Image) -> bool {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let mut names = image.repo_tags.iter().chain(&image.repo_digests);
        names.any(|name| name == pause::IMAGE || kept.contains(name))
    }
}

/// Images, and the ids of those that a container has or a pod of this node names.
async fn list(context: &Context, pods: &Pods) -> Result<(Vec<cri::Image>, HashSet<String>), Error> {
    let mut images = context.runtime.list_images(cri::ListImagesRequest {}).await?.images;
    for image in &mut images {
        image.pinned |= context.garbage.is_kept(image);
    }
    let containers = context.runtime.list_containers(cri::ListContainersRequest::default()).await?.containers;
    let mut named: HashSet<String> = HashSet::new();
    for container in containers {
        named.insert(container.image_ref);
        named.extend(container.image.map(|image| image.image));
    }
    for pod in pods.active() {
        named.extend(spec::images(&pod).iter().map(|image| full_reference(image)));
    }
    let is_used = |image: &&cri::Image| {
        let names = image.repo_tags.iter().chain(&image.repo_digests).chain([&image.id]);
        names.into_iter().any(|name| named.contains(name))
    };
    let used = images.iter().filter(is_used).map(|image| image.id.clone()).collect();
    Ok((images, used))
}

fn rules(kubelet: &KubeletConfiguration, bytes: u64) -> Rules {
    let most_age = Some(kubelet.image_maximum_gc_age.get()).filter(|age| !age.is_zero());
    Rules { now: clock::now(), least_age: kubelet.image_minimum_gc_age.get(), most_age, bytes }
}

/// Removes what is not used until so many bytes are free; gives what was removed, and the first failure.
async fn collect(context: &Context, pods: &Pods, bytes: u64) -> Result<(Plan, Option<Error>), Error> {
    let (images, used) = list(context, pods).await?;
    let plan = {
        let mut known = context.garbage.known();
        known.note(&images, &used, clock::now());
        known.plan(&images, &used, rules(context.config.kubelet(), bytes))
    };
    let (mut done, mut failed) = (Plan::default(), None);
    for id in plan.ids {
        let size = images.iter().find(|image| image.id == id).map_or(0, |image| image.size);
        let image = Some(cri::ImageSpec { image: id.clone(), ..Default::default() });
        match context.runtime.remove_image(cri::RemoveImageRequest { image }).await {
            Ok(()) => {
                tracing::info!(image = id, size, "removed an image that nobody uses");
                context.garbage.changed();
                done.ids.push(id);
                done.bytes = done.bytes.saturating_add(size);
            }
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    Ok((done, failed))
}

/// Removes all images that nobody uses.
pub(crate) async fn remove_unused(context: &Context, pods: &Pods) -> Result<(), Error> {
    let (_, failed) = collect(context, pods, u64::MAX).await?;
    failed.map_or(Ok(()), Err)
}

/// Looks at the disk every few minutes, until asked to stop.
pub(crate) async fn run(context: Arc<Context>, pods: Pods, shutdown: Shutdown) -> Result<(), Error> {
    let node = enforcement::reference(&context.config.node_name);
    let mut failures = 0;
    loop {
        match Box::pin(tend(&context, &pods)).await {
            Ok(None) => failures = 0,
            Ok(Some(short)) => context.recorder.warning(&node, "FreeDiskSpaceFailed", short),
            Err(error) => {
                failures += 1;
                tracing::warn!(%error, "cannot remove images that nobody uses");
                // The first failure may be the runtime's start.
                if failures > 1 {
                    context.recorder.warning(&node, "ImageGCFailed", error.to_string());
                }
            }
        }
        tokio::select! {
            () = clock::sleep(PERIOD) => {}
            () = shutdown.requested() => return Ok(()),
        }
    }
}

/// One look; gives what is to be told if too little could be made free.
async fn tend(context: &Context, pods: &Pods) -> Result<Option<String>, Error> {
    let kubelet = context.config.kubelet();
    let percent = |value: i64| value.unsigned_abs();
    let thresholds =
        (percent(kubelet.image_gc_high_threshold_percent), percent(kubelet.image_gc_low_threshold_percent));
    let told = context.runtime.image_fs_info().await?.image_filesystems.into_iter().next();
    let path = told.and_then(|one| one.fs_id).map(|id| id.mountpoint);
    let space = path.and_then(|path| Space::of_file_system(Path::new(&path))).unwrap_or_default();
    // At a hundred percent nothing is ever removed for the disk's sake.
    let bytes = needed(space.capacity, space.available, thresholds).filter(|_| thresholds.0 < 100);
    let (done, failed) = collect(context, pods, bytes.unwrap_or(0)).await?;
    match (failed, bytes) {
        (Some(error), _) => Err(error),
        (None, Some(bytes)) if done.bytes < bytes => Ok(Some(format!(
            "Failed to garbage collect required amount of images. Attempted to free {bytes} bytes, but only found {} bytes eligible to free.",
            done.bytes
        ))),
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_pods_begin_with_and_what_came_with_the_node_stays() {
        let garbage = Garbage::default();
        garbage.keep(["example.org/came:1".to_owned()]);
        let is_kept = |name: &str| {
            garbage.is_kept(&cri::Image { repo_tags: vec![name.to_owned()], ..Default::default() })
        };
        assert!(is_kept("knarr.local/pause:1"), "no pod would start without");
        assert!(is_kept("example.org/came:1") && !is_kept("example.org/pulled:1"));
    }
}
