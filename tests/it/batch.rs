//! Jobs with real pods, as the conformance behaviours of Jobs ask for; `docs/conformance.md` says which
//! function shows which.

use crate::support::cluster::{Cluster, IMAGE, SOON, name};
use crate::support::https::{Https, JSON, MERGE};
use crate::support::process::wait_for;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::panic::AssertUnwindSafe;

const JOBS: &str = "/apis/batch/v1/namespaces/default/jobs";
const PODS: &str = "/api/v1/namespaces/default/pods";
const FOREVER: &str = "exec sleep 1000";

/// How many behaviours are looked at at a time.
const AT_ONCE: usize = 4;

type Behaviour = (&'static str, fn(&Cluster, &Https));

const BEHAVIOURS: &[Behaviour] = &[
    ("tasks_fail_once", tasks_fail_once),
    ("indexed_pods_know_their_index", indexed_pods_know_their_index),
    ("an_exit_code_fails_the_job", an_exit_code_fails_the_job),
    ("evictions_are_ignored", evictions_are_ignored),
    ("indexes_fail_on_their_own", indexes_fail_on_their_own),
    ("too_many_indexes_fail", too_many_indexes_fail),
    ("an_exit_code_fails_an_index", an_exit_code_fails_an_index),
    ("all_indexes_succeed", all_indexes_succeed),
    ("some_indexes_are_enough", some_indexes_are_enough),
    ("a_number_of_indexes_is_enough", a_number_of_indexes_is_enough),
    ("orphans_are_adopted", orphans_are_adopted),
    ("status_is_changed", status_is_changed),
    ("lifecycle", lifecycle),
    ("deletion", deletion),
    ("ended_jobs_go_in_time", ended_jobs_go_in_time),
    ("suspended_jobs_wait", suspended_jobs_wait),
];

#[test]
fn jobs() {
    let cluster = Cluster::new();
    let https = Https::new(&cluster);
    let fails = |(name, work): &Behaviour| {
        let outcome = std::panic::catch_unwind(AssertUnwindSafe(|| work(&cluster, &https)));
        outcome.is_err().then_some(*name)
    };
    // Most of the time goes into waiting for pods.
    let failed: Vec<_> = std::thread::scope(|scope| {
        let share = BEHAVIOURS.len().div_ceil(AT_ONCE);
        let work =
            |own: &'static [Behaviour]| scope.spawn(move || own.iter().filter_map(fails).collect::<Vec<_>>());
        let running: Vec<_> = BEHAVIOURS.chunks(share).map(work).collect();
        running.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    assert!(failed.is_empty(), "these fail: {failed:?}");
}

/// A Job whose pods run a script; `more` is added to its spec.
fn job(name: &str, script: &str, more: Value) -> Value {
    let container = json!({"name": "main", "image": IMAGE, "command": ["sh", "-c", script],
        "volumeMounts": [{"name": "data", "mountPath": "/data"}]});
    let spec = json!({"restartPolicy": "Never", "terminationGracePeriodSeconds": 1, "containers": [container],
        "volumes": [{"name": "data", "emptyDir": {}}]});
    let mut job = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name},
        "spec": {"template": {"spec": spec}}});
    for (key, value) in more.as_object().unwrap() {
        match key.as_str() {
            "restartPolicy" | "volumes" => job["spec"]["template"]["spec"][key] = value.clone(),
            _ => job["spec"][key] = value.clone(),
        }
    }
    job
}

#[track_caller]
fn start(https: &Https, name: &str, script: &str, more: Value) -> Value {
    let answer = https.ask("POST", JOBS).object(JSON, &job(name, script, more)).send();
    assert_eq!(answer.code, 201, "{}", answer.value());
    answer.value()
}

/// The reason of a condition that is True.
fn reason<'a>(job: &'a Value, condition: &str) -> Option<&'a str> {
    let mut all = job["status"]["conditions"].as_array()?.iter();
    let found = all.find(|one| one["type"] == condition && one["status"] == "True")?;
    found["reason"].as_str()
}

/// Waits until a Job ended by a condition for a reason, and gives it.
#[track_caller]
fn ended(cluster: &Cluster, name: &str, condition: &str, why: &str) -> Value {
    cluster.wait(&format!("job {name}"), |job| (reason(job, condition) == Some(why)).then(|| job.clone()))
}

fn pods_of(cluster: &Cluster, name: &str) -> Vec<Value> {
    let list = cluster.json(&format!("pods -l job-name={name}"));
    list["items"].as_array().cloned().unwrap_or_default()
}

