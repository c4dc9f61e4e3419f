//! LimitRanger: what containers, pods and claims ask for stays within the namespace's LimitRanges.

use super::view::row;
use super::{Operation, Request, STEP as PLAIN, Step, Verdict, items, items_mut, text};
use api::demand::{self, Amounts, Side, amounts};
use api::quantity::Amount;
use serde_json::{Value, json};
use std::collections::BTreeMap;

const ANNOTATION: &str = "kubernetes.io/limit-ranger";

pub(super) const STEP: Step = Step {
    name: "LimitRanger",
    targets: &["pods", "pods/resize", "persistentvolumeclaims"],
    admit: |request, object| {
        if applies(request) && request.kind.kind == "Pod" {
            ranges(request).iter().for_each(|range| fill_in(object, range));
        }
        Ok(())
    },
    validate: |request, object| if applies(request) { check(request, object) } else { Ok(()) },
    ..PLAIN
};

/// Containers of a pod are not changed by an update but through `resize`; what is going stays as it is.
fn applies(request: &Request) -> bool {
    let updated = request.operation == Operation::Update;
    let stays = request.old["metadata"]["deletionTimestamp"].is_null();
    let changed_otherwise = updated && request.kind.kind == "Pod" && request.subresource.is_empty();
    stays && !changed_otherwise
}

fn ranges(request: &Request) -> Vec<Value> {
    request.view.list(row("v1", "LimitRange"), request.namespace)
}

/// Gives containers the range's defaults, and notes which.
fn fill_in(pod: &mut Value, range: &Value) {
    let (mut requests, mut limits) = (BTreeMap::new(), BTreeMap::new());
    for limit in items(&range["spec"], "limits").iter().filter(|limit| limit["type"] == "Container") {
        let of = |field: &str| limit[field].as_object().cloned().unwrap_or_default();
        requests.extend(of("defaultRequest"));
        limits.extend(of("default"));
    }
    let mut set = Vec::new();
    for (list, what) in [("containers", "container"), ("initContainers", "init container")] {
        for container in items_mut(&mut pod["spec"], list) {
            for (side, defaults) in [("requests", &requests), ("limits", &limits)] {
                let names = missing(&mut container["resources"], side, defaults);
                if !names.is_empty() {
                    let side = side.trim_end_matches('s');
                    set.push(format!("{} {side} for {what} {}", names.join(", "), text(container, "name")));
                }
            }
        }
    }
    if set.is_empty() {
        return;
    }
    if !pod["metadata"]["annotations"].is_object() {
        pod["metadata"]["annotations"] = json!({});
    }
    pod["metadata"]["annotations"][ANNOTATION] = json!(format!("LimitRanger plugin set: {}", set.join("; ")));
}

/// Sets what is missing and returns its names in order.
fn missing(resources: &mut Value, side: &str, defaults: &BTreeMap<String, Value>) -> Vec<String> {
    let mut names = Vec::new();
    for (name, amount) in defaults {
        if resources[side][name].is_null() {
            resources[side][name] = amount.clone();
            names.push(name.clone());
        }
    }
    names
}

fn check(request: &Request, object: &Value) -> Verdict {
    for range in ranges(request) {
        let mut errors = Vec::new();
        for limit in items(&range["spec"], "limits") {
            match (request.kind.kind, text(limit, "type")) {
                ("Pod", "Container") => {
                    for container in
                        ["containers", "initContainers"].iter().flat_map(|list| items(&object["spec"], list))
                    {
                        let of = |side: &str| amounts(&container["resources"][side]);
                        bounds(&mut errors, limit, &of("requests"), &of("limits"));
                    }
                }
                ("Pod", "Pod") => {
                    let of = |side| demand::of_spec(&object["spec"], side);
                    bounds(&mut errors, limit, &of(Side::Requests), &of(Side::Limits));
                }
                ("PersistentVolumeClaim", "PersistentVolumeClaim") => storage(&mut errors, limit, object),
                _ => {}
            }
        }
        if let Some(why) = joined(&errors) {
            return Err(request.forbidden(object, why));
        }
    }
    Ok(())
}

/// Several errors as one, each said once.
fn joined(errors: &[String]) -> Option<String> {
    let mut said: Vec<&str> = Vec::new();
    for error in errors {
        if !said.contains(&error.as_str()) {
            said.push(error);
        }
    }
    match said.as_slice() {
        [] => None,
        [one] => Some((*one).to_owned()),
        all => Some(format!("[{}]", all.join(", "))),
    }
}

/// Whether the first is below the second, as Kubernetes rounds both: up to thousandths.
fn below(one: Amount, other: Amount) -> bool {
    one.to_milli() < other.to_milli()
}

fn bounds(errors: &mut Vec<String>, limit: &Value, requests: &Amounts, limits: &Amounts) {
    let of = text(limit, "type");
    let mut tell = |result: Result<(), String>| errors.extend(result.err());
    for (name, least) in amounts(&limit["min"]) {
        tell(minimum((of, &name), least, requests.get(&name), limits.get(&name)));
    }
    for (name, most) in amounts(&limit["max"]) {
        tell(maximum((of, &name), most, requests.get(&name), limits.get(&name)));
    }
    for (name, most) in amounts(&limit["maxLimitRequestRatio"]) {
        tell(ratio((of, &name), most, requests.get(&name), limits.get(&name)));
    }
}

