//! Containers that run before others, and those that come later.

use super::{Behaviour, Namespace, behaviours};
use crate::support::cluster::{IMAGE, SOON};
use crate::support::https::STRATEGIC;
use crate::support::process::wait_for;
use serde_json::{Value, json};

pub(super) const BEHAVIOURS: &[Behaviour] = behaviours![
    failing_first_containers_are_tried_again,
    first_containers_run_once,
    first_containers_run_before_what_stays,
    failing_first_containers_fail_the_pod,
    containers_are_added,
    more_containers_are_added,
];

const FIRST: &str = "initContainers: [{command: [/bin/true]}, {command: [/bin/true]}]";

/// Both first containers ended well, and the pod says that it is initialized.
#[track_caller]
fn initialized(pod: &Value) {
    assert_eq!(condition(pod, "Initialized")["status"], "True", "{pod}");
    let first = pod["status"]["initContainerStatuses"].as_array().unwrap();
    assert_eq!(first.len(), 2);
    for status in first {
        assert_eq!(
            (&status["ready"], &status["state"]["terminated"]["exitCode"]),
            (&json!(true), &json!(0)),
            "{status}"
        );
    }
}

fn condition<'a>(pod: &'a Value, kind: &str) -> &'a Value {
    let mut all = pod["status"]["conditions"].as_array().into_iter().flatten();
    all.find(|condition| condition["type"] == kind).unwrap_or(&Value::Null)
}

