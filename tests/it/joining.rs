//! Machines that join: what they show, what they are refused for, and how they go on.

use crate::support::cluster::{IMAGE, SOON};
use crate::support::fleet::{Fleet, SERVER};
use crate::support::process::{Output, wait_for};
use crate::support::{binary, process};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::hmac;
use serde_json::Value;
use std::fs;
use std::time::Duration;

fn pod(name: &str, node: &str) -> String {
    format!(
        r#"apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: {name}}}}}
spec:
  nodeName: {node}
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: {IMAGE}
    command: [sh, -c, 'echo "I am on {node}"; exec httpd -f -p 80 -h /www']
    readinessProbe: {{tcpSocket: {{port: 80}}, periodSeconds: 1}}
"#
    )
}

/// Runs `knarr token` on the server's machine.
fn token(fleet: &Fleet, words: &[&str]) -> Output {
    let binary = binary().display().to_string();
    let all: Vec<&str> = [binary.as_str(), "token"].into_iter().chain(words.iter().copied()).collect();
    let mut command = fleet.cluster.sandbox.command(Duration::from_secs(20), &all);
    command.env("KUBECONFIG", fleet.cluster.sandbox.folder.join("kubeconfig"));
    process::run(command, "")
}

#[test]
fn a_machine_becomes_a_node() {
    let mut fleet = Fleet::new(&[]);
    refusals(&mut fleet);
    tokens(&mut fleet);
    runs_pods(&fleet);
    ingress(&fleet);
    serving_certificates(&fleet);
    addresses(&fleet);
    outages(&mut fleet);
    names(&mut fleet);
}

/// One clear sentence, and no node.
fn refusals(fleet: &mut Fleet) {
    fleet.machine("b", 3);
    let full = fs::read_to_string(fleet.token_file()).unwrap().trim().to_owned();
    let (digest, secret) = full.split_once("::").unwrap();
    let wrong_secret = format!("{digest}::server:{}", "0".repeat(32));
    let wrong_cluster = format!("K10{}::{secret}", "a".repeat(64));
    let cases: [(&[&str], &str); 7] = [
        (&[], "this machine is no node yet: name a token"),
        (&["--token", secret], "has to begin with K10"),
        (&["--token", &wrong_secret], "does not know the token"),
        (&["--token", &wrong_cluster], "is not the cluster of this token"),
        (&["--token-file", "/nonexistent"], "--token-file /nonexistent"),
        (&["--token", &full, "--node-name", "node-1"], "node \"node-1\" is a server's"),
        (&["--token", &full, "--node-name", "kubernetes"], "node \"kubernetes\" is a server's"),
    ];
    for (flags, sentence) in cases {
        let output = fleet.refused("b", flags);
        assert_eq!(output.code, 1, "{flags:?}: {output:?}");
        assert!(
            output.stderr.contains(sentence) && output.stderr.lines().count() == 1,
            "{flags:?}: {output:?}"
        );
        assert!(!output.stderr.contains(secret), "a secret is shown: {output:?}");
    }
    let elsewhere = fleet.refused("b", &["--token", &full, "--join", "http://10.99.0.2:6443"]);
    assert!(elsewhere.stderr.contains("has to be a URL such as https://"), "{elsewhere:?}");
    assert_eq!(fleet.cluster.json("nodes")["items"].as_array().unwrap().len(), 1);
    let disagrees =
        fleet.refused("b", &["--token", &full, "--node-name", "other", "--service-cidr", "10.50.0.0/16"]);
    assert!(
        disagrees
            .stderr
            .contains("service-cidr is [\"10.50.0.0/16\"] here and [\"10.43.0.0/16\"] in the cluster"),
        "{disagrees:?}"
    );
    skewed(fleet, secret);
    // It is a node by its certificate now, and would go on as that one.
    fs::remove_dir_all(fleet.cluster.sandbox.folder.join("b/data/agent/tls")).unwrap();
}

