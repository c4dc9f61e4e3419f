//! Objects of Gateway API, and what follows from them.

use super::routes::both;
use super::types::{AnyRoute, GRPCRoute, HTTPRoute, TLSRoute};
use super::*;
use crate::plan::tests::golden;
use crate::rules::{Action, Path, PathChange, Route, Share, Text};
use api::core::Service;
use std::fmt::Write as _;

fn read<T: Object>(value: &Value) -> T {
    T::from_json(value.to_string().as_bytes()).unwrap()
}

fn all<T: Object>(objects: &[Value]) -> Vec<T> {
    objects.iter().filter(|object| object["kind"] == T::KIND).map(read).collect()
}

fn meta(namespace: &str, name: &str) -> Value {
    json!({"namespace": namespace, "name": name, "generation": 3})
}

fn class() -> Value {
    json!({"kind": "GatewayClass", "metadata": {"name": "own"}, "spec": {"controllerName": CONTROLLER}})
}

fn gateway(listeners: &Value) -> Value {
    json!({"kind": "Gateway", "metadata": meta("infra", "gw"), "spec": {"gatewayClassName": "own", "listeners": listeners}})
}

fn http(name: &str, spec: &Value) -> Value {
    let mut spec = spec.clone();
    if spec["parentRefs"].is_null() {
        spec["parentRefs"] = json!([{"name": "gw", "namespace": "infra"}]);
    }
    json!({"kind": "HTTPRoute", "metadata": meta("app", name), "spec": spec})
}

fn service(namespace: &str) -> Value {
    json!({"kind": "Service", "metadata": meta(namespace, "web"), "spec": {"ports": [{"port": 80}]}})
}

fn open(name: &str, port: u16) -> Value {
    json!({"name": name, "port": port, "protocol": "HTTP", "allowedRoutes": {"namespaces": {"from": "All"}}})
}

fn planned(objects: &[Value]) -> Outcome {
    planned_with(objects, &BTreeSet::new())
}

fn planned_with(objects: &[Value], taken: &BTreeSet<u16>) -> Outcome {
    let namespaces: Vec<Namespace> =
        [read(&json!({"metadata": {"name": "app", "labels": {"team": "a"}}}))].into_iter().collect();
    let services: Vec<Service> = all(objects);
    let (classes, gateways): (Vec<GatewayClass>, Vec<Gateway>) = (all(objects), all(objects));
    let (https, grpcs, tlss) =
        (all::<HTTPRoute>(objects), all::<GRPCRoute>(objects), all::<TLSRoute>(objects));
    let routes = https.iter().map(AnyRoute::any).chain(grpcs.iter().map(AnyRoute::any));
    let grants = all::<ReferenceGrant>(objects);
    let certificate = |named: &Named| {
        if named.name == "cert" { Ok(()) } else { Err(format!("secret {:?} not found", named.name)) }
    };
    plan(&World {
        classes: classes.iter().collect(),
        gateways: gateways.iter().collect(),
        routes: routes.chain(tlss.iter().map(AnyRoute::any)).collect(),
        grants: grants.iter().collect(),
        namespaces: namespaces.iter().map(|one| (one.name(), one)).collect(),
        services: &Services::new(services.iter()),
        ports: Ports { http: 80, https: 443 },
        taken,
        certificate: &certificate,
        addresses: &BTreeSet::from(["10.0.0.1".parse().unwrap()]),
        now: "2026-01-01T00:00:00Z",
    })
}

/// The conditions of a status in one line.
fn said(conditions: &Value) -> String {
    let all = conditions.as_array().into_iter().flatten();
    let texts = all.map(|one| {
        assert_eq!(one["lastTransitionTime"], "2026-01-01T00:00:00Z");
        format!("{}={} {}", one["type"], one["status"], one["reason"]).replace('"', "")
    });
    texts.collect::<Vec<_>>().join(", ")
}

/// Where a route leads.
fn to(route: &Route) -> String {
    match &route.action {
        Action::Forward(shares) => shares.iter().fold(String::new(), |text, share| match &share.to {
            Share::Backend(key) => format!("{text} {}x {}/{}", share.weight, key.namespace, key.service),
            Share::Nobody(code) => format!("{text} {}x {}", share.weight, code.as_u16()),
        }),
        Action::Redirect(to) => format!(" {} {:?} {:?}", to.code.as_u16(), to.scheme, to.path),
        Action::Answer(code) => format!(" {}", code.as_u16()),
    }
}

