use super::*;
use serde_json::{Value, json};
use std::sync::Arc;

fn holding(name: &str, metadata: Value, spec: Value) -> Holding {
    let mut all = json!({"name": name, "namespace": "n", "uid": name});
    all.as_object_mut().unwrap().extend(metadata.as_object().unwrap().clone());
    Holding::of(&Arc::new(serde_json::from_value(json!({"metadata": all, "spec": spec})).unwrap()))
}

fn simple(name: &str, spec: Value) -> Holding {
    holding(name, json!({}), spec)
}

fn requests(cpu: &str, memory: &str) -> Value {
    json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu, "memory": memory}}}]})
}

fn node() -> Node {
    serde_json::from_value(json!({
        "metadata": {"name": "node-1", "labels": {"disk": "ssd"}},
        "spec": {"taints": [{"key": "drain", "effect": "NoExecute"}, {"key": "new", "effect": "NoSchedule"}]},
    }))
    .unwrap()
}

fn tolerant(spec: Value) -> Value {
    let mut spec = spec;
    spec["tolerations"] = json!([{"key": "drain", "operator": "Exists"}]);
    spec
}

/// What becomes of a pod beside the others: those that have to go, or reason and message.
fn decided(wanted: &Holding, others: &[Holding]) -> String {
    let node = node();
    let allocatable = [("cpu", "2"), ("memory", "1Gi"), ("pods", "3"), ("example.com/gpu", "1")];
    let allocatable: Amounts =
        allocatable.map(|(name, amount)| (name.to_owned(), api::quantity::parse(amount).unwrap())).into();
    let sysctls = ["net.core.*".to_owned()];
    let abilities = Abilities { unsafe_sysctls: &sysctls, ..Default::default() };
    let view = View { node: &node, allocatable: &allocatable, others, abilities };
    match admit(&view, wanted) {
        Ok(victims) => format!("taken instead of {victims:?}"),
        Err(Rejection { reason, message }) => format!("{reason}: {message}"),
    }
}

const NONE: &str = "taken instead of []";

#[track_caller]
fn check(spec: Value, others: &[Value], said: &str) {
    let others: Vec<Holding> =
        others.iter().enumerate().map(|(i, spec)| simple(&format!("o{i}"), spec.clone())).collect();
    assert_eq!(decided(&simple("p", tolerant(spec.clone())), &others), said, "{spec}");
}

#[test]
fn what_the_node_lacks_is_said_in_the_schedulers_words() {
    let gpus = json!({"containers": [{"name": "c", "resources": {"requests":
        {"example.com/gpu": "2", "example.com/unknown": "7"}}}]});
    let lack = |what: &str| format!("OutOf{what}");
    let of = |resource: &str, rest: &str| {
        lack(resource) + &format!(": Node didn't have enough resource: {resource}, {rest}")
    };
    check(requests("2", "1Gi"), &[], NONE);
    let said = of("cpu", "requested: 1500, used: 1000, capacity: 2000");
    check(requests("1500m", "1Gi"), &[requests("1", "1")], &said);
    let said = of("memory", "requested: 1073741824, used: 1048576, capacity: 1073741824");
    check(requests("1", "1Gi"), &[requests("1", "1Mi")], &said);
    let small = requests("0", "0");
    let said = of("pods", "requested: 1, used: 3, capacity: 3");
    check(json!({"containers": []}), &[small.clone(), small.clone(), small], &said);
    check(gpus, &[], &of("example.com/gpu", "requested: 2, used: 0, capacity: 1"));
}

#[test]
fn what_a_claim_serves_is_not_asked_of_the_node() {
    let class = "deviceclass.resource.kubernetes.io/gpu";
    let one = |name: &str, requests: Value| json!({"name": name, "resources": {"requests": requests}});
    let containers =
        [one("a", json!({class: "2", "example.com/gpu": "2"})), one("b", json!({"example.com/gpu": "1"}))];
    let mapped = |container: &str, resource: &str| json!({"containerName": container, "resourceName": resource, "requestName": "r"});
    let of = |mappings: Value| {
        let pod = json!({
            "metadata": {"name": "p", "namespace": "n", "uid": "p"},
            "spec": tolerant(json!({"containers": containers})),
            "status": {"extendedResourceClaimStatus": {"resourceClaimName": "c", "requestMappings": mappings}},
        });
        Holding::of(&Arc::new(serde_json::from_value(pod).unwrap()))
    };
    let served = of(json!([mapped("a", class), mapped("a", "example.com/gpu")]));
    assert_eq!(decided(&served, &[]), NONE);
    let said = decided(&of(json!([mapped("b", class), mapped("b", "example.com/gpu")])), &[]);
    assert!(said.starts_with(&format!("OutOf{class}: ")), "{said}");
}

