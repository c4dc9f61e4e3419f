//! Ports: opened when somebody wants them, tried again while others have them, drained when they go.

use crate::certificates::{Certificates, Tls};
use crate::converse::converse;
use crate::forward::{Connection, From, Proxy};
use crate::numbers::NUMBERS;
use crate::run::Changes;
use arc_swap::ArcSwap;
use base::{Phase, Restart, Shutdown, Supervisor, clock};
use http::HeaderValue;
use nix::sys::socket::{setsockopt, sockopt};
use std::collections::{BTreeSet, HashMap};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::{Semaphore, watch};

/// Connections of a port at a time; more wait to be accepted.
const CONNECTIONS: u32 = 16_384;
/// Connections that wait to be accepted.
const BACKLOG: u32 = 4_096;
/// How long running requests have to end when a port is closed; less than the drain waits.
const DRAIN_LIMIT: Duration = Duration::from_secs(8);
/// How long a client may take nothing of an answer that waits for it.
const TAKE_LIMIT_MS: u32 = 60_000;
/// How often a port is tried that another program has.
const TAKEN_PAUSE: Duration = Duration::from_secs(10);

/// What is spoken on a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Http,
    /// TLS, with HTTP within or whatever listeners of Gateways say for a name.
    Https,
}

/// The ports that are open or tried.
pub(crate) struct Listeners {
    proxy: Arc<Proxy>,
    certificates: Arc<ArcSwap<Certificates>>,
    supervisor: Supervisor,
    running: HashMap<u16, (Kind, watch::Sender<bool>)>,
    /// What is said of ports.
    told: Arc<Told>,
}

/// What is known of ports outside of their tasks.
pub(crate) struct Told {
    /// How many are listened on.
    open: watch::Sender<usize>,
    /// Those that another program has.
    taken: Mutex<BTreeSet<u16>>,
    /// To be told when that changes.
    changes: Changes,
}

impl Told {
    pub(crate) fn new(open: watch::Sender<usize>, changes: Changes) -> Arc<Self> {
        Arc::new(Self { open, taken: Mutex::default(), changes })
    }

    /// The ports that another program has.
    pub(crate) fn taken(&self) -> BTreeSet<u16> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, port: u16, is_taken: bool) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = if is_taken { taken.insert(port) } else { taken.remove(&port) };
        if changed {
            self.changes.rules();
        }
    }
}

impl Listeners {
    pub(crate) fn new(
        proxy: Arc<Proxy>,
        certificates: Arc<ArcSwap<Certificates>>,
        supervisor: Supervisor,
        told: Arc<Told>,
    ) -> Self {
        Self { proxy, certificates, supervisor, running: HashMap::new(), told }
    }

    /// Opens and closes ports until these are the ones.
    pub(crate) fn set(&mut self, wanted: &HashMap<u16, Kind>) -> Result<(), rustls::Error> {
        self.running.retain(|port, (kind, stop)| {
            let kept = wanted.get(port) == Some(kind);
            if !kept {
                stop.send_replace(true);
            }
            kept
        });
        for (port, kind) in wanted {
            if !self.running.contains_key(port) {
                let stop = self.open(*port, *kind)?;
                self.running.insert(*port, (*kind, stop));
            }
        }
        Ok(())
    }

    fn open(&self, port: u16, kind: Kind) -> Result<watch::Sender<bool>, rustls::Error> {
        let tls = match kind {
            Kind::Http => None,
            Kind::Https => Some(Arc::new(Tls::new(port, self.certificates.clone())?)),
        };
        let (stop, stopped) = watch::channel(false);
        let front = Front { port, tls, proxy: self.proxy.clone(), stopped, told: self.told.clone() };
        let name = format!("ingress port {port}");
        self.supervisor
            .run(&name, Phase::Front, Restart::OnFailure, move |shutdown| front.clone().run(shutdown));
        Ok(stop)
    }
}

/// One port.
#[derive(Clone)]
struct Front {
    port: u16,
    tls: Option<Arc<Tls>>,
    proxy: Arc<Proxy>,
    stopped: watch::Receiver<bool>,
    told: Arc<Told>,
}

