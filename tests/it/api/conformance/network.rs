//! Behaviours of services' endpoints: Endpoints, EndpointSlices, and every verb of the objects around them. The
//! test plays the kubelet of one node for each behaviour.

use super::flow::lives;
use super::{get, items, made, patched, updated, version};
use crate::support::cluster::SOON;
use crate::support::https::{Https, JSON};
use crate::support::process::wait_for;
use serde_json::{Value, json};

const NODES: &str = "/api/v1/nodes";
const PODS: &str = "/api/v1/namespaces/conformance/pods";
const SERVICES: &str = "/api/v1/namespaces/conformance/services";
const ENDPOINTS: &str = "/api/v1/namespaces/conformance/endpoints";
const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/conformance/endpointslices";
const GROUP: &str = "networking.k8s.io";

/// A node whose pods are ready as soon as they are there.
struct Place<'a> {
    https: &'a Https,
    name: String,
}

impl<'a> Place<'a> {
    fn new(https: &'a Https, name: &str) -> Self {
        let name = format!("place-{name}");
        let ready = json!({"type": "Ready", "status": "True", "lastHeartbeatTime": "2026-01-01T00:00:00Z"});
        let node = json!({"apiVersion": "v1", "kind": "Node", "spec": {"unschedulable": true},
            "metadata": {"name": name, "labels": {"topology.kubernetes.io/zone": "here"}}});
        made(https, NODES, &node);
        patched(https, &format!("{NODES}/{name}/status"), &json!({"status": {"conditions": [ready]}}));
        Self { https, name }
    }

    fn pod(&self, name: &str, app: &str, ip: &str, ports: &[(&str, u16)]) {
        let ports: Vec<_> =
            ports.iter().map(|(name, port)| json!({"name": name, "containerPort": port})).collect();
        let spec =
            json!({"nodeName": self.name, "containers": [{"name": "c", "image": "i", "ports": ports}]});
        let metadata = json!({"name": name, "labels": {"app": app}});
        made(
            self.https,
            PODS,
            &json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}),
        );
        let ready = json!({"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"});
        let status = json!({"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "conditions": [ready]});
        patched(self.https, &format!("{PODS}/{name}/status"), &json!({"status": status}));
    }

    fn end(&self, pod: &str) {
        let at_once = json!({"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 0});
        assert_eq!(self.https.send("DELETE", &format!("{PODS}/{pod}"), JSON, &at_once).0, 200);
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.https.ask("DELETE", &format!("{NODES}/{}", self.name)).try_send() {
            eprintln!("{} stays: {error}", self.name);
        }
    }
}

fn service(https: &Https, name: &str, selector: Value, ports: Value) {
    made(
        https,
        SERVICES,
        &json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
            "spec": {"selector": selector, "ports": ports}}),
    );
}

fn deleted(https: &Https, path: &str) {
    assert_eq!(https.ask("DELETE", path).send().code, 200, "{path}");
}

fn slices_of(https: &Https, service: &str) -> Vec<Value> {
    items(https, &format!("{SLICES}?labelSelector=kubernetes.io%2Fservice-name%3D{service}"))
}

fn texts(list: &Value, field: &str) -> Vec<String> {
    list.as_array().into_iter().flatten().map(|one| one[field].as_str().unwrap().to_owned()).collect()
}

fn ports(list: &Value) -> String {
    let ports: Vec<_> = list.as_array().into_iter().flatten().map(|port| port["port"].to_string()).collect();
    ports.join(",")
}

fn sorted(mut lines: Vec<String>) -> String {
    lines.sort();
    lines.join("; ")
}

/// What Endpoints say: `ports at addresses` of each subset.
fn of_endpoints(https: &Https, service: &str) -> String {
    let (code, endpoints) = get(https, &format!("{ENDPOINTS}/{service}"));
    let subsets = endpoints["subsets"].as_array().into_iter().flatten();
    let lines = subsets.map(|subset| {
        format!("{} at {}", ports(&subset["ports"]), texts(&subset["addresses"], "ip").join(" "))
    });
    if code == 200 { sorted(lines.collect()) } else { code.to_string() }
}

/// The same of ready endpoints in slices; an empty slice says nothing.
fn of_slices(https: &Https, service: &str) -> String {
    let slices = slices_of(https, service);
    let lines = slices.iter().filter_map(|slice| {
        let endpoints = slice["endpoints"].as_array().into_iter().flatten();
        let ready = endpoints.filter(|endpoint| endpoint["conditions"]["ready"] == true);
        let mut ready: Vec<_> =
            ready.map(|endpoint| endpoint["addresses"][0].as_str().unwrap().to_owned()).collect();
        ready.sort();
        (!ready.is_empty()).then(|| format!("{} at {}", ports(&slice["ports"]), ready.join(" ")))
    });
    sorted(lines.collect())
}

