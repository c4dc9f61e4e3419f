//! The protocol over UDP: packets to queries, and answers back.

use crate::Error;
use crate::chain::Chain;
use crate::metrics::Seen;
use crate::resolve::{Now, Resolver};
use crate::wire::{Answer, Delivery, Query, Ttl, Unreadable, Writer, code};
use base::clock::{self, Instant};
use base::{Phase, Shutdown, Supervisor};
use futures_util::stream::{FuturesUnordered, StreamExt};
use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, SockaddrStorage, sockopt};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::{Semaphore, watch};

/// UDP queries that wait for upstreams at the same time; more are refused rather than piled up.
const WAITING: usize = 1_024;

/// Sockets at one address: the kernel spreads clients over them, and they are served beside each other.
const SOCKETS: usize = 2;

/// So many bytes of queries wait in a socket while the process does something else.
const RECEIVE_BYTES: usize = 1024 * 1024;

/// The longest query that is read; names and EDNS take less.
const QUERY_BYTES: usize = 4_096;

/// Answers and remembers what for.
#[derive(Clone)]
pub(crate) struct Server(Arc<Inner>);

struct Inner {
    listen: Vec<SocketAddr>,
    resolver: Arc<Resolver>,
    supervisor: Supervisor,
    waiting: Arc<Semaphore>,
    /// The lists of addresses begin with another one in each answer.
    turn: AtomicUsize,
}

/// How a query came.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Via {
    pub(crate) client: SocketAddr,
    pub(crate) tcp: bool,
    pub(crate) at: Instant,
    pub(crate) bytes: usize,
}

impl Via {
    fn limit(&self, query: &Query) -> usize {
        if self.tcp { usize::from(u16::MAX) } else { query.udp_limit() }
    }
}

/// What is used again for every query.
pub(crate) struct Scratch {
    writer: Writer,
    pub(crate) out: Vec<u8>,
}

impl Scratch {
    pub(crate) fn new() -> Self {
        Self { writer: Writer::new(), out: Vec::new() }
    }
}

/// What became of a packet.
pub(crate) enum Handled {
    /// The answer is in [`Scratch::out`].
    Answered,
    /// [`Server::finish`] has to be asked.
    Waits(Box<Query>),
    /// Nobody waits for an answer.
    Nothing,
}

impl Server {
    pub(crate) fn new(listen: Vec<SocketAddr>, resolver: Arc<Resolver>, supervisor: Supervisor) -> Self {
        let (waiting, turn) = (Arc::new(Semaphore::new(WAITING)), AtomicUsize::new(0));
        Self(Arc::new(Inner { listen, resolver, supervisor, waiting, turn }))
    }

    /// Serves all addresses; tells `listening` when it does.
    pub(crate) async fn run(&self, shutdown: Shutdown, listening: &watch::Sender<bool>) -> Result<(), Error> {
        let mut serving = FuturesUnordered::new();
        for address in &self.0.listen {
            let failed = |source| Error::Listen { address: *address, source };
            for _ in 0..SOCKETS {
                let socket = Arc::new(udp_socket(*address).map_err(failed)?);
                let server = self.clone();
                let serve = async move { server.serve_udp(&socket).await.map_err(failed) };
                serving.push(futures_util::FutureExt::boxed(serve));
            }
            let listener = TcpListener::bind(address).await.map_err(failed)?;
            let server = self.clone();
            let serve = async move { crate::tcp::serve(&server, &listener).await.map_err(failed) };
            serving.push(futures_util::FutureExt::boxed(serve));
            tracing::info!(%address, "cluster DNS answers");
        }
        listening.send_replace(true);
        tokio::select! {
            Some(result) = serving.next() => result,
            () = self.dismissed(&shutdown) => Ok(()),
        }
    }

    /// Completes when nobody is to be answered any more.
    async fn dismissed(&self, shutdown: &Shutdown) {
        shutdown.requested().await;
        let chains = self.0.resolver.chains.load_full();
        let lameduck = chains.0.iter().map(|chain| chain.block.lameduck).max();
        clock::sleep(lameduck.unwrap_or_default()).await;
    }

    pub(crate) fn supervisor(&self) -> &Supervisor {
        &self.0.supervisor
    }

