//! Nodes that pull images from each other: `--embedded-registry`.

use crate::support::cluster::SOON;
use crate::support::fleet::{Fleet, SERVER};
use crate::support::image;
use crate::support::process::wait_for;
use serde_json::Value;
use std::fs;
use std::path::Path;

/// Images of a registry that is nowhere.
const FIRST: &str = "nowhere.test/team/app:1";
const SECOND: &str = "nowhere.test/team/app:2";

fn pod(name: &str, node: &str, image: &str) -> String {
    format!(
        r#"apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  nodeName: {node}
  terminationGracePeriodSeconds: 0
  containers:
  - {{name: main, image: "{image}", command: [sh, -c, 'cat /www/index.html; exec sleep 10000']}}
"#
    )
}

#[test]
fn nodes_pull_images_from_each_other() {
    let mut fleet = Fleet::prepared(&["--embedded-registry"]);
    fleet
        .cluster
        .sandbox
        .sh("mkdir -p /etc/knarr; printf 'mirrors:\n  nowhere.test:\n' > /etc/knarr/registries.yaml")
        .ok();
    fleet.cluster.start();
    let token = fleet.token_file();
    fleet.machine("b", 3);
    let images = fleet.cluster.sandbox.folder.join("b/data/agent/images");
    image::write(&images.join("first.tar"), FIRST, "from b\n");
    image::write(&images.join("second.tar"), SECOND, "from b too\n");
    fleet.start("b", &["--token-file", &token]);
    fleet.machine("c", 4);
    fleet.start("c", &["--token-file", &token, "--disable-default-registry-endpoint"]);
    fleet.node_is_ready("b");
    fleet.node_is_ready("c");
    // Nodes need not say yet that they have an image: that takes them up to ten seconds.
    wait_for("images on b", SOON, || {
        let screen = fleet.screen("b");
        [FIRST, SECOND].iter().all(|image| screen.contains(image)).then_some(())
    });
    only_nodes_may_read(&fleet);
    // An agent, and the server's own node, which learns of the mirror in another way.
    for (name, node) in [("one", "c"), ("two", "node-1")] {
        fleet.cluster.apply(&pod(name, node, FIRST));
        fleet.cluster.pod_ready(name);
        assert_eq!(fleet.cluster.kubectl(&format!("logs {name}")), "from b\n");
    }
    assert!(fleet.cluster.event("one", "Pulled").starts_with("Successfully pulled image"));
    let metrics = fleet.cluster.kubectl("get --raw /api/v1/nodes/c/proxy/metrics");
    assert!(metrics.contains("knarr_embedded_registry_requests_total{by=\"node\"}"), "{metrics}");
    nobody_has_it(&mut fleet);
}

fn only_nodes_may_read(fleet: &Fleet) {
    let folder = &fleet.cluster.sandbox.folder;
    let text = |path: &Path| path.display().to_string();
    let url = "https://10.99.0.3:10250/v2/team/app/manifests/1?ns=nowhere.test";
    let ask = |from: &str, certificate: &[&str]| {
        let words = [&["curl", "-sS", "--max-time", "10", "--cacert"], certificate, &[url]].concat();
        fleet.on(from, &words).stdout
    };
    let authority = text(&folder.join("c/data/agent/tls/server-ca.crt"));
    let node = text(&folder.join("c/data/agent/tls/client-kubelet.pem"));
    // What b shows is signed a moment after it is there.
    wait_for("the manifest", SOON, || {
        ask("c", &[&authority, "--cert", &node]).contains("\"layers\"").then_some(())
    });
    assert!(ask("c", &[&authority]).contains("show the certificate of a node"));
    let tls = folder.join("data/server/tls");
    let (shown, key) = (text(&tls.join("client-admin.crt")), text(&tls.join("client-admin.key")));
    let refused = ask("c", &[&authority, "--cert", &shown, "--key", &key]);
    assert!(refused.contains("\\\"system:admin\\\" is no node of this cluster"), "{refused}");
    // The door of the runtime is on the loopback interface, below a path that only root reads.
    let hosts = folder.join("c/data/agent/etc/containerd/certs.d/nowhere.test/hosts.toml");
    let hosts = fs::read_to_string(hosts).unwrap();
    let door = hosts.split('"').find(|word| word.starts_with("http://127.0.0.2:")).unwrap().to_owned();
    let (at, secret) = door.rsplit_once('/').unwrap();
    let asked = |base: &str| {
        let url = format!("{base}/team/app/manifests/1?ns=nowhere.test");
        fleet.on("c", &["curl", "-sS", "--max-time", "10", &url]).stdout
    };
    assert!(asked(&door).contains("\"layers\"") && !secret.is_empty(), "{hosts}");
    assert_eq!(asked(&format!("{at}/v2")), "there is nothing here");
    assert!(!fleet.on("c", &["curl", "-sS", &door.replace("127.0.0.2", SERVER)]).stderr.is_empty());
}

/// Once its only node is gone.
fn nobody_has_it(fleet: &mut Fleet) {
    fleet.stop("b", "TERM");
    fleet.cluster.apply(&pod("three", "c", SECOND));
    let message = fleet.cluster.wait("pod three", |pod: &Value| {
        let waiting = &pod["status"]["containerStatuses"][0]["state"]["waiting"];
        let is_told = ["ErrImagePull", "ImagePullBackOff"].contains(&waiting["reason"].as_str()?);
        is_told.then(|| waiting["message"].as_str().unwrap_or_default().to_owned())
    });
    assert!(message.contains(SECOND) && message.contains("not found"), "{message}");
}
