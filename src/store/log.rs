//! The database: opening, migrating, loading, appending, compacting, and exact reads of the past.

use crate::record::{Map, Snapshot, State};
use crate::{Config, Error, Indexer, ReadError, Record, Sealer};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, Transaction, params};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// "knrr": tells our databases from other programs'.
const APPLICATION_ID: u32 = 0x6b6e_7272;
/// Forward only, one transaction each; a database's `user_version` is how many it has seen.
pub(crate) const MIGRATIONS: &[&str] = &[include_str!("../../migrations/0001_log.sql")];
/// Once the write-ahead log has so many pages, it is copied into the database and overwritten.
const CHECKPOINT_PAGES: u64 = 1000;
const PAGE_BYTES: u64 = 4096;
/// What deletions may take beyond the limit of the file's size.
const HEADROOM_PAGES: u64 = 256;
/// How much of the file may be free before it is given back to the disk: what a busy hour writes again,
/// and a part of the file, so that pages are not moved for little.
const SLACK_PAGES: u64 = 1024;
const SLACK_PART: u64 = 4;
/// How many pages one step gives back: bounds how long it holds up a write.
const GIVEN_PAGES: u64 = 256;
/// A frame of the write-ahead log is a page and its header.
const WAL_BYTES: u64 = 32 + (CHECKPOINT_PAGES + 24) * (PAGE_BYTES + 24);

/// A row to append.
pub(crate) struct Row<'a> {
    pub(crate) revision: u64,
    pub(crate) key: &'a str,
    /// The revision it supersedes; `None` asks the log.
    pub(crate) prev_revision: Option<u64>,
    pub(crate) create_revision: u64,
    /// `None`: the key is deleted.
    pub(crate) value: Option<&'a [u8]>,
}

pub(crate) struct Log {
    connection: Connection,
    path: PathBuf,
    pub(crate) compacted: u64,
    pub(crate) reserved: u64,
    /// The largest the file may become; 0 for no limit.
    max_pages: u64,
    /// Whether the limit is lifted by [`HEADROOM_PAGES`].
    lifted: bool,
    sealer: Arc<dyn Sealer>,
    /// Held for as long as the database is open; last, so that it is released last.
    _lock: File,
}

impl Log {
    pub(crate) fn open(config: &Config) -> Result<Self, Error> {
        let path = &config.path;
        let lock = lock(path)?;
        create_private(path).map_err(|error| from_io(path, error))?;
        let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE);
        let mut connection = connection.map_err(|error| from_sqlite(path, &error))?;
        migrate(&mut connection, path, MIGRATIONS)?;
        configure(&connection).map_err(|error| from_sqlite(path, &error))?;
        let meta = |name| meta(&connection, name).map_err(|error| from_sqlite(path, &error));
        // The first look makes the write-ahead log of a copy that had none.
        let (compacted, reserved) = (meta("compacted")?, meta("reserved")?);
        preallocate(path).map_err(|error| from_io(path, error))?;
        let max_pages = config.max_bytes.div_ceil(PAGE_BYTES);
        let log = Self {
            path: path.clone(),
            compacted,
            reserved,
            max_pages,
            lifted: true,
            sealer: config.sealer.clone(),
            connection,
            _lock: lock,
        };
        Ok(log)
    }

    /// Has revisions begin behind this one, where none was handed out before.
    pub(crate) fn begin_behind(&mut self, revision: u64) -> Result<(), Error> {
        let reserved = self.reserved.max(revision);
        let done = self.transact(|transaction| set_meta(transaction, "reserved", reserved));
        done.map_err(|error| from_sqlite(&self.path, &error))?;
        self.reserved = reserved;
        Ok(())
    }

    /// Moves the database aside, of which no revision is behind this one; nobody else has it open. The names of its
    /// files get this behind them.
    pub(crate) fn set_aside(self, suffix: &str) -> Result<Aside, Error> {
        let newest = "SELECT coalesce(max(revision), 0) FROM log";
        let newest = self.connection.query_one(newest, [], |row| row.get(0));
        let newest: u64 = newest.map_err(|error| from_sqlite(&self.path, &error))?;
        let Self { connection, path, reserved, _lock, .. } = self;
        connection.close().map_err(|(_, error)| from_sqlite(&path, &error))?;
        let aside = Aside {
            path: with_ending(&path, &format!(".{suffix}")),
            from: path,
            revision: newest.max(reserved),
        };
        aside.rename(&aside.from, &aside.path)?;
        Ok(aside)
    }

    /// Lets what makes room go beyond the limit: a deletion is a row, too.
    pub(crate) fn lift_limit(&mut self, lifted: bool) -> rusqlite::Result<()> {
        if self.max_pages > 0 && self.lifted != lifted {
            let pages = self.max_pages + if lifted { HEADROOM_PAGES } else { 0 };
            self.connection.pragma_update_and_check(None, "max_page_count", pages, |_| Ok(()))?;
            self.lifted = lifted;
        }
        Ok(())
    }

    /// One step of giving free pages back to the disk; says whether there are more to give.
    pub(crate) fn give_back(&mut self) -> rusqlite::Result<bool> {
        let count = |name| self.connection.pragma_query_value(None, name, |row| row.get::<_, u64>(0));
        let (pages, free) = (count("page_count")?, count("freelist_count")?);
        let spare = free.saturating_sub(SLACK_PAGES.max(pages / SLACK_PART));
        if spare == 0 {
            return Ok(false);
        }
        let mut step =
            self.connection.prepare(&format!("PRAGMA incremental_vacuum({})", spare.min(GIVEN_PAGES)))?;
        let mut rows = step.query([])?;
        while rows.next()?.is_some() {}
        Ok(spare > GIVEN_PAGES)
    }

    /// Reads the current state. Revisions start where none was ever handed out before.
    pub(crate) fn load<I>(&mut self, indexer: Indexer<I>) -> Result<State<I>, Error> {
        let read = read_map(&self.connection, u64::MAX, (indexer, &*self.sealer));
        let (map, newest) = read.map_err(|error| match error {
            Unread::Sealed { key, reason } => Error::Sealed { key, reason },
            Unread::Sqlite(error) => from_sqlite(&self.path, &error),
        })?;
        Ok(State { revision: newest.max(self.reserved), map })
    }

    /// Seals what is written.
    pub(crate) fn sealer(&self) -> Arc<dyn Sealer> {
        self.sealer.clone()
    }

    /// Runs `work` in one transaction and makes it durable.
    pub(crate) fn transact<T>(
        &mut self,
        work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<T> {
        let transaction = self.connection.transaction()?;
        let result = work(&transaction)?;
        transaction.commit()?;
        Ok(result)
    }
}

