//! What is done when a container has started, and before it is stopped.

use super::{Behaviour, Namespace, behaviours};
use crate::support::cluster::SOON;
use crate::support::process::wait_for;
use serde_json::json;

pub(super) const BEHAVIOURS: &[Behaviour] = behaviours![
    commands_after_the_start,
    requests_after_the_start,
    commands_before_the_stop,
    requests_before_the_stop,
    deletions_call_commands_first,
];

/// Says in its log what it was asked.
const LISTENER: &str = r##"
containers:
- command:
  - sh
  - -c
  - |
    mkdir /www/cgi-bin
    printf '#!/bin/sh\necho "asked $QUERY_STRING" > /proc/1/fd/1\necho\n' > /www/cgi-bin/ask
    chmod 755 /www/cgi-bin/ask
    exec httpd -f -p 8080 -h /www
  readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}
"##;

/// Runs a pod with a hook that a listener is asked by, given the listener's address; deletes the pod when it has run,
/// and waits for what was asked.
fn asks(namespace: &Namespace, when: &str, handler: impl Fn(&str) -> String) {
    let listener = namespace.running("listener", LISTENER);
    let address = listener["status"]["podIP"].as_str().unwrap();
    let asked = || namespace.log("listener", "c").contains("asked hook\n");
    let spec = format!(
        "terminationGracePeriodSeconds: 15\ncontainers: [{{lifecycle: {{{when}: {}}}, command: [sh, -c, \"trap 'exit 0' TERM; while :; do sleep 0.2; done\"]}}]",
        handler(address)
    );
    namespace.running("hooked", &spec);
    let before = when == "preStop";
    assert_eq!(asked(), !before, "a hook after the start runs before the pod is Ready");
    namespace.deleted("pods/hooked");
    if before {
        wait_for("the hook", SOON, || asked().then_some(()));
    }
    namespace.gone("pods/hooked");
}

fn command(address: &str) -> String {
    format!("{{exec: {{command: [curl, -sf, \"http://{address}:8080/cgi-bin/ask?hook\"]}}}}")
}

fn request(address: &str) -> String {
    json!({"httpGet": {"host": address, "port": 8080, "path": "/cgi-bin/ask?hook"}}).to_string()
}

fn commands_after_the_start(namespace: &Namespace) {
    asks(namespace, "postStart", command);
}

fn requests_after_the_start(namespace: &Namespace) {
    asks(namespace, "postStart", request);
}

fn commands_before_the_stop(namespace: &Namespace) {
    asks(namespace, "preStop", command);
}

fn requests_before_the_stop(namespace: &Namespace) {
    asks(namespace, "preStop", request);
}

/// The hook still finds its container at work, and the pod goes only after it.
fn deletions_call_commands_first(namespace: &Namespace) {
    let listener = namespace.running("listener", LISTENER);
    let address = listener["status"]["podIP"].as_str().unwrap();
    let hook = format!("cat /working && curl -sf 'http://{address}:8080/cgi-bin/ask?hook' && touch /called");
    let work = "trap 'test -e /called && exit 0; exit 1' TERM; touch /working; while :; do sleep 0.2; done";
    namespace.running(
        "hooked",
        &format!(
            "terminationGracePeriodSeconds: 30\ncontainers: [{{command: [sh, -c, {work:?}], lifecycle: {{preStop: {{exec: {{command: [sh, -c, {hook:?}]}}}}}}}}]"
        ),
    );
    namespace.deleted("pods/hooked");
    namespace.gone("pods/hooked");
    assert!(namespace.log("listener", "c").contains("asked hook\n"));
}
