//! Stores that share a real etcd: what one writes the others see, in one order, also while members die.

use crate::tests::{Folder, delete, index, put};
use crate::{
    Config, Durability, Event, Expect, Guard, Remote, Store, Unwritten, Vault, WatchError, WriteError,
};
use base::{Phase, Supervisor, clock, process, random};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Child;
use tokio::sync::OnceCell;
use tokio::task::JoinSet;

/// The members of an etcd, each on ports of its own; killed at the end, also when a test fails.
struct Etcd {
    folder: Folder,
    /// Ports for clients and for one another.
    ports: Vec<(u16, u16)>,
    running: Vec<Option<Child>>,
}

impl Etcd {
    fn new(name: &str, members: usize) -> Self {
        let free = || TcpListener::bind("127.0.0.1:0").unwrap();
        // All are held until all are found.
        let held: Vec<_> = (0..members).map(|_| (free(), free())).collect();
        let port = |listener: &TcpListener| listener.local_addr().unwrap().port();
        let ports = held.iter().map(|(client, peer)| (port(client), port(peer))).collect();
        drop(held);
        let folder = Folder::new(name);
        std::fs::create_dir_all(folder.path()).unwrap();
        let mut etcd = Self { folder, ports, running: (0..members).map(|_| None).collect() };
        (0..members).for_each(|at| etcd.start(at));
        etcd
    }

    fn start(&mut self, at: usize) {
        let cluster: Vec<String> = self
            .ports
            .iter()
            .enumerate()
            .map(|(n, (_, peer))| format!("m{n}=http://127.0.0.1:{peer}"))
            .collect();
        let (client, peer) = self.ports[at];
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        let mut command = process::command("etcd");
        command
            .args(["--name", &format!("m{at}"), "--log-level", "error", "--heartbeat-interval", "50"])
            .args(["--election-timeout", "500", "--initial-cluster", &cluster.join(",")])
            .args(["--listen-client-urls", &url(client), "--advertise-client-urls", &url(client)])
            .args(["--listen-peer-urls", &url(peer), "--initial-advertise-peer-urls", &url(peer)])
            .arg("--data-dir")
            .arg(self.folder.path().join(format!("m{at}")))
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .kill_on_drop(true);
        let child = command.spawn().expect("etcd is needed: apt-get install etcd-server");
        self.running[at] = Some(child);
    }

    async fn kill(&mut self, at: usize) {
        if let Some(mut child) = self.running[at].take() {
            child.kill().await.unwrap();
        }
    }

    fn remote(&self) -> Remote {
        let endpoints = self.ports.iter().map(|(client, _)| format!("http://127.0.0.1:{client}")).collect();
        Remote { endpoints, prefix: "/knarr/".to_owned(), ..Remote::default() }
    }

    async fn store(&self, config: &Config) -> (Store<usize>, Supervisor) {
        let supervisor = Supervisor::new();
        let opened = Store::share(&self.remote(), config, (index, Box::new(|_| {})), &supervisor).await;
        (opened.unwrap(), supervisor)
    }
}

fn config() -> Config {
    Config::new(PathBuf::new())
}