/// A database that was moved aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Aside {
    /// Where it is now.
    pub path: PathBuf,
    /// No revision of it is behind this one.
    pub revision: u64,
    from: PathBuf,
}

impl Aside {
    /// Puts it back where it was, in the place of what is there.
    pub fn put_back(&self) -> Result<(), Error> {
        self.rename(&self.path, &self.from)
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), Error> {
        for ending in ["", "-wal", "-shm"] {
            let (from, to) = (with_ending(from, ending), with_ending(to, ending));
            let renamed = match std::fs::rename(&from, &to) {
                // What is in its place has none of these either.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound && !ending.is_empty() => {
                    std::fs::remove_file(&to).or_else(|error| match error.kind() {
                        std::io::ErrorKind::NotFound => Ok(()),
                        _ => Err(error),
                    })
                }
                renamed => renamed,
            };
            renamed.map_err(|error| from_io(&from, error))?;
        }
        Ok(())
    }
}

/// SQLite's other files have its database's name with an ending.
fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

/// The lock is the process's: a second knarr must not have the database open at the same time.
fn lock(path: &Path) -> Result<File, Error> {
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(|error| from_io(path, error))?;
    let name = with_ending(path, ".lock");
    let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(name);
    let file = file.map_err(|error| from_io(path, error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::Locked { path: path.to_owned() }),
        Err(TryLockError::Error(error)) => Err(from_io(path, error)),
    }
}

/// SQLite gives its other files the mode of the database.
fn create_private(path: &Path) -> std::io::Result<()> {
    OpenOptions::new().create(true).truncate(false).read(true).write(true).mode(0o600).open(path).map(drop)
}

