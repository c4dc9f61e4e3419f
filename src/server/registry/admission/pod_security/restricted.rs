//! The rules of the restricted level: pods do no more than they say they need.

use super::super::{items, text};
use super::baseline::{bad_seccomp, is_seccomp, proc_mount_always, seccomp_type};
use super::policy::{Check, Subject, Violation, containers, plural, quoted, setters};
use serde_json::Value;
use std::collections::BTreeSet;

pub(super) const RESTRICTED: &[Check] = &[
    Check { name: "allowPrivilegeEscalation", since: 8, overrides: "", run: escalation },
    Check {
        name: "capabilities_restricted",
        since: 22,
        overrides: "capabilities_baseline",
        run: capabilities,
    },
    Check { name: "procMount_restricted", since: 35, overrides: "procMount", run: proc_mount_always },
    Check { name: "restrictedVolumes", since: 0, overrides: "hostPathVolumes", run: volumes },
    Check { name: "runAsNonRoot", since: 0, overrides: "", run: non_root },
    Check { name: "runAsUser", since: 23, overrides: "", run: user },
    Check {
        name: "seccompProfile_restricted",
        since: 19,
        overrides: "seccompProfile_baseline",
        run: seccomp,
    },
];

fn context(of: &Value) -> &Value {
    &of["securityContext"]
}

fn escalation(pod: &Subject) -> Option<Violation> {
    if pod.is_exempt_windows() {
        return None;
    }
    let names = pod.named(|container| context(container)["allowPrivilegeEscalation"] != false);
    (!names.is_empty()).then(|| {
        let detail =
            format!("{} must set securityContext.allowPrivilegeEscalation=false", containers(&names));
        Violation::new("allowPrivilegeEscalation != false", detail)
    })
}

fn capabilities(pod: &Subject) -> Option<Violation> {
    if pod.is_exempt_windows() {
        return None;
    }
    let of = |container: &Value, field: &str| -> Vec<String> {
        let list = items(&context(container)["capabilities"], field).iter();
        list.filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let foreign = |container: &Value| -> BTreeSet<String> {
        of(container, "add").into_iter().filter(|name| name != "NET_BIND_SERVICE").collect()
    };
    let keeping = pod.named(|container| !of(container, "drop").iter().any(|name| name == "ALL"));
    let adding = pod.named(|container| !foreign(container).is_empty());
    let mut details = Vec::new();
    if !keeping.is_empty() {
        details
            .push(format!("{} must set securityContext.capabilities.drop=[\"ALL\"]", containers(&keeping)));
    }
    if !adding.is_empty() {
        let all: BTreeSet<String> = pod.containers().flat_map(foreign).collect();
        details.push(format!(
            "{} must not include {} in securityContext.capabilities.add",
            containers(&adding),
            quoted(all)
        ));
    }
    (!details.is_empty()).then(|| Violation::new("unrestricted capabilities", details.join("; ")))
}

const VOLUMES: [&str; 9] = [
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
];

fn volumes(pod: &Subject) -> Option<Violation> {
    let allowed = |volume: &Value| VOLUMES.iter().any(|source| !volume[*source].is_null());
    let bad: Vec<&Value> = items(pod.spec, "volumes").iter().filter(|volume| !allowed(volume)).collect();
    if bad.is_empty() {
        return None;
    }
    let source = |volume: &Value| {
        let fields = volume.as_object().into_iter().flatten();
        let mut sources = fields.filter(|(name, value)| *name != "name" && !value.is_null());
        sources.next().map_or_else(|| "unknown".to_owned(), |(name, _)| name.clone())
    };
    let types: BTreeSet<String> = bad.iter().map(|volume| source(volume)).collect();
    let names = quoted(bad.iter().map(|volume| text(volume, "name")));
    let uses = if bad.len() == 1 { "uses" } else { "use" };
    let kinds = plural("restricted volume type", types.len());
    let detail = format!("{} {names} {uses} {kinds} {}", plural("volume", bad.len()), quoted(types));
    Some(Violation::new("restricted volume types", detail))
}

fn non_root(pod: &Subject) -> Option<Violation> {
    if pod.is_in_user_namespace() {
        return None;
    }
    let own = |of: &Value| context(of)["runAsNonRoot"].as_bool();
    let reason = "runAsNonRoot != true";
    if let Some(who) = setters(own(pod.spec) == Some(false), &pod.named(|one| own(one) == Some(false))) {
        return Some(Violation::new(
            reason,
            format!("{who} must not set securityContext.runAsNonRoot=false"),
        ));
    }
    let silent = pod.named(|one| own(one).is_none());
    (own(pod.spec).is_none() && !silent.is_empty()).then(|| {
        let detail = format!("pod or {} must set securityContext.runAsNonRoot=true", containers(&silent));
        Violation::new(reason, detail)
    })
}

fn user(pod: &Subject) -> Option<Violation> {
    let root = |of: &Value| context(of)["runAsUser"] == 0;
    if pod.is_in_user_namespace() {
        return None;
    }
    let who = setters(root(pod.spec), &pod.named(root))?;
    Some(Violation::new("runAsUser=0", format!("{who} must not set runAsUser=0")))
}

fn seccomp(pod: &Subject) -> Option<Violation> {
    if pod.is_exempt_windows() {
        return None;
    }
    if let Some(bad) = bad_seccomp(pod) {
        return Some(bad);
    }
    let silent = pod.named(|container| seccomp_type(container).is_none());
    let covered = seccomp_type(pod.spec).is_some_and(is_seccomp);
    (!covered && !silent.is_empty()).then(|| {
        let detail = format!(
            "pod or {} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\"",
            containers(&silent)
        );
        Violation::new("seccompProfile", detail)
    })
}
