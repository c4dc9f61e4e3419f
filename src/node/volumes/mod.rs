//! A pod's volumes: made before its sandbox, kept up to date while it runs, taken down with it. What is
//! made is found again on the machine after a restart; nothing is remembered elsewhere.

mod atomic;
mod by_program;
mod certificates;
mod claims;
mod disks;
mod empty_dir;
mod host_path;
mod image;
mod keys;
mod local;
mod mount_table;
mod mounts;
mod nested;
pub(crate) mod ownership;
mod payload;
mod pem;
mod set_up;
mod share;
mod subpath;
mod teardown;
mod trouble;
mod trust;

use crate::Context;
use crate::background::Background;
use crate::csi::Published;
use crate::pods::spec;
use crate::turns::Turns;
use api::core::{ImageVolumeSource, Pod, Volume};
use futures_util::future::join_all;
use jiff::Timestamp;
use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub(crate) use certificates::requests as certificate_requests;
pub(crate) use claims::{Claimed, Claims};
pub(crate) use mount_table::{Busy, unmount};
pub(crate) use mounts::{Given, Place, is_recursively_read_only};
pub(crate) use payload::{Payload, Watched, renewal, token_request, watched};
pub(crate) use share::share;
pub(crate) use teardown::take_down;
pub(crate) use trouble::{Trouble, events, rejection};
pub(crate) use trust::bundles as trust_bundles;

/// What the volumes of all pods share.
#[derive(Default)]
pub(crate) struct Shared {
    pub(crate) background: Background,
    disks: Turns,
    trust: trust::Trust,
    certificates: certificates::Certificates,
}

impl Shared {
    /// Forgets what was kept for a pod that is gone.
    pub(crate) fn forget(&self, uid: &str) {
        self.certificates.forget(uid);
    }
}

/// What a container gets of a volume.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum What {
    /// A folder or a file.
    Files(PathBuf),
    /// A block device, or a link to one.
    Device(PathBuf),
    /// An image, which is fetched and mounted when a container wants it.
    Image(ImageVolumeSource),
}

/// A volume that is ready.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Ready {
    pub(crate) what: What,
    /// The name of what it is of: its own, or that of the persistent volume.
    pub(crate) name: String,
    /// Nobody writes, whatever a mount says.
    pub(crate) read_only: bool,
    /// When to make it anew.
    pub(crate) renew: Option<Timestamp>,
    /// What a driver of storage published.
    pub(crate) published: Option<Published>,
}

impl Ready {
    pub(crate) fn new(name: &str, what: What) -> Self {
        Self { what, name: name.to_owned(), read_only: false, renew: None, published: None }
    }

    pub(crate) fn files(name: &str, path: PathBuf) -> Self {
        Self::new(name, What::Files(path))
    }
}

/// The runtime's ids of images, by volume.
type Images = Arc<Mutex<HashMap<String, String>>>;

/// A pod's volumes that are ready, by the names that the pod has for them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Volumes {
    ready: HashMap<String, Ready>,
    /// Mounts can be made read-only with everything below them.
    recursive_read_only: bool,
    /// The images that were mounted, by volume.
    images: Images,
}

impl Volumes {
    fn images(&self) -> MutexGuard<'_, HashMap<String, String>> {
        self.images.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The image that a volume is, once it was mounted.
    pub(crate) fn image(&self, volume: &str) -> Option<String> {
        self.images().get(volume).cloned()
    }

    /// Where those lie that are folders, by volume.
    pub(crate) fn paths(&self) -> HashMap<String, PathBuf> {
        let path = |(name, ready): (&String, &Ready)| match &ready.what {
            What::Files(path) => Some((name.clone(), path.clone())),
            What::Device(_) | What::Image(_) => None,
        };
        self.ready.iter().filter_map(path).collect()
    }

    /// Those that drivers of storage published, by volume.
    pub(crate) fn published(&self) -> HashMap<String, Published> {
        let published = |(name, ready): (&String, &Ready)| Some((name.clone(), ready.published.clone()?));
        self.ready.iter().filter_map(published).collect()
    }

    /// When the earliest wants to be made anew.
    pub(crate) fn renew(&self) -> Option<Timestamp> {
        self.ready.values().filter_map(|ready| ready.renew).min()
    }
}

/// The folder that holds everything of a pod.
pub(crate) fn pod_folder(context: &Context, uid: &str) -> PathBuf {
    context.config.kubelet_dir.join("pods").join(uid)
}

/// The text of a file in a volume, which must not lead out of it.
pub(crate) async fn read(context: &Context, volume: &Path, path: &str) -> Result<String, String> {
    let (at, path) = (volume.to_owned(), path.to_owned());
    let read = context.volumes.background.run(volume, move || subpath::read(&at, &path)).await;
    read.map_err(|error| {
        tracing::debug!(%error, "a file of variables cannot be read");
        "couldn't parse env file".to_owned()
    })
}

/// Where a pod's volume of a plugin lies.
fn folder(context: &Context, uid: &str, plugin: &str, volume: &str) -> PathBuf {
    pod_folder(context, uid).join("volumes").join(format!("kubernetes.io~{plugin}")).join(volume)
}

/// The volumes that a pod's containers use, as files and as devices; the others are not made.
fn used(pod: &Pod) -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut files, mut devices) = (BTreeSet::new(), BTreeSet::new());
    for (_, container) in spec::containers(pod) {
        files.extend(container.volume_mounts.into_iter().flatten().map(|mount| mount.name));
        devices.extend(container.volume_devices.into_iter().flatten().map(|device| device.name));
    }
    (files, devices)
}

/// Makes or refreshes a pod's volumes, all at once, so that one that hangs holds none of the others. Gives
/// those that are ready, and what is wrong with the others; `before` stand in for those that cannot be
/// refreshed.
pub(crate) async fn prepare(
    context: &Arc<Context>,
    pod: &Pod,
    before: Option<&Volumes>,
) -> (Volumes, Vec<(String, Trouble)>) {
    let (files, devices) = used(pod);
    let is_used = |volume: &&Volume| files.contains(&volume.name) || devices.contains(&volume.name);
    let wanted: Vec<&Volume> = spec::spec(pod).volumes.iter().flatten().filter(is_used).collect();
    let making = wanted.iter().map(|volume| Box::pin(set_up::volume(context, pod, volume)));
    let images = before.map(|before| before.images.clone()).unwrap_or_default();
    let (mut volumes, mut troubles) = (Volumes { images, ..Volumes::default() }, Vec::new());
    for (volume, made) in wanted.iter().zip(join_all(making).await) {
        let earlier = before.and_then(|before| before.ready.get(&volume.name));
        let ready = made.map_err(|trouble| troubles.push((volume.name.clone(), trouble))).ok();
        let ready = ready.or_else(|| earlier.cloned());
        volumes.ready.extend(ready.map(|ready| (volume.name.clone(), ready)));
    }
    volumes.recursive_read_only = mounts::recursive_read_only(context, pod).await;
    (volumes, troubles)
}

/// Whether every volume is there that a pod's containers use.
pub(crate) fn are_complete(volumes: &Volumes, pod: &Pod) -> bool {
    let (files, devices) = used(pod);
    files.iter().chain(&devices).all(|name| volumes.ready.contains_key(name))
}
