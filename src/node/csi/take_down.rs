//! Taking volumes back: out of their pods, and off this node when its last pod has let go of them.

use super::call::call;
use super::data::{self, Data, Device};
use crate::protocols::csi::v1::{self as csi, node_service_capability::rpc::Type};
use crate::turns::Key;
use crate::volumes::{Busy, pod_folder, unmount};
use crate::{Context, Error, files};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Where a volume of a pod was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// The folder that its mount and its data lie in.
    Files(PathBuf),
    /// The link to its device.
    Device(PathBuf),
}

/// The volumes of this plugin that lie in a pod's folder.
pub(super) fn found(kubelet_dir: &Path, pod_folder: &Path) -> Result<Vec<(Place, Data)>, Error> {
    let uid = pod_folder.file_name().unwrap_or_default().to_string_lossy();
    let mut all = Vec::new();
    for folder in files::list(&data::pod_volumes(pod_folder)) {
        all.extend(Data::read(&folder)?.map(|data| (Place::Files(folder), data)));
    }
    for link in files::list(&data::pod_devices(pod_folder)) {
        let name = link.file_name().unwrap_or_default().to_string_lossy();
        let device = Device::of(kubelet_dir, &name, &uid);
        let found = Data::read(&device.data)?;
        all.extend(found.map(|data| (Place::Device(link.clone()), Data { name: name.into_owned(), ..data })));
    }
    Ok(all)
}

/// The volumes that are staged on this node.
pub(super) fn staged(kubelet_dir: &Path) -> Result<Vec<Data>, Error> {
    let mut all = Vec::new();
    for driver in files::list(&data::plugin(kubelet_dir)) {
        for folder in files::list(&driver) {
            let is_device = driver.ends_with("volumeDevices");
            let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let at = if is_device { folder.join("data") } else { folder };
            let name = if is_device { name } else { String::new() };
            all.extend(Data::read(&at)?.map(|data| Data { name, ..data }));
        }
    }
    Ok(all)
}

/// Takes a pod's volumes back. One that cannot be taken back holds none of the others.
pub(crate) async fn take_down(context: &Context, uid: &str) -> Result<(), Error> {
    if !context.machine.is_there() {
        return Ok(());
    }
    let kubelet_dir = &context.config.kubelet_dir;
    let (mut wrong, mut held, mut keys) = (Ok(()), BTreeSet::new(), context.csi.in_use.of(uid));
    for (place, data) in found(kubelet_dir, &pod_folder(context, uid))? {
        let key: Key = (data.driver.clone(), data.handle.clone());
        let _turn = context.csi.turns.take(&key).await;
        let taken = match &place {
            Place::Files(folder) => unpublish_files(context, folder, &data).await,
            Place::Device(link) => unpublish_device(context, uid, link, &data).await,
        };
        if taken.is_err() {
            held.insert(key);
        } else if !data.ephemeral {
            keys.insert(key);
        }
        wrong = wrong.and(taken);
    }
    // Also what was staged for the pod and never came as far as into it, and what was never attached.
    for key in keys.difference(&held) {
        let let_go = let_go(context, key, uid).await;
        wrong = wrong.and(let_go);
    }
    wrong
}

/// Unstages a volume that no other pod uses, and notes that this one does not.
async fn let_go(context: &Context, key: &Key, uid: &str) -> Result<(), Error> {
    let _turn = context.csi.turns.take(key).await;
    if !context.csi.in_use.is_used_beside(key, uid) {
        let all = staged(&context.config.kubelet_dir)?.into_iter();
        for data in all.filter(|data| (&data.driver, &data.handle) == (&key.0, &key.1)) {
            unstage_whole(context, &data).await?;
        }
    }
    context.csi.in_use.release(key, uid);
    Ok(())
}

/// Unstages what was found staged.
async fn unstage_whole(context: &Context, data: &Data) -> Result<(), Error> {
    // Devices are told from files by their names.
    if data.name.is_empty() {
        unstage_files(context, data).await
    } else {
        unstage_device(context, data).await
    }
}

async fn unpublish(context: &Context, data: &Data, target: &Path) -> Result<(), Error> {
    let missing = |error: Error| {
        Error::Volume(format!("kubernetes.io/csi: Unmounter.TearDownAt failed to get CSI client: {error}"))
    };
    let driver = context.csi.driver(&data.driver).map_err(missing)?;
    let request = csi::NodeUnpublishVolumeRequest {
        volume_id: data.handle.clone(),
        target_path: target.display().to_string(),
    };
    let done = call(driver.client().node_unpublish_volume(request)).await;
    done.map_err(|failure| {
        Error::Volume(format!("kubernetes.io/csi: Unmounter.TearDownAt failed: {failure}"))
    })?;
    context.csi.note_undone(target);
    Ok(())
}

