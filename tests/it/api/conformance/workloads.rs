//! Behaviours of StatefulSets, DaemonSets, their revisions, and CronJobs. The test plays the nodes.

use super::{PODS, count, deleted, get, items, made, patched, template, updated};
use crate::support::cluster::SOON;
use crate::support::https::{Https, MERGE};
use crate::support::process::wait_for;
use serde_json::{Value, json};

const STATEFUL_SETS: &str = "/apis/apps/v1/namespaces/conformance/statefulsets";
const DAEMON_SETS: &str = "/apis/apps/v1/namespaces/conformance/daemonsets";
const REVISIONS: &str = "/apis/apps/v1/namespaces/conformance/controllerrevisions";
const CRON_JOBS: &str = "/apis/batch/v1/namespaces/conformance/cronjobs";
const JOBS: &str = "/apis/batch/v1/namespaces/conformance/jobs";
const NODES: &str = "/api/v1/nodes";
/// An image that no played node runs.
pub(super) const BROKEN: &str = "knarr.test/broken:1";

pub(super) fn named(kind: &str, app: &str, mut spec: Value) -> Value {
    spec["selector"] = json!({"matchLabels": {"app": app}});
    spec["template"] = template(app);
    // Played nodes are not ready; what is meant for all nodes is meant for them too.
    spec["template"]["spec"]["tolerations"] = json!([{"operator": "Exists"}]);
    json!({"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": app, "labels": {"app": app}}, "spec": spec})
}

pub(super) fn pods(https: &Https, app: &str) -> Vec<Value> {
    items(https, &format!("{PODS}?labelSelector=app%3D{app}"))
}

pub(super) fn says(https: &Https, pod: &Value, phase: &str, ready: &str) {
    let ready = json!({"type": "Ready", "status": ready, "lastTransitionTime": "2026-01-01T00:00:00Z"});
    let status = json!({"status": {"phase": phase, "conditions": [ready]}});
    let path = format!("{PODS}/{}/status", pod["metadata"]["name"].as_str().unwrap());
    https.ask("PATCH", &path).body(MERGE, status.to_string()).send();
}

/// Runs the pods of an app that wait, but for broken ones.
pub(super) fn play(https: &Https, app: &str) {
    let waits =
        |pod: &&Value| pod["status"]["phase"] == "Pending" && pod["spec"]["containers"][0]["image"] != BROKEN;
    pods(https, app).iter().filter(waits).for_each(|pod| says(https, pod, "Running", "True"));
}

/// Plays until the status of an object is as wanted.
#[track_caller]
pub(super) fn until(https: &Https, path: &str, app: &str, wanted: &[(&str, i64)]) -> Value {
    let mut last = Value::Null;
    wait_for(&format!("{wanted:?} of {app}"), SOON, || {
        play(https, app);
        last = get(https, &format!("{path}/{app}")).1;
        let status = &last["status"];
        let observed = status["observedGeneration"] == last["metadata"]["generation"];
        let all = wanted.iter().all(|(field, number)| status[*field].as_i64().unwrap_or(0) == *number);
        (observed && all).then_some(())
    });
    last
}

pub(super) fn names(pods: &[Value]) -> Vec<&str> {
    pods.iter().map(|pod| pod["metadata"]["name"].as_str().unwrap()).collect()
}

/// Each pod and its image, by name.
pub(super) fn images(https: &Https, app: &str) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    pods(https, app)
        .iter()
        .map(|pod| (text(&pod["metadata"]["name"]), text(&pod["spec"]["containers"][0]["image"])))
        .collect()
}

pub(super) fn image(name: &str) -> Value {
    json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": name}], "tolerations": [{"operator": "Exists"}]}}}})
}

#[track_caller]
pub(super) fn gone(https: &Https, path: &str) {
    deleted(https, path, "Background");
    wait_for(&format!("the end of {path}"), SOON, || (get(https, path).0 == 404).then_some(()));
}