fn written(outcome: &Outcome) -> String {
    let mut text = String::new();
    for rule in &outcome.rules {
        let path = match &rule.path {
            Path::Exact(path) => format!("= {path}"),
            Path::Pattern(pattern) => format!("~ {}", pattern.as_str()),
            Path::Prefix(path) => format!("{path}/*"),
        };
        writeln!(text, "{:?} {:?} {path} ->{}", rule.ports, rule.host, to(&rule.route)).unwrap();
    }
    for rule in &outcome.streams {
        let how = if rule.ends_tls { "ended" } else { "passed" };
        let (port, listener, host) = (rule.port, &rule.listener, &rule.host);
        writeln!(text, "{port} {listener:?} {host:?} {how} ->{}", to(&rule.route)).unwrap();
    }
    for shown in &outcome.certificates {
        writeln!(
            text,
            "{} {:?} shows {}/{}",
            shown.port, shown.host, shown.secret.namespace, shown.secret.name
        )
        .unwrap();
    }
    let mut ports: Vec<_> = outcome.ports.iter().collect();
    ports.sort_by_key(|(port, _)| **port);
    writeln!(text, "ports {ports:?}").unwrap();
    for write in &outcome.writes {
        writeln!(text, "{} {}: {}", write.plural, write.named.name, said(&write.status["conditions"]))
            .unwrap();
        for parent in write.status["parents"].as_array().into_iter().flatten() {
            writeln!(text, "  {}: {}", parent["parentRef"], said(&parent["conditions"])).unwrap();
        }
        for listener in write.status["listeners"].as_array().into_iter().flatten() {
            let (name, attached) = (&listener["name"], &listener["attachedRoutes"]);
            writeln!(text, "  {name} {attached}: {}", said(&listener["conditions"])).unwrap();
        }
    }
    text
}

#[test]
fn hostnames_meet() {
    let both = |one, other| both(one, other).unwrap_or_else(|| "-".to_owned());
    for (listener, route, wanted) in [
        ("", "a.b", "a.b"),
        ("*.b", "", "*.b"),
        ("a.b", "a.b", "a.b"),
        ("*.b", "a.b", "a.b"),
        ("*.b", "x.a.b", "x.a.b"),
        ("*.b", "b", "-"),
        ("a.b", "*.b", "a.b"),
        ("*.a.b", "*.b", "*.a.b"),
        ("*.a", "*.b", "-"),
        ("a.b", "c.b", "-"),
    ] {
        assert_eq!(both(listener, route), wanted, "{listener} {route}");
    }
}

#[test]
fn listeners_are_checked() {
    let tls = |name: &str| json!({"certificateRefs": [{"name": name}]});
    let https = |name: &str, port: u16, host: &str, tls: Value| json!({"name": name, "port": port, "protocol": "HTTPS", "hostname": host, "tls": tls});
    let listeners = json!([
        open("http", 80),
        open("twice", 80),
        https("https", 443, "*.a", tls("cert")),
        https("missing", 443, "b", tls("none")),
        https("foreign", 8443, "", json!({"certificateRefs": [{"name": "cert", "namespace": "other"}]})),
        https("granted", 8444, "", json!({"certificateRefs": [{"name": "cert", "namespace": "lent"}]})),
        https("plain", 8080, "", tls("cert")),
        open("mixed", 8080),
        {"name": "tcp", "port": 99, "protocol": "TCP"},
        {"name": "kinds", "port": 81, "protocol": "HTTP", "allowedRoutes": {"kinds": [{"kind": "TCPRoute"}, {"kind": "HTTPRoute"}]}},
    ]);
    let grant = json!({"kind": "ReferenceGrant", "metadata": meta("lent", "g"), "spec": {
        "from": [{"group": GROUP, "kind": "Gateway", "namespace": "infra"}], "to": [{"group": "", "kind": "Secret"}]}});
    golden("listeners.txt", &written(&planned(&[class(), gateway(&listeners), grant])));
}

