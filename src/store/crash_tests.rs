//! SIGKILL at random moments under load, many times: every acknowledged write is found, nothing that
//! contradicts what was acknowledged, and revisions never go back.

use crate::tests::{Folder, delete, open, put};
use crate::{Durability, Expect, Store};
use base::Supervisor;
use std::collections::BTreeMap;
use std::io::Write;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader};

const CHILD: &str = "KNARR_STORE_CRASH_CHILD";
const ROUNDS: u64 = 24;
const WRITERS: u64 = 8;

/// What one writer of the child has been told: its n-th write left its key at this revision, or
/// deleted it.
#[derive(Clone, Copy, Debug)]
struct Acknowledged {
    n: u64,
    revision: u64,
    deleted: bool,
}

fn tell(line: &str) {
    let mut out = std::io::stdout().lock();
    out.write_all(line.as_bytes()).unwrap();
    out.flush().unwrap();
}

/// Writes `key` again and again, every seventh time a deletion, and reports each acknowledgement.
async fn write_forever(store: Store<usize>, writer: u64) {
    let durability = if writer == 0 { Durability::Volatile } else { Durability::Durable };
    let key = format!("/{writer}");
    let mut current = store.snapshot().get(&key).map(|record| record.revision);
    for n in 1.. {
        let deletes = n % 7 == 0 && current.is_some();
        let write = match current {
            Some(revision) if deletes => delete(&key, revision, durability),
            Some(revision) => put(&key, Expect::Revision(revision), &n.to_string(), durability),
            None => put(&key, Expect::Absent, &n.to_string(), durability),
        };
        let written = store.write(write).await.unwrap().record;
        current = (!deletes).then_some(written.revision);
        let line = format!("{writer} {n} {} {}\n", written.revision, u8::from(deletes));
        // Told before the next write is begun, or two of them could be unknown to the parent.
        tell(&line);
        if writer == 0 {
            // The volatile writer would starve the others of the processor.
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child() {
    let Some(path) = std::env::var_os(CHILD) else { return };
    let (store, supervisor) = open(path.as_ref()).await;
    for writer in 0..WRITERS {
        supervisor.detached("writer", base::Phase::Work, write_forever(store.clone(), writer));
    }
    std::future::pending::<()>().await;
}

/// Runs the child until it is killed `after` its first acknowledgement; returns the last one of each
/// writer, and the highest revision.
async fn run_and_kill(folder: &Folder, after: Duration) -> (BTreeMap<u64, Acknowledged>, u64) {
    let mut command = base::process::command(std::env::current_exe().unwrap());
    command.args(["--exact", "crash_tests::child", "--nocapture", "--test-threads=1"]);
    command.env(CHILD, folder.db()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut last = BTreeMap::new();
    let mut highest = 0;
    let mut take = |line: &str| -> bool {
        let fields: Vec<u64> = line.split(' ').map_while(|field| field.parse().ok()).collect();
        let [writer, n, revision, deleted] = fields[..] else { return false };
        last.insert(writer, Acknowledged { n, revision, deleted: deleted == 1 });
        highest = highest.max(revision);
        true
    };
    while !take(&lines.next_line().await.unwrap().expect("the child writes")) {}
    let reading = async {
        while let Some(line) = lines.next_line().await.unwrap() {
            take(&line);
        }
    };
    let killing = async {
        base::clock::sleep(after).await;
        child.start_kill().unwrap();
        child.wait().await.unwrap();
    };
    tokio::join!(reading, killing);
    (last, highest)
}

/// Reopens the database, compares it with what was acknowledged, and returns its first free revision.
async fn check(folder: &Folder, last: &BTreeMap<u64, Acknowledged>) -> u64 {
    let (store, supervisor): (Store<usize>, Supervisor) = open(&folder.db()).await;
    let snapshot = store.snapshot();
    for (writer, acknowledged) in last.iter().filter(|(writer, _)| **writer != 0) {
        let record = snapshot.get(&format!("/{writer}"));
        let Some(record) = record else {
            let may_be_gone = acknowledged.deleted || (acknowledged.n + 1).is_multiple_of(7);
            assert!(may_be_gone, "writer {writer} lost {acknowledged:?}");
            continue;
        };
        let value = std::str::from_utf8(&record.value).unwrap();
        // The acknowledged state, or the one write that was under way when the process died.
        let is = |n: u64| value == format!("{{\"v\":\"{n}\",\"r\":\"{}\"}}", record.revision);
        let same = is(acknowledged.n) && record.revision == acknowledged.revision && !acknowledged.deleted;
        let next = is(acknowledged.n + 1) && record.revision > acknowledged.revision;
        assert!(same || next, "writer {writer}: {value} after {acknowledged:?}");
    }
    let revision = store.revision();
    let write = put(&format!("/probe-{revision}"), Expect::Absent, "x", Durability::Durable);
    assert!(store.write(write).await.unwrap().record.revision > revision);
    supervisor.drain().await;
    revision
}

#[tokio::test]
async fn sigkill_loses_nothing_acknowledged() {
    let folder = Folder::new("crash");
    let mut before = 0;
    // Not random from run to run, yet never in step with the child: multiples of an odd prime.
    for round in 0..ROUNDS {
        let after = Duration::from_millis(5 + round * 7919 % 160);
        let (last, highest) = run_and_kill(&folder, after).await;
        let revision = check(&folder, &last).await;
        assert!(revision >= highest, "revision {revision} after {highest} was handed out");
        assert!(highest > before, "revision {highest} after {before} was handed out");
        before = revision;
    }
}
