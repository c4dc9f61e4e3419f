//! Published documents and encodings, over HTTPS and by the real kubectl.

use super::{API, Https, JSON, MAPS, map, parts};
use crate::support::cluster::Cluster;
use serde_json::{Value, json};

/// Kubernetes' threshold below which nothing is compressed.
const THRESHOLD_BYTES: usize = 128 << 10;

#[test]
fn documents_come_as_clients_ask_for_them() {
    let cluster = Cluster::control_plane();
    let https = Https::new(&cluster);
    everything_is_explained(&cluster);
    old_documents_explain_too(&cluster);
    digests(&https);
    compression(&https);
    encodings(&https);
    metadata_alone(&https);
    for_people(&https);
    health(&https);
    old_watches(&https);
}

/// Explains things in one shell: a process of the test's for each would take several times as long.
fn explained(cluster: &Cluster, things: &[String]) -> String {
    let lines: Vec<String> =
        things.iter().map(|thing| format!("kubectl explain {thing} || echo FAILED {thing}")).collect();
    let kubeconfig = format!("KUBECONFIG={}", cluster.sandbox.folder.join("kubeconfig").display());
    let told = cluster.sandbox.run(&["env", &kubeconfig, "sh", "-c", &lines.join("\n")]).ok();
    assert!(!told.contains("FAILED"), "{told}");
    told
}

fn everything_is_explained(cluster: &Cluster) {
    let names = cluster.kubectl("api-resources --no-headers");
    let thing = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        format!("{} --api-version={} --recursive", words[0], words[words.len() - 3])
    };
    let told = explained(cluster, &names.lines().map(thing).collect::<Vec<_>>());
    let count = |word: &str| told.lines().filter(|line| line.starts_with(word)).count();
    let expected = names.lines().count();
    assert!(expected > 60, "{names}");
    assert_eq!((count("KIND:"), count("FIELDS:")), (expected, expected), "{told}");
    assert!(told.contains("enum: Recreate, RollingUpdate"), "{told}");
    let fields = cluster.kubectl("explain deployment.spec.template.spec.containers --recursive");
    assert!(fields.contains("livenessProbe") && fields.contains("-required-"), "{fields}");
}

fn old_documents_explain_too(cluster: &Cluster) {
    let things = ["pods", "deployments", "events --api-version=events.k8s.io/v1", "ingresses"];
    let things = things.map(|thing| format!("{thing} --output=plaintext-openapiv2"));
    let told = explained(cluster, &things);
    assert_eq!(told.lines().filter(|line| line.starts_with("FIELDS:")).count(), things.len(), "{told}");
    assert!(told.contains("spec\t<"), "{told}");
}

/// The head and the status code of an administrator's request.
fn head(https: &Https, path: &str, more: &[&str]) -> (u16, String) {
    let url = format!("{API}{path}");
    let words = ["--cert", "client.pem", "--key", "client.key", "-D", "-", "-o", "/dev/null", &url];
    let (code, head) = parts(&https.curl(&[&words, more].concat()));
    (code, head.as_str().unwrap().to_ascii_lowercase())
}

fn digests(https: &Https) {
    let (_, index) = https.call("GET", "/openapi/v3", &[]);
    let address = index["paths"]["api/v1"]["serverRelativeURL"].as_str().unwrap();
    let (code, told) = head(https, address, &["--compressed"]);
    assert_eq!(code, 200);
    assert!(
        told.contains("cache-control: public, immutable") && told.contains("content-encoding: gzip"),
        "{told}"
    );
    let tag = told.lines().find_map(|line| line.strip_prefix("etag: ")).unwrap().trim().to_ascii_uppercase();
    assert_eq!(head(https, address, &["-H", &format!("if-none-match: {tag}")]).0, 304);
    let (code, v2) = https.call("GET", "/openapi/v2", &["--compressed"]);
    assert_eq!((code, &v2["swagger"]), (200, &json!("2.0")));
    let aggregated = "accept: application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let (code, groups) = https.call("GET", "/apis", &["-H", aggregated]);
    assert_eq!((code, &groups["kind"]), (200, &json!("APIGroupDiscoveryList")));
}

fn compression(https: &Https) {
    let mut large = map("large");
    large["data"]["text"] = "x".repeat(2 * THRESHOLD_BYTES).into();
    let file = https.0.sandbox.folder.join("large.json");
    std::fs::write(&file, large.to_string()).unwrap();
    let body = format!("@{}", file.display());
    let (code, made) = https.call("POST", MAPS, &["-H", "content-type: application/json", "-d", &body]);
    assert_eq!(code, 201, "{made}");
    for path in [format!("{MAPS}/large"), MAPS.to_owned()] {
        let (code, told) = head(https, &path, &["--compressed", "-A", "test"]);
        assert_eq!(code, 200);
        assert!(told.contains("content-encoding: gzip") && told.contains("vary: accept-encoding"), "{told}");
        let (_, plain) = https.call("GET", &path, &["-A", "test"]);
        assert_eq!(https.call("GET", &path, &["--compressed", "-A", "test"]).1, plain);
    }
    let (_, told) = head(https, "/api/v1/namespaces/default", &["--compressed"]);
    assert!(!told.contains("content-encoding"), "{told}");
    // Kubernetes has heads of documents, and none of objects.
    assert_eq!(head(https, "/openapi/v2", &["-I"]).0, 200);
    assert_eq!(head(https, &format!("{MAPS}/large"), &["-I"]).0, 405);
}