/// Waits until Endpoints and slices of a service say the same, as expected.
#[track_caller]
fn both(https: &Https, service: &str, wanted: &str) {
    wait_for(&format!("{wanted:?} of {service}"), SOON, || {
        (of_endpoints(https, service) == wanted && of_slices(https, service) == wanted).then_some(())
    });
}

pub(super) fn endpoints_of_pods(https: &Https) {
    let place = Place::new(https, "endpoints");
    let port = |target: Value| json!([{"name": "example", "port": 80, "targetPort": target}]);
    service(https, "by-name", json!({"app": "numbered"}), port(json!("example-name")));
    service(https, "by-number", json!({"app": "numbered"}), port(json!(8080)));
    both(https, "by-name", "");
    place.pod("number-1", "numbered", "10.42.9.1", &[("example-name", 3000)]);
    place.pod("number-2", "numbered", "10.42.9.2", &[("example-name", 3001)]);
    both(https, "by-name", "3000 at 10.42.9.1; 3001 at 10.42.9.2");
    both(https, "by-number", "8080 at 10.42.9.1 10.42.9.2");
    let slices = slices_of(https, "by-number");
    let endpoints = slices[0]["endpoints"].as_array().unwrap();
    for endpoint in endpoints {
        let (_, pod) = get(https, &format!("{PODS}/{}", endpoint["targetRef"]["name"].as_str().unwrap()));
        assert_eq!(endpoint["targetRef"]["uid"], pod["metadata"]["uid"]);
        assert_eq!((&endpoint["nodeName"], &endpoint["zone"]), (&json!("place-endpoints"), &json!("here")));
        assert_eq!(endpoint["addresses"], json!([pod["status"]["podIP"]]));
    }
    // What is deleted is made again.
    deleted(https, &format!("{ENDPOINTS}/by-number"));
    deleted(https, &format!("{SLICES}/{}", slices[0]["metadata"]["name"].as_str().unwrap()));
    both(https, "by-number", "8080 at 10.42.9.1 10.42.9.2");
    place.end("number-1");
    both(https, "by-name", "3001 at 10.42.9.2");
    place.end("number-2");
    both(https, "by-name", "");
    deleted(https, &format!("{SERVICES}/by-name"));
    deleted(https, &format!("{SERVICES}/by-number"));
}

pub(super) fn endpoints_without_pods(https: &Https) {
    service(https, "nobody", json!({"app": "nobody"}), json!([{"port": 80}]));
    wait_for("one empty slice", SOON, || {
        let slices = slices_of(https, "nobody");
        (slices.len() == 1 && of_endpoints(https, "nobody").is_empty()).then_some(())
    });
    let slice = &slices_of(https, "nobody")[0];
    assert_eq!(
        slice["metadata"]["labels"]["endpointslice.kubernetes.io/managed-by"],
        "endpointslice-controller.k8s.io"
    );
    deleted(https, &format!("{SERVICES}/nobody"));
    wait_for("the end of what the service had", SOON, || {
        (slices_of(https, "nobody").is_empty() && of_endpoints(https, "nobody") == "404").then_some(())
    });
}

pub(super) fn endpoints_are_mirrored(https: &Https) {
    let published = get(https, "/apis/discovery.k8s.io/v1").1;
    assert!(published["resources"].as_array().unwrap().iter().any(|one| one["name"] == "endpointslices"));
    service(https, "mirrored", Value::Null, json!([{"name": "example", "port": 80}]));
    let object = json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "mirrored"},
        "subsets": [{"ports": [{"port": 80}], "addresses": [{"ip": "10.1.2.3"}]}]});
    made(https, ENDPOINTS, &object);
    let mirrored = |wanted: &str| {
        wait_for(&format!("a mirror of {wanted:?}"), SOON, || {
            (of_slices(https, "mirrored") == wanted).then_some(())
        });
    };
    mirrored("80 at 10.1.2.3");
    let slice = &slices_of(https, "mirrored")[0];
    assert_eq!(
        slice["metadata"]["labels"]["endpointslice.kubernetes.io/managed-by"],
        "endpointslicemirroring-controller.k8s.io"
    );
    updated(https, &format!("{ENDPOINTS}/mirrored"), |endpoints| {
        endpoints["subsets"] = json!([{"ports": [{"port": 81}],
            "addresses": [{"ip": "10.2.3.4"}, {"ip": "10.1.2.3"}]}]);
    });
    mirrored("81 at 10.1.2.3 10.2.3.4");
    deleted(https, &format!("{ENDPOINTS}/mirrored"));
    wait_for("no mirror", SOON, || slices_of(https, "mirrored").is_empty().then_some(()));
    deleted(https, &format!("{SERVICES}/mirrored"));
}

