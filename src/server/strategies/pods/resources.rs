//! Amounts that containers and pods ask for.

use api::demand::{Side, is_extended, is_huge, is_native, together};
use api::quantity::{self, Amount};
use api::validate::{At, Error, dns_label, qualified_name};
use serde_json::Value;
use std::collections::BTreeSet;

/// Resources that are named without a domain, beside the huge pages.
const STANDARD: [&str; 20] = [
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "storage",
    "requests.storage",
    "services.nodeports",
    "services.loadbalancers",
];
/// Resources that are counted in whole numbers.
const COUNTED: [&str; 9] = [
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "services.nodeports",
    "services.loadbalancers",
];

/// More may be promised than there is.
pub(in crate::strategies) fn is_overcommitted(name: &str) -> bool {
    is_native(name) && !is_huge(name)
}

fn is_standard(name: &str) -> bool {
    STANDARD.contains(&name) || is_huge(name) || name.starts_with("requests.hugepages-")
}

/// The name of any resource.
pub(in crate::strategies) fn resource_name(at: &At, name: &str) -> bool {
    let before = at.errors();
    at.named_as(name, qualified_name);
    if at.errors() == before && !name.contains('/') && !is_standard(name) {
        at.invalid_as(name, "must be a standard resource type or fully qualified");
    }
    at.errors() == before
}

/// The name of a resource of containers.
pub(in crate::strategies) fn container_resource(at: &At, name: &str) {
    resource_name(at, name);
    if !name.contains('/') {
        if !matches!(name, "cpu" | "memory" | "ephemeral-storage") && !is_huge(name) {
            at.invalid_as(name, "must be a standard resource for containers");
        }
    } else if !is_native(name) && !is_extended(name) {
        at.invalid_as(name, "doesn't follow extended resource name standard");
    }
}

/// The name of a resource of quotas.
pub(in crate::strategies) fn quota_resource(at: &At, name: &str) {
    resource_name(at, name);
    let standard = (STANDARD.contains(&name) && name != "storage")
        || is_huge(name)
        || name.starts_with("requests.hugepages-");
    if !name.contains('/') && !standard {
        at.invalid_as(name, "must be a standard resource for quota");
    }
}

fn pod_resource(at: &At, name: &str) {
    if resource_name(at, name) && !matches!(name, "cpu" | "memory") && !is_huge(name) {
        at.report(|path| Error::not_supported(path, name, &["cpu", "hugepages-", "memory"]));
    }
}

/// An amount: not negative, and whole where things are counted.
pub(in crate::strategies) fn amount(at: &At, name: &str) {
    let amount = at.quantity();
    if amount.is_negative() {
        at.invalid("must be greater than or equal to 0");
    }
    if (COUNTED.contains(&name) || is_extended(name)) && !amount.is_whole() {
        at.invalid("must be an integer");
    }
}

/// The runtime class's share of a pod.
pub(super) fn overhead(at: &At) {
    let limits = at.get("limits");
    limits.with(at.value()).entries(|name, quantity| {
        container_resource(quantity, name);
        amount(quantity, name);
    });
}

/// `resources` of a container.
pub(super) fn of_container(at: &At, claims: &BTreeSet<&str>) {
    requirements(at, container_resource, claims);
}

fn requirements(at: &At, name_rule: fn(&At, &str), claims: &BTreeSet<&str>) {
    let (limits, requests) = (at.get("limits"), at.get("requests"));
    let divides = |quantity: &At, name: &str| {
        let page =
            quantity::parse(name.strip_prefix("hugepages-").unwrap_or_default()).map_or(0, Amount::to_units);
        if is_huge(name) && (page <= 0 || quantity.quantity().to_units() % page != 0) {
            let shown = quantity.text();
            quantity.invalid(format!("{shown} is not positive integer multiple of {name}"));
        }
    };
    limits.entries(|name, quantity| {
        name_rule(quantity, name);
        amount(quantity, name);
        divides(quantity, name);
    });
    requests.entries(|name, quantity| {
        name_rule(quantity, name);
        amount(quantity, name);
        let limit = limits.key(name);
        if limit.present() {
            let (own, most) = (quantity.quantity(), limit.quantity());
            let shown = limit.text();
            if own != most && !is_overcommitted(name) {
                requests.invalid_as(quantity.text(), format!("must be equal to {name} limit of {shown}"));
            } else if own > most {
                requests.invalid_as(
                    quantity.text(),
                    format!("must be less than or equal to {name} limit of {shown}"),
                );
            }
        } else if !is_overcommitted(name) {
            limits.required("Limit must be set for non overcommitable resources");
        }
        divides(quantity, name);
    });
    let names = || {
        let of = |map: &Value| {
            map.as_object().map(|map| map.keys().cloned().collect::<Vec<_>>()).unwrap_or_default()
        };
        [of(limits.value()), of(requests.value())].concat()
    };
    let all = names();
    let compute = all.iter().any(|name| name == "cpu" || name == "memory");
    if !compute && all.iter().any(|name| is_huge(name)) {
        at.forbidden("HugePages require cpu or memory");
    }
    claim_names(&at.get("claims"), claims);
}

