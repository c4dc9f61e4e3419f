//! The Job that upgrades a node.

use super::plan::Plan;
use api::Object;
use api::batch::Job;
use api::k8s::Resource;
use base::hex;
use serde_json::{Value, json};

pub(super) const NAMESPACE: &str = "kube-system";
/// Of which plan a Job is.
pub(super) const PLAN: &str = "upgrade.knarr.io/plan";
const NODE: &str = "upgrade.knarr.io/node";
const HASH: &str = "upgrade.knarr.io/hash";
/// A Job that is done is kept so long, for its pod's log, in seconds.
const KEPT_S: i32 = 3_600;
/// How long a node may take where the plan does not say, in seconds.
const DEADLINE_S: i64 = 900;
/// How often it is tried.
const TRIES: i32 = 2;

/// Whether a Job ended well; `None` while it has not.
pub(super) fn ended(job: &Job) -> Option<bool> {
    let conditions = job.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.filter(|condition| condition.status == "True").find_map(|condition| {
        match condition.type_.as_str() {
            "Complete" => Some(true),
            "Failed" => Some(false),
            _ => None,
        }
    })
}

pub(super) fn is_of(job: &Job, plan: &Plan, node: &str) -> bool {
    job.namespace() == NAMESPACE && job.name() == name(plan, node)
}

/// The same for the same node and the same of what is run: a restart in the middle makes no second one.
fn name(plan: &Plan, node: &str) -> String {
    let digest = hex::sha256(format!("{}/{node}", plan.mark()).as_bytes());
    format!(
        "upgrade-{}-{}",
        plan.name().chars().take(40).collect::<String>().trim_end_matches(['-', '.']),
        &digest[..12]
    )
}

/// Nodes' names may be longer than labels.
fn label(node: &str) -> String {
    if node.len() <= 63 { node.to_owned() } else { hex::sha256(node.as_bytes())[..32].to_owned() }
}

pub(super) fn of(plan: &Plan, node: &str) -> Job {
    let spec = &plan.spec;
    let variable = |name: &str, value: &str| json!({"name": name, "value": value});
    let mut container = json!({
        "name": "upgrade",
        "image": format!("{}:{}", spec.image, spec.version.replace('+', "-")),
        "env": [
            variable("KNARR_UPGRADE_NODE", node), variable("KNARR_UPGRADE_PLAN", plan.name()),
            variable("KNARR_UPGRADE_VERSION", &spec.version),
        ],
        "securityContext": {"privileged": true},
        "volumeMounts": [{"name": "host", "mountPath": "/host"}],
        "terminationMessagePolicy": "FallbackToLogsOnError",
    });
    for (field, words) in [("command", &spec.command), ("args", &spec.args)] {
        if !words.is_empty() {
            container[field] = json!(words);
        }
    }
    let labels = json!({PLAN: plan.name(), NODE: label(node), HASH: plan.hash()});
    let owner = json!({
        "apiVersion": Plan::API_VERSION, "kind": "Plan", "name": plan.name(), "uid": plan.uid(),
        "controller": true, "blockOwnerDeletion": true,
    });
    let job: Value = json!({
        "metadata": {"name": name(plan, node), "namespace": NAMESPACE, "labels": labels, "ownerReferences": [owner]},
        "spec": {
            "backoffLimit": TRIES, "ttlSecondsAfterFinished": KEPT_S,
            "activeDeadlineSeconds": spec.active_deadline_seconds.unwrap_or(DEADLINE_S),
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "nodeName": node, "hostPID": true, "hostNetwork": true, "restartPolicy": "Never",
                    "priorityClassName": "system-node-critical", "automountServiceAccountToken": false,
                    "tolerations": [{"operator": "Exists"}],
                    "containers": [container],
                    "volumes": [{"name": "host", "hostPath": {"path": "/", "type": "Directory"}}],
                },
            },
        },
    });
    serde_json::from_value(job).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_whole_and_the_same_again() {
        let plan: Plan = serde_json::from_value(json!({
            "metadata": {"name": "edge", "uid": "u"},
            "spec": {"version": "v1.36.1+knarr2", "image": "registry.example.org/knarr", "args": ["upgrade-node"]},
        }))
        .unwrap();
        let job = of(&plan, "box-1");
        assert!(is_of(&job, &plan, "box-1") && !is_of(&job, &plan, "box-2"));
        assert_eq!(job.name(), of(&plan, "box-1").name());
        let pod = job.spec.unwrap().template.spec.unwrap();
        assert_eq!(pod.node_name.as_deref(), Some("box-1"));
        assert_eq!(pod.containers[0].image.as_deref(), Some("registry.example.org/knarr:v1.36.1-knarr2"));
        assert_eq!(pod.containers[0].args.as_deref(), Some(&["upgrade-node".to_owned()][..]));
        assert!(pod.containers[0].command.is_none());
    }
}