#[track_caller]
fn running(cluster: &Cluster, name: &str, count: usize) -> Vec<Value> {
    wait_for(&format!("{count} running pods of {name}"), SOON, || {
        let pods: Vec<_> = cluster.pods(&format!("job-name={name}"));
        let all = pods.len() == count && pods.iter().all(|pod| pod["status"]["phase"] == "Running");
        all.then_some(pods)
    })
}

fn tasks_fail_once(cluster: &Cluster, https: &Https) {
    let script = "[ -f /data/x ] || { touch /data/x; exit 1; }";
    start(https, "once", script, json!({"parallelism": 2, "completions": 4, "restartPolicy": "OnFailure"}));
    let job = ended(cluster, "once", "Complete", "CompletionsReached");
    assert_eq!((&job["status"]["succeeded"], &job["status"]["failed"]), (&json!(4), &Value::Null));
    let restarted = |pod: &Value| pod["status"]["containerStatuses"][0]["restartCount"] == 1;
    assert!(pods_of(cluster, "once").iter().all(restarted));
}

fn indexed_pods_know_their_index(cluster: &Cluster, https: &Https) {
    let script = "echo $JOB_COMPLETION_INDEX $(hostname)";
    let more = json!({"parallelism": 2, "completions": 4, "completionMode": "Indexed"});
    start(https, "indexed", script, more);
    let job = ended(cluster, "indexed", "Complete", "CompletionsReached");
    assert_eq!(job["status"]["completedIndexes"], "0-3");
    let said: BTreeSet<String> = pods_of(cluster, "indexed")
        .iter()
        .map(|pod| {
            let index =
                pod["metadata"]["annotations"]["batch.kubernetes.io/job-completion-index"].as_str().unwrap();
            assert_eq!(pod["metadata"]["labels"]["batch.kubernetes.io/job-completion-index"], index);
            let log = cluster.kubectl(&format!("logs {}", name(pod)));
            assert_eq!(log, format!("{index} indexed-{index}\n"));
            index.to_owned()
        })
        .collect();
    assert_eq!(said.len(), 4);
}

fn an_exit_code_fails_the_job(cluster: &Cluster, https: &Https) {
    let rule = json!({"action": "FailJob", "onExitCodes": {"containerName": "main", "operator": "In", "values": [42]}});
    let more = json!({"parallelism": 2, "completions": 4, "completionMode": "Indexed", "backoffLimit": 1,
        "podFailurePolicy": {"rules": [rule]}});
    let script = "[ $JOB_COMPLETION_INDEX = 0 ] && exit 42; exec sleep 1000";
    start(https, "early", script, more);
    let job = ended(cluster, "early", "Failed", "PodFailurePolicy");
    let message = job["status"]["conditions"].as_array().unwrap().iter().find(|one| one["type"] == "Failed");
    let message = message.unwrap()["message"].as_str().unwrap();
    assert!(message.contains("failed with exit code 42 matching FailJob rule at index 0"), "{message}");
}

/// Each pod runs until it is evicted once; its successor sees the mark and succeeds.
fn evictions_are_ignored(cluster: &Cluster, https: &Https) {
    let marks = cluster.sandbox.folder.join("marks");
    std::fs::create_dir_all(&marks).unwrap();
    let rule = json!({"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]});
    let more = json!({"parallelism": 2, "completions": 2, "completionMode": "Indexed", "backoffLimit": 0,
        "podFailurePolicy": {"rules": [rule]},
        "volumes": [{"name": "data", "hostPath": {"path": marks.display().to_string()}}]});
    let script = "f=/data/$JOB_COMPLETION_INDEX; [ -f $f ] && exit 0; touch $f; exec sleep 1000";
    start(https, "evicted", script, more);
    let pods = running(cluster, "evicted", 2);
    wait_for("the marks", SOON, || (marks.join("0").exists() && marks.join("1").exists()).then_some(()));
    for pod in &pods {
        let eviction =
            json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name(pod)}});
        let (code, answer) = https.send("POST", &format!("{PODS}/{}/eviction", name(pod)), JSON, &eviction);
        assert_eq!(code, 201, "{answer}");
    }
    let job = ended(cluster, "evicted", "Complete", "CompletionsReached");
    assert_eq!((&job["status"]["succeeded"], &job["status"]["failed"]), (&json!(2), &Value::Null), "{job:#}");
}

