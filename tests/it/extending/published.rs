//! Definitions that projects publish, with objects from their documentation: a package for Rust has them among
//! its own tests.

use crate::support::cluster::{Cluster, SOON};
use crate::support::https::{Https, JSON};
use serde::Deserialize;
use serde_json::Value;
use std::path::{Path, PathBuf};

const PACKAGE: &str = "kopium@0.24.1";

/// Files of cert-manager, prometheus-operator, Gateway API, Argo CD, Istio, Linkerd, Cluster API and others.
const DEFINITIONS: &[&str] = &[
    "agent-crd.yaml",
    "applications.argoproj.io.yaml",
    "certificates.cert-manager.io.yaml",
    "cluster-crd.yaml",
    "destinationrule-crd.yaml",
    "httproute-crd.yaml",
    "mv-crd.yaml",
    "podmonitors.monitoring.coreos.com.yaml",
    "prometheusrules.monitoring.coreos.com.yaml",
    "server-crd.yaml",
    "serverauth-crd.yaml",
    "servicemonitors.monitoring.coreos.com.yaml",
    "cmd/generate/crds/apis.apigatewayv2.services.k8s.aws.yaml",
    "cmd/generate/crds/argocdexports.argoproj.io.yaml",
    "cmd/generate/crds/authorizers.apigatewayv2.services.k8s.aws.yaml",
    "cmd/generate/crds/externalsecrets.external-secrets.io.yaml",
    "cmd/generate/crds/postgresqls.acid.zalan.do.yaml",
];
/// It has places without a type, which Kubernetes refuses as well.
const UNTYPED: &str = "argoproj.io_clusterworkflowtemplates.yaml";

/// Files of objects, all called `gen`, and their resources.
const OBJECTS: &[(&str, &str)] = &[
    ("agent", "agents"),
    ("app", "applications"),
    ("cert", "certificates"),
    ("destinationrule", "destinationrules"),
    ("httproute", "httproutes"),
    ("mv", "multiversions"),
    ("podmon", "podmonitors"),
    ("pr", "prometheusrules"),
    ("server", "servers"),
    ("serverauth", "serverauthorizations"),
    ("servicemon", "servicemonitors"),
];

