//! Gateway API, whose definitions are installed while knarr runs, and removed again.

use super::{ADDRESS, Edge, secret};
use crate::support::cluster::SOON;
use crate::support::definition::{Defined, anything, define};
use crate::support::process::wait_for;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::atomic::Ordering;

const GROUP: &str = "gateway.networking.k8s.io";

/// A definition as it is published, without its schema.
pub(super) fn defined<'a>(
    edge: &'a Edge,
    plural: &str,
    kind: &str,
    scope: &str,
    version: &str,
) -> Defined<'a> {
    let mut definition = crate::support::definition::definition(GROUP, plural, kind, &anything());
    definition["metadata"]["annotations"] =
        json!({"api-approved.kubernetes.io": "https://github.com/kubernetes-sigs/gateway-api"});
    definition["spec"]["scope"] = json!(scope);
    definition["spec"]["versions"][0]["name"] = json!(version);
    definition["spec"]["versions"][0]["subresources"] = json!({"status": {}});
    define(&edge.https, &definition)
}

pub(super) fn object(kind: &str, name: &str, spec: &Value) -> Value {
    let version = if kind == "ReferenceGrant" { "v1beta1" } else { "v1" };
    json!({"apiVersion": format!("{GROUP}/{version}"), "kind": kind, "metadata": {"name": name}, "spec": spec})
}

fn route(name: &str, rules: &Value) -> Value {
    object(
        "HTTPRoute",
        name,
        &json!({"parentRefs": [{"name": "gw"}], "hostnames": [format!("{name}.g.example")], "rules": rules}),
    )
}

/// `Type=Status Reason` of all conditions.
pub(super) fn said(conditions: &Value) -> String {
    let all = conditions.as_array().into_iter().flatten();
    all.map(|one| format!("{}={} {} ", one["type"], one["status"], one["reason"]).replace('"', "")).collect()
}

#[test]
fn gateways_lead_in() {
    let edge = Edge::new();
    let definitions = [
        defined(&edge, "gatewayclasses", "GatewayClass", "Cluster", "v1"),
        defined(&edge, "gateways", "Gateway", "Namespaced", "v1"),
        defined(&edge, "httproutes", "HTTPRoute", "Namespaced", "v1"),
        defined(&edge, "grpcroutes", "GRPCRoute", "Namespaced", "v1"),
        defined(&edge, "referencegrants", "ReferenceGrant", "Namespaced", "v1beta1"),
    ];
    let refs = json!([{"name": "cert"}]);
    let listeners = json!([
        {"name": "http", "port": 8000, "protocol": "HTTP", "hostname": "*.g.example"},
        {"name": "https", "port": 8443, "protocol": "HTTPS", "tls": {"certificateRefs": refs}},
    ]);
    edge.apply(&[
        secret("cert", "g.example"),
        object("GatewayClass", "own", &json!({"controllerName": "knarr.io/gateway"})),
        object("Gateway", "gw", &json!({"gatewayClassName": "own", "listeners": listeners})),
    ]);
    statuses(&edge);
    matches(&edge);
    filters(&edge);
    pages_of_others(&edge);
    shares(&edge);
    grpc(&edge);
    edge.cluster.kubectl("delete gateway gw");
    let refused = || edge.cluster.curl(&["-o", "/dev/null", &format!("http://{ADDRESS}:8000/")]).code;
    // 7: nobody listens.
    wait_for("a closed port", SOON, || (refused() == 7).then_some(()));
    drop(definitions);
    assert_eq!(edge.who("nothing.example", "/"), "404");
}

fn who(edge: &Edge, host: &str, path: &str, words: &[&str]) -> String {
    let (host, url) = (format!("host: {host}"), format!("http://{ADDRESS}:8000{path}"));
    match edge.curl(&[&["-H", &host, &url], words].concat()) {
        (200, body) => serde_json::from_str::<Value>(&body).unwrap()["name"].as_str().unwrap().to_owned(),
        (code, _) => code.to_string(),
    }
}

#[track_caller]
fn wait_who(edge: &Edge, host: &str, path: &str, wanted: &str) {
    wait_for(&format!("{wanted} at {host}{path}"), SOON, || {
        (who(edge, host, path, &[]) == wanted).then_some(())
    });
}

