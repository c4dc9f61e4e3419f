//! The servers of a cluster as somebody outside of them knows them: whoever answers is spoken to, and another when it
//! does so no longer.

use base::clock::{self, Instant};
use base::https::{Connector, Dial, Stream};
use base::lines::Lines;
use base::{BodyError, hex, random};
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use rustls::ClientConfig;
use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, watch};

/// The name that every server's certificate has, and no node's.
const NAME: &str = "kubernetes";
/// How long one server may take before the next is tried beside it.
const STAGGER: Duration = Duration::from_millis(500);
/// How long a connection is tried to be made while no server answers, and how often at first and at last.
const PATIENCE: Duration = Duration::from_secs(10);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// More servers than that are not tried.
pub const SERVERS: usize = 32;

/// Where a server is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// A name or an address.
    pub host: String,
    /// The API's port.
    pub port: u16,
    /// The name its certificate must have, if not the host.
    pub server_name: Option<String>,
}

impl Place {
    /// A server that the cluster itself tells of.
    pub fn of(address: SocketAddr) -> Self {
        let (host, port) = (address.ip().to_string(), address.port());
        Self { host, port, server_name: Some(NAME.to_owned()) }
    }

    fn address(&self) -> Option<SocketAddr> {
        Some(SocketAddr::new(self.host.parse::<IpAddr>().ok()?, self.port))
    }
}

#[derive(Default)]
struct State {
    /// As the cluster told.
    told: Vec<Place>,
    /// Which one was reached the last time.
    last: Option<Place>,
    /// It was heard that servers can be tried without waiting longer.
    is_patient: bool,
}

struct Inner {
    /// Where the first server was found, which may be a name of all of them.
    first: Place,
    /// Whose choice it is among them: others choose others.
    chooser: String,
    tls: Arc<ClientConfig>,
    /// What requests go by, and tunnels.
    lines: Lines,
    tunnels: Lines,
    state: Mutex<State>,
    changed: watch::Sender<Vec<Place>>,
    /// There is reason to try again.
    hope: Notify,
}

/// The servers of a cluster. Cheap to clone; every clone is the same.
#[derive(Clone)]
pub struct Servers(Arc<Inner>);

impl Servers {
    /// Knows the first one, until the others are learned.
    pub fn new(first: Place, chooser: &str, tls: Arc<ClientConfig>) -> Self {
        Self(Arc::new(Inner {
            changed: watch::Sender::new(vec![first.clone()]),
            first,
            chooser: chooser.to_owned(),
            tls,
            lines: Lines::default(),
            tunnels: Lines::default(),
            state: Mutex::default(),
            hope: Notify::new(),
        }))
    }

    /// Has connections wait for a server to answer, some seconds long, instead of failing at once.
    pub fn be_patient(&self) {
        self.state().is_patient = true;
    }

    /// Takes what the cluster tells of its servers; none is not believed. True if it is news.
    pub fn learn(&self, told: &[SocketAddr]) -> bool {
        let mut places: Vec<Place> = told.iter().take(SERVERS).map(|address| Place::of(*address)).collect();
        places.sort_by_cached_key(|place| self.rank(place));
        places.dedup();
        {
            let mut state = self.state();
            if places.is_empty() || state.told == places {
                return false;
            }
            state.told = places;
        }
        self.0.changed.send_replace(self.all());
        self.0.hope.notify_waiters();
        true
    }

    /// What the cluster told last.
    pub fn told(&self) -> Vec<SocketAddr> {
        self.state().told.iter().filter_map(Place::address).collect()
    }

    /// All servers, also as they change. The one that is this client's before others is the first.
    pub fn follow(&self) -> watch::Receiver<Vec<Place>> {
        self.0.changed.subscribe()
    }

    /// The machine's own addresses or its way to others changed: what begins elsewhere by now is given up, and servers
    /// are tried without waiting.
    pub fn moved(&self) -> usize {
        let cut = self.0.lines.cut_stale() + self.0.tunnels.cut_stale();
        self.0.hope.notify_waiters();
        cut
    }

    /// Whether connections go to this server now.
    pub fn is_current(&self, place: &Place) -> bool {
        self.state().last.as_ref() == Some(place)
    }

    /// Speaks to this server from now on, giving up what leads to others. For who knows that it answers.
    pub fn prefer(&self, place: &Place) {
        let left = self.state().last.replace(place.clone());
        if let Some(left) = left.as_ref().and_then(Place::address).filter(|_| left.as_ref() != Some(place)) {
            self.0.lines.cut(|ends| ends.remote == left);
        }
    }

    /// Gives up every connection: what is spoken to does not answer. The next one is tried first.
    pub fn give_up(&self) {
        let all = self.all();
        {
            let mut state = self.state();
            let at = state.last.as_ref().and_then(|last| all.iter().position(|place| place == last));
            state.last = at.map(|at| all[(at + 1) % all.len()].clone());
        }
        self.0.lines.cut(|_| true);
    }

