//! Making one volume, whatever its type.

use super::by_program::{self, Mounting};
use super::claims::{self, Claimed};
use super::local::{self, Binding, Kind};
use super::trouble::Trouble;
use super::{
    Ready, What, atomic, empty_dir, folder, host_path, nested, ownership, payload, pod_folder, used,
};
use crate::{Context, Error, amount, csi, files};
use api::Object;
use api::core::{EmptyDirVolumeSource, HostPathVolumeSource, NFSVolumeSource, Pod, Volume};
use std::path::{Path, PathBuf};

const SET_UP: &str = "MountVolume.SetUp";
/// The file system of devices whose volume names none.
const DEFAULT_KIND: &str = "ext4";

fn unknown(name: &str) -> Trouble {
    Trouble::Unprocessed(format!(
        "failed to get Plugin from volumeSpec for volume {name:?} err=no volume plugin matched"
    ))
}

/// Makes or refreshes a volume of a pod.
pub(super) async fn volume(context: &Context, pod: &Pod, volume: &Volume) -> Result<Ready, Trouble> {
    match claims::resolve(context, pod, volume).await? {
        Some(claimed) => persistent(context, pod, volume, &claimed).await,
        None => {
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
        let what = What::Image(source.clone());
        Ready { what, read_only: true, ..Ready::files(name, PathBuf::new()) }
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
    context: &Context,
    pod: &Pod,
    volume: &Volume,
    claimed: &Claimed,
) -> Result<Ready, Trouble> {
    check_mode(pod, volume, claimed)?;
    let name = claimed.volume.name();
    context.node.synced().await;
    let node = context.node.get("", &context.config.node_name);
    if !claims::is_within_reach(claimed, node.as_deref()) {
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
    if !context.machine.is_there() {
        return Ok(path);
    }
    let from = source.to_owned();
    let kind = context.volumes.background.run(source, move || local::kind(&from)).await?;
    let from = match kind {
        Kind::Folder => source.to_owned(),
        Kind::Device => mounted_device(context, claimed, source).await?,
    };
    let (to, pods) = (path.clone(), context.config.kubelet_dir.join("pods"));
    let (read_only, owner) = (claimed.read_only, ownership::of(pod));
    let bind = move || local::bind(&Binding { from: &from, to: &to, pods: &pods, read_only, owner });
    // One pod after the other: the first gives the files to its group.
    if let Some(other) = context.volumes.background.run(source, bind).await? {
        let wanted = owner.map_or(0, |owner| owner.group);
        let told = format!(
            "The requested fsGroup is {wanted}, but the volume {} has GID {other}. The volume may not be shareable.",
            claimed.volume.name()
        );
        context.recorder.warning(pod, "AlreadyMountedVolume", told);
    }
    Ok(path)
}

/// A device with a file system, mounted once for all pods of this node.
async fn mounted_device(context: &Context, claimed: &Claimed, device: &Path) -> Result<PathBuf, Error> {
    let plugin = context.config.kubelet_dir.join("plugins/kubernetes.io/local-volume/mounts");
    let target = plugin.join(claimed.volume.name());
    let spec = claimed.spec();
    let kind = spec.local.as_ref().and_then(|local| local.fs_type.clone());
    let mut options = spec.mount_options.clone().unwrap_or_default();
    if claimed.read_only {
        options.push("ro".to_owned());
    }
    let kind = kind.unwrap_or_else(|| DEFAULT_KIND.to_owned());
    let mounting = Mounting { kind, source: device.display().to_string(), target: target.clone(), options };
    by_program::mount_device(&mounting).await.map_err(|error| {
        let (from, to, kind) = (&mounting.source, target.display(), &mounting.kind);
        Error::Volume(format!("local: failed to mount device {from} at {to} (fstype: {kind}), error {error}"))
    })?;
    Ok(target)
}

/// The device of a volume; none if its type has none.
async fn device(context: &Context, pod: &Pod, claimed: &Claimed) -> Result<Option<Ready>, Error> {
    let spec = claimed.spec();
    let local = spec.local.as_ref().map(|local| ("local-volume", &local.path));
    let source = local.or_else(|| spec.host_path.as_ref().map(|path| ("host-path", &path.path)));
    let Some((plugin, source)) = source else { return Ok(None) };
    let links = pod_folder(context, pod.uid()).join("volumeDevices").join(format!("kubernetes.io~{plugin}"));
    let link = links.join(claimed.volume.name());
    let (device, at) = (PathBuf::from(source), link.clone());
    context.change(&link, move || local::link_device(&device, &at).map(drop)).await?;
    let (what, read_only) = (What::Device(link), claimed.read_only);
    Ok(Some(Ready { what, read_only, ..Ready::files(claimed.volume.name(), PathBuf::new()) }))
}
