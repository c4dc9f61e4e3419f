//! What makes pods: Deployments, ReplicaSets, Jobs.

use super::containers::{self, Of};
use super::page::{Page, array, between, or_none, pairs, shown, time, tolerations};
use super::volumes;
use serde_json::Value;

const HASH: &str = "pod-template-hash";

/// A label selector as one text.
fn selector(selector: &Value) -> String {
    let mut parts = pairs(&selector["matchLabels"], "=");
    for expression in array(&selector["matchExpressions"]) {
        let key = shown(&expression["key"]);
        let values: Vec<String> = array(&expression["values"]).iter().map(shown).collect();
        parts.push(match expression["operator"].as_str().unwrap_or_default() {
            "In" => format!("{key} in ({})", values.join(",")),
            "NotIn" => format!("{key} notin ({})", values.join(",")),
            "DoesNotExist" => format!("!{key}"),
            _ => key,
        });
    }
    or_none(&parts.join(",")).to_owned()
}

pub(super) fn deployment(page: &mut Page, object: &Value, sets: &[Value]) {
    let (metadata, spec, status) = (&object["metadata"], &object["spec"], &object["status"]);
    let number = |value: &Value| value.as_i64().unwrap_or(0);
    page.field(0, "Name", shown(&metadata["name"]));
    page.field(0, "Namespace", shown(&metadata["namespace"]));
    page.field(0, "CreationTimestamp", time(&metadata["creationTimestamp"]));
    page.labels(0, "Labels", &metadata["labels"]);
    page.annotations(0, "Annotations", &metadata["annotations"]);
    page.field(0, "Selector", selector(&spec["selector"]));
    let count = |field: &str| number(&status[field]);
    page.field(
        0,
        "Replicas",
        format!(
            "{} desired | {} updated | {} total | {} available | {} unavailable",
            number(&spec["replicas"]),
            count("updatedReplicas"),
            count("replicas"),
            count("availableReplicas"),
            count("unavailableReplicas")
        ),
    );
    page.field(0, "StrategyType", shown(&spec["strategy"]["type"]));
    page.field(0, "MinReadySeconds", number(&spec["minReadySeconds"]));
    let rolling = &spec["strategy"]["rollingUpdate"];
    if rolling.is_object() {
        let limits = format!(
            "{} max unavailable, {} max surge",
            shown(&rolling["maxUnavailable"]),
            shown(&rolling["maxSurge"])
        );
        page.field(0, "RollingUpdateStrategy", limits);
    }
    template(page, &spec["template"]);
    conditions(page, status);
    replica_sets(page, &spec["template"], sets);
}

fn conditions(page: &mut Page, status: &Value) {
    // kubectl puts a space behind the first cell.
    let row = |condition: &Value| {
        vec![
            format!("{} ", shown(&condition["type"])),
            shown(&condition["status"]),
            shown(&condition["reason"]),
        ]
    };
    let rows: Vec<Vec<String>> = array(&status["conditions"]).iter().map(row).collect();
    if !rows.is_empty() {
        page.rows("Conditions", &["Type", "Status", "Reason"], &rows);
    }
}

/// The set whose template is the wanted one, and those before it that still count.
fn replica_sets(page: &mut Page, wanted: &Value, sets: &[Value]) {
    let is_new = |set: &&Value| {
        let mut template = set["spec"]["template"].clone();
        if let Some(labels) = template.pointer_mut("/metadata/labels").and_then(Value::as_object_mut) {
            labels.remove(HASH);
        }
        template == *wanted
    };
    let one = |set: &Value| {
        let (made, wanted) =
            (set["status"]["replicas"].as_i64().unwrap_or(0), set["spec"]["replicas"].as_i64().unwrap_or(0));
        format!("{} ({made}/{wanted} replicas created)", shown(&set["metadata"]["name"]))
    };
    let new: Vec<String> = sets.iter().filter(is_new).map(one).collect();
    let old: Vec<String> = sets.iter().filter(|set| !is_new(set)).map(one).collect();
    if !sets.is_empty() {
        page.field(0, "OldReplicaSets", or_none(&old.join(", ")));
        page.field(0, "NewReplicaSet", or_none(&new.join(", ")));
    }
}

