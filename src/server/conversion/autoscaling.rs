//! Autoscalers: the first version knows the processor alone, and keeps the rest in annotations.

use super::{Value, carry, json};

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const CURRENT: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";

/// The load the first version aims at unless told otherwise, in percent.
const USUAL_LOAD: i64 = 80;

/// Fields of each source of metrics: in the second version, in the first, and whether the first
/// always writes an amount there.
type Fields = &'static [(&'static str, &'static str, bool)];

/// What is aimed at, as both versions name it in a specification.
const AIMS: [(&str, Fields); 5] = [
    (
        "object",
        &[
            ("describedObject", "target", false),
            ("metric.name", "metricName", false),
            ("metric.selector", "selector", false),
            ("target.value", "targetValue", true),
            ("target.averageValue", "averageValue", false),
        ],
    ),
    (
        "pods",
        &[
            ("metric.name", "metricName", false),
            ("metric.selector", "selector", false),
            ("target.averageValue", "targetAverageValue", true),
        ],
    ),
    ("resource", RESOURCE),
    ("containerResource", RESOURCE),
    (
        "external",
        &[
            ("metric.name", "metricName", false),
            ("metric.selector", "metricSelector", false),
            ("target.value", "targetValue", false),
            ("target.averageValue", "targetAverageValue", false),
        ],
    ),
];

const RESOURCE: Fields = &[
    ("name", "name", false),
    ("container", "container", false),
    ("target.averageUtilization", "targetAverageUtilization", false),
    ("target.averageValue", "targetAverageValue", false),
];

/// A status says `current` where a specification says `target`, and always has an amount.
const STATES: [(&str, Fields); 5] = [
    (
        "object",
        &[
            ("describedObject", "target", false),
            ("metric.name", "metricName", false),
            ("metric.selector", "selector", false),
            ("current.value", "currentValue", true),
            ("current.averageValue", "averageValue", false),
        ],
    ),
    (
        "pods",
        &[
            ("metric.name", "metricName", false),
            ("metric.selector", "selector", false),
            ("current.averageValue", "currentAverageValue", true),
        ],
    ),
    ("resource", RESOURCE_STATE),
    ("containerResource", RESOURCE_STATE),
    (
        "external",
        &[
            ("metric.name", "metricName", false),
            ("metric.selector", "metricSelector", false),
            ("current.value", "currentValue", true),
            ("current.averageValue", "currentAverageValue", false),
        ],
    ),
];

const RESOURCE_STATE: Fields = &[
    ("name", "name", false),
    ("container", "container", false),
    ("current.averageUtilization", "currentAverageUtilization", false),
    ("current.averageValue", "currentAverageValue", true),
];

/// A metric in the first version's words.
fn first(metric: &Value, sources: &[(&str, Fields)]) -> Value {
    let mut result = json!({"type": metric["type"]});
    for (source, fields) in sources.iter().filter(|(source, _)| metric[*source].is_object()) {
        for (second, first, always) in *fields {
            if *always {
                result[*source][*first] = json!("0");
            }
            carry(&metric[*source], second, &mut result[*source], first);
        }
    }
    result
}

/// A metric of the first version in the second's words.
fn second(metric: &Value, sources: &[(&str, Fields)]) -> Value {
    let mut result = json!({"type": metric["type"]});
    for (source, fields) in sources.iter().filter(|(source, _)| metric[*source].is_object()) {
        for (second, first, _) in *fields {
            carry(&metric[*source], first, &mut result[*source], second);
        }
        let Some(target) = result[*source].get_mut("target").and_then(Value::as_object_mut) else { continue };
        if target.contains_key("averageValue") && target.get("value").is_some_and(|value| *value == "0") {
            target.remove("value");
        }
        let of_type = match () {
            () if target.contains_key("averageUtilization") => "Utilization",
            () if target.contains_key("value")
                && (*source == "external" || !target.contains_key("averageValue")) =>
            {
                "Value"
            }
            () => "AverageValue",
        };
        target.insert("type".into(), of_type.into());
    }
    result
}

fn processor(load: &Value) -> Value {
    json!({"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": load}}})
}

fn load<'v>(metric: &'v Value, of: &str) -> Option<&'v Value> {
    let resource = &metric["resource"];
    let load = &resource[of]["averageUtilization"];
    (metric["type"] == "Resource" && resource["name"] == "cpu" && !load.is_null()).then_some(load)
}

