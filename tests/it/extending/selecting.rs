//! Custom resources by the fields that each of their versions selects by, as lists, watches and clients'
//! informers see them.

use super::conversion::{decide, gates};
use super::created;
use super::operator::client;
use crate::support::cluster::{Cluster, SOON};
use crate::support::definition::define;
use crate::support::https::{Events, Https, MERGE};
use crate::support::process::wait_for;
use crate::support::webhook::{Shows, WebhookServer};
use base::{Phase, Supervisor};
use futures_util::StreamExt;
use kube::ResourceExt;
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind};
use kube::runtime::reflector::Store;
use kube::runtime::reflector::store::Writer;
use kube::runtime::{WatchStreamExt, watcher};
use serde_json::{Value, json};

const GROUP: &str = "selected.example.com";

fn path(version: &str) -> String {
    format!("/apis/{GROUP}/{version}/namespaces/default/gates")
}

fn selected(version: &str, selector: &str) -> String {
    let selector = selector.replace('=', "%3D").replace(',', "%2C");
    format!("{}?fieldSelector={selector}", path(version))
}

/// A selection of a version, as everybody sees it.
struct Selection {
    path: String,
    events: Events,
    informed: Store<DynamicObject>,
    /// The informer ends with it.
    _supervisor: Supervisor,
}

impl Selection {
    fn new(https: &Https, cluster: &Cluster, (version, selector): (&'static str, &'static str)) -> Self {
        let path = selected(version, selector);
        let (_, list) = https.call("GET", &path);
        let since = list["metadata"]["resourceVersion"].as_str().unwrap();
        let events =
            https.ask("GET", &format!("{path}&watch=1&resourceVersion={since}")).watch().ok().unwrap();
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(GROUP, version, "Gate"));
        let writer = Writer::new(resource.clone());
        let informed = writer.as_reader();
        let (kubeconfig, supervisor) = (cluster.kubeconfig(), Supervisor::new());
        let own = supervisor.clone();
        https.run(async move {
            let api = Api::namespaced_with(client(kubeconfig).await, "default", &resource);
            let changes = watcher(api, watcher::Config::default().fields(selector)).reflect(writer);
            own.detached("informer", Phase::Front, changes.for_each(|_| async {}));
        });
        Self { path, events, informed, _supervisor: supervisor }
    }

    /// Expects the watch's next event, and waits until the list and the informer have these objects alone.
    #[track_caller]
    fn has(&self, https: &Https, event: (&str, &str), names: &[&str]) {
        let told = self.events.next(SOON).unwrap().unwrap();
        let object = &told["object"]["metadata"]["name"];
        assert_eq!((&told["type"], object), (&json!(event.0), &json!(event.1)), "{told}");
        let (_, list) = https.call("GET", &self.path);
        let listed: Vec<_> =
            list["items"].as_array().unwrap().iter().map(|one| &one["metadata"]["name"]).collect();
        assert_eq!(listed, names, "{}", self.path);
        wait_for("what an informer has to know", SOON, || {
            let mut known: Vec<_> = self.informed.state().iter().map(|one| one.name_any()).collect();
            known.sort();
            (known == names).then_some(())
        });
    }
}

pub(super) fn all(cluster: &Cluster, https: &Https) {
    let server = WebhookServer::start(https, &["127.0.0.1"], Shows::Issued, decide);
    let mut gates = gates(GROUP, server.by_url("/convert"));
    let versions = &mut gates["spec"]["versions"];
    versions[0]["selectableFields"] = json!([{"jsonPath": ".spec.address"}]);
    versions[1]["selectableFields"] = json!([{"jsonPath": ".spec.host"}, {"jsonPath": ".spec.port"}]);
    let _defined = define(https, &gates);
    let select = |version, selector| Selection::new(https, cluster, (version, selector));
    let old = select("v1", "spec.address=h:80");
    let new = select("v2", "spec.host=h,spec.port=80");
    let host = select("v2", "spec.host=h");
    let make = |name: &str, version: &str, spec: Value| {
        let object = json!({"apiVersion": format!("{GROUP}/{version}"), "kind": "Gate", "metadata": {"name": name}, "spec": spec});
        created(https, &path(version), &object);
    };
    make("a", "v1", json!({"address": "h:80"}));
    make("b", "v1", json!({"address": "h:8080"}));
    make("c", "v2", json!({"host": "i", "port": 80}));
    old.has(https, ("ADDED", "a"), &["a"]);
    new.has(https, ("ADDED", "a"), &["a"]);
    host.has(https, ("ADDED", "a"), &["a", "b"]);
    let (code, refused) = https.call("GET", &selected("v1", "spec.host=h"));
    assert_eq!((code, &refused["message"]), (400, &json!("field label not supported: spec.host")));

    let change = |name: &str, spec: Value| {
        let (code, changed) =
            https.send("PATCH", &format!("{}/{name}", path("v2")), MERGE, &json!({"spec": spec}));
        assert_eq!(code, 200, "{changed}");
    };
    change("b", json!({"port": 80}));
    old.has(https, ("ADDED", "b"), &["a", "b"]);
    new.has(https, ("ADDED", "b"), &["a", "b"]);
    host.has(https, ("ADDED", "b"), &["a", "b"]);
    host.has(https, ("MODIFIED", "b"), &["a", "b"]);
    change("a", json!({"host": "i"}));
    for selection in [&old, &new, &host] {
        selection.has(https, ("DELETED", "a"), &["b"]);
    }

    assert_eq!(https.call("DELETE", &selected("v2", "spec.host=i,spec.port=80")).0, 200);
    let (_, rest) = https.call("GET", &path("v1"));
    assert_eq!(rest["items"].as_array().unwrap().len(), 1, "{rest}");
    assert_eq!(https.call("DELETE", &selected("v1", "spec.address=h:80")).0, 200);
    for selection in [&old, &new, &host] {
        selection.has(https, ("DELETED", "b"), &[]);
    }
}
