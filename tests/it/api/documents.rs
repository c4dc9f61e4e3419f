//! Published documents and encodings, over HTTPS and by the real kubectl.

use super::{MAPS, map};
use crate::support::cluster::{ADMINISTRATOR, API, Cluster};
use crate::support::https::{Answer, Https, JSON, PROTOBUF, YAML};
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
    compression(&cluster, &https);
    encodings(&https);
    metadata_alone(&https);
    for_people(&cluster, &https);
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

fn compressed(https: &Https, path: &str) -> Answer {
    https.ask("GET", path).header("accept-encoding", "gzip").send()
}

fn digests(https: &Https) {
    let (_, index) = https.call("GET", "/openapi/v3");
    let address = index["paths"]["api/v1"]["serverRelativeURL"].as_str().unwrap();
    let told = compressed(https, address);
    assert_eq!((told.code, told.header("content-encoding").as_str()), (200, "gzip"));
    assert!(told.header("cache-control").contains("public, immutable"), "{told:?}");
    let known = https.ask("GET", address).header("if-none-match", &told.header("etag"));
    assert_eq!(known.send().code, 304);
    let (code, v2) = https.call("GET", "/openapi/v2");
    assert_eq!((code, &v2["swagger"]), (200, &json!("2.0")));
    let aggregated = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let (code, groups) = https.ask("GET", "/apis").header("accept", aggregated).parts();
    assert_eq!((code, &groups["kind"]), (200, &json!("APIGroupDiscoveryList")));
}

fn compression(cluster: &Cluster, https: &Https) {
    let mut large = map("large");
    large["data"]["text"] = "x".repeat(2 * THRESHOLD_BYTES).into();
    let (code, made) = https.send("POST", MAPS, JSON, &large);
    assert_eq!(code, 201, "{made}");
    for path in [format!("{MAPS}/large"), MAPS.to_owned()] {
        let told = compressed(https, &path);
        assert_eq!((told.code, told.header("content-encoding").as_str()), (200, "gzip"));
        assert!(told.header("vary").to_ascii_lowercase().contains("accept-encoding"), "{told:?}");
        let url = format!("{API}{path}");
        let unpacked =
            cluster.curl(&[&ADMINISTRATOR[..], &["--compressed", "-A", "test", &url]].concat()).ok();
        assert_eq!(unpacked, https.ask("GET", &path).send().body);
    }
    assert_eq!(compressed(https, "/api/v1/namespaces/default").header("content-encoding"), "");
    // Kubernetes has heads of documents, and none of objects.
    assert_eq!(https.call("HEAD", "/openapi/v2").0, 200);
    assert_eq!(https.call("HEAD", &format!("{MAPS}/large")).0, 405);
}

fn text(https: &Https, path: &str, accept: &str) -> (u16, String) {
    let answer = https.ask("GET", path).header("accept", accept).send();
    (answer.code, String::from_utf8_lossy(&answer.body).into_owned())
}

fn encodings(https: &Https) {
    let (code, object) = text(https, "/api/v1/namespaces/default", YAML);
    assert_eq!(code, 200);
    assert!(object.starts_with("apiVersion: v1\nkind: Namespace\nmetadata:\n"), "{object}");
    let (_, list) = text(https, "/api/v1/namespaces", YAML);
    assert!(
        list.contains("kind: NamespaceList\n") && list.contains("\nitems:\n- apiVersion: v1\n"),
        "{list}"
    );
    let (code, status) = text(https, &format!("{MAPS}/none"), YAML);
    assert!(code == 404 && status.contains("reason: NotFound\n"), "{status}");
    let (_, groups) = text(https, "/apis", YAML);
    assert!(groups.contains("kind: APIGroupList\n"), "{groups}");
    let (code, status) = https.ask("GET", "/api/v1/namespaces").header("accept", "text/html").parts();
    assert_eq!((code, &status["reason"]), (406, &json!("NotAcceptable")), "{status}");
    assert_eq!(
        status["message"],
        "406: Not Acceptable\n\nAvailable representations: application/json, application/yaml, application/vnd.kubernetes.protobuf, application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch"
    );
    let (code, status) = text(https, "/api/v1/namespaces?watch=1", YAML);
    assert!(code == 406 && status.contains("accepted: application/json;stream=watch,"), "{status}");
}

fn metadata_alone(https: &Https) {
    for (path, name) in [
        ("/api/v1/namespaces/default", "PartialObjectMetadata"),
        ("/api/v1/namespaces", "PartialObjectMetadataList"),
        ("/api/v1/namespaces?watch=1&timeoutSeconds=1", "PartialObjectMetadata"),
    ] {
        let form = format!("{PROTOBUF};as={name};g=meta.k8s.io;v=v1");
        let told = https.ask("GET", path).header("accept", &form).send();
        assert_eq!(told.code, 200, "{told:?}");
        assert!(told.header("content-type").starts_with(PROTOBUF), "{told:?}");
    }
}

fn for_people(cluster: &Cluster, https: &Https) {
    let (_, map) = https.send("POST", MAPS, JSON, &map("read"));
    let url = format!("{API}{MAPS}/read");
    let raw = |more: &[&str]| cluster.curl(&[&ADMINISTRATOR[..], more, &[&url]].concat()).ok();
    assert_eq!(raw(&[]), format!("{map:#}"));
    assert_eq!(raw(&["-A", "Go-http-client/2.0"]), map.to_string());
    let (code, version) = https.call("GET", "/version");
    let fields: Vec<&String> = version.as_object().unwrap().keys().collect();
    assert_eq!(code, 200);
    for field in ["buildDate", "compiler", "gitCommit", "gitTreeState", "gitVersion", "goVersion", "platform"]
    {
        assert!(fields.iter().any(|own| *own == field), "{version}");
    }
}

fn health(https: &Https) {
    let (code, told) = text(https, "/readyz?verbose&exclude=shutdown", "*/*");
    assert_eq!(code, 200);
    assert_eq!(told, "[+]ping ok\n[+]etcd ok\n[+]shutdown excluded: ok\nreadyz check passed\n");
    assert_eq!(text(https, "/livez/etcd", "*/*"), (200, "ok".to_owned()));
    assert_eq!(https.call("GET", "/livez/none").0, 404);
}

fn old_watches(https: &Https) {
    let path = format!("{}/read?timeoutSeconds=1", MAPS.replace("/v1/", "/v1/watch/"));
    let (code, events) = https.call("GET", &path);
    assert_eq!(code, 200);
    assert_eq!((&events["type"], &events["object"]["metadata"]["name"]), (&json!("ADDED"), &json!("read")));
    assert_ne!(events, Value::Null);
}
