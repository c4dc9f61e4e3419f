//! Slices of devices: what drivers say that nodes have.

use super::devices::{all, binding_conditions, name_with_domain, pool_name, set, taint};
use super::pods::{affinity, volumes};
use super::{Changes, Generation, PLAIN, Strategy, default, items, items_mut};
use crate::registry::timestamp;
use api::quantity::Amount;
use api::validate::{At, dns_label, dns_subdomain};
use serde_json::Value;

/// Limits (`pkg/apis/resource/types.go`).
const MOST_DEVICES: usize = 128;
const MOST_DEVICES_WITH_MORE: usize = 64;
const MOST_COUNTER_SETS: usize = 8;
const MOST_COUNTERS: usize = 32;
const MOST_CONSUMPTIONS: usize = 2;
const MOST_PROPERTIES: usize = 32;
const MOST_VALUES: usize = 48;
const MOST_TAINTS: usize = 16;
const LONGEST_VALUE: usize = 64;

pub(super) const SLICE: Strategy = Strategy {
    default: |slice| {
        let Some(spec) = slice.get_mut("spec") else { return };
        for device in items_mut(spec, "devices") {
            items_mut(device, "taints").for_each(|taint| default(taint, "timeAdded", timestamp()));
            let mappings = device.get_mut("nodeAllocatableResourceMappings").and_then(Value::as_object_mut);
            for mapping in mappings.into_iter().flat_map(|all| all.values_mut()) {
                default(mapping, "allocationMultiplier", "1");
            }
        }
    },
    validate: |new| slice(&new.get("spec"), None),
    validate_update: |new, old| slice(&new.get("spec"), Some(&old["spec"])),
    changes: Changes::Only,
    generation: Generation::Counted,
    ..PLAIN
};

