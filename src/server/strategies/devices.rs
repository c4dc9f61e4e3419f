//! Devices, claims of them, and what taints them.

use super::pods::{affinity, volumes};
use super::{Changes, Generation, PLAIN, Strategy, default, default_zero, items, items_mut};
use crate::registry::timestamp;
use api::validate::{
    At, Error, c_identifier, conditions, dns_label, dns_subdomain, label_value, lenient_cidr, long_name,
    qualified_name, template_meta,
};
use cel::devices as selectors;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// Limits (`pkg/apis/resource/types.go`).
const MOST_REQUESTS: usize = 32;
const MOST_ALTERNATIVES: usize = 8;
const MOST_CONSUMERS: usize = 256;
const MOST_EXPRESSION_BYTES: usize = 10 << 10;
const MOST_BINDING_CONDITIONS: usize = 4;
const MOST_CONDITIONS: usize = 8;

/// Limits of names and values in bytes.
const LONGEST_ID: usize = 32;
const LONGEST_POOL: usize = 253;

pub(super) const CLASS: Strategy = Strategy {
    name_rule: long_name,
    validate: |class| {
        let spec = class.get("spec");
        all(&spec.get("selectors"), MOST_REQUESTS, selector);
        all(&spec.get("config"), MOST_REQUESTS, configuration);
        spec.on("extendedResourceName", |name| {
            if !api::demand::is_extended(name.text()) {
                name.invalid("must be a valid extended resource name");
            }
        });
    },
    generation: Generation::Counted,
    ..PLAIN
};

pub(super) const CLAIM: Strategy = Strategy {
    default: |claim| claim.pointer_mut("/spec/devices").into_iter().for_each(fill),
    validate: |claim| devices(&claim.get("spec.devices"), selector),
    validate_update: |new, old| {
        new.get("spec").unchanged_type(&old["spec"], "api.resource.v1.ResourceClaimSpec")
    },
    changes: Changes::Only,
    prepare_status: forget_released,
    validate_status: status,
    ..PLAIN
};

pub(super) const CLAIM_TEMPLATE: Strategy = Strategy {
    default: |template| template.pointer_mut("/spec/spec/devices").into_iter().for_each(fill),
    validate: |template| template_spec(template, selector),
    validate_update: |new, old| {
        // Expressions were compiled when they came.
        template_spec(new, any_selector);
        new.get("spec").unchanged_type(&old["spec"], "api.resource.v1.ResourceClaimTemplateSpec");
    },
    changes: Changes::Only,
    ..PLAIN
};

pub(super) const TAINT_RULE: Strategy = Strategy {
    default: |rule| {
        let Some(taint) = rule.pointer_mut("/spec/taint") else { return };
        default(taint, "timeAdded", timestamp());
    },
    prepare_update: |new, old| {
        // A taint that changed was added now.
        let of = |rule: &Value| {
            let mut taint = rule["spec"]["taint"].clone();
            taint["timeAdded"] = Value::Null;
            taint
        };
        if of(new) != of(old) && new["spec"]["taint"]["timeAdded"] == old["spec"]["taint"]["timeAdded"] {
            new["spec"]["taint"]["timeAdded"] = json!(timestamp());
        }
    },
    validate: |rule| {
        let spec = rule.get("spec");
        spec.on("deviceSelector", |device| {
            device.on("driver", volumes::csi_driver);
            device.on("pool", pool_name);
            device.on("device", |name| name.named(dns_label));
        });
        taint(&spec.get("taint"));
    },
    validate_status: |new, _| {
        conditions(&new.get("status.conditions"));
        new.get("status.conditions").no_more_than(MOST_CONDITIONS);
    },
    generation: Generation::Counted,
    ..PLAIN
};

/// Each item of a list that is not too long.
pub(super) fn all<'v>(list: &At<'_, 'v>, most: usize, rule: impl FnMut(&At<'_, 'v>)) -> bool {
    let before = list.errors();
    list.no_more_than(most);
    let fits = list.errors() == before;
    if fits {
        list.each(rule);
    }
    fits
}

/// Each item of such a list, and that no two are the same by a field (or, without one, by themselves).
pub(super) fn set<'v>(list: &At<'_, 'v>, most: usize, key: &str, rule: impl FnMut(&At<'_, 'v>)) {
    if !all(list, most, rule) {
        return;
    }
    let mut seen = HashSet::new();
    list.each(|item| {
        let own = if key.is_empty() { item.text() } else { item.value()[key].as_str().unwrap_or_default() };
        if !seen.insert(own) {
            item.report(|path| Error::duplicate(path, own));
        }
    });
}