#[test]
fn terms_ports_and_systems_are_looked_at() {
    let port = |ip: &str| {
        json!({"containers": [{"name": "c", "ports": [
        {"containerPort": 80, "hostPort": 8080, "hostIP": ip}]}]})
    };
    let predicate = |name: &str, why: &str| format!("{name}: Predicate {name} failed: {why}");
    let said = predicate("TaintToleration", "node(s) had taints that the pod didn't tolerate");
    assert_eq!(decided(&simple("p", json!({"containers": []})), &[]), said);
    let said = predicate("NodeAffinity", "node(s) didn't match Pod's node affinity/selector");
    check(json!({"containers": [], "nodeSelector": {"disk": "hdd"}}), &[], &said);
    let said = predicate("NodeName", "node(s) didn't match the requested node name");
    check(json!({"containers": [], "nodeName": "node-2"}), &[], &said);
    let said = predicate("NodePorts", "node(s) didn't have free ports for the requested pod ports");
    check(port("10.0.0.1"), &[port("")], &said);
    check(port("10.0.0.1"), &[port("10.0.0.2")], NONE);
    let windows = json!({"containers": [], "os": {"name": "windows"}});
    check(windows, &[], "PodOSNotSupported: Failed to admit pod as the OS field doesn't match node OS");
}

#[test]
fn what_the_machine_cannot_do_is_refused() {
    let with = |context: Value| json!({"containers": [], "securityContext": context});
    let said =
        "SupplementalGroupsPolicyNotSupported: SupplementalGroupsPolicy=Strict is not supported in this node";
    check(with(json!({"supplementalGroupsPolicy": "Strict"})), &[], said);
    let said = "AppArmor: Cannot enforce AppArmor: AppArmor is not enabled on the host";
    check(with(json!({"appArmorProfile": {"type": "RuntimeDefault"}})), &[], said);
    let sysctl = |name: &str| with(json!({"sysctls": [{"name": name, "value": "1"}]}));
    check(sysctl("kernel.shm_rmid_forced"), &[], NONE);
    check(sysctl("net/core/somaxconn"), &[], NONE);
    let mut shared = sysctl("net.core.somaxconn");
    shared["hostNetwork"] = true.into();
    let said = "SysctlForbidden: forbidden sysctl: \"net.core.somaxconn\" not allowed with host Net enabled";
    check(shared, &[], said);
    check(
        sysctl("kernel.msgmax"),
        &[],
        "SysctlForbidden: forbidden sysctl: \"kernel.msgmax\" not allowlisted",
    );
}

#[test]
fn a_critical_pod_displaces_as_little_as_it_needs() {
    let with = |name: &str, priority: i32, spec: Value| {
        let mut spec = tolerant(spec);
        spec["priority"] = priority.into();
        simple(name, spec)
    };
    let limited = json!({"containers": [{"name": "c", "resources": {
        "requests": {"cpu": "1", "memory": "1Mi"}, "limits": {"cpu": "1", "memory": "1Mi"}}}]});
    let others = [
        with("small", 0, requests("400m", "1Mi")),
        with("large", 0, requests("600m", "1Mi")),
        with("guaranteed", 0, limited),
    ];
    let critical = |cpu: &str| with("critical", CRITICAL, requests(cpu, "1Mi"));
    assert_eq!(decided(&critical("300m"), &others), "taken instead of [\"small\"]");
    assert_eq!(decided(&critical("500m"), &others), "taken instead of [\"large\"]");
    assert_eq!(decided(&critical("1500m"), &others), "taken instead of [\"large\", \"guaranteed\"]");
    let said = decided(&with("ordinary", 5, requests("1", "1Mi")), &others);
    assert!(said.starts_with("OutOfpods: "), "{said}");
    let others = [with("other", CRITICAL, requests("2", "1Mi"))];
    let said = decided(&critical("1"), &others);
    assert!(
        said.starts_with("UnexpectedAdmissionError: Unexpected error while attempting to recover"),
        "{said}"
    );
    // What no room helps against is said instead.
    let picky = json!({"containers": [], "nodeSelector": {"disk": "hdd"}, "priority": CRITICAL});
    assert!(decided(&simple("p", tolerant(picky)), &[]).starts_with("NodeAffinity"));
}
