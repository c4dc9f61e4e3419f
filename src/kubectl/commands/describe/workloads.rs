//! What keeps pods running: Deployments, ReplicaSets, ReplicationControllers, StatefulSets, DaemonSets.

use super::page::Page;
use super::pod;
use super::storage;
use super::words::{array, labels, names, number, or_none, selector, shown};
use crate::controlled::own_template;
use crate::pods::label_selector;
use serde_json::Value;

pub(super) fn deployment(page: &mut Page, object: &Value, sets: &[Value]) {
    let (spec, status) = (&object["spec"], &object["status"]);
    page.name(object);
    page.created(object);
    page.marks(object);
    page.field(0, "Selector", label_selector(&spec["selector"]));
    let count = |field: &str| number(&status[field]);
    page.field(
        0,
        "Replicas",
        format_args!(
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
        let [away, besides] = names(rolling, ["maxUnavailable", "maxSurge"]);
        page.field(0, "RollingUpdateStrategy", format_args!("{away} max unavailable, {besides} max surge"));
    }
    pod::template(page, &spec["template"]);
    conditions(page, status);
    replica_sets(page, &spec["template"], sets);
}

fn conditions(page: &mut Page, status: &Value) {
    let row = |condition: &Value| {
        let [kind, status, reason] = names(condition, ["type", "status", "reason"]);
        // kubectl puts a space behind the first cell.
        format!("{kind} \t{status}\t{reason}")
    };
    if !array(&status["conditions"]).is_empty() {
        page.title(0, "Conditions");
        page.table(1, "Type\tStatus\tReason", array(&status["conditions"]).iter().map(row));
    }
}

/// The oldest set whose template is the wanted one, and all others.
fn replica_sets(page: &mut Page, wanted: &Value, sets: &[Value]) {
    let mut sets: Vec<&Value> = sets.iter().collect();
    sets.sort_by_key(|set| names(&set["metadata"], ["creationTimestamp", "name"]));
    let is_wanted = |set: &&&Value| own_template(&set["spec"]["template"]) == *wanted;
    let name = |set: &Value| shown(&set["metadata"]["name"]);
    let new = sets.iter().find(is_wanted).map(|set| name(set));
    let text = |is_new: bool| {
        let chosen = sets.iter().filter(|set| (Some(name(set)) == new) == is_new);
        let one = |set: &&Value| {
            let (made, wanted) = (number(&set["status"]["replicas"]), number(&set["spec"]["replicas"]));
            format!("{} ({made}/{wanted} replicas created)", name(set))
        };
        chosen.map(one).collect::<Vec<_>>().join(", ")
    };
    if !sets.is_empty() {
        page.field(0, "OldReplicaSets", or_none(&text(false)));
        page.field(0, "NewReplicaSet", or_none(&text(true)));
    }
}

/// Without its pods where they are not known; the page says why.
pub(super) fn replica_set(page: &mut Page, object: &Value, pods: Result<&[Value], &String>) {
    page.name(object);
    page.field(0, "Selector", selector(&object["spec"]["selector"]));
    page.marks(object);
    page.controller(object);
    replicas(page, object, pods);
}

pub(super) fn replication_controller(page: &mut Page, object: &Value, pods: &[Value]) {
    page.name(object);
    page.field(0, "Selector", labels(&object["spec"]["selector"]));
    page.marks(object);
    replicas(page, object, Ok(pods));
}

fn replicas(page: &mut Page, object: &Value, pods: Result<&[Value], &String>) {
    let (spec, status) = (&object["spec"], &object["status"]);
    let (now, wanted) = (number(&status["replicas"]), number(&spec["replicas"]));
    page.field(0, "Replicas", format_args!("{now} current / {wanted} desired"));
    match pods {
        Ok(pods) => phases(page, pods),
        Err(error) => page.field(0, "Pods Status", format_args!("error in fetching pods: {error}")),
    }
    pod::template(page, &spec["template"]);
    conditions(page, status);
}

/// How many pods are how far.
fn phases(page: &mut Page, pods: &[Value]) {
    let count = |phase: &str| pods.iter().filter(|pod| pod["status"]["phase"] == phase).count();
    let [running, waiting, succeeded, failed] = ["Running", "Pending", "Succeeded", "Failed"].map(count);
    page.field(
        0,
        "Pods Status",
        format_args!("{running} Running / {waiting} Waiting / {succeeded} Succeeded / {failed} Failed"),
    );
}

pub(super) fn stateful_set(page: &mut Page, object: &Value, pods: &[Value]) {
    let (spec, status) = (&object["spec"], &object["status"]);
    page.name(object);
    page.created(object);
    page.field(0, "Selector", label_selector(&spec["selector"]));
    page.marks(object);
    let (wanted, now) = (number(&spec["replicas"]), number(&status["replicas"]));
    page.field(0, "Replicas", format_args!("{wanted} desired | {now} total"));
    page.field(0, "Update Strategy", shown(&spec["updateStrategy"]["type"]));
    let rolling = &spec["updateStrategy"]["rollingUpdate"];
    if rolling["partition"].is_number() {
        page.field(1, "Partition", number(&rolling["partition"]));
        page.some(1, "MaxUnavailable", &rolling["maxUnavailable"]);
    }
    phases(page, pods);
    pod::template(page, &spec["template"]);
    storage::claim_templates(page, &spec["volumeClaimTemplates"]);
}

pub(super) fn daemon_set(page: &mut Page, object: &Value, pods: &[Value]) {
    let (spec, status) = (&object["spec"], &object["status"]);
    page.name(object);
    page.field(0, "Selector", label_selector(&spec["selector"]));
    page.field(0, "Node-Selector", labels(&spec["template"]["spec"]["nodeSelector"]));
    page.marks(object);
    for (title, field) in [
        ("Desired Number of Nodes Scheduled", "desiredNumberScheduled"),
        ("Current Number of Nodes Scheduled", "currentNumberScheduled"),
        ("Number of Nodes Scheduled with Up-to-date Pods", "updatedNumberScheduled"),
        ("Number of Nodes Scheduled with Available Pods", "numberAvailable"),
        ("Number of Nodes Misscheduled", "numberMisscheduled"),
    ] {
        page.line(0, format_args!("{title}: {}", number(&status[field])));
    }
    phases(page, pods);
    pod::template(page, &spec["template"]);
}
