//! Volumes that are images (KEP-4639): mounted read-only, by the runtime where it can and
//! otherwise from the runtime's own layers.

use super::folder;
use super::mount_table::is_mounted;
use crate::containerd::config::Generation;
use crate::containerd::snapshots;
use crate::pods::spec::Kind;
use crate::protocols::containerd::types::Mount as Layered;
use crate::protocols::runtime::v1 as cri;
use crate::{Context, Error, files};
use api::Object;
use api::core::{Container, ImageVolumeSource, Pod};
use nix::mount::{MsFlags, mount};
use std::path::{Path, PathBuf};

const PLUGIN: &str = "image";

/// What a container gets of an image.
pub(super) enum Mounted {
    /// The runtime mounts it.
    ByRuntime(cri::ImageSpec),
    /// It lies here.
    At(PathBuf),
}

/// The name of a pod's view of an image.
fn key(uid: &str, volume: &str) -> String {
    format!("knarr-volume-{uid}-{volume}")
}

/// Makes sure that the image is there, and mounts it if the runtime does not. The error is the container's
/// waiting reason.
pub(super) async fn mounted(
    context: &Context,
    pod: &Pod,
    (kind, volume): (Kind, &str),
    source: &ImageVolumeSource,
) -> Result<(Mounted, cri::Image), Error> {
    // Images are fetched for containers: this one stands for the volume.
    let wanted = Container {
        name: volume.to_owned(),
        image: source.reference.clone(),
        image_pull_policy: source.pull_policy.clone(),
        ..Container::default()
    };
    let image = context.images.ensure(context, pod, kind, &wanted).await?;
    let version = context.runtime.version(cri::VersionRequest::default()).await?;
    if !context.machine.is_there() || does_mount(&version) {
        let by_user = source.reference.clone().unwrap_or_default();
        let spec =
            cri::ImageSpec { image: image.id.clone(), user_specified_image: by_user, ..Default::default() };
        return Ok((Mounted::ByRuntime(spec), image));
    }
    let path = folder(context, pod.uid(), PLUGIN, volume);
    if !is_mounted(&path)? {
        let name =
            image.repo_tags.first().or_else(|| image.repo_digests.first()).cloned().unwrap_or_default();
        let layers = snapshots::view(&context.runtime, (&name, &image.id), &key(pod.uid(), volume)).await?;
        let at = path.clone();
        context.change(&path, move || mount_layers(&layers, &at)).await?;
    }
    Ok((Mounted::At(path), image))
}

/// containerd mounts images since 2.1; other runtimes that call themselves differently are taken to do it.
fn does_mount(version: &cri::VersionResponse) -> bool {
    if version.runtime_name != "containerd" {
        return true;
    }
    let text = version.runtime_version.trim_start_matches('v');
    let mut numbers = text.split(['.', '-', '~', '+']).map(|part| part.parse::<u32>().unwrap_or(0));
    let release = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    Generation::of(&version.runtime_version) == Generation::V3 && release >= (2, 1)
}

fn mount_layers(layers: &[Layered], at: &Path) -> Result<(), Error> {
    files::make_folder(at, 0o755)?;
    let failed = |errno: nix::Error| files::at(at)(errno.into());
    for layer in layers {
        let is_bind = layer.r#type == "bind";
        let data: Vec<&str> =
            layer.options.iter().map(String::as_str).filter(|option| !is_flag(option)).collect();
        let data = data.join(",");
        let flags = if is_bind { MsFlags::MS_BIND | MsFlags::MS_REC } else { MsFlags::MS_RDONLY };
        let kind = if is_bind { None } else { Some(layer.r#type.as_str()) };
        mount(Some(layer.source.as_str()), at, kind, flags, Some(data.as_str())).map_err(failed)?;
        let closed = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        mount(None::<&str>, at, None::<&str>, closed, None::<&str>).map_err(failed)?;
    }
    Ok(())
}

/// Options that are flags of mount(2), and no data of the file system.
fn is_flag(option: &str) -> bool {
    matches!(option, "ro" | "rw" | "bind" | "rbind")
}

/// Gives a pod's images back to the runtime, after they were unmounted.
pub(super) async fn give_back(context: &Context, uid: &str) -> Result<(), Error> {
    let folder = folder(context, uid, PLUGIN, "");
    for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
        let volume = entry.file_name().to_string_lossy().into_owned();
        snapshots::remove(&context.runtime, &key(uid, &volume)).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newer_runtimes_mount_images_themselves() {
        let of = |name: &str, version: &str| {
            let (runtime_name, runtime_version) = (name.to_owned(), version.to_owned());
            does_mount(&cri::VersionResponse { runtime_name, runtime_version, ..Default::default() })
        };
        assert!(
            !of("containerd", "1.6.20~ds1") && !of("containerd", "v1.7.27") && !of("containerd", "v2.0.4")
        );
        assert!(of("containerd", "v2.1.0") && of("containerd", "v2.2.1-rc.1") && of("cri-o", "1.33.0"));
    }
}
