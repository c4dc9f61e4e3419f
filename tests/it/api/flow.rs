//! Priority and fairness, limits of requests and the end of the server, over HTTPS.

use super::{API, Https, JSON, MAPS, map};
use crate::support::cluster::{Cluster, SOON};
use crate::support::process::wait_for;
use serde_json::{Value, json};

const FLOW: &str = "/apis/flowcontrol.apiserver.k8s.io/v1";
const MERGE: &str = "application/merge-patch+json";

#[test]
fn requests_have_priorities() {
    let cluster = Cluster::control_plane();
    let https = Https::new(&cluster);
    defaults(&https);
    mandatory_objects_come_back(&https);
    dangling(&https);
    headers(&https);
    a_flood_leaves_room_for_others(&cluster, &https);
}

fn defaults(https: &Https) {
    let names = |path: &str| -> Vec<String> {
        let (_, list) = https.call("GET", &format!("{FLOW}/{path}"), &[]);
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
    let (_, schema) = https.call("GET", &format!("{FLOW}/flowschemas/system-nodes"), &[]);
    assert_eq!(schema["status"]["conditions"][0]["status"], "False", "{schema}");
}

fn mandatory_objects_come_back(https: &Https) {
    let path = format!("{FLOW}/flowschemas/catch-all");
    let (_, before) = https.call("GET", &path, &[]);
    https.call("DELETE", &path, &[]);
    wait_for("the mandatory schema", SOON, || {
        let (code, now) = https.call("GET", &path, &[]);
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
        let (_, now) = https.call("GET", &other, &[]);
        (now["spec"]["limited"]["nominalConcurrencyShares"] == 40).then_some(())
    });
    let (_, now) = https.call("GET", &path, &[]);
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
        let (_, now) = https.call("GET", &path, &[]);
        (now["status"]["conditions"][0]["status"] == "True").then(|| now["status"]["conditions"][0].clone())
    });
    assert_eq!(
        told["message"],
        "This FlowSchema references the PriorityLevelConfiguration object named \"none\" but there is no such object"
    );
    https.call("DELETE", &path, &[]);
}

fn read(cluster: &Cluster, file: &str) -> String {
    std::fs::read_to_string(cluster.sandbox.folder.join(file)).unwrap_or_default()
}

/// The headers of an answer to a user, by impersonation.
fn answered(https: &Https, user: &str, path: &str) -> String {
    let url = format!("{API}{path}");
    let name = format!("impersonate-user: {user}");
    let words = ["--cert", "client.pem", "--key", "client.key", "-i", "-H", &name, &url];
    https.curl(&words).stdout
}

fn headers(https: &Https) {
    let uid = |path: &str| {
        let (_, object) = https.call("GET", &format!("{FLOW}/{path}"), &[]);
        object["metadata"]["uid"].as_str().unwrap().to_owned()
    };
    let scheduler = answered(https, "system:kube-scheduler", "/api/v1/pods");
    let schema = uid("flowschemas/kube-scheduler");
    let level = uid("prioritylevelconfigurations/workload-high");
    assert!(scheduler.contains(&format!("x-kubernetes-pf-flowschema-uid: {schema}")), "{scheduler}");
    assert!(scheduler.contains(&format!("x-kubernetes-pf-prioritylevel-uid: {level}")), "{scheduler}");
    let somebody = answered(https, "somebody", "/api/v1/pods");
    assert!(somebody.contains(&uid("flowschemas/global-default")), "{somebody}");
}

