//! Services.

use super::{PLAIN, Strategy, default, default_zero, items, items_mut, text};
use api::validate::{
    At, Error, dns_label, dns_subdomain, labels, legacy_cidr, legacy_ip, lenient_ip, qualified_name,
};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::net::IpAddr;

pub(super) const SERVICE: Strategy = Strategy {
    name_rule: dns_label,
    default: |service| {
        if let Some(spec) = service.get_mut("spec") {
            default_spec(spec);
            if text(spec, "type") == "LoadBalancer" {
                let Some(balancer) = service.pointer_mut("/status/loadBalancer") else { return };
                for ingress in items_mut(balancer, "ingress").filter(|ingress| ingress["ip"].is_string()) {
                    default(ingress, "ipMode", "VIP");
                }
            }
        }
    },
    prepare_create: |service| {
        service["status"] = json!({"loadBalancer": {}});
        let address = service["spec"]["clusterIP"].clone();
        if address.as_str().is_some_and(|text| !text.is_empty()) {
            default(&mut service["spec"], "clusterIPs", json!([address]));
        }
    },
    prepare_update,
    validate: |service| validate(service, &Value::Null),
    validate_update: |new, old| {
        changes(&new.get("spec"), &old["spec"]);
        validate(new, old);
    },
    changes: super::Changes::Only,
    validate_status: |new, old| {
        let status = new.get("status.loadBalancer");
        balancer_status(&status, new.get("spec.type").is("LoadBalancer"), &old["status"]["loadBalancer"]);
    },
    status_meta: true,
    ..PLAIN
};

fn default_spec(spec: &mut Value) {
    default_zero(spec, "type", "ClusterIP");
    default_zero(spec, "sessionAffinity", "None");
    if text(spec, "sessionAffinity") == "ClientIP" {
        if spec.pointer("/sessionAffinityConfig/clientIP/timeoutSeconds").is_none() {
            spec["sessionAffinityConfig"] = json!({"clientIP": {"timeoutSeconds": 10800}});
        }
    } else if text(spec, "sessionAffinity") == "None" {
        remove(spec, &["sessionAffinityConfig"]);
    }
    for port in items_mut(spec, "ports") {
        default_zero(port, "protocol", "TCP");
        let number = if port["port"].is_null() { json!(0) } else { port["port"].clone() };
        default_zero(port, "targetPort", number);
    }
    let kind = text(spec, "type").to_owned();
    if matches!(kind.as_str(), "ClusterIP" | "NodePort" | "LoadBalancer") {
        default(spec, "internalTrafficPolicy", "Cluster");
    }
    if reached_from_outside(spec) {
        default_zero(spec, "externalTrafficPolicy", "Cluster");
    }
    if kind == "LoadBalancer" {
        default(spec, "allocateLoadBalancerNodePorts", true);
    }
}

fn remove(object: &mut Value, names: &[&str]) {
    if let Some(fields) = object.as_object_mut() {
        fields.retain(|name, _| !names.contains(&name.as_str()));
    }
}

fn reached_from_outside(spec: &Value) -> bool {
    matches!(text(spec, "type"), "NodePort" | "LoadBalancer")
        || (text(spec, "type") == "ClusterIP" && !items(spec, "externalIPs").is_empty())
}

fn has_node_ports(spec: &Value) -> bool {
    matches!(text(spec, "type"), "NodePort" | "LoadBalancer")
}

fn is_checked(spec: &Value) -> bool {
    text(spec, "type") == "LoadBalancer" && text(spec, "externalTrafficPolicy") == "Local"
}

