//! Behaviours of the objects of priority and fairness: that they are found, and every verb on them.

use super::{get, items, made, patched, updated, version};
use crate::support::cluster::SOON;
use crate::support::https::Https;
use crate::support::process::wait_for;
use serde_json::{Value, json};

const GROUP: &str = "flowcontrol.apiserver.k8s.io";

fn is_published(https: &Https, (group, plural): (&str, &str), status: bool) {
    let named = |list: &Value, key: &str, name: &str| {
        list.as_array().unwrap().iter().any(|one| one[key].as_str() == Some(name))
    };
    let (_, groups) = get(https, "/apis");
    assert!(named(&groups["groups"], "name", group), "{groups}");
    let (_, versions) = get(https, &format!("/apis/{group}"));
    assert!(named(&versions["versions"], "version", "v1"), "{versions}");
    let (_, resources) = get(https, &format!("/apis/{group}/v1"));
    let plural = plural.rsplit('/').next().unwrap_or(plural);
    for name in [plural.to_owned(), format!("{plural}/status")].iter().take(1 + usize::from(status)) {
        assert!(named(&resources["resources"], "name", name), "{resources}");
    }
}

/// Every verb, in the order of an object's life. `plural` may be led by a namespace; `change` is a patch of the
/// spec, if it has one; a `condition` of its status, where it has one.
pub(super) fn lives(
    https: &Https,
    (group, plural): (&str, &str),
    object: &Value,
    change: &Value,
    condition: Option<Value>,
) {
    is_published(https, (group, plural), condition.is_some());
    let collection = format!("/apis/{group}/v1/{plural}");
    let name = object["metadata"]["name"].as_str().unwrap();
    let (labelled, path) = (format!("{collection}?labelSelector=of%3Dlife"), format!("{collection}/{name}"));
    let since = version(&get(https, &labelled).1);
    let own = made(https, &collection, object);
    assert_eq!(get(https, &path).1["metadata"]["uid"], own["metadata"]["uid"]);
    assert_eq!(items(https, &labelled).len(), 1);
    let mut patch = json!({"metadata": {"annotations": {"patched": "true"}}});
    if !change.is_null() {
        patch["spec"] = change.clone();
    }
    let changed = patched(https, &path, &patch);
    assert_eq!(changed["metadata"]["annotations"]["patched"], "true");
    // The status is kept by somebody else.
    let changed =
        updated(https, &path, |object| object["metadata"]["annotations"]["updated"] = json!("true"));
    assert_eq!(changed["metadata"]["annotations"]["updated"], "true");
    if let Some(condition) = condition {
        let status = format!("{path}/status");
        let told = patched(https, &status, &json!({"status": {"conditions": [condition]}}));
        let conditions = told["status"]["conditions"].as_array().unwrap();
        assert!(conditions.iter().any(|one| one["type"] == "Told"), "{told}");
        updated(https, &status, |_| {});
    }
    assert_eq!(https.ask("DELETE", &path).send().code, 200);
    // Some go once their controllers have let go.
    wait_for("its end", SOON, || (get(https, &path).0 == 404).then_some(()));
    made(https, &collection, object);
    assert_eq!(https.ask("DELETE", &labelled).send().code, 200);
    wait_for("the end of all", SOON, || items(https, &labelled).is_empty().then_some(()));
    let events = https.ask("GET", &format!("{labelled}&watch=true&resourceVersion={since}")).watch().unwrap();
    let seen = |kind: &str| loop {
        let event = events.next(SOON).unwrap().expect("the watch goes on");
        if event["type"] == kind {
            return;
        }
    };
    ["ADDED", "MODIFIED", "DELETED"].into_iter().for_each(seen);
}

fn condition() -> Value {
    json!({"type": "Told", "status": "False", "reason": "Test", "message": "told"})
}

pub(super) fn flow_schemas(https: &Https) {
    let object = json!({"apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "FlowSchema",
        "metadata": {"name": "life", "labels": {"of": "life"}},
        "spec": {"matchingPrecedence": 10000, "priorityLevelConfiguration": {"name": "global-default"},
            "distinguisherMethod": {"type": "ByUser"}, "rules": [{
                "subjects": [{"kind": "User", "user": {"name": "nobody-of-these"}}],
                "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["/none"]}]}]}});
    lives(https, (GROUP, "flowschemas"), &object, &json!({"matchingPrecedence": 9999}), Some(condition()));
}

pub(super) fn priority_levels(https: &Https) {
    let object = json!({"apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "PriorityLevelConfiguration",
        "metadata": {"name": "life", "labels": {"of": "life"}},
        "spec": {"type": "Limited", "limited": {"nominalConcurrencyShares": 2, "limitResponse": {"type": "Reject"}}}});
    let change = json!({"limited": {"nominalConcurrencyShares": 4}});
    lives(https, (GROUP, "prioritylevelconfigurations"), &object, &change, Some(condition()));
}
