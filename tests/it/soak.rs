//! Many writers, readers and watchers at once while the server is killed, stopped, and forgets its past, or while
//! servers that share an etcd and its members are; what all of them were told is put together and has to be one
//! history.
//!
//! `KNARR_TEST_SOAK_WRITES` makes it longer.

mod checker;

use crate::support::cluster::Cluster;
use crate::support::https::{Answer, Ask, Events, Https, JSON, JSON_PATCH, MERGE};
use crate::support::process::wait_for;
use crate::support::servers::Servers;
use checker::{Event, History, Moment, Operation, State, Told, Watched};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, RwLock};
use std::time::Duration;

const MAPS: &str = "/api/v1/namespaces/soak/configmaps";
/// So few that writers meet.
const KEYS: usize = 8;
const WRITERS: usize = 4;
const WATCHERS: usize = 2;
/// A hundred changes or so: watches that were away for longer have to list again.
const HISTORY_BYTES: usize = 64 << 10;
/// Writes between two ends of the server.
const BETWEEN_ENDS: usize = 400;
/// What a server that stops says to new requests.
const STOPPING: u16 = 429;
/// How long a watcher waits for an event before it looks whether all is done.
const QUIET: Duration = Duration::from_millis(500);

/// More than any number of writes between two ends takes.
const LONG: Duration = Duration::from_secs(120);

struct Soak {
    /// The servers, which are asked in turn.
    servers: Vec<Https>,
    turn: AtomicUsize,
    moments: AtomicU64,
    /// Writes that were begun.
    begun: AtomicUsize,
    writes: usize,
    done: AtomicBool,
    operations: Mutex<Vec<Operation>>,
    watches: Mutex<Vec<Watched>>,
    /// Taken by who kills the server, so that nobody asks a dead one for long.
    alive: RwLock<()>,
}

fn writes(usually: usize) -> usize {
    std::env::var("KNARR_TEST_SOAK_WRITES").map_or(usually, |text| text.parse().unwrap())
}

#[test]
fn what_all_clients_see_is_one_history() {
    let history = format!("--watch-history-bytes={HISTORY_BYTES}");
    let compactions = "--compaction-interval=1";
    let mut cluster = Cluster::prepared(&[
        "--disable-agent",
        "--disable-controller-manager",
        "--disable-scheduler",
        &history,
        compactions,
    ]);
    cluster.start();
    let soak = Soak::new(vec![Https::new(&cluster)], writes(1500));
    soak.run(|| soak.end(&mut cluster));
    soak.check();
}

#[test]
fn what_clients_of_several_servers_see_is_one_history() {
    let mut servers = Servers::new(3, &["--disable-controller-manager", "--disable-scheduler"]);
    let soak = Soak::new((0..3).map(|at| servers.https(at)).collect(), writes(1500));
    soak.run(|| soak.end_some(&mut servers));
    soak.check();
}

