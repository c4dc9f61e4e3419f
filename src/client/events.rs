//! The event recorder: what a person reads under "Events" of `kubectl describe`.
//!
//! Equal events are counted up instead of written anew, and one object can only cause so many.

use crate::request::{Client, Error, Patch};
use api::core::{Event, EventSource, ObjectReference, Pod};
use api::meta::{ObjectMeta, Time};
use api::{Meta as _, Object};
use base::{Phase, Restart, Shutdown, Supervisor, clock};
use serde_json::json;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// Events not yet written; more are dropped, as events are hints and must never hold up work.
const QUEUED: usize = 1_000;
/// How many different events are remembered for counting up.
const REMEMBERED: usize = 4_096;
/// How many events one object may cause at once, and how fast that refills (Kubernetes' defaults).
const BURST: f64 = 25.0;
const REFILL_PER_S: f64 = 1.0 / 300.0;
/// How fast a recorder may write at all.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// So many a second in the long run; 0 for no limit.
    pub per_s: u32,
    /// So many at once.
    pub burst: u32,
}

impl Pace {
    /// No limit but those of the server.
    pub const FREE: Self = Self { per_s: 0, burst: 0 };
}

/// The longest message an event may carry (Event v1 validation).
const MESSAGE_BYTES: usize = 1_024;

/// A hash of what equal events share. Two that have it by chance are counted as one, which a hint may be.
type Identity = u64;

struct Written {
    name: String,
    count: i32,
}

struct Inner {
    component: String,
    host: String,
    queue: Mutex<VecDeque<Event>>,
    wake: Notify,
}

/// Records events about objects. Cheap to clone; never blocks its callers.
#[derive(Clone)]
pub struct Recorder(Arc<Inner>);

impl Recorder {
    /// A recorder that signs as `component` on `host` ("" for components without a place).
    pub fn new(client: Client, supervisor: &Supervisor, component: &str, host: &str) -> Self {
        Self::paced(client, supervisor, (component, host), Pace::FREE)
    }

    /// As [`Recorder::new`], with a limit for all events together. What does not fit waits, and is lost when
    /// too much waits.
    pub fn paced(
        client: Client,
        supervisor: &Supervisor,
        (component, host): (&str, &str),
        pace: Pace,
    ) -> Self {
        let inner = Inner {
            component: component.to_owned(),
            host: host.to_owned(),
            queue: Mutex::default(),
            wake: Notify::new(),
        };
        let recorder = Self(Arc::new(inner));
        let task = recorder.clone();
        supervisor.run(&format!("events of {component}"), Phase::Work, Restart::OnFailure, move |shutdown| {
            task.clone().write_all(client.clone(), pace, shutdown)
        });
        recorder
    }

    /// Something went as it should.
    pub fn normal<T: Object>(&self, about: &T, reason: &str, message: String) {
        self.record(reference(about, None), false, reason, message);
    }

    /// Something went wrong.
    pub fn warning<T: Object>(&self, about: &T, reason: &str, message: String) {
        self.record(reference(about, None), true, reason, message);
    }

    /// Something went wrong, with more about it for programs.
    pub fn annotated_warning<T: Object>(
        &self,
        about: &T,
        annotations: BTreeMap<String, String>,
        reason: &str,
        message: String,
    ) {
        let mut event = self.event(reference(about, None), true, reason, message);
        event.metadata.annotations = Some(annotations).filter(|annotations| !annotations.is_empty());
        self.push(event);
    }

    /// Something in one container of a pod went as it should; `field_path` is such as
    /// `spec.containers{web}`.
    pub fn container_normal(&self, pod: &Pod, field_path: &str, reason: &str, message: String) {
        self.record(reference(pod, Some(field_path.to_owned())), false, reason, message);
    }

    /// Something in one container of a pod went wrong.
    pub fn container_warning(&self, pod: &Pod, field_path: &str, reason: &str, message: String) {
        self.record(reference(pod, Some(field_path.to_owned())), true, reason, message);
    }

    fn record(&self, about: ObjectReference, warning: bool, reason: &str, message: String) {
        self.push(self.event(about, warning, reason, message));
    }

    fn event(&self, about: ObjectReference, warning: bool, reason: &str, mut message: String) -> Event {
        if message.len() > MESSAGE_BYTES {
            let end = message.floor_char_boundary(MESSAGE_BYTES);
            message.truncate(end);
        }
        let now = Time(clock::now());
        let namespace = about.namespace.clone().filter(|namespace| !namespace.is_empty());
        Event {
            metadata: ObjectMeta {
                name: Some(format!(
                    "{}.{:x}",
                    about.name.as_deref().unwrap_or_default(),
                    now.0.as_nanosecond()
                )),
                namespace: Some(namespace.unwrap_or_else(|| "default".to_owned())),
                ..ObjectMeta::default()
            },
            involved_object: about,
            reason: Some(reason.to_owned()),
            message: Some(message),
            type_: Some(if warning { "Warning" } else { "Normal" }.to_owned()),
            source: Some(EventSource {
                component: Some(self.0.component.clone()),
                host: Some(self.0.host.clone()).filter(|host| !host.is_empty()),
            }),
            reporting_component: Some(self.0.component.clone()),
            reporting_instance: Some(self.0.host.clone()),
            first_timestamp: Some(now.clone()),
            last_timestamp: Some(now),
            count: Some(1),
            ..Event::default()
        }
    }

