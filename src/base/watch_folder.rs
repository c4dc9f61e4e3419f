//! Waiting for a file or folder to change, by inotify.

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::path::{Path, PathBuf};
use tokio::io::unix::AsyncFd;

/// Linux' flag by which a second watch of a path does not take the place of the first.
const IN_MASK_ADD: u32 = 0x2000_0000;

/// A path that cannot be waited for.
#[derive(Debug, thiserror::Error)]
#[error("cannot wait for changes of {}: {source}", path.display())]
pub struct Error {
    path: PathBuf,
    source: std::io::Error,
}

fn at<E: Into<std::io::Error>>(path: &Path) -> impl FnOnce(E) -> Error {
    move |error| Error { path: path.to_owned(), source: error.into() }
}

/// What tokio's readiness asks of a file descriptor.
struct Descriptor(Inotify);

impl AsRawFd for Descriptor {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl AsFd for Descriptor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Changes of one or more paths, coalesced.
pub struct Changes(AsyncFd<Descriptor>, PathBuf);

impl Changes {
    /// What appears in a folder and what goes.
    pub fn of_entries(folder: &Path) -> Result<Self, Error> {
        let changes = Self::of_nothing(folder)?;
        changes.and_entries_of(folder)?;
        Ok(changes)
    }

    /// Adds what appears in another folder and what goes.
    pub fn and_entries_of(&self, folder: &Path) -> Result<(), Error> {
        let come = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO;
        self.add(folder, come | AddWatchFlags::IN_DELETE | AddWatchFlags::IN_MOVED_FROM)
    }

    /// Adds what goes from a folder.
    pub fn and_gone_from(&self, folder: &Path) -> Result<(), Error> {
        self.add(folder, AddWatchFlags::IN_DELETE | AddWatchFlags::IN_MOVED_FROM)
    }

    /// Changes of a folder's entries (complete writes and renames), or of a file's content.
    pub fn of(path: &Path) -> Result<Self, Error> {
        let changes = Self::of_nothing(path)?;
        let flags = if path.is_dir() {
            AddWatchFlags::IN_CLOSE_WRITE | AddWatchFlags::IN_MOVED_TO
        } else {
            AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CLOSE_WRITE
        };
        changes.add(path, flags)?;
        Ok(changes)
    }

    /// Whatever changes in folders: entries that come and go, what is written, what may be run, the folders themselves.
    pub fn of_all(folders: &[&Path]) -> Result<Self, Error> {
        let changes = Self::of_nothing(folders.first().copied().unwrap_or(Path::new("/")))?;
        let entries = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_DELETE | AddWatchFlags::IN_MOVE;
        let content = AddWatchFlags::IN_CLOSE_WRITE | AddWatchFlags::IN_ATTRIB;
        let folder = AddWatchFlags::IN_DELETE_SELF | AddWatchFlags::IN_MOVE_SELF;
        folders.iter().try_for_each(|path| changes.add(path, entries | content | folder))?;
        Ok(changes)
    }

    fn of_nothing(path: &Path) -> Result<Self, Error> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC);
        let inotify = inotify.map_err(at(path))?;
        #[expect(unsafe_code, reason = "tokio offers no other way to wait for a descriptor")]
        // SAFETY: the inotify instance owns its open descriptor, lives as long as the registration that
        // owns it in turn, and nothing here replaces or closes it before.
        let registered = unsafe { AsyncFd::register(Descriptor(inotify)) };
        Ok(Self(registered.map_err(at(path))?, path.to_owned()))
    }

    /// Adds what appears in a folder, as soon as it does and before it is written.
    pub fn and_new_in(&self, folder: &Path) -> Result<(), Error> {
        self.add(folder, AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO)
    }

    fn add(&self, path: &Path, flags: AddWatchFlags) -> Result<(), Error> {
        let added = self.0.get_ref().0.add_watch(path, flags | AddWatchFlags::from_bits_retain(IN_MASK_ADD));
        added.map(drop).map_err(at(path))
    }

    /// Returns after at least one change since the last call: whether a writer closed a file.
    pub async fn next(&mut self) -> Result<bool, Error> {
        loop {
            let mut ready = self.0.readable().await.map_err(at(&self.1))?;
            match ready.get_inner().0.read_events() {
                Ok(events) => {
                    return Ok(events.iter().any(|event| event.mask.contains(AddWatchFlags::IN_CLOSE_WRITE)));
                }
                Err(Errno::EAGAIN) => ready.clear_ready(),
                Err(errno) => return Err(at(&self.1)(errno)),
            }
        }
    }
}