fn text(https: &Https, path: &str, more: &[&str]) -> (u16, String) {
    let (code, body) = https.call("GET", path, more);
    (code, body.as_str().map_or_else(|| body.to_string(), str::to_owned))
}

fn encodings(https: &Https) {
    let yaml = ["-H", "accept: application/yaml"];
    let (code, object) = text(https, "/api/v1/namespaces/default", &yaml);
    assert_eq!(code, 200);
    assert!(object.starts_with("apiVersion: v1\nkind: Namespace\nmetadata:\n"), "{object}");
    let (_, list) = text(https, "/api/v1/namespaces", &yaml);
    assert!(
        list.contains("kind: NamespaceList\n") && list.contains("\nitems:\n- apiVersion: v1\n"),
        "{list}"
    );
    let (code, status) = text(https, &format!("{MAPS}/none"), &yaml);
    assert!(code == 404 && status.contains("reason: NotFound\n"), "{status}");
    let (_, groups) = text(https, "/apis", &yaml);
    assert!(groups.contains("kind: APIGroupList\n"), "{groups}");
    let (code, status) = https.call("GET", "/api/v1/namespaces", &["-H", "accept: text/html"]);
    assert_eq!((code, &status["reason"]), (406, &json!("NotAcceptable")), "{status}");
    assert_eq!(
        status["message"],
        "406: Not Acceptable\n\nAvailable representations: application/json, application/yaml, application/vnd.kubernetes.protobuf, application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch"
    );
    let (code, status) = text(https, "/api/v1/namespaces?watch=1", &yaml);
    assert!(code == 406 && status.contains("accepted: application/json;stream=watch,"), "{status}");
}

fn metadata_alone(https: &Https) {
    let form =
        |name: &str| format!("accept: application/vnd.kubernetes.protobuf;as={name};g=meta.k8s.io;v=v1");
    for (path, name) in [
        ("/api/v1/namespaces/default", "PartialObjectMetadata"),
        ("/api/v1/namespaces", "PartialObjectMetadataList"),
        ("/api/v1/namespaces?watch=1&timeoutSeconds=1", "PartialObjectMetadata"),
    ] {
        let (code, told) = head(https, path, &["-H", &form(name)]);
        assert_eq!(code, 200, "{told}");
        assert!(told.contains("content-type: application/vnd.kubernetes.protobuf"), "{told}");
    }
}

fn for_people(https: &Https) {
    let (_, map) = https.send("POST", MAPS, JSON, &map("read"));
    let url = format!("{API}{MAPS}/read");
    let raw = |more: &[&str]| {
        let words = ["--cert", "client.pem", "--key", "client.key", &url];
        https.curl(&[&words, more].concat()).stdout.rsplit_once('\n').unwrap().0.to_owned()
    };
    assert_eq!(raw(&[]), format!("{map:#}"));
    assert_eq!(raw(&["-A", "Go-http-client/2.0"]), map.to_string());
    let (code, version) = https.call("GET", "/version", &[]);
    let fields: Vec<&String> = version.as_object().unwrap().keys().collect();
    assert_eq!(code, 200);
    for field in ["buildDate", "compiler", "gitCommit", "gitTreeState", "gitVersion", "goVersion", "platform"]
    {
        assert!(fields.iter().any(|own| *own == field), "{version}");
    }
}

fn health(https: &Https) {
    let (code, told) = text(https, "/readyz?verbose&exclude=shutdown", &[]);
    assert_eq!(code, 200);
    assert_eq!(told, "[+]ping ok\n[+]etcd ok\n[+]shutdown excluded: ok\nreadyz check passed\n");
    assert_eq!(text(https, "/livez/etcd", &[]), (200, "ok".to_owned()));
    assert_eq!(https.call("GET", "/livez/none", &[]).0, 404);
}

fn old_watches(https: &Https) {
    let path = format!("{}/read?timeoutSeconds=1", MAPS.replace("/v1/", "/v1/watch/"));
    let (code, events) = https.call("GET", &path, &["-A", "test"]);
    assert_eq!(code, 200);
    assert_eq!((&events["type"], &events["object"]["metadata"]["name"]), (&json!("ADDED"), &json!("read")));
    assert_ne!(events, Value::Null);
}
