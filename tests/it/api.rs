//! The API over HTTPS as a client without knowledge of knarr sees it.

mod admission;
mod apply;
mod conformance;
mod documents;
mod flow;
mod policies;
mod quota;
mod reading;
mod scheduling;
mod subresources;
mod suite;
mod webhooks;

use crate::support::cluster::{ADMINISTRATOR, API, Cluster, SOON};
use crate::support::https::{Https, JSON};
use crate::support::process::{Output, wait_for};
use serde_json::{Value, json};

/// curl, which says the status code at the end.
fn curl(cluster: &Cluster, words: &[&str]) -> (u16, Value) {
    parts(&cluster.curl(&[&["-w", "\n%{http_code}"], words].concat()))
}

fn parts(output: &Output) -> (u16, Value) {
    let (body, code) = output.stdout.rsplit_once('\n').unwrap_or_else(|| panic!("{output:?}"));
    (code.parse().unwrap(), serde_json::from_str(body).unwrap_or_else(|_| Value::String(body.to_owned())))
}

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"key": "old"}})
}

#[test]
fn the_api_speaks_kubernetes() {
    let cluster = Cluster::control_plane();
    let https = Https::new(&cluster);
    pages(&https);
    conflicts(&https);
    patches(&https);
    dry_run(&https);
    watch(&https);
    tables(&https);
    strangers(&cluster);
    let explained = cluster.kubectl("explain deployment.spec.strategy.rollingUpdate");
    assert!(explained.contains("maxSurge") && explained.contains("maxUnavailable"), "{explained}");
    assert!(cluster.kubectl("api-resources").contains("deployments"));
}

fn pages(https: &Https) {
    for index in 0..5 {
        let (code, made) = https.send("POST", MAPS, JSON, &map(&format!("page-{index}")));
        assert_eq!(code, 201, "{made}");
    }
    let (mut seen, mut next, mut requests) = (Vec::new(), String::new(), 0);
    loop {
        let (code, page) = https.call("GET", &format!("{MAPS}?limit=2&continue={next}"));
        assert_eq!(code, 200, "{page}");
        let items = page["items"].as_array().unwrap();
        assert!(items.len() <= 2);
        seen.extend(items.iter().map(|item| item["metadata"]["name"].as_str().unwrap().to_owned()));
        requests += 1;
        match page["metadata"]["continue"].as_str() {
            Some(token) if !token.is_empty() => token.clone_into(&mut next),
            _ => break,
        }
    }
    assert_eq!((requests, seen.iter().filter(|name| name.starts_with("page-")).count()), (3, 5), "{seen:?}");
    let (_, one) = https.call("GET", &format!("{MAPS}?fieldSelector=metadata.name%3Dpage-3"));
    assert_eq!(one["items"].as_array().unwrap().len(), 1);
    let (code, wrong) = https.call("GET", &format!("{MAPS}?continue=nonsense"));
    assert_eq!((code, &wrong["reason"]), (400, &json!("BadRequest")));
}

fn conflicts(https: &Https) {
    let (_, first) = https.call("GET", &format!("{MAPS}/page-0"));
    let mut changed = first.clone();
    changed["data"]["key"] = json!("new");
    let path = format!("{MAPS}/page-0");
    let (code, second) = https.send("PUT", &path, JSON, &changed);
    assert_eq!(code, 200);
    assert_ne!(first["metadata"]["resourceVersion"], second["metadata"]["resourceVersion"]);
    let (code, status) = https.send("PUT", &path, JSON, &changed);
    assert_eq!((code, &status["reason"]), (409, &json!("Conflict")));
    assert!(status["message"].as_str().unwrap().contains("the object has been modified"), "{status}");
    let (code, status) = https.send("POST", MAPS, JSON, &map("page-0"));
    assert_eq!((code, &status["reason"]), (409, &json!("AlreadyExists")));
    let mut held = map("held");
    held["metadata"]["finalizers"] = json!(["example.com/hold"]);
    assert_eq!(https.send("POST", MAPS, JSON, &held).0, 201);
    assert_eq!(https.call("DELETE", &format!("{MAPS}/held")).0, 200);
    for query in ["", "?dryRun=All"] {
        let (code, status) = https.send("POST", &format!("{MAPS}{query}"), JSON, &map("held"));
        let wanted = "object is being deleted: configmaps \"held\" already exists";
        assert_eq!((code, &status["message"]), (409, &json!(wanted)));
    }
    let (code, status) = https.send("POST", MAPS, JSON, &map("No Name"));
    assert_eq!((code, &status["reason"]), (422, &json!("Invalid")));
    assert_eq!(status["details"]["causes"][0]["field"], "metadata.name", "{status}");
}

