//! Persistent volumes that lie on this machine: `local` and `hostPath`, as files or as devices.

use super::mount_table::{Busy, Table, unmount};
use super::ownership::Ownership;
use crate::{Error, files};
use nix::mount::{MsFlags, mount};
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::AtomicU64;

/// What a local volume is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Folder,
    Device,
}

/// Looks at the path of a local volume.
pub(super) fn kind(path: &Path) -> Result<Kind, Error> {
    if path.components().any(|part| part == Component::ParentDir) {
        return Err(Error::Volume(format!("invalid path: {} must not contain '..'", path.display())));
    }
    let metadata = match std::fs::metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(Error::Volume(format!("path {path:?} does not exist")));
        }
        other => other.map_err(files::at(path))?,
    };
    match metadata.file_type() {
        kind if kind.is_dir() => Ok(Kind::Folder),
        kind if kind.is_block_device() => Ok(Kind::Device),
        _ => Err(Error::Volume("only directory and block device are supported".to_owned())),
    }
}

/// How a folder is bound to its place in a pod.
pub(super) struct Binding<'a> {
    pub(super) from: &'a Path,
    pub(super) to: &'a Path,
    /// The folder of all pods: what is bound there is in use by pods.
    pub(super) pods: &'a Path,
    pub(super) read_only: bool,
    pub(super) owner: Option<Ownership>,
    /// How many files were given to the owner.
    pub(super) counted: &'a AtomicU64,
}

/// Whether other pods have the same files mounted.
fn is_shared(table: &Table, binding: &Binding, top: &std::fs::Metadata) -> bool {
    let in_pods = table.0.iter().filter(|mount| mount.point.starts_with(binding.pods));
    in_pods.filter(|mount| mount.point != binding.to).any(|mount| {
        // Where a server hangs this would too: only what is on the same device is looked at.
        let there = std::fs::symlink_metadata(&mount.point);
        there.is_ok_and(|there| (there.dev(), there.ino()) == (top.dev(), top.ino()))
    })
}

/// Binds a folder; one that is bound already is left. Gives the group of another pod that has it where that
/// is not this pod's: both cannot have what they want.
pub(super) fn bind(binding: &Binding) -> Result<Option<u32>, Error> {
    let table = Table::read()?;
    if table.at(binding.to).is_some() {
        return Ok(None);
    }
    let top = std::fs::metadata(binding.from).map_err(files::at(binding.from))?;
    let shared = is_shared(&table, binding, &top);
    files::make_folder(binding.to, 0o750)?;
    let bound =
        mount(Some(binding.from), binding.to, None::<&str>, MsFlags::MS_BIND, None::<&str>).and_then(|()| {
            let again = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
            let none = None::<&str>;
            if binding.read_only { mount(none, binding.to, none, again, none) } else { Ok(()) }
        });
    bound.map_err(|errno| files::at(binding.to)(errno.into()))?;
    let Some(owner) = binding.owner.filter(|_| !binding.read_only) else { return Ok(None) };
    if shared {
        return Ok((top.gid() != owner.group).then(|| top.gid()));
    }
    owner.apply_counting(binding.to, binding.counted).inspect_err(|_| {
        // What is half the group's must not be taken for ready.
        if let Err(error) = unmount(binding.to, Busy::GoesLater) {
            tracing::warn!(%error, "cannot take down a volume whose owner could not be changed");
        }
    })?;
    Ok(None)
}

/// Has `link` name a device.
pub(super) fn link_device(device: &Path, link: &Path) -> Result<PathBuf, Error> {
    let found = std::fs::metadata(device).map_err(files::at(device))?.file_type();
    if !found.is_block_device() {
        return Err(Error::Volume(format!("{} is not a block device", device.display())));
    }
    files::make_folder(link.parent().unwrap_or(link), 0o750)?;
    files::remove(link)?;
    symlink(device, link).map_err(files::at(link))?;
    Ok(link.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_folders_and_devices_are_local_volumes() {
        let said = |path: &str| kind(path.as_ref()).map_err(|error| error.to_string());
        assert_eq!(said("/etc"), Ok(Kind::Folder));
        assert_eq!(said("/nowhere/at/all"), Err("path \"/nowhere/at/all\" does not exist".to_owned()));
        assert_eq!(said("/etc/passwd"), Err("only directory and block device are supported".to_owned()));
        assert_eq!(said("/etc/../etc"), Err("invalid path: /etc/../etc must not contain '..'".to_owned()));
        let link = std::env::temp_dir().join(format!("knarr-device-{}", std::process::id()));
        let refused = link_device("/dev/null".as_ref(), &link).unwrap_err().to_string();
        assert_eq!(refused, "/dev/null is not a block device");
    }
}
