//! Behaviours of Deployments, ReplicaSets and ReplicationControllers. The test plays the nodes.

use super::workloads::{
    BROKEN, gone, have_a_scale, image, images, listed_and_deleted, named, names, play, pods, says,
    status_changes, until, with_nodes,
};
use super::{
    CONTROLLERS, DEPLOYMENTS, PODS, REPLICA_SETS, count, deleted, get, items, made, namespace, patched,
    template, updated,
};
use crate::support::cluster::SOON;
use crate::support::https::Https;
use crate::support::process::wait_for;
use serde_json::{Value, json};

const REVISION: &str = "deployment.kubernetes.io/revision";

fn deployment(https: &Https, app: &str, spec: Value) -> Value {
    made(https, DEPLOYMENTS, &named("Deployment", app, spec))
}

/// A ReplicaSet with one running pod that a Deployment of the same app takes over as one of another template.
fn foreign_set(https: &Https, app: &str, annotations: Value) -> String {
    let mut set = named("ReplicaSet", app, json!({"replicas": 1}));
    set["metadata"]["name"] = json!(format!("{app}-before"));
    set["metadata"]["annotations"] = annotations;
    set["spec"]["selector"]["matchLabels"]["pod"] = json!("before");
    set["spec"]["template"]["metadata"]["labels"]["pod"] = json!("before");
    made(https, REPLICA_SETS, &set);
    until(https, REPLICA_SETS, &format!("{app}-before"), &[]);
    wait_for("its pod to run", SOON, || {
        play(https, app);
        let set = get(https, &format!("{REPLICA_SETS}/{app}-before")).1;
        (set["status"]["availableReplicas"] == 1).then_some(())
    });
    format!("{REPLICA_SETS}/{app}-before")
}

const COMPLETE: [(&str, i64); 3] = [("replicas", 1), ("updatedReplicas", 1), ("availableReplicas", 1)];

fn replicas(https: &Https, set: &str) -> Value {
    get(https, set).1["spec"]["replicas"].clone()
}

/// The one set of a Deployment that runs an image.
fn set_of(https: &Https, app: &str, image: &str) -> String {
    let sets = items(https, &format!("{REPLICA_SETS}?labelSelector=app%3D{app}"));
    let runs = |set: &&Value| set["spec"]["template"]["spec"]["containers"][0]["image"] == image;
    let found: Vec<_> = sets.iter().filter(runs).collect();
    assert_eq!(found.len(), 1, "{image}: {found:#?}");
    format!("{REPLICA_SETS}/{}", names(&[found[0].clone()])[0])
}

pub(super) fn deployments_roll(https: &Https) {
    let old = foreign_set(https, "roll", json!({REVISION: "3546343826724305832"}));
    deployment(https, "roll", json!({"replicas": 1}));
    let done = until(https, DEPLOYMENTS, "roll", &COMPLETE);
    assert_eq!(done["metadata"]["annotations"][REVISION], "3546343826724305833");
    let old = get(https, &old).1;
    assert_eq!(old["metadata"]["ownerReferences"][0]["uid"], done["metadata"]["uid"]);
    assert_eq!((&old["spec"]["replicas"], count(https, REPLICA_SETS, "roll", 2).len()), (&json!(0), 2));
    gone(https, &format!("{DEPLOYMENTS}/roll"));
}

/// Nothing new is made while an old pod still runs on its node.
pub(super) fn deployments_recreate(https: &Https) {
    with_nodes(https, || {
        deployment(https, "again", json!({"replicas": 1, "strategy": {"type": "Recreate"}}));
        until(https, DEPLOYMENTS, "again", &COMPLETE);
        let old = format!("{PODS}/{}", names(&pods(https, "again"))[0]);
        let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": names(&pods(https, "again"))[0]},
            "target": {"apiVersion": "v1", "kind": "Node", "name": "node-a"}});
        made(https, &format!("{old}/binding"), &binding);
        patched(https, &format!("{DEPLOYMENTS}/again"), &image("new"));
        wait_for("the old pod to be deleted", SOON, || {
            get(https, &old).1["metadata"]["deletionTimestamp"].is_string().then_some(())
        });
        until(https, DEPLOYMENTS, "again", &[("updatedReplicas", 0)]);
        assert_eq!(images(https, "again").len(), 1, "{:#?}", pods(https, "again"));
        assert_eq!(https.ask("DELETE", &format!("{old}?gracePeriodSeconds=0")).send().code, 200);
        until(https, DEPLOYMENTS, "again", &COMPLETE);
        let now = images(https, "again");
        assert_eq!(now.iter().map(|(_, image)| image.as_str()).collect::<Vec<_>>(), ["new"]);
        gone(https, &format!("{DEPLOYMENTS}/again"));
    });
}

