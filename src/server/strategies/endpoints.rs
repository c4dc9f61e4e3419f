//! Endpoints, endpoint slices, events.

use super::{Changes, Generation, PLAIN, Strategy, default, default_zero, items_mut, services};
use api::validate::{
    At, Error, dns_label, dns_subdomain, label_value, labels, legacy_ip, lenient_ip, path_segment,
    qualified_name, strict_ip,
};
use serde_json::{Value, json};
use std::collections::HashSet;

const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];

pub(super) const ENDPOINTS: Strategy = Strategy {
    default: |endpoints| {
        for subset in items_mut(endpoints, "subsets") {
            items_mut(subset, "ports").for_each(|port| default_zero(port, "protocol", "TCP"));
        }
    },
    validate: |endpoints| subsets(&endpoints.get("subsets")),
    validate_update: |new, old| {
        if *new.get("subsets").value() != old["subsets"] {
            subsets(&new.get("subsets"));
        }
    },
    changes: Changes::Only,
    ..PLAIN
};

fn subsets(list: &At) {
    list.each(|subset| {
        let (ready, other, ports) =
            (subset.get("addresses"), subset.get("notReadyAddresses"), subset.get("ports"));
        if ready.empty() && other.empty() {
            subset.required("must specify `addresses` or `notReadyAddresses`");
        }
        ready.each(address);
        other.each(address);
        ports.each(|port| {
            let name = port.get("name");
            if !name.empty() {
                name.named(dns_label);
            } else if ports.items().len() > 1 {
                name.required("");
            }
            port.get("port").port();
            port.get("protocol").need_one_of(&PROTOCOLS);
            port.on("appProtocol", |name| name.named(qualified_name));
        });
    });
}

fn address(at: &At) {
    let ip = at.get("ip");
    ip.named(legacy_ip);
    at.get("hostname").named_if_set(dns_label);
    at.on("nodeName", |name| name.named(dns_subdomain));
    services::endpoint_ip(&ip);
}

const MOST_ENDPOINTS: usize = 1000;
const MOST_ADDRESSES: usize = 100;
const MOST_PORTS: usize = 20000;
const MOST_HINTS: usize = 8;

pub(super) const ENDPOINT_SLICE: Strategy = Strategy {
    generation: Generation::Counted,
    default: |slice| {
        for port in items_mut(slice, "ports") {
            default(port, "name", "");
            default(port, "protocol", "TCP");
        }
    },
    validate: |slice| {
        slice.get("addressType").need_one_of(&["FQDN", "IPv4", "IPv6"]);
        let mut seen = HashSet::new();
        slice.get("ports").no_more_than(MOST_PORTS);
        slice.get("ports").each(|port| {
            port.get("name").named_if_set(dns_label);
            port.get("name").unique(&mut seen);
            port.get("protocol").one_of(&PROTOCOLS);
            port.on("appProtocol", |name| name.named(qualified_name));
        });
        let endpoints = slice.get("endpoints");
        endpoints.no_more_than(MOST_ENDPOINTS);
        endpoints.each(|one| endpoint(one, slice.get("addressType").text()));
    },
    validate_update: |new, old| new.unchanged_fields(old, &["addressType"]),
    // Whose slice it is stands in its labels: another service is another desire.
    prepare_update: |new, old| {
        if new["metadata"]["labels"] != old["metadata"]["labels"] {
            let generation = old["metadata"]["generation"].as_i64().unwrap_or(0) + 1;
            new["metadata"]["generation"] = generation.into();
        }
    },
    ..PLAIN
};

fn endpoint(at: &At, family: &str) {
    let addresses = at.get("addresses");
    addresses.need_because("must contain at least 1 address");
    addresses.no_more_than(MOST_ADDRESSES);
    addresses.each(|one| {
        let before = one.errors();
        match family {
            "IPv4" => one.named(legacy_ip),
            "IPv6" => one.named(strict_ip),
            "FQDN" => return fully_qualified(one),
            _ => return,
        }
        if one.errors() != before {
            return;
        }
        if lenient_ip(one.text()).is_some_and(|ip| ip.is_ipv4()) != (family == "IPv4") {
            addresses.invalid_as(one.text(), format!("must be an {family} address"));
        }
        services::endpoint_ip(one);
    });
    at.on("nodeName", |name| name.named(dns_subdomain));
    at.get("deprecatedTopology").no_more_than(16);
    labels(&at.get("deprecatedTopology"));
    at.on("hostname", |name| name.named(dns_label));
    for (field, rule) in [("forZones", label_value as api::validate::Rule), ("forNodes", dns_subdomain)] {
        let hints = at.get("hints");
        let list = hints.get(field);
        let mut seen = HashSet::new();
        list.no_more_than(MOST_HINTS);
        list.each(|hint| {
            hint.get("name").unique(&mut seen);
            hint.get("name").named(rule);
        });
    }
}

fn fully_qualified(at: &At) {
    if !at.need() {
        return;
    }
    let name = at.text().strip_suffix('.').unwrap_or(at.text());
    let problems = dns_subdomain(name);
    if !problems.is_empty() {
        at.invalid_as(name, problems.join(","));
    } else if !name.contains('.') {
        at.invalid_as(name, "should be a domain with at least two segments separated by dots");
    }
}

/// The most of a regarding controller's name, action, reason and note.
const MOST_NAME: usize = 128;
const MOST_NOTE: usize = 1024;

pub(super) const EVENT: Strategy = Strategy {
    name_rule: path_segment,
    default: |event| {
        default(event, "metadata", json!({}));
        // Both texts are written whatever they say.
        default(event, "reportingComponent", "");
        default(event, "reportingInstance", "");
        // So are times without a value.
        for time in ["eventTime", "firstTimestamp", "lastTimestamp"] {
            default(event, time, Value::Null);
        }
    },
    validate: |event| {
        let (own, of) = (event.get("metadata.namespace").text(), event.get("involvedObject.namespace"));
        let mismatch = "does not match event.namespace";
        if !event.get("eventTime").present() {
            if of.text() != own && !(of.empty() && matches!(own, "" | "default")) {
                of.invalid_as(of.text(), mismatch);
            }
            return;
        }
        if of.empty() && !matches!(own, "default" | "kube-system") {
            of.invalid_as("", mismatch);
        }
        let controller = event.get("reportingComponent");
        controller.need();
        controller.named(qualified_name);
        for (field, most) in [
            ("reportingInstance", MOST_NAME),
            ("action", MOST_NAME),
            ("reason", MOST_NAME),
            ("message", MOST_NOTE),
        ] {
            let text = event.get(field);
            if field != "message" {
                text.need();
            }
            if text.text().len() > most {
                text.report(|path| Error::invalid(path, "", format!("can have at most {most} characters")));
            }
        }
    },
    validate_update: |_, _: &Value| {},
    ..PLAIN
};
