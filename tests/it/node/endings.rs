//! How containers end, what is told of it, and what is left of them.

use super::{Behaviour, Namespace, behaviours};
use crate::support::cluster::{SOON, is_ready, restarts};
use crate::support::process::wait_for;
use serde_json::Value;

pub(super) const BEHAVIOURS: &[Behaviour] = behaviours![
    policies_decide_on_restarts,
    messages_of_users_at_their_own_path,
    messages_from_logs_of_failures,
    no_messages_from_logs_of_successes,
    messages_from_files_of_successes,
    output_becomes_the_log,
    failures_have_a_reason,
    what_always_fails_can_be_deleted,
];

/// Fails, then succeeds, then runs.
const THRICE: &str =
    "echo >> /count/file; case $(wc -l < /count/file) in 1) exit 1;; 2) exit 0;; esac; sleep 10000";

fn policies_decide_on_restarts(namespace: &Namespace) {
    let cases = [
        ("Always", "Running", "running", 2, true),
        ("OnFailure", "Succeeded", "terminated", 1, false),
        ("Never", "Failed", "terminated", 0, false),
    ];
    let name = |policy: &str| policy.to_lowercase();
    for (policy, ..) in cases {
        let spec = format!(
            r#"
            restartPolicy: {policy}
            containers: [{{command: [sh, -c, {THRICE:?}], volumeMounts: [{{name: count, mountPath: /count}}]}}]
            volumes: [{{name: count, emptyDir: {{medium: Memory}}}}]"#
        );
        namespace.pod(&name(policy), &spec);
    }
    for (policy, phase, state, count, ready) in cases {
        let pod = namespace.wait_pod(&name(policy), |pod| {
            let there = restarts(pod) == count && pod["status"]["phase"] == phase && is_ready(pod) == ready;
            there.then(|| pod.clone())
        });
        let status = &pod["status"]["containerStatuses"][0]["state"];
        assert!(status[state].is_object(), "{policy}: {status}");
        namespace.deleted(&format!("pods/{}", name(policy)));
        namespace.gone(&format!("pods/{}", name(policy)));
    }
}

/// What is told of a container with this specification when it has ended in this phase.
#[track_caller]
fn message(namespace: &Namespace, phase: &str, container: &str) -> String {
    namespace.pod("ending", &format!("restartPolicy: Never\ncontainers: [{{{container}}}]"));
    let pod = namespace.ended("ending");
    assert_eq!(pod["status"]["phase"], phase, "{pod}");
    let ended = &pod["status"]["containerStatuses"][0]["state"]["terminated"];
    assert!(ended.is_object(), "{pod}");
    namespace.deleted("pods/ending");
    ended["message"].as_str().unwrap_or_default().to_owned()
}

fn messages_of_users_at_their_own_path(namespace: &Namespace) {
    let container = r#"command: [sh, -c, "echo -n DONE > /dev/termination-custom-log"],
        terminationMessagePath: /dev/termination-custom-log, securityContext: {runAsUser: 10000}"#;
    assert_eq!(message(namespace, "Succeeded", container), "DONE");
}

fn messages_from_logs_of_failures(namespace: &Namespace) {
    let container = r#"command: [sh, -c, "echo -n DONE; exit 1"],
        terminationMessagePath: /dev/termination-log, terminationMessagePolicy: FallbackToLogsOnError"#;
    assert_eq!(message(namespace, "Failed", container), "DONE");
}

fn no_messages_from_logs_of_successes(namespace: &Namespace) {
    let container = r#"command: [sh, -c, "echo -n DONE"],
        terminationMessagePath: /dev/termination-log, terminationMessagePolicy: FallbackToLogsOnError"#;
    assert_eq!(message(namespace, "Succeeded", container), "");
}

fn messages_from_files_of_successes(namespace: &Namespace) {
    let container = r#"command: [sh, -c, "echo -n OK > /dev/termination-log; echo DONE"],
        terminationMessagePath: /dev/termination-log, terminationMessagePolicy: FallbackToLogsOnError"#;
    assert_eq!(message(namespace, "Succeeded", container), "OK");
}

fn output_becomes_the_log(namespace: &Namespace) {
    namespace
        .pod("talking", r#"containers: [{command: [sh, -c, "echo Hello; echo World >&2; sleep 10000"]}]"#);
    namespace.ready("talking");
    wait_for("both lines", SOON, || {
        let log = namespace.log("talking", "c");
        (log.contains("Hello\n") && log.contains("World\n")).then_some(())
    });
}

/// How a pod's container ended last, whether it is being started again or not.
fn last_end(pod: &Value) -> Option<&Value> {
    let status = &pod["status"]["containerStatuses"][0];
    [&status["state"]["terminated"], &status["lastState"]["terminated"]]
        .into_iter()
        .find(|end| end.is_object())
}

fn failures_have_a_reason(namespace: &Namespace) {
    let pod = namespace.pod("failing", "containers: [{command: [/bin/false]}]");
    assert_eq!(pod["spec"]["containers"].as_array().unwrap().len(), 1);
    let ended = namespace.wait_pod("failing", |pod| last_end(pod).cloned());
    assert_eq!((&ended["reason"], ended["exitCode"].as_i64()), (&"Error".into(), Some(1)), "{ended}");
}

fn what_always_fails_can_be_deleted(namespace: &Namespace) {
    namespace.pod("failing", "containers: [{command: [/bin/false]}]");
    namespace.wait_pod("failing", |pod| last_end(pod).is_some().then_some(()));
    namespace.deleted("pods/failing");
    namespace.gone("pods/failing");
}
