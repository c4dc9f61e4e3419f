//! Jobs.

use super::{Generation, PLAIN, Strategy, default, default_zero, defaults, items, pods, text};
use api::validate::{
    At, dns_label, dns_subdomain, domain_prefixed_path, label_selector, qualified_name, selects,
};
use serde_json::{Value, json};
use std::collections::HashSet;

/// Limits of jobs (`JobSpec`).
const MOST_PARALLEL: i64 = 100_000;
const MANY_COMPLETIONS: i64 = 100_000;
const MOST_PARALLEL_OF_MANY: i64 = 10_000;
const MOST_RULES: usize = 20;
const MOST_CODES: usize = 255;
const MOST_INDEXES_BYTES: usize = 64 << 10;

pub(super) const JOB: Strategy = Strategy {
    name_rule: dns_subdomain,
    default: |job| {
        let labels = job["spec"]["template"]["metadata"]["labels"].clone();
        if labels.is_object() && job["metadata"]["labels"].is_null() {
            job["metadata"]["labels"] = labels;
        }
        let Some(spec) = job.get_mut("spec") else { return };
        if spec["completions"].is_null() && spec["parallelism"].is_null() {
            spec["completions"] = json!(1);
        }
        default(spec, "parallelism", 1);
        let per_index = !spec["backoffLimitPerIndex"].is_null();
        default(spec, "backoffLimit", if per_index { i64::from(i32::MAX) } else { 6 });
        default(spec, "completionMode", "NonIndexed");
        default(spec, "suspend", false);
        let failed = !spec["podFailurePolicy"].is_null();
        default(spec, "podReplacementPolicy", if failed { "Failed" } else { "TerminatingOrFailed" });
        default(spec, "manualSelector", false);
        failure_policy_defaults(spec);
        defaults::template(spec, "/template/spec");
    },
    prepare_create: select_own,
    validate: |job| {
        let spec = job.get("spec");
        generated_selector(job);
        job_spec(&spec);
        let (own, labels) = (spec.get("selector"), spec.get("template.metadata.labels"));
        if own.need_present() {
            label_selector(&own);
        }
        if own.present() && !selects(own.value(), labels.value()) {
            labels.invalid("`selector` does not match template `labels`");
        }
    },
    validate_new: |job| {
        let (spec, name) = (job.get("spec"), job.get("metadata.name"));
        let count = spec.get("completions").int();
        if spec.get("completionMode").is("Indexed") && count > 0 {
            let host = format!("{}-{}", name.text(), count - 1);
            if !dns_label(&host).is_empty() {
                name.invalid_as(
                    name.text(),
                    format!("will not able to create pod with invalid DNS label: {host}"),
                );
            }
        }
    },
    validate_update,
    validate_status,
    generation: Generation::Counted,
    status_meta: true,
    propagation: "Orphan",
    ..PLAIN
};

pub(super) fn failure_policy_defaults(spec: &mut Value) {
    let Some(policy) = spec.get_mut("podFailurePolicy") else { return };
    for rule in super::items_mut(policy, "rules") {
        super::items_mut(rule, "onPodConditions").for_each(|one| default_zero(one, "status", "True"));
    }
}

const LABELS: [(&str, &str); 4] = [
    ("controller-uid", "uid"),
    ("job-name", "name"),
    ("batch.kubernetes.io/controller-uid", "uid"),
    ("batch.kubernetes.io/job-name", "name"),
];

/// A job selects its own pods by its uid, unless its writer selects them by hand.
fn select_own(job: &mut Value) {
    if job["spec"]["manualSelector"] == true || !job["spec"]["template"].is_object() {
        return;
    }
    let metadata = job["metadata"].clone();
    // Labels that were taken over from the template go on being the template's.
    let shared = metadata["labels"] == job["spec"]["template"]["metadata"]["labels"];
    let template = &mut job["spec"]["template"];
    for (label, field) in LABELS {
        let labels = &mut template["metadata"]["labels"];
        if labels.get(label).is_none() {
            labels[label] = Value::from(text(&metadata, field));
        }
    }
    if shared {
        job["metadata"]["labels"] = job["spec"]["template"]["metadata"]["labels"].clone();
    }
    let own = &mut job["spec"]["selector"];
    if own.is_null() {
        *own = json!({});
    }
    default(own, "matchLabels", json!({}));
    default(&mut own["matchLabels"], LABELS[2].0, metadata["uid"].clone());
}