async fn caught_up(store: &Store<usize>) {
    store.catch_up().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_writes_the_other_has() {
    let etcd = Etcd::new("etcd-share", 1);
    let (one, _of_one) = etcd.store(&config()).await;
    let (two, of_two) = etcd.store(&config()).await;
    let start = two.revision();
    let mut watch = two.watch("p/", start).unwrap();
    let written = one.write(put("p/a", Expect::Absent, "x", Durability::Durable)).await.unwrap().record;
    assert_eq!(written.value, format!("{{\"v\":\"x\",\"r\":\"{}\"}}", written.revision));
    caught_up(&two).await;
    let seen = two.snapshot().get("p/a").unwrap().clone();
    assert_eq!((&seen.value, seen.revision, seen.index), (&written.value, written.revision, 1));
    let again = two.write(put("p/a", Expect::Absent, "y", Durability::Durable)).await;
    assert!(matches!(again, Err(WriteError::Conflict(Some(found))) if found.revision == written.revision));
    let absent = two.write(delete("p/b", 1, Durability::Durable)).await;
    assert!(matches!(absent, Err(WriteError::Conflict(None))));
    let gone = two.write(delete("p/a", written.revision, Durability::Durable)).await.unwrap();
    assert_eq!(gone.record.value, format!("{{\"v\":\"x\",\"r\":\"{}\"}}", gone.record.revision));
    assert_eq!(gone.previous.unwrap().revision, written.revision);
    let mut events = Vec::new();
    while events.len() < 2 {
        events.extend(watch.next().await.unwrap());
    }
    let events: Vec<_> = events.iter().map(|event| (event.revision(), event.deleted)).collect();
    assert_eq!(events, [(written.revision, false), (gone.record.revision, true)]);
    let past = one.snapshot_at(written.revision).await.unwrap();
    assert_eq!(past.get("p/a").unwrap().value, written.value);
    of_two.drain().await;
    assert_eq!(watch.next().await.unwrap_err(), WatchError::Closed);
}

/// A way to a member on which answers can be kept back.
struct Way {
    url: String,
    is_mute: Arc<AtomicBool>,
    supervisor: Supervisor,
}

impl Way {
    async fn to(member: u16) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (is_mute, supervisor) = (Arc::new(AtomicBool::new(false)), Supervisor::new());
        let (mute, of_way) = (is_mute.clone(), supervisor.clone());
        supervisor.detached("way", Phase::Front, async move {
            while let Ok((client, _)) = listener.accept().await {
                let member = TcpStream::connect(("127.0.0.1", member)).await.unwrap();
                of_way.detached("connection", Phase::Front, carry(client, member, mute.clone()));
            }
        });
        Self { url, is_mute, supervisor }
    }
}

