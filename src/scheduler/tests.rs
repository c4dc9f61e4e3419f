//! Decisions, read as text: a cluster in a few lines, a pod, and what becomes of it.

use crate::cluster::Cluster;
use crate::filters::Happening;
use crate::plan;
use crate::preemption;
use crate::queue::Queue;
use crate::wanted::Wanted;
use api::Object;
use api::core::Node;
use api::slim::Pod;
use base::clock;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

fn node(name: &str, spec: Value) -> Arc<Node> {
    let labels =
        json!({"kubernetes.io/hostname": name, "zone": spec.get("zone").cloned().unwrap_or(json!("z1"))});
    let cpu = spec.get("cpu").cloned().unwrap_or(json!("2"));
    let allocatable = json!({"cpu": cpu, "memory": "4Gi", "pods": "10", "example.com/gpu": "1"});
    let node = json!({"metadata": {"name": name, "labels": labels}, "spec": spec, "status": {"allocatable": allocatable}});
    Arc::new(serde_json::from_value(node).unwrap())
}

fn wanted(name: &str, cpu: &str, spec: Value) -> Arc<Wanted> {
    let container = json!({"name": "c", "resources": {"requests": {"cpu": cpu}}, "ports": spec.get("ports")});
    let mut whole = json!({"containers": [container]});
    for (key, value) in spec.as_object().unwrap() {
        whole[key] = value.clone();
    }
    let pod = json!({"metadata": {"name": name, "namespace": "ns", "uid": name, "labels": {"app": "web"}}, "spec": whole});
    Arc::new(Wanted::new(Arc::new(serde_json::from_value::<Pod>(pod).unwrap())))
}

fn cluster(nodes: &[Arc<Node>], pods: &[(&str, Arc<Wanted>)]) -> Cluster {
    let mut cluster = Cluster::default();
    nodes.iter().for_each(|node| cluster.put_node(node.clone()));
    for (node, wanted) in pods {
        let mut pod = Pod::clone(&wanted.pod);
        pod.spec.as_mut().unwrap().node_name = Some((*node).into());
        cluster.put_pod(node, Arc::new(Wanted::new(Arc::new(pod))));
    }
    cluster
}

/// The node, or the message a person reads.
fn decide(cluster: &Cluster, wanted: &Wanted) -> String {
    match plan::plan(wanted, cluster, 0) {
        Ok(node) => node,
        Err(unfit) if unfit.nodes == 0 => unfit.message,
        Err(unfit) => match preemption::plan(wanted, cluster, &unfit) {
            Ok(preemption) => {
                let victims: Vec<_> = preemption.victims.iter().map(|pod| pod.name()).collect();
                format!("{} after {victims:?} left", preemption.node)
            }
            Err(why) => format!("{} {why}", unfit.message),
        },
    }
}

#[test]
fn an_unfit_pod_is_told_why_in_kubernetes_words() {
    let cordoned = json!({"unschedulable": true});
    let tainted = json!({"taints": [{"key": "k", "value": "v", "effect": "NoSchedule"}]});
    let nodes = [
        node("a", json!({"cpu": "1"})),
        node("b", json!({"cpu": "1"})),
        node("c", cordoned),
        node("d", tainted),
    ];
    let cluster = cluster(&nodes, &[("a", wanted("busy", "800m", json!({})))]);
    assert_eq!(
        decide(&cluster, &wanted("p", "1500m", json!({}))),
        "0/4 nodes are available: 1 node(s) had untolerated taint(s), 1 node(s) were unschedulable, 2 Insufficient cpu. \
         preemption: 0/4 nodes are available: 4 Preemption is not helpful for scheduling."
    );
    assert_eq!(decide(&cluster, &wanted("p", "900m", json!({}))), "b");
    assert_eq!(
        decide(&cluster, &wanted("p", "900m", json!({"nodeSelector": {"kubernetes.io/hostname": "a"}}))),
        "0/4 nodes are available: 1 Insufficient cpu, 1 node(s) didn't match Pod's node affinity/selector, 1 node(s) \
         had untolerated taint(s), 1 node(s) were unschedulable. preemption: 0/4 nodes are available: 1 No preemption \
         victims found for incoming pod, 3 Preemption is not helpful for scheduling."
    );
    assert_eq!(
        decide(&Cluster::default(), &wanted("p", "1", json!({}))),
        "no nodes available to schedule pods"
    );
}

#[test]
fn tolerations_ports_and_extended_resources_decide() {
    let tainted = json!({"taints": [{"key": "k", "value": "v", "effect": "NoSchedule"}]});
    let ports = |port: i32| json!({"ports": [{"containerPort": 80, "hostPort": port}]});
    let cluster =
        cluster(&[node("a", json!({})), node("t", tainted)], &[("a", wanted("w", "100m", ports(8080)))]);
    let tolerant = json!({"tolerations": [{"key": "k", "operator": "Exists"}], "ports": [{"containerPort": 80, "hostPort": 8080}]});
    assert_eq!(decide(&cluster, &wanted("p", "100m", tolerant)), "t");
    assert_eq!(decide(&cluster, &wanted("p", "100m", ports(8081))), "a");
    let refused = decide(&cluster, &wanted("p", "100m", ports(8080)));
    assert!(refused.contains("1 node(s) didn't have free ports for the requested pod ports"), "{refused}");
    let gpus = json!({"containers": [{"name": "c", "resources": {"requests": {"example.com/gpu": "2"}}}]});
    assert!(decide(&cluster, &wanted("p", "0", gpus)).contains("1 Insufficient example.com/gpu"));
}

