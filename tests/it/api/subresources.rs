//! Subresources, and what services are given, as clients see them.

use crate::support::cluster::{Cluster, SOON};
use crate::support::https::{Https, JSON, MERGE};
use crate::support::process::wait_for;
use serde_json::{Value, json};

const PODS: &str = "/api/v1/namespaces/default/pods";
const SERVICES: &str = "/api/v1/namespaces/default/services";
const ADDRESSES: &str = "/apis/networking.k8s.io/v1/ipaddresses";
const CIDRS: &str = "/apis/networking.k8s.io/v1/servicecidrs";

fn message(answer: &(u16, Value)) -> (u16, &str) {
    (answer.0, answer.1["message"].as_str().unwrap_or_default())
}

fn pod(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": "web"}}, "spec": {
        "containers": [{"name": "c", "image": "x:1", "resources": {"requests": {"cpu": "1"}}}]}})
}

#[test]
fn pods_are_bound_resized_and_evicted_as_in_kubernetes() {
    let cluster = Cluster::control_plane();
    let https = Https::new(&cluster);
    wait_for("the account default", SOON, || {
        (https.call("GET", "/api/v1/namespaces/default/serviceaccounts/default").0 == 200).then_some(())
    });
    assert_eq!(https.send("POST", PODS, JSON, &pod("p")).0, 201);
    binding(&https);
    resize(&https);
    eviction(&https);
    tokens(&https);
}

fn binding(https: &Https) {
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n", "labels": {"topology.kubernetes.io/zone": "z"}},
        "status": {"allocatable": {"cpu": "2", "memory": "1Gi"}}});
    assert_eq!(https.send("POST", "/api/v1/nodes", JSON, &node).0, 201);
    let path = format!("{PODS}/p/binding");
    let bind = |meta: &Value| {
        let mut binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n"}});
        ::api::patch::merge(&mut binding["metadata"], meta).unwrap();
        https.send("POST", &path, JSON, &binding)
    };
    let stale = bind(&json!({"uid": "other"}));
    assert_eq!(stale.0, 409, "{stale:?}");
    assert!(message(&stale).1.contains("Precondition failed: UID in precondition: other"), "{stale:?}");
    assert_eq!(bind(&json!({"annotations": {"by": "test"}})).0, 201);
    let again = bind(&json!({}));
    assert_eq!(
        message(&again),
        (409, "Operation cannot be fulfilled on pods/binding \"p\": pod p is already assigned to node \"n\"")
    );
    let (_, bound) = https.call("GET", &format!("{PODS}/p"));
    assert_eq!(bound["metadata"]["annotations"]["by"], "test");
    assert_eq!(bound["metadata"]["labels"]["topology.kubernetes.io/zone"], "z");
}

fn resize(https: &Https) {
    let path = format!("{PODS}/p/resize");
    let to = |cpu: &str| {
        let patch = json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}});
        https.send("PATCH", &path, "application/strategic-merge-patch+json", &patch)
    };
    let (code, made) = to("1500m");
    assert_eq!(
        (code, &made["spec"]["containers"][0]["resources"]["requests"]["cpu"]),
        (200, &json!("1500m")),
        "{made}"
    );
    assert_eq!(made["metadata"]["generation"], 2);
    let refused = to("3");
    assert_eq!(
        message(&refused),
        (
            403,
            "pods \"p\" is forbidden: node didn't have enough allocatable resources: cpu, requested: 3000, allocatable: 2000"
        )
    );
    let image = json!({"spec": {"containers": [{"name": "c", "image": "y:1"}]}});
    let (_, same) = https.send("PATCH", &path, "application/strategic-merge-patch+json", &image);
    assert_eq!(same["spec"]["containers"][0]["image"], "x:1", "{same}");
    let added = json!({"spec": {"ephemeralContainers": [{"name": "debug", "image": "z:1"}]}});
    let (code, _) = https.send("PATCH", &format!("{PODS}/p/ephemeralcontainers"), MERGE, &added);
    assert_eq!(code, 200);
}