type What<'a> = (&'a str, &'a str);

fn minimum(
    (of, name): What,
    least: Amount,
    request: Option<&Amount>,
    limit: Option<&Amount>,
) -> Result<(), String> {
    let head = format!("minimum {name} usage per {of} is {least}");
    let Some(request) = request else { return Err(format!("{head}.  No request is specified")) };
    if below(*request, least) {
        return Err(format!("{head}, but request is {request}"));
    }
    match limit.filter(|limit| below(**limit, least)) {
        Some(limit) => Err(format!("{head}, but limit is {limit}")),
        None => Ok(()),
    }
}

fn maximum(
    (of, name): What,
    most: Amount,
    request: Option<&Amount>,
    limit: Option<&Amount>,
) -> Result<(), String> {
    let head = format!("maximum {name} usage per {of} is {most}");
    let Some(limit) = limit else { return Err(format!("{head}.  No limit is specified")) };
    if below(most, *limit) {
        return Err(format!("{head}, but limit is {limit}"));
    }
    match request.filter(|request| below(most, **request)) {
        Some(request) => Err(format!("{head}, but request is {request}")),
        None => Ok(()),
    }
}

#[expect(clippy::cast_precision_loss, reason = "Kubernetes compares and prints the ratio as a float")]
fn ratio(
    (of, name): What,
    most: Amount,
    request: Option<&Amount>,
    limit: Option<&Amount>,
) -> Result<(), String> {
    let head = format!("{name} max limit to request ratio per {of} is {most}");
    let milli = |amount: Option<&Amount>| amount.map_or(0, |amount| amount.to_milli());
    let (request, limit) = (milli(request), milli(limit));
    if request == 0 {
        return Err(format!("{head}, but no request is specified or request is 0"));
    }
    if limit == 0 {
        return Err(format!("{head}, but no limit is specified or limit is 0"));
    }
    let ratio = limit as f64 / request as f64;
    if ratio * 1000.0 > most.to_milli() as f64 {
        return Err(format!("{head}, but provided ratio is {ratio:.6}"));
    }
    Ok(())
}

fn storage(errors: &mut Vec<String>, limit: &Value, claim: &Value) {
    let of = text(limit, "type");
    let requests = amounts(&claim["spec"]["resources"]["requests"]);
    for (name, least) in amounts(&limit["min"]) {
        errors.extend(minimum((of, &name), least, requests.get(&name), None).err());
    }
    for (name, most) in amounts(&limit["max"]) {
        let head = format!("maximum {name} usage per {of} is {most}");
        match requests.get(&name) {
            None => errors.push(format!("{head}.  No request is specified")),
            Some(request) if below(most, *request) => {
                errors.push(format!("{head}, but request is {request}"))
            }
            Some(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(resources: &Value) -> Value {
        json!({"metadata": {}, "spec": {"containers": [{"name": "a", "resources": resources}], "initContainers": [{"name": "i", "resources": {}}]}})
    }

    #[test]
    fn defaults_are_filled_in_and_noted() {
        let range = json!({"spec": {"limits": [{"type": "Container", "default": {"cpu": "1", "memory": "1Gi"}, "defaultRequest": {"cpu": "500m"}}]}});
        let mut made = pod(&json!({"limits": {"cpu": "2"}}));
        fill_in(&mut made, &range);
        assert_eq!(
            made["spec"]["containers"][0]["resources"],
            json!({"limits": {"cpu": "2", "memory": "1Gi"}, "requests": {"cpu": "500m"}})
        );
        assert_eq!(
            made["metadata"]["annotations"][ANNOTATION],
            "LimitRanger plugin set: cpu request for container a; memory limit for container a; cpu request for init container i; cpu, memory limit for init container i"
        );
        let before = made.clone();
        fill_in(&mut made, &range);
        assert_eq!(made, before);
    }

    #[test]
    fn bounds_are_told_in_kubernetes_words() {
        let limit = json!({"type": "Container", "min": {"cpu": "100m"}, "max": {"memory": "1Gi"}, "maxLimitRequestRatio": {"cpu": "2"}});
        let told = |resources: &Value| {
            let mut errors = Vec::new();
            bounds(&mut errors, &limit, &amounts(&resources["requests"]), &amounts(&resources["limits"]));
            errors
        };
        assert_eq!(
            told(&json!({"requests": {"cpu": "50m"}, "limits": {"cpu": "150m", "memory": "2Gi"}})),
            [
                "minimum cpu usage per Container is 100m, but request is 50m",
                "maximum memory usage per Container is 1Gi, but limit is 2Gi",
                "cpu max limit to request ratio per Container is 2, but provided ratio is 3.000000"
            ]
        );
        assert_eq!(
            told(&json!({})),
            [
                "minimum cpu usage per Container is 100m.  No request is specified",
                "maximum memory usage per Container is 1Gi.  No limit is specified",
                "cpu max limit to request ratio per Container is 2, but no request is specified or request is 0"
            ]
        );
        assert!(
            told(&json!({"requests": {"cpu": "100m"}, "limits": {"cpu": "200m", "memory": "1Gi"}}))
                .is_empty()
        );
    }
}
