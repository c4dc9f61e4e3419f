//! NetworkPolicies, and the addresses of Services.

use super::page::Page;
use super::words::{array, go_time, joined, or, or_none, selector, shown};
use serde_json::Value;

/// A direction of traffic in words.
struct Way {
    kind: &'static str,
    /// Also the field of its rules.
    name: &'static str,
    peers: &'static str,
    title: &'static str,
    anybody: &'static str,
}

const WAYS: [Way; 2] = [
    Way { kind: "Ingress", name: "ingress", peers: "from", title: "From", anybody: "source" },
    Way { kind: "Egress", name: "egress", peers: "to", title: "To", anybody: "destination" },
];

pub(super) fn policy(page: &mut Page, object: &Value) {
    let spec = &object["spec"];
    page.name(object);
    page.field(0, "Created on", go_time(&object["metadata"]["creationTimestamp"]));
    page.marks(object);
    page.title(0, "Spec");
    let pods = match selector(&spec["podSelector"]) {
        all if all == "<none>" => {
            "<none> (Allowing the specific traffic to all pods in this namespace)".to_owned()
        }
        some => some,
    };
    page.line(1, format_args!("PodSelector:     {pods}"));
    for way in &WAYS {
        if array(&spec["policyTypes"]).iter().any(|kind| kind == way.kind) {
            page.line(1, format_args!("Allowing {} traffic:", way.name));
            rules(page, way, array(&spec[way.name]));
        } else {
            page.line(1, format_args!("Not affecting {} traffic", way.name));
        }
    }
    page.line(1, format_args!("Policy Types: {}", or_none(&joined(&spec["policyTypes"], ", "))));
}

fn rules(page: &mut Page, way: &Way, rules: &[Value]) {
    if rules.is_empty() {
        let none = format!("<none> (Selected pods are isolated for {} connectivity)", way.name);
        return page.line(2, none);
    }
    for (number, rule) in rules.iter().enumerate() {
        if number > 0 {
            page.line(2, "----------");
        }
        ports(page, array(&rule["ports"]));
        let peers = array(&rule[way.peers]);
        if peers.is_empty() {
            page.line(2, format_args!("{}: <any> (traffic not restricted by {})", way.title, way.anybody));
        }
        for peer in peers {
            page.title(2, way.title);
            self::peer(page, peer);
        }
    }
}

fn ports(page: &mut Page, ports: &[Value]) {
    if ports.is_empty() {
        page.line(2, "To Port: <any> (traffic allowed to all ports)");
    }
    for port in ports {
        let (number, protocol) = (or(&port["port"], "<nil>"), or(&port["protocol"], "TCP"));
        match &port["endPort"] {
            Value::Null => page.line(2, format_args!("To Port: {number}/{protocol}")),
            end => page.line(2, format_args!("To Port Range: {number}-{end}/{protocol}")),
        }
    }
}

fn peer(page: &mut Page, peer: &Value) {
    let selectors = [("NamespaceSelector", "namespaceSelector"), ("PodSelector", "podSelector")];
    for (title, field) in selectors.into_iter().filter(|(_, field)| peer[*field].is_object()) {
        page.line(3, format_args!("{title}: {}", selector(&peer[field])));
    }
    if peer["ipBlock"].is_object() {
        page.title(3, "IPBlock");
        page.line(4, format_args!("CIDR: {}", shown(&peer["ipBlock"]["cidr"])));
        page.line(4, format_args!("Except: {}", joined(&peer["ipBlock"]["except"], ", ")));
    }
}

pub(super) fn service_ranges(page: &mut Page, object: &Value) {
    page.cluster_head(object);
    page.field(0, "CIDRs", joined(&object["spec"]["cidrs"], ", "));
    let conditions = &object["status"]["conditions"];
    if !array(conditions).is_empty() {
        page.title(0, "Status");
        page.conditions(conditions);
    }
}

pub(super) fn address(page: &mut Page, object: &Value) {
    page.cluster_head(object);
    let parent = &object["spec"]["parentRef"];
    if parent.is_object() {
        page.title(0, "Parent Reference");
        let fields =
            [("Group", "group"), ("Resource", "resource"), ("Namespace", "namespace"), ("Name", "name")];
        page.all(1, parent, &fields);
    }
}