pub(super) fn deployments_forget_old_sets(https: &Https) {
    let old = foreign_set(https, "forget", Value::Null);
    deployment(https, "forget", json!({"replicas": 1, "revisionHistoryLimit": 0}));
    until(https, DEPLOYMENTS, "forget", &COMPLETE);
    wait_for("the old set to be gone", SOON, || (get(https, &old).0 == 404).then_some(()));
    patched(https, &format!("{DEPLOYMENTS}/forget"), &json!({"spec": {"revisionHistoryLimit": 1}}));
    for new in ["second", "third", "fourth"] {
        patched(https, &format!("{DEPLOYMENTS}/forget"), &image(new));
        until(https, DEPLOYMENTS, "forget", &COMPLETE);
    }
    count(https, REPLICA_SETS, "forget", 2);
    set_of(https, "forget", "third");
    gone(https, &format!("{DEPLOYMENTS}/forget"));
}

pub(super) fn deployments_scale_in_proportion(https: &Https) {
    let rolling = json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 3, "maxUnavailable": 2}});
    deployment(https, "share", json!({"replicas": 10, "strategy": rolling}));
    until(https, DEPLOYMENTS, "share", &[("availableReplicas", 10), ("updatedReplicas", 10)]);
    let path = format!("{DEPLOYMENTS}/share");
    patched(https, &path, &image(BROKEN));
    until(https, DEPLOYMENTS, "share", &[("availableReplicas", 8), ("updatedReplicas", 5)]);
    let old = set_of(https, "share", "knarr.test/none:1");
    let new = set_of(https, "share", BROKEN);
    assert_eq!([replicas(https, &old), replicas(https, &new)], [8, 5]);
    assert!(get(https, &new).1["status"]["availableReplicas"].is_null());
    patched(https, &path, &json!({"spec": {"replicas": 30}}));
    until(https, DEPLOYMENTS, "share", &[("availableReplicas", 20), ("updatedReplicas", 13)]);
    assert_eq!([replicas(https, &old), replicas(https, &new)], [20, 13]);
    gone(https, &path);
}