fn statuses(edge: &Edge) {
    let class = edge.cluster.wait("gatewayclass own", |class| {
        let said = said(&class["status"]["conditions"]);
        (!said.is_empty()).then_some(said)
    });
    assert_eq!(class, "Accepted=True Accepted ");
    let one = json!([{"backendRefs": [{"name": "one", "port": 80}]}]);
    let mut elsewhere = route("elsewhere", &one);
    elsewhere["spec"]["parentRefs"][0]["sectionName"] = json!("none");
    let missing = json!([{"backendRefs": [{"name": "missing", "port": 80}]}]);
    edge.apply(&[route("plain", &one), elsewhere, route("missing", &missing)]);
    wait_who(edge, "plain.g.example", "/", "one");
    assert_eq!(who(edge, "missing.g.example", "/", &[]), "500");
    assert_eq!(who(edge, "elsewhere.g.example", "/", &[]), "404");
    let parent = |name: &str, wanted: &str| {
        edge.cluster.wait(&format!("httproute {name}"), |route| {
            (said(&route["status"]["parents"][0]["conditions"]) == wanted).then_some(())
        });
    };
    parent("plain", "Accepted=True Accepted ResolvedRefs=True ResolvedRefs ");
    parent("elsewhere", "Accepted=False NoMatchingParent ResolvedRefs=True ResolvedRefs ");
    parent("missing", "Accepted=True Accepted ResolvedRefs=False BackendNotFound ");
    edge.cluster.wait("gateway gw", |gateway| {
        let status = &gateway["status"];
        let attached: HashMap<&str, i64> = status["listeners"]
            .as_array()?
            .iter()
            .filter_map(|one| Some((one["name"].as_str()?, one["attachedRoutes"].as_i64()?)))
            .collect();
        let programmed = said(&status["conditions"]) == "Accepted=True Accepted Programmed=True Programmed ";
        (programmed
            && status["addresses"][0]["value"] == ADDRESS
            && attached == HashMap::from([("http", 2), ("https", 2)]))
        .then_some(())
    });
    let secure = ["-k", "--resolve", "plain.g.example:8443:10.99.0.2", "https://plain.g.example:8443/"];
    assert!(edge.curl(&secure).1.contains(r#""x-forwarded-proto":"https""#));
}

fn matches(edge: &Edge) {
    let to = |name: &str, one: &Value| json!({"matches": [one], "backendRefs": [{"name": name, "port": 80}]});
    edge.apply(&[route(
        "match",
        &json!([
            to("one", &json!({"path": {"type": "PathPrefix", "value": "/"}})),
            to("two", &json!({"path": {"type": "Exact", "value": "/exact"}})),
            to("two", &json!({"headers": [{"name": "Version", "value": "2"}]})),
            to("two", &json!({"queryParams": [{"name": "v", "value": "2"}]})),
            to("two", &json!({"method": "DELETE"})),
        ]),
    )]);
    wait_who(edge, "match.g.example", "/", "one");
    let who = |path: &str, words: &[&str]| who(edge, "match.g.example", path, words);
    assert_eq!(who("/exact", &[]), "two");
    assert_eq!(who("/exact/", &[]), "one");
    assert_eq!(who("/", &["-H", "version: 2"]), "two");
    assert_eq!(who("/?v=2", &[]), "two");
    assert_eq!(who("/", &["-X", "DELETE"]), "two");
}

fn filters(edge: &Edge) {
    let modify = json!({"type": "RequestHeaderModifier", "requestHeaderModifier":
        {"set": [{"name": "x-set", "value": "1"}], "add": [{"name": "x-add", "value": "2"}], "remove": ["user-agent"]}});
    let rewrite = json!({"type": "URLRewrite", "urlRewrite": {"hostname": "inner", "path":
        {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/new"}}});
    let answer = json!({"type": "ResponseHeaderModifier", "responseHeaderModifier": {"add": [{"name": "x-out", "value": "3"}]}});
    let mirror =
        json!({"type": "RequestMirror", "requestMirror": {"backendRef": {"name": "two", "port": 80}}});
    let redirect = json!({"type": "RequestRedirect", "requestRedirect": {"hostname": "else.example", "statusCode": 301}});
    edge.apply(&[route("filter", &json!([
        {"matches": [{"path": {"type": "PathPrefix", "value": "/old"}}], "filters": [modify, rewrite, answer, mirror],
            "backendRefs": [{"name": "one", "port": 80}], "timeouts": {"request": "1s"}},
        {"filters": [redirect]},
    ]))]);
    wait_who(edge, "filter.g.example", "/", "301");
    let get = |path: &str| {
        let url = format!("http://{ADDRESS}:8000{path}");
        edge.curl(&["-H", "host: filter.g.example", "-D", "-", "-d", "body", &url])
    };
    let mirrored = edge.two.requests.load(Ordering::Acquire);
    let (code, answer) = get("/old/x?y");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert_eq!((code, head.contains("x-out: 3")), (200, true), "{answer}");
    let seen: Value = serde_json::from_str(body).unwrap();
    let headers = &seen["headers"];
    assert_eq!((&seen["uri"], &headers["host"]), (&json!("/new/x?y"), &json!("inner")));
    assert_eq!(
        (&headers["x-set"], &headers["x-add"], &headers["user-agent"]),
        (&json!("1"), &json!("2"), &Value::Null)
    );
    wait_for("a mirrored request", SOON, || {
        (edge.two.requests.load(Ordering::Acquire) > mirrored).then_some(())
    });
    assert!(get("/").1.contains("location: http://else.example:8000/\r\n"), "{}", get("/").1);
    edge.apply(&[route(
        "late",
        &json!([{"backendRefs": [{"name": "one", "port": 80}], "timeouts": {"request": "1s"}}]),
    )]);
    wait_who(edge, "late.g.example", "/", "one");
    assert_eq!(who(edge, "late.g.example", "/slow", &[]), "504");
}

/// Browsers ask before they let pages from elsewhere ask; the backend hears nothing of that.
fn pages_of_others(edge: &Edge) {
    let cors = json!({"type": "CORS", "cors": {"allowOrigins": ["https://*.page.example"], "allowCredentials": true,
        "allowMethods": ["GET", "PUT"], "allowHeaders": ["x-one"], "exposeHeaders": ["x-out"], "maxAge": 60}});
    edge.apply(&[route("cors", &json!([{"filters": [cors], "backendRefs": [{"name": "one", "port": 80}]}]))]);
    wait_who(edge, "cors.g.example", "/", "one");
    let asked = |origin: &str, more: &[&str]| {
        let origin = format!("origin: {origin}");
        let url = format!("http://{ADDRESS}:8000/");
        edge.curl(&[&["-H", "host: cors.g.example", "-H", &origin, "-D", "-", &url], more].concat())
    };
    let question = ["-X", "OPTIONS", "-H", "access-control-request-method: PUT"];
    let before = edge.one.requests.load(Ordering::Acquire);
    let (code, answer) = asked("https://a.page.example", &question);
    assert_eq!(code, 204);
    for line in [
        "access-control-allow-origin: https://a.page.example",
        "access-control-allow-credentials: true",
        "access-control-allow-methods: GET, PUT",
        "access-control-allow-headers: x-one",
        "access-control-max-age: 60",
    ] {
        assert!(answer.contains(line), "{line} in {answer}");
    }
    let (code, answer) = asked("https://else.example", &question);
    assert!(code == 204 && !answer.contains("access-control"), "{answer}");
    assert_eq!(edge.one.requests.load(Ordering::Acquire), before);
    let (code, answer) = asked("https://a.page.example", &[]);
    let told = answer.contains("access-control-allow-origin: https://a.page.example");
    assert!(code == 200 && told && answer.contains("access-control-expose-headers: x-out"), "{answer}");
    let (code, answer) = asked("https://else.example", &[]);
    assert!(code == 200 && !answer.contains("access-control"), "{answer}");
}

fn shares(edge: &Edge) {
    edge.apply(&[route(
        "share",
        &json!([{"backendRefs":
        [{"name": "one", "port": 80, "weight": 3}, {"name": "two", "port": 80, "weight": 1}]}]),
    )]);
    wait_who(edge, "share.g.example", "/", "one");
    let mut counts: HashMap<String, usize> = HashMap::new();
    for _ in 0..40 {
        *counts.entry(who(edge, "share.g.example", "/", &[])).or_default() += 1;
    }
    let (one, two) = (counts["one"], counts["two"]);
    assert!(one + two == 40 && (8..=12).contains(&two), "{counts:?}");
}

/// What gRPC needs of a proxy: HTTP/2 on both sides, and paths of services and methods.
fn grpc(edge: &Edge) {
    let spec = json!({"parentRefs": [{"name": "gw", "sectionName": "http"}], "hostnames": ["grpc.g.example"],
        "rules": [{"matches": [{"method": {"service": "a.B", "method": "C"}}], "backendRefs": [{"name": "one", "port": 80}]}]});
    edge.apply(&[object("GRPCRoute", "grpc", &spec)]);
    let words = ["--http2-prior-knowledge", "-H", "te: trailers"];
    wait_for("a route", SOON, || (who(edge, "grpc.g.example", "/a.B/C", &words) == "one").then_some(()));
    assert_eq!(who(edge, "grpc.g.example", "/a.B/D", &words), "404");
    let url = format!("http://{ADDRESS}:8000/a.B/C");
    let (_, body) = edge.curl(&[&words[..], &["-H", "host: grpc.g.example", "-d", "x", &url]].concat());
    assert!(body.contains(r#""version":"HTTP/2.0""#) && body.contains(r#""te":"trailers""#), "{body}");
}
