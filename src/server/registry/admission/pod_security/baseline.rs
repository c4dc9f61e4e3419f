//! The rules of the baseline: known ways to more rights are closed.

use super::super::{items, text};
use super::policy::{Check, Subject, Violation, containers, plural, quoted, setters};
use serde_json::Value;
use std::collections::BTreeSet;

pub(super) const BASELINE: &[Check] = &[
    Check { name: "appArmorProfile", since: 0, overrides: "", run: app_armor },
    Check { name: "capabilities_baseline", since: 0, overrides: "", run: capabilities },
    Check { name: "hostNamespaces", since: 0, overrides: "", run: host_namespaces },
    Check { name: "hostPathVolumes", since: 0, overrides: "", run: host_paths },
    Check { name: "hostPorts", since: 0, overrides: "", run: host_ports },
    Check { name: "hostProbesAndHostLifecycle", since: 34, overrides: "", run: hosts_reached },
    Check { name: "privileged", since: 0, overrides: "", run: privileged },
    Check { name: "procMount", since: 0, overrides: "", run: proc_mount },
    Check { name: "seLinuxOptions", since: 0, overrides: "", run: se_linux },
    Check { name: "seccompProfile_baseline", since: 0, overrides: "", run: seccomp },
    Check { name: "sysctls", since: 0, overrides: "", run: sysctls },
    Check { name: "windowsHostProcess", since: 0, overrides: "", run: host_process },
];

fn context(of: &Value) -> &Value {
    &of["securityContext"]
}

const APP_ARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";

fn app_armor(pod: &Subject) -> Option<Violation> {
    let bad_type = |of: &Value| {
        let profile = &context(of)["appArmorProfile"];
        let kind = text(profile, "type").to_owned();
        (profile.is_object() && !matches!(kind.as_str(), "RuntimeDefault" | "Localhost")).then_some(kind)
    };
    let names = pod.named(|container| bad_type(container).is_some());
    let own = bad_type(pod.spec);
    let types: BTreeSet<String> =
        own.clone().into_iter().chain(pod.containers().filter_map(bad_type)).collect();
    let annotations: BTreeSet<String> = pod.metadata["annotations"]
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(key, _)| key.starts_with(APP_ARMOR))
        .filter_map(|(key, value)| {
            let profile = value.as_str().unwrap_or_default();
            let fine = matches!(profile, "" | "runtime/default") || profile.starts_with("localhost/");
            (!fine).then(|| format!("{key}={profile:?}"))
        })
        .collect();
    let marks = (!annotations.is_empty()).then(|| plural("annotation", annotations.len()));
    let who: Vec<String> = setters(own.is_some(), &names).into_iter().chain(marks).collect();
    if who.is_empty() {
        return None;
    }
    let values: Vec<String> = types.into_iter().chain(annotations).collect();
    let reason = plural("forbidden AppArmor profile", values.len());
    Some(Violation::new(
        reason,
        format!("{} must not set AppArmor profile type to {}", who.join(" and "), quoted(values)),
    ))
}

const CAPABILITIES: [&str; 13] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

fn capabilities(pod: &Subject) -> Option<Violation> {
    let foreign = |container: &Value| -> BTreeSet<String> {
        let added = items(&context(container)["capabilities"], "add").iter().filter_map(Value::as_str);
        added.filter(|name| !CAPABILITIES.contains(name)).map(str::to_owned).collect()
    };
    let names = pod.named(|container| !foreign(container).is_empty());
    let all: BTreeSet<String> = pod.containers().flat_map(foreign).collect();
    (!names.is_empty()).then(|| {
        let detail = format!(
            "{} must not include {} in securityContext.capabilities.add",
            containers(&names),
            quoted(all)
        );
        Violation::new("non-default capabilities", detail)
    })
}

fn host_namespaces(pod: &Subject) -> Option<Violation> {
    let set = ["hostNetwork", "hostPID", "hostIPC"].into_iter().filter(|field| pod.spec[*field] == true);
    let set: Vec<String> = set.map(|field| format!("{field}=true")).collect();
    (!set.is_empty()).then(|| Violation::new("host namespaces", set.join(", ")))
}

