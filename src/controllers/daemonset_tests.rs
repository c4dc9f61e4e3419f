//! Golden plans of DaemonSets: on which nodes pods are made and removed.

use crate::daemon_pods::{self, Demand, target};
use crate::daemonset::{View, plan};
use api::Object;
use api::apps::DaemonSet;
use api::core::Node;
use api::slim::Pod;
use jiff::Timestamp;
use serde_json::{Value, json};
use std::sync::Arc;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + seconds).unwrap()
}

fn set(spec: Value) -> DaemonSet {
    let mut whole = json!({
        "selector": {"matchLabels": {"app": "agent"}},
        "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0}},
        "template": {"metadata": {"labels": {"app": "agent"}}, "spec": {"containers": [{"name": "c"}]}}
    });
    api::patch::merge(&mut whole, &spec).unwrap();
    let meta = json!({"name": "agent", "namespace": "ns", "uid": "set", "generation": 3,
        "annotations": {"deprecated.daemonset.template.generation": "2"}});
    serde_json::from_value(json!({"metadata": meta, "spec": whole})).unwrap()
}

/// `name label taint…`, a taint such as `key:NoSchedule`.
fn node(text: &str) -> Arc<Node> {
    let [name, label, taints @ ..] = &text.split(' ').collect::<Vec<_>>()[..] else { panic!("{text}") };
    let taint = |text: &&str| {
        let (key, effect) = text.split_once(':').unwrap();
        json!({"key": key, "effect": effect})
    };
    let taints: Vec<_> = taints.iter().map(taint).collect();
    let meta = json!({"name": name, "labels": {"role": label}});
    Arc::new(serde_json::from_value(json!({"metadata": meta, "spec": {"taints": taints}})).unwrap())
}

/// `name node phase ready-since(or -) hash`, and `going` for one that is on its way out, `unbound` for one that
/// the scheduler did not see yet.
fn pod(text: &str) -> Arc<Pod> {
    let [name, node, phase, ready, hash, more @ ..] = &text.split(' ').collect::<Vec<_>>()[..] else {
        panic!("{text}")
    };
    let ready: Option<i64> = ready.parse().ok();
    let made = daemon_pods::new(&set(json!({})), hash, node);
    let mut pod = serde_json::to_value(&made).unwrap();
    pod["metadata"]["name"] = json!(name);
    pod["metadata"]["uid"] = json!(name);
    pod["metadata"]["creationTimestamp"] = json!(at(0).to_string());
    pod["metadata"]["labels"]["pod-template-generation"] = json!("1");
    if more.contains(&"going") {
        pod["metadata"]["deletionTimestamp"] = json!(at(0).to_string());
    }
    if !more.contains(&"unbound") {
        pod["spec"]["nodeName"] = json!(node);
    }
    pod["status"] = json!({"phase": phase, "conditions": [{"type": "Ready",
        "status": if ready.is_some() { "True" } else { "False" },
        "lastTransitionTime": at(ready.unwrap_or(0)).to_string()}]});
    Arc::new(Pod::from_json(pod.to_string().as_bytes()).unwrap())
}

