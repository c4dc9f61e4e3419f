//! Pods.

use super::containers::{self, Of};
use super::page::{Page, age, array, shown, time, tolerations};
use super::volumes;
use serde_json::Value;

pub(super) fn write(page: &mut Page, pod: &Value) {
    let (metadata, spec, status) = (&pod["metadata"], &pod["spec"], &pod["status"]);
    page.field(0, "Name", shown(&metadata["name"]));
    page.field(0, "Namespace", shown(&metadata["namespace"]));
    page.some(0, "Priority", &spec["priority"]);
    page.some(0, "Priority Class Name", &spec["priorityClassName"]);
    page.some(0, "Runtime Class Name", &spec["runtimeClassName"]);
    page.some(0, "Service Account", &spec["serviceAccountName"]);
    match shown(&spec["nodeName"]) {
        node if node.is_empty() => page.field(0, "Node", "<none>"),
        node => page.field(0, "Node", format!("{node}/{}", shown(&status["hostIP"]))),
    }
    if status["startTime"].is_string() {
        page.field(0, "Start Time", time(&status["startTime"]));
    }
    page.labels(0, "Labels", &metadata["labels"]);
    page.annotations(0, "Annotations", &metadata["annotations"]);
    phase(page, pod);
    page.some(0, "Reason", &status["reason"]);
    page.some(0, "Message", &status["message"]);
    page.some(0, "SeccompProfile", &spec["securityContext"]["seccompProfile"]["type"]);
    page.field(0, "IP", shown(&status["podIP"]));
    let addresses = array(&status["podIPs"]);
    page.line(0, if addresses.is_empty() { "IPs:\t<none>" } else { "IPs:" });
    addresses.iter().for_each(|address| page.field(1, "IP", shown(&address["ip"])));
    page.controller(pod);
    page.some(0, "NominatedNodeName", &status["nominatedNodeName"]);
    if spec["resources"].is_object() {
        page.line(0, "Resources:");
        containers::resources(page, 1, &spec["resources"]);
    }
    for (title, field, statuses) in [
        ("Init Containers", "initContainers", "initContainerStatuses"),
        ("Containers", "containers", "containerStatuses"),
        ("Ephemeral Containers", "ephemeralContainers", "ephemeralContainerStatuses"),
    ] {
        containers::write(page, 0, title, array(&spec[field]), Of { pod, statuses: &status[statuses] });
    }
    conditions(page, pod);
    volumes::write(page, 0, &spec["volumes"]);
    page.field(0, "QoS Class", shown(&status["qosClass"]));
    page.labels(0, "Node-Selectors", &spec["nodeSelector"]);
    page.many(0, "Tolerations", &tolerations(&spec["tolerations"]));
}

fn phase(page: &mut Page, pod: &Value) {
    let phase = shown(&pod["status"]["phase"]);
    let deleted = &pod["metadata"]["deletionTimestamp"];
    if deleted.is_string() && !matches!(phase.as_str(), "Failed" | "Succeeded") {
        page.field(0, "Status", format!("Terminating (lasts {})", age(deleted)));
        let grace = pod["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0);
        page.field(0, "Termination Grace Period", format!("{grace}s"));
    } else {
        page.field(0, "Status", phase);
    }
}

fn conditions(page: &mut Page, pod: &Value) {
    let conditions = array(&pod["status"]["conditions"]);
    if conditions.is_empty() {
        return;
    }
    page.line(0, "Conditions:");
    page.line(1, "Type\tStatus");
    for condition in conditions {
        page.line(1, &format!("{} \t{} ", shown(&condition["type"]), shown(&condition["status"])));
    }
}
