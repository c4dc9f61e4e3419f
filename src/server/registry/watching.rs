//! Watches: what happens to a kind's objects from a revision on, as a stream of JSON lines.

use super::index::NODE;
use super::list::{asked_revision, initial_events, name_selected, selection, too_new};
use super::render::in_protobuf;
use super::usage::Watching;
use super::{Index, Record, Records, Registry, Rendering, Selection};
use crate::catalogue::Custom;
use crate::flow::{Lent, Permit, READING_LIMIT};
use crate::http::query::Query;
use api::kinds::Kind;
use api::schema::protobuf::encode_event;
use api::selector::Fields;
use api::status::Refusal;
use base::{Body, BodyError, Shutdown, clock, random};
use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use store::{Event, Snapshot, Watch, WatchError};
use tokio::sync::watch;
use tokio::time::Sleep;

/// How often a watch with nothing to tell says how far it is.
const BOOKMARK_INTERVAL: Duration = Duration::from_secs(60);
/// So long before its end a watch says once more how far it is.
const LAST_BOOKMARK: Duration = Duration::from_secs(2);
/// How long a watch lasts that does not say: this, up to twice as long, so that not all end together.
const SHORTEST_S: u64 = 1800;
/// How many objects that were there at the start are taken up at a time: the rest waits until the client
/// has read them.
const INITIAL: usize = 64;

