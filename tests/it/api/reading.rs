//! Lists, pages and watches at revisions, by selectors and in their older forms, over HTTPS.

use super::{MAPS, map};
use crate::support::cluster::Cluster;
use crate::support::https::{Https, JSON, MERGE};
use serde_json::{Value, json};

#[test]
fn reading_is_exact() {
    let cluster = Cluster::control_plane();
    let https = Https::new(&cluster);
    revisions(&https);
    options(&https);
    pages_change_selectors(&https);
    watches(&https);
    watches_of_selections(&https);
    older_paths(&https);
    events(&https);
}

/// The events of a watch that ends by itself.
fn watched(https: &Https, path: &str) -> Vec<Value> {
    let (code, body) = https.call("GET", path);
    assert_eq!(code, 200, "{body}");
    let text = match body {
        Value::String(text) => text,
        one => one.to_string(),
    };
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn kinds_of(events: &[Value]) -> Vec<&str> {
    events.iter().filter_map(|event| event["type"].as_str()).collect()
}

fn revisions(https: &Https) {
    for path in [
        format!("{MAPS}?resourceVersion=99999999"),
        format!("{MAPS}/kube-root-ca.crt?resourceVersion=99999999"),
    ] {
        let (code, status) = https.call("GET", &path);
        assert_eq!((code, &status["reason"]), (504, &json!("Timeout")), "{status}");
        let message = status["message"].as_str().unwrap();
        assert!(message.starts_with("Timeout: Too large resource version: 99999999, current: "), "{message}");
        assert_eq!(status["details"]["causes"][0]["reason"], "ResourceVersionTooLarge");
        assert_eq!(status["details"]["retryAfterSeconds"], 1);
    }
    let events = watched(https, &format!("{MAPS}?watch=1&resourceVersion=99999999&timeoutSeconds=5"));
    assert_eq!(kinds_of(&events), ["ERROR"]);
    assert_eq!(events[0]["object"]["code"], 504);
    let events = watched(https, &format!("{MAPS}?watch=1&resourceVersion=1&timeoutSeconds=5"));
    assert!(!events.is_empty());
}

fn options(https: &Https) {
    let refused = |query: &str| {
        let (code, status) = https.call("GET", &format!("{MAPS}?{query}"));
        assert_eq!((code, &status["reason"]), (422, &json!("Invalid")), "{status}");
        status["details"]["causes"][0]["field"].as_str().unwrap().to_owned()
    };
    assert_eq!(refused("resourceVersionMatch=Exact"), "resourceVersionMatch");
    assert_eq!(refused("sendInitialEvents=false"), "sendInitialEvents");
    assert_eq!(refused("watch=1&sendInitialEvents=true"), "resourceVersionMatch");
    let (code, status) = https.call("GET", &format!("{MAPS}?continue=%20"));
    assert_eq!(code, 400);
    assert_eq!(
        status["message"],
        "invalid continue token: continue key is not valid: illegal base64 data at input byte 0"
    );
}

fn pages_change_selectors(https: &Https) {
    for (name, label) in [("r-a", "1"), ("r-b", "2"), ("r-c", "1"), ("r-d", "2")] {
        let mut object = map(name);
        object["metadata"]["labels"] = json!({"reading": label});
        assert_eq!(https.send("POST", MAPS, JSON, &object).0, 201);
    }
    let (_, page) = https.call("GET", &format!("{MAPS}?limit=1&labelSelector=reading"));
    let names = |page: &Value| -> Vec<String> {
        let items = page["items"].as_array().unwrap().iter();
        items.map(|item| item["metadata"]["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(&page), ["r-a"]);
    assert_eq!(page["metadata"]["remainingItemCount"], Value::Null);
    let token = page["metadata"]["continue"].as_str().unwrap();
    let url = format!("{MAPS}?limit=5&labelSelector=reading%3D1&continue={token}");
    assert_eq!(names(&https.call("GET", &url).1), ["r-c"]);
    let (_, page) = https.call("GET", &format!("{MAPS}?limit=1"));
    assert_eq!(page["metadata"]["remainingItemCount"], 4);
}

/// Bookmarks come with the state at the start, and shortly before the end.
fn watches(https: &Https) {
    let initial = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan";
    let with = watched(https, &format!("{MAPS}?watch=1&{initial}&allowWatchBookmarks=1&timeoutSeconds=3"));
    let marked: Vec<bool> = with
        .iter()
        .map(|event| event["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"] == "true")
        .collect();
    let kinds = kinds_of(&with);
    let at = marked.iter().position(|marked| *marked).unwrap();
    assert!(kinds[..at].iter().all(|kind| *kind == "ADDED") && kinds[at] == "BOOKMARK");
    assert_eq!(kinds[at + 1..], ["BOOKMARK"], "shortly before the end: {with:?}");
    let without = watched(https, &format!("{MAPS}?watch=1&{initial}&timeoutSeconds=1"));
    assert!(kinds_of(&without).iter().all(|kind| *kind == "ADDED"));
    let (_, list) = https.call("GET", MAPS);
    let since = list["metadata"]["resourceVersion"].as_str().unwrap();
    let quiet = format!("{MAPS}?watch=1&resourceVersion={since}&allowWatchBookmarks=1&timeoutSeconds=3");
    assert_eq!(kinds_of(&watched(https, &quiet)), ["BOOKMARK"]);
}

fn watches_of_selections(https: &Https) {
    let (_, list) = https.call("GET", MAPS);
    let since = list["metadata"]["resourceVersion"].as_str().unwrap();
    let relabel = |value: &str| {
        let patch = json!({"metadata": {"labels": {"reading": value}}});
        https.send("PATCH", &format!("{MAPS}/r-a"), MERGE, &patch)
    };
    relabel("9");
    let (_, last) = relabel("1");
    https.call("DELETE", &format!("{MAPS}/r-c"));
    let url = format!("{MAPS}?watch=1&labelSelector=reading%3D1&resourceVersion={since}&timeoutSeconds=1");
    let events = watched(https, &url);
    assert_eq!(kinds_of(&events), ["DELETED", "ADDED", "DELETED"], "{events:?}");
    assert_eq!(events[0]["object"]["metadata"]["labels"]["reading"], "1", "as it last was selected");
    assert_eq!(events[1]["object"]["metadata"]["resourceVersion"], last["metadata"]["resourceVersion"]);
    let url = format!("{MAPS}?watch=1&fieldSelector=metadata.name%3Dr-b&resourceVersion=0&timeoutSeconds=1");
    assert_eq!(kinds_of(&watched(https, &url)), ["ADDED"]);
}

fn older_paths(https: &Https) {
    let all = watched(https, "/api/v1/watch/configmaps?timeoutSeconds=1");
    let own = watched(https, "/api/v1/watch/namespaces/default/configmaps?timeoutSeconds=1");
    assert!(all.len() > own.len() && own.len() > 1);
    let path = "/api/v1/watch/namespaces/default/configmaps/r-b";
    let one = watched(https, &format!("{path}?timeoutSeconds=1"));
    assert_eq!(one.len(), 1);
    assert_eq!(one[0]["object"]["metadata"]["name"], "r-b");
    let (code, status) = https.call("GET", &format!("{path}?fieldSelector=metadata.name%3Dr-a"));
    assert_eq!(
        (code, &status["message"]),
        (400, &json!("fieldSelector metadata.name doesn't match requested name"))
    );
}

fn events(https: &Https) {
    let of = |name: &str, component: &str, kind: &str| {
        let regarding = json!({"kind": "ConfigMap", "namespace": "default", "name": name});
        let event = json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": format!("{name}.1"), "namespace": "default"},
            "eventTime": "2026-01-01T00:00:00.000000Z", "reason": "Tried", "action": "Trying", "type": kind, "note": "n",
            "regarding": regarding, "reportingController": component, "reportingInstance": "i"});
        let (code, made) =
            https.send("POST", "/apis/events.k8s.io/v1/namespaces/default/events", JSON, &event);
        assert_eq!(code, 201, "{made}");
    };
    of("one", "example.com/a", "Normal");
    of("two", "example.com/b", "Warning");
    let found = |path: &str, selector: &str| -> Vec<String> {
        let selector = selector.replace('=', "%3D").replace('/', "%2F");
        let (code, list) =
            https.call("GET", &format!("{path}/namespaces/default/events?fieldSelector={selector}"));
        assert_eq!(code, 200, "{list}");
        let items = list["items"].as_array().unwrap().iter();
        items.map(|item| item["metadata"]["name"].as_str().unwrap().to_owned()).collect()
    };
    let (core, own) = ("/api/v1", "/apis/events.k8s.io/v1");
    assert_eq!(found(core, "involvedObject.name=one"), ["one.1"]);
    assert_eq!(found(core, "source=example.com/b"), ["two.1"]);
    assert_eq!(found(core, "reportingComponent=example.com/a,type=Normal,reason=Tried"), ["one.1"]);
    assert_eq!(found(own, "regarding.name=one,regarding.kind=ConfigMap"), ["one.1"]);
    assert_eq!(found(own, "reportingController=example.com/b"), ["two.1"]);
    let (code, status) = https.call("GET", &format!("{own}/events?fieldSelector=involvedObject.name%3Done"));
    assert_eq!(code, 400, "{status}");
}
