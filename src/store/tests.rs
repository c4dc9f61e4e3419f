//! The store against a model, and each promise of its door.

use super::*;
use base::Supervisor;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::path::Path;

/// The length of a value's "v".
pub(crate) fn index(_: &str, value: &[u8]) -> usize {
    value.split(|byte| *byte == b'"').nth(3).map_or(0, <[u8]>::len)
}

pub(crate) fn put(key: &str, expect: Expect, value: &str, durability: Durability) -> Write<usize> {
    let template =
        Template { bytes: format!("{{\"v\":\"{value}\",\"r\":\"\"}}").into_bytes(), at: 13 + value.len() };
    let change = Change::Put(template, value.len());
    Write { key: key.to_owned(), expect, change, durability }
}

pub(crate) fn delete(key: &str, revision: u64, durability: Durability) -> Write<usize> {
    let change = Change::Delete(Template { bytes: b"gone".to_vec(), at: 4 }, 4);
    Write { key: key.to_owned(), expect: Expect::Revision(revision), change, durability }
}

/// A folder of its own for one test, removed at the end also when it fails.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("knarr-store-{name}-{}", std::process::id()));
        match std::fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => panic!("{error}"),
            _ => Self(folder),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn db(&self) -> PathBuf {
        self.0.join("state.db")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            eprintln!("{}: {error}", self.0.display());
        }
    }
}

impl crate::Beside for usize {
    fn topic(&self) -> &str {
        if self.is_multiple_of(2) { "even" } else { "odd" }
    }
}

pub(crate) async fn open(path: &Path) -> (Store<usize>, Supervisor) {
    open_with(Config::new(path)).await.unwrap()
}

async fn open_with(config: Config) -> Result<(Store<usize>, Supervisor), Error> {
    let supervisor = Supervisor::new();
    Ok((Store::open(config, index, Box::new(|_| {}), &supervisor).await?, supervisor))
}

/// The one sentence a person sees when the store cannot be opened, with the path cut to its name.
async fn refusal(folder: &Folder) -> String {
    let Err(error) = open_with(Config::new(folder.db())).await else { panic!("it opened") };
    error.to_string().replace(folder.db().to_str().unwrap(), "state.db")
}

#[tokio::test]
async fn a_value_carries_its_own_revision() {
    let folder = Folder::new("splice");
    let (store, supervisor) = open(&folder.db()).await;
    let first = store.revision();
    let written = store.write(put("/a", Expect::Absent, "x", Durability::Durable)).await.unwrap();
    assert_eq!(written.record.revision, first + 1);
    assert_eq!(written.record.value, format!("{{\"v\":\"x\",\"r\":\"{}\"}}", first + 1));
    assert!(written.previous.is_none());
    let again = store.write(put("/a", Expect::Absent, "y", Durability::Durable)).await;
    assert!(matches!(again, Err(WriteError::Conflict(Some(found))) if found.revision == first + 1));
    let stale = store.write(delete("/a", first, Durability::Durable)).await;
    assert!(matches!(stale, Err(WriteError::Conflict(Some(_)))));
    let absent = store.write(delete("/b", 1, Durability::Durable)).await;
    assert!(matches!(absent, Err(WriteError::Conflict(None))));
    assert_eq!(store.revision(), first + 1);
    supervisor.drain().await;
    assert!(matches!(
        store.write(put("/b", Expect::Absent, "x", Durability::Durable)).await,
        Err(WriteError::Closed)
    ));
}

#[tokio::test]
async fn ranges_and_pages_are_in_key_order() {
    let folder = Folder::new("range");
    let (store, _supervisor) = open(&folder.db()).await;
    for key in ["/p/b", "/p/a", "/q/a", "/p/c", "/o"] {
        store.write(put(key, Expect::Absent, "x", Durability::Durable)).await.unwrap();
    }
    let snapshot = store.snapshot();
    let keys = |after| -> Vec<&str> { snapshot.range("/p/", after).map(|record| &*record.key).collect() };
    assert_eq!(keys(None), ["/p/a", "/p/b", "/p/c"]);
    assert_eq!(keys(Some("/p/a")), ["/p/b", "/p/c"]);
    assert_eq!(keys(Some("/p/c")), [""; 0]);
    assert_eq!((snapshot.count("/p/"), snapshot.count("/")), (3, 5));
}