/// The states of a pod from its creation on, until one is the last.
fn states(namespace: &Namespace, spec: &str, mut last: impl FnMut(&Value) -> bool) -> Value {
    let since = namespace.get("pods").1["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    let path = namespace.path(&format!("pods?watch=true&resourceVersion={since}"));
    let events = namespace.https.ask("GET", &path).watch().unwrap();
    namespace.pod("ordered", spec);
    loop {
        let event = events.next(SOON * 2).unwrap().unwrap();
        assert_ne!(event["type"], "DELETED");
        in_order(&event["object"]);
        if last(&event["object"]) {
            return event["object"].clone();
        }
    }
}

/// No container runs before all that stand before it have ended well.
fn in_order(pod: &Value) {
    let list = |name: &str| pod["status"][name].as_array().cloned().unwrap_or_default();
    let first = list("initContainerStatuses");
    let ended = |status: &Value| status["state"]["terminated"]["exitCode"] == 0;
    let begun = |status: &Value| status["state"]["waiting"].is_null();
    for (at, status) in first.iter().enumerate().filter(|(_, status)| begun(status)) {
        assert!(first[..at].iter().all(ended), "{} is too early: {first:?}", status["name"]);
    }
    for status in list("containerStatuses").iter().filter(|status| begun(status)) {
        assert!(first.iter().all(ended), "{} is too early: {first:?}", status["name"]);
    }
}

fn phase(pod: &Value) -> &str {
    pod["status"]["phase"].as_str().unwrap_or_default()
}

fn first_containers_run_once(namespace: &Namespace) {
    let spec = format!("restartPolicy: Never\n{FIRST}\ncontainers: [{{command: [/bin/true]}}]");
    let pod = states(namespace, &spec, |pod| matches!(phase(pod), "Succeeded" | "Failed"));
    assert_eq!(phase(&pod), "Succeeded");
    initialized(&pod);
}

fn first_containers_run_before_what_stays(namespace: &Namespace) {
    let spec = format!("{FIRST}\ncontainers: [{{resources: {{limits: {{cpu: 100m}}}}}}]");
    let pod = states(namespace, &spec, |pod| phase(pod) == "Running");
    initialized(&pod);
    assert!(pod["status"]["containerStatuses"][0]["state"]["running"].is_object(), "{pod}");
}

/// The container waits for others that have not been run.
#[track_caller]
fn waits(status: &Value) {
    assert_eq!(status["state"]["waiting"]["reason"], "PodInitializing", "{status}");
}

fn failing_first_containers_are_tried_again(namespace: &Namespace) {
    let spec = "initContainers: [{command: [/bin/false]}, {command: [/bin/true]}]\ncontainers: [{}]";
    let pod = states(namespace, spec, |pod| {
        let Some(main) = pod["status"]["containerStatuses"].as_array() else { return false };
        main.iter().for_each(waits);
        let first = &pod["status"]["initContainerStatuses"];
        waits(&first[1]);
        assert_ne!(first[0]["state"]["terminated"]["exitCode"], 0, "{pod}");
        first[0]["restartCount"].as_i64().unwrap() >= 3
    });
    assert_eq!(phase(&pod), "Pending");
    let found = condition(&pod, "Initialized");
    assert_eq!(
        (&found["status"], &found["reason"], &found["message"]),
        (
            &json!("False"),
            &json!("ContainersNotInitialized"),
            &json!("containers with incomplete status: [i i1]")
        )
    );
}

fn failing_first_containers_fail_the_pod(namespace: &Namespace) {
    let spec = "restartPolicy: Never\ninitContainers: [{command: [/bin/true]}, {command: [/bin/false]}]\n\
                containers: [{command: [/bin/true]}]";
    let pod = states(namespace, spec, |pod| {
        pod["status"]["containerStatuses"].as_array().into_iter().flatten().for_each(waits);
        phase(pod) == "Failed"
    });
    let found = condition(&pod, "Initialized");
    assert_eq!(
        (&found["status"], &found["reason"], &found["message"]),
        (
            &json!("False"),
            &json!("ContainersNotInitialized"),
            &json!("containers with incomplete status: [i1]")
        )
    );
    let first = &pod["status"]["initContainerStatuses"];
    assert_eq!(first[1]["state"]["terminated"]["exitCode"], 1, "{pod}");
}

/// Adds a container to a pod and waits until it runs.
fn add(namespace: &Namespace, name: &str) -> Value {
    let container = json!({"name": name, "image": IMAGE, "stdin": true, "tty": true,
        "command": ["sh", "-c", "echo polo; sleep 10000"]});
    let patch = json!({"spec": {"ephemeralContainers": [container]}});
    let path = namespace.path("pods/target/ephemeralcontainers");
    let (code, pod) = namespace.https.send("PATCH", &path, STRATEGIC, &patch);
    assert_eq!(code, 200, "{pod}");
    namespace.wait_pod("target", |pod| {
        let all = pod["status"]["ephemeralContainerStatuses"].as_array()?;
        let own = all.iter().find(|status| status["name"] == name)?;
        own["state"]["running"].is_object().then_some(())
    });
    wait_for("what it says", SOON, || namespace.log("target", name).contains("polo").then_some(()));
    pod
}

fn added(pod: &Value) -> usize {
    pod["spec"]["ephemeralContainers"].as_array().map_or(0, Vec::len)
}

fn containers_are_added(namespace: &Namespace) {
    namespace.running("target", "containers: [{}]");
    add(namespace, "debugger");
    assert_eq!(namespace.exec("target", "debugger", "echo marco"), "marco\n");
}

fn more_containers_are_added(namespace: &Namespace) {
    namespace.running("target", "containers: [{}]");
    assert_eq!(added(&add(namespace, "debugger1")), 1);
    assert_eq!(added(&namespace.get("pods/target").1), 1);
    // By an update this time.
    let path = "pods/target/ephemeralcontainers";
    let changed = wait_for("an update", SOON, || {
        let mut pod = namespace.get(path).1;
        let more = json!({"name": "debugger2", "image": IMAGE, "command": ["sleep", "infinity"]});
        pod["spec"]["ephemeralContainers"].as_array_mut().unwrap().push(more);
        let answer = namespace.https.send("PUT", &namespace.path(path), crate::support::https::JSON, &pod);
        Some(answer).filter(|(code, _)| *code != 409)
    });
    assert_eq!((changed.0, added(&changed.1)), (200, 2), "{}", changed.1);
    let pod = namespace.wait_pod("target", |pod| {
        let all = pod["status"]["ephemeralContainerStatuses"].as_array()?;
        let run = all.iter().filter(|status| status["state"]["running"].is_object()).count();
        (run == 2).then(|| pod.clone())
    });
    assert_eq!(added(&pod), 2);
}
