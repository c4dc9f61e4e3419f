//! Follows etcd's watch: what it brings becomes the state here, in the order of revisions.

use super::api::watch_client::WatchClient;
use super::api::watch_request::RequestUnion;
use super::api::{Event as Change, WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse};
use super::members::{MESSAGE_BYTES, Members, led};
use super::{Link, SEALING, Unread, end_of, load, own_key, record, said, tick};
use crate::history::Event;
use crate::record::{Map, State, Template};
use crate::{Beside, Indexer, Record, Shared};
use base::{Backoff, Shutdown, clock};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

/// The type of an event that says that a key is gone.
const DELETED: i32 = 1;
/// How long the first answer to a watch may take.
const START_LIMIT: Duration = Duration::from_secs(3);
/// The delays between attempts to watch.
const FIRST_DELAY: Duration = Duration::from_millis(50);
const MOST_DELAY: Duration = Duration::from_secs(2);

pub(super) struct Follower<I> {
    pub(super) members: Arc<Members>,
    pub(super) shared: Arc<Shared<I>>,
    pub(super) link: Arc<Link>,
    pub(super) indexer: Indexer<I>,
}

impl<I> Clone for Follower<I> {
    fn clone(&self) -> Self {
        Self {
            members: self.members.clone(),
            shared: self.shared.clone(),
            link: self.link.clone(),
            indexer: self.indexer,
        }
    }
}

/// Why a watch ended.
enum Ended {
    /// Something was sealed in a way that others know.
    Sealed(String),
    /// Its start is forgotten: the state has to be read anew.
    Compacted,
    /// Another member may have it.
    Lost(String),
}

impl From<Unread> for Ended {
    fn from(unread: Unread) -> Self {
        match unread {
            Unread::Sealed { key, reason } => Self::Sealed(format!("{key}: {reason}")),
            Unread::Etcd(status) => status.into(),
        }
    }
}

impl From<Status> for Ended {
    fn from(status: Status) -> Self {
        Self::Lost(said(&status))
    }
}

/// Numbers of a version: major, minor, patch.
fn numbers(version: &str) -> [u32; 3] {
    let mut parts = version.split(['.', '-', '+']).map(|part| part.parse().unwrap_or_default());
    [(); 3].map(|()| parts.next().unwrap_or_default())
}

/// Whether a version of etcd has what is asked of it.
pub(super) fn is_spoken(version: &str) -> bool {
    numbers(version) >= [3, 4, 0]
}

/// Whether its word on a watch's progress comes behind the events it speaks of (etcd-io/etcd#15220).
fn is_truthful(version: &str) -> bool {
    match numbers(version) {
        [3, 4, patch] => patch >= 25,
        other => other >= [3, 5, 8],
    }
}

impl<I: Beside> Follower<I> {
    /// Until shutdown; then watches end.
    pub(super) async fn run(self, shutdown: Shutdown) -> Result<(), Status> {
        let mut backoff = Backoff::new(FIRST_DELAY, MOST_DELAY);
        loop {
            let (at, _) = self.members.current();
            let ended = tokio::select! {
                ended = self.watch(&mut backoff) => ended,
                () = shutdown.requested() => break,
            };
            self.link.connected.store(false, Ordering::Release);
            match ended {
                Err(Ended::Compacted) => self.renew().await?,
                Err(Ended::Sealed(why)) => {
                    tracing::info!(why, "learning anew how others seal");
                    if let Err(error) = self.members.sealer.renew().await {
                        tracing::error!(error, why, "what another server sealed cannot be opened");
                    }
                }
                Err(Ended::Lost(why)) => {
                    tracing::debug!(member = self.members.url(at), why, "etcd's watch ended");
                    self.members.leave(at);
                }
                Ok(()) => {}
            }
            tokio::select! {
                () = clock::sleep(backoff.next_delay()) => {}
                () = shutdown.requested() => break,
            }
        }
        self.shared.history.close();
        Ok(())
    }

    /// Watches with the current member for as long as it answers.
    async fn watch(&self, backoff: &mut Backoff) -> Result<(), Ended> {
        let truthful = is_truthful(&self.members.version().await?);
        let (_, channel) = self.members.current();
        let mut client = WatchClient::new(channel).max_decoding_message_size(MESSAGE_BYTES);
        let (requests, receiver) = mpsc::channel(4);
        let create = WatchCreateRequest {
            key: self.members.prefix.clone().into_bytes(),
            range_end: end_of(&self.members.prefix),
            start_revision: self.members.scale().etcds(self.shared.state.load().revision + 1),
            progress_notify: true,
            fragment: true,
            prev_kv: false,
        };
        send(&requests, RequestUnion::CreateRequest(create)).await?;
        let started =
            tokio::time::timeout(START_LIMIT, client.watch(led(ReceiverStream::new(receiver)))).await;
        let mut responses = started.map_err(|_| Ended::Lost("no answer in time".to_owned()))??.into_inner();
        let mut pending = Vec::new();
        let sealing = format!("{}{SEALING}", self.members.prefix).into_bytes();
        loop {
            let response = tokio::select! {
                response = responses.message() => response?,
                () = self.link.nudge.notified() => {
                    if truthful {
                        send(&requests, RequestUnion::ProgressRequest(WatchProgressRequest {})).await?;
                    } else {
                        tick(&self.members).await?;
                    }
                    continue;
                }
            };
            let response = response.ok_or_else(|| Ended::Lost("the watch was ended".to_owned()))?;
            if response.created && !response.canceled {
                backoff.reset();
                self.link.connected.store(true, Ordering::Release);
                // Who waits may have asked a watch that is gone.
                self.link.nudge.notify_one();
            }
            let is_told =
                response.events.iter().any(|event| event.kv.as_ref().is_some_and(|kv| kv.key == sealing));
            self.take(response, &mut pending, truthful)?;
            if is_told && let Err(error) = self.members.sealer.renew().await {
                tracing::warn!(error, "cannot learn anew how others seal");
            }
        }
    }