#[test]
fn routes_are_attached_and_told() {
    let rule = |refs: &Value| json!([{"backendRefs": refs}]);
    let web = json!([{"name": "web", "port": 80}]);
    let listeners = json!([
        {"name": "named", "port": 80, "protocol": "HTTP", "hostname": "*.a", "allowedRoutes": {"namespaces": {"from": "All"}}},
        {"name": "same", "port": 81, "protocol": "HTTP"},
        {"name": "team", "port": 82, "protocol": "HTTP", "allowedRoutes": {"namespaces": {"from": "Selector",
            "selector": {"matchLabels": {"team": "a"}}}}},
    ]);
    let to = |section: &str| json!([{"name": "gw", "namespace": "infra", "sectionName": section}]);
    let objects = [
        class(),
        gateway(&listeners),
        service("app"),
        service("other"),
        http("all", &json!({"hostnames": ["x.a", "b"], "rules": rule(&web)})),
        http("same", &json!({"parentRefs": to("same"), "rules": rule(&web)})),
        http("nowhere", &json!({"parentRefs": to("none"), "rules": rule(&web)})),
        http("host", &json!({"parentRefs": to("named"), "hostnames": ["b"], "rules": rule(&web)})),
        http("elsewhere", &json!({"parentRefs": [{"name": "other"}], "rules": rule(&web)})),
        http(
            "refs",
            &json!({"parentRefs": to("team"), "rules": [{"backendRefs": [
            {"name": "web", "port": 80, "weight": 9}, {"name": "web", "namespace": "other", "port": 80, "weight": 0},
            {"name": "none", "port": 80}, {"kind": "Bucket", "name": "b"}]}]}),
        ),
        http(
            "regex",
            &json!({"parentRefs": to("team"), "rules": [{"matches": [{"path": {"type": "RegularExpression", "value": "("}}]}]}),
        ),
        http(
            "extension",
            &json!({"parentRefs": to("team"), "rules": [{"filters": [{"type": "ExtensionRef"}]}]}),
        ),
        json!({"kind": "GRPCRoute", "metadata": meta("app", "grpc"), "spec": {"parentRefs": to("team"), "rules": [{
            "matches": [{"method": {"service": "a.B", "method": "C"}}, {"method": {"service": "a.B"}}], "backendRefs": web}]}}),
    ];
    golden("routes.txt", &written(&planned(&objects)));
}

#[test]
fn streams_are_passed_on_by_name() {
    let tls = |name: &str, port: u16, host: &str, tls: Value| {
        json!({"name": name, "port": port, "protocol": "TLS",
        "hostname": host, "tls": tls, "allowedRoutes": {"namespaces": {"from": "All"}}})
    };
    let passed = || json!({"mode": "Passthrough"});
    let refs = json!([{"name": "cert"}]);
    let listeners = json!([
        tls("passed", 443, "*.p", passed()),
        tls("ended", 443, "e.p", json!({"certificateRefs": refs})),
        {"name": "https", "port": 443, "protocol": "HTTPS", "hostname": "h.p", "tls": {"certificateRefs": refs},
            "allowedRoutes": {"namespaces": {"from": "All"}}},
        tls("same", 443, "h.p", passed()),
        tls("kinds", 444, "", passed()),
        {"name": "clear", "port": 444, "protocol": "HTTP"},
    ]);
    let mut objects = vec![class(), gateway(&listeners), service("app"), service("other")];
    let mut route = |name: &str, hosts: &[&str], refs: Value, rules: usize| {
        let rule = json!({"backendRefs": refs});
        objects.push(json!({"kind": "TLSRoute", "metadata": meta("app", name), "spec": {
            "parentRefs": [{"name": "gw", "namespace": "infra"}], "hostnames": hosts, "rules": vec![rule; rules]}}));
    };
    route(
        "one",
        &["a.p", "*.b.p"],
        json!([{"name": "web", "port": 80, "weight": 3}, {"name": "web", "port": 81}]),
        1,
    );
    route("ended", &["e.p"], json!([{"name": "web", "port": 80}]), 1);
    route("foreign", &["f.p"], json!([{"name": "web", "namespace": "other", "port": 80}]), 1);
    route("two", &["t.p"], json!([{"name": "web", "port": 80}]), 2);
    route("https", &["h.p"], json!([{"name": "web", "port": 80}]), 1);
    objects.push(http(
        "http",
        &json!({"hostnames": ["a.p", "h.p"], "rules": [{"backendRefs": [{"name": "web", "port": 80}]}]}),
    ));
    golden("streams.txt", &written(&planned(&objects)));
}

