//! A pod's volumes: made before its sandbox, kept up to date while it runs, taken down with it.

mod atomic;
mod claims;
mod payload;

use crate::pods::spec;
use crate::protocols::runtime::v1 as cri;
use crate::{Context, Error, files};
use api::Object;
use api::core::{
    Container, EmptyDirVolumeSource, HostPathVolumeSource, PersistentVolume, Pod, Volume, VolumeMount,
};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::unistd::{Gid, chown};
use payload::Freshness;
use std::collections::HashMap;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

pub(crate) use payload::{renewal, token_request, watched};

/// Where each volume of a pod lies on this machine.
#[derive(Clone, Debug, Default)]
pub(crate) struct Volumes {
    paths: HashMap<String, PathBuf>,
    /// When the earliest service account token wants to be renewed.
    pub(crate) renew: Option<jiff::Timestamp>,
}

/// The folder that holds everything of a pod.
pub(crate) fn pod_folder(context: &Context, uid: &str) -> PathBuf {
    context.config.kubelet_dir.join("pods").join(uid)
}

fn folder(context: &Context, pod: &Pod, plugin: &str, volume: &str) -> PathBuf {
    pod_folder(context, pod.uid()).join("volumes").join(format!("kubernetes.io~{plugin}")).join(volume)
}

/// Makes or updates every volume of a pod. The error is what a FailedMount event says.
pub(crate) async fn prepare(context: &Context, pod: &Pod) -> Result<Volumes, Error> {
    let mut volumes = Volumes::default();
    for volume in spec::spec(pod).volumes.iter().flatten() {
        let persistent = claims::resolve(context, pod, volume).await?;
        let (name, made) = match &persistent {
            Some(persistent) => (persistent.name(), claimed(context, pod, persistent)),
            None => (volume.name.as_str(), one(context, pod, volume, &mut volumes).await),
        };
        let path = made.map_err(|error| {
            Error::Volume(format!("MountVolume.SetUp failed for volume {name:?} : {error}"))
        })?;
        volumes.paths.insert(volume.name.clone(), path);
    }
    Ok(volumes)
}

async fn one(context: &Context, pod: &Pod, volume: &Volume, all: &mut Volumes) -> Result<PathBuf, Error> {
    if let Some(source) = &volume.host_path {
        return host_path(context, source);
    }
    let group = spec::spec(pod).security_context.as_ref().and_then(|context| context.fs_group);
    if let Some(source) = &volume.empty_dir {
        let path = folder(context, pod, "empty-dir", &volume.name);
        return context.machine.change(|| empty_dir(&path, source, group)).map(|()| path);
    }
    let (plugin, source) = payload::source(volume).ok_or_else(|| {
        Error::Volume(format!("volume type of {:?} is not supported by this node", volume.name))
    })?;
    let path = folder(context, pod, plugin, &volume.name);
    let payload = payload::collect(context, pod, &source).await?;
    if let Freshness::Until(renew) = payload.freshness {
        all.renew = Some(all.renew.map_or(renew, |earlier| earlier.min(renew)));
    }
    let write = || {
        if plugin != "configmap" && plugin != "downward-api" {
            // Secrets must not reach a disk.
            mount_tmpfs(&path, None)?;
        }
        files::make_folder_exact(&path, 0o777)?;
        atomic::write(&path, &payload.files, group)
    };
    context.machine.change(write).map(|()| path)
}

/// A persistent volume that lies on this machine.
fn claimed(context: &Context, pod: &Pod, volume: &PersistentVolume) -> Result<PathBuf, Error> {
    let spec = volume.spec.as_ref();
    if let Some(source) = spec.and_then(|spec| spec.host_path.as_ref()) {
        return host_path(context, source);
    }
    let Some(source) = spec.and_then(|spec| spec.local.as_ref()) else {
        return Err(Error::Volume("its type is not supported by this node".to_owned()));
    };
    let path = PathBuf::from(&source.path);
    context.machine.change(|| give_local(pod, &path))?;
    Ok(path)
}

/// Gives a local volume to the pod's group.
fn give_local(pod: &Pod, path: &Path) -> Result<(), Error> {
    if !path.is_dir() {
        return Err(Error::Volume(format!("path {path:?} does not exist")));
    }
    match claims::group(pod) {
        Some((group, spare)) if !(spare && is_owned(path, group)?) => own_all(path, group),
        _ => Ok(()),
    }
}

fn host_path(context: &Context, source: &HostPathVolumeSource) -> Result<PathBuf, Error> {
    let path = PathBuf::from(&source.path);
    context.machine.change(|| make_host_path(source, &path))?;
    Ok(path)
}