    fn push(&self, event: Event) {
        let mut queue = self.0.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if queue.len() < QUEUED {
            queue.push_back(event);
        }
        self.0.wake.notify_one();
    }

    async fn write_all(self, client: Client, pace: Pace, shutdown: Shutdown) -> Result<(), Error> {
        let mut memory = Memory::default();
        let mut steps = Steps::new(pace);
        loop {
            let next = self.0.queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            let Some(event) = next else {
                tokio::select! {
                    () = self.0.wake.notified() => continue,
                    () = shutdown.requested() => return Ok(()),
                }
            };
            tokio::select! {
                () = clock::sleep(steps.wait()) => {}
                () = shutdown.requested() => return Ok(()),
            }
            if let Err(error) = memory.write(&client, event).await {
                tracing::debug!(%error, "an event was lost");
            }
        }
    }
}

/// A bucket of tokens that says how long the next event has to wait.
struct Steps {
    pace: Pace,
    left: f64,
    since: clock::Instant,
}

impl Steps {
    fn new(pace: Pace) -> Self {
        Self { pace, left: f64::from(pace.burst.max(1)), since: clock::instant() }
    }

    /// Takes a token; it may be one that is yet to come.
    fn wait(&mut self) -> Duration {
        if self.pace.per_s == 0 {
            return Duration::ZERO;
        }
        let now = clock::instant();
        let refilled = now.duration_since(self.since).as_secs_f64() * f64::from(self.pace.per_s);
        self.left = (self.left + refilled).min(f64::from(self.pace.burst.max(1))) - 1.0;
        self.since = now;
        Duration::from_secs_f64((-self.left).max(0.0) / f64::from(self.pace.per_s))
    }
}

fn reference<T: Object>(about: &T, field_path: Option<String>) -> ObjectReference {
    ObjectReference {
        api_version: Some(T::API_VERSION.to_owned()),
        kind: Some(T::KIND.to_owned()),
        name: Some(about.name().to_owned()),
        namespace: Some(about.namespace().to_owned()).filter(|namespace| !namespace.is_empty()),
        uid: Some(about.uid().to_owned()),
        resource_version: about.meta().resource_version().map(str::to_owned),
        field_path,
    }
}

/// What was written lately, so that repetitions become counts and floods end.
#[derive(Default)]
struct Memory {
    written: HashMap<Identity, Written>,
    budgets: HashMap<String, (f64, Option<clock::Instant>)>,
}

impl Memory {
    async fn write(&mut self, client: &Client, event: Event) -> Result<(), Error> {
        if self.written.len() > REMEMBERED {
            self.written.clear();
            self.budgets.clear();
        }
        let identity = identity(&event);
        if !self.allows(event.involved_object.uid.as_deref().unwrap_or_default()) {
            return Ok(());
        }
        if let Some(known) = self.written.get_mut(&identity) {
            known.count += 1;
            let patch = json!({"count": known.count, "lastTimestamp": event.last_timestamp});
            match client.patch::<Event>(&identity_namespace(&event), &known.name, &Patch::Merge(patch)).await
            {
                // It expired meanwhile: write it anew.
                Err(error) if error.is_not_found() => {}
                other => return other.map(drop),
            }
        }
        let created = client.create(&event).await?;
        self.written.insert(identity, Written { name: created.name().to_owned(), count: 1 });
        Ok(())
    }

    fn allows(&mut self, uid: &str) -> bool {
        let now = clock::instant();
        let (left, since) = self.budgets.entry(uid.to_owned()).or_insert((BURST, None));
        let elapsed_s = since.map_or(0.0, |since| now.duration_since(since).as_secs_f64());
        *left = (*left + elapsed_s * REFILL_PER_S).min(BURST);
        *since = Some(now);
        let allowed = *left >= 1.0;
        if allowed {
            *left -= 1.0;
        }
        allowed
    }
}

fn identity_namespace(event: &Event) -> String {
    event.metadata.namespace.clone().unwrap_or_default()
}

fn identity(event: &Event) -> Identity {
    let about = &event.involved_object;
    let mut hasher = DefaultHasher::new();
    let object = (&about.kind, &about.namespace, &about.name, &about.uid, &about.field_path);
    (object, &event.metadata.namespace, &event.type_, &event.reason, &event.message).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn events_beyond_the_burst_wait_for_their_turn() {
        let mut steps = Steps::new(Pace { per_s: 10, burst: 2 });
        let waits = [steps.wait(), steps.wait(), steps.wait()].map(|wait| wait.as_millis());
        assert_eq!(waits, [0, 0, 100]);
        clock::sleep(Duration::from_millis(300)).await;
        assert_eq!([steps.wait(), steps.wait(), steps.wait()].map(|wait| wait.as_millis()), [0, 0, 100]);
        let mut free = Steps::new(Pace::FREE);
        assert!((0..1_000).all(|_| free.wait().is_zero()));
    }
}
