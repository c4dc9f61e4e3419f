//! PodSecurity: a namespace's labels say how much its pods may do (KEP-2579).

mod baseline;
mod policy;
mod restricted;

use super::view::row;
use super::{Request, STEP as PLAIN, Step, Verdict, items, text};
use api::status::Refusal;
use policy::{Level, Pin, Policy};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

pub(super) const STEP: Step = Step {
    name: "PodSecurity",
    targets: &[
        "namespaces",
        "pods",
        "pods/ephemeralcontainers",
        "pods/resize",
        "podtemplates",
        "replicationcontrollers",
        "replicasets.apps",
        "deployments.apps",
        "statefulsets.apps",
        "daemonsets.apps",
        "jobs.batch",
        "cronjobs.batch",
    ],
    validate: |request, object| match request.kind.kind {
        "Namespace" => namespace(request, object),
        "Pod" => pod(request, object),
        _ => {
            template(request, object);
            Ok(())
        }
    },
    ..PLAIN
};

/// How many pods are looked at when a namespace becomes stricter.
const PODS_CHECKED: usize = 3000;

fn policy_of(request: &Request) -> Policy {
    let namespace = request.view.record(row("v1", "Namespace"), "", request.namespace);
    Policy::of(|label| namespace.and_then(|record| record.index.label(label))).0
}

fn pod(request: &Request, pod: &Value) -> Verdict {
    let policy = policy_of(request);
    if policy.allows_all() || (!request.creates() && !is_significant(pod, request.old)) {
        return Ok(());
    }
    if let Some(details) = policy.enforce.violations(&pod["metadata"], &pod["spec"]).details() {
        return Err(request.forbidden(pod, format!("violates PodSecurity \"{}\": {details}", policy.enforce)));
    }
    warn(request, &policy.warn, pod);
    Ok(())
}

/// Workloads are not refused: their writer is told what will become of their pods.
fn template(request: &Request, object: &Value) {
    let pointer = match request.kind.kind {
        "PodTemplate" => "/template",
        "CronJob" => "/spec/jobTemplate/spec/template",
        _ => "/spec/template",
    };
    if let Some(template) = object.pointer(pointer).filter(|template| template.is_object()) {
        warn(request, &policy_of(request).warn, template);
    }
}

fn warn(request: &Request, pin: &Pin, pod: &Value) {
    if let Some(details) = pin.violations(&pod["metadata"], &pod["spec"]).details() {
        request.warn(format!("would violate PodSecurity \"{pin}\": {details}"));
    }
}

/// Whether a change of a pod is one that policies are about.
fn is_significant(pod: &Value, old: &Value) -> bool {
    let differ = |list: &str| {
        let (new, old) = (items(&pod["spec"], list), items(&old["spec"], list));
        new.len() != old.len() || new.iter().zip(old).any(|(new, old)| new["image"] != old["image"])
    };
    let before = items(&old["spec"], "ephemeralContainers");
    let added = items(&pod["spec"], "ephemeralContainers").iter().any(|container| {
        let same = before.iter().find(|old| old["name"] == container["name"]);
        same.is_none_or(|old| old["image"] != container["image"])
    });
    differ("containers") || differ("initContainers") || added
}

fn namespace(request: &Request, namespace: &Value) -> Verdict {
    let labels = |object: &Value| {
        let labels = object["metadata"]["labels"].clone();
        Policy::of(|label| labels[label].as_str())
    };
    let ((new, errors), (old, before)) = (labels(namespace), labels(request.old));
    if !errors.is_empty() && (request.creates() || errors != before) {
        let name = text(&namespace["metadata"], "name");
        return Err(Refusal::invalid(request.kind, name, &errors));
    }
    let relaxed = new.enforce.version == old.enforce.version && new.enforce.level <= old.enforce.level;
    if !request.creates() && new.enforce.level != Level::Privileged && new.enforce != old.enforce && !relaxed
    {
        let name = text(&namespace["metadata"], "name");
        let pods = request.view.list(row("v1", "Pod"), name);
        existing(name, &new.enforce, pods).into_iter().for_each(|warning| request.warn(warning));
    }
    Ok(())
}

/// One pod of each controller comes first: the others are like it.
fn in_turn(pods: Vec<Value>) -> Vec<Value> {
    let mut seen = BTreeSet::new();
    let (first, rest): (Vec<Value>, Vec<Value>) = pods.into_iter().partition(|pod| {
        let owner =
            items(&pod["metadata"], "ownerReferences").iter().find(|owner| owner["controller"] == true);
        owner.is_none_or(|owner| seen.insert(text(owner, "uid").to_owned()))
    });
    first.into_iter().chain(rest).collect()
}

