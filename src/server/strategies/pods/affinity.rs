//! Where pods want to be.

use api::validate::{At, dns_label, dns_subdomain, label_name, label_selector, label_value};
use std::collections::HashSet;

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

pub(super) fn validate(affinity: &At) {
    affinity.on("nodeAffinity", |nodes| {
        nodes.on(REQUIRED, node_selector);
        nodes.get(PREFERRED).each(|term| {
            weight(term);
            node_term(&term.get("preference"), false);
        });
    });
    for field in ["podAffinity", "podAntiAffinity"] {
        affinity.on(field, |pods| {
            pods.get(REQUIRED).each(pod_term);
            pods.get(PREFERRED).each(|term| {
                weight(term);
                pod_term(&term.get("podAffinityTerm"));
            });
        });
    }
}

fn weight(term: &At) {
    let weight = term.get("weight");
    if !(1..=100).contains(&weight.int()) {
        weight.invalid_as(weight.int(), "must be in the range 1-100");
    }
}

/// A selector of nodes (`core/v1 NodeSelector`).
pub(in crate::strategies) fn node_selector(selector: &At) {
    let terms = selector.get("nodeSelectorTerms");
    if terms.need_because("must have at least one node selector term") {
        terms.each(|term| node_term(term, true));
    }
}

fn node_term(term: &At, values_too: bool) {
    term.get("matchExpressions").each(|expression| {
        let (operator, values) = (expression.get("operator"), expression.get("values"));
        match operator.text() {
            "In" | "NotIn" => {
                values.need_because("must be specified when `operator` is 'In' or 'NotIn'");
            }
            "Exists" | "DoesNotExist" if !values.empty() => {
                values.forbidden("may not be specified when `operator` is 'Exists' or 'DoesNotExist'");
            }
            "Gt" | "Lt" if values.items().len() != 1 => {
                values.required("must be specified single value when `operator` is 'Lt' or 'Gt'");
            }
            "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
            word => operator.invalid_as(word, "not a valid selector operator"),
        }
        label_name(&expression.get("key"));
        if values_too {
            values.each(|value| value.named(label_value));
        }
    });
    term.get("matchFields").each(|field| {
        let (operator, values, key) = (field.get("operator"), field.get("values"), field.get("key"));
        match operator.text() {
            "In" | "NotIn" if values.items().len() != 1 => {
                values.required(
                    "must be only one value when `operator` is 'In' or 'NotIn' for node field selector",
                );
            }
            "In" | "NotIn" => {}
            word => operator.invalid_as(word, "not a valid selector operator"),
        }
        if key.is("metadata.name") {
            values.each(|value| value.named(dns_subdomain));
        } else {
            key.invalid_as(key.text(), "not a valid field selector key");
        }
    });
}

fn pod_term(term: &At) {
    label_selector(&term.get("labelSelector"));
    label_selector(&term.get("namespaceSelector"));
    let namespaces = term.get("namespaces");
    let shown = term.get("namespace");
    for name in namespaces.items().iter().filter_map(serde_json::Value::as_str) {
        shown.named_as(name, dns_label);
    }
    label_keys(term, &["matchLabelKeys", "mismatchLabelKeys"]);
    let key = term.get("topologyKey");
    key.need_because("can not be empty");
    label_name(&key);
}

/// Keys whose values are taken from the pod's own labels (`matchLabelKeys`).
pub(super) fn label_keys(term: &At, fields: &[&str]) {
    let selector = term.get("labelSelector");
    for field in fields {
        let keys = term.get(field);
        if keys.empty() {
            continue;
        }
        if selector.present() {
            keys.each(label_name);
        } else {
            keys.forbidden("must not be specified when labelSelector is not set");
        }
    }
    let matched = term.get("matchLabelKeys");
    let position = |key: &str| matched.items().iter().position(|one| one == key);
    let of_labels = selector.get("matchLabels");
    let mut seen: HashSet<&str> =
        of_labels.value().as_object().into_iter().flatten().map(|(key, _)| key.as_str()).collect();
    for expression in selector.get("matchExpressions").items() {
        let key = expression["key"].as_str().unwrap_or_default();
        if let Some(index) = position(key).filter(|_| seen.contains(key)) {
            term.index(index).invalid_as(key, "exists in both matchLabelKeys and labelSelector");
        }
        seen.insert(key);
    }
    let mismatched = term.get("mismatchLabelKeys");
    matched.each(|key| {
        if mismatched.items().contains(key.value()) {
            key.invalid("exists in both matchLabelKeys and mismatchLabelKeys");
        }
    });
}
