//! Watches: what happens to a kind's objects from a revision on, as a stream of JSON lines.

use super::list::{parse_version, selection, too_new};
use super::meta::random;
use super::render::in_protobuf;
use super::usage::Watching;
use super::{Index, Record, Registry, Rendering, Selection};
use crate::flow::Permit;
use crate::http::query::Query;
use api::kinds::Kind;
use api::schema::protobuf::encode_event;
use api::status::Refusal;
use base::{Body, BodyError, Shutdown, clock};
use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use store::{Event, Snapshot, Watch, WatchError};

/// How often a watch with nothing to tell says how far it is.
const BOOKMARK_INTERVAL: Duration = Duration::from_secs(60);
/// How long a watch lasts that does not say: this, up to twice as long, so that not all end together.
const SHORTEST_S: u64 = 1800;

/// What a watch asks for.
#[derive(Clone, Debug)]
pub(crate) struct WatchOptions {
    selection: Selection,
    start: Start,
    bookmarks: bool,
    /// Marks the end of the initial objects with an annotated bookmark.
    mark_initial: bool,
    lasts: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Start {
    /// With what is there now, as if it was added; at least as new as the revision.
    Initial(u64),
    /// With what comes after the revision.
    After(u64),
}

impl WatchOptions {
    pub(crate) fn parse(kind: &Kind, query: &Query) -> Result<Self, Refusal> {
        let version = query.get("resourceVersion");
        let revision = parse_version(version)?;
        let bookmarks = query.flag("allowWatchBookmarks");
        let initial = match query.get("sendInitialEvents") {
            "" => None,
            _ => Some(query.flag("sendInitialEvents")),
        };
        if initial.is_some() && query.get("resourceVersionMatch") != "NotOlderThan" {
            let why = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
            return Err(Refusal::new(
                422,
                "Invalid",
                format!("ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Forbidden: {why}"),
            ));
        }
        let start = match (initial, version) {
            (Some(true), _) | (None, "" | "0") => Start::Initial(revision),
            (Some(false), "" | "0") => Start::After(u64::MAX),
            _ => Start::After(revision),
        };
        let jitter_s = u64::from(u16::from_le_bytes(random())) % SHORTEST_S;
        let lasts_s =
            query.number("timeoutSeconds")?.filter(|seconds| *seconds > 0).unwrap_or(SHORTEST_S + jitter_s);
        let mark_initial = initial == Some(true) && bookmarks;
        Ok(Self {
            selection: selection(kind, query)?,
            start,
            bookmarks,
            mark_initial,
            lasts: Duration::from_secs(lasts_s),
        })
    }
}

struct Stream {
    kind: &'static Kind,
    rendering: Rendering,
    selection: Selection,
    watch: Watch<Index>,
    _counted: Watching,
    bookmarks: bool,
    /// The revision of the last thing that was sent.
    told: u64,
    first: bool,
    /// What is to be sent, in pieces that are shared between watches.
    frames: VecDeque<Bytes>,
    ends: clock::Instant,
    ended: bool,
    /// The seats of a watch that is still sending what was there at its start.
    permit: Option<Permit>,
    /// Completes when the server stops.
    stops: BoxFuture<'static, ()>,
}

/// How a watch is answered.
pub(crate) struct Serving {
    pub(crate) rendering: Rendering,
    pub(crate) permit: Option<Permit>,
    /// When the watch has to end, if it came in from outside.
    pub(crate) stops: Option<Shutdown>,
}

impl Registry {
    /// Opens a watch of a kind in one namespace or (with "") in all.
    pub(crate) fn watch(
        &self,
        kind: &'static Kind,
        namespace: &str,
        options: WatchOptions,
        serving: Serving,
    ) -> Result<Body, Refusal> {
        let base = kind.storage_prefix();
        let prefix = if namespace.is_empty() { base } else { format!("{base}{namespace}/") };
        let snapshot = self.records.snapshot();
        let current = snapshot.revision();
        let after = match options.start {
            Start::After(u64::MAX) => current,
            Start::After(revision) | Start::Initial(revision) if revision > current => {
                return Err(too_new(revision, current));
            }
            Start::After(revision) => revision,
            Start::Initial(_) => current,
        };
        let watch = self.records.store().watch(&prefix, after).map_err(|error| ended(&error, after))?;
        let of_one = options.selection.fields.required("metadata.name").is_some();
        let counted = self.records.usages().watch(kind, of_one).ok_or_else(too_many)?;
        let mut stream = Stream {
            kind,
            rendering: serving.rendering,
            selection: options.selection,
            watch,
            _counted: counted,
            bookmarks: options.bookmarks,
            told: after,
            first: true,
            frames: VecDeque::new(),
            ends: clock::instant() + options.lasts,
            ended: false,
            permit: serving.permit,
            stops: match serving.stops {
                Some(stops) => async move { stops.requested().await }.boxed(),
                None => futures_util::future::pending().boxed(),
            },
        };
        if matches!(options.start, Start::Initial(_)) {
            stream.send_initial(&snapshot, &prefix, options.mark_initial);
        }
        let frames = futures_util::stream::unfold(stream, |mut stream| async move {
            let piece = stream.next().await?;
            Some((Ok::<_, BodyError>(Frame::data(piece)), stream))
        });
        Ok(StreamBody::new(frames).boxed_unsync())
    }
}

fn too_many() -> Refusal {
    Refusal::new(429, "TooManyRequests", "too many watches, please try again later")
}

fn ended(error: &WatchError, after: u64) -> Refusal {
    match error {
        WatchError::Compacted { oldest } => {
            Refusal::expired(format!("too old resource version: {after} ({oldest})"))
        }
        WatchError::Closed => Refusal::unavailable("the server is shutting down"),
    }
}

impl Stream {
    fn send_initial(&mut self, snapshot: &Snapshot<Index>, prefix: &str, mark: bool) {
        for record in snapshot.range(prefix, None) {
            if self.selection.matches(record) {
                self.send("ADDED", &record.value);
            }
        }
        if mark {
            self.bookmark(snapshot.revision(), json!({"k8s.io/initial-events-end": "true"}));
        }
    }

