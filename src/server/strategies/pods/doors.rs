//! Changes of a pod through `ephemeralcontainers` (KEP-277) and `resize` (KEP-1287).

use super::super::{items, items_mut};
use super::MIRROR;
use api::demand::qos_class;
use api::validate::At;
use serde_json::Value;

const LISTS: [&str; 2] = ["containers", "initContainers"];

/// The old pod with what the subresource is for.
pub(super) fn narrow(door: &str, new: &mut Value, old: &Value) {
    let asked = std::mem::replace(new, old.clone());
    match door {
        "ephemeralcontainers" => take(&mut new["spec"], &asked["spec"], "ephemeralContainers"),
        _ => resize(new, &asked),
    }
}

fn take(to: &mut Value, from: &Value, field: &str) {
    match &from[field] {
        Value::Null => drop(to.as_object_mut().and_then(|fields| fields.remove(field))),
        value => to[field] = value.clone(),
    }
}

fn resize(new: &mut Value, asked: &Value) {
    let same = LISTS.iter().all(|list| items(&asked["spec"], list).len() == items(&new["spec"], list).len());
    if !same {
        new["spec"] = asked["spec"].clone();
        return;
    }
    for list in LISTS {
        let wanted = items(&asked["spec"], list);
        let named =
            items(&new["spec"], list).iter().zip(wanted).all(|(own, other)| own["name"] == other["name"]);
        if !named {
            new["spec"][list] = Value::Array(wanted.to_vec());
            continue;
        }
        for (own, wanted) in items_mut(&mut new["spec"], list).zip(wanted) {
            take(own, wanted, "resources");
            take(own, wanted, "resizePolicy");
        }
    }
    take(&mut new["spec"], &asked["spec"], "resources");
}

pub(super) fn validate(door: &str, pod: &At, old: &Value) {
    super::validate(pod);
    match door {
        "ephemeralcontainers" => ephemeral(pod, old),
        _ => resized(pod, old),
    }
}

fn is_mirror(old: &Value) -> bool {
    !old["metadata"]["annotations"][MIRROR].is_null()
}

fn ephemeral(pod: &At, old: &Value) {
    if is_mirror(old) {
        return pod.get("").forbidden("static pods do not support ephemeral containers");
    }
    let list = pod.get("spec.ephemeralContainers");
    for before in items(&old["spec"], "ephemeralContainers") {
        let name = before["name"].as_str().unwrap_or_default();
        match list.items().iter().find(|now| now["name"] == before["name"]) {
            None => list.forbidden(format!("existing ephemeral containers {name:?} may not be removed\n")),
            Some(now) if now != before => {
                list.forbidden(format!("existing ephemeral containers {name:?} may not be changed\n"));
            }
            Some(_) => {}
        }
    }
}

fn resized(pod: &At, old: &Value) {
    if is_mirror(old) {
        return pod.get("").forbidden("static pods cannot be resized");
    }
    if old["spec"]["os"]["name"] == "windows" {
        return pod.get("").forbidden("windows pods cannot be resized");
    }
    let (spec, before) = (pod.get("spec"), &old["spec"]);
    let told = old["status"]["qosClass"].as_str().unwrap_or_else(|| qos_class(before));
    if qos_class(spec.value()) != told {
        spec.invalid_as(told, "Pod QOS Class may not change as a result of resizing");
    }
    let running =
        items(&old["status"], "containerStatuses").iter().find(|one| one["state"]["running"].is_object());
    if running.is_some_and(|one| !one["resources"].is_object()) {
        spec.forbidden("Pod running on node without support for resize");
    }
    let errors_before = spec.errors();
    for list in ["containers", "initContainers"] {
        let (now, then) = (items(spec.value(), list), items(before, list));
        if now.len() != then.len() {
            spec.get(list).forbidden(format!("{list} may not be added or removed on resize"));
            continue;
        }
        let renamed = |(_, (now, then)): &(usize, (&Value, &Value))| now["name"] != then["name"];
        let at = spec.get(list);
        for (index, _) in now.iter().zip(then).enumerate().filter(renamed) {
            at.index(index)
                .get("name")
                .forbidden(format!("{list} may not be renamed or reordered on resize"));
        }
    }
    if spec.errors() > errors_before {
        return;
    }
    for list in ["initContainers", "containers"] {
        let at = spec.get(list);
        for (index, then) in items(before, list).iter().enumerate() {
            kept(&at.index(index).get("resources"), &then["resources"]);
        }
    }
    only_amounts(&spec, before);
}

/// What is asked for may change, but not be taken back.
fn kept(resources: &At, old: &Value) {
    for (side, what) in [("requests", "requests"), ("limits", "limits")] {
        let map = resources.get(side);
        let removed = |(name, _): (&String, &Value)| map.value().get(name).is_none();
        if old[side].as_object().into_iter().flatten().any(removed) {
            map.forbidden(format!("resource {what} cannot be removed"));
        }
    }
}

