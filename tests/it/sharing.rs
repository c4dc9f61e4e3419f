//! Servers that share an etcd: one cluster, whichever of them is asked.

use crate::support::cluster::SOON;
use crate::support::https::{Https, JSON, MERGE};
use crate::support::process::wait_for;
use crate::support::servers::Servers;
use serde_json::{Value, json};
use std::time::Duration;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}})
}

/// What one server acknowledged the other one has, at once.
#[track_caller]
fn reads_what_was_written(writer: &Https, reader: &Https) {
    for number in 0..30 {
        let (name, value) = (format!("m{number}"), format!("v{number}"));
        let path = format!("{MAPS}/{name}");
        let (code, made) = writer.send("POST", MAPS, JSON, &map(&name));
        assert_eq!(code, 201, "{made}");
        assert_eq!(reader.call("GET", &path), (200, made.clone()));
        let (code, list) = reader.call("GET", MAPS);
        let listed =
            list["items"].as_array().unwrap().iter().any(|item| item["metadata"] == made["metadata"]);
        assert!(code == 200 && listed, "{name} is in the list");
        let (code, changed) = reader.send("PATCH", &path, MERGE, &json!({"data": {"value": value}}));
        assert_eq!(code, 200, "{changed}");
        // An update of what the other one has just written is no conflict here.
        let (code, updated) = writer.send("PUT", &path, JSON, &changed);
        assert_eq!(code, 200, "{updated}");
        let (code, stale) = reader.send("PUT", &path, JSON, &made);
        assert_eq!((code, &stale["reason"]), (409, &json!("Conflict")), "{stale}");
        assert_eq!(reader.send("POST", MAPS, JSON, &map(&name)).0, 409);
        assert_eq!(reader.call("DELETE", &path).0, 200);
        assert_eq!(writer.call("GET", &path).0, 404);
    }
}

#[test]
fn servers_that_share_an_etcd_are_one_cluster() {
    let mut servers = Servers::new(2, &["--disable-controller-manager", "--disable-scheduler"]);
    let (one, two) = (servers.https(0), servers.https(1));
    assert_eq!(servers.authority(0), servers.authority(1), "they have their authority in common");
    reads_what_was_written(&one, &two);
    reads_what_was_written(&two, &one);
    custom_kinds_come_and_go_everywhere(&one, &two);
    ports_and_quotas_are_counted_over_all(&one, &two);
    what_two_servers_give_at_once_is_given_once([&one, &two]);
    pages_go_on_elsewhere(&one, &two);
    // A token of one is good at the other.
    let account = "/api/v1/namespaces/default/serviceaccounts";
    let named = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "robot"}});
    assert_eq!(one.send("POST", account, JSON, &named).0, 201);
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
    let (code, token) = one.send("POST", &format!("{account}/robot/token"), JSON, &request);
    assert_eq!(code, 201, "{token}");
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token["status"]["token"]}});
    let (_, reviewed) = two.send("POST", "/apis/authentication.k8s.io/v1/tokenreviews", JSON, &review);
    assert_eq!(reviewed["status"]["user"]["username"], "system:serviceaccount:default:robot", "{reviewed}");
    authorities_are_everybodys(&servers, [&one, &two]);
    // Both are stopped: the state is etcd's. Who comes back takes the authorities that there are by then.
    assert_eq!(servers.stop(0, "TERM"), 0);
    servers.stop(1, "KILL");
    let before = servers.authority(1);
    servers.knarr(0, &["certificate", "rotate-ca", "--stopped"]).ok();
    servers.start(1);
    assert_ne!(servers.authority(1), before);
    assert_eq!(two.call("GET", &format!("{account}/robot")).0, 200);
    who_has_not_the_token_is_refused(&servers);
}

/// What one server is told, the others do too, and nobody is refused meanwhile.
#[track_caller]
fn authorities_are_everybodys(servers: &Servers, all: [&Https; 2]) {
    let before = servers.authority(1);
    let kubeconfig = servers.sandbox.folder.join("s0/kubeconfig").display().to_string();
    let binary = crate::support::binary().display().to_string();
    servers.sandbox.run(&[&binary, "certificate", "rotate-ca", "--kubeconfig", &kubeconfig]).ok();
    wait_for("the other server's new authorities", SOON, || {
        assert!(all.iter().all(|https| https.call("GET", MAPS).0 == 200));
        (servers.authority(1) != before && servers.authority(0) == servers.authority(1)).then_some(())
    });
}

