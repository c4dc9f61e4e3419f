//! PersistentVolumes, claims, classes, and drivers on nodes.

use super::page::{Page, annotation_lines};
use super::volumes;
use super::words::{
    array, joined, labels, list, names, number, or, pairs, phase, quantity, shown, time, truth,
};
use serde_json::Value;

/// Before there was a field.
const CLASS: &str = "volume.beta.kubernetes.io/storage-class";
const DEFAULT: [&str; 2] =
    ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];
const MODES: [(&str, &str); 4] = [
    ("ReadWriteOnce", "RWO"),
    ("ReadOnlyMany", "ROX"),
    ("ReadWriteMany", "RWX"),
    ("ReadWriteOncePod", "RWOP"),
];

/// The class of a volume or claim.
fn class(object: &Value) -> String {
    match &object["metadata"]["annotations"][CLASS] {
        Value::Null => shown(&object["spec"]["storageClassName"]),
        class => shown(class),
    }
}

/// Access modes in short, in an order of their own.
fn modes(modes: &Value) -> String {
    let known = MODES.iter().filter(|(mode, _)| array(modes).iter().any(|own| own == mode));
    known.map(|(_, short)| *short).collect::<Vec<_>>().join(",")
}

pub(super) fn volume(page: &mut Page, object: &Value) {
    let (metadata, spec) = (&object["metadata"], &object["spec"]);
    page.cluster_head(object);
    page.field(0, "Finalizers", list(&metadata["finalizers"]));
    page.field(0, "StorageClass", class(object));
    page.field(0, "Status", phase(object));
    let [namespace, name] = names(&spec["claimRef"], ["namespace", "name"]);
    let claim = if spec["claimRef"].is_object() { format!("{namespace}/{name}") } else { String::new() };
    page.field(0, "Claim", claim);
    page.field(0, "Reclaim Policy", shown(&spec["persistentVolumeReclaimPolicy"]));
    page.field(0, "Access Modes", modes(&spec["accessModes"]));
    page.some(0, "VolumeMode", &spec["volumeMode"]);
    page.field(0, "Capacity", quantity(&spec["capacity"]["storage"]));
    node_affinity(page, &spec["nodeAffinity"]["required"]);
    page.field(0, "Message", shown(&object["status"]["message"]));
    page.title(0, "Source");
    volumes::source(page, spec, true);
}

fn node_affinity(page: &mut Page, required: &Value) {
    if required.is_null() {
        return page.field(0, "Node Affinity", "<none>");
    }
    page.field(0, "Node Affinity", "");
    terms(page, 1, "Required Terms", &required["nodeSelectorTerms"], "matchExpressions");
}

/// What nodes or places have to be like: terms of expressions, which are all to hold.
fn terms(page: &mut Page, depth: usize, title: &str, terms: &Value, expressions: &str) {
    if array(terms).is_empty() {
        return page.field(depth, title, "<none>");
    }
    page.field(depth, title, "");
    for (number, term) in array(terms).iter().enumerate() {
        let one = |one: &Value| {
            let operator = or(&one["operator"], "In").to_lowercase();
            let values = match joined(&one["values"], ", ") {
                values if values.is_empty() => values,
                values => format!(" [{values}]"),
            };
            format!("{} {operator}{values}", shown(&one["key"]))
        };
        let all: Vec<String> = array(&term[expressions]).iter().map(one).collect();
        page.many(depth + 1, &format!("Term {number}"), &all);
    }
}

pub(super) fn claim(page: &mut Page, object: &Value, pods: &[Value]) {
    page.name(object);
    page.field(0, "StorageClass", class(object));
    page.field(0, "Status", phase(object));
    page.field(0, "Volume", shown(&object["spec"]["volumeName"]));
    page.marks(object);
    page.field(0, "Finalizers", list(&object["metadata"]["finalizers"]));
    claimed(page, 0, object);
    page.many(0, "Used By", &users(object, pods));
    let conditions = array(&object["status"]["conditions"]);
    if !conditions.is_empty() {
        page.title(0, "Conditions");
        let header = (
            "Type\tStatus\tLastProbeTime\tLastTransitionTime\tReason\tMessage",
            "----\t------\t-----------------\t------------------\t------\t-------",
        );
        let row = |one: &Value| {
            let [kind, status, reason, message] = names(one, ["type", "status", "reason", "message"]);
            let times = ["lastProbeTime", "lastTransitionTime"].map(|field| time(&one[field]));
            format!("{kind} \t{status} \t{} \t{} \t{reason} \t{message}", times[0], times[1])
        };
        page.ruled_table(1, header, conditions.iter().map(row));
    }
}

/// A claim that a pod brings along.
pub(super) fn claim_template(page: &mut Page, depth: usize, template: &Value) {
    if template.is_null() {
        return;
    }
    page.field(depth, "StorageClass", class(template));
    page.field(depth, "Volume", shown(&template["spec"]["volumeName"]));
    // kubectl indents these values, too.
    let indented = |values: Vec<String>| match values.is_empty() {
        true => vec!["    <none>".to_owned()],
        false => values.into_iter().map(|value| format!("    {value}")).collect(),
    };
    page.many(depth, "Labels", &indented(pairs(&template["metadata"]["labels"])));
    let annotations = annotation_lines(&template["metadata"]["annotations"]);
    page.many(depth, "Annotations", &indented(annotations));
    claimed(page, depth, template);
}

