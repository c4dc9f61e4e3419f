//! What may change of a pod that exists.

use super::super::items;
use super::spec::tolerations;
use super::{APP_ARMOR, MIRROR};
use api::validate::{At, dns_label, dns_subdomain, legacy_ip, qualified_name};
use serde_json::Value;
use std::collections::HashSet;

const MUTABLE: &str = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

pub(super) fn validate(new: &At, old: &Value) {
    annotations(&new.get("metadata.annotations"), &old["metadata"]["annotations"]);
    let spec = new.get("spec");
    let before = &old["spec"];
    for list in ["containers", "initContainers"] {
        if spec.get(list).items().len() != items(before, list).len() {
            return spec.get(list).forbidden("pod updates may not add or remove containers");
        }
    }
    deadline(&spec.get("activeDeadlineSeconds"), &before["activeDeadlineSeconds"]);
    added_tolerations(&spec.get("tolerations"), items(before, "tolerations"));
    spec.get("schedulingGates").each(|gate| {
        let name = gate.get("name");
        if !items(before, "schedulingGates").iter().any(|old| old["name"] == *name.value()) {
            let shown = name.text();
            name.forbidden(format!("only deletion is allowed, but found new scheduling gate '{shown}'"));
        }
    });
    if spec.value() == before {
        return;
    }
    let mut rest = spec.value().clone();
    for list in ["containers", "initContainers"] {
        for (container, old) in super::super::items_mut(&mut rest, list).zip(items(before, list)) {
            container["image"] = old["image"].clone();
        }
    }
    let mut keep = vec!["activeDeadlineSeconds", "schedulingGates", "tolerations"];
    let grace = "terminationGracePeriodSeconds";
    if before[grace].as_i64().is_some_and(|seconds| seconds < 0) && rest[grace] == 1 {
        keep.push(grace);
    }
    if !items(before, "schedulingGates").is_empty() {
        gated(&spec, before);
        keep.push("nodeSelector");
        restore(&mut rest, before, "affinity", Some("nodeAffinity"));
    }
    keep.into_iter().for_each(|field| restore(&mut rest, before, field, None));
    if rest != *before {
        spec.forbidden(MUTABLE);
    }
}

/// Takes a field, or one field below it, from the old object.
fn restore(new: &mut Value, old: &Value, field: &str, below: Option<&str>) {
    let (path, old) = match below {
        None => (new.as_object_mut(), &old[field]),
        Some(below) => {
            if !new[field].is_object() && !old[field][below].is_null() {
                new[field] = Value::Object(serde_json::Map::new());
            }
            // Without the field nothing is made of it: an index would leave a null there.
            (new.get_mut(field).and_then(Value::as_object_mut), &old[field][below])
        }
    };
    let Some(fields) = path else { return };
    let field = below.unwrap_or(field);
    if old.is_null() {
        fields.remove(field);
    } else {
        fields.insert(field.to_owned(), old.clone());
    }
    if below.is_some() && fields.is_empty() {
        new.as_object_mut().and_then(|spec| spec.remove("affinity"));
    }
}

fn deadline(at: &At, old: &Value) {
    if !at.present() {
        if !old.is_null() {
            at.invalid("must not update from a positive integer to nil value");
        }
        return;
    }
    at.within(0, i64::from(i32::MAX));
    if old.as_i64().is_some_and(|old| old < at.int()) {
        at.invalid("must be less than or equal to previous value");
    }
}

fn added_tolerations(at: &At, old: &[Value]) {
    let like = |new: &Value, old: &Value| {
        ["key", "operator", "value", "effect"].iter().all(|field| new[*field] == old[*field])
    };
    for toleration in old {
        if !at.items().iter().any(|new| like(new, toleration)) {
            at.forbidden("existing toleration can not be modified except its tolerationSeconds");
        }
    }
    tolerations(at);
}

/// Pods that wait at a gate may be narrowed down.
fn gated(spec: &At, old: &Value) {
    let selector = spec.get("nodeSelector");
    for (key, value) in old["nodeSelector"].as_object().into_iter().flatten() {
        if selector.value().get(key) != Some(value) {
            selector.invalid("only additions to spec.nodeSelector are allowed (no mutations or deletions)");
        }
    }
    let path = "/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms";
    let before = old.pointer(path).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let affinity = spec.get("affinity");
    let nodes = affinity.get("nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution");
    let terms = nodes.get("nodeSelectorTerms");
    if !before.is_empty() && before.len() != terms.items().len() {
        return terms.invalid("no additions/deletions to non-empty NodeSelectorTerms list are allowed");
    }
    for (index, old) in before.iter().enumerate() {
        let term = terms.index(index);
        let starts = |field: &str| {
            let (new, old) = (items(term.value(), field), items(old, field));
            new.len() >= old.len() && new[..old.len()] == *old
        };
        let empty = items(old, "matchExpressions").is_empty() && items(old, "matchFields").is_empty();
        let grew = !items(term.value(), "matchExpressions").is_empty()
            || !items(term.value(), "matchFields").is_empty();
        if (empty && grew) || !starts("matchExpressions") || !starts("matchFields") {
            term.invalid("only additions are allowed (no mutations or deletions)");
        }
    }
}