fn patches(https: &Https) {
    let path = format!("{MAPS}/page-1");
    let (code, patched) =
        https.send("PATCH", &path, "application/merge-patch+json", &json!({"data": {"key": null, "m": "1"}}));
    assert_eq!((code, &patched["data"]), (200, &json!({"m": "1"})));
    let steps = json!([{"op": "test", "path": "/data/m", "value": "1"}, {"op": "add", "path": "/data/j", "value": "2"}]);
    let (code, patched) = https.send("PATCH", &path, "application/json-patch+json", &steps);
    assert_eq!((code, &patched["data"]), (200, &json!({"m": "1", "j": "2"})));
    let pods = "/api/v1/namespaces/default/pods";
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
        "spec": {"containers": [{"name": "a", "image": "x:1"}, {"name": "b", "image": "x:1"}]}});
    let (code, made) = https.send("POST", pods, JSON, &pod);
    assert_eq!(code, 201, "{made}");
    let by_key = json!({"spec": {"containers": [{"name": "b", "image": "x:2"}]}});
    let (code, patched) =
        https.send("PATCH", &format!("{pods}/p"), "application/strategic-merge-patch+json", &by_key);
    let images: Vec<&Value> =
        patched["spec"]["containers"].as_array().unwrap().iter().map(|it| &it["image"]).collect();
    assert_eq!((code, images), (200, vec![&json!("x:1"), &json!("x:2")]));
    let (code, status) = https.send("PATCH", &path, "text/plain", &json!({}));
    assert_eq!(code, 415, "{status}");
}

fn dry_run(https: &Https) {
    let (code, _) = https.send("POST", &format!("{MAPS}?dryRun=All"), JSON, &map("never"));
    assert_eq!(code, 201);
    let (code, status) = https.call("GET", &format!("{MAPS}/never"));
    assert_eq!((code, &status["reason"]), (404, &json!("NotFound")));
    assert_eq!(status["message"], "configmaps \"never\" not found");
}

/// A watch from a known revision brings what happened since and ends in time; one that begins with the state marks its end.
fn watch(https: &Https) {
    let (_, list) = https.call("GET", MAPS);
    let since = list["metadata"]["resourceVersion"].as_str().unwrap();
    https.send("POST", MAPS, JSON, &map("watched"));
    https.call("DELETE", &format!("{MAPS}/watched"));
    let url = format!("{MAPS}?watch=true&resourceVersion={since}&allowWatchBookmarks=true&timeoutSeconds=2");
    let (code, body) = https.call("GET", &url);
    assert_eq!(code, 200);
    let lines: Vec<Value> =
        body.as_str().unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let types: Vec<&str> = lines.iter().filter_map(|event| event["type"].as_str()).collect();
    assert_eq!(types, ["ADDED", "DELETED"], "{lines:?}");
    let url = format!(
        "{MAPS}?watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&timeoutSeconds=1"
    );
    let (_, body) = https.call("GET", &url);
    let last: Value = serde_json::from_str(body.as_str().unwrap().lines().last().unwrap()).unwrap();
    assert_eq!(last["type"], "BOOKMARK");
    assert_eq!(last["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    let (code, status) =
        https.call("GET", &format!("{MAPS}?watch=true&resourceVersion=99999999&timeoutSeconds=1"));
    assert!(code == 504 || status["code"] == 504 || status["type"] == "ERROR", "{code} {status}");
}

fn tables(https: &Https) {
    let accept = "application/json;as=Table;g=meta.k8s.io;v=v1";
    let (code, table) = https.ask("GET", "/api/v1/namespaces/default/pods").header("accept", accept).parts();
    assert_eq!((code, &table["kind"]), (200, &json!("Table")));
    let columns: Vec<&str> = table["columnDefinitions"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|one| one["name"].as_str())
        .collect();
    assert_eq!(columns[..5], ["Name", "Ready", "Status", "Restarts", "Age"]);
    assert_eq!(table["rows"][0]["cells"][0], "p");
    let accept = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
    let (_, partial) = https.ask("GET", "/api/v1/namespaces/default/pods/p").header("accept", accept).parts();
    assert_eq!((&partial["kind"], &partial["spec"]), (&json!("PartialObjectMetadata"), &Value::Null));
}

/// Who cannot prove to be somebody is refused, and who tries with a false proof is unknown.
fn strangers(cluster: &Cluster) {
    let pods = format!("{API}/api/v1/namespaces/default/pods");
    let (code, status) = curl(cluster, &[&pods]);
    assert_eq!((code, &status["reason"]), (403, &json!("Forbidden")));
    assert!(status["message"].as_str().unwrap().contains("system:anonymous"), "{status}");
    for path in ["/version", "/livez", "/readyz", "/healthz"] {
        assert_eq!(curl(cluster, &[&format!("{API}{path}")]).0, 200, "{path}");
    }
    assert_eq!(curl(cluster, &["-H", "authorization: Bearer nonsense", &pods]).0, 401);
    assert_eq!(curl(cluster, &[&ADMINISTRATOR[..], &[&pods]].concat()).0, 200);
    let make = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 \
                -subj /O=system:masters/CN=system:admin -keyout false.key -out false.pem";
    cluster.sandbox.sh(make).ok();
    let (code, status) = curl(cluster, &["--cert", "false.pem", "--key", "false.key", &pods]);
    assert_eq!((code, &status["reason"]), (401, &json!("Unauthorized")));
    let trusts_no_one = cluster.sandbox.run(&["curl", "-sS", &pods]);
    assert_eq!(trusts_no_one.code, 60, "{}", trusts_no_one.stderr);
}

/// Nothing that was acknowledged is lost when the process dies.
#[test]
fn objects_outlive_a_kill() {
    let mut cluster = Cluster::control_plane();
    cluster.kubectl("create namespace kept");
    cluster.kubectl("create configmap one --from-literal=a=b -n kept");
    let before = cluster.json("configmap one -n kept");
    cluster.stop("KILL");
    cluster.start();
    assert_eq!(cluster.json("configmap one -n kept"), before);
    cluster.kubectl("delete namespace kept");
    wait_for("end of the namespace", SOON, || cluster.json("namespace kept").is_null().then_some(()));
}
