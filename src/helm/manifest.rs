//! What rendered files are: objects to keep, in the order of their kinds, and hooks.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// In which order kinds are made (Helm's `InstallOrder`); others come last, by name.
const INSTALL_ORDER: [&str; 38] = [
    "PriorityClass",
    "Namespace",
    "NetworkPolicy",
    "ResourceQuota",
    "LimitRange",
    "PodSecurityPolicy",
    "PodDisruptionBudget",
    "ServiceAccount",
    "Secret",
    "SecretList",
    "ConfigMap",
    "StorageClass",
    "PersistentVolume",
    "PersistentVolumeClaim",
    "CustomResourceDefinition",
    "ClusterRole",
    "ClusterRoleList",
    "ClusterRoleBinding",
    "ClusterRoleBindingList",
    "Role",
    "RoleList",
    "RoleBinding",
    "RoleBindingList",
    "Service",
    "DaemonSet",
    "Pod",
    "ReplicationController",
    "ReplicaSet",
    "Deployment",
    "HorizontalPodAutoscaler",
    "StatefulSet",
    "Job",
    "CronJob",
    "IngressClass",
    "Ingress",
    "APIService",
    "MutatingWebhookConfiguration",
    "ValidatingWebhookConfiguration",
];

/// When a hook runs. Those of rollbacks and tests are Helm's alone to run.
const EVENTS: [&str; 10] = [
    "pre-install",
    "post-install",
    "pre-delete",
    "post-delete",
    "pre-upgrade",
    "post-upgrade",
    "pre-rollback",
    "post-rollback",
    "test",
    "test-success",
];

/// A hook, as releases keep it.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(default)]
pub(crate) struct Hook {
    pub(crate) name: String,
    pub(crate) kind: String,
    pub(crate) path: String,
    pub(crate) manifest: String,
    pub(crate) events: Vec<String>,
    pub(crate) last_run: Value,
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) weight: i64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) delete_policies: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) output_log_policies: Vec<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "so serde asks")]
fn is_zero(number: &i64) -> bool {
    *number == 0
}

/// An object that the release keeps.
#[derive(Clone, Debug)]
pub(crate) struct Manifest {
    pub(crate) path: String,
    pub(crate) kind: String,
    pub(crate) text: String,
}

/// The release's hooks and objects.
pub(crate) fn sort(files: &BTreeMap<String, String>) -> Result<(Vec<Hook>, Vec<Manifest>), String> {
    let (mut hooks, mut kept) = (Vec::new(), Vec::new());
    for (path, content) in files {
        for text in split(content) {
            let head = api::yaml::first(text.as_bytes())
                .map_err(|error| {
                    format!("YAML parse error on {path}: error converting YAML to JSON: {error}")
                })?
                .value;
            let word = |at: &str| head.pointer(at).and_then(Value::as_str).unwrap_or_default().to_owned();
            let kind = word("/kind");
            let Some(events) = head.pointer("/metadata/annotations/helm.sh~1hook").and_then(Value::as_str)
            else {
                kept.push(Manifest { path: path.clone(), kind, text: text.to_owned() });
                continue;
            };
            let events = words(events);
            if events.iter().any(|event| !EVENTS.contains(&event.as_str())) {
                tracing::info!(path, ?events, "a hook of an unknown kind is passed over");
                continue;
            }
            let annotation = |name: &str| word(&format!("/metadata/annotations/helm.sh~1{name}"));
            hooks.push(Hook {
                name: word("/metadata/name"),
                kind,
                path: path.clone(),
                manifest: text.to_owned(),
                events: events.iter().map(|event| event.replace("test-success", "test")).collect(),
                last_run: serde_json::json!({"phase": ""}),
                weight: annotation("hook-weight").parse().unwrap_or(0),
                delete_policies: words(&annotation("hook-delete-policy")),
                output_log_policies: words(&annotation("hook-output-log-policy")),
            });
        }
    }
    hooks.sort_by(|one, two| place(&one.kind).cmp(&place(&two.kind)));
    kept.sort_by(|one, two| place(&one.kind).cmp(&place(&two.kind)));
    Ok((hooks, kept))
}

fn words(text: &str) -> Vec<String> {
    text.split(',').map(|word| word.trim().to_lowercase()).filter(|word| !word.is_empty()).collect()
}

/// Where a kind stands in the order of making.
pub(crate) fn place(kind: &str) -> (usize, &str) {
    match INSTALL_ORDER.iter().position(|known| *known == kind) {
        Some(place) => (place, ""),
        None => (INSTALL_ORDER.len(), kind),
    }
}

/// The documents of a rendered file. Helm cuts wherever a line begins with dashes, whatever stands behind them.
pub(crate) fn split(content: &str) -> Vec<&str> {
    let content = content.trim_start();
    let (mut parts, mut start, mut line) = (Vec::new(), 0, 0);
    loop {
        if content[line..].starts_with("---") {
            parts.push(&content[start..line]);
            start = line + 3;
            start += content[start..].len() - content[start..].trim_start_matches([' ', '\t']).len();
        }
        match content[line.max(start)..].find('\n') {
            Some(newline) => line = line.max(start) + newline + 1,
            None => break,
        }
    }
    parts.push(&content[start..]);
    parts.into_iter().map(str::trim_start).filter(|part| !part.trim().is_empty()).collect()
}

/// All objects of a release as one text, as releases keep it.
pub(crate) fn joined(kept: &[Manifest]) -> String {
    kept.iter().map(|one| format!("---\n# Source: {}\n{}\n", one.path, one.text)).collect()
}

/// The objects of such a text; what is no object is passed over. Lists are taken apart.
pub(crate) fn objects(text: &str) -> Result<Vec<Value>, String> {
    let mut found = Vec::new();
    for part in split(text) {
        let read = api::yaml::first(part.as_bytes()).map_err(|error| error.to_string())?.value;
        let is_list = read["kind"].as_str().is_some_and(|kind| kind.ends_with("List"));
        match read.get("items").and_then(Value::as_array).filter(|_| is_list) {
            Some(items) => found.extend(items.iter().cloned()),
            None if read.is_object() => found.push(read),
            None => {}
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_cut_as_helm_cuts_them() {
        assert_eq!(
            split("---\na: 1\n--- # c\nb: 2\n---\n\n---b: 3\nx: |\n  ---\n"),
            ["a: 1\n", "# c\nb: 2\n", "b: 3\nx: |\n  ---\n"]
        );
        assert_eq!(split("\n\n"), [""; 0]);
    }

    #[test]
    fn objects_are_in_the_order_of_their_kinds() {
        let files = BTreeMap::from([
            ("a".to_owned(), "kind: Deployment\n---\nkind: Zebra\n---\nkind: Apple\n---\nkind: Service".to_owned()),
            ("b".to_owned(), "kind: Job\nmetadata: {name: j, annotations: {helm.sh/hook: 'pre-install, post-upgrade', helm.sh/hook-weight: '-5'}}".to_owned()),
        ]);
        let (hooks, kept) = sort(&files).unwrap();
        let kinds: Vec<&str> = kept.iter().map(|one| one.kind.as_str()).collect();
        assert_eq!(kinds, ["Service", "Deployment", "Apple", "Zebra"]);
        assert_eq!((hooks[0].weight, hooks[0].events.join(" ")), (-5, "pre-install post-upgrade".to_owned()));
    }
}
