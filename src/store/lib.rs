//! Owns the cluster's state: revisions over (key, bytes), whole in memory, and durable in an SQLite log or in an
//! etcd that several servers share.
//!
//! Memory answers, disk remembers: reads and watches never touch the disk; a write is answered after
//! its fsync, and the event is published by the commit itself. With etcd the state in memory follows etcd's, and
//! [`Store::catch_up`] says when it has. It must never know a kind, an object's
//! format or HTTP, and nothing but the server may open it. Start reading at [`Store`]; SQLite's one writer
//! is in `writer.rs`, its database in `log.rs`, etcd in `etcd/`.

pub mod bench;
#[cfg(test)]
mod crash_tests;
mod error;
mod etcd;
mod history;
mod log;
#[cfg(test)]
mod migration_tests;
mod record;
mod sealing;
#[cfg(test)]
mod tests;
mod writer;

pub use error::{Error, ReadError, WatchError, WriteError};
pub use etcd::{Remote, SEALING, Vault};
pub use history::{Event, Watch};
pub use log::Aside;
pub use record::{Record, Snapshot, Template};
pub use sealing::{Sealer, Unsealed};

use arc_swap::ArcSwap;
use base::{Phase, Restart, Supervisor, clock};
use history::History;
use record::State;
use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};

/// How many snapshots stay pinned; each shares all but its changes with the current state.
const PINS: usize = 64;
/// How many writes wait before callers are held back.
const WRITE_QUEUE: usize = 1024;

/// Where the database is and what it may take.
#[derive(Clone)]
pub struct Config {
    /// The database file; its folder is made if it is missing.
    pub path: PathBuf,
    /// How much memory the watch history may hold.
    pub history_bytes: usize,
    /// How often volatile writes are flushed and superseded rows removed: a state of the past can be read
    /// for one to two of these.
    pub upkeep_interval: Duration,
    /// The largest the database file may become; 0 for no limit.
    pub max_bytes: u64,
    /// Seals what is written.
    pub sealer: Arc<dyn Sealer>,
}

impl Config {
    /// The usual configuration for a database at `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            history_bytes: 16 << 20,
            upkeep_interval: Duration::from_secs(300),
            max_bytes: 0,
            sealer: Arc::new(Unsealed),
        }
    }
}

/// Has a database's revisions begin behind this one; it is made if it is missing.
pub fn begin_behind(config: &Config, revision: u64) -> Result<(), Error> {
    log::Log::open(config)?.begin_behind(revision)
}

/// Moves a database aside that nobody has open, to its name with this behind it; none where there is none.
pub fn set_aside(config: &Config, suffix: &str) -> Result<Option<Aside>, Error> {
    if !config.path.exists() {
        return Ok(None);
    }
    log::Log::open(config)?.set_aside(suffix).map(Some)
}

/// Computes what is kept beside a value, when the database is read at start.
pub type Indexer<I> = fn(key: &str, value: &[u8]) -> I;

/// What is kept beside a value.
pub trait Beside: Send + Sync + 'static {
    /// What the value is of, and others of its kind are not, such as a node; "" for nothing. It can be watched
    /// alone.
    fn topic(&self) -> &str {
        ""
    }
}

/// Is told of every change once it is visible, and before anybody who watches; whether or not the writer
/// still waits. It must not block.
pub type Observer<I> = Box<dyn Fn(&Event<I>) + Send + Sync>;

/// What a write expects of the key's current state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// The key does not exist.
    Absent,
    /// The key exists at exactly this revision.
    Revision(u64),
}

/// What a write does.
#[derive(Clone, Debug)]
pub enum Change<I> {
    /// Stores this value.
    Put(Template, I),
    /// Removes the key; the value is its last state, as watchers see it.
    Delete(Template, I),
}

/// When a write is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// After its fsync.
    Durable,
    /// At once; a crash may lose it, an orderly stop does not.
    Volatile,
}

/// One conditional change of one key.
#[derive(Clone, Debug)]
pub struct Write<I> {
    /// The key.
    pub key: String,
    /// What it must find.
    pub expect: Expect,
    /// What it does.
    pub change: Change<I>,
    /// When it is answered.
    pub durability: Durability,
}

/// What a write was decided by: servers that share a store, and write under one of these names, decide one after the
/// other. Names begin with a dot.
#[derive(Clone, Debug, Default)]
pub struct Guard {
    /// Under which names.
    pub names: Vec<String>,
    /// The state that was looked at.
    pub since: u64,
}

/// Why a guarded write did not take place.
#[derive(Debug)]
pub enum Unwritten<I> {
    /// Another write was made under one of its names since: look again. The write is given back.
    Overtaken(Write<I>),
    /// Anything else.
    Refused(WriteError<I>),
}

/// A write that took place.
#[derive(Debug)]
pub struct Written<I> {
    /// The new state; of a deletion, the last one.
    pub record: Arc<Record<I>>,
    /// The state before.
    pub previous: Option<Arc<Record<I>>>,
}