/// What a writer leaves out stays as it was: addresses and node ports are not lost by an apply. What
/// only the old type had goes with it, unless the writer asks for it.
fn prepare_update(new: &mut Value, old: &Value) {
    let before = &old["spec"];
    let Some(spec) = new.get_mut("spec") else { return };
    let (external, was_external) =
        (text(spec, "type") == "ExternalName", text(before, "type") == "ExternalName");
    // Whoever changes the first address changes the list of them.
    if spec["clusterIPs"] == before["clusterIPs"] && spec["clusterIP"] != before["clusterIP"] {
        match text(spec, "clusterIP").to_owned().as_str() {
            "" => remove(spec, &["clusterIPs"]),
            address => spec["clusterIPs"] = json!([address]),
        }
    }
    if !external && !was_external {
        default_zero(spec, "clusterIP", before["clusterIP"].clone());
        if spec["clusterIP"] == before["clusterIP"] {
            default(spec, "clusterIPs", before["clusterIPs"].clone());
        }
    }
    if has_node_ports(spec) && has_node_ports(before) {
        keep_node_ports(spec, before);
    }
    if is_checked(spec) && is_checked(before) {
        default_zero(spec, "healthCheckNodePort", before["healthCheckNodePort"].clone());
    }
    let same = |spec: &Value, field: &str| spec[field] == before[field];
    let mut gone = Vec::new();
    if external && !was_external {
        if same(spec, "clusterIP") && same(spec, "clusterIPs") {
            gone.extend(["clusterIP", "clusterIPs"]);
        }
        gone.extend(["ipFamilies", "ipFamilyPolicy"].into_iter().filter(|field| same(spec, field)));
    }
    if is_checked(before) && !is_checked(spec) && same(spec, "healthCheckNodePort") {
        gone.push("healthCheckNodePort");
    }
    if text(before, "type") == "LoadBalancer" && text(spec, "type") != "LoadBalancer" {
        let fields = ["allocateLoadBalancerNodePorts", "loadBalancerClass"];
        gone.extend(fields.into_iter().filter(|field| same(spec, field)));
    }
    if reached_from_outside(before) && !reached_from_outside(spec) && same(spec, "externalTrafficPolicy") {
        gone.push("externalTrafficPolicy");
    }
    remove(spec, &gone);
    let numbers = |spec: &Value| -> HashSet<i64> {
        items(spec, "ports").iter().filter_map(|port| port["nodePort"].as_i64()).collect()
    };
    if has_node_ports(before) && !has_node_ports(spec) && numbers(before).is_superset(&numbers(spec)) {
        items_mut(spec, "ports").for_each(|port| remove(port, &["nodePort"]));
    }
    for field in ["clusterIP", "clusterIPs", "healthCheckNodePort"] {
        if spec[field].is_null() {
            remove(spec, &[field]);
        }
    }
    if text(spec, "type") != "LoadBalancer" {
        new["status"]["loadBalancer"] = json!({});
    }
}

fn keep_node_ports(spec: &mut Value, before: &Value) {
    let ports = items(before, "ports").to_vec();
    let taken: HashSet<i64> =
        items(spec, "ports").iter().filter_map(|port| port["nodePort"].as_i64()).collect();
    for port in items_mut(spec, "ports") {
        let same =
            ports.iter().find(|old| old["port"] == port["port"] && old["protocol"] == port["protocol"]);
        let number = same.and_then(|old| old["nodePort"].as_i64()).filter(|number| !taken.contains(number));
        if let Some(number) = number {
            default_zero(port, "nodePort", number);
        }
    }
}

fn is_headless(spec: &At) -> bool {
    matches!(spec.get("clusterIPs").items(), [one] if one == "None")
        || (spec.get("clusterIPs").empty() && spec.get("clusterIP").is("None"))
}