/// What a watch asks for.
#[derive(Clone, Debug)]
pub(crate) struct WatchOptions {
    selection: Selection,
    start: Start,
    bookmarks: bool,
    lasts: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Start {
    /// With what is there now, as if it was added; at least as new as the revision.
    Initial(u64),
    /// With what comes after the revision.
    After(u64),
    /// With what comes next.
    Now,
}

impl WatchOptions {
    /// Reads the options of a watch of a collection or (with a name) of one object.
    pub(crate) fn parse(kind: &Kind, name: &str, query: &Query) -> Result<Self, Refusal> {
        let initial = initial_events(query)?;
        let version = query.get("resourceVersion");
        let revision = asked_revision(version)?;
        let start = match (initial, version) {
            (Some(true), _) | (None, "" | "0") => Start::Initial(revision),
            (Some(false), "" | "0") => Start::Now,
            _ => Start::After(revision),
        };
        let jitter_s = u64::from(u16::from_le_bytes(random::bytes())) % SHORTEST_S;
        let lasts_s =
            query.number("timeoutSeconds")?.filter(|seconds| *seconds > 0).unwrap_or(SHORTEST_S + jitter_s);
        Ok(Self {
            selection: name_selected(selection(kind, query)?, name)?,
            start,
            bookmarks: query.flag("allowWatchBookmarks"),
            lasts: Duration::from_secs(lasts_s),
        })
    }
}

/// How a watch is answered.
pub(crate) struct Serving {
    pub(crate) rendering: Rendering,
    pub(crate) permit: Option<Permit>,
    /// When the watch has to end, if it came in from outside.
    pub(crate) stops: Option<Shutdown>,
}

/// What was there at the start and is still to be sent.
struct Initial {
    snapshot: Snapshot<Index>,
    prefix: String,
    /// The key of the last object that was taken up.
    after: Option<Arc<str>>,
}

enum State {
    Starting(Initial),
    Following,
    Ended,
}

struct Stream {
    kind: &'static Kind,
    records: Records,
    /// What its definition said last, if the kind is a custom one, and what tells that it is gone.
    custom: Option<(Custom, watch::Receiver<bool>)>,
    rendering: Rendering,
    selection: Selection,
    state: State,
    watch: Watch<Index>,
    _counted: Watching,
    bookmarks: bool,
    next_bookmark: clock::Instant,
    /// The revision of the last thing that was sent.
    told: u64,
    first: bool,
    /// What is to be sent, in pieces that are shared between watches.
    frames: VecDeque<Bytes>,
    ends: clock::Instant,
    /// The seats of a watch that is still sending what was there at its start.
    lent: Option<Lent>,
    /// Completes when the server stops.
    stops: BoxFuture<'static, ()>,
    /// Goes off when there is something to do without an event. Kept, since setting it costs as much as an
    /// event.
    alarm: Pin<Box<Sleep>>,
}

impl Registry {
    /// Opens a watch of a kind in one namespace or (with "") in all. Once the options are sound, a refusal
    /// comes as an event.
    pub(crate) async fn watch(
        &self,
        kind: &'static Kind,
        namespace: &str,
        options: WatchOptions,
        serving: Serving,
    ) -> Result<Body, Refusal> {
        self.records.watch(kind, namespace, options, serving).await
    }
}

impl Records {
    async fn watch(
        &self,
        kind: &'static Kind,
        namespace: &str,
        options: WatchOptions,
        serving: Serving,
    ) -> Result<Body, Refusal> {
        let custom = self.catalogue().custom(kind)?.map(|custom| (custom.clone(), custom.gone()));
        let base = kind.storage_prefix();
        let prefix = if namespace.is_empty() { base } else { format!("{base}{namespace}/") };
        let fields = &options.selection.fields;
        let counted = self.usages().watch(kind, namespace, fields).ok_or_else(too_many)?;
        let topic = topic(kind, &prefix, namespace, fields);
        let (snapshot, watch) = match self.start_of((&prefix, &topic), options.start).await {
            Ok(opened) => opened,
            Err(refusal) => return Ok(refused(&serving.rendering, &refusal)),
        };
        let told = snapshot.revision();
        let state = match options.start {
            Start::Initial(_) => State::Starting(Initial { snapshot, prefix, after: None }),
            Start::After(_) | Start::Now => State::Following,
        };
        let now = clock::instant();
        let stream = Stream {
            kind,
            records: self.clone(),
            custom,
            rendering: serving.rendering,
            selection: options.selection,
            state,
            watch,
            _counted: counted,
            bookmarks: options.bookmarks,
            next_bookmark: now + BOOKMARK_INTERVAL,
            told: if let Start::After(revision) = options.start { revision } else { told },
            first: true,
            frames: VecDeque::new(),
            ends: now + options.lasts,
            lent: serving.permit.map(|permit| permit.lend(READING_LIMIT)),
            stops: match serving.stops {
                Some(stops) => async move { stops.requested().await }.boxed(),
                None => futures_util::future::pending().boxed(),
            },
            alarm: Box::pin(tokio::time::sleep_until(now + options.lasts)),
        };
        Ok(stream.into_body())
    }

