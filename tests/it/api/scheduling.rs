//! The scheduler on nodes that only the API knows: Kubernetes' behaviours of scheduling, one function each
//! (`docs/conformance.md` says which), and what clients see of a decision. The test plays the nodes' part.

mod devices;

use super::conformance::{deleted, get, items, made, namespace, patched, updated};
use crate::support::cluster::{Cluster, SOON};
use crate::support::https::{Https, JSON};
use crate::support::process::wait_for;
use serde_json::{Value, json};
use std::fs;
use std::panic::AssertUnwindSafe;

const NODES: &str = "/api/v1/nodes";
const PODS: &str = "/api/v1/namespaces/scheduling/pods";
const SETS: &str = "/apis/apps/v1/namespaces/scheduling/replicasets";
const LIMITS: &str = "/api/v1/namespaces/scheduling/limitranges";
const CLASSES: &str = "/apis/scheduling.k8s.io/v1/priorityclasses";
/// What pods take of nodes here: nobody else asks for it.
const UNITS: &str = "example.com/units";

type Behaviour = (&'static str, fn(&Https));

/// Each by the name of its function.
const BEHAVIOURS: &[Behaviour] = &[
    ("limit_range_gives_defaults", limit_range_gives_defaults),
    ("limit_ranges_are_listed_and_deleted", limit_ranges_are_listed_and_deleted),
    ("nodes_take_what_fits", nodes_take_what_fits),
    ("selected_node", selected_node),
    ("no_selected_node", no_selected_node),
    ("host_ports_of_all_addresses", host_ports_of_all_addresses),
    ("replica_sets_preempt", replica_sets_preempt),
    ("priority_classes_live", priority_classes_live),
    ("less_important_pods_leave", less_important_pods_leave),
    ("critical_pods_preempt", critical_pods_preempt),
    ("preempted_pods_say_so", preempted_pods_say_so),
    ("gates_hold_pods_back", gates_hold_pods_back),
    ("a_change_of_a_node_wakes_a_pod", a_change_of_a_node_wakes_a_pod),
    ("profiles_decide_by_name", profiles_decide_by_name),
    ("devices_are_given_to_pods", devices::devices_are_given_to_pods),
    ("pods_share_a_claim", devices::pods_share_a_claim),
    ("who_looks_after_devices_says_so", devices::who_looks_after_devices_says_so),
    ("idle_devices_move", devices::idle_devices_move),
    ("devices_are_bound_first", devices::devices_are_bound_first),
    ("wrong_selectors_are_told", devices::wrong_selectors_are_told),
    ("nodes_take_so_many_volumes", nodes_take_so_many_volumes),
    ("devices_stand_for_resources", devices::devices_stand_for_resources),
    ("what_a_failure_left_is_cleared", devices::what_a_failure_left_is_cleared),
];

const CONFIG: &str = "apiVersion: kubescheduler.config.k8s.io/v1
kind: KubeSchedulerConfiguration
profiles:
- schedulerName: default-scheduler
- schedulerName: packing
  plugins: {score: {disabled: [{name: '*'}], enabled: [{name: NodeResourcesFit}]}}
  pluginConfig:
  - name: NodeResourcesFit
    args: {scoringStrategy: {type: MostAllocated, resources: [{name: example.com/units, weight: 1}]}}
";

#[test]
fn behaviours() {
    let folder = tempfile();
    let config = format!("config={folder}");
    let mut cluster = Cluster::prepared(&["--disable-agent", "--kube-scheduler-arg", &config]);
    cluster.start();
    let https = Https::new(&cluster);
    namespace(&https, "scheduling");
    wait_for("the account of pods", SOON, || {
        (get(&https, "/api/v1/namespaces/scheduling/serviceaccounts/default").0 == 200).then_some(())
    });
    for priority in [1, 2, 3, 4] {
        made(&https, CLASSES, &class(&format!("p{priority}"), priority));
    }
    let fails = |work: fn(&Https)| std::panic::catch_unwind(AssertUnwindSafe(|| work(&https))).is_err();
    let failed: Vec<_> = BEHAVIOURS.iter().filter(|(_, work)| fails(*work)).map(|(name, _)| name).collect();
    fs::remove_file(&folder).unwrap();
    assert!(failed.is_empty(), "these fail: {failed:?}");
}

#[test]
fn a_wrong_configuration_is_refused() {
    let file = tempfile();
    fs::write(
        &file,
        "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\nprofils: []\n",
    )
    .unwrap();
    let cluster = Cluster::prepared(&["--disable-agent"]);
    let output = cluster.fails(&["--kube-scheduler-arg", &format!("config={file}")]);
    let told = format!("{}{}", output.stdout, output.stderr);
    fs::remove_file(&file).unwrap();
    assert!(told.contains("unknown field `profils`"), "{told}");
}

/// A file of this process with the profiles.
fn tempfile() -> String {
    static NEXT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("knarr-scheduling-{}-{number}.yaml", std::process::id()));
    fs::write(&path, CONFIG).unwrap();
    path.display().to_string()
}