/// What a claim has, or is to be made of.
fn claimed(page: &mut Page, depth: usize, claim: &Value) {
    let (spec, status) = (&claim["spec"], &claim["status"]);
    let is_bound = !shown(&spec["volumeName"]).is_empty();
    let has = |text: String| if is_bound { text } else { String::new() };
    page.field(depth, "Capacity", has(quantity(&status["capacity"]["storage"])));
    page.field(depth, "Access Modes", has(modes(&status["accessModes"])));
    page.some(depth, "VolumeMode", &spec["volumeMode"]);
    if spec["dataSource"].is_object() {
        page.title(depth, "DataSource");
        page.some(depth + 1, "APIGroup", &spec["dataSource"]["apiGroup"]);
        page.all(depth + 1, &spec["dataSource"], &[("Kind", "kind"), ("Name", "name")]);
    }
}

/// Pods with a volume of the claim, and those that own it.
fn users(claim: &Value, pods: &[Value]) -> Vec<String> {
    let metadata = &claim["metadata"];
    let owns = |pod: &Value| {
        let owners = array(&metadata["ownerReferences"]).iter();
        owners.into_iter().any(|owner| owner["kind"] == "Pod" && owner["uid"] == pod["metadata"]["uid"])
    };
    let has = |volume: &Value| volume["persistentVolumeClaim"]["claimName"] == metadata["name"];
    let uses = |pod: &&Value| array(&pod["spec"]["volumes"]).iter().any(has) || owns(pod);
    let mut names: Vec<String> =
        pods.iter().filter(uses).map(|pod| shown(&pod["metadata"]["name"])).collect();
    names.sort();
    names
}

/// The claims that a StatefulSet makes for each of its pods.
pub(super) fn claim_templates(page: &mut Page, templates: &Value) {
    if array(templates).is_empty() {
        return page.field(0, "Volume Claims", "<none>");
    }
    page.title(0, "Volume Claims");
    for template in array(templates) {
        page.field(1, "Name", shown(&template["metadata"]["name"]));
        page.field(1, "StorageClass", class(template));
        page.labels(1, "Labels", &template["metadata"]["labels"]);
        page.labels(1, "Annotations", &template["metadata"]["annotations"]);
        let capacity = match &template["spec"]["resources"]["requests"]["storage"] {
            Value::Null => "<default>".to_owned(),
            size => quantity(size),
        };
        page.field(1, "Capacity", capacity);
        page.field(1, "Access Modes", list(&template["spec"]["accessModes"]));
    }
}

pub(super) fn storage_class(page: &mut Page, object: &Value) {
    let metadata = &object["metadata"];
    page.field(0, "Name", shown(&metadata["name"]));
    let is_default = DEFAULT.iter().any(|name| metadata["annotations"][*name] == "true");
    page.field(0, "IsDefaultClass", if is_default { "Yes" } else { "No" });
    page.field(0, "Annotations", labels(&metadata["annotations"]));
    page.field(0, "Provisioner", shown(&object["provisioner"]));
    page.field(0, "Parameters", labels(&object["parameters"]));
    page.field(0, "AllowVolumeExpansion", truth(&object["allowVolumeExpansion"]));
    if array(&object["mountOptions"]).is_empty() {
        page.field(0, "MountOptions", "<none>");
    } else {
        page.title(0, "MountOptions");
        array(&object["mountOptions"]).iter().for_each(|option| page.line(1, shown(option)));
    }
    page.some(0, "ReclaimPolicy", &object["reclaimPolicy"]);
    page.some(0, "VolumeBindingMode", &object["volumeBindingMode"]);
    if !array(&object["allowedTopologies"]).is_empty() {
        terms(page, 0, "AllowedTopologies", &object["allowedTopologies"], "matchLabelExpressions");
    }
}

pub(super) fn attributes_class(page: &mut Page, object: &Value) {
    page.field(0, "Name", shown(&object["metadata"]["name"]));
    page.field(0, "Annotations", labels(&object["metadata"]["annotations"]));
    page.field(0, "DriverName", shown(&object["driverName"]));
    page.field(0, "Parameters", labels(&object["parameters"]));
}

/// What drivers say of a node.
pub(super) fn csi_node(page: &mut Page, object: &Value) {
    page.cluster_head(object);
    page.created(object);
    page.title(0, "Spec");
    if !array(&object["spec"]["drivers"]).is_empty() {
        page.title(1, "Drivers");
    }
    for driver in array(&object["spec"]["drivers"]) {
        page.title(2, &shown(&driver["name"]));
        page.field(3, "Node ID", shown(&driver["nodeID"]));
        if driver["allocatable"]["count"].is_number() {
            page.title(3, "Allocatables");
            page.field(4, "Count", number(&driver["allocatable"]["count"]));
        }
        if !array(&driver["topologyKeys"]).is_empty() {
            page.field(3, "Topology Keys", list(&driver["topologyKeys"]));
        }
    }
}
