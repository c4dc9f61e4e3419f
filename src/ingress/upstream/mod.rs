//! Backends and their endpoints, with the connections that are kept to them.
//!
//! The routes of a table hold backends, backends their endpoints, and requests under way the endpoint they were
//! sent to: an endpoint that goes away is in no list from then on, ends what it was asked, and is closed with the
//! last of that.

mod body;
mod conn;
mod stream;
mod wire;

#[cfg(test)]
mod tests;

pub(crate) use body::{Answer, Patience, Progress, Refused, Sent};
pub(crate) use conn::{Failed, Terms, ask, dial, exchange, upgrade};
pub(crate) use stream::{Begun, Stream};
pub(crate) use wire::{Unanswered, head_of};

use crate::rules::{BackendKey, Balance, Protocol};
use arc_swap::ArcSwap;
use base::clock;
use conn::Conn;
use hyper::client::conn::http2;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;
use wire::Wire;

/// How many connections to one endpoint are kept that nobody uses.
const IDLE_CONNECTIONS: usize = 128;
/// How long they are kept; less than what servers usually wait (Node.js 5 s aside, whose end is noticed).
const IDLE_LIMIT: Duration = Duration::from_secs(55);
/// How long an endpoint that could not be connected to is asked last.
const SHUNNED: Duration = Duration::from_secs(2);

/// A port of a Service.
pub(crate) struct Backend {
    pub(crate) key: BackendKey,
    endpoints: ArcSwap<Vec<Arc<Endpoint>>>,
    turn: AtomicUsize,
}

impl Backend {
    fn new(key: BackendKey) -> Self {
        Self { key, endpoints: ArcSwap::default(), turn: AtomicUsize::new(0) }
    }

    /// Whom to ask; the n-th try asks another one than those before, as far as there are so many.
    pub(crate) fn pick(&self, tries: usize) -> Option<Arc<Endpoint>> {
        let all = self.endpoints.load();
        let turn = if tries == 0 {
            self.turn.fetch_add(1, Ordering::Relaxed)
        } else {
            self.turn.load(Ordering::Relaxed)
        };
        let count = all.len();
        let at = |offset: usize| &all[(turn.wrapping_add(tries).wrapping_add(offset)) % count];
        match (count, self.key.balance) {
            (0, _) => None,
            (1, _) => Some(all[0].clone()),
            (_, Balance::RoundRobin) => {
                let well = (0..count).map(at).find(|endpoint| !endpoint.is_shunned());
                Some(well.unwrap_or_else(|| at(0)).clone())
            }
            (_, Balance::LeastRequests) => {
                let (one, other) = (at(0), at(1));
                let load =
                    |endpoint: &Endpoint| (endpoint.is_shunned(), endpoint.active.load(Ordering::Relaxed));
                Some(if load(other) < load(one) { other } else { one }.clone())
            }
        }
    }
}

/// Where a backend is answered.
pub(crate) struct Endpoint {
    pub(crate) address: SocketAddr,
    pub(crate) protocol: Protocol,
    /// Connections that nobody uses: of hyper's, and for requests that are a head alone.
    conns: Idle<Conn>,
    wires: Idle<Wire>,
    /// The connection that all requests share in HTTP/2.
    shared: tokio::sync::Mutex<Option<http2::SendRequest<Sent>>>,
    /// Requests under way.
    active: AtomicUsize,
    /// Until when it is asked last, in milliseconds of [`up_ms`].
    shunned_until_ms: AtomicU64,
}

/// Milliseconds since the first call.
fn up_ms() -> u64 {
    static START: std::sync::OnceLock<clock::Instant> = std::sync::OnceLock::new();
    let start = START.get_or_init(clock::instant);
    u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX)
}

impl Endpoint {
    fn new(address: SocketAddr, protocol: Protocol) -> Self {
        Self {
            address,
            protocol,
            conns: Idle::default(),
            wires: Idle::default(),
            shared: tokio::sync::Mutex::default(),
            active: AtomicUsize::new(0),
            shunned_until_ms: AtomicU64::new(0),
        }
    }

    fn is_shunned(&self) -> bool {
        let until = self.shunned_until_ms.load(Ordering::Relaxed);
        until != 0 && up_ms() < until
    }

