//! Nodes, with the pods on them and what these ask for.

use super::page::{Page, age, array, or_none, shown, time};
use api::quantity::{Amount, parse};
use serde_json::Value;

const ROLE: &str = "node-role.kubernetes.io/";

pub(super) fn write(page: &mut Page, node: &Value, pods: &[Value], lease: Option<&Value>) {
    let (metadata, spec, status) = (&node["metadata"], &node["spec"], &node["status"]);
    page.field(0, "Name", shown(&metadata["name"]));
    let labels = metadata["labels"].as_object().into_iter().flatten();
    let roles: Vec<&str> =
        labels.filter_map(|(key, _)| key.strip_prefix(ROLE)).filter(|role| !role.is_empty()).collect();
    page.field(0, "Roles", or_none(&roles.join(",")));
    page.labels(0, "Labels", &metadata["labels"]);
    page.annotations(0, "Annotations", &metadata["annotations"]);
    page.field(0, "CreationTimestamp", time(&metadata["creationTimestamp"]));
    page.many(0, "Taints", &taints(&spec["taints"]));
    page.field(0, "Unschedulable", spec["unschedulable"] == true);
    if let Some(lease) = lease {
        page.line(0, "Lease:");
        let holder = shown(&lease["spec"]["holderIdentity"]);
        page.field(1, "HolderIdentity", if holder.is_empty() { "<unset>" } else { &holder });
        page.field(1, "AcquireTime", time(&lease["spec"]["acquireTime"]));
        page.field(1, "RenewTime", time(&lease["spec"]["renewTime"]));
    }
    conditions(page, status);
    page.line(0, "Addresses:");
    for address in array(&status["addresses"]) {
        page.field(1, &shown(&address["type"]), shown(&address["address"]));
    }
    for (title, field) in [("Capacity", "capacity"), ("Allocatable", "allocatable")] {
        page.line(0, &format!("{title}:"));
        let amounts = status[field].as_object().into_iter().flatten();
        amounts.for_each(|(name, amount)| page.field(1, name, shown(amount)));
    }
    system(page, &status["nodeInfo"]);
    page.some(0, "PodCIDR", &spec["podCIDR"]);
    let ranges: Vec<String> = array(&spec["podCIDRs"]).iter().map(shown).collect();
    if !ranges.is_empty() {
        page.field(0, "PodCIDRs", ranges.join(","));
    }
    page.some(0, "ProviderID", &spec["providerID"]);
    self::pods(page, &status["allocatable"], pods);
}

fn taints(taints: &Value) -> Vec<String> {
    let one = |taint: &Value| {
        let (key, value, effect) = (shown(&taint["key"]), shown(&taint["value"]), shown(&taint["effect"]));
        let value = if value.is_empty() { value } else { format!("={value}") };
        (effect.clone(), format!("{key}{value}:{effect}"))
    };
    let mut all: Vec<(String, String)> = array(taints).iter().map(one).collect();
    all.sort();
    all.into_iter().map(|(_, text)| text).collect()
}

fn conditions(page: &mut Page, status: &Value) {
    let row = |condition: &Value| {
        let text = |field: &str| shown(&condition[field]);
        let mut cells = vec![
            text("type"),
            text("status"),
            time(&condition["lastHeartbeatTime"]),
            time(&condition["lastTransitionTime"]),
            text("reason"),
        ];
        // kubectl puts a space behind these cells.
        cells.iter_mut().for_each(|cell| cell.push(' '));
        cells.push(text("message"));
        cells
    };
    let rows: Vec<Vec<String>> = array(&status["conditions"]).iter().map(row).collect();
    let header = ["Type", "Status", "LastHeartbeatTime", "LastTransitionTime", "Reason", "Message"];
    if !rows.is_empty() {
        page.rows("Conditions", &header, &rows);
    }
}

