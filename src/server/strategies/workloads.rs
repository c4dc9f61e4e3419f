//! Deployments and all else that keeps pods running by a selector.

use super::{Changes, Generation, PLAIN, Strategy, default, default_zero, defaults, items, items_mut, pods};
use api::validate::{At, Error, dns_label, label_selector, labels, percent, selects};
use serde_json::{Value, json};

const COUNTED: Strategy = Strategy { generation: Generation::Counted, ..PLAIN };

pub(super) const DEPLOYMENT: Strategy = Strategy {
    default: |object| {
        let Some(spec) = object.get_mut("spec") else { return };
        default(spec, "replicas", 1);
        default(spec, "strategy", json!({}));
        default_zero(&mut spec["strategy"], "type", "RollingUpdate");
        if spec["strategy"]["type"] == "RollingUpdate" {
            default(&mut spec["strategy"], "rollingUpdate", json!({}));
            default(&mut spec["strategy"]["rollingUpdate"], "maxUnavailable", "25%");
            default(&mut spec["strategy"]["rollingUpdate"], "maxSurge", "25%");
        }
        default(spec, "revisionHistoryLimit", 10);
        default(spec, "progressDeadlineSeconds", 600);
        defaults::template(spec, "/template/spec");
    },
    // Labels are the writer's of the object; annotations carry the revision, which its controller sets.
    prepare_status: |new, old| match old["metadata"].get("labels") {
        Some(labels) => new["metadata"]["labels"] = labels.clone(),
        None => drop(new["metadata"].as_object_mut().and_then(|meta| meta.remove("labels"))),
    },
    status_meta: true,
    validate: |object| {
        let spec = object.get("spec");
        spec.get("replicas").not_negative();
        selector(&spec.get("selector"), "deployment", true);
        template(&spec, "ReplicaSet");
        strategy(&spec.get("strategy"));
        spec.none_negative(&["minReadySeconds", "revisionHistoryLimit", "progressDeadlineSeconds"]);
        let deadline = spec.get("progressDeadlineSeconds");
        if deadline.present() && deadline.int() <= spec.get("minReadySeconds").int() {
            deadline.invalid("must be greater than minReadySeconds");
        }
    },
    validate_update: same_selector,
    validate_status: |new, old| {
        let counts = ["updatedReplicas", "readyReplicas", "availableReplicas", "unavailableReplicas"];
        replica_status(new, &counts, &counts[..3], "readyReplicas");
        not_decremented(new, old);
    },
    ..COUNTED
};

pub(super) const REPLICA_SET: Strategy = Strategy {
    default: |object| {
        let Some(spec) = object.get_mut("spec") else { return };
        default(spec, "replicas", 1);
        defaults::template(spec, "/template/spec");
    },
    validate: |object| {
        let spec = object.get("spec");
        spec.none_negative(&["replicas", "minReadySeconds"]);
        selector(&spec.get("selector"), "deployment", true);
        template(&spec, "ReplicaSet");
    },
    validate_update: same_selector,
    validate_status: |new, _| {
        let counts = ["fullyLabeledReplicas", "readyReplicas", "availableReplicas"];
        replica_status(new, &counts, &counts, "readyReplicas");
    },
    status_meta: true,
    ..COUNTED
};

pub(super) const REPLICATION_CONTROLLER: Strategy = Strategy {
    default: |object| {
        let labels = object["spec"]["template"]["metadata"]["labels"].clone();
        if labels.is_object() {
            if object["metadata"]["labels"].is_null() {
                object["metadata"]["labels"] = labels.clone();
            }
            default(&mut object["spec"], "selector", labels);
        }
        let Some(spec) = object.get_mut("spec") else { return };
        default(spec, "replicas", 1);
        defaults::template(spec, "/template/spec");
    },
    validate: |object| {
        let spec = object.get("spec");
        spec.get("minReadySeconds").not_negative();
        spec.get("selector").need();
        spec.get("replicas").not_negative();
        let template = spec.get("template");
        if !template.need() {
            return;
        }
        let labels = template.get("metadata.labels");
        let selector = spec.get("selector");
        let mut wanted = selector.value().as_object().into_iter().flatten();
        if !wanted.all(|(key, value)| labels.value().get(key) == Some(value)) {
            labels.invalid_as(labels_of(&labels), MISMATCH);
        }
        pods::template(&template);
        always(&template, "ReplicationController");
    },
    validate_status: |new, _| {
        let counts = ["fullyLabeledReplicas", "readyReplicas", "availableReplicas"];
        replica_status(new, &counts, &counts, "readyReplicas");
    },
    propagation: "Orphan",
    status_meta: true,
    ..COUNTED
};

