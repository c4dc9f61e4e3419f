//! Making one volume, whatever its type.

use super::by_program;
use super::claims::{self, Claimed};
use super::disks::{self, Disk, Opened};
use super::local::{self, Binding, Kind};
use super::mount_table::is_mounted;
use super::trouble::Trouble;
use super::{
    Ready, What, atomic, empty_dir, folder, host_path, nested, ownership, payload, pod_folder, used,
};
use crate::{Context, Error, amount, csi, files};
use api::Object;
use api::core::{EmptyDirVolumeSource, HostPathVolumeSource, NFSVolumeSource, Pod, Volume};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const SET_UP: &str = "MountVolume.SetUp";

fn unknown(name: &str) -> Trouble {
    Trouble::Unprocessed(format!(
        "failed to get Plugin from volumeSpec for volume {name:?} err=no volume plugin matched"
    ))
}

/// Makes or refreshes a volume of a pod.
pub(super) async fn volume(context: &Arc<Context>, pod: &Pod, volume: &Volume) -> Result<Ready, Trouble> {
    match claims::resolve(context, pod, volume).await? {
        Some(claimed) => persistent(context, pod, volume, &claimed).await,
        None => {
            let disk = disks::of_pod(pod, volume);
            let disk = disk.map_err(|error| Trouble::at(SET_UP, &volume.name, &error))?;
            if let Some(disk) = disk {
                return opened(context, pod, (&volume.name, false), disk).await;
            }
            let made = inline(context, pod, volume).await;
            let made = made.map_err(|error| Trouble::at(SET_UP, &volume.name, &error))?;
            made.ok_or_else(|| unknown(&volume.name))
        }
    }
}

/// A volume that the pod itself describes; none if its type is not known.
async fn inline(context: &Context, pod: &Pod, volume: &Volume) -> Result<Option<Ready>, Error> {
    let name = &volume.name;
    let ready = if let Some(source) = &volume.host_path {
        Ready::files(name, host_folder(context, source).await?)
    } else if let Some(source) = &volume.empty_dir {
        Ready::files(name, room(context, pod, name, source).await?)
    } else if let Some(source) = &volume.nfs {
        let read_only = source.read_only == Some(true);
        let path = export(context, pod, name, source, (read_only, &[])).await?;
        Ready { read_only, ..Ready::files(name, path) }
    } else if let Some(source) = &volume.image {
        Ready { read_only: true, ..Ready::new(name, What::Image(source.clone())) }
    } else if let Some(source) = &volume.csi {
        csi::inline(context, pod, name, source).await?
    } else if let Some((plugin, source)) = payload::source(volume) {
        written(context, pod, name, (plugin, &source)).await?
    } else {
        return Ok(None);
    };
    Ok(Some(ready))
}

async fn host_folder(context: &Context, source: &HostPathVolumeSource) -> Result<PathBuf, Error> {
    let (path, source) = (PathBuf::from(&source.path), source.clone());
    context.change(&path, move || host_path::set_up(&source).map(drop)).await?;
    Ok(path)
}

async fn room(
    context: &Context,
    pod: &Pod,
    name: &str,
    source: &EmptyDirVolumeSource,
) -> Result<PathBuf, Error> {
    let path = folder(context, pod.uid(), "empty-dir", name);
    let allocatable = context.machine.capacity.allocatable.get("memory").map_or(0, amount::whole);
    let medium = empty_dir::medium(pod, source, allocatable)?;
    let marks = pod_folder(context, pod.uid()).join("plugins/kubernetes.io~empty-dir").join(name);
    let (at, owner) = (path.clone(), ownership::of(pod));
    let make = move || empty_dir::set_up(&at, &marks.join("ready"), &medium, owner);
    context.change(&path, make).await?;
    Ok(path)
}

