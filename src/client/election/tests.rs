//! Candidates at an API server that keeps one Lease, over lines that are cut, slow and lose answers.

use super::*;
use crate::caches::Caches;
use crate::request::Transport;
use base::{Body, Phase, Restart, full_body};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, stream};
use http::{Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use tokio::sync::watch;

const NAME: &str = "kube-scheduler";
const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// What is written, oldest first, and what is there.
#[derive(Default)]
struct Board {
    lease: Option<Value>,
    events: Vec<Value>,
}

/// An API server with one Lease.
#[derive(Clone)]
struct Api {
    board: Arc<Mutex<Board>>,
    revision: watch::Sender<u64>,
}

/// What a candidate's line to the server is like.
struct Line {
    /// Nothing passes.
    is_cut: watch::Sender<bool>,
    /// How long a message takes.
    delay_ms: AtomicU64,
    /// One answer in so many is lost; 0 for none.
    loses: AtomicU64,
    asked: AtomicU64,
    /// How wrong the candidate's clock is.
    skew_s: i64,
}

impl Line {
    fn new(skew_s: i64) -> Self {
        let (is_cut, asked) = (watch::Sender::new(false), AtomicU64::new(0));
        Self { is_cut, delay_ms: AtomicU64::new(1), loses: AtomicU64::new(0), asked, skew_s }
    }

    async fn pass(&self) {
        clock::sleep(MS * u32::try_from(self.delay_ms.load(Ordering::SeqCst)).unwrap()).await;
        self.is_cut.subscribe().wait_for(|cut| !*cut).await.unwrap();
    }
}

struct Transmission {
    api: Api,
    line: Arc<Line>,
}

fn answer(code: StatusCode, body: &Value) -> Response<Body> {
    let mut response = Response::new(full_body(body.to_string()));
    *response.status_mut() = code;
    response
}

fn refused(code: u16, reason: &str) -> Response<Body> {
    let status = json!({"kind": "Status", "code": code, "reason": reason, "message": reason});
    answer(StatusCode::from_u16(code).unwrap(), &status)
}

impl Api {
    fn new() -> Self {
        Self { board: Arc::default(), revision: watch::Sender::new(1) }
    }

    fn write(&self, method: &Method, mut object: Value) -> Response<Body> {
        let mut board = self.board.lock().unwrap();
        match (&board.lease, method) {
            (Some(_), &Method::POST) => return refused(409, "AlreadyExists"),
            (None, &Method::PUT) => return refused(404, "NotFound"),
            (Some(now), &Method::PUT)
                if now["metadata"]["resourceVersion"] != object["metadata"]["resourceVersion"] =>
            {
                return refused(409, "Conflict");
            }
            _ => {}
        }
        let revision = *self.revision.borrow() + 1;
        object["metadata"]["resourceVersion"] = json!(revision.to_string());
        object["metadata"]["uid"] = json!("uid");
        board.lease = Some(object.clone());
        board.events.push(json!({"type": "MODIFIED", "object": object}));
        drop(board);
        self.revision.send_replace(revision);
        answer(StatusCode::OK, &object)
    }

    fn delete(&self) {
        let mut board = self.board.lock().unwrap();
        let Some(mut object) = board.lease.take() else { return };
        let revision = *self.revision.borrow() + 1;
        object["metadata"]["resourceVersion"] = json!(revision.to_string());
        board.events.push(json!({"type": "DELETED", "object": object}));
        drop(board);
        self.revision.send_replace(revision);
    }

    fn spec(&self) -> Value {
        self.board.lock().unwrap().lease.as_ref().map_or(Value::Null, |lease| lease["spec"].clone())
    }

    fn read(&self, is_list: bool) -> Response<Body> {
        let board = self.board.lock().unwrap();
        let items: Vec<&Value> = board.lease.iter().collect();
        match (is_list, &board.lease) {
            (true, _) => {
                let revision = self.revision.borrow().to_string();
                answer(StatusCode::OK, &json!({"metadata": {"resourceVersion": revision}, "items": items}))
            }
            (false, Some(lease)) => answer(StatusCode::OK, lease),
            (false, None) => refused(404, "NotFound"),
        }
    }

    /// A watch, whose events wait while the line is cut.
    fn watch(&self, after: u64, line: Arc<Line>) -> Response<Body> {
        let (api, revisions) = (self.clone(), self.revision.subscribe());
        let frames = stream::unfold((after, revisions), move |(seen, mut revisions)| {
            let (api, line) = (api.clone(), line.clone());
            async move {
                revisions.wait_for(|now| *now > seen).await.unwrap();
                line.pass().await;
                let board = api.board.lock().unwrap();
                let revision = |event: &Value| -> u64 {
                    event["object"]["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap()
                };
                let events = board.events.iter().filter(|event| revision(event) > seen);
                let text: String = events.map(|event| format!("{event}\n")).collect();
                let last = board.events.last().map_or(seen, revision);
                drop(board);
                Some((Ok(Frame::data(Bytes::from(text))), (last, revisions)))
            }
        });
        Response::new(StreamBody::new(frames).boxed_unsync())
    }
}

impl Transport for Transmission {
    fn call(&self, request: Request<Body>) -> BoxFuture<'static, Result<Response<Body>, Error>> {
        let (api, line) = (self.api.clone(), self.line.clone());
        async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            if parts.uri.path().contains("/events") {
                return Ok(refused(403, "Forbidden"));
            }
            line.pass().await;
            let query = parts.uri.query().unwrap_or_default();
            let after = query.split('&').find_map(|part| part.strip_prefix("resourceVersion="));
            let response = match parts.method {
                Method::GET if query.contains("watch=1") => {
                    api.watch(after.unwrap().parse().unwrap(), line.clone())
                }
                Method::GET => api.read(parts.uri.path().ends_with("/leases")),
                method => {
                    let mut object: Value = serde_json::from_slice(&body).unwrap();
                    let time = MicroTime(clock::now() + jiff::SignedDuration::from_secs(line.skew_s));
                    object["spec"]["renewTime"] = json!(time);
                    api.write(&method, object)
                }
            };
            line.pass().await;
            let (asked, loses) =
                (line.asked.fetch_add(1, Ordering::SeqCst), line.loses.load(Ordering::SeqCst));
            if loses > 0 && asked % loses == 0 {
                return Err(Error::Transport("the answer was lost".to_owned()));
            }
            Ok(response)
        }
        .boxed()
    }
}

