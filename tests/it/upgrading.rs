//! Plans of upgrades, by Jobs whose pod writes into the machine's files instead of upgrading it.

use crate::support::cluster::Cluster;
use crate::support::process::wait_for;
use serde_json::{Value, json};
use std::fs;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(60);

fn plan(script: &str, drain: &Value) -> String {
    json!({
        "apiVersion": "upgrade.knarr.io/v1", "kind": "Plan", "metadata": {"name": "edge"},
        "spec": {
            "version": "1", "image": "knarr.test/busybox", "command": ["sh", "-c", script], "drain": drain,
            "activeDeadlineSeconds": 10,
            "nodeSelector": {"matchLabels": {"kubernetes.io/os": "linux"}},
        },
    })
    .to_string()
}

fn complete(cluster: &Cluster, reason: &str) -> Value {
    wait_for(&format!("a plan that is {reason}"), SOON, || {
        let plan = cluster.json("plans.upgrade.knarr.io edge");
        (plan["status"]["conditions"][0]["reason"] == reason).then_some(plan)
    })
}

#[test]
fn a_plan_upgrades_nodes_once_their_pods_have_left() {
    let cluster = Cluster::new();
    let told = cluster.sandbox.folder.join("told");
    let script = format!("echo $KNARR_UPGRADE_NODE $KNARR_UPGRADE_VERSION >> /host{}", told.display());
    cluster.kubectl("create deployment web --image=knarr.test/busybox:1 -- sleep 1000000");
    cluster.kubectl("run alone --image=knarr.test/busybox:1 -- sleep 1000000");
    let web = cluster.pods_ready("app=web", 1)[0]["metadata"]["uid"].clone();
    cluster.pod_ready("alone");
    let refused = cluster.kubectl_with(
        r#"{"apiVersion": "upgrade.knarr.io/v1", "kind": "Plan", "metadata": {"name": "bad"}, "spec": {"version": "1"}}"#,
        &["apply", "-f", "-"],
    );
    assert!(refused.code == 1 && refused.stderr.contains("spec.image: Required value"), "{refused:?}");
    // A pod that nobody would make anew holds it up, and no other is asked to leave.
    cluster.apply(&plan(&script, &json!({"gracePeriodSeconds": 0})));
    let held = complete(&cluster, "Held");
    let why = held["status"]["conditions"][0]["message"].as_str().unwrap();
    assert!(why.contains("pod default/alone may not be made leave: nobody would make it anew"), "{why}");
    assert_eq!(cluster.json("node node-1")["spec"]["unschedulable"], true);
    assert_eq!(cluster.pods_ready("app=web", 1)[0]["metadata"]["uid"], web);
    assert!(!told.exists());
    // Forced, it goes on, and pods come again.
    cluster.apply(&plan(&script, &json!({"gracePeriodSeconds": 0, "force": true})));
    let done = complete(&cluster, "Complete");
    assert_eq!((&done["status"]["nodes"], &done["status"]["upgraded"]), (&json!(1), &json!(1)));
    assert_eq!(fs::read_to_string(&told).unwrap(), "node-1 1\n");
    let node = cluster.json("node node-1");
    assert_eq!(node["spec"]["unschedulable"], Value::Null);
    assert_eq!(node["metadata"]["labels"]["plan.upgrade.knarr.io/edge"], done["status"]["hash"]);
    assert_ne!(cluster.pods_ready("app=web", 1)[0]["metadata"]["uid"], web);
    let row = cluster.kubectl("get plans.upgrade.knarr.io edge --no-headers");
    assert!(row.split_whitespace().take(5).eq(["edge", "1", "1", "1", "[]"]), "{row}");
    // What says the same again does nothing again.
    cluster.kubectl("annotate plans.upgrade.knarr.io edge again=1");
    // One that fails is told of; nothing is left of it once it is gone.
    cluster.apply(&plan("sleep 60", &json!({"gracePeriodSeconds": 0, "force": true})));
    complete(&cluster, "JobFailed");
    assert_eq!(cluster.event("edge", "UpgradeFailed"), "The upgrade of node-1 failed; no other is begun");
    assert_eq!(cluster.json("node node-1")["spec"]["unschedulable"], true);
    cluster.kubectl("delete plans.upgrade.knarr.io edge");
    wait_for("a node that takes pods", SOON, || {
        let node = cluster.json("node node-1");
        (node["spec"]["unschedulable"] == Value::Null
            && node["metadata"]["annotations"]["upgrade.knarr.io/begun"] == Value::Null)
            .then_some(())
    });
    assert_eq!(fs::read_to_string(&told).unwrap(), "node-1 1\n");
}
