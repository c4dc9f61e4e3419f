//! The one writer: a thread that takes the writes that have arrived, makes them durable with one
//! fsync, publishes them, and only then answers.

use crate::history::Event;
use crate::log::{self, Log, Row};
use crate::record::{Map, State};
use crate::{Beside, Change, Durability, Expect, Record, Sealer, Shared, Write, WriteError, Written};
use imbl::OrdMap;
use rusqlite::{ErrorCode, Transaction};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::{mpsc, oneshot};

/// How many writes share one transaction at most: bounds what one failure refuses.
const BATCH: usize = 512;
/// How many revisions are reserved at once for writes that leave no row.
const RESERVATION: u64 = 10_000;
/// How many rows one step of compaction looks at: bounds how long it holds up a write.
const COMPACT_ROWS: usize = 512;

/// By key: the last volatile change, and the record unless that was a deletion.
type Unflushed<I> = OrdMap<Arc<str>, (u64, Option<Arc<Record<I>>>)>;
type Outcome<I> = Result<Arc<Event<I>>, WriteError<I>>;
type Reply<I> = oneshot::Sender<Result<Written<I>, WriteError<I>>>;

pub(crate) struct Request<I> {
    pub(crate) write: Write<I>,
    pub(crate) reply: Reply<I>,
}

pub(crate) enum Message<I> {
    Write(Request<I>),
    Upkeep,
    Close,
}

/// The state a batch works on. Cheap to clone, so that a failed batch is dropped whole.
struct Working<I> {
    revision: u64,
    map: Map<I>,
    /// Volatile changes that the log does not have yet; `None` is a deletion.
    unflushed: Unflushed<I>,
}

impl<I> Clone for Working<I> {
    fn clone(&self) -> Self {
        Self { revision: self.revision, map: self.map.clone(), unflushed: self.unflushed.clone() }
    }
}

struct Writer<I> {
    log: Log,
    shared: Arc<Shared<I>>,
    working: Working<I>,
    /// Where the last upkeep was, and what it left to compact: history is kept for one to two intervals.
    upkeep_revision: u64,
    compact_target: u64,
    /// Whether the file may have free pages to give back.
    slack: bool,
    /// Whether the last transaction found the disk full; logged once, not per write.
    full: bool,
}

/// Starts the thread; the receiver resolves once it has flushed and closed the database.
pub(crate) fn start<I: Beside>(
    log: Log,
    shared: Arc<Shared<I>>,
    queue: mpsc::Receiver<Message<I>>,
) -> oneshot::Receiver<()> {
    let (closed, stopped) = oneshot::channel();
    let working = {
        let state = shared.state.load();
        Working { revision: state.revision, map: state.map.clone(), unflushed: OrdMap::new() }
    };
    let compact_target = log.compacted;
    let upkeep_revision = working.revision;
    let writer = Writer { log, shared, working, upkeep_revision, compact_target, slack: false, full: false };
    std::thread::spawn(move || {
        if writer.run(queue) && closed.send(()).is_err() {
            tracing::debug!("nobody waited for the database to close");
        }
    });
    stopped
}

/// Watches end with the writer, also if it panics.
impl<I> Drop for Writer<I> {
    fn drop(&mut self) {
        self.shared.history.close();
    }
}

impl<I: Beside> Writer<I> {
    /// Runs until it is told to close, and says whether that left everything on the disk.
    fn run(mut self, mut queue: mpsc::Receiver<Message<I>>) -> bool {
        loop {
            let mut batch = Vec::new();
            let mut next = self.wait(&mut queue);
            let close = loop {
                match next {
                    Some(Message::Write(request)) => batch.push(request),
                    Some(Message::Upkeep) => self.plan_upkeep(),
                    Some(Message::Close) => break true,
                    None if batch.is_empty() && queue.is_closed() => return false,
                    None => break false,
                }
                if batch.len() == BATCH {
                    break false;
                }
                next = queue.try_recv().ok();
            };
            self.commit(batch);
            if close {
                queue.close();
                return self.close();
            }
        }
    }

    /// The next message; compacts and then shrinks the file, step by step, while there is none.
    fn wait(&mut self, queue: &mut mpsc::Receiver<Message<I>>) -> Option<Message<I>> {
        loop {
            match queue.try_recv() {
                Ok(message) => return Some(message),
                Err(mpsc::error::TryRecvError::Disconnected) => return None,
                Err(mpsc::error::TryRecvError::Empty) if self.idle_step() => {}
                Err(mpsc::error::TryRecvError::Empty) => return queue.blocking_recv(),
            }
        }
    }