async fn carry(client: TcpStream, member: TcpStream, is_mute: Arc<AtomicBool>) {
    let ((mut questions, mut to_client), (mut answers, mut to_member)) =
        (client.into_split(), member.into_split());
    let answered = async {
        let mut piece = [0; 4096];
        while let Ok(length @ 1..) = answers.read(&mut piece).await {
            if !is_mute.load(Ordering::Acquire) && to_client.write_all(&piece[..length]).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        _ = tokio::io::copy(&mut questions, &mut to_member) => {}
        () = answered => {}
    }
}

fn filled(value: &str, revision: u64) -> String {
    format!("{{\"v\":\"{value}\",\"r\":\"{revision}\"}}")
}

/// Once a store has a value at a key.
async fn having(store: &Store<usize>, key: &str, value: &str) -> u64 {
    let mut watch = store.watch(key, store.revision()).unwrap();
    loop {
        let found = store
            .snapshot()
            .get(key)
            .filter(|record| record.value == filled(value, record.revision))
            .cloned();
        match found {
            Some(record) => return record.revision,
            None => drop(watch.next().await.unwrap()),
        }
    }
}

/// A member carries two writes out and its answers are lost; until they are tried again, another server has changed
/// what they wrote, or put something else in its place. Of a deletion it cannot be known.
#[tokio::test(flavor = "multi_thread")]
async fn what_took_place_without_an_answer_is_known_behind_later_writes() {
    let etcd = Etcd::new("etcd-mute", 1);
    let (two, _of_two) = etcd.store(&config()).await;
    let way = Way::to(etcd.ports[0].0).await;
    let mut remote = etcd.remote();
    remote.endpoints.insert(0, way.url.clone());
    let of_one = Supervisor::new();
    let one = Store::share(&remote, &config(), (index, Box::new(|_| {})), &of_one).await.unwrap();
    let made = one.write(put("p/a", Expect::Absent, "x", Durability::Durable)).await.unwrap().record;
    let going = one.write(put("p/c", Expect::Absent, "x", Durability::Durable)).await.unwrap().record;
    caught_up(&two).await;
    way.is_mute.store(true, Ordering::Release);
    let (mut deleting, of_deletion) = (JoinSet::new(), one.clone());
    deleting
        .spawn(async move { of_deletion.write(delete("p/c", going.revision, Durability::Durable)).await });
    let mut writing = JoinSet::new();
    for (key, expect) in [("p/a", Expect::Revision(made.revision)), ("p/b", Expect::Absent)] {
        let one = one.clone();
        writing.spawn(async move {
            one.write(put(key, expect, "own", Durability::Durable)).await.unwrap().record
        });
    }
    let changed = having(&two, "p/a", "own").await;
    let created = having(&two, "p/b", "own").await;
    two.write(put("p/a", Expect::Revision(changed), "other", Durability::Durable)).await.unwrap();
    two.write(delete("p/b", created, Durability::Durable)).await.unwrap();
    two.write(put("p/b", Expect::Absent, "other", Durability::Durable)).await.unwrap();
    let mut told: Vec<_> =
        writing.join_all().await.iter().map(|record| (record.key.to_string(), record.revision)).collect();
    told.sort();
    assert_eq!(told, [("p/a".to_owned(), changed), ("p/b".to_owned(), created)]);
    // Another may have deleted it.
    let deleted = deleting.join_all().await.pop().unwrap();
    assert!(matches!(deleted, Err(WriteError::Io(_))), "{deleted:?}");
    assert!(two.snapshot().get("p/c").is_none(), "it is gone");
    way.supervisor.drain().await;
}

/// Who decided by a state in which something was given away that it has not seen decides anew.
#[tokio::test(flavor = "multi_thread")]
async fn of_those_who_decide_by_one_state_one_writes() {
    let etcd = Etcd::new("etcd-guard", 1);
    let (one, _of_one) = etcd.store(&config()).await;
    let (two, _of_two) = etcd.store(&config()).await;
    let guard = |since| Guard { names: vec![".ports".to_owned()], since };
    let new = |key: &str| put(key, Expect::Absent, "x", Durability::Durable);
    let start = two.revision();
    let written = one.write_guarded(new("p/a"), &guard(start)).await.unwrap().record;
    let Err(Unwritten::Overtaken(back)) = two.write_guarded(new("p/b"), &guard(start)).await else {
        panic!("what was given since is overlooked")
    };
    // By now it has seen what stood in the way.
    assert!(two.revision() >= written.revision && two.snapshot().get("p/b").is_none());
    one.write(new("p/c")).await.unwrap();
    two.write_guarded(back, &guard(written.revision)).await.unwrap();
    let others = Guard { names: vec![".others".to_owned()], since: start };
    one.write_guarded(new("p/d"), &others).await.unwrap();
    let there = one.write_guarded(new("p/a"), &guard(one.revision())).await;
    let Err(Unwritten::Refused(WriteError::Conflict(Some(found)))) = there else { panic!("it is there") };
    assert_eq!(found.revision, written.revision);
}

/// Revisions that are not of the state come about, too, and who waits for one is not left waiting.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_shared_beside_the_state_is_no_record() {
    let etcd = Etcd::new("etcd-vault", 1);
    let (store, _supervisor) = etcd.store(&config()).await;
    let vault = Vault::new(&etcd.remote()).unwrap();
    assert_eq!(vault.get(".secret").await.unwrap(), None);
    assert!(vault.add(".secret", b"one".to_vec()).await.unwrap());
    assert!(!vault.add(".secret", b"two".to_vec()).await.unwrap());
    assert!(!vault.replace(".secret", b"two", b"three".to_vec()).await.unwrap());
    assert!(vault.replace(".secret", b"one", b"three".to_vec()).await.unwrap());
    assert_eq!(vault.get(".secret").await.unwrap().unwrap(), b"three");
    let foreign = Vault::new(&Remote { prefix: "/another/".to_owned(), ..etcd.remote() }).unwrap();
    assert!(foreign.add("key", Vec::new()).await.unwrap());
    caught_up(&store).await;
    assert_eq!(store.snapshot().count(""), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_reads_pages_and_a_lost_way_is_read_anew() {
    let mut etcd = Etcd::new("etcd-pages", 1);
    let (one, of_one) = etcd.store(&config()).await;
    for n in 0..1_203 {
        one.write(put(&format!("p/{n}"), Expect::Absent, "x", Durability::Volatile)).await.unwrap();
    }
    let (two, _of_two) = etcd.store(&config()).await;
    assert_eq!(two.snapshot().count("p/"), 1_203);
    let mut watch = two.watch("p/", two.revision()).unwrap();
    let last = two.snapshot().get("p/7").unwrap().revision;
    of_one.drain().await;
    // While the second is cut off, another writes and has all before it forgotten.
    etcd.kill(0).await;
    etcd.start(0);
    let vault = Vault::new(&etcd.remote()).unwrap();
    let (three, _of_three) = etcd.store(&config()).await;
    let gone = three.write(delete("p/7", last, Durability::Durable)).await.unwrap().record.revision;
    vault.forget(gone).await;
    caught_up(&two).await;
    assert_eq!(two.snapshot().count("p/"), 1_202);
    // The watch heard of it, or has to list anew.
    let heard = watch.next().await;
    assert!(match heard {
        Ok(events) => events.iter().any(|event| event.revision() == gone),
        Err(error) => matches!(error, WatchError::Compacted { .. }),
    });
}

/// One of those who share it has etcd forget what is old, for all.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_old_is_forgotten_by_turns() {
    let etcd = Etcd::new("etcd-compact", 1);
    let often = || Config { upkeep_interval: Duration::from_millis(300), ..config() };
    let (one, _of_one) = etcd.store(&often()).await;
    let (two, _of_two) = etcd.store(&often()).await;
    let first = one.write(put("p/a", Expect::Absent, "1", Durability::Durable)).await.unwrap().record;
    let members = super::members::Members::new(&etcd.remote(), Arc::new(crate::Unsealed)).unwrap();
    let past = || async {
        let range = super::api::RangeRequest {
            key: b"/knarr/p/a".to_vec(),
            revision: i64::try_from(first.revision).unwrap(),
            ..Default::default()
        };
        members.range(range).await
    };
    assert_eq!(past().await.unwrap().kvs.len(), 1);
    let mut last = first.revision;
    let forgotten = async {
        while past().await.is_ok() {
            let write = put("p/a", Expect::Revision(last), "2", Durability::Durable);
            last = two.write(write).await.unwrap().record.revision;
            clock::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), forgotten).await.expect("etcd forgets it");
    for store in [&one, &two] {
        let refused = store.snapshot_at(first.revision).await;
        assert!(matches!(refused, Err(crate::ReadError::Compacted { .. })));
        caught_up(store).await;
        assert_eq!(store.snapshot().get("p/a").unwrap().revision, last);
    }
}

/// Revisions of a state that was brought from elsewhere go on from where they were.
#[tokio::test(flavor = "multi_thread")]
async fn revisions_go_on_behind_those_of_before() {
    const BEFORE: u64 = 1_000_000_000;
    let etcd = Etcd::new("etcd-behind", 1);
    assert!(Vault::new(&etcd.remote()).unwrap().is_empty().await.unwrap());
    assert!(Vault::new(&etcd.remote()).unwrap().begin_behind(BEFORE).await.unwrap());
    let (one, of_one) = etcd.store(&config()).await;
    assert!(one.revision() > BEFORE && one.revision() < BEFORE + 100);
    let made = one.write(put("p/a", Expect::Absent, "1", Durability::Durable)).await.unwrap().record;
    let changed = put("p/a", Expect::Revision(made.revision), "2", Durability::Durable);
    let changed = one.write(changed).await.unwrap().record;
    assert!(made.revision > BEFORE && changed.revision > made.revision);
    assert_eq!(changed.create_revision, made.revision);
    of_one.drain().await;
    let (two, _of_two) = etcd.store(&config()).await;
    let found = two.snapshot().get("p/a").unwrap().clone();
    assert_eq!((found.revision, &found.value), (changed.revision, &changed.value));
    assert_eq!(two.snapshot_at(made.revision).await.unwrap().get("p/a").unwrap().value, made.value);
    let gone = two.write(delete("p/a", found.revision, Durability::Durable)).await.unwrap().record;
    assert_eq!(gone.value, format!("{{\"v\":\"2\",\"r\":\"{}\"}}", gone.revision));
}

/// Seals by a word that is known, or by one that has to be learned.
struct Words {
    own: &'static str,
    known: std::sync::Mutex<Vec<&'static str>>,
}

impl crate::Sealer for Words {
    fn seal(&self, key: &str, value: &[u8]) -> Option<Vec<u8>> {
        key.starts_with("secret/").then(|| [self.own.as_bytes(), b"#", value].concat())
    }

    fn open<'a>(&self, _: &str, written: &'a [u8]) -> Result<std::borrow::Cow<'a, [u8]>, String> {
        let Some(at) = written.iter().position(|byte| *byte == b'#') else { return Ok(written.into()) };
        let word = String::from_utf8_lossy(&written[..at]).into_owned();
        let known = self.known.lock().unwrap().iter().any(|known| *known == word);
        if known { Ok(written[at + 1..].into()) } else { Err(format!("{word} is not known")) }
    }

    fn renew(&self) -> std::pin::Pin<Box<dyn Future<Output = Result<(), String>> + Send + '_>> {
        Box::pin(async {
            *self.known.lock().unwrap() = vec!["one", "two"];
            Ok(())
        })
    }
}

