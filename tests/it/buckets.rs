//! Snapshots in buckets: put there, verified, listed, deleted and fetched.

use crate::support::binary;
use crate::support::cluster::{Cluster, SOON};
use crate::support::https::{Https, JSON};
use crate::support::process::{Output, run, wait_for};
use crate::support::s3::{BUCKET, KEYS, STORAGE, Storage};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use std::time::Duration;

/// `knarr snapshot`, told of the bucket, with keys in its environment.
fn snapshot(cluster: &Cluster, words: &[&str], keys: (&str, &str)) -> Output {
    let binary = binary().display().to_string();
    let folder = |name: &str| cluster.sandbox.folder.join(name).display().to_string();
    let (flag, value) = match words[0] {
        "save" => ("--kubeconfig", folder("kubeconfig")),
        _ => ("--data-dir", folder("data")),
    };
    let bucket = [
        "--s3",
        "--s3-insecure",
        "--s3-endpoint",
        STORAGE,
        "--s3-bucket",
        BUCKET,
        "--s3-region",
        "harbour-1",
        "--s3-folder",
        "of us",
    ];
    let all = [&[binary.as_str(), "snapshot"], &words[..1], &[flag, &value], &bucket, &words[1..]].concat();
    let mut command = cluster.sandbox.command(Duration::from_secs(60), &all);
    command.env("AWS_ACCESS_KEY_ID", keys.0).env("AWS_SECRET_ACCESS_KEY", keys.1);
    run(command, "")
}

fn map(name: &str, value: &str) -> serde_json::Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"value": value}})
}

#[test]
fn snapshots_are_kept_in_a_bucket() {
    let mut cluster = Cluster::control_plane();
    let storage = Storage::start(cluster.sandbox.network());
    let maps = "/api/v1/namespaces/default/configmaps";
    assert_eq!(Https::new(&cluster).send("POST", maps, JSON, &map("one", "before")).0, 201);
    storage.fail(1);
    let first = snapshot(&cluster, &["save"], KEYS).ok();
    let name =
        first.lines().next().unwrap().split(": ").next().unwrap().rsplit('/').next().unwrap().to_owned();
    assert!(first.contains(&format!("and s3://{BUCKET}/of us/{name}")), "{first}");
    assert_eq!(storage.names(), [format!("of us/{name}")]);
    what_fails_is_told(&cluster, &storage);
    // Larger than one part, of what cannot be compressed.
    for number in 0..26 {
        let bytes: Vec<u8> = (0..22_000).flat_map(|_| base::random::bytes::<32>()).collect();
        let big = map(&format!("big{number}"), &STANDARD.encode(bytes));
        assert_eq!(Https::new(&cluster).send("POST", maps, JSON, &big).0, 201);
    }
    snapshot(&cluster, &["save", "--name", "big"], KEYS).ok();
    assert_eq!(storage.in_parts(), (1, 0));
    by_secret(&cluster);
    let list = snapshot(&cluster, &["list"], KEYS).ok();
    assert!(
        list.starts_with("NAME") && list.lines().count() == 4 && list.contains("s3://backups/of us/big-"),
        "{list}"
    );
    let big =
        list.lines().find(|line| line.starts_with("big-")).unwrap().split(' ').next().unwrap().to_owned();
    assert!(snapshot(&cluster, &["delete", "nothing-1"], KEYS).stderr.contains("there is no snapshot s3://"));
    snapshot(&cluster, &["prune", "--keep", "0", "--name", "secretly"], KEYS).ok();
    snapshot(&cluster, &["delete", name.trim_end_matches(".snapshot")], KEYS).ok();
    assert_eq!(storage.names(), [format!("of us/{big}.snapshot")]);
    // It comes back from there alone.
    assert_eq!(Https::new(&cluster).call("DELETE", &format!("{maps}/one")).0, 200);
    assert_eq!(cluster.stop("TERM"), 0);
    cluster.sandbox.sh("rm data/server/db/snapshots/*").ok();
    let missing = snapshot(&cluster, &["restore", "nothing-1"], KEYS);
    assert!(missing.code == 1 && missing.stderr.contains("NoSuchKey"), "{missing:?}");
    snapshot(&cluster, &["restore", &big], KEYS).ok();
    cluster.start();
    assert_eq!(Https::new(&cluster).call("GET", &format!("{maps}/one")).1["data"]["value"], "before");
}