#[test]
fn pods_spread_and_prefer_empty_nodes() {
    let nodes = [node("a", json!({})), node("b", json!({})), node("c", json!({"zone": "z2"}))];
    let filled =
        cluster(&nodes, &[("a", wanted("w", "1", json!({}))), ("b", wanted("v", "500m", json!({})))]);
    assert_eq!(decide(&filled, &wanted("p", "100m", json!({}))), "c");
    let spread = |key: &str, when: &str| {
        json!({"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": key, "whenUnsatisfiable": when,
            "labelSelector": {"matchLabels": {"app": "web"}}}], "nodeSelector": {"zone": "z1"}})
    };
    let skewed = cluster(&nodes, &[("a", wanted("w", "1", json!({}))), ("a", wanted("v", "10m", json!({})))]);
    assert_eq!(decide(&skewed, &wanted("p", "100m", spread("kubernetes.io/hostname", "DoNotSchedule"))), "b");
    let refused = decide(&skewed, &wanted("p", "100m", spread("rack", "DoNotSchedule")));
    assert!(
        refused.contains("2 node(s) didn't match pod topology spread constraints (missing required label)"),
        "{refused}"
    );
    assert_eq!(
        decide(&skewed, &wanted("p", "100m", spread("kubernetes.io/hostname", "ScheduleAnyway"))),
        "b"
    );
}

#[test]
fn affinity_between_pods_holds_both_ways() {
    let term = |key: &str| json!([{"topologyKey": key, "labelSelector": {"matchLabels": {"app": "web"}}}]);
    let required = "requiredDuringSchedulingIgnoredDuringExecution";
    let near = json!({"affinity": {"podAffinity": {required: term("zone")}}});
    let far = json!({"affinity": {"podAntiAffinity": {required: term("kubernetes.io/hostname")}}});
    let nodes = [node("a", json!({})), node("b", json!({"zone": "z2"}))];
    assert_eq!(decide(&cluster(&nodes, &[]), &wanted("first", "1", near.clone())), "a");
    let one = cluster(&nodes, &[("b", wanted("w", "1500m", json!({})))]);
    assert_eq!(decide(&one, &wanted("p", "100m", near)), "b");
    assert_eq!(decide(&one, &wanted("p", "100m", far.clone())), "a");
    let guarded = cluster(&nodes[..1], &[("a", wanted("w", "100m", far))]);
    let refused = decide(&guarded, &wanted("p", "100m", json!({})));
    assert!(refused.contains("1 node(s) didn't satisfy existing pods anti-affinity rules"), "{refused}");
}

#[test]
fn node_affinity_is_required_or_preferred() {
    let term =
        |value: &str| json!({"matchExpressions": [{"key": "zone", "operator": "In", "values": [value]}]});
    let nodes = [node("a", json!({})), node("b", json!({"zone": "z2", "cpu": "500m"}))];
    let cluster = cluster(&nodes, &[]);
    let required = json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term("z2")]}}}});
    assert_eq!(decide(&cluster, &wanted("p", "100m", required)), "b");
    let preferred = json!({"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 10, "preference": term("z2")}]}}});
    assert_eq!(decide(&cluster, &wanted("p", "100m", preferred.clone())), "b");
    assert_eq!(decide(&cluster, &wanted("p", "1", preferred)), "a");
}

#[test]
fn the_least_important_make_room() {
    let nodes = [node("a", json!({"cpu": "1"})), node("b", json!({"cpu": "1"}))];
    let pods = [
        ("a", wanted("high", "600m", json!({"priority": 50}))),
        ("a", wanted("low", "300m", json!({"priority": 1}))),
        ("b", wanted("middle", "800m", json!({"priority": 10}))),
        ("b", wanted("tiny", "100m", json!({"priority": 2}))),
    ];
    let cluster = cluster(&nodes, &pods);
    let urgent = |cpu: &str| wanted("p", cpu, json!({"priority": 100}));
    assert_eq!(decide(&cluster, &urgent("400m")), "a after [\"low\"] left");
    assert_eq!(decide(&cluster, &urgent("900m")), "b after [\"middle\"] left");
    assert_eq!(decide(&cluster, &urgent("1")), "b after [\"middle\", \"tiny\"] left");
}

#[tokio::test(start_paused = true)]
async fn a_waiting_pod_is_woken_by_what_may_help_it() {
    let mut queue = Queue::default();
    let (low, high) = (wanted("low", "1", json!({})), wanted("high", "1", json!({"priority": 9})));
    queue.put(low.clone(), true);
    queue.put(high.clone(), true);
    let taken = |queue: &mut Queue| queue.take(clock::instant()).map(|wanted| wanted.pod.name().to_owned());
    assert_eq!(taken(&mut queue).as_deref(), Some("high"));
    assert_eq!(taken(&mut queue).as_deref(), Some("low"));
    queue.unschedulable(&high.key, vec![Happening::PodGone], clock::instant());
    queue.unschedulable(&low.key, vec![Happening::Node], clock::instant());
    queue.happened(Happening::PodGone, clock::instant());
    assert_eq!(taken(&mut queue), None);
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(taken(&mut queue).as_deref(), Some("high"));
    // What happens while a pod is being decided on is not missed.
    queue.happened(Happening::PodGone, clock::instant());
    queue.unschedulable(&high.key, vec![Happening::PodGone], clock::instant());
    tokio::time::advance(Duration::from_secs(2)).await;
    assert_eq!(taken(&mut queue).as_deref(), Some("high"));
    queue.remove(&high.key);
    tokio::time::advance(Duration::from_secs(300)).await;
    assert_eq!(taken(&mut queue).as_deref(), Some("low"));
}
