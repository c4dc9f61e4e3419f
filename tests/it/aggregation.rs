//! API aggregation: a sample extension API server behind an APIService.

mod autoscaling;
mod extension;
mod far;

use crate::support::cluster::{Cluster, SOON};
use crate::support::https::{Account, Https, JSON, MERGE, connect};
use crate::support::process::wait_for;
use base::full_body;
use extension::{Extension, GROUP, Shown};
use http::{Request, StatusCode, header};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

/// An address of the sandbox that is not one of its loopback.
const ADDRESS: &str = "10.99.0.2";
const PORT: u16 = 8443;
const SERVICES: &str = "/apis/apiregistration.k8s.io/v1/apiservices";
const NAME: &str = "v1.sample.knarr.test";
const FRUITS: &str = "/apis/sample.knarr.test/v1/namespaces/default/fruits";

/// A cluster with the sample server behind an APIService.
struct Sample {
    cluster: Cluster,
    https: Https,
    shown: Arc<Shown>,
    extension: Arc<Extension>,
}

impl Sample {
    fn new() -> Self {
        let cluster = Cluster::control_plane();
        let https = Https::new(&cluster);
        let shown = Arc::new(Shown::new("sample.default.svc"));
        Self { cluster, https, shown, extension: Extension::new() }
    }

    #[track_caller]
    fn made(&self, path: &str, object: &Value) {
        let (code, made) = self.https.send("POST", path, JSON, object);
        assert_eq!(code, 201, "{made}");
    }

    /// The APIService of the sample group.
    fn register(&self) {
        self.register_as(NAME, GROUP);
    }

    /// Another APIService of the same server.
    fn register_as(&self, name: &str, group: &str) {
        let version = name.split('.').next();
        let bundle = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, &self.shown.pem);
        self.made(
            SERVICES,
            &json!({"metadata": {"name": name}, "spec": {"group": group, "version": version, "caBundle": bundle,
                "groupPriorityMinimum": 2000, "versionPriority": 10,
                "service": {"namespace": "default", "name": "sample"}}}),
        );
    }

    fn make_service(&self) {
        let ports = json!([{"name": "api", "port": 443, "targetPort": PORT}]);
        let service = json!({"metadata": {"name": "sample"}, "spec": {"ports": ports}});
        self.made("/api/v1/namespaces/default/services", &service);
    }

    fn make_endpoint(&self) {
        self.made(
            "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices",
            &json!({"metadata": {"name": "sample", "labels": {"kubernetes.io/service-name": "sample"}},
                "addressType": "IPv4", "ports": [{"name": "api", "port": PORT}],
                "endpoints": [{"addresses": [ADDRESS]}]}),
        );
    }

    /// Serves until what is returned is dropped.
    fn serve(&self) -> oneshot::Sender<()> {
        let path = "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication";
        let (_, published) = self.https.call("GET", path);
        let authority = published["data"]["requestheader-client-ca-file"].as_str().unwrap().to_owned();
        assert_eq!(published["data"]["requestheader-allowed-names"], "[\"system:auth-proxy\"]");
        let (stop, stopped) = oneshot::channel();
        let (extension, shown) = (self.extension.clone(), self.shown.clone());
        let supervisor = extension.supervisor.clone();
        self.https.run(async move {
            let listener = TcpListener::bind((ADDRESS, PORT)).await.unwrap();
            let serving = extension.serve(listener, (shown, authority), stopped);
            supervisor.detached("extension", base::Phase::Front, serving);
        });
        stop
    }

    /// Waits for the condition `Available` to have a reason, and gives its message.
    #[track_caller]
    fn becomes(&self, name: &str, reason: &str) -> String {
        let mut last = Value::Null;
        let deadline = base::clock::instant() + SOON;
        wait_for(&format!("{reason} of {name}"), SOON * 2, || {
            last = self.https.call("GET", &format!("{SERVICES}/{name}")).1["status"]["conditions"][0].clone();
            let reached = last["reason"] == reason;
            assert!(reached || base::clock::instant() < deadline, "{name} stays {last}");
            reached.then(|| last["message"].as_str().unwrap().to_owned())
        })
    }

    fn is_served(&self) -> oneshot::Sender<()> {
        let stop = self.serve();
        self.make_service();
        self.make_endpoint();
        self.register();
        self.becomes(NAME, "Passed");
        stop
    }
}

