//! Upstreams: one, how it is asked and how it does, and a group of them.

use crate::corefile::{ForwardRule, Policy, To};
use crate::loops::Loops;
use crate::machine::Machine;
use crate::metrics::{Metrics, UpstreamCounts};
use crate::name::Name;
use crate::secure::Secure;
use crate::wire::{Answer, Query, Reply, code, kind};
use base::clock::{self, Instant};
use base::{Phase, Supervisor};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

/// When an attempt has not brought an answer for so long, the next one begins beside it.
const PAUSE: Duration = Duration::from_millis(700);

/// So often a question is sent: to one upstream after the other, and then again.
const ATTEMPTS: usize = 3;

/// How long all attempts may take together. Clients ask again after 5 s at the earliest, and are to know
/// before that nobody answers.
pub(crate) const PATIENCE: Duration = Duration::from_millis(2_400);

/// How long an upstream that was down may take to show that it is there again.
const PROBE_LIMIT: Duration = Duration::from_secs(1);

/// The longest answer that is taken over UDP; we say that we take less.
const UDP_ANSWER: usize = 4_096;

/// One name server that is asked.
#[derive(Debug)]
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    /// It is asked over TLS alone.
    secure: Option<Secure>,
    health: Mutex<Health>,
    /// It asks us: it is never asked again.
    looped: AtomicBool,
    counts: Arc<UpstreamCounts>,
}

#[derive(Debug, Default)]
struct Health {
    /// Failures in a row.
    fails: u32,
    /// While it is down: when it may be tried again.
    retry_at: Option<Instant>,
    /// It does not understand EDNS.
    plain: bool,
}

impl Upstream {
    pub(crate) fn new(address: SocketAddr, secure: Option<Secure>, metrics: &Metrics) -> Arc<Self> {
        let counts = metrics.upstream(address);
        Arc::new(Self { address, secure, health: Mutex::default(), looped: AtomicBool::new(false), counts })
    }

    fn health(&self) -> std::sync::MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It leads back to us.
    pub(crate) fn mark_looped(&self) {
        self.looped.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_looped(&self) -> bool {
        self.looped.load(Ordering::Relaxed)
    }

    /// Notes that it answered; says whether it was down.
    fn succeeded(&self) -> bool {
        let mut health = self.health();
        health.fails = 0;
        health.retry_at.take().is_some()
    }

    fn failed(&self, rule: &ForwardRule) {
        let mut health = self.health();
        health.fails = health.fails.saturating_add(1);
        if rule.max_fails > 0 && health.fails >= rule.max_fails {
            if health.retry_at.is_none() {
                tracing::info!(upstream = %self.address, "a name server does not answer");
                self.counts.broken.fetch_add(1, Ordering::Relaxed);
            }
            health.retry_at = Some(clock::instant() + rule.retry);
        }
    }

    fn is_down(&self) -> bool {
        self.health().retry_at.is_some()
    }

    /// Whether it is down and may be tried; then nobody else may for a while.
    fn may_be_tried(&self, rule: &ForwardRule) -> bool {
        let now = clock::instant();
        let mut health = self.health();
        let due = health.retry_at.is_some_and(|at| at <= now);
        if due {
            health.retry_at = Some(now + rule.retry.max(PROBE_LIMIT));
        }
        due
    }

    /// Asks once. What does not fit into one packet is asked for over TCP.
    async fn ask(&self, query: &Query, force_tcp: bool) -> io::Result<Answer> {
        let begin = clock::instant();
        let plain = self.health().plain;
        let mut reply = self.exchange(query, force_tcp, plain).await?;
        if !plain && matches!(reply.answer.code, code::FORM_ERR | code::NOT_IMP) {
            // A server from before 1999; if it answers without EDNS, it is spared that from now on.
            reply = self.exchange(query, force_tcp, true).await?;
            self.health().plain = !matches!(reply.answer.code, code::FORM_ERR | code::NOT_IMP);
        }
        self.counts.answered(reply.answer.code, begin.elapsed());
        Ok(reply.answer)
    }

    async fn exchange(&self, query: &Query, force_tcp: bool, plain: bool) -> io::Result<Reply> {
        if let Some(secure) = &self.secure {
            return secure.exchange(query, self.address, plain).await;
        }
        if !force_tcp {
            let reply = over_udp(query, self.address, plain).await?;
            if !reply.truncated {
                return Ok(reply);
            }
        }
        over_tcp(query, self.address, plain).await
    }
}

/// A number that nobody can guess; the port of the socket is another one.
fn fresh_id() -> u16 {
    u16::from_be_bytes(base::random::bytes())
}

async fn over_udp(query: &Query, upstream: SocketAddr, plain: bool) -> io::Result<Reply> {
    let any: SocketAddr = if upstream.is_ipv4() { ([0; 4], 0).into() } else { ([0_u16; 8], 0).into() };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(upstream).await?;
    let id = fresh_id();
    socket.send(&query.forwarded(id, plain)).await?;
    let mut buffer = vec![0; UDP_ANSWER];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if let Some(reply) = Reply::read(&buffer[..length], id, query) {
            return Ok(reply);
        }
    }
}