impl Soak {
    fn new(servers: Vec<Https>, writes: usize) -> Self {
        let soak = Self {
            servers,
            turn: AtomicUsize::new(0),
            moments: AtomicU64::new(1),
            begun: AtomicUsize::new(0),
            writes,
            done: AtomicBool::new(false),
            operations: Mutex::default(),
            watches: Mutex::default(),
            alive: RwLock::default(),
        };
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "soak"}});
        assert_eq!(soak.ask("POST", "/api/v1/namespaces").object(JSON, &namespace).send().code, 201);
        soak
    }

    /// Begins a request to the server whose turn it is.
    fn ask(&self, method: &str, path: &str) -> Ask<'_> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        self.servers[turn % self.servers.len()].ask(method, path)
    }

    /// What was recorded has to be one history.
    fn check(self) {
        let end = self.list(0).expect("the server runs");
        let history = History {
            operations: self.operations.into_inner().unwrap(),
            watches: self.watches.into_inner().unwrap(),
            end,
            ends_with_server: self.servers.len() == 1,
        };
        let faults = history.faults();
        let counts = (history.operations.len(), history.watches.len());
        assert!(
            faults.is_empty(),
            "{} faults in {counts:?}: {:#?}",
            faults.len(),
            &faults[..faults.len().min(20)]
        );
        assert!(history.watches.len() > WATCHERS, "no watch was ever interrupted: {counts:?}");
        let lost = history.operations.iter().filter(|one| matches!(one.told, Told::Lost { .. })).count();
        eprintln!(
            "{} operations, {lost} of them without an answer, {} stretches of watches",
            counts.0, counts.1
        );
    }

    fn run(&self, end: impl FnOnce()) {
        std::thread::scope(|scope| {
            let watchers: Vec<_> = (0..WATCHERS).map(|_| scope.spawn(|| self.watch())).collect();
            let readers = [scope.spawn(|| self.read()), scope.spawn(|| self.page())];
            let writers: Vec<_> = (0..WRITERS).map(|seed| scope.spawn(move || self.write(seed))).collect();
            end();
            writers.into_iter().for_each(|writer| writer.join().unwrap());
            self.done.store(true, Ordering::Release);
            watchers.into_iter().chain(readers).for_each(|other| other.join().unwrap());
        });
    }

    fn moment(&self) -> Moment {
        self.moments.fetch_add(1, Ordering::SeqCst)
    }

    fn is_done(&self) -> bool {
        self.done.load(Ordering::Acquire)
    }

    /// Ends the server and starts it again, as often as there are writes for: mostly without a warning.
    fn end(&self, cluster: &mut Cluster) {
        for round in 1..=self.writes / BETWEEN_ENDS {
            wait_for("writes", LONG, || {
                (self.begun.load(Ordering::Acquire) >= round * BETWEEN_ENDS).then_some(())
            });
            let _dead = self.alive.write().unwrap();
            cluster.stop(if round % 4 == 0 { "TERM" } else { "KILL" });
            cluster.start();
            // What has come through is looked at before anybody changes it.
            self.relist().expect("the server runs");
        }
    }

    /// Kills one of the servers or one of the members of their etcd after the other, and starts it again.
    fn end_some(&self, servers: &mut Servers) {
        for round in 1..=self.writes / BETWEEN_ENDS {
            wait_for("writes", LONG, || {
                (self.begun.load(Ordering::Acquire) >= round * BETWEEN_ENDS).then_some(())
            });
            let (at, signal) = (round % 3, if round % 4 == 0 { "TERM" } else { "KILL" });
            if round % 2 == 0 {
                servers.stop_member(at, signal);
                servers.start_member(at);
            } else {
                servers.stop(at, signal);
                servers.start(at);
            }
        }
    }

    /// The answer to a request, unless the server goes away; one of several may have lost sight of its etcd.
    fn answer(&self, ask: Ask) -> Option<Answer> {
        let away = |answer: &Answer| self.servers.len() > 1 && answer.code >= 500;
        ask.try_send().ok().filter(|answer| answer.code != STOPPING && !away(answer))
    }

    /// Waits until there is a server.
    fn wait(&self) {
        drop(self.alive.read().unwrap());
    }

    fn record(&self, began: Moment, told: Told) {
        let ended = self.moment();
        self.operations.lock().unwrap().push(Operation { began, ended, told });
    }

    fn write(&self, seed: usize) {
        let mut random = seed;
        loop {
            let number = self.begun.fetch_add(1, Ordering::AcqRel);
            if number >= self.writes {
                return;
            }
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let (key, way) = (format!("k{}", (random >> 33) % KEYS), (random >> 45) % 6);
            let write = Write { soak: self, key, token: format!("t{number}"), began: self.moment() };
            match way {
                0 => write.create(),
                1 => write.delete(),
                2 | 3 => write.update(),
                4 => write.patch(MERGE, &json!({"data": {"token": format!("t{number}")}})),
                _ => {
                    let step = json!({"op": "replace", "path": "/data/token", "value": format!("t{number}")});
                    write.patch(JSON_PATCH, &json!([step]));
                }
            }
        }
    }

    /// Reads objects, one after the other.
    fn read(&self) {
        let mut number = 0;
        while !self.is_done() {
            number += 1;
            let key = format!("k{}", number % KEYS);
            let began = self.moment();
            match self.answer(self.ask("GET", &format!("{MAPS}/{key}"))) {
                Some(answer) if answer.code == 200 => {
                    let (_, version, token) = parts(&answer.value());
                    self.record(began, Told::Read { key, token, version });
                }
                Some(answer) if answer.code == 404 => self.record(began, Told::Absent { key }),
                Some(answer) => panic!("{answer:?}"),
                None => self.wait(),
            }
        }
    }

    /// Lists in pages of different sizes.
    fn page(&self) {
        let mut size = 0;
        while !self.is_done() {
            size = (size + 1) % 5;
            let began = self.moment();
            match self.list(size) {
                Some((version, state)) => self.record(began, Told::Listed { version, state }),
                None => self.wait(),
            }
        }
    }

    /// The state and its version, in pages of a size or (with 0) at once; `None` if the server went away
    /// or the pages' version was forgotten.
    fn list(&self, size: usize) -> Option<(u64, State)> {
        let (mut state, mut version, mut token) = (State::new(), 0, String::new());
        loop {
            let path = format!("{MAPS}?limit={size}&continue={token}");
            let answer = self.answer(self.ask("GET", &path)).filter(|answer| answer.code != 410)?;
            assert_eq!(answer.code, 200, "{answer:?}");
            let page = answer.value();
            let own = parts(&page).1;
            assert!(version == 0 || version == own, "pages of {version} and {own}");
            version = own;
            for item in page["items"].as_array().unwrap() {
                let (key, version, token) = parts(item);
                assert!(state.insert(key.clone(), (version, token)).is_none(), "{key} is on two pages");
            }
            match page["metadata"]["continue"].as_str() {
                Some(next) if !next.is_empty() => next.clone_into(&mut token),
                _ => return Some((version, state)),
            }
        }
    }

    /// Watches from the last version on, and lists again where that is forgotten.
    fn watch(&self) {
        let mut since = None;
        while !self.is_done() || since.is_none() {
            let Some(version) = since.or_else(|| self.relist()) else {
                self.wait();
                continue;
            };
            since = self.follow(version);
            self.wait();
        }
    }

    fn relist(&self) -> Option<u64> {
        let began = self.moment();
        let (version, state) = self.list(0)?;
        self.record(began, Told::Listed { version, state });
        Some(version)
    }

    /// Follows the changes after a version; gives the last one, or `None` if it is forgotten.
    fn follow(&self, after: u64) -> Option<u64> {
        let path =
            format!("{MAPS}?watch=true&resourceVersion={after}&allowWatchBookmarks=true&timeoutSeconds=5");
        let events = match self.ask("GET", &path).try_watch() {
            Ok(Ok(events)) => events,
            Ok(Err(answer)) if answer.code == 410 => return None,
            Ok(Err(answer)) if answer.code == STOPPING => return Some(after),
            Ok(Err(answer)) => panic!("{answer:?}"),
            Err(_) => return Some(after),
        };
        let mut watched = Watched { after, events: Vec::new(), until: after };
        let forgotten = self.take(&events, &mut watched);
        let until = watched.until;
        self.watches.lock().unwrap().push(watched);
        (!forgotten).then_some(until)
    }

    /// Takes events until the watch ends; says whether it did because its version is forgotten.
    fn take(&self, events: &Events, watched: &mut Watched) -> bool {
        loop {
            let event = match events.next(QUIET) {
                Ok(Some(event)) => event,
                Ok(None) => return false,
                Err(_) if self.is_done() => return false,
                Err(_) => continue,
            };
            let (key, version, token) = parts(&event["object"]);
            let what = event["type"].as_str().unwrap().to_owned();
            match what.as_str() {
                "ERROR" => {
                    assert_eq!(event["object"]["code"], 410, "{event}");
                    return true;
                }
                "BOOKMARK" => {}
                _ => watched.events.push(Event { what, key, token, version }),
            }
            watched.until = version;
        }
    }
}

