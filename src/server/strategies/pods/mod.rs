//! Pods and pod templates.

pub(super) mod affinity;
mod containers;
mod doors;
pub(super) mod resources;
mod security;
mod spec;
mod updates;
pub(super) mod volumes;

pub(super) use affinity::node_selector;
pub(super) use spec::{effect, tolerations};

use super::{Generation, PLAIN, Strategy, defaults, items, items_mut, text};
use api::demand::qos_class;
use api::validate::At;
use serde_json::{Value, json};

pub(super) const POD: Strategy = Strategy {
    default: |pod| {
        if let Some(spec) = pod.get_mut("spec") {
            defaults::pod_spec(spec);
            defaults::pod_only(spec);
        }
    },
    prepare_create,
    prepare_status: updates::prepare_status,
    narrow: doors::narrow,
    validate_door: doors::validate,
    validate,
    validate_new: |pod| {
        let spec = pod.get("spec");
        if !spec.get("ephemeralContainers").empty() {
            spec.get("ephemeralContainers").forbidden("cannot be set on create");
        }
        if !spec.get("nodeName").empty() && !spec.get("schedulingGates").empty() {
            spec.get("nodeName").forbidden("cannot be set until all schedulingGates have been cleared");
        }
        profiles_match(&pod.get("metadata"), &spec);
    },
    validate_update: updates::validate,
    validate_status: updates::validate_status,
    generation: Generation::Counted,
    status_meta: true,
    grace_s,
    ..PLAIN
};

pub(super) const POD_TEMPLATE: Strategy = Strategy {
    default: |object| defaults::template(object, "/template/spec"),
    validate: |object| template(&object.get("template")),
    generation: Generation::Counted,
    ..PLAIN
};

fn validate(pod: &At) {
    let (meta, spec) = (pod.get("metadata"), pod.get("spec"));
    annotations(&meta, &spec);
    spec::validate(&spec, meta.get("name").text(), true);
    if spec.get("serviceAccountName").empty() {
        spec.get("volumes").each(|volume| {
            volume.get("projected").get("sources").each(|source| {
                let why = "must not be specified when serviceAccountName is not set";
                source.get("serviceAccountToken").never(why);
            });
        });
    }
    for list in ["containers", "initContainers"] {
        spec.get(list).each(containers::image_spaces);
    }
}

const MIRROR: &str = "kubernetes.io/config.mirror";
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";
const POD_SECCOMP: &str = "seccomp.security.alpha.kubernetes.io/pod";
const CONTAINER_SECCOMP: &str = "container.seccomp.security.alpha.kubernetes.io/";
const APP_ARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";

/// Annotations that mean something to pods.
fn annotations(meta: &At, spec: &At) {
    let annotations = meta.get("annotations");
    if annotations.empty() {
        return;
    }
    let mirror = annotations.key(MIRROR);
    if mirror.present() && spec.get("nodeName").empty() {
        mirror.invalid("must set spec.nodeName if mirror pod annotation is set");
    }
    let cost = annotations.key(DELETION_COST);
    if cost.present() {
        let text = cost.text();
        let plain = text == "0" || !(text.starts_with(['0', '+']) || text.starts_with("-0"));
        if !plain || text.parse::<i32>().is_err() {
            cost.invalid("must be a 32bit integer");
        }
    }
    annotations.entries(|key, value| {
        if key == POD_SECCOMP || key.starts_with(CONTAINER_SECCOMP) {
            seccomp_name(&annotations.get("").with(value.value()).named_field(key));
        } else if let Some(container) = key.strip_prefix(APP_ARMOR) {
            let mut known = false;
            containers::every(spec, |one| known |= one.get("name").is(container));
            if !known {
                value.invalid_as(container, "container not found");
            }
            let profile = value.text();
            if !matches!(profile, "" | "runtime/default" | "unconfined") && !profile.starts_with("localhost/")
            {
                value.invalid(format!("invalid AppArmor profile name: {profile:?}"));
            }
        }
    });
}

fn seccomp_name(at: &At) {
    match at.text() {
        "runtime/default" | "docker/default" | "unconfined" => {}
        text => match text.strip_prefix("localhost/") {
            Some(path) => {
                let path = Value::from(path);
                let sink = api::validate::Sink::default();
                volumes::descending(&At::new(&path, &sink));
                if !sink.into_errors().is_empty() {
                    at.invalid("must be a valid seccomp profile");
                }
            }
            None => at.invalid("must be a valid seccomp profile"),
        },
    }
}

