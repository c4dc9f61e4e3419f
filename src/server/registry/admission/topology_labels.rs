//! PodTopologyLabels: a pod knows the zone and region of its node (KEP-4742).

use super::view::row;
use super::{CREATE, STEP as PLAIN, Step, View, text};
use serde_json::{Value, json};

const LABELS: [&str; 2] = ["topology.kubernetes.io/zone", "topology.kubernetes.io/region"];

pub(super) const STEP: Step = Step {
    name: "PodTopologyLabels",
    targets: &["pods", "pods/binding"],
    operations: CREATE,
    admit: |request, object| {
        let node = if request.subresource.is_empty() {
            text(&object["spec"], "nodeName")
        } else {
            text(&object["target"], "name")
        };
        let labels = of_node(request.view, node);
        for (key, value) in labels {
            if !object["metadata"]["labels"].is_object() {
                object["metadata"]["labels"] = json!({});
            }
            object["metadata"]["labels"][key] = value;
        }
        Ok(())
    },
    ..PLAIN
};

fn of_node(view: &View, node: &str) -> Vec<(&'static str, Value)> {
    if node.is_empty() {
        return Vec::new();
    }
    let Some(record) = view.record(row("v1", "Node"), "", node) else { return Vec::new() };
    let labels = LABELS.iter().filter_map(|key| Some((*key, Value::from(record.index.label(key)?))));
    labels.collect()
}