pub(super) fn stateful_sets_scale_in_order(https: &Https) {
    made(
        https,
        STATEFUL_SETS,
        &named("StatefulSet", "order", json!({"replicas": 3, "serviceName": "order"})),
    );
    // The first is not ready: nothing else is made.
    let first = count(https, PODS, "order", 1);
    assert_eq!(names(&first), ["order-0"]);
    says(https, &first[0], "Running", "False");
    wait_for("a status that counts it", SOON, || {
        (get(https, &format!("{STATEFUL_SETS}/order")).1["status"]["replicas"] == 1).then_some(())
    });
    assert_eq!(names(&pods(https, "order")), ["order-0"]);
    says(https, &first[0], "Running", "True");
    until(https, STATEFUL_SETS, "order", &[("readyReplicas", 3), ("availableReplicas", 3)]);
    let all = pods(https, "order");
    let version = |pod: &Value| pod["metadata"]["uid"].as_str().unwrap().to_owned();
    assert_eq!(names(&all), ["order-0", "order-1", "order-2"]);
    // They are not ready: none goes either.
    all.iter().for_each(|pod| says(https, pod, "Running", "False"));
    patched(https, &format!("{STATEFUL_SETS}/order"), &json!({"spec": {"replicas": 0}}));
    wait_for("a status that has seen it", SOON, || {
        let set = get(https, &format!("{STATEFUL_SETS}/order")).1;
        (set["status"]["observedGeneration"] == set["metadata"]["generation"]
            && set["status"]["readyReplicas"].as_i64().unwrap_or(0) == 0)
            .then_some(())
    });
    assert_eq!(
        pods(https, "order").iter().map(version).collect::<Vec<_>>(),
        all.iter().map(version).collect::<Vec<_>>()
    );
    let watched = https.ask(
        "GET",
        &format!("{PODS}?watch=true&labelSelector=app%3Dorder&resourceVersion={}", {
            let list = get(https, PODS).1;
            list["metadata"]["resourceVersion"].as_str().unwrap().to_owned()
        }),
    );
    let events = watched.watch().unwrap_or_else(|answer| panic!("{}", answer.value()));
    all.iter().for_each(|pod| says(https, pod, "Running", "True"));
    let mut removed = Vec::new();
    while removed.len() < 3 {
        let event = events.next(SOON).unwrap().unwrap();
        if event["type"] == "DELETED" {
            removed.push(event["object"]["metadata"]["name"].as_str().unwrap().to_owned());
        }
    }
    assert_eq!(removed, ["order-2", "order-1", "order-0"]);
    gone(https, &format!("{STATEFUL_SETS}/order"));
}

pub(super) fn stateful_sets_burst(https: &Https) {
    let spec = json!({"replicas": 3, "serviceName": "burst", "podManagementPolicy": "Parallel"});
    made(https, STATEFUL_SETS, &named("StatefulSet", "burst", spec));
    let all = count(https, PODS, "burst", 3);
    all.iter().for_each(|pod| says(https, pod, "Running", "False"));
    patched(https, &format!("{STATEFUL_SETS}/burst"), &json!({"spec": {"replicas": 5}}));
    count(https, PODS, "burst", 5);
    patched(https, &format!("{STATEFUL_SETS}/burst"), &json!({"spec": {"replicas": 0}}));
    count(https, PODS, "burst", 0);
    gone(https, &format!("{STATEFUL_SETS}/burst"));
}

pub(super) fn stateful_sets_replace_failed_pods(https: &Https) {
    made(
        https,
        STATEFUL_SETS,
        &named("StatefulSet", "failed", json!({"replicas": 1, "serviceName": "failed"})),
    );
    until(https, STATEFUL_SETS, "failed", &[("readyReplicas", 1)]);
    let before = pods(https, "failed");
    says(https, &before[0], "Failed", "False");
    wait_for("another pod of the name", SOON, || {
        let now = pods(https, "failed");
        (now.len() == 1
            && names(&now) == ["failed-0"]
            && now[0]["metadata"]["uid"] != before[0]["metadata"]["uid"])
            .then_some(())
    });
    until(https, STATEFUL_SETS, "failed", &[("readyReplicas", 1)]);
    gone(https, &format!("{STATEFUL_SETS}/failed"));
}

pub(super) fn stateful_sets_have_a_scale(https: &Https) {
    made(
        https,
        STATEFUL_SETS,
        &named("StatefulSet", "scale", json!({"replicas": 1, "serviceName": "scale"})),
    );
    until(https, STATEFUL_SETS, "scale", &[("readyReplicas", 1)]);
    have_a_scale(https, STATEFUL_SETS, "scale");
}