pub(super) const STATEFUL_SET: Strategy = Strategy {
    name_rule: dns_label,
    default: |object| {
        let Some(spec) = object.get_mut("spec") else { return };
        default_zero(spec, "podManagementPolicy", "OrderedReady");
        default(spec, "updateStrategy", json!({}));
        if spec["updateStrategy"]["type"].as_str().unwrap_or_default().is_empty() {
            spec["updateStrategy"]["type"] = json!("RollingUpdate");
            default(&mut spec["updateStrategy"], "rollingUpdate", json!({}));
        }
        if spec["updateStrategy"]["type"] == "RollingUpdate"
            && let Some(update) = spec["updateStrategy"].get_mut("rollingUpdate")
        {
            default(update, "partition", 0);
        }
        default(spec, "persistentVolumeClaimRetentionPolicy", json!({}));
        for field in ["whenDeleted", "whenScaled"] {
            default_zero(&mut spec["persistentVolumeClaimRetentionPolicy"], field, "Retain");
        }
        default(spec, "replicas", 1);
        default(spec, "revisionHistoryLimit", 10);
        for claim in items_mut(spec, "volumeClaimTemplates") {
            default(claim, "apiVersion", "v1");
            default(claim, "kind", "PersistentVolumeClaim");
            default(claim, "status", json!({}));
            default(&mut claim["status"], "phase", "Pending");
            claim.get_mut("spec").into_iter().for_each(defaults::claim_spec);
        }
        defaults::template(spec, "/template/spec");
    },
    validate_new: |object| stateful(&object.get("spec"), true),
    validate_update: |new, old| {
        stateful(&new.get("spec"), false);
        const MUTABLE: [&str; 7] = [
            "replicas",
            "template",
            "updateStrategy",
            "minReadySeconds",
            "ordinals",
            "revisionHistoryLimit",
            "persistentVolumeClaimRetentionPolicy",
        ];
        let spec = new.get("spec");
        if rest_of(spec.value(), &MUTABLE) != rest_of(&old["spec"], &MUTABLE) {
            spec.forbidden("updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden");
        }
    },
    validate_status: |new, old| {
        let counts = ["readyReplicas", "currentReplicas", "updatedReplicas", "availableReplicas"];
        replica_status(new, &counts, &counts, "status.readyReplicas");
        not_decremented(new, old);
    },
    status_meta: true,
    ..COUNTED
};

pub(super) const DAEMON_SET: Strategy = Strategy {
    default: |object| {
        let Some(spec) = object.get_mut("spec") else { return };
        default(spec, "updateStrategy", json!({}));
        default_zero(&mut spec["updateStrategy"], "type", "RollingUpdate");
        if spec["updateStrategy"]["type"] == "RollingUpdate" {
            default(&mut spec["updateStrategy"], "rollingUpdate", json!({}));
            default(&mut spec["updateStrategy"]["rollingUpdate"], "maxUnavailable", 1);
            default(&mut spec["updateStrategy"]["rollingUpdate"], "maxSurge", 0);
        }
        default(spec, "revisionHistoryLimit", 10);
        defaults::template(spec, "/template/spec");
        // The generation of the template is an old annotation, which is a new object's writer's own.
        if object["metadata"]["uid"].is_null() {
            template_generation(object, None);
        }
    },
    prepare_update: |new, old| template_generation(new, Some(old)),
    validate: |object| {
        let spec = object.get("spec");
        let (own, pod) = (spec.get("selector"), spec.get("template"));
        label_selector(&own);
        let labels = pod.get("metadata.labels");
        if !own.present() || (is_readable(&own) && !selects(own.value(), labels.value())) {
            labels.invalid_as(labels_of(&labels), MISMATCH);
        }
        if own.present() && is_empty_selector(&own) {
            own.invalid("empty selector is invalid for daemonset");
        }
        pods::template(&pod);
        always(&pod, "DaemonSet");
        spec.none_negative(&["minReadySeconds", "templateGeneration"]);
        daemon_strategy(&spec.get("updateStrategy"));
        spec.get("revisionHistoryLimit").not_negative();
    },
    validate_update: same_selector,
    changes: Changes::Before,
    validate_status: |new, old| {
        new.get("status").none_negative(&[
            "currentNumberScheduled",
            "numberMisscheduled",
            "desiredNumberScheduled",
            "numberReady",
            "observedGeneration",
            "updatedNumberScheduled",
            "numberAvailable",
            "numberUnavailable",
            "collisionCount",
        ]);
        not_decremented(new, old);
    },
    status_meta: true,
    ..COUNTED
};

const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

fn template_generation(object: &mut Value, old: Option<&Value>) {
    let stated = |object: &Value| {
        object["metadata"]["annotations"][TEMPLATE_GENERATION]
            .as_str()
            .and_then(|text| text.parse::<i64>().ok())
    };
    let number = match old {
        None => stated(object).unwrap_or(1).max(1),
        Some(old) => {
            let before = stated(old).unwrap_or(1);
            before + i64::from(object["spec"]["template"] != old["spec"]["template"])
        }
    };
    object["metadata"]["annotations"][TEMPLATE_GENERATION] = json!(number.to_string());
}

