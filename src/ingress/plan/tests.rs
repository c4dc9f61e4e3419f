//! Golden files of objects and of what follows from them.

use super::backends::endpoints;
use super::*;
use crate::rules::{Action, Path, Redirect, Share};
use api::Object;
use api::slim::EndpointSlice;
use serde_json::{Value, json};
use std::fmt::Write;

const PORTS: Ports = Ports { http: 80, https: 443 };

fn read<T: Object>(value: &Value) -> T {
    T::from_json(value.to_string().as_bytes()).unwrap()
}

/// The objects of a kind, in a list of all.
fn all<T: Object>(objects: &[Value]) -> Vec<T> {
    objects.iter().filter(|object| object["kind"] == T::KIND).map(read).collect()
}

fn class(name: &str, controller: &str, default: bool) -> Value {
    json!({"kind": "IngressClass", "spec": {"controller": controller}, "metadata": {"name": name,
        "annotations": {"ingressclass.kubernetes.io/is-default-class": default.to_string()}}})
}

fn ingress(name: &str, created_s: i64, spec: Value) -> Value {
    let created = format!("2026-01-01T00:00:{created_s:02}Z");
    json!({"kind": "Ingress", "metadata": {"namespace": "n", "name": name, "creationTimestamp": created}, "spec": spec})
}

fn path(path: &str, kind: &str, service: &str, port: Value) -> Value {
    json!({"path": path, "pathType": kind, "backend": {"service": {"name": service, "port": port}}})
}

fn service() -> Value {
    json!({"kind": "Service", "metadata": {"namespace": "n", "name": "web"}, "spec": {"ports": [
        {"name": "http", "port": 80}, {"name": "grpc", "port": 81, "appProtocol": "kubernetes.io/h2c"}]}})
}

fn planned(objects: &[Value]) -> Plan {
    let (ingresses, classes, services) =
        (all::<Ingress>(objects), all::<IngressClass>(objects), all::<Service>(objects));
    plan(&Snapshot {
        ports: PORTS,
        ingresses: ingresses.iter().collect(),
        classes: classes.iter().collect(),
        services: Services::new(services.iter()),
    })
}

fn written(plan: &Plan) -> String {
    let mut text = String::new();
    for rule in &plan.rules {
        let path = match &rule.path {
            Path::Exact(path) => format!("= {path}"),
            Path::Pattern(pattern) => format!("~ {}", pattern.as_str()),
            Path::Prefix(path) => format!("{path}/*"),
        };
        let to = match &rule.route.action {
            Action::Forward(shares) => match &shares[0].to {
                Share::Backend(key) => {
                    format!("{}/{} {:?} {:?}", key.namespace, key.service, key.port, key.protocol)
                }
                Share::Nobody(code) => format!("nobody: {}", code.as_u16()),
            },
            Action::Redirect(Redirect { code, scheme, port, .. }) => {
                format!("redirect {} {scheme:?} {port:?}", code.as_u16())
            }
            Action::Answer(code) => code.to_string(),
        };
        let fallback = if rule.fallback { " (fallback)" } else { "" };
        writeln!(text, "{:?} {:?} {path}{fallback} -> {to}", rule.ports, rule.host).unwrap();
    }
    for shown in &plan.certificates {
        writeln!(text, "{} {:?} shows {}", shown.port, shown.host, shown.secret.name).unwrap();
    }
    for issue in &plan.issues {
        writeln!(text, "{}: {}: {}", issue.ingress.name, issue.reason, issue.message).unwrap();
    }
    text
}

/// Compares with a file; `KNARR_WRITE_GOLDEN=1` writes it anew, for people to read what changed.
pub(crate) fn golden(name: &str, text: &str) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/ingress").join(name);
    if std::env::var_os("KNARR_WRITE_GOLDEN").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text, "{name}");
}

#[test]
fn an_ingress_becomes_rules() {
    let number = |number: i32| json!({"number": number});
    let spec = json!({
        "ingressClassName": "knarr",
        "defaultBackend": {"service": {"name": "web", "port": {"number": 80}}},
        "tls": [{"hosts": ["a.example", "*.b.example"], "secretName": "first"}, {"secretName": "second"},
            {"hosts": ["no.example"]}],
        "rules": [
            {"host": "A.example", "http": {"paths": [
                path("/x/", "Prefix", "web", number(80)),
                path("/y", "Exact", "web", json!({"name": "grpc"})),
                path("/z", "ImplementationSpecific", "none", number(80)),
            ]}},
            {"host": "*.b.example"},
            {"http": {"paths": [
                path("/", "Prefix", "web", number(82)),
                {"path": "/r", "pathType": "Prefix", "backend": {"resource": {"kind": "Bucket", "name": "b"}}},
            ]}},
        ],
    });
    let plan = planned(&[class("knarr", crate::CONTROLLER, true), service(), ingress("i", 1, spec)]);
    golden("plan.txt", &written(&plan));
    assert_eq!(plan.served, [Named { namespace: "n".to_owned(), name: "i".to_owned() }]);
}

