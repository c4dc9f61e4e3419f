//! Pods and their templates.

use super::containers::{self, Of};
use super::page::Page;
use super::volumes;
use super::words::{array, names, number, phase, selector, shown, time, tolerations};
use serde_json::Value;

pub(super) fn write(page: &mut Page, pod: &Value) {
    let (metadata, spec, status) = (&pod["metadata"], &pod["spec"], &pod["status"]);
    page.name(pod);
    page.some(0, "Priority", &spec["priority"]);
    page.some(0, "Priority Class Name", &spec["priorityClassName"]);
    page.some(0, "Runtime Class Name", &spec["runtimeClassName"]);
    page.some(0, "Service Account", &spec["serviceAccountName"]);
    match shown(&spec["nodeName"]) {
        node if node.is_empty() => page.field(0, "Node", "<none>"),
        node => page.field(0, "Node", format_args!("{node}/{}", shown(&status["hostIP"]))),
    }
    if status["startTime"].is_string() {
        page.field(0, "Start Time", time(&status["startTime"]));
    }
    page.marks(pod);
    if metadata["deletionTimestamp"].is_null()
        || matches!(status["phase"].as_str(), Some("Failed" | "Succeeded"))
    {
        page.field(0, "Status", shown(&status["phase"]));
    } else {
        page.field(0, "Status", phase(pod));
        let grace_s = number(&metadata["deletionGracePeriodSeconds"]);
        page.field(0, "Termination Grace Period", format_args!("{grace_s}s"));
    }
    page.some(0, "Reason", &status["reason"]);
    page.some(0, "Message", &status["message"]);
    let profile = &spec["securityContext"]["seccompProfile"];
    page.some(0, "SeccompProfile", &profile["type"]);
    page.some(0, "LocalhostProfile", &profile["localhostProfile"]);
    page.field(0, "IP", shown(&status["podIP"]));
    let addresses = array(&status["podIPs"]);
    page.line(0, if addresses.is_empty() { "IPs:\t<none>" } else { "IPs:" });
    addresses.iter().for_each(|address| page.field(1, "IP", shown(&address["ip"])));
    page.controller(pod);
    page.some(0, "NominatedNodeName", &status["nominatedNodeName"]);
    if spec["resources"].is_object() {
        page.title(0, "Resources");
        containers::resources(page, 1, &spec["resources"]);
    }
    all_containers(page, pod);
    conditions(page, pod);
    volumes::write(page, 0, &spec["volumes"]);
    let class = match shown(&status["qosClass"]) {
        unknown if unknown.is_empty() => api::demand::qos_class(spec).to_owned(),
        class => class,
    };
    page.field(0, "QoS Class", class);
    page.labels(0, "Node-Selectors", &spec["nodeSelector"]);
    page.many(0, "Tolerations", &tolerations(&spec["tolerations"]));
    spread(page, 0, spec);
    group(page, 0, spec);
}

fn all_containers(page: &mut Page, pod: &Value) {
    let (spec, status) = (&pod["spec"], &pod["status"]);
    for (title, field, statuses) in [
        ("Init Containers", "initContainers", "initContainerStatuses"),
        ("Containers", "containers", "containerStatuses"),
        ("Ephemeral Containers", "ephemeralContainers", "ephemeralContainerStatuses"),
    ] {
        if field == "containers" || !array(&spec[field]).is_empty() {
            let of = Of { pod: Some(pod), statuses: &status[statuses] };
            containers::write(page, 0, title, &spec[field], of);
        }
    }
}

fn conditions(page: &mut Page, pod: &Value) {
    let conditions = array(&pod["status"]["conditions"]);
    let gates = array(&pod["spec"]["readinessGates"]);
    if !gates.is_empty() {
        page.title(0, "Readiness Gates");
        page.line(1, "Type\tStatus");
    }
    for gate in gates {
        let wanted = &gate["conditionType"];
        let found = conditions.iter().find(|condition| condition["type"] == *wanted);
        let status = found.map_or_else(|| "<none>".to_owned(), |condition| shown(&condition["status"]));
        page.line(1, format_args!("{} \t{status} ", shown(wanted)));
    }
    if !conditions.is_empty() {
        page.title(0, "Conditions");
        page.line(1, "Type\tStatus");
    }
    for condition in conditions {
        let [kind, status] = names(condition, ["type", "status"]);
        page.line(1, format_args!("{kind} \t{status} "));
    }
}

/// How pods are to be spread.
fn spread(page: &mut Page, depth: usize, spec: &Value) {
    let mut all: Vec<&Value> = array(&spec["topologySpreadConstraints"]).iter().collect();
    all.sort_by_key(|one| shown(&one["topologyKey"]));
    let one = |one: &&Value| {
        let [key, otherwise, skew] = names(one, ["topologyKey", "whenUnsatisfiable", "maxSkew"]);
        let of = match &one["labelSelector"] {
            Value::Null => String::new(),
            labels => format!(" for selector {}", selector(labels)),
        };
        format!("{key}:{otherwise} when max skew {skew} is exceeded{of}")
    };
    if !all.is_empty() {
        page.many(depth, "Topology Spread Constraints", &all.iter().map(one).collect::<Vec<_>>());
    }
}

/// The group that is scheduled as one.
fn group(page: &mut Page, depth: usize, spec: &Value) {
    if spec["schedulingGroup"].is_object() {
        page.title(depth, "SchedulingGroup");
        page.field(1, "PodGroupName", shown(&spec["schedulingGroup"]["podGroupName"]));
    }
}

/// What pods are made of.
pub(super) fn template(page: &mut Page, template: &Value) {
    let spec = &template["spec"];
    page.title(0, "Pod Template");
    page.labels(1, "Labels", &template["metadata"]["labels"]);
    if template["metadata"]["annotations"].as_object().is_some_and(|all| !all.is_empty()) {
        page.annotations(1, "Annotations", &template["metadata"]["annotations"]);
    }
    page.some(1, "Service Account", &spec["serviceAccountName"]);
    let of = Of { pod: None, statuses: &Value::Null };
    if !array(&spec["initContainers"]).is_empty() {
        containers::write(page, 1, "Init Containers", &spec["initContainers"], of);
    }
    containers::write(page, 1, "Containers", &spec["containers"], of);
    volumes::write(page, 1, &spec["volumes"]);
    spread(page, 1, spec);
    page.some(1, "Priority Class Name", &spec["priorityClassName"]);
    page.labels(1, "Node-Selectors", &spec["nodeSelector"]);
    page.many(1, "Tolerations", &tolerations(&spec["tolerations"]));
    group(page, 1, spec);
}