pub(super) const CONTROLLER_REVISION: Strategy = Strategy {
    validate: |object| object.get("revision").not_negative(),
    validate_new: |object| {
        let data = object.get("data");
        match data.value() {
            Value::Null => data.required("data is mandatory"),
            Value::Object(_) => {}
            _ => data.required("data must be a valid JSON object"),
        }
    },
    validate_update: |new, old| new.get("data").unchanged(&old["data"]),
    ..PLAIN
};

const MISMATCH: &str = "`selector` does not match template `labels`";

/// The labels as Kubernetes shows them.
fn labels_of(labels: &At) -> Value {
    labels.value().clone()
}

fn is_empty_selector(selector: &At) -> bool {
    selector.get("matchLabels").empty() && selector.get("matchExpressions").empty()
}

fn rest_of<'v>(spec: &'v Value, without: &[&str]) -> Vec<(&'v String, &'v Value)> {
    let fields = spec.as_object().into_iter().flatten();
    fields.filter(|(name, _)| !without.contains(&name.as_str())).collect()
}

/// A selector that has to be there and to select something.
fn selector(at: &At, of: &str, told: bool) {
    if !at.need_present() {
        return;
    }
    label_selector(at);
    if told && is_empty_selector(at) {
        at.invalid(format!("empty selector is invalid for {of}"));
    }
}

fn is_readable(selector: &At) -> bool {
    let sink = api::validate::Sink::default();
    label_selector(&At::new(selector.value(), &sink));
    sink.into_errors().is_empty()
}

/// The template of a selector's pods.
fn template(spec: &At, of: &str) {
    let (own, pod) = (spec.get("selector"), spec.get("template"));
    if own.present() && !is_readable(&own) {
        return own.invalid("invalid label selector");
    }
    let labels = pod.get("metadata.labels");
    if !own.present() || (!is_empty_selector(&own) && !selects(own.value(), labels.value())) {
        labels.invalid_as(labels_of(&labels), MISMATCH);
    }
    pods::template(&pod);
    always(&pod, of);
}

fn always(pod: &At, of: &str) {
    let policy = pod.get("spec.restartPolicy");
    if !policy.is("Always") {
        policy.one_of(&["Always"]);
    }
    let deadline = pod.get("spec.activeDeadlineSeconds");
    deadline.never(&format!("activeDeadlineSeconds in {of} is not Supported"));
}

fn same_selector(new: &At, old: &Value) {
    new.get("spec").unchanged_fields(&old["spec"], &["selector"]);
}

/// A number that is not negative, or a percentage.
fn portion(at: &At) {
    if at.value().is_string() { at.named(percent) } else { at.not_negative() }
}

/// The number of a number or percentage.
fn number(value: &Value) -> i64 {
    match value {
        Value::String(text) => text.strip_suffix('%').unwrap_or(text).parse().unwrap_or(0),
        other => other.as_i64().unwrap_or(0),
    }
}

fn at_most_all(at: &At) {
    if at.value().is_string() && percent(at.text()).is_empty() && number(at.value()) > 100 {
        at.invalid("must not be greater than 100%");
    }
}

fn strategy(at: &At) {
    let update = at.get("rollingUpdate");
    match at.get("type").text() {
        "Recreate" => update.never("may not be specified when strategy `type` is 'Recreate'"),
        "RollingUpdate" => {
            let (unavailable, surge) = (update.get("maxUnavailable"), update.get("maxSurge"));
            portion(&unavailable);
            portion(&surge);
            if number(unavailable.value()) == 0 && number(surge.value()) == 0 {
                unavailable.invalid("may not be 0 when `maxSurge` is 0");
            }
            at_most_all(&unavailable);
        }
        _ => at.report(|path| {
            Error::not_supported(path, Value::Null, &["Recreate", "RollingUpdate"])
                .of_type(at.value(), "api.apps.v1.DeploymentStrategy")
        }),
    }
}

fn daemon_strategy(at: &At) {
    let update = at.get("rollingUpdate");
    match at.get("type").text() {
        "OnDelete" => {}
        "RollingUpdate" => {
            let (unavailable, surge) = (update.get("maxUnavailable"), update.get("maxSurge"));
            [&unavailable, &surge].into_iter().for_each(portion);
            [&unavailable, &surge].into_iter().for_each(at_most_all);
            match (number(unavailable.value()) != 0, number(surge.value()) != 0) {
                (true, true) => surge.invalid("may not be set when maxUnavailable is non-zero"),
                (false, false) => unavailable.required("cannot be 0 when maxSurge is 0"),
                _ => {}
            }
        }
        _ => at.report(|path| {
            Error::not_supported(path, Value::Null, &["RollingUpdate", "OnDelete"])
                .of_type(at.value(), "api.apps.v1.DaemonSetUpdateStrategy")
        }),
    }
}