fn eviction(https: &Https) {
    let budgets = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
    let budget = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "b"},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}}});
    assert_eq!(https.send("POST", budgets, JSON, &budget).0, 201);
    let running =
        json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
    assert_eq!(https.send("PATCH", &format!("{PODS}/p/status"), MERGE, &running).0, 200);
    let evict = |name: &str, query: &str| {
        let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}});
        https.send("POST", &format!("{PODS}/p/eviction{query}"), JSON, &eviction)
    };
    assert_eq!(message(&evict("q", "")), (400, "name in URL does not match name in Eviction object"));
    let allows = |count: i32| {
        wait_for("a budget that has counted", SOON, || {
            let (_, told) = https.call("GET", &format!("{budgets}/b"));
            let observed = told["status"]["observedGeneration"] == told["metadata"]["generation"];
            (observed
                && told["status"]["currentHealthy"] == 1
                && told["status"]["disruptionsAllowed"] == count)
                .then_some(())
        });
    };
    allows(0);
    let refused = evict("p", "");
    assert_eq!(message(&refused), (429, "Cannot evict pod as it would violate the pod's disruption budget."));
    assert_eq!(
        refused.1["details"]["causes"][0],
        json!({"reason": "DisruptionBudget", "message": "The disruption budget b needs 1 healthy pods and has 1 currently"})
    );
    let less = json!({"spec": {"minAvailable": 0}});
    assert_eq!(https.send("PATCH", &format!("{budgets}/b"), MERGE, &less).0, 200);
    allows(1);
    assert_eq!(evict("p", "?dryRun=All").0, 201);
    let (_, told) = https.call("GET", &format!("{budgets}/b"));
    assert_eq!(told["status"]["disruptionsAllowed"], 1, "{told}");
    let (code, done) = evict("p", "");
    assert_eq!((code, &done["status"]), (201, &json!("Success")), "{done}");
    let (_, told) = https.call("GET", &format!("{budgets}/b"));
    assert_eq!(told["status"]["disruptionsAllowed"], 0, "{told}");
    let (_, going) = https.call("GET", &format!("{PODS}/p"));
    let why = going["status"]["conditions"]
        .as_array()
        .unwrap()
        .iter()
        .find(|one| one["type"] == "DisruptionTarget");
    assert_eq!(why.unwrap()["reason"], "EvictionByEvictionAPI");
    assert!(!going["metadata"]["deletionTimestamp"].is_null());
}

fn tokens(https: &Https) {
    let path = "/api/v1/namespaces/default/serviceaccounts/default/token";
    let ask = |spec: &Value| {
        https.send(
            "POST",
            path,
            JSON,
            &json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}),
        )
    };
    let short = ask(&json!({"expirationSeconds": 60}));
    assert_eq!(
        message(&short),
        (
            422,
            "TokenRequest.authentication.k8s.io \"\" is invalid: spec.expirationSeconds: Invalid value: 60: may not specify a duration less than 10 minutes"
        )
    );
    let wrong = ask(&json!({"boundObjectRef": {"apiVersion": "v1", "kind": "ConfigMap", "name": "a"}}));
    assert_eq!(message(&wrong), (400, "cannot bind token to object of type /v1, Kind=ConfigMap"));
    let (code, made) = ask(&json!({"boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": "p"}}));
    assert_eq!(code, 201, "{made}");
    assert!(made["status"]["token"].as_str().unwrap().split('.').count() == 3);
}

fn service(name: &str, spec: &Value) -> Value {
    let mut service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": {"ports": [{"port": 80}]}});
    ::api::patch::merge(&mut service["spec"], spec).unwrap();
    service
}