#[tokio::test]
async fn a_watch_sees_its_keys_in_order_and_its_progress() {
    let folder = Folder::new("watch");
    let (store, supervisor) = open(&folder.db()).await;
    let start = store.revision();
    let mut watch = store.watch("/p/", start).unwrap();
    for n in 0..3 {
        store.write(put(&format!("/p/{n}"), Expect::Absent, "x", Durability::Durable)).await.unwrap();
        store.write(put(&format!("/q/{n}"), Expect::Absent, "x", Durability::Volatile)).await.unwrap();
    }
    let gone = store.write(delete("/p/0", start + 1, Durability::Durable)).await.unwrap();
    assert_eq!(gone.previous.map(|record| record.revision), Some(start + 1));
    let mut seen = Vec::new();
    while watch.progress().unwrap() < store.revision() {
        seen.extend(watch.next().await.unwrap());
    }
    let seen: Vec<_> = seen.iter().map(|event| (event.revision() - start, event.deleted)).collect();
    assert_eq!(seen, [(1, false), (3, false), (5, false), (7, true)]);
    supervisor.drain().await;
    assert_eq!(watch.next().await.unwrap_err(), WatchError::Closed);
}

#[tokio::test]
async fn a_watch_that_fell_off_the_history_is_told_so() {
    let folder = Folder::new("ring");
    let config = Config { history_bytes: 4096, ..Config::new(folder.db()) };
    let (store, _supervisor) = open_with(config).await.unwrap();
    let start = store.revision();
    let mut slow = store.watch("/", start).unwrap();
    for n in 0..100 {
        store.write(put(&format!("/{n}"), Expect::Absent, "x", Durability::Volatile)).await.unwrap();
    }
    assert!(matches!(slow.next().await, Err(WatchError::Compacted { oldest }) if oldest > start));
    assert!(matches!(store.watch("/", start), Err(WatchError::Compacted { .. })));
    assert!(store.watch("/", store.revision()).is_ok());
}

#[tokio::test]
async fn a_quiet_topic_is_not_compacted_by_others_noise() {
    let folder = Folder::new("topics");
    let config = Config { history_bytes: 4096, ..Config::new(folder.db()) };
    let (store, _supervisor) = open_with(config).await.unwrap();
    let start = store.revision();
    let mut quiet = store.watch("quiet/", start).unwrap();
    for n in 0..100 {
        store.write(put(&format!("loud/{n}"), Expect::Absent, "x", Durability::Volatile)).await.unwrap();
    }
    assert!(matches!(store.watch("loud/", start), Err(WatchError::Compacted { .. })));
    let written = store.write(put("quiet/1", Expect::Absent, "x", Durability::Durable)).await.unwrap();
    let seen: Vec<u64> = quiet.next().await.unwrap().iter().map(|event| event.revision()).collect();
    assert_eq!(seen, [written.record.revision]);
    assert_eq!(quiet.progress().unwrap(), store.revision());
}

#[tokio::test]
async fn the_past_is_read_exactly_until_it_is_compacted() {
    let folder = Folder::new("past");
    // No history in memory: every read of the past comes from a pin or from the log.
    let config = Config { history_bytes: 0, ..Config::new(folder.db()) };
    let (store, _supervisor) = open_with(config).await.unwrap();
    let one = store.write(put("/a", Expect::Absent, "1", Durability::Durable)).await.unwrap().record;
    let two = put("/a", Expect::Revision(one.revision), "2", Durability::Durable);
    let two = store.write(two).await.unwrap().record;
    let pinned = store.snapshot();
    store.write(delete("/a", two.revision, Durability::Durable)).await.unwrap();
    let at = store.snapshot_at(one.revision).await.unwrap();
    assert_eq!(at.get("/a").unwrap().value, one.value);
    assert!(matches!(store.snapshot_at(u64::MAX).await, Err(ReadError::Future { .. })));
    store.pin(&pinned);
    // The first upkeep lets what is older than the second be compacted.
    store.upkeep().await;
    store.upkeep().await;
    store.write(put("/b", Expect::Absent, "1", Durability::Durable)).await.unwrap();
    assert!(matches!(store.snapshot_at(one.revision).await, Err(ReadError::Compacted { .. })));
    assert!(
        matches!(store.snapshot_at(two.revision).await, Err(ReadError::Compacted { .. })),
        "it was pinned"
    );
}

/// A page of a list goes on for as long as others may, and no longer because memory still has its state.
#[tokio::test]
async fn what_is_compacted_is_not_read_from_memory() {
    let folder = Folder::new("forgotten");
    let (store, _supervisor) = open(&folder.db()).await;
    let one = store.write(put("/a", Expect::Absent, "1", Durability::Durable)).await.unwrap().record.revision;
    store.pin(&store.snapshot());
    let two = store.write(put("/b", Expect::Absent, "1", Durability::Durable)).await.unwrap().record.revision;
    store.upkeep().await;
    store.upkeep().await;
    store.write(put("/c", Expect::Absent, "1", Durability::Durable)).await.unwrap();
    let refused = store.snapshot_at(one).await;
    assert!(matches!(refused, Err(ReadError::Compacted { oldest }) if oldest == two));
    assert_eq!(store.snapshot_at(two).await.unwrap().revision(), two);
    assert!(store.watch("/", one).is_ok(), "watches go on from what memory has");
}