fn host_paths(pod: &Subject) -> Option<Violation> {
    let volumes = items(pod.spec, "volumes").iter().filter(|volume| volume["hostPath"].is_object());
    let names: Vec<&str> = volumes.map(|volume| text(volume, "name")).collect();
    (!names.is_empty()).then(|| {
        Violation::new("hostPath volumes", format!("{} {}", plural("volume", names.len()), quoted(&names)))
    })
}

/// `container "a" uses` or `containers "a", "b" use`.
fn users(names: &[&str]) -> String {
    format!("{} {}", containers(names), if names.len() == 1 { "uses" } else { "use" })
}

fn host_ports(pod: &Subject) -> Option<Violation> {
    let ports = |container: &Value| -> BTreeSet<String> {
        let ports = items(container, "ports").iter().filter_map(|port| port["hostPort"].as_i64());
        ports.filter(|port| *port != 0).map(|port| port.to_string()).collect()
    };
    let names = pod.named(|container| !ports(container).is_empty());
    let all: BTreeSet<String> = pod.containers().flat_map(ports).collect();
    (!names.is_empty()).then(|| {
        let list = all.iter().cloned().collect::<Vec<_>>().join(", ");
        Violation::new("hostPort", format!("{} {} {list}", users(&names), plural("hostPort", all.len())))
    })
}

fn hosts_reached(pod: &Subject) -> Option<Violation> {
    const HANDLERS: [&str; 5] =
        ["/livenessProbe", "/readinessProbe", "/startupProbe", "/lifecycle/postStart", "/lifecycle/preStop"];
    let hosts = |container: &Value| -> BTreeSet<String> {
        let handlers = HANDLERS.iter().filter_map(|pointer| container.pointer(pointer));
        let hosts = handlers.flat_map(|handler| [&handler["httpGet"]["host"], &handler["tcpSocket"]["host"]]);
        let texts: Vec<String> =
            hosts.filter_map(Value::as_str).filter(|host| !host.is_empty()).map(str::to_owned).collect();
        texts.into_iter().collect()
    };
    let names: BTreeSet<&str> = pod.named(|container| !hosts(container).is_empty()).into_iter().collect();
    let names: Vec<&str> = names.into_iter().collect();
    let all: BTreeSet<String> = pod.containers().flat_map(hosts).collect();
    (!names.is_empty()).then(|| {
        let what = "probe or lifecycle host";
        Violation::new(what, format!("{} {} {}", users(&names), plural(what, all.len()), quoted(all)))
    })
}

fn privileged(pod: &Subject) -> Option<Violation> {
    let names = pod.named(|container| context(container)["privileged"] == true);
    (!names.is_empty()).then(|| {
        let detail = format!("{} must not set securityContext.privileged=true", containers(&names));
        Violation::new("privileged", detail)
    })
}

fn proc_mount(pod: &Subject) -> Option<Violation> {
    if pod.is_in_user_namespace() { None } else { proc_mount_always(pod) }
}

pub(super) fn proc_mount_always(pod: &Subject) -> Option<Violation> {
    let other = |container: &Value| {
        context(container)["procMount"].as_str().filter(|mount| *mount != "Default").map(str::to_owned)
    };
    let names = pod.named(|container| other(container).is_some());
    let all: BTreeSet<String> = pod.containers().filter_map(other).collect();
    (!names.is_empty()).then(|| {
        let detail =
            format!("{} must not set securityContext.procMount to {}", containers(&names), quoted(all));
        Violation::new("procMount", detail)
    })
}

fn se_linux(pod: &Subject) -> Option<Violation> {
    let known = |kind: &str| {
        matches!(kind, "" | "container_t" | "container_init_t" | "container_kvm_t")
            || (pod.minor >= 31 && kind == "container_engine_t")
    };
    let bad = |options: &Value| {
        !known(text(options, "type"))
            || !text(options, "user").is_empty()
            || !text(options, "role").is_empty()
    };
    let options = |of: &Value| context(of)["seLinuxOptions"].clone();
    let names = pod.named(|container| bad(&options(container)));
    let who = setters(bad(&options(pod.spec)), &names)?;
    let all: Vec<Value> = pod.containers().map(options).chain([options(pod.spec)]).collect();
    let types: BTreeSet<&str> = all.iter().map(|one| text(one, "type")).filter(|kind| !known(kind)).collect();
    let mut data = Vec::new();
    if !types.is_empty() {
        data.push(format!("{} {}", plural("type", types.len()), quoted(types)));
    }
    for field in ["user", "role"] {
        if all.iter().any(|one| !text(one, field).is_empty()) {
            data.push(format!("{field} may not be set"));
        }
    }
    Some(Violation::new(
        "seLinuxOptions",
        format!("{who} set forbidden securityContext.seLinuxOptions: {}", data.join("; ")),
    ))
}

