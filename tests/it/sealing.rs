//! Secrets that lie sealed in the datastore, turned on, off and over while the cluster runs.

use crate::support::binary;
use crate::support::cluster::Cluster;
use crate::support::process::Output;
use crate::support::servers::Servers;
use serde_json::json;
use std::fs;

const WORD: &str = "swordfish-in-the-datastore";

fn encrypt(cluster: &Cluster, action: &str) -> Output {
    let binary = binary().display().to_string();
    let kubeconfig = cluster.sandbox.folder.join("kubeconfig").display().to_string();
    cluster.sandbox.run(&[&binary, "secrets-encrypt", action, "--kubeconfig", &kubeconfig])
}

/// What the newest row of a Secret begins with, in the database.
fn row(cluster: &Cluster, name: &str) -> String {
    let database = cluster.sandbox.folder.join("data/server/db/state.db");
    let connection = rusqlite::Connection::open(database).unwrap();
    let sql = "SELECT value FROM log WHERE key = ?1 ORDER BY revision DESC LIMIT 1";
    let key = format!("secrets/default/{name}");
    let value: Vec<u8> = connection.query_one(sql, [key], |row| row.get(0)).unwrap();
    String::from_utf8_lossy(&value).into_owned()
}

fn word(cluster: &Cluster, name: &str) -> String {
    cluster.kubectl(&format!("get secret {name} -o go-template={{{{.data.word}}}}"))
}

fn make(cluster: &Cluster, name: &str) {
    cluster.kubectl(&format!("create secret generic {name} --from-literal=word={WORD}"));
}

#[test]
fn secrets_are_sealed_and_opened_while_the_cluster_runs() {
    let mut cluster = Cluster::control_plane();
    let status = encrypt(&cluster, "status").ok();
    assert!(status.starts_with("Secrets are not sealed"), "{status}");
    make(&cluster, "one");
    let open = word(&cluster, "one");
    assert!(row(&cluster, "one").contains("\"word\""));
    let enabled = encrypt(&cluster, "enable").ok();
    assert!(enabled.starts_with("Secrets are sealed") && enabled.contains("written"), "{enabled}");
    make(&cluster, "two");
    let head = |name: &str| row(&cluster, name).splitn(6, ':').take(5).collect::<Vec<_>>().join(":");
    let first = head("one");
    assert!(first.starts_with("k8s:enc:aesgcm:v1:key-") && head("two") == first, "{first}");
    let refused = encrypt(&cluster, "enable");
    assert!(refused.code == 1 && refused.stderr.contains("sealed already"), "{refused:?}");
    encrypt(&cluster, "rotate").ok();
    let second = head("one");
    assert!(second != first && head("two") == second, "{second}");
    let configuration = cluster.sandbox.folder.join("data/server/cred/encryption-config.json");
    let mode = fs::metadata(&configuration).map(|file| std::os::unix::fs::MetadataExt::mode(&file) & 0o777);
    assert_eq!(mode.unwrap(), 0o600);
    // Killed and started, everything is opened again.
    cluster.stop("KILL");
    cluster.start();
    assert_eq!((word(&cluster, "one"), word(&cluster, "two")), (open.clone(), open.clone()));
    // Without the keys it does not start, and says why.
    assert_eq!(cluster.stop("TERM"), 0);
    let aside = configuration.with_extension("aside");
    fs::rename(&configuration, &aside).unwrap();
    let refused = cluster.fails(&[]);
    assert!(refused.code == 1 && refused.stderr.contains("cannot be opened"), "{refused:?}");
    fs::rename(&aside, &configuration).unwrap();
    cluster.start();
    encrypt(&cluster, "disable").ok();
    assert!(row(&cluster, "one").contains("\"word\"") && row(&cluster, "two").contains("\"word\""));
    assert_eq!(word(&cluster, "two"), open);
    let refused = encrypt(&cluster, "rotate");
    assert!(refused.code == 1 && refused.stderr.contains("not sealed"), "{refused:?}");
}

/// A configuration in Kubernetes' words, as people bring it.
#[test]
fn a_file_says_what_is_sealed() {
    let mut cluster = Cluster::prepared(&["--disable-agent"]);
    let file = cluster.sandbox.folder.join("encryption.yaml");
    let configuration = |provider: &str, secret: &str| {
        json!({
            "apiVersion": "apiserver.config.k8s.io/v1", "kind": "EncryptionConfiguration",
            "resources": [{"resources": ["secrets", "configmaps"], "providers": [{provider: {"keys": [{"name": "mine", "secret": secret}]}}, {"identity": {}}]}],
        })
    };
    let good = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    cluster.tell(&["--encryption-provider-config", &file.display().to_string()]);
    for (text, why) in [
        ("kind: Pod".to_owned(), "--encryption-provider-config"),
        (configuration("aescbc", good).to_string(), "aescbc is not spoken"),
        (configuration("secretbox", "AAEC").to_string(), "32 bytes, and this one 3"),
    ] {
        fs::write(&file, text).unwrap();
        let refused = cluster.fails(&[]);
        assert!(refused.code == 1 && refused.stderr.contains(why), "{why}: {refused:?}");
    }
    fs::write(&file, configuration("secretbox", good).to_string()).unwrap();
    cluster.start();
    make(&cluster, "one");
    assert!(row(&cluster, "one").starts_with("k8s:enc:secretbox:v1:mine:"));
    let refused = encrypt(&cluster, "rotate");
    assert!(
        refused.code == 1 && refused.stderr.contains("encryption.yaml says what is sealed"),
        "{refused:?}"
    );
    let status = encrypt(&cluster, "status").ok();
    assert!(status.contains("mine") && status.contains("encryption.yaml"), "{status}");
}

/// What one server seals the others open, also by keys that came while they ran.
#[test]
fn servers_that_share_an_etcd_seal_alike() {
    let servers = Servers::new(2, &["--disable-controller-manager", "--disable-scheduler"]);
    let (one, two) = (servers.https(0), servers.https(1));
    let secrets = "/api/v1/namespaces/default/secrets";
    let secret = |name: &str| json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": {"word": WORD}});
    assert_eq!(one.send("POST", secrets, "application/json", &secret("one")).0, 201);
    let url = "/knarr/v1/secrets-encrypt";
    for action in ["enable", "rotate"] {
        let (code, status) =
            one.send("POST", &format!("{url}?action={action}"), "application/json", &json!({}));
        assert!(code == 200 && status["enabled"] == true, "{status}");
        assert_eq!(two.send("POST", secrets, "application/json", &secret(action)).0, 201);
        for name in ["one", action] {
            let path = format!("{secrets}/{name}");
            let (there, here) = (two.call("GET", &path), one.call("GET", &path));
            assert!(there == here && there.0 == 200, "{name}: {there:?} {here:?}");
            let stored = servers.stored(&format!("/knarr/secrets/default/{name}"));
            let key = status["key"].as_str().unwrap();
            assert!(stored.starts_with(&format!("k8s:enc:aesgcm:v1:{key}:")), "{name}: {stored:?}");
        }
        assert_eq!(two.call("GET", url).1["key"], status["key"]);
    }
}