pub(super) fn replica_set(page: &mut Page, object: &Value, pods: &[Value]) {
    let (metadata, spec) = (&object["metadata"], &object["spec"]);
    page.field(0, "Name", shown(&metadata["name"]));
    page.field(0, "Namespace", shown(&metadata["namespace"]));
    page.field(0, "Selector", selector(&spec["selector"]));
    page.labels(0, "Labels", &metadata["labels"]);
    page.annotations(0, "Annotations", &metadata["annotations"]);
    page.controller(object);
    let number = |value: &Value| value.as_i64().unwrap_or(0);
    let replicas = (number(&object["status"]["replicas"]), number(&spec["replicas"]));
    page.field(0, "Replicas", format!("{} current / {} desired", replicas.0, replicas.1));
    let phase = |phase: &str| pods.iter().filter(|pod| pod["status"]["phase"] == phase).count();
    page.field(
        0,
        "Pods Status",
        format!(
            "{} Running / {} Waiting / {} Succeeded / {} Failed",
            phase("Running"),
            phase("Pending"),
            phase("Succeeded"),
            phase("Failed")
        ),
    );
    template(page, &spec["template"]);
    conditions(page, &object["status"]);
}

pub(super) fn job(page: &mut Page, object: &Value) {
    let (metadata, spec, status) = (&object["metadata"], &object["spec"], &object["status"]);
    page.field(0, "Name", shown(&metadata["name"]));
    page.field(0, "Namespace", shown(&metadata["namespace"]));
    page.field(0, "Selector", selector(&spec["selector"]));
    page.labels(0, "Labels", &metadata["labels"]);
    page.annotations(0, "Annotations", &metadata["annotations"]);
    page.controller(object);
    page.some(0, "Parallelism", &spec["parallelism"]);
    let completions = shown(&spec["completions"]);
    page.field(0, "Completions", if completions.is_empty() { "<unset>" } else { &completions });
    page.some(0, "Completion Mode", &spec["completionMode"]);
    page.some(0, "Suspend", &spec["suspend"]);
    page.some(0, "Backoff Limit", &spec["backoffLimit"]);
    page.some(0, "TTL Seconds After Finished", &spec["ttlSecondsAfterFinished"]);
    if status["startTime"].is_string() {
        page.field(0, "Start Time", time(&status["startTime"]));
    }
    if status["completionTime"].is_string() {
        page.field(0, "Completed At", time(&status["completionTime"]));
    }
    if let Some(took) = between(&status["startTime"], &status["completionTime"]) {
        page.field(0, "Duration", took);
    }
    if let Some(seconds) = spec["activeDeadlineSeconds"].as_i64() {
        page.field(0, "Active Deadline Seconds", format!("{seconds}s"));
    }
    let count = |field: &str| status[field].as_i64().unwrap_or(0);
    let ready =
        if status["ready"].is_number() { format!(" ({} Ready)", count("ready")) } else { String::new() };
    page.field(
        0,
        "Pods Statuses",
        format!(
            "{} Active{ready} / {} Succeeded / {} Failed",
            count("active"),
            count("succeeded"),
            count("failed")
        ),
    );
    if spec["completionMode"] == "Indexed" {
        page.field(0, "Completed Indexes", or_none(&shown(&status["completedIndexes"])));
    }
    template(page, &spec["template"]);
}

pub(super) fn template(page: &mut Page, template: &Value) {
    let spec = &template["spec"];
    page.line(0, "Pod Template:");
    page.labels(1, "Labels", &template["metadata"]["labels"]);
    if template["metadata"]["annotations"].is_object() {
        page.annotations(1, "Annotations", &template["metadata"]["annotations"]);
    }
    page.some(1, "Service Account", &spec["serviceAccountName"]);
    let of = Of { pod: &Value::Null, statuses: &Value::Null };
    containers::write(page, 1, "Init Containers", array(&spec["initContainers"]), of);
    containers::write(page, 1, "Containers", array(&spec["containers"]), of);
    volumes::write(page, 1, &spec["volumes"]);
    page.some(1, "Priority Class Name", &spec["priorityClassName"]);
    page.labels(1, "Node-Selectors", &spec["nodeSelector"]);
    page.many(1, "Tolerations", &tolerations(&spec["tolerations"]));
}