    /// Makes connections to one of them that become tunnels.
    pub fn to_tunnel(&self, place: &Place, tls: Arc<ClientConfig>) -> Connector {
        connector(place, tls, &self.0.tunnels)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Each client has an order of its own, by which they are spread over the servers (rendezvous hashing).
    fn rank(&self, place: &Place) -> String {
        hex::sha256(format!("{} {} {}", self.0.chooser, place.host, place.port).as_bytes())
    }

    /// Those that were told, and the first where it is none of them.
    fn all(&self) -> Vec<Place> {
        let mut all = self.state().told.clone();
        let first = &self.0.first;
        if !all.iter().any(|place| (&place.host, place.port) == (&first.host, first.port)) {
            all.push(first.clone());
        }
        all
    }

    /// All, the one that was reached last before the others.
    fn in_order(&self) -> Vec<Place> {
        let (mut all, last) = (self.all(), self.state().last.clone());
        if let Some(at) = last.and_then(|last| all.iter().position(|place| *place == last)) {
            all[..=at].rotate_right(1);
        }
        all
    }

    /// The first connection that comes about: each server has a head start before the next.
    async fn race(&self) -> Result<Stream, BodyError> {
        let mut waiting = self.in_order().into_iter();
        let (mut running, mut failures) = (FuturesUnordered::new(), Vec::new());
        let begin = |place: Place| async move {
            let connector = connector(&place, self.0.tls.clone(), &self.0.lines);
            let made = connector.dial(&place.host, place.port).await;
            (place, made)
        };
        running.extend(waiting.next().map(begin));
        let mut next = clock::instant() + STAGGER;
        loop {
            let made = tokio::select! {
                made = running.next() => made,
                () = clock::until(Some(next)), if waiting.len() > 0 => {
                    running.extend(waiting.next().map(begin));
                    next = clock::instant() + STAGGER;
                    continue;
                }
            };
            match made {
                Some((place, Ok(stream))) => {
                    self.reached(&place);
                    return Ok(stream);
                }
                Some((_, Err(error))) => {
                    failures.push(error.to_string());
                    running.extend(waiting.next().map(begin));
                }
                None => return Err(several(failures).into()),
            }
        }
    }

    fn reached(&self, place: &Place) {
        if self.state().last.replace(place.clone()).as_ref() != Some(place) {
            tracing::info!(server = place.host, port = place.port, "speaks to a server");
        }
        self.0.hope.notify_waiters();
    }

    async fn connect(self) -> Result<Stream, BodyError> {
        let ends = clock::instant() + PATIENCE;
        let mut pause = FIRST_PAUSE;
        loop {
            let hope = self.0.hope.notified();
            let error = match self.race().await {
                Ok(stream) => return Ok(stream),
                Err(error) => error,
            };
            if !self.state().is_patient || clock::instant() + pause >= ends {
                return Err(error);
            }
            // All that lost a server lost it at once, and would come back to it at once.
            wait(hope, clock::instant() + pause / 2 + random::within(pause)).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

fn connector(place: &Place, tls: Arc<ClientConfig>, lines: &Lines) -> Connector {
    let (server_name, lines) = (place.server_name.clone(), Some(lines.clone()));
    Connector { tls: Some(tls), server_name, lines, ..Connector::default() }
}

async fn wait(hope: impl Future<Output = ()>, until: Instant) {
    tokio::select! {
        () = hope => {}
        () = clock::until(Some(until)) => {}
    }
}

/// What went wrong with each server, said once.
fn several(failures: Vec<String>) -> String {
    let mut said = HashSet::new();
    let mut all = failures;
    all.retain(|failure| said.insert(failure.clone()));
    all.join("; ")
}

impl Dial for Servers {
    fn dial(&self) -> BoxFuture<'static, Result<Stream, BodyError>> {
        self.clone().connect().boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn servers(chooser: &str) -> Servers {
        let first = Place { host: "server.test".to_owned(), port: 6443, server_name: None };
        Servers::new(first, chooser, base::tls::unverified())
    }

    fn addresses(count: u8) -> Vec<SocketAddr> {
        (1..=count).map(|number| SocketAddr::from(([192, 0, 2, number], 6443))).collect()
    }

    fn hosts(places: &[Place]) -> Vec<&str> {
        places.iter().map(|place| place.host.as_str()).collect()
    }

    #[test]
    fn clients_are_spread_and_stay_where_they_are() {
        let mut chosen: HashMap<String, usize> = HashMap::new();
        for node in 0..300 {
            let servers = servers(&format!("node-{node}"));
            assert!(servers.learn(&addresses(3)) && !servers.learn(&addresses(3)) && !servers.learn(&[]));
            let order = servers.in_order();
            assert_eq!((order.len(), order[3].host.as_str()), (4, "server.test"));
            // A server that comes or goes moves those alone that choose it.
            servers.learn(&addresses(2));
            let fewer: Vec<Place> = order.iter().filter(|place| place.host != "192.0.2.3").cloned().collect();
            assert_eq!(servers.in_order(), fewer);
            *chosen.entry(order[0].host.clone()).or_default() += 1;
        }
        assert!(chosen.len() == 3 && chosen.values().all(|count| *count > 60), "{chosen:?}");
    }

    #[test]
    fn the_one_that_answered_last_is_tried_first() {
        let servers = servers("node-1");
        servers.learn(&addresses(3));
        let order = servers.in_order();
        servers.reached(&order[2]);
        assert!(servers.is_current(&order[2]));
        let after = servers.in_order();
        assert_eq!(hosts(&after)[..3], [&*order[2].host, &*order[0].host, &*order[1].host]);
        servers.give_up();
        assert_eq!(servers.in_order()[0], order[3]);
        servers.prefer(&order[0]);
        assert_eq!(servers.in_order(), order);
    }
}
