//! Short pages: PodDisruptionBudgets and PriorityClasses.

use super::page::Page;
use super::words::{flag, labels, number, or, selector, shown};
use serde_json::Value;

pub(super) fn budget(page: &mut Page, object: &Value) {
    let (spec, status) = (&object["spec"], &object["status"]);
    page.name(object);
    match &spec["minAvailable"] {
        Value::Null => page.some(0, "Max unavailable", &spec["maxUnavailable"]),
        least => page.field(0, "Min available", shown(least)),
    }
    match &spec["selector"] {
        Value::Null => page.field(0, "Selector", "<unset>"),
        own => page.field(0, "Selector", selector(own)),
    }
    page.title(0, "Status");
    for (title, field) in [
        ("Allowed disruptions", "disruptionsAllowed"),
        ("Current", "currentHealthy"),
        ("Desired", "desiredHealthy"),
        ("Total", "expectedPods"),
    ] {
        page.field(2, title, number(&status[field]));
    }
}

pub(super) fn priority_class(page: &mut Page, object: &Value) {
    page.field(0, "Name", shown(&object["metadata"]["name"]));
    page.field(0, "Value", number(&object["value"]));
    page.field(0, "GlobalDefault", flag(&object["globalDefault"]));
    page.field(0, "PreemptionPolicy", or(&object["preemptionPolicy"], "PreemptLowerPriority"));
    page.field(0, "Description", shown(&object["description"]));
    page.field(0, "Annotations", labels(&object["metadata"]["annotations"]));
}