    async fn serve_udp(&self, socket: &Arc<UdpSocket>) -> std::io::Result<()> {
        let mut buffer = vec![0; QUERY_BYTES];
        let mut scratch = Scratch::new();
        loop {
            let (bytes, client) = match socket.recv_from(&mut buffer).await {
                Ok(received) => received,
                // A client that closed its port tells us so by ICMP; that concerns nobody else.
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => continue,
                Err(error) => return Err(error),
            };
            let via = Via { client, tcp: false, at: clock::instant(), bytes };
            match self.handle(&buffer[..bytes], via, &mut scratch) {
                Handled::Answered => send(socket, client, &scratch.out).await,
                Handled::Waits(query) => self.answer_later(socket, via, query, &mut scratch).await,
                Handled::Nothing => {}
            }
        }
    }

    async fn answer_later(
        &self,
        socket: &Arc<UdpSocket>,
        via: Via,
        query: Box<Query>,
        scratch: &mut Scratch,
    ) {
        let Ok(permit) = self.0.waiting.clone().try_acquire_owned() else {
            let answer = Answer::failure(code::SERV_FAIL);
            answer.write(&query, Delivery::fresh(via.limit(&query)), &mut scratch.out);
            return send(socket, via.client, &scratch.out).await;
        };
        let (server, socket) = (self.clone(), socket.clone());
        self.0.supervisor.detached("dns client", Phase::Front, async move {
            let out = server.finish(&query, via).await;
            send(&socket, via.client, &out).await;
            drop(permit);
        });
    }

    /// Answers a packet, if that can be done at once.
    pub(crate) fn handle(&self, packet: &[u8], via: Via, scratch: &mut Scratch) -> Handled {
        let query = match Query::read(packet) {
            Ok(query) => query,
            Err(Unreadable::Noise) => return Handled::Nothing,
            Err(Unreadable::Wrong(head)) => {
                scratch.out.clear();
                scratch.out.extend(head);
                return Handled::Answered;
            }
        };
        match self.0.resolver.at_once(&query, &mut scratch.writer) {
            Now::Answered(chain) => {
                let answer = (scratch.writer.finish(), Ttl::Aged(0));
                self.tell((&query, via), chain.as_ref(), answer, &mut scratch.out);
                Handled::Answered
            }
            Now::Kept(chain, told) => {
                self.tell((&query, via), Some(&chain), told.answer(), &mut scratch.out);
                Handled::Answered
            }
            Now::Later => Handled::Waits(Box::new(query)),
        }
    }

    /// Answers a query that [waits](Handled::Waits).
    pub(crate) async fn finish(&self, query: &Query, via: Via) -> Vec<u8> {
        let (chain, told) = self.0.resolver.resolve(query).await;
        let mut out = Vec::new();
        self.tell((query, via), chain.as_ref(), told.answer(), &mut out);
        out
    }

    /// Writes an answer, and counts it.
    fn tell(
        &self,
        (query, via): (&Query, Via),
        chain: Option<&Arc<Chain>>,
        (answer, ttl): (&Answer, Ttl),
        out: &mut Vec<u8>,
    ) {
        let rotate = chain.is_some_and(|chain| chain.block.rotate);
        let turn = if rotate { self.0.turn.fetch_add(1, Ordering::Relaxed) } else { 0 };
        answer.write(query, Delivery { limit: via.limit(query), ttl, turn }, out);
        let Some(chain) = chain else { return };
        let took = via.at.elapsed();
        chain.counts.count(Seen {
            tcp: via.tcp,
            v6: via.client.is_ipv6(),
            kind: query.kind,
            code: answer.code,
            asked_bytes: via.bytes,
            told_bytes: out.len(),
            took,
        });
        if !chain.block.log.is_empty() && chain.block.log.iter().any(|zone| query.name.is_in(zone)) {
            log(query, via, answer, took);
        }
    }
}

fn log(query: &Query, via: Via, answer: &Answer, took: Duration) {
    let proto = if via.tcp { "tcp" } else { "udp" };
    tracing::info!(
        client = %via.client,
        name = %query.name,
        kind = query.kind,
        proto,
        code = answer.code,
        took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
        "dns query"
    );
}

async fn send(socket: &UdpSocket, client: SocketAddr, bytes: &[u8]) {
    if let Err(error) = socket.send_to(bytes, client).await {
        tracing::debug!(%error, %client, "a DNS answer could not be sent");
    }
}

/// A socket beside others at the same address.
fn udp_socket(address: SocketAddr) -> std::io::Result<UdpSocket> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket::socket(family, SockType::Datagram, flags, None)?;
    socket::setsockopt(&socket, sockopt::ReusePort, &true)?;
    // The kernel gives as much as its own limit allows.
    socket::setsockopt(&socket, sockopt::RcvBuf, &RECEIVE_BYTES)?;
    socket::bind(socket.as_raw_fd(), &SockaddrStorage::from(address))?;
    UdpSocket::from_std(std::net::UdpSocket::from(socket))
}