fn validate(service: &At, old: &Value) {
    let spec = service.get("spec");
    topology(&service.get("metadata.annotations"));
    let (kind, headless) = (spec.get("type"), is_headless(&spec));
    if !headless && !kind.is("ExternalName") {
        spec.get("ports").need();
    }
    match kind.text() {
        name @ ("LoadBalancer" | "NodePort") if headless => {
            let first = spec.get("clusterIPs");
            first.index(0).invalid_as("None", format!("may not be set to 'None' for {name} services"));
        }
        "ExternalName" => external_name(&spec),
        _ => {}
    }
    ports(&spec.get("ports"));
    labels(&spec.get("selector"));
    affinity(&spec);
    if !kind.is("ExternalName") {
        addresses(&spec);
    }
    spec.get("externalIPs").each(|ip| {
        let before = ip.errors();
        if !items(&old["spec"], "externalIPs").contains(ip.value()) {
            ip.named(legacy_ip);
        }
        if ip.errors() == before {
            endpoint_ip(ip);
        }
    });
    kind.need_one_of(&["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"]);
    node_ports(&spec);
    source_ranges(service, &spec, old);
    let allocate = spec.get("allocateLoadBalancerNodePorts");
    if allocate.present() && !kind.is("LoadBalancer") {
        allocate.forbidden("may only be used when `type` is 'LoadBalancer'");
    }
    let class = spec.get("loadBalancerClass");
    if kind.is("LoadBalancer") {
        class.on_self(|class| class.named(qualified_name));
    } else {
        class.never("may only be used when `type` is 'LoadBalancer'");
    }
    traffic(&spec);
}

fn topology(annotations: &At) {
    let hints = "service.kubernetes.io/topology-aware-hints";
    let (mode, old) = (annotations.key("service.kubernetes.io/topology-mode"), annotations.key(hints));
    if mode.present() && old.present() && mode.value() != old.value() {
        mode.invalid(format!("must match annotations[{hints}] when both are specified"));
    }
}

fn external_name(spec: &At) {
    for field in ["clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
        if !spec.get(field).empty() {
            spec.get(field).forbidden("may not be set for ExternalName services");
        }
    }
    let name = spec.get("externalName");
    let text = name.text().strip_suffix('.').unwrap_or(name.text());
    if text.is_empty() {
        name.required("");
    } else {
        name.named_as(text, dns_subdomain);
    }
}

fn ports(list: &At) {
    let mut seen = HashSet::new();
    list.each(|port| {
        let name = port.get("name");
        if !name.empty() {
            name.named(dns_label);
            name.unique(&mut seen);
        } else if list.items().len() > 1 {
            name.required("");
        }
        port.get("port").port();
        port.get("protocol").need_one_of(&["SCTP", "TCP", "UDP"]);
        port.get("targetPort").port_or_name();
        port.on("appProtocol", |name| name.named(qualified_name));
    });
}

const MOST_AFFINITY_S: i64 = 86400;

fn affinity(spec: &At) {
    let (affinity, config) = (spec.get("sessionAffinity"), spec.get("sessionAffinityConfig"));
    affinity.need_one_of(&["ClientIP", "None"]);
    if affinity.is("ClientIP") {
        let timeout = config.get("clientIP.timeoutSeconds");
        if !(1..=MOST_AFFINITY_S).contains(&timeout.int()) {
            timeout.invalid(format!("must be greater than 0 and less than {MOST_AFFINITY_S}"));
        }
    } else if affinity.is("None") {
        config.never("must not be set when session affinity is None");
    }
}

/// Rules of `clusterIP`, `clusterIPs`, `ipFamilies` and `ipFamilyPolicy` together.
pub(super) fn addresses(spec: &At) {
    let (one, all, families) = (spec.get("clusterIP"), spec.get("clusterIPs"), spec.get("ipFamilies"));
    if !one.empty() {
        if all.empty() {
            all.required("");
        } else if all.items()[0] != *one.value() {
            all.invalid("first value must match `clusterIP`");
        }
    } else if !all.empty() {
        all.invalid("must be empty when `clusterIP` is not specified");
    }
    let mut seen = HashSet::new();
    families.each(|family| {
        family.one_of(&["IPv4", "IPv6"]);
        family.unique(&mut seen);
    });
    spec.get("ipFamilyPolicy").one_of_if_set(&["PreferDualStack", "RequireDualStack", "SingleStack"]);
    let mut wrong = false;
    all.each(|ip| {
        if !ip.is("None") || all.items().len() > 1 {
            let before = ip.errors();
            if ip.is("None") {
                ip.invalid("must be empty, 'None', or a valid IP address");
            } else {
                ip.named(legacy_ip);
            }
            wrong |= ip.errors() != before;
        }
    });
    if wrong {
        return;
    }
    if all.items().len() > 2 {
        all.invalid("may only hold up to 2 values");
    }
    let v6 = |ip: &Value| ip.as_str().and_then(lenient_ip).is_some_and(|ip| ip.is_ipv6());
    if let [first, second] = all.items()
        && v6(first) == v6(second)
    {
        all.invalid("may specify no more than one IP for each IP family");
    }
    if is_headless(spec) || all.empty() {
        return;
    }
    for (index, family) in families.items().iter().enumerate().take(all.items().len()) {
        let ip = all.index(index);
        if let Some(name @ ("IPv4" | "IPv6")) = family.as_str()
            && v6(ip.value()) != (name == "IPv6")
        {
            ip.invalid(format!("expected an {name} value as indicated by `ipFamilies[{index}]`"));
        }
    }
}