/// hostPath: checks the type, and makes what is to be made.
fn make_host_path(source: &HostPathVolumeSource, path: &Path) -> Result<(), Error> {
    let kind = source.type_.as_deref().unwrap_or_default();
    match kind {
        "DirectoryOrCreate" if !path.exists() => files::make_folder_exact(path, 0o755)?,
        "FileOrCreate" if !path.exists() => {
            let file = std::fs::OpenOptions::new().write(true).create(true).truncate(false).open(path);
            file.map_err(files::at(path))?;
        }
        _ => {}
    }
    let found = std::fs::metadata(path).ok().map(|metadata| metadata.file_type());
    let fits = found.is_some_and(|found| match kind {
        "Directory" | "DirectoryOrCreate" => found.is_dir(),
        "File" | "FileOrCreate" => found.is_file(),
        "Socket" => found.is_socket(),
        "CharDevice" => found.is_char_device(),
        "BlockDevice" => found.is_block_device(),
        _ => true,
    });
    let what = match kind {
        "Directory" | "DirectoryOrCreate" => "a directory",
        "File" | "FileOrCreate" => "a file",
        "Socket" => "a socket file",
        "CharDevice" => "a character device",
        _ => "a block device",
    };
    if fits || kind.is_empty() {
        return Ok(());
    }
    Err(Error::Volume(format!("hostPath type check failed: {} is not {what}", source.path)))
}

fn empty_dir(path: &Path, source: &EmptyDirVolumeSource, group: Option<i64>) -> Result<(), Error> {
    let ready = path.with_extension("ready");
    if source.medium.as_deref() == Some("Memory") {
        mount_tmpfs(path, source.size_limit.as_ref().map(crate::amount::whole).filter(|size| *size > 0))?;
    } else if ready.exists() {
        return Ok(());
    }
    files::make_folder_exact(path, 0o777)?;
    if let Some(group) = group {
        own(path, group)?;
    }
    files::write(&ready, b"", 0o600)
}

/// Gives a folder to the pod's group, and everything made in it later too.
fn own(path: &Path, group: i64) -> Result<(), Error> {
    give(path, group, 0o2770)
}

fn give(path: &Path, group: i64, more: u32) -> Result<(), Error> {
    let gid = Gid::from_raw(u32::try_from(group).unwrap_or(u32::MAX));
    chown(path, None, Some(gid)).map_err(|errno| files::at(path)(errno.into()))?;
    let mode = std::fs::metadata(path).map_err(files::at(path))?.permissions().mode();
    let shared = std::fs::Permissions::from_mode(mode & 0o777 | more);
    std::fs::set_permissions(path, shared).map_err(files::at(path))
}

/// The folder is the pod's group's, and so will be what is made in it.
fn is_owned(path: &Path, group: i64) -> Result<bool, Error> {
    let metadata = std::fs::metadata(path).map_err(files::at(path))?;
    Ok(i64::from(metadata.gid()) == group && metadata.mode() & 0o2770 == 0o2770)
}

/// Gives everything in a folder to the pod's group; links are left as they are.
fn own_all(path: &Path, group: i64) -> Result<(), Error> {
    own(path, group)?;
    for entry in std::fs::read_dir(path).map_err(files::at(path))? {
        let entry = entry.map_err(files::at(path))?;
        let (path, kind) = (entry.path(), entry.file_type().map_err(files::at(path))?);
        if kind.is_dir() {
            own_all(&path, group)?;
        } else if kind.is_file() {
            give(&path, group, 0o660)?;
        }
    }
    Ok(())
}

fn is_mounted(path: &Path) -> bool {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let wanted = path.display().to_string();
    mounts.lines().any(|line| line.split(' ').nth(4) == Some(&wanted))
}

fn mount_tmpfs(path: &Path, size: Option<i64>) -> Result<(), Error> {
    files::make_folder(path, 0o755)?;
    if is_mounted(path) {
        return Ok(());
    }
    let options = size.map(|size| format!("size={size}"));
    mount(Some("tmpfs"), path, Some("tmpfs"), MsFlags::empty(), options.as_deref())
        .map_err(|errno| files::at(path)(errno.into()))
}

/// Unmounts and removes everything of a pod on this machine.
pub(crate) fn take_down(context: &Context, uid: &str) -> Result<(), Error> {
    let folder = pod_folder(context, uid);
    let below = format!("{}/", folder.display());
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut points: Vec<&str> = mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .filter(|path| path.starts_with(&below))
        .collect();
    points.sort_unstable_by_key(|path| std::cmp::Reverse(path.len()));
    for point in points {
        umount2(point, MntFlags::MNT_DETACH).map_err(|errno| files::at(point.as_ref())(errno.into()))?;
    }
    files::remove_folder(&folder)
}

impl Volumes {
    /// Where they lie, by their names in the pod.
    pub(crate) fn paths(&self) -> &HashMap<String, PathBuf> {
        &self.paths
    }