fn indexes_fail_on_their_own(cluster: &Cluster, https: &Https) {
    let more =
        json!({"parallelism": 2, "completions": 4, "completionMode": "Indexed", "backoffLimitPerIndex": 1});
    start(https, "odd", "exit $((JOB_COMPLETION_INDEX % 2))", more);
    let status = &ended(cluster, "odd", "Failed", "FailedIndexes")["status"];
    assert_eq!((&status["completedIndexes"], &status["failedIndexes"]), (&json!("0,2"), &json!("1,3")));
    assert_eq!((&status["succeeded"], &status["failed"]), (&json!(2), &json!(4)));
}

fn too_many_indexes_fail(cluster: &Cluster, https: &Https) {
    let more = json!({"parallelism": 1, "completions": 4, "completionMode": "Indexed", "backoffLimitPerIndex": 0,
        "maxFailedIndexes": 1});
    start(https, "many", "exit 1", more);
    let status = &ended(cluster, "many", "Failed", "MaxFailedIndexesExceeded")["status"];
    assert_eq!((&status["failed"], &status["failedIndexes"]), (&json!(2), &json!("0,1")));
}

fn an_exit_code_fails_an_index(cluster: &Cluster, https: &Https) {
    let rule = json!({"action": "FailIndex", "onExitCodes": {"operator": "In", "values": [42]}});
    let more = json!({"parallelism": 2, "completions": 4, "completionMode": "Indexed", "backoffLimitPerIndex": 1,
        "podFailurePolicy": {"rules": [rule]}});
    start(https, "index", "[ $((JOB_COMPLETION_INDEX % 2)) = 0 ] || exit 42", more);
    let status = &ended(cluster, "index", "Failed", "FailedIndexes")["status"];
    assert_eq!((&status["completedIndexes"], &status["failedIndexes"]), (&json!("0,2"), &json!("1,3")));
    assert_eq!(status["failed"], 2);
}

/// Runs a Job with a policy of success whose pods of other indexes than 0 run on or not.
#[track_caller]
fn succeeds(cluster: &Cluster, https: &Https, (name, script): (&str, &str), rule: Value) -> Value {
    let more = json!({"parallelism": 3, "completions": 3, "completionMode": "Indexed",
        "successPolicy": {"rules": [rule]}});
    start(https, name, script, more);
    let job = ended(cluster, name, "Complete", "SuccessPolicy");
    assert_eq!(reason(&job, "SuccessCriteriaMet"), Some("SuccessPolicy"), "{job:#}");
    job
}

const ONLY_0: &str = "[ $JOB_COMPLETION_INDEX = 0 ] || exec sleep 1000";

fn all_indexes_succeed(cluster: &Cluster, https: &Https) {
    let job = succeeds(cluster, https, ("all", "true"), json!({"succeededIndexes": "0-2"}));
    assert_eq!(job["status"]["completedIndexes"], "0-2");
}

fn some_indexes_are_enough(cluster: &Cluster, https: &Https) {
    let job = succeeds(cluster, https, ("some", ONLY_0), json!({"succeededIndexes": "0"}));
    let status = &job["status"];
    assert_eq!((&status["completedIndexes"], &status["active"]), (&json!("0"), &Value::Null), "{job:#}");
}

fn a_number_of_indexes_is_enough(cluster: &Cluster, https: &Https) {
    let job = succeeds(cluster, https, ("number", ONLY_0), json!({"succeededCount": 1}));
    let status = &job["status"];
    assert_eq!((&status["completedIndexes"], &status["terminating"]), (&json!("0"), &json!(0)), "{job:#}");
}

fn orphans_are_adopted(cluster: &Cluster, https: &Https) {
    let uid = start(https, "parent", FOREVER, json!({"parallelism": 2}))["metadata"]["uid"].clone();
    let pods = running(cluster, "parent", 2);
    let patch = |pod: &str, patch: Value| {
        let answer = https.ask("PATCH", &format!("{PODS}/{pod}")).body(MERGE, patch.to_string()).send();
        assert_eq!(answer.code, 200, "{}", answer.value());
    };
    let owner = |pod: &Value| pod["metadata"]["ownerReferences"][0]["uid"].clone();
    let orphan = name(&pods[0]);
    patch(&orphan, json!({"metadata": {"ownerReferences": null}}));
    cluster.wait(&format!("pod {orphan}"), |pod| (owner(pod) == uid).then_some(()));
    let labels = pods[0]["metadata"]["labels"].as_object().unwrap().keys();
    let none: Value =
        labels.map(|label| (label.clone(), Value::Null)).collect::<serde_json::Map<_, _>>().into();
    patch(&orphan, json!({"metadata": {"labels": none}}));
    cluster.wait(&format!("pod {orphan}"), |pod| owner(pod).is_null().then_some(()));
    running(cluster, "parent", 2);
    cluster.kubectl("delete job parent");
    cluster.kubectl(&format!("delete pod {orphan} --now"));
}