/// A machine's version may not be newer than the server's, nor much older.
fn skewed(fleet: &Fleet, secret: &str) {
    let credentials = format!("authorization: Bearer {secret}");
    for (version, sentence) in [
        ("v1.99.0", "this machine's knarr v1.99.0 is newer than the server's v1."),
        ("v1.20.1", "this machine's knarr v1.20.1 is more than 3 minor versions older than the server's v1."),
        ("latest", "cannot be compared"),
    ] {
        let application =
            format!(r#"{{"node": "skewed", "password": "{}", "version": "{version}"}}"#, "0".repeat(32));
        let words = ["-H", &credentials, "--data", &application, "https://127.0.0.1:6443/v1-knarr/join"];
        let answer = fleet.cluster.curl(&words).stdout;
        assert!(answer.contains(sentence) && answer.contains("\"code\":403"), "{answer}");
    }
}

/// A token that was made for the purpose is as good, until it is deleted.
fn tokens(fleet: &mut Fleet) {
    let made = token(fleet, &["create", "--ttl", "1h", "--description", "for b"]).ok();
    let listed = token(fleet, &["list"]).ok();
    assert!(listed.starts_with("TOKEN ID") && listed.contains("for b"), "{listed}");
    fleet.start("b", &["--token", made.trim()]);
    fleet.node_is_ready("b");
    let credentials = made.trim().split_once("::").unwrap().1.to_owned();
    let (id, secret) = credentials.split_once('.').unwrap();
    assert!(!listed.contains(secret), "{listed}");
    discovery(fleet, (id, secret));
    let as_token =
        ["-H", &format!("authorization: Bearer {credentials}"), "https://127.0.0.1:6443/api/v1/nodes"];
    assert!(
        fleet.cluster.curl(&as_token).stdout.contains(&format!("\\\"system:bootstrap:{id}\\\" cannot list"))
    );
    assert_eq!(token(fleet, &["delete", &credentials]).ok().trim(), format!("token \"{id}\" deleted"));
    assert_eq!(token(fleet, &["delete", &credentials]).code, 1);
    assert!(fleet.cluster.curl(&as_token).stdout.contains("Unauthorized"));
    wait_for("the end of its signature", SOON, || signature(fleet, id).is_none().then_some(()));
    fleet.machine("c", 4);
    assert!(fleet.refused("c", &["--token", made.trim()]).stderr.contains("does not know the token"));
    let rotated =
        token(fleet, &["rotate", "--data-dir", &fleet.token_file().replace("/server/token", "")]).ok();
    assert_eq!(fs::read_to_string(fleet.token_file()).unwrap(), rotated);
    fleet.start("c", &["--token", rotated.trim()]);
    fleet.node_is_ready("c");
}

/// A ConfigMap of `kube-public`, for somebody whom the server does not know and who does not know the server.
fn public(fleet: &Fleet, name: &str) -> Value {
    let url = format!("https://127.0.0.1:6443/api/v1/namespaces/kube-public/configmaps/{name}");
    serde_json::from_str(&fleet.cluster.sandbox.run(&["curl", "-sk", &url]).stdout).unwrap()
}

/// What `cluster-info` says, and its signature by a token.
fn signature(fleet: &Fleet, id: &str) -> Option<(String, String)> {
    let data = public(fleet, "cluster-info")["data"].clone();
    let text = |key: &str| Some(data[key].as_str()?.to_owned());
    Some((text("kubeconfig")?, text(&format!("jws-kubeconfig-{id}"))?))
}

/// Who has nothing but a token learns by it whom to trust, as `kubeadm join --discovery-token` does.
fn discovery(fleet: &Fleet, (id, secret): (&str, &str)) {
    let (told, signed) = wait_for("the signature of cluster-info", SOON, || signature(fleet, id));
    let (head, tag) = signed.split_once("..").unwrap();
    let content = format!("{head}.{}", URL_SAFE_NO_PAD.encode(&told));
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    hmac::verify(&key, content.as_bytes(), &URL_SAFE_NO_PAD.decode(tag).unwrap()).unwrap();
    let config: Value = serde_yaml::from_str(&told).unwrap();
    let cluster = &config["clusters"][0]["cluster"];
    assert_eq!(cluster["server"], format!("https://{SERVER}:6443"));
    let authorities = STANDARD.decode(cluster["certificate-authority-data"].as_str().unwrap()).unwrap();
    let known = fleet.cluster.json("configmap -n default kube-root-ca.crt");
    assert_eq!(known["data"]["ca.crt"].as_str().unwrap().as_bytes(), authorities);
    assert_eq!(public(fleet, "kube-root-ca.crt")["code"], 403);
}

/// Nothing has to reach the machine: its own firewall lets nobody in, and the server asks through the tunnel.
fn runs_pods(fleet: &Fleet) {
    fleet.sh_on("b", "nft add table inet mine && nft 'add chain inet mine in { type filter hook input priority 0; }' && nft add rule inet mine in iifname eth0 tcp dport 10250 drop").ok();
    let cluster = &fleet.cluster;
    cluster.apply(&pod("web", "b"));
    cluster.pod_ready("web");
    // The certificate that the kubelet shows is signed a moment after the node is there.
    let logs =
        wait_for("logs", SOON, || Some(cluster.try_kubectl(&["logs", "web"])).filter(|out| out.code == 0));
    assert_eq!(logs.stdout, "I am on b\n");
    let metrics = cluster.kubectl("get --raw /api/v1/nodes/b/proxy/metrics/resource");
    assert!(metrics.contains("node_cpu_usage_seconds_total"), "{metrics}");
    assert!(cluster.exec("web", "nslookup kubernetes.default.svc.cluster.local").ok().contains("10.43.0.1"));
    cluster.exec("web", "nc -w 3 10.43.0.1 443 </dev/null").ok();
}

/// Ingress is the server's, and reaches pods of other nodes.
fn ingress(fleet: &Fleet) {
    fleet.cluster.kubectl("expose pod web --port 80");
    fleet.cluster.kubectl("create ingress web --rule=web.test/*=web:80");
    fleet.cluster.wait("ingress web", |ingress| {
        let at = ingress["status"]["loadBalancer"]["ingress"].as_array()?;
        assert!(at.iter().all(|one| one["ip"] == SERVER), "an agent is named: {at:?}");
        (!at.is_empty()).then_some(())
    });
    wait_for("an answer by ingress", SOON, || {
        let asked = fleet.on(
            "c",
            &["curl", "-sf", "--max-time", "3", "-H", "Host: web.test", &format!("http://{SERVER}/")],
        );
        (asked.code == 0).then_some(())
    });
}

/// Signed by the cluster's authority, of the node's own name and addresses.
fn serving_certificates(fleet: &Fleet) {
    fleet.on("b", &["nft", "delete", "table", "inet", "mine"]).ok();
    let shown = fleet.cluster.sandbox.sh(
        "openssl s_client -connect 10.99.0.3:10250 -CAfile ca.pem -verify_return_error </dev/null 2>/dev/null | openssl x509 -noout -subject -ext subjectAltName",
    );
    let shown = shown.ok();
    assert!(shown.contains("O = system:nodes") && shown.contains("CN = system:node:b"), "{shown}");
    assert!(shown.contains("DNS:b") && shown.contains("IP Address:10.99.0.3"), "{shown}");
    let requests = fleet.cluster.kubectl("get csr --no-headers");
    assert!(requests.lines().all(|line| line.ends_with("Approved,Issued")), "{requests}");
}

/// A machine that gets another address says so, and shows a certificate of it.
fn addresses(fleet: &Fleet) {
    let change = "ip addr del 10.99.0.3/24 dev eth0 && ip addr add 10.99.0.33/24 dev eth0 && ip route add default via 10.99.0.1";
    fleet.sh_on("b", change).ok();
    fleet.cluster.wait("node b", |node| {
        let addresses = node["status"]["addresses"].as_array()?;
        addresses.iter().any(|one| one["address"] == "10.99.0.33").then_some(())
    });
    wait_for("a certificate of the new address", SOON, || {
        let shown = fleet.cluster.sandbox.sh(
            "openssl s_client -connect 10.99.0.33:10250 -CAfile ca.pem -verify_ip 10.99.0.33 -verify_return_error </dev/null",
        );
        shown.stdout.contains("Verify return code: 0").then_some(())
    });
    assert_eq!(fleet.cluster.kubectl("logs web"), "I am on b\n");
}

/// Without a token and without a server an agent goes on, and so do its pods.
fn outages(fleet: &mut Fleet) {
    let id = crate::support::cluster::container_id(&fleet.cluster.json("pod web"));
    fleet.stop("b", "KILL");
    fleet.start("b", &[]);
    fleet.cluster.stop("TERM");
    fleet.stop("b", "TERM");
    fleet.start_only("b", &[]);
    wait_for("an agent without a server", SOON, || {
        fleet.screen("b").contains("The server does not answer: going on").then_some(())
    });
    let complaints = |fleet: &Fleet| fleet.screen("b").matches("cannot be reached").count();
    // What every task says once it has said by then.
    fleet.cluster.sandbox.run(&["sleep", "3"]).ok();
    let before = complaints(fleet);
    fleet.cluster.sandbox.run(&["sleep", "5"]).ok();
    let more = complaints(fleet) - before;
    assert!(more < 5, "an outage fills the log: {more} lines in five seconds");
    let address = "10.42.1.2";
    assert!(fleet.on("b", &["curl", "-sf", "--max-time", "3", &format!("http://{address}")]).code == 0);
    fleet.cluster.start();
    fleet.node_is_ready("b");
    fleet.cluster.pod_ready("web");
    assert_eq!(
        crate::support::cluster::container_id(&fleet.cluster.json("pod web")),
        id,
        "the same container"
    );
}

/// A name is its machine's, until the Node is deleted.
fn names(fleet: &mut Fleet) {
    fleet.stop("c", "TERM");
    let data = fleet.cluster.sandbox.folder.join("c/data");
    fs::rename(&data, fleet.cluster.sandbox.folder.join("c/old")).unwrap();
    let token = fleet.token_file();
    let taken = fleet.refused("c", &["--token-file", &token]);
    assert!(taken.stderr.contains("node \"c\" is another machine's"), "{taken:?}");
    fleet.cluster.kubectl("delete node c");
    wait_for("the password to be forgotten", SOON, || {
        fleet.cluster.json("secret -n kube-system c.node-password.knarr").is_null().then_some(())
    });
    fleet.start("c", &["--token-file", &token]);
    fleet.node_is_ready("c");
}