    /// The mounts of a container's volumes.
    pub(crate) fn mounts(
        &self,
        context: &Context,
        pod: &Pod,
        container: &Container,
        environment: &HashMap<String, String>,
    ) -> Result<Vec<cri::Mount>, Error> {
        let mut list = Vec::new();
        for (i, mount) in container.volume_mounts.iter().flatten().enumerate() {
            let Some(volume) = self.paths.get(&mount.name) else {
                return Err(Error::Container(
                    "CreateContainerConfigError",
                    format!("volume {:?} of the mount is not in the pod", mount.name),
                ));
            };
            let sub = sub_path(mount, environment)?;
            let host_path = match sub {
                Some(sub) => self.bind_sub_path(context, pod, (volume, &sub), (container, mount, i))?,
                None => volume.clone(),
            };
            let propagation = match mount.mount_propagation.as_deref() {
                Some("HostToContainer") => cri::MountPropagation::PropagationHostToContainer,
                Some("Bidirectional") => cri::MountPropagation::PropagationBidirectional,
                _ => cri::MountPropagation::PropagationPrivate,
            };
            list.push(cri::Mount {
                container_path: absolute(&mount.mount_path),
                host_path: host_path.display().to_string(),
                readonly: mount.read_only == Some(true) || self.is_read_only(pod, &mount.name),
                propagation: propagation.into(),
                ..Default::default()
            });
        }
        Ok(list)
    }

    /// What the API server gives is not the pod's to change, nor is a claim that it only reads.
    fn is_read_only(&self, pod: &Pod, name: &str) -> bool {
        let volume = spec::spec(pod).volumes.iter().flatten().find(|volume| volume.name == name);
        volume.is_some_and(|volume| {
            let claim = volume.persistent_volume_claim.as_ref();
            payload::source(volume).is_some() || claim.is_some_and(|claim| claim.read_only == Some(true))
        })
    }

    /// The folder or file of a subPath, bound where nothing that the pod does leads it elsewhere.
    fn bind_sub_path(
        &self,
        context: &Context,
        pod: &Pod,
        (volume, sub): (&Path, &str),
        (container, mount, at): (&Container, &VolumeMount, usize),
    ) -> Result<PathBuf, Error> {
        let target = pod_folder(context, pod.uid()).join("volume-subpaths").join(&mount.name);
        let target = target.join(&container.name).join(at.to_string());
        let refused = || {
            let (mount, container) = (&mount.name, &container.name);
            let what =
                format!("failed to prepare subPath for volumeMount {mount:?} of container {container:?}");
            Error::Container("CreateContainerConfigError", what)
        };
        let make = !self.is_read_only(pod, &mount.name);
        context.machine.change(|| {
            let real = sub_folder(volume, sub, make)?.ok_or_else(refused)?;
            bind(&real, &target)
        })?;
        Ok(target)
    }
}

/// What a path within a volume is really, made where it is not there; none if that would be outside.
fn sub_folder(volume: &Path, sub: &str, make: bool) -> Result<Option<PathBuf>, Error> {
    let relative = Path::new(sub);
    if relative.components().any(|part| !matches!(part, Component::Normal(_) | Component::CurDir)) {
        return Ok(None);
    }
    let root = volume.canonicalize().map_err(files::at(volume))?;
    let wanted = root.join(relative);
    if !wanted.exists() && make {
        let existing =
            wanted.ancestors().find(|path| path.exists()).and_then(|path| path.canonicalize().ok());
        if !existing.is_some_and(|path| path.starts_with(&root)) {
            return Ok(None);
        }
        let mode = std::fs::metadata(&root).map_err(files::at(&root))?.permissions().mode();
        files::make_folder_exact(&wanted, mode & 0o7777)?;
    }
    Ok(wanted.canonicalize().ok().filter(|real| real.starts_with(&root)))
}

/// Binds what was checked: the mount holds on to it, whatever the pod does to its volume meanwhile.
fn bind(real: &Path, target: &Path) -> Result<(), Error> {
    if is_mounted(target) {
        umount2(target, MntFlags::MNT_DETACH).map_err(|errno| files::at(target)(errno.into()))?;
    }
    if real.is_dir() {
        files::make_folder(target, 0o750)?;
    } else {
        files::make_folder(target.parent().unwrap_or(target), 0o750)?;
        files::write(target, b"", 0o600)?;
    }
    mount(Some(real), target, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .map_err(|errno| files::at(target)(errno.into()))
}

fn absolute(path: &str) -> String {
    if path.starts_with('/') { path.to_owned() } else { format!("/{path}") }
}

fn sub_path(mount: &VolumeMount, environment: &HashMap<String, String>) -> Result<Option<String>, Error> {
    let given = mount.sub_path.clone().filter(|path| !path.is_empty());
    let Some(expression) = mount.sub_path_expr.as_deref().filter(|path| !path.is_empty()) else {
        return Ok(given);
    };
    let expanded = crate::pods::env::expand(expression, environment);
    if expanded.contains("$(") {
        let what = format!(
            "failed to expand subPath for volumeMount {:?}: variable not found in {expression}",
            mount.name
        );
        return Err(Error::Container("CreateContainerConfigError", what));
    }
    Ok(Some(expanded))
}
