//! The server's certificates: told of, and issued again while it runs.

use crate::support::binary;
use crate::support::cluster::Cluster;
use crate::support::https::{Https, JSON};
use crate::support::process::Output;
use serde_json::json;
use std::time::Duration;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn certificate(cluster: &Cluster, words: &[&str]) -> Output {
    let binary = binary().display().to_string();
    cluster.sandbox.run(&[&[binary.as_str(), "certificate"], words].concat())
}

/// The serial number of what the API shows.
fn shown(cluster: &Cluster) -> String {
    let script = "echo | openssl s_client -connect 127.0.0.1:6443 2>/dev/null | openssl x509 -noout -serial";
    cluster.sandbox.sh(script).ok()
}

#[test]
fn certificates_are_issued_again_while_connections_stay() {
    let mut cluster = Cluster::control_plane();
    let at = |name: &str| cluster.sandbox.folder.join(name).display().to_string();
    let (data, kubeconfig) = (at("data"), at("kubeconfig"));
    let told = certificate(&cluster, &["check", "--data-dir", &data]).ok();
    for name in
        ["server/tls/server-ca.crt", "server/tls/serving-kube-apiserver.crt", "server/tls/client-admin.crt"]
    {
        assert!(
            told.lines().any(|line| line.starts_with(name) && line.ends_with("days left")),
            "{name}: {told}"
        );
    }
    let (before, old) = (shown(&cluster), Https::new(&cluster));
    let watch =
        old.ask("GET", &format!("{MAPS}?watch=true")).watch().map_err(|refused| refused.value()).unwrap();
    certificate(&cluster, &["rotate", "--kubeconfig", &kubeconfig]).ok();
    assert_ne!(shown(&cluster), before);
    // The connection of before and its certificate are good still, and the new kubeconfig is.
    let map = |name: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}});
    assert_eq!(old.send("POST", MAPS, JSON, &map("one")).0, 201);
    assert_eq!(Https::new(&cluster).send("POST", MAPS, JSON, &map("two")).0, 201);
    let mut seen = Vec::new();
    while seen.len() < 2 {
        let event = watch.next(Duration::from_secs(20)).unwrap().expect("the watch goes on");
        let name = event["object"]["metadata"]["name"].as_str().unwrap().to_owned();
        seen.extend(["one", "two"].into_iter().find(|own| *own == name));
    }
    assert_eq!(seen, ["one", "two"]);
    // What lies there unread is told of, and what is stopped issues its own at the next start.
    let before = shown(&cluster);
    assert_eq!(cluster.stop("TERM"), 0);
    let stopped = certificate(&cluster, &["rotate", "--stopped", "--data-dir", &data]).ok();
    assert!(stopped.starts_with("8 certificates"), "{stopped}");
    cluster.start();
    assert_ne!(shown(&cluster), before);
    std::fs::write(
        cluster.sandbox.folder.join("data/server/tls/client-admin.crt"),
        "-----BEGIN CERTIFICATE-----\ntorn",
    )
    .unwrap();
    let told = certificate(&cluster, &["check", "--data-dir", &data]);
    assert!(told.code == 1 && told.stdout.contains("unreadable"), "{told:?}");
    let nowhere = certificate(&cluster, &["check", "--data-dir", "/nowhere"]);
    assert!(nowhere.code == 1 && nowhere.stderr.contains("no certificates in /nowhere"), "{nowhere:?}");
}