#[test]
fn availability_is_told_as_kubernetes_tells_it() {
    let sample = Sample::new();
    assert_eq!(sample.becomes("v1.apps", "Local"), "Local APIServices are always available");
    let (_, apps) = sample.https.call("GET", &format!("{SERVICES}/v1.apps"));
    assert_eq!(apps["metadata"]["labels"]["kube-aggregator.kubernetes.io/automanaged"], "onstart");
    assert_eq!(
        apps["spec"],
        json!({"group": "apps", "version": "v1", "groupPriorityMinimum": 17800, "versionPriority": 15})
    );
    sample.register();
    assert_eq!(sample.becomes(NAME, "ServiceNotFound"), "service/sample in \"default\" is not present");
    let refused = sample.https.ask("GET", FRUITS).send();
    assert_eq!((refused.code, &refused.body[..]), (503, &b"service unavailable\n"[..]));
    sample.make_service();
    let message = "cannot find endpointslices for service/sample in \"default\"";
    assert_eq!(sample.becomes(NAME, "EndpointsNotFound"), message);
    sample.make_endpoint();
    let url = format!("https://{ADDRESS}:{PORT}/apis/sample.knarr.test/v1");
    assert_eq!(
        sample.becomes(NAME, "FailedDiscoveryCheck"),
        format!(
            "failing or missing response from {url}: Get \"{url}\": dial tcp {ADDRESS}:{PORT}: connect: connection refused"
        )
    );
    let stop = sample.serve();
    assert_eq!(sample.becomes(NAME, "Passed"), "all checks passed");
    let table = sample.cluster.kubectl("get apiservices");
    let row = |name: &str| -> Vec<String> {
        let line = table.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_whitespace().take(3).map(str::to_owned).collect()
    };
    assert_eq!(row(NAME), [NAME, "default/sample", "True"], "{table}");
    assert_eq!(row("v1.apps"), ["v1.apps", "Local", "True"], "{table}");
    // A server that is gone is found out by the next request, and the condition follows.
    drop(stop);
    let gone = wait_for("a refused connection", SOON, || {
        let answer = sample.https.ask("GET", FRUITS).send();
        (answer.code == 503).then(|| String::from_utf8(answer.body.to_vec()).unwrap())
    });
    assert!(gone.starts_with("error trying to reach service: ") || gone == "service unavailable\n", "{gone}");
}

#[test]
fn requests_reach_the_extension_as_their_users() {
    let sample = Sample::new();
    let _serving = sample.is_served();
    let apple = json!({"apiVersion": "sample.knarr.test/v1", "kind": "Fruit", "metadata": {"name": "apple"}});
    let create = |name: &str| {
        let mut fruit = apple.clone();
        fruit["metadata"]["name"] = json!(name);
        sample
            .https
            .ask("POST", FRUITS)
            .object(JSON, &fruit)
            .header("x-remote-user", "somebody")
            .header("x-remote-group", "else")
    };
    let (code, created) = create("apple").parts();
    assert_eq!((code, &created["seen"]["user"]), (201, &json!(["system:admin"])), "{created}");
    assert_eq!(created["seen"]["groups"], json!(["system:masters", "system:authenticated"]));
    assert_eq!(created["seen"]["forwarded"], json!([FRUITS]));
    let credential = created["seen"]["extra"][0].as_str().unwrap();
    assert!(credential.starts_with("X509SHA256="), "{created}");
    // This server decides first who may.
    let refused = create("pear").by("jane").send();
    let why = "fruits.sample.knarr.test is forbidden: User \"jane\" cannot create resource \"fruits\" in API group \"sample.knarr.test\" in the namespace \"default\"";
    assert_eq!((refused.code, &refused.value()["message"]), (403, &json!(why)));
    let rules = json!([{"apiGroups": [GROUP], "resources": ["fruits"], "verbs": ["create"]}]);
    let roles = "/apis/rbac.authorization.k8s.io/v1/namespaces/default";
    sample.made(&format!("{roles}/roles"), &json!({"metadata": {"name": "r"}, "rules": rules}));
    sample.made(
        &format!("{roles}/rolebindings"),
        &json!({"metadata": {"name": "r"}, "subjects": [{"kind": "User", "name": "jane", "apiGroup": "rbac.authorization.k8s.io"}],
            "roleRef": {"kind": "Role", "name": "r", "apiGroup": "rbac.authorization.k8s.io"}}),
    );
    let (code, created) = create("pear").by("jane").parts();
    let seen = json!({"user": ["jane"], "groups": ["system:authenticated"], "extra": [], "uid": [],
        "authorization": [], "impersonate": [], "forwarded": [FRUITS]});
    assert_eq!((code, &created["seen"]), (201, &seen));
    let (code, missing) = sample.https.call("GET", &format!("{FRUITS}/plum"));
    assert_eq!((code, &missing["message"]), (404, &json!("no such fruit")));
    watches(&sample, &create);
    upgrades(&sample);
    assert_eq!(sample.https.call("DELETE", &format!("{SERVICES}/{NAME}")).0, 200);
    assert_eq!(sample.https.call("GET", FRUITS).0, 404);
}