/// The type of a seccomp profile, where one is set.
pub(super) fn seccomp_type(of: &Value) -> Option<&str> {
    let profile = &context(of)["seccompProfile"];
    profile.is_object().then(|| text(profile, "type"))
}

pub(super) fn is_seccomp(kind: &str) -> bool {
    matches!(kind, "Localhost" | "RuntimeDefault")
}

/// Profiles that are set and switch seccomp off.
pub(super) fn bad_seccomp(pod: &Subject) -> Option<Violation> {
    let bad = |of: &Value| seccomp_type(of).filter(|kind| !is_seccomp(kind)).map(str::to_owned);
    let names = pod.named(|container| bad(container).is_some());
    let who = setters(bad(pod.spec).is_some(), &names)?;
    let types: BTreeSet<String> = bad(pod.spec).into_iter().chain(pod.containers().filter_map(bad)).collect();
    let detail = format!("{who} must not set securityContext.seccompProfile.type to {}", quoted(types));
    Some(Violation::new("seccompProfile", detail))
}

fn seccomp(pod: &Subject) -> Option<Violation> {
    if pod.minor >= 19 { bad_seccomp(pod) } else { seccomp_annotations(pod) }
}

fn seccomp_annotations(pod: &Subject) -> Option<Violation> {
    let of_containers = pod.containers().map(|container| {
        format!("container.seccomp.security.alpha.kubernetes.io/{}", text(container, "name"))
    });
    let keys = of_containers.chain(["seccomp.security.alpha.kubernetes.io/pod".to_owned()]);
    let bad: BTreeSet<String> = keys
        .filter_map(|key| {
            let value = pod.metadata["annotations"][&key].as_str()?;
            let fine =
                matches!(value, "runtime/default" | "docker/default") || value.starts_with("localhost/");
            (!fine).then(|| format!("{key}={value:?}"))
        })
        .collect();
    (!bad.is_empty()).then(|| {
        let list = bad.iter().cloned().collect::<Vec<_>>().join(", ");
        Violation::new("seccompProfile", format!("forbidden {} {list}", plural("annotation", bad.len())))
    })
}

/// Kernel parameters that harm nobody else, with the minor version since which they are known.
const SYSCTLS: [(&str, u32); 12] = [
    ("kernel.shm_rmid_forced", 0),
    ("net.ipv4.ip_local_port_range", 0),
    ("net.ipv4.tcp_syncookies", 0),
    ("net.ipv4.ping_group_range", 0),
    ("net.ipv4.ip_unprivileged_port_start", 0),
    ("net.ipv4.ip_local_reserved_ports", 27),
    ("net.ipv4.tcp_keepalive_time", 29),
    ("net.ipv4.tcp_fin_timeout", 29),
    ("net.ipv4.tcp_keepalive_intvl", 29),
    ("net.ipv4.tcp_keepalive_probes", 29),
    ("net.ipv4.tcp_rmem", 32),
    ("net.ipv4.tcp_wmem", 32),
];

fn sysctls(pod: &Subject) -> Option<Violation> {
    let safe = |name: &str| SYSCTLS.iter().any(|(own, since)| *own == name && *since <= pod.minor);
    let all = items(context(pod.spec), "sysctls").iter().map(|sysctl| text(sysctl, "name"));
    let bad: Vec<&str> = all.filter(|name| !safe(name)).collect();
    (!bad.is_empty()).then(|| Violation::new("forbidden sysctls", bad.join(", ")))
}

fn host_process(pod: &Subject) -> Option<Violation> {
    let set = |of: &Value| context(of)["windowsOptions"]["hostProcess"] == true;
    let who = setters(set(pod.spec), &pod.named(set))?;
    let detail = format!("{who} must not set securityContext.windowsOptions.hostProcess=true");
    Some(Violation::new("hostProcess", detail))
}
