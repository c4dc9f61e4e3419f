//! Priority and fairness, limits of requests and the end of the server, over HTTPS.

use super::{MAPS, map};
use crate::support::cluster::{ADMINISTRATOR, API, Cluster, SOON};
use crate::support::https::{Https, JSON, MERGE};
use crate::support::process::wait_for;
use serde_json::{Value, json};

const FLOW: &str = "/apis/flowcontrol.apiserver.k8s.io/v1";

#[test]
fn requests_have_priorities() {
    let cluster = Cluster::control_plane();
    let https = Https::new(&cluster);
    defaults(&https);
    mandatory_objects_come_back(&https);
    dangling(&https);
    headers(&https);
    a_flood_leaves_room_for_others(&cluster, &https);
    who_leaves_is_forgotten(&cluster, &https);
}

fn defaults(https: &Https) {
    let names = |path: &str| -> Vec<String> {
        let (_, list) = https.call("GET", &format!("{FLOW}/{path}"));
        let items = list["items"].as_array().unwrap_or_else(|| panic!("{list}"));
        items.iter().map(|item| item["metadata"]["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(
        names("prioritylevelconfigurations"),
        [
            "catch-all",
            "exempt",
            "global-default",
            "leader-election",
            "node-high",
            "system",
            "workload-high",
            "workload-low"
        ]
    );
    assert_eq!(names("flowschemas").len(), 11);
    let (_, schema) = https.call("GET", &format!("{FLOW}/flowschemas/system-nodes"));
    assert_eq!(schema["status"]["conditions"][0]["status"], "False", "{schema}");
}

fn mandatory_objects_come_back(https: &Https) {
    let path = format!("{FLOW}/flowschemas/catch-all");
    let (_, before) = https.call("GET", &path);
    https.call("DELETE", &path);
    wait_for("the mandatory schema", SOON, || {
        let (code, now) = https.call("GET", &path);
        (code == 200 && now["metadata"]["uid"] != before["metadata"]["uid"]).then_some(())
    });
    // A suggested one is the administrator's once the annotation says so.
    let path = format!("{FLOW}/prioritylevelconfigurations/system");
    let kept = json!({"metadata": {"annotations": {"apf.kubernetes.io/autoupdate-spec": "false"}},
        "spec": {"limited": {"nominalConcurrencyShares": 31}}});
    assert_eq!(https.send("PATCH", &path, MERGE, &kept).0, 200);
    let followed = json!({"spec": {"limited": {"nominalConcurrencyShares": 41}}});
    let other = format!("{FLOW}/prioritylevelconfigurations/node-high");
    assert_eq!(https.send("PATCH", &other, MERGE, &followed).0, 200);
    wait_for("the suggested level", SOON, || {
        let (_, now) = https.call("GET", &other);
        (now["spec"]["limited"]["nominalConcurrencyShares"] == 40).then_some(())
    });
    let (_, now) = https.call("GET", &path);
    assert_eq!(now["spec"]["limited"]["nominalConcurrencyShares"], 31);
}

fn schema(name: &str, level: &str, user: &str) -> Value {
    let subjects = json!([{"kind": "User", "user": {"name": user}}]);
    json!({"apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "FlowSchema", "metadata": {"name": name},
        "spec": {"priorityLevelConfiguration": {"name": level}, "matchingPrecedence": 50,
            "distinguisherMethod": {"type": "ByUser"}, "rules": [{"subjects": subjects,
            "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"], "clusterScope": true}],
            "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}]}]}})
}

fn dangling(https: &Https) {
    let (code, made) =
        https.send("POST", &format!("{FLOW}/flowschemas"), JSON, &schema("lost", "none", "none"));
    assert_eq!(code, 201, "{made}");
    let path = format!("{FLOW}/flowschemas/lost");
    let told = wait_for("the condition", SOON, || {
        let (_, now) = https.call("GET", &path);
        (now["status"]["conditions"][0]["status"] == "True").then(|| now["status"]["conditions"][0].clone())
    });
    assert_eq!(
        told["message"],
        "This FlowSchema references the PriorityLevelConfiguration object named \"none\" but there is no such object"
    );
    https.call("DELETE", &path);
}

fn read(cluster: &Cluster, file: &str) -> String {
    std::fs::read_to_string(cluster.sandbox.folder.join(file)).unwrap_or_default()
}

fn headers(https: &Https) {
    let uid = |path: &str| {
        let (_, object) = https.call("GET", &format!("{FLOW}/{path}"));
        object["metadata"]["uid"].as_str().unwrap().to_owned()
    };
    let scheduler = https.ask("GET", "/api/v1/pods").by("system:kube-scheduler").send();
    let level = uid("prioritylevelconfigurations/workload-high");
    assert_eq!(scheduler.header("x-kubernetes-pf-flowschema-uid"), uid("flowschemas/kube-scheduler"));
    assert_eq!(scheduler.header("x-kubernetes-pf-prioritylevel-uid"), level);
    let somebody = https.ask("GET", "/api/v1/pods").by("somebody").send();
    assert_eq!(somebody.header("x-kubernetes-pf-flowschema-uid"), uid("flowschemas/global-default"));
}

/// Makes a level that has no seats, with a short queue for one user's requests.
fn make_level(https: &Https, name: &str, user: &str) {
    let level = json!({"apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "PriorityLevelConfiguration",
        "metadata": {"name": name}, "spec": {"type": "Limited", "limited": {"nominalConcurrencyShares": 0,
            "borrowingLimitPercent": 0, "limitResponse": {"type": "Queue", "queuing": {"queues": 1, "handSize": 1, "queueLengthLimit": 2}}}}});
    assert_eq!(https.send("POST", &format!("{FLOW}/prioritylevelconfigurations"), JSON, &level).0, 201);
    assert_eq!(https.send("POST", &format!("{FLOW}/flowschemas"), JSON, &schema(user, name, user)).0, 201);
}

/// Gives a level a share of the seats, and lets it be known by a request.
fn share(https: &Https, level: &str, shares: u32) {
    let change = json!({"spec": {"limited": {"nominalConcurrencyShares": shares}}});
    let path = format!("{FLOW}/prioritylevelconfigurations/{level}");
    assert_eq!(https.send("PATCH", &path, MERGE, &change).0, 200);
    https.call("GET", MAPS);
}

/// One user's requests fill their level; a node's heartbeat and an administrator are answered all the same.
fn a_flood_leaves_room_for_others(cluster: &Cluster, https: &Https) {
    make_level(https, "narrow", "noisy");
    // Without a seat nothing of the user's starts: two requests wait, all others are refused at once.
    let urls = format!("{API}/api/v1/namespaces/default/configmaps?timeout=60s");
    let flood = format!(
        "for n in 1 2 3 4 5 6 7 8; do curl -s --cacert ca.pem --cert client.pem --key client.key -i \
         -H 'impersonate-user: noisy' '{urls}' > flood-$n & done; wait"
    );
    let mut noisy =
        cluster.sandbox.background(&cluster.sandbox.folder.join("flood.log"), |_| {}, &["sh", "-c", &flood]);
    wait_for("refusals", SOON, || {
        metric(https, "narrow", "rejected_requests_total", "queue-full").filter(|count| *count >= 6)
    });
    assert_eq!(metric(https, "narrow", "current_inqueue_requests", "").unwrap(), 2);
    let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "a", "namespace": "kube-node-lease"},
        "spec": {"holderIdentity": "a", "leaseDurationSeconds": 40}});
    let leases = https.ask("POST", "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases");
    let node = leases.by("system:node:a").header("impersonate-group", "system:nodes");
    let (code, made) = node.object(JSON, &lease).parts();
    assert_eq!(code, 201, "{made}");
    assert_eq!(https.call("GET", MAPS).0, 200);
    assert!(noisy.ended().is_none(), "two requests are still waiting");
    // Seats let those go that wait.
    share(https, "narrow", 20);
    wait_for("the end of the flood", SOON, || noisy.ended());
    let answers: Vec<String> = (1..=8).map(|number| read(cluster, &format!("flood-{number}"))).collect();
    let refused: Vec<&String> = answers.iter().filter(|answer| answer.contains(" 429")).collect();
    assert_eq!(refused.len(), 6, "{answers:?}");
    assert!(refused[0].contains("retry-after: 1"), "{}", refused[0]);
    assert!(refused[0].ends_with("\r\n\r\nToo many requests, please try again later.\n"), "{}", refused[0]);
}

/// A request whose client closes its connection is dropped, whether it waits or is worked on, and its seats
/// are free.
fn who_leaves_is_forgotten(cluster: &Cluster, https: &Https) {
    make_level(https, "fleeting", "hasty");
    let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "hasty"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "hasty"}]});
    let bindings = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";
    assert_eq!(https.send("POST", bindings, JSON, &binding).0, 201);
    let becomes = |name: &str, wanted: i64| {
        wait_for(&format!("{wanted} {name}"), SOON, || {
            metric(https, "fleeting", name, "").filter(|count| *count == wanted)
        });
    };
    // A version that is still to come is waited for.
    let late = "/api/v1/namespaces/default/podtemplates?resourceVersion=99999999";
    for version in ["--http1.1", "--http2"] {
        let url = format!("{API}{late}");
        let curl = ["curl", "-sS", version, "-H", "impersonate-user: hasty", "--cacert", "ca.pem", &url];
        let words = [&curl[..], &ADMINISTRATOR].concat();
        let ask = || cluster.sandbox.background(&cluster.sandbox.folder.join("hasty.log"), |_| {}, &words);
        share(https, "fleeting", 0);
        let mut waiting = ask();
        becomes("current_inqueue_requests", 1);
        waiting.stop("KILL");
        becomes("current_inqueue_requests", 0);
        share(https, "fleeting", 20);
        let mut worked_on = ask();
        becomes("current_executing_requests", 1);
        worked_on.stop("KILL");
        becomes("current_executing_requests", 0);
        becomes("current_executing_seats", 0);
    }
    assert_eq!(metric(https, "fleeting", "rejected_requests_total", "time-out"), Some(0));
    // Whoever stays is told, and is the only one: those before began earlier and would have been told by now.
    assert_eq!(https.ask("GET", late).by("hasty").send().code, 504);
    let parts = ["resource=\"podtemplates\"", "code=\"504\""];
    assert_eq!(counted(https, "apiserver_request_total", &parts), Some(1));
}

