//! The rules of pod specs, in the order in which Kubernetes tells what is wrong.

use super::affinity;
use super::containers::{self, Pod};
use super::resources;
use super::security;
use super::volumes;
use api::validate::{
    At, Error, dns_label, dns_subdomain, dns_subdomain_with_underscore, label_name, label_selector, labels,
    legacy_ip, qualified_name,
};
use std::collections::HashSet;

/// The most seconds a pod may be active.
const LONGEST: i64 = i32::MAX as i64;

/// Checks a pod spec; `is_pod` says that it is a pod's own, not a template's.
pub(in crate::strategies) fn validate(spec: &At, name: &str, is_pod: bool) {
    spec.get("terminationGracePeriodSeconds").need();
    let volumes = volumes::validate(&spec.get("volumes"), name, is_pod);
    let pod = Pod::new(spec, &volumes);
    containers::claims(&spec.get("resourceClaims"));
    pod.containers(&spec.get("containers"));
    pod.init_containers(&spec.get("initContainers"));
    pod.ephemeral_containers(&spec.get("ephemeralContainers"));
    resources::of_pod(spec, &pod.claims);
    host_ports(spec, is_pod);
    spec.get("restartPolicy").need_one_of(&["Always", "OnFailure", "Never"]);
    spec.get("dnsPolicy").need_one_of(&["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"]);
    labels(&spec.get("nodeSelector"));
    security::of_pod(spec);
    affinity::validate(&spec.get("affinity"));
    dns(spec);
    spec.get("readinessGates").each(|gate| gate.get("conditionType").named(qualified_name));
    scheduling_gates(&spec.get("schedulingGates"));
    spread(&spec.get("topologySpreadConstraints"));
    security::windows_host_process(spec);
    host_users(spec);
    host_name(spec);
    names(spec);
    if spec.get("os").present() {
        security::os(spec);
    }
    spec.on("schedulingGroup", |group| {
        let name = group.get("podGroupName");
        if name.present() {
            name.named(dns_subdomain);
        } else {
            name.invalid("must specify one of: `podGroupName`");
        }
    });
    file_keys(spec);
}

fn names(spec: &At) {
    spec.get("serviceAccountName").named_if_set(dns_subdomain);
    spec.get("nodeName").named_if_set(dns_subdomain);
    spec.get("activeDeadlineSeconds").within_if_set(1, LONGEST);
    spec.get("hostname").named_if_set(dns_label);
    spec.get("subdomain").named_if_set(dns_label);
    tolerations(&spec.get("tolerations"));
    spec.get("hostAliases").each(|alias| {
        alias.get("ip").named(legacy_ip);
        alias.get("hostnames").each(|name| name.named(dns_subdomain));
    });
    spec.get("priorityClassName").named_if_set(dns_subdomain);
    spec.on("runtimeClassName", |name| name.named(dns_subdomain));
    spec.on("preemptionPolicy", |policy| policy.need_one_of(&["PreemptLowerPriority", "Never"]));
    spec.on("overhead", |overhead| resources::overhead(overhead));
}

/// Ports of a pod in the machine's own network are the machine's.
fn host_ports(spec: &At, is_pod: bool) {
    if !spec.get("hostNetwork").yes() {
        return;
    }
    spec.get("containers").each(|container| {
        container.get("ports").each(|port| {
            let host = port.get("hostPort");
            if (is_pod || host.int() != 0) && host.int() != port.get("containerPort").int() {
                host.invalid_as(host.int(), "must match `containerPort` when `hostNetwork` is true");
            }
        });
    });
}

fn dns(spec: &At) {
    let config = spec.get("dnsConfig");
    let servers = config.get("nameservers");
    if spec.get("dnsPolicy").is("None") {
        if !config.present() {
            return config.required("must provide `dnsConfig` when `dnsPolicy` is None");
        }
        if !servers.need_because("must provide at least one DNS nameserver when `dnsPolicy` is None") {
            return;
        }
    }
    if servers.items().len() > 3 {
        servers.invalid("must not have more than 3 nameservers");
    }
    servers.each(|server| server.named(legacy_ip));
    let searches = config.get("searches");
    if searches.items().len() > 32 {
        searches.invalid("must not have more than 32 search paths");
    }
    let length: usize = searches.items().iter().map(|item| item.as_str().unwrap_or_default().len() + 1).sum();
    if length.saturating_sub(1) > 2048 {
        searches.invalid("must not have more than 2048 characters (including spaces) in the search list");
    }
    searches.each(|search| {
        if !search.is(".") {
            let name = search.text().strip_suffix('.').unwrap_or(search.text());
            search.named_as(name, dns_subdomain_with_underscore);
        }
    });
    config.get("options").each(|option| {
        if option.get("name").empty() {
            option.required("must not be empty");
        }
    });
}