    /// The next piece of the body.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(part) = crate::http::answer::gather(&mut self.frames) {
                return Some(part);
            }
            self.permit = None;
            if self.ended {
                return None;
            }
            let quiet = clock::instant() + BOOKMARK_INTERVAL;
            let wait_until = if self.bookmarks { quiet.min(self.ends) } else { self.ends };
            let waited = tokio::select! {
                waited = tokio::time::timeout_at(wait_until, self.watch.next()) => waited,
                () = &mut self.stops => {
                    self.ended = true;
                    continue;
                }
            };
            match waited {
                Ok(Ok(events)) => events.iter().for_each(|event| self.tell(event)),
                Ok(Err(error)) => self.send_error(&error),
                Err(_) if clock::instant() >= self.ends => self.ended = true,
                Err(_) => match self.watch.progress() {
                    Ok(revision) if revision > self.told => self.bookmark(revision, Value::Null),
                    Ok(_) => {}
                    Err(error) => self.send_error(&error),
                },
            }
        }
    }

    /// An event as the selection sees it: what leaves it is deleted, what enters it added.
    fn tell(&mut self, event: &Event<Index>) {
        let before = event.previous.as_ref().is_some_and(|record| self.selection.matches(record));
        let now = !event.deleted && self.selection.matches(&event.record);
        match (before, now) {
            (false, true) => self.send("ADDED", &event.record.value),
            (true, true) => self.send("MODIFIED", &event.record.value),
            (true, false) if event.deleted => self.send("DELETED", &event.record.value),
            (true, false) => self.send("DELETED", &departed(event.previous.as_ref(), event.record.revision)),
            (false, false) => {}
        }
        self.told = event.record.revision;
    }

    fn send(&mut self, what: &'static str, object: &Bytes) {
        let object = self.rendering.event(self.kind, object, std::mem::take(&mut self.first));
        self.push(what, object);
    }

    /// An event with its object already in the form that was asked for.
    fn push(&mut self, what: &'static str, object: Bytes) {
        let head: &'static [u8] = match what {
            _ if self.rendering == Rendering::Protobuf => {
                return self.frames.push_back(encode_event(what, &object).into());
            }
            "ADDED" => b"{\"type\":\"ADDED\",\"object\":",
            "MODIFIED" => b"{\"type\":\"MODIFIED\",\"object\":",
            "DELETED" => b"{\"type\":\"DELETED\",\"object\":",
            "BOOKMARK" => b"{\"type\":\"BOOKMARK\",\"object\":",
            _ => b"{\"type\":\"ERROR\",\"object\":",
        };
        self.frames.extend([Bytes::from_static(head), object, Bytes::from_static(b"}\n")]);
    }

    fn bookmark(&mut self, revision: u64, annotations: Value) {
        let mut metadata = json!({"resourceVersion": revision.to_string()});
        if !annotations.is_null() {
            metadata["annotations"] = annotations;
        }
        let object = match self.rendering {
            Rendering::Object | Rendering::Protobuf => {
                json!({"kind": self.kind.kind, "apiVersion": self.kind.api_version(), "metadata": metadata})
            }
            Rendering::Metadata => {
                json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata})
            }
            Rendering::Table(_) => {
                json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata, "columnDefinitions": [], "rows": []})
            }
        };
        self.told = revision;
        let object = self.encoded(&object);
        self.push("BOOKMARK", object);
    }

    fn encoded(&self, object: &Value) -> Bytes {
        let json = Bytes::from(object.to_string());
        if self.rendering == Rendering::Protobuf { in_protobuf(&json).unwrap_or_default() } else { json }
    }

    fn send_error(&mut self, error: &WatchError) {
        if let WatchError::Compacted { .. } = error {
            let status = ended(error, self.told).to_value();
            let status = self.encoded(&status);
            self.push("ERROR", status);
        }
        self.ended = true;
    }
}

/// The last form that was selected, at the revision at which it no longer was.
fn departed(previous: Option<&Arc<Record>>, revision: u64) -> Bytes {
    let Some(previous) = previous else { return Bytes::new() };
    let mut object: Value = serde_json::from_slice(&previous.value).unwrap_or_default();
    object["metadata"]["resourceVersion"] = Value::from(revision.to_string());
    object.to_string().into()
}