#[test]
fn services_have_their_addresses_and_ports_and_give_them_back() {
    let mut cluster = Cluster::control_plane();
    let https = Https::new(&cluster);
    addresses(&https);
    ports(&https);
    let (_, kept) = https.send("POST", SERVICES, JSON, &service("kept", &json!({"clusterIP": "10.43.0.77"})));
    assert_eq!(kept["spec"]["clusterIP"], "10.43.0.77", "{kept}");
    cluster.stop("KILL");
    cluster.start();
    let https = Https::new(&cluster);
    assert_eq!(https.call("GET", &format!("{ADDRESSES}/10.43.0.77")).0, 200);
    let taken = https.send("POST", SERVICES, JSON, &service("other", &json!({"clusterIP": "10.43.0.77"})));
    assert_eq!(
        message(&taken),
        (
            422,
            "Service \"other\" is invalid: spec.clusterIPs: Invalid value: [\"10.43.0.77\"]: failed to allocate IP 10.43.0.77: provided IP is already allocated"
        )
    );
    assert_eq!(https.call("DELETE", &format!("{ADDRESSES}/10.43.0.77")).0, 200);
    wait_for("the repaired address", SOON, || {
        (https.call("GET", &format!("{ADDRESSES}/10.43.0.77")).0 == 200).then_some(())
    });
    let told = cluster.event("kept", "ClusterIPNotAllocated");
    assert_eq!(told, "Cluster IP [IPv4]: 10.43.0.77 is not allocated; repairing");
    ranges(&cluster, &https);
}

/// Ports that the range no longer has are told of, and what is free of the new range is given.
#[test]
fn a_range_of_ports_may_change() {
    let mut cluster = Cluster::control_plane();
    let https = Https::new(&cluster);
    let node_port = |name: &str, port: u16| {
        service(name, &json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": port}]}))
    };
    assert_eq!(https.send("POST", SERVICES, JSON, &node_port("old", 30080)).0, 201);
    assert_eq!(https.send("POST", SERVICES, JSON, &node_port("both", 31000)).0, 201);
    assert_eq!(cluster.stop("TERM"), 0);
    let config = cluster.sandbox.folder.join("config.yaml");
    std::fs::write(config, "service-node-port-range: 31000-31001\n").unwrap();
    cluster.start();
    let told = cluster.event("old", "PortOutOfRange");
    assert_eq!(told, "Port 30080 is not within the port range 31000-31001; please recreate service");
    let refused = https.send("POST", SERVICES, JSON, &node_port("new", 30081));
    let range = "The range of valid ports is 31000-31001";
    assert!(refused.0 == 422 && message(&refused).1.contains(range), "{refused:?}");
    assert_eq!(
        https.send("POST", SERVICES, JSON, &node_port("new", 0)).1["spec"]["ports"][0]["nodePort"],
        31001
    );
    assert!(cluster.events("both").is_empty());
}

fn addresses(https: &Https) {
    let (_, cidr) = https.call("GET", &format!("{CIDRS}/kubernetes"));
    assert_eq!(cidr["spec"]["cidrs"], json!(["10.43.0.0/16"]));
    let (_, own) = https.call("GET", &format!("{ADDRESSES}/10.43.0.1"));
    assert_eq!(
        own["spec"]["parentRef"],
        json!({"resource": "services", "namespace": "default", "name": "kubernetes"}),
        "{own}"
    );
    assert_eq!(
        own["metadata"]["labels"],
        json!({"ipaddress.kubernetes.io/ip-family": "IPv4", "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io"})
    );
    let (code, made) = https.send("POST", SERVICES, JSON, &service("a", &json!({})));
    assert_eq!(code, 201, "{made}");
    let ip = made["spec"]["clusterIP"].as_str().unwrap().to_owned();
    assert_eq!(https.call("GET", &format!("{ADDRESSES}/{ip}")).0, 200);
    let (code, _) = https.send(
        "POST",
        &format!("{SERVICES}?dryRun=All"),
        JSON,
        &service("b", &json!({"clusterIP": "10.43.0.99"})),
    );
    assert_eq!((code, https.call("GET", &format!("{ADDRESSES}/10.43.0.99")).0), (201, 404));
    let external = json!({"spec": {"type": "ExternalName", "externalName": "example.com", "clusterIP": null, "clusterIPs": null, "ports": null}});
    let (code, changed) = https.send("PATCH", &format!("{SERVICES}/a"), MERGE, &external);
    assert_eq!(code, 200, "{changed}");
    assert_eq!(
        https.call("GET", &format!("{ADDRESSES}/{ip}")).0,
        404,
        "a change of type gives the address back"
    );
    let (_, made) = https.send("POST", SERVICES, JSON, &service("c", &json!({})));
    let ip = made["spec"]["clusterIP"].as_str().unwrap().to_owned();
    assert_eq!(https.call("DELETE", &format!("{SERVICES}/c")).0, 200);
    assert_eq!(https.call("GET", &format!("{ADDRESSES}/{ip}")).0, 404, "a deletion gives it back");
}

fn ports(https: &Https) {
    let spec = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "ports": [{"port": 80, "nodePort": 30080}]});
    let (code, made) = https.send("POST", SERVICES, JSON, &service("balanced", &spec));
    assert_eq!(code, 201, "{made}");
    let health = made["spec"]["healthCheckNodePort"].as_i64().unwrap();
    assert!((30086..=32767).contains(&health), "{health} is of the upper band");
    let node_port = |port: i64| {
        service("second", &json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": port}]}))
    };
    let taken = https.send("POST", SERVICES, JSON, &node_port(health));
    assert_eq!(
        message(&taken),
        (422, format!("Service \"second\" is invalid: spec.ports[0].nodePort: Invalid value: {health}: provided port is already allocated").as_str())
    );
    let plain = json!({"spec": {"type": "ClusterIP"}});
    assert_eq!(https.send("PATCH", &format!("{SERVICES}/balanced"), MERGE, &plain).0, 200);
    assert_eq!(
        https.send("POST", SERVICES, JSON, &node_port(health)).0,
        201,
        "a change of type gives ports back"
    );
}