fn annotations(at: &At, old: &Value) {
    for (key, value) in old.as_object().into_iter().flatten() {
        if at.value().get(key) == Some(value) {
            continue;
        }
        if key.starts_with(APP_ARMOR) {
            at.key(key).forbidden("may not remove or update AppArmor annotations");
        } else if key == MIRROR {
            at.key(key).forbidden("may not remove or update mirror pod annotation");
        }
    }
    at.entries(|key, value| {
        if old.get(key).is_some() {
            return;
        }
        if key.starts_with(APP_ARMOR) {
            value.forbidden("may not add AppArmor annotations");
        } else if key == MIRROR {
            value.forbidden("may not add mirror pod annotation");
        }
    });
}

/// What a status writer does not say stays as it was.
pub(super) fn prepare_status(new: &mut Value, old: &Value) {
    // Whoever runs a pod does not say whose it is: garbage collection must not depend on nodes.
    match &old["metadata"]["ownerReferences"] {
        Value::Null => drop(new["metadata"].as_object_mut().and_then(|meta| meta.remove("ownerReferences"))),
        owners => new["metadata"]["ownerReferences"] = owners.clone(),
    }
    if !new["status"].is_object() {
        return;
    }
    if new["status"]["qosClass"].is_null() && !old["status"]["qosClass"].is_null() {
        new["status"]["qosClass"] = old["status"]["qosClass"].clone();
    }
    let told = |object: &Value| object["observedGeneration"].as_i64().unwrap_or(0);
    let earlier = told(&old["status"]);
    if told(&new["status"]) == 0 && earlier != 0 {
        new["status"]["observedGeneration"] = Value::from(earlier);
    }
    let before = items(&old["status"], "conditions").to_vec();
    for condition in super::super::items_mut(&mut new["status"], "conditions") {
        let same = before.iter().find(|one| one["type"] == condition["type"]);
        let earlier = same.map_or(0, told);
        if told(condition) == 0 && earlier != 0 {
            condition["observedGeneration"] = Value::from(earlier);
        }
    }
}

pub(super) fn validate_status(new: &At, old: &Value) {
    annotations(&new.get("metadata.annotations"), &old["metadata"]["annotations"]);
    let status = new.get("status");
    let before = &old["status"];
    status.get("conditions").each(|condition| {
        let generation = condition.get("observedGeneration");
        if generation.int() < 0 {
            generation.invalid("must be a non-negative integer");
        }
        let name = condition.get("type");
        if !matches!(name.text(), "PodScheduled" | "Ready" | "Initialized") {
            condition.view("Type", name.value()).named(qualified_name);
        }
    });
    let nominated = status.get("nominatedNodeName");
    if !nominated.empty() && *nominated.value() != before["nominatedNodeName"] {
        nominated.named(dns_subdomain);
        if !old["spec"]["nodeName"].as_str().unwrap_or_default().is_empty() {
            nominated.forbidden("may not be set on pods that are already bound to a node");
        }
    }
    let generation = status.get("observedGeneration");
    if generation.int() < 0 {
        generation.invalid("must be a non-negative integer");
    }
    status.unchanged_fields(before, &["qosClass"]);
    let policy = old["spec"]["restartPolicy"].as_str().unwrap_or_default();
    let over = may_start_over(&old["spec"]);
    for (list, of) in [
        ("containerStatuses", "containers"),
        ("initContainerStatuses", "initContainers"),
        ("ephemeralContainerStatuses", ""),
    ] {
        ended_containers(&status.get(list), items(before, list), |name, code| {
            let spec = items(&old["spec"], of).iter().find(|one| one["name"] == *name);
            !of.is_empty() && (over || restarts(spec.unwrap_or(&Value::Null), policy, code))
        });
    }
    let claims = items(&old["spec"], "resourceClaims");
    let mut seen = HashSet::new();
    status.get("resourceClaimStatuses").each(|claim| {
        let name = claim.get("name");
        if !claims.iter().any(|one| one["name"] == *name.value()) {
            name.invalid("must match the name of an entry in `spec.resourceClaims`");
        }
        name.unique(&mut seen);
        claim.get("resourceClaimName").named_if_set(dns_subdomain);
    });
    status.on("extendedResourceClaimStatus", |status| extended_claim(status, &old["spec"]));
    for (list, what) in [("podIPs", "podIP"), ("hostIPs", "hostIP")] {
        addresses(&status.get(list), &status.get(what));
    }
}

