//! What can go wrong, by what the caller does about it.

use crate::Record;
use std::path::PathBuf;
use std::sync::Arc;

/// Why the store cannot be opened. All of these are for a person to read; none is worth a retry.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file is something else than a knarr database.
    #[error(
        "{} is not a knarr database: move it away, or choose another data directory with --data-dir",
        path.display()
    )]
    Foreign {
        /// The database file.
        path: PathBuf,
    },
    /// The file system refuses.
    #[error("cannot open the database {}: {source}; run knarr as a user that may read and write it", path.display())]
    Unreadable {
        /// The database file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A later release has migrated it.
    #[error(
        "the database {} has schema version {found}, this knarr knows up to {known}: run the newer knarr that wrote it, or restore a snapshot",
        path.display()
    )]
    Newer {
        /// The database file.
        path: PathBuf,
        /// Its schema version.
        found: u32,
        /// The newest version that is known here.
        known: u32,
    },
    /// Another process has it open.
    #[error("the database {} is in use by another knarr: stop that one first, or choose another data directory with --data-dir", path.display())]
    Locked {
        /// The database file.
        path: PathBuf,
    },
    /// There is no space to open it.
    #[error("the disk with the database {} is full: free some space and start knarr again", path.display())]
    Full {
        /// The database file.
        path: PathBuf,
    },
    /// Its content is damaged.
    #[error("the database {} is damaged ({reason}): restore a snapshot, or move it away to start an empty cluster", path.display())]
    Damaged {
        /// The database file.
        path: PathBuf,
        /// SQLite's reason.
        reason: String,
    },
    /// A value was sealed in a way that is not known here.
    #[error(
        "what the datastore has at {key} cannot be opened: {reason}; give knarr the encryption configuration that it was written with"
    )]
    Sealed {
        /// The value's key.
        key: String,
        /// What is missing.
        reason: String,
    },
    /// etcd cannot be used as it was named.
    #[error("the datastore cannot be used: {0}")]
    Remote(String),
    /// Anything else that SQLite says.
    #[error("the database {} cannot be used: {reason}", path.display())]
    Database {
        /// The database file.
        path: PathBuf,
        /// SQLite's reason.
        reason: String,
    },
}

/// Why a write did not take place.
#[derive(thiserror::Error)]
pub enum WriteError<I> {
    /// The key is not as expected: report, or read again and retry. Carries the current state.
    #[error("the key's state is not the expected one")]
    Conflict(Option<Arc<Record<I>>>),
    /// No space on the disk: report; reads go on, and writes do again once there is space.
    #[error("the disk is full: writes are refused until there is space")]
    Full,
    /// The disk or database failed: report. Whether the write survives a crash is unknown.
    #[error("the database refused the write: {0}")]
    Io(String),
    /// The value is larger than what its kind may have: report.
    #[error("etcdserver: request is too large")]
    TooLarge,
    /// What the write was decided by holds no longer: decide again.
    #[error("another server gave away what this one meant to; please try again")]
    Overtaken,
    /// The store is closing: give up.
    #[error("the store is closed")]
    Closed,
}

impl<I> std::fmt::Debug for WriteError<I> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Conflict(current) => {
                write!(f, "Conflict({:?})", current.as_ref().map(|record| record.revision))
            }
            Self::Full => f.write_str("Full"),
            Self::Io(reason) => write!(f, "Io({reason:?})"),
            Self::TooLarge => f.write_str("TooLarge"),
            Self::Overtaken => f.write_str("Overtaken"),
            Self::Closed => f.write_str("Closed"),
        }
    }
}

/// Why an exact read is impossible.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// That revision is no longer known: list anew.
    #[error("revision is compacted; the oldest that is known is {oldest}")]
    Compacted {
        /// The oldest revision the log still knows exactly.
        oldest: u64,
    },
    /// That revision has not been reached.
    #[error("revision is in the future; the current one is {current}")]
    Future {
        /// The current revision.
        current: u64,
    },
    /// The log could not be read: report.
    #[error("the database could not be read: {0}")]
    Io(String),
}

/// Why a watch ended.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum WatchError {
    /// Its position has left the history: list anew.
    #[error("revision is compacted; the history starts after {oldest}")]
    Compacted {
        /// The oldest revision that can be watched from.
        oldest: u64,
    },
    /// The store is closed: give up.
    #[error("the store is closed")]
    Closed,
}