/// A change that comes before the one before is through takes over at once.
pub(super) fn deployments_roll_over(https: &Https) {
    let old = foreign_set(https, "over", Value::Null);
    let mut object = named(
        "Deployment",
        "over",
        json!({"replicas": 1, "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}}),
    );
    object["spec"]["template"]["spec"]["containers"][0]["image"] = json!(BROKEN);
    made(https, DEPLOYMENTS, &object);
    let stuck = until(https, DEPLOYMENTS, "over", &[("replicas", 2), ("updatedReplicas", 1)]);
    assert_eq!(stuck["metadata"]["annotations"][REVISION], "1");
    let broken = set_of(https, "over", BROKEN);
    assert_eq!([replicas(https, &old), replicas(https, &broken)], [1, 1]);
    patched(https, &format!("{DEPLOYMENTS}/over"), &image("works"));
    let done = until(https, DEPLOYMENTS, "over", &COMPLETE);
    assert_eq!(done["metadata"]["annotations"][REVISION], "2");
    assert_eq!([replicas(https, &old), replicas(https, &broken)], [0, 0]);
    gone(https, &format!("{DEPLOYMENTS}/over"));
}

pub(super) fn deployments_have_a_scale(https: &Https) {
    deployment(https, "scale-d", json!({"replicas": 1}));
    until(https, DEPLOYMENTS, "scale-d", &COMPLETE);
    have_a_scale(https, DEPLOYMENTS, "scale-d");
}

pub(super) fn deployments_live(https: &Https) {
    deployment(https, "lives", json!({"replicas": 1}));
    until(https, DEPLOYMENTS, "lives", &COMPLETE);
    let path = format!("{DEPLOYMENTS}/lives");
    let mut change = image("patched");
    change["metadata"] = json!({"labels": {"patched": "yes"}});
    change["spec"]["replicas"] = json!(2);
    let now = patched(https, &path, &change);
    assert_eq!((&now["metadata"]["labels"]["patched"], &now["spec"]["replicas"]), (&json!("yes"), &json!(2)));
    until(https, DEPLOYMENTS, "lives", &[("availableReplicas", 2), ("updatedReplicas", 2), ("replicas", 2)]);
    assert_eq!(items(https, "/apis/apps/v1/deployments?labelSelector=patched%3Dyes").len(), 1);
    updated(https, &path, |object| object["spec"]["replicas"] = json!(1));
    until(https, DEPLOYMENTS, "lives", &COMPLETE);
    let status = format!("{path}/status");
    assert_eq!(get(https, &status).1["status"]["readyReplicas"], 1);
    let told = json!({"type": "Told", "status": "True", "reason": "E2E"});
    let now = patched(https, &status, &json!({"status": {"conditions": [told]}}));
    assert_eq!(now["status"]["conditions"][0]["type"], "Told");
    assert_eq!(https.ask("DELETE", &format!("{DEPLOYMENTS}?labelSelector=patched%3Dyes")).send().code, 200);
    count(https, DEPLOYMENTS, "lives", 0);
    count(https, PODS, "lives", 0);
}

pub(super) fn deployment_status_changes(https: &Https) {
    deployment(https, "told-d", json!({"replicas": 1}));
    until(https, DEPLOYMENTS, "told-d", &COMPLETE);
    status_changes(https, &format!("{DEPLOYMENTS}/told-d"));
    gone(https, &format!("{DEPLOYMENTS}/told-d"));
}

fn replica_set(https: &Https, app: &str) {
    made(https, REPLICA_SETS, &named("ReplicaSet", app, json!({"replicas": 1})));
    until(https, REPLICA_SETS, app, &[("readyReplicas", 1)]);
}

pub(super) fn replica_sets_are_replaced_and_patched(https: &Https) {
    replica_set(https, "changed");
    let path = format!("{REPLICA_SETS}/changed");
    updated(https, &path, |set| set["spec"]["replicas"] = json!(2));
    until(https, REPLICA_SETS, "changed", &[("readyReplicas", 2)]);
    assert_eq!(get(https, &format!("{path}/scale")).1["spec"]["replicas"], 2);
    let mut change = image("patched");
    change["metadata"] = json!({"labels": {"patched": "yes"}});
    change["spec"]["replicas"] = json!(3);
    patched(https, &path, &change);
    let set = until(https, REPLICA_SETS, "changed", &[("readyReplicas", 3)]);
    assert_eq!(set["metadata"]["labels"]["patched"], "yes");
    // What was there is not replaced: that is a Deployment's part.
    let new = images(https, "changed").iter().filter(|(_, image)| image == "patched").count();
    assert_eq!(new, 1);
    gone(https, &path);
}

pub(super) fn replica_sets_have_a_scale(https: &Https) {
    replica_set(https, "scale-r");
    have_a_scale(https, REPLICA_SETS, "scale-r");
}

pub(super) fn replica_sets_are_listed_and_deleted(https: &Https) {
    replica_set(https, "listed-r");
    listed_and_deleted(https, REPLICA_SETS, "listed-r");
}

pub(super) fn replica_set_status_changes(https: &Https) {
    replica_set(https, "told-r");
    status_changes(https, &format!("{REPLICA_SETS}/told-r"));
    gone(https, &format!("{REPLICA_SETS}/told-r"));
}

fn controller(app: &str, replicas: i32) -> Value {
    let spec = json!({"replicas": replicas, "selector": {"app": app}, "template": template(app)});
    json!({"apiVersion": "v1", "kind": "ReplicationController",
        "metadata": {"name": app, "labels": {"app": app}}, "spec": spec})
}

/// A pod that nobody owns becomes a new owner's.
fn adopts(https: &Https, path: &str, app: &str, owner: &Value) -> Value {
    let mut pod = template(app);
    pod["metadata"]["name"] = json!(app);
    let pod = made(https, PODS, &pod);
    says(https, &pod, "Running", "True");
    let owner = made(https, path, owner);
    until(https, path, app, &[("replicas", 1), ("readyReplicas", 1)]);
    let now = pods(https, app);
    assert_eq!(names(&now), [app]);
    assert_eq!(now[0]["metadata"]["ownerReferences"][0]["uid"], owner["metadata"]["uid"]);
    owner
}

/// A pod that no longer matches is nobody's, and another one takes its place.
fn releases(https: &Https, path: &str, app: &str) {
    let pod = pods(https, app)[0].clone();
    let own = format!("{PODS}/{}", names(&[pod])[0]);
    updated(https, &own, |pod| pod["metadata"]["labels"] = json!({"app": format!("not-{app}")}));
    wait_for("the pod to be released", SOON, || {
        get(https, &own).1["metadata"]["ownerReferences"].is_null().then_some(())
    });
    until(https, path, app, &[("replicas", 1), ("readyReplicas", 1)]);
    assert_eq!(https.ask("DELETE", &own).send().code, 200);
    gone(https, &format!("{path}/{app}"));
}

pub(super) fn replica_sets_adopt_and_release(https: &Https) {
    adopts(https, REPLICA_SETS, "adopted-r", &named("ReplicaSet", "adopted-r", json!({"replicas": 1})));
    releases(https, REPLICA_SETS, "adopted-r");
}

pub(super) fn controllers_adopt(https: &Https) {
    adopts(https, CONTROLLERS, "adopted-c", &controller("adopted-c", 1));
    gone(https, &format!("{CONTROLLERS}/adopted-c"));
}

pub(super) fn controllers_release(https: &Https) {
    made(https, CONTROLLERS, &controller("released", 1));
    until(https, CONTROLLERS, "released", &[("readyReplicas", 1)]);
    releases(https, CONTROLLERS, "released");
}

pub(super) fn controllers_have_a_scale(https: &Https) {
    made(https, CONTROLLERS, &controller("scale-c", 1));
    until(https, CONTROLLERS, "scale-c", &[("readyReplicas", 1)]);
    have_a_scale(https, CONTROLLERS, "scale-c");
}

/// That a quota holds pods back is said, and no longer once fewer are wanted.
pub(super) fn controllers_say_what_fails(https: &Https) {
    let own = namespace(https, "too-many");
    let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "two"},
        "spec": {"hard": {"pods": "2"}}});
    made(https, &format!("{own}/resourcequotas"), &quota);
    wait_for("the quota", SOON, || {
        let quota = get(https, &format!("{own}/resourcequotas/two")).1;
        (quota["status"]["hard"]["pods"] == "2").then_some(())
    });
    wait_for("the account of pods", SOON, || {
        (get(https, &format!("{own}/serviceaccounts/default")).0 == 200).then_some(())
    });
    let path = format!("{own}/replicationcontrollers");
    made(https, &path, &controller("many", 3));
    let failure = || get(https, &format!("{path}/many")).1["status"]["conditions"][0].clone();
    let said = wait_for("the failure", SOON, || Some(failure()).filter(|one| !one.is_null()));
    let facts = ["type", "status", "reason"].map(|field| said[field].as_str().unwrap_or_default());
    assert_eq!(facts, ["ReplicaFailure", "True", "FailedCreate"]);
    let message = said["message"].as_str().unwrap();
    assert!(
        message.contains("exceeded quota: two, requested: pods=1, used: pods=2, limited: pods=2"),
        "{message}"
    );
    updated(https, &format!("{path}/many"), |one| one["spec"]["replicas"] = json!(2));
    wait_for("no failure", SOON, || failure().is_null().then_some(()));
    deleted(https, &own, "Background");
}

