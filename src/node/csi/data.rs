//! What is written beside volumes, `vol_data.json`, with Kubernetes' names, and where everything lies.

use crate::{Context, Error, files};
use base::hex;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

const FILE: &str = "vol_data.json";

/// What is remembered of a volume.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Data {
    pub(super) driver: String,
    pub(super) handle: String,
    /// The volume's name: that of the persistent volume, or the pod's own.
    pub(super) name: String,
    pub(super) node: String,
    pub(super) attachment: String,
    pub(super) ephemeral: bool,
}

impl Data {
    fn to_json(&self) -> Value {
        let mode = if self.ephemeral { "Ephemeral" } else { "Persistent" };
        json!({
            "driverName": self.driver, "volumeHandle": self.handle, "specVolID": self.name,
            "nodeName": self.node, "attachmentID": self.attachment, "volumeLifecycleMode": mode,
        })
    }

    /// Writes it into a folder.
    pub(super) fn write(&self, folder: &Path) -> Result<(), Error> {
        files::make_folder(folder, 0o750)?;
        files::write(&folder.join(FILE), format!("{}\n", self.to_json()).as_bytes(), 0o600)
    }

    /// Reads that of a folder; none where there is none.
    pub(super) fn read(folder: &Path) -> Result<Option<Self>, Error> {
        let path = folder.join(FILE);
        let text = match std::fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(files::at(&path))?,
        };
        // A machine that lost power may have lost what was just written: then nothing is mounted any more. What was
        // torn otherwise is no reason to hold its pod forever: whatever is mounted there is unmounted with the pod.
        let value: Value = match serde_json::from_slice(&text) {
            Ok(value) => value,
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "a volume's data cannot be read");
                return Ok(None);
            }
        };
        let text = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
        Ok(Some(Self {
            driver: text("driverName"),
            handle: text("volumeHandle"),
            name: text("specVolID"),
            node: text("nodeName"),
            attachment: text("attachmentID"),
            ephemeral: value["volumeLifecycleMode"] == "Ephemeral",
        }))
    }
}

/// Removes a volume's own folder with what is written in it, and the folder where it was mounted if it is empty.
pub(super) fn remove(folder: &Path, mounted: &Path) -> Result<(), Error> {
    match std::fs::symlink_metadata(mounted) {
        Ok(metadata) if metadata.is_dir() => {
            std::fs::remove_dir(mounted).map_err(files::at(mounted))?;
        }
        Ok(_) => files::remove(mounted)?,
        Err(_) => {}
    }
    files::remove(&folder.join(FILE))?;
    match std::fs::remove_dir(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(files::at(folder)(error)),
        _ => Ok(()),
    }
}

/// Removes what was made for a volume that its driver did not take. What cannot be removed is told: the driver's own
/// words are of more use to the pod.
pub(super) async fn forget(context: &Context, folder: &Path, mounted: &Path) {
    let (at, to) = (folder.to_owned(), mounted.to_owned());
    if let Err(error) = context.change(folder, move || remove(&at, &to)).await {
        tracing::warn!(%error, "cannot remove what was made for a volume");
    }
}

/// The folder of the plugin of CSI.
pub(super) fn plugin(kubelet_dir: &Path) -> PathBuf {
    kubelet_dir.join("plugins/kubernetes.io/csi")
}

/// The folder of a volume that is staged as files; it is mounted in `globalmount` below.
pub(super) fn staged(kubelet_dir: &Path, driver: &str, handle: &str) -> PathBuf {
    plugin(kubelet_dir).join(driver).join(hex::sha256(handle.as_bytes()))
}

/// Where a volume is staged within its folder.
pub(super) fn mount_of(staged: &Path) -> PathBuf {
    staged.join("globalmount")
}

/// The folder of a pod's volumes of this plugin.
pub(super) fn pod_volumes(pod_folder: &Path) -> PathBuf {
    pod_folder.join("volumes/kubernetes.io~csi")
}

/// The folder of a pod's links to devices of this plugin.
pub(super) fn pod_devices(pod_folder: &Path) -> PathBuf {
    pod_folder.join("volumeDevices/kubernetes.io~csi")
}

/// Where the parts of a device lie.
pub(super) struct Device {
    pub(super) staging: PathBuf,
    pub(super) publish: PathBuf,
    pub(super) data: PathBuf,
}

impl Device {
    /// Of a volume that is given to a pod.
    pub(super) fn of(kubelet_dir: &Path, volume: &str, pod_uid: &str) -> Self {
        let devices = plugin(kubelet_dir).join("volumeDevices");
        Self {
            staging: devices.join("staging").join(volume),
            publish: devices.join("publish").join(volume).join(pod_uid),
            data: devices.join(volume).join("data"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again_and_removed() {
        let folder = std::env::temp_dir().join(format!("knarr-csi-{}", std::process::id()));
        let data =
            Data { driver: "d".to_owned(), handle: "h".to_owned(), ephemeral: true, ..Data::default() };
        data.write(&folder).unwrap();
        assert_eq!(Data::read(&folder).unwrap(), Some(data));
        let mounted = folder.join("mount");
        files::make_folder(&mounted, 0o750).unwrap();
        std::fs::write(mounted.join("data"), "").unwrap();
        std::fs::write(folder.join(FILE), "{\"driverName\": \"d").unwrap();
        assert_eq!(Data::read(&folder).unwrap(), None);
        // What a driver has left there is not ours to remove.
        remove(&folder, &mounted).unwrap_err();
        std::fs::remove_file(mounted.join("data")).unwrap();
        remove(&folder, &mounted).unwrap();
        remove(&folder, &mounted).unwrap();
        assert_eq!(Data::read(&folder).unwrap(), None);
    }

    #[test]
    fn paths_are_those_that_drivers_know() {
        let staged = mount_of(&staged("/k".as_ref(), "d", "abc"));
        let digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(staged, Path::new("/k/plugins/kubernetes.io/csi/d").join(digest).join("globalmount"));
        let device = Device::of("/k".as_ref(), "v", "u");
        assert_eq!(device.publish, Path::new("/k/plugins/kubernetes.io/csi/volumeDevices/publish/v/u"));
    }
}
