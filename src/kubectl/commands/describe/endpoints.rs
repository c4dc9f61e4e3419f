//! Endpoints and EndpointSlices.

use super::page::Page;
use super::words::{array, joined, names, or, or_else, or_none, shown};
use serde_json::Value;

const PORTS: &str = "Name\tPort\tProtocol";

fn port(port: &Value) -> String {
    let [name, protocol] = names(port, ["name", "protocol"]);
    format!("{}\t{}\t{protocol}", or_else(&name, "<unset>"), or(&port["port"], "<unset>"))
}

pub(super) fn endpoints(page: &mut Page, object: &Value) {
    page.head(object);
    page.title(0, "Subsets");
    for subset in array(&object["subsets"]) {
        for (title, field) in [("Addresses", "addresses"), ("NotReadyAddresses", "notReadyAddresses")] {
            let all: Vec<String> = array(&subset[field]).iter().map(|one| shown(&one["ip"])).collect();
            page.field(1, title, or_none(&all.join(",")));
        }
        if !array(&subset["ports"]).is_empty() {
            page.title(1, "Ports");
            page.table(2, PORTS, array(&subset["ports"]).iter().map(port));
        }
        page.line(0, "");
    }
}

pub(super) fn slice(page: &mut Page, object: &Value) {
    page.head(object);
    page.field(0, "AddressType", shown(&object["addressType"]));
    if array(&object["ports"]).is_empty() {
        page.line(0, "Ports: <unset>");
    } else {
        page.title(0, "Ports");
        page.table(1, PORTS, array(&object["ports"]).iter().map(port));
    }
    let endpoints = array(&object["endpoints"]);
    page.line(0, if endpoints.is_empty() { "Endpoints: <none>" } else { "Endpoints:" });
    for endpoint in endpoints {
        page.field(1, "- Addresses", or_none(&joined(&endpoint["addresses"], ", ")));
        page.title(2, "Conditions");
        page.field(3, "Ready", or(&endpoint["conditions"]["ready"], "<unset>"));
        page.field(2, "Hostname", or(&endpoint["hostname"], "<unset>"));
        if endpoint["targetRef"].is_object() {
            let [kind, name] = names(&endpoint["targetRef"], ["kind", "name"]);
            page.field(2, "TargetRef", format_args!("{kind}/{name}"));
        }
        page.field(2, "NodeName", or(&endpoint["nodeName"], "<unset>"));
        page.field(2, "Zone", or(&endpoint["zone"], "<unset>"));
    }
}