#[test]
fn filters_are_read() {
    let spec = json!({"rules": [
        {"matches": [{"path": {"value": "/old/"}, "method": "POST", "headers": [{"name": "X-Y", "value": "1"}],
            "queryParams": [{"name": "q", "value": "2"}]}],
         "filters": [
            {"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": [{"name": "a", "value": "1"}], "remove": ["b"]}},
            {"type": "URLRewrite", "urlRewrite": {"hostname": "h", "path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/new"}}},
            {"type": "RequestMirror", "requestMirror": {"backendRef": {"name": "web", "port": 80}, "percent": 10}}],
         "backendRefs": [{"name": "web", "port": 80}],
         "timeouts": {"request": "5s", "backendRequest": "0s"}, "retry": {"attempts": 4, "codes": [503]}},
        {"filters": [{"type": "RequestRedirect", "requestRedirect": {"scheme": "https", "statusCode": 301,
            "path": {"type": "ReplaceFullPath", "replaceFullPath": "/x"}}}]},
    ]});
    let outcome = planned(&[class(), gateway(&json!([open("http", 80)])), service("app"), http("r", &spec)]);
    let [first, second] = outcome.rules.as_slice() else { panic!("{}", written(&outcome)) };
    assert_eq!(first.path, Path::Prefix("/old".to_owned()));
    assert_eq!(first.conditions.method, Some(http::Method::POST));
    let exact = |text: &str| Text::Exact(text.to_owned());
    assert_eq!(first.conditions.headers, [("x-y".parse().unwrap(), exact("1"))]);
    assert_eq!(first.conditions.query, [("q".to_owned(), exact("2"))]);
    let filters = &first.route.filters;
    assert_eq!(filters.request.set, [("a".parse().unwrap(), "1".parse().unwrap())]);
    assert_eq!(filters.request.remove, ["b"]);
    assert_eq!(filters.hostname, Some("h".parse().unwrap()));
    assert_eq!(filters.path, Some(PathChange::Prefix { matched: 4, to: "/new".to_owned() }));
    assert_eq!((filters.mirrors[0].share, filters.mirrors[0].of), (10, 100));
    let limits = &first.route.limits;
    assert_eq!(
        (limits.total.unwrap().as_secs(), limits.retries, &limits.retry_codes[..]),
        (5, 4, &[503][..])
    );
    let Action::Redirect(redirect) = &second.route.action else { panic!("{second:?}") };
    assert_eq!((redirect.code.as_u16(), redirect.scheme.as_deref()), (301, Some("https")));
    assert_eq!(redirect.path, Some(PathChange::Full("/x".to_owned())));
}

#[test]
fn a_status_that_says_so_already_is_not_written() {
    let mut objects = vec![class(), gateway(&json!([open("http", 80)])), service("app")];
    objects.push(http("r", &json!({"rules": [{"backendRefs": [{"name": "web", "port": 80}]}]})));
    let first = planned(&objects);
    assert_eq!(first.writes.len(), 3);
    for write in first.writes {
        let object = objects.iter_mut().find(|object| object["metadata"]["name"] == write.named.name);
        object.unwrap()["status"] = write.status;
    }
    let again = planned(&objects);
    assert_eq!(again.writes, []);
}

#[test]
fn addresses_and_ports_may_not_be_had() {
    let with = |addresses: Value| {
        let mut gateway = gateway(&json!([open("http", 80)]));
        gateway["spec"]["addresses"] = addresses;
        let outcome = planned(&[class(), gateway]);
        let status = outcome.writes.iter().find(|write| write.plural == "gateways").unwrap().status.clone();
        (said(&status["conditions"]), status["addresses"].clone(), outcome.listeners.len())
    };
    let own = json!([{"type": "IPAddress", "value": "10.0.0.1"}]);
    let good = "Accepted=True Accepted, Programmed=True Programmed".to_owned();
    assert_eq!(with(own.clone()), (good.clone(), own.clone(), 1));
    assert_eq!(with(json!([{}])), (good, own, 1));
    let (said_of, addresses, served) = with(json!([{"value": "192.0.2.1"}]));
    assert_eq!(said_of, "Accepted=False ListenersNotValid, Programmed=False AddressNotUsable");
    assert_eq!((addresses, served), (json!([]), 0));
    let (said_of, _, served) = with(json!([{"type": "Hostname", "value": "a.b"}]));
    assert_eq!(
        (said_of.as_str(), served),
        ("Accepted=False UnsupportedAddress, Programmed=False Invalid", 0)
    );
    let objects = [class(), gateway(&json!([open("taken", 80), open("free", 81)]))];
    let outcome = planned_with(&objects, &BTreeSet::from([80]));
    let status = &outcome.writes.iter().find(|write| write.plural == "gateways").unwrap().status;
    assert_eq!(said(&status["conditions"]), "Accepted=True ListenersNotValid, Programmed=True Programmed");
    let told = said(&status["listeners"][0]["conditions"]);
    assert!(
        told.contains("Accepted=False PortUnavailable") && told.contains("Programmed=False Invalid"),
        "{told}"
    );
    assert!(outcome.ports.contains_key(&80), "it is tried again");
}
