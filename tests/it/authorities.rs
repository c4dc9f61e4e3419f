//! Authorities: of one's own, others in their place while a cluster runs, and clocks that jump past what they signed.

use crate::support::binary;
use crate::support::cluster::{IMAGE, SOON};
use crate::support::fleet::Fleet;
use crate::support::https::{Https, JSON};
use crate::support::process::{Output, wait_for};
use serde_json::json;
use std::fs;
use std::time::Duration;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// A root that vouches for the three authorities, as tools make them, and an RSA key of service accounts.
const OWN: &str = "set -e
mkdir -p data/server/tls && cd data/server/tls && umask 077
curve='-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes'
openssl req -x509 $curve -keyout ../../../root.key -out root.crt -subj '/DC=test/DC=knarr/CN=root' -days 3000 \\
  -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign
printf 'basicConstraints=critical,CA:TRUE\\nkeyUsage=critical,keyCertSign,digitalSignature\\nsubjectKeyIdentifier=hash\\nauthorityKeyIdentifier=keyid\\n' > ../../../ca.ext
for name in server-ca client-ca request-header-ca; do
    openssl ecparam -name prime256v1 -genkey -noout -out $name.key
    openssl req -new -key $name.key -subj /CN=own-$name -out $name.csr
    openssl x509 -req -in $name.csr -CA root.crt -CAkey ../../../root.key -CAcreateserial -days 2000 -extfile ../../../ca.ext -out $name.crt
    cat root.crt >> $name.crt
    rm $name.csr
done
openssl genrsa -traditional -out service.key 2048
rm root.crt root.srl
";

fn pod(node: &str) -> String {
    format!(
        r#"apiVersion: v1
kind: Pod
metadata: {{name: web}}
spec:
  nodeName: {node}
  terminationGracePeriodSeconds: 1
  containers:
  - {{name: main, image: {IMAGE}, command: [sh, -c, 'echo up; exec sleep 100000']}}
"#
    )
}

fn certificate(fleet: &Fleet, words: &[&str]) -> Output {
    let binary = binary().display().to_string();
    fleet.cluster.sandbox.run(&[&[binary.as_str(), "certificate"], words].concat())
}

/// A file of the agent `b`.
fn of_agent(fleet: &Fleet, name: &str) -> String {
    fs::read_to_string(fleet.cluster.sandbox.folder.join("b/data/agent/tls").join(name)).unwrap_or_default()
}

fn logs(fleet: &Fleet) {
    wait_for("logs of an agent's pod", SOON, || {
        (fleet.cluster.try_kubectl(&["logs", "web"]).stdout == "up\n").then_some(())
    });
}

fn watch_maps(https: &Https) -> crate::support::https::Events {
    https.ask("GET", &format!("{MAPS}?watch=true")).watch().map_err(|refused| refused.value()).unwrap()
}

/// Makes an object by one client that another one's watch, which began before, tells of.
#[track_caller]
fn is_told(fleet: &Fleet, watch: &crate::support::https::Events, name: &str) {
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}});
    assert_eq!(Https::new(&fleet.cluster).send("POST", MAPS, JSON, &map).0, 201);
    loop {
        let event = watch.next(Duration::from_secs(20)).unwrap().expect("the watch goes on");
        if event["object"]["metadata"]["name"] == name {
            return;
        }
    }
}

#[test]
fn authorities_are_replaced_while_all_goes_on() {
    let mut fleet = Fleet::prepared(&[]);
    fleet.cluster.sandbox.sh(&format!("({OWN}) 2>&1")).ok();
    what_is_wrong_is_told(&fleet);
    fleet.cluster.start();
    let old_token = fs::read_to_string(fleet.token_file()).unwrap();
    fleet.join("b", 3);
    fleet.cluster.apply(&pod("b"));
    fleet.cluster.pod_ready("web");
    logs(&fleet);
    let (old, account) = (Https::new(&fleet.cluster), fleet.cluster.kubectl("create token default"));
    assert!(fleet.cluster.kubectl("get --raw /openid/v1/jwks").contains("RS256"));
    let (watch, signed) = (watch_maps(&old), of_agent(&fleet, "client-kubelet.pem"));
    let mine = certificate(&fleet, &["rotate-ca", "--kubeconfig", "kubeconfig"]).ok();
    assert!(mine.contains("the cluster has other authorities"), "{mine}");
    is_told(&fleet, &watch, "one");
    assert_eq!(old.call("GET", MAPS).0, 200, "the former administrator's certificate is good");
    // Pods learn it, and so does the agent, without a restart.
    let bundle = fleet.cluster.sandbox.sh("curl -sfk https://127.0.0.1:6443/cacerts").ok();
    let written = crate::support::https::Account::read(&fleet.cluster.kubeconfig()).authorities;
    assert_eq!(String::from_utf8(written).unwrap(), bundle);
    fleet.cluster.wait("cm kube-root-ca.crt", |map| (map["data"]["ca.crt"] == *bundle).then_some(()));
    wait_for("an agent's certificates of the new authorities", SOON, || {
        let other = of_agent(&fleet, "client-kubelet.pem") != signed;
        (other && of_agent(&fleet, "server-ca.crt") == bundle).then_some(())
    });
    let issuer = "openssl x509 -noout -issuer -in b/data/agent/tls/client-kubelet.pem";
    assert!(fleet.cluster.sandbox.sh(issuer).ok().contains("knarr-client-ca@"));
    logs(&fleet);
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": account.trim()}});
    let reviews = "/apis/authentication.k8s.io/v1/tokenreviews";
    let (_, reviewed) = Https::new(&fleet.cluster).send("POST", reviews, JSON, &review);
    assert_eq!(reviewed["status"]["authenticated"], true, "{reviewed}");
    // The token of before and the one of now are both good to join by.
    let new_token = fs::read_to_string(fleet.token_file()).unwrap();
    assert_ne!(old_token, new_token);
    for (name, number, token) in [("c", 4, &old_token), ("d", 5, &new_token)] {
        fleet.machine(name, number);
        fleet.start(name, &["--token", token.trim()]);
        fleet.node_is_ready(name);
    }
    forgotten(&mut fleet, &old, &old_token);
}