pub(super) fn endpoints_live(https: &Https) {
    let selected = format!("{ENDPOINTS}?labelSelector=of%3Dendpoint");
    let since = version(&get(https, &selected).1);
    let events = https.ask("GET", &format!("{selected}&watch=true&resourceVersion={since}")).watch().unwrap();
    let told = |kind: &str| {
        let event = events.next(SOON).unwrap().unwrap();
        assert_eq!(event["type"], kind, "{event}");
        event["object"].clone()
    };
    let object = json!({"apiVersion": "v1", "kind": "Endpoints",
        "metadata": {"name": "living", "labels": {"of": "endpoint"}},
        "subsets": [{"ports": [{"name": "http", "port": 80}], "addresses": [{"ip": "10.0.0.24"}]}]});
    made(https, ENDPOINTS, &object);
    told("ADDED");
    let path = format!("{ENDPOINTS}/living");
    updated(https, &path, |endpoints| endpoints["metadata"]["labels"]["changed"] = json!("true"));
    assert_eq!(told("MODIFIED")["metadata"]["labels"]["changed"], "true");
    assert_eq!(get(https, &path).1["metadata"]["labels"]["changed"], "true");
    let subsets = json!([{"ports": [{"name": "http", "port": 8080}], "addresses": [{"ip": "10.0.0.25"}]}]);
    patched(https, &path, &json!({"subsets": subsets}));
    told("MODIFIED");
    assert_eq!(of_endpoints(https, "living"), "8080 at 10.0.0.25");
    deleted(https, &selected);
    told("DELETED");
    assert_eq!(get(https, &path).0, 404);
}

pub(super) fn endpoints_of_the_server(https: &Https) {
    let (code, own) = get(https, "/api/v1/namespaces/default/services/kubernetes");
    assert_eq!((code, &own["spec"]["ports"][0]["port"]), (200, &json!(443)));
    let (_, endpoints) = get(https, "/api/v1/namespaces/default/endpoints/kubernetes");
    let subset = &endpoints["subsets"][0];
    assert_eq!((&subset["ports"][0]["name"], &subset["ports"][0]["port"]), (&json!("https"), &json!(6443)));
    let slices = items(
        https,
        "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices?labelSelector=kubernetes.io%2Fservice-name%3Dkubernetes",
    );
    let [slice] = slices.as_slice() else { panic!("{slices:?}") };
    assert_eq!(slice["endpoints"][0]["addresses"], json!(texts(&subset["addresses"], "ip")));
    assert_eq!(slice["ports"][0]["port"], subset["ports"][0]["port"]);
}

pub(super) fn endpoints_come_and_go(https: &Https) {
    let place = Place::new(https, "basic");
    service(https, "basic", json!({"app": "basic"}), json!([{"port": 80}]));
    both(https, "basic", "");
    place.pod("basic-1", "basic", "10.42.8.1", &[("web", 80)]);
    both(https, "basic", "80 at 10.42.8.1");
    place.pod("basic-2", "basic", "10.42.8.2", &[("web", 80)]);
    both(https, "basic", "80 at 10.42.8.1 10.42.8.2");
    place.end("basic-2");
    both(https, "basic", "80 at 10.42.8.1");
    place.end("basic-1");
    both(https, "basic", "");
    deleted(https, &format!("{SERVICES}/basic"));
}

pub(super) fn endpoints_of_several_ports(https: &Https) {
    let place = Place::new(https, "ports");
    let ports = json!([{"name": "portname1", "port": 80, "targetPort": "portname1"},
        {"name": "portname2", "port": 81, "targetPort": "portname2"}]);
    service(https, "ports", json!({"app": "ports"}), ports);
    both(https, "ports", "");
    place.pod("ports-1", "ports", "10.42.7.1", &[("portname1", 100)]);
    both(https, "ports", "100 at 10.42.7.1");
    place.pod("ports-2", "ports", "10.42.7.2", &[("portname2", 101)]);
    both(https, "ports", "100 at 10.42.7.1; 101 at 10.42.7.2");
    place.end("ports-1");
    both(https, "ports", "101 at 10.42.7.2");
    place.end("ports-2");
    both(https, "ports", "");
    deleted(https, &format!("{SERVICES}/ports"));
}

