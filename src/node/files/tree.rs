//! Trees of folders that pods made: as deep and as wide as they like, and changed while they are walked. Everything is
//! opened without following links, and neither the stack nor the number of open files grows with what is found.

use super::at;
use crate::Error;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, open, openat, openat2, renameat};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, unlinkat};
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Folders of one folder that are worked on at a time.
const BATCH: usize = 1024;

/// Opens a folder in another, but not one that something is mounted on.
fn enter(above: impl AsFd, name: impl AsRef<Path>) -> Result<OwnedFd, Errno> {
    let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let how = OpenHow::new().flags(flags).resolve(ResolveFlag::RESOLVE_NO_XDEV);
    match openat2(above.as_fd(), name.as_ref(), how) {
        // Kernels before 5.6, and filters that do not know the call, cannot tell; mounts are looked for before.
        Err(Errno::ENOSYS | Errno::EPERM) => openat(above.as_fd(), name.as_ref(), flags, Mode::empty()),
        other => other,
    }
}

/// A path to what is open, whatever became of its names.
pub(crate) fn path_of(opened: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", opened.as_raw_fd()))
}

/// The entries of an open folder.
pub(crate) fn entries(folder: &OwnedFd) -> std::io::Result<std::fs::ReadDir> {
    std::fs::read_dir(path_of(folder))
}

/// Removes what is no folder, and gives some of the folders that there are.
fn prune(folder: &OwnedFd) -> std::io::Result<Vec<OsString>> {
    let mut below = Vec::new();
    for entry in entries(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            below.push(name);
        } else {
            match unlinkat(folder, name.as_os_str(), UnlinkatFlags::NoRemoveDir) {
                Ok(()) | Err(Errno::ENOENT) => {}
                Err(Errno::EISDIR) => below.push(name),
                Err(errno) => return Err(errno.into()),
            }
        }
        if below.len() == BATCH {
            break;
        }
    }
    Ok(below)
}

/// A folder that is emptied. What lies deeper is moved up before it is entered.
struct Emptied {
    top: OwnedFd,
    /// How many were moved up; their names are made of it.
    moved: u64,
}

impl Emptied {
    fn empty(&mut self) -> std::io::Result<()> {
        loop {
            let folders = prune(&self.top)?;
            if folders.is_empty() {
                return Ok(());
            }
            for name in folders {
                self.flatten(&name)?;
                unlinkat(&self.top, name.as_os_str(), UnlinkatFlags::RemoveDir)?;
            }
        }
    }

    /// Leaves nothing in a folder: its files are removed, its folders moved up.
    fn flatten(&mut self, name: &OsStr) -> std::io::Result<()> {
        let folder = enter(&self.top, name)?;
        loop {
            let deeper = prune(&folder)?;
            if deeper.is_empty() {
                return Ok(());
            }
            deeper.iter().try_for_each(|name| self.raise(&folder, name))?;
        }
    }

    fn raise(&mut self, from: &OwnedFd, name: &OsStr) -> std::io::Result<()> {
        loop {
            self.moved += 1;
            match renameat(from, name, &self.top, format!(".knarr-removed-{}", self.moved).as_str()) {
                // A removal that was interrupted has left one of this name.
                Err(Errno::ENOTEMPTY | Errno::EEXIST | Errno::ENOTDIR) => {}
                other => return other.map_err(Into::into),
            }
        }
    }
}

/// Removes a folder with everything in it, or nothing. What is mounted below is an error, and is left.
pub(crate) fn remove_folder(path: &Path) -> Result<(), Error> {
    let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let top = match open(path, flags, Mode::empty()) {
        Err(Errno::ENOENT) => return Ok(()),
        other => other.map_err(|errno| at(path)(errno.into()))?,
    };
    Emptied { top, moved: 0 }.empty().map_err(at(path))?;
    match unlinkat(AT_FDCWD, path, UnlinkatFlags::RemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => Ok(()),
        Err(errno) => Err(at(path)(errno.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files;
    use nix::mount::{MntFlags, MsFlags, mount, umount2};
    use nix::sys::stat::mkdirat;

    /// Makes folders within each other, by handles, as `cd` does: their path is longer than any path may be.
    fn nest(folder: &Path, depth: usize) {
        files::make_folder(folder, 0o755).unwrap();
        let flags = OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let mut at = open(folder, flags, Mode::empty()).unwrap();
        for _ in 0..depth {
            mkdirat(&at, "d", Mode::from_bits_truncate(0o755)).unwrap();
            at = openat(&at, "d", flags, Mode::empty()).unwrap();
        }
    }

    #[test]
    fn a_tree_may_be_deeper_than_the_stack() {
        let folder = PathBuf::from(format!("/dev/shm/knarr-deep-{}", std::process::id()));
        nest(&folder, 4_000);
        // A folder in the way of one that is moved up, as an interrupted removal leaves it.
        files::make_folder(&folder.join(".knarr-removed-1/within"), 0o755).unwrap();
        std::os::unix::fs::symlink("/etc", folder.join("link")).unwrap();
        std::fs::write(folder.join("d/d/file"), "").unwrap();
        remove_folder(&folder).unwrap();
        assert!(!folder.exists() && Path::new("/etc/passwd").exists());
        remove_folder(&folder).unwrap();
    }

    #[test]
    fn what_is_mounted_below_is_not_entered() {
        let folder = std::env::temp_dir().join(format!("knarr-within-{}", std::process::id()));
        let (data, point) = (folder.join("data"), folder.join("tree/a/b"));
        files::make_folder(&data, 0o755).unwrap();
        files::make_folder(&point, 0o755).unwrap();
        std::fs::write(data.join("kept"), "").unwrap();
        mount(Some(&data), &point, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
        remove_folder(&folder.join("tree")).unwrap_err();
        assert!(data.join("kept").exists());
        umount2(&point, MntFlags::empty()).unwrap();
        remove_folder(&folder).unwrap();
    }
}