fn system(page: &mut Page, info: &Value) {
    page.line(0, "System Info:");
    for (title, field) in [
        ("Machine ID", "machineID"),
        ("System UUID", "systemUUID"),
        ("Boot ID", "bootID"),
        ("Kernel Version", "kernelVersion"),
        ("OS Image", "osImage"),
        ("Operating System", "operatingSystem"),
        ("Architecture", "architecture"),
        ("Container Runtime Version", "containerRuntimeVersion"),
        ("Kubelet Version", "kubeletVersion"),
    ] {
        page.field(1, title, shown(&info[field]));
    }
}

/// What is summed up, and from which list.
const SUMS: [(&str, &str); 4] =
    [("cpu", "requests"), ("cpu", "limits"), ("memory", "requests"), ("memory", "limits")];

fn pods(page: &mut Page, allocatable: &Value, pods: &[Value]) {
    page.field(0, "Non-terminated Pods", format!("({} in total)", pods.len()));
    let header =
        ["Namespace", "Name", "", "CPU Requests", "CPU Limits", "Memory Requests", "Memory Limits", "Age"];
    page.line(1, &header.join("\t"));
    page.line(1, &header.map(|name| "-".repeat(name.len())).join("\t"));
    for pod in pods {
        let metadata = &pod["metadata"];
        let mut cells = vec![shown(&metadata["namespace"]), shown(&metadata["name"]), String::new()];
        cells.extend(SUMS.map(|(resource, list)| share(of_pod(pod, resource, list), resource, allocatable)));
        cells.push(age(&metadata["creationTimestamp"]));
        page.line(1, &cells.join("\t"));
    }
    page.line(0, "Allocated resources:");
    page.line(1, "(Total limits may be over 100 percent, i.e., overcommitted.)");
    page.line(1, "Resource\tRequests\tLimits");
    page.line(1, "--------\t--------\t------");
    let others = allocatable.as_object().into_iter().flatten().map(|(name, _)| name.as_str());
    let others = others.filter(|name| !matches!(*name, "cpu" | "memory" | "ephemeral-storage" | "pods"));
    let (pages, extended): (Vec<&str>, Vec<&str>) = others.partition(|name| name.starts_with("hugepages-"));
    for resource in ["cpu", "memory", "ephemeral-storage"].into_iter().chain(pages).chain(extended.clone()) {
        let total = |list: &str| {
            let all = pods.iter().map(|pod| of_pod(pod, resource, list));
            let total = all.fold(Amount::units(0), Amount::plus);
            if extended.contains(&resource) { total.to_string() } else { share(total, resource, allocatable) }
        };
        page.line(1, &format!("{resource}\t{}\t{}", total("requests"), total("limits")));
    }
}

/// What a pod asks for: the sum of its containers, or its largest init container, and its overhead.
fn of_pod(pod: &Value, resource: &str, list: &str) -> Amount {
    let of = |container: &Value| amount(&container["resources"][list][resource]);
    let spec = &pod["spec"];
    let lasting = |container: &&Value| container["restartPolicy"] == "Always";
    let sidecars = array(&spec["initContainers"]).iter().filter(lasting);
    let running =
        array(&spec["containers"]).iter().chain(sidecars).map(of).fold(Amount::units(0), Amount::plus);
    let starting = array(&spec["initContainers"]).iter().filter(|one| !lasting(one)).map(of);
    let most = starting.fold(running, |most, one| if one.to_milli() > most.to_milli() { one } else { most });
    most.plus(amount(&spec["overhead"][resource]))
}

fn amount(value: &Value) -> Amount {
    parse(&shown(value)).unwrap_or_else(|_| Amount::units(0))
}

fn share(part: Amount, resource: &str, allocatable: &Value) -> String {
    let whole = amount(&allocatable[resource]).to_milli();
    let percent = if whole == 0 { 0 } else { i128::from(part.to_milli()) * 100 / i128::from(whole) };
    format!("{part} ({percent}%)")
}
