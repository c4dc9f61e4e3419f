//! The kinds that make pods.

use super::{Errors, PLAIN, Strategy, default, defaults, items, names, podspec, text};
use api::selector::Labels;
use api::validate::{Error, Path, dns_subdomain};
use serde_json::{Value, json};
use std::collections::BTreeMap;

const COUNTED: Strategy = Strategy { generation: true, ..PLAIN };

pub(super) const DEPLOYMENT: Strategy = Strategy {
    default: |object| {
        let Some(spec) = object.get_mut("spec") else { return };
        default(spec, "replicas", 1);
        default(spec, "strategy", json!({}));
        default(&mut spec["strategy"], "type", "RollingUpdate");
        if spec["strategy"]["type"] == "RollingUpdate" {
            default(&mut spec["strategy"], "rollingUpdate", json!({}));
            default(&mut spec["strategy"]["rollingUpdate"], "maxUnavailable", "25%");
            default(&mut spec["strategy"]["rollingUpdate"], "maxSurge", "25%");
        }
        default(spec, "revisionHistoryLimit", 10);
        default(spec, "progressDeadlineSeconds", 600);
        template(spec);
    },
    validate: |object, errors| {
        scaled(object, errors);
        deployment_strategy(object, errors);
    },
    validate_update: immutable_selector,
    ..COUNTED
};

pub(super) const REPLICA_SET: Strategy = Strategy {
    default: |object| {
        let Some(spec) = object.get_mut("spec") else { return };
        default(spec, "replicas", 1);
        template(spec);
    },
    validate: scaled,
    validate_update: immutable_selector,
    ..COUNTED
};

pub(super) const REPLICATION_CONTROLLER: Strategy = Strategy {
    default: |object| {
        let labels = object["spec"]["template"]["metadata"]["labels"].clone();
        let Some(spec) = object.get_mut("spec") else { return };
        default(spec, "replicas", 1);
        if labels.is_object() {
            default(spec, "selector", labels);
        }
        template(spec);
    },
    validate: |object, errors| {
        let spec = Path::new("spec");
        names::not_negative(&object["spec"]["replicas"], &spec.child("replicas"), errors);
        podspec::validate(&object["spec"]["template"]["spec"], &spec.child("template").child("spec"), errors);
    },
    propagation: "Orphan",
    ..COUNTED
};

pub(super) const STATEFUL_SET: Strategy = Strategy {
    default: |object| {
        let Some(spec) = object.get_mut("spec") else { return };
        default(spec, "replicas", 1);
        default(spec, "podManagementPolicy", "OrderedReady");
        default(spec, "updateStrategy", json!({}));
        default(&mut spec["updateStrategy"], "type", "RollingUpdate");
        if spec["updateStrategy"]["type"] == "RollingUpdate" {
            default(&mut spec["updateStrategy"], "rollingUpdate", json!({}));
            default(&mut spec["updateStrategy"]["rollingUpdate"], "partition", 0);
        }
        default(spec, "revisionHistoryLimit", 10);
        default(
            spec,
            "persistentVolumeClaimRetentionPolicy",
            json!({"whenDeleted": "Retain", "whenScaled": "Retain"}),
        );
        for claim in super::items_mut(spec, "volumeClaimTemplates") {
            default(claim, "apiVersion", "v1");
            default(claim, "kind", "PersistentVolumeClaim");
            default(claim, "status", json!({"phase": "Pending"}));
            if let Some(spec) = claim.get_mut("spec") {
                default(spec, "volumeMode", "Filesystem");
            }
        }
        template(spec);
    },
    validate: scaled,
    validate_update: immutable_selector,
    ..COUNTED
};