fn claim_names(list: &At, claims: &BTreeSet<&str>) {
    let mut seen: BTreeSet<String> = BTreeSet::new();
    list.each(|claim| {
        let (name, request) = (claim.get("name").text(), claim.get("request"));
        if name.is_empty() {
            return claim.required("");
        }
        let duplicate = |key: &str| claim.report(|path| Error::duplicate(path, key));
        if seen.contains(name) {
            duplicate(name);
        } else {
            let mut key = name.to_owned();
            if !request.empty() {
                request.named(dns_label);
                key = format!("{name}/{}", request.text());
            }
            if seen.contains(&key) {
                duplicate(&key);
            } else if request.empty()
                && seen.iter().any(|one| one.split_once('/').is_some_and(|(head, _)| head == name))
            {
                duplicate(name);
            }
            seen.insert(key);
        }
        if !claims.contains(name) {
            let known: Vec<&str> = claims.iter().copied().collect();
            let why = if known.is_empty() {
                " which is empty".to_owned()
            } else {
                format!(": {}", known.join(", "))
            };
            claim.report(|path| {
                Error::not_found(path, name)
                    .because(format!("must be one of the names in pod.spec.resourceClaims{why}"))
            });
        }
    });
}

/// What happens to a container that is resized.
pub(super) fn resize_policy(list: &At, restart: &str) {
    let mut seen = BTreeSet::new();
    list.each(|item| {
        let (resource, policy) = (item.get("resourceName").text(), item.get("restartPolicy").text());
        if !seen.insert(resource) {
            item.report(|path| Error::duplicate(path, resource));
        }
        let word = |text: &str, known: &[&str]| {
            if text.is_empty() {
                list.required("");
            } else if !known.contains(&text) {
                list.report(|path| Error::not_supported(path, text, known));
            }
        };
        word(resource, &["cpu", "memory"]);
        word(policy, &["NotRequired", "RestartContainer"]);
        if restart == "Never" && policy != "NotRequired" {
            list.invalid_as(policy, "must be 'NotRequired' when pod `restartPolicy` is 'Never'");
        }
    });
}

/// `spec.resources`: what a pod asks for as a whole.
pub(super) fn of_pod(spec: &At, claims: &BTreeSet<&str>) {
    let at = spec.get("resources");
    if !at.present() {
        return;
    }
    if spec.get("os.name").is("windows") {
        return at.forbidden("may not be set for a windows pod");
    }
    at.get("claims").never("claims may not be set for Resources at pod-level");
    requirements(&at, pod_resource, claims);
    let (limits, requests) = (at.get("limits"), at.get("requests"));
    for (name, sum) in together(spec.value(), Side::Requests) {
        let own = requests.key(&name);
        if own.present() && sum > own.quantity() {
            own.invalid(format!("must be greater than or equal to aggregate container requests of {sum}"));
        }
    }
    for (name, sum) in together(spec.value(), Side::Limits).into_iter().filter(|(name, _)| is_huge(name)) {
        let own = limits.key(&name);
        if own.present() && sum > own.quantity() {
            own.invalid(format!("must be greater than or equal to aggregate container limits of {sum}"));
        }
    }
    let containers = at.get("containers");
    for (index, container) in spec.get("containers").items().iter().enumerate() {
        for (name, limit) in container["resources"]["limits"].as_object().into_iter().flatten() {
            let most = limits.key(name);
            let own = quantity::parse(limit.as_str().unwrap_or_default()).unwrap_or(Amount::units(0));
            if most.present() && own > most.quantity() {
                let container = containers.index(index);
                container.key(name).get("limits").invalid_as(
                    limit.clone(),
                    format!("must be less than or equal to pod limits of {}", most.text()),
                );
            }
        }
    }
}
