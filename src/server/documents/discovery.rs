//! Discovery, legacy (`APIGroupList`, `APIResourceList`) and aggregated (apidiscovery.k8s.io/v2).

use api::kinds::{Kind, Subresource, group_versions, served};
use serde_json::{Value, json};

/// The groups in order, each with its versions; the core group is "".
fn grouped() -> Vec<(&'static str, Vec<&'static str>)> {
    let mut groups: Vec<(&str, Vec<&str>)> = Vec::new();
    for (group, version) in group_versions() {
        match groups.iter_mut().find(|(name, _)| *name == group) {
            Some((_, versions)) => versions.push(version),
            None => groups.push((group, vec![version])),
        }
    }
    // Stable versions are preferred, whatever the order of rows.
    groups.iter_mut().for_each(|(_, versions)| {
        versions.sort_by_key(|version| (version.len(), std::cmp::Reverse(*version)))
    });
    groups
}

fn version_entry(group: &str, version: &str) -> Value {
    json!({"groupVersion": format!("{group}/{version}"), "version": version})
}

fn group_entry(group: &str, versions: &[&str]) -> Value {
    let entries: Vec<Value> = versions.iter().map(|version| version_entry(group, version)).collect();
    json!({"name": group, "versions": entries, "preferredVersion": entries[0]})
}

/// `/api`.
pub(super) fn core_versions() -> Value {
    json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []})
}

/// `/apis`.
pub(super) fn groups() -> Value {
    let groups: Vec<Value> = grouped()
        .iter()
        .filter(|(group, _)| !group.is_empty())
        .map(|(group, versions)| group_entry(group, versions))
        .collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `/apis/GROUP`.
pub(super) fn group(name: &str) -> Option<Value> {
    let groups = grouped();
    let (group, versions) = groups.iter().find(|(group, _)| *group == name && !name.is_empty())?;
    let mut entry = group_entry(group, versions);
    entry["kind"] = json!("APIGroup");
    entry["apiVersion"] = json!("v1");
    Some(entry)
}

fn kinds_of<'a>(group: &'a str, version: &'a str) -> impl Iterator<Item = &'static Kind> + use<'a> {
    served().filter(move |kind| kind.group == group && kind.version == version)
}

/// The kind that a subresource takes.
fn subresource_kind(kind: &Kind, subresource: &Subresource) -> String {
    match subresource.kind {
        "" => kind.kind.to_owned(),
        pattern => pattern.replace('*', kind.kind),
    }
}

/// `/api/v1` or `/apis/GROUP/VERSION`.
pub(super) fn resources(group: &str, version: &str) -> Option<Value> {
    let mut entries = Vec::new();
    for kind in kinds_of(group, version) {
        let mut entry = json!({"name": kind.plural, "singularName": kind.singular(), "namespaced": kind.namespaced, "kind": kind.kind, "verbs": kind.verbs});
        if !kind.short_names.is_empty() {
            entry["shortNames"] = json!(kind.short_names);
        }
        if !kind.category.is_empty() {
            entry["categories"] = json!([kind.category]);
        }
        entries.push(entry);
        for subresource in kind.subresources {
            let mut entry = json!({
                "name": format!("{}/{}", kind.plural, subresource.name), "singularName": "", "namespaced": kind.namespaced,
                "kind": subresource_kind(kind, subresource), "verbs": subresource.verbs,
            });
            if !subresource.version.is_empty() {
                entry["group"] = json!(subresource.group);
                entry["version"] = json!(subresource.version);
            }
            entries.push(entry);
        }
    }
    let group_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    let list = json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": entries});
    (!entries_are_empty(&list)).then_some(list)
}

fn entries_are_empty(list: &Value) -> bool {
    list["resources"].as_array().is_none_or(Vec::is_empty)
}