impl Front {
    async fn run(self, shutdown: Shutdown) -> Result<(), io::Error> {
        let stop = self.stopped.clone();
        let ended = || async {
            let mut stop = stop.clone();
            tokio::select! {
                // A sender that is gone means the same.
                _ = stop.wait_for(|stop| *stop) => {}
                () = shutdown.requested() => {}
            }
        };
        let listener = tokio::select! {
            listener = self.listener() => Some(listener),
            () = ended() => None,
        };
        self.told.set(self.port, false);
        let Some(listener) = listener else { return Ok(()) };
        self.told.open.send_modify(|open| *open += 1);
        let connections = Arc::new(Semaphore::new(CONNECTIONS as usize));
        let (closing, closed) = watch::channel(false);
        tokio::select! {
            result = self.accept(&listener, &connections, &closed) => result?,
            () = ended() => {}
        }
        self.told.open.send_modify(|open| *open -= 1);
        drop(listener);
        closing.send_replace(true);
        if tokio::time::timeout(DRAIN_LIMIT, connections.acquire_many(CONNECTIONS)).await.is_err() {
            tracing::warn!(port = self.port, "requests are cut off that did not end in time");
        }
        Ok(())
    }

    /// Waits until the port is free, and says so once.
    async fn listener(&self) -> TcpListener {
        let mut told = false;
        loop {
            match listen(self.port) {
                Ok(listener) => {
                    tracing::info!(port = self.port, tls = self.tls.is_some(), "ingress listens");
                    return listener;
                }
                Err(error) if !told => {
                    told = true;
                    self.told.set(self.port, true);
                    tracing::warn!(
                        port = self.port,
                        %error,
                        "ingress cannot listen, and goes on trying: stop what has the port, or choose others with \
                         --ingress-http-port and --ingress-https-port, or --disable ingress"
                    );
                }
                Err(_) => {}
            }
            clock::sleep(TAKEN_PAUSE).await;
        }
    }

    async fn accept(
        &self,
        listener: &TcpListener,
        connections: &Arc<Semaphore>,
        closed: &watch::Receiver<bool>,
    ) -> io::Result<()> {
        let port = HeaderValue::from(self.port);
        loop {
            let permit = connections.clone().acquire_owned().await.map_err(io::Error::other)?;
            let (stream, peer) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of file descriptors, most likely: wait for some to be closed.
                    tracing::warn!(%error, "cannot accept a connection");
                    clock::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let peer = peer.ip().to_canonical();
            let Ok(address) = HeaderValue::try_from(peer.to_string()) else { continue };
            let is_trusted = self.proxy.trust.contains(peer);
            let from = From { address, secure: self.tls.is_some(), port: port.clone(), is_trusted };
            let (proxy, port) = (self.proxy.clone(), self.port);
            let connection = Box::new(Connection { proxy, peer, port, name: None, from });
            let (tls, closed) = (self.tls.clone(), closed.clone());
            // It ends with the front, but not before its requests do.
            self.proxy.supervisor.detached("ingress connection", Phase::Work, async move {
                let _open = NUMBERS.connection();
                if let Err(error) = converse(connection, (stream, tls), closed).await {
                    tracing::debug!(%peer, %error, "a connection ended");
                }
                drop(permit);
            });
        }
    }
}

/// A client that takes nothing of what it asked for, or has gone without a word, is given up. Accepted connections
/// have this from the listener.
fn impatient(socket: &TcpSocket) -> io::Result<()> {
    setsockopt(socket, sockopt::TcpUserTimeout, &TAKE_LIMIT_MS)?;
    setsockopt(socket, sockopt::KeepAlive, &true)?;
    Ok(())
}

/// All addresses of the machine, of both families where it has both.
fn listen(port: u16) -> io::Result<TcpListener> {
    let on = |socket: TcpSocket, address: IpAddr| {
        socket.set_reuseaddr(true)?;
        impatient(&socket)?;
        socket.bind(SocketAddr::new(address, port))?;
        socket.listen(BACKLOG)
    };
    let both = TcpSocket::new_v6().and_then(|socket| {
        setsockopt(&socket, sockopt::Ipv6V6Only, &false)?;
        on(socket, Ipv6Addr::UNSPECIFIED.into())
    });
    match both {
        Err(error) if error.kind() != io::ErrorKind::AddrInUse => {
            on(TcpSocket::new_v4()?, Ipv4Addr::UNSPECIFIED.into())
        }
        other => other,
    }
}