/// What readers and the writer share.
struct Shared<I> {
    state: ArcSwap<State<I>>,
    /// The revision of the state, for those who wait for one.
    reached: watch::Sender<u64>,
    history: History<I>,
    pins: Mutex<VecDeque<Snapshot<I>>>,
    /// States before this revision are forgotten, wherever they might still be found.
    compacted: AtomicU64,
}

impl<I: Beside> Shared<I> {
    fn new(history_bytes: usize, observer: Observer<I>, state: State<I>, compacted: u64) -> Arc<Self> {
        Arc::new(Self {
            reached: watch::Sender::new(state.revision),
            history: History::new(history_bytes, state.revision, observer),
            state: ArcSwap::from_pointee(state),
            pins: Mutex::default(),
            compacted: compacted.into(),
        })
    }

    /// Makes a new state current together with the events that led to it.
    fn publish(&self, state: State<I>, events: Vec<Arc<Event<I>>>) {
        let revision = state.revision;
        self.history.publish(&self.state, state, events);
        self.reached.send_replace(revision);
    }

    /// Completes when the state is at least of this revision; never where the store is closed before.
    async fn reach(&self, revision: u64) {
        let mut reached = self.reached.subscribe();
        if reached.wait_for(|now| *now >= revision).await.is_err() {
            std::future::pending().await
        }
    }
}

/// The store. Cheap to clone; every clone is the same store.
pub struct Store<I> {
    shared: Arc<Shared<I>>,
    engine: Engine<I>,
    indexer: Indexer<I>,
}

/// Where the state is durable.
enum Engine<I> {
    Sqlite { writes: mpsc::Sender<writer::Message<I>>, config: Arc<Config> },
    Etcd(etcd::Handle<I>),
}

impl<I> Clone for Engine<I> {
    fn clone(&self) -> Self {
        match self {
            Self::Sqlite { writes, config } => {
                Self::Sqlite { writes: writes.clone(), config: config.clone() }
            }
            Self::Etcd(handle) => Self::Etcd(handle.clone()),
        }
    }
}

impl<I> Clone for Store<I> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone(), engine: self.engine.clone(), indexer: self.indexer }
    }
}

impl<I: Beside> Store<I> {
    /// Opens the database, making it if it is missing, reads the current state into memory and starts
    /// the writer under `supervisor`.
    pub async fn open(
        config: Config,
        indexer: Indexer<I>,
        observer: Observer<I>,
        supervisor: &Supervisor,
    ) -> Result<Self, Error> {
        let config = Arc::new(config);
        let (interval, history_bytes) = (config.upkeep_interval, config.history_bytes);
        let own = config.clone();
        let opening = tokio::task::spawn_blocking(move || {
            let mut log = log::Log::open(&own)?;
            let state = log.load(indexer)?;
            Ok((log, state))
        });
        let (log, state) = opening
            .await
            .map_err(|join| Error::Database { path: config.path.clone(), reason: join.to_string() })??;
        let shared = Shared::new(history_bytes, observer, state, log.compacted);
        let (writes, queue) = mpsc::channel(WRITE_QUEUE);
        let stopped = writer::start(log, shared.clone(), queue);
        supervise(supervisor, writes.clone(), stopped, interval);
        Ok(Self { shared, engine: Engine::Sqlite { writes, config }, indexer })
    }

    /// Joins those who share an etcd: reads the current state into memory and follows it under `supervisor`. Of
    /// the configuration the database's path and size are etcd's own matter.
    pub async fn share(
        remote: &Remote,
        config: &Config,
        (indexer, observer): (Indexer<I>, Observer<I>),
        supervisor: &Supervisor,
    ) -> Result<Self, Error> {
        let (shared, handle) = etcd::open(remote, config, (indexer, observer), supervisor).await?;
        Ok(Self { shared, engine: Engine::Etcd(handle), indexer })
    }

    /// The revision of the current state.
    pub fn revision(&self) -> u64 {
        self.shared.state.load().revision
    }

    /// Whether there still is somebody who writes.
    pub fn is_writable(&self) -> bool {
        match &self.engine {
            Engine::Sqlite { writes, .. } => !writes.is_closed(),
            Engine::Etcd(handle) => handle.is_connected(),
        }
    }

    /// Completes when the state is at least of this revision; never where the store is closed before.
    pub async fn reach(&self, revision: u64) {
        self.shared.reach(revision).await;
    }

    /// Waits until the state in memory has all that was acknowledged by anybody before this was called. Where the
    /// state is nobody else's it always has.
    pub async fn catch_up(&self) -> Result<(), ReadError> {
        match &self.engine {
            Engine::Sqlite { .. } => Ok(()),
            Engine::Etcd(handle) => handle.catch_up().await,
        }
    }

    /// The current state, without a lock or a copy.
    pub fn snapshot(&self) -> Snapshot<I> {
        Snapshot(self.shared.state.load_full())
    }

