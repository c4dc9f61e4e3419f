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

#[test]
fn what_speaks_against_a_pod_is_said_in_the_schedulers_words() {
    let none = "taken instead of []";
    let port = |ip: &str| {
        json!({"containers": [{"name": "c", "ports": [
        {"containerPort": 80, "hostPort": 8080, "hostIP": ip}]}]})
    };
    let gpus = json!({"containers": [{"name": "c", "resources": {"requests":
        {"example.com/gpu": "2", "example.com/unknown": "7"}}}]});
    let sysctl = |name: &str, more: Value| {
        let mut spec =
            json!({"containers": [], "securityContext": {"sysctls": [{"name": name, "value": "1"}]}});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        spec
    };
    for (spec, others, said) in [
        (
            json!({"containers": []}),
            vec![],
            "TaintToleration: Predicate TaintToleration failed: node(s) had taints that the pod didn't tolerate",
        ),
        (requests("2", "1Gi"), vec![], none),
        (
            requests("1500m", "1Gi"),
            vec![requests("1", "1")],
            "OutOfcpu: Node didn't have enough resource: cpu, requested: 1500, used: 1000, capacity: 2000",
        ),
        (
            requests("1", "1Gi"),
            vec![requests("1", "1Mi")],
            "OutOfmemory: Node didn't have enough resource: memory, requested: 1073741824, used: 1048576, capacity: 1073741824",
        ),
        (
            json!({"containers": []}),
            vec![requests("0", "0"), requests("0", "0"), requests("0", "0")],
            "OutOfpods: Node didn't have enough resource: pods, requested: 1, used: 3, capacity: 3",
        ),
        (
            gpus,
            vec![],
            "OutOfexample.com/gpu: Node didn't have enough resource: example.com/gpu, requested: 2, used: 0, capacity: 1",
        ),
        (
            json!({"containers": [], "nodeSelector": {"disk": "hdd"}}),
            vec![],
            "NodeAffinity: Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector",
        ),
        (
            json!({"containers": [], "nodeName": "node-2"}),
            vec![],
            "NodeName: Predicate NodeName failed: node(s) didn't match the requested node name",
        ),
        (
            port("10.0.0.1"),
            vec![port("")],
            "NodePorts: Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports",
        ),
        (port("10.0.0.1"), vec![port("10.0.0.2")], none),
        (
            json!({"containers": [], "os": {"name": "windows"}}),
            vec![],
            "PodOSNotSupported: Failed to admit pod as the OS field doesn't match node OS",
        ),
        (
            json!({"containers": [], "securityContext": {"supplementalGroupsPolicy": "Strict"}}),
            vec![],
            "SupplementalGroupsPolicyNotSupported: SupplementalGroupsPolicy=Strict is not supported in this node",
        ),
        (
            json!({"containers": [], "securityContext": {"appArmorProfile": {"type": "RuntimeDefault"}}}),
            vec![],
            "AppArmor: Cannot enforce AppArmor: AppArmor is not enabled on the host",
        ),
        (sysctl("kernel.shm_rmid_forced", json!({})), vec![], none),
        (sysctl("net/core/somaxconn", json!({})), vec![], none),
        (
            sysctl("net.core.somaxconn", json!({"hostNetwork": true})),
            vec![],
            "SysctlForbidden: forbidden sysctl: \"net.core.somaxconn\" not allowed with host Net enabled",
        ),
        (
            sysctl("kernel.msgmax", json!({})),
            vec![],
            "SysctlForbidden: forbidden sysctl: \"kernel.msgmax\" not allowlisted",
        ),
    ] {
        let lenient = if said.starts_with("TaintToleration") { spec.clone() } else { tolerant(spec.clone()) };
        let others: Vec<Holding> =
            others.into_iter().enumerate().map(|(i, spec)| simple(&format!("o{i}"), spec)).collect();
        assert_eq!(decided(&simple("p", lenient), &others), said, "{spec}");
    }
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
