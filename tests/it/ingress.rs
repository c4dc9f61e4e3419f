//! Requests that come in from outside, through a real server, to servers behind EndpointSlices.

mod backend;
mod gateways;
mod streams;

use crate::support::cluster::{Cluster, SOON};
use crate::support::https::{Https, runtime};
use crate::support::process::wait_for;
use backend::{Backend, SLOW};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::fs;
use std::sync::atomic::Ordering;
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::Message;

/// An address of the sandbox that is not one of its loopback.
const ADDRESS: &str = "10.99.0.2";

/// A cluster with servers behind its Services.
struct Edge {
    cluster: Cluster,
    https: Https,
    one: Backend,
    two: Backend,
}

impl Edge {
    fn new() -> Self {
        Self::of(Cluster::new())
    }

    fn of(cluster: Cluster) -> Self {
        let https = Https::new(&cluster);
        let edge = Self { cluster, https, one: Backend::new("one"), two: Backend::new("two") };
        edge.serve(&edge.one, 9001);
        edge.serve(&edge.two, 9002);
        edge.service("one", "http", &[9001]);
        edge.service("two", "http", &[9002]);
        edge.service("both", "http", &[9001, 9002]);
        edge.service("h2", "kubernetes.io/h2c", &[9001]);
        edge.service("none", "http", &[]);
        // Nobody listens on the first.
        edge.service("half", "http", &[9009, 9001]);
        edge
    }

    fn serve(&self, backend: &Backend, port: u16) {
        let backend = backend.clone();
        self.https.run(async move { backend.start(TcpListener::bind((ADDRESS, port)).await.unwrap()) });
    }

    /// A Service, and a slice for each of its endpoints, since each has a port of its own.
    fn service(&self, name: &str, protocol: &str, ports: &[u16]) {
        let port = json!({"name": "main", "port": 80, "appProtocol": protocol});
        let mut objects = vec![json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
            "spec": {"ports": [port]}})];
        objects.extend(ports.iter().map(|port| slice(name, *port, &json!({}))));
        self.apply(&objects);
    }

    fn apply(&self, objects: &[Value]) {
        self.cluster.apply(&json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string());
    }

    /// curl's words to its code and body.
    fn curl(&self, words: &[&str]) -> (u16, String) {
        let output = self.cluster.curl(&[&["-w", "\n%{http_code}"], words].concat());
        let (body, code) = output.stdout.rsplit_once('\n').unwrap_or_else(|| panic!("{output:?}"));
        (code.parse().unwrap(), body.to_owned())
    }

    fn get(&self, host: &str, path: &str) -> (u16, String) {
        let host = format!("host: {host}");
        self.curl(&["--path-as-is", "-H", &host, &format!("http://{ADDRESS}{path}")])
    }

    /// What the server behind saw.
    #[track_caller]
    fn seen(&self, host: &str, path: &str) -> Value {
        let (code, body) = self.get(host, path);
        assert_eq!(code, 200, "{host}{path}: {body}");
        serde_json::from_str(&body).unwrap()
    }

    /// Who answers, or the code of a refusal.
    fn who(&self, host: &str, path: &str) -> String {
        match self.get(host, path) {
            (200, body) => serde_json::from_str::<Value>(&body).unwrap()["name"].as_str().unwrap().to_owned(),
            (code, _) => code.to_string(),
        }
    }

    #[track_caller]
    fn wait_who(&self, host: &str, path: &str, who: &str) {
        wait_for(&format!("{who} at {host}{path}"), SOON, || (self.who(host, path) == who).then_some(()));
    }

    /// The names in the certificate that is shown.
    fn certificate(&self, name: &str) -> String {
        let script = format!(
            "openssl s_client -connect {ADDRESS}:443 -servername {name} </dev/null 2>/dev/null \
             | openssl x509 -noout -ext subjectAltName"
        );
        self.cluster.sandbox.sh(&script).stdout
    }

    fn events(&self, ingress: &str) -> String {
        let list = self.cluster.json("events");
        let about = |event: &&Value| event["involvedObject"]["name"] == ingress;
        let all = list["items"].as_array().into_iter().flatten().filter(about);
        all.map(|event| format!("{} {}\n", event["reason"], event["message"])).collect()
    }
}