/// One replica becomes two by an update of the scale, and three by a patch.
pub(super) fn have_a_scale(https: &Https, path: &str, app: &str) {
    let own = format!("{path}/{app}/scale");
    let scale = get(https, &own).1;
    let facts = [&scale["kind"], &scale["spec"]["replicas"], &scale["status"]["replicas"]];
    assert_eq!(facts, [&json!("Scale"), &json!(1), &json!(1)]);
    updated(https, &own, |scale| scale["spec"]["replicas"] = json!(2));
    let object = until(https, path, app, &[("replicas", 2), ("readyReplicas", 2)]);
    assert_eq!(object["spec"]["replicas"], 2);
    assert_eq!(get(https, &own).1["status"]["replicas"], 2);
    patched(https, &own, &json!({"spec": {"replicas": 3}}));
    until(https, path, app, &[("replicas", 3), ("readyReplicas", 3)]);
    gone(https, &format!("{path}/{app}"));
}

pub(super) fn stateful_sets_are_listed_and_deleted(https: &Https) {
    made(
        https,
        STATEFUL_SETS,
        &named("StatefulSet", "listed", json!({"replicas": 1, "serviceName": "listed"})),
    );
    let patch = json!({"metadata": {"labels": {"patched": "yes"}}, "spec": {"replicas": 2}});
    let set = patched(https, &format!("{STATEFUL_SETS}/listed"), &patch);
    assert_eq!((&set["metadata"]["labels"]["patched"], &set["spec"]["replicas"]), (&json!("yes"), &json!(2)));
    until(https, STATEFUL_SETS, "listed", &[("readyReplicas", 2)]);
    listed_and_deleted(https, STATEFUL_SETS, "listed");
}

/// The only object of an app is found in all namespaces and goes with the collection, and its pods with it.
pub(super) fn listed_and_deleted(https: &Https, path: &str, app: &str) {
    let all = path.replace("/namespaces/conformance", "");
    assert_eq!(items(https, &format!("{all}?labelSelector=app%3D{app}")).len(), 1);
    assert_eq!(https.ask("DELETE", &format!("{path}?labelSelector=app%3D{app}")).send().code, 200);
    count(https, path, app, 0);
    count(https, PODS, app, 0);
}

pub(super) fn stateful_sets_update_in_phases(https: &Https) {
    let rolling =
        |partition: i32| json!({"type": "RollingUpdate", "rollingUpdate": {"partition": partition}});
    let spec = json!({"replicas": 3, "serviceName": "phases", "updateStrategy": rolling(3)});
    made(https, STATEFUL_SETS, &named("StatefulSet", "phases", spec));
    let path = format!("{STATEFUL_SETS}/phases");
    let old =
        until(https, STATEFUL_SETS, "phases", &[("readyReplicas", 3)])["status"]["currentRevision"].clone();
    patched(https, &path, &image("new"));
    let set = until(
        https,
        STATEFUL_SETS,
        "phases",
        &[("readyReplicas", 3), ("currentReplicas", 3), ("updatedReplicas", 0)],
    );
    assert_eq!(set["status"]["currentRevision"], old);
    assert_ne!(set["status"]["updateRevision"], old);
    let of_new = || {
        images(https, "phases")
            .iter()
            .filter(|(_, image)| image == "new")
            .map(|(name, _)| name.clone())
            .collect::<Vec<_>>()
    };
    // A canary.
    patched(https, &path, &json!({"spec": {"updateStrategy": rolling(2)}}));
    until(https, STATEFUL_SETS, "phases", &[("readyReplicas", 3), ("updatedReplicas", 1)]);
    assert_eq!(of_new(), ["phases-2"]);
    // Pods that are deleted come back on their side of the partition.
    for name in ["phases-0", "phases-2"] {
        assert_eq!(https.ask("DELETE", &format!("{PODS}/{name}?gracePeriodSeconds=0")).send().code, 200);
    }
    until(
        https,
        STATEFUL_SETS,
        "phases",
        &[("readyReplicas", 3), ("updatedReplicas", 1), ("currentReplicas", 2)],
    );
    assert_eq!(of_new(), ["phases-2"]);
    patched(https, &path, &json!({"spec": {"updateStrategy": rolling(1)}}));
    until(https, STATEFUL_SETS, "phases", &[("readyReplicas", 3), ("updatedReplicas", 2)]);
    patched(https, &path, &json!({"spec": {"updateStrategy": rolling(0)}}));
    let set = until(
        https,
        STATEFUL_SETS,
        "phases",
        &[("readyReplicas", 3), ("updatedReplicas", 3), ("currentReplicas", 3)],
    );
    assert_eq!(set["status"]["currentRevision"], set["status"]["updateRevision"]);
    gone(https, &path);
}

