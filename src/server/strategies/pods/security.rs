//! Security contexts, operating systems, signals.

use super::{containers, volumes};
use api::validate::{At, Error, dns_subdomain};
use serde_json::Value;
use std::collections::HashSet;

const MOST_ID: i64 = i32::MAX as i64;
const CONTEXT: &str = "api.core.v1.SecurityContext";
const WINDOWS: &str = "cannot be set for a windows pod";

/// `spec.securityContext`.
pub(super) fn of_pod(spec: &At) {
    let context = spec.get("securityContext");
    for field in ["fsGroup", "runAsUser", "runAsGroup"] {
        context.get(field).within_if_set(0, MOST_ID);
    }
    context.get("supplementalGroups").each(|group| group.within(0, MOST_ID));
    let share = spec.get("shareProcessNamespace");
    if share.yes() && spec.get("hostPID").yes() {
        context
            .view("shareProcessNamespace", share.value())
            .invalid("ShareProcessNamespace and HostPID cannot both be enabled");
    }
    sysctls(spec, &context.get("sysctls"));
    context.get("fsGroupChangePolicy").one_of_if_set(&["Always", "OnRootMismatch"]);
    profiles(&context);
    context.get("supplementalGroupsPolicy").one_of_if_set(&["Merge", "Strict"]);
    context.get("seLinuxChangePolicy").one_of_if_set(&["MountOption", "Recursive"]);
}

fn profiles(context: &At) {
    context.on("seccompProfile", seccomp);
    context.on("windowsOptions", windows_options);
    context.on("appArmorProfile", app_armor);
}

fn is_sysctl(name: &str) -> bool {
    let part = |part: &str| {
        let ends = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        let bytes = part.as_bytes();
        let inner = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_');
        bytes.iter().all(inner) && ends(bytes.first()) && ends(bytes.last())
    };
    name.len() <= 253 && name.split(['.', '/']).all(part)
}

fn sysctls(spec: &At, list: &At) {
    let mut seen = HashSet::new();
    list.each(|sysctl| {
        let name = sysctl.get("name");
        if name.need() {
            if !is_sysctl(name.text()) {
                name.invalid("must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$");
            } else if seen.contains(name.text()) {
                name.duplicate();
            }
        }
        let plain = name.text().replace('/', ".");
        let ipc = ["kernel.sem", "kernel.shm", "kernel.msg", "fs.mqueue"].iter().any(|one| plain.starts_with(one));
        if spec.get("hostNetwork").yes() && plain.starts_with("net.") {
            name.invalid("may not be specified when 'hostNetwork' is true");
        } else if spec.get("hostIPC").yes() && ipc {
            name.invalid("may not be specified when 'hostIPC' is true");
        }
        seen.insert(name.text());
    });
}

fn seccomp(at: &At) {
    let (kind, profile) = (at.get("type"), at.get("localhostProfile"));
    if kind.need_because("type is required when seccompProfile is set") {
        kind.one_of(&["Localhost", "RuntimeDefault", "Unconfined"]);
    }
    if !kind.is("Localhost") {
        if profile.present() {
            profile.report(|path| {
                Error::invalid(path, Value::Null, "can only be set when seccomp type is Localhost")
                    .of_type(at.value(), "api.core.v1.SeccompProfile")
            });
        }
    } else if profile.present() {
        volumes::descending(&profile);
    } else {
        profile.required("must be set when seccomp type is Localhost");
    }
}

fn app_armor(at: &At) {
    let (kind, profile) = (at.get("type"), at.get("localhostProfile"));
    let need = "must be set when AppArmor type is Localhost";
    match kind.text() {
        "Localhost" if !profile.present() => profile.required(need),
        "Localhost" => {
            if profile.text().trim() != profile.text() {
                profile.invalid("must not be padded with whitespace");
            } else if profile.empty() {
                profile.required(need);
            }
            profile.no_longer_than(4095);
        }
        "RuntimeDefault" | "Unconfined" if profile.present() => {
            profile.invalid("can only be set when AppArmor type is Localhost");
        }
        "RuntimeDefault" | "Unconfined" => {}
        "" => kind.required("type is required when appArmorProfile is set"),
        _ => kind.one_of(&["Localhost", "RuntimeDefault", "Unconfined"]),
    }
}