fn slice(service: &str, port: u16, conditions: &Value) -> Value {
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": format!("{service}-{port}"), "labels": {"kubernetes.io/service-name": service}},
        "endpoints": [{"addresses": [ADDRESS], "conditions": conditions}],
        "ports": [{"name": "main", "port": port}]})
}

fn path(path: &str, kind: &str, service: &str) -> Value {
    json!({"path": path, "pathType": kind, "backend": {"service": {"name": service, "port": {"name": "main"}}}})
}

fn ingress(name: &str, annotations: &Value, spec: &Value) -> Value {
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "spec": spec,
        "metadata": {"name": name, "annotations": annotations}})
}

#[test]
fn ingresses_lead_in() {
    let edge = Edge::new();
    routes(&edge);
    headers(&edge);
    protocols(&edge);
    tls(&edge);
    endpoints(&edge);
    limits(&edge);
    numbers(&edge);
    ipv6(&edge);
}

/// Clients of IPv6, and endpoints that have nothing else.
fn ipv6(edge: &Edge) {
    edge.cluster.sandbox.sh("ip -6 addr add 2001:db8:99::2/64 dev eth0 nodad").ok();
    let (one, other) = (edge.one.clone(), edge.two.clone());
    edge.https.run(async move {
        one.start(TcpListener::bind("[2001:db8:99::2]:9061").await.unwrap());
        other.start(TcpListener::bind("[2001:db8:99::2]:9062").await.unwrap());
    });
    let port = json!({"name": "main", "port": 80});
    let families = json!({"ports": [port], "ipFamilyPolicy": "SingleStack"});
    let mut slice = slice("six", 9061, &json!({}));
    slice["addressType"] = json!("IPv6");
    slice["endpoints"][0]["addresses"] = json!(["2001:db8:99::2"]);
    let spec = json!({"rules": [{"host": "six.example", "http": {"paths": [path("/", "Prefix", "six")]}}]});
    edge.apply(&[
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "six"}, "spec": families}),
        slice,
        ingress("six", &json!({}), &spec),
    ]);
    edge.wait_who("six.example", "/", "one");
    let get = |words: &[&str]| {
        let (code, body) = edge.curl(&[&["-g", "-k", "-H", "host: six.example"], words].concat());
        assert_eq!(code, 200, "{body}");
        serde_json::from_str::<Value>(&body).unwrap()
    };
    for url in ["http://[2001:db8:99::2]/", "https://[2001:db8:99::2]/"] {
        let seen = get(&[url]);
        assert_eq!(seen["headers"]["x-forwarded-for"], "2001:db8:99::2", "{url} {seen}");
    }
}

