//! What is saved of a cluster comes back: on the same machine, on another, and in another kind of datastore.

use crate::support::cluster::Cluster;
use crate::support::process::Output;
use crate::support::{binary, https::Https};
use serde_json::{Value, json};
use std::fs;
use std::path::PathBuf;

fn names(cluster: &Cluster) -> Vec<String> {
    let list = cluster.kubectl("get configmaps -o jsonpath={.items[*].metadata.name}");
    let mut names: Vec<String> = list.split(' ').map(str::to_owned).collect();
    names.retain(|name| !name.is_empty() && name != "kube-root-ca.crt");
    names.sort();
    names
}

/// Runs `knarr snapshot` on the server's machine.
fn snapshot(cluster: &Cluster, words: &[&str]) -> Output {
    let binary = binary().display().to_string();
    let (action, rest) = words.split_first().unwrap();
    let folder = |name: &str| cluster.sandbox.folder.join(name).display().to_string();
    let (flag, value) = match *action {
        "save" => ("--kubeconfig", folder("kubeconfig")),
        _ => ("--data-dir", folder("data")),
    };
    cluster.sandbox.run(&[&[binary.as_str(), "snapshot", action, flag, &value], rest].concat())
}

fn saved(output: &Output) -> PathBuf {
    assert_eq!(output.code, 0, "{output:?}");
    PathBuf::from(output.stdout.split(": ").next().unwrap())
}

#[test]
fn what_was_saved_comes_back() {
    let mut cluster = Cluster::control_plane();
    cluster.kubectl("create configmap one");
    cluster.kubectl("create secret generic hidden --from-literal=word=swordfish-in-a-snapshot");
    let first = saved(&snapshot(&cluster, &["save"]));
    let bytes = fs::read(&first).unwrap();
    assert!(!bytes.windows(9).any(|part| part == b"swordfish"), "it is sealed");
    assert_eq!(
        fs::metadata(&first).map(|file| std::os::unix::fs::MetadataExt::mode(&file) & 0o777).unwrap(),
        0o600
    );
    cluster.kubectl("create configmap two");
    cluster.kubectl("delete configmap one");
    let before: u64 = version(&cluster.json("configmap two"));
    let second = saved(&snapshot(&cluster, &["save", "--name", "second"]));
    let list = snapshot(&cluster, &["list"]).ok();
    assert!(list.starts_with("NAME") && list.lines().count() == 3, "{list}");
    // Not while it runs.
    let refused = snapshot(&cluster, &["restore", &first.display().to_string()]);
    assert!(refused.code == 1 && refused.stderr.contains("in use by another knarr"), "{refused:?}");
    assert_eq!(cluster.stop("TERM"), 0);
    bad_snapshots_change_nothing(&cluster, &first);
    let name = first.file_name().unwrap().to_str().unwrap().trim_end_matches(".snapshot").to_owned();
    let restored = snapshot(&cluster, &["restore", &name]).ok();
    assert!(restored.contains("objects of") && restored.contains("the state before is in"), "{restored}");
    cluster.start();
    assert_eq!(names(&cluster), ["one"]);
    let one = cluster.json("configmap one");
    assert!(version(&one) > before, "revisions never go back: {} after {before}", version(&one));
    let word = cluster.kubectl("get secret hidden -o jsonpath={.data.word}");
    assert_eq!(word, "c3dvcmRmaXNoLWluLWEtc25hcHNob3Q=");
    cluster.stop("KILL");
    snapshot(&cluster, &["restore", &second.display().to_string()]).ok();
    cluster.start();
    assert_eq!(names(&cluster), ["two"]);
    assert_eq!(snapshot(&cluster, &["delete", &name]).code, 0);
    let gone = snapshot(&cluster, &["delete", &name]);
    assert!(gone.code == 1 && gone.stderr.contains("there is no snapshot"), "{gone:?}");
    let refused = snapshot(&cluster, &["save", "--name", "../up"]);
    assert!(refused.code == 1 && refused.stderr.contains("letters, digits"), "{refused:?}");
}