    /// The exact state at a revision that is not compacted: pinned, rebuilt from the watch history, or read
    /// from the log (which does not know what was volatile).
    pub async fn snapshot_at(&self, revision: u64) -> Result<Snapshot<I>, ReadError> {
        let current = self.snapshot();
        if current.revision() == revision {
            return Ok(current);
        }
        if current.revision() < revision {
            return Err(ReadError::Future { current: current.revision() });
        }
        let oldest = self.shared.compacted.load(Ordering::Acquire);
        if revision < oldest {
            return Err(ReadError::Compacted { oldest });
        }
        if let Some(pinned) = self.pinned(revision) {
            return Ok(pinned);
        }
        if let Some(snapshot) = self.shared.history.undo(&self.shared.state, revision) {
            return Ok(snapshot);
        }
        match &self.engine {
            Engine::Sqlite { config, .. } => {
                let (config, indexer) = (config.clone(), self.indexer);
                let reading = tokio::task::spawn_blocking(move || log::read_at(&config, revision, indexer));
                reading.await.map_err(|join| ReadError::Io(join.to_string()))?
            }
            Engine::Etcd(handle) => handle.read_at(revision, self.indexer).await,
        }
    }

    /// Keeps a snapshot for [`Self::snapshot_at`] until it is compacted, as one of a bounded number.
    pub fn pin(&self, snapshot: &Snapshot<I>) {
        let oldest = self.shared.compacted.load(Ordering::Acquire);
        let mut pins = self.shared.pins.lock().unwrap_or_else(PoisonError::into_inner);
        pins.retain(|pin| pin.revision() >= oldest && pin.revision() != snapshot.revision());
        if pins.len() == PINS {
            pins.pop_front();
        }
        pins.push_back(snapshot.clone());
    }

    fn pinned(&self, revision: u64) -> Option<Snapshot<I>> {
        let pins = self.shared.pins.lock().unwrap_or_else(PoisonError::into_inner);
        pins.iter().find(|pin| pin.revision() == revision).cloned()
    }

    /// Makes one change, and returns once it is as durable as it asks and visible to readers.
    pub async fn write(&self, write: Write<I>) -> Result<Written<I>, WriteError<I>> {
        let writes = match &self.engine {
            Engine::Sqlite { writes, .. } => writes,
            Engine::Etcd(handle) => return handle.write(write).await,
        };
        let (reply, answer) = oneshot::channel();
        let request = writer::Request { write, reply };
        writes.send(writer::Message::Write(request)).await.map_err(|_| WriteError::Closed)?;
        answer.await.map_err(|_| WriteError::Closed)?
    }

    /// The same where the store is shared, if no other write under the names of the guard was made since the state that it
    /// names. Where it is not, this server decides alone, and the guard says nothing.
    pub async fn write_guarded(&self, write: Write<I>, guard: &Guard) -> Result<Written<I>, Unwritten<I>> {
        match &self.engine {
            Engine::Sqlite { .. } => self.write(write).await.map_err(Unwritten::Refused),
            Engine::Etcd(handle) => handle.write_guarded(write, guard).await,
        }
    }

    /// The changes of keys that start with `prefix`, after revision `after`.
    pub fn watch(&self, prefix: &str, after: u64) -> Result<Watch<I>, WatchError> {
        Watch::new(self.shared.clone(), (prefix, ""), after)
    }

    /// Those of them alone that are of one key, or of one [`Beside::topic`]: no others wake who watches.
    pub fn watch_topic(&self, prefix: &str, topic: &str, after: u64) -> Result<Watch<I>, WatchError> {
        Watch::new(self.shared.clone(), (prefix, topic), after)
    }

    #[cfg(test)]
    async fn upkeep(&self) {
        let Engine::Sqlite { writes, .. } = &self.engine else { panic!("etcd keeps itself") };
        assert!(writes.send(writer::Message::Upkeep).await.is_ok(), "the writer is running");
    }
}

/// Runs the upkeep's timer and, at the end, has the writer flush and close the database.
fn supervise<I: Beside>(
    supervisor: &Supervisor,
    writes: mpsc::Sender<writer::Message<I>>,
    stopped: oneshot::Receiver<()>,
    interval: Duration,
) {
    let mut stopped = Some(stopped);
    supervisor.run("store", Phase::Ground, Restart::Fatal, move |shutdown| {
        let writes = writes.clone();
        let stopped = stopped.take();
        async move {
            let Some(mut stopped) = stopped else { return Err("the writer cannot be started again") };
            loop {
                let message = tokio::select! {
                    _ = &mut stopped => return Err("the database's writer ended"),
                    () = shutdown.requested() => break,
                    () = clock::sleep(interval) => writer::Message::Upkeep,
                };
                writes.send(message).await.map_err(|_| "the database's writer ended")?;
            }
            writes.send(writer::Message::Close).await.map_err(|_| "the database's writer ended early")?;
            stopped.await.map_err(|_| "the database was not closed cleanly")
        }
    });
}
