//! Discovery, legacy (`APIGroupList`, `APIResourceList`) and aggregated (apidiscovery.k8s.io/v2).

use crate::catalogue::Added;
use api::custom::version_rank;
use api::kinds::{Kind, Subresource, group_versions, served};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::cmp::Reverse;
use std::collections::HashMap;

/// The groups in order, each with its versions; the core group is "".
fn grouped(added: &Added) -> Vec<(&'static str, Vec<&'static str>)> {
    let mut groups: Vec<(&str, Vec<&str>)> = Vec::new();
    let mut places: HashMap<&str, usize> = HashMap::new();
    let customs = added.customs().iter().map(|custom| (custom.kind.group, custom.kind.version));
    for (group, version) in group_versions().into_iter().chain(customs) {
        let place = *places.entry(group).or_insert(groups.len());
        match groups.get_mut(place) {
            Some((_, versions)) if versions.contains(&version) => {}
            Some((_, versions)) => versions.push(version),
            None => groups.push((group, vec![version])),
        }
    }
    // Stable versions are preferred, whatever the order of rows.
    for (_, versions) in &mut groups {
        versions.sort_by_cached_key(|version| Reverse(version_rank(version)));
    }
    groups
}

fn version_entry(group: &str, version: &str) -> Value {
    json!({"groupVersion": format!("{group}/{version}"), "version": version})
}

fn group_entry(group: &str, versions: &[&str]) -> Value {
    let entries: Vec<Value> = versions.iter().map(|version| version_entry(group, version)).collect();
    json!({"name": group, "versions": entries, "preferredVersion": entries[0]})
}

/// `/api`. Every client is to go on where it found the server.
pub(super) fn core_versions(host: &str) -> Value {
    let addresses = json!([{"clientCIDR": "0.0.0.0/0", "serverAddress": host}]);
    json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": addresses})
}

/// `/apis`.
pub(super) fn groups(added: &Added) -> Value {
    let groups: Vec<Value> = grouped(added)
        .iter()
        .filter(|(group, _)| !group.is_empty())
        .map(|(group, versions)| group_entry(group, versions))
        .collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `/apis/GROUP`.
pub(super) fn group(added: &Added, name: &str) -> Option<Value> {
    let groups = grouped(added);
    let (group, versions) = groups.iter().find(|(group, _)| *group == name && !name.is_empty())?;
    let mut entry = group_entry(group, versions);
    entry["kind"] = json!("APIGroup");
    entry["apiVersion"] = json!("v1");
    Some(entry)
}

/// The kinds of a group version, in the order of their resources.
fn kinds_of(added: &Added, group: &str, version: &str) -> Vec<&'static Kind> {
    let all = served().chain(added.customs().iter().map(|custom| custom.kind));
    let mut kinds: Vec<_> = all.filter(|kind| kind.group == group && kind.version == version).collect();
    kinds.sort_by_key(|kind| kind.plural);
    kinds
}

/// What all forms of discovery say of a kind by the same names.
fn words(kind: &Kind) -> Value {
    let mut entry = json!({"verbs": kind.verbs});
    if !kind.short_names.is_empty() {
        entry["shortNames"] = json!(kind.short_names);
    }
    if !kind.categories.is_empty() {
        entry["categories"] = json!(kind.categories);
    }
    entry
}

/// `storageVersionHash`: equal for all versions that are forms of the same stored objects.
fn storage_hash(kind: &'static Kind) -> String {
    let stored = kind.stored_as().unwrap_or(kind);
    let name = format!("{}/{}/{}", stored.group, stored.version, stored.kind);
    STANDARD.encode(&ring::digest::digest(&ring::digest::SHA256, name.as_bytes()).as_ref()[..8])
}

fn resource(kind: &'static Kind) -> Value {
    let mut entry = words(kind);
    entry["name"] = json!(kind.plural);
    entry["singularName"] = json!(kind.singular());
    entry["namespaced"] = json!(kind.namespaced);
    entry["kind"] = json!(kind.kind);
    if kind.stored() {
        entry["storageVersionHash"] = storage_hash(kind).into();
    }
    entry
}