fn fill(devices: &mut Value) {
    let count = |request: &mut Value| {
        default_zero(request, "allocationMode", "ExactCount");
        if request["allocationMode"] == "ExactCount" {
            default_zero(request, "count", 1);
        }
    };
    for request in items_mut(devices, "requests") {
        request.get_mut("exactly").into_iter().for_each(count);
        items_mut(request, "firstAvailable").for_each(count);
    }
}

/// The names of requests, and of the alternatives of each.
type Names<'v> = BTreeMap<&'v str, BTreeSet<&'v str>>;

fn names(devices: &Value) -> Names<'_> {
    items(devices, "requests")
        .iter()
        .map(|request| {
            let alternatives = items(request, "firstAvailable").iter();
            (
                request["name"].as_str().unwrap_or_default(),
                alternatives.map(|one| one["name"].as_str().unwrap_or_default()).collect(),
            )
        })
        .collect()
}

fn template_spec(template: &At, selector: fn(&At)) {
    template_meta(&template.get("spec.metadata"));
    devices(&template.get("spec.spec.devices"), selector);
}

fn devices(at: &At, selector: fn(&At)) {
    let known = names(at.value());
    set(&at.get("requests"), MOST_REQUESTS, "name", |one| request(one, selector));
    all(&at.get("constraints"), MOST_REQUESTS, |constraint| {
        set(&constraint.get("requests"), MOST_REQUESTS, "", |name| reference(name, &known));
        let (same, distinct) = (constraint.get("matchAttribute"), constraint.get("distinctAttribute"));
        match (same.present(), distinct.present()) {
            (true, _) => full_name(&same),
            (false, true) => full_name(&distinct),
            (false, false) => constraint.required(
                "exactly one of \"matchAttribute\" or \"distinctAttribute\" is required, but multiple fields are set",
            ),
        }
    });
    all(&at.get("config"), MOST_REQUESTS, |config| {
        set(&config.get("requests"), MOST_REQUESTS, "", |name| reference(name, &known));
        configuration(config);
    });
}

fn request(at: &At, selector: fn(&At)) {
    const ONE: &str = "exactly one of `exactly` or `firstAvailable` is required";
    at.get("name").named(dns_label);
    let (exact, alternatives) = (at.get("exactly"), at.get("firstAvailable"));
    match (exact.present(), alternatives.empty()) {
        (false, true) => at.required(ONE),
        (true, false) => at.invalid_as(Value::Null, format!("{ONE}, but multiple fields are set")),
        (true, true) => wanted(&exact, selector),
        (false, false) => set(&alternatives, MOST_ALTERNATIVES, "name", |one| {
            one.get("name").named(dns_label);
            wanted(one, selector);
        }),
    }
}

fn wanted(at: &At, selector: fn(&At)) {
    at.get("deviceClassName").need_named(dns_subdomain);
    all(&at.get("selectors"), MOST_REQUESTS, selector);
    let (mode, count) = (at.get("allocationMode"), at.get("count"));
    match mode.text() {
        "All" if count.int() != 0 => count.invalid("must not be specified when allocationMode is 'All'"),
        "ExactCount" if count.int() <= 0 => count.invalid("must be greater than zero"),
        _ => mode.one_of(&["All", "ExactCount"]),
    }
    at.get("tolerations").each(|toleration| {
        toleration.get("key").named_if_set(qualified_name);
        let value = toleration.get("value");
        match toleration.get("operator").text() {
            "Exists" if !value.text().is_empty() => value.invalid("must be empty for operator `Exists`"),
            "Equal" => value.named(label_value),
            _ => toleration.get("operator").need_one_of(&["Equal", "Exists"]),
        }
        if !toleration.get("effect").text().is_empty() {
            toleration.get("effect").one_of(&EFFECTS);
        }
    });
}

const EFFECTS: [&str; 3] = ["NoExecute", "NoSchedule", "None"];

/// A selector whose expression may be any text that is not too long.
fn any_selector(at: &At) {
    if at.get("cel").need_present() {
        at.get("cel.expression").no_longer_than(MOST_EXPRESSION_BYTES);
    }
}

