//! Pods as objects that a node works on: made, changed, watched, deleted, talked to.

use super::{Behaviour, Namespace, behaviours};
use crate::support::cluster::{IMAGE_2, SOON, is_ready, name};
use crate::support::https::{Events, JSON, STRATEGIC};
use crate::support::process::wait_for;
use crate::support::websocket::stdout;
use serde_json::{Value, json};

pub(super) const BEHAVIOURS: &[Behaviour] = behaviours![
    generations_converge,
    generations_follow_updates,
    generations_are_the_servers,
    classes_of_quality,
    deadlines_change,
    pods_come_and_go,
    labels_change,
    pods_are_deleted_together,
    pods_have_a_host,
    status_is_patched,
    pods_live,
    commands_over_web_sockets,
    logs_over_web_sockets,
];

/// Updates a pod that its node may change at the same time.
#[track_caller]
fn updated(namespace: &Namespace, what: &str, change: impl Fn(&mut Value)) -> Value {
    let answer = wait_for("an update", SOON, || {
        let mut pod = namespace.get(what).1;
        change(&mut pod);
        let answer = namespace.https.send("PUT", &namespace.path(what), JSON, &pod);
        Some(answer).filter(|(code, _)| *code != 409)
    });
    assert_eq!(answer.0, 200, "{}", answer.1);
    answer.1
}

/// The node has seen this generation of a pod, which is the last.
#[track_caller]
fn observed(namespace: &Namespace, generation: i64) {
    namespace.wait_pod("pod", |pod| {
        assert!(pod["metadata"]["generation"].as_i64().unwrap() <= generation, "{pod}");
        (pod["status"]["observedGeneration"] == generation).then_some(())
    });
    assert_eq!(namespace.get("pods/pod").1["metadata"]["generation"], generation);
}

fn generations_follow_updates(namespace: &Namespace) {
    namespace.running("pod", "initContainers: [{command: [/bin/true]}]\ncontainers: [{}]");
    observed(namespace, 1);
    let toleration = json!({"key": "foo", "operator": "Equal", "value": "bar", "effect": "NoSchedule"});
    type Change = Box<dyn Fn(&mut Value)>;
    let changes: [(Change, bool); 7] = [
        (Box::new(|_| {}), false),
        (
            Box::new(move |pod| pod["spec"]["tolerations"].as_array_mut().unwrap().push(toleration.clone())),
            true,
        ),
        (Box::new(|pod| pod["spec"]["activeDeadlineSeconds"] = json!(5000)), true),
        (Box::new(|pod| pod["spec"]["containers"][0]["image"] = json!(IMAGE_2)), true),
        (Box::new(|pod| pod["spec"]["initContainers"][0]["image"] = json!(IMAGE_2)), true),
        (Box::new(|pod| pod["metadata"]["annotations"] = json!({"key": "value"})), false),
        (Box::new(|pod| pod["metadata"]["generation"] = json!(1)), false),
    ];
    let mut generation = 1;
    for (change, counts) in changes {
        updated(namespace, "pods/pod", change);
        generation += i64::from(counts);
        observed(namespace, generation);
    }
}

fn generations_are_the_servers(namespace: &Namespace) {
    let metadata = json!({"name": "pod", "generation": 100});
    namespace.pod_with(&metadata, "containers: [{}]");
    assert_eq!(namespace.ready("pod")["metadata"]["generation"], 1);
    let going = namespace.deleted("pods/pod?gracePeriodSeconds=60");
    assert_eq!(going["metadata"]["generation"], 2, "{going}");
    let (code, pod) = namespace.get("pods/pod");
    assert_eq!((code, &pod["metadata"]["generation"]), (200, &json!(2)), "{pod}");
    namespace.deleted("pods/pod?gracePeriodSeconds=0");
}

fn generations_converge(namespace: &Namespace) {
    namespace.pod("pod", "activeDeadlineSeconds: 5000\ncontainers: [{}]");
    namespace.ready("pod");
    for left in (4501..5000).rev() {
        namespace.patched("pods/pod", &json!({"spec": {"activeDeadlineSeconds": left}}));
    }
    observed(namespace, 500);
}

fn classes_of_quality(namespace: &Namespace) {
    let amounts = "{cpu: 100m, memory: 100Mi}";
    namespace.pod("pod", &format!("containers: [{{resources: {{requests: {amounts}, limits: {amounts}}}}}]"));
    assert_eq!(namespace.get("pods/pod").1["status"]["qosClass"], "Guaranteed");
    assert_eq!(namespace.ready("pod")["status"]["qosClass"], "Guaranteed");
}

fn labelled(namespace: &Namespace, label: &str, value: &str) -> Vec<Value> {
    namespace.items(&format!("pods?labelSelector={label}%3D{value}"))
}

