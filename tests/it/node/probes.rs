//! Probes: who is started again, and who is ready.

use super::{Behaviour, Namespace, behaviours};
use crate::support::cluster::{SOON, is_ready, restarts};
use crate::support::process::wait_for;
use serde_json::Value;

pub(super) const BEHAVIOURS: &[Behaviour] = behaviours![
    restarts_are_counted,
    commands_fail,
    commands_succeed,
    requests_fail,
    requests_succeed,
    sockets_stay_open,
    health_services_answer,
    health_services_do_not_answer,
    readiness_waits_for_its_delay,
    readiness_never_comes,
];

/// How often a probe has to have looked before its container is said to be left alone.
const LOOKS: usize = 5;

/// A page that is there at first and says in a file that it was asked for. With `for_s` it goes after so many seconds.
fn server(for_s: Option<u32>) -> String {
    let going =
        for_s.map_or(String::new(), |seconds| format!("(sleep {seconds}; rm /www/cgi-bin/healthz) &"));
    format!(
        r##"[sh, -c, "mkdir -p /www/cgi-bin; printf '#!/bin/sh\necho asked >> /tmp/asked\necho\n' > /www/cgi-bin/healthz;
        chmod 755 /www/cgi-bin/healthz; {going} exec httpd -f -p 8080 -h /www"]"##
    )
}

/// Runs a container whose liveness probe has to fail once: it is started again.
fn started_again(namespace: &Namespace, container: &str) {
    namespace.pod("probed", &format!("containers: [{{{container}}}]"));
    namespace.wait_pod("probed", |pod| (restarts(pod) == 1).then_some(()));
    assert!(namespace.event("probed", "Unhealthy").starts_with("Liveness probe failed: "));
    assert_eq!(namespace.event("probed", "Killing"), "Container c failed liveness probe, will be restarted");
}

/// Runs a container whose liveness probe succeeds, and which says in a file that it was looked at: it is left alone.
fn left_alone(namespace: &Namespace, container: &str) {
    namespace.running("probed", &format!("containers: [{{{container}}}]"));
    wait_for("looks", SOON, || {
        let asked = namespace.exec("probed", "c", "cat /tmp/asked");
        (asked.lines().count() >= LOOKS).then_some(())
    });
    let pod = namespace.get("pods/probed").1;
    assert_eq!(restarts(&pod), 0, "{pod}");
}

const EXEC: &str = r#"livenessProbe: {exec: {command: [sh, -c, "echo asked >> /tmp/asked; cat /tmp/health"]},
    periodSeconds: 1, timeoutSeconds: 20, failureThreshold: 1, initialDelaySeconds: 1}"#;

fn commands_fail(namespace: &Namespace) {
    let work = r#"command: [sh, -c, "echo ok > /tmp/health; sleep 5; rm /tmp/health; sleep 10000"]"#;
    started_again(namespace, &format!("{work}, {EXEC}"));
}

fn commands_succeed(namespace: &Namespace) {
    left_alone(namespace, &format!(r#"command: [sh, -c, "echo ok > /tmp/health; sleep 10000"], {EXEC}"#));
}

const HTTP: &str =
    "livenessProbe: {httpGet: {path: /cgi-bin/healthz, port: 8080}, periodSeconds: 1, timeoutSeconds: 20,
    failureThreshold: 1, initialDelaySeconds: 2}";

fn requests_fail(namespace: &Namespace) {
    started_again(namespace, &format!("command: {}, {HTTP}", server(Some(5))));
    assert_eq!(
        namespace.event("probed", "Unhealthy"),
        "Liveness probe failed: HTTP probe failed with statuscode: 404"
    );
}

fn requests_succeed(namespace: &Namespace) {
    left_alone(namespace, &format!("command: {}, {HTTP}", server(None)));
}

/// Whatever is said on a connection: that there is one is enough.
fn sockets_stay_open(namespace: &Namespace) {
    let work = r#"command: [nc, -ll, -p, "8080", -e, /bin/sh, -c, "echo asked >> /tmp/asked; echo HTTP/1.0 500 wrong"]"#;
    let probe = "livenessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1, failureThreshold: 1, initialDelaySeconds: 2}";
    left_alone(namespace, &format!("{work}, {probe}"));
}

const HEALTH: &str = r#"command: [nc, -ll, -p, "5000", -e, /bin/grpc-health]"#;

fn health_services_answer(namespace: &Namespace) {
    let probe = "livenessProbe: {grpc: {port: 5000}, periodSeconds: 1, timeoutSeconds: 20, failureThreshold: 1, initialDelaySeconds: 2}";
    left_alone(namespace, &format!("{HEALTH}, {probe}"));
}

fn health_services_do_not_answer(namespace: &Namespace) {
    let probe =
        "livenessProbe: {grpc: {port: 2333}, periodSeconds: 1, failureThreshold: 1, initialDelaySeconds: 2}";
    started_again(namespace, &format!("{HEALTH}, {probe}"));
}

/// Five times, with longer and longer pauses, and never back.
fn restarts_are_counted(namespace: &Namespace) {
    namespace.pod("probed", &format!("containers: [{{command: {}, {HTTP}}}]", server(Some(1))));
    for count in 1..=5 {
        let seen = namespace.wait_pod("probed", |pod| Some(restarts(pod)).filter(|seen| *seen >= count));
        assert_eq!(seen, count);
    }
}

fn time(pod: &Value, pointer: &str) -> api::meta::Time {
    serde_json::from_value(pod.pointer(pointer).unwrap().clone()).unwrap()
}

fn readiness_waits_for_its_delay(namespace: &Namespace) {
    let probe = "readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1, initialDelaySeconds: 8}";
    let pod = namespace.running("probed", &format!("containers: [{{command: {}, {probe}}}]", server(None)));
    let started = time(&pod, "/status/containerStatuses/0/state/running/startedAt");
    let conditions = pod["status"]["conditions"].as_array().unwrap();
    let ready = conditions.iter().position(|condition| condition["type"] == "Ready").unwrap();
    let since = time(&pod, &format!("/status/conditions/{ready}/lastTransitionTime"));
    assert!(since.0.duration_since(started.0).as_secs() >= 8, "{pod}");
    assert_eq!(restarts(&pod), 0);
}

/// Not even for a moment, as every change of the pod shows.
fn readiness_never_comes(namespace: &Namespace) {
    let since = namespace.get("pods").1["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    let path = namespace.path(&format!("pods?watch=true&resourceVersion={since}"));
    let events = namespace.https.ask("GET", &path).watch().unwrap();
    let probe = r#"readinessProbe: {exec: {command: [sh, -c, "echo asked >> /tmp/asked; exit 1"]},
        periodSeconds: 1, timeoutSeconds: 20, initialDelaySeconds: 1}"#;
    namespace.pod("probed", &format!("containers: [{{command: [sleep, infinity], {probe}}}]"));
    namespace.wait_pod("probed", |pod| (pod["status"]["phase"] == "Running").then_some(()));
    wait_for("looks", SOON, || {
        let asked = namespace.exec("probed", "c", "cat /tmp/asked");
        (asked.lines().count() >= LOOKS).then_some(())
    });
    namespace.patched("pods/probed", &serde_json::json!({"metadata": {"labels": {"last": "change"}}}));
    loop {
        let event = events.next(SOON).unwrap().unwrap();
        let pod = &event["object"];
        assert!(!is_ready(pod) && restarts(pod) <= 0, "{pod}");
        if pod["metadata"]["labels"]["last"] == "change" {
            break;
        }
    }
}