    /// Takes in what etcd says. Parts of one message wait for its last.
    fn take(&self, response: WatchResponse, pending: &mut Vec<Change>, truthful: bool) -> Result<(), Ended> {
        if response.compact_revision > 0 {
            return Err(Ended::Compacted);
        }
        if response.canceled {
            return Err(Ended::Lost(response.cancel_reason));
        }
        let revision = self.members.scale().of(response.header);
        // An answer to a question for progress, as a message with no watch's number, cannot be trusted everywhere.
        let progress =
            response.events.is_empty() && !response.created && (truthful || response.watch_id >= 0);
        pending.extend(response.events);
        if response.fragment {
            return Ok(());
        }
        if !pending.is_empty() {
            self.publish(std::mem::take(pending))?;
        } else if progress && revision > self.shared.state.load().revision {
            let map = self.shared.state.load().map.clone();
            self.shared.publish(State { revision, map }, Vec::new());
        }
        Ok(())
    }

    fn publish(&self, changes: Vec<Change>) -> Result<(), Ended> {
        let state = self.shared.state.load_full();
        let (mut map, mut revision) = (state.map.clone(), state.revision);
        let mut events = Vec::with_capacity(changes.len());
        for change in changes {
            let Some(found) = &change.kv else { continue };
            let at = self.members.scale().ours(found.mod_revision);
            if at <= state.revision {
                continue;
            }
            revision = revision.max(at);
            if let Some(key) = own_key(&self.members.prefix, &found.key) {
                let new = if change.r#type == DELETED {
                    self.gone(&map, key, at)
                } else {
                    record(&self.members, found, self.indexer)?
                };
                events.extend(new.map(|new| applied(&mut map, new, change.r#type == DELETED)));
            }
        }
        self.shared.publish(State { revision, map }, events);
        Ok(())
    }

    /// The last state of a key that is gone, with the revision of its end.
    fn gone(&self, map: &Map<I>, key: &str, revision: u64) -> Option<Record<I>> {
        let last = map.get(key)?;
        let place = usize::try_from(last.at).unwrap_or_default();
        let value = Template::of_filled(&last.value, place, last.revision).fill(revision);
        let (key, create_revision) = (last.key.clone(), last.create_revision);
        let index = (self.indexer)(&key, &value);
        Some(Record { key, value, revision, create_revision, at: last.at, index })
    }

    /// Reads the state anew where the way to it is forgotten.
    async fn renew(&self) -> Result<(), Status> {
        let new = load(&self.members, None, self.indexer).await.map_err(|unread| match unread {
            Unread::Etcd(status) => status,
            Unread::Sealed { key, reason } => Status::internal(format!("{key}: {reason}")),
        })?;
        tracing::warn!(
            revision = new.revision,
            "etcd has forgotten what happened meanwhile; reading all of it"
        );
        let old = self.shared.state.load_full();
        let mut changes = Vec::new();
        for record in new.map.values() {
            let previous = old.map.get(&record.key);
            if previous.is_none_or(|previous| previous.revision != record.revision) {
                changes.push(Event { record: record.clone(), previous: previous.cloned(), deleted: false });
            }
        }
        let gone = old.map.values().filter(|record| !new.map.contains_key(&record.key));
        changes.extend(gone.map(|record| Event {
            record: record.clone(),
            previous: Some(record.clone()),
            deleted: true,
        }));
        let revision = new.revision;
        self.shared.compacted.fetch_max(revision, Ordering::AcqRel);
        self.shared.history.renew(&self.shared.state, new, &changes);
        self.shared.reached.send_replace(revision);
        Ok(())
    }
}

async fn send(requests: &mpsc::Sender<WatchRequest>, request: RequestUnion) -> Result<(), Ended> {
    let request = WatchRequest { request_union: Some(request) };
    requests.send(request).await.map_err(|_| Ended::Lost("the watch was ended".to_owned()))
}

fn applied<I>(map: &mut Map<I>, mut record: Record<I>, deleted: bool) -> Arc<Event<I>> {
    let previous = map.get(&record.key).cloned();
    if let Some(previous) = &previous {
        record.key = previous.key.clone();
    }
    let record = Arc::new(record);
    if deleted {
        map.remove(&record.key);
    } else {
        map.insert(record.key.clone(), record.clone());
    }
    Arc::new(Event { record, previous, deleted })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_told_apart() {
        assert!(is_spoken("3.4.0") && is_spoken("3.6.1") && is_spoken("4.0.0") && !is_spoken("3.3.27"));
        for (version, truthful) in
            [("3.4.23", false), ("3.4.25", true), ("3.5.7", false), ("3.5.8", true), ("3.6.0-rc.1", true)]
        {
            assert_eq!(is_truthful(version), truthful, "{version}");
        }
    }
}