fn selector(at: &At) {
    let before = at.errors();
    any_selector(at);
    if at.errors() > before {
        return;
    }
    let expression = at.get("cel.expression");
    match selectors::compile(expression.text()) {
        Err(why) => expression.invalid(why),
        Ok(selector) if selectors::worst_cost(&selector) > selectors::MOST_COST => {
            expression.forbidden("too complex, exceeds cost limit");
        }
        Ok(_) => {}
    }
}

fn reference(name: &At, known: &Names) {
    let own = name.text();
    let (first, rest) = own.split_once('/').map_or((own, None), |(first, rest)| (first, Some(rest)));
    own.split('/').for_each(|part| name.named_as(part, dns_label));
    let found = known.get(first).is_some_and(|inner| rest.is_none_or(|rest| inner.contains(rest)));
    if !found {
        name.invalid(
            "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'",
        );
    }
}

fn configuration(at: &At) {
    let opaque = at.get("opaque");
    if opaque.need_present() {
        volumes::csi_driver(&opaque.get("driver"));
        raw(&opaque.get("parameters"));
    }
}

/// JSON of somebody else's making: an object that is not too large.
fn raw(at: &At) {
    if !at.present() {
        return at.required("");
    }
    if at.value().to_string().len() > MOST_EXPRESSION_BYTES {
        at.report(|path| Error::too_long(path, MOST_EXPRESSION_BYTES));
    } else if !at.value().is_object() {
        at.invalid_as("<value omitted>", "must be a valid JSON object");
    }
}

pub(super) fn name_with_domain(at: &At, name: &str) {
    let identifier = |id: &str| {
        if id.len() > LONGEST_ID {
            at.report(|path| Error::too_long(path, LONGEST_ID));
        }
        at.named_as(id, c_identifier);
    };
    match name.split_once('/') {
        None => identifier(name),
        Some((domain, id)) => {
            match domain {
                "" => at.invalid_as("", "the domain must not be empty"),
                domain => at.on_copy(&json!(domain), volumes::csi_driver),
            }
            match id {
                "" => at.invalid_as("", "the name must not be empty"),
                id => identifier(id),
            }
        }
    }
}

fn full_name(at: &At) {
    name_with_domain(at, at.text());
    if !at.text().contains('/') {
        at.invalid("a fully qualified name must be a domain and a name separated by a slash");
    }
}

pub(super) fn pool_name(at: &At) {
    if at.need() {
        at.no_longer_than(LONGEST_POOL);
        at.text().split('/').for_each(|part| at.named_as(part, dns_subdomain));
    }
}

pub(super) fn taint(at: &At) {
    if at.get("key").need_because("name part must be non-empty") {
        at.get("key").named(qualified_name);
    }
    at.get("value").named_if_set(label_value);
    at.get("effect").need_one_of(&EFFECTS);
}

pub(super) fn binding_conditions(at: &At) {
    let (good, bad) = (at.get("bindingConditions"), at.get("bindingFailureConditions"));
    set(&good, MOST_BINDING_CONDITIONS, "", |name| name.named(qualified_name));
    set(&bad, MOST_BINDING_CONDITIONS, "", |name| name.named(qualified_name));
    bad.each(|name| {
        if good.items().contains(name.value()) {
            name.invalid("bindingFailureConditions must not overlap with bindingConditions");
        }
    });
    if good.empty() && !bad.empty() {
        good.invalid("bindingConditions are required to use bindingFailureConditions");
    }
    if bad.empty() && !good.empty() {
        bad.invalid("bindingFailureConditions are required to use bindingConditions");
    }
}

/// Whether two parts of a status are about the same device, or the same share of it.
fn same_device(one: &Value, other: &Value) -> bool {
    ["driver", "pool", "device", "shareID"].iter().all(|field| one[*field] == other[*field])
}

/// What drivers said of devices that are given back goes with them (KEP-4817): who gives them back need not
/// know of it.
fn forget_released(new: &mut Value, old: &Value) {
    let allocated = |claim: &Value| items(&claim["status"]["allocation"]["devices"], "results").to_vec();
    let (now, before) = (allocated(new), allocated(old));
    let has = |list: &[Value], device: &Value| list.iter().any(|one| same_device(one, device));
    let Some(status) = new.get_mut("status").and_then(Value::as_object_mut) else { return };
    let Some(devices) = status.get_mut("devices").and_then(Value::as_array_mut) else { return };
    devices.retain(|device| has(&now, device) || !has(&before, device));
    if devices.is_empty() {
        status.remove("devices");
    }
}