    /// One step of upkeep; says whether another may follow.
    fn idle_step(&mut self) -> bool {
        if self.log.compacted < self.compact_target {
            return self.compact_step();
        }
        if self.slack {
            let more = self.log.give_back();
            if let Err(error) = &more {
                tracing::warn!(%error, "cannot shrink the database; trying again later");
            }
            self.slack = more.unwrap_or(false);
        }
        self.slack
    }

    /// One step of compaction in a transaction of its own. It gives up until the next upkeep on failure.
    fn compact_step(&mut self) -> bool {
        let (from, target) = (self.log.compacted, self.compact_target);
        let step = self
            .log
            .lift_limit(true)
            .and_then(|()| self.log.transact(|work| log::compact(work, from, target, COMPACT_ROWS)));
        match &step {
            Ok(to) => self.log.compacted = *to,
            Err(error) => tracing::warn!(%error, "cannot compact the log; trying again later"),
        }
        step.is_ok()
    }

    /// Flushes what is volatile, and lets what was superseded before the last upkeep be compacted.
    fn plan_upkeep(&mut self) {
        self.compact_target = self.compact_target.max(self.upkeep_revision);
        self.shared.compacted.store(self.compact_target, Ordering::Release);
        self.upkeep_revision = self.working.revision;
        self.slack = true;
        if !self.working.unflushed.is_empty()
            && let Err(error) = self.commit_durable(Vec::new())
        {
            tracing::warn!(error = ?error, "cannot flush volatile state; trying again later");
        }
    }

    /// Everything to the disk; an orderly stop loses nothing and skips no revision.
    fn close(mut self) -> bool {
        let (unflushed, revision) = (self.working.unflushed.clone(), self.working.revision);
        if unflushed.is_empty() && self.log.reserved <= revision {
            return true;
        }
        let sealer = self.log.sealer();
        let flushed = self.log.transact(|transaction| {
            flush(transaction, &unflushed, &*sealer)?;
            log::set_meta(transaction, "reserved", revision)
        });
        if let Err(error) = &flushed {
            tracing::error!(%error, "cannot flush volatile state");
        }
        flushed.is_ok()
    }

    fn commit(&mut self, batch: Vec<Request<I>>) {
        let (durable, volatile): (Vec<_>, Vec<_>) =
            batch.into_iter().partition(|request| request.write.durability == Durability::Durable);
        if !volatile.is_empty() {
            self.commit_volatile(volatile);
        }
        if !durable.is_empty()
            && let Err(error) = self.commit_durable(durable)
        {
            tracing::debug!(error = ?error, "refused a batch of writes");
        }
    }

    fn commit_volatile(&mut self, batch: Vec<Request<I>>) {
        let last = self.working.revision + batch.len() as u64;
        if last >= self.log.reserved
            && let Err(error) = self.reserve(last)
        {
            for request in batch {
                answer(request.reply, Err(refusal(&error)));
            }
            return;
        }
        let mut done = Vec::with_capacity(batch.len());
        for request in batch {
            let result = self.working.apply(request.write);
            if let Ok(event) = &result {
                let state = (!event.deleted).then(|| event.record.clone());
                self.working.unflushed.insert(event.record.key.clone(), (event.revision(), state));
            }
            done.push((request.reply, result));
        }
        self.publish(done);
    }

    fn reserve(&mut self, revision: u64) -> rusqlite::Result<()> {
        let reserved = revision + RESERVATION;
        self.log.transact(|transaction| log::set_meta(transaction, "reserved", reserved))?;
        self.log.reserved = reserved;
        Ok(())
    }

    /// Commits a batch together with what is volatile and a step of compaction, or none of it.
    fn commit_durable(&mut self, batch: Vec<Request<I>>) -> Result<(), WriteError<I>> {
        let mut working = self.working.clone();
        let unflushed = std::mem::take(&mut working.unflushed);
        let (replies, writes): (Vec<_>, Vec<_>) = batch.into_iter().map(|r| (r.reply, r.write)).unzip();
        let results: Vec<_> = writes.into_iter().map(|write| working.apply(write)).collect();
        let reserved = self.log.reserved;
        let reserve =
            (reserved < working.revision + RESERVATION / 2).then_some(working.revision + RESERVATION);
        let makes_room = results.iter().flatten().all(|event| event.deleted);
        let (from, target) = (self.log.compacted, self.compact_target);
        let compact_rows = COMPACT_ROWS.min(16 + 2 * results.len());
        let sealer = self.log.sealer();
        let limited = self.log.lift_limit(makes_room);
        let committed = limited.and_then(|()| {
            self.log.transact(|transaction| {
                flush(transaction, &unflushed, &*sealer)?;
                for event in results.iter().flatten() {
                    append_event(transaction, event, &*sealer)?;
                }
                if let Some(reserved) = reserve {
                    log::set_meta(transaction, "reserved", reserved)?;
                }
                if from < target { log::compact(transaction, from, target, compact_rows) } else { Ok(from) }
            })
        });
        match committed {
            Ok(compacted) => {
                self.log.compacted = compacted;
                self.log.reserved = reserve.unwrap_or(reserved);
                self.full = false;
                self.working = working;
                self.publish(replies.into_iter().zip(results).collect());
                Ok(())
            }
            Err(error) => {
                // What was tried may yet be found after a crash: its revisions are not used again.
                self.working.revision = working.revision;
                // The step that the batch carried was undone with it: writers who keep trying leave
                // no idle moment for another.
                if is_full(&error) && from < target {
                    self.compact_step();
                }
                self.refuse(replies, &error);
                Err(refusal(&error))
            }
        }
    }