/// One user's requests fill their level; a node's heartbeat and an administrator are answered all the same.
fn a_flood_leaves_room_for_others(cluster: &Cluster, https: &Https) {
    let level = json!({"apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "PriorityLevelConfiguration",
        "metadata": {"name": "narrow"}, "spec": {"type": "Limited", "limited": {"nominalConcurrencyShares": 0,
            "borrowingLimitPercent": 0, "limitResponse": {"type": "Queue", "queuing": {"queues": 1, "handSize": 1, "queueLengthLimit": 2}}}}});
    assert_eq!(https.send("POST", &format!("{FLOW}/prioritylevelconfigurations"), JSON, &level).0, 201);
    assert_eq!(
        https.send("POST", &format!("{FLOW}/flowschemas"), JSON, &schema("noisy", "narrow", "noisy")).0,
        201
    );
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
    let node = [
        "-H",
        "impersonate-user: system:node:a",
        "-H",
        "impersonate-group: system:nodes",
        "-H",
        "content-type: application/json",
        "-d",
        &lease.to_string(),
    ];
    let (code, made) =
        https.call("POST", "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases", &node);
    assert_eq!(code, 201, "{made}");
    assert_eq!(https.call("GET", MAPS, &[]).0, 200);
    assert!(noisy.ended().is_none(), "two requests are still waiting");
    // Seats let those go that wait.
    let more = json!({"spec": {"limited": {"nominalConcurrencyShares": 20}}});
    let path = format!("{FLOW}/prioritylevelconfigurations/narrow");
    assert_eq!(https.send("PATCH", &path, MERGE, &more).0, 200);
    https.call("GET", MAPS, &[]);
    wait_for("the end of the flood", SOON, || noisy.ended());
    let answers: Vec<String> = (1..=8).map(|number| read(cluster, &format!("flood-{number}"))).collect();
    let refused: Vec<&String> = answers.iter().filter(|answer| answer.contains(" 429")).collect();
    assert_eq!(refused.len(), 6, "{answers:?}");
    assert!(refused[0].contains("retry-after: 1"), "{}", refused[0]);
    assert!(refused[0].ends_with("\r\n\r\nToo many requests, please try again later.\n"), "{}", refused[0]);
}

/// A number of `/metrics` about a priority level.
fn metric(https: &Https, level: &str, name: &str, reason: &str) -> Option<i64> {
    let (_, text) = https.call("GET", "/metrics", &[]);
    let line = text.as_str()?.lines().find(|line| {
        line.starts_with(&format!("apiserver_flowcontrol_{name}{{"))
            && line.contains(&format!("priority_level=\"{level}\""))
            && line.contains(reason)
    })?;
    line.rsplit(' ').next()?.parse().ok()
}

#[test]
fn requests_have_limits() {
    let mut cluster = Cluster::control_plane();
    let https = Https::new(&cluster);
    timeouts(&https);
    sizes(&cluster, &https);
    the_end_is_orderly(&mut cluster);
}

fn timeouts(https: &Https) {
    let (code, status) = https.call("GET", &format!("{MAPS}?timeout=soon"), &[]);
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
    let answer = https.0.sandbox.sh(&script).stdout;
    assert!(answer.starts_with("HTTP/1.1 504 Gateway Timeout"), "{answer}");
    assert!(
        answer.contains("\"message\":\"Timeout: request did not complete within the allotted timeout\""),
        "{answer}"
    );
}

fn sizes(cluster: &Cluster, https: &Https) {
    let send = |bytes: usize| {
        let mut large = map("large");
        large["data"]["key"] = json!("x".repeat(bytes));
        std::fs::write(cluster.sandbox.folder.join("large.json"), large.to_string()).unwrap();
        let words = ["-H", "content-type: application/json", "--data-binary", "@large.json"];
        https.call("POST", MAPS, &words)
    };
    let (code, status) = send(3 << 20);
    assert_eq!((code, &status["reason"]), (413, &json!("RequestEntityTooLarge")), "{status}");
    assert_eq!(status["message"], "Request entity too large: limit is 3145728");
    // More than an object may have.
    let revision = json!({"apiVersion": "apps/v1", "kind": "ControllerRevision", "metadata": {"name": "large"},
        "revision": 1, "data": {"text": "x".repeat(1_600_000)}});
    std::fs::write(cluster.sandbox.folder.join("large.json"), revision.to_string()).unwrap();
    let words = ["-H", "content-type: application/json", "--data-binary", "@large.json"];
    let (code, status) = https.call("POST", "/apis/apps/v1/namespaces/default/controllerrevisions", &words);
    assert_eq!((code, &status["message"]), (500, &json!("etcdserver: request is too large")), "{status}");
}

/// A watch ends with a whole last chunk when the server stops, and a new start goes on from there.
fn the_end_is_orderly(cluster: &mut Cluster) {
    let url = format!("{API}{MAPS}?watch=true&resourceVersion=0");
    let words = [
        "curl",
        "-sSN",
        "--http1.1",
        "--cacert",
        "ca.pem",
        "--cert",
        "client.pem",
        "--key",
        "client.key",
        &url,
    ];
    let log = cluster.sandbox.folder.join("watch.log");
    let mut watch = cluster.sandbox.background(&log, |_| {}, &words);
    wait_for("the watch", SOON, || std::fs::read_to_string(&log).ok().filter(|text| text.contains("ADDED")));
    assert_eq!(cluster.stop("TERM"), 0);
    let code = wait_for("the end of the watch", SOON, || watch.ended());
    assert_eq!(code, 0, "{}", read(cluster, "watch.log"));
    cluster.start();
}
