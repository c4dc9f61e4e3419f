//! The rules of object metadata, labels, label selectors and conditions.

use super::{At, Rule, condition_reason, dns_label, label_value, qualified_name};
use serde_json::Value;

/// The most bytes all annotations of an object may have together.
const ANNOTATION_BYTES: usize = 256 << 10;
/// The most bytes of a condition's reason and message.
const REASON_BYTES: usize = 1 << 10;
const MESSAGE_BYTES: usize = 32 << 10;

/// A label's key.
pub fn label_name(at: &At) {
    at.named(qualified_name);
}

/// A map of labels.
pub fn labels(at: &At) {
    for (key, value) in at.value().as_object().into_iter().flatten() {
        at.named_as(key, qualified_name);
        at.named_as(value.as_str().unwrap_or_default(), label_value);
    }
}

/// A map of annotations.
fn annotations(at: &At) {
    let mut size = 0;
    for (key, value) in at.value().as_object().into_iter().flatten() {
        for problem in qualified_name(&key.to_ascii_lowercase()) {
            at.invalid_as(key.as_str(), problem);
        }
        size += key.len() + value.as_str().map_or(0, str::len);
    }
    if size > ANNOTATION_BYTES {
        at.report(|path| super::Error::too_long(path, ANNOTATION_BYTES));
    }
}

/// The rules of `metadata`; `name_rule` says what is wrong with a name of this kind.
pub fn object_meta(meta: &At, namespaced: bool, name_rule: Rule) {
    let base = meta.get("generateName");
    if !base.empty() {
        for problem in name_rule(&super::format::masked(base.text())) {
            base.invalid(problem);
        }
    }
    let name = meta.get("name");
    if name.need_because("name or generateName is required") {
        name.named(name_rule);
    }
    let namespace = meta.get("namespace");
    if namespaced {
        namespace.need_named(dns_label);
    } else if !namespace.empty() {
        namespace.forbidden("not allowed on this type");
    }
    labels(&meta.get("labels"));
    annotations(&meta.get("annotations"));
    owners(&meta.get("ownerReferences"));
    finalizers(&meta.get("finalizers"));
}

/// What must not change in `metadata`.
pub fn object_meta_update(meta: &At, old: &Value) {
    let added = || {
        let before = old["finalizers"].as_array().map_or(&[][..], Vec::as_slice);
        let new = meta.get("finalizers").items().iter().filter(|one| !before.contains(one));
        new.map(ToString::to_string).collect::<Vec<String>>()
    };
    if !old["deletionTimestamp"].is_null() {
        let added = added();
        if !added.is_empty() {
            meta.get("finalizers").forbidden(format!(
                "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                added.join(", ")
            ));
        }
    }
    let fields =
        ["name", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"];
    meta.unchanged_fields(old, &fields);
}

/// The metadata of a template, which has labels and annotations only.
pub fn template_meta(meta: &At) {
    labels(&meta.get("labels"));
    annotations(&meta.get("annotations"));
}

fn finalizers(at: &At) {
    let both = ["orphan", "foregroundDeletion"];
    at.items().iter().filter_map(Value::as_str).for_each(|one| at.named_as(one, qualified_name));
    if both.iter().all(|one| at.items().iter().any(|item| item == one)) {
        at.invalid("finalizer orphan and foregroundDeletion cannot be both set");
    }
}

fn owners(at: &At) {
    let mut controller: Option<String> = None;
    for owner in at.items() {
        let text = |field: &str| owner[field].as_str().unwrap_or_default();
        let owner_at = at.with(owner);
        if text("apiVersion").is_empty() {
            owner_at.get("apiVersion").invalid_as("", "version must not be empty");
        }
        for field in ["kind", "name", "uid"] {
            if text(field).is_empty() {
                owner_at.get(field).invalid_as("", "must not be empty");
            }
        }
        if (text("apiVersion"), text("kind")) == ("v1", "Event") {
            at.invalid_as(owner.clone(), "/v1, Kind=Event is disallowed from being an owner");
        }
        if owner["controller"] == true {
            let this = format!("{}/{}", text("kind"), text("name"));
            match &controller {
                Some(first) => at.invalid(format!(
                    "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {this}"
                )),
                None => controller = Some(this),
            }
        }
    }
}

/// A `LabelSelector`.
pub fn label_selector(at: &At) {
    labels(&at.get("matchLabels"));
    at.get("matchExpressions").each(|expression| {
        let (operator, values) = (expression.get("operator"), expression.get("values"));
        match operator.text() {
            "In" | "NotIn" => {
                values.need_because("must be specified when `operator` is 'In' or 'NotIn'");
            }
            "Exists" | "DoesNotExist" if !values.empty() => {
                values.forbidden("may not be specified when `operator` is 'Exists' or 'DoesNotExist'");
            }
            "Exists" | "DoesNotExist" => {}
            word => operator.invalid_as(word, "not a valid selector operator"),
        }
        label_name(&expression.get("key"));
        values.each(|value| value.named(label_value));
    });
}

/// Whether a `LabelSelector` selects a set of labels.
pub fn selects(selector: &Value, labels: &Value) -> bool {
    let has = |key: &str| labels.get(key).filter(|value| !value.is_null());
    let equal = selector["matchLabels"].as_object().into_iter().flatten();
    let mut equal = equal.map(|(key, value)| has(key) == Some(value));
    let expressions = selector["matchExpressions"].as_array().into_iter().flatten();
    let mut holds = expressions.map(|expression| {
        let value = has(expression["key"].as_str().unwrap_or_default());
        let values = expression["values"].as_array().map_or(&[][..], Vec::as_slice);
        match expression["operator"].as_str().unwrap_or_default() {
            "In" => value.is_some_and(|value| values.contains(value)),
            "NotIn" => value.is_none_or(|value| !values.contains(value)),
            "Exists" => value.is_some(),
            _ => value.is_none(),
        }
    });
    equal.all(|holds| holds) && holds.all(|holds| holds)
}

/// A list of conditions (`meta/v1 Condition`).
pub fn conditions(at: &At) {
    let mut seen = std::collections::HashSet::new();
    at.each(|item| {
        item.get("type").unique(&mut seen);
        condition(item);
    });
}

/// One condition (`meta/v1 Condition`).
pub fn condition(at: &At) {
    label_name(&at.get("type"));
    at.get("status").one_of(&["False", "True", "Unknown"]);
    let generation = at.get("observedGeneration");
    if generation.int() < 0 {
        generation.invalid("must be greater than or equal to zero");
    }
    at.get("lastTransitionTime").need();
    let reason = at.get("reason");
    reason.need_named(condition_reason);
    reason.no_longer_than(REASON_BYTES);
    at.get("message").no_longer_than(MESSAGE_BYTES);
}