/// The ways to say where devices are, of which one is to be chosen.
fn places(at: &At, flags: &[&'static str]) -> Vec<String> {
    let mut set = Vec::new();
    let node = at.get("nodeName");
    if node.present() {
        match node.text() {
            "" if flags.len() == 1 => node.invalid("must not be empty"),
            "" => node.invalid("must be either unset or set to a non-empty string"),
            _ => {
                set.push("`nodeName`".to_owned());
                node.named(dns_subdomain);
            }
        }
    }
    at.on("nodeSelector", |selector| {
        set.push("`nodeSelector`".to_owned());
        affinity::node_selector(selector);
    });
    for flag in flags {
        match at.get(flag).value() {
            Value::Bool(true) => set.push(format!("`{flag}`")),
            Value::Bool(false) => at.get(flag).invalid("must be either unset or set to true"),
            _ => {}
        }
    }
    set
}

fn slice(spec: &At, old: Option<&Value>) {
    const ONE: &str =
        "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required";
    volumes::csi_driver(&spec.get("driver"));
    let pool = spec.get("pool");
    pool_name(&pool.get("name"));
    let count = pool.get("resourceSliceCount");
    if count.int() <= 0 {
        count.invalid_as(count.int(), "must be greater than zero");
    }
    if pool.get("generation").int() < 0 {
        pool.get("generation").invalid("must be greater than or equal to zero");
    }
    if let Some(old) = old {
        spec.unchanged_fields(old, &["pool.name", "driver"]);
        let node = spec.get("nodeName");
        if *node.value() != old["nodeName"] {
            node.invalid("field is immutable");
        }
    }
    let chosen = places(spec, &["allNodes", "perDeviceNodeSelection"]);
    let terms = spec.get("nodeSelector.nodeSelectorTerms");
    if spec.get("nodeSelector").present() && terms.items().len() != 1 {
        terms.invalid("must have exactly one node selector term");
    }
    match chosen.len() {
        0 => spec.required(ONE),
        1 => {}
        _ => spec
            .invalid_as(format!("{{{}}}", chosen.join(", ")), format!("{ONE}, but multiple fields are set")),
    }
    if spec.get("sharedCounters").present() && spec.get("devices").present() {
        spec.invalid_as("", "only one of `sharedCounters` or `devices` is allowed");
    }
    let lists = |device: &Value| {
        let attributes = device["attributes"].as_object().into_iter().flatten();
        attributes.into_iter().any(|(_, value)| LISTS.iter().any(|(field, _)| !value[*field].is_null()))
    };
    let more = |device: &Value| {
        device["taints"].is_array() || device["consumesCounters"].is_array() || lists(device)
    };
    let extended = spec.get("devices").items().iter().any(more);
    let most = if extended { MOST_DEVICES_WITH_MORE } else { MOST_DEVICES };
    let per_device = spec.get("perDeviceNodeSelection").yes();
    set(&spec.get("devices"), most, "name", |one| {
        let before = items(old.unwrap_or(&Value::Null), "devices");
        let before = before.iter().find(|other| other["name"] == one.value()["name"]);
        device(one, before, per_device);
    });
    set(&spec.get("sharedCounters"), MOST_COUNTER_SETS, "name", |counters_of| {
        counters_of.get("name").need_named(dns_label);
        counters(&counters_of.get("counters"));
    });
}

fn counters(at: &At) {
    if at.empty() {
        return at.required("");
    }
    at.no_more_than(MOST_COUNTERS);
    at.entries(|name, _| at.named_as(name, dns_label));
}

fn device(at: &At, old: Option<&Value>, per_device: bool) {
    const ONE: &str = "exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when `perDeviceNodeSelection` is set to true in the ResourceSlice spec";
    at.get("name").named(dns_label);
    properties(at);
    if old.is_none_or(|old| old["taints"] != at.value()["taints"]) {
        all(&at.get("taints"), MOST_TAINTS, taint);
    }
    set(&at.get("consumesCounters"), MOST_CONSUMPTIONS, "counterSet", |one| {
        one.get("counterSet").need_named(dns_label);
        counters(&one.get("counters"));
    });
    let given = ["nodeName", "nodeSelector", "allNodes"].iter().any(|field| at.get(field).present());
    if per_device {
        let chosen = places(at, &["allNodes"]);
        match chosen.len() {
            0 => at.required(ONE),
            1 => {}
            _ => at.invalid_as(format!("{{{}}}", chosen.join(", ")), ONE),
        }
    } else if given {
        at.invalid_as(
            Value::Null,
            "`nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set to true in the ResourceSlice spec",
        );
    }
    binding_conditions(at);
    at.get("nodeAllocatableResourceMappings").entries(|name, mapping| {
        if !api::demand::is_native(name) {
            mapping.invalid_as(name, "must be a node allocatable resource name");
        }
        let multiplier = mapping.get("allocationMultiplier");
        if multiplier.present() && multiplier.quantity() <= Amount::units(0) {
            multiplier.invalid("must be positive");
        }
        mapping.on("capacityKey", |key| match key.text() {
            "" => key.invalid("capacityKey must not be an empty string"),
            text if at.value()["capacity"][text].is_null() => key.not_found(),
            _ => {}
        });
    });
}

/// Lists of values that an attribute may have, and the fields for one value.
const LISTS: [(&str, &str); 4] =
    [("bools", "bool"), ("ints", "int"), ("strings", "string"), ("versions", "version")];

fn properties(at: &At) {
    let count = |field: &str| at.value()[field].as_object().map_or(0, serde_json::Map::len);
    let properties = count("attributes") + count("capacity");
    if properties > MOST_PROPERTIES {
        let detail =
            format!("the total number of attributes and capacities must not exceed {MOST_PROPERTIES}");
        at.invalid_as(properties, detail);
    }
    let attributes = at.value()["attributes"].as_object().into_iter().flatten();
    let values: usize = attributes
        .map(|(_, value)| LISTS.iter().map(|(list, _)| items(value, list).len()).sum::<usize>().max(1))
        .sum();
    if values > MOST_VALUES {
        at.invalid_as(values, format!("the total number of attribute values must not exceed {MOST_VALUES}"));
    }
    let attributes = at.get("attributes");
    attributes.entries(|name, value| {
        name_with_domain(&attributes, name);
        attribute(value);
    });
    let (capacity, shared) = (at.get("capacity"), at.get("allowMultipleAllocations").yes());
    capacity.entries(|name, amount| {
        name_with_domain(&capacity, name);
        let policy = amount.get("requestPolicy");
        if policy.present() && !shared {
            policy.forbidden("allowMultipleAllocations must be true");
        } else if policy.present() {
            request_policy(&policy, &amount.get("value"));
        }
    });
}

fn attribute(at: &At) {
    for (list, one) in LISTS {
        at.on(one, |value| attribute_value(value, one));
        at.on(list, |values| values.each(|value| attribute_value(value, one)));
    }
    let given = LISTS.iter().filter(|(list, one)| at.get(list).present() || at.get(one).present()).count();
    match given {
        0 => at.invalid_as("", "exactly one value must be specified"),
        1 => {}
        _ => at.invalid_type("api.resource.v1.DeviceAttribute", "exactly one value must be specified"),
    }
}

fn attribute_value(at: &At, kind: &str) {
    if kind == "version" && !is_semantic(at.text()) {
        at.invalid("must be a string compatible with semver.org spec 2.0.0");
    }
    at.no_longer_than(LONGEST_VALUE);
}

/// A version by semver.org.
fn is_semantic(text: &str) -> bool {
    let words = |text: &str, numeric: bool| {
        text.split('.').all(|word| {
            let number = word.bytes().all(|b| b.is_ascii_digit());
            !word.is_empty()
                && word.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
                && !(numeric && number && word.len() > 1 && word.starts_with('0'))
        })
    };
    let (text, build) = text.split_once('+').map_or((text, None), |(text, build)| (text, Some(build)));
    let (core, before) = text.split_once('-').map_or((text, None), |(core, before)| (core, Some(before)));
    core.split('.').count() == 3
        && words(core, true)
        && core.bytes().all(|b| b.is_ascii_digit() || b == b'.')
        && before.is_none_or(|before| words(before, true))
        && build.is_none_or(|build| words(build, false))
}

fn request_policy(policy: &At, capacity: &At) {
    let (usual, values, range) = (policy.get("default"), policy.get("validValues"), policy.get("validRange"));
    match (values.empty(), range.present()) {
        (false, true) => policy.forbidden(
            "exactly one policy can be specified, cannot specify \"validValues\" and \"validRange\" at the same time",
        ),
        (false, false) if !usual.present() => usual.required("required when validValues is defined"),
        (true, true) if !usual.present() => usual.required("required when validRange is defined"),
        (false, false) => valid_values(&values, &usual, capacity),
        (true, true) => valid_range(&range, &usual, capacity),
        (true, false) => {}
    }
}

fn valid_values(values: &At, usual: &At, capacity: &At) {
    let amount = |value: &Value| api::quantity::parse(value.as_str().unwrap_or_default()).ok();
    for (index, pair) in values.items().windows(2).enumerate() {
        if amount(&pair[0]) > amount(&pair[1]) {
            values.index(index + 1).invalid("values must be sorted in ascending order");
        }
    }
    set(values, 10, "", |value| {
        if value.quantity() > capacity.quantity() {
            value.invalid(format!("option is larger than capacity value: {}", capacity.text()));
        }
    });
    if !values.items().iter().any(|value| amount(value) == Some(usual.quantity())) {
        values.invalid_as(usual.text(), "default value is not valid according to the requestPolicy");
    }
}

fn valid_range(range: &At, usual: &At, capacity: &At) {
    let (least, most, step) = (range.get("min"), range.get("max"), range.get("step"));
    if !least.present() {
        return least.required("required when validRange is defined");
    }
    let (whole, low, own) = (capacity.quantity(), least.quantity(), usual.quantity());
    if low > whole {
        least.invalid(format!("min is larger than capacity value: {}", capacity.text()));
    }
    if own < low {
        least.invalid_as(usual.text(), format!("default is less than min: {}", least.text()));
    }
    if most.present() {
        if low > most.quantity() {
            most.invalid_as(least.text(), format!("min is larger than max: {}", most.text()));
        }
        if most.quantity() > whole {
            most.invalid(format!("max is larger than capacity value: {}", capacity.text()));
        }
        if own > most.quantity() {
            most.invalid_as(usual.text(), format!("default is more than max: {}", most.text()));
        }
    }
    let unit = step.quantity().to_units();
    if unit != 0 {
        for value in [usual, &most].into_iter().filter(|value| value.present()) {
            if (value.quantity().to_units() - low.to_units()) % unit != 0 {
                let (step_text, least) = (step.text(), least.text());
                let detail = format!("value is not a multiple of a given step ({step_text}) from ({least})");
                step.invalid_as(value.text(), detail);
            }
        }
    }
}