fn status_is_changed(cluster: &Cluster, https: &Https) {
    start(https, "status", FOREVER, json!({"parallelism": 2, "completions": 4, "backoffLimit": 6}));
    running(cluster, "status", 2);
    let path = format!("{JOBS}/status/status");
    let condition = json!([{"type": "CustomConditionType", "status": "True", "message": "patched"}]);
    let patch = json!({"metadata": {"annotations": {"patched": "yes"}}, "status": {"conditions": condition}});
    let answer = https.ask("PATCH", &path).body(MERGE, patch.to_string()).send();
    assert_eq!(answer.code, 200, "{}", answer.value());
    assert_eq!(answer.value()["metadata"]["annotations"]["patched"], "yes");
    let replaced = wait_for("an update of the status", SOON, || {
        let mut job = https.call("GET", &path).1;
        job["status"]["conditions"][0]["message"] = json!("replaced");
        Some(https.send("PUT", &path, JSON, &job)).filter(|(code, _)| *code != 409)
    });
    assert_eq!(replaced.0, 200, "{}", replaced.1);
    assert_eq!(https.call("GET", &path).1["status"]["conditions"][0]["message"], "replaced");
    cluster.kubectl("delete job status");
}

fn lifecycle(cluster: &Cluster, https: &Https) {
    start(https, "life", FOREVER, json!({"suspend": true, "parallelism": 2}));
    cluster.wait("job life", |job| (reason(job, "Suspended") == Some("JobSuspended")).then_some(()));
    cluster.kubectl("label job life own=label");
    let path = format!("{JOBS}/life");
    let replaced = wait_for("an update", SOON, || {
        let mut job = https.call("GET", &path).1;
        job["metadata"]["annotations"]["own"] = json!("annotation");
        Some(https.send("PUT", &path, JSON, &job)).filter(|(code, _)| *code != 409)
    });
    assert_eq!(replaced.1["metadata"]["annotations"]["own"], "annotation", "{}", replaced.1);
    let list = https.call("GET", "/apis/batch/v1/jobs?labelSelector=own%3Dlabel").1;
    assert_eq!(list["items"].as_array().unwrap().len(), 1, "{list:#}");
    assert_eq!(https.ask("DELETE", &format!("{JOBS}?labelSelector=own%3Dlabel")).send().code, 200);
    wait_for("the Job to be gone", SOON, || (https.call("GET", &path).0 == 404).then_some(()));
}

fn deletion(cluster: &Cluster, https: &Https) {
    start(https, "short", FOREVER, json!({"parallelism": 2, "completions": 4}));
    running(cluster, "short", 2);
    cluster.wait("job short", |job| (job["status"]["active"] == 2).then_some(()));
    cluster.kubectl("delete job short --cascade=foreground");
    assert!(pods_of(cluster, "short").is_empty());
}

fn ended_jobs_go_in_time(cluster: &Cluster, https: &Https) {
    start(https, "gone", "true", json!({"ttlSecondsAfterFinished": 1}));
    let gone = || (https.call("GET", &format!("{JOBS}/gone")).0 == 404).then_some(());
    wait_for("the Job to be gone after its time", SOON, gone);
    wait_for("its pods to be gone", SOON, || pods_of(cluster, "gone").is_empty().then_some(()));
}

fn suspended_jobs_wait(cluster: &Cluster, https: &Https) {
    start(https, "pause", FOREVER, json!({"parallelism": 2}));
    running(cluster, "pause", 2);
    cluster.kubectl("patch job pause --type=merge --patch {\"spec\":{\"suspend\":true}}");
    cluster.wait("job pause", |job| {
        let status = &job["status"];
        let idle = status["active"].is_null() && status["terminating"] == 0;
        assert!(status["failed"].is_null(), "what was suspended has not failed: {job:#}");
        (idle && reason(job, "Suspended").is_some()).then_some(())
    });
    assert_eq!(cluster.event("pause", "Suspended"), "Job suspended");
    cluster.kubectl("patch job pause --type=merge --patch {\"spec\":{\"suspend\":false}}");
    running(cluster, "pause", 2);
    cluster.kubectl("delete job pause");
}