/// A number of `/metrics` about a priority level.
fn metric(https: &Https, level: &str, name: &str, reason: &str) -> Option<i64> {
    let level = format!("priority_level=\"{level}\"");
    counted(https, &format!("apiserver_flowcontrol_{name}"), &[&level, reason])
}

/// A number of `/metrics`, of the first series whose labels have these parts.
fn counted(https: &Https, name: &str, parts: &[&str]) -> Option<i64> {
    let (_, text) = https.call("GET", "/metrics");
    let line = text.as_str()?.lines().find(|line| {
        line.starts_with(&format!("{name}{{")) && parts.iter().all(|part| line.contains(part))
    })?;
    line.rsplit(' ').next()?.parse().ok()
}

#[test]
fn requests_have_limits() {
    let mut cluster = Cluster::control_plane();
    let https = Https::new(&cluster);
    timeouts(&cluster, &https);
    sizes(&https);
    the_end_is_orderly(&mut cluster);
}

fn timeouts(cluster: &Cluster, https: &Https) {
    let (code, status) = https.call("GET", &format!("{MAPS}?timeout=soon"));
    assert_eq!((code, &status["reason"]), (400, &json!("BadRequest")));
    assert_eq!(
        status["message"],
        "invalid timeout specified in the request URL - time: invalid duration \"soon\""
    );
    // A body that does not come.
    let head = format!(
        "POST {MAPS}?timeout=1s HTTP/1.1\\r\\nHost: a\\r\\nContent-Type: {JSON}\\r\\nContent-Length: 9\\r\\n\\r\\n"
    );
    let script = format!(
        "(printf '{head}{{'; sleep 3) | openssl s_client -quiet -no_ign_eof -connect 127.0.0.1:6443 -cert client.pem -key client.key"
    );
    let answer = cluster.sandbox.sh(&script).stdout;
    assert!(answer.starts_with("HTTP/1.1 504 Gateway Timeout"), "{answer}");
    assert!(
        answer.contains("\"message\":\"Timeout: request did not complete within the allotted timeout\""),
        "{answer}"
    );
}