pub(super) const DAEMON_SET: Strategy = Strategy {
    default: |object| {
        let Some(spec) = object.get_mut("spec") else { return };
        default(spec, "updateStrategy", json!({}));
        default(&mut spec["updateStrategy"], "type", "RollingUpdate");
        if spec["updateStrategy"]["type"] == "RollingUpdate" {
            default(&mut spec["updateStrategy"], "rollingUpdate", json!({}));
            default(&mut spec["updateStrategy"]["rollingUpdate"], "maxUnavailable", 1);
            default(&mut spec["updateStrategy"]["rollingUpdate"], "maxSurge", 0);
        }
        default(spec, "revisionHistoryLimit", 10);
        template(spec);
    },
    validate: scaled,
    validate_update: immutable_selector,
    ..COUNTED
};

pub(super) const JOB: Strategy = Strategy {
    name_rule: dns_subdomain,
    default: |object| {
        if let Some(spec) = object.get_mut("spec") {
            job_spec(spec);
        }
    },
    prepare_create: job_selector,
    validate: |object, errors| validate_job(&object["spec"], &Path::new("spec"), errors),
    validate_update: |new, old, errors| {
        let path = Path::new("spec");
        for field in ["selector", "completionMode", "podFailurePolicy", "backoffLimitPerIndex"] {
            immutable(&new["spec"][field], &old["spec"][field], &path.child(field), errors);
        }
        let suspended = old["spec"]["suspend"] == true && old["status"]["startTime"].is_null();
        if !suspended {
            immutable(&new["spec"]["template"], &old["spec"]["template"], &path.child("template"), errors);
        }
        if new["spec"]["completionMode"] != "Indexed" {
            immutable(
                &new["spec"]["completions"],
                &old["spec"]["completions"],
                &path.child("completions"),
                errors,
            );
        }
    },
    propagation: "Orphan",
    ..COUNTED
};

pub(super) const CRON_JOB: Strategy = Strategy {
    default: |object| {
        let Some(spec) = object.get_mut("spec") else { return };
        default(spec, "concurrencyPolicy", "Allow");
        default(spec, "suspend", false);
        default(spec, "successfulJobsHistoryLimit", 3);
        default(spec, "failedJobsHistoryLimit", 1);
        if let Some(spec) = spec.pointer_mut("/jobTemplate/spec/template/spec") {
            defaults::pod_spec(spec);
        }
    },
    validate: |object, errors| {
        let (spec, path) = (&object["spec"], Path::new("spec"));
        if text(spec, "schedule").is_empty() {
            errors.push(Error::required(&path.child("schedule"), ""));
        }
        names::one_of(
            &spec["concurrencyPolicy"],
            &path.child("concurrencyPolicy"),
            &["Allow", "Forbid", "Replace"],
            errors,
        );
        let template = path.child("jobTemplate").child("spec").child("template").child("spec");
        let pod = &spec["jobTemplate"]["spec"]["template"]["spec"];
        podspec::validate(pod, &template, errors);
        job_restarts(pod, &template, errors);
    },
    ..COUNTED
};

fn template(spec: &mut Value) {
    if let Some(spec) = spec.pointer_mut("/template/spec") {
        defaults::pod_spec(spec);
    }
}

fn job_spec(spec: &mut Value) {
    if spec["completions"].is_null() && spec["parallelism"].is_null() {
        spec["completions"] = json!(1);
    }
    default(spec, "parallelism", 1);
    let per_index = !spec["backoffLimitPerIndex"].is_null();
    default(spec, "backoffLimit", if per_index { i64::from(i32::MAX) } else { 6 });
    default(spec, "completionMode", "NonIndexed");
    default(spec, "suspend", false);
    let replacement = if spec["podFailurePolicy"].is_null() { "TerminatingOrFailed" } else { "Failed" };
    default(spec, "podReplacementPolicy", replacement);
    template(spec);
}