pub(super) fn controllers_live(https: &Https) {
    made(https, CONTROLLERS, &controller("lives-c", 1));
    until(https, CONTROLLERS, "lives-c", &[("readyReplicas", 1)]);
    let path = format!("{CONTROLLERS}/lives-c");
    let now = patched(https, &path, &json!({"metadata": {"labels": {"patched": "yes"}}}));
    assert_eq!(now["metadata"]["labels"]["patched"], "yes");
    let now = patched(
        https,
        &format!("{path}/status"),
        &json!({"status": {"readyReplicas": 0, "availableReplicas": 0}}),
    );
    assert_eq!(now["status"]["readyReplicas"].as_i64().unwrap_or(0), 0);
    assert_eq!(get(https, &format!("{path}/status")).1["kind"], "ReplicationController");
    patched(https, &format!("{path}/scale"), &json!({"spec": {"replicas": 2}}));
    until(https, CONTROLLERS, "lives-c", &[("replicas", 2), ("availableReplicas", 2)]);
    assert_eq!(items(https, "/api/v1/replicationcontrollers?labelSelector=patched%3Dyes").len(), 1);
    updated(https, &path, |one| one["spec"]["template"]["metadata"]["labels"]["more"] = json!("yes"));
    // By default the pods of a ReplicationController are left.
    deleted(https, &format!("{CONTROLLERS}?labelSelector=patched%3Dyes"), "Background");
    count(https, CONTROLLERS, "lives-c", 0);
    count(https, PODS, "lives-c", 0);
}
