//! Horizontal pod autoscalers.

use super::pods::resources::container_resource;
use super::{PLAIN, Strategy, default, items};
use api::validate::{At, dns_label, path_segment};
use serde_json::{Value, json};

/// The longest period of a policy, and the longest look back.
const LONGEST_PERIOD_S: i64 = 1800;
const LONGEST_WINDOW_S: i64 = 3600;

pub(super) const AUTOSCALER: Strategy = Strategy {
    default: |object| {
        let Some(spec) = object.get_mut("spec") else { return };
        default(spec, "minReplicas", 1);
        default(
            spec,
            "metrics",
            json!([{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}}]),
        );
        if let Some(behavior) = spec.get_mut("behavior") {
            rules(
                behavior,
                "scaleUp",
                &json!({"stabilizationWindowSeconds": 0, "selectPolicy": "Max", "policies": [
                {"type": "Pods", "value": 4, "periodSeconds": 15}, {"type": "Percent", "value": 100, "periodSeconds": 15}]}),
            );
            rules(
                behavior,
                "scaleDown",
                &json!({"selectPolicy": "Max", "policies": [
                {"type": "Percent", "value": 100, "periodSeconds": 15}]}),
            );
        }
    },
    validate: |object| {
        let spec = object.get("spec");
        let (min, max) = (spec.get("minReplicas"), spec.get("maxReplicas"));
        if min.present() && min.int() < 1 {
            min.invalid("must be greater than or equal to 1");
        }
        if max.int() == 0 {
            max.required("must be set and greater than 0");
        } else if max.int() < 0 {
            max.invalid("must be greater than or equal to 1");
        }
        if min.present() && max.int() < min.int() {
            max.invalid_as(max.int(), "must be greater than or equal to `minReplicas`");
        }
        target(&spec.get("scaleTargetRef"));
        let metrics = spec.get("metrics");
        metrics.each(metric);
        let scales_from_zero = items(spec.value(), "metrics")
            .iter()
            .any(|one| one["type"] == "Object" || one["type"] == "External");
        if min.present() && min.int() == 0 && !scales_from_zero {
            metrics.forbidden(
                "must specify at least one Object or External metric to support scaling to zero replicas",
            );
        }
        for direction in ["scaleUp", "scaleDown"] {
            spec.get("behavior").on(direction, scaling);
        }
    },
    validate_new: |object| with_group(&object.get("spec.scaleTargetRef")),
    validate_update: |new, old| {
        let (own, before) = (new.get("spec.scaleTargetRef"), &old["spec"]["scaleTargetRef"]);
        if ["apiVersion", "kind"].iter().any(|field| own.value()[*field] != before[*field]) {
            with_group(&own);
        }
    },
    validate_status: |new, _| new.get("status").none_negative(&["currentReplicas", "desiredReplicas"]),
    status_meta: true,
    ..PLAIN
};

fn rules(behavior: &mut Value, direction: &str, rules: &Value) {
    // Nothing is filled in where a writer says nothing about either direction.
    if !behavior.is_object() {
        return;
    }
    default(behavior, direction, json!({}));
    for (field, value) in rules.as_object().into_iter().flatten() {
        default(&mut behavior[direction], field, value.clone());
    }
}

/// Replication controllers are the only kind of the core group that can be scaled.
fn with_group(target: &At) {
    let version = target.get("apiVersion");
    if !target.get("kind").is("ReplicationController") && !version.text().contains('/') {
        version.invalid_as(version.text(), "apiVersion must specify API group");
    }
}

fn target(at: &At) {
    at.get("kind").need_named(path_segment);
    at.get("name").need_named(path_segment);
    let version = at.get("apiVersion");
    if version.text().matches('/').count() > 1 {
        version.invalid(format!("unexpected GroupVersion string: {}", version.text()));
    }
}