/// Another range widens the pool while running, and stays while it is needed.
fn ranges(cluster: &Cluster, https: &Https) {
    let more = json!({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": "more"}, "spec": {"cidrs": ["10.99.0.0/24"]}});
    let outside = https.send("POST", SERVICES, JSON, &service("far", &json!({"clusterIP": "10.99.0.9"})));
    assert_eq!(outside.0, 422, "{outside:?}");
    assert_eq!(https.send("POST", CIDRS, JSON, &more).0, 201);
    let ready = |status: &str, reason: &str| {
        let (_, cidr) = https.call("GET", &format!("{CIDRS}/more"));
        let condition = &cidr["status"]["conditions"][0];
        (condition["type"] == "Ready" && condition["status"] == status && condition["reason"] == reason)
            .then_some(cidr)
    };
    let cidr = wait_for("the range that is ready", SOON, || ready("True", ""));
    assert_eq!(cidr["metadata"]["finalizers"], json!(["networking.k8s.io/service-cidr-finalizer"]));
    assert_eq!(
        https.send("POST", SERVICES, JSON, &service("far", &json!({"clusterIP": "10.99.0.9"}))).0,
        201
    );
    assert_eq!(https.call("DELETE", &format!("{CIDRS}/more")).0, 200);
    wait_for("the range that is held", SOON, || ready("False", "Terminating"));
    assert_eq!(https.call("DELETE", &format!("{SERVICES}/far")).0, 200);
    let gone = || {
        wait_for("the range's end", SOON, || {
            (https.call("GET", &format!("{CIDRS}/more")).0 == 404).then_some(())
        });
    };
    gone();
    // Who takes it away in spite of that leaves services outside, which are told.
    assert_eq!(https.send("POST", CIDRS, JSON, &more).0, 201);
    wait_for("the range that is ready again", SOON, || ready("True", ""));
    let lost = service("lost", &json!({"clusterIP": "10.99.0.9"}));
    assert_eq!(https.send("POST", SERVICES, JSON, &lost).0, 201);
    assert_eq!(https.call("DELETE", &format!("{CIDRS}/more")).0, 200);
    let forced = json!({"metadata": {"finalizers": null}});
    assert_eq!(https.send("PATCH", &format!("{CIDRS}/more"), MERGE, &forced).0, 200);
    gone();
    let mut looks = 0;
    wait_for("the warning", SOON, || {
        looks += 1;
        let touched = json!({"metadata": {"labels": {"looked": looks.to_string()}}});
        https.send("PATCH", &format!("{SERVICES}/lost"), MERGE, &touched);
        let told = cluster.events("lost");
        told.into_iter().find(|(reason, _)| reason == "ClusterIPOutOfRange")
    });
}
