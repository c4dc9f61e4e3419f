//! The flow schemas and priority levels that always exist, with specifications that nobody may change.

use serde_json::{Value, json};
use std::sync::LazyLock;

/// The names of both.
pub(crate) const EXEMPT: &str = "exempt";
const CATCH_ALL: &str = "catch-all";

type Fixed = LazyLock<[(&'static str, Value); 2]>;

/// Flow schemas by their names.
pub(crate) static SCHEMAS: Fixed = LazyLock::new(|| {
    let mut last = everything(CATCH_ALL, 10_000, &["system:unauthenticated", "system:authenticated"]);
    last["distinguisherMethod"] = json!({"type": "ByUser"});
    [(EXEMPT, everything(EXEMPT, 1, &["system:masters"])), (CATCH_ALL, last)]
});

/// Priority levels by their names. What `exempt` has of that name may be changed.
pub(crate) static LEVELS: Fixed = LazyLock::new(|| {
    [
        (EXEMPT, json!({"type": "Exempt", "exempt": {"nominalConcurrencyShares": 0, "lendablePercent": 0}})),
        (
            CATCH_ALL,
            json!({"type": "Limited", "limited": {
                "nominalConcurrencyShares": 5, "lendablePercent": 0, "limitResponse": {"type": "Reject"}}}),
        ),
    ]
});

fn everything(name: &str, precedence: u32, groups: &[&str]) -> Value {
    let subjects: Vec<Value> =
        groups.iter().map(|group| json!({"kind": "Group", "group": {"name": group}})).collect();
    let resources = json!([{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"],
        "namespaces": ["*"], "clusterScope": true}]);
    json!({
        "matchingPrecedence": precedence, "priorityLevelConfiguration": {"name": name},
        "rules": [{"subjects": subjects, "resourceRules": resources,
            "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}]}],
    })
}
