//! What is mounted where, as the kernel tells it.

use crate::{Error, files};
use nix::mount::{MntFlags, umount2};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

const MOUNTS: &str = "/proc/self/mountinfo";

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mount {
    /// Where.
    pub(crate) point: PathBuf,
    /// What changes here is seen elsewhere.
    pub(crate) shared: bool,
    pub(crate) kind: String,
    /// Device or server.
    pub(crate) source: String,
    /// The file system's own options.
    pub(crate) options: String,
}

/// Everything that is mounted, in the order of its mounting.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Table(pub(crate) Vec<Mount>);

/// A path as the kernel writes it: blanks and backslashes are octal numbers.
fn unescaped(text: &str) -> PathBuf {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((first, after)) = rest.split_first() {
        let octal = after.get(..3).filter(|_| *first == b'\\');
        let value = octal.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        bytes.push(value.unwrap_or(*first));
        rest = if value.is_some() { &after[3..] } else { after };
    }
    std::ffi::OsString::from_vec(bytes).into()
}

fn mount(line: &str) -> Option<Mount> {
    // Optional fields end with a dash.
    let (own, of_kind) = line.split_once(" - ")?;
    let mut own = own.split(' ').skip(4);
    let point = unescaped(own.next()?);
    let shared = own.skip(1).any(|field| field.starts_with("shared:"));
    let mut of_kind = of_kind.split(' ');
    let kind = of_kind.next()?.to_owned();
    let source = unescaped(of_kind.next()?).display().to_string();
    let options = of_kind.next().unwrap_or_default().to_owned();
    Some(Mount { point, shared, kind, source, options })
}

impl Table {
    pub(crate) fn parse(text: &str) -> Self {
        Self(text.lines().filter_map(mount).collect())
    }

    /// What is mounted now.
    pub(crate) fn read() -> Result<Self, Error> {
        let text = std::fs::read_to_string(MOUNTS).map_err(files::at(MOUNTS.as_ref()))?;
        Ok(Self::parse(&text))
    }

    /// The mount at a path, the uppermost where several are.
    pub(crate) fn at(&self, path: &Path) -> Option<&Mount> {
        self.0.iter().rev().find(|mount| mount.point == path)
    }

    /// The mount that a path is on.
    pub(crate) fn holding(&self, path: &Path) -> Option<&Mount> {
        path.ancestors().find_map(|path| self.at(path))
    }

    /// The mounts at or below a path, in the order in which they can be taken down.
    pub(crate) fn within(&self, path: &Path) -> Vec<&Mount> {
        self.0.iter().rev().filter(|mount| mount.point.starts_with(path)).collect()
    }
}

/// Whether something is mounted at a path.
pub(crate) fn is_mounted(path: &Path) -> Result<bool, Error> {
    Ok(Table::read()?.at(path).is_some())
}

/// How a mount is taken down that is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Busy {
    /// It stays, and that is an error: what is below must not be detached from the node yet.
    Stays,
    /// It goes out of sight, and for good when nobody uses it any more.
    GoesLater,
}

/// Takes down whatever is mounted at a path.
pub(crate) fn unmount(path: &Path, busy: Busy) -> Result<(), Error> {
    while is_mounted(path)? {
        let flags = match busy {
            Busy::Stays => MntFlags::UMOUNT_NOFOLLOW,
            Busy::GoesLater => MntFlags::UMOUNT_NOFOLLOW | MntFlags::MNT_DETACH,
        };
        umount2(path, flags).map_err(|errno| files::at(path)(errno.into()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
22 1 0:20 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
40 22 0:40 / /k/pods/a/volumes/x\\040y rw - tmpfs tmpfs rw,size=1024k
41 40 0:41 / /k/pods/a/volumes/x\\040y/z rw master:2 shared:3 - hugetlbfs nodev rw,pagesize=2M
42 22 0:40 / /k/pods/ab rw - nfs4 server:/a\\134b rw";

    #[test]
    fn the_kernels_table_is_read() {
        let table = Table::parse(TEXT);
        let names = |path: &str| -> Vec<String> {
            table.within(path.as_ref()).iter().map(|mount| mount.point.display().to_string()).collect()
        };
        assert_eq!(names("/k/pods/a"), ["/k/pods/a/volumes/x y/z", "/k/pods/a/volumes/x y"]);
        let shared = |path: &str| table.holding(path.as_ref()).map(|mount| mount.shared);
        assert_eq!((shared("/k/pods"), shared("/k/pods/ab/c")), (Some(true), Some(false)));
        assert_eq!(shared("/k/pods/a/volumes/x y/z"), Some(true));
        let nfs = table.at("/k/pods/ab".as_ref()).unwrap();
        assert_eq!((nfs.kind.as_str(), nfs.source.as_str()), ("nfs4", "server:/a\\b"));
        assert_eq!(table.at("/k/pods".as_ref()), None);
    }
}