/// Work that stands still while its process does.
async fn stalling<T>(work: impl Future<Output = T>, mut is_frozen: watch::Receiver<bool>) -> T {
    let mut work = std::pin::pin!(work);
    loop {
        is_frozen.wait_for(|frozen| !*frozen).await.unwrap();
        tokio::select! {
            biased;
            frozen = is_frozen.wait_for(|frozen| *frozen) => drop(frozen.unwrap()),
            done = &mut work => return done,
        }
    }
}

struct One {
    line: Arc<Line>,
    term: Term,
    supervisor: Supervisor,
    acts: Arc<AtomicUsize>,
    is_frozen: watch::Sender<bool>,
}

/// Those who act now, and those whose term is on.
#[derive(Clone, Default)]
struct Crowd {
    terms: Arc<Mutex<Vec<Term>>>,
    acting: Arc<AtomicUsize>,
    was_broken: Arc<AtomicBool>,
}

struct Acting(Crowd);

impl Acting {
    fn begin(crowd: &Crowd) -> Self {
        if crowd.acting.fetch_add(1, Ordering::SeqCst) > 0 {
            crowd.was_broken.store(true, Ordering::SeqCst);
        }
        Self(crowd.clone())
    }
}

impl Drop for Acting {
    fn drop(&mut self) {
        self.0.acting.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Crowd {
    fn look(&self) {
        let on = self.terms.lock().unwrap().iter().filter(|term| term.is_on()).count();
        if on > 1 {
            self.was_broken.store(true, Ordering::SeqCst);
        }
    }
}

impl One {
    fn start(api: &Api, crowd: &Crowd, skew_s: i64) -> Self {
        let (line, supervisor, term) = (Arc::new(Line::new(skew_s)), Supervisor::new(), Term::new());
        crowd.terms.lock().unwrap().push(term.clone());
        let client = Client::new(Arc::new(Transmission { api: api.clone(), line: line.clone() }));
        let caches = Caches::new(client.clone(), supervisor.clone());
        let leases = caches.selected(NAMESPACE, "");
        let candidate = Arc::new(Candidate::new(NAME, "host", (client, leases), &term, &supervisor));
        let is_frozen = watch::Sender::new(false);
        let frozen = is_frozen.clone();
        supervisor.run("election", Phase::Work, Restart::Fatal, move |shutdown| {
            let (candidate, is_frozen) = (candidate.clone(), frozen.subscribe());
            async move { stalling(candidate.run(&shutdown), is_frozen).await }
        });
        let acts = Arc::new(AtomicUsize::new(0));
        let (counted, crowd, frozen) = (acts.clone(), crowd.clone(), is_frozen.clone());
        supervisor.during(&term).run("actor", Phase::Work, Restart::OnFailure, move |shutdown| {
            let (counted, crowd, mut frozen) = (counted.clone(), crowd.clone(), frozen.subscribe());
            async move {
                loop {
                    frozen.wait_for(|frozen| !*frozen).await.unwrap();
                    if shutdown.is_requested() {
                        return Ok::<(), String>(());
                    }
                    let _acting = Acting::begin(&crowd);
                    crowd.look();
                    counted.fetch_add(1, Ordering::SeqCst);
                    tokio::select! {
                        () = clock::sleep(MS * 20) => {}
                        () = shutdown.requested() => {}
                    }
                }
            }
        });
        Self { line, term, supervisor, acts, is_frozen }
    }

    fn acts(&self) -> usize {
        self.acts.load(Ordering::SeqCst)
    }

    /// As if its machine had lost its power.
    fn kill(&self) {
        self.line.is_cut.send_replace(true);
        self.is_frozen.send_replace(true);
    }
}

/// How long until one of them acts.
async fn until_one_acts(of: &[&One]) -> Duration {
    let (began, before) = (clock::instant(), of.iter().map(|one| one.acts()).sum::<usize>());
    while of.iter().map(|one| one.acts()).sum::<usize>() == before {
        clock::sleep(MS * 5).await;
        assert!(began.elapsed() < SECOND * 60, "nobody leads");
    }
    began.elapsed()
}

#[tokio::test(start_paused = true)]
async fn one_leads_and_is_followed_at_once_when_it_stops() {
    let (api, crowd) = (Api::new(), Crowd::default());
    let first = One::start(&api, &crowd, 0);
    assert!(until_one_acts(&[&first]).await < SECOND);
    let second = One::start(&api, &crowd, 7200);
    clock::sleep(SECOND * 60).await;
    assert_eq!((second.acts(), api.spec()["leaseTransitions"].clone()), (0, json!(0)));
    let holder = api.spec()["holderIdentity"].as_str().unwrap().to_owned();
    assert!(holder.starts_with("host_") && holder.len() == 41, "{holder}");
    let renewed = *api.revision.borrow();
    clock::sleep(SECOND * 60).await;
    assert!((55..=62).contains(&(*api.revision.borrow() - renewed)), "a second apart");
    let next = [&second];
    let (took, drained) = tokio::join!(until_one_acts(&next), first.supervisor.drain());
    assert!(took < MS * 100, "{took:?}");
    assert_eq!((drained, api.spec()["leaseTransitions"].clone()), (base::Drained::Cleanly, json!(1)));
    assert_eq!(second.supervisor.drain().await, base::Drained::Cleanly);
    let spec = api.spec();
    assert_eq!((&spec["holderIdentity"], &spec["leaseDurationSeconds"]), (&json!(""), &json!(1)));
    assert!(!crowd.was_broken.load(Ordering::SeqCst));
}

#[tokio::test(start_paused = true)]
async fn who_dies_is_followed_within_five_seconds() {
    let mut longest = Duration::ZERO;
    for moment in 0..25 {
        let (api, crowd) = (Api::new(), Crowd::default());
        let first = One::start(&api, &crowd, -86_400 * 400);
        until_one_acts(&[&first]).await;
        let others = [One::start(&api, &crowd, 0), One::start(&api, &crowd, 86_400)];
        clock::sleep(SECOND * 10 + MS * 80 * moment).await;
        first.kill();
        longest = longest.max(until_one_acts(&[&others[0], &others[1]]).await);
        assert!(!crowd.was_broken.load(Ordering::SeqCst));
    }
    assert!(longest < SECOND * 5 && longest > SECOND * 4, "{longest:?}");
}

#[tokio::test(start_paused = true)]
async fn who_cannot_renew_stops_before_another_begins() {
    let (api, crowd) = (Api::new(), Crowd::default());
    let first = One::start(&api, &crowd, 0);
    until_one_acts(&[&first]).await;
    let second = One::start(&api, &crowd, 0);
    clock::sleep(SECOND * 10).await;
    first.line.is_cut.send_replace(true);
    let began = clock::instant();
    while first.term.is_on() {
        clock::sleep(MS).await;
    }
    let stopped = began.elapsed();
    assert!(stopped <= DEADLINE && second.acts() == 0, "{stopped:?}");
    until_one_acts(&[&second]).await;
    assert!(began.elapsed() > SECOND * 3);
    first.line.is_cut.send_replace(false);
    clock::sleep(SECOND * 10).await;
    assert!(second.term.is_on() && !first.term.is_on());
    // Whose Lease was deleted goes on with a new one.
    api.delete();
    clock::sleep(SECOND * 10).await;
    assert!(second.term.is_on() && !first.term.is_on());
    assert!(!crowd.was_broken.load(Ordering::SeqCst));
}

/// The same for the same seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// Does something to one of them, for good or ill.
fn trouble(one: &One, dice: &mut Dice) {
    match dice.below(8) {
        0 | 1 => drop(one.line.is_cut.send_replace(true)),
        2 => one.line.delay_ms.store(dice.below(2_000), Ordering::SeqCst),
        3 => one.line.loses.store(1 + dice.below(3), Ordering::SeqCst),
        4 => drop(one.is_frozen.send_replace(true)),
        _ => heal(one),
    }
}

fn heal(one: &One) {
    one.line.delay_ms.store(1, Ordering::SeqCst);
    one.line.loses.store(0, Ordering::SeqCst);
    one.line.is_cut.send_replace(false);
    one.is_frozen.send_replace(false);
}

#[tokio::test(start_paused = true)]
async fn never_do_two_lead() {
    for seed in 0..40 {
        let mut dice = Dice(seed);
        let (api, crowd) = (Api::new(), Crowd::default());
        let skew = |dice: &mut Dice| i64::try_from(dice.below(100_000_000)).unwrap() - 50_000_000;
        let all: Vec<One> = (0..2 + seed % 2).map(|_| One::start(&api, &crowd, skew(&mut dice))).collect();
        for _ in 0..60 {
            let chosen = usize::try_from(dice.below(all.len() as u64)).unwrap();
            trouble(&all[chosen], &mut dice);
            for _ in 0..dice.below(300) {
                clock::sleep(MS * 20).await;
                crowd.look();
            }
        }
        all.iter().for_each(heal);
        let took = until_one_acts(&all.iter().collect::<Vec<_>>()).await;
        assert!(took < SECOND * 7, "seed {seed}: {took:?}");
        assert!(!crowd.was_broken.load(Ordering::SeqCst), "seed {seed}: two led");
        for one in &all {
            one.supervisor.drain().await;
        }
    }
}