/// What another one seals in a way that is not known yet is not lost: how is learned, and it is read then.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_sealed_in_a_new_way_is_learned_of() {
    let etcd = Etcd::new("etcd-sealed", 1);
    let sealed = |own| Config { sealer: Arc::new(Words { own, known: vec![own].into() }), ..config() };
    let (one, _of_one) = etcd.store(&sealed("one")).await;
    let (two, _of_two) = etcd.store(&sealed("two")).await;
    for (writer, reader, key) in [(&one, &two, "secret/a"), (&two, &one, "secret/b"), (&one, &two, "open/c")]
    {
        let written = writer.write(put(key, Expect::Absent, "x", Durability::Durable)).await.unwrap().record;
        caught_up(reader).await;
        assert_eq!(reader.snapshot().get(key).unwrap().value, written.value);
    }
    let members = super::members::Members::new(&etcd.remote(), Arc::new(crate::Unsealed)).unwrap();
    let range = super::api::RangeRequest { key: b"/knarr/secret/b".to_vec(), ..Default::default() };
    assert!(members.range(range).await.unwrap().kvs[0].value.starts_with(b"two#"));
}

/// What writers know of their writes.
#[derive(Default)]
struct Told {
    /// By revision: key and value.
    acknowledged: BTreeMap<u64, (String, String)>,
    refused: u32,
    unknown: u32,
}