    /// The state at a watch's start, and its place in the history.
    async fn start_of(
        &self,
        (prefix, topic): (&str, &str),
        start: Start,
    ) -> Result<(Snapshot<Index>, Watch<Index>), Refusal> {
        let at_least = match start {
            Start::Initial(revision) | Start::After(revision) => revision,
            Start::Now => 0,
        };
        let snapshot = self.reach(at_least).await;
        if snapshot.revision() < at_least {
            return Err(too_new(at_least, snapshot.revision()));
        }
        let after = if let Start::After(revision) = start { revision } else { snapshot.revision() };
        let watch = self.store().watch_topic(prefix, topic, after).map_err(|error| ended(&error, after))?;
        Ok((snapshot, watch))
    }
}

/// What of a kind alone a watch can be about: one object, or what is on one node; "" for everything. A thousand
/// nodes are not woken for what concerns one.
fn topic(kind: &Kind, prefix: &str, namespace: &str, fields: &Fields) -> String {
    match (fields.required("metadata.name"), fields.required(NODE)) {
        (Some(name), _) if !name.is_empty() && namespace.is_empty() != kind.namespaced => {
            format!("{prefix}{name}")
        }
        (_, Some(node)) => node.to_owned(),
        _ => String::new(),
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

/// A watch that says why there is none.
fn refused(rendering: &Rendering, refusal: &Refusal) -> Body {
    let mut frames = VecDeque::new();
    push(&mut frames, rendering, "ERROR", encoded(rendering, &refusal.to_value()));
    base::full_body(frames.iter().flatten().copied().collect::<Bytes>())
}

fn encoded(rendering: &Rendering, object: &Value) -> Bytes {
    let json = Bytes::from(object.to_string());
    if rendering.is_protobuf() { in_protobuf(&json).unwrap_or_default() } else { json }
}

/// Adds an event with its object already in the form that was asked for.
fn push(frames: &mut VecDeque<Bytes>, rendering: &Rendering, what: &'static str, object: Bytes) {
    let head: &'static [u8] = match what {
        _ if rendering.is_protobuf() => {
            return frames.push_back(encode_event(what, &object).into());
        }
        "ADDED" => b"{\"type\":\"ADDED\",\"object\":",
        "MODIFIED" => b"{\"type\":\"MODIFIED\",\"object\":",
        "DELETED" => b"{\"type\":\"DELETED\",\"object\":",
        "BOOKMARK" => b"{\"type\":\"BOOKMARK\",\"object\":",
        _ => b"{\"type\":\"ERROR\",\"object\":",
    };
    frames.extend([Bytes::from_static(head), object, Bytes::from_static(b"}\n")]);
}

impl Stream {
    fn into_body(self) -> Body {
        let frames = futures_util::stream::unfold(self, |mut stream| async move {
            let piece = stream.next().await?;
            Some((Ok::<_, BodyError>(Frame::data(piece)), stream))
        });
        StreamBody::new(frames).boxed_unsync()
    }

    /// The next piece of the body.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(part) = crate::http::answer::gather(&mut self.frames) {
                return Some(part);
            }
            match std::mem::replace(&mut self.state, State::Following) {
                State::Starting(initial) => self.send_initial(initial).await,
                State::Following => self.follow().await,
                State::Ended => return None,
            }
        }
    }

    /// Some of what was there at the start, and after the last of it a mark, if bookmarks are taken.
    async fn send_initial(&mut self, mut initial: Initial) {
        let rest = initial.snapshot.range(&initial.prefix, initial.after.as_deref());
        let some: Vec<Arc<Record>> = rest.take(INITIAL).cloned().collect();
        for record in &some {
            if let Some(record) = self.selected(record).await {
                self.send_bytes("ADDED", &record.value);
            }
        }
        if let Some(last) = some.last() {
            initial.after = Some(last.key.clone());
            self.state = State::Starting(initial);
            return;
        }
        if self.bookmarks {
            self.bookmark(initial.snapshot.revision(), json!({"k8s.io/initial-events-end": "true"}));
        }
        self.lent = None;
    }

    /// Waits for events, the time of a bookmark, or the end.
    async fn follow(&mut self) {
        self.lent = None;
        let before_end = self.ends - LAST_BOOKMARK;
        let mut wait_until = self.ends;
        if self.bookmarks {
            let last = if before_end > clock::instant() { before_end } else { self.ends };
            wait_until = self.next_bookmark.min(last);
        }
        if self.alarm.deadline() != wait_until {
            self.alarm.as_mut().reset(wait_until);
        }
        let waited = tokio::select! {
            biased;
            () = &mut self.stops => {
                self.state = State::Ended;
                return;
            }
            () = &mut self.alarm => None,
            events = self.watch.next() => Some(events),
            // After the last events: the deletions of its objects came before.
            () = gone(&mut self.custom) => {
                self.state = State::Ended;
                return;
            }
        };
        match waited {
            Some(Ok(events)) => {
                for event in &events {
                    self.tell(event).await;
                }
            }
            Some(Err(error)) => self.send_error(&error),
            None if clock::instant() >= self.ends => self.state = State::Ended,
            None => {
                self.next_bookmark = clock::instant() + BOOKMARK_INTERVAL;
                match self.watch.progress() {
                    Ok(revision) if revision > self.told || clock::instant() >= before_end => {
                        self.bookmark(revision, Value::Null);
                    }
                    Ok(_) => {}
                    Err(error) => self.send_error(&error),
                }
            }
        }
    }

    /// An event as the selection sees it: what leaves it is deleted, what enters it added.
    async fn tell(&mut self, event: &Event<Index>) {
        let before = match &event.previous {
            Some(previous) => self.selects(previous).await,
            None => false,
        };
        let now = if event.deleted { None } else { self.selected(&event.record).await };
        match (before, now) {
            // What cannot be shown is not gone.
            _ if matches!(self.state, State::Ended) => return,
            (false, Some(record)) => self.send_bytes("ADDED", &record.value),
            (true, Some(record)) => self.send_bytes("MODIFIED", &record.value),
            (true, None) => {
                let last = if event.deleted { Some(&event.record) } else { event.previous.as_ref() };
                let Some(last) = last else { return };
                let Some(left) = self.shown(last).await else { return };
                match event.deleted {
                    true => self.send_bytes("DELETED", &left.value),
                    false => self.send_bytes("DELETED", &departed(&left, event.record.revision)),
                }
            }
            (false, None) => {}
        }
        self.told = event.record.revision;
    }

    /// What the definition says of a custom kind: now, or, while the last events of a kind that is gone are
    /// told, what it said last. A version that is no longer served is refused.
    fn version(&mut self) -> Result<Option<Custom>, Refusal> {
        let Some((known, gone)) = &mut self.custom else { return Ok(None) };
        match self.records.catalogue().custom(self.kind) {
            Ok(Some(now)) if !*gone.borrow() => *known = now,
            Err(unserved) if !*gone.borrow() => return Err(unserved),
            _ => {}
        }
        Ok(Some(known.clone()))
    }

    /// A record as the kind shows it. A version that is no longer served ends the watch.
    async fn shown(&mut self, record: &Arc<Record>) -> Option<Arc<Record>> {
        let shown = match self.version() {
            Ok(custom) => super::reading::shown(custom.as_ref(), record.clone()).await,
            Err(unserved) => Err(unserved),
        };
        shown.inspect_err(|_| self.state = State::Ended).ok()
    }

    /// The same of a record that is selected.
    async fn selected(&mut self, record: &Arc<Record>) -> Option<Arc<Record>> {
        let selected = match self.version() {
            Ok(custom) => super::reading::selected(custom.as_ref(), &self.selection, record).await,
            Err(unserved) => Err(unserved),
        };
        selected.inspect_err(|_| self.state = State::Ended).ok().flatten()
    }

    /// Whether a record is selected, which is shown only if that decides.
    async fn selects(&mut self, record: &Arc<Record>) -> bool {
        match self.version() {
            Ok(Some(custom)) if self.selection.needs_form(&custom) => self.selected(record).await.is_some(),
            _ => self.selection.matches(record),
        }
    }

    fn send_bytes(&mut self, what: &'static str, object: &Bytes) {
        let object = self.rendering.event(self.kind, object, std::mem::take(&mut self.first));
        push(&mut self.frames, &self.rendering, what, object);
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
            Rendering::Metadata(meta) | Rendering::MetadataProtobuf(meta) => {
                json!({"kind": "PartialObjectMetadata", "apiVersion": meta.api_version(), "metadata": metadata})
            }
            Rendering::Table(meta, _) => {
                json!({"kind": "Table", "apiVersion": meta.api_version(), "metadata": metadata, "columnDefinitions": [], "rows": []})
            }
        };
        self.told = revision;
        let object = encoded(&self.rendering, &object);
        push(&mut self.frames, &self.rendering, "BOOKMARK", object);
    }

    fn send_error(&mut self, error: &WatchError) {
        if let WatchError::Compacted { .. } = error {
            let status = encoded(&self.rendering, &ended(error, self.told).to_value());
            push(&mut self.frames, &self.rendering, "ERROR", status);
        }
        self.state = State::Ended;
    }
}

