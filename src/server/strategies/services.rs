//! Services.

use super::{Errors, PLAIN, Strategy, default, items, items_mut, names, text};
use api::validate::{Error, Path, dns_label, dns_subdomain, rfc1035_label};
use serde_json::{Value, json};
use std::collections::HashSet;

pub(super) const SERVICE: Strategy = Strategy {
    name_rule: rfc1035_label,
    default: |service| {
        if let Some(spec) = service.get_mut("spec") {
            default_spec(spec);
        }
    },
    prepare_create: |service| service["status"] = json!({"loadBalancer": {}}),
    prepare_update,
    validate,
    validate_update: |new, old, errors| {
        let (new, old) = (&new["spec"], &old["spec"]);
        let stays = text(new, "type") != "ExternalName" && text(old, "type") != "ExternalName";
        if stays && new["clusterIP"] != old["clusterIP"] {
            let path = Path::new("spec").child("clusterIPs").index(0);
            errors.push(Error::invalid(&path, items(new, "clusterIPs").to_vec(), "may not change once set"));
        }
    },
    status_labels: true,
    ..PLAIN
};

fn default_spec(spec: &mut Value) {
    default(spec, "type", "ClusterIP");
    default(spec, "sessionAffinity", "None");
    if text(spec, "sessionAffinity") == "ClientIP" {
        default(spec, "sessionAffinityConfig", json!({"clientIP": {"timeoutSeconds": 10800}}));
    } else if let Some(fields) = spec.as_object_mut() {
        fields.remove("sessionAffinityConfig");
    }
    for port in items_mut(spec, "ports") {
        default(port, "protocol", "TCP");
        let number = port["port"].clone();
        let target = &port["targetPort"];
        if target.is_null() || *target == 0 || *target == "" {
            port["targetPort"] = number;
        }
    }
    let kind = text(spec, "type").to_owned();
    if kind != "ExternalName" {
        default(spec, "internalTrafficPolicy", "Cluster");
        default(spec, "ipFamilyPolicy", "SingleStack");
        default(spec, "ipFamilies", json!(["IPv4"]));
    }
    if matches!(kind.as_str(), "NodePort" | "LoadBalancer") {
        default(spec, "externalTrafficPolicy", "Cluster");
    }
    if kind == "LoadBalancer" {
        default(spec, "allocateLoadBalancerNodePorts", true);
    }
}

/// What a writer leaves out stays as it was: addresses and node ports are not lost by an apply.
fn prepare_update(new: &mut Value, old: &Value) {
    let before = &old["spec"];
    let Some(spec) = new.get_mut("spec") else { return };
    if text(spec, "type") == "ExternalName" {
        if text(before, "type") != "ExternalName"
            && let Some(fields) = spec.as_object_mut()
        {
            fields.retain(|name, _| !matches!(name.as_str(), "clusterIP" | "clusterIPs"));
        }
        return;
    }
    for field in ["clusterIP", "clusterIPs"] {
        if !before[field].is_null() {
            default(spec, field, before[field].clone());
        }
    }
    if !matches!(text(spec, "type"), "NodePort" | "LoadBalancer") {
        return;
    }
    let ports = items(before, "ports").to_vec();
    for port in items_mut(spec, "ports") {
        let same =
            ports.iter().find(|old| old["port"] == port["port"] && old["protocol"] == port["protocol"]);
        if let Some(node_port) = same.map(|old| &old["nodePort"]).filter(|node_port| !node_port.is_null()) {
            default(port, "nodePort", node_port.clone());
        }
    }
}

const TYPES: [&str; 4] = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];