pub(super) fn stateful_sets_update_and_roll_back(https: &Https) {
    made(https, STATEFUL_SETS, &named("StatefulSet", "back", json!({"replicas": 3, "serviceName": "back"})));
    let path = format!("{STATEFUL_SETS}/back");
    let done = [("readyReplicas", 3), ("updatedReplicas", 3), ("currentReplicas", 3)];
    let first = until(https, STATEFUL_SETS, "back", &done);
    let before = images(https, "back")[0].1.clone();
    patched(https, &path, &image("new"));
    // One at a time, the highest first.
    wait_for("the first new pod", SOON, || {
        let new: Vec<_> = images(https, "back").into_iter().filter(|(_, image)| image == "new").collect();
        (new == [("back-2".to_owned(), "new".to_owned())]).then_some(())
    });
    let set = get(https, &path).1;
    assert_eq!(set["status"]["currentRevision"], first["status"]["currentRevision"]);
    assert_ne!(set["status"]["updateRevision"], first["status"]["updateRevision"]);
    until(https, STATEFUL_SETS, "back", &done);
    patched(https, &path, &image(&before));
    let last = until(https, STATEFUL_SETS, "back", &done);
    assert_eq!(
        last["status"]["currentRevision"], first["status"]["currentRevision"],
        "it is the earlier revision"
    );
    assert_eq!(
        count(https, REVISIONS, "back", 2).iter().map(|one| one["revision"].as_i64().unwrap()).max(),
        Some(3)
    );
    gone(https, &path);
}