fn version(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap()
}

/// What is cut off, damaged or of another cluster is refused in a sentence, and the state is as it was.
fn bad_snapshots_change_nothing(cluster: &Cluster, good: &std::path::Path) {
    let database = cluster.sandbox.folder.join("data/server/db/state.db");
    let state = fs::read(&database).unwrap();
    let bytes = fs::read(good).unwrap();
    let bad = cluster.sandbox.folder.join("bad.snapshot");
    let mut bent = bytes.clone();
    let middle = bent.len() / 2;
    bent[middle] ^= 1;
    for (content, why) in [
        (&bytes[..bytes.len() - 9], "it is cut off"),
        (&bytes[..10], "no snapshot of knarr"),
        (bent.as_slice(), "damaged"),
        (b"hello\n".as_slice(), "no snapshot of knarr"),
    ] {
        fs::write(&bad, content).unwrap();
        let refused = snapshot(cluster, &["restore", &bad.display().to_string()]);
        assert!(refused.code == 1 && refused.stderr.contains(why), "{why}: {refused:?}");
    }
    let wrong = cluster.sandbox.folder.join("wrong");
    fs::write(&wrong, "another-secret-of-some-length").unwrap();
    let (file, token) = (good.display().to_string(), wrong.display().to_string());
    let refused = snapshot(cluster, &["restore", &file, "--token-file", &token]);
    assert!(
        refused.code == 1 && refused.stderr.contains("the token is not that of its cluster"),
        "{refused:?}"
    );
    let refused = snapshot(cluster, &["restore", "nothing"]);
    assert!(refused.code == 1 && refused.stderr.contains("nothing.snapshot"), "{refused:?}");
    assert!(fs::read(&database).unwrap() == state, "the state was touched");
}

/// A disk that is full while a snapshot is written costs that snapshot alone.
#[test]
fn a_full_disk_under_a_snapshot_is_told_of_and_loses_nothing() {
    let mut cluster = Cluster::prepared(&["--disable-agent"]);
    let folder = cluster.sandbox.folder.join("small").display().to_string();
    cluster.sandbox.sh(&format!("mkdir {folder} && mount -t tmpfs -o size=16k tmpfs {folder}")).ok();
    cluster.tell(&["--snapshot-dir", &folder]);
    cluster.start();
    let refused = snapshot(&cluster, &["save"]);
    assert!(refused.code == 1 && refused.stderr.contains("free some space on the disk"), "{refused:?}");
    assert_eq!(cluster.sandbox.sh(&format!("ls {folder}")).ok(), "", "no half of one is left");
    cluster.kubectl("create configmap after");
    assert_eq!(names(&cluster), ["after"]);
}

/// By the clock, and no more than are to be kept.
#[test]
fn snapshots_are_taken_by_the_clock_and_the_oldest_deleted() {
    let mut cluster = Cluster::prepared(&["--disable-agent"]);
    cluster.tell(&["--snapshot-schedule-cron", "* * * * *", "--snapshot-retention", "1"]);
    cluster.start();
    let https = Https::new(&cluster);
    for _ in 0..3 {
        assert_eq!(
            https.send("POST", "/knarr/v1/snapshots?name=mine", "application/json", &json!({})).0,
            200
        );
        cluster.sandbox.run(&["sleep", "1.1"]).ok();
    }
    let scheduled = || snapshot(&cluster, &["list"]).ok().matches("scheduled-node-1-").count();
    crate::support::process::wait_for("a snapshot by the clock", std::time::Duration::from_secs(75), || {
        (scheduled() == 1).then_some(())
    });
    assert_eq!(
        snapshot(&cluster, &["list"]).ok().matches("mine-node-1-").count(),
        3,
        "others' are left alone"
    );
    let pruned = snapshot(&cluster, &["prune", "--keep", "1"]).ok();
    assert_eq!(pruned.lines().count(), 2, "{pruned}");
    let stranger = https.ask("POST", "/knarr/v1/snapshots?name=mine").by("stranger").send();
    assert_eq!(stranger.code, 403, "not for everybody");
}