fn sizes(https: &Https) {
    let mut large = map("large");
    large["data"]["key"] = json!("x".repeat(3 << 20));
    let (code, status) = https.send("POST", MAPS, JSON, &large);
    assert_eq!((code, &status["reason"]), (413, &json!("RequestEntityTooLarge")), "{status}");
    assert_eq!(status["message"], "Request entity too large: limit is 3145728");
    // More than an object may have.
    let revision = json!({"apiVersion": "apps/v1", "kind": "ControllerRevision", "metadata": {"name": "large"},
        "revision": 1, "data": {"text": "x".repeat(1_600_000)}});
    let revisions = "/apis/apps/v1/namespaces/default/controllerrevisions";
    let (code, status) = https.send("POST", revisions, JSON, &revision);
    assert_eq!((code, &status["message"]), (500, &json!("etcdserver: request is too large")), "{status}");
}

/// A watch ends with a whole last chunk when the server stops, and a new start goes on from there.
fn the_end_is_orderly(cluster: &mut Cluster) {
    let url = format!("{API}{MAPS}?watch=true&resourceVersion=0");
    let curl = ["curl", "-sSN", "--http1.1", "--cacert", "ca.pem", &url];
    let words = [&curl[..], &ADMINISTRATOR].concat();
    let log = cluster.sandbox.folder.join("watch.log");
    let mut watch = cluster.sandbox.background(&log, |_| {}, &words);
    wait_for("the watch", SOON, || std::fs::read_to_string(&log).ok().filter(|text| text.contains("ADDED")));
    assert_eq!(cluster.stop("TERM"), 0);
    let code = wait_for("the end of the watch", SOON, || watch.ended());
    assert_eq!(code, 0, "{}", read(cluster, "watch.log"));
    cluster.start();
}