fn class(name: &str, value: i64) -> Value {
    json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name}, "value": value})
}

/// A node with some units, which tells once that it is ready.
fn node(https: &Https, name: &str, units: u32, over: Value) {
    let has = json!({"cpu": "4", "memory": "8Gi", "pods": "20", UNITS: units.to_string()});
    let mut node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, "node": name}},
        "status": {"capacity": has, "allocatable": has, "conditions": [{"type": "Ready", "status": "True",
            "lastHeartbeatTime": null, "lastTransitionTime": null}]}});
    for (field, value) in over.as_object().into_iter().flatten() {
        node[field] = value.clone();
    }
    made(https, NODES, &node);
    // What new nodes are tainted with goes when they are ready.
    wait_for("a node without taints", SOON, || {
        get(https, &format!("{NODES}/{name}")).1["spec"]["taints"].is_null().then_some(())
    });
}

/// Removes a node and its pods.
fn clean(https: &Https, name: &str) {
    deleted(https, &format!("{NODES}/{name}"), "Background");
    for pod in items(https, PODS) {
        let path = format!("{PODS}/{}", pod["metadata"]["name"].as_str().unwrap());
        https
            .ask("PATCH", &path)
            .body("application/merge-patch+json", json!({"metadata": {"finalizers": null}}).to_string())
            .send();
        end(https, &path);
    }
}

/// A pod's end, in place of its node.
fn end(https: &Https, path: &str) {
    let at_once = json!({"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0});
    https.ask("DELETE", path).object(JSON, &at_once).send();
}

/// A pod that asks for some units, on the nodes of one label.
fn pod(name: &str, units: u32, over: Value) -> Value {
    let amount = json!({UNITS: units.to_string()});
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"containers": [{"name": "c", "image": "knarr.test/none:1", "resources": {"requests": amount, "limits": amount}}]}});
    for (field, value) in over.as_object().into_iter().flatten() {
        pod["spec"][field] = value.clone();
    }
    pod
}

fn on(node: &str) -> Value {
    json!({"nodeSelector": {"node": node}})
}

fn with_class(node: &str, class: &str) -> Value {
    json!({"nodeSelector": {"node": node}, "priorityClassName": class})
}

fn path(name: &str) -> String {
    format!("{PODS}/{name}")
}

/// Waits until a pod has a node.
#[track_caller]
fn bound(https: &Https, name: &str) -> String {
    wait_for(&format!("a node for {name}"), SOON, || {
        get(https, &path(name)).1["spec"]["nodeName"].as_str().map(str::to_owned)
    })
}

/// Waits until a pod's condition says why it has no node.
#[track_caller]
fn refused(https: &Https, name: &str) -> String {
    wait_for(&format!("why {name} waits"), SOON, || {
        let pod = get(https, &path(name)).1;
        let conditions = pod["status"]["conditions"].as_array()?.clone();
        let told =
            conditions.iter().find(|it| it["type"] == "PodScheduled" && it["reason"] == "Unschedulable")?;
        assert_eq!(told["status"], "False");
        told["message"].as_str().map(str::to_owned)
    })
}

/// Waits for an event about a pod.
#[track_caller]
fn event(https: &Https, name: &str, reason: &str) -> String {
    let selector = format!("involvedObject.name%3D{name},reason%3D{reason}");
    let path = format!("/api/v1/namespaces/scheduling/events?fieldSelector={selector}");
    wait_for(&format!("{reason} of {name}"), SOON, || {
        items(https, &path).first().and_then(|event| event["message"].as_str().map(str::to_owned))
    })
}

