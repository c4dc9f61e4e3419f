//! The tunnels of a node to its servers: the node is reached through them, so that nothing has to reach it otherwise. Each
//! server has its own.

use super::machine::Joined;
use base::clock;
use base::tunnel::{self, Allowed};
use base::{Backoff, Phase, Restart, Shutdown, Supervisor, random};
use client::servers::{Place, Servers};
use futures_util::StreamExt;
use futures_util::future::{AbortHandle, Abortable, BoxFuture};
use futures_util::stream::FuturesUnordered;
use rustls::ClientConfig;
use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// Between attempts at a server.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// A tunnel that lasted so long was a good one.
const GOOD: Duration = Duration::from_secs(30);
/// How long the server that this node goes to before others has to be there until it goes back to it, and by how much
/// that differs among nodes.
const HOMESICK: Duration = Duration::from_secs(60);

/// Keeps a tunnel to every server, through which what is allowed on this machine is reached.
pub fn keep_tunnels(joined: &Arc<Joined>, allowed: Allowed, supervisor: &Supervisor) {
    // Upgrades are of HTTP/1.1.
    let mut tls = ClientConfig::clone(&joined.tls);
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    let tunnels = Tunnels {
        servers: joined.servers.clone(),
        tls: Arc::new(tls),
        allowed,
        supervisor: supervisor.clone(),
        by_server: Arc::default(),
        ended: Arc::default(),
    };
    supervisor.run("tunnels to the servers", Phase::Front, Restart::OnFailure, move |shutdown| {
        tunnels.clone().run(shutdown)
    });
}

#[derive(Clone)]
struct Tunnels {
    servers: Servers,
    tls: Arc<ClientConfig>,
    allowed: Allowed,
    supervisor: Supervisor,
    /// By which address of it each server is reached, by what it calls itself.
    by_server: Arc<Mutex<HashMap<String, Place>>>,
    /// A tunnel ended: another address of the same server is worth an attempt.
    ended: Arc<Notify>,
}

/// A tunnel that is there; none any more once this is dropped.
struct Known<'a> {
    tunnels: &'a Tunnels,
    server: String,
}

impl Drop for Known<'_> {
    fn drop(&mut self) {
        self.tunnels.by_server().remove(&self.server);
        self.tunnels.ended.notify_waiters();
    }
}

impl Tunnels {
    fn by_server(&self) -> MutexGuard<'_, HashMap<String, Place>> {
        self.by_server.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn run(self, shutdown: Shutdown) -> Result<(), Infallible> {
        let mut places = self.servers.follow();
        let mut kept: HashMap<Place, AbortHandle> = HashMap::new();
        let mut running: FuturesUnordered<Abortable<BoxFuture<'_, ()>>> = FuturesUnordered::new();
        loop {
            let all = places.borrow_and_update().clone();
            kept.retain(|place, handle| {
                let stays = all.contains(place);
                if !stays {
                    handle.abort();
                }
                stays
            });
            for place in all {
                if kept.contains_key(&place) {
                    continue;
                }
                let (handle, registration) = AbortHandle::new_pair();
                let keeping: BoxFuture<'_, ()> = Box::pin(self.keep(place.clone()));
                running.push(Abortable::new(keeping, registration));
                kept.insert(place, handle);
            }
            loop {
                tokio::select! {
                    _ = running.next(), if !running.is_empty() => {}
                    changed = places.changed() => match changed {
                        Ok(()) => break,
                        // The servers are kept by this very task.
                        Err(_) => return Ok(()),
                    },
                    () = shutdown.requested() => return Ok(()),
                }
            }
        }
    }

    /// Keeps a tunnel to one server, for as long as it is one.
    async fn keep(&self, place: Place) {
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        let mut is_told = false;
        loop {
            let began = clock::instant();
            match self.hold(&place).await {
                Ok(()) => tracing::debug!(server = place.host, "the server has ended the tunnel"),
                Err(error) if is_told => {
                    tracing::debug!(server = place.host, %error, "no tunnel to a server")
                }
                Err(error) => tracing::warn!(server = place.host, %error, "no tunnel to a server"),
            }
            is_told = began.elapsed() < GOOD;
            if !is_told {
                backoff.reset();
            }
            let pause = backoff.next_delay();
            clock::sleep(pause / 2 + random::within(pause)).await;
        }
    }

    /// Makes a tunnel and serves it until it ends.
    async fn hold(&self, place: &Place) -> Result<(), base::BodyError> {
        let connector = self.servers.to_tunnel(place, self.tls.clone());
        let near = tunnel::open(&connector, (&place.host, place.port), &self.supervisor).await?;
        let server = near.server.clone().unwrap_or_else(|| format!("{}:{}", place.host, place.port));
        let ended = self.ended.notified();
        let Some(known) = self.know(&server, place) else {
            // It is reached by another of its addresses.
            drop(near);
            ended.await;
            return Ok(());
        };
        tracing::debug!(server = place.host, "has a tunnel to a server");
        let serving = near.serve(self.allowed.clone(), &self.supervisor);
        let served = tokio::select! {
            served = serving => served,
            never = self.go_home(place) => match never {},
        };
        drop(known);
        served
    }

    fn know(&self, server: &str, place: &Place) -> Option<Known<'_>> {
        let mut by_server = self.by_server();
        if by_server.contains_key(server) {
            return None;
        }
        by_server.insert(server.to_owned(), place.clone());
        Some(Known { tunnels: self, server: server.to_owned() })
    }

    /// Goes back to the server that this node goes to before others, so that not all stay with whichever was there
    /// while it was away.
    async fn go_home(&self, place: &Place) -> Infallible {
        loop {
            clock::sleep(HOMESICK + random::within(HOMESICK)).await;
            let reached: HashSet<Place> = self.by_server().values().cloned().collect();
            let order = self.servers.follow();
            let is_home = order.borrow().iter().find(|place| reached.contains(place)) == Some(place);
            if is_home && !self.servers.is_current(place) {
                tracing::info!(server = place.host, "goes back to a server");
                self.servers.prefer(place);
            }
        }
    }
}