/// What to warn of when a namespace with pods becomes stricter.
fn existing(namespace: &str, pin: &Pin, pods: Vec<Value>) -> Vec<String> {
    let total = pods.len();
    let mut found: BTreeMap<String, (String, usize)> = BTreeMap::new();
    for pod in in_turn(pods).into_iter().take(PODS_CHECKED) {
        let violations = pin.violations(&pod["metadata"], &pod["spec"]);
        let Some(reasons) = violations.reasons() else { continue };
        let name = text(&pod["metadata"], "name").to_owned();
        let entry = found.entry(reasons).or_insert_with(|| (name.clone(), 0));
        entry.1 += 1;
        if name < entry.0 {
            entry.0 = name;
        }
    }
    let mut warnings = Vec::new();
    if total > PODS_CHECKED {
        warnings.push(format!("new PodSecurity enforce level only checked against the first {PODS_CHECKED} of {total} existing pods"));
    }
    if !found.is_empty() {
        warnings.push(format!(
            "existing pods in namespace {namespace:?} violate the new PodSecurity enforce level \"{pin}\""
        ));
    }
    let mut lines: Vec<String> = found
        .into_iter()
        .map(|(reasons, (name, count))| match count {
            1 => format!("{name}: {reasons}"),
            2 => format!("{name} (and 1 other pod): {reasons}"),
            _ => format!("{name} (and {} other pods): {reasons}", count - 1),
        })
        .collect();
    lines.sort();
    warnings.extend(lines);
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn details(level: &str, pod: &Value) -> String {
        let (policy, errors) =
            Policy::of(|label| (label == "pod-security.kubernetes.io/enforce").then_some(level));
        assert!(errors.is_empty());
        policy.enforce.violations(&pod["metadata"], &pod["spec"]).details().unwrap_or_default()
    }

    #[test]
    fn violations_are_told_in_kubernetes_words() {
        let plain = json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}]}});
        assert_eq!(details("baseline", &plain), "");
        assert_eq!(
            details("restricted", &plain),
            "allowPrivilegeEscalation != false (containers \"a\", \"b\" must set securityContext.allowPrivilegeEscalation=false), unrestricted capabilities (containers \"a\", \"b\" must set securityContext.capabilities.drop=[\"ALL\"]), runAsNonRoot != true (pod or containers \"a\", \"b\" must set securityContext.runAsNonRoot=true), seccompProfile (pod or containers \"a\", \"b\" must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")"
        );
        let wide = json!({"spec": {"hostNetwork": true, "hostPID": true, "volumes": [{"name": "h", "hostPath": {"path": "/"}}],
            "containers": [{"name": "a", "securityContext": {"privileged": true, "capabilities": {"add": ["NET_ADMIN"]}}, "ports": [{"containerPort": 80, "hostPort": 80}]}]}});
        assert_eq!(
            details("baseline", &wide),
            "non-default capabilities (container \"a\" must not include \"NET_ADMIN\" in securityContext.capabilities.add), host namespaces (hostNetwork=true, hostPID=true), hostPath volumes (volume \"h\"), hostPort (container \"a\" uses hostPort 80), privileged (container \"a\" must not set securityContext.privileged=true)"
        );
        let good = json!({"spec": {"securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{"name": "a", "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}}}]}});
        assert_eq!(details("restricted", &good), "");
    }

    #[test]
    fn versions_pin_the_rules() {
        let pinned = |version: &'static str| {
            let (policy, _) = Policy::of(move |label| match label {
                "pod-security.kubernetes.io/enforce" => Some("baseline"),
                "pod-security.kubernetes.io/enforce-version" => Some(version),
                _ => None,
            });
            policy.enforce
        };
        let probe =
            json!({"spec": {"containers": [{"name": "a", "livenessProbe": {"httpGet": {"host": "x"}}}]}});
        let told = |pin: Pin| pin.violations(&probe["metadata"], &probe["spec"]).details();
        assert_eq!(told(pinned("v1.33")), None);
        assert_eq!(
            told(pinned("latest")).unwrap(),
            "probe or lifecycle host (container \"a\" uses probe or lifecycle host \"x\")"
        );
        assert_eq!(pinned("v1.33").to_string(), "baseline:v1.33");
    }

    #[test]
    fn labels_are_checked_and_fail_safe() {
        let (policy, errors) =
            Policy::of(|label| (label == "pod-security.kubernetes.io/enforce").then_some("none"));
        assert_eq!(policy.enforce.level, Level::Restricted);
        assert_eq!(
            errors[0].to_string(),
            "metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: \"none\": must be one of privileged, baseline, restricted"
        );
    }

    #[test]
    fn pods_that_are_there_are_counted_by_what_is_wrong() {
        let pod =
            |name: &str| json!({"metadata": {"name": name}, "spec": {"hostNetwork": true, "containers": []}});
        let (policy, _) =
            Policy::of(|label| (label == "pod-security.kubernetes.io/enforce").then_some("baseline"));
        assert_eq!(
            existing("web", &policy.enforce, vec![pod("c"), pod("a"), pod("b")]),
            [
                "existing pods in namespace \"web\" violate the new PodSecurity enforce level \"baseline:latest\"",
                "a (and 2 other pods): host namespaces"
            ]
        );
    }
}
