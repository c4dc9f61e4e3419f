//! subPath: a part of a volume, found without being led elsewhere by what a pod does to its volume in
//! the meantime. Every step is opened without following links, and what was opened is what is bound.

use super::mount_table::{Busy, is_mounted, unmount};
use crate::{Error, files};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::mount::{MsFlags, mount};
use nix::sys::stat::{FileStat, Mode, SFlag, fchmod, fstat, mkdirat};
use std::ffi::OsStr;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

/// A step is looked at, and neither followed nor opened for real.
fn look() -> OFlag {
    OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC
}

fn failed(path: &Path) -> impl FnOnce(Errno) -> Error {
    let path = path.to_owned();
    move |errno| files::at(&path)(errno.into())
}

fn kind(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits())
}

/// Why a path names nothing in a volume, before anything is looked at.
pub(crate) fn refusal(sub: &str) -> Option<String> {
    if sub.starts_with('/') {
        return Some(format!("error SubPath `{sub}` must not be an absolute path"));
    }
    let back = Path::new(sub).components().any(|part| part == Component::ParentDir);
    back.then(|| format!("unable to provision SubPath `{sub}`: must not contain '..'"))
}

/// The names between a volume's top and something in it.
fn steps<'a>(root: &Path, real: &'a Path) -> Result<Vec<&'a OsStr>, Error> {
    let outside = || Error::Volume(format!("{} is not in {}", real.display(), root.display()));
    let relative = real.strip_prefix(root).map_err(|_| outside())?;
    Ok(relative.iter().collect())
}

/// Opens the last of some steps from a folder; refuses where one of them is a link.
fn descend(root: &Path, steps: &[&OsStr]) -> Result<OwnedFd, Error> {
    let mut at = open(root, look(), Mode::empty()).map_err(failed(root))?;
    for step in steps {
        at = openat(&at, *step, look(), Mode::empty()).map_err(failed(step.as_ref()))?;
        if kind(&fstat(&at).map_err(failed(step.as_ref()))?) == SFlag::S_IFLNK {
            return Err(Error::Volume(format!("unexpected link {} in the volume", step.display())));
        }
    }
    Ok(at)
}

/// Makes the folders of a path that are not there, with the mode of the volume's top.
pub(crate) fn make(volume: &Path, sub: &str) -> Result<(), Error> {
    let root = volume.canonicalize().map_err(files::at(volume))?;
    let wanted = root.join(sub);
    let there = wanted.ancestors().find(|path| std::fs::symlink_metadata(path).is_ok()).unwrap_or(&root);
    let missing: Vec<&OsStr> =
        wanted.strip_prefix(there).map_or_else(|_| Vec::new(), |rest| rest.iter().collect());
    // Links within the volume may lead to where the new folders will be, links out of it may not.
    let real = there.canonicalize().map_err(files::at(there))?;
    let mut at = descend(&root, &steps(&root, &real)?)?;
    let mode = Mode::from_bits_truncate(std::fs::metadata(&root).map_err(files::at(&root))?.mode() & 0o7777);
    for step in missing {
        match mkdirat(&at, step, mode) {
            Err(Errno::EEXIST) | Ok(()) => {}
            Err(errno) => return Err(failed(&wanted)(errno)),
        }
        let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        at = openat(&at, step, flags, Mode::empty()).map_err(failed(&wanted))?;
        fchmod(&at, mode).map_err(failed(&wanted))?;
    }
    Ok(())
}

/// Opens what a path within a volume is. Links are followed, by a look ahead; a pod that changes them
/// between that and the opening gets an error.
fn find(volume: &Path, sub: &str) -> Result<OwnedFd, Error> {
    let root = volume.canonicalize().map_err(files::at(volume))?;
    let wanted = root.join(sub);
    let real = wanted.canonicalize().map_err(files::at(&wanted))?;
    descend(&root, &steps(&root, &real)?)
}

/// The longest file whose text is wanted.
const TEXT_BYTES: u64 = 1 << 20;