fn validate(service: &Value, errors: &mut Errors) {
    let (spec, path) = (&service["spec"], Path::new("spec"));
    names::one_of(&spec["type"], &path.child("type"), &TYPES, errors);
    names::one_of(&spec["sessionAffinity"], &path.child("sessionAffinity"), &["ClientIP", "None"], errors);
    let external = text(spec, "type") == "ExternalName";
    if external {
        match text(spec, "externalName") {
            "" => errors.push(Error::required(&path.child("externalName"), "")),
            name => errors.extend(
                dns_subdomain(name.trim_end_matches('.'))
                    .into_iter()
                    .map(|problem| Error::invalid(&path.child("externalName"), name, problem)),
            ),
        }
    }
    let headless = text(spec, "clusterIP") == "None";
    if items(spec, "ports").is_empty() && !headless && !external {
        errors.push(Error::required(&path.child("ports"), ""));
    }
    if headless && text(spec, "type") == "LoadBalancer" {
        errors.push(Error::invalid(
            &path.child("clusterIPs").index(0),
            "None",
            "may not be set to 'None' for LoadBalancer services",
        ));
    }
    ports(spec, &path, errors);
    if !spec["internalTrafficPolicy"].is_null() {
        names::one_of(
            &spec["internalTrafficPolicy"],
            &path.child("internalTrafficPolicy"),
            &["Cluster", "Local"],
            errors,
        );
    }
    if !spec["externalTrafficPolicy"].is_null() {
        names::one_of(
            &spec["externalTrafficPolicy"],
            &path.child("externalTrafficPolicy"),
            &["Cluster", "Local"],
            errors,
        );
        if !matches!(text(spec, "type"), "NodePort" | "LoadBalancer") && items(spec, "externalIPs").is_empty()
        {
            let detail = "may only be set for externally-accessible services";
            errors.push(Error::invalid(
                &path.child("externalTrafficPolicy"),
                text(spec, "externalTrafficPolicy"),
                detail,
            ));
        }
    }
    api::validate::labels(&spec["selector"], &path.child("selector"), errors);
}

fn ports(spec: &Value, path: &Path, errors: &mut Errors) {
    let ports = items(spec, "ports");
    let (mut port_names, mut numbers) = (HashSet::new(), HashSet::new());
    for (index, port) in ports.iter().enumerate() {
        let path = path.child("ports").index(index);
        let name = text(port, "name");
        if name.is_empty() && ports.len() > 1 {
            errors.push(Error::required(&path.child("name"), ""));
        } else if !name.is_empty() {
            errors.extend(
                dns_label(name).into_iter().map(|problem| Error::invalid(&path.child("name"), name, problem)),
            );
            if !port_names.insert(name) {
                errors.push(Error::duplicate(&path.child("name"), name));
            }
        }
        names::port(&port["port"], &path.child("port"), errors);
        names::one_of(&port["protocol"], &path.child("protocol"), &["SCTP", "TCP", "UDP"], errors);
        names::port_or_name(&port["targetPort"], &path.child("targetPort"), errors);
        if !numbers.insert((port["port"].to_string(), text(port, "protocol"))) {
            let same = json!({"protocol": port["protocol"], "port": port["port"]});
            errors.push(Error::duplicate(&path, same));
        }
        let node_port = port["nodePort"].as_i64().unwrap_or(0);
        if node_port != 0 && !matches!(text(spec, "type"), "NodePort" | "LoadBalancer") {
            errors.push(Error::forbidden(
                &path.child("nodePort"),
                "may not be used when `type` is 'ClusterIP'",
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_apply_without_addresses_keeps_them() {
        let old = json!({"spec": {"type": "NodePort", "clusterIP": "10.43.0.7", "clusterIPs": ["10.43.0.7"], "ports": [{"port": 80, "protocol": "TCP", "nodePort": 30080}]}});
        let mut new = json!({"spec": {"type": "NodePort", "ports": [{"port": 80, "targetPort": 8080}]}});
        (SERVICE.default)(&mut new);
        (SERVICE.prepare_update)(&mut new, &old);
        assert_eq!(
            (&new["spec"]["clusterIP"], &new["spec"]["ports"][0]["nodePort"]),
            (&json!("10.43.0.7"), &json!(30080))
        );
    }

    #[test]
    fn several_ports_need_names() {
        let mut service = json!({"spec": {"ports": [{"port": 80}, {"port": 81}]}});
        (SERVICE.default)(&mut service);
        let mut errors = Vec::new();
        validate(&service, &mut errors);
        assert_eq!(errors[0].to_string(), "spec.ports[0].name: Required value");
    }
}