async fn over_tcp(query: &Query, upstream: SocketAddr, plain: bool) -> io::Result<Reply> {
    let mut stream = TcpStream::connect(upstream).await?;
    asked_over(&mut stream, query, plain).await
}

/// Asks over a stream, where messages have their lengths before them.
pub(crate) async fn asked_over<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    query: &Query,
    plain: bool,
) -> io::Result<Reply> {
    let id = fresh_id();
    let message = query.forwarded(id, plain);
    let length = u16::try_from(message.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), message.as_slice()].concat()).await?;
    stream.flush().await?;
    let mut buffer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut buffer).await?;
    Reply::read(&buffer, id, query).ok_or_else(|| io::Error::other("an answer to another question"))
}

/// What a group's asking needs of its surroundings.
#[derive(Clone)]
pub(crate) struct Surroundings {
    pub(crate) machine: Arc<Machine>,
    pub(crate) loops: Arc<Loops>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) supervisor: Supervisor,
}

/// The upstreams of one `forward`.
pub(crate) struct Group {
    pub(crate) rule: ForwardRule,
    surroundings: Surroundings,
    upstreams: Mutex<Vec<Arc<Upstream>>>,
    turn: AtomicUsize,
    waiting: AtomicUsize,
}

/// One question that waits, counted for as long as it lives.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Group {
    pub(crate) fn new(rule: ForwardRule, surroundings: &Surroundings) -> Arc<Self> {
        Arc::new(Self {
            rule,
            surroundings: surroundings.clone(),
            upstreams: Mutex::default(),
            turn: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
        })
    }

    /// The best answer that an upstream gives. None if none answers.
    pub(crate) async fn ask(self: &Arc<Self>, query: &Query) -> Option<Answer> {
        let before = self.waiting.fetch_add(1, Ordering::Relaxed);
        let _waiting = Waiting(&self.waiting);
        if before >= self.rule.max_concurrent {
            self.surroundings.metrics.rejected.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        let candidates = self.candidates();
        if candidates.is_empty() {
            return None;
        }
        self.attempt(query, &candidates).await
    }

    async fn attempt(self: &Arc<Self>, query: &Query, candidates: &[Arc<Upstream>]) -> Option<Answer> {
        let deadline = clock::instant() + PATIENCE;
        let mut left = candidates.iter().cycle().take(ATTEMPTS.max(candidates.len()));
        let mut next_at = Some(clock::instant());
        let mut asking = FuturesUnordered::new();
        let mut begun: Vec<(&Arc<Upstream>, Instant)> = Vec::new();
        let mut failure = None;
        loop {
            tokio::select! {
                biased;
                Some((upstream, result)) = asking.next() => {
                    begun.retain(|(one, _)| !Arc::ptr_eq(one, upstream));
                    match self.judge(upstream, result) {
                        Some(answer) if answer.code == code::SERV_FAIL || answer.code == code::REFUSED => {
                            failure.get_or_insert(answer);
                        }
                        Some(answer) => {
                            self.blame_late(&begun);
                            return Some(answer);
                        }
                        None => {}
                    }
                    next_at = next_at.map(|_| clock::instant());
                }
                () = clock::until(next_at) => {
                    next_at = left.next().map(|upstream| {
                        let now = clock::instant();
                        begun.push((upstream, now));
                        let force_tcp = self.rule.force_tcp;
                        asking.push(async move { (upstream, upstream.ask(query, force_tcp).await) });
                        now + PAUSE
                    });
                }
                () = tokio::time::sleep_until(deadline) => {
                    begun.dedup_by(|one, other| Arc::ptr_eq(one.0, other.0));
                    begun.iter().for_each(|(upstream, _)| upstream.failed(&self.rule));
                    return failure;
                }
            }
            if asking.is_empty() && next_at.is_none() {
                return failure;
            }
        }
    }

    /// What an upstream said, and what that says of its health.
    fn judge(self: &Arc<Self>, upstream: &Arc<Upstream>, result: io::Result<Answer>) -> Option<Answer> {
        match result {
            Ok(answer) => {
                if upstream.succeeded() {
                    tracing::info!(upstream = %upstream.address, "a name server answers again");
                    self.look_for_loop(upstream);
                }
                Some(answer)
            }
            Err(error) => {
                tracing::debug!(upstream = %upstream.address, %error, "a name server cannot be asked");
                upstream.failed(&self.rule);
                None
            }
        }
    }

    /// Those that were overtaken by another one have failed, if they had time enough.
    fn blame_late(&self, begun: &[(&Arc<Upstream>, Instant)]) {
        let late = begun.iter().filter(|(_, at)| at.elapsed() >= PAUSE);
        late.for_each(|(upstream, _)| upstream.failed(&self.rule));
    }

    /// Those that are up, in the order in which they are to be asked. One that is down is tried behind
    /// the client's back as long as another is up.
    fn candidates(self: &Arc<Self>) -> Vec<Arc<Upstream>> {
        let all = self.current();
        let (down, mut up): (Vec<_>, Vec<_>) = all.into_iter().partition(|upstream| upstream.is_down());
        let due: Vec<_> = down.into_iter().filter(|upstream| upstream.may_be_tried(&self.rule)).collect();
        if up.is_empty() {
            return due;
        }
        due.into_iter().for_each(|upstream| self.probe(upstream));
        let first = match self.rule.policy {
            Policy::Sequential => 0,
            Policy::RoundRobin => self.turn.fetch_add(1, Ordering::Relaxed),
            Policy::Random => usize::from(fresh_id()),
        };
        let count = up.len();
        up.rotate_left(first % count);
        up
    }

    /// The upstreams as they are named now, those known already with what is known of them.
    fn current(self: &Arc<Self>) -> Vec<Arc<Upstream>> {
        let named = self.rule.to.iter().flat_map(|to| match to {
            To::Address(address) | To::Secure(address, _) => vec![*address],
            To::Machine => self.surroundings.machine.resolvers(),
        });
        let named: Vec<SocketAddr> = named.collect();
        let mut known = self.upstreams.lock().unwrap_or_else(PoisonError::into_inner);
        if !known.iter().map(|upstream| upstream.address).eq(named.iter().copied()) {
            let old = std::mem::take(&mut *known);
            for address in named {
                let same = old.iter().find(|upstream| upstream.address == address).cloned();
                known.push(same.unwrap_or_else(|| {
                    let new = Upstream::new(address, self.secure(address), &self.surroundings.metrics);
                    self.look_for_loop(&new);
                    new
                }));
            }
        }
        known.iter().filter(|upstream| !upstream.is_looped()).cloned().collect()
    }

    /// How an upstream is spoken to, where the rule asks for TLS.
    fn secure(&self, address: SocketAddr) -> Option<Secure> {
        let name = self.rule.to.iter().find_map(|to| match to {
            To::Secure(one, name) if *one == address => Some(name),
            _ => None,
        })?;
        Some(Secure::new(&self.rule.tls.0.clone()?, name.clone(), self.rule.expire))
    }

    /// Sees whether an upstream that is down answers again; any answer will do.
    fn probe(self: &Arc<Self>, upstream: Arc<Upstream>) {
        let group = self.clone();
        self.surroundings.supervisor.detached("dns probe", Phase::Front, async move {
            let query = Query::of(Name::ROOT, kind::NS);
            let asked = upstream.ask(&query, group.rule.force_tcp);
            let asked = tokio::time::timeout(PROBE_LIMIT, asked).await;
            group.judge(&upstream, asked.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())));
        });
    }

    /// Asks an upstream something that nobody else can ask: if we are asked the same, it leads back to
    /// us.
    fn look_for_loop(self: &Arc<Self>, upstream: &Arc<Upstream>) {
        let Some(name) = self.surroundings.loops.expect(upstream, &self.rule.from) else { return };
        let (group, upstream) = (self.clone(), upstream.clone());
        self.surroundings.supervisor.detached("dns loop probe", Phase::Front, async move {
            let query = Query::of(name, kind::HINFO);
            let asked = upstream.ask(&query, group.rule.force_tcp);
            if tokio::time::timeout(PATIENCE, asked).await.is_err() {
                tracing::debug!(upstream = %upstream.address, "no answer whether it asks us");
            }
            group.surroundings.loops.forget(&name);
        });
    }
}
