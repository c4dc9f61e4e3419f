//! Pods.

use super::{Errors, PLAIN, Strategy, defaults, items, names, podspec, text};
use api::quantity;
use api::validate::{Error, Path};
use serde_json::{Value, json};

pub(super) const POD: Strategy = Strategy {
    default: |pod| {
        if let Some(spec) = pod.get_mut("spec") {
            defaults::pod_spec(spec);
            super::default(spec, "enableServiceLinks", true);
        }
    },
    prepare_create,
    validate: |pod, errors| podspec::validate(&pod["spec"], &Path::new("spec"), errors),
    validate_update,
    generation: true,
    status_labels: true,
    grace_s,
    ..PLAIN
};

fn prepare_create(pod: &mut Value) {
    let qos = qos_class(&pod["spec"]);
    pod["status"] = json!({"phase": "Pending", "qosClass": qos});
    if !items(&pod["spec"], "schedulingGates").is_empty() {
        let now = crate::registry::timestamp();
        pod["status"]["conditions"] = json!([{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated",
            "message": "Scheduling is blocked due to non-empty scheduling gates", "lastTransitionTime": now}]);
    }
}

/// The quality-of-service class (`status.qosClass`): by what containers request and are limited to.
fn qos_class(spec: &Value) -> &'static str {
    let containers = items(spec, "initContainers").iter().chain(items(spec, "containers"));
    let (mut any, mut all) = (false, true);
    for container in containers {
        let amount = |kind: &str, name: &str| {
            container["resources"][kind][name]
                .as_str()
                .and_then(|text| quantity::parse(text).ok())
                .filter(|a| a.to_milli() > 0)
        };
        for name in ["cpu", "memory"] {
            let (request, limit) = (amount("requests", name), amount("limits", name));
            any |= request.is_some() || limit.is_some();
            all &= limit.is_some() && request.is_none_or(|request| Some(request) == limit);
        }
    }
    match (any, all) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

/// A pod that runs nowhere, or no longer, needs no grace.
fn grace_s(pod: &Value, asked: Option<i64>) -> i64 {
    let nowhere = text(&pod["spec"], "nodeName").is_empty();
    let ended = matches!(text(&pod["status"], "phase"), "Succeeded" | "Failed");
    if nowhere || ended {
        return 0;
    }
    asked.unwrap_or_else(|| pod["spec"]["terminationGracePeriodSeconds"].as_i64().unwrap_or(30)).max(0)
}

const MUTABLE: &str = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

fn validate_update(new: &Value, old: &Value, errors: &mut Errors) {
    let path = Path::new("spec");
    let mut same = new["spec"].clone();
    for list in ["containers", "initContainers"] {
        let before = items(&old["spec"], list);
        let after = items(&same, list).len();
        if before.len() != after {
            errors.push(Error::forbidden(&path.child(list), "pod updates may not add or remove containers"));
            return;
        }
        for (container, before) in super::items_mut(&mut same, list).zip(before) {
            container["image"] = before["image"].clone();
        }
    }
    let kept = items(&old["spec"], "tolerations")
        .iter()
        .all(|toleration| items(&new["spec"], "tolerations").contains(toleration));
    let mut allowed = vec!["activeDeadlineSeconds", "schedulingGates"];
    if kept {
        allowed.push("tolerations");
    } else {
        errors.push(Error::forbidden(
            &path.child("tolerations"),
            "existing toleration can not be modified except its tolerationSeconds",
        ));
    }
    for field in allowed {
        match &old["spec"][field] {
            Value::Null => drop(same.as_object_mut().and_then(|spec| spec.remove(field))),
            value => same[field] = value.clone(),
        }
    }
    if same != old["spec"] {
        errors.push(Error::forbidden(&path, MUTABLE));
    }
    names::not_negative(&new["spec"]["activeDeadlineSeconds"], &path.child("activeDeadlineSeconds"), errors);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(resources: &Value) -> Value {
        json!({"containers": [{"name": "c", "resources": resources}]})
    }

    #[test]
    fn quality_of_service_follows_requests_and_limits() {
        assert_eq!(qos_class(&spec(&json!({}))), "BestEffort");
        assert_eq!(qos_class(&spec(&json!({"requests": {"cpu": "1"}}))), "Burstable");
        let both = json!({"cpu": "1", "memory": "1Gi"});
        assert_eq!(qos_class(&spec(&json!({"requests": both, "limits": both}))), "Guaranteed");
        assert_eq!(qos_class(&spec(&json!({"limits": {"cpu": "1"}}))), "Burstable");
    }

    #[test]
    fn only_images_and_a_few_fields_change() {
        let old = json!({"spec": {"nodeName": "a", "containers": [{"name": "c", "image": "a:1"}]}});
        let errors_of = |new: &Value| {
            let mut errors = Vec::new();
            validate_update(new, &old, &mut errors);
            errors.len()
        };
        let mut new = old.clone();
        new["spec"]["containers"][0]["image"] = json!("a:2");
        new["spec"]["activeDeadlineSeconds"] = json!(5);
        assert_eq!(errors_of(&new), 0);
        new["spec"]["nodeName"] = json!("b");
        assert_eq!(errors_of(&new), 1);
    }
}
