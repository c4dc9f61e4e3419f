//! The rules of pod specs.

use super::probes::{handler, validate_probe};
use super::{Errors, items, names, text, volumes};
use api::quantity;
use api::validate::{Error, Path, dns_label, dns_subdomain, label_value, qualified_name};
use serde_json::Value;
use std::collections::HashSet;

/// Checks a pod spec.
pub(super) fn validate(spec: &Value, path: &Path, errors: &mut Errors) {
    let volumes = volumes::validate(spec, path, errors);
    let mut containers =
        Containers { seen: HashSet::new(), volumes: &volumes, restart_policy: text(spec, "restartPolicy") };
    containers.list(spec, "initContainers", path, errors);
    if items(spec, "containers").is_empty() {
        errors.push(Error::required(&path.child("containers"), ""));
    }
    containers.list(spec, "containers", path, errors);
    names::one_of(
        &spec["restartPolicy"],
        &path.child("restartPolicy"),
        &["Always", "OnFailure", "Never"],
        errors,
    );
    names::one_of(
        &spec["dnsPolicy"],
        &path.child("dnsPolicy"),
        &["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"],
        errors,
    );
    names::not_negative(
        &spec["terminationGracePeriodSeconds"],
        &path.child("terminationGracePeriodSeconds"),
        errors,
    );
    let deadline = &spec["activeDeadlineSeconds"];
    if deadline.as_i64().is_some_and(|seconds| !(1..=i64::from(i32::MAX)).contains(&seconds)) {
        errors.push(Error::invalid(
            &path.child("activeDeadlineSeconds"),
            deadline.clone(),
            "must be between 1 and 2147483647, inclusive",
        ));
    }
    names_of(spec, path, errors);
    tolerations(spec, path, errors);
    if text(spec, "dnsPolicy") == "None" && items(&spec["dnsConfig"], "nameservers").is_empty() {
        let detail = "must provide at least one DNS nameserver when `dnsPolicy` is None";
        errors.push(Error::required(&path.child("dnsConfig").child("nameservers"), detail));
    }
}

fn names_of(spec: &Value, path: &Path, errors: &mut Errors) {
    type Rule = fn(&str) -> Vec<String>;
    let rules: [(&str, Rule); 7] = [
        ("serviceAccountName", dns_subdomain),
        ("nodeName", dns_subdomain),
        ("hostname", dns_label),
        ("subdomain", dns_label),
        ("schedulerName", qualified_name),
        ("priorityClassName", dns_subdomain),
        ("runtimeClassName", dns_subdomain),
    ];
    for (field, rule) in rules {
        let value = text(spec, field);
        if !value.is_empty() {
            errors.extend(
                rule(value).into_iter().map(|problem| Error::invalid(&path.child(field), value, problem)),
            );
        }
    }
    let selector = path.child("nodeSelector");
    for (key, value) in spec["nodeSelector"].as_object().into_iter().flatten() {
        errors.extend(
            qualified_name(key).into_iter().map(|problem| Error::invalid(&selector, key.as_str(), problem)),
        );
        let value = value.as_str().unwrap_or_default();
        errors
            .extend(label_value(value).into_iter().map(|problem| Error::invalid(&selector, value, problem)));
    }
}

fn tolerations(spec: &Value, path: &Path, errors: &mut Errors) {
    for (index, toleration) in items(spec, "tolerations").iter().enumerate() {
        let path = path.child("tolerations").index(index);
        let (key, operator) = (text(toleration, "key"), text(toleration, "operator"));
        if key.is_empty() && operator != "Exists" {
            let detail =
                "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            errors.push(Error::invalid(&path.child("operator"), operator, detail));
        }
        if !toleration["tolerationSeconds"].is_null() && text(toleration, "effect") != "NoExecute" {
            let detail = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            errors.push(Error::invalid(&path.child("effect"), text(toleration, "effect"), detail));
        }
        if operator == "Exists" && !text(toleration, "value").is_empty() {
            errors.push(Error::invalid(
                &path.child("operator"),
                operator,
                "value must be empty when `operator` is 'Exists'",
            ));
        }
        if !text(toleration, "effect").is_empty() {
            names::one_of(
                &toleration["effect"],
                &path.child("effect"),
                &["NoSchedule", "PreferNoSchedule", "NoExecute"],
                errors,
            );
        }
    }
}

/// Container names are unique over all lists of a pod.
struct Containers<'a> {
    seen: HashSet<String>,
    volumes: &'a HashSet<String>,
    restart_policy: &'a str,
}