/// Name, version and token of an object.
fn parts(object: &Value) -> (String, u64, String) {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let version = text(&object["metadata"]["resourceVersion"]).parse().unwrap_or_default();
    (text(&object["metadata"]["name"]), version, text(&object["data"]["token"]))
}

/// One write that is begun.
struct Write<'a> {
    soak: &'a Soak,
    key: String,
    token: String,
    began: Moment,
}

impl Write<'_> {
    fn path(&self) -> String {
        format!("{MAPS}/{}", self.key)
    }

    fn object(&self) -> Value {
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": self.key}, "data": {"token": self.token}})
    }

    fn create(self) {
        let answer = self.soak.answer(self.soak.ask("POST", MAPS).object(JSON, &self.object()));
        self.written(answer, Some(0));
    }

    /// Changes what it has just read, unless somebody else was faster.
    fn update(self) {
        let read = self.soak.answer(self.soak.ask("GET", &self.path()));
        let Some(mut object) = read.filter(|answer| answer.code == 200).map(|answer| answer.value()) else {
            return self.soak.wait();
        };
        let over = parts(&object).1;
        object["data"]["token"] = json!(self.token);
        let answer = self.soak.answer(self.soak.ask("PUT", &self.path()).object(JSON, &object));
        self.written(answer, Some(over));
    }

    fn patch(self, kind: &str, patch: &Value) {
        let answer = self.soak.answer(self.soak.ask("PATCH", &self.path()).body(kind, patch.to_string()));
        self.written(answer, None);
    }

    fn delete(self) {
        let answer = self.soak.answer(self.soak.ask("DELETE", &self.path()));
        let key = self.key.clone();
        match answer {
            Some(answer) if answer.code == 200 => self.soak.record(self.began, Told::Deleted { key }),
            Some(answer) if answer.code == 404 => self.soak.record(self.began, Told::Absent { key }),
            Some(answer) if answer.code == 409 => {}
            Some(answer) => panic!("{answer:?}"),
            None => {
                self.soak.record(self.began, Told::Lost { key, token: None });
                self.soak.wait();
            }
        }
    }

    fn written(self, answer: Option<Answer>, over: Option<u64>) {
        let Self { soak, key, token, began } = self;
        match answer {
            Some(answer) if matches!(answer.code, 200 | 201) => {
                let (_, version, _) = parts(&answer.value());
                soak.record(began, Told::Written { key, token, version, over });
            }
            Some(answer) if answer.code == 404 => soak.record(began, Told::Absent { key }),
            Some(answer) if matches!(answer.code, 409 | 422) => {}
            Some(answer) => panic!("{answer:?}"),
            None => {
                soak.record(began, Told::Lost { key, token: Some(token) });
                soak.wait();
            }
        }
    }
}