/// Waits until a pod is asked to leave, and ends it.
#[track_caller]
fn leaves(https: &Https, name: &str) -> Value {
    let pod = wait_for(&format!("the end of {name}"), SOON, || {
        Some(get(https, &path(name)).1).filter(|pod| pod["metadata"]["deletionTimestamp"].is_string())
    });
    end(https, &path(name));
    pod
}

fn limit_range_gives_defaults(https: &Https) {
    let limits = json!([{"type": "Container", "defaultRequest": {"cpu": "100m", "memory": "200Mi"},
        "default": {"cpu": "500m", "memory": "500Mi"}, "min": {"cpu": "50m"}, "max": {"cpu": "1"}}]);
    let range = json!({"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "limits"}, "spec": {"limits": limits}});
    let range = made(https, LIMITS, &range);
    assert_eq!(range["spec"]["limits"][0]["default"]["cpu"], "500m");
    let plain = |name: &str| {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"containers": [{"name": "c", "image": "knarr.test/none:1"}]}})
    };
    let resources = |pod: &Value| pod["spec"]["containers"][0]["resources"].clone();
    let given = made(https, PODS, &plain("defaulted"));
    let wanted =
        json!({"requests": {"cpu": "100m", "memory": "200Mi"}, "limits": {"cpu": "500m", "memory": "500Mi"}});
    assert_eq!(resources(&given), wanted);
    let mut some = plain("own");
    some["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": "300m"}});
    let own = resources(&made(https, PODS, &some));
    assert_eq!((&own["requests"]["cpu"], &own["requests"]["memory"]), (&json!("300m"), &json!("200Mi")));
    for (name, cpu) in [("small", "10m"), ("large", "2")] {
        let mut pod = plain(name);
        pod["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": cpu}, "limits": {"cpu": cpu}});
        assert_eq!(https.send("POST", PODS, JSON, &pod).0, 403);
    }
    updated(https, &format!("{LIMITS}/limits"), |range| {
        range["spec"]["limits"][0]["min"]["cpu"] = json!("5m")
    });
    assert_eq!(get(https, &format!("{LIMITS}/limits")).1["spec"]["limits"][0]["min"]["cpu"], "5m");
    let mut small = plain("small");
    small["spec"]["containers"][0]["resources"] =
        json!({"requests": {"cpu": "10m"}, "limits": {"cpu": "10m"}});
    wait_for("the new limit", SOON, || (https.send("POST", PODS, JSON, &small).0 == 201).then_some(()));
    deleted(https, &format!("{LIMITS}/limits"), "Background");
    wait_for("the end of the limits", SOON, || {
        (get(https, &format!("{LIMITS}/limits")).0 == 404).then_some(())
    });
    for name in ["defaulted", "own", "small"] {
        end(https, &path(name));
    }
}

fn limit_ranges_are_listed_and_deleted(https: &Https) {
    namespace(https, "scheduling-other");
    let other = "/api/v1/namespaces/scheduling-other/limitranges";
    for place in [LIMITS, other] {
        let limits = json!([{"type": "Container", "default": {"cpu": "500m"}}]);
        let metadata = json!({"name": "ranged", "labels": {"range": "e2e"}});
        made(
            https,
            place,
            &json!({"apiVersion": "v1", "kind": "LimitRange", "metadata": metadata, "spec": {"limits": limits}}),
        );
    }
    let everywhere = || items(https, "/api/v1/limitranges?labelSelector=range%3De2e");
    assert_eq!(everywhere().len(), 2);
    let changed = json!({"metadata": {"labels": {"ranged": "patched"}}, "spec": {"limits": [{"type": "Container", "default": {"cpu": "400m"}}]}});
    let range = patched(https, &format!("{LIMITS}/ranged"), &changed);
    assert_eq!(
        (&range["metadata"]["labels"]["ranged"], &range["spec"]["limits"][0]["default"]["cpu"]),
        (&json!("patched"), &json!("400m"))
    );
    assert_eq!(https.call("DELETE", &format!("{LIMITS}?labelSelector=ranged%3Dpatched")).0, 200);
    wait_for("one range less", SOON, || (everywhere().len() == 1).then_some(()));
    assert_eq!(get(https, &format!("{other}/ranged")).0, 200);
}