/// A definition by one server is served by the other, and its watches there end when it goes.
#[track_caller]
fn custom_kinds_come_and_go_everywhere(one: &Https, two: &Https) {
    let crds = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let schema = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "ships.knarr.test"},
        "spec": {
            "group": "knarr.test", "scope": "Cluster", "names": {"plural": "ships", "singular": "ship", "kind": "Ship", "listKind": "ShipList"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}],
        },
    });
    let (code, made) = one.send("POST", crds, JSON, &definition);
    assert_eq!(code, 201, "{made}");
    // Nobody runs the controller that establishes it: that is said by hand.
    let ships = "/apis/knarr.test/v1/ships";
    let established = json!({"status": {
        "conditions": [
            {"type": "NamesAccepted", "status": "True", "reason": "NoConflicts", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"},
            {"type": "Established", "status": "True", "reason": "InitialNamesAccepted", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"},
        ],
        "acceptedNames": definition["spec"]["names"], "storedVersions": ["v1"],
    }});
    let (code, said) = one.send("PATCH", &format!("{crds}/ships.knarr.test/status"), MERGE, &established);
    assert_eq!(code, 200, "{said}");
    let ship = json!({"apiVersion": "knarr.test/v1", "kind": "Ship", "metadata": {"name": "one"}});
    let (code, made) = two.send("POST", ships, JSON, &ship);
    assert_eq!(code, 201, "{made}");
    let watch =
        two.ask("GET", &format!("{ships}?watch=true")).watch().map_err(|refused| refused.value()).unwrap();
    assert_eq!(watch.next(Duration::from_secs(20)).unwrap().unwrap()["type"], "ADDED");
    assert_eq!(one.call("DELETE", &format!("{ships}/one")).0, 200);
    assert_eq!(watch.next(Duration::from_secs(20)).unwrap().unwrap()["type"], "DELETED");
    let (code, gone) = one.call("DELETE", &format!("{crds}/ships.knarr.test"));
    assert_eq!(code, 200, "{gone}");
}

/// What a quota limits, and which ports are taken, is not counted by each server for itself.
#[track_caller]
fn ports_and_quotas_are_counted_over_all(one: &Https, two: &Https) {
    let service = |name: &str| json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": {"type": "NodePort", "ports": [{"port": 80, "nodePort": 30080}]}});
    let services = "/api/v1/namespaces/default/services";
    let (code, made) = one.send("POST", services, JSON, &service("first"));
    assert_eq!(code, 201, "{made}");
    let (code, taken) = two.send("POST", services, JSON, &service("second"));
    assert!(code == 422 && taken["message"].as_str().unwrap().contains("already allocated"), "{taken}");
    assert_eq!(one.call("DELETE", &format!("{services}/first")).0, 200);
    let (code, made) = two.send("POST", services, JSON, &service("second"));
    assert_eq!(code, 201, "{made}");
    let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "few"}, "spec": {"hard": {"count/secrets": "3"}}});
    let (code, made) = one.send("POST", "/api/v1/namespaces/default/resourcequotas", JSON, &quota);
    assert_eq!(code, 201, "{made}");
    let secrets = "/api/v1/namespaces/default/secrets";
    let secret = |number: usize| json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": format!("s{number}")}});
    let codes: Vec<u16> =
        (0..5).map(|number| [one, two][number % 2].send("POST", secrets, JSON, &secret(number)).0).collect();
    assert_eq!(codes, [201, 201, 201, 403, 403]);
    assert_eq!(two.call("DELETE", &format!("{secrets}/s0")).0, 200);
    assert_eq!(one.send("POST", secrets, JSON, &secret(7)).0, 201);
}