const KINDS: [&str; 5] = ["ContainerResource", "External", "Object", "Pods", "Resource"];
/// A field of a metric, the type that asks for it, and its rules.
type Source = (&'static str, &'static str, fn(&At));
const SOURCES: [Source; 5] = [
    ("object", "Object", |at| {
        target(&at.get("describedObject"));
        identified(at);
        let goal = at.get("target");
        metric_target(&goal);
        if !goal.get("value").present() && !goal.get("averageValue").present() {
            goal.get("averageValue").required("must set either a target value or averageValue");
        }
    }),
    ("external", "External", |at| {
        identified(at);
        let goal = at.get("target");
        metric_target(&goal);
        either(
            &goal,
            "averageValue",
            "must set either a target value for metric or a per-pod target",
            "value",
            "may not set both a target value for metric and a per-pod target",
        );
    }),
    ("pods", "Pods", |at| {
        identified(at);
        let goal = at.get("target");
        metric_target(&goal);
        if !goal.get("averageValue").present() {
            goal.get("averageValue").required("must specify a positive target averageValue");
        }
    }),
    ("resource", "Resource", |at| {
        at.get("name").need_because("must specify a resource name");
        resource_target(&at.get("target"));
    }),
    ("containerResource", "ContainerResource", |at| {
        let name = at.get("name");
        if name.need_because("must specify a resource name") {
            container_resource(&name, name.text());
        }
        let container = at.get("container");
        if container.need_because("must specify a container") {
            container.named(dns_label);
        }
        resource_target(&at.get("target"));
    }),
];

fn either(goal: &At, needed: &str, missing: &str, shown: &str, both: &str) {
    let (one, other) = (goal.get("value"), goal.get("averageValue"));
    if !one.present() && !other.present() {
        goal.get(needed).required(missing);
    }
    if one.present() && other.present() {
        goal.get(shown).forbidden(both);
    }
}

fn resource_target(goal: &At) {
    metric_target(goal);
    let (part, value) = (goal.get("averageUtilization"), goal.get("averageValue"));
    if !part.present() && !value.present() {
        part.required("must set either a target raw value or a target utilization");
    }
    if part.present() && value.present() {
        value.forbidden("may not set both a target raw value and a target utilization");
    }
}

fn metric(at: &At) {
    let kind = at.get("type");
    kind.need_because("must specify a metric source type");
    kind.one_of(&KINDS);
    let given: Vec<_> = SOURCES.iter().filter(|(field, ..)| at.get(field).present()).collect();
    if let Some((field, _, rules)) = given.first() {
        rules(&at.get(field));
    }
    let expected = SOURCES.iter().find(|(_, name, _)| kind.is(name));
    match expected {
        Some((field, ..)) if !at.get(field).present() => {
            at.get(field).required("must populate information for the given metric source");
        }
        Some(_) => {}
        None => kind.one_of(&KINDS),
    }
    if given.len() != 1 {
        for (field, name, _) in given {
            if !kind.is(name) {
                at.get(field).forbidden("must populate the given metric source only");
            }
        }
    }
}

fn identified(at: &At) {
    let name = at.get("metric.name");
    if name.need_because("must specify a metric name") {
        name.named(path_segment);
    }
}

fn metric_target(at: &At) {
    let kind = at.get("type");
    kind.need_because("must specify a metric target type");
    if !matches!(kind.text(), "Utilization" | "Value" | "AverageValue") {
        kind.invalid_as(kind.text(), "must be either Utilization, Value, or AverageValue");
    }
    for field in ["value", "averageValue"] {
        let value = at.get(field);
        if value.present() && value.quantity() <= api::quantity::Amount::units(0) {
            value.invalid("must be positive");
        }
    }
    let part = at.get("averageUtilization");
    if part.present() && part.int() < 1 {
        part.invalid("must be greater than 0");
    }
}

fn scaling(at: &At) {
    let window = at.get("stabilizationWindowSeconds");
    if window.int() < 0 {
        window.invalid("must be greater than or equal to zero");
    }
    if window.int() > LONGEST_WINDOW_S {
        window.invalid(format!("must be less than or equal to {LONGEST_WINDOW_S}"));
    }
    at.get("selectPolicy").one_of_if_set(&["Disabled", "Max", "Min"]);
    let policies = at.get("policies");
    policies.need_because("must specify at least one Policy");
    policies.each(|policy| {
        policy.get("type").one_of(&["Percent", "Pods"]);
        policy.get("value").positive();
        let period = policy.get("periodSeconds");
        period.positive();
        if period.int() > LONGEST_PERIOD_S {
            period.invalid(format!("must be less than or equal to {LONGEST_PERIOD_S}"));
        }
    });
    if at.get("tolerance").quantity().is_negative() {
        at.get("tolerance").invalid("must be greater than or equal to 0");
    }
}