fn routes(edge: &Edge) {
    let rule = |host: &str, paths: &[Value]| json!({"host": host, "http": {"paths": paths}});
    let spec = json!({"rules": [
        rule("a.example", &[path("/", "Prefix", "one"), path("/two", "Prefix", "two"), path("/exact", "Exact", "two")]),
        rule("*.b.example", &[path("/", "ImplementationSpecific", "two")]),
        rule("c.example", &[path("/none", "Prefix", "none"), path("/missing", "Prefix", "missing"),
            path("/half", "Prefix", "half"), path("/h2", "Prefix", "h2")]),
    ]});
    edge.apply(&[ingress("main", &json!({}), &spec)]);
    edge.wait_who("a.example", "/", "one");
    let class = edge.cluster.json("ingress main")["spec"]["ingressClassName"].clone();
    assert_eq!(class, "knarr", "the default class");
    let status =
        |status: &Value| status["status"]["loadBalancer"]["ingress"][0]["ip"].as_str().map(str::to_owned);
    assert_eq!(edge.cluster.wait("ingress main", status), ADDRESS);
    for (host, path, who) in [
        ("a.example", "/twofold", "one"),
        ("a.example", "/two/x?y", "two"),
        ("A.Example:80", "/exact", "two"),
        ("a.example", "/exact/", "one"),
        ("x.b.example", "/", "two"),
        ("x.y.b.example", "/", "404"),
        ("b.example", "/", "404"),
        ("c.example", "/none", "503"),
        ("c.example", "/missing", "503"),
        ("c.example", "/", "404"),
        ("c.example", "/half", "one"),
        ("c.example", "/half", "one"),
    ] {
        assert_eq!(edge.who(host, path), who, "{host}{path}");
    }
    assert!(edge.events("main").contains(r#"service \"missing\" not found"#), "{}", edge.events("main"));
    let default = json!({"defaultBackend": {"service": {"name": "two", "port": {"number": 80}}}});
    edge.apply(&[ingress("default", &json!({}), &default)]);
    edge.wait_who("unknown.example", "/", "two");
    assert_eq!(edge.who("a.example", "/"), "one");
    edge.cluster.kubectl("delete ingress default");
    edge.wait_who("unknown.example", "/", "404");
}

fn headers(edge: &Edge) {
    let words = [
        "-H",
        "host: a.example:80",
        "-H",
        "x-forwarded-for: 1.2.3.4",
        "-H",
        "connection: keep-alive, x-secret",
        "-H",
        "x-secret: 1",
        "-H",
        "te: gzip",
        "-H",
        "proxy: http://evil",
        "-D",
        "-",
        "http://10.99.0.2/p%20q?r=%2f",
    ];
    let (code, answer) = edge.curl(&words);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert_eq!(code, 200);
    assert!(!head.contains("x-private"), "{head}");
    let seen: Value = serde_json::from_str(body).unwrap();
    assert_eq!(seen["uri"], "/p%20q?r=%2f");
    let headers = &seen["headers"];
    for (name, value) in [
        ("host", "a.example:80"),
        ("x-forwarded-for", ADDRESS),
        ("x-real-ip", ADDRESS),
        ("x-forwarded-proto", "http"),
        ("x-forwarded-host", "a.example:80"),
    ] {
        assert_eq!(headers[name], value, "{name}: {headers}");
    }
    for gone in ["connection", "x-secret", "te", "proxy"] {
        assert!(headers[gone].is_null(), "{gone}: {headers}");
    }
    // Two hosts, or none, are no request. Who listens for the answer must not end before it came.
    let raw = |text: &str| {
        let script = format!("(printf '{text}'; sleep 2) | timeout 9 busybox nc {ADDRESS} 80");
        edge.cluster.sandbox.sh(&script).stdout
    };
    assert!(raw("GET / HTTP/1.1\\r\\nconnection: close\\r\\n\\r\\n").starts_with("HTTP/1.1 400"));
    let two = "GET / HTTP/1.1\\r\\nhost: a.example\\r\\nhost: b\\r\\nconnection: close\\r\\n\\r\\n";
    assert!(raw(two).starts_with("HTTP/1.1 400"));
    let long = format!("x: {}", "y".repeat(70_000));
    assert_eq!(edge.curl(&["-H", "host: a.example", "-H", &long, "http://10.99.0.2/"]).0, 431);
}

fn protocols(edge: &Edge) {
    let h2 = edge.curl(&["--http2-prior-knowledge", "-H", "host: a.example", "http://10.99.0.2/"]);
    assert!(h2.1.contains(r#""version":"HTTP/1.1""#), "{h2:?}");
    let seen = edge.seen("c.example", "/h2");
    assert_eq!((&seen["version"], &seen["uri"]), (&json!("HTTP/2.0"), &json!("http://c.example/h2")));
    let sent = "x".repeat(200_000);
    fs::write(edge.cluster.sandbox.folder.join("body"), &sent).unwrap();
    for path in ["http://10.99.0.2/h2", "http://10.99.0.2/half"] {
        let (_, body) = edge.curl(&["-H", "host: c.example", "--data-binary", "@body", path]);
        assert!(body.contains(r#""bytes":200000"#), "{body}");
        let chunked = ["-H", "host: c.example", "-H", "transfer-encoding: chunked", "-T", "body", path];
        assert!(edge.curl(&chunked).1.contains(r#""bytes":200000"#));
    }
    edge.https.run(async {
        let stream = TcpStream::connect((ADDRESS, 80)).await.unwrap();
        let (mut socket, _) = tokio_tungstenite::client_async("ws://a.example/ws", stream).await.unwrap();
        for word in ["first", "second"] {
            socket.send(Message::text(word)).await.unwrap();
            let heard = socket.next().await.unwrap().unwrap();
            assert_eq!(heard.to_text().unwrap(), format!("one: {word}"));
        }
        socket.close(None).await.unwrap();
    });
}

/// A Secret with a certificate for a name.
fn secret(name: &str, host: &str) -> Value {
    let made = rcgen::generate_simple_self_signed(vec![host.to_owned()]).unwrap();
    json!({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "metadata": {"name": name},
        "stringData": {"tls.crt": made.cert.pem(), "tls.key": made.signing_key.serialize_pem()}})
}

fn tls(edge: &Edge) {
    assert!(edge.certificate("a.example").contains("ingress.knarr.local"));
    let spec = json!({
        "tls": [{"hosts": ["s.example", "*.s.example"], "secretName": "cert"}],
        "rules": [{"host": "s.example", "http": {"paths": [path("/", "Prefix", "one")]}}],
    });
    edge.apply(&[ingress("tls", &json!({"ingress.knarr.io/https-redirect": "true"}), &spec)]);
    wait_for("an event", SOON, || edge.events("tls").contains(r#"secret \"cert\" of type"#).then_some(()));
    let shown = |name: &str, wanted: &str| {
        wait_for(wanted, SOON, || edge.certificate(name).contains(wanted).then_some(()));
    };
    edge.apply(&[secret("cert", "old.example")]);
    shown("s.example", "old.example");
    shown("x.s.example", "old.example");
    shown("x.y.s.example", "ingress.knarr.local");
    edge.apply(&[secret("cert", "new.example")]);
    shown("s.example", "new.example");
    let to =
        ["-k", "--resolve", "s.example:443:10.99.0.2", "-w", "%{http_version} %{ssl_verify_result}", "-H"];
    let get = |words: &[&str]| {
        let words = [&to[..], &["x: y", "https://s.example/"], words].concat();
        edge.cluster.curl(&words).stdout
    };
    assert!(get(&["--http2"]).ends_with("2 18"), "{}", get(&["--http2"]));
    assert!(get(&["--http1.1"]).contains(r#""x-forwarded-proto":"https""#));
    let moved = edge.curl(&["-H", "host: s.example", "-D", "-", "http://10.99.0.2/x?y"]);
    assert!(moved.0 == 308 && moved.1.contains("location: https://s.example/x?y\r\n"), "{moved:?}");
    // A key of another certificate.
    let (mut mixed, other) = (secret("cert", "mixed.example"), secret("cert", "other.example"));
    mixed["stringData"]["tls.key"] = other["stringData"]["tls.key"].clone();
    edge.apply(&[mixed]);
    wait_for("an event", SOON, || edge.events("tls").contains("holds no certificate").then_some(()));
    shown("s.example", "ingress.knarr.local");
}

fn endpoints(edge: &Edge) {
    let spec = json!({"rules": [{"host": "e.example", "http": {"paths": [path("/", "Prefix", "both")]}}]});
    edge.apply(&[ingress("ends", &json!({}), &spec)]);
    wait_for("a route", SOON, || (edge.who("e.example", "/") != "404").then_some(()));
    let all = |edge: &Edge| -> HashSet<String> { (0..8).map(|_| edge.who("e.example", "/")).collect() };
    assert_eq!(all(edge), HashSet::from(["one".to_owned(), "two".to_owned()]));
    // What is under way at an endpoint that goes away is answered to its end.
    let words = ["curl", "-sS", "-H", "host: e.example", "http://10.99.0.2/slow"];
    let log = |name: &str| edge.cluster.sandbox.folder.join(name);
    let before = edge.one.requests.load(Ordering::Acquire) + edge.two.requests.load(Ordering::Acquire);
    let mut slow: Vec<_> =
        ["slow-1", "slow-2"].map(|name| edge.cluster.sandbox.background(&log(name), |_| {}, &words)).into();
    wait_for("slow requests", SOON, || {
        let now = edge.one.requests.load(Ordering::Acquire) + edge.two.requests.load(Ordering::Acquire);
        (now >= before + 2).then_some(())
    });
    let gone = json!({"ready": false, "serving": true, "terminating": true});
    edge.apply(&[slice("both", 9001, &gone)]);
    wait_for("one endpoint alone", SOON, || (all(edge) == HashSet::from(["two".to_owned()])).then_some(()));
    slow.iter_mut().for_each(|slow| assert_eq!(slow.wait(SLOW * 4), 0));
    let mut heard: Vec<String> = ["slow-1", "slow-2"]
        .map(|name| {
            serde_json::from_str::<Value>(&fs::read_to_string(log(name)).unwrap()).unwrap()["name"]
                .to_string()
        })
        .into();
    heard.sort();
    assert_eq!(heard, ["\"one\"", "\"two\""]);
    // Where nobody is ready, who ends is asked.
    edge.apply(&[slice("both", 9002, &json!({"ready": false, "serving": false}))]);
    edge.wait_who("e.example", "/", "one");
    edge.cluster.kubectl("delete endpointslice both-9001 both-9002");
    edge.wait_who("e.example", "/", "503");
}

fn limits(edge: &Edge) {
    let limited = |name: &str, annotations: &Value| {
        let host = format!("{name}.example");
        let spec = json!({"rules": [{"host": host, "http": {"paths": [path("/l", "Prefix", "one")]}}]});
        edge.apply(&[ingress(name, annotations, &spec)]);
        wait_for("a route", SOON, || (edge.who(&host, "/l") != "404").then_some(()));
        host
    };
    let strip = limited("strip", &json!({"ingress.knarr.io/strip-prefix": "true"}));
    assert_eq!(edge.seen(&strip, "/l/x?y")["uri"], "/x?y");
    let body = limited("body", &json!({"ingress.knarr.io/body-limit": "100Ki"}));
    let host = format!("host: {body}");
    let post = |words: &[&str]| edge.curl(&[&["-H", &host, "http://10.99.0.2/l"], words].concat()).0;
    assert_eq!(post(&["--data-binary", "@body"]), 413);
    assert_eq!(post(&["-H", "transfer-encoding: chunked", "-T", "body"]), 413);
    assert_eq!(post(&["-d", "little"]), 200);
    let rate = limited("rate", &json!({"ingress.knarr.io/rate-limit": "2"}));
    let codes: HashSet<String> = (0..12).map(|_| edge.who(&rate, "/l")).collect();
    assert_eq!(codes, HashSet::from(["one".to_owned(), "429".to_owned()]));
    let own = limited("client", &json!({"ingress.knarr.io/client-rate-limit": "2"}));
    let codes: HashSet<String> = (0..12).map(|_| edge.who(&own, "/l")).collect();
    assert_eq!(codes, HashSet::from(["one".to_owned(), "429".to_owned()]));
    let timed = json!({"ingress.knarr.io/strip-prefix": "true", "ingress.knarr.io/response-timeout": "1s"});
    let slow = limited("time", &timed);
    assert_eq!(edge.who(&slow, "/l/slow"), "504");
    let wrong = limited("wrong", &json!({"ingress.knarr.io/rate-limit": "many"}));
    assert_eq!(edge.who(&wrong, "/l"), "one");
    wait_for("an event", SOON, || edge.events("wrong").contains("InvalidAnnotation").then_some(()));
}

fn numbers(edge: &Edge) {
    let text = edge.cluster.kubectl("get --raw /api/v1/nodes/node-1/proxy/metrics");
    for name in
        ["knarr_ingress_requests_total{code=\"200\"} ", "knarr_ingress_request_duration_seconds_count "]
    {
        assert!(text.contains(name), "{name}");
    }
}

/// Proxies before this one, whose word counts.
#[test]
fn trusted_proxies_are_believed() {
    let mut cluster = Cluster::prepared(&[]);
    cluster.tell(&["--ingress-trusted-proxies", "10.99.0.2,127.0.0.0/8", "--ingress-proxy-protocol"]);
    cluster.start();
    let edge = Edge::of(cluster);
    let spec = json!({"rules": [{"host": "t.example", "http": {"paths": [path("/", "Prefix", "one")]}}]});
    edge.apply(&[ingress("trusted", &json!({"ingress.knarr.io/https-redirect": "true"}), &spec)]);
    // curl's own address is told by its first line; 192.0.2.7 is believed by nobody.
    let get = |words: &[&str]| {
        let to = ["--haproxy-protocol", "-H", "host: t.example", "http://10.99.0.2/"];
        edge.curl(&[&to[..], words].concat())
    };
    wait_for("a route", SOON, || (get(&[]).0 == 308).then_some(()));
    let chain = "x-forwarded-for: 6.6.6.6, 192.0.2.7, 10.99.0.2";
    let (code, body) = get(&["-H", chain, "-H", "x-forwarded-proto: https", "-H", "x-forwarded-host: front"]);
    assert_eq!(code, 200, "{body}");
    let seen: Value = serde_json::from_str(&body).unwrap();
    let headers = &seen["headers"];
    for (name, value) in [
        ("x-forwarded-for", "6.6.6.6, 192.0.2.7, 10.99.0.2, 10.99.0.2"),
        ("x-real-ip", "192.0.2.7"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "front"),
    ] {
        assert_eq!(headers[name], value, "{name}: {headers}");
    }
    let told = |client: &str| {
        let head = "GET / HTTP/1.1\\r\\nhost: t.example\\r\\nx-forwarded-proto: https\\r\\nconnection: close\\r\\n\\r\\n";
        let script = format!(
            "(printf 'PROXY TCP4 {client} 10.99.0.2 1 80\\r\\n{head}'; sleep 2) | timeout 9 busybox nc {ADDRESS} 80"
        );
        edge.cluster.sandbox.sh(&script).stdout
    };
    assert!(told("192.0.2.8").starts_with("HTTP/1.1 308"), "who it speaks for is not believed");
    assert!(told("127.0.0.1").contains("127.0.0.1"));
    // A trusted proxy that does not begin so is hung up on.
    let plain = edge.cluster.curl(&["-H", "host: t.example", "http://10.99.0.2/"]);
    assert_ne!(plain.code, 0, "{plain:?}");
}

/// What happens when others have the ports, and when knarr stops.
#[test]
fn ingress_waits_for_its_ports_and_ends_in_order() {
    let mut cluster = Cluster::prepared(&[]);
    let folder = cluster.sandbox.folder.clone();
    let inside = runtime(Some(cluster.sandbox.network()));
    let other = inside.block_on(inside.spawn(TcpListener::bind("0.0.0.0:80"))).unwrap().unwrap();
    cluster.start();
    let screen = wait_for("a warning", SOON, || {
        let screen = cluster.screen();
        screen.contains("ingress cannot listen").then_some(screen)
    });
    assert!(screen.contains("--ingress-http-port"), "{screen}");
    drop(other);
    let refused = || cluster.curl(&["-o", "/dev/null", "-w", "%{http_code}", "http://10.99.0.2/"]).stdout;
    wait_for("the port", SOON, || (refused() == "404").then_some(()));
    assert_eq!(cluster.screen().matches("ingress cannot listen").count(), 1);
    let https = Https::new(&cluster);
    let one = Backend::new("one");
    let own = one.clone();
    https.run(async move { own.start(TcpListener::bind((ADDRESS, 9001)).await.unwrap()) });
    let port = json!({"name": "main", "port": 80});
    let spec = json!({"rules": [{"http": {"paths": [path("/", "Prefix", "one")]}}]});
    let objects = json!({"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "one"}, "spec": {"ports": [port]}},
        slice("one", 9001, &json!({})),
        ingress("main", &json!({}), &spec),
    ]});
    cluster.apply(&objects.to_string());
    wait_for("a route", SOON, || (refused() == "200").then_some(()));
    let words = ["curl", "-sS", "http://10.99.0.2/slow"];
    let before = one.requests.load(Ordering::Acquire);
    let mut slow = cluster.sandbox.background(&folder.join("slow"), |_| {}, &words);
    wait_for("a slow request", SOON, || (one.requests.load(Ordering::Acquire) > before).then_some(()));
    assert_eq!(cluster.stop("TERM"), 0);
    assert_eq!(slow.wait(SLOW * 4), 0);
    let heard = fs::read_to_string(folder.join("slow")).unwrap();
    assert!(heard.contains(r#""name":"one""#), "{heard}");
}
