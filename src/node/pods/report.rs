//! Writing a pod's status: a patch with what changed, and nothing if nothing did.

use super::conditions::RESIZE;
use api::core::PodStatus;
use serde_json::{Map, Value, json};

/// Fields that others write and that a patch of ours must leave alone.
const FOREIGN: [&str; 5] = [
    "nominatedNodeName",
    "resourceClaimStatuses",
    "extendedResourceClaimStatus",
    "nodeAllocatableResourceClaimStatuses",
    "resize",
];

/// The strategic merge patch from the stored status to the rendered one, for the very pod of this uid.
pub(crate) fn patch(uid: &str, stored: Option<&PodStatus>, status: &PodStatus) -> Option<Value> {
    // Most looks change nothing: that is told without writing both out.
    if stored == Some(status) {
        return None;
    }
    let as_map = |status: &PodStatus| match serde_json::to_value(status) {
        Ok(Value::Object(map)) => map,
        _ => Map::new(),
    };
    let old = as_map(&stored.cloned().unwrap_or_default());
    let new = as_map(status);
    let mut changes = Map::new();
    for (name, value) in &new {
        if name != "conditions" && old.get(name) != Some(value) {
            changes.insert(name.clone(), replaced(name, value));
        }
    }
    for name in old.keys() {
        if !new.contains_key(name) && !FOREIGN.contains(&name.as_str()) {
            changes.insert(name.clone(), Value::Null);
        }
    }
    let conditions = changed_conditions(&old, &new);
    if !conditions.is_empty() {
        changes.insert("conditions".to_owned(), Value::Array(conditions));
    }
    (!changes.is_empty()).then(|| json!({"metadata": {"uid": uid}, "status": changes}))
}

/// Lists of addresses would be merged by address, and amounts by their resource; they are replaced.
fn replaced(name: &str, value: &Value) -> Value {
    let mut value = value.clone();
    match (name, &mut value) {
        ("podIPs" | "hostIPs", Value::Array(list)) => list.push(json!({"$patch": "replace"})),
        ("resources" | "allocatedResources", Value::Object(map)) => {
            map.insert("$patch".to_owned(), "replace".into());
        }
        _ => {}
    }
    value
}

fn changed_conditions(old: &Map<String, Value>, new: &Map<String, Value>) -> Vec<Value> {
    fn list(map: &Map<String, Value>) -> &[Value] {
        map.get("conditions").and_then(Value::as_array).map_or(&[], Vec::as_slice)
    }
    let before = |kind: &Value| list(old).iter().find(|condition| condition["type"] == *kind);
    let changed = list(new).iter().filter(|condition| before(&condition["type"]) != Some(*condition));
    let with_removals = changed.map(|condition| {
        let mut condition = condition.clone();
        let gone: Vec<String> = before(&condition["type"])
            .and_then(Value::as_object)
            .map(|before| {
                before.keys().filter(|key| condition.get(key.as_str()).is_none()).cloned().collect()
            })
            .unwrap_or_default();
        for key in gone {
            condition[key] = Value::Null;
        }
        condition
    });
    let there = |list: &[Value], kind| list.iter().any(|condition| condition["type"] == kind);
    let gone = RESIZE.into_iter().filter(|kind| there(list(old), *kind) && !there(list(new), *kind));
    let ended = gone.map(|kind| json!({"$patch": "delete", "type": kind}));
    with_removals.chain(ended).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::core::PodCondition;

    #[test]
    fn amounts_are_replaced_and_not_merged() {
        let of = |requests: Value| -> PodStatus {
            let resources = json!({"requests": requests});
            serde_json::from_value(json!({"resources": resources, "allocatedResources": requests})).unwrap()
        };
        let (old, new) = (of(json!({"cpu": "1", "memory": "1Gi"})), of(json!({"cpu": "1"})));
        let mut stored = json!({"status": old});
        let patch = json!({"status": patch("u", Some(&old), &new).unwrap()["status"]});
        api::patch::strategic(&mut stored, &patch, api::schema::schema().by_stated("v1", "Pod").unwrap())
            .unwrap();
        assert_eq!(stored, json!({"status": new}));
    }

    #[test]
    fn only_what_changed_is_sent() {
        let condition = |status: &str, reason: Option<&str>| PodCondition {
            type_: "Ready".to_owned(),
            status: status.to_owned(),
            reason: reason.map(str::to_owned),
            ..Default::default()
        };
        let old = PodStatus {
            phase: Some("Pending".to_owned()),
            reason: Some("Old".to_owned()),
            conditions: Some(vec![condition("False", Some("ContainersNotReady"))]),
            ..Default::default()
        };
        assert_eq!(patch("u", Some(&old), &old), None);
        let new = PodStatus { reason: None, conditions: Some(vec![condition("True", None)]), ..old.clone() };
        let status = patch("u", Some(&old), &new).unwrap()["status"].clone();
        assert_eq!(
            status,
            json!({"reason": null, "conditions": [{"type": "Ready", "status": "True", "reason": null}]})
        );
    }
}