    pub(crate) fn shun(&self) {
        let ms = u64::try_from(SHUNNED.as_millis()).unwrap_or_default();
        self.shunned_until_ms.store(up_ms() + ms, Ordering::Relaxed);
    }

    fn close_idle(&self) {
        self.conns.close_old();
        self.wires.close_old();
    }
}

/// Connections that nobody uses, each since when; locked for as long as one is put there or taken.
struct Idle<C>(Mutex<Vec<(clock::Instant, Box<C>)>>);

impl<C> Default for Idle<C> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<C> Idle<C> {
    fn all(&self) -> std::sync::MutexGuard<'_, Vec<(clock::Instant, Box<C>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the connection that was used last.
    fn take(&self) -> Option<Box<C>> {
        self.all().pop().map(|(_, conn)| conn)
    }

    fn put(&self, conn: Box<C>) {
        let mut all = self.all();
        if all.len() < IDLE_CONNECTIONS {
            all.push((clock::instant(), conn));
        }
    }

    fn close_old(&self) {
        let old = {
            let mut all = self.all();
            let kept = all.iter().position(|(used, _)| used.elapsed() < IDLE_LIMIT).unwrap_or(all.len());
            all.drain(..kept).collect::<Vec<_>>()
        };
        drop(old);
    }
}

/// Counts a request as under way for as long as it lives, and keeps its endpoint.
pub(crate) struct Lease(pub(crate) Arc<Endpoint>);

impl Lease {
    pub(crate) fn new(endpoint: Arc<Endpoint>) -> Self {
        endpoint.active.fetch_add(1, Ordering::Relaxed);
        Self(endpoint)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::Relaxed);
    }
}

/// All backends that a table may lead to. They stay the same from table to table, with their connections.
#[derive(Default)]
pub(crate) struct Upstreams {
    backends: HashMap<BackendKey, Arc<Backend>>,
    endpoints: HashMap<(SocketAddr, Protocol), Weak<Endpoint>>,
}

impl Upstreams {
    /// The backend of a key, and whether it is new and has to be told its endpoints.
    pub(crate) fn backend(&mut self, key: &BackendKey) -> (Arc<Backend>, bool) {
        if let Some(backend) = self.backends.get(key) {
            return (backend.clone(), false);
        }
        let backend = Arc::new(Backend::new(key.clone()));
        self.backends.insert(key.clone(), backend.clone());
        (backend, true)
    }

    /// Forgets what no table holds any longer.
    pub(crate) fn retain_used(&mut self) {
        self.backends.retain(|_, backend| Arc::strong_count(backend) > 1);
        self.endpoints.retain(|_, endpoint| endpoint.strong_count() > 0);
    }

    /// The backends of a Service, or all.
    pub(crate) fn of_service(&self, service: Option<(&str, &str)>) -> Vec<Arc<Backend>> {
        let own = |key: &BackendKey| {
            service.is_none_or(|(namespace, name)| key.namespace == namespace && key.service == name)
        };
        self.backends.values().filter(|backend| own(&backend.key)).cloned().collect()
    }

    /// Tells a backend where it is answered.
    pub(crate) fn set_endpoints(&mut self, backend: &Backend, addresses: &[SocketAddr]) {
        let old = backend.endpoints.load();
        if old.iter().map(|endpoint| endpoint.address).eq(addresses.iter().copied()) {
            return;
        }
        let protocol = backend.key.protocol;
        let all = addresses.iter().map(|address| self.endpoint(*address, protocol)).collect();
        backend.endpoints.store(Arc::new(all));
    }

    fn endpoint(&mut self, address: SocketAddr, protocol: Protocol) -> Arc<Endpoint> {
        let known = self.endpoints.entry((address, protocol)).or_default();
        known.upgrade().unwrap_or_else(|| {
            let endpoint = Arc::new(Endpoint::new(address, protocol));
            *known = Arc::downgrade(&endpoint);
            endpoint
        })
    }

    /// Closes connections that nobody used for a while.
    pub(crate) fn close_idle(&self) {
        self.endpoints.values().filter_map(Weak::upgrade).for_each(|endpoint| endpoint.close_idle());
    }
}