/// A volume that the API server fills.
async fn written(
    context: &Context,
    pod: &Pod,
    name: &str,
    (plugin, source): (&str, &payload::Source<'_>),
) -> Result<Ready, Error> {
    let path = folder(context, pod.uid(), plugin, name);
    let payload = payload::collect(context, pod, name, source).await?;
    // Secrets must not reach a disk.
    let is_secret = plugin == "secret" || plugin == "projected";
    let (at, owner, of, volume) = (path.clone(), ownership::of(pod), pod.clone(), name.to_owned());
    let write = move || {
        if is_secret {
            empty_dir::mount_secret(&at)?;
        }
        // What has outlived a restart of knarr alone is younger.
        if payload.is_kept && atomic::is_written(&at) {
            return Ok(());
        }
        files::make_folder_exact(&at, 0o777)?;
        nested::make(&of, &volume, &at)?;
        atomic::write(&at, &payload.files, owner)
    };
    context.change(&path, write).await?;
    Ok(Ready { read_only: true, renew: payload.renew, ..Ready::files(name, path) })
}

async fn export(
    context: &Context,
    pod: &Pod,
    name: &str,
    source: &NFSVolumeSource,
    how: (bool, &[String]),
) -> Result<PathBuf, Error> {
    let path = folder(context, pod.uid(), "nfs", name);
    if context.machine.is_there() {
        by_program::mount(&by_program::nfs(&source.server, &source.path, &path, how)).await?;
    }
    Ok(path)
}

/// A volume that is claimed.
async fn persistent(
    context: &Arc<Context>,
    pod: &Pod,
    volume: &Volume,
    claimed: &Claimed,
) -> Result<Ready, Trouble> {
    check_mode(pod, volume, claimed)?;
    let name = claimed.volume.name();
    // Where the node's object is not known for want of an API server, the volume was within reach when the pod came.
    let is_known = context.synced(&context.node).await.is_ok();
    let node = context.node.get("", &context.config.node_name);
    if is_known && !claims::is_within_reach(claimed, node.as_deref()) {
        let why = Error::Volume("no matching NodeSelectorTerms".to_owned());
        let step = if claimed.is_block() {
            "MapVolume.NodeAffinity check"
        } else {
            "MountVolume.NodeAffinity check"
        };
        return Err(Trouble::at(step, name, &why));
    }
    if let Some(source) = &claimed.spec().csi {
        return if claimed.is_block() {
            csi::device(context, pod, claimed, source).await
        } else {
            csi::persistent(context, pod, claimed, source).await
        };
    }
    let disk = disk_of(context, claimed).await.map_err(|error| Trouble::at(SET_UP, name, &error))?;
    if let Some(disk) = disk {
        return opened(context, pod, (name, claimed.is_block()), disk).await;
    }
    if claimed.is_block() {
        let made = device(context, pod, claimed).await;
        let made = made.map_err(|error| Trouble::at("MapVolume.MapPodDevice", name, &error))?;
        return made.ok_or_else(|| unknown(name));
    }
    let made = claimed_files(context, pod, claimed).await;
    made.map_err(|error| Trouble::at(SET_UP, name, &error))?.ok_or_else(|| unknown(name))
}

/// Containers use a volume as what it is: files or a device.
fn check_mode(pod: &Pod, volume: &Volume, claimed: &Claimed) -> Result<(), Trouble> {
    let (files, devices) = used(pod);
    let (mode, list, is_wrong) = if claimed.is_block() {
        ("Block", "volumeMounts", files.contains(&volume.name))
    } else {
        ("Filesystem", "volumeDevices", devices.contains(&volume.name))
    };
    let why = format!("volume {} has volumeMode {mode}, but is specified in {list}", volume.name);
    if is_wrong { Err(Trouble::Unprocessed(why)) } else { Ok(()) }
}

async fn claimed_files(context: &Context, pod: &Pod, claimed: &Claimed) -> Result<Option<Ready>, Error> {
    let (name, spec, read_only) = (claimed.volume.name(), claimed.spec(), claimed.read_only);
    let path = if let Some(source) = &spec.host_path {
        host_folder(context, source).await?
    } else if let Some(source) = &spec.local {
        local_files(context, pod, claimed, source.path.as_ref()).await?
    } else if let Some(source) = &spec.nfs {
        let options = spec.mount_options.as_deref().unwrap_or_default();
        export(context, pod, name, source, (read_only, options)).await?
    } else {
        return Ok(None);
    };
    Ok(Some(Ready { read_only, ..Ready::files(name, path) }))
}

async fn local_files(
    context: &Context,
    pod: &Pod,
    claimed: &Claimed,
    source: &Path,
) -> Result<PathBuf, Error> {
    let path = folder(context, pod.uid(), "local-volume", claimed.volume.name());
    if context.machine.is_there() {
        bind(context, pod, (claimed.volume.name(), claimed.read_only), (source, &path)).await?;
    }
    Ok(path)
}

/// Binds files into a pod's folder, and gives them to its group.
async fn bind(
    context: &Context,
    pod: &Pod,
    (name, read_only): (&str, bool),
    (from, to): (&Path, &Path),
) -> Result<(), Error> {
    let (source, at, pods) = (from.to_owned(), to.to_owned(), context.config.kubelet_dir.join("pods"));
    let owner = ownership::of(pod);
    let bind = move |counted: &_| {
        local::bind(&Binding { from: &source, to: &at, pods: &pods, read_only, owner, counted })
    };
    // One pod after the other: the first gives the files to its group.
    if let Some(other) = ownership::telling(context, pod, (from, to), bind).await? {
        let wanted = owner.map_or(0, |owner| owner.group);
        let told = format!(
            "The requested fsGroup is {wanted}, but the volume {name} has GID {other}. The volume may not be shareable."
        );
        context.recorder.warning(pod, "AlreadyMountedVolume", told);
    }
    Ok(())
}

/// The disk of a claimed volume; none if its type has none, or if it is a folder.
async fn disk_of(context: &Context, claimed: &Claimed) -> Result<Option<Disk>, Error> {
    let local = claimed.spec().local.as_ref().filter(|_| !claimed.is_block() && context.machine.is_there());
    let Some(local) = local else { return disks::of_claim(claimed) };
    let (device, from) = (PathBuf::from(&local.path), PathBuf::from(&local.path));
    match context.volumes.background.run(&device, move || local::kind(&from)).await? {
        Kind::Folder => Ok(None),
        Kind::Device => disks::of_device(claimed, &device).map(Some),
    }
}

/// Makes a disk ready for a pod.
async fn opened(
    context: &Arc<Context>,
    pod: &Pod,
    (name, is_block): (&str, bool),
    disk: Disk,
) -> Result<Ready, Trouble> {
    let (plugin, read_only) = (disk.plugin(), disk.read_only);
    let (path, link) = (folder(context, pod.uid(), plugin, name), device_link(context, pod, plugin, name));
    let what = if is_block { What::Device(link.clone()) } else { What::Files(path.clone()) };
    let ready = Ready { read_only, ..Ready::new(name, what) };
    let step = if is_block { "MapVolume.MapPodDevice" } else { SET_UP };
    let failed = |error: Error| Trouble::at(step, name, &error);
    let is_done = if is_block { link.exists() } else { is_mounted(&path).map_err(failed)? };
    if is_done || !context.machine.is_there() {
        return Ok(ready);
    }
    // Its own folder tells of the pod from now on, whatever becomes of knarr.
    let own = pod_folder(context, pod.uid());
    context.change(&own.clone(), move || files::make_folder(&own, 0o750)).await.map_err(failed)?;
    let Opened { path: from, turn } = disks::open(context, pod, disk, (name, !is_block)).await?;
    // To its end: the disk must not be let go of before it is found in the pod's folder.
    let (of, pod, name) = (context.clone(), pod.clone(), name.to_owned());
    let bound = turn.to_the_end(
        context,
        Box::pin(async move {
            if is_block {
                let at = link.clone();
                of.change(&link, move || local::link_device(&from, &at).map(drop)).await
            } else {
                bind(&of, &pod, (&name, read_only), (&from, &path)).await
            }
        }),
    );
    bound.await.and_then(|bound| bound).map_err(failed)?;
    Ok(ready)
}

/// Where a pod's device is linked, and found again.
fn device_link(context: &Context, pod: &Pod, plugin: &str, name: &str) -> PathBuf {
    pod_folder(context, pod.uid()).join("volumeDevices").join(format!("kubernetes.io~{plugin}")).join(name)
}

/// The device of a volume; none if its type has none.
async fn device(context: &Context, pod: &Pod, claimed: &Claimed) -> Result<Option<Ready>, Error> {
    let spec = claimed.spec();
    let local = spec.local.as_ref().map(|local| ("local-volume", &local.path));
    let source = local.or_else(|| spec.host_path.as_ref().map(|path| ("host-path", &path.path)));
    let Some((plugin, source)) = source else { return Ok(None) };
    let link = device_link(context, pod, plugin, claimed.volume.name());
    let (device, at) = (PathBuf::from(source), link.clone());
    context.change(&link, move || local::link_device(&device, &at).map(drop)).await?;
    let ready = Ready::new(claimed.volume.name(), What::Device(link));
    Ok(Some(Ready { read_only: claimed.read_only, ..ready }))
}