fn generated_selector(job: &At) {
    let own = job.get("spec.selector");
    if job.get("spec.manualSelector").yes() || !own.present() {
        return;
    }
    let labels = job.get("spec.template.metadata.labels");
    let mut expected = serde_json::Map::new();
    for (label, field) in LABELS {
        let (value, found) = (job.get("metadata").get(field).value(), labels.key(label));
        expected.insert(label.to_owned(), value.clone());
        let why = format!("must be '{}'", value.as_str().unwrap_or_default());
        if !found.present() {
            found.required(&why);
        } else if found.text() != value.as_str().unwrap_or_default() {
            found.invalid_as(labels.value().clone(), why);
        }
    }
    if !selects(own.value(), &Value::Object(expected)) {
        own.invalid("`selector` not auto-generated");
    }
}

pub(super) fn job_spec(spec: &At) {
    spec.none_negative(&[
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ]);
    let per_index = spec.get("backoffLimitPerIndex");
    if spec.get("maxFailedIndexes").present() && !per_index.present() {
        per_index.required("when maxFailedIndexes is specified");
    }
    spec.on("managedBy", |manager| {
        if manager.need() {
            manager.named(domain_prefixed_path);
        }
        manager.no_longer_than(63);
    });
    indexed(spec);
    spec.on("podFailurePolicy", |policy| failure_policy(policy, spec));
    let success = spec.get("successPolicy");
    if success.present() {
        if spec.get("completionMode").is("Indexed") {
            success_policy(&success, spec.get("completions").int());
        } else {
            success.invalid_type("api.batch.v1.SuccessPolicy", "requires indexed completion mode");
        }
    }
    let replacement = spec.get("podReplacementPolicy");
    if spec.get("podFailurePolicy").present() {
        replacement.one_of_if_set(&["Failed"]);
    } else {
        replacement.one_of_if_set(&["Failed", "TerminatingOrFailed"]);
    }
    pods::template(&spec.get("template"));
    let policy = spec.get("template.spec.restartPolicy");
    match policy.text() {
        "Always" | "" => policy.required("valid values: \"OnFailure\", \"Never\""),
        "OnFailure" if spec.get("podFailurePolicy").present() => {
            policy.invalid("only \"Never\" is supported when podFailurePolicy is specified");
        }
        _ => policy.one_of(&["OnFailure", "Never"]),
    }
}

fn indexed(spec: &At) {
    let mode = spec.get("completionMode");
    mode.one_of_if_set(&["NonIndexed", "Indexed"]);
    let (count, parallel) = (spec.get("completions"), spec.get("parallelism"));
    let (per_index, failed) = (spec.get("backoffLimitPerIndex"), spec.get("maxFailedIndexes"));
    let at_most = |at: &At, most: i64, when: &str| {
        if at.int() > most {
            at.invalid(format!("must be less than or equal to {most}{when}"));
        }
    };
    if mode.is("Indexed") {
        if !count.present() {
            count.required("when completion mode is Indexed");
        }
        at_most(&parallel, MOST_PARALLEL, " when completion mode is Indexed");
        if count.present() && failed.int() > count.int() {
            failed.invalid("must be less than or equal to completions");
        }
        at_most(&failed, MOST_PARALLEL, "");
        if count.int() > MANY_COMPLETIONS && per_index.present() {
            if !failed.present() {
                failed.required("must be specified when completions is above 100000");
            }
            let when = " when completions are above 100000 and used with backoff limit per index";
            at_most(&parallel, MOST_PARALLEL_OF_MANY, when);
            at_most(&failed, MOST_PARALLEL_OF_MANY, when);
        }
    } else if !mode.present() || mode.is("NonIndexed") {
        for at in [&per_index, &failed].into_iter().filter(|at| at.present()) {
            at.invalid("requires indexed completion mode");
        }
    }
}

fn words(at: &At, known: &[&str]) {
    if at.empty() {
        let quoted: Vec<String> = known.iter().map(|word| format!("{word:?}")).collect();
        at.required(&format!("valid values: [{}]", quoted.join(" ")));
    } else {
        at.one_of(known);
    }
}

fn failure_policy(policy: &At, spec: &At) {
    let rules = policy.get("rules");
    rules.no_more_than(MOST_RULES);
    let pod = spec.get("template.spec");
    let lists = ["containers", "initContainers"].into_iter().flat_map(|list| items(pod.value(), list));
    let names: HashSet<&str> = lists.filter_map(|container| container["name"].as_str()).collect();
    rules.each(|rule| {
        let action = rule.get("action");
        if action.is("FailIndex") {
            if !spec.get("backoffLimitPerIndex").present() {
                action.invalid("requires the backoffLimitPerIndex to be set");
            }
        } else {
            words(&action, &["Count", "FailIndex", "FailJob", "Ignore"]);
        }
        let (codes, conditions) = (rule.get("onExitCodes"), rule.get("onPodConditions"));
        codes.on_self(|codes| exit_codes(codes, &names));
        conditions.no_more_than(MOST_RULES);
        conditions.each(|condition| {
            condition.get("type").named(qualified_name);
            words(&condition.get("status"), &["False", "True", "Unknown"]);
        });
        match (codes.present(), !conditions.empty()) {
            (true, true) => rule.wrong("specifying both OnExitCodes and OnPodConditions is not supported"),
            (false, false) => rule.wrong("specifying one of OnExitCodes and OnPodConditions is required"),
            _ => {}
        }
    });
}