#[tokio::test]
async fn compaction_leaves_one_row_per_key() {
    let folder = Folder::new("compact");
    let (store, supervisor) = open(&folder.db()).await;
    for key in ["/a", "/b", "/c"] {
        let mut expect = Expect::Absent;
        for _ in 0..400 {
            let written = store.write(put(key, expect, "x", Durability::Durable)).await.unwrap();
            expect = Expect::Revision(written.record.revision);
        }
    }
    let last = store.snapshot().get("/b").unwrap().revision;
    store.write(delete("/b", last, Durability::Durable)).await.unwrap();
    store.upkeep().await;
    store.upkeep().await;
    supervisor.drain().await;
    // What one drain left over, idle steps of the next start finish.
    let (store, supervisor) = open(&folder.db()).await;
    store.upkeep().await;
    store.upkeep().await;
    for n in 0..100 {
        store.write(put(&format!("/n{n}"), Expect::Absent, "x", Durability::Durable)).await.unwrap();
    }
    supervisor.drain().await;
    let rows = rusqlite::Connection::open(folder.db()).unwrap();
    let rows: u32 = rows.query_one("SELECT count(*) FROM log", [], |row| row.get(0)).unwrap();
    assert_eq!(rows, 102);
    assert_eq!(open(&folder.db()).await.0.snapshot().count("/"), 102);
}

#[tokio::test]
async fn what_is_free_is_given_back_to_the_disk() {
    let folder = Folder::new("shrink");
    let (store, supervisor) = open(&folder.db()).await;
    let value = "x".repeat(60_000);
    for n in 0..200 {
        let written =
            store.write(put(&format!("/{n}"), Expect::Absent, &value, Durability::Durable)).await.unwrap();
        store.write(delete(&format!("/{n}"), written.record.revision, Durability::Durable)).await.unwrap();
    }
    supervisor.drain().await;
    let mut log = crate::log::Log::open(&Config::new(folder.db())).unwrap();
    let last = store.revision();
    log.transact(|work| crate::log::compact(work, 0, last, 1_000)).unwrap();
    let mut steps = 1;
    while log.give_back().unwrap() {
        steps += 1;
    }
    drop(log);
    // What may stay free is 4 MiB; 12 were written.
    let bytes = std::fs::metadata(folder.db()).unwrap().len();
    assert!(steps > 1 && bytes < 5 << 20, "{bytes} bytes after {steps} steps");
    assert_eq!(open(&folder.db()).await.0.revision(), last);
}

#[tokio::test]
async fn an_orderly_stop_keeps_volatile_state_and_its_revisions() {
    let folder = Folder::new("volatile");
    let (store, supervisor) = open(&folder.db()).await;
    store.write(put("/lease", Expect::Absent, "1", Durability::Volatile)).await.unwrap();
    let revision = store.snapshot().get("/lease").unwrap().revision;
    store.write(put("/lease", Expect::Revision(revision), "2", Durability::Volatile)).await.unwrap();
    let last = store.revision();
    supervisor.drain().await;
    let (store, _supervisor) = open(&folder.db()).await;
    assert_eq!((store.revision(), store.snapshot().get("/lease").unwrap().revision), (last, last));
}

#[tokio::test]
async fn a_full_disk_refuses_writes_and_recovers() {
    let folder = Folder::new("full");
    let config = Config { max_bytes: 300 << 10, ..Config::new(folder.db()) };
    let (store, _supervisor) = open_with(config).await.unwrap();
    let value = "x".repeat(10_000);
    let mut written = Vec::new();
    let refused = loop {
        let write = put(&format!("/{}", written.len()), Expect::Absent, &value, Durability::Durable);
        match store.write(write).await {
            Ok(done) => written.push(done.record),
            Err(refused) => break refused,
        }
    };
    assert!(matches!(refused, WriteError::Full));
    assert_eq!(store.snapshot().count("/"), written.len());
    let lease = store.write(put("/lease", Expect::Absent, "1", Durability::Volatile)).await.unwrap();
    for record in &written[..10] {
        store.write(delete(&record.key, record.revision, Durability::Durable)).await.unwrap();
    }
    // What was deleted is superseded for one to two upkeeps; then a refused write makes room for the next.
    let mut rounds = 0;
    let more = loop {
        store.upkeep().await;
        match store.write(put("/more", Expect::Absent, &value, Durability::Durable)).await {
            Err(WriteError::Full) if rounds < 3 => rounds += 1,
            other => break other.unwrap(),
        }
    };
    assert!(more.record.revision > lease.record.revision);
    let stale = put("/more", Expect::Absent, &value, Durability::Durable);
    assert!(matches!(store.write(stale).await, Err(WriteError::Conflict(Some(_)))));
}