    fn refuse(&mut self, replies: Vec<Reply<I>>, error: &rusqlite::Error) {
        if !std::mem::replace(&mut self.full, is_full(error)) || !self.full {
            tracing::error!(%error, writes = replies.len(), "the database refuses writes");
        }
        for reply in replies {
            answer(reply, Err(refusal(error)));
        }
    }

    /// Makes results visible, then answers.
    fn publish(&mut self, done: Vec<(Reply<I>, Outcome<I>)>) {
        let events: Vec<_> = done.iter().filter_map(|(_, result)| result.as_ref().ok().cloned()).collect();
        if let Some(last) = events.last() {
            let state = State { revision: last.revision(), map: self.working.map.clone() };
            self.shared.publish(state, events);
        }
        for (reply, result) in done {
            let written = |event: Arc<Event<I>>| Written {
                record: event.record.clone(),
                previous: event.previous.clone(),
            };
            answer(reply, result.map(written));
        }
    }
}

impl<I> Working<I> {
    /// Applies one write if the key is as it expects.
    fn apply(&mut self, write: Write<I>) -> Outcome<I> {
        let previous = self.map.get(write.key.as_str()).cloned();
        let expected = match write.expect {
            Expect::Absent => previous.is_none(),
            Expect::Revision(revision) => previous.as_ref().is_some_and(|found| found.revision == revision),
        };
        if !expected {
            return Err(WriteError::Conflict(previous));
        }
        let revision = self.revision + 1;
        let key = previous.as_ref().map_or_else(|| Arc::from(write.key), |found| found.key.clone());
        let create_revision = previous.as_ref().map_or(revision, |found| found.create_revision);
        let (template, index, deleted) = match write.change {
            Change::Put(template, index) => (template, index, false),
            Change::Delete(template, index) => (template, index, true),
        };
        if deleted && previous.is_none() {
            return Err(WriteError::Conflict(None));
        }
        let value = template.fill(revision);
        let record = Arc::new(Record { key: key.clone(), value, revision, create_revision, at: 0, index });
        self.revision = revision;
        if deleted {
            self.map.remove(&key);
        } else {
            self.map.insert(key, record.clone());
        }
        Ok(Arc::new(Event { record, previous, deleted }))
    }
}

fn append_event<I>(
    transaction: &Transaction<'_>,
    event: &Event<I>,
    sealer: &dyn Sealer,
) -> rusqlite::Result<()> {
    let record = &event.record;
    log::append(
        transaction,
        &Row {
            revision: record.revision,
            key: &record.key,
            prev_revision: event.previous.as_ref().map(|previous| previous.revision),
            create_revision: record.create_revision,
            value: (!event.deleted).then_some(&record.value),
        },
        sealer,
    )
}

/// Writes the last state of what is volatile; the revisions in between are never in the log.
fn flush<I>(
    transaction: &Transaction<'_>,
    unflushed: &Unflushed<I>,
    sealer: &dyn Sealer,
) -> rusqlite::Result<()> {
    for (key, (revision, record)) in unflushed {
        let create_revision = record.as_ref().map_or(*revision, |record| record.create_revision);
        let value = record.as_ref().map(|record| &*record.value);
        log::append(
            transaction,
            &Row { revision: *revision, key, prev_revision: None, create_revision, value },
            sealer,
        )?;
    }
    Ok(())
}

fn is_full(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::DiskFull)
}

fn refusal<I>(error: &rusqlite::Error) -> WriteError<I> {
    if is_full(error) { WriteError::Full } else { WriteError::Io(error.to_string()) }
}

/// A caller that has gone away does not need its answer; the write stands.
fn answer<I>(reply: Reply<I>, result: Result<Written<I>, WriteError<I>>) {
    if reply.send(result).is_err() {
        tracing::trace!("a caller went away before its write was answered");
    }
}