fn deadlines_change(namespace: &Namespace) {
    namespace.pod_with(&json!({"name": "pod", "labels": {"time": "one"}}), "containers: [{}]");
    namespace.ready("pod");
    assert_eq!(labelled(namespace, "time", "one").len(), 1);
    updated(namespace, "pods/pod", |pod| pod["spec"]["activeDeadlineSeconds"] = json!(5));
    let ended = namespace.ended("pod");
    assert_eq!(
        (&ended["status"]["phase"], &ended["status"]["reason"]),
        (&json!("Failed"), &json!("DeadlineExceeded"))
    );
}

/// A watch of pods with a label, from now on.
fn watch(namespace: &Namespace, label: &str, value: &str) -> Events {
    let selector = format!("pods?labelSelector={label}%3D{value}");
    let since = namespace.get(&selector).1["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    let path = namespace.path(&format!("{selector}&watch=true&resourceVersion={since}"));
    namespace.https.ask("GET", &path).watch().unwrap()
}

/// Waits for an event about an object that fits.
#[track_caller]
fn told(events: &Events, kind: &str, fits: impl Fn(&Value) -> bool) -> Value {
    loop {
        let event = events.next(SOON * 2).unwrap().expect("the watch goes on");
        if event["type"] == kind && fits(&event["object"]) {
            return event["object"].clone();
        }
        assert!(kind == "DELETED" || event["type"] != "DELETED", "{event}");
    }
}

fn pods_come_and_go(namespace: &Namespace) {
    assert!(labelled(namespace, "time", "one").is_empty());
    let events = watch(namespace, "time", "one");
    namespace.pod_with(&json!({"name": "pod", "labels": {"time": "one"}}), "terminationGracePeriodSeconds: 30\ncontainers: [{command: [sh, -c, \"trap 'exit 0' TERM; while :; do sleep 0.2; done\"]}]");
    assert_eq!(labelled(namespace, "time", "one").len(), 1);
    told(&events, "ADDED", |_| true);
    told(&events, "MODIFIED", is_ready);
    namespace.deleted("pods/pod");
    let going = told(&events, "MODIFIED", |pod| pod["metadata"]["deletionTimestamp"].is_string());
    assert_eq!(going["metadata"]["deletionGracePeriodSeconds"], 30);
    let gone = told(&events, "DELETED", |_| true);
    assert!(gone["metadata"]["deletionTimestamp"].is_string() && gone["spec"].is_object(), "{gone}");
    assert!(labelled(namespace, "time", "one").is_empty());
}

fn labels_change(namespace: &Namespace) {
    namespace.pod_with(&json!({"name": "pod", "labels": {"time": "one"}}), "containers: [{}]");
    namespace.ready("pod");
    assert_eq!(labelled(namespace, "time", "one").len(), 1);
    updated(namespace, "pods/pod", |pod| pod["metadata"]["labels"]["time"] = json!("two"));
    let found = labelled(namespace, "time", "two");
    assert_eq!((found.len(), labelled(namespace, "time", "one").len()), (1, 0));
    assert!(is_ready(&namespace.get("pods/pod").1));
}

fn pods_are_deleted_together(namespace: &Namespace) {
    let names = ["pod-1", "pod-2", "pod-3"];
    for name in names {
        namespace.pod_with(
            &json!({"name": name, "labels": {"type": "testing"}}),
            "terminationGracePeriodSeconds: 1\nrestartPolicy: Never\ncontainers: [{}]",
        );
    }
    names.iter().for_each(|name| drop(namespace.ready(name)));
    let found: Vec<String> = labelled(namespace, "type", "testing").iter().map(name).collect();
    assert_eq!(found, names);
    namespace.deleted("pods?labelSelector=type%3Dtesting&gracePeriodSeconds=1");
    wait_for("the end of all", SOON, || labelled(namespace, "type", "testing").is_empty().then_some(()));
}

fn pods_have_a_host(namespace: &Namespace) {
    namespace.pod("pod", "containers: [{}]");
    let address = namespace.wait_pod("pod", |pod| {
        pod["status"]["hostIP"].as_str().filter(|ip| !ip.is_empty()).map(str::to_owned)
    });
    let node = namespace.https.call("GET", "/api/v1/nodes/node-1").1;
    let own = node["status"]["addresses"].as_array().unwrap();
    assert!(address.parse::<std::net::IpAddr>().is_ok());
    assert!(
        own.iter().any(|one| one["type"] == "InternalIP" && one["address"] == address.as_str()),
        "{node}"
    );
}

fn status_is_patched(namespace: &Namespace) {
    namespace.pod_with(&json!({"name": "pod", "labels": {"of": "status"}}), "containers: [{}]");
    namespace.ready("pod");
    assert_eq!(labelled(namespace, "of", "status").len(), 1);
    let condition = json!({"type": "StatusPatched", "status": "True"});
    let patch =
        json!({"status": {"message": "Patched by a test", "reason": "E2E", "conditions": [condition]}});
    let (code, told) = namespace.https.send("PATCH", &namespace.path("pods/pod/status"), STRATEGIC, &patch);
    assert_eq!(code, 200, "{told}");
    assert_eq!(
        (&told["status"]["message"], &told["status"]["reason"]),
        (&json!("Patched by a test"), &json!("E2E"))
    );
    // The node's own reports leave it there.
    namespace.patched("pods/pod", &json!({"spec": {"activeDeadlineSeconds": 5000}}));
    let pod =
        namespace.wait_pod("pod", |pod| (pod["status"]["observedGeneration"] == 2).then(|| pod.clone()));
    let conditions = pod["status"]["conditions"].as_array().unwrap();
    assert!(conditions.iter().any(|one| one["type"] == "StatusPatched"), "{pod}");
    assert_eq!(pod["status"]["reason"], "E2E", "{pod}");
}

fn pods_live(namespace: &Namespace) {
    let events = watch(namespace, "static", "true");
    namespace.pod_with(
        &json!({"name": "pod", "labels": {"static": "true"}}),
        "terminationGracePeriodSeconds: 1\ncontainers: [{}]",
    );
    let running = told(&events, "MODIFIED", |pod| pod["status"]["phase"] == "Running");
    let container = json!({"name": "c", "image": IMAGE_2});
    let patch = json!({"metadata": {"labels": {"pod": "patched"}}, "spec": {"containers": [container]}});
    let (code, patched) = namespace.https.send("PATCH", &namespace.path("pods/pod"), STRATEGIC, &patch);
    assert_eq!(code, 200, "{patched}");
    told(&events, "MODIFIED", |pod| pod["metadata"]["labels"]["pod"] == "patched");
    let pod = namespace.get("pods/pod").1;
    assert_eq!(
        (&pod["metadata"]["labels"]["pod"], &pod["spec"]["containers"][0]["image"]),
        (&json!("patched"), &json!(IMAGE_2))
    );
    let version = |pod: &Value| pod["metadata"]["resourceVersion"].as_str().unwrap().parse::<u64>().unwrap();
    assert!(version(&pod) > version(&running));
    // The container is replaced by one of the other image.
    namespace.wait_pod("pod", |pod| {
        let status = &pod["status"]["containerStatuses"][0];
        (is_ready(pod) && status["image"] == IMAGE_2).then_some(())
    });
    let unready = |pod: &mut Value| {
        let conditions = pod["status"]["conditions"].as_array_mut().unwrap();
        let both =
            conditions.iter_mut().filter(|one| one["type"] == "Ready" || one["type"] == "ContainersReady");
        both.for_each(|condition| condition["status"] = json!("False"));
    };
    let told_unready = updated(namespace, "pods/pod/status", unready);
    let conditions = told_unready["status"]["conditions"].as_array().unwrap();
    let unready = conditions.iter().filter(|one| {
        (one["type"] == "Ready" || one["type"] == "ContainersReady") && one["status"] == "False"
    });
    assert_eq!(unready.count(), 2, "{told_unready}");
    namespace.deleted("pods?labelSelector=static%3Dtrue&gracePeriodSeconds=1");
    told(&events, "DELETED", |_| true);
    assert_eq!(namespace.get("pods/pod").0, 404);
}

const ALIVE: &str =
    r#"containers: [{name: main, command: [sh, -c, "echo container is alive; sleep 10000"]}]"#;

fn commands_over_web_sockets(namespace: &Namespace) {
    namespace.running("pod", ALIVE);
    let query = "stdout=1&stderr=1&container=main&command=echo&command=remote%20execution%20test";
    for (protocol, tells_success) in [("channel.k8s.io", false), ("v5.channel.k8s.io", true)] {
        let heard = namespace.messages(&format!("pods/pod/exec?{query}"), protocol);
        assert_eq!(stdout(&heard), "remote execution test\n", "{protocol}");
        let other = heard.iter().find(|message| message.len() > 1 && message[0] != 1);
        assert_eq!(other.is_some_and(|message| message[0] == 3), tells_success, "{protocol}: {heard:?}");
    }
}

fn logs_over_web_sockets(namespace: &Namespace) {
    namespace.running("pod", ALIVE);
    wait_for("the log", SOON, || (namespace.log("pod", "main") == "container is alive\n").then_some(()));
    let heard = namespace.messages("pods/pod/log?container=main", "binary.k8s.io");
    assert_eq!(heard.concat(), b"container is alive\n");
    let heard = namespace.messages("pods/pod/log?container=main", "base64.binary.k8s.io");
    assert_eq!(heard.concat(), b"Y29udGFpbmVyIGlzIGFsaXZlCg==");
}