#[tokio::test]
async fn what_cannot_be_opened_is_said_in_a_sentence() {
    let folder = Folder::new("refused");
    let (_store, supervisor) = open(&folder.db()).await;
    assert_eq!(
        refusal(&folder).await,
        "the database state.db is in use by another knarr: stop that one first, or choose another data \
         directory with --data-dir"
    );
    supervisor.drain().await;
    let change = |sql: &str| rusqlite::Connection::open(folder.db()).unwrap().execute_batch(sql).unwrap();
    change("PRAGMA user_version = 99");
    assert_eq!(
        refusal(&folder).await,
        "the database state.db has schema version 99, this knarr knows up to 1: run the newer knarr that \
         wrote it, or restore a snapshot"
    );
    let foreign = "state.db is not a knarr database: move it away, or choose another data directory with \
                   --data-dir";
    change("PRAGMA user_version = 1; PRAGMA application_id = 7");
    assert_eq!(refusal(&folder).await, foreign);
    std::fs::write(folder.db(), "not a database, but some text that is long enough to be one".repeat(99))
        .unwrap();
    assert_eq!(refusal(&folder).await, foreign);
    std::fs::remove_file(folder.db()).unwrap();
    std::fs::create_dir(folder.db()).unwrap();
    assert!(refusal(&folder).await.starts_with("cannot open the database state.db: Is a directory"));
}

#[tokio::test]
async fn the_database_refuses_a_lost_update_by_itself() {
    let folder = Folder::new("unique");
    let (store, supervisor) = open(&folder.db()).await;
    store.write(put("/a", Expect::Absent, "1", Durability::Durable)).await.unwrap();
    supervisor.drain().await;
    let mut log = crate::log::Log::open(&Config::new(folder.db())).unwrap();
    let row = |revision| crate::log::Row {
        revision,
        key: "/a",
        prev_revision: Some(0),
        create_revision: revision,
        value: Some(b"lost"),
    };
    let refused =
        log.transact(|transaction| crate::log::append(transaction, &row(1 << 40), &crate::Unsealed));
    assert!(refused.unwrap_err().to_string().contains("UNIQUE"));
}

/// A step of the model test.
#[derive(Clone, Debug)]
enum Step {
    Put { key: u8, right: bool, durable: bool },
    Delete { key: u8, right: bool, durable: bool },
    Upkeep,
    Reopen,
    Past(u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => (0u8..6, prop::bool::weighted(0.9), any::<bool>())
            .prop_map(|(key, right, durable)| Step::Put { key, right, durable }),
        4 => (0u8..6, prop::bool::weighted(0.9), any::<bool>())
            .prop_map(|(key, right, durable)| Step::Delete { key, right, durable }),
        1 => Just(Step::Upkeep),
        1 => Just(Step::Reopen),
        2 => any::<u8>().prop_map(Step::Past),
    ];
    prop::collection::vec(step, 1..60)
}

type Keys = BTreeMap<String, (Vec<u8>, u64, u64)>;

/// What the store should hold: key → (value, revision, create revision), at each revision.
#[derive(Default)]
struct Model {
    now: Keys,
    past: BTreeMap<u64, Keys>,
}

impl Model {
    fn check(&self, snapshot: &Snapshot<usize>) {
        let found: Keys = snapshot
            .range("", None)
            .map(|r| (r.key.to_string(), (r.value.to_vec(), r.revision, r.create_revision)))
            .collect();
        assert_eq!(found, self.past.get(&snapshot.revision()).unwrap_or(&self.now).clone());
        assert!(snapshot.range("", None).all(|record| record.index == index("", &record.value)));
    }