fn subresource(kind: &Kind, door: &Subresource) -> Value {
    let mut entry = json!({
        "name": format!("{}/{}", kind.plural, door.name), "singularName": "", "namespaced": kind.namespaced,
        "kind": door.kind_of(kind), "verbs": door.verbs,
    });
    if !door.version.is_empty() {
        entry["group"] = json!(door.group);
        entry["version"] = json!(door.version);
    }
    entry
}

/// `/api/v1` or `/apis/GROUP/VERSION`.
pub(super) fn resources(added: &Added, group: &str, version: &str) -> Option<Value> {
    let with_doors = |kind: &'static Kind| {
        [resource(kind)].into_iter().chain(kind.subresources.iter().map(|door| subresource(kind, door)))
    };
    let kinds = kinds_of(added, group, version);
    let group_version = kinds.first()?.api_version();
    let entries: Vec<Value> = kinds.into_iter().flat_map(with_doors).collect();
    let mut list = json!({"kind": "APIResourceList", "groupVersion": group_version, "resources": entries});
    // The oldest document has never said its own version.
    if !group.is_empty() {
        list["apiVersion"] = json!("v1");
    }
    Some(list)
}

/// `/api` and `/apis` as one document for all groups.
pub(super) fn aggregated(added: &Added, core: bool) -> Value {
    let version = |group: &str, version: &&str| {
        let resources: Vec<Value> =
            kinds_of(added, group, version).into_iter().map(aggregated_resource).collect();
        json!({"version": version, "resources": resources, "freshness": "Current"})
    };
    let item = |(group, versions): &(&str, Vec<&str>)| {
        let versions: Vec<Value> = versions.iter().map(|own| version(group, own)).collect();
        let metadata = if group.is_empty() { json!({}) } else { json!({"name": group}) };
        json!({"metadata": metadata, "versions": versions})
    };
    let items: Vec<Value> =
        grouped(added).iter().filter(|(group, _)| group.is_empty() == core).map(item).collect();
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items})
}

/// The kind that is answered; group and version are left empty where they are the document's own.
fn response_kind(group: &str, version: &str, kind: &str) -> Value {
    json!({"group": group, "version": version, "kind": kind})
}

fn aggregated_resource(kind: &'static Kind) -> Value {
    let mut entry = words(kind);
    entry["resource"] = json!(kind.plural);
    entry["responseKind"] = response_kind("", "", kind.kind);
    entry["scope"] = json!(if kind.namespaced { "Namespaced" } else { "Cluster" });
    entry["singularResource"] = json!(kind.singular());
    if !kind.subresources.is_empty() {
        let doors = kind.subresources.iter();
        entry["subresources"] = doors.map(|door| aggregated_subresource(kind, door)).collect();
    }
    entry
}

fn aggregated_subresource(kind: &Kind, door: &Subresource) -> Value {
    json!({
        "subresource": door.name,
        "responseKind": response_kind(door.group, door.version, &door.kind_of(kind)),
        "verbs": door.verbs,
    })
}

/// `/`: what can be asked for.
pub(super) fn paths(added: &Added) -> Vec<String> {
    let mut paths: Vec<String> = [
        "/api",
        "/api/v1",
        "/apis",
        "/metrics",
        "/metrics/slis",
        "/openapi/v2",
        "/openapi/v3",
        "/openid/v1/jwks",
        "/version",
        "/.well-known/openid-configuration",
    ]
    .map(str::to_owned)
    .to_vec();
    paths.extend(crate::http::health::paths());
    for (group, versions) in grouped(added).into_iter().filter(|(group, _)| !group.is_empty()) {
        paths.push(format!("/apis/{group}"));
        paths.extend(versions.iter().map(|version| format!("/apis/{group}/{version}")));
    }
    paths.sort();
    paths
}