fn scheduling_gates(gates: &At) {
    let mut seen = HashSet::new();
    gates.each(|gate| {
        let name = gate.get("name").text();
        gate.named_as(name, qualified_name);
        if !seen.insert(name) {
            gate.report(|path| Error::duplicate(path, name));
        }
    });
}

const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];

/// The effect of a taint or toleration.
pub(in crate::strategies) fn effect(at: &At) {
    at.one_of(&EFFECTS);
}

pub(in crate::strategies) fn tolerations(list: &At) {
    list.each(|toleration| {
        let (key, operator, value) =
            (toleration.get("key"), toleration.get("operator"), toleration.get("value"));
        let effect = toleration.get("effect");
        if !key.empty() {
            label_name(&key);
        } else if !operator.is("Exists") {
            let why =
                "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            operator.invalid_as(operator.text(), why);
        }
        if toleration.get("tolerationSeconds").present() && !effect.is("NoExecute") {
            effect.invalid_as(effect.text(), "effect must be 'NoExecute' when `tolerationSeconds` is set");
        }
        match operator.text() {
            "Equal" | "" => {
                let problems = api::validate::label_value(value.text());
                if !problems.is_empty() {
                    operator.invalid_as(value.text(), problems.join(";"));
                }
            }
            "Exists" if !value.empty() => {
                operator.invalid_as(value.text(), "value must be empty when `operator` is 'Exists'");
            }
            "Exists" => {}
            "Lt" | "Gt" => operator.one_of(&["Equal", "Exists", "Lt", "Gt", ""][..0]),
            _ => operator.one_of(&["Equal", "Exists"]),
        }
        if !effect.empty() {
            effect.one_of(&EFFECTS);
        }
    });
}

fn spread(list: &At) {
    let same = |one: &serde_json::Value, other: &serde_json::Value| {
        one["topologyKey"] == other["topologyKey"] && one["whenUnsatisfiable"] == other["whenUnsatisfiable"]
    };
    let all = list.items();
    let mut rest = all;
    list.each(|constraint| {
        rest = rest.get(1..).unwrap_or_default();
        constraint.get("maxSkew").positive();
        let key = constraint.get("topologyKey");
        key.need_because("can not be empty");
        let action = constraint.get("whenUnsatisfiable");
        action.one_of(&["DoNotSchedule", "ScheduleAnyway"]);
        if rest.iter().any(|other| same(constraint.value(), other)) {
            let pair = format!("{{{}, {}}}", key.text(), action.text());
            constraint.get("{topologyKey, whenUnsatisfiable}").report(|path| Error::duplicate(path, pair));
        }
        constraint.on("minDomains", |domains| {
            domains.positive();
            if !action.is("DoNotSchedule") {
                domains.invalid(format!(
                    "can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {}",
                    action.text()
                ));
            }
        });
        for policy in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            constraint.get(policy).one_of_if_set(&["Honor", "Ignore"]);
        }
        affinity::label_keys(constraint, &["matchLabelKeys"]);
        label_selector(&constraint.get("labelSelector"));
    });
}

fn host_users(spec: &At) {
    if *spec.get("hostUsers").value() != false {
        return;
    }
    for (field, shown) in [("hostNetwork", "hostNetwork"), ("hostPID", "HostPID"), ("hostIPC", "HostIPC")] {
        if spec.get(field).yes() {
            spec.get(shown).forbidden("when `hostUsers` is false");
        }
    }
    containers::every(spec, |container| {
        let devices = container.get("volumeDevices");
        if !devices.empty() {
            devices.forbidden("when `hostUsers` is false");
        }
    });
}

fn host_name(spec: &At) {
    spec.on("hostnameOverride", |name| {
        if spec.get("setHostnameAsFQDN").yes() {
            name.forbidden("may not be specified when setHostnameAsFQDN is true");
        }
        if spec.get("hostNetwork").yes() {
            name.forbidden("may not be specified when hostNetwork is true");
        }
        name.no_longer_than(64);
        name.named(dns_subdomain);
    });
}

/// Variables from files come from volumes of this pod that are empty directories.
fn file_keys(spec: &At) {
    containers::every(spec, |container| {
        container.get("env").each(|variable| {
            variable.get("valueFrom").on("fileKeyRef", |reference| {
                let name = reference.get("volumeName");
                let volumes = spec.get("volumes");
                match volumes.items().iter().find(|volume| volume["name"] == *name.value()) {
                    None => name.not_found(),
                    Some(volume) if volume["emptyDir"].is_null() => {
                        name.invalid("referenced volume must be of type emptyDir");
                    }
                    Some(_) => {}
                }
            });
        });
    });
}
