//! Services, with their endpoints.

use super::page::Page;
use super::words::{array, flag, joined, labels, names, number, or_else, or_none, shown};
use serde_json::Value;

/// How many endpoints are named.
const NAMED: usize = 3;

pub(super) fn write(page: &mut Page, service: &Value, slices: &[Value]) {
    let spec = &service["spec"];
    page.head(service);
    page.field(0, "Selector", labels(&spec["selector"]));
    page.field(0, "Type", shown(&spec["type"]));
    page.some(0, "IP Family Policy", &spec["ipFamilyPolicy"]);
    page.field(0, "IP Families", or_none(&joined(&spec["ipFamilies"], ",")));
    page.field(0, "IP", shown(&spec["clusterIP"]));
    page.field(0, "IPs", or_none(&joined(&spec["clusterIPs"], ",")));
    page.some(0, "External IPs", &joined(&spec["externalIPs"], ",").into());
    page.some(0, "Desired LoadBalancer IP", &spec["loadBalancerIP"]);
    page.some(0, "External Name", &spec["externalName"]);
    let ingress: Vec<String> =
        array(&service["status"]["loadBalancer"]["ingress"]).iter().map(address).collect();
    page.some(0, "LoadBalancer Ingress", &ingress.join(", ").into());
    array(&spec["ports"]).iter().for_each(|port| self::port(page, port, slices));
    page.field(0, "Session Affinity", shown(&spec["sessionAffinity"]));
    page.some(0, "External Traffic Policy", &spec["externalTrafficPolicy"]);
    page.some(0, "Internal Traffic Policy", &spec["internalTrafficPolicy"]);
    if number(&spec["healthCheckNodePort"]) != 0 {
        page.some(0, "HealthCheck NodePort", &spec["healthCheckNodePort"]);
    }
    page.some(0, "LoadBalancer Source Ranges", &joined(&spec["loadBalancerSourceRanges"], ",").into());
    page.some(0, "Traffic Distribution", &spec["trafficDistribution"]);
}

/// Where a load balancer is.
fn address(point: &Value) -> String {
    let [ip, mode, host] = names(point, ["ip", "ipMode", "hostname"]);
    match (ip.is_empty(), mode.is_empty()) {
        (true, _) => host,
        (false, true) => ip,
        (false, false) => format!("{ip} ({mode})"),
    }
}

fn port(page: &mut Page, port: &Value, slices: &[Value]) {
    let [name, protocol, own, target, on_nodes] =
        names(port, ["name", "protocol", "port", "targetPort", "nodePort"]);
    let label = or_else(&name, "<unset>");
    page.field(0, "Port", format_args!("{label}\t{own}/{protocol}"));
    page.field(0, "TargetPort", format_args!("{target}/{protocol}"));
    page.some(0, "AppProtocol", &port["appProtocol"]);
    if number(&port["nodePort"]) != 0 {
        page.field(0, "NodePort", format_args!("{label}\t{on_nodes}/{protocol}"));
    }
    page.field(0, "Endpoints", endpoints(slices, &name));
}

/// The ready endpoints of the port with this name, the first of them by their addresses.
pub(super) fn endpoints(slices: &[Value], name: &str) -> String {
    if slices.is_empty() {
        return "<none>".to_owned();
    }
    let mut all = Vec::new();
    for slice in slices {
        let is_ready = |endpoint: &&Value| {
            endpoint["conditions"]["ready"].is_null() || flag(&endpoint["conditions"]["ready"])
        };
        let ready = array(&slice["endpoints"]).iter().filter(is_ready);
        let addresses: Vec<String> = ready.map(|endpoint| shown(&endpoint["addresses"][0])).collect();
        let ports = array(&slice["ports"]);
        if ports.is_empty() {
            all.extend(addresses.clone());
        }
        for port in ports.iter().filter(|port| shown(&port["name"]) == name) {
            let number = shown(&port["port"]);
            all.extend(addresses.iter().map(|address| match address.contains(':') {
                true => format!("[{address}]:{number}"),
                false => format!("{address}:{number}"),
            }));
        }
    }
    let named = all[..all.len().min(NAMED)].join(",");
    match all.len().saturating_sub(NAMED) {
        0 => named,
        more => format!("{named} + {more} more..."),
    }
}