/// Events come as they are made.
fn watches<'a>(sample: &Sample, create: &dyn Fn(&str) -> crate::support::https::Ask<'a>) {
    let events =
        sample.https.ask("GET", &format!("{FRUITS}?watch=true")).watch().unwrap_or_else(|_| panic!());
    let name = || events.next(SOON).unwrap().unwrap()["object"]["metadata"]["name"].clone();
    assert_eq!((name(), name()), (json!("apple"), json!("pear")));
    create("plum").send();
    assert_eq!(name(), "plum");
}

/// Bytes pass both ways once a connection is upgraded.
fn upgrades(sample: &Sample) {
    let account = Account::read(&sample.cluster.kubeconfig());
    sample.https.run(async move {
        let (mut sender, connection) = http1::handshake(TokioIo::new(connect(&account).await)).await.unwrap();
        let supervisor = base::Supervisor::new();
        supervisor.detached("request", base::Phase::Front, async move {
            // How it ended is seen by who reads the answer.
            drop(connection.with_upgrades().await);
        });
        let request = Request::get(format!("{FRUITS}/apple/peel"))
            .header(header::HOST, "knarr")
            .header(header::CONNECTION, "Upgrade")
            .header(header::UPGRADE, "peeling");
        let mut response = sender.send_request(request.body(full_body("")).unwrap()).await.unwrap();
        assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
        assert_eq!(response.headers()[header::UPGRADE], "peeling");
        let mut stream = TokioIo::new(hyper::upgrade::on(&mut response).await.unwrap());
        stream.write_all(b"over and back").await.unwrap();
        let mut back = [0; 13];
        stream.read_exact(&mut back).await.unwrap();
        assert_eq!(&back, b"over and back");
    });
}

/// Groups of knarr's own with no greater priority than others have.
const LATER: [&str; 3] = ["metrics.k8s.io", "helm.cattle.io", "upgrade.knarr.io"];

/// What the extension serves is found where this server's own is.
#[test]
fn documents_are_merged() {
    let sample = Sample::new();
    let stop = sample.is_served();
    let aggregated = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let discovered = || {
        let all = sample.https.ask("GET", "/apis").header("accept", aggregated).send().value();
        let mut items = all["items"].as_array().unwrap().clone();
        items.retain(|item| item["metadata"]["name"].as_str().is_some_and(|name| !LATER.contains(&name)));
        let place = items.iter().position(|item| item["metadata"]["name"] == GROUP).unwrap();
        // By its priority it is behind this server's own but those.
        assert_eq!(place, items.len() - 1);
        items[place]["versions"][0].clone()
    };
    let current = wait_for("fresh discovery", SOON, || {
        let version = discovered();
        (version["freshness"] == "Current").then_some(version)
    });
    assert_eq!(
        current["resources"][0]["responseKind"],
        json!({"group": GROUP, "version": "v1", "kind": "Fruit"})
    );
    let (_, groups) = sample.https.call("GET", "/apis");
    let mut names: Vec<&str> =
        groups["groups"].as_array().unwrap().iter().map(|group| group["name"].as_str().unwrap()).collect();
    names.retain(|name| !LATER.contains(name));
    assert_eq!((names[0], names[1], *names.last().unwrap()), ("apiregistration.k8s.io", "apps", GROUP));
    let (code, group) = sample.https.call("GET", &format!("/apis/{GROUP}"));
    let version = json!({"groupVersion": "sample.knarr.test/v1", "version": "v1"});
    assert_eq!(
        (code, group),
        (
            200,
            json!({"kind": "APIGroup", "apiVersion": "v1", "name": GROUP, "versions": [version], "preferredVersion": version})
        )
    );
    let (_, index) = sample.https.call("GET", "/openapi/v3");
    let place = &index["paths"]["apis/sample.knarr.test/v1"]["serverRelativeURL"];
    assert_eq!(place, "/openapi/v3/apis/sample.knarr.test/v1?hash=ONE");
    let (_, whole) = sample.https.call("GET", "/openapi/v2");
    assert!(
        whole["paths"]["/apis/sample.knarr.test/v1"].is_object()
            && whole["paths"]["/api/v1/pods"].is_object()
    );
    let fruit = &whole["definitions"]["test.knarr.sample.v1.Fruit"];
    assert_eq!(fruit["properties"]["color"]["description"], "What it looks like.");
    let table = sample.cluster.kubectl("api-resources --api-group sample.knarr.test");
    let row: Vec<&str> = table.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(row, ["fruits", "fr", "sample.knarr.test/v1", "true", "Fruit"], "{table}");
    let explained = sample.cluster.kubectl("explain fruit");
    assert!(explained.contains("What it looks like."), "{explained}");
    // Of a server that is gone the last is known, and that it may be old.
    drop(stop);
    let touched = json!({"metadata": {"annotations": {"look": "again"}}});
    assert_eq!(sample.https.send("PATCH", &format!("{SERVICES}/{NAME}"), MERGE, &touched).0, 200);
    sample.becomes(NAME, "FailedDiscoveryCheck");
    let stale = wait_for("stale discovery", SOON, || {
        let version = discovered();
        (version["freshness"] == "Stale").then_some(version)
    });
    assert_eq!(stale["resources"], current["resources"]);
    assert_eq!(sample.https.call("DELETE", &format!("{SERVICES}/{NAME}")).0, 200);
    assert_eq!(sample.https.call("GET", &format!("/apis/{GROUP}")).0, 404);
}

