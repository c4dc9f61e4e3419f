//! What containers that debug may do, by profiles whose names are kubectl's.

use super::Keep;
use crate::error::Error;
use crate::pods;
use serde_json::{Value, json};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Profile {
    Legacy,
    General,
    Baseline,
    Restricted,
    Netadmin,
    Sysadmin,
}

/// How is debugged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    Ephemeral,
    Copy,
    Node,
}

impl Profile {
    pub(super) fn parse(text: &str) -> Result<Self, Error> {
        Ok(match text {
            "legacy" => Self::Legacy,
            "general" => Self::General,
            "baseline" => Self::Baseline,
            "restricted" => Self::Restricted,
            "netadmin" => Self::Netadmin,
            "sysadmin" => Self::Sysadmin,
            _ => return Err(Error::plain(format!("unknown profile: {text}"))),
        })
    }

    /// Changes the pod and its container of this name.
    pub(super) fn apply(self, pod: &mut Value, name: &str, style: Style, keep: Keep) {
        if style == Style::Copy {
            strip(pod, self, keep);
        }
        if style == Style::Node && !matches!(self, Self::Baseline | Self::Restricted) {
            for field in ["hostNetwork", "hostPID", "hostIPC"] {
                pod["spec"][field] = json!(true);
            }
        }
        let sees_files =
            style == Style::Node && matches!(self, Self::Legacy | Self::General | Self::Sysadmin);
        if sees_files {
            pod["spec"]["volumes"] = json!([{"name": "host-root", "hostPath": {"path": "/"}}]);
        }
        let Some(container) = find(pod, name) else { return };
        if sees_files {
            container["volumeMounts"] = json!([{"name": "host-root", "mountPath": "/host"}]);
        }
        if matches!(self, Self::Baseline | Self::Restricted)
            || (self == Self::General && style == Style::Node)
        {
            container.as_object_mut().and_then(|fields| fields.remove("securityContext"));
        }
        match self {
            Self::General if style != Style::Node => add(container, &["SYS_PTRACE"]),
            Self::Netadmin => add(container, &["NET_ADMIN", "NET_RAW"]),
            Self::Sysadmin => container["securityContext"]["privileged"] = json!(true),
            Self::Restricted => {
                container["securityContext"] = json!({"runAsNonRoot": true, "capabilities": {"drop": ["ALL"]},
                    "allowPrivilegeEscalation": false, "seccompProfile": {"type": "RuntimeDefault"}});
            }
            Self::Legacy | Self::General | Self::Baseline => {}
        }
    }
}

/// Takes from a copy what would have others take it for the pod that it is a copy of.
fn strip(pod: &mut Value, profile: Profile, keep: Keep) {
    let remove = |object: &mut Value, field: &str| {
        object.as_object_mut().and_then(|fields| fields.remove(field));
    };
    if profile == Profile::Legacy {
        return remove(&mut pod["metadata"], "labels");
    }
    for (field, kept) in [("labels", keep.labels), ("annotations", keep.annotations)] {
        if !kept {
            remove(&mut pod["metadata"], field);
        }
    }
    let probes = [
        ("livenessProbe", keep.liveness),
        ("readinessProbe", keep.readiness),
        ("startupProbe", keep.startup),
    ];
    for container in pod["spec"]["containers"].as_array_mut().into_iter().flatten() {
        for (probe, kept) in probes {
            if !kept {
                remove(container, probe);
            }
        }
    }
    if !keep.init_containers {
        remove(&mut pod["spec"], "initContainers");
    }
    if pod["spec"]["shareProcessNamespace"].is_null() {
        pod["spec"]["shareProcessNamespace"] = json!(true);
    }
}

fn add(container: &mut Value, capabilities: &[&str]) {
    let added = &mut container["securityContext"]["capabilities"]["add"];
    let mut all = added.as_array().cloned().unwrap_or_default();
    all.extend(capabilities.iter().map(|one| json!(one)));
    *added = all.into();
}

/// A container of any kind, to be changed.
pub(super) fn find<'a>(pod: &'a mut Value, name: &str) -> Option<&'a mut Value> {
    let lists = ["containers", "initContainers", "ephemeralContainers"];
    let list =
        lists.into_iter().find(|list| pods::containers(pod, &[list]).any(|one| one["name"] == name))?;
    pod["spec"][list].as_array_mut()?.iter_mut().find(|one| one["name"] == name)
}

/// Warns of rights that a user other than root does not get.
pub(super) fn warn_of_user(pod: &Value, container: &Value) {
    let user = |object: &Value| object["securityContext"]["runAsUser"].as_i64();
    let rights = container["securityContext"]["privileged"] == true
        || container["securityContext"]["capabilities"]["add"].as_array().is_some_and(|all| !all.is_empty());
    if user(&pod["spec"]).is_some_and(|user| user != 0) && user(container) != Some(0) && rights {
        eprintln!(
            "Warning: Non-root user is configured for the entire target Pod, and some capabilities granted by debug profile may not work. Please consider using \"--custom\" with a custom profile that specifies \"securityContext.runAsUser: 0\"."
        );
    }
}
