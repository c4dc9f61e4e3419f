//! Services, with their endpoints.

use super::page::{Page, array, or_none, pairs, shown};
use serde_json::Value;

/// How many endpoints are named.
const NAMED: usize = 3;

pub(super) fn write(page: &mut Page, service: &Value, slices: &[Value]) {
    let spec = &service["spec"];
    page.head(service);
    page.field(0, "Selector", or_none(&pairs(&spec["selector"], "=").join(",")));
    page.field(0, "Type", shown(&spec["type"]));
    page.some(0, "IP Family Policy", &spec["ipFamilyPolicy"]);
    let texts = |value: &Value| array(value).iter().map(shown).collect::<Vec<_>>().join(",");
    page.field(0, "IP Families", or_none(&texts(&spec["ipFamilies"])));
    page.field(0, "IP", shown(&spec["clusterIP"]));
    page.field(0, "IPs", or_none(&texts(&spec["clusterIPs"])));
    if !array(&spec["externalIPs"]).is_empty() {
        page.field(0, "External IPs", texts(&spec["externalIPs"]));
    }
    page.some(0, "Desired LoadBalancer IP", &spec["loadBalancerIP"]);
    page.some(0, "External Name", &spec["externalName"]);
    let ingress: Vec<String> = array(&service["status"]["loadBalancer"]["ingress"])
        .iter()
        .map(|point| if point["ip"].is_string() { shown(&point["ip"]) } else { shown(&point["hostname"]) })
        .collect();
    if !ingress.is_empty() {
        page.field(0, "LoadBalancer Ingress", ingress.join(", "));
    }
    array(&spec["ports"]).iter().for_each(|port| self::port(page, port, slices));
    page.field(0, "Session Affinity", shown(&spec["sessionAffinity"]));
    page.some(0, "External Traffic Policy", &spec["externalTrafficPolicy"]);
    page.some(0, "Internal Traffic Policy", &spec["internalTrafficPolicy"]);
    page.some(0, "HealthCheck NodePort", &spec["healthCheckNodePort"]);
    page.some(0, "Traffic Distribution", &spec["trafficDistribution"]);
}

fn port(page: &mut Page, port: &Value, slices: &[Value]) {
    let name = shown(&port["name"]);
    let label = if name.is_empty() { "<unset>" } else { &name };
    let protocol = shown(&port["protocol"]);
    page.field(0, "Port", format!("{label}\t{}/{protocol}", shown(&port["port"])));
    page.field(0, "TargetPort", format!("{}/{protocol}", shown(&port["targetPort"])));
    page.some(0, "AppProtocol", &port["appProtocol"]);
    if port["nodePort"].as_i64().unwrap_or(0) != 0 {
        page.field(0, "NodePort", format!("{label}\t{}/{protocol}", shown(&port["nodePort"])));
    }
    page.field(0, "Endpoints", endpoints(slices, &name));
}

/// The ready endpoints of the port with this name.
fn endpoints(slices: &[Value], name: &str) -> String {
    if slices.is_empty() {
        return "<none>".to_owned();
    }
    let mut all = Vec::new();
    for slice in slices {
        let ready =
            array(&slice["endpoints"]).iter().filter(|endpoint| endpoint["conditions"]["ready"] != false);
        let addresses: Vec<String> = ready.map(|endpoint| shown(&endpoint["addresses"][0])).collect();
        let ports = array(&slice["ports"]);
        if ports.is_empty() {
            all.extend(addresses.clone());
        }
        for port in ports.iter().filter(|port| shown(&port["name"]) == name) {
            let number = shown(&port["port"]);
            let with_port = |address: &String| {
                if address.contains(':') {
                    format!("[{address}]:{number}")
                } else {
                    format!("{address}:{number}")
                }
            };
            all.extend(addresses.iter().map(with_port));
        }
    }
    let more = all.len().saturating_sub(NAMED);
    let named = all[..all.len().min(NAMED)].join(",");
    if more > 0 { format!("{named} + {more} more...") } else { named }
}