/// Neither ports nor addresses nor the last of a quota, though each server decides by what it knows.
#[track_caller]
fn what_two_servers_give_at_once_is_given_once(servers: [&Https; 2]) {
    let space = json!({"metadata": {"name": "race"}});
    assert_eq!(servers[0].send("POST", "/api/v1/namespaces", JSON, &space).0, 201);
    let all = "/api/v1/namespaces/race";
    let quota = json!({"metadata": {"name": "few"}, "spec": {"hard": {"count/secrets": "1"}}});
    assert_eq!(servers[0].send("POST", &format!("{all}/resourcequotas"), JSON, &quota).0, 201);
    for _ in 0..8 {
        let secret = |at: usize| json!({"metadata": {"name": format!("s{at}")}});
        let made = once((servers, &format!("{all}/secrets"), secret), (403, "exceeded quota: few"));
        assert_eq!(servers[1].call("DELETE", &format!("{all}/secrets/s{made}")).0, 200);
    }
    for number in 0..8 {
        let service = |at: usize| {
            let spec = match number % 2 {
                0 => json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 31_000 + number}]}),
                _ => json!({"clusterIP": format!("10.43.7.{number}"), "ports": [{"port": 80}]}),
            };
            json!({"metadata": {"name": format!("s{number}-{at}")}, "spec": spec})
        };
        once((servers, &format!("{all}/services"), service), (422, "already allocated"));
    }
}

/// Has both servers make an object each at the same moment, of which one is refused so; says who made it.
#[track_caller]
fn once(
    (servers, path, object): ([&Https; 2], &str, impl Fn(usize) -> Value),
    (code, why): (u16, &str),
) -> usize {
    let objects = [object(0), object(1)];
    let answers = std::thread::scope(|scope| {
        let send = |at: usize| servers[at].send("POST", path, JSON, &objects[at]);
        let other = scope.spawn(move || send(1));
        [send(0), other.join().unwrap()]
    });
    let made = answers.iter().position(|(code, _)| *code == 201).unwrap();
    let (refused, answer) = &answers[1 - made];
    let told = answer["message"].as_str().unwrap_or_default();
    assert!(*refused == code && told.contains(why), "both: {answers:?}");
    made
}

/// A list that one server began the other goes on with, in the same state.
#[track_caller]
fn pages_go_on_elsewhere(one: &Https, two: &Https) {
    for number in 0..5 {
        assert_eq!(one.send("POST", MAPS, JSON, &map(&format!("page{number}"))).0, 201);
    }
    let (_, whole) = one.call("GET", MAPS);
    let (_, first) = one.call("GET", &format!("{MAPS}?limit=3"));
    assert_eq!(one.send("POST", MAPS, JSON, &map("page9")).0, 201);
    let token = first["metadata"]["continue"].as_str().unwrap();
    let (code, rest) = two.call("GET", &format!("{MAPS}?limit=30&continue={token}"));
    assert_eq!(code, 200, "{rest}");
    let items = |list: &Value| list["items"].as_array().unwrap().clone();
    assert_eq!([items(&first), items(&rest)].concat(), items(&whole));
}

#[track_caller]
fn who_has_not_the_token_is_refused(servers: &Servers) {
    let refused = servers.sandbox.sh("echo another-secret-of-some-length > wrong; mkdir -p fresh");
    refused.ok();
    let at = |name: &str| servers.sandbox.folder.join(name).display().to_string();
    let fresh = ["--data-dir", &at("fresh"), "--token-file", &at("wrong")];
    let output = servers.fails(0, &fresh);
    assert_eq!(output.code, 1, "{output:?}");
    assert!(output.stderr.contains("the token is not that of the cluster in the datastore"), "{output:?}");
    let unreachable = ["--datastore-endpoint", "http://127.0.0.1:9"];
    let output = servers.fails(0, &unreachable);
    assert!(output.code == 1 && output.stderr.contains("datastore cannot be used"), "{output:?}");
    // An etcd that another authority vouches for gets to know nothing.
    let stranger = servers.sandbox.folder.join("s0/data/server/tls/server-ca.crt").display().to_string();
    let output = servers.fails(0, &["--datastore-cafile", &stranger]);
    assert!(output.code == 1 && output.stderr.contains("UnknownIssuer"), "{output:?}");
}
