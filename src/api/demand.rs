//! What pods ask for, counted over their JSON as Kubernetes counts it for quotas, limits and nodes.

use crate::quantity::{self, Amount};
use crate::validate::qualified_name;
use serde_json::Value;
use std::collections::BTreeMap;

/// Amounts by the name of their resource.
pub type Amounts = BTreeMap<String, Amount>;

/// Huge pages of one size.
pub fn is_huge(name: &str) -> bool {
    name.starts_with("hugepages-")
}

/// Resources of Kubernetes itself.
pub fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

/// Resources that somebody else names and counts, such as `example.com/gpu`.
pub fn is_extended(name: &str) -> bool {
    !is_native(name)
        && !name.starts_with("requests.")
        && qualified_name(&format!("requests.{name}")).is_empty()
}

/// What a pod may ask for as a whole (KEP-2837).
fn is_of_pods(name: &str) -> bool {
    matches!(name, "cpu" | "memory") || is_huge(name)
}

/// One side of what is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// What is set aside.
    Requests,
    /// What is never exceeded.
    Limits,
}

impl Side {
    /// The field's name.
    pub fn field(self) -> &'static str {
        if self == Self::Requests { "requests" } else { "limits" }
    }
}

/// Reads a map of quantities; what is none is left out.
pub fn amounts(map: &Value) -> Amounts {
    let entries = map.as_object().into_iter().flatten();
    let parsed =
        entries.filter_map(|(name, value)| Some((name.clone(), quantity::parse(value.as_str()?).ok()?)));
    parsed.collect()
}

/// Adds to each amount.
pub fn add(sum: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        sum.entry(name.clone()).and_modify(|own| *own = own.plus(*amount)).or_insert(*amount);
    }
}

/// Takes from each amount.
pub fn subtract(sum: &mut Amounts, less: &Amounts) {
    for (name, amount) in less {
        let own = sum.entry(name.clone()).or_insert_with(|| Amount::units(0));
        *own = own.minus(*amount);
    }
}

/// Raises each amount to at least the other one.
pub fn raise(most: &mut Amounts, other: &Amounts) {
    for (name, amount) in other {
        most.entry(name.clone()).and_modify(|own| *own = (*own).max(*amount)).or_insert(*amount);
    }
}

/// Amounts as a map of quantities.
pub fn to_value(amounts: &Amounts) -> Value {
    amounts.iter().map(|(name, amount)| (name.clone(), Value::from(amount.to_string()))).collect()
}

fn list<'a>(object: &'a Value, field: &str) -> &'a [Value] {
    object[field].as_array().map_or(&[], Vec::as_slice)
}

/// A container that is started before the others and goes on beside them (KEP-753).
fn is_sidecar(container: &Value) -> bool {
    container["restartPolicy"] == "Always"
}

/// What all containers of a pod ask for together: sidecars run beside the others, other init
/// containers before them.
pub fn together(spec: &Value, side: Side) -> Amounts {
    sum(spec, |container| amounts(&container["resources"][side.field()]))
}

fn sum(spec: &Value, of: impl Fn(&Value) -> Amounts) -> Amounts {
    let (mut total, mut sidecars, mut start) = (Amounts::new(), Amounts::new(), Amounts::new());
    list(spec, "containers").iter().for_each(|container| add(&mut total, &of(container)));
    for container in list(spec, "initContainers") {
        let own = of(container);
        let mut now = sidecars.clone();
        add(&mut now, &own);
        if is_sidecar(container) {
            add(&mut total, &own);
            sidecars.clone_from(&now);
        }
        raise(&mut start, &now);
    }
    raise(&mut total, &start);
    total
}

/// A pod says what it gets as a whole.
pub fn is_set_for_pod(spec: &Value) -> bool {
    [Side::Requests, Side::Limits].iter().any(|side| {
        let own = spec["resources"][side.field()].as_object();
        own.into_iter().flatten().any(|(name, _)| is_of_pods(name))
    })
}

/// What a pod's spec asks for; what it says of itself as a whole goes before what its containers say.
pub fn of_spec(spec: &Value, side: Side) -> Amounts {
    let mut total = together(spec, side);
    take_whole(&mut total, spec, side);
    total
}

fn take_whole(total: &mut Amounts, spec: &Value, side: Side) {
    let own = amounts(&spec["resources"][side.field()]);
    total.extend(own.into_iter().filter(|(name, _)| is_of_pods(name)));
}

