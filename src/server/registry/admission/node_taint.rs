//! TaintNodesByCondition: a new node takes no pods before it is known to be ready.

use super::{CREATE, STEP as PLAIN, Step, items, push};
use serde_json::{Value, json};

const NOT_READY: &str = "node.kubernetes.io/not-ready";

pub(super) const STEP: Step = Step {
    name: "TaintNodesByCondition",
    targets: &["nodes"],
    operations: CREATE,
    admit: |_, node| {
        taint(&mut node["spec"]);
        Ok(())
    },
    ..PLAIN
};

fn taint(spec: &mut Value) {
    let there = |taint: &Value| taint["key"] == NOT_READY && taint["effect"] == "NoSchedule";
    if !items(spec, "taints").iter().any(there) {
        push(spec, "taints", json!({"key": NOT_READY, "effect": "NoSchedule"}));
    }
}