async fn unpublish_files(context: &Context, folder: &Path, data: &Data) -> Result<(), Error> {
    let target = folder.join("mount");
    unpublish(context, data, &target).await?;
    let (at, to) = (folder.to_owned(), target);
    context.change(folder, move || data::remove(&at, &to)).await
}

async fn unpublish_device(context: &Context, uid: &str, link: &Path, data: &Data) -> Result<(), Error> {
    let device = Device::of(&context.config.kubelet_dir, &data.name, uid);
    unpublish(context, data, &device.publish).await?;
    let (link, at) = (link.to_owned(), device.publish.clone());
    let remove = move || {
        // Some drivers leave the file to who made it.
        unmount(&at, Busy::Stays)?;
        files::remove(&at)?;
        files::remove(&link)
    };
    context.change(&device.publish, remove).await
}

async fn unstage(context: &Context, data: &Data, path: &Path) -> Result<(), Error> {
    let missing = |error: Error| {
        Error::Volume(format!(
            "kubernetes.io/csi: attacher.UnmountDevice failed to create newCsiDriverClient: {error}"
        ))
    };
    let driver = context.csi.driver(&data.driver).map_err(missing)?;
    if driver.capabilities().await?.has(Type::StageUnstageVolume) {
        let request = csi::NodeUnstageVolumeRequest {
            volume_id: data.handle.clone(),
            staging_target_path: path.display().to_string(),
        };
        let done = call(driver.client().node_unstage_volume(request)).await;
        done.map_err(|failure| {
            Error::Volume(format!("kubernetes.io/csi: attacher.UnmountDevice failed: {failure}"))
        })?;
    }
    context.csi.note_undone(path);
    Ok(())
}

async fn unstage_files(context: &Context, data: &Data) -> Result<(), Error> {
    let folder = data::staged(&context.config.kubelet_dir, &data.driver, &data.handle);
    if Data::read(&folder)?.is_none() {
        return Ok(());
    }
    let path = data::mount_of(&folder);
    unstage(context, data, &path).await?;
    let at = folder.clone();
    context.change(&folder, move || data::remove(&at, &path)).await
}

async fn unstage_device(context: &Context, data: &Data) -> Result<(), Error> {
    let device = Device::of(&context.config.kubelet_dir, &data.name, "");
    if Data::read(&device.data)?.is_none() {
        return Ok(());
    }
    unstage(context, data, &device.staging).await?;
    let top = device.data.clone();
    let remove = move || {
        data::remove(&device.data, &device.staging)?;
        let left = [device.publish.as_path(), device.data.parent().unwrap_or(&device.data)];
        left.into_iter().try_for_each(|folder| match std::fs::remove_dir(folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(files::at(folder)(error)),
            _ => Ok(()),
        })
    };
    context.change(&top, remove).await
}

/// Unstages what no pod uses: left by a life that ended between two steps, or by a driver that was away.
pub(crate) async fn release_unused(context: &Context) {
    let all = match staged(&context.config.kubelet_dir) {
        Ok(all) => all,
        Err(error) => return tracing::warn!(%error, "cannot look for volumes that are staged"),
    };
    for data in all {
        let key: Key = (data.driver.clone(), data.handle.clone());
        let _turn = context.csi.turns.take(&key).await;
        if context.csi.in_use.is_used_beside(&key, "") || context.csi.driver(&data.driver).is_err() {
            continue;
        }
        match unstage_whole(context, &data).await {
            Ok(()) => context.csi.in_use.release(&key, ""),
            Err(error) => {
                tracing::warn!(volume = data.handle, %error, "cannot unstage a volume that no pod uses");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_earlier_life_left_is_found() {
        let kubelet = std::env::temp_dir().join(format!("knarr-found-{}", std::process::id()));
        let pod = kubelet.join("pods/u");
        let data = Data { driver: "d".to_owned(), handle: "h".to_owned(), ..Data::default() };
        let folder = data::pod_volumes(&pod).join("v");
        data.write(&folder).unwrap();
        data.write(&data::staged(&kubelet, "d", "h")).unwrap();
        let device = Device::of(&kubelet, "b", "u");
        data.write(&device.data).unwrap();
        let link = data::pod_devices(&pod).join("b");
        files::make_folder(link.parent().unwrap(), 0o755).unwrap();
        std::os::unix::fs::symlink(&device.publish, &link).unwrap();
        let named = |name: &str| Data { name: name.to_owned(), ..data.clone() };
        let expected = [(Place::Files(folder), data.clone()), (Place::Device(link), named("b"))];
        assert_eq!(found(&kubelet, &pod).unwrap(), expected);
        let mut all = staged(&kubelet).unwrap();
        all.sort_by_key(|data| data.name.clone());
        assert_eq!(all, [data.clone(), named("b")]);
        files::remove_folder(&kubelet).unwrap();
    }
}