fn nodes_take_what_fits(https: &Https) {
    node(https, "fits", 10, json!({}));
    made(https, PODS, &pod("most", 7, on("fits")));
    assert_eq!(bound(https, "most"), "fits");
    assert_eq!(event(https, "most", "Scheduled"), "Successfully assigned scheduling/most to fits");
    made(https, PODS, &pod("more", 5, on("fits")));
    let why = "0/1 nodes are available: 1 Insufficient example.com/units. no new claims to deallocate, preemption: 0/1 nodes are available: \
               1 No preemption victims found for incoming pod.";
    assert_eq!(refused(https, "more"), why);
    assert_eq!(event(https, "more", "FailedScheduling"), why);
    // What becomes free wakes it.
    end(https, &path("most"));
    assert_eq!(bound(https, "more"), "fits");
    clean(https, "fits");
}

fn selected_node(https: &Https) {
    node(https, "plain", 10, json!({}));
    node(https, "labelled", 10, json!({}));
    patched(
        https,
        &format!("{NODES}/labelled"),
        &json!({"metadata": {"labels": {"kubernetes.io/e2e": "42"}}}),
    );
    made(https, PODS, &pod("selecting", 1, json!({"nodeSelector": {"kubernetes.io/e2e": "42"}})));
    assert_eq!(bound(https, "selecting"), "labelled");
    clean(https, "labelled");
    clean(https, "plain");
}

fn no_selected_node(https: &Https) {
    node(https, "unselected", 10, json!({}));
    made(https, PODS, &pod("nowhere", 1, json!({"nodeSelector": {"label": "nonempty"}})));
    assert_eq!(
        refused(https, "nowhere"),
        "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector. no new claims to deallocate, \
         preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."
    );
    assert_eq!(get(https, &path("nowhere")).1["spec"]["nodeName"], Value::Null);
    clean(https, "unselected");
}

fn host_ports_of_all_addresses(https: &Https) {
    node(https, "ports", 10, json!({}));
    let with_port = |name: &str, address: Value| {
        let mut pod = pod(name, 1, on("ports"));
        pod["spec"]["containers"][0]["ports"] =
            json!([{"containerPort": 8080, "hostPort": 54322, "protocol": "TCP", "hostIP": address}]);
        made(https, PODS, &pod);
    };
    with_port("any-address", Value::Null);
    assert_eq!(bound(https, "any-address"), "ports");
    with_port("one-address", json!("127.0.0.1"));
    let why = refused(https, "one-address");
    assert!(why.contains("1 node(s) didn't have free ports for the requested pod ports"), "{why}");
    clean(https, "ports");
}

fn replica_sets_preempt(https: &Https) {
    node(https, "sets", 1_000, json!({}));
    let set = |name: &str, units: u32, priority: u32| {
        let template = pod(name, units, with_class("sets", &format!("p{priority}")));
        let template = json!({"metadata": {"labels": {"app": name}}, "spec": template["spec"]});
        made(
            https,
            SETS,
            &json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": name},
            "spec": {"replicas": 1, "selector": {"matchLabels": {"app": name}}, "template": template}}),
        );
    };
    let pods = |name: &str| items(https, &format!("{PODS}?labelSelector=app%3D{name}"));
    let placed = |name: &str| {
        wait_for(&format!("a placed pod of {name}"), SOON, || {
            pods(name).into_iter().find(|pod| pod["spec"]["nodeName"] == "sets")
        })
    };
    let name = |pod: &Value| pod["metadata"]["name"].as_str().unwrap().to_owned();
    for (set_name, units, priority) in [("set-1", 200, 1), ("set-2", 300, 2), ("set-3", 450, 3)] {
        set(set_name, units, priority);
        placed(set_name);
    }
    let (first, second) = (name(&placed("set-1")), name(&placed("set-2")));
    set("set-4", 500, 4);
    leaves(https, &first);
    leaves(https, &second);
    placed("set-4");
    // The sets have their replicas again, two of which wait.
    for (set, old) in [("set-1", Some(first)), ("set-2", Some(second)), ("set-3", None), ("set-4", None)] {
        wait_for(&format!("the replica of {set}"), SOON, || {
            let own = pods(set);
            (own.len() == 1 && old.as_ref().is_none_or(|old| name(&own[0]) != *old)).then_some(())
        });
    }
    for set in ["set-1", "set-2", "set-3", "set-4"] {
        deleted(https, &format!("{SETS}/{set}"), "Background");
    }
    wait_for("the end of the sets", SOON, || items(https, SETS).is_empty().then_some(()));
    clean(https, "sets");
}