/// Writes to keys of its own and to some that all write to, until it is told to stop; every value once.
async fn write_on(stores: Vec<Store<usize>>, number: usize, stop: Arc<AtomicBool>) -> Told {
    let mut told = Told::default();
    for round in 0.. {
        if stop.load(Ordering::Acquire) {
            break;
        }
        let dice: [u8; 3] = random::bytes();
        let store = &stores[usize::from(dice[0]) % stores.len()];
        let key = match dice[1] % 4 {
            0 => format!("shared/{}", dice[2] % 3),
            other => format!("own/{number}-{other}"),
        };
        let value = format!("{number}.{round}");
        let found = store.snapshot().get(&key).cloned();
        let write = match &found {
            Some(found) if dice[2].is_multiple_of(8) => delete(&key, found.revision, Durability::Durable),
            Some(found) => put(&key, Expect::Revision(found.revision), &value, Durability::Durable),
            None => put(&key, Expect::Absent, &value, Durability::Durable),
        };
        let deletes = matches!(write.change, crate::Change::Delete(..));
        match store.write(write).await {
            Ok(written) => {
                let said = if deletes { "gone".to_owned() } else { value };
                let twice = told.acknowledged.insert(written.record.revision, (key, said));
                assert!(twice.is_none(), "a revision was given twice");
            }
            Err(WriteError::Conflict(_)) => told.refused += 1,
            Err(_) => told.unknown += 1,
        }
    }
    told
}

fn value_of(event: &Event<usize>) -> String {
    if event.deleted {
        return "gone".to_owned();
    }
    let text = String::from_utf8(event.record.value.to_vec()).unwrap();
    text.split('"').nth(3).unwrap().to_owned()
}