pub(super) fn services_have_a_status(https: &Https) {
    let spec = json!({"type": "LoadBalancer", "ports": [{"port": 80}]});
    made(
        https,
        SERVICES,
        &json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "status"}, "spec": spec}),
    );
    let (path, status) = (format!("{SERVICES}/status"), format!("{SERVICES}/status/status"));
    assert_eq!(get(https, &path).1["metadata"]["name"], "status");
    assert_eq!(get(https, &status).1["status"]["loadBalancer"], json!({}));
    let told = |kind: &str| {
        json!({"type": kind, "status": "True", "reason": "E2E", "message": "set",
        "lastTransitionTime": "2026-01-01T00:00:00Z"})
    };
    let ingress = json!({"loadBalancer": {"ingress": [{"ip": "203.0.113.1"}]}});
    let changed = patched(
        https,
        &status,
        &json!({"metadata": {"annotations": {"patchedstatus": "true"}}, "status": ingress}),
    );
    assert_eq!(changed["metadata"]["annotations"]["patchedstatus"], "true");
    let changed =
        updated(https, &status, |object| object["status"]["conditions"] = json!([told("StatusUpdate")]));
    assert_eq!(changed["status"]["conditions"][0]["type"], "StatusUpdate");
    let changed = patched(https, &path, &json!({"metadata": {"labels": {"test-service": "patched"}}}));
    assert_eq!(changed["metadata"]["labels"]["test-service"], "patched");
    assert_eq!(changed["status"]["conditions"][0]["type"], "StatusUpdate");
    deleted(https, &path);
    assert_eq!(get(https, &path).0, 404);
}

pub(super) fn services_are_deleted_together(https: &Https) {
    for (name, label) in [("col-1", "gone"), ("col-2", "gone"), ("col-3", "stays")] {
        let metadata = json!({"name": name, "labels": {"col": label, "test": "collection"}});
        let spec = json!({"ports": [{"name": "http", "port": 80}]});
        made(
            https,
            SERVICES,
            &json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}),
        );
    }
    let all = format!("{SERVICES}?labelSelector=test%3Dcollection");
    assert_eq!(items(https, &all).len(), 3);
    deleted(https, &format!("{SERVICES}?labelSelector=col%3Dgone"));
    assert_eq!(items(https, &all).len(), 1);
    deleted(https, &format!("{SERVICES}/col-3"));
}

pub(super) fn services_of_all_namespaces(https: &Https) {
    let all = items(https, "/api/v1/services");
    let own = all.iter().map(|service| &service["metadata"]);
    assert!(own.into_iter().any(|meta| meta["name"] == "kubernetes" && meta["namespace"] == "default"));
}

fn living(version: &str, kind: &str, name: &str, spec: Value) -> Value {
    json!({"apiVersion": version, "kind": kind, "metadata": {"name": name, "labels": {"of": "life"}}, "spec": spec})
}

pub(super) fn slices_live(https: &Https) {
    let object = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "life", "labels": {"of": "life"}}, "endpoints": [{"addresses": ["1.2.3.4"]}]});
    lives(https, ("discovery.k8s.io", "namespaces/conformance/endpointslices"), &object, &Value::Null, None);
}

pub(super) fn ingresses_live(https: &Https) {
    let backend = json!({"service": {"name": "life", "port": {"number": 80}}});
    let object = living("networking.k8s.io/v1", "Ingress", "life", json!({"defaultBackend": backend}));
    let place = "namespaces/conformance/ingresses";
    let change = json!({"ingressClassName": "life"});
    lives(https, (GROUP, place), &object, &change, None);
    let path = format!("/apis/networking.k8s.io/v1/{place}");
    made(https, &path, &object);
    let status = json!({"loadBalancer": {"ingress": [{"ip": "169.1.1.1"}]}});
    let changed = patched(https, &format!("{path}/life/status"), &json!({"status": status}));
    assert_eq!(changed["status"]["loadBalancer"]["ingress"][0]["ip"], "169.1.1.1");
    let changed = updated(https, &format!("{path}/life/status"), |object| {
        object["status"]["loadBalancer"]["ingress"] = json!([{"ip": "169.1.1.2"}]);
    });
    assert_eq!(changed["status"]["loadBalancer"]["ingress"][0]["ip"], "169.1.1.2");
    deleted(https, &format!("{path}/life"));
}

pub(super) fn ingress_classes_live(https: &Https) {
    let object =
        living("networking.k8s.io/v1", "IngressClass", "life", json!({"controller": "example.com/life"}));
    lives(https, (GROUP, "ingressclasses"), &object, &Value::Null, None);
}

pub(super) fn addresses_live(https: &Https) {
    let parent = json!({"resource": "services", "namespace": "conformance", "name": "life"});
    // Beyond the range of services: nobody else has it, and nobody repairs it.
    let object = living("networking.k8s.io/v1", "IPAddress", "192.168.1.5", json!({"parentRef": parent}));
    lives(https, (GROUP, "ipaddresses"), &object, &Value::Null, None);
}

pub(super) fn service_ranges_live(https: &Https) {
    let object = living("networking.k8s.io/v1", "ServiceCIDR", "life", json!({"cidrs": ["10.196.196.0/24"]}));
    let told = json!({"type": "Told", "status": "False", "reason": "Test", "message": "told",
        "lastTransitionTime": "2026-01-01T00:00:00Z"});
    lives(https, (GROUP, "servicecidrs"), &object, &Value::Null, Some(told));
}
