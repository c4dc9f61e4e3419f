//! Probes and lifecycle handlers.

use super::{Errors, default, names, text};
use api::validate::{Error, Path};
use serde_json::Value;

pub(super) fn default_probe(probe: &mut Value) {
    default(probe, "timeoutSeconds", 1);
    default(probe, "periodSeconds", 10);
    default(probe, "successThreshold", 1);
    default(probe, "failureThreshold", 3);
    if let Some(get) = probe.get_mut("httpGet") {
        default(get, "path", "/");
        default(get, "scheme", "HTTP");
    }
    if let Some(grpc) = probe.get_mut("grpc") {
        default(grpc, "service", "");
    }
}

const HANDLERS: [&str; 5] = ["exec", "httpGet", "tcpSocket", "grpc", "sleep"];

pub(super) fn validate_probe(probe: &Value, path: &Path, needs_one_success: bool, errors: &mut Errors) {
    if !probe.is_object() {
        return;
    }
    handler(probe, path, errors);
    for field in
        ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"]
    {
        names::not_negative(&probe[field], &path.child(field), errors);
    }
    if needs_one_success && probe["successThreshold"] != 1 {
        errors.push(Error::invalid(
            &path.child("successThreshold"),
            probe["successThreshold"].clone(),
            "must be 1",
        ));
    }
    if let Some(grace) = probe.get("terminationGracePeriodSeconds") {
        names::positive(grace, &path.child("terminationGracePeriodSeconds"), errors);
    }
}

/// A probe or hook does exactly one thing.
pub(super) fn handler(value: &Value, path: &Path, errors: &mut Errors) {
    let given: Vec<&str> = HANDLERS.into_iter().filter(|name| value[*name].is_object()).collect();
    match given.as_slice() {
        [] => errors.push(Error::required(path, "must specify a handler type")),
        [_] => {}
        [_, more @ ..] => {
            for name in more {
                errors.push(Error::forbidden(&path.child(name), "may not specify more than 1 handler type"));
            }
        }
    }
    for name in given {
        let path = path.child(name);
        let action = &value[name];
        match name {
            "exec" if action["command"].as_array().is_none_or(Vec::is_empty) => {
                errors.push(Error::required(&path.child("command"), ""));
            }
            "httpGet" => {
                if text(action, "path").is_empty() {
                    errors.push(Error::required(&path.child("path"), ""));
                }
                names::port_or_name(&action["port"], &path.child("port"), errors);
                names::one_of(&action["scheme"], &path.child("scheme"), &["HTTP", "HTTPS"], errors);
            }
            "tcpSocket" => names::port_or_name(&action["port"], &path.child("port"), errors),
            "grpc" => names::port(&action["port"], &path.child("port"), errors),
            _ => {}
        }
    }
}