/// Adds what running the pod takes besides (KEP-688); of limits, only to those there are.
pub fn add_overhead(total: &mut Amounts, spec: &Value, side: Side) {
    let mut overhead = amounts(&spec["overhead"]);
    if side == Side::Limits {
        overhead.retain(|name, _| total.get(name).is_some_and(|limit| *limit != Amount::units(0)));
    }
    add(total, &overhead);
}

/// What a pod holds: what it asks for, or what it has been given where that is more, as a change of its
/// resources is not done at once (KEP-1287).
pub fn held(pod: &Value, side: Side) -> Amounts {
    let (spec, status) = (&pod["spec"], &pod["status"]);
    let infeasible = list(status, "conditions")
        .iter()
        .find(|condition| condition["type"] == "PodResizePending")
        .is_some_and(|condition| condition["reason"] == "Infeasible");
    let mut total = sum(spec, |container| {
        let wanted = amounts(&container["resources"][side.field()]);
        let lists = ["containerStatuses", "initContainerStatuses"].iter().flat_map(|name| list(status, name));
        let given = lists.into_iter().find(|given| given["name"] == container["name"]);
        match given.filter(|given| given["resources"].is_object()) {
            Some(given) => effective(&wanted, given, side, infeasible),
            None => wanted,
        }
    });
    take_whole(&mut total, spec, side);
    add_overhead(&mut total, spec, side);
    total
}

fn effective(wanted: &Amounts, given: &Value, side: Side, infeasible: bool) -> Amounts {
    let mut most = amounts(&given["resources"][side.field()]);
    if side == Side::Requests {
        raise(&mut most, &amounts(&given["allocatedResources"]));
    }
    if !infeasible {
        raise(&mut most, wanted);
    }
    most
}

/// The quality-of-service class (`status.qosClass`): by what containers request and are limited to.
pub fn qos_class(spec: &Value) -> &'static str {
    let (mut any, mut all) = (false, true);
    let mut count = |resources: &Value| {
        let amount = |side: &str, name: &str| {
            let text = resources[side][name].as_str();
            text.and_then(|text| quantity::parse(text).ok()).filter(|amount| amount.to_milli() > 0)
        };
        for name in ["cpu", "memory"] {
            let (request, limit) = (amount("requests", name), amount("limits", name));
            any |= request.is_some() || limit.is_some();
            all &= limit.is_some() && request.is_none_or(|request| Some(request) == limit);
        }
    };
    if is_set_for_pod(spec) {
        count(&spec["resources"]);
    } else {
        let containers = list(spec, "initContainers").iter().chain(list(spec, "containers"));
        containers.for_each(|container| count(&container["resources"]));
    }
    match (any, all) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

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
    fn init_containers_run_before_and_sidecars_beside_the_others() {
        let cpu = |amount: &str| json!({"requests": {"cpu": amount}});
        let spec = json!({"containers": [{"name": "a", "resources": cpu("1")}],
            "initContainers": [{"name": "s", "restartPolicy": "Always", "resources": cpu("500m")},
                {"name": "i", "resources": cpu("2")}], "overhead": {"cpu": "250m"}});
        assert_eq!(to_value(&together(&spec, Side::Requests)), json!({"cpu": "2500m"}));
        assert_eq!(to_value(&held(&json!({"spec": spec}), Side::Requests)), json!({"cpu": "2750m"}));
    }

    #[test]
    fn a_pod_that_is_being_resized_holds_the_greater() {
        let mut pod = json!({"spec": spec(&json!({"requests": {"cpu": "1"}})),
            "status": {"containerStatuses": [{"name": "c", "resources": {"requests": {"cpu": "2"}},
                "allocatedResources": {"cpu": "3"}}]}});
        assert_eq!(to_value(&held(&pod, Side::Requests)), json!({"cpu": "3"}));
        pod["spec"] = spec(&json!({"requests": {"cpu": "4"}}));
        assert_eq!(to_value(&held(&pod, Side::Requests)), json!({"cpu": "4"}));
        pod["status"]["conditions"] = json!([{"type": "PodResizePending", "reason": "Infeasible"}]);
        assert_eq!(to_value(&held(&pod, Side::Requests)), json!({"cpu": "3"}));
    }
}