/// One clear sentence, no key in it, and the snapshot is on the disk still.
fn what_fails_is_told(cluster: &Cluster, storage: &Storage) {
    let refused = snapshot(cluster, &["save"], (KEYS.0, "another-secret"));
    assert!(refused.code == 1 && refused.stderr.contains("SignatureDoesNotMatch"), "{refused:?}");
    assert!(refused.stderr.contains("the snapshot is in /"), "{refused:?}");
    let refused = snapshot(cluster, &["save"], ("", ""));
    assert!(
        refused.code == 1 && refused.stderr.contains("the keys of the bucket are missing"),
        "{refused:?}"
    );
    let refused = snapshot(cluster, &["save", "--s3-timeout", "soon"], KEYS);
    assert!(refused.code == 1 && refused.stderr.contains("--s3-timeout"), "{refused:?}");
    storage.damage(true);
    let damaged = snapshot(cluster, &["save", "--name", "damaged"], KEYS);
    assert!(damaged.code == 1 && damaged.stderr.contains("does not read as it was sent"), "{damaged:?}");
    storage.damage(false);
    snapshot(cluster, &["prune", "--keep", "0", "--name", "damaged"], KEYS).ok();
    let screen = cluster.screen();
    assert!(!screen.contains(KEYS.1) && !screen.contains("another-secret"), "a key is shown: {screen}");
}

/// The rest may be in a Secret, with k3s' names.
fn by_secret(cluster: &Cluster) {
    let words = format!(
        "-n kube-system create secret generic bucket --from-literal=etcd-s3-access-key={} --from-literal=etcd-s3-secret-key={}",
        KEYS.0, KEYS.1
    );
    cluster.kubectl(&words);
    snapshot(cluster, &["save", "--name", "secretly", "--s3-config-secret", "bucket"], ("", "")).ok();
    let refused = snapshot(cluster, &["save", "--s3-config-secret", "nowhere"], ("", ""));
    assert!(refused.code == 1 && refused.stderr.contains("--s3-config-secret nowhere"), "{refused:?}");
}

/// Every second, so that all there is to see of years is seen in some.
#[test]
fn snapshots_by_the_clock_are_kept_in_a_bucket() {
    let mut cluster = Cluster::prepared(&["--disable-agent"]);
    let settings = json!({"s3": true, "s3-insecure": true, "s3-endpoint": STORAGE, "s3-bucket": BUCKET,
        "s3-region": "harbour-1", "s3-folder": "of us", "s3-access-key": KEYS.0, "s3-secret-key": KEYS.1,
        "snapshot-schedule-cron": "@every 1s", "snapshot-retention": 2, "s3-retention": 1});
    std::fs::write(cluster.sandbox.folder.join("config.yaml"), settings.to_string()).unwrap();
    let storage = Storage::start(cluster.sandbox.network());
    cluster.start();
    let first = wait_for("a snapshot in the bucket", SOON, || storage.names().into_iter().next());
    assert!(first.starts_with("of us/scheduled-node-1-"), "{first}");
    wait_for("another one in its place", SOON, || {
        let names = storage.names();
        (names.len() == 1 && names[0] != first).then_some(())
    });
    let here = cluster.sandbox.folder.join("data/server/db/snapshots");
    wait_for("two on the disk", SOON, || {
        let all = std::fs::read_dir(&here).unwrap().flatten();
        let whole = all.filter(|file| file.file_name().to_string_lossy().ends_with(".snapshot"));
        (whole.count() == 2).then_some(())
    });
    // The storage lets nobody in: that is told, what is there stays, and all is as before when it does again.
    storage.deny(true);
    let told = cluster.event("node-1", "SnapshotFailed");
    assert!(told.starts_with("the snapshot is in /") && told.contains("and not in the bucket: "), "{told}");
    assert!(told.ends_with("(bucket backups): AccessDenied: no & no"), "{told}");
    assert!(cluster.screen().contains(&told) && !cluster.screen().contains(KEYS.1), "{}", cluster.screen());
    let before = storage.names();
    storage.deny(false);
    let saved = cluster.event("node-1", "SnapshotSaved");
    assert!(saved.contains(&format!(" and s3://{BUCKET}/of us/scheduled-node-1-")), "{saved}");
    wait_for("a newer one in the bucket", SOON, || {
        let names = storage.names();
        (names.len() == 1 && names != before).then_some(())
    });
}