/// The claim that stands for resources of the pod, and who uses what of it.
fn extended_claim(at: &At, spec: &Value) {
    let mappings = at.get("requestMappings");
    if mappings.empty() {
        mappings.required("at least one request mapping is required");
    }
    let containers = || items(spec, "initContainers").iter().chain(items(spec, "containers"));
    let mut seen = HashSet::new();
    mappings.each(|mapping| {
        let own = ["containerName", "resourceName", "requestName"].map(|field| mapping.get(field));
        let [container, resource, request] = &own;
        match containers().find(|one| one["name"] == *container.value()) {
            None => container.invalid(
                "must match the name of an entry in spec.initContainers.name or spec.containers.name",
            ),
            Some(one) if one["resources"]["requests"][resource.text()].is_null() => resource.invalid(
                "must match the extended resource name of an entry in spec.initContainers.resources.requests or \
                 spec.containers.resources.requests",
            ),
            Some(_) => {}
        }
        // Kubernetes tells it without its place in the list.
        at.get("requestName").named_as(request.text(), dns_label);
        if !seen.insert(own.each_ref().map(|field| field.text())) {
            own.iter().for_each(At::duplicate);
        }
    });
    at.get("resourceClaimName").need_named(dns_subdomain);
}

fn addresses(list: &At, single: &At) {
    list.each(|item| item.named_as(item.get("ip").text(), legacy_ip));
    if let Some(first) = list.items().first().filter(|_| list.path().to_string().ends_with("hostIPs"))
        && first["ip"] != *single.value()
    {
        list.index(0).get("ip").invalid("must be equal to `hostIP`");
    }
    let families: Vec<bool> =
        list.items().iter().map(|item| item["ip"].as_str().unwrap_or_default().contains(':')).collect();
    if families.len() > 2 || matches!(families.as_slice(), [one, other] if one == other) {
        list.invalid("may specify no more than one IP for each IP family");
    }
}

/// Whether the end of one container may make all of the pod start over (KEP-5532).
fn may_start_over(spec: &Value) -> bool {
    let all = items(spec, "initContainers").iter().chain(items(spec, "containers"));
    let mut rules = all.flat_map(|container| items(container, "restartPolicyRules"));
    rules.any(|rule| rule["action"] == "RestartAllContainers")
}

/// Whether a container that ended with this code may start again.
fn restarts(container: &Value, pod_policy: &str, code: i64) -> bool {
    for rule in items(container, "restartPolicyRules") {
        let listed = items(&rule["exitCodes"], "values").iter().any(|value| value.as_i64() == Some(code));
        if listed == (rule["exitCodes"]["operator"] == "In") {
            return true;
        }
    }
    match container["restartPolicy"].as_str().unwrap_or(pod_policy) {
        "Always" => true,
        "OnFailure" => code != 0,
        _ => false,
    }
}

fn ended_containers(at: &At, old: &[Value], may_restart: impl Fn(&Value, i64) -> bool) {
    for (index, before) in old.iter().enumerate() {
        let Some(code) = before.pointer("/state/terminated/exitCode").and_then(Value::as_i64) else {
            continue;
        };
        let now = at.items().iter().find(|one| one["name"] == before["name"]);
        let runs = now.is_some_and(|now| now.pointer("/state/terminated").is_none());
        if runs && !may_restart(&before["name"], code) {
            at.index(index).get("state").forbidden("may not be transitioned to non-terminated state");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::validate::check;
    use serde_json::json;

    #[test]
    fn only_images_and_a_few_fields_change() {
        let old = json!({"spec": {"nodeName": "a", "containers": [{"name": "c", "image": "a:1"}]}});
        let errors_of = |new: &Value| check(new, |at| validate(at, &old)).len();
        let mut new = old.clone();
        new["spec"]["containers"][0]["image"] = json!("a:2");
        new["spec"]["activeDeadlineSeconds"] = json!(5);
        assert_eq!(errors_of(&new), 0);
        new["spec"]["nodeName"] = json!("b");
        assert_eq!(errors_of(&new), 1);
    }
}