/// All events until a revision, as one store tells them.
async fn hear(store: Store<usize>, from: u64, until: Arc<OnceCell<u64>>) -> Vec<Arc<Event<usize>>> {
    let mut watch = store.watch("", from).unwrap();
    let mut events: Vec<Arc<Event<usize>>> = Vec::new();
    loop {
        let last = events.last().map_or(from, |event| event.revision());
        if until.get().is_some_and(|until| last >= *until) {
            return events;
        }
        if let Ok(heard) = tokio::time::timeout(Duration::from_millis(100), watch.next()).await {
            events.extend(heard.unwrap());
        }
    }
}

/// Checks a history against what writers were told.
fn check(events: &[Arc<Event<usize>>], told: &[Told]) {
    let mut state: HashMap<&str, u64> = HashMap::new();
    let mut values = HashSet::new();
    let mut last = 0;
    let by_revision: HashMap<u64, &Arc<Event<usize>>> =
        events.iter().map(|event| (event.revision(), event)).collect();
    for event in events {
        assert!(event.revision() > last, "{} comes after {last}", event.revision());
        last = event.revision();
        let before = event.previous.as_ref().map(|previous| previous.revision);
        assert_eq!(
            before,
            state.get(&*event.record.key).copied(),
            "each event goes on from the last of its key"
        );
        if event.deleted {
            state.remove(&*event.record.key);
        } else {
            assert!(values.insert(value_of(event)), "{} took place twice", value_of(event));
            state.insert(&event.record.key, event.revision());
        }
    }
    for (revision, (key, value)) in told.iter().flat_map(|told| &told.acknowledged) {
        let event = by_revision.get(revision).unwrap_or_else(|| panic!("{key}: {revision} was lost"));
        assert_eq!((&*event.record.key, value_of(event)), (key.as_str(), value.clone()));
    }
}

/// Three stores on three members, of which one after the other is killed under writes.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_acknowledged_write_is_lost_and_no_event_missed_while_members_die() {
    const ROUNDS: usize = 5;
    let mut etcd = Etcd::new("etcd-chaos", 3);
    let mut opened = Vec::new();
    for _ in 0..3 {
        opened.push(etcd.store(&config()).await);
    }
    let stores: Vec<Store<usize>> = opened.iter().map(|(store, _)| store.clone()).collect();
    let stop = Arc::new(AtomicBool::new(false));
    let until = Arc::new(OnceCell::new());
    let (mut hearing, mut writing) = (JoinSet::new(), JoinSet::new());
    for store in &stores {
        hearing.spawn(hear(store.clone(), store.revision(), until.clone()));
    }
    for number in 0..4 {
        writing.spawn(write_on(stores.clone(), number, stop.clone()));
    }
    for _ in 0..ROUNDS {
        clock::sleep(Duration::from_millis(1_200)).await;
        let [dice]: [u8; 1] = random::bytes();
        let at = usize::from(dice) % 3;
        etcd.kill(at).await;
        clock::sleep(Duration::from_millis(800)).await;
        etcd.start(at);
    }
    clock::sleep(Duration::from_secs(2)).await;
    stop.store(true, Ordering::Release);
    let told = writing.join_all().await;
    let last = stores[0].write(put("last", Expect::Absent, "end", Durability::Durable)).await.unwrap();
    until.set(last.record.revision).unwrap();
    let histories = hearing.join_all().await;
    let acknowledged: usize = told.iter().map(|told| told.acknowledged.len()).sum();
    let (refused, unknown) = told.iter().fold((0, 0), |(r, u), told| (r + told.refused, u + told.unknown));
    println!("{acknowledged} acknowledged, {refused} refused, {unknown} unknown");
    assert!(acknowledged > 200, "the cluster went on: {acknowledged} acknowledged");
    let shape = |events: &[Arc<Event<usize>>]| -> Vec<(u64, String, String)> {
        events.iter().map(|event| (event.revision(), event.record.key.to_string(), value_of(event))).collect()
    };
    for history in &histories {
        check(history, &told);
        // Who began later heard the rest of the same.
        let (all, own) = (shape(&histories[0]), shape(history));
        assert!(all.ends_with(&own) || own.ends_with(&all), "servers tell different histories");
    }
}
