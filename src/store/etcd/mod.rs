//! The state in an etcd that several servers share (etcd's API, version 3).
//!
//! Each server has the whole state in memory and follows etcd's watch; a write is a transaction in etcd, and is
//! answered when the watch has brought it here. What others have written is seen a moment later, so that who needs
//! the newest state asks etcd for its revision and waits until that is here ([`Handle::catch_up`]).
//!
//! A value is stored with an empty revision, behind it a new line and where the revision goes: etcd's revision is
//! known only when the transaction took place. Keys whose name begins with a dot are not of the state.

mod follow;
mod members;
#[cfg(test)]
mod tests;
mod vault;
mod write;

pub use members::Remote;
pub use vault::Vault;

/// What `proto/etcd.proto` describes.
mod api {
    #![allow(
        clippy::all,
        missing_docs,
        unreachable_pub,
        dead_code,
        clippy::allow_attributes_without_reason,
        reason = "generated from proto/"
    )]
    tonic::include_proto!("etcdserverpb");
}

use crate::record::{Map, State, Template};
use crate::{Beside, Config, Error, Indexer, Observer, ReadError, Record, Shared, Snapshot};
use api::{KeyValue, PutRequest, RangeRequest, RequestOp, TxnRequest, request_op::Request};
use base::{Phase, Restart, Shutdown, Supervisor, clock};
use members::Members;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::{Mutex, Notify, mpsc, oneshot};
use tonic::Status;

/// How many records a page of a list has.
const PAGE: i64 = 500;
/// How many may ask for the newest revision at the same time.
const QUESTIONS: usize = 1024;
/// How long a revision that etcd has may take to come here.
const ARRIVAL_LIMIT: Duration = Duration::from_secs(5);
/// After how long etcd is asked to say how far its watch is: mostly what is waited for comes by itself.
const PATIENCE: Duration = Duration::from_millis(20);
/// Written so that an etcd whose word on its watch's progress cannot be trusted sends something.
const TICK: &str = ".tick";
/// What servers seal by, in the vault: when it changes, a [`crate::Sealer`] is renewed.
pub const SEALING: &str = ".sealing";
/// Up to which revision etcd has forgotten what was superseded.
const COMPACTION: &str = ".compaction";
/// How many revisions there were before etcd's first.
const BEFORE: &str = ".revisions-before";

/// Asks etcd, and tells what came of it.
pub(crate) struct Handle<I> {
    shared: Arc<Shared<I>>,
    members: Arc<Members>,
    link: Arc<Link>,
    questions: mpsc::Sender<Question>,
}

/// Answered with etcd's newest revision.
type Question = oneshot::Sender<Result<u64, String>>;

/// What the follower and those who wait for it tell one another.
#[derive(Default)]
struct Link {
    /// Whether the watch stands.
    connected: AtomicBool,
    /// Somebody waits for a revision that does not come.
    nudge: Notify,
}

impl<I> Clone for Handle<I> {
    fn clone(&self) -> Self {
        Self {
            shared: self.shared.clone(),
            members: self.members.clone(),
            link: self.link.clone(),
            questions: self.questions.clone(),
        }
    }
}

/// Reads the current state and follows it from then on.
pub(crate) async fn open<I: Beside>(
    remote: &Remote,
    config: &Config,
    (indexer, observer): (Indexer<I>, Observer<I>),
    supervisor: &Supervisor,
) -> Result<(Arc<Shared<I>>, Handle<I>), Error> {
    let members = Members::new(remote, config.sealer.clone())?;
    let unusable =
        |status: Status| Error::Remote(format!("{}: {}", remote.endpoints.join(", "), said(&status)));
    let version = members.version().await.map_err(unusable)?;
    if !follow::is_spoken(&version) {
        return Err(Error::Remote(format!("etcd {version} is too old: 3.4 and later are spoken")));
    }
    let before = Vault::of(members.clone()).read(BEFORE).await.map_err(unusable)?;
    let before = before.map(|kept| String::from_utf8_lossy(&kept.value).parse());
    let before = before.transpose().map_err(|_| Error::Remote(format!("{BEFORE} is no number")))?;
    members.set_scale(Scale { before: before.unwrap_or_default() });
    config.sealer.renew().await.map_err(Error::Remote)?;
    let state = load(&members, None, indexer).await.map_err(|unread| match unread {
        Unread::Etcd(status) => unusable(status),
        Unread::Sealed { key, reason } => Error::Sealed { key, reason },
    })?;
    let forgotten = Vault::of(members.clone()).read(COMPACTION).await.map_err(unusable)?;
    let compacted =
        forgotten.map_or(0, |kept| String::from_utf8_lossy(&kept.value).parse().unwrap_or_default());
    let shared = Shared::new(config.history_bytes, observer, state, compacted);
    let (questions, asked) = mpsc::channel(QUESTIONS);
    let link = Arc::new(Link::default());
    let handle = Handle { shared: shared.clone(), members: members.clone(), link: link.clone(), questions };
    let follower = follow::Follower { members: members.clone(), shared: shared.clone(), link, indexer };
    supervisor
        .run("store", Phase::Ground, Restart::OnFailure, move |shutdown| follower.clone().run(shutdown));
    let (oracle, asked) = (members.clone(), Arc::new(Mutex::new(asked)));
    supervisor.run("revisions of etcd", Phase::Ground, Restart::OnFailure, move |shutdown| {
        answer(oracle.clone(), asked.clone(), shutdown)
    });
    let (keeping, interval) = (handle.clone(), config.upkeep_interval);
    supervisor.run("compaction of etcd", Phase::Work, Restart::OnFailure, move |shutdown| {
        compact(keeping.clone(), interval, shutdown)
    });
    Ok((shared, handle))
}