/// The text of a file in a volume.
pub(crate) fn read(volume: &Path, sub: &str) -> Result<String, Error> {
    let found = find(volume, sub)?;
    if kind(&fstat(&found).map_err(failed(sub.as_ref()))?) != SFlag::S_IFREG {
        return Err(Error::Volume(format!("{sub} is not a file")));
    }
    let file = std::fs::File::open(files::path_of(&found)).map_err(files::at(sub.as_ref()))?;
    let mut text = String::new();
    file.take(TEXT_BYTES).read_to_string(&mut text).map_err(files::at(sub.as_ref()))?;
    Ok(text)
}

/// Binds a part of a volume to `target`, which holds on to it whatever becomes of its names. `make_missing`
/// has folders made that are not there.
pub(crate) fn bind(volume: &Path, sub: &str, target: &Path, make_missing: bool) -> Result<PathBuf, Error> {
    if make_missing && std::fs::symlink_metadata(volume.join(sub)).is_err() {
        make(volume, sub)?;
    }
    let found = find(volume, sub)?;
    let stat = fstat(&found).map_err(failed(target))?;
    if is_mounted(target)? {
        let there = std::fs::symlink_metadata(target).map_err(files::at(target))?;
        if (there.dev(), there.ino()) == (stat.st_dev, stat.st_ino) {
            return Ok(target.to_owned());
        }
        unmount(target, Busy::GoesLater)?;
    }
    if kind(&stat) == SFlag::S_IFDIR {
        files::make_folder(target, 0o750)?;
    } else {
        files::make_folder(target.parent().unwrap_or(target), 0o750)?;
        files::write(target, b"", 0o640)?;
    }
    mount(Some(&files::path_of(&found)), target, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .map_err(failed(target))?;
    Ok(target.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn volume(name: &str) -> PathBuf {
        let volume = std::env::temp_dir().join(format!("knarr-sub-{name}-{}", std::process::id()));
        files::make_folder_exact(&volume.join("in/deep"), 0o755).unwrap();
        std::fs::write(volume.join("in/file"), "").unwrap();
        volume
    }

    #[test]
    fn paths_that_lead_out_are_refused() {
        assert_eq!(refusal("/a").unwrap(), "error SubPath `/a` must not be an absolute path");
        assert_eq!(refusal("a/../b").unwrap(), "unable to provision SubPath `a/../b`: must not contain '..'");
        assert_eq!(refusal("a/..b"), None);
        let volume = volume("out");
        symlink("/etc", volume.join("out")).unwrap();
        symlink("in/deep", volume.join("within")).unwrap();
        symlink(volume.join("in"), volume.join("absolute")).unwrap();
        for inside in ["in", "in/file", "within", "absolute/deep", "./in"] {
            find(&volume, inside).unwrap();
        }
        for outside in ["out", "out/passwd", "nothing"] {
            find(&volume, outside).unwrap_err();
        }
        make(&volume, "out/made").unwrap_err();
        std::fs::write(volume.join("in/file"), "text").unwrap();
        assert_eq!(read(&volume, "in/file").unwrap(), "text");
        read(&volume, "out/passwd").unwrap_err();
        read(&volume, "in").unwrap_err();
        assert!(!Path::new("/etc/made").exists());
        files::remove_folder(&volume).unwrap();
    }

    #[test]
    fn a_link_that_appears_after_the_look_is_not_followed() {
        let volume = volume("race");
        let real = volume.canonicalize().unwrap().join("in/deep");
        let steps: Vec<&OsStr> = ["in".as_ref(), "deep".as_ref()].into();
        descend(&volume, &steps).unwrap();
        std::fs::remove_dir(&real).unwrap();
        symlink("/etc", &real).unwrap();
        let refused = descend(&volume, &steps).unwrap_err().to_string();
        assert_eq!(refused, "unexpected link deep in the volume");
        files::remove_folder(&volume).unwrap();
    }

    #[test]
    fn missing_folders_get_the_volumes_mode() {
        let volume = volume("make");
        std::fs::set_permissions(&volume, std::os::unix::fs::PermissionsExt::from_mode(0o2775)).unwrap();
        symlink("in", volume.join("link")).unwrap();
        make(&volume, "link/a/b").unwrap();
        let mode = std::fs::metadata(volume.join("in/a/b")).unwrap().mode();
        assert_eq!(mode & 0o7777, 0o2775);
        files::remove_folder(&volume).unwrap();
    }
}