fn priority_classes_live(https: &Https) {
    for (name, value) in [("first", 1_001), ("second", 1_002)] {
        made(https, CLASSES, &class(name, value));
    }
    let names: Vec<_> = items(https, CLASSES).iter().map(|class| class["metadata"]["name"].clone()).collect();
    assert!(names.contains(&json!("first")) && names.contains(&json!("second")), "{names:?}");
    let first = format!("{CLASSES}/first");
    assert_eq!(patched(https, &first, &json!({"description": "patched"}))["description"], "patched");
    assert_eq!(
        updated(https, &first, |class| class["description"] = json!("updated"))["description"],
        "updated"
    );
    for change in [json!({"value": 7}), json!({"preemptionPolicy": "Never"})] {
        let answer =
            https.ask("PATCH", &first).body("application/merge-patch+json", change.to_string()).send();
        assert_eq!(answer.code, 422, "{}", answer.value());
        let mut whole = get(https, &first).1;
        for (field, value) in change.as_object().unwrap() {
            whole[field] = value.clone();
        }
        assert_eq!(https.send("PUT", &first, JSON, &whole).0, 422);
    }
    assert_eq!(get(https, &first).1["value"], 1_001);
    for name in ["first", "second"] {
        deleted(https, &format!("{CLASSES}/{name}"), "Background");
    }
}

fn less_important_pods_leave(https: &Https) {
    node(https, "busy", 10, json!({}));
    made(https, PODS, &pod("low", 4, with_class("busy", "p1")));
    made(https, PODS, &pod("medium", 4, with_class("busy", "p2")));
    assert_eq!((bound(https, "low"), bound(https, "medium")), ("busy".to_owned(), "busy".to_owned()));
    let high = made(https, PODS, &pod("high", 6, with_class("busy", "p4")));
    leaves(https, "low");
    let uid = high["metadata"]["uid"].as_str().unwrap();
    assert_eq!(event(https, "low", "Preempted"), format!("Preempted by pod {uid} on node busy"));
    assert_eq!(bound(https, "high"), "busy");
    assert_eq!(get(https, &path("medium")).1["metadata"]["deletionTimestamp"], Value::Null);
    clean(https, "busy");
}

fn critical_pods_preempt(https: &Https) {
    node(https, "critical", 10, json!({}));
    made(https, PODS, &pod("usual", 8, with_class("critical", "p3")));
    assert_eq!(bound(https, "usual"), "critical");
    made(https, PODS, &pod("needed", 8, with_class("critical", "system-cluster-critical")));
    leaves(https, "usual");
    assert_eq!(bound(https, "needed"), "critical");
    clean(https, "critical");
}

fn preempted_pods_say_so(https: &Https) {
    node(https, "disrupted", 1, json!({}));
    let mut victim = pod("victim", 1, with_class("disrupted", "p1"));
    victim["metadata"]["finalizers"] = json!(["example.com/test-finalizer"]);
    made(https, PODS, &victim);
    assert_eq!(bound(https, "victim"), "disrupted");
    made(https, PODS, &pod("preemptor", 1, with_class("disrupted", "p4")));
    let victim = leaves(https, "victim");
    let conditions = victim["status"]["conditions"].as_array().unwrap();
    let told = conditions.iter().find(|condition| condition["type"] == "DisruptionTarget").unwrap();
    assert_eq!((&told["status"], &told["reason"]), (&json!("True"), &json!("PreemptionByScheduler")));
    assert_eq!(told["message"], "default-scheduler: preempting to accommodate a higher priority pod");
    wait_for("the nominated node", SOON, || {
        (get(https, &path("preemptor")).1["status"]["nominatedNodeName"] == "disrupted").then_some(())
    });
    patched(https, &path("victim"), &json!({"metadata": {"finalizers": null}}));
    wait_for("the victim's end", SOON, || (get(https, &path("victim")).0 == 404).then_some(()));
    assert_eq!(bound(https, "preemptor"), "disrupted");
    assert_eq!(get(https, &path("preemptor")).1["status"]["nominatedNodeName"], Value::Null);
    clean(https, "disrupted");
}

