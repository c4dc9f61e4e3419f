//! DefaultTolerationSeconds: pods stay for a while on a node that is not ready or not reached.

use super::{STEP as PLAIN, Step, items, push, text};
use serde_json::{Value, json};

/// How long, unless they say otherwise.
const TOLERATED_S: i64 = 300;

pub(super) const STEP: Step = Step {
    name: "DefaultTolerationSeconds",
    targets: &["pods"],
    admit: |_, pod| {
        tolerate(&mut pod["spec"]);
        Ok(())
    },
    ..PLAIN
};

fn tolerate(spec: &mut Value) {
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let covers = |one: &Value| {
            let key_fits = one["key"] == key || text(one, "key").is_empty();
            key_fits && matches!(text(one, "effect"), "" | "NoExecute")
        };
        if !items(spec, "tolerations").iter().any(covers) {
            let own = json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": TOLERATED_S});
            push(spec, "tolerations", own);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_tolerations_are_respected() {
        let mut spec = json!({"tolerations": [{"operator": "Exists"}]});
        tolerate(&mut spec);
        assert_eq!(items(&spec, "tolerations").len(), 1);
        let mut plain = json!({});
        tolerate(&mut plain);
        assert_eq!(items(&plain, "tolerations").len(), 2);
    }
}