/// A job selects its own pods by its uid, unless its writer selects them by hand.
fn job_selector(job: &mut Value) {
    if job["spec"]["manualSelector"] == true || !job["spec"]["template"].is_object() {
        return;
    }
    let (uid, name) = (job["metadata"]["uid"].clone(), job["metadata"]["name"].clone());
    let template = &mut job["spec"]["template"];
    if !template["metadata"].is_object() {
        template["metadata"] = json!({});
    }
    if !template["metadata"]["labels"].is_object() {
        template["metadata"]["labels"] = json!({});
    }
    let labels = &mut template["metadata"]["labels"];
    for prefix in ["", "batch.kubernetes.io/"] {
        labels[format!("{prefix}controller-uid")] = uid.clone();
        labels[format!("{prefix}job-name")] = name.clone();
    }
    job["spec"]["selector"] = json!({"matchLabels": {"batch.kubernetes.io/controller-uid": uid}});
}

fn validate_job(spec: &Value, path: &Path, errors: &mut Errors) {
    for field in
        ["parallelism", "completions", "activeDeadlineSeconds", "backoffLimit", "ttlSecondsAfterFinished"]
    {
        names::not_negative(&spec[field], &path.child(field), errors);
    }
    names::one_of(&spec["completionMode"], &path.child("completionMode"), &["Indexed", "NonIndexed"], errors);
    if spec["completionMode"] == "Indexed" && spec["completions"].is_null() {
        errors.push(Error::required(&path.child("completions"), "when completion mode is Indexed"));
    }
    let (pod, path) = (&spec["template"]["spec"], path.child("template").child("spec"));
    podspec::validate(pod, &path, errors);
    job_restarts(pod, &path, errors);
}

fn job_restarts(pod: &Value, path: &Path, errors: &mut Errors) {
    if text(pod, "restartPolicy") == "Always" {
        errors.push(Error::not_supported(&path.child("restartPolicy"), "Always", &["OnFailure", "Never"]));
    }
}

/// The rules of all that keep a number of pods by a selector.
fn scaled(object: &Value, errors: &mut Errors) {
    let (spec, path) = (&object["spec"], Path::new("spec"));
    for field in ["replicas", "minReadySeconds", "revisionHistoryLimit", "progressDeadlineSeconds"] {
        names::not_negative(&spec[field], &path.child(field), errors);
    }
    let selector = &spec["selector"];
    let template = path.child("template");
    if !selector.is_object() {
        errors.push(Error::required(&path.child("selector"), ""));
    } else if items(selector, "matchExpressions").is_empty()
        && selector["matchLabels"].as_object().is_none_or(serde_json::Map::is_empty)
    {
        errors.push(Error::invalid(
            &path.child("selector"),
            selector.clone(),
            "empty selector is invalid for deployment",
        ));
    } else if !selects_own(selector, &spec["template"]["metadata"]["labels"]) {
        let labels = spec["template"]["metadata"]["labels"].clone();
        let labels = if labels.is_null() { json!({}) } else { labels };
        let path = template.child("metadata").child("labels");
        errors.push(Error::invalid(&path, labels, "`selector` does not match template `labels`"));
    }
    api::validate::labels(
        &spec["template"]["metadata"]["labels"],
        &template.child("metadata").child("labels"),
        errors,
    );
    let pod = &spec["template"]["spec"];
    podspec::validate(pod, &template.child("spec"), errors);
    if !matches!(text(pod, "restartPolicy"), "" | "Always") {
        let policy = text(pod, "restartPolicy");
        errors.push(Error::not_supported(
            &template.child("spec").child("restartPolicy"),
            policy,
            &["Always"],
        ));
    }
    if !pod["activeDeadlineSeconds"].is_null() {
        let detail = "activeDeadlineSeconds in ReplicaSet is not Supported";
        errors.push(Error::forbidden(&template.child("spec").child("activeDeadlineSeconds"), detail));
    }
}

fn selects_own(selector: &Value, labels: &Value) -> bool {
    let Ok(selector) = serde_json::from_value(selector.clone()) else { return false };
    let labels: BTreeMap<String, String> = serde_json::from_value(labels.clone()).unwrap_or_default();
    Labels::of(Some(&selector)).matches(&labels)
}