/// What a refusal says, without the library's wrapping.
fn said(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut cause = std::error::Error::source(status);
    while let Some(inner) = cause {
        // The outer ones say "transport error" alone.
        text = inner.to_string();
        cause = inner.source();
    }
    text
}

/// How the revisions of the state and etcd's own belong together: a state that was brought from elsewhere goes on from
/// where it was there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Scale {
    /// Revisions before etcd's first.
    before: u64,
}

impl Scale {
    /// Of an etcd's revision; 0 stays 0, which is none.
    fn ours(self, revision: i64) -> u64 {
        u64::try_from(revision)
            .ok()
            .filter(|revision| *revision > 0)
            .map_or(0, |revision| self.before + revision)
    }

    fn etcds(self, revision: u64) -> i64 {
        revision.saturating_sub(self.before).try_into().unwrap_or(i64::MAX)
    }

    fn of(self, header: Option<api::ResponseHeader>) -> u64 {
        header.map_or(0, |header| self.ours(header.revision))
    }
}

/// The end of the keys that start with `prefix`, which does not end with the greatest byte.
fn end_of(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}

/// A value as etcd keeps it.
fn packed(members: &Members, key: &str, template: &Template) -> Vec<u8> {
    let open = [&template.bytes[..], format!("\n{}", template.at).as_bytes()].concat();
    members.sealer.seal(key, &open).unwrap_or(open)
}

fn unpacked(value: &[u8]) -> Option<Template> {
    let end = value.iter().rposition(|byte| *byte == b'\n')?;
    let at = std::str::from_utf8(&value[end + 1..]).ok()?.parse().ok()?;
    (at <= end).then(|| Template { bytes: value[..end].to_vec(), at })
}

/// The key without the prefix; none for what is not of the state.
fn own_key<'a>(prefix: &str, key: &'a [u8]) -> Option<&'a str> {
    let key = std::str::from_utf8(key).ok()?.strip_prefix(prefix)?;
    (!key.starts_with('.')).then_some(key)
}

/// Why what etcd has cannot be read.
enum Unread {
    /// It was sealed in a way that is not known here.
    Sealed {
        key: String,
        reason: String,
    },
    Etcd(Status),
}

impl From<Status> for Unread {
    fn from(status: Status) -> Self {
        Self::Etcd(status)
    }
}

/// What etcd has at a key, if it is of the state. What is no value is logged and passed over.
fn record<I>(members: &Members, found: &KeyValue, indexer: Indexer<I>) -> Result<Option<Record<I>>, Unread> {
    let Some(key) = own_key(&members.prefix, &found.key) else { return Ok(None) };
    let open = members.sealer.open(key, &found.value);
    let open = open.map_err(|reason| Unread::Sealed { key: key.to_owned(), reason })?;
    let Some(template) = unpacked(&open) else {
        tracing::error!(key, "what etcd has here was written by another program; it is passed over");
        return Ok(None);
    };
    let at = u32::try_from(template.at).unwrap_or_default();
    let revision = members.scale().ours(found.mod_revision);
    let value = template.fill(revision);
    let index = indexer(key, &value);
    let create_revision = members.scale().ours(found.create_revision);
    Ok(Some(Record { key: key.into(), value, revision, create_revision, at, index }))
}

/// The state at a revision, or the newest.
async fn load<I>(members: &Members, at: Option<u64>, indexer: Indexer<I>) -> Result<State<I>, Unread> {
    let mut map = Map::new();
    let scale = members.scale();
    let mut revision = at.unwrap_or_default();
    let mut range = RangeRequest {
        key: members.prefix.clone().into_bytes(),
        range_end: end_of(&members.prefix),
        limit: PAGE,
        revision: if at.is_some() { scale.etcds(revision) } else { 0 },
        ..RangeRequest::default()
    };
    loop {
        let page = members.range(range.clone()).await?;
        if revision == 0 {
            revision = scale.of(page.header);
            range.revision = scale.etcds(revision);
        }
        for found in &page.kvs {
            if let Some(record) = record(members, found, indexer)? {
                map.insert(record.key.clone(), Arc::new(record));
            }
        }
        let last = page.kvs.last().filter(|_| page.more);
        let Some(last) = last else { return Ok(State { revision, map }) };
        range.key = [&last.key[..], &[0]].concat();
    }
}

