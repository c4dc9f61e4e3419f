//! What the caches tell, until the proxy takes it: which objects changed, and whose slices are whose.

use crate::plan::SERVICE_NAME;
use crate::state::Owner;
use api::Object;
use api::slim::{EndpointSlice, LAST_CHANGE_TRIGGER};
use base::clock::{self, Instant};
use client::Change;
use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// So many times are kept for the metric of how long a change takes.
const TIMES: usize = 10_000;

#[derive(Default)]
struct State {
    changed: BTreeSet<Owner>,
    everything: bool,
    moved: bool,
    /// Where the node is since it moved.
    place: Option<Vec<IpAddr>>,
    /// By the service that they are of, as `NAMESPACE/NAME`.
    slices: HashMap<Box<str>, Box<[Arc<EndpointSlice>]>>,
    triggered: Vec<jiff::Timestamp>,
    pending: Pending,
    since: Option<Instant>,
}

/// How many changes of endpoints and of services wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pending {
    pub(crate) endpoints: u64,
    pub(crate) services: u64,
}

/// What there is to be done.
#[derive(Default)]
pub(crate) struct Work {
    pub(crate) changed: BTreeSet<Owner>,
    /// All are to be looked at.
    pub(crate) everything: bool,
    /// The node is somewhere else.
    pub(crate) moved: bool,
    pub(crate) triggered: Vec<jiff::Timestamp>,
    pub(crate) pending: Pending,
}

#[derive(Default)]
pub(crate) struct Inbox {
    state: Mutex<State>,
    wake: Notify,
}

impl Inbox {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, add: impl FnOnce(&mut State)) {
        let mut state = self.state();
        add(&mut state);
        state.since.get_or_insert_with(clock::instant);
        drop(state);
        self.wake.notify_one();
    }

    pub(crate) fn service(&self, owner: Owner) {
        self.note(|state| {
            state.changed.insert(owner);
            state.pending.services += 1;
        });
    }

    pub(crate) fn pod(&self, owner: Owner) {
        self.note(|state| {
            state.changed.insert(owner);
        });
    }

    pub(crate) fn everything(&self) {
        self.note(|state| state.everything = true);
    }

    pub(crate) fn moved(&self, addresses: Vec<IpAddr>) {
        self.note(|state| (state.moved, state.place) = (true, Some(addresses)));
    }

    /// Where the node is, if it moved since the start.
    pub(crate) fn place(&self) -> Option<Vec<IpAddr>> {
        self.state().place.clone()
    }

    pub(crate) fn slice(&self, change: &Change<EndpointSlice>) {
        let service = |slice: &EndpointSlice| {
            slice.labels().get(SERVICE_NAME).map(|name| (slice.namespace().to_owned(), name.to_owned()))
        };
        self.note(|state| {
            if let Some((namespace, name)) = change.old.as_deref().and_then(service) {
                state.forget(&namespace, &name, change.object().name());
            }
            if let Some((slice, (namespace, name))) =
                change.new.as_ref().and_then(|slice| Some((slice, service(slice)?)))
            {
                state.of_service(&namespace, &name, |slices| slices.push(slice.clone()));
                let time: Option<jiff::Timestamp> =
                    slice.annotations().get(LAST_CHANGE_TRIGGER).and_then(|time| time.parse().ok());
                if state.triggered.len() < TIMES {
                    state.triggered.extend(time);
                }
            }
            state.pending.endpoints += 1;
        });
    }

    pub(crate) fn slices(&self, service: &str) -> Vec<Arc<EndpointSlice>> {
        self.state().slices.get(service).into_iter().flatten().cloned().collect()
    }

    pub(crate) fn take(&self) -> Work {
        let mut state = self.state();
        Work {
            changed: std::mem::take(&mut state.changed),
            everything: std::mem::take(&mut state.everything),
            moved: std::mem::take(&mut state.moved),
            triggered: std::mem::take(&mut state.triggered),
            pending: std::mem::take(&mut state.pending),
        }
    }

    /// What was taken is in the kernel; what has come meanwhile waits from now on.
    pub(crate) fn done(&self) {
        let mut state = self.state();
        let waits = !state.changed.is_empty() || state.everything || state.moved;
        state.since = waits.then(clock::instant);
    }

    pub(crate) fn pending(&self) -> Pending {
        self.state().pending
    }

    /// Since when something waits.
    pub(crate) fn since(&self) -> Option<Instant> {
        self.state().since
    }

    pub(crate) async fn woken(&self) {
        self.wake.notified().await;
    }
}

impl State {
    fn forget(&mut self, namespace: &str, service: &str, slice: &str) {
        self.of_service(namespace, service, |slices| slices.retain(|own| own.name() != slice));
    }

    fn of_service(
        &mut self,
        namespace: &str,
        service: &str,
        change: impl FnOnce(&mut Vec<Arc<EndpointSlice>>),
    ) {
        let key = format!("{namespace}/{service}").into_boxed_str();
        let mut slices = self.slices.remove(&key).unwrap_or_default().into_vec();
        change(&mut slices);
        if !slices.is_empty() {
            self.slices.insert(key, slices.into());
        }
        self.changed.insert(Owner::service(namespace, service));
    }
}
