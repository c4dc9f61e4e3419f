//! Behaviours of the objects of priority and fairness: that they are found, and every verb on them.

use super::{get, items, made, patched, updated, version};
use crate::support::cluster::SOON;
use crate::support::https::Https;
use serde_json::{Value, json};

const GROUP: &str = "flowcontrol.apiserver.k8s.io";

fn is_published(https: &Https, plural: &str) {
    let named = |list: &Value, key: &str, name: &str| {
        list.as_array().unwrap().iter().any(|one| one[key].as_str() == Some(name))
    };
    let (_, groups) = get(https, "/apis");
    assert!(named(&groups["groups"], "name", GROUP), "{groups}");
    let (_, group) = get(https, &format!("/apis/{GROUP}"));
    assert!(named(&group["versions"], "version", "v1"), "{group}");
    let (_, resources) = get(https, &format!("/apis/{GROUP}/v1"));
    for name in [plural.to_owned(), format!("{plural}/status")] {
        assert!(named(&resources["resources"], "name", &name), "{resources}");
    }
}

/// Every verb, in the order of an object's life. `change` is a patch of the spec.
fn lives(https: &Https, plural: &str, object: &Value, change: &Value) {
    is_published(https, plural);
    let collection = format!("/apis/{GROUP}/v1/{plural}");
    let (labelled, path) = (format!("{collection}?labelSelector=of%3Dlife"), format!("{collection}/life"));
    let since = version(&get(https, &labelled).1);
    let own = made(https, &collection, object);
    assert_eq!(get(https, &path).1["metadata"]["uid"], own["metadata"]["uid"]);
    assert_eq!(items(https, &labelled).len(), 1);
    let changed =
        patched(https, &path, &json!({"metadata": {"annotations": {"patched": "true"}}, "spec": change}));
    assert_eq!(changed["metadata"]["annotations"]["patched"], "true");
    // The status is kept by somebody else.
    let changed =
        updated(https, &path, |object| object["metadata"]["annotations"]["updated"] = json!("true"));
    assert_eq!(changed["metadata"]["annotations"]["updated"], "true");
    let status = format!("{path}/status");
    let condition = json!({"type": "Told", "status": "False", "reason": "Test", "message": "told"});
    let told = patched(https, &status, &json!({"status": {"conditions": [condition]}}));
    assert!(
        told["status"]["conditions"].as_array().unwrap().iter().any(|one| one["type"] == "Told"),
        "{told}"
    );
    updated(https, &status, |_| {});
    assert_eq!(https.ask("DELETE", &path).send().code, 200);
    assert_eq!(get(https, &path).0, 404);
    made(https, &collection, object);
    assert_eq!(https.ask("DELETE", &labelled).send().code, 200);
    assert_eq!(items(https, &labelled), Vec::<Value>::new());
    let events = https.ask("GET", &format!("{labelled}&watch=true&resourceVersion={since}")).watch().unwrap();
    let seen = |kind: &str| loop {
        let event = events.next(SOON).unwrap().expect("the watch goes on");
        if event["type"] == kind {
            return;
        }
    };
    ["ADDED", "MODIFIED", "DELETED"].into_iter().for_each(seen);
}

pub(super) fn flow_schemas(https: &Https) {
    let object = json!({"apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "FlowSchema",
        "metadata": {"name": "life", "labels": {"of": "life"}},
        "spec": {"matchingPrecedence": 10000, "priorityLevelConfiguration": {"name": "global-default"},
            "distinguisherMethod": {"type": "ByUser"}, "rules": [{
                "subjects": [{"kind": "User", "user": {"name": "nobody-of-these"}}],
                "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["/none"]}]}]}});
    lives(https, "flowschemas", &object, &json!({"matchingPrecedence": 9999}));
}

pub(super) fn priority_levels(https: &Https) {
    let object = json!({"apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "PriorityLevelConfiguration",
        "metadata": {"name": "life", "labels": {"of": "life"}},
        "spec": {"type": "Limited", "limited": {"nominalConcurrencyShares": 2, "limitResponse": {"type": "Reject"}}}});
    lives(
        https,
        "prioritylevelconfigurations",
        &object,
        &json!({"limited": {"nominalConcurrencyShares": 4}}),
    );
}