fn without_amounts(container: &Value) -> Value {
    let mut container = container.clone();
    for side in ["requests", "limits"] {
        let Some(resources) = container.get_mut("resources").and_then(Value::as_object_mut) else { break };
        let Some(map) = resources.get_mut(side).and_then(Value::as_object_mut) else { continue };
        map.retain(|name, _| name != "cpu" && name != "memory");
        if map.is_empty() {
            resources.remove(side);
        }
    }
    // To have no resources and to have none of them is the same.
    if container["resources"].as_object().is_some_and(serde_json::Map::is_empty) {
        container.as_object_mut().and_then(|fields| fields.remove("resources"));
    }
    container
}

fn only_amounts(spec: &At, before: &Value) {
    let before_errors = spec.errors();
    let differ = |list: &str, index: usize| {
        let of = |spec: &Value| without_amounts(&items(spec, list)[index]);
        of(spec.value()) != of(before)
    };
    (0..items(before, "containers").len()).filter(|index| differ("containers", *index)).for_each(|_| {
        spec.forbidden("only cpu and memory resources are mutable");
    });
    let list = spec.get("initContainers");
    for (index, then) in items(before, "initContainers").iter().enumerate() {
        let now = list.index(index);
        if differ("initContainers", index) {
            now.forbidden("only cpu and memory resources for init or sidecar containers are mutable");
        }
        let restarts =
            items(now.value(), "resizePolicy").iter().any(|one| one["restartPolicy"] == "RestartContainer");
        if now.value() != then && then["restartPolicy"] != "Always" && restarts {
            now.forbidden(
                "non-sidecar init containers with a resize policy of RestartContainer cannot be resized",
            );
        }
    }
    let rest = |spec: &Value| {
        let mut rest = spec.clone();
        for list in LISTS {
            rest.as_object_mut().and_then(|fields| fields.remove(list));
        }
        without_amounts(&rest)
    };
    if spec.errors() == before_errors && rest(spec.value()) != rest(before) {
        spec.forbidden("only cpu and memory resources are mutable");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::validate::check;
    use serde_json::json;

    fn pod(cpu: &str) -> Value {
        json!({"metadata": {"name": "p", "labels": {"a": "b"}}, "status": {"qosClass": "Burstable"}, "spec": {"nodeName": "n", "containers": [
            {"name": "c", "image": "x", "resources": {"requests": {"cpu": cpu}}}]}})
    }

    fn told(new: &Value, old: &Value) -> Vec<String> {
        check(new, |at| resized(at, old)).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_resize_takes_amounts_alone() {
        let old = pod("1");
        let mut asked = pod("2");
        asked["metadata"]["labels"] = json!({});
        asked["spec"]["containers"][0]["image"] = json!("y");
        let mut new = asked.clone();
        narrow("resize", &mut new, &old);
        assert_eq!(new, pod("2"));
        assert!(told(&new, &old).is_empty());
        new["spec"]["containers"][0]["resources"] = json!({});
        assert_eq!(
            told(&new, &old),
            [
                "spec: Invalid value: \"Burstable\": Pod QOS Class may not change as a result of resizing",
                "spec.containers[0].resources.requests: Forbidden: resource requests cannot be removed"
            ]
        );
        let mut renamed = pod("1");
        renamed["spec"]["containers"][0]["name"] = json!("d");
        assert_eq!(
            told(&renamed, &old),
            ["spec.containers[0].name: Forbidden: containers may not be renamed or reordered on resize"]
        );
        let mut whole = pod("1");
        whole["spec"]["resources"] = json!({"requests": {"cpu": "2"}, "limits": {"cpu": "3"}});
        assert!(told(&whole, &old).is_empty(), "the pod as a whole may get amounts that it had none of");
        let mut more = pod("1");
        more["spec"]["containers"][0]["resources"]["limits"] = json!({"ephemeral-storage": "1Gi"});
        assert_eq!(told(&more, &old), ["spec: Forbidden: only cpu and memory resources are mutable"]);
    }

    #[test]
    fn ephemeral_containers_are_only_added() {
        let mut old = pod("1");
        old["spec"]["ephemeralContainers"] = json!([{"name": "d", "image": "x"}]);
        let mut new = old.clone();
        new["spec"]["ephemeralContainers"] = json!([{"name": "e", "image": "x"}]);
        let told: Vec<String> =
            check(&new, |at| ephemeral(at, &old)).iter().map(ToString::to_string).collect();
        assert_eq!(
            told,
            ["spec.ephemeralContainers: Forbidden: existing ephemeral containers \"d\" may not be removed\n"]
        );
    }
}