fn exit_codes(at: &At, names: &HashSet<&str>) {
    words(&at.get("operator"), &["In", "NotIn"]);
    at.on("containerName", |name| {
        if !names.contains(name.text()) {
            name.invalid("must be one of the container or initContainer names in the pod template");
        }
    });
    let values = at.get("values");
    if values.empty() {
        values.invalid("at least one value is required");
    }
    values.no_more_than(MOST_CODES);
    let mut seen = HashSet::new();
    values.each(|value| {
        if at.get("operator").is("In") && value.int() == 0 {
            value.invalid("must not be 0 for the In operator");
        }
        if !seen.insert(value.int()) {
            value.duplicate();
        }
    });
    if !values.items().is_sorted_by_key(|value| value.as_i64()) {
        values.invalid("must be ordered");
    }
}

fn success_policy(policy: &At, completions: i64) {
    let rules = policy.get("rules");
    rules.need_because("at least one rules must be specified when the successPolicy is specified");
    rules.no_more_than(MOST_RULES);
    rules.each(|rule| {
        let (count, indexes) = (rule.get("succeededCount"), rule.get("succeededIndexes"));
        if !count.present() && !indexes.present() {
            rule.required("at least one of succeededCount or succeededIndexes must be specified");
        }
        let mut total = 0;
        if indexes.present() {
            indexes.no_longer_than(MOST_INDEXES_BYTES);
            match count_indexes(indexes.text(), completions) {
                Ok(number) => total = number,
                Err(why) => indexes.invalid(format!("error parsing succeededIndexes: {why}")),
            }
        }
        if count.present() {
            count.not_negative();
            let at_most = |most: i64, what: &str| {
                if count.int() > most {
                    count.invalid(format!("must be less than or equal to {most} (the number of {what})"));
                }
            };
            at_most(completions, "specified completions");
            if indexes.present() {
                at_most(total, "indexes in the specified succeededIndexes field");
            }
        }
    });
}

/// How many indexes a text such as `1,3-5` names.
fn count_indexes(text: &str, completions: i64) -> Result<i64, String> {
    let (mut last, mut total) = (None, 0);
    if text.is_empty() {
        return Ok(0);
    }
    for interval in text.split(',') {
        let (first, end) = index_interval(interval, completions)?;
        if let Some(last) = last.filter(|last| *last >= first) {
            return Err(format!("non-increasing order, previous: {last}, current: {first}"));
        }
        total += end - first + 1;
        last = Some(end);
    }
    Ok(total)
}

fn index_interval(text: &str, completions: i64) -> Result<(i64, i64), String> {
    let parts: Vec<&str> = text.split('-').collect();
    if parts.len() > 2 {
        return Err(format!(
            "the fragment {text:?} violates the requirement that an index interval can have at most two parts separated by '-'"
        ));
    }
    let number = |text: &str| {
        let number: i64 =
            text.parse().map_err(|_| format!("cannot convert string to integer for index: {text:?}"))?;
        if number >= completions { Err(format!("too large index: {text:?}")) } else { Ok(number) }
    };
    let first = number(parts[0])?;
    let Some(end) = parts.get(1) else { return Ok((first, first)) };
    let end = number(end)?;
    if first >= end {
        return Err(format!("non-increasing order, previous: {first}, current: {end}"));
    }
    Ok((first, end))
}

fn validate_update(new: &At, old: &Value) {
    let (spec, before) = (new.get("spec"), &old["spec"]);
    let count = spec.get("completions");
    if !spec.get("completionMode").is("Indexed") {
        count.unchanged(&before["completions"]);
    } else if *count.value() != before["completions"]
        && count.present()
        && count.int() != spec.get("parallelism").int()
    {
        count.invalid("can only be modified in tandem with spec.parallelism");
    }
    spec.unchanged_fields(before, &["selector"]);
    template_update(&spec, before, &old["status"]);
    spec.unchanged_fields(before, &["completionMode"]);
    let typed = |field: &str, name: &str| spec.get(field).unchanged_type(&before[field], name);
    typed("podFailurePolicy", "api.batch.v1.PodFailurePolicy");
    spec.unchanged_fields(before, &["backoffLimitPerIndex"]);
    let manager = spec.get("managedBy");
    if *manager.value() != before["managedBy"] {
        manager.invalid("field is immutable");
    }
    typed("successPolicy", "api.batch.v1.SuccessPolicy");
}