/// A resource, what of its object is something else, "" for nothing; and what Kubernetes says to that.
const BROKEN: &[(&str, &str, &str, &str)] = &[
    (
        "agents",
        "/spec/approved",
        r#""yes""#,
        "spec.approved: Invalid value: \"string\": spec.approved in body must be of type boolean: \"string\"",
    ),
    ("applications", "/spec/destination", "", "spec.destination: Required value"),
    ("applications", "/spec/source/repoURL", "", "spec.source.repoURL: Required value"),
    (
        "applications",
        "/spec/syncPolicy",
        r#"{"retry": {"limit": "five"}}"#,
        "spec.syncPolicy.retry.limit: Invalid value: \"string\": spec.syncPolicy.retry.limit in body must be of type integer: \"string\"",
    ),
    ("certificates", "/spec/issuerRef", "", "spec.issuerRef: Required value"),
    (
        "certificates",
        "/spec/privateKey",
        r#"{"algorithm": "DSA", "rotationPolicy": "Sometimes"}"#,
        "[spec.privateKey.algorithm: Unsupported value: \"DSA\": supported values: \"RSA\", \"ECDSA\", \"Ed25519\", spec.privateKey.rotationPolicy: Unsupported value: \"Sometimes\": supported values: \"Never\", \"Always\"]",
    ),
    (
        "destinationrules",
        "/spec/trafficPolicy/loadBalancer",
        r#"{"simple": "RANDOM", "consistentHash": {"httpHeaderName": "a"}}"#,
        "<nil>: Invalid value: \"\": \"spec.trafficPolicy.loadBalancer\" must validate one and only one schema (oneOf). Found 2 valid alternatives",
    ),
    (
        "destinationrules",
        "/spec/host",
        "1",
        "spec.host: Invalid value: \"integer\": spec.host in body must be of type string: \"integer\"",
    ),
    (
        "httproutes",
        "/spec/rules/0/backendRefs/0/port",
        "70000",
        "spec.rules[0].backendRefs[0].port: Invalid value: 70000: spec.rules[0].backendRefs[0].port in body should be less than or equal to 65535",
    ),
    (
        "httproutes",
        "/spec/hostnames",
        r#"["Not A Host"]"#,
        r#"spec.hostnames[0]: Invalid value: "Not A Host": spec.hostnames[0] in body should match '^(\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$'"#,
    ),
    (
        "httproutes",
        "/spec/rules/0/matches",
        r#"[{"headers": [{"name": "a", "value": "1"}, {"name": "a", "value": "2"}]}]"#,
        "spec.rules[0].matches[0].headers[1]: Duplicate value: {\"name\":\"a\"}",
    ),
    (
        "multiversions",
        "/spec/name",
        "7",
        "spec.name: Invalid value: \"integer\": spec.name in body must be of type string: \"integer\"",
    ),
    (
        "podmonitors",
        "/spec/podMetricsEndpoints/0/port",
        "80",
        "spec.podMetricsEndpoints[0].port: Invalid value: \"integer\": spec.podMetricsEndpoints[0].port in body must be of type string: \"integer\"",
    ),
    (
        "prometheusrules",
        "/spec/groups",
        r#"[{"name": "a"}, {"name": "a"}]"#,
        "spec.groups[1]: Duplicate value: {\"name\":\"a\"}",
    ),
    (
        "prometheusrules",
        "/spec/groups/0/rules/0/for",
        r#""ten minutes""#,
        "spec.groups[0].rules[0].for: Invalid value: \"ten minutes\": spec.groups[0].rules[0].for in body should match '^(0|(([0-9]+)y)?(([0-9]+)w)?(([0-9]+)d)?(([0-9]+)h)?(([0-9]+)m)?(([0-9]+)s)?(([0-9]+)ms)?)$'",
    ),
    ("serverauthorizations", "/spec/client/networks", "[{}]", "spec.client.networks[0].cidr: Required value"),
    (
        "servers",
        "/spec/proxyProtocol",
        r#""QUIC""#,
        "spec.proxyProtocol: Unsupported value: \"QUIC\": supported values: \"unknown\", \"HTTP/1\", \"HTTP/2\", \"gRPC\", \"opaque\", \"TLS\"",
    ),
    (
        "servicemonitors",
        "/spec/endpoints/0/scheme",
        r#""gopher""#,
        "spec.endpoints[0].scheme: Unsupported value: \"gopher\": supported values: \"http\", \"https\", \"HTTP\", \"HTTPS\"",
    ),
    ("servicemonitors", "/spec/selector", "", "spec.selector: Required value"),
];

/// Where fields that nobody knows are put.
const UNKNOWN: &[(&str, &str, &str)] = &[
    ("applications", "/spec/ignoreDifferences", "spec.ignoreDifferences.kind"),
    ("prometheusrules", "/spec/groups/0/rules/0/expr", "spec.groups[0].rules[0].expr.kind"),
    ("servers", "/spec/port", "spec.port.kind"),
];

/// Where Cargo unpacked the package.
fn folder() -> PathBuf {
    let cargo = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let cargo = cargo.or_else(|| Some(std::env::home_dir()?.join(".cargo"))).unwrap_or_default();
    let sources = std::fs::read_dir(cargo.join("registry/src")).into_iter().flatten().flatten();
    let mut folders = sources.map(|source| source.path().join(PACKAGE.replace('@', "-")).join("tests"));
    folders
        .find(|folder| folder.is_dir())
        .unwrap_or_else(|| panic!("published definitions are missing on this machine: cargo info {PACKAGE}"))
}

fn create(folder: &Path, files: impl Iterator<Item = String>) -> Vec<String> {
    let files = files.flat_map(|file| ["-f".to_owned(), folder.join(file).display().to_string()]);
    ["create".to_owned()].into_iter().chain(files).collect()
}

fn read(folder: &Path, name: &str) -> Value {
    let text = std::fs::read_to_string(folder.join(format!("{name}.yaml"))).unwrap();
    let document = serde_yaml::Deserializer::from_str(&text).next().unwrap();
    Value::deserialize(document).unwrap()
}