/// A server that takes connections and says nothing holds up nobody else.
#[test]
fn a_dead_backend_slows_nobody() {
    let sample = Sample::new();
    let supervisor = sample.extension.supervisor.clone();
    sample.https.run(async move {
        let silent = TcpListener::bind((ADDRESS, PORT)).await.unwrap();
        supervisor.detached("silent", base::Phase::Front, async move {
            let mut held = Vec::new();
            while let Ok(connection) = silent.accept().await {
                held.push(connection);
            }
        });
    });
    sample.make_service();
    sample.make_endpoint();
    sample.register();
    let message = sample.becomes(NAME, "FailedDiscoveryCheck");
    assert!(
        message.ends_with("context deadline exceeded (Client.Timeout exceeded while awaiting headers)"),
        "{message}"
    );
    // The others are served while it is asked again and again.
    assert_eq!(sample.https.call("GET", "/apis/apps/v1/deployments").0, 200);
    let refused = sample.https.ask("GET", "/apis/sample.knarr.test/v1").send();
    assert_eq!((refused.code, &refused.body[..]), (503, &b"service unavailable\n"[..]));
}

/// Groups of custom resources have APIServices for as long as they are defined.
#[test]
fn custom_groups_are_registered() {
    let sample = Sample::new();
    let schema = json!({"openAPIV3Schema": {"type": "object"}});
    let version = |name: &str, served: bool| json!({"name": name, "served": served, "storage": name == "v1", "schema": schema});
    let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    sample.made(
        definitions,
        &json!({"metadata": {"name": "trees.wood.knarr.test"}, "spec": {"group": "wood.knarr.test", "scope": "Cluster",
            "names": {"plural": "trees", "kind": "Tree"}, "versions": [version("v1", true), version("v2", false)]}}),
    );
    sample.becomes("v1.wood.knarr.test", "Local");
    let (_, made) = sample.https.call("GET", &format!("{SERVICES}/v1.wood.knarr.test"));
    assert_eq!(made["metadata"]["labels"]["kube-aggregator.kubernetes.io/automanaged"], "true");
    assert_eq!(
        (&made["spec"]["groupPriorityMinimum"], &made["spec"]["versionPriority"]),
        (&json!(1000), &json!(100))
    );
    assert_eq!(sample.https.call("GET", &format!("{SERVICES}/v2.wood.knarr.test")).0, 404);
    sample.https.call("DELETE", &format!("{definitions}/trees.wood.knarr.test"));
    wait_for("the end of the APIService", SOON, || {
        (sample.https.call("GET", &format!("{SERVICES}/v1.wood.knarr.test")).0 == 404).then_some(())
    });
}
