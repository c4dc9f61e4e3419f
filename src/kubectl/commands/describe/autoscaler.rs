//! HorizontalPodAutoscalers, of both versions.

use super::page::Page;
use super::words::{array, names, number, or, quantity, shown};
use serde_json::Value;

pub(super) fn write(page: &mut Page, object: &Value) {
    let (spec, status) = (&object["spec"], &object["status"]);
    page.head(object);
    page.created(object);
    let [kind, name] = names(&spec["scaleTargetRef"], ["kind", "name"]);
    page.field(0, "Reference", format_args!("{kind}/{name}"));
    if object["apiVersion"] == "autoscaling/v1" {
        utilization(page, spec, status);
    } else {
        page.field(0, "Metrics", "( current / target )");
        for (at, metric) in array(&spec["metrics"]).iter().enumerate() {
            self::metric(page, metric, &status["currentMetrics"][at]);
        }
    }
    page.field(0, "Min replicas", or(&spec["minReplicas"], "<unset>"));
    page.field(0, "Max replicas", number(&spec["maxReplicas"]));
    if spec["behavior"].is_object() {
        page.title(0, "Behavior");
        direction(page, "Scale Up", &spec["behavior"]["scaleUp"]);
        direction(page, "Scale Down", &spec["behavior"]["scaleDown"]);
    }
    let [current, desired] = ["currentReplicas", "desiredReplicas"].map(|field| number(&status[field]));
    page.field(0, &format!("{kind} pods"), format_args!("{current} current / {desired} desired"));
    let row = |condition: &Value| names(condition, ["type", "status", "reason", "message"]).join("\t");
    if !array(&status["conditions"]).is_empty() {
        page.title(0, "Conditions");
        page.table(1, "Type\tStatus\tReason\tMessage", array(&status["conditions"]).iter().map(row));
    }
}

/// What the first version knows of metrics.
fn utilization(page: &mut Page, spec: &Value, status: &Value) {
    let target = &spec["targetCPUUtilizationPercentage"];
    if target.is_number() {
        page.field(0, "Target CPU utilization", format_args!("{target}%"));
        let current = or(&status["currentCPUUtilizationPercentage"], "<unknown>");
        page.field(0, "Current CPU utilization", format_args!("{current}%"));
    }
}

/// One metric: what it is of, what it is now, and what it should be.
fn metric(page: &mut Page, metric: &Value, current: &Value) {
    let (field, what) = match metric["type"].as_str().unwrap_or_default() {
        "External" => ("external", format!("{:?}", shown(&metric["external"]["metric"]["name"]))),
        "Pods" => ("pods", format!("{:?} on pods", shown(&metric["pods"]["metric"]["name"]))),
        "Object" => {
            let [kind, name] = names(&metric["object"]["describedObject"], ["kind", "name"]);
            ("object", format!("\"{}\" on {kind}/{name}", shown(&metric["object"]["metric"]["name"])))
        }
        "Resource" => ("resource", format!("resource {} on pods", shown(&metric["resource"]["name"]))),
        "ContainerResource" => {
            let [name, container] = names(&metric["containerResource"], ["name", "container"]);
            ("containerResource", format!("resource {name} of container \"{container}\" on pods"))
        }
        unknown => return page.line(1, format_args!("<unknown metric type {unknown:?}>")),
    };
    let (target, now) = (&metric[field]["target"], &current[field]["current"]);
    let is_average = target["averageValue"].is_string();
    let pair = |value: &str| {
        let now = match &now[value] {
            Value::Null if now.is_null() || (field == "external" && is_average) => "<unknown>".to_owned(),
            now => measured(now),
        };
        format!("{now} / {}", measured(&target[value]))
    };
    let (how, values) = match field {
        "external" | "object" if is_average => (" (target average value)", pair("averageValue")),
        "external" | "object" => (" (target value)", pair("value")),
        _ if is_average || field == "pods" => ("", pair("averageValue")),
        // Two more spaces than elsewhere are kubectl's.
        _ => ("  (as a percentage of request)", percentage(target, now)),
    };
    page.field(1, &format!("{what}{how}"), values);
}

fn percentage(target: &Value, now: &Value) -> String {
    let percent = |value: &Value| format!("{}%", number(value));
    let wanted = match &target["averageUtilization"] {
        Value::Null => "<auto>".to_owned(),
        wanted => percent(wanted),
    };
    match &now["averageUtilization"] {
        Value::Null => format!("<unknown> / {wanted}"),
        share => format!("{} ({}) / {wanted}", percent(share), measured(&now["averageValue"])),
    }
}

/// A quantity that need not be there, as Go prints it.
fn measured(value: &Value) -> String {
    if value.is_null() { "<nil>".to_owned() } else { quantity(value) }
}

fn direction(page: &mut Page, title: &str, rules: &Value) {
    if rules.is_null() {
        return;
    }
    page.title(1, title);
    if rules["stabilizationWindowSeconds"].is_number() {
        page.line(2, format_args!("Stabilization Window: {} seconds", rules["stabilizationWindowSeconds"]));
    }
    if array(&rules["policies"]).is_empty() {
        return;
    }
    page.line(2, format_args!("Select Policy: {}", or(&rules["selectPolicy"], "Max")));
    page.title(2, "Policies");
    for policy in array(&rules["policies"]) {
        let [kind, value, period] = names(policy, ["type", "value", "periodSeconds"]);
        page.line(3, format_args!("- Type: {kind}\tValue: {value}\tPeriod: {period} seconds"));
    }
}