fn gates_hold_pods_back(https: &Https) {
    node(https, "gated", 10, json!({}));
    let mut over = on("gated");
    over["schedulingGates"] = json!([{"name": "example.com/wait"}]);
    let gated = made(https, PODS, &pod("gated", 1, over));
    assert_eq!(gated["status"]["conditions"][0]["reason"], "SchedulingGated");
    made(https, PODS, &pod("after", 1, on("gated")));
    bound(https, "after");
    assert_eq!(get(https, &path("gated")).1["spec"]["nodeName"], Value::Null);
    patched(https, &path("gated"), &json!({"spec": {"schedulingGates": null}}));
    assert_eq!(bound(https, "gated"), "gated");
    clean(https, "gated");
}

fn a_change_of_a_node_wakes_a_pod(https: &Https) {
    node(https, "cordoned", 10, json!({}));
    patched(https, &format!("{NODES}/cordoned"), &json!({"spec": {"unschedulable": true}}));
    made(https, PODS, &pod("patient", 1, on("cordoned")));
    let why = refused(https, "patient");
    assert!(why.starts_with("0/1 nodes are available: 1 node(s) were unschedulable."), "{why}");
    patched(https, &format!("{NODES}/cordoned"), &json!({"spec": {"unschedulable": null}}));
    assert_eq!(bound(https, "patient"), "cordoned");
    clean(https, "cordoned");
}

fn nodes_take_so_many_volumes(https: &Https) {
    const CLAIMS: &str = "/api/v1/namespaces/scheduling/persistentvolumeclaims";
    const CSI_NODES: &str = "/apis/storage.k8s.io/v1/csinodes";
    const STORAGE: &str = "/apis/storage.k8s.io/v1/storageclasses";
    let of_storage = |kind: &str, name: &str| json!({"apiVersion": "storage.k8s.io/v1", "kind": kind, "metadata": {"name": name}});
    node(https, "attaches", 10, json!({}));
    let mut limited = of_storage("CSINode", "attaches");
    limited["spec"] = json!({"drivers": [{"name": "csi.test", "nodeID": "a", "allocatable": {"count": 1}}]});
    made(https, CSI_NODES, &limited);
    let mut class = of_storage("StorageClass", "attached");
    class["provisioner"] = json!("csi.test");
    class["volumeBindingMode"] = json!("WaitForFirstConsumer");
    made(https, STORAGE, &class);
    let claims = ["attached-1", "attached-2"];
    for name in claims {
        let spec = json!({"storageClassName": "attached", "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}});
        made(
            https,
            CLAIMS,
            &json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": spec}),
        );
    }
    let volumes = claims.map(|name| json!({"name": name, "persistentVolumeClaim": {"claimName": name}}));
    made(https, PODS, &pod("mounts", 1, json!({"volumes": volumes})));
    // Volumes that are still to be made count as well.
    let why = refused(https, "mounts");
    assert!(why.starts_with("0/1 nodes are available: 1 node(s) exceed max volume count. "), "{why}");
    deleted(https, &format!("{CSI_NODES}/attaches"), "Background");
    for name in claims {
        wait_for("a node for a volume", SOON, || {
            let claim = get(https, &format!("{CLAIMS}/{name}")).1;
            (claim["metadata"]["annotations"]["volume.kubernetes.io/selected-node"] == "attaches")
                .then_some(())
        });
    }
    clean(https, "attaches");
    for name in claims {
        let path = format!("{CLAIMS}/{name}");
        patched(https, &path, &json!({"metadata": {"finalizers": null}}));
        deleted(https, &path, "Background");
    }
    deleted(https, &format!("{STORAGE}/attached"), "Background");
}

fn profiles_decide_by_name(https: &Https) {
    node(https, "full", 10, json!({}));
    node(https, "empty", 10, json!({}));
    made(https, PODS, &pod("filler", 5, on("full")));
    bound(https, "filler");
    made(https, PODS, &pod("packed", 1, json!({"schedulerName": "packing"})));
    assert_eq!(bound(https, "packed"), "full");
    made(https, PODS, &pod("foreign", 1, json!({"schedulerName": "somebody-else"})));
    made(https, PODS, &pod("spread", 1, json!({})));
    bound(https, "spread");
    assert_eq!(get(https, &path("foreign")).1["spec"]["nodeName"], Value::Null);
    clean(https, "full");
    clean(https, "empty");
}