pub(super) fn status_changes(https: &Https, path: &str) {
    let condition = |kind: &str| json!({"type": kind, "status": "True", "reason": "E2E", "message": "told"});
    let own = format!("{path}/status");
    assert_eq!(get(https, &own).0, 200);
    // Those of a Deployment's controller come back.
    let kinds = || -> Vec<String> {
        let conditions = get(https, path).1["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let kinds = conditions.iter().map(|one| one["type"].as_str().unwrap().to_owned());
        kinds.filter(|kind| !matches!(kind.as_str(), "Available" | "Progressing")).collect()
    };
    updated(https, &own, |object| object["status"]["conditions"] = json!([condition("StatusUpdate")]));
    assert_eq!(kinds(), ["StatusUpdate"]);
    patched(https, &own, &json!({"status": {"conditions": [condition("StatusPatched")]}}));
    assert_eq!(kinds(), ["StatusPatched"]);
}

pub(super) fn stateful_set_status_changes(https: &Https) {
    made(
        https,
        STATEFUL_SETS,
        &named("StatefulSet", "status", json!({"replicas": 1, "serviceName": "status"})),
    );
    until(https, STATEFUL_SETS, "status", &[("readyReplicas", 1)]);
    status_changes(https, &format!("{STATEFUL_SETS}/status"));
    gone(https, &format!("{STATEFUL_SETS}/status"));
}

/// Nodes that are there while `work` is done.
pub(super) fn with_nodes(https: &Https, work: impl FnOnce()) {
    for name in ["node-a", "node-b", "node-c"] {
        let meta = json!({"name": name, "labels": {"place": name}});
        made(https, NODES, &json!({"apiVersion": "v1", "kind": "Node", "metadata": meta}));
    }
    work();
    for name in ["node-a", "node-b", "node-c"] {
        assert_eq!(https.ask("DELETE", &format!("{NODES}/{name}")).send().code, 200);
    }
}

/// A DaemonSet with a pod on each of the three nodes.
fn daemons(https: &Https, app: &str, spec: Value) {
    made(https, DAEMON_SETS, &named("DaemonSet", app, spec));
    until(
        https,
        DAEMON_SETS,
        app,
        &[("desiredNumberScheduled", 3), ("numberAvailable", 3), ("updatedNumberScheduled", 3)],
    );
}

pub(super) fn daemon_sets_run_everywhere(https: &Https) {
    with_nodes(https, || {
        daemons(https, "everywhere", json!({}));
        let before = pods(https, "everywhere");
        let name = before[0]["metadata"]["name"].as_str().unwrap();
        assert_eq!(https.ask("DELETE", &format!("{PODS}/{name}?gracePeriodSeconds=0")).send().code, 200);
        wait_for("another pod", SOON, || {
            let now = pods(https, "everywhere");
            (now.len() == 3 && !names(&now).contains(&name)).then_some(())
        });
        until(https, DAEMON_SETS, "everywhere", &[("numberAvailable", 3)]);
        gone(https, &format!("{DAEMON_SETS}/everywhere"));
    });
}

pub(super) fn daemon_sets_choose_nodes(https: &Https) {
    with_nodes(https, || {
        let mut set = named("DaemonSet", "chosen", json!({}));
        set["spec"]["template"]["spec"]["nodeSelector"] = json!({"color": "blue"});
        made(https, DAEMON_SETS, &set);
        until(https, DAEMON_SETS, "chosen", &[("desiredNumberScheduled", 0)]);
        let color = |color: &str| {
            patched(https, &format!("{NODES}/node-b"), &json!({"metadata": {"labels": {"color": color}}}));
        };
        color("blue");
        until(https, DAEMON_SETS, "chosen", &[("numberAvailable", 1)]);
        color("green");
        count(https, PODS, "chosen", 0);
        until(https, DAEMON_SETS, "chosen", &[("desiredNumberScheduled", 0), ("numberMisscheduled", 0)]);
        let mut change = image("other");
        change["spec"]["template"]["spec"]["nodeSelector"] = json!({"color": "green"});
        change["spec"]["updateStrategy"] = json!({"type": "RollingUpdate"});
        patched(https, &format!("{DAEMON_SETS}/chosen"), &change);
        until(https, DAEMON_SETS, "chosen", &[("numberAvailable", 1)]);
        gone(https, &format!("{DAEMON_SETS}/chosen"));
    });
}

pub(super) fn daemon_sets_replace_failed_pods(https: &Https) {
    with_nodes(https, || {
        daemons(https, "retried", json!({}));
        let before = pods(https, "retried");
        says(https, &before[0], "Failed", "False");
        let name = names(&before)[0];
        wait_for("another pod", SOON, || (!names(&pods(https, "retried")).contains(&name)).then_some(()));
        until(https, DAEMON_SETS, "retried", &[("numberAvailable", 3)]);
        gone(https, &format!("{DAEMON_SETS}/retried"));
    });
}

pub(super) fn daemon_sets_update(https: &Https) {
    with_nodes(https, || {
        daemons(https, "updated", json!({"updateStrategy": {"type": "RollingUpdate"}}));
        patched(https, &format!("{DAEMON_SETS}/updated"), &image("new"));
        until(https, DAEMON_SETS, "updated", &[("updatedNumberScheduled", 3), ("numberAvailable", 3)]);
        assert!(images(https, "updated").iter().all(|(_, image)| image == "new"));
        assert_eq!(count(https, REVISIONS, "updated", 2).len(), 2);
        gone(https, &format!("{DAEMON_SETS}/updated"));
    });
}

pub(super) fn daemon_sets_roll_back(https: &Https) {
    with_nodes(https, || {
        daemons(https, "rollback", json!({"updateStrategy": {"type": "RollingUpdate"}}));
        let (path, first) = (format!("{DAEMON_SETS}/rollback"), images(https, "rollback"));
        patched(https, &path, &image(BROKEN));
        wait_for("a pod that does not run", SOON, || {
            images(https, "rollback").iter().any(|(_, image)| image == BROKEN).then_some(())
        });
        let kept: Vec<_> =
            images(https, "rollback").into_iter().filter(|(_, image)| image != BROKEN).collect();
        assert_eq!(kept.len(), 2, "one at a time");
        patched(https, &path, &image(&first[0].1));
        until(https, DAEMON_SETS, "rollback", &[("updatedNumberScheduled", 3), ("numberAvailable", 3)]);
        let last = images(https, "rollback");
        assert!(kept.iter().all(|pod| last.contains(pod)), "what was not replaced stays: {kept:?} {last:?}");
        gone(https, &path);
    });
}

pub(super) fn daemon_sets_are_listed_and_deleted(https: &Https) {
    with_nodes(https, || {
        daemons(https, "collected", json!({}));
        listed_and_deleted(https, DAEMON_SETS, "collected");
    });
}

pub(super) fn daemon_set_status_changes(https: &Https) {
    with_nodes(https, || {
        daemons(https, "told", json!({}));
        status_changes(https, &format!("{DAEMON_SETS}/told"));
        gone(https, &format!("{DAEMON_SETS}/told"));
    });
}

pub(super) fn revisions_live(https: &Https) {
    with_nodes(https, || {
        daemons(https, "revised", json!({}));
        let listed = |number: usize| count(https, REVISIONS, "revised", number);
        let first = listed(1)[0].clone();
        let name = |revision: &Value| revision["metadata"]["name"].as_str().unwrap().to_owned();
        let changed = patched(
            https,
            &format!("{REVISIONS}/{}", name(&first)),
            &json!({"metadata": {"labels": {"marked": "patched"}}}),
        );
        assert_eq!(changed["metadata"]["labels"]["marked"], "patched");
        let mut second = first.clone();
        let labels = json!({"app": "revised", "controller-revision-hash": "own"});
        second["metadata"] = json!({"name": "revised-own", "labels": labels, "ownerReferences": first["metadata"]["ownerReferences"]});
        second["revision"] = json!(2);
        made(https, REVISIONS, &second);
        listed(2);
        assert_eq!(https.ask("DELETE", &format!("{REVISIONS}/{}", name(&first))).send().code, 200);
        assert_eq!(name(&listed(1)[0]), "revised-own");
        let changed = updated(https, &format!("{REVISIONS}/revised-own"), |one| {
            one["metadata"]["labels"]["marked"] = json!("updated")
        });
        assert_eq!(changed["metadata"]["labels"]["marked"], "updated");
        patched(
            https,
            &format!("{DAEMON_SETS}/revised"),
            &json!({"spec": {"template": {"spec": {"terminationGracePeriodSeconds": 1}}}}),
        );
        listed(2);
        assert_eq!(
            https.ask("DELETE", &format!("{REVISIONS}?labelSelector=marked%3Dupdated")).send().code,
            200
        );
        assert_eq!(listed(1)[0]["revision"], 3);
        gone(https, &format!("{DAEMON_SETS}/revised"));
    });
}

/// Midnight of a day before today, as a schedule.
fn midnight(days_ago: i64) -> String {
    let day = base::clock::now().to_zoned(api::k8s::jiff::tz::TimeZone::UTC).date()
        - api::k8s::jiff::Span::new().days(days_ago);
    format!("0 0 {} {} *", day.day(), day.month())
}

/// A CronJob whose next Job is due for a midnight that has passed.
fn overdue(https: &Https, app: &str, policy: &str) -> String {
    let job = json!({"metadata": {"labels": {"app": app}}, "spec": {"template": template(app)}});
    let mut spec = json!({"schedule": midnight(2), "timeZone": "Etc/UTC", "concurrencyPolicy": policy, "suspend": true, "jobTemplate": job});
    spec["jobTemplate"]["spec"]["template"]["spec"]["restartPolicy"] = json!("Never");
    let meta = json!({"name": app, "labels": {"app": app}});
    made(
        https,
        CRON_JOBS,
        &json!({"apiVersion": "batch/v1", "kind": "CronJob", "metadata": meta, "spec": spec}),
    );
    let path = format!("{CRON_JOBS}/{app}");
    let last = base::clock::now() - api::k8s::jiff::SignedDuration::from_hours(24 * 10);
    let last = json!(last.strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
    patched(https, &format!("{path}/status"), &json!({"status": {"lastScheduleTime": last}}));
    path
}

fn resume(https: &Https, path: &str) {
    patched(https, path, &json!({"spec": {"suspend": false}}));
}

/// Makes another Job due.
fn again(https: &Https, path: &str) {
    patched(https, path, &json!({"spec": {"schedule": midnight(1)}}));
    // A new schedule does not start anything by itself, any other change does.
    patched(https, path, &json!({"spec": {"successfulJobsHistoryLimit": 5}}));
}

fn active(https: &Https, path: &str, number: usize) -> Vec<Value> {
    wait_for(&format!("{number} active of {path}"), SOON, || {
        let active = get(https, path).1["status"]["active"].as_array().cloned().unwrap_or_default();
        (active.len() == number).then_some(active)
    })
}

fn reason(https: &Https, name: &str, reason: &str) {
    let path = format!(
        "/api/v1/namespaces/conformance/events?fieldSelector=involvedObject.name%3D{name}%2Creason%3D{reason}"
    );
    wait_for(&format!("{reason} of {name}"), SOON, || (!items(https, &path).is_empty()).then_some(()));
}

pub(super) fn cron_jobs_are_suspended(https: &Https) {
    let suspended = overdue(https, "suspended", "Allow");
    let other = overdue(https, "other", "Allow");
    resume(https, &other);
    count(https, JOBS, "other", 1);
    assert_eq!(items(https, &format!("{JOBS}?labelSelector=app%3Dsuspended")), [Value::Null; 0]);
    resume(https, &suspended);
    count(https, JOBS, "suspended", 1);
    active(https, &suspended, 1);
    gone(https, &suspended);
    gone(https, &other);
}

pub(super) fn cron_jobs_run_beside_one_another(https: &Https) {
    let path = overdue(https, "beside", "Allow");
    resume(https, &path);
    active(https, &path, 1);
    again(https, &path);
    active(https, &path, 2);
    count(https, JOBS, "beside", 2);
    gone(https, &path);
    count(https, JOBS, "beside", 0);
}

pub(super) fn cron_jobs_wait_for_one_another(https: &Https) {
    let path = overdue(https, "forbid", "Forbid");
    resume(https, &path);
    let first = active(https, &path, 1);
    again(https, &path);
    reason(https, "forbid", "JobAlreadyActive");
    assert_eq!(active(https, &path, 1), first);
    count(https, JOBS, "forbid", 1);
    gone(https, &path);
}

pub(super) fn cron_jobs_replace_one_another(https: &Https) {
    let path = overdue(https, "replace", "Replace");
    resume(https, &path);
    let first = active(https, &path, 1);
    again(https, &path);
    // One of the two may be told of before the other.
    wait_for("another job", SOON, || {
        let jobs = items(https, &format!("{JOBS}?labelSelector=app%3Dreplace"));
        let active = active(https, &path, 1);
        let another = jobs.len() == 1 && jobs[0]["metadata"]["name"] != first[0]["name"];
        (another && active[0]["uid"] == jobs[0]["metadata"]["uid"]).then_some(())
    });
    gone(https, &path);
}

pub(super) fn cron_jobs_live(https: &Https) {
    let path = overdue(https, "lives", "Allow");
    let own = get(https, &path).1;
    for list in [CRON_JOBS, "/apis/batch/v1/cronjobs"] {
        let found = items(https, &format!("{list}?labelSelector=app%3Dlives"));
        assert_eq!((found.len(), &found[0]["metadata"]["uid"]), (1, &own["metadata"]["uid"]));
    }
    let since = own["metadata"]["resourceVersion"].as_str().unwrap();
    let watched = format!("{CRON_JOBS}?watch=true&labelSelector=app%3Dlives&resourceVersion={since}");
    let events = https.ask("GET", &watched).watch().unwrap_or_else(|answer| panic!("{}", answer.value()));
    patched(https, &path, &json!({"metadata": {"annotations": {"patched": "true"}}}));
    updated(https, &path, |cron| cron["metadata"]["annotations"]["updated"] = json!("true"));
    for wanted in ["patched", "updated"] {
        let event = events.next(SOON).unwrap().unwrap();
        assert_eq!(
            (&event["type"], &event["object"]["metadata"]["annotations"][wanted]),
            (&json!("MODIFIED"), &json!("true"))
        );
    }
    let status = format!("{path}/status");
    let time = |object: &Value| object["status"]["lastScheduleTime"].as_str().unwrap().to_owned();
    patched(https, &status, &json!({"status": {"lastScheduleTime": "2026-01-01T00:00:00Z"}}));
    assert_eq!(time(&get(https, &status).1), "2026-01-01T00:00:00Z");
    updated(https, &status, |cron| cron["status"]["lastScheduleTime"] = json!("2026-01-02T00:00:00Z"));
    assert_eq!(time(&get(https, &path).1), "2026-01-02T00:00:00Z");
    assert_eq!(https.ask("DELETE", &path).send().code, 200);
    assert_eq!(get(https, &path).0, 404);
    overdue(https, "lives", "Allow");
    assert_eq!(https.ask("DELETE", &format!("{CRON_JOBS}?labelSelector=app%3Dlives")).send().code, 200);
    count(https, CRON_JOBS, "lives", 0);
}