/// Brings a database to the newest version that there is a migration for; one that a newer knarr wrote is refused.
pub(crate) fn migrate(connection: &mut Connection, path: &Path, migrations: &[&str]) -> Result<(), Error> {
    let run = |connection: &mut Connection| -> rusqlite::Result<Result<(), Error>> {
        let tables: u32 = connection.query_one("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
        let id: u32 = connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
        let version: u32 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
        if id != APPLICATION_ID && (tables > 0 || id != 0) {
            return Ok(Err(Error::Foreign { path: path.to_owned() }));
        }
        let known = u32::try_from(migrations.len()).unwrap_or(u32::MAX);
        if version > known {
            return Ok(Err(Error::Newer { path: path.to_owned(), found: version, known }));
        }
        // Takes effect in a database without tables, or when all of it is written anew.
        let shrinks: u32 = connection.pragma_query_value(None, "auto_vacuum", |row| row.get(0))?;
        connection.pragma_update(None, "auto_vacuum", "incremental")?;
        if tables > 0
            && shrinks == 0
            && let Err(error) = connection.execute_batch("VACUUM")
        {
            tracing::warn!(%error, "the database cannot be made to shrink; trying again at the next start");
        }
        connection.pragma_update(None, "journal_mode", "wal")?;
        for (migration, version) in migrations.iter().zip(1..).filter(|(_, of)| *of > version) {
            let transaction = connection.transaction()?;
            transaction.execute_batch(migration)?;
            transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
            transaction.pragma_update(None, "user_version", version)?;
            transaction.commit()?;
        }
        Ok(Ok(()))
    };
    run(connection).map_err(|error| from_sqlite(path, &error))?
}

fn configure(connection: &Connection) -> rusqlite::Result<()> {
    connection.pragma_update(None, "synchronous", "full")?;
    connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
    // No limit: the file keeps its blocks, and syncing what overwrites them costs a twentieth.
    connection.pragma_update(None, "journal_size_limit", -1)?;
    connection.pragma_update(None, "cache_size", -2048)?;
    connection.pragma_update(None, "temp_store", "memory")?;
    // What is deleted is overwritten where that writes no more pages: it may have lain open before it was sealed.
    connection.pragma_update(None, "secure_delete", "fast")?;
    // Plans do not depend on what is asked for; without this, statements are compiled again for each value.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    Ok(())
}

/// Gives the write-ahead log its blocks before the first commit. SQLite ends its recovery at the first
/// frame whose checksum is wrong, and zeros are.
fn preallocate(path: &Path) -> std::io::Result<()> {
    let mut file = OpenOptions::new().write(true).open(with_ending(path, "-wal"))?;
    let mut at = file.seek(SeekFrom::End(0))?;
    let zeros = vec![0; 1 << 20];
    while at < WAL_BYTES {
        let some = usize::try_from(WAL_BYTES - at).unwrap_or(zeros.len()).min(zeros.len());
        match file.write(&zeros[..some]) {
            Ok(written) => at += written as u64,
            // Merely slower: a full disk must not keep the cluster from being read.
            Err(error) if error.kind() == std::io::ErrorKind::StorageFull => break,
            Err(error) => return Err(error),
        }
    }
    file.sync_data()
}

fn meta(connection: &Connection, name: &str) -> rusqlite::Result<u64> {
    connection.query_one("SELECT value FROM meta WHERE name = ?1", [name], |row| row.get(0))
}

pub(crate) fn set_meta(transaction: &Transaction<'_>, name: &str, value: u64) -> rusqlite::Result<()> {
    let mut set = transaction.prepare_cached("UPDATE meta SET value = ?2 WHERE name = ?1")?;
    set.execute(params![name, value]).map(drop)
}

pub(crate) fn append(
    transaction: &Transaction<'_>,
    row: &Row<'_>,
    sealer: &dyn Sealer,
) -> rusqlite::Result<()> {
    let prev_revision = match row.prev_revision {
        Some(revision) => revision,
        None => last_revision(transaction, row.key)?,
    };
    let mut insert = transaction.prepare_cached(
        "INSERT INTO log (revision, key, prev_revision, create_revision, deleted, value)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?;
    let sealed = row.value.and_then(|value| sealer.seal(row.key, value));
    let value = sealed.as_deref().or(row.value).unwrap_or_default();
    let deleted = row.value.is_none();
    insert.execute(params![row.revision, row.key, prev_revision, row.create_revision, deleted, value])?;
    Ok(())
}

/// The newest row of a key: a deletion, where a key is created again.
fn last_revision(transaction: &Transaction<'_>, key: &str) -> rusqlite::Result<u64> {
    let mut last = transaction
        .prepare_cached("SELECT revision FROM log WHERE key = ?1 ORDER BY prev_revision DESC LIMIT 1")?;
    Ok(last.query_one([key], |row| row.get(0)).optional()?.unwrap_or(0))
}

/// Removes rows that were superseded at or before `target`, looking at no more than `rows` rows.
/// Returns how far it got.
pub(crate) fn compact(
    transaction: &Transaction<'_>,
    from: u64,
    target: u64,
    rows: usize,
) -> rusqlite::Result<u64> {
    let mut nth = transaction.prepare_cached(
        "SELECT revision FROM log WHERE revision > ?1 AND revision <= ?2
         ORDER BY revision LIMIT 1 OFFSET ?3",
    )?;
    let to = nth.query_one(params![from, target, rows], |row| row.get(0)).optional()?.unwrap_or(target);
    let superseded = "DELETE FROM log WHERE revision IN
         (SELECT prev_revision FROM log WHERE revision > ?1 AND revision <= ?2)";
    transaction.prepare_cached(superseded)?.execute(params![from, to])?;
    let deletions = "DELETE FROM log WHERE revision > ?1 AND revision <= ?2 AND deleted = 1";
    transaction.prepare_cached(deletions)?.execute(params![from, to])?;
    set_meta(transaction, "compacted", to)?;
    Ok(to)
}

/// The state at `revision`, and the newest revision read.
fn read_map<I>(
    connection: &Connection,
    revision: u64,
    (indexer, sealer): (Indexer<I>, &dyn Sealer),
) -> Result<(Map<I>, u64), Unread> {
    let mut map = Map::new();
    let mut newest = 0;
    let mut sealed = BTreeMap::new();
    let mut all = connection.prepare(
        "SELECT revision, key, create_revision, deleted, value FROM log
         WHERE revision <= ?1 ORDER BY revision",
    )?;
    let mut rows = all.query([i64::try_from(revision).unwrap_or(i64::MAX)])?;
    while let Some(row) = rows.next()? {
        newest = row.get(0)?;
        let key: &str = row.get_ref(1)?.as_str().map_err(rusqlite::Error::from)?;
        if row.get(3)? {
            map.remove(key);
            sealed.remove(key);
            continue;
        }
        let value = row.get_ref(4)?.as_blob().map_err(rusqlite::Error::from)?;
        let value = match sealer.open(key, value) {
            Ok(value) => value,
            // The newest of a key counts; whether this is it is not known yet.
            Err(reason) => {
                sealed.insert(key.to_owned(), reason);
                map.remove(key);
                continue;
            }
        };
        sealed.remove(key);
        let index = indexer(key, &value);
        let (key, value) = (Arc::<str>::from(key), bytes::Bytes::copy_from_slice(&value));
        let record =
            Record { key: key.clone(), value, revision: newest, create_revision: row.get(2)?, at: 0, index };
        map.insert(key, Arc::new(record));
    }
    match sealed.into_iter().next() {
        Some((key, reason)) => Err(Unread::Sealed { key, reason }),
        None => Ok((map, newest)),
    }
}

/// Why the state cannot be read.
enum Unread {
    /// A value was sealed in a way that is not known.
    Sealed {
        key: String,
        reason: String,
    },
    Sqlite(rusqlite::Error),
}

impl From<rusqlite::Error> for Unread {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

/// The state at an earlier revision, as far as it was durable.
pub(crate) fn read_at<I>(
    config: &Config,
    revision: u64,
    indexer: Indexer<I>,
) -> Result<Snapshot<I>, ReadError> {
    let run = || -> Result<Result<Map<I>, u64>, Unread> {
        let mut connection = Connection::open_with_flags(&config.path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        // One transaction: the writer must not compact between the question and the answer.
        let transaction = connection.transaction()?;
        let compacted = meta(&transaction, "compacted")?;
        if revision < compacted {
            return Ok(Err(compacted));
        }
        Ok(Ok(read_map(&transaction, revision, (indexer, &*config.sealer))?.0))
    };
    match run() {
        Ok(Ok(map)) => Ok(Snapshot(Arc::new(State { revision, map }))),
        Ok(Err(oldest)) => Err(ReadError::Compacted { oldest }),
        Err(Unread::Sealed { key, reason }) => Err(ReadError::Io(format!("{key}: {reason}"))),
        Err(Unread::Sqlite(error)) => Err(ReadError::Io(error.to_string())),
    }
}

fn from_io(path: &Path, source: std::io::Error) -> Error {
    match source.kind() {
        std::io::ErrorKind::StorageFull => Error::Full { path: path.to_owned() },
        _ => Error::Unreadable { path: path.to_owned(), source },
    }
}

fn from_sqlite(path: &Path, error: &rusqlite::Error) -> Error {
    let (path, reason) = (path.to_owned(), error.to_string());
    match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => Error::Foreign { path },
        Some(ErrorCode::DatabaseCorrupt) => Error::Damaged { path, reason },
        Some(ErrorCode::DiskFull) => Error::Full { path },
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Error::Locked { path },
        _ => Error::Database { path, reason },
    }
}