/// The address of an interface: host bits may be set beside the length of its network's prefix.
fn interface_address(text: &str) -> Vec<String> {
    let Some((address, bits)) = lenient_cidr(text) else {
        return vec!["must be a valid address in CIDR form, (e.g. 10.9.8.7/24 or 2001:db8::1/64)".to_owned()];
    };
    // An IPv4 address written as an IPv6 one is shown as IPv4, and the prefix with it.
    let address = address.to_canonical();
    let shown = i32::from(bits) - if address.is_ipv4() && bits > 32 { 96 } else { 0 };
    let canonical = format!("{address}/{shown}");
    if canonical == text { Vec::new() } else { vec![format!("must be in canonical form ({canonical:?})")] }
}

fn status(new: &At, old: &Value) {
    let (status, before) = (new.get("status"), &old["status"]);
    let (reserved, allocation) = (status.get("reservedFor"), status.get("allocation"));
    set(&reserved, MOST_CONSUMERS, "uid", |consumer| {
        volumes::needs(consumer, &["resource", "name", "uid"]);
    });
    let allocated = allocation.get("devices.results");
    status.get("devices").each(|device| {
        volumes::csi_driver(&device.get("driver"));
        pool_name(&device.get("pool"));
        device.get("device").named(dns_label);
        if !allocated.items().iter().any(|result| same_device(result, device.value())) {
            let id = |field: &str| device.value()[field].as_str().unwrap_or_default();
            let name = format!("{}/{}/{}", id("driver"), id("pool"), id("device"));
            device.invalid_as(name, "must be an allocated device in the claim");
        }
        device.get("conditions").no_more_than(MOST_CONDITIONS);
        conditions(&device.get("conditions"));
        device.on("data", raw);
        let network = device.get("networkData");
        network.get("interfaceName").no_longer_than(256);
        network.get("hardwareAddress").no_longer_than(128);
        set(&network.get("ips"), 16, "", |ip| ip.named(interface_address));
    });
    if !reserved.empty() {
        let more = |consumer: &Value| !items(before, "reservedFor").contains(consumer);
        if !allocation.present() {
            reserved.forbidden("may not be specified when `allocated` is not set");
        } else if new.get("metadata.deletionTimestamp").present() && reserved.items().iter().any(more) {
            reserved.forbidden(
                "new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set",
            );
        }
    }
    if !before["allocation"].is_null() && allocation.present() {
        allocation.unchanged_type(&before["allocation"], "api.resource.v1.AllocationResult");
    } else if allocation.present() {
        allocation_result(&allocation, &names(&new.value()["spec"]["devices"]));
    }
}

fn allocation_result(at: &At, known: &Names) {
    all(&at.get("devices.results"), MOST_REQUESTS, |result| {
        reference(&result.get("request"), known);
        volumes::csi_driver(&result.get("driver"));
        pool_name(&result.get("pool"));
        result.get("device").named(dns_label);
        binding_conditions(result);
    });
    all(&at.get("devices.config"), 2 * MOST_REQUESTS, |config| {
        config.get("source").need_one_of(&["FromClaim", "FromClass"]);
        set(&config.get("requests"), MOST_REQUESTS, "", |name| reference(name, known));
        configuration(config);
    });
    at.on("nodeSelector", affinity::node_selector);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_of_devices_goes_with_them() {
        let device = |name: &str| json!({"driver": "d.example", "pool": "p", "device": name});
        let claim = |allocated: &[&str], told: &[&str]| {
            let results: Vec<Value> = allocated.iter().map(|name| device(name)).collect();
            let devices: Vec<Value> = told.iter().map(|name| device(name)).collect();
            json!({"status": {"allocation": {"devices": {"results": results}}, "devices": devices}})
        };
        let old = claim(&["a", "b"], &["a", "b"]);
        let mut fewer = claim(&["b"], &["a", "b", "stranger"]);
        forget_released(&mut fewer, &old);
        // What never was allocated is for the rules to refuse.
        assert_eq!(fewer, claim(&["b"], &["b", "stranger"]));
        let mut none = json!({"status": {"devices": [device("a"), device("b")]}});
        forget_released(&mut none, &old);
        assert_eq!(none, json!({"status": {}}));
    }
}