/// `securityContext` of a container; `own_users` says that the pod has users of its own.
pub(super) fn of_container(at: &At, own_users: bool) {
    at.get("runAsUser").within_if_set(0, MOST_ID);
    at.get("runAsGroup").within_if_set(0, MOST_ID);
    let mount = at.get("procMount");
    mount.one_of_if_set(&["Default", "Unmasked"]);
    if mount.is("Unmasked") && !own_users {
        mount.invalid("`hostUsers` must be false to use `Unmasked`");
    }
    at.on("seccompProfile", seccomp);
    if *at.get("allowPrivilegeEscalation").value() == false {
        if at.get("privileged").yes() {
            at.invalid_type(
                CONTEXT,
                "cannot set `allowPrivilegeEscalation` to false and `privileged` to true",
            );
        }
        if at.get("capabilities.add").items().iter().any(|one| one == "CAP_SYS_ADMIN") {
            let why = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
            at.invalid_type(CONTEXT, why);
        }
    }
    at.on("windowsOptions", windows_options);
    at.on("appArmorProfile", app_armor);
}

const MOST_SPEC_BYTES: usize = 64 << 10;

fn windows_options(at: &At) {
    at.on("gmsaCredentialSpecName", |name| name.named(dns_subdomain));
    at.on("gmsaCredentialSpec", |spec| {
        if spec.empty() {
            spec.invalid("gmsaCredentialSpec cannot be an empty string");
        } else if spec.text().len() > MOST_SPEC_BYTES {
            spec.invalid("gmsaCredentialSpec size must be under 64 KiB");
        }
    });
    at.on("runAsUserName", windows_user);
}

fn windows_user(at: &At) {
    let text = at.text();
    if text.is_empty() {
        return at.invalid("runAsUserName cannot be an empty string");
    }
    if text.chars().any(|c| c.is_ascii_control()) {
        return at.invalid("runAsUserName cannot contain control characters");
    }
    let parts: Vec<&str> = text.split('\\').collect();
    let (domain, user) = match parts.as_slice() {
        [user] => (None, *user),
        [domain, user] => (Some(*domain), *user),
        _ => return at.invalid("runAsUserName cannot contain more than one backslash"),
    };
    if let Some(domain) = domain {
        if domain.len() >= 256 {
            at.invalid("runAsUserName's Domain length must be under 256 characters");
        }
        let bios = (1..=15).contains(&domain.len())
            && !domain.starts_with('.')
            && !domain.contains(|c: char| "\\/:*?\"<>|".contains(c));
        let label = |part: &str| {
            let bytes = part.as_bytes();
            bytes.len() <= 63
                && bytes.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-')
                && bytes.first().is_some_and(u8::is_ascii_alphanumeric)
                && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
        };
        if !bios && !domain.split('.').all(label) {
            at.invalid("runAsUserName's Domain doesn't match the NetBios nor the DNS format");
        }
    }
    if user.is_empty() {
        at.invalid("runAsUserName's User cannot be empty");
    } else if user.len() > 104 {
        at.invalid("runAsUserName's User length must not be longer than 104 characters");
    }
    if !user.is_empty() && user.chars().all(|c| matches!(c, '.' | ' ')) {
        at.invalid("runAsUserName's User cannot contain only periods or spaces");
    }
    if user.contains(|c: char| "\"/\\:;|=,+*?<>@[]".contains(c)) {
        at.invalid("runAsUserName's User cannot contain the following characters: \"/\\:;|=,+*?<>@[]");
    }
}

/// Containers in the machine's own context are all or none.
pub(super) fn windows_host_process(spec: &At) {
    let of_pod = spec.get("securityContext.windowsOptions.hostProcess");
    let (mut count, mut host) = (0, 0);
    containers::every(spec, |container| {
        let own = container.get("securityContext.windowsOptions.hostProcess");
        count += 1;
        if of_pod.present() && own.present() && of_pod.value() != own.value() {
            own.invalid(format!(
                "pod hostProcess value must be identical if both are specified, was {}",
                of_pod.value()
            ));
        }
        if own.yes() || (!own.present() && of_pod.yes()) {
            host += 1;
        }
    });
    if host == 0 {
        return;
    }
    if host != count {
        spec.invalid_as(
            "",
            "If pod contains any hostProcess containers then all containers must be HostProcess containers",
        );
    }
    if !spec.get("hostNetwork").yes() {
        spec.get("hostNetwork")
            .invalid_as(false, "hostNetwork must be true if pod contains any hostProcess containers");
    }
}

