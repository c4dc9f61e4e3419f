//! `status.containerStatuses[].volumeMounts`. Pure.

use crate::volumes::{Volumes, is_recursively_read_only};
use api::core::{
    Container, ContainerStatus, ImageVolumeStatus, VolumeMount, VolumeMountStatus, VolumeStatus,
};

/// What a container's status says of its mounts. As long as its volumes are not looked at, as after a
/// restart of knarr, what it said before holds.
pub(super) fn mounts(
    container: &Container,
    old: Option<&ContainerStatus>,
    volumes: Option<&Volumes>,
) -> Option<Vec<VolumeMountStatus>> {
    let mounts = container.volume_mounts.as_ref()?;
    let before = |mount: &VolumeMount| {
        let known = old.and_then(|old| old.volume_mounts.as_ref()).into_iter().flatten();
        known.into_iter().find(|status| status.mount_path == mount.mount_path).cloned()
    };
    let status = |mount: &VolumeMount| {
        let known = before(mount).filter(|_| volumes.is_none());
        known.unwrap_or_else(|| VolumeMountStatus {
            name: mount.name.clone(),
            mount_path: mount.mount_path.clone(),
            read_only: mount.read_only.filter(|read_only| *read_only),
            recursive_read_only: recursive(mount, volumes),
            volume_status: image(mount, volumes).or_else(|| before(mount)?.volume_status),
        })
    };
    Some(mounts.iter().map(status).collect())
}

/// The image that a volume is.
fn image(mount: &VolumeMount, volumes: Option<&Volumes>) -> Option<VolumeStatus> {
    let image_ref = volumes?.image(&mount.name)?;
    Some(VolumeStatus { image: Some(ImageVolumeStatus { image_ref }) })
}

fn recursive(mount: &VolumeMount, volumes: Option<&Volumes>) -> Option<String> {
    if mount.read_only != Some(true) {
        return None;
    }
    let supported = volumes.is_some_and(Volumes::recursive_read_only);
    let enabled = is_recursively_read_only(mount, supported) == Ok(true);
    Some(if enabled { "Enabled" } else { "Disabled" }.to_owned())
}