fn stateful(spec: &At, new: bool) {
    let policy = spec.get("podManagementPolicy");
    if !matches!(policy.text(), "OrderedReady" | "Parallel") {
        policy.invalid("must be 'OrderedReady' or 'Parallel'");
    }
    let update = spec.get("updateStrategy");
    let rolling = update.get("rollingUpdate");
    match update.get("type").text() {
        "OnDelete" if rolling.present() => {
            rolling.invalid_type(
                "api.apps.v1.RollingUpdateStatefulSetStrategy",
                "only allowed for updateStrategy 'RollingUpdate'",
            );
        }
        "OnDelete" => {}
        "RollingUpdate" => {
            rolling.get("partition").not_negative();
            rolling.on("maxUnavailable", |most| {
                portion(most);
                if number(most.value()) == 0 {
                    most.invalid("cannot be 0");
                }
                at_most_all(most);
            });
        }
        _ => update
            .invalid_type("api.apps.v1.StatefulSetUpdateStrategy", "must be 'RollingUpdate' or 'OnDelete'"),
    }
    for field in ["whenDeleted", "whenScaled"] {
        let name = format!("persistentVolumeClaimRetentionPolicy.{field}");
        spec.get(&name).one_of(&["Retain", "Delete"]);
    }
    if new {
        spec.get("volumeClaimTemplates").each(|claim| super::storage::claim_spec(&claim.get("spec")));
    }
    spec.none_negative(&["replicas", "minReadySeconds"]);
    spec.get("ordinals.start").not_negative();
    if new {
        spec.get("serviceName").named_if_set(dns_label);
    }
    let own = spec.get("selector");
    selector(&own, "statefulset", true);
    if own.present() && !is_readable(&own) {
        own.invalid("");
    } else {
        let pod = spec.get("template");
        let set_labels = pod.get("metadata.labels");
        if !own.present() || (!is_empty_selector(&own) && !selects(own.value(), set_labels.value())) {
            set_labels.invalid_as(labels_of(&set_labels), MISMATCH);
        }
        match completed_template(spec) {
            Some(completed) => pods::template_copy(&pod, &completed),
            None => pods::template(&pod),
        }
        labels(&pod.get("labels").with(set_labels.value()));
    }
    always(&spec.get("template"), "StatefulSet");
}

/// The template with the volumes that the claims will bring, and without the names its pods get.
fn completed_template(spec: &At) -> Option<Value> {
    let claims = items(spec.value(), "volumeClaimTemplates");
    let template = spec.get("template");
    let named = ["spec.hostname", "spec.subdomain"].iter().any(|field| !template.get(field).empty());
    if claims.is_empty() && !named {
        return None;
    }
    let mut template = template.value().clone();
    if let Some(fields) = template.pointer_mut("/spec").and_then(Value::as_object_mut) {
        fields.retain(|name, _| !matches!(name.as_str(), "hostname" | "subdomain"));
    }
    let mut names: Vec<&Value> = claims.iter().map(|claim| &claim["metadata"]["name"]).collect();
    names.dedup();
    let own = names.iter().map(|name| json!({"name": name, "persistentVolumeClaim": {"claimName": name}}));
    let others =
        items(&template["spec"], "volumes").iter().filter(|volume| !names.contains(&&volume["name"]));
    let volumes: Vec<Value> = own.chain(others.cloned()).collect();
    if template["spec"].is_object() {
        template["spec"]["volumes"] = Value::Array(volumes);
    }
    Some(template)
}

/// The rules of numbers of replicas: none negative, none above the whole.
fn replica_status(object: &At, counts: &[&str], parts: &[&str], ready: &str) {
    let status = object.get("status");
    status.none_negative(&["observedGeneration", "replicas"]);
    status.none_negative(counts);
    status.none_negative(&["terminatingReplicas", "collisionCount"]);
    let all = status.get("replicas").int();
    for part in parts {
        let part = status.get(part);
        if part.int() > all {
            part.invalid("cannot be greater than status.replicas");
        }
    }
    let available = status.get("availableReplicas");
    if available.int() > status.get("readyReplicas").int() {
        available.invalid(format!("cannot be greater than {ready}"));
    }
}

fn not_decremented(new: &At, old: &Value) {
    let count = new.get("status.collisionCount");
    let before = old["status"]["collisionCount"].as_i64();
    if before.is_some_and(|before| !count.present() || count.int() < before) {
        count.invalid_as(count.int(), "cannot be decremented");
    }
}
