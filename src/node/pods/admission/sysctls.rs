//! Which kernel parameters pods may set: those that the kernel keeps per pod and that harm no other, and what
//! an administrator allows besides.

use super::{Rejection, rejected};
use crate::pods::spec;
use api::core::Pod;

/// The safe ones. All are kept per namespace since Linux 4.15.
const SAFE: [&str; 12] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_wmem",
];

/// Slashes stand for dots where the first separator is one.
fn normalized(name: &str) -> String {
    match name.find(['.', '/']) {
        Some(at) if name.as_bytes()[at] == b'/' => name
            .chars()
            .map(|c| {
                if c == '/' {
                    '.'
                } else if c == '.' {
                    '/'
                } else {
                    c
                }
            })
            .collect(),
        _ => name.to_owned(),
    }
}

/// The namespace that the kernel keeps a parameter in, as messages name it.
fn namespace(name: &str) -> Option<&'static str> {
    let ipc = ["kernel.shm", "kernel.msg", "kernel.sem", "fs.mqueue."];
    if ipc.iter().any(|prefix| name.starts_with(prefix)) {
        return Some("IPC");
    }
    name.starts_with("net.").then_some("Net")
}

fn is_allowed(name: &str, more: &[String]) -> bool {
    let fits = |pattern: &String| match normalized(pattern).strip_suffix('*') {
        Some(prefix) => name.starts_with(prefix),
        None => name == normalized(pattern),
    };
    SAFE.contains(&name) || more.iter().any(fits)
}

/// Refuses what is not allowed, and what would change the machine's own.
pub(super) fn check(pod: &Pod, more: &[String]) -> Result<(), Rejection> {
    let context = spec::spec(pod).security_context.as_ref();
    for sysctl in context.and_then(|context| context.sysctls.as_deref()).unwrap_or_default() {
        let name = normalized(&sysctl.name);
        let shared = match namespace(&name) {
            Some("IPC") => spec::spec(pod).host_ipc == Some(true),
            Some(_) => spec::host_network(pod),
            None => false,
        };
        let why = if !is_allowed(&name, more) {
            format!("{name:?} not allowlisted")
        } else if shared {
            format!("{name:?} not allowed with host {} enabled", namespace(&name).unwrap_or_default())
        } else {
            continue;
        };
        return Err(rejected("SysctlForbidden", format!("forbidden sysctl: {why}")));
    }
    Ok(())
}