fn deployment_strategy(object: &Value, errors: &mut Errors) {
    let (strategy, path) = (&object["spec"]["strategy"], Path::new("spec").child("strategy"));
    let rolling = path.child("rollingUpdate");
    match text(strategy, "type") {
        "Recreate" if !strategy["rollingUpdate"].is_null() => {
            let detail = "may not be specified when strategy `type` is 'Recreate'";
            errors.push(Error::forbidden(&rolling, detail));
        }
        "RollingUpdate" => {
            let update = &strategy["rollingUpdate"];
            for field in ["maxUnavailable", "maxSurge"] {
                portion(&update[field], &rolling.child(field), errors);
            }
            let zero = |value: &Value| value == 0 || value == "0%" || value == "0";
            if zero(&update["maxUnavailable"]) && zero(&update["maxSurge"]) {
                let detail = "may not be 0 when `maxSurge` is 0";
                errors.push(Error::invalid(
                    &rolling.child("maxUnavailable"),
                    update["maxUnavailable"].clone(),
                    detail,
                ));
            }
        }
        "Recreate" => {}
        _ => names::one_of(&strategy["type"], &path.child("type"), &["Recreate", "RollingUpdate"], errors),
    }
}

/// A number that is not negative, or a percentage.
fn portion(value: &Value, path: &Path, errors: &mut Errors) {
    match value {
        Value::String(text) => {
            let percent = text
                .strip_suffix('%')
                .is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()));
            if !percent {
                let detail = "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')";
                errors.push(Error::invalid(path, text.as_str(), detail));
            }
        }
        number => names::not_negative(number, path, errors),
    }
}

fn immutable(new: &Value, old: &Value, path: &Path, errors: &mut Errors) {
    if new != old {
        errors.push(Error::invalid(path, new.clone(), "field is immutable"));
    }
}

fn immutable_selector(new: &Value, old: &Value, errors: &mut Errors) {
    immutable(
        &new["spec"]["selector"],
        &old["spec"]["selector"],
        &Path::new("spec").child("selector"),
        errors,
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deployment(replicas: &Value, selector: &Value) -> Value {
        let mut object = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a"}, "spec": {"replicas": replicas, "selector": selector,
            "template": {"metadata": {"labels": {"app": "a"}}, "spec": {"containers": [{"name": "c", "image": "a"}]}}}});
        (DEPLOYMENT.default)(&mut object);
        object
    }

    fn texts(object: &Value) -> Vec<String> {
        let mut errors = Vec::new();
        (DEPLOYMENT.validate)(object, &mut errors);
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_deployment_is_checked_in_kubernetes_words() {
        assert!(texts(&deployment(&json!(1), &json!({"matchLabels": {"app": "a"}}))).is_empty());
        assert_eq!(
            texts(&deployment(&json!(-1), &json!({"matchLabels": {"app": "b"}}))),
            [
                "spec.replicas: Invalid value: -1: must be greater than or equal to 0",
                r#"spec.template.metadata.labels: Invalid value: {"app":"a"}: `selector` does not match template `labels`"#,
            ]
        );
    }

    #[test]
    fn jobs_select_their_pods_by_uid() {
        let mut job = json!({"metadata": {"uid": "u", "name": "j"}, "spec": {"template": {"spec": {"containers": []}}}});
        (JOB.default)(&mut job);
        (JOB.prepare_create)(&mut job);
        assert_eq!(
            job["spec"]["selector"],
            json!({"matchLabels": {"batch.kubernetes.io/controller-uid": "u"}})
        );
        assert_eq!(job["spec"]["template"]["metadata"]["labels"]["job-name"], "j");
        assert_eq!((&job["spec"]["completions"], &job["spec"]["backoffLimit"]), (&json!(1), &json!(6)));
    }
}