/// `spec.os`, and what does not fit it.
pub(super) fn os(spec: &At) {
    let name = spec.get("os.name");
    match name.text() {
        "" => name.required(""),
        "linux" => {
            let why = "windows options cannot be set for a linux pod";
            spec.get("securityContext.windowsOptions").never(why);
            containers::every(spec, |container| container.get("securityContext.windowsOptions").never(why));
        }
        "windows" => windows(spec),
        other => spec.get("os").report(|path| Error::not_supported(path, other, &["linux", "windows"])),
    }
}

const NOT_ON_WINDOWS: [&str; 15] = [
    "securityContext.appArmorProfile",
    "securityContext.seLinuxOptions",
    "hostUsers",
    "hostPID",
    "hostIPC",
    "securityContext.seccompProfile",
    "securityContext.fsGroup",
    "securityContext.fsGroupChangePolicy",
    "securityContext.sysctls",
    "shareProcessNamespace",
    "securityContext.runAsUser",
    "securityContext.runAsGroup",
    "securityContext.supplementalGroups",
    "securityContext.supplementalGroupsPolicy",
    "securityContext.seLinuxChangePolicy",
];
const NOT_IN_WINDOWS_CONTAINERS: [&str; 10] = [
    "appArmorProfile",
    "seLinuxOptions",
    "seccompProfile",
    "capabilities",
    "readOnlyRootFilesystem",
    "privileged",
    "allowPrivilegeEscalation",
    "procMount",
    "runAsUser",
    "runAsGroup",
];

fn windows(spec: &At) {
    let set = |value: &Value| !value.is_null() && *value != false;
    for field in NOT_ON_WINDOWS {
        let at = spec.get(field);
        let given = if matches!(field, "hostPID" | "hostIPC") { set(at.value()) } else { at.present() };
        if given {
            at.forbidden(WINDOWS);
        }
    }
    containers::every(spec, |container| {
        let context = container.get("securityContext");
        NOT_IN_WINDOWS_CONTAINERS.iter().for_each(|field| context.get(field).never(WINDOWS));
    });
}

/// The signal that ends a container.
pub(super) fn stop_signal(at: &At, os: &At) {
    match os.get("name").text() {
        _ if !os.present() => at.forbidden("may not be set for containers with empty `spec.os.name`"),
        "windows" => at.one_of(&["SIGKILL", "SIGTERM"]),
        "linux" => at.one_of(&SIGNALS),
        _ => {}
    }
}

const SIGNALS: [&str; 65] = [
    "SIGABRT",
    "SIGALRM",
    "SIGBUS",
    "SIGCHLD",
    "SIGCLD",
    "SIGCONT",
    "SIGFPE",
    "SIGHUP",
    "SIGILL",
    "SIGINT",
    "SIGIO",
    "SIGIOT",
    "SIGKILL",
    "SIGPIPE",
    "SIGPOLL",
    "SIGPROF",
    "SIGPWR",
    "SIGQUIT",
    "SIGRTMAX",
    "SIGRTMAX-1",
    "SIGRTMAX-10",
    "SIGRTMAX-11",
    "SIGRTMAX-12",
    "SIGRTMAX-13",
    "SIGRTMAX-14",
    "SIGRTMAX-2",
    "SIGRTMAX-3",
    "SIGRTMAX-4",
    "SIGRTMAX-5",
    "SIGRTMAX-6",
    "SIGRTMAX-7",
    "SIGRTMAX-8",
    "SIGRTMAX-9",
    "SIGRTMIN",
    "SIGRTMIN+1",
    "SIGRTMIN+10",
    "SIGRTMIN+11",
    "SIGRTMIN+12",
    "SIGRTMIN+13",
    "SIGRTMIN+14",
    "SIGRTMIN+15",
    "SIGRTMIN+2",
    "SIGRTMIN+3",
    "SIGRTMIN+4",
    "SIGRTMIN+5",
    "SIGRTMIN+6",
    "SIGRTMIN+7",
    "SIGRTMIN+8",
    "SIGRTMIN+9",
    "SIGSEGV",
    "SIGSTKFLT",
    "SIGSTOP",
    "SIGSYS",
    "SIGTERM",
    "SIGTRAP",
    "SIGTSTP",
    "SIGTTIN",
    "SIGTTOU",
    "SIGURG",
    "SIGUSR1",
    "SIGUSR2",
    "SIGVTALRM",
    "SIGWINCH",
    "SIGXCPU",
    "SIGXFSZ",
];
