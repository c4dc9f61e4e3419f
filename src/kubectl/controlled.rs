//! What an object controls: of what its selector selects, what says that the object is its controller.

use crate::error::Error;
use crate::pods::{label_selector, pairs};
use serde_json::Value;

/// A Deployment's controller marks the ReplicaSets of one template so.
const HASH: &str = "pod-template-hash";

/// The template of a Deployment that a ReplicaSet was made of: without what the controller wrote into it.
pub(crate) fn own_template(template: &Value) -> Value {
    let mut template = template.clone();
    if let Some(labels) = template.pointer_mut("/metadata/labels").and_then(Value::as_object_mut) {
        labels.remove(HASH);
    }
    template
}

/// Asks for objects by their labels, and leaves out those that something else controls.
pub(crate) async fn controlled(
    owner: &Value,
    list: impl AsyncFnOnce(&[(&str, &str)]) -> Result<Vec<Value>, Error>,
) -> Result<Vec<Value>, Error> {
    let selector = &owner["spec"]["selector"];
    // Before there were expressions a selector was a map of labels.
    let labels = match owner["kind"] == "ReplicationController" {
        true => pairs(selector).join(","),
        false => label_selector(selector),
    };
    let mut found = list(&[("labelSelector", &labels)]).await?;
    let uid = &owner["metadata"]["uid"];
    let is_own = |item: &Value| {
        let mut owners = item["metadata"]["ownerReferences"].as_array().into_iter().flatten();
        owners.any(|owner| owner["controller"] == true && owner["uid"] == *uid)
    };
    found.retain(is_own);
    Ok(found)
}