fn planned(spec: Value, nodes: &[&str], pods: &[&str]) -> String {
    let set = set(spec);
    let nodes: Vec<_> = nodes.iter().map(|text| node(text)).collect();
    let pods: Vec<_> = pods.iter().map(|text| pod(text)).collect();
    let plan = plan(&View { set: &set, hash: "new", nodes: &nodes, pods: &pods, now: at(100) });
    let names =
        |pods: &[Arc<Pod>]| pods.iter().map(|pod| pod.name().to_owned()).collect::<Vec<_>>().join(" ");
    let node_of = |pod: &api::core::Pod| {
        let pod = Pod::from_json(&serde_json::to_vec(pod).unwrap()).unwrap();
        target(&pod).unwrap().to_owned()
    };
    let create = plan.create.iter().map(node_of).collect::<Vec<_>>().join(" ");
    let parts = [
        ("create", create),
        ("delete", names(&plan.delete)),
        ("failed", names(&plan.failed)),
        ("succeeded", names(&plan.succeeded)),
    ];
    let parts: Vec<_> = parts
        .iter()
        .filter(|(_, what)| !what.is_empty())
        .map(|(verb, what)| format!("{verb} {what}"))
        .collect();
    let status = plan.status;
    let counts = [
        status.desired_number_scheduled,
        status.current_number_scheduled,
        status.number_misscheduled,
        status.number_ready,
        status.updated_number_scheduled.unwrap_or(0),
        status.number_available.unwrap_or(0),
        status.number_unavailable.unwrap_or(0),
    ];
    let again = plan.look_again_s.map_or(String::new(), |seconds| format!(" again in {seconds} s"));
    format!("{} | {counts:?}{again}", parts.join(", "))
}

const THREE: [&str; 3] = ["a x", "b x", "c x"];

#[test]
fn each_node_gets_a_pod_of_its_own() {
    let none = || json!({});
    assert_eq!(planned(none(), &THREE, &[]), "create a b c | [3, 0, 0, 0, 0, 0, 3]");
    let pods = ["p a Running 1 new", "q b Pending - new unbound"];
    assert_eq!(planned(none(), &THREE, &pods), "create c | [3, 2, 0, 1, 2, 1, 2]");
    // The oldest stays, one that is going keeps its place, and one for a node that is gone is in nobody's hands.
    let pods = [
        "p a Running 1 new",
        "q a Running 1 new",
        "r b Running - new going",
        "s d Pending - new unbound",
        "t e Running 1 new",
    ];
    assert_eq!(planned(none(), &THREE[..2], &pods), "delete q s | [2, 2, 0, 1, 2, 1, 1]");
    let pods = ["p a Failed - new", "q b Succeeded - new", "r c Failed - new going"];
    assert_eq!(planned(none(), &THREE, &pods), "create c, failed p, succeeded q | [3, 2, 0, 0, 2, 0, 3]");
    let patient = json!({"minReadySeconds": 30});
    assert_eq!(planned(patient, &["a x"], &["p a Running 90 new"]), " | [1, 1, 0, 1, 1, 0, 1] again in 20 s");
}

#[test]
fn nodes_are_chosen_by_labels_and_taints() {
    let chosen = json!({"template": {"spec": {"nodeSelector": {"role": "x"}}}});
    let pods = ["p b Running 1 new"];
    assert_eq!(planned(chosen, &["a x", "b y"], &pods), "create a, delete p | [1, 0, 1, 0, 0, 0, 1]");
    let term = json!({"matchExpressions": [{"key": "role", "operator": "NotIn", "values": ["y"]}]});
    let affinity = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}});
    let chosen = json!({"template": {"spec": {"affinity": affinity}}});
    assert_eq!(planned(chosen, &["a x", "b y"], &[]), "create a | [1, 0, 0, 0, 0, 0, 1]");
    let tainted = [
        "a x own:NoSchedule",
        "b x own:NoExecute",
        "c x node.kubernetes.io/unschedulable:NoSchedule",
        "d x own:PreferNoSchedule",
        "e x node.kubernetes.io/network-unavailable:NoSchedule",
    ];
    let there = ["p a Running 1 new", "q b Running 1 new"];
    assert_eq!(planned(json!({}), &tainted, &there), "create c d, delete q | [2, 0, 2, 0, 0, 0, 2]");
    let on_host = json!({"template": {"spec": {"hostNetwork": true, "tolerations": [{"key": "own", "operator": "Exists"}]}}});
    assert_eq!(planned(on_host, &tainted, &[]), "create a b c d e | [5, 0, 0, 0, 0, 0, 5]");
    let named = json!({"template": {"spec": {"nodeName": "b"}}});
    assert_eq!(planned(named, &THREE, &[]), "create b | [1, 0, 0, 0, 0, 0, 1]");
}