#[test]
fn the_class_decides_whose_an_ingress_is() {
    let spec = json!({"defaultBackend": {"service": {"name": "web", "port": {"number": 80}}}});
    let named = |name: &str| {
        let mut spec = spec.clone();
        spec["ingressClassName"] = json!(name);
        spec
    };
    let mut legacy = ingress("legacy", 4, spec.clone());
    legacy["metadata"]["annotations"] = json!({"kubernetes.io/ingress.class": "knarr"});
    let mut foreign = ingress("foreign", 5, spec.clone());
    foreign["metadata"]["annotations"] = json!({"kubernetes.io/ingress.class": "nginx"});
    let all = [
        ingress("none", 1, spec.clone()),
        ingress("own", 3, named("mine")),
        ingress("other", 2, named("nginx")),
        ingress("unknown", 2, named("unknown")),
        legacy,
        foreign,
    ];
    let served = |classes: &[Value]| -> Vec<String> {
        let objects: Vec<Value> = classes.iter().chain(&all).cloned().collect();
        planned(&objects).served.into_iter().map(|named| named.name).collect()
    };
    let nginx = class("nginx", "k8s.io/ingress-nginx", false);
    let mine = |default| class("mine", crate::CONTROLLER, default);
    assert_eq!(served(&[nginx.clone(), mine(true)]), ["none", "own", "legacy"]);
    assert_eq!(served(&[nginx, mine(false)]), ["own", "legacy"]);
}

#[test]
fn annotations_are_followed_or_told_of() {
    let spec = json!({"rules": [{"http": {"paths": [path("/x", "Prefix", "web", json!({"number": 80}))]}}]});
    let mut one = ingress("i", 1, spec);
    one["metadata"]["annotations"] = json!({
        "kubernetes.io/ingress.class": "knarr",
        "ingress.knarr.io/body-limit": "8Mi",
        "ingress.knarr.io/response-timeout": "5m",
        "ingress.knarr.io/connect-timeout": "2",
        "ingress.knarr.io/rate-limit": "0",
        "ingress.knarr.io/concurrency-limit": "7",
        "ingress.knarr.io/https-redirect": "true",
        "ingress.knarr.io/strip-prefix": "yes",
        "ingress.knarr.io/magic": "1",
    });
    let plan = planned(&[service(), one]);
    let limits = &plan.rules[1].route.limits;
    assert_eq!((limits.body_bytes, limits.concurrency, limits.rate_per_s), (Some(8 << 20), Some(7), None));
    assert_eq!((limits.response.as_secs(), limits.connect.as_secs()), (300, 2));
    golden("annotations.txt", &written(&plan));
}

fn slice(family: &str, port: u16, endpoints: &Value) -> EndpointSlice {
    read(&json!({"metadata": {"namespace": "n", "name": "s"}, "addressType": family,
        "ports": [{"name": "http", "port": port}], "endpoints": endpoints}))
}

#[test]
fn endpoints_that_end_are_the_last_resort() {
    let end = |address: &str, ready: bool, serving: bool, terminating: bool| {
        let conditions = json!({"ready": ready, "serving": serving, "terminating": terminating});
        json!({"addresses": [address], "conditions": conditions})
    };
    let chosen = |slices: &[EndpointSlice]| -> Vec<String> {
        endpoints(slices.iter(), "http").iter().map(ToString::to_string).collect()
    };
    let ending = json!([end("10.0.0.1", false, true, true), end("10.0.0.2", false, false, true)]);
    assert_eq!(chosen(&[slice("IPv4", 8080, &ending)]), ["10.0.0.1:8080"]);
    // Ports may have other numbers in other slices.
    let ready = json!([end("10.0.0.3", true, true, false), {"addresses": ["10.0.0.4"]}]);
    let both = [slice("IPv4", 8080, &ending), slice("IPv4", 9090, &ready)];
    assert_eq!(chosen(&both), ["10.0.0.3:9090", "10.0.0.4:9090"]);
    let six = slice("IPv6", 8080, &json!([{"addresses": ["fd00::1"]}]));
    assert_eq!(chosen(&[slice("IPv4", 8080, &ending), six.clone()]), ["[fd00::1]:8080"]);
    assert_eq!(chosen(&[slice("IPv4", 9090, &ready), six]).len(), 2);
    assert!(endpoints([slice("IPv4", 9090, &ready)].iter(), "other").is_empty());
}