#[test]
fn published_definitions_load_and_serve() {
    let folder = folder();
    let cluster = Cluster::control_plane();
    let https = Https::new(&cluster);
    let run = |words: Vec<String>| {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        cluster.try_kubectl(&words)
    };
    run(create(&folder, DEFINITIONS.iter().map(|file| (*file).to_owned()))).ok();
    let refused = run(create(&folder, [UNTYPED.to_owned()].into_iter())).err();
    assert!(refused.contains("must not be empty for specified object fields"), "{refused}");
    let limit = SOON.as_secs();
    cluster.kubectl(&format!("wait --for=condition=Established crd --all --timeout={limit}s"));
    run(create(&folder, OBJECTS.iter().map(|(file, _)| format!("{file}.yaml")))).ok();
    for (file, resource) in OBJECTS {
        let object = read(&folder, file);
        served(&cluster, &folder.join(format!("{file}.yaml")), &object);
        broken(&https, &object, resource);
    }
    let table = cluster.kubectl("get certificates");
    assert!(table.contains("SECRET") && table.contains("test-certificate"), "{table}");
    let route = cluster.json("httproute gen");
    assert_eq!(route["spec"]["rules"][0]["matches"][0]["path"]["type"], "PathPrefix");
    let explained = cluster.kubectl("explain httproute.spec.rules");
    assert!(explained.contains("backendRefs\t<[]Object>") && explained.contains("GROUP:"), "{explained}");
}

/// Nothing of an object gets lost.
fn served(cluster: &Cluster, file: &Path, object: &Value) {
    let shown = cluster.json(&format!("-f {}", file.display()));
    for field in ["apiVersion", "kind", "metadata", "spec"] {
        assert!(holds(&shown[field], &object[field]), "{object} is shown as {shown}");
    }
}

/// Whether a value has all of another one; defaults may have been added.
fn holds(whole: &Value, part: &Value) -> bool {
    match (whole, part) {
        (Value::Object(whole), Value::Object(part)) => {
            part.iter().all(|(name, part)| whole.get(name).is_some_and(|whole| holds(whole, part)))
        }
        (Value::Array(whole), Value::Array(part)) => {
            whole.len() == part.len() && whole.iter().zip(part).all(|(whole, part)| holds(whole, part))
        }
        (whole, part) => whole == part,
    }
}

fn broken(https: &Https, object: &Value, resource: &str) {
    let (version, kind) = (object["apiVersion"].as_str().unwrap(), object["kind"].as_str().unwrap());
    let (group, short) = version.split_once('/').unwrap();
    let path = format!("/apis/{version}/namespaces/default/{resource}?fieldValidation=Strict");
    let refused = |object: &Value, code: u16, says: String| {
        let answer = https.send("POST", &path, JSON, object);
        assert_eq!((answer.0, &answer.1["message"]), (code, &Value::from(says)));
    };
    for (_, place, new, says) in BROKEN.iter().filter(|(of, ..)| *of == resource) {
        let new = (!new.is_empty()).then(|| serde_json::from_str(new).unwrap());
        let object = with(object.clone(), place, new);
        refused(&object, 422, format!("{kind}.{group} \"gen\" is invalid: {says}"));
    }
    for (_, place, unknown) in UNKNOWN.iter().filter(|(of, ..)| *of == resource) {
        let object = with(object.clone(), place, Some(serde_json::json!({"kind": "x"})));
        let says = format!("strict decoding error: unknown field \"{unknown}\"");
        let says = format!("{kind} in version \"{short}\" cannot be handled as a {kind}: {says}");
        refused(&object, 400, says);
    }
}

/// An object with another value, or none, at a place.
fn with(mut object: Value, place: &str, new: Option<Value>) -> Value {
    let (around, name) = place.rsplit_once('/').unwrap();
    let around = object.pointer_mut(around).unwrap().as_object_mut().unwrap();
    match new {
        Some(new) => drop(around.insert(name.to_owned(), new)),
        None => drop(around.remove(name)),
    }
    object
}