/// Completes when the definition of a custom kind is gone.
async fn gone(custom: &mut Option<(Custom, watch::Receiver<bool>)>) {
    match custom {
        // Its sender is kept by what the definition said.
        Some((_, gone)) => drop(gone.wait_for(|gone| *gone).await),
        None => std::future::pending().await,
    }
}

/// The last form that was selected, at the revision at which it no longer was.
fn departed(previous: &Record, revision: u64) -> Bytes {
    let mut object: Value = serde_json::from_slice(&previous.value).unwrap_or_default();
    object["metadata"]["resourceVersion"] = Value::from(revision.to_string());
    object.to_string().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::encode;
    use api::kinds::by_kind;
    use base::Supervisor;
    use store::{Change, Durability, Expect, Write};

    /// Records with room for so many bytes of history.
    async fn records(name: &str, history_bytes: usize) -> (Records, Supervisor) {
        let folder = std::env::temp_dir().join(format!("knarr-watching-{name}-{}", std::process::id()));
        std::fs::remove_dir_all(&folder).ok();
        let supervisor = Supervisor::new();
        let config = store::Config { history_bytes, ..store::Config::new(folder.join("state.db")) };
        (Records::open(config, &supervisor).await.unwrap(), supervisor)
    }

    async fn create(records: &Records, name: &str, bytes: usize) {
        let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "a"},
            "data": {"key": "x".repeat(bytes)}});
        let index = Index::of(by_kind("v1", "ConfigMap"), &object);
        let write = Write {
            key: format!("configmaps/a/{name}"),
            expect: Expect::Absent,
            change: Change::Put(encode::template(&object), index),
            durability: Durability::Volatile,
        };
        records.write(write).await.unwrap();
    }

    async fn watch(records: &Records, query: &str) -> Body {
        let kind = by_kind("v1", "ConfigMap").unwrap();
        let options = WatchOptions::parse(kind, "", &Query::parse(query)).unwrap();
        let serving = Serving { rendering: Rendering::Object, permit: None, stops: None };
        records.watch(kind, "", options, serving).await.unwrap()
    }

    fn lines(bytes: &Bytes) -> Vec<Value> {
        bytes.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect()
    }

    #[tokio::test]
    async fn who_does_not_read_is_cut_off_and_takes_no_memory() {
        let (records, supervisor) = records("slow", 64 << 10).await;
        create(&records, "first", 1).await;
        let slow = watch(&records, "resourceVersion=1&timeoutSeconds=60").await;
        for number in 0..200 {
            create(&records, &format!("m-{number}"), 1024).await;
        }
        let said = lines(&slow.collect().await.unwrap().to_bytes());
        assert_eq!(said.len(), 1, "nothing was kept for it");
        assert_eq!((&said[0]["type"], &said[0]["object"]["code"]), (&json!("ERROR"), &json!(410)));
        supervisor.drain().await;
    }

    #[tokio::test]
    async fn what_is_there_at_the_start_is_taken_up_as_it_is_read() {
        let (records, supervisor) = records("initial", 16 << 20).await;
        for number in 0..200 {
            create(&records, &format!("m-{number:03}"), 1024).await;
        }
        let mut body = watch(&records, "resourceVersion=0&timeoutSeconds=1&allowWatchBookmarks=true").await;
        let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert!(first.len() < 128 << 10, "{}", first.len());
        // What changes meanwhile comes after the state, in which it is not.
        create(&records, "late", 1).await;
        let rest = body.collect().await.unwrap().to_bytes();
        let said = lines(&[first, rest].concat().into());
        let marked = said.iter().position(|event| event["type"] == "BOOKMARK").unwrap();
        let late = said.iter().position(|event| event["object"]["metadata"]["name"] == "late").unwrap();
        assert_eq!((marked, late), (200, 201));
        supervisor.drain().await;
    }
}
