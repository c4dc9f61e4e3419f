//! Any request, through all that the server does with it but for the connection. An input is written as
//! HTTP/1.1 is: a line with method and path, a line for each header, an empty one, the body.
#![no_main]

use base::{Body, Supervisor, full_body};
use http::{Method, Request, header};
use http_body::Body as _;
use http_body_util::BodyExt;
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};
use server::{AddressPool, Config, Server, ServiceAccountKeys, ServingCertificate, User};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::LazyLock;
use tokio::runtime::{Builder, Runtime};

/// What requests meet besides the objects that they name in vain.
const OBJECTS: [(&str, &str); 5] = [
    ("/api/v1/namespaces", r#"{"metadata": {"name": "default"}}"#),
    ("/api/v1/namespaces/default/serviceaccounts", r#"{"metadata": {"name": "default"}}"#),
    ("/api/v1/namespaces/default/configmaps", r#"{"metadata": {"name": "a"}, "data": {"b": "c"}}"#),
    (
        "/api/v1/namespaces/default/pods",
        r#"{"metadata": {"name": "a", "labels": {"b": "c"}}, "spec": {"containers": [{"name": "a", "image": "b"}]}}"#,
    ),
    (
        "/apis/apps/v1/namespaces/default/deployments",
        r#"{"metadata": {"name": "a"}, "spec": {"selector": {"matchLabels": {"b": "c"}}, "template":
            {"metadata": {"labels": {"b": "c"}}, "spec": {"containers": [{"name": "a", "image": "b"}]}}}}"#,
    ),
];

/// A server without a door, and the only thread that it runs on.
struct Tested {
    runtime: Runtime,
    server: Server,
    administrator: User,
    _supervisor: Supervisor,
}

static TESTED: LazyLock<Tested> = LazyLock::new(|| {
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    let (supervisor, administrator) = (Supervisor::new(), User::new("admin", &["system:masters"]));
    let server = runtime.block_on(async {
        let server = start(&supervisor).await;
        for (path, object) in OBJECTS {
            let request = Request::post(path).header(header::CONTENT_TYPE, "application/json");
            let request = request.body(full_body(object)).expect("a request");
            let answer = server.call(&administrator, request).await;
            assert!(answer.status().is_success(), "{path}: {}", answer.status());
        }
        // From here on what waits for time does not take any.
        tokio::time::pause();
        server
    });
    Tested { runtime, server, administrator, _supervisor: supervisor }
});

async fn start(supervisor: &Supervisor) -> Server {
    let folder = std::env::temp_dir().join(format!("knarr-fuzz-{}", std::process::id()));
    let pki = bootstrap::Pki::prepare(&names(&folder)).expect("certificates");
    let shown = pki.serving().expect("a certificate");
    let config = Config {
        listen: Vec::new(),
        storage: server::Storage::File(folder.join("state.db")),
        sealing: std::sync::Arc::new(server::Sealing::new(None).unwrap()),
        compaction_interval: std::time::Duration::from_secs(300),
        watch_history_bytes: 1 << 20,
        certificate: ServingCertificate::new(shown.chain(), shown.key()).expect("a certificate"),
        client_authorities: pki.client_authorities(),
        service_account_keys: ServiceAccountKeys::new(&pki.service_account_keys(), "fuzz").expect("a key"),
        server_token: std::sync::Arc::new(|| None),
        kubelet_client: pki.kubelet_client().expect("a configuration"),
        front_proxy: pki.front_proxy(),
        service_addresses: vec![AddressPool { network: Ipv4Addr::new(10, 43, 0, 0).into(), bits: 16 }],
        node_ports: 30000..=32767,
        egress: api::egress::Egress::default(),
        version: "v1.36.0".to_owned(),
    };
    let server = Server::start(config, supervisor).await.expect("the server starts");
    // Whatever is open stays so; nothing is left behind.
    std::fs::remove_dir_all(folder).expect("the folder goes");
    server
}

fn names(folder: &std::path::Path) -> bootstrap::Config {
    let (loopback, service) = (Ipv4Addr::LOCALHOST.into(), Ipv4Addr::new(10, 43, 0, 1).into());
    bootstrap::Config {
        data_dir: PathBuf::from(folder),
        node_name: "fuzz".to_owned(),
        hostname: "fuzz".to_owned(),
        node_ips: vec![loopback],
        tls_sans: Vec::new(),
        service_ip: service,
        dns_ips: vec![service],
        corefile: String::new(),
        service_cidrs: vec!["10.43.0.0/16".to_owned()],
        cluster_domain: "cluster.local".to_owned(),
        api_port: 6443,
    }
}

/// Reads an input. What would write is made a dry run: each input is to meet the same objects.
fn request(input: &[u8]) -> Option<Request<Body>> {
    let end = input.windows(2).position(|two| two == b"\n\n").unwrap_or(input.len());
    let body = input.get(end + 2..).unwrap_or_default().to_vec();
    let mut lines = input[..end].split(|byte| *byte == b'\n');
    let (method, target) = std::str::from_utf8(lines.next()?).ok()?.split_once(' ')?;
    let method: Method = method.parse().ok()?;
    let target = match target.split_once('?') {
        _ if matches!(method, Method::GET | Method::HEAD) => target.to_owned(),
        Some((path, query)) => format!("{path}?dryRun=All&{query}"),
        None => format!("{target}?dryRun=All"),
    };
    let mut request = Request::builder().method(method).uri(target);
    for line in lines {
        let colon = line.iter().position(|byte| *byte == b':')?;
        request = request.header(&line[..colon], line[colon + 1..].trim_ascii());
    }
    request.body(full_body(body)).ok()
}

fuzz_target!(|input: &[u8]| {
    let Some(request) = request(input) else { return };
    let Tested { runtime, server, administrator, .. } = &*TESTED;
    runtime.block_on(async {
        let (head, body) = server.call(administrator, request).await.into_parts();
        // A stream has no end.
        if body.size_hint().exact().is_none() {
            return;
        }
        let body = body.collect().await.expect("it is in memory").to_bytes();
        let is_json = head.headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind == "application/json");
        if is_json && !body.is_empty() {
            let value: Value = serde_json::from_slice(&body).expect("what is called JSON is JSON");
            let refused = head.status.is_client_error() || head.status.is_server_error();
            assert!(!refused || value["kind"] == json!("Status"), "{}: {value}", head.status);
        }
    });
});