/// An address that traffic can be sent to.
pub(super) fn endpoint_ip(at: &At) {
    let Some(ip) = lenient_ip(at.text()) else {
        return at.invalid_as(at.text(), "must be a valid IP address");
    };
    let (link_local, link_multicast) = match ip {
        IpAddr::V4(v4) => (v4.is_link_local(), v4.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(v6) => (v6.is_unicast_link_local(), v6.segments()[0] & 0xff0f == 0xff02),
    };
    if ip.is_unspecified() {
        at.invalid(format!("may not be unspecified ({})", at.text()));
    }
    if ip.is_loopback() {
        at.invalid("may not be in the loopback range (127.0.0.0/8, ::1/128)");
    }
    if link_local {
        at.invalid("may not be in the link-local range (169.254.0.0/16, fe80::/10)");
    }
    if link_multicast {
        at.invalid("may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)");
    }
}

fn node_ports(spec: &At) {
    let list = spec.get("ports");
    let cluster_only = spec.get("type").is("ClusterIP");
    if cluster_only {
        list.each(|port| {
            if port.get("nodePort").int() != 0 {
                port.get("nodePort").forbidden("may not be used when `type` is 'ClusterIP'");
            }
        });
    }
    let mut seen = HashSet::new();
    list.each(|port| {
        let number = port.get("nodePort");
        if number.int() != 0 && !seen.insert((port.get("protocol").text(), number.int())) {
            number.duplicate();
        }
    });
    let mut seen = HashSet::new();
    list.each(|port| {
        let (protocol, number) = (port.get("protocol").text(), port.get("port").int());
        if !seen.insert((protocol, number)) {
            let same = json!({"protocol": protocol, "port": number});
            port.report(|path| Error::duplicate(path, Value::Null).of_type(&same, "api.core.v1.ServicePort"));
        }
    });
}

const RANGES: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";

fn source_ranges(service: &At, spec: &At, old: &Value) {
    let balanced = spec.get("type").is("LoadBalancer");
    let why = "may only be used when `type` is 'LoadBalancer'";
    let ranges = spec.get("loadBalancerSourceRanges");
    if !ranges.empty() {
        let shown = spec.view("LoadBalancerSourceRanges", ranges.value());
        if !balanced {
            shown.forbidden(why);
        }
        shown.each(|range| {
            if !items(&old["spec"], "loadBalancerSourceRanges").contains(range.value()) {
                range.named_as(range.text().trim(), legacy_cidr);
            }
        });
        return;
    }
    let annotations = service.get("metadata.annotations");
    let range = annotations.key(RANGES);
    if !range.present() {
        return;
    }
    if !balanced {
        range.forbidden(why);
    }
    if old["metadata"]["annotations"][RANGES] != *range.value() && !range.text().trim().is_empty() {
        range.text().split(',').for_each(|one| range.named_as(one.trim(), legacy_cidr));
    }
}

fn traffic(spec: &At) {
    let (outside, health) = (spec.get("externalTrafficPolicy"), spec.get("healthCheckNodePort"));
    if reached_from_outside(spec.value()) {
        outside.need_one_of(&["Cluster", "Local"]);
    } else if !outside.empty() {
        outside.invalid("may only be set for externally-accessible services");
    }
    if is_checked(spec.value()) {
        if health.int() != 0 {
            health.port();
        }
    } else if health.int() != 0 {
        health
            .invalid("may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'");
    }
    let inside = spec.get("internalTrafficPolicy");
    inside.one_of_if_set(&["Cluster", "Local"]);
    let known = ["PreferClose", "PreferSameZone", "PreferSameNode"];
    spec.get("trafficDistribution").one_of_if_set(&known);
}

fn changes(spec: &At, old: &Value) {
    let external = spec.get("type").is("ExternalName") || old["type"] == "ExternalName";
    let was_headless = old["clusterIP"] == "None";
    let stays_headless = was_headless && is_headless(spec);
    if !external && !stays_headless {
        family(spec, old, "clusterIPs", "clusterIP");
    }
    if !external && was_headless == is_headless(spec) && !was_headless {
        family(spec, old, "ipFamilies", "ipFamily");
    }
    let class = spec.get("loadBalancerClass");
    if spec.get("type").is("LoadBalancer")
        && old["type"] == "LoadBalancer"
        && *class.value() != old["loadBalancerClass"]
    {
        class.invalid("may not change once set");
    }
    let health = spec.get("healthCheckNodePort");
    if is_checked(spec.value()) && is_checked(old) && *health.value() != old["healthCheckNodePort"] {
        health.forbidden("field is immutable");
    }
}

/// The first address (or family) stays; a second one comes and goes with the policy.
fn family(spec: &At, old: &Value, field: &str, what: &str) {
    const ONCE: &str = "may not change once set";
    let (list, before) = (spec.get(field), items(old, field));
    let now = list.items();
    let shown = || list.value().clone();
    if before.len() == now.len() {
        for (index, old) in before.iter().enumerate() {
            if now[index] != *old {
                list.index(if what == "clusterIP" { index } else { 0 }).invalid_as(shown(), ONCE);
            }
        }
        return;
    }
    if now.is_empty() {
        return list.index(0).invalid_as(shown(), format!("primary {what} can not be unset"));
    }
    if !before.is_empty() && now[0] != before[0] {
        list.index(0).invalid_as(shown(), ONCE);
    }
    if before.len() > now.len() && now.len() == 1 && !spec.get("ipFamilyPolicy").is("SingleStack") {
        spec.get("ipFamilyPolicy")
            .invalid(format!("must be set to 'SingleStack' when releasing the secondary {what}"));
    }
}

/// Addresses at which a load balancer answers.
pub(super) fn balancer_status(status: &At, balanced: bool, old: &Value) {
    let list = status.get("ingress");
    if !balanced && !list.empty() {
        return list.forbidden("may only be used when `spec.type` is 'LoadBalancer'");
    }
    list.each(|ingress| {
        let (ip, mode, host) = (ingress.get("ip"), ingress.get("ipMode"), ingress.get("hostname"));
        if !items(old, "ingress").iter().any(|one| one["ip"] == *ip.value()) {
            ip.named_if_set(legacy_ip);
        }
        match (ip.empty(), mode.present()) {
            (false, false) => mode.required("must be specified when `ip` is set"),
            (true, true) => mode.forbidden("may not be specified when `ip` is not set"),
            (false, true) => mode.one_of(&["Proxy", "VIP"]),
            (true, false) => {}
        }
        balancer_host(&host);
    });
}

/// The name at which a load balancer answers.
pub(super) fn balancer_host(host: &At) {
    if !host.empty() {
        host.named(dns_subdomain);
        if lenient_ip(host.text()).is_some() {
            host.invalid("must be a DNS name, not an IP address");
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
        let mut plain = old.clone();
        plain["spec"]["type"] = json!("ClusterIP");
        (SERVICE.prepare_update)(&mut plain, &old);
        assert_eq!(plain["spec"]["ports"][0]["nodePort"], Value::Null);
    }
}