/// The template is fixed, but where its pods may run while a job is suspended, and what they get.
fn template_update(spec: &At, before: &Value, status: &Value) {
    let template = spec.get("template");
    let mut old = before["template"].clone();
    let new = template.value();
    let suspended = before["suspend"] == true;
    if suspended && status["startTime"].is_null() {
        for field in ["nodeSelector", "tolerations", "schedulingGates"] {
            take(&mut old["spec"], &new["spec"], field);
        }
        for field in ["labels", "annotations"] {
            take(&mut old["metadata"], &new["metadata"], field);
        }
        let mut affinity = old["spec"]["affinity"].take();
        take(&mut affinity, &new["spec"]["affinity"], "nodeAffinity");
        if affinity.as_object().is_some_and(|fields| !fields.is_empty()) {
            old["spec"]["affinity"] = affinity;
        } else {
            old["spec"].as_object_mut().and_then(|fields| fields.remove("affinity"));
        }
    }
    if !suspended {
        return template.unchanged_type(&old, "api.core.v1.PodTemplateSpec");
    }
    for list in ["containers", "initContainers"] {
        let now = items(&new["spec"], list);
        if now.len() == items(&old["spec"], list).len() {
            for (old, new) in super::items_mut(&mut old["spec"], list).zip(now) {
                if old["name"] == new["name"] {
                    take(old, new, "resources");
                }
            }
        }
    }
    template.get("spec").unchanged_type(&old["spec"], "api.core.v1.PodSpec");
}

fn take(to: &mut Value, from: &Value, field: &str) {
    match from.get(field).filter(|value| !value.is_null()) {
        Some(value) => to[field] = value.clone(),
        None => drop(to.as_object_mut().and_then(|fields| fields.remove(field))),
    }
}

fn has(status: &Value, condition: &str) -> bool {
    items(status, "conditions").iter().any(|one| one["type"] == condition && one["status"] == "True")
}

fn validate_status(new: &At, old: &Value) {
    let (status, before) = (new.get("status"), &old["status"]);
    let now = status.value();
    let conditions = status.get("conditions");
    status.none_negative(&["active", "succeeded", "failed", "ready", "terminating"]);
    let mut seen = HashSet::new();
    for list in ["succeeded", "failed"] {
        status.get("uncountedTerminatedPods").get(list).each(|uid| {
            if uid.empty() {
                uid.invalid("must not be empty");
            } else {
                uid.unique(&mut seen);
            }
        });
    }
    let (complete, failed) = (has(now, "Complete"), has(now, "Failed"));
    let (target, success) = (has(now, "FailureTarget"), has(now, "SuccessCriteriaMet"));
    let finished = complete || failed;
    let wrong = |broken: bool, why: &str| {
        if broken {
            conditions.wrong(why);
        }
    };
    wrong(complete && failed, "cannot set Complete=True and Failed=true conditions");
    wrong(complete && target, "cannot set Complete=True and FailureTarget=true conditions");
    let ended = status.get("completionTime");
    if ended.present() && !complete {
        ended.invalid("cannot set completionTime when there is no Complete=True condition");
    }
    if !ended.present() && complete {
        ended.required("completionTime is required for Complete jobs");
    }
    wrong(failed && !target, "cannot set Failed=True condition without the FailureTarget=true condition");
    wrong(
        complete && !success,
        "cannot set Complete=True condition without the SuccessCriteriaMet=true condition",
    );
    if finished && status.get("active").int() > 0 {
        status.get("active").invalid("active>0 is invalid for finished job");
    }
    if finished && !status.get("startTime").present() {
        status.get("startTime").required("startTime is required for finished job");
    }
    wrong(success && failed, "cannot set SuccessCriteriaMet=True and Failed=true conditions");
    wrong(success && target, "cannot set SuccessCriteriaMet=True and FailureTarget=true conditions");
    for name in ["Failed", "Complete", "FailureTarget"] {
        wrong(
            has(before, name) && !has(now, name),
            &format!("cannot disable the terminal {name}=True condition"),
        );
    }
    for field in ["failed", "succeeded"] {
        if status.get(field).int() < before[field].as_i64().unwrap_or(0) {
            status
                .get(field)
                .invalid_as(status.get(field).int(), format!("cannot decrease the {field} counter"));
        }
    }
    if ended.present() && !before["completionTime"].is_null() {
        ended.unchanged(&before["completionTime"]);
    }
    wrong(
        has(before, "SuccessCriteriaMet") && !success,
        "cannot disable the SuccessCriteriaMet=True condition",
    );
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(text(&job["spec"], "completionMode"), "NonIndexed");
    }

    #[test]
    fn indexes_are_counted() {
        assert_eq!(count_indexes("0,2-4", 5), Ok(4));
        assert!(count_indexes("0,5", 5).is_err() && count_indexes("3,2", 5).is_err());
    }
}