/// What is wrong with the files keeps a server from its first start, in one sentence.
fn what_is_wrong_is_told(fleet: &Fleet) {
    let sh = |script: &str| fleet.cluster.sandbox.sh(script).ok();
    let fails = |sentence: &str| {
        let output = fleet.cluster.fails(&[]);
        assert!(output.code == 1 && output.stderr.contains(sentence), "{output:?}");
    };
    sh("chmod 644 data/server/tls/client-ca.key");
    fails("client-ca.key can be read by others than its owner");
    sh(
        "cd data/server/tls && chmod 600 client-ca.key && mv client-ca.key k && cp server-ca.key client-ca.key",
    );
    fails("its key is not that of \"CN=own-client-ca\"");
    sh(
        "cd data/server/tls && mv k client-ca.key && cp server-ca.crt whole && openssl x509 -in whole -out server-ca.crt",
    );
    fails("it has to have the whole chain, up to the root");
    sh("cd data/server/tls && mv whole server-ca.crt");
}

/// Former authorities may be left behind: who has nothing else is out, who has followed stays.
fn forgotten(fleet: &mut Fleet, old: &Https, old_token: &str) {
    let strange = "mkdir strange && cd strange && umask 077 && openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout server-ca.key -out server-ca.crt -subj /CN=strange -days 900 2>&1";
    fleet.cluster.sandbox.sh(strange).ok();
    let refused = certificate(fleet, &["rotate-ca", "--kubeconfig", "kubeconfig", "--path", "strange"]);
    let sentence = "neither the present authority nor its root vouches for it";
    assert!(refused.code == 1 && refused.stderr.contains(sentence), "{refused:?}");
    certificate(fleet, &["rotate-ca", "--kubeconfig", "kubeconfig", "--forget-former"]).ok();
    assert_eq!(old.call("GET", MAPS).0, 401);
    fleet.cluster.stop("TERM");
    fleet.cluster.start();
    fleet.machine("e", 6);
    let refused = fleet.refused("e", &["--token", old_token.trim()]);
    assert!(refused.stderr.contains("is not the cluster of this token"), "{refused:?}");
    fleet.node_is_ready("b");
    logs(fleet);
}

/// The wall clock is told to processes; whoever tests has the machine's.
#[test]
fn clocks_jump_past_the_end_of_certificates() {
    let mut fleet = Fleet::prepared(&[]);
    fleet.machine("b", 3);
    // containerd has the machine's clock, and would end at once what is kept of images for minutes from two years ago.
    fleet.cluster.sandbox.sh("mv data/agent/images aside && mv b/data/agent/images b/aside").ok();
    fleet.cluster.set_clock("-2y");
    fleet.cluster.start();
    let token = fleet.token_file();
    fleet.start("b", &["--token-file", &token]);
    assert_eq!(fleet.stop("b", "TERM"), 0);
    assert_eq!(fleet.cluster.stop("TERM"), 0);
    let ends = "openssl x509 -noout -checkend 0 -in";
    assert_eq!(fleet.cluster.sandbox.sh(&format!("{ends} b/data/agent/tls/client-kubelet.pem")).code, 1);
    // Off for two years. The agent has no token any more.
    fleet.cluster.set_clock("+0");
    fleet.cluster.sandbox.sh("rm -rf data/agent/images b/data/agent/images && mv aside data/agent/images && mv b/aside b/data/agent/images").ok();
    fleet.cluster.start();
    fleet.start("b", &[]);
    fleet.node_is_ready("b");
    fleet.cluster.apply(&pod("b"));
    fleet.cluster.pod_ready("web");
    logs(&fleet);
    // Forward, so that all of it has expired at once, and back, so that none of it is valid yet.
    let https = Https::new(&fleet.cluster);
    let watch = watch_maps(&https);
    fleet.cluster.set_clock("+3y");
    let begins = |file: &str| {
        let date = format!("date -d \"$(openssl x509 -noout -startdate -in {file} | cut -d= -f2)\" +%Y");
        fleet.cluster.sandbox.sh(&date).stdout.trim().parse::<i32>().unwrap_or_default()
    };
    let year = fleet.cluster.sandbox.sh("date +%Y").ok().trim().parse::<i32>().unwrap();
    let files = ["client-kubelet.pem", "serving-kubelet.pem"].map(|name| format!("b/data/agent/tls/{name}"));
    for file in files.iter().map(String::as_str).chain(["data/server/tls/serving-kube-apiserver.crt"]) {
        wait_for(file, SOON, || (begins(file) > year + 1).then_some(()));
    }
    fleet.cluster.set_clock("+0");
    for file in files.iter().map(String::as_str).chain(["data/server/tls/serving-kube-apiserver.crt"]) {
        wait_for(file, SOON, || (begins(file) <= year).then_some(()));
    }
    is_told(&fleet, &watch, "after");
    fleet.node_is_ready("b");
    logs(&fleet);
}