impl Containers<'_> {
    fn list(&mut self, spec: &Value, list: &str, path: &Path, errors: &mut Errors) {
        for (index, container) in items(spec, list).iter().enumerate() {
            self.one(container, list, &path.child(list).index(index), errors);
        }
    }

    fn one(&mut self, container: &Value, list: &str, path: &Path, errors: &mut Errors) {
        let name = text(container, "name");
        if name.is_empty() {
            errors.push(Error::required(&path.child("name"), ""));
        } else {
            let problems = dns_label(name);
            errors.extend(
                problems.into_iter().map(|problem| Error::invalid(&path.child("name"), name, problem)),
            );
            if !self.seen.insert(name.to_owned()) {
                errors.push(Error::duplicate(&path.child("name"), name));
            }
        }
        image(text(container, "image"), path, errors);
        names::one_of(
            &container["imagePullPolicy"],
            &path.child("imagePullPolicy"),
            &["Always", "IfNotPresent", "Never"],
            errors,
        );
        let known = ["File", "FallbackToLogsOnError"];
        names::one_of(
            &container["terminationMessagePolicy"],
            &path.child("terminationMessagePolicy"),
            &known,
            errors,
        );
        ports(container, path, errors);
        environment(container, path, errors);
        volumes::validate_mounts(container, self.volumes, path, errors);
        resources(&container["resources"], &path.child("resources"), errors);
        self.lifecycle(container, list, path, errors);
    }

    fn lifecycle(&self, container: &Value, list: &str, path: &Path, errors: &mut Errors) {
        let sidecar = list == "initContainers" && text(container, "restartPolicy") == "Always";
        if list == "initContainers" && !sidecar {
            for field in ["livenessProbe", "readinessProbe", "startupProbe", "lifecycle"] {
                if !container[field].is_null() {
                    let detail = "may not be set for init containers without restartPolicy=Always";
                    errors.push(Error::forbidden(&path.child(field), detail));
                }
            }
            return;
        }
        validate_probe(&container["livenessProbe"], &path.child("livenessProbe"), true, errors);
        validate_probe(&container["readinessProbe"], &path.child("readinessProbe"), false, errors);
        validate_probe(&container["startupProbe"], &path.child("startupProbe"), true, errors);
        for hook in ["postStart", "preStop"] {
            let value = &container["lifecycle"][hook];
            if value.is_object() {
                handler(value, &path.child("lifecycle").child(hook), errors);
            }
        }
        // A container that restarts by its own policy says so; the pod's policy is checked once.
        if list == "containers" && !container["restartPolicy"].is_null() && self.restart_policy.is_empty() {
            errors.push(Error::required(&path.child("restartPolicy"), ""));
        }
    }
}

fn image(image: &str, path: &Path, errors: &mut Errors) {
    if image.is_empty() {
        errors.push(Error::required(&path.child("image"), ""));
    } else if image.trim() != image {
        errors.push(Error::invalid(
            &path.child("image"),
            image,
            "must not have leading or trailing whitespace",
        ));
    }
}

fn ports(container: &Value, path: &Path, errors: &mut Errors) {
    let mut seen = HashSet::new();
    for (index, port) in items(container, "ports").iter().enumerate() {
        let path = path.child("ports").index(index);
        let name = text(port, "name");
        if !name.is_empty() {
            let problems = names::port_name(name);
            errors.extend(
                problems.into_iter().map(|problem| Error::invalid(&path.child("name"), name, problem)),
            );
            if !seen.insert(name.to_owned()) {
                errors.push(Error::duplicate(&path.child("name"), name));
            }
        }
        match &port["containerPort"] {
            Value::Null => errors.push(Error::required(&path.child("containerPort"), "")),
            number => names::port(number, &path.child("containerPort"), errors),
        }
        if port["hostPort"].as_i64().is_some_and(|number| number != 0) {
            names::port(&port["hostPort"], &path.child("hostPort"), errors);
        }
        names::one_of(&port["protocol"], &path.child("protocol"), &["SCTP", "TCP", "UDP"], errors);
    }
}

fn environment(container: &Value, path: &Path, errors: &mut Errors) {
    for (index, variable) in items(container, "env").iter().enumerate() {
        let path = path.child("env").index(index);
        let name = text(variable, "name");
        if name.is_empty() {
            errors.push(Error::required(&path.child("name"), ""));
        } else if name.contains('=') || !name.bytes().all(|b| (0x20..0x7f).contains(&b)) {
            let detail = "a valid environment variable name must consist only of printable ASCII characters other than '='";
            errors.push(Error::invalid(&path.child("name"), name, detail));
        }
        let from = &variable["valueFrom"];
        if from.is_object() && !text(variable, "value").is_empty() {
            errors.push(Error::invalid(
                &path.child("valueFrom"),
                "",
                "may not be specified when `value` is not empty",
            ));
        }
        for reference in ["configMapKeyRef", "secretKeyRef"] {
            if from[reference].is_object() && text(&from[reference], "key").is_empty() {
                errors.push(Error::required(&path.child("valueFrom").child(reference).child("key"), ""));
            }
        }
    }
}

fn resources(resources: &Value, path: &Path, errors: &mut Errors) {
    names::quantities(&resources["limits"], &path.child("limits"), errors);
    names::quantities(&resources["requests"], &path.child("requests"), errors);
    for (name, request) in resources["requests"].as_object().into_iter().flatten() {
        let amount = |value: &Value| quantity::parse(value.as_str()?).ok();
        let limit = &resources["limits"][name];
        if let (Some(wanted), Some(most)) = (amount(request), amount(limit))
            && wanted > most
        {
            let detail = format!(
                "must be less than or equal to {name} limit of {}",
                limit.as_str().unwrap_or_default()
            );
            errors.push(Error::invalid(&path.child("requests"), request.clone(), detail));
        }
    }
}
