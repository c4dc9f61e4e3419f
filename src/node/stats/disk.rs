//! How full file systems are, and what folders take of them.

use base::clock::{self, Instant};
use nix::sys::statvfs::statvfs;
use std::collections::{HashMap, HashSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// A folder is not walked again within this time, as Kubernetes' `volumeStatsAggPeriod` has it.
const WALK_AGAIN: Duration = Duration::from_secs(60);
/// Blocks of `stat`, whatever the file system's own are.
const BLOCK_BYTES: u64 = 512;

/// A file system, or a folder's part of one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Space {
    pub(crate) capacity: u64,
    pub(crate) available: u64,
    pub(crate) used: u64,
    pub(crate) inodes: u64,
    pub(crate) inodes_free: u64,
    pub(crate) inodes_used: u64,
}

impl Space {
    /// The file system that a path lies on.
    pub(crate) fn of_file_system(path: &Path) -> Option<Self> {
        let stat = statvfs(path.ancestors().find(|path| path.exists())?).ok()?;
        let bytes = |blocks: u64| blocks.saturating_mul(stat.fragment_size());
        Some(Self {
            capacity: bytes(stat.blocks()),
            available: bytes(stat.blocks_available()),
            used: bytes(stat.blocks().saturating_sub(stat.blocks_free())),
            inodes: stat.files(),
            inodes_free: stat.files_free(),
            inodes_used: stat.files().saturating_sub(stat.files_free()),
        })
    }

    /// The same file system, with what a folder uses of it.
    pub(crate) fn with_use(self, part: Part) -> Self {
        Self { used: part.bytes, inodes_used: part.inodes, ..self }
    }
}

/// What a folder holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) bytes: u64,
    pub(crate) inodes: u64,
}

impl std::ops::AddAssign for Part {
    fn add_assign(&mut self, other: Self) {
        self.bytes += other.bytes;
        self.inodes += other.inodes;
    }
}

/// Walks a folder on its own file system. A file with several names counts once; what goes meanwhile does not.
fn walk(folder: &Path) -> Part {
    let Ok(top) = std::fs::symlink_metadata(folder) else { return Part::default() };
    let mut seen = HashSet::new();
    let mut part = Part { bytes: top.blocks() * BLOCK_BYTES, inodes: 1 };
    let mut open = if top.is_dir() { vec![folder.to_owned()] } else { Vec::new() };
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.dev() != top.dev()
                || metadata.nlink() > 1 && !metadata.is_dir() && !seen.insert(metadata.ino())
            {
                continue;
            }
            part += Part { bytes: metadata.blocks() * BLOCK_BYTES, inodes: 1 };
            if metadata.is_dir() {
                open.push(entry.path());
            }
        }
    }
    part
}

/// Folders that were walked lately.
#[derive(Default)]
pub(crate) struct Walks(Mutex<HashMap<PathBuf, (Instant, Part)>>);

impl Walks {
    /// What a folder holds, as of at most a minute ago.
    pub(crate) fn part(&self, folder: &Path) -> Part {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(folder).copied();
        if let Some((at, part)) = known
            && at.elapsed() < WALK_AGAIN
        {
            return part;
        }
        let part = walk(folder);
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, (at, _)| at.elapsed() < WALK_AGAIN);
        all.insert(folder.to_owned(), (clock::instant(), part));
        part
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_two_names_counts_once() {
        let folder = std::env::temp_dir().join(format!("knarr-walk-{}", std::process::id()));
        std::fs::create_dir_all(folder.join("below")).unwrap();
        std::fs::write(folder.join("below/one"), vec![1; 10_000]).unwrap();
        std::fs::hard_link(folder.join("below/one"), folder.join("two")).unwrap();
        let part = walk(&folder);
        std::fs::remove_dir_all(&folder).unwrap();
        assert_eq!(part.inodes, 3);
        assert!((10_000..40_000).contains(&part.bytes), "{part:?}");
        assert_eq!(walk(&folder), Part::default());
    }
}