#[test]
fn a_pod_is_bound_to_its_node_and_lives_through_its_trouble() {
    let term = json!({"matchExpressions": [{"key": "role", "operator": "Exists"}]});
    let own = json!([{"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5}]);
    let set = set(json!({"template": {"spec": {"tolerations": own, "affinity": {"nodeAffinity":
        {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}}}}}));
    let pod = serde_json::to_value(daemon_pods::new(&set, "h", "a")).unwrap();
    assert_eq!(
        pod["metadata"]["labels"],
        json!({"app": "agent", "controller-revision-hash": "h", "pod-template-generation": "2"})
    );
    assert_eq!(pod["metadata"]["generateName"], "agent-");
    let required = &pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
    let field = json!({"key": "metadata.name", "operator": "In", "values": ["a"]});
    assert_eq!(*required, json!({"nodeSelectorTerms": [{"matchFields": [field]}]}));
    let tolerations = pod["spec"]["tolerations"].as_array().unwrap();
    let first = json!({"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute"});
    assert_eq!((tolerations.len(), &tolerations[0]), (6, &first));
    assert_eq!(Demand::of(&set).of_node(&node("a x")), daemon_pods::Fit::Runs);
}

#[test]
fn an_update_leaves_enough_available() {
    let most = |most: Value| json!({"updateStrategy": {"rollingUpdate": {"maxUnavailable": most}}});
    let old = ["p a Running 1 old", "q b Running 1 old", "r c Running 1 old"];
    let begins =
        |spec: Value, pods: &[&str]| planned(spec, &THREE, pods).split(" |").next().unwrap().to_owned();
    assert_eq!(begins(most(json!(1)), &old), "delete p");
    assert_eq!(begins(most(json!(2)), &old), "delete p q");
    assert_eq!(begins(most(json!("34%")), &old), "delete p q");
    assert_eq!(begins(most(json!(1)), &["p a Running - new", old[1], old[2]]), "");
    assert_eq!(begins(most(json!(1)), &["p a Running 9 new", old[1], old[2]]), "delete q");
    // What is not available is replaced at once.
    assert_eq!(begins(most(json!(1)), &["p a Running - old", "q b Running - old", old[2]]), "delete p q");
    assert_eq!(begins(most(json!(1)), &["p a Running 1 old going", old[1], old[2]]), "");
    assert_eq!(begins(json!({"updateStrategy": {"type": "OnDelete", "rollingUpdate": null}}), &old), "");
    assert_eq!(planned(most(json!(1)), &THREE, &old), "delete p | [3, 3, 0, 3, 0, 3, 0]");
}

#[test]
fn a_surge_has_the_new_pod_first() {
    let surge =
        |most: i32| json!({"updateStrategy": {"rollingUpdate": {"maxUnavailable": 0, "maxSurge": most}}});
    let old = ["p a Running 1 old", "q b Running 1 old", "r c Running 1 old"];
    let begins = |most: i32, nodes: &[&str], pods: &[&str]| {
        planned(surge(most), nodes, pods).split(" |").next().unwrap().to_owned()
    };
    assert_eq!(begins(1, &THREE, &old), "create a");
    assert_eq!(begins(2, &THREE, &old), "create a b");
    let waiting = [old[0], "s a Running - new", old[1], old[2]];
    assert_eq!(begins(1, &THREE, &waiting), "");
    assert_eq!(begins(2, &THREE, &waiting), "create b");
    assert_eq!(begins(1, &THREE, &[old[0], "s a Running 9 new", old[1], old[2]]), "delete p");
    assert_eq!(begins(1, &THREE, &["p a Running - old", "s a Running - new", old[1], old[2]]), "delete p");
    assert_eq!(begins(1, &THREE, &["p a Running - old", old[1], old[2]]), "create a b");
    assert_eq!(begins(1, &THREE, &["p a Running 9 new", "s a Running 9 new", old[1], old[2]]), "delete s");
}
