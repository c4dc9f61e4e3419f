//! Ingresses, with the endpoints behind them, and their classes.

use super::page::Page;
use super::service::endpoints;
use super::words::{array, joined, names, or, shown};
use serde_json::Value;
use std::collections::BTreeMap;

/// What is behind a Service: it and its slices, or why they are not known.
pub(super) type Behind = Result<(Value, Vec<Value>), String>;

/// The Services that an Ingress leads to, each once.
pub(super) fn services(ingress: &Value) -> Vec<String> {
    let rules = array(&ingress["spec"]["rules"]).iter().flat_map(|rule| array(&rule["http"]["paths"]));
    let backends = rules.map(|path| &path["backend"]).chain([&ingress["spec"]["defaultBackend"]]);
    let mut names: Vec<String> =
        backends.filter_map(|backend| backend["service"]["name"].as_str().map(str::to_owned)).collect();
    names.sort();
    names.dedup();
    names
}

pub(super) fn write(page: &mut Page, ingress: &Value, behind: &BTreeMap<String, Behind>) {
    let (metadata, spec) = (&ingress["metadata"], &ingress["spec"]);
    page.field(0, "Name", shown(&metadata["name"]));
    page.labels(0, "Labels", &metadata["labels"]);
    page.field(0, "Namespace", shown(&metadata["namespace"]));
    let points = array(&ingress["status"]["loadBalancer"]["ingress"]).iter();
    let address = |point: &Value| {
        let [ip, host] = names(point, ["ip", "hostname"]);
        if ip.is_empty() { host } else { ip }
    };
    let mut addresses: Vec<String> = points.map(address).filter(|address| !address.is_empty()).collect();
    addresses.sort();
    addresses.dedup();
    page.field(0, "Address", addresses.join(","));
    page.field(0, "Ingress Class", or(&spec["ingressClassName"], "<none>"));
    let otherwise = match &spec["defaultBackend"] {
        Value::Null => "<default>".to_owned(),
        own => backend(own, behind),
    };
    page.field(0, "Default backend", &otherwise);
    tls(page, &spec["tls"]);
    page.title(0, "Rules");
    page.table(1, "Host\tPath\tBackends", []);
    let rules = array(&spec["rules"]).iter().filter(|rule| rule["http"].is_object());
    for rule in rules.clone() {
        let host = shown(&rule["host"]);
        page.line(1, format_args!("{}\t", if host.is_empty() { "*" } else { &host }));
        for path in array(&rule["http"]["paths"]) {
            page.line(2, format_args!("\t{} \t{}", shown(&path["path"]), backend(&path["backend"], behind)));
        }
    }
    if rules.count() == 0 {
        page.line(1, format_args!("*\t*\t{otherwise}"));
    }
    page.annotations(0, "Annotations", &metadata["annotations"]);
}

fn tls(page: &mut Page, tls: &Value) {
    if !array(tls).is_empty() {
        page.title(0, "TLS");
    }
    for one in array(tls) {
        let hosts = joined(&one["hosts"], ",");
        match shown(&one["secretName"]) {
            secret if secret.is_empty() => page.line(1, format_args!("SNI routes {hosts}")),
            secret => page.line(1, format_args!("{secret} terminates {hosts}")),
        }
    }
}

fn backend(backend: &Value, behind: &BTreeMap<String, Behind>) -> String {
    if backend["resource"].is_object() {
        let [kind, name] = names(&backend["resource"], ["kind", "name"]);
        let group = or(&backend["resource"]["apiGroup"], "<none>");
        return format!("APIGroup: {group}, Kind: {kind}, Name: {name}");
    }
    let wanted = &backend["service"]["port"];
    let Some(name) = backend["service"]["name"].as_str() else { return String::new() };
    let port = if wanted["number"].is_number() { shown(&wanted["number"]) } else { shown(&wanted["name"]) };
    let shown_as = match behind.get(name) {
        Some(Ok((service, slices))) => {
            let is_wanted = |port: &&Value| match wanted["number"].is_number() {
                true => port["port"] == wanted["number"],
                false => port["name"] == wanted["name"],
            };
            let found = array(&service["spec"]["ports"]).iter().rfind(is_wanted);
            endpoints(slices, &found.map(|port| shown(&port["name"])).unwrap_or_default())
        }
        Some(Err(error)) => format!("<error: {error}>"),
        None => return String::new(),
    };
    format!("{name}:{port} ({shown_as})")
}

pub(super) fn class(page: &mut Page, object: &Value) {
    page.cluster_head(object);
    page.field(0, "Controller", shown(&object["spec"]["controller"]));
    let parameters = &object["spec"]["parameters"];
    if parameters.is_object() {
        page.title(0, "Parameters");
        page.some(1, "APIGroup", &parameters["apiGroup"]);
        page.all(1, parameters, &[("Kind", "kind"), ("Name", "name")]);
    }
}