/// Takes an annotation that is JSON.
fn taken(object: &mut Value, annotation: &str) -> Option<Value> {
    let annotations = object.pointer_mut("/metadata/annotations")?.as_object_mut()?;
    serde_json::from_str(annotations.remove(annotation)?.as_str()?).ok()
}

fn list(value: Option<Value>) -> Vec<Value> {
    match value {
        Some(Value::Array(items)) => items,
        _ => Vec::new(),
    }
}

pub(super) fn stored(object: &mut Value) {
    let remove = |of: &mut Value, field: &str| of.as_object_mut().and_then(|fields| fields.remove(field));
    let wanted = remove(&mut object["spec"], "targetCPUUtilizationPercentage").filter(|load| !load.is_null());
    let mut metrics: Vec<Value> =
        list(taken(object, METRICS)).iter().map(|metric| second(metric, &AIMS)).collect();
    metrics.extend(wanted.as_ref().map(processor));
    if metrics.is_empty() {
        metrics.push(processor(&json!(USUAL_LOAD)));
    }
    object["spec"]["metrics"] = Value::from(metrics);
    if let Some(behavior) = taken(object, BEHAVIOR).filter(Value::is_object) {
        object["spec"]["behavior"] = behavior_in(&behavior, false);
    }
    let seen = object.get_mut("status").and_then(|status| remove(status, "currentCPUUtilizationPercentage"));
    let states: Vec<Value> =
        list(taken(object, CURRENT)).iter().map(|metric| second(metric, &STATES)).collect();
    if !states.is_empty() {
        object["status"]["currentMetrics"] = Value::from(states);
    } else if let Some(load) = seen {
        object["status"]["currentMetrics"] = json!([{"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": load}}}]);
    }
    if let Some(conditions) = taken(object, CONDITIONS) {
        object["status"]["conditions"] = conditions;
    }
    if object["metadata"]["annotations"].as_object().is_some_and(serde_json::Map::is_empty) {
        remove(&mut object["metadata"], "annotations");
    }
}

/// The annotation has the names of fields as Go has them: with a capital.
fn behavior_in(value: &Value, capital: bool) -> Value {
    match value {
        Value::Object(fields) => {
            let named = |name: &str| {
                let (head, tail) = name.split_at(name.len().min(1));
                if capital { head.to_ascii_uppercase() + tail } else { head.to_ascii_lowercase() + tail }
            };
            let fields = fields.iter().filter(|(_, value)| !value.is_null());
            fields.map(|(name, value)| (named(name), behavior_in(value, capital))).collect()
        }
        Value::Array(items) => items.iter().map(|item| behavior_in(item, capital)).collect(),
        other => other.clone(),
    }
}

pub(super) fn shown(object: &mut Value) {
    let mut take = |path: &str, field: &str| {
        object.pointer_mut(path).and_then(Value::as_object_mut).and_then(|fields| fields.remove(field))
    };
    let metrics = list(take("/spec", "metrics"));
    let behavior = take("/spec", "behavior");
    let states = list(take("/status", "currentMetrics"));
    let conditions = list(take("/status", "conditions"));
    if let Some(load) = metrics.iter().find_map(|metric| load(metric, "target")) {
        object["spec"]["targetCPUUtilizationPercentage"] = load.clone();
    }
    if let Some(load) = states.iter().rev().find_map(|metric| load(metric, "current")) {
        object["status"]["currentCPUUtilizationPercentage"] = load.clone();
    }
    let others = metrics.iter().filter(|metric| load(metric, "target").is_none());
    let others: Vec<Value> = others.map(|metric| first(metric, &AIMS)).collect();
    let states: Vec<Value> = states.iter().map(|metric| first(metric, &STATES)).collect();
    for (annotation, items) in [(METRICS, others), (CURRENT, states), (CONDITIONS, conditions)] {
        if !items.is_empty() {
            object["metadata"]["annotations"][annotation] = Value::from(items).to_string().into();
        }
    }
    if let Some(behavior) = behavior.filter(|behavior| !behavior.is_null()) {
        object["metadata"]["annotations"][BEHAVIOR] = behavior_in(&behavior, true).to_string().into();
    }
}
