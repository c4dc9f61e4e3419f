//! The state of a cluster is brought from one datastore to another, and what servers share is sealed with another token.

use crate::support::binary;
use crate::support::https::JSON;
use crate::support::servers::Servers;
use serde_json::json;
use std::fs;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

#[test]
fn state_is_brought_from_one_datastore_to_another() {
    let mut servers = Servers::new(1, &["--disable-controller-manager", "--disable-scheduler"]);
    let map =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "one"}, "data": {"a": "b"}});
    let (code, made) = servers.https(0).send("POST", MAPS, JSON, &map);
    assert_eq!(code, 201, "{made}");
    rotated(&mut servers);
    let kubeconfig = servers.sandbox.folder.join("s0/kubeconfig").display().to_string();
    let saved = [&binary().display().to_string(), "snapshot", "save", "--kubeconfig", &kubeconfig];
    let saved = servers.sandbox.run(&saved).ok();
    let file = saved.split(": ").next().unwrap();
    assert_eq!(servers.stop(0, "TERM"), 0);
    // From a snapshot to a place of its own in etcd, from there to a database, and to another place in etcd.
    let restored = servers.knarr(0, &["snapshot", "restore", file, "--datastore-prefix", "/other"]).ok();
    assert!(restored.contains("objects of"), "{restored}");
    let again = servers.knarr(0, &["snapshot", "restore", file, "--datastore-prefix", "/other"]);
    assert!(again.code == 1 && again.stderr.contains("/other"), "{again:?}");
    let to_sqlite = ["datastore", "migrate", "to-sqlite", "--datastore-prefix", "/other"];
    let recent = servers.knarr(0, &to_sqlite);
    assert!(recent.stderr.contains("wrote to the datastore less than a minute ago"), "{recent:?}");
    let brought = servers.knarr_later(0, &to_sqlite).ok();
    assert!(brought.contains("objects were brought"), "{brought}");
    assert!(servers.sandbox.folder.join("s0/data/server/db/state.db").is_file());
    let to_etcd = ["datastore", "migrate", "to-etcd", "--datastore-prefix", "/third"];
    servers.knarr(0, &to_etcd).ok();
    let again = servers.knarr(0, &to_etcd);
    assert!(again.code == 1 && again.stderr.contains("/third"), "{again:?}");
    let nothing = servers.knarr(0, &["datastore", "migrate", "to-sqlite", "--datastore-prefix", "/nothing"]);
    assert!(nothing.stderr.contains("there is no cluster in the datastore"), "{nothing:?}");
    servers.tell(0, &["--datastore-prefix", "/third"]);
    servers.start(0);
    let (code, found) = servers.https(0).call("GET", &format!("{MAPS}/one"));
    assert_eq!((code, &found["data"]["a"]), (200, &json!("b")), "{found}");
    let version = |map: &serde_json::Value| {
        map["metadata"]["resourceVersion"].as_str().unwrap().parse::<u64>().unwrap()
    };
    assert!(version(&found) > version(&made), "revisions never go back");
    assert_eq!(found["metadata"]["uid"], made["metadata"]["uid"]);
}

/// Who comes with the former token is refused, and who has the new one finds the same authorities.
fn rotated(servers: &mut Servers) {
    let (authority, sealed) = (servers.authority(0), servers.stored("/knarr/.bootstrap"));
    let new = servers.knarr(0, &["token", "rotate"]).ok();
    assert_ne!(servers.stored("/knarr/.bootstrap"), sealed, "it is sealed anew");
    assert_eq!(servers.stop(0, "TERM"), 0);
    let refused = servers.fails(0, &[]);
    assert!(refused.stderr.contains("the token is not that of the cluster in the datastore"), "{refused:?}");
    fs::write(servers.sandbox.folder.join("token"), new).unwrap();
    servers.start(0);
    assert_eq!(servers.authority(0), authority);
}