/// `/api` and `/apis` as one document for all groups.
pub(super) fn aggregated(core: bool) -> Value {
    let groups = grouped().into_iter().filter(|(group, _)| group.is_empty() == core);
    let items: Vec<Value> = groups
        .map(|(group, versions)| {
            let versions: Vec<Value> = versions
                .iter()
                .map(|version| {
                    let resources: Vec<Value> = kinds_of(group, version).map(aggregated_resource).collect();
                    json!({"version": version, "resources": resources, "freshness": "Current"})
                })
                .collect();
            let metadata = if group.is_empty() {
                json!({"creationTimestamp": null})
            } else {
                json!({"name": group, "creationTimestamp": null})
            };
            json!({"metadata": metadata, "versions": versions})
        })
        .collect();
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items})
}

fn aggregated_resource(kind: &'static Kind) -> Value {
    let mut entry = json!({
        "resource": kind.plural,
        "responseKind": {"group": kind.group, "version": kind.version, "kind": kind.kind},
        "scope": if kind.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": kind.singular(),
        "verbs": kind.verbs,
    });
    if !kind.short_names.is_empty() {
        entry["shortNames"] = json!(kind.short_names);
    }
    if !kind.category.is_empty() {
        entry["categories"] = json!([kind.category]);
    }
    if !kind.subresources.is_empty() {
        entry["subresources"] =
            kind.subresources.iter().map(|subresource| aggregated_subresource(kind, subresource)).collect();
    }
    entry
}

fn aggregated_subresource(kind: &Kind, subresource: &Subresource) -> Value {
    let (group, version) = match subresource.version {
        "" => (kind.group, kind.version),
        version => (subresource.group, version),
    };
    json!({
        "subresource": subresource.name,
        "responseKind": {"group": group, "version": version, "kind": subresource_kind(kind, subresource)},
        "verbs": subresource.verbs,
    })
}

/// `/`: what can be asked for.
pub(super) fn paths() -> Vec<String> {
    let mut paths: Vec<String> = [
        "/api",
        "/api/v1",
        "/apis",
        "/healthz",
        "/livez",
        "/metrics",
        "/openapi/v2",
        "/openapi/v3",
        "/openid/v1/jwks",
        "/readyz",
        "/version",
        "/.well-known/openid-configuration",
    ]
    .map(str::to_owned)
    .to_vec();
    for (group, versions) in grouped().into_iter().filter(|(group, _)| !group.is_empty()) {
        paths.push(format!("/apis/{group}"));
        paths.extend(versions.iter().map(|version| format!("/apis/{group}/{version}")));
    }
    paths.sort();
    paths
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// Names that a reference document lists, as `group/version/resource[/subresource]`.
    fn listed(document: &Value) -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        for group in document["items"].as_array().unwrap() {
            let name = group["metadata"]["name"].as_str().unwrap_or_default();
            for version in group["versions"].as_array().unwrap() {
                for resource in version["resources"].as_array().unwrap() {
                    let base = format!(
                        "{name}/{}/{}",
                        version["version"].as_str().unwrap(),
                        resource["resource"].as_str().unwrap()
                    );
                    let verbs = resource["verbs"].to_string();
                    for sub in resource["subresources"].as_array().into_iter().flatten() {
                        names.insert(format!(
                            "{base}/{} {}",
                            sub["subresource"].as_str().unwrap(),
                            sub["responseKind"]["kind"].as_str().unwrap()
                        ));
                    }
                    names.insert(format!("{base} {verbs}"));
                }
            }
        }
        names
    }

    #[test]
    fn what_is_published_is_published_by_kubernetes_too() {
        let path =
            concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/spec/discovery-aggregated-1.36.json");
        let Ok(text) = std::fs::read_to_string(path) else {
            // Only the project's own checkout has the reference beside it.
            assert!(
                !std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/spec")).exists()
            );
            return;
        };
        let reference = listed(&serde_json::from_str(&text).unwrap());
        let own = listed(&aggregated(false));
        assert_eq!(own.difference(&reference).collect::<Vec<_>>(), Vec::<&String>::new());
    }
}