/// Asks for etcd's newest revision, once for all who want to know it at the same time.
async fn answer(
    members: Arc<Members>,
    asked: Arc<Mutex<mpsc::Receiver<Question>>>,
    shutdown: Shutdown,
) -> Result<(), Status> {
    let mut asked = asked.lock().await;
    let mut waiting = Vec::new();
    loop {
        let received = tokio::select! {
            received = asked.recv_many(&mut waiting, QUESTIONS) => received,
            () = shutdown.requested() => return Ok(()),
        };
        if received == 0 {
            return Ok(());
        }
        let key = format!("{}{TICK}", members.prefix).into_bytes();
        let newest = members.range(RangeRequest { key, keys_only: true, ..RangeRequest::default() }).await;
        let newest = newest.map(|page| members.scale().of(page.header)).map_err(|status| said(&status));
        for reply in waiting.drain(..) {
            // Who asked may have gone.
            drop(reply.send(newest.clone()));
        }
    }
}

/// Forgets what was superseded before the last interval. Servers take turns by etcd's own rules: who finds that
/// another one did it lets it be.
async fn compact<I: Beside>(handle: Handle<I>, interval: Duration, shutdown: Shutdown) -> Result<(), Status> {
    let vault = Vault::of(handle.members.clone());
    let mut before = handle.shared.state.load().revision;
    loop {
        tokio::select! {
            () = clock::sleep(interval) => {}
            () = shutdown.requested() => return Ok(()),
        }
        let (target, now) = (before, handle.shared.state.load().revision);
        before = now;
        handle.shared.compacted.store(target, Ordering::Release);
        let Some(last) = vault.read(COMPACTION).await? else {
            vault.write(COMPACTION, target.to_string().into_bytes(), 0).await?;
            continue;
        };
        let done: u64 = String::from_utf8_lossy(&last.value).parse().unwrap_or_default();
        if done < target && vault.write(COMPACTION, target.to_string().into_bytes(), last.revision).await? {
            handle.members.compact(handle.members.scale().etcds(target)).await?;
        }
    }
}

impl<I: Beside> Handle<I> {
    pub(crate) fn is_connected(&self) -> bool {
        self.link.connected.load(Ordering::Acquire)
    }

    /// Waits until the state here has all that etcd had when this was called.
    pub(crate) async fn catch_up(&self) -> Result<(), ReadError> {
        let away = |why: &str| ReadError::Io(why.to_owned());
        let (reply, newest) = oneshot::channel();
        self.questions.send(reply).await.map_err(|_| away("the store is closed"))?;
        let newest = newest.await.map_err(|_| away("the store is closed"))?.map_err(ReadError::Io)?;
        if self.arrival(newest).await { Ok(()) } else { Err(away("etcdserver: request timed out")) }
    }

    /// Waits for a revision that etcd has; says whether it came in time.
    async fn arrival(&self, revision: u64) -> bool {
        if self.shared.state.load().revision >= revision
            || tokio::time::timeout(PATIENCE, self.shared.reach(revision)).await.is_ok()
        {
            return true;
        }
        self.link.nudge.notify_one();
        tokio::time::timeout(ARRIVAL_LIMIT, self.shared.reach(revision)).await.is_ok()
    }

    pub(crate) async fn read_at(&self, revision: u64, indexer: Indexer<I>) -> Result<Snapshot<I>, ReadError> {
        match load(&self.members, Some(revision), indexer).await {
            Ok(state) => Ok(Snapshot(Arc::new(state))),
            Err(Unread::Etcd(status)) if status.message().contains("compacted") => {
                Err(ReadError::Compacted { oldest: self.shared.compacted.load(Ordering::Acquire) })
            }
            Err(Unread::Etcd(status)) => Err(ReadError::Io(said(&status))),
            Err(Unread::Sealed { key, reason }) => Err(ReadError::Io(format!("{key}: {reason}"))),
        }
    }
}

/// One operation: stores a value.
fn put(key: Vec<u8>, value: Vec<u8>) -> RequestOp {
    RequestOp { request: Some(Request::RequestPut(PutRequest { key, value })) }
}

/// Has etcd send something on every watch of the state.
async fn tick(members: &Members) -> Result<(), Status> {
    let key = format!("{}{TICK}", members.prefix).into_bytes();
    let transaction = TxnRequest { success: vec![put(key, Vec::new())], ..TxnRequest::default() };
    members.transact(transaction).await.map(drop)
}
