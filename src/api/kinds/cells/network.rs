//! The cells of services, endpoints and ingresses.

use super::{Of, at, items, or_none, some_of, text};
use serde_json::Value;
use std::collections::BTreeSet;

pub(in super::super) fn endpoints(of: &Of<'_>) -> Value {
    let mut all = Vec::new();
    for subset in of.items("subsets") {
        let addresses = items(subset, "addresses").iter().map(|address| text(address, "ip"));
        match items(subset, "ports") {
            [] => all.extend(addresses.map(str::to_owned)),
            ports => {
                for port in ports {
                    let port = at(port, "port");
                    all.extend(addresses.clone().map(|ip| {
                        if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") }
                    }));
                }
            }
        }
    }
    some_of(all, 3, ",")
}

pub(in super::super) fn service_external(of: &Of<'_>) -> Value {
    let mut addresses = match of.text("spec.type") {
        "LoadBalancer" => balancer_addresses(of),
        "ExternalName" => return of.or("spec.externalName", ""),
        _ => Vec::new(),
    };
    addresses.extend(of.items("spec.externalIPs").iter().filter_map(Value::as_str).map(str::to_owned));
    match (addresses.is_empty(), of.text("spec.type")) {
        (true, "LoadBalancer") => Value::from("<pending>"),
        _ => or_none(addresses.join(",")),
    }
}

pub(in super::super) fn service_ports(of: &Of<'_>) -> Value {
    let ports = of.items("spec.ports").iter().map(|port| {
        let (number, protocol) = (at(port, "port"), text(port, "protocol"));
        match at(port, "nodePort").as_i64() {
            Some(node_port) if node_port > 0 => format!("{number}:{node_port}/{protocol}"),
            _ => format!("{number}/{protocol}"),
        }
    });
    or_none(ports.collect::<Vec<_>>().join(","))
}

pub(in super::super) fn ingress_hosts(of: &Of<'_>) -> Value {
    let hosts: Vec<String> = of
        .items("spec.rules")
        .iter()
        .map(|rule| text(rule, "host").to_owned())
        .filter(|host| !host.is_empty())
        .collect();
    if hosts.is_empty() { Value::from("*") } else { some_of(hosts, 3, ",") }
}

pub(in super::super) fn ingress_address(of: &Of<'_>) -> Value {
    Value::from(balancer_addresses(of).join(","))
}

pub(in super::super) fn ingress_ports(of: &Of<'_>) -> Value {
    Value::from(if of.items("spec.tls").is_empty() { "80" } else { "80, 443" })
}

pub(in super::super) fn address_parent(of: &Of<'_>) -> Value {
    let parent = at(of.object, "spec.parentRef");
    let resource = match text(parent, "group") {
        "" => text(parent, "resource").to_owned(),
        group => format!("{}.{group}", text(parent, "resource")),
    };
    let place = match text(parent, "namespace") {
        "" => String::new(),
        namespace => format!("{namespace}/"),
    };
    if parent.is_null() {
        Value::from("<none>")
    } else {
        Value::from(format!("{resource}/{place}{}", text(parent, "name")))
    }
}

pub(in super::super) fn class_parameters(of: &Of<'_>) -> Value {
    let parameters = at(of.object, "spec.parameters");
    let kind = match text(parameters, "apiGroup") {
        "" => text(parameters, "kind").to_owned(),
        group => format!("{}.{group}", text(parameters, "kind")),
    };
    if parameters.is_null() {
        Value::from("<none>")
    } else {
        Value::from(format!("{kind}/{}", text(parameters, "name")))
    }
}

pub(in super::super) fn slice_ports(of: &Of<'_>) -> Value {
    let ports = of.items("ports").iter().map(|port| match (at(port, "port").as_i64(), text(port, "name")) {
        (Some(number), _) => number.to_string(),
        (None, "") => "*".to_owned(),
        (None, name) => name.to_owned(),
    });
    let ports: Vec<String> = ports.collect();
    if ports.is_empty() { Value::from("<unset>") } else { some_of(ports, 3, ",") }
}

pub(in super::super) fn slice_endpoints(of: &Of<'_>) -> Value {
    let all: Vec<String> = of
        .items("endpoints")
        .iter()
        .flat_map(|endpoint| items(endpoint, "addresses"))
        .filter_map(|address| address.as_str().map(str::to_owned))
        .collect();
    if all.is_empty() { Value::from("<unset>") } else { some_of(all, 3, ",") }
}

fn balancer_addresses(of: &Of<'_>) -> Vec<String> {
    let addresses: BTreeSet<String> = of
        .items("status.loadBalancer.ingress")
        .iter()
        .map(|entry| {
            Some(text(entry, "ip"))
                .filter(|ip| !ip.is_empty())
                .unwrap_or_else(|| text(entry, "hostname"))
                .to_owned()
        })
        .filter(|address| !address.is_empty())
        .collect();
    addresses.into_iter().collect()
}