/// Profiles that are named by a field and by an annotation are the same.
fn profiles_match(meta: &At, spec: &At) {
    let annotations = meta.get("annotations");
    if annotations.empty() {
        return;
    }
    let check = |context: &At, field: &str, key: &str, what: &str| {
        let (profile, annotation) = (context.get(field), annotations.key(key));
        if !profile.present() || !annotation.present() {
            return;
        }
        let file = profile.get("localhostProfile");
        let fits = match profile.get("type").text() {
            "Unconfined" => annotation.is("unconfined"),
            "RuntimeDefault" => {
                annotation.is("runtime/default")
                    || (field == "seccompProfile" && annotation.is("docker/default"))
            }
            "Localhost" => match annotation.text().strip_prefix("localhost/") {
                Some(path) if path != file.text() => {
                    return file.forbidden(format!("{what} profile in annotation and field must match"));
                }
                found => found.is_some(),
            },
            _ => true,
        };
        if !fits {
            profile.get("type").forbidden(format!("{what} type in annotation and field must match"));
        }
    };
    check(&spec.get("securityContext"), "seccompProfile", POD_SECCOMP, "seccomp");
    containers::every(spec, |container| {
        let (name, context) = (container.get("name").text(), container.get("securityContext"));
        check(&context, "seccompProfile", &format!("{CONTAINER_SECCOMP}{name}"), "seccomp");
        check(&context, "appArmorProfile", &format!("{APP_ARMOR}{name}"), "apparmor");
    });
}

/// A pod template.
pub(super) fn template(at: &At) {
    let (meta, spec) = (at.get("metadata"), at.get("spec"));
    // Kubernetes names these without `metadata`.
    api::validate::template_meta(&at.with(meta.value()));
    annotations(&at.with(meta.value()), &spec);
    spec::validate(&spec, "", false);
    profiles_match(&meta, &spec);
    if !spec.get("ephemeralContainers").empty() {
        spec.get("ephemeralContainers").forbidden("ephemeral containers not allowed in pod template");
    }
}

/// A pod template in a form that it takes later.
pub(super) fn template_copy(at: &At, copy: &Value) {
    at.on_copy(copy, template);
}

fn prepare_create(pod: &mut Value) {
    let qos = qos_class(&pod["spec"]);
    pod["status"] = json!({"phase": "Pending", "qosClass": qos});
    if !items(&pod["spec"], "schedulingGates").is_empty() {
        let now = crate::registry::timestamp();
        pod["status"]["conditions"] = json!([{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated",
            "message": "Scheduling is blocked due to non-empty scheduling gates", "lastTransitionTime": now}]);
    }
    merge_label_keys(pod);
}

/// Labels that are named by key only become requirements with this pod's values.
fn merge_label_keys(pod: &mut Value) {
    let labels = pod["metadata"]["labels"].clone();
    let merge = |term: &mut Value| {
        for (field, operator) in [("matchLabelKeys", "In"), ("mismatchLabelKeys", "NotIn")] {
            let keys = items(term, field).to_vec();
            for key in keys.iter().filter_map(Value::as_str) {
                let Some(value) = labels.get(key).filter(|_| term["labelSelector"].is_object()) else {
                    continue;
                };
                let selector = &mut term["labelSelector"];
                if !selector["matchExpressions"].is_array() {
                    selector["matchExpressions"] = json!([]);
                }
                if let Some(list) = selector["matchExpressions"].as_array_mut() {
                    list.push(json!({"key": key, "operator": operator, "values": [value]}));
                }
            }
        }
    };
    items_mut(&mut pod["spec"], "topologySpreadConstraints").for_each(merge);
    for field in ["podAffinity", "podAntiAffinity"] {
        let Some(pods) = pod.pointer_mut(&format!("/spec/affinity/{field}")) else { continue };
        items_mut(pods, "requiredDuringSchedulingIgnoredDuringExecution").for_each(merge);
        for weighted in items_mut(pods, "preferredDuringSchedulingIgnoredDuringExecution") {
            weighted.get_mut("podAffinityTerm").into_iter().for_each(merge);
        }
    }
}

/// A pod that runs nowhere, or no longer, needs no grace.
fn grace_s(pod: &Value, asked: Option<i64>) -> i64 {
    let nowhere = text(&pod["spec"], "nodeName").is_empty();
    let ended = matches!(text(&pod["status"], "phase"), "Succeeded" | "Failed");
    if nowhere || ended {
        return 0;
    }
    let grace = asked.unwrap_or_else(|| pod["spec"]["terminationGracePeriodSeconds"].as_i64().unwrap_or(30));
    if grace < 0 { 1 } else { grace }
}