    async fn change(&mut self, store: &Store<usize>, write: Write<usize>, right: bool) {
        let key = write.key.clone();
        let before = store.revision();
        let deletes = matches!(write.change, Change::Delete(..));
        let exists = self.now.get(&key).map(|(_, revision, _)| *revision);
        let should = match write.expect {
            Expect::Absent => exists.is_none() && !deletes,
            Expect::Revision(revision) => exists == Some(revision),
        };
        assert!(should || !right || deletes);
        match store.write(write).await {
            Ok(written) => {
                assert!(should);
                let record = written.record;
                assert!(record.revision > before);
                assert_eq!(written.previous.map(|previous| previous.revision), exists);
                if deletes {
                    self.now.remove(&key);
                } else {
                    let created = self.now.get(&key).map_or(record.revision, |(_, _, created)| *created);
                    self.now.insert(key, (record.value.to_vec(), record.revision, created));
                }
                self.past.insert(record.revision, self.now.clone());
            }
            Err(WriteError::Conflict(found)) => {
                assert!(!should);
                assert_eq!(found.map(|record| record.revision), exists);
            }
            Err(other) => panic!("{other:?}"),
        }
    }
}

async fn follow(path: &Path, steps: Vec<Step>) {
    let (mut store, mut supervisor) = open(path).await;
    let mut model = Model::default();
    let (mut floor, mut last_upkeep) = (store.revision(), store.revision());
    let kind = |durable| if durable { Durability::Durable } else { Durability::Volatile };
    for (n, step) in steps.into_iter().enumerate() {
        match step {
            Step::Put { key, right, durable } | Step::Delete { key, right, durable } => {
                let key = format!("/{key}");
                let expect = match (model.now.get(&key), right) {
                    (Some((_, revision, _)), true) => Expect::Revision(*revision),
                    (None, true) | (Some(_), false) => Expect::Absent,
                    (None, false) => Expect::Revision(1),
                };
                let mut write = put(&key, expect, &n.to_string(), kind(durable));
                if matches!(step, Step::Delete { .. }) {
                    let Expect::Revision(revision) = expect else { continue };
                    write = delete(&key, revision, kind(durable));
                }
                model.change(&store, write, right).await;
            }
            Step::Upkeep => {
                store.upkeep().await;
                floor = std::mem::replace(&mut last_upkeep, store.revision());
            }
            Step::Reopen => {
                let before = store.revision();
                supervisor.drain().await;
                drop(store);
                (store, supervisor) = open(path).await;
                assert_eq!(store.revision(), before);
                (floor, last_upkeep) = (before, before);
            }
            Step::Past(some) => {
                let known: Vec<u64> = model.past.range(floor..).map(|(revision, _)| *revision).collect();
                if !known.is_empty() {
                    let revision = known[usize::from(some) % known.len()];
                    model.check(&store.snapshot_at(revision).await.unwrap());
                }
            }
        }
        model.check(&store.snapshot());
    }
    supervisor.drain().await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn behaves_like_its_model(steps in steps()) {
        let folder = Folder::new("model");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(follow(&folder.db(), steps));
    }
}

#[tokio::test]
async fn a_narrower_topic_wakes_for_its_own_alone_and_is_forgotten() {
    let folder = Folder::new("topics");
    let (store, supervisor) = open(&folder.db()).await;
    let wrote = async |key: &str, value: &str| {
        store.write(put(key, Expect::Absent, value, Durability::Volatile)).await.unwrap();
    };
    let before = store.revision();
    let mut even = store.watch_topic("pods/", "even", before).unwrap();
    let mut one = store.watch_topic("nodes/", "nodes/a", before).unwrap();
    wrote("pods/x", "odd").await;
    wrote("other/y", "even").await;
    tokio::select! {
        biased;
        found = even.next() => panic!("{found:?}"),
        () = std::future::ready(()) => {}
    }
    wrote("pods/z", "even").await;
    wrote("nodes/ab", "1").await;
    wrote("nodes/a", "1").await;
    let keys = |events: Vec<Arc<crate::Event<usize>>>| -> Vec<String> {
        events.iter().map(|event| event.record.key.to_string()).collect()
    };
    assert_eq!(keys(even.next().await.unwrap()), ["pods/z"]);
    assert_eq!(keys(one.next().await.unwrap()), ["nodes/a"]);
    assert_eq!(store.shared.history.narrower_topics(), 2);
    drop((even, one));
    assert_eq!(store.shared.history.narrower_topics(), 0);
    supervisor.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_share_commits_and_lose_nothing() {
    let folder = Folder::new("bench");
    let rate = crate::bench::durable_creates(&folder.db(), 64, 2_000, 2_048).await.unwrap();
    println!("64 writers: {rate:.0} durable creates per second");
    let (store, supervisor) = open(&folder.db()).await;
    assert_eq!(store.snapshot().count("/registry/pods/default/"), 2_000);
    supervisor.drain().await;
    let one = Folder::new("bench-one");
    let rate = crate::bench::durable_creates(&one.db(), 1, 500, 2_048).await.unwrap();
    println!("1 writer: {rate:.0} durable creates per second");
}
